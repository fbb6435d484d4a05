//! Ids between guest and host: what the guest says of owners is translated on its way in, what it is told on its way out.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use super::*;
use crate::fuse::{SetAttr, abi};
use crate::identity::{IdTranslation, Translation};

fn ids(rules: &[&str]) -> IdTranslation {
    let rules: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    IdTranslation::new(&rules).unwrap()
}

fn share(users: &[&str], groups: &[&str]) -> Share {
    let translation = Translation { users: ids(users), groups: ids(groups) };
    let share = Share::new(Config { translation, ..Config::default() });
    std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    share
}

fn caller(uid: u32, gid: u32) -> Caller {
    Caller { uid, gid, pid: 1 }
}

/// Owner and group that a file has on the host.
fn on_host(share: &Share, name: &str) -> (u32, u32) {
    let stat = share.dir.path().join(name).symlink_metadata().unwrap();
    (stat.uid(), stat.gid())
}

fn give(share: &Share, node: NodeId, uid: Option<u32>, gid: Option<u32>) -> Result<(u32, u32)> {
    let set = SetAttr { uid, gid, ..SetAttr::default() };
    let reply = share.fs.setattr(caller(0, 0), node, &set)?;
    Ok((reply.attr.uid, reply.attr.gid))
}

#[test]
fn every_way_to_make_a_file_and_every_answer_is_translated() {
    if !is_root() {
        return;
    }
    let share = share(&["map:0:100000:65536"], &["map:0:200000:65536"]);
    chown(share.dir.path(), Some(100_000), Some(200_000)).unwrap();
    let who = caller(1000, 50);
    let ids = |entry: &Entry| (entry.attr.uid, entry.attr.gid);
    let file = new(libc::S_IFREG | 0o644);
    let (fs, root) = (&share.fs, NodeId::ROOT);
    let read_write = u32::try_from(libc::O_RDWR).unwrap();
    let made = [
        ("d", fs.mkdir(who, root, name(c"d"), &new(0o755)).unwrap()),
        ("n", fs.mknod(who, root, name(c"n"), 0, &file).unwrap()),
        ("l", fs.symlink(who, root, name(c"l"), c"n", &new(0o777)).unwrap()),
        ("c", fs.create(who, root, name(c"c"), read_write, &file).unwrap().0),
    ];
    for (name, entry) in &made {
        assert_eq!((ids(entry), on_host(&share, name)), ((1000, 50), (101_000, 200_050)), "{name}");
        let entry = share.lookup(root, name).unwrap();
        assert_eq!(ids(&entry), (1000, 50), "LOOKUP {name}");
        let attr = fs.getattr(entry.node, None).unwrap().attr;
        assert_eq!((attr.uid, attr.gid), (1000, 50), "GETATTR {name}");
        let attr = fs.statx(entry.node, None, 0, 0x7ff).unwrap().attr;
        assert_eq!((attr.uid, attr.gid), (1000, 50), "STATX {name}");
    }
    let (entry, _) = fs.tmpfile(who, root, read_write, &file).unwrap();
    assert_eq!(ids(&entry), (1000, 50), "TMPFILE");
    let node = made[1].1.node;
    assert_eq!(ids(&fs.link(node, root, name(c"again")).unwrap()), (1000, 50), "LINK");
    // Out of the map: as it is.
    chown(share.dir.path().join("n"), Some(7), Some(65_536)).unwrap();
    assert_eq!(ids(&share.lookup(root, "n").unwrap()), (7, 65_536));
    assert_eq!(give(&share, node, Some(65_535), None), Ok((65_535, 65_536)));
    assert_eq!(on_host(&share, "n"), (165_535, 65_536));
    assert_eq!(give(&share, node, Some(65_536), Some(0)), Ok((65_536, 0)));
    assert_eq!(on_host(&share, "n"), (65_536, 200_000));
    assert_eq!(give(&share, node, Some(u32::MAX), None), Err(Errno::INVAL));
}

#[test]
fn the_hosts_id_decides_what_a_caller_may() {
    if !is_root() {
        return;
    }
    let share = share(&["map:1000:2000:10"], &["map:1000:3000:10"]);
    let path = share.dir.path().join("d");
    std::fs::create_dir(&path).unwrap();
    chown(&path, Some(0), Some(3001)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o770)).unwrap();
    let node = share.lookup(NodeId::ROOT, "d").unwrap().node;
    let make = |who, file: &CStr, group| {
        let mut new = new(0o700);
        new.extensions.supplementary_group = group;
        share.fs.mkdir(who, node, name(file), &new).map(|entry| entry.attr.uid)
    };
    assert_eq!(make(caller(1000, 1000), c"a", None), Err(Errno::ACCESS));
    assert_eq!(make(caller(1000, 1000), c"a", Some(1002)), Err(Errno::ACCESS));
    assert_eq!(make(caller(1000, 1000), c"a", Some(1001)), Ok(1000));
    assert_eq!(make(caller(1000, 1001), c"b", None), Ok(1000));
    assert_eq!(on_host(&share, "d/a"), (2000, 3000));
    assert_eq!(share.fs.access(caller(1000, 1001), node, 2), Ok(()));
    assert_eq!(share.fs.access(caller(1000, 1002), node, 2), Err(Errno::ACCESS));
    chown(&path, Some(2005), Some(0)).unwrap();
    assert_eq!(share.fs.access(caller(1005, 1002), node, 2), Ok(()));
    assert_eq!(share.fs.access(caller(2005, 1002), node, 2), Ok(()), "unnamed, so it stands for itself too");
}

#[test]
fn the_guests_root_makes_files_everywhere_but_no_devices() {
    if !is_root() {
        return;
    }
    let share = share(&["map:0:100000:65536"], &["map:0:100000:65536"]);
    let path = share.dir.path().join("d");
    std::fs::create_dir(&path).unwrap();
    chown(&path, Some(101_000), Some(101_000)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    let node = share.lookup(NodeId::ROOT, "d").unwrap().node;
    let made = share.fs.mkdir(caller(0, 0), node, name(c"a"), &new(0o755)).unwrap();
    assert_eq!((made.attr.uid, on_host(&share, "d/a")), (0, (100_000, 100_000)));
    assert_eq!(share.fs.access(caller(0, 0), node, 7), Ok(()));
    // And has the set-group-ID bit that he asks for, in a group that is not his.
    chown(&path, Some(101_000), Some(100_077)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o2700)).unwrap();
    let program = new(libc::S_IFREG | 0o2755);
    let made = share.fs.mknod(caller(0, 0), node, name(c"p"), 0, &program).unwrap();
    assert_eq!((made.attr.gid, made.attr.mode & 0o7777), (77, 0o2755));
    let refused = share.fs.mkdir(caller(1001, 0), node, name(c"b"), &new(0o755));
    assert_eq!(refused.unwrap_err(), Errno::ACCESS);
    let null = new(libc::S_IFCHR | 0o666);
    assert_eq!(share.fs.mknod(caller(0, 0), node, name(c"null"), 0x103, &null).unwrap_err(), Errno::PERM);
}

#[test]
fn a_forbidden_id_makes_nothing_and_gets_nothing() {
    let share = share(&["forbid-guest:5:2"], &["forbid-guest:5:2"]);
    let node = share.make("file").unwrap().node;
    for (uid, gid) in [(5, 0), (0, 6)] {
        let answer = share.fs.mkdir(caller(uid, gid), NodeId::ROOT, name(c"d"), &new(0o755));
        assert_eq!(answer.unwrap_err(), Errno::PERM);
        let [uid, gid] = [uid, gid].map(|id| Some(id).filter(|id| *id != 0));
        assert_eq!(give(&share, node, uid, gid), Err(Errno::PERM));
    }
    assert!(!share.dir.path().join("d").exists());
    let mut with_group = new(0o755);
    with_group.extensions.supplementary_group = Some(5);
    let answer = share.fs.mkdir(caller(0, 0), NodeId::ROOT, name(c"d"), &with_group);
    assert_eq!(answer.unwrap_err(), Errno::PERM);
    // What exists can be seen, read and removed.
    if is_root() {
        chown(share.dir.path().join("file"), Some(5), Some(6)).unwrap();
        let entry = share.lookup(NodeId::ROOT, "file").unwrap();
        assert_eq!((entry.attr.uid, entry.attr.gid), (5, 6));
    }
    share.unlink("file").unwrap();
}

/// The daemon's own ids for everybody: no credentials change hands, so this works without privileges. Here the daemon is
/// whoever runs the test.
#[test]
fn a_daemon_without_privileges_can_serve_everybody_as_itself() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let own = |id| format!("squash-guest:0:{id}:4294967295");
    let seen = |id| format!("host:{id}:1000:1");
    let share = share(&[&own(uid), &seen(uid)], &[&own(gid), &seen(gid)]);
    let mut new = new(0o700);
    new.extensions.supplementary_group = Some(27);
    let entry = share.fs.mkdir(caller(12, 34), NodeId::ROOT, name(c"d"), &new).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 1000));
    assert_eq!(on_host(&share, "d"), (uid, gid));
    assert_eq!(give(&share, entry.node, Some(77), Some(88)), Ok((1000, 1000)));
}

#[test]
fn directories_are_listed_with_translated_owners() {
    if !is_root() {
        return;
    }
    let share = share(&["squash-host:0:65534:100000"], &["host:7:70:1"]);
    for (file, uid, gid) in [("a", 1000, 7), ("b", 99_999, 8), ("c", 100_000, 7)] {
        share.write(file, "");
        chown(share.dir.path().join(file), Some(uid), Some(gid)).unwrap();
    }
    #[derive(Default)]
    struct Owners(Vec<(Vec<u8>, u32, u32)>);
    impl crate::fuse::DirectorySink for Owners {
        fn fits(&self, _name_len: usize) -> bool {
            true
        }

        fn add(&mut self, _ino: u64, _next: u64, _kind: u8, name: &[u8], entry: Option<&Entry>) -> bool {
            self.0.extend(entry.map(|entry| (name.to_vec(), entry.attr.uid, entry.attr.gid)));
            true
        }
    }
    let fh = share.fs.opendir(caller(0, 0), NodeId::ROOT, 0).unwrap().fh;
    let mut owners = Owners::default();
    share.fs.readdir(caller(0, 0), NodeId::ROOT, fh, 0, true, &mut owners).unwrap();
    owners.0.sort();
    let expected = [(b"a", 65534, 70), (b"b", 65534, 8), (b"c", 100_000, 70)];
    assert_eq!(owners.0, expected.map(|(name, uid, gid)| (name.to_vec(), uid, gid)));
    assert!(share.fs.negotiated(abi::FUSE_CREATE_SUPP_GROUP));
}
