//! The house of `extentfsd`, a vhost-user back-end for virtio-fs.
//!
//! | room | the question it answers |
//! |---|---|
//! | [`fuse`] | what does a FUSE message mean, and what does its answer look like? |

pub mod fuse;
