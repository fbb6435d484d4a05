//! Checks of extended attributes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{
    XattrFlags, fgetxattr, getxattr, getxattr_query, lgetxattr, listxattr, listxattr_query, removexattr,
    setxattr,
};

use crate::check::{Check, Outcome, Place, refused, same, same_bytes};
use crate::content::pattern;

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "xattr-set-get", run: set_get },
    Check { name: "xattr-list", run: list },
    Check { name: "xattr-flags", run: flags },
    Check { name: "xattr-sizes", run: sizes },
    Check { name: "xattr-follows-file", run: follows_file },
    Check { name: "xattr-refused-names", run: refused_names },
];

fn get(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let len = getxattr(path, name, &mut *value)?;
    value.truncate(len);
    Ok(value)
}

fn names(path: &Path) -> std::io::Result<Vec<String>> {
    let mut list = vec![0_u8; 65_536];
    let len = listxattr(path, &mut *list)?;
    list.truncate(len);
    let names = list.split(|b| *b == 0).filter(|name| name.starts_with(b"user."));
    let mut names: Vec<_> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    Ok(names)
}

fn set_get(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    for path in [path.as_path(), place.dir()] {
        refused("get of a missing attribute", getxattr_query(path, "user.a"), libc::ENODATA)?;
        setxattr(path, "user.a", b"value\0with\0zeroes", XattrFlags::empty())?;
        same_bytes("value", &get(path, "user.a")?, b"value\0with\0zeroes")?;
        setxattr(path, "user.a", b"", XattrFlags::empty())?;
        same_bytes("empty value", &get(path, "user.a")?, b"")?;
        removexattr(path, "user.a")?;
        refused("second removal", removexattr(path, "user.a"), libc::ENODATA)?;
    }
    setxattr(&path, "user.b", b"by handle", XattrFlags::empty())?;
    let mut value = [0; 9];
    fgetxattr(fs::File::open(&path)?, "user.b", &mut value)?;
    same_bytes("value by handle", &value, b"by handle")
}

fn list(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    same("no attributes", names(&path)?, vec![])?;
    let want: Vec<_> = (0..20).map(|i| format!("user.name-{i:02}")).collect();
    for name in &want {
        setxattr(&path, name.as_str(), name.as_bytes(), XattrFlags::empty())?;
    }
    same("names", names(&path)?, want.clone())?;
    for name in &want {
        same_bytes(name, &get(&path, name)?, name.as_bytes())?;
    }
    for name in want.iter().step_by(2) {
        removexattr(&path, name.as_str())?;
    }
    same("names after removal", names(&path)?, want.iter().skip(1).step_by(2).cloned().collect())
}

fn flags(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    refused("REPLACE of a missing one", setxattr(&path, "user.a", b"1", XattrFlags::REPLACE), libc::ENODATA)?;
    setxattr(&path, "user.a", b"1", XattrFlags::CREATE)?;
    refused("CREATE of an existing one", setxattr(&path, "user.a", b"2", XattrFlags::CREATE), libc::EEXIST)?;
    setxattr(&path, "user.a", b"3", XattrFlags::REPLACE)?;
    same_bytes("value", &get(&path, "user.a")?, b"3")
}

fn sizes(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    // 3000 bytes fit into one block of every host file system.
    let want = pattern(3000, 5);
    setxattr(&path, "user.long", &want, XattrFlags::empty())?;
    same("size asked for", getxattr_query(&path, "user.long")?, 3000)?;
    same_bytes("value", &get(&path, "user.long")?, &want)?;
    refused("get into too little room", getxattr(&path, "user.long", &mut [0; 2999]), libc::ERANGE)?;
    let len = listxattr_query(&path)?;
    let mut short = vec![0_u8; len - 1];
    refused("list into too little room", listxattr(&path, &mut *short), libc::ERANGE)?;
    let name = format!("user.{}", "n".repeat(250));
    setxattr(&path, name.as_str(), b"longest name", XattrFlags::empty())?;
    same_bytes("value of the longest name", &get(&path, &name)?, b"longest name")?;
    let result = setxattr(&path, format!("{name}n").as_str(), b"", XattrFlags::empty());
    refused("a name of 256 bytes", result, libc::ERANGE)?;
    let result = setxattr(&path, "user.huge", &vec![0; 65_537], XattrFlags::empty());
    refused("more than XATTR_SIZE_MAX", result, libc::E2BIG)
}

fn follows_file(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    setxattr(&path, "user.a", b"kept", XattrFlags::empty())?;
    fs::hard_link(&path, place.path("other"))?;
    fs::rename(&path, place.path("renamed"))?;
    same_bytes("by the new name", &get(&place.path("renamed"), "user.a")?, b"kept")?;
    same_bytes("by the hard link", &get(&place.path("other"), "user.a")?, b"kept")?;
    symlink("renamed", place.path("link"))?;
    same_bytes("through a link", &get(&place.path("link"), "user.a")?, b"kept")?;
    refused("of the link itself", lgetxattr(place.path("link"), "user.a", &mut [0; 10]), libc::ENODATA)
}

fn refused_names(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    refused("no such namespace", setxattr(&path, "nonsense.a", b"", XattrFlags::empty()), libc::EOPNOTSUPP)?;
    let fifo = place.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    refused("user attribute of a fifo", setxattr(&fifo, "user.a", b"", XattrFlags::empty()), libc::EPERM)
}
