//! By what do threads wait for each other and wake each other?
//!
//! What hands requests and changes from thread to thread ([`control`](super::control), [`offload`](super::offload)) takes
//! its means from here, and from nowhere else. So its source can be compiled a second time over other means, which try
//! every order of events: see `model.rs`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) use std::sync::mpsc::{SyncSender, sync_channel};

pub(super) use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

/// Starts a thread that nobody waits for.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// An eventfd by which a thread is woken that may be waiting for other descriptors, too.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    /// One that nobody has signalled.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes who waits, or who will wait next.
    pub(super) fn signal(&self) {
        signal(self.0.as_fd());
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Adds one to an eventfd. An eventfd that is full has been signalled already, and a peer that closed
/// its end wants no signal: no error matters.
pub(super) fn signal(eventfd: BorrowedFd<'_>) {
    let outcome = rustix::io::retry_on_intr(|| rustix::io::write(eventfd, &1u64.to_ne_bytes()));
    if let Err(error) = outcome {
        tracing::debug!("cannot signal an eventfd: {error}");
    }
}
