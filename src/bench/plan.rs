//! In which order is it all done?
//!
//! Case by case (a workload, direct or buffered); in each, first a round of counting system calls, then the measured
//! rounds: A, B, A, B and so on. Every round has a daemon of its own, which is started, mounted, driven, unmounted and
//! waited for, on the one share that all contenders use. After each round the host's side is checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::account::Usage;
use super::content::Content;
use super::drive::{self, Measured, Pace};
use super::options::{Contender, Limit, Options};
use super::progress::Reporter;
use super::report::{CaseResult, ContenderResult, Report};
use super::session::{Session, Shape};
use super::stats::Round;
use super::syscalls::Syscalls;
use super::work::{self, Assignment, DATA, MANY, OTHER, OTHER_SIZE, SCRATCH, Work};
use super::{Error, host, stats, sys};

/// Time of a round that only counts system calls.
const COUNTING: Duration = Duration::from_millis(500);

/// One row of the result: a workload in one way of doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) work: Work,
    pub(super) direct: bool,
    pub(super) block: u32,
}

/// Measures everything that is asked for. The result as text for a terminal; files are written on the way.
///
/// # Errors
/// A daemon failed, data was wrong, or an option cannot be met here. Everything that was started has ended then, and
/// every file is removed.
pub fn run(options: &Options) -> Result<String, Error> {
    sys::catch_signals();
    let place = Place::new(options)?;
    let cases = cases(options);
    let rounds = cases
        .iter()
        .flat_map(|case| options.contenders.iter().filter(|contender| can(contender, *case)))
        .map(|contender| u64::from(options.rounds) + u64::from(counts(options, contender)))
        .sum();
    let mut reporter = Reporter::new(rounds, options.quiet);
    let mut results = Vec::new();
    for case in cases {
        results.push(run_case(options, case, &place, &mut reporter)?);
    }
    drop(reporter);
    let report = Report::new(options, results);
    report.write_files(options)?;
    Ok(report.table())
}

fn cases(options: &Options) -> Vec<Case> {
    let mut cases = Vec::new();
    for &work in &options.works {
        let own = work.default_block().unwrap_or(0);
        let block = options.block_size.filter(|_| work.takes_block_size()).unwrap_or(own);
        // Without data there is nothing to be direct.
        let modes = if work.uses_data() { options.direct.as_slice() } else { &[false] };
        cases.extend(modes.iter().map(|&direct| Case { work, direct, block }));
    }
    cases
}

fn can(contender: &Contender, case: Case) -> bool {
    !contender.is_host() || case.work.host_can()
}

/// Whether system calls are counted: the host has no processes of its own.
fn counts(options: &Options, contender: &Contender) -> bool {
    options.syscalls && !contender.is_host()
}

fn run_case(
    options: &Options,
    case: Case,
    place: &Place,
    reporter: &mut Reporter,
) -> Result<CaseResult, Error> {
    let mut contenders: Vec<ContenderResult> = options
        .contenders
        .iter()
        .map(|contender| ContenderResult {
            label: contender.label.clone(),
            rounds: Vec::new(),
            syscalls_per_op: None,
        })
        .collect();
    // Round 0 counts system calls.
    for number in 0..=options.rounds {
        for (contender, result) in options.contenders.iter().zip(&mut contenders) {
            if !can(contender, case) || number == 0 && !counts(options, contender) {
                continue;
            }
            let what =
                format!("{} {} {}", case, contender.label, if number == 0 { "(counting)" } else { "" });
            let what = what.trim_end();
            reporter.begin(what);
            let runner = Runner { options, case, place, number, reporter: &*reporter };
            let said = if number == 0 {
                result.syscalls_per_op = runner.count(contender)?;
                result
                    .syscalls_per_op
                    .map_or("not available".to_owned(), |n| format!("{n:.2} system calls/op"))
            } else {
                let round = runner.round(contender)?;
                let said = format!("{:.0} op/s, p99 {:.0} us", round.ops_per_second, round.p99_us);
                result.rounds.push(round);
                said
            };
            reporter.end(what, &said);
        }
    }
    Ok(CaseResult { case, contenders })
}

/// Where the measurements happen.
struct Place {
    share: TempDir,
    /// For sockets and messages.
    scratch: TempDir,
    content: Option<Arc<Content>>,
    seed: u64,
}

impl Place {
    fn new(options: &Options) -> Result<Self, Error> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("extentfsd-bench-");
        let share = match &options.share {
            Some(directory) => builder.tempdir_in(directory).map_err(|source| Error::Option {
                option: "--share",
                what: format!("making a directory in {}: {source}", directory.display()),
            })?,
            None => builder.tempdir().map_err(Error::system("temporary directory"))?,
        };
        let scratch = builder.tempdir().map_err(Error::system("temporary directory"))?;
        // A sandboxed daemon may serve as somebody else.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(share.path(), open).map_err(Error::file("permissions of", share.path()))?;
        let seed = u64::from(std::process::id()) << 32
            ^ std::time::UNIX_EPOCH.elapsed().map_or(0, |time| u64::from(time.subsec_nanos()));
        let mut place = Self { share, scratch, content: None, seed };
        place.furnish(options)?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    /// Makes the files that the workloads need.
    fn furnish(&mut self, options: &Options) -> Result<(), Error> {
        for directory in [MANY, SCRATCH] {
            let path = self.path(directory);
            std::fs::create_dir(&path).map_err(Error::file("creating", &path))?;
        }
        let metadata = options.works.iter().any(|work| !work.uses_data() || *work == Work::Mixed);
        for number in 0..if metadata { options.files } else { 0 } {
            let path = self.path(MANY).join(work::host_name(b'f', number.into()));
            std::fs::File::create(&path).map_err(Error::file("creating", &path))?;
        }
        if options.works.iter().any(|work| work.uses_data()) {
            let content = Content::create(&self.path(DATA), options.file_size, self.seed)?;
            self.content = Some(Arc::new(content));
        }
        if options.works.iter().any(|work| work.is_stall()) {
            let path = self.path(OTHER);
            let chunk = vec![0x5a; 1 << 20];
            let file = std::fs::File::create(&path).map_err(Error::file("creating", &path))?;
            for _ in 0..OTHER_SIZE >> 20 {
                std::io::Write::write_all(&mut &file, &chunk).map_err(Error::file("writing", &path))?;
            }
            file.sync_all().map_err(Error::file("writing", &path))?;
        }
        Ok(())
    }

    /// Checks the host's side after a round.
    fn check(&self, case: Case) -> Result<(), Error> {
        if let Some(content) = self.content.as_ref().filter(|_| case.work.writes_data()) {
            content.check_host(&self.path(DATA))?;
        }
        let scratch = self.path(SCRATCH);
        let left = std::fs::read_dir(&scratch).map_err(Error::file("reading", &scratch))?.count();
        if left > 0 {
            return Err(Error::Untrue(format!("{left} names are left on the host after all were removed")));
        }
        Ok(())
    }
}

/// One round of one contender.
struct Runner<'a> {
    options: &'a Options,
    case: Case,
    place: &'a Place,
    number: u32,
    reporter: &'a Reporter,
}

impl Runner<'_> {
    fn round(&self, contender: &Contender) -> Result<Round, Error> {
        let pace = Pace {
            limit: self.options.limit,
            warmup: self.options.warmup,
            progress: &|part| self.reporter.part(part),
        };
        if contender.is_host() {
            let measured = host::measure(self.case.work, &self.assignments(false), pace)?;
            self.place.check(self.case)?;
            return Ok(Round::new(&measured));
        }
        self.with_session(contender, |session| {
            let quiet = if self.case.work.is_stall() {
                Some(Round::new(&self.measure(session, pace, false)?))
            } else {
                None
            };
            let round = Round::new(&self.measure(session, pace, true)?);
            Ok(match quiet {
                Some(quiet) => round.beside(&quiet),
                None => round,
            })
        })
    }

    /// System calls of one operation, where they can be counted.
    fn count(&self, contender: &Contender) -> Result<Option<f64>, Error> {
        let pace = Pace { limit: Limit::Time(COUNTING), warmup: Duration::ZERO, progress: &|_| {} };
        self.with_session(contender, |session| {
            let Some(mut syscalls) = Syscalls::start(&session.processes) else { return Ok(None) };
            let measured = self.measure(session, pace, true)?;
            Ok(syscalls.count().map(|count| stats::per_op(count, &measured)))
        })
    }

    fn with_session<T>(
        &self,
        contender: &Contender,
        work: impl FnOnce(&mut Session) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let payload = self.case.work.payload(self.case.block);
        let shape = Shape { depth: self.options.depth + u16::from(self.case.work.is_stall()), payload };
        let (share, scratch) = (self.place.share.path(), self.place.scratch.path());
        let mut session = Session::start(contender, self.options, shape, share, scratch)?;
        let largest = session.mount.max_read.min(session.mount.max_write);
        if self.case.work.uses_data() && payload > largest {
            let what = format!("{} takes requests of at most {largest} bytes", contender.label);
            return Err(Error::Option { option: "--block-size", what });
        }
        let result = work(&mut session).map_err(|error| session.explain(error))?;
        session.end()?;
        self.place.check(self.case)?;
        Ok(result)
    }

    fn measure(&self, session: &mut Session, pace: Pace<'_>, disturbed: bool) -> Result<Measured, Error> {
        let mut scripts: Vec<_> =
            self.assignments(disturbed).iter().map(|to| work::script(self.case.work, to)).collect();
        let Session { channels, watchdog, processes, .. } = session;
        drive::measure(channels, &mut scripts, self.options.depth, pace, watchdog, &|| Usage::of(processes))
    }

    fn assignments(&self, disturbed: bool) -> Vec<Assignment> {
        let Self { options, case, place, number, .. } = self;
        let share: Arc<Path> = place.share.path().into();
        (0..options.queues)
            .map(|thread| Assignment {
                thread,
                threads: options.queues,
                depth: options.depth,
                block: case.block,
                direct: case.direct,
                verify: options.verify,
                files: options.files,
                // The same for all contenders of a round.
                seed: place.seed ^ u64::from(*number),
                content: place.content.clone(),
                disturbed,
                share: Arc::clone(&share),
            })
            .collect()
    }
}
