//! Messages of a front-end: the handshake in every order, with every number and every kind of descriptor.
//!
//! The front-end is the host's own virtual machine monitor and is trusted more than the guest, but it may be confined, or
//! broken. Oracles: nothing panics, and when the connection has ended no descriptor and no thread of it is left.

#![no_main]

use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use extentfsd::extents::{Identity, Window};
use extentfsd::ring::{EngineKind, Offload, RingOptions};
use extentfsd::vhost::{Device, RingRuntime, WindowDevice, serve_connection};
use extentfsd_fuzz::descriptors::open_files;
use extentfsd_fuzz::input::Input;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

libfuzzer_sys::fuzz_target!(
    init: {
        // As every program of Rust's does at its start, but this one starts in libFuzzer: an answer to a front-end that has gone must
        // not end it.
        // SAFETY: nobody else sets what this signal does.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    },
    |bytes: &[u8]| run(bytes)
);

/// Messages of one connection at most: their answers have to fit into the socket, because nobody reads them.
const MOST: usize = 60;
/// Bytes of the guest's memory.
const MEMORY: u64 = 1 << 16;
/// Where the front-end has it.
const USER: u64 = 0x7000_0000_0000;

fn runtime() -> &'static RingRuntime {
    static RUNTIME: OnceLock<RingRuntime> = OnceLock::new();
    RUNTIME.get_or_init(|| RingRuntime {
        options: RingOptions { engine: EngineKind::Threads, ..RingOptions::default() },
        affinity: Arc::new([]),
        offload: Arc::new(Offload::default()),
    })
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let runtime = runtime();
    let (files, threads) = (open_files().len(), threads());
    let window = Arc::new(Window::new(Identity::new(b"fuzz", 512, false)));
    let device: Arc<dyn Device> = Arc::new(WindowDevice::new(window, 2));
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memory, MEMORY).expect("a memfd");
    if !input.once_in(4) {
        // The beginning that every front-end makes.
        for (request, body) in
            [(3, None), (2, Some(1_u64 << 32 | 1 << 30 | 1 << 29 | 1 << 28)), (16, Some(0xffff))]
        {
            send(
                &ours,
                request,
                1,
                body.map(u64::to_le_bytes).as_ref().map_or(&[], |bytes| &bytes[..]),
                None,
                &[],
            );
        }
    }
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        message(&mut input, &ours, &memory);
    }
    ours.shutdown(Shutdown::Write).expect("a socket");
    let _ = serve_connection(theirs, &device, runtime);
    drop((ours, memory, device));
    assert_eq!(open_files().len(), files, "descriptors that are left: {:?}", open_files());
    // A thread that was joined is still listed for a moment. Counted, because this process may be stopped meanwhile.
    for attempt in 0.. {
        if self::threads() <= threads {
            break;
        }
        assert!(attempt < 5000, "threads that are left");
        match attempt {
            0..100 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task")
        .expect("procfs")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    // The pool's are shared by all connections.
    names.filter(|name| name.trim() != "offload").count()
}

/// One message, mostly of the length that it has to have.
fn message(input: &mut Input<'_>, socket: &UnixStream, memory: &OwnedFd) {
    let request = match input.u8() {
        known @ 0..=239 => u32::from(known) % 44 + 1,
        _ => input.number_u32(),
    };
    let index = if input.once_in(16) { input.number_u32() } else { u32::from(input.u8() & 1) };
    let mut files = 0;
    let mut body: Vec<u8> = match request {
        // SET_FEATURES, SET_PROTOCOL_FEATURES
        2 | 16 => input.array::<8>().to_vec(),
        // SET_MEM_TABLE
        5 => {
            let count = input.below(4);
            files = count;
            let told = if input.once_in(16) { input.number_u32() } else { count as u32 };
            let regions = (0..count as u64).flat_map(|n| region(input, n)).collect::<Vec<_>>();
            [&told.to_le_bytes()[..], &[0; 4], &regions].concat()
        }
        // SET_LOG_BASE: size, offset
        6 => {
            files = 1;
            words(&[if input.once_in(2) { 4096 } else { input.number() }, input.number()])
        }
        // SET_LOG_FD, SET_BACKEND_REQ_FD
        7 | 21 => {
            files = 1;
            Vec::new()
        }
        // SET_VRING_NUM, _BASE, GET_VRING_BASE, SET_VRING_ENABLE
        8 => pair(index, if input.once_in(4) { input.number_u32() } else { 8 }),
        10 | 11 => pair(index, input.number_u32()),
        18 => pair(index, input.below(3) as u32),
        // SET_VRING_ADDR: index, flags, descriptors, used, available, log
        9 => {
            let mut at = |usual: u64| if input.once_in(8) { input.number() } else { USER + usual };
            let addresses = [at(0), at(0x2000), at(0x1000), at(0).wrapping_sub(USER)];
            [pair(index, input.below(3) as u32), words(&addresses)].concat()
        }
        // SET_VRING_KICK, _CALL, _ERR
        12..=14 => {
            files = usize::from(!input.once_in(8));
            words(&[u64::from(index) | if files == 0 { 1 << 8 } else { 0 }])
        }
        // GET_CONFIG, SET_CONFIG: offset, size, flags, contents
        24 | 25 => {
            let size = input.number_u32() % 300;
            let there = if input.once_in(8) { input.below(256) } else { size as usize };
            [pair(input.number_u32() % 300, size), input.u32().to_le_bytes().to_vec(), vec![0; there]]
                .concat()
        }
        // GET_INFLIGHT_FD, SET_INFLIGHT_FD
        31 | 32 => {
            files = usize::from(request == 32);
            [words(&[input.number(), input.number()]), pair(2, 8)].concat()
        }
        // ADD_MEM_REG, REM_MEM_REG
        37 | 38 => {
            files = usize::from(request == 37);
            let n = input.below(4) as u64;
            [vec![0; 8], region(input, n)].concat()
        }
        // SET_DEVICE_STATE_FD
        42 => {
            files = 1;
            pair(input.below(3) as u32, input.below(3) as u32)
        }
        _ => {
            let len = input.below(64);
            input.bytes(len).to_vec()
        }
    };
    if input.once_in(16) {
        body.truncate(input.below(64));
    }
    if input.once_in(32) {
        body.extend_from_slice(input.bytes(16));
    }
    if input.once_in(16) {
        files = input.below(10);
    }
    let files: Vec<OwnedFd> = (0..files).map(|_| file(input, request, memory)).collect();
    // The version, and whether an answer is asked for.
    let flags = if input.once_in(16) { input.u8().into() } else { 1 | u32::from(input.u8() & 1) << 3 };
    let size = if input.once_in(32) { Some(input.number_u32()) } else { None };
    send(socket, request, flags, &body, size, &files);
}

/// Guest address, size, front-end address, offset in the file.
fn region(input: &mut Input<'_>, n: u64) -> Vec<u8> {
    let mut or = |usual: u64| if input.once_in(8) { input.number() } else { usual };
    words(&[or(n * MEMORY), or(MEMORY), or(USER + n * MEMORY), or(0)])
}

fn file(input: &mut Input<'_>, request: u32, memory: &OwnedFd) -> OwnedFd {
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    match input.u8() {
        0..=223 if (12..=14).contains(&request) => event(),
        0..=223 => memory.try_clone().expect("a descriptor"),
        224..=231 => event(),
        232..=239 => UnixStream::pair().expect("a socket").0.into(),
        240..=247 => std::fs::File::open("/dev/null").expect("a device").into(),
        _ => memory.try_clone().expect("a descriptor"),
    }
}

fn pair(a: u32, b: u32) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn send(socket: &UnixStream, request: u32, flags: u32, body: &[u8], size: Option<u32>, files: &[OwnedFd]) {
    let size = size.unwrap_or(body.len() as u32);
    let header = [pair(request, flags), size.to_le_bytes().to_vec()].concat();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)), "room for sixteen");
    }
    sendmsg(socket, &[IoSlice::new(&header), IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL)
        .expect("a socket with room");
}
