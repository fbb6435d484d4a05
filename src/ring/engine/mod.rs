//! How does a ring thread wait, and how does it move bytes without waiting?
//!
//! One trait, two ways: [`uring`] does both in one io_uring, [`threads`] does the first with `poll(2)` and
//! the second with system calls on a few threads, for hosts where io_uring is forbidden. Nothing above
//! knows which.

mod inline;
mod movement;
mod pace;
mod restrict;
mod syscall;
mod threads;
mod uring;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::handle::EngineKind;
use super::slot::Key;

use inline::{Inline, Step};
pub(super) use movement::Movement;
use movement::Next;
pub(super) use uring::probe as probe_uring;

/// How long to wait for an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// Only look.
    No,
    /// Until there is an event, at most this long.
    AtMost(Duration),
    /// Until there is an event.
    Forever,
}

/// What happened; reused from wait to wait.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The driver kicked, or may have.
    pub(super) kicked: bool,
    /// There may be mail.
    pub(super) mail: bool,
    /// Attempts that ended: bytes moved, or an errno.
    pub(super) attempts: Vec<(Key, io::Result<usize>)>,
}

impl Events {
    /// Whether anything happened.
    pub(super) fn any(&self) -> bool {
        self.kicked || self.mail || !self.attempts.is_empty()
    }
}

/// The descriptors a ring thread listens to; open as long as the engine lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    pub(super) kick: BorrowedFd<'a>,
    pub(super) mail: BorrowedFd<'a>,
}

/// Waits and moves bytes, on the one thread that made it.
pub(super) trait Engine {
    /// What to call it in messages.
    fn name(&self) -> &'static str;

    /// What this engine makes on the ring thread itself.
    fn inline(&mut self) -> &mut Inline;

    /// Begins a movement. Returns its outcome where it is done already; otherwise attempts at it will
    /// show in [`Events::attempts`] under `key`, each to be handed to [`resume`](Self::resume). Until
    /// then the buffers of `movement` must stay where they are. `company` tells, when it is called, whether the ring
    /// has other requests.
    fn start(
        &mut self,
        key: Key,
        movement: &mut Movement,
        company: &dyn Fn() -> bool,
    ) -> Option<io::Result<usize>> {
        let step = self.inline().begin(movement, company);
        self.take(key, movement, step)
    }

    /// Notes the end of an attempt, and goes on where bytes are left. Returns as [`start`](Self::start).
    fn resume(
        &mut self,
        key: Key,
        movement: &mut Movement,
        attempt: io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        match movement.record(attempt) {
            Next::Done(outcome) => Some(outcome),
            Next::Again => {
                let step = self.inline().go_on(movement);
                self.take(key, movement, step)
            }
        }
    }

    /// Takes a step of a movement. Returns as [`start`](Self::start).
    fn take(&mut self, key: Key, movement: &mut Movement, step: Step) -> Option<io::Result<usize>>;

    /// Submits what was started and collects what happened.
    fn wait(&mut self, wait: Wait, events: &mut Events) -> io::Result<()>;

    /// Names the eventfd that [`signal`](Self::signal) signals from now on; what was signalled before may reach
    /// either.
    fn set_call(&mut self, call: Option<OwnedFd>);

    /// Signals the driver, at the latest with the next [`wait`](Self::wait). Nothing where there is no eventfd.
    fn signal(&mut self);

    /// The same at once.
    fn signal_now(&mut self);

    /// Whether [`wait`](Self::wait) has something to collect, as far as that can be told without a system call.
    fn is_ready(&mut self) -> bool;
}

/// Makes the engine that `kind` asks for, for a queue of `depth` requests.
pub(super) fn new<'a>(
    kind: EngineKind,
    depth: u16,
    sources: Sources<'a>,
) -> io::Result<Box<dyn Engine + 'a>> {
    if kind != EngineKind::Threads {
        match uring::Uring::new(depth, sources) {
            Ok(engine) => return Ok(Box::new(engine)),
            Err(error) if kind == EngineKind::Uring => return Err(error),
            Err(error) => tracing::warn!("io_uring is not available ({error}); threads move data instead"),
        }
    }
    Ok(Box::new(threads::Threads::new(sources)?))
}
