//! What is in a directory?
//!
//! The cookie of an entry is the host's own `d_off`, any 64 bits, so that a guest may go on from any
//! cookie it ever got, also on another handle. The host's stream is moved only where the guest does not
//! simply read on.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, SeekFrom, fstat, seek};
use rustix::io::Errno;

use super::dirent::Dirent;
use super::handle::{Handle, OpenDirectory};
use super::inode::Inode;
use super::{CacheMode, Passthrough, sys_io};
use crate::fuse::abi::{FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE};
use crate::fuse::{DirectorySink, Entry, Fh, Name, NodeId, Opened, Result};

/// Bytes that are asked of the host at once. What a request leaves over waits for the next one (going back
/// instead would have btrfs show what was added meanwhile, without end), so this is also what a directory
/// costs that the guest has read half.
const BUFFER_SIZE: usize = 8 << 10;

/// OPENDIR.
///
/// # Errors
/// `ENFILE`: too many handles. `ENOTDIR`: something else.
pub(super) fn opendir(fs: &Passthrough, node: NodeId) -> Result<Opened> {
    let inode = fs.node(node)?;
    if inode.kind() != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    let room = fs.bounds.open()?;
    let fd = fs.reopen(&inode, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let stream = Mutex::new(Stream::default());
    let directory = OpenDirectory { inode, fd, stream, _room: room };
    let fh = fs.handles.insert(Handle::Directory(Arc::new(directory)));
    let flags = match fs.config.cache {
        CacheMode::Never | CacheMode::Auto => 0,
        CacheMode::Metadata | CacheMode::Always => FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE,
    };
    Ok(Opened { fh, flags })
}

/// RELEASEDIR.
///
/// # Errors
/// `EBADF`: no such handle.
pub(super) fn releasedir(fs: &Passthrough, node: NodeId, fh: Fh) -> Result<()> {
    fs.handles.directory(node, fh)?;
    fs.handles.remove(node, fh).map(drop)
}

/// READDIR and READDIRPLUS.
///
/// # Errors
/// `EBADF`: no such handle; else the host's, where not one entry could be given.
pub(super) fn readdir(
    fs: &Passthrough,
    node: NodeId,
    fh: Fh,
    offset: u64,
    plus: bool,
    sink: &mut dyn DirectorySink,
) -> Result<()> {
    let directory = fs.handles.directory(node, fh)?;
    let fd = directory.fd.as_fd();
    let mut stream = directory.stream.lock();
    stream.go_to(fd, offset)?;
    let mut given = false;
    loop {
        let entry = match stream.peek(fd) {
            Ok(Some(entry)) => entry,
            // What was given already must reach the guest; the error comes again.
            Err(error) if !given => return Err(error),
            Ok(None) | Err(_) => return Ok(()),
        };
        if !give(fs, &directory.inode, &entry, plus, sink) {
            return Ok(());
        }
        let (next, len) = (entry.next, entry.len);
        stream.advance(next, len);
        given = true;
    }
}

/// Hands one entry out; whether it fitted.
fn give(
    fs: &Passthrough,
    directory: &Arc<Inode>,
    dirent: &Dirent<'_>,
    plus: bool,
    sink: &mut dyn DirectorySink,
) -> bool {
    // First, because a reference that is taken must reach the guest.
    if !sink.fits(dirent.name.to_bytes().len()) {
        return false;
    }
    let own = matches!(dirent.name.to_bytes(), b"." | b"..");
    let entry = if plus && !own { look_up(fs, directory, dirent) } else { None };
    let ino = if dirent.name == c".." && directory.node() == NodeId::ROOT {
        // The guest sees no parent of the root, and the host's is none of its business.
        fs.path_fd(directory).and_then(fstat).map_or(0, |stat| stat.st_ino)
    } else {
        dirent.ino
    };
    let fitted = sink.add(ino, dirent.next, dirent.kind, dirent.name.to_bytes(), entry.as_ref());
    if let (false, Some(entry)) = (fitted, entry) {
        fs.forget(entry.node, 1);
    }
    fitted
}

/// The node of an entry, with one reference taken. An entry that vanished meanwhile, or that cannot be
/// looked up, is given without: the guest will ask for it by name if it wants it.
fn look_up(fs: &Passthrough, directory: &Arc<Inode>, dirent: &Dirent<'_>) -> Option<Entry> {
    let name = Name::new(dirent.name).ok()?;
    fs.lookup_child(directory, name).ok()
}

/// A directory that is being read.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Records, of which those up to `start` were given out.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The cookie that the guest would go on from, if it read on.
    here: u64,
}

impl Stream {
    /// Goes to a cookie: 0, or that of an entry.
    fn go_to(&mut self, fd: BorrowedFd<'_>, cookie: u64) -> Result<()> {
        // Rewinding shows what has changed since (POSIX), so it is no reading on.
        let fresh = cookie == 0 && self.here == 0 && self.buffer.is_empty();
        if fresh || (cookie == self.here && cookie != 0) {
            return Ok(());
        }
        self.restart(cookie);
        match seek(fd, SeekFrom::Start(cookie)) {
            Ok(there) if there == cookie => Ok(()),
            _ => self.scan_to(fd, cookie),
        }
    }

    /// The same where the host refuses to seek (`lseek(2)` takes no offset above `i64::MAX`): from the start,
    /// until the cookie comes by. Where it does not any more, the directory is at its end.
    fn scan_to(&mut self, fd: BorrowedFd<'_>, cookie: u64) -> Result<()> {
        seek(fd, SeekFrom::Start(0))?;
        self.restart(0);
        while let Some(entry) = self.peek(fd)? {
            let (next, len) = (entry.next, entry.len);
            self.advance(next, len);
            if next == cookie {
                break;
            }
        }
        self.here = cookie;
        Ok(())
    }

    fn restart(&mut self, cookie: u64) {
        (self.start, self.end, self.here) = (0, 0, cookie);
    }

    /// The next entry; `None` at the end.
    fn peek(&mut self, fd: BorrowedFd<'_>) -> Result<Option<Dirent<'_>>> {
        if self.start == self.end {
            self.buffer.resize(BUFFER_SIZE, 0);
            (self.start, self.end) = (0, 0);
            self.end = sys_io::getdents(fd, &mut self.buffer)?;
            if self.end == 0 {
                self.buffer = Vec::new();
                return Ok(None);
            }
        }
        let records = self.buffer.get(self.start..self.end).ok_or(Errno::IO)?;
        Dirent::parse(records).map(Some).ok_or(Errno::IO)
    }

    /// Leaves the entry behind that [`peek`](Self::peek) showed.
    fn advance(&mut self, next: u64, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        self.here = next;
    }
}
