//! What distinguishes one vhost-user device from another.

use std::sync::Arc;

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

    /// Back to the state of power-on: the guest is gone or resets the device. No ring is running.
    fn reset(&self);
}

/// What all rings of a process share.
#[derive(Clone)]
pub struct RingRuntime {
    /// How bytes are moved.
    pub options: RingOptions,
    /// The threads for requests that may wait.
    pub offload: Arc<Offload>,
}
