//! Is a byte of guest memory believed more than once?
//!
//! A guest can change its memory between two reads of ours, so what was checked at the first must not be used at the
//! second (a *double fetch*). Each place that copies descriptors, heads or payloads out of guest memory reports here
//! what it copied. In the daemon that is nothing. In tests the bytes can be made to *burn*: what was read is
//! destroyed in guest memory before anything is done with the copy, so whoever looks a second time finds something else.

/// `len` bytes of guest memory from `at` on were copied, and only the copy is to be used from now on.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn was_read(_at: *mut u8, _len: usize) {}

#[cfg(test)]
pub(super) use burning::{burn, was_read};

#[cfg(test)]
mod burning {
    use std::cell::Cell;

    thread_local! {
        static BURNS: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on what this thread reads of guest memory is gone afterwards.
    pub(in crate::ring) fn burn() {
        BURNS.set(true);
    }

    pub(in crate::ring) fn was_read(at: *mut u8, len: usize) {
        if BURNS.get() {
            // SAFETY: the caller has just read these bytes of a mapping that can be written.
            unsafe { at.write_bytes(0xff, len) };
        }
    }
}
