//! What is a file of the host to those who move bytes?

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::blocks::Locate;

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

    /// Where a range of the file lies on the block device under it, if it is to be moved there: the device, and its address of the
    /// first byte. The answer holds for as long as the caller keeps those out who change the file.
    fn on_device(&self, _offset: u64, _len: u64) -> Option<(&DirectFile, u64)> {
        None
    }

    /// Whether [`buffered`](Self::buffered) is for questions and syncing only: what is in the page cache may be older than the file.
    fn avoids_cache(&self) -> bool {
        false
    }

    /// The file as one whose blocks can be found, where it is.
    fn blocks(&self) -> Option<&dyn Locate> {
        None
    }

    /// What the descriptors stand in for is brought up to date, when so many bytes were moved and nobody was told yet.
    /// May wait.
    ///
    /// # Errors
    /// The bytes did not get where they belong; or those of `moved`.
    fn settle(&self, moved: io::Result<usize>) -> io::Result<usize> {
        moved
    }
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
