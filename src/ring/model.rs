//! Does the hand-over between threads work in every order of events?
//!
//! `control.rs` and `offload.rs` as they are, compiled once more over means (`sync`) of loom, which runs each test in every
//! order that the threads could take (with at most [`PREEMPTIONS`]). Only the ring's thread is an
//! extract: of `Worker::serve` it has the loop that takes mail, counts what is in flight and ends. A wake-up that is
//! lost in any order is a deadlock, which loom reports.

#![allow(dead_code, reason = "a second copy of modules of which the tests need a part")]

#[allow(clippy::duplicate_mod, reason = "the point of this file")]
#[path = "control.rs"]
mod control;
#[allow(clippy::duplicate_mod, reason = "as above")]
#[path = "offload.rs"]
mod offload;

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::{dirty_log, memory, slot};
use control::{Answer, Change, Controls, Order, Verdict};
use offload::Offload;
use slot::Key;

/// The means of `sync.rs`, by loom.
mod sync {
    use std::io;
    use std::ops::{Deref, DerefMut};
    use std::sync::Arc;

    #[derive(Debug, Default)]
    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    pub(super) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    #[derive(Debug, Default)]
    pub(super) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(super) fn new() -> Self {
            Self::default()
        }

        pub(super) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.0 = guard.0.take().map(|guard| self.0.wait(guard).unwrap());
        }

        pub(super) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(super) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    pub(super) fn spawn(_name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        loom::thread::spawn(run);
        Ok(())
    }

    /// A counter that can be waited for, which is what an eventfd is.
    #[derive(Debug, Default)]
    pub(super) struct Wake {
        count: Mutex<u64>,
        changed: Condvar,
    }

    impl Wake {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self::default())
        }

        pub(super) fn signal(&self) {
            *self.count.lock() += 1;
            self.changed.notify_all();
        }

        pub(super) fn wait(&self) {
            let mut count = self.count.lock();
            while *count == 0 {
                self.changed.wait(&mut count);
            }
            *count = 0;
        }
    }

    /// A channel for one value, or for the news that none will come.
    #[derive(Debug)]
    struct Slot<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    #[derive(Debug)]
    struct State<T> {
        value: Option<T>,
        closed: bool,
    }

    #[derive(Debug)]
    pub(super) struct SyncSender<T>(Arc<Slot<T>>);

    pub(super) struct Receiver<T>(Arc<Slot<T>>);

    pub(super) fn sync_channel<T>(_bound: usize) -> (SyncSender<T>, Receiver<T>) {
        let state = Mutex(loom::sync::Mutex::new(State { value: None, closed: false }));
        let slot = Arc::new(Slot { state, changed: Condvar::new() });
        (SyncSender(Arc::clone(&slot)), Receiver(slot))
    }

    impl<T> SyncSender<T> {
        pub(super) fn send(&self, value: T) {
            self.0.state.lock().value = Some(value);
            self.0.changed.notify_all();
        }
    }

    impl<T> Drop for SyncSender<T> {
        fn drop(&mut self) {
            self.0.state.lock().closed = true;
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub(super) fn recv(self) -> Result<T, ()> {
            let mut state = self.0.state.lock();
            while state.value.is_none() && !state.closed {
                self.0.changed.wait(&mut state);
            }
            state.value.take().ok_or(())
        }
    }
}

/// How often a thread may be interrupted in one order. Most defects need one or two; each more takes ten times as long.
const PREEMPTIONS: usize = 2;

fn all_orders(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(test);
}

/// A ring thread with this many requests elsewhere. Returns how many changes it made.
fn serve(controls: &Controls, in_flight: usize) -> usize {
    let (mut orders, mut answers) = (Vec::new(), Vec::new());
    let (mut in_flight, mut made, mut stopping) = (in_flight, 0, false);
    while !stopping || in_flight > 0 {
        controls.wake().wait();
        stopping |= controls.take(&mut orders, &mut answers);
        for Order { done, .. } in orders.drain(..) {
            made += 1;
            done.send(Ok(()));
        }
        in_flight = in_flight.checked_sub(answers.drain(..).count()).expect("an answer too many");
    }
    controls.close();
    made
}

fn answer(index: u32) -> Answer {
    Answer { key: Key { index, generation: 0 }, verdict: Verdict::GaveUp }
}

/// Answers and a stop arrive in every order: the ring ends, and not before it has all answers.
#[test]
fn a_ring_that_stops_waits_for_every_answer() {
    all_orders(|| {
        let controls = Arc::new(Controls::new().unwrap());
        for index in 0..2 {
            let controls = Arc::clone(&controls);
            sync::spawn("slow", move || controls.answer(answer(index))).unwrap();
        }
        let device = Arc::clone(&controls);
        sync::spawn("device", move || device.stop()).unwrap();
        assert_eq!(serve(&controls, 2), 0);
    });
}

/// A change is made before whoever asked for it goes on, and then the ring stops.
#[test]
fn a_change_is_made_before_the_stop_that_follows_it() {
    all_orders(|| {
        let controls = Arc::new(Controls::new().unwrap());
        let device = Arc::clone(&controls);
        let slow = Arc::clone(&controls);
        sync::spawn("slow", move || slow.answer(answer(0))).unwrap();
        let device = loom::thread::spawn(move || {
            let made = device.send(Change::Enabled(false));
            device.stop();
            made
        });
        assert_eq!(serve(&controls, 1), 1);
        assert!(device.join().unwrap().is_ok());
    });
}

/// A change that meets the end of the ring is made or refused; nobody waits for it for ever.
#[test]
fn a_change_that_comes_too_late_is_refused() {
    all_orders(|| {
        let controls = Arc::new(Controls::new().unwrap());
        let late = Arc::clone(&controls);
        let late = loom::thread::spawn(move || late.send(Change::Enabled(true)));
        let device = Arc::clone(&controls);
        sync::spawn("device", move || device.stop()).unwrap();
        let made = serve(&controls, 0);
        assert_eq!(late.join().unwrap().is_ok(), made == 1);
    });
}

/// Requests go to the pool, their answers come back, and the pool ends with its owner.
#[test]
fn what_the_pool_was_given_is_answered_before_the_ring_ends() {
    for limit in [1, 2] {
        all_orders(move || {
            let controls = Arc::new(Controls::new().unwrap());
            let pool = Offload::new(NonZeroUsize::new(limit).unwrap());
            for index in 0..2 {
                let controls = Arc::clone(&controls);
                pool.run(move || controls.answer(answer(index))).unwrap();
            }
            let device = Arc::clone(&controls);
            sync::spawn("device", move || device.stop()).unwrap();
            serve(&controls, 2);
        });
    }
}
