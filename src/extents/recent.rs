//! Which regions did this thread use last?
//!
//! The table of regions is shared by all rings, and its lock with it. A thread that remembers the regions
//! of its last requests takes that lock only for others. What it remembers keeps no file: a region that ended is not found here
//! any more, or its gate says so.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::room::SMALLEST;
use super::window::{Granted, Place};

const PLACES: usize = 64;

/// Names a window, of which a process may have several (tests do).
pub(super) type WindowId = u64;

type Remembered = (WindowId, Place, Weak<Granted>);

thread_local! {
    static RECENT: RefCell<[Remembered; PLACES]> =
        const { RefCell::new([const { (0, Place::NOWHERE, Weak::new()) }; PLACES]) };
}

/// The region that holds `address`, if this thread remembers it.
pub(super) fn find(window: WindowId, address: u64) -> Option<(Place, Arc<Granted>)> {
    RECENT.with_borrow(|places| {
        let (its_window, place, granted) = places.get(slot(address))?;
        if *its_window == window && place.holds(address) { Some((*place, granted.upgrade()?)) } else { None }
    })
}

/// Remembers where `address` lies, in place of another region.
pub(super) fn remember(window: WindowId, address: u64, place: Place, granted: &Arc<Granted>) {
    RECENT.with_borrow_mut(|places| {
        if let Some(remembered) = places.get_mut(slot(address)) {
            *remembered = (window, place, Arc::downgrade(granted));
        }
    });
}

/// No two regions share a multiple of the smallest size, so each small file has one place.
fn slot(address: u64) -> usize {
    usize::try_from(address / SMALLEST).unwrap_or(0) % PLACES
}
