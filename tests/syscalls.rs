//! What does an operation cost? Counts the system calls on files that the daemon makes, one operation at a
//! time. Needs `strace` (which `ci/install` installs); prints the table, so
//! `cargo test --test syscalls -- --nocapture` measures.

#![allow(clippy::cast_possible_truncation, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod frontend;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use frontend::fuse::{self, Body, Client, ROOT};
use frontend::{Daemon, Guest, GuestConfig};

/// Times that an operation is done while its calls are counted.
const TIMES: u64 = 100;

/// Not work on files, but waiting and waking: shared by all requests of a batch, or the kernel's own. The time is asked of the
/// kernel where its clock cannot be read without.
const AROUND: &[&str] = &[
    "clock_gettime",
    "io_uring_enter",
    "futex",
    "restart_syscall",
    "rt_sigprocmask",
    "unshare",
    "fchdir",
    "umask",
];

/// Calls per operation of one family: the name, the most that it may cost, and what is done the i-th time.
type Case = (&'static str, f64, Box<dyn FnMut(&mut Client, u64)>);

fn getattr(client: &mut Client, node: u64) {
    client.call(fuse::GETATTR, node, Body::new().u32(0).u32(0).u64(0), 104).expect("GETATTR");
}

fn cases(directory: u64, file: u64, fh: u64) -> Vec<Case> {
    vec![
        ("LOOKUP, known", 1.0, Box::new(move |client, _| drop(client.lookup(directory, "file")))),
        ("LOOKUP, absent", 1.0, Box::new(move |client, _| drop(client.lookup(directory, "absent")))),
        ("LOOKUP, new", 4.0, Box::new(move |client, i| drop(client.lookup(directory, &format!("old{i}"))))),
        ("GETATTR", 1.0, Box::new(move |client, _| getattr(client, file))),
        (
            "OPEN and RELEASE",
            3.0,
            Box::new(move |client, _| {
                let fh = client.open(file, libc::O_RDWR).expect("OPEN");
                client.release(file, fh).expect("RELEASE");
            }),
        ),
        ("READ 4096", 1.0, Box::new(move |client, _| drop(client.read(file, fh, 0, 4096).expect("READ")))),
        (
            "CREATE",
            4.0,
            Box::new(move |client, i| {
                client.create(directory, &format!("new{i}")).expect("CREATE");
            }),
        ),
        (
            "MKDIR",
            4.0,
            Box::new(move |client, i| {
                client.mkdir(directory, &format!("dir{i}")).expect("MKDIR");
            }),
        ),
        (
            "RENAME",
            1.0,
            Box::new(move |client, i| {
                let body = Body::new().u64(directory).name(&format!("dir{i}")).name(&format!("ren{i}"));
                client.call(fuse::RENAME, directory, body, 0).expect("RENAME");
            }),
        ),
        (
            "UNLINK",
            1.0,
            Box::new(move |client, i| {
                client
                    .call(fuse::UNLINK, directory, Body::new().name(&format!("new{i}")), 0)
                    .expect("UNLINK");
            }),
        ),
        (
            "SETATTR, mode",
            3.0,
            Box::new(move |client, _| {
                // FATTR_MODE, and the mode at its place in fuse_setattr_in.
                let body = Body::new().u32(1).u32(0).bytes(&[0; 60]).u32(0o640).bytes(&[0; 16]);
                client.call(fuse::SETATTR, file, body, 104).expect("SETATTR");
            }),
        ),
        ("STATFS", 1.0, Box::new(move |client, _| drop(client.call(fuse::STATFS, file, Body::new(), 80)))),
    ]
}

#[test]
fn operations_cost_few_system_calls() {
    let daemon = Daemon::start(&["--sandbox", "none"]);
    for i in 0..TIMES {
        std::fs::write(daemon.share().join(format!("old{i}")), "old").expect("host file");
    }
    let mut client = Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()));
    let (file, fh) = client.create(ROOT, "file").expect("CREATE");
    client.write(file, fh, 0, &[1; 8192]).expect("WRITE");
    // A younger file costs one call more to recognise.
    std::thread::sleep(Duration::from_millis(1500));
    client.lookup(ROOT, "file").expect("LOOKUP");
    let mut expensive = Vec::new();
    for (name, most, mut operation) in cases(ROOT, file, fh) {
        let trace = Trace::attach(&daemon);
        for i in 0..TIMES {
            operation(&mut client, i);
        }
        let cost = trace.calls() / TIMES as f64;
        println!("{name:20} {cost:.2}");
        if cost > most + 0.05 {
            expensive.push(format!("{name}: {cost:.2} system calls, at most {most} were expected"));
        }
    }
    assert!(expensive.is_empty(), "{expensive:#?}");
}

/// An strace of the serving process.
struct Trace {
    strace: Child,
    output: tempfile::NamedTempFile,
}

impl Trace {
    fn attach(daemon: &Daemon) -> Self {
        let output = tempfile::NamedTempFile::new().expect("temporary file");
        let pid = daemon.serving_pid();
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(output.path())
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed (ci/install)");
        let traced = |task: std::io::Result<std::fs::DirEntry>| {
            let status = task.and_then(|task| std::fs::read_to_string(task.path().join("status")));
            status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").all(traced) {
            assert!(Instant::now() < end, "strace does not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { strace, output }
    }

    /// Ends the trace; the calls on files that it saw.
    fn calls(mut self) -> f64 {
        let pid = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("SIGINT");
        self.strace.wait().expect("end of strace");
        let text = std::fs::read_to_string(self.output.path()).expect("trace");
        let counted = text.lines().filter(|line| {
            // "PID name(arguments) = result"; a write of 8 bytes to an eventfd wakes somebody.
            let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
            let name = call.split('(').next().unwrap_or("");
            let wakes = name == "write" && call.contains("\\0\\0\\0\\0\\0\\0\\0\", 8)");
            !name.is_empty() && !name.starts_with(['<', '+', '-']) && !AROUND.contains(&name) && !wakes
        });
        counted.count() as f64
    }
}
