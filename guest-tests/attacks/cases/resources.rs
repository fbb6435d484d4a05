//! What a guest can ask for without end.

use super::super::frontend::fuse::*;
use super::{Case, Needs, case};

/// Sends a request without an answer to the high-priority queue.
fn silent(client: &mut Client, bytes: &[u8]) {
    let answer = client.guest.exchange(0, bytes, 0);
    assert!(answer.is_empty(), "it was answered");
}

pub fn cases() -> Vec<Case> {
    vec![
        case("forget: a million nodes that never were", |scene| {
            let client = scene.client();
            // BATCH_FORGET of 10,000 at a time.
            let one = |node: u64| [node.to_le_bytes(), 1_u64.to_le_bytes()].concat();
            for batch in 0..100_u64 {
                let nodes: Vec<u8> = (0..10_000).flat_map(|n| one(2 + batch * 10_000 + n)).collect();
                silent(client, &message(42, 9, 0, 0, 0, &Body::new().u32(10_000).u32(0).bytes(&nodes).0));
            }
            Ok(())
        }),
        case("forget: counts that lie and overflow", |scene| {
            let client = scene.client();
            let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
            for nlookup in [0, 1, u64::MAX, u64::MAX - 1] {
                client.forget(node, nlookup);
                client.forget(ROOT, nlookup);
            }
            for count in [0_u32, 1, 2, 1 << 16, u32::MAX] {
                silent(client, &message(42, 9, 0, 0, 0, &Body::new().u32(count).u32(0).bytes(&[0xff; 16]).0));
            }
            Ok(())
        }),
        case("open: twenty thousand handles", |scene| {
            let client = scene.client();
            let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
            let opened = (0..20_000).take_while(|_| client.open(node, libc::O_RDWR).is_ok()).count();
            assert!(opened > 100, "only {opened}");
            Ok(())
        })
        .breaks(),
        case("lookup: names that are not there", |scene| {
            let client = scene.client();
            for n in 0..20_000 {
                assert_eq!(client.lookup(ROOT, &format!("absent-{n}")).map(drop), Err(libc::ENOENT));
            }
            Ok(())
        }),
        case("create: ten thousand files that stay known", |scene| {
            let client = scene.client();
            let directory = client.mkdir(ROOT, "many").expect("MKDIR");
            for n in 0..10_000 {
                let (node, fh) = client.create(directory, &format!("{n}")).expect("CREATE");
                client.release(node, fh).expect("RELEASE");
            }
            Ok(())
        }),
        case("lock: more records than there may be", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "locks").expect("CREATE");
            let mut refused = None;
            for n in 0..10_000_u64 {
                let body = Body::new().u64(fh).u64(1).u64(n * 2).u64(n * 2).u32(1).u32(1).u32(0).u32(0);
                if let Err(errno) = client.call(SETLK, node, body, 0) {
                    refused = Some(errno);
                    break;
                }
            }
            assert_eq!(refused, Some(libc::ENOLCK), "nothing refused them");
            Ok(())
        })
        .needs(Needs::Locks),
        case("space: all of it at once", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "space").expect("CREATE");
            let body = Body::new().u64(fh).u64(0).u64(1 << 62).u32(0).u32(0);
            assert!(client.call(FALLOCATE, node, body, 0).is_err(), "FALLOCATE of 2^62 bytes");
            Ok(())
        }),
    ]
}
