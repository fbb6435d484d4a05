//! How do the file system's answers become wire structures?

use std::time::Duration;

use super::abi;
use super::abi::extents::{FUSE_ATTR_IOMAP, FUSE_EXTENTS};
use super::abi::rfc2025::FUSE_IOMAP;
use super::types::{Attr, AttrReply, Entry, Lock, LockKind, Opened, StatFs, Timestamp};

/// `st_blksize` in the RFC of 2025, whose kernel takes it for the unit of direct writes and sends those that do not
/// suit it the long way. The host's preferred I/O size may be megabytes.
const RFC_BLOCK: u32 = 4096;

/// What of the session changes an encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder {
    /// The INIT flags that guest and server agreed upon.
    pub features: u64,
}

impl Encoder {
    fn attr(self, attr: &Attr) -> abi::Attr {
        let has = |feature: u64| self.features & feature != 0;
        let regular = attr.mode & libc::S_IFMT == libc::S_IFREG;
        let mut flags = 0;
        if attr.submount && has(abi::FUSE_SUBMOUNTS) {
            flags |= abi::FUSE_ATTR_SUBMOUNT;
        }
        if regular && has(FUSE_EXTENTS) {
            flags |= FUSE_ATTR_IOMAP;
        }
        abi::Attr {
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.sec.cast_unsigned(),
            mtime: attr.mtime.sec.cast_unsigned(),
            ctime: attr.ctime.sec.cast_unsigned(),
            atimensec: attr.atime.nsec,
            mtimensec: attr.mtime.nsec,
            ctimensec: attr.ctime.nsec,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: encode_dev(attr.rdev),
            blksize: if regular && has(FUSE_IOMAP) { RFC_BLOCK } else { attr.blksize },
            flags,
        }
    }

    /// The reply of GETATTR and SETATTR.
    pub(super) fn attr_out(self, reply: &AttrReply) -> abi::AttrOut {
        let (attr_valid, attr_valid_nsec) = seconds(reply.timeout);
        abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: self.attr(&reply.attr) }
    }

    /// The reply of LOOKUP and its like.
    pub(super) fn entry_out(self, entry: &Entry) -> abi::EntryOut {
        let (entry_valid, entry_valid_nsec) = seconds(entry.entry_timeout);
        let (attr_valid, attr_valid_nsec) = seconds(entry.attr_timeout);
        abi::EntryOut {
            nodeid: entry.node.0,
            generation: entry.generation,
            entry_valid,
            attr_valid,
            entry_valid_nsec,
            attr_valid_nsec,
            attr: self.attr(&entry.attr),
        }
    }
}

/// The reply of STATX.
pub(super) fn statx_out(reply: &AttrReply) -> abi::StatxOut {
    let attr = &reply.attr;
    let (attr_valid, attr_valid_nsec) = seconds(reply.timeout);
    let stat = abi::Statx {
        mask: attr.mask,
        blksize: attr.blksize,
        attributes: attr.attributes,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // Type and permissions have 16 bits; a host has never had more.
        mode: u16::try_from(attr.mode & 0xffff).unwrap_or(0),
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        attributes_mask: attr.attributes_mask,
        atime: sx_time(attr.atime),
        btime: sx_time(attr.btime),
        ctime: sx_time(attr.ctime),
        mtime: sx_time(attr.mtime),
        rdev_major: attr.rdev.0,
        rdev_minor: attr.rdev.1,
        dev_major: attr.dev.0,
        dev_minor: attr.dev.1,
        ..abi::Statx::default()
    };
    abi::StatxOut { attr_valid, attr_valid_nsec, stat, ..abi::StatxOut::default() }
}

/// The reply of STATFS.
pub(super) fn statfs_out(statfs: &StatFs) -> abi::StatfsOut {
    abi::StatfsOut {
        blocks: statfs.blocks,
        bfree: statfs.bfree,
        bavail: statfs.bavail,
        files: statfs.files,
        ffree: statfs.ffree,
        bsize: statfs.bsize,
        namelen: statfs.namelen,
        frsize: statfs.frsize,
        ..abi::StatfsOut::default()
    }
}

/// The reply of OPEN and OPENDIR.
pub(super) fn open_out(opened: &Opened) -> abi::OpenOut {
    // Whatever a file system thinks of it: see FOPEN_PASSTHROUGH.
    let open_flags = opened.flags & !abi::FOPEN_PASSTHROUGH;
    abi::OpenOut { fh: opened.fh.0, open_flags, backing_id: 0 }
}

/// A lock, in the reply of GETLK.
pub(super) fn file_lock(lock: &Lock) -> abi::FileLock {
    let kind = match lock.kind {
        LockKind::Read => abi::F_RDLCK,
        LockKind::Write => abi::F_WRLCK,
        LockKind::Unlock => abi::F_UNLCK,
    };
    abi::FileLock { start: lock.start, end: lock.end, kind, pid: lock.pid }
}

fn seconds(time: Duration) -> (u64, u32) {
    (time.as_secs(), time.subsec_nanos())
}

fn sx_time(time: Timestamp) -> abi::SxTime {
    abi::SxTime { tv_sec: time.sec, tv_nsec: time.nsec, reserved: 0 }
}

/// The kernel's 32-bit device number (`new_encode_dev`): 12 bits of major between the lower 8 and the
/// upper 12 bits of minor.
fn encode_dev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_the_kernels() {
        assert_eq!(encode_dev((1, 3)), 0x103);
        assert_eq!(encode_dev((8, 0x12345)), 0x1230_0845);
        assert_eq!(encode_dev((0xfff, 0xf_ffff)), u32::MAX);
    }

    #[test]
    fn times_before_the_epoch_survive() {
        let attr = Attr { mtime: Timestamp { sec: -2, nsec: 7 }, ..Attr::default() };
        let wire = Encoder { features: 0 }.attr(&attr);
        assert_eq!((wire.mtime.cast_signed(), wire.mtimensec), (-2, 7));
    }

    #[test]
    fn submounts_are_announced_only_where_agreed_upon() {
        let attr = Attr { submount: true, ..Attr::default() };
        assert_eq!(Encoder { features: 0 }.attr(&attr).flags, 0);
        assert_eq!(Encoder { features: abi::FUSE_SUBMOUNTS }.attr(&attr).flags, abi::FUSE_ATTR_SUBMOUNT);
    }

    #[test]
    fn only_regular_files_and_only_where_agreed_upon_have_extents() {
        let flags = |mode: u32, features: u64| {
            let attr = Attr { mode, blksize: 1 << 20, ..Attr::default() };
            let wire = Encoder { features }.attr(&attr);
            (wire.flags, wire.blksize)
        };
        assert_eq!(flags(libc::S_IFREG | 0o644, FUSE_EXTENTS), (FUSE_ATTR_IOMAP, 1 << 20));
        assert_eq!(flags(libc::S_IFREG | 0o644, !(FUSE_EXTENTS | FUSE_IOMAP)), (0, 1 << 20));
        assert_eq!(flags(libc::S_IFREG | 0o644, FUSE_IOMAP), (0, 4096));
        for other in [0, libc::S_IFDIR, libc::S_IFLNK, libc::S_IFBLK, libc::S_IFIFO, libc::S_IFSOCK] {
            assert_eq!(flags(other, u64::MAX), (0, 1 << 20));
        }
    }

    #[test]
    fn passthrough_is_never_replied() {
        let flags = abi::FOPEN_PASSTHROUGH | abi::FOPEN_DIRECT_IO;
        let out = open_out(&Opened { fh: crate::fuse::Fh(9), flags });
        assert_eq!((out.fh, out.open_flags), (9, abi::FOPEN_DIRECT_IO));
    }
}
