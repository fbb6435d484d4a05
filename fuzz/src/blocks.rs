//! What does a guest do in a window over the device under the share, and what must hold?
//!
//! Oracles: what is moved on the device is moved where the host's file system says at that moment that the file lies, for as long as
//! the request is under way; what the window wrote is what the host reads past its page cache, and no other byte of any file is
//! another; once the guest has unmounted the page cache has nothing older. Requests are in flight, on another thread, while FUSE
//! messages and other requests are served.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use extentfsd::extents::Window;
use extentfsd::fuse::abi::opcode;
use extentfsd::fuse::{Direction, Transfer};
use extentfsd::ring::{Outcome, Service};
use extentfsd::vhost::{Device, WindowDevice};

use crate::disk;
use crate::ground::Ground;
use crate::input::Input;
use crate::messages::{Guest, Message, Told};
use crate::virtio_blk::{DISCARD, FLUSH, IN, OK, OUT, WRITE_ZEROES};

/// Bytes of each file that are looked at: those that a session begins with are no longer.
const LOOKED_AT: usize = 256 << 10;
/// Requests by way of the file that are a reason to look for its blocks, and some more.
const REQUESTS: usize = 40;
/// The window looks again when some time has passed. So long a pause, and so many of them in one session at most.
const PAUSE: Duration = Duration::from_millis(12);
const PAUSES: u32 = 6;
/// How long a request is in flight at least while something else is done: long enough that who does not wait for it is seen.
const FLIGHT: Duration = Duration::from_micros(300);

/// Files that a session begins with, and their bytes.
const FILES: [(&str, usize); 3] = [("a", 200_000), ("b", 100_000), ("new", 65_536)];

/// Pieces of one more: more than the host is asked for at a time.
const PIECES: u64 = 150;

/// The window of one session.
pub struct Requests {
    service: Arc<dyn Service>,
    in_flight: Vec<Request>,
    /// What was ever told to the guest, the last last.
    known: Vec<Told>,
    /// What all files hold, where only the window changed some since that was looked at.
    contents: Option<Contents>,
    /// Whether something was written that no flush has synced.
    written: bool,
    pauses: u32,
}

/// The first bytes of files, by inode number.
type Contents = BTreeMap<u64, Vec<u8>>;

/// A transfer that is under way.
struct Request {
    transfer: Transfer,
    head: Vec<u8>,
    /// Whose the address is.
    ino: u64,
    fill: u8,
}

/// Files that are large enough to lie on the device in pieces that may be known.
///
/// # Panics
/// There is no room for them.
pub fn lay_out(ground: &Ground) {
    for (name, len) in FILES {
        let contents: Vec<u8> = (0..len).map(|at| (at / 512) as u8 | 0x80).collect();
        fs::write(ground.share().join(name), contents).expect("room for it");
    }
    let pieces = File::create(ground.share().join("new2")).expect("room for it");
    for at in 0..PIECES {
        pieces.write_all_at(&[b'p'; 4096], at * 8192).expect("room for it");
    }
}

impl Requests {
    /// Those to this window.
    pub fn new(window: &Arc<Window>) -> Self {
        Self {
            service: WindowDevice::new(Arc::clone(window), 1).service(0),
            in_flight: Vec::new(),
            known: Vec::new(),
            contents: None,
            written: false,
            pauses: 0,
        }
    }

    /// Serves a message by `serve`, with requests in flight.
    ///
    /// # Panics
    /// Something does not hold that has to.
    pub fn during(
        &mut self,
        guest: &mut Guest,
        message: &Message,
        ground: &Ground,
        serve: impl FnOnce(&mut Guest),
    ) {
        let ends = [
            opcode::RELEASE,
            opcode::RELEASEDIR,
            opcode::FORGET,
            opcode::BATCH_FORGET,
            opcode::UNLINK,
            opcode::RENAME,
            opcode::RENAME2,
            opcode::INIT,
            opcode::DESTROY,
        ];
        if ends.contains(&message.opcode) {
            // A region that ends with something to sync has a thread started that lives for seconds.
            let written = |request: &mut Request| request.transfer.direction == Direction::Write;
            let writes: Vec<_> = self.in_flight.extract_if(.., written).collect();
            self.land(writes, true);
            self.flush();
        }
        let alone = self.in_flight.is_empty();
        guest.read.clear();
        self.meanwhile(|| serve(guest));
        self.contents = None;
        if alone && !guest.forgot && !guest.read.is_empty() {
            look_at_read(guest, message, ground);
        }
        for told in &guest.told {
            self.known.retain(|known| known.address != told.address);
            self.known.push(*told);
        }
    }

    /// Does what may wait for requests in flight, which end meanwhile.
    fn meanwhile<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let requests = std::mem::take(&mut self.in_flight);
        if requests.is_empty() {
            return wait();
        }
        self.written |= requests.iter().any(|request| request.transfer.direction == Direction::Write);
        self.contents = None;
        let service = &*self.service;
        thread::scope(|scope| {
            let landing = scope.spawn(move || {
                thread::sleep(FLIGHT);
                for request in requests {
                    carry_out(service, request, false);
                }
            });
            let done = wait();
            landing.join().expect("what must hold while something else is done");
            done
        })
    }

    fn land(&mut self, requests: Vec<Request>, alone: bool) {
        for request in requests {
            self.written |= request.transfer.direction == Direction::Write;
            self.contents = None;
            carry_out(&*self.service, request, alone);
        }
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.written) {
            let head = head(FLUSH, 0);
            assert_eq!(ask(&*self.service, &head), OK, "a disk that can be synced");
        }
    }

    /// One request, or as many as it takes until the window looks for blocks.
    ///
    /// # Panics
    /// Something does not hold that has to.
    pub fn request(&mut self, input: &mut Input<'_>, ground: &Ground) {
        let kind = input.one_of(&[OUT, IN, OUT, OUT, IN, OUT, FLUSH, OUT, DISCARD, WRITE_ZEROES, IN, OUT]);
        let Some(told) = self.one_told(input) else { return };
        let at = u64::from(input.u8()) % 64 * input.one_of(&[4096, 4096, 512, 1024]);
        let len = input.one_of(&[4096, 512, 8192, 4096, 65_536, 1024, 16_384]);
        let how = input.u8();
        let address = told.address + at;
        match kind {
            IN | OUT => {
                if how & 3 == 3 && self.in_flight.is_empty() {
                    self.contents.get_or_insert_with(|| contents(ground));
                }
                let Some(request) = self.start(kind, address, len, told.ino, how) else { return };
                if how & 0xc == 0xc && self.in_flight.len() < 3 {
                    return self.in_flight.push(request);
                }
                self.finish(request, ground);
            }
            FLUSH => {
                self.written = true;
                self.flush();
            }
            _ => self.clear(kind, &told, at, len, how, ground),
        }
    }

    fn one_told(&self, input: &mut Input<'_>) -> Option<Told> {
        let choice = input.u8();
        let back = if choice < 192 { 0 } else { usize::from(choice) };
        self.known.len().checked_sub(1).map(|last| self.known[last - back % (last + 1)])
    }

    /// Reads until the window knows where the file lies, or will not so soon.
    ///
    /// # Panics
    /// Something does not hold that has to.
    pub fn use_often(&mut self, input: &mut Input<'_>) {
        let Some(told) = self.one_told(input) else { return };
        let at = u64::from(input.u8()) % 16 * 4096;
        loop {
            for _ in 0..REQUESTS {
                let Some(request) = self.start(IN, told.address + at, 4096, told.ino, 0) else { return };
                if request.transfer.file.on_device(request.transfer.offset, 4096).is_some() {
                    return;
                }
            }
            if self.pauses == PAUSES {
                return;
            }
            self.pauses += 1;
            thread::sleep(PAUSE);
        }
    }

    fn start(&mut self, kind: u32, address: u64, len: usize, ino: u64, fill: u8) -> Option<Request> {
        let head = head(kind, address / 512);
        let (payload, room) = if kind == OUT { (len, 1) } else { (0, len + 1) };
        loop {
            let mut reply = Vec::new();
            match self.service.handle(&head, payload, room, &mut reply) {
                Outcome::Transfer(transfer) => {
                    return Some(Request { transfer, head, ino, fill });
                }
                Outcome::Again(wait) => self.meanwhile(wait.0),
                Outcome::Reply => {
                    assert_ne!(reply, [OK], "nothing was moved");
                    return None;
                }
                other => panic!("{other:?} at an address that was given away"),
            }
        }
    }

    /// Carries out a request with nobody else at work.
    fn finish(&mut self, request: Request, ground: &Ground) {
        let Request { ino, fill, ref transfer, .. } = request;
        let (direction, offset, len) = (transfer.direction, transfer.offset, transfer.len as usize);
        let moved = carry_out(&*self.service, request, self.in_flight.is_empty());
        if direction == Direction::Read {
            return;
        }
        self.written = true;
        let expected = self.contents.take().filter(|_| moved == Some(len) && self.in_flight.is_empty());
        if let Some(mut expected) = expected {
            if let Some(file) = expected.get_mut(&ino) {
                let end = (offset as usize + len).min(file.len());
                let part = file.get_mut(offset as usize..end);
                part.into_iter().for_each(|part| part.fill(fill));
            }
            let found = contents(ground);
            assert!(found == expected, "a write at {offset} of the file {ino} changed something else");
            self.contents = Some(found);
        }
    }

    /// DISCARD and WRITE_ZEROES.
    fn clear(&mut self, kind: u32, told: &Told, at: u64, len: usize, how: u8, ground: &Ground) {
        let alone = self.in_flight.is_empty();
        let sector = (told.address + at) / 512;
        let flags = u32::from(kind == WRITE_ZEROES && how & 1 == 1);
        let range = [&sector.to_le_bytes()[..], &(len as u32 / 512).to_le_bytes(), &flags.to_le_bytes()];
        let head = [head(kind, 0), range.concat()].concat();
        let service = Arc::clone(&self.service);
        let status = self.meanwhile(move || ask(&*service, &head));
        self.written = true;
        self.contents = None;
        if let Some(path) = ground.find(told.ino).filter(|_| alone && status == OK) {
            let found = read_past_cache(&path, told.offset + at, len);
            assert!(found.iter().all(|byte| *byte == 0), "what was cleared at {at} of {}", path.display());
        }
    }

    /// What is in flight ends, and everything is durable: the guest is about to unmount.
    ///
    /// # Panics
    /// Something does not hold that has to.
    pub fn end(&mut self) {
        let requests = std::mem::take(&mut self.in_flight);
        self.land(requests, true);
        self.flush();
    }
}

/// Whether a READ found what is on the device.
fn look_at_read(guest: &Guest, message: &Message, ground: &Ground) {
    let number = |at: usize| Some(u64::from_le_bytes(*message.head.get(at..)?.first_chunk()?));
    let (node, offset) = number(16).zip(number(48)).expect("a READ that was done");
    let Some(path) = guest.inodes.get(&node).and_then(|ino| ground.find(*ino)) else { return };
    let found = read_past_cache(&path, offset, guest.read.len());
    assert!(found == guest.read, "a READ at {offset} of {}", path.display());
}

fn head(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// A request that waits; its status.
fn ask(service: &dyn Service, head: &[u8]) -> u8 {
    let outcome = service.handle(head, 0, 1, &mut Vec::new());
    assert!(matches!(outcome, Outcome::Blocking), "{outcome:?}");
    let (sender, receiver) = mpsc::channel();
    service.handle_blocking(head, 1, Box::new(move |reply| sender.send(reply).expect("somebody waits")));
    let [status] = receiver.try_recv().expect("an answer")[..] else { panic!("no status") };
    status
}

/// Moves the bytes of a request as a ring would, and looks whether they are where they belong, if nobody else is at work.
/// Returns how many were moved.
fn carry_out(service: &dyn Service, request: Request, alone: bool) -> Option<usize> {
    let Request { transfer, head, ino, fill } = request;
    let (file, len) = (transfer.file.buffered(), transfer.len as usize);
    let stat = rustix::fs::fstat(file).expect("a file");
    assert_eq!(stat.st_ino, ino, "the file that the address is of");
    let on_device = transfer.file.on_device(transfer.offset, transfer.len.into());
    if let Some((_, address)) = on_device {
        assert!(stat.st_nlink > 0, "a file without a name, on its blocks");
        for into in (0..u64::from(transfer.len)).step_by(512) {
            let found = disk::address_of(file, transfer.offset + into);
            assert_eq!(found, Some(address + into), "where the file {ino} is at {}", transfer.offset + into);
        }
    }
    if transfer.direction == Direction::Write {
        assert!(
            transfer.offset + u64::from(transfer.len) <= stat.st_size as u64,
            "a write behind the end of a file"
        );
    }
    let direct = on_device.or_else(|| Some((transfer.file.direct()?, transfer.offset)));
    let direct = direct.filter(|(file, at)| {
        let align = u64::from(file.offset_align);
        at.is_multiple_of(align) && (len as u64).is_multiple_of(align) && file.memory_align <= 4096
    });
    let mut buffer = Buffer::new(len);
    buffer.bytes().fill(fill);
    let (fd, at) = match direct {
        Some((direct, at)) => (direct.file.as_fd(), at),
        None if transfer.file.avoids_cache() => {
            let error = std::io::Error::from_raw_os_error(libc::EINVAL);
            service.finish(&head, &transfer, Err(error), &mut Vec::new());
            return None;
        }
        None => (file, transfer.offset),
    };
    let moved = match transfer.direction {
        Direction::Read => rustix::io::pread(fd, buffer.bytes(), at),
        Direction::Write => rustix::io::pwrite(fd, buffer.bytes(), at),
    };
    if on_device.is_some() {
        assert_eq!(moved, Ok(len), "on the device");
    }
    if let (true, Ok(moved)) = (alone, moved) {
        let found = read_past_cache(&path_of(file), transfer.offset, moved);
        assert!(found == buffer.bytes()[..moved], "{} at {}: {ino}", moved, transfer.offset);
    }
    let moved = moved.map_err(std::io::Error::from);
    let count = moved.as_ref().ok().copied();
    service.finish(&head, &transfer, moved, &mut Vec::new());
    count
}

/// Memory for direct I/O.
struct Buffer {
    memory: Vec<u8>,
    len: usize,
}

impl Buffer {
    fn new(len: usize) -> Self {
        Self { memory: vec![0; len + 4096], len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.memory.as_ptr().align_offset(4096);
        &mut self.memory[start..start + self.len]
    }
}

fn path_of(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// What the device holds of a file, after whatever the page cache has to write. Nothing of that is noted anywhere.
fn read_past_cache(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT | libc::O_NOATIME).open(path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let first = offset - offset % 4096;
    let skip = (offset - first) as usize;
    let mut buffer = Buffer::new((skip + len).next_multiple_of(4096));
    let found = match rustix::io::pread(&file, buffer.bytes(), first) {
        // XFS, of space that it has set aside behind an end of the file that is no end any more, and nobody wrote.
        Err(rustix::io::Errno::IO) => read_without_cache(path, buffer.bytes(), first),
        found => found,
    };
    let found = found.unwrap_or_else(|error| panic!("{}: {error}", path.display())).min(skip + len);
    buffer.bytes()[..found].get(skip..).unwrap_or_default().to_vec()
}

/// The same by way of the page cache, of which nothing is left before.
fn read_without_cache(path: &Path, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOATIME).open(path).expect("a file");
    rustix::fs::fdatasync(&file)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    rustix::io::pread(&file, buffer, offset)
}

/// What the host's page cache has of a file, and where it has nothing, the device.
fn read_by_cache(path: &Path) -> Vec<u8> {
    let mut options = OpenOptions::new();
    let file: File = options.read(true).custom_flags(libc::O_NOATIME).open(path).expect("a file");
    let mut bytes = vec![0; LOOKED_AT];
    let found = file.read_at(&mut bytes, 0).expect("a file");
    bytes.truncate(found);
    bytes
}

/// All regular files of the share, and those beside it.
fn files(ground: &Ground) -> BTreeMap<u64, PathBuf> {
    let mut files = BTreeMap::new();
    let mut folders = vec![ground.share()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                files.insert(metadata.ino(), entry.path());
            }
        }
    }
    for name in ["secret", "inner/deep", "script"] {
        let path = ground.canary().join(name);
        files.insert(fs::metadata(&path).expect("a canary").ino(), path);
    }
    files
}

fn contents(ground: &Ground) -> Contents {
    files(ground).into_iter().map(|(ino, path)| (ino, read_past_cache(&path, 0, LOOKED_AT))).collect()
}

/// Looks at all files after the guest has unmounted.
///
/// # Panics
/// The host reads something else than what was written last, or a canary was written.
pub fn look_at_files(ground: &Ground) {
    for path in files(ground).values() {
        let cached = read_by_cache(path);
        assert!(cached == read_past_cache(path, 0, LOOKED_AT), "the page cache has {}", path.display());
    }
    for (name, bytes) in [("secret", &b"tweet"[..]), ("inner/deep", b"chirp"), ("script", b"#!/bin/false\n")]
    {
        assert_eq!(read_past_cache(&ground.canary().join(name), 0, 100), bytes, "{name}");
    }
}
