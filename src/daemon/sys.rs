//! Which system calls of the life cycle are unsafe to make, and why is each made safely here?

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use libc::{c_int, gid_t, sigset_t};

/// Size of the buffer for one group's record to start with, and to give up at: groups may have many members.
const GROUP_BUFFER: std::ops::RangeInclusive<usize> = 1024..=1 << 24;

/// A set of signals.
pub(super) struct Signals(sigset_t);

impl Signals {
    /// The set of the given signal numbers. Numbers that are no signals are left out.
    pub(super) fn new(signals: &[c_int]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset(3) initialises the whole set that it gets a valid pointer to; sigaddset(3) then works
        // on an initialised set and fails without effect for a wrong number.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            Self(set.assume_init())
        }
    }

    /// Blocks the signals for this thread and for threads and processes that it makes from now on.
    pub(super) fn block(&self) -> io::Result<()> {
        // SAFETY: the set is initialised, and a null pointer says that the old mask is not wanted.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const self.0, std::ptr::null_mut()) } {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Waits until one of the signals, which must be blocked, arrives, and takes it.
    pub(super) fn wait(&self) -> io::Result<c_int> {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call, and the set is initialised.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(signal),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Has children that end reported, whatever the process that started us had chosen.
pub(super) fn report_children() {
    // SAFETY: no handler is installed, and none of ours is replaced.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

/// Reads the time zone, once for the life of the process. To be called while there is one thread.
pub(super) fn read_time_zone() {
    // SAFETY: tzset(3) changes variables of the C library only, and no other thread reads them yet.
    unsafe { tzset() }
}

unsafe extern "C" {
    fn tzset();
}

/// Ends the process at once: no destructor, no exit handler.
pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Becomes the owner of a descriptor that the parent process left open for us, and makes it close-on-exec.
///
/// To be called once for a number, before the program opens anything that might get it.
pub(super) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with these commands takes and changes flags only, and fails for a number that is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and as the operator named it for this purpose nothing else in the program
    // owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The id of a group, or `None` if there is no group of that name.
pub(super) fn group_id(name: &str) -> io::Result<Option<gid_t>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut buffer = vec![0; *GROUP_BUFFER.start()];
    loop {
        let mut record = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, the length is that of the buffer, and the name ends with a NUL.
        let errno = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                record.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match errno {
            libc::ERANGE if buffer.len() < *GROUP_BUFFER.end() => buffer.resize(buffer.len() * 2, 0),
            // The manual allows these for "not found" besides 0.
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            // SAFETY: the call succeeded and `found` is not null, so the record is filled in.
            0 => return Ok(Some(unsafe { record.assume_init() }.gr_gid)),
            _ => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("no such group").unwrap(), None);
        assert_eq!(group_id("ro\0ot").unwrap(), None);
    }
}
