//! Is there a mount, and what did guest and server agree upon?

use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::FUSE_INIT_RESERVED;

/// Marks a session that was set up. The protocol reserves this flag, so it is never agreed upon.
const MOUNTED: u64 = FUSE_INIT_RESERVED;

/// The state of the connection, in one word, so that every request reads it without a lock and never
/// sees half of a change.
#[derive(Debug, Default)]
pub(super) struct Session(AtomicU64);

impl Session {
    /// The INIT flags of the mount, `None` before INIT and after DESTROY.
    pub(super) fn features(&self) -> Option<u64> {
        let word = self.0.load(Ordering::Acquire);
        (word & MOUNTED != 0).then_some(word & !MOUNTED)
    }

    /// A guest has mounted.
    pub(super) fn open(&self, features: u64) {
        self.0.store(features | MOUNTED, Ordering::Release);
    }

    /// The mount is gone. Returns whether there was one.
    pub(super) fn close(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) & MOUNTED != 0
    }
}
