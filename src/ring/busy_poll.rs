//! How long does a ring look for work before it sleeps?
//!
//! Waking up costs more than a short request, so where requests follow one another closely it pays to look
//! for the next one instead of sleeping. Where they do not, looking is a waste of the processor. The window
//! follows what is seen, as KVM's halt polling does: it grows when the thread slept and was woken
//! within the limit, so that looking longer would have saved the sleep, and shrinks when the work came later
//! than any looking could have waited for.

use std::time::Duration;

/// The first window, and the last before none: about what a sleep and a wake-up cost.
const SMALLEST: Duration = Duration::from_micros(8);

/// The window of one ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyPoll {
    limit: Duration,
    window: Duration,
}

impl BusyPoll {
    /// Never looks for longer than `limit`; zero never looks at all.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, window: Duration::ZERO }
    }

    /// Whether there is anything to measure.
    pub(super) fn is_on(&self) -> bool {
        !self.limit.is_zero()
    }

    /// How long to look now.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Learns from a sleep: work came `after` so long, counted from when there was none.
    pub(super) fn slept(&mut self, after: Duration) {
        if after <= self.limit {
            self.window = (self.window * 2).clamp(SMALLEST.min(self.limit), self.limit);
        } else {
            let half = self.window / 2;
            self.window = if half < SMALLEST { Duration::ZERO } else { half };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn close_requests_open_the_window_and_distant_ones_close_it() {
        let mut poll = BusyPoll::new(us(50));
        assert_eq!(poll.window(), Duration::ZERO);
        let grown: Vec<_> = (0..5)
            .map(|_| {
                poll.slept(us(30));
                poll.window()
            })
            .collect();
        assert_eq!(grown, [us(8), us(16), us(32), us(50), us(50)]);
        let shrunk: Vec<_> = (0..4)
            .map(|_| {
                poll.slept(us(51));
                poll.window()
            })
            .collect();
        assert_eq!(shrunk, [us(25), us(12) + Duration::from_nanos(500), Duration::ZERO, Duration::ZERO]);
    }

    proptest! {
        #[test]
        fn the_window_stays_within_the_limit(limit in 0_u64..1000, sleeps in prop::collection::vec(0_u64..2000, 0..50)) {
            let mut poll = BusyPoll::new(us(limit));
            for sleep in sleeps {
                poll.slept(us(sleep));
                prop_assert!(poll.window() <= us(limit));
            }
        }
    }
}
