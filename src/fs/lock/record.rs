//! How does a lock of FUSE read as a `struct flock`, and back?

use rustix::io::Errno;

use crate::fuse::{Lock, LockKind, Result};

/// `l_type` and `l_whence` are of type `short`; the values are 0 to 2.
#[allow(clippy::cast_possible_truncation)]
const READ: libc::c_short = libc::F_RDLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const WRITE: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const UNLOCK: libc::c_short = libc::F_UNLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// For the system call; `l_pid` has to be 0 in a lock of an open file description.
///
/// # Errors
/// `EINVAL`: the range ends before it starts, or starts beyond `i64::MAX`.
pub(super) fn to_host(lock: &Lock) -> Result<libc::flock> {
    let start = i64::try_from(lock.start).map_err(|_| Errno::INVAL)?;
    // A length of 0 reaches to the end, however far that is.
    let len = match i64::try_from(lock.end) {
        Ok(end) if end < i64::MAX => {
            end.checked_sub(start).ok_or(Errno::INVAL)?.checked_add(1).ok_or(Errno::INVAL)?
        }
        _ => 0,
    };
    if lock.end < lock.start {
        return Err(Errno::INVAL);
    }
    let kind = match lock.kind {
        LockKind::Read => READ,
        LockKind::Write => WRITE,
        LockKind::Unlock => UNLOCK,
    };
    Ok(libc::flock { l_type: kind, l_whence: FROM_START, l_start: start, l_len: len, l_pid: 0 })
}

/// What `F_OFD_GETLK` answered to `asked`.
///
/// # Errors
/// `EIO`: the answer makes no sense.
pub(super) fn from_host(found: &libc::flock, asked: &Lock) -> Result<Lock> {
    let kind = match found.l_type {
        READ => LockKind::Read,
        WRITE => LockKind::Write,
        _ => return Ok(Lock { kind: LockKind::Unlock, pid: 0, ..*asked }),
    };
    let start = u64::try_from(found.l_start).map_err(|_| Errno::IO)?;
    let end = match u64::try_from(found.l_len).map_err(|_| Errno::IO)? {
        0 => i64::MAX.unsigned_abs(),
        len => start.checked_add(len - 1).ok_or(Errno::IO)?,
    };
    Ok(Lock { start, end, kind, pid: 0 })
}

/// An exclusive lock of the same range.
pub(super) fn exclusive(lock: &libc::flock) -> libc::flock {
    libc::flock { l_type: WRITE, l_pid: 0, ..*lock }
}

/// Gives up the whole file.
pub(super) fn everything() -> libc::flock {
    libc::flock { l_type: UNLOCK, l_whence: FROM_START, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Whether `F_OFD_GETLK` found nothing in the way.
pub(super) fn is_free(found: &libc::flock) -> bool {
    found.l_type == UNLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = i64::MAX as u64;

    fn lock(start: u64, end: u64) -> Lock {
        Lock { start, end, kind: LockKind::Write, pid: 7 }
    }

    #[test]
    fn ranges_there_and_back() {
        for (start, end, len) in [(0, 0, 1), (5, 9, 5), (0, END, 0), (END, END, 0), (0, END - 1, i64::MAX)] {
            let host = to_host(&lock(start, end)).unwrap();
            assert_eq!((host.l_start, host.l_len), (i64::try_from(start).unwrap(), len));
            let back = from_host(&host, &lock(1, 2)).unwrap();
            assert_eq!((back.start, back.end, back.kind), (start, end, LockKind::Write));
        }
        // Some kernels mean "to the end" by all ones.
        assert_eq!(to_host(&lock(3, u64::MAX)).unwrap().l_len, 0);
    }

    #[test]
    fn impossible_ranges() {
        for (start, end) in [(1, 0), (END + 1, END + 1), (u64::MAX, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(to_host(&lock(start, end)).map(drop), Err(Errno::INVAL), "{start} {end}");
        }
    }
}
