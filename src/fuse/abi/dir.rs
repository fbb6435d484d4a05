//! How do names travel? Everything that makes, moves or lists names, and FORGET.

use super::{EntryOut, wire};

wire! {
    /// `struct fuse_forget_in`.
    ForgetIn: 8 {
        /// References given back.
        nlookup: u64,
    }

    /// `struct fuse_forget_one`: an element of BATCH_FORGET.
    ForgetOne: 16 {
        /// Node.
        nodeid: u64,
        /// References given back.
        nlookup: u64,
    }

    /// `struct fuse_batch_forget_in`; `count` times [`ForgetOne`] follow.
    BatchForgetIn: 8 {
        /// Elements.
        count: u32,
        /// Zero.
        dummy: u32,
    }

    /// `struct fuse_mknod_in`; the name and extensions follow.
    MknodIn: 16 {
        /// Type and permissions.
        mode: u32,
        /// Device number (`new_encode_dev`).
        rdev: u32,
        /// The caller's umask.
        umask: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_mkdir_in`; the name and extensions follow.
    MkdirIn: 8 {
        /// Permissions.
        mode: u32,
        /// The caller's umask.
        umask: u32,
    }

    /// `struct fuse_rename_in`; the old and the new name follow.
    RenameIn: 8 {
        /// The new parent's node.
        newdir: u64,
    }

    /// `struct fuse_rename2_in` (7.23); the old and the new name follow.
    Rename2In: 16 {
        /// The new parent's node.
        newdir: u64,
        /// `RENAME_*`.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_link_in`; the new name follows. The header's nodeid is the new parent.
    LinkIn: 8 {
        /// The node that gets a further name.
        oldnodeid: u64,
    }

    /// The fixed part of `struct fuse_dirent`; the name follows, padded to [`FUSE_DIRENT_ALIGN`].
    Dirent: 24 {
        /// Inode number.
        ino: u64,
        /// Cookie of the entry behind.
        off: u64,
        /// Bytes of the name.
        namelen: u32,
        /// `DT_*`.
        kind: u32,
    }

    /// The fixed part of `struct fuse_direntplus` (7.21); the name follows, padded in the same way.
    Direntplus: 152 {
        /// What a LOOKUP of the name would have answered.
        entry_out: EntryOut,
        /// The entry.
        dirent: Dirent,
    }
}

/// Directory entries begin at multiples of this many bytes (`FUSE_DIRENT_ALIGN`).
pub const FUSE_DIRENT_ALIGN: usize = 8;
