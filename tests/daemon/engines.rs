//! How data moves where io_uring is to be had and where it is not, and what the daemon says about it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::frontend::Daemon;
use super::{command, directory, exercise, refusal};

/// Makes io_uring_setup(2) fail with EPERM in the command, as the seccomp profiles of container engines do.
fn without_io_uring(mut command: Command) -> Command {
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the call is the first field of `struct seccomp_data`.
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, EPERM),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: two calls that change nothing but this process; the filter is only read.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: `install` makes system calls only, and allocates nothing between fork and exec.
    unsafe { command.pre_exec(install) };
    command
}

#[test]
fn the_engine_is_reported_and_serves() {
    for (options, says) in [
        (&[][..], "io_uring moves data"),
        (&["--engine", "io_uring"], "io_uring moves data"),
        (&["--engine", "threads"], "Threads move data"),
        (&["--engine", "threads", "--poll-us", "100", "--ring-affinity", "0"], "Threads move data"),
        (&["--poll-us", "100", "--ring-affinity", "0"], "io_uring moves data"),
    ] {
        let daemon = Daemon::start(&[&["--sandbox", "none"], options].concat());
        daemon.wait_for_log(says);
        exercise(&daemon, "file");
    }
}

#[test]
fn threads_serve_where_io_uring_is_forbidden() {
    let place = directory();
    let line = without_io_uring(command(place.path(), &["--sandbox", "none"]));
    let daemon = Daemon::launch(place, line);
    daemon.wait_for_log("io_uring is not available (Operation not permitted");
    daemon.wait_for_log(super::WAITING);
    exercise(&daemon, "file");
}

#[test]
fn io_uring_that_is_demanded_and_forbidden_is_refused() {
    let place = directory();
    let line =
        refusal(without_io_uring(command(place.path(), &["--sandbox", "none", "--engine", "io_uring"])));
    assert!(line.starts_with("--engine io_uring: "), "{line}");
    assert!(line.ends_with("Operation not permitted (os error 1)"), "{line}");
    assert!(!place.path().join("socket").exists(), "the socket is left");
}
