//! The virtio-fs device (virtio 1.2, section 5.11): a FUSE server behind one high-priority and several
//! request queues.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Device;
use crate::fuse::{FileSystem, Handled, Server, Transfer};
use crate::ring::{Outcome, Respond, Service};
use crate::sandbox::Role;

/// Bytes of the tag in the configuration space (`struct virtio_fs_config`).
const TAG_LEN: usize = 36;

/// Virtqueue 0 carries FORGET, the request queues follow (section 5.11.2).
const HIPRIO_QUEUES: u16 = 1;

/// How long FORGETs may lie. Each would wake a thread otherwise, and cost more than the LOOKUP that it answers. Short
/// enough that a burst of them does not fill a queue of 128, and that an unmount, which waits for them, is not held up.
const FORGET_REST: Duration = Duration::from_micros(500);

/// A tag that does not fit into the configuration space.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the tag {0:?} has {len} bytes; a virtio-fs tag has 1 to 36", len = .0.len())]
pub struct TagError(pub String);

/// A share as a virtio-fs device.
pub struct FsDevice<F: FileSystem> {
    service: Arc<FuseService<F>>,
    request_queues: u16,
    tag: Option<[u8; TAG_LEN]>,
}

impl<F: FileSystem> FsDevice<F> {
    /// A device that offers `request_queues` request queues. With a tag it also answers GET_CONFIG, as
    /// front-ends need that do not give the guest a tag of their own (User-Mode Linux, crosvm).
    ///
    /// # Errors
    /// The tag is empty or longer than 36 bytes.
    pub fn new(fs: F, request_queues: u16, tag: Option<&str>) -> Result<Self, TagError> {
        let tag = tag.map(padded_tag).transpose()?;
        Ok(Self { service: Arc::new(FuseService(Server::new(fs))), request_queues, tag })
    }
}

fn padded_tag(tag: &str) -> Result<[u8; TAG_LEN], TagError> {
    let mut padded = [0; TAG_LEN];
    match padded.get_mut(..tag.len()) {
        Some(field) if !tag.is_empty() => field.copy_from_slice(tag.as_bytes()),
        _ => return Err(TagError(tag.to_owned())),
    }
    Ok(padded)
}

impl<F: FileSystem> Device for FsDevice<F> {
    fn name(&self) -> &'static str {
        "fs"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_count(&self) -> u16 {
        HIPRIO_QUEUES.saturating_add(self.request_queues)
    }

    /// `struct virtio_fs_config`: the tag, then the number of request queues as a little-endian u32.
    fn config_space(&self) -> Option<Vec<u8>> {
        let mut space = self.tag?.to_vec();
        space.extend_from_slice(&u32::from(self.request_queues).to_le_bytes());
        Some(space)
    }

    fn service(&self, _queue: u16) -> Arc<dyn Service> {
        self.service.clone()
    }

    fn rest(&self, queue: u16) -> Duration {
        if queue < HIPRIO_QUEUES { FORGET_REST } else { Duration::ZERO }
    }

    fn reset(&self) {
        self.service.0.reset();
    }
}

/// The FUSE server as a ring sees it.
struct FuseService<F: FileSystem>(Server<F>);

impl<F: FileSystem> Service for FuseService<F> {
    fn peek_len(&self) -> usize {
        self.0.peek_len()
    }

    fn head_len(&self, peek: &[u8]) -> usize {
        self.0.head_len(peek)
    }

    fn handle(&self, head: &[u8], payload: usize, room: usize, reply: &mut Vec<u8>) -> Outcome {
        match self.0.handle(head, payload, room, reply) {
            Handled::Reply => Outcome::Reply,
            Handled::NoReply => Outcome::NoReply,
            Handled::Transfer(transfer) => Outcome::Transfer(transfer),
            Handled::Blocking => Outcome::Blocking,
        }
    }

    fn handle_blocking(&self, head: &[u8], room: usize, respond: Respond) {
        self.0.handle_blocking(head, room, respond);
    }

    fn finish(&self, head: &[u8], transfer: &Transfer, moved: io::Result<usize>, reply: &mut Vec<u8>) {
        self.0.finish(head, transfer, moved, reply);
    }

    fn fail(&self, head: &[u8], error: io::Error, reply: &mut Vec<u8>) {
        self.0.fail(head, &error, reply);
    }

    fn reply_head_len(&self) -> usize {
        self.0.reply_head_len()
    }

    fn confine_thread(&self) -> io::Result<()> {
        Role::Ring.enter()
    }

    fn cancel_waits(&self) {
        self.0.cancel_waits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_padded_and_bounded() {
        assert_eq!(&padded_tag("share").unwrap()[..6], b"share\0");
        assert_eq!(padded_tag(&"x".repeat(36)).unwrap(), [b'x'; 36]);
        assert_eq!(padded_tag(""), Err(TagError(String::new())));
        assert!(padded_tag(&"x".repeat(37)).is_err());
    }
}
