//! Which bounds are there on what the guest can make the daemon hold?

use std::sync::Arc;

use rustix::io::Errno;

use super::config::Limits;
use crate::fuse::Result;
use crate::metrics::{Limit, Taken};

/// What part of the descriptors is for opens alone: a guest that knows too many files, each by a descriptor, can still
/// open those that it knows.
const FOR_OPENS: usize = 8;

/// One for each bound of [`Limits`] that refuses something, under the name of its option.
#[derive(Debug)]
pub(super) struct Bounds {
    descriptors: Arc<Limit>,
    pub(super) nodes: Arc<Limit>,
    handles: Arc<Limit>,
    window_opens: Arc<Limit>,
    pub(super) locks: Arc<Limit>,
    pub(super) lock_waiters: Arc<Limit>,
    pub(super) allocate: Arc<Limit>,
    pub(super) xattr: Arc<Limit>,
}

impl Bounds {
    pub(super) fn new(limits: &Limits) -> Self {
        let limit = |name, max| Arc::new(Limit::new(name, max));
        Self {
            descriptors: limit("the guest's part of --rlimit-nofile", limits.max_descriptors),
            nodes: limit("--max-nodes", limits.max_nodes),
            handles: limit("--max-handles", limits.max_handles),
            window_opens: limit("--max-window-files", limits.max_window_opens),
            locks: limit("--max-locks", limits.max_locks),
            lock_waiters: limit("--max-lock-waiters", limits.max_lock_waiters),
            allocate: limit("--max-allocate", limits.max_allocate),
            xattr: limit("--max-xattr", limits.max_xattr),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Limit>> {
        let Self { descriptors, nodes, handles, window_opens, locks, lock_waiters, allocate, xattr } = self;
        [descriptors, nodes, handles, window_opens, locks, lock_waiters, allocate, xattr]
            .map(Arc::clone)
            .into()
    }

    /// Room for a file or directory that the guest opens, to be had before the open has any effect.
    ///
    /// # Errors
    /// `ENFILE`: there is none.
    pub(super) fn open(&self) -> Result<Room> {
        let handle = self.handles.hold(0).ok_or(Errno::NFILE)?;
        Ok(Room { _handle: handle, _descriptor: self.passing()? })
    }

    /// Room for a file that the window, or a pin, opens, with two descriptors.
    ///
    /// # Errors
    /// `ENFILE`: there is none.
    pub(super) fn window_open(&self) -> Result<Taken> {
        self.window_opens.hold(0).ok_or(Errno::NFILE)
    }

    /// Room for a descriptor that one request needs, until it is done.
    ///
    /// # Errors
    /// `ENFILE`: there is none.
    pub(super) fn passing(&self) -> Result<Taken> {
        self.descriptors.hold(0).ok_or(Errno::NFILE)
    }

    /// Room for a descriptor that is kept for the guest, for anything but an open.
    ///
    /// # Errors
    /// `ENFILE`: there is none, but perhaps for opens.
    pub(super) fn descriptor(&self) -> Result<Taken> {
        self.descriptors.hold(self.descriptors.max() / FOR_OPENS).ok_or(Errno::NFILE)
    }
}

/// The room of one handle and its descriptor, until the descriptor is closed.
#[derive(Debug)]
pub(super) struct Room {
    _handle: Taken,
    _descriptor: Taken,
}
