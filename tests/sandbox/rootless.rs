//! Do ranges of ids reach an unprivileged daemon, by `newuidmap` and `newgidmap`?
//!
//! The helpers go by `/etc/subuid` and `/etc/subgid`. Here others lie over these files, in a mount namespace that only
//! the daemon and the helpers are in: those of the machine are not touched.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::frontend::daemon::{LISTENING, NOBODY};
use crate::frontend::fuse::{Body, CREATE, Client, ROOT, SETATTR, u32_at, u64_at};
use crate::frontend::{Daemon, Guest, GuestConfig};

/// What the files give: so many users, and groups, from here on.
const USERS: u32 = 200_000;
const GROUPS: u32 = 300_000;
const COUNT: u32 = 1000;
/// A user that is in no range.
const STRANGER: u32 = 400_000;

/// `FATTR_*`.
const MODE: u32 = 1;
const USER: u32 = 2;
const GROUP: u32 = 4;

/// Lays the files `$1` and `$2` over those of the machine, and becomes the user `$3` and nothing more.
const ARRANGE: &str = "mount --bind \"$1\" /etc/subuid && mount --bind \"$2\" /etc/subgid && user=$3 && shift 3 && \
     exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \"$@\"";

/// Why it cannot be tried here.
fn obstacle() -> Option<&'static str> {
    let runs = |words: &[&str]| {
        let (program, arguments) = words.split_first().expect("a program");
        let mut command = Command::new(program);
        let quiet = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status()
    };
    if !rustix::process::geteuid().is_root() {
        return Some("only root can become a user and give him ranges of ids");
    }
    if runs(&["newuidmap"]).and_then(|_| runs(&["newgidmap"])).is_err() {
        return Some("newuidmap and newgidmap are not installed (package uidmap)");
    }
    if !["/etc/subuid", "/etc/subgid"].iter().all(|file| Path::new(file).exists()) {
        return Some("there is no /etc/subuid, or no /etc/subgid, to lay another over");
    }
    if !runs(&["unshare", "--mount", "true"]).is_ok_and(|status| status.success()) {
        return Some("mount namespaces are not to be had");
    }
    if !runs(&["setpriv", "--version"]).is_ok_and(|status| status.success()) {
        return Some("there is no setpriv(1)");
    }
    None
}

/// A daemon that an unprivileged user starts, who has these ranges; on a share of his.
fn start(options: &[&str]) -> Daemon {
    let place = TempDir::new().expect("temporary directory");
    let path = |name: &str| place.path().join(name);
    for (file, first) in [("subuid", USERS), ("subgid", GROUPS)] {
        std::fs::write(path(file), format!("nobody:{first}:{COUNT}\n{NOBODY}:{first}:{COUNT}\n"))
            .expect("ranges");
    }
    std::fs::create_dir(path("share")).expect("share");
    std::fs::write(path("share/stranger"), "").expect("file");
    chown(path("share/stranger"), Some(STRANGER), Some(STRANGER)).expect("owner");
    std::fs::set_permissions(path("share/stranger"), Permissions::from_mode(0o644)).expect("mode");
    for directory in [path("share"), place.path().to_owned()] {
        chown(&directory, Some(NOBODY), Some(NOBODY)).expect("owner");
        std::fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("mode");
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", ARRANGE, "arrange"]).arg(path("subuid")).arg(path("subgid"));
    command.arg(NOBODY.to_string());
    // He need not be able to reach the program by its path.
    command.arg("/proc/self/fd/0").stdin(File::open(env!("CARGO_BIN_EXE_extentfsd")).expect("the program"));
    command.arg("--shared-dir").arg(path("share")).arg("--socket-path").arg(path("socket")).args(options);
    command.current_dir("/");
    Daemon::launch(place, command)
}

fn create(client: &mut Client, name: &str, user: u32, group: u32) -> Result<(u64, u32, u32), i32> {
    let flags = (libc::O_RDWR | libc::O_CREAT).cast_unsigned();
    let body = Body::new().u32(flags).u32(0o100_644).u32(0o022).u32(0).name(name);
    let entry = client.call_as(CREATE, ROOT, (user, group), body, 128 + 16)?;
    // `struct fuse_entry_out`: the node first, and 40 bytes of it before the attributes.
    Ok((u64_at(&entry, 0), u32_at(&entry, 40 + 68), u32_at(&entry, 40 + 72)))
}

fn set_attributes(
    client: &mut Client,
    node: u64,
    valid: u32,
    [mode, user, group]: [u32; 3],
) -> Result<(), i32> {
    let body = Body::new().u32(valid).u32(0).u64(0).u64(0).u64(0).u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
    client.call(SETATTR, node, body.u32(mode).u32(0).u32(user).u32(group).u32(0), 104).map(drop)
}

pub fn ranges_of_ids_are_given_by_the_helpers() {
    if let Some(why) = obstacle() {
        return eprintln!("skipped: {why}");
    }
    let (own, others) = (format!(":0:{NOBODY}:1:"), |first: u32| format!(":1:{first}:{COUNT}:"));
    let (users, groups) = (others(USERS), others(GROUPS));
    let maps = ["--uid-map", &own, "--uid-map", &users, "--gid-map", &own, "--gid-map", &groups];
    let daemon = start(&maps);
    daemon.wait_for_log(LISTENING);
    let map = |file| {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", daemon.serving_pid())).expect("a map");
        text.split_whitespace().map(|id| id.parse().expect("an id")).collect::<Vec<u32>>()
    };
    assert_eq!(map("uid_map"), [0, NOBODY, 1, 1, USERS, COUNT]);
    assert_eq!(map("gid_map"), [0, NOBODY, 1, 1, GROUPS, COUNT]);

    let mut client = Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()));
    let owner = |name: &str| {
        let file = daemon.share().join(name).symlink_metadata().expect("a file");
        (file.uid(), file.gid())
    };
    for (name, inside, outside) in [
        ("root", (0, 0), (NOBODY, NOBODY)),
        ("first", (1, 1), (USERS, GROUPS)),
        ("two", (7, 9), (USERS + 6, GROUPS + 8)),
        ("last", (COUNT, COUNT), (USERS + COUNT - 1, GROUPS + COUNT - 1)),
    ] {
        let (_, user, group) = create(&mut client, name, inside.0, inside.1).expect(name);
        assert_eq!(((user, group), owner(name)), (inside, outside), "{name}");
    }
    // Nobody beyond the range creates, or is given, anything.
    for (user, group) in [(COUNT + 1, 0), (0, COUNT + 1), (USERS, GROUPS)] {
        assert_eq!(create(&mut client, "beyond", user, group).err(), Some(libc::EINVAL), "{user} {group}");
    }
    assert!(!daemon.share().join("beyond").exists());
    let (node, _, _) = create(&mut client, "given", 0, 0).expect("CREATE");
    assert_eq!(set_attributes(&mut client, node, USER | GROUP, [0, 5, 6]), Ok(()));
    assert_eq!(owner("given"), (USERS + 4, GROUPS + 5));
    for given in [[0, COUNT + 1, 6], [0, 5, COUNT + 1]] {
        assert_eq!(set_attributes(&mut client, node, USER | GROUP, given), Err(libc::EINVAL));
    }
    assert_eq!(owner("given"), (USERS + 4, GROUPS + 5));
    // What is a stranger's is seen, and stays as it is.
    let (node, entry) = client.lookup(ROOT, "stranger").expect("LOOKUP");
    assert_eq!((u32_at(&entry, 40 + 68), u32_at(&entry, 40 + 72)), (NOBODY, NOBODY));
    assert_eq!(set_attributes(&mut client, node, MODE, [0o777, 0, 0]), Err(libc::EPERM));
    assert_eq!(set_attributes(&mut client, node, USER, [0, 0, 0]), Err(libc::EPERM));
    assert_eq!(owner("stranger"), (STRANGER, STRANGER));
}

pub fn ranges_that_a_user_was_not_given_are_refused() {
    if let Some(why) = obstacle() {
        return eprintln!("skipped: {why}");
    }
    let own = format!(":0:{NOBODY}:1:");
    for (option, other, helper, first) in
        [("--uid-map", "--gid-map", "newuidmap", USERS), ("--gid-map", "--uid-map", "newgidmap", GROUPS)]
    {
        let wide = format!(":1:{first}:{}:", COUNT + 1);
        let root = ":1:0:1:".to_owned();
        for map in [&wide, &root] {
            let mut daemon = start(&[option, &own, option, map, other, &own]);
            let (code, log) = daemon.wait_end();
            assert_eq!(code, Some(1), "{map}: {log}");
            assert!(log.contains(option) && log.contains(helper), "{map}: {log}");
        }
    }
}
