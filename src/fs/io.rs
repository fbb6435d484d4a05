//! Where are the bytes of a READ, and where do those of a WRITE go?
//!
//! Nothing is moved here and nothing is locked: the answer is a [`Transfer`], which the ring carries out.
//! The order of overlapping writes is the guest's business, whose inode lock decides which of them may
//! run side by side; appends find the end of the file under the host's own lock (`RWF_APPEND`).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstatfs, openat, statx};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::handle::OpenFile;
use super::{DirectPolicy, Passthrough, open};
use crate::fuse::abi::FUSE_WRITEBACK_CACHE;
use crate::fuse::{DirectFile, Direction, Fh, IoRequest, NodeId, Result, Transfer};

/// What direct I/O demands where the kernel does not say (`STATX_DIOALIGN` is of Linux 6.1, and not every
/// file system fills it in): a page, or the file system's block where that is larger.
const CAUTIOUS_ALIGN: u32 = 4096;

const O_SYNC: u32 = libc::O_SYNC.cast_unsigned();
const O_DSYNC: u32 = libc::O_DSYNC.cast_unsigned();

/// READ.
///
/// # Errors
/// `EBADF`: no such handle, or not open for reading. `EINVAL`: the range passes `i64::MAX`.
pub(super) fn read(fs: &Passthrough, node: NodeId, fh: Fh, io: &IoRequest) -> Result<Transfer> {
    let file = fs.handles.file(node, fh)?;
    if !file.readable {
        return Err(Errno::BADF);
    }
    check_range(io, Errno::INVAL)?;
    if let Some(pin) = file.pin.get()
        && let Some(transfer) = pin.transfer(fs, &file, io, Direction::Read, 0)?
    {
        return Ok(transfer);
    }
    Ok(transfer(fs, file, io, Direction::Read, 0))
}

/// WRITE.
///
/// # Errors
/// `EBADF`: no such handle, or not open for writing. `EFBIG`: the range passes `i64::MAX`.
pub(super) fn write(fs: &Passthrough, node: NodeId, fh: Fh, io: &IoRequest) -> Result<Transfer> {
    let file = fs.handles.file(node, fh)?;
    if !file.writable {
        return Err(Errno::BADF);
    }
    check_range(io, Errno::FBIG)?;
    if io.kill_suidgid {
        open::drop_set_id(&file.fd)?;
    }
    if let Some(pin) = file.pin.get()
        && let Some(transfer) = pin.transfer(fs, &file, io, Direction::Write, write_flags(fs, io))?
    {
        return Ok(transfer);
    }
    Ok(transfer(fs, file, io, Direction::Write, write_flags(fs, io)))
}

fn check_range(io: &IoRequest, error: Errno) -> Result<()> {
    let end = io.offset.checked_add(io.size.into()).ok_or(error)?;
    i64::try_from(end).map(drop).map_err(|_| error)
}

/// `RWF_*` of a write. What comes from the guest's cache has its place already, and is made durable by the
/// FSYNC that the guest sends after it.
fn write_flags(fs: &Passthrough, io: &IoRequest) -> i32 {
    if io.from_cache {
        return 0;
    }
    let guest = OFlags::from_bits_retain(io.open_flags);
    let mut flags = 0;
    // With a writeback cache only the guest knows where the file ends.
    if guest.contains(OFlags::APPEND) && !fs.negotiated(FUSE_WRITEBACK_CACHE) {
        flags |= libc::RWF_APPEND;
    }
    // Not rustix's constants: there O_DSYNC is the same as O_SYNC, which has one bit more.
    if io.open_flags & O_SYNC == O_SYNC {
        flags |= libc::RWF_SYNC;
    } else if io.open_flags & O_DSYNC != 0 {
        flags |= libc::RWF_DSYNC;
    }
    flags
}

fn transfer(
    fs: &Passthrough,
    file: Arc<OpenFile>,
    io: &IoRequest,
    direction: Direction,
    rw_flags: i32,
) -> Transfer {
    let asked = OFlags::from_bits_retain(io.open_flags).contains(OFlags::DIRECT);
    let allowed = fs.config.allow_direct_io || fs.config.direct != DirectPolicy::Never;
    let direct = asked && allowed && has_direct(fs, &file);
    Transfer { direction, offset: io.offset, len: io.size, file, direct, rw_flags, pad: false, passage: None }
}

/// Whether the file has a descriptor past the host's page cache; opens it the first time that it is wanted.
fn has_direct(fs: &Passthrough, file: &OpenFile) -> bool {
    if let Some(known) = file.direct.get() {
        return known.is_some();
    }
    let access = match (file.readable, file.writable) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    let opened = fs
        .bounds
        .descriptor()
        .and_then(|room| Ok(open_direct(fs, &file.fd, access)?.map(|direct| (direct, room))));
    let opened = match opened {
        // A shortage passes, everything else is for good.
        Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => return false,
        opened => opened.ok().flatten(),
    };
    // Of two threads that come here at once one closes its descriptor again.
    file.direct.get_or_init(|| opened).is_some()
}

/// Opens the file a second time, past the host's page cache; none where the file system says that it
/// cannot do that with this file.
pub(super) fn open_direct(fs: &Passthrough, file: impl AsFd, access: OFlags) -> Result<Option<DirectFile>> {
    let flags = access | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY;
    // By way of the open descriptor: the name may be gone and the file handle with it.
    let fd = openat(&fs.proc_self_fd, DecInt::from_fd(file).as_c_str(), flags, Mode::empty())?;
    let Some((memory_align, offset_align)) = alignment(&fd)? else { return Ok(None) };
    Ok(Some(DirectFile { file: fd, memory_align, offset_align }))
}

/// What direct I/O on this descriptor demands of addresses, and of offsets and lengths.
fn alignment(fd: &OwnedFd) -> Result<Option<(u32, u32)>> {
    let stat = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) {
        let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
        return Ok((memory != 0 && offset != 0).then_some((memory, offset)));
    }
    let block = u32::try_from(fstatfs(fd)?.f_bsize).unwrap_or(CAUTIOUS_ALIGN);
    let align = if block.is_power_of_two() { block.max(CAUTIOUS_ALIGN) } else { CAUTIOUS_ALIGN };
    Ok(Some((align, align)))
}
