//! The words in which [`FileSystem`](super::FileSystem) and [`Server`](super::Server) talk: plain
//! values, decoded and checked, free of wire layouts.

use std::ffi::CStr;
use std::time::Duration;

use rustix::io::Errno;

/// The answer of an operation: a value, or the errno that the guest is to see.
pub type Result<T> = std::result::Result<T, Errno>;

/// A guest's name for a file: what LOOKUP answers and every later request carries.
///
/// The root of the share is [`NodeId::ROOT`]; 0 never names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the share (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

/// A file handle: the number that OPEN, OPENDIR or CREATE answered with, 0 where there was no open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// The longest name of a directory entry in bytes (`NAME_MAX`; the guest's `FUSE_NAME_MAX` is larger).
pub const NAME_MAX: usize = 255;

/// The name of one directory entry, checked: not empty, no `/`, not `.` or `..`, at most
/// [`NAME_MAX`] bytes, and with its terminating NUL, so that it can go to a system call as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Checks a guest's name.
    ///
    /// # Errors
    /// `ENAMETOOLONG` for more than [`NAME_MAX`] bytes; `EINVAL` for an empty name, `.`, `..` or a
    /// name with a `/`, none of which the guest's kernel ever sends.
    pub fn new(name: &'a CStr) -> Result<Self> {
        let bytes = name.to_bytes();
        if bytes.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(Self(name))
    }

    /// The name as a C string.
    #[must_use]
    pub fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// The name's bytes, without the NUL.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}

/// On whose behalf a request is served, from `fuse_in_header`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The caller's file system uid.
    pub uid: u32,
    /// The caller's file system gid.
    pub gid: u32,
    /// The caller's process, in the guest's numbering; 0 where unknown.
    pub pid: u32,
}

/// What may come after the fixed part of a request that creates something (FUSE 7.36 and 7.38).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// The one supplementary group of the caller that owns the parent directory (`FUSE_EXT_GROUPS`).
    pub supplementary_group: Option<u32>,
    /// The security xattr that the new file must have from the start: full name and value.
    pub security_context: Option<(&'a CStr, &'a [u8])>,
}

/// A point in time: seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// The attributes of a file, as `statx(2)` gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Which of the fields the host filled, `STATX_*` bits.
    pub mask: u32,
    /// Inode number that the guest is shown.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where the host file system records it (`STATX_BTIME` in `mask`).
    pub btime: Timestamp,
    /// Type and permission bits (`S_IFMT` and below).
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node: major, minor.
    pub rdev: (u32, u32),
    /// Device that holds the file: major, minor.
    pub dev: (u32, u32),
    /// `STATX_ATTR_*` bits, and which of them the host knows.
    pub attributes: u64,
    /// The bits of `attributes` that mean something.
    pub attributes_mask: u64,
    /// The file is the root of another host mount (`FUSE_ATTR_SUBMOUNT`).
    pub submount: bool,
}

/// Attributes, and for how long the guest may believe them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrReply {
    /// The attributes.
    pub attr: Attr,
    /// Validity.
    pub timeout: Duration,
}

/// The answer to LOOKUP and to everything that makes a name: one reference (nlookup) on `node` goes
/// to the guest with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node; 0 in a negative entry ("no such name, and you may remember that").
    pub node: NodeId,
    /// Tells a reused nodeid from its former self; constant where nodeids are not reused.
    pub generation: u64,
    /// The file's attributes.
    pub attr: Attr,
    /// How long the name may be believed.
    pub entry_timeout: Duration,
    /// How long the attributes may be believed.
    pub attr_timeout: Duration,
}

impl Entry {
    /// "No such name", to be cached by the guest for `timeout`.
    #[must_use]
    pub fn negative(timeout: Duration) -> Self {
        Self {
            node: NodeId(0),
            generation: 0,
            attr: Attr::default(),
            entry_timeout: timeout,
            attr_timeout: Duration::ZERO,
        }
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The host's clock (`UTIME_NOW`).
    Now,
    /// This value.
    At(Timestamp),
}

/// SETATTR: what to change; `None` leaves a thing as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The open through which the change is made (`FATTR_FH`).
    pub fh: Option<Fh>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the contents.
    pub mtime: Option<SetTime>,
    /// Last change of the inode; the host cannot set it, so it is a hint at most.
    pub ctime: Option<Timestamp>,
    /// Clear set-user-ID, set-group-ID and file capabilities (`FATTR_KILL_SUIDGID`, FUSE 7.33).
    pub kill_suidgid: bool,
}

/// How something new is to be made: CREATE, MKNOD, MKDIR, SYMLINK and TMPFILE share this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewFile<'a> {
    /// Type and permission bits. Where the server negotiated `FUSE_DONT_MASK`, `umask` is still to be
    /// applied by the file system (unless a default ACL says otherwise); else the guest has done it.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Supplementary group and security context.
    pub extensions: Extensions<'a>,
}

/// The answer to OPEN, OPENDIR and the open half of CREATE and TMPFILE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// `FOPEN_*` bits.
    pub flags: u32,
}

/// What a READ or WRITE asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoRequest {
    /// Byte offset in the file, at most `i64::MAX`.
    pub offset: u64,
    /// Bytes to move.
    pub size: u32,
    /// The open flags of the guest's file at the time of the request (`O_DIRECT` and `O_APPEND` may
    /// have changed since OPEN).
    pub open_flags: u32,
    /// WRITE: it comes from the guest's page cache, and `Caller` may not be the writer
    /// (`FUSE_WRITE_CACHE`).
    pub from_cache: bool,
    /// WRITE: clear set-user-ID and set-group-ID first (`FUSE_WRITE_KILL_SUIDGID`, FUSE 7.33).
    pub kill_suidgid: bool,
}

/// What STATFS answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Size of the file system in units of `frsize`.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for unprivileged users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred block size in bytes.
    pub bsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
    /// Unit of the block counts in bytes.
    pub frsize: u32,
}

/// The kind of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared (`F_RDLCK`, `LOCK_SH`).
    Read,
    /// Exclusive (`F_WRLCK`, `LOCK_EX`).
    Write,
    /// No lock: release (`F_UNLCK`, `LOCK_UN`).
    Unlock,
}

/// A byte range lock, or a whole-file lock in the manner of `flock(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `i64::MAX` means to the end of the file, however far that is.
    pub end: u64,
    /// What is held or wanted.
    pub kind: LockKind,
    /// The process that holds it, 0 where that has no meaning in the guest.
    pub pid: u32,
}

/// GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// The open through which the lock is taken.
    pub fh: Fh,
    /// Whose lock: the guest kernel's opaque owner.
    pub owner: u64,
    /// The lock.
    pub lock: Lock,
    /// `flock(2)` rather than `fcntl(2)` (`FUSE_LK_FLOCK`).
    pub flock: bool,
}

/// RELEASE of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The handle.
    pub fh: Fh,
    /// Whose fcntl locks end with it, where the guest says so.
    pub lock_owner: Option<u64>,
    /// The flock of this open ends (`FUSE_RELEASE_FLOCK_UNLOCK`).
    pub flock_unlock: bool,
}

/// COPY_FILE_RANGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// Source handle.
    pub fh_in: Fh,
    /// Source offset in bytes.
    pub offset_in: u64,
    /// Destination node.
    pub node_out: NodeId,
    /// Destination handle.
    pub fh_out: Fh,
    /// Destination offset in bytes.
    pub offset_out: u64,
    /// Bytes.
    pub len: u64,
    /// `copy_file_range(2)` flags; 0 today.
    pub flags: u64,
}

/// The block device that records of extents point into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentDevice {
    /// The number that [`Place`] uses, from 1 on.
    pub number: u32,
    /// It takes no writes.
    pub read_only: bool,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block, a power of two from 512 to 4096.
    pub logical_block: u32,
    /// By which the guest knows its disk, padded with NUL.
    pub serial: [u8; 20],
}

/// What a guest wants a map for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapPurpose {
    /// To read.
    Read,
    /// To overwrite.
    Write,
    /// To have a range zeroed or made the file's own, which nothing but the file system can do.
    Change,
    /// To show it: nothing will be moved.
    Report,
}

/// FUSE_IOMAP_BEGIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// What for.
    pub purpose: MapPurpose,
    /// First byte.
    pub position: u64,
    /// Bytes of the operation, at least 1; `position` plus `count` does not pass `i64::MAX`.
    pub count: u64,
}

/// A byte of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// [`ExtentDevice::number`].
    pub device: u32,
    /// The byte.
    pub byte: u64,
}

/// Where a range of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To be had by READ and WRITE only.
    Fuse,
    /// There is nothing, and it reads as zeroes.
    Hole,
    /// At this address; an answer to [`MapPurpose::Report`] may be without.
    Mapped(Option<Address>),
    /// There is space, which reads as zeroes; the address as in `Mapped`.
    Unwritten(Option<Address>),
    /// For writes: where the bytes are read from.
    Overwrite,
}

/// A range of a file and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte; a multiple of the logical block.
    pub offset: u64,
    /// Bytes, likewise; `offset` plus `length` fits 64 bits.
    pub length: u64,
    /// The place.
    pub place: Place,
}

/// The answer to FUSE_IOMAP_BEGIN. Both extents contain the position that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMap {
    /// Where bytes are read.
    pub read: Extent,
    /// Where they are overwritten.
    pub write: Extent,
    /// Size of the file in bytes.
    pub size: u64,
}

/// What the file system wants of the connection; the answer to INIT is made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// `FUSE_*` INIT flags, both words (`flags2` in the upper half). The server sends only those that
    /// the guest offered, and adds those that are its own business.
    pub features: u64,
    /// Bytes of one WRITE at most.
    pub max_write: u32,
    /// Bytes of readahead at most.
    pub max_readahead: u32,
    /// Requests that the guest may have in the background.
    pub max_background: u16,
    /// Granularity of timestamps in nanoseconds.
    pub time_granularity: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = std::ffi::CString::new(vec![b'a'; NAME_MAX]).unwrap();
        assert!(Name::new(&long).is_ok());
        let longer = std::ffi::CString::new(vec![b'a'; NAME_MAX + 1]).unwrap();
        assert_eq!(Name::new(&longer), Err(Errno::NAMETOOLONG));
        for bad in [c"", c".", c"..", c"/", c"a/b", c"/etc", c"a/"] {
            assert_eq!(Name::new(bad), Err(Errno::INVAL), "{bad:?}");
        }
        for good in [c"a", c"...", c".a", c"..a", c" ", c"\x01\xff"] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
    }
}
