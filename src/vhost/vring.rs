//! What the front-end has said about one virtqueue, and the ring that runs on it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Device, RingRuntime};
use crate::ring::{DirtyLog, GuestMemory, Notifiers, Ring, RingConfig, Service, Surroundings};

/// Queue size limit of a split virtqueue (virtio 1.2, section 2.7).
pub(super) const MAX_QUEUE_SIZE: u32 = 32768;

/// Where a virtqueue lies, in the front-end's addresses (SET_VRING_ADDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// What the connection knows and a ring needs.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) memory: &'a Arc<GuestMemory>,
    /// The dirty log, while it is to be kept.
    pub(super) dirty_log: Option<&'a Arc<DirtyLog>>,
    pub(super) event_idx: bool,
    pub(super) indirect: bool,
    pub(super) runtime: &'a RingRuntime,
}

/// One virtqueue. It runs from the kick descriptor on, as far as it is enabled (vhost-user, "Ring
/// states"), until GET_VRING_BASE.
pub(super) struct Vring {
    device: &'static str,
    index: u16,
    service: Arc<dyn Service>,
    rest: Duration,
    size: Option<u16>,
    addresses: Option<Addresses>,
    /// Guest physical address of the used ring, where its changes are to be logged.
    log_address: Option<u64>,
    base: u16,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    err: Option<OwnedFd>,
    enabled: bool,
    running: Option<Ring>,
}

impl Vring {
    pub(super) fn new(device: &dyn Device, index: u16) -> Self {
        Self {
            device: device.name(),
            index,
            service: device.service(index),
            rest: device.rest(index),
            size: None,
            addresses: None,
            log_address: None,
            base: 0,
            kick: None,
            call: None,
            err: None,
            enabled: false,
            running: None,
        }
    }

    pub(super) fn set_size(&mut self, size: u32) -> io::Result<()> {
        self.must_be_stopped("SET_VRING_NUM")?;
        match u16::try_from(size) {
            Ok(size) if size.is_power_of_two() && u32::from(size) <= MAX_QUEUE_SIZE => {
                self.size = Some(size);
                Ok(())
            }
            _ => Err(invalid(format!(
                "queue {}: size {size} is not a power of two up to {MAX_QUEUE_SIZE}",
                self.index
            ))),
        }
    }

    /// Where the rings are, in the front-end's addresses. Of a running ring only the logging of the
    /// used ring may change.
    pub(super) fn set_addresses(&mut self, addresses: Addresses, log_address: Option<u64>) -> io::Result<()> {
        if self.running.is_some() && self.addresses != Some(addresses) {
            return self.must_be_stopped("SET_VRING_ADDR");
        }
        self.addresses = Some(addresses);
        self.log_address = log_address;
        self.running.as_ref().map_or(Ok(()), |ring| ring.set_log_address(log_address))
    }

    pub(super) fn set_base(&mut self, base: u32) -> io::Result<()> {
        self.must_be_stopped("SET_VRING_BASE")?;
        self.base = u16::try_from(base)
            .map_err(|_| invalid(format!("queue {}: base {base} is not an index of a ring", self.index)))?;
        Ok(())
    }

    pub(super) fn set_call(&mut self, call: Option<File>) -> io::Result<()> {
        self.call = call.map(OwnedFd::from);
        match &self.running {
            Some(ring) => ring.set_call(duplicate(self.call.as_ref())?),
            None => Ok(()),
        }
    }

    pub(super) fn set_err(&mut self, err: Option<File>) -> io::Result<()> {
        self.err = err.map(OwnedFd::from);
        match &self.running {
            Some(ring) => ring.set_err(duplicate(self.err.as_ref())?),
            None => Ok(()),
        }
    }

    /// The kick descriptor starts the ring; a new one for a running ring replaces the old.
    pub(super) fn set_kick(&mut self, kick: Option<File>, around: Around<'_>) -> io::Result<()> {
        let Some(kick) = kick else {
            return Err(invalid(format!(
                "queue {}: polled rings (no kick descriptor) are not served",
                self.index
            )));
        };
        self.halt();
        self.kick = Some(kick.into());
        self.start_if_ready(around)
    }

    pub(super) fn set_enabled(&mut self, enabled: bool, around: Around<'_>) -> io::Result<()> {
        self.enabled = enabled;
        match &self.running {
            Some(ring) => ring.set_enabled(enabled),
            None => self.start_if_ready(around),
        }
    }

    pub(super) fn set_memory(&mut self, memory: &Arc<GuestMemory>) -> io::Result<()> {
        self.running.as_ref().map_or(Ok(()), |ring| ring.set_memory(Arc::clone(memory)))
    }

    pub(super) fn set_dirty_log(&mut self, log: Option<&Arc<DirtyLog>>) -> io::Result<()> {
        self.running.as_ref().map_or(Ok(()), |ring| ring.set_dirty_log(log.cloned()))
    }

    /// GET_VRING_BASE: drains and stops the ring; the next index that it would have taken. The
    /// descriptors go with it, as the next start brings its own.
    pub(super) fn stop(&mut self) -> u16 {
        self.halt();
        self.kick = None;
        self.call = None;
        self.base
    }

    fn halt(&mut self) {
        if let Some(ring) = self.running.take() {
            self.base = ring.stop().next_avail;
        }
    }

    /// A ring exists once it was both kicked and enabled; a front-end enables before or after.
    fn start_if_ready(&mut self, around: Around<'_>) -> io::Result<()> {
        let Some(kick) = self.kick.as_ref().filter(|_| self.enabled) else {
            return Ok(());
        };
        let (Some(size), Some(addresses)) = (self.size, self.addresses) else {
            return Err(invalid(format!(
                "queue {}: kicked before its size and addresses were set",
                self.index
            )));
        };
        let config = RingConfig {
            name: format!("{}-{}", self.device, self.index),
            size,
            descriptors: addresses.descriptors,
            available: addresses.available,
            used: addresses.used,
            log_address: self.log_address,
            next_avail: self.base,
            event_idx: around.event_idx,
            indirect: around.indirect,
            enabled: true,
        };
        let notifiers = Notifiers {
            kick: kick.try_clone()?,
            call: duplicate(self.call.as_ref())?,
            err: duplicate(self.err.as_ref())?,
        };
        let surroundings = Surroundings {
            memory: Arc::clone(around.memory),
            dirty_log: around.dirty_log.cloned(),
            service: Arc::clone(&self.service),
            offload: Arc::clone(&around.runtime.offload),
            options: around.runtime.options_of(self.index, self.rest),
        };
        self.running = Some(Ring::start(config, notifiers, surroundings)?);
        Ok(())
    }

    fn must_be_stopped(&self, message: &str) -> io::Result<()> {
        match self.running {
            Some(_) => Err(invalid(format!("queue {}: {message} while the ring runs", self.index))),
            None => Ok(()),
        }
    }
}

fn duplicate(fd: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    fd.map(OwnedFd::try_clone).transpose()
}

pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
