//! By which descriptors is a file reached of which something is granted?
//!
//! One to read, one to write once that is granted; and both once more where the file's blocks are known (`learn`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::blocks::{Blocks, OnBlocks};
use super::file::HostFile;
use super::gate::Gate;
use super::learn::Progress;
use super::unsynced::Unsynced;
use super::volume::Volume;
use super::window::Access;

/// A file of which something is granted.
#[derive(Debug, Default)]
pub(super) struct Granted {
    key: u64,
    /// What tells the file from others on the device under it, where its blocks can be found.
    number: Option<u64>,
    gate: Gate,
    files: RwLock<Files>,
    /// Writes are granted. Looked at inside the gate.
    writable: AtomicBool,
    /// Written since it was last synced, and entered in `unsynced`.
    pub(super) dirty: AtomicBool,
    unsynced: Arc<Unsynced>,
    pub(super) progress: Progress,
}

/// The descriptors by which a granted file is reached.
#[derive(Debug, Default)]
struct Files {
    reader: Option<Arc<dyn HostFile>>,
    writer: Option<Arc<dyn HostFile>>,
    placed: Option<Placed>,
}

/// The same where the file's blocks are known.
#[derive(Debug)]
pub(super) struct Placed {
    blocks: Arc<Blocks>,
    volume: Arc<Volume>,
    reader: Option<Arc<dyn HostFile>>,
    writer: Option<Arc<dyn HostFile>>,
}

impl Placed {
    /// Whether these are the same blocks.
    pub(super) fn is_on(&self, blocks: &Blocks) -> bool {
        self.blocks.are(blocks)
    }
}

/// How a range of a file is reached.
pub(super) struct Found {
    pub(super) file: Arc<dyn HostFile>,
    /// All of it on known blocks.
    pub(super) on_device: bool,
}

impl Granted {
    pub(super) fn new(key: u64, number: Option<u64>, unsynced: &Arc<Unsynced>) -> Arc<Self> {
        Arc::new(Self { key, number, unsynced: Arc::clone(unsynced), ..Self::default() })
    }

    /// The file system's name of the file.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.number
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Notes a write that is complete. To be called inside the gate.
    pub(super) fn set_dirty(self: &Arc<Self>) {
        // A load first: many writes, one of which makes the difference.
        if self.dirty.load(Ordering::SeqCst) {
            return;
        }
        let file = {
            let files = self.files.read();
            // Rather that for reading: whoever wants to execute the file must not find it open for writing.
            files.reader.clone().or_else(|| files.writer.clone())
        };
        if let Some(file) = file {
            self.unsynced.enter(self, file);
        }
    }

    /// The descriptors for a range. To be called inside the gate.
    pub(super) fn find(&self, access: Access, offset: u64, len: u64) -> Option<Found> {
        let files = self.files.read();
        let Some(placed) = &files.placed else {
            let file = pick(access, files.reader.as_ref(), files.writer.as_ref())?.clone();
            return Some(Found { file, on_device: false });
        };
        let file = pick(access, placed.reader.as_ref(), placed.writer.as_ref())?;
        let on_device = file.on_device(offset, len).is_some();
        Some(Found { file: file.clone(), on_device })
    }

    /// That to read by way of the file system.
    pub(super) fn reader(&self) -> Option<Arc<dyn HostFile>> {
        self.files.read().reader.clone()
    }

    /// That to write by way of the file system.
    pub(super) fn writer(&self) -> Option<Arc<dyn HostFile>> {
        self.files.read().writer.clone()
    }

    pub(super) fn access(&self) -> Access {
        if self.may_write() { Access::Write } else { Access::Read }
    }

    /// Whether writes are granted.
    pub(super) fn may_write(&self) -> bool {
        self.writable.load(Ordering::SeqCst)
    }

    /// Grants access by this file, where there is none for it yet.
    pub(super) fn grant(&self, file: &Arc<dyn HostFile>, access: Access) {
        let mut files = self.files.write();
        let Files { reader, writer, placed } = &mut *files;
        reader.get_or_insert_with(|| Arc::clone(file));
        if access == Access::Write {
            let writer = writer.get_or_insert_with(|| Arc::clone(file));
            if let Some(Placed { blocks, volume, writer: on_blocks, .. }) = placed {
                on_blocks.get_or_insert_with(|| OnBlocks::to_write(writer, blocks, volume));
            }
            self.writable.store(true, Ordering::SeqCst);
        }
    }

    /// Takes the right to write away, and waits until nobody is inside. Returns whether reads keep the file open for
    /// writing.
    pub(super) fn end_writes(&self) -> bool {
        // In this order: who enters behind the fence sees that writes are over.
        self.writable.store(false, Ordering::SeqCst);
        self.gate.fence();
        let (ended, shared) = {
            let mut files = self.files.write();
            let writer = files.writer.take();
            let on_blocks = files.placed.as_mut().and_then(|placed| placed.writer.take());
            let shared = writer.as_ref().zip(files.reader.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
            ((writer, on_blocks), shared)
        };
        self.gate.open();
        drop(ended);
        shared
    }

    /// Ends everything, and waits until nobody is inside.
    pub(super) fn end(&self) {
        self.gate.revoke();
        drop(std::mem::take(&mut *self.files.write()));
        // Nobody is inside any more, so the mark is the last word.
        if self.dirty.load(Ordering::SeqCst) {
            self.unsynced.region_ended();
        }
    }

    /// From now on the file is read and written on these blocks, or on none. Returns what was before, to be dropped without a
    /// lock. For who keeps everybody out.
    pub(super) fn place(&self, blocks: Option<Arc<Blocks>>, volume: &Arc<Volume>) -> Option<Placed> {
        let mut files = self.files.write();
        let placed = blocks.map(|blocks| Placed {
            reader: files.reader.as_ref().map(|file| OnBlocks::to_read(file, &blocks, volume)),
            writer: files.writer.as_ref().map(|file| OnBlocks::to_write(file, &blocks, volume)),
            volume: Arc::clone(volume),
            blocks,
        });
        std::mem::replace(&mut files.placed, placed)
    }

    /// Forgets the blocks. For who keeps everybody out.
    pub(super) fn displace(&self) {
        let placed = self.files.write().placed.take();
        if placed.is_some()
            && let Some(reader) = self.reader()
            && let Some(file) = reader.blocks()
        {
            file.drop_cache();
        }
    }
}

fn pick<'a>(
    access: Access,
    reader: Option<&'a Arc<dyn HostFile>>,
    writer: Option<&'a Arc<dyn HostFile>>,
) -> Option<&'a Arc<dyn HostFile>> {
    match access {
        Access::Read => reader,
        Access::Write => writer,
    }
}
