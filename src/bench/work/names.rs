//! How are names and attributes asked for and changed?

use zerocopy::IntoBytes;

use super::{Assignment, MANY, Progress, SCRATCH, Script, lookup, lookup_root, name, open_flags};
use crate::bench::Error;
use crate::bench::random::Random;
use crate::frontend::{Ask, Channel, Reply};
use crate::fuse::abi::{
    AttrOut, CreateIn, EntryOut, GetattrIn, MkdirIn, OpenIn, OpenOut, ReleaseIn, RenameIn, opcode,
};

/// What is asked about files that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Getattr,
    Lookup,
    /// With these flags.
    Open(u32),
}

/// Questions about one of many files.
pub(super) struct Existing {
    question: Question,
    files: u32,
    random: Random,
    parent: u64,
    /// nodeid and inode number of each file.
    nodes: Vec<(u64, u64)>,
    /// Which file each slot asks about, as an index.
    asked: Vec<usize>,
}

impl Existing {
    pub(super) fn new(to: &Assignment, question: Question) -> Self {
        Self {
            question,
            files: to.files,
            random: Random::new(to.seed ^ u64::from(to.thread) << 40),
            parent: 0,
            nodes: Vec::with_capacity(usize::try_from(to.files).unwrap_or_default()),
            asked: vec![0; usize::from(to.depth)],
        }
    }

    fn asked(&self, slot: u16) -> (u64, u64) {
        let index = self.asked.get(usize::from(slot)).copied().unwrap_or_default();
        self.nodes.get(index).copied().unwrap_or_default()
    }

    fn check(&self, slot: u16, ino: u64) -> Result<(), Error> {
        match self.asked(slot).1 {
            due if due == ino => Ok(()),
            due => Err(Error::Untrue(format!("attributes of inode {ino} where {due} was asked about"))),
        }
    }
}

impl Script for Existing {
    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.parent = lookup_root(channel, MANY)?;
        for number in 0..self.files {
            let entry = lookup(channel, self.parent, &name(b'f', number.into()))?;
            self.nodes.push((entry.nodeid, entry.attr.ino));
        }
        Ok(())
    }

    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        let number = self.random.below(self.files.into());
        if let Some(place) = self.asked.get_mut(usize::from(slot)) {
            *place = usize::try_from(number).unwrap_or_default();
        }
        let (node, _) = self.asked(slot);
        match self.question {
            Question::Getattr => {
                let request = GetattrIn::default();
                channel.ask(slot, Ask::new(opcode::GETATTR, node, 104), &[request.as_bytes()])?;
            }
            Question::Lookup => {
                channel.ask(slot, Ask::new(opcode::LOOKUP, self.parent, 128), &[&name(b'f', number)])?;
            }
            Question::Open(flags) => {
                let request = OpenIn { flags, open_flags: 0 };
                channel.ask(slot, Ask::new(opcode::OPEN, node, 16), &[request.as_bytes()])?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error> {
        reply.ok()?;
        let slot = reply.slot;
        match reply.opcode {
            opcode::GETATTR => self.check(slot, channel.answer::<AttrOut>(slot).attr.ino)?,
            opcode::LOOKUP => {
                let entry: EntryOut = channel.answer(slot);
                self.check(slot, entry.attr.ino)?;
                channel.forget(entry.nodeid, 1)?;
            }
            opcode::OPEN => {
                let fh = channel.answer::<OpenOut>(slot).fh;
                let node = self.asked(slot).0;
                ask_release(channel, slot, node, fh)?;
                return Ok(Progress::More);
            }
            _ => {}
        }
        Ok(Progress::ONE)
    }

    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error> {
        for (node, _) in self.nodes.drain(..) {
            channel.forget(node, 1)?;
        }
        channel.forget(self.parent, 1)?;
        Ok(())
    }
}

fn ask_release(channel: &mut Channel, slot: u16, node: u64, fh: u64) -> Result<(), Error> {
    let request = ReleaseIn { fh, flags: open_flags(false), release_flags: 0, lock_owner: 0 };
    channel.ask(slot, Ask::new(opcode::RELEASE, node, 0), &[request.as_bytes()])?;
    Ok(())
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Mkdir,
    Rename,
}

/// Changes of names, each slot with a name of its own, in one directory.
pub(super) struct Changes {
    change: Change,
    depth: u16,
    /// The first of the numbers that this thread makes names of; each slot counts on from its own.
    base: u64,
    parent: u64,
    slots: Vec<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// How many operations this slot has begun.
    count: u64,
    /// The node that it made, to be forgotten.
    node: u64,
}

impl Changes {
    pub(super) fn new(to: &Assignment, change: Change) -> Self {
        // Upper bits: the thread and the kind, so that all scripts that run at a time have different names.
        let kind = u64::from(change == Change::Mkdir) << 63;
        Self {
            change,
            depth: to.depth,
            base: kind | u64::from(to.thread) << 48,
            parent: 0,
            slots: vec![State::default(); usize::from(to.depth)],
        }
    }

    fn name(&self, slot: u16, count: u64) -> [u8; 18] {
        // A rename goes to and fro between two names; all else is a new name each time.
        let count = if self.change == Change::Rename { count & 1 } else { count & 0xffff_ffff };
        name(b'n', self.base | u64::from(slot) << 32 | count)
    }

    fn state(&mut self, slot: u16) -> Result<&mut State, Error> {
        let known = self.slots.get_mut(usize::from(slot));
        known.ok_or_else(|| crate::frontend::Error::StrayUsed(slot.into()).into())
    }
}

/// CREATE as `open(O_RDWR | O_CREAT | O_EXCL, 0644)` sends it.
fn create_request() -> CreateIn {
    let created = u32::try_from(libc::O_CREAT | libc::O_EXCL).unwrap_or_default();
    CreateIn { flags: open_flags(false) | created, mode: 0o100_644, umask: 0o022, open_flags: 0 }
}

impl Script for Changes {
    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.parent = lookup_root(channel, SCRATCH)?;
        if self.change == Change::Rename {
            for slot in 0..self.depth {
                let name = self.name(slot, 0);
                let ask = Ask::new(opcode::CREATE, self.parent, 144);
                channel.call(ask, &[create_request().as_bytes(), &name])?;
                let node = channel.answer::<EntryOut>(0).nodeid;
                let fh = channel.answer_at::<OpenOut>(0, 128).fh;
                super::release(channel, node, opcode::RELEASE, fh, open_flags(false))?;
                self.state(slot)?.node = node;
            }
        }
        Ok(())
    }

    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        let state = self.state(slot)?;
        let before = state.count;
        state.count = before.wrapping_add(1);
        let new = self.name(slot, before.wrapping_add(1));
        match self.change {
            Change::Create => {
                let ask = Ask::new(opcode::CREATE, self.parent, 144);
                channel.ask(slot, ask, &[create_request().as_bytes(), &new])?;
            }
            Change::Mkdir => {
                let request = MkdirIn { mode: 0o755, umask: 0o022 };
                channel.ask(slot, Ask::new(opcode::MKDIR, self.parent, 128), &[request.as_bytes(), &new])?;
            }
            Change::Rename => {
                let request = RenameIn { newdir: self.parent };
                let old = self.name(slot, before);
                let ask = Ask::new(opcode::RENAME, self.parent, 0);
                channel.ask(slot, ask, &[request.as_bytes(), &old, &new])?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error> {
        reply.ok()?;
        let slot = reply.slot;
        match reply.opcode {
            opcode::CREATE => {
                let node = channel.answer::<EntryOut>(slot).nodeid;
                let fh = channel.answer_at::<OpenOut>(slot, 128).fh;
                self.state(slot)?.node = node;
                ask_release(channel, slot, node, fh)?;
            }
            opcode::MKDIR => {
                self.state(slot)?.node = channel.answer::<EntryOut>(slot).nodeid;
                let name = self.current(slot)?;
                channel.ask(slot, Ask::new(opcode::RMDIR, self.parent, 0), &[&name])?;
            }
            opcode::RELEASE => {
                let name = self.current(slot)?;
                channel.ask(slot, Ask::new(opcode::UNLINK, self.parent, 0), &[&name])?;
            }
            opcode::UNLINK | opcode::RMDIR => {
                let node = self.state(slot)?.node;
                channel.forget(node, 1)?;
                return Ok(Progress::ONE);
            }
            _ => return Ok(Progress::ONE),
        }
        Ok(Progress::More)
    }

    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error> {
        if self.change == Change::Rename {
            for slot in 0..self.depth {
                let name = self.current(slot)?;
                channel.call(Ask::new(opcode::UNLINK, self.parent, 0), &[&name])?;
                let node = self.state(slot)?.node;
                channel.forget(node, 1)?;
            }
        }
        channel.forget(self.parent, 1)?;
        Ok(())
    }
}

impl Changes {
    /// The name that the slot has made last.
    fn current(&mut self, slot: u16) -> Result<[u8; 18], Error> {
        let count = self.state(slot)?.count;
        Ok(self.name(slot, count))
    }
}
