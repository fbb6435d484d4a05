//! How do extended attributes travel?

use super::wire;

wire! {
    /// `struct fuse_setxattr_in` as far as every guest sends it (`FUSE_COMPAT_SETXATTR_IN_SIZE`).
    SetxattrIn: 8 {
        /// Bytes of the value.
        size: u32,
        /// `XATTR_CREATE`, `XATTR_REPLACE`.
        flags: u32,
    }

    /// What follows in `struct fuse_setxattr_in` with `FUSE_SETXATTR_EXT` (7.33).
    SetxattrInExt: 8 {
        /// `FUSE_SETXATTR_*`.
        setxattr_flags: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_getxattr_in`: GETXATTR and LISTXATTR.
    GetxattrIn: 8 {
        /// Bytes that the caller has room for; 0 asks for the length.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_getxattr_out`: the length, where that was asked for.
    GetxattrOut: 8 {
        /// Bytes.
        size: u32,
        /// Zero.
        padding: u32,
    }
}
