//! The data half of a READ or WRITE: which host file, which range, which way.
//!
//! The file system decides *what* is to be moved and answers with a [`Transfer`]; the ring, which
//! alone knows the guest's pages, decides *how* (at once, by io_uring, by a blocking call).

use std::sync::Arc;

use crate::extents::{HostFile, Passage};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the host file to guest memory (FUSE_READ).
    Read,
    /// From guest memory to the host file (FUSE_WRITE).
    Write,
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
    /// In a read: what lies behind the end of the file is zeroes, and not less.
    pub pad: bool,
    /// Keeps whoever wants to change the file under it waiting, where it came through the window.
    pub passage: Option<Passage>,
}
