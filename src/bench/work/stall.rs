//! Does something slow on one file hold up small reads of another?

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::Advice;
use zerocopy::IntoBytes;

use super::io::{Order, Transfers};
use super::{Assignment, OTHER, OTHER_SIZE, Progress, Script, lookup_root, open, open_flags, release};
use crate::bench::Error;
use crate::frontend::{Ask, Channel, Reply};
use crate::fuse::abi::{FsyncIn, ReadIn, WriteIn, opcode};

/// Bytes of one transfer of the disturber.
pub(super) const CHUNK: u32 = 1 << 20;
/// Chunks that are dirtied before each FSYNC.
const DIRTY: u64 = 32;

/// What is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// Many MiB are written to the page cache, and then FSYNC.
    Fsync,
    /// Reads of what is not in the page cache.
    ColdReads,
}

/// Small reads, and in the first thread's disturbed half one more request in flight that is slow.
pub(super) struct Stall {
    reads: Transfers,
    disturber: Option<Disturber>,
    /// The slot behind those of the reads.
    slot: u16,
}

struct Disturber {
    kind: Disturbance,
    node: u64,
    fh: u64,
    step: u64,
    /// The same file on the host's side, to drop it from the cache.
    host: std::path::PathBuf,
    file: Option<File>,
}

impl Stall {
    pub(super) fn new(to: &Assignment, kind: Disturbance) -> Self {
        let disturber = (to.disturbed && to.thread == 0).then(|| Disturber {
            kind,
            node: 0,
            fh: 0,
            step: 0,
            host: to.share.join(OTHER),
            file: None,
        });
        Self { reads: Transfers::new(to, Order::Random, 0), disturber, slot: to.depth }
    }
}

impl Script for Stall {
    fn background_slots(&self) -> u16 {
        u16::from(self.disturber.is_some())
    }

    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.reads.set_up(channel)?;
        if let Some(disturber) = &mut self.disturber {
            disturber.node = lookup_root(channel, OTHER)?;
            disturber.fh = open(channel, disturber.node, opcode::OPEN, open_flags(false))?;
            let path = &disturber.host;
            disturber.file = Some(File::open(path).map_err(Error::file("opening", path))?);
        }
        Ok(())
    }

    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        match &mut self.disturber {
            Some(disturber) if slot == self.slot => disturber.begin(channel, slot),
            _ => self.reads.begin(channel, slot),
        }
    }

    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error> {
        if self.disturber.is_some() && reply.slot == self.slot {
            reply.ok()?;
            return Ok(Progress::Background);
        }
        self.reads.answer(channel, reply)
    }

    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error> {
        if let Some(disturber) = &self.disturber {
            release(channel, disturber.node, opcode::RELEASE, disturber.fh, open_flags(false))?;
            channel.forget(disturber.node, 1)?;
        }
        self.reads.put_away(channel)
    }
}

impl Disturber {
    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        let Self { node, fh, step, .. } = *self;
        self.step = step.wrapping_add(1);
        let chunks = OTHER_SIZE / u64::from(CHUNK);
        let flags = open_flags(false);
        let offset = step % chunks * u64::from(CHUNK);
        match self.kind {
            Disturbance::Fsync if step % (DIRTY + 1) == DIRTY => {
                let request = FsyncIn { fh, ..FsyncIn::default() };
                channel.ask(slot, Ask::new(opcode::FSYNC, node, 0), &[request.as_bytes()])?;
            }
            Disturbance::Fsync => {
                let request = WriteIn { fh, offset, size: CHUNK, flags, ..WriteIn::default() };
                let ask = Ask { send: CHUNK, ..Ask::new(opcode::WRITE, node, 8) };
                channel.ask(slot, ask, &[request.as_bytes()])?;
            }
            Disturbance::ColdReads => {
                if let (0, Some(file)) = (offset, &self.file) {
                    // Advice: where it is not taken, the reads are only faster than meant.
                    let _ = rustix::fs::fadvise(file.as_fd(), 0, None, Advice::DontNeed);
                }
                let request = ReadIn { fh, offset, size: CHUNK, flags, ..ReadIn::default() };
                let ask = Ask { receive: CHUNK, ..Ask::new(opcode::READ, node, 0) };
                channel.ask(slot, ask, &[request.as_bytes()])?;
            }
        }
        Ok(())
    }
}
