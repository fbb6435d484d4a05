//! Names: what they reach, what they must never reach, and how they are made.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::fuse::{SetAttr, SetTime, Timestamp};

#[test]
fn a_symbolic_link_is_not_followed() {
    for config in modes() {
        let share = Share::new(config);
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        symlink(outside.path(), share.dir.path().join("link")).unwrap();
        let link = share.lookup(NodeId::ROOT, "link").unwrap();
        assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        let mut target = b"kept ".to_vec();
        share.fs.readlink(link.node, &mut target).unwrap();
        assert_eq!(target, [b"kept ", outside.path().as_os_str().as_encoded_bytes()].concat());
        assert!(share.lookup(link.node, "secret").is_err(), "through the link");
        assert!(share.mkdir(link.node, "made").is_err());
        assert!(!outside.path().join("made").exists());
        let inode = share.fs.node(link.node).unwrap();
        assert_eq!(share.fs.reopen(&inode, OFlags::RDONLY).unwrap_err(), Errno::LOOP);
        // The link itself can be owned, dated and linked; its target must not notice.
        let at = SetTime::At(Timestamp { sec: 5, nsec: 6 });
        let set = SetAttr { mtime: Some(at), ..SetAttr::default() };
        assert_eq!(share.fs.setattr(Caller::default(), link.node, &set).unwrap().attr.mtime.sec, 5);
        assert_ne!(outside.path().metadata().unwrap().mtime(), 5);
        let again = share.fs.link(link.node, NodeId::ROOT, name(c"link2")).unwrap();
        assert_eq!(again.node, link.node);
    }
}

#[test]
fn creation_does_not_follow_what_is_there() {
    for config in modes() {
        let share = Share::new(config);
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("new");
        symlink(&target, share.dir.path().join("link")).unwrap();
        assert_eq!(share.make("link").unwrap_err(), Errno::EXIST);
        assert_eq!(share.mkdir(NodeId::ROOT, "link").unwrap_err(), Errno::EXIST);
        let create = |flags| {
            create::create_and_open(
                &share.fs,
                Caller::default(),
                NodeId::ROOT,
                name(c"link"),
                flags,
                &new(0o644),
            )
        };
        assert_eq!(create(OFlags::RDWR).unwrap_err(), Errno::LOOP);
        assert_eq!(create(OFlags::RDWR | OFlags::EXCL).unwrap_err(), Errno::EXIST);
        assert!(!target.exists());
        assert_eq!(share.fs.inodes.len(), 0, "a failed CREATE keeps no reference");
    }
}

/// Were a FIFO opened, the thread would wait for a writer.
#[test]
fn a_fifo_is_never_opened() {
    for config in modes() {
        let share = Share::new(config);
        let fifo = new(libc::S_IFIFO | 0o666);
        let entry = share.fs.mknod(Caller::default(), NodeId::ROOT, name(c"fifo"), 0, &fifo).unwrap();
        assert_eq!(entry.attr.mode, libc::S_IFIFO | 0o666);
        let inode = share.fs.node(entry.node).unwrap();
        assert_eq!(share.fs.reopen(&inode, OFlags::RDONLY).unwrap_err(), Errno::NXIO);
        let caller = Caller::default();
        let answer = create::create_and_open(
            &share.fs,
            caller,
            NodeId::ROOT,
            name(c"fifo"),
            OFlags::RDONLY,
            &new(0o600),
        );
        assert_eq!(answer.unwrap_err(), Errno::NXIO);
        let set = SetAttr { size: Some(0), ..SetAttr::default() };
        assert_eq!(share.fs.setattr(caller, entry.node, &set).unwrap_err(), Errno::NXIO);
    }
}

#[test]
fn create_finds_or_makes() {
    for config in modes() {
        let share = Share::new(config);
        let create = |flags| {
            create::create_and_open(
                &share.fs,
                Caller::default(),
                NodeId::ROOT,
                name(c"a"),
                flags,
                &new(0o4751),
            )
        };
        let (made, _) = create(OFlags::RDWR | OFlags::EXCL).unwrap();
        assert_eq!(made.attr.mode & 0o7777, 0o4751, "the umask of the process plays no part");
        let (found, fd) = create(OFlags::RDWR).unwrap();
        assert_eq!(found.node, made.node);
        rustix::io::write(&fd, b"abc").unwrap();
        assert_eq!(share.fs.getattr(made.node, None).unwrap().attr.size, 3);
        let (truncated, _) = create(OFlags::RDWR | OFlags::TRUNC).unwrap();
        assert_eq!(truncated.node, made.node);
        assert_eq!(share.fs.getattr(made.node, None).unwrap().attr.size, 0);
        share.fs.forget(made.node, 3);
        assert_eq!(share.fs.inodes.len(), 0);

        let (unnamed, fd) =
            create::create_unnamed(&share.fs, Caller::default(), NodeId::ROOT, OFlags::RDWR, &new(0o600))
                .unwrap();
        rustix::io::write(&fd, b"abcd").unwrap();
        let named = share.fs.link(unnamed.node, NodeId::ROOT, name(c"named")).unwrap();
        assert_eq!((named.node, named.attr.size), (unnamed.node, 4));
    }
}

#[test]
fn attributes_are_changed_in_an_order_that_works() {
    for config in modes() {
        let share = Share::new(config);
        share.write("a", "0123456789");
        let node = share.lookup(NodeId::ROOT, "a").unwrap().node;
        let at = |sec| Some(SetTime::At(Timestamp { sec, nsec: 7 }));
        let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let set = SetAttr {
            mode: Some(0o4755),
            uid: Some(me.0),
            gid: Some(me.1),
            size: Some(4),
            atime: at(-1),
            mtime: at(1_000_000),
            ..SetAttr::default()
        };
        let attr = share.fs.setattr(Caller::default(), node, &set).unwrap().attr;
        assert_eq!((attr.size, attr.mtime.sec, attr.mtime.nsec, attr.atime.sec), (4, 1_000_000, 7, -1));
        if is_root() {
            assert_eq!(attr.mode & 0o7777, 0o4755);
            let set = SetAttr { size: Some(2), kill_suidgid: true, ..SetAttr::default() };
            let attr = share.fs.setattr(Caller::default(), node, &set).unwrap().attr;
            assert_eq!(attr.mode & 0o7777, 0o755, "the set-user-ID bit goes with a new size");
        }
        let bad = |set: SetAttr| share.fs.setattr(Caller::default(), node, &set).unwrap_err();
        assert_eq!(bad(SetAttr { size: Some(1 << 63), ..SetAttr::default() }), Errno::FBIG);
        assert_eq!(bad(SetAttr { uid: Some(u32::MAX), ..SetAttr::default() }), Errno::INVAL);
        let time = SetTime::At(Timestamp { sec: 0, nsec: 1_073_741_823 });
        assert_eq!(bad(SetAttr { atime: Some(time), ..SetAttr::default() }), Errno::INVAL);
    }
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let share = Share::new(Config { read_only: true, ..Config::default() });
    share.write("a", "x");
    let node = share.lookup(NodeId::ROOT, "a").unwrap().node;
    let caller = Caller::default();
    assert_eq!(share.make("b").unwrap_err(), Errno::ROFS);
    assert_eq!(share.mkdir(NodeId::ROOT, "b").unwrap_err(), Errno::ROFS);
    assert_eq!(share.unlink("a").unwrap_err(), Errno::ROFS);
    assert_eq!(share.fs.link(node, NodeId::ROOT, name(c"b")).unwrap_err(), Errno::ROFS);
    assert_eq!(share.fs.setattr(caller, node, &SetAttr::default()).unwrap_err(), Errno::ROFS);
    let inode = share.fs.node(node).unwrap();
    assert!(share.fs.reopen(&inode, OFlags::RDONLY).is_ok());
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        assert_eq!(share.fs.reopen(&inode, flags).unwrap_err(), Errno::ROFS);
    }
}

#[test]
fn absence_is_remembered_where_that_is_asked_for() {
    let share = Share::new(Config::default());
    assert_eq!(share.lookup(NodeId::ROOT, "none").unwrap_err(), Errno::NOENT);
    let timeout = std::time::Duration::from_secs(3);
    let share = Share::new(Config { negative_timeout: timeout, ..Config::default() });
    assert_eq!(share.lookup(NodeId::ROOT, "none").unwrap(), Entry::negative(timeout));
}

#[test]
fn the_umask_is_the_callers_only_with_acls() {
    let acl = Config { posix_acl: Choice::Auto, ..Config::default() };
    for (config, mode) in [(acl, 0o750), (Config::default(), 0o777)] {
        let share = Share::new(config);
        let new = NewFile { mode: 0o777, umask: 0o027, extensions: Extensions::default() };
        share.fs.mkdir(Caller::default(), NodeId::ROOT, name(c"d"), &new).unwrap();
        let made = share.dir.path().join("d").metadata().unwrap().permissions().mode();
        assert_eq!(made & 0o777, mode);
    }
}

#[test]
fn a_new_file_is_labelled_or_does_not_stay() {
    for config in modes() {
        let share = Share::new(config);
        // A namespace that needs no privilege, and that symbolic links do not have.
        let extensions =
            Extensions { security_context: Some((c"user.label", b"v")), ..Extensions::default() };
        let new = NewFile { mode: 0o755, umask: 0, extensions };
        let who = Caller::default();
        let made = share.fs.mkdir(who, NodeId::ROOT, name(c"d"), &new).unwrap();
        let mut value = [0; 8];
        let len = rustix::fs::getxattr(share.dir.path().join("d"), c"user.label", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"v");
        assert!(share.fs.symlink(who, NodeId::ROOT, name(c"l"), c"target", &new).is_err());
        assert!(share.dir.path().join("l").symlink_metadata().is_err());
        share.fs.forget(made.node, 1);
        assert_eq!(share.fs.inodes.len(), 0);
    }
}
