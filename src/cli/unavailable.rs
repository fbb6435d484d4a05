//! Which options are understood but have no feature behind them yet, and what happens when they are given?
//!
//! An option that guards something is refused: a daemon that ignored it would expose what the
//! operator wanted hidden. One that can do no harm by its absence is accepted with a note. A feature that
//! arrives takes its row out of the table.

use super::args::CommandLine;
use super::options::{LogLevel, Note};
use super::values::{MigrationMode, MigrationOnError};

struct Unavailable {
    /// The option as the operator wrote it.
    option: &'static str,
    /// Whether the command line asks for the feature.
    asked: fn(&CommandLine) -> bool,
    response: Response,
}

enum Response {
    /// End with exit code 1; the text says what this version cannot do.
    Refuse(&'static str),
    /// Go on; the text says what does not happen.
    Inform(&'static str),
}

use Response::{Inform, Refuse};

const NO_MIGRATION: &str = "has no effect, because this version does not migrate";

const TABLE: &[Unavailable] = &[
    Unavailable {
        option: "--xattrmap",
        asked: |line| line.attributes.xattrmap.is_some(),
        response: Refuse("this version cannot translate names of extended attributes"),
    },
    Unavailable {
        option: "--translate-uid",
        asked: |line| !line.attributes.translate_uid.is_empty(),
        response: Refuse("this version cannot translate user ids"),
    },
    Unavailable {
        option: "--translate-gid",
        asked: |line| !line.attributes.translate_gid.is_empty(),
        response: Refuse("this version cannot translate group ids"),
    },
    Unavailable {
        option: "--migration-mode",
        asked: |line| line.migration.migration_mode != MigrationMode::FindPaths,
        response: Inform(NO_MIGRATION),
    },
    Unavailable {
        option: "--migration-on-error",
        asked: |line| line.migration.migration_on_error != MigrationOnError::Abort,
        response: Inform(NO_MIGRATION),
    },
    Unavailable {
        option: "--migration-verify-handles",
        asked: |line| line.migration.migration_verify_handles,
        response: Inform(NO_MIGRATION),
    },
    Unavailable {
        option: "--migration-confirm-paths",
        asked: |line| line.migration.migration_confirm_paths,
        response: Inform(NO_MIGRATION),
    },
];

/// The notes to log about options without effect, or the reason not to start: one line that names the
/// option.
pub(super) fn check(line: &CommandLine) -> Result<Vec<Note>, String> {
    let mut notes = Vec::new();
    for Unavailable { option, response, .. } in TABLE.iter().filter(|row| (row.asked)(line)) {
        match response {
            Refuse(reason) => return Err(format!("{option}: {reason}; start without the option")),
            Inform(reason) => notes.push(Note { level: LogLevel::Info, text: format!("{option} {reason}") }),
        }
    }
    Ok(notes)
}
