//! A front-end that goes away in the middle of its handshake.

use std::os::unix::net::UnixStream;
use std::path::Path;

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use super::ram::Ram;
use super::virtq::Virtq;

/// The steps of [`handshake`].
pub const STEPS: usize = 14;

/// Connects, takes so many steps of a handshake, and goes away.
pub fn handshake(socket: &Path, steps: usize) {
    let mut frontend = Frontend::from_stream(UnixStream::connect(socket).expect("it listens"), 2);
    let mut ram = Ram::new();
    let queue = Virtq::new(&mut ram, 16, false);
    for step in 0..steps {
        let taken: vhost::Result<()> = match step {
            0 => frontend.set_owner(),
            1 => frontend.get_features().map(drop),
            2 => frontend.get_protocol_features().map(drop),
            3 => {
                let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
                let set = frontend.set_protocol_features(wanted);
                frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
                set
            }
            4 => frontend.get_queue_num().map(drop),
            5 => frontend.set_features(1 << 32 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()),
            6 => frontend.set_mem_table(&ram.announce()).map(drop),
            7 => frontend.set_vring_num(0, queue.size),
            8 => frontend.set_vring_addr(
                0,
                &VringConfigData {
                    queue_max_size: queue.size,
                    queue_size: queue.size,
                    flags: 0,
                    desc_table_addr: ram.user_address(queue.desc),
                    used_ring_addr: ram.user_address(queue.used),
                    avail_ring_addr: ram.user_address(queue.avail),
                    log_addr: None,
                },
            ),
            9 => frontend.set_vring_base(0, 0),
            10 => frontend.set_vring_call(0, &queue.call),
            11 => frontend.set_vring_kick(0, &queue.kick),
            12 => frontend.set_vring_enable(0, true),
            _ => frontend.get_vring_base(0).map(drop),
        };
        taken.unwrap_or_else(|error| panic!("step {step}: {error}"));
    }
}
