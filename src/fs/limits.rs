//! Which bounds are there on what the guest can make the daemon hold?

use std::sync::Arc;

use super::config::Limits;
use crate::metrics::Limit;

/// One for each bound of [`Limits`] that refuses something, under the name of its option.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) nodes: Arc<Limit>,
    pub(super) handles: Arc<Limit>,
    pub(super) window_opens: Arc<Limit>,
    pub(super) locks: Arc<Limit>,
    pub(super) lock_waiters: Arc<Limit>,
    pub(super) allocate: Arc<Limit>,
    pub(super) xattr: Arc<Limit>,
}

impl Bounds {
    pub(super) fn new(limits: &Limits) -> Self {
        let limit = |name, max| Arc::new(Limit::new(name, max));
        Self {
            nodes: limit("--max-nodes", limits.max_nodes),
            handles: limit("--max-handles", limits.max_handles),
            window_opens: limit("--max-window-files", limits.max_window_opens),
            locks: limit("--max-locks", limits.max_locks),
            lock_waiters: limit("--max-lock-waiters", limits.max_lock_waiters),
            allocate: limit("--max-allocate", limits.max_allocate),
            xattr: limit("--max-xattr", limits.max_xattr),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Limit>> {
        let Self { nodes, handles, window_opens, locks, lock_waiters, allocate, xattr } = self;
        [nodes, handles, window_opens, locks, lock_waiters, allocate, xattr].map(Arc::clone).into()
    }
}
