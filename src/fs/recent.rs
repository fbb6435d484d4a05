//! Which open files did this thread serve last?
//!
//! The table of handles is shared by all rings, and its locks with it: uncontended they are cheap, but two rings
//! that read the same file would hand one cache line to and fro for each request. So each thread remembers
//! the files that it served last, and looks in the table only for others. What it remembers keeps no file
//! open: a RELEASE drops the table's reference, and then there is nothing left to find here.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::handle::OpenFile;
use crate::fuse::Fh;

/// A power of two: a handle's place is its number modulo this. A queue seldom works on more files at a time.
const PLACES: usize = 64;

/// Names a table of handles, of which a process may have several (tests do).
pub(super) type TableId = u64;

type Places = [(TableId, Fh, Weak<OpenFile>); PLACES];

thread_local! {
    static RECENT: RefCell<Places> = const { RefCell::new([const { (0, Fh(0), Weak::new()) }; PLACES]) };
}

/// The file, if this thread remembers it and it is still open.
pub(super) fn find(table: TableId, fh: Fh) -> Option<Arc<OpenFile>> {
    RECENT.with_borrow(|places| {
        let (its_table, its_fh, file) = places.get(place(fh))?;
        if (*its_table, *its_fh) == (table, fh) { file.upgrade() } else { None }
    })
}

/// Remembers a file in place of another.
pub(super) fn remember(table: TableId, fh: Fh, file: &Arc<OpenFile>) {
    RECENT.with_borrow_mut(|places| {
        if let Some(place) = places.get_mut(place(fh)) {
            *place = (table, fh, Arc::downgrade(file));
        }
    });
}

fn place(fh: Fh) -> usize {
    usize::try_from(fh.0).unwrap_or(0) % PLACES
}
