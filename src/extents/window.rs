//! Where does an address lead?
//!
//! Files are found by their key when grants change, and regions by address when a request comes. Locks: the table's is
//! held for map operations only; a gate's is taken without it, and waited at without it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use super::file::HostFile;
use super::gate::{Closed, Gate, Passage};
use super::recent::{self, WindowId};
use super::room::{self, END, FIRST};
use super::unsynced::Unsynced;

/// Regions at most, unless said otherwise: each may keep three descriptors open.
const MAX_REGIONS: usize = 100_000;

/// By what the guest recognises the window among its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As `VIRTIO_BLK_T_GET_ID` gives it, padded with NUL.
    pub serial: [u8; 20],
    /// Bytes.
    pub size: u64,
    /// Bytes; a power of two from 512 to 4096. Requests should be multiples of it.
    pub logical_block: u32,
    /// No write is ever granted.
    pub read_only: bool,
}

impl Identity {
    /// A window with this serial, cut off at 20 bytes.
    pub fn new(serial: &[u8], logical_block: u32, read_only: bool) -> Self {
        let mut padded = [0; 20];
        for (place, byte) in padded.iter_mut().zip(serial) {
            *place = *byte;
        }
        Self { serial: padded, size: END, logical_block, read_only }
    }
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// A range of window addresses that stands for a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where in the file it begins.
    pub offset: u64,
    /// Bytes; the file may be shorter.
    pub length: u64,
    /// The window's address of its first byte.
    pub address: u64,
    /// What is granted.
    pub access: Access,
}

/// Where a request of the window leads.
#[derive(Debug)]
pub enum Way {
    /// To this file.
    Inside {
        /// The file.
        file: Arc<dyn HostFile>,
        /// Where in it.
        offset: u64,
        /// To be held until the bytes have been moved.
        passage: Passage,
    },
    /// To addresses that were never given away: they read as zeroes.
    Zeroes,
    /// To a file that is just being cut: wait, then ask again.
    Fenced(Wait),
    /// Nowhere, or where this is not granted.
    Refused,
}

/// A fence to wait at.
#[derive(Debug)]
pub struct Wait(Arc<Granted>);

impl Wait {
    /// Waits until the fence is gone.
    pub fn wait(self) {
        self.0.gate.wait();
    }
}

/// A region's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: u64,
    length: u64,
}

impl Place {
    pub(super) fn holds(self, address: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|offset| offset < self.length)
    }
}

/// A file of which something is granted.
#[derive(Debug, Default)]
pub(super) struct Granted {
    gate: Gate,
    files: RwLock<Files>,
    /// Writes are granted. Looked at inside the gate.
    writable: AtomicBool,
    /// Written since it was last synced, and entered in `unsynced`.
    pub(super) dirty: AtomicBool,
    unsynced: Arc<Unsynced>,
}

/// The descriptors by which a granted file is reached.
#[derive(Debug, Default)]
struct Files {
    reader: Option<Arc<dyn HostFile>>,
    writer: Option<Arc<dyn HostFile>>,
}

impl Granted {
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    fn new(unsynced: &Arc<Unsynced>) -> Arc<Self> {
        Arc::new(Self { unsynced: Arc::clone(unsynced), ..Self::default() })
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

    fn file(&self, access: Access) -> Option<Arc<dyn HostFile>> {
        let files = self.files.read();
        match access {
            Access::Read => files.reader.clone(),
            Access::Write => files.writer.clone(),
        }
    }

    fn access(&self) -> Access {
        if self.writable.load(Ordering::Relaxed) { Access::Write } else { Access::Read }
    }
}

#[derive(Debug, Default)]
struct Table {
    /// With the regions of each, the largest last.
    by_key: HashMap<u64, (Arc<Granted>, Vec<Place>)>,
    by_address: BTreeMap<u64, (Place, Arc<Granted>)>,
    /// How many fences stand around a file, whether it has a region or not.
    fences: HashMap<u64, u32>,
    /// The first address that was never given away.
    next: u64,
}

/// The window: its identity, its address space, who may do what where.
#[derive(Debug)]
pub struct Window {
    id: WindowId,
    identity: Identity,
    max_regions: usize,
    table: RwLock<Table>,
    unsynced: Arc<Unsynced>,
}

impl Window {
    /// A window of which nothing is given away.
    pub fn new(identity: Identity) -> Self {
        Self::with_limit(identity, MAX_REGIONS)
    }

    /// The same with at most `max_regions` at a time.
    pub fn with_limit(identity: Identity, max_regions: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            identity,
            max_regions,
            table: RwLock::new(Table { next: FIRST, ..Table::default() }),
            unsynced: Arc::default(),
        }
    }

    /// By what the guest recognises it.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Grants `access` to the file `key`, a number that is never another file's, and returns the region of it that
    /// holds `position`; a first one, or one more where those that it has are too short. `size` is the file's.
    ///
    /// `file` serves the requests: reads until the grant ends where it comes with the first grant, writes where it comes
    /// with the first to write. To let go of a descriptor for writing in [`end_writes`](Self::end_writes), grant reads
    /// by another one first.
    ///
    /// `None`: writes of a read-only window, more regions than there may be, a file too large, or one without a
    /// region that is fenced just now.
    pub fn grant(
        &self,
        key: u64,
        file: &Arc<dyn HostFile>,
        size: u64,
        position: u64,
        access: Access,
    ) -> Option<Region> {
        if access == Access::Write && self.identity.read_only {
            return None;
        }
        let mut table = self.table.write();
        let Table { by_key, by_address, fences, next } = &mut *table;
        let known = by_key.get(&key).and_then(|(_, places)| places.last()).copied();
        if known.is_none() && fences.contains_key(&key) {
            return None;
        }
        let place = match known.filter(|place| position < place.length) {
            Some(place) => place,
            None => {
                let length = room::for_file(size, position)?;
                let end = next.checked_add(length).filter(|end| *end <= END)?;
                if by_address.len() >= self.max_regions {
                    return None;
                }
                Place { address: std::mem::replace(next, end), length }
            }
        };
        let (granted, places) =
            by_key.entry(key).or_insert_with(|| (Granted::new(&self.unsynced), Vec::new()));
        if by_address.insert(place.address, (place, Arc::clone(granted))).is_none() {
            places.push(place);
        }
        let mut files = granted.files.write();
        files.reader.get_or_insert_with(|| Arc::clone(file));
        if access == Access::Write {
            files.writer.get_or_insert_with(|| Arc::clone(file));
            granted.writable.store(true, Ordering::SeqCst);
        }
        Some(Region { offset: 0, length: place.length, address: place.address, access: granted.access() })
    }

    /// What the file has now, around `position`.
    pub fn granted(&self, key: u64, position: u64) -> Option<Region> {
        let table = self.table.read();
        let (granted, places) = table.by_key.get(&key)?;
        let place = places.last().filter(|place| position < place.length)?;
        Some(Region { offset: 0, length: place.length, address: place.address, access: granted.access() })
    }

    /// Takes the right to write away, and waits for requests in flight.
    pub fn end_writes(&self, key: u64) {
        let Some(granted) = self.find(key).filter(|granted| granted.writable.load(Ordering::Relaxed)) else {
            return;
        };
        // In this order: who enters behind the fence sees that writes are over.
        granted.writable.store(false, Ordering::SeqCst);
        granted.gate.fence();
        let (writer, shared) = {
            let mut files = granted.files.write();
            let writer = files.writer.take();
            let shared = writer.as_ref().zip(files.reader.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
            (writer, shared)
        };
        granted.gate.open();
        drop(writer);
        if shared {
            // Reads would keep the file open for writing.
            self.revoke(key);
        }
    }

    /// Ends all regions of the file, and waits for requests in flight.
    pub fn revoke(&self, key: u64) {
        let ended = {
            let mut table = self.table.write();
            let Some((granted, places)) = table.by_key.remove(&key) else { return };
            for place in places {
                table.by_address.remove(&place.address);
            }
            granted
        };
        Self::end(&ended);
    }

    /// Ends all regions of all files, and waits for requests in flight. Their addresses stay spent.
    pub fn revoke_all(&self) {
        let ended = {
            let mut table = self.table.write();
            table.by_address.clear();
            std::mem::take(&mut table.by_key)
        };
        for (granted, _) in ended.values() {
            Self::end(granted);
        }
    }

    fn end(granted: &Granted) {
        granted.gate.revoke();
        *granted.files.write() = Files::default();
        // Nobody is inside any more, so the mark is the last word.
        if granted.dirty.load(Ordering::SeqCst) {
            granted.unsynced.region_ended();
        }
    }

    /// Lets no request of the window at the file `key`, and waits for those in flight, until the fence is dropped.
    pub fn fence(&self, key: u64) -> Fence<'_> {
        let granted = {
            let mut table = self.table.write();
            *table.fences.entry(key).or_default() += 1;
            table.by_key.get(&key).map(|(granted, _)| Arc::clone(granted))
        };
        if let Some(granted) = &granted {
            granted.gate.fence();
        }
        Fence { window: self, key, granted }
    }

    fn find(&self, key: u64) -> Option<Arc<Granted>> {
        self.table.read().by_key.get(&key).map(|(granted, _)| Arc::clone(granted))
    }

    /// Where a request of `len` bytes at `address` leads. Does not wait; takes no lock that other files share for a region
    /// that this thread used before.
    pub fn enter(&self, address: u64, len: u64, access: Access) -> Way {
        let Some(end) = address.checked_add(len) else { return Way::Refused };
        let Some((place, granted)) = self.at(address) else { return self.unknown(address, end, access) };
        let offset = address - place.address;
        if len > place.length - offset {
            return Way::Refused;
        }
        let passage = match Passage::enter(&granted) {
            Ok(passage) => passage,
            Err(Closed::Fenced) => return Way::Fenced(Wait(granted)),
            Err(Closed::Revoked) => return Way::Refused,
        };
        if access == Access::Write && !granted.writable.load(Ordering::SeqCst) {
            return Way::Refused;
        }
        match granted.file(access) {
            Some(file) => Way::Inside { file, offset, passage },
            None => Way::Refused,
        }
    }

    fn at(&self, address: u64) -> Option<(Place, Arc<Granted>)> {
        if let Some(found) = recent::find(self.id, address) {
            return Some(found);
        }
        let table = self.table.read();
        let (_, (place, granted)) = table.by_address.range(..=address).next_back()?;
        if !place.holds(address) {
            return None;
        }
        recent::remember(self.id, *place, granted);
        Some((*place, Arc::clone(granted)))
    }

    /// What lies outside all regions.
    fn unknown(&self, address: u64, end: u64, access: Access) -> Way {
        let never_given = end <= FIRST || address >= self.table.read().next;
        if access == Access::Read && never_given && end <= END { Way::Zeroes } else { Way::Refused }
    }

    /// Makes everything durable that was written through the window before. Waits for storage.
    ///
    /// # Errors
    /// The last that a file reported, once; the others are synced all the same.
    pub fn flush(&self) -> io::Result<()> {
        self.unsynced.flush()
    }
}

/// A file that no request of the window reaches while this lives.
#[derive(Debug)]
#[must_use]
pub struct Fence<'a> {
    window: &'a Window,
    key: u64,
    granted: Option<Arc<Granted>>,
}

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        if let Some(granted) = &self.granted {
            granted.gate.open();
        }
        if let Entry::Occupied(mut fences) = self.window.table.write().fences.entry(self.key) {
            *fences.get_mut() -= 1;
            if *fences.get() == 0 {
                fences.remove();
            }
        }
    }
}
