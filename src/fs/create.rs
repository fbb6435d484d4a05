//! How does something new come into being?
//!
//! Under the caller's credentials (`credentials.rs`), with exactly the mode that is asked for
//! (`thread.rs`), and never through something that stands in the place of the new name: every call here
//! either fails with `EEXIST` or has made something new. The security label, where the guest sends one,
//! is set before the guest hears of the file; a file that cannot be labelled does not stay.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, makedev, mkdirat, mknodat, openat, openat2, setxattr,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::inode::{Inode, PathFd};
use super::lookup::{self, Opened, RESOLVE};
use super::thread::Umask;
use super::{Passthrough, credentials, thread, xattr};
use crate::fuse::abi::FUSE_DONT_MASK;
use crate::fuse::{Caller, Entry, Name, NewFile, NodeId, Result};

/// How often a name that comes and goes is tried again.
const RETRIES: u32 = 8;

/// Does the one call that makes something, as the caller.
fn as_caller<T>(
    fs: &Passthrough,
    caller: Caller,
    new: &NewFile<'_>,
    make: impl FnOnce() -> rustix::io::Result<T>,
) -> Result<T> {
    thread::prepare(fs)?;
    let _credentials = credentials::assume(fs, caller, new.extensions.supplementary_group)?;
    let _umask = fs.negotiated(FUSE_DONT_MASK).then(|| Umask::set(new.umask));
    make()
}

/// The security label of something that is about to be made: name and value on the host.
struct Label<'a>(Option<xattr::Attribute<'a>>);

impl<'a> Label<'a> {
    /// The one that the guest sends, if it does.
    ///
    /// # Errors
    /// One that cannot be set, whatever the file: as for SETXATTR.
    fn of(fs: &Passthrough, new: &NewFile<'a>) -> Result<Self> {
        let context = new.extensions.security_context;
        Ok(Self(context.map(|(name, value)| xattr::to_host(fs, name, value)).transpose()?))
    }

    /// Labels what was just made. `fd` may be of the `O_PATH` sort.
    fn set(&self, fd: BorrowedFd<'_>) -> Result<()> {
        match &self.0 {
            // By way of the working directory, see `thread.rs`.
            Some((name, value)) => {
                setxattr(DecInt::from_fd(fd).as_c_str(), &**name, value, XattrFlags::empty())
            }
            None => Ok(()),
        }
    }
}

/// The entry of something that was just made by name.
fn made(
    fs: &Passthrough,
    parent: &Arc<Inode>,
    dir: &PathFd,
    name: Name<'_>,
    label: &Label<'_>,
    undo: AtFlags,
) -> Result<Entry> {
    if label.0.is_none() {
        return lookup::open_child(fs, parent, dir, name);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(dir, name.as_c_str(), flags, Mode::empty(), RESOLVE)?;
    if let Err(error) = label.set(fd.as_fd()) {
        unlinkat(dir, name.as_c_str(), undo)?;
        return Err(error);
    }
    lookup::entry_for_fd(fs, parent, Opened::Path(fd))
}

/// Permission bits, set-ID and sticky bits of a mode.
fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

/// SYMLINK.
pub(super) fn symlink(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    name: Name<'_>,
    target: &CStr,
    new: &NewFile<'_>,
) -> Result<Entry> {
    let label = Label::of(fs, new)?;
    let parent = fs.node(parent)?;
    let dir = fs.path_fd(&parent)?;
    as_caller(fs, caller, new, || symlinkat(target, &dir, name.as_c_str()))?;
    made(fs, &parent, &dir, name, &label, AtFlags::empty())
}

/// MKNOD.
pub(super) fn mknod(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    name: Name<'_>,
    rdev: u32,
    new: &NewFile<'_>,
) -> Result<Entry> {
    let kind = FileType::from_raw_mode(new.mode);
    match kind {
        FileType::RegularFile
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice => {}
        _ => return Err(Errno::INVAL),
    }
    let label = Label::of(fs, new)?;
    let parent = fs.node(parent)?;
    let dir = fs.path_fd(&parent)?;
    // new_encode_dev of include/linux/kdev_t.h: 8 low bits of the minor, 12 bits of the major, the rest
    // of the minor.
    let device = makedev((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00));
    as_caller(fs, caller, new, || mknodat(&dir, name.as_c_str(), kind, permissions(new.mode), device))?;
    made(fs, &parent, &dir, name, &label, AtFlags::empty())
}

/// MKDIR.
pub(super) fn mkdir(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    name: Name<'_>,
    new: &NewFile<'_>,
) -> Result<Entry> {
    let label = Label::of(fs, new)?;
    let parent = fs.node(parent)?;
    let dir = fs.path_fd(&parent)?;
    as_caller(fs, caller, new, || mkdirat(&dir, name.as_c_str(), permissions(new.mode)))?;
    made(fs, &parent, &dir, name, &label, AtFlags::REMOVEDIR)
}

/// The creating half of CREATE: makes the file, or finds it where `flags` has no `O_EXCL`, and opens it
/// with `flags`. The entry holds one reference, which the caller of this function must give back
/// ([`Passthrough::forget`]) where its own half fails.
pub(super) fn create_and_open(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    name: Name<'_>,
    flags: OFlags,
    new: &NewFile<'_>,
) -> Result<(Entry, OwnedFd)> {
    let label = Label::of(fs, new)?;
    let parent = fs.node(parent)?;
    let dir = fs.path_fd(&parent)?;
    // Always O_EXCL at first: whatever is there already may be a FIFO or a device, which must not be
    // opened.
    let exclusive = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..RETRIES {
        let mode = permissions(new.mode);
        match as_caller(fs, caller, new, || openat2(&dir, name.as_c_str(), exclusive, mode, RESOLVE)) {
            Ok(fd) => {
                if let Err(error) = label.set(fd.as_fd()) {
                    unlinkat(&dir, name.as_c_str(), AtFlags::empty())?;
                    return Err(error);
                }
                let entry = lookup::entry_for_fd(fs, &parent, Opened::File(fd.as_fd()))?;
                return Ok((entry, fd));
            }
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {}
            Err(error) => return Err(error),
        }
        match open_existing(fs, caller, &parent, name, flags, new) {
            Err(Errno::NOENT | Errno::STALE) => {}
            answer => return answer,
        }
    }
    Err(Errno::STALE)
}

/// A file that somebody else made while the guest thought that there was none. The guest has not checked
/// the caller's permissions, and will not (fuse_create_open takes every answer for a new file), so the
/// host does.
fn open_existing(
    fs: &Passthrough,
    caller: Caller,
    parent: &Arc<Inode>,
    name: Name<'_>,
    flags: OFlags,
    new: &NewFile<'_>,
) -> Result<(Entry, OwnedFd)> {
    let entry = lookup::child(fs, parent, name)?;
    let open = || {
        let inode = fs.node(entry.node)?;
        let path = fs.path_fd(&inode)?;
        let _credentials = credentials::assume_strictly(fs, caller, new.extensions.supplementary_group)?;
        let _fence = flags.contains(OFlags::TRUNC).then(|| fs.fence_to_free(&inode)).transpose()?;
        let fd = fs.reopen_path(&inode, &path, flags)?;
        if flags.contains(OFlags::TRUNC) {
            xattr::drop_renamed_capabilities(fs, &fd)?;
        }
        Ok(fd)
    };
    match open() {
        Ok(fd) => Ok((entry, fd)),
        Err(error) => {
            fs.forget(entry.node, 1);
            Err(error)
        }
    }
}

/// The creating half of TMPFILE: as [`create_and_open`], for a file without a name.
pub(super) fn create_unnamed(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    flags: OFlags,
    new: &NewFile<'_>,
) -> Result<(Entry, OwnedFd)> {
    let label = Label::of(fs, new)?;
    let parent = fs.node(parent)?;
    let dir = fs.path_fd(&parent)?;
    let flags = flags.difference(OFlags::CREATE) | OFlags::TMPFILE | OFlags::CLOEXEC;
    let fd = as_caller(fs, caller, new, || openat(&dir, c".", flags, permissions(new.mode)))?;
    label.set(fd.as_fd())?;
    let entry = lookup::entry_for_fd(fs, &parent, Opened::File(fd.as_fd()))?;
    Ok((entry, fd))
}
