//! The window: a virtio block device (virtio 1.2, section 5.2) whose addresses stand for files of the share.
//!
//! What a request means is `docs/extent-protocol.md`. It becomes one read(2) or write(2) of the host file, past the
//! page cache where the alignment allows it; or of the device under it, where that is wanted and the file's blocks are known. A write
//! is looked at against the file's size first, because pwrite(2) would make the file longer; whoever makes a file shorter
//! through FUSE fences its region meanwhile.

use std::io;
use std::sync::Arc;

use caps::{CapSet, Capability};
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags, fallocate, statx};
use rustix::io::Errno;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::Device;
use crate::extents::{Access, HostFile, Mover, Way, Window};
use crate::fuse::{Direction, Transfer};
use crate::ring::{Outcome, Respond, Service, Wait};
use crate::sandbox::Role;

/// Bytes of a sector, the unit of addresses (section 5.2.6).
const SECTOR: u64 = 512;
/// `struct virtio_blk_req` without its data: type, reserved, sector.
const HEADER: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const RANGE: usize = 16;
/// Most segments of a request: with header and status they fill a queue of 256.
const SEGMENTS: u32 = 254;
/// Most sectors of a DISCARD or WRITE_ZEROES.
const RANGE_SECTORS: u32 = 1 << 22;
/// What requests are best multiples of, in bytes.
const GOOD_BLOCK: u32 = 4096;
/// Most bytes that may be asked for as the serial.
const LONGEST_ID: usize = 4096;

const OK: u8 = status(VIRTIO_BLK_S_OK);
const IOERR: u8 = status(VIRTIO_BLK_S_IOERR);
const UNSUPP: u8 = status(VIRTIO_BLK_S_UNSUPP);

#[allow(clippy::cast_possible_truncation, reason = "0, 1 and 2")]
const fn status(number: u32) -> u8 {
    number as u8
}

/// A window as a virtio block device.
pub struct WindowDevice {
    service: Arc<WindowService>,
    queues: u16,
}

impl WindowDevice {
    /// A device that offers `queues` virtqueues.
    pub fn new(window: Arc<Window>, queues: u16) -> Self {
        Self { service: Arc::new(WindowService(window)), queues }
    }

    fn window(&self) -> &Window {
        &self.service.0
    }
}

impl Device for WindowDevice {
    fn name(&self) -> &'static str {
        "window"
    }

    fn features(&self) -> u64 {
        let always = [
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_MQ,
        ];
        let rest: &[u32] = match self.window().identity().read_only {
            true => &[VIRTIO_BLK_F_RO],
            false => &[VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES],
        };
        always.iter().chain(rest).fold(0, |all, bit| all | 1 << bit)
    }

    fn queue_count(&self) -> u16 {
        self.queues
    }

    /// `struct virtio_blk_config` (section 5.2.4).
    fn config_space(&self) -> Option<Vec<u8>> {
        let identity = self.window().identity();
        let exponent = (GOOD_BLOCK / identity.logical_block).checked_ilog2().unwrap_or(0);
        let mut space = Vec::with_capacity(60);
        space.extend((identity.size / SECTOR).to_le_bytes());
        space.extend(0_u32.to_le_bytes()); // size_max, not offered
        space.extend(SEGMENTS.to_le_bytes());
        space.extend([0; 4]); // geometry, not offered
        space.extend(identity.logical_block.to_le_bytes());
        space.extend([u8::try_from(exponent).unwrap_or(0), 0]); // physical blocks; where the first begins
        space.extend(1_u16.to_le_bytes()); // the least good request, in logical blocks
        space.extend(0_u32.to_le_bytes()); // the best: any
        space.extend([0, 0]); // writeback, not offered
        space.extend(self.queues.to_le_bytes());
        for _ in [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES] {
            space.extend(RANGE_SECTORS.to_le_bytes());
            space.extend(1_u32.to_le_bytes()); // ranges of a request
            if space.len() == 44 {
                space.extend((identity.logical_block / 512).to_le_bytes()); // alignment of DISCARD
            }
        }
        space.extend([1, 0, 0, 0]); // WRITE_ZEROES may unmap
        Some(space)
    }

    fn service(&self, _queue: u16) -> Arc<dyn Service> {
        self.service.clone()
    }

    /// Grants belong to the mount, not to the disk.
    fn reset(&self) {}
}

/// The window as a ring sees it.
struct WindowService(Arc<Window>);

/// The fixed part of a request.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn parse(head: &[u8]) -> Option<Self> {
        let head = head.first_chunk::<HEADER>()?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = *head;
        Some(Self { kind: u32::from_le_bytes([k0, k1, k2, k3]), sector: u64::from_le_bytes(sector) })
    }

    fn takes_ranges(self) -> bool {
        matches!(self.kind, VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES)
    }
}

/// What a DISCARD or WRITE_ZEROES is about.
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
    /// The only range of a request; this device takes no more.
    fn parse(ranges: &[u8]) -> Option<Self> {
        let [sector @ .., s0, s1, s2, s3, f0, f1, f2, f3] = *<&[u8; RANGE]>::try_from(ranges).ok()?;
        Some(Self {
            sector: u64::from_le_bytes(sector),
            sectors: u32::from_le_bytes([s0, s1, s2, s3]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
        })
    }
}

impl WindowService {
    /// Begins to move `len` bytes, which the guest's memory has room for or holds.
    fn start(&self, direction: Direction, sector: u64, len: usize, reply: &mut Vec<u8>) -> Outcome {
        let access = match direction {
            Direction::Read => Access::Read,
            Direction::Write => Access::Write,
        };
        let (Some(address), Ok(bytes)) = (sector.checked_mul(SECTOR), u32::try_from(len)) else {
            return answer(reply, IOERR);
        };
        if !len.is_multiple_of(512) {
            return answer(reply, IOERR);
        }
        match self.0.enter(address, bytes.into(), access) {
            Way::Inside { file, offset, within, passage } => {
                if direction == Direction::Write && !within && !ends_within(&*file, offset, bytes.into()) {
                    return answer(reply, IOERR);
                }
                Outcome::Transfer(Transfer {
                    direction,
                    offset,
                    len: bytes,
                    file,
                    direct: true,
                    rw_flags: 0,
                    pad: direction == Direction::Read,
                    passage: Some(passage),
                })
            }
            Way::Zeroes => {
                reply.push(OK);
                Outcome::Zeroes(len)
            }
            Way::Fenced(fence) => Outcome::Again(Wait(Box::new(move || fence.wait()))),
            Way::Refused => answer(reply, IOERR),
        }
    }

    /// DISCARD and WRITE_ZEROES. Waits.
    fn clear(&self, header: Header, ranges: &[u8]) -> u8 {
        let Some(Range { sector, sectors, flags }) = Range::parse(ranges) else { return UNSUPP };
        let unmap = match (header.kind, flags) {
            (VIRTIO_BLK_T_DISCARD, 0) | (_, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => true,
            (_, 0) => false,
            _ => return UNSUPP,
        };
        if header.kind == VIRTIO_BLK_T_DISCARD && flags != 0 {
            return UNSUPP;
        }
        let Some(address) = sector.checked_mul(SECTOR).filter(|_| sectors <= RANGE_SECTORS) else {
            return IOERR;
        };
        let len = u64::from(sectors) * SECTOR;
        let Some(mover) = self.0.enter_to_move(address, len) else { return IOERR };
        let Mover { file, offset, passage, .. } = &mover;
        if !ends_within(&**file, *offset, len) {
            return IOERR;
        }
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        let done = fallocate(file.buffered(), how | FallocateFlags::KEEP_SIZE, *offset, len);
        passage.wrote();
        match done {
            Ok(()) => OK,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => UNSUPP,
            Err(_) => IOERR,
        }
    }

    fn identify(&self, room: usize, reply: &mut Vec<u8>) -> Outcome {
        if room > LONGEST_ID {
            return answer(reply, IOERR);
        }
        reply.extend(self.0.identity().serial);
        reply.resize(room, 0);
        answer(reply, OK)
    }
}

/// Whether a write stays within the file. Does not ask a file server, which could take long: what this host knows of the
/// size is what a write(2) here goes by, too.
fn ends_within(file: &dyn HostFile, offset: u64, len: u64) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let size = statx(file.buffered(), c"", flags, StatxFlags::SIZE).map_or(0, |stat| stat.stx_size);
    offset.checked_add(len).is_some_and(|end| end <= size)
}

fn answer(reply: &mut Vec<u8>, status: u8) -> Outcome {
    reply.push(status);
    Outcome::Reply
}

impl Service for WindowService {
    fn peek_len(&self) -> usize {
        HEADER
    }

    fn head_len(&self, peek: &[u8]) -> usize {
        if Header::parse(peek).is_some_and(Header::takes_ranges) { usize::MAX } else { HEADER }
    }

    fn handle(&self, head: &[u8], payload: usize, room: usize, reply: &mut Vec<u8>) -> Outcome {
        // The last byte is for the status; without it nothing can be said.
        let Some(room) = room.checked_sub(1) else { return Outcome::NoReply };
        let Some(header) = Header::parse(head) else { return answer(reply, IOERR) };
        match header.kind {
            // Data the wrong way round would be moved nowhere, and called done.
            VIRTIO_BLK_T_IN if payload > 0 => answer(reply, IOERR),
            VIRTIO_BLK_T_OUT if room > 0 => answer(reply, IOERR),
            VIRTIO_BLK_T_IN => self.start(Direction::Read, header.sector, room, reply),
            VIRTIO_BLK_T_OUT => self.start(Direction::Write, header.sector, payload, reply),
            VIRTIO_BLK_T_GET_ID => self.identify(room, reply),
            VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => Outcome::Blocking,
            _ => answer(reply, UNSUPP),
        }
    }

    fn handle_blocking(&self, head: &[u8], _room: usize, respond: Respond) {
        let status = match (Header::parse(head), head.get(HEADER..)) {
            (Some(header), Some(ranges)) if header.takes_ranges() => self.clear(header, ranges),
            (Some(Header { kind: VIRTIO_BLK_T_FLUSH, .. }), _) => match self.0.flush() {
                Ok(()) => OK,
                Err(error) => {
                    tracing::error!("cannot make durable what was written through the window: {error}");
                    IOERR
                }
            },
            _ => IOERR,
        };
        respond(vec![status]);
    }

    fn finish(&self, _head: &[u8], transfer: &Transfer, moved: io::Result<usize>, reply: &mut Vec<u8>) {
        if let (Direction::Write, Some(passage)) = (transfer.direction, &transfer.passage) {
            // Also where it failed: some of it may have been written.
            passage.wrote();
        }
        let all = usize::try_from(transfer.len).is_ok_and(|len| moved.is_ok_and(|moved| moved == len));
        reply.push(if all { OK } else { IOERR });
    }

    fn fail(&self, _head: &[u8], _error: io::Error, reply: &mut Vec<u8>) {
        reply.push(IOERR);
    }

    fn reply_head_len(&self) -> usize {
        0
    }

    fn replies_at_end(&self) -> bool {
        true
    }

    /// Without `CAP_FSETID` the host's kernel clears set-ID bits at a write, as it does for every user
    /// (`file_remove_privs`). Threads that this one starts inherit that, and io_uring takes it over with each entry.
    fn prepare_thread(&self) -> io::Result<()> {
        caps::drop(None, CapSet::Effective, Capability::CAP_FSETID).map_err(io::Error::other)
    }

    fn confine_thread(&self) -> io::Result<()> {
        Role::WindowRing.enter()
    }

    fn cancel_waits(&self) {}
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::extents::{Identity, Region};

    fn device(read_only: bool) -> WindowDevice {
        WindowDevice::new(Arc::new(Window::new(Identity::new(b"efs-test", 512, read_only))), 3)
    }

    fn request(kind: u32, sector: u64) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
    }

    /// The answer of a request that is answered at once.
    fn ask(device: &WindowDevice, head: &[u8], payload: usize, room: usize) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        match device.service.handle(head, payload, room, &mut reply) {
            Outcome::Reply => Some(reply),
            Outcome::NoReply => None,
            other => panic!("{other:?}"),
        }
    }

    fn wait(device: &WindowDevice, kind: u32, ranges: &[u8]) -> u8 {
        let (sent, received) = std::sync::mpsc::channel();
        let head = [&request(kind, 0), ranges].concat();
        let mut reply = Vec::new();
        assert!(matches!(device.service.handle(&head, 0, 1, &mut reply), Outcome::Blocking));
        device.service.handle_blocking(&head, 1, Box::new(move |reply| sent.send(reply).unwrap()));
        let reply = received.recv().unwrap();
        assert_eq!(reply.len(), 1);
        reply[0]
    }

    fn range(address: u64, len: u64, flags: u32) -> Vec<u8> {
        let sectors = u32::try_from(len / SECTOR).unwrap();
        [&(address / SECTOR).to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    }

    fn granted(device: &WindowDevice, contents: &[u8]) -> (tempfile::NamedTempFile, Region) {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        fs::write(file.path(), contents).unwrap();
        let open = File::options().read(true).write(true).open(file.path()).unwrap();
        let open: Arc<dyn HostFile> = Arc::new(OwnedFd::from(open));
        let region = device.window().grant(1, &open, 0, 0, Access::Write).unwrap();
        (file, region)
    }

    #[test]
    fn the_configuration_space_is_the_specifications() {
        let space = device(false).config_space().unwrap();
        assert_eq!(space.len(), 60);
        let word = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from_le_bytes(space[..8].try_into().unwrap()), 1 << 53);
        assert_eq!((word(12), word(20)), (254, 512));
        assert_eq!(space[24], 3, "physical blocks of 8 sectors");
        assert_eq!(u16::from_le_bytes([space[34], space[35]]), 3);
        assert_eq!((word(36), word(40), word(44)), (RANGE_SECTORS, 1, 1));
        assert_eq!((word(48), word(52), space[56]), (RANGE_SECTORS, 1, 1));
    }

    #[test]
    fn what_is_no_request_is_answered_if_it_can_be() {
        let device = device(false);
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_IN, 0), 0, 0), None);
        assert_eq!(ask(&device, &[0; 15], 0, 513), Some(vec![IOERR]));
        assert_eq!(ask(&device, &request(77, 0), 0, 1), Some(vec![UNSUPP]));
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_IN, 0), 0, 512), Some(vec![IOERR]), "511 bytes");
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_IN, u64::MAX), 0, 513), Some(vec![IOERR]));
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_OUT, 0), 512, 1), Some(vec![IOERR]));
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_IN, 0), 512, 1), Some(vec![IOERR]), "the wrong way");
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_OUT, 0), 0, 513), Some(vec![IOERR]), "the wrong way");
        for ranges in [&b""[..], &[0; 15], &[0; 32]] {
            assert_eq!(wait(&device, VIRTIO_BLK_T_DISCARD, ranges), UNSUPP);
        }
    }

    #[test]
    fn it_tells_its_serial() {
        let device = device(false);
        let reply = ask(&device, &request(VIRTIO_BLK_T_GET_ID, 0), 0, 21).unwrap();
        assert_eq!(reply, [&b"efs-test"[..], &[0; 12], &[OK]].concat());
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_GET_ID, 0), 0, 5).unwrap(), b"efs-\0");
        assert_eq!(ask(&device, &request(VIRTIO_BLK_T_GET_ID, 0), 0, 100).unwrap().len(), 100);
    }

    #[test]
    fn a_write_does_not_make_a_file_longer() {
        let device = device(false);
        let (file, region) = granted(&device, &[1; 5000]);
        let write = |offset: u64, len| {
            let head = request(VIRTIO_BLK_T_OUT, (region.address + offset) / SECTOR);
            let mut reply = Vec::new();
            match device.service.handle(&head, len, 1, &mut reply) {
                Outcome::Transfer(transfer) => {
                    Some((transfer.offset, transfer.len, transfer.passage.is_some()))
                }
                Outcome::Reply => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(write(512, 4096), Some((512, 4096, true)));
        assert_eq!(write(4608, 512), None, "the last bytes of 5000 are no block");
        assert_eq!(write(8192, 512), None);
        fs::write(file.path(), b"").unwrap();
        assert_eq!(write(0, 512), None);
    }

    #[test]
    fn ranges_are_cleared_within_the_file() {
        let device = device(false);
        let (file, region) = granted(&device, &[1; 16384]);
        let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        assert_eq!(wait(&device, VIRTIO_BLK_T_DISCARD, &range(region.address, 4096, 0)), OK);
        assert_eq!(wait(&device, VIRTIO_BLK_T_WRITE_ZEROES, &range(region.address + 8192, 512, 0)), OK);
        assert_eq!(wait(&device, VIRTIO_BLK_T_WRITE_ZEROES, &range(region.address + 12288, 4096, unmap)), OK);
        assert_eq!(wait(&device, VIRTIO_BLK_T_WRITE_ZEROES, &range(region.address + 12288, 8192, 0)), IOERR);
        assert_eq!(wait(&device, VIRTIO_BLK_T_DISCARD, &range(region.address, 512, unmap)), UNSUPP);
        assert_eq!(wait(&device, VIRTIO_BLK_T_DISCARD, &range(region.address, 512, 2)), UNSUPP);
        assert_eq!(wait(&device, VIRTIO_BLK_T_DISCARD, &range(0, 512, 0)), IOERR);
        let expected = [[0; 4096], [1; 4096], [1; 4096], [0; 4096]].concat();
        let mut expected = expected;
        expected[8192..8704].fill(0);
        assert_eq!(fs::read(file.path()).unwrap(), expected);
        assert_eq!(wait(&device, VIRTIO_BLK_T_FLUSH, &[]), OK);
    }

    #[test]
    fn a_request_waits_at_a_fence_and_then_begins_anew() {
        let device = device(false);
        let (_file, region) = granted(&device, &[1; 4096]);
        let head = request(VIRTIO_BLK_T_OUT, region.address / SECTOR);
        let fence = device.window().fence(1);
        let Outcome::Again(Wait(wait)) = device.service.handle(&head, 512, 1, &mut Vec::new()) else {
            panic!()
        };
        let waiter = std::thread::spawn(wait);
        assert!(!waiter.is_finished());
        drop(fence);
        waiter.join().unwrap();
        let again = device.service.handle(&head, 512, 1, &mut Vec::new());
        assert!(matches!(again, Outcome::Transfer(_)));
    }
}
