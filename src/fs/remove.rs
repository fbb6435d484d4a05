//! How do names go away, move, or become more?
//!
//! These run as the daemon, not as the caller: nothing new gets an owner, and the guest has checked the
//! permissions, the sticky bit among them.

use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with, statx, unlinkat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::inode::STATX_MASK;
use super::{Passthrough, extents, lookup};
use crate::fuse::{Entry, Name, NodeId, Result};

/// UNLINK.
pub(super) fn unlink(fs: &Passthrough, parent: NodeId, name: Name<'_>) -> Result<()> {
    let _fence = extents::fence_name(fs, parent, name)?;
    unlinkat(fs.path_fd(&fs.node(parent)?)?, name.as_c_str(), AtFlags::empty())
}

/// RMDIR.
pub(super) fn rmdir(fs: &Passthrough, parent: NodeId, name: Name<'_>) -> Result<()> {
    unlinkat(fs.path_fd(&fs.node(parent)?)?, name.as_c_str(), AtFlags::REMOVEDIR)
}

/// RENAME and RENAME2.
pub(super) fn rename(
    fs: &Passthrough,
    parent: NodeId,
    name: Name<'_>,
    new_parent: NodeId,
    new_name: Name<'_>,
    flags: u32,
) -> Result<()> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    let from = fs.path_fd(&fs.node(parent)?)?;
    let to = fs.path_fd(&fs.node(new_parent)?)?;
    let replaces = !flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE);
    let _fence = replaces.then(|| extents::fence_name(fs, new_parent, new_name)).transpose()?;
    renameat_with(from, name.as_c_str(), to, new_name.as_c_str(), flags)
}

/// LINK: the new name stands for the inode that the guest knows, with one reference more.
pub(super) fn link(fs: &Passthrough, node: NodeId, new_parent: NodeId, new_name: Name<'_>) -> Result<Entry> {
    let inode = fs.node(node)?;
    let parent = fs.node(new_parent)?;
    let fd = fs.path_fd(&inode)?;
    let dir = fs.path_fd(&parent)?;
    // By way of procfs, because AT_EMPTY_PATH asks for CAP_DAC_READ_SEARCH. The magic link leads to the
    // inode itself, also where that is a symbolic link.
    let path = DecInt::from_fd(&fd);
    linkat(&fs.proc_self_fd, path.as_c_str(), dir, new_name.as_c_str(), AtFlags::SYMLINK_FOLLOW)?;
    let stat = statx(&fd, c"", AtFlags::EMPTY_PATH, STATX_MASK)?;
    fs.inodes.reference(&inode)?;
    Ok(lookup::entry(fs, &parent, &inode, &stat))
}
