//! Where the acts take place: a process that confines itself as the daemon does, by the daemon's own code, and then does
//! one act on a thread of one role.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use extentfsd::cli::{self, Command as Parsed};
use extentfsd::daemon;
use extentfsd::sandbox::Role;
use tempfile::TempDir;

use crate::acts::{self, Scene};
use crate::frontend::daemon::NOBODY;

/// The first argument of a process that is to act.
pub const ACT: &str = "--act";

/// Who starts the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Root,
    Nobody,
    /// The user of this process, who is not root.
    Itself,
}

/// What became of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Did,
    /// The kernel said no.
    Refused(i32),
    /// The process was ended for it, by `SIGSYS`.
    Killed,
}

/// This program, which that user need not be able to reach by its path.
fn program() -> String {
    static PROGRAM: OnceLock<File> = OnceLock::new();
    let program =
        PROGRAM.get_or_init(|| File::open(std::env::current_exe().expect("a path")).expect("this program"));
    format!("/proc/self/fd/{}", program.as_raw_fd())
}

/// A process that listens where the acts try to connect, with a directory that they try to get at.
pub struct Stage {
    _tcp: TcpListener,
    _abstract: UnixListener,
    port: u16,
}

impl Stage {
    pub fn new() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = tcp.local_addr().expect("an address").port();
        let address = SocketAddr::from_abstract_name(acts::abstract_name(port)).expect("a name");
        Self { _tcp: tcp, _abstract: UnixListener::bind_addr(&address).expect("a socket"), port }
    }

    /// Does `act` on a thread of `role` in a daemon with these options.
    #[track_caller]
    pub fn attempt(&self, user: User, role: Role, act: &str, options: &[&str]) -> Outcome {
        let place = TempDir::new().expect("temporary directory");
        let path = |name: &str| place.path().join(name);
        std::fs::create_dir(path("share")).expect("share");
        for file in ["secret", "victim", "share/inside"] {
            std::fs::write(path(file), "").expect("file");
            std::fs::set_permissions(path(file), Permissions::from_mode(0o666)).expect("mode");
        }
        // The daemon may remove what is in the directory of its socket.
        std::fs::create_dir(path("run")).expect("directory");
        for directory in ["share", "run", "."] {
            std::fs::set_permissions(path(directory), Permissions::from_mode(0o777)).expect("mode");
        }
        // Of the same user, so that a signal to it is refused by nothing but a wall.
        let mut other = Command::new("/bin/sleep");
        as_user(&mut other, user);
        let mut other = other.arg("600").stdin(Stdio::null()).spawn().expect("another process");
        let mut command = Command::new(program());
        command.args([ACT, act, &format!("{role:?}"), &other.id().to_string(), &self.port.to_string()]);
        command.arg(place.path()).arg("--shared-dir").arg(path("share"));
        command.arg("--socket-path").arg(path("run/socket")).args(options);
        as_user(&mut command, user);
        let output = command.stdin(Stdio::null()).output().expect("this program runs");
        let _ = other.kill();
        let _ = other.wait();
        let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let what = format!("{user:?} {role:?} {act} {options:?}: {}: {said:?}\n{log}", output.status);
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("acting"), "it did not come to the act: {what}");
        match lines.next() {
            Some("did") => Outcome::Did,
            Some(errno) => Outcome::Refused(errno.parse().expect(&what)),
            None => {
                use std::os::unix::process::ExitStatusExt;
                let killed = output.status.signal() == Some(libc::SIGSYS);
                assert!(killed || log.contains("was ended by SIGSYS"), "it ended otherwise: {what}");
                Outcome::Killed
            }
        }
    }
}

fn as_user(command: &mut Command, user: User) {
    if user == User::Nobody {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
}

/// The process that acts: its arguments are those that [`Stage::attempt`] gives.
pub fn perform(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut word = || arguments.next().and_then(|word| word.into_string().ok()).expect("a word");
    let (act, role, other, port) = (word(), word(), word(), word());
    let place = word();
    let role = Role::ALL.into_iter().find(|known| format!("{known:?}") == role).expect("a role");
    let outside = OwnedFd::from(File::open(&place).expect("the directory outside"));
    let line = std::iter::once(OsString::from("extentfsd")).chain(arguments);
    let Ok(Parsed::Serve(options)) = cli::parse(line) else { panic!("a command line that serves") };
    let serve = |ready: daemon::Ready| {
        let scene = Scene {
            share: ready.share.root.as_raw_fd(),
            outside,
            program: Path::new("/bin/echo").to_owned(),
            other: other.parse().expect("an id"),
            port: port.parse().expect("a port"),
        };
        let perform = || {
            say("acting");
            match acts::act(&act, &scene) {
                Ok(()) => say("did"),
                Err(error) => say(&error.raw_os_error().expect("an errno").to_string()),
            }
        };
        if role == Role::Main {
            perform();
        } else {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    role.enter().expect("a filter");
                    perform();
                });
            });
        }
        Ok(())
    };
    match daemon::run_with(&options, serve) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line at once.
fn say(line: &str) {
    let mut stdout = std::io::stdout();
    stdout.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdout.flush()).expect("stdout");
}

/// What the kernel says about a thread, for example `Seccomp`.
pub fn status(pid: u32, thread: u32, field: &str) -> String {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/task/{thread}/status"))
        .and_then(|mut file| file.read_to_string(&mut text))
        .expect("status");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.expect("the field").trim().to_owned()
}
