//! What is agreed at INIT?

use zerocopy::IntoBytes;

use super::{Ask, Channel, Error};
use crate::fuse::abi::*;

const PAGE: u32 = 4096;

/// `FUSE_DEFAULT_MAX_PAGES_PER_REQ`, where the server names no number.
const DEFAULT_PAGES: u32 = 32;

/// What a 7.46 guest offers on a mount without DAX (`fuse_new_init` of Linux 7.3), but for SECURITY_CTX and
/// CREATE_SUPP_GROUP: with them every creating request would carry an extension that means nothing here.
const OFFERED: u64 = FUSE_ASYNC_READ
    | FUSE_POSIX_LOCKS
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_EXPORT_SUPPORT
    | FUSE_BIG_WRITES
    | FUSE_DONT_MASK
    | FUSE_SPLICE_WRITE
    | FUSE_SPLICE_MOVE
    | FUSE_SPLICE_READ
    | FUSE_FLOCK_LOCKS
    | FUSE_HAS_IOCTL_DIR
    | FUSE_AUTO_INVAL_DATA
    | FUSE_DO_READDIRPLUS
    | FUSE_READDIRPLUS_AUTO
    | FUSE_ASYNC_DIO
    | FUSE_WRITEBACK_CACHE
    | FUSE_NO_OPEN_SUPPORT
    | FUSE_PARALLEL_DIROPS
    | FUSE_HANDLE_KILLPRIV
    | FUSE_POSIX_ACL
    | FUSE_ABORT_ERROR
    | FUSE_MAX_PAGES
    | FUSE_CACHE_SYMLINKS
    | FUSE_NO_OPENDIR_SUPPORT
    | FUSE_EXPLICIT_INVAL_DATA
    | FUSE_SUBMOUNTS
    | FUSE_HANDLE_KILLPRIV_V2
    | FUSE_SETXATTR_EXT
    | FUSE_INIT_EXT
    | FUSE_HAS_EXPIRE_ONLY
    | FUSE_DIRECT_IO_ALLOW_MMAP
    | FUSE_NO_EXPORT_SUPPORT
    | FUSE_HAS_RESEND
    | FUSE_ALLOW_IDMAP;

/// A mounted share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount {
    /// The minor version in use.
    pub minor: u32,
    /// The flags that both know.
    pub flags: u64,
    /// Bytes of a READ at most.
    pub max_read: u32,
    /// Bytes of a WRITE at most.
    pub max_write: u32,
}

/// Mounts, through a channel on which nothing is in flight.
///
/// # Errors
/// The daemon refuses, or speaks another major version.
pub fn mount(channel: &mut Channel) -> Result<Mount, Error> {
    let low = |flags: u64| u32::try_from(flags & u64::from(u32::MAX)).unwrap_or_default();
    let fixed = InitIn {
        major: FUSE_KERNEL_VERSION,
        minor: FUSE_KERNEL_MINOR_VERSION,
        max_readahead: 128 << 10,
        flags: low(OFFERED),
    };
    let extended = InitInExt { flags2: low(OFFERED >> 32), unused: [0; 11] };
    let reply: InitOut =
        channel.call_for(opcode::INIT, super::ROOT, &[fixed.as_bytes(), extended.as_bytes()])?;
    agree(&reply)
}

/// Unmounts. What the daemon says to it does not matter, only that it is done: virtiofsd 1.14 returns DESTROY without an
/// answer, and a guest that finds it too short has unmounted none the less.
///
/// # Errors
/// The daemon is not there any more.
pub fn unmount(channel: &mut Channel) -> Result<(), Error> {
    match channel.call(Ask::new(opcode::DESTROY, super::ROOT, 0), &[]) {
        Ok(_) | Err(Error::Malformed { .. } | Error::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `process_init_reply`.
fn agree(reply: &InitOut) -> Result<Mount, Error> {
    if reply.major != FUSE_KERNEL_VERSION || reply.minor < FUSE_OLDEST_MINOR_VERSION {
        let what = format!("version {}.{} is not served here", reply.major, reply.minor);
        return Err(Error::Malformed { opcode: opcode::INIT, what });
    }
    let mut flags = u64::from(reply.flags);
    if flags & FUSE_INIT_EXT != 0 {
        flags |= u64::from(reply.flags2) << 32;
    }
    if flags & !OFFERED != 0 {
        let what = format!("flags {:#x} were not offered", flags & !OFFERED);
        return Err(Error::Malformed { opcode: opcode::INIT, what });
    }
    let pages = if flags & FUSE_MAX_PAGES == 0 { DEFAULT_PAGES } else { u32::from(reply.max_pages).max(1) };
    Ok(Mount {
        minor: reply.minor.min(FUSE_KERNEL_MINOR_VERSION),
        flags,
        max_read: pages * PAGE,
        max_write: reply.max_write.max(PAGE).min(pages * PAGE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_server_means_less() {
        let flags = u32::try_from(FUSE_BIG_WRITES | FUSE_MAX_PAGES).unwrap();
        let reply =
            InitOut { major: 7, minor: 38, flags, max_pages: 256, max_write: 1 << 20, ..InitOut::default() };
        let mount = agree(&reply).unwrap();
        assert_eq!((mount.minor, mount.max_read, mount.max_write), (38, 1 << 20, 1 << 20));
        let reply = InitOut { major: 7, minor: 31, max_write: 1 << 20, ..InitOut::default() };
        let mount = agree(&reply).unwrap();
        assert_eq!((mount.max_read, mount.max_write), (128 << 10, 128 << 10));
        assert!(agree(&InitOut { major: 8, minor: 31, ..InitOut::default() }).is_err());
        assert!(agree(&InitOut { major: 7, minor: 12, ..InitOut::default() }).is_err());
    }

    #[test]
    fn flags_that_were_not_offered_are_malformed() {
        let flags = u32::try_from(FUSE_INIT_EXT).unwrap();
        let flags2 = u32::try_from(FUSE_PASSTHROUGH >> 32).unwrap();
        assert!(agree(&InitOut { major: 7, minor: 40, flags, flags2, ..InitOut::default() }).is_err());
    }
}
