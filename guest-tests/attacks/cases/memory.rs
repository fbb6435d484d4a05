//! Memory that is taken away or exchanged under a device that uses it.

use super::super::frontend::fuse::{Body, READ, ROOT, message};
use super::super::frontend::ram::Ram;
use super::{Case, case};
use vhost::VhostBackend;

pub fn cases() -> Vec<Case> {
    vec![
        case("memory: files made shorter under the rings", |scene| {
            let client = scene.client();
            client.guest.ram.cut(0, 0);
            client.guest.ram.cut(1, 0);
            for queue in &client.guest.queues {
                queue.kick.write(1).expect("kick");
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            for queue in 0..client.guest.queues.len() {
                client.guest.stop_queue(queue);
            }
            Ok(())
        })
        .breaks(),
        case("memory: another table while requests are in flight", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "big").expect("CREATE");
            client.write(node, fh, 0, &[7; 4096]).expect("WRITE");
            let body = Body::new().u64(fh).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
            let request = message(READ, 99, node, 0, 0, &body.0);
            let at = client.guest.ram.alloc(request.len() as u64);
            client.guest.ram.write(at, &request);
            for _ in 0..20 {
                let mut offered = 0;
                for _ in 0..20 {
                    let mark = client.guest.ram.mark();
                    let reply = client.guest.ram.alloc(16 + 4096);
                    client.guest.offer(1, &[(at, request.len() as u32, false), (reply, 16 + 4096, true)]);
                    client.guest.ram.rewind(mark);
                    offered += 1;
                }
                client.guest.frontend.set_mem_table(&client.guest.ram.announce()).expect("SET_MEM_TABLE");
                for _ in 0..offered {
                    client.guest.take_used(1);
                }
            }
            Ok(())
        }),
        case("memory: a table without the rings", |scene| {
            let client = scene.client();
            let other = Ram::new();
            let mut regions = other.announce();
            for region in &mut regions {
                region.guest_phys_addr += 1 << 40;
            }
            // It may be refused, and the ring may stop; nothing more.
            let _ = client.guest.frontend.set_mem_table(&regions);
            client.guest.queues[1].kick.write(1).expect("kick");
            Ok(())
        })
        .breaks(),
    ]
}
