//! What does a ring thread do, from its start to its end?

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::busy_poll::BusyPoll;
use super::control::{Change, Controls, Order};
use super::engine::{self, Engine, Events, Sources, Wait};
use super::handle::{Notifiers, RingConfig, RingOptions, Stopped, Surroundings};
use super::queue::{Addresses, Queue, Runaway, SharedMemory};
use super::request::Requests;
use super::shrunk;
use super::sync::signal;
use crate::metrics::Limit;

/// Requests taken before what was answered is told to the driver: enough to spare calls, few enough
/// that the first of a batch does not wait for a long rest.
const BATCH: usize = 32;
/// How long answers may lie while the rest of a batch is served: about what asking for a wake-up costs the ring. The longer, the
/// more driver and ring take turns instead of working side by side, and both sleep in between, which costs more than calls.
const EARLY: Duration = Duration::from_micros(3);
/// While draining: how often waits are cancelled again, as a request may have begun to wait meanwhile.
const CANCEL_INTERVAL: Duration = Duration::from_millis(10);
/// Looks at the ring between two looks at the clock, while polling.
const LOOKS: u32 = 16;

/// The life of a ring thread. Says by `ready` whether it could begin.
pub(super) fn run(
    config: RingConfig,
    notifiers: Notifiers,
    surroundings: Surroundings,
    controls: &Arc<Controls>,
    ready: SyncSender<io::Result<()>>,
) -> Stopped {
    let next_avail = config.next_avail;
    let Notifiers { kick, call, err } = notifiers;
    if let Some(cpu) = surroundings.options.cpu {
        stay_on(cpu, &config.name);
    }
    let sources = Sources { kick: kick.as_fd(), mail: controls.wake().as_fd() };
    let memory = Rc::new(Arc::clone(&surroundings.memory));
    let prepared = surroundings.service.prepare_thread();
    let engine = prepared.and_then(|()| engine::new(surroundings.options.engine, config.size, sources));
    let begun = engine.and_then(|engine| {
        let (addresses, size, event_idx) = (config.addresses(), config.size, config.event_idx);
        let queue = Queue::new(&memory, addresses, size, next_avail, event_idx)
            .ok_or_else(|| misplaced(&config, "has a size that is no power of two, or "))?;
        surroundings.service.confine_thread()?;
        Ok((engine, queue))
    });
    let (mut engine, queue) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = ready.send(Err(error));
            return Stopped { next_avail };
        }
    };
    tracing::debug!("ring {} moves data by {}", config.name, engine.name());
    let busy_poll = BusyPoll::new(surroundings.options.busy_poll);
    let RingOptions { rest, in_flight, kept_bytes, .. } = surroundings.options.clone();
    let requests = Requests::new(&config, surroundings, Arc::clone(controls));
    engine.set_call(call);
    let mut worker = Worker {
        config,
        err,
        engine,
        queue,
        memory,
        requests,
        busy_poll,
        rest,
        in_flight,
        kept_bytes,
        full: false,
        taken: 0,
        placed: true,
        broken: false,
    };
    let _ = ready.send(Ok(()));
    drop(ready);
    let closing = Closing(controls);
    worker.serve(controls);
    drop(closing);
    Stopped { next_avail: worker.queue.next_avail() }
}

/// Whoever waits for a change of this ring to be made does not wait on when it ends, be it by unwinding.
struct Closing<'a>(&'a Controls);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Pins the calling thread. A CPU that is not to be had (any more) costs speed, not service.
fn stay_on(cpu: usize, ring: &str) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    if let Err(error) = sched_setaffinity(None, &cpus) {
        tracing::warn!("ring {ring} cannot stay on CPU {cpu}: {error}");
    }
}

fn misplaced(config: &RingConfig, why: &str) -> io::Error {
    let RingConfig { name, size, descriptors, available, used, .. } = config;
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "ring {name} of {size} descriptors {why}is not aligned inside one memory region: \
             descriptors at {descriptors:#x}, available ring at {available:#x}, used ring at {used:#x}"
        ),
    )
}

impl RingConfig {
    fn addresses(&self) -> Addresses {
        let Self { descriptors, available, used, .. } = *self;
        Addresses { descriptors, available, used }
    }
}

struct Worker<'a> {
    config: RingConfig,
    /// Signalled when the ring is broken.
    err: Option<OwnedFd>,
    engine: Box<dyn Engine + 'a>,
    queue: Queue,
    memory: SharedMemory,
    requests: Requests,
    busy_poll: BusyPoll,
    rest: Duration,
    in_flight: Arc<Limit>,
    kept_bytes: Arc<Limit>,
    /// Whether one of them keeps requests waiting.
    full: bool,
    /// Requests taken since the last rest.
    taken: u16,
    /// Whether the virtqueue lies in the newest memory table.
    placed: bool,
    /// Whether the driver was found to break the rules; nothing more is taken then.
    broken: bool,
}

impl Worker<'_> {
    fn serve(&mut self, controls: &Arc<Controls>) {
        let mut events = Events::default();
        let (mut orders, mut answers) = (Vec::new(), Vec::new());
        let mut stopping = false;
        loop {
            let more = !stopping && self.take_requests();
            if shrunk::news() {
                tracing::error!(
                    "the front-end has made a file shorter that holds guest memory: zeroes stand in its place"
                );
            }
            self.note_waiting();
            self.publish();
            if stopping && self.requests.in_flight() == 0 {
                // The last signal has to go out.
                self.collect(Wait::No, &mut events);
                return;
            }
            if more {
                self.collect(Wait::No, &mut events);
            } else if stopping {
                self.collect(Wait::AtMost(CANCEL_INTERVAL), &mut events);
            } else if self.may_rest() {
                self.collect(Wait::AtMost(self.rest), &mut events);
            } else if self.busy_poll.is_on() {
                self.look_then_sleep(&mut events);
            } else {
                self.sleep(&mut events);
            }
            events.kicked = false;
            for (key, attempt) in events.attempts.drain(..) {
                self.requests.attempted(&mut self.queue, &mut *self.engine, key, attempt);
            }
            if std::mem::take(&mut events.mail) {
                stopping |= controls.take(&mut orders, &mut answers);
                for Order { change, done } in orders.drain(..) {
                    let _ = done.send(self.apply(change));
                }
                for answer in answers.drain(..) {
                    self.requests.answered(&mut self.queue, &mut *self.engine, answer);
                }
            }
            if stopping {
                self.requests.cancel_waits();
            }
        }
    }

    /// Submits what was begun and collects what happened.
    fn collect(&mut self, wait: Wait, events: &mut Events) {
        if let Err(error) = self.engine.wait(wait, events) {
            tracing::error!("ring {} cannot wait for events: {error}", self.config.name);
            // Not to spin on an error that stays.
            std::thread::sleep(CANCEL_INTERVAL);
        }
    }

    /// Whether to let requests gather, unasked for, before the next are taken.
    fn may_rest(&mut self) -> bool {
        let taken = std::mem::take(&mut self.taken);
        !self.rest.is_zero() && (1..self.queue.size().div_ceil(2)).contains(&taken)
    }

    /// Waits for a kick or another event; returns at once where there is a request already.
    fn sleep(&mut self, events: &mut Events) {
        let wait = if self.await_kick() { Wait::No } else { Wait::Forever };
        self.collect(wait, events);
    }

    /// The same, but looks around for a while before.
    fn look_then_sleep(&mut self, events: &mut Events) {
        let idle_since = Instant::now();
        let window = self.busy_poll.window();
        if !window.is_zero() {
            // What was begun has to be under way before it can end.
            self.collect(Wait::No, events);
            while !events.any() && idle_since.elapsed() < window {
                for _ in 0..LOOKS {
                    if self.engine.is_ready() || (self.accepts() && self.queue.has_more()) {
                        return self.collect(Wait::No, events);
                    }
                    std::hint::spin_loop();
                }
            }
            if events.any() {
                return;
            }
        }
        self.sleep(events);
        self.busy_poll.slept(idle_since.elapsed());
    }

    fn accepts(&self) -> bool {
        self.config.enabled && self.placed && !self.broken && self.exhausted().is_none()
    }

    /// The limit that keeps more requests from being taken. There are requests in flight then, whose end is heard of.
    fn exhausted(&self) -> Option<&Limit> {
        // A driver that reuses descriptors before they are used could fill our memory otherwise.
        let most = self.in_flight.max().min(usize::from(self.queue.size()));
        if self.requests.in_flight() >= most {
            return Some(&self.in_flight);
        }
        (self.requests.kept_bytes() > self.kept_bytes.max()).then_some(&self.kept_bytes)
    }

    /// Counts how often requests had to wait for a limit.
    fn note_waiting(&mut self) {
        let full = match self.exhausted() {
            Some(limit) if self.queue.has_more() => {
                if !self.full {
                    limit.refuse();
                }
                true
            }
            _ => false,
        };
        self.full = full;
    }

    /// Takes a batch of requests. Returns whether there may be more.
    fn take_requests(&mut self) -> bool {
        let mut told = Instant::now();
        for _ in 0..BATCH {
            if !self.accepts() {
                return false;
            }
            match self.queue.pop() {
                Ok(Some(head)) => {
                    self.taken = self.taken.saturating_add(1);
                    let log = self.requests.ring_log();
                    self.queue.disable_kicks(log);
                    self.requests.begin(&mut self.queue, &self.memory, &mut *self.engine, head);
                    if self.publish_early(told) {
                        told = Instant::now();
                    }
                }
                Ok(None) => return false,
                Err(runaway) => {
                    self.give_up(runaway);
                    return false;
                }
            }
        }
        true
    }

    /// Asks for a kick. Returns whether there is a request already.
    fn await_kick(&mut self) -> bool {
        if !self.accepts() {
            return false;
        }
        let log = self.requests.ring_log();
        match self.queue.enable_kicks(log) {
            Ok(more) => more,
            Err(runaway) => {
                self.give_up(runaway);
                false
            }
        }
    }

    fn give_up(&mut self, runaway: Runaway) {
        self.broken = true;
        tracing::error!("ring {} is broken and serves no more requests: {runaway}", self.config.name);
        if let Some(err) = &self.err {
            signal(err.as_fd());
        }
    }

    /// Lets the driver work on answers while more requests are being served, so that neither waits for the other; it
    /// is woken now if it sleeps. Not for each answer: a wake-up, which is an interruption of the guest, costs more
    /// than many a request. Returns whether it did.
    fn publish_early(&mut self, since: Instant) -> bool {
        let worthwhile = self.queue.has_more() && self.queue.unpublished() > 0 && since.elapsed() >= EARLY;
        if worthwhile {
            let log = self.requests.ring_log();
            if self.queue.publish(log) {
                self.engine.signal_now();
            }
        }
        worthwhile
    }

    /// Tells the driver what was answered, with one call for all.
    fn publish(&mut self) {
        let log = self.requests.ring_log();
        if self.queue.publish(log) {
            self.engine.signal();
        }
    }

    fn apply(&mut self, change: Change) -> io::Result<()> {
        match change {
            Change::Memory(memory) => {
                let memory = Rc::new(memory);
                let found = self.queue.relocated(&memory, self.config.addresses());
                self.placed = found.is_some();
                // Without a place in the new table the old one is kept for the used ring: requests in flight
                // have to be answered somewhere.
                self.queue = found.map_or_else(|| Err(misplaced(&self.config, "")), Ok)?;
                self.memory = memory;
            }
            Change::Call(call) => {
                self.engine.set_call(call);
                self.engine.signal();
            }
            Change::Err(err) => self.err = err,
            Change::Enabled(enabled) => self.config.enabled = enabled,
            Change::DirtyLog(log) => self.requests.set_dirty_log(log),
            Change::LogAddress(address) => self.requests.set_log_address(address),
        }
        Ok(())
    }
}
