//! Which handler serves an operation, and on which kind of thread? The one table of operations.

use super::FileSystem;
use super::abi::extents::{self as wire, FUSE_EXTENTS};
use super::abi::rfc2025::{self as rfc, FUSE_IOMAP};
use super::abi::{self, opcode};
use super::ops::{attributes, directories, extents, files, locks, namespace, ranges, rfc2025, xattr};
use super::reply::Reply;
use super::request::Request;
use super::transfer::Transfer;
use super::types::Result;

/// Decodes a request, asks the file system and encodes the answer.
pub(super) type Serve<F> = fn(&F, &Request<'_>, &mut Reply<'_>) -> Result<()>;

/// Whether serving this request may take long.
pub(super) type Waits<F> = fn(&F, &Request<'_>) -> bool;

/// How an operation is served. `len` is the fixed length of its answer in bytes behind the header: with
/// less room than that it is refused before anything was done.
pub(super) enum Route<F> {
    /// At once.
    Inline { len: usize, serve: Serve<F> },
    /// At once, unless this request may keep a thread waiting.
    Either { len: usize, waits: Waits<F>, serve: Serve<F> },
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
    /// The row of an opcode, in a session with these INIT flags.
    pub(super) fn of(opcode: u32, features: u64) -> Self {
        const ATTR: usize = size_of::<abi::AttrOut>();
        const ENTRY: usize = size_of::<abi::EntryOut>();
        const OPEN: usize = size_of::<abi::OpenOut>();
        const WRITE: usize = size_of::<abi::WriteOut>();
        let inline = |len, serve| Self::Inline { len, serve };
        let either = |len, waits, serve| Self::Either { len, waits, serve };
        let blocking = |len, serve| Self::Blocking { len, serve };
        match opcode {
            opcode::LOOKUP => inline(ENTRY, namespace::lookup),
            opcode::FORGET => Self::Silent(namespace::forget),
            opcode::BATCH_FORGET => Self::Silent(namespace::batch_forget),
            opcode::READLINK => inline(0, namespace::readlink),
            opcode::SYMLINK => inline(ENTRY, namespace::symlink),
            opcode::MKNOD => inline(ENTRY, namespace::mknod),
            opcode::MKDIR => inline(ENTRY, namespace::mkdir),
            opcode::UNLINK => either(0, names, namespace::unlink),
            opcode::RMDIR => inline(0, namespace::rmdir),
            opcode::RENAME => either(0, names, namespace::rename),
            opcode::RENAME2 => either(0, names, namespace::rename2),
            opcode::LINK => inline(ENTRY, namespace::link),

            opcode::GETATTR => inline(ATTR, attributes::getattr),
            opcode::SETATTR => either(ATTR, set, attributes::setattr),
            opcode::STATX => inline(size_of::<abi::StatxOut>(), attributes::statx),
            opcode::STATFS => inline(size_of::<abi::StatfsOut>(), attributes::statfs),
            opcode::ACCESS => inline(0, attributes::access),

            opcode::OPEN => either(OPEN, open, files::open),
            opcode::CREATE => either(ENTRY + OPEN, names, files::create),
            opcode::TMPFILE => inline(ENTRY + OPEN, files::tmpfile),
            opcode::READ => Self::Transfer { len: 0, start: files::read },
            opcode::WRITE => Self::Transfer { len: WRITE, start: files::write },
            opcode::FLUSH => either(0, host, files::flush),
            opcode::RELEASE => either(0, close, files::release),
            opcode::FSYNC => blocking(0, files::fsync),
            opcode::IOCTL => either(size_of::<abi::IoctlOut>(), what_it_is, files::ioctl),

            opcode::OPENDIR => inline(OPEN, directories::opendir),
            opcode::READDIR => either(0, host, directories::readdir),
            opcode::READDIRPLUS => either(0, host, directories::readdirplus),
            opcode::RELEASEDIR => inline(0, directories::releasedir),
            opcode::FSYNCDIR => blocking(0, directories::fsyncdir),

            opcode::SETXATTR => either(0, what_it_is, xattr::setxattr),
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
            _ if features & FUSE_EXTENTS != 0 => Self::of_extents(opcode),
            _ if features & FUSE_IOMAP != 0 => Self::of_rfc2025(opcode),
            // POLL (the guest then takes files to be always ready), BMAP (it needs a block device), the DAX
            // window's two, CUSE, and what is newer than we are.
            _ => Self::Unsupported,
        }
    }

    /// The rows of the extent protocol.
    fn of_extents(opcode: u32) -> Self {
        let inline = |len, serve| Self::Inline { len, serve };
        match opcode {
            opcode::EXTENT_DEVICE => inline(size_of::<wire::ExtentDeviceOut>(), extents::device),
            opcode::IOMAP_CONFIG => inline(size_of::<wire::IomapConfigOut>(), extents::config),
            opcode::IOMAP_BEGIN => {
                Self::Either { len: size_of::<wire::IomapBeginOut>(), waits: map, serve: extents::begin }
            }
            opcode::IOMAP_END => inline(0, extents::end::<F, wire::IomapEndIn>),
            opcode::IOMAP_IOEND => inline(size_of::<wire::IomapIoendOut>(), extents::ioend),
            _ => Self::Unsupported,
        }
    }

    /// The rows of its revision of 2025.
    fn of_rfc2025(opcode: u32) -> Self {
        match opcode {
            opcode::IOMAP_BEGIN => {
                Self::Either { len: size_of::<rfc::BeginOut>(), waits: map, serve: rfc2025::begin }
            }
            opcode::IOMAP_END => Self::Inline { len: 0, serve: extents::end::<F, rfc::EndIn> },
            opcode::IOMAP_IOEND => Self::Inline { len: 0, serve: rfc2025::ioend },
            _ => Self::Unsupported,
        }
    }
}

/// The host may take long.
fn host<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    fs.may_wait(request.node())
}

/// RELEASE: the host may, and requests past FUSE have to end first.
fn close<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    host(fs, request) || past_fuse(fs, request, |_| true)
}

/// SETATTR.
fn set<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    past_fuse(fs, request, attributes::changes_writes)
}

/// IOCTL, SETXATTR: what a file is that is read and written past FUSE.
fn what_it_is<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    past_fuse(fs, request, |_| true)
}

/// OPEN.
fn open<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    past_fuse(fs, request, files::truncates)
}

/// Requests by which a file may lose a name, or its contents.
fn names<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    request.has(FUSE_EXTENTS) && fs.may_wait_for_names()
}

/// IOMAP_BEGIN.
fn map<F: FileSystem>(fs: &F, request: &Request<'_>) -> bool {
    fs.may_wait_for_map(request.node())
}

/// Whether a request that is one of `those` may have to wait for requests past FUSE.
fn past_fuse<F: FileSystem>(fs: &F, request: &Request<'_>, those: fn(&Request<'_>) -> bool) -> bool {
    request.has(FUSE_EXTENTS | FUSE_IOMAP) && those(request) && fs.may_wait_for_extents(request.node())
}
