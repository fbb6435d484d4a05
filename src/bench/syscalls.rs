//! How many system calls does the daemon make?
//!
//! Counted by the kernel's tracepoint `raw_syscalls:sys_enter` on every thread of the tree; threads that start later
//! inherit the counter. It needs tracefs and the right to use perf events (root, or CAP_PERFMON). The counting costs the
//! daemon a little on each system call, so it is done in a round whose times are not reported.

use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter, ReadFormat};

use super::account;

const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Counters on the threads of some processes.
pub(super) struct Syscalls(Vec<Counter>);

impl Syscalls {
    /// Begins to count. None where the kernel or the permissions do not allow it.
    pub(super) fn start(processes: &[u32]) -> Option<Self> {
        let id = PLACES.iter().find_map(|place| {
            let text = std::fs::read_to_string(format!("{place}/events/raw_syscalls/sys_enter/id")).ok()?;
            text.trim().parse().ok()
        })?;
        let threads: Vec<u32> = processes.iter().copied().flat_map(account::threads).collect();
        let mut counters = Vec::with_capacity(threads.len());
        for thread in threads {
            let built = Builder::new(Tracepoint::with_id(id))
                .read_format(ReadFormat::empty())
                .observe_pid(i32::try_from(thread).ok()?)
                .any_cpu()
                .include_kernel()
                .inherit(true)
                .enabled(true)
                .build();
            match built {
                Ok(counter) => counters.push(counter),
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => return None,
            }
        }
        Some(Self(counters))
    }

    /// System calls since the start.
    pub(super) fn count(&mut self) -> Option<u64> {
        self.0.iter_mut().map(|counter| counter.read().ok()).sum()
    }
}
