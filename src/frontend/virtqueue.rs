//! How does a driver put chains into a split virtqueue and take them back? Virtio 1.3, section 2.7.
//!
//! An obedient driver that keeps the costs of one: a chain that was staged is seen by the device only when
//! [`Virtqueue::publish`] stores the index, one kick at most covers the batch, and the device is asked to
//! signal only when this side is about to sleep, as Linux does with `virtqueue_disable_cb` and `_enable_cb`.
//!
//! A *slot* is a place for one chain. With INDIRECT_DESC it is one descriptor that points to a table of the slot's
//! own; without, it is a fixed run of the queue's descriptors. Either way there is no free list to keep.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Error, GuestMemory, Layout};

/// One buffer of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device writes it (otherwise it reads it).
    pub writable: bool,
}

/// Where the parts of a queue lie, as guest physical addresses.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Entries, a power of two.
    pub size: u16,
    /// The descriptor table.
    pub desc: u64,
    /// The available ring.
    pub avail: u64,
    /// The used ring.
    pub used: u64,
    /// Chains that can be in the queue at the same time.
    slots: u16,
    /// Buffers that one chain may have.
    chain_max: u16,
    /// A table for each slot, with INDIRECT_DESC.
    tables: Option<u64>,
}

impl Addresses {
    /// Lays out a queue of `size` entries for `slots` chains at the same time.
    pub fn new(layout: &mut Layout, size: u16, slots: u16, indirect: bool) -> Self {
        let entries = u64::from(size);
        let desc = layout.take(16 * entries, 4096);
        let avail = layout.take(6 + 2 * entries, 64);
        // Two more than the ring has, because elements are read in whole words.
        let used = layout.take(8 + 8 * entries, 64);
        // A chain longer than the queue is not allowed in an indirect table either (section 2.7.5.3.1).
        let chain_max = if indirect { size } else { size.checked_div(slots).unwrap_or(0) };
        let tables = indirect.then(|| layout.take(16 * u64::from(slots) * u64::from(chain_max), 64));
        Self { size, desc, avail, used, slots, chain_max, tables }
    }

    /// Chains that can be in the queue at the same time.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Buffers that one chain may have.
    pub fn chain_max(&self) -> u16 {
        self.chain_max
    }
}

/// The driver's side of a queue. It belongs to one thread at a time.
pub struct Virtqueue {
    memory: Arc<GuestMemory>,
    at: Addresses,
    event_idx: bool,
    kick: EventFd,
    call: EventFd,
    /// Where this side sleeps until `call` is signalled.
    doorbell: Epoll,
    /// Index of the next chain to stage.
    staged: u16,
    /// The index that the device sees.
    published: u16,
    /// Index of the next used element to take.
    taken: u16,
    abandoned: Arc<AtomicBool>,
}

/// Ends the waiting for a device that will not answer any more.
pub struct Waker {
    call: EventFd,
    abandoned: Arc<AtomicBool>,
}

impl Waker {
    /// Lets [`Virtqueue::wait`] fail with [`Error::Abandoned`], the one that sleeps now and all later ones.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        // Fails only when the counter is full, and then it wakes anyway.
        let _ = self.call.write(1);
    }
}

impl Virtqueue {
    /// A queue in memory where [`Addresses::new`] laid it out.
    ///
    /// # Errors
    /// No descriptors left for the two eventfds.
    pub fn new(memory: Arc<GuestMemory>, at: Addresses, event_idx: bool) -> Result<Self, Error> {
        // As QEMU's are (`event_notifier_init`); it matters to devices that signal in other ways than by write(2).
        let eventfd = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(Error::system("eventfd"));
        let (kick, call) = (eventfd()?, eventfd()?);
        let doorbell = Epoll::new().map_err(Error::system("epoll"))?;
        doorbell
            .ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))
            .map_err(Error::system("epoll"))?;
        let abandoned = Arc::default();
        Ok(Self { memory, at, event_idx, kick, call, doorbell, staged: 0, published: 0, taken: 0, abandoned })
    }

    /// Where it lies.
    pub fn addresses(&self) -> &Addresses {
        &self.at
    }

    /// The descriptor by which the device is told of new chains.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The descriptor by which the device tells of used chains.
    pub fn call(&self) -> &EventFd {
        &self.call
    }

    /// A way to end the waiting for this queue.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn waker(&self) -> Result<Waker, Error> {
        let call = self.call.try_clone().map_err(Error::system("eventfd"))?;
        Ok(Waker { call, abandoned: Arc::clone(&self.abandoned) })
    }

    /// Chains in the queue, staged ones included.
    pub fn in_flight(&self) -> u16 {
        self.staged.wrapping_sub(self.taken)
    }

    /// Puts a chain into a slot that is free. Readable buffers come first (section 2.7.4.2).
    ///
    /// # Errors
    /// The chain has more buffers than there are descriptors for one.
    pub fn stage(&mut self, slot: u16, chain: impl Iterator<Item = Buffer>) -> Result<(), Error> {
        let room = self.at.chain_max;
        let (table, first) = match self.at.tables {
            Some(tables) => (tables + 16 * u64::from(slot) * u64::from(room), 0),
            None => (self.at.desc, slot.wrapping_mul(room)),
        };
        let mut chain = chain.peekable();
        let mut count = 0;
        while let Some(buffer) = chain.next() {
            if count == room {
                let needed = usize::from(room) + 1 + chain.count();
                return Err(Error::ChainTooLong { needed, room: usize::from(room) });
            }
            let index = first + count;
            let more = if chain.peek().is_some() { VRING_DESC_F_NEXT } else { 0 };
            let flags = more | if buffer.writable { VRING_DESC_F_WRITE } else { 0 };
            self.describe(table, index, buffer.addr, buffer.len, flags, index.wrapping_add(1));
            count += 1;
        }
        let head = if let Some(tables) = self.at.tables {
            let table = tables + 16 * u64::from(slot) * u64::from(room);
            self.describe(self.at.desc, slot, table, 16 * u32::from(count), VRING_DESC_F_INDIRECT, 0);
            slot
        } else {
            first
        };
        let entry = self.at.avail + 4 + 2 * u64::from(self.staged & self.mask());
        self.memory.store_u16(entry, head, Ordering::Relaxed);
        self.staged = self.staged.wrapping_add(1);
        Ok(())
    }

    fn describe(&self, table: u64, index: u16, addr: u64, len: u32, flags: u32, next: u16) {
        let at = table + 16 * u64::from(index);
        self.memory.store_u64(at, addr);
        self.memory.store_u64(at + 8, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48);
    }

    fn mask(&self) -> u16 {
        self.at.size.wrapping_sub(1)
    }

    /// Shows everything staged to the device and kicks it where it wants that. Whether it was kicked.
    ///
    /// # Errors
    /// The kick descriptor failed.
    pub fn publish(&mut self) -> Result<bool, Error> {
        if self.staged == self.published {
            return Ok(false);
        }
        let old = self.published;
        self.memory.store_u16(self.at.avail + 2, self.staged, Ordering::Release);
        self.published = self.staged;
        // The index must be visible before the device's wish is read, or both sides sleep (section 2.7.10).
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event =
                self.memory.load_u16(self.at.used + 4 + 8 * u64::from(self.at.size), Ordering::Relaxed);
            needs_event(event, self.staged, old)
        } else {
            self.memory.load_u16(self.at.used, Ordering::Relaxed) & 1 == 0
        };
        if wanted {
            self.kick.write(1).map_err(Error::system("kick"))?;
        }
        Ok(wanted)
    }

    /// Takes one used chain: its slot and how many bytes the device says it wrote.
    ///
    /// # Errors
    /// The device returned what it was not given.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<(u16, u32)>, Error> {
        if self.memory.load_u16(self.at.used + 2, Ordering::Acquire) == self.taken {
            return Ok(None);
        }
        // An element is 8 bytes from an address that is 4 behind a multiple of 8, so two halves of a word each.
        let at = self.at.used + 4 + 8 * u64::from(self.taken & self.mask());
        let low = self.memory.load_u64(at - 4);
        let high = self.memory.load_u64(at + 4);
        let (id, len) = (high_half(low), low_half(high));
        if self.in_flight() == 0 {
            return Err(Error::StrayUsed(id));
        }
        self.taken = self.taken.wrapping_add(1);
        let run = if self.at.tables.is_some() { 1 } else { u32::from(self.at.chain_max).max(1) };
        match u16::try_from(id / run) {
            Ok(slot) if id.is_multiple_of(run) && slot < self.at.slots => Ok(Some((slot, len))),
            _ => Err(Error::StrayUsed(id)),
        }
    }

    /// Sleeps until the device has used something.
    ///
    /// # Errors
    /// The [`Waker`] was used, or the call descriptor failed.
    pub fn wait(&mut self) -> Result<(), Error> {
        if self.event_idx {
            let used_event = self.at.avail + 4 + 2 * u64::from(self.at.size);
            self.memory.store_u16(used_event, self.taken, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        if self.memory.load_u16(self.at.used + 2, Ordering::Acquire) != self.taken {
            return Ok(());
        }
        let woken = self.doorbell.wait(-1, &mut [EpollEvent::default()]).and_then(|_| self.call.read());
        match woken {
            Err(error) if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
                Err(Error::system("waiting for the device")(error))
            }
            _ if self.abandoned.load(Ordering::Acquire) => Err(Error::Abandoned),
            _ => Ok(()),
        }
    }
}

/// `vring_need_event` (section 2.7.7.1, 2.7.10.1): whether the step from `old` to `new` passes `event`.
fn needs_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default()
}

fn high_half(word: u64) -> u32 {
    low_half(word >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(size: u16, slots: u16, indirect: bool, event_idx: bool) -> Virtqueue {
        let mut layout = Layout::default();
        let at = Addresses::new(&mut layout, size, slots, indirect);
        let memory = Arc::new(GuestMemory::new(layout).unwrap());
        Virtqueue::new(memory, at, event_idx).unwrap()
    }

    fn buffers(count: u64) -> impl Iterator<Item = Buffer> {
        (0..count).map(|i| Buffer { addr: i * 8, len: 8, writable: i > 0 })
    }

    /// Plays the device: takes the next available head, checks that its chain is whole, returns it as used.
    fn serve(queue: &Virtqueue, index: u16, buffers: u16, len: u32) {
        let memory = &queue.memory;
        let at = &queue.at;
        let position = u64::from(index % at.size);
        let head = memory.load_u16(at.avail + 4 + 2 * position, Ordering::Acquire);
        let (table, mut entry) = match at.tables {
            Some(_) => (memory.load_u64(at.desc + 16 * u64::from(head)), 0),
            None => (at.desc, u64::from(head)),
        };
        for i in 0..buffers {
            assert_eq!(memory.load_u64(table + 16 * entry), u64::from(i) * 8);
            let rest = memory.load_u64(table + 16 * entry + 8);
            let flags = u32::try_from(rest >> 32 & 0xffff).unwrap();
            assert_eq!(flags & VRING_DESC_F_WRITE != 0, i > 0);
            assert_eq!(flags & VRING_DESC_F_NEXT != 0, i + 1 < buffers);
            entry = rest >> 48;
        }
        let mut element = u32::from(head).to_le_bytes().to_vec();
        element.extend_from_slice(&len.to_le_bytes());
        memory.write(at.used + 4 + 8 * position, &element);
        memory.store_u16(at.used + 2, index.wrapping_add(1), Ordering::Release);
    }

    #[test]
    fn chains_come_back_to_their_slots_over_many_wraps() {
        for indirect in [false, true] {
            let mut queue = queue(8, 2, indirect, true);
            assert_eq!(queue.addresses().chain_max(), if indirect { 8 } else { 4 });
            for index in 0..=u16::MAX {
                let slot = index % 2;
                queue.stage(slot, buffers(3)).unwrap();
                queue.publish().unwrap();
                assert_eq!(queue.pop().unwrap(), None);
                serve(&queue, index, 3, u32::from(index));
                assert_eq!(queue.pop().unwrap(), Some((slot, u32::from(index))));
                assert_eq!(queue.in_flight(), 0);
            }
        }
    }

    #[test]
    fn a_chain_that_is_too_long_is_refused() {
        let mut queue = queue(8, 2, false, true);
        queue.stage(0, buffers(4)).unwrap();
        assert!(matches!(queue.stage(1, buffers(6)), Err(Error::ChainTooLong { needed: 6, room: 4 })));
    }

    #[test]
    fn a_device_that_returns_what_it_has_not_is_found_out() {
        let mut queue = queue(8, 2, true, true);
        queue.memory.store_u16(queue.at.used + 2, 1, Ordering::Release);
        assert!(matches!(queue.pop(), Err(Error::StrayUsed(0))), "nothing was in flight");
        let mut queue = self::queue(8, 2, true, true);
        queue.stage(0, buffers(1)).unwrap();
        queue.memory.write(queue.at.used + 4, &[2, 0, 0, 0, 9, 0, 0, 0]);
        queue.memory.store_u16(queue.at.used + 2, 1, Ordering::Release);
        assert!(matches!(queue.pop(), Err(Error::StrayUsed(2))), "no such slot");
    }

    #[test]
    fn a_batch_is_kicked_once_and_only_where_the_device_wants_it() {
        let mut queue = queue(8, 4, true, true);
        for slot in 0..4 {
            queue.stage(slot, buffers(2)).unwrap();
        }
        assert!(queue.publish().unwrap(), "avail_event is 0: it wants the first");
        assert!(!queue.publish().unwrap(), "nothing new");
        assert_eq!(queue.kick.read().unwrap(), 1);
        for index in 0..4 {
            serve(&queue, index, 2, 0);
            queue.pop().unwrap().unwrap();
        }
        queue.stage(0, buffers(2)).unwrap();
        assert!(!queue.publish().unwrap(), "the device has not asked for more");
    }

    #[test]
    fn a_wait_ends_with_the_waker() {
        let mut queue = queue(8, 1, true, true);
        queue.waker().unwrap().abandon();
        assert!(matches!(queue.wait(), Err(Error::Abandoned)));
        assert_eq!(queue.memory.load_u16(queue.at.avail + 4 + 16, Ordering::Relaxed), 0);
    }

    proptest! {
        /// The formula against the sentence of the specification: an event is due when its index was passed.
        #[test]
        fn an_event_is_due_when_the_step_passes_it(event: u16, old: u16, step in 0_u16..1024) {
            let passed = (0..step).any(|i| old.wrapping_add(i) == event);
            prop_assert_eq!(needs_event(event, old.wrapping_add(step), old), passed);
        }
    }
}
