//! Operations on locks: GETLK, SETLK and SETLKW.

use rustix::io::Errno;

use crate::fuse::FileSystem;
use crate::fuse::abi;
use crate::fuse::encode;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::server::Respond;
use crate::fuse::types::{Fh, Lock, LockKind, LockRequest, Result};

/// GETLK.
///
/// # Errors
/// `EINVAL` for the question whether "no lock" would be in the way of anything.
pub(in crate::fuse) fn getlk<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let lock = decode(request)?;
    if lock.lock.kind == LockKind::Unlock {
        return Err(Errno::INVAL);
    }
    let lk = encode::file_lock(&fs.getlk(request.node(), &lock)?);
    reply.push(&abi::LkOut { lk })
}

/// SETLK.
pub(in crate::fuse) fn setlk<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    fs.setlk(request.node(), &decode(request)?)
}

/// SETLKW: `respond` goes with the request until the lock is there.
pub(in crate::fuse) fn setlkw<F: FileSystem>(fs: &F, request: &Request<'_>, respond: Respond) {
    let unique = request.header.unique;
    let done = move |result| {
        let mut answer = Vec::new();
        Reply::begin(&mut answer, 0).seal(unique, result);
        respond(answer);
    };
    match decode(request) {
        Ok(lock) => fs.setlkw(request.node(), &lock, Box::new(done)),
        Err(errno) => done(Err(errno)),
    }
}

fn decode(request: &Request<'_>) -> Result<LockRequest> {
    let mut body = request.body;
    let wire: abi::LkIn = body.take()?;
    let kind = match wire.lk.kind {
        abi::F_RDLCK => LockKind::Read,
        abi::F_WRLCK => LockKind::Write,
        abi::F_UNLCK => LockKind::Unlock,
        _ => return Err(Errno::INVAL),
    };
    // OFFSET_MAX, the largest loff_t, stands for the end of the file.
    if wire.lk.start > wire.lk.end || wire.lk.end > i64::MAX.cast_unsigned() {
        return Err(Errno::INVAL);
    }
    Ok(LockRequest {
        fh: Fh(wire.fh),
        owner: wire.owner,
        lock: Lock { start: wire.lk.start, end: wire.lk.end, kind, pid: wire.lk.pid },
        flock: wire.lk_flags & abi::FUSE_LK_FLOCK != 0,
    })
}
