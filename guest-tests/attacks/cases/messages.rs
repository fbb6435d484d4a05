//! FUSE messages that no kernel sends.

use super::super::frontend::fuse::*;
use super::{Case, Needs, case};

/// The last opcode of FUSE 7.46 and some behind it, then those of experiments and of CUSE.
fn opcodes() -> impl Iterator<Item = u32> {
    (0..=60).chain(4080..4100).chain([0x7fff_ffff, u32::MAX])
}

/// What has no answer.
fn is_silent(opcode: u32) -> bool {
    // FORGET, INTERRUPT, BATCH_FORGET
    [FORGET, 36, 42].contains(&opcode)
}

/// Sends bytes as a request, with room for an answer; any answer does, but one has to come back.
fn send(client: &mut Client, bytes: &[u8]) {
    let mark = client.guest.ram.mark();
    let at = client.guest.ram.alloc(bytes.len().max(1) as u64);
    client.guest.ram.write(at, bytes);
    let reply = client.guest.ram.alloc(8192);
    client.guest.offer(1, &[(at, bytes.len() as u32, false), (reply, 8192, true)]);
    client.guest.take_used(1);
    client.guest.ram.rewind(mark);
}

/// A request whose body is ones, of the root or another node.
fn sends_each(name: &str, node: u64, bodies: &'static [usize], fill: u8) -> Case {
    case(format!("message: {name}"), move |scene| {
        let client = scene.client();
        for opcode in opcodes() {
            // DESTROY and INIT would end the mount, INIT of ones is a case of its own.
            if opcode == DESTROY || opcode == INIT {
                continue;
            }
            for len in bodies {
                send(client, &message(opcode, 9, node, 0, 0, &vec![fill; *len]));
            }
        }
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        case("message: every opcode cut at every length", |scene| {
            let client = scene.client();
            for opcode in opcodes().filter(|opcode| *opcode != DESTROY && *opcode != INIT) {
                let whole = message(opcode, 9, ROOT, 0, 0, &[0; 128]);
                for len in 0..whole.len() {
                    // With the length as it is, and with a lie about it.
                    send(client, &whole[..len]);
                    if len >= 4 {
                        let mut honest = whole[..len].to_vec();
                        honest[..4].copy_from_slice(&(len as u32).to_le_bytes());
                        send(client, &honest);
                    }
                }
            }
            Ok(())
        }),
        sends_each("bodies of zeroes", ROOT, &[0, 8, 40, 200], 0),
        sends_each("bodies of ones", ROOT, &[8, 40, 200, 4000], 0xff),
        sends_each("nodes that never were", 0xdead_beef, &[0, 40, 200], 0),
        sends_each("node 0", 0, &[0, 40, 200], 0),
        sends_each("the last node", u64::MAX, &[0, 40, 200], 0xff),
        case("message: lengths that lie", |scene| {
            let client = scene.client();
            for lie in [0_u32, 1, 39, 40, 41, 1 << 20, 1 << 31, u32::MAX] {
                for opcode in [LOOKUP, GETATTR, READ, WRITE, SETXATTR, READDIR, 46] {
                    let mut bytes = message(opcode, 9, ROOT, 0, 0, &[0; 80]);
                    bytes[..4].copy_from_slice(&lie.to_le_bytes());
                    send(client, &bytes);
                }
            }
            Ok(())
        }),
        case("message: wild handles", |scene| {
            let client = scene.client();
            let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
            for fh in [0_u64, 1, 2, 3, 1000, u64::MAX] {
                for opcode in [
                    READ,
                    WRITE,
                    RELEASE,
                    FLUSH,
                    FSYNC,
                    READDIR,
                    READDIRPLUS,
                    RELEASEDIR,
                    FSYNCDIR,
                    FALLOCATE,
                    LSEEK,
                    31,
                    32,
                    33,
                    39,
                    47,
                ] {
                    for target in [node, ROOT] {
                        let body =
                            Body::new().u64(fh).u64(0).u32(16).u32(0).u64(0).u32(0).u32(0).u64(0).u64(0);
                        send(client, &message(opcode, 9, target, 0, 0, &body.0));
                    }
                }
            }
            Ok(())
        }),
        case("message: a handle of another node", |scene| {
            let client = scene.client();
            let (file, _) = client.lookup(ROOT, "file").expect("LOOKUP");
            let (directory, _) = client.lookup(ROOT, "directory").expect("LOOKUP");
            let fh = client.open(file, libc::O_RDWR).expect("OPEN");
            for opcode in [READ, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR, FLUSH, RELEASE] {
                let body = Body::new().u64(fh).u64(0).u32(16).u32(0).u64(0).u32(0).u32(0);
                send(client, &message(opcode, 9, directory, 0, 0, &body.0));
            }
            Ok(())
        }),
        case("message: sizes that nobody has room for", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "sizes").expect("CREATE");
            for size in [0_u32, 1, 8192, 1 << 20, (1 << 20) + 1, 1 << 31, u32::MAX] {
                let body = Body::new().u64(fh).u64(u64::MAX - 4096).u32(size).u32(0).u64(0).u32(0).u32(0);
                for opcode in [READ, WRITE, READDIR, READDIRPLUS] {
                    send(client, &message(opcode, 9, node, 0, 0, &body.0));
                }
                let names = Body::new().u32(size).u32(0).name("user.a");
                for opcode in [GETXATTR, LISTXATTR, SETXATTR] {
                    send(client, &message(opcode, 9, node, 0, 0, &names.0));
                }
                let range = Body::new().u64(fh).u64(u64::from(size) << 31).u64(u64::MAX).u32(0).u32(0);
                send(client, &message(FALLOCATE, 9, node, 0, 0, &range.0));
            }
            Ok(())
        }),
        case("message: INIT of versions that never were", |scene| {
            let client = scene.client();
            for (major, minor) in [(0, 0), (6, 40), (7, 0), (8, 0), (u32::MAX, u32::MAX)] {
                let body = Body::new()
                    .u32(major)
                    .u32(minor)
                    .u32(u32::MAX)
                    .u32(u32::MAX)
                    .u32(u32::MAX)
                    .bytes(&[0xff; 44]);
                send(client, &message(INIT, 9, ROOT, 0, 0, &body.0));
            }
            client.init().expect("INIT");
            Ok(())
        }),
        case("message: requests before INIT", |scene| {
            scene.client = None;
            let guest = super::super::frontend::Guest::connect(&scene.daemon.socket(), Default::default());
            let mut client = Client::unmounted(guest);
            for opcode in opcodes().filter(|opcode| *opcode != INIT) {
                send(&mut client, &message(opcode, 9, ROOT, 0, 0, &[0; 64]));
            }
            client.init().expect("INIT");
            scene.client = Some(client);
            Ok(())
        })
        .needs(Needs::KeepListening),
        case("message: DESTROY, and on as if nothing had been", |scene| {
            let client = scene.client();
            let (node, fh) = client.create(ROOT, "destroyed").expect("CREATE");
            for _ in 0..3 {
                send(client, &message(DESTROY, 9, ROOT, 0, 0, &[]));
                let body = Body::new().u64(fh).u64(0).u32(16).u32(0).u64(0).u32(0).u32(0);
                send(client, &message(READ, 9, node, 0, 0, &body.0));
                send(client, &message(LOOKUP, 9, ROOT, 0, 0, b"file\0"));
            }
            client.init().expect("INIT");
            Ok(())
        }),
        case("message: what has no answer, on a queue with answers", |scene| {
            let client = scene.client();
            for opcode in opcodes().filter(|opcode| is_silent(*opcode)) {
                for len in [0, 8, 16, 4096] {
                    send(client, &message(opcode, 9, ROOT, 0, 0, &vec![0xff; len]));
                }
            }
            Ok(())
        }),
        case("message: noise", |scene| {
            let client = scene.client();
            for seed in 0..2000 {
                let noise = super::super::frontend::arsenal::noise(40 + (seed as usize * 7) % 600, seed);
                let mut bytes = message(seed as u32 % 55, 9, ROOT, 0, 0, &noise);
                if bytes[4] == DESTROY as u8 || bytes[4] == INIT as u8 {
                    continue;
                }
                if seed % 3 == 0 {
                    // Somewhere among the header's fields, but for the opcode.
                    bytes[8..40].copy_from_slice(&noise[..32]);
                }
                send(client, &bytes);
            }
            Ok(())
        }),
    ]
}
