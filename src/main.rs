//! The `extentfsd` program: parses the command line, runs the daemon, reports how it ended.

use std::io::Write;
use std::process::ExitCode;

use extentfsd::cli::{Command, Options, ParseExit, Stream};
use extentfsd::{cli, daemon};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Command::Serve(options)) => serve(&options).unwrap_or_else(|error| fail(&error)),
        Ok(Command::PrintCapabilities) => print(cli::CAPABILITIES),
        Ok(Command::AttachArgs(attach)) => print(&attach.render()),
        Err(ParseExit { text, stream: Stream::Out, .. }) => print(&text),
        Err(ParseExit { text, stream: Stream::Err, code }) => {
            eprint!("{text}");
            ExitCode::from(code)
        }
    }
}

fn serve(options: &Options) -> anyhow::Result<ExitCode> {
    Ok(daemon::run(options)?.into())
}

/// Writes to standard output. A reader that went away (`| head`) is no reason to panic, as `print!` would.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&anyhow::Error::new(error).context("writing to standard output")),
    }
}

/// One line: the error and its causes. Paths in it may hold what moves a terminal's cursor.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("extentfsd: {}", format!("{error:#}").replace(char::is_control, " "));
    ExitCode::FAILURE
}
