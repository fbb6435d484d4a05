//! How is a directory read?

use hashbrown::HashMap;
use zerocopy::{FromBytes, IntoBytes};

use super::{Assignment, MANY, Progress, Script, lookup_root, open, release};
use crate::bench::Error;
use crate::frontend::{Ask, Channel, Reply};
use crate::fuse::abi::{Direntplus, FUSE_DIRENT_ALIGN, ReadIn, opcode};

/// Bytes of a READDIRPLUS: what glibc asks for.
pub(super) const BUFFER: u32 = 32 << 10;

/// READDIRPLUS from the beginning to the end, over and over, each slot with a handle of its own.
pub(super) struct Listing {
    /// Files in the directory; `.` and `..` come on top.
    files: u64,
    node: u64,
    handles: Vec<Handle>,
    /// References that the entries have given, to be given back at the end.
    references: HashMap<u64, u64>,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Handle {
    fh: u64,
    /// Where to go on.
    cookie: u64,
    /// Entries of this pass.
    seen: u64,
}

impl Listing {
    pub(super) fn new(to: &Assignment) -> Self {
        Self {
            files: to.files.into(),
            node: 0,
            handles: vec![Handle::default(); usize::from(to.depth)],
            references: HashMap::with_capacity(usize::try_from(to.files).unwrap_or_default() + 2),
            buffer: vec![0; usize::try_from(BUFFER).unwrap_or_default()],
        }
    }
}

impl Script for Listing {
    fn set_up(&mut self, channel: &mut Channel) -> Result<(), Error> {
        self.node = lookup_root(channel, MANY)?;
        for handle in &mut self.handles {
            handle.fh = open(channel, self.node, opcode::OPENDIR, 0)?;
        }
        Ok(())
    }

    fn begin(&mut self, channel: &mut Channel, slot: u16) -> Result<(), Error> {
        let handle = self.handles.get(usize::from(slot)).copied().unwrap_or_default();
        let request = ReadIn { fh: handle.fh, offset: handle.cookie, size: BUFFER, ..ReadIn::default() };
        let ask = Ask { receive: BUFFER, ..Ask::new(opcode::READDIRPLUS, self.node, 0) };
        channel.ask(slot, ask, &[request.as_bytes()])?;
        Ok(())
    }

    fn answer(&mut self, channel: &mut Channel, reply: Reply) -> Result<Progress, Error> {
        let length = usize::try_from(reply.ok()?).unwrap_or_default();
        let Some(handle) = self.handles.get_mut(usize::from(reply.slot)) else {
            return Err(crate::frontend::Error::StrayUsed(reply.slot.into()).into());
        };
        if length == 0 {
            let due = self.files + 2;
            if handle.seen != due {
                return Err(Error::Untrue(format!("{} directory entries where {due} are due", handle.seen)));
            }
            (handle.cookie, handle.seen) = (0, 0);
            return Ok(Progress::Done { ops: 0, bytes: 0 });
        }
        let buffer = self.buffer.get_mut(..length).unwrap_or_default();
        channel.memory().read(channel.payload(reply.slot), buffer);
        let mut count = 0;
        for entry in Entries(buffer) {
            let entry = entry.ok_or_else(|| Error::Untrue("READDIRPLUS with a broken entry".to_owned()))?;
            count += 1;
            handle.cookie = entry.dirent.off;
            // `.` and `..` come with no node.
            if entry.entry_out.nodeid != 0 {
                *self.references.entry(entry.entry_out.nodeid).or_default() += 1;
            }
        }
        handle.seen += u64::from(count);
        Ok(Progress::Done { ops: count, bytes: 0 })
    }

    fn put_away(&mut self, channel: &mut Channel) -> Result<(), Error> {
        for handle in &self.handles {
            release(channel, self.node, opcode::RELEASEDIR, handle.fh, 0)?;
        }
        for (node, count) in self.references.drain() {
            channel.forget(node, count)?;
        }
        channel.forget(self.node, 1)?;
        Ok(())
    }
}

/// The entries of an answer; None, once, for one that is cut off.
struct Entries<'a>(&'a [u8]);

impl Iterator for Entries<'_> {
    type Item = Option<Direntplus>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = Direntplus::read_from_prefix(self.0).ok().and_then(|(entry, rest)| {
            let name =
                usize::try_from(entry.dirent.namelen).ok()?.checked_next_multiple_of(FUSE_DIRENT_ALIGN)?;
            Some((entry, rest.get(name..).filter(|_| name > 0)?))
        });
        self.0 = taken.map_or(&[], |(_, rest)| rest);
        Some(taken.map(|(entry, _)| entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_where_the_answer_ends() {
        let mut entry = Direntplus::default();
        entry.dirent.namelen = 3;
        let mut bytes = entry.as_bytes().to_vec();
        bytes.extend_from_slice(b"abc\0\0\0\0\0");
        let two = bytes.repeat(2);
        assert_eq!(Entries(&two).filter(Option::is_some).count(), 2);
        assert_eq!(Entries(&[]).count(), 0);
        for cut in 1..bytes.len() {
            assert_eq!(Entries(&bytes[..cut]).collect::<Vec<_>>(), [None], "{cut}");
        }
    }
}
