//! Very many files at once: what a large build, a mail store or an indexer asks of the daemon's tables and descriptors.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

/// What is done with the files.
#[derive(Clone, Copy, ValueEnum)]
pub enum Action {
    /// Create them, empty
    Create,
    /// Open them all and hold them open, in several processes
    Open,
    /// Look names up: each file again and again with the guest's caches dropped between, and as many missing names
    Lookup,
}

/// Options of `guest-smoke crowd`.
#[derive(clap::Args)]
pub struct Options {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// Number of files
    #[arg(long)]
    files: u64,
    /// Number of names to look up
    #[arg(long, default_value_t = 0)]
    lookups: u64,
    /// Number of processes that open files
    #[arg(long, default_value_t = 4)]
    processes: u64,
    /// Set in the processes that the first one starts: which of them this is
    #[arg(long, hide = true)]
    worker: Option<u64>,
    /// The directory
    dir: PathBuf,
}

/// Answers to an open or lookup that a guest may get when it has asked for too much.
const LIMITS: &[i32] = &[libc::ENFILE, libc::EMFILE, libc::ENOMEM];

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{:04}/{number:07}", number / 1000))
}

fn create(options: &Options) -> anyhow::Result<()> {
    for number in 0..options.files {
        let path = path(&options.dir, number);
        if number % 1000 == 0 {
            fs::create_dir_all(path.parent().unwrap_or(&options.dir))?;
        }
        File::create(&path).with_context(|| path.display().to_string())?;
        if number % 20_000 == 0 {
            println!("created {number}");
        }
    }
    Ok(())
}

/// Opens this process's part, says how many and what stopped it, and keeps them until its input ends.
fn hold_open(options: &Options, worker: u64) -> anyhow::Result<()> {
    crate::sys::raise_open_files(options.files + 1000);
    let mut held = Vec::new();
    let mut stopped = 0;
    for number in (0..options.files).filter(|number| number % options.processes == worker) {
        match File::open(path(&options.dir, number)) {
            Ok(file) => held.push(file),
            Err(error) if error.raw_os_error().is_some_and(|errno| LIMITS.contains(&errno)) => {
                stopped = error.raw_os_error().unwrap_or_default();
                break;
            }
            Err(error) => return Err(error).context(format!("open of file {number}")),
        }
    }
    println!("{} {stopped}", held.len());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn start(options: &Options, worker: u64) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["crowd", "open", "--worker", &worker.to_string(), "--files", &options.files.to_string()]);
    command.args(["--processes", &options.processes.to_string()]).arg(&options.dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
}

/// The share must go on serving, whatever was refused.
fn serves(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("still-served");
    fs::write(&path, "yes")?;
    ensure!(fs::read(&path)? == b"yes", "a new file reads back differently");
    Ok(fs::remove_file(&path)?)
}

fn open(options: &Options) -> anyhow::Result<()> {
    let mut workers =
        (0..options.processes).map(|worker| start(options, worker)).collect::<Result<Vec<_>, _>>()?;
    let (mut opened, mut limited) = (0, false);
    for worker in &mut workers {
        let mut line = String::new();
        BufReader::new(worker.stdout.as_mut().context("no output")?).read_line(&mut line)?;
        let Some((count, errno)) = line.trim().split_once(' ') else { bail!("a process failed: {line:?}") };
        println!("a process holds {count} files, stopped by errno {errno}");
        opened += count.parse::<u64>()?;
        limited |= errno != "0";
    }
    println!("{opened} of {} files are open at once", options.files);
    ensure!(limited || opened == options.files, "files are missing and no limit was reported");
    match serves(&options.dir) {
        // While a limit is reached a new open may be refused too, with the same errors.
        Err(error) if limited => println!("while they are open: {error:#}"),
        result => result.context("while they are open")?,
    }
    for mut worker in workers {
        drop(worker.stdin.take());
        ensure!(worker.wait()?.success(), "a process failed");
    }
    serves(&options.dir).context("after they were closed")
}

fn lookup(options: &Options) -> anyhow::Result<()> {
    let mut done = 0;
    while done < options.lookups {
        for number in 0..options.files.min((options.lookups - done) / 2 + 1) {
            match fs::symlink_metadata(path(&options.dir, number)) {
                Err(error) if error.raw_os_error().is_some_and(|errno| LIMITS.contains(&errno)) => {}
                result => ensure!(
                    result.with_context(|| format!("lookup of file {number}"))?.is_file(),
                    "file {number} is no file"
                ),
            }
            let absent = options.dir.join(format!("{:04}/absent-{done}-{number}", number / 1000));
            let errno = fs::symlink_metadata(&absent).err().and_then(|error| error.raw_os_error());
            ensure!(
                errno.is_some_and(|e| e == libc::ENOENT || LIMITS.contains(&e)),
                "lookup of a missing name: {errno:?}"
            );
        }
        done += 2 * options.files;
        fs::write("/proc/sys/vm/drop_caches", "2").context("dropping the guest's caches")?;
        println!("looked up {done}");
    }
    serves(&options.dir)
}

/// Does one action.
pub fn run(options: &Options) -> anyhow::Result<()> {
    match (options.worker, options.action) {
        (Some(worker), _) => hold_open(options, worker),
        (None, Action::Create) => create(options),
        (None, Action::Open) => open(options),
        (None, Action::Lookup) => lookup(options),
    }
}
