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
//! What is read of guest memory, and how often. The guest may change all of it at any time, so what is believed is
//! copied once, and only the copy is looked at; `once.rs` has the means to prove it, and a test that does:
//!
//! | bytes | read by | how often |
//! |---|---|---|
//! | index of the available ring | `queue::pending` | at each look; it is compared with our own index and never kept |
//! | head index in the available ring | `queue::pop` | once; as it is it goes back in the used ring |
//! | flags, event index | `queue::publish` | at each look; a wrong one costs the guest a call, or a call too many |
//! | a descriptor | `queue::descriptor` | once, all 16 bytes, before any of them is looked at |
//! | an indirect table | `chain::load` | once, before the first of its descriptors is looked at |
//! | the head of a request | `request::read_head` | once, in two parts: what tells the length, then the rest behind it |
//! | the payload of a WRITE | the host's kernel | by each attempt anew; nothing depends on it. `engine::movement` copies an append in too many pieces once |
//! | index of the used ring | `queue::new` | once, at the start; then it is written only |
//!
//! Everything else (`fuse`, `fs`, the window's device) is handed the copy of a head, a length, and a room that were counted
//! from copied descriptors, and has no way to guest memory.
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
mod once;
mod queue;
mod request;
mod service;
mod shrunk;
mod slot;
mod sync;
mod worker;

#[cfg(test)]
mod model;
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
