//! Credentials: each file belongs to its caller, whatever other threads do.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    capabilities, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::super::credentials;
use super::*;

fn caller(uid: u32, gid: u32) -> Caller {
    Caller { uid, gid, pid: 1 }
}

#[test]
fn threads_do_not_share_credentials() {
    if !is_root() {
        return;
    }
    let share = Arc::new(Share::new(Config::default()));
    std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let threads: Vec<_> = (0..4_u32)
        .map(|thread| {
            let share = share.clone();
            std::thread::spawn(move || {
                for turn in 0..500_u32 {
                    let who = caller((thread * 1000 + turn) % 7 * 100, (thread + turn) % 5 * 10);
                    let file = c(&format!("{thread}-{turn}"));
                    let entry = share.fs.mkdir(who, NodeId::ROOT, name(&file), &new(0o700)).unwrap();
                    assert_eq!((entry.attr.uid, entry.attr.gid), (who.uid, who.gid));
                    assert_eq!(entry.attr.mode & 0o7777, 0o700);
                    // The thread is itself again: only root can change the owner.
                    rustix::fs::chown(share.dir.path(), None, None).unwrap();
                    assert!(rustix::process::geteuid().is_root());
                    share.fs.rmdir(NodeId::ROOT, name(&file)).unwrap();
                    share.fs.forget(entry.node, 1);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn the_guest_decides_who_may_create() {
    if !is_root() {
        return;
    }
    let share = Share::new(Config::default());
    let who = caller(1000, 1000);
    let mut with_group = new(0o2755);
    with_group.extensions.supplementary_group = Some(77);
    let made = |file, new: &NewFile<'_>| {
        let made = share.fs.mkdir(who, NodeId::ROOT, name(file), new).unwrap();
        assert_eq!((made.attr.uid, made.attr.gid), (1000, 1000));
    };
    // A directory of a group that the host does not know the caller to be in, or does.
    std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o770)).unwrap();
    std::os::unix::fs::chown(share.dir.path(), Some(0), Some(77)).unwrap();
    made(c"a", &new(0o755));
    made(c"b", &with_group);
    // The root of a user namespace in the guest makes what it likes in a directory of its own.
    std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
    std::os::unix::fs::chown(share.dir.path(), Some(1000), Some(1000)).unwrap();
    made(c"c", &new(0o755));
    // A guest that cannot tell groups.
    share.fs.init(0).unwrap();
    made(c"d", &new(0o755));
}

#[test]
fn a_set_group_id_directory_passes_its_group_on() {
    if !is_root() {
        return;
    }
    let share = Share::new(Config::default());
    std::os::unix::fs::chown(share.dir.path(), Some(0), Some(77)).unwrap();
    std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o2777)).unwrap();
    let made = share.fs.mkdir(caller(1000, 1000), NodeId::ROOT, name(c"d"), &new(0o755)).unwrap();
    assert_eq!((made.attr.gid, made.attr.mode & 0o7777), (77, 0o2755));
    // A stranger to the group cannot make a program that runs with it.
    let program = new(libc::S_IFREG | 0o2755);
    let made = share.fs.mknod(caller(1000, 1000), NodeId::ROOT, name(c"p"), 0, &program).unwrap();
    assert_eq!((made.attr.gid, made.attr.mode & 0o7777), (77, 0o755));
}

#[test]
fn an_impossible_id_is_refused() {
    let share = Share::new(Config::default());
    for who in [caller(u32::MAX, 0), caller(0, u32::MAX)] {
        assert_eq!(share.fs.mkdir(who, NodeId::ROOT, name(c"d"), &new(0o755)).unwrap_err(), Errno::INVAL);
    }
    assert!(!share.dir.path().join("d").exists());
    assert!(credentials::assume(&share.fs, Caller::default(), Some(u32::MAX)).is_err());
}

#[test]
fn a_file_that_others_made_first_is_opened_with_the_callers_rights() {
    if !is_root() {
        return;
    }
    for config in modes() {
        let share = Share::new(config);
        std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        share.write("private", "x");
        let path = share.dir.path().join("private");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let create = |who| {
            create::create_and_open(
                &share.fs,
                who,
                NodeId::ROOT,
                name(c"private"),
                OFlags::RDWR | OFlags::TRUNC,
                &new(0o644),
            )
        };
        assert_eq!(create(caller(1000, 1000)).unwrap_err(), Errno::ACCESS);
        assert_eq!(path.metadata().unwrap().size(), 1);
        assert!(create(caller(0, 0)).is_ok());
        assert_eq!(share.fs.access(caller(1000, 1000), NodeId::ROOT, 4), Ok(()));
        let node = share.lookup(NodeId::ROOT, "private").unwrap().node;
        assert_eq!(share.fs.access(caller(1000, 1000), node, 4), Err(Errno::ACCESS));
    }
}

/// As a service manager may start it: some user, with the capabilities to act for others.
#[test]
fn a_daemon_that_is_not_root_gives_the_caller_none_of_its_capabilities() {
    if !is_root() {
        return;
    }
    let become_daemon = || {
        let all = capabilities(None).unwrap();
        rustix::thread::set_keep_capabilities(true).unwrap();
        let (user, group) = (Uid::from_raw(65534), Gid::from_raw(65534));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(Some(group), Some(group), Some(group)).unwrap();
        set_thread_res_uid(Some(user), Some(user), Some(user)).unwrap();
        set_capabilities(None, all).unwrap();
        all.effective
    };
    let serve = move || {
        let share = Share::new(Config::default());
        let own = become_daemon();
        let fs = Share::serve(share.dir.path(), Config::default());
        std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        share.write("private", "x");
        std::fs::set_permissions(share.dir.path().join("private"), PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(share.dir.path().join("private"), Some(7), Some(7)).unwrap();
        let create = |uid| {
            let flags = OFlags::RDWR;
            create::create_and_open(&fs, caller(uid, uid), NodeId::ROOT, name(c"private"), flags, &new(0o644))
                .map(drop)
        };
        let mknod = |uid| {
            let device = new(libc::S_IFCHR | 0o644);
            fs.mknod(caller(uid, uid), NodeId::ROOT, name(c"null"), 0x103, &device).map(drop)
        };
        for uid in [1000, 65534] {
            assert_eq!(create(uid), Err(Errno::ACCESS), "{uid}");
            assert_eq!(mknod(uid), Err(Errno::PERM), "{uid}");
            let made = fs.mkdir(caller(uid, uid), NodeId::ROOT, name(c"d"), &new(0o755)).unwrap();
            assert_eq!((made.attr.uid, made.attr.gid), (uid, uid));
            fs.rmdir(NodeId::ROOT, name(c"d")).unwrap();
            assert_eq!(capabilities(None).unwrap().effective, own);
        }
        // The guest's root is the daemon.
        create(0).unwrap();
        mknod(0).unwrap();
    };
    std::thread::spawn(serve).join().unwrap();
}
