//! How is data read and written: at random or in sequence, direct or buffered?

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::{Assignment, DATA, Progress, Script, lookup_root, open, open_flags, release};
use crate::bench::Error;
use crate::bench::content::Content;
use crate::bench::pattern::UNIT;
use crate::bench::random::Random;
use crate::frontend::{Ask, Channel, Reply};
use crate::fuse::abi::{ReadIn, WriteIn, WriteOut, opcode};

/// In which order are the blocks of the file used?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Any block.
    Random,
    /// One after the other, each thread in its own part of the file.
    Sequential,
}

/// READs and WRITEs of whole blocks.
pub(super) struct Transfers {
    to: Assignment,
    picker: Picker,
    node: u64,
    fh: u64,
    flags: u32,
    /// Where each slot's transfer is.
    offsets: Vec<u64>,
    /// What was known of each slot's units when its READ was sent.
    notes: Vec<u32>,
}

impl Transfers {
    pub(super) fn new(to: &Assignment, order: Order, write_percent: u64) -> Self {
        let slots = usize::from(to.depth);
        Self {
            picker: Picker::new(to, order, write_percent),
            node: 0,
            fh: 0,
            flags: open_flags(to.direct),
            offsets: vec![0; slots],
            notes: vec![0; slots * units(to.block)],
            to: to.clone(),
        }
    }

    fn content(&self) -> Result<Arc<Content>, Error> {
        self.to.content.clone().ok_or_else(|| Error::Untrue("there is no data file".to_owned()))
    }
}

/// Units of 4 KiB in a block.
pub(in crate::bench) fn units(block: u32) -> usize {
    usize::try_from(u64::from(block) / UNIT).unwrap_or_default()
}

impl Script for Transfers {
    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.node = lookup_root(channel, DATA)?;
        self.fh = open(channel, self.node, opcode::OPEN, self.flags)?;
        Ok(())
    }

    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        let size = self.to.block;
        let (node, fh, flags) = (self.node, self.fh, self.flags);
        // A reference and no Arc: no counter is shared between threads on this path.
        let Some(content) = &self.to.content else { return self.content().map(drop) };
        let (offset, write) = self.picker.pick(content)?;
        if let Some(place) = self.offsets.get_mut(usize::from(slot)) {
            // The lowest bit tells the kind; blocks begin at multiples of 4096.
            *place = offset | u64::from(write);
        }
        if write {
            let payload = channel.payload(slot);
            content.fill(channel.memory(), payload, offset, size);
            let request = WriteIn { fh, offset, size, write_flags: 0, lock_owner: 0, flags, padding: 0 };
            let ask = Ask { send: size, ..Ask::new(opcode::WRITE, node, 8) };
            channel.ask(slot, ask, &[request.as_bytes()])?;
        } else {
            let per = units(size);
            let notes = self.notes.chunks_exact_mut(per.max(1)).nth(slot.into()).unwrap_or_default();
            content.note(offset, size, notes);
            let request = ReadIn { fh, offset, size, read_flags: 0, lock_owner: 0, flags, padding: 0 };
            let ask = Ask { receive: size, ..Ask::new(opcode::READ, node, 0) };
            channel.ask(slot, ask, &[request.as_bytes()])?;
        }
        Ok(())
    }

    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error> {
        let length = reply.ok()?;
        let slot = reply.slot;
        let size = self.to.block;
        let Some(content) = &self.to.content else { return self.content().map(|_| Progress::ONE) };
        let tagged = self.offsets.get(usize::from(slot)).copied().unwrap_or_default();
        let (offset, write) = (tagged & !1, tagged & 1 != 0);
        if write {
            let written = channel.answer::<WriteOut>(slot).size;
            if written != size {
                let what = format!("WRITE of {size} bytes at offset {offset} wrote {written}");
                return Err(Error::Untrue(what));
            }
            content.written(offset, size);
        } else {
            if length != size {
                return Err(Error::Untrue(format!("READ of {size} bytes at offset {offset} got {length}")));
            }
            let notes = self.notes.chunks_exact(units(size).max(1)).nth(slot.into()).unwrap_or_default();
            content.check(channel.memory(), channel.payload(slot), offset, (size, notes), self.to.verify)?;
        }
        Ok(Progress::Done { ops: 1, bytes: size })
    }

    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error> {
        release(channel, self.node, opcode::RELEASE, self.fh, self.flags)?;
        channel.forget(self.node, 1)?;
        Ok(())
    }
}

/// Chooses blocks: shared with the host reference, which does the same without a daemon.
pub(in crate::bench) struct Picker {
    order: Order,
    random: Random,
    /// How many of a hundred transfers are writes.
    write_percent: u64,
    block: u32,
    /// The blocks that this thread uses: all, or its part.
    first: u64,
    count: u64,
    next: u64,
}

impl Picker {
    fn new(to: &Assignment, order: Order, write_percent: u64) -> Self {
        let blocks = to.content.as_ref().map_or(0, |content| content.size() / u64::from(to.block.max(1)));
        let part = blocks / u64::from(to.threads.max(1));
        let (first, count) = match order {
            Order::Random => (0, blocks),
            Order::Sequential => (part * u64::from(to.thread), part),
        };
        let random = Random::new(to.seed ^ u64::from(to.thread) << 32);
        Self { order, random, write_percent, block: to.block, first, count, next: 0 }
    }

    /// The picker of a workload, where it is one of those that the host can do.
    pub(in crate::bench) fn of(work: super::Work, to: &Assignment) -> Self {
        use super::Work;
        match work {
            Work::RandWrite => Self::new(to, Order::Random, 100),
            Work::RandRw => Self::new(to, Order::Random, 50),
            Work::SeqRead => Self::new(to, Order::Sequential, 0),
            Work::SeqWrite => Self::new(to, Order::Sequential, 100),
            _ => Self::new(to, Order::Random, 0),
        }
    }

    /// The next block and whether it is to be written; then it was taken.
    pub(in crate::bench) fn pick(&mut self, content: &Content) -> Result<(u64, bool), Error> {
        let write = match self.write_percent {
            0 => false,
            100 => true,
            percent => self.random.below(100) < percent,
        };
        let mut index = match self.order {
            Order::Random => self.random.below(self.count),
            Order::Sequential => self.next,
        };
        for _ in 0..self.count {
            let offset = (self.first + index) * u64::from(self.block);
            index = if index + 1 >= self.count { 0 } else { index + 1 };
            // Somebody else may be writing the block: then the next one.
            if !write || content.take(offset, self.block) {
                self.next = index;
                return Ok((offset, write));
            }
        }
        Err(Error::Option {
            option: "--file-size",
            what: "too few blocks for so many writes at a time".to_owned(),
        })
    }
}
