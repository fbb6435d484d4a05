//! Front-ends that send what no front-end should: their connection may end, the daemon goes on or ends with one line.

use super::connections::belongings;
use super::frontend::arsenal::{Arsenal, strike};
use super::{Daemon, assert_no_panic, eventually, exercise, modes, wait_until_ready};

#[test]
fn a_daemon_that_keeps_listening_serves_the_next_guest() {
    for sandbox in modes() {
        let mut daemon = Daemon::start(&["--sandbox", sandbox, "--keep-listening"]);
        let arsenal = Arsenal::new();
        let attacks = arsenal.attacks();
        assert!(attacks.len() > 100);
        drop(exercise(&daemon, "before"));
        wait_until_ready(&daemon, 2);
        let before = belongings(&daemon);
        for (round, (name, attack)) in attacks.iter().enumerate() {
            strike(&daemon.socket(), attack);
            wait_until_ready(&daemon, round + 3);
            assert!(daemon.is_running(), "{name}");
            // One that was joined is still listed for a moment.
            eventually("its threads have gone", || belongings(&daemon).1 == before.1);
            assert_eq!(belongings(&daemon), before, "{sandbox}, {name}");
        }
        assert_no_panic(&daemon.log());
        exercise(&daemon, "after");
    }
}

#[test]
fn another_daemon_ends_with_one_line_at_most() {
    let arsenal = Arsenal::new();
    // Every seventh is enough to see that all end in the same two ways.
    for (name, attack) in arsenal.attacks().iter().step_by(7) {
        let mut daemon = Daemon::start(&["--sandbox", "none"]);
        strike(&daemon.socket(), attack);
        let (code, log) = daemon.wait_end();
        assert_no_panic(&log);
        let lines = log.lines().filter(|line| !line.starts_with('[')).count();
        match code {
            Some(0) => assert_eq!(lines, 0, "{name}:\n{log}"),
            Some(1) => assert_eq!(lines, 1, "{name}:\n{log}"),
            other => panic!("{name}: {other:?}\n{log}"),
        }
        assert!(!daemon.socket().exists(), "{name}");
    }
}
