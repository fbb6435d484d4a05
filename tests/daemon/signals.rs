//! The signals that end the daemon: at once, with exit code 1, and without leaving anything.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::frontend::fuse::{self, Body, Client, ROOT};
use super::{CONNECTED, Daemon, WAITING, assert_no_panic, command, directory, modes, mounted};

/// Far more than it takes, and far less than what is in flight would take.
const PROMPT: Duration = Duration::from_secs(5);

/// `struct fuse_lk_in` for a write lock on the whole file.
fn whole_file(fh: u64, owner: u64) -> Body {
    Body::new().u64(fh).u64(owner).u64(0).u64(i64::MAX as u64).u32(libc::F_WRLCK as u32).u32(1).u32(0).u32(0)
}

/// Leaves requests in flight: one that never ends (a lock somebody else holds), and many that take a while.
pub(crate) fn keep_busy(client: &mut Client) {
    let (node, first) = client.create(ROOT, "busy").expect("CREATE");
    let second = client.open(node, libc::O_RDWR).expect("OPEN");
    client.call(fuse::SETLK, node, whole_file(first, 1), 0).expect("SETLK");
    let waits = fuse::message(fuse::SETLKW, 1000, node, 0, 0, &whole_file(second, 2).0);
    submit(client, &waits, 16);
    for i in 0..16_u32 {
        let body = Body::new().u64(first).u64(u64::from(i) << 20).u32(1 << 18).u32(0).u64(0).u32(2).u32(0);
        let request =
            fuse::message(fuse::WRITE, 1001 + u64::from(i), node, 0, 0, &body.bytes(&[7; 1 << 18]).0);
        submit(client, &request, 24);
    }
    submit(client, &fuse::message(fuse::FSYNC, 2000, node, 0, 0, &Body::new().u64(first).u64(0).0), 16);
}

fn submit(client: &mut Client, request: &[u8], room: u32) {
    let at = client.guest.ram.alloc(request.len() as u64);
    client.guest.ram.write(at, request);
    let answer = client.guest.ram.alloc(room.into());
    client.guest.offer(1, &[(at, request.len() as u32, false), (answer, room, true)]);
}

#[track_caller]
fn assert_prompt_end(daemon: &mut Daemon, serving: u32, send: impl FnOnce(Pid), what: &str) {
    let start = Instant::now();
    send(Pid::from_raw(daemon.pid() as i32).expect("pid"));
    let (code, log) = daemon.wait_end();
    assert_eq!(code, Some(1), "{what}:\n{log}");
    assert!(start.elapsed() < PROMPT, "{what}: {:?}", start.elapsed());
    assert_no_panic(&log);
    assert!(!daemon.socket().exists(), "{what}: the socket is left");
    assert!(!daemon.outside().join("socket.pid").exists(), "{what}: the pid file is left");
    assert!(!Path::new(&format!("/proc/{serving}")).exists(), "{what}: somebody still serves");
}

#[test]
fn each_ends_a_daemon_that_waits_and_one_that_is_busy() {
    for sandbox in modes() {
        for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP"), (Signal::INT, "SIGINT")] {
            for busy in [false, true] {
                let what = format!("--sandbox {sandbox}, {name}, busy: {busy}");
                let mut daemon = Daemon::start(&["--sandbox", sandbox, "--posix-lock"]);
                let serving = daemon.serving_pid();
                let client = busy.then(|| {
                    let mut client = mounted(&daemon);
                    keep_busy(&mut client);
                    client
                });
                let send = |pid| kill_process(pid, signal).expect("kill");
                assert_prompt_end(&mut daemon, serving, send, &what);
                assert!(
                    daemon.log().contains(&format!("{name} received, shutting down")),
                    "{}",
                    daemon.log()
                );
                drop(client);
            }
        }
    }
}

/// As a terminal or a service manager does: every process of the daemon gets the signal.
#[test]
fn a_signal_to_the_whole_group_ends_it_too() {
    for sandbox in modes() {
        let place = directory();
        let mut command = command(place.path(), &["--sandbox", sandbox]);
        command.process_group(0);
        let mut daemon = Daemon::launch(place, command);
        daemon.wait_for_log(WAITING);
        let serving = daemon.serving_pid();
        let _client = mounted(&daemon);
        let send = |pid| kill_process_group(pid, Signal::INT).expect("kill");
        assert_prompt_end(&mut daemon, serving, send, sandbox);
    }
}

/// A request that waits for ever must not keep the daemon from noticing that its guest is gone.
#[test]
fn a_front_end_that_goes_while_requests_are_in_flight_ends_it() {
    let mut daemon = Daemon::start(&["--sandbox", "none", "--posix-lock"]);
    let mut client = mounted(&daemon);
    keep_busy(&mut client);
    drop(client);
    let (code, log) = daemon.wait_end();
    assert_eq!(code, Some(0), "{log}");
    assert_no_panic(&log);
    assert_eq!(std::fs::metadata(daemon.share().join("busy")).expect("file").len(), (15 << 20) + (1 << 18));
}

/// The control plane waits for the rest of a message; the signal must not.
#[test]
fn a_front_end_that_stops_in_the_middle_of_a_message_cannot_hold_it() {
    for sandbox in modes() {
        for bytes in [1, 11, 12, 16] {
            let mut daemon = Daemon::start(&["--sandbox", sandbox]);
            let serving = daemon.serving_pid();
            let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
            // SET_FEATURES with 8 bytes to come.
            let message = [2_u32, 1, 8, 0].into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
            stream.write_all(&message[..bytes]).expect("write");
            daemon.wait_for_log(CONNECTED);
            let send = |pid| kill_process(pid, Signal::TERM).expect("kill");
            assert_prompt_end(&mut daemon, serving, send, sandbox);
        }
    }
}
