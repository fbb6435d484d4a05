//! What is at a position of a file: data, a hole, or space that was never written?
//!
//! `SEEK_DATA` and `SEEK_HOLE` tell data from what is none, and know what the host's page cache has not written yet.
//! FIEMAP alone tells space that was never written from a hole, and is asked about nothing else: of data that is
//! only in the page cache it would say that it is not there.

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::fiemap::UNWRITTEN;
use super::{DEVICE, FAR};
use crate::extents::Region;
use crate::fs::sys_io::{self, FiemapExtent};
use crate::fuse::{Address, Extent, Place};

/// What a range holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Hole,
    Data,
    Unwritten,
}

/// The range around a position, in whole blocks, with its address where the file has a region there.
pub(super) fn extent(
    file: BorrowedFd<'_>,
    size: u64,
    position: u64,
    block: u64,
    region: Option<Region>,
) -> Extent {
    let (mut start, mut end, content) = find(file, size, position, block);
    let mut address = None;
    if let Some(Region { offset, length, address: first, .. }) = region {
        start = start.max(offset);
        end = end.min(offset.saturating_add(length));
        address = Some(Address { device: DEVICE, byte: first.saturating_add(start.saturating_sub(offset)) });
    }
    let place = match content {
        Content::Hole => Place::Hole,
        Content::Data => Place::Mapped(address),
        Content::Unwritten => Place::Unwritten(address),
    };
    Extent { offset: start, length: end.saturating_sub(start), place }
}

/// First byte, end and content. A block that holds anything holds data.
fn find(file: BorrowedFd<'_>, size: u64, position: u64, block: u64) -> (u64, u64, Content) {
    let down = |offset: u64| offset - offset % block;
    let up = |offset: u64| offset.checked_next_multiple_of(block).unwrap_or(FAR);
    let start = down(position);
    if position >= size {
        return (start, FAR, Content::Hole);
    }
    let data = match seek(file, SeekFrom::Data(position)) {
        Ok(data) => data,
        Err(Errno::NXIO) => size,
        // A file system that does not know: all of it is data.
        Err(_) => position,
    };
    let hole_end = if data >= size { up(size) } else { down(data) };
    if data <= position || hole_end <= position {
        let hole = seek(file, SeekFrom::Hole(position)).unwrap_or(size).min(size);
        return (start, up(hole.max(position + 1)), Content::Data);
    }
    match sys_io::fiemap_first(file, position, hole_end - position) {
        Ok(Some(FiemapExtent { logical, length, flags, .. })) if flags & UNWRITTEN != 0 => {
            let (from, to) = (down(logical), down(logical.saturating_add(length)));
            if from > position {
                (start, from.min(hole_end), Content::Hole)
            } else {
                (start, if to > position { to.min(hole_end) } else { hole_end }, Content::Unwritten)
            }
        }
        _ => (start, hole_end, Content::Hole),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::extents::Access;

    #[test]
    fn an_address_is_given_for_what_the_region_has_and_no_more() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.write_all_at(&[7; 16384], 0).unwrap();
        let region = Region { offset: 4096, length: 4096, address: 1 << 20, access: Access::Read };
        let mapped = |byte| Place::Mapped(Some(Address { device: DEVICE, byte }));
        let found = extent(file.as_fd(), 16384, 5000, 512, Some(region));
        // From the block of the position on, to the end of the region.
        assert_eq!(found, Extent { offset: 4608, length: 3584, place: mapped((1 << 20) + 512) });
        let found = extent(file.as_fd(), 16384, 4096, 4096, Some(region));
        assert_eq!(found, Extent { offset: 4096, length: 4096, place: mapped(1 << 20) });
        let found = extent(file.as_fd(), 16384, 4096, 4096, None);
        assert_eq!(found, Extent { offset: 4096, length: 12288, place: Place::Mapped(None) });
    }
}
