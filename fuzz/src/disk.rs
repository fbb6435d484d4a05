//! Which block devices does a guest get beside the share?
//!
//! Loop devices with a file system each, that this process alone has mounted: they are gone with it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::mount::{MountFlags, mount};

use crate::ground::Ground;

/// How file systems are made, and how large. The two kinds that may be shared; the first without a journal, which would
/// make each sync dearer.
const KINDS: [(&str, u64, &[&str]); 2] = [
    ("ext4", 64 << 20, &["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0"]),
    ("xfs", 320 << 20, &["mkfs.xfs", "-q", "-f", "-m", "reflink=0,rmapbt=0"]),
];

/// A file system on a device of its own, with a share in it.
#[derive(Debug)]
pub struct Disk {
    /// The device.
    pub device: PathBuf,
    /// What is in its file system.
    pub ground: Ground,
}

impl Disk {
    /// Those that can be had, made at the first call, which must come from the process's first thread.
    pub fn all() -> &'static [Self] {
        static DISKS: OnceLock<Vec<Disk>> = OnceLock::new();
        DISKS.get_or_init(|| {
            let place = Ground::get().root().join("disks");
            fs::create_dir(&place).expect("a folder");
            let options = c"size=600m,mode=755";
            if mount("disks", &place, "tmpfs", MountFlags::empty(), Some(options)).is_err() {
                return Vec::new();
            }
            KINDS.iter().filter_map(|(name, size, make)| Self::new(&place, name, *size, make)).collect()
        })
    }

    fn new(place: &Path, name: &str, size: u64, make: &[&str]) -> Option<Self> {
        let (image, root) = (place.join(format!("{name}.image")), place.join(name));
        File::create(&image).and_then(|file| file.set_len(size)).expect("an image");
        fs::create_dir(&root).expect("a folder");
        let (program, options) = make.split_first()?;
        succeeds(Command::new(program).args(options).arg(&image))?;
        // The device goes with the mount.
        succeeds(Command::new("mount").args(["-o", "loop,strictatime"]).arg(&image).arg(&root))?;
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == root.to_str())?;
        let disk = Self { device: line.split(' ').next()?.into(), ground: Ground::at(root) };
        let inner = disk.below().join("inner \\ of\nall");
        fs::create_dir_all(&inner).expect("a folder");
        mount("below", &inner, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        Some(disk)
    }

    /// A directory below which something else is mounted.
    pub fn below(&self) -> PathBuf {
        self.ground.root().join("below")
    }
}

/// `struct fiemap` of `<linux/fiemap.h>`, with room for one extent.
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    extent_length: u64,
    extent_reserved: [u64; 2],
    extent_flags: u32,
    rest: [u32; 3],
}

/// Where a byte of a file is on its device; none where it is nowhere, or not yet.
pub fn address(file: &Path, offset: u64) -> Option<u64> {
    address_of(File::open(file).ok()?.as_fd(), offset)
}

/// The same of a file that is open; none where nothing was ever written, too.
pub fn address_of(file: BorrowedFd<'_>, offset: u64) -> Option<u64> {
    const FIEMAP: libc::c_ulong = 0xc020_660b;
    const UNWRITTEN: u32 = 0x800;
    let mut map = Fiemap { start: offset, length: 1, count: 1, ..Fiemap::default() };
    // SAFETY: the kernel writes the header and one extent, for which there is room.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut map) };
    let inside = answer == 0
        && map.mapped == 1
        && map.extent_flags & UNWRITTEN == 0
        && (map.logical..map.logical + map.extent_length).contains(&offset);
    inside.then(|| map.physical + (offset - map.logical))
}

fn succeeds(command: &mut Command) -> Option<()> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().ok()?.success().then_some(())
}
