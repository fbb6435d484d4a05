//! What does each operation take and answer? One file for a family of operations; `route` lists them.

pub(super) mod attributes;
pub(super) mod directories;
pub(super) mod extents;
pub(super) mod files;
pub(super) mod locks;
pub(super) mod mount;
pub(super) mod namespace;
pub(super) mod ranges;
pub(super) mod rfc2025;
pub(super) mod xattr;

use rustix::io::Errno;

use super::abi;
use super::encode::Encoder;
use super::request::Request;
use super::types::{Fh, Result, Timestamp};

impl Request<'_> {
    fn encoder(&self) -> Encoder {
        Encoder { features: self.features }
    }
}

/// A size that came as 32 bits.
fn usize_of(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// At most `room` of the bytes that were asked for; the other bytes of the message count in its length
/// too, which has 32 bits.
fn bounded(size: u32, room: usize) -> u32 {
    let header = u32::try_from(size_of::<abi::OutHeader>()).unwrap_or(0);
    size.min(u32::try_from(room).unwrap_or(u32::MAX)).min(u32::MAX - header)
}

/// A position in a file; the kernel's `loff_t` is signed.
///
/// # Errors
/// `EINVAL` beyond `i64::MAX`.
fn position(offset: u64) -> Result<u64> {
    if offset > i64::MAX.cast_unsigned() { Err(Errno::INVAL) } else { Ok(offset) }
}

/// A time out of a request.
///
/// # Errors
/// `EINVAL` for a second or more of nanoseconds.
fn timestamp(sec: u64, nsec: u32) -> Result<Timestamp> {
    if nsec >= 1_000_000_000 {
        return Err(Errno::INVAL);
    }
    Ok(Timestamp { sec: sec.cast_signed(), nsec })
}

/// The handle of GETATTR and STATX, where there is one.
fn optional_fh(getattr_flags: u32, fh: u64) -> Option<Fh> {
    (getattr_flags & abi::FUSE_GETATTR_FH != 0).then_some(Fh(fh))
}
