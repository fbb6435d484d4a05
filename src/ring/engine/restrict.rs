//! What may be asked of a ring's io_uring?
//!
//! What goes by io_uring passes by a seccomp filter, which sees nothing but `io_uring_enter(2)`. So each io_uring is
//! made disabled, is told once what it will be asked for (`IORING_REGISTER_RESTRICTIONS`, Linux 5.10), and is enabled
//! then; nobody can take that back. A ring thread that was taken over can use its io_uring for what its filter
//! lets it do anyway, and neither open a file with it nor make a socket.

use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};

/// What the engine submits.
const OPERATIONS: [u8; 4] =
    [opcode::PollAdd::CODE, opcode::Readv::CODE, opcode::Writev::CODE, opcode::Write::CODE];

/// `IORING_REGISTER_FILES_UPDATE`: another call eventfd in the place of the old one.
const FILES_UPDATE: u8 = 6;

/// Limits an io_uring that is not enabled yet to what the engine does with it.
///
/// # Errors
///
/// `EBADFD`: it is enabled already. Otherwise why the host does not permit it.
pub(super) fn restrict(ring: &IoUring) -> io::Result<()> {
    let flags = squeue::Flags::ASYNC | squeue::Flags::FIXED_FILE | squeue::Flags::SKIP_SUCCESS;
    let mut restrictions: Vec<_> = OPERATIONS.map(Restriction::sqe_op).into();
    restrictions.push(Restriction::sqe_flags_allowed(flags.bits()));
    restrictions.push(Restriction::register_op(FILES_UPDATE));
    ring.submitter().register_restrictions(&mut restrictions)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use io_uring::types::{Fd, FsyncFlags};

    use super::*;

    /// What the kernel makes of one request.
    fn outcome(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: what the entry refers to outlives this function, which waits for the completion.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    fn ring(restricted: bool) -> Option<IoUring> {
        let ring = match IoUring::builder().setup_r_disabled().build(8) {
            Ok(ring) => ring,
            Err(error) => {
                eprintln!("skipped: no io_uring here: {error}");
                return None;
            }
        };
        ring.submitter().register_files(&[-1]).unwrap();
        if restricted {
            restrict(&ring).unwrap();
        }
        ring.submitter().register_enable_rings().unwrap();
        Some(ring)
    }

    #[test]
    fn only_what_the_engine_does_is_done() {
        let file = tempfile::tempfile().unwrap();
        let one = 1_u64;
        let buffer = libc::iovec { iov_base: (&raw const one).cast_mut().cast(), iov_len: 8 };
        let fd = Fd(file.as_raw_fd());
        let (here, open) = (Fd(libc::AT_FDCWD), c"/etc/passwd");
        for restricted in [false, true] {
            let Some(mut ring) = ring(restricted) else { return };
            let permitted = [
                opcode::Writev::new(fd, &raw const buffer, 1).build(),
                opcode::Readv::new(fd, &raw const buffer, 1).build().flags(squeue::Flags::ASYNC),
                opcode::Write::new(fd, (&raw const one).cast(), 8).build(),
            ];
            for entry in &permitted {
                assert_eq!(outcome(&mut ring, entry), 8, "{restricted}: {entry:?}");
            }
            let refused = [
                opcode::OpenAt::new(here, open.as_ptr()).flags(libc::O_CLOEXEC).build(),
                opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
                opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).build(),
                opcode::Nop::new().build().flags(squeue::Flags::IO_LINK),
            ];
            for entry in &refused {
                let result = outcome(&mut ring, entry);
                if restricted {
                    assert_eq!(result, -libc::EACCES, "{entry:?}");
                } else {
                    assert!(result >= 0, "{entry:?}: {result}");
                }
            }
            let call = File::open("/dev/null").unwrap();
            assert_eq!(ring.submitter().register_files_update(0, &[call.as_raw_fd()]).unwrap(), 1);
            let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
            assert_eq!(ring.submitter().register_eventfd(eventfd.as_raw_fd()).is_ok(), !restricted);
        }
    }
}
