//! Which parts of a request are the same for every operation?

use zerocopy::FromBytes;

use super::abi;
use super::body::Body;
use super::types::{Caller, NodeId};

/// A request whose header was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Its header, as the guest sent it.
    pub header: abi::InHeader,
    /// The arguments: what follows the header, without the payload of a WRITE.
    pub body: Body<'a>,
    /// Bytes of the payload, which is still in guest memory.
    pub payload: usize,
    /// Bytes that a reply may have behind its header; `None` where not even the header has room.
    pub room: Option<usize>,
    /// The INIT flags that guest and server agreed upon.
    pub features: u64,
    /// Bytes of a WRITE at most, as the guest was told.
    pub max_write: u32,
}

/// The largest page of a guest's kernel: it counts in pages how much it may ask for.
const LARGEST_PAGE: u32 = 64 << 10;
/// What `max_pages` was counted in.
const SMALLEST_PAGE: u32 = 4 << 10;

impl<'a> Request<'a> {
    /// Reads the header. `None` where there is none: such a request cannot be answered, since its
    /// unique number is not known.
    pub(super) fn parse(
        head: &'a [u8],
        payload: usize,
        room: usize,
        features: u64,
        max_write: u32,
    ) -> Option<Self> {
        let (header, body) = abi::InHeader::read_from_prefix(head).ok()?;
        let room = room.checked_sub(size_of::<abi::OutHeader>());
        Some(Self { header, body: Body::new(body), payload, room, features, max_write })
    }

    /// Whether the length in the header is that of the request. The guest computes both from the same
    /// arguments (`fuse_len_args`), so a difference means that one of them is garbage.
    pub(super) fn is_whole(&self) -> bool {
        let len = size_of::<abi::InHeader>() + self.body.rest().len();
        len.checked_add(self.payload) == usize::try_from(self.header.len).ok()
    }

    /// Whether guest and server agreed upon this INIT flag.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// Bytes of a WRITE at most: what the guest was told, but a page of its own in any case (`fuse_writepages_fill` in
    /// fs/fuse/file.c sends one whatever its size is).
    pub(super) fn most_written(&self) -> u32 {
        self.max_write.max(LARGEST_PAGE)
    }

    /// Bytes that a READ, READDIR or READDIRPLUS asks for at most: `max_pages` pages, whatever their size is.
    pub(super) fn most_read(&self) -> u32 {
        self.max_write.div_ceil(SMALLEST_PAGE).saturating_mul(LARGEST_PAGE).max(LARGEST_PAGE)
    }

    /// The node that the request is about.
    pub(super) fn node(&self) -> NodeId {
        NodeId(self.header.nodeid)
    }

    /// On whose behalf.
    pub(super) fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, pid: self.header.pid }
    }
}
