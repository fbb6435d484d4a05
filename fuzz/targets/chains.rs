//! Rings, descriptors and indirect tables in the memory of a guest that is an enemy.
//!
//! Whole rings serve what the input put into guest memory, up to a service that makes of a request what its first bytes
//! say. Files are such that transfers end early, go on, or fail, and the front-end makes one of those shorter that hold guest
//! memory. The memory changes meanwhile: between the copy of a request's beginning and that of its rest, before and after it is
//! served (at those moments, so the same every time), and in some inputs by this thread while the ring's runs (which is
//! another race in every run, and cannot be replayed exactly).
//!
//! Oracles: the beginning of a head is what it was when its length was decided by it; every request that was taken
//! is answered once, with no more bytes than it has room for; nothing is written but where a descriptor permits it; what is
//! written is marked in the dirty log. The last three only where nobody changes anything meanwhile.

#![no_main]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use extentfsd::extents::{DirectFile, HostFile};
use extentfsd::fuse::{Direction, Transfer};
use extentfsd::metrics::Limit;
use extentfsd::ring::{
    DirtyLog, EngineKind, GuestMemory, Notifiers, Offload, Outcome, Respond, Ring, RingConfig, RingOptions,
    Service, Surroundings, Wait,
};
use extentfsd_fuzz::guest_memory::{Flip, Ram, Region, SIZE, USER, layout};
use extentfsd_fuzz::input::Input;
use extentfsd_fuzz::specification::{LOG, Specification, Tables};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CpuSet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

/// Bytes by which a request tells how long its head is.
const PEEK: usize = 8;
/// Where the payload of a read begins.
const REPLY_HEAD: usize = 8;
/// Requests that are put off, in one input.
const DELAYS: u32 = 8;

/// No file grows beyond this: a write across it is a short one.
const LARGEST_FILE: u64 = 1 << 30;
/// Bytes of the file that requests read and write.
const FILE: u64 = 1 << 16;

/// Lives as long as the process.
struct Lab {
    ram: Arc<Ram>,
    file: Arc<OwnedFd>,
    /// The same file by a descriptor of its own, which stands for one past the page cache.
    direct: Arc<Direct>,
    full: Arc<OwnedFd>,
    log: OwnedFd,
    offload: Arc<Offload>,
}

/// A file that can be had past the page cache.
#[derive(Debug)]
struct Direct(OwnedFd, DirectFile);

impl HostFile for Direct {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        Some(&self.1)
    }
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let memfd = |size| {
            let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
            ftruncate(&file, size).expect("a memfd");
            file
        };
        let (current, maximum) = (Some(LARGEST_FILE), getrlimit(Resource::Fsize).maximum);
        setrlimit(Resource::Fsize, Rlimit { current, maximum }).expect("a lower limit");
        // SAFETY: no handler that could be wrong.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let file = memfd(FILE);
        let again = || file.try_clone().expect("a descriptor");
        let direct = DirectFile { file: again(), memory_align: 512, offset_align: 512 };
        let full = rustix::fs::open("/dev/full", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        Lab {
            ram: Arc::default(),
            direct: Arc::new(Direct(again(), direct)),
            file: Arc::new(file),
            full: Arc::new(full.expect("a device")),
            log: memfd(LOG as u64),
            offload: Arc::default(),
        }
    })
}

fn run(bytes: &[u8]) {
    let Lab { ram, file, log, offload, .. } = lab();
    // As it was, where it was written behind its end.
    ftruncate(&**file, FILE).expect("a memfd");
    let mut input = Input::new(bytes);
    ram.clear();
    let regions = layout(&mut input);
    let Ok(memory) = GuestMemory::new(regions.iter().map(|region| ram.region(*region))) else { return };
    let memory = Arc::new(memory);
    let config = ring(&mut input);
    let place = |user: u64| {
        let inside = |region: &&Region| user >= region.user && user - region.user < region.size;
        regions.iter().find(inside).map(|region| (user - region.user + region.offset) as usize)
    };
    let [descriptors, available, used] =
        [config.descriptors, config.available, config.used].map(|at| place(at).unwrap_or(SIZE));
    let [engine, racing, second, at_end] = [0, 1, 2, 3].map(|_| input.u8());
    fill(&mut input, ram, &regions, descriptors, available, &config);

    rustix::io::pwrite(log, &[0; LOG], 0).expect("a memfd");
    let dirty_log = DirtyLog::new(log, 0, LOG as u64).expect("a bitmap");
    let service = Arc::new(Enemy {
        ram: Arc::clone(ram),
        peeked: Mutex::default(),
        delays: AtomicU32::new(0),
        at_end: at_end & 1 == 1,
    });
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    let (call, err) = (at_end & 0x60 != 0x60, at_end & 0x90 != 0x90);
    let notifiers = Notifiers { kick: event(), call: call.then(event), err: err.then(event) };
    let options = options(engine, racing);
    let surroundings = Surroundings {
        memory: Arc::clone(&memory),
        dirty_log: Some(Arc::new(dirty_log)),
        service,
        offload: Arc::clone(offload),
        options,
    };
    let before = ram.snapshot();
    let begin = config.next_avail;
    // Sometimes the process has all the files that it may have, when the thread starts or when its engine does.
    let short = (second & 0x38 == 0x38).then(|| Shortage::of_descriptors(u64::from(second >> 6)));
    let ring = Ring::start(config.clone(), notifiers, surroundings);
    drop(short);
    let Ok(ring) = ring else { return };
    if racing & 3 == 3 && !ram.is_quiet() {
        // Against the ring's thread, for about as long as it takes.
        let since = Instant::now();
        while since.elapsed() < Duration::from_micros(100) {
            ram.flip();
        }
    }
    let mut quiet = ram.is_quiet() && !Ram::shrinks(&regions);
    if at_end & 6 == 6 {
        // What a front-end may change while the ring runs; the last also back.
        ring.set_call(Some(event())).expect("a ring that runs");
        ring.set_err(None).expect("a ring that runs");
        ring.set_enabled(false).expect("a ring that runs");
        ring.set_dirty_log(Some(Arc::new(DirtyLog::new(log, 0, LOG as u64).expect("a bitmap"))))
            .expect("a ring that runs");
        ring.set_log_address(config.log_address).expect("a ring that runs");
    }
    if second & 7 == 7 {
        quiet = false;
        // Whether or not the queue is there.
        if let Ok(other) = GuestMemory::new(layout(&mut input).iter().map(|region| ram.region(*region))) {
            let _ = ring.set_memory(Arc::new(other));
        }
    }
    // A round of the ring's thread each, in which it takes 32 requests.
    for _ in 0..config.size / 32 + 2 {
        ring.set_enabled(true).expect("a ring that runs");
    }
    if at_end & 8 == 8 {
        return drop(ring);
    }
    let taken = ring.stop().next_avail.wrapping_sub(begin);
    if quiet {
        let after = ram.snapshot();
        let tables = Tables { descriptors, available, used };
        let walks = Specification { memory: &before, regions: &regions, tables, config: &config };
        let log = bitmap(log);
        walks.judge(begin, taken, &after, &log);
    }
}

/// What an operator chose, and what the host has.
fn options(engine: u8, more: u8) -> RingOptions {
    let usual = RingOptions::default();
    let limit = |most| Arc::new(Limit::new("--max", most));
    RingOptions {
        engine: match engine & 7 {
            7 => EngineKind::Auto,
            6 => EngineKind::Uring,
            _ => EngineKind::Threads,
        },
        busy_poll: Duration::from_micros(if engine & 0x18 == 0x18 { 200 } else { 0 }),
        rest: Duration::from_micros(if engine & 0x60 == 0x60 { 50 } else { 0 }),
        cpu: match more & 0x1c {
            0x1c => Some(0),
            0x18 => Some(CpuSet::MAX_CPU - 1),
            _ => None,
        },
        in_flight: if more & 0x60 == 0x60 { limit(2) } else { usual.in_flight },
        kept_bytes: if more & 0xa0 == 0xa0 { limit(64) } else { usual.kept_bytes },
    }
}

/// While this lives the process gets no more descriptors than a few.
struct Shortage(Rlimit);

impl Shortage {
    fn of_descriptors(more: u64) -> Self {
        let before = getrlimit(Resource::Nofile);
        let next = rustix::io::dup(&lab().log).expect("a descriptor");
        let current = Some(u64::from(next.as_raw_fd().cast_unsigned()) + more);
        drop(next);
        setrlimit(Resource::Nofile, Rlimit { current, maximum: before.maximum }).expect("a lower limit");
        Self(before)
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).expect("the limit that was");
    }
}

fn bitmap(log: &OwnedFd) -> [u8; LOG] {
    let mut bytes = [0; LOG];
    rustix::io::pread(log, &mut bytes, 0).expect("a memfd");
    bytes
}

/// Where the queue is: mostly somewhere that makes sense.
fn ring(input: &mut Input<'_>) -> RingConfig {
    let choice = input.u8();
    let size = match choice {
        0..=199 => 1 << (choice % 7),
        200..=229 => 128,
        _ => input.u16(),
    };
    let flags = input.u8();
    let mut at =
        |usual: u64| if input.once_in(16) { USER.wrapping_add(input.number()) } else { USER + usual };
    let [descriptors, available, used] = [at(0), at(0x1000), at(0x2000)];
    let next_avail = if flags & 8 == 0 { 0 } else { input.u16() };
    RingConfig {
        name: "fuzz".to_owned(),
        size,
        descriptors,
        available,
        used,
        // The first region of most layouts begins at guest address 0.
        log_address: used.checked_sub(USER),
        next_avail,
        event_idx: flags & 1 == 1,
        indirect: flags & 2 == 0,
        enabled: true,
    }
}

/// Puts into guest memory what the input says: descriptors, heads, requests, plain bytes. Plans changes.
fn fill(
    input: &mut Input<'_>,
    ram: &Ram,
    regions: &[Region],
    descriptors: usize,
    available: usize,
    config: &RingConfig,
) {
    let size = usize::from(config.size.max(1));
    let mut offered = config.next_avail;
    // What a queue that was there before would have left.
    ram.write(available + 2, &offered.to_le_bytes());
    while !input.is_empty() {
        match input.u8() {
            // A descriptor of the table, which goes on with the next one if it goes on.
            0..=79 => {
                let index = input.below(size.min(256));
                let raw = descriptor(input, regions, index);
                ram.write(descriptors + 16 * index, &raw);
            }
            // One of an indirect table, where tables usually are.
            80..=119 => {
                let index = input.below(32);
                let raw = descriptor(input, regions, index);
                ram.write(0x3000 + 16 * index, &raw);
            }
            120..=169 => {
                let head = input.u8();
                ram.write(available + 4 + 2 * (usize::from(offered) % size), &u16::from(head).to_le_bytes());
                offered = offered.wrapping_add(1);
                ram.write(available + 2, &offered.to_le_bytes());
            }
            // The beginning of a request, where requests usually are.
            170..=209 => {
                let at = 0x4000 + 64 * usize::from(input.u8());
                let bytes = input.bytes(8);
                ram.write(at, bytes);
            }
            210..=219 => {
                let index =
                    if input.once_in(2) { input.u16() } else { offered.wrapping_add(input.u8().into()) };
                ram.write(available + 2, &index.to_le_bytes());
            }
            220..=229 => {
                let at = usize::from(input.u16());
                let len = input.below(64);
                let bytes = input.bytes(len);
                ram.write(at, bytes);
            }
            230 => ram.plan(Flip::Shrink(input.u16().into())),
            231..=233 => crowd(input, ram, regions, descriptors, size),
            234..=244 => {
                // Of a descriptor, of a table, or of a request.
                let base = input.one_of(&[descriptors, 0x3000, 0x4000]);
                ram.plan(Flip::Bytes { offset: base + 4 * usize::from(input.u8()), bytes: input.array() });
            }
            _ => ram.plan(Flip::Bytes { offset: usize::from(input.u16()), bytes: input.array() }),
        }
    }
}

/// A chain of many descriptors of some bytes each, which do not touch.
fn crowd(input: &mut Input<'_>, ram: &Ram, regions: &[Region], descriptors: usize, size: usize) {
    let (first, count) = (input.below(256), usize::from(input.u16()) % size);
    let (flags, len) = (u16::from(input.u8() & 2), u32::from(input.u8() & 15));
    let region = regions.first().copied().unwrap_or(Region { size: 1, ..Region::default() });
    for index in first..(first + count).min(size) {
        let address = region.guest.wrapping_add((0x9000 + 16 * index as u64) % region.size.max(1));
        let flags = if index + 1 < first + count { flags | 1 } else { flags };
        ram.write(descriptors + 16 * index, &raw(address, len, flags, index as u16 + 1));
    }
}

/// A descriptor: mostly one that is followed by the next of its table and leads to memory that is there.
fn descriptor(input: &mut Input<'_>, regions: &[Region], index: usize) -> [u8; 16] {
    let kind = input.u8();
    let next = if kind & 0x30 == 0x30 { input.u16() } else { index as u16 + 1 };
    let mut flags = u16::from(kind & 3);
    let region = regions.get(usize::from(kind >> 6) % regions.len().max(1)).copied();
    let region = region.unwrap_or(Region { size: 1, ..Region::default() });
    let (mut address, mut len) = match kind & 0x0c {
        0x00 => (0x4000 + 64 * u64::from(input.u8()), u32::from(input.u8())),
        0x04 => (region.guest.wrapping_add(input.number() % region.size.max(1)), input.number_u32()),
        0x08 => {
            (region.guest.wrapping_add(region.size).wrapping_sub(input.u8().into()), u32::from(input.u8()))
        }
        _ => (input.number(), input.number_u32()),
    };
    if kind & 0x30 == 0x20 {
        // An indirect table.
        flags = if input.once_in(8) { 5 } else { 4 };
        (address, len) = (0x3000, 16 * u32::from(input.u8() & 31));
        if input.once_in(16) {
            (address, len) = (input.number(), input.number_u32());
        }
    }
    raw(address, len, flags, next)
}

/// `struct virtq_desc`.
fn raw(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&address.to_le_bytes());
    raw[8..12].copy_from_slice(&len.to_le_bytes());
    raw[12..14].copy_from_slice(&flags.to_le_bytes());
    raw[14..].copy_from_slice(&next.to_le_bytes());
    raw
}

/// The device: what it does with a request is in the request.
struct Enemy {
    ram: Arc<Ram>,
    /// What `head_len` saw.
    peeked: Mutex<Option<Vec<u8>>>,
    delays: AtomicU32,
    at_end: bool,
}

impl Enemy {
    /// A file and a place in it.
    fn file(kind: u8, place: u8) -> (Arc<dyn HostFile>, u64) {
        let (lab, at) = (lab(), u64::from(place) * 256);
        match kind & 7 {
            // No offset of a file.
            1 => (Arc::clone(&lab.file) as Arc<_>, u64::MAX - at),
            2 => (Arc::clone(&lab.full) as Arc<_>, at),
            3 => (Arc::clone(&lab.direct) as Arc<_>, at),
            // Across the limit of a file, and across that of all files.
            4 => (Arc::clone(&lab.file) as Arc<_>, LARGEST_FILE - at),
            5 => (Arc::clone(&lab.direct) as Arc<_>, (1 << 63) - 512 + at),
            _ => (Arc::clone(&lab.file) as Arc<_>, at),
        }
    }
}

impl Service for Enemy {
    fn peek_len(&self) -> usize {
        PEEK
    }

    fn head_len(&self, peek: &[u8]) -> usize {
        *self.peeked.lock().expect("no panics here") = Some(peek.to_vec());
        // Now the guest makes another request of it.
        self.ram.flip();
        match peek.get(1) {
            Some(long) if long & 1 == 1 => usize::MAX,
            Some(len) => usize::from(*len) * 8,
            None => 0,
        }
    }

    fn handle(&self, head: &[u8], payload: usize, room: usize, reply: &mut Vec<u8>) -> Outcome {
        if let Some(peeked) = self.peeked.lock().expect("no panics here").take() {
            assert_eq!(head.get(..peeked.len()), Some(&peeked[..]), "a head was read twice");
        }
        assert!(reply.is_empty());
        self.ram.flip();
        let byte = |at: usize| head.get(at).copied().unwrap_or(0);
        let number = u32::from_le_bytes([byte(4), byte(5), byte(6), byte(7)]);
        let transfer = |direction, len: usize| {
            let len = if number == 0 { len } else { number as usize };
            let (direct, pad) = (byte(2) & 1 == 1, byte(2) & 2 == 2);
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            let (file, offset) = Self::file(byte(2) >> 2, byte(3));
            let rw_flags = [0, libc::RWF_DSYNC, libc::RWF_APPEND, libc::RWF_SYNC, 0, 0, 0, 1 << 14]
                [usize::from(byte(2) >> 5)];
            Outcome::Transfer(Transfer { direction, offset, len, file, direct, rw_flags, pad, passage: None })
        };
        match byte(0) % 12 {
            0 => return Outcome::NoReply,
            1 => reply.extend_from_slice(head),
            // More than there is room for, where descriptors do not speak of gigabytes.
            2 => reply.resize(room.min(1 << 20) + 1, 1),
            3 | 4 => return transfer(Direction::Read, room.saturating_sub(REPLY_HEAD)),
            5 | 6 => return transfer(Direction::Write, payload.min(1 << 15)),
            7 | 8 => return Outcome::Blocking,
            9 => {
                reply.resize(REPLY_HEAD, 9);
                return Outcome::Zeroes(if number == 0 {
                    room.saturating_sub(REPLY_HEAD)
                } else {
                    number as usize
                });
            }
            10 if self.delays.fetch_add(1, Ordering::Relaxed) < DELAYS => {
                let ram = Arc::clone(&self.ram);
                return Outcome::Again(Wait(Box::new(move || {
                    ram.flip();
                })));
            }
            _ => reply.resize(room.min(4096), 11),
        }
        Outcome::Reply
    }

    fn handle_blocking(&self, head: &[u8], room: usize, respond: Respond) {
        self.ram.flip();
        match head.get(2) {
            Some(3) => drop(respond),
            Some(4) => respond(Vec::new()),
            _ => respond(vec![12; head.len().min(room)]),
        }
    }

    fn finish(&self, _head: &[u8], transfer: &Transfer, moved: io::Result<usize>, reply: &mut Vec<u8>) {
        self.ram.flip();
        match moved {
            Ok(bytes) => {
                assert!(bytes <= transfer.len as usize, "{bytes} bytes moved of {}", transfer.len);
                reply.resize(REPLY_HEAD, 13);
            }
            Err(_) => reply.resize(REPLY_HEAD - 1, 14),
        }
    }

    fn fail(&self, _head: &[u8], error: io::Error, reply: &mut Vec<u8>) {
        // Perhaps of a request that is not handled, because the rest of it lies nowhere.
        self.peeked.lock().expect("no panics here").take();
        reply.push(error.raw_os_error().unwrap_or(0) as u8);
    }

    fn reply_head_len(&self) -> usize {
        if self.at_end { 0 } else { REPLY_HEAD }
    }

    fn replies_at_end(&self) -> bool {
        self.at_end
    }

    fn cancel_waits(&self) {}
}
