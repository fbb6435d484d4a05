//! One attempt at a movement, as a system call.

use std::io;

use libc::{c_int, off_t};

use super::movement::Attempt;
use crate::fuse::Direction;

/// Does `attempt` now, with more `RWF_*` flags. May wait, unless they forbid it.
pub(super) fn perform(attempt: &Attempt, flags: c_int) -> io::Result<usize> {
    let count = c_int::try_from(attempt.count).map_err(|_| io::ErrorKind::InvalidInput)?;
    let offset = off_t::try_from(attempt.offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    let flags = attempt.rw_flags | flags;
    let call = match attempt.direction {
        Direction::Read => libc::preadv2,
        Direction::Write => libc::pwritev2,
    };
    // SAFETY: the movement of this attempt keeps `count` buffers at `buffers`. They lie in guest memory, which
    // its slot keeps mapped and of which no Rust reference exists. The transfer keeps the file open.
    let moved = unsafe { call(attempt.file, attempt.buffers, count, offset, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
