//! What has one owner locked of one file?

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::ranges::Ranges;
use super::record;
use crate::fs::sys_io;
use crate::fuse::{Lock, Result};
use crate::metrics::{Limit, Taken};

/// A descriptor, and the locks that it holds.
#[derive(Debug)]
pub(super) struct Held {
    /// And what it takes of the descriptors there are.
    fd: (OwnedFd, Taken),
    /// What the kernel keeps for it. Held while the kernel is asked, so that both change together.
    ranges: Mutex<Ranges>,
    limit: Arc<Limit>,
}

impl Held {
    /// No locks.
    ///
    /// # Errors
    /// `ENOLCK`: there is no room. And those of `open`.
    pub(super) fn new(limit: &Arc<Limit>, open: impl FnOnce() -> Result<(OwnedFd, Taken)>) -> Result<Self> {
        if !limit.take(1) {
            return Err(Errno::NOLCK);
        }
        let opened = open().inspect_err(|_| limit.give_back(1))?;
        Ok(Self { fd: opened, ranges: Mutex::default(), limit: Arc::clone(limit) })
    }

    /// What would be in this lock's way.
    pub(super) fn get(&self, lock: &mut libc::flock) -> Result<()> {
        sys_io::get_lock(self.fd.0.as_fd(), lock)
    }

    /// Takes a lock, changes it or gives it up, without waiting.
    ///
    /// # Errors
    /// `EAGAIN`: another is in the way. `ENOLCK`: there is no room for the records that would be left. And what the host
    /// says.
    pub(super) fn set(&self, lock: &Lock) -> Result<()> {
        let host = record::to_host(lock)?;
        let mut ranges = self.ranges.lock();
        // The host knows no byte behind this one.
        let change = ranges.set(lock.start, lock.end.min(i64::MAX.unsigned_abs()), lock.kind);
        let (more, fewer) = change.difference();
        if !self.limit.take(more) {
            ranges.undo(change);
            return Err(Errno::NOLCK);
        }
        if let Err(error) = sys_io::set_lock(self.fd.0.as_fd(), &host) {
            ranges.undo(change);
            self.limit.give_back(more);
            // POSIX allows either errno; Linux programs are used to EAGAIN.
            return Err(if error == Errno::ACCESS { Errno::AGAIN } else { error });
        }
        self.limit.give_back(fewer);
        Ok(())
    }

    /// Gives all of them up.
    ///
    /// # Errors
    /// What the host says; then they are held on.
    pub(super) fn release(&self) -> Result<()> {
        let mut ranges = self.ranges.lock();
        sys_io::set_lock(self.fd.0.as_fd(), &record::everything())?;
        self.limit.give_back(std::mem::take(&mut *ranges).len());
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.limit.give_back(1 + self.ranges.get_mut().len());
    }
}
