//! Which bytes does a guest's kernel send for an operation?

use super::operation::{Caller, Changes, NewTime, Operation};
use super::wire::{self, Body};

/// What one server calls the things that an operation names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// The file or directory that the request's header names.
    pub node: u64,
    /// The second one of RENAME and LINK.
    pub other: u64,
    pub fh: u64,
    /// The flags with which `fh` was opened.
    pub flags: u32,
}

/// A request that still lacks its number.
pub struct Request {
    pub opcode: u32,
    pub node: u64,
    pub caller: Caller,
    pub body: Body,
}

impl Request {
    /// Its bytes.
    pub fn bytes(&self, unique: u64) -> Vec<u8> {
        let (uid, gid) = self.caller.ids();
        wire::message(self.opcode, unique, self.node, uid, gid, &self.body.0)
    }
}

/// READDIR or READDIRPLUS from the cookie `next` on.
pub fn list(on: Numbers, next: u64, size: u32, plus: bool) -> Request {
    let opcode = if plus { wire::READDIRPLUS } else { wire::READDIR };
    Request { opcode, node: on.node, caller: Caller::Root, body: read_in(on, next, size) }
}

/// GETATTR without a handle.
pub fn getattr(node: u64) -> Request {
    Request { opcode: wire::GETATTR, node, caller: Caller::Root, body: Body::new().u32(0).u32(0).u64(0) }
}

/// FORGET of so many references.
pub fn forget(node: u64, nlookup: u64) -> Request {
    Request { opcode: wire::FORGET, node, caller: Caller::Root, body: Body::new().u64(nlookup) }
}

/// The request for everything but FORGET and listings, which depend on what went before.
pub fn encode(operation: &Operation, on: Numbers) -> Request {
    use Operation as Op;
    let mut node = on.node;
    let mut by = Caller::Root;
    let new = Body::new;
    let (opcode, body) = match operation {
        Op::Lookup { name, .. } => (wire::LOOKUP, new().name(name)),
        Op::Forget { .. } | Op::List { .. } => unreachable!("made by the session"),
        Op::Getattr { .. } => (wire::GETATTR, new().u32(0).u32(0).u64(0)),
        Op::GetattrOpen { .. } => (wire::GETATTR, new().u32(wire::GETATTR_FH).u32(0).u64(on.fh)),
        Op::Setattr { set, .. } => (wire::SETATTR, setattr_in(set, None)),
        Op::SetattrOpen { set, .. } => (wire::SETATTR, setattr_in(set, Some(on.fh))),
        Op::Readlink { .. } => (wire::READLINK, new()),
        Op::Symlink { name, target, caller, .. } => {
            by = *caller;
            (wire::SYMLINK, new().name(name).name(target))
        }
        // Without FUSE_DONT_MASK the mode comes with the umask already taken off.
        Op::Mknod { name, mode, rdev, umask, caller, .. } => {
            by = *caller;
            (wire::MKNOD, new().u32(mode & !umask).u32(*rdev).u32(*umask).u32(0).name(name))
        }
        Op::Mkdir { name, mode, umask, caller, .. } => {
            by = *caller;
            (wire::MKDIR, new().u32(mode & !umask).u32(*umask).name(name))
        }
        Op::Unlink { name, .. } => (wire::UNLINK, new().name(name)),
        Op::Rmdir { name, .. } => (wire::RMDIR, new().name(name)),
        Op::Rename { name, new_name, flags: None, .. } => {
            (wire::RENAME, new().u64(on.other).name(name).name(new_name))
        }
        Op::Rename { name, new_name, flags: Some(flags), .. } => {
            (wire::RENAME2, new().u64(on.other).u32(*flags).u32(0).name(name).name(new_name))
        }
        Op::Link { name, .. } => {
            // The header names the directory, the body the file.
            node = on.other;
            (wire::LINK, new().u64(on.node).name(name))
        }
        Op::Open { flags, .. } => (wire::OPEN, new().u32(flags.cast_unsigned()).u32(0)),
        Op::Create { name, flags, mode, umask, caller, .. } => {
            by = *caller;
            let mode = libc::S_IFREG | mode & !umask;
            (wire::CREATE, new().u32(flags.cast_unsigned()).u32(mode).u32(*umask).u32(0).name(name))
        }
        Op::Read { offset, size, .. } => (wire::READ, read_in(on, *offset, *size)),
        Op::Write { offset, len, seed, kill_suidgid, .. } => {
            let flags = if *kill_suidgid { wire::WRITE_KILL_SUIDGID } else { 0 };
            let size = u32::try_from(*len).expect("a short write");
            let head = new().u64(on.fh).u64(*offset).u32(size).u32(flags).u64(0).u32(on.flags).u32(0);
            (wire::WRITE, head.bytes(&data(*len, *seed)))
        }
        Op::Flush { .. } => (wire::FLUSH, new().u64(on.fh).u32(0).u32(0).u64(7)),
        Op::Release { .. } => (wire::RELEASE, new().u64(on.fh).u32(on.flags).u32(0).u64(0)),
        Op::Releasedir { .. } => (wire::RELEASEDIR, new().u64(on.fh).u32(on.flags).u32(0).u64(0)),
        Op::Fsync { datasync, .. } => (wire::FSYNC, new().u64(on.fh).u32(u32::from(*datasync)).u32(0)),
        Op::Fsyncdir { .. } => (wire::FSYNCDIR, new().u64(on.fh).u32(0).u32(0)),
        Op::Fallocate { mode, offset, len, .. } => {
            (wire::FALLOCATE, new().u64(on.fh).u64(*offset).u64(*len).u32(mode.cast_unsigned()).u32(0))
        }
        Op::Lseek { offset, whence, .. } => {
            (wire::LSEEK, new().u64(on.fh).u64(*offset).u32(whence.cast_unsigned()).u32(0))
        }
        Op::Statfs { .. } => (wire::STATFS, new()),
        Op::Access { mask, caller, .. } => {
            by = *caller;
            (wire::ACCESS, new().u32(*mask).u32(0))
        }
        Op::Setxattr { name, value, flags, .. } => {
            let size = u32::try_from(value.len()).expect("a short value");
            (wire::SETXATTR, new().u32(size).u32(flags.cast_unsigned()).name(name).bytes(value))
        }
        Op::Getxattr { name, size, .. } => (wire::GETXATTR, new().u32(*size).u32(0).name(name)),
        Op::Listxattr { size, .. } => (wire::LISTXATTR, new().u32(*size).u32(0)),
        Op::Removexattr { name, .. } => (wire::REMOVEXATTR, new().name(name)),
        Op::Opendir { .. } => {
            (wire::OPENDIR, new().u32((libc::O_RDONLY | libc::O_DIRECTORY).cast_unsigned()).u32(0))
        }
    };
    Request { opcode, node, caller: by, body }
}

/// `fuse_read_in`.
fn read_in(on: Numbers, offset: u64, size: u32) -> Body {
    Body::new().u64(on.fh).u64(offset).u32(size).u32(0).u64(0).u32(on.flags).u32(0)
}

/// `fuse_setattr_in`.
fn setattr_in(set: &Changes, fh: Option<u64>) -> Body {
    let flag = |given: bool, flag: u32| if given { flag } else { 0 };
    let now = |time: &Option<NewTime>| matches!(time, Some(None));
    let valid = flag(fh.is_some(), wire::FATTR_FH)
        | flag(set.mode.is_some(), wire::FATTR_MODE)
        | flag(set.uid.is_some(), wire::FATTR_UID)
        | flag(set.gid.is_some(), wire::FATTR_GID)
        | flag(set.size.is_some(), wire::FATTR_SIZE)
        | flag(set.atime.is_some(), wire::FATTR_ATIME)
        | flag(set.mtime.is_some(), wire::FATTR_MTIME)
        | flag(now(&set.atime), wire::FATTR_ATIME_NOW)
        | flag(now(&set.mtime), wire::FATTR_MTIME_NOW)
        | flag(set.kill_suidgid, wire::FATTR_KILL_SUIDGID);
    let time = |time: Option<NewTime>| time.flatten().unwrap_or_default();
    let (atime, mtime) = (time(set.atime), time(set.mtime));
    Body::new()
        .u32(valid)
        .u32(0)
        .u64(fh.unwrap_or(0))
        .u64(set.size.unwrap_or(0))
        .u64(0)
        .u64(atime.0)
        .u64(mtime.0)
        .u64(0)
        .u32(atime.1)
        .u32(mtime.1)
        .u32(0)
        .u32(set.mode.unwrap_or(0))
        .u32(0)
        .u32(set.uid.unwrap_or(0))
        .u32(set.gid.unwrap_or(0))
        .u32(0)
}

/// Bytes that tell their own position.
fn data(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8)).to_le_bytes()[0].wrapping_mul(31).wrapping_add(seed)).collect()
}
