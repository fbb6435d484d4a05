//! Front-ends that break the protocol or go away.

use super::super::frontend::arsenal::{Arsenal, strike};
use super::super::frontend::fuse::{Body, ROOT, SETLKW, message};
use super::super::frontend::handshake::{STEPS, handshake};
use super::{Case, Needs, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("connection: every malformed message", |scene| {
            scene.client = None;
            let arsenal = Arsenal::new();
            for (_, attack) in arsenal.attacks() {
                strike(&scene.daemon.socket(), &attack);
            }
            Ok(())
        })
        .needs(Needs::KeepListening)
        .breaks(),
        case("connection: gone after each step", |scene| {
            scene.client = None;
            for steps in 0..=STEPS {
                handshake(&scene.daemon.socket(), steps);
            }
            Ok(())
        })
        .needs(Needs::KeepListening)
        .breaks(),
        case("connection: gone with requests in flight", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "locked").expect("CREATE");
            // Owners that keep one another waiting.
            for owner in 0..60_u64 {
                let body =
                    Body::new().u64(fh).u64(owner).u64(0).u64(9).u32(1).u32(owner as u32 + 1).u32(0).u32(0);
                let request = message(SETLKW, owner + 100, node, 0, 0, &body.0);
                let at = client.guest.ram.alloc(request.len() as u64);
                client.guest.ram.write(at, &request);
                let reply = client.guest.ram.alloc(16);
                client.guest.offer(1, &[(at, request.len() as u32, false), (reply, 16, true)]);
            }
            scene.client = None;
            Ok(())
        })
        .breaks(),
    ]
}
