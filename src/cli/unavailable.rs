//! Which options are understood but have no feature behind them yet, and what happens when they are given?
//!
//! Only options that can do no harm by their absence: they are accepted with a note. (One that guards something would have to
//! be refused.) A feature that arrives takes its row out of the table.

use super::args::CommandLine;
use super::options::{LogLevel, Note};
use super::values::{MigrationMode, MigrationOnError};

struct Unavailable {
    /// The option as the operator wrote it.
    option: &'static str,
    /// Whether the command line asks for the feature.
    asked: fn(&CommandLine) -> bool,
    /// What does not happen.
    consequence: &'static str,
}

const NO_MIGRATION: &str = "has no effect, because this version does not migrate";

const TABLE: &[Unavailable] = &[
    Unavailable {
        option: "--migration-mode",
        asked: |line| line.migration.migration_mode != MigrationMode::FindPaths,
        consequence: NO_MIGRATION,
    },
    Unavailable {
        option: "--migration-on-error",
        asked: |line| line.migration.migration_on_error != MigrationOnError::Abort,
        consequence: NO_MIGRATION,
    },
    Unavailable {
        option: "--migration-verify-handles",
        asked: |line| line.migration.migration_verify_handles,
        consequence: NO_MIGRATION,
    },
    Unavailable {
        option: "--migration-confirm-paths",
        asked: |line| line.migration.migration_confirm_paths,
        consequence: NO_MIGRATION,
    },
];

/// The notes to log about options without effect.
pub(super) fn notes(line: &CommandLine) -> impl Iterator<Item = Note> {
    let asked = TABLE.iter().filter(|row| (row.asked)(line));
    asked.map(|Unavailable { option, consequence, .. }| Note {
        level: LogLevel::Info,
        text: format!("{option} {consequence}"),
    })
}
