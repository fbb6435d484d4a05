//! How do opens and their I/O travel?

use super::wire;

wire! {
    /// `struct fuse_open_in`: OPEN and OPENDIR.
    OpenIn: 8 {
        /// `O_*`.
        flags: u32,
        /// `FUSE_OPEN_*` (7.33).
        open_flags: u32,
    }

    /// `struct fuse_create_in`: CREATE and TMPFILE; the name and extensions follow.
    CreateIn: 16 {
        /// `O_*`.
        flags: u32,
        /// Type and permissions.
        mode: u32,
        /// The caller's umask.
        umask: u32,
        /// `FUSE_OPEN_*` (7.33).
        open_flags: u32,
    }

    /// `struct fuse_open_out`.
    OpenOut: 16 {
        /// Handle.
        fh: u64,
        /// `FOPEN_*`.
        open_flags: u32,
        /// Only with `FOPEN_PASSTHROUGH` (7.40), which has no meaning on virtio-fs.
        backing_id: i32,
    }

    /// `struct fuse_release_in`: RELEASE and RELEASEDIR.
    ReleaseIn: 24 {
        /// Handle.
        fh: u64,
        /// `O_*`.
        flags: u32,
        /// `FUSE_RELEASE_*`.
        release_flags: u32,
        /// Owner of the locks that end.
        lock_owner: u64,
    }

    /// `struct fuse_flush_in`.
    FlushIn: 24 {
        /// Handle.
        fh: u64,
        /// Zero.
        unused: u32,
        /// Zero.
        padding: u32,
        /// Owner of the locks that end.
        lock_owner: u64,
    }

    /// `struct fuse_read_in`: READ, READDIR and READDIRPLUS.
    ReadIn: 40 {
        /// Handle.
        fh: u64,
        /// Byte in the file, or a directory cookie.
        offset: u64,
        /// Bytes.
        size: u32,
        /// `FUSE_READ_*`.
        read_flags: u32,
        /// Valid with `FUSE_READ_LOCKOWNER`.
        lock_owner: u64,
        /// The open's `O_*` of this moment.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_write_in`; the bytes follow.
    WriteIn: 40 {
        /// Handle.
        fh: u64,
        /// Byte in the file.
        offset: u64,
        /// Bytes.
        size: u32,
        /// `FUSE_WRITE_*`.
        write_flags: u32,
        /// Valid with `FUSE_WRITE_LOCKOWNER`.
        lock_owner: u64,
        /// The open's `O_*` of this moment.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_write_out`: WRITE and COPY_FILE_RANGE.
    WriteOut: 8 {
        /// Bytes written.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_fsync_in`: FSYNC and FSYNCDIR.
    FsyncIn: 16 {
        /// Handle.
        fh: u64,
        /// `FUSE_FSYNC_FDATASYNC`.
        fsync_flags: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_ioctl_in` (7.11); `in_size` bytes follow.
    IoctlIn: 32 {
        /// Handle.
        fh: u64,
        /// `FUSE_IOCTL_*`.
        flags: u32,
        /// The command.
        cmd: u32,
        /// The guest's pointer or value.
        arg: u64,
        /// Bytes given.
        in_size: u32,
        /// Bytes wanted at most.
        out_size: u32,
    }

    /// `struct fuse_ioctl_out` (7.11); the answer's bytes follow.
    IoctlOut: 16 {
        /// What `ioctl(2)` returns.
        result: i32,
        /// `FUSE_IOCTL_RETRY`.
        flags: u32,
        /// Only with `FUSE_IOCTL_RETRY`.
        in_iovs: u32,
        /// Only with `FUSE_IOCTL_RETRY`.
        out_iovs: u32,
    }
}
