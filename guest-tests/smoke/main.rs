//! `guest-smoke`: the program that the suites run inside a guest. It talks to the share by system calls.
//!
//! `guest-smoke checks` does every file operation at least once; the other commands make the load and the data that the
//! suites (`guest-tests/suites`) need and a shell cannot make fast enough or not at all.

mod acl;
mod attributes;
mod check;
mod content;
mod credentials;
mod crowd;
mod directories;
mod exercise;
mod lifetimes;
mod locks;
mod mapping;
mod names;
mod races;
mod readonly;
mod smallfiles;
mod space;
mod storm;
mod sys;
mod tree;
mod writers;
mod xattrs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use check::Check;

/// The families of checks. The last two need options of the daemon and run only when named.
const FAMILIES: &[(&str, &[Check])] = &[
    ("names", names::CHECKS),
    ("content", content::CHECKS),
    ("attributes", attributes::CHECKS),
    ("credentials", credentials::CHECKS),
    ("xattrs", xattrs::CHECKS),
    ("space", space::CHECKS),
    ("mapping", mapping::CHECKS),
    ("directories", directories::CHECKS),
    ("lifetimes", lifetimes::CHECKS),
    ("locks", locks::CHECKS),
    ("acl", acl::CHECKS),
];

/// Families that are left out unless they are named.
const ON_REQUEST: &[&str] = &["acl"];

#[derive(Parser)]
#[command(version, about = "Exercises a mounted share from inside a guest")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the checks below the current directory; SUITE_LACKS names those that cannot pass with the host file system or the ids of the share
    Checks {
        /// Families or single checks; all that need no special option of the daemon if none is given
        names: Vec<String>,
    },
    /// Check that a read-only share refuses every change; the current directory holds what `readonly.prepare` made
    Readonly,
    /// Compare random operations on one file with a copy in memory
    Exercise(exercise::Options),
    /// Change one small directory tree from many processes, then check that it is consistent
    Storm(storm::Options),
    /// Write the files of a large tree
    Tree(tree::Options),
    /// Create, open or look up very many files
    Crowd(crowd::Options),
    /// Do one thing with many small files from several processes, and print how long it took
    Smallfiles(smallfiles::Options),
    /// Write one file from several processes, in the way named
    Writers(writers::Options),
    /// Overwrite files with O_DIRECT from several processes, while others truncate, punch, exchange and replace them
    Races(races::Options),
    /// Part of a check: add to a mapped counter
    #[command(hide = true)]
    Increment {
        /// The file that holds the counter
        file: PathBuf,
    },
    /// Part of a check: hold a lock
    #[command(hide = true)]
    HoldLock {
        /// "record" or "flock"
        kind: String,
        /// The file to lock
        file: PathBuf,
        /// For how long
        milliseconds: u64,
    },
}

fn checks(names: &[String]) -> anyhow::Result<usize> {
    let wanted = |family: &str, check: &str| {
        let named = |name: &String| name == family || name == check;
        if names.is_empty() { !ON_REQUEST.contains(&family) } else { names.iter().any(named) }
    };
    let all = FAMILIES.iter().flat_map(|(family, checks)| checks.iter().map(move |check| (*family, check)));
    let selected: Vec<_> =
        all.filter(|(family, check)| wanted(family, check.name)).map(|(_, check)| check).collect();
    anyhow::ensure!(!selected.is_empty(), "no check has one of these names: {names:?}");
    let lacking = std::env::var("SUITE_LACKS").unwrap_or_default();
    let lacking: Vec<_> = lacking.split_whitespace().collect();
    let base = std::env::current_dir().context("current directory")?;
    check::run_all(&base, &selected, &lacking).with_context(|| format!("checks below {}", base.display()))
}

fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Checks { names } => Ok(checks(&names)? == 0),
        Command::Readonly => Ok(readonly::run(&std::env::current_dir()?)? == 0),
        Command::Exercise(options) => exercise::run(&options).map(|()| true),
        Command::Storm(options) => storm::run(&options),
        Command::Tree(options) => tree::run(&options).map(|()| true),
        Command::Crowd(options) => crowd::run(&options).map(|()| true),
        Command::Smallfiles(options) => smallfiles::run(&options).map(|()| true),
        Command::Writers(options) => writers::run(&options).map(|()| true),
        Command::Races(options) => races::run(&options).map(|()| true),
        Command::Increment { file } => Ok(mapping::increment(&file).map(|()| true)?),
        Command::HoldLock { kind, file, milliseconds } => {
            Ok(locks::hold(&kind, &file, milliseconds).map(|()| true)?)
        }
    }
}

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest-smoke: {error:#}");
            ExitCode::FAILURE
        }
    }
}
