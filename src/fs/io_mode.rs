//! Does the guest cache this file's contents, or does every access come to the host?
//!
//! The guest's kernel takes its inode lock shared for direct writes only while no open of the file is a
//! cached one (`fuse_dio_wr_exclusive_lock`, `fuse_inode_uncached_io_start`). So the mode belongs to the
//! file and not to the open: the first open chooses it, every further open is answered with the same, and
//! the last release ends it.

use super::config::{CacheMode, DirectPolicy};
use crate::fuse::abi::{FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_PARALLEL_DIRECT_WRITES};

/// The mode of one file, with the number of opens that share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum IoMode {
    /// Nobody has the file open.
    #[default]
    Idle,
    /// The guest reads and writes through its page cache.
    Cached(u32),
    /// The guest asks the host each time.
    Direct(u32),
}

/// What the opens of one file share.
pub(super) type OpenState = IoMode;

impl IoMode {
    /// Counts an open in; `prefer_direct` matters to the first one. Returns whether the mode is direct.
    pub(super) fn open(&mut self, prefer_direct: bool) -> bool {
        *self = match *self {
            Self::Idle if prefer_direct => Self::Direct(1),
            Self::Idle => Self::Cached(1),
            // The table of handles is far smaller than 2^32.
            Self::Cached(opens) => Self::Cached(opens.saturating_add(1)),
            Self::Direct(opens) => Self::Direct(opens.saturating_add(1)),
        };
        matches!(self, Self::Direct(_))
    }

    /// Counts an open out. Returns whether it was the last.
    pub(super) fn close(&mut self) -> bool {
        *self = match *self {
            Self::Idle | Self::Cached(0 | 1) | Self::Direct(0 | 1) => Self::Idle,
            Self::Cached(opens) => Self::Cached(opens - 1),
            Self::Direct(opens) => Self::Direct(opens - 1),
        };
        *self == Self::Idle
    }
}

/// Whether an open with (`o_direct`) or without the guest's `O_DIRECT` makes an idle file direct.
///
/// `mappable` says that the guest can map files in direct mode (`FUSE_DIRECT_IO_ALLOW_MMAP`). Where it
/// cannot, `O_DIRECT` alone does not make a file direct: `mmap(2)` would fail with `ENODEV` for everyone
/// who has it open, and `O_DIRECT` works in cached mode too.
pub(super) fn prefers_direct(cache: CacheMode, policy: DirectPolicy, o_direct: bool, mappable: bool) -> bool {
    match (cache, policy) {
        (CacheMode::Never | CacheMode::Metadata, _) | (_, DirectPolicy::Always) => true,
        (_, DirectPolicy::Auto) => o_direct && mappable,
        (_, DirectPolicy::Never) => false,
    }
}

/// The `FOPEN_*` bits that tell the guest the mode.
///
/// `CacheMode::Auto` says nothing: without `FOPEN_KEEP_CACHE` the guest drops what it has cached at each
/// open (`fuse_finish_open`), as it does with virtiofsd.
pub(super) fn fopen_flags(cache: CacheMode, policy: DirectPolicy, direct: bool) -> u32 {
    match (direct, cache, policy) {
        (true, _, DirectPolicy::Never) => FOPEN_DIRECT_IO,
        (true, _, _) => FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
        (false, CacheMode::Always, _) => FOPEN_KEEP_CACHE,
        (false, _, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model is the plain list of the opens' answers: all that live at one time are the same, the
        /// first decides, and the count is right.
        #[test]
        fn modes_never_mix(steps in prop::collection::vec(prop::option::of(any::<bool>()), 0..200)) {
            let mut mode = IoMode::default();
            let mut opens: Vec<bool> = Vec::new();
            for step in steps {
                match step {
                    Some(prefer_direct) => {
                        let first = opens.first().copied();
                        let direct = mode.open(prefer_direct);
                        prop_assert_eq!(direct, first.unwrap_or(prefer_direct));
                        opens.push(direct);
                    }
                    None => {
                        let was_open = opens.pop().is_some();
                        prop_assert_eq!(mode.close(), opens.is_empty());
                        prop_assert!(was_open || mode == IoMode::Idle);
                    }
                }
                let count = u32::try_from(opens.len()).unwrap();
                let model = match opens.first() {
                    None => IoMode::Idle,
                    Some(true) => IoMode::Direct(count),
                    Some(false) => IoMode::Cached(count),
                };
                prop_assert_eq!(mode, model);
            }
        }
    }

    #[test]
    fn who_makes_a_file_direct() {
        use {CacheMode as C, DirectPolicy as D};
        let table = [
            // cache, policy, O_DIRECT, mappable -> direct
            (C::Never, D::Never, false, false, true),
            (C::Metadata, D::Auto, false, false, true),
            (C::Auto, D::Auto, false, true, false),
            (C::Auto, D::Auto, true, true, true),
            (C::Auto, D::Auto, true, false, false),
            (C::Always, D::Auto, true, true, true),
            (C::Auto, D::Always, false, false, true),
            (C::Auto, D::Never, true, true, false),
            (C::Always, D::Never, true, true, false),
        ];
        for (cache, policy, o_direct, mappable, direct) in table {
            let found = prefers_direct(cache, policy, o_direct, mappable);
            assert_eq!(found, direct, "{cache:?} {policy:?} {o_direct} {mappable}");
        }
    }

    #[test]
    fn what_the_guest_is_told() {
        use {CacheMode as C, DirectPolicy as D};
        assert_eq!(fopen_flags(C::Auto, D::Auto, false), 0);
        assert_eq!(fopen_flags(C::Always, D::Auto, false), FOPEN_KEEP_CACHE);
        assert_eq!(fopen_flags(C::Always, D::Auto, true), FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES);
        assert_eq!(fopen_flags(C::Never, D::Auto, true), FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES);
        assert_eq!(fopen_flags(C::Never, D::Never, true), FOPEN_DIRECT_IO);
    }

    /// The guest's kernel as far as it decides about the lock of a direct write: `fuse_file_io_open`,
    /// `fuse_file_mmap` and `fuse_dio_wr_exclusive_lock` of Linux 7.3.
    #[derive(Default)]
    struct Guest {
        /// The flags of each open file, and whether it holds the inode in caching mode.
        files: Vec<(u32, bool)>,
    }

    impl Guest {
        fn open(&mut self, flags: u32) {
            self.files.push((flags, flags & FOPEN_DIRECT_IO == 0));
        }

        /// `MAP_SHARED` of a file in direct mode puts the inode in caching mode until that file's release.
        fn map(&mut self, file: usize) {
            self.files[file].1 = true;
        }

        fn release(&mut self, file: usize) {
            self.files.remove(file);
        }

        fn takes_shared_lock(&self, file: usize, append: bool, past_eof: bool) -> bool {
            let parallel = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
            let caching = self.files.iter().any(|(_, caching)| *caching);
            self.files[file].0 & parallel == parallel && !append && !caching && !past_eof
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Open { o_direct: bool },
        Map(usize),
        Write { file: usize, append: bool, past_eof: bool },
        Release(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => any::<bool>().prop_map(|o_direct| Event::Open { o_direct }),
            1 => any::<usize>().prop_map(Event::Map),
            3 => (any::<usize>(), any::<bool>(), any::<bool>())
                .prop_map(|(file, append, past_eof)| Event::Write { file, append, past_eof }),
            2 => any::<usize>().prop_map(Event::Release),
        ]
    }

    proptest! {
        /// Every order of opens with and without O_DIRECT, mappings, writes and releases: an overwrite inside the
        /// file takes the shared lock exactly while the file was first opened with O_DIRECT (or the policy
        /// says so) and nobody has it mapped; appends and writes past the end never do.
        #[test]
        fn the_guest_writes_in_parallel_exactly_when_it_may(
            always: bool,
            events in prop::collection::vec(event(), 0..120),
        ) {
            let policy = if always { DirectPolicy::Always } else { DirectPolicy::Auto };
            let (mut mode, mut guest) = (IoMode::default(), Guest::default());
            // The model: whether the first open of this life was direct, and who has mapped.
            let mut first_was_direct = false;
            let mut mapped: Vec<bool> = Vec::new();
            for event in events {
                let open = guest.files.len();
                match event {
                    Event::Open { o_direct } => {
                        let prefers = prefers_direct(CacheMode::Auto, policy, o_direct, true);
                        if open == 0 {
                            first_was_direct = o_direct || always;
                        }
                        let direct = mode.open(prefers);
                        guest.open(fopen_flags(CacheMode::Auto, policy, direct));
                        mapped.push(false);
                    }
                    Event::Map(file) if open > 0 => {
                        guest.map(file % open);
                        mapped[file % open] = true;
                    }
                    Event::Write { file, append, past_eof } if open > 0 => {
                        let expected = first_was_direct && !append && !past_eof && !mapped.contains(&true);
                        prop_assert_eq!(guest.takes_shared_lock(file % open, append, past_eof), expected);
                    }
                    Event::Release(file) if open > 0 => {
                        guest.release(file % open);
                        mapped.remove(file % open);
                        prop_assert_eq!(mode.close(), guest.files.is_empty());
                    }
                    Event::Map(_) | Event::Write { .. } | Event::Release(_) => {}
                }
                // Opens of both kinds never live at the same time.
                let direct = guest.files.iter().filter(|(flags, _)| flags & FOPEN_DIRECT_IO != 0).count();
                prop_assert!(direct == 0 || direct == guest.files.len());
            }
        }
    }
}
