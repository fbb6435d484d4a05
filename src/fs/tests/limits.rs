//! Does a bound refuse what would be too much, without any effect, and nothing for ever?

use std::ffi::CString;
use std::fs;

use rustix::io::Errno;

use super::files::{Share, request};
use crate::fs::{Config, InodeFileHandles, Limits};
use crate::fuse::*;

#[test]
fn handles_are_bounded_and_come_back() {
    let limits = Limits { max_handles: 10, ..Limits::default() };
    let share = Share::new(Config { limits, ..Config::default() });
    let node = share.file("a", b"keep");
    let fhs: Vec<Fh> = (0..10).map(|_| share.open(node, libc::O_RDONLY).unwrap().fh).collect();
    assert_eq!(share.open(node, libc::O_RDWR | libc::O_TRUNC), Err(Errno::NFILE));
    assert_eq!(fs::read(share.path("a")).unwrap(), b"keep", "an open that is refused has no effect");
    let new = NewFile { mode: 0o100_644, ..NewFile::default() };
    let made = share.fs.create(Caller::default(), NodeId::ROOT, Name::new(c"new").unwrap(), 2, &new);
    assert_eq!(made, Err(Errno::NFILE));
    assert!(!share.path("new").exists());
    assert_eq!(share.fs.opendir(Caller::default(), NodeId::ROOT, 0), Err(Errno::NFILE));
    for fh in fhs {
        share.release(node, fh).unwrap();
    }
    for _ in 0..10 {
        share.open(node, libc::O_RDONLY).unwrap();
    }
}

#[test]
fn one_request_reserves_no_more_than_it_may() {
    let limits = Limits { max_allocate: 8192, max_xattr: 5, ..Limits::default() };
    let share = Share::new(Config { limits, xattr: true, ..Config::default() });
    let node = share.file("a", b"");
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    assert_eq!(share.fs.fallocate(node, fh, 0, 8193, 0), Err(Errno::FBIG));
    assert_eq!(share.fs.fallocate(node, fh, 0, 8192, 0), Ok(()));
    let zero_range = u32::try_from(libc::FALLOC_FL_ZERO_RANGE).unwrap();
    assert_ne!(share.fs.fallocate(node, fh, 0, 8192, zero_range), Err(Errno::FBIG));
    assert_eq!(share.fs.fallocate(node, fh, 0, 8193, zero_range), Err(Errno::FBIG));
    // Gives space back.
    let punch = u32::try_from(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).unwrap();
    assert_ne!(share.fs.fallocate(node, fh, 0, 1 << 20, punch), Err(Errno::FBIG));

    let set = |value: &[u8]| share.fs.setxattr(Caller::default(), node, c"user.a", value, 0, false);
    assert_eq!(set(b"123456"), Err(Errno::TOOBIG));
    assert_eq!(set(b"12345"), Ok(()));
    let refusals = |name| share.fs.limits().iter().find(|limit| limit.name() == name).unwrap().refusals();
    assert_eq!((refusals("--max-allocate"), refusals("--max-xattr")), (2, 1));
}

/// Handles, second descriptors for direct I/O, owners of locks, and files that have no file handle: whatever the guest has
/// many of takes from what all have, but the last eighth, which opens alone take.
#[test]
fn descriptors_are_one_budget() {
    let limits = Limits { max_descriptors: 16, hot_descriptors: 0, ..Limits::default() };
    let share = Share::new(Config {
        limits,
        posix_lock: true,
        inode_file_handles: InodeFileHandles::Never,
        ..Config::default()
    });
    let budget = share.fs.limits().into_iter().find(|limit| limit.max() == 16).unwrap();
    let node = share.file("a", &[7; 8192]);
    assert_eq!(budget.used(), 1);
    let open = || share.open(node, libc::O_RDWR | libc::O_DIRECT).map(|opened| opened.fh);
    let is_direct = |fh| share.fs.read(node, fh, &request(0, 4096, libc::O_DIRECT)).unwrap().direct;
    let lock = |fh, owner| {
        let lock = Lock { start: owner, end: owner, kind: LockKind::Write, pid: 1 };
        share.fs.setlk(node, &LockRequest { fh, owner, lock, flock: false })
    };
    let (first, second) = (open().unwrap(), open().unwrap());
    assert!(is_direct(first) && is_direct(first));
    lock(first, 1).unwrap();
    lock(first, 1).unwrap();
    assert_eq!(budget.used(), 5, "of a node, two handles, direct I/O and an owner");

    let look_up = |name: &str| {
        let name = CString::new(name).unwrap();
        share.fs.lookup(Caller::default(), NodeId::ROOT, Name::new(&name).unwrap())
    };
    let mut known = Vec::new();
    for i in 0..20 {
        let name = format!("f{i}");
        fs::write(share.path(&name), "").unwrap();
        known.extend(look_up(&name));
    }
    assert_eq!((known.len(), budget.used()), (9, 14), "something is left for opens");
    assert_eq!(look_up("f19").unwrap_err(), Errno::NFILE);
    assert_eq!(lock(first, 2), Err(Errno::NOLCK));
    assert!(!is_direct(second), "the host's page cache does as well");
    let last = [open().unwrap(), open().unwrap()];
    let truncate = libc::O_RDWR | libc::O_TRUNC;
    assert_eq!(share.open(node, truncate).unwrap_err(), Errno::NFILE);
    assert_eq!(fs::read(share.path("a")).unwrap(), [7; 8192], "an open that is refused has no effect");
    assert_eq!(budget.used(), 16);

    for fh in last {
        share.release(node, fh).unwrap();
    }
    share.fs.forget(known.pop().unwrap().node, 1);
    assert!(is_direct(second), "a shortage passes");
    // The descriptor is open for as long as a transfer uses it.
    let transfer = share.fs.read(node, second, &request(0, 4096, 0)).unwrap();
    share.release(node, second).unwrap();
    assert_eq!(budget.used(), 14);
    drop(transfer);
    assert_eq!(budget.used(), 12);
    share.release(node, first).unwrap();
    assert_eq!(budget.used(), 9, "the owner's went with the last close");
    share.fs.destroy();
    assert_eq!(budget.used(), 0);
}
