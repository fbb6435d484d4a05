//! How much of the address space does a file get?
//!
//! A region has room to grow, so that the guest need not ask again for every append: half of the file's size, and
//! [`SMALLEST`] in any case. With each further region a file has half as much again, so it never has many. Addresses are
//! counted up and never come back, and the space has to last as long as the daemon does. 2^62 bytes are 2^36 regions of the
//! smallest size, which is two years of a thousand grants a second; or 28 million of a file of 100 GiB, eleven months of one
//! a second. Where they do not last, direct I/O goes by FUSE again.

/// Nothing lies before this address: probes of the guest for partition tables and file systems find zeroes.
pub(super) const FIRST: u64 = 1 << 20;
/// The size of the window, and the end of its addresses: what a guest's kernel can address as a disk, halved.
pub(super) const END: u64 = 1 << 62;
/// Regions are multiples of this, and begin at `FIRST` and a multiple of it.
pub(super) const SMALLEST: u64 = 64 << 20;
/// A file that would need more is not served by the window: a guest could use all addresses up with a few sparse files.
const LARGEST: u64 = 1 << 50;

/// The length of a region for a file of `size` bytes in which a guest wants to reach `position`.
pub(super) fn for_file(size: u64, position: u64) -> Option<u64> {
    let wanted = size.checked_add(size / 2)?.max(position.checked_add(1)?).max(SMALLEST);
    wanted.checked_next_multiple_of(SMALLEST).filter(|length| *length <= LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_grow() {
        const MIB: u64 = 1 << 20;
        assert_eq!(for_file(0, 0), Some(SMALLEST));
        assert_eq!(for_file(42 * MIB, 0), Some(SMALLEST));
        assert_eq!(for_file(43 * MIB, 0), Some(2 * SMALLEST));
        assert_eq!(for_file(1024 * MIB, 0), Some(1536 * MIB));
        assert_eq!(for_file(0, SMALLEST), Some(2 * SMALLEST));
        assert_eq!(for_file(1 << 49, 0), Some(3 << 48));
        assert_eq!(for_file(0, LARGEST - 1), Some(LARGEST));
        assert_eq!(for_file(LARGEST, 0), None);
        assert_eq!(for_file(0, LARGEST), None);
        assert_eq!(for_file(u64::MAX, 0), None);
        assert_eq!(for_file(0, u64::MAX), None);
    }
}
