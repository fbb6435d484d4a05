//! One file written by several processes at once, so that the host can compute what every byte must be.
//!
//! The word at index i of the file (8 bytes, little endian) is i. Stripes are dealt to the processes in turn, each
//! process writes its own in random order, first with wrong contents and then with the right ones.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::exercise::Random;
use crate::sys::{Mapping, PageBuffer};

/// How the file is written.
#[derive(Clone, Copy, ValueEnum)]
pub enum Way {
    /// O_DIRECT
    Direct,
    /// Every second process with O_DIRECT, the others buffered
    Mixed,
    /// Through shared mappings, in stripes smaller than a page
    Mapped,
    /// O_APPEND, one record per write; the records are lines that name the process and count
    Append,
}

/// Options of `guest-smoke writers`.
#[derive(clap::Args)]
pub struct Options {
    /// How to write
    #[arg(value_enum)]
    way: Way,
    /// Number of processes
    #[arg(long, default_value_t = 4)]
    processes: u64,
    /// Size of the file in MiB; number of records of each process, in thousands, for append
    #[arg(long)]
    size: u64,
    /// Set in the processes that the first one starts: which of them this is
    #[arg(long, hide = true)]
    worker: Option<u64>,
    /// The file
    file: PathBuf,
}

impl Options {
    /// Bytes of one stripe.
    fn stripe(&self) -> u64 {
        if matches!(self.way, Way::Mapped) { 512 } else { 64 << 10 }
    }

    fn bytes(&self) -> u64 {
        self.size << 20
    }
}

/// The stripes of one process in random order.
fn stripes(options: &Options, worker: u64) -> Vec<u64> {
    let mut mine: Vec<_> =
        (0..options.bytes() / options.stripe()).filter(|s| s % options.processes == worker).collect();
    let mut random = Random(worker + 1);
    for end in (1..mine.len()).rev() {
        let at = random.below(u64::try_from(end).unwrap_or(0) + 1);
        mine.swap(end, usize::try_from(at).unwrap_or(end));
    }
    mine
}

fn words(offset: u64, stripe: u64, wrong: bool) -> impl Iterator<Item = u64> {
    (offset / 8..(offset + stripe) / 8).map(move |word| if wrong { !word } else { word })
}

fn write_stripes(options: &Options, worker: u64) -> anyhow::Result<()> {
    let direct = matches!(options.way, Way::Direct) || worker % 2 == 1;
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new().write(true).custom_flags(flags).open(&options.file)?;
    let stripe = options.stripe();
    let mut buffer = PageBuffer::new(usize::try_from(stripe)?);
    for wrong in [true, false] {
        for number in stripes(options, worker) {
            let offset = number * stripe;
            for (to, word) in buffer.get_mut().chunks_mut(8).zip(words(offset, stripe, wrong)) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            file.write_all_at(buffer.get(), offset)
                .with_context(|| format!("process {worker}, offset {offset}"))?;
        }
    }
    Ok(())
}

fn write_mapped(options: &Options, worker: u64) -> anyhow::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(&options.file)?;
    let map = Mapping::new(&file, usize::try_from(options.bytes())?, true)?;
    for wrong in [true, false] {
        for number in stripes(options, worker) {
            let offset = number * options.stripe();
            for (index, word) in (usize::try_from(offset / 8)?..).zip(words(offset, options.stripe(), wrong))
            {
                map.word(index)?.store(word, Ordering::Relaxed);
            }
        }
    }
    Ok(map.sync()?)
}

fn append(options: &Options, worker: u64) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().append(true).open(&options.file)?;
    for number in 0..options.size * 1000 {
        // Lengths differ so that a lost or torn record shifts everything behind it.
        let filler = "x".repeat(usize::try_from(number % 200)?);
        let line = format!("{worker} {number} {filler}.\n");
        ensure!(file.write(line.as_bytes())? == line.len(), "a record was written in part");
    }
    Ok(())
}

/// Starts the processes and waits for them.
pub fn run(options: &Options) -> anyhow::Result<()> {
    match (options.worker, options.way) {
        (Some(worker), Way::Direct | Way::Mixed) => return write_stripes(options, worker),
        (Some(worker), Way::Mapped) => return write_mapped(options, worker),
        (Some(worker), Way::Append) => return append(options, worker),
        (None, _) => {}
    }
    let file = File::create(&options.file)?;
    if matches!(options.way, Way::Mapped) {
        file.set_len(options.bytes())?;
    }
    let way = options.way.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let start = |worker: u64| {
        let mut command = Command::new("/proc/self/exe");
        command.args(["writers", &way, "--worker", &worker.to_string(), "--size", &options.size.to_string()]);
        command.args(["--processes", &options.processes.to_string()]).arg(&options.file).spawn()
    };
    for mut worker in (0..options.processes).map(start).collect::<Result<Vec<_>, _>>()? {
        ensure!(worker.wait()?.success(), "one of the writing processes failed");
    }
    (&file).flush()?;
    Ok(file.sync_all()?)
}
