//! What of a movement can be done at once, on the ring thread?
//!
//! What the host's page cache has is copied at once (`RWF_NOWAIT`), and what it is to take as well, as long as
//! that is quick ([`Pace`]): handing it to somebody else would cost more than the copy. Everything else waits for
//! storage and is left to the engine: direct I/O from the start, and writes that are to be durable. But for a direct
//! large copy between small ones, which would wait for it: those go to another thread ([`Sizes`]). And but for a direct
//! write that is alone on its ring, and stays so: whoever writes one block after the other waits for each anyway.

use std::io;
use std::time::Instant;

use super::movement::{Attempt, Movement, Next};
use super::pace::{Pace, SLOW};
use super::syscall;
use crate::fuse::Direction;

/// How a movement goes on.
pub(in crate::ring) enum Step {
    /// It ended.
    Done(io::Result<usize>),
    /// This attempt may wait: the engine has to make it elsewhere.
    Elsewhere(Attempt),
}

/// Which sizes the transfers of a ring had lately.
///
/// A copy of 1 MiB takes as long as two hundred small requests. Where all are as large, the ring thread does them the
/// fastest, because the pages stay in one processor's cache; where small ones come between, each waits for it.
#[derive(Debug, Default)]
struct Sizes {
    /// How many more transfers count as coming soon after a small one.
    after_small: u8,
}

impl Sizes {
    /// Up to this many bytes a transfer is small, from that many on it is large.
    const SMALL: usize = 64 << 10;
    const LARGE: usize = 256 << 10;
    const SOON: u8 = 64;

    /// Notes a transfer; says whether it is a large one among small ones.
    fn is_out_of_place(&mut self, len: usize) -> bool {
        self.after_small = if len <= Self::SMALL { Self::SOON } else { self.after_small.saturating_sub(1) };
        len >= Self::LARGE && self.after_small > 0
    }
}

/// How attempts are made on the ring thread.
#[derive(Debug)]
pub(in crate::ring) struct Inline {
    /// Whether `RWF_NOWAIT` is to be tried for reads.
    nowait_reads: bool,
    /// Whether a file ends where such a read finds nothing.
    nowait_sees_the_end: bool,
    cached_writes: Pace,
    lone_writes: Pace,
    sizes: Sizes,
}

impl Inline {
    /// `sees_the_end` where a kernel's 0 can be believed: Linux 5.9 and 5.10 answer it in the middle of a file that is not in the
    /// page cache (readv(2), BUGS).
    pub(super) fn new(sees_the_end: bool) -> Self {
        Self {
            nowait_reads: true,
            nowait_sees_the_end: sees_the_end,
            cached_writes: Pace::default(),
            lone_writes: Pace::default(),
            sizes: Sizes::default(),
        }
    }

    /// Begins a movement, as far as that is possible here. `company` tells whether the ring has other requests.
    pub(super) fn begin(&mut self, movement: &mut Movement, company: &dyn Fn() -> bool) -> Step {
        if self.sizes.is_out_of_place(movement.len()) {
            movement.set_apart();
        }
        self.advance(movement, |inline, attempt| inline.perform(attempt, company))
    }

    /// Goes on with a movement that could not be done here.
    pub(super) fn go_on(&mut self, movement: &mut Movement) -> Step {
        self.advance(movement, |_, _| None)
    }

    fn advance(
        &mut self,
        movement: &mut Movement,
        perform: impl Fn(&mut Self, &Attempt) -> Option<io::Result<usize>>,
    ) -> Step {
        loop {
            let Some(attempt) = movement.attempt() else { return Step::Done(movement.end()) };
            let Some(outcome) = perform(self, &attempt) else { return Step::Elsewhere(attempt) };
            if let Next::Done(outcome) = movement.record(outcome) {
                return Step::Done(outcome);
            }
        }
    }

    /// The outcome of an attempt; none where it has to be made elsewhere.
    fn perform(&mut self, attempt: &Attempt, company: &dyn Fn() -> bool) -> Option<io::Result<usize>> {
        match (attempt.direction, attempt.direct) {
            _ if attempt.apart => None,
            (Direction::Read, true) => None,
            (Direction::Read, false) => self.read_cached(attempt),
            (Direction::Write, _) if attempt.is_durable() => None,
            (Direction::Write, true) if company() => None,
            (Direction::Write, true) => waiting(&mut self.lone_writes, attempt, || !company()),
            (Direction::Write, false) => waiting(&mut self.cached_writes, attempt, || true),
        }
    }

    fn read_cached(&mut self, attempt: &Attempt) -> Option<io::Result<usize>> {
        if !self.nowait_reads {
            return None;
        }
        let outcome = syscall::perform(attempt, libc::RWF_NOWAIT);
        if matches!(outcome, Ok(0)) && !self.nowait_sees_the_end {
            return None;
        }
        match outcome.as_ref().err().and_then(io::Error::raw_os_error) {
            Some(libc::EAGAIN) => None,
            Some(libc::EOPNOTSUPP) => {
                self.nowait_reads = false;
                None
            }
            _ => Some(outcome),
        }
    }
}

/// Makes an attempt that may wait, unless that was a mistake lately; whether it was one now, `went_well` tells
/// besides the time that it took.
fn waiting(pace: &mut Pace, attempt: &Attempt, went_well: impl Fn() -> bool) -> Option<io::Result<usize>> {
    if !pace.try_here() {
        return None;
    }
    let began = Instant::now();
    let outcome = syscall::perform(attempt, 0);
    pace.learn(began.elapsed() < SLOW && went_well());
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_transfer_is_out_of_place_only_among_small_ones() {
        let mut sizes = Sizes::default();
        assert!(!sizes.is_out_of_place(1 << 20));
        assert!(!sizes.is_out_of_place(4096));
        assert!(sizes.is_out_of_place(1 << 20));
        assert!(!sizes.is_out_of_place(128 << 10));
        let far = (0..100).map(|_| sizes.is_out_of_place(1 << 20)).filter(|out| *out).count();
        assert_eq!(far, usize::from(Sizes::SOON) - 3);
        assert!(!sizes.is_out_of_place(1 << 20));
    }
}
