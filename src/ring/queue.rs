//! How is a split virtqueue read and answered? (virtio 1.2, section 2.7)
//!
//! Everything here is shared with the guest, which may change any of it at any time: single fields are
//! atomics, a descriptor is copied once, and no number is believed. All fields are little-endian, as
//! `VIRTIO_F_VERSION_1` demands.

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use super::memory::GuestMemory;
use super::once;

/// `VRING_USED_F_NO_NOTIFY`: the driver need not kick (section 2.7.10).
const USED_F_NO_NOTIFY: u16 = 1;
/// `VRING_AVAIL_F_NO_INTERRUPT`: the device need not call (section 2.7.7).
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Bytes of one descriptor.
pub(super) const DESCRIPTOR: usize = 16;
/// Where `idx` lies in both rings, and where the elements begin.
const IDX: usize = 2;
const ELEMENTS: usize = 4;
/// Bytes of one element of the used ring.
const USED_ELEMENT: usize = 8;

/// The guest's memory as one ring thread shares it among its requests, without an atomic counter that
/// other rings would contend for.
pub(super) type SharedMemory = Rc<Arc<GuestMemory>>;

/// Front-end addresses of the three parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// The available ring claims more requests than the queue can hold: its driver is broken or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the available ring runs {ahead} requests ahead of a queue of {size}")]
pub(super) struct Runaway {
    ahead: u16,
    size: u16,
}

/// One split virtqueue.
#[derive(Debug)]
pub(super) struct Queue {
    descriptors: NonNull<u8>,
    available: NonNull<u8>,
    used: NonNull<u8>,
    size: u16,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    /// The used index that the driver has seen; `next_used` runs ahead of it within a batch.
    published: u16,
    /// Whether the driver was ever called: what it asked for before this device started is unknown, so
    /// the first batch is always told.
    told: bool,
    /// Without EVENT_IDX: whether the driver is asked not to kick.
    quiet: bool,
    /// Keeps the pointers valid.
    _memory: SharedMemory,
}

impl Queue {
    /// Finds a queue in `memory`. `None` where the size is no power of two up to 32768, or a part is
    /// misaligned (section 2.7, table) or not wholly inside one region.
    pub(super) fn new(
        memory: &SharedMemory,
        addresses: Addresses,
        size: u16,
        next_avail: u16,
        event_idx: bool,
    ) -> Option<Self> {
        if !size.is_power_of_two() {
            return None;
        }
        let count = usize::from(size);
        let part = |address: u64, len: usize, align: usize| {
            let pointer = memory.translate_user(address, len)?;
            pointer.addr().get().is_multiple_of(align).then_some(pointer)
        };
        // Each ring ends in the two bytes of the other side's event index, which are there in any case.
        let mut queue = Self {
            descriptors: part(addresses.descriptors, count * DESCRIPTOR, 16)?,
            available: part(addresses.available, ELEMENTS + 2 * count + 2, 2)?,
            used: part(addresses.used, ELEMENTS + USED_ELEMENT * count + 2, 4)?,
            size,
            event_idx,
            next_avail,
            next_used: 0,
            published: 0,
            told: false,
            // Who served the ring before may have left the wish for no kicks behind: the first wish for one takes it back.
            quiet: !event_idx,
            _memory: Rc::clone(memory),
        };
        // Who served the ring before us left its index there; the protocol carries the other one only.
        queue.next_used = load(queue.used_u16(IDX), Ordering::Relaxed);
        queue.published = queue.next_used;
        Some(queue)
    }

    /// The same queue found in another table of memory, with its state.
    pub(super) fn relocated(&self, memory: &SharedMemory, addresses: Addresses) -> Option<Self> {
        let found = Self::new(memory, addresses, self.size, self.next_avail, self.event_idx)?;
        let Self { next_used, published, told, quiet, .. } = *self;
        Some(Self { next_used, published, told, quiet, ..found })
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// The index of the next request in the available ring.
    pub(super) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Takes the head index of the next request.
    pub(super) fn pop(&mut self) -> Result<Option<u16>, Runaway> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let place = usize::from(self.next_avail % self.size);
        let element = self.available_u16(ELEMENTS + 2 * place);
        let head = load(element, Ordering::Relaxed);
        once::was_read(element.as_ptr().cast(), 2);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// How many used elements the driver cannot see yet.
    pub(super) fn unpublished(&self) -> u16 {
        self.next_used.wrapping_sub(self.published)
    }

    /// Whether there is something to pop, be it an error.
    pub(super) fn has_more(&self) -> bool {
        self.pending().map_or(true, |ahead| ahead > 0)
    }

    fn pending(&self) -> Result<u16, Runaway> {
        // Acquire pairs with the driver's barrier between writing the element and the index (section
        // 2.7.13.3): element and descriptors are read after the index.
        let available = load(self.available_u16(IDX), Ordering::Acquire);
        let ahead = available.wrapping_sub(self.next_avail);
        if ahead > self.size { Err(Runaway { ahead, size: self.size }) } else { Ok(ahead) }
    }

    /// A copy of descriptor `index`; `None` past the end of the table.
    pub(super) fn descriptor(&self, index: u16) -> Option<[u8; DESCRIPTOR]> {
        if index >= self.size {
            return None;
        }
        // SAFETY: index < size, and the table of `size` descriptors is mapped while `_memory` lives.
        let place = unsafe { self.descriptors.cast::<[u8; DESCRIPTOR]>().add(usize::from(index)) };
        // SAFETY: as above. A volatile read of bytes has no invalid value whatever the guest writes meanwhile.
        let copy = unsafe { place.as_ptr().read_volatile() };
        once::was_read(place.as_ptr().cast(), DESCRIPTOR);
        Some(copy)
    }

    /// Writes a used element; the driver sees it after [`publish`](Self::publish).
    pub(super) fn push_used(&mut self, head: u16, len: u32) {
        let element = ELEMENTS + USED_ELEMENT * usize::from(self.next_used % self.size);
        self.used_u32(element).store(u32::from(head).to_le(), Ordering::Relaxed);
        self.used_u32(element + 4).store(len.to_le(), Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Makes the batch visible. Returns whether the driver wants to be called. `wrote` gets offset and
    /// length of each part of the used ring that changed, after it did.
    pub(super) fn publish(&mut self, mut wrote: impl FnMut(usize, usize)) -> bool {
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return false;
        }
        // Release: the driver sees the elements, and the data behind them, before the index (section
        // 2.7.8.2).
        self.used_u16(IDX).store(new.to_le(), Ordering::Release);
        self.published = new;
        let (first, count) = (usize::from(old % self.size), usize::from(new.wrapping_sub(old)));
        let before_wrap = count.min(usize::from(self.size) - first);
        wrote(ELEMENTS + USED_ELEMENT * first, USED_ELEMENT * before_wrap);
        if count > before_wrap {
            wrote(ELEMENTS, USED_ELEMENT * (count - before_wrap).min(usize::from(self.size)));
        }
        wrote(IDX, 2);
        // Full barrier: the index must be out before the driver's wish is read, or both sides could miss
        // each other (section 2.7.7.2).
        fence(Ordering::SeqCst);
        if !std::mem::replace(&mut self.told, true) {
            return true;
        }
        if self.event_idx {
            let used_event = self.available_u16(ELEMENTS + 2 * usize::from(self.size));
            need_event(load(used_event, Ordering::Relaxed), new, old)
        } else {
            load(self.available_u16(0), Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// Tells the driver that kicks are not needed while requests are being taken. With EVENT_IDX an old
    /// `avail_event` says so already.
    pub(super) fn disable_kicks(&mut self, wrote: impl FnOnce(usize, usize)) {
        if !self.event_idx && !self.quiet {
            self.quiet = true;
            self.used_u16(0).store(USED_F_NO_NOTIFY.to_le(), Ordering::Relaxed);
            wrote(0, 2);
        }
    }

    /// Asks for a kick at the next request. Returns whether there is one already, for which no kick may
    /// come.
    pub(super) fn enable_kicks(&mut self, wrote: impl FnOnce(usize, usize)) -> Result<bool, Runaway> {
        if self.event_idx {
            let avail_event = ELEMENTS + USED_ELEMENT * usize::from(self.size);
            self.used_u16(avail_event).store(self.next_avail.to_le(), Ordering::Relaxed);
            wrote(avail_event, 2);
        } else if std::mem::replace(&mut self.quiet, false) {
            self.used_u16(0).store(0, Ordering::Relaxed);
            wrote(0, 2);
        }
        // Full barrier: the wish must be out before the index is read again (section 2.7.10.1 and its
        // counterpart 2.7.13.4.1 on the driver's side).
        fence(Ordering::SeqCst);
        self.pending().map(|ahead| ahead > 0)
    }

    fn available_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: callers pass even offsets inside the ring, which `new` found mapped and aligned to 2,
        // and `_memory` keeps it so.
        unsafe { AtomicU16::from_ptr(self.available.add(offset).cast().as_ptr()) }
    }

    fn used_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as above; the used ring is aligned to 4.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast().as_ptr()) }
    }

    fn used_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as above; callers pass multiples of 4.
        unsafe { AtomicU32::from_ptr(self.used.add(offset).cast().as_ptr()) }
    }
}

fn load(field: &AtomicU16, order: Ordering) -> u16 {
    u16::from_le(field.load(order))
}

/// Whether `event` was passed by the step from `old` to `new` (section 2.7.7.2, `vring_need_event`).
fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::need_event;
    use proptest::prelude::*;

    proptest! {
        /// The model: the event is passed when one of the indices old, old + 1, .., new - 1 is it.
        #[test]
        fn event_is_needed_when_its_index_was_used(event: u16, old: u16, step in 0u16..2000, near in 0u16..2010) {
            let new = old.wrapping_add(step);
            for event in [event, old.wrapping_add(near).wrapping_sub(5)] {
                let model = (0..step).any(|n| old.wrapping_add(n) == event);
                prop_assert_eq!(need_event(event, new, old), model);
            }
        }
    }
}
