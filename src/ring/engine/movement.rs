//! How far has a transfer come, and what is its next attempt?
//!
//! A movement is done in attempts: one system call or one io_uring entry each. An attempt may be short, be
//! interrupted, or find that direct I/O does not like the alignment after all; this is the state machine
//! that decides what comes next, the same for all engines.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::NonNull;

use libc::iovec;

use super::super::once;
use crate::fuse::{DirectFile, Direction, Transfer};

/// `UIO_MAXIOV`: most buffers of one attempt.
const IOV_MAX: usize = 1024;
/// Attempts in a row that may fail for want of something before the guest is told so.
const MAX_RETRIES: u8 = 64;

/// One attempt: the arguments of `preadv2(2)` or `pwritev2(2)`. The buffers belong to the movement.
#[derive(Clone, Copy, Debug)]
pub(in crate::ring) struct Attempt {
    pub(super) direction: Direction,
    pub(super) file: RawFd,
    pub(super) buffers: *const iovec,
    pub(super) count: u32,
    pub(super) offset: u64,
    pub(super) rw_flags: i32,
    /// Whether the attempt goes past the page cache.
    pub(super) direct: bool,
    /// Whether the copy, which the attempt is, is to be left to another thread.
    pub(super) apart: bool,
}

impl Attempt {
    /// Whether it ends only when the bytes are on stable storage.
    pub(super) fn is_durable(&self) -> bool {
        self.rw_flags & (libc::RWF_DSYNC | libc::RWF_SYNC) != 0
    }
}

/// What to do after an attempt.
#[derive(Debug)]
pub(super) enum Next {
    /// Try again: bytes are left.
    Again,
    /// The whole movement ended.
    Done(io::Result<usize>),
}

/// A transfer and the guest memory it moves, with its progress.
#[derive(Debug, Default)]
pub(in crate::ring) struct Movement {
    transfer: Option<Transfer>,
    buffers: Vec<iovec>,
    /// A copy of the guest's bytes, where they must go out in one attempt and are in too many pieces.
    gathered: Vec<u8>,
    /// The first buffer with bytes left.
    first: usize,
    len: usize,
    moved: usize,
    retries: u8,
    direct_refused: bool,
    last_was_direct: bool,
    apart: bool,
}

impl Movement {
    /// Begins anew with `transfer`; `fill` hands over the pieces of guest memory, which must be
    /// `transfer.len` bytes and stay mapped until the movement is released.
    pub(in crate::ring) fn prepare<E>(
        &mut self,
        transfer: Transfer,
        fill: impl FnOnce(&mut dyn FnMut(NonNull<u8>, usize)) -> Result<(), E>,
    ) -> Result<(), E> {
        self.release();
        self.len = usize::try_from(transfer.len).unwrap_or(usize::MAX);
        let one_attempt = transfer.rw_flags & libc::RWF_APPEND != 0;
        self.transfer = Some(transfer);
        fill(&mut |base, len| add(&mut self.buffers, base, len))?;
        if one_attempt && self.buffers.len() > IOV_MAX {
            self.gather();
        }
        Ok(())
    }

    /// Copies the guest's bytes to one buffer. An append in several attempts would not be atomic: another
    /// process's could come between its parts.
    fn gather(&mut self) {
        self.gathered.reserve_exact(self.len);
        for buffer in self.buffers.drain(..) {
            let len = buffer.iov_len.min(self.len - self.gathered.len());
            // SAFETY: the piece is guest memory that its slot keeps mapped, and a heap buffer of ours is none; the
            // room for `len` more bytes was reserved.
            unsafe {
                let target = self.gathered.as_mut_ptr().add(self.gathered.len());
                buffer.iov_base.cast::<u8>().copy_to_nonoverlapping(target, len);
                self.gathered.set_len(self.gathered.len() + len);
            }
            once::was_read(buffer.iov_base.cast(), len);
        }
        let (iov_base, iov_len) = (self.gathered.as_mut_ptr().cast(), self.gathered.len());
        self.buffers.push(iovec { iov_base, iov_len });
    }

    /// What is being moved.
    pub(in crate::ring) fn transfer(&self) -> Option<&Transfer> {
        self.transfer.as_ref()
    }

    /// Bytes of memory that are kept for it.
    pub(in crate::ring) fn kept_bytes(&self) -> usize {
        size_of_val(self.buffers.as_slice()) + self.gathered.len()
    }

    /// Bytes that are to be moved.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Leaves what goes through the page cache to another thread.
    pub(super) fn set_apart(&mut self) {
        self.apart = true;
    }

    /// Lets go of the files; the room for the list of buffers is kept.
    pub(in crate::ring) fn release(&mut self) {
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.clear();
        buffers.shrink_to(IOV_MAX + 8);
        *self = Self { buffers, ..Self::default() };
    }

    /// The next attempt. `None` where there is none: nothing is to be moved, or nothing can be ([`end`](Self::end)).
    pub(super) fn attempt(&mut self) -> Option<Attempt> {
        let transfer = self.transfer.as_ref()?;
        let left = self.buffers.get(self.first..).filter(|left| !left.is_empty())?;
        let now = left.get(..IOV_MAX).unwrap_or(left);
        let offset = transfer.offset.checked_add(u64::try_from(self.moved).ok()?)?;
        let direct = (transfer.direct && !self.direct_refused).then(|| {
            let len = u64::try_from(self.len - self.moved).ok()?;
            let on_device = transfer.file.on_device(offset, len);
            let way = on_device.or_else(|| Some((transfer.file.direct()?, offset)));
            way.filter(|(file, offset)| permits(file, *offset, now))
        });
        let direct = direct.flatten();
        if direct.is_none() && transfer.file.avoids_cache() {
            return None;
        }
        self.last_was_direct = direct.is_some();
        let (file, offset) = match direct {
            Some((direct, offset)) => (direct.file.as_fd(), offset),
            None => (transfer.file.buffered(), offset),
        };
        Some(Attempt {
            direction: transfer.direction,
            file: file.as_raw_fd(),
            buffers: now.as_ptr(),
            count: u32::try_from(now.len()).ok()?,
            offset,
            rw_flags: transfer.rw_flags,
            direct: self.last_was_direct,
            apart: self.apart && !self.last_was_direct,
        })
    }

    /// How the movement ends where there is no attempt.
    pub(super) fn end(&self) -> io::Result<usize> {
        if self.moved < self.len {
            // Not aligned as direct I/O needs it, of a file that must not go through the page cache.
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(self.moved)
    }

    /// Notes how an attempt ended.
    pub(super) fn record(&mut self, attempt: io::Result<usize>) -> Next {
        let reading = self.transfer.as_ref().is_some_and(|transfer| transfer.direction == Direction::Read);
        let error = match attempt {
            // The end of the file.
            Ok(0) if reading || self.moved > 0 => return Next::Done(Ok(self.moved)),
            Ok(0) => io::Error::from_raw_os_error(libc::EIO),
            Ok(bytes) => {
                self.advance(bytes);
                self.retries = 0;
                return if self.moved < self.len { Next::Again } else { Next::Done(Ok(self.moved)) };
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED) if self.retries < MAX_RETRIES => {
                self.retries += 1;
                Next::Again
            }
            // The file system knows of an alignment that STATX_DIOALIGN does not tell.
            Some(libc::EINVAL) if self.last_was_direct => {
                self.direct_refused = true;
                Next::Again
            }
            // write(2) answers a failure in the middle with what it wrote. A short READ though means the end
            // of the file to the guest's kernel, so a read that failed must say so.
            _ if self.moved > 0 && !reading => Next::Done(Ok(self.moved)),
            _ => Next::Done(Err(error)),
        }
    }

    fn advance(&mut self, bytes: usize) {
        let mut bytes = bytes.min(self.len - self.moved);
        self.moved += bytes;
        while let Some(buffer) = self.buffers.get_mut(self.first) {
            if bytes < buffer.iov_len {
                buffer.iov_base = buffer.iov_base.wrapping_byte_add(bytes);
                buffer.iov_len -= bytes;
                break;
            }
            bytes -= buffer.iov_len;
            self.first += 1;
        }
    }
}

/// Appends a piece of memory, or lengthens the last one where it follows without a gap: guests' pages often do,
/// and the host's kernel has less to walk then.
fn add(buffers: &mut Vec<iovec>, base: NonNull<u8>, len: usize) {
    match buffers.last_mut() {
        Some(last) if last.iov_base.addr() + last.iov_len == base.addr().get() => last.iov_len += len,
        _ => buffers.push(iovec { iov_base: base.as_ptr().cast(), iov_len: len }),
    }
}

/// Whether direct I/O permits these buffers at this offset (`STATX_DIOALIGN`).
fn permits(file: &DirectFile, offset: u64, buffers: &[iovec]) -> bool {
    let DirectFile { memory_align, offset_align, .. } = *file;
    let (Ok(memory), Ok(length)) = (usize::try_from(memory_align), usize::try_from(offset_align)) else {
        return false;
    };
    // Zero means that the file cannot do direct I/O.
    memory > 0
        && length > 0
        && offset.is_multiple_of(u64::from(offset_align))
        && buffers.iter().all(|buffer| {
            buffer.iov_base.addr().is_multiple_of(memory) && buffer.iov_len.is_multiple_of(length)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::sync::Arc;

    use crate::fuse::HostFile;

    #[derive(Debug)]
    struct Null {
        buffered: OwnedFd,
        direct: DirectFile,
        /// With its first 16 KiB at 1 MiB.
        device: Option<DirectFile>,
    }

    impl HostFile for Null {
        fn buffered(&self) -> BorrowedFd<'_> {
            self.buffered.as_fd()
        }

        fn direct(&self) -> Option<&DirectFile> {
            Some(&self.direct)
        }

        fn on_device(&self, offset: u64, len: u64) -> Option<(&DirectFile, u64)> {
            let device = self.device.as_ref().filter(|_| offset + len <= 16_384)?;
            Some((device, (1 << 20) + offset))
        }

        fn avoids_cache(&self) -> bool {
            self.device.is_some()
        }
    }

    fn movement(direction: Direction, parts: &[(usize, usize)]) -> Movement {
        movement_of(direction, parts, false)
    }

    /// Of bytes from 8192 on.
    fn movement_of(direction: Direction, parts: &[(usize, usize)], on_device: bool) -> Movement {
        let null = || File::open("/dev/null").unwrap().into();
        let direct = || DirectFile { file: null(), memory_align: 512, offset_align: 4096 };
        let file = Null { buffered: null(), direct: direct(), device: on_device.then(direct) };
        let file = Arc::new(file);
        let len = u32::try_from(parts.iter().map(|part| part.1).sum::<usize>()).unwrap();
        let mut movement = Movement::default();
        let filled = movement.prepare(
            Transfer {
                direction,
                offset: 8192,
                len,
                file,
                direct: true,
                rw_flags: 0,
                pad: false,
                passage: None,
            },
            |add| {
                for &(address, len) in parts {
                    add(NonNull::without_provenance(address.try_into().unwrap()), len);
                }
                Ok::<(), ()>(())
            },
        );
        filled.unwrap();
        movement
    }

    fn errno(errno: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn goes_past_the_page_cache_only_where_all_is_aligned() {
        let direct = |parts: &[(usize, usize)]| movement(Direction::Read, parts).attempt().unwrap().direct;
        assert!(direct(&[(0x200, 4096), (0x8000, 8192)]));
        assert!(!direct(&[(0x200, 4096), (0x8100, 8192)]));
        assert!(!direct(&[(0x200, 4096), (0x8000, 512)]));
    }

    #[test]
    fn what_lies_on_the_device_is_moved_there_and_nothing_through_the_cache() {
        let attempt = |parts: &[(usize, usize)]| {
            let mut movement = movement_of(Direction::Write, parts, true);
            movement.attempt().map(|attempt| (attempt.offset, attempt.direct))
        };
        assert_eq!(attempt(&[(0x1000, 8192)]), Some(((1 << 20) + 8192, true)));
        assert_eq!(attempt(&[(0x1000, 12_288)]), Some((8192, true)), "by way of the file system");
        assert_eq!(attempt(&[(0x1001, 4096)]), None);

        let mut movement = movement_of(Direction::Write, &[(0x1000, 8192)], true);
        movement.attempt();
        assert!(matches!(movement.record(Ok(4096)), Next::Again));
        assert_eq!(movement.attempt().map(|attempt| attempt.offset), Some((1 << 20) + 12_288));
        assert!(matches!(movement.record(errno(libc::EINVAL)), Next::Again));
        assert!(movement.attempt().is_none(), "refused by the device");
        assert_eq!(movement.end().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_short_attempt_goes_on_where_it_ended() {
        let mut movement = movement(Direction::Read, &[(0x1000, 4096), (0x3000, 4096)]);
        assert!(movement.attempt().unwrap().direct);
        assert!(matches!(movement.record(Ok(4096 + 512)), Next::Again));
        let rest = movement.attempt().unwrap();
        assert_eq!((rest.offset, rest.count, rest.direct), (8192 + 4608, 1, false));
        assert_eq!(movement.buffers[1].iov_base.addr(), 0x3200);
        assert!(matches!(movement.record(Ok(0)), Next::Done(Ok(4608))));
    }

    #[test]
    fn pieces_without_a_gap_are_one_buffer() {
        let mut movement = movement(Direction::Read, &[(0x1000, 4096), (0x2000, 4096), (0x4000, 4096)]);
        assert_eq!(movement.attempt().unwrap().count, 2);
        assert_eq!(movement.buffers[0].iov_len, 8192);
    }

    #[test]
    fn direct_io_that_is_refused_becomes_buffered() {
        let mut movement = movement(Direction::Write, &[(0x1000, 4096)]);
        assert!(movement.attempt().unwrap().direct);
        assert!(matches!(movement.record(errno(libc::EINVAL)), Next::Again));
        assert!(!movement.attempt().unwrap().direct);
        assert!(matches!(movement.record(errno(libc::EINVAL)), Next::Done(Err(_))));
    }

    #[test]
    fn a_failure_in_the_middle_is_a_short_write_but_a_failed_read() {
        for (direction, short) in [(Direction::Write, true), (Direction::Read, false)] {
            let mut movement = movement(direction, &[(0x1000, 8192)]);
            movement.attempt();
            assert!(matches!(movement.record(errno(libc::EINTR)), Next::Again));
            assert!(matches!(movement.record(Ok(4096)), Next::Again));
            let Next::Done(outcome) = movement.record(errno(libc::EIO)) else { panic!("goes on") };
            assert_eq!(outcome.ok(), short.then_some(4096));
        }
    }

    #[test]
    fn want_that_stays_is_told() {
        let mut movement = movement(Direction::Read, &[(0x1000, 4096)]);
        movement.attempt();
        let ended =
            (0..1000).position(|_| matches!(movement.record(errno(libc::EAGAIN)), Next::Done(Err(_))));
        assert_eq!(ended, Some(usize::from(MAX_RETRIES)));
    }
}
