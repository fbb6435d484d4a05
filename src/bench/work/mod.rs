//! Which requests are sent?
//!
//! A [`Script`] is what one client thread does: it begins an operation in a free slot and, answer by answer, either
//! sends the next request of that operation or says that it is done. No script allocates while it is measured.

mod directory;
pub(super) mod io;
mod mixed;
mod names;
mod stall;

use std::path::Path;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::Error;
use super::content::Content;
use super::options::Verify;
use crate::frontend::{Channel, Reply};
use crate::fuse::abi::{EntryOut, opcode};

/// A workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each is described where its name is.
pub enum Work {
    RandRead,
    RandWrite,
    RandRw,
    SeqRead,
    SeqWrite,
    Getattr,
    Lookup,
    Open,
    OpenWrite,
    Readdirplus,
    Create,
    Mkdir,
    Rename,
    Mixed,
    StallFsync,
    StallRead,
}

impl Work {
    /// All of them, with the names that `--work` takes and what one operation is.
    pub const ALL: [(Self, &'static str, &'static str); 16] = [
        (Self::RandRead, "randread", "read a random block of the file (4K)"),
        (Self::RandWrite, "randwrite", "overwrite a random block (4K)"),
        (Self::RandRw, "randrw", "one or the other"),
        (Self::SeqRead, "seqread", "read the next block (1M), each queue in its own part of the file"),
        (Self::SeqWrite, "seqwrite", "overwrite the next block (1M)"),
        (Self::Getattr, "getattr", "GETATTR of one of --files files"),
        (Self::Lookup, "lookup", "LOOKUP of one of them, and FORGET"),
        (Self::Open, "open", "OPEN one of them for reading, and RELEASE"),
        (Self::OpenWrite, "open-write", "OPEN one of them for reading and writing, and RELEASE"),
        (Self::Readdirplus, "readdirplus", "one entry of a directory with --files files"),
        (Self::Create, "create", "CREATE, RELEASE, UNLINK and FORGET"),
        (Self::Mkdir, "mkdir", "MKDIR, RMDIR and FORGET"),
        (Self::Rename, "rename", "RENAME a file within a directory"),
        (Self::Mixed, "mixed", "4K reads (35 %) and writes (15 %), getattr, lookup, open, create"),
        (Self::StallFsync, "stall-fsync", "4K reads while another file is written and fsynced all the time"),
        (Self::StallRead, "stall-read", "4K reads while another file is read from the disk, 1M at a time"),
    ];

    /// What is run when nothing is said: the goals that daemons are compared by.
    pub const DEFAULT: [Self; 7] = [
        Self::RandRead,
        Self::RandWrite,
        Self::SeqRead,
        Self::SeqWrite,
        Self::Getattr,
        Self::Lookup,
        Self::Create,
    ];

    /// The name that `--work` takes.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(work, ..)| *work == self).map_or("", |(_, name, _)| name)
    }

    /// Whether it transfers data of the big file.
    pub fn uses_data(self) -> bool {
        self.default_block().is_some()
    }

    /// Bytes of a transfer, for those that have some.
    pub fn default_block(self) -> Option<u32> {
        match self {
            Self::RandRead | Self::RandWrite | Self::RandRw | Self::Mixed => Some(4096),
            Self::StallFsync | Self::StallRead => Some(4096),
            Self::SeqRead | Self::SeqWrite => Some(1 << 20),
            _ => None,
        }
    }

    /// Whether `--block-size` changes it.
    pub fn takes_block_size(self) -> bool {
        self.uses_data() && !matches!(self, Self::Mixed | Self::StallFsync | Self::StallRead)
    }

    /// Whether the big file is changed.
    pub fn writes_data(self) -> bool {
        matches!(self, Self::RandWrite | Self::RandRw | Self::SeqWrite | Self::Mixed)
    }

    /// Whether the host can do the same without a daemon (the contender `host`).
    pub fn host_can(self) -> bool {
        self.takes_block_size()
    }

    /// Whether it is run once undisturbed and once disturbed.
    pub fn is_stall(self) -> bool {
        matches!(self, Self::StallFsync | Self::StallRead)
    }

    /// Bytes of payload memory of a slot.
    pub fn payload(self, block: u32) -> u32 {
        match self {
            Self::Readdirplus => directory::BUFFER,
            Self::StallFsync | Self::StallRead => stall::CHUNK,
            _ if self.uses_data() => block,
            _ => 4096,
        }
    }
}

/// How an operation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its next request was sent.
    More,
    /// It is done, and counts as so many operations with so many bytes.
    Done { ops: u32, bytes: u32 },
    /// It is done, and is no part of what is measured.
    Background,
}

impl Progress {
    const ONE: Self = Self::Done { ops: 1, bytes: 0 };
}

/// What one client thread does. See the module.
pub(super) trait Script: Send {
    /// Looks up and opens what is needed. Nothing is in flight.
    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error>;
    /// Sends the first request of an operation in a free slot.
    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error>;
    /// An answer has come.
    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error>;
    /// Closes and forgets everything. Nothing is in flight.
    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error>;
    /// Slots that are used beyond the depth, for what is not measured.
    fn background_slots(&self) -> u16 {
        0
    }
}

/// What a script is told.
#[derive(Clone)]
pub(super) struct Assignment {
    pub(super) thread: u16,
    pub(super) threads: u16,
    pub(super) depth: u16,
    pub(super) block: u32,
    pub(super) direct: bool,
    pub(super) verify: Verify,
    pub(super) files: u32,
    pub(super) seed: u64,
    pub(super) content: Option<Arc<Content>>,
    /// The second half of a stall workload.
    pub(super) disturbed: bool,
    /// Where the share is on the host's side.
    pub(super) share: Arc<Path>,
}

/// The script of a workload.
pub(super) fn script(work: Work, to: &Assignment) -> Box<dyn Script> {
    match work {
        Work::RandRead => Box::new(io::Transfers::new(to, io::Order::Random, 0)),
        Work::RandWrite => Box::new(io::Transfers::new(to, io::Order::Random, 100)),
        Work::RandRw => Box::new(io::Transfers::new(to, io::Order::Random, 50)),
        Work::SeqRead => Box::new(io::Transfers::new(to, io::Order::Sequential, 0)),
        Work::SeqWrite => Box::new(io::Transfers::new(to, io::Order::Sequential, 100)),
        Work::Getattr => Box::new(names::Existing::new(to, names::Question::Getattr)),
        Work::Lookup => Box::new(names::Existing::new(to, names::Question::Lookup)),
        Work::Open => Box::new(names::Existing::new(to, names::Question::Open(READ_ONLY))),
        Work::OpenWrite => Box::new(names::Existing::new(to, names::Question::Open(open_flags(false)))),
        Work::Readdirplus => Box::new(directory::Listing::new(to)),
        Work::Create => Box::new(names::Changes::new(to, names::Change::Create)),
        Work::Mkdir => Box::new(names::Changes::new(to, names::Change::Mkdir)),
        Work::Rename => Box::new(names::Changes::new(to, names::Change::Rename)),
        Work::Mixed => Box::new(mixed::Mixed::new(to)),
        Work::StallFsync => Box::new(stall::Stall::new(to, stall::Disturbance::Fsync)),
        Work::StallRead => Box::new(stall::Stall::new(to, stall::Disturbance::ColdReads)),
    }
}

/// The file of data workloads, below the share.
pub(super) const DATA: &str = "data";
/// The directory of metadata workloads that ask.
pub(super) const MANY: &str = "many";
/// The directory of metadata workloads that change things; empty between rounds.
pub(super) const SCRATCH: &str = "scratch";
/// The file of those that disturb.
pub(super) const OTHER: &str = "other";
/// Bytes of that file.
pub(super) const OTHER_SIZE: u64 = 64 << 20;

/// A name with its NUL: a letter and 16 hexadecimal digits.
pub(super) fn name(letter: u8, number: u64) -> [u8; 18] {
    let mut name = [0; 18];
    let (head, digits) = name.split_at_mut(1);
    head.fill(letter);
    for (place, shift) in digits.iter_mut().zip((0..16).rev()) {
        let nibble = u8::try_from(number >> (4 * shift) & 0xf).unwrap_or_default();
        *place = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
    }
    name
}

/// The same as text, for the host's side.
pub(super) fn host_name(letter: u8, number: u64) -> String {
    name(letter, number).iter().filter(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect()
}

fn lookup(channel: &mut Channel, parent: u64, name: &[u8]) -> Result<EntryOut, Error> {
    let entry: EntryOut = channel.call_for(opcode::LOOKUP, parent, &[name])?;
    if entry.nodeid == 0 {
        return Err(Error::Untrue("LOOKUP of a name that exists says that it does not".to_owned()));
    }
    Ok(entry)
}

fn lookup_root(channel: &mut Channel, name: &str) -> Result<u64, Error> {
    let entry: EntryOut =
        channel.call_for(opcode::LOOKUP, crate::frontend::ROOT, &[name.as_bytes(), &[0]])?;
    Ok(entry.nodeid)
}

fn open(channel: &mut Channel, node: u64, opcode: u32, flags: u32) -> Result<u64, Error> {
    let request = crate::fuse::abi::OpenIn { flags, open_flags: 0 };
    let reply: crate::fuse::abi::OpenOut = channel.call_for(opcode, node, &[request.as_bytes()])?;
    Ok(reply.fh)
}

fn release(channel: &mut Channel, node: u64, opcode: u32, fh: u64, flags: u32) -> Result<(), Error> {
    let request = crate::fuse::abi::ReleaseIn { fh, flags, release_flags: 0, lock_owner: 0 };
    channel.call(crate::frontend::Ask::new(opcode, node, 0), &[request.as_bytes()])?;
    Ok(())
}

/// `O_RDONLY` as a guest's 64-bit program sends it: with `O_LARGEFILE`.
const READ_ONLY: u32 = 0o10_0000;

/// `O_RDWR` as a guest's 64-bit program sends it, with `O_DIRECT` where asked for.
fn open_flags(direct: bool) -> u32 {
    let flags = libc::O_RDWR | 0o10_0000 | if direct { libc::O_DIRECT } else { 0 };
    u32::try_from(flags).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_all_different() {
        assert_eq!(host_name(b'f', 0x1f), "f000000000000001f");
        assert_eq!(name(b'f', u64::MAX).last(), Some(&0));
        for (work, name, text) in Work::ALL {
            assert_eq!(work.name(), name);
            assert!(!text.is_empty());
            assert_eq!(Work::ALL.iter().filter(|(_, other, _)| *other == name).count(), 1);
        }
    }
}
