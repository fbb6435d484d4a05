//! What may the operator decide about the file system?
//!
//! Plain values with their defaults, free of the command line's types.

use std::time::Duration;

use crate::identity::{Translation, XattrMap};

/// How much the guest may cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// File contents are not cached: every open is direct.
    Never,
    /// Names and attributes are cached for long, contents are not.
    Metadata,
    /// Contents are dropped at open when the file changed; names and attributes live for a second.
    #[default]
    Auto,
    /// Nobody but this guest changes the share: everything is cached for long.
    Always,
}

/// A feature that can be refused, used where the guest offers it, or insisted upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Off, even if the guest offers it.
    #[default]
    Never,
    /// On if the guest offers it.
    Auto,
    /// The guest must offer it, else it cannot mount.
    Always,
}

/// When an inode is served in direct mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectPolicy {
    /// When the guest's first open asks for `O_DIRECT`.
    #[default]
    Auto,
    /// At every open.
    Always,
    /// At no open, unless the cache mode is [`CacheMode::Never`] or [`CacheMode::Metadata`].
    Never,
}

/// Whether a file that the guest knows is held by a file handle or by an open descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeFileHandles {
    /// One `O_PATH` descriptor for each file that the guest knows.
    Never,
    /// A file handle where the file system and the process's capabilities allow it.
    #[default]
    Prefer,
    /// A file handle, or an error.
    Mandatory,
}

/// How the guest asks where a file lies, where there is a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExtentDialect {
    /// As `docs/extent-protocol.md` has it.
    #[default]
    Private,
    /// As the first public revision of fuse-iomap has it (May 2025).
    Rfc2025,
}

/// READDIRPLUS: names and attributes in one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadDirPlus {
    /// Plain READDIR only.
    Never,
    /// The guest decides from what it sees done with the entries (`FUSE_READDIRPLUS_AUTO`).
    #[default]
    Auto,
    /// At every READDIR.
    Always,
}

/// Upper bounds on what a guest can make the daemon, and the host's kernel for it, hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Descriptors that are kept for the guest, but for the hot ones and the window's: of handles, a second for direct I/O,
    /// of owners of locks, of files without a file handle. Beyond it what would need one fails with `ENFILE`, locks with
    /// `ENOLCK`; direct I/O goes by way of the host's page cache.
    pub max_descriptors: usize,
    /// Open handles (files and directories); beyond it opens fail with `ENFILE`.
    pub max_handles: usize,
    /// Files that the guest knows; beyond it lookups fail with `ENFILE`.
    pub max_nodes: usize,
    /// `O_PATH` descriptors kept open for files that are referred to by file handle.
    pub hot_descriptors: usize,
    /// Opens of files by the window, with two descriptors each; a file that is written takes two. Beyond it files are
    /// reached by FUSE.
    pub max_window_opens: usize,
    /// Where fcntl locks are the host's: records, and one more (it is a descriptor) for each pair of an owner and a file.
    /// Beyond it locks fail with `ENOLCK`. A flock has the handle's descriptor and is bounded by the handles.
    pub max_locks: usize,
    /// Requests for locks that wait; beyond it they fail with `ENOLCK`.
    pub max_lock_waiters: usize,
    /// Bytes that one FALLOCATE may ask for; beyond it, it fails with `EFBIG`.
    pub max_allocate: usize,
    /// Bytes of one extended attribute's value; beyond it SETXATTR fails with `E2BIG`. The host's kernel takes 64 KiB at
    /// most, and file systems less.
    pub max_xattr: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_descriptors: 500_000,
            max_handles: 500_000,
            max_nodes: 16_000_000,
            hot_descriptors: 4096,
            max_window_opens: 16_384,
            max_locks: 100_000,
            // More would make a round of the one who tries for all of them too long.
            max_lock_waiters: 4096,
            max_allocate: 16 << 40,
            max_xattr: 64 << 10,
        }
    }
}

/// Everything the operator decides about one share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How much the guest may cache.
    pub cache: CacheMode,
    /// How long attributes are believed; `None`: as the cache mode has it.
    pub attr_timeout: Option<Duration>,
    /// How long names are believed; `None`: as the cache mode has it.
    pub entry_timeout: Option<Duration>,
    /// How long the absence of a name is believed; zero: it is asked for every time.
    pub negative_timeout: Duration,
    /// Serve extended attributes.
    pub xattr: bool,
    /// POSIX access control lists; needs `xattr`.
    pub posix_acl: Choice,
    /// Set the security label of a new file when it is made.
    pub security_label: Choice,
    /// Under which names the host keeps extended attributes; `None`: under the guest's. Needs `xattr`, and must leave the
    /// names of ACLs alone where there is `posix_acl`.
    pub xattrmap: Option<XattrMap>,
    /// Which ids stand for the guest's; nothing may be said of them together with `posix_acl`.
    pub translation: Translation,
    /// Let the guest's page cache collect writes.
    pub writeback: bool,
    /// READDIRPLUS.
    pub readdirplus: ReadDirPlus,
    /// Hand the guest's `O_DIRECT` on to the host's file.
    pub allow_direct_io: bool,
    /// When an inode is served in direct mode.
    pub direct: DirectPolicy,
    /// Allow shared mappings of files that are served in direct mode.
    pub allow_mmap: bool,
    /// Tell the guest where another host mount begins.
    pub announce_submounts: bool,
    /// What refers to a file that the guest knows.
    pub inode_file_handles: InodeFileHandles,
    /// Clear set-user-ID, set-group-ID and capabilities on the guest's word instead of its asking for them. Not done where
    /// `xattrmap` hides capabilities from the host's kernel.
    pub killpriv_v2: bool,
    /// Hand the guest's `O_NOATIME` on.
    pub preserve_noatime: bool,
    /// `fcntl(2)` locks are taken on the host.
    pub posix_lock: bool,
    /// `flock(2)` locks are taken on the host.
    pub flock: bool,
    /// Refuse everything that changes the share.
    pub read_only: bool,
    /// How the guest asks where a file lies.
    pub extent_dialect: ExtentDialect,
    /// Bytes of one WRITE at most.
    pub max_write: u32,
    /// Bytes of readahead at most.
    pub max_readahead: u32,
    /// Upper bounds.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache: CacheMode::default(),
            attr_timeout: None,
            entry_timeout: None,
            negative_timeout: Duration::ZERO,
            xattr: false,
            posix_acl: Choice::Never,
            security_label: Choice::Never,
            xattrmap: None,
            translation: Translation::default(),
            writeback: false,
            readdirplus: ReadDirPlus::default(),
            allow_direct_io: false,
            direct: DirectPolicy::default(),
            allow_mmap: false,
            announce_submounts: true,
            inode_file_handles: InodeFileHandles::default(),
            killpriv_v2: false,
            preserve_noatime: false,
            posix_lock: false,
            flock: false,
            read_only: false,
            extent_dialect: ExtentDialect::default(),
            max_write: 1 << 20,
            max_readahead: 1 << 20,
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// How long the guest may believe attributes.
    #[must_use]
    pub fn attr_timeout(&self) -> Duration {
        self.attr_timeout.unwrap_or_else(|| self.default_timeout())
    }

    /// How long the guest may believe a name.
    #[must_use]
    pub fn entry_timeout(&self) -> Duration {
        self.entry_timeout.unwrap_or_else(|| self.default_timeout())
    }

    /// virtiofsd's values, so that a guest behaves the same with either daemon.
    fn default_timeout(&self) -> Duration {
        match self.cache {
            CacheMode::Never => Duration::ZERO,
            CacheMode::Auto => Duration::from_secs(1),
            CacheMode::Metadata | CacheMode::Always => Duration::from_secs(86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_wins_over_the_cache_mode() {
        let mut config = Config { cache: CacheMode::Always, ..Config::default() };
        assert_eq!(config.entry_timeout(), Duration::from_secs(86_400));
        config.entry_timeout = Some(Duration::from_millis(5));
        assert_eq!(config.entry_timeout(), Duration::from_millis(5));
        assert_eq!(config.attr_timeout(), Duration::from_secs(86_400));
        config.cache = CacheMode::Never;
        assert_eq!(config.attr_timeout(), Duration::ZERO);
    }
}
