//! Who the guest's users are on the host, and how attributes are called there, through the real program.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use super::frontend::fuse::{self, Body, Client, ROOT, u32_at, u64_at};
use super::sandbox::{NOBODY, as_nobody};
use super::{Daemon, directory, modes, mounted, needs_root};

fn mkdir_as(client: &mut Client, who: (u32, u32), name: &str) -> Result<(u32, u32), i32> {
    let body = Body::new().u32(0o755).u32(0).name(name);
    let entry = client.call_as(fuse::MKDIR, ROOT, who, body, 128)?;
    Ok((u32_at(&entry, 108), u32_at(&entry, 112)))
}

/// SETXATTR in the extended layout, which `Client::init` negotiates.
fn setxattr(client: &mut Client, node: u64, name: &str, value: &[u8]) -> Result<(), i32> {
    let size = u32::try_from(value.len()).expect("a short value");
    let body = Body::new().u32(size).u32(0).u32(0).u32(0).name(name).bytes(value);
    client.call(fuse::SETXATTR, node, body, 0).map(drop)
}

#[test]
fn ids_are_translated_in_every_sandbox() {
    if !needs_root("a share of many users") {
        return;
    }
    for sandbox in modes() {
        let rules = ["--translate-uid", "map:0:100000:65536", "--translate-gid", "squash-guest:1:7:65535"];
        let daemon = Daemon::start(&[&["--sandbox", sandbox], &rules[..]].concat());
        chown(daemon.share(), Some(100_000), Some(0)).expect("owner");
        std::fs::set_permissions(daemon.share(), PermissionsExt::from_mode(0o777)).expect("mode");
        let mut client = mounted(&daemon);
        assert_eq!(mkdir_as(&mut client, (0, 0), "root"), Ok((0, 0)), "{sandbox}");
        assert_eq!(mkdir_as(&mut client, (1000, 50), "user"), Ok((1000, 7)), "{sandbox}");
        let owner = |name: &str| {
            let stat = daemon.share().join(name).metadata().expect("host directory");
            (stat.uid(), stat.gid())
        };
        assert_eq!((owner("root"), owner("user")), ((100_000, 0), (101_000, 7)), "{sandbox}");
    }
}

/// A daemon of an ordinary user, in a user namespace with one id or in none, serves all of the guest's users as itself.
#[test]
fn an_ordinary_user_can_serve_everybody_as_himself() {
    if !needs_root("becoming an ordinary user") {
        return;
    }
    let in_namespace = [
        "--uid-map",
        ":0:65534:1:",
        "--gid-map",
        ":0:65534:1:",
        "--translate-uid",
        "squash-guest:0:0:4294967295",
        "--translate-gid",
        "squash-guest:0:0:4294967295",
        "--translate-uid",
        "host:0:1000:1",
        "--translate-gid",
        "host:0:1000:1",
    ];
    let outside = [
        "--sandbox",
        "none",
        "--translate-uid",
        "squash-guest:0:65534:4294967295",
        "--translate-gid",
        "squash-guest:0:65534:4294967295",
        "--translate-uid",
        "host:65534:1000:1",
        "--translate-gid",
        "host:65534:1000:1",
    ];
    for options in [&in_namespace[..], &outside[..]] {
        let directory = directory();
        for path in [directory.path().to_owned(), directory.path().join("share")] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("owner");
        }
        let mut command = as_nobody();
        command
            .arg("--shared-dir")
            .arg(directory.path().join("share"))
            .arg("--socket-path")
            .arg(directory.path().join("socket"))
            .args(options);
        let mut daemon = Daemon::launch(directory, command);
        super::eventually(&format!("a start or an end: {options:?}"), || {
            daemon.log().contains(super::WAITING) || !daemon.is_running()
        });
        if !daemon.log().contains(super::WAITING) {
            let (_, log) = daemon.wait_end();
            assert!(log.contains("create a user namespace"), "{log}");
            eprintln!("skipped: the host has no user namespaces for ordinary users");
            continue;
        }
        let mut client = mounted(&daemon);
        for (who, name) in [((0, 0), "root"), ((1000, 1000), "user"), ((12, 34), "other")] {
            assert_eq!(mkdir_as(&mut client, who, name), Ok((1000, 1000)), "{options:?}");
            let stat = daemon.share().join(name).metadata().expect("host directory");
            assert_eq!((stat.uid(), stat.gid()), (NOBODY, NOBODY), "{options:?}");
        }
        // In a directory whose group only a supplementary group of the caller is: here it is the daemon's.
        let body = Body::new().u32(0o755).u32(0).name("grouped");
        let group = [16, 32, 1, 1000].into_iter().fold(body, Body::u32);
        let entry = client.call_as(fuse::MKDIR, ROOT, (5, 6), group, 128).expect("MKDIR");
        assert_eq!((u32_at(&entry, 108), u32_at(&entry, 112)), (1000, 1000), "{options:?}");
    }
}

#[test]
fn attributes_have_other_names_on_the_host() {
    for (option, map) in [("--xattrmap", ":map::user.vm.:"), ("-o", "xattrmap=:map::user.vm.:")] {
        let daemon = Daemon::start(&["--sandbox", "none", option, map]);
        let mut client = mounted(&daemon);
        let (node, _) = client.create(ROOT, "file").expect("CREATE");
        match setxattr(&mut client, node, "trusted.x", b"value") {
            Err(libc::EOPNOTSUPP) => {
                return eprintln!("skipped: the host's file system has no user xattrs");
            }
            answer => answer.expect("SETXATTR"),
        }
        let host = daemon.share().join("file");
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&host, "user.vm.trusted.x", &mut value).expect("host attribute");
        assert_eq!(&value[..length], b"value");
        rustix::fs::setxattr(&host, "user.hidden", b"x", rustix::fs::XattrFlags::empty()).expect("setxattr");
        let list = |client: &mut Client, size| {
            client.call(fuse::LISTXATTR, node, Body::new().u32(size).u32(0), size.max(8))
        };
        let probe = list(&mut client, 0).expect("LISTXATTR");
        assert_eq!(u32_at(&probe, 0), 10, "the length is that of the guest's names");
        assert_eq!(list(&mut client, 9), Err(libc::ERANGE));
        assert_eq!(list(&mut client, 10).as_deref(), Ok(&b"trusted.x\0"[..]));
        let get = |client: &mut Client, name: &str| {
            client.call(fuse::GETXATTR, node, Body::new().u32(64).u32(0).name(name), 64)
        };
        assert_eq!(get(&mut client, "trusted.x").as_deref(), Ok(&b"value"[..]));
        assert_eq!(get(&mut client, "user.hidden"), Err(libc::ENODATA));
        let remove = Body::new().name("trusted.x");
        client.call(fuse::REMOVEXATTR, node, remove, 0).expect("REMOVEXATTR");
        assert_eq!(list(&mut client, 0).map(|probe| u64_at(&probe, 0)), Ok(0));
    }
}
