//! Where does the front-end connect?

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, chownat, open, statat, unlinkat};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use rustix::process::umask;
use tracing::warn;

use super::pid_file::{PidFile, PidFileError};
use super::sys;
use crate::cli;

/// Longest path that fits `sockaddr_un` together with its final NUL, in bytes.
const PATH_MAX: usize = 107;

/// Front-ends that may wait to be accepted. One is served at a time.
const BACKLOG: i32 = 1;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit a socket address.
    #[error("{option} {}: {length} bytes are too long for a socket, the limit is {PATH_MAX}", path.display())]
    TooLong {
        /// The option that named the path; here and below.
        option: &'static str,
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The path has no file name.
    #[error("{option} {}: this does not name a file", path.display())]
    NoName {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Another daemon listens there, or nobody can know.
    #[error("{option} {}", path.display())]
    PidFile {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PidFileError,
    },
    /// There is a file that is no socket.
    #[error("{option} {}: the file exists and is not a socket; remove it or choose another path", path.display())]
    Occupied {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("{option} {}: cannot {step}", path.display())]
    Make {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// There is no such group.
    #[error("--socket-group {0}: there is no such group")]
    NoGroup(String),
    /// Groups cannot be looked up.
    #[error("--socket-group {group}: cannot look up the group")]
    Group {
        /// The group.
        group: String,
        /// What the C library said.
        #[source]
        source: io::Error,
    },
    /// The descriptor is not open.
    #[error("--fd {fd}: not an open descriptor")]
    Closed {
        /// Its number.
        fd: RawFd,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The descriptor is something else than a listening socket.
    #[error("--fd {fd}: {what}, but a listening unix stream socket is needed")]
    NotListening {
        /// Its number.
        fd: RawFd,
        /// What it is.
        what: &'static str,
    },
}

/// A listening socket, and the files that came with it.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: UnixListener,
    /// `None` for an inherited socket, which is the business of whoever made it.
    pub(super) files: Option<SocketFiles>,
}

/// Opens the socket that the operator asked for. Sets the umask, which the caller sets again later.
pub(super) fn open_socket(options: &cli::Listen) -> Result<Listening, SocketError> {
    match &options.socket {
        cli::Socket::Fd(fd) => Ok(Listening { listener: UnixListener::from(inherited(*fd)?), files: None }),
        cli::Socket::Path(path) => create("--socket-path", path, options.group.as_deref()),
    }
}

/// Opens the window's socket, for the same group as the other.
pub(super) fn open_window_socket(path: &Path, group: Option<&str>) -> Result<Listening, SocketError> {
    create("--window-socket", path, group)
}

/// Takes over a descriptor after making sure that a front-end can connect to it.
fn inherited(fd: RawFd) -> Result<OwnedFd, SocketError> {
    let socket = sys::adopt(fd).map_err(|source| SocketError::Closed { fd, source })?;
    let wrong = |what| Err(SocketError::NotListening { fd, what });
    match sockopt::socket_domain(&socket) {
        Err(_) => wrong("not a socket"),
        Ok(AddressFamily::UNIX) => match sockopt::socket_type(&socket) {
            Ok(SocketType::STREAM) => match sockopt::socket_acceptconn(&socket) {
                // A launcher with an event loop passes its socket non-blocking, and accept(2) is to wait.
                Ok(true) => match ioctl_fionbio(&socket, false) {
                    Ok(()) => Ok(socket),
                    Err(_) => wrong("a socket that cannot wait"),
                },
                _ => wrong("a socket that does not listen"),
            },
            _ => wrong("not a stream socket"),
        },
        Ok(_) => wrong("not a unix socket"),
    }
}

/// Creates the socket that `option` asks for, for the owner only or for the owner and a group.
fn create(option: &'static str, path: &Path, group: Option<&str>) -> Result<Listening, SocketError> {
    let length = path.as_os_str().as_bytes().len();
    if length > PATH_MAX {
        return Err(SocketError::TooLong { option, path: path.to_owned(), length });
    }
    let name =
        path.file_name().ok_or_else(|| SocketError::NoName { option, path: path.to_owned() })?.to_owned();
    let group = group.map(find_group).transpose()?;
    let failed = |step| move |source| SocketError::Make { option, path: path.to_owned(), step, source };

    // The files are removed later through this descriptor: by then the path may lead elsewhere.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open its directory"))?;

    umask(Mode::from_bits_truncate(if group.is_some() { 0o007 } else { 0o077 }));
    let mut pid_name = name.clone();
    pid_name.push(".pid");
    let pid_file = PidFile::acquire(dir.as_fd(), pid_name).map_err(|source| SocketError::PidFile {
        option,
        path: path.to_owned(),
        source,
    })?;
    let mut files = SocketFiles { dir, name, socket: None, pid_file, left_to_other: false };

    files.remove_stale(option, path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(failed("make a socket"))?;
    let address = SocketAddrUnix::new(path).map_err(failed("use it as an address"))?;
    bind(&socket, &address).map_err(failed("create the socket"))?;
    files.socket = files.identify().map_err(failed("find the socket just created"))?;
    // Nobody can connect before listen(2), so the old group never has access.
    chownat(&files.dir, &files.name, None, group, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("give the socket to the group"))?;
    listen(&socket, BACKLOG).map_err(failed("listen"))?;
    Ok(Listening { listener: UnixListener::from(socket), files: Some(files) })
}

fn find_group(name: &str) -> Result<Gid, SocketError> {
    match sys::group_id(name) {
        Ok(Some(id)) => Ok(Gid::from_raw(id)),
        Ok(None) => Err(SocketError::NoGroup(name.to_owned())),
        Err(source) => Err(SocketError::Group { group: name.to_owned(), source }),
    }
}

/// The socket's file and the pid file beside it; both are removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFiles {
    dir: OwnedFd,
    name: OsString,
    /// The socket's file, once it was created.
    socket: Option<FileId>,
    pid_file: PidFile,
    /// Another process that has a copy of this removes the files.
    left_to_other: bool,
}

/// Device and inode.
type FileId = (u64, u64);

impl SocketFiles {
    /// Removes the socket of a daemon that is gone. Nobody holds the pid file but us, so none is there.
    fn remove_stale(&self, option: &'static str, path: &Path) -> Result<(), SocketError> {
        let failed = |step| move |source| SocketError::Make { option, path: path.to_owned(), step, source };
        match statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("look at what is there")(errno)),
            Ok(there) if FileType::from_raw_mode(there.st_mode) != FileType::Socket => {
                Err(SocketError::Occupied { option, path: path.to_owned() })
            }
            Ok(_) => unlinkat(&self.dir, &self.name, AtFlags::empty())
                .map_err(failed("remove the socket that an earlier daemon left")),
        }
    }

    /// What is at the socket's name now.
    fn identify(&self) -> rustix::io::Result<Option<FileId>> {
        match statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(Some((there.st_dev, there.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The directory that they are in.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Removes both files unless something else is in their place by now. The socket goes first: while the pid file is
    /// there, no other daemon creates a socket.
    pub(super) fn remove(&self) {
        let socket = || -> rustix::io::Result<()> {
            match self.socket {
                Some(ours) if self.identify()? == Some(ours) => {
                    unlinkat(&self.dir, &self.name, AtFlags::empty())
                }
                _ => Ok(()),
            }
        };
        for removed in [socket(), self.pid_file.remove(self.dir.as_fd())] {
            if let Err(errno) = removed {
                warn!("cannot remove the socket or its pid file: {errno}");
            }
        }
    }

    /// Forgets the files without removing them: the process on the other side of a fork does.
    pub(super) fn leave_to_other(mut self) {
        self.left_to_other = true;
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        if !self.left_to_other {
            self.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    const OPTION: &str = "--socket-path";

    /// Held while a socket is made, because the umask is the whole process's.
    static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

    #[test]
    fn a_stale_socket_is_replaced_and_ours_removed() {
        let _alone = ALONE.lock();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());

        let listening = create(OPTION, &path, None).unwrap();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        UnixStream::connect(&path).unwrap();
        assert!(dir.path().join("s.pid").exists());

        match create(OPTION, &path, None) {
            Err(SocketError::PidFile { source: PidFileError::InUse { .. }, .. }) => (),
            other => panic!("{other:?}"),
        }
        UnixStream::connect(&path).unwrap();
        drop(listening);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_socket_or_not_ours_stays() {
        let _alone = ALONE.lock();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(create(OPTION, &path, None), Err(SocketError::Occupied { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");

        std::fs::remove_file(&path).unwrap();
        let listening = create(OPTION, &path, None).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(listening);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_longest_path_fits() {
        let _alone = ALONE.lock();
        let dir = tempfile::tempdir().unwrap();
        let room = PATH_MAX - dir.path().as_os_str().len() - 1;
        create(OPTION, &dir.path().join("x".repeat(room)), None).unwrap();
        let too_long = dir.path().join("x".repeat(room + 1));
        assert!(matches!(create(OPTION, &too_long, None), Err(SocketError::TooLong { length: 108, .. })));
        assert!(matches!(create(OPTION, Path::new("/"), None), Err(SocketError::NoName { .. })));
    }

    #[test]
    fn only_a_listening_stream_socket_is_taken_over() {
        let what = |fd: RawFd| match inherited(fd) {
            Err(SocketError::NotListening { what, .. }) => what,
            Err(SocketError::Closed { .. }) => "closed",
            other => panic!("{other:?}"),
        };
        assert_eq!(what(std::fs::File::open("/dev/null").unwrap().into_raw_fd()), "not a socket");
        assert_eq!(what(UnixDatagram::unbound().unwrap().into_raw_fd()), "not a stream socket");
        let (connected, _peer) = UnixStream::pair().unwrap();
        assert_eq!(what(connected.into_raw_fd()), "a socket that does not listen");
        assert_eq!(what(1 << 24), "closed");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fd = UnixListener::bind(&path).unwrap().into_raw_fd();
        assert_eq!(inherited(fd).unwrap().as_raw_fd(), fd);
    }

    #[test]
    fn the_mode_follows_the_group() {
        let _alone = ALONE.lock();
        // Creating with a group needs a group that the process may give to: its own.
        let Ok(Some(_)) = sys::group_id("root") else { return };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to give a socket to a group");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listening = create(OPTION, &path, Some("root")).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o770);
        assert!(matches!(
            create(OPTION, &dir.path().join("t"), Some("no such group")),
            Err(SocketError::NoGroup(_))
        ));
    }
}
