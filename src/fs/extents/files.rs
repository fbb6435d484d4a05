//! Who has a file open, what was given for it, and who is about to end that?
//!
//! One record for each file that the guest has open, or that is being changed. Its lock is held for no longer than it
//! takes to open a file, and READ and WRITE never take it. What has to wait for requests of the window *claims* the
//! record instead: while it is claimed no map is given, and opens and closes are counted all the same. So, whenever
//! a record is not claimed, something was granted only if there is an open, and something to write
//! only if there is one for writing.
//!
//! Locks: a shard of the table, then the record. Nothing is locked inside the record's but a shard of the inode table.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::pin::Pin;
use crate::extents::Access;
use crate::fs::handle::OpenFile;
use crate::fuse::NodeId;

/// A power of two; enough that the threads of a few rings seldom meet.
const SHARDS: usize = 16;

/// The records.
#[derive(Default)]
pub(super) struct Files {
    shards: [Mutex<HashMap<NodeId, Entry>>; SHARDS],
}

struct Entry {
    file: Arc<Record>,
    /// Opens and claims; the entry goes with the last.
    users: usize,
}

/// One file.
#[derive(Default)]
pub(super) struct Record {
    state: Mutex<State>,
    /// A claim has ended.
    free: Condvar,
}

/// What is known of one file.
#[derive(Default)]
pub(super) struct State {
    /// By the address that tells one from another for as long as it is here.
    opens: HashMap<usize, Weak<OpenFile>>,
    writers: usize,
    /// Where the file is direct and lies on a device of the guest's.
    pub(super) pin: Option<Arc<Pin>>,
    /// The most that was given for the file and not taken back.
    pub(super) granted: Option<Access>,
    /// Somebody waits for requests of the window, or keeps them off.
    pub(super) claimed: bool,
}

/// A claimed file.
pub(super) struct Claim<'a> {
    files: &'a Files,
    node: NodeId,
    file: Arc<Record>,
}

impl State {
    /// One of the opens.
    pub(super) fn any(&self) -> Option<Arc<OpenFile>> {
        self.opens.values().find_map(Weak::upgrade)
    }

    /// Notes that something was granted.
    pub(super) fn grant(&mut self, access: Access) {
        match access {
            Access::Read => drop(self.granted.get_or_insert(access)),
            Access::Write => self.granted = Some(access),
        }
    }

    /// Whether one of the opens is for writing.
    pub(super) fn has_writer(&self) -> bool {
        self.writers > 0
    }

    /// What may stay granted with the opens that there are.
    fn justified(&self) -> Option<Access> {
        match self.granted {
            Some(_) if self.opens.is_empty() => None,
            Some(Access::Write) if self.writers == 0 => Some(Access::Read),
            granted => granted,
        }
    }

    fn take(&mut self, file: &Arc<OpenFile>) -> bool {
        let known = self.opens.remove(&name(file)).is_some();
        if known && file.writable {
            self.writers = self.writers.saturating_sub(1);
        }
        known
    }

    /// Lets go of the pin of a file that nobody has open or is about to close: whoever still moves bytes of it by way of the pin
    /// must share that with the next open.
    fn unpin(&mut self) {
        if self.opens.is_empty() && self.granted.is_none() && !self.claimed {
            self.pin = None;
        }
    }
}

fn name(file: &Arc<OpenFile>) -> usize {
    Arc::as_ptr(file).addr()
}

impl Record {
    /// The state, once nobody claims it.
    pub(super) fn unclaimed(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while state.claimed {
            self.free.wait(&mut state);
        }
        state
    }

    fn unclaim(&self) {
        self.state.lock().claimed = false;
        self.free.notify_all();
    }

    /// Takes back all but what `left` says, by `end`, which may wait. Where there is nothing to take back it waits for
    /// nobody.
    fn reduce(&self, left: impl Fn(&State) -> Option<Access>, end: impl FnOnce(Option<Access>)) {
        let mut state = self.state.lock();
        let left = loop {
            // Anew after each wait: there may be another open by then.
            let left = left(&state);
            if state.granted.is_none() || same(state.granted, left) {
                return;
            }
            if !state.claimed {
                break left;
            }
            self.free.wait(&mut state);
        };
        state.granted = left;
        state.claimed = true;
        drop(state);
        end(left);
        self.unclaim();
    }
}

fn same(one: Option<Access>, other: Option<Access>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => matches!(one, Access::Write) == matches!(other, Access::Write),
        (one, other) => one.is_none() == other.is_none(),
    }
}

impl Files {
    /// The record of a file.
    pub(super) fn get(&self, node: NodeId) -> Option<Arc<Record>> {
        self.shard(node).lock().get(&node).map(|entry| entry.file.clone())
    }

    /// Whether a file has a record of which this is true.
    pub(super) fn look(&self, node: NodeId, holds: impl FnOnce(&State) -> bool) -> bool {
        self.get(node).is_some_and(|file| holds(&file.state.lock()))
    }

    /// Counts an open in, and says whether it, and so all of them, shall have a pin.
    pub(super) fn open(&self, file: &Arc<OpenFile>, pinned: bool) {
        let record = self.enter(file.inode.node());
        let mut state = record.state.lock();
        if pinned {
            let pin = state.pin.get_or_insert_default();
            file.pin.get_or_init(|| pin.clone());
        } else if state.opens.is_empty() {
            state.pin = None;
        }
        state.opens.insert(name(file), Arc::downgrade(file));
        state.writers += usize::from(file.writable);
    }

    /// Counts an open out. Calls `end`, which may wait, with what stays granted, where that is less than before.
    pub(super) fn close(&self, file: &Arc<OpenFile>, end: impl FnOnce(Option<Access>)) {
        let node = file.inode.node();
        let Some(record) = self.get(node) else { return };
        if record.state.lock().take(file) {
            record.reduce(State::justified, end);
            record.state.lock().unpin();
            self.leave(node, &record);
        }
    }

    /// Takes back everything that was granted for a file.
    pub(super) fn forget(&self, node: NodeId, end: impl FnOnce()) {
        if let Some(record) = self.get(node) {
            record.reduce(|_| None, |_| end());
        }
    }

    /// Claims a file, open or not. Waits for those who claim it already.
    pub(super) fn claim(&self, node: NodeId) -> Claim<'_> {
        let file = self.enter(node);
        file.unclaimed().claimed = true;
        Claim { files: self, node, file }
    }

    /// Forgets every open, and waits until whoever is giving a map has given it.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let entries = std::mem::take(&mut *shard.lock());
            for Entry { file, .. } in entries.into_values() {
                let mut state = file.state.lock();
                *state = State { claimed: state.claimed, ..State::default() };
            }
        }
    }

    fn enter(&self, node: NodeId) -> Arc<Record> {
        let mut shard = self.shard(node).lock();
        let entry = shard.entry(node).or_insert_with(|| Entry { file: Arc::default(), users: 0 });
        entry.users += 1;
        entry.file.clone()
    }

    fn leave(&self, node: NodeId, file: &Arc<Record>) {
        let mut shard = self.shard(node).lock();
        let Some(entry) = shard.get_mut(&node).filter(|entry| Arc::ptr_eq(&entry.file, file)) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            shard.remove(&node);
        }
    }

    fn shard(&self, node: NodeId) -> &Mutex<HashMap<NodeId, Entry>> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(node.0).unwrap_or(0) % SHARDS;
        self.shards.get(index).unwrap_or(first)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.file.unclaim();
        self.files.leave(self.node, &self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Config;
    use crate::fs::tests::files::Share;

    /// A pin is what keeps those who move bytes of a file apart: there must not be two of one file.
    #[test]
    fn an_open_during_the_last_close_has_the_same_pin() {
        let share = Share::new(Config::default());
        let node = share.file("a", b"");
        let open = || share.fs.handles.file(node, share.open(node, libc::O_RDWR).unwrap().fh).unwrap();
        let files = Files::default();
        let pin = |file: &Arc<OpenFile>| Arc::as_ptr(file.pin.get().unwrap());

        let (first, second, third) = (open(), open(), open());
        files.open(&first, true);
        files.get(node).unwrap().state.lock().grant(Access::Write);
        let mut ended = false;
        files.close(&first, |left| {
            assert!(left.is_none());
            files.open(&second, true);
            ended = true;
        });
        assert!(ended);
        assert_eq!(pin(&first), pin(&second));
        files.open(&third, true);
        files.close(&second, |_| panic!("nothing is granted"));
        files.close(&third, |_| panic!("nothing is granted"));
        assert_eq!(pin(&first), pin(&third));

        // A claim outlasts the last close; what is opened then is another thing where it is not direct.
        let (fourth, fifth, sixth) = (open(), open(), open());
        files.open(&fourth, true);
        let claim = files.claim(node);
        files.close(&fourth, |_| panic!("nothing is granted"));
        files.open(&fifth, true);
        assert_eq!(pin(&fourth), pin(&fifth));
        files.close(&fifth, |_| panic!("nothing is granted"));
        files.open(&sixth, false);
        assert!(sixth.pin.get().is_none());
        assert!(files.get(node).unwrap().state.lock().pin.is_none());
        drop(claim);
        files.close(&sixth, |_| panic!("nothing is granted"));
        assert!(files.get(node).is_none());
    }
}
