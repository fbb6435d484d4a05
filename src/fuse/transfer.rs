//! The data half of a READ or WRITE: which host file, which range, which way.
//!
//! The file system decides *what* is to be moved and answers with a [`Transfer`]; the ring, which
//! alone knows the guest's pages, decides *how* (at once, by io_uring, by a blocking call).

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the host file to guest memory (FUSE_READ).
    Read,
    /// From guest memory to the host file (FUSE_WRITE).
    Write,
}

/// An `O_DIRECT` descriptor of the same file, and what it demands (`STATX_DIOALIGN`).
#[derive(Clone, Debug)]
pub struct DirectFile {
    /// Opened with `O_DIRECT`.
    pub file: Arc<OwnedFd>,
    /// Every buffer address must be a multiple of this many bytes.
    pub memory_align: u32,
    /// Offset and every buffer length must be a multiple of this many bytes.
    pub offset_align: u32,
}

/// One movement of bytes between guest memory and a host file.
///
/// Holding it keeps the descriptors open, so a RELEASE that overtakes it does no harm.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// Byte offset in the file; offset plus length does not pass `i64::MAX`.
    pub offset: u64,
    /// Bytes to move.
    pub len: u32,
    /// The file by way of the host's page cache: right for every offset, length and address.
    pub buffered: Arc<OwnedFd>,
    /// The file past the host's page cache: to be used where this request's alignment allows it.
    pub direct: Option<DirectFile>,
    /// `RWF_*` flags of `preadv2(2)`/`pwritev2(2)`: `RWF_APPEND` for an append, `RWF_DSYNC` or
    /// `RWF_SYNC` where the guest's open asks for it.
    pub rw_flags: i32,
}
