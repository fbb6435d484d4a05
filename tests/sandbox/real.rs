//! Does the program itself put up the walls, and say so?

use std::process::{Command, Stdio};

use crate::frontend::daemon::without;
use crate::frontend::fuse::{self, Body, Client, ROOT};
use crate::frontend::{Daemon, Guest, GuestConfig};
use crate::host;
use crate::stage::status;

const EXTENTFSD: &str = env!("CARGO_BIN_EXE_extentfsd");

fn mounted(daemon: &Daemon) -> Client {
    Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()))
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The names of the threads of a process, each with the number of its filters.
fn filters(pid: u32) -> Vec<(String, u32)> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let mut filters: Vec<_> = threads
        .map(|thread| {
            let name = thread.expect("a thread").file_name();
            let thread = name.to_str().and_then(|id| id.parse().ok()).expect("an id");
            assert_eq!(status(pid, thread, "NoNewPrivs"), "1");
            // SECCOMP_MODE_FILTER.
            assert_eq!(status(pid, thread, "Seccomp"), "2");
            (status(pid, thread, "Name"), status(pid, thread, "Seccomp_filters").parse().expect("a number"))
        })
        .collect();
    filters.sort();
    filters.dedup();
    filters
}

pub fn threads_of_a_daemon_have_their_filters() {
    let place = tempfile::TempDir::new().expect("temporary directory");
    let window = place.path().join("window");
    let window = window.to_str().expect("text");
    for sandbox in if root() { &["none", "namespace"][..] } else { &["none"] } {
        let daemon = Daemon::start(&["--sandbox", sandbox, "--window-socket", window]);
        let mut client = mounted(&daemon);
        let (node, fh) = client.create(ROOT, "file").expect("CREATE");
        client.write(node, fh, 0, b"data").expect("WRITE");
        // One that a thread for slow work does.
        client.call(fuse::FSYNC, node, Body::new().u64(fh).u32(0).u32(0), 0).expect("FSYNC");
        let filters = filters(daemon.serving_pid());
        for (name, count) in [
            ("extentfsd", 2),
            ("signals", 4),
            ("signals-user", 4),
            ("window", 4),
            ("fs-1", 4),
            ("offload", 6),
        ] {
            assert!(filters.contains(&(name.to_owned(), count)), "{name} {count}: {filters:?}");
        }
        if *sandbox == "namespace" {
            assert_ne!(daemon.pid(), daemon.serving_pid());
            assert_eq!(status(daemon.pid(), daemon.pid(), "Seccomp"), "2");
        }
    }
}

pub fn what_the_host_does_not_give_is_reported_or_fatal() {
    for (call, errno, says) in [
        (libc::SYS_seccomp, libc::EPERM, "no seccomp filter: Operation not permitted"),
        (libc::SYS_landlock_create_ruleset, libc::ENOSYS, "no Landlock: the kernel has none for us"),
        (libc::SYS_landlock_restrict_self, libc::EPERM, "no Landlock: "),
        (libc::SYS_io_uring_register, libc::EPERM, "no restrictions of io_uring: Operation not permitted"),
    ] {
        for sandbox in if root() { &["none", "namespace"][..] } else { &["none"] } {
            let command = |required: bool| {
                let place = tempfile::TempDir::new().expect("temporary directory");
                std::fs::create_dir(place.path().join("share")).expect("share");
                let mut command = Command::new(EXTENTFSD);
                command.arg("--shared-dir").arg(place.path().join("share"));
                command.arg("--socket-path").arg(place.path().join("socket")).args(["--sandbox", sandbox]);
                command.args(required.then_some("--sandbox-required")).stdin(Stdio::null());
                (without(command, &[(call, errno)]), place)
            };
            let (mut refused, _place) = command(true);
            let output = refused.output().expect("the program runs");
            let text = String::from_utf8(output.stderr).expect("text");
            assert_eq!(output.status.code(), Some(1), "{sandbox} {says}: {text}");
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('[')).collect();
            // A kernel that lacks more may be refused for that.
            let says_which = if host::gives_all() { says } else { "no " };
            let expected = format!("extentfsd: --sandbox-required: this host gives {says_which}");
            assert!(matches!(lines[..], [line] if line.starts_with(&expected)), "{sandbox}: {text}");

            let (served, place) = command(false);
            let daemon = Daemon::launch(place, served);
            daemon.wait_for_log(&format!("Sandbox: {says}"));
            daemon.wait_for_log("Waiting for vhost-user socket connection...");
            let mut client = mounted(&daemon);
            let (node, fh) = client.create(ROOT, "file").expect("CREATE");
            assert_eq!(client.write(node, fh, 0, b"data"), Ok(4));
            assert_eq!(client.read(node, fh, 0, 10).as_deref(), Ok(&b"data"[..]));
        }
    }
}

/// The line that lists the walls; the only one about them where the host gives all.
fn walls(options: &[&str]) -> String {
    let required = host::gives_all().then_some("--sandbox-required");
    let daemon = Daemon::start(&[required.as_slice(), options].concat());
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| line.split_once("Sandbox: "));
    let (stand, missing): (Vec<_>, Vec<_>) = lines.partition(|(head, _)| head.contains("INFO"));
    assert_eq!(stand.len(), 1, "{log}");
    assert!(missing.is_empty() || !host::gives_all(), "{log}");
    stand[0].1.to_owned()
}

pub fn what_stands_is_said() {
    let none = walls(&["--sandbox=none", "--seccomp=none", "--landlock=none", "--engine=threads"]);
    assert_eq!(none, "capabilities, no_new_privs");
    let full = walls(&["--sandbox=none", "--inode-file-handles=never", "--engine=io_uring"]);
    let landlock = match host::landlock() {
        ..2 => "",
        2..4 => " Landlock (files),",
        4..6 => " Landlock (files; TCP),",
        6.. => " Landlock (files; TCP; signals),",
    };
    assert_eq!(full, format!("capabilities, no_new_privs,{landlock} seccomp (kill), io_uring restrictions"));
    if root() {
        let default = walls(&[]);
        assert!(default.starts_with("namespaces, capabilities, no_new_privs, "), "{default}");
        assert_eq!(default.contains("Landlock (names of files"), host::landlock() >= 2, "{default}");
        assert!(walls(&["--sandbox=chroot"]).starts_with("chroot, capabilities"));
    }
}

/// In a mount namespace of its own the setting only seems to be there.
pub fn no_guest_makes_the_kernel_panic_by_a_warning() {
    if !root() {
        eprintln!("skipped: a mount needs root");
        return;
    }
    for sandbox in ["none", "chroot", "namespace"] {
        let place = tempfile::TempDir::new().expect("temporary directory");
        std::fs::create_dir(place.path().join("share")).expect("share");
        std::fs::write(place.path().join("1"), "1\n").expect("setting");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command
            .arg("mount --bind \"$0\" /proc/sys/kernel/panic_on_warn && exec \"$@\"")
            .arg(place.path().join("1"));
        command.arg(EXTENTFSD).arg("--shared-dir").arg(place.path().join("share"));
        command.arg("--socket-path").arg(place.path().join("socket")).args(["--sandbox", sandbox]);
        let daemon = Daemon::launch(place, command);
        daemon.wait_for_log("Waiting for vhost-user socket connection...");
        let log = daemon.log();
        let left_out = log.contains("no Landlock for files: this kernel warns");
        assert_eq!(left_out, host::landlock() >= 2 && !host::serves_disconnected(), "{log}");
        let guarded = log.contains("Landlock (names of files");
        assert_eq!(guarded, host::serves_disconnected(), "{log}");
    }
}
