//! Do our numbers and layouts agree with another reading of the same header?
//!
//! `fuse-abi` was generated from Linux 6.9 (7.40). What is newer is written down here a second time.

use std::mem::size_of;

use fuse_abi::linux as peer;

use super::*;

#[test]
fn layouts_agree() {
    macro_rules! same {
        ($($ours:ident ($($rest:ident)?) = $theirs:ident),* $(,)?) => {$(
            assert_eq!(
                size_of::<$ours>() $(+ size_of::<$rest>())?,
                size_of::<peer::$theirs>(),
                stringify!($theirs),
            );
        )*};
    }
    same! {
        InHeader() = fuse_in_header, OutHeader() = fuse_out_header,
        Attr() = fuse_attr, GetattrIn() = fuse_getattr_in, AttrOut() = fuse_attr_out,
        SetattrIn() = fuse_setattr_in, EntryOut() = fuse_entry_out, SxTime() = fuse_sx_time,
        Statx() = fuse_statx, StatxIn() = fuse_statx_in, StatxOut() = fuse_statx_out,
        StatfsOut() = fuse_statfs_out, AccessIn() = fuse_access_in,
        ForgetIn() = fuse_forget_in, ForgetOne() = fuse_forget_one,
        BatchForgetIn() = fuse_batch_forget_in, MknodIn() = fuse_mknod_in, MkdirIn() = fuse_mkdir_in,
        RenameIn() = fuse_rename_in, Rename2In() = fuse_rename2_in, LinkIn() = fuse_link_in,
        Dirent() = fuse_dirent, Direntplus() = fuse_direntplus,
        ExtHeader() = fuse_ext_header, ExtHeader() = fuse_secctx_header, Secctx() = fuse_secctx,
        SuppGroups() = fuse_supp_groups,
        OpenIn() = fuse_open_in, CreateIn() = fuse_create_in, OpenOut() = fuse_open_out,
        ReleaseIn() = fuse_release_in, FlushIn() = fuse_flush_in, ReadIn() = fuse_read_in,
        WriteIn() = fuse_write_in, WriteOut() = fuse_write_out, FsyncIn() = fuse_fsync_in,
        IoctlIn() = fuse_ioctl_in, IoctlOut() = fuse_ioctl_out,
        InitIn(InitInExt) = fuse_init_in, InitOut() = fuse_init_out,
        FileLock() = fuse_file_lock, LkIn() = fuse_lk_in, LkOut() = fuse_lk_out,
        FallocateIn() = fuse_fallocate_in, LseekIn() = fuse_lseek_in, LseekOut() = fuse_lseek_out,
        CopyFileRangeIn() = fuse_copy_file_range_in, SyncfsIn() = fuse_syncfs_in,
        SetxattrIn(SetxattrInExt) = fuse_setxattr_in, GetxattrIn() = fuse_getxattr_in,
        GetxattrOut() = fuse_getxattr_out,
    }
}

#[test]
fn fields_are_where_the_peer_has_them() {
    macro_rules! same {
        ($($ours:ident = $theirs:ident { $($field:ident),* $(,)? })*) => {$($(
            assert_eq!(
                std::mem::offset_of!($ours, $field),
                std::mem::offset_of!(peer::$theirs, $field),
                concat!(stringify!($theirs), ".", stringify!($field)),
            );
        )*)*};
    }
    same! {
        InHeader = fuse_in_header { len, opcode, unique, nodeid, uid, gid, pid, total_extlen }
        OutHeader = fuse_out_header { len, error, unique }
        Attr = fuse_attr {
            ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid,
            gid, rdev, blksize, flags,
        }
        SetattrIn = fuse_setattr_in {
            valid, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, uid,
            gid,
        }
        EntryOut = fuse_entry_out {
            nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr,
        }
        AttrOut = fuse_attr_out { attr_valid, attr_valid_nsec, attr }
        Statx = fuse_statx {
            mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask, atime,
            btime, ctime, mtime, rdev_major, rdev_minor, dev_major, dev_minor,
        }
        StatxIn = fuse_statx_in { getattr_flags, fh, sx_flags, sx_mask }
        StatxOut = fuse_statx_out { attr_valid, attr_valid_nsec, flags, stat }
        Dirent = fuse_dirent { ino, off, namelen }
        Direntplus = fuse_direntplus { entry_out, dirent }
        MknodIn = fuse_mknod_in { mode, rdev, umask }
        CreateIn = fuse_create_in { flags, mode, umask, open_flags }
        OpenOut = fuse_open_out { fh, open_flags, backing_id }
        ReleaseIn = fuse_release_in { fh, flags, release_flags, lock_owner }
        FlushIn = fuse_flush_in { fh, lock_owner }
        ReadIn = fuse_read_in { fh, offset, size, read_flags, lock_owner, flags }
        WriteIn = fuse_write_in { fh, offset, size, write_flags, lock_owner, flags }
        IoctlIn = fuse_ioctl_in { fh, flags, cmd, arg, in_size, out_size }
        InitOut = fuse_init_out {
            major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
            time_gran, max_pages, map_alignment, flags2, max_stack_depth,
        }
        LkIn = fuse_lk_in { fh, owner, lk, lk_flags }
        FileLock = fuse_file_lock { start, end, pid }
        FallocateIn = fuse_fallocate_in { fh, offset, length, mode }
        LseekIn = fuse_lseek_in { fh, offset, whence }
        CopyFileRangeIn = fuse_copy_file_range_in { fh_in, off_in, nodeid_out, fh_out, off_out, len, flags }
    }
}

#[test]
fn constants_agree() {
    macro_rules! same {
        ($kind:ty: $($name:ident),* $(,)?) => {$(
            assert_eq!($name, <$kind>::from(peer::$name), stringify!($name));
        )*};
    }
    same!(u64: FUSE_ASYNC_READ, FUSE_POSIX_LOCKS, FUSE_FILE_OPS, FUSE_ATOMIC_O_TRUNC, FUSE_EXPORT_SUPPORT,
        FUSE_BIG_WRITES, FUSE_DONT_MASK, FUSE_SPLICE_WRITE, FUSE_SPLICE_MOVE, FUSE_SPLICE_READ,
        FUSE_FLOCK_LOCKS, FUSE_HAS_IOCTL_DIR, FUSE_AUTO_INVAL_DATA, FUSE_DO_READDIRPLUS,
        FUSE_READDIRPLUS_AUTO, FUSE_ASYNC_DIO, FUSE_WRITEBACK_CACHE, FUSE_NO_OPEN_SUPPORT,
        FUSE_PARALLEL_DIROPS, FUSE_HANDLE_KILLPRIV, FUSE_POSIX_ACL, FUSE_ABORT_ERROR, FUSE_MAX_PAGES,
        FUSE_CACHE_SYMLINKS, FUSE_NO_OPENDIR_SUPPORT, FUSE_EXPLICIT_INVAL_DATA, FUSE_MAP_ALIGNMENT,
        FUSE_SUBMOUNTS, FUSE_HANDLE_KILLPRIV_V2, FUSE_SETXATTR_EXT, FUSE_INIT_EXT, FUSE_INIT_RESERVED,
        FUSE_SECURITY_CTX, FUSE_HAS_INODE_DAX, FUSE_CREATE_SUPP_GROUP, FUSE_HAS_EXPIRE_ONLY,
        FUSE_DIRECT_IO_ALLOW_MMAP, FUSE_PASSTHROUGH, FUSE_NO_EXPORT_SUPPORT, FUSE_HAS_RESEND);
    same!(u32: FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH,
        FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_LOCKOWNER, FATTR_CTIME, FATTR_KILL_SUIDGID,
        FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NONSEEKABLE, FOPEN_CACHE_DIR, FOPEN_STREAM,
        FOPEN_NOFLUSH, FOPEN_PARALLEL_DIRECT_WRITES, FOPEN_PASSTHROUGH, FUSE_OPEN_KILL_SUIDGID,
        FUSE_RELEASE_FLUSH, FUSE_RELEASE_FLOCK_UNLOCK, FUSE_READ_LOCKOWNER, FUSE_WRITE_CACHE,
        FUSE_WRITE_LOCKOWNER, FUSE_WRITE_KILL_SUIDGID, FUSE_FSYNC_FDATASYNC, FUSE_LK_FLOCK,
        FUSE_SETXATTR_ACL_KILL_SGID, FUSE_IOCTL_COMPAT, FUSE_IOCTL_UNRESTRICTED, FUSE_IOCTL_RETRY,
        FUSE_IOCTL_32BIT, FUSE_IOCTL_DIR, FUSE_IOCTL_COMPAT_X32, FUSE_ATTR_SUBMOUNT, FUSE_ATTR_DAX,
        FUSE_GETATTR_FH);
    assert_eq!(FUSE_MAX_NR_SECCTX, peer::fuse_ext_type::FUSE_MAX_NR_SECCTX as u32);
    assert_eq!(FUSE_EXT_GROUPS, peer::fuse_ext_type::FUSE_EXT_GROUPS as u32);
    assert_eq!(F_RDLCK, u32::try_from(libc::F_RDLCK).unwrap());
    assert_eq!(F_WRLCK, u32::try_from(libc::F_WRLCK).unwrap());
    assert_eq!(F_UNLCK, u32::try_from(libc::F_UNLCK).unwrap());
}

#[test]
fn opcodes_agree() {
    macro_rules! same {
        ($($name:ident = $theirs:ident),* $(,)?) => {$(
            assert_eq!(opcode::$name, peer::fuse_opcode::$theirs as u32, stringify!($theirs));
        )*};
    }
    same! {
        LOOKUP = FUSE_LOOKUP, FORGET = FUSE_FORGET, GETATTR = FUSE_GETATTR, SETATTR = FUSE_SETATTR,
        READLINK = FUSE_READLINK, SYMLINK = FUSE_SYMLINK, MKNOD = FUSE_MKNOD, MKDIR = FUSE_MKDIR,
        UNLINK = FUSE_UNLINK, RMDIR = FUSE_RMDIR, RENAME = FUSE_RENAME, LINK = FUSE_LINK,
        OPEN = FUSE_OPEN, READ = FUSE_READ, WRITE = FUSE_WRITE, STATFS = FUSE_STATFS,
        RELEASE = FUSE_RELEASE, FSYNC = FUSE_FSYNC, SETXATTR = FUSE_SETXATTR,
        GETXATTR = FUSE_GETXATTR, LISTXATTR = FUSE_LISTXATTR, REMOVEXATTR = FUSE_REMOVEXATTR,
        FLUSH = FUSE_FLUSH, INIT = FUSE_INIT, OPENDIR = FUSE_OPENDIR, READDIR = FUSE_READDIR,
        RELEASEDIR = FUSE_RELEASEDIR, FSYNCDIR = FUSE_FSYNCDIR, GETLK = FUSE_GETLK,
        SETLK = FUSE_SETLK, SETLKW = FUSE_SETLKW, ACCESS = FUSE_ACCESS, CREATE = FUSE_CREATE,
        INTERRUPT = FUSE_INTERRUPT, BMAP = FUSE_BMAP, DESTROY = FUSE_DESTROY, IOCTL = FUSE_IOCTL,
        POLL = FUSE_POLL, NOTIFY_REPLY = FUSE_NOTIFY_REPLY, BATCH_FORGET = FUSE_BATCH_FORGET,
        FALLOCATE = FUSE_FALLOCATE, READDIRPLUS = FUSE_READDIRPLUS, RENAME2 = FUSE_RENAME2,
        LSEEK = FUSE_LSEEK, COPY_FILE_RANGE = FUSE_COPY_FILE_RANGE,
        SETUPMAPPING = FUSE_SETUPMAPPING, REMOVEMAPPING = FUSE_REMOVEMAPPING, SYNCFS = FUSE_SYNCFS,
        TMPFILE = FUSE_TMPFILE, STATX = FUSE_STATX, CUSE_INIT = CUSE_INIT,
    }
}

/// What came after 7.40, as the uapi header of Linux 7.3 has it.
#[test]
fn newer_than_the_peer() {
    assert_eq!(opcode::COPY_FILE_RANGE_64, 53);
    assert_eq!(FUSE_ALLOW_IDMAP, 0x100_0000_0000);
    assert_eq!(FUSE_OVER_IO_URING, 0x200_0000_0000);
    assert_eq!(FUSE_REQUEST_TIMEOUT, 0x400_0000_0000);
    assert_eq!(FUSE_HAS_IO_URING_BUFPOOL, 0x800_0000_0000);
    assert_eq!(std::mem::offset_of!(InitOut, request_timeout), 40);
}

/// The extent protocol against the tables of its specification, and of the two revisions of fuse-iomap.
#[test]
fn extents_are_as_specified() {
    macro_rules! layout {
        ($($module:ident::$name:ident: $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {$(
            assert_eq!(size_of::<$module::$name>(), $size, stringify!($name));
            $(assert_eq!(
                std::mem::offset_of!($module::$name, $field),
                $offset,
                concat!(stringify!($name), ".", stringify!($field)),
            );)*
        )*};
    }
    layout! {
        extents::IomapIo: 32 { offset @ 0, length @ 8, addr @ 16, kind @ 24, flags @ 26, dev @ 28 }
        extents::IomapBeginIn: 32 { opflags @ 0, reserved @ 4, attr_ino @ 8, pos @ 16, count @ 24 }
        extents::IomapBeginOut: 64 { read @ 0, write @ 32 }
        extents::IomapEndIn: 72 {
            opflags @ 0, reserved @ 4, attr_ino @ 8, pos @ 16, count @ 24, written @ 32, map @ 40,
        }
        extents::IomapIoendIn: 48 {
            flags @ 0, error @ 4, attr_ino @ 8, pos @ 16, new_addr @ 24, written @ 32, dev @ 40, padding @ 44,
        }
        extents::IomapIoendOut: 8 { newsize @ 0 }
        extents::IomapConfigIn: 64 { flags @ 0, maxbytes @ 8, cache_maxbytes @ 16, zero @ 20, padding @ 24 }
        extents::IomapConfigOut: 104 {
            flags @ 0, s_id @ 8, s_uuid @ 40, s_uuid_len @ 56, s_pad @ 57, s_blocksize @ 60,
            s_max_links @ 64, s_time_gran @ 68, s_time_min @ 72, s_time_max @ 80, s_maxbytes @ 88,
            cache_maxbytes @ 96, tail @ 100,
        }
        extents::ExtentDeviceIn: 8 { index @ 0, zero @ 4 }
        extents::ExtentDeviceOut: 64 {
            dev @ 0, flags @ 4, size @ 8, logical_block @ 16, zero @ 20, serial @ 24, padding @ 44,
        }
        rfc2025::BeginOut: 48 {
            offset @ 0, length @ 8, read_addr @ 16, read_type @ 24, read_flags @ 26, read_dev @ 28,
            write_addr @ 32, write_type @ 40, write_flags @ 42, write_dev @ 44,
        }
        rfc2025::EndIn: 64 {
            opflags @ 0, reserved @ 4, attr_ino @ 8, pos @ 16, count @ 24, written @ 32, map_length @ 40,
            map_addr @ 48, map_type @ 56, map_flags @ 58, map_dev @ 60,
        }
        rfc2025::IoendIn: 40 {
            ioendflags @ 0, reserved @ 2, error @ 4, attr_ino @ 8, pos @ 16, new_addr @ 24, written @ 32,
            reserved1 @ 36,
        }
    }
    assert_eq!(
        [
            opcode::EXTENT_DEVICE,
            opcode::IOMAP_CONFIG,
            opcode::IOMAP_IOEND,
            opcode::IOMAP_BEGIN,
            opcode::IOMAP_END
        ],
        [4088, 4092, 4093, 4094, 4095]
    );
    // Bit 30 of flags2, and of the RFC bits 11, 12 and 13.
    assert_eq!(extents::FUSE_EXTENTS >> 32, 1 << 30);
    assert_eq!(rfc2025::FUSE_IOMAP >> 32, 0x0800);
    assert_eq!(rfc2025::FUSE_IOMAP_DIRECTIO >> 32, 0x1000);
    assert_eq!(rfc2025::FUSE_IOMAP_PAGECACHE >> 32, 0x2000);
    use extents::*;
    assert_eq!([FUSE_ATTR_IOMAP, EXTENT_DEVICE_READ_ONLY], [8, 1]);
    assert_eq!(IOMAP_CONFIG_BLOCKSIZE, 4);
    assert_eq!(
        [IOMAP_OP_WRITE, IOMAP_OP_ZERO, IOMAP_OP_REPORT, IOMAP_OP_DIRECT, IOMAP_OP_NOWAIT, IOMAP_OP_UNSHARE],
        [1, 2, 4, 0x10, 0x20, 0x80]
    );
    assert_eq!(
        [IOMAP_HOLE, IOMAP_DELALLOC, IOMAP_MAPPED, IOMAP_UNWRITTEN, IOMAP_INLINE, IOMAP_PURE_OVERWRITE],
        [0, 1, 2, 3, 4, 65535]
    );
    assert_eq!(IOMAP_USE_FUSE, 65520);
    assert_eq!((IOMAP_NULL_ADDR, IOMAP_DEV_NULL, rfc2025::DEV_NULL), (u64::MAX, 0, 0xffff_ffff));
}
