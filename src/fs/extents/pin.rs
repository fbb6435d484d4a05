//! How are the bytes of a file moved that the guest also reaches on the device?
//!
//! The guest writes under the host's page cache, which never learns of it. So nothing of such a file may be read from
//! there, and no dirty page may cover blocks that the guest may write: it would be written back over newer data. From
//! the first open that makes a file direct ([`IoMode`](crate::fs::io_mode)) to the last close READ and WRITE are done
//! here, in pieces that suit the device, past the cache. What is at the end of the file, in the last page or behind it, goes
//! by way of the cache, because only so a file grows; and that part is never told to the guest.
//!
//! With the source `block` the same is done, because the window writes there; and who writes a part of a device's block, of which he has
//! to read the rest before, keeps the window off the file meanwhile.
//!
//! A transfer moves bytes between the guest's memory and a file without a name; the rest is done before a read and after
//! a write. That is two copies and a thread that waits, which is the price of all that does not go to the device.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{
    Advice, AtFlags, MemfdFlags, Mode, OFlags, StatxAttributes, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, fadvise, fdatasync, fgetxattr, fstat, fstatfs, futimens, memfd_create, openat, statx,
};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2};
use rustix::path::DecInt;

use super::fiemap;
use crate::extents::{Location, MOST_PIECES, Piece, Volume, Window};
use crate::fs::handle::OpenFile;
use crate::fs::{Passthrough, io as transfers, sys_io};
use crate::fuse::{DirectFile, Direction, HostFile, IoRequest, NodeId, Result, Transfer};
use crate::metrics::Taken;

/// `FS_*_FL`: compressed, encrypted, data goes through the journal, verity, attributes of another, DAX, in the inode.
const STRANGE: u32 = 0x4 | 0x800 | 0x4000 | 0x10_0000 | 0x20_0000 | 0x200_0000 | 0x1000_0000;
/// `FS_EXTENT_FL`: without it, ext4 keeps lists of blocks, and direct writes may turn into buffered ones.
const EXTENTS: u32 = 0x8_0000;
/// `FS_XFLAG_*`: on the realtime device, DAX.
const STRANGE_XFS: u32 = 0x1 | 0x8000;
const EXT4: u64 = 0xef53;

/// A page of every host; blocks may be larger.
const PAGE: u64 = 4096;

/// The device that a file may lie on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    /// Major and minor.
    pub(super) number: (u32, u32),
    /// Its logical block, in bytes.
    pub(super) block: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Nothing is to be written there.
    pub(super) read_only: bool,
}

/// A file that is direct, on a volume that the guest has as a disk, or the window.
#[derive(Debug, Default)]
pub(in crate::fs) struct Pin {
    /// Opened by the first who wants it. None in it: it cannot be, and then everything is as for any other file.
    raw: OnceLock<Option<Raw>>,
    /// Whether the file is one whose blocks may be told, once that was asked. Held by who writes, and by who tells.
    own: Mutex<Option<bool>>,
}

/// The file's descriptors.
#[derive(Debug)]
struct Raw {
    buffered: OwnedFd,
    direct: DirectFile,
    /// Bytes: from the last whole multiple in the file on, writes go by way of the page cache.
    unit: u64,
    _seat: Taken,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Pages that are there, for whatever reason, may be older than what the guest wrote.
        self.drop_cache();
    }
}

impl Raw {
    fn open(fs: &Passthrough, open: &OpenFile) -> Option<Self> {
        let seat = fs.bounds.window_open().ok()?;
        let access = if fs.config.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY;
        let path = DecInt::from_fd(&open.fd);
        let buffered = openat(&fs.proc_self_fd, path.as_c_str(), flags, Mode::empty()).ok()?;
        let direct = transfers::open_direct(fs, &buffered, access).ok().flatten()?;
        let block = u64::try_from(fstatfs(&buffered).ok()?.f_bsize).ok()?;
        let unit = block.max(PAGE);
        // A multiple of all: blocks, pages, what direct I/O wants.
        let sound = unit.is_power_of_two() && unit.is_multiple_of(direct.offset_align.into());
        sound.then_some(Self { buffered, direct, unit, _seat: seat })
    }

    fn drop_cache(&self) {
        let _ = fadvise(&self.buffered, 0, None, Advice::DontNeed);
    }

    fn size(&self) -> Result<u64> {
        u64::try_from(fstat(&self.buffered)?.st_size).map_err(|_| Errno::IO)
    }

    /// Where the whole units of the file end.
    fn whole(&self) -> Result<u64> {
        let size = self.size()?;
        Ok(size - size % self.unit)
    }

    /// Whether what FIEMAP tells of the file are addresses of the device of this number, and remain.
    fn is_plain(&self, number: (u32, u32)) -> Result<bool> {
        let file = self.buffered.as_fd();
        let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        let strange = StatxAttributes::COMPRESSED
            | StatxAttributes::ENCRYPTED
            | StatxAttributes::VERITY
            | StatxAttributes::DAX;
        let flags = sys_io::get_flags(file)?;
        let ext4 = u64::try_from(fstatfs(file)?.f_type) == Ok(EXT4);
        let xflags = match sys_io::get_fsxattr(file) {
            Ok([a, b, c, d, ..]) => u32::from_ne_bytes([a, b, c, d]),
            Err(Errno::NOTTY | Errno::OPNOTSUPP) if ext4 => 0,
            Err(error) => return Err(error),
        };
        Ok((stat.stx_dev_major, stat.stx_dev_minor) == number
            // A file without a name would give its blocks back with the daemon's end, of which the guest need not know.
            && stat.stx_nlink > 0
            && !stat.stx_attributes.intersects(strange)
            && flags & STRANGE == 0
            && (!ext4 || flags & EXTENTS != 0)
            && xflags & STRANGE_XFS == 0)
    }

    /// Whether a write changes bytes and times, and nothing else.
    fn writes_only_bytes(&self) -> Result<bool> {
        let set_id = Mode::SUID | Mode::SGID;
        let mode = Mode::from_raw_mode(fstat(&self.buffered)?.st_mode);
        let capability = fgetxattr(&self.buffered, c"security.capability", &mut [0_u8; 0][..]);
        Ok(!mode.intersects(set_id) && matches!(capability, Err(Errno::NODATA | Errno::OPNOTSUPP)))
    }

    /// Whether the file is one that a write may not change at all, or only at its end.
    fn is_protected(&self) -> Result<bool> {
        let stat = statx(&self.buffered, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(stat.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND))
    }

    /// See [`Pin::locate`].
    fn locate(&self, ground: Ground) -> Result<Option<Location>> {
        let Ground { number, block, size, read_only } = ground;
        // First: if the file gets longer meanwhile, what is zeroed for that before is synced below.
        let end = self.whole()?;
        if !self.is_plain(number)? {
            return Ok(None);
        }
        let bounds = fiemap::Bounds { block, size, end };
        let runs = fiemap::all(self.buffered.as_fd(), bounds, self.unit, MOST_PIECES)?;
        self.drop_cache();
        let piece = |run: fiemap::Run| {
            run.address.map(|address| Piece { offset: run.offset, length: run.length, address })
        };
        let writable = !read_only && self.writes_only_bytes()? && !self.is_protected()?;
        Ok(Some(Location { pieces: runs.into_iter().filter_map(piece).collect(), writable }))
    }

    /// Whether a range has a part of a device's block in it.
    fn cuts_blocks(&self, offset: u64, len: usize) -> bool {
        let align = u64::from(self.direct.offset_align);
        let end = u64::try_from(len).map_or(u64::MAX, |len| offset.saturating_add(len));
        !offset.is_multiple_of(align) || !end.is_multiple_of(align)
    }

    /// Bytes at this offset, past the page cache: fewer only at the end of the file.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let align = u64::from(self.direct.offset_align);
        let first = offset - offset % align;
        let end = offset
            .checked_add(len)
            .and_then(|end| end.checked_next_multiple_of(align))
            .ok_or(Errno::INVAL)?;
        let mut buffer = Aligned::new(end - first, self.direct.memory_align)?;
        let mut got = 0;
        while got < buffer.bytes().len() {
            let at = first + u64::try_from(got).map_err(|_| Errno::INVAL)?;
            let rest = buffer.bytes_mut().get_mut(got..).unwrap_or_default();
            match pread(&self.direct.file, rest, at) {
                // Also a part of a block, behind which there is nothing.
                Ok(0) => break,
                Ok(read) => {
                    got += read;
                    if !u64::try_from(read).is_ok_and(|read| read.is_multiple_of(align)) {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        let skip = usize::try_from(offset - first).map_err(|_| Errno::INVAL)?;
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let bytes = buffer.bytes().get(..got).and_then(|bytes| bytes.get(skip..)).unwrap_or_default();
        Ok(bytes.get(..len).unwrap_or(bytes).to_vec())
    }

    /// Overwrites inside the whole units of the file, past the page cache. Of a part of a device's block the rest is read
    /// before, and no more than that block: the guest may write its neighbours at the same time.
    fn overwrite(&self, offset: u64, bytes: &[u8], flags: ReadWriteFlags) -> Result<()> {
        let align = u64::from(self.direct.offset_align);
        let len = u64::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
        let first = offset - offset % align;
        let end = (offset + len).next_multiple_of(align);
        let mut buffer = Aligned::new(end - first, self.direct.memory_align)?;
        for (block, partial) in [(first, offset != first), (end - align, end != offset + len)] {
            if partial {
                let old = self.read(block, align)?;
                let at = usize::try_from(block - first).map_err(|_| Errno::INVAL)?;
                let target = buffer.bytes_mut().get_mut(at..at + old.len()).ok_or(Errno::IO)?;
                target.copy_from_slice(&old);
            }
        }
        let at = usize::try_from(offset - first).map_err(|_| Errno::INVAL)?;
        buffer.bytes_mut().get_mut(at..at + bytes.len()).ok_or(Errno::IO)?.copy_from_slice(bytes);
        write_all(self.direct.file.as_fd(), buffer.bytes(), first, flags)
    }

    fn write(&self, offset: u64, bytes: &[u8], flags: i32) -> Result<()> {
        let flags = ReadWriteFlags::from_bits_retain(flags.cast_unsigned());
        if flags.contains(ReadWriteFlags::APPEND) {
            // Begins in the part that is not told, and stays there.
            return write_all(self.buffered.as_fd(), bytes, 0, flags);
        }
        let whole = self.whole()?.saturating_sub(offset);
        let inside = usize::try_from(whole).unwrap_or(usize::MAX).min(bytes.len());
        let (inside, rest) = bytes.split_at(inside);
        if !inside.is_empty() {
            self.overwrite(offset, inside, flags)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let at = offset + u64::try_from(inside.len()).map_err(|_| Errno::INVAL)?;
        write_all(self.buffered.as_fd(), rest, at, flags)
    }
}

fn write_all(file: BorrowedFd<'_>, bytes: &[u8], offset: u64, flags: ReadWriteFlags) -> Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let at = offset + u64::try_from(done).map_err(|_| Errno::INVAL)?;
        match pwritev2(file, &[IoSlice::new(rest)], at, flags) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Memory for direct I/O.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: u64, align: u32) -> Result<Self> {
        let len = usize::try_from(len).map_err(|_| Errno::INVAL)?;
        let align = usize::try_from(align).map_err(|_| Errno::INVAL)?.max(4096).next_power_of_two();
        let memory = vec![0; len.checked_add(align).ok_or(Errno::INVAL)?];
        let start = memory.as_ptr().addr().next_multiple_of(align) - memory.as_ptr().addr();
        Ok(Self { memory, start, len })
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl Pin {
    fn raw(&self, fs: &Passthrough, open: &OpenFile) -> Option<&Raw> {
        self.raw.get_or_init(|| Raw::open(fs, open)).as_ref()
    }

    /// Where the file is, around a position; without an address where that may not be told. What is told is on the
    /// device, and nothing of it in the page cache.
    pub(super) fn find(
        &self,
        fs: &Passthrough,
        volume: &Volume,
        open: &OpenFile,
        position: u64,
    ) -> Result<Option<fiemap::Run>> {
        let Some(raw) = self.raw(fs, open) else { return Ok(None) };
        let mut own = self.own.lock();
        // Also what the file system says of its blocks has to be durable before somebody relies on them.
        fdatasync(&raw.buffered)?;
        let told = match *own {
            Some(own) => own,
            None => *own.insert(raw.is_plain(volume.number())? && fiemap::is_own(raw.buffered.as_fd())?),
        };
        if !told {
            return Ok(None);
        }
        let identity = volume.identity();
        let bounds =
            fiemap::Bounds { block: identity.logical_block.into(), size: identity.size, end: raw.whole()? };
        let run = fiemap::find(raw.buffered.as_fd(), position, bounds)?;
        raw.drop_cache();
        Ok(Some(run))
    }

    /// Whether a write to the file changes bytes and times, and nothing else.
    pub(super) fn writes_only_bytes(&self) -> bool {
        let Some(Some(raw)) = self.raw.get() else { return false };
        raw.writes_only_bytes().unwrap_or(false)
    }

    /// Whether the file's bytes are moved here, from now on and until its last close.
    pub(super) fn holds(&self, fs: &Passthrough, open: &OpenFile) -> bool {
        self.raw(fs, open).is_some()
    }

    /// Where the file lies, as far as the window may know it; none where it may not. Nothing of that is in the page
    /// cache then. The window's requests must be kept off the file meanwhile.
    pub(super) fn locate(&self, ground: Ground) -> Option<Location> {
        let raw = self.raw.get()?.as_ref()?;
        // Nobody writes by FUSE.
        let _own = self.own.lock();
        raw.locate(ground).ok().flatten()
    }

    /// The host's page cache learns nothing of what the guest writes, so nobody is to find anything there.
    pub(super) fn drop_cache(&self) {
        if let Some(Some(raw)) = self.raw.get() {
            raw.drop_cache();
        }
    }

    /// The guest has, or may have, written: the host has not seen it.
    pub(super) fn touch(&self) {
        if let Some(Some(raw)) = self.raw.get() {
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            };
            let _ = futimens(&raw.buffered, &times);
        }
    }

    /// READ or WRITE; none where it is to be done as for any other file. A READ is done when this returns.
    pub(in crate::fs) fn transfer(
        self: &Arc<Self>,
        fs: &Passthrough,
        open: &OpenFile,
        io: &IoRequest,
        direction: Direction,
        rw_flags: i32,
    ) -> Result<Option<Transfer>> {
        let Some(extents) = fs.extents() else { return Ok(None) };
        let Some(raw) = self.raw(fs, open) else { return Ok(None) };
        let room = fs.bounds.passing()?;
        let memory = memfd_create(c"extentfsd-transfer", MemfdFlags::CLOEXEC)?;
        let write = match direction {
            Direction::Write => {
                let window = extents.source.window_on_blocks().map(|window| (window, open.inode.node()));
                Some(Write { pin: Arc::clone(self), window, offset: io.offset, rw_flags })
            }
            Direction::Read => {
                let bytes = raw.read(io.offset, io.size.into())?;
                let mut done = 0;
                while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
                    done += pwrite(&memory, rest, u64::try_from(done).map_err(|_| Errno::IO)?)?;
                }
                None
            }
        };
        Ok(Some(Transfer {
            direction,
            offset: 0,
            len: io.size,
            file: Arc::new(Staged {
                memory: DirectFile { file: memory, memory_align: 1, offset_align: 1 },
                write,
                _room: room,
            }),
            // So that nobody takes it for a file that might be in the page cache or not.
            direct: true,
            rw_flags: 0,
            pad: false,
            passage: None,
        }))
    }
}

/// The bytes of one transfer.
#[derive(Debug)]
struct Staged {
    memory: DirectFile,
    write: Option<Write>,
    /// What `memory` takes of the descriptors there are.
    _room: Taken,
}

/// Where they go.
#[derive(Debug)]
struct Write {
    pin: Arc<Pin>,
    /// Who may be writing on the device, and by which name it has the file.
    window: Option<(Arc<Window>, NodeId)>,
    offset: u64,
    rw_flags: i32,
}

impl HostFile for Staged {
    fn buffered(&self) -> BorrowedFd<'_> {
        self.memory.file.as_fd()
    }

    fn direct(&self) -> Option<&DirectFile> {
        Some(&self.memory)
    }

    fn settle(&self, moved: io::Result<usize>) -> io::Result<usize> {
        let (Some(write), Ok(len @ 1..)) = (&self.write, &moved) else { return moved };
        let Some(Some(raw)) = write.pin.raw.get() else { return Err(Errno::IO.into()) };
        let mut bytes = vec![0; *len];
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            match pread(&self.memory.file, rest, u64::try_from(done).map_err(|_| Errno::IO)?)? {
                0 => return Err(Errno::IO.into()),
                read => done += read,
            }
        }
        let _own = write.pin.own.lock();
        let window = write.window.as_ref().filter(|_| raw.cuts_blocks(write.offset, *len));
        let _hold = window.map(|(window, node)| window.hold(node.0));
        raw.write(write.offset, &bytes, write.rw_flags)?;
        moved
    }
}
