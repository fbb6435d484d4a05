//! What are a file's attributes, and how are they changed?

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, chmodat, chownat, fchmod, ftruncate, futimens, statx as host_statx, utimensat,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::credentials::{self, WithoutFsetid};
use super::handle::Handle;
use super::inode::{Inode, PathFd, STATX_MASK};
use super::{Passthrough, sys};
use crate::fuse::{Attr, AttrReply, Caller, Fh, NodeId, Result, SetAttr, SetTime, Timestamp};
use crate::identity::Translation;

/// `R_OK | W_OK | X_OK`.
const ACCESS_MASK: u32 = 7;

/// A descriptor of the file that a request is about.
enum Target {
    /// The open that the guest named; it reaches the file even where nothing else does any more.
    Open(Handle),
    /// Of the `O_PATH` sort.
    Path(PathFd),
}

impl Target {
    fn of(fs: &Passthrough, node: NodeId, fh: Option<Fh>) -> Result<Self> {
        match fh {
            Some(fh) => Ok(Self::Open(fs.open_file(node, fh)?)),
            None => Ok(Self::Path(fs.path_fd(&fs.node(node)?)?)),
        }
    }

    /// The file, also where the guest has forgotten the node but not the open.
    fn inode(&self, fs: &Passthrough, node: NodeId) -> Result<Arc<Inode>> {
        match self {
            Self::Open(open) => Ok(Arc::clone(open.inode())),
            Self::Path(_) => fs.node(node),
        }
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => fd.as_fd(),
            Self::Path(fd) => fd.as_fd(),
        }
    }
}

/// GETATTR.
pub(super) fn getattr(fs: &Passthrough, node: NodeId, fh: Option<Fh>) -> Result<AttrReply> {
    examine(fs, &Target::of(fs, node, fh)?, AtFlags::empty(), STATX_MASK)
}

/// STATX.
pub(super) fn statx(
    fs: &Passthrough,
    node: NodeId,
    fh: Option<Fh>,
    flags: u32,
    mask: u32,
) -> Result<AttrReply> {
    let sync = AtFlags::STATX_FORCE_SYNC | AtFlags::STATX_DONT_SYNC;
    let flags = AtFlags::from_bits_retain(flags).intersection(sync);
    // The guest fills a whole inode from the answer, so the basic attributes are always in it.
    let mask = StatxFlags::from_bits_retain(mask).intersection(STATX_MASK) | StatxFlags::BASIC_STATS;
    examine(fs, &Target::of(fs, node, fh)?, flags, mask)
}

fn examine(fs: &Passthrough, target: &Target, flags: AtFlags, mask: StatxFlags) -> Result<AttrReply> {
    let stat = host_statx(target, c"", flags | AtFlags::EMPTY_PATH, mask)?;
    Ok(AttrReply { attr: attributes(fs, &stat), timeout: fs.config.attr_timeout() })
}

/// The attributes in a `statx(2)` answer, as the guest gets them. Every answer with attributes is made here.
pub(super) fn attributes(fs: &Passthrough, stat: &Statx) -> Attr {
    let Translation { users, groups } = &fs.config.translation;
    Attr {
        mask: stat.stx_mask,
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        blksize: stat.stx_blksize,
        atime: timestamp(stat.stx_atime),
        mtime: timestamp(stat.stx_mtime),
        ctime: timestamp(stat.stx_ctime),
        btime: timestamp(stat.stx_btime),
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink,
        uid: users.to_guest(stat.stx_uid),
        gid: groups.to_guest(stat.stx_gid),
        rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        dev: (stat.stx_dev_major, stat.stx_dev_minor),
        attributes: stat.stx_attributes.bits(),
        attributes_mask: stat.stx_attributes_mask.bits(),
        submount: false,
    }
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// SETATTR. The owner goes first, because the host clears the set-ID bits with it, which a mode in the same
/// request may be meant to set; the times go last, because a new size changes them.
pub(super) fn setattr(fs: &Passthrough, node: NodeId, set: &SetAttr) -> Result<AttrReply> {
    let target = Target::of(fs, node, set.fh)?;
    if set.uid.is_some() || set.gid.is_some() {
        let Translation { users, groups } = &fs.config.translation;
        let uid = set.uid.map(|uid| credentials::host_id(users, uid)).transpose()?.map(Uid::from_raw);
        let gid = set.gid.map(|gid| credentials::host_id(groups, gid)).transpose()?.map(Gid::from_raw);
        chownat(&target, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    if let Some(mode) = set.mode {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        // A file with set-ID bits is written only where they are cleared.
        let gives_id = mode.intersects(Mode::SUID | Mode::SGID);
        let _fence =
            gives_id.then(|| target.inode(fs, node)).transpose()?.map(|inode| fs.fence_blocks(&inode));
        match &target {
            Target::Open(fd) => fchmod(fd, mode)?,
            Target::Path(fd) => {
                chmodat(&fs.proc_self_fd, DecInt::from_fd(fd).as_c_str(), mode, AtFlags::empty())?;
            }
        }
    }
    if let Some(size) = set.size {
        let _kill = set.kill_suidgid.then(WithoutFsetid::enter).transpose()?;
        truncate(fs, node, &target, size)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        let times =
            Timestamps { last_access: time_to_set(set.atime)?, last_modification: time_to_set(set.mtime)? };
        match &target {
            Target::Open(fd) => futimens(fd, &times)?,
            Target::Path(fd) => {
                utimensat(&fs.proc_self_fd, DecInt::from_fd(fd).as_c_str(), &times, AtFlags::empty())?;
            }
        }
        fs.times_were_set(node);
    }
    examine(fs, &target, AtFlags::empty(), STATX_MASK)
}

fn truncate(fs: &Passthrough, node: NodeId, target: &Target, size: u64) -> Result<()> {
    if i64::try_from(size).is_err() {
        return Err(Errno::FBIG);
    }
    let inode = target.inode(fs, node)?;
    let _fence = if size < host_statx(target, c"", AtFlags::EMPTY_PATH, StatxFlags::SIZE)?.stx_size {
        fs.fence_to_free(&inode)?
    } else {
        fs.fence(&inode)
    };
    if let Target::Open(fd) = target {
        match ftruncate(fd, size) {
            // The open is for reading only. The guest has checked that the caller may truncate.
            Err(Errno::INVAL | Errno::BADF) => {}
            answer => return answer,
        }
    }
    let inode = fs.node(node)?;
    ftruncate(fs.reopen(&inode, OFlags::WRONLY)?, size)
}

fn time_to_set(time: Option<SetTime>) -> Result<Timespec> {
    Ok(match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        // Larger values would be read as one of the two above, or refused.
        Some(SetTime::At(Timestamp { nsec: 1_000_000_000.., .. })) => return Err(Errno::INVAL),
        Some(SetTime::At(time)) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() },
    })
}

/// ACCESS: as the host sees it.
pub(super) fn access(fs: &Passthrough, caller: Caller, node: NodeId, mask: u32) -> Result<()> {
    if mask & !ACCESS_MASK != 0 {
        return Err(Errno::INVAL);
    }
    let fd = fs.path_fd(&fs.node(node)?)?;
    let _credentials = credentials::assume_strictly(fs, caller, None)?;
    sys::may_access(fs.proc_self_fd.as_fd(), DecInt::from_fd(&fd).as_c_str(), mask)
}
