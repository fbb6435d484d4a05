//! What do FUSE 7.33 messages look like? Laid out by hand, so that neither server is asked with its own wire
//! types; the part that all tests share is the synthetic front-end's.

#[path = "../frontend/wire.rs"]
mod shared;

pub use shared::*;

/// The minor version that the oracle speaks.
pub const MINOR: u32 = 33;
/// INIT flags of the guest that both servers meet: ASYNC_READ, ATOMIC_O_TRUNC, EXPORT_SUPPORT,
/// BIG_WRITES, DO_READDIRPLUS, PARALLEL_DIROPS, HANDLE_KILLPRIV_V2.
pub const INIT_FLAGS: u32 = 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 13 | 1 << 18 | 1 << 28;

/// `FATTR_*`.
pub const FATTR_MODE: u32 = 1;
pub const FATTR_UID: u32 = 1 << 1;
pub const FATTR_GID: u32 = 1 << 2;
pub const FATTR_SIZE: u32 = 1 << 3;
pub const FATTR_ATIME: u32 = 1 << 4;
pub const FATTR_MTIME: u32 = 1 << 5;
pub const FATTR_FH: u32 = 1 << 6;
pub const FATTR_ATIME_NOW: u32 = 1 << 7;
pub const FATTR_MTIME_NOW: u32 = 1 << 8;
pub const FATTR_KILL_SUIDGID: u32 = 1 << 11;
/// `FUSE_GETATTR_FH`.
pub const GETATTR_FH: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// Reads an answer from front to back; `None` where it is too short.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    pub fn i32(&mut self) -> Option<i32> {
        Some(i32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
}
