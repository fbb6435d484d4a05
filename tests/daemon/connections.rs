//! Front-ends that come and go: in the middle of a handshake, and one after the other.

use std::os::unix::net::UnixStream;

pub(crate) use super::frontend::daemon::belongings;
use super::frontend::handshake::{STEPS, handshake};
use super::{Daemon, assert_no_panic, eventually, exercise, modes, signals, wait_until_ready};

/// Threads for slow operations without `--thread-pool-size`.
const POOL_LIMIT: usize = 8;

#[test]
fn after_a_handshake_that_broke_off_the_next_guest_is_served() {
    for sandbox in modes() {
        let daemon = Daemon::start(&["--sandbox", sandbox, "--keep-listening"]);
        for steps in 0..=STEPS {
            handshake(&daemon.socket(), steps);
            wait_until_ready(&daemon, 2 * steps + 2);
            drop(exercise(&daemon, &format!("file-{steps}")));
            wait_until_ready(&daemon, 2 * steps + 3);
        }
        assert_no_panic(&daemon.log());
    }
}

#[test]
fn a_handshake_that_broke_off_ends_a_daemon_that_does_not_keep_listening() {
    for sandbox in modes() {
        for steps in 0..=STEPS {
            let mut daemon = Daemon::start(&["--sandbox", sandbox]);
            handshake(&daemon.socket(), steps);
            let (code, log) = daemon.wait_end();
            assert_eq!(code, Some(0), "{steps} steps:\n{log}");
            assert_no_panic(&log);
            assert!(!daemon.socket().exists());
        }
    }
}

#[test]
fn guests_in_a_row_leave_nothing_behind() {
    for sandbox in modes() {
        let daemon = Daemon::start(&["--sandbox", sandbox, "--keep-listening", "--posix-lock"]);
        let mut after_first = None;
        for round in 0..5 {
            let mut client = exercise(&daemon, &format!("file-{round}"));
            // Open files, known nodes, a lock that is waited for, data under way.
            signals::keep_busy(&mut client);
            drop(client);
            wait_until_ready(&daemon, round + 2);
            // It sleeps up to 100 ms before it sees that nobody waits any more.
            eventually("nobody waits for a lock", || !belongings(&daemon).1.contains_key("lock-waiter"));
            let (descriptors, mut threads, guest_memory) = belongings(&daemon);
            assert_eq!(guest_memory, 0, "{sandbox}, round {round}: guest memory is still mapped");
            // The pool for slow operations grows when there is work, up to its bound.
            let pool = threads.remove("offload").unwrap_or(0);
            assert!(pool <= POOL_LIMIT, "{sandbox}, round {round}: {pool} threads in the pool");
            let left = (descriptors, threads);
            assert_eq!(after_first.get_or_insert(left.clone()), &left, "{sandbox}, round {round}");
        }
        assert_no_panic(&daemon.log());
    }
}

/// A second front-end waits for its turn.
#[test]
fn one_front_end_is_served_at_a_time() {
    let daemon = Daemon::start(&["--sandbox", "none", "--keep-listening"]);
    let first = exercise(&daemon, "first");
    let waiting = UnixStream::connect(daemon.socket()).expect("the backlog takes it");
    drop(waiting);
    drop(first);
    wait_until_ready(&daemon, 3);
    exercise(&daemon, "second");
}
