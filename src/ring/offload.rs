//! Who serves the requests that may take long?
//!
//! A pool of threads that all rings share. Threads start when there is work for them, up to a bound, and
//! stay. The queue of the pool needs no bound of its own: each job belongs to a request in flight, and a
//! ring has no more of those than its virtqueue has descriptors.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::sync::{self, Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool of threads.
pub struct Offload {
    shared: Arc<Shared>,
    limit: NonZeroUsize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    prepare: Option<Prepare>,
}

/// What a thread does before its first job.
type Prepare = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Offload {
    /// As many threads as keep slow host operations (fsync, fallocate, copies) of a few guests' tasks
    /// going at the same time; they wait for storage and cost no processor.
    pub const DEFAULT_THREADS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

    /// A pool of at most `limit` threads; none is started yet.
    pub fn new(limit: NonZeroUsize) -> Self {
        Self::with(limit, None)
    }

    /// The same pool, whose threads each call `prepare` before their first job. Where that fails they say so and serve
    /// all the same: they have what the ring thread that started them has.
    pub fn prepared(self, prepare: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::with(self.limit, Some(Box::new(prepare)))
    }

    fn with(limit: NonZeroUsize, prepare: Option<Prepare>) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), prepare };
        Self { shared: Arc::new(shared), limit }
    }

    /// Runs `job` on a thread of the pool, when one is free.
    ///
    /// # Errors
    ///
    /// What starting a thread said, where there is none at all; the job is dropped then.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if state.idle <= state.jobs.len() && state.threads < self.limit.get() {
            let shared = Arc::clone(&self.shared);
            match sync::spawn("offload", move || shared.serve()) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                Err(error) => tracing::warn!("cannot start another offload thread: {error}"),
            }
        }
        state.jobs.push_back(Box::new(job));
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Shared {
    fn serve(&self) {
        if let Some(Err(error)) = self.prepare.as_ref().map(|prepare| prepare()) {
            tracing::warn!("an offload thread is not limited to its role: {error}");
        }
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job answers its request by drop guards, so a panic costs that request and no thread.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a request panicked on an offload thread");
                }
                state = self.state.lock();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

impl Default for Offload {
    fn default() -> Self {
        Self::new(Self::DEFAULT_THREADS)
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl fmt::Debug for Offload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Offload").field("limit", &self.limit).finish_non_exhaustive()
    }
}
