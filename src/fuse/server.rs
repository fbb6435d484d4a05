//! Who takes a request's bytes and gives the answer's? The server, between a transport and a
//! [`FileSystem`].

use std::io;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;
use zerocopy::FromBytes;

use super::FileSystem;
use super::abi::{self, opcode};
use super::ops::{locks, mount};
use super::reply::{self, Reply};
use super::request::Request;
use super::route::{Route, Serve};
use super::session::Session;
use super::transfer::Transfer;
use super::types::Result;

/// What became of a request.
#[derive(Debug)]
pub enum Handled {
    /// The reply buffer holds the whole answer.
    Reply,
    /// There is no answer: the operation has none, or there is no room even for its header.
    NoReply,
    /// Bytes are to be moved; [`Server::finish`] then makes the answer.
    Transfer(Transfer),
    /// It may take long: [`Server::handle_blocking`] serves it on a thread that may wait.
    Blocking,
}

/// Sends the answer of a request that left its ring; called exactly once. Empty where there is none.
pub type Respond = Box<dyn FnOnce(Vec<u8>) + Send>;

/// Serves the requests of one guest out of a [`FileSystem`].
///
/// Everything works on `&self` from many threads at once. The server itself takes no lock but for INIT and DESTROY and, once
/// reply buffers have grown, allocates nothing but the answers of blocking requests.
///
/// `head` is always the request's bytes from its header on, as far as [`head_len`](Self::head_len) tells;
/// `room` the length that an answer may have, its header included.
#[derive(Debug)]
pub struct Server<F> {
    fs: F,
    session: Session,
    /// Held while a mount begins or ends: of two that would, the second finds all that the first has done.
    turn: Mutex<()>,
}

impl<F: FileSystem> Server<F> {
    /// A server without a mount.
    #[must_use]
    pub fn new(fs: F) -> Self {
        Self { fs, session: Session::default(), turn: Mutex::new(()) }
    }

    /// The file system behind.
    #[must_use]
    pub fn file_system(&self) -> &F {
        &self.fs
    }

    /// Bytes that [`head_len`](Self::head_len) must see.
    #[must_use]
    pub fn peek_len(&self) -> usize {
        size_of::<abi::InHeader>()
    }

    /// Bytes of a request that are its head, given its first [`peek_len`](Self::peek_len) bytes. Only a
    /// WRITE has a payload that stays in guest memory; of all others (`usize::MAX`) everything is head.
    #[must_use]
    pub fn head_len(&self, peek: &[u8]) -> usize {
        match abi::InHeader::read_from_prefix(peek) {
            Ok((header, _)) if header.opcode == opcode::WRITE => {
                size_of::<abi::InHeader>() + size_of::<abi::WriteIn>()
            }
            _ => usize::MAX,
        }
    }

    /// Where the bytes of a READ begin in the answer.
    #[must_use]
    pub fn reply_head_len(&self) -> usize {
        reply::HEAD_LEN
    }

    /// Serves a request without waiting. `payload` is the number of bytes behind the head; `answer` is
    /// overwritten and keeps its capacity.
    pub fn handle(&self, head: &[u8], payload: usize, room: usize, answer: &mut Vec<u8>) -> Handled {
        answer.clear();
        let features = self.session.features();
        let Some(request) = self.parse(head, payload, room, features) else { return Handled::NoReply };
        let route = Route::<F>::of(request.header.opcode, request.features);
        if let Route::Silent(serve) = route {
            serve(&self.fs, &request);
            return Handled::NoReply;
        }
        let Some(room) = request.room else { return Handled::NoReply };
        let unique = request.header.unique;
        if let Err(errno) = admit(&request, &route, features.is_some()) {
            reply::error(answer, errno, unique);
            return Handled::Reply;
        }
        match route {
            Route::Either { waits, .. } if waits(&self.fs, &request) => return Handled::Blocking,
            Route::Inline { len, serve } | Route::Either { len, serve, .. } => {
                self.answer(&request, len, serve, room, answer);
            }
            Route::Transfer { len, start } => return self.start(&request, len, start, room, answer),
            Route::Mount => match self.turn.try_lock() {
                Some(turn) if self.session.features().is_none() => self.mount(&request, room, answer, turn),
                // A guest that boots again without DESTROY: the old mount has to be torn down first. Or somebody does so now.
                _ => return Handled::Blocking,
            },
            Route::Blocking { .. } | Route::LockWait | Route::Unmount => {
                return Handled::Blocking;
            }
            Route::Unsupported | Route::Silent(_) => reply::error(answer, Errno::NOSYS, unique),
        }
        Handled::Reply
    }

    /// Serves a request that [`handle`](Self::handle) found to be [`Handled::Blocking`]. May wait. A
    /// SETLKW keeps `respond` until the lock is there, and does not hold the thread.
    pub fn handle_blocking(&self, head: &[u8], room: usize, respond: Respond) {
        let features = self.session.features();
        let Some(request) = self.parse(head, 0, room, features) else { return respond(Vec::new()) };
        let Some(room) = request.room else { return respond(Vec::new()) };
        let unique = request.header.unique;
        let mut answer = Vec::new();
        let route = Route::<F>::of(request.header.opcode, request.features);
        match admit(&request, &route, features.is_some()) {
            Err(errno) => reply::error(&mut answer, errno, unique),
            Ok(()) => match route {
                Route::Blocking { len, serve } | Route::Either { len, serve, .. } => {
                    self.answer(&request, len, serve, room, &mut answer);
                }
                Route::LockWait => return locks::setlkw(&self.fs, &request, respond),
                Route::Mount => self.mount(&request, room, &mut answer, self.turn.lock()),
                Route::Unmount => {
                    self.reset();
                    Reply::begin(&mut answer, 0).seal(unique, Ok(()));
                }
                // Not what `handle` calls blocking: the caller's mistake.
                _ => reply::error(&mut answer, Errno::IO, unique),
            },
        }
        respond(answer);
    }

    /// Makes the answer of a finished transfer of `moved` bytes.
    pub fn finish(&self, head: &[u8], transfer: &Transfer, moved: io::Result<usize>, answer: &mut Vec<u8>) {
        let unique = abi::InHeader::read_from_prefix(head).map_or(0, |(header, _)| header.unique);
        reply::transferred(answer, transfer, transfer.file.settle(moved), unique);
    }

    /// Makes the answer of a request that the transport could not carry out: a part of it cannot be
    /// reached, or it is too long. `head` may be cut short; without a whole header there is no answer.
    pub fn fail(&self, head: &[u8], failure: &io::Error, answer: &mut Vec<u8>) {
        answer.clear();
        let Ok((header, _)) = abi::InHeader::read_from_prefix(head) else { return };
        if !matches!(Route::<F>::of(header.opcode, 0), Route::Silent(_)) {
            reply::error(answer, reply::errno_of(failure), header.unique);
        }
    }

    /// Ends every waiting SETLKW: the device is about to stop.
    pub fn cancel_waits(&self) {
        self.fs.cancel_waits();
    }

    /// The guest or the front-end is gone: drops the mount with all its nodes, handles and locks. May
    /// block.
    pub fn reset(&self) {
        let _turn = self.turn.lock();
        self.session.close();
        self.fs.destroy();
    }

    fn parse<'a>(
        &self,
        head: &'a [u8],
        payload: usize,
        room: usize,
        features: Option<u64>,
    ) -> Option<Request<'a>> {
        Request::parse(head, payload, room, features.unwrap_or(0), self.session.max_write())
    }

    fn mount(&self, request: &Request<'_>, room: usize, answer: &mut Vec<u8>, _turn: MutexGuard<'_, ()>) {
        if self.session.close() {
            self.fs.destroy();
        }
        let mut reply = Reply::begin(answer, room);
        let result = mount::init(&self.fs, &self.session, request, &mut reply);
        reply.seal(request.header.unique, result);
    }

    fn answer(&self, request: &Request<'_>, len: usize, serve: Serve<F>, room: usize, answer: &mut Vec<u8>) {
        let mut reply = Reply::begin(answer, room);
        let result = if room < len { Err(Errno::INVAL) } else { serve(&self.fs, request, &mut reply) };
        reply.seal(request.header.unique, result);
    }

    fn start(
        &self,
        request: &Request<'_>,
        len: usize,
        start: fn(&F, &Request<'_>) -> Result<Transfer>,
        room: usize,
        answer: &mut Vec<u8>,
    ) -> Handled {
        match if room < len { Err(Errno::INVAL) } else { start(&self.fs, request) } {
            Ok(transfer) if transfer.len > 0 => return Handled::Transfer(transfer),
            Ok(transfer) => reply::transferred(answer, &transfer, Ok(0), request.header.unique),
            Err(errno) => reply::error(answer, errno, request.header.unique),
        }
        Handled::Reply
    }
}

/// Whether a request may be served at all.
///
/// # Errors
/// `EIO` before INIT and after DESTROY; `EINVAL` where the header contradicts the request's length.
fn admit<F>(request: &Request<'_>, route: &Route<F>, mounted: bool) -> Result<()> {
    if !mounted && !matches!(route, Route::Mount | Route::Unmount) {
        return Err(Errno::IO);
    }
    if !request.is_whole() {
        return Err(Errno::INVAL);
    }
    Ok(())
}
