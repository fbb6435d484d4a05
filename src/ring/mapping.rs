//! How does a file of the front-end become memory of this process?
//!
//! One shared mapping, released when its last user lets go. The guest writes to it at any time, so
//! nobody ever makes a Rust reference to its bytes: they are reached by raw pointers and atomics.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{FileType, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::shrunk::Watch;

/// `f_type` of a hugetlbfs file, memfds with `MFD_HUGETLB` included (`linux/magic.h`).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// `size` bytes of a file, mapped shared, readable and writable.
#[derive(Debug)]
pub(super) struct Mapping {
    /// What `mmap(2)` gave: aligned to the page size of the file.
    base: NonNull<u8>,
    /// Bytes from `base` to the end, a multiple of the page size of the file.
    length: usize,
    /// From `base` to the first byte that was asked for.
    lead: usize,
    /// How many bytes were asked for.
    size: usize,
    /// Ended before the mapping is unmapped.
    watch: Option<Watch>,
}

// SAFETY: a mapping is an address range that stays valid until drop; it has no thread affinity, and
// this type gives out nothing but raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` reads plain integers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes of `file` from byte `offset` on; neither need be a multiple of the page size.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the range is empty, overflows or ends behind a regular file (touching such a page
    /// would be a SIGBUS), otherwise what `fstat(2)`, `fstatfs(2)` or `mmap(2)` says.
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, size: u64) -> io::Result<Self> {
        let end = offset.checked_add(size).filter(|_| size > 0).ok_or(Errno::INVAL)?;
        let stat = fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size).map_or(true, |len| end > len)
        {
            return Err(Errno::INVAL.into());
        }
        let page = page_size(file)?;
        let lead = offset.checked_rem(page).ok_or(Errno::INVAL)?;
        // hugetlbfs unmaps whole huge pages only, and mapping one maps all of it: round up ourselves so
        // that both calls name the same range.
        let length = lead
            .checked_add(size)
            .and_then(|bytes| bytes.checked_next_multiple_of(page))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(Errno::INVAL)?;
        let lead_bytes = usize::try_from(lead).map_err(|_| Errno::INVAL)?;
        let size = usize::try_from(size).map_err(|_| Errno::INVAL)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose, so no mapping of this process is replaced.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                file.as_fd(),
                offset - lead,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        // From here on it is unmapped whatever happens.
        let mut mapping = Self { base, length, lead: lead_bytes, size, watch: None };
        mapping.watch = Some(Watch::new(base, length, usize::try_from(page).map_err(|_| Errno::INVAL)?)?);
        Ok(mapping)
    }

    /// The address of byte `offset`, if `len` bytes from there on lie in the mapping.
    pub(super) fn at(&self, offset: u64, len: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.size {
            return None;
        }
        // SAFETY: lead + offset <= lead + size <= length, so the result is inside the mapping or one
        // byte past it.
        Some(unsafe { self.base.add(self.lead + offset) })
    }

    /// How many bytes were asked for.
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch = None;
        // SAFETY: base and length are what mmap gave; every user of the memory holds the owner of this
        // mapping, so nobody reaches it any more.
        let outcome = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        if let Err(error) = outcome {
            tracing::error!("cannot unmap {} bytes of guest memory: {error}", self.length);
        }
    }
}

/// The size of the pages that `file` is mapped with.
fn page_size(file: BorrowedFd<'_>) -> io::Result<u64> {
    let fs = fstatfs(file)?;
    // The type of `f_type` differs between architectures; only its low 32 bits are the magic.
    #[allow(clippy::cast_sign_loss)]
    let magic = fs.f_type as u64 & 0xffff_ffff;
    if magic == HUGETLBFS_MAGIC {
        return Ok(u64::try_from(fs.f_bsize).unwrap_or(0));
    }
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(page).map_err(|_| Errno::INVAL.into())
}
