//! How do operations on ranges of a file travel?

use super::wire;

wire! {
    /// `struct fuse_fallocate_in` (7.19).
    FallocateIn: 32 {
        /// Handle.
        fh: u64,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_lseek_in` (7.24).
    LseekIn: 24 {
        /// Handle.
        fh: u64,
        /// From here on.
        offset: u64,
        /// `SEEK_DATA` or `SEEK_HOLE`.
        whence: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_lseek_out` (7.24).
    LseekOut: 8 {
        /// Where it was found.
        offset: u64,
    }

    /// `struct fuse_copy_file_range_in` (7.28); the header's nodeid is the source.
    CopyFileRangeIn: 56 {
        /// Source handle.
        fh_in: u64,
        /// Source byte.
        off_in: u64,
        /// Destination node.
        nodeid_out: u64,
        /// Destination handle.
        fh_out: u64,
        /// Destination byte.
        off_out: u64,
        /// Bytes.
        len: u64,
        /// Zero.
        flags: u64,
    }

    /// `struct fuse_copy_file_range_out` (7.45): reply of COPY_FILE_RANGE_64.
    CopyFileRangeOut: 8 {
        /// Bytes copied.
        bytes_copied: u64,
    }

    /// `struct fuse_syncfs_in` (7.34).
    SyncfsIn: 8 {
        /// Zero.
        padding: u64,
    }
}
