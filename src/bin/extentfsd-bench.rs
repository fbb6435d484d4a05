//! The `extentfsd-bench` program: parses the command line, measures, prints the result.

use std::io::Write;
use std::process::ExitCode;

use extentfsd::bench;
use extentfsd::cli::{ParseExit, Stream};

fn main() -> ExitCode {
    match bench::parse(std::env::args_os()) {
        Ok(options) => match bench::run(&options) {
            Ok(text) => print(&text),
            Err(error) => fail(&error),
        },
        Err(ParseExit { text, stream: Stream::Out, .. }) => print(&text),
        Err(ParseExit { text, stream: Stream::Err, code }) => {
            eprint!("{text}");
            ExitCode::from(code)
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) is no reason to panic, as `print!` would.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line, whatever the error quotes.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    let line = error.to_string().replace(char::is_control, " ");
    eprintln!("extentfsd-bench: {line}");
    ExitCode::FAILURE
}
