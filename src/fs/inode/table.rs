//! Which inode has this nodeid, or this identity?
//!
//! Two maps: nodeid to inode, which every request goes through, and identity to inode, by which a
//! LOOKUP finds what the guest knows already. Each is cut into shards with a lock each. An inode is in
//! both until the guest has given back all its references; but one whose inode number the host gave to
//! another file loses its place in the identity map at once (it is *detached*) and is then found by
//! nodeid only.
//!
//! Exactness of nlookup: a reference is added only under the lock (shared is enough) of the identity's
//! shard, to an inode that is in the map. FORGET subtracts without a lock; the one that reaches zero takes the
//! same lock exclusively, and removes the inode if its count is still zero then. So a LOOKUP either finds
//! the inode and its reference keeps it, or comes after the removal and does not find it; and an inode
//! with references is never removed.
//!
//! Nodeids are counted up and never given twice, so a stale one can only fail.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::RwLock;
use rustix::io::Errno;

use super::{Identity, Inode};
use crate::fuse::{NodeId, Result};
use crate::metrics::Limit;

/// A power of two; enough that the threads of a few rings seldom meet.
const SHARDS: usize = 16;

type Shard = RwLock<HashTable<Arc<Inode>>>;

/// The inodes that the guest knows.
pub(crate) struct InodeTable {
    root: Arc<Inode>,
    hasher: DefaultHashBuilder,
    by_node: [Shard; SHARDS],
    by_identity: [Shard; SHARDS],
    next_node: AtomicU64,
    limit: Arc<Limit>,
}

/// What [`InodeTable::acquire`] found.
#[derive(Debug)]
pub(crate) enum Acquired {
    /// The inode; the guest has one reference more.
    Taken(Arc<Inode>),
    /// An inode with that identity, but not accepted as the same file.
    Other(Arc<Inode>),
    /// Nothing.
    Unknown,
}

/// What [`InodeTable::insert`] did.
#[derive(Debug)]
pub(crate) enum Inserted {
    /// The inode is known now, and the guest has one reference to it.
    Added(Arc<Inode>),
    /// Another thread was faster; the inode that was to be inserted comes back.
    Raced(Inode),
}

impl InodeTable {
    /// A table that knows the root only, and will know as many files beside it as the limit has room for.
    pub(crate) fn new(mut root: Inode, limit: Arc<Limit>) -> Self {
        root.node = NodeId::ROOT;
        let table = Self {
            root: Arc::new(root),
            hasher: DefaultHashBuilder::default(),
            by_node: Default::default(),
            by_identity: Default::default(),
            next_node: AtomicU64::new(NodeId::ROOT.0 + 1),
            limit,
        };
        table.add_root();
        table
    }

    /// How many files the guest knows, beside the root.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.limit.used()
    }

    /// The inode with this nodeid.
    pub(crate) fn get(&self, node: NodeId) -> Option<Arc<Inode>> {
        let hash = self.hash(&node);
        shard(&self.by_node, hash).read().find(hash, |inode| inode.node == node).cloned()
    }

    /// Finds the inode with this identity and, where `same` accepts it, takes a reference for the guest.
    /// `same` is called with a lock held and must be quick.
    pub(crate) fn acquire(&self, identity: &Identity, same: impl FnOnce(&Inode) -> bool) -> Acquired {
        let hash = self.hash(identity);
        let inodes = shard(&self.by_identity, hash).read();
        match inodes.find(hash, |inode| inode.identity == *identity) {
            None => Acquired::Unknown,
            Some(inode) if same(inode) => {
                inode.nlookup.fetch_add(1, Ordering::Relaxed);
                Acquired::Taken(inode.clone())
            }
            Some(inode) => Acquired::Other(inode.clone()),
        }
    }

    /// Takes one more reference to an inode for the guest.
    ///
    /// # Errors
    /// `ESTALE`: it is detached, or the guest has just forgotten it.
    pub(crate) fn reference(&self, inode: &Arc<Inode>) -> Result<()> {
        match self.acquire(&inode.identity, |found| std::ptr::eq(found, &raw const **inode)) {
            Acquired::Taken(_) => Ok(()),
            _ => Err(Errno::STALE),
        }
    }

    /// Gives a new inode a nodeid and its first reference. `replaces` is what [`acquire`](Self::acquire)
    /// called [`Acquired::Other`], and is detached.
    ///
    /// # Errors
    /// `ENFILE`: the table is full. `EIO`: the file has the root's numbers and is another, on a file system that gives them twice.
    pub(crate) fn insert(&self, mut new: Inode, replaces: Option<&Arc<Inode>>) -> Result<Inserted> {
        let hash = self.hash(&new.identity);
        let mut inodes = shard(&self.by_identity, hash).write();
        if let Ok(entry) = inodes.find_entry(hash, |inode| inode.identity == new.identity) {
            if Arc::ptr_eq(entry.get(), &self.root) {
                return Err(Errno::IO);
            }
            if !replaces.is_some_and(|old| Arc::ptr_eq(old, entry.get())) {
                return Ok(Inserted::Raced(new));
            }
            entry.remove();
        }
        if !self.limit.take(1) {
            return Err(Errno::NFILE);
        }
        new.node = NodeId(self.next_node.fetch_add(1, Ordering::Relaxed));
        new.nlookup = AtomicU64::new(1);
        let new = Arc::new(new);
        self.add(&self.by_node, &new, |inode| self.hash(&inode.node));
        inodes.insert_unique(hash, new.clone(), |inode| self.hash(&inode.identity));
        Ok(Inserted::Added(new))
    }

    /// FORGET: the guest gives back references. More than it has counts as all; the root and unknown
    /// nodes are ignored. Returns whether the guest does not know the file any more.
    pub(crate) fn forget(&self, node: NodeId, nlookup: u64) -> bool {
        if node == NodeId::ROOT {
            return false;
        }
        let Some(inode) = self.get(node) else { return false };
        let left = |held: u64| Some(held.saturating_sub(nlookup));
        // `left` never declines, so both arms hold the count from before.
        let (Ok(before) | Err(before)) =
            inode.nlookup.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        before <= nlookup && self.remove_unreferenced(&inode)
    }

    fn remove_unreferenced(&self, inode: &Arc<Inode>) -> bool {
        let hash = self.hash(&inode.identity);
        let mut inodes = shard(&self.by_identity, hash).write();
        if inode.nlookup.load(Ordering::Relaxed) != 0 {
            return false;
        }
        // The caller holds the inode too, so nothing is closed while the locks are held.
        if let Ok(entry) = inodes.find_entry(hash, |found| Arc::ptr_eq(found, inode)) {
            entry.remove();
        }
        let hash = self.hash(&inode.node);
        if let Ok(entry) =
            shard(&self.by_node, hash).write().find_entry(hash, |found| Arc::ptr_eq(found, inode))
        {
            entry.remove();
            self.limit.give_back(1);
        }
        true
    }

    /// Forgets everything but the root.
    pub(crate) fn clear(&self) {
        for shard in &self.by_identity {
            shard.write().retain(|inode| inode.node == NodeId::ROOT);
        }
        for shard in &self.by_node {
            shard.write().retain(|inode| {
                let keep = inode.node == NodeId::ROOT;
                if !keep {
                    self.limit.give_back(1);
                }
                keep
            });
        }
    }

    fn add_root(&self) {
        self.add(&self.by_node, &self.root, |inode| self.hash(&inode.node));
        self.add(&self.by_identity, &self.root, |inode| self.hash(&inode.identity));
    }

    fn add(&self, map: &[Shard; SHARDS], inode: &Arc<Inode>, hash: impl Fn(&Arc<Inode>) -> u64) {
        let own = hash(inode);
        shard(map, own).write().insert_unique(own, inode.clone(), hash);
    }

    fn hash(&self, key: &impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }
}

/// The shard that a hash belongs to. The table inside goes by the lowest and the highest bits of the
/// hash, so the shard is chosen by others.
fn shard(map: &[Shard; SHARDS], hash: u64) -> &Shard {
    let [first, ..] = map;
    let index = usize::try_from((hash >> 32) & 0xf).unwrap_or(0);
    map.get(index).unwrap_or(first)
}
