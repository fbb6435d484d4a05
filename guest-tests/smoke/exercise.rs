//! Random operations on one file, each compared with a copy in memory: buffered, direct and mapped, separately or mixed.
//!
//! The published `fsx` crate covers buffered and mapped operation; it opens nothing with O_DIRECT and never mixes the
//! three, which is where a daemon that keeps two descriptors per file can go wrong.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

use crate::sys::{Mapping, PageBuffer};

/// What may touch the file.
#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum Mode {
    /// O_DIRECT only
    Direct,
    /// Buffered handle, direct handle and mapping by turns
    Mixed,
}

/// Options of `guest-smoke exercise`.
#[derive(clap::Args)]
pub struct Options {
    /// How the file is used
    #[arg(long, value_enum)]
    mode: Mode,
    /// Offsets and lengths of direct transfers are multiples of this; 1 works on FUSE only
    #[arg(long, default_value_t = 4096)]
    align: u64,
    /// Number of operations
    #[arg(long)]
    operations: u64,
    /// Start of the random sequence; the same seed makes the same operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file, created anew
    file: PathBuf,
}

/// Largest size of the file, in bytes.
const MAX_SIZE: u64 = 256 << 10;
/// Largest single transfer.
const MAX_LENGTH: u64 = 64 << 10;

/// A small random generator (splitmix64), so that a seed means the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// The next number below the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

struct Exercise {
    path: PathBuf,
    mode: Mode,
    align: u64,
    random: Random,
    buffered: File,
    direct: File,
    model: Vec<u8>,
}

fn open(path: &Path, flags: i32) -> anyhow::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path);
    file.with_context(|| format!("open {} with flags {flags:#x}", path.display()))
}

impl Exercise {
    fn size(&self) -> u64 {
        u64::try_from(self.model.len()).unwrap_or(u64::MAX)
    }

    /// A range that starts below `end`, in multiples of the unit.
    fn range(&mut self, end: u64, unit: u64) -> (u64, u64) {
        let offset = self.random.below(end.max(1)) / unit * unit;
        let length = 1 + self.random.below(MAX_LENGTH.min(MAX_SIZE - offset));
        (offset, length.next_multiple_of(unit))
    }

    fn expect(&self, what: &str, offset: u64, got: &[u8]) -> anyhow::Result<()> {
        let from = index(offset).min(self.model.len());
        let want = self.model.get(from..self.model.len().min(from + got.len())).unwrap_or_default();
        ensure!(want.len() == got.len(), "{what} at {offset}: {} bytes, expected {}", got.len(), want.len());
        if let Some(at) = got.iter().zip(want).position(|(a, b)| a != b) {
            let show = |bytes: &[u8]| format!("{:02x?}", bytes.iter().skip(at).take(8).collect::<Vec<_>>());
            bail!(
                "{what} at {offset}, {} bytes: byte {at} on is {}, expected {}",
                got.len(),
                show(got),
                show(want)
            );
        }
        Ok(())
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let end = index(offset) + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model.splice(index(offset)..end, bytes.iter().copied());
    }

    /// Whether the next transfer is direct, and the unit of its range.
    fn handle(&mut self) -> (bool, u64) {
        let direct = self.mode == Mode::Direct || self.random.below(2) == 0;
        (direct, if direct { self.align } else { 1 })
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let (direct, unit) = self.handle();
        let (offset, length) = self.range(self.size(), unit);
        let name = if direct { "direct" } else { "buffered" };
        let mut buffer = PageBuffer::new(index(length));
        let file = if direct { &self.direct } else { &self.buffered };
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut().get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + u64::try_from(filled)?)? {
                0 => break,
                n => filled += n,
            }
            // The file ends here; going on would be an unaligned read.
            if !u64::try_from(filled)?.is_multiple_of(unit) {
                break;
            }
        }
        self.expect(&format!("{name} read"), offset, buffer.get().get(..filled).unwrap_or_default())?;
        let end = self.size().min(offset + length).saturating_sub(offset);
        ensure!(
            index(end) == filled,
            "{name} read at {offset} of {length} bytes returned {filled}, expected {end}"
        );
        Ok(())
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let (direct, unit) = self.handle();
        let (offset, length) = self.range(MAX_SIZE - 4096, unit);
        let bytes = crate::content::pattern(index(length), self.random.below(1 << 40));
        let mut buffer = PageBuffer::new(bytes.len());
        buffer.get_mut().copy_from_slice(&bytes);
        let file = if direct { &self.direct } else { &self.buffered };
        file.write_all_at(buffer.get(), offset)
            .with_context(|| format!("write of {length} bytes at {offset}"))?;
        self.store(offset, &bytes);
        Ok(())
    }

    fn map(&mut self, write: bool) -> anyhow::Result<()> {
        if self.model.is_empty() {
            return Ok(());
        }
        let (offset, length) = self.range(self.size(), 1);
        let length = index(length.min(self.size() - offset));
        let mut map = Mapping::new(&self.buffered, self.model.len(), true).context("mmap")?;
        if write {
            let bytes = crate::content::pattern(length, self.random.below(1 << 40));
            map.write(index(offset), &bytes)?;
            self.store(offset, &bytes);
        } else {
            let mut got = vec![0; length];
            map.read(index(offset), &mut got)?;
            self.expect("mapped read", offset, &got)?;
        }
        Ok(())
    }

    fn resize(&mut self) -> anyhow::Result<()> {
        let size = self.random.below(MAX_SIZE);
        self.direct.set_len(size).with_context(|| format!("truncate to {size}"))?;
        self.model.resize(index(size), 0);
        Ok(())
    }

    fn zero(&mut self, flags: FallocateFlags) -> anyhow::Result<()> {
        let (offset, length) = self.range(MAX_SIZE - 4096, 1);
        fallocate(&self.direct, flags, offset, length)
            .with_context(|| format!("{flags:?} of {length} at {offset}"))?;
        let end = if flags.contains(FallocateFlags::KEEP_SIZE) {
            self.size().min(offset + length)
        } else {
            offset + length
        };
        if let Some(count) = end.checked_sub(offset).filter(|count| *count > 0) {
            self.store(offset, &vec![0; index(count)]);
        }
        Ok(())
    }

    fn copy(&mut self) -> anyhow::Result<()> {
        if self.model.is_empty() {
            return Ok(());
        }
        let (mut from, length) = self.range(self.size(), 1);
        let length = length.min(self.size() - from);
        let mut to = self.random.below(MAX_SIZE - length);
        if to < from + length && from < to + length {
            return Ok(());
        }
        let (source, target) = (from, to);
        // A file system that wants aligned direct I/O refuses to splice any other range into a direct handle.
        let into = if self.align == 1 { &self.direct } else { &self.buffered };
        let copied = copy_file_range(&self.buffered, Some(&mut from), into, Some(&mut to), index(length))
            .with_context(|| format!("copy of {length} bytes from {source} to {target}"))?;
        let bytes = self.model.get(index(source)..index(source) + copied).unwrap_or_default().to_vec();
        self.store(target, &bytes);
        Ok(())
    }

    fn reopen(&mut self) -> anyhow::Result<()> {
        self.buffered = open(&self.path, 0)?;
        self.direct = open(&self.path, libc::O_DIRECT)?;
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<()> {
        match self.random.below(100) {
            0..35 => self.read(),
            35..70 => self.write(),
            70..78 if self.mode == Mode::Mixed => self.map(true),
            78..86 if self.mode == Mode::Mixed => self.map(false),
            70..86 => self.read(),
            86..91 => self.resize(),
            91..93 => self.zero(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
            93..94 => self.zero(FallocateFlags::ZERO_RANGE),
            94..97 => self.copy(),
            97..99 => Ok(rustix::fs::fadvise(&self.buffered, 0, None, rustix::fs::Advice::DontNeed)?),
            _ => self.reopen(),
        }?;
        let size = self.direct.metadata()?.size();
        ensure!(size == self.size(), "size is {size}, expected {}", self.size());
        Ok(())
    }
}

/// Runs the operations; the error names the operation and the seed that repeat it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let _ = std::fs::remove_file(&options.file);
    let mut exercise = Exercise {
        path: options.file.clone(),
        mode: options.mode,
        align: options.align.max(1),
        random: Random(options.seed),
        buffered: open(&options.file, 0)?,
        direct: open(&options.file, libc::O_DIRECT)?,
        model: Vec::new(),
    };
    for number in 0..options.operations {
        exercise.step().with_context(|| format!("operation {number} with seed {}", options.seed))?;
        if number % (options.operations / 10).max(1) == 0 {
            println!("{number} of {} operations", options.operations);
        }
    }
    exercise.reopen()?;
    let all = std::fs::read(&options.file)?;
    exercise.expect("the whole file at the end", 0, &all)?;
    println!("{} operations without a mismatch", options.operations);
    Ok(())
}
