//! Requests to the window, and grants that come and go meanwhile.
//!
//! Oracle: a model of the regions beside the real ones, in the words of `docs/extent-protocol.md`, and a copy of the files'
//! contents. Each answer must be the model's; after each write the files must be what their copies are, and what is never
//! granted must read as zeroes. Requests are in flight, or wait at a fence, on another thread while grants end.

#![no_main]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;

use extentfsd::extents::{Access, Fence, HostFile, Identity, Region, Window};
use extentfsd::fuse::{Direction, Transfer};
use extentfsd::ring::{Outcome, Service};
use extentfsd::vhost::{Device, WindowDevice};
use extentfsd_fuzz::descriptors::open_files;
use extentfsd_fuzz::ground::Ground;
use extentfsd_fuzz::input::Input;
use extentfsd_fuzz::virtio_blk::{DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, UNSUPP, WRITE_ZEROES};

libfuzzer_sys::fuzz_target!(init: { Ground::get(); }, |bytes: &[u8]| run(bytes));

/// Files that can be granted; their numbers are their keys.
const FILES: usize = 3;
/// Where regions may lie: what is before and behind reads as zeroes (`docs/extent-protocol.md`, The window).
const FIRST: u64 = 64 << 20;
const LAST: u64 = (1 << 62) - (1 << 20);
/// Regions at a time.
const REGIONS: usize = 4;
/// Where an input wants to have many.
const MANY: usize = 1000;
/// Steps of one input at most.
const MOST: usize = 100;
/// Bytes that are moved at most: more would be the same again.
const LARGEST: usize = 64 << 10;

/// A file as the operator's file system has it, and what must be in it.
struct Backing {
    file: File,
    contents: Vec<u8>,
    /// What is granted of it.
    granted: Option<Granted>,
    fences: u32,
}

/// The model of a grant.
struct Granted {
    /// The last is the one that is answered with.
    regions: Vec<Region>,
    writes: bool,
    /// The opens that serve reads and writes.
    reader: usize,
    writer: Option<usize>,
}

struct World<'a> {
    window: &'a Window,
    service: Arc<dyn Service>,
    read_only: bool,
    max_regions: usize,
    files: Vec<Backing>,
    /// All opens of files so far.
    opens: Vec<Arc<dyn HostFile>>,
    /// Those that stand, and around which file.
    fences: Vec<(usize, Fence<'a>)>,
    /// Transfers that are under way, with their requests.
    in_flight: Vec<(usize, Transfer, Vec<u8>)>,
    /// Whether files cannot be synced just now.
    failing: Arc<AtomicBool>,
    /// Whether something was written that no flush has synced.
    written: bool,
    /// Whether a thread may sync by itself, so that nobody knows what the next flush finds.
    vague: bool,
    /// What was ever given away ends here.
    next: u64,
}

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // Opened once for all.
    let _ = Open::null();
    let before = open_files().len();
    let read_only = input.once_in(16);
    let identity = Identity::new(b"fuzz", 512, read_only);
    let max_regions = if input.once_in(16) { MANY } else { REGIONS };
    let window = Arc::new(Window::with_limit(identity, max_regions));
    let device = WindowDevice::new(Arc::clone(&window), 1);
    let mut world = World {
        window: &window,
        service: device.service(0),
        read_only,
        max_regions,
        files: (0..FILES).map(|n| backing(n, &mut input)).collect(),
        opens: Vec::new(),
        fences: Vec::new(),
        in_flight: Vec::new(),
        failing: Arc::default(),
        written: false,
        vague: false,
        next: FIRST,
    };
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let file = input.below(FILES);
        match input.u8() {
            0..=49 => world.grant(file, &mut input),
            50..=59 => {
                // Which may end the region.
                world.flush(&mut input);
                world.end_writes(file);
            }
            60..=69 => {
                world.flush(&mut input);
                world.revoke(file);
            }
            70..=72 => {
                world.flush(&mut input);
                world.against_requests(Window::revoke_all);
                (0..FILES).for_each(|file| world.files[file].granted = None);
            }
            73..=79 if world.fences.len() < 3 => world.fence(file),
            80..=89 => {
                if let Some((file, fence)) = world.fences.pop() {
                    drop(fence);
                    world.files[file].fences -= 1;
                }
            }
            90..=99 => {
                let size = input.number() as usize % LARGEST;
                world.files[file].file.set_len(size as u64).expect("room for it");
                world.files[file].contents.resize(size, 0);
            }
            100 if max_regions == MANY => world.crowd(&mut input),
            _ => world.request(&mut input),
        }
    }
    world.land();
    world.fences.clear();
    for (key, file) in world.files.iter().enumerate() {
        file.check();
        assert_eq!(window.granted(key as u64, 0).is_some(), file.granted.is_some());
    }
    drop(world);
    // What was written waits for a sync, with a descriptor of its file.
    window.flush().expect("a file that can be synced");
    // This thread remembers regions that it used, and with a region that has not ended its file.
    window.revoke_all();
    drop((device, window));
    assert_eq!(open_files().len(), before, "a descriptor was left open");
}

fn backing(n: usize, input: &mut Input<'_>) -> Backing {
    let path = Ground::get().canary().with_file_name(format!("window-{n}"));
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("a file");
    let size = input.one_of(&[4096, 5000, 0, 512, 40_000, 511]);
    // Bytes that tell whose they are, and where they belong.
    let contents: Vec<u8> = (0..size).map(|at| (at / 512 * FILES + n) as u8 | 0x80).collect();
    file.write_all_at(&contents, 0).expect("room for it");
    Backing { file, contents, granted: None, fences: 0 }
}

impl Backing {
    fn check(&self) {
        let mut there = vec![0; self.contents.len() + 1];
        let len = self.file.read_at(&mut there, 0).expect("a file");
        assert!(there[..len] == self.contents[..], "a file is not what was written to it");
    }
}

/// A descriptor of its own; while it fails, one that cannot be synced.
#[derive(Debug)]
struct Open {
    file: OwnedFd,
    failing: Arc<AtomicBool>,
}

impl Open {
    fn null() -> BorrowedFd<'static> {
        static NULL: LazyLock<File> = LazyLock::new(|| File::open("/dev/null").expect("a device"));
        NULL.as_fd()
    }
}

impl HostFile for Open {
    fn buffered(&self) -> BorrowedFd<'_> {
        if self.failing.load(Ordering::Relaxed) { Self::null() } else { self.file.as_fd() }
    }

    fn direct(&self) -> Option<&extentfsd::extents::DirectFile> {
        None
    }
}

impl World<'_> {
    fn grant(&mut self, n: usize, input: &mut Input<'_>) {
        let access = if input.once_in(2) { Access::Write } else { Access::Read };
        let position = if input.once_in(4) { input.number() } else { 0 };
        let size = if input.once_in(8) { input.number() } else { self.files[n].contents.len() as u64 };
        let open = match input
            .once_in(4)
            .then(|| self.files[n].granted.as_ref().map(|granted| granted.reader))
            .flatten()
        {
            // The one that there is already.
            Some(known) => known,
            None => {
                let file = self.files[n].file.try_clone().expect("a descriptor").into();
                self.opens.push(Arc::new(Open { file, failing: Arc::clone(&self.failing) }));
                self.opens.len() - 1
            }
        };
        let got = self.window.grant(n as u64, &self.opens[open], size, position, access);
        let all: usize =
            self.files.iter().filter_map(|file| Some(file.granted.as_ref()?.regions.len())).sum();
        let file = &mut self.files[n];
        let fits = file
            .granted
            .as_ref()
            .and_then(|granted| granted.regions.last())
            .filter(|last| position < last.length);
        let new = match fits {
            _ if access == Access::Write && self.read_only => {
                return assert_eq!(got, None, "a read-only window");
            }
            Some(last) => {
                let got = got.expect("the region that is there");
                assert_eq!((got.address, got.length), (last.address, last.length));
                false
            }
            None if file.granted.is_none() && file.fences > 0 => {
                return assert_eq!(got, None, "a fenced file");
            }
            None if all >= self.max_regions => return assert_eq!(got, None, "too many regions"),
            // Too large a file; the room's own tests say where that begins.
            None if got.is_none() => {
                return assert!(size.max(position) > 1 << 48, "{size} and {position} are not too large");
            }
            None => true,
        };
        let Some(got) = got else { return };
        assert!(got.offset == 0 && position < got.length && got.address.is_multiple_of(1 << 20));
        if new {
            assert!(got.address >= self.next, "addresses that were given away before");
            self.next = got.address + got.length;
            assert!(self.next <= LAST);
        }
        let granted = file.granted.get_or_insert(Granted {
            regions: Vec::new(),
            writes: false,
            reader: open,
            writer: None,
        });
        if new {
            granted.regions.push(got);
        }
        if access == Access::Write {
            granted.writes = true;
            granted.writer.get_or_insert(open);
        }
        assert_eq!(got.access == Access::Write, granted.writes);
    }

    fn end_writes(&mut self, n: usize) {
        self.against_requests(|window| window.end_writes(n as u64));
        let file = &mut self.files[n];
        if let Some(granted) = file.granted.as_mut().filter(|granted| granted.writes) {
            granted.writes = false;
            // A descriptor for both would keep the file open for writing.
            if granted.writer.take() == Some(granted.reader) {
                file.granted = None;
            }
        }
    }

    /// Syncs what was written, mostly: a region that ends before has a thread started that lives for seconds, and there must
    /// not be thousands of them.
    fn flush(&mut self, input: &mut Input<'_>) {
        if input.once_in(64) {
            self.vague = true;
            return;
        }
        let written =
            |(_, transfer, _): &mut (usize, Transfer, Vec<u8>)| transfer.direction == Direction::Write;
        let writes: Vec<_> = self.in_flight.extract_if(.., written).collect();
        let reads = std::mem::replace(&mut self.in_flight, writes);
        self.land();
        self.in_flight = reads;
        self.window.flush().expect("files that can be synced");
        self.written = false;
    }

    fn revoke(&mut self, n: usize) {
        self.against_requests(|window| window.revoke(n as u64));
        self.files[n].granted = None;
    }

    fn fence(&mut self, n: usize) {
        let window = self.window;
        let fence = self.against_requests(|_| window.fence(n as u64));
        self.fences.push((n, fence));
        self.files[n].fences += 1;
    }

    /// Does what waits for requests in flight, which end meanwhile.
    fn against_requests<T: Send>(&mut self, wait: impl FnOnce(&Window) -> T + Send) -> T {
        let window = self.window;
        if self.in_flight.is_empty() {
            return wait(window);
        }
        thread::scope(|scope| {
            let waits = scope.spawn(|| wait(window));
            thread::yield_now();
            self.land();
            waits.join().expect("no panics there")
        })
    }

    /// Ends the transfers that are under way.
    fn land(&mut self) {
        for (n, transfer, head) in std::mem::take(&mut self.in_flight) {
            self.carry_out(n, &transfer, &head, 0x7f);
        }
    }

    /// Takes the fences of a file away, while somebody waits for that.
    fn open_gate<T: Send>(&mut self, n: usize, wait: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let waits = scope.spawn(wait);
            thread::yield_now();
            self.fences.retain(|(file, _)| *file != n);
            self.files[n].fences = 0;
            waits.join().expect("no panics there")
        })
    }

    /// Grants many files that are one, reads or writes each, and ends the grants: at once, or all in the end.
    fn crowd(&mut self, input: &mut Input<'_>) {
        let (count, writes, late) = (input.one_of(&[10, 600, 4200]), input.once_in(2), input.once_in(2));
        let access = if writes && !self.read_only { Access::Write } else { Access::Read };
        let count = if late { count.min(MANY - FILES * 100) } else { count };
        let file = self.files[0].file.try_clone().expect("a descriptor").into();
        let file: Arc<dyn HostFile> = Arc::new(Open { file, failing: Arc::clone(&self.failing) });
        let keys = (1 << 20)..(1 << 20) + count as u64;
        for key in keys.clone() {
            let Some(region) = self.window.grant(key, &file, 0, 0, access) else { break };
            self.next = region.address + region.length;
            let mut reply = Vec::new();
            let head = [&IN.to_le_bytes()[..], &[0; 4], &(region.address / 512).to_le_bytes()].concat();
            match self.service.handle(&head, 0, 513, &mut reply) {
                Outcome::Transfer(transfer) => {
                    if let Some(passage) = transfer.passage.as_ref().filter(|_| access == Access::Write) {
                        passage.wrote();
                    }
                    self.service.finish(&head, &transfer, Ok(512), &mut reply);
                }
                other => panic!("{other:?}"),
            }
            if !late {
                self.window.revoke(key);
            }
        }
        keys.for_each(|key| self.window.revoke(key));
        self.vague = true;
    }

    /// Where an address leads: a file and a place in it, if all of the range is in one region.
    fn place(&self, address: u64, len: u64) -> Place {
        let Some(end) = address.checked_add(len) else { return Place::Nowhere };
        for (n, file) in self.files.iter().enumerate() {
            for region in file.granted.iter().flat_map(|granted| &granted.regions) {
                if (region.address..region.address + region.length).contains(&address) {
                    return if end <= region.address + region.length {
                        Place::In(n, address - region.address)
                    } else {
                        Place::Nowhere
                    };
                }
            }
        }
        let never = end <= FIRST || (address >= LAST && end <= 1 << 62);
        if never { Place::Never } else { Place::Nowhere }
    }

    fn address(&self, input: &mut Input<'_>) -> u64 {
        let regions: Vec<&Region> = self
            .files
            .iter()
            .filter_map(|file| file.granted.as_ref())
            .flat_map(|granted| &granted.regions)
            .collect();
        match (input.u8(), regions.is_empty()) {
            (choice @ 0..=199, false) => {
                let region = regions[usize::from(choice) % regions.len()];
                let into = input.u8();
                // Near its beginning or near its end.
                if into < 200 {
                    region.address + u64::from(into) * 512
                } else {
                    region.address + region.length - u64::from(into - 200) * 512
                }
            }
            (200..=219, _) => self.next.wrapping_sub(u64::from(input.u8()) * 512),
            _ => input.number().wrapping_mul(512),
        }
    }

    fn request(&mut self, input: &mut Input<'_>) {
        let kind = input.one_of(&[IN, OUT, IN, OUT, DISCARD, WRITE_ZEROES, FLUSH, GET_ID, 2, u32::MAX]);
        let address = self.address(input);
        let sectors = usize::from(input.u8());
        let len =
            if input.once_in(16) { input.number() as usize % LARGEST } else { (sectors * 512) % LARGEST };
        let sector = if input.once_in(32) { input.number() } else { address / 512 };
        let mut head = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        if input.once_in(32) {
            head.truncate(input.below(17));
        }
        match kind {
            IN | OUT => self.transfer(kind, &head, sector, len, input),
            DISCARD | WRITE_ZEROES => self.clear(kind, &head, input),
            FLUSH if head.len() == 16 => {
                self.land();
                let fails = input.once_in(8) && !self.vague;
                self.failing.store(fails, Ordering::Relaxed);
                let status = self.blocking(&head, 0);
                self.failing.store(false, Ordering::Relaxed);
                // Told once, and what could not be synced is no longer waited for.
                assert_eq!(status, if fails && self.written { IOERR } else { OK });
                self.written = false;
            }
            FLUSH => {}
            _ => {
                let mut reply = Vec::new();
                let room = 1 + len % 5000;
                let outcome = self.service.handle(&head, 0, room, &mut reply);
                assert!(matches!(outcome, Outcome::Reply) && reply.len() <= room);
                let status = reply.last().copied();
                let expected = match (head.len(), kind) {
                    (..16, _) => IOERR,
                    (_, GET_ID) => {
                        if room > 4097 {
                            IOERR
                        } else {
                            OK
                        }
                    }
                    _ => UNSUPP,
                };
                assert_eq!(status, Some(expected));
            }
        }
    }

    fn blocking(&self, head: &[u8], readable: usize) -> u8 {
        Self::ask(&*self.service, head, readable)
    }

    fn ask(service: &dyn Service, head: &[u8], readable: usize) -> u8 {
        let outcome = service.handle(head, readable, 1, &mut Vec::new());
        assert!(matches!(outcome, Outcome::Blocking), "{outcome:?}");
        let (sender, receiver) = mpsc::channel();
        service.handle_blocking(head, 1, Box::new(move |reply| sender.send(reply).expect("somebody waits")));
        let [status] = receiver.try_recv().expect("an answer")[..] else { panic!("no status") };
        status
    }

    fn transfer(&mut self, kind: u32, head: &[u8], sector: u64, len: usize, input: &mut Input<'_>) {
        let (payload, room) = match (kind, input.once_in(32)) {
            (IN, false) | (OUT, true) => (0, len + 1),
            _ => (len, 1),
        };
        let wrong_way = (kind == IN) == (payload > 0) && len > 0;
        let mut reply = Vec::new();
        let outcome = self.service.handle(head, payload, room, &mut reply);
        let address = sector.checked_mul(512);
        let expected = match address {
            _ if head.len() < 16 || wrong_way || !len.is_multiple_of(512) => Place::Nowhere,
            Some(address) => self.place(address, len as u64),
            None => Place::Nowhere,
        };
        match (expected, outcome) {
            (Place::Nowhere, Outcome::Reply) => assert_eq!(reply, [IOERR]),
            (Place::Never, Outcome::Zeroes(zeroes)) => {
                assert!(kind == IN && zeroes == len && reply == [OK]);
            }
            (Place::Never, Outcome::Reply) => assert!(kind == OUT && reply == [IOERR]),
            (Place::In(n, _), Outcome::Again(wait)) => {
                assert!(self.files[n].fences > 0, "a fence that nobody made");
                if input.once_in(2) {
                    self.open_gate(n, wait.0);
                    self.transfer(kind, head, sector, len, input);
                }
            }
            (Place::In(n, offset), outcome) => {
                let file = &self.files[n];
                assert_eq!(file.fences, 0, "inside a fenced file");
                let granted = file.granted.as_ref().expect("placed");
                let inside = offset + len as u64 <= file.contents.len() as u64;
                match outcome {
                    Outcome::Transfer(transfer) => {
                        assert!(kind == IN || (granted.writes && inside), "a write that is not granted");
                        assert_eq!((transfer.offset, transfer.len as usize), (offset, len));
                        assert_eq!(transfer.pad, kind == IN);
                        if input.once_in(8) {
                            self.in_flight.push((n, transfer, head.to_vec()));
                        } else {
                            self.carry_out(n, &transfer, head, input.u8());
                        }
                    }
                    Outcome::Reply => assert!(kind == OUT && !(granted.writes && inside) && reply == [IOERR]),
                    other => panic!("{other:?}"),
                }
            }
            (place, outcome) => panic!("{place:?}: {outcome:?}"),
        }
    }

    fn carry_out(&mut self, n: usize, transfer: &Transfer, head: &[u8], fill: u8) {
        let mut buffer = vec![fill; transfer.len as usize];
        let fd = transfer.file.buffered().as_raw_fd();
        let (offset, len, contents) = (transfer.offset as usize, buffer.len(), &mut self.files[n].contents);
        // SAFETY: the buffer has that many bytes.
        let moved = unsafe {
            match transfer.direction {
                Direction::Read => libc::pread(fd, buffer.as_mut_ptr().cast(), len, offset as i64),
                Direction::Write => libc::pwrite(fd, buffer.as_ptr().cast(), len, offset as i64),
            }
        };
        let moved = usize::try_from(moved).expect("a file that can be read and written");
        match transfer.direction {
            Direction::Read => {
                let there = contents.get(offset..).unwrap_or(&[]);
                assert!(buffer[..moved] == there[..len.min(there.len())], "bytes of something else");
            }
            Direction::Write => {
                // It may have been made shorter while the request was in flight. But a write of nothing makes no file longer.
                if len > 0 {
                    contents.resize(contents.len().max(offset + len), 0);
                    contents[offset..offset + len].fill(fill);
                }
                self.files[n].check();
            }
        }
        self.written |= transfer.direction == Direction::Write;
        // The ring fills up with zeroes what is behind the end.
        let done = if transfer.pad { len } else { moved };
        let mut reply = Vec::new();
        self.service.finish(head, transfer, Ok(done), &mut reply);
        assert_eq!(reply, [OK]);
    }

    /// DISCARD and WRITE_ZEROES.
    fn clear(&mut self, kind: u32, head: &[u8], input: &mut Input<'_>) {
        let address = self.address(input);
        let sectors = if input.once_in(16) { input.number_u32() } else { u32::from(input.u8()) };
        let flags = input.one_of(&[0, 0, 1, 2, u32::MAX]);
        let sector = if input.once_in(32) { input.number() } else { address / 512 };
        let mut request =
            [head, &sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        if input.once_in(16) {
            request.truncate(input.below(64));
        }
        let whole = request.len() == 32 && head.len() == 16;
        let (address, len) = (sector.checked_mul(512), u64::from(sectors) * 512);
        let place = address.map_or(Place::Nowhere, |address| self.place(address, len));
        if request.len() < 16 {
            return;
        }
        if head.len() < 16 {
            // Its kind and sector are made of what follows.
            let kind = u32::from_le_bytes(request[..4].try_into().expect("4 bytes"));
            if !matches!(kind, DISCARD | WRITE_ZEROES) || request.len() >= 32 {
                return;
            }
        }
        let status = match place {
            Place::In(n, _) if self.files[n].fences > 0 => {
                // Waits, where it is a request that makes sense.
                let service = Arc::clone(&self.service);
                let asked = request.clone();
                self.open_gate(n, move || Self::ask(&*service, &asked, 0))
            }
            _ => self.blocking(&request, 0),
        };
        if !whole {
            return assert_eq!(status, UNSUPP);
        }
        if flags > 1 || (kind == DISCARD && flags != 0) {
            return assert_eq!(status, UNSUPP);
        }
        match place {
            Place::In(n, offset) if sectors <= 1 << 22 => {
                let file = &mut self.files[n];
                let granted = file.granted.as_ref().expect("placed");
                let inside = offset + len <= file.contents.len() as u64;
                // Also where nothing comes of it.
                self.written |= granted.writes && inside;
                if granted.writes && inside && len > 0 {
                    // A tmpfs punches holes, and knows no other way to zeroes.
                    let punches = kind == DISCARD || flags == 1;
                    assert_eq!(status, if punches { OK } else { UNSUPP });
                    if punches {
                        file.contents[offset as usize..][..len as usize].fill(0);
                    }
                } else {
                    assert_ne!(status, OK);
                }
                file.check();
            }
            _ => assert_eq!(status, IOERR),
        }
    }
}

/// What the model says of an address.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In this file, here.
    In(usize, u64),
    /// Never given away.
    Never,
    /// Given away once, or might be, or across a border, or behind the end.
    Nowhere,
}
