//! Many processes that change the same few names at once, and what must be true afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::exercise::Random;

/// Options of `guest-smoke storm`.
#[derive(clap::Args)]
pub struct Options {
    /// Number of processes
    #[arg(long, default_value_t = 8)]
    processes: u64,
    /// Operations of each process
    #[arg(long)]
    operations: u64,
    /// Start of the random sequences
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Set in the processes that the first one starts: which of them this is
    #[arg(long, hide = true)]
    worker: Option<u64>,
    /// The directory, created anew
    dir: PathBuf,
}

/// What a name may turn out to be while others change it. EIO, ESTALE and the like are never right.
const EXPECTED: &[i32] = &[
    libc::ENOENT,
    libc::EEXIST,
    libc::ENOTEMPTY,
    libc::EISDIR,
    libc::ENOTDIR,
    libc::EPERM,
    libc::EINVAL,
    libc::ELOOP,
];

/// Directories in which the storm goes on, and names in each.
const DIRECTORIES: u64 = 4;
const NAMES: u64 = 24;
/// Rounds in which all processes want the same thing and exactly one may get it.
const CONTESTS: u64 = 100;

fn name(dir: &Path, random: &mut Random) -> PathBuf {
    let mut path = dir.join(format!("d{}", random.below(DIRECTORIES)));
    // Some names lie below others, so that directories are moved while they are walked.
    while random.below(4) == 0 {
        path.push(format!("n{}", random.below(NAMES)));
    }
    path.join(format!("n{}", random.below(NAMES)))
}

fn change(dir: &Path, random: &mut Random, content: &str) -> io::Result<()> {
    let (a, b) = (name(dir, random), name(dir, random));
    match random.below(12) {
        0 | 1 => fs::OpenOptions::new().write(true).create_new(true).open(&a)?.write_all(content.as_bytes()),
        2 => fs::create_dir(&a),
        3 => fs::hard_link(&a, &b),
        4 => symlink(content, &a),
        5 | 6 => fs::rename(&a, &b),
        7 => Ok(renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE)?),
        8 => fs::remove_file(&a),
        9 => fs::remove_dir(&a),
        10 => fs::read_dir(&a)?.try_for_each(|entry| entry.map(|_| ())),
        _ => fs::symlink_metadata(&a).map(|_| ()),
    }
}

/// One process of the storm. Prints how many contests it won.
fn work(options: &Options, worker: u64) -> anyhow::Result<()> {
    let mut random = Random(options.seed.wrapping_mul(1000).wrapping_add(worker));
    for number in 0..options.operations {
        match change(&options.dir, &mut random, &format!("{worker}-{number}")) {
            Err(error) if !error.raw_os_error().is_some_and(|errno| EXPECTED.contains(&errno)) => {
                return Err(error).with_context(|| format!("process {worker}, operation {number}"));
            }
            _ => {}
        }
    }
    let arena = options.dir.join("contests");
    let mut won = 0_u64;
    for round in 0..CONTESTS {
        let path = arena.join(round.to_string());
        let result = match round % 4 {
            0 => fs::OpenOptions::new().write(true).create_new(true).open(&path).map(|_| ()),
            1 => fs::create_dir(&path),
            2 => fs::remove_file(arena.join(format!("given-{round}"))),
            _ => fs::rename(
                arena.join(format!("given-{round}")),
                arena.join(format!("taken-{round}-{worker}")),
            ),
        };
        match result.map_err(|error| error.raw_os_error()) {
            Ok(()) => won += 1,
            Err(Some(libc::EEXIST | libc::ENOENT)) => {}
            Err(errno) => anyhow::bail!("contest {round}: process {worker} got errno {errno:?}"),
        }
    }
    println!("{won}");
    Ok(())
}

/// A line per object below the directory, sorted: path, type, links, and what it contains or names. Hard links carry the same content.
fn listing(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut names_of: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(current) = open.pop() {
        for entry in fs::read_dir(&current).with_context(|| format!("list {}", current.display()))? {
            let path = entry?.path();
            let meta =
                fs::symlink_metadata(&path).with_context(|| format!("{} is listed, but", path.display()))?;
            let shown = path.strip_prefix(dir)?.display().to_string();
            if meta.is_dir() {
                lines.push(format!("{shown} directory"));
                open.push(path);
            } else if meta.is_symlink() {
                // A symbolic link can have hard links too.
                names_of.entry(meta.ino()).or_insert((0, meta.nlink())).0 += 1;
                lines.push(format!("{shown} link {} {}", meta.nlink(), fs::read_link(&path)?.display()));
            } else {
                names_of.entry(meta.ino()).or_insert((0, meta.nlink())).0 += 1;
                lines.push(format!("{shown} file {} {}", meta.nlink(), fs::read_to_string(&path)?));
            }
        }
    }
    for (ino, (found, links)) in names_of {
        ensure!(found == links, "inode {ino} has {found} names and says it has {links}");
    }
    lines.sort();
    let unique: std::collections::BTreeSet<_> = lines.iter().map(|line| line.split(' ').next()).collect();
    ensure!(unique.len() == lines.len(), "a name is listed twice");
    Ok(lines)
}

/// Runs the storm, checks what is left, and prints the listing that the host compares with its own.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    if let Some(worker) = options.worker {
        return work(options, worker).map(|()| true);
    }
    for i in 0..DIRECTORIES {
        fs::create_dir_all(options.dir.join(format!("d{i}")))?;
    }
    fs::create_dir_all(options.dir.join("contests"))?;
    for round in 0..CONTESTS {
        fs::write(options.dir.join(format!("contests/given-{round}")), "prize")?;
    }
    let start = |worker: u64| {
        let mut command = Command::new("/proc/self/exe");
        command.args(["storm", "--worker", &worker.to_string(), "--seed", &options.seed.to_string()]);
        command.args(["--operations", &options.operations.to_string()]).arg(&options.dir);
        command.stdout(Stdio::piped()).spawn()
    };
    let workers = (0..options.processes).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut won = 0;
    for worker in workers {
        let output = worker.wait_with_output()?;
        ensure!(output.status.success(), "a process of the storm failed: {}", output.status);
        won += String::from_utf8_lossy(&output.stdout).trim().parse::<u64>()?;
    }
    ensure!(won == CONTESTS, "{won} processes won {CONTESTS} contests");
    let cached = listing(&options.dir)?;
    fs::write("/proc/sys/vm/drop_caches", "2").context("dropping the guest's caches")?;
    let fresh = listing(&options.dir)?;
    if let Some((a, b)) = cached.iter().zip(&fresh).find(|(a, b)| a != b) {
        anyhow::bail!("after the caches were dropped the tree differs: {a:?} was {b:?}");
    }
    ensure!(
        cached.len() == fresh.len(),
        "{} objects, {} after the caches were dropped",
        cached.len(),
        fresh.len()
    );
    for line in fresh {
        println!("{line}");
    }
    Ok(true)
}
