//! A synthetic guest: memory, virtqueues and the connection of its front-end.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::ram::Ram;
use super::virtq::Virtq;

/// How long an answer may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What kind of guest.
#[derive(Clone, Copy, Debug)]
pub struct GuestConfig {
    /// Request queues.
    pub request_queues: u16,
    /// Entries of each queue.
    pub queue_size: u16,
    /// Negotiate EVENT_IDX.
    pub event_idx: bool,
    /// Negotiate INDIRECT_DESC, and use it for every chain.
    pub indirect: bool,
    /// Announce memory region by region (ADD_MEM_REG) instead of as a table.
    pub memory_slots: bool,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self { request_queues: 1, queue_size: 128, event_idx: true, indirect: false, memory_slots: false }
    }
}

/// A guest whose queues run.
pub struct Guest {
    pub config: GuestConfig,
    pub ram: Ram,
    pub frontend: Frontend,
    /// Queue 0 is the high-priority one.
    pub queues: Vec<Virtq>,
    features: u64,
}

impl Guest {
    /// Connects and starts all queues.
    pub fn connect(socket: &Path, config: GuestConfig) -> Self {
        Self::over(UnixStream::connect(socket).expect("the daemon listens"), config)
    }

    /// Starts all queues over a connection.
    pub fn over(stream: UnixStream, config: GuestConfig) -> Self {
        let queue_count = u64::from(config.request_queues) + 1;
        let mut frontend = Frontend::from_stream(stream, queue_count);
        frontend.set_owner().expect("SET_OWNER");
        let offered = frontend.get_features().expect("GET_FEATURES");
        let mut features = 1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if config.event_idx {
            features |= 1 << VIRTIO_RING_F_EVENT_IDX;
        }
        if config.indirect {
            features |= 1 << VIRTIO_RING_F_INDIRECT_DESC;
        }
        assert_eq!(offered & features, features, "the device does not offer what this guest needs");
        let protocol = frontend.get_protocol_features().expect("GET_PROTOCOL_FEATURES");
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::LOG_SHMFD;
        frontend.set_protocol_features(protocol & wanted).expect("SET_PROTOCOL_FEATURES");
        frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(features).expect("SET_FEATURES");
        let mut ram = Ram::new();
        if config.memory_slots {
            for region in ram.announce() {
                frontend.add_mem_region(&region).expect("ADD_MEM_REG");
            }
        } else {
            frontend.set_mem_table(&ram.announce()).expect("SET_MEM_TABLE");
        }
        let queues =
            (0..queue_count).map(|_| Virtq::new(&mut ram, config.queue_size, config.event_idx)).collect();
        let mut guest = Self { config, ram, frontend, queues, features };
        for index in 0..guest.queues.len() {
            guest.start_queue(index, 0);
        }
        guest
    }

    /// The features that were negotiated.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Starts a queue from an index.
    pub fn start_queue(&mut self, index: usize, base: u16) {
        self.queues[index].resume_at(base);
        self.start_at(index, base);
    }

    fn start_at(&mut self, index: usize, base: u16) {
        let queue = &self.queues[index];
        let addresses = VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: self.ram.user_address(queue.desc),
            used_ring_addr: self.ram.user_address(queue.used),
            avail_ring_addr: self.ram.user_address(queue.avail),
            log_addr: None,
        };
        self.frontend.set_vring_num(index, queue.size).expect("SET_VRING_NUM");
        self.frontend.set_vring_addr(index, &addresses).expect("SET_VRING_ADDR");
        self.frontend.set_vring_base(index, base).expect("SET_VRING_BASE");
        self.frontend.set_vring_call(index, &queue.call).expect("SET_VRING_CALL");
        self.frontend.set_vring_kick(index, &queue.kick).expect("SET_VRING_KICK");
        self.frontend.set_vring_enable(index, true).expect("SET_VRING_ENABLE");
    }

    /// Starts a queue where the device stopped, although chains may wait that it has not taken.
    pub fn start_queue_lenient(&mut self, index: usize, base: u16) {
        self.start_at(index, base);
        self.queues[index].kick.write(1).expect("kick");
    }

    /// Lays a queue out anew, as after a reset, and starts it.
    pub fn renew_queue(&mut self, index: usize) {
        self.queues[index] = Virtq::new(&mut self.ram, self.config.queue_size, self.config.event_idx);
        self.start_queue(index, 0);
    }

    /// Stops a queue; the index that the device would have taken next.
    pub fn stop_queue(&mut self, index: usize) -> u16 {
        self.frontend.get_vring_base(index).expect("GET_VRING_BASE") as u16
    }

    /// Offers a chain of buffers (address, length, device-writable) on a queue; its head.
    pub fn offer(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = if self.config.indirect {
            self.queues[queue].indirect_chain(&mut self.ram, buffers)
        } else {
            self.queues[queue].chain(&self.ram, buffers)
        };
        self.queues[queue].offer(&self.ram, head);
        head
    }

    /// The next used element of a queue.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn take_used(&mut self, queue: usize) -> (u32, u32) {
        self.queues[queue].take_used(&self.ram, PATIENCE).expect("a used element in time")
    }

    /// Sends bytes and takes the bytes of the answer, with `room` bytes to answer into.
    pub fn exchange(&mut self, queue: usize, request: &[u8], room: u32) -> Vec<u8> {
        let mark = self.ram.mark();
        let readable = self.ram.alloc(request.len().max(1) as u64);
        let writable = self.ram.alloc(u64::from(room.max(1)));
        self.ram.write(readable, request);
        let mut buffers = vec![(readable, request.len() as u32, false)];
        if room > 0 {
            buffers.push((writable, room, true));
        }
        let head = self.offer(queue, &buffers);
        let (used, len) = self.take_used(queue);
        assert_eq!(used, u32::from(head), "another chain came back");
        assert!(len <= room, "used length {len} is more than the room {room}");
        let answer = self.ram.read(writable, len as usize);
        self.ram.rewind(mark);
        answer
    }
}
