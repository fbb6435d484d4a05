//! What does every message begin with?

use super::wire;

/// The protocol's major version (`FUSE_KERNEL_VERSION`).
pub const FUSE_KERNEL_VERSION: u32 = 7;

/// The newest minor version that this implementation knows. 7.46 added nothing to 7.45 that has a meaning
/// on virtio-fs.
pub const FUSE_KERNEL_MINOR_VERSION: u32 = 46;

/// The oldest minor version that is served: the first one with virtio-fs in mind (Linux 5.4).
pub const FUSE_OLDEST_MINOR_VERSION: u32 = 31;

/// `total_extlen` of [`InHeader`] counts in units of this many bytes.
pub const FUSE_EXT_ALIGN: usize = 8;

/// What the guest puts for a uid or gid that has no meaning on an idmapped mount (7.41).
pub const FUSE_INVALID_UIDGID: u32 = u32::MAX;

wire! {
    /// `struct fuse_in_header`: the head of a request.
    InHeader: 40 {
        /// Length of the whole request in bytes, this header included.
        len: u32,
        /// What is asked, see [`opcode`](super::opcode).
        opcode: u32,
        /// Identifies the request; the reply repeats it.
        unique: u64,
        /// The node that the request is about.
        nodeid: u64,
        /// The caller's file system uid.
        uid: u32,
        /// The caller's file system gid.
        gid: u32,
        /// The caller's process.
        pid: u32,
        /// Length of all extensions at the request's end, in units of [`FUSE_EXT_ALIGN`] bytes (7.38).
        total_extlen: u16,
        /// Zero.
        padding: u16,
    }

    /// `struct fuse_out_header`: the head of a reply.
    OutHeader: 16 {
        /// Length of the whole reply in bytes, this header included.
        len: u32,
        /// 0, or a negative errno.
        error: i32,
        /// Repeats the request's.
        unique: u64,
    }
}
