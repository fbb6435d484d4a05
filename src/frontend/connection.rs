//! How are memory and queues told to the daemon? The vhost-user handshake, in the order of QEMU.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::{Error, GuestMemory, Virtqueue};

/// What the driver would like to use where the device offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// EVENT_IDX: fewer kicks and signals.
    pub event_idx: bool,
    /// INDIRECT_DESC: one descriptor a chain.
    pub indirect: bool,
}

/// A connection whose features are agreed on and that has no memory yet.
pub struct Setup {
    frontend: Frontend,
    features: Features,
}

/// A device whose queues run. It ends when this is dropped.
pub struct Connection {
    frontend: Frontend,
    queues: usize,
    /// The device reads and writes it as long as the queues run.
    _memory: Arc<GuestMemory>,
}

fn vhost_user<T>(message: &'static str, result: vhost::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::VhostUser { message, source })
}

impl Setup {
    /// Agrees on features over a connected socket. `queues` counts all queues, the high-priority one included.
    ///
    /// # Errors
    /// The daemon does not speak vhost-user, or lacks something that every virtio-fs driver needs.
    pub fn new(stream: UnixStream, queues: u16, wanted: Features) -> Result<Self, Error> {
        let mut frontend = Frontend::from_stream(stream, u64::from(queues));
        vhost_user("SET_OWNER", frontend.set_owner())?;
        let offered = vhost_user("GET_FEATURES", frontend.get_features())?;
        let needed = 1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if offered & needed != needed {
            return Err(Error::Missing("VERSION_1 and protocol features"));
        }
        let agreed = |bit: u32, wish: bool| wish && offered & (1 << bit) != 0;
        let features = Features {
            event_idx: agreed(VIRTIO_RING_F_EVENT_IDX, wanted.event_idx),
            indirect: agreed(VIRTIO_RING_F_INDIRECT_DESC, wanted.indirect),
        };
        let bits = needed
            | u64::from(features.event_idx) << VIRTIO_RING_F_EVENT_IDX
            | u64::from(features.indirect) << VIRTIO_RING_F_INDIRECT_DESC;
        let protocol = vhost_user("GET_PROTOCOL_FEATURES", frontend.get_protocol_features())?;
        let protocol = protocol & (VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK);
        vhost_user("SET_PROTOCOL_FEATURES", frontend.set_protocol_features(protocol))?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let available = if protocol.contains(VhostUserProtocolFeatures::MQ) {
            vhost_user("GET_QUEUE_NUM", frontend.get_queue_num())?
        } else {
            // Without MQ there is no way to ask; every virtio-fs device has these two.
            2
        };
        if u64::from(queues) > available {
            return Err(Error::Missing("so many queues (--queues)"));
        }
        vhost_user("SET_FEATURES", frontend.set_features(bits))?;
        Ok(Self { frontend, features })
    }

    /// What was agreed on.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Hands memory and queues over and starts them all, in the order of `queues`, the high-priority one first.
    ///
    /// # Errors
    /// The daemon refused a message or went away.
    pub fn start<'a>(
        mut self,
        memory: &Arc<GuestMemory>,
        queues: impl ExactSizeIterator<Item = &'a Virtqueue>,
    ) -> Result<Connection, Error> {
        vhost_user("SET_MEM_TABLE", self.frontend.set_mem_table(&[memory.region()]))?;
        let count = queues.len();
        for (index, queue) in queues.enumerate() {
            let at = queue.addresses();
            let addresses = VringConfigData {
                queue_max_size: at.size,
                queue_size: at.size,
                flags: 0,
                desc_table_addr: memory.user_address(at.desc),
                used_ring_addr: memory.user_address(at.used),
                avail_ring_addr: memory.user_address(at.avail),
                log_addr: None,
            };
            vhost_user("SET_VRING_NUM", self.frontend.set_vring_num(index, at.size))?;
            vhost_user("SET_VRING_BASE", self.frontend.set_vring_base(index, 0))?;
            vhost_user("SET_VRING_ADDR", self.frontend.set_vring_addr(index, &addresses))?;
            vhost_user("SET_VRING_CALL", self.frontend.set_vring_call(index, queue.call()))?;
            vhost_user("SET_VRING_KICK", self.frontend.set_vring_kick(index, queue.kick()))?;
        }
        for index in 0..count {
            vhost_user("SET_VRING_ENABLE", self.frontend.set_vring_enable(index, true))?;
        }
        Ok(Connection { frontend: self.frontend, queues: count, _memory: Arc::clone(memory) })
    }
}

impl Connection {
    /// Stops all queues; the device has answered everything before, and touches memory no more.
    ///
    /// # Errors
    /// The daemon refused a message or went away.
    pub fn stop(self) -> Result<(), Error> {
        for index in 0..self.queues {
            vhost_user("GET_VRING_BASE", self.frontend.get_vring_base(index))?;
        }
        Ok(())
    }
}
