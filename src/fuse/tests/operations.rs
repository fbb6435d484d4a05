//! Every operation: what reaches the file system, and what the answer holds.

use zerocopy::FromBytes;

use super::double::{Double, NAMES, REMOTE};
use super::message::{Length, Message, every_operation, mounted, mounted_with};
use crate::fuse::Handled;
use crate::fuse::abi::*;

#[test]
fn every_operation_has_the_length_that_guests_check() {
    for (message, length) in every_operation() {
        let answer = message.send(&mounted(), 1 << 16);
        let seen = answer.map(|(header, body)| (-header.error, body.len()));
        let expected = match length {
            Length::Fixed(len) | Length::Variable(len) => Some((0, len)),
            Length::None => None,
            Length::Errno(errno) => Some((errno, 0)),
        };
        assert_eq!(seen, expected, "{message:?}");
    }
}

#[test]
fn what_may_wait_on_a_network_file_system_leaves_the_ring() {
    let server = mounted();
    for (mut message, length) in every_operation() {
        let slow = [opcode::READDIR, opcode::READDIRPLUS, opcode::FLUSH, opcode::RELEASE];
        let on = |node: u64, message: &mut Message| {
            message.header.nodeid = node;
            let handled = server.handle(&message.head(), 0, 1 << 16, &mut Vec::new());
            matches!(handled, Handled::Blocking)
        };
        if slow.contains(&message.header.opcode) {
            assert!(!on(7, &mut message), "{message:?}");
            assert!(on(REMOTE.0, &mut message), "{message:?}");
            let (Length::Fixed(len) | Length::Variable(len)) = length else { panic!("{message:?}") };
            assert_eq!(message.send(&server, 1 << 16).unwrap().1.len(), len);
        } else if message.header.opcode == opcode::LOOKUP {
            assert!(!on(REMOTE.0, &mut message));
        }
    }
}

#[test]
fn names_are_checked_in_every_operation_that_takes_one() {
    let long = [b'x'; 256];
    for (message, _) in every_operation() {
        let (fixed, behind): (usize, &[u8]) = match message.header.opcode {
            opcode::LOOKUP | opcode::UNLINK | opcode::RMDIR => (0, b""),
            opcode::SYMLINK => (0, b"target\0"),
            opcode::MKNOD | opcode::CREATE => (16, b""),
            opcode::MKDIR | opcode::LINK => (8, b""),
            opcode::RENAME => (8, b"new\0"),
            opcode::RENAME2 => (16, b"new\0"),
            _ => continue,
        };
        for (name, errno) in
            [(&b""[..], 22), (b".", 22), (b"..", 22), (b"a/b", 22), (b"/", 22), (&long, 36), (b"...", 0)]
        {
            let server = mounted();
            let mut message = message.clone();
            message.body.truncate(fixed);
            let message = message.bytes(name).bytes(b"\0").bytes(behind);
            assert_eq!(message.errno(&server), errno, "{message:?}");
            assert_eq!(server.file_system().calls().is_empty(), errno != 0);
        }
    }
    // The second name too.
    let server = mounted();
    let rename = Message::new(opcode::RENAME).with(RenameIn { newdir: 2 }).bytes(b"old\0..\0");
    assert_eq!(rename.errno(&server), 22);
    // An attribute's name may be anything but empty or too long.
    let get = |name: &[u8]| {
        Message::new(opcode::GETXATTR).with(GetxattrIn::default()).bytes(name).bytes(b"\0").errno(&server)
    };
    assert_eq!((get(b""), get(&long), get(b"user.a/b")), (34, 34, 0));
}

#[test]
fn arguments_arrive() {
    for (message, call) in [
        (
            Message::new(opcode::RENAME2)
                .with(Rename2In { newdir: 2, flags: 3, padding: 0 })
                .bytes(b"old\0new\0"),
            "rename(Caller { uid: 1000, gid: 100, pid: 5 }, NodeId(1), Name(\"old\"), NodeId(2), Name(\"new\"), 3)",
        ),
        (
            Message::new(opcode::LINK).with(LinkIn { oldnodeid: 3 }).bytes(b"name\0"),
            "link(NodeId(3), NodeId(1), Name(\"name\"))",
        ),
        (
            Message::new(opcode::OPEN).with(OpenIn { flags: 0o1002, open_flags: FUSE_OPEN_KILL_SUIDGID }),
            "open(Caller { uid: 1000, gid: 100, pid: 5 }, NodeId(1), 514, true)",
        ),
        (
            Message::new(opcode::GETATTR).with(GetattrIn { getattr_flags: FUSE_GETATTR_FH, dummy: 0, fh: 6 }),
            "getattr(NodeId(1), Some(Fh(6)))",
        ),
        (
            Message::new(opcode::STATX).with(StatxIn {
                fh: 6,
                sx_flags: 1,
                sx_mask: 2,
                ..StatxIn::default()
            }),
            "statx(NodeId(1), None, 1, 2)",
        ),
        (
            Message::new(opcode::RELEASE).with(ReleaseIn {
                fh: 4,
                flags: 0,
                release_flags: FUSE_RELEASE_FLOCK_UNLOCK,
                lock_owner: 8,
            }),
            "release(NodeId(1), Release { fh: Fh(4), lock_owner: None, flock_unlock: true })",
        ),
        (
            Message::new(opcode::SETXATTR)
                .with(SetxattrIn { size: 2, flags: 1 })
                .with(SetxattrInExt { setxattr_flags: FUSE_SETXATTR_ACL_KILL_SGID, padding: 0 })
                .bytes(b"user.a\0xy"),
            "setxattr(Caller { uid: 1000, gid: 100, pid: 5 }, NodeId(1), \"user.a\", [120, 121], 1, true)",
        ),
        (
            Message::new(opcode::FSYNC).with(FsyncIn { fh: 4, fsync_flags: 1, padding: 0 }),
            "fsync(NodeId(1), Fh(4), true)",
        ),
    ] {
        let server = mounted();
        assert_eq!(message.errno(&server), 0, "{message:?}");
        assert_eq!(server.file_system().calls(), [call]);
    }
}

#[test]
fn copies_of_32_and_64_bits() {
    let range = CopyFileRangeIn { len: 1 << 33, ..CopyFileRangeIn::default() };
    let server = mounted();
    let (_, short) = Message::new(opcode::COPY_FILE_RANGE).with(range).send(&server, 64).unwrap();
    assert_eq!(WriteOut::read_from_bytes(&short).unwrap().size, 0xffff_f000);
    let (_, long) = Message::new(opcode::COPY_FILE_RANGE_64).with(range).send(&server, 64).unwrap();
    assert_eq!(CopyFileRangeOut::read_from_bytes(&long).unwrap().bytes_copied, 1 << 33);
}

#[test]
fn impossible_ranges_and_kinds_are_refused() {
    let server = mounted();
    let end = 1 << 63;
    let fallocate = |offset, length| {
        let range = FallocateIn { offset, length, ..FallocateIn::default() };
        Message::new(opcode::FALLOCATE).with(range).errno(&server)
    };
    assert_eq!(
        (fallocate(0, 0), fallocate(end, 1), fallocate(end - 1, 1), fallocate(end - 2, 1)),
        (22, 22, 27, 0)
    );
    let seek = |offset, whence| {
        Message::new(opcode::LSEEK).with(LseekIn { offset, whence, ..LseekIn::default() }).errno(&server)
    };
    assert_eq!((seek(0, 0), seek(0, u32::MAX), seek(end, 3), seek(0, 4)), (22, 22, 22, 0));
    let lock = |opcode, start, end, kind| {
        let lk = FileLock { start, end, kind, pid: 0 };
        Message::new(opcode).with(LkIn { lk, ..LkIn::default() }).errno(&server)
    };
    assert_eq!(lock(opcode::SETLK, 2, 1, F_RDLCK), 22);
    assert_eq!(lock(opcode::SETLK, 0, end, F_RDLCK), 22);
    assert_eq!(lock(opcode::SETLK, 0, 1, 3), 22);
    assert_eq!(lock(opcode::SETLKW, 0, 1, 3), 22);
    assert_eq!(lock(opcode::SETLK, 0, end - 1, F_UNLCK), 0);
    assert_eq!(lock(opcode::GETLK, 0, end - 1, F_UNLCK), 22);
    let unrestricted = IoctlIn { flags: FUSE_IOCTL_UNRESTRICTED, ..IoctlIn::default() };
    assert_eq!(Message::new(opcode::IOCTL).with(unrestricted).errno(&server), 25);
    let big = SetxattrIn { size: 65537, flags: 0 };
    let set = Message::new(opcode::SETXATTR).with(big).with(SetxattrInExt::default()).bytes(b"user.a\0");
    assert_eq!(set.bytes(&[0; 65537]).errno(&server), 7);
}

#[test]
fn forgets_are_counted() {
    let server = mounted();
    // Three are announced, two are there.
    Message::new(opcode::BATCH_FORGET)
        .with(BatchForgetIn { count: 3, dummy: 0 })
        .with(ForgetOne { nodeid: 4, nlookup: 2 })
        .with(ForgetOne { nodeid: 5, nlookup: u64::MAX })
        .send(&server, 0);
    Message::new(opcode::FORGET).with(ForgetIn { nlookup: 6 }).send(&server, 0);
    assert_eq!(
        server.file_system().calls(),
        ["forget(4, 2)", "forget(5, 18446744073709551615)", "forget(1, 6)"]
    );
}

#[test]
fn ioctl_results_precede_the_data() {
    let ioctl = IoctlIn { in_size: 2, out_size: 4, ..IoctlIn::default() };
    let message = Message::new(opcode::IOCTL).with(ioctl).bytes(b"ab");
    let (_, body) = message.send(&mounted(), 64).unwrap();
    let (out, data) = IoctlOut::read_from_prefix(&body).unwrap();
    assert_eq!((out.result, out.flags, data), (3, 0, &[0xee; 4][..]));
    assert_eq!(message.send(&mounted(), 16 + 16 + 3).unwrap().0.error, -22, "no room for the data");
}

/// Cookie, name and, in READDIRPLUS, node.
type Listed = (u64, Vec<u8>, Option<u64>);

fn list(double: Double, opcode: u32, size: u32, room: usize) -> (i32, Vec<Listed>) {
    let read = ReadIn { size, ..ReadIn::default() };
    let (header, body) = Message::new(opcode).with(read).send(&mounted_with(double), room).unwrap();
    let mut entries = Vec::new();
    let mut rest = &body[..];
    while !rest.is_empty() {
        let mut node = None;
        if opcode == opcode::READDIRPLUS {
            let entry;
            (entry, rest) = EntryOut::read_from_prefix(rest).unwrap();
            node = Some(entry.nodeid);
        }
        let (dirent, behind) = Dirent::read_from_prefix(rest).unwrap();
        assert_eq!(dirent.ino, 99 + dirent.off);
        assert_eq!(dirent.kind, 8);
        let len = usize::try_from(dirent.namelen).unwrap();
        entries.push((dirent.off, behind[..len].to_vec(), node));
        let padded = len.next_multiple_of(8);
        assert!(behind[len..padded].iter().all(|byte| *byte == 0));
        rest = &behind[padded..];
    }
    (-header.error, entries)
}

#[test]
fn directories_are_listed_entry_by_entry() {
    let (errno, entries) = list(Double::new(), opcode::READDIR, 4096, 1 << 16);
    assert_eq!(errno, 0);
    assert_eq!(entries.iter().map(|(_, name, _)| &name[..]).collect::<Vec<_>>(), NAMES);
    let (_, entries) = list(Double::new(), opcode::READDIRPLUS, 4096, 1 << 16);
    assert_eq!(entries[0], (1, b".".to_vec(), Some(0)), "no LOOKUP was done");
    assert_eq!(entries[1], (2, b"a".to_vec(), Some(7)));
}

#[test]
fn listings_end_at_the_size_and_at_the_room() {
    // Entries of 32, 32, 32 and 40 bytes; 128 more each in READDIRPLUS.
    for (opcode, size, room, count) in [
        (opcode::READDIR, 136, 4096, 4),
        (opcode::READDIR, 135, 4096, 3),
        (opcode::READDIR, 96, 4096, 3),
        (opcode::READDIR, 95, 4096, 2),
        (opcode::READDIR, 32, 4096, 1),
        (opcode::READDIR, 4096, 16 + 64, 2),
        (opcode::READDIR, u32::MAX, 16 + 63, 1),
        (opcode::READDIRPLUS, 320, 4096, 2),
        (opcode::READDIRPLUS, 319, 4096, 1),
    ] {
        let (errno, entries) = list(Double::new(), opcode, size, room);
        assert_eq!((errno, entries.len()), (0, count), "{opcode} {size} {room}");
    }
    // Nothing fits: an empty answer would be the end.
    assert_eq!(list(Double::new(), opcode::READDIR, 31, 4096).0, 22);
    assert_eq!(list(Double::new(), opcode::READDIR, 4096, 16).0, 22);
}

#[test]
fn an_error_does_not_swallow_the_entries_before_it() {
    let failing = |fail_after| Double::failing_after(fail_after);
    assert_eq!(list(failing(2), opcode::READDIRPLUS, 4096, 4096).1.len(), 2);
    assert_eq!(list(failing(0), opcode::READDIRPLUS, 4096, 4096), (116, Vec::new()));
}
