//! What is in the guest's memory, and who changes it meanwhile?
//!
//! One small file, of which the daemon maps regions as the input lays them out and this process, in the guest's part, all.
//! The guest writes by atomics: the daemon may be reading the same bytes on another thread, which is the point.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use extentfsd::ring::RegionConfig;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::input::Input;

/// Bytes of the guest's memory.
pub const SIZE: usize = 128 << 10;
/// Bytes of the other file.
const OTHER: u64 = 16 << 10;
/// Offsets from here on mean the other file.
const ELSEWHERE: u64 = 1 << 40;
/// Where the front-end has the first region mapped.
pub const USER: u64 = 0x7000_0000_0000;

/// A region: offset in the file, bytes, guest physical address, front-end address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    /// Where in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Where the guest has it.
    pub guest: u64,
    /// Where the front-end has it.
    pub user: u64,
}

/// The guest's memory.
#[derive(Debug)]
pub struct Ram {
    file: OwnedFd,
    /// Of which regions are made that become shorter. This process does not look into it.
    other: OwnedFd,
    base: NonNull<u8>,
    /// What is to be changed, the next first.
    flips: Mutex<VecDeque<Flip>>,
}

/// A change of guest memory behind the daemon's back.
#[derive(Clone, Copy, Debug)]
pub enum Flip {
    /// By the guest.
    Bytes {
        /// Where in the file.
        offset: usize,
        /// What is there afterwards.
        bytes: [u8; 4],
    },
    /// By the front-end: the other file has so many bytes from now on.
    Shrink(u64),
}

// SAFETY: the mapping stays for as long as the process, and its bytes are reached by atomics only.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Default for Ram {
    fn default() -> Self {
        let memfd = |size| {
            let file = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
            ftruncate(&file, size).expect("a memfd");
            file
        };
        let (file, other) = (memfd(SIZE as u64), memfd(OTHER));
        // SAFETY: a null hint replaces no mapping.
        let base = unsafe {
            mmap(std::ptr::null_mut(), SIZE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
        };
        let base = NonNull::new(base.expect("a mapping").cast()).expect("a mapping");
        Self { file, other, base, flips: Mutex::default() }
    }
}

impl Ram {
    fn byte(&self, offset: usize) -> Option<&AtomicU8> {
        // SAFETY: inside the mapping, which is never undone.
        (offset < SIZE).then(|| unsafe { AtomicU8::from_ptr(self.base.add(offset).as_ptr()) })
    }

    /// Writes at an offset of the file; what does not fit is left out.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            if let Some(place) = self.byte(offset.wrapping_add(at)) {
                place.store(*byte, Ordering::Relaxed);
            }
        }
    }

    /// Two bytes at an offset of the file.
    pub fn u16(&self, offset: usize) -> u16 {
        let byte = |at| self.byte(at).map_or(0, |byte| byte.load(Ordering::Acquire));
        u16::from_le_bytes([byte(offset), byte(offset + 1)])
    }

    /// All of it. To be called while no ring runs.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        // SAFETY: the mapping has so many bytes, and no ring runs.
        unsafe { self.base.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), SIZE) };
        bytes
    }

    /// Nothing but zeroes, and nothing to be changed. To be called while no ring runs.
    pub fn clear(&self) {
        // SAFETY: the mapping has so many bytes, and no ring runs.
        unsafe { self.base.as_ptr().write_bytes(0, SIZE) };
        self.flips().clear();
        // Its pages are new ones.
        for size in [0, OTHER] {
            ftruncate(&self.other, size).expect("a memfd");
        }
    }

    /// A region of it, as the front-end announces it.
    pub fn region(&self, region: Region) -> RegionConfig {
        let Region { offset, size, guest, user } = region;
        let file = if offset >= ELSEWHERE { &self.other } else { &self.file };
        let (file, offset) = (file.try_clone().expect("a descriptor"), offset % ELSEWHERE);
        RegionConfig { file, offset, size, guest_address: guest, user_address: user }
    }

    /// Adds a change for [`flip`](Self::flip) to make.
    pub fn plan(&self, flip: Flip) {
        self.flips().push_back(flip);
    }

    /// Makes the next planned change, which then is the last. Returns whether there was one.
    pub fn flip(&self) -> bool {
        let Some(flip) = ({
            let mut flips = self.flips();
            let by = usize::from(flips.len() > 1);
            flips.rotate_left(by);
            flips.back().copied()
        }) else {
            return false;
        };
        match flip {
            Flip::Bytes { offset, bytes } => self.write(offset, &bytes),
            Flip::Shrink(size) => ftruncate(&self.other, size.min(OTHER)).expect("a memfd"),
        }
        true
    }

    /// Whether nobody changes anything.
    pub fn is_quiet(&self) -> bool {
        self.flips().is_empty()
    }

    /// Whether one of these regions may become shorter.
    pub fn shrinks(regions: &[Region]) -> bool {
        regions.iter().any(|region| region.offset >= ELSEWHERE)
    }

    fn flips(&self) -> std::sync::MutexGuard<'_, VecDeque<Flip>> {
        self.flips.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How the front-end lays the memory out.
pub fn layout(input: &mut Input<'_>) -> Vec<Region> {
    let region = |offset, size, guest, user| Region { offset, size, guest, user: USER + user };
    let whole = SIZE as u64;
    match input.u8() {
        0..=99 => vec![region(0, whole, 0, 0)],
        // Next to each other in guest memory alone, the other way round in the file.
        100..=149 => vec![region(0x1_0000, 0x1_0000, 0x1_0000, 0x100_0000), region(0, 0x1_0000, 0, 0)],
        // One that may become shorter.
        150..=159 => vec![region(0, 0x2_0000, 0, 0), region(ELSEWHERE, OTHER, 0x20_0000, 0x50_0000)],
        // A hole, sizes and offsets that are no pages, the last at the end of the address space.
        160..=199 => vec![
            region(0, 0x8000, 0, 0),
            region(0x8123, 0x1ff1, 0x8000, 0x20_0000),
            region(0xb000, 0x1000, u64::MAX - 0x1000, 0x30_0000),
            region(0xc000, 0x4000, 0x10_0000, 0x40_0000),
        ],
        _ => {
            let mut at = 0;
            (0..=input.below(5))
                .map(|_| {
                    let size = if input.once_in(8) { input.number() } else { 1 + u64::from(input.u16()) };
                    let offset = if input.once_in(8) { input.number() } else { at };
                    at += size.min(whole);
                    let guest = if input.once_in(4) { input.number() } else { offset };
                    let user = if input.once_in(4) { input.number() } else { offset.wrapping_add(USER) };
                    Region { offset, size, guest, user }
                })
                .collect()
        }
    }
}
