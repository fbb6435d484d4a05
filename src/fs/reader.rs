//! Which opens share a descriptor of the host, and what do they hear of lost data?
//!
//! Guests open the same headers, libraries and scripts again and again, and an open(2) with its close(2) costs the
//! host more than all else in serving an OPEN. The descriptor of an open that only reads has no state that one
//! open could disturb for another: offsets are in the requests, `O_APPEND` means nothing, and the flags are the same for
//! all. So it stays with the inode ([`HotDescriptors`](super::inode::HotDescriptors)), and whoever opens the
//! file for reading next gets it too.
//!
//! Not where locks are the host's (`--posix-lock`, `--flock`), because those belong to a descriptor; and not on a network
//! file system, where an open asks the server what is new.
//!
//! One thing a descriptor does remember: which errors of writeback its fsync(2) has reported (`errseq_t`). Each open has to
//! hear of each once, so the inode counts what a shared descriptor has told, and an open what it has heard.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Passthrough;
use super::inode::{Inode, PathFd};
use crate::fuse::Result;

/// The descriptor of an open file.
pub(super) struct Descriptor {
    /// The descriptor.
    pub(super) fd: Arc<OwnedFd>,
    /// Other opens may have the same.
    pub(super) shared: bool,
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd), shared: false }
    }
}

/// Opens a file, or finds it open.
///
/// # Errors
/// As [`Passthrough::reopen`].
pub(super) fn open(fs: &Passthrough, inode: &Arc<Inode>, flags: OFlags) -> Result<Descriptor> {
    // Nothing but O_NOATIME, which all opens have or none.
    let reads = flags.difference(OFlags::NOATIME) == OFlags::RDONLY;
    if !reads || fs.config.posix_lock || fs.config.flock {
        return fs.reopen(inode, flags).map(Descriptor::from);
    }
    if let Some(reader) = inode.reader() {
        return Ok(Descriptor { fd: reader.share(), shared: true });
    }
    let reader = PathFd::new(fs.reopen(inode, flags)?);
    let shared = !fs.locality.is_remote(inode.mount(), || Ok(&reader));
    if shared {
        fs.hot.keep(inode, &reader, true);
    }
    Ok(Descriptor { fd: reader.share(), shared })
}

/// How often a shared descriptor has told of lost data.
#[derive(Debug, Default)]
pub(crate) struct WriteErrors(AtomicU32);

/// How often an open has heard of it.
#[derive(Debug)]
pub(super) struct Heard(AtomicU32);

impl WriteErrors {
    /// What an open knows that begins now: what was told before is not for it.
    pub(super) fn begin(&self) -> Heard {
        Heard(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }

    /// The result of an fsync for one of the opens, where the shared descriptor said `outcome`.
    ///
    /// # Errors
    /// Those of `outcome`, and `EIO` where another open got to hear of lost data in place of this one.
    pub(super) fn tell(&self, heard: &Heard, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        let told = self.0.load(Ordering::Relaxed);
        let news = heard.0.swap(told, Ordering::Relaxed) != told;
        outcome.and(if news { Err(Errno::IO) } else { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_open_hears_of_each_loss_once() {
        let errors = WriteErrors::default();
        let (first, second) = (errors.begin(), errors.begin());
        assert_eq!(errors.tell(&first, Ok(())), Ok(()));
        assert_eq!(errors.tell(&first, Err(Errno::NOSPC)), Err(Errno::NOSPC));
        assert_eq!(errors.tell(&first, Ok(())), Ok(()));
        let third = errors.begin();
        assert_eq!(errors.tell(&third, Ok(())), Ok(()));
        assert_eq!(errors.tell(&second, Ok(())), Err(Errno::IO));
        assert_eq!(errors.tell(&second, Ok(())), Ok(()));
        assert_eq!(errors.tell(&third, Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(errors.tell(&third, Ok(())), Ok(()));
        assert_eq!(errors.tell(&second, Ok(())), Err(Errno::IO));
    }
}
