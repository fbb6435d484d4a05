//! Very many small files by several processes, in phases that are timed one by one: what benchmarks of metadata do.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::ValueEnum;

/// What is done with each file.
#[derive(Clone, Copy, ValueEnum)]
pub enum Phase {
    /// Create it and write its content
    Create,
    /// Ask for its attributes
    Stat,
    /// Open it, read and compare its content
    Read,
    /// Remove it
    Unlink,
}

/// Options of `guest-smoke smallfiles`.
#[derive(clap::Args)]
pub struct Options {
    /// What to do
    #[arg(value_enum)]
    phase: Phase,
    /// Number of processes, each with its own files
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// Number of files of each process
    #[arg(long)]
    files: usize,
    /// Bytes in each file
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Set in the processes that the first one starts: which of them this is
    #[arg(long, hide = true)]
    worker: Option<usize>,
    /// The directory
    dir: PathBuf,
}

/// Files in one directory.
const CROWD: usize = 100;

fn folder(dir: &Path, worker: usize, number: usize) -> PathBuf {
    dir.join(format!("p{worker}-{}", number / CROWD))
}

/// Other bytes for every file.
fn content(worker: usize, number: usize, size: usize) -> Vec<u8> {
    let mut bytes = format!("{worker} {number} ").into_bytes().repeat(size / 4 + 1);
    bytes.truncate(size);
    bytes
}

fn one(options: &Options, worker: usize, number: usize) -> anyhow::Result<()> {
    let folder = folder(&options.dir, worker, number);
    let path = folder.join(number.to_string());
    match options.phase {
        Phase::Create => {
            if number.is_multiple_of(CROWD) {
                fs::create_dir(&folder)?;
            }
            let mut file = fs::File::create_new(&path)?;
            file.write_all(&content(worker, number, options.size))?;
        }
        Phase::Stat => {
            // As C programs do: `std` asks for the birth time too, which costs a STATX where the daemon answers that.
            let length = rustix::fs::lstat(&path)?.st_size;
            ensure!(usize::try_from(length)? == options.size, "it has {length} bytes");
        }
        Phase::Read => {
            ensure!(fs::read(&path)? == content(worker, number, options.size), "its content is wrong")
        }
        Phase::Unlink => {
            fs::remove_file(&path)?;
            if (number + 1).is_multiple_of(CROWD) || number + 1 == options.files {
                fs::remove_dir(&folder)?;
            }
        }
    }
    Ok(())
}

/// One process: does its part when its input ends.
fn work(options: &Options, worker: usize) -> anyhow::Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for number in 0..options.files {
        one(options, worker, number).with_context(|| format!("file {number} of process {worker}"))?;
    }
    Ok(())
}

/// Runs the phase and prints operations and seconds as JSON.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(worker) = options.worker {
        return work(options, worker);
    }
    let phase = options.phase.to_possible_value().context("the phase has no name")?;
    let start = |worker: usize| {
        Command::new("/proc/self/exe")
            .args(["smallfiles", phase.get_name(), "--worker", &worker.to_string()])
            .args(["--files", &options.files.to_string(), "--size", &options.size.to_string()])
            .arg(&options.dir)
            .stdin(Stdio::piped())
            .spawn()
    };
    let mut workers = (0..options.processes).map(start).collect::<Result<Vec<Child>, _>>()?;
    let begin = Instant::now();
    for worker in &mut workers {
        drop(worker.stdin.take());
    }
    for mut worker in workers {
        let status = worker.wait()?;
        ensure!(status.success(), "a process failed: {status}");
    }
    println!(
        "{{\"ops\": {}, \"seconds\": {:.6}}}",
        options.processes * options.files,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
