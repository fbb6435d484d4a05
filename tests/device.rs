//! The vhost-user device under a synthetic front-end: rings, memory, starting and stopping, and
//! everything that a driver may do wrong.
#![allow(clippy::cast_possible_truncation, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod frontend;

use std::os::unix::fs::FileExt;

use frontend::fuse::{self, Body, Client, ROOT};
use frontend::guest::PATIENCE;
use frontend::ram::{BASE, REGION};
use frontend::virtq::{Descriptor, INDIRECT, NEXT, WRITE};
use frontend::{Daemon, Guest, GuestConfig};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

/// Options under which a test needs no privileges and no sandbox.
const PLAIN: &[&str] = &["--sandbox", "none"];

fn mounted(daemon: &Daemon, config: GuestConfig) -> Client {
    Client::mount(Guest::connect(&daemon.socket(), config))
}

/// Bytes that tell their own position.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 5) as u8).collect()
}

#[test]
fn files_pass_through_every_kind_of_ring() {
    for queue_size in [8, 256, 1024] {
        for (event_idx, indirect, memory_slots) in
            [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
        {
            let config = GuestConfig { request_queues: 2, queue_size, event_idx, indirect, memory_slots };
            let daemon = Daemon::start(PLAIN);
            let mut client = mounted(&daemon, config);
            let data = pattern(300_000, queue_size.into());
            let (node, fh) = client.create(ROOT, "file").expect("CREATE");
            assert_eq!(client.write(node, fh, 0, &data), Ok(300_000), "{config:?}");
            client.queue = 2;
            assert_eq!(client.read(node, fh, 1000, 250_000).as_deref(), Ok(&data[1000..251_000]));
            assert_eq!(client.read(node, fh, 299_990, 4096).as_deref(), Ok(&data[299_990..]), "short at EOF");
            assert_eq!(client.read(node, fh, 300_000, 4096).as_deref(), Ok(&[][..]), "nothing behind EOF");
            client.release(node, fh).expect("RELEASE");
            client.forget(node, 1);
            assert_eq!(std::fs::read(daemon.share().join("file")).expect("host file"), data);
        }
    }
}

#[test]
fn the_rings_wrap_many_times() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig { queue_size: 4, ..GuestConfig::default() });
    for _ in 0..70_000 {
        client.call(fuse::GETATTR, ROOT, Body::new().u32(0).u32(0).u64(0), 104).expect("GETATTR");
    }
}

#[test]
fn buffers_may_cross_memory_regions() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    let data = pattern(64 << 10, 7);
    let border = BASE + REGION;
    // A request whose head crosses, whose payload crosses, and an answer whose header crosses.
    for before in [8, 45, 4096, 10_000] {
        let request = fuse::message(
            fuse::WRITE,
            99,
            node,
            0,
            0,
            &Body::new().u64(fh).u64(0).u32(data.len() as u32).u32(0).u64(0).u32(2).u32(0).bytes(&data).0,
        );
        client.guest.ram.write(border - before, &request);
        let room = client.guest.ram.alloc(24);
        client.guest.offer(1, &[(border - before, request.len() as u32, false), (room, 24, true)]);
        assert_eq!(client.guest.take_used(1).1, 24);
        assert_eq!(std::fs::read(daemon.share().join("file")).expect("host file"), data);

        let read = Body::new().u64(fh).u64(0).u32(data.len() as u32).u32(0).u64(0).u32(0).u32(0);
        let request = fuse::message(fuse::READ, 98, node, 0, 0, &read.0);
        let at = client.guest.ram.alloc(request.len() as u64);
        client.guest.ram.write(at, &request);
        let room = data.len() as u32 + 16;
        client.guest.offer(1, &[(at, request.len() as u32, false), (border - before, room, true)]);
        assert_eq!(client.guest.take_used(1).1, room);
        let answer = client.guest.ram.read(border - before, room as usize);
        assert_eq!(fuse::check_answer(&answer, 98).as_deref(), Ok(&data[..]));
    }
}

#[test]
fn requests_may_lie_in_many_small_buffers() {
    let daemon = Daemon::start(PLAIN);
    let config = GuestConfig { queue_size: 4096, indirect: true, ..GuestConfig::default() };
    let mut client = mounted(&daemon, config);
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    let data = pattern(3000 * 32, 3);
    client.write(node, fh, 0, &data).expect("WRITE");
    let read = Body::new().u64(fh).u64(0).u32(data.len() as u32).u32(0).u64(0).u32(0).u32(0);
    let request = fuse::message(fuse::READ, 5, node, 0, 0, &read.0);
    let at = client.guest.ram.alloc(request.len() as u64);
    client.guest.ram.write(at, &request);
    // The request in pieces of 7 bytes; room for the header and 3000 pieces of data, more than IOV_MAX.
    let mut buffers: Vec<_> = (0..request.len() as u64)
        .step_by(7)
        .map(|i| (at + i, 7.min(request.len() as u32 - i as u32), false))
        .collect();
    let header = client.guest.ram.alloc(16);
    buffers.push((header, 16, true));
    let room = client.guest.ram.alloc(data.len() as u64);
    buffers.extend((0..3000).map(|i| (room + 32 * i, 32, true)));
    client.guest.offer(1, &buffers);
    assert_eq!(client.guest.take_used(1).1 as usize, data.len() + 16);
    assert_eq!(client.guest.ram.read(room, data.len()), data);
}

#[test]
fn a_stopped_queue_has_answered_everything_and_goes_on_where_it_was() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig { queue_size: 256, ..GuestConfig::default() });
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    client.write(node, fh, 0, &pattern(1 << 20, 1)).expect("WRITE");
    let mut base = 0;
    for round in 0..20 {
        let mark = client.guest.ram.mark();
        let fsync = fuse::message(fuse::FSYNC, 6, node, 0, 0, &Body::new().u64(fh).u32(0).u32(0).0);
        let read = Body::new().u64(fh).u64(0).u32(65536).u32(0).u64(0).u32(0).u32(0);
        let read = fuse::message(fuse::READ, 6, node, 0, 0, &read.0);
        for i in 0..40 {
            let request = if i % 8 == 0 { &fsync } else { &read };
            let at = client.guest.ram.alloc(request.len() as u64);
            client.guest.ram.write(at, request);
            let room = client.guest.ram.alloc(65552);
            client.guest.offer(1, &[(at, request.len() as u32, false), (room, 65552, true)]);
        }
        base = client.guest.stop_queue(1);
        // What was taken is answered; what was not is still there for the next start.
        client.guest.start_queue_lenient(1, base);
        for i in 0..40 {
            let (_, len) = client.guest.take_used(1);
            assert!(len == 16 || len == 65552, "round {round}, answer {i}: length {len}");
        }
        client.guest.ram.rewind(mark);
    }
    assert!(base > 0);
    assert_eq!(client.read(node, fh, 0, 4096).map(|data| data.len()), Ok(4096));
}

#[test]
fn a_payload_outside_memory_is_an_error_of_that_request_only() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    client.write(node, fh, 0, b"before").expect("WRITE");
    // User-Mode Linux sends its zero page from outside the memory that it shares.
    let head = Body::new().u64(fh).u64(0).u32(4096).u32(0).u64(0).u32(2).u32(0);
    let mut request = fuse::message(fuse::WRITE, 11, node, 0, 0, &head.0);
    request[..4].copy_from_slice(&(80_u32 + 4096).to_le_bytes());
    let at = client.guest.ram.alloc(80);
    client.guest.ram.write(at, &request);
    let room = client.guest.ram.alloc(24);
    client.guest.offer(1, &[(at, 80, false), (0x1000, 4096, false), (room, 24, true)]);
    let (_, len) = client.guest.take_used(1);
    let answer = client.guest.ram.read(room, len as usize);
    assert_eq!(fuse::check_answer(&answer, 11), Err(libc::EFAULT));
    assert_eq!(client.read(node, fh, 0, 4096).as_deref(), Ok(&b"before"[..]), "nothing was written");

    let read = Body::new().u64(fh).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
    client.guest.ram.write(at, &fuse::message(fuse::READ, 12, node, 0, 0, &read.0));
    client.guest.offer(1, &[(at, 80, false), (room, 16, true), (u64::MAX - 100, 4096, true)]);
    let (_, len) = client.guest.take_used(1);
    let answer = client.guest.ram.read(room, len as usize);
    assert_eq!(fuse::check_answer(&answer, 12), Err(libc::EFAULT));
    client.lookup(ROOT, "file").expect("the device goes on");
}

/// Chains that no driver may build. Each must come back, unanswered, and the device must go on.
#[test]
fn malformed_chains_come_back_and_the_device_goes_on() {
    let mut daemon = Daemon::start(PLAIN);
    let mut client =
        mounted(&daemon, GuestConfig { queue_size: 16, indirect: false, ..GuestConfig::default() });
    let ok = client.guest.ram.alloc(4096);
    client.guest.ram.write(ok, &fuse::message(fuse::GETATTR, 3, ROOT, 0, 0, &[0; 16]));
    let d = |addr, len, flags, next| Descriptor { addr, len, flags, next };
    let table = client.guest.ram.alloc(4096);
    let cases: &[(&str, &[Descriptor])] = &[
        ("loop of one", &[d(ok, 56, NEXT, 0)]),
        ("loop of two", &[d(ok, 56, NEXT, 1), d(ok, 56, NEXT, 0)]),
        ("next out of range", &[d(ok, 56, NEXT, 16)]),
        ("next far out of range", &[d(ok, 56, NEXT, 0xffff)]),
        ("readable behind writable", &[d(ok, 512, NEXT | WRITE, 1), d(ok, 56, 0, 0)]),
        ("head outside memory", &[d(0, 56, NEXT, 1), d(ok, 512, WRITE, 0)]),
        ("head wraps the address space", &[d(u64::MAX - 8, 56, NEXT, 1), d(ok, 512, WRITE, 0)]),
        ("nothing readable", &[d(ok, 512, WRITE, 0)]),
        ("empty request", &[d(ok, 0, NEXT, 1), d(ok, 512, WRITE, 0)]),
        ("half a header", &[d(ok, 20, NEXT, 1), d(ok + 512, 512, WRITE, 0)]),
        ("no room", &[d(ok, 56, 0, 0)]),
        ("room for half a header", &[d(ok, 56, NEXT, 1), d(ok + 512, 8, WRITE, 0)]),
        ("indirect, not negotiated", &[d(table, 32, INDIRECT, 0)]),
    ];
    malformed(&mut client, cases);
    assert!(daemon.is_running());

    let mut daemon = Daemon::start(PLAIN);
    let mut client =
        mounted(&daemon, GuestConfig { queue_size: 16, indirect: true, ..GuestConfig::default() });
    let ok = client.guest.ram.alloc(4096);
    client.guest.ram.write(ok, &fuse::message(fuse::GETATTR, 3, ROOT, 0, 0, &[0; 16]));
    let table = client.guest.ram.alloc(4096);
    let nested = client.guest.ram.alloc(64);
    client.guest.ram.write(nested, &d(table, 32, INDIRECT, 0).bytes());
    let looped = client.guest.ram.alloc(64);
    client.guest.ram.write(looped, &d(ok, 56, NEXT, 0).bytes());
    let cases: &[(&str, &[Descriptor])] = &[
        ("indirect table of no length", &[d(table, 0, INDIRECT, 0)]),
        ("indirect table of odd length", &[d(table, 17, INDIRECT, 0)]),
        ("indirect table outside memory", &[d(0x10, 32, INDIRECT, 0)]),
        ("indirect table behind memory", &[d(BASE + 2 * REGION - 16, 32, INDIRECT, 0)]),
        ("indirect table of impossible length", &[d(table, 0xffff_fff0, INDIRECT, 0)]),
        ("indirect inside indirect", &[d(nested, 16, INDIRECT, 0)]),
        ("indirect table with a loop", &[d(looped, 16, INDIRECT, 0)]),
    ];
    malformed(&mut client, cases);
    assert!(daemon.is_running());
}

fn malformed(client: &mut Client, cases: &[(&str, &[Descriptor])]) {
    for (name, descriptors) in cases {
        // Table entries 0.. of the queue: the client is idle, so none of its own are in flight.
        for (index, descriptor) in descriptors.iter().enumerate() {
            client.guest.queues[1].set_descriptor(&client.guest.ram, index as u16, *descriptor);
        }
        client.guest.queues[1].offer(&client.guest.ram, 0);
        let used = client.guest.queues[1].take_used(&client.guest.ram, PATIENCE);
        let Some((head, len)) = used else { panic!("{name}: the chain did not come back") };
        assert_eq!((head, len), (0, 0), "{name}");
        client.call(fuse::GETATTR, ROOT, Body::new().u32(0).u32(0).u64(0), 104).expect(name);
    }
}

#[test]
fn requests_cut_short_are_refused_and_the_device_goes_on() {
    let mut daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    let body = Body::new().u64(fh).u64(0).u64(64).u64(fh).u64(0).u64(0).bytes(b"name\0other\0");
    for opcode in (1..=60).chain([4092, 4095, 4096, u32::MAX]) {
        // DESTROY and INIT end the mount; FORGET and the like have no answer.
        if [fuse::INIT, fuse::DESTROY, fuse::FORGET, 36, 41, 42].contains(&opcode) {
            continue;
        }
        for len in 0..body.0.len() {
            let request = fuse::message(opcode, 7, ROOT, 0, 0, &body.0[..len]);
            let answer = client.guest.exchange(1, &request, 4096);
            if !answer.is_empty() {
                let _ = fuse::check_answer(&answer, 7);
            }
        }
    }
    assert!(daemon.is_running());
    client.lookup(ROOT, "file").expect("the device goes on");
    let _ = (node, fh);
}

#[test]
fn wrong_nodes_handles_names_and_opcodes_get_an_errno() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    for wild in [0, 999_999, u64::MAX] {
        assert!(client.lookup(wild, "file").is_err());
        assert!(client.call(fuse::GETATTR, wild, Body::new().u32(0).u32(0).u64(0), 104).is_err());
        assert!(client.open(wild, libc::O_RDONLY).is_err());
        assert_eq!(client.read(node, fh ^ wild ^ 0x55, 0, 16), Err(libc::EBADF), "fh {wild}");
    }
    assert_eq!(client.call(4096, ROOT, Body::new(), 64), Err(libc::ENOSYS));
    assert!(client.read(node, fh, 1 << 63, 16).is_err());
    assert!(client.write(node, fh, u64::MAX - 4, b"data").is_err());
    for bad in ["", ".", "..", "/", "a/b", "/etc/passwd", "../outside"] {
        assert!(client.lookup(ROOT, bad).is_err(), "LOOKUP {bad:?}");
        assert!(client.mkdir(ROOT, bad).is_err(), "MKDIR {bad:?}");
        assert!(client.create(ROOT, bad).is_err(), "CREATE {bad:?}");
        assert!(client.call(fuse::UNLINK, ROOT, Body::new().name(bad), 0).is_err(), "UNLINK {bad:?}");
        assert!(client.call(fuse::RMDIR, ROOT, Body::new().name(bad), 0).is_err(), "RMDIR {bad:?}");
        assert!(client.call(fuse::SYMLINK, ROOT, Body::new().name(bad).name("x"), 128).is_err());
        let mknod = Body::new().u32(0o100_644).u32(0).u32(0).u32(0).name(bad);
        assert!(client.call(fuse::MKNOD, ROOT, mknod, 128).is_err(), "MKNOD {bad:?}");
        assert!(client.call(fuse::LINK, ROOT, Body::new().u64(node).name(bad), 128).is_err());
        let rename = |from: &str, to: &str| Body::new().u64(ROOT).name(from).name(to);
        assert!(client.call(fuse::RENAME, ROOT, rename("file", bad), 0).is_err(), "RENAME to {bad:?}");
        assert!(client.call(fuse::RENAME, ROOT, rename(bad, "new"), 0).is_err(), "RENAME of {bad:?}");
    }
    let long = "n".repeat(256);
    assert_eq!(client.mkdir(ROOT, &long), Err(libc::ENAMETOOLONG));
    let entries: Vec<_> = std::fs::read_dir(daemon.outside()).expect("outside").collect();
    assert!(entries.iter().flatten().all(|entry| {
        let name = entry.file_name();
        name == "share" || name == "socket" || name == "socket.pid"
    }));
    assert_eq!(std::fs::read_dir(daemon.share()).expect("share").count(), 1);
}

#[test]
fn the_configuration_space_has_the_tag_and_the_number_of_queues() {
    let daemon = Daemon::start(&["--sandbox", "none", "--tag", "files", "--queues", "5"]);
    let mut guest =
        Guest::connect(&daemon.socket(), GuestConfig { request_queues: 5, ..GuestConfig::default() });
    assert_eq!(guest.frontend.get_queue_num().expect("GET_QUEUE_NUM"), 6);
    let (_, space) =
        guest.frontend.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]).expect("GET_CONFIG");
    assert_eq!(&space[..6], b"files\0");
    assert_eq!(fuse::u32_at(&space, 36), 5);
    assert!(space[40..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disconnect_ends_the_daemon() {
    let mut daemon = Daemon::start(PLAIN);
    let socket = daemon.socket();
    drop(mounted(&daemon, GuestConfig::default()));
    assert_eq!(daemon.wait_exit(), Some(0));
    daemon.wait_for_log("Client disconnected, shutting down");
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn with_keep_listening_the_next_guest_finds_a_clean_device() {
    let daemon = Daemon::start(&["--sandbox", "none", "--keep-listening"]);
    let mut idle = None;
    for round in 0..4 {
        let mut client = mounted(&daemon, GuestConfig::default());
        assert!(client.open(2, libc::O_RDONLY).is_err(), "round {round}: a node of the last guest");
        for i in 0..50 {
            client.create(ROOT, &format!("file-{round}-{i}")).expect("CREATE");
        }
        drop(client);
        // The daemon says so when it is ready for the next one.
        let waiting = "Waiting for vhost-user socket connection...";
        while daemon.log().matches(waiting).count() < round + 2 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let open = daemon.descriptors();
        assert_eq!(*idle.get_or_insert(open), open, "round {round}: descriptors were left open");
    }
}

#[test]
fn a_reset_device_starts_anew() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    client.guest.frontend.reset_device().expect("RESET_DEVICE");
    client.guest.frontend.set_features(client.guest.features()).expect("SET_FEATURES");
    for index in 0..client.guest.queues.len() {
        client.guest.renew_queue(index);
    }
    assert!(client.call(fuse::GETATTR, ROOT, Body::new().u32(0).u32(0).u64(0), 104).is_err(), "not mounted");
    client.init().expect("INIT");
    assert_eq!(client.read(node, fh, 0, 16), Err(libc::EBADF));
    client.lookup(ROOT, "file").expect("LOOKUP");
}

#[test]
fn destroy_is_answered_and_a_second_mount_works() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    assert_eq!(client.call(fuse::DESTROY, 0, Body::new(), 0), Ok(vec![]));
    client.init().expect("INIT");
    assert!(client.read(node, fh, 0, 16).is_err(), "a handle outlived its mount");
    client.lookup(ROOT, "file").expect("LOOKUP");
}

#[test]
fn refused_messages_leave_the_connection_usable() {
    let daemon = Daemon::start(PLAIN);
    let mut client = mounted(&daemon, GuestConfig::default());
    assert!(client.guest.frontend.set_vring_num(1, 256).is_err(), "size of a running ring");
    assert!(client.guest.frontend.set_features(1 << 40).is_err(), "features that were not offered");
    client.lookup(ROOT, "file").expect_err("no such file, but an answer");
    assert_eq!(client.lookup(ROOT, "file").map(drop), Err(libc::ENOENT));
}

#[test]
fn many_requests_in_flight_come_back_whole() {
    let daemon = Daemon::start(PLAIN);
    let mut client =
        mounted(&daemon, GuestConfig { queue_size: 512, indirect: true, ..GuestConfig::default() });
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    let host = std::fs::OpenOptions::new().write(true).open(daemon.share().join("file")).expect("host file");
    let data = pattern(4 << 20, 9);
    host.write_all_at(&data, 0).expect("host write");
    let mut rooms = std::collections::HashMap::new();
    for i in 0..200_u64 {
        let offset = i * 20_000;
        let read = Body::new().u64(fh).u64(offset).u32(16_384).u32(0).u64(0).u32(0).u32(0);
        let request = fuse::message(fuse::READ, 1000 + i, node, 0, 0, &read.0);
        let at = client.guest.ram.alloc(request.len() as u64);
        client.guest.ram.write(at, &request);
        let room = client.guest.ram.alloc(16_400);
        let head = client.guest.offer(1, &[(at, request.len() as u32, false), (room, 16_400, true)]);
        assert!(rooms.insert(u32::from(head), (i, offset, room)).is_none());
    }
    for _ in 0..200 {
        let (head, len) = client.guest.take_used(1);
        let (i, offset, room) = rooms.remove(&head).expect("a head that is in flight");
        let answer = client.guest.ram.read(room, len as usize);
        let from = offset as usize;
        assert_eq!(fuse::check_answer(&answer, 1000 + i).as_deref(), Ok(&data[from..from + 16_384]));
    }
}
