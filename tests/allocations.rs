//! Does serving allocate memory? A ring that has seen its usual load must not, for any request that is not
//! handed to another thread. The device runs in this process, behind an allocator that counts; the guest's
//! side is exempt.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod frontend;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use extentfsd::extents::{Access, HostFile, Identity, Window};
use extentfsd::fs::{self, Passthrough};
use extentfsd::ring::{EngineKind, Offload, RingOptions};
use extentfsd::vhost::{Device, FsDevice, RingRuntime, WindowDevice, serve_connection};
use frontend::fuse::{self, Body, Client, ROOT};
use frontend::{Guest, GuestConfig};
use rustix::fs::{Mode, OFlags};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !EXEMPT.get() {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Times that an operation is done while it is counted.
const TIMES: u64 = 200;
/// How often that is done; the first round warms up.
const ROUNDS: usize = 5;
/// Requests in flight at a time.
const DEPTH: usize = 8;

fn runtime(engine: EngineKind) -> RingRuntime {
    RingRuntime {
        options: RingOptions { engine, ..RingOptions::default() },
        affinity: Arc::new([]),
        offload: Arc::new(Offload::default()),
    }
}

fn serve(share: &Path, socket: &Path, engine: EngineKind) -> std::thread::JoinHandle<()> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).expect("a directory")
    };
    let share = Passthrough::new(fs::Config::default(), open(share), open(Path::new("/proc/self/fd")));
    let device: Arc<dyn Device> =
        Arc::new(FsDevice::new(share.expect("a share"), 1, None).expect("a device"));
    let runtime = runtime(engine);
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a front-end");
        serve_connection(stream, &device, &runtime);
    })
}

/// Sends the same message again and again, several in flight.
fn storm(client: &mut Client, message: &[u8], room: u32, times: u64) {
    let guest = &mut client.guest;
    let mark = guest.ram.mark();
    for _ in 0..times.div_ceil(DEPTH as u64) {
        for _ in 0..DEPTH {
            // Payloads are aligned for direct I/O: header, then whole pages.
            let (head, data) = message.split_at(message.len().min(80));
            let request = guest.ram.alloc(head.len() as u64);
            guest.ram.write(request, head);
            let mut buffers = vec![(request, head.len() as u32, false)];
            if !data.is_empty() {
                let payload = guest.ram.alloc(data.len() as u64 + 4096).next_multiple_of(4096);
                guest.ram.write(payload, data);
                buffers.push((payload, data.len() as u32, false));
            }
            let answer = guest.ram.alloc(16);
            buffers.push((answer, 16, true));
            if room > 0 {
                let place = guest.ram.alloc(u64::from(room) + 4096).next_multiple_of(4096);
                buffers.push((place, room, true));
            }
            guest.offer(1, &buffers);
        }
        for _ in 0..DEPTH {
            let (_, len) = guest.take_used(1);
            assert!(len >= 16);
        }
        guest.ram.rewind(mark);
    }
}

/// Sends the same request to a disk again and again, several in flight; `data` bytes that it reads or writes.
fn disk_storm(disk: &mut Guest, kind: u32, address: u64, data: u32) {
    let mark = disk.ram.mark();
    for _ in 0..TIMES.div_ceil(DEPTH as u64) {
        for _ in 0..DEPTH {
            let request = disk.ram.alloc(16);
            disk.ram.write(
                request,
                &[&u64::from(kind).to_le_bytes()[..], &(address / 512).to_le_bytes()].concat(),
            );
            let payload = disk.ram.alloc(u64::from(data) + 4096).next_multiple_of(4096);
            let status = disk.ram.alloc(1);
            disk.offer(1, &[(request, 16, false), (payload, data, kind == 0), (status, 1, true)]);
        }
        for _ in 0..DEPTH {
            assert_eq!(disk.take_used(1).1, if kind == 0 { data + 1 } else { 1 });
        }
        disk.ram.rewind(mark);
    }
}

/// The fewest allocations of a few rounds: a list may grow once more when completions happen to come in a larger
/// batch than ever before, but what a request allocates it allocates in every round.
fn fewest(mut round: impl FnMut()) -> u64 {
    let rounds = (0..ROUNDS).map(|_| {
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        round();
        ALLOCATIONS.load(Ordering::SeqCst) - before
    });
    rounds.min().unwrap_or(0)
}

fn allocations_of(client: &mut Client, message: &[u8], room: u32) -> u64 {
    fewest(|| storm(client, message, room, TIMES))
}

fn read(node: u64, fh: u64, size: u32, flags: i32) -> Vec<u8> {
    let body = Body::new().u64(fh).u64(0).u32(size).u32(0).u64(0).u32(flags as u32).u32(0);
    fuse::message(fuse::READ, 2, node, 0, 0, &body.0)
}

fn write(node: u64, fh: u64, size: u32, flags: i32) -> Vec<u8> {
    let body = Body::new().u64(fh).u64(0).u32(size).u32(0).u64(0).u32(flags as u32).u32(0);
    fuse::message(fuse::WRITE, 2, node, 0, 0, &body.bytes(&vec![7; size as usize]).0)
}

/// The count is the process's: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The window: a region that the ring has met costs nothing to find.
#[test]
fn a_warm_window_allocates_nothing() {
    let _turn = TURN.lock();
    EXEMPT.set(true);
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
    let path = place.path().join("file");
    std::fs::write(&path, vec![1; 1 << 20]).expect("file");
    let open = std::fs::File::options().read(true).write(true).open(&path).expect("file");
    let file: Arc<dyn HostFile> = Arc::new(OwnedFd::from(open));
    let window = Arc::new(Window::new(Identity::new(b"disk", 512, false)));
    let region = window.grant(1, &file, 1 << 20, 0, Access::Write).expect("a region");
    let device: Arc<dyn Device> = Arc::new(WindowDevice::new(window, 2));
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let server = std::thread::spawn(move || serve_connection(theirs, &device, &runtime(EngineKind::Uring)));
    let mut disk = Guest::over(ours, GuestConfig { queue_size: 256, ..GuestConfig::default() });
    for (what, kind, address, data) in [
        ("IN 4 KiB", 0, region.address, 4096),
        ("IN 64 KiB", 0, region.address + 4096, 65_536),
        ("IN, short", 0, region.address + (1 << 20) - 512, 4096),
        ("IN, zeroes", 0, 0, 4096),
        ("OUT 4 KiB", 1, region.address, 4096),
        ("OUT 64 KiB", 1, region.address, 65_536),
        ("OUT, refused", 1, region.address + (1 << 20), 4096),
    ] {
        assert_eq!(fewest(|| disk_storm(&mut disk, kind, address, data)), 0, "{what}");
    }
    drop(disk);
    server.join().expect("the device ends");
}

#[test]
fn a_warm_ring_allocates_nothing() {
    let _turn = TURN.lock();
    EXEMPT.set(true);
    for engine in [EngineKind::Uring, EngineKind::Threads] {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
        let (share, socket) = (place.path().join("share"), place.path().join("socket"));
        std::fs::create_dir(&share).expect("share");
        std::fs::write(share.join("file"), vec![1; 1 << 20]).expect("file");
        let device = serve(&share, &socket, engine);
        let config = GuestConfig { queue_size: 256, ..GuestConfig::default() };
        let mut client = Client::mount(Guest::connect(&socket, config));
        let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
        let fh = client.open(node, libc::O_RDWR | libc::O_DIRECT).expect("OPEN");
        let getattr = fuse::message(fuse::GETATTR, 2, node, 0, 0, &Body::new().u32(0).u32(0).u64(0).0);
        let lookup = fuse::message(fuse::LOOKUP, 2, ROOT, 0, 0, &Body::new().name("file").0);
        let absent = fuse::message(fuse::LOOKUP, 2, ROOT, 0, 0, &Body::new().name("absent").0);
        let statfs = fuse::message(fuse::STATFS, 2, node, 0, 0, &[]);
        let mut cases = vec![
            ("GETATTR", getattr, 104),
            ("LOOKUP, known", lookup, 128),
            ("LOOKUP, absent", absent, 128),
            ("STATFS", statfs, 80),
            ("READ 4 KiB, buffered", read(node, fh, 4096, 0), 4096),
            ("READ 64 KiB, buffered", read(node, fh, 65_536, 0), 65_536),
        ];
        // The crew of threads is given each of its jobs in a box of its own.
        if engine == EngineKind::Uring {
            cases.extend([
                ("WRITE 4 KiB, buffered", write(node, fh, 4096, 0), 8),
                ("READ 4 KiB, direct", read(node, fh, 4096, libc::O_DIRECT), 4096),
                ("WRITE 4 KiB, direct", write(node, fh, 4096, libc::O_DIRECT), 8),
                ("READ 64 KiB, direct", read(node, fh, 65_536, libc::O_DIRECT), 65_536),
            ]);
        }
        for (what, message, room) in cases {
            assert_eq!(allocations_of(&mut client, &message, room), 0, "{engine:?}: {what}");
        }
        // To show that the count counts: an fsync goes to another thread, which takes a box.
        let fsync = fuse::message(fuse::FSYNC, 2, node, 0, 0, &Body::new().u64(fh).u32(0).u32(0).0);
        assert!(allocations_of(&mut client, &fsync, 0) >= TIMES, "{engine:?}: FSYNC");
        drop(client);
        device.join().expect("the device ends");
    }
}
