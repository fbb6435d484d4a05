//! What happens when a front-end makes a file shorter that is mapped here?
//!
//! To touch a page behind the end of the file is a SIGBUS, which would end the daemon. The handler here puts zeroes in the place of
//! what is gone, for this process alone: the front-end's memory is broken, but its rings can be stopped, and the next
//! front-end served. System calls that meet such a page say `EFAULT` and never come here.
//!
//! A SIGBUS anywhere else is a defect of ours or of the machine's memory, and goes where it went before.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

/// Mappings that are watched at a time: two front-ends with 509 regions each, and some for what ends just now.
const PLACES: usize = 2048;

/// A mapping, as the handler finds it: it may take no lock and allocate nothing.
struct Place {
    taken: AtomicBool,
    /// First byte; 0 while nothing is watched here. Written last and cleared first.
    start: AtomicUsize,
    end: AtomicUsize,
    /// The size of the mapping's pages.
    page: AtomicUsize,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
    }
}; PLACES];

/// Zeroes took the place of something since that was last asked.
static NEWS: AtomicBool = AtomicBool::new(false);

/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Watches a mapping for as long as it lives. Must be dropped before the mapping is unmapped.
#[derive(Debug)]
pub(super) struct Watch(usize);

/// Whether zeroes took the place of guest memory since this was last asked.
pub(super) fn news() -> bool {
    NEWS.load(Ordering::Relaxed) && NEWS.swap(false, Ordering::Relaxed)
}

impl Watch {
    /// Watches `length` bytes from `base` on, whole pages of `page` bytes each.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: too many mappings. And what `sigaction(2)` says.
    pub(super) fn new(base: NonNull<u8>, length: usize, page: usize) -> io::Result<Self> {
        install()?;
        let free = |place: &Place| !place.taken.swap(true, Ordering::Acquire);
        let index = TABLE.iter().position(free).ok_or(Errno::NOMEM)?;
        if let Some(place) = TABLE.get(index) {
            let start = base.addr().get();
            place.end.store(start.saturating_add(length), Ordering::Relaxed);
            place.page.store(page, Ordering::Relaxed);
            place.start.store(start, Ordering::Release);
        }
        Ok(Self(index))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(place) = TABLE.get(self.0) else { return };
        place.start.store(0, Ordering::Relaxed);
        place.taken.store(false, Ordering::Release);
    }
}

/// Sets the handler, once in a process.
fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // SAFETY: `sigaction` is plain data for which zeroes are a value (no flags, an empty mask, the default action).
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    // SAFETY: the second argument is null, so nothing is changed; the third is ours to write.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The first of several threads; the others find the same handler in place or about to be.
    if BEFORE.set(before).is_err() {
        return Ok(());
    }
    action.sa_sigaction = handle as *const () as usize;
    // On the alternative stack where a thread has one: the fault is not on the stack, but it may be full.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler is async-signal-safe: it reads atomics, and calls mmap and sigaction, and keeps errno.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The handler. Returns to the access that failed, which is done again.
extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `info`, in which SIGBUS has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // Not where the machine's memory is broken (BUS_MCEERR_AR).
    if !(code == libc::BUS_ADRERR && TABLE.iter().any(|place| place.fill(address)))
        && let Some(before) = BEFORE.get()
    {
        // SAFETY: what was in force before; the access fails again, and that deals with it.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}

impl Place {
    /// Puts zeroes from the page of `address` to the mapping's end, if it is this mapping's: where a file ends, all behind
    /// is gone.
    fn fill(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        let (end, page) = (self.end.load(Ordering::Relaxed), self.page.load(Ordering::Relaxed));
        if start == 0 || !(start..end).contains(&address) || page == 0 {
            return false;
        }
        let from = address - (address - start) % page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: errno is the thread's own, and the interrupted code may be about to read it.
        let errno = unsafe { *libc::__errno_location() };
        // SAFETY: the range lies in a mapping that is alive, as whoever touched it holds it, and of whose bytes nobody has a
        // reference: it is only reached by raw pointers.
        let filled = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(from),
                end - from,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        if filled == libc::MAP_FAILED {
            return false;
        }
        NEWS.store(true, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::super::mapping::Mapping;

    /// In a process of its own: loom, in the tests of others here, has a handler for SIGBUS too. In the real program, with
    /// its rings: `tests/daemon/shrunk.rs`.
    #[test]
    fn what_is_behind_the_new_end_reads_as_zeroes_and_what_is_before_it_stays() {
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        let run = program.args(["--exact", "ring::shrunk::tests::alone", "--ignored"]).output().unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "the test above runs it"]
    fn alone() {
        let file = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 0x4000).unwrap();
        let mapping = Mapping::new(file.as_fd(), 0, 0x4000).unwrap();
        let at = |offset| mapping.at(offset, 1).unwrap();
        for offset in [0, 0x1fff, 0x2000, 0x3fff] {
            // SAFETY: inside the mapping.
            unsafe { at(offset).write_volatile(7) };
        }
        ftruncate(&file, 0x2000).unwrap();
        // SAFETY: inside the mapping, the last two behind the end of its file.
        let bytes = [0, 0x1fff, 0x2000, 0x3fff].map(|offset| unsafe { at(offset).read_volatile() });
        assert_eq!(bytes, [7, 7, 0, 0]);
        // SAFETY: as above.
        unsafe { at(0x3fff).write_volatile(8) };
        // SAFETY: as above.
        assert_eq!(unsafe { at(0x3fff).read_volatile() }, 8);
        drop(mapping);
        // Its place serves another.
        ftruncate(&file, 0x1000).unwrap();
        for _ in 0..super::PLACES * 2 {
            Mapping::new(file.as_fd(), 0, 0x1000).unwrap();
        }
    }
}
