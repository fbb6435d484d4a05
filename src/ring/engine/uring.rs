//! The engine that never waits but in one place: an io_uring for data, kicks and mail.
//!
//! What cannot be done at once ([`Inline`]) goes to the ring; one `io_uring_enter` submits and collects. Guest memory is passed by plain addresses and not as registered buffers: those pin
//! pages, and a page that the guest gave back (balloon, free page reporting) would go on receiving data
//! that the guest never sees.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::inline::{Inline, Step};
use super::movement::Attempt;
use super::restrict::restrict;
use super::{Engine, Events, Movement, Sources, Wait};
use crate::fuse::Direction;
use crate::ring::slot::Key;
use crate::ring::sync::signal;

/// `user_data` of the two polls and of signals. No key looks like them: an index stays below 32768.
const KICK: u64 = u64::MAX;
const MAIL: u64 = u64::MAX - 1;
const CALL: u64 = u64::MAX - 2;
/// The place of the call eventfd among the ring's registered files.
const CALL_PLACE: u32 = 0;
/// What a signal adds to an eventfd.
static ONE: u64 = 1;
/// Entries submitted by one call; more are submitted in between.
const SUBMISSIONS: u32 = 128;
/// Most completion entries asked for; the kernel keeps what does not fit (`IORING_FEAT_NODROP`).
const MAX_COMPLETIONS: u32 = 4096;

/// See the module.
pub(super) struct Uring<'a> {
    ring: IoUring,
    sources: Sources<'a>,
    /// Entries that found no room in the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// Attempts that were submitted, or will be, and have not been collected.
    under_way: usize,
    inline: Inline,
    call: Option<OwnedFd>,
    /// Whether `call` can be signalled by an entry of the ring: it is a registered file, so that an entry that
    /// was not submitted yet can never name another file, whatever happens to descriptors meanwhile.
    call_by_ring: bool,
    /// Whether a poll stays armed after an event (Linux 5.13).
    multishot: bool,
}

impl<'a> Uring<'a> {
    pub(super) fn new(depth: u16, sources: Sources<'a>) -> io::Result<Self> {
        let completions = (2 * u32::from(depth)).next_power_of_two().clamp(2 * SUBMISSIONS, MAX_COMPLETIONS);
        let Made { ring, modern, .. } = build_fit(completions)?;
        let mut engine = Self {
            ring,
            sources,
            backlog: VecDeque::new(),
            under_way: 0,
            inline: Inline::new(modern),
            call: None,
            call_by_ring: false,
            multishot: true,
        };
        engine.arm(KICK);
        engine.arm(MAIL);
        Ok(engine)
    }

    fn source(&self, token: u64) -> RawFd {
        if token == KICK { self.sources.kick.as_raw_fd() } else { self.sources.mail.as_raw_fd() }
    }

    fn arm(&mut self, token: u64) {
        // POLLIN is 1: the cast loses nothing.
        #[allow(clippy::cast_sign_loss)]
        let events = libc::POLLIN as u32;
        let entry = opcode::PollAdd::new(Fd(self.source(token)), events)
            .multi(self.multishot)
            .build()
            .user_data(token);
        self.push(entry);
    }

    /// A multishot poll reports every signal, so the counter need not be read. One that ended is
    /// armed again, and reports at once unless the counter is cleared before.
    fn rearm(&mut self, token: u64, result: i32) {
        if result == -libc::EINVAL {
            self.multishot = false;
        }
        let source = if token == KICK { self.sources.kick } else { self.sources.mail };
        if result > 0 {
            let _ = rustix::io::read(source, &mut [0_u8; 8]);
        }
        self.arm(token);
    }

    fn submit(&mut self, key: Key, attempt: &Attempt) {
        let Attempt { direction, file, buffers, count, offset, rw_flags, apart, .. } = *attempt;
        let entry = match direction {
            Direction::Read => {
                opcode::Readv::new(Fd(file), buffers, count).offset(offset).rw_flags(rw_flags).build()
            }
            Direction::Write => {
                opcode::Writev::new(Fd(file), buffers, count).offset(offset).rw_flags(rw_flags).build()
            }
        };
        // Without the flag the kernel tries first whether the page cache has it, which is to copy it here.
        let flags = if apart { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        self.under_way += 1;
        self.push(entry.flags(flags).user_data(u64::from(key.generation) << 32 | u64::from(key.index)));
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the buffers of an entry belong to a movement whose slot stays in the in-flight table,
        // unmoved, until the completion was reaped; its transfer keeps the file open and its memory
        // table keeps the guest's pages mapped.
        let mut push = || unsafe { self.ring.submission().push(entry) }.is_ok();
        if push() {
            return true;
        }
        // Full: hand over what there is. Where the kernel cannot take it now, the backlog keeps it.
        let _ = self.ring.submit();
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let idle = {
            let submission = self.ring.submission();
            submission.is_empty() && !submission.taskrun() && !submission.cq_overflow()
        };
        // What completed already is not to be waited for.
        let wait = if self.ring.completion().is_empty() { wait } else { Wait::No };
        let entered = match wait {
            Wait::No if idle => return Ok(()),
            Wait::No => self.ring.submit(),
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::AtMost(time) => {
                let time = Timespec::from(time);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            // A signal, the end of the time, a full completion queue, no memory for a request now: what is
            // there is collected, and the rest comes with the next call.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

impl Engine for Uring<'_> {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn inline(&mut self) -> &mut Inline {
        &mut self.inline
    }

    fn take(&mut self, key: Key, _: &mut Movement, step: Step) -> Option<io::Result<usize>> {
        match step {
            Step::Done(outcome) => Some(outcome),
            Step::Elsewhere(attempt) => {
                self.submit(key, &attempt);
                None
            }
        }
    }

    fn wait(&mut self, wait: Wait, events: &mut Events) -> io::Result<()> {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                break;
            }
        }
        let outcome = self.enter(wait);
        let mut ended = [None; 2];
        for completion in self.ring.completion() {
            let result = completion.result();
            match completion.user_data() {
                token @ (KICK | MAIL) => {
                    events.kicked |= token == KICK;
                    events.mail |= token == MAIL;
                    if !cqueue::more(completion.flags()) {
                        let [kick, mail] = &mut ended;
                        *(if token == KICK { kick } else { mail }) = Some((token, result));
                    }
                }
                // Only failures are reported: the front-end closed its end.
                CALL => {}
                data => {
                    let moved = usize::try_from(result)
                        .map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
                    self.under_way = self.under_way.saturating_sub(1);
                    events.attempts.push((key(data), moved));
                }
            }
        }
        for (token, result) in ended.into_iter().flatten() {
            self.rearm(token, result);
        }
        outcome
    }

    fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
        // Linux 5.17; before, each signal would have a completion. And an eventfd that may block is not written to at
        // once but by a kernel thread (`loop_rw_iter`), which costs far more than a system call.
        let usable = self.ring.params().is_feature_skip_cqe_on_success()
            && self.call.as_ref().is_some_and(|call| {
                rustix::fs::fcntl_getfl(call).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
            });
        let fd = self.call.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let submitter = self.ring.submitter();
        let registered = submitter.register_files_update(CALL_PLACE, &[fd]).is_ok();
        self.call_by_ring = usable && registered;
    }

    fn signal(&mut self) {
        if self.call_by_ring {
            let entry = opcode::Write::new(Fixed(CALL_PLACE), (&raw const ONE).cast(), 8)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(CALL);
            // SAFETY: the entry refers to a constant only.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.signal_now();
    }

    fn signal_now(&mut self) {
        if let Some(call) = &self.call {
            signal(call.as_fd());
        }
    }

    fn is_ready(&mut self) -> bool {
        let submission = self.ring.submission();
        let deferred = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        deferred || !self.ring.completion().is_empty()
    }
}

impl Drop for Uring<'_> {
    fn drop(&mut self) {
        // A ring drains before it ends. Only where its thread unwinds, the kernel may be moving bytes to or from buffers that
        // go after this.
        let mut events = Events::default();
        while self.under_way > 0 && self.wait(Wait::Forever, &mut events).is_ok() {}
    }
}

/// The key in a `user_data`.
fn key(data: u64) -> Key {
    let [a, b, c, d, e, f, g, h] = data.to_le_bytes();
    Key { index: u32::from_le_bytes([a, b, c, d]), generation: u32::from_le_bytes([e, f, g, h]) }
}

/// An io_uring that is ready for use.
struct Made {
    ring: IoUring,
    /// Whether the kernel is of Linux 5.19 or later.
    modern: bool,
    /// Why it takes any request, and not only those of this engine, where that is so.
    unrestricted: Option<io::Error>,
}

/// Whether this host has an io_uring for this process; where it cannot be restricted ([`restrict`]), the reason.
///
/// # Errors
///
/// Why it has not: too old, forbidden (`kernel.io_uring_disabled`, a seccomp filter), out of locked memory.
pub(in crate::ring) fn probe() -> io::Result<Option<io::Error>> {
    build_fit(2 * SUBMISSIONS).map(|made| made.unrestricted)
}

/// Makes an io_uring that has all that this engine needs.
fn build_fit(completions: u32) -> io::Result<Made> {
    let made = build_restricted(completions)?;
    // Waiting with a time limit came with Linux 5.11.
    if !made.ring.params().is_feature_ext_arg() || !made.ring.params().is_feature_nodrop() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is older than 5.11"));
    }
    Ok(made)
}

/// Makes an io_uring that takes the requests of this engine only; one that takes any where the host permits no
/// restrictions.
fn build_restricted(completions: u32) -> io::Result<Made> {
    let (ring, modern) = build(completions, true)?;
    // The table has an empty place for the call eventfd; a signal is a system call where there is no table.
    let _ = ring.submitter().register_files(&[-1]);
    let restricted = restrict(&ring);
    if ring.submitter().register_enable_rings().is_ok() {
        return Ok(Made { ring, modern, unrestricted: restricted.err() });
    }
    let (ring, modern) = build(completions, false)?;
    let _ = ring.submitter().register_files(&[-1]);
    let refused = || io::Error::new(io::ErrorKind::PermissionDenied, "io_uring_register(2) is refused");
    Ok(Made { ring, modern, unrestricted: Some(restricted.err().unwrap_or_else(refused)) })
}

/// Makes an io_uring with the best flags that the kernel has, and says whether that is 5.19 or later.
fn build(completions: u32, disabled: bool) -> io::Result<(IoUring, bool)> {
    let common = || {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).setup_clamp();
        if disabled {
            builder.setup_r_disabled();
        }
        builder
    };
    // Linux 6.1: completions are run when this thread asks for them, never by an interruption.
    let mut deferred = common();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    // Linux 5.19: the same without the certainty.
    let mut cooperative = common();
    cooperative.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    for builder in [deferred, cooperative] {
        match builder.build(SUBMISSIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            built => return built.map(|ring| (ring, true)),
        }
    }
    common().build(SUBMISSIONS).map(|ring| (ring, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_io_uring_opens_no_file() {
        let Ok(Made { mut ring, unrestricted, .. }) = build_fit(2 * SUBMISSIONS) else {
            return eprintln!("skipped: no io_uring here");
        };
        assert!(unrestricted.is_none(), "{unrestricted:?}");
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build();
        // SAFETY: the path is a constant.
        unsafe { ring.submission().push(&open) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        assert_eq!(ring.completion().next().unwrap().result(), -libc::EACCES);
    }

    #[test]
    fn what_the_kernel_still_writes_to_is_waited_for() {
        if probe().is_err() {
            return eprintln!("skipped: no io_uring here");
        }
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let event = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        let (kick, mail) = (event(), event());
        let mut buffer = [0_u8; 4];
        let part = libc::iovec { iov_base: (&raw mut buffer).cast(), iov_len: buffer.len() };
        let mut engine = Uring::new(8, Sources { kick: kick.as_fd(), mail: mail.as_fd() }).unwrap();
        let attempt = Attempt {
            direction: Direction::Read,
            file: reader.as_raw_fd(),
            buffers: &raw const part,
            count: 1,
            offset: 0,
            rw_flags: 0,
            apart: false,
            direct: false,
        };
        engine.submit(Key { index: 0, generation: 1 }, &attempt);
        engine.wait(Wait::No, &mut Events::default()).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            rustix::io::write(writer, b"late").unwrap()
        });
        drop(engine);
        assert_eq!(buffer, *b"late");
        assert_eq!(late.join().unwrap(), 4);
    }
}
