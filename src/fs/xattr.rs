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
//! does not honour would be worse than to refuse. And those of the host are reached by no other name than their own.
//!
//! Names are the host's from [`host_name`] on, and the guest's again where a list is made (`--xattrmap`). The value of
//! `security.capability` has an id in it, which is translated like any other (`identity::file_capabilities`).

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Mode, XattrFlags, chmodat, fremovexattr, fstat, getxattr as host_get, getxattr_query,
    listxattr as host_list, removexattr as host_remove, setxattr as host_set,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::{Passthrough, thread};
use crate::fuse::{NodeId, Result};
use crate::identity::{Forbidden, NameRefusal, file_capabilities};

/// The longest value and the longest list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX: usize = 64 << 10;
const ACL_ACCESS: &CStr = c"system.posix_acl_access";
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";
/// The capabilities that a program gets (`XATTR_NAME_CAPS`).
const CAPABILITY: &CStr = c"security.capability";

/// SETXATTR. `kill_sgid`: the caller is a stranger to the file's group, so setting its ACL clears the
/// set-group-ID bit.
///
/// # Errors
/// `ENOSYS`: extended attributes are off, and the guest asks no more. `EOPNOTSUPP`: an ACL that is not
/// in force, what the host's file system lacks, or what the map of names calls unsupported. `EPERM`: a name that the map
/// refuses. `ERANGE`: one that gets too long by it. `E2BIG`: the value is too long. `EBUSY`: capabilities for a file that the
/// guest reaches on its own disk.
pub(super) fn setxattr(
    fs: &Passthrough,
    node: NodeId,
    name: &CStr,
    value: &[u8],
    flags: u32,
    kill_sgid: bool,
) -> Result<()> {
    check_enabled(fs)?;
    let (name, value) = to_host(fs, name, value)?;
    let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    let inode = fs.node(node)?;
    let fd = fs.path_fd(&inode)?;
    // A file with capabilities is written only where they are taken away.
    let _fence = if *name == *CAPABILITY { fs.fence_privileged(&inode)? } else { None };
    thread::prepare(fs)?;
    host_set(DecInt::from_fd(&fd).as_c_str(), &*name, &value, flags)?;
    if kill_sgid && *name == *ACL_ACCESS {
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
/// `ENOSYS` and `EOPNOTSUPP` as in [`setxattr`]; `ERANGE`; `ENODATA`, which is also what becomes of a name that the map refuses or
/// that gets too long by it: there is no such attribute.
pub(super) fn getxattr(
    fs: &Passthrough,
    node: NodeId,
    name: &CStr,
    size: u32,
    value: &mut Vec<u8>,
) -> Result<u32> {
    check_enabled(fs)?;
    let name = absent(host_name(fs, name))?;
    let fd = fs.path_fd(&fs.node(node)?)?;
    thread::prepare(fs)?;
    let path = DecInt::from_fd(&fd);
    let translated = holds_id(fs, &name);
    if size == 0 && !translated {
        return u32::try_from(getxattr_query(path.as_c_str(), &*name)?).map_err(|_| Errno::OVERFLOW);
    }
    let size = usize::try_from(size).unwrap_or(MAX).min(MAX);
    // What is translated may become shorter, or longer.
    let mut found = Vec::with_capacity(if translated { file_capabilities::SIZE_MAX } else { size });
    // The room may be larger than was asked for, so the host's ERANGE is not enough.
    host_get(path.as_c_str(), &*name, spare_capacity(&mut found))?;
    let found = if translated {
        file_capabilities::to_guest(&found, &fs.config.translation.users)
    } else {
        Cow::Owned(found)
    };
    if size == 0 {
        return u32::try_from(found.len()).map_err(|_| Errno::OVERFLOW);
    }
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
    if fs.config.xattrmap.is_some() || !fs.serves_acl() {
        let names = found.split_inclusive(|&byte| byte == 0);
        let names = names.filter_map(|name| guest_name(fs, CStr::from_bytes_with_nul(name).ok()?));
        found = names.flat_map(CStr::to_bytes_with_nul).copied().collect();
    }
    if size == 0 {
        return u32::try_from(found.len()).map_err(|_| Errno::OVERFLOW);
    }
    reply(&found, usize::try_from(size).unwrap_or(MAX), names)
}

/// REMOVEXATTR.
///
/// # Errors
/// As [`setxattr`]; `ENODATA`, also for a name that gets too long by the map.
pub(super) fn removexattr(fs: &Passthrough, node: NodeId, name: &CStr) -> Result<()> {
    check_enabled(fs)?;
    let name = match host_name(fs, name) {
        Err(Errno::RANGE) => return Err(Errno::NODATA),
        name => name?,
    };
    check_judged(&name)?;
    let fd = fs.path_fd(&fs.node(node)?)?;
    thread::prepare(fs)?;
    host_remove(DecInt::from_fd(&fd).as_c_str(), &*name)
}

/// Name and value on the host.
pub(super) type Attribute<'a> = (Cow<'a, CStr>, Cow<'a, [u8]>);

/// What the host is to have for an attribute that a guest wants set. Also for the label of a new file.
///
/// # Errors
/// As [`setxattr`], for everything that can be known before the file is looked at, but `ENOSYS`. `EPERM` also for capabilities that
/// would belong to a forbidden user.
pub(super) fn to_host<'a>(fs: &Passthrough, name: &'a CStr, value: &'a [u8]) -> Result<Attribute<'a>> {
    let name = host_name(fs, name)?;
    check_judged(&name)?;
    if value.len() > fs.bounds.xattr.max().min(MAX) {
        fs.bounds.xattr.refuse();
        return Err(Errno::TOOBIG);
    }
    let value = if holds_id(fs, &name) {
        let users = &fs.config.translation.users;
        file_capabilities::to_host(value, users).map_err(|Forbidden| Errno::PERM)?
    } else {
        Cow::Borrowed(value)
    };
    Ok((name, value))
}

/// Capabilities go with the contents that they were given for. The host's kernel sees to that where it knows them by their
/// name; where the map renames them the guest's does (`session.rs`), but for the one way of changing contents that is not
/// announced to it: the `O_TRUNC` of an open.
///
/// # Errors
/// Those of `fremovexattr(2)`.
pub(super) fn drop_renamed_capabilities(fs: &Passthrough, file: impl AsFd) -> Result<()> {
    let Some(name) = renamed_capability(fs) else { return Ok(()) };
    match fremovexattr(file, &*name) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        answer => answer,
    }
}

/// The host's name of `security.capability` where it is not that.
pub(super) fn renamed_capability(fs: &Passthrough) -> Option<CString> {
    fs.config.xattrmap.as_ref()?.renamed(CAPABILITY)
}

/// Whether there is an id in the value that must be translated.
fn holds_id(fs: &Passthrough, host_name: &CStr) -> bool {
    !fs.config.translation.users.is_identity() && host_name == CAPABILITY
}

fn reply(found: &[u8], size: usize, reply: &mut Vec<u8>) -> Result<u32> {
    if found.len() > size {
        return Err(Errno::RANGE);
    }
    reply.extend_from_slice(found);
    u32::try_from(found.len()).map_err(|_| Errno::OVERFLOW)
}

/// Refuses to change an attribute that only the host's file system knows who may change, such as the ACLs of NFS: the guest's kernel
/// leaves `system.*` to it, and it would ask what the daemon may (`xattr_permission` in fs/xattr.c).
///
/// # Errors
/// `EOPNOTSUPP`.
fn check_judged(host: &CStr) -> Result<()> {
    if host.to_bytes().starts_with(b"system.") && !is_acl(host) { Err(Errno::OPNOTSUPP) } else { Ok(()) }
}

fn check_enabled(fs: &Passthrough) -> Result<()> {
    if fs.config.xattr { Ok(()) } else { Err(Errno::NOSYS) }
}

/// The host's name for a guest's.
///
/// # Errors
/// `EOPNOTSUPP`, `EPERM` and `ERANGE` as in [`setxattr`].
fn host_name<'a>(fs: &Passthrough, guest: &'a CStr) -> Result<Cow<'a, CStr>> {
    if is_acl(guest) && !fs.serves_acl() {
        return Err(Errno::OPNOTSUPP);
    }
    let Some(map) = &fs.config.xattrmap else { return Ok(Cow::Borrowed(guest)) };
    match map.host_name(guest) {
        Ok(host) if is_acl(&host) && *host != *guest => Err(Errno::OPNOTSUPP),
        Ok(host) => Ok(host),
        Err(NameRefusal::Denied) => Err(Errno::PERM),
        Err(NameRefusal::Unsupported) => Err(Errno::OPNOTSUPP),
        Err(NameRefusal::TooLong) => Err(Errno::RANGE),
    }
}

/// What the refusal of a name means to one who only wants to know.
fn absent<T>(name: Result<T>) -> Result<T> {
    name.map_err(|errno| match errno {
        Errno::PERM | Errno::RANGE => Errno::NODATA,
        errno => errno,
    })
}

/// The guest's name for a host's; `None` where GETXATTR would not find it.
fn guest_name<'a>(fs: &Passthrough, host: &'a CStr) -> Option<&'a CStr> {
    let guest = match &fs.config.xattrmap {
        Some(map) => map.guest_name(host)?,
        None => host,
    };
    let acl_in_disguise = is_acl(host) && guest != host;
    (!acl_in_disguise && (fs.serves_acl() || !is_acl(guest))).then_some(guest)
}

fn is_acl(name: &CStr) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}
