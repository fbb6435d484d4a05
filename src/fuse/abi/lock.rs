//! How do locks travel?

use super::wire;

/// `fuse_file_lock.kind`: shared (`F_RDLCK`).
pub const F_RDLCK: u32 = 0;
/// `fuse_file_lock.kind`: exclusive (`F_WRLCK`).
pub const F_WRLCK: u32 = 1;
/// `fuse_file_lock.kind`: none (`F_UNLCK`).
pub const F_UNLCK: u32 = 2;

wire! {
    /// `struct fuse_file_lock`.
    FileLock: 24 {
        /// First byte.
        start: u64,
        /// Last byte; `i64::MAX` for the end of the file.
        end: u64,
        /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
        kind: u32,
        /// Holder, by thread group.
        pid: u32,
    }

    /// `struct fuse_lk_in`: GETLK, SETLK, SETLKW.
    LkIn: 48 {
        /// Handle.
        fh: u64,
        /// Owner.
        owner: u64,
        /// The lock.
        lk: FileLock,
        /// `FUSE_LK_FLOCK`.
        lk_flags: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_lk_out`: reply of GETLK.
    LkOut: 24 {
        /// The lock in the way.
        lk: FileLock,
    }
}
