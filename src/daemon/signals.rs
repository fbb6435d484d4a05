//! Which signals does the daemon obey, and who takes them?
//!
//! They are blocked in every thread and taken with sigwait(3), so that nothing runs in a signal handler. Blocking also
//! makes them reach the first process of a pid namespace, which the kernel otherwise protects from signals that it does
//! not handle. `SIGPIPE` is ignored already: Rust's runtime does that before `main`.

use std::io;
use std::sync::Arc;
use std::thread;

use libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, c_int};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use tracing::{error, info, warn};

use super::socket::SocketFiles;
use super::sys::{Signals, exit_now, report_children};
use crate::sandbox::Role;

/// All that some thread waits for.
const OBEYED: [c_int; 5] = [SIGTERM, SIGHUP, SIGINT, SIGUSR1, SIGCHLD];
const ENDING: [c_int; 3] = [SIGTERM, SIGHUP, SIGINT];

/// The exit code after a signal, virtiofsd's.
const EXIT_CODE: u8 = 1;

/// Blocks the signals that the daemon obeys. To be called before any thread or child exists.
pub(super) fn block() -> io::Result<()> {
    report_children();
    Signals::new(&OBEYED).block()
}

/// Starts the thread that ends this process at once when told to, after removing `files`.
///
/// Requests of a guest may be under way; they are as after a crash of the host, no more.
pub(super) fn end_on_signal(files: Arc<Vec<SocketFiles>>) -> io::Result<()> {
    let wait = move || {
        limit(Role::Signals);
        if let Ok(signal) = Signals::new(&ENDING).wait() {
            info!("{} received, shutting down", name(signal));
            files.iter().for_each(SocketFiles::remove);
            exit_now(c_int::from(EXIT_CODE));
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// Starts the thread that calls `act` whenever `SIGUSR1` comes. Without it that signal does nothing.
pub(super) fn on_user_signal(act: impl Fn() + Send + 'static) -> io::Result<()> {
    let wait = move || {
        limit(Role::Revocation);
        let signals = Signals::new(&[SIGUSR1]);
        while signals.wait().is_ok() {
            act();
        }
    };
    thread::Builder::new().name("signals-user".to_owned()).spawn(wait).map(drop)
}

/// Limits the calling thread to its role. Without that it has the main thread's limits.
fn limit(role: Role) {
    if let Err(error) = role.enter() {
        warn!("a thread for signals is not limited to its role: {error}");
    }
}

/// Waits for the serving process to end, passing signals on to it, and returns its exit code.
pub(super) fn supervise(child: Pid) -> io::Result<u8> {
    let signals = Signals::new(&OBEYED);
    loop {
        match waitpid(Some(child), WaitOptions::NOHANG) {
            Ok(Some((_, status))) if status.exited() || status.signaled() => return Ok(exit_code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(errno) => return Err(errno.into()),
        }
        let signal = signals.wait()?;
        if let Some(signal) = Signal::from_named_raw(signal).filter(|signal| *signal != Signal::CHILD) {
            // Fails only if the child just ended, and then SIGCHLD comes next.
            let _ = kill_process(child, signal);
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(EXIT_CODE),
        (None, Some(signal)) => {
            error!("the serving process was ended by {}", name(signal));
            EXIT_CODE
        }
        (None, None) => EXIT_CODE,
    }
}

fn name(signal: c_int) -> String {
    match signal {
        SIGTERM => "SIGTERM".to_owned(),
        SIGHUP => "SIGHUP".to_owned(),
        SIGINT => "SIGINT".to_owned(),
        libc::SIGKILL => "SIGKILL".to_owned(),
        libc::SIGSYS => {
            "SIGSYS, as it made a system call that its threads are not to make (see --seccomp)".to_owned()
        }
        other => format!("signal {other}"),
    }
}
