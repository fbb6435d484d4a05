//! What do several rounds say together?
//!
//! The median says what is usual, the lowest and the highest how far it can be trusted. Ratios are taken round by
//! round, between contenders that were measured one after the other, and only then summed up: a machine that is slower
//! for a minute slows both, and the ratio stays.

use serde::Serialize;

use super::drive::Measured;

/// One round of one contender.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    /// Operations that were measured.
    pub(super) ops: u64,
    /// Seconds that it took.
    pub(super) seconds: f64,
    pub(super) ops_per_second: f64,
    pub(super) mib_per_second: f64,
    /// Latency of an operation in microseconds.
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
    /// What the daemon spent on an operation.
    pub(super) cpu_us_per_op: f64,
    pub(super) voluntary_switches_per_op: f64,
    pub(super) involuntary_switches_per_op: f64,
    /// Peak of the daemon's resident memory, from its start on.
    pub(super) peak_rss_kib: u64,
    /// What this program spent on an operation.
    pub(super) driver_cpu_us_per_op: f64,
    /// Of stall workloads: the same without the disturbance, and how many times as long it takes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quiet_p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99_disturbed_to_quiet: Option<f64>,
}

/// Median, lowest and highest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

#[allow(clippy::cast_precision_loss)] // 52 bits are enough for a figure.
fn real(number: u64) -> f64 {
    number as f64
}

/// A quotient; 0 where nothing can be divided.
fn per(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

/// How much of something came on one operation.
pub(super) fn per_op(amount: u64, measured: &Measured) -> f64 {
    per(real(amount), real(measured.tally.ops))
}

impl Round {
    pub(super) fn new(measured: &Measured) -> Self {
        let Measured { tally, elapsed, usage, own_cpu } = measured;
        let (seconds, ops) = (elapsed.as_secs_f64(), real(tally.ops));
        let quantile = |q| real(tally.latency.value_at_quantile(q)) / 1000.0;
        Self {
            ops: tally.ops,
            seconds,
            ops_per_second: per(ops, seconds),
            mib_per_second: per(real(tally.bytes) / 1_048_576.0, seconds),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: real(tally.latency.max()) / 1000.0,
            cpu_us_per_op: per(usage.cpu.as_secs_f64() * 1e6, ops),
            voluntary_switches_per_op: per(real(usage.voluntary), ops),
            involuntary_switches_per_op: per(real(usage.involuntary), ops),
            peak_rss_kib: usage.peak_kib,
            driver_cpu_us_per_op: per(own_cpu.as_secs_f64() * 1e6, ops),
            quiet_p99_us: None,
            p99_disturbed_to_quiet: None,
        }
    }

    /// Adds what the undisturbed half of a stall workload has shown.
    pub(super) fn beside(mut self, quiet: &Self) -> Self {
        self.quiet_p99_us = Some(quiet.p99_us);
        self.p99_disturbed_to_quiet = Some(per(self.p99_us, quiet.p99_us));
        self
    }
}

impl Spread {
    /// Of some numbers; None of none.
    pub(super) fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }

    /// Of a figure over rounds.
    pub(super) fn over(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Option<Self> {
        Self::of(rounds.iter().map(figure))
    }

    /// Of the ratios of a figure, round by round, to that of another contender.
    pub(super) fn ratio(rounds: &[Round], base: &[Round], figure: impl Fn(&Round) -> f64) -> Option<Self> {
        Self::of(rounds.iter().zip(base).map(|(ours, theirs)| per(figure(ours), figure(theirs))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spread(numbers: &[f64]) -> Option<(f64, f64, f64)> {
        Spread::of(numbers.iter().copied()).map(|Spread { median, min, max }| (median, min, max))
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(spread(&[3.0, 1.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some((2.0, 1.0, 9.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 100.0]), Some((3.0, 1.0, 100.0)));
    }

    proptest! {
        #[test]
        fn half_lies_on_each_side(numbers in proptest::collection::vec(0.0..1e9_f64, 1..20)) {
            let spread = Spread::of(numbers.iter().copied()).unwrap();
            prop_assert!(spread.min <= spread.median && spread.median <= spread.max);
            let below = numbers.iter().filter(|&&number| number < spread.median).count();
            let above = numbers.iter().filter(|&&number| number > spread.median).count();
            prop_assert!(below <= numbers.len() / 2 && above <= numbers.len() / 2);
        }
    }
}
