//! What does the `-o` dialect of QEMU's old daemon mean?
//!
//! It is merged into the separate options and wins over them, wherever it stands, as in virtiofsd. Values are
//! split at every comma and `=`, so a value cannot contain either. Beyond virtiofsd, `flock` and
//! `posix_lock`, which older libvirt sends, are served and not refused.

use super::args::CommandLine;
use super::options::{Cache, LogLevel, Negotiation, SandboxMode};
use super::values;

/// Merges all `-o` lists into `line`.
///
/// The error is one line that names the argument.
pub(super) fn apply(line: &mut CommandLine) -> Result<(), String> {
    for list in std::mem::take(&mut line.compat.compat_options) {
        for option in list.split(',') {
            match option.split_once('=') {
                Some((name, value)) if !value.contains('=') => apply_value(line, name, value)?,
                Some(_) => return Err(invalid_argument(option)),
                None => apply_flag(line, option)?,
            }
        }
    }
    Ok(())
}

fn invalid_argument(option: &str) -> String {
    format!("Invalid compat argument '-o {option}'")
}

fn apply_value(line: &mut CommandLine, name: &str, value: &str) -> Result<(), String> {
    let invalid_value = || format!("Invalid compat value '{value}' for '-o {name}'");
    match name {
        "source" => line.share.shared_dir = Some(value.into()),
        "cache" => {
            line.caching.cache = match value {
                "auto" => Cache::Auto,
                "always" => Cache::Always,
                "none" => Cache::Never,
                "metadata" => Cache::Metadata,
                _ => return Err(invalid_value()),
            }
        }
        "loglevel" => {
            line.logging.log_level = match value {
                "debug" => LogLevel::Debug,
                "info" => LogLevel::Info,
                "warn" => LogLevel::Warn,
                "err" => LogLevel::Error,
                _ => return Err(invalid_value()),
            }
        }
        "sandbox" => {
            line.sandbox.sandbox = match value {
                "namespace" => SandboxMode::Namespace,
                "chroot" => SandboxMode::Chroot,
                _ => return Err(invalid_value()),
            }
        }
        "modcaps" => {
            let changes =
                values::modcaps(value).map_err(|reason| format!("{}: {reason}", invalid_value()))?;
            line.sandbox.modcaps = Some(changes);
        }
        "xattrmap" => {
            let map = value.parse().map_err(|reason| format!("{}: {reason}", invalid_value()))?;
            line.attributes.xattrmap = Some(map);
        }
        _ => return Err(invalid_argument(&format!("{name}={value}"))),
    }
    Ok(())
}

fn apply_flag(line: &mut CommandLine, option: &str) -> Result<(), String> {
    let (on, name) = match option.strip_prefix("no_") {
        Some(name) => (false, name),
        None => (true, option),
    };
    let negotiation = if on { Negotiation::Always } else { Negotiation::Never };
    match name {
        "xattr" => line.attributes.xattr = on,
        "readdirplus" => line.caching.no_readdirplus = !on,
        "writeback" => line.caching.writeback = on,
        "allow_direct_io" => line.performance.allow_direct_io = on,
        "killpriv_v2" => {
            line.attributes.killpriv_v2 = on;
            line.attributes.no_killpriv_v2 = !on;
        }
        "posix_acl" => line.attributes.posix_acl = negotiation,
        "security_label" => line.attributes.security_label = negotiation,
        "posix_lock" => line.share.posix_lock = on,
        "flock" => line.share.flock = on,
        // There is no `no_announce_submounts` in this dialect.
        "announce_submounts" if on => line.share.no_announce_submounts = false,
        _ => return Err(invalid_argument(option)),
    }
    Ok(())
}
