//! Who waits for a lock?
//!
//! A blocking `fcntl(2)` would take a thread for each waiter, and could not be ended but by a signal. So
//! one thread, started for the first waiter and ended after the last, tries for all of them without
//! blocking: at once when something is given up in this daemon, and every now and then for what host
//! processes hold, at intervals that grow from 1 ms to 100 ms while nothing happens. Each round goes in
//! the order of arrival.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::{Attempt, Done};
use crate::fuse::{Fh, NodeId, Result};
use crate::metrics::Limit;

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(100);

/// One SETLKW that found a lock in its way.
pub(super) struct Waiter {
    /// The file.
    pub(super) node: NodeId,
    /// The open through which it came.
    pub(super) fh: Fh,
    /// What it wants.
    pub(super) attempt: Attempt,
    /// The answer's way.
    pub(super) done: Done,
}

/// All of them, and the thread.
pub(super) struct Waiters {
    shared: Arc<Shared>,
    limit: Arc<Limit>,
}

impl std::fmt::Debug for Waiters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiters").field("waiting", &self.shared.state.lock().queue.len()).finish()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In order of arrival.
    queue: VecDeque<Waiter>,
    /// Something was given up, or somebody new came, since the thread last tried.
    stirred: bool,
    /// The thread exists.
    served: bool,
}

impl Waiters {
    /// Nobody waits.
    pub(super) fn new(limit: Arc<Limit>) -> Self {
        Self { shared: Arc::default(), limit }
    }

    /// Makes a request wait. Where that is impossible it is answered at once with `ENOLCK`.
    pub(super) fn add(&self, waiter: Waiter) {
        let mut state = self.shared.state.lock();
        let room = state.queue.len() < self.limit.max();
        if !room {
            self.limit.refuse();
        }
        if !room || !self.serve(&mut state) {
            drop(state);
            return (waiter.done)(Err(Errno::NOLCK));
        }
        state.queue.push_back(waiter);
        // What was given up between the attempt that failed and now must not be missed.
        state.stirred = true;
        self.shared.changed.notify_one();
    }

    /// Does what gives a lock up, and has the waiting try again. Never in the middle of a round: the first
    /// would miss the lock, and a later one get it.
    pub(super) fn give_up<T>(&self, act: impl FnOnce() -> T) -> T {
        let mut state = self.shared.state.lock();
        let done = act();
        if !state.queue.is_empty() {
            state.stirred = true;
            self.shared.changed.notify_one();
        }
        done
    }

    /// Ends the waiting of those with `EINTR`.
    pub(super) fn cancel(&self, whom: impl Fn(&Waiter) -> bool) {
        let mut state = self.shared.state.lock();
        let cancelled = state.take(|waiter| whom(waiter).then_some(Err(Errno::INTR)));
        drop(state);
        answer(cancelled);
    }

    /// Sees to it that the thread runs; false where it cannot be had.
    fn serve(&self, state: &mut State) -> bool {
        if !state.served {
            let shared = self.shared.clone();
            let name = "lock-waiter".to_owned();
            state.served = std::thread::Builder::new().name(name).spawn(move || shared.run()).is_ok();
        }
        state.served
    }
}

impl State {
    /// Takes those out of the queue that `verdict` has an answer for.
    fn take(&mut self, verdict: impl Fn(&Waiter) -> Option<Result<()>>) -> Vec<(Done, Result<()>)> {
        let mut taken = Vec::new();
        for waiter in std::mem::take(&mut self.queue) {
            match verdict(&waiter) {
                Some(result) => taken.push((waiter.done, result)),
                None => self.queue.push_back(waiter),
            }
        }
        taken
    }
}

impl Shared {
    /// The thread. The queue's lock is held during the attempts, which do not block, so that a waiter is
    /// either in the queue or answered; it is not held while answers are given.
    fn run(&self) {
        let mut pause = SHORTEST;
        let mut state = self.state.lock();
        loop {
            state.stirred = false;
            let answers = state.take(|waiter| match waiter.attempt.make() {
                Err(Errno::AGAIN) => None,
                result => Some(result),
            });
            if !answers.is_empty() {
                parking_lot::MutexGuard::unlocked(&mut state, || answer(answers));
                // What was granted may have made a lock weaker.
                continue;
            }
            if state.queue.is_empty() {
                state.served = false;
                return;
            }
            let quiet = !state.stirred && self.changed.wait_for(&mut state, pause).timed_out();
            pause = if quiet { (pause * 2).min(LONGEST) } else { SHORTEST };
        }
    }
}

impl Drop for Waiters {
    /// Everyone gets an answer, and the thread ends.
    fn drop(&mut self) {
        self.cancel(|_| true);
        self.shared.changed.notify_one();
    }
}

fn answer(answers: Vec<(Done, Result<()>)>) {
    for (done, result) in answers {
        done(result);
    }
}
