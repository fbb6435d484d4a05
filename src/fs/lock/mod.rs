//! Which locks does the guest hold on the host's files?
//!
//! An fcntl lock of the guest is an open file description lock on the host: each owner in the guest has,
//! for each file that it locks, one descriptor here, and the host's kernel sorts out who stands in whose
//! way, host processes and other guests included. A flock is one on the descriptor of the guest's open.
//!
//! Without the option, the answer is `ENOSYS`: the guest then keeps its locks to itself. The host finds no
//! deadlocks between owners (no `EDEADLK`): it does not for open file description locks.

mod held;
mod ranges;
mod record;
#[cfg(test)]
mod tests;
mod waiters;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::handle::OpenFile;
use super::{Passthrough, sys_io};
use crate::fuse::{Fh, Lock, LockKind, LockRequest, NodeId, Result};
use crate::metrics::{Limit, Taken};
use held::Held;
use waiters::{Waiter, Waiters};

/// How many owners are asked at most whether a lock is theirs, see [`Locks::holder`].
const OWNERS_ASKED: usize = 64;

/// An owner of fcntl locks on one file.
#[derive(Clone, Debug)]
struct Owner {
    /// The locks.
    held: Arc<Held>,
    /// The guest's process.
    pid: u32,
    /// The open through which it began to lock, see [`Locks::release_handle`].
    fh: Fh,
}

/// The owners of locks, and those who wait for one.
#[derive(Debug)]
pub(super) struct Locks {
    owners: Mutex<HashMap<NodeId, HashMap<u64, Owner>>>,
    limit: Arc<Limit>,
    waiters: Waiters,
}

/// What an answered SETLKW calls.
pub(super) type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// GETLK.
///
/// # Errors
/// `ENOSYS`: the option is off. `EBADF`: no such handle. `EINVAL`: a range or kind that makes no sense.
pub(super) fn getlk(fs: &Passthrough, node: NodeId, request: &LockRequest) -> Result<Lock> {
    let file = enabled(fs, node, request)?;
    if request.flock || request.lock.kind == LockKind::Unlock {
        return Err(Errno::INVAL);
    }
    let mut lock = record::to_host(&request.lock)?;
    match fs.locks.owner(node, request.owner) {
        Some(owner) => owner.held.get(&mut lock)?,
        // Nothing of the guest's is held through the open's own descriptor, so all locks are others'.
        None => sys_io::get_lock(file.fd.as_fd(), &mut lock)?,
    }
    let mut found = record::from_host(&lock, &request.lock)?;
    if found.kind != LockKind::Unlock {
        found.pid = fs.locks.holder(node, request.owner, &lock);
    }
    Ok(found)
}

/// SETLK.
///
/// # Errors
/// `EAGAIN`: another lock stands in the way. `ENOLCK`: too many locks. And as [`getlk`].
pub(super) fn setlk(fs: &Passthrough, node: NodeId, request: &LockRequest) -> Result<()> {
    match attempt(fs, node, request)? {
        Some(attempt) => try_once(fs, request, &attempt),
        None => Ok(()),
    }
}

/// SETLKW.
pub(super) fn setlkw(fs: &Passthrough, node: NodeId, request: &LockRequest, done: Done) {
    let attempt = match attempt(fs, node, request) {
        Ok(Some(attempt)) => attempt,
        Ok(None) => return done(Ok(())),
        Err(error) => return done(Err(error)),
    };
    match try_once(fs, request, &attempt) {
        Err(Errno::AGAIN) => fs.locks.waiters.add(Waiter { node, fh: request.fh, attempt, done }),
        answer => done(answer),
    }
}

fn try_once(fs: &Passthrough, request: &LockRequest, attempt: &Attempt) -> Result<()> {
    // Something is given up, or made weaker; a flock is given up first even where its conversion then
    // fails (flock(2), "Converting a lock").
    if request.flock || request.lock.kind != LockKind::Write {
        fs.locks.waiters.give_up(|| attempt.make())
    } else {
        attempt.make()
    }
}

/// Whether this sort of lock is on, and the file it is about.
fn enabled(fs: &Passthrough, node: NodeId, request: &LockRequest) -> Result<Arc<OpenFile>> {
    let on = if request.flock { fs.config.flock } else { fs.config.posix_lock };
    if on { fs.handles.file(node, request.fh) } else { Err(Errno::NOSYS) }
}

/// A lock to be taken or given up, as often as it takes.
#[derive(Debug)]
enum Attempt {
    Record(Arc<Held>, Lock),
    Flock(Arc<OwnedFd>, FlockOperation),
}

impl Attempt {
    fn make(&self) -> Result<()> {
        match self {
            Self::Record(held, lock) => held.set(lock),
            Self::Flock(fd, operation) => flock(fd, *operation),
        }
    }
}

/// What a request amounts to; none where there is nothing to give up.
fn attempt(fs: &Passthrough, node: NodeId, request: &LockRequest) -> Result<Option<Attempt>> {
    let file = enabled(fs, node, request)?;
    if request.flock {
        let operation = match request.lock.kind {
            LockKind::Read => FlockOperation::NonBlockingLockShared,
            LockKind::Write => FlockOperation::NonBlockingLockExclusive,
            LockKind::Unlock => FlockOperation::NonBlockingUnlock,
        };
        return Ok(Some(Attempt::Flock(file.fd.clone(), operation)));
    }
    record::to_host(&request.lock)?;
    // As do_fcntl of the guest has it (check_fmode_for_setlk): our descriptor may be able to do more than
    // the guest's open.
    match request.lock.kind {
        LockKind::Read if !file.readable => return Err(Errno::BADF),
        LockKind::Write if !file.writable => return Err(Errno::BADF),
        LockKind::Unlock if fs.locks.owner(node, request.owner).is_none() => return Ok(None),
        _ => {}
    }
    Ok(Some(Attempt::Record(fs.locks.held(fs, node, request, &file)?, request.lock)))
}

impl Locks {
    /// No locks, and nobody who waits for one. `limit` counts records, and one more for each pair of an owner and a file.
    pub(super) fn new(limit: Arc<Limit>, waiting: Arc<Limit>) -> Self {
        Self { owners: Mutex::default(), limit, waiters: Waiters::new(waiting) }
    }

    /// Ends the flock of an open file. Not left to the closing: a transfer under way may keep the
    /// descriptor open.
    pub(super) fn release_flock(&self, file: &OpenFile) -> Result<()> {
        self.waiters.give_up(|| flock(&file.fd, FlockOperation::Unlock))
    }

    /// Ends the owner's fcntl locks on the file. Another thread of the owner that waits for one goes on
    /// waiting.
    pub(super) fn release_owner(&self, node: NodeId, owner: u64) {
        let mut owners = self.owners.lock();
        let Some(of_file) = owners.get_mut(&node) else { return };
        let Some(Owner { held, .. }) = of_file.get(&owner) else { return };
        if let Err(error) = self.waiters.give_up(|| held.release()) {
            tracing::warn!(%error, "cannot give up a guest's locks on a file");
        }
        // With the queue's or another thread's attempt under way the descriptor has to stay.
        if Arc::strong_count(held) == 1 {
            of_file.remove(&owner);
        }
        if of_file.is_empty() {
            owners.remove(&node);
        }
    }

    /// Ends the waiting through a handle, and the locks of the owners that began with it.
    ///
    /// A process that still holds locks has not closed the file: it closes with a FLUSH, which ends them.
    /// So those that are left at RELEASE belong to the guest's open file description itself (OFD locks),
    /// of whose end the guest's kernel says nothing else.
    pub(super) fn release_handle(&self, node: NodeId, fh: Fh) {
        self.waiters.cancel(|waiter| waiter.node == node && waiter.fh == fh);
        let owners: Vec<u64> = match self.owners.lock().get(&node) {
            Some(of_file) => {
                of_file.iter().filter(|(_, owner)| owner.fh == fh).map(|(owner, _)| *owner).collect()
            }
            None => return,
        };
        for owner in owners {
            self.release_owner(node, owner);
        }
    }

    /// Ends all fcntl locks on the file.
    pub(super) fn release_node(&self, node: NodeId) {
        let released = self.owners.lock().remove(&node);
        // Closes the descriptors, with which the locks go. Nobody here waits: the file is closed.
        drop(released);
    }

    /// Ends every wait with `EINTR`.
    pub(super) fn cancel_waits(&self) {
        self.waiters.cancel(|_| true);
    }

    /// Ends everything.
    pub(super) fn clear(&self) {
        self.cancel_waits();
        let released = std::mem::take(&mut *self.owners.lock());
        drop(released);
    }

    fn owner(&self, node: NodeId, owner: u64) -> Option<Owner> {
        self.owners.lock().get(&node)?.get(&owner).cloned()
    }

    /// An owner's locks on a file, perhaps none.
    fn held(
        &self,
        fs: &Passthrough,
        node: NodeId,
        request: &LockRequest,
        file: &OpenFile,
    ) -> Result<Arc<Held>> {
        let mut owners = self.owners.lock();
        if let Some(owner) = owners.get_mut(&node).and_then(|of_file| of_file.get_mut(&request.owner)) {
            owner.pid = request.lock.pid;
            // The close of the open that it had before takes nothing from this one then.
            owner.fh = request.fh;
            return Ok(owner.held.clone());
        }
        let held = Arc::new(Held::new(&self.limit, || open_for_locks(fs, file))?);
        let owner = Owner { held: held.clone(), pid: request.lock.pid, fh: request.fh };
        owners.entry(node).or_default().insert(request.owner, owner);
        Ok(held)
    }

    /// The guest's process that holds the lock which `GETLK` found; 0 where it is none of this guest's, or
    /// where several hold it.
    ///
    /// The host names no holder of an open file description lock. But an owner's own lock is never in its
    /// own way: so the holder is the one owner whose descriptor finds nothing in the way of an exclusive
    /// lock on the same range.
    fn holder(&self, node: NodeId, asking: u64, found: &libc::flock) -> u32 {
        let others: Vec<Owner> = match self.owners.lock().get(&node) {
            Some(of_file) => of_file
                .iter()
                .filter(|(owner, _)| **owner != asking)
                .map(|(_, owner)| owner.clone())
                .take(OWNERS_ASKED)
                .collect(),
            None => return 0,
        };
        let holds = |owner: &&Owner| {
            let mut probe = record::exclusive(found);
            owner.held.get(&mut probe).is_ok() && record::is_free(&probe)
        };
        others.iter().find(holds).map_or(0, |owner| owner.pid)
    }
}

/// Opens the file again, so that locks of every kind can be taken. A file that cannot be written (it is
/// being executed, or the share is read-only) can be locked for reading at least.
///
/// # Errors
/// `ENOLCK`: there is no room for a descriptor. And the host's.
fn open_for_locks(fs: &Passthrough, file: &OpenFile) -> Result<(OwnedFd, Taken)> {
    let room = fs.bounds.descriptor().map_err(|_| Errno::NOLCK)?;
    let open = |access| {
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY;
        openat(&fs.proc_self_fd, DecInt::from_fd(&file.fd).as_c_str(), flags, Mode::empty())
    };
    if fs.config.read_only {
        return Ok((open(OFlags::RDONLY)?, room));
    }
    let fd =
        open(OFlags::RDWR).or_else(|_| open(if file.readable { OFlags::RDONLY } else { OFlags::WRONLY }))?;
    Ok((fd, room))
}
