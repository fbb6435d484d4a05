//! How does the device start, change and stop a ring?
//!
//! A [`Ring`] is the remote control of one ring thread. It starts from plain data, so that whoever
//! speaks the protocol (a vhost-user handler today, a process that took the ring over tomorrow) needs to
//! share no type with it. Every change is a message that the thread takes between two requests; the
//! methods return when it has taken effect.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::{Change, Controls};
use super::dirty_log::DirtyLog;
use super::engine;
use super::memory::GuestMemory;
use super::offload::Offload;
use super::service::Service;
use super::worker;
use crate::metrics::Limit;

/// Where a virtqueue lies and how it is to be read: plain data.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Names the thread and the messages about it; Linux shows the first 15 bytes of it.
    pub name: String,
    /// Number of descriptors: a power of two, 1 to 32768 (SET_VRING_NUM).
    pub size: u16,
    /// Front-end address of the descriptor table, a multiple of 16.
    pub descriptors: u64,
    /// Front-end address of the available ring, a multiple of 2.
    pub available: u64,
    /// Front-end address of the used ring, a multiple of 4.
    pub used: u64,
    /// Guest physical address of the used ring, where its own pages are to be logged
    /// (`VHOST_VRING_F_LOG`).
    pub log_address: Option<u64>,
    /// The index in the available ring to start at (SET_VRING_BASE).
    pub next_avail: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
    /// Whether the ring takes requests from the start; see [`Ring::set_enabled`].
    pub enabled: bool,
}

/// The eventfds of a ring. A front-end that gives no kick wants the ring polled, which this device does
/// not do: it cannot be started.
#[derive(Debug)]
pub struct Notifiers {
    /// Signalled by the front-end when requests are available.
    pub kick: OwnedFd,
    /// To be signalled when requests were used; none while the driver polls.
    pub call: Option<OwnedFd>,
    /// To be signalled when the ring is broken.
    pub err: Option<OwnedFd>,
}

/// How bytes are moved between files and guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring where the host has and permits it, otherwise threads.
    #[default]
    Auto,
    /// io_uring, or the ring does not start.
    Uring,
    /// System calls on a few threads of the ring.
    Threads,
}

/// What the rings of this host will have.
#[derive(Debug)]
pub struct EngineChoice {
    /// [`Uring`](EngineKind::Uring) or [`Threads`](EngineKind::Threads).
    pub kind: EngineKind,
    /// Why it is not io_uring, where that was wanted.
    pub instead: Option<io::Error>,
    /// Why the io_uring takes more requests than it is to be asked for, where the host permits no restrictions.
    pub unrestricted: Option<io::Error>,
}

impl EngineKind {
    /// The engine that a ring of this kind will have on this host.
    ///
    /// # Errors
    ///
    /// Why the host permits no io_uring, where nothing else will do.
    pub fn choose(self) -> io::Result<EngineChoice> {
        let threads = |instead| EngineChoice { kind: Self::Threads, instead, unrestricted: None };
        if self == Self::Threads {
            return Ok(threads(None));
        }
        match engine::probe_uring() {
            Ok(unrestricted) => Ok(EngineChoice { kind: Self::Uring, instead: None, unrestricted }),
            Err(error) if self == Self::Auto => Ok(threads(Some(error))),
            Err(error) => Err(error),
        }
    }
}

/// What a ring may choose.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// How bytes are moved.
    pub engine: EngineKind,
    /// The CPU that the thread is to stay on.
    pub cpu: Option<usize>,
    /// How long a ring that runs empty looks for work before it sleeps, at most; zero sleeps at once.
    pub busy_poll: Duration,
    /// Nobody waits for what this ring answers: after some requests it rests so long, without being kicked, before
    /// it looks for more, so that one wake-up serves many. Zero does not rest. A queue that fills up is served
    /// at once all the same.
    pub rest: Duration,
    /// How many requests of the ring may be in flight, fewer than it has descriptors where that is less. No more are taken
    /// meanwhile: the driver waits.
    pub in_flight: Arc<Limit>,
    /// How many bytes of requests in flight may be kept, copies of what the guest sent. Beyond it none is taken, but one
    /// that is taken may pass it.
    pub kept_bytes: Arc<Limit>,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            cpu: None,
            busy_poll: Duration::ZERO,
            rest: Duration::ZERO,
            in_flight: Arc::new(Limit::new("--max-in-flight", 32_768)),
            kept_bytes: Arc::new(Limit::new("--max-kept-bytes", 64 << 20)),
        }
    }
}

/// What a ring works with.
#[derive(Clone)]
pub struct Surroundings {
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// Where to mark what was written, while a migration runs.
    pub dirty_log: Option<Arc<DirtyLog>>,
    /// What requests mean.
    pub service: Arc<dyn Service>,
    /// Threads for requests that may take long, shared by all rings.
    pub offload: Arc<Offload>,
    /// What a ring may choose.
    pub options: RingOptions,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Surroundings").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What is left of a ring that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The index in the available ring to go on at: the answer to GET_VRING_BASE. Every request before
    /// it was answered.
    pub next_avail: u16,
}

/// A running ring. Dropping it stops it as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct Ring {
    name: String,
    controls: Arc<Controls>,
    thread: Option<JoinHandle<Stopped>>,
}

impl Ring {
    /// Starts the thread of a ring; returns when it serves (or, not yet enabled, when it could).
    ///
    /// # Errors
    ///
    /// `InvalidInput` where size, address or alignment make no virtqueue; otherwise what creating the
    /// thread, an eventfd or the io_uring said.
    pub fn start(config: RingConfig, notifiers: Notifiers, surroundings: Surroundings) -> io::Result<Self> {
        let name = config.name.clone();
        let controls = Arc::new(Controls::new()?);
        let (ready, started) = mpsc::sync_channel(1);
        let theirs = Arc::clone(&controls);
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || worker::run(config, notifiers, surroundings, &theirs, ready))?;
        let ended = |_| Err(io::Error::other(format!("the thread of ring {name} ended at its start")));
        match started.recv().unwrap_or_else(ended) {
            Ok(()) => Ok(Self { name, controls, thread: Some(thread) }),
            Err(error) => {
                // It is on its way out, and must not keep the guest's memory and eventfds beyond our answer.
                let _ = thread.join();
                Err(error)
            }
        }
    }

    /// Uses another table of guest memory for every request from now on. Requests in flight keep theirs
    /// until they are answered.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the new table does not hold the virtqueue; the ring then takes no
    /// request until it gets one that does.
    pub fn set_memory(&self, memory: Arc<GuestMemory>) -> io::Result<()> {
        self.change(Change::Memory(memory))
    }

    /// Replaces the eventfd that tells the driver of used requests. The new one is signalled once, as
    /// what was used meanwhile may not have been told.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` where the thread is gone; the same holds for the methods below.
    pub fn set_call(&self, call: Option<OwnedFd>) -> io::Result<()> {
        self.change(Change::Call(call))
    }

    /// Replaces the eventfd that tells the front-end of a broken ring.
    ///
    /// # Errors
    ///
    /// As [`set_call`](Self::set_call).
    pub fn set_err(&self, err: Option<OwnedFd>) -> io::Result<()> {
        self.change(Change::Err(err))
    }

    /// Takes requests, or lets them lie (SET_VRING_ENABLE). What is in flight is answered in any case.
    ///
    /// # Errors
    ///
    /// As [`set_call`](Self::set_call).
    pub fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        self.change(Change::Enabled(enabled))
    }

    /// Marks what is written from now on in `log`, or no longer.
    ///
    /// # Errors
    ///
    /// As [`set_call`](Self::set_call).
    pub fn set_dirty_log(&self, log: Option<Arc<DirtyLog>>) -> io::Result<()> {
        self.change(Change::DirtyLog(log))
    }

    /// Changes where the used ring lies in guest physical memory, for the log of its own pages.
    ///
    /// # Errors
    ///
    /// As [`set_call`](Self::set_call).
    pub fn set_log_address(&self, address: Option<u64>) -> io::Result<()> {
        self.change(Change::LogAddress(address))
    }

    /// Takes no more requests, answers those in flight, ends the thread.
    ///
    /// Waits as long as the requests in flight take; those that wait for other guests are ended by
    /// [`Service::cancel_waits`].
    pub fn stop(mut self) -> Stopped {
        self.join()
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.controls.send(change)
    }

    fn join(&mut self) -> Stopped {
        let Some(thread) = self.thread.take() else { return Stopped { next_avail: 0 } };
        self.controls.stop();
        thread.join().unwrap_or_else(|_| {
            tracing::error!("the thread of ring {} panicked; its index is lost", self.name);
            Stopped { next_avail: 0 }
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.join();
        }
    }
}
