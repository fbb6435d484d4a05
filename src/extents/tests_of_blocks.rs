//! Does the window know blocks only as long as they are the file's?

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::*;

const NUMBER: u64 = 17;
/// Where the first of the two pieces of every file is.
const FIRST: u64 = 1 << 20;

/// A file, what is told of its blocks, and what is to happen meanwhile.
struct Told {
    file: OwnedFd,
    location: Mutex<Option<Location>>,
    meanwhile: Mutex<Box<dyn Fn() + Send>>,
    looks: AtomicU32,
    drops: AtomicU32,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("a file")
    }
}

impl Told {
    fn new(writable: bool) -> Arc<Self> {
        let pieces = vec![
            Piece { offset: 0, length: 8192, address: FIRST },
            Piece { offset: 12_288, length: 4096, address: 2 * FIRST },
        ];
        Arc::new(Self {
            file: tempfile::tempfile().unwrap().into(),
            location: Mutex::new(Some(Location { pieces, writable })),
            meanwhile: Mutex::new(Box::new(|| ())),
            looks: AtomicU32::new(0),
            drops: AtomicU32::new(0),
        })
    }

    fn looks(&self) -> u32 {
        self.looks.load(Ordering::SeqCst)
    }
}

impl HostFile for Told {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        None
    }

    fn blocks(&self) -> Option<&dyn Locate> {
        Some(self)
    }
}

impl Locate for Told {
    fn number(&self) -> u64 {
        NUMBER
    }

    fn locate(&self) -> Option<Location> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        (self.meanwhile.lock())();
        self.location.lock().clone()
    }

    fn drop_cache(&self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

fn window() -> Arc<Window> {
    let volume = Volume::pretend(File::open("/dev/zero").unwrap().into());
    Arc::new(Window::new(Identity::new(b"test", 512, false)).over(volume))
}

fn grant(window: &Window, key: u64, file: &Arc<Told>) -> u64 {
    let reader: Arc<dyn HostFile> = file.clone();
    let writer: Arc<dyn HostFile> = Told::new(true);
    window.grant(key, &reader, 1 << 20, 0, Access::Read).unwrap();
    window.grant(key, &writer, 1 << 20, 0, Access::Write).unwrap().address
}

/// Where a request leads on the device, as far as that is known now; with how it is moved.
fn address(window: &Window, address: u64, len: u64, access: Access) -> Option<u64> {
    loop {
        match window.enter(address, len, access) {
            Way::Inside { file, offset, within, .. } => {
                let found = file.on_device(offset, len).map(|(_, address)| address);
                assert_eq!(within, found.is_some());
                return found;
            }
            Way::Fenced(wait) => wait.wait(),
            way => panic!("{way:?}"),
        }
    }
}

/// Reads until the blocks are known, or for so long that they will not be.
fn learns(window: &Window, at: u64) -> bool {
    learns_within(window, at, Duration::from_secs(20))
}

/// Reads for so long that they would be known, if they could.
fn stay_unknown(window: &Window, at: u64) -> bool {
    !learns_within(window, at, Duration::from_millis(200))
}

fn learns_within(window: &Window, at: u64, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if (0..64).any(|_| address(window, at, 512, Access::Read).is_some()) {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn what_is_used_is_looked_for_and_found() {
    let window = window();
    let file = Told::new(true);
    let region = grant(&window, 1, &file);
    assert_eq!(address(&window, region, 512, Access::Read), None);
    assert_eq!(file.looks(), 0, "one request is no reason");
    assert!(learns(&window, region));
    for access in [Access::Read, Access::Write] {
        for (offset, len, expected) in [
            (0, 8192, Some(FIRST)),
            (4096, 4096, Some(FIRST + 4096)),
            (4096, 8192, None),
            (8192, 512, None),
            (12_288, 4096, Some(2 * FIRST)),
            (15_872, 1024, None),
            (1 << 20, 512, None),
        ] {
            assert_eq!(address(&window, region + offset, len, access), expected, "{offset}, {len}");
        }
    }
    let Way::Inside { file: found, .. } = window.enter(region + 8192, 512, Access::Read) else { panic!() };
    assert!(found.avoids_cache(), "also where it goes by way of the file system");
    drop(found);
    window.end_writes(1);
    assert!(matches!(window.enter(region, 512, Access::Write), Way::Refused));
    assert_eq!(address(&window, region, 512, Access::Read), Some(FIRST));
    window.revoke(1);
    assert!(matches!(window.enter(region, 512, Access::Read), Way::Refused));
    assert_eq!(Arc::strong_count(&file), 1, "nobody keeps the file open");
}

#[test]
fn where_a_write_would_change_more_than_bytes_it_goes_by_the_file_system() {
    let window = window();
    let file = Told::new(false);
    let region = grant(&window, 1, &file);
    assert!(learns(&window, region));
    assert_eq!(address(&window, region, 512, Access::Write), None);
    assert_eq!(address(&window, region, 512, Access::Read), Some(FIRST));
}

#[test]
fn who_changes_a_file_takes_its_blocks_away_first() {
    let window = window();
    let file = Told::new(true);
    let region = grant(&window, 1, &file);
    // The same file once more, as a guest has it that has forgotten its node but not closed it.
    let other = Told::new(true);
    let second = grant(&window, 2, &other);
    assert!(learns(&window, region) && learns(&window, second));
    let Way::Inside { passage, .. } = window.enter(second, 512, Access::Write) else { panic!() };
    thread::scope(|scope| {
        let fence = scope.spawn(|| window.fence_file(1, NUMBER));
        thread::sleep(Duration::from_millis(20));
        assert!(!fence.is_finished(), "a request is in flight");
        drop(passage);
        let fence = fence.join().unwrap();
        for region in [region, second] {
            assert!(matches!(window.enter(region, 512, Access::Read), Way::Fenced(_)));
        }
        assert!(file.drops.load(Ordering::SeqCst) > 0);
        drop(fence);
    });
    assert_eq!(address(&window, region, 512, Access::Read), None);
    assert_eq!(address(&window, second, 512, Access::Read), None);
    // And learns anew.
    assert!(learns(&window, region) && learns(&window, second));
    drop(window.hold(1));
    assert_eq!(address(&window, region, 512, Access::Read), Some(FIRST), "nothing was moved");
}

#[test]
fn what_was_seen_while_somebody_changed_the_file_is_thrown_away() {
    let window = window();
    let file = Told::new(true);
    let region = grant(&window, 1, &file);
    let fences: [fn(&Window); 2] =
        [|window| drop(window.fence(1)), |window| drop(window.fence_file(2, NUMBER))];
    for fence in fences {
        thread::sleep(Duration::from_secs(1));
        let looks = file.looks();
        let disturbing = Arc::clone(&window);
        *file.meanwhile.lock() = Box::new(move || {
            let window = Arc::clone(&disturbing);
            thread::spawn(move || fence(&window)).join().unwrap();
        });
        let end = Instant::now() + Duration::from_secs(20);
        while file.looks() == looks {
            assert!(Instant::now() < end, "nobody looks");
            assert!(stay_unknown(&window, region));
        }
        assert!(stay_unknown(&window, region));
    }
    let disturbing = Arc::clone(&window);
    *file.meanwhile.lock() = Box::new(move || disturbing.revoke(1));
    loop {
        match window.enter(region, 512, Access::Read) {
            Way::Inside { .. } => {}
            Way::Fenced(wait) => break wait.wait(),
            way => panic!("{way:?}"),
        }
    }
    *file.meanwhile.lock() = Box::new(|| ());
    window.revoke(1);
    assert_eq!(Arc::strong_count(&file), 1);
}

#[test]
fn nothing_is_learned_while_a_fence_of_the_file_stands() {
    let window = window();
    let file = Told::new(true);
    let fence = window.fence_file(7, NUMBER);
    let region = grant(&window, 1, &file);
    assert!(stay_unknown(&window, region));
    assert_eq!(file.looks(), 0);
    drop(fence);
    thread::sleep(Duration::from_secs(1));
    assert!(learns(&window, region));
}

#[test]
fn where_nothing_is_found_it_is_not_looked_for_all_the_time() {
    let window = window();
    let file = Told::new(true);
    *file.location.lock() = None;
    let region = grant(&window, 1, &file);
    assert!(stay_unknown(&window, region));
    assert_eq!(file.looks(), 1);
}

#[test]
fn a_change_by_way_of_the_window_is_alone() {
    let window = window();
    let file = Told::new(true);
    let region = grant(&window, 1, &file);
    assert!(learns(&window, region));
    let alone = window.enter_to_move(region + 4096, 4096).unwrap();
    assert_eq!(alone.offset, 4096);
    assert!(matches!(window.enter(region, 512, Access::Read), Way::Fenced(_)));
    thread::scope(|scope| {
        let fence = scope.spawn(|| drop(window.fence(1)));
        let second = scope.spawn(|| window.enter_to_move(region, 512).is_some());
        thread::sleep(Duration::from_millis(10));
        assert!(!fence.is_finished() && !second.is_finished());
        drop(alone);
        assert!(second.join().unwrap());
    });
    assert_eq!(address(&window, region, 512, Access::Read), None);
    window.end_writes(1);
    assert!(window.enter_to_move(region, 512).is_none());
}

#[test]
fn a_write_on_blocks_sets_the_times_once_a_tick() {
    let window = window();
    let file = Told::new(true);
    let reader: Arc<dyn HostFile> = file.clone();
    let region = window.grant(1, &reader, 1 << 20, 0, Access::Write).unwrap().address;
    assert!(learns(&window, region));
    let handle = File::from(file.file.try_clone().unwrap());
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let changed = || handle.metadata().unwrap().modified().unwrap() > old;
    handle.set_modified(old).unwrap();
    address(&window, region, 512, Access::Read);
    assert!(!changed(), "a read");
    address(&window, region, 512, Access::Write);
    assert!(changed());
    // Also where somebody set them in the same tick.
    handle.set_modified(old).unwrap();
    window.times_were_set(1);
    address(&window, region, 512, Access::Write);
    assert!(changed());
    handle.set_modified(old).unwrap();
    thread::sleep(Duration::from_millis(30));
    address(&window, region, 512, Access::Write);
    assert!(changed(), "a later tick");
}
