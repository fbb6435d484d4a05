//! Which system calls on open files does rustix lack, or call unsafe?
//!
//! Beside `sys.rs` the only `unsafe` of this room.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use rustix::io::Errno;

use crate::fuse::Result;

/// `struct fsxattr` of `<linux/fs.h>` in the host's byte order.
pub(super) const FSXATTR_SIZE: usize = 28;

/// Extents that one call tells at most.
pub(super) const FIEMAP_EXTENTS: usize = 128;

/// `struct fiemap` of `<linux/fiemap.h>` with room for some extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; FIEMAP_EXTENTS],
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// A range of a file that has space on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FiemapExtent {
    /// First byte in the file.
    pub(super) logical: u64,
    /// First byte on the device.
    pub(super) physical: u64,
    /// Bytes.
    pub(super) length: u64,
    /// `FIEMAP_EXTENT_*`.
    pub(super) flags: u32,
}

/// The number of a request as the C library takes it: an `unsigned long` with glibc, an `int` with musl.
#[allow(clippy::cast_lossless, clippy::cast_possible_wrap)]
const fn request(number: u32) -> libc::Ioctl {
    number as libc::Ioctl
}

const FS_IOC_FIEMAP: libc::Ioctl = request(0xc020_660b);
const FS_IOC_GETFLAGS: libc::Ioctl = request(0x8008_6601);
const FS_IOC_SETFLAGS: libc::Ioctl = request(0x4008_6602);
const FS_IOC_FSGETXATTR: libc::Ioctl = request(0x801c_581f);
const FS_IOC_FSSETXATTR: libc::Ioctl = request(0x401c_5820);

/// `close(2)`, with its outcome. The descriptor is gone in any case.
///
/// # Errors
/// What a network file system could not keep of what was written.
pub(super) fn close(file: OwnedFd) -> Result<()> {
    // SAFETY: the descriptor was owned, and is given up here.
    if unsafe { libc::close(file.into_raw_fd()) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `getdents64(2)`: fills `buffer` with whole records and returns their length, 0 at the end.
pub(super) fn getdents(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`.
    let answer = unsafe {
        libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    usize::try_from(answer).map_err(|_| last_errno())
}

/// `F_OFD_SETLK`: sets or clears a lock that belongs to the open file description.
///
/// # Errors
/// `EAGAIN`: another lock stands in the way.
pub(super) fn set_lock(file: BorrowedFd<'_>, lock: &libc::flock) -> Result<()> {
    // SAFETY: `lock` is a struct flock, which the kernel only reads.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, std::ptr::from_ref(lock)) };
    if answer < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `F_OFD_GETLK`: puts the lock that stands in the way of `lock` in its place, or `F_UNLCK`.
pub(super) fn get_lock(file: BorrowedFd<'_>, lock: &mut libc::flock) -> Result<()> {
    // SAFETY: `lock` is a struct flock, which the kernel reads and writes.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, std::ptr::from_mut(lock)) };
    if answer < 0 { Err(last_errno()) } else { Ok(()) }
}

/// `FS_IOC_GETFLAGS`. The kernel writes an `int`, whatever the size in the command says.
pub(super) fn get_flags(file: BorrowedFd<'_>) -> Result<u32> {
    let mut flags: u32 = 0;
    // SAFETY: the kernel writes four bytes to `flags`.
    ioctl_answer(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, &raw mut flags) })?;
    Ok(flags)
}

/// `FS_IOC_SETFLAGS`.
pub(super) fn set_flags(file: BorrowedFd<'_>, flags: u32) -> Result<()> {
    // SAFETY: the kernel reads four bytes of `flags`.
    ioctl_answer(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, &raw const flags) })
}

/// `FS_IOC_FSGETXATTR`.
pub(super) fn get_fsxattr(file: BorrowedFd<'_>) -> Result<[u8; FSXATTR_SIZE]> {
    let mut attr = [0; FSXATTR_SIZE];
    // SAFETY: the kernel writes the 28 bytes of a struct fsxattr, with no demand on alignment
    // (`copy_to_user`).
    ioctl_answer(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, attr.as_mut_ptr()) })?;
    Ok(attr)
}

/// `FS_IOC_FSSETXATTR`.
pub(super) fn set_fsxattr(file: BorrowedFd<'_>, attr: &[u8; FSXATTR_SIZE]) -> Result<()> {
    // SAFETY: the kernel reads the 28 bytes of a struct fsxattr, with no demand on alignment.
    ioctl_answer(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, attr.as_ptr()) })
}

/// `FS_IOC_FIEMAP`: extents that have a byte in the range, in their order in the file: as many as there are, or
/// [`FIEMAP_EXTENTS`]. With `sync` the file is written to the device first.
///
/// # Errors
/// `EOPNOTSUPP`: the host's file system does not know.
pub(super) fn fiemap(file: BorrowedFd<'_>, start: u64, length: u64, sync: bool) -> Result<Vec<FiemapExtent>> {
    fiemap_some(file, start, length, sync, FIEMAP_EXTENTS)
}

/// The first of them.
///
/// # Errors
/// As [`fiemap`].
pub(super) fn fiemap_first(file: BorrowedFd<'_>, start: u64, length: u64) -> Result<Option<FiemapExtent>> {
    fiemap_some(file, start, length, false, 1).map(|extents| extents.first().copied())
}

fn fiemap_some(
    file: BorrowedFd<'_>,
    start: u64,
    length: u64,
    sync: bool,
    most: usize,
) -> Result<Vec<FiemapExtent>> {
    let mut map = Fiemap {
        start,
        length,
        // FIEMAP_FLAG_SYNC.
        flags: u32::from(sync),
        mapped_extents: 0,
        extent_count: u32::try_from(most.min(FIEMAP_EXTENTS)).unwrap_or(1),
        reserved: 0,
        extents: [RawExtent::default(); FIEMAP_EXTENTS],
    };
    // SAFETY: the kernel reads the 32 bytes of a struct fiemap, and writes them and at most `extent_count` times the
    // 56 bytes of a struct fiemap_extent behind them, for which there is room.
    ioctl_answer(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) })?;
    let count = usize::try_from(map.mapped_extents).unwrap_or(0);
    let extent = |raw: &RawExtent| FiemapExtent {
        logical: raw.logical,
        physical: raw.physical,
        length: raw.length,
        flags: raw.flags,
    };
    Ok(map.extents.iter().take(count).map(extent).collect())
}

fn ioctl_answer(answer: libc::c_int) -> Result<()> {
    if answer < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
