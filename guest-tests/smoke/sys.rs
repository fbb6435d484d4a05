//! The system calls that have no safe wrapper: shared mappings, per-thread credentials, record locks, inode attributes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// A mapping of the start of a file; unmapped on drop.
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of the file from its start, readable and writable, shared or private.
    pub fn new(file: impl AsFd, len: usize, shared: bool) -> io::Result<Self> {
        let flags = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)
        }?;
        Ok(Self { base: base.cast(), len })
    }

    /// Copies out of the mapping. The pages must lie inside the file: beyond it the kernel raises SIGBUS, as it should.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        self.check(offset, into.len())?;
        // SAFETY: `check` proved that the range lies in the mapping; the slice is ours and cannot overlap it.
        unsafe { ptr::copy_nonoverlapping(self.base.add(offset), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies into the mapping.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> io::Result<()> {
        self.check(offset, from.len())?;
        // SAFETY: as in `read`, with the directions exchanged.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.base.add(offset), from.len()) };
        Ok(())
    }

    /// An eight-byte word of the mapping that several processes may change at once.
    pub fn word(&self, index: usize) -> io::Result<&AtomicU64> {
        let offset = index.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
        self.check(offset, 8)?;
        // SAFETY: in range by `check`, aligned because the mapping starts at a page; other processes use atomic operations too.
        Ok(unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) })
    }

    /// Writes the whole mapping to the start of a file, straight from its pages, and returns how much was written.
    pub fn write_to(&self, file: impl AsFd) -> io::Result<usize> {
        // SAFETY: the pages are mapped for as long as `self` lives, and only the kernel reads them here.
        let written = unsafe { libc::pwrite(file.as_fd().as_raw_fd(), self.base.cast(), self.len, 0) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// msync(MS_SYNC) of the whole mapping.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is exactly the mapping.
        Ok(unsafe { rustix::mm::msync(self.base.cast(), self.len, MsyncFlags::SYNC) }?)
    }

    fn check(&self, offset: usize, len: usize) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length and not used after drop. Unmapping a valid range cannot fail.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

/// Bytes in memory that start at a page boundary, as O_DIRECT asks for.
pub struct PageBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageBuffer {
    /// A zeroed buffer of `len` bytes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len.saturating_add(4096)];
        let start = bytes.as_ptr().align_offset(4096).min(4096);
        Self { bytes, start, len }
    }

    /// The bytes.
    pub fn get(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.len).unwrap_or_default()
    }

    /// The bytes, to be changed.
    pub fn get_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs the closure in a thread of its own that has become this user, with exactly these supplementary groups.
///
/// The raw system calls change the calling thread only, while the C library's functions of the same names change them all.
pub fn as_user<T: Send>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let become_user = || {
        // SAFETY: the pointer and the count describe the slice, which lives during the call.
        checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
        // SAFETY: plain integers.
        checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
        // SAFETY: plain integers.
        checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
    };
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || -> io::Result<T> {
            become_user()?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread of the other user panicked")))
    })
}

/// Kinds of a record lock, as F_SETLK takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// F_RDLCK
    Read,
    /// F_WRLCK
    Write,
    /// F_UNLCK
    Unlock,
}

/// Who owns a record lock: the process, or the open file description.
#[derive(Clone, Copy)]
pub enum LockOwner {
    /// F_SETLK and friends.
    Process,
    /// F_OFD_SETLK and friends.
    Description,
}

fn record(kind: LockKind, start: i64, len: i64) -> libc::flock {
    let kind = match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    // SAFETY: a C structure of integers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap_or_default();
    lock.l_whence = i16::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = start;
    lock.l_len = len;
    lock
}

/// Takes or drops a record lock, with or without waiting for it.
pub fn lock(
    file: impl AsFd,
    owner: LockOwner,
    kind: LockKind,
    range: (i64, i64),
    wait: bool,
) -> io::Result<()> {
    let command = match (owner, wait) {
        (LockOwner::Process, false) => libc::F_SETLK,
        (LockOwner::Process, true) => libc::F_SETLKW,
        (LockOwner::Description, false) => libc::F_OFD_SETLK,
        (LockOwner::Description, true) => libc::F_OFD_SETLKW,
    };
    let mut lock = record(kind, range.0, range.1);
    // SAFETY: the structure lives during the call.
    checked(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, &raw mut lock) }.into())
}

/// F_GETLK: the kind, start, length and owner's process id of the lock that a write lock of this range would meet.
pub fn conflicting_lock(file: impl AsFd, range: (i64, i64)) -> io::Result<Option<(LockKind, i64, i64, i32)>> {
    let mut lock = record(LockKind::Write, range.0, range.1);
    // SAFETY: the structure lives during the call.
    checked(unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_GETLK, &raw mut lock) }.into())?;
    Ok(match i32::from(lock.l_type) {
        libc::F_UNLCK => None,
        libc::F_RDLCK => Some((LockKind::Read, lock.l_start, lock.l_len, lock.l_pid)),
        _ => Some((LockKind::Write, lock.l_start, lock.l_len, lock.l_pid)),
    })
}

/// `struct fsxattr` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct FsXattr {
    /// FS_XFLAG_* bits.
    pub xflags: u32,
    /// Extent size hint in bytes.
    pub extsize: u32,
    /// Number of extents, read only.
    pub nextents: u32,
    /// Project id of quotas.
    pub projid: u32,
    /// Extent size hint for copy on write.
    pub cowextsize: u32,
    padding: [u8; 8],
}

/// FS_IOC_FSGETXATTR.
pub fn get_fsxattr(file: impl AsFd) -> io::Result<FsXattr> {
    const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
    let mut answer = FsXattr::default();
    // SAFETY: the request writes one `struct fsxattr`, which has this layout.
    checked(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut answer) }.into())?;
    Ok(answer)
}

/// FS_IOC_FSSETXATTR.
pub fn set_fsxattr(file: impl AsFd, value: FsXattr) -> io::Result<()> {
    const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;
    // SAFETY: the request reads one `struct fsxattr`, which has this layout.
    checked(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSSETXATTR, &raw const value) }.into())
}

/// truncate(2) by path: a SETATTR without a file handle.
pub fn truncate(path: &Path, len: i64) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a NUL-terminated string that lives during the call.
    checked(unsafe { libc::truncate(path.as_ptr(), len) }.into())
}

/// Sets the calling process's file mode creation mask and returns the old one. The mask belongs to the process, and the checks run one at a time.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: cannot fail and touches no memory.
    unsafe { libc::umask(mask) }
}

/// Raises the soft limit of open files to the hard one, and the hard one too where the kernel lets root do so. Returns the limit.
pub fn raise_open_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let both = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    if setrlimit(Resource::Nofile, both).is_err() {
        let now = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
