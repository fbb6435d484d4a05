//! Which block device does the share lie on, and may bytes be moved there past the file system?
//!
//! Where a guest reaches the bytes of files on the host's block device itself, or the window does for it, the addresses that the host's file
//! system tells have to be that device's, and nothing but the daemon may move the blocks. What can be told
//! of that from outside is checked here, before there is a guest: the rest is the operator's to keep
//! (`docs/extent-protocol.md`, "Source block" and "Source device").

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags, flock, fstat, fstatfs, fsync,
    ioctl_blksszget, major, minor, open, seek, statx,
};
use rustix::io::Errno;

use super::{DirectFile, Identity, sys};

/// The least block of a device, in bytes.
const SECTOR: u32 = 512;

/// How often a lock on the device is tried for, and how long is waited in between.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// `f_type` of ext2, ext3 and ext4, and of XFS. Both write in place, and what FIEMAP says are addresses of the one device
/// that the file system was mounted from.
const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;

/// Who moves bytes on the device past the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeUse {
    /// The guest, which has it as a disk: `--extent-source device`.
    Disk,
    /// The window: `--extent-source block`.
    Window,
}

/// The source's name.
impl fmt::Display for VolumeUse {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Disk => "device",
            Self::Window => "block",
        })
    }
}

/// Why bytes cannot be moved on a device past the share's file system.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It cannot be opened or asked.
    #[error("--device {}: cannot {step}", path.display())]
    Device {
        /// As the operator wrote it.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// It is something else.
    #[error("--device {}: is not a block device", .0.display())]
    NotABlockDevice(PathBuf),
    /// No disk of a guest can have such blocks.
    #[error("--device {}: has logical blocks of {block} bytes; at most 4096 can be announced", path.display())]
    Block {
        /// The device.
        path: PathBuf,
        /// Bytes.
        block: u32,
    },
    /// The share cannot be asked.
    #[error("--shared-dir {}: cannot {step}", path.display())]
    Share {
        /// As the operator wrote it.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A file system that moves blocks, or lies on several devices, or on none.
    #[error("--extent-source {}: {} is not on ext4 or XFS, whose blocks stay where they are", .1, .0.display())]
    FileSystem(PathBuf, VolumeUse),
    /// The share is elsewhere.
    #[error(
        "--extent-source {purpose}: {} is on device {}:{}, and not on {}, which is {}:{}",
        share.display(), found.0, found.1, path.display(), wanted.0, wanted.1
    )]
    Elsewhere {
        /// The share.
        share: PathBuf,
        /// Where it is.
        found: (u32, u32),
        /// The device.
        path: PathBuf,
        /// Its number.
        wanted: (u32, u32),
        /// What it is for.
        purpose: VolumeUse,
    },
    /// XFS reserves space for copies of shared blocks and of their neighbours, and keeps it for a while; what is written
    /// there in the meantime moves, although nothing may be shared any more, and nothing tells of it.
    #[error(
        "--extent-source {}: {} is on an XFS with reflink, which moves blocks; make it with mkfs.xfs -m reflink=0",
        .1, .0.display()
    )]
    Reflink(PathBuf, VolumeUse),
    /// Data goes through the journal.
    #[error(
        "--extent-source {}: {} is mounted with data=journal, which writes data a second time and later",
        .1, .0.display()
    )]
    Journal(PathBuf, VolumeUse),
    /// Another daemon, or a program that asks first, has the device.
    #[error(
        "--extent-source {}: another program has a lock on {} (flock), as a daemon with another share of it has",
        .1, .0.display()
    )]
    Taken(PathBuf, VolumeUse),
    /// Something is mounted below the share.
    #[error("--extent-source {}: {} is mounted below the share, which has to be one mount", .1, .0.display())]
    Submount(PathBuf, VolumeUse),
}

/// The device under the share. As long as this lives the device is locked (`flock(2)`): no other of these is on it at the same time, but
/// for those of read-only shares beside each other.
#[derive(Debug)]
pub struct Volume {
    identity: Identity,
    /// To be flushed, and with the lock.
    device: OwnedFd,
    /// To move bytes on, past its page cache.
    direct: Option<DirectFile>,
    number: (u32, u32),
}

impl Volume {
    /// Opens the device at `path`, which a guest has as a disk with this serial number, and makes sure that `share` lies on it, and on it
    /// alone. To be called where both paths are the operator's.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn open(path: &Path, share: &Path, serial: &[u8], read_only: bool) -> Result<Self, VolumeError> {
        Self::open_to(VolumeUse::Disk, path, share, serial, read_only)
    }

    /// The same for a window that moves bytes there itself.
    ///
    /// # Errors
    /// The rule that is broken; or the kernel lets nobody write to a device that is mounted.
    pub fn open_for_window(path: &Path, share: &Path, read_only: bool) -> Result<Self, VolumeError> {
        Self::open_to(VolumeUse::Window, path, share, b"", read_only)
    }

    fn open_to(
        purpose: VolumeUse,
        path: &Path,
        share: &Path,
        serial: &[u8],
        read_only: bool,
    ) -> Result<Self, VolumeError> {
        let failed = |step| move |source| VolumeError::Device { path: path.to_owned(), step, source };
        // Not to be waited for where it is a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = open(path, flags, Mode::empty()).map_err(failed("open it"))?;
        let stat = fstat(&device).map_err(failed("examine it"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(VolumeError::NotABlockDevice(path.to_owned()));
        }
        let number = (major(stat.st_rdev), minor(stat.st_rdev));
        let block = ioctl_blksszget(&device).map_err(failed("learn its logical block size"))?;
        if !(512..=4096).contains(&block) || !block.is_power_of_two() {
            return Err(VolumeError::Block { path: path.to_owned(), block });
        }
        let size = seek(&device, SeekFrom::End(0)).map_err(failed("learn its size"))?;
        check_share(share, path, number, purpose)?;
        match lock(&device, read_only) {
            Err(Errno::WOULDBLOCK) => return Err(VolumeError::Taken(path.to_owned(), purpose)),
            locked => locked.map_err(failed("lock it"))?,
        }
        let identity = Identity { size, ..Identity::new(serial, block, read_only) };
        let direct = match (purpose, read_only) {
            (VolumeUse::Disk, _) => None,
            (VolumeUse::Window, true) => Some(
                open_direct(path, OFlags::RDONLY, stat.st_rdev, block)
                    .map_err(failed("open it for direct I/O"))?,
            ),
            (VolumeUse::Window, false) => Some(
                open_direct(path, OFlags::RDWR, stat.st_rdev, block)
                    .map_err(failed("open it for writing"))?,
            ),
        };
        Ok(Self { identity, device, direct, number })
    }

    /// A file that stands in for a device.
    #[cfg(test)]
    pub(crate) fn pretend(file: OwnedFd) -> Self {
        let device = file.try_clone().unwrap();
        let direct = Some(DirectFile { file, memory_align: 1, offset_align: 512 });
        Self { identity: Identity::new(b"", 512, false), device, direct, number: (0, 0) }
    }

    /// By what the guest recognises its disk.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Major and minor number of the device.
    pub fn number(&self) -> (u32, u32) {
        self.number
    }

    /// Makes durable what was written to the device, by whichever way. Waits for storage.
    ///
    /// # Errors
    /// The device's.
    pub fn flush(&self) -> rustix::io::Result<()> {
        fsync(&self.device)
    }

    /// The device past its page cache, where it was opened for a window.
    pub fn direct(&self) -> Option<&DirectFile> {
        self.direct.as_ref()
    }
}

/// Locks the device against other daemons: all of them, or those that write. udev holds such a lock for a moment when it
/// looks at a device, which is waited for.
fn lock(device: &OwnedFd, read_only: bool) -> rustix::io::Result<()> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    for _ in 0..LOCK_ATTEMPTS {
        match flock(device, operation) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            ended => return ended,
        }
    }
    Err(Errno::WOULDBLOCK)
}

/// Opens the device past its page cache, if it is still that of this number.
fn open_direct(path: &Path, access: OFlags, number: u64, block: u32) -> rustix::io::Result<DirectFile> {
    let flags = access | OFlags::DIRECT | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    if fstat(&file)?.st_rdev != number {
        return Err(Errno::NXIO);
    }
    // What devices want of memory they say since Linux 6.11. Before, it is seldom more than a sector, and what is refused for it goes
    // another way.
    let stat = statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
    let memory_align = if told && stat.stx_dio_mem_align > 0 { stat.stx_dio_mem_align } else { SECTOR };
    Ok(DirectFile { file, memory_align, offset_align: block })
}

fn check_share(share: &Path, path: &Path, wanted: (u32, u32), purpose: VolumeUse) -> Result<(), VolumeError> {
    let failed = |step| move |source| VolumeError::Share { path: share.to_owned(), step, source };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(share, flags, Mode::empty()).map_err(failed("open it"))?;
    let kind = fstatfs(&root).map_err(failed("learn its file system"))?.f_type;
    if !matches!(u64::try_from(kind), Ok(EXT4 | XFS)) {
        return Err(VolumeError::FileSystem(share.to_owned(), purpose));
    }
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = statx(&root, c"", AtFlags::EMPTY_PATH, mask).map_err(failed("examine it"))?;
    let found = (stat.stx_dev_major, stat.stx_dev_minor);
    if found != wanted {
        let (share, path) = (share.to_owned(), path.to_owned());
        return Err(VolumeError::Elsewhere { share, found, path, wanted, purpose });
    }
    if u64::try_from(kind) == Ok(XFS) {
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let directory = open(share, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let shares = directory.and_then(|directory| sys::xfs_can_share(directory.as_fd()).map_err(errno));
        if shares.map_err(failed("learn what its file system can do"))? {
            return Err(VolumeError::Reflink(share.to_owned(), purpose));
        }
    }
    let mounts = mounts().map_err(|error| {
        failed("read /proc/self/mountinfo")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    let place = real_path(&root).map_err(failed("learn its path"))?;
    if mounts.iter().any(|mount| mount.id == stat.stx_mnt_id && mount.journals_data) {
        return Err(VolumeError::Journal(share.to_owned(), purpose));
    }
    match mounts.iter().find(|mount| mount.point != place && mount.point.starts_with(&place)) {
        Some(below) => Err(VolumeError::Submount(below.point.clone(), purpose)),
        None => Ok(()),
    }
}

fn real_path(root: impl AsFd) -> rustix::io::Result<PathBuf> {
    let link = rustix::fs::readlink(
        [b"/proc/self/fd/".as_slice(), rustix::path::DecInt::from_fd(root).as_bytes()].concat().as_slice(),
        Vec::new(),
    )?;
    Ok(PathBuf::from(OsStr::from_bytes(link.to_bytes())))
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct MountLine {
    id: u64,
    point: PathBuf,
    journals_data: bool,
}

fn mounts() -> io::Result<Vec<MountLine>> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut File::open("/proc/self/mountinfo")?, &mut text)?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(mount_line).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount_line(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.nth(3)?)));
    let options = fields.next_back()?;
    let journals_data = options.split(|byte| *byte == b',').any(|option| option == b"data=journal");
    Some(MountLine { id, point, journals_data })
}

/// Space, tab, newline and backslash are written as octal numbers.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = behind;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line = b"36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 - ext4 /dev/root rw,data=journal,x";
        let expected = MountLine { id: 36, point: "/a b".into(), journals_data: true };
        assert_eq!(mount_line(line), Some(expected));
        let line = b"36 35 98:0 / /m rw - xfs /dev/root rw,data=journalling";
        assert_eq!(mount_line(line), Some(MountLine { id: 36, point: "/m".into(), journals_data: false }));
        assert_eq!(mount_line(b""), None);
    }

    #[test]
    fn what_is_no_block_device_is_refused() {
        let open = |path: &str| Volume::open(Path::new(path), Path::new("/"), b"a", false).unwrap_err();
        assert!(matches!(open("/dev/null"), VolumeError::NotABlockDevice(_)));
        assert!(matches!(open("/"), VolumeError::NotABlockDevice(_)));
        let missing = open("/dev/no such device").to_string();
        assert_eq!(missing, "--device /dev/no such device: cannot open it");
    }
}
