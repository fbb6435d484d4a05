//! When is what was written on stable storage, and how much room is there?
//!
//! No lock is held here: reads and writes of the same handle go on meanwhile.

use std::os::fd::AsFd;

use rustix::fs::{OFlags, StatVfs, fdatasync, fstatvfs, syncfs as host_syncfs};
use rustix::io::Errno;

use super::Passthrough;
use super::extents::Extents;
use crate::fuse::{Fh, NodeId, Result, StatFs};

/// FSYNC.
///
/// # Errors
/// `EBADF`: no such handle; else the host's, such as `EIO` for data that was lost.
pub(super) fn fsync(fs: &Passthrough, node: NodeId, fh: Fh, datasync: bool) -> Result<()> {
    let file = fs.handles.file(node, fh)?;
    // What was written past the host's file system is in the device's cache, and perhaps in no time of the file.
    let extents = fs.extents();
    if let Some((extents, pin)) = extents.zip(file.pin.get()) {
        extents.touch_written(node, pin);
    }
    let outcome = sync(&file.fd, datasync);
    // Whether the file is pinned now or not: it may have been.
    let outcome = outcome.and_then(|()| extents.map_or(Ok(()), Extents::flush_device));
    file.heard.as_ref().map_or(outcome, |heard| file.inode.write_errors.tell(heard, outcome))
}

/// FSYNCDIR.
///
/// # Errors
/// As [`fsync`].
pub(super) fn fsyncdir(fs: &Passthrough, node: NodeId, fh: Fh, datasync: bool) -> Result<()> {
    sync(&fs.handles.directory(node, fh)?.fd, datasync)
}

fn sync(file: impl AsFd, datasync: bool) -> Result<()> {
    if datasync { fdatasync(file) } else { rustix::fs::fsync(file) }
}

/// SYNCFS. Linux sends it for the root of each mount (`fuse_sync_fs`), which is a directory.
///
/// # Errors
/// The host's.
pub(super) fn syncfs(fs: &Passthrough, node: NodeId) -> Result<()> {
    let inode = fs.node(node)?;
    let file = match fs.reopen(&inode, OFlags::RDONLY | OFlags::NONBLOCK) {
        // Anything that cannot be opened: the share's own mount is the best that can be done.
        Err(Errno::NXIO | Errno::LOOP) => fs.reopen(&fs.node(NodeId::ROOT)?, OFlags::RDONLY)?,
        file => file?,
    };
    host_syncfs(file)?;
    fs.extents().map_or(Ok(()), Extents::flush_device)
}

/// STATFS.
///
/// # Errors
/// The host's.
pub(super) fn statfs(fs: &Passthrough, node: NodeId) -> Result<StatFs> {
    let fd = fs.path_fd(&fs.node(node)?)?;
    let StatVfs { f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_bsize, f_frsize, f_namemax, .. } =
        fstatvfs(&fd)?;
    let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(StatFs {
        blocks: f_blocks,
        bfree: f_bfree,
        bavail: f_bavail,
        files: f_files,
        ffree: f_ffree,
        bsize: small(f_bsize),
        namelen: small(f_namemax),
        frsize: small(f_frsize),
    })
}
