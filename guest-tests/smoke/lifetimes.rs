//! Checks of files that are open while their names change or go, and of files that never had one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use rustix::fs::{AtFlags, CWD, linkat};

use crate::check::{Check, Outcome, Place, refused, same, same_bytes};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "unlinked-open-file", run: unlinked },
    Check { name: "replaced-open-file", run: replaced },
    Check { name: "renamed-open-file", run: renamed },
    Check { name: "removed-open-directory", run: removed_directory },
    Check { name: "name-reused", run: name_reused },
    Check { name: "open-survives-chmod", run: survives_chmod },
    Check { name: "created-without-permission", run: created_without_permission },
    Check { name: "tmpfile", run: tmpfile },
    Check { name: "tmpfile-exclusive", run: tmpfile_exclusive },
    Check { name: "many-handles", run: many_handles },
];

fn read_write(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn unlinked(place: &Place) -> Outcome {
    let path = place.file("file", b"first")?;
    let file = read_write(&path)?;
    fs::remove_file(&path)?;
    same("links", file.metadata()?.nlink(), 0)?;
    file.write_all_at(b" and more", 5)?;
    file.set_len(10)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.sync_all()?;
    let mut got = String::new();
    (&file).read_to_string(&mut got)?;
    same("content", got.as_str(), "first and ")?;
    same("mode", file.metadata()?.mode() & 0o7777, 0o600)?;
    // Another open of the nameless inode goes by its nodeid alone.
    let again = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    same("size by another open", again.metadata()?.size(), 10)
}

fn replaced(place: &Place) -> Outcome {
    let (old, new) = (place.file("file", b"old content")?, place.file("new", b"new content")?);
    let file = read_write(&old)?;
    fs::rename(&new, &old)?;
    file.write_all_at(b"OLD", 0)?;
    let mut got = [0; 11];
    file.read_exact_at(&mut got, 0)?;
    same_bytes("by the old handle", &got, b"OLD content")?;
    same_bytes("by name", &fs::read(&old)?, b"new content")
}

fn renamed(place: &Place) -> Outcome {
    let path = place.file("file", b"content")?;
    let mut file = OpenOptions::new().append(true).open(&path)?;
    fs::create_dir(place.path("dir"))?;
    fs::rename(&path, place.path("dir/moved"))?;
    fs::rename(place.path("dir"), place.path("other"))?;
    file.write_all(b", more")?;
    same_bytes("content", &fs::read(place.path("other/moved"))?, b"content, more")
}

fn removed_directory(place: &Place) -> Outcome {
    fs::create_dir(place.path("dir"))?;
    let dir = File::open(place.path("dir"))?;
    fs::remove_dir(place.path("dir"))?;
    same("links", dir.metadata()?.nlink(), 0)?;
    fs::create_dir(place.path("dir"))?;
    let new = fs::metadata(place.path("dir"))?;
    same("two directories at once", new.ino() == dir.metadata()?.ino(), false)
}

fn name_reused(place: &Place) -> Outcome {
    // The host may give a new file the inode number of the one just removed; nothing of the old one may show.
    for round in 0..200_u32 {
        let path = place.file("file", round.to_string().as_bytes())?;
        same_bytes("content", &fs::read(&path)?, round.to_string().as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + round % 8))?;
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        same("type", fs::metadata(&path)?.is_dir(), true)?;
        fs::remove_dir(&path)?;
    }
    Ok(())
}

fn survives_chmod(place: &Place) -> Outcome {
    let path = place.file("file", b"content")?;
    std::os::unix::fs::chown(&path, Some(1000), Some(1000))?;
    crate::sys::as_user(1000, 1000, &[], || -> Outcome {
        let file = read_write(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000))?;
        refused("a new open", File::open(&path), libc::EACCES)?;
        file.write_all_at(b"C", 0)?;
        file.set_len(3)?;
        let mut got = [0; 3];
        file.read_exact_at(&mut got, 0)?;
        same_bytes("content", &got, b"Con")
    })?
}

fn created_without_permission(place: &Place) -> Outcome {
    // open(2): the mode counts for later opens only, so the creator may write to a file of mode 0400.
    let dir = place.path("dir");
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    let path = dir.join("file");
    crate::sys::as_user(1000, 1000, &[], || -> Outcome {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
        file.write_all(b"content")?;
        refused("a second open", OpenOptions::new().write(true).open(&path), libc::EACCES)
    })??;
    same_bytes("content", &fs::read(&path)?, b"content")
}

fn tmpfile(place: &Place) -> Outcome {
    place.guest_has("TMPFILE", (6, 1))?;
    let flags = libc::O_TMPFILE;
    let file = OpenOptions::new().read(true).write(true).mode(0o640).custom_flags(flags).open(place.dir())?;
    same("links", file.metadata()?.nlink(), 0)?;
    same("mode", file.metadata()?.mode(), libc::S_IFREG | 0o640)?;
    same("names in the directory", fs::read_dir(place.dir())?.count(), 0)?;
    file.write_all_at(b"nameless", 0)?;
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, handle, CWD, place.path("named"), AtFlags::SYMLINK_FOLLOW)?;
    same_bytes("content", &fs::read(place.path("named"))?, b"nameless")?;
    same("links afterwards", fs::metadata(place.path("named"))?.nlink(), 1)?;
    same("one inode", fs::metadata(place.path("named"))?.ino(), file.metadata()?.ino())
}

fn tmpfile_exclusive(place: &Place) -> Outcome {
    place.guest_has("TMPFILE", (6, 1))?;
    let flags = libc::O_TMPFILE | libc::O_EXCL;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(place.dir())?;
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    let result = linkat(CWD, handle, CWD, place.path("named"), AtFlags::SYMLINK_FOLLOW);
    refused("giving it a name", result, libc::ENOENT)
}

fn many_handles(place: &Place) -> Outcome {
    let path = place.path("file");
    let files: Vec<_> = (0..500)
        .map(|_| OpenOptions::new().create(true).append(true).open(&path))
        .collect::<Result<_, _>>()?;
    for (i, mut file) in files.into_iter().enumerate() {
        write!(file, "{i},")?;
    }
    let want: String = (0..500).map(|i| format!("{i},")).collect();
    same_bytes("content", &fs::read(&path)?, want.as_bytes())
}
