//! How much of the address space does a file get?
//!
//! A region has room to grow, so that the guest need not ask again for every append: half of the file's size, and
//! [`SMALLEST`] in any case. With each further region a file has half as much again, so it never has many. Addresses are
//! counted up and never come back, and the space has to last as long as the daemon does. 2^61 bytes, which are left wherever it
//! begins ([`somewhere`]), are 2^35 regions of the
//! smallest size, which is a year of a thousand grants a second; or 14 million of a file of 100 GiB, five months of one
//! a second. Where they do not last, direct I/O goes by FUSE again.

/// Nothing lies before this address, nor behind [`LAST`]: probes of the guest for partition tables and file systems find zeroes there.
pub(super) const FIRST: u64 = SMALLEST;
/// Behind all regions.
pub(super) const LAST: u64 = END - (1 << 20);
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

/// Where the first region is to begin: a guest may have records of a daemon that was here before, and they must lead nowhere.
pub(super) fn somewhere(random: u64) -> u64 {
    FIRST + random % (END / 2 / SMALLEST) * SMALLEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_where_half_of_all_addresses_are_left() {
        assert_eq!(somewhere(0), FIRST);
        assert_eq!(somewhere(1 << 40), FIRST, "taken from the lower bits");
        for random in [1, 12_345, u64::MAX] {
            let first = somewhere(random);
            assert!(
                (FIRST..END / 2 + FIRST).contains(&first) && first.is_multiple_of(SMALLEST),
                "{first:#x}"
            );
        }
    }

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
