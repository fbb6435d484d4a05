//! A guest that has the window as its disk: requests of a virtio block device (virtio 1.2, 5.2.6).

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use extentfsd::extents::{DirectFile, HostFile, Window};
use extentfsd::ring::{EngineKind, Offload, RingOptions};
use extentfsd::vhost::{ConnectionEnd, Device, RingRuntime, WindowDevice, serve_connection};

use super::{Guest, GuestConfig};

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;

/// What the status byte is before the device writes it.
pub const UNANSWERED: u8 = 0xa5;
/// What the guest's room for data is full of.
const STALE: u8 = 0xee;

/// A guest that has the window as its disk.
pub struct Disk {
    pub guest: Guest,
    server: Option<JoinHandle<ConnectionEnd>>,
}

impl Disk {
    pub fn attach(window: &Arc<Window>, engine: EngineKind, config: GuestConfig) -> Self {
        let device: Arc<dyn Device> = Arc::new(WindowDevice::new(Arc::clone(window), 2));
        let runtime = RingRuntime {
            options: RingOptions { engine, ..RingOptions::default() },
            affinity: Arc::new([]),
            offload: Arc::new(Offload::default()),
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve_connection(theirs, &device, &runtime));
        Self { guest: Guest::over(ours, config), server: Some(server) }
    }

    pub fn plain(window: &Arc<Window>) -> Self {
        Self::attach(window, EngineKind::Auto, GuestConfig::default())
    }

    pub fn detach(self) {
        let Self { guest, server } = self;
        drop(guest);
        let end = server.unwrap().join().unwrap();
        assert!(matches!(end, ConnectionEnd::Disconnected), "{end}");
    }

    /// Offers a request: header, data to write, room for data to read in pieces of `piece` bytes, status.
    pub fn offer(&mut self, queue: usize, head: &[u8], data: &[u8], room: usize, piece: usize) -> Placed {
        let ram = &mut self.guest.ram;
        let header = ram.alloc(head.len() as u64);
        ram.write(header, head);
        let mut buffers = vec![(header, head.len() as u32, false)];
        // Aligned as a guest's pages are, so that direct I/O is possible.
        let place = ram.alloc((data.len().max(room) + 4096) as u64).next_multiple_of(4096);
        ram.write(place, data);
        ram.write(place + data.len() as u64, &vec![STALE; room]);
        let pieces = |len: usize, writable| {
            (0..len).step_by(piece).map(move |at| (place + at as u64, piece.min(len - at) as u32, writable))
        };
        buffers.extend(pieces(data.len(), false));
        buffers.extend(pieces(room, true));
        let status = ram.alloc(1);
        ram.write(status, &[UNANSWERED]);
        buffers.push((status, 1, true));
        self.guest.offer(queue, &buffers);
        Placed { place, room, status }
    }

    /// The status, the bytes read and the used length.
    pub fn ask(&mut self, queue: usize, head: &[u8], data: &[u8], room: usize) -> (u8, Vec<u8>, u32) {
        let mark = self.guest.ram.mark();
        let placed = self.offer(queue, head, data, room, 4096);
        let (_, used) = self.guest.take_used(queue);
        let answer = (self.status(placed), self.guest.ram.read(placed.place, placed.room), used);
        self.guest.ram.rewind(mark);
        answer
    }

    /// Waits for this many answers of a queue.
    pub fn wait(&mut self, queue: usize, answers: usize) {
        for _ in 0..answers {
            self.guest.take_used(queue);
        }
    }

    pub fn status(&self, placed: Placed) -> u8 {
        self.guest.ram.read(placed.status, 1)[0]
    }

    pub fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>, u8> {
        let (status, bytes, used) = self.ask(0, &head(IN, address), &[], len);
        assert_eq!(used, if status == OK { len as u32 + 1 } else { 0 });
        if status == OK { Ok(bytes) } else { Err(status) }
    }

    pub fn write(&mut self, address: u64, data: &[u8]) -> u8 {
        let (status, _, used) = self.ask(0, &head(OUT, address), data, 0);
        assert_eq!(used, 1);
        status
    }
}

#[derive(Clone, Copy)]
pub struct Placed {
    pub place: u64,
    pub room: usize,
    status: u64,
}

pub fn head(kind: u32, address: u64) -> Vec<u8> {
    assert!(address.is_multiple_of(512));
    [&kind.to_le_bytes()[..], &[0; 4], &(address / 512).to_le_bytes()].concat()
}

pub fn range(kind: u32, address: u64, len: u64, flags: u32) -> Vec<u8> {
    let sectors = u32::try_from(len / 512).unwrap();
    let range = [&(address / 512).to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
    [head(kind, 0), range].concat()
}

/// A file as the share has it: open twice, the second time past the page cache.
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

/// Opens a file for reading and writing as the share does; without the second descriptor where that is not to be had.
pub fn host_file(path: &Path, direct: bool) -> Arc<dyn HostFile> {
    file_by_way_of(path, path, direct)
}

/// The same, where bytes that are suitable for direct I/O go to `other` instead.
pub fn file_by_way_of(path: &Path, other: &Path, direct: bool) -> Arc<dyn HostFile> {
    let open = |path, flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let direct = direct.then(|| open(other, libc::O_DIRECT).ok()).flatten();
    let direct = direct.map(|file| DirectFile { file: file.into(), memory_align: 512, offset_align: 4096 });
    Arc::new(TwiceOpen(open(path, 0).unwrap().into(), direct))
}
