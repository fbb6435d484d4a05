//! What do the fuzz targets share?
//!
//! | file | its question |
//! |---|---|
//! | `input` | which decision does the fuzzer's next byte make? |
//! | `ground` | where does the share lie, and what lies beside it that nobody may touch? |
//! | `disk` | which block devices does a guest get beside the share? |
//! | `blocks` | what does a guest do in a window over the device under the share, and what must hold? |
//! | `session` | what happens while a guest has the share mounted, and what must hold? |
//! | `descriptors` | which files does this process have open? |
//! | `messages` | what does a guest say in FUSE? |
//! | `file_messages` | what does a guest say of files that it has open, and reaches in a window? |
//! | `answers` | what may a guest be answered in FUSE? |
//! | `guest_memory` | what is in the guest's memory, and who changes it meanwhile? |
//! | `specification` | what may a device write that serves these descriptors? |
//!
//! A target is a program in `targets/`: it turns bytes into what an enemy can do, does that to the daemon's own code, and
//! panics where something holds no longer that must always hold. `README.md` says how to run them.

mod answers;
pub mod blocks;
pub mod descriptors;
pub mod disk;
mod file_messages;
pub mod ground;
pub mod guest_memory;
pub mod input;
pub mod messages;
pub mod session;
pub mod specification;
pub mod virtio_blk;
