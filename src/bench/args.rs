//! How does the command line look, and what does `--help` say about it?

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};

use super::options::{Contender, Limit, Options, Verify};
use super::{Work, values};
use crate::cli::{self, ParseExit, Stream};

const PROGRAM: &str = "extentfsd-bench";

const USAGE: &str = "extentfsd-bench [OPTIONS] <COMMAND>
       extentfsd-bench [OPTIONS] --compare <COMMAND> <COMMAND>...";

/// The name of the contender that is no daemon.
const HOST: &str = "host";

const MORE: &str = "\
Examples:
  extentfsd-bench extentfsd
  extentfsd-bench --work randread,getattr --queues 2 --depth 32 --share /mnt/nvme \\
      --compare 'extentfsd --allow-direct-io' 'virtiofsd --allow-direct-io' host
  extentfsd-bench --json before.json --markdown before.md --svg before.svg extentfsd

Each round starts the daemon anew, and rounds of several commands take turns: A B A B. Of every figure the median over
the rounds is shown with the lowest and the highest; ratios are taken round by round. Whatever is read is
checked, and whatever was written is checked on the host's side after each round: a daemon that loses or mixes up
data ends the run.

Exit code: 0 when everything was measured and right, 1 when something failed or was wrong, 2 for a wrong command line.";

/// Measure a virtio-fs daemon without a virtual machine.
///
/// extentfsd-bench starts a daemon on a directory of its own, connects to it as a virtual machine monitor, mounts as
/// a guest's kernel, and sends requests as fast as they are answered. It tells operations per second, latency, and
/// what the daemon spends on an operation: CPU time, system calls, context switches and memory.
///
/// COMMAND is the daemon's command line in one string, as a shell would split it. --shared-dir and --socket-path are
/// added; a daemon that names them otherwise gets them where {share} and {socket} stand. The word "host" stands
/// for no daemon at all: the same I/O on the same file from this program.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, override_usage = USAGE, after_long_help = MORE, arg_required_else_help = true)]
struct CommandLine {
    /// The daemon to measure
    #[arg(value_name = "COMMAND", required_unless_present = "compare", conflicts_with = "compare")]
    command: Option<String>,

    /// Measure these in turn, and compare each with the first
    #[arg(long, value_name = "COMMAND", num_args = 2..)]
    compare: Option<Vec<String>>,

    /// What to measure, several separated by commas; 'all' is everything
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Load", long_help = work_help())]
    work: Vec<String>,

    /// Read and write with O_DIRECT [default]
    #[arg(long, help_heading = "Load")]
    direct: bool,

    /// Read and write through the page cache; with --direct both are measured
    #[arg(long, help_heading = "Load")]
    buffered: bool,

    /// Bytes of a transfer: a multiple of 4K up to 4M [default: 4K, 1M for seqread and seqwrite]
    #[arg(long, value_name = "BYTES", value_parser = values::block_size, help_heading = "Load")]
    block_size: Option<u32>,

    /// Bytes of the file that is read and written; K, M and G are understood
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = values::file_size, help_heading = "Load")]
    file_size: u64,

    /// Files in the directory that metadata workloads use
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Load")]
    files: u32,

    /// Request queues, each with a thread of its own; virtiofsd has one
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64), help_heading = "Load")]
    queues: u16,

    /// Operations in flight on each queue
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Load")]
    depth: u16,

    /// Seconds of a round [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, conflicts_with = "ops", help_heading = "Rounds")]
    time: Option<Duration>,

    /// Operations of a round, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Rounds")]
    ops: Option<u64>,

    /// Seconds before each round that do not count; without effect with --ops
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = values::seconds_or_none, help_heading = "Rounds")]
    warmup: Duration,

    /// Rounds of each command
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Rounds")]
    rounds: u32,

    /// Work below this directory, on whatever file system it is; what is made there is removed at the end
    /// [default: a temporary directory]
    #[arg(long, value_name = "DIR", help_heading = "Rounds")]
    share: Option<PathBuf>,

    /// Check every byte that is read, instead of the first and last words of each 4K
    #[arg(long, help_heading = "Rounds")]
    verify_all: bool,

    /// Do not count system calls (needs root and tracefs; takes a short round of its own)
    #[arg(long, help_heading = "Rounds")]
    no_syscalls: bool,

    /// Entries of each queue: a power of two, 8 to 1024
    #[arg(long, value_name = "N", default_value = "1024", value_parser = values::queue_size, hide_short_help = true, help_heading = "Driver")]
    queue_size: u16,

    /// Bytes of one buffer of a payload: 4K is a guest whose pages are scattered
    #[arg(long, value_name = "BYTES", default_value = "4K", value_parser = values::block_size, hide_short_help = true, help_heading = "Driver")]
    segment: u32,

    /// Do not use EVENT_IDX: a signal for each batch
    #[arg(long, hide_short_help = true, help_heading = "Driver")]
    no_event_idx: bool,

    /// Do not use INDIRECT_DESC: all buffers are descriptors of the queue
    #[arg(long, hide_short_help = true, help_heading = "Driver")]
    no_indirect: bool,

    /// Write the result with every round as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,

    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    markdown: Option<PathBuf>,

    /// Write a picture of the operations per second
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    svg: Option<PathBuf>,

    /// Print nothing but the result
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
}

fn work_help() -> String {
    let mut text = "What to measure, several separated by commas; 'all' is everything [default: ".to_owned();
    text.push_str(&Work::DEFAULT.map(Work::name).join(","));
    text.push_str("]\n\nOne operation is:");
    for (_, name, what) in Work::ALL {
        text.push_str(&format!("\n  {name:<12} {what}"));
    }
    text
}

/// Reads a command line, the program's name first.
///
/// # Errors
///
/// [`ParseExit`] for everything that ends the program here, which includes help and the version.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Options, ParseExit> {
    let matches = CommandLine::command().try_get_matches_from(args).map_err(wrong)?;
    CommandLine::from_arg_matches(&matches).map_err(wrong)?.resolve().map_err(usage)
}

fn wrong(error: clap::Error) -> ParseExit {
    cli::explain(error, usage)
}

fn usage(text: String) -> ParseExit {
    // The text quotes the command line, which may contain anything, and still is one line.
    let line = text.replace(char::is_control, " ");
    ParseExit { text: format!("{PROGRAM}: {line} (see --help)\n"), stream: Stream::Err, code: 2 }
}

impl CommandLine {
    fn resolve(self) -> Result<Options, String> {
        let commands = self.compare.into_iter().flatten().chain(self.command);
        let contenders = contenders(commands)?;
        let works = works(&self.work)?;
        let direct = match (self.direct, self.buffered) {
            (true, true) => vec![true, false],
            (false, true) => vec![false],
            _ => vec![true],
        };
        let limit = match (self.ops, self.time) {
            (Some(ops), _) => Limit::Ops(ops),
            (None, time) => Limit::Time(time.unwrap_or(Duration::from_secs(3))),
        };
        let options = Options {
            contenders,
            works,
            direct,
            block_size: self.block_size,
            file_size: self.file_size,
            files: self.files,
            queues: self.queues,
            depth: self.depth,
            queue_size: self.queue_size,
            segment: self.segment,
            limit,
            warmup: self.warmup,
            rounds: self.rounds,
            share: self.share,
            verify: if self.verify_all { Verify::Full } else { Verify::Edges },
            event_idx: !self.no_event_idx,
            indirect: !self.no_indirect,
            syscalls: !self.no_syscalls,
            json: self.json,
            markdown: self.markdown,
            svg: self.svg,
            quiet: self.quiet,
        };
        check(&options)?;
        Ok(options)
    }
}

/// Checks what concerns several options together.
fn check(options: &Options) -> Result<(), String> {
    let Options { queues, depth, queue_size, .. } = *options;
    if depth >= queue_size {
        return Err(format!(
            "--depth: {depth} operations do not fit into a queue of {queue_size} (--queue-size)"
        ));
    }
    if let Some(host) = options.contenders.iter().find(|contender| contender.is_host()) {
        if !options.works.iter().any(|work| work.host_can()) {
            return Err(format!("--work: '{}' can only do reads and writes", host.label));
        }
        if options.contenders.len() == 1 {
            return Err("--compare: 'host' alone is no daemon; name one beside it".to_owned());
        }
    }
    for work in options.works.iter().filter(|work| work.uses_data()) {
        let own = work.default_block().unwrap_or(4096);
        let block = options.block_size.filter(|_| work.takes_block_size()).unwrap_or(own);
        // Sequential streams have a part each, and twice as many blocks as can be taken at a time leave a choice.
        let needed = 2 * u64::from(queues) * u64::from(depth) * u64::from(block);
        if options.file_size < needed {
            let name = work.name();
            return Err(format!(
                "--file-size: {name} with these --queues, --depth and --block-size needs {needed} bytes"
            ));
        }
        let buffers = u64::from(work.payload(block).div_ceil(options.segment)) + 4;
        if buffers > u64::from(queue_size) {
            let name = work.name();
            return Err(format!(
                "--queue-size: {name} needs chains of {buffers} buffers; a larger --segment needs fewer"
            ));
        }
    }
    // Guest memory is populated, so a wish that no machine can fulfil must not be tried.
    let memory = options
        .works
        .iter()
        .map(|work| work.payload(options.block_size.unwrap_or(0).max(work.default_block().unwrap_or(0))))
        .max()
        .map_or(0, |payload| u64::from(payload) * u64::from(queues) * u64::from(depth));
    if memory > 4 << 30 {
        return Err(format!("--depth: {memory} bytes of buffers for all queues, more than 4G"));
    }
    if let Some(share) = &options.share
        && !share.is_dir()
    {
        return Err(format!("--share: {} is no directory", share.display()));
    }
    for (option, file) in
        [("--json", &options.json), ("--markdown", &options.markdown), ("--svg", &options.svg)]
    {
        // Better now than after an hour.
        if let Some(file) = file {
            let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            if file.is_dir() || !parent.is_none_or(Path::is_dir) {
                return Err(format!("{option}: cannot write a file {}", file.display()));
            }
        }
    }
    Ok(())
}

fn works(names: &[String]) -> Result<Vec<Work>, String> {
    if names.is_empty() {
        return Ok(Work::DEFAULT.to_vec());
    }
    let mut works = Vec::new();
    for name in names {
        let known = Work::ALL.iter().filter(|(_, known, _)| name == "all" || name == known);
        let before = works.len();
        works.extend(known.map(|(work, ..)| *work));
        if works.len() == before {
            let known = Work::ALL.map(|(_, name, _)| name).join(", ");
            return Err(format!("--work: there is no '{name}', but {known}"));
        }
    }
    let mut seen = Vec::new();
    works.retain(|work| {
        let new = !seen.contains(work);
        seen.push(*work);
        new
    });
    Ok(works)
}

/// Splits the commands and gives them names: the program's, with a number where that repeats.
fn contenders(commands: impl Iterator<Item = String>) -> Result<Vec<Contender>, String> {
    let mut used: HashMap<String, u32> = HashMap::new();
    let mut contenders = Vec::new();
    for text in commands {
        let command =
            shlex::split(&text).ok_or_else(|| format!("COMMAND: a quote is not closed in '{text}'"))?;
        let Some(program) = command.first().filter(|program| !program.is_empty()) else {
            return Err("COMMAND: it is empty".to_owned());
        };
        let name = Path::new(program)
            .file_name()
            .map_or_else(|| program.clone(), |name| name.to_string_lossy().into_owned());
        let count = used.entry(name.clone()).or_default();
        *count += 1;
        let label = if *count == 1 { name } else { format!("{name}-{count}") };
        let command = if text == HOST { Vec::new() } else { command };
        contenders.push(Contender { label, command });
    }
    Ok(contenders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options, String> {
        let words = shlex::split(line).unwrap().into_iter().map(OsString::from);
        parse(std::iter::once(OsString::from(PROGRAM)).chain(words)).map_err(|exit| exit.text)
    }

    #[test]
    fn commands_are_split_and_named() {
        let found = options("--compare '/a/d -x \"y z\"' d host").unwrap().contenders;
        let labels: Vec<&str> = found.iter().map(|contender| contender.label.as_str()).collect();
        assert_eq!(labels, ["d", "d-2", "host"]);
        assert_eq!(found[0].command, ["/a/d", "-x", "y z"]);
        assert!(found[2].is_host() && !found[1].is_host());
    }

    #[test]
    fn workloads_come_once_each() {
        assert_eq!(options("d").unwrap().works, Work::DEFAULT);
        let both = options("d --work seqread,getattr --work seqread").unwrap().works;
        assert_eq!(both, [Work::SeqRead, Work::Getattr]);
        assert_eq!(options("d --work all --depth 4").unwrap().works.len(), Work::ALL.len());
    }

    #[test]
    fn both_modes_may_be_measured() {
        assert_eq!(options("d").unwrap().direct, [true]);
        assert_eq!(options("d --buffered").unwrap().direct, [false]);
        assert_eq!(options("d --buffered --direct").unwrap().direct, [true, false]);
    }

    #[test]
    fn the_help_names_every_workload() {
        let help = options("--help").unwrap_err();
        assert!(Work::ALL.iter().all(|(_, name, what)| help.contains(name) && help.contains(what)));
    }
}
