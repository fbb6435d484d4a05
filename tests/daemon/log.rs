//! The lines on stderr that launchers scan for.

use std::os::unix::net::UnixStream;
use std::process::Command;

use super::{CONNECTED, DISCONNECTED, Daemon, WAITING, assert_no_panic, command, directory, modes, mounted};

/// Starts a daemon, lets a guest come and go, and returns the whole of its stderr.
fn session(options: &[&str], environment: &[(&str, &str)]) -> String {
    let place = directory();
    let mut command: Command = command(place.path(), options);
    command.env_remove("RUST_LOG").envs(environment.iter().copied());
    let mut daemon = Daemon::launch(place, command);
    // The log may be silent, and connecting too early fails.
    super::eventually("it listens", || UnixStream::connect(daemon.socket()).is_ok());
    let (code, log) = daemon.wait_end();
    assert_eq!(code, Some(0), "{log}");
    assert_no_panic(&log);
    log
}

/// The texts of the launchers' lines, in the order in which they appear, each as the whole text of a line.
fn scanned(log: &str) -> Vec<&str> {
    let texts = log.lines().filter_map(|line| line.split_once("] ").map(|(_, text)| text));
    texts.filter(|text| [WAITING, CONNECTED, DISCONNECTED].contains(text)).collect()
}

#[test]
fn the_lines_that_launchers_scan_for_are_there() {
    let all = [WAITING, CONNECTED, DISCONNECTED];
    for sandbox in modes() {
        let plain = ["--sandbox", sandbox];
        assert_eq!(scanned(&session(&plain, &[])), all, "{sandbox}");
        for level in ["info", "debug", "trace"] {
            let options = ["--sandbox", sandbox, "--log-level", level];
            assert_eq!(scanned(&session(&options, &[])), all, "{sandbox} {level}");
            assert_eq!(scanned(&session(&plain, &[("RUST_LOG", level)])), all, "{sandbox} RUST_LOG={level}");
        }
    }
}

#[test]
fn a_wrong_rust_log_changes_nothing() {
    let log = session(&["--sandbox", "none"], &[("RUST_LOG", "=,=nonsense=[")]);
    assert_eq!(scanned(&log), [WAITING, CONNECTED, DISCONNECTED], "{log}");
}

#[test]
fn off_prints_nothing() {
    for sandbox in modes() {
        assert_eq!(session(&["--sandbox", sandbox, "--log-level", "off"], &[]), "");
        assert_eq!(session(&["--sandbox", sandbox], &[("RUST_LOG", "off")]), "");
    }
}

#[test]
fn lines_carry_time_and_level() {
    let log = session(&["--sandbox", "none"], &[]);
    for line in log.lines() {
        let (head, _) = line.strip_prefix('[').and_then(|line| line.split_once("] ")).expect(line);
        let words: Vec<_> = head.split_whitespace().collect();
        assert_eq!(words.len(), 3, "{line}");
        assert!(words[0].ends_with('Z') && words[0].contains('T'), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&words[1]), "{line}");
    }
}

/// The lines come one by one and at once, not when a buffer is full.
#[test]
fn each_line_is_written_when_it_is_true() {
    let mut daemon = Daemon::start(&["--sandbox", "none"]);
    assert!(!daemon.log().contains(CONNECTED));
    let client = mounted(&daemon);
    daemon.wait_for_log(CONNECTED);
    assert!(!daemon.log().contains(DISCONNECTED) && daemon.is_running());
    drop(client);
    daemon.wait_for_log(DISCONNECTED);
}

/// Kata passes it always, and there may be no system log.
#[test]
fn with_syslog_it_serves_too() {
    for sandbox in modes() {
        let place = directory();
        let command = command(place.path(), &["--sandbox", sandbox, "--syslog"]);
        let mut daemon = Daemon::launch(place, command);
        super::eventually("it listens", || UnixStream::connect(daemon.socket()).is_ok());
        assert_eq!(daemon.wait_end().0, Some(0), "{sandbox}");
    }
}
