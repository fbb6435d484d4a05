//! Which system calls of this room are unsafe to make?

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct xfs_fsop_geom_v1` of `<xfs/xfs_fs.h>`: 112 bytes, of which these matter.
#[repr(C, align(8))]
struct Geometry {
    before: [u8; 92],
    flags: u32,
    after: [u8; 16],
}

/// `XFS_IOC_FSGEOMETRY_V1`; an `unsigned long` with glibc, an `int` with musl.
#[allow(clippy::cast_lossless, clippy::cast_possible_wrap)]
const GEOMETRY: libc::Ioctl = 0x8070_5864_u32 as libc::Ioctl;
/// `XFS_FSOP_GEOM_FLAGS_REFLINK`.
const REFLINK: u32 = 1 << 20;

/// Whether files of this XFS can have blocks in common.
///
/// # Errors
/// Those of the file system.
pub(super) fn xfs_can_share(directory: BorrowedFd<'_>) -> io::Result<bool> {
    const { assert!(size_of::<Geometry>() == 112) };
    let mut geometry = Geometry { before: [0; 92], flags: 0, after: [0; 16] };
    // SAFETY: the kernel writes the 112 bytes of a struct xfs_fsop_geom_v1, for which there is room.
    let answer = unsafe { libc::ioctl(directory.as_raw_fd(), GEOMETRY, &raw mut geometry) };
    let Geometry { before: _, flags, after: _ } = geometry;
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & REFLINK != 0) }
}
