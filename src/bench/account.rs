//! What did the daemon's processes spend?
//!
//! Over the whole tree that grew from the command: sandboxes fork. The tree is found by the parents that `/proc` names
//! and not by `children`, which the kernel's documentation calls unreliable while processes come and go. CPU time is that of the processes' clocks, which
//! count ended threads and nanoseconds. Context switches are the sum over the threads that live at the time of asking; a
//! daemon that starts a thread for each request would escape that, and none does.

use std::time::Duration;

use super::sys;

/// What a tree of processes has spent so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) cpu: Duration,
    /// Context switches: it waited.
    pub(super) voluntary: u64,
    /// Context switches: it was made to.
    pub(super) involuntary: u64,
    /// Peak of resident memory in KiB, summed over the processes.
    pub(super) peak_kib: u64,
}

impl Usage {
    /// Of some processes together.
    pub(super) fn of(processes: &[u32]) -> Self {
        processes.iter().fold(Self::default(), |sum, &pid| sum.plus(Self::of_process(pid)))
    }

    fn of_process(pid: u32) -> Self {
        let cpu = i32::try_from(pid).ok().and_then(|pid| sys::process_cpu_time(pid).ok()).unwrap_or_default();
        let status = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let mut usage = Self {
            cpu,
            peak_kib: field(&status(format!("/proc/{pid}/status")), "VmHWM:"),
            ..Self::default()
        };
        for thread in threads(pid) {
            let text = status(format!("/proc/{pid}/task/{thread}/status"));
            usage.voluntary += field(&text, "voluntary_ctxt_switches:");
            usage.involuntary += field(&text, "nonvoluntary_ctxt_switches:");
        }
        usage
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            voluntary: self.voluntary + other.voluntary,
            involuntary: self.involuntary + other.involuntary,
            peak_kib: self.peak_kib + other.peak_kib,
        }
    }

    /// What was spent since an earlier time; the peak remains a peak.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
            peak_kib: self.peak_kib,
        }
    }
}

/// CPU time of this process.
pub(super) fn own_cpu() -> Duration {
    i32::try_from(std::process::id()).ok().and_then(|pid| sys::process_cpu_time(pid).ok()).unwrap_or_default()
}

/// A process and all its descendants.
pub(super) fn tree(root: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let family: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        found.extend(family.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
    }
    found
}

/// The parent of a process, from the fields behind its name, which may itself contain parentheses.
fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The threads of a process.
pub(super) fn threads(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_and_their_memory_are_counted() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 20 & wait"]).spawn().unwrap();
        let own = std::process::id();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while tree(child.id()).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "the shell starts another program");
        }
        assert!(tree(own).contains(&child.id()));
        let usage = Usage::of(&tree(child.id()));
        assert!(usage.peak_kib > 100, "{usage:?}");
        for pid in tree(child.id()).into_iter().rev() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        child.wait().unwrap();
        assert_eq!(Usage::of(&[u32::MAX]), Usage::default(), "nobody has spent nothing");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\nVmHWM:\t  12 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 5);
        assert_eq!(field(text, "nonvoluntary_ctxt_switches:"), 7);
        assert_eq!((field(text, "VmHWM:"), field(text, "VmRSS:")), (12, 0));
    }
}
