//! Which files does the guest reach past FUSE, and what ends that?
//!
//! The guest asks where a file lies (FUSE_IOMAP_BEGIN), is given a region of the window, and reads and overwrites
//! the file there (`docs/extent-protocol.md`). Here is decided who is given what: something to read while the guest
//! has the file open, something to write while it has it open for writing, and nothing once it has forgotten the
//! file. And here every operation that changes what a file consists of waits first for the window's requests on it.
//!
//! Or the records lead to the block device under the share, which the guest has as a disk (`--extent-source device`). Then
//! nobody is between the guest and the blocks, and nothing can be fenced. So the blocks of a file of which something
//! was told stay that file's until its last close: what would free or move them is refused.
//!
//! With `--extent-source block` records lead to the window, and the window moves bytes of pinned files on that device itself,
//! where it knows their blocks. Whoever frees or moves blocks fences the file before, and then the window knows them no more.
//!
//! All of it costs nothing until a mount has agreed upon extents: [`Passthrough::extents`] is the one door.

mod fiemap;
mod files;
mod map;
mod pin;
mod report;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::Passthrough;
use super::handle::OpenFile;
use super::inode::Inode;
use crate::extents::{self, Access, Identity, Volume, Window};
use crate::fuse::abi::extents::FUSE_EXTENTS;
use crate::fuse::abi::rfc2025::FUSE_IOMAP;
use crate::fuse::{ExtentDevice, Name, NodeId, Result};
use files::{Claim, Files};
pub(super) use map::map;
pub(super) use pin::Pin;

/// The number of the one device that there is.
const DEVICE: u32 = 1;

/// An end that lies behind every position, and is a multiple of every block.
const FAR: u64 = 1 << 63;

/// How often, and how long each time, a request that may not be done waits for a RELEASE that is under way: a guest
/// sends that without waiting for it, and then the next.
const PATIENCE: (u32, Duration) = (25, Duration::from_millis(8));

/// Where the guest finds the bytes of files, and of which.
pub(super) struct Extents {
    source: Source,
    files: Files,
    /// Some mount has agreed upon extents.
    asked_for: AtomicBool,
}

/// Where records lead.
enum Source {
    /// To regions of the window.
    Window(Arc<Window>),
    /// To blocks of the device under the share.
    Device(Volume),
}

/// The window's requests on a file have ended, and there are no new ones for as long as this lives; nor are maps given.
pub(super) struct Fence<'a> {
    // In this order: first requests are let in again, then maps.
    _window: Option<extents::Fence<'a>>,
    _claim: Claim<'a>,
}

impl Passthrough {
    /// The window, where this mount or one before has agreed upon extents: what a mount was given may be in use when its successor,
    /// with other features, is there already.
    pub(super) fn extents(&self) -> Option<&Extents> {
        self.extents.as_ref().filter(|extents| extents.asked_for.load(Ordering::Relaxed))
    }

    /// The same for this mount alone.
    ///
    /// # Errors
    /// `ENOSYS`: there is none.
    fn negotiated_extents(&self) -> Result<&Extents> {
        let negotiated = self.negotiated(FUSE_EXTENTS) || self.negotiated(FUSE_IOMAP);
        self.extents().filter(|_| negotiated).ok_or(Errno::NOSYS)
    }

    /// Says, before a mount begins, which features it has. Returns whether there are extents and it does without.
    pub(super) fn agreed_upon(&self, features: u64) -> bool {
        let asks = features & (FUSE_EXTENTS | FUSE_IOMAP) != 0;
        self.extents.as_ref().is_some_and(|extents| {
            extents.asked_for.fetch_or(asks, Ordering::Relaxed);
            !asks
        })
    }

    /// Keeps the window off a file while an operation changes its size, or what it consists of. May wait.
    pub(super) fn fence(&self, inode: &Inode) -> Option<Fence<'_>> {
        let Extents { source, files, .. } = self.extents()?;
        let node = inode.node();
        let claim = files.claim(node);
        let window = source.window().map(|window| window.fence_file(node.0, inode.ino()));
        Some(Fence { _window: window, _claim: claim })
    }

    /// The same for an operation that matters only where the window knows blocks of files. May wait.
    pub(super) fn fence_blocks(&self, inode: &Inode) -> Option<Fence<'_>> {
        self.extents()?.source.window_on_blocks().and_then(|_| self.fence(inode))
    }

    /// The same for an operation that gives a file privileges, which a write takes away, but for one past the daemon.
    ///
    /// # Errors
    /// `EBUSY`, as for [`fence_to_free`](Self::fence_to_free).
    pub(super) fn fence_privileged(&self, inode: &Inode) -> Result<Option<Fence<'_>>> {
        if self.extents().is_some_and(Extents::is_on_device) {
            return self.fence_to_free(inode);
        }
        Ok(self.fence_blocks(inode))
    }

    /// The same for both files of a copy, or only for the one that is written where the other can be read at any time.
    pub(super) fn fence_copy(&self, source: &Inode, target: &Inode) -> [Option<Fence<'_>>; 2] {
        if source.node() == target.node() {
            return [self.fence(target), None];
        }
        // Of two copies that meet the one waits for the other, and not each for each.
        if source.node().0 < target.node().0 {
            [self.fence_blocks(source), self.fence(target)]
        } else {
            [self.fence(target), self.fence_blocks(source)]
        }
    }

    /// Notes that the times of a file were set to what the guest wanted.
    pub(super) fn times_were_set(&self, node: NodeId) {
        if let Some(window) = self.extents().and_then(|extents| extents.source.window()) {
            window.times_were_set(node.0);
        }
    }

    /// The same for an operation after which blocks of the file may be another's, or hold something else.
    ///
    /// # Errors
    /// `EBUSY`: the guest was told where they are, and has the file open yet.
    pub(super) fn fence_to_free(&self, inode: &Inode) -> Result<Option<Fence<'_>>> {
        let Some(extents) = self.extents().filter(|extents| extents.is_on_device()) else {
            return Ok(self.fence(inode));
        };
        let node = inode.node();
        let (times, pause) = PATIENCE;
        for _ in 0..times {
            let claim = extents.files.claim(node);
            if !extents.files.look(node, |state| state.granted.is_some()) {
                return Ok(Some(Fence { _window: None, _claim: claim }));
            }
            drop(claim);
            thread::sleep(pause);
        }
        Err(Errno::BUSY)
    }
}

/// Keeps the file with this name, if there is one, from being told of while it may lose its last name: its blocks would be
/// free as soon as the daemon ends, of which the guest's disk, or a request that the window had in flight, knows nothing.
///
/// # Errors
/// `EBUSY`, as for [`Passthrough::fence_to_free`].
pub(super) fn fence_name<'a>(
    fs: &'a Passthrough,
    parent: NodeId,
    name: Name<'_>,
) -> Result<Option<Fence<'a>>> {
    if !fs.extents().is_some_and(Extents::guards_names) {
        return Ok(None);
    }
    let Ok(entry) = fs.lookup_child(&fs.node(parent)?, name) else { return Ok(None) };
    let inode = fs.node(entry.node);
    // Before the fence: where the guest has forgotten the file meanwhile, this waits for fences.
    fs.forget(entry.node, 1);
    let inode = inode?;
    fs.fence_to_free(&inode)
}

impl Source {
    fn window(&self) -> Option<&Window> {
        match self {
            Self::Window(window) => Some(window),
            Self::Device(_) => None,
        }
    }

    /// The window, where it knows blocks of files.
    fn window_on_blocks(&self) -> Option<Arc<Window>> {
        match self {
            Self::Window(window) if window.volume().is_some() => Some(Arc::clone(window)),
            Self::Window(_) | Self::Device(_) => None,
        }
    }

    fn identity(&self) -> &Identity {
        match self {
            Self::Window(window) => window.identity(),
            Self::Device(volume) => volume.identity(),
        }
    }
}

impl Extents {
    /// No file is open.
    pub(super) fn new(window: Arc<Window>) -> Self {
        Self::of(Source::Window(window))
    }

    /// The same with the device under the share.
    pub(super) fn on_device(volume: Volume) -> Self {
        Self::of(Source::Device(volume))
    }

    fn of(source: Source) -> Self {
        Self { source, files: Files::default(), asked_for: AtomicBool::new(false) }
    }

    /// Whether the guest has the files' blocks on a disk of its own.
    pub(super) fn is_on_device(&self) -> bool {
        matches!(self.source, Source::Device(_))
    }

    /// Whether bytes of direct files may be moved on the device under the share, past its file system.
    fn pins(&self) -> bool {
        match &self.source {
            Source::Window(window) => window.volume().is_some(),
            Source::Device(_) => true,
        }
    }

    /// Whether a file may not lose its name just so.
    pub(super) fn guards_names(&self) -> bool {
        match &self.source {
            Source::Window(window) => window.volume().is_some() && window.is_used(),
            Source::Device(_) => true,
        }
    }

    /// Counts an open in, of a file that is in the direct mode or not. Before the guest can know of it.
    pub(super) fn opened(&self, file: &Arc<OpenFile>, direct: bool) {
        self.files.open(file, direct && self.pins());
    }

    /// Counts an open out, and ends what it was the last reason for. May wait, where the file has a region.
    pub(super) fn released(&self, file: &Arc<OpenFile>) {
        let node = file.inode.node();
        self.files.close(file, |granted| match (&self.source, granted) {
            (Source::Window(window), None) => window.revoke(node.0),
            (Source::Window(window), Some(_)) => window.end_writes(node.0),
            // Before anybody may be told otherwise: from here on the file may be cut.
            (Source::Device(_), _) => {
                if let Some(pin) = file.pin.get().filter(|_| file.writable) {
                    pin.touch();
                }
            }
        });
        if let Some(pin) = file.pin.get() {
            pin.drop_cache();
        }
    }

    /// The guest has forgotten the file, and can ask for no map of it any more. Waits only where it forgets a file
    /// that it has open, and so only for itself.
    pub(super) fn forgotten(&self, node: NodeId) {
        // Of a device nothing is taken back while the file is open.
        if let Source::Window(window) = &self.source {
            self.files.forget(node, || window.revoke(node.0));
        }
    }

    /// Ends everything. The nodes of the mount must be gone already. May wait.
    pub(super) fn clear(&self) {
        self.files.clear();
        if let Some(window) = self.source.window() {
            window.revoke_all();
        }
    }

    /// Whether a release or a change of the file may have to wait.
    pub(super) fn may_wait(&self, node: NodeId) -> bool {
        self.files.look(node, |state| state.granted.is_some() || state.claimed)
    }

    /// Whether a map may have to.
    pub(super) fn map_may_wait(&self, node: NodeId) -> bool {
        self.is_on_device() || self.files.look(node, |state| state.claimed)
    }

    /// Notes on the host that the guest may have written to the file. (The window does that by itself.)
    pub(super) fn touch_written(&self, node: NodeId, pin: &Pin) {
        if self.is_on_device() && self.files.look(node, |state| matches!(state.granted, Some(Access::Write)))
        {
            pin.touch();
        }
    }

    /// Makes durable what the guest, or the window, wrote to the device itself. May wait.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn flush_device(&self) -> Result<()> {
        match &self.source {
            Source::Window(window) => window.volume().map_or(Ok(()), Volume::flush),
            Source::Device(volume) => volume.flush(),
        }
    }

    fn logical_block(&self) -> u64 {
        self.source.identity().logical_block.into()
    }
}

/// FUSE_EXTENT_DEVICE.
///
/// # Errors
/// `ENOENT`: there is one device. `ENOSYS`: there is none.
pub(super) fn device(fs: &Passthrough, index: u32) -> Result<ExtentDevice> {
    let identity = fs.negotiated_extents()?.source.identity();
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

/// FUSE_IOMAP_IOEND: the file's size. Nothing is left to be done when I/O ends: a write through the window is one
/// through the host's file.
///
/// # Errors
/// `ESTALE`: no such file.
pub(super) fn end_io(fs: &Passthrough, node: NodeId) -> Result<u64> {
    let extents = fs.negotiated_extents()?;
    let inode = fs.node(node)?;
    let open = extents.files.get(node).and_then(|file| file.unclaimed().any());
    let size = |fd: BorrowedFd<'_>| statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::SIZE);
    let stat = match open {
        Some(open) => size(open.fd.as_fd()),
        None => size(fs.path_fd(&inode)?.as_fd()),
    }?;
    Ok(stat.stx_size)
}
