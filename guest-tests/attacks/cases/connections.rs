//! Front-ends that break the protocol or go away.

use std::os::unix::net::UnixStream;

use super::super::frontend::arsenal::{Arsenal, strike};
use super::super::frontend::fuse::{Body, ROOT, SETLKW};
use super::{Case, Needs, case};
use vhost::VhostBackend;
use vhost::vhost_user::Frontend;

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
            for steps in 0..4 {
                let stream = UnixStream::connect(scene.daemon.socket()).expect("it listens");
                let frontend = Frontend::from_stream(stream, 2);
                if steps > 0 {
                    frontend.set_owner().expect("SET_OWNER");
                }
                if steps > 1 {
                    frontend.get_features().expect("GET_FEATURES");
                }
                if steps > 2 {
                    frontend.set_features(1 << 32).expect("SET_FEATURES");
                }
            }
            Ok(())
        })
        .needs(Needs::KeepListening)
        .breaks(),
        case("connection: gone with requests in flight", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "locked").expect("CREATE");
            // Owners that keep one another waiting.
            for owner in 0..100_u64 {
                let body =
                    Body::new().u64(fh).u64(owner).u64(0).u64(9).u32(1).u32(owner as u32 + 1).u32(0).u32(0);
                let request = super::super::frontend::fuse::message(SETLKW, owner + 100, node, 0, 0, &body.0);
                let at = client.guest.ram.alloc(request.len() as u64);
                client.guest.ram.write(at, &request);
                let reply = client.guest.ram.alloc(16);
                if owner < 60 {
                    client.guest.offer(1, &[(at, request.len() as u32, false), (reply, 16, true)]);
                }
            }
            scene.client = None;
            Ok(())
        })
        .breaks(),
    ]
}
