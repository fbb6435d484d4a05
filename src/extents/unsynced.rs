//! What was written through the window and is not durable yet?
//!
//! The first write to a file since it was last synced enters it here; a flush syncs all that were entered. Flushes that come
//! together share the work, in *rounds*. One that comes while a round is under way waits for it, because that round may
//! have taken its files, and then for the next one, which takes the rest.
//!
//! A file whose region has ended stays until it is synced, with its descriptor open. So that it does not stay for long
//! where no guest ever flushes (their fsync goes by FUSE), a thread syncs what has ended after some seconds, about as
//! often as the host's file systems commit by themselves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::fdatasync;

use super::file::HostFile;
use super::granted::Granted;
use super::volume::Volume;

/// How long a file whose region has ended is kept open for a flush.
const LINGER: Duration = Duration::from_secs(5);
/// So many of them are synced at once.
const MANY: usize = 256;
/// With more the one that ends a region waits for a round, so that they cannot become ever more.
const TOO_MANY: usize = 4096;

/// A file to sync, and the grant by which it was written.
type Entry = (Arc<Granted>, Arc<dyn HostFile>);

/// The files to sync.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    state: Mutex<State>,
    /// A round has ended, or there are many files.
    changed: Condvar,
    /// Where bytes may have gone past the files' file system.
    volume: Option<Arc<Volume>>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Entry>,
    /// How many of them have no region any more.
    ended_files: usize,
    /// Rounds that were begun, and that ended; they differ while one is under way.
    begun: u64,
    ended: u64,
    /// The last round that failed, and how.
    failure: (u64, i32),
    /// How a round failed that no flush asked for.
    untold: Option<i32>,
    /// Whether the thread runs.
    thread: bool,
}

impl Unsynced {
    /// The same for files whose bytes may go to this device itself.
    pub(super) fn over(volume: Arc<Volume>) -> Self {
        Self { volume: Some(volume), ..Self::default() }
    }

    /// Marks and enters a file, unless it is. Whoever finds the mark can be sure that a flush from then on finds the file:
    /// both are done under the lock.
    pub(super) fn enter(&self, granted: &Arc<Granted>, file: Arc<dyn HostFile>) {
        let mut state = self.state.lock();
        if !granted.dirty.swap(true, Ordering::SeqCst) {
            state.files.push((Arc::clone(granted), file));
        }
    }

    /// Notes that the region of a file that was entered has ended. May wait where there are far too many of these.
    pub(super) fn region_ended(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.ended_files += 1;
        if state.ended_files == MANY {
            self.changed.notify_all();
        }
        let too_many = state.ended_files >= TOO_MANY;
        if !state.thread {
            let this = Arc::clone(self);
            let run = move || this.sync_what_ended();
            state.thread = thread::Builder::new().name("window-sync".to_owned()).spawn(run).is_ok();
        }
        if too_many || !state.thread {
            drop(state);
            self.flush_unasked();
        }
    }

    /// Makes everything durable that was entered before. Waits for storage.
    ///
    /// # Errors
    /// The last that a file reported; the others are synced all the same. Reported once.
    pub(super) fn flush(&self) -> io::Result<()> {
        let outcome = self.flush_by(sync);
        match self.state.lock().untold.take() {
            Some(errno) if outcome.is_ok() => Err(io::Error::from_raw_os_error(errno)),
            _ => outcome,
        }
    }

    fn flush_by(&self, sync: fn(&dyn HostFile) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        let under_way = state.begun > state.ended;
        let last = state.begun + 1;
        let first = if under_way { state.begun } else { last };
        while state.ended < last {
            if state.begun > state.ended {
                self.changed.wait(&mut state);
            } else {
                self.round(&mut state, sync);
            }
        }
        let (round, errno) = state.failure;
        if round >= first { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    }

    fn round(&self, state: &mut MutexGuard<'_, State>, sync: fn(&dyn HostFile) -> io::Result<()>) {
        state.begun += 1;
        state.ended_files = 0;
        let files = std::mem::take(&mut state.files);
        let mut failed = None;
        MutexGuard::unlocked(state, || {
            let any = !files.is_empty();
            for (granted, file) in files {
                // Before the sync: who writes from now on enters the file anew. SeqCst on both sides, so that a write
                // that still found the mark was complete before this.
                granted.dirty.store(false, Ordering::SeqCst);
                if let Err(error) = sync(&*file) {
                    failed = Some(error.raw_os_error().unwrap_or(libc::EIO));
                }
            }
            // What went past the file system may be in the device's cache, of which an fdatasync need not think.
            if let Some(Err(error)) = self.volume.as_ref().filter(|_| any).map(|volume| volume.flush()) {
                failed = Some(error.raw_os_error());
            }
        });
        if let Some(errno) = failed {
            state.failure = (state.begun, errno);
        }
        state.ended = state.begun;
        self.changed.notify_all();
    }

    /// A round for ourselves; how it failed is told to the next who asks.
    fn flush_unasked(&self) {
        if let Err(error) = self.flush_by(sync) {
            tracing::error!("cannot sync what was written through the window: {error}");
            self.state.lock().untold = error.raw_os_error();
        }
    }

    /// Syncs, again and again, until no file is kept here whose region has ended.
    fn sync_what_ended(&self) {
        loop {
            {
                let mut state = self.state.lock();
                if state.ended_files == 0 {
                    state.thread = false;
                    return;
                }
                let deadline = Instant::now() + LINGER;
                while state.ended_files < MANY && !self.changed.wait_until(&mut state, deadline).timed_out() {
                }
            }
            self.flush_unasked();
        }
    }
}

fn sync(file: &dyn HostFile) -> io::Result<()> {
    fdatasync(file.buffered()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    type Valve = (SyncSender<()>, Mutex<Receiver<()>>);
    static BEGUN: std::sync::LazyLock<Valve> = std::sync::LazyLock::new(valve);
    static GO_ON: std::sync::LazyLock<Valve> = std::sync::LazyLock::new(valve);

    fn valve() -> Valve {
        let (sender, receiver) = sync_channel(8);
        (sender, Mutex::new(receiver))
    }

    /// Says that it began, and fails when it is told to go on.
    fn slow(_: &dyn HostFile) -> io::Result<()> {
        BEGUN.0.send(()).unwrap();
        GO_ON.1.lock().recv().unwrap();
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    #[test]
    fn a_flush_waits_for_the_round_that_took_its_files() {
        let unsynced = Arc::new(Unsynced::default());
        let file: Arc<dyn HostFile> = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        unsynced.enter(&Arc::default(), file);
        let flush = |sync| {
            let unsynced = Arc::clone(&unsynced);
            thread::spawn(move || unsynced.flush_by(sync))
        };
        let first = flush(slow);
        BEGUN.1.lock().recv().unwrap();
        // Nothing is entered any more, and yet these have to wait, and to fail.
        let others = [flush(|_| Ok(())), flush(|_| Ok(()))];
        thread::sleep(Duration::from_millis(30));
        assert!(others.iter().all(|other| !other.is_finished()));
        GO_ON.0.send(()).unwrap();
        assert!(first.join().unwrap().is_err());
        for other in others {
            assert!(other.join().unwrap().is_err());
        }
        assert!(unsynced.flush_by(|_| Ok(())).is_ok());
        assert_eq!(unsynced.state.lock().begun, 3, "two that waited together shared a round");
    }

    #[test]
    fn what_has_ended_is_synced_and_a_failure_is_told_later() {
        let unsynced = Arc::new(Unsynced::default());
        // fdatasync(2) of a device is EINVAL.
        let file: Arc<dyn HostFile> = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        for _ in 0..MANY {
            unsynced.enter(&Arc::default(), Arc::clone(&file));
            unsynced.region_ended();
        }
        let end = Instant::now() + LINGER;
        while unsynced.state.lock().thread {
            assert!(Instant::now() < end, "many are not synced at once");
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(Arc::strong_count(&file), 1);
        assert!(unsynced.flush().is_err());
        assert!(unsynced.flush().is_ok());
    }
}
