//! A share on a file system of its own, in a file behind a loop device. Where this process may not make them, or a program
//! is missing, the test says so and ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{pread, pwrite};

use super::files::bits;
use crate::extents::{Volume, VolumeError};
use crate::fs::{Config, Passthrough};
use crate::fuse::abi::FUSE_POSIX_ACL;
use crate::fuse::*;

const MIB: u64 = 1 << 20;
pub(super) const SIZE: u64 = 400 * MIB;

/// Makes an XFS whose blocks stay where they are.
const XFS: [&str; 5] = ["mkfs.xfs", "-q", "-f", "-m", "reflink=0,rmapbt=0"];

/// A program's first line of output; none where it fails.
pub(super) fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// A file system of its own.
pub(super) struct Disk {
    pub(super) place: tempfile::TempDir,
    pub(super) device: String,
    /// Bytes of the device's logical block.
    pub(super) sector: u32,
    pub(super) mounted: Vec<PathBuf>,
}

impl Disk {
    pub(super) fn new(make: &[&str]) -> Option<Self> {
        Self::with_sectors(512, make)
    }

    fn with_sectors(sector: u32, make: &[&str]) -> Option<Self> {
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = place.path().join("image");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let (sectors, path) = (sector.to_string(), image.to_str().unwrap());
        let made = run("losetup", &["--find", "--show", "--sector-size", &sectors, path]);
        let made = made.map(|device| {
            let mut disk = Self { place, device, sector, mounted: Vec::new() };
            let (program, options) = make.split_first().unwrap();
            let args: Vec<&str> = options.iter().copied().chain([disk.device.as_str()]).collect();
            run(program, &args)?;
            let root = disk.root();
            fs::create_dir(&root).unwrap();
            run("mount", &[&disk.device, root.to_str().unwrap()])?;
            disk.mounted.push(root);
            Some(disk)
        });
        let made = made.flatten();
        if made.is_none() {
            eprintln!("skipped: {make:?} on a loop device is not to be had here");
        }
        made
    }

    pub(super) fn ext4() -> Option<Self> {
        Self::new(&["mkfs.ext4", "-q", "-F"])
    }

    pub(super) fn xfs() -> Option<Self> {
        Self::new(&XFS)
    }

    /// The kinds that may be shared, with small blocks and with large sectors too.
    pub(super) fn kinds() -> Vec<Self> {
        let small = Self::new(&["mkfs.ext4", "-q", "-F", "-b", "1024"]);
        let large = Self::with_sectors(4096, &XFS);
        [Self::ext4(), Self::xfs(), small, large].into_iter().flatten().collect()
    }

    pub(super) fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    pub(super) fn mount(&mut self, args: &[&str], on: &Path) -> bool {
        fs::create_dir_all(on).unwrap();
        let args: Vec<&str> = args.iter().copied().chain([on.to_str().unwrap()]).collect();
        let mounted = run("mount", &args).is_some();
        if mounted {
            self.mounted.push(on.to_owned());
        }
        mounted
    }

    pub(super) fn volume(&self) -> std::result::Result<Volume, VolumeError> {
        Volume::open(Path::new(&self.device), &self.root(), b"a-disk", false)
    }

    pub(super) fn block(&self) -> File {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&self.device).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for path in self.mounted.iter().rev() {
            // Lazily: a process that another test is just starting may have copies of descriptors.
            run("umount", &["--lazy", path.to_str().unwrap()]);
        }
        run("losetup", &["--detach", &self.device]);
    }
}

/// A share on such a disk.
pub(super) struct DiskShare {
    pub(super) fs: Passthrough,
    pub(super) disk: Disk,
}

impl DiskShare {
    /// Mounted by a guest, where `equip` added what it has beside the share.
    pub(super) fn new(
        disk: Disk,
        config: Config,
        equip: impl FnOnce(&Disk, Passthrough) -> Passthrough,
    ) -> Self {
        let directory = |path: &Path| open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let root = directory(&disk.root());
        let fs = Passthrough::new(config, root, directory(Path::new("/proc/self/fd"))).unwrap();
        let fs = equip(&disk, fs);
        fs.init(!FUSE_POSIX_ACL).unwrap();
        Self { fs, disk }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.disk.root().join(name)
    }

    pub(super) fn look_up(&self, name: &str) -> NodeId {
        let name = std::ffi::CString::new(name).unwrap();
        self.fs.lookup(Caller::default(), NodeId::ROOT, Name::new(&name).unwrap()).unwrap().node
    }

    pub(super) fn file(&self, name: &str, contents: &[u8]) -> NodeId {
        fs::write(self.path(name), contents).unwrap();
        self.look_up(name)
    }

    pub(super) fn open(&self, node: NodeId, flags: i32) -> Result<Fh> {
        self.fs.open(Caller::default(), node, bits(flags), false).map(|opened| opened.fh)
    }

    pub(super) fn open_direct(&self, node: NodeId) -> Fh {
        self.open(node, libc::O_RDWR | libc::O_DIRECT).unwrap()
    }

    pub(super) fn release(&self, node: NodeId, fh: Fh) {
        self.fs.release(node, &Release { fh, lock_owner: None, flock_unlock: false }).unwrap();
    }

    /// As the ring does it.
    pub(super) fn write(
        &self,
        node: NodeId,
        fh: Fh,
        offset: u64,
        bytes: &[u8],
        flags: i32,
    ) -> io::Result<usize> {
        let transfer = self.fs.write(Caller::default(), node, fh, &request(offset, bytes.len(), flags))?;
        let moved = pwrite(transfer.file.buffered(), bytes, transfer.offset).map_err(io::Error::from);
        transfer.file.settle(moved)
    }

    pub(super) fn read(&self, node: NodeId, fh: Fh, offset: u64, len: usize) -> Vec<u8> {
        let transfer = self.fs.read(node, fh, &request(offset, len, 0)).unwrap();
        let mut bytes = vec![0; len];
        let read = pread(transfer.file.buffered(), &mut bytes, transfer.offset).unwrap();
        bytes.truncate(transfer.file.settle(Ok(read)).unwrap());
        bytes
    }
}

pub(super) fn request(offset: u64, len: usize, flags: i32) -> IoRequest {
    let size = u32::try_from(len).unwrap();
    IoRequest { offset, size, open_flags: bits(flags), from_cache: false, kill_suidgid: false }
}
