//! Where in this process does an address of the guest lie?
//!
//! [`GuestMemory`] is an immutable table. A change (ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE) makes a new
//! table that shares the mappings of the regions that stay; a request keeps the table it was parsed
//! with, so memory is unmapped only after the last request that may touch it.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::mapping::Mapping;

/// A region of guest memory as the front-end announces it (vhost-user, "Memory region description").
#[derive(Debug)]
pub struct RegionConfig {
    /// The file that holds the memory.
    pub file: OwnedFd,
    /// Byte offset of the region in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the guest's physical address space: what descriptors name.
    pub guest_address: u64,
    /// Address in the front-end's address space: what SET_VRING_ADDR names.
    pub user_address: u64,
}

/// Why a table of regions was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file could not be mapped.
    #[error("cannot map {size:#x} bytes at offset {offset:#x} for guest address {guest_address:#x}")]
    Map {
        /// Where the region was to be in guest physical memory.
        guest_address: u64,
        /// Offset in the file.
        offset: u64,
        /// Bytes.
        size: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An address range ends beyond 2^64.
    #[error(
        "the memory region at guest address {guest_address:#x} of {size:#x} bytes is empty or wraps around"
    )]
    Range {
        /// Start of the region.
        guest_address: u64,
        /// Bytes.
        size: u64,
    },
    /// Two regions claim the same guest physical or front-end address.
    #[error("the memory regions at guest addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// Start of one region.
        first: u64,
        /// Start of the other.
        second: u64,
    },
    /// No region has exactly these addresses and size.
    #[error("there is no memory region of {size:#x} bytes at guest address {guest_address:#x}")]
    Unknown {
        /// Start of the region that was named.
        guest_address: u64,
        /// Bytes.
        size: u64,
    },
}

/// A guest address that lies in no region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest address {0:#x} lies in no memory region")]
pub struct Unmapped(
    /// The first address that is not mapped.
    pub u64,
);

/// One region. Its end addresses are known not to overflow.
#[derive(Clone, Debug)]
struct Region {
    guest_address: u64,
    user_address: u64,
    size: u64,
    mapping: Arc<Mapping>,
}

impl Region {
    fn map(config: &RegionConfig) -> Result<Self, MemoryError> {
        use std::os::fd::AsFd;
        let &RegionConfig { ref file, offset, size, guest_address, user_address } = config;
        let ends = (guest_address.checked_add(size), user_address.checked_add(size));
        if size == 0 || ends.0.is_none() || ends.1.is_none() {
            return Err(MemoryError::Range { guest_address, size });
        }
        let mapping = Mapping::new(file.as_fd(), offset, size).map_err(|source| MemoryError::Map {
            guest_address,
            offset,
            size,
            source,
        })?;
        Ok(Self { guest_address, user_address, size, mapping: Arc::new(mapping) })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u64, b: u64| a < b + other.size && b < a + self.size;
        meet(self.guest_address, other.guest_address) || meet(self.user_address, other.user_address)
    }
}

/// The guest's memory: regions sorted by guest physical address, never overlapping.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Box<[Region]>,
}

impl GuestMemory {
    /// Maps `regions`, in any order (SET_MEM_TABLE).
    ///
    /// # Errors
    ///
    /// A region that cannot be mapped, that wraps around, or that overlaps another.
    pub fn new(regions: impl IntoIterator<Item = RegionConfig>) -> Result<Self, MemoryError> {
        let regions: Result<Vec<Region>, MemoryError> =
            regions.into_iter().map(|config| Region::map(&config)).collect();
        Self::from_regions(regions?)
    }

    /// This table and one more region (ADD_MEM_REG). The regions of both tables share their mappings.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_region(&self, region: RegionConfig) -> Result<Self, MemoryError> {
        let mut regions = self.regions.to_vec();
        regions.push(Region::map(&region)?);
        Self::from_regions(regions)
    }

    /// This table without one region (REM_MEM_REG), which is unmapped when nobody holds a table with it.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Unknown`] unless a region has exactly these addresses and this size.
    pub fn without_region(
        &self,
        guest_address: u64,
        user_address: u64,
        size: u64,
    ) -> Result<Self, MemoryError> {
        let named = |region: &Region| {
            region.guest_address == guest_address
                && region.user_address == user_address
                && region.size == size
        };
        if !self.regions.iter().any(named) {
            return Err(MemoryError::Unknown { guest_address, size });
        }
        Ok(Self { regions: self.regions.iter().filter(|region| !named(region)).cloned().collect() })
    }

    fn from_regions(mut regions: Vec<Region>) -> Result<Self, MemoryError> {
        regions.sort_unstable_by_key(|region| region.guest_address);
        for (index, first) in regions.iter().enumerate() {
            if let Some(second) = regions.iter().skip(index + 1).find(|second| first.overlaps(second)) {
                let (first, second) = (first.guest_address, second.guest_address);
                return Err(MemoryError::Overlap { first, second });
            }
        }
        Ok(Self { regions: regions.into_boxed_slice() })
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is no region.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Where `len` bytes at `address` of the front-end's address space lie in this process; they must
    /// lie in one region, as the parts of a virtqueue do. The pointer is valid while the table lives.
    pub fn translate_user(&self, address: u64, len: usize) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.user_address)?;
            region.mapping.at(offset, len)
        })
    }

    /// Calls `piece` with the parts of this process's memory that make up `len` bytes at guest physical
    /// `address`: one part in the usual case, more where the range goes on in the next region.
    /// The pointers are valid while the table lives.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] with the first address that lies in no region, after the parts before it were seen.
    pub fn slices(
        &self,
        address: u64,
        len: usize,
        mut piece: impl FnMut(NonNull<u8>, usize),
    ) -> Result<(), Unmapped> {
        let (mut address, mut left) = (address, len);
        let mut next =
            self.regions.partition_point(|region| region.guest_address <= address).saturating_sub(1);
        while left > 0 {
            let part = self.regions.get(next).and_then(|region| {
                let offset = address.checked_sub(region.guest_address)?;
                let room = usize::try_from(region.size.checked_sub(offset)?).ok()?;
                let part = room.min(left);
                (part > 0).then_some((region.mapping.at(offset, part)?, part))
            });
            let Some((pointer, part)) = part else { return Err(Unmapped(address)) };
            piece(pointer, part);
            left -= part;
            // A region's end does not overflow, so neither does the address of what follows a part of it.
            address = address.saturating_add(u64::try_from(part).unwrap_or(u64::MAX));
            next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn region(guest_address: u64, size: u64, user_address: u64) -> RegionConfig {
        let file = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 0x4000).unwrap();
        RegionConfig { file, offset: 0x234, size, guest_address, user_address }
    }

    #[test]
    fn refuses_overlaps_and_overflows() {
        let low = || region(0x1000, 0x1000, 0x10_0000);
        let with = |other| GuestMemory::new([low()]).unwrap().with_region(other);
        assert!(with(region(0x2000, 0x1000, 0x10_1000)).is_ok());
        assert!(matches!(with(region(0x1fff, 1, 0x90_0000)), Err(MemoryError::Overlap { .. })));
        assert!(matches!(with(region(0x0, 0x1001, 0x90_0000)), Err(MemoryError::Overlap { .. })));
        assert!(matches!(with(region(0x9000, 0x1000, 0x10_0fff)), Err(MemoryError::Overlap { .. })));
        assert!(matches!(with(region(0x9000, 0, 0x90_0000)), Err(MemoryError::Range { .. })));
        assert!(matches!(with(region(u64::MAX, 2, 0x90_0000)), Err(MemoryError::Range { .. })));
        assert!(matches!(with(region(0x9000, 2, u64::MAX)), Err(MemoryError::Range { .. })));
        // One byte behind the end of the file.
        assert!(with(region(0x9000, 0x4000 - 0x234, 0x90_0000)).is_ok());
        assert!(matches!(with(region(0x9000, 0x4000 - 0x233, 0x90_0000)), Err(MemoryError::Map { .. })));
    }

    #[test]
    fn finds_ranges_across_regions_and_the_first_gap() {
        let memory = GuestMemory::new([
            region(0x5000, 0x1000, 0x30_0000),
            region(0x1000, 0x1000, 0x20_0000),
            region(0x2000, 0x800, 0x10_0000),
        ])
        .unwrap();
        let lengths = |address, len| {
            let mut lengths = Vec::new();
            let found = memory.slices(address, len, |_, len| lengths.push(len));
            (lengths, found)
        };
        assert_eq!(lengths(0x1000, 0x1000), (vec![0x1000], Ok(())));
        assert_eq!(lengths(0x1fff, 0x801), (vec![1, 0x800], Ok(())));
        assert_eq!(lengths(0x1fff, 0x802), (vec![1, 0x800], Err(Unmapped(0x2800))));
        assert_eq!(lengths(0xfff, 2), (vec![], Err(Unmapped(0xfff))));
        assert_eq!(lengths(0x5fff, 2), (vec![1], Err(Unmapped(0x6000))));
        assert_eq!(lengths(u64::MAX, 2), (vec![], Err(Unmapped(u64::MAX))));
        assert!(memory.translate_user(0x10_0000, 0x800).is_some());
        assert!(memory.translate_user(0x10_0000, 0x801).is_none());
        assert!(memory.translate_user(0x20_0fff, usize::MAX).is_none());
        let without = memory.without_region(0x2000, 0x10_0000, 0x800).unwrap();
        assert_eq!((without.len(), without.translate_user(0x10_0000, 1)), (2, None));
        assert_eq!(
            without.translate_user(0x30_0000, 1),
            memory.translate_user(0x30_0000, 1),
            "shared mapping"
        );
        assert!(matches!(memory.without_region(0x2000, 0x10_0000, 0x801), Err(MemoryError::Unknown { .. })));
    }
}
