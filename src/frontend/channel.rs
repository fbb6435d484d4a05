//! How does a FUSE request become a chain, and which answers count?
//!
//! A channel is a request queue with a fixed number of slots, each of which has memory for one request and its
//! answer. The buffers are those of Linux's `virtio_fs_enqueue_req`: the header, the arguments, the pages of a
//! payload, and the same the other way. Answers are checked as `virtio_fs_verify_response` and `fuse_simple_request` do,
//! and where these are lenient, more strictly.

use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::virtqueue::Addresses;
use super::{Buffer, Error, Forgets, GuestMemory, Layout, Virtqueue, Waker};
use crate::fuse::abi::{InHeader, OutHeader};

const IN_HEADER: u32 = 40;
const OUT_HEADER: u32 = 16;

/// Bytes of a slot for header and arguments of a request: two names of 255 bytes fit.
const REQUEST: u64 = 1024;
/// Bytes of a slot for header and fixed part of an answer; the longest is that of STATX.
const ANSWER: u64 = 512;
/// `FUSE_MAX_ERRNO` of the kernel: larger numbers are no errno that a guest may see.
const ERRNO_END: i32 = 512;

/// A request, apart from its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// See [`opcode`](crate::fuse::abi::opcode).
    pub opcode: u32,
    /// The node it is about.
    pub node: u64,
    /// Bytes of the slot's payload memory that are sent behind the arguments.
    pub send: u32,
    /// Bytes of the fixed part of the answer: exactly so many are expected.
    pub reply: u32,
    /// Bytes of the slot's payload memory that the device may fill behind it: as many or fewer are expected.
    pub receive: u32,
}

impl Ask {
    /// A request without payload.
    pub fn new(opcode: u32, node: u64, reply: u32) -> Self {
        Self { opcode, node, send: 0, reply, receive: 0 }
    }
}

/// A well-formed answer that has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// Where its request was.
    pub slot: u16,
    /// The request.
    pub opcode: u32,
    /// Bytes of the payload, or the positive errno.
    pub result: Result<u32, i32>,
}

impl Reply {
    /// Bytes of the payload.
    ///
    /// # Errors
    /// [`Error::Refused`] where the answer is an errno.
    pub fn ok(&self) -> Result<u32, Error> {
        self.result.map_err(|errno| Error::Refused { opcode: self.opcode, errno })
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    request: u64,
    answer: u64,
    payload: u64,
    unique: u64,
    opcode: u32,
    reply: u32,
    receive: u32,
}

/// Where a channel lies in memory that does not exist yet.
#[derive(Debug)]
pub struct ChannelLayout {
    queue: Addresses,
    slots: Vec<Slot>,
    payload: u32,
    segment: u32,
}

impl ChannelLayout {
    /// Lays out a queue of `size` entries and `depth` slots with `payload` bytes each, which are given to the
    /// device in buffers of `segment` bytes (a guest's page, or more where its memory is in one piece).
    pub fn new(
        layout: &mut Layout,
        size: u16,
        depth: u16,
        payload: u32,
        segment: u32,
        indirect: bool,
    ) -> Self {
        let queue = Addresses::new(layout, size, depth, indirect);
        let slots = (0..depth)
            .map(|_| Slot {
                request: layout.take(REQUEST, 64),
                answer: layout.take(ANSWER, 64),
                payload: layout.take(u64::from(payload), 4096),
                unique: 0,
                opcode: 0,
                reply: 0,
                receive: 0,
            })
            .collect();
        Self { queue, slots, payload, segment: segment.max(1) }
    }
}

/// A request queue as a FUSE client uses it. It belongs to one thread at a time.
pub struct Channel {
    memory: Arc<GuestMemory>,
    queue: Virtqueue,
    slots: Vec<Slot>,
    payload: u32,
    segment: u32,
    unique: u64,
    forgets: Option<Arc<Forgets>>,
}

impl Channel {
    /// A channel in memory where it was laid out.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(memory: &Arc<GuestMemory>, at: ChannelLayout, event_idx: bool) -> Result<Self, Error> {
        let ChannelLayout { queue, slots, payload, segment } = at;
        let queue = Virtqueue::new(Arc::clone(memory), queue, event_idx)?;
        Ok(Self { memory: Arc::clone(memory), queue, slots, payload, segment, unique: 0, forgets: None })
    }

    /// Its queue.
    pub fn queue(&self) -> &Virtqueue {
        &self.queue
    }

    /// Requests that can be in flight.
    pub fn depth(&self) -> u16 {
        self.queue.addresses().slots()
    }

    /// Bytes of payload memory of each slot.
    pub fn payload_size(&self) -> u32 {
        self.payload
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Where the payload of a slot lies.
    pub fn payload(&self, slot: u16) -> u64 {
        self.slots.get(usize::from(slot)).map_or(0, |slot| slot.payload)
    }

    /// Sets where FORGETs go, once the high-priority queue runs.
    pub fn set_forgets(&mut self, forgets: Arc<Forgets>) {
        self.forgets = Some(forgets);
    }

    /// Gives references on a node back.
    ///
    /// # Errors
    /// As those of [`Forgets::send`].
    pub fn forget(&mut self, node: u64, nlookup: u64) -> Result<(), Error> {
        self.unique = self.unique.wrapping_add(2);
        self.forgets.as_ref().map_or(Ok(()), |forgets| forgets.send(self.unique, node, nlookup))
    }

    /// Stages a request in a free slot; it goes out with the next [`flush`](Self::flush). The arguments are
    /// the concatenation of `parts`. No allocation is made.
    ///
    /// # Errors
    /// The request does not fit into the slot or its chain not into the queue.
    pub fn ask(&mut self, slot: u16, ask: Ask, parts: &[&[u8]]) -> Result<(), Error> {
        self.unique = self.unique.wrapping_add(2);
        let unique = self.unique;
        let (payload_size, segment) = (self.payload, self.segment);
        let Some(place) = self.slots.get_mut(usize::from(slot)) else {
            return Err(Error::StrayUsed(slot.into()));
        };
        let mut end = place.request + u64::from(IN_HEADER);
        for part in parts {
            let next = end + part.len() as u64;
            if next > place.request + REQUEST {
                return Err(malformed(ask.opcode, "the request's arguments are too long"));
            }
            self.memory.write(end, part);
            end = next;
        }
        if ask.send > payload_size || ask.receive > payload_size || u64::from(OUT_HEADER + ask.reply) > ANSWER
        {
            return Err(malformed(ask.opcode, "the request's payload is too long"));
        }
        // At most REQUEST, just checked.
        let head = u32::try_from(end - place.request).unwrap_or_default();
        let header = InHeader {
            len: head + ask.send,
            opcode: ask.opcode,
            unique,
            nodeid: ask.node,
            uid: 0,
            gid: 0,
            pid: 1,
            total_extlen: 0,
            padding: 0,
        };
        self.memory.write(place.request, header.as_bytes());
        (place.unique, place.opcode) = (unique, ask.opcode);
        (place.reply, place.receive) = (ask.reply, ask.receive);
        let Slot { request, answer, payload, .. } = *place;
        let readable = |addr, len| Buffer { addr, len, writable: false };
        let writable = |addr, len| Buffer { addr, len, writable: true };
        let pages = |len: u32, writable| {
            (0..len.div_ceil(segment)).map(move |i| {
                let at = i * segment;
                Buffer { addr: payload + u64::from(at), len: segment.min(len - at), writable }
            })
        };
        let arguments =
            (head > IN_HEADER).then(|| readable(request + u64::from(IN_HEADER), head - IN_HEADER));
        let fixed = (ask.reply > 0).then(|| writable(answer + u64::from(OUT_HEADER), ask.reply));
        let chain = std::iter::once(readable(request, IN_HEADER))
            .chain(arguments)
            .chain(pages(ask.send, false))
            .chain(std::iter::once(writable(answer, OUT_HEADER)))
            .chain(fixed)
            .chain(pages(ask.receive, true));
        self.queue.stage(slot, chain)
    }

    /// Sends everything staged.
    ///
    /// # Errors
    /// The kick failed.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.queue.publish().map(drop)
    }

    /// Sleeps until an answer may be there.
    ///
    /// # Errors
    /// The call descriptor failed.
    pub fn wait(&mut self) -> Result<(), Error> {
        self.queue.wait()
    }

    /// A way to end the waiting for answers.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn waker(&self) -> Result<Waker, Error> {
        self.queue.waker()
    }

    /// Takes the next answer, if there is one.
    ///
    /// # Errors
    /// The answer is malformed; nothing more can be expected of this daemon.
    pub fn poll(&mut self) -> Result<Option<Reply>, Error> {
        let Some((slot, used)) = self.queue.pop()? else { return Ok(None) };
        let Some(place) = self.slots.get(usize::from(slot)) else {
            return Err(Error::StrayUsed(slot.into()));
        };
        let mut header = OutHeader::new_zeroed();
        self.memory.read(place.answer, header.as_mut_bytes());
        let result = verify(&header, used, place)?;
        Ok(Some(Reply { slot, opcode: place.opcode, result }))
    }

    /// The fixed part of an answer that has arrived in a slot, or its first fields.
    pub fn answer<T: FromBytes + FromZeros + IntoBytes>(&self, slot: u16) -> T {
        self.answer_at(slot, 0)
    }

    /// The same from a byte of it on: CREATE answers with two structures.
    pub fn answer_at<T: FromBytes + FromZeros + IntoBytes>(&self, slot: u16, offset: u64) -> T {
        let mut value = T::new_zeroed();
        if let Some(place) = self.slots.get(usize::from(slot)) {
            self.memory.read(place.answer + u64::from(OUT_HEADER) + offset, value.as_mut_bytes());
        }
        value
    }

    /// Sends one request while nothing else is in flight, and waits for its answer in slot 0: for setting up
    /// and putting away.
    ///
    /// # Errors
    /// As [`poll`](Self::poll), and [`Error::Refused`].
    pub fn call(&mut self, ask: Ask, parts: &[&[u8]]) -> Result<u32, Error> {
        self.ask(0, ask, parts)?;
        self.flush()?;
        loop {
            if let Some(reply) = self.poll()? {
                return reply.ok();
            }
            self.wait()?;
        }
    }

    /// [`call`](Self::call), and the fixed part of its answer.
    ///
    /// # Errors
    /// As those of `call`.
    pub fn call_for<T: FromBytes + FromZeros + IntoBytes + Immutable>(
        &mut self,
        opcode: u32,
        node: u64,
        parts: &[&[u8]],
    ) -> Result<T, Error> {
        // The structures of FUSE are small.
        let reply = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
        self.call(Ask::new(opcode, node, reply), parts)?;
        Ok(self.answer(0))
    }
}

fn malformed(opcode: u32, what: impl Into<String>) -> Error {
    Error::Malformed { opcode, what: what.into() }
}

/// Bytes of the payload, or the positive errno.
fn verify(header: &OutHeader, used: u32, place: &Slot) -> Result<Result<u32, i32>, Error> {
    let wrong = |what: String| malformed(place.opcode, what);
    if used < OUT_HEADER {
        return Err(wrong(format!("{used} bytes are less than a header")));
    }
    if header.len != used {
        return Err(wrong(format!("its header says {} bytes, the used ring {used}", header.len)));
    }
    if header.unique != place.unique {
        return Err(wrong(format!("it answers request {}, not {}", header.unique, place.unique)));
    }
    let body = used - OUT_HEADER;
    match header.error {
        0 => {}
        error if error < 0 && error > -ERRNO_END && body == 0 => return Ok(Err(-error)),
        error => return Err(wrong(format!("error {error} with {body} bytes"))),
    }
    match body.checked_sub(place.reply) {
        Some(payload) if payload <= place.receive => Ok(Ok(payload)),
        _ => Err(wrong(format!("{body} bytes where {} and up to {} are due", place.reply, place.receive))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Slot =
        Slot { request: 0, answer: 0, payload: 0, unique: 8, opcode: 15, reply: 8, receive: 100 };

    #[test]
    fn only_what_a_guest_would_take_is_an_answer() {
        let header = |len, error, unique| OutHeader { len, error, unique };
        assert_eq!(verify(&header(24, 0, 8), 24, &PLACE).unwrap(), Ok(0));
        assert_eq!(verify(&header(124, 0, 8), 124, &PLACE).unwrap(), Ok(100));
        assert_eq!(verify(&header(16, -2, 8), 16, &PLACE).unwrap(), Err(2));
        for (bad, used) in [
            (header(16, 0, 8), 16),
            (header(23, 0, 8), 23),
            (header(125, 0, 8), 125),
            (header(24, 0, 8), 25),
            (header(24, 0, 7), 24),
            (header(8, 0, 8), 8),
            (header(16, 2, 8), 16),
            (header(16, -512, 8), 16),
            (header(16, i32::MIN, 8), 16),
            (header(24, -2, 8), 24),
        ] {
            assert!(verify(&bad, used, &PLACE).is_err(), "{bad:?}");
        }
    }
}
