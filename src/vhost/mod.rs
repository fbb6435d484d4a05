//! What does the front-end (the VMM) say, and which device does it get?
//!
//! The control plane of a vhost-user device. [`Device`] says what is special about a device: how many
//! virtqueues, which configuration space, who serves the requests. [`serve_connection`] speaks the
//! protocol with one front-end on the thread that calls it, from the first message to the disconnect;
//! everything it learns (memory table, ring addresses, eventfds) it turns into plain data for
//! [`ring`](crate::ring), whose threads do the work.
//!
//! The messages are handled here and not by a framework for three reasons: GET_VRING_BASE must drain a
//! ring whose requests are answered out of order, dirty logging must be switched on and off under
//! running rings, and a later keeper process must be able to start the same rings from saved data.

mod connection;
mod device;
mod fs_device;
mod handler;
mod vring;
mod window_device;

pub use connection::{ConnectionEnd, serve_connection};
pub use device::{Device, RingRuntime};
pub use fs_device::{FsDevice, TagError};
pub use window_device::WindowDevice;
