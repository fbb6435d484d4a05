//! Does each wall of the sandbox deny what it is there for?
//!
//! Every case is made twice: once with the wall, where the act must be denied, and once without, all other walls being the
//! same, where it must succeed. So no case can pass because something else stood in the way. Not run by the usual
//! harness, because a process confines itself only while it has a single thread ([`stage`]).
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod acts;
#[path = "../frontend/mod.rs"]
mod frontend;
mod handles;
mod host;
mod real;
mod rootless;
mod stage;

use std::process::ExitCode;

use extentfsd::sandbox::Role;
use stage::{ACT, Outcome, Stage, User};

/// No wall but the privileges that are always given up.
const OPEN: [&str; 3] = ["--sandbox=none", "--seccomp=none", "--landlock=none"];
const HANDLES: &str = "--inode-file-handles=prefer";
const NO_HANDLES: &str = "--inode-file-handles=never";

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("modes_hide_the_host", modes_hide_the_host),
    ("privileges_are_given_up", privileges_are_given_up),
    ("landlock_keeps_to_the_share", landlock_keeps_to_the_share),
    ("landlock_lets_nobody_out", landlock_lets_nobody_out),
    ("landlock_with_file_handles_guards_names", landlock_with_file_handles_guards_names),
    ("landlock_keeps_a_read_only_share", landlock_keeps_a_read_only_share),
    ("filters_stop_what_no_thread_needs", filters_stop_what_no_thread_needs),
    ("filters_do_what_they_are_told", filters_do_what_they_are_told),
    ("all_together_nothing_is_left", all_together_nothing_is_left),
    ("threads_of_a_daemon_have_their_filters", real::threads_of_a_daemon_have_their_filters),
    (
        "what_the_host_does_not_give_is_reported_or_fatal",
        real::what_the_host_does_not_give_is_reported_or_fatal,
    ),
    ("what_stands_is_said", real::what_stands_is_said),
    ("no_guest_makes_the_kernel_panic_by_a_warning", real::no_guest_makes_the_kernel_panic_by_a_warning),
    ("files_without_a_way_are_served", handles::files_without_a_way_are_served),
    ("ranges_of_ids_are_given_by_the_helpers", rootless::ranges_of_ids_are_given_by_the_helpers),
    ("ranges_that_a_user_was_not_given_are_refused", rootless::ranges_that_a_user_was_not_given_are_refused),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some(ACT.as_ref()) {
        return stage::perform(arguments);
    }
    let words: Vec<_> =
        first.into_iter().chain(arguments).filter_map(|word| word.into_string().ok()).collect();
    if words.iter().any(|word| word == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<_> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let mut failed = 0;
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            let good = std::panic::catch_unwind(test).is_ok();
            println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
            failed += usize::from(!good);
        }
    }
    ExitCode::from(u8::from(failed > 0))
}

/// The users that a daemon can be started by here.
fn users() -> &'static [User] {
    if rustix::process::geteuid().is_root() {
        return &[User::Root, User::Nobody];
    }
    eprintln!("partly skipped: a daemon of root needs root");
    // Whoever we are: the process does not change to somebody else then.
    &[User::Itself]
}

/// The values of `--sandbox` that a user can have.
fn modes(user: User) -> &'static [&'static str] {
    match user {
        User::Root => &["none", "chroot", "namespace"],
        User::Nobody | User::Itself => &["none", "namespace"],
    }
}

/// Each act is done without a wall and denied with it.
#[track_caller]
fn denied(stage: &Stage, user: User, role: Role, acts: &[&str], without: &[&str], with: &[&str]) {
    for act in acts {
        let what = format!("{user:?} {role:?} {act}");
        assert_eq!(stage.attempt(user, role, act, without), Outcome::Did, "{what} {without:?}");
        let outcome = stage.attempt(user, role, act, with);
        assert_ne!(outcome, Outcome::Did, "{what} {with:?}");
    }
}

fn modes_hide_the_host() {
    let stage = Stage::new();
    for &user in users() {
        for mode in modes(user).iter().filter(|mode| **mode != "none") {
            let with = [&format!("--sandbox={mode}"), OPEN[1], OPEN[2]];
            denied(&stage, user, Role::Main, &["open-absolute", "open-upwards"], &OPEN, &with);
            denied(&stage, user, Role::Ring, &["open-absolute"], &OPEN, &with);
            if *mode == "namespace" {
                let acts = ["signal", "connect-tcp", "connect-abstract"];
                denied(&stage, user, Role::Main, &acts, &OPEN, &with);
            }
        }
    }
}

fn privileges_are_given_up() {
    let stage = Stage::new();
    for &user in users() {
        for mode in modes(user) {
            // A user has no such privilege but in a namespace of his own.
            if user == User::Root || *mode == "namespace" {
                let with = [&format!("--sandbox={mode}"), OPEN[1], OPEN[2]];
                let without = [with[0], OPEN[1], OPEN[2], "--modcaps=+sys_admin"];
                denied(&stage, user, Role::Main, &["own-namespace", "copy-mounts"], &without, &with);
            }
        }
    }
}

fn landlock_keeps_to_the_share() {
    if !host::landlock_knows("files") {
        return;
    }
    let stage = Stage::new();
    let outside = [
        "open-by-descriptor",
        "list-by-descriptor",
        "ring-open",
        "write-outside",
        "create-outside",
        "mkdir-outside",
        "remove-outside",
    ];
    for &user in users() {
        for mode in modes(user) {
            let sandbox = format!("--sandbox={mode}");
            let without = [&sandbox, "--seccomp=none", "--landlock=none", NO_HANDLES];
            let with = [&sandbox, "--seccomp=none", "--landlock=auto", NO_HANDLES];
            denied(&stage, user, Role::Main, &outside, &without, &with);
            denied(&stage, user, Role::Ring, &outside[..1], &without, &with);
            // Across mounts nothing is moved anyway.
            if *mode != "namespace" {
                denied(&stage, user, Role::Main, &["move-out", "move-in"], &without, &with);
            }
            if *mode == "none" {
                denied(&stage, user, Role::Main, &["open-absolute", "open-upwards"], &without, &with);
            }
            for act in ["write-inside", "create-inside"] {
                assert_eq!(
                    stage.attempt(user, Role::Main, act, &with),
                    Outcome::Did,
                    "{user:?} {mode} {act}"
                );
            }
        }
    }
}

fn landlock_lets_nobody_out() {
    let stage = Stage::new();
    for &user in users() {
        for handles in [HANDLES, NO_HANDLES] {
            let without = ["--sandbox=none", "--seccomp=none", "--landlock=none", handles];
            let with = ["--sandbox=none", "--seccomp=none", "--landlock=auto", handles];
            let mut acts = vec!["execute", "signal", "connect-tcp", "connect-abstract"];
            acts.retain(|act| host::landlock_knows(act));
            denied(&stage, user, Role::Main, &acts, &without, &with);
        }
    }
}

fn landlock_with_file_handles_guards_names() {
    if !host::landlock_knows("files") {
        return;
    }
    let stage = Stage::new();
    for &user in users() {
        for mode in modes(user) {
            let sandbox = format!("--sandbox={mode}");
            let without = [&sandbox, "--seccomp=none", "--landlock=none", HANDLES];
            let with = [&sandbox, "--seccomp=none", "--landlock=auto", HANDLES];
            denied(
                &stage,
                user,
                Role::Main,
                &["create-outside", "mkdir-outside", "remove-outside"],
                &without,
                &with,
            );
            if *mode != "namespace" {
                denied(&stage, user, Role::Main, &["move-out", "move-in"], &without, &with);
            }
            for act in ["open-by-descriptor", "write-outside"] {
                if user == User::Root {
                    // What docs/security.md says is not guarded then.
                    assert_eq!(stage.attempt(user, Role::Main, act, &with), Outcome::Did, "{mode} {act}");
                } else {
                    // Nobody else is let open files by handle, so none are in use.
                    denied(&stage, user, Role::Main, &[act], &without, &with);
                }
            }
        }
    }
}

fn landlock_keeps_a_read_only_share() {
    if !host::landlock_knows("files") {
        return;
    }
    let stage = Stage::new();
    for &user in users() {
        for mode in modes(user) {
            for handles in [HANDLES, NO_HANDLES] {
                let sandbox = format!("--sandbox={mode}");
                let without = [&sandbox, "--seccomp=none", "--landlock=none", handles, "--readonly"];
                let with = [&sandbox, "--seccomp=none", "--landlock=auto", handles, "--readonly"];
                denied(&stage, user, Role::Main, &["write-inside", "create-inside"], &without, &with);
            }
        }
    }
}

/// Acts for which no thread has a reason.
const NEVER: [&str; 11] = [
    "socket",
    "fork",
    "personality",
    "read-memory",
    "executable-memory",
    "dumpable",
    "ioctl",
    "async-owner",
    "keyring",
    "signal",
    "execute",
];

fn filters_stop_what_no_thread_needs() {
    let stage = Stage::new();
    let user = users()[0];
    let [sandbox, no_filter, landlock] = OPEN;
    let (without, with) = ([sandbox, no_filter, landlock], [sandbox, "--seccomp=kill", landlock]);
    let roles = Role::ALL.into_iter().filter(|role| *role != Role::Supervisor);
    for role in roles {
        denied(&stage, user, role, &NEVER, &without, &with);
        if !matches!(role, Role::Main | Role::Window) {
            denied(&stage, user, role, &["ring-setup"], &without, &with);
        }
        if matches!(
            role,
            Role::Signals | Role::WindowRing | Role::WindowSlow | Role::Window | Role::Revocation
        ) {
            denied(&stage, user, role, &["open-absolute"], &without, &with);
        }
        if user == User::Root {
            let more = "--modcaps=+sys_admin:+sys_ptrace";
            let (without, with) =
                ([sandbox, no_filter, landlock, more], [sandbox, "--seccomp=kill", landlock, more]);
            denied(
                &stage,
                user,
                role,
                &["own-namespace", "copy-mounts", "bpf", "trace-other"],
                &without,
                &with,
            );
        }
    }
    for &user in users() {
        for mode in modes(user) {
            let sandbox = format!("--sandbox={mode}");
            let (without, with) = ([&sandbox, no_filter, landlock], [&sandbox, "--seccomp=kill", landlock]);
            denied(&stage, user, Role::Main, &["trace-me"], &without, &with);
            denied(&stage, user, Role::Ring, &["socket", "fork", "ring-setup"], &without, &with);
        }
    }
}

fn filters_do_what_they_are_told() {
    let stage = Stage::new();
    let user = users()[0];
    for (seccomp, outcome) in
        [("none", Outcome::Did), ("log", Outcome::Did), ("kill", Outcome::Killed), ("trap", Outcome::Killed)]
    {
        for mode in modes(user) {
            let options = [&format!("--sandbox={mode}"), &format!("--seccomp={seccomp}"), "--landlock=none"];
            for role in [Role::Main, Role::Ring] {
                assert_eq!(stage.attempt(user, role, "socket", &options), outcome, "{role:?} {options:?}");
            }
        }
    }
    // With the system log a socket is refused, so that syslog(3) goes on without.
    let options = ["--sandbox=none", "--landlock=none", "--syslog"];
    let outcome = stage.attempt(user, Role::Ring, "socket", &options);
    assert_eq!(outcome, Outcome::Refused(libc::ENOSYS), "{options:?}");
}

fn all_together_nothing_is_left() {
    // With --sandbox none and chroot, files outside are Landlock's alone to guard.
    if !host::landlock_knows("files") {
        return;
    }
    let stage = Stage::new();
    let harmless = ["write-inside", "create-inside", "ring-setup"];
    for &user in users() {
        for mode in modes(user) {
            let sandbox = format!("--sandbox={mode}");
            for (act, _) in acts::ACTS.iter().filter(|(act, _)| !harmless.contains(act)) {
                let mut options = vec![sandbox.as_str(), NO_HANDLES];
                options.extend(host::gives_all().then_some("--sandbox-required"));
                let outcome = stage.attempt(user, Role::Main, act, &options);
                assert_ne!(outcome, Outcome::Did, "{user:?} {mode} {act}");
            }
        }
    }
}
