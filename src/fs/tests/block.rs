//! Are the blocks that the window knows the file's, whatever is done to it meanwhile?
//!
//! On file systems of their own (`disk`).

use std::fs::{self, File, OpenOptions};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fstatvfs, syncfs};
use rustix::io::{Errno, pread, pwrite};

use super::disk::{Disk, DiskShare};
use super::files::bits;
use crate::extents::{Access, HostFile, Identity, Passage, Volume, Way, Window};
use crate::fs::Config;
use crate::fuse::*;

#[repr(align(4096))]
struct Block([u8; 4096]);

/// A share on a disk whose blocks the window may use.
struct Share {
    window: Arc<Window>,
    share: DiskShare,
}

impl Deref for Share {
    type Target = DiskShare;

    fn deref(&self) -> &DiskShare {
        &self.share
    }
}

/// Where a request of the window is served.
struct Served {
    file: Arc<dyn HostFile>,
    offset: u64,
    passage: Passage,
}

impl Served {
    /// The device's address, where it is known.
    fn on_device(&self) -> Option<u64> {
        self.file.on_device(self.offset, 4096).map(|(_, address)| address)
    }

    /// As the ring does it.
    fn write(&self, byte: u8) {
        let block = Block([byte; 4096]);
        let direct = || (self.file.direct().unwrap(), self.offset);
        let (file, at) = self.file.on_device(self.offset, 4096).unwrap_or_else(direct);
        assert_eq!(pwrite(&file.file, &block.0, at), Ok(4096));
        self.passage.wrote();
    }

    fn read(&self) -> Vec<u8> {
        let mut block = Block([0; 4096]);
        let direct = || (self.file.direct().unwrap(), self.offset);
        let (file, at) = self.file.on_device(self.offset, 4096).unwrap_or_else(direct);
        let read = pread(&file.file, &mut block.0, at).unwrap();
        block.0[..read].to_vec()
    }
}

impl Share {
    fn new(disk: Disk) -> Self {
        Self::with(disk, Config { xattr: true, ..Config::default() }, false)
    }

    fn with(disk: Disk, config: Config, read_only: bool) -> Self {
        let volume = Volume::open_for_window(Path::new(&disk.device), &disk.root(), read_only).unwrap();
        let window = Arc::new(Window::new(Identity::new(b"a-disk", 512, read_only)).over(volume));
        let share = DiskShare::new(disk, config, |_, fs| fs.with_window(Arc::clone(&window)));
        Self { window, share }
    }

    /// The file's address in the window, with a grant to read, and to write where that may be.
    fn region(&self, node: NodeId) -> u64 {
        let ask = MapRequest { purpose: MapPurpose::Write, position: 0, count: 1 };
        match self.fs.map(node, &ask).unwrap().read.place {
            Place::Mapped(Some(Address { byte, .. })) => byte,
            place => panic!("{place:?}"),
        }
    }

    fn enter(&self, address: u64, access: Access) -> Option<Served> {
        loop {
            match self.window.enter(address, 4096, access) {
                Way::Inside { file, offset, passage, .. } => break Some(Served { file, offset, passage }),
                Way::Fenced(wait) => wait.wait(),
                Way::Refused | Way::Zeroes => break None,
            }
        }
    }

    /// Reads there until the window knows the blocks, or for so long that it will not.
    fn learns(&self, address: u64) -> bool {
        self.learns_within(address, Duration::from_secs(30))
    }

    /// Reads there for so long that it would know them, if it could.
    fn stays_unknown(&self, address: u64) -> bool {
        !self.learns_within(address, Duration::from_millis(1200))
    }

    fn learns_within(&self, address: u64, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if (0..40).any(|_| self.enter(address, Access::Read).unwrap().on_device().is_some()) {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    fn resize(&self, node: NodeId, size: u64) {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        assert_eq!(self.fs.setattr(Caller::default(), node, &set).unwrap().attr.size, size);
    }

    fn chmod(&self, node: NodeId, mode: u32) {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.fs.setattr(Caller::default(), node, &set).unwrap();
    }
}

fn name(name: &std::ffi::CStr) -> Name<'_> {
    Name::new(name).unwrap()
}

#[test]
fn what_is_written_on_the_device_is_in_the_file() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let contents: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let node = share.file("a", &contents);
        let fh = share.open_direct(node);
        let region = share.region(node);
        assert!(share.learns(region));
        let known = |at: u64| share.enter(region + at, Access::Write).unwrap().on_device();
        let address = known(8192).unwrap();
        let mut block = Block([0; 4096]);
        pread(share.disk.block(), &mut block.0, address).unwrap();
        assert!(block.0[..] == contents[8192..12_288], "at that address");
        assert_eq!((known(36_864), known(36_000), known(40_960)), (None, None, None), "the last piece");

        let mut expected = contents.clone();
        for (at, byte) in [(8192, 7), (0, 8), (32_768, 9)] {
            share.enter(region + at, Access::Write).unwrap().write(byte);
            let at = usize::try_from(at).unwrap();
            expected[at..at + 4096].fill(byte);
        }
        assert!(share.read(node, fh, 0, 50_000) == expected, "by FUSE");
        assert_eq!(share.enter(region + 8192, Access::Read).unwrap().read(), [7; 4096]);
        // By FUSE within one of those blocks, over the end, and what is there then by the window.
        assert_eq!(share.write(node, fh, 8190, &[1; 300], 0).unwrap(), 300);
        expected[8190..8490].fill(1);
        assert_eq!(share.write(node, fh, 30_001, &[5; 20_000], 0).unwrap(), 20_000);
        expected.resize(50_001, 0);
        expected[30_001..].fill(5);
        assert_eq!(share.enter(region + 8192, Access::Read).unwrap().read(), expected[8192..12_288]);
        assert_eq!(share.enter(region + 36_864, Access::Read).unwrap().read(), expected[36_864..40_960]);
        share.enter(region + 40_960, Access::Write).unwrap().write(3);
        expected[40_960..45_056].fill(3);
        share.window.flush().unwrap();
        share.fs.fsync(node, fh, true).unwrap();
        assert!(share.read(node, fh, 0, 60_000) == expected);
        share.release(node, fh);
        assert!(fs::read(share.path("a")).unwrap() == expected, "nothing older is cached after the release");
    }
}

#[test]
fn what_is_not_written_or_not_direct_goes_by_the_file_system() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; 100_000]);
        let fh = share.open_direct(node);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        share.fs.fallocate(node, fh, 8192, 4096, mode.bits()).unwrap();
        share.fs.fallocate(node, fh, 16_384, 4096, mode.bits()).unwrap();
        share.fs.fallocate(node, fh, 16_384, 4096, 0).unwrap();
        let region = share.region(node);
        assert!(share.learns(region));
        for (at, known) in [(0, true), (8192, false), (12_288, true), (16_384, false), (20_480, true)] {
            let served = share.enter(region + at, Access::Write).unwrap();
            assert_eq!(served.on_device().is_some(), known, "{at}");
            served.write(2);
        }
        assert_eq!(share.read(node, fh, 8192, 100), [2; 100]);

        let node = share.file("b", &[1; 100_000]);
        let cached = share.open(node, libc::O_RDWR).unwrap();
        share.open_direct(node);
        assert!(share.stays_unknown(share.region(node)), "the first open made it cached");
        share.release(node, cached);

        let node = share.file("c", &[1; 100_000]);
        share.open_direct(node);
        let region = share.region(node);
        share.fs.unlink(NodeId::ROOT, name(c"c")).unwrap();
        assert!(share.stays_unknown(region), "without a name");
    }
}

/// Whether `operation` waits for a request in flight, and has the blocks forgotten.
fn takes_blocks_away(share: &Share, region: u64, operation: impl FnOnce() + Send) -> bool {
    assert!(share.learns(region));
    let inside = share.enter(region, Access::Read).unwrap();
    assert!(inside.on_device().is_some());
    thread::scope(|scope| {
        let operation = scope.spawn(operation);
        let end = Instant::now() + Duration::from_millis(50);
        while Instant::now() < end && !operation.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let waited = !operation.is_finished();
        drop(inside);
        operation.join().unwrap();
        waited && share.enter(region, Access::Read).is_none_or(|after| after.on_device().is_none())
    })
}

#[test]
fn who_moves_blocks_waits_for_requests_and_has_them_forgotten() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; 200_000]);
        let fh = share.open_direct(node);
        let other = share.file("b", &[2; 100_000]);
        let other_fh = share.open_direct(other);
        let region = share.region(node);
        let fs = &share.fs;
        assert!(takes_blocks_away(&share, region, || share.resize(node, 150_000)));
        assert!(takes_blocks_away(&share, region, || share.resize(node, 300_000)));
        for mode in [
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
        ] {
            let change = || fs.fallocate(node, fh, 65_536, 65_536, mode.bits()).unwrap();
            assert!(takes_blocks_away(&share, region, change), "{mode:?}");
        }
        for (from, fh_in, node_out, fh_out) in [(other, other_fh, node, fh), (node, fh, other, other_fh)] {
            let copy =
                CopyRange { fh_in, offset_in: 0, node_out, fh_out, offset_out: 4096, len: 8192, flags: 0 };
            let copy = || assert_eq!(fs.copy_file_range(from, &copy), Ok(8192));
            assert!(takes_blocks_away(&share, region, copy));
        }
        let copy = CopyRange {
            fh_in: fh,
            offset_in: 0,
            node_out: node,
            fh_out: fh,
            offset_out: 65_536,
            len: 4096,
            flags: 0,
        };
        assert!(takes_blocks_away(&share, region, || assert_eq!(fs.copy_file_range(node, &copy), Ok(4096))));
        assert!(takes_blocks_away(&share, region, || share.chmod(node, 0o4755)));
        assert!(share.learns(region));
        let served = share.enter(region, Access::Write).unwrap();
        assert_eq!(served.on_device(), None, "only a write by way of the file system clears set-ID bits");
        drop(served);
        share.chmod(node, 0o644);
        let capability = [[1, 0, 0, 2].as_slice(), &[0; 16]].concat();
        let set = || fs.setxattr(Caller::default(), node, c"security.capability", &capability, 0, false);
        assert!(takes_blocks_away(&share, region, || set().unwrap()));
        fs.removexattr(Caller::default(), node, c"security.capability").unwrap();
        let no_dump = || {
            let mut flags = Vec::new();
            fs.ioctl(Caller::default(), node, fh, 0x8008_6601, &[], 4, &mut flags).unwrap();
            flags[0] |= 0x40;
            fs.ioctl(Caller::default(), node, fh, 0x4008_6602, &flags, 0, &mut Vec::new()).unwrap();
        };
        assert!(takes_blocks_away(&share, region, no_dump));
        share.resize(node, 100_000);
        let rename = || {
            let (root, old, new) = (NodeId::ROOT, name(c"b"), name(c"a"));
            fs.rename(Caller::default(), root, old, root, new, 0).unwrap();
        };
        assert!(takes_blocks_away(&share, region, rename));
        let region = share.region(other);
        assert!(takes_blocks_away(&share, region, || fs.unlink(NodeId::ROOT, name(c"a")).unwrap()));

        let node = share.file("c", &[1; 100_000]);
        let fh = share.open_direct(node);
        let region = share.region(node);
        let cut = || {
            share.open(node, libc::O_RDWR | libc::O_TRUNC).unwrap();
        };
        assert!(takes_blocks_away(&share, region, cut));
        share.write(node, fh, 0, &[3; 100_000], 0).unwrap();
        let create = || {
            let flags = bits(libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
            fs.create(Caller::default(), NodeId::ROOT, name(c"c"), flags, &NewFile::default()).unwrap();
        };
        assert!(takes_blocks_away(&share, region, create));
        share.write(node, fh, 0, &[3; 100_000], 0).unwrap();
        let clear = || drop(share.window.enter_to_move(region, 4096).unwrap());
        assert!(takes_blocks_away(&share, region, clear));
        assert!(
            takes_blocks_away(&share, region, || fs.forget(node, 2)),
            "a guest that forgets an open file"
        );
    }
}

#[test]
fn a_file_that_is_open_by_a_forgotten_node_is_the_same_file() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let old = share.file("a", &[1; 200_000]);
        let fh = share.open_direct(old);
        share.fs.forget(old, 1);
        let node = share.look_up("a");
        assert_ne!(node, old);
        share.open_direct(node);
        let region = share.region(node);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punch = || share.fs.fallocate(old, fh, 0, 65_536, mode.bits()).unwrap();
        assert!(takes_blocks_away(&share, region, punch));
        assert!(share.stays_unknown(region), "it is a hole");
        let cut = || {
            let set = SetAttr { size: Some(4096), fh: Some(fh), ..SetAttr::default() };
            share.fs.setattr(Caller::default(), old, &set).unwrap();
        };
        assert!(takes_blocks_away(&share, region + 131_072, cut));
    }
}

/// Who writes a part of a block by FUSE reads the rest and writes it back, and must not bring back what the window has overwritten.
#[test]
fn parts_of_a_block_are_written_by_fuse_beside_the_window() {
    let Some(disk) = Disk::ext4() else { return };
    let share = Share::new(disk);
    let node = share.file("a", &[1; 100_000]);
    let fh = share.open_direct(node);
    let region = share.region(node);
    assert!(share.learns(region));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ended = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                share.write(node, fh, 8192 + 100, &[0xff; 100], 0).unwrap();
            }
        });
        for turn in 0..300_u32 {
            let [byte, ..] = (turn % 250).to_le_bytes();
            share.enter(region + 8192, Access::Write).unwrap().write(byte);
            let served = share.enter(region + 8192, Access::Read).unwrap();
            assert!(served.on_device().is_some());
            let found = served.read();
            let (before, rest) = found.split_at(100);
            let after = rest.split_at(100).1;
            assert!(before.iter().chain(after).all(|found| *found == byte), "turn {turn}");
        }
        drop(ended);
    });
}

#[test]
fn a_write_on_the_device_is_seen_in_the_times() {
    let Some(disk) = Disk::ext4() else { return };
    let share = Share::new(disk);
    let node = share.file("a", &[1; 100_000]);
    share.open_direct(node);
    let region = share.region(node);
    assert!(share.learns(region));
    let long_ago = SetTime::At(Timestamp { sec: 1000, nsec: 0 });
    for _ in 0..3 {
        let set = SetAttr { mtime: Some(long_ago), ..SetAttr::default() };
        share.fs.setattr(Caller::default(), node, &set).unwrap();
        let before = share.fs.getattr(node, None).unwrap().attr;
        assert_eq!(before.mtime.sec, 1000);
        let served = share.enter(region, Access::Write).unwrap();
        assert!(served.on_device().is_some());
        served.write(2);
        let after = share.fs.getattr(node, None).unwrap().attr;
        assert!(after.mtime.sec > 1000 && after.ctime.sec >= before.ctime.sec);
    }
}

#[test]
fn nothing_is_written_on_a_read_only_share() {
    let Some(disk) = Disk::ext4() else { return };
    fs::write(disk.root().join("a"), [1; 100_000]).unwrap();
    let share = Share::with(disk, Config { read_only: true, ..Config::default() }, true);
    let node = share.look_up("a");
    share.open(node, libc::O_RDONLY | libc::O_DIRECT).unwrap();
    let region = share.region(node);
    assert!(share.learns(region));
    assert_eq!(share.enter(region, Access::Read).unwrap().read(), [1; 4096]);
    assert!(share.enter(region, Access::Write).is_none());
    let device = share.window.volume().unwrap().direct().unwrap();
    assert_eq!(pwrite(&device.file, &Block([0; 4096]).0, 0), Err(Errno::BADF));
}

/// Lets threads end, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One file is cut and grows all the time while the window writes to it; what it loses another file gets, in which nothing of
/// those writes must be found.
#[test]
fn blocks_that_a_file_lost_are_not_written() {
    const LEN: usize = 1 << 20;
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; LEN]);
        let fh = share.open_direct(node);
        let region = share.region(node);
        let directory = File::open(share.disk.root()).unwrap();
        // So full that the other file has to take blocks that this one had.
        let full = File::create(share.path("full")).unwrap();
        let stat = fstatvfs(&directory).unwrap();
        let room = stat.f_bavail * stat.f_frsize - (LEN as u64) / 2;
        fallocate(&full, FallocateFlags::empty(), 0, room).unwrap();
        let (over, on_device) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..2_u64)
                .map(|seed| {
                    let (share, over, on_device) = (&share, &over, &on_device);
                    scope.spawn(move || {
                        let mut random = 0x2545_f491_4f6c_dd1d_u64 + seed;
                        while !over.load(Ordering::Relaxed) {
                            random ^= random << 13;
                            random ^= random >> 7;
                            random ^= random << 17;
                            let at = random % (LEN as u64 / 4096) * 4096;
                            let Some(served) = share.enter(region + at, Access::Write) else { continue };
                            if served.on_device().is_some() {
                                served.write(0xaa);
                                on_device.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    })
                })
                .collect();
            let ended = Over(&over);
            let end = Instant::now() + Duration::from_secs(30);
            let mut turns = 0;
            while turns < 5 || on_device.load(Ordering::Relaxed) < 200 {
                assert!(Instant::now() < end, "{on_device:?} writes on the device in {turns} turns");
                share.resize(node, 0);
                syncfs(&directory).unwrap();
                // Takes the blocks that have just become free, among others.
                let mut others = OpenOptions::new();
                let others = others.write(true).read(true).create(true).truncate(true);
                let other = others.custom_flags(libc::O_DIRECT).open(share.path("b")).unwrap();
                let block = Box::new([Block([0xbb; 4096]), Block([0xbb; 4096])]);
                for at in 0..LEN as u64 / 4096 {
                    other.write_all_at(&block[0].0, at * 4096).unwrap();
                }
                thread::sleep(Duration::from_millis(10));
                for at in 0..LEN as u64 / 4096 {
                    let mut found = Block([0; 4096]);
                    other.read_exact_at(&mut found.0, at * 4096).unwrap();
                    assert!(found.0 == [0xbb; 4096], "block {at} of another file in turn {turns}");
                }
                drop(other);
                fs::remove_file(share.path("b")).unwrap();
                syncfs(&directory).unwrap();
                turns += 1;
                // On a busy machine it takes a moment until what was removed is free.
                while let Err(error) = share.write(node, fh, 0, &[1; LEN], 0) {
                    assert!(error.raw_os_error() == Some(libc::ENOSPC) && Instant::now() < end, "{error}");
                    thread::sleep(Duration::from_millis(10));
                }
                share.fs.fsync(node, fh, true).unwrap();
                thread::sleep(Duration::from_millis(30));
            }
            drop(ended);
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        let file = File::open(share.path("a")).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert!(fs::read(share.path("a")).unwrap().iter().all(|byte| matches!(byte, 1 | 0xaa)));
    }
}
