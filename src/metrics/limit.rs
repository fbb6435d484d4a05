//! How much of something is there, how much may there be, and how often was that too little?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tracing::warn;

/// A bound on what a guest can make the daemon hold.
///
/// The first refusal is logged, all are counted: a guest that asks again and again must not fill the log. Nothing is
/// ordered by the counts; whoever takes holds the lock of what is bounded, or needs none.
#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    max: usize,
    used: AtomicUsize,
    refusals: AtomicU64,
}

/// One that was counted in, until this is dropped.
#[derive(Debug)]
pub struct Taken(Arc<Limit>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

impl Limit {
    /// Of nothing yet, at most `max`. `name` is the option by which the operator sets it.
    #[must_use]
    pub const fn new(name: &'static str, max: usize) -> Self {
        Self { name, max, used: AtomicUsize::new(0), refusals: AtomicU64::new(0) }
    }

    /// Counts `more` in, or nothing and a refusal where there would be more than the limit.
    #[must_use]
    pub fn take(&self, more: usize) -> bool {
        self.take_leaving(more, 0)
    }

    /// Counts one in for as long as the answer lives; none, and a refusal, where less than `spare` would be left.
    #[must_use]
    pub fn hold(self: &Arc<Self>, spare: usize) -> Option<Taken> {
        self.take_leaving(1, spare).then(|| Taken(Arc::clone(self)))
    }

    fn take_leaving(&self, more: usize, spare: usize) -> bool {
        let most = self.max.saturating_sub(spare);
        let room = |used: usize| used.checked_add(more).filter(|used| *used <= most);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if !taken {
            self.refuse();
        }
        taken
    }

    /// Counts a refusal of what is not held but bounded all the same, such as the size of one request.
    pub fn refuse(&self) {
        if self.refusals.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!("{} {} is reached: the guest is refused more", self.name, self.max);
        }
    }

    /// Counts out what was taken.
    pub fn give_back(&self, less: usize) {
        self.used.fetch_sub(less, Ordering::Relaxed);
    }

    /// The option by which the operator sets it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The most that there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// How much there is.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How often more was refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_given_out() {
        let limit = Limit::new("--max-things", 5);
        assert!(limit.take(3) && limit.take(2));
        assert!(!limit.take(1) && !limit.take(usize::MAX));
        assert_eq!((limit.used(), limit.refusals()), (5, 2));
        limit.give_back(3);
        assert!(!limit.take(4) && limit.take(3) && limit.take(0));
        assert_eq!((limit.used(), limit.refusals()), (5, 3));
    }

    #[test]
    fn what_is_held_comes_back_by_itself_and_leaves_what_it_is_to_leave() {
        let limit = Arc::new(Limit::new("--max-things", 3));
        let first = limit.hold(2);
        assert!(first.is_some() && limit.hold(2).is_none());
        let others = [limit.hold(0), limit.hold(0), limit.hold(0)];
        assert_eq!(others.iter().flatten().count(), 2);
        assert_eq!((limit.used(), limit.refusals()), (3, 2));
        drop((first, others));
        assert_eq!(limit.used(), 0);
        assert!(limit.hold(4).is_none());
    }

    #[test]
    fn threads_that_race_get_no_more_between_them() {
        let limit = Limit::new("--max-things", 100);
        let given: usize = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| limit.take(1)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((given, limit.used(), limit.refusals()), (100, 100, 3900));
    }
}
