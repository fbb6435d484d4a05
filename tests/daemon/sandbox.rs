//! What a guest gets in each sandbox: the share, all of it, and nothing else.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::frontend::daemon;
pub(crate) use super::frontend::daemon::NOBODY;
use super::frontend::fuse::{self, Body, Client, ROOT, u32_at, u64_at};
use super::{Daemon, EXTENTFSD, WAITING, directory, exercise, modes, mounted, needs_root, refused};

/// The program, run by a user without privileges, who need not be able to reach the build directory.
pub(crate) fn as_nobody() -> Command {
    static PROGRAM: OnceLock<File> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| File::open(EXTENTFSD).expect("the program"));
    daemon::as_nobody(program)
}

/// `st_mode` of an entry (`struct fuse_entry_out`: the attributes start at 40, their mode is at 60).
fn mode(entry: &[u8]) -> u32 {
    u32_at(entry, 100)
}

fn rename(client: &mut Client, from: (u64, &str), to: (u64, &str)) -> Result<(), i32> {
    client.call(fuse::RENAME, from.0, Body::new().u64(to.0).name(from.1).name(to.1), 0).map(drop)
}

fn link(client: &mut Client, node: u64, parent: u64, name: &str) -> Result<u64, i32> {
    client.call(fuse::LINK, parent, Body::new().u64(node).name(name), 128).map(|entry| u64_at(&entry, 0))
}

fn readlink(client: &mut Client, node: u64) -> Result<String, i32> {
    client
        .call(fuse::READLINK, node, Body::new(), 4096)
        .map(|target| String::from_utf8(target).expect("text"))
}

/// Names and nodeids of a directory, by READDIRPLUS; sorted.
fn list(client: &mut Client, directory: u64) -> Vec<(String, u64)> {
    let opened = client.call(fuse::OPENDIR, directory, Body::new().u32(0).u32(0), 16).expect("OPENDIR");
    let (fh, mut cookie, mut found) = (u64_at(&opened, 0), 0, Vec::new());
    loop {
        let body = Body::new().u64(fh).u64(cookie).u32(1024).u32(0).u64(0).u32(0).u32(0);
        let page = client.call(fuse::READDIRPLUS, directory, body, 1024).expect("READDIRPLUS");
        if page.is_empty() {
            break;
        }
        // `struct fuse_direntplus`: an entry of 128 bytes, then ino, off, namelen, type and the padded name.
        let mut at = 0;
        while at < page.len() {
            cookie = u64_at(&page, at + 136);
            let len = u32_at(&page, at + 144) as usize;
            let name = String::from_utf8(page[at + 152..at + 152 + len].to_vec()).expect("text");
            found.push((name, u64_at(&page, at)));
            at += (152 + len).next_multiple_of(8);
        }
    }
    client
        .call(fuse::RELEASEDIR, directory, Body::new().u64(fh).u32(0).u32(0).u64(0), 0)
        .expect("RELEASEDIR");
    found.retain(|(name, _)| name != "." && name != "..");
    found.sort();
    found
}

#[test]
fn each_serves_the_share_with_and_without_file_handles() {
    for sandbox in modes() {
        for handles in ["--inode-file-handles=prefer", "--inode-file-handles=never"] {
            let mut daemon = Daemon::start(&["--sandbox", sandbox, handles, "--xattr"]);
            let mut client = exercise(&daemon, "file");
            serve_names(&daemon, &mut client, &format!("{sandbox} {handles}"));
            serve_xattrs(&daemon, &mut client);
            drop(client);
            let (code, log) = daemon.wait_end();
            assert_eq!(code, Some(0), "{log}");
        }
    }
}

fn serve_names(daemon: &Daemon, client: &mut Client, what: &str) {
    let share = daemon.share();
    let inner = client.mkdir(ROOT, "directory").expect("MKDIR");
    let (file, _) = client.lookup(ROOT, "file").expect("LOOKUP");
    rename(client, (ROOT, "file"), (inner, "renamed")).expect("RENAME");
    assert_eq!(client.lookup(ROOT, "file").map(drop), Err(libc::ENOENT), "{what}");
    assert_eq!(std::fs::read(share.join("directory/renamed")).expect("host file"), b"from the guest");

    assert_eq!(link(client, file, ROOT, "linked"), Ok(file), "{what}: another node for the same file");
    assert_eq!(std::fs::metadata(share.join("linked")).expect("host file").nlink(), 2);

    let body = Body::new().name("symlink").name("directory/renamed");
    let entry = client.call(fuse::SYMLINK, ROOT, body, 128).expect("SYMLINK");
    assert_eq!(readlink(client, u64_at(&entry, 0)).as_deref(), Ok("directory/renamed"));
    let target = std::fs::read_link(share.join("symlink")).expect("host symlink");
    assert_eq!(target, Path::new("directory/renamed"));

    for i in 0..40 {
        std::fs::write(share.join(format!("directory/host-{i}")), [i]).expect("host file");
    }
    let listed = list(client, inner);
    assert_eq!(listed.len(), 41, "{what}: {listed:?}");
    for (name, node) in listed {
        assert_eq!(client.lookup(inner, &name).map(|(node, _)| node), Ok(node), "{what}: {name}");
        let fh = client.open(node, libc::O_RDONLY).expect("OPEN");
        let expected = std::fs::read(share.join("directory").join(&name)).expect("host file");
        assert_eq!(client.read(node, fh, 0, 64), Ok(expected), "{what}: {name}");
        client.release(node, fh).expect("RELEASE");
    }
    client.call(fuse::UNLINK, ROOT, Body::new().name("linked"), 0).expect("UNLINK");
    assert!(!share.join("linked").exists());
}

fn serve_xattrs(daemon: &Daemon, client: &mut Client) {
    let (node, fh) = client.create(ROOT, "labelled").expect("CREATE");
    // The extended layout, which `Client::init` negotiates.
    let set = Body::new().u32(5).u32(0).u32(0).u32(0).name("user.colour").bytes(b"green");
    match client.call(fuse::SETXATTR, node, set, 0) {
        Err(libc::EOPNOTSUPP) => return eprintln!("skipped: the host's file system has no user xattrs"),
        answer => answer.expect("SETXATTR"),
    };
    let get = Body::new().u32(64).u32(0).name("user.colour");
    assert_eq!(client.call(fuse::GETXATTR, node, get, 64).as_deref(), Ok(&b"green"[..]));
    let mut value = [0; 64];
    let host = rustix::fs::getxattr(daemon.share().join("labelled"), "user.colour", &mut value);
    assert_eq!(host.map(|len| &value[..len]), Ok(&b"green"[..]));
    client.release(node, fh).expect("RELEASE");
}

#[test]
fn symlinks_are_shown_and_never_followed() {
    for sandbox in modes() {
        for handles in ["--inode-file-handles=prefer", "--inode-file-handles=never"] {
            let daemon = Daemon::start(&["--sandbox", sandbox, handles, "--xattr"]);
            let secret = daemon.outside().join("secret");
            std::fs::write(&secret, "secret").expect("file");
            std::fs::set_permissions(&secret, Permissions::from_mode(0o640)).expect("mode");
            let before: Vec<_> = std::fs::read_dir(daemon.outside()).expect("directory").collect();
            let absolute = secret.to_str().expect("text");
            let mut client = mounted(&daemon);
            for (name, target) in [
                ("relative", "../secret"),
                ("absolute", absolute),
                ("up", ".."),
                ("top", "/"),
                ("etc", "/etc"),
            ] {
                symlink(target, daemon.share().join(name)).expect("symlink");
                try_to_follow(&mut client, name, target, &format!("{sandbox} {handles} {name}"));
            }
            let after = secret.metadata().expect("file");
            assert_eq!(std::fs::read(&secret).expect("file"), b"secret");
            assert_eq!((after.nlink(), after.mode() & 0o7777), (1, 0o640));
            assert_eq!(rustix::fs::getxattr(&secret, "user.mark", &mut [0; 8]).ok(), None);
            assert_eq!(std::fs::read_dir(daemon.outside()).expect("directory").count(), before.len());
        }
    }
}

/// Everything that would reach what a symlink points at if the daemon resolved it.
fn try_to_follow(client: &mut Client, name: &str, target: &str, what: &str) {
    let (node, entry) = client.lookup(ROOT, name).expect(what);
    assert_eq!(mode(&entry) & libc::S_IFMT, libc::S_IFLNK, "{what}");
    assert_eq!(readlink(client, node).as_deref(), Ok(target));
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
        client.open(node, flags).expect_err(what);
    }
    client.call(fuse::OPENDIR, node, Body::new().u32(0).u32(0), 16).expect_err(what);
    for below in ["secret", "share", "etc", "passwd"] {
        client.lookup(node, below).expect_err(what);
    }
    client.mkdir(node, "made").expect_err(what);
    client.create(node, "made").expect_err(what);
    client.create(ROOT, name).expect_err(what);
    for valid in [MODE, SIZE] {
        // Permissions of a symlink may be refused or changed; those of its target stay.
        let _ = client.call(fuse::SETATTR, node, attributes(valid), 104);
    }
    let mark = Body::new().u32(1).u32(0).u32(0).u32(0).name("user.mark").bytes(b"x");
    client.call(fuse::SETXATTR, node, mark, 0).expect_err(what);
    // A link is one to the symlink itself.
    let second = format!("{name}-linked");
    assert_eq!(link(client, node, ROOT, &second), Ok(node), "{what}");
    assert_eq!(readlink(client, node).as_deref(), Ok(target));
}

/// Bits of `valid` in `struct fuse_setattr_in`.
const MODE: u32 = 1;
const SIZE: u32 = 1 << 3;

/// `struct fuse_setattr_in` for size 0 and mode 0777.
fn attributes(valid: u32) -> Body {
    let head = Body::new().u32(valid).u32(0).u64(0).u64(0).u64(0).bytes(&[0; 24]).bytes(&[0; 12]);
    head.u32(0o777).u32(0).u32(0).u32(0).u32(0)
}

/// Whoever creates a file in the guest owns it on the host. Where he may, the guest has decided.
#[test]
fn files_belong_to_their_creators() {
    if !needs_root("creating files for other users") {
        return;
    }
    for sandbox in modes() {
        let daemon = Daemon::start(&["--sandbox", sandbox]);
        let mut client = mounted(&daemon);
        client.mkdir(ROOT, "roots").expect("MKDIR");
        let open = client.mkdir(ROOT, "open").expect("MKDIR");
        std::fs::set_permissions(daemon.share().join("open"), Permissions::from_mode(0o777)).expect("mode");
        let (roots, _) = client.lookup(ROOT, "roots").expect("LOOKUP");
        for (uid, gid) in [(1234, 2345), (0, 0), (NOBODY, 100), (0, 7)] {
            let name = format!("by-{uid}-{gid}");
            let flags = (libc::O_RDWR | libc::O_CREAT) as u32;
            let body = Body::new().u32(flags).u32(0o100_640).u32(0o022).u32(0).name(&name);
            client.call_as(fuse::CREATE, open, (uid, gid), body.clone(), 144).expect("CREATE");
            let made = std::fs::metadata(daemon.share().join("open").join(&name)).expect("host file");
            assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (uid, gid, 0o640), "{sandbox}");
            client.call_as(fuse::CREATE, roots, (uid, gid), body, 144).expect("CREATE");
            let made = std::fs::metadata(daemon.share().join("roots").join(&name)).expect("host file");
            assert_eq!((made.uid(), made.gid()), (uid, gid), "{sandbox}");
        }
        // Nobody's ids stick to the thread.
        client.mkdir(roots, "again").expect("MKDIR");
        let made = std::fs::metadata(daemon.share().join("roots/again")).expect("host directory");
        assert_eq!((made.uid(), made.gid()), (0, 0));
    }
}

/// Without privileges the default sandbox serves where the host allows user namespaces, and says so where not.
#[test]
fn a_user_without_privileges_serves_or_is_told_why_not() {
    if !needs_root("running as another user") {
        return;
    }
    for sandbox in ["none", "namespace"] {
        let place = directory();
        let share = place.path().join("share");
        for path in [place.path(), &share] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let mut command = as_nobody();
        command.args(["--sandbox", sandbox, "--shared-dir"]).arg(&share);
        command.arg("--socket-path").arg(place.path().join("socket"));
        let mut daemon = Daemon::launch(place, command);
        super::eventually("it serves or ends", || daemon.log().contains(WAITING) || !daemon.is_running());
        if !daemon.log().contains(WAITING) {
            assert_eq!(sandbox, "namespace", "{}", daemon.log());
            let (code, log) = daemon.wait_end();
            let line = refused(code, &log);
            eprintln!("not served: {line}");
            assert!(line.starts_with("--sandbox namespace: ") || line.contains("id-map"), "{line}");
            assert!(!daemon.socket().exists());
            continue;
        }
        let mut client = exercise(&daemon, "file");
        serve_names(&daemon, &mut client, sandbox);
        let owner = std::fs::metadata(share.join("directory")).expect("host directory").uid();
        assert_eq!(owner, NOBODY, "{sandbox}");
        drop(client);
        assert_eq!(daemon.wait_end().0, Some(0), "{sandbox}");
        assert!(!daemon.socket().exists() && !daemon.outside().join("socket.pid").exists());
    }
}
