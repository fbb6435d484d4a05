//! What does a thread need before it serves requests?
//!
//! A working directory and a umask belong to the whole process unless a thread asks for its own
//! (`unshare(CLONE_FS)`). Each serving thread does, the first time that it needs one of them, because
//!
//! - a new file must get exactly the mode that the guest asks for, so the umask must be 0; with ACLs it
//!   must be the caller's while a file is made, and no other thread may see that;
//! - the calls for extended attributes take no descriptor of the `O_PATH` sort but a path: with
//!   `/proc/self/fd` as the working directory, the path "N" is descriptor N.

use std::cell::Cell;
use std::os::fd::AsFd;

use rustix::fs::Mode;
use rustix::process::{fchdir, umask};

use super::{Passthrough, sys};
use crate::fuse::Result;

thread_local! {
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread, the first time, a working directory (`/proc/self/fd`) and a umask (0) of its own.
///
/// # Errors
/// Those of `unshare(2)` and `fchdir(2)`.
pub(super) fn prepare(fs: &Passthrough) -> Result<()> {
    if PREPARED.get() {
        return Ok(());
    }
    sys::unshare_fs()?;
    fchdir(fs.proc_self_fd.as_fd())?;
    umask(Mode::empty());
    PREPARED.set(true);
    Ok(())
}

/// While this lives, the thread's umask is another than 0.
pub(super) struct Umask;

impl Umask {
    /// Sets the umask of a prepared thread.
    pub(super) fn set(bits: u32) -> Self {
        umask(Mode::from_bits_truncate(bits & 0o777));
        Self
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(Mode::empty());
    }
}
