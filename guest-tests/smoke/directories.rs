//! Checks of reading directories: completeness, positions, changes while reading.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Dir, FileType};

use crate::check::{Check, Outcome, Place, Verdict, holds, refused, same};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "readdir-empty", run: empty },
    Check { name: "readdir-large", run: large },
    Check { name: "readdir-types", run: types },
    Check { name: "telldir-seekdir", run: tell_and_seek },
    Check { name: "rewinddir-sees-changes", run: rewind_sees_changes },
    Check { name: "readdir-while-removing", run: while_removing },
    Check { name: "readdir-removed", run: removed },
    Check { name: "readdir-two-handles", run: two_handles },
];

fn open(path: &Path) -> std::io::Result<Dir> {
    Ok(Dir::new(File::open(path)?)?)
}

fn fill(dir: &Path, count: usize) -> std::io::Result<BTreeSet<String>> {
    (0..count)
        .map(|i| {
            let name = format!("entry-{i:05}");
            File::create(dir.join(&name)).map(|_| name)
        })
        .collect()
}

/// The next name that is neither "." nor "..", with the position behind it.
fn next(dir: &mut Dir) -> std::io::Result<Option<(String, i64)>> {
    for entry in dir {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            return Ok(Some((name, entry.offset())));
        }
    }
    Ok(None)
}

/// All further names; fails when one comes twice.
fn rest(dir: &mut Dir) -> Result<BTreeSet<String>, Verdict> {
    let mut names = BTreeSet::new();
    while let Some((name, _)) = next(dir)? {
        if !names.insert(name.clone()) {
            return Err(Verdict::fail(format!("{name} is listed twice")));
        }
    }
    Ok(names)
}

fn empty(place: &Place) -> Outcome {
    let mut dir = open(place.dir())?;
    let mut names = Vec::new();
    for entry in &mut dir {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    same("names", names, vec![".".into(), "..".into()])
}

fn large(place: &Place) -> Outcome {
    // An emulated guest takes half a minute for ten thousand; at full scale they are all there.
    let quick = std::env::var("SUITE_SCALE").is_ok_and(|scale| scale == "quick");
    let want = fill(place.dir(), if quick { 2000 } else { 10_000 })?;
    holds("every name exactly once", rest(&mut open(place.dir())?)? == want)?;
    for entry in fs::read_dir(place.dir())? {
        let entry = entry?;
        holds("each is a file", entry.metadata()?.is_file())?;
    }
    Ok(())
}

fn types(place: &Place) -> Outcome {
    place.file("file", b"")?;
    fs::create_dir(place.path("dir"))?;
    std::os::unix::fs::symlink("x", place.path("link"))?;
    rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), FileType::Fifo, 0o600.into(), 0)?;
    for entry in open(place.dir())? {
        let entry = entry?;
        let want = match entry.file_name().to_bytes() {
            b"file" => FileType::RegularFile,
            b"link" => FileType::Symlink,
            b"fifo" => FileType::Fifo,
            _ => FileType::Directory,
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        same(&name, entry.file_type(), want)?;
        if name != ".." {
            same(
                &format!("inode number of {name}"),
                entry.ino(),
                fs::symlink_metadata(place.path(&name))?.ino(),
            )?;
        }
    }
    Ok(())
}

fn tell_and_seek(place: &Place) -> Outcome {
    fill(place.dir(), 1000)?;
    let mut dir = open(place.dir())?;
    let mut order = Vec::new();
    while let Some(entry) = next(&mut dir)? {
        order.push(entry);
    }
    same("entries", order.len(), 1000)?;
    // From the position behind an entry comes the one that followed it, also in another handle and in any order.
    let mut other = open(place.dir())?;
    for at in [998, 3, 500, 0, 750, 37] {
        let (Some((_, position)), Some((want, _))) = (order.get(at), order.get(at + 1)) else { continue };
        for dir in [&mut dir, &mut other] {
            dir.seek(*position)?;
            same("the name after the position", next(dir)?.map(|entry| entry.0), Some(want.clone()))?;
        }
    }
    let Some((_, last)) = order.last() else { return Ok(()) };
    dir.seek(*last)?;
    same("behind the last", next(&mut dir)?, None)
}

fn rewind_sees_changes(place: &Place) -> Outcome {
    let mut want = fill(place.dir(), 100)?;
    let mut dir = open(place.dir())?;
    same("first pass", rest(&mut dir)?, want.clone())?;
    place.file("new", b"")?;
    fs::remove_file(place.path("entry-00050"))?;
    want.insert("new".into());
    want.remove("entry-00050");
    dir.rewind();
    same("second pass", rest(&mut dir)?, want)
}

fn while_removing(place: &Place) -> Outcome {
    // The loop of every `rm -r`: what was not touched before it was read must be listed.
    let want = fill(place.dir(), 1000)?;
    let mut dir = open(place.dir())?;
    let mut seen = BTreeSet::new();
    while let Some((name, _)) = next(&mut dir)? {
        fs::remove_file(place.path(&name))?;
        seen.insert(name);
    }
    same("names seen", seen.len(), want.len())?;
    dir.rewind();
    same("left over", rest(&mut dir)?, BTreeSet::new())
}

fn removed(place: &Place) -> Outcome {
    let path = place.path("dir");
    fs::create_dir(&path)?;
    let handle = File::open(&path)?;
    fs::remove_dir(&path)?;
    let mut dir = Dir::new(handle.try_clone()?)?;
    same("names in a removed directory", next(&mut dir)?, None)?;
    let result =
        rustix::fs::openat(&handle, "x", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR, 0o600.into());
    refused("creation in a removed directory", result, libc::ENOENT)
}

fn two_handles(place: &Place) -> Outcome {
    let want = fill(place.dir(), 500)?;
    let (mut a, mut b) = (open(place.dir())?, open(place.dir())?);
    for _ in 0..100 {
        next(&mut a)?;
    }
    same("the second handle starts at the start", rest(&mut b)?, want)?;
    same("the first goes on where it was", rest(&mut a)?.len(), 400)
}
