//! How is a FUSE operation done on a host directory?
//!
//! [`Passthrough`] serves one share. It knows each file that the guest knows as an `Inode`, found by the
//! guest's nodeid or by the file's identity on the host, and it reaches the file through an `O_PATH`
//! descriptor that is either the inode's own or opened from its file handle and cached for a while.
//! `filesystem.rs` says which function serves which operation; each family of operations has a file.

mod attr;
mod config;
mod create;
mod credentials;
mod directory;
mod dirent;
mod extents;
mod filesystem;
mod handle;
mod inode;
mod io;
mod io_mode;
mod ioctl;
mod limits;
mod locality;
mod lock;
mod lookup;
mod open;
mod range;
mod reader;
mod recent;
mod remove;
mod session;
mod sync;
mod sys;
mod sys_io;
mod thread;
mod xattr;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, openat2, statx};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::extents::{Volume, Window};
use crate::fuse::abi::{FUSE_POSIX_ACL, FUSE_SUBMOUNTS};
use crate::fuse::{Entry, Fh, Name, NodeId, Result};
use crate::metrics::Limit;
pub use config::{
    CacheMode, Choice, Config, DirectPolicy, ExtentDialect, InodeFileHandles, Limits, ReadDirPlus,
};
use credentials::Own;
use extents::Extents;
use handle::{Handle, HandleTable};
pub(crate) use inode::handles_are_refused;
use inode::{HotDescriptors, Inode, InodeTable, Mount, Mounts, PathFd, Reference, STATX_MASK};
use limits::Bounds;
use locality::Locality;
use lock::Locks;

/// A share that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root cannot be examined.
    #[error("cannot examine the shared directory")]
    Root(#[source] Errno),
    /// The root is something else than a directory.
    #[error("the shared directory is not a directory")]
    NotADirectory,
    /// File handles were asked for and cannot be had.
    #[error(
        "the shared directory has no file handles that this process can open, which \
         --inode-file-handles=mandatory asks for: run with CAP_DAC_READ_SEARCH, on a file system that can be \
         exported, or use --inode-file-handles=prefer"
    )]
    NoFileHandles(#[source] Errno),
    /// The call by which every name is looked up.
    #[error("openat2(2) is not to be had, which Linux 5.6 brought: no name could be looked up")]
    NoOpenat2(#[source] Errno),
    /// The credentials of the process cannot be read.
    #[error("cannot read the supplementary groups of this process")]
    Credentials(#[source] Errno),
}

/// A host directory, served.
pub struct Passthrough {
    config: Config,
    /// `/proc/self/fd`, through which an `O_PATH` descriptor is reopened.
    proc_self_fd: OwnedFd,
    own: Own,
    inodes: InodeTable,
    mounts: Mounts,
    /// Keeps the descriptor of the root's mount open, where there is one: the next file seen there would
    /// have to serve as it, and would not be freed when it is deleted.
    _root_mount: Option<Arc<Mount>>,
    hot: HotDescriptors,
    handles: HandleTable,
    locks: Locks,
    bounds: Bounds,
    locality: Locality,
    /// Where there is a window.
    extents: Option<Extents>,
    /// The INIT flags (both words) of the current mount.
    features: AtomicU64,
}

impl Passthrough {
    /// Takes over a share: `root` is its directory, `proc_self_fd` the directory `/proc/self/fd` of this
    /// process.
    ///
    /// The calling process's credentials are the ones that it will serve with: drop privileges first.
    ///
    /// # Errors
    /// The root cannot be examined, `openat2` is not to be had, or file handles are mandatory and cannot be had.
    pub fn new(config: Config, root: OwnedFd, proc_self_fd: OwnedFd) -> std::result::Result<Self, Error> {
        let own = Own::of_this_process().map_err(Error::Credentials)?;
        let stat = statx(&root, c"", AtFlags::EMPTY_PATH, STATX_MASK).map_err(Error::Root)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if kind != FileType::Directory {
            return Err(Error::NotADirectory);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A kernel or a container may lack it; whatever else is wrong with the root is for a guest to see.
        if let Err(error @ (Errno::NOSYS | Errno::PERM)) =
            openat2(&root, c".", flags, Mode::empty(), lookup::RESOLVE)
        {
            return Err(Error::NoOpenat2(error));
        }
        let bounds = Bounds::new(&config.limits);
        let root = PathFd::new(root);
        let inode = Inode::new(&stat, Reference::Descriptor { fd: root.clone(), _room: None });
        // The root has a descriptor of its own; its handle only shows whether handles work.
        let mounts = Mounts::new(config.inode_file_handles);
        let root_mount = match mounts.handle(root.as_fd()) {
            Ok(Some(handle)) => {
                mounts.mount(inode.mount(), root.as_fd(), kind, &handle, proc_self_fd.as_fd(), || Ok(None))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
        .map_err(Error::NoFileHandles)?;
        Ok(Self {
            inodes: InodeTable::new(inode, bounds.nodes.clone()),
            hot: HotDescriptors::new(config.limits.hot_descriptors),
            handles: HandleTable::new(),
            locks: Locks::new(bounds.locks.clone(), bounds.lock_waiters.clone()),
            bounds,
            config,
            locality: Locality::default(),
            proc_self_fd,
            own,
            mounts,
            _root_mount: root_mount,
            extents: None,
            features: AtomicU64::new(0),
        })
    }

    /// The same share, whose files a guest may also reach through this window, if it knows how to.
    #[must_use]
    pub fn with_window(self, window: Arc<Window>) -> Self {
        let extents = Extents::new(window);
        Self { extents: Some(extents), ..self }
    }

    /// The same share, whose files a guest may also reach on this device, which it has as a disk.
    #[must_use]
    pub fn with_volume(self, volume: Volume) -> Self {
        let extents = Extents::on_device(volume);
        Self { extents: Some(extents), ..self }
    }

    /// What bounds the guest, and how often it was refused more. Every mount counts on from the one before.
    #[must_use]
    pub fn limits(&self) -> Vec<Arc<Limit>> {
        self.bounds.all()
    }

    /// Whether all of these INIT flags are in force.
    fn negotiated(&self, features: u64) -> bool {
        self.features.load(Ordering::Relaxed) & features == features
    }

    /// Whether the guest is told where another host mount begins.
    fn announces_submounts(&self) -> bool {
        self.negotiated(FUSE_SUBMOUNTS)
    }

    /// Whether POSIX ACLs are in force.
    fn serves_acl(&self) -> bool {
        self.negotiated(FUSE_POSIX_ACL)
    }

    /// This file system, unless the share is read-only.
    fn writable(&self) -> Result<&Self> {
        if self.config.read_only { Err(Errno::ROFS) } else { Ok(self) }
    }

    /// The file that the guest names by `node`.
    ///
    /// # Errors
    /// `ESTALE` for a number that names no file: it makes the guest's kernel drop what it believes of the
    /// name and look it up again, where any other error would go to the program.
    fn node(&self, node: NodeId) -> Result<Arc<Inode>> {
        self.inodes.get(node).ok_or(Errno::STALE)
    }

    /// Takes back references of the guest, and with the last all that the guest was given for the file.
    fn forget(&self, node: NodeId, nlookup: u64) {
        if self.inodes.forget(node, nlookup)
            && let Some(extents) = self.extents()
        {
            extents.forgotten(node);
        }
    }

    /// An `O_PATH` descriptor of the file, open for as long as the caller holds it.
    ///
    /// # Errors
    /// `ESTALE`: the file is gone from the host.
    fn path_fd(&self, inode: &Arc<Inode>) -> Result<PathFd> {
        if let Some(fd) = inode.hot() {
            return Ok(fd);
        }
        let fd = PathFd::new(inode.open_by_handle(OFlags::PATH).unwrap_or(Err(Errno::STALE))?);
        self.hot.keep(inode, &fd, false);
        Ok(fd)
    }

    /// A descriptor of the file that can be read or written. `O_CLOEXEC` and `O_NOCTTY` are added; flags that
    /// make or find a name are taken away.
    ///
    /// # Errors
    /// `ENXIO` for anything but a regular file or a directory, `ELOOP` for a symbolic link: the guest's kernel
    /// opens FIFOs, sockets and devices itself, and the host's must not block or act. `EROFS` for
    /// anything but reading on a read-only share.
    fn reopen(&self, inode: &Arc<Inode>, flags: OFlags) -> Result<OwnedFd> {
        // By handle even where a descriptor is at hand: the walk through procfs costs a third more.
        let by_handle = inode.open_by_handle(self.reopen_flags(inode, flags)?);
        match (by_handle, inode.hot()) {
            // A file without a name, which its handle may not lead to any more but the descriptor does.
            (None | Some(Err(Errno::STALE)), Some(path)) => self.reopen_path(inode, &path, flags),
            (opened, _) => opened.unwrap_or(Err(Errno::STALE)),
        }
    }

    /// The same with the descriptor from [`path_fd`](Self::path_fd), which needs no capability.
    fn reopen_path(&self, inode: &Inode, path: &PathFd, flags: OFlags) -> Result<OwnedFd> {
        let flags = self.reopen_flags(inode, flags)?;
        openat(&self.proc_self_fd, DecInt::from_fd(path).as_c_str(), flags, Mode::empty())
    }

    fn reopen_flags(&self, inode: &Inode, flags: OFlags) -> Result<OFlags> {
        match inode.kind() {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let reads_only =
            flags.intersection(OFlags::RWMODE) == OFlags::RDONLY && !flags.contains(OFlags::TRUNC);
        if self.config.read_only && !reads_only {
            return Err(Errno::ROFS);
        }
        let by_name = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        Ok(flags.difference(by_name) | OFlags::CLOEXEC | OFlags::NOCTTY)
    }

    /// Looks a name up; takes one reference.
    ///
    /// # Errors
    /// `ENOENT`, `ENFILE` and what else the host says.
    fn lookup_child(&self, parent: &Arc<Inode>, name: Name<'_>) -> Result<Entry> {
        lookup::child(self, parent, name)
    }

    /// The file or directory of an open handle.
    ///
    /// # Errors
    /// `EBADF`: there is no such handle, or it is another node's.
    fn open_file(&self, node: NodeId, fh: Fh) -> Result<Handle> {
        self.handles.any(node, fh)
    }
}
