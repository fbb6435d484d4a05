//! How is a thread limited to the system calls of its role?
//!
//! Each thread gets the filter of its [`Role`] when it starts, and what it starts inherits it: a filter can be added to
//! and never be taken away. The main thread's is therefore all that the process may do, and holds from before the first
//! connection on; the others take more away. All threads share their memory, so whoever executes code of
//! his own in one of them can have another one act for him: what is certain is the main thread's list, and the
//! others make it harder to get there.

mod calls;

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;

use rustix::process::{Pid, getpid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::cli::Seccomp;
use calls::{Group, Test, groups};

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The parent outside: it waits, passes signals on, and removes the socket and the pid file.
    Supervisor,
    /// The main thread of the serving process: it speaks with the front-end and starts all others.
    Main,
    /// Waits for the signal that ends the process.
    Signals,
    /// Serves a virtqueue of the share.
    Ring,
    /// Serves requests of the share that may take long.
    Slow,
    /// Speaks with the window's front-end.
    Window,
    /// Serves a virtqueue of the window.
    WindowRing,
    /// Serves requests of the window that may take long.
    WindowSlow,
    /// Waits for the signal that takes back what was granted of the window.
    Revocation,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Supervisor,
        Self::Main,
        Self::Signals,
        Self::Ring,
        Self::Slow,
        Self::Window,
        Self::WindowRing,
        Self::WindowSlow,
        Self::Revocation,
    ];

    /// Limits the calling thread, and those that it starts from now on, to this role for ever. Nothing where the
    /// process has no filters ([`install`]).
    ///
    /// # Errors
    ///
    /// Why the kernel does not take the filter.
    pub fn enter(self) -> io::Result<()> {
        match FILTERS.get() {
            Some(filters) => filters.enter(self, None),
            None => Ok(()),
        }
    }
}

/// The filters of this process, once its main thread has its own.
static FILTERS: OnceLock<Filters> = OnceLock::new();

/// What filters are made of.
#[derive(Debug, Clone, Copy)]
struct Filters {
    /// What happens on a call that is not on the list.
    otherwise: Action,
    /// Whether messages go to the system log.
    syslog: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Trap,
    Log,
}

/// Limits the calling thread, the only one of its process, to a role, and has [`Role::enter`] limit those to come.
/// `child` is the process that a supervisor watches. Nothing for [`Seccomp::None`].
///
/// # Errors
///
/// Why the kernel does not take the filter: it is too old, or a filter that is there already forbids it.
pub(super) fn install(role: Role, seccomp: Seccomp, syslog: bool, child: Option<Pid>) -> io::Result<()> {
    let otherwise = match seccomp {
        Seccomp::None => return Ok(()),
        Seccomp::Kill => Action::Kill,
        Seccomp::Trap => Action::Trap,
        Seccomp::Log => Action::Log,
    };
    let filters = Filters { otherwise, syslog };
    filters.enter(role, child)?;
    // A second run in one process has the same filters anyway: they cannot be taken away.
    let _ = FILTERS.set(filters);
    Ok(())
}

impl Filters {
    fn enter(self, role: Role, child: Option<Pid>) -> io::Result<()> {
        // Refusals first: the list that follows forbids what it does not need.
        for program in [refused(role, self.syslog)?, self.allowed(role, child)?] {
            apply_filter(&program).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                other => io::Error::other(other),
            })?;
        }
        Ok(())
    }

    /// The list of a role, as a program.
    fn allowed(self, role: Role, child: Option<Pid>) -> io::Result<BpfProgram> {
        let mut rules = Rules::new();
        for group in groups(role) {
            add(&mut rules, group, child)?;
        }
        // Calls that are refused have to be on the list, which would kill otherwise.
        let mut refused = refusals(role, self.syslog);
        if self.syslog {
            add(&mut rules, &calls::SYSLOG, child)?;
        }
        rules.extend(refused.drain(..).map(|call| (call, Vec::new())));
        let otherwise = match self.otherwise {
            Action::Kill => SeccompAction::KillProcess,
            Action::Trap => SeccompAction::Trap,
            Action::Log => SeccompAction::Log,
        };
        compile(rules, otherwise, SeccompAction::Allow)
    }
}

/// Conditions of each call, any of which will do; none: always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn add(rules: &mut Rules, group: &Group, child: Option<Pid>) -> io::Result<()> {
    for &call in group.calls {
        rules.insert(call, Vec::new());
    }
    for calls::Tested { call, argument, test } in group.tested {
        let conditions = conditions(*argument, *test, child)?;
        if conditions.is_empty() {
            // No condition at all would mean: always.
            continue;
        }
        match rules.get_mut(call) {
            Some(rules) if rules.is_empty() => (),
            Some(rules) => rules.extend(conditions),
            None => {
                rules.insert(*call, conditions);
            }
        }
    }
    Ok(())
}

/// A rule for each value that is allowed.
fn conditions(argument: u8, test: Test, child: Option<Pid>) -> io::Result<Vec<SeccompRule>> {
    let process = |pid: Pid| u64::from(pid.as_raw_nonzero().get().cast_unsigned());
    let accepted: Vec<_> = match test {
        Test::OneOf(values) => values.iter().map(|value| (SeccompCmpOp::Eq, u64::from(*value))).collect(),
        Test::Null => vec![(SeccompCmpOp::Eq, 0)],
        Test::Without(bits) => vec![(SeccompCmpOp::MaskedEq(bits.into()), 0)],
        Test::OwnProcess => vec![(SeccompCmpOp::Eq, process(getpid()))],
        Test::Child => child.iter().map(|child| (SeccompCmpOp::Eq, process(*child))).collect(),
    };
    let width = if matches!(test, Test::Null) { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    accepted
        .into_iter()
        .map(|(operator, value)| {
            SeccompCondition::new(argument, width.clone(), operator, value)
                .and_then(|condition| SeccompRule::new(vec![condition]))
                .map_err(io::Error::other)
        })
        .collect()
}

/// Calls that fail with `ENOSYS`, whatever is to happen with others that are not on the list: the C library makes
/// them and goes on without.
fn refusals(role: Role, syslog: bool) -> Vec<i64> {
    // It takes its flags, which would have to be looked at, in memory.
    let mut calls = vec![libc::SYS_clone3];
    // musl opens files by it; nothing that a thread must open goes through the C library.
    #[cfg(target_arch = "x86_64")]
    calls.push(libc::SYS_open);
    if !calls::opens_files(role) {
        calls.push(libc::SYS_openat);
    }
    if syslog {
        // syslog(3) tries to connect anew after the daemon behind /dev/log was restarted, musl's with the socket that it has.
        calls.extend([libc::SYS_socket, libc::SYS_connect]);
    }
    calls
}

/// The program that makes them fail.
fn refused(role: Role, syslog: bool) -> io::Result<BpfProgram> {
    let rules = refusals(role, syslog).into_iter().map(|call| (call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> io::Result<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    SeccompFilter::new(rules, otherwise, matched, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_a_program_that_the_kernel_takes() {
        let child = Pid::from_raw(1);
        for role in Role::ALL {
            for syslog in [false, true] {
                let program = Filters { otherwise: Action::Kill, syslog }.allowed(role, child).unwrap();
                // BPF_MAXINSNS.
                assert!((100..4096).contains(&program.len()), "{role:?}: {}", program.len());
                refused(role, syslog).unwrap();
            }
        }
    }

    #[test]
    fn one_unconditional_permission_is_enough() {
        let mut rules = Rules::new();
        let always = Group { calls: &[libc::SYS_fcntl], tested: &[] };
        let sometimes = Group {
            calls: &[],
            tested: &[calls::Tested { call: libc::SYS_fcntl, argument: 1, test: Test::OneOf(&[1, 2]) }],
        };
        add(&mut rules, &sometimes, None).unwrap();
        assert_eq!(rules.get(&libc::SYS_fcntl).unwrap().len(), 2);
        add(&mut rules, &always, None).unwrap();
        assert!(rules.get(&libc::SYS_fcntl).unwrap().is_empty());
        add(&mut rules, &sometimes, None).unwrap();
        assert!(rules.get(&libc::SYS_fcntl).unwrap().is_empty());
    }

    #[test]
    fn without_a_child_nobody_can_be_signalled() {
        let mut rules = Rules::new();
        for group in groups(Role::Supervisor) {
            add(&mut rules, group, None).unwrap();
        }
        assert!(!rules.contains_key(&libc::SYS_kill));
    }
}
