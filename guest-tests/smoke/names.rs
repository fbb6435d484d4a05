//! Checks of names: lookup, creation of every type of file, links, removal and rename.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, linkat, makedev, mknodat, renameat_with};

use crate::check::{Check, Outcome, Place, Verdict, holds, refused, same, same_bytes};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "lookup-missing", run: lookup_missing },
    Check { name: "create-exclusive", run: create_exclusive },
    Check { name: "mkdir-rmdir", run: mkdir_rmdir },
    Check { name: "mknod-every-type", run: mknod_every_type },
    Check { name: "socket-bind", run: socket_bind },
    Check { name: "symlink-readlink", run: symlink_readlink },
    Check { name: "link-shares-inode", run: link_shares_inode },
    Check { name: "unlink", run: unlink },
    Check { name: "rename-replaces", run: rename_replaces },
    Check { name: "rename-directory", run: rename_directory },
    Check { name: "rename-noreplace", run: rename_noreplace },
    Check { name: "rename-exchange", run: rename_exchange },
    Check { name: "rename-whiteout", run: rename_whiteout },
    Check { name: "name-length", run: name_length },
    Check { name: "name-any-byte", run: name_any_byte },
    Check { name: "deep-path", run: deep_path },
];

fn lookup_missing(place: &Place) -> Outcome {
    let path = place.path("absent");
    refused("stat of a missing name", fs::metadata(&path), libc::ENOENT)?;
    // A name that was looked up in vain must be found once it exists, whatever was cached.
    File::create(&path)?;
    same("type", fs::metadata(&path)?.is_file(), true)?;
    refused("lookup below a file", fs::metadata(path.join("below")), libc::ENOTDIR)
}

fn create_exclusive(place: &Place) -> Outcome {
    let path = place.path("file");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path)?;
    same("mode", file.metadata()?.mode(), libc::S_IFREG | 0o640)?;
    refused(
        "second exclusive creation",
        OpenOptions::new().write(true).create_new(true).open(&path),
        libc::EEXIST,
    )?;
    symlink("file", place.path("link"))?;
    refused(
        "through a link",
        OpenOptions::new().write(true).create_new(true).open(place.path("link")),
        libc::EEXIST,
    )
}

fn mkdir_rmdir(place: &Place) -> Outcome {
    let path = place.path("dir");
    let links = fs::metadata(place.dir())?.nlink();
    fs::create_dir(&path)?;
    holds("it is a directory", fs::metadata(&path)?.is_dir())?;
    same("links of the parent", fs::metadata(place.dir())?.nlink(), links + 1)?;
    refused("mkdir of an existing name", fs::create_dir(&path), libc::EEXIST)?;
    fs::write(path.join("file"), "x")?;
    refused("rmdir of a full directory", fs::remove_dir(&path), libc::ENOTEMPTY)?;
    fs::remove_file(path.join("file"))?;
    fs::remove_dir(&path)?;
    same("links of the parent afterwards", fs::metadata(place.dir())?.nlink(), links)?;
    refused("stat after rmdir", fs::metadata(&path), libc::ENOENT)
}

fn mknod_every_type(place: &Place) -> Outcome {
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, place.path("regular"), FileType::RegularFile, mode, 0)?;
    mknodat(CWD, place.path("fifo"), FileType::Fifo, mode, 0)?;
    mknodat(CWD, place.path("socket"), FileType::Socket, mode, 0)?;
    let kind = |name: &str| fs::symlink_metadata(place.path(name)).map(|meta| meta.file_type());
    holds("regular", kind("regular")?.is_file())?;
    holds("fifo", kind("fifo")?.is_fifo())?;
    holds("socket", kind("socket")?.is_socket())?;
    let device = makedev(259, 70_000);
    mknodat(CWD, place.path("char"), FileType::CharacterDevice, mode, device)?;
    mknodat(CWD, place.path("block"), FileType::BlockDevice, mode, device)?;
    holds("character device", kind("char")?.is_char_device())?;
    holds("block device", kind("block")?.is_block_device())?;
    same("device number", fs::symlink_metadata(place.path("char"))?.rdev(), device)
}

fn socket_bind(place: &Place) -> Outcome {
    let path = place.path("s");
    // sun_path holds 108 bytes.
    if path.as_os_str().len() >= 108 {
        return Err(Verdict::Skip("the path of the share is too long for a socket address".into()));
    }
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    let _client = std::os::unix::net::UnixStream::connect(&path)?;
    listener.accept()?;
    refused("bind of a bound name", std::os::unix::net::UnixListener::bind(&path), libc::EADDRINUSE)
}

fn symlink_readlink(place: &Place) -> Outcome {
    place.file("target", b"pointed at")?;
    symlink("target", place.path("link"))?;
    same_bytes("content through the link", &fs::read(place.path("link"))?, b"pointed at")?;
    same("size is the target's length", fs::symlink_metadata(place.path("link"))?.size(), 6)?;
    // Longest target: PATH_MAX with its NUL, less what the host file system keeps for itself (ext4: one 4096-byte block). XFS
    // takes 1023 bytes.
    let mut long = "x/".repeat(2000);
    if let Err(error) = symlink(&long, place.path("long")) {
        same("an error", error.raw_os_error(), Some(libc::ENAMETOOLONG))?;
        long.truncate(1000);
        symlink(&long, place.path("long"))?;
    }
    same("a long target", fs::read_link(place.path("long"))?, PathBuf::from(&long))?;
    symlink("loop", place.path("loop"))?;
    refused("following a loop", fs::metadata(place.path("loop")), libc::ELOOP)?;
    refused("readlink of a file", fs::read_link(place.path("target")), libc::EINVAL)
}

fn link_shares_inode(place: &Place) -> Outcome {
    let first = place.file("first", b"one")?;
    let second = place.path("second");
    fs::hard_link(&first, &second)?;
    let (a, b) = (fs::metadata(&first)?, fs::metadata(&second)?);
    same("inode numbers", a.ino(), b.ino())?;
    same("links", (a.nlink(), b.nlink()), (2, 2))?;
    fs::write(&second, "changed through the second name")?;
    same_bytes("content by the first name", &fs::read(&first)?, b"changed through the second name")?;
    refused("link onto an existing name", fs::hard_link(&first, &second), libc::EEXIST)?;
    refused("link of a directory", fs::hard_link(place.dir(), place.path("third")), libc::EPERM)?;
    fs::remove_file(&first)?;
    same("links after unlink", fs::metadata(&second)?.nlink(), 1)?;
    symlink("second", place.path("symbolic"))?;
    linkat(CWD, place.path("symbolic"), CWD, place.path("linked-symbolic"), AtFlags::empty())?;
    holds(
        "a link to a symlink is a symlink",
        fs::symlink_metadata(place.path("linked-symbolic"))?.is_symlink(),
    )
}

fn unlink(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    fs::remove_file(&path)?;
    refused("stat after unlink", fs::metadata(&path), libc::ENOENT)?;
    refused("second unlink", fs::remove_file(&path), libc::ENOENT)?;
    fs::create_dir(place.path("dir"))?;
    refused("unlink of a directory", fs::remove_file(place.path("dir")), libc::EISDIR)?;
    place.file("file", b"x")?;
    refused("rmdir of a file", fs::remove_dir(place.path("file")), libc::ENOTDIR)
}

fn rename_replaces(place: &Place) -> Outcome {
    let (from, to) = (place.file("from", b"new")?, place.file("to", b"old")?);
    let ino = fs::metadata(&from)?.ino();
    fs::rename(&from, &to)?;
    same("inode number", fs::metadata(&to)?.ino(), ino)?;
    same_bytes("content", &fs::read(&to)?, b"new")?;
    refused("the old name", fs::metadata(&from), libc::ENOENT)?;
    // POSIX: renaming one hard link onto another of the same file does nothing.
    fs::hard_link(&to, &from)?;
    fs::rename(&from, &to)?;
    same("both names stay", fs::metadata(&from)?.nlink(), 2)
}

fn rename_directory(place: &Place) -> Outcome {
    let (a, b) = (place.path("a"), place.path("b"));
    fs::create_dir_all(a.join("inner"))?;
    fs::create_dir(&b)?;
    fs::write(a.join("inner/file"), "kept")?;
    refused("a directory into itself", fs::rename(&a, a.join("inner/a")), libc::EINVAL)?;
    fs::rename(&a, b.join("moved"))?;
    same_bytes("content below", &fs::read(b.join("moved/inner/file"))?, b"kept")?;
    // POSIX has both; XFS says the other one.
    let onto_full = fs::rename(place_dir(place, "c")?, &b);
    let errno = onto_full.as_ref().err().and_then(std::io::Error::raw_os_error);
    let right = if errno == Some(libc::EEXIST) { libc::EEXIST } else { libc::ENOTEMPTY };
    refused("onto a full directory", onto_full, right)?;
    place.file("file", b"")?;
    refused("a directory onto a file", fs::rename(&b, place.path("file")), libc::ENOTDIR)?;
    refused("a file onto a directory", fs::rename(place.path("file"), &b), libc::EISDIR)
}

fn place_dir(place: &Place, name: &str) -> std::io::Result<PathBuf> {
    fs::create_dir(place.path(name)).map(|()| place.path(name))
}

fn rename_noreplace(place: &Place) -> Outcome {
    let (from, to) = (place.file("from", b"new")?, place.file("to", b"old")?);
    let result = renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
    refused("NOREPLACE onto an existing name", result, libc::EEXIST)?;
    same_bytes("the target", &fs::read(&to)?, b"old")?;
    renameat_with(CWD, &from, CWD, place.path("free"), RenameFlags::NOREPLACE)?;
    same_bytes("at the free name", &fs::read(place.path("free"))?, b"new")
}

fn rename_exchange(place: &Place) -> Outcome {
    let file = place.file("file", b"in the file")?;
    let dir = place_dir(place, "dir")?;
    fs::write(dir.join("inner"), "in the directory")?;
    renameat_with(CWD, &file, CWD, &dir, RenameFlags::EXCHANGE)?;
    same_bytes("the file", &fs::read(&dir)?, b"in the file")?;
    same_bytes("the directory", &fs::read(file.join("inner"))?, b"in the directory")?;
    let result = renameat_with(CWD, &file, CWD, place.path("absent"), RenameFlags::EXCHANGE);
    refused("exchange with a missing name", result, libc::ENOENT)
}

fn rename_whiteout(place: &Place) -> Outcome {
    let from = place.file("from", b"x")?;
    renameat_with(CWD, &from, CWD, place.path("to"), RenameFlags::WHITEOUT)?;
    let left = fs::symlink_metadata(&from)?;
    holds("a character device is left behind", left.file_type().is_char_device())?;
    same("its device number", left.rdev(), 0)?;
    same_bytes("the renamed file", &fs::read(place.path("to"))?, b"x")
}

fn name_length(place: &Place) -> Outcome {
    let longest = "n".repeat(255);
    let path = place.file(&longest, b"long")?;
    same_bytes("content", &fs::read(&path)?, b"long")?;
    let listed: Vec<_> =
        fs::read_dir(place.dir())?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    same("listing", listed, vec![longest.clone().into()])?;
    fs::rename(&path, place.path(&"m".repeat(255)))?;
    let too_long = place.path(&"n".repeat(256));
    refused("create", File::create(&too_long), libc::ENAMETOOLONG)?;
    refused("mkdir", fs::create_dir(&too_long), libc::ENAMETOOLONG)?;
    refused("stat", fs::metadata(&too_long), libc::ENAMETOOLONG)?;
    refused("symlink", symlink("x", &too_long), libc::ENAMETOOLONG)?;
    refused("rename", fs::rename(place.path(&"m".repeat(255)), &too_long), libc::ENAMETOOLONG)
}

fn name_any_byte(place: &Place) -> Outcome {
    use std::os::unix::ffi::OsStrExt;
    // Every byte but NUL and '/', each in a name of its own, none of them text in any encoding.
    let names: Vec<Vec<u8>> = (1..=255_u8).filter(|b| *b != b'/').map(|b| vec![b'-', b, 0xff]).collect();
    for name in &names {
        fs::write(place.dir().join(std::ffi::OsStr::from_bytes(name)), name)?;
    }
    let mut listed = Vec::new();
    for entry in fs::read_dir(place.dir())? {
        let entry = entry?;
        same_bytes("content", &fs::read(entry.path())?, entry.file_name().as_bytes())?;
        listed.push(entry.file_name().as_bytes().to_vec());
    }
    listed.sort();
    same("listing", listed, names)
}

fn deep_path(place: &Place) -> Outcome {
    // Deeper than PATH_MAX, so it can be reached only step by step.
    let mut dir = rustix::fs::open(place.dir(), rustix::fs::OFlags::PATH, Mode::empty())?;
    let step = "directory".repeat(10);
    let open = |at: &rustix::fd::OwnedFd, name: &str| {
        rustix::fs::openat(
            at,
            name,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
            Mode::empty(),
        )
    };
    for _ in 0..60 {
        rustix::fs::mkdirat(&dir, step.as_str(), Mode::from_raw_mode(0o755))?;
        dir = open(&dir, &step)?;
    }
    let wanted = rustix::fs::fstat(&dir)?.st_ino;
    let mut again = rustix::fs::open(place.dir(), rustix::fs::OFlags::PATH, Mode::empty())?;
    for _ in 0..60 {
        again = open(&again, &step)?;
    }
    same("the directory at depth 60", rustix::fs::fstat(&again)?.st_ino, wanted)?;
    for _ in 0..60 {
        dir = open(&dir, "..")?;
    }
    same("sixty times '..'", rustix::fs::fstat(&dir)?.st_ino, fs::metadata(place.dir())?.ino())
}
