//! How does the share become the root of a world of its own?

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::UnshareFlags;

use super::share::{ShareRoot, open_root, open_share};
use super::{Error, sys};

/// The value of `--sandbox` that errors name.
pub(super) const MODE: &str = "namespace";

fn failed(step: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Step {
        mode: MODE,
        step,
        advice: "run as root or where user namespaces are allowed, or use --sandbox none",
        source: errno.into(),
    }
}

/// Lets the next child be the first process of a new pid namespace.
pub(super) fn new_pid_namespace() -> Result<(), Error> {
    sys::unshare(UnshareFlags::NEWPID).map_err(failed("create a pid namespace"))
}

/// Leaves the host's mounts and network; the share becomes the root directory.
pub(super) fn enter(path: &Path) -> Result<ShareRoot, Error> {
    // A path that is wrong should be reported as such, before anything that needs privileges.
    open_share(path)?;
    sys::unshare(UnshareFlags::NEWNS).map_err(failed("create a mount namespace"))?;
    sys::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)
        .map_err(failed("create network, IPC and UTS namespaces"))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(failed("detach the mounts from the host's"))?;

    let proc_self_fd = clone_tree(CWD, "/proc/self/fd", OpenTreeFlags::empty())
        .map_err(|source| Error::Proc { path: "/proc/self/fd", source })?;
    // Opened again, because a descriptor from before names a directory of the host's mounts.
    move_root_to(&open_share(path)?)?;
    Ok(ShareRoot { root: open_root(MODE)?, proc_self_fd })
}

/// A copy of the mount at `path`, attached nowhere, with `path` as its root.
fn clone_tree(dir: impl AsFd, path: &str, more: OpenTreeFlags) -> rustix::io::Result<OwnedFd> {
    open_tree(dir, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | more)
}

/// Makes `share`, with everything mounted below it, the root directory, and detaches the old root.
fn move_root_to(share: &OwnedFd) -> Result<(), Error> {
    // pivot_root(2) wants a mount point, so the share is mounted on itself.
    let tree = clone_tree(share, "", OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE)
        .map_err(failed("copy the mounts of the shared directory"))?;
    let in_place = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", share, "", in_place).map_err(failed("mount the shared directory"))?;
    fchdir(&tree).map_err(failed("change to the shared directory"))?;
    // "." twice stacks the old root upon the new one, from where it is detached without needing a directory
    // to put it (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".").map_err(failed("make the shared directory the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("detach the old root"))?;
    chdir("/").map_err(failed("change to the new root"))
}
