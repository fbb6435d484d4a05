//! Which pages of the guest did the device write to?
//!
//! During a live migration the front-end shares a bitmap, one bit for each 4 KiB page of guest physical
//! memory (vhost-user, "Migration"), and copies again what is marked. A page is marked *after* the
//! bytes have landed: marked before, the front-end could clear the bit, copy the old bytes and never look
//! again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use super::mapping::Mapping;

/// Bytes of guest memory that one bit stands for (`VHOST_LOG_PAGE` in QEMU and in the specification).
const PAGE: u64 = 0x1000;

/// The dirty bitmap of LOG_SHMFD, shared by all rings of a device.
#[derive(Debug)]
pub struct DirtyLog {
    map: Mapping,
}

impl DirtyLog {
    /// Maps the bitmap that SET_LOG_BASE announces: `size` bytes of `file` from `offset` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the range is empty or ends behind the file, otherwise what `mmap(2)` says.
    pub fn new(file: &OwnedFd, offset: u64, size: u64) -> io::Result<Self> {
        Ok(Self { map: Mapping::new(file.as_fd(), offset, size)? })
    }

    /// Marks the pages of `len` bytes at guest physical `address`. Pages beyond the bitmap, which the
    /// front-end makes large enough for all its memory, are ignored.
    pub fn mark(&self, address: u64, len: usize) {
        let Some(last) = u64::try_from(len).ok().and_then(|len| len.checked_sub(1)) else { return };
        let end = u64::try_from(self.map.size()).unwrap_or(u64::MAX).saturating_mul(8);
        let first = address / PAGE;
        let last = (address.saturating_add(last) / PAGE).min(end.saturating_sub(1));
        for page in first..=last {
            self.set(page);
        }
    }

    fn set(&self, page: u64) {
        let Some(byte) = self.map.at(page / 8, 1) else { return };
        // The front-end reads and clears concurrently: the update must be atomic, and ordered after the
        // data (release).
        atomic(byte).fetch_or(1 << (page % 8), Ordering::Release);
    }
}

/// A byte of the bitmap.
fn atomic<'a>(byte: NonNull<u8>) -> &'a AtomicU8 {
    // SAFETY: `byte` lies in the mapping of a `DirtyLog` whose caller borrows it longer than the result is
    // used, and everyone, the front-end included, changes these bytes by atomic operations only.
    unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::pread;

    fn bitmap(size: u64) -> OwnedFd {
        let file = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size).unwrap();
        file
    }

    #[test]
    fn marks_every_page_that_a_range_touches() {
        let file = bitmap(16);
        let log = DirtyLog::new(&file, 8, 8).unwrap();
        log.mark(0xfff, 2);
        log.mark(0x9000, 0x1000);
        log.mark(0x20000, 0);
        log.mark(63 * 0x1000 + 1, 0x10000);
        log.mark(u64::MAX - 1, 1);
        let mut bytes = [0; 16];
        assert_eq!(pread(&file, &mut bytes, 0).unwrap(), 16);
        assert_eq!(bytes[..8], [0; 8], "bytes before the offset belong to somebody else");
        assert_eq!(bytes[8..], [0b11, 0b10, 0, 0, 0, 0, 0, 0x80]);
    }

    #[test]
    fn refuses_a_bitmap_longer_than_its_file() {
        assert!(DirtyLog::new(&bitmap(16), 8, 9).is_err());
        assert!(DirtyLog::new(&bitmap(16), 0, 0).is_err());
    }
}
