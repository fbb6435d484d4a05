//! Messages that no front-end should send, each to be sent on a connection of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Requests of vhost-user, "Front-end message types".
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_LOG_BASE: u32 = 6;
const SET_LOG_FD: u32 = 7;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;
const GET_INFLIGHT_FD: u32 = 31;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;
const SET_DEVICE_STATE_FD: u32 = 42;

/// Version 1, no reply wanted.
const FLAGS: u32 = 1;

/// A message: header and payload.
fn message(request: u32, payload: &[u8]) -> Vec<u8> {
    with_header(request, FLAGS, payload.len() as u32, payload)
}

fn with_header(request: u32, flags: u32, size: u32, payload: &[u8]) -> Vec<u8> {
    let header = [request, flags, size].into_iter().flat_map(u32::to_le_bytes);
    header.chain(payload.iter().copied()).collect()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().copied().flat_map(u64::to_le_bytes).collect()
}

/// `struct vhost_vring_state`.
fn state(index: u32, num: u32) -> Vec<u8> {
    [index, num].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Memory of `len` bytes that can be mapped.
fn memory(len: u64) -> OwnedFd {
    let memory = rustix::fs::memfd_create("hostile", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&memory, len).expect("size");
    memory
}

/// A table of one region: its number of regions, guest address, size, user address, offset in the file.
fn table(count: u32, region: [u64; 4]) -> Vec<u8> {
    message(SET_MEM_TABLE, &[state(count, 0), words(&region)].concat())
}

/// What is sent, in pieces that carry descriptors.
pub type Attack = Vec<(Vec<u8>, Vec<RawFd>)>;

/// A queue that is set up over memory without being enabled by a sane front-end, then kicked.
fn kicked(region: [u64; 4], memory: RawFd, kick: RawFd, size: u32, addresses: [u64; 4]) -> Attack {
    vec![
        (message(SET_OWNER, &[]), vec![]),
        (message(SET_FEATURES, &words(&[1 << 32])), vec![]),
        (table(1, region), vec![memory]),
        (message(SET_VRING_NUM, &state(1, size)), vec![]),
        (message(SET_VRING_ADDR, &[state(1, 0), words(&addresses)].concat()), vec![]),
        (message(SET_VRING_BASE, &state(1, 0)), vec![]),
        (message(SET_VRING_KICK, &words(&[1])), vec![kick]),
        (message(SET_VRING_ENABLE, &state(1, 1)), vec![]),
        (message(GET_VRING_BASE, &state(1, 0)), vec![]),
    ]
}

/// Bytes without a meaning, the same in every run.
pub fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let step = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// Sends one attack on a connection of its own, hears what is answered, and goes away.
pub fn strike(socket: &Path, attack: &Attack) {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    for (bytes, descriptors) in attack {
        // The daemon may have hung up already.
        let sent = stream.send_with_fds(&[&bytes[..]], descriptors);
        if !sent.is_ok_and(|len| len == bytes.len()) {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Attacks with their names, on descriptors that outlive them.
pub struct Arsenal {
    memory: OwnedFd,
    null: File,
    directory: File,
    pipe: std::io::PipeReader,
    kick: vmm_sys_util::eventfd::EventFd,
    _pipe_end: std::io::PipeWriter,
}

impl Arsenal {
    pub fn new() -> Self {
        let (pipe, mut end) = std::io::pipe().expect("pipe");
        end.write_all(b"12345678").expect("pipe");
        let kick = vmm_sys_util::eventfd::EventFd::new(0).expect("eventfd");
        kick.write(1).expect("kick");
        Self {
            memory: memory(1 << 20),
            null: File::options().read(true).write(true).open("/dev/null").expect("null"),
            directory: File::open("/").expect("directory"),
            pipe,
            kick,
            _pipe_end: end,
        }
    }

    /// All of them.
    pub fn attacks(&self) -> Vec<(String, Attack)> {
        [self.malformed(), self.wrong_memory(), self.wrong_descriptors(), self.wrong_queues()].concat()
    }

    fn malformed(&self) -> Vec<(String, Attack)> {
        let mut attacks = Vec::new();
        let mut add = |name: &str, attack: Attack| attacks.push((name.to_owned(), attack));
        for seed in 0..8 {
            add(&format!("noise {seed}"), vec![(noise(5000, seed), vec![])]);
            add(&format!("noise behind headers {seed}"), {
                let requests = (1..46).map(|request| (message(request, &noise(40, seed + 9)), vec![]));
                requests.collect()
            });
        }
        for len in [1, 4, 11, 12] {
            add(
                &format!("{len} bytes"),
                vec![(with_header(SET_FEATURES, FLAGS, 8, &[])[..len].to_vec(), vec![])],
            );
        }
        for size in [1, 7, 9, 4096, 4097, 1 << 31, u32::MAX] {
            for request in [GET_FEATURES, SET_FEATURES, SET_MEM_TABLE, GET_CONFIG, SET_VRING_ADDR] {
                let bytes = with_header(request, FLAGS, size, &noise(64, 3));
                add(&format!("request {request} of {size} bytes"), vec![(bytes, vec![])]);
            }
        }
        for flags in [0, 2, 3, 4, 5, 0xd, u32::MAX] {
            add(&format!("flags {flags:#x}"), vec![(with_header(GET_FEATURES, flags, 0, &[]), vec![])]);
        }
        for request in (0..64).chain([4096, u32::MAX]) {
            add(&format!("request {request} alone"), vec![(message(request, &[]), vec![])]);
            let full = message(request, &[0xff; 64]);
            let descriptors = vec![self.memory.as_raw_fd()];
            add(&format!("request {request} full of ones"), vec![(full, descriptors)]);
        }
        let config = [[0_u32, u32::MAX, 0], [u32::MAX, 4, 0], [u32::MAX, u32::MAX, 1], [0, 0, 0]];
        for request in config {
            let payload: Vec<u8> = request.into_iter().flat_map(u32::to_le_bytes).collect();
            add("configuration space out of bounds", vec![(message(GET_CONFIG, &payload), vec![])]);
        }
        attacks
    }

    fn wrong_memory(&self) -> Vec<(String, Attack)> {
        let memory = self.memory.as_raw_fd();
        let mut attacks = Vec::new();
        for region in [
            [0, 0, 0, 0],
            [0, u64::MAX, 0, 0],
            [u64::MAX, 4096, 0, 0],
            [0, 4096, u64::MAX, 0],
            [0, 4096, 0, u64::MAX],
            [0, 4096, 0, 1 << 63],
            [0, 1 << 40, 0, 0],
            [0, (1 << 20) + 1, 0, 0],
            [0, 1 << 20, 0, 4096],
            [u64::MAX - 4095, 4096, u64::MAX - 4095, 0],
        ] {
            attacks.push((format!("region {region:x?}"), vec![(table(1, region), vec![memory])]));
            let single = message(ADD_MEM_REG, &words(&[0, region[0], region[1], region[2], region[3]]));
            attacks.push((format!("added region {region:x?}"), vec![(single.clone(), vec![memory])]));
            let mut removed = single;
            removed[..4].copy_from_slice(&REM_MEM_REG.to_le_bytes());
            attacks.push((format!("removed region {region:x?}"), vec![(removed, vec![])]));
        }
        for count in [0, 2, 8, 9, 0xffff, u32::MAX] {
            let name = format!("table of {count} regions with one");
            attacks.push((name, vec![(table(count, [0, 4096, 0, 0]), vec![memory])]));
        }
        let log = message(SET_LOG_BASE, &words(&[u64::MAX, 0]));
        attacks.push(("log of impossible size".to_owned(), vec![(log, vec![memory])]));
        let log = message(SET_LOG_BASE, &words(&[1 << 20, u64::MAX]));
        attacks.push(("log at an impossible offset".to_owned(), vec![(log, vec![memory])]));
        attacks
    }

    fn wrong_descriptors(&self) -> Vec<(String, Attack)> {
        let others = [self.null.as_raw_fd(), self.directory.as_raw_fd(), self.pipe.as_raw_fd()];
        let mut attacks = Vec::new();
        for (which, descriptor) in others.into_iter().enumerate() {
            let region = table(1, [0, 4096, 0, 0]);
            attacks.push((format!("memory that is none, {which}"), vec![(region, vec![descriptor])]));
            for request in [SET_VRING_KICK, SET_VRING_CALL, SET_LOG_FD, SET_DEVICE_STATE_FD, GET_INFLIGHT_FD]
            {
                let sent = vec![(message(request, &words(&[1])), vec![descriptor])];
                attacks.push((format!("request {request} with descriptor {which}"), sent));
            }
            let queue =
                kicked([0, 1 << 20, 0, 0], self.memory.as_raw_fd(), descriptor, 16, [0, 0x2000, 0x1000, 0]);
            attacks.push((format!("a queue kicked by descriptor {which}"), queue));
        }
        for count in [2, 8, 9, 32, 200] {
            let many = vec![self.memory.as_raw_fd(); count];
            for request in [GET_FEATURES, SET_MEM_TABLE, SET_VRING_KICK, SET_OWNER] {
                let sent = vec![(message(request, &words(&[1])), many.clone())];
                attacks.push((format!("request {request} with {count} descriptors"), sent));
            }
        }
        attacks.push(("table without memory".to_owned(), vec![(table(1, [0, 4096, 0, 0]), vec![])]));
        attacks
    }

    fn wrong_queues(&self) -> Vec<(String, Attack)> {
        let mut attacks = Vec::new();
        for index in [65, 0x8000, 0xffff, u32::MAX] {
            for request in [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
                let sent = vec![(message(request, &state(index, 1)), vec![])];
                attacks.push((format!("request {request} to queue {index}"), sent));
            }
        }
        let region = [0, 1 << 20, 0, 0];
        let memory = self.memory.as_raw_fd();
        for (size, addresses) in [
            (0, [0, 0x2000, 0x1000, 0]),
            (17, [0, 0x2000, 0x1000, 0]),
            (u32::MAX, [0, 0x2000, 0x1000, 0]),
            (32768, [0xf_0000, 0, 0x8_0000, 0]),
            (16, [u64::MAX, u64::MAX, u64::MAX, 0]),
            (16, [1 << 20, 1 << 20, 1 << 20, 0]),
            (16, [1, 3, 5, 7]),
            (16, [(1 << 20) - 16, (1 << 20) - 8, (1 << 20) - 2, 0]),
            (16, [0, 0, 0, 0]),
        ] {
            let sent = kicked(region, memory, self.kick.as_raw_fd(), size, addresses);
            attacks.push((format!("queue of {size} at {addresses:x?}"), sent));
        }
        let protocol = message(SET_PROTOCOL_FEATURES, &words(&[u64::MAX]));
        attacks.push(("all protocol features".to_owned(), vec![(protocol, vec![])]));
        let features = message(SET_FEATURES, &words(&[u64::MAX]));
        attacks.push(("all features".to_owned(), vec![(features, vec![])]));
        attacks
    }
}
