//! The driver's side of a split virtqueue, obedient or not: it puts exactly those descriptors into the
//! ring that a test asks for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::ram::Ram;

/// The chain goes on at `next` (virtio 1.2, section 2.7.5).
pub const NEXT: u16 = 1;
/// The device writes this buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// One descriptor, as it stands in memory.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A virtqueue of a synthetic guest.
pub struct Virtq {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub kick: EventFd,
    pub call: EventFd,
    event_idx: bool,
    next_desc: u16,
    avail_idx: u16,
    used_idx: u16,
}

impl Virtq {
    /// Lays a queue out in guest memory.
    pub fn new(ram: &mut Ram, size: u16, event_idx: bool) -> Self {
        let n = u64::from(size);
        Self {
            size,
            desc: ram.alloc(16 * n),
            avail: ram.alloc(6 + 2 * n),
            used: ram.alloc(6 + 8 * n),
            kick: EventFd::new(0).expect("eventfd"),
            call: EventFd::new(0).expect("eventfd"),
            event_idx,
            next_desc: 0,
            avail_idx: 0,
            used_idx: 0,
        }
    }

    /// Begins again at an index that the device told on its stop.
    pub fn resume_at(&mut self, index: u16) {
        assert_eq!(self.avail_idx, index, "the device did not take everything, or invented a request");
    }

    /// Writes a table entry as it is.
    pub fn set_descriptor(&self, ram: &Ram, index: u16, descriptor: Descriptor) {
        ram.write(self.desc + 16 * u64::from(index), &descriptor.bytes());
    }

    /// Links buffers (address, length, device-writable) to a chain of the table; its head. The table is
    /// used round and round, so there may be at most `size` descriptors in flight.
    pub fn chain(&mut self, ram: &Ram, buffers: &[(u64, u32, bool)]) -> u16 {
        assert!(!buffers.is_empty() && buffers.len() <= usize::from(self.size));
        let head = self.next_desc;
        for (i, &(addr, len, write)) in buffers.iter().enumerate() {
            let index = self.next_desc;
            self.next_desc = (self.next_desc + 1) % self.size;
            let last = i + 1 == buffers.len();
            let flags = if write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.set_descriptor(ram, index, Descriptor { addr, len, flags, next: self.next_desc });
        }
        head
    }

    /// The same as one descriptor that points to an indirect table.
    pub fn indirect_chain(&mut self, ram: &mut Ram, buffers: &[(u64, u32, bool)]) -> u16 {
        let table = ram.alloc(16 * buffers.len() as u64);
        for (i, &(addr, len, write)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let flags = if write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let descriptor = Descriptor { addr, len, flags, next: i as u16 + 1 };
            ram.write(table + 16 * i as u64, &descriptor.bytes());
        }
        let head = self.next_desc;
        self.next_desc = (self.next_desc + 1) % self.size;
        let len = 16 * buffers.len() as u32;
        self.set_descriptor(ram, head, Descriptor { addr: table, len, flags: INDIRECT, next: 0 });
        head
    }

    /// Makes a head available and kicks where the device wants it.
    pub fn offer(&mut self, ram: &Ram, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.avail_idx % self.size);
        ram.write(slot, &head.to_le_bytes());
        let old = self.avail_idx;
        self.avail_idx = old.wrapping_add(1);
        ram.atomic_u16(self.avail + 2).store(self.avail_idx, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = ram.atomic_u16(self.used + 4 + 8 * u64::from(self.size)).load(Ordering::Relaxed);
            self.avail_idx.wrapping_sub(event).wrapping_sub(1) < self.avail_idx.wrapping_sub(old)
        } else {
            ram.atomic_u16(self.used).load(Ordering::Relaxed) & 1 == 0
        };
        if wanted {
            self.kick.write(1).expect("kick");
        }
    }

    /// The next used element (head, length), if there is one within the time.
    pub fn take_used(&mut self, ram: &Ram, timeout: Duration) -> Option<(u32, u32)> {
        let end = Instant::now() + timeout;
        loop {
            if ram.atomic_u16(self.used + 2).load(Ordering::Acquire) != self.used_idx {
                let element = ram.read(self.used + 4 + 8 * u64::from(self.used_idx % self.size), 8);
                self.used_idx = self.used_idx.wrapping_add(1);
                if self.event_idx {
                    // Ask for a signal on the next element (section 2.7.7).
                    let event = self.avail + 4 + 2 * u64::from(self.size);
                    ram.atomic_u16(event).store(self.used_idx, Ordering::Relaxed);
                    std::sync::atomic::fence(Ordering::SeqCst);
                }
                let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().expect("4 bytes"));
                return Some((word(0), word(4)));
            }
            let left = end.checked_duration_since(Instant::now())?;
            self.wait_for_call(left.min(Duration::from_millis(200)));
        }
    }

    /// Waits on the call descriptor; a lost signal only costs the time limit of the caller's turn.
    fn wait_for_call(&self, limit: Duration) {
        use std::os::fd::{AsRawFd, BorrowedFd};
        // SAFETY: the eventfd lives as long as `self`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
        let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: limit.as_nanos().min(999_999_999) as i64 };
        if rustix::event::poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0) {
            let _ = self.call.read();
        }
    }
}
