//! What did the operator ask for? The answer as plain data, one struct for each part of the daemon
//! that consumes it.
//!
//! Everything here is resolved: the `-o` dialect is merged, implied options are set (`--posix-acl`
//! implies extended attributes) and what follows from the cache mode is filled in. Nothing here
//! knows the command-line parser, and nothing was checked against the host yet: whether a directory
//! or a group exists is found out by whoever uses it.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::{Translation, XattrMap};

/// Everything the daemon needs to serve one share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the front-end connects.
    pub listen: Listen,
    /// The directory, and how the file system on it behaves.
    pub share: Share,
    /// What the process gives up before it serves.
    pub sandbox: Sandbox,
    /// Descriptors and threads.
    pub limits: Limits,
    /// What a guest can make the daemon hold.
    pub guest_limits: GuestLimits,
    /// How the threads behind the virtqueues work.
    pub rings: Rings,
    /// Where messages go, and which.
    pub log: Log,
    /// The virtio device that the guest sees.
    pub device: Device,
    /// The block device beside it, if there is to be one.
    pub window: Option<Window>,
    /// The host's block device that the guest reaches the files on by itself, if it is to. Then there is no window.
    pub extent_device: Option<ExtentDevice>,
    /// Remarks on the command line, to be logged once logging is up, in this order.
    pub notes: Vec<Note>,
}

/// A remark on the command line: a deprecated spelling, an option without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The level to log it at: [`LogLevel::Warn`] or [`LogLevel::Info`].
    pub level: LogLevel,
    /// One line, without a full stop, naming the option.
    pub text: String,
}

/// Where the front-end connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The vhost-user socket.
    pub socket: Socket,
    /// `--socket-group`: name of the group that gets access to the socket, which then is created
    /// with mode 0770 instead of 0700. Only with [`Socket::Path`].
    pub group: Option<String>,
}

/// The vhost-user socket: one to be made, or one inherited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// Create a socket at this path, which may be relative, and listen on it.
    Path(PathBuf),
    /// Use this inherited descriptor, a socket that already listens.
    Fd(RawFd),
}

/// The shared directory and the behaviour of the file system on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The directory that becomes the root of the share.
    pub dir: PathBuf,
    /// Refuse every change with `EROFS`.
    pub readonly: bool,
    /// How much the guest may cache.
    pub cache: Cache,
    /// How long the guest may trust what it was told.
    pub timeouts: Timeouts,
    /// Which opens bypass the guest's page cache.
    pub direct: Direct,
    /// Honour the guest's `O_DIRECT` on the host file; otherwise the flag is dropped.
    pub allow_direct_io: bool,
    /// Let the guest map files shared that it opens for direct I/O (`FUSE_DIRECT_IO_ALLOW_MMAP`).
    pub allow_mmap: bool,
    /// Let the guest collect writes in its page cache (`FUSE_WRITEBACK_CACHE`).
    pub writeback: bool,
    /// Return attributes with directory entries. Never set with [`Cache::Never`], where the guest
    /// could not use them.
    pub readdirplus: bool,
    /// Serve extended attributes.
    pub xattr: bool,
    /// POSIX access control lists. Other than `Never` only if `xattr` is set.
    pub posix_acl: Negotiation,
    /// Security context at creation (`FUSE_SECURITY_CTX`). Other than `Never` only if `xattr` is set.
    pub security_label: Negotiation,
    /// Under which names the host keeps extended attributes. `None`: under the guest's. Only if `xattr` is set.
    pub xattrmap: Option<XattrMap>,
    /// Which ids stand for the guest's. Says nothing unless `posix_acl` is `Never`.
    pub translation: Translation,
    /// Clear set-user-ID and set-group-ID bits and capabilities on writes as `FUSE_HANDLE_KILLPRIV_V2` asks.
    pub killpriv_v2: bool,
    /// Mark directories where another host file system is mounted, so that the guest shows a mount.
    pub announce_submounts: bool,
    /// How inodes are remembered: by file handle or by open descriptor.
    pub inode_file_handles: InodeFileHandles,
    /// How the guest asks where a file lies in the window.
    pub extent_dialect: ExtentDialect,
    /// Keep the guest's `O_NOATIME` on host opens; otherwise the flag is dropped.
    pub preserve_noatime: bool,
    /// Record locks of the guest are locks on the host file too.
    pub posix_lock: bool,
    /// `flock(2)` locks of the guest are locks on the host file too.
    pub flock: bool,
    /// Largest WRITE (and READ) to negotiate, in bytes: a multiple of 4096, from 4 KiB to 4 MiB.
    pub max_write: u32,
    /// Largest read-ahead to grant, in bytes; `None` grants what the guest proposes.
    pub readahead: Option<u32>,
}

/// `--cache`: how much the guest may cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: every access asks the host, and data bypasses the guest's page cache.
    Never,
    /// Names and attributes, but no data.
    Metadata,
    /// All of it for a second; data is dropped when a file is opened and has changed.
    Auto,
    /// All of it, as if nobody else changed the share.
    Always,
}

/// How long the guest may trust what it was told, in the granularity of FUSE (nanoseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Attributes of an inode.
    pub attr: Duration,
    /// That a name leads to an inode.
    pub entry: Duration,
    /// That a name does not exist. Zero: the guest asks each time.
    pub negative: Duration,
}

/// `--direct`: which opens bypass the guest's page cache and may write in parallel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// Files whose first guest open asks for `O_DIRECT`, until their last close.
    Auto,
    /// Every file.
    Always,
    /// None: an `O_DIRECT` open is served, but writes of one file go one after another.
    Never,
}

/// Whether a feature that the guest may or may not offer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// Do not use it.
    Never,
    /// Use it where the guest offers it.
    Auto,
    /// Refuse a guest that does not offer it.
    Always,
}

/// `--inode-file-handles`: how inodes are remembered between requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InodeFileHandles {
    /// By an open `O_PATH` descriptor each.
    Never,
    /// By file handle where the host file system has them, else by descriptor.
    Prefer,
    /// By file handle only; fail where there is none.
    Mandatory,
}

/// `--extent-dialect`: how the guest asks where a file lies in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentDialect {
    /// As `docs/extent-protocol.md` has it.
    Private,
    /// As the RFC of fuse-iomap of May 2025 has it.
    Rfc2025,
}

/// `--extent-source`: where records of extents point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentSource {
    /// Into the window, which leads to the files.
    File,
    /// Into the window, which leads to the files' blocks on the device under the share, where it knows them.
    Block,
    /// To the block device under the share, which the virtual machine monitor gives to the guest.
    Device,
}

/// What the process gives up before it serves a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// How the process is confined to the shared directory.
    pub mode: SandboxMode,
    /// Whether everything that confines the process must be there.
    pub required: bool,
    /// What the system-call filter does to a call that is not on its list.
    pub seccomp: Seccomp,
    /// Whether Landlock is used.
    pub landlock: Landlock,
    /// Corrections to the set of capabilities that is kept.
    pub modcaps: ModCaps,
    /// User namespace: user ids. Empty: none was asked for.
    pub uid_map: Vec<IdMap>,
    /// User namespace: group ids. Empty: none was asked for.
    pub gid_map: Vec<IdMap>,
}

/// `--sandbox`: how the process is confined to the shared directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxMode {
    /// Own mount, PID and network namespaces, and the share as root directory.
    Namespace,
    /// The share as root directory.
    Chroot,
    /// No confinement.
    None,
}

/// `--seccomp`: what happens on a system call that is not on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    /// No filter.
    None,
    /// The process is killed.
    Kill,
    /// The call is logged and done.
    Log,
    /// The process gets `SIGSYS`.
    Trap,
}

impl Seccomp {
    /// How the operator writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Trap => "trap",
            Self::Log => "log",
        }
    }
}

/// `--landlock`: whether Landlock limits what can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// As far as the host has it and the other options permit it.
    Auto,
    /// Not at all.
    None,
}

/// `--modcaps`: corrections to the set of capabilities that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModCaps {
    /// Capabilities to keep besides the default ones.
    pub add: Vec<caps::Capability>,
    /// Capabilities to give up besides the default ones. A capability is in one list at most.
    pub drop: Vec<caps::Capability>,
}

/// One line of `/proc/PID/uid_map` or `gid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside the user namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many ids follow one another; at least 1, and neither range passes `u32::MAX`.
    pub count: u32,
}

/// Descriptors and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `--rlimit-nofile`: what to do about the limit of open files.
    pub nofile: Nofile,
    /// `--thread-pool-size`: threads for slow operations (fsync, fallocate, blocking locks).
    /// 0 leaves the number to the daemon.
    pub thread_pool_size: usize,
}

/// What a guest can make the daemon hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestLimits {
    /// `--max-nodes`: files that the guest may know.
    pub max_nodes: usize,
    /// `--max-handles`: files and directories that it may have open; `None`: as many as descriptors are left for that.
    pub max_handles: Option<usize>,
    /// `--max-locks`: records of locks on the host, and pairs of an owner and a file.
    pub max_locks: usize,
    /// `--max-lock-waiters`: requests that may wait for such locks.
    pub max_lock_waiters: usize,
    /// `--max-allocate`: bytes that one request may reserve.
    pub max_allocate: usize,
    /// `--max-xattr`: bytes of an extended attribute's value.
    pub max_xattr: usize,
    /// `--max-window-files`: opens of files by the window.
    pub max_window_files: usize,
    /// `--max-in-flight`: requests of one queue that may be in flight.
    pub max_in_flight: usize,
    /// `--max-kept-bytes`: bytes of such requests that are kept for one queue.
    pub max_kept_bytes: usize,
}

/// How the threads behind the virtqueues work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rings {
    /// How data moves.
    pub engine: Engine,
    /// CPUs to pin the threads of the request queues to, in turn; empty leaves them to the scheduler. Not
    /// checked against what the process may use.
    pub affinity: Vec<usize>,
    /// How long a queue that runs empty looks for requests before it sleeps, at most. Zero: not at all.
    pub poll: Duration,
}

/// `--engine`: how data moves between files and guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// By io_uring where the host permits it, otherwise by threads.
    Auto,
    /// By io_uring, or not at all.
    IoUring,
    /// By system calls on threads.
    Threads,
}

/// What to do about the limit of open files (`RLIMIT_NOFILE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nofile {
    /// Raise it to 1,000,000, or to `fs.nr_open` if that is less.
    Default,
    /// Leave it alone.
    Unchanged,
    /// Set it to this many.
    Limit(u64),
}

/// Where messages go, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is still written.
    pub level: LogLevel,
    /// Write to the system log instead of stderr.
    pub syslog: bool,
}

/// Importance of a message, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing at all.
    Off,
    /// Something failed.
    Error,
    /// Something is likely not as intended.
    Warn,
    /// Start, stop and what was negotiated.
    Info,
    /// Every request that failed, and why.
    Debug,
    /// Every request.
    Trace,
}

/// The virtio device that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Tag to give to front-ends that ask the back-end for it; 1 to 36 bytes.
    pub tag: Option<String>,
    /// How many request queues to offer, 1 to 64. The front-end decides how many it uses.
    pub queues: u16,
    /// Serve the next connection after a disconnect, instead of ending.
    pub keep_listening: bool,
}

/// The block device that serves direct I/O of guests whose kernel can ask for extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// `--window-socket`: where its front-end connects.
    pub socket: PathBuf,
    /// `--window-serial`: by what the guest recognises it, 1 to 20 bytes; chosen at random where none is given.
    pub serial: Option<String>,
    /// `--window-queues`: how many queues to offer, 1 to 64. The front-end decides how many it uses.
    pub queues: u16,
    /// `--device`, with `--extent-source block`: the block device under the share, where the host has it.
    pub device: Option<PathBuf>,
}

/// The block device under the share, which the guest has as a disk of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentDevice {
    /// `--device`: where the host has it.
    pub path: PathBuf,
    /// `--window-serial`: the serial number that the guest's disk has, 1 to 20 bytes.
    pub serial: String,
}
