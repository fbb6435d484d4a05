//! Which bytes of guest memory make up a request? (virtio 1.2, sections 2.7.4 and 2.7.5)
//!
//! Each descriptor is copied once and checked in the copy, so what was checked is what is used. A part
//! that lies in no memory region is kept as a hole: User-Mode Linux sends its zero page, which it
//! does not share, as payload of a WRITE, and such a request is to be answered with an errno.

use std::ptr::NonNull;

use super::dirty_log::DirtyLog;
use super::memory::GuestMemory;
use super::once;
use super::queue::{DESCRIPTOR, Queue};

const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;
const F_INDIRECT: u16 = 4;

/// Most descriptors of an indirect table. Linux permits more than the queue size there; a request of
/// 4 MiB is 1024 pages and a few headers, so this leaves room for pieces of 1 KiB.
const MAX_INDIRECT: usize = 4096;

/// Why a chain is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("descriptor {0} is outside its table")]
    OutOfTable(u16),
    #[error("the chain is longer than its table, so it has a loop")]
    Loop,
    #[error("an indirect table was not negotiated, is nested, or is not the last of its chain")]
    Indirect,
    #[error("an indirect table of {0} bytes is not 1 to {MAX_INDIRECT} descriptors")]
    IndirectLength(u32),
    #[error("the indirect table lies outside guest memory")]
    IndirectUnmapped,
    #[error("a readable descriptor follows a writable one")]
    Order,
    #[error("the chain is longer than 4 GiB")]
    TooLong,
}

/// Why bytes of a request cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// They lie in no memory region.
    Unmapped,
    /// The chain is shorter.
    Short,
}

/// Part of a request, contiguous in guest and in host memory.
#[derive(Clone, Copy, Debug)]
struct Segment {
    guest_address: u64,
    /// `None` for a hole.
    host: Option<NonNull<u8>>,
    len: usize,
}

/// One direction of a request.
#[derive(Debug, Default)]
pub(super) struct Side {
    segments: Vec<Segment>,
    len: usize,
}

impl Side {
    /// How many bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn kept_bytes(&self) -> usize {
        size_of_val(self.segments.as_slice())
    }

    fn clear(&mut self) {
        self.segments.clear();
        // A rare long chain must not keep its memory for good in every slot of the table.
        self.segments.shrink_to(1024 + 8);
        self.len = 0;
    }

    fn push(&mut self, memory: &GuestMemory, address: u64, len: usize) {
        self.len += len;
        let (mut at, mut left) = (address, len);
        let segments = &mut self.segments;
        let found = memory.slices(address, len, |host, len| {
            segments.push(Segment { guest_address: at, host: Some(host), len });
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
            left -= len;
        });
        if found.is_err() {
            segments.push(Segment { guest_address: at, host: None, len: left });
        }
    }

    /// Calls `piece` for the memory of `len` bytes from byte `skip` on.
    pub(super) fn pieces(
        &self,
        skip: usize,
        len: usize,
        mut piece: impl FnMut(NonNull<u8>, usize),
    ) -> Result<(), Fault> {
        let (mut skip, mut left) = (skip, len);
        for segment in &self.segments {
            if left == 0 {
                break;
            }
            let Some(room) = segment.len.checked_sub(skip).filter(|room| *room > 0) else {
                skip -= segment.len;
                continue;
            };
            let part = room.min(left);
            let host = segment.host.ok_or(Fault::Unmapped)?;
            // SAFETY: skip < segment.len, so the result is inside the segment's mapping.
            piece(unsafe { host.add(skip) }, part);
            skip = 0;
            left -= part;
        }
        if left == 0 { Ok(()) } else { Err(Fault::Short) }
    }

    /// Appends `len` bytes from byte `skip` on to `target`.
    pub(super) fn copy_out(&self, skip: usize, len: usize, target: &mut Vec<u8>) -> Result<(), Fault> {
        if skip.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Fault::Short);
        }
        target.reserve(len);
        self.pieces(skip, len, |source, part| {
            // SAFETY: the piece is mapped while the slot of this chain holds its memory table. `reserve` made
            // room for all pieces, which together are `len` bytes, and a heap buffer of ours is no guest memory.
            unsafe {
                source.as_ptr().copy_to_nonoverlapping(target.as_mut_ptr().add(target.len()), part);
                target.set_len(target.len() + part);
            }
            once::was_read(source.as_ptr(), part);
        })
    }

    /// Writes `bytes` from byte `skip` on; writes nothing where they do not all fit.
    pub(super) fn copy_in(&self, skip: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.pieces(skip, bytes.len(), |_, _| ())?;
        let mut rest = bytes;
        self.pieces(skip, bytes.len(), |target, part| {
            let Some((now, later)) = rest.split_at_checked(part) else { return };
            // SAFETY: the piece is `part` bytes of guest memory, mapped while the slot holds its table; `now`
            // is as long and is memory of ours.
            unsafe { target.as_ptr().copy_from_nonoverlapping(now.as_ptr(), part) };
            rest = later;
        })
    }

    /// Writes zeroes, `len` bytes from byte `skip` on.
    pub(super) fn zero(&self, skip: usize, len: usize) -> Result<(), Fault> {
        self.pieces(skip, len, |target, part| {
            // SAFETY: the piece is `part` bytes of guest memory, mapped while the slot holds its table.
            unsafe { target.as_ptr().write_bytes(0, part) };
        })
    }

    /// Marks the first `len` bytes as written.
    pub(super) fn mark(&self, log: &DirtyLog, len: usize) {
        let mut left = len;
        for segment in &self.segments {
            let part = segment.len.min(left);
            log.mark(segment.guest_address, part);
            left -= part;
        }
    }
}

/// A request as the driver laid it out; its vectors are reused from request to request.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// What the device may read.
    pub(super) readable: Side,
    /// What the device may write.
    pub(super) writable: Side,
}

impl Chain {
    /// Forgets the request.
    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Bytes of memory that tell where the request is.
    pub(super) fn kept_bytes(&self) -> usize {
        self.readable.kept_bytes() + self.writable.kept_bytes()
    }
}

/// Reads chains; keeps the copy of an indirect table.
#[derive(Debug, Default)]
pub(super) struct Walker {
    table: Vec<u8>,
    /// Where the table lies.
    place: Side,
}

impl Walker {
    /// Reads the chain that begins at descriptor `head` into `chain`.
    pub(super) fn walk(
        &mut self,
        queue: &Queue,
        memory: &GuestMemory,
        indirect: bool,
        head: u16,
        chain: &mut Chain,
    ) -> Result<(), ChainError> {
        chain.clear();
        let mut may_indirect = indirect;
        let mut inside = false;
        let mut index = head;
        let mut left = usize::from(queue.size());
        let mut total = 0_u32;
        loop {
            let raw = if inside { self.entry(index) } else { queue.descriptor(index) };
            let descriptor = Descriptor::parse(raw.ok_or(ChainError::OutOfTable(index))?);
            left = left.checked_sub(1).ok_or(ChainError::Loop)?;
            if descriptor.flags & F_INDIRECT != 0 {
                // Section 2.7.5.3.1: no table inside a table, and none with NEXT.
                if !may_indirect || descriptor.flags & F_NEXT != 0 {
                    return Err(ChainError::Indirect);
                }
                left = self.load(memory, &descriptor)?;
                (may_indirect, inside, index) = (false, true, 0);
                continue;
            }
            total = total.checked_add(descriptor.len).ok_or(ChainError::TooLong)?;
            let len = usize::try_from(descriptor.len).map_err(|_| ChainError::TooLong)?;
            if descriptor.flags & F_WRITE != 0 {
                chain.writable.push(memory, descriptor.address, len);
            } else if chain.writable.segments.is_empty() {
                chain.readable.push(memory, descriptor.address, len);
            } else {
                return Err(ChainError::Order);
            }
            if descriptor.flags & F_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Copies an indirect table and returns how many descriptors it has.
    fn load(&mut self, memory: &GuestMemory, table: &Descriptor) -> Result<usize, ChainError> {
        let refused = ChainError::IndirectLength(table.len);
        let len = usize::try_from(table.len).map_err(|_| refused)?;
        let count = len / DESCRIPTOR;
        if count == 0 || count > MAX_INDIRECT || !len.is_multiple_of(DESCRIPTOR) {
            return Err(refused);
        }
        self.table.clear();
        self.place.clear();
        self.place.push(memory, table.address, len);
        self.place.copy_out(0, len, &mut self.table).map_err(|_| ChainError::IndirectUnmapped)?;
        Ok(count)
    }

    fn entry(&self, index: u16) -> Option<[u8; DESCRIPTOR]> {
        self.table.as_chunks().0.get(usize::from(index)).copied()
    }
}

struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// `struct virtq_desc` (section 2.7.5).
    fn parse(raw: [u8; DESCRIPTOR]) -> Self {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = raw;
        Self {
            address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}
