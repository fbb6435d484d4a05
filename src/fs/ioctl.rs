//! Which ioctls may a guest make on the host's files?
//!
//! Inode flags and extended file attributes (`chattr(1)`, `xfs_io`), nothing else: an ioctl is a door to
//! whatever the host's file system has behind it. And of the flags only those that the owner of a file may
//! change without privilege on the host, plus *immutable* and *append only*, which the guest's kernel
//! gives to holders of `CAP_LINUX_IMMUTABLE` only (`vfs_fileattr_set`) and the host's to this process only
//! if it kept that capability. Kept from the guest are data journalling, DAX and realtime placement
//! (they change how the host stores things) and the project id (it escapes quotas).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::fstat;
use rustix::io::Errno;

use super::sys_io::{self, FSXATTR_SIZE};
use super::{Passthrough, credentials};
use crate::fuse::{Caller, Fh, NodeId, Result};

/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` with the `long` of 64-bit programs, and as 32-bit programs have
/// them.
const GETFLAGS: u32 = 0x8008_6601;
const GETFLAGS_32: u32 = 0x8004_6601;
const SETFLAGS: u32 = 0x4008_6602;
const SETFLAGS_32: u32 = 0x4004_6602;
/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

/// `FS_*_FL` that the guest may change: secure deletion, undeletion, compression, sync, immutable, append,
/// no dump, no atime, no compression, directory sync, top of a hierarchy, no copy on write, project
/// inheritance, case folding.
const FLAGS: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x10
    | 0x20
    | 0x40
    | 0x80
    | 0x400
    | 0x1_0000
    | 0x2_0000
    | 0x80_0000
    | 0x2000_0000
    | 0x4000_0000;
/// `FS_XFLAG_*` that the guest may change: immutable, append, sync, no atime, no dump, project
/// inheritance, no symbolic links, extent size and its inheritance, no defragmentation, extent size of
/// copies.
const XFLAGS: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400 | 0x800 | 0x1000 | 0x2000 | 0x1_0000;

/// `FS_XFLAG_*` that only tell something: preallocated, verity, case folded, case not preserved, has attributes. The host ignores
/// them where they are set, and a guest may send them back or not: since Linux 6.17 its kernel takes them away
/// (`FS_XFLAG_RDONLY_MASK`).
const XFLAGS_TOLD: u32 = 0x2 | 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x8000_0000;

/// IOCTL.
///
/// # Errors
/// `EBADF`: no such handle. `ENOTTY`: not one of the above, or the host's file system lacks it. `EINVAL`:
/// sizes that do not belong to the command. `EPERM`: a change that is not the guest's to make. `EROFS`:
/// a change of a read-only share.
#[allow(clippy::too_many_arguments, reason = "they are the message's")]
pub(super) fn ioctl(
    fs: &Passthrough,
    caller: Caller,
    node: NodeId,
    fh: Fh,
    command: u32,
    input: &[u8],
    out_size: u32,
    output: &mut Vec<u8>,
) -> Result<i32> {
    let file = fs.handles.any(node, fh)?;
    let out_size = usize::try_from(out_size).map_err(|_| Errno::INVAL)?;
    match command {
        GETFLAGS | GETFLAGS_32 => {
            let flags = sys_io::get_flags(file.as_fd())?;
            // An int in the room of a long: the kernel's own callers offer four bytes
            // (`fuse_fileattr_get`), and programs may offer eight.
            match out_size {
                4 => output.extend_from_slice(&flags.to_ne_bytes()),
                8 => output.extend_from_slice(&u64::from(flags).to_ne_bytes()),
                _ => return Err(Errno::INVAL),
            }
        }
        SETFLAGS | SETFLAGS_32 => {
            fs.writable()?;
            if !matches!(input.len(), 4 | 8) {
                return Err(Errno::INVAL);
            }
            let wanted = word(input, 0)?;
            permit_owner(fs, caller, file.as_fd())?;
            // Some of them say who may write, and some where bytes lie.
            let _fence = fs.fence_blocks(file.inode());
            let file = file.as_fd();
            permit(sys_io::get_flags(file)? ^ wanted, FLAGS)?;
            sys_io::set_flags(file, wanted)?;
        }
        FSGETXATTR => {
            if out_size != FSXATTR_SIZE {
                return Err(Errno::INVAL);
            }
            output.extend_from_slice(&sys_io::get_fsxattr(file.as_fd())?);
        }
        FSSETXATTR => {
            fs.writable()?;
            let wanted: &[u8; FSXATTR_SIZE] = input.try_into().map_err(|_| Errno::INVAL)?;
            permit_owner(fs, caller, file.as_fd())?;
            let _fence = fs.fence_blocks(file.inode());
            let file = file.as_fd();
            let current = sys_io::get_fsxattr(file)?;
            // struct fsxattr: fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, ...
            permit(word(&current, 0)? ^ word(wanted, 0)?, XFLAGS | XFLAGS_TOLD)?;
            permit(word(&current, 12)? ^ word(wanted, 12)?, 0)?;
            sys_io::set_fsxattr(file, wanted)?;
        }
        _ => return Err(Errno::NOTTY),
    }
    Ok(0)
}

/// Whether the caller owns the file or is root. Guests before Linux 5.13 ask nobody (`fuse_do_ioctl`); those that do not say who
/// calls (`FUSE_ALLOW_IDMAP`) have asked themselves (`vfs_fileattr_set`).
fn permit_owner(fs: &Passthrough, caller: Caller, file: BorrowedFd<'_>) -> Result<()> {
    if matches!(caller.uid, 0 | u32::MAX) {
        return Ok(());
    }
    let caller = credentials::host_id(&fs.config.translation.users, caller.uid)?;
    if fstat(file)?.st_uid == caller { Ok(()) } else { Err(Errno::PERM) }
}

/// Whether only these bits change.
fn permit(changed: u32, allowed: u32) -> Result<()> {
    if changed & !allowed == 0 { Ok(()) } else { Err(Errno::PERM) }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Errno::INVAL)?;
    Ok(u32::from_ne_bytes(*word))
}
