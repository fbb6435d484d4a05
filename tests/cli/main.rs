//! Does the command line mean what launchers of virtiofsd 1.14 expect, and what does it say when it is wrong?
//!
//! This file has what the others share: the defaults, and the way from a line of words to options.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod dialects;
mod launchers;
mod meanings;
mod program;
mod refusals;

use std::ffi::OsString;
use std::time::Duration;

use extentfsd::cli::{
    self, Cache, Command, Device, Direct, Engine, ExtentDialect, GuestLimits, InodeFileHandles, Landlock,
    Limits, Listen, Log, LogLevel, ModCaps, Negotiation, Nofile, Options, ParseExit, Rings, Sandbox,
    SandboxMode, Seccomp, Share, Socket, Timeouts,
};
use extentfsd::identity::Translation;

/// What a line changes in the defaults.
pub(crate) type Change = fn(&mut Options);

/// The shortest line that serves.
pub(crate) const MINIMAL: &str = "--shared-dir /srv/share --socket-path share.sock";

pub(crate) fn parse(line: &str) -> Result<Command, ParseExit> {
    let words = ["extentfsd"].into_iter().chain(line.split_whitespace());
    cli::parse(words.map(OsString::from))
}

pub(crate) fn options(line: &str) -> Options {
    match parse(line) {
        Ok(Command::Serve(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

pub(crate) fn refusal(line: &str) -> ParseExit {
    match parse(line) {
        Err(exit) => exit,
        Ok(command) => panic!("{line}: {command:?}"),
    }
}

/// The notes of a line.
pub(crate) fn notes(line: &str) -> Vec<String> {
    options(line).notes.into_iter().map(|note| note.text).collect()
}

/// What virtiofsd does by default, and our own options at rest.
pub(crate) fn defaults() -> Options {
    let second = Duration::from_secs(1);
    Options {
        listen: Listen { socket: Socket::Path("share.sock".into()), group: None },
        share: Share {
            dir: "/srv/share".into(),
            readonly: false,
            cache: Cache::Auto,
            timeouts: Timeouts { attr: second, entry: second, negative: Duration::ZERO },
            direct: Direct::Auto,
            allow_direct_io: false,
            allow_mmap: false,
            writeback: false,
            readdirplus: true,
            xattr: false,
            posix_acl: Negotiation::Never,
            security_label: Negotiation::Never,
            xattrmap: None,
            translation: Translation::default(),
            killpriv_v2: false,
            announce_submounts: true,
            inode_file_handles: InodeFileHandles::Prefer,
            extent_dialect: ExtentDialect::Private,
            preserve_noatime: false,
            posix_lock: false,
            flock: false,
            max_write: 1 << 20,
            readahead: None,
        },
        sandbox: Sandbox {
            mode: SandboxMode::Namespace,
            required: false,
            seccomp: Seccomp::Kill,
            landlock: Landlock::Auto,
            modcaps: ModCaps::default(),
            uid_map: Vec::new(),
            gid_map: Vec::new(),
        },
        limits: Limits { nofile: Nofile::Default, thread_pool_size: 0 },
        guest_limits: GuestLimits {
            max_nodes: 16_000_000,
            max_handles: None,
            max_locks: 100_000,
            max_lock_waiters: 4096,
            max_allocate: 16 << 40,
            max_xattr: 64 << 10,
            max_window_files: 16_384,
            max_in_flight: 32_768,
            max_kept_bytes: 64 << 20,
        },
        rings: Rings { engine: Engine::Auto, affinity: vec![], poll: Duration::ZERO },
        log: Log { level: LogLevel::Info, syslog: false },
        device: Device { tag: None, queues: 64, keep_listening: false },
        window: None,
        extent_device: None,
        notes: Vec::new(),
    }
}

/// Checks that `line` gives the defaults but for what `change` does to them. Notes are not compared.
#[track_caller]
pub(crate) fn assert_means(line: &str, change: Change) {
    let mut expected = defaults();
    change(&mut expected);
    let mut found = options(line);
    found.notes.clear();
    assert_eq!(found, expected, "{line}");
}

pub(crate) fn timeouts(seconds: u64) -> Timeouts {
    let time = Duration::from_secs(seconds);
    Timeouts { attr: time, entry: time, negative: Duration::ZERO }
}
