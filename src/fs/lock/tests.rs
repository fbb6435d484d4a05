//! Do two owners keep one another out, and does everyone who waits get an answer?

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{record, sys_io};
use crate::fs::tests::files::Share;
use crate::fs::{Config, Limits};
use crate::fuse::*;

const SOON: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(150);

struct Locked {
    share: Share,
    node: NodeId,
    fh: Fh,
}

impl Locked {
    fn new() -> Self {
        Self::within(Limits::default())
    }

    fn within(limits: Limits) -> Self {
        let share = Share::new(Config { posix_lock: true, flock: true, limits, ..Config::default() });
        let node = share.file("a", b"");
        let fh = share.open(node, libc::O_RDWR).unwrap().fh;
        Self { share, node, fh }
    }

    fn request(&self, owner: u64, kind: LockKind, start: u64, end: u64) -> LockRequest {
        let pid = u32::try_from(owner).unwrap() + 1000;
        LockRequest { fh: self.fh, owner, lock: Lock { start, end, kind, pid }, flock: false }
    }

    fn set(&self, owner: u64, kind: LockKind, start: u64, end: u64) -> Result<()> {
        self.share.fs.setlk(self.node, &self.request(owner, kind, start, end))
    }

    fn wait(&self, request: &LockRequest) -> Receiver<Result<()>> {
        let (sender, receiver) = channel();
        self.share.fs.setlkw(self.node, request, Box::new(move |result| sender.send(result).unwrap()));
        receiver
    }
}

#[test]
fn owners_exclude_one_another_and_not_themselves() {
    let locked = Locked::new();
    locked.set(1, LockKind::Write, 0, 9).unwrap();
    locked.set(1, LockKind::Write, 5, 20).unwrap();
    assert_eq!(locked.set(2, LockKind::Read, 20, 30), Err(Errno::AGAIN));
    locked.set(2, LockKind::Write, 21, 30).unwrap();
    let found = locked.share.fs.getlk(locked.node, &locked.request(2, LockKind::Read, 15, 40)).unwrap();
    assert_eq!(found, Lock { start: 0, end: 20, kind: LockKind::Write, pid: 1001 });
    let found = locked.share.fs.getlk(locked.node, &locked.request(3, LockKind::Read, 25, 40)).unwrap();
    assert_eq!(found, Lock { start: 21, end: 30, kind: LockKind::Write, pid: 1002 });
    let free = locked.share.fs.getlk(locked.node, &locked.request(3, LockKind::Read, 31, 40)).unwrap();
    assert_eq!(free.kind, LockKind::Unlock);
    locked.set(1, LockKind::Unlock, 0, i64::MAX.unsigned_abs()).unwrap();
    locked.set(2, LockKind::Write, 0, 9).unwrap();
    assert_eq!(locked.set(9, LockKind::Write, 9, 3), Err(Errno::INVAL));
}

#[test]
fn locks_end_with_flush_and_with_the_last_release() {
    let locked = Locked::new();
    locked.set(1, LockKind::Write, 0, 9).unwrap();
    locked.share.fs.flush(locked.node, locked.fh, 2).unwrap();
    assert_eq!(locked.set(3, LockKind::Write, 0, 9), Err(Errno::AGAIN));
    locked.share.fs.flush(locked.node, locked.fh, 1).unwrap();
    locked.set(3, LockKind::Write, 0, 9).unwrap();
    locked.share.release(locked.node, locked.fh).unwrap();
    let fh = locked.share.open(locked.node, libc::O_RDWR).unwrap().fh;
    let request = LockRequest { fh, ..locked.request(4, LockKind::Write, 0, 9) };
    locked.share.fs.setlk(locked.node, &request).unwrap();
}

/// The owner of an OFD lock is the guest's open file description, which no FLUSH names.
#[test]
fn locks_of_a_description_end_with_its_release_while_others_are_open() {
    let locked = Locked::new();
    let other = locked.share.open(locked.node, libc::O_RDWR).unwrap().fh;
    locked.set(1, LockKind::Write, 0, 9).unwrap();
    let request = LockRequest { fh: other, ..locked.request(2, LockKind::Write, 0, 9) };
    assert_eq!(locked.share.fs.setlk(locked.node, &request), Err(Errno::AGAIN));
    let waiting = locked.wait(&request);
    locked.share.release(locked.node, locked.fh).unwrap();
    assert_eq!(waiting.recv_timeout(SOON).unwrap(), Ok(()));
}

#[test]
fn the_host_sees_the_locks_and_the_other_way_round() {
    let locked = Locked::new();
    let host = OpenOptions::new().read(true).write(true).open(locked.share.path("a")).unwrap();
    let range = |kind| record::to_host(&Lock { start: 0, end: 9, kind, pid: 0 }).unwrap();
    locked.set(1, LockKind::Write, 0, 9).unwrap();
    assert_eq!(sys_io::set_lock(host.as_fd(), &range(LockKind::Read)), Err(Errno::AGAIN));
    locked.set(1, LockKind::Unlock, 0, 9).unwrap();
    sys_io::set_lock(host.as_fd(), &range(LockKind::Write)).unwrap();
    let waiting = locked.wait(&locked.request(1, LockKind::Write, 0, 9));
    assert!(waiting.recv_timeout(A_WHILE).is_err());
    let found = locked.share.fs.getlk(locked.node, &locked.request(1, LockKind::Write, 0, 9)).unwrap();
    assert_eq!((found.kind, found.pid), (LockKind::Write, 0));
    sys_io::set_lock(host.as_fd(), &range(LockKind::Unlock)).unwrap();
    assert_eq!(waiting.recv_timeout(SOON), Ok(Ok(())));
    assert_eq!(sys_io::set_lock(host.as_fd(), &range(LockKind::Read)), Err(Errno::AGAIN));
}

#[test]
fn waiters_are_served_one_after_the_other() {
    let locked = Locked::new();
    locked.set(0, LockKind::Write, 0, 0).unwrap();
    let waiting: Vec<_> =
        (1..=20).map(|owner| locked.wait(&locked.request(owner, LockKind::Write, 0, 0))).collect();
    for (before, receiver) in waiting.iter().enumerate() {
        assert!(receiver.try_recv().is_err());
        locked.set(u64::try_from(before).unwrap(), LockKind::Unlock, 0, 0).unwrap();
        assert_eq!(receiver.recv_timeout(SOON), Ok(Ok(())), "waiter {before}, in order of arrival");
    }
}

#[test]
fn waiting_ends_when_the_device_stops_or_the_handle_goes() {
    let locked = Locked::new();
    locked.set(0, LockKind::Write, 0, 0).unwrap();
    let fcntl = locked.wait(&locked.request(1, LockKind::Read, 0, 0));
    locked.share.fs.cancel_waits();
    assert_eq!(fcntl.recv_timeout(SOON), Ok(Err(Errno::INTR)));

    let other = locked.share.open(locked.node, libc::O_RDWR).unwrap().fh;
    let released = locked.wait(&LockRequest { fh: other, ..locked.request(1, LockKind::Read, 0, 0) });
    let kept = locked.wait(&locked.request(2, LockKind::Read, 0, 0));
    locked.share.release(locked.node, other).unwrap();
    assert_eq!(released.recv_timeout(SOON), Ok(Err(Errno::INTR)));
    assert!(kept.recv_timeout(A_WHILE).is_err());
    drop(locked);
    assert_eq!(kept.recv_timeout(SOON), Ok(Err(Errno::INTR)), "also when the whole server goes");
}

#[test]
fn a_flock_belongs_to_its_handle() {
    let locked = Locked::new();
    let other = locked.share.open(locked.node, libc::O_RDONLY).unwrap().fh;
    let request = |fh, kind| LockRequest { fh, flock: true, ..locked.request(0, kind, 0, 0) };
    let set = |fh, kind| locked.share.fs.setlk(locked.node, &request(fh, kind));
    set(locked.fh, LockKind::Write).unwrap();
    assert_eq!(set(other, LockKind::Read), Err(Errno::AGAIN));
    let host = OpenOptions::new().read(true).open(locked.share.path("a")).unwrap();
    assert_eq!(flock(&host, FlockOperation::NonBlockingLockShared), Err(Errno::AGAIN));
    let waiting = locked.wait(&request(other, LockKind::Write));
    assert!(waiting.recv_timeout(A_WHILE).is_err());
    // A transfer under way must not keep the lock.
    let io = IoRequest { offset: 0, size: 1, open_flags: 0, from_cache: false, kill_suidgid: false };
    let transfer = locked.share.fs.read(locked.node, locked.fh, &io).unwrap();
    let release = Release { fh: locked.fh, lock_owner: None, flock_unlock: true };
    locked.share.fs.release(locked.node, &release).unwrap();
    assert_eq!(waiting.recv_timeout(SOON), Ok(Ok(())));
    drop(transfer);
}

#[test]
fn without_the_option_the_guest_is_on_its_own() {
    let share = Share::new(Config { flock: true, ..Config::default() });
    let node = share.file("a", b"");
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    let lock = Lock { start: 0, end: 0, kind: LockKind::Write, pid: 1 };
    let request = LockRequest { fh, owner: 1, lock, flock: false };
    assert_eq!(share.fs.setlk(node, &request), Err(Errno::NOSYS));
    assert_eq!(share.fs.getlk(node, &request), Err(Errno::NOSYS));
    assert_eq!(share.fs.setlk(node, &LockRequest { flock: true, ..request }), Ok(()));
}

/// What is held for the guest counts: the descriptor of an owner, each record, and each that waits.
#[test]
fn locks_are_bounded_and_come_back() {
    let locked = Locked::within(Limits { max_locks: 6, max_lock_waiters: 2, ..Limits::default() });
    let limits = locked.share.fs.limits();
    let used = |name| limits.iter().find(|limit| limit.name() == name).unwrap().used();
    // One descriptor and four records.
    for start in [0, 20, 40, 60] {
        locked.set(1, LockKind::Write, start, start + 9).unwrap();
    }
    assert_eq!(used("--max-locks"), 5);
    locked.set(1, LockKind::Write, 80, 89).unwrap();
    assert_eq!(locked.set(1, LockKind::Write, 100, 109), Err(Errno::NOLCK));
    assert_eq!(locked.set(2, LockKind::Read, 200, 201), Err(Errno::NOLCK), "another owner needs two");
    // In the middle of a record: one becomes two.
    assert_eq!(locked.set(1, LockKind::Unlock, 24, 25), Err(Errno::NOLCK));
    // What was refused changed nothing, here or on the host.
    let found = locked.share.fs.getlk(locked.node, &locked.request(2, LockKind::Read, 24, 25)).unwrap();
    assert_eq!((found.start, found.end, found.kind), (20, 29, LockKind::Write), "asking needs no room");
    locked.set(1, LockKind::Write, 0, 89).unwrap();
    assert_eq!(used("--max-locks"), 2);
    let waits: Vec<_> =
        (2..5).map(|owner| locked.wait(&locked.request(owner, LockKind::Write, 0, 0))).collect();
    assert_eq!(waits[2].recv_timeout(SOON).unwrap(), Err(Errno::NOLCK));
    locked.share.release(locked.node, locked.fh).unwrap();
    for wait in &waits[..2] {
        assert_eq!(wait.recv_timeout(SOON).unwrap(), Err(Errno::INTR));
    }
    drop(waits);
    locked.share.fs.destroy();
    assert_eq!(used("--max-locks"), 0);
}
