//! Which descriptors does the file system need from outside the walls?

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open, openat};
use rustix::io::Errno;
use rustix::process::{chroot as change_root, fchdir};

use super::Error;

/// The share as the serving process sees it. All descriptors are close-on-exec.
#[derive(Debug)]
pub struct ShareRoot {
    /// The shared directory, opened with `O_PATH`.
    pub root: OwnedFd,
    /// The directory `/proc/self/fd` of the serving process, opened with `O_PATH`; works whatever the root directory is.
    pub proc_self_fd: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens the shared directory and makes sure that it can be searched.
pub(super) fn open_share(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |problem| move |source| Error::Share { path: path.to_owned(), problem, source };
    let share = open(path, DIRECTORY, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => failed("does not exist")(errno),
        Errno::NOTDIR => failed("is not a directory")(errno),
        _ => failed("cannot be opened")(errno),
    })?;
    accessat(&share, ".", Access::EXEC_OK, AtFlags::EACCESS).map_err(failed("cannot be searched"))?;
    Ok(share)
}

/// The share where it is, for a process that is not confined.
pub(super) fn open_in_place(path: &Path) -> Result<ShareRoot, Error> {
    let root = open_share(path)?;
    Ok(ShareRoot { root, proc_self_fd: open_proc("/proc/self/fd")? })
}

/// Makes the share the root directory of the process.
pub(super) fn chroot(path: &Path) -> Result<ShareRoot, Error> {
    let root = open_share(path)?;
    let proc_self_fd = open_proc("/proc/self/fd")?;
    fchdir(&root).and_then(|()| change_root(".")).map_err(|errno| Error::Step {
        mode: "chroot",
        step: "change the root directory",
        advice: "run as root, or use --sandbox namespace",
        source: errno.into(),
    })?;
    Ok(ShareRoot { root, proc_self_fd })
}

fn open_proc(path: &'static str) -> Result<OwnedFd, Error> {
    open(path, DIRECTORY, Mode::empty()).map_err(|source| Error::Proc { path, source })
}

/// The root directory of the process, once it is the share.
pub(super) fn open_root(mode: &'static str) -> Result<OwnedFd, Error> {
    openat(CWD.as_fd(), "/", DIRECTORY, Mode::empty()).map_err(|errno| Error::Step {
        mode,
        step: "open the new root directory",
        advice: "this should not happen",
        source: errno.into(),
    })
}
