//! Checks of who creates and who may: owners of new files, setgid directories, supplementary groups, set-id bits, the sticky bit.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, getxattr, setxattr};

use crate::check::{Check, Outcome, Place, Verdict, holds, refused, same};
use crate::sys::as_user;

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "create-as-users", run: create_as_users },
    Check { name: "create-setgid-directory", run: create_setgid_directory },
    Check { name: "create-supplementary-group", run: create_supplementary_group },
    Check { name: "create-as-root-of-a-namespace", run: create_as_root_of_a_namespace },
    Check { name: "permission-denied", run: permission_denied },
    Check { name: "setuid-cleared-by-write", run: setuid_cleared_by_write },
    Check { name: "setuid-cleared-by-truncate", run: setuid_cleared_by_truncate },
    Check { name: "setuid-cleared-by-fallocate", run: setuid_cleared_by_fallocate },
    Check { name: "setuid-cleared-by-chown", run: setuid_cleared_by_chown },
    Check { name: "setuid-kept-for-root", run: setuid_kept_for_root },
    Check { name: "capabilities-go-with-contents", run: capabilities_go_with_contents },
    Check { name: "sticky-directory", run: sticky_directory },
    Check { name: "chmod-by-others", run: chmod_by_others },
    Check { name: "users-at-once", run: users_at_once },
];

fn owner(path: &Path) -> std::io::Result<(u32, u32)> {
    fs::symlink_metadata(path).map(|meta| (meta.uid(), meta.gid()))
}

fn mode(path: &Path) -> std::io::Result<u32> {
    fs::symlink_metadata(path).map(|meta| meta.mode() & 0o7777)
}

fn open_directory(place: &Place, name: &str, mode: u32) -> std::io::Result<PathBuf> {
    let dir = place.path(name);
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, Permissions::from_mode(mode))?;
    Ok(dir)
}

/// One object of every kind that can be created.
fn create_everything(dir: &Path) -> std::io::Result<()> {
    File::create(dir.join("file"))?;
    fs::create_dir(dir.join("dir"))?;
    symlink("anything", dir.join("link"))?;
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    Ok(())
}

const EVERYTHING: [&str; 4] = ["file", "dir", "link", "fifo"];

fn create_as_users(place: &Place) -> Outcome {
    for uid in [1, 1000, 65_533, 3_000_000_000] {
        let dir = open_directory(place, &uid.to_string(), 0o777)?;
        as_user(uid, uid + 1, &[], || create_everything(&dir))??;
        for name in EVERYTHING {
            same(name, owner(&dir.join(name))?, (uid, uid + 1))?;
        }
    }
    Ok(())
}

fn create_setgid_directory(place: &Place) -> Outcome {
    let dir = open_directory(place, "shared", 0o777)?;
    chown(&dir, Some(0), Some(777))?;
    fs::set_permissions(&dir, Permissions::from_mode(0o2777))?;
    as_user(1000, 1000, &[], || create_everything(&dir))??;
    for name in EVERYTHING {
        same(name, owner(&dir.join(name))?, (1000, 777))?;
    }
    same("a directory inherits the bit", mode(&dir.join("dir"))? & 0o2000, 0o2000)?;
    // inode_init_owner(): a creator outside the directory's group does not get a set-group-id program out of it.
    let program = dir.join("program");
    let made = |program: &Path| {
        use std::os::unix::fs::OpenOptionsExt;
        OpenOptions::new().write(true).create_new(true).mode(0o2755).open(program).map(|_| ())
    };
    as_user(1000, 1000, &[], || made(&program))??;
    same("set-group-id outside the group", mode(&program)? & 0o2000, 0)?;
    place.guest_has("groups of creators", (6, 3))?;
    let program = dir.join("program-of-member");
    as_user(1000, 1000, &[777], || made(&program))??;
    same("set-group-id of a member", mode(&program)? & 0o2000, 0o2000)
}

fn create_supplementary_group(place: &Place) -> Outcome {
    // The directory is writable for a group that is only among the creator's supplementary groups.
    let dir = open_directory(place, "team", 0o770)?;
    chown(&dir, Some(0), Some(888))?;
    as_user(1000, 1000, &[555, 888], || create_everything(&dir))??;
    same("owner", owner(&dir.join("file"))?, (1000, 1000))?;
    as_user(1000, 1000, &[888], || fs::rename(dir.join("file"), dir.join("renamed")))??;
    as_user(1000, 1000, &[888], || chown(dir.join("renamed"), None, Some(888)))??;
    same("group given to", owner(&dir.join("renamed"))?, (1000, 888))?;
    as_user(1000, 1000, &[888], || fs::remove_file(dir.join("renamed")))??;
    let outsider = as_user(1001, 1001, &[555], || File::create(dir.join("other")))?;
    refused("creation by an outsider", outsider, libc::EACCES)
}

fn permission_denied(place: &Place) -> Outcome {
    let dir = open_directory(place, "private", 0o755)?;
    let path = dir.join("file");
    fs::write(&path, "x")?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    as_user(1000, 1000, &[], || -> Outcome {
        refused("read", File::open(&path), libc::EACCES)?;
        refused("write", OpenOptions::new().write(true).open(&path), libc::EACCES)?;
        refused("truncate", crate::sys::truncate(&path, 0), libc::EACCES)?;
        refused("unlink", fs::remove_file(&path), libc::EACCES)?;
        refused("rename", fs::rename(&path, dir.join("other")), libc::EACCES)?;
        refused("mkdir", fs::create_dir(dir.join("dir")), libc::EACCES)?;
        refused("symlink", symlink("x", dir.join("link")), libc::EACCES)?;
        refused("chown", chown(&path, Some(1000), None), libc::EPERM)
    })??;
    fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    let looked = as_user(1000, 1000, &[], || fs::metadata(&path))?;
    refused("lookup in a closed directory", looked, libc::EACCES)
}

/// A set-id program that user 1000 may write to.
fn program(place: &Place) -> std::io::Result<PathBuf> {
    let path = place.file("program", b"#!/bin/true\n")?;
    chown(&path, Some(1000), Some(1000))?;
    fs::set_permissions(&path, Permissions::from_mode(0o6777))?;
    Ok(path)
}

fn setuid_cleared_by_write(place: &Place) -> Outcome {
    let path = program(place)?;
    as_user(1001, 1001, &[], || OpenOptions::new().append(true).open(&path)?.write_all(b"more"))??;
    same("mode after a write by another", mode(&path)?, 0o777)?;
    fs::set_permissions(&path, Permissions::from_mode(0o6777))?;
    as_user(1000, 1000, &[], || OpenOptions::new().append(true).open(&path)?.write_all(b"more"))??;
    same("mode after a write by the owner", mode(&path)?, 0o777)
}

/// An ordinary user by his id, and privileged where files of his own are concerned: a rootless container.
fn create_as_root_of_a_namespace(place: &Place) -> Outcome {
    if !Path::new("/proc/self/ns/user").exists() {
        return Err(Verdict::Skip("the guest's kernel has no user namespaces".to_owned()));
    }
    let dir = open_directory(place, "container", 0o555)?;
    chown(&dir, Some(1000), Some(1000))?;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "mkdir"]).arg(dir.join("made"));
    let output = command.uid(1000).gid(1000).output()?;
    holds(&String::from_utf8_lossy(&output.stderr), output.status.success())?;
    same("owner", owner(&dir.join("made"))?, (1000, 1000))
}

fn setuid_cleared_by_truncate(place: &Place) -> Outcome {
    let path = program(place)?;
    as_user(1001, 1001, &[], || crate::sys::truncate(&path, 3))??;
    same("mode after truncate", mode(&path)?, 0o777)?;
    fs::set_permissions(&path, Permissions::from_mode(0o6777))?;
    as_user(1001, 1001, &[], || OpenOptions::new().write(true).truncate(true).open(&path).map(|_| ()))??;
    same("mode after O_TRUNC", mode(&path)?, 0o777)
}

fn setuid_cleared_by_fallocate(place: &Place) -> Outcome {
    let path = program(place)?;
    as_user(1001, 1001, &[], || -> Outcome {
        let file = OpenOptions::new().write(true).open(&path)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, 8192)?)
    })??;
    same("mode after fallocate", mode(&path)?, 0o777)
}

fn setuid_cleared_by_chown(place: &Place) -> Outcome {
    let path = program(place)?;
    chown(&path, Some(1002), Some(1002))?;
    same("mode after chown", mode(&path)?, 0o777)
}

fn setuid_kept_for_root(place: &Place) -> Outcome {
    let path = program(place)?;
    OpenOptions::new().append(true).open(&path)?.write_all(b"more")?;
    same("mode after a write by root", mode(&path)?, 0o6777)
}

/// Whoever changes a program takes its capabilities away, root too.
fn capabilities_go_with_contents(place: &Place) -> Outcome {
    const NAME: &str = "security.capability";
    // struct vfs_cap_data, version 2: CAP_NET_RAW, permitted and effective.
    let value: Vec<u8> = [0x0200_0001_u32, 1 << 13, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    let path = place.file("program", b"#!/bin/true\n")?;
    let append = || OpenOptions::new().append(true).open(&path)?.write_all(b"more");
    let empty = || OpenOptions::new().write(true).truncate(true).open(&path).map(drop);
    let shorten = || crate::sys::truncate(&path, 1);
    let give = || chown(&path, Some(1000), None);
    let changes: [(&str, &dyn Fn() -> std::io::Result<()>); 4] =
        [("a write", &append), ("truncate", &shorten), ("O_TRUNC", &empty), ("chown", &give)];
    for (what, change) in changes {
        fs::write(&path, b"#!/bin/true\n")?;
        setxattr(&path, NAME, &value, XattrFlags::empty())?;
        let mut found = [0; 64];
        let len = getxattr(&path, NAME, &mut found)?;
        same("length of the capabilities that were set", len, value.len())?;
        change()?;
        refused(&format!("capabilities after {what}"), getxattr(&path, NAME, &mut found), libc::ENODATA)?;
    }
    Ok(())
}

fn sticky_directory(place: &Place) -> Outcome {
    let dir = open_directory(place, "tmp", 0o1777)?;
    let path = dir.join("file");
    as_user(1000, 1000, &[], || File::create(&path).map(|_| ()))??;
    refused("unlink by another", as_user(1001, 1001, &[], || fs::remove_file(&path))?, libc::EPERM)?;
    refused(
        "rename by another",
        as_user(1001, 1001, &[], || fs::rename(&path, dir.join("b")))?,
        libc::EPERM,
    )?;
    as_user(1000, 1000, &[], || fs::remove_file(&path))??;
    Ok(())
}

fn chmod_by_others(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    chown(&path, Some(1000), Some(2000))?;
    let result = as_user(1001, 1001, &[], || fs::set_permissions(&path, Permissions::from_mode(0o777)))?;
    refused("chmod by another", result, libc::EPERM)?;
    // chmod(2): the set-group-id bit is dropped, without an error, by an owner outside the group.
    as_user(1000, 1000, &[], || fs::set_permissions(&path, Permissions::from_mode(0o2755)))??;
    same("set-group-id by an owner outside the group", mode(&path)?, 0o755)
}

fn users_at_once(place: &Place) -> Outcome {
    // Credentials must not leak from one request to another that is served at the same time.
    let dir = open_directory(place, "everyone", 0o777)?;
    let make = |uid: u32| {
        as_user(uid, uid, &[], || -> std::io::Result<()> {
            for i in 0..25 {
                let path = dir.join(format!("{uid}-{i}"));
                File::create(&path)?;
                fs::create_dir(dir.join(format!("{uid}-{i}-dir")))?;
            }
            Ok(())
        })
    };
    std::thread::scope(|scope| {
        let users: Vec<_> = (2000..2008).map(|uid| scope.spawn(move || make(uid))).collect();
        let died = |_| Err(std::io::Error::other("a thread panicked"));
        users.into_iter().try_for_each(|user| user.join().unwrap_or_else(died)?)
    })?;
    let mut seen = 0;
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid: u32 = name.split('-').next().and_then(|uid| uid.parse().ok()).unwrap_or_default();
        same(&name, owner(&entry.path())?, (uid, uid))?;
        seen += 1;
    }
    same("objects", seen, 400)
}
