//! What are a file's extended attributes?
//!
//! The system calls take no descriptor of the `O_PATH` sort, but they take a path: "N" in `/proc/self/fd`
//! (`thread.rs`). Following it ends at the very inode that the descriptor is open on, also where that is
//! a symbolic link or a FIFO, so one way serves files of every type, and nothing is opened.
//!
//! Which namespaces work is up to the host: `user.` on regular files and directories; `trusted.` and
//! `security.` where this process has the capability, also on symbolic links. `security.capability` is
//! like any other: the host's kernel removes it at a write and understands it at an exec on the host.
//! POSIX ACLs exist only where the guest applies them (`FUSE_POSIX_ACL`): to let it store what its kernel
//! does not honour would be worse than to refuse.

use std::ffi::CStr;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Mode, XattrFlags, chmodat, fstat, getxattr as host_get, getxattr_query,
    listxattr as host_list, removexattr as host_remove, setxattr as host_set,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::{Passthrough, thread};
use crate::fuse::{NodeId, Result};

/// The longest value and the longest list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX: usize = 64 << 10;
const ACL_ACCESS: &CStr = c"system.posix_acl_access";
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";

/// SETXATTR. `kill_sgid`: the caller is a stranger to the file's group, so setting its ACL clears the
/// set-group-ID bit.
///
/// # Errors
/// `ENOSYS`: extended attributes are off, and the guest asks no more. `EOPNOTSUPP`: an ACL that is not
/// in force, or what the host's file system lacks. `E2BIG`: the value is too long.
pub(super) fn setxattr(
    fs: &Passthrough,
    node: NodeId,
    name: &CStr,
    value: &[u8],
    flags: u32,
    kill_sgid: bool,
) -> Result<()> {
    check_name(fs, name)?;
    if value.len() > fs.bounds.xattr.max() {
        fs.bounds.xattr.refuse();
        return Err(Errno::TOOBIG);
    }
    let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    let fd = fs.path_fd(&fs.node(node)?)?;
    thread::prepare(fs)?;
    host_set(DecInt::from_fd(&fd).as_c_str(), name, value, flags)?;
    if kill_sgid && name == ACL_ACCESS {
        let mode = Mode::from_raw_mode(fstat(&fd)?.st_mode);
        if mode.contains(Mode::SGID) {
            let left = mode.difference(Mode::SGID);
            chmodat(CWD, DecInt::from_fd(&fd).as_c_str(), left, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// GETXATTR.
///
/// # Errors
/// `ENOSYS` and `EOPNOTSUPP` as in [`setxattr`]; `ERANGE`; `ENODATA`.
pub(super) fn getxattr(
    fs: &Passthrough,
    node: NodeId,
    name: &CStr,
    size: u32,
    value: &mut Vec<u8>,
) -> Result<u32> {
    check_name(fs, name)?;
    let fd = fs.path_fd(&fs.node(node)?)?;
    thread::prepare(fs)?;
    let path = DecInt::from_fd(&fd);
    if size == 0 {
        return u32::try_from(getxattr_query(path.as_c_str(), name)?).map_err(|_| Errno::OVERFLOW);
    }
    let size = usize::try_from(size).unwrap_or(MAX).min(MAX);
    let mut found = Vec::with_capacity(size);
    // The room may be larger than was asked for, so the host's ERANGE is not enough.
    host_get(path.as_c_str(), name, spare_capacity(&mut found))?;
    reply(&found, size, value)
}

/// LISTXATTR.
///
/// # Errors
/// As [`getxattr`].
pub(super) fn listxattr(fs: &Passthrough, node: NodeId, size: u32, names: &mut Vec<u8>) -> Result<u32> {
    check_enabled(fs)?;
    let fd = fs.path_fd(&fs.node(node)?)?;
    thread::prepare(fs)?;
    // All of it always: only what is left after hiding has the length that counts.
    let mut found = Vec::with_capacity(MAX);
    host_list(DecInt::from_fd(&fd).as_c_str(), spare_capacity(&mut found))?;
    if !fs.serves_acl() {
        found = found
            .split_inclusive(|&byte| byte == 0)
            .filter(|name| !is_acl(name))
            .flatten()
            .copied()
            .collect();
    }
    if size == 0 {
        return u32::try_from(found.len()).map_err(|_| Errno::OVERFLOW);
    }
    reply(&found, usize::try_from(size).unwrap_or(MAX), names)
}

/// REMOVEXATTR.
///
/// # Errors
/// As [`setxattr`]; `ENODATA`.
pub(super) fn removexattr(fs: &Passthrough, node: NodeId, name: &CStr) -> Result<()> {
    check_name(fs, name)?;
    let fd = fs.path_fd(&fs.node(node)?)?;
    thread::prepare(fs)?;
    host_remove(DecInt::from_fd(&fd).as_c_str(), name)
}

fn reply(found: &[u8], size: usize, reply: &mut Vec<u8>) -> Result<u32> {
    if found.len() > size {
        return Err(Errno::RANGE);
    }
    reply.extend_from_slice(found);
    u32::try_from(found.len()).map_err(|_| Errno::OVERFLOW)
}

fn check_enabled(fs: &Passthrough) -> Result<()> {
    if fs.config.xattr { Ok(()) } else { Err(Errno::NOSYS) }
}

fn check_name(fs: &Passthrough, name: &CStr) -> Result<()> {
    check_enabled(fs)?;
    if is_acl(name.to_bytes_with_nul()) && !fs.serves_acl() {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(())
}

/// Whether this is the name of an ACL; with its NUL.
fn is_acl(name: &[u8]) -> bool {
    [ACL_ACCESS, ACL_DEFAULT].iter().any(|acl| acl.to_bytes_with_nul() == name)
}
