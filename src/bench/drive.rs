//! How are requests kept in flight and counted?
//!
//! Each channel has one thread, which sleeps for the device's signal as a guest's CPU would, takes all answers that
//! are there, and sends what follows from them as one batch. This thread only starts them and watches the clock.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::account::{Usage, own_cpu};
use super::options::Limit;
use super::session::Watchdog;
use super::work::{Progress, Script};
use super::{Error, sys};
use crate::frontend::Channel;

/// Longest time that a histogram tells apart from longer ones, in nanoseconds.
const LONGEST: u64 = 100_000_000_000;

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

/// What was counted in one measurement, by one thread or by all.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) ops: u64,
    pub(super) bytes: u64,
    /// Nanoseconds from the moment that an operation is begun to its last answer.
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Result<Self, Error> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3)
            .map_err(|error| Error::Untrue(format!("histogram: {error}")))?;
        Ok(Self { ops: 0, bytes: 0, latency })
    }

    pub(super) fn count(&mut self, ops: u32, bytes: u32, time: Duration) {
        if ops > 0 {
            self.ops += u64::from(ops);
            self.bytes += u64::from(bytes);
            self.latency.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST));
        }
    }

    pub(super) fn reset(&mut self) {
        (self.ops, self.bytes) = (0, 0);
        self.latency.reset();
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        // Never fails: all have the same bounds.
        let _ = self.latency.add(&other.latency);
    }
}

/// One measurement.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) elapsed: Duration,
    /// What the daemon spent.
    pub(super) usage: Usage,
    /// CPU time of this process.
    pub(super) own_cpu: Duration,
}

/// What the threads and their starter tell each other.
pub(super) struct Clockwork {
    phase: AtomicU8,
    failed: AtomicBool,
}

impl Clockwork {
    /// Follows the phases in a thread: begins the count when the measurement begins. Whether to go on.
    pub(super) fn follow(&self, seen: &mut u8, tally: &mut Tally) -> bool {
        let now = self.phase.load(Ordering::Relaxed);
        if now != *seen {
            *seen = now;
            if now == MEASURE {
                tally.reset();
            }
        }
        now != STOP
    }

    /// The phase that a thread begins in.
    pub(super) fn first_phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }
}

/// What one measurement is given.
#[derive(Clone, Copy)]
pub(super) struct Pace<'a> {
    pub(super) limit: Limit,
    pub(super) warmup: Duration,
    /// Told how much of the measurement is over, from 0 to 1.
    pub(super) progress: &'a dyn Fn(f64),
}

/// Runs one closure a thread under a common clock. Each is given the clockwork and how many operations it may
/// begin; `usage` says what the daemon has spent so far.
pub(super) fn run<'scope, F>(
    threads: Vec<F>,
    pace: Pace<'_>,
    usage: &dyn Fn() -> Usage,
) -> Result<Measured, Error>
where
    F: FnOnce(&Clockwork, Option<u64>) -> Result<Tally, Error> + Send + 'scope,
{
    let timed = matches!(pace.limit, Limit::Time(_));
    let phase = AtomicU8::new(if timed { WARM_UP } else { MEASURE });
    let clockwork = Clockwork { phase, failed: AtomicBool::new(false) };
    let count = threads.len() as u64;
    let budget = |index: u64| match pace.limit {
        Limit::Time(_) => None,
        // The first ones take the remainder.
        Limit::Ops(ops) => Some(ops / count + u64::from(index < ops % count)),
    };
    let mut before = (usage(), own_cpu(), Instant::now());
    let mut after = None;
    let results: Vec<Result<Tally, Error>> = std::thread::scope(|scope| {
        let running: Vec<_> = threads
            .into_iter()
            .zip(0..)
            .map(|(thread, index)| {
                let clockwork = &clockwork;
                let budget = budget(index);
                scope.spawn(move || {
                    let result = thread(clockwork, budget);
                    if result.is_err() {
                        clockwork.failed.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        if let Limit::Time(time) = pace.limit {
            sleep(pace.warmup, &clockwork, &|_| {});
            before = (usage(), own_cpu(), Instant::now());
            clockwork.phase.store(MEASURE, Ordering::Relaxed);
            sleep(time, &clockwork, pace.progress);
            clockwork.phase.store(STOP, Ordering::Relaxed);
            after = Some((Instant::now(), own_cpu(), usage()));
        }
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::Untrue("a client thread has panicked".to_owned())))
            })
            .collect()
    });
    let (end, own, spent) = after.unwrap_or_else(|| (Instant::now(), own_cpu(), usage()));
    if sys::interrupted() {
        return Err(Error::Interrupted);
    }
    let mut tally = Tally::new()?;
    for result in results {
        tally.add(&result?);
    }
    Ok(Measured {
        tally,
        elapsed: end - before.2,
        usage: spent.since(before.0),
        own_cpu: own.saturating_sub(before.1),
    })
}

/// Sleeps, unless something goes wrong meanwhile.
fn sleep(time: Duration, clockwork: &Clockwork, progress: &dyn Fn(f64)) {
    let begun = Instant::now();
    loop {
        let elapsed = begun.elapsed();
        let left = time.saturating_sub(elapsed);
        if left.is_zero() || clockwork.failed.load(Ordering::Relaxed) || sys::interrupted() {
            return;
        }
        progress(elapsed.as_secs_f64() / time.as_secs_f64());
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Measures scripts, one on each channel.
pub(super) fn measure(
    channels: &mut [Channel],
    scripts: &mut [Box<dyn Script>],
    depth: u16,
    pace: Pace<'_>,
    watchdog: &Watchdog,
    usage: &dyn Fn() -> Usage,
) -> Result<Measured, Error> {
    watchdog.arm(Duration::ZERO);
    for (script, channel) in scripts.iter_mut().zip(&mut *channels) {
        script.set_up(channel)?;
    }
    watchdog.arm(match pace.limit {
        Limit::Time(time) => time + pace.warmup,
        // A slow daemon may need long for its operations; it must do a hundred a second.
        Limit::Ops(ops) => Duration::from_millis(ops.saturating_mul(10)),
    });
    let threads = scripts
        .iter_mut()
        .zip(&mut *channels)
        .map(|(script, channel)| {
            move |clockwork: &Clockwork, budget| client(channel, script.as_mut(), depth, clockwork, budget)
        })
        .collect();
    let measured = run(threads, pace, usage)?;
    watchdog.arm(Duration::ZERO);
    for (script, channel) in scripts.iter_mut().zip(&mut *channels) {
        script.put_away(channel)?;
    }
    Ok(measured)
}

/// One thread: keeps `depth` operations in flight until time or budget is over, and then lets them end.
fn client(
    channel: &mut Channel,
    script: &mut dyn Script,
    depth: u16,
    clockwork: &Clockwork,
    budget: Option<u64>,
) -> Result<Tally, Error> {
    let mut tally = Tally::new()?;
    let mut seen = clockwork.first_phase();
    let mut left = budget.unwrap_or(u64::MAX);
    let slots = depth.saturating_add(script.background_slots());
    let mut begun = vec![Instant::now(); usize::from(slots)];
    let mut counted = 0_u32;
    for slot in 0..slots {
        if slot < depth {
            if left == 0 {
                continue;
            }
            left -= 1;
            counted += 1;
        }
        script.begin(channel, slot)?;
    }
    channel.flush()?;
    while channel.queue().in_flight() > 0 {
        let going = clockwork.follow(&mut seen, &mut tally);
        let mut now = None;
        while let Some(reply) = channel.poll()? {
            let now = *now.get_or_insert_with(Instant::now);
            let again = match script.answer(channel, reply)? {
                Progress::More => continue,
                Progress::Background => going && counted > 0,
                Progress::Done { ops, bytes } => {
                    let since = begun.get(usize::from(reply.slot)).copied().unwrap_or(now);
                    if going {
                        tally.count(ops, bytes, now.saturating_duration_since(since));
                    }
                    let again = going && left > 0;
                    if again {
                        left -= 1;
                    } else {
                        counted = counted.saturating_sub(1);
                    }
                    again
                }
            };
            if again {
                if let Some(place) = begun.get_mut(usize::from(reply.slot)) {
                    *place = now;
                }
                script.begin(channel, reply.slot)?;
            }
        }
        channel.flush()?;
        if now.is_none() && channel.queue().in_flight() > 0 {
            channel.wait()?;
        }
    }
    Ok(tally)
}
