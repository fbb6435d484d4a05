//! What is attacked, and how is it looked at afterwards?

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::canary::Canary;
use super::cases::{After, Case, Needs, Scene};
use super::frontend::daemon::{Counted, NOBODY, as_nobody, belongings};
use super::frontend::fuse::{Client, ROOT};
use super::frontend::{Daemon, Guest, GuestConfig};
use super::verdict::Verdict;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// KiB that a process may have grown by, with allocators that keep what was freed.
const GROWTH: u64 = 64 << 10;

/// A daemon, a sandbox mode and a user.
#[derive(Debug)]
pub struct Target {
    program: PathBuf,
    label: String,
    ours: bool,
    sandbox: &'static str,
    root: bool,
}

impl Target {
    /// The modes that this user can have; as root those of a user without privileges too.
    pub fn all(daemon: &str) -> Vec<Self> {
        let ours = daemon == "extentfsd";
        let program = PathBuf::from(if ours { env!("CARGO_BIN_EXE_extentfsd") } else { daemon });
        let label = program.file_name().map_or(daemon.to_owned(), |name| name.to_string_lossy().into_owned());
        let is_root = rustix::process::geteuid().is_root();
        let modes: &[(&'static str, bool)] = if is_root {
            &[("none", true), ("chroot", true), ("namespace", true), ("none", false), ("namespace", false)]
        } else {
            &[("none", false), ("namespace", false)]
        };
        let target = |&(sandbox, root): &(&'static str, bool)| Self {
            program: program.clone(),
            label: label.clone(),
            ours,
            sandbox,
            root,
        };
        modes.iter().map(target).collect()
    }

    /// For a table.
    pub fn name(&self) -> String {
        format!("{} {}{}", self.label, self.sandbox, if self.root { "" } else { ", rootless" })
    }

    /// Whether its defects are failures.
    pub fn ours(&self) -> bool {
        self.ours
    }

    /// Attacks a fresh daemon.
    pub fn attack(&self, case: &Case) -> Verdict {
        match case.needs {
            Needs::Nothing => {}
            Needs::Root if !self.root => return Verdict::Skipped("needs root"),
            Needs::Locks if !self.ours => return Verdict::Skipped("it has no locks on the host"),
            Needs::KeepListening if !self.ours => return Verdict::Skipped("it serves one connection"),
            Needs::Root | Needs::Locks | Needs::KeepListening => {}
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.examine(case)));
        outcome.unwrap_or_else(|cause| Verdict::Stuck(told(&*cause)))
    }

    fn examine(&self, case: &Case) -> Verdict {
        let mut daemon = self.start();
        let canary = Canary::place(daemon.outside());
        let mut before = None;
        if self.ours {
            // Until what is started once is there.
            drop(exercise(&daemon, "first"));
            daemon.wait_until_listening(2);
            before = Some((left_over(&daemon), daemon.resident_kib()));
        }
        let client = exercise(&daemon, "before");
        let mut scene = Scene { client: Some(client), daemon: &daemon, share: daemon.share() };
        let done = catch_unwind(AssertUnwindSafe(|| {
            (case.act)(&mut scene)?;
            if let (After::SameConnection, Some(client)) = (case.after, scene.client.as_mut()) {
                serve(client, "same");
            }
            Ok(())
        }));
        drop(scene.client.take());
        if let Some(harm) = canary.harm() {
            return Verdict::Escaped(harm);
        }
        match done {
            Ok(Ok(())) => {}
            Ok(Err(verdict)) => return verdict,
            Err(cause) => {
                let cause = told(&*cause);
                std::thread::sleep(Duration::from_millis(50));
                let ended = !daemon.is_running();
                return if ended { Verdict::Ended(end(&daemon, &cause)) } else { Verdict::Stuck(cause) };
            }
        }
        if !self.ours {
            // It ends with its front-end, and well.
            return match catch_unwind(AssertUnwindSafe(|| daemon.wait_exit())) {
                Ok(Some(0)) => Verdict::Survived,
                Ok(code) => Verdict::Ended(end(&daemon, &format!("exit status {code:?}"))),
                Err(cause) => Verdict::Stuck(told(&*cause)),
            };
        }
        drop(exercise(&daemon, "after"));
        if !daemon.is_running() {
            return Verdict::Ended(end(&daemon, ""));
        }
        let log = daemon.log();
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            return Verdict::Ended(line.to_owned());
        }
        before.map_or(Verdict::Survived, |(before, memory)| leaks(&daemon, &before, memory))
    }

    fn start(&self) -> Daemon {
        let directory = TempDir::new().expect("temporary directory");
        let share = directory.path().join("share");
        std::fs::create_dir(&share).expect("share");
        furnish(&share, self.root);
        let mut words: Vec<OsString> = ["--sandbox", self.sandbox, "--xattr"].map(OsString::from).into();
        let paths = [("--socket-path", directory.path().join("socket")), ("--shared-dir", share.clone())];
        words.extend(paths.into_iter().flat_map(|(option, path)| [option.into(), path.into()]));
        if self.ours {
            // The kernel looks through all records of a file at each request: the default takes a minute to reach.
            words.extend(["--keep-listening", "--posix-lock", "--max-locks", "5000"].map(OsString::from));
        }
        let program = File::open(&self.program).expect("the program");
        let mut command = if !self.root && rustix::process::geteuid().is_root() {
            let open = Permissions::from_mode(0o755);
            std::fs::set_permissions(directory.path(), open).expect("permissions");
            for path in [directory.path(), &share] {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("owner");
            }
            as_nobody(&program)
        } else {
            Command::new(&self.program)
        };
        command.args(words).stdin(Stdio::null());
        let daemon = Daemon::launch(directory, command);
        daemon.wait_until_listening(1);
        daemon
    }
}

/// What a share may hold that leads elsewhere.
fn furnish(share: &Path, root: bool) {
    std::fs::create_dir(share.join("directory")).expect("directory");
    std::fs::write(share.join("file"), b"a file of the share").expect("file");
    std::fs::write(share.join("directory/file"), b"another").expect("file");
    symlink("../canary", share.join("escape")).expect("symlink");
    symlink("../canary/file", share.join("escape-file")).expect("symlink");
    symlink(share.parent().expect("parent").join("canary/file"), share.join("absolute")).expect("symlink");
    symlink("/proc/self/root", share.join("magic")).expect("symlink");
    let fifo = |name, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, share.join(name), kind, 0o666.into(), device).expect("mknod");
    };
    fifo("fifo", rustix::fs::FileType::Fifo, 0);
    fifo("socket", rustix::fs::FileType::Socket, 0);
    if root {
        // /dev/zero
        fifo("device", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5));
        assert!(share.join("device").metadata().expect("device").file_type().is_char_device());
    } else if rustix::process::geteuid().is_root() {
        for name in ["directory", "file", "directory/file", "fifo", "socket"] {
            chown(share.join(name), Some(NOBODY), Some(NOBODY)).expect("owner");
        }
    }
}

/// A good client that mounts and is served.
fn exercise(daemon: &Daemon, name: &str) -> Client {
    let mut client = Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()));
    serve(&mut client, name);
    client
}

/// What a good client does.
fn serve(client: &mut Client, name: &str) {
    let (node, fh) = client.create(ROOT, name).expect("CREATE");
    assert_eq!(client.write(node, fh, 0, b"from the guest"), Ok(14), "WRITE");
    assert_eq!(client.read(node, fh, 5, 100).as_deref(), Ok(&b"the guest"[..]), "READ");
    client.release(node, fh).expect("RELEASE");
}

/// Descriptors, how many threads beside those of the pools, and mappings of guest memory.
fn left_over(daemon: &Daemon) -> (Counted, usize, usize) {
    let (descriptors, mut threads, memory) = belongings(daemon);
    threads.remove("offload");
    // Not by name: a thread has that of the one who started it at first.
    (descriptors, threads.values().sum(), memory)
}

fn leaks(daemon: &Daemon, before: &(Counted, usize, usize), memory: u64) -> Verdict {
    // Until it has seen that its front-end has gone, and a thread that waited for locks that nobody does any more.
    let end = Instant::now() + PATIENCE;
    let mut now = left_over(daemon);
    // Less is no leak: on a slow machine something may have been about to go when it was counted first.
    let more = |now: &(Counted, usize, usize)| {
        let of = |name: &String| before.0.get(name).copied().unwrap_or(0);
        now.1 > before.1 || now.2 > before.2 || now.0.iter().any(|(name, count)| *count > of(name))
    };
    while more(&now) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
        now = left_over(daemon);
    }
    if more(&now) {
        return Verdict::Leaked(format!("had {before:?}, has {now:?}"));
    }
    let grown = daemon.resident_kib().saturating_sub(memory);
    if grown > GROWTH { Verdict::Leaked(format!("grew by {grown} KiB")) } else { Verdict::Survived }
}

/// How a daemon ended, on one line.
fn end(daemon: &Daemon, cause: &str) -> String {
    let log = daemon.log();
    let last = log.lines().rfind(|line| !line.is_empty()).unwrap_or("").to_owned();
    format!("{last} ({cause})")
}

/// What a panic said.
fn told(cause: &(dyn std::any::Any + Send)) -> String {
    let text =
        cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").lines().next().unwrap_or("").to_owned()
}
