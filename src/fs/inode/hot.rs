//! Which files' descriptors are worth keeping open?
//!
//! A file that is referred to by handle would cost an `open_by_handle_at(2)` and a `close(2)` at every
//! operation. So the descriptor stays with the inode for a while. How many stay is bounded; which one
//! has to go is chosen by the CLOCK rule: a hand goes round, and takes the descriptor of the first inode
//! that has not been used since the hand's last visit. That needs no list to be reordered at every use,
//! only a flag to be set.
//!
//! One that is open for reading does all that an `O_PATH` one does, and spares the next open(2) as well, so it takes the
//! place of the other (see [`reader`](super::super::reader)).
//!
//! Users hold a [`PathFd`], which counts references: a descriptor that loses its place is closed when its
//! last user is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Inode;

/// A descriptor that says which file is meant, `O_PATH` or more, and stays open while this value lives.
#[derive(Clone, Debug)]
pub(crate) struct PathFd(Arc<OwnedFd>);

impl PathFd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// The same descriptor, for an open file.
    pub(crate) fn share(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The inodes that hold a descriptor for the moment.
pub(crate) struct HotDescriptors {
    capacity: usize,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Clock {
    places: Vec<Weak<Inode>>,
    hand: usize,
}

impl HotDescriptors {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, clock: Mutex::default() }
    }

    /// Leaves `fd` with its inode, and takes another inode's away where there are too many. `reads`: it is open for
    /// reading, which is better than one that is not.
    pub(crate) fn keep(&self, inode: &Arc<Inode>, fd: &PathFd, reads: bool) {
        if self.capacity == 0 {
            return;
        }
        // Locks: the clock's, then an inode's; `Inode::hot` takes only the latter.
        let mut clock = self.clock.lock();
        let (added, replaced) = inode.set_hot(fd, reads);
        let evicted = if added { clock.place(self.capacity, Arc::downgrade(inode)) } else { None };
        drop(clock);
        // Only now, because this may close a descriptor or free an inode.
        drop((evicted, replaced));
    }

    /// Takes every inode's descriptor away.
    pub(crate) fn clear(&self) {
        let places = std::mem::take(&mut *self.clock.lock()).places;
        for inode in places.iter().filter_map(Weak::upgrade) {
            inode.take_hot();
        }
    }
}

impl Clock {
    /// Puts an inode in a place, and returns the one that had it together with its descriptor.
    fn place(&mut self, capacity: usize, inode: Weak<Inode>) -> Option<(Arc<Inode>, Option<PathFd>)> {
        if self.places.len() < capacity {
            self.places.push(inode);
            return None;
        }
        // Users may set the flags as fast as the hand clears them: after one round anyone goes.
        let mut mercy = self.places.len();
        loop {
            self.hand = (self.hand + 1) % self.places.len();
            let place = self.places.get_mut(self.hand)?;
            let holder = place.upgrade();
            match holder {
                Some(holder) if mercy > 0 && holder.was_used() => mercy -= 1,
                holder => {
                    *place = inode;
                    return holder.map(|holder| {
                        let fd = holder.take_hot();
                        (holder, fd)
                    });
                }
            }
        }
    }
}
