//! Which flags do requests and replies carry, other than those of INIT?

/// `fuse_attr.flags`: the file is the root of another mount, which the guest then mounts too (7.32).
pub const FUSE_ATTR_SUBMOUNT: u32 = 1 << 0;
/// `fuse_attr.flags`: use DAX for this file (7.36).
pub const FUSE_ATTR_DAX: u32 = 1 << 1;

/// `fuse_getattr_in.getattr_flags`: `fh` is valid.
pub const FUSE_GETATTR_FH: u32 = 1 << 0;

/// `fuse_setattr_in.valid`: `mode`.
pub const FATTR_MODE: u32 = 1 << 0;
/// `fuse_setattr_in.valid`: `uid`.
pub const FATTR_UID: u32 = 1 << 1;
/// `fuse_setattr_in.valid`: `gid`.
pub const FATTR_GID: u32 = 1 << 2;
/// `fuse_setattr_in.valid`: `size`.
pub const FATTR_SIZE: u32 = 1 << 3;
/// `fuse_setattr_in.valid`: `atime`.
pub const FATTR_ATIME: u32 = 1 << 4;
/// `fuse_setattr_in.valid`: `mtime`.
pub const FATTR_MTIME: u32 = 1 << 5;
/// `fuse_setattr_in.valid`: `fh`.
pub const FATTR_FH: u32 = 1 << 6;
/// `fuse_setattr_in.valid`: the current time instead of the value of `atime`.
pub const FATTR_ATIME_NOW: u32 = 1 << 7;
/// `fuse_setattr_in.valid`: the current time instead of the value of `mtime`.
pub const FATTR_MTIME_NOW: u32 = 1 << 8;
/// `fuse_setattr_in.valid`: `lock_owner`.
pub const FATTR_LOCKOWNER: u32 = 1 << 9;
/// `fuse_setattr_in.valid`: `ctime`.
pub const FATTR_CTIME: u32 = 1 << 10;
/// `fuse_setattr_in.valid`: clear set-user-ID and set-group-ID (7.33).
pub const FATTR_KILL_SUIDGID: u32 = 1 << 11;

/// `fuse_open_out.open_flags`: pass by the guest's page cache.
pub const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// `fuse_open_out.open_flags`: what the guest has cached of the file stays valid.
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// `fuse_open_out.open_flags`: the file cannot seek.
pub const FOPEN_NONSEEKABLE: u32 = 1 << 2;
/// `fuse_open_out.open_flags`: the directory may be cached (7.28).
pub const FOPEN_CACHE_DIR: u32 = 1 << 3;
/// `fuse_open_out.open_flags`: the file has no position.
pub const FOPEN_STREAM: u32 = 1 << 4;
/// `fuse_open_out.open_flags`: no FLUSH at close (7.35).
pub const FOPEN_NOFLUSH: u32 = 1 << 5;
/// `fuse_open_out.open_flags`: direct writes inside the file's size may run at the same time (7.38).
/// Means nothing without [`FOPEN_DIRECT_IO`].
pub const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
/// `fuse_open_out.open_flags`: I/O goes to a backing file of the guest (7.40). A virtio-fs guest cannot
/// resolve the backing id and fails the open with `EIO`, so it is never sent.
pub const FOPEN_PASSTHROUGH: u32 = 1 << 7;

/// `open_flags` of OPEN and CREATE: clear set-user-ID and set-group-ID with `O_TRUNC` (7.33).
pub const FUSE_OPEN_KILL_SUIDGID: u32 = 1 << 0;

/// `fuse_release_in.release_flags`: end the owner's record locks.
pub const FUSE_RELEASE_FLUSH: u32 = 1 << 0;
/// `fuse_release_in.release_flags`: end the open's `flock(2)` (7.17).
pub const FUSE_RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;

/// `fuse_read_in.read_flags`: `lock_owner` is valid.
pub const FUSE_READ_LOCKOWNER: u32 = 1 << 1;

/// `fuse_write_in.write_flags`: written back from the page cache, the handle is a guess.
pub const FUSE_WRITE_CACHE: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: `lock_owner` is valid.
pub const FUSE_WRITE_LOCKOWNER: u32 = 1 << 1;
/// `fuse_write_in.write_flags`: clear set-user-ID and set-group-ID (7.31; so named since 7.33).
pub const FUSE_WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// `fuse_fsync_in.fsync_flags`: data only.
pub const FUSE_FSYNC_FDATASYNC: u32 = 1 << 0;

/// `fuse_lk_in.lk_flags`: a lock of `flock(2)` (7.17).
pub const FUSE_LK_FLOCK: u32 = 1 << 0;

/// `fuse_setxattr_in.setxattr_flags`: clear set-group-ID with an access ACL (7.33).
pub const FUSE_SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// `fuse_ioctl_in.flags`: a 32-bit caller on a 64-bit kernel.
pub const FUSE_IOCTL_COMPAT: u32 = 1 << 0;
/// `fuse_ioctl_in.flags`: the server may ask for more of the caller's memory.
pub const FUSE_IOCTL_UNRESTRICTED: u32 = 1 << 1;
/// `fuse_ioctl_out.flags`: ask again with these iovecs.
pub const FUSE_IOCTL_RETRY: u32 = 1 << 2;
/// `fuse_ioctl_in.flags`: the command is a 32-bit one (7.16).
pub const FUSE_IOCTL_32BIT: u32 = 1 << 3;
/// `fuse_ioctl_in.flags`: on a directory (7.18).
pub const FUSE_IOCTL_DIR: u32 = 1 << 4;
/// `fuse_ioctl_in.flags`: an x32 caller (7.30).
pub const FUSE_IOCTL_COMPAT_X32: u32 = 1 << 5;
