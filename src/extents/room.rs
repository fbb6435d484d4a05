//! How much of the address space does a file get?
//!
//! A region has room to grow, so that the guest need not ask again for every append: four times the file's size, at
//! least [`SMALLEST`]. Addresses are counted up and never come back, so the space has to last as long as the daemon does: 2^62
//! bytes are 2^36 regions of the smallest size, which is two years of a thousand grants a second.

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
    let wanted = size.checked_mul(4)?.max(position.checked_add(1)?).max(SMALLEST);
    wanted.checked_next_power_of_two().filter(|length| *length <= LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_grow() {
        assert_eq!(for_file(0, 0), Some(SMALLEST));
        assert_eq!(for_file(16 << 20, 0), Some(SMALLEST));
        assert_eq!(for_file((16 << 20) + 1, 0), Some(2 * SMALLEST));
        assert_eq!(for_file(0, SMALLEST), Some(2 * SMALLEST));
        assert_eq!(for_file(1 << 48, 0), Some(LARGEST));
        assert_eq!(for_file((1 << 48) + 1, 0), None);
        assert_eq!(for_file(u64::MAX, 0), None);
        assert_eq!(for_file(0, u64::MAX), None);
    }
}
