//! The data half of a READ or WRITE: which host file, which range, which way.
//!
//! The file system decides *what* is to be moved and answers with a [`Transfer`]; the ring, which
//! alone knows the guest's pages, decides *how* (at once, by io_uring, by a blocking call).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the host file to guest memory (FUSE_READ).
    Read,
    /// From guest memory to the host file (FUSE_WRITE).
    Write,
}

/// An `O_DIRECT` descriptor of a file, and what it demands (`STATX_DIOALIGN`).
#[derive(Debug)]
pub struct DirectFile {
    /// Opened with `O_DIRECT`.
    pub file: OwnedFd,
    /// Every buffer address must be a multiple of this many bytes.
    pub memory_align: u32,
    /// Offset and every buffer length must be a multiple of this many bytes.
    pub offset_align: u32,
}

/// A host file that bytes are moved from or to. Its descriptors stay open as long as it lives.
pub trait HostFile: fmt::Debug + Send + Sync {
    /// The file by way of the host's page cache: right for every offset, length and address.
    fn buffered(&self) -> BorrowedFd<'_>;

    /// The file past the host's page cache, where that is to be had.
    fn direct(&self) -> Option<&DirectFile>;
}

/// A descriptor that goes by way of the page cache.
impl HostFile for OwnedFd {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        None
    }
}

/// One movement of bytes between guest memory and a host file.
///
/// Holding it keeps the file open, so a RELEASE that overtakes it does no harm.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// Byte offset in the file; offset plus length does not pass `i64::MAX`.
    pub offset: u64,
    /// Bytes to move.
    pub len: u32,
    /// The file.
    pub file: Arc<dyn HostFile>,
    /// Go past the host's page cache where the file and this request's alignment allow it.
    pub direct: bool,
    /// `RWF_*` flags of `preadv2(2)`/`pwritev2(2)`: `RWF_APPEND` for an append, `RWF_DSYNC` or
    /// `RWF_SYNC` where the guest's open asks for it.
    pub rw_flags: i32,
}
