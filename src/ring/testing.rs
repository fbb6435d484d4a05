//! A driver for tests: the guest's side of a ring, and a device that reads and writes one file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::fuse::{DirectFile, Direction, HostFile, Transfer};

/// The rings, the payload area, and what follows it without a gap in guest memory alone.
pub(super) const RINGS: u64 = 0x10_0000;
pub(super) const LOW: u64 = 0x4000_0000;
pub(super) const LOW_SIZE: u64 = 8 << 20;
pub(super) const HIGH: u64 = LOW + LOW_SIZE;
pub(super) const HIGH_SIZE: u64 = 16 << 20;
const USER: u64 = 0x7000_0000_0000;
/// Indirect tables lie at the start of the low area, 64 KiB each.
pub(super) const BUFFERS: u64 = LOW + (4 << 20);

/// Maps guest memory from one file, with an offset that is no multiple of a page for its second region.
pub(super) fn memory(file: &OwnedFd) -> GuestMemory {
    let total = (1 << 20) + LOW_SIZE + HIGH_SIZE + 0x2000;
    ftruncate(file, total).unwrap();
    let region = |offset, size, guest_address, user_address| RegionConfig {
        file: file.try_clone().unwrap(),
        offset,
        size,
        guest_address,
        user_address,
    };
    GuestMemory::new([
        region((1 << 20) + LOW_SIZE + 0x1000, HIGH_SIZE, HIGH, USER + 0x4000_0000),
        region(0, 1 << 20, RINGS, USER),
        region(1 << 20, LOW_SIZE, LOW, USER + 0x1000_0000),
    ])
    .unwrap()
}

/// The driver of one split virtqueue.
pub(super) struct Driver {
    pub(super) file: OwnedFd,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) size: u16,
    event_idx: bool,
    indirect: bool,
    kick: OwnedFd,
    call: OwnedFd,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    avail: u16,
    kicked: u16,
    used: u16,
    /// How the ring is to behave; the engine is chosen when it is made.
    pub(super) options: RingOptions,
}

impl Driver {
    pub(super) fn new(size: u16, event_idx: bool, indirect: bool) -> Self {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self {
            memory: Arc::new(memory(&file)),
            file,
            size,
            event_idx,
            indirect,
            kick: event(),
            call: event(),
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); usize::from(size)],
            avail: 0,
            kicked: 0,
            used: 0,
            options: RingOptions::default(),
        }
    }

    /// Begins with indices near their wrap.
    pub(super) fn start_at(&mut self, index: u16) {
        (self.avail, self.kicked, self.used) = (index, index, index);
        self.field(self.available_at() + 2).store(index, Ordering::SeqCst);
        self.field(self.used_at() + 2).store(index, Ordering::SeqCst);
    }

    /// Whether chains lie in tables of their own.
    pub(super) fn is_indirect(&self) -> bool {
        self.indirect
    }

    fn available_at(&self) -> u64 {
        RINGS + 0x8_0000
    }

    fn used_at(&self) -> u64 {
        RINGS + 0xa_0000
    }

    pub(super) fn config(&self) -> RingConfig {
        RingConfig {
            name: "test".to_owned(),
            size: self.size,
            descriptors: USER,
            available: USER + 0x8_0000,
            used: USER + 0xa_0000,
            log_address: Some(self.used_at()),
            next_avail: self.used,
            event_idx: self.event_idx,
            indirect: self.indirect,
            enabled: true,
        }
    }

    pub(super) fn ring(&self, service: &Arc<FileService>, engine: EngineKind) -> Ring {
        self.try_ring(self.config(), service, engine).unwrap()
    }

    pub(super) fn try_ring(
        &self,
        config: RingConfig,
        service: &Arc<FileService>,
        engine: EngineKind,
    ) -> io::Result<Ring> {
        let notifiers = Notifiers {
            kick: self.kick.try_clone().unwrap(),
            call: Some(self.call.try_clone().unwrap()),
            err: None,
        };
        let surroundings = Surroundings {
            memory: Arc::clone(&self.memory),
            dirty_log: None,
            service: Arc::<FileService>::clone(service),
            offload: Arc::new(Offload::default()),
            options: RingOptions { engine, ..self.options.clone() },
        };
        Ring::start(config, notifiers, surroundings)
    }

    fn field(&self, address: u64) -> &AtomicU16 {
        let mut found = None;
        self.memory.slices(address, 2, |pointer, _| found = Some(pointer)).unwrap();
        // SAFETY: mapped while the driver lives; the tests pass even addresses.
        unsafe { AtomicU16::from_ptr(found.unwrap().as_ptr().cast()) }
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let copied = self.memory.slices(address, bytes.len(), |pointer, len| {
            // SAFETY: the piece is mapped and no request uses it now.
            unsafe { pointer.as_ptr().copy_from_nonoverlapping(rest.as_ptr(), len) };
            rest = &rest[len..];
        });
        copied.unwrap();
    }

    pub(super) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let copied = self.memory.slices(address, len, |pointer, len| {
            // SAFETY: as in `write`.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(pointer.as_ptr(), len) });
        });
        copied.unwrap();
        bytes
    }

    /// Writes a descriptor as it is told, right or wrong.
    pub(super) fn descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut raw = address.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.write(at, &raw);
    }

    /// Makes a chain available, without a kick. Returns its head.
    pub(super) fn add(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let parts: Vec<(u64, u32, u16)> = readable
            .iter()
            .map(|part| (part.0, part.1, 0))
            .chain(writable.iter().map(|part| (part.0, part.1, 2)))
            .collect();
        let chain: Vec<u16> = if self.indirect {
            let head = self.free.pop().unwrap();
            let table = LOW + u64::from(head) * 0x1_0000;
            for (index, (address, len, flags)) in parts.iter().enumerate() {
                let last = index + 1 == parts.len();
                let next = if last { 0 } else { u16::try_from(index + 1).unwrap() };
                self.descriptor(table + index as u64 * 16, *address, *len, flags | u16::from(!last), next);
            }
            self.descriptor(
                RINGS + u64::from(head) * 16,
                table,
                u32::try_from(parts.len() * 16).unwrap(),
                4,
                0,
            );
            vec![head]
        } else {
            let chain: Vec<u16> = parts.iter().map(|_| self.free.pop().unwrap()).collect();
            for (index, (address, len, flags)) in parts.iter().enumerate() {
                let next = chain.get(index + 1).copied();
                let flags = flags | u16::from(next.is_some());
                self.descriptor(
                    RINGS + u64::from(chain[index]) * 16,
                    *address,
                    *len,
                    flags,
                    next.unwrap_or(0),
                );
            }
            chain
        };
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        self.offer(head);
        head
    }

    /// Makes descriptor `head` available, whatever it holds.
    pub(super) fn offer(&mut self, head: u16) {
        let place = u64::from(self.avail % self.size);
        self.field(self.available_at() + 4 + 2 * place).store(head, Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
        self.claim(self.avail);
    }

    /// Sets the available index.
    pub(super) fn claim(&self, index: u16) {
        self.field(self.available_at() + 2).store(index, Ordering::Release);
    }

    /// Kicks if the device wants it.
    pub(super) fn kick(&mut self) {
        fence(Ordering::SeqCst);
        let (old, new) = (self.kicked, self.avail);
        self.kicked = new;
        let wanted = if self.event_idx {
            let event = self.field(self.used_at() + 4 + 8 * u64::from(self.size)).load(Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.is_to_kick()
        };
        if wanted {
            self.force_kick();
        }
    }

    /// Without EVENT_IDX: leaves what a device leaves that ends while it wants no kicks.
    pub(super) fn want_no_kicks(&self) {
        self.field(self.used_at()).store(1, Ordering::Relaxed);
    }

    /// Without EVENT_IDX: whether the device wants to be kicked.
    pub(super) fn is_to_kick(&self) -> bool {
        self.field(self.used_at()).load(Ordering::Relaxed) & 1 == 0
    }

    pub(super) fn force_kick(&self) {
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Waits for `count` used chains: head and length of each. Sleeps on the call eventfd alone, so that a
    /// call that was forgotten fails the test.
    pub(super) fn wait(&mut self, count: usize) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        loop {
            let index = self.field(self.used_at() + 2).load(Ordering::Acquire);
            while self.used != index {
                let element = self.used_at() + 4 + 8 * u64::from(self.used % self.size);
                let raw = self.read(element, 8);
                let head = u16::from_le_bytes([raw[0], raw[1]]);
                used.push((head, u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]])));
                let chain = std::mem::take(&mut self.chains[usize::from(head)]);
                self.free.extend(chain);
                self.used = self.used.wrapping_add(1);
            }
            if used.len() >= count {
                return used;
            }
            self.field(self.available_at() + 4 + 2 * u64::from(self.size))
                .store(self.used, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.field(self.used_at() + 2).load(Ordering::Acquire) != self.used {
                continue;
            }
            let mut fds = [PollFd::new(&self.call, PollFlags::IN)];
            let time = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(poll(&mut fds, Some(&time)).unwrap(), 1, "the device did not call");
            rustix::io::read(&self.call, &mut [0_u8; 8]).unwrap();
        }
    }

    pub(super) fn one(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> (u16, u32) {
        self.add(readable, writable);
        self.kick();
        self.wait(1)[0]
    }

    /// How many answers lie in the used ring that nobody looked at.
    pub(super) fn unseen(&self) -> u16 {
        self.field(self.used_at() + 2).load(Ordering::Acquire).wrapping_sub(self.used)
    }
}

/// What the test device is asked to do: the first byte of a head.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Op {
    /// Answer with the whole request.
    Echo = 1,
    Read,
    Write,
    /// Write at the end of the file.
    Append,
    /// Answer from another thread.
    Slow,
    /// Wait until cancelled, then answer.
    Wait,
    /// Forget the answer.
    Drop,
    Panic,
}

/// Bytes of a head, and of the head of an answer: errno, bytes moved.
pub(super) const HEAD: usize = 32;
pub(super) const REPLY_HEAD: usize = 16;

pub(super) fn head(op: Op, offset: u64, len: u32, direct: bool) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = op as u8;
    head[1] = u8::from(direct);
    head[8..16].copy_from_slice(&offset.to_le_bytes());
    head[16..20].copy_from_slice(&len.to_le_bytes());
    head
}

pub(super) fn reply(errno: i32, moved: usize) -> Vec<u8> {
    let mut reply = errno.to_le_bytes().to_vec();
    reply.resize(8, 0);
    reply.extend((moved as u64).to_le_bytes());
    reply
}

/// A file that is open twice.
#[derive(Debug)]
struct TwiceOpen(OwnedFd, Option<DirectFile>);

impl HostFile for TwiceOpen {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        self.1.as_ref()
    }
}

/// A device that serves one file.
pub(super) struct FileService {
    file: Arc<TwiceOpen>,
    waiting: Mutex<(usize, bool)>,
    changed: Condvar,
    /// Whether the rings destroy what they have read of guest memory.
    burns: bool,
}

impl FileService {
    pub(super) fn new(file: File, direct: Option<File>) -> Arc<Self> {
        let direct =
            direct.map(|file| DirectFile { file: file.into(), memory_align: 512, offset_align: 4096 });
        let (waiting, changed) = (Mutex::new((0, false)), Condvar::new());
        Arc::new(Self { file: Arc::new(TwiceOpen(file.into(), direct)), waiting, changed, burns: false })
    }

    /// The same, whose rings destroy what they have read of guest memory.
    pub(super) fn burning(self: Arc<Self>) -> Arc<Self> {
        Arc::new(Self { burns: true, ..Arc::into_inner(self).unwrap() })
    }

    /// Waits until `count` requests wait.
    pub(super) fn await_waiters(&self, count: usize) {
        let mut waiting = self.waiting.lock();
        let arrived =
            self.changed.wait_while_for(&mut waiting, |state| state.0 < count, Duration::from_secs(10));
        assert!(!arrived.timed_out());
    }
}

impl Service for FileService {
    fn peek_len(&self) -> usize {
        HEAD
    }

    fn head_len(&self, peek: &[u8]) -> usize {
        if peek.first() == Some(&(Op::Echo as u8)) { usize::MAX } else { HEAD }
    }

    fn handle(&self, head: &[u8], _: usize, _: usize, answer: &mut Vec<u8>) -> Outcome {
        let Some(op) = head.first().filter(|_| head.len() >= HEAD) else { return Outcome::NoReply };
        let direction = match *op {
            op if op == Op::Echo as u8 => {
                answer.extend_from_slice(head);
                return Outcome::Reply;
            }
            op if op == Op::Panic as u8 => panic!("asked to"),
            op if op == Op::Read as u8 => Direction::Read,
            op if op == Op::Write as u8 || op == Op::Append as u8 => Direction::Write,
            _ => return Outcome::Blocking,
        };
        Outcome::Transfer(Transfer {
            direction,
            offset: u64::from_le_bytes(head[8..16].try_into().unwrap()),
            len: u32::from_le_bytes(head[16..20].try_into().unwrap()),
            file: Arc::<TwiceOpen>::clone(&self.file),
            direct: head[1] != 0,
            rw_flags: if *op == Op::Append as u8 { libc::RWF_APPEND } else { 0 },
            pad: false,
            passage: None,
        })
    }

    fn handle_blocking(&self, head: &[u8], _: usize, respond: Respond) {
        match head[0] {
            op if op == Op::Drop as u8 => return,
            op if op == Op::Wait as u8 => {
                let mut waiting = self.waiting.lock();
                waiting.0 += 1;
                self.changed.notify_all();
                self.changed.wait_while(&mut waiting, |state| !state.1);
            }
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
        respond(reply(0, 7));
    }

    fn finish(&self, _: &[u8], _: &Transfer, moved: io::Result<usize>, answer: &mut Vec<u8>) {
        answer.extend(match moved {
            Ok(moved) => reply(0, moved),
            Err(error) => reply(error.raw_os_error().unwrap(), 0),
        });
    }

    fn fail(&self, _: &[u8], error: io::Error, answer: &mut Vec<u8>) {
        answer.extend(reply(error.raw_os_error().unwrap(), 0));
    }

    fn reply_head_len(&self) -> usize {
        REPLY_HEAD
    }

    fn prepare_thread(&self) -> io::Result<()> {
        if self.burns {
            once::burn();
        }
        Ok(())
    }

    fn cancel_waits(&self) {
        self.waiting.lock().1 = true;
        self.changed.notify_all();
    }
}
