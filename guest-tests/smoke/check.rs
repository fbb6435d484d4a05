//! What a check is: a name, a function, and how its verdict is printed and counted.

use std::fmt::{Debug, Display};
use std::fs;
use std::io;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The magic number that statfs reports for any FUSE mount (include/uapi/linux/magic.h, `FUSE_SUPER_MAGIC`).
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

/// Why a check did not pass.
#[derive(Debug)]
pub enum Verdict {
    /// The share answered differently from what the call promises.
    Fail(String),
    /// The host file system or the guest kernel has no such operation; the text says which.
    Skip(String),
}

/// What a check returns: nothing when everything was as it should be.
pub type Outcome = Result<(), Verdict>;

impl From<io::Error> for Verdict {
    #[track_caller]
    fn from(error: io::Error) -> Self {
        Self::unexpected(&error)
    }
}

impl From<rustix::io::Errno> for Verdict {
    #[track_caller]
    fn from(error: rustix::io::Errno) -> Self {
        Self::unexpected(&error)
    }
}

impl Verdict {
    /// A failure found at the caller's line.
    #[track_caller]
    pub fn fail(why: impl Display) -> Self {
        Self::at(Location::caller(), &why)
    }

    #[track_caller]
    fn unexpected(error: &dyn Display) -> Self {
        Self::at(Location::caller(), error)
    }

    fn at(place: &Location<'_>, why: &dyn Display) -> Self {
        let file = Path::new(place.file()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::Fail(format!("{why} ({file}:{})", place.line()))
    }
}

/// Fails unless the two values are equal.
#[track_caller]
pub fn same<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(Verdict::fail(format!("{what} is {got:?}, should be {want:?}"))) }
}

/// Fails unless the condition holds.
#[track_caller]
pub fn holds(what: &str, condition: bool) -> Outcome {
    if condition { Ok(()) } else { Err(Verdict::fail(format!("does not hold: {what}"))) }
}

/// Fails unless the two byte strings are equal; reports the first difference and not the contents.
#[track_caller]
pub fn same_bytes(what: &str, got: &[u8], want: &[u8]) -> Outcome {
    if got == want {
        return Ok(());
    }
    let at = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
    Err(Verdict::fail(format!(
        "{what}: {} bytes, expected {}, first difference at byte {at}",
        got.len(),
        want.len()
    )))
}

/// Fails unless the call was refused with this errno.
#[track_caller]
pub fn refused<T, E: Into<io::Error>>(what: &str, result: Result<T, E>, errno: i32) -> Outcome {
    let wanted = io::Error::from_raw_os_error(errno);
    match result.map_err(Into::into) {
        Ok(_) => Err(Verdict::fail(format!("{what} succeeded, should fail: {wanted}"))),
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        Err(error) => Err(Verdict::fail(format!("{what} failed with: {error}, should be: {wanted}"))),
    }
}

/// The directory that belongs to one check.
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// A place below an existing directory; the caller removes it.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a name in this place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Creates a file with these bytes and returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Whether the place lies on a FUSE mount, where the guest's FUSE client sets limits of its own.
    pub fn on_fuse(&self) -> io::Result<bool> {
        Ok(rustix::fs::statfs(&self.dir)?.f_type == FUSE_SUPER_MAGIC)
    }

    /// The verdict for an operation that fs/fuse refuses by itself, without asking the daemon: a skip on FUSE, a failure elsewhere.
    #[track_caller]
    pub fn guest_refuses(&self, what: &str) -> Verdict {
        match self.on_fuse() {
            Ok(true) => Verdict::Skip(format!("the guest's FUSE client has no {what}")),
            _ => Verdict::fail(format!("{what} was refused")),
        }
    }

    /// Skips on FUSE what the client of this guest's kernel learned only in a later Linux.
    pub fn guest_has(&self, what: &str, since: (u32, u32)) -> Outcome {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < since && self.on_fuse()? {
            return Err(Verdict::Skip(format!(
                "FUSE of Linux {release} has no {what} (since {}.{})",
                since.0, since.1
            )));
        }
        Ok(())
    }
}

/// A named check.
pub struct Check {
    /// Printed and used to select; unique in the program.
    pub name: &'static str,
    /// Does the work in a place of its own.
    pub run: fn(&Place) -> Outcome,
}

/// Runs the checks one after another and returns how many failed. `lacking` names checks that the host file system is known not to pass.
pub fn run_all(base: &Path, checks: &[&Check], lacking: &[&str]) -> io::Result<usize> {
    let (mut passed, mut failed, mut skipped) = (0_usize, 0_usize, 0_usize);
    for check in checks {
        let dir = base.join(check.name);
        fs::create_dir(&dir)?;
        let place = Place::new(dir);
        let began = Instant::now();
        match (check.run)(&place) {
            Ok(()) => {
                passed += 1;
                println!("ok {} ({} ms)", check.name, began.elapsed().as_millis());
            }
            Err(Verdict::Fail(_)) if lacking.contains(&check.name) => {
                skipped += 1;
                println!("skip {}: cannot pass on this share (SUITE_LACKS)", check.name);
            }
            Err(Verdict::Fail(why)) => {
                failed += 1;
                println!("FAIL {}: {why}", check.name);
            }
            Err(Verdict::Skip(why)) => {
                skipped += 1;
                println!("skip {}: {why}", check.name);
            }
        }
        if let Err(error) = fs::remove_dir_all(place.dir()) {
            failed += 1;
            println!("FAIL {}: its directory cannot be removed afterwards: {error}", check.name);
        }
    }
    println!("summary: {passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}
