//! The extent protocol, message by message.

use proptest::prelude::*;
use rustix::io::Errno;
use zerocopy::FromBytes;

use super::double::{CONFIG, DEVICE, Double, ENDING, MAP, PAST_FUSE};
use super::kernel::{Disk, Question, accept, accept_rfc2025};
use super::message::{Message, init, mounted};
use crate::fuse::abi::extents::*;
use crate::fuse::abi::{self, *};
use crate::fuse::*;

const DISK: Disk = Disk { size: DEVICE.size, block: DEVICE.logical_block as u64 };

/// A guest of the RFC of 2025, which does not know our own flag.
fn rfc_guest() -> Message {
    let flags = !FUSE_EXTENTS;
    let init = InitIn { major: 7, minor: 44, max_readahead: 1 << 17, flags: u32::MAX };
    let flags2 = u32::try_from(flags >> 32).unwrap();
    Message::new(opcode::INIT).with(init).with(InitInExt { flags2, ..InitInExt::default() })
}

fn mounted_rfc() -> Server<Double> {
    let server = Server::new(Double::new());
    let (_, body) = rfc_guest().send(&server, 80).unwrap();
    assert_eq!(InitOut::read_from_bytes(&body).unwrap().flags2 & 0x4000_3800, 0x1800);
    server.file_system().calls();
    server
}

fn begin(opflags: u32, pos: u64, count: u64) -> Message {
    Message::new(opcode::IOMAP_BEGIN).with(IomapBeginIn { opflags, reserved: 7, attr_ino: 70, pos, count })
}

fn records(server: &Server<Double>, message: &Message) -> (IomapIo, IomapIo) {
    let (header, body) = message.send(server, 80).unwrap();
    assert_eq!(header.error, 0);
    let out = IomapBeginOut::read_from_bytes(&body).unwrap();
    (out.read, out.write)
}

#[test]
fn the_device_is_described() {
    let server = mounted();
    let ask = |index| Message::new(opcode::EXTENT_DEVICE).with(ExtentDeviceIn { index, zero: 5 });
    let (_, body) = ask(0).send(&server, 80).unwrap();
    let device = ExtentDeviceOut::read_from_bytes(&body).unwrap();
    let expected = ExtentDeviceOut {
        dev: 1,
        flags: EXTENT_DEVICE_READ_ONLY,
        size: 1 << 50,
        logical_block: 512,
        serial: *b"a-serial-of-20-bytes",
        ..ExtentDeviceOut::default()
    };
    assert_eq!(device, expected);
    assert_eq!(ask(1).errno(&server), 2);
    assert_eq!(ask(u32::MAX).errno(&server), 2);
}

#[test]
fn the_configuration_has_what_the_guest_understands() {
    let server = mounted();
    for (flags, expected) in [(0x7f, (4, 512)), (4, (4, 512)), (3, (0, 0)), (0, (0, 0))] {
        let config = IomapConfigIn { flags, ..IomapConfigIn::default() };
        let (_, body) = Message::new(opcode::IOMAP_CONFIG).with(config).send(&server, 120).unwrap();
        let out = IomapConfigOut::read_from_bytes(&body).unwrap();
        assert_eq!((out.flags, out.s_blocksize), expected);
        assert_eq!(IomapConfigOut { flags: 0, s_blocksize: 0, ..out }, IomapConfigOut::default());
    }
}

#[test]
fn what_is_asked_for_reaches_the_file_system() {
    use MapPurpose::{Change, Read, Report, Write};
    let server = mounted();
    let unknown = !(IOMAP_OP_WRITE | IOMAP_OP_ZERO | IOMAP_OP_REPORT | IOMAP_OP_UNSHARE);
    for (opflags, purpose) in [
        (0, Read),
        (IOMAP_OP_DIRECT | IOMAP_OP_NOWAIT, Read),
        (unknown, Read),
        (IOMAP_OP_WRITE, Write),
        (IOMAP_OP_WRITE | unknown, Write),
        (IOMAP_OP_ZERO, Change),
        (IOMAP_OP_WRITE | IOMAP_OP_UNSHARE, Change),
        (IOMAP_OP_REPORT, Report),
        (u32::MAX, Report),
    ] {
        records(&server, &begin(opflags, 5, 6));
        let request = MapRequest { purpose, position: 5, count: 6 };
        assert_eq!(server.file_system().calls(), [format!("map(NodeId(1), {request:?})")]);
    }
    let end = IomapEndIn { written: -5, ..IomapEndIn::default() };
    assert_eq!(Message::new(opcode::IOMAP_END).with(end).errno(&server), 0);
    let (_, body) =
        Message::new(opcode::IOMAP_IOEND).with(IomapIoendIn::default()).send(&server, 24).unwrap();
    assert_eq!(body, 4711u64.to_le_bytes());
    assert_eq!(server.file_system().calls(), ["end_map(NodeId(1),)", "end_io(NodeId(1),)"]);
}

#[test]
fn ranges_that_no_file_has_are_refused() {
    let server = mounted();
    let end = i64::MAX.unsigned_abs();
    for (pos, count) in [(0, 0), (end, 1), (end + 1, 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        assert_eq!(begin(0, pos, count).errno(&server), 22, "{pos} {count}");
    }
    assert!(server.file_system().calls().is_empty());
    assert_eq!(begin(0, end - 1, 1).errno(&server), 0);
    assert_eq!(begin(0, 0, end).errno(&server), 0);
}

#[test]
fn records_are_as_specified() {
    let server = mounted();
    let (read, write) = records(&server, &begin(IOMAP_OP_WRITE, 0, 1));
    let mapped = IomapIo { length: 1 << 30, addr: 1 << 40, kind: 2, dev: 1, ..IomapIo::default() };
    assert_eq!(read, mapped);
    assert_eq!(write, IomapIo { addr: u64::MAX, kind: 65535, dev: 0, ..mapped });
    let place = |place| {
        let extent = Extent { offset: 0, length: 1 << 20, place };
        server.file_system().set_map(Ok(FileMap { read: extent, write: extent, size: 0 }));
        let (read, write) = records(&server, &begin(IOMAP_OP_REPORT, 0, 1));
        assert_eq!(read, write);
        assert_eq!((read.offset, read.length, read.flags), (0, 1 << 20, 0));
        (read.kind, read.addr, read.dev)
    };
    let somewhere = Some(Address { device: 1, byte: 512 });
    assert_eq!(place(Place::Fuse), (65520, u64::MAX, 0));
    assert_eq!(place(Place::Hole), (0, u64::MAX, 0));
    assert_eq!(place(Place::Mapped(somewhere)), (2, 512, 1));
    assert_eq!(place(Place::Mapped(None)), (2, 0, 0));
    assert_eq!(place(Place::Unwritten(somewhere)), (3, 512, 1));
    assert_eq!(place(Place::Unwritten(None)), (3, 0, 0));
    for errno in [Errno::BADF, Errno::OPNOTSUPP, Errno::STALE] {
        server.file_system().set_map(Err(errno));
        assert_eq!(begin(0, 0, 1).errno(&server), errno.raw_os_error());
    }
}

#[test]
fn the_rfc_has_its_own_answers() {
    let server = mounted_rfc();
    let answer = |message: Message| {
        let (header, body) = message.send(&server, 16 + 48).unwrap();
        (-header.error, body)
    };
    let (errno, body) = answer(begin(IOMAP_OP_WRITE | IOMAP_OP_DIRECT, 4096, 4096));
    assert_eq!((errno, body.len()), (0, 48));
    let out = rfc2025::BeginOut::read_from_bytes(&body).unwrap();
    let expected = rfc2025::BeginOut {
        length: 1 << 30,
        read_addr: 1 << 40,
        read_type: 2,
        write_addr: u64::MAX,
        write_type: 65535,
        ..rfc2025::BeginOut::default()
    };
    assert_eq!(out, expected, "the first device is number 0");
    // A write must end within the file, a read need not.
    assert_eq!(answer(begin(IOMAP_OP_WRITE, MAP.size - 1, 1)).0, 0);
    assert_eq!(answer(begin(IOMAP_OP_WRITE, MAP.size - 1, 2)).0, 38);
    assert_eq!(answer(begin(IOMAP_OP_DIRECT, MAP.size, 4096)).0, 0);
    // By FUSE.
    let fuse = Extent { place: Place::Fuse, ..MAP.write };
    server.file_system().set_map(Ok(FileMap { write: fuse, ..MAP }));
    assert_eq!(answer(begin(IOMAP_OP_WRITE, 0, 1)).0, 38);
    assert_eq!(answer(begin(0, 0, 1)).0, 0);
    server.file_system().set_map(Ok(FileMap { read: fuse, write: fuse, ..MAP }));
    assert_eq!(answer(begin(0, 0, 1)).0, 38);
    for (errno, io, report) in [(Errno::BADF, 38, 9), (Errno::OPNOTSUPP, 38, 95), (Errno::STALE, 116, 116)] {
        server.file_system().set_map(Err(errno));
        assert_eq!(answer(begin(0, 0, 1)).0, io);
        assert_eq!(answer(begin(IOMAP_OP_WRITE, 0, 1)).0, io);
        assert_eq!(answer(begin(IOMAP_OP_REPORT, 0, 1)).0, report);
    }
    server.file_system().calls();
    let ioend = rfc2025::IoendIn { error: -38, ..rfc2025::IoendIn::default() };
    assert_eq!(answer(Message::new(opcode::IOMAP_IOEND).with(ioend)), (0, vec![]));
    assert!(server.file_system().calls().is_empty(), "it must succeed whatever the file system thinks of it");
    assert_eq!(answer(Message::new(opcode::IOMAP_END).with(rfc2025::EndIn::default())), (0, vec![]));
    // What came later is not there.
    let device = Message::new(opcode::EXTENT_DEVICE).with(ExtentDeviceIn::default());
    assert_eq!(answer(device).0, 38);
    assert_eq!(answer(Message::new(opcode::IOMAP_CONFIG).with(IomapConfigIn::default())).0, 38);
}

#[test]
fn requests_of_the_rfc_are_read_to_their_end() {
    let server = mounted_rfc();
    for whole in [
        begin(0, 0, 1),
        Message::new(opcode::IOMAP_END).with(rfc2025::EndIn::default()),
        Message::new(opcode::IOMAP_IOEND).with(rfc2025::IoendIn::default()),
    ] {
        assert_eq!(whole.errno(&server), 0);
        let mut cut = whole.clone();
        cut.body.pop();
        assert_eq!(cut.errno(&server), 22, "{whole:?}");
    }
    let (header, _) = begin(0, 0, 1).send(&server, 16 + 47).unwrap();
    assert_eq!(header.error, -22);
}

#[test]
fn a_guest_that_did_not_ask_sees_nothing() {
    let stock = InitIn { major: 7, minor: 45, max_readahead: 0, flags: u32::MAX };
    let upper = u32::try_from(!FUSE_EXTENTS >> 32).unwrap();
    let server = Server::new(Double::new());
    let init = Message::new(opcode::INIT).with(stock).with(InitInExt { flags2: upper, ..Default::default() });
    assert_eq!(init.errno(&server), 0);
    server.file_system().calls();
    for message in [
        Message::new(opcode::EXTENT_DEVICE).with(ExtentDeviceIn::default()),
        Message::new(opcode::IOMAP_CONFIG).with(IomapConfigIn::default()),
        begin(0, 0, 1),
        Message::new(opcode::IOMAP_END).with(IomapEndIn::default()),
        Message::new(opcode::IOMAP_IOEND).with(IomapIoendIn::default()),
    ] {
        assert_eq!(message.errno(&server), 38, "{message:?}");
    }
    assert!(server.file_system().calls().is_empty());
    let flags = |server: &Server<Double>| {
        let (_, body) = Message::new(opcode::GETATTR).with(GetattrIn::default()).send(server, 120).unwrap();
        AttrOut::read_from_bytes(&body).unwrap().attr.flags
    };
    assert_eq!(flags(&server), 0);
    assert_eq!(flags(&mounted()), FUSE_ATTR_IOMAP);
    assert_eq!(flags(&mounted_rfc()), 0);
}

#[test]
fn every_reply_with_attributes_has_the_flag() {
    let server = mounted();
    for (message, at) in [
        (Message::new(opcode::LOOKUP).bytes(b"name\0"), 124),
        (Message::new(opcode::GETATTR).with(GetattrIn::default()), 100),
        (Message::new(opcode::SETATTR).with(SetattrIn::default()), 100),
        (Message::new(opcode::MKNOD).with(MknodIn::default()).bytes(b"name\0"), 124),
        (Message::new(opcode::LINK).with(LinkIn { oldnodeid: 3 }).bytes(b"name\0"), 124),
        (Message::new(opcode::CREATE).with(CreateIn::default()).bytes(b"name\0"), 124),
        (Message::new(opcode::TMPFILE).with(CreateIn::default()).bytes(b"/\0"), 124),
        // The second entry: "." has no node.
        (Message::new(opcode::READDIRPLUS).with(abi::ReadIn { size: 4096, ..Default::default() }), 160 + 124),
    ] {
        let (_, body) = message.send(&server, 1 << 16).unwrap();
        assert_eq!(body[at..at + 4], 8u32.to_le_bytes(), "{message:?}");
    }
}

#[test]
fn what_may_wait_for_requests_past_fuse_leaves_the_ring() {
    let open = |flags: i32| {
        let flags = flags.cast_unsigned();
        Message::new(opcode::OPEN).with(OpenIn { flags, open_flags: 0 })
    };
    let set = |valid| Message::new(opcode::SETATTR).with(SetattrIn { valid, ..SetattrIn::default() });
    // Message, and whether it leaves the ring for the nodes PAST_FUSE and ENDING.
    let table = [
        (Message::new(opcode::RELEASE).with(ReleaseIn::default()), (true, true)),
        (set(FATTR_SIZE | FATTR_FH), (true, true)),
        (set(FATTR_MODE), (false, false)),
        (
            Message::new(opcode::SETATTR).with(SetattrIn {
                valid: FATTR_MODE,
                mode: 0o4755,
                ..Default::default()
            }),
            (true, true),
        ),
        (open(libc::O_RDWR | libc::O_TRUNC), (true, true)),
        (open(libc::O_RDWR), (false, false)),
        (begin(0, 0, 1), (false, true)),
        (Message::new(opcode::FLUSH).with(FlushIn::default()), (false, false)),
        (Message::new(opcode::GETATTR).with(GetattrIn::default()), (false, false)),
    ];
    let stock = Server::new(Double::new());
    assert_eq!(init(35).errno(&stock), 0, "too old for the upper flags");
    for (mut message, expected) in table {
        let mut leaves = |server: &Server<Double>, node: NodeId| {
            message.header.nodeid = node.0;
            let handled = server.handle(&message.head(), 0, 1 << 16, &mut Vec::new());
            if matches!(handled, Handled::Blocking) {
                assert_eq!(message.errno(server), 0);
            }
            matches!(handled, Handled::Blocking)
        };
        for server in [&mounted(), &mounted_rfc()] {
            assert!(!leaves(server, NodeId(7)));
            assert_eq!((leaves(server, PAST_FUSE), leaves(server, ENDING)), expected);
        }
        assert!(!leaves(&stock, PAST_FUSE) && !leaves(&stock, ENDING));
    }
    assert_ne!(CONFIG.features & FUSE_EXTENTS, 0);
}

fn place() -> impl Strategy<Value = Place> {
    let address = || {
        let byte = (0u64..DEVICE.size / 1024).prop_map(|block| block * 512);
        byte.prop_map(|byte| Address { device: 1, byte })
    };
    prop_oneof![
        Just(Place::Fuse),
        address().prop_map(|address| Place::Mapped(Some(address))),
        Just(Place::Hole),
        prop::option::of(address()).prop_map(Place::Unwritten),
        Just(Place::Mapped(None)),
    ]
}

proptest! {
    /// Whatever map a file system has within its contract, the guest's kernel takes the answer, or is sent
    /// to FUSE.
    #[test]
    fn the_guests_kernel_takes_every_answer(
        blocks in (0u64..1 << 20, 1u64..1 << 20),
        at in any::<prop::sample::Index>(),
        place in place(),
        overwrite: bool,
        size in 0u64..1 << 30,
        count in 1u64..1 << 20,
        flags in prop_oneof![
            Just(0), Just(IOMAP_OP_WRITE), Just(IOMAP_OP_ZERO), Just(IOMAP_OP_REPORT), any::<u32>()
        ],
    ) {
        let report = flags & IOMAP_OP_REPORT != 0;
        let change = flags & (IOMAP_OP_ZERO | IOMAP_OP_UNSHARE) != 0;
        let (offset, length) = (blocks.0 * 512, blocks.1 * 512);
        let pos = offset + u64::try_from(at.index(usize::try_from(length).unwrap())).unwrap();
        // The contract: only maps for REPORT know holes and places without an address.
        let place = match place {
            Place::Mapped(Some(_)) if report || !change => place,
            place if report && place != Place::Fuse => place,
            _ => Place::Fuse,
        };
        let mapped = matches!(place, Place::Mapped(_)) && !report;
        let read = Extent { offset, length, place };
        let write = Extent { place: if mapped && overwrite { Place::Overwrite } else { Place::Fuse }, ..read };
        let question = Question { opflags: flags, pos };

        let server = mounted();
        server.file_system().set_map(Ok(FileMap { read, write, size }));
        let (header, body) = begin(flags, pos, count).send(&server, 80).unwrap();
        prop_assert_eq!(header.error, 0);
        prop_assert_eq!(accept(&body, question, DISK), Ok(()));

        let server = mounted_rfc();
        server.file_system().set_map(Ok(FileMap { read, write, size }));
        let (header, body) = begin(flags, pos, count).send(&server, 80).unwrap();
        match header.error {
            0 => {
                prop_assert_eq!(accept_rfc2025(&body, question, DISK), Ok(()));
                prop_assert!(report || flags & IOMAP_OP_WRITE == 0 || pos + count <= size);
            }
            errno => prop_assert_eq!(errno, -38),
        }
    }
}
