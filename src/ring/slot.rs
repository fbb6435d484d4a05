//! Which requests are in flight? (in-flight table)
//!
//! A request that is answered at once never enters the table: its [`Slot`] goes from the list of spare
//! ones through the worker and back. All memory of a slot is reused, so a ring that has seen its usual
//! load allocates nothing for a request.

use super::chain::Chain;
use super::engine::Movement;
use super::queue::SharedMemory;

/// Names a request in flight: a place in the table and how often it was taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// One request.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// First descriptor: what the used element names.
    pub(super) head_index: u16,
    /// The request's bytes in guest memory.
    pub(super) chain: Chain,
    /// The copy of its head.
    pub(super) head: Vec<u8>,
    /// Its movement of bytes.
    pub(super) movement: Movement,
    /// Keeps the memory of `chain` mapped.
    pub(super) memory: Option<SharedMemory>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    slot: Option<Box<Slot>>,
    /// What `slot` counted for when it came.
    kept_bytes: usize,
}

impl Slot {
    /// Bytes that are kept here while the request is in flight: its head, where its parts are, and what was copied of it.
    fn kept_bytes(&self) -> usize {
        self.head.len() + self.chain.kept_bytes() + self.movement.kept_bytes()
    }
}

/// All requests in flight of one ring.
#[derive(Debug, Default)]
pub(super) struct Slots {
    places: Vec<Place>,
    vacant: Vec<u32>,
    #[allow(clippy::vec_box, reason = "a slot goes between here and `places` by its pointer")]
    spare: Vec<Box<Slot>>,
    in_flight: usize,
    /// Bytes that are kept for those.
    kept_bytes: usize,
}

/// A head that grew beyond this gives its memory back: the usual one is below 100 bytes.
const KEPT_HEAD: usize = 4096;

impl Slots {
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many bytes are kept for them.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// A slot to fill.
    pub(super) fn fresh(&mut self) -> Box<Slot> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a slot back whose request was answered.
    pub(super) fn recycle(&mut self, mut slot: Box<Slot>) {
        slot.memory = None;
        slot.head.clear();
        slot.head.shrink_to(KEPT_HEAD);
        slot.chain.clear();
        slot.movement.release();
        self.spare.push(slot);
    }

    /// The key that the next [`insert`](Self::insert) will use.
    pub(super) fn next_key(&mut self) -> Key {
        if self.vacant.is_empty() {
            // The worker keeps at most 32768 requests in flight, so the length always fits.
            self.vacant.push(u32::try_from(self.places.len()).unwrap_or(u32::MAX));
            self.places.push(Place::default());
        }
        let index = self.vacant.last().copied().unwrap_or(u32::MAX);
        Key { index, generation: self.place(index).map_or(0, |place| place.generation) }
    }

    /// Keeps a request until its completion.
    pub(super) fn insert(&mut self, slot: Box<Slot>) -> Key {
        let key = self.next_key();
        self.vacant.pop();
        let bytes = slot.kept_bytes();
        if let Some(place) = self.place(key.index) {
            place.slot = Some(slot);
            place.kept_bytes = bytes;
            self.in_flight += 1;
            self.kept_bytes += bytes;
        }
        key
    }

    /// The request of `key`, if it is still in flight.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Slot> {
        self.place(key.index).filter(|place| place.generation == key.generation)?.slot.as_deref_mut()
    }

    /// Takes the request of `key` out of the table.
    pub(super) fn remove(&mut self, key: Key) -> Option<Box<Slot>> {
        let place = self.place(key.index).filter(|place| place.generation == key.generation)?;
        let slot = place.slot.take()?;
        place.generation = place.generation.wrapping_add(1);
        let bytes = std::mem::take(&mut place.kept_bytes);
        self.vacant.push(key.index);
        self.in_flight -= 1;
        self.kept_bytes -= bytes;
        Some(slot)
    }

    fn place(&mut self, index: u32) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_completion_does_not_reach_the_next_request() {
        let mut slots = Slots::default();
        let slot = slots.fresh();
        let first = slots.insert(slot);
        let slot = slots.remove(first).unwrap();
        slots.recycle(slot);
        let slot = slots.fresh();
        assert_ne!(slots.next_key(), first);
        let second = slots.insert(slot);
        assert_eq!((second.index, slots.in_flight()), (first.index, 1));
        assert!(slots.remove(first).is_none() && slots.get_mut(first).is_none());
        assert!(slots.remove(second).is_some());
        assert_eq!(slots.in_flight(), 0);
    }
}
