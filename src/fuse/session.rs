//! Is there a mount, and what did guest and server agree upon?

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::abi::FUSE_INIT_RESERVED;

/// Marks a session that was set up. The protocol reserves this flag, so it is never agreed upon.
const MOUNTED: u64 = FUSE_INIT_RESERVED;

/// The state of the connection; its features in one word, so that every request reads them without a lock and never
/// sees half of a change.
#[derive(Debug, Default)]
pub(super) struct Session {
    features: AtomicU64,
    max_write: AtomicU32,
}

impl Session {
    /// The INIT flags of the mount, `None` before INIT and after DESTROY.
    pub(super) fn features(&self) -> Option<u64> {
        let word = self.features.load(Ordering::Acquire);
        (word & MOUNTED != 0).then_some(word & !MOUNTED)
    }

    /// Bytes of a WRITE at most, as the guest of the last mount was told.
    pub(super) fn max_write(&self) -> u32 {
        self.max_write.load(Ordering::Relaxed)
    }

    /// A guest has mounted.
    pub(super) fn open(&self, features: u64, max_write: u32) {
        self.max_write.store(max_write, Ordering::Relaxed);
        self.features.store(features | MOUNTED, Ordering::Release);
    }

    /// The mount is gone. Returns whether there was one.
    pub(super) fn close(&self) -> bool {
        self.features.swap(0, Ordering::AcqRel) & MOUNTED != 0
    }
}
