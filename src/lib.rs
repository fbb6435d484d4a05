//! The house of `extentfsd`, a vhost-user back-end for virtio-fs.
//!
//! | room | the question it answers |
//! |---|---|
//! | [`vhost`] | what does the front-end (the VMM) say, and which device does it get? |
//! | [`ring`] | how do bytes move between a virtqueue, guest memory and host files? |
//! | [`fuse`] | what does a FUSE message mean, and what does its answer look like? |
//! | [`fs`] | how is a FUSE operation done on a host directory? |

pub mod fs;
pub mod fuse;
pub mod ring;
pub mod vhost;
