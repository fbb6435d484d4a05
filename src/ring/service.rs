//! What a ring asks of the device behind it: the seam between virtqueues and what requests mean.
//!
//! A request reaches the device as bytes that were copied out of guest memory exactly once, so a guest
//! that changes its memory meanwhile changes nothing that was checked. Only payloads (the data of a
//! WRITE, the room for the data of a READ) stay in guest memory, and the device never looks at them.

use std::fmt;
use std::io;

use crate::fuse::Transfer;

/// What the device made of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The reply buffer holds the whole answer; it may be sent.
    Reply,
    /// There is no answer: the chain goes back with a used length of 0.
    NoReply,
    /// Bytes are to be moved between the payload and a file; [`Service::finish`] then makes the answer.
    Transfer(Transfer),
    /// The payload of a read is zeroes, this many, and the reply buffer holds the rest of the answer.
    Zeroes(usize),
    /// It may take long: call [`Service::handle_blocking`] from a thread that may wait.
    Blocking,
    /// It cannot be told yet: wait, then hand the request over again.
    Again(Wait),
}

/// Waits for something; to be called from a thread that may.
pub struct Wait(pub Box<dyn FnOnce() + Send>);

impl fmt::Debug for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Wait")
    }
}

/// Sends the answer of a request that left its ring; call it exactly once.
pub type Respond = Box<dyn FnOnce(Vec<u8>) + Send>;

/// The device behind a ring.
pub trait Service: Send + Sync + 'static {
    /// How many bytes the device must see to tell how long the head of a request is.
    fn peek_len(&self) -> usize;

    /// How many bytes of a request are its head: to be copied out and handed to [`handle`](Self::handle).
    /// What follows is payload. `usize::MAX` where the whole request is head. The ring bounds it.
    fn head_len(&self, peek: &[u8]) -> usize;

    /// Serves a request without waiting. `payload` is the number of readable bytes behind the head,
    /// `room` the number of writable bytes; `reply` is empty and keeps its capacity from request to
    /// request.
    fn handle(&self, head: &[u8], payload: usize, room: usize, reply: &mut Vec<u8>) -> Outcome;

    /// Serves a request that [`handle`](Self::handle) found to be [`Outcome::Blocking`]. May wait, may
    /// keep `respond` and return. An empty answer means a used length of 0.
    fn handle_blocking(&self, head: &[u8], room: usize, respond: Respond);

    /// Makes the answer of a finished transfer: `moved` is the number of bytes. In a read the payload
    /// was put into the writable bytes from [`reply_head_len`](Self::reply_head_len) on.
    fn finish(&self, head: &[u8], transfer: &Transfer, moved: io::Result<usize>, reply: &mut Vec<u8>);

    /// Makes the answer of a request that the ring itself could not carry out: part of it lies outside
    /// guest memory (`EFAULT`), its head is too long (`E2BIG`), its server gave up (`EIO`). `head` may
    /// be cut short. What is left empty becomes a used length of 0.
    fn fail(&self, head: &[u8], error: io::Error, reply: &mut Vec<u8>);

    /// Where the payload of a read begins in the writable bytes.
    fn reply_head_len(&self) -> usize;

    /// Whether a reply ends where the writable bytes end, behind the payload of a read, instead of beginning where they
    /// begin.
    fn replies_at_end(&self) -> bool {
        false
    }

    /// Prepares the thread of a ring, on that thread and before its first request. What is changed here, such as
    /// the thread's credentials, holds for all that the ring does.
    ///
    /// # Errors
    /// Why the ring cannot run.
    fn prepare_thread(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gives up on the thread of a ring what only its start needed, once its engine is there and still before its first
    /// request.
    ///
    /// # Errors
    /// Why the ring cannot run.
    fn confine_thread(&self) -> io::Result<()> {
        Ok(())
    }

    /// Ends what waits without a bound (a blocked lock), because a ring is to stop. May be called
    /// again until the ring has drained.
    fn cancel_waits(&self);
}
