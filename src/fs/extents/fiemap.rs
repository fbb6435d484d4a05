//! Where do the blocks of a file lie on the device, and which of them may a guest be told?
//!
//! Only blocks that the host's file system has written for this file alone, and that it writes in place: anything else
//! that FIEMAP says of an extent is a reason to leave it to FUSE.

use std::os::fd::BorrowedFd;

use crate::fs::sys_io::{self, FIEMAP_EXTENTS, FiemapExtent};
use crate::fuse::Result;

/// `FIEMAP_EXTENT_*` of `<linux/fiemap.h>`.
const LAST: u32 = 0x1;
pub(super) const UNWRITTEN: u32 = 0x800;
const MERGED: u32 = 0x1000;

/// How far before the position, and behind it where it is not on the device, an answer reaches: more than a request is long.
const REACH: u64 = 16 << 20;
const SMALL_REACH: u64 = 1 << 20;

/// Files of more pieces are left to FUSE: it would take too long to look at all of them.
const MOST: usize = 1 << 16;

/// What a device can hold, and which part of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The device's logical block; addresses, offsets and lengths are multiples of it.
    pub(super) block: u64,
    /// The device's size.
    pub(super) size: u64,
    /// Nothing of the file from here on.
    pub(super) end: u64,
}

/// A range of a file, with the device's address of its first byte where it may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) address: Option<u64>,
}

impl Run {
    /// In the file and on the device.
    fn is_followed_by(&self, next: &Self) -> bool {
        let address = self.address.and_then(|address| address.checked_add(self.length));
        self.offset + self.length == next.offset && address.is_some() && address == next.address
    }
}

/// What the flags allow.
fn is_plain(extent: &FiemapExtent) -> bool {
    extent.flags & !(LAST | MERGED) == 0
}

/// Whether all of the file is its own and is written in place, or will be. The file is written to the device first.
///
/// # Errors
/// The host's file system does not know.
pub(super) fn is_own(file: BorrowedFd<'_>) -> Result<bool> {
    let mut start = 0;
    let mut seen = 0;
    loop {
        let extents = sys_io::fiemap(file, start, u64::MAX - start, true)?;
        if !extents.iter().all(|extent| extent.flags & !(LAST | MERGED | UNWRITTEN) == 0) {
            return Ok(false);
        }
        seen += extents.len();
        let Some(last) = extents.last().filter(|_| extents.len() == FIEMAP_EXTENTS) else { return Ok(true) };
        let next = last.logical.saturating_add(last.length);
        if last.flags & LAST != 0 {
            return Ok(true);
        }
        if seen >= MOST || next <= start {
            return Ok(false);
        }
        start = next;
    }
}

/// The run around a position. The file is written to the device first.
///
/// # Errors
/// The host's file system does not know.
pub(super) fn find(file: BorrowedFd<'_>, position: u64, bounds: Bounds) -> Result<Run> {
    // From the beginning, where that is enough: then one answer is good for all of a file in few pieces.
    let mut extents = sys_io::fiemap(file, 0, u64::MAX, true)?;
    if extents.len() == FIEMAP_EXTENTS {
        let mut start = position.saturating_sub(REACH);
        start -= start % bounds.block;
        extents.clear();
        loop {
            let some = sys_io::fiemap(file, start, u64::MAX - start, true)?;
            let full = some.len() == FIEMAP_EXTENTS;
            let next = some.last().map_or(start, |last| last.logical.saturating_add(last.length));
            extents.extend(some);
            if !full || next > position.saturating_add(REACH) || next <= start {
                break;
            }
            start = next;
        }
    }
    Ok(around(&extents, position, bounds))
}

/// All runs of the file from its beginning on, in whole multiples of `unit` (a power of two, and of the device's block), but not many
/// more than `most`. The file is written to the device first.
///
/// # Errors
/// The host's file system does not know.
pub(super) fn all(file: BorrowedFd<'_>, bounds: Bounds, unit: u64, most: usize) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let (mut start, mut seen) = (0, 0);
    while start < bounds.end && runs.len() < most && seen < MOST {
        let extents = sys_io::fiemap(file, start, bounds.end - start, true)?;
        seen += extents.len();
        append(&mut runs, &extents, bounds);
        let full = extents.len() == FIEMAP_EXTENTS;
        let Some(last) = extents.last().filter(|last| full && last.flags & LAST == 0) else { break };
        let next = last.logical.saturating_add(last.length);
        if next <= start {
            break;
        }
        start = next;
    }
    Ok(runs.into_iter().filter_map(|run| whole_units(run, unit)).collect())
}

/// Adds what of some extents may be told to the runs before them.
fn append(runs: &mut Vec<Run>, extents: &[FiemapExtent], bounds: Bounds) {
    for piece in extents.iter().filter_map(|extent| piece(extent, bounds)) {
        match runs.last_mut() {
            Some(run) if run.is_followed_by(&piece) => run.length += piece.length,
            _ => runs.push(piece),
        }
    }
}

/// What of a run is in whole units of the file. A page of the host's cache is then either in it or not.
fn whole_units(run: Run, unit: u64) -> Option<Run> {
    let offset = run.offset.checked_next_multiple_of(unit)?;
    let end = run.offset.checked_add(run.length)?;
    let length = (end - end % unit).checked_sub(offset).filter(|length| *length > 0)?;
    Some(Run { offset, length, address: run.address?.checked_add(offset - run.offset) })
}

/// The run around a position, of extents in their order.
fn around(extents: &[FiemapExtent], position: u64, bounds: Bounds) -> Run {
    let Bounds { block, end, .. } = bounds;
    let mut run: Option<Run> = None;
    if position < end {
        for piece in extents.iter().filter_map(|extent| piece(extent, bounds)) {
            run = match run {
                Some(run) if run.is_followed_by(&piece) => {
                    Some(Run { length: run.length + piece.length, ..run })
                }
                Some(run) if run.offset + run.length > position => break,
                _ => Some(piece),
            };
        }
        if let Some(run) = run.filter(|run| run.offset <= position && position - run.offset < run.length) {
            return run;
        }
    }
    // Not to be told. It may be later, so it is not said of more than a request or so; nor of what is before, where
    // it may be told already.
    let offset = position - position % block;
    let wide = (offset.saturating_add(SMALL_REACH)).min(end);
    let next = extents.iter().filter_map(|extent| piece(extent, bounds)).map(|piece| piece.offset);
    let next = next.filter(|next| *next > position).min().unwrap_or(wide).min(wide);
    Run { offset, length: next.saturating_sub(offset).max(block), address: None }
}

/// What of an extent may be told: whole blocks that exist.
fn piece(extent: &FiemapExtent, Bounds { block, size, end }: Bounds) -> Option<Run> {
    let FiemapExtent { logical, physical, length, .. } = *extent;
    let aligned = [logical, physical, length].iter().all(|value| value.is_multiple_of(block));
    let fits = physical.checked_add(length).is_some_and(|last| last <= size);
    if !is_plain(extent) || !aligned || !fits || physical == 0 || logical >= end {
        return None;
    }
    let length = length.min(end - logical);
    let length = length - length % block;
    (length > 0).then_some(Run { offset: logical, length, address: Some(physical) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1024;
    const BOUNDS: Bounds = Bounds { block: 512, size: 1 << 30, end: 1 << 20 };

    fn extent(logical: u64, physical: u64, length: u64, flags: u32) -> FiemapExtent {
        FiemapExtent { logical, physical, length, flags }
    }

    fn mapped(offset: u64, length: u64, address: u64) -> Run {
        Run { offset, length, address: Some(address) }
    }

    fn fuse(offset: u64, length: u64) -> Run {
        Run { offset, length, address: None }
    }

    #[test]
    fn pieces_that_follow_one_another_are_one() {
        let extents = [
            extent(0, 400 * K, 4 * K, 0),
            extent(4 * K, 404 * K, 4 * K, MERGED),
            extent(8 * K, 500 * K, 4 * K, 0),
            extent(16 * K, 508 * K, 4 * K, LAST),
        ];
        assert_eq!(around(&extents, 0, BOUNDS), mapped(0, 8 * K, 400 * K));
        assert_eq!(around(&extents, 8 * K - 1, BOUNDS), mapped(0, 8 * K, 400 * K));
        assert_eq!(around(&extents, 8 * K, BOUNDS), mapped(8 * K, 4 * K, 500 * K));
        assert_eq!(around(&extents, 13 * K, BOUNDS), fuse(13 * K, 3 * K));
        assert_eq!(around(&extents, 17 * K, BOUNDS), mapped(16 * K, 4 * K, 508 * K));
        assert_eq!(around(&extents, 20 * K, BOUNDS), fuse(20 * K, (1 << 20) - 20 * K));
    }

    #[test]
    fn runs_are_joined_and_cut_to_whole_units() {
        let mut runs = Vec::new();
        append(&mut runs, &[extent(0, 400 * K, 3 * K, 0), extent(3 * K, 403 * K, 4 * K, MERGED)], BOUNDS);
        append(&mut runs, &[extent(7 * K, 407 * K, 2 * K, 0), extent(9 * K, 500 * K, 3 * K, 0x800)], BOUNDS);
        append(&mut runs, &[extent(13 * K, 600 * K, 20 * K, LAST)], BOUNDS);
        assert_eq!(runs, [mapped(0, 9 * K, 400 * K), mapped(13 * K, 20 * K, 600 * K)]);
        let cut: Vec<_> = runs.into_iter().filter_map(|run| whole_units(run, 4 * K)).collect();
        assert_eq!(cut, [mapped(0, 8 * K, 400 * K), mapped(16 * K, 16 * K, 603 * K)]);
        assert_eq!(whole_units(mapped(K, 6 * K, 0), 4 * K), None);
        assert_eq!(whole_units(fuse(0, 8 * K), 4 * K).and_then(|run| run.address), None);
    }

    #[test]
    fn only_plain_extents_are_told() {
        // UNKNOWN, DELALLOC, ENCODED, ENCRYPTED, NOT_ALIGNED, INLINE, TAIL, UNWRITTEN, SHARED.
        for flag in [0x2, 0x4, 0x8, 0x80, 0x100, 0x200, 0x400, 0x800, 0x2000, 1 << 31] {
            let extents = [extent(0, 4 * K, 4 * K, 0), extent(4 * K, 8 * K, 4 * K, flag)];
            assert_eq!(around(&extents, 0, BOUNDS), mapped(0, 4 * K, 4 * K), "{flag:#x}");
            assert_eq!(around(&extents, 4 * K, BOUNDS).address, None, "{flag:#x}");
        }
    }

    #[test]
    fn nothing_is_told_from_the_end_on() {
        let extents = [extent(0, 4 * K, 1 << 30, LAST)];
        assert_eq!(around(&extents, 0, Bounds { size: 1 << 40, ..BOUNDS }), mapped(0, 1 << 20, 4 * K));
        assert_eq!(around(&extents, 1 << 20, Bounds { size: 1 << 40, ..BOUNDS }), fuse(1 << 20, 512));
        assert_eq!(around(&extents, 0, Bounds { end: 0, ..BOUNDS }), fuse(0, 512));
        assert_eq!(around(&extents, 0, BOUNDS).address, None, "behind the end of the device");
    }

    #[test]
    fn what_has_no_such_address_is_not_told() {
        for extents in [
            [extent(0, 0, 4 * K, 0)],
            [extent(0, 4 * K + 1, 4 * K, 0)],
            [extent(0, 4 * K, 4 * K + 1, 0)],
            [extent(0, u64::MAX - 511, 512, 0)],
        ] {
            assert_eq!(around(&extents, 0, BOUNDS).address, None, "{extents:?}");
        }
    }
}
