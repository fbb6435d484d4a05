//! What may follow the names of a request that creates something? Extensions (7.36 and 7.38).
//!
//! Each begins with eight bytes: its size in bytes, these eight included, and its type. A security
//! context has no type of its own: its second word is a count, at most [`FUSE_MAX_NR_SECCTX`], and
//! types begin above that.

use super::wire;

/// The largest count of security contexts (`enum fuse_ext_type`).
pub const FUSE_MAX_NR_SECCTX: u32 = 31;
/// Type of the extension that carries supplementary groups (7.38).
pub const FUSE_EXT_GROUPS: u32 = 32;

wire! {
    /// `struct fuse_ext_header` (7.38), and in the same place `struct fuse_secctx_header` (7.36).
    ExtHeader: 8 {
        /// Bytes of this extension, header and padding included.
        size: u32,
        /// Type, or count of security contexts.
        kind: u32,
    }

    /// `struct fuse_secctx` (7.36); the attribute's name with its NUL and the value follow.
    Secctx: 8 {
        /// Bytes of the value.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// The fixed part of `struct fuse_supp_groups` (7.38); as many gids follow.
    SuppGroups: 4 {
        /// Number of groups.
        nr_groups: u32,
    }
}
