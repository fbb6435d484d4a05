//! What memory does the guest have?
//!
//! One memfd, mapped here and told to the daemon, as a monitor does with `memory-backend-memfd,share=on`. All unsafe
//! code of this room is here. Addresses are guest physical ones and come from a [`Layout`] that was asked for the
//! memory's size; an access outside the memory is a bug of the caller, does nothing and reads zeroes.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use vhost::VhostUserMemoryRegionInfo;

use super::Error;

/// Guest physical address of the first byte. Not 0, so that a daemon that takes a zeroed address for a buffer is
/// found out.
const BASE: u64 = 1 << 20;

/// Hands out addresses before the memory exists: first everything is laid out, then as much is allocated.
#[derive(Debug, Default, Clone, Copy)]
pub struct Layout {
    end: u64,
}

impl Layout {
    /// Takes `len` bytes; their guest physical address is a multiple of `align`, a power of two.
    pub fn take(&mut self, len: u64, align: u64) -> u64 {
        let at = self.end.next_multiple_of(align);
        self.end = at.saturating_add(len);
        BASE.saturating_add(at)
    }

    /// Bytes that are needed for everything taken.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }
}

/// Memory that is shared with a device. Both sides access it at any time: every access here is a copy or an
/// atomic one, and no reference into it is ever made.
#[derive(Debug)]
pub struct GuestMemory {
    memfd: OwnedFd,
    map: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the value alone and is reached through raw copies and atomics only.
unsafe impl Send for GuestMemory {}
// SAFETY: as above; that two threads' copies may overlap is as with the device, and the queues' protocol rules
// out that anybody relies on such bytes.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Zeroed memory for a layout. It is populated at once, so that no measurement meets a page fault.
    ///
    /// # Errors
    /// No memory, or too little address space.
    pub fn new(layout: Layout) -> Result<Self, Error> {
        let page = 2 << 20;
        let bytes = layout.len().max(1).next_multiple_of(page);
        let len = usize::try_from(bytes).map_err(|_| Error::Missing("enough address space"))?;
        let memfd = rustix::fs::memfd_create("guest-memory", MemfdFlags::CLOEXEC)
            .map_err(|error| Error::system("guest memory")(error.into()))?;
        rustix::fs::ftruncate(&memfd, bytes).map_err(|error| Error::system("guest memory")(error.into()))?;
        // SAFETY: a fresh mapping, at an address of the kernel's choice, of a file of our own.
        let map = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &memfd,
                0,
            )
        }
        .map_err(|error| Error::system("mapping guest memory")(error.into()))?;
        let map = NonNull::new(map.cast()).ok_or(Error::Missing("a mapping"))?;
        Ok(Self { memfd, map, len })
    }

    /// The memory as SET_MEM_TABLE announces it.
    pub fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: self.len as u64,
            userspace_addr: self.map.as_ptr() as u64,
            mmap_offset: 0,
            mmap_handle: self.memfd.as_raw_fd(),
        }
    }

    /// A guest physical address as the front-end's address, in which SET_VRING_ADDR speaks.
    pub fn user_address(&self, guest: u64) -> u64 {
        (self.map.as_ptr() as u64).wrapping_add(guest.wrapping_sub(BASE))
    }

    /// Copies bytes into the memory.
    pub fn write(&self, guest: u64, bytes: &[u8]) {
        if let Some(to) = self.locate(guest, bytes.len()) {
            // SAFETY: `locate` checked the range; the source is no part of the mapping, of which no slices exist.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    /// Copies bytes out of the memory.
    pub fn read(&self, guest: u64, bytes: &mut [u8]) {
        match self.locate(guest, bytes.len()) {
            // SAFETY: as in `write`.
            Some(from) => unsafe {
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
            },
            None => bytes.fill(0),
        }
    }

    /// Reads an aligned 64-bit word.
    #[inline]
    pub fn load_u64(&self, guest: u64) -> u64 {
        self.word(guest).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes an aligned 64-bit word.
    #[inline]
    pub fn store_u64(&self, guest: u64, value: u64) {
        if let Some(word) = self.word(guest) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Reads an aligned 16-bit word: the indices of a queue.
    #[inline]
    pub fn load_u16(&self, guest: u64, order: Ordering) -> u16 {
        self.half(guest).map_or(0, |half| half.load(order))
    }

    /// Writes an aligned 16-bit word.
    #[inline]
    pub fn store_u16(&self, guest: u64, value: u16, order: Ordering) {
        if let Some(half) = self.half(guest) {
            half.store(value, order);
        }
    }

    #[inline]
    fn word(&self, guest: u64) -> Option<&AtomicU64> {
        let at = self.locate(guest, 8).filter(|_| guest.is_multiple_of(8))?;
        // SAFETY: in bounds and aligned (the mapping begins at a page), and lives as long as `self`; aligned
        // words are only accessed as atomics or by the copies above, of which the queues' protocol orders both.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    #[inline]
    fn half(&self, guest: u64) -> Option<&AtomicU16> {
        let at = self.locate(guest, 2).filter(|_| guest.is_multiple_of(2))?;
        // SAFETY: as in `word`.
        Some(unsafe { AtomicU16::from_ptr(at.cast()) })
    }

    #[inline]
    fn locate(&self, guest: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(guest.checked_sub(BASE)?).ok()?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        debug_assert!(inside, "{len} bytes at {guest:#x} are outside the guest's memory");
        // SAFETY: within the mapping, just checked.
        inside.then(|| unsafe { self.map.as_ptr().add(offset) })
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; nobody has a reference into it.
        let _ = unsafe { rustix::mm::munmap(self.map.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_out_is_aligned_and_apart() {
        let mut layout = Layout::default();
        assert!(layout.is_empty());
        let a = layout.take(10, 16);
        let b = layout.take(1, 4096);
        let c = layout.take(8, 8);
        assert!(a.is_multiple_of(16) && b.is_multiple_of(4096) && c.is_multiple_of(8));
        assert!(a + 10 <= b && b < c && c + 8 - BASE == layout.len());
    }

    #[test]
    fn bytes_words_and_halves_are_the_same_memory() {
        let mut layout = Layout::default();
        let at = layout.take(64, 8);
        let memory = GuestMemory::new(layout).unwrap();
        memory.write(at, &[1, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(memory.load_u64(at), 0x0200_0000_0000_0001);
        memory.store_u16(at + 2, 0xabcd, Ordering::Release);
        let mut back = [0; 8];
        memory.read(at, &mut back);
        assert_eq!(back, [1, 0, 0xcd, 0xab, 0, 0, 0, 2]);
        assert_eq!(memory.load_u16(at + 2, Ordering::Acquire), 0xabcd);
    }
}
