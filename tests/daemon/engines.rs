//! How data moves where io_uring is to be had and where it is not, and what the daemon says about it.

use std::process::Command;

use super::frontend::Daemon;
use super::frontend::daemon::without;
use super::{command, directory, exercise, refusal};

/// Makes io_uring_setup(2) fail with EPERM in the command, as the seccomp profiles of container engines do.
fn without_io_uring(command: Command) -> Command {
    without(command, &[(libc::SYS_io_uring_setup, libc::EPERM)])
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
