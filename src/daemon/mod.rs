//! How does the process start, log, listen and stop?
//!
//! | file | its question |
//! |---|---|
//! | `logging` | where do messages go? |
//! | `socket`, `pid_file` | where does the front-end connect, and is that path ours? |
//! | `serve` | what is served, with which settings, and for how long? |
//! | `rings` | how will the threads behind the virtqueues work on this host? |
//! | `window` | who connects to the block device beside the share? |
//! | `signals` | what ends the daemon from outside? |
//! | `sys` | the unsafe system calls |
//!
//! # Order of start
//!
//! 1. Ending signals are blocked, so that from here on none is lost and none leaves a file behind.
//! 2. Logging, the limit of open files, the listening socket with its pid file.
//! 3. The sandbox ([`crate::sandbox`]), which usually forks. The parent stays outside, passes signals on, waits,
//!    removes the socket and the pid file, and ends with the child's exit code. Without a fork one process does
//!    both.
//! 4. In the serving process, now that privileges are gone: the signal thread, and then the share is served, which
//!    starts all other threads.
//!
//! # End
//!
//! When the front-end disconnects, serving returns and the process ends with 0; on an error with 1. On `SIGTERM`,
//! `SIGHUP` or `SIGINT` the signal thread ends the serving process with 1 at once. If the parent is killed, the kernel
//! kills the child; the files then stay, and the next daemon at the same path replaces them.

mod logging;
mod pid_file;
mod rings;
mod serve;
mod signals;
mod socket;
mod sys;
mod window;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tracing::error;
use tracing_subscriber::util::TryInitError;

use crate::cli::{self, InodeFileHandles, Options};
use crate::extents::{Volume, VolumeError};
use crate::fs;
use crate::sandbox::limits::{LimitError, raise_nofile};
use crate::sandbox::{self, Inside, ShareRoot, Side, Walls};
use crate::vhost::{ConnectionEnd, TagError};
pub use pid_file::PidFileError;
pub use socket::SocketError;
use socket::{Listening, SocketFiles, open_socket, open_window_socket};

/// Descriptors that the daemon needs besides those of the thread pool: one for each memory region that the
/// front-end may add (509), and a hundred for sockets, eventfds, rings and logs. The sum is virtiofsd's.
pub const RESERVED_DESCRIPTORS: u64 = 509 + 100;

/// The same for all front-ends: the window's, where there is one, may add as many memory regions again.
fn reserved_descriptors(window: bool) -> u64 {
    if window { 2 * RESERVED_DESCRIPTORS } else { RESERVED_DESCRIPTORS }
}

/// Why the daemon did not start or did not go on. The messages name the option at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Logging is there already: the daemon can run once in a process.
    #[error("cannot start logging")]
    Logging(#[from] TryInitError),
    /// Signals cannot be blocked or waited for.
    #[error("cannot set up signals")]
    Signals(#[source] io::Error),
    /// The limit of open files.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The listening socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The serving process cannot be waited for.
    #[error("cannot wait for the serving process")]
    Supervise(#[source] io::Error),
    /// No front-end can be accepted.
    #[error("cannot accept a connection on the vhost-user socket")]
    Accept(#[source] io::Error),
    /// The device under the share cannot be used beside its file system.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The share cannot be served.
    #[error(transparent)]
    Share(#[from] fs::Error),
    /// The thread of the window's socket cannot be started.
    #[error("cannot start a thread for the window")]
    Window(#[source] io::Error),
    /// The tag.
    #[error("--tag: {0}")]
    Tag(#[from] TagError),
    /// No io_uring, and nothing else was wanted.
    #[error(
        "--engine io_uring: this host permits this process no io_uring; --engine auto would go on with threads"
    )]
    Engine(#[source] io::Error),
    /// The CPUs of this process cannot be read.
    #[error("--ring-affinity: cannot find out which CPUs this process may use")]
    Cpus(#[source] io::Error),
    /// A CPU that is not there, or not for this process.
    #[error("--ring-affinity: CPU {0} is not among those that this process may use (see: taskset -cp $$)")]
    Affinity(usize),
    /// The front-end broke the protocol, and nobody else is to be served.
    #[error(transparent)]
    Connection(ConnectionEnd),
}

/// What serving takes.
#[derive(Debug)]
pub struct Ready {
    /// Listens for the front-end.
    pub listener: UnixListener,
    /// Listens for the front-end of the window, where there is one.
    pub window: Option<UnixListener>,
    /// The device under the share, where the guest has it too, or the window uses it.
    pub volume: Option<Volume>,
    /// The share, in the sandbox.
    pub share: ShareRoot,
    /// What the sandbox consists of; whoever serves completes and reports it.
    pub walls: Walls,
    /// How many files the process may have open.
    pub descriptors: u64,
}

/// Runs the daemon as the options say, until its front-end goes away; see [`run_with`].
///
/// # Errors
///
/// As [`run_with`].
pub fn run(options: &Options) -> Result<u8, Error> {
    run_with(options, |ready| serve::serve(ready, options))
}

/// Runs the daemon: starts, calls `serve` where it is safe to, stops. Returns the exit code of the process.
///
/// Must be called by the only thread of the process, and once. It returns in two processes if the sandbox is on, in
/// each when that one's work is done; the caller ends the process then, with the code. `serve` runs in one of
/// them, in the main thread, which must not change its credentials (see [`crate::sandbox`]).
///
/// # Errors
///
/// [`Error`], to be reported as exit code 1. One that happens in the serving process is returned there, and the other
/// process returns `Ok(1)`.
pub fn run_with(options: &Options, serve: impl FnOnce(Ready) -> Result<(), Error>) -> Result<u8, Error> {
    signals::block().map_err(Error::Signals)?;
    logging::start(&options.log)?;
    let result = start(options, serve);
    if let (Err(error), true) = (&result, options.log.syslog) {
        // The caller reports on stderr, where nobody may be looking.
        error!("{}", chain(error));
    }
    result
}

fn start(options: &Options, serve: impl FnOnce(Ready) -> Result<(), Error>) -> Result<u8, Error> {
    logging::remark(&options.notes);
    let pool = u64::try_from(options.limits.thread_pool_size.max(1)).unwrap_or(u64::MAX);
    let descriptors = raise_nofile(
        options.limits.nofile,
        reserved_descriptors(options.window.is_some()).saturating_add(pool),
    )?;
    // Where both paths are the operator's, and before there is anything to remove.
    let share = &options.share;
    let for_window = options.window.as_ref().and_then(|window| window.device.as_ref());
    let volume = match (&options.extent_device, for_window) {
        (Some(cli::ExtentDevice { path, serial }), _) => {
            Some(Volume::open(path, &share.dir, serial.as_bytes(), share.readonly)?)
        }
        (None, Some(path)) => Some(Volume::open_for_window(path, &share.dir, share.readonly)?),
        (None, None) => None,
    };
    let Listening { listener, files } = open_socket(&options.listen)?;
    let mut files = Vec::from_iter(files);
    let window = match &options.window {
        Some(window) => {
            let listening = open_window_socket(&window.socket, options.listen.group.as_deref())?;
            files.extend(listening.files);
            Some(listening.listener)
        }
        None => None,
    };
    let config = sandbox::Config {
        sandbox: &options.sandbox,
        share: &options.share.dir,
        read_only: options.share.readonly,
        file_handles: options.share.inode_file_handles != InodeFileHandles::Never,
        syslog: options.log.syslog,
    };
    let entrance = match sandbox::split(&config)? {
        Side::Outside(child) => {
            drop((listener, window, volume));
            sandbox::watch(&config, child);
            let code = signals::supervise(child).map_err(Error::Supervise)?;
            drop(files);
            return Ok(code);
        }
        Side::Inside(entrance) => entrance,
    };
    if entrance.is_forked() {
        files.drain(..).for_each(SocketFiles::leave_to_other);
    }
    let removals: Vec<_> = files.iter().map(SocketFiles::directory).collect();
    let Inside { share, walls } = entrance.enter(&config, &removals)?;
    let files = Arc::new(files);
    signals::end_on_signal(Arc::clone(&files)).map_err(Error::Signals)?;
    let served = serve(Ready { listener, window, volume, share, walls, descriptors });
    // The signal thread has a share in them, so they would not be dropped.
    files.iter().for_each(SocketFiles::remove);
    served.map(|()| 0)
}

/// An error and its causes on one line.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
