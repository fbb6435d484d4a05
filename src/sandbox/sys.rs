//! Which system calls of the sandbox are unsafe to make, and why is each made safely here?

#![allow(unsafe_code)]

use std::io;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Which side of a [`fork`] this process is.
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the id of the new one as this side sees it.
    Parent(Pid),
}

/// Makes a second process that goes on from here.
///
/// The caller must be the only thread of its process: a lock that another thread holds would stay locked for
/// ever in the child.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: fork(2) takes no arguments and touches no memory of ours. Its hazard, locks held by other threads,
    // does not arise: the daemon starts no thread before the sandbox is entered (see the module `sandbox`).
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => {
            Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        }
    }
}

/// Leaves the namespaces in `namespaces` for new ones.
pub(super) fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: the condition concerns the table of descriptors (CLONE_FILES), which no caller unshares.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Ends the process at once: no destructor, no exit handler.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// The version of Landlock that the kernel has (`LANDLOCK_CREATE_RULESET_VERSION`).
///
/// # Errors
///
/// `ENOSYS`: none is built in. `EOPNOTSUPP`: it is off since boot. `EPERM`, mostly: a seccomp filter.
pub(super) fn landlock_version() -> io::Result<i32> {
    const VERSION: libc::c_uint = 1;
    landlock_query(VERSION)
}

/// Whether the kernel says that this fault of its Landlock is mended (`LANDLOCK_CREATE_RULESET_ERRATA`, Linux 6.15); no kernel
/// before says so.
pub(super) fn landlock_mended(erratum: u32) -> bool {
    const ERRATA: libc::c_uint = 2;
    landlock_query(ERRATA).is_ok_and(|mended| mended & (1 << (erratum - 1)) != 0)
}

fn landlock_query(flag: libc::c_uint) -> io::Result<i32> {
    let none: *const u8 = std::ptr::null();
    // SAFETY: with one of these flags the call reads no memory.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, flag) };
    match i32::try_from(answer) {
        Ok(answer @ 0..) => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
