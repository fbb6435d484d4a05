//! How did the first public revision of fuse-iomap (May 2025) ask where a file lies?
//!
//! The opcodes are those of today, the operation flags too as far as they matter here; the layouts of replies
//! are others, and so are the numbers of the null device and the devices. Its kernel calls itself 7.44 and offers two
//! INIT flags that mean other things in Linux: see [`FUSE_IOMAP`].

use super::wire;

/// INIT flag: FUSE_IOMAP_BEGIN is served. Linux 7.46 has given the number to
/// [`FUSE_HAS_IO_URING_BUFPOOL`](super::FUSE_HAS_IO_URING_BUFPOOL), so it means this only together with
/// [`FUSE_IOMAP_DIRECTIO`], from a guest of [`MINOR_VERSION`], and on the operator's word.
pub const FUSE_IOMAP: u64 = 1 << 43;
/// INIT flag: direct I/O goes by the map, and by FUSE where the server answers `ENOSYS`.
pub const FUSE_IOMAP_DIRECTIO: u64 = 1 << 44;
/// INIT flag: so does buffered I/O, without a way back to FUSE. Never agreed upon.
pub const FUSE_IOMAP_PAGECACHE: u64 = 1 << 45;

/// The minor version of the protocol that has this.
pub const MINOR_VERSION: u32 = 44;

/// A device number where there is none. Such an answer fails the guest's I/O even where no device is
/// needed, as in a hole.
pub const DEV_NULL: u32 = u32::MAX;

wire! {
    /// `struct fuse_iomap_begin_out`: one range, and two places for it.
    BeginOut: 48 {
        /// First byte in the file.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Where the bytes are on `read_dev`.
        read_addr: u64,
        /// `IOMAP_HOLE` and the others of [`extents`](super::extents).
        read_type: u16,
        /// Zero here.
        read_flags: u16,
        /// Number of the device, from 0 on.
        read_dev: u32,
        /// Where bytes may be put on `write_dev`.
        write_addr: u64,
        /// As `read_type`, or `IOMAP_PURE_OVERWRITE`.
        write_type: u16,
        /// Zero here.
        write_flags: u16,
        /// Number of the device, from 0 on.
        write_dev: u32,
    }

    /// `struct fuse_iomap_end_in`.
    EndIn: 64 {
        /// `IOMAP_OP_*`.
        opflags: u32,
        /// Zero.
        reserved: u32,
        /// `fuse_attr.ino` of the file.
        attr_ino: u64,
        /// First byte.
        pos: u64,
        /// Bytes that were asked for.
        count: u64,
        /// Bytes that were done, or a negative errno.
        written: i64,
        /// Bytes of the mapping.
        map_length: u64,
        /// Its address.
        map_addr: u64,
        /// Its type.
        map_type: u16,
        /// Its flags.
        map_flags: u16,
        /// Always 0.
        map_dev: u32,
    }

    /// `struct fuse_iomap_ioend_in`.
    IoendIn: 40 {
        /// What kind of I/O ended.
        ioendflags: u16,
        /// Zero.
        reserved: u16,
        /// 0, or a negative errno.
        error: i32,
        /// `fuse_attr.ino` of the file.
        attr_ino: u64,
        /// First byte.
        pos: u64,
        /// Address of the new mapping; not to be relied upon.
        new_addr: u64,
        /// Bytes that were written.
        written: u32,
        /// Zero.
        reserved1: u32,
    }
}
