//! Which system calls have no safe wrapper, and why is each made safely here?

#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Lets SIGINT and SIGTERM end the program in order: the daemons end, and the files go.
pub(super) fn catch_signals() {
    let handler: extern "C" fn(libc::c_int) = on_signal;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but store to an atomic, which is allowed in one.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether one of these signals has come.
pub(super) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// CPU time that a process has used, with its threads that have ended, to the nanosecond.
pub(super) fn process_cpu_time(pid: i32) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: the pointer is to a live clockid_t.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default()))
}

/// Queues a read or write of `len` bytes at `buffer` into a ring. Whether there was room.
///
/// # Safety
///
/// The buffer must stay valid, and be accessed by nobody else, until the request has completed.
pub(super) unsafe fn push(ring: &mut io_uring::IoUring, entry: &io_uring::squeue::Entry) -> bool {
    // SAFETY: the caller's promise is the one that is asked for here.
    unsafe { ring.submission().push(entry) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_used_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = process_cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while process_cpu_time(pid).unwrap() - before < Duration::from_millis(2) {
            sum = sum.wrapping_add(1);
        }
        // Process numbers end at 2^22.
        assert!(sum > 0 && process_cpu_time(1 << 23).is_err());
    }
}
