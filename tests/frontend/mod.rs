//! A synthetic front-end and guest: speaks vhost-user to a daemon and FUSE over virtqueues to its
//! device, with no VM. Obedient where a test wants an ordinary guest, and free to send anything.
//!
//! Shared by several test programs, each of which uses a part of it.
#![allow(dead_code, unused_imports)]
// A test ends where its guest is surprised, and its own numbers are small.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

pub mod arsenal;
pub mod daemon;
pub mod disk;
pub mod fuse;
pub mod guest;
pub mod handshake;
pub mod ram;
pub mod virtq;
pub mod wire;

pub use daemon::Daemon;
pub use guest::{Guest, GuestConfig};
