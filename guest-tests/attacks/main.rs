//! What does a daemon do when its guest is an enemy?
//!
//! Starts a daemon for each case, lets a synthetic front-end and guest do something hostile, and looks at what is left: is a
//! good client still served, has nothing leaked, and is everything beside the share as it was? See README.md beside this file.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod canary;
mod cases;
#[path = "../../tests/frontend/mod.rs"]
mod frontend;
mod report;
mod target;
mod verdict;

use std::process::ExitCode;

use cases::Case;
use report::Table;
use target::Target;
use verdict::Verdict;

const USAGE: &str = "\
attacks [--daemon extentfsd|PATH]... [--case WORD]... [--json FILE] [--markdown FILE] [--list]

Attacks daemons with virtiofsd's command line and prints what became of each. Without --daemon: extentfsd, in every
sandbox mode that this user can have, as root also as a user without privileges.
";

struct Options {
    daemons: Vec<String>,
    cases: Vec<String>,
    json: Option<String>,
    markdown: Option<String>,
    list: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options { daemons: vec![], cases: vec![], json: None, markdown: None, list: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--daemon" => options.daemons.push(value()?),
            "--case" => options.cases.push(value()?),
            "--json" => options.json = Some(value()?),
            "--markdown" => options.markdown = Some(value()?),
            "--list" => options.list = true,
            // What `cargo test` says to programs without a harness of its own.
            "--nocapture" | "--quiet" | "-q" => {}
            _ if !word.starts_with('-') => options.cases.push(word),
            _ => return Err(format!("what is {word}?\n\n{USAGE}")),
        }
    }
    if options.daemons.is_empty() {
        options.daemons.push("extentfsd".to_owned());
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("attacks: {message}");
            return ExitCode::from(2);
        }
    };
    let wanted = |case: &Case| {
        options.cases.is_empty() || options.cases.iter().any(|word| case.name.contains(word.as_str()))
    };
    let cases: Vec<Case> = cases::all().into_iter().filter(wanted).collect();
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    // What goes wrong inside a case is the verdict on it, and no news on the terminal.
    std::panic::set_hook(Box::new(|_| {}));
    let targets: Vec<Target> = options.daemons.iter().flat_map(|daemon| Target::all(daemon)).collect();
    let mut table = Table::new(&targets);
    for case in &cases {
        // Side by side: they wait most of the time.
        let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
            let attacks: Vec<_> = targets.iter().map(|target| scope.spawn(|| target.attack(case))).collect();
            attacks.into_iter().map(|attack| attack.join().expect("a verdict")).collect()
        });
        table.add(case.name.clone(), verdicts);
        println!("{}", table.last());
    }
    println!("\n{}", table.summary());
    for (path, text) in [(&options.json, table.json()), (&options.markdown, table.markdown())] {
        if let Some(path) = path
            && let Err(error) = std::fs::write(path, text)
        {
            eprintln!("attacks: {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    // A peer's defects are worth a table; only ours are failures.
    if table.ours_are_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
