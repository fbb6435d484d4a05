//! Where does the guest find the part of a file that it asks for, and may it write there?

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::MutexGuard;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::files::State;
use super::pin::{Ground, Pin};
use super::{DEVICE, Extents, FAR, Source, fiemap, report};
use crate::extents::{Access, Identity, Locate, Location, Region, Volume, Window};
use crate::fs::handle::OpenFile;
use crate::fs::{Passthrough, io};
use crate::fuse::{
    Address, DirectFile, Extent, FileMap, HostFile, MapPurpose, MapRequest, NodeId, Place, Result,
};
use crate::metrics::Taken;

/// A file as the window has it. It has descriptors of its own: an open of the guest carries locks of the host,
/// which must end with that open.
#[derive(Debug)]
struct RegionFile {
    buffered: OwnedFd,
    direct: Option<DirectFile>,
    blocks: Option<RegionBlocks>,
    _seat: Taken,
}

/// A file of the window's whose bytes may be moved on the device: as long as it is pinned, nobody reads or writes it by way of the host's
/// page cache.
#[derive(Debug)]
struct RegionBlocks {
    pin: Arc<Pin>,
    ino: u64,
    ground: Ground,
}

impl Locate for RegionBlocks {
    fn number(&self) -> u64 {
        self.ino
    }

    fn locate(&self) -> Option<Location> {
        self.pin.locate(self.ground)
    }

    fn drop_cache(&self) {
        self.pin.drop_cache();
    }
}

impl HostFile for RegionFile {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        self.direct.as_ref()
    }

    fn blocks(&self) -> Option<&dyn Locate> {
        let blocks = self.blocks.as_ref()?;
        Some(blocks)
    }
}

/// FUSE_IOMAP_BEGIN. What a file has been given once is answered again without asking the host.
///
/// # Errors
/// `ESTALE`: no such file. `EOPNOTSUPP`: not a regular file. `EBADF`: the guest does not have it open.
pub(in crate::fs) fn map(fs: &Passthrough, node: NodeId, request: &MapRequest) -> Result<FileMap> {
    let extents = fs.negotiated_extents()?;
    if fs.node(node)?.kind() != FileType::RegularFile {
        return Err(Errno::OPNOTSUPP);
    }
    let file = extents.files.get(node).ok_or(Errno::BADF)?;
    let state = file.unclaimed();
    // Once more: FORGET and DESTROY first take the node away, and then, under this lock, what it was given.
    fs.node(node)?;
    let open = state.any().ok_or(Errno::BADF)?;
    let size = u64::try_from(fstat(&open.fd)?.st_size).map_err(|_| Errno::IO)?;
    let question = Question { fs, extents, node, request, state, open, size };
    match &extents.source {
        Source::Window(window) => question.in_window(window),
        Source::Device(volume) => question.on_device(volume),
    }
}

/// What is asked of a file that is open, with the lock of its record held.
struct Question<'a> {
    fs: &'a Passthrough,
    extents: &'a Extents,
    node: NodeId,
    request: &'a MapRequest,
    state: MutexGuard<'a, State>,
    /// One of the guest's opens.
    open: Arc<OpenFile>,
    /// The file's, in bytes.
    size: u64,
}

impl Question<'_> {
    fn in_window(mut self, window: &Window) -> Result<FileMap> {
        let Self { node, request, size, .. } = self;
        let region = match request.purpose {
            MapPurpose::Report => window.granted(node.0, request.position),
            MapPurpose::Change => None,
            MapPurpose::Read => self.grant(window, Access::Read),
            MapPurpose::Write => self.grant(window, Access::Write),
        };
        let read = match (request.purpose, region) {
            (MapPurpose::Report, region) => self.report(region),
            (_, Some(Region { offset, length, address, .. })) => Extent {
                offset,
                length,
                place: Place::Mapped(Some(Address { device: DEVICE, byte: address })),
            },
            // The rest of the file, but for what it has a region for already.
            (MapPurpose::Read | MapPurpose::Write, None) => {
                let known = window.granted(node.0, 0);
                let offset = known.map_or(0, |region| region.offset.saturating_add(region.length));
                Extent { offset, length: FAR - offset, place: Place::Fuse }
            }
            (MapPurpose::Change, None) => self.changed(),
        };
        let writes = region.is_some_and(|region| matches!(region.access, Access::Write));
        let place =
            if writes && request.purpose != MapPurpose::Report { Place::Overwrite } else { Place::Fuse };
        Ok(FileMap { read, write: Extent { place, ..read }, size })
    }

    /// Tells blocks of the file, where it is one whose blocks may be told. They then stay where they are until the file's
    /// last close.
    fn on_device(mut self, volume: &Volume) -> Result<FileMap> {
        let Self { fs, request, size, .. } = self;
        let by_fuse = |read: Extent| FileMap { read, write: Extent { place: Place::Fuse, ..read }, size };
        let wants_to_write = match request.purpose {
            // Without addresses: nothing is told for good here.
            MapPurpose::Report => return Ok(by_fuse(self.report(None))),
            MapPurpose::Change => return Ok(by_fuse(self.changed())),
            MapPurpose::Read => false,
            MapPurpose::Write => true,
        };
        let never = by_fuse(Extent { offset: 0, length: FAR, place: Place::Fuse });
        let Some(pin) = self.state.pin.clone() else { return Ok(never) };
        let found = pin.find(fs, volume, &self.open, request.position)?;
        let Some(fiemap::Run { offset, length, address }) = found else { return Ok(never) };
        let Some(byte) = address else {
            return Ok(by_fuse(Extent { offset, length, place: Place::Fuse }));
        };
        let read = Extent { offset, length, place: Place::Mapped(Some(Address { device: DEVICE, byte })) };
        let read_only = fs.config.read_only || volume.identity().read_only;
        if !wants_to_write || read_only || !self.state.has_writer() || !pin.writes_only_bytes() {
            self.state.grant(Access::Read);
            return Ok(by_fuse(read));
        }
        if !matches!(self.state.granted, Some(Access::Write)) {
            pin.touch();
        }
        self.state.grant(Access::Write);
        Ok(FileMap { read, write: Extent { place: Place::Overwrite, ..read }, size })
    }

    /// What there is at the position, for those who only want to know.
    fn report(&self, region: Option<Region>) -> Extent {
        report::extent(
            self.open.fd.as_fd(),
            self.size,
            self.request.position,
            self.extents.logical_block(),
            region,
        )
    }

    /// The answer where the request is for a change, which only the file system can make.
    fn changed(&self) -> Extent {
        let (position, block) = (self.request.position, self.extents.logical_block());
        let offset = position - position % block;
        let end = (position + self.request.count).next_multiple_of(block);
        Extent { offset, length: end - offset, place: Place::Fuse }
    }

    /// The region of the file at the position, with no less access than is wanted where that may be; none where the
    /// window has no room, or the host does not open the file.
    fn grant(&mut self, window: &Window, wanted: Access) -> Option<Region> {
        let may_write = self.state.has_writer() && !self.fs.config.read_only && !window.identity().read_only;
        let writes = matches!(wanted, Access::Write) && may_write;
        let enough = |region: &Region| !writes || matches!(region.access, Access::Write);
        // Reads by a descriptor of their own, so that they outlast the writes.
        let known = window.granted(self.node.0, self.request.position);
        let region = known.or_else(|| self.give(window, Access::Read));
        if region.as_ref().is_some_and(enough) || !writes {
            return region;
        }
        self.give(window, Access::Write).or(region)
    }

    fn give(&mut self, window: &Window, access: Access) -> Option<Region> {
        let file = self.open(window, access).ok()?;
        let region = window.grant(self.node.0, &file, self.size, self.request.position, access)?;
        self.state.grant(access);
        Some(region)
    }

    /// Opens the file for the window, by way of an open of the guest: its name may be gone, and its handle with it.
    ///
    /// # Errors
    /// `ENFILE`: the window has too many. The host's: more may be wanted here than the guest's open was for.
    fn open(&self, window: &Window, access: Access) -> Result<Arc<dyn HostFile>> {
        let Self { fs, open, .. } = self;
        let seat = fs.bounds.window_open()?;
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
        let blocks = self.blocks(window).filter(|_| direct.is_some());
        Ok(Arc::new(RegionFile { buffered, direct, blocks, _seat: seat }))
    }

    /// The file as one whose blocks may be known. It is pinned then, and stays so for as long as it has a region.
    fn blocks(&self, window: &Window) -> Option<RegionBlocks> {
        let Self { fs, open, .. } = self;
        let volume = window.volume()?;
        let pin = self.state.pin.clone().filter(|pin| pin.holds(fs, open))?;
        let Identity { size, logical_block, read_only, .. } = *volume.identity();
        let read_only = read_only || fs.config.read_only;
        let ground = Ground { number: volume.number(), block: logical_block.into(), size, read_only };
        Some(RegionBlocks { pin, ino: open.inode.ino(), ground })
    }
}
