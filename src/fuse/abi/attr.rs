//! How do attributes travel? GETATTR, SETATTR, STATX, STATFS, ACCESS and the entry of a LOOKUP.

use super::wire;

wire! {
    /// `struct fuse_attr`.
    Attr: 88 {
        /// Inode number.
        ino: u64,
        /// Bytes.
        size: u64,
        /// Units of 512 bytes.
        blocks: u64,
        /// Last access, seconds.
        atime: u64,
        /// Last change of contents, seconds.
        mtime: u64,
        /// Last change of the inode, seconds.
        ctime: u64,
        /// Nanoseconds of `atime`.
        atimensec: u32,
        /// Nanoseconds of `mtime`.
        mtimensec: u32,
        /// Nanoseconds of `ctime`.
        ctimensec: u32,
        /// Type and permissions.
        mode: u32,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number, in the kernel's 32-bit encoding (`new_encode_dev`).
        rdev: u32,
        /// Preferred I/O size in bytes.
        blksize: u32,
        /// `FUSE_ATTR_*` (7.32).
        flags: u32,
    }

    /// `struct fuse_getattr_in`.
    GetattrIn: 16 {
        /// `FUSE_GETATTR_FH`.
        getattr_flags: u32,
        /// Zero.
        dummy: u32,
        /// Valid with `FUSE_GETATTR_FH`.
        fh: u64,
    }

    /// `struct fuse_attr_out`: reply of GETATTR and SETATTR.
    AttrOut: 104 {
        /// Validity, seconds.
        attr_valid: u64,
        /// Validity, nanoseconds.
        attr_valid_nsec: u32,
        /// Zero.
        dummy: u32,
        /// The attributes.
        attr: Attr,
    }

    /// `struct fuse_setattr_in`.
    SetattrIn: 88 {
        /// `FATTR_*`: which of the following count.
        valid: u32,
        /// Zero.
        padding: u32,
        /// Handle.
        fh: u64,
        /// Bytes.
        size: u64,
        /// Owner of locks (a relic of mandatory locking).
        lock_owner: u64,
        /// Seconds.
        atime: u64,
        /// Seconds.
        mtime: u64,
        /// Seconds.
        ctime: u64,
        /// Nanoseconds.
        atimensec: u32,
        /// Nanoseconds.
        mtimensec: u32,
        /// Nanoseconds.
        ctimensec: u32,
        /// Type and permissions.
        mode: u32,
        /// Zero.
        unused4: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Zero.
        unused5: u32,
    }

    /// `struct fuse_entry_out`: reply of LOOKUP and of everything that makes a name.
    EntryOut: 128 {
        /// Node; 0 for a negative entry.
        nodeid: u64,
        /// Generation of the nodeid.
        generation: u64,
        /// Validity of the name, seconds.
        entry_valid: u64,
        /// Validity of the attributes, seconds.
        attr_valid: u64,
        /// Validity of the name, nanoseconds.
        entry_valid_nsec: u32,
        /// Validity of the attributes, nanoseconds.
        attr_valid_nsec: u32,
        /// The attributes.
        attr: Attr,
    }

    /// `struct fuse_sx_time`: a time of STATX.
    SxTime: 16 {
        /// Seconds.
        tv_sec: i64,
        /// Nanoseconds.
        tv_nsec: u32,
        /// Zero.
        reserved: i32,
    }

    /// `struct fuse_statx`: as `struct statx`, up to the device numbers.
    Statx: 256 {
        /// `STATX_*`: what is valid.
        mask: u32,
        /// Preferred I/O size in bytes.
        blksize: u32,
        /// `STATX_ATTR_*`.
        attributes: u64,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Type and permissions.
        mode: u16,
        /// Zero.
        spare0: u16,
        /// Inode number.
        ino: u64,
        /// Bytes.
        size: u64,
        /// Units of 512 bytes.
        blocks: u64,
        /// Which of `attributes` are supported.
        attributes_mask: u64,
        /// Last access.
        atime: SxTime,
        /// Birth.
        btime: SxTime,
        /// Last change of the inode.
        ctime: SxTime,
        /// Last change of contents.
        mtime: SxTime,
        /// Device number of a device node, major.
        rdev_major: u32,
        /// Device number of a device node, minor.
        rdev_minor: u32,
        /// Device that holds the file, major.
        dev_major: u32,
        /// Device that holds the file, minor.
        dev_minor: u32,
        /// Zero.
        spare2: [u64; 14],
    }

    /// `struct fuse_statx_in` (7.39).
    StatxIn: 24 {
        /// `FUSE_GETATTR_FH`.
        getattr_flags: u32,
        /// Zero.
        reserved: u32,
        /// Valid with `FUSE_GETATTR_FH`.
        fh: u64,
        /// `AT_STATX_*`.
        sx_flags: u32,
        /// `STATX_*`: what is asked for.
        sx_mask: u32,
    }

    /// `struct fuse_statx_out` (7.39).
    StatxOut: 288 {
        /// Validity, seconds.
        attr_valid: u64,
        /// Validity, nanoseconds.
        attr_valid_nsec: u32,
        /// Zero.
        flags: u32,
        /// Zero.
        spare: [u64; 2],
        /// The attributes.
        stat: Statx,
    }

    /// `struct fuse_statfs_out`, that is `struct fuse_kstatfs`.
    StatfsOut: 80 {
        /// Size in units of `frsize`.
        blocks: u64,
        /// Free.
        bfree: u64,
        /// Free for unprivileged users.
        bavail: u64,
        /// Inodes.
        files: u64,
        /// Free inodes.
        ffree: u64,
        /// Preferred block size in bytes.
        bsize: u32,
        /// Longest name in bytes.
        namelen: u32,
        /// Unit of the counts in bytes.
        frsize: u32,
        /// Zero.
        padding: u32,
        /// Zero.
        spare: [u32; 6],
    }

    /// `struct fuse_access_in`.
    AccessIn: 8 {
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
        /// Zero.
        padding: u32,
    }
}
