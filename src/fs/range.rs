//! What is done to a range of a file without its bytes passing through the guest?

use rustix::fs::{
    FallocateFlags, SeekFrom, copy_file_range as host_copy, fallocate as host_fallocate, fstat, seek,
};
use rustix::io::Errno;

use super::Passthrough;
use super::credentials::WithoutFsetid;
use super::extents::Extents;
use crate::fuse::abi::FUSE_HANDLE_KILLPRIV_V2;
use crate::fuse::{CopyRange, Fh, NodeId, Result};

/// `FALLOC_FL_WRITE_ZEROES` of Linux 6.17.
const WRITE_ZEROES: u32 = 0x80;
/// What one `copy_file_range(2)` moves at most (`MAX_RW_COUNT`); also fits the 32-bit answer of
/// COPY_FILE_RANGE.
const COPY_MAX: u64 = 0x7fff_f000;

/// FALLOCATE.
///
/// # Errors
/// `EBADF`: no such handle. `EOPNOTSUPP`: a mode that is unknown, or that the host's file system lacks.
/// `EFBIG`: the range passes `i64::MAX`, or more is to be reserved than one request may ask for.
pub(super) fn fallocate(
    fs: &Passthrough,
    node: NodeId,
    fh: Fh,
    offset: u64,
    len: u64,
    mode: u32,
) -> Result<()> {
    let file = fs.handles.file(node, fh)?;
    check_end(offset, len)?;
    // FALLOC_FL_NO_HIDE_STALE is left out: it would show the guest what others have deleted.
    let known = FallocateFlags::KEEP_SIZE
        | FallocateFlags::PUNCH_HOLE
        | FallocateFlags::COLLAPSE_RANGE
        | FallocateFlags::ZERO_RANGE
        | FallocateFlags::INSERT_RANGE
        | FallocateFlags::UNSHARE_RANGE
        | FallocateFlags::from_bits_retain(WRITE_ZEROES);
    // What was read before is something else afterwards, or lies elsewhere. (Space that is added is not.)
    let changing = FallocateFlags::PUNCH_HOLE
        | FallocateFlags::COLLAPSE_RANGE
        | FallocateFlags::ZERO_RANGE
        | FallocateFlags::INSERT_RANGE
        | FallocateFlags::from_bits_retain(WRITE_ZEROES);
    let mode = FallocateFlags::from_bits_retain(mode);
    if !known.contains(mode) {
        return Err(Errno::OPNOTSUPP);
    }
    // Who is told that it cannot be done writes zeroes instead, which can.
    let fence = || fs.fence_to_free(&file.inode).map_err(|_| Errno::OPNOTSUPP);
    let takes_space = !mode.intersects(
        FallocateFlags::PUNCH_HOLE | FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE,
    );
    if takes_space && usize::try_from(len).map_or(true, |len| len > fs.bounds.allocate.max()) {
        fs.bounds.allocate.refuse();
        return Err(Errno::FBIG);
    }
    let _fence = mode.intersects(changing).then(fence).transpose()?;
    let _kill = kill_privileges(fs)?;
    host_fallocate(&file.fd, mode, offset, len)
}

/// LSEEK. The position of the host's descriptor changes, which nothing here goes by.
///
/// # Errors
/// `EBADF`: no such handle. `ENXIO`: nothing to be found from there on. `EINVAL`: another `whence`.
pub(super) fn lseek(fs: &Passthrough, node: NodeId, fh: Fh, offset: u64, whence: u32) -> Result<u64> {
    let file = fs.handles.file(node, fh)?;
    let from = match i32::try_from(whence).map_err(|_| Errno::INVAL)? {
        libc::SEEK_DATA => SeekFrom::Data(offset),
        libc::SEEK_HOLE => SeekFrom::Hole(offset),
        // The guest does these itself, except where it wants to know the size.
        libc::SEEK_END => {
            let size = fstat(&file.fd)?.st_size;
            let back = i64::from_ne_bytes(offset.to_ne_bytes());
            return size.checked_add(back).and_then(|to| u64::try_from(to).ok()).ok_or(Errno::INVAL);
        }
        libc::SEEK_SET => return i64::try_from(offset).map(|_| offset).map_err(|_| Errno::INVAL),
        _ => return Err(Errno::INVAL),
    };
    if i64::try_from(offset).is_err() {
        return Err(Errno::NXIO); // As for any offset behind the end.
    }
    seek(&file.fd, from)
}

/// COPY_FILE_RANGE.
///
/// # Errors
/// `EBADF`: no such handle. `EINVAL`: flags, or ranges of one file that overlap. `EFBIG`: a range passes
/// `i64::MAX`. `EXDEV`, `EOPNOTSUPP`: the guest copies by reading and writing instead.
pub(super) fn copy_file_range(fs: &Passthrough, node: NodeId, range: &CopyRange) -> Result<u64> {
    let source = fs.handles.file(node, range.fh_in)?;
    let target = fs.handles.file(range.node_out, range.fh_out)?;
    if range.flags != 0 {
        return Err(Errno::INVAL);
    }
    // It could share blocks, or find in the page cache what is older than the guest's own writes.
    if fs.extents().is_some_and(Extents::is_on_device) {
        return Err(Errno::OPNOTSUPP);
    }
    let len = range.len.min(COPY_MAX);
    check_end(range.offset_in, len)?;
    check_end(range.offset_out, len)?;
    let (mut from, mut to) = (range.offset_in, range.offset_out);
    let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
    let _fences = fs.fence_copy(&source.inode, &target.inode);
    let _kill = kill_privileges(fs)?;
    let copied = host_copy(&source.fd, Some(&mut from), &target.fd, Some(&mut to), len)?;
    u64::try_from(copied).map_err(|_| Errno::OVERFLOW)
}

/// With `FUSE_HANDLE_KILLPRIV_V2` the guest leaves it to us to take set-ID bits from a file that changes, and does not say here
/// whether the caller may keep them: nobody does.
fn kill_privileges(fs: &Passthrough) -> Result<Option<WithoutFsetid>> {
    fs.negotiated(FUSE_HANDLE_KILLPRIV_V2).then(WithoutFsetid::enter).transpose()
}

fn check_end(offset: u64, len: u64) -> Result<()> {
    let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
    i64::try_from(end).map(drop).map_err(|_| Errno::FBIG)
}
