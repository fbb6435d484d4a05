//! The engine for hosts without io_uring: `poll(2)` to wait, and a few threads to move bytes.
//!
//! What the page cache has is moved on the ring thread, as everywhere. An attempt that may wait goes to a
//! thread of this ring's own crew, so that several can be under way and a slow one stops nobody; its outcome
//! comes back by a list and an eventfd. The crew is apart from the [`Offload`] of slow requests, whose fsyncs
//! would otherwise keep reads waiting.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read};

use super::inline::{Inline, Step};
use super::movement::{Attempt, Next};
use super::{Engine, Events, Movement, Sources, Wait, syscall};
use crate::ring::offload::Offload;
use crate::ring::slot::Key;
use crate::ring::sync::signal;

/// Threads of one ring at most, started when they are needed: each keeps one attempt going, and a disk gains
/// little from more.
const CREW: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// See the module.
#[derive(Debug)]
pub(super) struct Threads<'a> {
    sources: Sources<'a>,
    inline: Inline,
    crew: Offload,
    ended: Arc<Ended>,
    call: Option<OwnedFd>,
    /// Attempts that the crew has.
    under_way: usize,
}

/// What the crew has done.
#[derive(Debug)]
struct Ended {
    attempts: Mutex<Vec<(Key, io::Result<usize>)>>,
    wake: OwnedFd,
}

/// An attempt on its way to another thread.
struct Portable(Attempt);

// SAFETY: what it points to belongs to a movement whose slot stays in the in-flight table, unmoved, until this
// attempt's end was collected; the engine does not end before (`Drop`). Nobody else touches it meanwhile.
unsafe impl Send for Portable {}

impl Portable {
    fn perform(&self) -> io::Result<usize> {
        syscall::perform(&self.0, 0)
    }
}

impl<'a> Threads<'a> {
    pub(super) fn new(sources: Sources<'a>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            sources,
            // They are there for old kernels, too.
            inline: Inline::new(false),
            crew: Offload::new(CREW),
            ended: Arc::new(Ended { attempts: Mutex::default(), wake }),
            call: None,
            under_way: 0,
        })
    }
}

impl Engine for Threads<'_> {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn inline(&mut self) -> &mut Inline {
        &mut self.inline
    }

    fn take(&mut self, key: Key, movement: &mut Movement, step: Step) -> Option<io::Result<usize>> {
        let mut step = step;
        loop {
            let attempt = match step {
                Step::Done(outcome) => return Some(outcome),
                Step::Elsewhere(attempt) => attempt,
            };
            let (portable, ended) = (Portable(attempt), Arc::clone(&self.ended));
            let handed_over = self.crew.run(move || {
                let outcome = portable.perform();
                let mut attempts = ended.attempts.lock();
                attempts.push((key, outcome));
                if attempts.len() == 1 {
                    signal(ended.wake.as_fd());
                }
            });
            match handed_over {
                Ok(()) => {
                    self.under_way += 1;
                    return None;
                }
                // No thread to be had at all: the ring thread does what it can by itself.
                Err(_) => match movement.record(syscall::perform(&attempt, 0)) {
                    Next::Done(outcome) => return Some(outcome),
                    Next::Again => step = self.inline.go_on(movement),
                },
            }
        }
    }

    fn wait(&mut self, wait: Wait, events: &mut Events) -> io::Result<()> {
        let timeout = match wait {
            Wait::No => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
            Wait::AtMost(time) => Some(Timespec::try_from(time).map_err(|_| Errno::INVAL)?),
            Wait::Forever => None,
        };
        let Sources { kick, mail } = self.sources;
        let sources = [kick, mail, self.ended.wake.as_fd()];
        let mut fds = sources.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = fds.map(|fd| fd.revents());
        // A counter that stays set would end the next wait at once. Only this thread reads it, so a read
        // after POLLIN does not wait.
        let mut counter = [0_u8; 8];
        for (ready, fd) in happened.iter().zip(sources) {
            if ready.contains(PollFlags::IN) {
                let _ = read(fd, &mut counter);
            }
        }
        let [kicked, posted, ended] = happened.map(|happened| !happened.is_empty());
        events.kicked |= kicked;
        events.mail |= posted;
        if ended {
            let before = events.attempts.len();
            events.attempts.append(&mut self.ended.attempts.lock());
            self.under_way = self.under_way.saturating_sub(events.attempts.len() - before);
        }
        Ok(())
    }

    fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
    }

    fn signal(&mut self) {
        self.signal_now();
    }

    fn signal_now(&mut self) {
        if let Some(call) = &self.call {
            signal(call.as_fd());
        }
    }

    fn is_ready(&mut self) -> bool {
        self.under_way > 0 && !self.ended.attempts.lock().is_empty()
    }
}

impl Drop for Threads<'_> {
    fn drop(&mut self) {
        // A ring drains before it ends, so this waits for nothing, unless the ring thread is unwinding.
        let mut events = Events::default();
        while self.under_way > 0 && self.wait(Wait::Forever, &mut events).is_ok() {}
    }
}
