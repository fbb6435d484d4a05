//! Where does an address lead?
//!
//! Files are found by their key when grants change, and regions by address when a request comes. Locks: the table's is
//! held for map operations only; a gate's is taken without it, and waited at without it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::file::HostFile;
use super::gate::{Closed, Passage};
use super::granted::{Found, Granted};
use super::learn::Learner;
use super::recent::{self, WindowId};
use super::room::{self, END, FIRST, LAST};
use super::unsynced::Unsynced;
use super::volume::Volume;

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
        /// All of it lies before the file's end, and it stays so.
        within: bool,
        /// To be held until the bytes have been moved.
        passage: Passage,
    },
    /// To addresses that are never given away: they read as zeroes.
    Zeroes,
    /// To a file that is just being cut, or whose blocks should be looked for: wait, then ask again.
    Fenced(Wait),
    /// Nowhere, or where this is not granted.
    Refused,
}

/// What to wait for.
#[derive(Debug)]
pub struct Wait(Arc<Granted>, Option<Arc<Learner>>);

impl Wait {
    /// Waits until the fence is gone, or looks for the blocks.
    pub fn wait(self) {
        let Self(granted, learner) = self;
        match learner {
            Some(learner) => learner.learn(&granted),
            None => granted.gate().wait(),
        }
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

#[derive(Debug, Default)]
struct Table {
    /// With the regions of each, the largest last.
    by_key: HashMap<u64, (Arc<Granted>, Vec<Place>)>,
    by_address: BTreeMap<u64, (Place, Arc<Granted>)>,
    /// How many fences stand around a file, whether it has a region or not.
    fences: HashMap<u64, u32>,
    /// What was revoked and may have requests in flight yet, for which a fence waits too.
    ending: Vec<Arc<Granted>>,
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
    /// With the source `block`.
    learner: Option<Arc<Learner>>,
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
            learner: None,
        }
    }

    /// The same with regions that begin somewhere, as `random` says: so that what a guest was told by another daemon, which had the
    /// same serial number, leads to no region of this one.
    #[must_use]
    pub fn beginning_anywhere(mut self, random: u64) -> Self {
        self.table.get_mut().next = room::somewhere(random);
        self
    }

    /// The same where bytes of files are moved on this device itself, under the file system that all files are on, as far as their
    /// blocks can be found ([`HostFile::blocks`]).
    #[must_use]
    pub fn over(self, volume: Volume) -> Self {
        let volume = Arc::new(volume);
        Self {
            unsynced: Arc::new(Unsynced::over(Arc::clone(&volume))),
            learner: Some(Arc::new(Learner::new(volume))),
            ..self
        }
    }

    /// The device of the source `block`.
    pub fn volume(&self) -> Option<&Volume> {
        self.learner.as_ref().map(|learner| &**learner.volume())
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
        let Table { by_key, by_address, fences, next, .. } = &mut *table;
        let known = by_key.get(&key).and_then(|(_, places)| places.last()).copied();
        if known.is_none() && fences.contains_key(&key) {
            return None;
        }
        let place = match known.filter(|place| position < place.length) {
            Some(place) => place,
            None => {
                let length = room::for_file(size, position)?;
                let end = next.checked_add(length).filter(|end| *end <= LAST)?;
                if by_address.len() >= self.max_regions {
                    return None;
                }
                Place { address: std::mem::replace(next, end), length }
            }
        };
        let (granted, places) =
            by_key.entry(key).or_insert_with(|| (self.new_granted(key, file), Vec::new()));
        if by_address.insert(place.address, (place, Arc::clone(granted))).is_none() {
            places.push(place);
        }
        granted.grant(file, access);
        Some(Region { offset: 0, length: place.length, address: place.address, access: granted.access() })
    }

    fn new_granted(&self, key: u64, file: &Arc<dyn HostFile>) -> Arc<Granted> {
        let number = self.learner.as_ref().and_then(|_| file.blocks()).map(|file| file.number());
        Granted::new(key, number, &self.unsynced)
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
        let Some(granted) = self.find(key).filter(|granted| granted.may_write()) else { return };
        if granted.end_writes() {
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
            table.ending.push(Arc::clone(&granted));
            granted
        };
        self.end(&ended);
    }

    /// Ends all regions of all files, and waits for requests in flight. Their addresses stay spent.
    pub fn revoke_all(&self) {
        let ended = {
            let mut table = self.table.write();
            table.by_address.clear();
            let ended = std::mem::take(&mut table.by_key);
            table.ending.extend(ended.values().map(|(granted, _)| Arc::clone(granted)));
            ended
        };
        for (granted, _) in ended.values() {
            self.end(granted);
        }
    }

    fn end(&self, granted: &Arc<Granted>) {
        granted.end();
        if let Some(learner) = &self.learner {
            learner.forget(granted);
        }
        self.table.write().ending.retain(|ending| !Arc::ptr_eq(ending, granted));
    }

    /// Lets no request of the window at the file `key`, and waits for those in flight, until the fence is dropped. For whoever
    /// leaves the file's blocks where they are.
    pub fn hold(&self, key: u64) -> Fence<'_> {
        let (mut fence, granted) = self.announce(key, None);
        fence.raise(granted, false);
        fence
    }

    /// The same for whoever changes what the file consists of: its blocks are forgotten.
    pub fn fence(&self, key: u64) -> Fence<'_> {
        let (mut fence, granted) = self.announce(key, None);
        fence.raise(granted, true);
        fence
    }

    /// The same for all regions of the file that has this number on the device: a guest can have a file by several keys.
    pub fn fence_file(&self, key: u64, number: u64) -> Fence<'_> {
        let (mut fence, granted) = self.announce(key, Some(number));
        fence.raise(granted, true);
        fence
    }

    /// A fence that stands nowhere yet, and where it has to. From here on the file gets no first region, and nobody else learns of its
    /// blocks.
    fn announce(&self, key: u64, number: Option<u64>) -> (Fence<'_>, Vec<Arc<Granted>>) {
        let number = number.filter(|_| self.learner.is_some());
        let mut granted: Vec<_> = {
            let mut table = self.table.write();
            *table.fences.entry(key).or_default() += 1;
            let own = table.by_key.get(&key).map(|(granted, _)| granted);
            own.into_iter()
                .chain(table.ending.iter().filter(|granted| granted.key() == key))
                .cloned()
                .collect()
        };
        let fence = Fence { window: self, key, number, granted: Vec::new() };
        if let Some((learner, number)) = self.learner.as_ref().zip(number) {
            for other in learner.change(number) {
                if !granted.iter().any(|granted| Arc::ptr_eq(granted, &other)) {
                    granted.push(other);
                }
            }
        }
        (fence, granted)
    }

    /// The next write to the file `key` on its blocks sets its times, whatever they are.
    pub fn times_were_set(&self, key: u64) {
        if let Some(granted) = self.learner.as_ref().and_then(|_| self.find(key)) {
            granted.progress.unstamp();
        }
    }

    /// Whether anything is granted.
    pub fn is_used(&self) -> bool {
        !self.table.read().by_key.is_empty()
    }

    fn find(&self, key: u64) -> Option<Arc<Granted>> {
        self.table.read().by_key.get(&key).map(|(granted, _)| Arc::clone(granted))
    }

    /// Where a request of `len` bytes at `address` leads. Does not wait; takes no lock that other files share for a region
    /// that this thread used before.
    pub fn enter(&self, address: u64, len: u64, access: Access) -> Way {
        let Some(end) = address.checked_add(len) else { return Way::Refused };
        let Some((place, granted)) = self.at(address) else { return unknown(address, end, access) };
        let offset = address - place.address;
        if len > place.length - offset {
            return Way::Refused;
        }
        let passage = match Passage::enter(&granted) {
            Ok(passage) => passage,
            Err(Closed::Fenced) => return Way::Fenced(Wait(granted, None)),
            Err(Closed::Revoked) => return Way::Refused,
        };
        if access == Access::Write && !granted.may_write() {
            return Way::Refused;
        }
        let Some(Found { file, on_device }) = granted.find(access, offset, len) else { return Way::Refused };
        let blocks = self.learner.as_ref().filter(|_| !on_device && granted.number().is_some());
        if let Some(learner) = blocks.filter(|_| granted.progress.missed()) {
            drop(passage);
            return Way::Fenced(Wait(granted, Some(Arc::clone(learner))));
        }
        if on_device && access == Access::Write && granted.progress.stamp(&*file).is_err() {
            return Way::Refused;
        }
        Way::Inside { file, offset, within: on_device, passage }
    }

    /// Where a change of `len` bytes at `address` leads that moves blocks. Where the window knows blocks, nobody else is in the
    /// file until the answer is dropped. None where [`enter`](Self::enter) refuses a write. May wait.
    pub fn enter_to_move(&self, address: u64, len: u64) -> Option<Mover<'_>> {
        if self.learner.is_some() { self.enter_alone(address, len) } else { self.enter_beside(address, len) }
    }

    fn enter_beside(&self, address: u64, len: u64) -> Option<Mover<'_>> {
        loop {
            match self.enter(address, len, Access::Write) {
                Way::Inside { file, offset, passage, .. } => {
                    return Some(Mover { file, offset, passage, _fence: None });
                }
                Way::Fenced(fence) => fence.wait(),
                Way::Zeroes | Way::Refused => return None,
            }
        }
    }

    fn enter_alone(&self, address: u64, len: u64) -> Option<Mover<'_>> {
        loop {
            let (place, granted) = self.at(address)?;
            let offset = address - place.address;
            if len > place.length - offset || !granted.may_write() {
                return None;
            }
            let (mut fence, mut others) = self.announce(granted.key(), granted.number());
            let Some(number) = granted.gate().fence_alone() else {
                drop(fence);
                if granted.gate().is_revoked() {
                    return None;
                }
                granted.gate().wait();
                continue;
            };
            granted.displace();
            fence.granted.push(Arc::clone(&granted));
            others.retain(|other| !Arc::ptr_eq(other, &granted));
            fence.raise(others, true);
            let passage = Passage::behind(&granted)?;
            let mut alone = false;
            granted.gate().if_undisturbed(number, || alone = true);
            if !alone {
                // Somebody else's fence, which was there before this could be seen inside.
                drop((passage, fence));
                continue;
            }
            let file = granted.writer().filter(|_| granted.may_write())?;
            return Some(Mover { file, offset, passage, _fence: Some(fence) });
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

    /// Makes everything durable that was written through the window before. Waits for storage.
    ///
    /// # Errors
    /// The last that a file reported, once; the others are synced all the same.
    pub fn flush(&self) -> io::Result<()> {
        self.unsynced.flush()
    }
}

/// What lies outside all regions: zeroes where none ever is, for whoever looks for partitions and file systems. Elsewhere an error:
/// whoever has the address has it from before.
fn unknown(address: u64, end: u64, access: Access) -> Way {
    let never_given = end <= FIRST || (address >= LAST && end <= END);
    if access == Access::Read && never_given { Way::Zeroes } else { Way::Refused }
}

/// Somebody is in a file who may move its blocks.
#[derive(Debug)]
pub struct Mover<'a> {
    /// The file, by way of its file system.
    pub file: Arc<dyn HostFile>,
    /// Where in it.
    pub offset: u64,
    /// Of the one who is inside.
    pub passage: Passage,
    _fence: Option<Fence<'a>>,
}

/// A file that no request of the window reaches while this lives.
#[derive(Debug)]
#[must_use]
pub struct Fence<'a> {
    window: &'a Window,
    key: u64,
    /// Of the file on the device.
    number: Option<u64>,
    granted: Vec<Arc<Granted>>,
}

impl Fence<'_> {
    /// Keeps everybody out of these, too.
    fn raise(&mut self, granted: Vec<Arc<Granted>>, changes: bool) {
        for granted in granted {
            granted.gate().fence();
            if changes {
                granted.displace();
            }
            self.granted.push(granted);
        }
    }
}

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        self.granted.iter().for_each(|granted| granted.gate().open());
        if let Some((learner, number)) = self.window.learner.as_ref().zip(self.number) {
            learner.changed(number);
        }
        if let Entry::Occupied(mut fences) = self.window.table.write().fences.entry(self.key) {
            *fences.get_mut() -= 1;
            if *fences.get() == 0 {
                fences.remove();
            }
        }
    }
}
