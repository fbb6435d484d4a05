//! Chains and rings that no driver makes.

use super::super::frontend::fuse::{Client, GETATTR, OUT_HEADER, ROOT, message};
use super::super::frontend::ram::{BASE, REGION};
use super::super::frontend::virtq::{Descriptor, INDIRECT, NEXT, WRITE};
use super::{Case, case};

/// A GETATTR of the root in memory, and room for its answer.
fn request(client: &mut Client) -> (u64, u32, u64, u32) {
    let bytes = message(GETATTR, 7, ROOT, 0, 0, &[0; 16]);
    let at = client.guest.ram.alloc(bytes.len() as u64);
    client.guest.ram.write(at, &bytes);
    let room = OUT_HEADER as u32 + 104;
    (at, bytes.len() as u32, client.guest.ram.alloc(room.into()), room)
}

/// Puts descriptors into the first entries of the queue's table, offers the first, and takes what comes back.
fn offer(client: &mut Client, table: &[Descriptor]) {
    let queue = &client.guest.queues[1];
    for (index, descriptor) in table.iter().enumerate() {
        queue.set_descriptor(&client.guest.ram, index as u16, *descriptor);
    }
    client.guest.queues[1].offer(&client.guest.ram, 0);
    client.guest.take_used(1);
}

fn chain(name: &str, table: impl Fn(&mut Client) -> Vec<Descriptor> + Send + Sync + 'static) -> Case {
    case(format!("chain: {name}"), move |scene| {
        let client = scene.client();
        let table = table(client);
        offer(client, &table);
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    let d = |addr, len, flags, next| Descriptor { addr, len, flags, next };
    vec![
        chain("leads to itself", move |c| {
            let (at, len, ..) = request(c);
            vec![d(at, len, NEXT, 0)]
        }),
        chain("goes round", move |c| {
            let (at, len, reply, room) = request(c);
            vec![d(at, len, NEXT, 1), d(reply, room, NEXT | WRITE, 0)]
        }),
        chain("leads out of the table", move |c| {
            let (at, len, ..) = request(c);
            vec![d(at, len, NEXT, 0xffff)]
        }),
        chain("readable behind writable", move |c| {
            let (at, len, reply, room) = request(c);
            vec![d(reply, room, NEXT | WRITE, 1), d(at, len, 0, 0)]
        }),
        chain("no room for an answer", move |c| {
            let (at, len, ..) = request(c);
            vec![d(at, len, 0, 0)]
        }),
        chain("nothing to read", move |c| {
            let (.., reply, room) = request(c);
            vec![d(reply, room, WRITE, 0)]
        }),
        chain("a header cut short", move |c| {
            let (at, _, reply, room) = request(c);
            vec![d(at, 7, NEXT, 1), d(reply, room, WRITE, 0)]
        }),
        chain("address of no memory", move |c| {
            let (.., reply, room) = request(c);
            vec![d(1, 56, NEXT, 1), d(reply, room, WRITE, 0)]
        }),
        chain("address that wraps", move |c| {
            let (.., reply, room) = request(c);
            vec![d(u64::MAX - 3, 56, NEXT, 1), d(reply, room, WRITE, 0)]
        }),
        chain("buffer that ends behind all memory", move |c| {
            let (at, len, ..) = request(c);
            vec![d(at, len, NEXT, 1), d(BASE + 2 * REGION - 8, 120, WRITE, 0)]
        }),
        chain("buffer of 4 GiB", move |c| {
            let (at, _, reply, room) = request(c);
            vec![d(at, u32::MAX, NEXT, 1), d(reply, room, WRITE, 0)]
        }),
        chain("answer to no memory", move |c| {
            let (at, len, ..) = request(c);
            vec![d(at, len, NEXT, 1), d(0, 120, WRITE, 0)]
        }),
        chain("answer over its own request", move |c| {
            let (at, len, ..) = request(c);
            vec![d(at, len, NEXT, 1), d(at, 120, WRITE, 0)]
        }),
        chain("answer into the ring's own table", move |c| {
            let (at, len, ..) = request(c);
            let table = c.guest.queues[1].desc + 64;
            vec![d(at, len, NEXT, 1), d(table, 120, WRITE, 0)]
        }),
        chain("empty buffers", move |c| {
            let (at, len, reply, room) = request(c);
            vec![
                d(at, 0, NEXT, 1),
                d(at, len, NEXT, 2),
                d(at, 0, NEXT, 3),
                d(reply, 0, NEXT | WRITE, 4),
                d(reply, room, WRITE, 0),
            ]
        }),
        chain("a table in a table", move |c| {
            let table = c.guest.ram.alloc(64);
            c.guest.ram.write(table, &d(table, 16, INDIRECT, 0).bytes());
            vec![d(table, 16, INDIRECT, 0)]
        }),
        chain("a table of no whole entries", move |c| {
            let table = c.guest.ram.alloc(64);
            vec![d(table, 17, INDIRECT, 0)]
        }),
        chain("a table of nothing", move |c| {
            let table = c.guest.ram.alloc(64);
            vec![d(table, 0, INDIRECT, 0)]
        }),
        chain("a table of 4 GiB", move |c| {
            let table = c.guest.ram.alloc(64);
            vec![d(table, u32::MAX - 15, INDIRECT, 0)]
        }),
        chain("a table in no memory", move |_| vec![d(8, 32, INDIRECT, 0)]),
        chain("a table that goes on behind", move |c| {
            let table = c.guest.ram.alloc(64);
            c.guest.ram.write(table, &d(table, 16, NEXT, 9).bytes());
            vec![d(table, 16, INDIRECT | NEXT, 1), d(table, 16, WRITE, 0)]
        }),
        case("ring: a head that is in no table", |scene| {
            let client = scene.client();
            client.guest.queues[1].offer(&client.guest.ram, 0xffff);
            client.guest.take_used(1);
            Ok(())
        }),
        case("ring: an index that runs away", |scene| {
            let client = scene.client();
            let available = client.guest.queues[1].avail + 2;
            client.guest.ram.write(available, &0x9000_u16.to_le_bytes());
            client.guest.queues[1].kick.write(1).expect("kick");
            std::thread::sleep(std::time::Duration::from_millis(50));
            Ok(())
        })
        .breaks(),
        case("ring: one head offered a thousand times", |scene| {
            let client = scene.client();
            let (at, len, reply, room) = request(client);
            let head = client.guest.offer(1, &[(at, len, false), (reply, room, true)]);
            client.guest.take_used(1);
            for _ in 0..1000 {
                client.guest.queues[1].offer(&client.guest.ram, head);
                client.guest.take_used(1);
            }
            Ok(())
        }),
        case("ring: a hundred thousand kicks for nothing", |scene| {
            let client = scene.client();
            for _ in 0..100_000 {
                client.guest.queues[1].kick.write(1).expect("kick");
            }
            Ok(())
        }),
    ]
}
