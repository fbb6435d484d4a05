//! How are FORGETs sent, which get no answer?
//!
//! On the high-priority queue, as Linux does (`virtio_fs_send_forget`). All threads of a client share it, so there is a
//! lock; a sender waits only when the device has not yet taken the last few hundred.

use std::sync::Arc;

use parking_lot::Mutex;
use zerocopy::IntoBytes;

use super::virtqueue::Addresses;
use super::{Buffer, Error, GuestMemory, Layout, Virtqueue, Waker};
use crate::fuse::abi::{ForgetIn, InHeader, opcode};

/// FORGETs that can be in the queue at the same time; one chain has one buffer.
const SLOTS: u16 = 128;
/// Bytes of a FORGET: `fuse_in_header` and `fuse_forget_in`.
const LENGTH: u32 = 48;

/// The sender of FORGETs.
pub struct Forgets {
    memory: Arc<GuestMemory>,
    messages: u64,
    state: Mutex<State>,
}

struct State {
    queue: Virtqueue,
    free: Vec<u16>,
}

/// Where it lies in memory that does not exist yet.
#[derive(Debug)]
pub struct ForgetLayout {
    queue: Addresses,
    messages: u64,
}

impl ForgetLayout {
    /// Lays out the high-priority queue.
    pub fn new(layout: &mut Layout) -> Self {
        let queue = Addresses::new(layout, SLOTS, SLOTS, false);
        Self { queue, messages: layout.take(64 * u64::from(SLOTS), 64) }
    }
}

impl Forgets {
    /// The sender, and the queue for the connection to start.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(memory: &Arc<GuestMemory>, at: ForgetLayout, event_idx: bool) -> Result<Self, Error> {
        let queue = Virtqueue::new(Arc::clone(memory), at.queue, event_idx)?;
        let state = Mutex::new(State { queue, free: (0..SLOTS).collect() });
        Ok(Self { memory: Arc::clone(memory), messages: at.messages, state })
    }

    /// The queue, for starting it before anything is sent.
    pub fn queue_mut(&mut self) -> &Virtqueue {
        &self.state.get_mut().queue
    }

    /// A way to end the waiting for a free slot.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn waker(&self) -> Result<Waker, Error> {
        self.state.lock().queue.waker()
    }

    /// Gives `nlookup` references on a node back.
    ///
    /// # Errors
    /// The device broke the queue, or the [`Waker`] was used.
    pub fn send(&self, unique: u64, node: u64, nlookup: u64) -> Result<(), Error> {
        let mut state = self.state.lock();
        let slot = state.free_slot()?;
        let at = self.messages + 64 * u64::from(slot);
        let header =
            InHeader { len: LENGTH, opcode: opcode::FORGET, unique, nodeid: node, ..InHeader::default() };
        self.memory.write(at, header.as_bytes());
        self.memory.write(at + size_of::<InHeader>() as u64, ForgetIn { nlookup }.as_bytes());
        state.queue.stage(slot, std::iter::once(Buffer { addr: at, len: LENGTH, writable: false }))?;
        state.queue.publish().map(drop)
    }

    /// Waits until the device has taken everything.
    ///
    /// # Errors
    /// As those of [`send`](Self::send).
    pub fn drain(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        while state.queue.in_flight() > 0 {
            state.reap()?;
        }
        Ok(())
    }
}

impl State {
    fn free_slot(&mut self) -> Result<u16, Error> {
        loop {
            if let Some(slot) = self.free.pop() {
                return Ok(slot);
            }
            self.reap()?;
        }
    }

    /// Takes back what the device has taken; sleeps if that is nothing.
    fn reap(&mut self) -> Result<(), Error> {
        let before = self.free.len();
        while let Some((slot, _)) = self.queue.pop()? {
            // Never more than SLOTS, for which there is room.
            self.free.push(slot);
        }
        if self.free.len() > before {
            return Ok(());
        }
        self.queue.wait()
    }
}
