//! The memory of a synthetic guest: two adjacent regions from two files, so that buffers can cross.

use std::os::fd::{AsRawFd, OwnedFd};

use vhost::VhostUserMemoryRegionInfo;

/// Guest physical address of the first region; not 0, so that address 0 is in no region.
pub const BASE: u64 = 0x10_0000;
/// Bytes of one region.
pub const REGION: u64 = 16 << 20;

/// Guest memory: two regions of [`REGION`] bytes, adjacent in guest physical addresses but mapped from
/// different files, and apart in this process.
pub struct Ram {
    regions: [Region; 2],
    next: u64,
}

struct Region {
    memfd: OwnedFd,
    map: *mut u8,
}

// SAFETY: the mappings are private to the value and live as long as it; access goes through &mut self or
// is made of single copies, as of a device and a driver sharing memory.
unsafe impl Send for Ram {}

impl Ram {
    /// Fresh zeroed memory.
    pub fn new() -> Self {
        Self { regions: [Region::new(), Region::new()], next: BASE }
    }

    /// The regions as the control channel announces them.
    pub fn announce(&self) -> Vec<VhostUserMemoryRegionInfo> {
        (0..2)
            .map(|i| VhostUserMemoryRegionInfo {
                guest_phys_addr: BASE + i as u64 * REGION,
                memory_size: REGION,
                userspace_addr: self.regions[i].map as u64,
                mmap_offset: 0,
                mmap_handle: self.regions[i].memfd.as_raw_fd(),
            })
            .collect()
    }

    /// Cuts the file of a region to `len` bytes, under the mappings that there are. What is behind must not be touched by
    /// the guest itself any more.
    pub fn cut(&self, region: usize, len: u64) {
        rustix::fs::ftruncate(&self.regions[region].memfd, len).expect("ftruncate");
    }

    /// Takes `len` bytes of memory, aligned to 16; never given back but by [`rewind`](Self::rewind).
    pub fn alloc(&mut self, len: u64) -> u64 {
        let at = self.next.next_multiple_of(16);
        assert!(at + len <= BASE + 2 * REGION, "the synthetic guest is out of memory");
        self.next = at + len;
        at
    }

    /// Where the next allocation will be.
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// Gives back everything that was allocated since [`mark`](Self::mark).
    pub fn rewind(&mut self, mark: u64) {
        self.next = mark;
    }

    /// The address in this process of ring memory, which lies in one region.
    pub fn user_address(&self, guest: u64) -> u64 {
        let (region, offset) = locate(guest);
        self.regions[region].map as u64 + offset
    }

    /// Writes bytes, across regions where need be.
    pub fn write(&self, guest: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let (region, offset) = locate(guest + i as u64);
            // SAFETY: `locate` checked the bounds of the mapping.
            unsafe { self.regions[region].map.add(offset as usize).write_volatile(*byte) };
        }
    }

    /// Reads bytes, across regions where need be.
    pub fn read(&self, guest: u64, len: usize) -> Vec<u8> {
        (0..len as u64)
            .map(|i| {
                let (region, offset) = locate(guest + i);
                // SAFETY: as in `write`.
                unsafe { self.regions[region].map.add(offset as usize).read_volatile() }
            })
            .collect()
    }

    /// The 16-bit word at an even address, as an atomic: ring indices are shared with the device.
    pub fn atomic_u16(&self, guest: u64) -> &std::sync::atomic::AtomicU16 {
        let (region, offset) = locate(guest);
        assert_eq!(offset % 2, 0);
        // SAFETY: in bounds and aligned; the mapping lives as long as `self`.
        unsafe {
            std::sync::atomic::AtomicU16::from_ptr(self.regions[region].map.add(offset as usize).cast())
        }
    }
}

fn locate(guest: u64) -> (usize, u64) {
    let offset = guest.checked_sub(BASE).expect("below the guest's memory");
    assert!(offset < 2 * REGION, "behind the guest's memory");
    ((offset / REGION) as usize, offset % REGION)
}

impl Region {
    fn new() -> Self {
        let memfd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&memfd, REGION).expect("size of the memfd");
        // SAFETY: a fresh shared mapping of our own file.
        let map = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                REGION as usize,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                &memfd,
                0,
            )
        }
        .expect("map of the memfd");
        Self { memfd, map: map.cast() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, not used any more.
        let _ = unsafe { rustix::mm::munmap(self.map.cast(), REGION as usize) };
    }
}
