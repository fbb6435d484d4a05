//! Which part of the window stands for which file, and what may be done there now?
//!
//! The [`Window`] is the address space of the block device that the daemon serves beside the share. A file that
//! the guest may reach there has a *region* of it and a *grant*; a region's addresses are never given to another file, so
//! what a guest remembers for too long can only fail. The file system grants, ends and fences
//! (`docs/extent-protocol.md`); the device enters.
//!
//! | file | its question |
//! |---|---|
//! | `blocks` | where on the device under it does a range of a file lie? |
//! | `file` | what is a file of the host to those who move bytes? |
//! | `gate` | who is in a file just now, and how are they kept out? |
//! | `granted` | by which descriptors is a file reached of which something is granted? |
//! | `learn` | when does the window know the blocks of a file, and when not any more? |
//! | `recent` | which regions did this thread use last? |
//! | `room` | how much of the address space does a file get? |
//! | `sys` | the unsafe system calls |
//! | `unsynced` | what was written through the window and is not durable yet? |
//! | `volume` | which block device does the share lie on, and may a guest have it too? |
//! | `window` | where does an address lead? |
//!
//! This room knows neither FUSE nor virtqueues.

mod blocks;
mod file;
mod gate;
mod granted;
mod learn;
mod recent;
mod room;
mod sys;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_blocks;
mod unsynced;
mod volume;
mod window;

pub use blocks::{Locate, Location, MOST_PIECES, Piece};
pub use file::{DirectFile, HostFile};
pub use gate::Passage;
pub use volume::{Volume, VolumeError, VolumeUse};
pub use window::{Access, Fence, Identity, Mover, Region, Way, Window};
