//! Operations on opens: OPEN, CREATE, TMPFILE, READ, WRITE, FLUSH, RELEASE, FSYNC and IOCTL.

use rustix::io::Errno;

use super::namespace::new_file;
use super::{bounded, position, usize_of};
use crate::fuse::FileSystem;
use crate::fuse::abi;
use crate::fuse::encode;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::transfer::Transfer;
use crate::fuse::types::{Entry, Fh, IoRequest, Opened, Release, Result};

/// OPEN.
pub(in crate::fuse) fn open<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let open: abi::OpenIn = body.take()?;
    let kill_suidgid = open.open_flags & abi::FUSE_OPEN_KILL_SUIDGID != 0;
    let opened = fs.open(request.caller(), request.node(), open.flags, kill_suidgid)?;
    reply.push(&encode::open_out(&opened))
}

/// Whether this OPEN is to empty the file.
pub(in crate::fuse) fn truncates(request: &Request<'_>) -> bool {
    let mut body = request.body;
    body.take::<abi::OpenIn>().is_ok_and(|open| open.flags & libc::O_TRUNC.cast_unsigned() != 0)
}

/// CREATE.
pub(in crate::fuse) fn create<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let create: abi::CreateIn = body.take()?;
    let name = body.name()?;
    let new = new_file(request, create.mode, create.umask, body)?;
    let created = fs.create(request.caller(), request.node(), name, create.flags, &new)?;
    push_created(request, reply, &created)
}

/// TMPFILE. It has a name, since the guest sends it as a CREATE of its dentry, but that name is `/`
/// (`vfs_tmpfile`) and means nothing.
pub(in crate::fuse) fn tmpfile<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let create: abi::CreateIn = body.take()?;
    body.c_str()?;
    let new = new_file(request, create.mode, create.umask, body)?;
    let created = fs.tmpfile(request.caller(), request.node(), create.flags, &new)?;
    push_created(request, reply, &created)
}

fn push_created(
    request: &Request<'_>,
    reply: &mut Reply<'_>,
    (entry, opened): &(Entry, Opened),
) -> Result<()> {
    reply.push(&request.encoder().entry_out(entry))?;
    reply.push(&encode::open_out(opened))
}

/// READ: as much as was asked for and fits, up to the largest position.
///
/// # Errors
/// `EINVAL` for more than a guest may ask for: a shorter answer would mean the file's end.
pub(in crate::fuse) fn read<F: FileSystem>(fs: &F, request: &Request<'_>) -> Result<Transfer> {
    let mut body = request.body;
    let read: abi::ReadIn = body.take()?;
    if read.size > request.most_read() {
        return Err(Errno::INVAL);
    }
    let offset = position(read.offset)?;
    let size = bounded(read.size, request.room.unwrap_or(0));
    let io = IoRequest {
        offset,
        size: u32::try_from(i64::MAX.cast_unsigned() - offset).map_or(size, |left| size.min(left)),
        open_flags: read.flags,
        from_cache: false,
        kill_suidgid: false,
    };
    fs.read(request.node(), Fh(read.fh), &io)
}

/// WRITE: all of the payload.
///
/// # Errors
/// `EINVAL` where the size is not that of the payload, or more than the guest was told that a WRITE may have; `EFBIG` beyond
/// the largest position.
pub(in crate::fuse) fn write<F: FileSystem>(fs: &F, request: &Request<'_>) -> Result<Transfer> {
    let mut body = request.body;
    let write: abi::WriteIn = body.take()?;
    if !body.rest().is_empty()
        || usize_of(write.size) != request.payload
        || write.size > request.most_written()
    {
        return Err(Errno::INVAL);
    }
    let offset = position(write.offset)?;
    position(offset + u64::from(write.size)).map_err(|_| Errno::FBIG)?;
    let io = IoRequest {
        offset,
        size: write.size,
        open_flags: write.flags,
        from_cache: write.write_flags & abi::FUSE_WRITE_CACHE != 0,
        kill_suidgid: write.write_flags & abi::FUSE_WRITE_KILL_SUIDGID != 0,
    };
    fs.write(request.caller(), request.node(), Fh(write.fh), &io)
}

/// FLUSH.
pub(in crate::fuse) fn flush<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let flush: abi::FlushIn = body.take()?;
    fs.flush(request.node(), Fh(flush.fh), flush.lock_owner)
}

/// RELEASE.
pub(in crate::fuse) fn release<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let wire: abi::ReleaseIn = body.take()?;
    let has = |flag: u32| wire.release_flags & flag != 0;
    let release = Release {
        fh: Fh(wire.fh),
        lock_owner: has(abi::FUSE_RELEASE_FLUSH).then_some(wire.lock_owner),
        flock_unlock: has(abi::FUSE_RELEASE_FLOCK_UNLOCK),
    };
    fs.release(request.node(), &release)
}

/// FSYNC.
pub(in crate::fuse) fn fsync<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let fsync: abi::FsyncIn = body.take()?;
    fs.fsync(request.node(), Fh(fsync.fh), fsync.fsync_flags & abi::FUSE_FSYNC_FDATASYNC != 0)
}

/// IOCTL, of the kind whose sizes are in the command. The flags for directories and 32-bit callers change
/// nothing: the commands that can be allowed at all mean the same there.
///
/// # Errors
/// `ENOTTY` for an unrestricted one, which only CUSE has; `EINVAL` for sizes that contradict the request.
pub(in crate::fuse) fn ioctl<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let ioctl: abi::IoctlIn = body.take()?;
    if ioctl.flags & abi::FUSE_IOCTL_UNRESTRICTED != 0 {
        return Err(Errno::NOTTY);
    }
    let input = body.bytes(usize_of(ioctl.in_size))?;
    reply.push(&abi::IoctlOut::default())?;
    let before = reply.tail().len();
    if usize_of(ioctl.out_size) > reply.room() - size_of::<abi::IoctlOut>() {
        return Err(Errno::INVAL);
    }
    let result = fs.ioctl(
        request.caller(),
        request.node(),
        Fh(ioctl.fh),
        ioctl.cmd,
        input,
        ioctl.out_size,
        reply.tail(),
    )?;
    if reply.tail().len() - before > usize_of(ioctl.out_size) {
        return Err(Errno::IO);
    }
    reply.replace_first(&abi::IoctlOut { result, ..abi::IoctlOut::default() });
    Ok(())
}
