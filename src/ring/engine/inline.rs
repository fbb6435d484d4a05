//! What of a movement can be done at once, on the ring thread?
//!
//! What the host's page cache has is copied at once (`RWF_NOWAIT`): handing it to somebody else would cost
//! more than the copy. Everything else, direct I/O from the start, waits for storage and is left to the engine.

use std::io;

use super::movement::{Attempt, Movement, Next};
use super::syscall;
use crate::fuse::Direction;

/// How a movement goes on.
pub(super) enum Step {
    /// It ended.
    Done(io::Result<usize>),
    /// This attempt may wait: the engine has to make it elsewhere.
    Elsewhere(Attempt),
}

/// Whether `RWF_NOWAIT` is to be tried for buffered reads and for buffered writes: not where a file system
/// said that it cannot (ext4 writes).
#[derive(Debug)]
pub(super) struct Inline {
    reads: bool,
    writes: bool,
}

impl Inline {
    /// `trusted` where the kernel's answers can be believed: Linux 5.9 and 5.10 answer 0 in the middle of a
    /// file.
    pub(super) fn new(trusted: bool) -> Self {
        Self { reads: trusted, writes: trusted }
    }

    /// Goes on with a movement as far as that is possible without waiting; with `try_inline` unset not at all.
    pub(super) fn advance(&mut self, movement: &mut Movement, try_inline: bool) -> Step {
        let mut try_inline = try_inline;
        loop {
            let Some(attempt) = movement.attempt() else { return Step::Done(Ok(0)) };
            let allowed = match attempt.direction {
                Direction::Read => &mut self.reads,
                Direction::Write => &mut self.writes,
            };
            if attempt.direct || !try_inline || !*allowed {
                return Step::Elsewhere(attempt);
            }
            let outcome = syscall::perform(&attempt, libc::RWF_NOWAIT);
            match outcome.as_ref().err().and_then(io::Error::raw_os_error) {
                Some(libc::EAGAIN) => try_inline = false,
                Some(libc::EOPNOTSUPP) => *allowed = false,
                _ => {
                    if let Next::Done(outcome) = movement.record(outcome) {
                        return Step::Done(outcome);
                    }
                }
            }
        }
    }
}
