//! Who uses a socket path? The holder of the lock on the file `SOCKET.pid` beside it.
//!
//! The file holds the process id in decimal and a newline, has mode 0600, and is locked with flock(2) until the process
//! ends: virtiofsd does the same, so the two exclude each other. The lock decides, never the text: after a crash
//! the file is left over but free.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, openat, statat, unlinkat};
use rustix::io::Errno;

/// Why the pid file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process has it locked.
    #[error("the socket is in use by the process with id {holder}")]
    InUse {
        /// What the file says; "?" if nothing.
        holder: String,
    },
    /// The file cannot be made, locked or written.
    #[error("cannot make the pid file beside the socket")]
    Make(#[source] io::Error),
}

/// A pid file that this process holds.
#[derive(Debug)]
pub(super) struct PidFile {
    name: OsString,
    file: File,
}

impl PidFile {
    /// Creates or takes over the file `name` in `dir`, and writes the id of this process into it.
    pub(super) fn acquire(dir: BorrowedFd<'_>, mut name: OsString) -> Result<Self, PidFileError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            let mut file: File = openat(dir, &name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| PidFileError::Make(errno.into()))?
                .into();
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => (),
                Err(Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    // For the message only.
                    let _ = file.read_to_string(&mut holder);
                    let holder = if holder.trim().is_empty() { "?" } else { holder.trim() }.to_owned();
                    return Err(PidFileError::InUse { holder });
                }
                Err(errno) => return Err(PidFileError::Make(errno.into())),
            }
            let mut held = Self { name, file };
            // The holder before us may have removed the file between our open and its unlock. Then the lock is on a
            // file that nobody else will find.
            if held.is_still(dir).map_err(|errno| PidFileError::Make(errno.into()))? {
                held.write().map_err(PidFileError::Make)?;
                return Ok(held);
            }
            name = held.name;
        }
    }

    fn write(&mut self) -> io::Result<()> {
        ftruncate(&self.file, 0)?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Whether the name still leads to the locked file.
    fn is_still(&self, dir: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        let ours = fstat(&self.file)?;
        match statat(dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the file, if it is still there. The lock stays until the process ends.
    pub(super) fn remove(&self, dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if self.is_still(dir)? { unlinkat(dir, &self.name, AtFlags::empty()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_process_holds_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.pid");
        let open = File::open(dir.path()).unwrap();
        let acquire = || PidFile::acquire(open.as_fd(), OsString::from("s.pid"));

        // A longer text that a crash left over.
        std::fs::write(&path, "1234567890\n").unwrap();
        let held = acquire().unwrap();
        let own = std::process::id();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{own}\n"));

        // A lock belongs to an open file, so a second one conflicts even within a process.
        match acquire() {
            Err(PidFileError::InUse { holder }) => assert_eq!(holder, own.to_string()),
            other => panic!("{other:?}"),
        }
        held.remove(open.as_fd()).unwrap();
        assert!(!path.exists());

        // Once removed it is somebody else's: not removed again.
        let _next = acquire().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        held.remove(open.as_fd()).unwrap();
        assert!(path.exists());
    }
}
