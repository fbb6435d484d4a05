//! The house of `extentfsd`, a vhost-user back-end for virtio-fs.
//!
//! | room | the question it answers |
//! |---|---|
//! | [`cli`] | what did the operator ask for? |
//! | [`daemon`] | how does the process start, log, listen and stop? |
//! | [`sandbox`] | what may the process still touch once it serves a guest? |
//! | [`vhost`] | what does the front-end (the VMM) say, and which device does it get? |
//! | [`ring`] | how do bytes move between a virtqueue, guest memory and host files? |
//! | [`fuse`] | what does a FUSE message mean, and what does its answer look like? |
//! | [`fs`] | how is a FUSE operation done on a host directory? |
//! | [`identity`] | which host id and which name stand for what the guest says? |
//! | [`metrics`] | what is counted? |
//! | [`extents`] | which part of the window stands for which file, and what may be done there? |
//!
//! And the house across the street, the load generator `extentfsd-bench`, which knows the daemon only by its socket:
//!
//! | room | the question it answers |
//! |---|---|
//! | [`frontend`] | what do a virtual machine monitor and its guest's driver do? |
//! | [`bench`](mod@bench) | how fast is a daemon, and what does it cost? |
//!
//! Dependencies point downwards: `vhost` and `ring` know `fuse`, `fuse` knows only its own
//! [`fuse::FileSystem`] trait, which `fs` implements; nothing in `fs` knows of virtqueues, and `extents`, `identity` and
//! `metrics`, below all, of neither. `bench` knows `frontend`,
//! and `frontend` of the others only [`fuse::abi`], the layout of messages.

pub mod bench;
pub mod cli;
pub mod daemon;
pub mod extents;
pub mod frontend;
pub mod fs;
pub mod fuse;
pub mod identity;
pub mod metrics;
pub mod ring;
pub mod sandbox;
pub mod vhost;
