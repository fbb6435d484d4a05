//! How fast is a daemon, and what does it cost?
//!
//! `extentfsd-bench` starts a daemon on a share of its own, drives it through [`frontend`](crate::frontend) without any
//! virtual machine, checks every byte it gets and put there, and says how many operations went through, how long each
//! took, and what the daemon spent on it. Several daemons are measured in turn, round by round, so that whatever else
//! the machine does hits all of them alike.
//!
//! | file | its question |
//! |---|---|
//! | `args`, `values`, `options` | what is to be measured? |
//! | `launch` | how does a daemon start and end? |
//! | `account`, `syscalls`, `sys` | what did its processes spend? |
//! | `session` | how is it connected and mounted? |
//! | `drive` | how are requests kept in flight and counted? |
//! | `work` | which requests are they? one file per family |
//! | `pattern`, `content` | how is data recognised, and which data is due? |
//! | `host` | what does the host do with the same I/O and no daemon? |
//! | `plan` | in which order is it all done? |
//! | `stats` | what do several rounds say together? |
//! | `report`, `progress` | how is it told? |

mod account;
mod args;
mod content;
mod drive;
mod host;
mod launch;
mod options;
mod pattern;
mod plan;
mod progress;
mod random;
mod report;
mod session;
mod stats;
mod sys;
mod syscalls;
mod values;
mod work;

pub use args::parse;
pub use options::{Contender, Limit, Options, Verify};
pub use plan::run;
pub use work::Work;

/// Why a measurement cannot be made, or must not be believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of this program.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The daemon did not start, or went away.
    #[error("{command}: {what}")]
    Daemon {
        /// Its label.
        command: String,
        /// What it did, with the last line it said.
        what: String,
    },
    /// The daemon's answers are not to be had or not to be believed.
    #[error(transparent)]
    Frontend(#[from] crate::frontend::Error),
    /// Data is not what was written.
    #[error("wrong data: {0}")]
    Corrupt(String),
    /// An answer that is well-formed and not true.
    #[error("wrong answer: {0}")]
    Untrue(String),
    /// An option asks for what this daemon or file system does not have.
    #[error("{option}: {what}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A system call of this program.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    fn file(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { what, path, source }
    }

    fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
