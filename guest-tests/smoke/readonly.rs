//! Checks of a share that is exported read-only: everything can be read, nothing can be changed, and the answer is EROFS.
//!
//! The daemon is the one that refuses here; the guest mounts the share without `ro`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, Timespec, Timestamps, XattrFlags};

use crate::check::{Outcome, Verdict, refused, same};

/// An operation and what came of it.
type Attempt = (&'static str, io::Result<()>);

fn attempts(dir: &Path) -> Vec<Attempt> {
    let (file, new) = (dir.join("file"), dir.join("new"));
    let open = |options: &mut OpenOptions, path: &Path| options.open(path).map(|_| ());
    let now = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: now, last_modification: now };
    let rename = |flags| rustix::fs::renameat_with(CWD, &file, CWD, &new, flags);
    vec![
        ("open for writing", open(OpenOptions::new().write(true), &file)),
        ("open for appending", open(OpenOptions::new().append(true), &file)),
        ("open with O_TRUNC", open(OpenOptions::new().write(true).truncate(true), &file)),
        ("create", open(OpenOptions::new().write(true).create(true).truncate(false), &new)),
        ("create exclusively", open(OpenOptions::new().write(true).create_new(true), &new)),
        ("tmpfile", open(OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE), dir)),
        ("mkdir", fs::create_dir(&new)),
        ("mkfifo", rustix::fs::mknodat(CWD, &new, FileType::Fifo, 0o600.into(), 0).map_err(Into::into)),
        ("symlink", symlink("x", &new)),
        ("link", fs::hard_link(&file, &new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(dir.join("dir"))),
        ("rename", fs::rename(&file, &new)),
        ("rename without replacing", rename(RenameFlags::NOREPLACE).map_err(Into::into)),
        ("truncate", crate::sys::truncate(&file, 0)),
        ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o600))),
        ("chown", chown(&file, Some(1), Some(1))),
        ("utimensat", rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()).map_err(Into::into)),
        ("setxattr", rustix::fs::setxattr(&file, "user.new", b"x", XattrFlags::empty()).map_err(Into::into)),
        ("removexattr", rustix::fs::removexattr(&file, "user.present").map_err(Into::into)),
    ]
}

fn reads(dir: &Path) -> Outcome {
    let want = b"read me".to_vec();
    same("content", fs::read(dir.join("file"))?, want.clone())?;
    same("content through a link", fs::read(dir.join("link"))?, want)?;
    let names: Result<Vec<_>, io::Error> =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name())).collect();
    let mut names = names?;
    names.sort();
    same("names", names, vec!["dir".into(), "file".into(), "link".into()])?;
    let mut value = [0; 5];
    rustix::fs::getxattr(dir.join("file"), "user.present", &mut value)?;
    same("attribute", &value, b"value")?;
    File::open(dir.join("file"))?.sync_all()?;
    rustix::fs::statvfs(dir)?;
    Ok(())
}

/// Tries everything in a directory that holds `file` ("read me", attribute user.present), `link` to it and an empty `dir`. Returns the number of failures.
pub fn run(dir: &Path) -> io::Result<usize> {
    let mut failures = 0;
    let mut report = |name: &str, outcome: Outcome| {
        let verdict = match outcome {
            Ok(()) => return println!("ok {name}"),
            Err(Verdict::Fail(why) | Verdict::Skip(why)) => why,
        };
        failures += 1;
        println!("FAIL {name}: {verdict}");
    };
    report("reads", reads(dir));
    for (name, result) in attempts(dir) {
        report(name, refused(name, result, libc::EROFS));
    }
    report("reads afterwards", reads(dir));
    println!("summary: {failures} failed");
    Ok(failures)
}
