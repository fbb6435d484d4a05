//! A daemon under test, as a child process on a fresh share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The line that launchers wait for.
pub const LISTENING: &str = "Waiting for vhost-user socket connection...";

/// A running daemon; killed and cleaned up when dropped.
pub struct Daemon {
    child: Child,
    directory: TempDir,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts the daemon of this package on an empty share, with further options.
    pub fn start(options: &[&str]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_extentfsd")), options)
    }

    /// Starts any daemon with virtiofsd's command line.
    pub fn start_program(program: &Path, options: &[&str]) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        std::fs::create_dir(directory.path().join("share")).expect("share");
        let mut command = Command::new(program);
        command
            .arg("--socket-path")
            .arg(directory.path().join("socket"))
            .arg("--shared-dir")
            .arg(directory.path().join("share"))
            .args(options)
            .stdin(Stdio::null());
        let daemon = Self::launch(directory, command);
        daemon.wait_for_log(LISTENING);
        daemon
    }

    /// Starts a command that becomes a daemon on the directory's `share` and `socket`, without waiting for it.
    pub fn launch(directory: TempDir, mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let sink = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = sink.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, directory, log, reader: Some(reader) }
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The shared directory.
    pub fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    /// The directory that holds the share; nothing in it but the share may be touched.
    pub fn outside(&self) -> &Path {
        self.directory.path()
    }

    /// The vhost-user socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The process, or the one that serves where a sandbox puts a child to work.
    pub fn serving_pid(&self) -> u32 {
        let own = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(own)
    }

    /// How many descriptors the serving process has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.serving_pid())).expect("fd directory").count()
    }

    /// Resident memory of the serving process in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.serving_pid())).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// Waits until the daemon has logged a text.
    pub fn wait_for_log(&self, text: &str) {
        self.wait_for_log_times(text, 1);
    }

    /// Waits until the daemon was ready for a front-end so many times.
    pub fn wait_until_listening(&self, times: usize) {
        self.wait_for_log_times(LISTENING, times);
    }

    fn wait_for_log_times(&self, text: &str, times: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.log().matches(text).count() < times {
            assert!(
                Instant::now() < end,
                "the daemon did not log {text:?} {times} times but:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for the end of the daemon; its exit code.
    pub fn wait_exit(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code();
            }
            assert!(Instant::now() < end, "the daemon did not end; it logged:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Daemon {
    /// Waits for the end of the daemon and of everyone who has its stderr; its exit code and whole log.
    pub fn wait_end(&mut self) -> (Option<i32>, String) {
        let code = self.wait_exit();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("log reader");
        }
        (code, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
    }
}

/// How many of each kind.
pub type Counted = BTreeMap<String, usize>;

fn count(things: impl Iterator<Item = String>) -> Counted {
    things.fold(Counted::new(), |mut counted, thing| {
        *counted.entry(thing).or_default() += 1;
        counted
    })
}

/// What a serving process has: descriptors by what they lead to, threads by name, mappings of guest memory.
pub fn belongings(daemon: &Daemon) -> (Counted, Counted, usize) {
    let proc = PathBuf::from(format!("/proc/{}", daemon.serving_pid()));
    let entries = |name| std::fs::read_dir(proc.join(name)).expect(name).flatten().map(|entry| entry.path());
    let descriptors = entries("fd").filter_map(|path| std::fs::read_link(path).ok());
    let threads = entries("task").filter_map(|path| std::fs::read_to_string(path.join("comm")).ok());
    let maps = std::fs::read_to_string(proc.join("maps")).expect("maps");
    (
        count(descriptors.map(|target| target.display().to_string())),
        count(threads.map(|name| name.trim().to_owned())),
        maps.matches("/memfd:guest").count(),
    )
}

/// The user that owns nothing.
pub const NOBODY: u32 = 65534;

/// A program that is run by that user, who need not be able to reach it by its path: it must stay open until it runs.
pub fn as_nobody(program: &File) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    command
}

/// Makes system calls fail with an errno in the command, as the profiles of container engines do.
pub fn without(mut command: Command, calls: &[(libc::c_long, i32)]) -> Command {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the call is the first field of `struct seccomp_data`.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (call, errno) in calls {
        filter.push(step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::try_from(*call).expect("a number"),
        ));
        let answer = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        filter.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, answer));
    }
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: two calls that change nothing but this process; the filter is only read.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: `install` makes system calls only, and allocates nothing between fork and exec.
    unsafe { command.pre_exec(install) };
    command
}
