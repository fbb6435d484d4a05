//! A guest that ignores every rule of the window: it reads and writes at addresses that it was never given, that were
//! taken from it, that are another file's, behind the end of a file, and of what it may only read.
//!
//! A model of what was granted says which requests may succeed. Every other one must change nothing.

use super::device::DIRECT_IO_ALLOW_MMAP;
use super::frontend::fuse::{Body, ROOT, SETATTR, u32_at, u64_at};
use super::window::{IOERR, OK, Served, read, request, write};
use super::{Client, Daemon, Guest, block, extents, needs_root};

const FILES: usize = 4;
const STEPS: u32 = 1500;
const FATTR_SIZE: u32 = 1 << 3;
const BLOCK: u64 = 512;

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A file as it must be.
struct Model {
    name: String,
    node: u64,
    content: Vec<u8>,
    /// Handles, and whether each writes.
    opens: Vec<(u64, bool)>,
    /// Where it lies, and whether it may be written there.
    region: Option<(u64, u64, bool)>,
}

impl Model {
    fn close(&mut self, index: usize) -> u64 {
        let (fh, _) = self.opens.remove(index);
        if self.opens.is_empty() {
            self.region = None;
        } else if !self.opens.iter().any(|(_, writes)| *writes) {
            self.region = self.region.map(|(address, length, _)| (address, length, false));
        }
        fh
    }
}

struct Attack {
    client: Client,
    disk: Guest,
    files: Vec<Model>,
    /// Every address that was ever given.
    known: Vec<u64>,
    random: Random,
    /// The window knows blocks, as long as files stay open, are used and not cut: so less of the other happens.
    on_blocks: bool,
}

impl Attack {
    /// Addresses and memory that a guest's kernel would use, where the window takes no others.
    fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>, u8> {
        if !self.on_blocks {
            return read(&mut self.disk, address, len);
        }
        match block::ask(&mut self.disk, block::IN, address, &[], len) {
            (OK, found) => Ok(found),
            (status, _) => Err(status),
        }
    }

    fn write(&mut self, address: u64, data: &[u8]) -> u8 {
        if self.on_blocks {
            block::ask(&mut self.disk, block::OUT, address, data, 0).0
        } else {
            write(&mut self.disk, address, data)
        }
    }

    /// Something that the guest may do, and does.
    fn behave(&mut self) {
        let index = self.random.below(FILES as u64) as usize;
        let (client, file) = (&mut self.client, &mut self.files[index]);
        match self.random.below(5) {
            0 if file.opens.len() < 3 => {
                let writes = self.random.below(2) == 0;
                let flags = if writes { libc::O_RDWR } else { libc::O_RDONLY };
                let fh = client.open(file.node, flags | libc::O_DIRECT).expect("OPEN");
                file.opens.push((fh, writes));
            }
            1 if !file.opens.is_empty() => {
                let fh = file.close(self.random.below(file.opens.len() as u64) as usize);
                client.release(file.node, fh).expect("RELEASE");
            }
            2 => {
                let size = self.random.below(40) * BLOCK;
                let body = Body::new().u32(FATTR_SIZE).u32(0).u64(0).u64(size).bytes(&[0; 64]);
                client.call(SETATTR, file.node, body, 104).expect("SETATTR");
                file.content.resize(size as usize, 0);
            }
            _ => {
                let asks = if self.random.below(2) == 0 { 0x10 } else { 0x11 };
                let answer = extents::begin(client, file.node, asks, 64);
                if file.opens.is_empty() {
                    assert_eq!(answer, Err(libc::EBADF));
                    return;
                }
                let map = answer.expect("IOMAP_BEGIN");
                assert_eq!(u32_at(&map, 24), 2, "mapped");
                let (address, length) = (u64_at(&map, 16), u64_at(&map, 8));
                let may_write = asks == 0x11 && file.opens.iter().any(|(_, writes)| *writes);
                let before = file.region.is_some_and(|(_, _, writes)| writes);
                if let Some((known, ..)) = file.region {
                    assert_eq!(address, known);
                } else {
                    assert!(self.known.iter().all(|known| *known < address), "an address came back");
                    self.known.push(address);
                }
                file.region = Some((address, length, before || may_write));
            }
        }
    }

    /// An address that may be any file's, or nobody's.
    fn somewhere(&mut self) -> u64 {
        let near = self.random.below(64) * BLOCK;
        let regions: Vec<u64> =
            self.files.iter().filter_map(|file| file.region).map(|(address, ..)| address).collect();
        if self.on_blocks && !regions.is_empty() && self.random.below(4) > 0 {
            return regions[self.random.below(regions.len() as u64) as usize] + near;
        }
        match self.random.below(8) {
            0 => self.random.below(1 << 53) * BLOCK,
            1 => near,
            2 => (1 << 62) - near,
            _ if self.known.is_empty() => near,
            3 => self.known[self.random.below(self.known.len() as u64) as usize].wrapping_sub(near),
            4 => self.known[self.random.below(self.known.len() as u64) as usize] + (64 << 20) - near,
            _ => self.known[self.random.below(self.known.len() as u64) as usize] + near,
        }
    }

    /// A request of the disk at any address, and what has to come of it.
    fn attack(&mut self) {
        let address = self.somewhere() / BLOCK * BLOCK;
        let len = (1 + self.random.below(16)) * BLOCK;
        let doing = self.random.below(5);
        let data = vec![self.random.below(256) as u8; len as usize];
        let written = (doing < 2).then(|| self.write(address, &data));
        let found = (2..4).contains(&doing).then(|| self.read(address, len as usize));
        let target = self.files.iter_mut().find_map(|file| {
            let (start, length, writes) = file.region?;
            let offset = address.checked_sub(start).filter(|offset| offset + len <= length)?;
            Some((file, offset as usize, writes))
        });
        match (written, found) {
            (Some(status), _) => {
                let end = |offset: usize| offset + data.len();
                match (status, target) {
                    (OK, Some((file, offset, true))) if end(offset) <= file.content.len() => {
                        file.content[offset..offset + data.len()].copy_from_slice(&data);
                    }
                    (IOERR, Some((file, offset, writes))) => {
                        assert!(!writes || end(offset) > file.content.len(), "{address:#x} is granted");
                    }
                    (IOERR, None) => {}
                    (status, target) => panic!("{address:#x}: {status}, granted: {}", target.is_some()),
                }
            }
            (_, Some(found)) => match (found, target) {
                (Ok(found), Some((file, offset, _))) => {
                    let mut right: Vec<u8> =
                        file.content.iter().copied().skip(offset).take(len as usize).collect();
                    right.resize(len as usize, 0);
                    assert!(found == right, "{address:#x}: other bytes than the file's");
                }
                (Ok(found), None) => assert!(found.iter().all(|byte| *byte == 0), "{address:#x}: not zeroes"),
                (Err(IOERR), None) => {}
                (Err(status), target) => panic!("{address:#x}: {status}, granted: {}", target.is_some()),
            },
            (None, None) => {
                // What is no request, or none of these: answered, and nothing else.
                let kind = [2, 3, 5, 6, 7, 12, 14, 15, 99, u32::MAX][self.random.below(10) as usize];
                let mut bytes = request(kind, address);
                bytes.resize(16 + self.random.below(64) as usize, 0xa5);
                let answer = self.disk.exchange(0, &bytes, 1);
                assert!(matches!(answer[..], [1 | 2]), "kind {kind}: {answer:?}");
            }
        }
    }
}

/// Lets such a guest loose on a daemon, and looks at what is left.
fn let_loose(daemon: &mut Daemon, disk: Guest, seed: u64, on_blocks: bool) {
    let (mut client, _) = extents::mount(daemon, 46, extents::EXTENTS | DIRECT_IO_ALLOW_MMAP);
    let canary = daemon.share().join("canary");
    std::fs::write(&canary, [0xc5; 65536]).expect("canary");
    let files = (0..FILES).map(|index| {
        let name = format!("file-{index}");
        let (node, fh) = client.create(ROOT, &name).expect("CREATE");
        let content = vec![index as u8 + 1; 16384];
        client.write(node, fh, 0, &content).expect("WRITE");
        client.release(node, fh).expect("RELEASE");
        Model { name, node, content, opens: vec![], region: None }
    });
    let files = files.collect();
    let mut attack = Attack { client, disk, files, known: vec![], random: Random(seed), on_blocks };
    let marks = (attack.client.guest.ram.mark(), attack.disk.ram.mark());
    let (steps, rarely, least) = if on_blocks { (10 * STEPS, 40, 2) } else { (STEPS, 3, 10) };
    for step in 0..steps {
        // At first to have files open.
        if attack.random.below(rarely) == 0 || step < 20 {
            attack.behave();
        } else {
            attack.attack();
        }
        attack.client.guest.ram.rewind(marks.0);
        attack.disk.ram.rewind(marks.1);
    }
    for file in &mut attack.files {
        while !file.opens.is_empty() {
            let fh = file.close(0);
            attack.client.release(file.node, fh).expect("RELEASE");
        }
        let host = std::fs::read(daemon.share().join(&file.name)).expect("host file");
        assert!(host == file.content, "seed {seed}: {} is not what was written", file.name);
    }
    assert!(std::fs::read(&canary).expect("canary") == [0xc5; 65536], "seed {seed}");
    assert!(daemon.is_running());
    assert!(attack.known.len() > least, "seed {seed}: hardly anything was granted");
}

#[test]
fn a_guest_that_ignores_the_rules_reaches_what_it_was_given_and_nothing_else() {
    for seed in 1..=3 {
        let mut served = Served::start(&["--sandbox", "none"]);
        let disk = served.attach();
        let_loose(&mut served.daemon, disk, seed, false);
    }
}

#[test]
fn nor_does_it_where_the_window_knows_blocks() {
    if !needs_root("a loop device") {
        return;
    }
    for seed in 1..=2 {
        let Some(mut served) = block::Served::start("none") else { return };
        let disk = served.attach();
        let_loose(&mut served.daemon, disk, seed, true);
        let looks = served.daemon.log().matches("known pieces").count();
        assert!(looks > 5, "seed {seed}: blocks were known {looks} times");
        served.end();
    }
}
