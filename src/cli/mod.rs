//! What did the operator ask for?
//!
//! | file | its question |
//! |---|---|
//! | `args` | how does the command line look? |
//! | `values` | how is one value written? |
//! | `compat` | what does the `-o` dialect mean? |
//! | `resolve` | what do the answers mean together? |
//! | `unavailable` | which options have no feature behind them yet? |
//! | `options` | the result, as plain data |
//! | `capabilities`, `attach` | what `--print-capabilities` and `attach-args` print |

mod args;
mod attach;
mod capabilities;
mod compat;
mod options;
mod resolve;
mod unavailable;
mod values;

use std::ffi::OsString;
use std::fmt::Display;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};

use args::CommandLine;
use attach::AttachCommand;
pub use attach::{AttachArgs, Vmm};
pub use capabilities::CAPABILITIES;
pub use options::{
    Cache, Device, Direct, Engine, ExtentDevice, ExtentDialect, ExtentSource, GuestLimits, IdMap,
    InodeFileHandles, Landlock, Limits, Listen, Log, LogLevel, ModCaps, Negotiation, Nofile, Note, Options,
    Rings, Sandbox, SandboxMode, Seccomp, Share, Socket, Timeouts, Window,
};
pub(crate) use values::size;

/// The first argument that asks for lines instead of a daemon.
const ATTACH_ARGS: &str = "attach-args";

/// What the program is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve a share.
    Serve(Box<Options>),
    /// Print [`CAPABILITIES`].
    PrintCapabilities,
    /// Print what [`AttachArgs::render`] returns.
    AttachArgs(AttachArgs),
}

/// Nothing to do but to print a text and end: help, the version, or what is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseExit {
    /// What to print, with its final newline. An error is one line after the program's name, which names the
    /// option.
    pub text: String,
    /// Where to print it.
    pub stream: Stream,
    /// 0 for help that was asked for, 1 for something this version cannot do, 2 for a wrong command line.
    pub code: u8,
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output: help that was asked for.
    Out,
    /// Standard error: errors, and help that was not asked for.
    Err,
}

impl ParseExit {
    /// The command line is wrong.
    fn usage(text: impl Display) -> Self {
        Self::error(&text, 2)
    }

    /// The command line is understood and cannot be done.
    fn failure(text: impl Display) -> Self {
        Self::error(&text, 1)
    }

    fn error(text: &dyn Display, code: u8) -> Self {
        // The text quotes the command line, which may contain anything, and still is one line.
        let line = text.to_string().replace(char::is_control, " ");
        Self { text: format!("extentfsd: {line}\n"), stream: Stream::Err, code }
    }
}

/// Reads a command line, the program's name first.
///
/// # Errors
///
/// [`ParseExit`] for everything that ends the program here, which includes help and the version.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, ParseExit> {
    let args: Vec<OsString> = args.into_iter().collect();
    // Not a subcommand in the parser's eyes, which would then take any stray word for an attempt at one.
    if args.get(1).is_some_and(|first| first == ATTACH_ARGS) {
        let command = AttachCommand::try_parse_from(args.into_iter().skip(1)).map_err(wrong)?;
        return command.check().map(Command::AttachArgs).map_err(ParseExit::usage);
    }
    let matches = CommandLine::command().try_get_matches_from(args).map_err(wrong)?;
    let line = CommandLine::from_arg_matches(&matches).map_err(wrong)?;
    if line.compat.print_capabilities {
        return Ok(Command::PrintCapabilities);
    }
    let file_handles = matches.get_raw("inode_file_handles").and_then(|mut values| values.next()?.to_str());
    resolve::resolve(line, file_handles).map(|options| Command::Serve(Box::new(options)))
}

fn wrong(error: clap::Error) -> ParseExit {
    explain(error, |what| ParseExit::usage(format!("{what} (see --help)")))
}

/// Makes one line of the parser's error, which has several paragraphs (what is wrong, tips, usage), and `usage` makes
/// the end of the program of it. Help and version are what they are.
pub(crate) fn explain(error: clap::Error, usage: impl FnOnce(String) -> ParseExit) -> ParseExit {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            ParseExit { text, stream: Stream::Out, code: 0 }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            ParseExit { text, stream: Stream::Err, code: 2 }
        }
        _ => {
            let wrong = text.split("\n\n").next().unwrap_or(&text);
            let words: Vec<&str> = wrong.lines().map(str::trim).collect();
            let line = words.join(" ");
            usage(line.strip_prefix("error: ").unwrap_or(&line).to_owned())
        }
    }
}
