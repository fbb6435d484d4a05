//! Which open file is this handle?
//!
//! A handle (fh) is a number that is counted up and never given twice, so a stale one can only fail; and
//! it serves only requests for the file that it was opened on. The table is cut into shards, whose locks
//! are held for a map operation and never around I/O: a request holds the open file itself by reference
//! count, so that a RELEASE that overtakes it does no harm. What a thread served last it finds without
//! any lock ([`recent`]). How many there may be is not the table's business: an open file has its [`Room`].

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::directory::Stream;
use super::extents::Pin;
use super::inode::Inode;
use super::limits::Room;
use super::reader::Heard;
use super::recent::{self, TableId};
use crate::fuse::{DirectFile, Fh, HostFile, NodeId, Result};
use crate::metrics::Taken;

/// A power of two; enough that the threads of a few rings seldom meet.
const SHARDS: usize = 16;

/// A regular file that the guest has open.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// The file.
    pub(super) inode: Arc<Inode>,
    /// Through the host's page cache; neither `O_APPEND` nor `O_DIRECT`. See [`reader`](super::reader) for who shares
    /// it.
    pub(super) fd: Arc<OwnedFd>,
    /// Which losses of data this open has heard of, where `fd` may be another's too.
    pub(super) heard: Option<Heard>,
    /// Past it. Opened when first wanted; `None` in it: this file cannot be opened so.
    pub(super) direct: OnceLock<Option<(DirectFile, Taken)>>,
    /// How its bytes are moved, where the guest reaches them on the device too.
    pub(super) pin: OnceLock<Arc<Pin>>,
    /// `fd` can be read.
    pub(super) readable: bool,
    /// `fd` can be written.
    pub(super) writable: bool,
    /// What it takes of the limits. Last: it is given back when all is closed.
    pub(super) _room: Room,
}

impl HostFile for OpenFile {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        self.direct.get()?.as_ref().map(|(file, _)| file)
    }
}

/// A directory that the guest has open.
#[derive(Debug)]
pub(super) struct OpenDirectory {
    /// The directory.
    pub(super) inode: Arc<Inode>,
    /// Its descriptor.
    pub(super) fd: OwnedFd,
    /// How far it has been read. The lock serialises the READDIRs of one handle, whose position they
    /// share.
    pub(super) stream: Mutex<Stream>,
    /// What it takes of the limits, as for a file.
    pub(super) _room: Room,
}

/// What a handle stands for.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    /// A file.
    File(Arc<OpenFile>),
    /// A directory.
    Directory(Arc<OpenDirectory>),
}

impl Handle {
    /// The file or directory.
    pub(super) fn inode(&self) -> &Arc<Inode> {
        match self {
            Self::File(file) => &file.inode,
            Self::Directory(directory) => &directory.inode,
        }
    }

    fn node(&self) -> NodeId {
        self.inode().node()
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.fd.as_fd(),
            Self::Directory(directory) => directory.fd.as_fd(),
        }
    }
}

/// The handles of a mount.
#[derive(Debug)]
pub(super) struct HandleTable {
    id: TableId,
    shards: [RwLock<HashMap<u64, Handle>>; SHARDS],
    next: AtomicU64,
}

impl HandleTable {
    /// An empty table.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            shards: Default::default(),
            next: AtomicU64::new(1), // 0 means "no open" on the wire
        }
    }

    /// Gives an open file or directory its number.
    pub(super) fn insert(&self, handle: Handle) -> Fh {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(fh).write().insert(fh, handle);
        Fh(fh)
    }

    /// The file or directory behind `fh`.
    ///
    /// # Errors
    /// `EBADF`: there is no such handle, or it is another node's.
    pub(super) fn any(&self, node: NodeId, fh: Fh) -> Result<Handle> {
        let handle = self.shard(fh.0).read().get(&fh.0).cloned().ok_or(Errno::BADF)?;
        if handle.node() == node { Ok(handle) } else { Err(Errno::BADF) }
    }

    /// The file behind `fh`.
    ///
    /// # Errors
    /// `EBADF` as in [`any`](Self::any), or it is a directory.
    pub(super) fn file(&self, node: NodeId, fh: Fh) -> Result<Arc<OpenFile>> {
        if let Some(file) = recent::find(self.id, fh).filter(|file| file.inode.node() == node) {
            return Ok(file);
        }
        match self.any(node, fh)? {
            Handle::File(file) => {
                recent::remember(self.id, fh, &file);
                Ok(file)
            }
            Handle::Directory(_) => Err(Errno::BADF),
        }
    }

    /// The directory behind `fh`.
    ///
    /// # Errors
    /// `EBADF` as in [`any`](Self::any), or it is not a directory.
    pub(super) fn directory(&self, node: NodeId, fh: Fh) -> Result<Arc<OpenDirectory>> {
        match self.any(node, fh)? {
            Handle::Directory(directory) => Ok(directory),
            Handle::File(_) => Err(Errno::BADF),
        }
    }

    /// Takes the handle out of the table. Of two callers one gets it.
    ///
    /// # Errors
    /// `EBADF` as in [`any`](Self::any).
    pub(super) fn remove(&self, node: NodeId, fh: Fh) -> Result<Handle> {
        self.any(node, fh)?;
        self.shard(fh.0).write().remove(&fh.0).ok_or(Errno::BADF)
    }

    /// Takes every handle out of the table.
    pub(super) fn drain(&self) -> Vec<Handle> {
        let mut drained = Vec::new();
        for shard in &self.shards {
            drained.extend(shard.write().drain().map(|(_, handle)| handle));
        }
        drained
    }

    fn shard(&self, fh: u64) -> &RwLock<HashMap<u64, Handle>> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(fh).unwrap_or(0) % SHARDS;
        self.shards.get(index).unwrap_or(first)
    }
}
