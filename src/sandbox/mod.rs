//! What may the process still touch once it serves a guest?
//!
//! | file | its question |
//! |---|---|
//! | `share` | which descriptors does the file system need from outside the walls? |
//! | `namespace` | how does the share become the root of a world of its own? |
//! | `userns`, `idmap` | who is who in a user namespace, and who may say so? |
//! | `capabilities` | which privileges are left? |
//! | `landlock` | what may still be reached by a path, a port or a signal, whatever the mode is? |
//! | `seccomp` | which system calls may a thread make? |
//! | `walls` | which walls stand, and which could the host not give? |
//! | `limits` | how many files may be open? |
//! | `sys` | the unsafe system calls |
//!
//! # Processes, threads and their order
//!
//! Namespaces, capabilities and the death signal belong to threads, and a fork copies one thread only. So everything
//! here happens while the process has a single thread, and the daemon starts others only after it.
//!
//! With `--sandbox none` there is one process. Otherwise [`split`] forks: the parent, the *supervisor*, stays outside,
//! where it can remove the socket and the pid file; the child goes in with [`Entrance::enter`]. The steps of the
//! `namespace` mode (`chroot` has no step 1 and no namespaces):
//!
//! 1. supervisor: if unprivileged or asked to, a new user namespace, whose id maps a short-lived helper process writes
//!    from outside (nobody may do that for himself beyond his own id);
//! 2. supervisor: a new pid namespace, which takes effect for children; then the fork. The supervisor itself never
//!    changes its mount namespace, root directory or ids;
//! 3. child: new mount, network, IPC and UTS namespaces; every mount becomes a slave, so that what the host
//!    mounts below the share later shows up, and nothing travels back; a detached mount of `/proc/self/fd`; the share's
//!    tree of mounts is made the root and the old root is detached;
//! 4. child: capabilities are dropped, `no_new_privs` is set, the umask becomes 0;
//! 5. child: Landlock. It limits threads that are yet to come and not those that are there already;
//! 6. child: it asks to be killed with its parent. This comes last because the kernel forgets the wish when
//!    credentials change (`commit_creds`); that the parent still lives is checked after it. The wish belongs to the main
//!    thread, which therefore must not change its credentials later: threads that serve requests may, the main
//!    thread may not;
//! 7. child: the main thread's seccomp filter, which knows none of the calls that the steps before took. The supervisor
//!    gets its own after the fork ([`watch`]).
//!
//! Steps 4 to 7 are the same with `--sandbox none`. What of the kernel a step needs that this host does not have, or does
//! not permit (Landlock, seccomp), is reported and left out, or ends the start with `--sandbox-required` ([`Walls`]).
//! Namespaces and chroot are never left out: they are asked for by name.
//!
//! No procfs is mounted. The detached mount has the directory `/proc/self/fd` as its root, so `..` leads nowhere from
//! it, and it works where a container's masked `/proc` forbids mounting a new one. In the `chroot` mode the
//! descriptor is the host's own directory: that mode keeps out mistakes, not a process that was taken over.

mod capabilities;
mod idmap;
mod landlock;
pub mod limits;
mod namespace;
mod seccomp;
mod share;
mod sys;
mod userns;
mod walls;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, set_parent_process_death_signal, umask};
use rustix::thread::set_no_new_privs;

use crate::cli::{self, Landlock, SandboxMode, Seccomp};
use crate::fs::handles_are_refused;
use landlock::ByHandle;
pub use seccomp::Role;
pub use share::ShareRoot;
use sys::Fork;
pub use walls::Walls;

/// Why the sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shared directory cannot be used.
    #[error("--shared-dir {}: {problem}", path.display())]
    Share {
        /// The directory as the operator wrote it.
        path: PathBuf,
        /// What was tried.
        problem: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A step towards the confinement failed.
    #[error("--sandbox {mode}: cannot {step} ({advice})")]
    Step {
        /// The value of `--sandbox`.
        mode: &'static str,
        /// What was tried.
        step: &'static str,
        /// What the operator can do about it.
        advice: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// `/proc` is needed to reopen descriptors, and something is wrong with it.
    #[error("cannot open {path}, which the file system needs (is /proc mounted?)")]
    Proc {
        /// Path below `/proc`.
        path: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The ids of the user namespace could not be set.
    #[error("{option}: cannot map ids of the user namespace: {reason}")]
    IdMap {
        /// `--uid-map` or `--gid-map`.
        option: &'static str,
        /// What went wrong and what to do.
        reason: String,
    },
    /// Capabilities could not be given up.
    #[error("--modcaps: cannot set the {set} capabilities")]
    Capabilities {
        /// The name of the set.
        set: &'static str,
        /// What the kernel said.
        #[source]
        source: caps::errors::CapsError,
    },
    /// The host does not give what was demanded.
    #[error("--sandbox-required: this host gives no {wall}: {reason}")]
    Required {
        /// What is not there.
        wall: &'static str,
        /// Why, and what to do where something can be done.
        reason: String,
    },
}

/// What the sandbox has to know.
#[derive(Debug)]
pub struct Config<'a> {
    /// What to give up.
    pub sandbox: &'a cli::Sandbox,
    /// The directory to share.
    pub share: &'a Path,
    /// Whether the share is only read.
    pub read_only: bool,
    /// Whether file handles are opened, for which `CAP_DAC_READ_SEARCH` is kept.
    pub file_handles: bool,
    /// Whether messages go to the system log.
    pub syslog: bool,
}

/// What the serving process has once it is confined.
#[derive(Debug)]
pub struct Inside {
    /// The share.
    pub share: ShareRoot,
    /// What confines the process, to be completed and reported.
    pub walls: Walls,
}

/// On which side of the wall this process continues.
#[derive(Debug)]
pub enum Side {
    /// It is the one to be confined.
    Inside(Entrance),
    /// It stays outside, as the parent of the process with this id, which will serve.
    Outside(Pid),
}

/// The way into the sandbox, for the process that is to serve.
#[derive(Debug)]
pub struct Entrance {
    /// The parent, to see whether it lives; `None` if there was no fork.
    supervisor: Option<OwnedFd>,
}

/// Makes the process that will be confined, unless the mode asks for no confinement. Steps 1 and 2.
///
/// Both sides must go on from here: this returns twice if the mode is not `none`. The caller must be the only thread.
///
/// # Errors
///
/// The step that failed. Then there is no second process.
pub fn split(config: &Config<'_>) -> Result<Side, Error> {
    match config.sandbox.mode {
        SandboxMode::None => return Ok(Side::Inside(Entrance { supervisor: None })),
        SandboxMode::Chroot => (),
        SandboxMode::Namespace => {
            userns::enter_if_needed(config.sandbox)?;
            namespace::new_pid_namespace()?;
        }
    }
    let mode = mode_name(config.sandbox.mode);
    let failed = |step| {
        move |source| Error::Step {
            mode,
            step,
            advice: "use --sandbox none to serve without a child",
            source,
        }
    };
    let supervisor = pidfd_open(getpid(), PidfdFlags::empty())
        .map_err(|errno| failed("watch the parent process")(errno.into()))?;
    Ok(match sys::fork().map_err(failed("make a process"))? {
        Fork::Parent(child) => Side::Outside(child),
        Fork::Child => Side::Inside(Entrance { supervisor: Some(supervisor) }),
    })
}

impl Entrance {
    /// Whether there is a parent outside.
    pub fn is_forked(&self) -> bool {
        self.supervisor.is_some()
    }

    /// Confines the process to the share. Steps 3 to 7. `config` is that of [`split`]; `removals` are the directories in
    /// which this process removes files when it ends. The caller must still be the only thread.
    ///
    /// # Errors
    ///
    /// The step that failed. The process should end then: it may be confined in part.
    pub fn enter(self, config: &Config<'_>, removals: &[BorrowedFd<'_>]) -> Result<Inside, Error> {
        let mut walls = Walls::new(config.sandbox.required);
        // Before the root directory changes.
        let panics_on_warnings = landlock::kernel_panics_on_warnings();
        let by_handle = match config.sandbox.mode {
            SandboxMode::Namespace => None,
            _ => Some(ByHandle::on_mount_of(share::open_share(config.share)?.as_fd())),
        };
        let share = match config.sandbox.mode {
            SandboxMode::None => share::open_in_place(config.share)?,
            SandboxMode::Chroot => {
                walls.stands("chroot");
                share::chroot(config.share)?
            }
            SandboxMode::Namespace => {
                walls.stands("namespaces");
                userns::become_root(config.sandbox)?;
                namespace::enter(config.share)?
            }
        };
        give_up_privileges(config)?;
        walls.stands("capabilities");
        walls.stands("no_new_privs");
        if config.sandbox.landlock == Landlock::Auto {
            let plan = landlock::Plan {
                share: share.root.as_fd(),
                read_only: config.read_only,
                by_handle: (config.file_handles && !handles_are_refused(share.root.as_fd()))
                    .then(|| by_handle.unwrap_or_else(|| ByHandle::on_mount_of(share.root.as_fd()))),
                removals,
                panics_on_warnings,
            };
            landlock::confine(&plan, &mut walls)?;
        }
        if let Some(supervisor) = self.supervisor {
            follow(&supervisor).map_err(|errno| Error::Step {
                mode: mode_name(config.sandbox.mode),
                step: "follow the parent process",
                advice: "use --sandbox none",
                source: errno.into(),
            })?;
        }
        let seccomp = config.sandbox.seccomp;
        match seccomp::install(Role::Main, seccomp, config.syslog, None) {
            Ok(()) if seccomp == Seccomp::None => (),
            Ok(()) => walls.stands(format!("seccomp ({})", seccomp.name())),
            Err(error) => walls.missing("seccomp filter", error)?,
        }
        Ok(Inside { share, walls })
    }
}

/// Limits the process that stays outside to watching `child`. Where the host does not permit it, the child reports
/// that, whose filter is the one that matters.
pub fn watch(config: &Config<'_>, child: Pid) {
    let _ = seccomp::install(Role::Supervisor, config.sandbox.seccomp, config.syslog, Some(child));
}

/// Has the kernel kill this process when its parent ends.
fn follow(supervisor: &OwnedFd) -> rustix::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut ended = [PollFd::new(supervisor, PollFlags::IN)];
    if poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
        // The parent ended before the kernel was asked to act on it; so we act.
        sys::exit_now(1);
    }
    Ok(())
}

/// How the operator writes the mode.
fn mode_name(mode: SandboxMode) -> &'static str {
    match mode {
        SandboxMode::Namespace => namespace::MODE,
        SandboxMode::Chroot => "chroot",
        SandboxMode::None => "none",
    }
}

/// The part that all modes have in common.
fn give_up_privileges(config: &Config<'_>) -> Result<(), Error> {
    capabilities::reduce(&config.sandbox.modcaps, config.file_handles)?;
    set_no_new_privs(true).map_err(|errno| Error::Step {
        mode: mode_name(config.sandbox.mode),
        step: "set no_new_privs",
        advice: "Linux 3.5 or newer is needed",
        source: errno.into(),
    })?;
    // The modes of new files come from the guest, which has applied its umask.
    umask(Mode::empty());
    Ok(())
}
