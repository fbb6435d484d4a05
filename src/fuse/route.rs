//! Which handler serves an operation, and on which kind of thread? The one table of operations.

use super::FileSystem;
use super::abi::{self, opcode};
use super::ops::{attributes, directories, files, locks, namespace, ranges, xattr};
use super::reply::Reply;
use super::request::Request;
use super::transfer::Transfer;
use super::types::Result;

/// Decodes a request, asks the file system and encodes the answer.
pub(super) type Serve<F> = fn(&F, &Request<'_>, &mut Reply<'_>) -> Result<()>;

/// How an operation is served. `len` is the fixed length of its answer in bytes behind the header: with
/// less room than that it is refused before anything was done.
pub(super) enum Route<F> {
    /// At once.
    Inline { len: usize, serve: Serve<F> },
    /// At once, unless the node is one of those that may keep a thread waiting
    /// ([`FileSystem::may_wait`]).
    Either { len: usize, serve: Serve<F> },
    /// By a thread that may wait.
    Blocking { len: usize, serve: Serve<F> },
    /// By moving bytes.
    Transfer { len: usize, start: fn(&F, &Request<'_>) -> Result<Transfer> },
    /// At once, and without an answer.
    Silent(fn(&F, &Request<'_>)),
    /// SETLKW: answered when the lock is there.
    LockWait,
    /// INIT.
    Mount,
    /// DESTROY.
    Unmount,
    /// `ENOSYS`: the guest does without, and does not ask again.
    Unsupported,
}

impl<F: FileSystem> Route<F> {
    /// The row of an opcode.
    pub(super) fn of(opcode: u32) -> Self {
        const ATTR: usize = size_of::<abi::AttrOut>();
        const ENTRY: usize = size_of::<abi::EntryOut>();
        const OPEN: usize = size_of::<abi::OpenOut>();
        const WRITE: usize = size_of::<abi::WriteOut>();
        let inline = |len, serve| Self::Inline { len, serve };
        let either = |len, serve| Self::Either { len, serve };
        let blocking = |len, serve| Self::Blocking { len, serve };
        match opcode {
            opcode::LOOKUP => inline(ENTRY, namespace::lookup),
            opcode::FORGET => Self::Silent(namespace::forget),
            opcode::BATCH_FORGET => Self::Silent(namespace::batch_forget),
            opcode::READLINK => inline(0, namespace::readlink),
            opcode::SYMLINK => inline(ENTRY, namespace::symlink),
            opcode::MKNOD => inline(ENTRY, namespace::mknod),
            opcode::MKDIR => inline(ENTRY, namespace::mkdir),
            opcode::UNLINK => inline(0, namespace::unlink),
            opcode::RMDIR => inline(0, namespace::rmdir),
            opcode::RENAME => inline(0, namespace::rename),
            opcode::RENAME2 => inline(0, namespace::rename2),
            opcode::LINK => inline(ENTRY, namespace::link),

            opcode::GETATTR => inline(ATTR, attributes::getattr),
            opcode::SETATTR => inline(ATTR, attributes::setattr),
            opcode::STATX => inline(size_of::<abi::StatxOut>(), attributes::statx),
            opcode::STATFS => inline(size_of::<abi::StatfsOut>(), attributes::statfs),
            opcode::ACCESS => inline(0, attributes::access),

            opcode::OPEN => inline(OPEN, files::open),
            opcode::CREATE => inline(ENTRY + OPEN, files::create),
            opcode::TMPFILE => inline(ENTRY + OPEN, files::tmpfile),
            opcode::READ => Self::Transfer { len: 0, start: files::read },
            opcode::WRITE => Self::Transfer { len: WRITE, start: files::write },
            opcode::FLUSH => either(0, files::flush),
            opcode::RELEASE => either(0, files::release),
            opcode::FSYNC => blocking(0, files::fsync),
            opcode::IOCTL => inline(size_of::<abi::IoctlOut>(), files::ioctl),

            opcode::OPENDIR => inline(OPEN, directories::opendir),
            opcode::READDIR => either(0, directories::readdir),
            opcode::READDIRPLUS => either(0, directories::readdirplus),
            opcode::RELEASEDIR => inline(0, directories::releasedir),
            opcode::FSYNCDIR => blocking(0, directories::fsyncdir),

            opcode::SETXATTR => inline(0, xattr::setxattr),
            opcode::GETXATTR => inline(0, xattr::getxattr),
            opcode::LISTXATTR => inline(0, xattr::listxattr),
            opcode::REMOVEXATTR => inline(0, xattr::removexattr),

            opcode::GETLK => inline(size_of::<abi::LkOut>(), locks::getlk),
            opcode::SETLK => inline(0, locks::setlk),
            opcode::SETLKW => Self::LockWait,

            opcode::FALLOCATE => blocking(0, ranges::fallocate),
            opcode::LSEEK => inline(size_of::<abi::LseekOut>(), ranges::lseek),
            opcode::COPY_FILE_RANGE => blocking(WRITE, ranges::copy_file_range),
            opcode::COPY_FILE_RANGE_64 => {
                blocking(size_of::<abi::CopyFileRangeOut>(), ranges::copy_file_range_64)
            }
            opcode::SYNCFS => blocking(0, ranges::syncfs),

            opcode::INIT => Self::Mount,
            opcode::DESTROY => Self::Unmount,
            // Nothing is left running that an INTERRUPT could end, and virtio-fs guests send none; nor do
            // they get notifications to reply to.
            opcode::INTERRUPT | opcode::NOTIFY_REPLY => Self::Silent(|_, _| {}),
            // POLL (the guest then takes files to be always ready), BMAP (it needs a block device), the DAX
            // window's two, CUSE, and what is newer than we are.
            _ => Self::Unsupported,
        }
    }
}
