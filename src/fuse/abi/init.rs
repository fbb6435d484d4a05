//! What do guest and server tell each other at mount? INIT and its flags.
//!
//! Flags are 64 bits wide here; on the wire the upper half travels in `flags2` (7.36).

use super::wire;

wire! {
    /// The part of `struct fuse_init_in` that every guest sends.
    InitIn: 16 {
        /// The guest's major version.
        major: u32,
        /// The guest's minor version.
        minor: u32,
        /// Bytes that the guest would read ahead.
        max_readahead: u32,
        /// Lower half of the flags.
        flags: u32,
    }

    /// What follows in `struct fuse_init_in` since 7.36, valid with [`FUSE_INIT_EXT`].
    InitInExt: 48 {
        /// Upper half of the flags.
        flags2: u32,
        /// Zero.
        unused: [u32; 11],
    }

    /// `struct fuse_init_out`; 64 bytes since 7.23.
    InitOut: 64 {
        /// The server's major version.
        major: u32,
        /// The server's minor version.
        minor: u32,
        /// Bytes that the guest may read ahead.
        max_readahead: u32,
        /// Lower half of the flags.
        flags: u32,
        /// Requests in the background at most (7.13).
        max_background: u16,
        /// From this many on the guest holds asynchronous writers back (7.13).
        congestion_threshold: u16,
        /// Bytes of a WRITE at most.
        max_write: u32,
        /// Granularity of times in nanoseconds (7.23).
        time_gran: u32,
        /// Pages of a request at most, with [`FUSE_MAX_PAGES`] (7.28).
        max_pages: u16,
        /// Binary logarithm of the alignment of DAX mappings, with [`FUSE_MAP_ALIGNMENT`] (7.31).
        map_alignment: u16,
        /// Upper half of the flags, with [`FUSE_INIT_EXT`] (7.36).
        flags2: u32,
        /// Depth of stacked file systems, with [`FUSE_PASSTHROUGH`] (7.40).
        max_stack_depth: u32,
        /// Seconds, with [`FUSE_REQUEST_TIMEOUT`] (7.43).
        request_timeout: u16,
        /// Zero.
        unused: [u16; 11],
    }
}

/// READs may be sent at the same time.
pub const FUSE_ASYNC_READ: u64 = 1 << 0;
/// Record locks are the server's.
pub const FUSE_POSIX_LOCKS: u64 = 1 << 1;
/// Handle in requests about attributes; never came to be.
pub const FUSE_FILE_OPS: u64 = 1 << 2;
/// OPEN truncates.
pub const FUSE_ATOMIC_O_TRUNC: u64 = 1 << 3;
/// LOOKUP of `.` and `..` is served.
pub const FUSE_EXPORT_SUPPORT: u64 = 1 << 4;
/// WRITE may be longer than 4 KiB.
pub const FUSE_BIG_WRITES: u64 = 1 << 5;
/// The server applies the umask.
pub const FUSE_DONT_MASK: u64 = 1 << 6;
/// Splice on `/dev/fuse`.
pub const FUSE_SPLICE_WRITE: u64 = 1 << 7;
/// Splice on `/dev/fuse`.
pub const FUSE_SPLICE_MOVE: u64 = 1 << 8;
/// Splice on `/dev/fuse`.
pub const FUSE_SPLICE_READ: u64 = 1 << 9;
/// `flock(2)` is the server's.
pub const FUSE_FLOCK_LOCKS: u64 = 1 << 10;
/// IOCTL on directories.
pub const FUSE_HAS_IOCTL_DIR: u64 = 1 << 11;
/// Cached data is dropped when size or mtime changed.
pub const FUSE_AUTO_INVAL_DATA: u64 = 1 << 12;
/// READDIRPLUS is served.
pub const FUSE_DO_READDIRPLUS: u64 = 1 << 13;
/// READDIRPLUS where the guest thinks it useful.
pub const FUSE_READDIRPLUS_AUTO: u64 = 1 << 14;
/// Direct I/O may be asynchronous.
pub const FUSE_ASYNC_DIO: u64 = 1 << 15;
/// The guest's page cache holds writes back.
pub const FUSE_WRITEBACK_CACHE: u64 = 1 << 16;
/// OPEN may be answered with `ENOSYS`: no handles.
pub const FUSE_NO_OPEN_SUPPORT: u64 = 1 << 17;
/// LOOKUP and READDIR in one directory at the same time.
pub const FUSE_PARALLEL_DIROPS: u64 = 1 << 18;
/// The server clears set-user-ID and set-group-ID.
pub const FUSE_HANDLE_KILLPRIV: u64 = 1 << 19;
/// ACLs count.
pub const FUSE_POSIX_ACL: u64 = 1 << 20;
/// `ECONNABORTED` on `/dev/fuse`.
pub const FUSE_ABORT_ERROR: u64 = 1 << 21;
/// `max_pages` is valid.
pub const FUSE_MAX_PAGES: u64 = 1 << 22;
/// The answer to READLINK may be cached.
pub const FUSE_CACHE_SYMLINKS: u64 = 1 << 23;
/// OPENDIR may be answered with `ENOSYS`.
pub const FUSE_NO_OPENDIR_SUPPORT: u64 = 1 << 24;
/// Cached data is dropped on demand only.
pub const FUSE_EXPLICIT_INVAL_DATA: u64 = 1 << 25;
/// `map_alignment` is valid.
pub const FUSE_MAP_ALIGNMENT: u64 = 1 << 26;
/// Submounts are announced.
pub const FUSE_SUBMOUNTS: u64 = 1 << 27;
/// The server clears set-user-ID and set-group-ID when told to.
pub const FUSE_HANDLE_KILLPRIV_V2: u64 = 1 << 28;
/// SETXATTR carries `setxattr_flags`.
pub const FUSE_SETXATTR_EXT: u64 = 1 << 29;
/// `flags2` is valid.
pub const FUSE_INIT_EXT: u64 = 1 << 30;
/// Never used.
pub const FUSE_INIT_RESERVED: u64 = 1 << 31;
/// Security contexts at creation.
pub const FUSE_SECURITY_CTX: u64 = 1 << 32;
/// DAX by file.
pub const FUSE_HAS_INODE_DAX: u64 = 1 << 33;
/// One supplementary group at creation.
pub const FUSE_CREATE_SUPP_GROUP: u64 = 1 << 34;
/// Invalidation of a name may only expire it.
pub const FUSE_HAS_EXPIRE_ONLY: u64 = 1 << 35;
/// A file opened with `FOPEN_DIRECT_IO` may be mapped shared.
pub const FUSE_DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
/// Backing files of the guest.
pub const FUSE_PASSTHROUGH: u64 = 1 << 37;
/// No export by NFS.
pub const FUSE_NO_EXPORT_SUPPORT: u64 = 1 << 38;
/// Requests may be sent again.
pub const FUSE_HAS_RESEND: u64 = 1 << 39;
/// Idmapped mounts.
pub const FUSE_ALLOW_IDMAP: u64 = 1 << 40;
/// io_uring instead of `/dev/fuse`.
pub const FUSE_OVER_IO_URING: u64 = 1 << 41;
/// `request_timeout` is valid.
pub const FUSE_REQUEST_TIMEOUT: u64 = 1 << 42;
/// Buffer pools for io_uring.
pub const FUSE_HAS_IO_URING_BUFPOOL: u64 = 1 << 43;
