//! How do bytes move between a virtqueue, guest memory and host files?
//!
//! One thread owns one ring: its virtqueue, its in-flight table and its engine are touched by nobody else
//! and need no lock. The device keeps a [`Ring`], which posts changes into a mailbox and waits until the
//! thread took them. Rings share the [`Service`], the table of [`GuestMemory`] (immutable), the
//! [`DirtyLog`] (atomic) and the [`Offload`] pool, which a READ or WRITE does not touch.
//!
//! The way of a request: the thread pops its chain, copies the head, and asks the service. An answer is
//! written at once. A [`Transfer`](crate::fuse::Transfer) goes to the engine, which moves the bytes
//! between the file and the guest's pages, at once or by io_uring. What may take long goes to the pool
//! and comes back by the mailbox. Answers are published in batches, with at most one signal for each.
//!
//! Who keeps what alive: a request holds the memory table it was parsed with, and its transfer
//! the files, until its answer is written; a change of memory or a RELEASE meanwhile takes nothing away.
//! The engine refers to buffers of the in-flight table, which gives none up before its completion.
//!
//! In which order things stop: [`Ring::stop`] asks the thread to take no more requests; it cancels what
//! waits without a bound, again and again, until all requests in flight are answered; publishes them; and
//! ends. Only then does the engine close, and are memory, eventfds and service released. Changes that
//! come too late fail. The pool ends when its last ring and the device let go of it.
//!
//! What a guest may do: a malformed chain is given back with length 0; an available ring that
//! claims the impossible stops its own ring, and nothing else. Of a front-end that takes memory away under a running ring
//! the ring sees zeroes from then on.

mod busy_poll;
mod chain;
mod control;
mod dirty_log;
mod engine;
mod handle;
mod mapping;
mod memory;
mod offload;
mod queue;
mod request;
mod service;
mod shrunk;
mod slot;
mod worker;

#[cfg(test)]
mod testing;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]
mod tests;

pub use dirty_log::DirtyLog;
pub use handle::{EngineChoice, EngineKind, Notifiers, Ring, RingConfig, RingOptions, Stopped, Surroundings};
pub use memory::{GuestMemory, MemoryError, RegionConfig, Unmapped};
pub use offload::Offload;
pub use service::{Outcome, Respond, Service, Wait};
