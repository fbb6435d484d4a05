//! What do guest and server agree upon at mount?
//!
//! A feature is agreed upon when the guest offers it, its minor version knows it, and either the server
//! or the file system wants it.
//!
//! The extent protocols have flags that Linux did not give them. That of `docs/extent-protocol.md` is a feature like
//! the others. Those of the RFC of 2025 mean other things to other guests: they count only both together, from a guest of
//! the very version of the RFC, where the file system asks for both by name.

use super::abi::extents::FUSE_EXTENTS;
use super::abi::rfc2025::{self, FUSE_IOMAP, FUSE_IOMAP_DIRECTIO};
use super::abi::*;
use super::types::SessionConfig;

/// Guests count pages of this size in `max_pages`, or of a larger one, which only makes them ask for less
/// than they were allowed.
const PAGE_SIZE: u32 = 4096;

/// Who decides about a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Always wanted: it is about the transport of messages, and this server masters it.
    Server,
    /// The file system's choice ([`SessionConfig::features`]).
    FileSystem,
    /// Never: it needs `/dev/fuse`, a notification queue or DAX, or would break a virtio-fs mount.
    Never,
}
use Decision::{FileSystem, Never, Server};

/// The first minor version of features that every guest we serve has.
const ALL: u32 = FUSE_OLDEST_MINOR_VERSION;

/// Flag, the minor version that brought it, who decides.
const FEATURES: [(u64, u32, Decision); 44] = [
    (FUSE_ASYNC_READ, ALL, Server),
    (FUSE_POSIX_LOCKS, ALL, FileSystem),
    (FUSE_FILE_OPS, ALL, Never),
    (FUSE_ATOMIC_O_TRUNC, ALL, FileSystem),
    // LOOKUP of "." and ".." would have to be served.
    (FUSE_EXPORT_SUPPORT, ALL, Never),
    (FUSE_BIG_WRITES, ALL, Server),
    (FUSE_DONT_MASK, ALL, FileSystem),
    (FUSE_SPLICE_WRITE, ALL, Never),
    (FUSE_SPLICE_MOVE, ALL, Never),
    (FUSE_SPLICE_READ, ALL, Never),
    (FUSE_FLOCK_LOCKS, ALL, FileSystem),
    (FUSE_HAS_IOCTL_DIR, ALL, FileSystem),
    (FUSE_AUTO_INVAL_DATA, ALL, FileSystem),
    (FUSE_DO_READDIRPLUS, ALL, FileSystem),
    (FUSE_READDIRPLUS_AUTO, ALL, FileSystem),
    (FUSE_ASYNC_DIO, ALL, FileSystem),
    (FUSE_WRITEBACK_CACHE, ALL, FileSystem),
    (FUSE_NO_OPEN_SUPPORT, ALL, FileSystem),
    (FUSE_PARALLEL_DIROPS, ALL, Server),
    (FUSE_HANDLE_KILLPRIV, ALL, FileSystem),
    (FUSE_POSIX_ACL, ALL, FileSystem),
    (FUSE_ABORT_ERROR, ALL, Never),
    (FUSE_MAX_PAGES, ALL, Server),
    (FUSE_CACHE_SYMLINKS, ALL, FileSystem),
    (FUSE_NO_OPENDIR_SUPPORT, ALL, FileSystem),
    (FUSE_EXPLICIT_INVAL_DATA, ALL, FileSystem),
    (FUSE_MAP_ALIGNMENT, ALL, Never),
    (FUSE_SUBMOUNTS, 32, FileSystem),
    (FUSE_HANDLE_KILLPRIV_V2, 33, FileSystem),
    (FUSE_SETXATTR_EXT, 33, FileSystem),
    (FUSE_INIT_EXT, 36, Server),
    (FUSE_INIT_RESERVED, 36, Never),
    (FUSE_SECURITY_CTX, 36, FileSystem),
    (FUSE_HAS_INODE_DAX, 36, Never),
    (FUSE_CREATE_SUPP_GROUP, 38, FileSystem),
    (FUSE_HAS_EXPIRE_ONLY, 38, Never),
    (FUSE_DIRECT_IO_ALLOW_MMAP, 39, FileSystem),
    // The guest cannot resolve a backing id without /dev/fuse: every open would end in EIO.
    (FUSE_PASSTHROUGH, 40, Never),
    (FUSE_NO_EXPORT_SUPPORT, 40, FileSystem),
    (FUSE_HAS_RESEND, 40, Never),
    (FUSE_ALLOW_IDMAP, 41, FileSystem),
    (FUSE_OVER_IO_URING, 42, Never),
    // The guest would abort the connection while a SETLKW or a slow disk keeps a request waiting.
    (FUSE_REQUEST_TIMEOUT, 43, Never),
    (FUSE_HAS_IO_URING_BUFPOOL, 46, Never),
];

/// The flags of the RFC of 2025, one of which alone says nothing.
const RFC: u64 = FUSE_IOMAP | FUSE_IOMAP_DIRECTIO;

/// What a guest says in INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    /// Its minor version, at least [`FUSE_OLDEST_MINOR_VERSION`].
    pub minor: u32,
    /// Its flags, both words.
    pub flags: u64,
    /// Bytes that it would read ahead.
    pub max_readahead: u32,
}

impl Guest {
    /// The flags that can be agreed upon at all. The upper word counts only where the guest says that
    /// there is one.
    pub(super) fn offered(self) -> u64 {
        let flags = match self.flags & FUSE_INIT_EXT {
            0 => self.flags & u64::from(u32::MAX),
            _ => self.flags,
        };
        let known = FEATURES
            .iter()
            .filter(|(_, since, decision)| *since <= self.minor && *decision != Never)
            .fold(FUSE_EXTENTS, |all, (flag, ..)| all | flag);
        let rfc = self.minor == rfc2025::MINOR_VERSION && flags & RFC == RFC;
        (known & flags) | if rfc { RFC } else { 0 }
    }
}

/// The flags that guest and server agree upon, and the answer that says so.
pub(super) fn agree(guest: Guest, config: &SessionConfig) -> (u64, InitOut) {
    let ours = FEATURES
        .iter()
        .filter(|(.., decision)| *decision == Server)
        .fold(config.features, |all, (flag, ..)| all | flag);
    let mut features = guest.offered() & ours;
    if features & FUSE_INIT_EXT == 0 {
        features &= u64::from(u32::MAX);
    }
    if features & RFC != RFC || features & FUSE_EXTENTS != 0 {
        features &= !RFC;
    }

    // The guest raises a smaller max_write to this by itself (process_init_reply).
    let max_write = config.max_write.max(PAGE_SIZE);
    let max_pages = u16::try_from(max_write.div_ceil(PAGE_SIZE)).unwrap_or(u16::MAX);
    let [flags, flags2] = halves(features);
    let out = InitOut {
        major: FUSE_KERNEL_VERSION,
        minor: guest.minor.min(FUSE_KERNEL_MINOR_VERSION),
        max_readahead: config.max_readahead.min(guest.max_readahead),
        flags,
        max_background: config.max_background,
        // The proportion that the kernel itself uses (FUSE_DEFAULT_CONGESTION_THRESHOLD).
        congestion_threshold: config.max_background - config.max_background / 4,
        max_write,
        time_gran: config.time_granularity,
        max_pages: if features & FUSE_MAX_PAGES == 0 { 0 } else { max_pages },
        flags2,
        ..InitOut::default()
    };
    (features, out)
}

/// The two words in which flags travel, the lower one first.
fn halves(flags: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = flags.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: SessionConfig = SessionConfig {
        features: u64::MAX,
        max_write: 1 << 20,
        max_readahead: 1 << 17,
        max_background: u16::MAX,
        time_granularity: 1,
    };

    fn guest(minor: u32) -> Guest {
        Guest { minor, flags: u64::MAX, max_readahead: u32::MAX }
    }

    #[test]
    fn every_flag_has_one_row() {
        for (bit, (flag, ..)) in FEATURES.iter().enumerate() {
            assert_eq!(*flag, 1 << bit);
        }
    }

    #[test]
    fn each_minor_gets_what_it_knows() {
        let common = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS;
        for (minor, has, lacks) in [
            (31, common | FUSE_POSIX_ACL, FUSE_SUBMOUNTS | FUSE_INIT_EXT | FUSE_SECURITY_CTX),
            (
                38,
                common | FUSE_INIT_EXT | FUSE_SECURITY_CTX | FUSE_CREATE_SUPP_GROUP,
                FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_ALLOW_IDMAP,
            ),
            (41, common | FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_ALLOW_IDMAP, FUSE_OVER_IO_URING),
            (45, common | FUSE_ALLOW_IDMAP, FUSE_REQUEST_TIMEOUT | FUSE_PASSTHROUGH),
            (46, common | FUSE_ALLOW_IDMAP, FUSE_HAS_IO_URING_BUFPOOL),
        ] {
            let (features, out) = agree(guest(minor), &CONFIG);
            assert_eq!(features & has, has, "7.{minor}");
            assert_eq!(features & lacks, 0, "7.{minor}");
            assert_eq!(out.minor, minor);
            assert_eq!(u64::from(out.flags) | u64::from(out.flags2) << 32, features);
        }
        assert_eq!(agree(guest(47), &CONFIG).1.minor, 46);
    }

    #[test]
    fn what_virtio_fs_cannot_have_is_never_agreed_upon() {
        let never = FUSE_PASSTHROUGH
            | FUSE_HAS_IO_URING_BUFPOOL
            | FUSE_REQUEST_TIMEOUT
            | FUSE_OVER_IO_URING
            | FUSE_EXPORT_SUPPORT
            | FUSE_MAP_ALIGNMENT
            | FUSE_INIT_RESERVED
            | !(((1 << 44) - 1) | FUSE_EXTENTS);
        assert_eq!(agree(guest(99), &CONFIG).0 & never, 0);
    }

    #[test]
    fn extents_are_agreed_upon_where_both_say_so() {
        for minor in [36, 41, 44, 46, 99] {
            assert_eq!(agree(guest(minor), &CONFIG).0 & (FUSE_EXTENTS | RFC), FUSE_EXTENTS);
            let stock = Guest { flags: !FUSE_EXTENTS, ..guest(minor) };
            assert_eq!(agree(stock, &CONFIG).0 & FUSE_EXTENTS, 0);
            let without = SessionConfig { features: !(FUSE_EXTENTS | RFC), ..CONFIG };
            let (features, out) = agree(guest(minor), &without);
            assert_eq!(features & (FUSE_EXTENTS | RFC), 0);
            assert_eq!(out.flags2 & 0xffff_f800, 0);
        }
    }

    #[test]
    fn the_flags_of_the_rfc_mean_something_only_together_and_in_its_version() {
        let rfc = SessionConfig { features: RFC, ..CONFIG };
        for minor in 31..=99 {
            let expected = if minor == 44 { RFC } else { 0 };
            assert_eq!(guest(minor).offered() & RFC, expected, "7.{minor}");
            assert_eq!(agree(guest(minor), &rfc).0 & (RFC | FUSE_EXTENTS), expected, "7.{minor}");
        }
        for half in [FUSE_IOMAP, FUSE_IOMAP_DIRECTIO] {
            let guest_has_half = Guest { flags: !RFC | half, ..guest(44) };
            assert_eq!(guest_has_half.offered() & RFC, 0);
            assert_eq!(agree(guest_has_half, &rfc).0 & RFC, 0);
            assert_eq!(agree(guest(44), &SessionConfig { features: half, ..CONFIG }).0 & RFC, 0);
        }
        let both = agree(guest(44), &CONFIG).0;
        assert_eq!(both & (RFC | FUSE_EXTENTS), FUSE_EXTENTS, "one protocol at a time");
        let third =
            agree(guest(44), &SessionConfig { features: RFC | rfc2025::FUSE_IOMAP_PAGECACHE, ..CONFIG }).0;
        assert_eq!(third & rfc2025::FUSE_IOMAP_PAGECACHE, 0);
    }

    #[test]
    fn nothing_is_agreed_upon_that_was_not_offered_and_wanted() {
        let modest = Guest { minor: 45, flags: FUSE_ASYNC_READ | FUSE_DO_READDIRPLUS, max_readahead: 4096 };
        let (features, out) = agree(modest, &SessionConfig { features: FUSE_POSIX_ACL, ..CONFIG });
        assert_eq!(features, FUSE_ASYNC_READ);
        assert_eq!((out.max_pages, out.max_readahead), (0, 4096));
        let (features, _) = agree(guest(45), &SessionConfig { features: 0, ..CONFIG });
        let server =
            FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_INIT_EXT;
        assert_eq!(features, server);
    }

    #[test]
    fn the_upper_word_needs_init_ext() {
        let old = Guest { flags: !FUSE_INIT_EXT, ..guest(45) };
        assert_eq!(agree(old, &CONFIG).0 >> 32, 0);
        assert_eq!(old.offered() >> 32, 0);
    }

    #[test]
    fn limits_follow_the_configuration() {
        let (_, out) = agree(guest(45), &CONFIG);
        assert_eq!((out.max_background, out.congestion_threshold), (65535, 49152));
        assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
        let (_, out) = agree(guest(45), &SessionConfig { max_write: 4097, ..CONFIG });
        assert_eq!(out.max_pages, 2);
        let (_, out) = agree(guest(45), &SessionConfig { max_write: u32::MAX, ..CONFIG });
        assert_eq!(out.max_pages, u16::MAX);
        let (_, out) = agree(guest(45), &SessionConfig { max_write: 0, ..CONFIG });
        assert_eq!((out.max_write, out.max_pages), (4096, 1));
    }
}
