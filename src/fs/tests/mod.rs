//! The file system on a temporary directory.

mod block;
mod credentials;
mod device;
mod disk;
mod extents;
mod extras;
pub(in crate::fs) mod files;
mod identity;
mod limits;
mod names;
mod nodes;
mod readers;
mod references;
mod xattrmap;

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::*;
use crate::fuse::{Caller, Extensions, FileSystem, NewFile};

/// Every INIT flag.
pub(super) const EVERYTHING: u64 = u64::MAX;

/// Both ways of referring to a file, and the latter without a cache.
pub(super) fn modes() -> [Config; 3] {
    let config = |inode_file_handles, hot_descriptors| Config {
        inode_file_handles,
        limits: Limits { hot_descriptors, ..Limits::default() },
        ..Config::default()
    };
    [
        config(InodeFileHandles::Never, 64),
        config(InodeFileHandles::Prefer, 64),
        config(InodeFileHandles::Prefer, 0),
    ]
}

/// A share.
pub(super) struct Share {
    pub(super) dir: tempfile::TempDir,
    pub(super) fs: Passthrough,
}

impl Share {
    pub(super) fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fs = Self::serve(dir.path(), config);
        Self { dir, fs }
    }

    /// The directory, served by whoever calls this.
    pub(super) fn serve(dir: &Path, config: Config) -> Passthrough {
        let open = |path: &Path, flags: OFlags| -> OwnedFd {
            openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let root = open(dir, OFlags::PATH | OFlags::DIRECTORY);
        let proc_self_fd = open(Path::new("/proc/self/fd"), OFlags::PATH | OFlags::DIRECTORY);
        let fs = Passthrough::new(config, root, proc_self_fd).unwrap();
        fs.init(EVERYTHING).unwrap();
        fs
    }

    pub(super) fn lookup(&self, parent: NodeId, name: &str) -> Result<Entry> {
        self.fs.lookup(Caller::default(), parent, Name::new(&c(name)).unwrap())
    }

    pub(super) fn mkdir(&self, parent: NodeId, name: &str) -> Result<Entry> {
        self.fs.mkdir(Caller::default(), parent, Name::new(&c(name)).unwrap(), &new(0o755))
    }

    /// MKNOD of a regular file.
    pub(super) fn make(&self, name: &str) -> Result<Entry> {
        let new = new(libc::S_IFREG | 0o644);
        self.fs.mknod(Caller::default(), NodeId::ROOT, Name::new(&c(name)).unwrap(), 0, &new)
    }

    pub(super) fn unlink(&self, name: &str) -> Result<()> {
        self.fs.unlink(NodeId::ROOT, Name::new(&c(name)).unwrap())
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }
}

pub(super) fn c(name: &str) -> CString {
    CString::new(name).unwrap()
}

pub(super) fn name(name: &CStr) -> Name<'_> {
    Name::new(name).unwrap()
}

pub(super) fn new(mode: u32) -> NewFile<'static> {
    NewFile { mode, umask: 0, extensions: Extensions::default() }
}

/// Whether this process may act for others; says so where it may not.
pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

pub(super) fn stale<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Errno::STALE))
}
