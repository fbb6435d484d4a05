//! What launchers and operators rely on: the real program, its socket, its exit codes, its log, its end.
//!
//! This file has what the others share: programs that start, and programs that refuse to.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod block;
mod connections;
mod device;
mod engines;
mod extents;
#[path = "../frontend/mod.rs"]
mod frontend;
mod hostile;
mod identity;
mod listening;
mod log;
mod older;
mod refusals;
mod sandbox;
mod shrunk;
mod signals;
mod window;
mod window_attack;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use frontend::fuse::{Client, ROOT};
use frontend::{Daemon, Guest, GuestConfig};
use tempfile::TempDir;

/// The lines that launchers scan for.
const WAITING: &str = frontend::daemon::LISTENING;
const CONNECTED: &str = "Client connected, servicing requests";
const DISCONNECTED: &str = "Client disconnected, shutting down";

const EXTENTFSD: &str = env!("CARGO_BIN_EXE_extentfsd");

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that needs root can run; says so if not.
fn needs_root(what: &str) -> bool {
    if !is_root() {
        eprintln!("skipped: {what} needs root");
    }
    is_root()
}

/// The values of `--sandbox` that can be used here.
fn modes() -> &'static [&'static str] {
    if needs_root("--sandbox chroot and namespace") { &["none", "chroot", "namespace"] } else { &["none"] }
}

/// A directory with an empty `share`.
fn directory() -> TempDir {
    let directory = TempDir::new().expect("temporary directory");
    std::fs::create_dir(directory.path().join("share")).expect("share");
    directory
}

/// A command that serves `share` of a directory on its `socket`, without sandbox unless the options say otherwise.
fn command<S: AsRef<OsStr>>(directory: &Path, options: &[S]) -> Command {
    let mut command = Command::new(EXTENTFSD);
    command
        .arg("--shared-dir")
        .arg(directory.join("share"))
        .arg("--socket-path")
        .arg(directory.join("socket"))
        .args(options)
        .stdin(Stdio::null());
    command
}

fn mounted(daemon: &Daemon) -> Client {
    Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()))
}

/// A guest that writes a file and reads it again, to show that the daemon serves.
fn exercise(daemon: &Daemon, name: &str) -> Client {
    let mut client = mounted(daemon);
    let (node, fh) = client.create(ROOT, name).expect("CREATE");
    assert_eq!(client.write(node, fh, 0, b"from the guest"), Ok(14));
    assert_eq!(client.read(node, fh, 5, 100).as_deref(), Ok(&b"the guest"[..]));
    assert_eq!(std::fs::read(daemon.share().join(name)).expect("host file"), b"from the guest");
    client
}

/// Runs a command that must refuse to start: exit code 1 and one line. Returns the line.
#[track_caller]
fn refusal(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    refused(output.status.code(), &String::from_utf8(output.stderr).expect("text"))
}

/// Checks how a daemon ended that could not go on; the line that says why.
#[track_caller]
fn refused(code: Option<i32>, stderr: &str) -> String {
    assert_eq!(code, Some(1), "{stderr}");
    assert_no_panic(stderr);
    // Besides the log.
    let lines: Vec<_> = stderr.lines().filter(|line| !line.starts_with('[')).collect();
    assert_eq!(lines.len(), 1, "not one line:\n{stderr}");
    assert!(!stderr.contains(WAITING), "it had started:\n{stderr}");
    let line = lines[0].strip_prefix("extentfsd: ").expect(lines[0]);
    line.to_owned()
}

#[track_caller]
fn assert_no_panic(stderr: &str) {
    for trace in ["panicked", "RUST_BACKTRACE", "backtrace", "unwrap", ".rs:"] {
        assert!(!stderr.contains(trace), "{trace:?} in:\n{stderr}");
    }
}

/// Waits for something to become true.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the daemon was ready for a front-end so many times.
#[track_caller]
fn wait_until_ready(daemon: &Daemon, times: usize) {
    daemon.wait_until_listening(times);
}
