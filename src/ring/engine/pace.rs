//! Is a call that may wait quick enough to be made on the ring thread?
//!
//! A write to the page cache is a copy in nearly all cases, but no flag tells beforehand: ext4 does not know
//! `RWF_NOWAIT` for writes, and others refuse it wherever a block has to be reserved. Handing each to another
//! thread would cost several times the copy. So it is tried here, until one was slow: the kernel throttles
//! writers when too much is dirty. Then the next ones are made elsewhere, the more of them the more often that
//! happens in a row.

use std::time::Duration;

/// What a ring may be kept from its other requests now and then. A copy of 1 MiB takes a fifth of it.
const SLOW: Duration = Duration::from_millis(1);
/// How many are made elsewhere after the first slow one, and at most.
const FIRST: u32 = 16;
const MOST: u32 = 4096;

/// How calls of one kind went lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// How many more are to be made elsewhere.
    elsewhere: u32,
    /// How many it was the last time; zero after a quick one.
    last: u32,
}

impl Pace {
    /// Whether to make the next call on the ring thread.
    pub(super) fn is_quick(&mut self) -> bool {
        self.elsewhere == 0 || {
            self.elsewhere -= 1;
            false
        }
    }

    /// Learns how long a call took that was made on the ring thread.
    pub(super) fn took(&mut self, time: Duration) {
        if time < SLOW {
            self.last = 0;
        } else {
            self.last = (self.last * 2).clamp(FIRST, MOST);
            self.elsewhere = self.last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_calls_are_made_elsewhere_for_longer_each_time() {
        let mut pace = Pace::default();
        let until_quick = |pace: &mut Pace| (0..).position(|_| pace.is_quick()).unwrap();
        assert_eq!(until_quick(&mut pace), 0);
        pace.took(SLOW / 2);
        assert_eq!(until_quick(&mut pace), 0);
        let waits: Vec<_> = (0..11)
            .map(|_| {
                pace.took(SLOW);
                until_quick(&mut pace)
            })
            .collect();
        assert_eq!(waits, [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        pace.took(SLOW / 2);
        pace.took(SLOW);
        assert_eq!(until_quick(&mut pace), 16);
    }
}
