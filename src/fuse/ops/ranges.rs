//! Operations on ranges of a file and on all of it: FALLOCATE, LSEEK, COPY_FILE_RANGE and SYNCFS.

use rustix::io::Errno;

use super::position;
use crate::fuse::FileSystem;
use crate::fuse::abi;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::{CopyRange, Fh, NodeId, Result};

/// As much as COPY_FILE_RANGE copies at once: its answer has 32 bits, and this is the largest number of
/// whole pages that they can count.
const COPY_MAX: u64 = 0xffff_f000;

/// FALLOCATE.
///
/// # Errors
/// `EINVAL` for no bytes, `EFBIG` beyond the largest position, as `fallocate(2)`.
pub(in crate::fuse) fn fallocate<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let range: abi::FallocateIn = body.take()?;
    let offset = position(range.offset)?;
    let length = position(range.length)?;
    if length == 0 {
        return Err(Errno::INVAL);
    }
    position(offset + length).map_err(|_| Errno::FBIG)?;
    fs.fallocate(request.node(), Fh(range.fh), offset, length, range.mode)
}

/// LSEEK. The guest keeps positions itself and asks only for what needs the file's map.
pub(in crate::fuse) fn lseek<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let seek: abi::LseekIn = body.take()?;
    let asked = i32::try_from(seek.whence).unwrap_or(-1);
    if asked != libc::SEEK_DATA && asked != libc::SEEK_HOLE {
        return Err(Errno::INVAL);
    }
    let offset = fs.lseek(request.node(), Fh(seek.fh), position(seek.offset)?, seek.whence)?;
    reply.push(&abi::LseekOut { offset })
}

/// COPY_FILE_RANGE: the same with an answer of 32 bits.
pub(in crate::fuse) fn copy_file_range<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let copied = copy(fs, request, COPY_MAX)?;
    let size = u32::try_from(copied).map_err(|_| Errno::IO)?;
    reply.push(&abi::WriteOut { size, padding: 0 })
}

/// COPY_FILE_RANGE_64.
pub(in crate::fuse) fn copy_file_range_64<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let bytes_copied = copy(fs, request, i64::MAX.cast_unsigned())?;
    reply.push(&abi::CopyFileRangeOut { bytes_copied })
}

fn copy<F: FileSystem>(fs: &F, request: &Request<'_>, most: u64) -> Result<u64> {
    let mut body = request.body;
    let wire: abi::CopyFileRangeIn = body.take()?;
    let range = CopyRange {
        fh_in: Fh(wire.fh_in),
        offset_in: position(wire.off_in)?,
        node_out: NodeId(wire.nodeid_out),
        fh_out: Fh(wire.fh_out),
        offset_out: position(wire.off_out)?,
        len: wire.len.min(most),
        flags: wire.flags,
    };
    fs.copy_file_range(request.node(), &range)
}

/// SYNCFS.
pub(in crate::fuse) fn syncfs<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    body.take::<abi::SyncfsIn>()?;
    fs.syncfs(request.node())
}
