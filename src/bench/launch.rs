//! How does a daemon start and end?

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::options::Contender;
use super::{Error, account, sys};

/// How long a daemon may take until it listens.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end by itself after the disconnect, which a daemon with `--keep-listening` does not.
const LEAVE: Duration = Duration::from_secs(2);
/// And how long after SIGTERM.
const OBEY: Duration = Duration::from_secs(5);

/// A running daemon. It and its descendants are killed when this is dropped.
pub(super) struct Daemon {
    label: String,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon on a share and connects to it. `scratch` is a directory for its socket and its messages.
    pub(super) fn start(
        contender: &Contender,
        share: &Path,
        scratch: &Path,
    ) -> Result<(Self, UnixStream), Error> {
        let socket = scratch.join("socket");
        let log = scratch.join("log");
        let _ = std::fs::remove_file(&socket);
        let words = command_line(&contender.command, share, &socket);
        let failed = |what: String| Error::Daemon { command: contender.label.clone(), what };
        let output = File::create(&log).map_err(Error::file("creating", &log))?;
        let Some((program, arguments)) = words.split_first() else {
            return Err(failed("there is no program in its command".to_owned()));
        };
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(Error::file("opening", &log))?)
            .stderr(output)
            .spawn()
            .map_err(|error| failed(format!("starting {program}: {error}")))?;
        let mut daemon = Self { label: contender.label.clone(), child, socket, log };
        let stream = daemon.connect()?;
        Ok((daemon, stream))
    }

    /// The first process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn connect(&mut self) -> Result<UnixStream, Error> {
        let begun = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return Ok(stream);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("ended with {status} before it listened")));
            }
            if sys::interrupted() {
                return Err(Error::Interrupted);
            }
            if begun.elapsed() > START {
                return Err(self.failed("does not listen on its socket"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// An error with the last thing that the daemon said.
    pub(super) fn failed(&self, what: &str) -> Error {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last =
            text.lines().rfind(|line| !line.trim().is_empty()).map(|line| format!("; it said: {line}"));
        Error::Daemon { command: self.label.clone(), what: format!("{what}{}", last.unwrap_or_default()) }
    }

    /// Waits for its end after the disconnect, and asks for it where it does not come by itself.
    pub(super) fn end(mut self) -> Result<(), Error> {
        if let Some(status) = self.wait(LEAVE) {
            return self.judge(status);
        }
        self.signal(Signal::TERM);
        match self.wait(OBEY) {
            Some(_) => Ok(()),
            None => Err(self.failed("does not end on SIGTERM")),
        }
    }

    /// What the end of a daemon by itself says: a crash after the disconnect is one too.
    fn judge(&self, status: ExitStatus) -> Result<(), Error> {
        if status.success() { Ok(()) } else { Err(self.failed(&format!("ended with {status}"))) }
    }

    /// Whether the first process has ended.
    pub(super) fn has_ended(pid: u32) -> bool {
        // Not waited for yet, so it is a zombie, and the number is not used again.
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        matches!(state, None | Some('Z' | 'X'))
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if begun.elapsed() > limit => return None,
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        for pid in account::tree(self.child.id()) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Puts share and socket into a command: in the place of `{share}` and `{socket}`, and otherwise as the options that
/// virtiofsd and its relatives have.
fn command_line(command: &[String], share: &Path, socket: &Path) -> Vec<String> {
    let (share, socket) = (share.display().to_string(), socket.display().to_string());
    let has = |place: &str| command.iter().any(|word| word.contains(place));
    let mut words: Vec<String> =
        command.iter().map(|word| word.replace("{share}", &share).replace("{socket}", &socket)).collect();
    if !has("{share}") {
        words.extend(["--shared-dir".to_owned(), share]);
    }
    if !has("{socket}") {
        words.extend(["--socket-path".to_owned(), socket]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_and_socket_go_where_the_command_wants_them() {
        let line = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            command_line(&words, Path::new("/s"), Path::new("/k")).join(" ")
        };
        assert_eq!(line("d -x"), "d -x --shared-dir /s --socket-path /k");
        assert_eq!(line("d -o source={share} --sock={socket}"), "d -o source=/s --sock=/k");
        assert_eq!(line("d {socket}"), "d /k --shared-dir /s");
    }
}
