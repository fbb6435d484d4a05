//! Through which descriptor are the file handles of a mount opened, and does that work at all?
//!
//! `open_by_handle_at(2)` wants a real descriptor (not `O_PATH`) of some file on the mount. The first
//! directory or regular file that is seen on a mount is opened for that purpose. The descriptor belongs
//! to the inodes of that mount: when the guest has forgotten the last of them it is closed, so the daemon
//! never keeps the host from unmounting what nobody uses. A mount is entered at its root, so this is the
//! root of the mount in practice, and not a file that somebody may delete meanwhile.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::file_handle::FileHandle;
use crate::fs::InodeFileHandles;
use crate::fuse::Result;
use crate::metrics::Taken;

/// A descriptor on a mount, and what it takes of the limit.
#[derive(Debug)]
pub(crate) struct Mount {
    fd: OwnedFd,
    _room: Option<Taken>,
}

impl AsFd for Mount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether this process may open no file by handle: then [`Mounts`] learns it from the share's root, and never tries again.
pub(crate) fn handles_are_refused(root: BorrowedFd<'_>) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(root, c".", flags, Mode::empty())
        .and_then(|mount| FileHandle::of(root, c"")?.open(mount.as_fd(), OFlags::PATH));
    opened.is_err_and(not_for_us)
}

/// File systems whose handles lead to a file only while the kernel remembers it (`statfs(2)`: FUSE, where the server does not say
/// otherwise, and FAT): they seem to work, until memory is short.
const FORGETFUL: [rustix::fs::FsWord; 2] = [0x6573_5546, 0x4d44];

/// Whether an error is about all files: the process lacks `CAP_DAC_READ_SEARCH`, or the kernel or a container knows nothing of
/// handles.
fn not_for_us(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::NOSYS)
}

/// The mounts that files are referred to by handle on.
pub(crate) struct Mounts {
    policy: InodeFileHandles,
    /// The process may open no file by handle: learned once, then not tried again.
    refused: AtomicBool,
    /// By mount id. A mount with a live descriptor stays, so its id cannot pass to another.
    open: Mutex<HashMap<u32, Weak<Mount>>>,
}

impl Mounts {
    pub(crate) fn new(policy: InodeFileHandles) -> Self {
        Self { policy, refused: AtomicBool::new(false), open: Mutex::default() }
    }

    /// The handle of the file that `fd` is open on, if files are to be referred to by handle and this one
    /// can be.
    ///
    /// # Errors
    /// Handles are mandatory and cannot be had, or the file cannot be examined.
    pub(crate) fn handle(&self, fd: BorrowedFd<'_>) -> Result<Option<FileHandle>> {
        if self.policy == InodeFileHandles::Never || self.refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match FileHandle::of(fd, c"") {
            Ok(handle) => Ok(Some(handle)),
            Err(error) => self.fall_back(error),
        }
    }

    /// The mount with this id, through which `handle`, the handle of the file that `fd` is open on, can
    /// be opened; none where it cannot.
    ///
    /// # Errors
    /// As [`handle`](Self::handle), and those of `room`, which is asked where one more descriptor is kept.
    pub(crate) fn mount(
        &self,
        id: u32,
        fd: BorrowedFd<'_>,
        kind: FileType,
        handle: &FileHandle,
        proc_self_fd: BorrowedFd<'_>,
        room: impl FnOnce() -> Result<Option<Taken>>,
    ) -> Result<Option<Arc<Mount>>> {
        if let Some(mount) = self.open.lock().get(&id).and_then(Weak::upgrade) {
            return Ok(Some(mount));
        }
        // Anything else must not be opened: a FIFO would block, a device would act. It only arises where
        // such a file is itself mounted, or where no directory of its mount is known any more.
        if kind != FileType::Directory && kind != FileType::RegularFile {
            return self.fall_back(Errno::OPNOTSUPP);
        }
        if fstatfs(fd).is_ok_and(|volume| FORGETFUL.contains(&volume.f_type)) {
            return self.fall_back(Errno::OPNOTSUPP);
        }
        let room = room()?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(proc_self_fd, DecInt::from_fd(fd).as_c_str(), flags, Mode::empty())
            .and_then(|mount| handle.open(mount.as_fd(), OFlags::PATH).map(|_probe| mount));
        match opened {
            Ok(mount) => {
                let mount = Arc::new(Mount { fd: mount, _room: room });
                let mut open = self.open.lock();
                open.retain(|_, mount| mount.strong_count() > 0);
                open.insert(id, Arc::downgrade(&mount));
                Ok(Some(mount))
            }
            Err(error) => self.fall_back(error),
        }
    }

    /// Whether an error only means that handles cannot be used.
    fn fall_back<T>(&self, error: Errno) -> Result<Option<T>> {
        let unusable =
            not_for_us(error) || matches!(error, Errno::OPNOTSUPP | Errno::OVERFLOW | Errno::ACCESS);
        if self.policy == InodeFileHandles::Mandatory || !unusable {
            return Err(error);
        }
        if not_for_us(error) && !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "no file can be opened by handle, which takes CAP_DAC_READ_SEARCH ({error}): every file that \
                 the guest knows will cost a descriptor"
            );
        }
        Ok(None)
    }
}
