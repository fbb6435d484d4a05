//! Checks of record locks and flock between handles and between processes.
//!
//! They hold whether the guest keeps the locks itself or passes them to the host: a guest that is alone on the share
//! cannot tell, except by a daemon that gets it wrong.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::check::{Check, Outcome, Place, Verdict, holds, refused, same};
use crate::sys::{LockKind, LockOwner, conflicting_lock, lock};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "lock-conflict", run: conflict },
    Check { name: "lock-ranges", run: ranges },
    Check { name: "lock-released-on-close", run: released_on_close },
    Check { name: "lock-released-on-exit", run: released_on_exit },
    Check { name: "lock-ofd", run: description_locks },
    Check { name: "lock-waits", run: waits },
    Check { name: "lock-deadlock-free-share", run: waiting_blocks_nobody },
    Check { name: "flock", run: whole_file },
];

const ALL: (i64, i64) = (0, 0);

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Another process that takes a write lock, says so, and holds it until it is killed or its time is over.
pub struct Holder {
    child: Child,
}

impl Holder {
    /// Starts the process and, if `granted`, waits until it has the lock. The kind is "record" or "flock".
    pub fn start(kind: &str, path: &Path, milliseconds: u64, granted: bool) -> Result<Self, Verdict> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["hold-lock", kind]).arg(path).arg(milliseconds.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take();
        let holder = Self { child };
        if granted && let Some(output) = output {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line)?;
            same("word of the lock holder", line.trim(), "held")?;
        }
        Ok(holder)
    }

    /// Waits for the process to end by itself.
    pub fn finish(mut self) -> Outcome {
        same("exit of the lock holder", self.child.wait()?.success(), true)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The work of the other process.
pub fn hold(kind: &str, path: &Path, milliseconds: u64) -> std::io::Result<()> {
    let file = open(path)?;
    match kind {
        "flock" => flock(&file, FlockOperation::LockExclusive)?,
        _ => lock(&file, LockOwner::Process, LockKind::Write, ALL, true)?,
    }
    // Nobody may be listening any more, which is no reason to die.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), b"held\n");
    std::thread::sleep(Duration::from_millis(milliseconds));
    Ok(())
}

fn conflict(place: &Place) -> Outcome {
    let path = place.file("file", b"0123456789")?;
    let file = open(&path)?;
    let holder = Holder::start("record", &path, 60_000, true)?;
    for kind in [LockKind::Read, LockKind::Write] {
        refused("a second lock", lock(&file, LockOwner::Process, kind, (3, 2), false), libc::EAGAIN)?;
    }
    let Some((kind, start, len, pid)) = conflicting_lock(&file, (3, 2))? else {
        return Err(Verdict::fail("F_GETLK finds no lock"));
    };
    same("F_GETLK", (kind, start, len), (LockKind::Write, 0, 0))?;
    holds("F_GETLK names another process", pid != 0 && u32::try_from(pid).ok() != Some(std::process::id()))?;
    drop(holder);
    lock(&file, LockOwner::Process, LockKind::Write, ALL, true)?;
    Ok(())
}

fn ranges(place: &Place) -> Outcome {
    let path = place.file("file", b"")?;
    let (a, b) = (open(&path)?, open(&path)?);
    let take = |file: &File, kind, range| lock(file, LockOwner::Description, kind, range, false);
    take(&a, LockKind::Write, (0, 100))?;
    take(&b, LockKind::Write, (100, 100))?;
    refused("one byte of overlap", take(&b, LockKind::Write, (99, 1)), libc::EAGAIN)?;
    take(&a, LockKind::Unlock, (40, 20))?;
    take(&b, LockKind::Read, (40, 20))?;
    refused("the part that stays locked", take(&b, LockKind::Read, (60, 1)), libc::EAGAIN)?;
    take(&a, LockKind::Read, (40, 20))?;
    refused("an upgrade that another reader forbids", take(&a, LockKind::Write, (40, 20)), libc::EAGAIN)?;
    take(&a, LockKind::Write, (i64::MAX - 10, 10))?;
    refused("at the largest offset", take(&b, LockKind::Write, (i64::MAX - 1, 1)), libc::EAGAIN)
}

fn released_on_close(place: &Place) -> Outcome {
    let path = place.file("file", b"")?;
    let (a, b) = (open(&path)?, open(&path)?);
    lock(&a, LockOwner::Description, LockKind::Write, ALL, false)?;
    refused("while held", lock(&b, LockOwner::Description, LockKind::Write, ALL, false), libc::EAGAIN)?;
    drop(a);
    lock(&b, LockOwner::Description, LockKind::Write, ALL, true)?;
    // POSIX: closing any handle of the file drops all record locks of the process.
    let path = place.file("other", b"")?;
    let (a, b) = (open(&path)?, open(&path)?);
    lock(&a, LockOwner::Process, LockKind::Write, ALL, false)?;
    drop(b);
    Holder::start("record", &path, 0, true)?.finish()
}

fn released_on_exit(place: &Place) -> Outcome {
    let path = place.file("file", b"")?;
    let file = open(&path)?;
    for kind in ["record", "flock"] {
        drop(Holder::start(kind, &path, 60_000, true)?);
        lock(&file, LockOwner::Process, LockKind::Write, ALL, true)?;
        lock(&file, LockOwner::Process, LockKind::Unlock, ALL, false)?;
        flock(&file, FlockOperation::LockExclusive)?;
        flock(&file, FlockOperation::Unlock)?;
    }
    Ok(())
}

fn description_locks(place: &Place) -> Outcome {
    let path = place.file("file", b"")?;
    let (a, b) = (open(&path)?, open(&path)?);
    let copy = a.try_clone()?;
    lock(&a, LockOwner::Description, LockKind::Write, ALL, false)?;
    lock(&copy, LockOwner::Description, LockKind::Write, ALL, false)?;
    drop(a);
    refused(
        "while a copy is open",
        lock(&b, LockOwner::Description, LockKind::Read, ALL, false),
        libc::EAGAIN,
    )?;
    refused("a lock of the process", lock(&b, LockOwner::Process, LockKind::Read, ALL, false), libc::EAGAIN)?;
    drop(copy);
    lock(&b, LockOwner::Description, LockKind::Read, ALL, true)?;
    Ok(())
}

fn waits(place: &Place) -> Outcome {
    let path = place.file("file", b"")?;
    for kind in ["record", "flock"] {
        let holder = Holder::start(kind, &path, 300, true)?;
        let file = open(&path)?;
        match kind {
            "flock" => flock(&file, FlockOperation::LockExclusive)?,
            _ => lock(&file, LockOwner::Process, LockKind::Write, ALL, true)?,
        }
        holder.finish()?;
    }
    Ok(())
}

fn waiting_blocks_nobody(place: &Place) -> Outcome {
    // More waiters than any guest has rings: were a ring held by each, the share would stand still.
    let path = place.file("file", b"")?;
    let owner = Holder::start("record", &path, 120_000, true)?;
    let waiters: Vec<_> =
        (0..80).map(|_| Holder::start("record", &path, 0, false)).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_millis(500));
    for i in 0..20 {
        let path = place.file(&format!("other-{i}"), b"served")?;
        same("content", std::fs::read(path)?, b"served".to_vec())?;
    }
    drop(owner);
    waiters.into_iter().try_for_each(Holder::finish)
}

fn whole_file(place: &Place) -> Outcome {
    let path = place.file("file", b"")?;
    let (a, b) = (open(&path)?, open(&path)?);
    flock(&a, FlockOperation::LockShared)?;
    flock(&b, FlockOperation::LockShared)?;
    refused("an upgrade", flock(&a, FlockOperation::NonBlockingLockExclusive), libc::EAGAIN)?;
    flock(&b, FlockOperation::Unlock)?;
    flock(&a, FlockOperation::LockExclusive)?;
    refused("a second owner", flock(&b, FlockOperation::NonBlockingLockShared), libc::EAGAIN)?;
    drop(a);
    flock(&b, FlockOperation::LockExclusive)?;
    Ok(())
}
