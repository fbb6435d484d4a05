//! Direct overwrites of files that other processes truncate, punch, extend, rename and unlink meanwhile.
//!
//! Whoever wins, every word of a file is either zero or its own: it says which file it belongs to (the inode number) and
//! where it lies. A byte that lands in another file, or at another place, cannot hide; nor can one in a file that nobody writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};

use crate::exercise::Random;
use crate::sys::PageBuffer;

/// Options of `guest-smoke races`.
#[derive(clap::Args)]
pub struct Options {
    /// For how long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Processes that write
    #[arg(long, default_value_t = 4)]
    writers: u64,
    /// Processes that change the files in other ways
    #[arg(long, default_value_t = 2)]
    changers: u64,
    /// Files, beside as many that nobody touches
    #[arg(long, default_value_t = 4)]
    files: u64,
    /// Set in the processes that the first one starts
    #[arg(long, hide = true)]
    worker: Option<u64>,
    /// The directory for the files
    directory: PathBuf,
}

/// Largest size of a file.
const MAX_SIZE: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// What the word at this offset of the file with this inode number is, unless it is zero.
fn word(inode: u64, offset: u64) -> u64 {
    inode << 24 | offset >> 3 | 1 << 63
}

fn fill(buffer: &mut [u8], inode: u64, offset: u64) {
    for (index, place) in (0..).zip(buffer.chunks_mut(8)) {
        place.copy_from_slice(&word(inode, offset + 8 * index).to_le_bytes());
    }
}

/// Looks at words that were read from `offset` on; zero is right only where `may_be_zero`.
fn examine(bytes: &[u8], inode: u64, offset: u64, may_be_zero: bool) -> anyhow::Result<()> {
    for (index, found) in (0..).zip(bytes.chunks_exact(8)) {
        let found = u64::from_le_bytes(found.try_into()?);
        let at = offset + 8 * index;
        let right = found == word(inode, at) || (found == 0 && may_be_zero);
        ensure!(right, "file {inode}: the word at {at} is {found:#x}, should be {:#x}", word(inode, at));
    }
    Ok(())
}

fn tracked(options: &Options, index: u64) -> PathBuf {
    options.directory.join(format!("file-{index}"))
}

fn canary(options: &Options, index: u64) -> PathBuf {
    options.directory.join(format!("canary-{index}"))
}

fn make(path: &Path) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let mut bytes = vec![0; usize::try_from(MAX_SIZE)?];
    fill(&mut bytes, file.metadata()?.ino(), 0);
    Ok(file.write_all_at(&bytes, 0)?)
}

/// Another process may have taken the name away.
fn open(path: &Path, flags: i32) -> anyhow::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
    }
}

/// Some direct writes and reads of one file through one open.
fn write(options: &Options, random: &mut Random) -> anyhow::Result<()> {
    let Some(file) = open(&tracked(options, random.below(options.files)), libc::O_DIRECT)? else {
        return Ok(());
    };
    let inode = file.metadata()?.ino();
    for _ in 0..random.below(64) {
        let offset = random.below(MAX_SIZE / PAGE) * PAGE;
        let len = PAGE * (1 + random.below(8.min((MAX_SIZE - offset) / PAGE)));
        let mut buffer = PageBuffer::new(usize::try_from(len)?);
        if random.below(4) == 0 {
            let read = file.read_at(buffer.get_mut(), offset).context("direct read")?;
            examine(buffer.get().get(..read).unwrap_or_default(), inode, offset, true)?;
        } else {
            fill(buffer.get_mut(), inode, offset);
            file.write_all_at(buffer.get(), offset).context("direct write")?;
        }
    }
    Ok(())
}

/// One change of a file that is not an overwrite.
fn change(options: &Options, random: &mut Random, own: &Path) -> anyhow::Result<()> {
    let path = tracked(options, random.below(options.files));
    let offset = random.below(MAX_SIZE / PAGE) * PAGE;
    let file = |flags| open(&path, flags);
    match random.below(8) {
        0 => file(0)?.map_or(Ok(()), |file| file.set_len(random.below(MAX_SIZE / PAGE) * PAGE))?,
        1 => file(0)?.map_or(Ok(()), |file| file.set_len(MAX_SIZE))?,
        2 => drop(file(libc::O_TRUNC)?),
        3 | 4 => {
            let flags = if offset.is_multiple_of(3) {
                FallocateFlags::ZERO_RANGE
            } else {
                FallocateFlags::PUNCH_HOLE
            };
            match file(0)?.map(|file| fallocate(&file, flags | FallocateFlags::KEEP_SIZE, offset, 16 * PAGE))
            {
                None | Some(Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)) => {}
                Some(Err(error)) => return Err(io::Error::from(error)).context("fallocate"),
            }
        }
        5 => {
            let other = tracked(options, random.below(options.files));
            match renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(io::Error::from(error)).context("exchange of names"),
            }
        }
        6 => {
            make(own)?;
            fs::rename(own, &path)?;
        }
        _ => {
            // In place of an append, whose writer cannot know where it lands.
            if let Some(file) = file(0)? {
                let (inode, end) = (file.metadata()?.ino(), file.metadata()?.size() / PAGE * PAGE);
                let mut bytes = vec![0; usize::try_from(2 * PAGE)?];
                fill(&mut bytes, inode, end);
                file.write_all_at(&bytes, end)?;
            }
        }
    }
    Ok(())
}

fn work(options: &Options, worker: u64) -> anyhow::Result<()> {
    let mut random = Random(worker + 1);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    // Two guests may do this in the same directory.
    let guest = std::env::var("SUITE_GUEST_NUMBER").unwrap_or_default();
    let own = options.directory.join(format!("new-{guest}-{worker}"));
    let mut rounds = 0_u64;
    while Instant::now() < end {
        if worker < options.writers {
            write(options, &mut random)?;
        } else {
            change(options, &mut random, &own)?;
        }
        rounds += 1;
    }
    println!("process {worker}: {rounds} rounds");
    Ok(())
}

/// Makes the files, starts the processes and waits for them. What the files then hold, `races.host` looks at too.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(worker) = options.worker {
        return work(options, worker).with_context(|| format!("process {worker}"));
    }
    if options.files == 0 || options.writers == 0 {
        bail!("at least one file and one writer");
    }
    fs::create_dir_all(&options.directory)?;
    for index in 0..options.files {
        make(&tracked(options, index))?;
        make(&canary(options, index))?;
    }
    let start = |worker: u64| {
        let mut command = Command::new("/proc/self/exe");
        command.args(["races", "--worker", &worker.to_string(), "--seconds", &options.seconds.to_string()]);
        command.args(["--writers", &options.writers.to_string(), "--files", &options.files.to_string()]);
        command.arg(&options.directory).spawn()
    };
    for mut worker in (0..options.writers + options.changers).map(start).collect::<Result<Vec<_>, _>>()? {
        ensure!(worker.wait()?.success(), "one of the processes failed");
    }
    for index in 0..options.files {
        for (path, may_be_zero) in [(canary(options, index), false), (tracked(options, index), true)] {
            let mut file = File::open(&path)?;
            let (inode, mut bytes) = (file.metadata()?.ino(), Vec::new());
            file.read_to_end(&mut bytes)?;
            examine(&bytes, inode, 0, may_be_zero).with_context(|| format!("{}", path.display()))?;
        }
    }
    Ok(())
}
