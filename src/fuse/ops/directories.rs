//! Operations on open directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR and FSYNCDIR.

use std::cell::Cell;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::{bounded, usize_of};
use crate::fuse::abi;
use crate::fuse::encode::{self, Encoder};
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::{Entry, Fh, Result};
use crate::fuse::{DirectorySink, FileSystem};

/// OPENDIR.
pub(in crate::fuse) fn opendir<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let open: abi::OpenIn = body.take()?;
    reply.push(&encode::open_out(&fs.opendir(request.caller(), request.node(), open.flags)?))
}

/// READDIR.
pub(in crate::fuse) fn readdir<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    list(fs, request, false, reply)
}

/// READDIRPLUS.
pub(in crate::fuse) fn readdirplus<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    list(fs, request, true, reply)
}

fn list<F: FileSystem>(fs: &F, request: &Request<'_>, plus: bool, reply: &mut Reply<'_>) -> Result<()> {
    let mut body = request.body;
    let read: abi::ReadIn = body.take()?;
    let free = usize_of(bounded(read.size.min(request.most_read()), reply.room()));
    let buffer = reply.tail();
    let start = buffer.len();
    let mut entries = Entries {
        start,
        end: start + free,
        buffer,
        plus,
        encoder: request.encoder(),
        full: Cell::new(false),
    };
    let result = fs.readdir(request.caller(), request.node(), Fh(read.fh), read.offset, plus, &mut entries);
    let full = entries.full.get();
    match result {
        // What was added is answered even where an error came behind it: in READDIRPLUS each entry holds a
        // reference, of which the guest must learn. It meets the error when it goes on.
        _ if reply.tail().len() > start => Ok(()),
        // An empty answer would mean the directory's end.
        Ok(()) if full => Err(Errno::INVAL),
        result => result,
    }
}

/// Entries at the end of a reply.
struct Entries<'a> {
    buffer: &'a mut Vec<u8>,
    /// Where the first entry begins: entries are aligned from there on.
    start: usize,
    /// No entry passes this length of the buffer.
    end: usize,
    plus: bool,
    encoder: Encoder,
    /// Something did not fit.
    full: Cell<bool>,
}

impl Entries<'_> {
    /// Length of an entry, its padding included (`FUSE_DIRENT_SIZE`, `FUSE_DIRENTPLUS_SIZE`).
    fn len_of(&self, name_len: usize) -> Option<usize> {
        let head = if self.plus { size_of::<abi::Direntplus>() } else { size_of::<abi::Dirent>() };
        head.checked_add(name_len)?.checked_next_multiple_of(abi::FUSE_DIRENT_ALIGN)
    }
}

impl DirectorySink for Entries<'_> {
    fn fits(&self, name_len: usize) -> bool {
        let end = self.len_of(name_len).and_then(|len| self.buffer.len().checked_add(len));
        let fits = end.is_some_and(|end| end <= self.end);
        if !fits {
            self.full.set(true);
        }
        fits
    }

    fn add(&mut self, ino: u64, next: u64, kind: u8, name: &[u8], entry: Option<&Entry>) -> bool {
        let (Ok(namelen), true) = (u32::try_from(name.len()), self.fits(name.len())) else { return false };
        if self.plus {
            // A nodeid of 0 says that no LOOKUP was done (fuse_direntplus_link).
            let entry_out = entry.map(|entry| self.encoder.entry_out(entry)).unwrap_or_default();
            self.buffer.extend_from_slice(entry_out.as_bytes());
        }
        let dirent = abi::Dirent { ino, off: next, namelen, kind: kind.into() };
        self.buffer.extend_from_slice(dirent.as_bytes());
        self.buffer.extend_from_slice(name);
        let written = self.buffer.len() - self.start;
        self.buffer.resize(self.start + written.next_multiple_of(abi::FUSE_DIRENT_ALIGN), 0);
        true
    }
}

/// RELEASEDIR.
pub(in crate::fuse) fn releasedir<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let release: abi::ReleaseIn = body.take()?;
    fs.releasedir(request.node(), Fh(release.fh))
}

/// FSYNCDIR.
pub(in crate::fuse) fn fsyncdir<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let fsync: abi::FsyncIn = body.take()?;
    fs.fsyncdir(request.node(), Fh(fsync.fh), fsync.fsync_flags & abi::FUSE_FSYNC_FDATASYNC != 0)
}
