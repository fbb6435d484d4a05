//! How many files may be open?

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::cli::Nofile;

/// As virtiofsd: enough for millions of inodes by handle, and not so many that the kernel's memory is at risk.
const DEFAULT: u64 = 1_000_000;

/// The kernel's own limit of `RLIMIT_NOFILE`, and its default.
const NR_OPEN: (&str, u64) = ("/proc/sys/fs/nr_open", 1_048_576);

/// Why the limit of open files does not do.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// Too few to serve anything.
    #[error(
        "--rlimit-nofile: maximum number of file descriptors too small: limit is {limit}, must be at least {least}"
    )]
    TooSmall {
        /// How many files may be open.
        limit: u64,
        /// How many are needed.
        least: u64,
    },
    /// The limit cannot be set.
    #[error("--rlimit-nofile: cannot set the limit of open files to {limit}")]
    Set {
        /// The limit that was tried.
        limit: u64,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
}

/// Sets the limit of open files, and returns it. `least` is what the daemon needs for itself.
///
/// A hard limit that is lower than what was asked for, and cannot be raised, is used instead, with a warning.
///
/// # Errors
///
/// [`LimitError`], above all if there would be fewer than `least`.
pub fn raise_nofile(asked: Nofile, least: u64) -> Result<u64, LimitError> {
    let now = getrlimit(Resource::Nofile);
    // "No limit" does not occur in practice: the kernel keeps this one at or below fs.nr_open.
    let hard = now.maximum.unwrap_or(u64::MAX);
    let limit = match target(asked, nr_open()) {
        None => now.current.unwrap_or(u64::MAX),
        Some(wanted) if wanted > hard && set(wanted, wanted).is_ok() => wanted,
        Some(wanted) => {
            if wanted > hard {
                warn!(
                    "Failure when trying to set the limit to {wanted}, the hard limit ({hard}) of open file \
                     descriptors is used instead"
                );
            }
            let limit = wanted.min(hard);
            set(limit, hard).map_err(|source| LimitError::Set { limit, source })?;
            limit
        }
    };
    check(limit, least)?;
    Ok(limit)
}

fn set(soft: u64, hard: u64) -> rustix::io::Result<()> {
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })
}

/// What to set the limit to; `None` leaves it.
fn target(asked: Nofile, nr_open: u64) -> Option<u64> {
    match asked {
        Nofile::Unchanged => None,
        Nofile::Default => Some(DEFAULT.min(nr_open)),
        Nofile::Limit(limit) => Some(limit),
    }
}

fn check(limit: u64, least: u64) -> Result<(), LimitError> {
    if limit < least { Err(LimitError::TooSmall { limit, least }) } else { Ok(()) }
}

fn nr_open() -> u64 {
    let (path, default) = NR_OPEN;
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_stays_below_the_kernels_limit() {
        assert_eq!(target(Nofile::Default, 1_048_576), Some(1_000_000));
        assert_eq!(target(Nofile::Default, 65_536), Some(65_536));
        assert_eq!(target(Nofile::Limit(7), 65_536), Some(7));
        assert_eq!(target(Nofile::Unchanged, 65_536), None);
    }

    #[test]
    fn the_least_is_enough() {
        assert!(check(610, 610).is_ok());
        let text = check(100, 610).unwrap_err().to_string();
        assert!(text.ends_with("limit is 100, must be at least 610"), "{text}");
    }
}
