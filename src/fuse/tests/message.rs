//! Requests as a guest would send them, and a good one of every operation.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::double::Double;
use crate::fuse::abi::extents::{ExtentDeviceIn, IomapBeginIn, IomapConfigIn, IomapEndIn, IomapIoendIn};
use crate::fuse::abi::{self, *};
use crate::fuse::{Handled, Server};

/// A reply's header and what follows it.
pub(super) type Answer = (OutHeader, Vec<u8>);

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub header: InHeader,
    pub body: Vec<u8>,
    /// Bytes of payload behind the head.
    pub payload: u32,
}

impl Message {
    pub(super) fn new(opcode: u32) -> Self {
        let header =
            InHeader { opcode, unique: 99, nodeid: 1, uid: 1000, gid: 100, pid: 5, ..InHeader::default() };
        Self { header, body: Vec::new(), payload: 0 }
    }

    pub(super) fn with<T: IntoBytes + Immutable>(self, value: T) -> Self {
        self.bytes(value.as_bytes())
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// The head, with the length that it really has.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut header = self.header;
        header.len = u32::try_from(40 + self.body.len()).unwrap() + self.payload;
        [header.as_bytes(), &self.body].concat()
    }

    /// Sends it and waits for the answer; `None` where there is none. A transfer moves all its bytes.
    pub(super) fn send(&self, server: &Server<Double>, room: usize) -> Option<Answer> {
        send(server, &self.head(), usize::try_from(self.payload).unwrap(), room)
    }

    /// Sends it with enough room and expects the errno of the answer, 0 for a success.
    pub(super) fn errno(&self, server: &Server<Double>) -> i32 {
        -self.send(server, 1 << 16).unwrap().0.error
    }
}

/// Sends a request's bytes, and checks what must hold for every answer to anything.
pub(super) fn send(server: &Server<Double>, head: &[u8], payload: usize, room: usize) -> Option<Answer> {
    let mut answer = vec![0xaa; 3];
    let mut moved = 0;
    match server.handle(head, payload, room, &mut answer) {
        Handled::NoReply => return None,
        Handled::Reply => {}
        Handled::Transfer(transfer) => {
            let len = usize::try_from(transfer.len).unwrap();
            if transfer.direction == crate::fuse::Direction::Read {
                moved = len;
            }
            server.finish(head, &transfer, Ok(len), &mut answer);
        }
        Handled::Blocking => {
            let (sender, receiver) = std::sync::mpsc::channel();
            server.handle_blocking(head, room, Box::new(move |answer| sender.send(answer).unwrap()));
            answer = receiver.recv().unwrap();
        }
    }
    let header = OutHeader::read_from_prefix(&answer).unwrap().0;
    assert_eq!(usize::try_from(header.len).unwrap(), answer.len() + moved);
    assert!(answer.len() + moved <= room, "{} bytes in a room of {room}", answer.len() + moved);
    assert!((-511..=0).contains(&header.error), "{}", header.error);
    assert!(header.error == 0 || answer.len() + moved == 16, "an error is a header alone");
    assert_eq!(header.unique.to_le_bytes(), head[8..16]);
    Some((header, answer[16..].to_vec()))
}

/// INIT of a guest of this minor version that offers everything.
pub(super) fn init(minor: u32) -> Message {
    let init = InitIn { major: 7, minor, max_readahead: 1 << 17, flags: u32::MAX };
    Message::new(opcode::INIT).with(init).with(InitInExt { flags2: u32::MAX, ..InitInExt::default() })
}

/// A server with a mount on which everything was agreed upon.
pub(super) fn mounted() -> Server<Double> {
    mounted_with(Double::new())
}

pub(super) fn mounted_with(double: Double) -> Server<Double> {
    let server = Server::new(double);
    assert_eq!(init(45).errno(&server), 0);
    server.file_system().calls();
    server
}

/// What an answer's length must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// Behind the header, always.
    Fixed(usize),
    /// Behind the header, with the double's data.
    Variable(usize),
    /// No answer at all.
    None,
    /// An error.
    Errno(i32),
}

/// A good request of every operation, with what it must be answered with.
pub(super) fn every_operation() -> Vec<(Message, Length)> {
    use Length::{Errno, Fixed, None, Variable};
    let new = Message::new;
    let fh = 9;
    let range = CopyFileRangeIn { fh_in: fh, nodeid_out: 2, fh_out: 8, len: 1 << 33, ..Default::default() };
    let lk = LkIn { fh, lk: FileLock { start: 1, end: 2, kind: F_WRLCK, pid: 3 }, ..Default::default() };
    let read = ReadIn { fh, size: 4096, ..ReadIn::default() };
    let mut write = new(opcode::WRITE).with(WriteIn { fh, size: 512, ..WriteIn::default() });
    write.payload = 512;
    vec![
        (init(45), Variable(64)),
        (new(opcode::LOOKUP).bytes(b"name\0"), Fixed(128)),
        (new(opcode::FORGET).with(ForgetIn { nlookup: 3 }), None),
        (
            new(opcode::BATCH_FORGET)
                .with(BatchForgetIn { count: 1, dummy: 0 })
                .with(ForgetOne { nodeid: 4, nlookup: 2 }),
            None,
        ),
        (new(opcode::GETATTR).with(GetattrIn::default()), Fixed(104)),
        (new(opcode::SETATTR).with(SetattrIn::default()), Fixed(104)),
        (new(opcode::READLINK), Variable(6)),
        (new(opcode::SYMLINK).bytes(b"name\0target\0"), Fixed(128)),
        (new(opcode::MKNOD).with(MknodIn::default()).bytes(b"name\0"), Fixed(128)),
        (new(opcode::MKDIR).with(MkdirIn::default()).bytes(b"name\0"), Fixed(128)),
        (new(opcode::UNLINK).bytes(b"name\0"), Fixed(0)),
        (new(opcode::RMDIR).bytes(b"name\0"), Fixed(0)),
        (new(opcode::RENAME).with(RenameIn { newdir: 2 }).bytes(b"old\0new\0"), Fixed(0)),
        (
            new(opcode::RENAME2).with(Rename2In { newdir: 2, flags: 1, padding: 0 }).bytes(b"old\0new\0"),
            Fixed(0),
        ),
        (new(opcode::LINK).with(LinkIn { oldnodeid: 3 }).bytes(b"name\0"), Fixed(128)),
        (new(opcode::OPEN).with(OpenIn::default()), Fixed(16)),
        (new(opcode::READ).with(read), Variable(0)),
        (write, Fixed(8)),
        (new(opcode::STATFS), Fixed(80)),
        (new(opcode::RELEASE).with(ReleaseIn::default()), Fixed(0)),
        (new(opcode::FSYNC).with(FsyncIn::default()), Fixed(0)),
        (
            new(opcode::SETXATTR)
                .with(SetxattrIn { size: 3, flags: 1 })
                .with(SetxattrInExt::default())
                .bytes(b"user.a\0abc"),
            Fixed(0),
        ),
        (new(opcode::GETXATTR).with(GetxattrIn { size: 64, padding: 0 }).bytes(b"user.a\0"), Variable(5)),
        (new(opcode::GETXATTR).with(GetxattrIn::default()).bytes(b"user.a\0"), Fixed(8)),
        (new(opcode::LISTXATTR).with(GetxattrIn { size: 64, padding: 0 }), Variable(14)),
        (new(opcode::LISTXATTR).with(GetxattrIn::default()), Fixed(8)),
        (new(opcode::REMOVEXATTR).bytes(b"user.a\0"), Fixed(0)),
        (new(opcode::FLUSH).with(FlushIn::default()), Fixed(0)),
        (new(opcode::OPENDIR).with(OpenIn::default()), Fixed(16)),
        (new(opcode::READDIR).with(read), Variable(32 + 32 + 32 + 40)),
        (new(opcode::READDIRPLUS).with(read), Variable(160 + 160 + 160 + 168)),
        (new(opcode::RELEASEDIR).with(ReleaseIn::default()), Fixed(0)),
        (new(opcode::FSYNCDIR).with(FsyncIn::default()), Fixed(0)),
        (new(opcode::GETLK).with(lk), Fixed(24)),
        (new(opcode::SETLK).with(lk), Fixed(0)),
        (new(opcode::SETLKW).with(lk), Errno(4)),
        (new(opcode::ACCESS).with(AccessIn::default()), Fixed(0)),
        (new(opcode::CREATE).with(CreateIn::default()).bytes(b"name\0"), Fixed(144)),
        (new(opcode::TMPFILE).with(CreateIn::default()).bytes(b"/\0"), Fixed(144)),
        (
            new(opcode::IOCTL).with(IoctlIn { in_size: 2, out_size: 4, ..IoctlIn::default() }).bytes(b"ab"),
            Variable(20),
        ),
        (new(opcode::FALLOCATE).with(FallocateIn { length: 1, ..FallocateIn::default() }), Fixed(0)),
        (new(opcode::LSEEK).with(LseekIn { whence: 3, ..LseekIn::default() }), Fixed(8)),
        (new(opcode::COPY_FILE_RANGE).with(range), Fixed(8)),
        (new(opcode::COPY_FILE_RANGE_64).with(range), Fixed(8)),
        (new(opcode::SYNCFS).with(SyncfsIn::default()), Fixed(0)),
        (new(opcode::STATX).with(abi::StatxIn::default()), Fixed(288)),
        (new(opcode::EXTENT_DEVICE).with(ExtentDeviceIn::default()), Fixed(64)),
        (new(opcode::IOMAP_CONFIG).with(IomapConfigIn { flags: 0x7f, ..Default::default() }), Fixed(104)),
        (new(opcode::IOMAP_BEGIN).with(IomapBeginIn { count: 1, ..Default::default() }), Fixed(64)),
        (new(opcode::IOMAP_END).with(IomapEndIn::default()), Fixed(0)),
        (new(opcode::IOMAP_IOEND).with(IomapIoendIn::default()), Fixed(8)),
        (new(opcode::INTERRUPT).with(1u64), None),
        (new(opcode::NOTIFY_REPLY).with(WriteIn::default()), None),
        (new(opcode::POLL).with([0u64; 3]), Errno(38)),
        (new(opcode::BMAP).with([0u64; 2]), Errno(38)),
        (new(opcode::SETUPMAPPING).with([0u64; 5]), Errno(38)),
        (new(opcode::REMOVEMAPPING).with([0u64; 2]), Errno(38)),
        (new(opcode::CUSE_INIT).with([0u64; 2]), Errno(38)),
        (new(54), Errno(38)),
        (new(0), Errno(38)),
        (new(u32::MAX), Errno(38)),
        (new(opcode::DESTROY), Fixed(0)),
    ]
}
