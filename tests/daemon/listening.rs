//! Where the front-end connects: the socket, its pid file, an inherited descriptor.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    Client, Daemon, Guest, GuestConfig, WAITING, command, directory, exercise, modes, needs_root, refusal,
};

fn pid_path(daemon: &Daemon) -> PathBuf {
    daemon.outside().join("socket.pid")
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("metadata").permissions().mode() & 0o7777
}

fn sigkill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).expect("pid"), Signal::KILL).expect("kill");
}

#[test]
fn the_socket_and_its_pid_file_are_the_owners_and_go_at_the_end() {
    for sandbox in modes() {
        let mut daemon = Daemon::start(&["--sandbox", sandbox]);
        let pid_file = pid_path(&daemon);
        assert!(std::fs::symlink_metadata(daemon.socket()).expect("socket").file_type().is_socket());
        assert_eq!(mode(&daemon.socket()), 0o700, "{sandbox}");
        assert_eq!(mode(&pid_file), 0o600, "{sandbox}");
        assert_eq!(
            std::fs::read_to_string(&pid_file).expect("pid file"),
            format!("{}\n", daemon.pid()),
            "{sandbox}"
        );
        let open = File::open(&pid_file).expect("pid file");
        flock(&open, FlockOperation::NonBlockingLockShared).expect_err("the pid file is not locked");

        drop(exercise(&daemon, "file"));
        assert_eq!(daemon.wait_end().0, Some(0), "{sandbox}");
        assert!(!daemon.socket().exists(), "{sandbox}");
        assert!(!pid_file.exists(), "{sandbox}");
        flock(&open, FlockOperation::NonBlockingLockExclusive).expect("the lock is gone");
    }
}

#[test]
fn a_second_daemon_on_the_same_path_leaves_the_first_alone() {
    for sandbox in modes() {
        let daemon = Daemon::start(&["--sandbox", sandbox, "--keep-listening"]);
        let client = exercise(&daemon, "before");
        let line = refusal(command(daemon.outside(), &["--sandbox", sandbox]));
        let socket = daemon.socket();
        let holder = daemon.pid();
        assert_eq!(
            line,
            format!(
                "--socket-path {}: the socket is in use by the process with id {holder}",
                socket.display()
            )
        );
        assert!(socket.exists() && pid_path(&daemon).exists());
        drop(client);
        super::wait_until_ready(&daemon, 2);
        exercise(&daemon, "after");
    }
}

#[test]
fn what_a_killed_daemon_left_is_replaced() {
    for sandbox in modes() {
        let mut first = Daemon::start(&["--sandbox", sandbox]);
        let serving = first.serving_pid();
        sigkill(first.pid());
        assert_eq!(first.wait_end().0, None);
        super::eventually("nobody serves", || !Path::new(&format!("/proc/{serving}")).exists());
        assert!(first.socket().exists() && pid_path(&first).exists(), "nothing was left: no test");

        // The second uses the first one's directory, and only borrows it.
        let mut second = Daemon::launch(directory(), command(first.outside(), &["--sandbox", sandbox]));
        second.wait_for_log(WAITING);
        let socket = first.socket();
        assert_eq!(
            std::fs::read_to_string(pid_path(&first)).expect("pid file"),
            format!("{}\n", second.pid())
        );
        drop(Client::mount(Guest::connect(&socket, GuestConfig::default())));
        assert_eq!(second.wait_end().0, Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn the_serving_process_dies_with_the_one_that_was_started() {
    for sandbox in modes().iter().filter(|mode| **mode != "none") {
        let mut daemon = Daemon::start(&["--sandbox", sandbox]);
        let _client = exercise(&daemon, "file");
        let serving = daemon.serving_pid();
        assert_ne!(serving, daemon.pid(), "{sandbox}");
        sigkill(daemon.pid());
        daemon.wait_end();
        super::eventually("the serving process is gone", || !Path::new(&format!("/proc/{serving}")).exists());
    }
}

#[test]
fn a_killed_serving_process_ends_the_daemon() {
    for sandbox in modes().iter().filter(|mode| **mode != "none") {
        let mut daemon = Daemon::start(&["--sandbox", sandbox]);
        sigkill(daemon.serving_pid());
        let (code, log) = daemon.wait_end();
        assert_eq!(code, Some(1), "{sandbox}");
        assert!(log.contains("the serving process was ended by SIGKILL"), "{log}");
        assert!(!daemon.socket().exists() && !pid_path(&daemon).exists());
    }
}

#[test]
fn a_relative_path_is_relative_to_the_directory_of_the_start() {
    for sandbox in modes() {
        let place = directory();
        let mut relative = Command::new(super::EXTENTFSD);
        relative.args(["--shared-dir", "share", "--socket-path", "socket", "--sandbox", sandbox]);
        relative.current_dir(place.path());
        let mut daemon = Daemon::launch(place, relative);
        daemon.wait_for_log(WAITING);
        drop(exercise(&daemon, "file"));
        assert_eq!(daemon.wait_end().0, Some(0), "{sandbox}");
        assert!(!daemon.socket().exists() && !pid_path(&daemon).exists(), "{sandbox}");
    }
}

#[test]
fn paths_that_cannot_be_sockets_are_refused() {
    let place = directory();
    let listen_at = |path: &Path| {
        let mut command = Command::new(super::EXTENTFSD);
        command.arg("--shared-dir").arg(place.path().join("share")).args(["--sandbox", "none"]);
        command.arg("--socket-path").arg(path);
        refusal(command)
    };
    let long = place.path().join("s".repeat(120));
    let length = long.as_os_str().len();
    assert_eq!(
        listen_at(&long),
        format!(
            "--socket-path {}: {length} bytes are too long for a socket, the limit is 107",
            long.display()
        )
    );
    let nowhere = place.path().join("no/such/socket");
    let line = listen_at(&nowhere);
    assert!(line.starts_with(&format!("--socket-path {}: cannot open its directory: ", nowhere.display())));

    let file = place.path().join("file");
    std::fs::write(&file, "precious").expect("file");
    let line = listen_at(&file);
    assert!(
        line.contains(&file.display().to_string()) && line.contains("exists and is not a socket"),
        "{line}"
    );
    assert_eq!(std::fs::read(&file).expect("file"), b"precious");
    // None leaves a pid file.
    let mut left: Vec<_> = std::fs::read_dir(place.path()).expect("directory").flatten().collect();
    left.sort_by_key(std::fs::DirEntry::file_name);
    assert_eq!(left.iter().map(std::fs::DirEntry::file_name).collect::<Vec<_>>(), ["file", "share"]);
}

#[test]
fn a_group_may_connect_if_asked_for() {
    if !needs_root("giving a socket to another group") {
        return;
    }
    let daemon = Daemon::start(&["--sandbox", "none", "--socket-group", "users"]);
    assert_eq!(mode(&daemon.socket()), 0o770);
    let line = std::fs::read_to_string("/etc/group").expect("groups");
    let group = line.lines().find(|line| line.starts_with("users:")).expect("the group users");
    let id: u32 = group.split(':').nth(2).and_then(|id| id.parse().ok()).expect("id");
    assert_eq!(std::fs::metadata(daemon.socket()).expect("socket").gid(), id);
    assert_eq!(mode(&pid_path(&daemon)), 0o600);
    exercise(&daemon, "file");
}

#[test]
fn an_unknown_group_is_refused() {
    let place = directory();
    let line = refusal(command(place.path(), &["--sandbox", "none", "--socket-group", "no-such-group"]));
    assert_eq!(line, "--socket-group no-such-group: there is no such group");
    assert!(!place.path().join("socket.pid").exists());
}

/// A command that has `stdin` as descriptor 3, as launchers pass their sockets.
fn with_descriptor(stdin: OwnedFd, share: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 </dev/null; exec \"$@\"", "sh", super::EXTENTFSD, "--fd=3"]);
    command.arg("--shared-dir").arg(share).args(options).stdin(stdin);
    command
}

#[test]
fn an_inherited_socket_serves_in_every_sandbox() {
    for sandbox in modes() {
        // A launcher with an event loop has its listener non-blocking.
        for nonblocking in [false, true] {
            let place = directory();
            let listener = UnixListener::bind(place.path().join("socket")).expect("bind");
            listener.set_nonblocking(nonblocking).expect("non-blocking");
            let share = place.path().join("share");
            let mut daemon =
                Daemon::launch(place, with_descriptor(listener.into(), &share, &["--sandbox", sandbox]));
            daemon.wait_for_log(WAITING);
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(exercise(&daemon, "file"));
            assert_eq!(daemon.wait_end().0, Some(0), "{sandbox}, non-blocking: {nonblocking}");
            // The socket is its maker's business.
            assert!(daemon.socket().exists() && !pid_path(&daemon).exists());
        }
    }
}

#[test]
fn other_descriptors_are_refused() {
    let share = directory();
    let refuse = |stdin: OwnedFd| refusal_of(with_descriptor(stdin, share.path(), &["--sandbox", "none"]));
    assert_eq!(
        refuse(File::open("/dev/null").expect("file").into()),
        "--fd 3: not a socket, but a listening unix stream socket is needed"
    );
    let (connected, _other) = UnixStream::pair().expect("pair");
    assert_eq!(
        refuse(connected.into()),
        "--fd 3: a socket that does not listen, but a listening unix stream socket is needed"
    );
    let network = TcpListener::bind("127.0.0.1:0").expect("tcp");
    assert_eq!(
        refuse(network.into()),
        "--fd 3: not a unix socket, but a listening unix stream socket is needed"
    );
    let mut closed = Command::new(super::EXTENTFSD);
    closed.args(["--fd", "77", "--sandbox", "none", "--shared-dir"]).arg(share.path());
    let line = refusal(closed);
    assert!(line.starts_with("--fd 77: not an open descriptor"), "{line}");
}

/// As [`refusal`], for a command with a stdin of its own.
#[track_caller]
fn refusal_of(mut command: Command) -> String {
    let output = command.output().expect("the program runs");
    super::refused(output.status.code(), &String::from_utf8(output.stderr).expect("text"))
}
