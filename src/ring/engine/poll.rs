//! The engine for hosts without io_uring: `poll(2)` to wait, system calls that may wait to move bytes.

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};

use super::movement::Next;
use super::{Engine, Events, Movement, Sources, Wait, syscall};
use crate::ring::slot::Key;

/// See the module.
#[derive(Debug)]
pub(super) struct Poll<'a> {
    sources: Sources<'a>,
}

impl<'a> Poll<'a> {
    pub(super) fn new(sources: Sources<'a>) -> Self {
        Self { sources }
    }
}

impl Engine for Poll<'_> {
    fn name(&self) -> &'static str {
        "system calls"
    }

    fn start(&mut self, _: Key, movement: &mut Movement) -> Option<io::Result<usize>> {
        while let Some(attempt) = movement.attempt() {
            if let Next::Done(outcome) = movement.record(syscall::perform(&attempt, 0)) {
                return Some(outcome);
            }
        }
        Some(Ok(0))
    }

    fn resume(
        &mut self,
        key: Key,
        movement: &mut Movement,
        _: io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        // Never asked for: no attempt outlives `start`.
        self.start(key, movement)
    }

    fn wait(&mut self, wait: Wait, events: &mut Events) -> io::Result<()> {
        let timeout = match wait {
            Wait::No => Some(Timespec { tv_sec: 0, tv_nsec: 0 }),
            Wait::AtMost(time) => Some(Timespec::try_from(time).map_err(|_| Errno::INVAL)?),
            Wait::Forever => None,
        };
        let Sources { kick, mail } = self.sources;
        let mut fds =
            [PollFd::from_borrowed_fd(kick, PollFlags::IN), PollFd::from_borrowed_fd(mail, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [kicked, posted] = fds.map(|fd| fd.revents());
        // A counter that stays set would end the next wait at once. Only this thread reads it, so a read
        // after POLLIN does not wait.
        let mut counter = [0_u8; 8];
        for (ready, fd) in [(kicked, kick), (posted, mail)] {
            if ready.contains(PollFlags::IN) {
                let _ = read(fd, &mut counter);
            }
        }
        events.kicked |= !kicked.is_empty();
        events.mail |= !posted.is_empty();
        Ok(())
    }
}
