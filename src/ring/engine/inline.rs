//! What of a movement can be done at once, on the ring thread?
//!
//! What the host's page cache has is copied at once (`RWF_NOWAIT`), and what it is to take as well, as long as
//! that is quick ([`Pace`]): handing it to somebody else would cost more than the copy. Everything else waits for
//! storage and is left to the engine: direct I/O from the start, and writes that are to be durable.

use std::io;
use std::time::Instant;

use super::movement::{Attempt, Movement, Next};
use super::pace::Pace;
use super::syscall;
use crate::fuse::Direction;

/// How a movement goes on.
pub(super) enum Step {
    /// It ended.
    Done(io::Result<usize>),
    /// This attempt may wait: the engine has to make it elsewhere.
    Elsewhere(Attempt),
}

/// How attempts are made on the ring thread.
#[derive(Debug)]
pub(super) struct Inline {
    /// Whether `RWF_NOWAIT` is to be tried for reads.
    nowait_reads: bool,
    writes: Pace,
}

impl Inline {
    /// `nowait` where the kernel's answers can be believed: Linux 5.9 and 5.10 answer 0 in the middle of a
    /// file.
    pub(super) fn new(nowait: bool) -> Self {
        Self { nowait_reads: nowait, writes: Pace::default() }
    }

    /// Goes on with a movement as far as that is possible without waiting; with `try_inline` unset not at all.
    pub(super) fn advance(&mut self, movement: &mut Movement, try_inline: bool) -> Step {
        loop {
            let Some(attempt) = movement.attempt() else { return Step::Done(Ok(0)) };
            let outcome = if try_inline { self.perform(&attempt) } else { None };
            let Some(outcome) = outcome else { return Step::Elsewhere(attempt) };
            if let Next::Done(outcome) = movement.record(outcome) {
                return Step::Done(outcome);
            }
        }
    }

    /// The outcome of an attempt; none where it has to be made elsewhere.
    fn perform(&mut self, attempt: &Attempt) -> Option<io::Result<usize>> {
        match attempt.direction {
            _ if attempt.direct => None,
            Direction::Read if !self.nowait_reads => None,
            Direction::Read => {
                let outcome = syscall::perform(attempt, libc::RWF_NOWAIT);
                match outcome.as_ref().err().and_then(io::Error::raw_os_error) {
                    Some(libc::EAGAIN) => None,
                    Some(libc::EOPNOTSUPP) => {
                        self.nowait_reads = false;
                        None
                    }
                    _ => Some(outcome),
                }
            }
            Direction::Write if attempt.is_durable() || !self.writes.is_quick() => None,
            Direction::Write => {
                let began = Instant::now();
                let outcome = syscall::perform(attempt, 0);
                self.writes.took(began.elapsed());
                Some(outcome)
            }
        }
    }
}
