//! How does a guest ask where the bytes of a file lie on a block device?
//!
//! The specification is `docs/extent-protocol.md`. Records, opcodes and operation flags are those of the last
//! public revision of fuse-iomap (2026-05-21); what is marked *own* is not in it. The revision of 2025, with
//! the same opcodes and other layouts, is in [`rfc2025`](super::rfc2025).

use super::wire;

/// INIT flag, *own*: requests for extents are served. Far from the numbers that Linux gives out.
pub const FUSE_EXTENTS: u64 = 1 << 62;

/// `fuse_attr.flags`: FUSE_IOMAP_BEGIN may be asked about the file.
pub const FUSE_ATTR_IOMAP: u32 = 1 << 3;

/// [`IomapBeginIn::opflags`]: bytes are to be written.
pub const IOMAP_OP_WRITE: u32 = 0x001;
/// [`IomapBeginIn::opflags`]: a range is to read as zeroes.
pub const IOMAP_OP_ZERO: u32 = 0x002;
/// [`IomapBeginIn::opflags`]: nothing is to be moved, the map itself is wanted.
pub const IOMAP_OP_REPORT: u32 = 0x004;
/// [`IomapBeginIn::opflags`]: past the page cache.
pub const IOMAP_OP_DIRECT: u32 = 0x010;
/// [`IomapBeginIn::opflags`]: the caller does not want to wait.
pub const IOMAP_OP_NOWAIT: u32 = 0x020;
/// [`IomapBeginIn::opflags`]: shared blocks are to become the file's own.
pub const IOMAP_OP_UNSHARE: u32 = 0x080;

/// [`IomapIo::kind`]: no space.
pub const IOMAP_HOLE: u16 = 0;
/// [`IomapIo::kind`]: space is reserved, where is not known.
pub const IOMAP_DELALLOC: u16 = 1;
/// [`IomapIo::kind`]: bytes at an address.
pub const IOMAP_MAPPED: u16 = 2;
/// [`IomapIo::kind`]: space at an address, which reads as zeroes.
pub const IOMAP_UNWRITTEN: u16 = 3;
/// [`IomapIo::kind`]: in the metadata of the file.
pub const IOMAP_INLINE: u16 = 4;
/// [`IomapIo::kind`] of a write record: writes go where the read record says.
pub const IOMAP_PURE_OVERWRITE: u16 = 0xffff;
/// [`IomapIo::kind`], *own*: FUSE_READ and FUSE_WRITE, for this range.
pub const IOMAP_USE_FUSE: u16 = 0xfff0;

/// [`IomapIo::addr`] where there is none.
pub const IOMAP_NULL_ADDR: u64 = u64::MAX;
/// [`IomapIo::dev`] where there is none.
pub const IOMAP_DEV_NULL: u32 = 0;

/// [`IomapConfigOut::flags`]: `s_blocksize` is valid.
pub const IOMAP_CONFIG_BLOCKSIZE: u64 = 1 << 2;

wire! {
    /// `struct fuse_iomap_io`: a range of a file and its place.
    IomapIo: 32 {
        /// First byte in the file.
        offset: u64,
        /// Bytes.
        length: u64,
        /// First byte on the device, [`IOMAP_NULL_ADDR`] where there is none.
        addr: u64,
        /// `IOMAP_HOLE` and the others.
        kind: u16,
        /// Zero here.
        flags: u16,
        /// Number of the device, [`IOMAP_DEV_NULL`] where there is none.
        dev: u32,
    }

    /// `struct fuse_iomap_begin_in`.
    IomapBeginIn: 32 {
        /// `IOMAP_OP_*`.
        opflags: u32,
        /// Zero.
        reserved: u32,
        /// `fuse_attr.ino` of the file.
        attr_ino: u64,
        /// First byte.
        pos: u64,
        /// Bytes of the operation that are left.
        count: u64,
    }

    /// `struct fuse_iomap_begin_out`.
    IomapBeginOut: 64 {
        /// Where the bytes are.
        read: IomapIo,
        /// Where bytes may be put.
        write: IomapIo,
    }

    /// `struct fuse_iomap_end_in`.
    IomapEndIn: 72 {
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
        /// The record that was used.
        map: IomapIo,
    }

    /// `struct fuse_iomap_ioend_in`.
    IomapIoendIn: 48 {
        /// What kind of I/O ended.
        flags: u32,
        /// 0, or a negative errno.
        error: i32,
        /// `fuse_attr.ino` of the file.
        attr_ino: u64,
        /// First byte.
        pos: u64,
        /// Address of the new mapping; not to be relied upon.
        new_addr: u64,
        /// Bytes that were written.
        written: u64,
        /// Number of the device.
        dev: u32,
        /// Zero.
        padding: u32,
    }

    /// `struct fuse_iomap_ioend_out`.
    IomapIoendOut: 8 {
        /// Size of the file.
        newsize: u64,
    }

    /// `struct fuse_iomap_config_in`.
    IomapConfigIn: 64 {
        /// Which members of the answer the guest understands.
        flags: u64,
        /// Size of the largest file.
        maxbytes: i64,
        /// Bytes that the guest would keep of maps.
        cache_maxbytes: u32,
        /// Zero.
        zero: u32,
        /// Zero.
        padding: [u64; 5],
    }

    /// `struct fuse_iomap_config_out`.
    IomapConfigOut: 104 {
        /// Which of the following are valid, `IOMAP_CONFIG_*`.
        flags: u64,
        /// Name of the file system.
        s_id: [u8; 32],
        /// UUID of the file system.
        s_uuid: [u8; 16],
        /// Bytes of it.
        s_uuid_len: u8,
        /// Zero.
        s_pad: [u8; 3],
        /// Every offset and length of a record is a multiple of this many bytes.
        s_blocksize: u32,
        /// Most hard links of a file.
        s_max_links: u32,
        /// Granularity of times in nanoseconds.
        s_time_gran: u32,
        /// Earliest time.
        s_time_min: i64,
        /// Latest time.
        s_time_max: i64,
        /// Size of the largest file.
        s_maxbytes: i64,
        /// Bytes that the guest may keep of maps.
        cache_maxbytes: u32,
        /// Zero.
        tail: u32,
    }

    /// Request of FUSE_EXTENT_DEVICE, *own*.
    ExtentDeviceIn: 8 {
        /// From 0 on.
        index: u32,
        /// Zero.
        zero: u32,
    }

    /// Reply of FUSE_EXTENT_DEVICE, *own*.
    ExtentDeviceOut: 64 {
        /// The number that records use, from 1 on.
        dev: u32,
        /// [`EXTENT_DEVICE_READ_ONLY`].
        flags: u32,
        /// Bytes.
        size: u64,
        /// Bytes of a logical block.
        logical_block: u32,
        /// Zero.
        zero: u32,
        /// As VIRTIO_BLK_T_GET_ID gives it, padded with NUL.
        serial: [u8; 20],
        /// Zero.
        padding: [u32; 5],
    }
}

/// [`ExtentDeviceOut::flags`]: the device takes no writes.
pub const EXTENT_DEVICE_READ_ONLY: u32 = 1 << 0;
