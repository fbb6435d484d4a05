//! A front-end that makes the files shorter that hold its guest's memory: its guest is lost, and nobody else.

use super::frontend::fuse::{Body, READ, ROOT, WRITE, check_answer, message};
use super::frontend::ram::{BASE, REGION};
use super::{Daemon, assert_no_panic, eventually, exercise, modes, wait_until_ready};

const REPORT: &str = "has made a file shorter";

#[test]
fn rings_without_memory_can_be_stopped_and_the_next_guest_is_served() {
    for sandbox in modes() {
        let daemon = Daemon::start(&["--sandbox", sandbox, "--keep-listening"]);
        let mut client = exercise(&daemon, "before");
        client.guest.ram.cut(0, 0);
        client.guest.ram.cut(1, 0);
        for queue in &client.guest.queues {
            queue.kick.write(1).expect("kick");
        }
        eventually("it noticed", || daemon.log().contains(REPORT));
        for queue in 0..client.guest.queues.len() {
            client.guest.stop_queue(queue);
        }
        drop(client);
        wait_until_ready(&daemon, 2);
        drop(exercise(&daemon, "after"));
        wait_until_ready(&daemon, 3);
        assert_no_panic(&daemon.log());
    }
}

/// The rings are whole, and only the memory of a payload is gone.
#[test]
fn what_would_move_bytes_to_memory_that_is_gone_fails_alone() {
    let daemon = Daemon::start(&["--sandbox", "none", "--keep-listening"]);
    let mut client = exercise(&daemon, "file");
    let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
    let fh = client.open(node, libc::O_RDWR).expect("OPEN");
    client.guest.ram.cut(1, 0);
    let gone = (BASE + REGION + 0x1000, 14);
    let parameters = || Body::new().u64(fh).u64(0).u32(14).u32(0).u64(0).u32(libc::O_RDWR as u32).u32(0);
    for (opcode, writable) in [(READ, true), (WRITE, false)] {
        let mut request = message(opcode, 100, node, 0, 0, &parameters().0);
        if !writable {
            // The header counts the payload.
            request[0] += 14;
        }
        let (at, reply) = (client.guest.ram.alloc(request.len() as u64), client.guest.ram.alloc(24));
        client.guest.ram.write(at, &request);
        let asked = (at, request.len() as u32, false);
        let answered = (reply, if writable { 16 } else { 24 }, true);
        let payload = (gone.0, gone.1, writable);
        let chain = if writable { [asked, answered, payload] } else { [asked, payload, answered] };
        client.guest.offer(1, &chain);
        let (_, len) = client.guest.take_used(1);
        let answer = client.guest.ram.read(reply, len as usize);
        assert_eq!(check_answer(&answer, 100), Err(libc::EFAULT), "opcode {opcode}");
    }
    assert_eq!(client.read(node, fh, 0, 14).as_deref(), Ok(&b"from the guest"[..]));
    assert_eq!(std::fs::read(daemon.share().join("file")).expect("host file"), b"from the guest");
    assert_no_panic(&daemon.log());
}
