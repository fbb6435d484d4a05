//! Does every request reach the file that was granted, or none?

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn file() -> Arc<dyn HostFile> {
    Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()))
}

fn window() -> Window {
    Window::new(Identity::new(b"test", 512, false))
}

fn leads_to(way: &Way, wanted: &Arc<dyn HostFile>, at: u64) -> bool {
    matches!(way, Way::Inside { file, offset, .. } if Arc::ptr_eq(file, wanted) && *offset == at)
}

#[test]
fn what_is_never_given_away_reads_as_zeroes_and_takes_no_writes() {
    let window = window();
    let end = window.identity().size;
    for address in [0, 512, room::FIRST - 512, end - (1 << 20), end - 512] {
        assert!(matches!(window.enter(address, 512, Access::Read), Way::Zeroes), "{address:#x}");
        assert!(matches!(window.enter(address, 512, Access::Write), Way::Refused), "{address:#x}");
    }
    // And what may be, by this daemon or may have been by another with the same serial number, is an error.
    let somewhere =
        [(room::FIRST, 512), (room::FIRST - 512, 1024), (1 << 40, 512), (end - (1 << 20) - 512, 512)];
    for (address, len) in [(end, 512), (end - 512, 1024), (u64::MAX - 10, 512)].into_iter().chain(somewhere) {
        assert!(matches!(window.enter(address, len, Access::Read), Way::Refused), "{address:#x}");
    }
    let region = window.grant(7, &file(), 0, 0, Access::Read).unwrap();
    assert!(matches!(window.enter(0, 4096, Access::Read), Way::Zeroes));
    assert!(matches!(window.enter(region.address - 512, 1024, Access::Read), Way::Refused));
    assert!(matches!(window.enter(region.address + region.length - 512, 1024, Access::Read), Way::Refused));
    window.revoke(7);
    assert!(matches!(window.enter(region.address, 512, Access::Read), Way::Refused));
    assert!(matches!(window.enter(region.address + region.length, 512, Access::Read), Way::Refused));
}

#[test]
fn the_first_region_is_where_it_is_told() {
    let [first, other] = [3, 4].map(|random| window().beginning_anywhere(random));
    let regions = [&first, &other].map(|window| window.grant(1, &file(), 0, 0, Access::Read).unwrap());
    assert_eq!(regions.map(|region| region.address), [4, 5].map(|place| place * room::SMALLEST));
    assert!(matches!(other.enter(regions[0].address, 512, Access::Read), Way::Refused));
}

#[test]
fn a_grant_to_read_is_none_to_write() {
    let window = window();
    let (reader, writer) = (file(), file());
    let region = window.grant(1, &reader, 4096, 0, Access::Read).unwrap();
    assert!(leads_to(&window.enter(region.address + 512, 512, Access::Read), &reader, 512));
    assert!(matches!(window.enter(region.address, 512, Access::Write), Way::Refused));
    let same = window.grant(1, &writer, 4096, 0, Access::Write).unwrap();
    assert_eq!(same, Region { access: Access::Write, ..region });
    assert!(leads_to(&window.enter(region.address, 512, Access::Write), &writer, 0));
    assert!(leads_to(&window.enter(region.address, 512, Access::Read), &reader, 0));
    window.end_writes(1);
    assert!(matches!(window.enter(region.address, 512, Access::Write), Way::Refused));
    assert!(leads_to(&window.enter(region.address, 512, Access::Read), &reader, 0));
    assert_eq!(Arc::strong_count(&writer), 1, "nobody keeps the file open for writing");
    assert_eq!(window.granted(1, 0), Some(region));

    // Where one descriptor serves both, nothing is left.
    let region = window.grant(2, &writer, 0, 0, Access::Write).unwrap();
    window.end_writes(2);
    assert!(matches!(window.enter(region.address, 512, Access::Read), Way::Refused));
    assert_eq!(Arc::strong_count(&writer), 1);
}

#[test]
fn nothing_is_written_through_a_read_only_window() {
    let window = Window::new(Identity::new(b"test", 512, true));
    assert_eq!(window.grant(1, &file(), 0, 0, Access::Write), None);
    assert!(window.grant(1, &file(), 0, 0, Access::Read).is_some());
}

#[test]
fn regions_are_bounded() {
    let window = Window::with_limit(Identity::new(b"test", 512, false), 2);
    assert!(window.grant(1, &file(), 0, 0, Access::Read).is_some());
    assert!(window.grant(2, &file(), 0, 0, Access::Read).is_some());
    assert_eq!(window.grant(3, &file(), 0, 0, Access::Read), None);
    assert!(window.grant(2, &file(), 0, 0, Access::Write).is_some(), "that one has a region");
    window.revoke(1);
    assert!(window.grant(3, &file(), 0, 0, Access::Read).is_some());
}

#[test]
fn a_file_that_outgrows_its_region_gets_another() {
    let window = window();
    let file = file();
    let first = window.grant(1, &file, 0, 0, Access::Read).unwrap();
    let second = window.grant(1, &file, 0, first.length, Access::Read).unwrap();
    assert!(second.length > first.length && second.address >= first.address + first.length);
    assert!(leads_to(&window.enter(second.address + first.length, 512, Access::Read), &file, first.length));
    assert!(leads_to(&window.enter(first.address, 512, Access::Read), &file, 0));
    window.revoke(1);
    for region in [first, second] {
        assert!(matches!(window.enter(region.address, 512, Access::Read), Way::Refused));
    }
}

#[test]
fn who_ends_a_grant_waits_for_those_inside() {
    let window = Arc::new(window());
    for end in [Window::revoke as fn(&Window, u64), Window::end_writes, |window, _| window.revoke_all()] {
        let region = window.grant(1, &file(), 0, 0, Access::Write).unwrap();
        let Way::Inside { passage, .. } = window.enter(region.address, 512, Access::Write) else { panic!() };
        let ended = Arc::new(AtomicBool::new(false));
        let other = {
            let (window, ended) = (Arc::clone(&window), Arc::clone(&ended));
            thread::spawn(move || {
                end(&window, 1);
                ended.store(true, Ordering::SeqCst);
            })
        };
        thread::sleep(Duration::from_millis(20));
        assert!(!ended.load(Ordering::SeqCst));
        assert!(!matches!(window.enter(region.address, 512, Access::Write), Way::Inside { .. }));
        drop(passage.clone());
        drop(passage);
        other.join().unwrap();
        window.revoke(1);
    }
}

#[test]
fn nobody_is_inside_while_a_fence_stands() {
    let window = Arc::new(window());
    let region = window.grant(1, &file(), 0, 0, Access::Write).unwrap();
    let (inside, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let entered = Arc::new(AtomicU32::new(0));
    let crowd: Vec<_> = (0..3)
        .map(|_| {
            let (window, inside, over) = (Arc::clone(&window), Arc::clone(&inside), Arc::clone(&over));
            let entered = Arc::clone(&entered);
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match window.enter(region.address, 512, Access::Write) {
                        Way::Inside { passage, .. } => {
                            inside.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(passage);
                            entered.fetch_add(1, Ordering::Relaxed);
                        }
                        Way::Fenced(fence) => fence.wait(),
                        Way::Zeroes | Way::Refused => panic!("the grant is there all the time"),
                    }
                }
            })
        })
        .collect();
    // However long the crowd waits for a processor.
    let mut fences = 0;
    while fences < 500 || entered.load(Ordering::Relaxed) < 100 {
        fences += 1;
        let fence = window.fence(1);
        assert_eq!(inside.load(Ordering::SeqCst), 0);
        let second = window.fence(1);
        drop(fence);
        assert_eq!(inside.load(Ordering::SeqCst), 0);
        drop(second);
        thread::yield_now();
    }
    over.store(true, Ordering::Relaxed);
    for one in crowd {
        one.join().unwrap();
    }
}

#[test]
fn a_fenced_file_without_a_region_gets_none() {
    let window = window();
    let fence = window.fence(1);
    assert_eq!(window.grant(1, &file(), 0, 0, Access::Write), None);
    assert!(window.grant(2, &file(), 0, 0, Access::Write).is_some());
    drop(fence);
    let region = window.grant(1, &file(), 0, 0, Access::Write).unwrap();
    let fence = window.fence(1);
    assert_eq!(window.grant(1, &file(), 0, 0, Access::Write), Some(region), "behind the fence");
    assert!(matches!(window.enter(region.address, 512, Access::Write), Way::Fenced(_)));
    window.revoke(1);
    assert_eq!(window.grant(1, &file(), 0, 0, Access::Write), None);
    drop(fence);
    assert!(window.grant(1, &file(), 0, 0, Access::Write).is_some());
}

/// Whoever cuts a file must not go on while a request is inside, whoever takes the region away meanwhile.
#[test]
fn a_fence_waits_for_what_a_revocation_waits_for() {
    let revocations: [fn(&Window); 2] = [Window::revoke_all, |window| window.revoke(1)];
    for revoke in revocations {
        let window = window();
        let region = window.grant(1, &file(), 0, 0, Access::Write).unwrap();
        let Way::Inside { passage, .. } = window.enter(region.address, 512, Access::Write) else { panic!() };
        let cut = AtomicBool::new(false);
        thread::scope(|scope| {
            let revocation = scope.spawn(|| revoke(&window));
            while window.is_used() {
                thread::yield_now();
            }
            let cutting = scope.spawn(|| {
                let fence = window.fence(1);
                cut.store(true, Ordering::SeqCst);
                drop(fence);
            });
            thread::sleep(Duration::from_millis(30));
            assert!(!cut.load(Ordering::SeqCst) && !revocation.is_finished());
            drop(passage);
            cutting.join().unwrap();
        });
        assert!(cut.load(Ordering::SeqCst));
        assert!(window.grant(1, &file(), 0, 0, Access::Write).is_some(), "nothing is left of either");
    }
}

#[test]
fn a_thread_remembers_more_regions_than_it_has_room_for() {
    let window = window();
    let files: Vec<_> = (0..1500).map(|_| file()).collect();
    let regions: Vec<_> = files
        .iter()
        .zip(0..)
        .map(|(file, key)| window.grant(key, file, 1 << 30, 0, Access::Read).unwrap())
        .collect();
    for (file, region) in files.iter().zip(&regions).chain(files.iter().zip(&regions).rev()) {
        for offset in [0, region.length - 512] {
            assert!(leads_to(&window.enter(region.address + offset, 512, Access::Read), file, offset));
        }
    }
    window.revoke(1499);
    assert!(matches!(window.enter(regions[1499].address, 512, Access::Read), Way::Refused));
    // Another window's addresses are the same numbers.
    let other = self::window();
    assert!(matches!(other.enter(regions[0].address, 512, Access::Read), Way::Refused));
    let region = other.grant(1, &files[0], 0, 0, Access::Read).unwrap();
    assert!(leads_to(&other.enter(region.address, 512, Access::Read), &files[0], 0));
    assert!(leads_to(&window.enter(regions[7].address, 512, Access::Read), &files[7], 0));
}

#[test]
fn a_flush_reaches_what_was_written_also_after_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        |name| -> Arc<dyn HostFile> { Arc::new(OwnedFd::from(File::create(dir.path().join(name)).unwrap())) };
    let window = window();
    let write = |key, file: &Arc<dyn HostFile>| {
        let region = window.grant(key, file, 0, 0, Access::Write).unwrap();
        let Way::Inside { passage, .. } = window.enter(region.address, 512, Access::Write) else { panic!() };
        passage.wrote();
    };
    let (kept, ended) = (open("kept"), open("ended"));
    write(1, &kept);
    write(2, &ended);
    window.revoke(2);
    assert_eq!(Arc::strong_count(&ended), 2, "to be synced");
    window.flush().unwrap();
    assert_eq!(Arc::strong_count(&ended), 1);
    // What cannot be synced is told, once.
    write(3, &file());
    assert!(window.flush().is_err());
    window.flush().unwrap();
}

/// What a guest and its daemon may do to a window.
#[derive(Clone, Debug)]
enum Step {
    Grant { key: u64, size: u64, position: u64, write: bool },
    EndWrites { key: u64 },
    Revoke { key: u64 },
    RevokeAll,
    Enter { around: prop::sample::Index, delta: i64, len: u64, write: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..4_u64;
    let size = prop_oneof![0..1_u64 << 28, Just(1 << 47), Just(u64::MAX)];
    let position = prop_oneof![0..1_u64 << 29, Just(u64::MAX)];
    let delta = prop_oneof![-2048..2048_i64, -(1_i64 << 27)..1 << 27];
    prop_oneof![
        3 => (key.clone(), size, position, any::<bool>())
            .prop_map(|(key, size, position, write)| Step::Grant { key, size, position, write }),
        1 => key.clone().prop_map(|key| Step::EndWrites { key }),
        1 => key.prop_map(|key| Step::Revoke { key }),
        1 => Just(Step::RevokeAll),
        8 => (any::<prop::sample::Index>(), delta, 0..1_u64 << 27, any::<bool>())
            .prop_map(|(around, delta, len, write)| Step::Enter { around, delta, len, write }),
    ]
}

/// The window as a guest may understand it: every region that was ever given, and what is granted of it now.
#[derive(Default)]
struct Model {
    regions: BTreeMap<u64, (u64, u64)>,
    granted: HashMap<u64, Access>,
}

proptest! {
    #[test]
    fn every_request_reaches_what_was_granted_or_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let window = window();
        let (readers, writers): (Vec<_>, Vec<_>) = (0..4).map(|_| (file(), file())).unzip();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Grant { key, size, position, write } => {
                    let index = usize::try_from(key).unwrap();
                    // As the file system does: a descriptor for reading first.
                    let read = window.grant(key, &readers[index], size, position, Access::Read);
                    let region = match write {
                        true => window.grant(key, &writers[index], size, position, Access::Write),
                        false => read,
                    };
                    let Some(region) = region else {
                        prop_assert!(size > 1 << 48 || position > 1 << 50);
                        continue;
                    };
                    prop_assert!(position < region.length && region.offset == 0);
                    let known = model.regions.get(&region.address);
                    if let Some((_, owner)) = known {
                        prop_assert_eq!(*owner, key);
                    } else {
                        let last = model.regions.last_key_value().map_or(1 << 20, |(at, (length, _))| at + length);
                        prop_assert!(region.address >= last, "addresses are counted up");
                        model.regions.insert(region.address, (region.length, key));
                    }
                    let access = model.granted.entry(key).or_insert(Access::Read);
                    if write {
                        *access = Access::Write;
                    }
                    prop_assert_eq!(region.access, *access);
                }
                Step::EndWrites { key } => {
                    window.end_writes(key);
                    model.granted.entry(key).and_modify(|access| *access = Access::Read);
                }
                Step::Revoke { key } => {
                    window.revoke(key);
                    model.granted.remove(&key);
                    // Its addresses lead nowhere for ever.
                    model.regions.values_mut().filter(|(_, owner)| *owner == key).for_each(|(_, owner)| *owner = 99);
                }
                Step::RevokeAll => {
                    window.revoke_all();
                    model.granted.clear();
                    model.regions.values_mut().for_each(|(_, owner)| *owner = 99);
                }
                Step::Enter { around, delta, len, write } => {
                    if model.regions.is_empty() {
                        continue;
                    }
                    let start = *model.regions.keys().nth(around.index(model.regions.len())).unwrap();
                    let Some(address) = start.checked_add_signed(delta) else { continue };
                    let access = if write { Access::Write } else { Access::Read };
                    let region = model.regions.range(..=address).next_back()
                        .filter(|(at, (length, _))| address - **at < *length && address - **at + len <= *length);
                    let allowed = region.and_then(|(at, (_, owner))| {
                        let granted = model.granted.get(owner)?;
                        (!write || *granted == Access::Write).then_some((address - at, *owner))
                    });
                    match (window.enter(address, len, access), allowed) {
                        (Way::Inside { file, offset, .. }, Some((at, owner))) => {
                            let files = if write { &writers } else { &readers };
                            prop_assert!(Arc::ptr_eq(&file, &files[usize::try_from(owner).unwrap()]));
                            prop_assert_eq!(offset, at);
                        }
                        (Way::Zeroes, None) => {
                            prop_assert!(!write && address + len <= room::FIRST);
                        }
                        (Way::Refused, None) => {
                            prop_assert!(write || address + len > room::FIRST);
                        }
                        (way, allowed) => prop_assert!(false, "{way:?}, should be {allowed:?}"),
                    }
                }
            }
        }
    }
}
