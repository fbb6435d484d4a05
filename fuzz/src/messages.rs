//! What does a guest say in FUSE?
//!
//! [`Guest`] makes requests of the fuzzer's bytes: mostly what a kernel could send, with the nodes and handles that
//! it was told, sometimes with others, and sometimes no request at all. What it may be answered is in `answers.rs`, and what it says
//! of files that it reaches in a window in `file_messages.rs`.

use std::collections::BTreeMap;

use extentfsd::fuse::abi::extents::{IomapBeginIn, IomapConfigIn, IomapEndIn, IomapIoendIn};
use extentfsd::fuse::abi::{self, opcode, *};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::input::Input;

/// A request as the ring would hand it over.
#[derive(Clone, Debug)]
pub struct Message {
    /// What is asked.
    pub opcode: u32,
    /// The bytes that were copied out of guest memory.
    pub head: Vec<u8>,
    /// Bytes behind the head, which stay in guest memory.
    pub payload: usize,
    /// Bytes for the answer.
    pub room: usize,
}

/// A guest's memory of one mount.
#[derive(Debug)]
pub struct Guest {
    pub(crate) nodes: Vec<u64>,
    pub(crate) handles: Vec<u64>,
    /// Nodes that are open, with a handle each.
    pub(crate) files: Vec<(u64, u64)>,
    unique: u64,
    /// The inode number of each node.
    pub(crate) inodes: BTreeMap<u64, u64>,
    /// Where files are on the guest's disk, until it might have closed one.
    pub told: Vec<Told>,
    /// The bytes of the last READ.
    pub(crate) read: Vec<u8>,
    /// Whether it has forgotten nodes, so that it may have a file by two of them.
    pub(crate) forgot: bool,
    /// Inode numbers that no answer may have as a node's.
    pub(crate) foreign: Vec<u64>,
}

/// A part of a file that the guest was told the place of.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The file's inode number.
    pub ino: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Where it begins on the device.
    pub address: u64,
}

/// Every operation, the usual ones more than once.
#[rustfmt::skip]
const OPERATIONS: &[u32] = &[
    opcode::LOOKUP, opcode::LOOKUP, opcode::LOOKUP, opcode::LOOKUP, opcode::FORGET, opcode::GETATTR, opcode::SETATTR,
    opcode::SETATTR, opcode::READLINK, opcode::SYMLINK, opcode::MKNOD, opcode::MKDIR, opcode::UNLINK, opcode::RMDIR,
    opcode::RENAME, opcode::LINK, opcode::OPEN, opcode::OPEN, opcode::READ, opcode::READ, opcode::WRITE, opcode::WRITE,
    opcode::STATFS, opcode::RELEASE, opcode::FSYNC, opcode::SETXATTR, opcode::GETXATTR, opcode::LISTXATTR,
    opcode::REMOVEXATTR, opcode::FLUSH, opcode::INIT, opcode::OPENDIR, opcode::OPENDIR, opcode::READDIR,
    opcode::RELEASEDIR, opcode::FSYNCDIR, opcode::GETLK, opcode::SETLK, opcode::SETLKW, opcode::ACCESS, opcode::CREATE,
    opcode::CREATE, opcode::INTERRUPT, opcode::BMAP, opcode::DESTROY, opcode::IOCTL, opcode::POLL,
    opcode::NOTIFY_REPLY, opcode::BATCH_FORGET, opcode::FALLOCATE, opcode::READDIRPLUS, opcode::RENAME2, opcode::LSEEK,
    opcode::COPY_FILE_RANGE, opcode::SETUPMAPPING, opcode::REMOVEMAPPING, opcode::SYNCFS, opcode::TMPFILE,
    opcode::STATX, opcode::COPY_FILE_RANGE_64, opcode::EXTENT_DEVICE, opcode::IOMAP_CONFIG, opcode::IOMAP_IOEND,
    opcode::IOMAP_BEGIN, opcode::IOMAP_BEGIN, opcode::IOMAP_END, opcode::CUSE_INIT,
];

/// Names that are there, that could be, and that must not be.
#[rustfmt::skip]
const NAMES: &[&[u8]] = &[
    b"file", b"other", b"dir", b"inner", b"sub", b"hole", b"hard", b"out", b"secret", b"absolute", b"self", b"loop",
    b"up", b"fifo", b"new", b"new2", b"a", b"b", b"", b".", b"..", b"../canary", b"dir/inner", b"/dev/shm/canary/secret",
    b"/", b"canary", b"around", b"share", b"\xff\xfe", b"name\nwith\nlines", b"out/secret", b"...",
];

#[rustfmt::skip]
const XATTRS: &[&[u8]] = &[
    b"user.a", b"user.b", b"trusted.c", b"security.capability", b"security.selinux", b"system.posix_acl_access",
    b"system.posix_acl_default", b"user.", b"", b"nothing", b"security.ima", b"trusted.overlay.opaque",
];

/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`, `FIEMAP`, `FICLONE`, `TCGETS`.
const IOCTLS: &[u32] =
    &[0x8008_6601, 0x4008_6602, 0x801c_581f, 0x401c_5820, 0xc020_660b, 0x4004_9409, 0x5401];

/// Every access mode, with what changes the meaning of an open.
#[rustfmt::skip]
const OPEN_FLAGS: &[i32] = &[
    libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR | libc::O_DIRECT, libc::O_RDWR | libc::O_APPEND,
    libc::O_RDWR | libc::O_TRUNC, libc::O_RDONLY | libc::O_TRUNC, libc::O_RDWR | libc::O_EXCL | libc::O_CREAT,
    libc::O_RDWR | libc::O_CREAT, libc::O_DIRECTORY, libc::O_PATH, libc::O_RDWR | libc::O_SYNC, libc::O_RDWR | libc::O_DSYNC,
    libc::O_RDONLY | libc::O_NOATIME, libc::O_NOFOLLOW, libc::O_TMPFILE | libc::O_RDWR, libc::O_RDWR | libc::O_NONBLOCK, 3,
];

/// `S_IFMT` values and permission bits.
#[rustfmt::skip]
const MODES: &[u32] = &[
    libc::S_IFREG | 0o644, libc::S_IFREG | 0o6755, libc::S_IFDIR | 0o755, libc::S_IFDIR | 0o7777, libc::S_IFIFO | 0o666,
    libc::S_IFSOCK | 0o600, libc::S_IFCHR | 0o666, libc::S_IFBLK | 0o666, libc::S_IFLNK | 0o777, 0, 0o777, u32::MAX,
];

impl Guest {
    /// A guest that knows the root; `foreign` are inode numbers that are not in the share.
    pub fn new(foreign: Vec<u64>) -> Self {
        Self {
            nodes: vec![1],
            handles: Vec::new(),
            files: Vec::new(),
            unique: 0,
            inodes: BTreeMap::new(),
            told: Vec::new(),
            read: Vec::new(),
            forgot: false,
            foreign,
        }
    }

    /// INIT of a kernel with this minor version, offering these flags.
    pub fn init(&mut self, minor: u32, offered: u64) -> Message {
        let init = InitIn { major: 7, minor, max_readahead: 1 << 17, flags: offered as u32 };
        let more = InitInExt { flags2: (offered >> 32) as u32, ..InitInExt::default() };
        let body = [init.as_bytes(), more.as_bytes()].concat();
        self.message(opcode::INIT, 0, &body, 0, 1 << 12)
    }

    /// DESTROY.
    pub fn destroy(&mut self) -> Message {
        self.message(opcode::DESTROY, 0, &[], 0, 4096)
    }

    pub(crate) fn message(
        &mut self,
        opcode: u32,
        nodeid: u64,
        body: &[u8],
        payload: usize,
        room: usize,
    ) -> Message {
        self.unique += 2;
        let len = size_of::<InHeader>() + body.len() + payload;
        let header = InHeader { len: len as u32, opcode, unique: self.unique, nodeid, ..InHeader::default() };
        Message { opcode, head: [header.as_bytes(), body].concat(), payload, room }
    }

    /// The next request of the input.
    pub fn ask(&mut self, input: &mut Input<'_>) -> Message {
        let choice = usize::from(input.u8());
        let opcode = OPERATIONS.get(choice % (OPERATIONS.len() + 1)).copied().unwrap_or_else(|| input.u32());
        let node = self.node(input);
        let mut payload = 0;
        let body = self.body(opcode, input, &mut payload);
        let mut message = self.message(opcode, node, &body, payload, self.room(opcode, input));
        let Some((mut header, _)) = InHeader::read_from_prefix(&message.head).ok() else { return message };
        // Who asks, and what is wrong with the request: nothing, three times in four.
        let wrong = input.u8();
        [header.uid, header.gid] =
            input.one_of(&[[0, 0], [1000, 100], [65534, 65534], [u32::MAX, u32::MAX], [0, 1000]]);
        match wrong {
            0..192 => {}
            192..208 => header.len = input.number_u32(),
            208..224 => {
                let keep = usize::from(input.u8()).min(message.head.len());
                header.len = (keep + payload) as u32;
                message.head.truncate(keep);
            }
            224..232 => message.room = usize::from(input.u8()),
            232..240 => header.total_extlen = input.u8().into(),
            240..248 => {
                let more = input.bytes(16);
                message.head.extend_from_slice(more);
                header.len += more.len() as u32;
            }
            _ => {
                // Bytes of the body as they come.
                let at = 40 + usize::from(input.u8());
                let bytes = input.bytes(8);
                for (place, byte) in message.head.iter_mut().skip(at).zip(bytes) {
                    *place = *byte;
                }
            }
        }
        for (place, byte) in message.head.iter_mut().zip(header.as_bytes()) {
            *place = *byte;
        }
        message
    }

    fn room(&self, opcode: u32, input: &mut Input<'_>) -> usize {
        match opcode {
            opcode::READDIR
            | opcode::READDIRPLUS
            | opcode::READ
            | opcode::READLINK
            | opcode::GETXATTR
            | opcode::LISTXATTR
            | opcode::IOCTL => 16 + input.one_of(&[4096, 200, 0, 64 << 10, 1 << 20, 1000]),
            _ => 4096,
        }
    }

    fn node(&self, input: &mut Input<'_>) -> u64 {
        match input.u8() {
            known @ 0..=239 => self.nodes[usize::from(known) % self.nodes.len()],
            _ => input.number(),
        }
    }

    fn handle(&self, input: &mut Input<'_>) -> u64 {
        match input.u8() {
            // The last first: most opens are followed by what they are for.
            known @ 0..=239 if !self.handles.is_empty() => {
                self.handles[self.handles.len() - 1 - usize::from(known) % self.handles.len()]
            }
            _ => input.number(),
        }
    }

    fn name(&self, input: &mut Input<'_>, body: &mut Vec<u8>) {
        match input.u8() {
            known @ 0..=229 => body.extend_from_slice(NAMES[usize::from(known) % NAMES.len()]),
            long @ 230..=239 => body.resize(body.len() + 250 + usize::from(long - 230), b'n'),
            _ => {
                let len = usize::from(input.u8());
                body.extend_from_slice(input.bytes(len));
            }
        }
        // An unterminated name now and then.
        if !input.once_in(32) {
            body.push(0);
        }
    }

    fn xattr(&self, input: &mut Input<'_>, body: &mut Vec<u8>) {
        body.extend_from_slice(input.one_of(XATTRS));
        if !input.once_in(32) {
            body.push(0);
        }
    }

    /// What may follow the names of a request that creates something.
    fn extensions(&self, input: &mut Input<'_>, body: &mut Vec<u8>) {
        match input.u8() {
            0..=199 => {}
            200..=219 => {
                push(body, ExtHeader { size: 16, kind: FUSE_EXT_GROUPS });
                push(body, SuppGroups { nr_groups: input.one_of(&[1, 0, 2]) });
                push(body, input.number_u32());
            }
            220..=239 => {
                push(body, ExtHeader { size: 40, kind: 1 });
                push(body, Secctx { size: input.one_of(&[3, 7, 8, u32::MAX]), padding: 0 });
                body.extend_from_slice(b"security.selinux\0label\0");
                body.push(0);
            }
            _ => {
                let len = usize::from(input.u8());
                body.extend_from_slice(input.bytes(len));
            }
        }
    }

    fn body(&mut self, opcode: u32, input: &mut Input<'_>, payload: &mut usize) -> Vec<u8> {
        let mut body = Vec::new();
        let b = &mut body;
        match opcode {
            opcode::LOOKUP | opcode::UNLINK | opcode::RMDIR => self.name(input, b),
            opcode::FORGET => push(b, ForgetIn { nlookup: input.number() }),
            opcode::BATCH_FORGET => {
                let count = input.below(5);
                push(
                    b,
                    BatchForgetIn {
                        count: if input.once_in(8) { input.number_u32() } else { count as u32 },
                        dummy: 0,
                    },
                );
                for _ in 0..count {
                    push(b, ForgetOne { nodeid: self.node(input), nlookup: input.number() });
                }
            }
            opcode::GETATTR => {
                push(b, GetattrIn { getattr_flags: input.below(2) as u32, dummy: 0, fh: self.handle(input) });
            }
            opcode::SETATTR => push(
                b,
                SetattrIn {
                    valid: match input.u8() {
                        bit @ 0..=159 => 1 << (bit % 12),
                        _ => input.u16().into(),
                    },
                    fh: self.handle(input),
                    size: input.number(),
                    atime: input.number(),
                    mtime: input.number(),
                    mode: input.one_of(MODES),
                    uid: input.number_u32(),
                    gid: input.number_u32(),
                    ..SetattrIn::default()
                },
            ),
            opcode::SYMLINK => {
                self.name(input, b);
                b.extend_from_slice(input.one_of(&[
                    &b"file"[..],
                    b"../../canary",
                    b"/",
                    b"",
                    b"/proc/self/fd",
                    b"new",
                ]));
                b.push(0);
                self.extensions(input, b);
            }
            opcode::MKNOD => {
                push(
                    b,
                    MknodIn { mode: input.one_of(MODES), rdev: input.number_u32(), umask: 0o22, padding: 0 },
                );
                self.name(input, b);
                self.extensions(input, b);
            }
            opcode::MKDIR => {
                push(b, MkdirIn { mode: input.one_of(MODES), umask: input.one_of(&[0o22, 0, u32::MAX]) });
                self.name(input, b);
                self.extensions(input, b);
            }
            opcode::RENAME | opcode::RENAME2 => {
                let newdir = self.node(input);
                if opcode == opcode::RENAME {
                    push(b, RenameIn { newdir });
                } else {
                    push(
                        b,
                        Rename2In { newdir, flags: input.one_of(&[0, 1, 2, 4, 5, u32::MAX]), padding: 0 },
                    );
                }
                self.name(input, b);
                self.name(input, b);
            }
            opcode::LINK => {
                push(b, LinkIn { oldnodeid: self.node(input) });
                self.name(input, b);
            }
            opcode::OPEN | opcode::OPENDIR => {
                push(b, OpenIn { flags: flags(input), open_flags: input.below(2) as u32 })
            }
            opcode::CREATE | opcode::TMPFILE => {
                push(
                    b,
                    CreateIn {
                        flags: flags(input),
                        mode: input.one_of(MODES),
                        umask: 0o22,
                        open_flags: input.below(2) as u32,
                    },
                );
                self.name(input, b);
                self.extensions(input, b);
            }
            opcode::READ | opcode::READDIR | opcode::READDIRPLUS => push(
                b,
                ReadIn {
                    fh: self.handle(input),
                    offset: input.number(),
                    size: input.one_of(&[4096, 512, 0, 200, 64 << 10, 1 << 20, u32::MAX]),
                    flags: flags(input),
                    ..ReadIn::default()
                },
            ),
            opcode::WRITE => {
                *payload = input.one_of(&[512, 4096, 1, 0, 5000, 65536]);
                let size = if input.once_in(8) { input.number_u32() } else { *payload as u32 };
                push(
                    b,
                    WriteIn {
                        fh: self.handle(input),
                        offset: input.number(),
                        size,
                        write_flags: input.u8().into(),
                        flags: flags(input),
                        ..WriteIn::default()
                    },
                );
            }
            opcode::RELEASE | opcode::RELEASEDIR => {
                push(
                    b,
                    ReleaseIn {
                        fh: self.handle(input),
                        release_flags: input.below(4) as u32,
                        ..ReleaseIn::default()
                    },
                );
            }
            opcode::FLUSH => push(
                b,
                FlushIn { fh: self.handle(input), lock_owner: input.u8().into(), ..FlushIn::default() },
            ),
            opcode::FSYNC | opcode::FSYNCDIR => {
                push(b, FsyncIn { fh: self.handle(input), fsync_flags: input.below(2) as u32, padding: 0 });
            }
            opcode::SETXATTR => {
                let len = input.u8();
                let size = if input.once_in(16) { input.number_u32() } else { len.into() };
                push(b, SetxattrIn { size, flags: input.one_of(&[0, 1, 2, 3]) });
                if !input.once_in(8) {
                    push(b, SetxattrInExt { setxattr_flags: input.below(2) as u32, padding: 0 });
                }
                self.xattr(input, b);
                b.extend_from_slice(input.bytes(len.into()));
            }
            opcode::GETXATTR | opcode::LISTXATTR => {
                push(b, GetxattrIn { size: input.one_of(&[0, 1, 64, 4096, 65536, u32::MAX]), padding: 0 });
                if opcode == opcode::GETXATTR {
                    self.xattr(input, b);
                }
            }
            opcode::REMOVEXATTR => self.xattr(input, b),
            opcode::GETLK | opcode::SETLK | opcode::SETLKW => push(
                b,
                LkIn {
                    fh: self.handle(input),
                    owner: input.below(4) as u64,
                    lk: FileLock {
                        start: input.number(),
                        end: input.number(),
                        kind: input.below(4) as u32,
                        pid: 1,
                    },
                    lk_flags: input.below(3) as u32,
                    padding: 0,
                },
            ),
            opcode::ACCESS => push(b, AccessIn { mask: input.u8().into(), padding: 0 }),
            opcode::IOCTL => {
                let len = input.below(64);
                let in_size = if input.once_in(16) { input.number_u32() } else { len as u32 };
                push(
                    b,
                    IoctlIn {
                        fh: self.handle(input),
                        flags: input.below(4) as u32,
                        cmd: input.one_of(IOCTLS),
                        arg: input.number(),
                        in_size,
                        out_size: input.one_of(&[0, 4, 8, 28, 4096, u32::MAX]),
                    },
                );
                b.extend_from_slice(input.bytes(len));
            }
            opcode::FALLOCATE => push(
                b,
                FallocateIn {
                    fh: self.handle(input),
                    offset: input.number(),
                    length: input.number(),
                    mode: input.one_of(&[0, 1, 3, 0x10, 0x11, 8, 0x20, 0x40, u32::MAX]),
                    padding: 0,
                },
            ),
            opcode::LSEEK => {
                push(
                    b,
                    LseekIn {
                        fh: self.handle(input),
                        offset: input.number(),
                        whence: input.below(6) as u32,
                        padding: 0,
                    },
                );
            }
            opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => push(
                b,
                CopyFileRangeIn {
                    fh_in: self.handle(input),
                    off_in: input.number(),
                    nodeid_out: self.node(input),
                    fh_out: self.handle(input),
                    off_out: input.number(),
                    len: input.number(),
                    flags: input.once_in(8).into(),
                },
            ),
            opcode::STATX => push(
                b,
                abi::StatxIn {
                    getattr_flags: input.below(2) as u32,
                    fh: self.handle(input),
                    sx_flags: input.one_of(&[0, 0x2000, 0x4000, 0x6000, u32::MAX]),
                    sx_mask: input.one_of(&[0x7ff, 0, u32::MAX]),
                    ..abi::StatxIn::default()
                },
            ),
            opcode::INIT => {
                push(
                    b,
                    InitIn {
                        major: input.one_of(&[7, 7, 7, 6, 8]),
                        minor: input.one_of(&[45, 31, 36, 44, 99, 30, 0]),
                        max_readahead: input.number_u32(),
                        flags: if input.once_in(2) { u32::MAX } else { input.u32() },
                    },
                );
                push(
                    b,
                    InitInExt {
                        flags2: if input.once_in(2) { u32::MAX } else { input.u32() },
                        ..InitInExt::default()
                    },
                );
            }
            opcode::EXTENT_DEVICE => {
                push(b, abi::extents::ExtentDeviceIn { index: input.number_u32(), zero: 0 });
            }
            opcode::IOMAP_CONFIG => {
                push(b, IomapConfigIn { flags: input.u8().into(), ..IomapConfigIn::default() })
            }
            opcode::IOMAP_BEGIN => push(
                b,
                IomapBeginIn {
                    opflags: input.one_of(&[0, 1, 2, 4, 0x11, 0x10, 0x80, 5, 0x20, u32::MAX]),
                    attr_ino: input.number(),
                    pos: input.number(),
                    count: input.number(),
                    reserved: 0,
                },
            ),
            opcode::IOMAP_END => push(
                b,
                IomapEndIn { opflags: input.u8().into(), pos: input.number(), ..IomapEndIn::default() },
            ),
            opcode::IOMAP_IOEND => push(
                b,
                IomapIoendIn {
                    flags: input.u8().into(),
                    pos: input.number(),
                    written: input.number(),
                    ..IomapIoendIn::default()
                },
            ),
            opcode::INTERRUPT => push(b, input.number()),
            _ => {
                let len = usize::from(input.u8());
                b.extend_from_slice(input.bytes(len));
            }
        }
        body
    }
}

fn flags(input: &mut Input<'_>) -> u32 {
    match input.u8() {
        common @ 0..=219 => OPEN_FLAGS[usize::from(common) % OPEN_FLAGS.len()] as u32,
        _ => input.u32(),
    }
}

/// Adds a part of a request to its body.
pub(crate) fn push<T: IntoBytes + Immutable>(body: &mut Vec<u8>, value: T) {
    body.extend_from_slice(value.as_bytes());
}
