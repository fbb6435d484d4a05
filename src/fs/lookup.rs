//! Which file does a name stand for?
//!
//! A name that stands for a file that the guest knows costs one `statx(2)`: device, inode number, mount
//! and birth time say which file it is (see [`BirthTime`](super::inode::BirthTime) for why the last is
//! needed and when it suffices). Anything else is opened with `O_PATH`, so that what is examined and
//! what is remembered are the same file, whatever happens to the name meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, openat, openat2, readlinkat_raw, statx,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::inode::{
    Acquired, FileHandle, Identity, Inode, Inserted, PathFd, Reference, STATX_MASK, STATX_NAME,
};
use super::{Passthrough, attr};
use crate::fuse::{Entry, Name, NodeId, Result};

/// The longest target of a symbolic link (`PATH_MAX`).
const TARGET_MAX: usize = 4096;

/// How a guest's name is resolved: one component, and never out of the directory, not even by one of
/// procfs's magic links.
pub(super) const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// A descriptor of a file that is about to get an entry.
pub(super) enum Opened<'a> {
    /// Of the `O_PATH` sort, to be kept.
    Path(OwnedFd),
    /// A real one, which the caller keeps.
    File(BorrowedFd<'a>),
}

/// LOOKUP.
pub(super) fn lookup(fs: &Passthrough, parent: NodeId, name: Name<'_>) -> Result<Entry> {
    let parent = fs.node(parent)?;
    match child(fs, &parent, name) {
        Err(Errno::NOENT) if !fs.config.negative_timeout.is_zero() => {
            Ok(Entry::negative(fs.config.negative_timeout))
        }
        answer => answer,
    }
}

/// READLINK.
pub(super) fn readlink(fs: &Passthrough, node: NodeId, target: &mut Vec<u8>) -> Result<()> {
    let inode = fs.node(node)?;
    if inode.kind() != FileType::Symlink {
        return Err(Errno::INVAL);
    }
    let fd = fs.path_fd(&inode)?;
    target.reserve(TARGET_MAX);
    readlinkat_raw(fd, c"", spare_capacity(target))?;
    Ok(())
}

/// The entry of a name, with one reference taken.
///
/// # Errors
/// `ENOENT` and what else the host says; `ENFILE` where the guest knows too many files, or the daemon has too many descriptors.
pub(super) fn child(fs: &Passthrough, parent: &Arc<Inode>, name: Name<'_>) -> Result<Entry> {
    let dir = fs.path_fd(parent)?;
    let stat = statx(&dir, name.as_c_str(), STATX_NAME, STATX_MASK)?;
    let known = match fs.inodes.acquire(&Identity::of(&stat), |inode| inode.is_certainly(&stat)) {
        Acquired::Taken(inode) => Some(inode),
        // A file that was young when it was last seen: its handle tells it from a successor.
        Acquired::Other(inode) => {
            let same = inode.is_named(dir.as_fd(), name.as_c_str(), &stat);
            (same && fs.inodes.reference(&inode).is_ok()).then_some(inode)
        }
        Acquired::Unknown => None,
    };
    match known {
        Some(inode) => Ok(entry(fs, parent, &inode, &stat)),
        None => open_child(fs, parent, &dir, name),
    }
}

/// The same for a name that is new, so that looking before opening would be in vain.
pub(super) fn open_child(
    fs: &Passthrough,
    parent: &Arc<Inode>,
    dir: &PathFd,
    name: Name<'_>,
) -> Result<Entry> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(dir, name.as_c_str(), flags, Mode::empty(), RESOLVE)?;
    entry_for_fd(fs, parent, Opened::Path(fd))
}

/// The entry of an open file, with one reference taken.
///
/// # Errors
/// As [`child`].
pub(super) fn entry_for_fd(fs: &Passthrough, parent: &Arc<Inode>, opened: Opened<'_>) -> Result<Entry> {
    let fd = match &opened {
        Opened::Path(fd) => fd.as_fd(),
        Opened::File(fd) => *fd,
    };
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, STATX_MASK)?;
    let handle = fs.mounts.handle(fd)?;
    let identity = Identity::of(&stat);
    let known = |inode: &Inode| inode.has_handle(&stat, handle.as_ref());
    let mut replaces = match fs.inodes.acquire(&identity, known) {
        Acquired::Taken(inode) => return Ok(entry(fs, parent, &inode, &stat)),
        Acquired::Other(inode) => Some(inode),
        Acquired::Unknown => None,
    };
    let (mut new, path) = describe(fs, &stat, handle.clone(), opened)?;
    loop {
        match fs.inodes.insert(new, replaces.as_ref())? {
            Inserted::Added(inode) => {
                if let Some(path) = path {
                    fs.hot.keep(&inode, &path, false);
                }
                return Ok(entry(fs, parent, &inode, &stat));
            }
            Inserted::Raced(back) => new = back,
        }
        replaces = match fs.inodes.acquire(&identity, known) {
            Acquired::Taken(inode) => return Ok(entry(fs, parent, &inode, &stat)),
            Acquired::Other(inode) => Some(inode),
            Acquired::Unknown => None,
        };
    }
}

/// Makes the inode of a file that the guest does not know, and the `O_PATH` descriptor that is left over
/// where the inode does not need one of its own.
fn describe(
    fs: &Passthrough,
    stat: &Statx,
    handle: Option<FileHandle>,
    opened: Opened<'_>,
) -> Result<(Inode, Option<PathFd>)> {
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let (fd, path) = match opened {
        Opened::Path(fd) => (None, Some(PathFd::new(fd))),
        Opened::File(fd) => (Some(fd), None),
    };
    if let Some(handle) = handle {
        let some = fd.or_else(|| path.as_ref().map(AsFd::as_fd)).ok_or(Errno::BADF)?;
        let id = Identity::of(stat).mount();
        let room = || fs.bounds.descriptor().map(Some);
        if let Some(mount) = fs.mounts.mount(id, some, kind, &handle, fs.proc_self_fd.as_fd(), room)? {
            return Ok((Inode::new(stat, Reference::Handle(handle, mount)), path));
        }
    }
    let room = fs.bounds.descriptor()?;
    let path = match (path, fd) {
        (Some(path), _) => path,
        (None, Some(fd)) => PathFd::new(openat(
            &fs.proc_self_fd,
            DecInt::from_fd(fd).as_c_str(),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?),
        (None, None) => return Err(Errno::BADF),
    };
    Ok((Inode::new(stat, Reference::Descriptor { fd: path, _room: Some(room) }), None))
}

/// What the guest is told of a file.
pub(super) fn entry(fs: &Passthrough, parent: &Inode, inode: &Inode, stat: &Statx) -> Entry {
    let mut attr = attr::attributes(fs, stat);
    attr.submount = inode.mount() != parent.mount() && fs.announces_submounts();
    Entry {
        node: inode.node(),
        generation: 0,
        attr,
        entry_timeout: fs.config.entry_timeout(),
        attr_timeout: fs.config.attr_timeout(),
    }
}
