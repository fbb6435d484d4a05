//! Which operation does a request ask for? `enum fuse_opcode`.

/// Look a name up in a directory.
pub const LOOKUP: u32 = 1;
/// Give references on a node back; no reply.
pub const FORGET: u32 = 2;
/// Read attributes.
pub const GETATTR: u32 = 3;
/// Change attributes.
pub const SETATTR: u32 = 4;
/// Read a symbolic link.
pub const READLINK: u32 = 5;
/// Make a symbolic link.
pub const SYMLINK: u32 = 6;
/// Make a file, device node, FIFO or socket.
pub const MKNOD: u32 = 8;
/// Make a directory.
pub const MKDIR: u32 = 9;
/// Remove a name.
pub const UNLINK: u32 = 10;
/// Remove a directory.
pub const RMDIR: u32 = 11;
/// Rename without flags.
pub const RENAME: u32 = 12;
/// Add a name to a node.
pub const LINK: u32 = 13;
/// Open a file.
pub const OPEN: u32 = 14;
/// Read from a file.
pub const READ: u32 = 15;
/// Write to a file.
pub const WRITE: u32 = 16;
/// Describe the file system.
pub const STATFS: u32 = 17;
/// The last descriptor of an open is gone.
pub const RELEASE: u32 = 18;
/// Make a file durable.
pub const FSYNC: u32 = 20;
/// Set an extended attribute.
pub const SETXATTR: u32 = 21;
/// Read an extended attribute.
pub const GETXATTR: u32 = 22;
/// List extended attributes.
pub const LISTXATTR: u32 = 23;
/// Remove an extended attribute.
pub const REMOVEXATTR: u32 = 24;
/// A descriptor was closed.
pub const FLUSH: u32 = 25;
/// Mount: negotiate.
pub const INIT: u32 = 26;
/// Open a directory.
pub const OPENDIR: u32 = 27;
/// Read directory entries.
pub const READDIR: u32 = 28;
/// Close a directory.
pub const RELEASEDIR: u32 = 29;
/// Make a directory durable.
pub const FSYNCDIR: u32 = 30;
/// Test a lock.
pub const GETLK: u32 = 31;
/// Take or release a lock without waiting.
pub const SETLK: u32 = 32;
/// Take a lock, waiting for it.
pub const SETLKW: u32 = 33;
/// Check permissions.
pub const ACCESS: u32 = 34;
/// Make a file and open it.
pub const CREATE: u32 = 35;
/// Interrupt an earlier request; no reply.
pub const INTERRUPT: u32 = 36;
/// Map a block of a file to a block of a device (7.8).
pub const BMAP: u32 = 37;
/// Unmount.
pub const DESTROY: u32 = 38;
/// Device control (7.11).
pub const IOCTL: u32 = 39;
/// Ask for readiness (7.11).
pub const POLL: u32 = 40;
/// The guest's answer to a notification (7.15); no reply.
pub const NOTIFY_REPLY: u32 = 41;
/// Several FORGETs in one (7.16); no reply.
pub const BATCH_FORGET: u32 = 42;
/// Allocate or punch (7.19).
pub const FALLOCATE: u32 = 43;
/// Directory entries, each with its LOOKUP (7.21).
pub const READDIRPLUS: u32 = 44;
/// Rename with flags (7.23).
pub const RENAME2: u32 = 45;
/// Find data or a hole (7.24).
pub const LSEEK: u32 = 46;
/// Copy on the server's side, at most 4 GiB at a time (7.28).
pub const COPY_FILE_RANGE: u32 = 47;
/// Map a range of a file into the DAX window (7.31).
pub const SETUPMAPPING: u32 = 48;
/// Undo that (7.31).
pub const REMOVEMAPPING: u32 = 49;
/// Make the whole file system durable (7.34).
pub const SYNCFS: u32 = 50;
/// Make a file without a name and open it (7.37).
pub const TMPFILE: u32 = 51;
/// Read attributes, `statx(2)` (7.39).
pub const STATX: u32 = 52;
/// Copy on the server's side, with a 64-bit result (7.45).
pub const COPY_FILE_RANGE_64: u32 = 53;
/// Describe a device that records of extents name; see [`extents`](super::extents).
pub const EXTENT_DEVICE: u32 = 4088;
/// Describe the file system to fuse-iomap.
pub const IOMAP_CONFIG: u32 = 4092;
/// I/O past FUSE has ended.
pub const IOMAP_IOEND: u32 = 4093;
/// Where a file lies on a device.
pub const IOMAP_BEGIN: u32 = 4094;
/// An answer to that is not used any more.
pub const IOMAP_END: u32 = 4095;
/// Character devices in user space: negotiate.
pub const CUSE_INIT: u32 = 4096;
