//! Do opens that only read share a descriptor, and nothing else?

use std::fs;
use std::os::fd::AsRawFd;

use super::files::Share;
use crate::fs::{Config, Limits};
use crate::fuse::{Fh, NodeId};

fn descriptor(share: &Share, node: NodeId, fh: Fh) -> i32 {
    share.fs.handles.file(node, fh).unwrap().fd.as_raw_fd()
}

#[test]
fn opens_that_only_read_share_a_descriptor_also_after_the_last_release() {
    let share = Share::new(Config::default());
    let node = share.file("header.h", b"text");
    let open = |flags| share.open(node, flags).unwrap().fh;
    let first = open(libc::O_RDONLY);
    let kept = descriptor(&share, node, first);
    let second = open(libc::O_RDONLY | libc::O_DIRECT);
    assert_eq!(descriptor(&share, node, second), kept);
    for writable in [libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC] {
        let fh = open(writable);
        assert_ne!(descriptor(&share, node, fh), kept, "{writable:#o}");
        share.release(node, fh).unwrap();
    }
    fs::write(share.path("header.h"), b"more").unwrap();
    share.release(node, first).unwrap();
    share.release(node, second).unwrap();
    let third = open(libc::O_RDONLY);
    assert_eq!(descriptor(&share, node, third), kept);
    assert_eq!(share.read(node, third, 0, 10).unwrap(), b"more");
    // A name that comes back is another file.
    fs::remove_file(share.path("header.h")).unwrap();
    let node = share.file("header.h", b"new");
    let fh = share.open(node, libc::O_RDONLY).unwrap().fh;
    assert_ne!(descriptor(&share, node, fh), kept);
    assert_eq!(share.read(node, fh, 0, 10).unwrap(), b"new");
}

#[test]
fn a_descriptor_with_locks_on_it_is_not_shared() {
    for config in
        [Config { flock: true, ..Config::default() }, Config { posix_lock: true, ..Config::default() }]
    {
        let share = Share::new(config);
        let node = share.file("a", b"");
        let [first, second] = [0, 1].map(|_| share.open(node, libc::O_RDONLY).unwrap().fh);
        assert_ne!(descriptor(&share, node, first), descriptor(&share, node, second));
    }
}

#[test]
fn kept_readers_are_as_many_as_hot_descriptors() {
    let limits = Limits { hot_descriptors: 2, ..Limits::default() };
    let share = Share::new(Config { limits, ..Config::default() });
    let nodes = (0..100).map(|index| {
        let node = share.file(&format!("file-{index}"), b"");
        let fh = share.open(node, libc::O_RDONLY).unwrap().fh;
        share.release(node, fh).unwrap();
        node
    });
    let nodes: Vec<_> = nodes.collect();
    let kept = nodes.into_iter().filter(|node| share.fs.inodes.get(*node).unwrap().reader().is_some());
    assert_eq!(kept.count(), 2);
}
