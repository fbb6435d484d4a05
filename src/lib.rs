//! The house of `extentfsd`, a vhost-user back-end for virtio-fs.
