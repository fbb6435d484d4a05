//! Which files does the guest reach past FUSE, and what ends that?
//!
//! The guest asks where a file lies (FUSE_IOMAP_BEGIN), is given a region of the window, and reads and overwrites
//! the file there (`docs/extent-protocol.md`). Here is decided who is given what: something to read while the guest
//! has the file open, something to write while it has it open for writing, and nothing once it has forgotten the
//! file. And here every operation that changes what a file consists of waits first for the window's requests on it.
//!
//! All of it costs a mount nothing that did not agree upon extents: [`Passthrough::extents`] is the one door.

mod files;
mod report;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, openat, statx};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::handle::OpenFile;
use super::{Passthrough, io};
use crate::extents::{self, Access, Region, Window};
use crate::fuse::abi::extents::FUSE_EXTENTS;
use crate::fuse::abi::rfc2025::FUSE_IOMAP;
use crate::fuse::{
    Address, DirectFile, Extent, ExtentDevice, FileMap, HostFile, MapPurpose, MapRequest, NodeId, Place,
    Result,
};
use files::{Claim, Files, State};

/// The number of the one device that there is.
const DEVICE: u32 = 1;

/// An end that lies behind every position, and is a multiple of every block.
const FAR: u64 = 1 << 63;

/// The window, and which files the guest may reach through it.
pub(super) struct Extents {
    window: Arc<Window>,
    files: Files,
    seats: Seats,
}

/// How many files the window may still have open.
struct Seats(Arc<AtomicUsize>);

/// Room for one, until it is closed.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

/// The window's requests on a file have ended, and there are no new ones for as long as this lives.
pub(super) struct Fence<'a> {
    // In this order: first requests are let in again, then maps.
    _window: extents::Fence<'a>,
    _claim: Claim<'a>,
}

/// A file as the window has it. It has descriptors of its own: an open of the guest carries locks of the host,
/// which must end with that open.
#[derive(Debug)]
struct RegionFile {
    buffered: OwnedFd,
    direct: Option<DirectFile>,
    _seat: Seat,
}

impl Seats {
    /// # Errors
    /// `ENFILE`: there is none.
    fn take(&self) -> Result<Seat> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.map(|_| Seat(self.0.clone())).map_err(|_| Errno::NFILE)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl HostFile for RegionFile {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        self.direct.as_ref()
    }
}

impl Passthrough {
    /// The window, where this mount has agreed upon extents.
    pub(super) fn extents(&self) -> Option<&Extents> {
        self.extents.as_ref().filter(|_| self.negotiated(FUSE_EXTENTS) || self.negotiated(FUSE_IOMAP))
    }

    /// Keeps the window off a file while an operation changes its size, or what it consists of. May wait.
    pub(super) fn fence(&self, node: NodeId) -> Option<Fence<'_>> {
        let Extents { window, files, .. } = self.extents()?;
        let claim = files.claim(node);
        Some(Fence { _window: window.fence(node.0), _claim: claim })
    }
}

impl Extents {
    /// No file is open. The window will have at most `max` open at a time, each with two descriptors.
    pub(super) fn new(window: Arc<Window>, max: usize) -> Self {
        Self { window, files: Files::default(), seats: Seats(Arc::new(AtomicUsize::new(max))) }
    }

    /// Counts an open in. Before the guest can know of it.
    pub(super) fn opened(&self, file: &Arc<OpenFile>) {
        self.files.open(file);
    }

    /// Counts an open out, and ends what it was the last reason for. May wait, where the file has a region.
    pub(super) fn released(&self, file: &Arc<OpenFile>) {
        let node = file.inode.node();
        self.files.close(file, |granted| match granted {
            None => self.window.revoke(node.0),
            Some(_) => self.window.end_writes(node.0),
        });
    }

    /// The guest has forgotten the file, and can ask for no map of it any more. Waits only where it forgets a file
    /// that it has open, and so only for itself.
    pub(super) fn forgotten(&self, node: NodeId) {
        self.files.forget(node, || self.window.revoke(node.0));
    }

    /// Ends everything. The nodes of the mount must be gone already. May wait.
    pub(super) fn clear(&self) {
        self.files.clear();
        self.window.revoke_all();
    }

    /// Whether a release or a change of the file may have to wait.
    pub(super) fn may_wait(&self, node: NodeId) -> bool {
        self.files.look(node, |state| state.granted.is_some() || state.claimed)
    }

    /// Whether a map may have to.
    pub(super) fn map_may_wait(&self, node: NodeId) -> bool {
        self.files.look(node, |state| state.claimed)
    }

    fn logical_block(&self) -> u64 {
        self.window.identity().logical_block.into()
    }
}

/// FUSE_EXTENT_DEVICE.
///
/// # Errors
/// `ENOENT`: there is one device. `ENOSYS`: there is none.
pub(super) fn device(fs: &Passthrough, index: u32) -> Result<ExtentDevice> {
    let identity = fs.extents().ok_or(Errno::NOSYS)?.window.identity();
    if index != 0 {
        return Err(Errno::NOENT);
    }
    Ok(ExtentDevice {
        number: DEVICE,
        read_only: identity.read_only,
        size: identity.size,
        logical_block: identity.logical_block,
        serial: identity.serial,
    })
}

/// FUSE_IOMAP_BEGIN. What a file has been given once is answered again without asking the host.
///
/// # Errors
/// `ESTALE`: no such file. `EOPNOTSUPP`: not a regular file. `EBADF`: the guest does not have it open.
pub(super) fn map(fs: &Passthrough, node: NodeId, request: &MapRequest) -> Result<FileMap> {
    let extents = fs.extents().ok_or(Errno::NOSYS)?;
    if fs.node(node)?.kind() != FileType::RegularFile {
        return Err(Errno::OPNOTSUPP);
    }
    let file = extents.files.get(node).ok_or(Errno::BADF)?;
    let mut state = file.unclaimed();
    // Once more: FORGET and DESTROY first take the node away, and then, under this lock, what it was given.
    fs.node(node)?;
    let open = state.any().ok_or(Errno::BADF)?;
    let size = u64::try_from(fstat(&open.fd)?.st_size).map_err(|_| Errno::IO)?;
    let region = match request.purpose {
        MapPurpose::Report => extents.window.granted(node.0, request.position),
        MapPurpose::Change => None,
        MapPurpose::Read => extents.grant(fs, &mut state, &open, size, request.position, Access::Read),
        MapPurpose::Write => extents.grant(fs, &mut state, &open, size, request.position, Access::Write),
    };
    let read = match (request.purpose, region) {
        (MapPurpose::Report, region) => {
            report::extent(open.fd.as_fd(), size, request.position, extents.logical_block(), region)
        }
        (_, Some(Region { offset, length, address, .. })) => {
            Extent { offset, length, place: Place::Mapped(Some(Address { device: DEVICE, byte: address })) }
        }
        // The rest of the file, but for what it has a region for already.
        (MapPurpose::Read | MapPurpose::Write, None) => {
            let known = extents.window.granted(node.0, 0);
            let offset = known.map_or(0, |region| region.offset.saturating_add(region.length));
            Extent { offset, length: FAR - offset, place: Place::Fuse }
        }
        (MapPurpose::Change, None) => {
            let block = extents.logical_block();
            let offset = request.position - request.position % block;
            let end = (request.position + request.count).next_multiple_of(block);
            Extent { offset, length: end - offset, place: Place::Fuse }
        }
    };
    let writes = region.is_some_and(|region| matches!(region.access, Access::Write));
    let place = if writes && request.purpose != MapPurpose::Report { Place::Overwrite } else { Place::Fuse };
    Ok(FileMap { read, write: Extent { place, ..read }, size })
}

impl Extents {
    /// The region of the file at this position, with no less access than is wanted where that may be; none where the
    /// window has no room, or the host does not open the file.
    fn grant(
        &self,
        fs: &Passthrough,
        state: &mut State,
        open: &OpenFile,
        size: u64,
        position: u64,
        wanted: Access,
    ) -> Option<Region> {
        let may_write = state.has_writer() && !fs.config.read_only && !self.window.identity().read_only;
        let writes = matches!(wanted, Access::Write) && may_write;
        let enough = |region: &Region| !writes || matches!(region.access, Access::Write);
        let mut give = |access| {
            let file = self.open(fs, open, access).ok()?;
            let region = self.window.grant(open.inode.node().0, &file, size, position, access)?;
            state.grant(access);
            Some(region)
        };
        // Reads by a descriptor of their own, so that they outlast the writes.
        let region = self.window.granted(open.inode.node().0, position).or_else(|| give(Access::Read));
        if region.as_ref().is_some_and(enough) || !writes {
            return region;
        }
        give(Access::Write).or(region)
    }

    /// Opens a file for the window, by way of an open of the guest: its name may be gone, and its handle with it.
    ///
    /// # Errors
    /// `ENFILE`: the window has too many. The host's: more may be wanted here than the guest's open was for.
    fn open(&self, fs: &Passthrough, open: &OpenFile, access: Access) -> Result<Arc<dyn HostFile>> {
        let seat = self.seats.take()?;
        let access = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::RDWR,
        };
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY;
        let buffered = openat(&fs.proc_self_fd, DecInt::from_fd(&open.fd).as_c_str(), flags, Mode::empty())?;
        let direct = match io::open_direct(fs, &buffered, access) {
            // A shortage passes; without the descriptor the region would be slow for as long as it lasts.
            Err(shortage @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(shortage),
            opened => opened.ok().flatten(),
        };
        Ok(Arc::new(RegionFile { buffered, direct, _seat: seat }))
    }
}

/// FUSE_IOMAP_IOEND: the file's size. Nothing is left to be done when I/O ends: a write through the window is one
/// through the host's file.
///
/// # Errors
/// `ESTALE`: no such file.
pub(super) fn end_io(fs: &Passthrough, node: NodeId) -> Result<u64> {
    let extents = fs.extents().ok_or(Errno::NOSYS)?;
    let inode = fs.node(node)?;
    let open = extents.files.get(node).and_then(|file| file.unclaimed().any());
    let size = |fd: BorrowedFd<'_>| statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::SIZE);
    let stat = match open {
        Some(open) => size(open.fd.as_fd()),
        None => size(fs.path_fd(&inode)?.as_fd()),
    }?;
    Ok(stat.stx_size)
}
