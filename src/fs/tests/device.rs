//! May a guest have the blocks of this file, and are they the right ones?
//!
//! On file systems of their own (`disk`).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, pread};

use super::disk::{Disk, DiskShare, SIZE, run};
use super::files::bits;
use crate::extents::{Volume, VolumeError};
use crate::fs::Config;
use crate::fuse::*;

/// A share on such a disk, mounted by a guest that has the disk.
struct Share(DiskShare);

impl Deref for Share {
    type Target = DiskShare;

    fn deref(&self) -> &DiskShare {
        &self.0
    }
}

impl Share {
    fn new(disk: Disk) -> Self {
        Self(DiskShare::new(disk, Config { xattr: true, ..Config::default() }, |disk, fs| {
            fs.with_volume(disk.volume().unwrap())
        }))
    }

    fn ask(&self, node: NodeId, purpose: MapPurpose, position: u64) -> FileMap {
        let map = self.fs.map(node, &MapRequest { purpose, position, count: 1 }).unwrap();
        assert_eq!((map.read.offset, map.read.length), (map.write.offset, map.write.length));
        assert!(map.read.offset <= position && position < map.read.offset + map.read.length, "{map:?}");
        map
    }

    /// The device's address of a position that may be overwritten there.
    fn address(&self, node: NodeId, position: u64) -> Option<u64> {
        let map = self.ask(node, MapPurpose::Write, position);
        match (map.read.place, map.write.place) {
            (Place::Mapped(Some(Address { device: 1, byte })), Place::Overwrite) => {
                Some(byte + position - map.read.offset)
            }
            (Place::Fuse, Place::Fuse) => None,
            places => panic!("{places:?}"),
        }
    }

    fn size(&self, node: NodeId, size: u64) -> Result<u64> {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.fs.setattr(Caller::default(), node, &set).map(|reply| reply.attr.size)
    }

    /// Writes on the guest's disk.
    fn on_device(&self, address: u64, byte: u8) {
        let block = Block([byte; 4096]);
        self.disk.block().write_all_at(&block.0, address).unwrap();
    }

    /// Reads the file as a host's program does, with nothing in the cache.
    fn on_host(&self, name: &str) -> Vec<u8> {
        let file = File::open(self.path(name)).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        fs::read(self.path(name)).unwrap()
    }
}

#[repr(align(4096))]
struct Block([u8; 4096]);

fn name(name: &std::ffi::CStr) -> Name<'_> {
    Name::new(name).unwrap()
}

#[test]
fn what_is_written_on_the_device_is_in_the_file() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let contents: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let node = share.file("a", &contents);
        let device = share.fs.extent_device(0).unwrap();
        assert_eq!((device.size, device.logical_block, device.number), (SIZE, share.disk.sector, 1));
        assert_eq!(&device.serial, b"a-disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

        let fh = share.open_direct(node);
        let address = share.address(node, 8192).unwrap();
        let mut block = Block([0; 4096]);
        pread(share.disk.block(), &mut block.0, address).unwrap();
        assert!(
            block.0[..] == contents[8192..12_288],
            "the file's bytes are on the device, and at that address"
        );

        share.on_device(address, 7);
        assert_eq!(share.read(node, fh, 8000, 5000)[192..4288], [7; 4096], "by FUSE, at no block's boundary");
        assert_eq!(share.read(node, fh, 39_990, 100), contents[39_990..]);
        assert!(share.read(node, fh, 40_000, 100).is_empty());
        share.fs.fsync(node, fh, true).unwrap();
        let mut expected = contents.clone();
        expected[8192..12_288].fill(7);
        assert!(share.on_host("a") == expected);

        // Beside what the guest writes on the device, if possible within one block of the file system.
        assert_eq!(share.write(node, fh, 8190, &[9; 300], 0).unwrap(), 300);
        expected[8190..8490].fill(9);
        let (sector, beside) = (share.disk.sector as usize, 8192 + u64::from(share.disk.sector));
        let address = share.address(node, beside).unwrap();
        share.disk.block().write_all_at(&Block([3; 4096]).0[..sector], address).unwrap();
        expected[8192 + sector..8192 + 2 * sector].fill(3);
        // Over the end, with the part before it told; and an append.
        assert_eq!(share.write(node, fh, 30_001, &[5; 20_000], 0).unwrap(), 20_000);
        expected.resize(50_001, 0);
        expected[30_001..].fill(5);
        let append = libc::O_APPEND | libc::O_RDWR;
        assert_eq!(share.write(node, fh, 0, b"end", append).unwrap(), 3);
        expected.extend(b"end");
        assert!(share.read(node, fh, 0, 60_000) == expected);
        assert!(share.address(node, 36_864).is_some(), "what was added is told next time");
        share.release(node, fh);
        assert!(fs::read(share.path("a")).unwrap() == expected, "nothing older is cached after the release");
    }
}

#[test]
fn only_written_blocks_before_the_end_are_told() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; 100_000]);
        let file = OpenOptions::new().read(true).write(true).open(share.path("a")).unwrap();
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 4096).unwrap();
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 16_384, 4096).unwrap();
        fallocate(&file, FallocateFlags::empty(), 16_384, 4096).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 200_000, 100_000).unwrap();
        drop(file);
        let fh = share.open_direct(node);
        for (position, told) in [
            (0, true),
            (8191, true),
            (8192, false),
            (12_288, true),
            (16_384, false),
            (20_479, false),
            (20_480, true),
            (98_303, true),
            (98_304, false),
            (99_999, false),
            (250_000, false),
        ] {
            assert_eq!(share.address(node, position).is_some(), told, "{position}");
        }
        // Once it is written it is told.
        share.write(node, fh, 16_384, &[2; 4096], 0).unwrap();
        let address = share.address(node, 16_384).unwrap();
        share.on_device(address, 3);
        assert_eq!(share.read(node, fh, 16_384, 4096), [3; 4096]);
        let map = share.ask(node, MapPurpose::Report, 0);
        assert_eq!(map.read.place, Place::Mapped(None), "a report gives no address");
        assert_eq!(share.ask(node, MapPurpose::Change, 0).read.place, Place::Fuse);
    }
}

/// Not even where nothing is shared any more: around a block that was, XFS moves what is written for some time.
#[test]
fn a_volume_whose_files_can_share_blocks_is_refused() {
    let Some(disk) = Disk::new(&["mkfs.xfs", "-q", "-f", "-m", "reflink=1"]) else { return };
    assert!(matches!(disk.volume(), Err(VolumeError::Reflink(..))));
}

#[test]
fn nothing_is_copied_behind_the_guest_s_back() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let [a, b] = [share.file("a", &[1; 100_000]), share.file("b", b"")];
        let [fh_in, fh_out] = [share.open_direct(a), share.open_direct(b)];
        let copy =
            CopyRange { fh_in, offset_in: 0, node_out: b, fh_out, offset_out: 0, len: 65_536, flags: 0 };
        assert_eq!(share.fs.copy_file_range(a, &copy), Err(Errno::OPNOTSUPP));
    }
}

#[test]
fn blocks_that_were_told_are_not_freed_before_the_last_close() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; 100_000]);
        share.file("b", b"");
        let fh = share.open_direct(node);
        let second = share.open(node, libc::O_RDONLY).unwrap();
        assert_eq!(share.size(node, 90_000), Ok(90_000), "nothing is told yet");
        let address = share.address(node, 0).unwrap();

        assert_eq!(share.size(node, 5), Err(Errno::BUSY));
        assert_eq!(share.open(node, libc::O_RDWR | libc::O_TRUNC), Err(Errno::BUSY));
        let create = |name| {
            let flags = bits(libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
            share.fs.create(Caller::default(), NodeId::ROOT, name, flags, &NewFile::default()).map(drop)
        };
        assert_eq!(create(name(c"a")), Err(Errno::BUSY));
        for mode in [
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::COLLAPSE_RANGE,
            FallocateFlags::INSERT_RANGE,
        ] {
            assert_eq!(share.fs.fallocate(node, fh, 0, 4096, mode.bits()), Err(Errno::OPNOTSUPP), "{mode:?}");
        }
        assert_eq!(share.fs.unlink(NodeId::ROOT, name(c"a")), Err(Errno::BUSY));
        // A write past the daemon would not take them away.
        let capabilities =
            || share.fs.setxattr(Caller::default(), node, c"security.capability", b"", 0, false);
        assert_eq!(capabilities(), Err(Errno::BUSY));
        let over = |flags| {
            let (old, new) = (name(c"b"), name(c"a"));
            share.fs.rename(Caller::default(), NodeId::ROOT, old, NodeId::ROOT, new, flags)
        };
        assert_eq!(over(0), Err(Errno::BUSY));
        // What frees nothing is done.
        assert_eq!(share.size(node, 100_001), Ok(100_001));
        assert_eq!(share.fs.fallocate(node, fh, 100_001, 4096, 0), Ok(()));
        assert_eq!(share.address(node, 0), Some(address));

        share.release(node, fh);
        assert_eq!(share.size(node, 5), Err(Errno::BUSY), "a reader may have it yet");
        share.release(node, second);
        assert_eq!(share.size(node, 5), Ok(5));
        assert_eq!(over(0), Ok(()));
        assert_eq!(share.fs.unlink(NodeId::ROOT, name(c"a")), Ok(()));
    }
}

#[test]
fn a_request_that_comes_before_a_release_waits_for_it() {
    let Some(disk) = Disk::ext4() else { return };
    let share = Share::new(disk);
    let node = share.file("a", &[1; 100_000]);
    let fh = share.open_direct(node);
    share.address(node, 0).unwrap();
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| share.size(node, 5));
        std::thread::sleep(std::time::Duration::from_millis(30));
        share.release(node, fh);
        assert_eq!(cut.join().unwrap(), Ok(5));
    });
}

#[test]
fn files_that_are_cached_or_have_no_name_are_not_told() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; 100_000]);
        let cached = share.open(node, libc::O_RDWR).unwrap();
        let direct = share.open_direct(node);
        assert_eq!(share.address(node, 0), None, "the first open made it cached");
        assert_eq!(share.size(node, 90_000), Ok(90_000));
        share.release(node, cached);
        share.release(node, direct);
        let direct = share.open_direct(node);
        share.fs.unlink(NodeId::ROOT, name(c"a")).unwrap();
        assert_eq!(share.address(node, 0), None);
        assert_eq!(share.read(node, direct, 0, 10), [1; 10]);
    }
}

#[test]
fn what_a_grant_is_for_follows_the_opens() {
    let Some(disk) = Disk::ext4() else { return };
    let share = Share::new(disk);
    let node = share.file("a", &[1; 100_000]);
    let reader = share.open(node, libc::O_RDONLY | libc::O_DIRECT).unwrap();
    let map = share.ask(node, MapPurpose::Write, 0);
    assert!(matches!(map.read.place, Place::Mapped(Some(_))) && map.write.place == Place::Fuse);
    let writer = share.open_direct(node);
    assert!(share.address(node, 0).is_some());
    share.release(node, writer);
    share.release(node, reader);
    // A write that would have to clear bits takes FUSE.
    run("chmod", &["u+s", share.path("a").to_str().unwrap()]).unwrap();
    share.open_direct(node);
    assert_eq!(share.ask(node, MapPurpose::Write, 0).write.place, Place::Fuse);
}

#[test]
fn a_share_elsewhere_is_refused() {
    let Some(mut disk) = Disk::ext4() else { return };
    assert!(disk.volume().is_ok());
    let device = disk.device.clone();
    let refusal = |share: &Path| Volume::open(Path::new(&device), share, b"a", false).unwrap_err();
    let elsewhere = refusal(Path::new("/var/tmp"));
    assert!(matches!(elsewhere, VolumeError::Elsewhere { .. } | VolumeError::FileSystem(..)), "{elsewhere}");
    assert!(matches!(refusal(Path::new("/proc")), VolumeError::FileSystem(..)));
    assert!(matches!(refusal(&disk.place.path().join("image")), VolumeError::Share { .. }));

    if let Some(other) = Disk::xfs() {
        let line = refusal(&other.root()).to_string();
        assert!(
            line.starts_with("--extent-source device: ") && line.contains("and not on /dev/loop"),
            "{line}"
        );
    }
    if let Some(btrfs) = Disk::new(&["mkfs.btrfs", "-q", "-f"]) {
        assert!(matches!(btrfs.volume(), Err(VolumeError::FileSystem(..))));
    }
    let root = disk.root();
    for directory in ["lower", "upper", "work", "below"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| root.join(name));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let over = disk.place.path().join("over");
    if disk.mount(&["-t", "overlay", "overlay", "-o", &options], &over) {
        assert!(matches!(refusal(&over), VolumeError::FileSystem(..)));
    } else {
        eprintln!("skipped: overlayfs is not to be had here");
    }
    assert!(disk.volume().is_ok(), "a mount beside the share");
    let below = root.join("below");
    assert!(disk.mount(&["--bind", lower.to_str().unwrap()], &below));
    assert!(matches!(disk.volume(), Err(VolumeError::Submount(path, _)) if path == below));
}

#[test]
fn a_device_is_one_daemon_s_at_a_time() {
    let Some(disk) = Disk::ext4() else { return };
    let (device, root) = (Path::new(&disk.device), disk.root());
    let guest = |read_only| Volume::open(device, &root, b"a", read_only);
    let window = |read_only| Volume::open_for_window(device, &root, read_only);
    let taken = |refused| matches!(refused, Err(VolumeError::Taken(..)));
    let first = guest(false).unwrap();
    assert!(taken(guest(false)) && taken(window(false)) && taken(window(true)));
    drop(first);
    let reader = window(true).unwrap();
    assert!(taken(window(false)), "beside one that reads");
    let other = guest(true).unwrap();
    drop((reader, other));
    window(false).expect("free again");
}

#[test]
fn the_device_around_the_volume_is_refused() {
    // Another block device with the same bytes, as a disk has those of its partitions.
    let Some(disk) = Disk::ext4() else { return };
    let around = run("losetup", &["--find", "--show", &disk.device]).expect("loop device");
    let found = Volume::open(Path::new(&around), &disk.root(), b"a", false);
    run("losetup", &["--detach", &around]);
    assert!(matches!(found, Err(VolumeError::Elsewhere { .. })), "{found:?}");
}

#[test]
fn a_volume_that_journals_data_is_refused() {
    let Some(mut disk) = Disk::ext4() else { return };
    let root = disk.root();
    run("umount", &[root.to_str().unwrap()]).unwrap();
    disk.mounted.clear();
    let device = disk.device.clone();
    assert!(disk.mount(&["-o", "data=journal", &device], &root));
    assert!(matches!(disk.volume(), Err(VolumeError::Journal(..))));
}

#[test]
fn a_file_that_journals_its_data_is_not_told() {
    let Some(disk) = Disk::ext4() else { return };
    let share = Share::new(disk);
    let node = share.file("a", &[1; 100_000]);
    if run("chattr", &["+j", share.path("a").to_str().unwrap()]).is_none() {
        return eprintln!("skipped: chattr +j is not to be had here");
    }
    share.open_direct(node);
    assert_eq!(share.address(node, 0), None);
}

#[test]
fn a_dirty_page_is_written_before_its_block_is_told() {
    for disk in Disk::kinds() {
        let share = Share::new(disk);
        let node = share.file("a", &[1; 8192]);
        let mut host = OpenOptions::new().append(true).open(share.path("a")).unwrap();
        host.write_all(&[2; 8192]).unwrap();
        let fh = share.open_direct(node);
        let address = share.address(node, 8192).unwrap();
        share.on_device(address, 3);
        host.sync_all().unwrap();
        assert_eq!(share.read(node, fh, 8192, 4096), [3; 4096]);
        assert_eq!(share.on_host("a")[8192..12_288], [3; 4096]);
        assert!(host.as_fd().try_clone_to_owned().is_ok());
    }
}
