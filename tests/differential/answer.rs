//! What does an answer mean? Its bytes decoded, with the exact length that the opcode demands, and freed
//! of what two correct servers may choose differently.

use std::time::{SystemTime, UNIX_EPOCH};

use super::operation::Caller;
use super::wire::{self, Fields, OUT_HEADER};

/// What a request was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not at all.
    Silent,
    /// With an errno.
    Failed(i32),
    /// Without a body.
    Done,
    Entry(Entry),
    Attr(Valid, Attr),
    Opened(u64),
    Created(Entry, u64),
    /// Bytes of a file, a link or an attribute.
    Bytes(Vec<u8>),
    /// A number of bytes, or a file offset.
    Number(u64),
    FileSystem(FileSystem),
    /// Bare `fuse_dirent`s, or `fuse_direntplus`es.
    Directory(Vec<DirEntry>),
}

/// How long something may be believed: seconds and nanoseconds.
pub type Valid = (u64, u32);

/// `fuse_entry_out`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub node: u64,
    pub entry_valid: Valid,
    pub attr_valid: Valid,
    pub attr: Attr,
}

/// `fuse_attr`, without the number of blocks: how a host file system counts them differs from file to
/// file with the moment of its write-back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

/// A time stamp, as far as it can agree between two trees that are changed one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Of the last hour: by the clock.
    Clock,
    /// Set to this value.
    Set(u64, u32),
}

impl Time {
    pub fn new(sec: u64, nsec: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        if nsec < 1_000_000_000 && (now - 3600..now + 60).contains(&sec) {
            Self::Clock
        } else {
            Self::Set(sec, nsec)
        }
    }
}

/// `fuse_kstatfs`, without the free space, which others change meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    pub blocks: u64,
    pub files: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
}

/// `fuse_dirent` or `fuse_direntplus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub entry: Option<Entry>,
    pub ino: u64,
    pub next: u64,
    pub kind: u32,
    pub name: Vec<u8>,
}

impl Answer {
    /// Decodes the answer to the request `unique`. `bare_size`: the request asked for a length only.
    pub fn decode(opcode: u32, unique: u64, bare_size: bool, bytes: Option<&[u8]>) -> Result<Self, String> {
        let Some(bytes) = bytes else { return Ok(Self::Silent) };
        let wrong = || format!("malformed answer to opcode {opcode}: {} bytes {bytes:02x?}", bytes.len());
        let mut fields = Fields(bytes);
        let len = fields.u32().ok_or_else(wrong)?;
        let error = fields.i32().ok_or_else(wrong)?;
        let named = fields.u64().ok_or_else(wrong)?;
        if usize::try_from(len) != Ok(bytes.len()) || named != unique || error > 0 {
            return Err(wrong());
        }
        let answer = match error {
            0 => Self::body(opcode, bare_size, &mut fields).ok_or_else(wrong)?,
            _ => Self::Failed(-error),
        };
        if fields.0.is_empty() { Ok(answer) } else { Err(wrong()) }
    }

    fn body(opcode: u32, bare_size: bool, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match opcode {
            wire::LOOKUP | wire::SYMLINK | wire::MKNOD | wire::MKDIR | wire::LINK => {
                Self::Entry(Entry::decode(fields)?)
            }
            wire::GETATTR | wire::SETATTR => {
                let valid = (fields.u64()?, fields.u32()?);
                fields.u32()?;
                Self::Attr(valid, Attr::decode(fields)?)
            }
            wire::OPEN | wire::OPENDIR => Self::Opened(handle(fields)?),
            wire::CREATE => Self::Created(Entry::decode(fields)?, handle(fields)?),
            wire::WRITE => Self::Number(padded(fields)?.into()),
            wire::GETXATTR | wire::LISTXATTR if bare_size => Self::Number(padded(fields)?.into()),
            // Their order means nothing.
            wire::LISTXATTR => {
                let mut names: Vec<_> =
                    fields.bytes(fields.0.len())?.split_inclusive(|byte| *byte == 0).collect();
                names.sort_unstable();
                Self::Bytes(names.concat())
            }
            wire::READLINK | wire::READ | wire::GETXATTR => {
                Self::Bytes(fields.bytes(fields.0.len())?.to_vec())
            }
            wire::LSEEK => Self::Number(fields.u64()?),
            wire::STATFS => Self::FileSystem(FileSystem::decode(fields)?),
            wire::READDIR | wire::READDIRPLUS => {
                let mut entries = Vec::new();
                while !fields.0.is_empty() {
                    entries.push(DirEntry::decode(opcode == wire::READDIRPLUS, fields)?);
                }
                Self::Directory(entries)
            }
            _ => Self::Done,
        })
    }

    /// The answer without the numbers that each server chooses for itself: nodeids, handles, and the
    /// inode numbers of two different trees.
    pub fn meaning(&self) -> Self {
        let mut meaning = self.clone();
        match &mut meaning {
            Self::Entry(entry) => entry.forget_numbers(),
            Self::Created(entry, fh) => {
                entry.forget_numbers();
                *fh = 0;
            }
            Self::Attr(_, attr) => attr.ino = 0,
            Self::Opened(fh) => *fh = 0,
            _ => {}
        }
        meaning
    }
}

/// `fuse_open_out`. Its flags are left out: they are advice to the guest's cache, and each server's own.
fn handle(fields: &mut Fields<'_>) -> Option<u64> {
    let fh = fields.u64()?;
    fields.bytes(8)?;
    Some(fh)
}

/// `fuse_write_out` and `fuse_getxattr_out`.
fn padded(fields: &mut Fields<'_>) -> Option<u32> {
    let number = fields.u32()?;
    fields.bytes(4)?;
    Some(number)
}

impl Entry {
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let node = fields.u64()?;
        let _generation = fields.u64()?;
        let (entry_sec, attr_sec) = (fields.u64()?, fields.u64()?);
        let (entry_nsec, attr_nsec) = (fields.u32()?, fields.u32()?);
        let attr = Attr::decode(fields)?;
        Some(Self { node, entry_valid: (entry_sec, entry_nsec), attr_valid: (attr_sec, attr_nsec), attr })
    }

    pub fn forget_numbers(&mut self) {
        self.node = 0;
        self.attr.ino = 0;
    }
}

impl Attr {
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (ino, size, _blocks) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let secs = [fields.u64()?, fields.u64()?, fields.u64()?];
        let nsecs = [fields.u32()?, fields.u32()?, fields.u32()?];
        let [atime, mtime, ctime] = [0, 1, 2].map(|i| Time::new(secs[i], nsecs[i]));
        Some(Self {
            ino,
            mode: fields.u32()?,
            nlink: fields.u32()?,
            size,
            uid: fields.u32()?,
            gid: fields.u32()?,
            rdev: fields.u32()?,
            blksize: fields.u32()?,
            flags: fields.u32()?,
            atime,
            mtime,
            ctime,
        })
    }

    /// Whether the kernel grants this caller `mask` (`R_OK`, `W_OK`, `X_OK`): generic_permission().
    pub fn permits(&self, caller: Caller, mask: u32) -> bool {
        let (uid, gid) = caller.ids();
        if uid == 0 {
            let executable = self.kind() == libc::S_IFDIR || self.mode & 0o111 != 0;
            return mask & libc::X_OK.cast_unsigned() == 0 || executable;
        }
        let shift = match self {
            Self { uid: owner, .. } if *owner == uid => 6,
            Self { gid: group, .. } if *group == gid => 3,
            _ => 0,
        };
        (self.mode >> shift) & mask == mask
    }

    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
}

impl FileSystem {
    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let blocks = fields.u64()?;
        let (_free, _available) = (fields.u64()?, fields.u64()?);
        let files = fields.u64()?;
        let _free_files = fields.u64()?;
        let (bsize, namelen, frsize) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.bytes(7 * 4)?;
        Some(Self { blocks, files, bsize, namelen, frsize })
    }
}

impl DirEntry {
    fn decode(plus: bool, fields: &mut Fields<'_>) -> Option<Self> {
        let entry = if plus { Some(Entry::decode(fields)?) } else { None };
        let (ino, next) = (fields.u64()?, fields.u64()?);
        let (len, kind) = (usize::try_from(fields.u32()?).ok()?, fields.u32()?);
        let name = fields.bytes(len)?.to_vec();
        fields.bytes((8 - len % 8) % 8)?;
        Some(Self { entry, ino, next, kind, name })
    }
}

/// Bytes of answer for which every request but a listing makes room, like a guest's kernel.
pub const ROOM: usize = OUT_HEADER + (1 << 17);
