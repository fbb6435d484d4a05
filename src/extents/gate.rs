//! Who is in a file just now, and how are they kept out?
//!
//! Entering and leaving is one atomic addition each. Those who close the gate set a flag first and then
//! wait until the count is zero; who enters counts himself first and then looks at the flags. So whoever comes too late
//! for the flag is waited for. The mutex is for those who wait only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::granted::Granted;

const FENCED: u64 = 1 << 63;
const REVOKED: u64 = 1 << 62;
const COUNT: u64 = REVOKED - 1;

/// Why nobody may enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// For a moment.
    Fenced,
    /// For good.
    Revoked,
}

#[derive(Debug, Default)]
struct Fences {
    /// How many stand.
    standing: u32,
    /// How many there ever were.
    begun: u64,
}

/// The way into a file.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU64,
    fences: Mutex<Fences>,
    changed: Condvar,
}

impl Gate {
    /// Counts the caller in. Does not wait.
    pub(super) fn enter(&self) -> Result<(), Closed> {
        // SeqCst: what else is looked at behind the gate (whether writes are granted) must not be read before.
        let before = self.state.fetch_add(1, Ordering::SeqCst);
        if before & (FENCED | REVOKED) == 0 {
            return Ok(());
        }
        self.leave();
        Err(if before & REVOKED == 0 { Closed::Fenced } else { Closed::Revoked })
    }

    /// Counts in one more on behalf of somebody who is inside.
    fn enter_again(&self) {
        self.state.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts in somebody who has a fence of his own here. False: nobody may enter any more.
    fn enter_behind(&self) -> bool {
        let before = self.state.fetch_add(1, Ordering::SeqCst);
        let open = before & REVOKED == 0;
        if !open {
            self.leave();
        }
        open
    }

    /// Counts the caller out.
    pub(super) fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & COUNT == 1 && before & (FENCED | REVOKED) != 0 {
            // Under the lock, so that nobody who has just looked at the count misses it.
            let _fences = self.fences.lock();
            self.changed.notify_all();
        }
    }

    /// Lets nobody in, and waits until everybody is out; until [`open`](Self::open).
    pub(super) fn fence(&self) {
        let mut fences = self.fences.lock();
        self.raise(&mut fences);
    }

    fn raise(&self, fences: &mut MutexGuard<'_, Fences>) -> u64 {
        fences.standing += 1;
        fences.begun += 1;
        let number = fences.begun;
        self.state.fetch_or(FENCED, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & COUNT > 0 {
            self.changed.wait(fences);
        }
        number
    }

    /// The same where no other fence stands; the number of this one. None also where nobody may enter any more.
    pub(super) fn fence_alone(&self) -> Option<u64> {
        let mut fences = self.fences.lock();
        let alone = fences.standing == 0 && !self.is_revoked();
        alone.then(|| self.raise(&mut fences))
    }

    /// Calls `then` unless another fence was begun since that of this number, or nobody may enter any more. Whoever fences
    /// waits meanwhile.
    pub(super) fn if_undisturbed(&self, number: u64, then: impl FnOnce()) {
        let fences = self.fences.lock();
        if fences.begun == number && !self.is_revoked() {
            then();
        }
    }

    /// Whether nobody may enter any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.state.load(Ordering::SeqCst) & REVOKED != 0
    }

    /// Takes one fence away.
    pub(super) fn open(&self) {
        let mut fences = self.fences.lock();
        fences.standing = fences.standing.saturating_sub(1);
        if fences.standing == 0 {
            self.state.fetch_and(!FENCED, Ordering::SeqCst);
            self.changed.notify_all();
        }
    }

    /// Lets nobody in any more, and waits until everybody is out.
    pub(super) fn revoke(&self) {
        let mut fences = self.fences.lock();
        self.state.fetch_or(REVOKED, Ordering::SeqCst);
        self.changed.notify_all();
        while self.state.load(Ordering::SeqCst) & COUNT > 0 {
            self.changed.wait(&mut fences);
        }
    }

    /// Waits until no fence stands.
    pub(super) fn wait(&self) {
        let mut fences = self.fences.lock();
        while self.state.load(Ordering::SeqCst) & (FENCED | REVOKED) == FENCED {
            self.changed.wait(&mut fences);
        }
    }
}

/// Somebody is in a file through the window; whoever fences or ends its region waits until this value is dropped.
#[derive(Debug)]
pub struct Passage(Arc<Granted>);

impl Passage {
    /// Passes the gate, without waiting.
    pub(super) fn enter(granted: &Arc<Granted>) -> Result<Self, Closed> {
        granted.gate().enter().map(|()| Self(Arc::clone(granted)))
    }

    /// Passes the gate behind a fence that the caller has set up. None where the region has ended.
    pub(super) fn behind(granted: &Arc<Granted>) -> Option<Self> {
        granted.gate().enter_behind().then(|| Self(Arc::clone(granted)))
    }

    /// Notes that the file was written, for the next flush.
    pub fn wrote(&self) {
        self.0.set_dirty();
    }
}

impl Clone for Passage {
    fn clone(&self) -> Self {
        self.0.gate().enter_again();
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.0.gate().leave();
    }
}
