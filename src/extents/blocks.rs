//! Where on the device under it does a range of a file lie?
//!
//! With the source `block` the window moves bytes between memory and the host's block device, past the file system that the
//! files are on. What is known of a file's blocks is a table that nobody changes: who learns more makes another,
//! and whoever moves blocks takes it away first (`learn`). A range that is not in it in one piece goes by way of the file system.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::file::{DirectFile, HostFile};
use super::volume::Volume;

/// Pieces of one file that are kept at most; what lies behind them goes by way of the file system. 384 KiB.
pub const MOST_PIECES: usize = 1 << 14;
/// Pieces of all files together. 24 MiB.
const MOST: usize = 1 << 20;

/// A range of a file that lies on the device in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The device's address of its first byte.
    pub address: u64,
}

/// What of a file is written, its own, inside its size, and stays where it is until somebody moves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// In the file's order.
    pub pieces: Vec<Piece>,
    /// Whether a write changes bytes and times, and nothing else.
    pub writable: bool,
}

/// A file whose blocks can be found.
pub trait Locate: fmt::Debug + Send + Sync {
    /// What tells the file from all others on the device that there are at the same time: its inode number.
    fn number(&self) -> u64;

    /// Where it lies. Nothing of what is told is in the host's page cache then, and nothing of it is put there before
    /// [`drop_cache`](Self::drop_cache) is called. For callers that keep everybody else out; may wait. None where its blocks are not
    /// to be used.
    fn locate(&self) -> Option<Location>;

    /// Lets go of what the host's page cache has of the file: it may be older than what is on the device.
    fn drop_cache(&self);
}

/// The blocks of one file.
#[derive(Debug)]
pub(super) struct Blocks {
    pieces: Box<[Piece]>,
    writable: bool,
    room: Room,
}

/// Room for the pieces of all files.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

impl Blocks {
    /// What `location` says, as far as there is room for it: pieces that are empty or out of order are left out.
    pub(super) fn new(location: Location, room: &Room) -> Option<Self> {
        let Location { mut pieces, writable } = location;
        let mut end = 0;
        pieces.retain(|piece| {
            let next = piece.offset.checked_add(piece.length);
            let sound =
                piece.length > 0 && piece.offset >= end && piece.address.checked_add(piece.length).is_some();
            let next = next.filter(|_| sound);
            end = next.unwrap_or(end);
            next.is_some()
        });
        pieces.truncate(MOST_PIECES);
        let Room(used) = room;
        if used.fetch_add(pieces.len(), Ordering::Relaxed).saturating_add(pieces.len()) > MOST {
            used.fetch_sub(pieces.len(), Ordering::Relaxed);
            return None;
        }
        Some(Self { pieces: pieces.into(), writable, room: room.clone() })
    }

    /// Whether these are the same.
    pub(super) fn are(&self, other: &Self) -> bool {
        self.pieces == other.pieces && self.writable == other.writable
    }

    /// How many pieces there are.
    pub(super) fn count(&self) -> usize {
        self.pieces.len()
    }

    /// The device's address of a range of the file that lies there in one piece.
    pub(super) fn address(&self, offset: u64, len: u64) -> Option<u64> {
        let after = self.pieces.partition_point(|piece| piece.offset <= offset);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let skipped = offset - piece.offset;
        (len <= piece.length.checked_sub(skipped)?).then_some(piece.address + skipped)
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let Room(used) = &self.room;
        used.fetch_sub(self.pieces.len(), Ordering::Relaxed);
    }
}

/// A file some of whose blocks are known. Nothing is moved through the host's page cache, which does not learn what was
/// written on the device.
#[derive(Debug)]
pub(super) struct OnBlocks {
    file: Arc<dyn HostFile>,
    /// None that may be used, where there are none.
    blocks: Option<Arc<Blocks>>,
    volume: Arc<Volume>,
}

impl OnBlocks {
    /// The file, to be read on its blocks.
    pub(super) fn to_read(
        file: &Arc<dyn HostFile>,
        blocks: &Arc<Blocks>,
        volume: &Arc<Volume>,
    ) -> Arc<dyn HostFile> {
        Self::of(file, Some(blocks), volume)
    }

    /// The same to be written there, where that may be.
    pub(super) fn to_write(
        file: &Arc<dyn HostFile>,
        blocks: &Arc<Blocks>,
        volume: &Arc<Volume>,
    ) -> Arc<dyn HostFile> {
        Self::of(file, Some(blocks).filter(|blocks| blocks.writable), volume)
    }

    fn of(file: &Arc<dyn HostFile>, blocks: Option<&Arc<Blocks>>, volume: &Arc<Volume>) -> Arc<dyn HostFile> {
        Arc::new(Self { file: Arc::clone(file), blocks: blocks.cloned(), volume: Arc::clone(volume) })
    }
}

impl HostFile for OnBlocks {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.file.buffered()
    }

    fn direct(&self) -> Option<&DirectFile> {
        self.file.direct()
    }

    fn on_device(&self, offset: u64, len: u64) -> Option<(&DirectFile, u64)> {
        Some((self.volume.direct()?, self.blocks.as_ref()?.address(offset, len)?))
    }

    fn avoids_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The model: each byte of the file, and its address.
    fn model(pieces: &[Piece]) -> Vec<Option<u64>> {
        let mut bytes = vec![None; 256];
        for piece in pieces {
            for at in 0..piece.length {
                bytes[usize::try_from(piece.offset + at).unwrap()] = Some(piece.address + at);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn an_address_is_that_of_every_byte_of_the_range(
            gaps in prop::collection::vec((0_u64..8, 1_u64..8, 1_u64..1 << 40), 0..16),
            offset in 0_u64..200,
            len in 1_u64..16,
        ) {
            let mut at = 0;
            let pieces: Vec<Piece> = gaps.iter().map(|&(gap, length, address)| {
                let piece = Piece { offset: at + gap, length, address };
                at = piece.offset + length;
                piece
            }).collect();
            let bytes = model(&pieces);
            let blocks = Blocks::new(Location { pieces: pieces.clone(), writable: true }, &Room::default()).unwrap();
            match blocks.address(offset, len) {
                Some(address) => for byte in 0..len {
                    let found = bytes[usize::try_from(offset + byte).unwrap()];
                    prop_assert_eq!(found, Some(address + byte));
                },
                None => {
                    let inside = |piece: &Piece| piece.offset <= offset && offset + len <= piece.offset + piece.length;
                    prop_assert!(!pieces.iter().any(inside));
                }
            }
        }
    }

    fn piece(offset: u64, length: u64, address: u64) -> Piece {
        Piece { offset, length, address }
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let pieces = vec![
            piece(0, 0, 4096),
            piece(4096, 4096, 8192),
            piece(6000, 4096, 1 << 20),
            piece(8192, 4096, u64::MAX - 100),
            piece(u64::MAX - 10, 4096, 0),
            piece(16_384, 4096, 1 << 30),
        ];
        let blocks = Blocks::new(Location { pieces, writable: false }, &Room::default()).unwrap();
        assert_eq!(*blocks.pieces, [piece(4096, 4096, 8192), piece(16_384, 4096, 1 << 30)]);
        assert_eq!(blocks.address(8191, 1), Some(12_287));
        for (offset, len) in
            [(0, 512), (4095, 2), (8191, 2), (8192, 512), (20_480, 1), (u64::MAX, 1), (4096, u64::MAX)]
        {
            assert_eq!(blocks.address(offset, len), None, "{offset}, {len}");
        }
    }

    #[test]
    fn pieces_are_bounded_and_their_room_comes_back() {
        let many = || {
            let pieces = (0..=1 << 14).map(|at| piece(at * 8192, 4096, at * 8192)).collect();
            Location { pieces, writable: false }
        };
        let room = Room::default();
        let all: Vec<_> = (0..64).map(|_| Blocks::new(many(), &room).unwrap()).collect();
        assert!(all.iter().all(|blocks| blocks.pieces.len() == MOST_PIECES));
        assert_eq!(all[0].address((1 << 14) * 8192, 512), None, "behind the bound");
        assert!(Blocks::new(many(), &room).is_none());
        drop(all);
        assert!(Blocks::new(many(), &room).is_some());
    }
}
