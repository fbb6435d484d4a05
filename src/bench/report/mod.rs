//! How is the result told? As a table for a terminal, and as JSON, Markdown or a picture in files.

mod markdown;
mod svg;
mod table;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::Error;
use super::options::{Limit, Options};
use super::plan::Case;
use super::stats::{Round, Spread};

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Grows when a field changes its meaning.
    format: u32,
    program: String,
    kernel: String,
    cpus: usize,
    settings: Settings,
    contenders: Vec<Named>,
    cases: Vec<CaseReport>,
}

#[derive(Debug, Serialize)]
struct Settings {
    queues: u16,
    depth: u16,
    queue_size: u16,
    segment: u32,
    file_size: u64,
    files: u32,
    rounds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<u64>,
    warmup_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Named {
    label: String,
    /// None for the host itself.
    command: Option<String>,
}

#[derive(Debug, Serialize)]
struct CaseReport {
    name: String,
    work: String,
    direct: bool,
    block_size: u32,
    results: Vec<Summary>,
    comparisons: Vec<Comparison>,
}

/// What the rounds of a contender say together.
#[derive(Debug, Serialize)]
struct Summary {
    label: String,
    ops_per_second: Spread,
    mib_per_second: Spread,
    p50_us: Spread,
    p99_us: Spread,
    p999_us: Spread,
    cpu_us_per_op: Spread,
    switches_per_op: Spread,
    /// None where they could not be counted.
    syscalls_per_op: Option<f64>,
    peak_rss_kib: u64,
    driver_cpu_us_per_op: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_disturbed_to_quiet: Option<Spread>,
    rounds: Vec<Round>,
}

/// A contender's ratio to the first one.
#[derive(Debug, Serialize)]
struct Comparison {
    label: String,
    to: String,
    ops_per_second: Spread,
    p99_us: Spread,
    /// None beside the host, which spends the checker's time too.
    cpu_us_per_op: Option<Spread>,
}

/// The rounds of a case.
pub(super) struct CaseResult {
    pub(super) case: Case,
    pub(super) contenders: Vec<ContenderResult>,
}

/// The rounds of a contender; none where it cannot do the workload.
pub(super) struct ContenderResult {
    pub(super) label: String,
    pub(super) rounds: Vec<Round>,
    pub(super) syscalls_per_op: Option<f64>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.work.name())?;
        if self.work.uses_data() {
            let mode = if self.direct { "direct" } else { "buffered" };
            write!(f, " {} {mode}", bytes(self.block.into()))?;
        }
        Ok(())
    }
}

/// A number of bytes as the command line takes it.
fn bytes(count: u64) -> String {
    for (unit, letter) in [(1 << 30, 'G'), (1 << 20, 'M'), (1 << 10, 'K')] {
        if count >= unit && count.is_multiple_of(unit) {
            return format!("{}{letter}", count / unit);
        }
    }
    count.to_string()
}

impl Summary {
    fn new(result: ContenderResult) -> Option<Self> {
        let ContenderResult { label, rounds, syscalls_per_op } = result;
        let over = |figure: fn(&Round) -> f64| Spread::over(&rounds, figure);
        Some(Self {
            label,
            ops_per_second: over(|round| round.ops_per_second)?,
            mib_per_second: over(|round| round.mib_per_second)?,
            p50_us: over(|round| round.p50_us)?,
            p99_us: over(|round| round.p99_us)?,
            p999_us: over(|round| round.p999_us)?,
            cpu_us_per_op: over(|round| round.cpu_us_per_op)?,
            switches_per_op: over(|round| {
                round.voluntary_switches_per_op + round.involuntary_switches_per_op
            })?,
            syscalls_per_op,
            peak_rss_kib: rounds.iter().map(|round| round.peak_rss_kib).max()?,
            driver_cpu_us_per_op: over(|round| round.driver_cpu_us_per_op)?,
            p99_disturbed_to_quiet: Spread::of(
                rounds.iter().filter_map(|round| round.p99_disturbed_to_quiet),
            ),
            rounds,
        })
    }

    fn is_host(&self, contenders: &[Named]) -> bool {
        contenders.iter().any(|known| known.label == self.label && known.command.is_none())
    }
}

impl Report {
    /// Sums the rounds up.
    pub(super) fn new(options: &Options, cases: Vec<CaseResult>) -> Self {
        let contenders: Vec<Named> = options
            .contenders
            .iter()
            .map(|contender| Named {
                label: contender.label.clone(),
                command: (!contender.is_host()).then(|| contender.command.join(" ")),
            })
            .collect();
        let cases = cases.into_iter().map(|result| CaseReport::new(result, &contenders)).collect();
        let (seconds, ops) = match options.limit {
            Limit::Time(time) => (Some(time.as_secs_f64()), None),
            Limit::Ops(ops) => (None, Some(ops)),
        };
        Self {
            format: 1,
            program: format!("extentfsd-bench {}", env!("CARGO_PKG_VERSION")),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            settings: Settings {
                queues: options.queues,
                depth: options.depth,
                queue_size: options.queue_size,
                segment: options.segment,
                file_size: options.file_size,
                files: options.files,
                rounds: options.rounds,
                seconds,
                ops,
                warmup_seconds: options.warmup.as_secs_f64(),
            },
            contenders,
            cases,
        }
    }

    /// One line: how it was measured.
    fn conditions(&self) -> String {
        let Settings { queues, depth, rounds, seconds, ops, file_size, files, .. } = &self.settings;
        let length = match (seconds, ops) {
            (Some(seconds), _) => format!("{seconds} s"),
            (None, ops) => format!("{} operations", ops.unwrap_or_default()),
        };
        format!(
            "queues {queues}, depth {depth}, {rounds} rounds of {length}, file of {}, {files} files; {} CPUs, Linux {}; {}",
            bytes(*file_size),
            self.cpus,
            self.kernel,
            self.program,
        )
    }

    /// Writes the files that are asked for.
    pub(super) fn write_files(&self, options: &Options) -> Result<(), Error> {
        let write =
            |path: &Path, text: String| std::fs::write(path, text).map_err(Error::file("writing", path));
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(self)
                .map_err(|error| Error::file("writing", path)(error.into()))?;
            write(path, text + "\n")?;
        }
        if let Some(path) = &options.markdown {
            write(path, self.markdown())?;
        }
        if let Some(path) = &options.svg {
            write(path, self.svg())?;
        }
        Ok(())
    }
}

impl CaseReport {
    fn new(result: CaseResult, named: &[Named]) -> Self {
        let CaseResult { case, contenders } = result;
        let results: Vec<Summary> = contenders.into_iter().filter_map(Summary::new).collect();
        let comparisons = results.split_first().map_or_else(Vec::new, |(base, others)| {
            // Only with the first contender of the run, which may not be able to do this.
            let first = named.first().is_some_and(|first| first.label == base.label);
            others.iter().filter(|_| first).filter_map(|other| Comparison::new(other, base, named)).collect()
        });
        Self {
            name: case.to_string(),
            work: case.work.name().to_owned(),
            direct: case.direct,
            block_size: case.block,
            results,
            comparisons,
        }
    }
}

impl Comparison {
    fn new(other: &Summary, base: &Summary, named: &[Named]) -> Option<Self> {
        let ratio = |figure: fn(&Round) -> f64| Spread::ratio(&other.rounds, &base.rounds, figure);
        let host = other.is_host(named) || base.is_host(named);
        Some(Self {
            label: other.label.clone(),
            to: base.label.clone(),
            ops_per_second: ratio(|round| round.ops_per_second)?,
            p99_us: ratio(|round| round.p99_us)?,
            cpu_us_per_op: ratio(|round| round.cpu_us_per_op).filter(|_| !host),
        })
    }
}

/// A table: the words of the head, and of each row.
type Rows = (Vec<&'static str>, Vec<Vec<String>>);

impl Report {
    /// What both kinds of tables show of each contender and case.
    fn figures(&self) -> Rows {
        let head = vec![
            "workload",
            "daemon",
            "op/s",
            "min..max",
            "MiB/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "CPU us/op",
            "syscalls/op",
            "switches/op",
            "peak MiB",
        ];
        let mut rows = Vec::new();
        for case in &self.cases {
            for result in &case.results {
                let host = result.is_host(&self.contenders);
                let daemon = |text: String| if host { "-".to_owned() } else { text };
                let Spread { median, min, max } = result.ops_per_second;
                let moved = result.mib_per_second.median;
                rows.push(vec![
                    case.name.clone(),
                    result.label.clone(),
                    format!("{median:.0}"),
                    format!("{min:.0}..{max:.0}"),
                    if moved > 0.0 { format!("{moved:.0}") } else { "-".to_owned() },
                    format!("{:.1}", result.p50_us.median),
                    format!("{:.1}", result.p99_us.median),
                    format!("{:.1}", result.p999_us.median),
                    daemon(format!("{:.2}", result.cpu_us_per_op.median)),
                    result.syscalls_per_op.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}")),
                    daemon(format!("{:.3}", result.switches_per_op.median)),
                    daemon(format!("{}", result.peak_rss_kib.div_ceil(1024))),
                ]);
            }
        }
        (head, rows)
    }

    /// Ratios to the first contender; nothing to show where there is only one.
    fn ratios(&self) -> Rows {
        let head = vec!["workload", "ratio", "op/s", "min..max", "p99", "min..max", "CPU/op", "min..max"];
        let mut rows = Vec::new();
        for case in &self.cases {
            for Comparison { label, to, ops_per_second, p99_us, cpu_us_per_op } in &case.comparisons {
                let mut row = vec![case.name.clone(), format!("{label} / {to}")];
                for spread in [Some(*ops_per_second), Some(*p99_us), *cpu_us_per_op] {
                    row.extend(spread.map_or_else(
                        || ["-".to_owned(), "-".to_owned()],
                        |Spread { median, min, max }| [format!("{median:.2}"), format!("{min:.2}..{max:.2}")],
                    ));
                }
                rows.push(row);
            }
        }
        (head, rows)
    }

    /// How much longer small reads take beside something slow, where that was measured.
    fn stalls(&self) -> Rows {
        let head = vec!["workload", "daemon", "p99 quiet us", "p99 disturbed us", "ratio", "min..max"];
        let mut rows = Vec::new();
        for case in &self.cases {
            for result in &case.results {
                let Some(Spread { median, min, max }) = result.p99_disturbed_to_quiet else { continue };
                let quiet = Spread::of(result.rounds.iter().filter_map(|round| round.quiet_p99_us));
                rows.push(vec![
                    case.name.clone(),
                    result.label.clone(),
                    quiet.map_or_else(|| "-".to_owned(), |quiet| format!("{:.1}", quiet.median)),
                    format!("{:.1}", result.p99_us.median),
                    format!("{median:.2}"),
                    format!("{min:.2}..{max:.2}"),
                ]);
            }
        }
        (head, rows)
    }
}
