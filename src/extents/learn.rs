//! When does the window know the blocks of a file, and when not any more?
//!
//! It looks for them when a number of requests had to go by way of the file system, and not so often that it would spend
//! more than a small part of its time on that. Nobody is in the file meanwhile. What was found holds until somebody fences the file in order to
//! change it: he takes it away before he does, and whoever was looking just then throws away what he saw.
//!
//! A guest could reach a file by two nodes, one of which it has forgotten but has open. So who changes a file keeps
//! out of all regions that are the same file on the device, and that is told by its inode number.
//!
//! Locks: the table of files is held for map operations only, and nothing is locked inside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use rustix::time::{ClockId, clock_gettime};

use super::blocks::{Blocks, Room};
use super::file::HostFile;
use super::granted::Granted;
use super::volume::Volume;

/// Requests by way of the file system after which it is worth while to look.
pub(super) const MISSES: u32 = 32;
/// From one look to the next pass as many times the time that it took,
const PART: u32 = 20;
/// no less than this,
const PAUSE: Duration = Duration::from_millis(10);
/// and where nothing was to be found, or nothing new, no less than this.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// The device under the files, and which regions are which file there.
#[derive(Debug)]
pub(super) struct Learner {
    volume: Arc<Volume>,
    files: Mutex<HashMap<u64, Known>>,
    room: Room,
}

/// A file on the device.
#[derive(Debug, Default)]
struct Known {
    /// Who is changing it.
    changes: u32,
    /// Who may know its blocks.
    granted: Vec<Arc<Granted>>,
}

/// How it goes with the blocks of one granted file.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Requests that went by way of the file system.
    misses: AtomicU32,
    /// Nanoseconds of the coarse monotonic clock; no look before.
    not_before: AtomicU64,
    /// The tick of the coarse clock in which the file's times were last set for a write, in nanoseconds.
    stamped: AtomicU64,
}

impl Progress {
    /// Notes a request by way of the file system. True: it should look first.
    pub(super) fn missed(&self) -> bool {
        // One of those who come at the same time.
        let misses = self.misses.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        misses.is_multiple_of(MISSES) && self.is_due()
    }

    fn is_due(&self) -> bool {
        now(ClockId::MonotonicCoarse) >= self.not_before.load(Ordering::Relaxed)
    }

    fn rest(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        let until = now(ClockId::MonotonicCoarse).saturating_add(pause);
        self.not_before.store(until, Ordering::Relaxed);
    }

    /// Sets the file's times, as a write through its file system does: to the tick of the coarse clock
    /// (`inode_set_ctime_current`), and so no more than once a tick.
    pub(super) fn stamp(&self, file: &dyn HostFile) -> rustix::io::Result<()> {
        let tick = now(ClockId::RealtimeCoarse);
        if self.stamped.load(Ordering::Acquire) == tick {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        futimens(file.buffered(), &times)?;
        // Afterwards: who finds the tick here may rely on it.
        self.stamped.store(tick, Ordering::Release);
        Ok(())
    }

    /// The next write sets the times again.
    pub(super) fn unstamp(&self) {
        self.stamped.store(0, Ordering::Release);
    }
}

fn now(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

impl Learner {
    pub(super) fn new(volume: Arc<Volume>) -> Self {
        Self { volume, files: Mutex::default(), room: Room::default() }
    }

    pub(super) fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Looks for the blocks of a file. Waits until nobody is in it.
    pub(super) fn learn(&self, granted: &Arc<Granted>) {
        if !granted.progress.is_due() {
            return;
        }
        let began = Instant::now();
        let least = if self.look(granted) { PAUSE } else { LONG_PAUSE };
        granted.progress.rest((began.elapsed() * PART).max(least));
    }

    /// Whether there was anything new.
    fn look(&self, granted: &Arc<Granted>) -> bool {
        let Some(reader) = granted.reader() else { return false };
        let Some(file) = reader.blocks() else { return false };
        if !granted.number().is_some_and(|number| self.enter(number, granted)) {
            return false;
        }
        let Some(fence) = granted.gate().fence_alone() else {
            if granted.gate().is_revoked() {
                self.forget(granted);
            }
            return true;
        };
        let blocks = file.locate().and_then(|location| Blocks::new(location, &self.room));
        let blocks = blocks.filter(|blocks| blocks.count() > 0).map(Arc::new);
        if blocks.is_none() {
            file.drop_cache();
        }
        // What was there before is let go without a lock.
        let mut old = None;
        let place = || old = Some(granted.place(blocks.clone(), &self.volume));
        granted.gate().if_undisturbed(fence, place);
        granted.gate().open();
        let Some(blocks) = blocks else { return false };
        let Some(old) = old else { return true };
        if old.is_some_and(|old| old.is_on(&blocks)) {
            return false;
        }
        tracing::debug!(
            "window: the file with inode number {} has {} known pieces",
            file.number(),
            blocks.count()
        );
        true
    }

    /// From here on who changes the file fences `granted`, too. False: somebody is about to.
    fn enter(&self, number: u64, granted: &Arc<Granted>) -> bool {
        let mut files = self.files.lock();
        let known = files.entry(number).or_default();
        if known.changes > 0 {
            return false;
        }
        if !known.granted.iter().any(|other| Arc::ptr_eq(other, granted)) {
            known.granted.push(Arc::clone(granted));
        }
        true
    }

    /// Who may know the blocks of this file. Nobody learns of them until [`changed`](Self::changed).
    pub(super) fn change(&self, number: u64) -> Vec<Arc<Granted>> {
        let mut files = self.files.lock();
        let known = files.entry(number).or_default();
        known.changes += 1;
        known.granted.clone()
    }

    pub(super) fn changed(&self, number: u64) {
        self.update(number, |known| known.changes = known.changes.saturating_sub(1));
    }

    /// Nobody will be in this region any more.
    pub(super) fn forget(&self, granted: &Arc<Granted>) {
        let Some(number) = granted.number() else { return };
        self.update(number, |known| known.granted.retain(|other| !Arc::ptr_eq(other, granted)));
    }

    /// Changes what is noted of a file, of which nothing stays where there is nothing to note.
    fn update(&self, number: u64, change: impl FnOnce(&mut Known)) {
        let mut files = self.files.lock();
        if let Some(known) = files.get_mut(&number) {
            change(known);
            if known.changes == 0 && known.granted.is_empty() {
                files.remove(&number);
            }
        }
    }
}
