//! Which host file is it?

use rustix::fs::{AtFlags, Statx, StatxFlags, makedev};

/// What a `statx(2)` must ask for, so that a file can be recognised and described in one call.
pub(crate) const STATX_MASK: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);

/// How names are examined: the file itself, not what a symbolic link points to or an automounter makes.
pub(crate) const STATX_NAME: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// What tells the files that exist at one time apart.
///
/// The same file seen through two mounts counts as two, because the mounts may differ in what they
/// allow. The device is kept in the kernel's 32 bits and mount ids are small numbers
/// (`mnt_alloc_id`), which makes this half the size of the `statx(2)` fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    ino: u64,
    dev: u32,
    mount: u32,
}

impl Identity {
    /// The identity in a `statx(2)` answer.
    pub(crate) fn of(stat: &Statx) -> Self {
        // Both fit in 32 bits on every Linux; should that change, a fold still tells files apart.
        let dev = makedev(stat.stx_dev_major, stat.stx_dev_minor);
        Self { ino: stat.stx_ino, dev: fold(dev), mount: fold(stat.stx_mnt_id) }
    }

    /// The id of the mount that the file was seen through.
    pub(crate) fn mount(&self) -> u32 {
        self.mount
    }

    /// The inode number.
    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    #[cfg(test)]
    pub(crate) fn invent(ino: u64) -> Self {
        Self { ino, dev: 1, mount: 1 }
    }
}

#[allow(clippy::cast_possible_truncation)] // Folding is the purpose.
fn fold(wide: u64) -> u32 {
    (wide ^ (wide >> 32)) as u32
}

/// The time at which a file came into being, in nanoseconds since the epoch; none where the file system
/// does not record it.
///
/// It makes a file recognisable beyond its own life: host file systems give the inode number of a
/// deleted file to a new one, but not in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BirthTime(i64);

impl BirthTime {
    const UNKNOWN: Self = Self(i64::MIN);
    /// Timestamps come from a clock that ticks every few milliseconds, so two files that had the same
    /// inode number one after the other may have the same birth time if they were made that close
    /// together. A second is far beyond any tick, and beyond file systems with whole seconds' times.
    const TICK: i64 = 1_000_000_000;

    /// The birth time in a `statx(2)` answer.
    pub(crate) fn of(stat: &Statx) -> Self {
        if !StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) {
            return Self::UNKNOWN;
        }
        let time = stat.stx_btime;
        time.tv_sec
            .checked_mul(1_000_000_000)
            .and_then(|ns| ns.checked_add(i64::from(time.tv_nsec)))
            .map_or(Self::UNKNOWN, Self)
    }

    /// Whether a file that exists now and has this birth time is the only one that can have it
    /// together with its inode number: its birth is clearly in the past, so that whatever inherits the
    /// number is younger.
    pub(crate) fn is_past(self) -> bool {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let now = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        self.is_before(now)
    }

    fn is_before(self, now: i64) -> bool {
        self != Self::UNKNOWN && now.checked_sub(self.0).is_some_and(|age| age > Self::TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_or_unknown_birth_proves_nothing() {
        let born = BirthTime(5_000_000_000);
        assert!(!born.is_before(5_000_000_000));
        assert!(!born.is_before(6_000_000_000));
        assert!(born.is_before(6_000_000_001));
        assert!(!born.is_before(4_000_000_000), "a clock that was set back");
        assert!(!BirthTime::UNKNOWN.is_before(i64::MAX));
    }
}
