//! Which regions did this thread use last?
//!
//! The table of regions is shared by all rings, and its lock with it. A thread that remembers the regions
//! of its requests takes that lock only for the first of each. What it remembers keeps no file: a region that ended is not
//! found here any more, or its gate says so. Addresses never come back, so what is found is never wrong.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::granted::Granted;
use super::window::Place;

/// Regions of one thread. As many files are seldom read and written by one queue at a time, and a search among them is
/// nine steps.
const PLACES: usize = 512;

/// Names a window, of which a process may have several (tests do).
pub(super) type WindowId = u64;

struct Recent {
    window: WindowId,
    /// By address.
    regions: Vec<(Place, Weak<Granted>)>,
}

thread_local! {
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent { window: 0, regions: Vec::new() }) };
}

impl Recent {
    /// How many regions begin at `address` or before.
    fn rank(&self, address: u64) -> usize {
        self.regions.partition_point(|(place, _)| place.address <= address)
    }
}

/// The region that holds `address`, if this thread remembers it.
pub(super) fn find(window: WindowId, address: u64) -> Option<(Place, Arc<Granted>)> {
    RECENT.with_borrow(|recent| {
        if recent.window != window {
            return None;
        }
        let (place, granted) = recent.regions.get(recent.rank(address).checked_sub(1)?)?;
        if place.holds(address) { Some((*place, granted.upgrade()?)) } else { None }
    })
}

/// Remembers a region.
pub(super) fn remember(window: WindowId, place: Place, granted: &Arc<Granted>) {
    RECENT.with_borrow_mut(|recent| {
        if recent.window != window {
            recent.regions.clear();
            recent.window = window;
        }
        if recent.regions.len() >= PLACES {
            recent.regions.retain(|(_, granted)| granted.strong_count() > 0);
        }
        if recent.regions.len() >= PLACES {
            recent.regions.clear();
        }
        let rank = recent.rank(place.address);
        let known = rank.checked_sub(1).and_then(|at| recent.regions.get_mut(at));
        match known.filter(|(known, _)| known.address == place.address) {
            Some(known) => known.1 = Arc::downgrade(granted),
            None => recent.regions.insert(rank, (place, Arc::downgrade(granted))),
        }
    });
}
