//! What happens to a request between the available and the used ring?

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::chain::{Fault, Walker};
use super::control::{Answer, Controls, Verdict};
use super::dirty_log::DirtyLog;
use super::engine::Engine;
use super::handle::{RingConfig, Surroundings};
use super::offload::Offload;
use super::queue::{Queue, SharedMemory};
use super::service::{Outcome, Service, Wait};
use super::slot::{Key, Slot, Slots};
use crate::fuse::{Direction, Transfer};

/// Longest head that is copied. What has no payload of its own is head altogether: names and attribute
/// values of some 64 KiB, lists of forgotten nodes as long as the largest write that is negotiated by
/// default (1 MiB), each behind headers of less than a page.
const MAX_HEAD: usize = (1 << 20) + 4096;
/// A reply buffer that grew beyond this gives its memory back.
const KEPT_REPLY: usize = 1 << 20;

/// The requests of one ring, and all that serving them takes.
pub(super) struct Requests {
    name: String,
    indirect: bool,
    service: Arc<dyn Service>,
    offload: Arc<Offload>,
    controls: Arc<Controls>,
    dirty_log: Option<Arc<DirtyLog>>,
    log_address: Option<u64>,
    walker: Walker,
    slots: Slots,
    reply: Vec<u8>,
    /// Whether a malformed chain was reported; a hostile guest must not fill the log.
    complained: bool,
}

impl Requests {
    pub(super) fn new(config: &RingConfig, surroundings: Surroundings, controls: Arc<Controls>) -> Self {
        let Surroundings { dirty_log, service, offload, .. } = surroundings;
        Self {
            name: config.name.clone(),
            indirect: config.indirect,
            service,
            offload,
            controls,
            dirty_log,
            log_address: config.log_address,
            walker: Walker::default(),
            slots: Slots::default(),
            reply: Vec::new(),
            complained: false,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// Bytes that are kept of requests in flight.
    pub(super) fn kept_bytes(&self) -> usize {
        self.slots.kept_bytes()
    }

    pub(super) fn cancel_waits(&self) {
        self.service.cancel_waits();
    }

    pub(super) fn set_dirty_log(&mut self, log: Option<Arc<DirtyLog>>) {
        self.dirty_log = log;
    }

    pub(super) fn set_log_address(&mut self, address: Option<u64>) {
        self.log_address = address;
    }

    /// Marks what the queue writes to its used ring.
    pub(super) fn ring_log(&self) -> impl FnMut(usize, usize) + use<'_> {
        let log = self.dirty_log.as_deref().zip(self.log_address);
        move |offset, len| {
            if let Some((log, address)) = log {
                log.mark(address.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX)), len);
            }
        }
    }

    /// Serves the request whose chain begins at descriptor `head_index`, or begins to.
    pub(super) fn begin(
        &mut self,
        queue: &mut Queue,
        memory: &SharedMemory,
        engine: &mut dyn Engine,
        head_index: u16,
    ) {
        let mut slot = self.slots.fresh();
        slot.head_index = head_index;
        let walked = self.walker.walk(queue, memory, self.indirect, head_index, &mut slot.chain);
        slot.memory = Some(Rc::clone(memory));
        if let Err(error) = walked {
            if !std::mem::replace(&mut self.complained, true) {
                tracing::warn!("ring {}: descriptor chain {head_index} is malformed: {error}", self.name);
            }
            return self.complete(queue, slot, 0);
        }
        match self.read_head(&mut slot) {
            Ok(true) => self.serve(queue, engine, slot),
            Ok(false) => self.complete(queue, slot, 0),
            Err(errno) => self.fail(queue, slot, errno),
        }
    }

    /// Asks the service what the request means, and does that or begins to.
    fn serve(&mut self, queue: &mut Queue, engine: &mut dyn Engine, slot: Box<Slot>) {
        let readable = slot.chain.readable.len();
        let payload = readable - slot.head.len().min(readable);
        let room = slot.chain.writable.len();
        self.reply.clear();
        let service = &*self.service;
        let handled = guarded(|| service.handle(&slot.head, payload, room, &mut self.reply));
        match handled {
            Some(Outcome::Reply) => self.respond(queue, slot),
            Some(Outcome::NoReply) => self.complete(queue, slot, 0),
            Some(Outcome::Transfer(transfer)) => self.transfer(queue, engine, slot, transfer),
            Some(Outcome::Zeroes(len)) => self.zeroes(queue, slot, len),
            Some(Outcome::Blocking) => self.hand_over(slot),
            Some(Outcome::Again(wait)) => self.put_off(slot, wait),
            None => self.fail(queue, slot, libc::EIO),
        }
    }

    /// Answers a read with `len` zeroes and the reply.
    fn zeroes(&mut self, queue: &mut Queue, slot: Box<Slot>, len: usize) {
        match slot.chain.writable.zero(self.service.reply_head_len(), len) {
            Ok(()) => self.respond_with(queue, slot, len),
            Err(Fault::Unmapped) => self.fail(queue, slot, libc::EFAULT),
            Err(Fault::Short) => self.fail(queue, slot, libc::EIO),
        }
    }

    /// Copies the head of a request, each byte once. `Ok(false)` where not even its beginning can be read.
    fn read_head(&self, slot: &mut Slot) -> Result<bool, i32> {
        let Slot { head, chain, .. } = slot;
        let readable = &chain.readable;
        head.clear();
        let peek = self.service.peek_len().min(readable.len());
        if readable.copy_out(0, peek, head).is_err() {
            return Ok(false);
        }
        let service = &*self.service;
        let wanted = guarded(|| service.head_len(head)).ok_or(libc::EIO)?.min(readable.len());
        let rest = wanted.saturating_sub(peek);
        if wanted > MAX_HEAD {
            return Err(libc::E2BIG);
        }
        readable.copy_out(peek, rest, head).map_err(|_| libc::EFAULT)?;
        Ok(true)
    }

    fn transfer(
        &mut self,
        queue: &mut Queue,
        engine: &mut dyn Engine,
        mut slot: Box<Slot>,
        transfer: Transfer,
    ) {
        let len = usize::try_from(transfer.len).unwrap_or(usize::MAX);
        let Slot { movement, chain, head, .. } = &mut *slot;
        let (side, skip) = match transfer.direction {
            Direction::Read => (&chain.writable, self.service.reply_head_len()),
            Direction::Write => (&chain.readable, head.len()),
        };
        let prepared = movement.prepare(transfer, |add| side.pieces(skip, len, add));
        let key = self.slots.next_key();
        // An answer that is not published yet is company too: it must not lie while this one waits.
        let company = || self.slots.in_flight() > 0 || queue.unpublished() > 0 || queue.has_more();
        let outcome = match prepared {
            Ok(()) => engine.start(key, movement, &company),
            Err(Fault::Unmapped) => Some(Err(io::Error::from_raw_os_error(libc::EFAULT))),
            Err(Fault::Short) => Some(Err(io::Error::from_raw_os_error(libc::EINVAL))),
        };
        match outcome {
            Some(moved) => self.finish(queue, slot, moved),
            None => {
                self.slots.insert(slot);
            }
        }
    }

    /// Goes on with a request after an attempt to move its bytes.
    pub(super) fn attempted(
        &mut self,
        queue: &mut Queue,
        engine: &mut dyn Engine,
        key: Key,
        attempt: io::Result<usize>,
    ) {
        let Some(slot) = self.slots.get_mut(key) else {
            tracing::error!("ring {}: a completion names no request in flight", self.name);
            return;
        };
        if let Some(moved) = engine.resume(key, &mut slot.movement, attempt)
            && let Some(slot) = self.slots.remove(key)
        {
            self.finish(queue, slot, moved);
        }
    }

    /// Answers a request whose bytes were moved.
    fn finish(&mut self, queue: &mut Queue, slot: Box<Slot>, moved: io::Result<usize>) {
        let Some(transfer) = slot.movement.transfer() else { return self.fail(queue, slot, libc::EIO) };
        let reading = transfer.direction == Direction::Read;
        if let (true, Some(log)) = (reading, &self.dirty_log) {
            // All of the payload: an attempt that failed may have written some of it.
            slot.chain.writable.mark(log, slot.chain.writable.len());
        }
        let mut moved = moved;
        if let (true, true, Ok(bytes)) = (reading, transfer.pad, &mut moved) {
            let len = usize::try_from(transfer.len).unwrap_or(usize::MAX);
            let skip = self.service.reply_head_len().saturating_add(*bytes);
            // Was there when the read was prepared.
            if slot.chain.writable.zero(skip, len.saturating_sub(*bytes)).is_ok() {
                *bytes = len;
            }
        }
        let bytes = moved.as_ref().map_or(0, |bytes| *bytes);
        self.reply.clear();
        let (service, reply) = (&*self.service, &mut self.reply);
        if guarded(|| service.finish(&slot.head, transfer, moved, reply)).is_none() {
            return self.fail(queue, slot, libc::EIO);
        }
        // The payload of a read is there already, unless the reply is the shorter one of an error.
        let whole = self.service.replies_at_end() || self.reply.len() == self.service.reply_head_len();
        let payload = if reading && whole { bytes } else { 0 };
        self.respond_with(queue, slot, payload);
    }

    /// Gives a request to a thread that may wait.
    fn hand_over(&mut self, slot: Box<Slot>) {
        let (head, room) = (slot.head.clone(), slot.chain.writable.len());
        let promise = self.promise(slot);
        let service = Arc::clone(&self.service);
        self.offload(move || {
            let respond = move |reply| promise.keep(Verdict::Reply(reply));
            service.handle_blocking(&head, room, Box::new(respond));
        });
    }

    /// Lets a request wait elsewhere, and begin anew then.
    fn put_off(&mut self, slot: Box<Slot>, Wait(wait): Wait) {
        let promise = self.promise(slot);
        self.offload(move || {
            wait();
            promise.keep(Verdict::Again);
        });
    }

    fn promise(&mut self, slot: Box<Slot>) -> Promise {
        Promise { controls: Arc::clone(&self.controls), key: self.slots.insert(slot), kept: false }
    }

    fn offload(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(error) = self.offload.run(job) {
            // The promise went with the job and answers for it.
            tracing::error!("ring {}: cannot start a thread for a slow request: {error}", self.name);
        }
    }

    /// Goes on with a request that was served elsewhere.
    pub(super) fn answered(
        &mut self,
        queue: &mut Queue,
        engine: &mut dyn Engine,
        Answer { key, verdict }: Answer,
    ) {
        let Some(slot) = self.slots.remove(key) else { return };
        match verdict {
            Verdict::Reply(reply) => {
                self.reply = reply;
                self.respond(queue, slot);
            }
            Verdict::Again => self.serve(queue, engine, slot),
            Verdict::GaveUp => self.fail(queue, slot, libc::EIO),
        }
    }

    /// Answers with an errno what could not be carried out.
    fn fail(&mut self, queue: &mut Queue, slot: Box<Slot>, errno: i32) {
        self.reply.clear();
        let (service, reply) = (&*self.service, &mut self.reply);
        let error = io::Error::from_raw_os_error(errno);
        let answered = guarded(|| service.fail(&slot.head, error, reply)).is_some();
        let len = if answered { self.place_reply(&slot, 0).unwrap_or(0) } else { 0 };
        self.complete(queue, slot, len);
    }

    /// Writes the reply where it belongs; `payload` bytes are there already. Returns how many bytes, counted from the
    /// first, are the answer (section 2.7.8): none where a reply stands at the end and what is before it was not filled.
    fn place_reply(&self, slot: &Slot, payload: usize) -> Result<usize, Fault> {
        let writable = &slot.chain.writable;
        if self.service.replies_at_end() {
            let skip = writable.len().checked_sub(self.reply.len()).ok_or(Fault::Short)?;
            writable.copy_in(skip, &self.reply)?;
            return Ok(if skip == payload { writable.len() } else { 0 });
        }
        writable.copy_in(0, &self.reply)?;
        Ok(self.reply.len() + payload)
    }

    fn respond(&mut self, queue: &mut Queue, slot: Box<Slot>) {
        self.respond_with(queue, slot, 0);
    }

    /// Writes the reply; `payload` bytes behind it are there already.
    fn respond_with(&mut self, queue: &mut Queue, slot: Box<Slot>, payload: usize) {
        match self.place_reply(&slot, payload) {
            Ok(len) => self.complete(queue, slot, len),
            Err(Fault::Unmapped) => self.fail(queue, slot, libc::EFAULT),
            // The guest left no room for this answer, and perhaps none for any.
            Err(Fault::Short) => self.fail(queue, slot, libc::EIO),
        }
    }

    /// Gives the chain back, `written` bytes of its writable part being the answer.
    fn complete(&mut self, queue: &mut Queue, slot: Box<Slot>, written: usize) {
        if let Some(log) = &self.dirty_log {
            let writable = &slot.chain.writable;
            writable.mark(log, if self.service.replies_at_end() { writable.len() } else { written });
        }
        // A chain is never longer than 4 GiB.
        queue.push_used(slot.head_index, u32::try_from(written).unwrap_or(u32::MAX));
        self.slots.recycle(slot);
        self.reply.shrink_to(KEPT_REPLY);
    }
}

/// Calls the device. A panic there is a defect, but costs one request and not the ring.
fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(call));
    if outcome.is_err() {
        tracing::error!("serving a request panicked");
    }
    outcome.ok()
}

/// An answer that somebody owes; dropped without one, it says so.
struct Promise {
    controls: Arc<Controls>,
    key: Key,
    kept: bool,
}

impl Promise {
    fn keep(mut self, verdict: Verdict) {
        self.kept = true;
        self.controls.answer(Answer { key: self.key, verdict });
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            self.controls.answer(Answer { key: self.key, verdict: Verdict::GaveUp });
        }
    }
}
