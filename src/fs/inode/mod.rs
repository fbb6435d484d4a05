//! What does the daemon know of a file that the guest knows?

mod file_handle;
mod hot;
mod identity;
mod mounts;
mod table;
#[cfg(test)]
mod table_tests;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, Statx};

use super::io_mode::OpenState;
use super::reader::WriteErrors;
use crate::fuse::{NodeId, Result};
use crate::metrics::Taken;
pub(crate) use file_handle::FileHandle;
pub(crate) use hot::{HotDescriptors, PathFd};
pub(crate) use identity::{BirthTime, Identity, STATX_MASK, STATX_NAME};
pub(crate) use mounts::{Mount, Mounts, handles_are_refused};
pub(crate) use table::{Acquired, InodeTable, Inserted};

/// How the file is reached.
#[derive(Debug)]
pub(crate) enum Reference {
    /// By a descriptor of its own, which also keeps the host from giving its inode number away, and what that takes of the
    /// limit; the share's root takes nothing.
    Descriptor {
        /// Of the `O_PATH` sort.
        fd: PathFd,
        /// Of the limit.
        _room: Option<Taken>,
    },
    /// By a file handle, opened through a descriptor on its mount.
    Handle(FileHandle, Arc<Mount>),
}

/// The descriptor that an inode keeps for a while.
#[derive(Debug, Default)]
struct Hot {
    fd: Option<PathFd>,
    /// It is open for reading, and not only `O_PATH`.
    reads: bool,
}

/// A file that the guest knows.
///
/// A guest may know millions, so this is kept small (`an_inode_is_small` says how small).
#[derive(Debug)]
pub(crate) struct Inode {
    node: NodeId,
    identity: Identity,
    birth: BirthTime,
    reference: Reference,
    /// References that the guest holds. Raised only under the lock of the identity's shard, see
    /// [`InodeTable`].
    nlookup: AtomicU64,
    /// The descriptor that [`HotDescriptors`] lets it keep.
    hot: Mutex<Hot>,
    /// What the opens hear that read through that descriptor together.
    pub(crate) write_errors: WriteErrors,
    /// What the opens of this file share; the module of the I/O mode owns it.
    pub(crate) open_state: Mutex<OpenState>,
    kind: FileType,
    /// `identity` and `birth` together can only be this file, now and later.
    settled: AtomicBool,
    /// `hot` was used since the clock's hand came by.
    used: AtomicBool,
}

impl Inode {
    /// The file that `stat` describes. It is given its nodeid and its first reference when it is
    /// inserted in the table.
    pub(crate) fn new(stat: &Statx, reference: Reference) -> Self {
        let birth = BirthTime::of(stat);
        Self {
            node: NodeId(0),
            identity: Identity::of(stat),
            birth,
            reference,
            nlookup: AtomicU64::new(0),
            hot: Mutex::default(),
            write_errors: WriteErrors::default(),
            open_state: Mutex::default(),
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            settled: AtomicBool::new(birth.is_past()),
            used: AtomicBool::new(false),
        }
    }

    /// The guest's number for it.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Its type, which never changes.
    pub(crate) fn kind(&self) -> FileType {
        self.kind
    }

    /// The id of the mount it is on.
    pub(crate) fn mount(&self) -> u32 {
        self.identity.mount()
    }

    /// Its inode number on the host.
    pub(crate) fn ino(&self) -> u64 {
        self.identity.ino()
    }

    /// Whether the file that `stat` describes, which has the same identity, is certainly this one.
    pub(crate) fn is_certainly(&self, stat: &Statx) -> bool {
        self.has_kind_of(stat)
            && match self.reference {
                Reference::Descriptor { .. } => true,
                Reference::Handle(..) => {
                    self.settled.load(Ordering::Relaxed) && self.birth == BirthTime::of(stat)
                }
            }
    }

    /// Whether the file that `stat` describes, which has the same identity, is this one, told by its
    /// handle. Remembers that no handle has to be compared the next time, if that is so.
    pub(crate) fn has_handle(&self, stat: &Statx, handle: Option<&FileHandle>) -> bool {
        match &self.reference {
            Reference::Descriptor { .. } => self.has_kind_of(stat),
            Reference::Handle(own, _) => {
                let same = handle == Some(own);
                if same && !self.settled.load(Ordering::Relaxed) {
                    self.settled.store(self.birth.is_past(), Ordering::Relaxed);
                }
                same
            }
        }
    }

    fn has_kind_of(&self, stat: &Statx) -> bool {
        self.kind == FileType::from_raw_mode(stat.stx_mode.into())
    }

    /// The descriptor that is at hand, if one is.
    pub(crate) fn hot(&self) -> Option<PathFd> {
        if let Reference::Descriptor { fd, .. } = &self.reference {
            return Some(fd.clone());
        }
        let fd = self.hot.lock().fd.clone()?;
        self.used.store(true, Ordering::Relaxed);
        Some(fd)
    }

    /// The descriptor that is at hand and open for reading, if one is.
    pub(crate) fn reader(&self) -> Option<PathFd> {
        let hot = self.hot.lock();
        let fd = hot.fd.as_ref().filter(|_| hot.reads)?.clone();
        self.used.store(true, Ordering::Relaxed);
        Some(fd)
    }

    /// Opens the file anew by its handle; none where it has a descriptor instead.
    pub(crate) fn open_by_handle(&self, flags: OFlags) -> Option<Result<OwnedFd>> {
        use std::os::fd::AsFd;
        match &self.reference {
            Reference::Descriptor { .. } => None,
            Reference::Handle(handle, mount) => Some(handle.open(mount.as_fd(), flags)),
        }
    }

    /// Whether this is a file by handle whose handle is the one of `name` in `dir`.
    pub(crate) fn is_named(&self, dir: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &Statx) -> bool {
        FileHandle::of(dir, name).is_ok_and(|handle| self.has_handle(stat, Some(&handle)))
    }

    /// Leaves a descriptor here: a first one, or one that can also be read (`reads`) in place of one that cannot.
    /// Returns whether the inode holds one more than before, and what had to give way, for the caller to drop
    /// without a lock.
    fn set_hot(&self, fd: &PathFd, reads: bool) -> (bool, Option<PathFd>) {
        let mut hot = self.hot.lock();
        let wanted = match &hot.fd {
            // One of its own needs no second that can do no more.
            None => reads || matches!(self.reference, Reference::Handle(..)),
            Some(_) => reads && !hot.reads,
        };
        if !wanted {
            return (false, None);
        }
        hot.reads = reads;
        let before = hot.fd.replace(fd.clone());
        (before.is_none(), before)
    }

    fn take_hot(&self) -> Option<PathFd> {
        std::mem::take(&mut *self.hot.lock()).fd
    }

    fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_small() {
        assert!(size_of::<Inode>() <= 128, "{}", size_of::<Inode>());
    }
}
