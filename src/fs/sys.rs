//! Which system calls does rustix lack, or call unsafe?
//!
//! The only `unsafe` of this room.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use crate::fuse::Result;

/// `MAX_HANDLE_SZ` of `<fcntl.h>`: no file system makes longer handles.
pub(super) const MAX_HANDLE_SIZE: usize = 128;

/// `struct file_handle`, with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE_SIZE],
}

/// `name_to_handle_at(2)` without following a symbolic link; an empty name means `dir` itself. Calls
/// `take` with the type and the bytes of the handle.
///
/// # Errors
/// `EOPNOTSUPP` or `EOVERFLOW` where the file system has no handles.
pub(super) fn name_to_handle_at<T>(
    dir: BorrowedFd<'_>,
    name: &CStr,
    take: impl FnOnce(i32, &[u8]) -> T,
) -> Result<T> {
    let mut raw = RawHandle { handle_bytes: 0, handle_type: 0, f_handle: [0; MAX_HANDLE_SIZE] };
    raw.handle_bytes = u32::try_from(MAX_HANDLE_SIZE).map_err(|_| Errno::OVERFLOW)?;
    let mut mount_id: libc::c_int = 0;
    // SAFETY: `name` ends with a NUL; `raw` has the layout of struct file_handle with `handle_bytes`
    // bytes behind its head; `mount_id` may be written. The kernel keeps none of the pointers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if answer < 0 {
        return Err(last_errno());
    }
    let len = usize::try_from(raw.handle_bytes).map_err(|_| Errno::OVERFLOW)?;
    Ok(take(raw.handle_type, raw.f_handle.get(..len).ok_or(Errno::OVERFLOW)?))
}

/// `open_by_handle_at(2)`; `mount` is any file of the mount, not opened with `O_PATH`.
///
/// # Errors
/// `ESTALE`: there is no such file any more. `EPERM`: `CAP_DAC_READ_SEARCH` is missing.
pub(super) fn open_by_handle_at(
    mount: BorrowedFd<'_>,
    handle_type: i32,
    bytes: &[u8],
    flags: OFlags,
) -> Result<OwnedFd> {
    let mut raw = RawHandle { handle_bytes: 0, handle_type, f_handle: [0; MAX_HANDLE_SIZE] };
    raw.handle_bytes = u32::try_from(bytes.len()).map_err(|_| Errno::OVERFLOW)?;
    raw.f_handle.get_mut(..bytes.len()).ok_or(Errno::OVERFLOW)?.copy_from_slice(bytes);
    let flags = libc::c_int::from_ne_bytes(flags.bits().to_ne_bytes());
    // SAFETY: `raw` has the layout of struct file_handle with `handle_bytes` bytes behind its head; the
    // kernel only reads it.
    let answer =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut raw, flags) };
    let fd = RawFd::try_from(answer).map_err(|_| Errno::BADF)?;
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just opened `fd` for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `faccessat2(2)` with `AT_EACCESS`: may this thread, as it is now, do `mask` to the file?
pub(super) fn may_access(dir: BorrowedFd<'_>, name: &CStr, mask: u32) -> Result<()> {
    // SAFETY: `name` ends with a NUL and is only read.
    let answer = unsafe {
        libc::syscall(libc::SYS_faccessat2, dir.as_raw_fd(), name.as_ptr(), mask, libc::AT_EACCESS)
    };
    if answer < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Gives the calling thread a working directory, root and umask of its own (`CLONE_FS`).
pub(super) fn unshare_fs() -> Result<()> {
    // SAFETY: `unshare(2)` is unsafe in rustix because of `CLONE_FILES`, which would take descriptors
    // away from other threads; `CLONE_FS` touches no descriptor.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
