//! How does the command line look, and what does `--help` say about it?
//!
//! Names, values and defaults are those of virtiofsd 1.14, so that a launcher can start one in place of the other.
//! Our own are `--queues`, `--keep-listening`, `--direct`, `--engine`, `--ring-affinity`, `--poll-us`, `--max-write`,
//! `--readahead`, the timeouts, `--posix-lock`, `--flock`, `--extent-dialect`, `--extent-source`, `--device`, `--sandbox-required`, `--landlock` and those of the window. What the
//! answers mean together is decided in `resolve`.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};

use super::options::{
    Cache, Direct, Engine, ExtentDialect, ExtentSource, IdMap, InodeFileHandles, Landlock, LogLevel, ModCaps,
    Negotiation, SandboxMode, Seccomp,
};
use super::values;
use super::values::{CpuList, MigrationMode, MigrationOnError};
use crate::identity::{IdRule, XattrMap};

const USAGE: &str = "extentfsd --shared-dir <DIR> --socket-path <PATH> [OPTIONS]
       extentfsd attach-args --vmm <VMM> [OPTIONS]";

const MORE: &str = "\
Example:
  extentfsd --shared-dir /srv/share --socket-path /run/share.sock
  extentfsd attach-args --vmm qemu --socket-path /run/share.sock

All options: extentfsd --help";

const EXAMPLE: &str = "\
Example, on the host:
  extentfsd --shared-dir /srv/share --socket-path /run/share.sock &
  qemu-system-x86_64 -m 4G \\
    -object memory-backend-memfd,id=mem,size=4G,share=on -machine memory-backend=mem \\
    -chardev socket,id=fs0,path=/run/share.sock \\
    -device vhost-user-fs-pci,chardev=fs0,tag=share,queue-size=1024 ...
and in the guest:
  mount -t virtiofs share /mnt

'extentfsd attach-args --vmm <VMM>' prints such lines for other virtual machine monitors.
Exit code: 0 after the front-end disconnected, 1 when something failed, 2 for a wrong command line.";

/// Share a host directory with a virtual machine over virtio-fs.
///
/// extentfsd is a vhost-user back-end: it listens on a socket, a virtual machine monitor (QEMU,
/// cloud-hypervisor, crosvm) connects to it, and the guest mounts the directory.
/// It takes the command line of virtiofsd.
#[derive(Debug, Parser)]
#[command(
    name = "extentfsd",
    version,
    override_usage = USAGE,
    after_help = MORE,
    after_long_help = EXAMPLE,
    arg_required_else_help = true,
    args_override_self = true
)]
pub(super) struct CommandLine {
    #[command(flatten)]
    pub(super) share: ShareArgs,
    #[command(flatten)]
    pub(super) socket: SocketArgs,
    #[command(flatten)]
    pub(super) caching: CacheArgs,
    #[command(flatten)]
    pub(super) attributes: AttributeArgs,
    #[command(flatten)]
    pub(super) performance: PerformanceArgs,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) window: WindowArgs,
    #[command(flatten)]
    pub(super) sandbox: SandboxArgs,
    #[command(flatten)]
    pub(super) logging: LoggingArgs,
    #[command(flatten)]
    pub(super) migration: MigrationArgs,
    #[command(flatten)]
    pub(super) compat: CompatArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Share")]
pub(super) struct ShareArgs {
    /// The host directory to share
    #[arg(long, value_name = "DIR")]
    pub(super) shared_dir: Option<PathBuf>,

    /// Refuse every change with "read-only file system"
    #[arg(long)]
    pub(super) readonly: bool,

    /// Show file systems mounted below the directory as mounts in the guest too [default]
    #[arg(long, hide_short_help = true, overrides_with = "no_announce_submounts")]
    pub(super) announce_submounts: bool,

    /// Show file systems mounted below the directory as plain directories; inode numbers may then repeat
    #[arg(long, hide_short_help = true)]
    pub(super) no_announce_submounts: bool,

    /// Remember inodes by file handle instead of by open descriptor.
    /// With prefer, descriptors are used where the host file system has no handles
    #[arg(
        long,
        hide_short_help = true,
        require_equals = true,
        default_value = "prefer",
        value_name = "never|prefer|mandatory",
        hide_possible_values = true
    )]
    pub(super) inode_file_handles: InodeFileHandles,

    /// Make the guest's POSIX record locks locks on the host files, seen by the host and by other guests.
    /// Without it they hold within the guest only
    #[arg(long, hide_short_help = true)]
    pub(super) posix_lock: bool,

    /// The same for the guest's flock(2) locks
    #[arg(long, hide_short_help = true)]
    pub(super) flock: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Socket and queues")]
pub(super) struct SocketArgs {
    /// Create this socket and wait there for the virtual machine monitor
    #[arg(long, value_name = "PATH")]
    pub(super) socket_path: Option<PathBuf>,

    /// Give this group access to the socket; otherwise only the own user may connect
    #[arg(long, hide_short_help = true, value_name = "GROUP", conflicts_with_all = ["fd", "print_capabilities"])]
    pub(super) socket_group: Option<String>,

    /// Use this inherited descriptor, a socket that already listens
    #[arg(
        long,
        hide_short_help = true,
        value_name = "N",
        value_parser = clap::value_parser!(RawFd).range(0..),
        conflicts_with_all = ["socket_path", "socket"]
    )]
    pub(super) fd: Option<RawFd>,

    /// The name under which the guest mounts the share
    ///
    /// For monitors that ask the daemon for it (crosvm, User-Mode Linux). QEMU and cloud-hypervisor take it from their own options
    #[arg(long, value_name = "TAG", value_parser = values::tag)]
    pub(super) tag: Option<String>,

    /// Request queues to offer, 1 to 64; the monitor decides how many it uses
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) queues: u16,

    /// Wait for the next connection after a disconnect instead of ending
    #[arg(long)]
    pub(super) keep_listening: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
pub(super) struct CacheArgs {
    /// What the guest may cache
    ///
    /// never: nothing; metadata: names and attributes, no data; auto: everything for one second, data
    /// until the next open; always: everything, right only if nobody else changes the directory
    #[arg(
        long,
        default_value = "auto",
        value_name = "auto|always|never|metadata",
        hide_possible_values = true,
        ignore_case = true
    )]
    pub(super) cache: Cache,

    /// How long the guest may trust attributes [default: 0 for --cache never, 1 for auto, 86400 otherwise]
    #[arg(long, hide_short_help = true, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) attr_timeout: Option<Duration>,

    /// How long the guest may trust names [default: as for --attr-timeout]
    #[arg(long, hide_short_help = true, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) entry_timeout: Option<Duration>,

    /// How long the guest may trust that a name does not exist; 0 asks each time [default: 0]
    #[arg(long, hide_short_help = true, value_name = "SECONDS", value_parser = values::seconds)]
    pub(super) negative_timeout: Option<Duration>,

    /// Let the guest collect writes in its page cache; a crash of the guest loses what it had not written
    #[arg(long)]
    pub(super) writeback: bool,

    /// Allow shared mappings of files that bypass the guest's cache (--cache never or metadata)
    #[arg(long, hide_short_help = true)]
    pub(super) allow_mmap: bool,

    /// Do not send attributes along with directory entries
    #[arg(long, hide_short_help = true)]
    pub(super) no_readdirplus: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Permissions and attributes")]
pub(super) struct AttributeArgs {
    /// Serve extended attributes
    #[arg(long)]
    pub(super) xattr: bool,

    /// Serve POSIX access control lists (implies --xattr). auto: if the guest knows them; always, or no
    /// value: refuse a guest that does not
    #[arg(
        long,
        hide_short_help = true,
        require_equals = true,
        num_args = 0..=1,
        default_value = "never",
        default_missing_value = "always",
        value_name = "never|auto|always",
        hide_possible_values = true
    )]
    pub(super) posix_acl: Negotiation,

    /// Store the security label (SELinux) that the guest sends when it creates a file (implies --xattr).
    /// Values as for --posix-acl
    #[arg(
        long,
        hide_short_help = true,
        require_equals = true,
        num_args = 0..=1,
        default_value = "never",
        default_missing_value = "always",
        value_name = "never|auto|always",
        hide_possible_values = true
    )]
    pub(super) security_label: Negotiation,

    /// Keep extended attributes under other names on the host (implies --xattr), for example :map::user.virtiofs.:
    ///
    /// Rules :TYPE:SCOPE:KEY:PREPEND:, of which the first that fits decides, with any character in place of the colon. TYPE:
    /// prefix (put PREPEND before names that begin with KEY), ok (pass), bad (hide, refuse), unsupported. SCOPE: client
    /// (what the guest asks for), server (what the host has), all. A last rule :map:KEY:PREPEND: is short for all that
    /// keeping names that begin with KEY under PREPEND takes. docs/identity.md has examples
    #[arg(long, hide_short_help = true, value_name = "RULES")]
    pub(super) xattrmap: Option<XattrMap>,

    /// Clear set-user-ID bits and capabilities of files that are written, instead of letting the guest ask for
    /// them before every write [default with --xattr]
    #[arg(long, hide_short_help = true, overrides_with = "no_killpriv_v2")]
    pub(super) killpriv_v2: bool,

    /// Leave set-user-ID bits and capabilities to the guest [default without --xattr]
    #[arg(long, hide_short_help = true, overrides_with = "killpriv_v2")]
    pub(super) no_killpriv_v2: bool,

    /// Keep the guest's O_NOATIME on host files; an unprivileged daemon may then be refused opens
    #[arg(long, hide_short_help = true)]
    pub(super) preserve_noatime: bool,

    /// Translate user ids between guest and host (repeatable; docs/identity.md has examples)
    ///
    /// guest:GUEST:HOST:COUNT: guest's ids become host's; host:HOST:GUEST:COUNT: host's become guest's;
    /// map:GUEST:HOST:COUNT: both; squash-guest:GUEST:HOST:COUNT and squash-host:HOST:GUEST:COUNT: all of them become
    /// one; forbid-guest:GUEST:COUNT: these may do nothing that needs an owner.
    /// Other than --uid-map it needs no user namespace. Not with --posix-acl
    #[arg(long, hide_short_help = true, value_name = "RULE")]
    pub(super) translate_uid: Vec<IdRule>,

    /// Translate group ids between guest and host, as --translate-uid
    #[arg(long, hide_short_help = true, value_name = "RULE")]
    pub(super) translate_gid: Vec<IdRule>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Performance")]
pub(super) struct PerformanceArgs {
    /// Which files bypass the guest's page cache and take direct writes in parallel
    ///
    /// auto: those whose first open asks for O_DIRECT; always: all; never: none
    #[arg(long, default_value = "auto", value_name = "auto|always|never", hide_possible_values = true)]
    pub(super) direct: Direct,

    /// Pass the guest's O_DIRECT on to the host file; otherwise the host's page cache is used
    #[arg(long)]
    pub(super) allow_direct_io: bool,

    /// How data moves between files and guest memory
    ///
    /// io_uring: asynchronously, and not at all where the host forbids it; threads: by system calls on a few threads
    /// for each queue; auto: io_uring where the host permits it, otherwise threads
    #[arg(
        long,
        hide_short_help = true,
        default_value = "auto",
        value_name = "auto|io_uring|threads",
        hide_possible_values = true
    )]
    pub(super) engine: Engine,

    /// Pin the threads of the request queues to these CPUs in turn, for example 2,3 or 4-7
    #[arg(long, hide_short_help = true, value_name = "CPUS", value_parser = values::cpu_list)]
    pub(super) ring_affinity: Option<CpuList>,

    /// Let a queue that runs empty look for requests for up to this many microseconds before it sleeps, 0 to 1000.
    /// It costs processor time; how long it looks adapts to how soon requests come
    #[arg(long, hide_short_help = true, value_name = "MICROSECONDS", default_value = "0", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(super) poll_us: u16,

    /// Largest write or read request, 4K to 4M in steps of 4K
    #[arg(long, hide_short_help = true, value_name = "BYTES", default_value = "1M", value_parser = values::max_write)]
    pub(super) max_write: u32,

    /// Limit of the guest's read-ahead; K and M are understood [default: what the guest proposes]
    #[arg(long, hide_short_help = true, value_name = "BYTES", value_parser = values::bytes)]
    pub(super) readahead: Option<u32>,

    /// Threads for slow operations such as fsync; 0 chooses
    #[arg(long, hide_short_help = true, value_name = "N", default_value = "0")]
    pub(super) thread_pool_size: usize,

    /// Limit of open files; 0 leaves it alone [default: 1000000, or fs.nr_open if that is less]
    #[arg(long, hide_short_help = true, value_name = "N")]
    pub(super) rlimit_nofile: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits on what a guest can make the daemon hold (docs/limits.md)")]
pub(super) struct LimitArgs {
    /// Files that the guest may know; beyond it: ENFILE
    #[arg(long, hide_short_help = true, value_name = "N", default_value = "16000000", value_parser = values::count)]
    pub(super) max_nodes: usize,

    /// Files and directories that the guest may have open; beyond it: ENFILE [default: what --rlimit-nofile leaves]
    #[arg(long, hide_short_help = true, value_name = "N", value_parser = values::count)]
    pub(super) max_handles: Option<usize>,

    /// Locks that the guest may have on the host (-o posix_lock), and owners of them for each file; beyond it: ENOLCK
    #[arg(long, hide_short_help = true, value_name = "N", default_value = "100000", value_parser = values::count)]
    pub(super) max_locks: usize,

    /// Requests that may wait for such locks; beyond it: ENOLCK
    #[arg(long, hide_short_help = true, value_name = "N", default_value = "4096", value_parser = values::count)]
    pub(super) max_lock_waiters: usize,

    /// Bytes that one fallocate may reserve; beyond it: EFBIG
    #[arg(long, hide_short_help = true, value_name = "BYTES", default_value = "16T", value_parser = values::amount)]
    pub(super) max_allocate: usize,

    /// Bytes of an extended attribute's value, at most 64K; beyond it: E2BIG
    #[arg(long, hide_short_help = true, value_name = "BYTES", default_value = "64K", value_parser = values::xattr_size)]
    pub(super) max_xattr: usize,

    /// Times that the window may have files open, at two descriptors; beyond it files are reached by FUSE
    #[arg(long, hide_short_help = true, value_name = "N", default_value = "16384", value_parser = values::count)]
    pub(super) max_window_files: usize,

    /// Requests of one queue that may be in flight; beyond it they wait in the queue
    #[arg(long, hide_short_help = true, value_name = "N", default_value = "32768", value_parser = values::count)]
    pub(super) max_in_flight: usize,

    /// Bytes of requests in flight, but for data, that are kept for one queue; beyond it requests wait in the queue
    #[arg(long, hide_short_help = true, value_name = "BYTES", default_value = "64M", value_parser = values::amount)]
    pub(super) max_kept_bytes: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Extents (for guests whose kernel has the patch in vm-images/kernel)")]
pub(super) struct WindowArgs {
    /// Serve a block device on this socket too, through which such a guest does direct I/O past FUSE.
    /// In the guest: mount -t virtiofs -o iomap_dev=/dev/disk/by-id/virtio-SERIAL share /mnt
    ///
    /// SIGUSR1 takes back what was granted; guests then use FUSE until they ask again
    #[arg(long, hide_short_help = true, value_name = "PATH")]
    pub(super) window_socket: Option<PathBuf>,

    /// Serial number of that block device, at most 20 letters, digits, '-', '_' and '.' [default: random]
    #[arg(long, hide_short_help = true, value_name = "SERIAL", value_parser = values::serial)]
    pub(super) window_serial: Option<String>,

    /// Queues of that block device to offer, 1 to 64; the monitor decides how many it uses [default: as for --queues]
    #[arg(long, hide_short_help = true, value_name = "N", requires = "window_socket", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) window_queues: Option<u16>,

    /// How the guest asks where a file lies in the window
    ///
    /// private: as docs/extent-protocol.md has it; rfc2025: as the first revision of fuse-iomap has it, for guests that
    /// were built from it. Their flags mean other things to other guests, so this is never guessed
    #[arg(
        long,
        hide_short_help = true,
        requires = "window_socket",
        default_value = "private",
        value_name = "private|rfc2025",
        hide_possible_values = true
    )]
    pub(super) extent_dialect: ExtentDialect,

    /// Which disk the guest does its direct I/O on
    ///
    /// file: the block device of --window-socket, which leads to the files; block: the same, but the daemon reads and writes
    /// the host's block device under the share (--device) where it knows a file's blocks, which costs less: for a volume
    /// that nobody else uses; device: that block device itself, which the
    /// monitor gives to the guest as well. Then no daemon is between them, and the guest can read and change
    /// everything on that device: for a volume of its own and a guest that is trusted. docs/extent-protocol.md,
    /// "Source block" and "Source device", has the rules
    #[arg(
        long,
        hide_short_help = true,
        default_value = "file",
        value_name = "file|block|device",
        hide_possible_values = true
    )]
    pub(super) extent_source: ExtentSource,

    /// The block device under the share, for --extent-source block and device
    ///
    /// With device, the guest must have it as a disk with the serial number of --window-serial
    #[arg(long, hide_short_help = true, value_name = "PATH")]
    pub(super) device: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub(super) struct SandboxArgs {
    /// How to confine the daemon to the shared directory
    ///
    /// namespace: own mount, PID and network namespaces with the directory as root; chroot: the directory as
    /// root only; none: not at all
    #[arg(
        long,
        default_value = "namespace",
        value_name = "namespace|chroot|none",
        hide_possible_values = true,
        ignore_case = true
    )]
    pub(super) sandbox: SandboxMode,

    /// Refuse to start where the host does not give everything that the sandbox consists of
    ///
    /// Otherwise what is missing (seccomp, Landlock or a part of it, restrictions of io_uring) is reported in the log
    #[arg(long, hide_short_help = true)]
    pub(super) sandbox_required: bool,

    /// What to do on a system call that no thread of this kind has reason to make
    ///
    /// kill: end the daemon; trap: the same by SIGSYS, with a core dump; log: do it, and note it in the kernel's log;
    /// none: install no filter
    #[arg(
        long,
        hide_short_help = true,
        default_value = "kill",
        value_name = "none|kill|log|trap",
        hide_possible_values = true
    )]
    pub(super) seccomp: Seccomp,

    /// Limit with Landlock what the daemon can reach, beside and without the above: auto (what the host has) or none
    #[arg(
        long,
        hide_short_help = true,
        default_value = "auto",
        value_name = "auto|none",
        hide_possible_values = true
    )]
    pub(super) landlock: Landlock,

    /// Capabilities to keep or to drop besides the default, for example +sys_admin:-chown
    #[arg(long, hide_short_help = true, value_name = "LIST", value_parser = values::modcaps, allow_hyphen_values = true)]
    pub(super) modcaps: Option<ModCaps>,

    /// Map user ids of a user namespace, :INSIDE:OUTSIDE:COUNT: (repeatable)
    #[arg(long, hide_short_help = true, value_name = "MAP", value_parser = values::id_map)]
    pub(super) uid_map: Vec<IdMap>,

    /// Map group ids of a user namespace, as --uid-map
    #[arg(long, hide_short_help = true, value_name = "MAP", value_parser = values::id_map)]
    pub(super) gid_map: Vec<IdMap>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct LoggingArgs {
    /// The least important messages to write
    #[arg(
        long,
        default_value = "info",
        value_name = "error|warn|info|debug|trace|off",
        hide_possible_values = true,
        ignore_case = true
    )]
    pub(super) log_level: LogLevel,

    /// Write messages to the system log instead of stderr
    #[arg(long, hide_short_help = true)]
    pub(super) syslog: bool,
}

/// Accepted so that launch lines keep working; they matter in a migration only, and this version has
/// none.
#[derive(Debug, Args)]
#[command(next_help_heading = "Migration (not in this version: accepted, without effect)")]
pub(super) struct MigrationArgs {
    /// How to name open files to the destination
    #[arg(
        long,
        hide_short_help = true,
        default_value = "find-paths",
        value_name = "find-paths|file-handles",
        hide_possible_values = true
    )]
    pub(super) migration_mode: MigrationMode,

    /// What to do about a file that cannot be migrated
    #[arg(
        long,
        hide_short_help = true,
        default_value = "abort",
        value_name = "abort|guest-error",
        hide_possible_values = true
    )]
    pub(super) migration_on_error: MigrationOnError,

    /// Have the destination check that it opened the same files
    #[arg(long, hide_short_help = true)]
    pub(super) migration_verify_handles: bool,

    /// Check all paths once more before switching over
    #[arg(long, hide_short_help = true)]
    pub(super) migration_confirm_paths: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "virtiofsd compatibility")]
pub(super) struct CompatArgs {
    /// Print what launchers such as libvirt want to know, as JSON, and end
    #[arg(long, hide_short_help = true)]
    pub(super) print_capabilities: bool,

    /// Old spelling of --socket-path
    #[arg(long, hide_short_help = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,

    /// Old dialect, a comma-separated list; it wins over separate options. Known: source=DIR,
    /// cache=auto|always|none|metadata, loglevel=debug|info|warn|err, sandbox=namespace|chroot,
    /// modcaps=LIST, xattrmap=RULES, announce_submounts, and with no_ to turn them off: xattr, readdirplus,
    /// writeback, allow_direct_io, killpriv_v2, posix_acl, security_label, posix_lock, flock
    #[arg(short = 'o', hide_short_help = true, value_name = "LIST")]
    pub(super) compat_options: Vec<String>,

    /// Old spelling of --log-level debug
    #[arg(short = 'd', hide_short_help = true)]
    pub(super) debug: bool,

    /// Without effect: the daemon always stays in the foreground
    #[arg(short = 'f', hide_short_help = true)]
    pub(super) foreground: bool,
}
