//! What does a guest ask of a block device, and what is it answered? (virtio 1.2, 5.2.6)

/// Reads.
pub const IN: u32 = 0;
/// Writes.
pub const OUT: u32 = 1;
/// Makes durable what was written.
pub const FLUSH: u32 = 4;
/// Asks for the serial number.
pub const GET_ID: u32 = 8;
/// Gives space back.
pub const DISCARD: u32 = 11;
/// Writes zeroes.
pub const WRITE_ZEROES: u32 = 13;

/// Done.
pub const OK: u8 = 0;
/// Failed.
pub const IOERR: u8 = 1;
/// No such request.
pub const UNSUPP: u8 = 2;
