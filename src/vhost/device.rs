//! What distinguishes one vhost-user device from another.

use std::sync::Arc;
use std::time::Duration;

use crate::ring::{Offload, RingOptions, Service};

/// A device that a front-end can attach.
pub trait Device: Send + Sync {
    /// What the device is called in log lines and, with the number of the queue, its threads.
    fn name(&self) -> &'static str;

    /// Device-specific virtio feature bits (0 to 23, and 50 up); the transport's are added.
    fn features(&self) -> u64;

    /// The most virtqueues that a front-end may set up.
    fn queue_count(&self) -> u16;

    /// The configuration space, where the device has anything to say there (`GET_CONFIG`).
    fn config_space(&self) -> Option<Vec<u8>>;

    /// Who serves the requests of a virtqueue.
    fn service(&self, queue: u16) -> Arc<dyn Service>;

    /// How long requests of a virtqueue may lie, because nobody waits for their answers; zero where somebody
    /// does. See [`RingOptions::rest`].
    fn rest(&self, _queue: u16) -> Duration {
        Duration::ZERO
    }

    /// Back to the state of power-on: the guest is gone or resets the device. No ring is running.
    fn reset(&self);
}

/// What all rings of a process share.
#[derive(Clone)]
pub struct RingRuntime {
    /// What every ring may choose, but for its CPU.
    pub options: RingOptions,
    /// The CPUs of the queues, in turn from the first request queue on; empty leaves the choice to the
    /// scheduler.
    pub affinity: Arc<[usize]>,
    /// The threads for requests that may wait.
    pub offload: Arc<Offload>,
}

impl RingRuntime {
    /// What the ring of virtqueue `index` may choose. Queue 0, the high-priority one, carries little and
    /// shares the CPU of the first request queue.
    pub(super) fn options_of(&self, index: u16, rest: Duration) -> RingOptions {
        let turn = usize::from(index.saturating_sub(1)).checked_rem(self.affinity.len());
        RingOptions {
            cpu: turn.and_then(|turn| self.affinity.get(turn).copied()),
            rest,
            ..self.options.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_take_cpus_in_turn() {
        let runtime = |affinity: &[usize]| RingRuntime {
            options: RingOptions::default(),
            affinity: affinity.into(),
            offload: Arc::new(Offload::default()),
        };
        let cpus = |affinity: &[usize]| {
            [0, 1, 2, 3].map(|queue| runtime(affinity).options_of(queue, Duration::ZERO).cpu)
        };
        assert_eq!(cpus(&[]), [None; 4]);
        assert_eq!(cpus(&[5, 2]), [Some(5), Some(5), Some(2), Some(5)]);
    }
}
