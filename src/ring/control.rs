//! How do messages from other threads reach a ring thread?
//!
//! One eventfd and two mailboxes: changes from the device, and answers of requests that were served
//! elsewhere. The locks are held for a push or a swap only, and the READ and WRITE path takes neither.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::dirty_log::DirtyLog;
use super::memory::GuestMemory;
use super::slot::Key;
use super::sync::{Mutex, SyncSender, Wake, sync_channel};

/// Something to be different from now on.
#[derive(Debug)]
pub(super) enum Change {
    Memory(Arc<GuestMemory>),
    Call(Option<OwnedFd>),
    Err(Option<OwnedFd>),
    Enabled(bool),
    DirtyLog(Option<Arc<DirtyLog>>),
    LogAddress(Option<u64>),
}

/// A change and whom to tell that it was made.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) change: Change,
    pub(super) done: SyncSender<io::Result<()>>,
}

/// What became of a request that was served elsewhere.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) key: Key,
    pub(super) verdict: Verdict,
}

/// See [`Answer`].
#[derive(Debug)]
pub(super) enum Verdict {
    /// Its reply.
    Reply(Vec<u8>),
    /// What it waited for is over: it is to be served from the start.
    Again,
    /// Its server gave up without a reply.
    GaveUp,
}

#[derive(Debug, Default)]
struct Mail {
    orders: Vec<Order>,
    answers: Vec<Answer>,
    stop: bool,
    closed: bool,
}

/// The mailboxes of one ring thread.
#[derive(Debug)]
pub(super) struct Controls {
    wake: Wake,
    mail: Mutex<Mail>,
}

impl Controls {
    /// Empty mailboxes.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { wake: Wake::new()?, mail: Mutex::default() })
    }

    /// Signalled while there may be mail.
    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Sends a change and waits until it is made. Any thread but the ring's own.
    pub(super) fn send(&self, change: Change) -> io::Result<()> {
        let (done, outcome) = sync_channel(1);
        {
            let mut mail = self.mail.lock();
            if mail.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            mail.orders.push(Order { change, done });
        }
        self.wake.signal();
        outcome.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Delivers the answer of a request that was served elsewhere.
    pub(super) fn answer(&self, answer: Answer) {
        let first = {
            let mut mail = self.mail.lock();
            mail.answers.push(answer);
            mail.answers.len() == 1
        };
        if first {
            self.wake.signal();
        }
    }

    /// Asks the thread to drain and end.
    pub(super) fn stop(&self) {
        self.mail.lock().stop = true;
        self.wake.signal();
    }

    /// Takes all mail; both vectors must be empty and are swapped, so that no memory is allocated once
    /// they have grown. Returns whether the ring is to stop.
    pub(super) fn take(&self, orders: &mut Vec<Order>, answers: &mut Vec<Answer>) -> bool {
        let mut mail = self.mail.lock();
        std::mem::swap(&mut mail.orders, orders);
        std::mem::swap(&mut mail.answers, answers);
        mail.stop
    }

    /// Takes no more orders: those that wait, and later ones, fail.
    pub(super) fn close(&self) {
        let mut mail = self.mail.lock();
        mail.closed = true;
        mail.orders.clear();
    }
}
