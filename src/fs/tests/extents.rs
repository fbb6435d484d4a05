//! Who is given what of a file past FUSE, for how long, and who waits for whom?

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::files::{Share, bits};
use crate::extents::{Access, Identity, Way, Window};
use crate::fs::{Config, ExtentDialect, InodeFileHandles, Limits};
use crate::fuse::abi::extents::*;
use crate::fuse::abi::rfc2025::{FUSE_IOMAP, FUSE_IOMAP_DIRECTIO};
use crate::fuse::abi::*;
use crate::fuse::kernel::{Disk, Question, accept, accept_rfc2025};
use crate::fuse::*;

const BLOCK: u64 = 512;

fn window(regions: usize, read_only: bool) -> Arc<Window> {
    let identity = Identity::new(b"extents-of-a-share", u32::try_from(BLOCK).unwrap(), read_only);
    Arc::new(Window::with_limit(identity, regions))
}

fn share_with(config: Config, window: &Arc<Window>) -> Share {
    Share::made_by(config, |fs| fs.with_window(window.clone()))
}

/// A share with a window, mounted by a guest that knows how to use it.
fn share() -> (Share, Arc<Window>) {
    let window = window(1000, false);
    (share_with(Config::default(), &window), window)
}

fn ask(share: &Share, node: NodeId, purpose: MapPurpose) -> Result<FileMap> {
    share.fs.map(node, &MapRequest { purpose, position: 0, count: 1 })
}

/// What a map is worth: to be read there, to be written there.
fn worth(share: &Share, node: NodeId, purpose: MapPurpose) -> (bool, bool) {
    let map = ask(share, node, purpose).unwrap();
    assert_eq!((map.read.offset, map.read.length), (map.write.offset, map.write.length));
    assert!(matches!(map.write.place, Place::Fuse | Place::Overwrite));
    (matches!(map.read.place, Place::Mapped(Some(_))), map.write.place == Place::Overwrite)
}

fn address(share: &Share, node: NodeId) -> u64 {
    match ask(share, node, MapPurpose::Read).unwrap().read.place {
        Place::Mapped(Some(Address { device: 1, byte })) => byte,
        place => panic!("{place:?}"),
    }
}

/// What the window has for a file: nothing, something to read, something to write.
fn granted(window: &Window, node: NodeId) -> u8 {
    match window.granted(node.0, 0).map(|region| region.access) {
        None => 0,
        Some(Access::Read) => 1,
        Some(Access::Write) => 2,
    }
}

#[test]
fn a_guest_is_given_what_its_opens_are_for() {
    use MapPurpose::{Change, Read, Report, Write};
    let (share, window) = share();
    let node = share.file("a", &[7; 5000]);
    assert_eq!(ask(&share, node, Read), Err(Errno::BADF));
    assert_eq!(ask(&share, node, Report), Err(Errno::BADF));
    assert_eq!(ask(&share, NodeId::ROOT, Read), Err(Errno::OPNOTSUPP));
    assert_eq!(ask(&share, NodeId(4711), Read), Err(Errno::STALE));

    let reader = share.open(node, libc::O_RDONLY).unwrap().fh;
    assert_eq!(worth(&share, node, Change), (false, false));
    assert_eq!(granted(&window, node), 0, "not before it is asked for");
    assert_eq!(worth(&share, node, Write), (true, false), "nobody may write");
    assert_eq!(worth(&share, node, Read), (true, false));
    assert_eq!(granted(&window, node), 1);

    let writer = share.open(node, libc::O_RDWR).unwrap().fh;
    let second = share.open(node, libc::O_WRONLY).unwrap().fh;
    assert_eq!(worth(&share, node, Read), (true, false), "nobody has asked to write");
    let before = address(&share, node);
    assert_eq!(worth(&share, node, Write), (true, true));
    assert_eq!(worth(&share, node, Read), (true, true), "what there is is told");
    assert_eq!(worth(&share, node, Change), (false, false));
    assert_eq!(granted(&window, node), 2);
    assert_eq!(address(&share, node), before, "the same region");

    share.release(node, writer).unwrap();
    assert_eq!(granted(&window, node), 2);
    share.release(node, second).unwrap();
    assert_eq!(granted(&window, node), 1, "the last that may write is gone");
    assert_eq!(worth(&share, node, Write), (true, false));
    share.release(node, reader).unwrap();
    assert_eq!(granted(&window, node), 0);
    assert_eq!(ask(&share, node, Read), Err(Errno::BADF));

    let fh = share.open(node, libc::O_WRONLY).unwrap().fh;
    assert_eq!(worth(&share, node, Write), (true, true));
    assert!(address(&share, node) > before, "an address is not given twice");
    share.release(node, fh).unwrap();
    assert_eq!(granted(&window, node), 0, "of a reader and writer at once nothing is left");
    assert_eq!(share.release(node, fh), Err(Errno::BADF));
}

#[test]
fn a_map_says_how_large_the_file_is_and_covers_more() {
    let (share, _window) = share();
    let node = share.file("a", &[7; 5000]);
    share.open(node, libc::O_RDWR).unwrap();
    let map = ask(&share, node, MapPurpose::Write).unwrap();
    assert_eq!(map.size, 5000);
    assert!(map.read.offset == 0 && map.read.length > 5000);
    assert_eq!(share.fs.end_io(node), Ok(5000));
    assert_eq!(share.fs.end_map(node), Ok(()));
    assert_eq!(share.fs.end_map(NodeId(4711)), Ok(()));
    assert_eq!(share.fs.end_io(NodeId(4711)), Err(Errno::STALE));
    // Behind the room there is another region.
    let position = map.read.length + 1;
    let far = MapRequest { purpose: MapPurpose::Write, position, count: 1 };
    let far = share.fs.map(node, &far).unwrap();
    assert!(far.read.offset <= position && position < far.read.offset + far.read.length);
    assert_ne!(far.read.place, map.read.place);
}

#[test]
fn files_that_are_created_are_open_too() {
    let (share, window) = share();
    let new = NewFile { mode: 0o100_600, ..NewFile::default() };
    let name = Name::new(c"new").unwrap();
    let flags = bits(libc::O_RDWR);
    for made in [
        share.fs.create(Caller::default(), NodeId::ROOT, name, flags, &new).unwrap(),
        share.fs.tmpfile(Caller::default(), NodeId::ROOT, flags, &new).unwrap(),
    ] {
        let node = made.0.node;
        assert_eq!(worth(&share, node, MapPurpose::Write), (true, true));
        share.release(node, made.1.fh).unwrap();
        assert_eq!(granted(&window, node), 0);
    }
}

#[test]
fn a_file_without_a_name_is_reached_through_an_open() {
    for inode_file_handles in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let window = window(1000, false);
        let limits = Limits { hot_descriptors: 0, ..Limits::default() };
        let share = share_with(Config { inode_file_handles, limits, ..Config::default() }, &window);
        let node = share.file("a", &[7; 5000]);
        share.open(node, libc::O_RDONLY).unwrap();
        share.open(node, libc::O_WRONLY).unwrap();
        std::fs::remove_file(share.path("a")).unwrap();
        assert_eq!(worth(&share, node, MapPurpose::Write), (true, true));
        assert_eq!(share.fs.end_io(node), Ok(5000));
    }
}

#[test]
fn nothing_is_written_where_nothing_may_be() {
    let closed = window(1000, false);
    let share = share_with(Config { read_only: true, ..Config::default() }, &closed);
    let node = share.file("a", b"abc");
    share.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(worth(&share, node, MapPurpose::Write), (true, false));

    let read_only = window(1000, true);
    let share = share_with(Config::default(), &read_only);
    let node = share.file("a", b"abc");
    share.open(node, libc::O_RDWR).unwrap();
    assert_eq!(worth(&share, node, MapPurpose::Write), (true, false));
    assert_eq!(granted(&read_only, node), 1);
    assert!(share.fs.extent_device(0).unwrap().read_only);
}

#[test]
fn a_window_without_room_leads_to_fuse() {
    let window = window(0, false);
    let share = share_with(Config::default(), &window);
    let node = share.file("a", b"abc");
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    assert_eq!(worth(&share, node, MapPurpose::Write), (false, false));
    let map = share.fs.map(
        node,
        &MapRequest { purpose: MapPurpose::Read, position: i64::MAX.unsigned_abs() - 1, count: 1 },
    );
    let read = map.unwrap().read;
    assert!(read.offset == 0 && read.length > i64::MAX.unsigned_abs());
    assert_eq!(share.release(node, fh), Ok(()));
}

#[test]
fn files_in_the_window_are_bounded_and_come_back() {
    let window = window(1000, false);
    let limits = Limits { max_window_opens: 3, ..Limits::default() };
    let share = share_with(Config { limits, ..Config::default() }, &window);
    let open = |name| {
        let node = share.file(name, b"abc");
        (node, share.open(node, libc::O_RDWR).unwrap().fh)
    };
    let [(first, fh), (second, _), (third, _)] = [open("a"), open("b"), open("c")];
    assert_eq!(worth(&share, first, MapPurpose::Write), (true, true));
    assert_eq!(worth(&share, first, MapPurpose::Write), (true, true), "takes nothing again");
    assert_eq!(worth(&share, second, MapPurpose::Write), (true, false));
    assert_eq!(worth(&share, third, MapPurpose::Write), (false, false));
    share.release(first, fh).unwrap();
    assert_eq!(worth(&share, third, MapPurpose::Write), (true, true));
    assert_eq!(worth(&share, second, MapPurpose::Write), (true, false), "what it has it keeps");
}

#[test]
fn only_a_guest_that_agreed_has_extents() {
    let window = window(1000, false);
    let config = |extent_dialect| Config { extent_dialect, ..Config::default() };
    let private = share_with(config(ExtentDialect::Private), &window);
    let rfc = share_with(config(ExtentDialect::Rfc2025), &window);
    let flags = FUSE_EXTENTS | FUSE_IOMAP | FUSE_IOMAP_DIRECTIO;
    let agreed = |share: &Share, offered: u64| share.fs.init(offered).unwrap().features & flags;
    assert_eq!(agreed(&private, !0), FUSE_EXTENTS);
    assert_eq!(private.fs.extent_device(0).unwrap().number, 1);
    assert_eq!(private.fs.extent_device(0).unwrap().serial, *b"extents-of-a-share\0\0");
    assert_eq!(private.fs.extent_device(1), Err(Errno::NOENT));
    assert_eq!(agreed(&rfc, !0), FUSE_IOMAP | FUSE_IOMAP_DIRECTIO);
    let without = Share::new(Config::default());
    assert_eq!(agreed(&without, !0), 0);
    agreed(&private, !flags);
    for share in [&private, &without] {
        let node = share.file("a", b"abc");
        let fh = share.open(node, libc::O_RDWR).unwrap().fh;
        assert_eq!(share.fs.extent_device(0), Err(Errno::NOSYS));
        assert_eq!(ask(share, node, MapPurpose::Read), Err(Errno::NOSYS));
        assert_eq!(share.fs.end_io(node), Err(Errno::NOSYS));
        // What the mount before was given may be in use yet: fences hold for that.
        let fence = share.fs.fence(&share.fs.node(node).unwrap());
        assert_eq!(fence.is_some(), share.fs.extents.is_some());
        drop(fence);
        assert!(!share.fs.may_wait_for_extents(node) && !share.fs.may_wait_for_map(node));
        share.release(node, fh).unwrap();
    }
}

#[test]
fn what_is_forgotten_or_unmounted_has_nothing() {
    let (share, window) = share();
    let node = share.file("a", b"abc");
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    assert_eq!(worth(&share, node, MapPurpose::Write), (true, true));
    share.look_up("a");
    share.fs.forget(node, 1);
    assert_eq!(granted(&window, node), 2, "a reference is left");
    share.fs.forget(node, 1);
    assert_eq!(granted(&window, node), 0, "although it is open");
    assert_eq!(ask(&share, node, MapPurpose::Read), Err(Errno::STALE));
    share.release(node, fh).unwrap();

    let node = share.look_up("a");
    share.open(node, libc::O_RDWR).unwrap();
    assert_eq!(worth(&share, node, MapPurpose::Write), (true, true));
    share.fs.destroy();
    assert_eq!(granted(&window, node), 0);
    assert_eq!(ask(&share, node, MapPurpose::Read), Err(Errno::STALE));
    let node = share.look_up("a");
    assert_eq!(ask(&share, node, MapPurpose::Read), Err(Errno::BADF));
}

/// Whether `operation` waits for the fence of a file to fall. It is done in the end in any case.
fn waits(share: &Share, node: NodeId, operation: impl FnOnce() + Send) -> bool {
    let fence = share.fs.fence(&share.fs.node(node).unwrap());
    std::thread::scope(|threads| {
        let (done, ends) = channel();
        threads.spawn(move || {
            operation();
            done.send(()).unwrap();
        });
        let waited = ends.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout);
        assert!(share.fs.may_wait_for_extents(node) && share.fs.may_wait_for_map(node));
        drop(fence);
        if waited {
            ends.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        waited
    })
}

#[test]
fn who_changes_what_is_mapped_keeps_the_window_off() {
    let (share, window) = share();
    let node = share.file("a", &[7; 1 << 20]);
    let source = share.file("b", &[8; 4096]);
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    let from = share.open(source, libc::O_RDONLY).unwrap().fh;
    assert!(!share.fs.may_wait_for_extents(node));
    assert_eq!(worth(&share, node, MapPurpose::Write), (true, true));
    assert!(share.fs.may_wait_for_extents(node) && !share.fs.may_wait_for_map(node));

    let set = |size| {
        let set = SetAttr { size, fh: Some(fh), mode: Some(0o644), ..SetAttr::default() };
        share.fs.setattr(Caller::default(), node, &set).unwrap();
    };
    assert!(waits(&share, node, || set(Some(5000))));
    assert!(waits(&share, node, || set(Some(1 << 20))));
    assert!(!waits(&share, node, || set(None)));
    let truncate = SetAttr { size: Some(1 << 19), ..SetAttr::default() };
    assert!(waits(&share, node, || {
        share.fs.setattr(Caller::default(), node, &truncate).unwrap();
    }));
    let open = |flags| {
        let fh = share.open(node, flags).unwrap().fh;
        share.release(node, fh).unwrap();
    };
    assert!(waits(&share, node, || open(libc::O_RDWR | libc::O_TRUNC)));
    assert!(!waits(&share, node, || open(libc::O_RDWR)));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for (mode, expected) in [
        (punch, true),
        (FallocateFlags::ZERO_RANGE, true),
        (FallocateFlags::COLLAPSE_RANGE, true),
        (FallocateFlags::INSERT_RANGE, true),
        (FallocateFlags::from_bits_retain(0x80), true),
        (FallocateFlags::empty(), false),
        (FallocateFlags::KEEP_SIZE, false),
        (FallocateFlags::UNSHARE_RANGE, false),
    ] {
        // Not every host file system can do them all; who waits is decided before.
        let allocate = || {
            let _ = share.fs.fallocate(node, fh, 0, 4096, mode.bits());
        };
        assert_eq!(waits(&share, node, allocate), expected, "{mode:?}");
    }
    let copy = CopyRange {
        fh_in: from,
        offset_in: 0,
        node_out: node,
        fh_out: fh,
        offset_out: 0,
        len: 4096,
        flags: 0,
    };
    let copying = || {
        share.fs.copy_file_range(source, &copy).unwrap();
    };
    assert!(waits(&share, node, copying));
    assert!(!waits(&share, source, copying));
    assert!(waits(&share, node, || {
        ask(&share, node, MapPurpose::Read).unwrap();
    }));
    assert!(!waits(&share, node, || {
        share.fs.getattr(node, Some(fh)).unwrap();
    }));
    let new = NewFile { mode: 0o100_600, ..NewFile::default() };
    let name = Name::new(c"a").unwrap();
    let create = |flags: i32| {
        let made = share.fs.create(Caller::default(), NodeId::ROOT, name, bits(flags), &new).unwrap();
        assert_eq!(made.0.node, node);
        share.release(node, made.1.fh).unwrap();
    };
    assert!(waits(&share, node, || create(libc::O_RDWR | libc::O_TRUNC)));
    assert!(!waits(&share, node, || create(libc::O_RDWR)));

    assert_eq!(granted(&window, node), 2, "and nothing was lost of it");
    assert!(waits(&share, node, || share.release(node, fh).unwrap()));
    assert_eq!(granted(&window, node), 0);
    assert!(!share.fs.may_wait_for_extents(node), "nothing is left of it");
}

/// Enters the window where the file's map says that `offset` is.
fn enter(share: &Share, window: &Window, node: NodeId, offset: u64, access: Access) -> Way {
    window.enter(address(share, node) + offset, 512, access)
}

#[test]
fn a_map_leads_to_its_file() {
    let (share, window) = share();
    let nodes = [share.file("a", &[1; 5000]), share.file("b", &[2; 5000])];
    for (node, byte) in nodes.into_iter().zip(1..) {
        share.open(node, libc::O_RDWR).unwrap();
        assert!(matches!(enter(&share, &window, node, 0, Access::Write), Way::Refused), "not yet");
        ask(&share, node, MapPurpose::Write).unwrap();
        for access in [Access::Read, Access::Write] {
            let Way::Inside { file, offset, .. } = enter(&share, &window, node, 512, access) else {
                panic!("{access:?}")
            };
            assert_eq!(offset, 512);
            let mut found = [0; 512];
            let fd = file.direct().map_or(file.buffered(), |direct| direct.file.as_fd());
            let writes = rustix::fs::fcntl_getfl(fd).unwrap() & OFlags::RWMODE == OFlags::RDWR;
            assert_eq!(writes, access == Access::Write, "no more than is needed");
            assert_eq!(rustix::io::pread(file.buffered(), &mut found, offset), Ok(512));
            assert_eq!(found, [byte; 512]);
        }
    }
}

#[test]
fn what_ends_a_grant_waits_for_requests_in_flight() {
    type Operation = fn(&Share, NodeId, Fh);
    let operations: [(Access, Operation); 6] = [
        (Access::Read, |share, node, fh| share.release(node, fh).unwrap()),
        (Access::Write, |share, node, fh| share.release(node, fh).unwrap()),
        (Access::Read, |share, node, fh| {
            let set = SetAttr { size: Some(1000), fh: Some(fh), ..SetAttr::default() };
            share.fs.setattr(Caller::default(), node, &set).unwrap();
        }),
        (Access::Write, |share, node, _| {
            share.open(node, libc::O_RDWR | libc::O_TRUNC).unwrap();
        }),
        (Access::Write, |share, node, _| share.fs.forget(node, 1)),
        (Access::Read, |share, _, _| share.fs.destroy()),
    ];
    for (access, operation) in operations {
        let (share, window) = share();
        let node = share.file("a", &[1; 5000]);
        let fh = share.open(node, libc::O_RDWR).unwrap().fh;
        ask(&share, node, MapPurpose::Write).unwrap();
        let Way::Inside { passage, .. } = enter(&share, &window, node, 0, access) else { panic!() };
        std::thread::scope(|threads| {
            let (done, ends) = channel();
            let share = &share;
            threads.spawn(move || {
                operation(share, node, fh);
                done.send(()).unwrap();
            });
            assert_eq!(ends.recv_timeout(Duration::from_millis(100)), Err(RecvTimeoutError::Timeout));
            drop(passage);
            ends.recv_timeout(Duration::from_secs(20)).unwrap();
        });
    }
}

/// The last writer goes: writes end, and reads go on all the while.
#[test]
fn the_end_of_writes_leaves_the_reads() {
    let (share, window) = share();
    let node = share.file("a", &[1; 5000]);
    let reader = share.open(node, libc::O_RDONLY).unwrap().fh;
    let writer = share.open(node, libc::O_RDWR).unwrap().fh;
    ask(&share, node, MapPurpose::Write).unwrap();
    let first = address(&share, node);
    share.release(node, writer).unwrap();
    assert!(matches!(window.enter(first, 512, Access::Write), Way::Refused));
    assert!(matches!(window.enter(first, 512, Access::Read), Way::Inside { .. }));
    share.release(node, reader).unwrap();
    assert!(matches!(window.enter(first, 512, Access::Read), Way::Refused));
}

/// A file that nobody has open can be cut, too, and an open that comes meanwhile is given no map.
#[test]
fn a_fence_does_not_need_an_open() {
    let (share, _window) = share();
    let node = share.file("a", &[7; 5000]);
    assert!(waits(&share, node, || {
        share.open(node, libc::O_RDONLY).unwrap();
        assert_eq!(worth(&share, node, MapPurpose::Read), (true, false));
    }));
}

#[derive(Clone, Debug)]
enum Step {
    Open { writes: bool },
    Release(prop::sample::Index),
    ReleaseAgain,
    Ask(MapPurpose),
    Cut,
    Forget,
    Remount,
}

fn step() -> impl Strategy<Value = Step> {
    let purpose = prop_oneof![
        Just(MapPurpose::Read),
        Just(MapPurpose::Write),
        Just(MapPurpose::Change),
        Just(MapPurpose::Report)
    ];
    prop_oneof![
        6 => any::<bool>().prop_map(|writes| Step::Open { writes }),
        6 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => Just(Step::ReleaseAgain),
        6 => purpose.prop_map(Step::Ask),
        1 => Just(Step::Cut),
        1 => Just(Step::Forget),
        1 => Just(Step::Remount),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every order of opens, releases and questions: what the window has for the file is what the opens that there
    /// are justify and a question has asked for, and an address is never seen again once it was taken back.
    #[test]
    fn grants_follow_the_opens(steps in prop::collection::vec(step(), 1..80)) {
        let (share, window) = share();
        let mut node = share.file("a", &[7; 5000]);
        // The model: the opens and whether they write, the grant as a number, and the addresses that are gone.
        let mut opens: Vec<(Fh, bool)> = Vec::new();
        let mut grant = 0;
        let mut address = None;
        let mut gone = BTreeSet::new();
        for step in steps {
            let writer = |opens: &[(Fh, bool)]| opens.iter().any(|(_, writes)| *writes);
            match step {
                Step::Open { writes } => {
                    let flags = if writes { libc::O_RDWR } else { libc::O_RDONLY };
                    opens.push((share.open(node, flags).unwrap().fh, writes));
                }
                Step::Release(which) if !opens.is_empty() => {
                    let (fh, _) = opens.remove(which.index(opens.len()));
                    prop_assert_eq!(share.release(node, fh), Ok(()));
                    prop_assert_eq!(share.release(node, fh), Err(Errno::BADF));
                }
                Step::Release(_) => {}
                Step::ReleaseAgain => prop_assert_eq!(share.release(node, Fh(1 << 40)), Err(Errno::BADF)),
                Step::Ask(purpose) => {
                    let answer = ask(&share, node, purpose);
                    if opens.is_empty() {
                        prop_assert_eq!(answer, Err(Errno::BADF));
                        continue;
                    }
                    let map = answer.unwrap();
                    match purpose {
                        MapPurpose::Read => grant = grant.max(1),
                        MapPurpose::Write => grant = grant.max(1 + u8::from(writer(&opens))),
                        MapPurpose::Change | MapPurpose::Report => {}
                    }
                    let moves = matches!(purpose, MapPurpose::Read | MapPurpose::Write);
                    prop_assert_eq!(map.write.place == Place::Overwrite, moves && grant == 2);
                    if let (true, Place::Mapped(Some(found))) = (moves, map.read.place) {
                        prop_assert!(!gone.contains(&found.byte));
                        prop_assert!(address.is_none_or(|known| known == found.byte));
                        address = Some(found.byte);
                    } else {
                        prop_assert!(!moves);
                    }
                }
                Step::Cut => {
                    let set = SetAttr { size: Some(4000), ..SetAttr::default() };
                    share.fs.setattr(Caller::default(), node, &set).unwrap();
                }
                Step::Forget => {
                    for (fh, _) in opens.drain(..) {
                        share.release(node, fh).unwrap();
                    }
                    share.fs.forget(node, 1);
                    prop_assert_eq!(granted(&window, node), 0);
                    node = share.look_up("a");
                }
                Step::Remount => {
                    share.fs.destroy();
                    prop_assert_eq!(granted(&window, node), 0);
                    opens.clear();
                    node = share.look_up("a");
                }
            }
            grant = match grant {
                _ if opens.is_empty() => 0,
                2 if !writer(&opens) => 1,
                grant => grant,
            };
            if grant == 0 {
                gone.extend(address.take());
            }
            prop_assert_eq!(granted(&window, node), grant);
            prop_assert_eq!(share.fs.may_wait_for_extents(node), grant > 0);
            prop_assert!(!share.fs.may_wait_for_map(node));
        }
    }
}

/// Many queues at once: whatever overtakes what, nothing is left in the end, and nobody who has a file open
/// for writing is refused.
#[test]
fn opens_releases_and_questions_may_overtake_each_other() {
    let (share, window) = share();
    let node = share.file("a", &[7; 5000]);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let share = &share;
            threads.spawn(move || {
                for round in 0..300 {
                    let writes = (round + thread) % 3 == 0;
                    let flags = if writes { libc::O_RDWR } else { libc::O_RDONLY };
                    let fh = share.open(node, flags).unwrap().fh;
                    let purpose = if writes { MapPurpose::Write } else { MapPurpose::Read };
                    let worth = worth(share, node, purpose);
                    assert!(worth.0 && (worth.1 || !writes), "{worth:?}");
                    if round % 7 == 0 {
                        let set = SetAttr { size: Some(5000), fh: Some(fh), ..SetAttr::default() };
                        share.fs.setattr(Caller::default(), node, &set).unwrap();
                    }
                    share.release(node, fh).unwrap();
                }
            });
        }
    });
    assert_eq!(granted(&window, node), 0);
    assert!(!share.fs.may_wait_for_extents(node));
    assert_eq!(ask(&share, node, MapPurpose::Read), Err(Errno::BADF));
}

/// An unmount, or a FORGET, that meets opens and questions: whichever comes first, the node has nothing afterwards.
#[test]
fn nothing_is_given_for_a_node_that_is_going() {
    type End = fn(&Share, NodeId);
    let ends: [End; 2] = [|share, _| share.fs.destroy(), |share, node| share.fs.forget(node, 1)];
    let (share, window) = share();
    for end in ends.into_iter().cycle().take(200) {
        let node = share.file("a", &[7; 5000]);
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while share.open(node, libc::O_RDWR).is_ok() {
                        match ask(&share, node, MapPurpose::Write) {
                            Ok(_) | Err(Errno::BADF) => {}
                            gone => return assert_eq!(gone, Err(Errno::STALE)),
                        }
                    }
                });
            }
            std::thread::yield_now();
            end(&share, node);
        });
        assert_eq!(granted(&window, node), 0);
    }
}

#[test]
fn a_report_tells_data_from_holes() {
    let (share, window) = share();
    let mib = 1 << 20;
    let node = share.file("a", &[]);
    let file = std::fs::OpenOptions::new().write(true).open(share.path("a")).unwrap();
    let put = |at| std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], at).unwrap();
    file.set_len(4 * mib + 100).unwrap();
    put(0);
    put(mib);
    let unwritten = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 2 * mib, mib).is_ok();
    // Part of it is written, but nowhere than in the page cache.
    put(2 * mib + 65536);
    share.open(node, libc::O_RDONLY).unwrap();
    let at = |position| {
        let report = MapRequest { purpose: MapPurpose::Report, position, count: 1 };
        let map = share.fs.map(node, &report).unwrap();
        assert_eq!(map.write.place, Place::Fuse);
        let Extent { offset, length, place } = map.read;
        assert!(offset <= position && position < offset + length);
        (offset + length, place)
    };
    assert_eq!(at(0), (4096, Place::Mapped(None)));
    assert_eq!(at(4096), (mib, Place::Hole));
    assert_eq!(at(mib + 5), (mib + 4096, Place::Mapped(None)));
    assert_eq!(at(mib + 4096), (2 * mib, Place::Hole));
    if unwritten {
        assert_eq!(at(2 * mib), (2 * mib + 65536, Place::Unwritten(None)));
    }
    assert_eq!(at(2 * mib + 65536).1, Place::Mapped(None));
    assert_eq!(at(3 * mib), (4 * mib + 512, Place::Hole), "whole blocks");
    assert_eq!(at(8 * mib).1, Place::Hole);
    assert_eq!(at(i64::MAX.unsigned_abs() - 1).1, Place::Hole);
    assert_eq!(granted(&window, node), 0, "it gives nothing");

    let first = address(&share, node);
    let mapped = |byte| Place::Mapped(Some(Address { device: 1, byte: first + byte }));
    assert_eq!(at(5), (4096, mapped(0)));
    assert_eq!(at(mib + 1025), (mib + 4096, mapped(mib + 1024)));
}

/// INIT, or any other request, as its bytes.
fn message<T: IntoBytes + Immutable>(opcode: u32, node: NodeId, body: &T) -> Vec<u8> {
    let body = body.as_bytes();
    let len = u32::try_from(size_of::<InHeader>() + body.len()).unwrap();
    let header = InHeader { len, opcode, unique: 3, nodeid: node.0, ..InHeader::default() };
    [header.as_bytes(), body].concat()
}

fn served(server: &Server<crate::fs::Passthrough>, request: &[u8]) -> (i32, Vec<u8>) {
    let mut answer = Vec::new();
    match server.handle(request, 0, 1 << 12, &mut answer) {
        Handled::Reply => {}
        handled => panic!("{handled:?}"),
    }
    let header = OutHeader::read_from_prefix(&answer).unwrap().0;
    (-header.error, answer[16..].to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Over files of every shape: the guest's kernel takes each answer that it gets, in both revisions.
    #[test]
    fn the_guests_kernel_takes_every_answer(
        rfc: bool,
        writes: bool,
        size in 0u64..300_000,
        pieces in prop::collection::vec((0u64..300_000, 1usize..20_000, 0u8..3), 0..6),
        questions in prop::collection::vec(
            (
                prop_oneof![0u64..320_000, 0u64..i64::MAX.unsigned_abs()],
                1u64..100_000,
                prop_oneof![
                    Just(0), Just(IOMAP_OP_DIRECT), Just(IOMAP_OP_WRITE | IOMAP_OP_DIRECT),
                    Just(IOMAP_OP_REPORT), Just(IOMAP_OP_ZERO), any::<u32>(),
                ],
            ),
            1..40,
        ),
        regions in prop_oneof![Just(1000usize), 0usize..2],
    ) {
        let window = window(regions, false);
        let extent_dialect = if rfc { ExtentDialect::Rfc2025 } else { ExtentDialect::Private };
        let Share { dir, fs } = share_with(Config { extent_dialect, ..Config::default() }, &window);
        let server = Server::new(fs);
        let flags = if rfc { FUSE_IOMAP | FUSE_IOMAP_DIRECTIO } else { FUSE_EXTENTS } | FUSE_INIT_EXT;
        let words = [u32::try_from(flags & u64::from(u32::MAX)).unwrap(), u32::try_from(flags >> 32).unwrap()];
        let init = InitIn { major: 7, minor: 44, max_readahead: 0, flags: words[0] };
        let more = InitInExt { flags2: words[1], ..InitInExt::default() };
        let mut request = message(opcode::INIT, NodeId(0), &init);
        request.extend_from_slice(more.as_bytes());
        let len = u32::try_from(request.len()).unwrap();
        request[..4].copy_from_slice(&len.to_le_bytes());
        prop_assert_eq!(served(&server, &request).0, 0);

        let path = dir.path().join("a");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (at, len, what) in pieces {
            let range = u64::try_from(len).unwrap();
            let mode = match what {
                0 => {
                    std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; len], at).unwrap();
                    continue;
                }
                1 => FallocateFlags::KEEP_SIZE,
                _ => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            };
            // Where the host cannot, the file has one shape less.
            let _ = rustix::fs::fallocate(&file, mode, at, range);
        }
        let size = file.metadata().unwrap().len();
        let fs = server.file_system();
        let name = Name::new(c"a").unwrap();
        let node = fs.lookup(Caller::default(), NodeId::ROOT, name).unwrap().node;
        let access = bits(if writes { libc::O_RDWR } else { libc::O_RDONLY });
        fs.open(Caller::default(), node, access, false).unwrap();

        let disk = Disk { size: window.identity().size, block: BLOCK };
        for (pos, count, opflags) in questions {
            let begin = IomapBeginIn { opflags, pos, count, ..IomapBeginIn::default() };
            let (errno, body) = served(&server, &message(opcode::IOMAP_BEGIN, node, &begin));
            let question = Question { opflags, pos };
            if pos + count > i64::MAX.unsigned_abs() {
                prop_assert_eq!(errno, 22);
            } else if rfc && errno != 0 {
                prop_assert_eq!(errno, 38);
                prop_assert!(opflags & IOMAP_OP_REPORT == 0);
            } else {
                prop_assert_eq!(errno, 0);
                let verdict = if rfc {
                    accept_rfc2025(&body, question, disk)
                } else {
                    accept(&body, question, disk)
                };
                prop_assert_eq!(verdict, Ok(()), "{:?} {:?} {:?}", begin, body, size);
                let overwrites = opflags & IOMAP_OP_WRITE != 0 && opflags & IOMAP_OP_REPORT == 0;
                prop_assert!(!rfc || !overwrites || writes && pos + count <= size);
            }
        }
    }
}
