//! How does a file become open, and closed again?
//!
//! The guest's kernel has checked the caller's permissions (`default_permissions`), so an existing file
//! is opened with the daemon's own. What the guest's flags mean for the host's descriptor:
//!
//! - `O_APPEND`, `O_SYNC` and `O_DSYNC` are done write by write (`io.rs`), because `fcntl(2)` may change
//!   them without a word to us, and because a descriptor with `O_APPEND` ignores offsets, which a guest
//!   with a writeback cache relies on;
//! - `O_DIRECT` goes to a descriptor of its own (`io.rs`): the one from here is right for any alignment;
//! - `O_NONBLOCK` means nothing for a regular file, and io_uring would not wait for one that has it;
//! - with a writeback cache the guest reads the rest of a page that is partly written, so write-only
//!   becomes read-write.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FileType, Mode, OFlags, fchmod, fstat};
use rustix::io::Errno;

use super::handle::{Handle, OpenFile};
use super::inode::Inode;
use super::limits::Room;
use super::reader::{self, Descriptor};
use super::{Passthrough, create, io_mode, locality, xattr};
use crate::fuse::abi::{
    FOPEN_NOFLUSH, FUSE_DIRECT_IO_ALLOW_MMAP, FUSE_HANDLE_KILLPRIV_V2, FUSE_WRITEBACK_CACHE,
};
use crate::fuse::{Caller, Entry, Fh, Name, NewFile, NodeId, Opened, Release, Result};

/// OPEN.
///
/// # Errors
/// `ENFILE`: too many handles. `EINVAL`: `O_PATH`, which no guest sends. `EISDIR`, `ENXIO`, `ELOOP`: not a
/// regular file. `EROFS`: the share is read-only.
pub(super) fn open(
    fs: &Passthrough,
    caller: Caller,
    node: NodeId,
    flags: u32,
    kill_suidgid: bool,
) -> Result<Opened> {
    let inode = fs.node(node)?;
    let host = host_flags(fs, flags)?;
    if inode.kind() == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    let room = fs.bounds.open()?;
    let descriptor = {
        let _fence = host.contains(OFlags::TRUNC).then(|| fs.fence_to_free(&inode)).transpose()?;
        reader::open(fs, &inode, host)?
    };
    if host.contains(OFlags::TRUNC) {
        xattr::drop_renamed_capabilities(fs, &descriptor.fd)?;
    }
    if kill_suidgid || truncates_for_a_user(fs, caller, host) {
        drop_set_id(&descriptor.fd)?;
    }
    Ok(admit(fs, room, inode, descriptor, host, flags))
}

/// Whether set-ID bits have to go although the guest does not say so. Without `FUSE_HANDLE_KILLPRIV_V2` the
/// guest's kernel clears them itself before a write or a truncation, but for the one that is part of an
/// OPEN, which it leaves to us (`FUSE_ATOMIC_O_TRUNC`). Only its root has `CAP_FSETID`.
fn truncates_for_a_user(fs: &Passthrough, caller: Caller, flags: OFlags) -> bool {
    flags.contains(OFlags::TRUNC) && caller.uid != 0 && !fs.negotiated(FUSE_HANDLE_KILLPRIV_V2)
}

/// CREATE.
///
/// # Errors
/// As [`open`], and what the creation says.
pub(super) fn create(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    name: Name<'_>,
    flags: u32,
    new: &NewFile<'_>,
) -> Result<(Entry, Opened)> {
    let host = host_flags(fs, flags)?;
    let room = fs.bounds.open()?;
    let exclusive = OFlags::from_bits_retain(flags) & OFlags::EXCL;
    let (entry, fd) = create::create_and_open(fs, caller, parent, name, host | exclusive, new)?;
    Ok((entry, admit_new(fs, room, &entry, fd, host, flags)?))
}

/// TMPFILE.
///
/// # Errors
/// As [`open`], and what the creation says.
pub(super) fn tmpfile(
    fs: &Passthrough,
    caller: Caller,
    parent: NodeId,
    flags: u32,
    new: &NewFile<'_>,
) -> Result<(Entry, Opened)> {
    let host = host_flags(fs, flags)?;
    let room = fs.bounds.open()?;
    // With O_EXCL the file can never get a name.
    let exclusive = OFlags::from_bits_retain(flags) & OFlags::EXCL;
    let (entry, fd) = create::create_unnamed(fs, caller, parent, host | exclusive, new)?;
    Ok((entry, admit_new(fs, room, &entry, fd, host, flags)?))
}

/// FLUSH: the caller's fcntl locks on the file end with any of its descriptors (POSIX). The data is with
/// the host's kernel already, which may have to send it on. May wait.
///
/// # Errors
/// `EBADF`: no such handle.
pub(super) fn flush(fs: &Passthrough, node: NodeId, fh: Fh, lock_owner: u64) -> Result<()> {
    let file = fs.handles.file(node, fh)?;
    fs.locks.release_owner(node, lock_owner);
    if file.writable && fs.locality.is_remote(file.inode.mount(), || Ok(&*file.fd)) {
        locality::flush(file.fd.as_fd())?;
    }
    Ok(())
}

/// RELEASE.
///
/// # Errors
/// `EBADF`: no such handle.
pub(super) fn release(fs: &Passthrough, node: NodeId, release: &Release) -> Result<()> {
    fs.handles.file(node, release.fh)?;
    let handle = fs.handles.remove(node, release.fh)?;
    fs.locks.release_handle(node, release.fh);
    if let Some(owner) = release.lock_owner {
        fs.locks.release_owner(node, owner);
    }
    let Handle::File(file) = handle else { return Err(Errno::BADF) };
    let unlocked = if release.flock_unlock { fs.locks.release_flock(&file) } else { Ok(()) };
    if let Some(extents) = fs.extents() {
        extents.released(&file);
    }
    if file.inode.open_state.lock().close() {
        // Whatever locks are left belong to owners that the guest never told us the end of, such as its
        // OFD locks.
        fs.locks.release_node(node);
    }
    unlocked
}

/// Closes everything: the mount is gone.
pub(super) fn release_all(fs: &Passthrough) {
    fs.locks.clear();
    for handle in fs.handles.drain() {
        if let Handle::File(file) = handle {
            file.inode.open_state.lock().close();
        }
    }
}

/// Clears the set-user-ID bit, and the set-group-ID bit of a file that its group may execute (without
/// that, the bit once meant mandatory locking): what the VFS does for a writer without `CAP_FSETID`, which
/// this process may have and the guest's caller has not.
///
/// # Errors
/// Those of `fstat(2)` and `fchmod(2)`.
pub(super) fn drop_set_id(file: impl AsFd) -> Result<()> {
    let mode = Mode::from_raw_mode(fstat(&file)?.st_mode);
    let mut left = mode.difference(Mode::SUID);
    if mode.contains(Mode::SGID | Mode::XGRP) {
        left.remove(Mode::SGID);
    }
    if left == mode { Ok(()) } else { fchmod(file, left) }
}

/// The flags of the host's descriptor, see above.
fn host_flags(fs: &Passthrough, flags: u32) -> Result<OFlags> {
    let guest = OFlags::from_bits_retain(flags);
    if guest.contains(OFlags::PATH) {
        return Err(Errno::INVAL);
    }
    let mut access = guest & OFlags::RWMODE;
    if access == OFlags::WRONLY && fs.negotiated(FUSE_WRITEBACK_CACHE) {
        access = OFlags::RDWR;
    }
    let mut kept = OFlags::TRUNC;
    if fs.config.preserve_noatime {
        kept |= OFlags::NOATIME;
    }
    Ok(access | (guest & kept))
}

fn admit_new(
    fs: &Passthrough,
    room: Room,
    entry: &Entry,
    fd: OwnedFd,
    host: OFlags,
    flags: u32,
) -> Result<Opened> {
    let inode = fs.node(entry.node).inspect_err(|_| fs.forget(entry.node, 1))?;
    Ok(admit(fs, room, inode, fd.into(), host, flags))
}

/// Gives an open file its handle, and tells the guest the I/O mode.
fn admit(
    fs: &Passthrough,
    room: Room,
    inode: Arc<Inode>,
    descriptor: Descriptor,
    host: OFlags,
    flags: u32,
) -> Opened {
    let Descriptor { fd, shared } = descriptor;
    let config = &fs.config;
    let o_direct = OFlags::from_bits_retain(flags).contains(OFlags::DIRECT);
    let mappable = fs.negotiated(FUSE_DIRECT_IO_ALLOW_MMAP);
    let prefer_direct = io_mode::prefers_direct(config.cache, config.direct, o_direct, mappable);
    let direct = inode.open_state.lock().open(prefer_direct);
    let mut answer = io_mode::fopen_flags(config.cache, config.direct, direct);
    // FLUSH is for locks and for hosts where closing matters. (The guest does not skip it with a writeback cache.)
    if !config.posix_lock && !fs.locality.is_remote(inode.mount(), || Ok(&fd)) {
        answer |= FOPEN_NOFLUSH;
    }
    let access = host & OFlags::RWMODE;
    let file = Arc::new(OpenFile {
        heard: shared.then(|| inode.write_errors.begin()),
        inode,
        fd,
        direct: OnceLock::new(),
        pin: OnceLock::new(),
        readable: access != OFlags::WRONLY,
        writable: access != OFlags::RDONLY,
        _room: room,
    });
    // First: a guest may guess the handle and release it before it is told.
    if let Some(extents) = fs.extents() {
        extents.opened(&file, direct);
    }
    Opened { fh: fs.handles.insert(Handle::File(file)), flags: answer }
}
