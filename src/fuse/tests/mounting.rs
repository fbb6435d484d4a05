//! INIT, DESTROY and what lies between.

use zerocopy::FromBytes;

use super::double::Double;
use super::message::{Length, Message, every_operation, init, mounted};
use crate::fuse::abi::*;
use crate::fuse::{Handled, Server};

fn initialised(minor: u32) -> (InitOut, u64) {
    let (header, body) = init(minor).send(&Server::new(Double::new()), 80).unwrap();
    assert_eq!((header.error, header.len), (0, 80));
    let out = InitOut::read_from_bytes(&body).unwrap();
    (out, u64::from(out.flags) | u64::from(out.flags2) << 32)
}

#[test]
fn each_guest_gets_its_minor_and_its_flags() {
    for (guest, minor, has, lacks) in [
        (31, 31, FUSE_MAX_PAGES, FUSE_SUBMOUNTS | FUSE_INIT_EXT | FUSE_SECURITY_CTX),
        (38, 38, FUSE_INIT_EXT | FUSE_CREATE_SUPP_GROUP, FUSE_DIRECT_IO_ALLOW_MMAP),
        (41, 41, FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_ALLOW_IDMAP, FUSE_PASSTHROUGH),
        (45, 45, FUSE_ALLOW_IDMAP, FUSE_REQUEST_TIMEOUT),
        (46, 46, FUSE_ALLOW_IDMAP, FUSE_HAS_IO_URING_BUFPOOL),
        (60, 46, FUSE_ALLOW_IDMAP, FUSE_HAS_IO_URING_BUFPOOL | 1 << 44),
    ] {
        let (out, flags) = initialised(guest);
        assert_eq!((out.major, out.minor), (7, minor));
        assert_eq!((flags & has, flags & lacks), (has, 0), "guest 7.{guest}");
        assert_eq!((out.map_alignment, out.request_timeout, out.max_stack_depth), (0, 0, 0));
    }
}

#[test]
fn a_guest_before_7_36_sends_a_short_init() {
    let server = Server::new(Double::new());
    let flags = !u32::try_from(FUSE_INIT_EXT).unwrap();
    let short = InitIn { major: 7, minor: 35, max_readahead: 0, flags };
    assert_eq!(Message::new(opcode::INIT).with(short).errno(&server), 0);
    // One that announces a second word must send it.
    let server = Server::new(Double::new());
    let cut = InitIn { flags: u32::MAX, minor: 36, ..short };
    assert_eq!(Message::new(opcode::INIT).with(cut).errno(&server), 22);
    assert!(server.file_system().calls().is_empty());
}

#[test]
fn versions_that_we_do_not_speak() {
    let server = Server::new(Double::new());
    assert_eq!(init(30).errno(&server), 71, "EPROTO");
    let major = |major| Message::new(opcode::INIT).with(InitIn { major, minor: 45, ..InitIn::default() });
    assert_eq!(major(6).errno(&server), 71);
    // A newer guest is told our version and asks again.
    let (header, body) = major(8).send(&server, 80).unwrap();
    assert_eq!((header.error, header.len), (0, 80));
    assert_eq!(InitOut::read_from_bytes(&body).unwrap().major, 7);
    assert!(server.file_system().calls().is_empty());
    assert_eq!(Message::new(opcode::STATFS).errno(&server), 5, "still not mounted");
    assert_eq!(init(45).errno(&server), 0);
}

#[test]
fn nothing_is_served_without_a_mount() {
    let server = Server::new(Double::new());
    for (message, length) in every_operation() {
        if matches!(message.header.opcode, opcode::INIT | opcode::DESTROY) || length == Length::None {
            continue;
        }
        assert_eq!(message.errno(&server), 5, "{message:?}");
    }
    assert!(server.file_system().calls().iter().all(|call| call.starts_with("forget")));
}

#[test]
fn destroy_ends_the_mount() {
    let server = mounted();
    let destroy = Message::new(opcode::DESTROY);
    let handled = server.handle(&destroy.head(), 0, 16, &mut Vec::new());
    assert!(matches!(handled, Handled::Blocking));
    assert_eq!(destroy.send(&server, 16).unwrap().0.len, 16);
    assert_eq!(server.file_system().calls(), ["destroy"]);
    assert_eq!(Message::new(opcode::STATFS).errno(&server), 5);
    assert_eq!(init(45).errno(&server), 0, "and can be mounted again");
}

#[test]
fn a_guest_that_boots_again_gets_a_new_mount() {
    let server = mounted();
    let again = init(31);
    let handled = server.handle(&again.head(), 0, 80, &mut Vec::new());
    assert!(matches!(handled, Handled::Blocking), "the old mount's end may take long");
    assert!(server.file_system().calls().is_empty());
    assert_eq!(again.errno(&server), 0);
    let calls = server.file_system().calls();
    assert_eq!(calls[0], "destroy");
    assert!(calls[1].starts_with("init("));
    // What counts is what the new guest agreed upon: its SETXATTR is the short one.
    let set = Message::new(opcode::SETXATTR).with(SetxattrIn { size: 1, flags: 0 }).bytes(b"user.a\0x");
    assert_eq!(set.errno(&server), 0);
}

/// Else the second would find a file system that the first has not yet ended, and be ended by it.
#[test]
fn nobody_mounts_while_a_mount_ends() {
    let server = mounted();
    std::thread::scope(|scope| {
        let ending = server.file_system().ending.lock().unwrap();
        scope.spawn(|| server.reset());
        while server.file_system().calls().is_empty() {
            std::thread::yield_now();
        }
        let again = init(45);
        for _ in 0..2 {
            let handled = server.handle(&again.head(), 0, 80, &mut Vec::new());
            assert!(matches!(handled, Handled::Blocking), "{handled:?}");
        }
        let mounting = scope.spawn(|| init(45).errno(&server));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(server.file_system().calls().is_empty());
        drop(ending);
        assert_eq!(mounting.join().unwrap(), 0);
    });
    assert_eq!(server.file_system().calls().len(), 1, "there is no other mount to end");
    assert_eq!(Message::new(opcode::STATFS).errno(&server), 0);
}

#[test]
fn a_reset_ends_the_mount() {
    let server = mounted();
    server.cancel_waits();
    server.reset();
    assert_eq!(server.file_system().calls(), ["cancel_waits", "destroy"]);
    assert_eq!(Message::new(opcode::STATFS).errno(&server), 5);
}

#[test]
fn the_file_system_is_offered_what_it_could_have() {
    let server = Server::new(Double::new());
    init(45).errno(&server);
    let calls = server.file_system().calls();
    let offered = u64::from_str_radix(&calls[0]["init(0x".len()..calls[0].len() - 1], 16).unwrap();
    assert_eq!(offered & (FUSE_POSIX_ACL | FUSE_ALLOW_IDMAP), FUSE_POSIX_ACL | FUSE_ALLOW_IDMAP);
    assert_eq!(offered & (FUSE_PASSTHROUGH | FUSE_INIT_RESERVED | FUSE_HAS_IO_URING_BUFPOOL), 0);
}
