//! Is a call that may wait worth making on the ring thread?
//!
//! A write to the page cache is a copy in nearly all cases, but no flag tells beforehand: ext4 does not know
//! `RWF_NOWAIT` for writes, and others refuse it wherever a block has to be reserved. A direct write that is alone
//! ends sooner when the thread waits for it than when a completion has to find the thread; but another
//! request may come meanwhile. So the call is made here, until that was a mistake. Then the next ones are made
//! elsewhere, the more of them the more often that happens in a row.

use std::time::Duration;

/// A call that takes longer was a mistake: the ring is not kept from its other requests so long. A copy of 1 MiB
/// takes a fifth of it.
pub(super) const SLOW: Duration = Duration::from_millis(1);
/// How many are made elsewhere after the first mistake, and at most.
const FIRST: u32 = 16;
const MOST: u32 = 4096;

/// How calls of one kind went lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// How many more are to be made elsewhere.
    elsewhere: u32,
    /// How many it was the last time; zero after a call that went well.
    last: u32,
}

impl Pace {
    /// Whether to make the next call on the ring thread.
    pub(super) fn try_here(&mut self) -> bool {
        self.elsewhere == 0 || {
            self.elsewhere -= 1;
            false
        }
    }

    /// Learns how a call went that was made on the ring thread.
    pub(super) fn learn(&mut self, went_well: bool) {
        if went_well {
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
    fn mistakes_are_avoided_for_longer_each_time() {
        let mut pace = Pace::default();
        let until_here = |pace: &mut Pace| (0..).position(|_| pace.try_here()).unwrap();
        assert_eq!(until_here(&mut pace), 0);
        pace.learn(true);
        assert_eq!(until_here(&mut pace), 0);
        let waits: Vec<_> = (0..11)
            .map(|_| {
                pace.learn(false);
                until_here(&mut pace)
            })
            .collect();
        assert_eq!(waits, [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        pace.learn(true);
        pace.learn(false);
        assert_eq!(until_here(&mut pace), 16);
    }
}
