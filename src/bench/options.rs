//! What is to be measured? The result of the command line, as plain data.

use std::path::PathBuf;
use std::time::Duration;

use super::Work;

/// Everything that one run is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Who is measured; all others are compared with the first.
    pub contenders: Vec<Contender>,
    /// What is measured, in this order.
    pub works: Vec<Work>,
    /// For workloads with data: `O_DIRECT` or not, each once.
    pub direct: Vec<bool>,
    /// Bytes of a transfer, instead of the workload's own number.
    pub block_size: Option<u32>,
    /// Bytes of the file that data workloads use.
    pub file_size: u64,
    /// Files of the directory that metadata workloads use.
    pub files: u32,
    /// Request queues, one client thread each.
    pub queues: u16,
    /// Operations in flight on each queue.
    pub depth: u16,
    /// Entries of each queue.
    pub queue_size: u16,
    /// Bytes of one buffer of a payload.
    pub segment: u32,
    /// When a round ends.
    pub limit: Limit,
    /// Time before each round's measurement.
    pub warmup: Duration,
    /// Rounds of each contender.
    pub rounds: u32,
    /// Directory to work in, instead of a temporary one.
    pub share: Option<PathBuf>,
    /// How thoroughly read data is checked.
    pub verify: Verify,
    /// Use EVENT_IDX where offered.
    pub event_idx: bool,
    /// Use INDIRECT_DESC where offered.
    pub indirect: bool,
    /// Count system calls in a round of their own.
    pub syscalls: bool,
    /// Where to write JSON.
    pub json: Option<PathBuf>,
    /// Where to write Markdown.
    pub markdown: Option<PathBuf>,
    /// Where to write a picture.
    pub svg: Option<PathBuf>,
    /// No progress.
    pub quiet: bool,
}

/// One of those that are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// A short name for tables, unique in a run.
    pub label: String,
    /// The words of the daemon's command line; none for the host itself.
    pub command: Vec<String>,
}

impl Contender {
    /// Whether it is the host without a daemon.
    pub fn is_host(&self) -> bool {
        self.command.is_empty()
    }
}

/// When a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After a time.
    Time(Duration),
    /// After so many operations of all queues together.
    Ops(u64),
}

/// How thoroughly read data is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// The first two words and the last of every 4 KiB.
    Edges,
    /// Every byte.
    Full,
}
