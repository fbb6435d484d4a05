//! Are files served whose names the host's kernel has forgotten?
//!
//! A file that is opened by handle and is not in the cache of names has no way to the root directory, and Landlock decides by
//! that way. The same must be served as without Landlock.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::frontend::fuse::{self, Body, Client, ROOT, u64_at};
use crate::frontend::{Daemon, Guest, GuestConfig};

/// A file system of its own; unmounted when dropped.
struct Mounted(TempDir);

impl Mounted {
    /// None where this host cannot.
    fn new(kind: &str) -> Option<Self> {
        let place = TempDir::new().expect("temporary directory");
        let target = place.path().join("mount");
        std::fs::create_dir(&target).expect("directory");
        let run = |program: &str, arguments: &[&str]| {
            let status =
                Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let (image, target) = (place.path().join("image"), target.to_str().expect("text").to_owned());
        let done = if kind == "tmpfs" {
            run("mount", &["-t", "tmpfs", "none", &target])
        } else {
            let file = std::fs::File::create(&image).expect("image");
            // The smallest that mkfs.xfs makes.
            file.set_len(320 << 20).expect("image");
            let image = image.to_str().expect("text");
            run(&format!("mkfs.{kind}"), &["-q", image]) && run("mount", &["-o", "loop", image, &target])
        };
        if !done {
            eprintln!("skipped: this host mounts no {kind}");
            return None;
        }
        Some(Self(place))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// More than the daemon remembers by descriptor with [`FEW_FILES`].
const OTHERS: usize = 100;
const FEW_FILES: &str = "--rlimit-nofile=800";

pub fn files_without_a_way_are_served() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: file handles need root");
        return;
    }
    for kind in ["ext4", "xfs", "tmpfs"] {
        let Some(mounted) = Mounted::new(kind) else { continue };
        for sandbox in ["none", "chroot", "namespace"] {
            // On a mount point, and beneath one.
            for below in ["", "below"] {
                for landlock in ["none", "auto"] {
                    let share = mounted.path().join(below);
                    serve(kind, sandbox, &share, landlock);
                }
            }
        }
    }
}

fn serve(kind: &str, sandbox: &str, share: &Path, landlock: &str) {
    let what = format!("{kind} {sandbox} {} --landlock={landlock}", share.display());
    let top = share.join("top");
    std::fs::create_dir_all(top.join("inner")).expect(&what);
    for name in
        ["file".to_owned(), "inner/file".to_owned()].into_iter().chain((0..OTHERS).map(|i| format!("{i}")))
    {
        std::fs::write(top.join(name), "old").expect(&what);
    }
    let directory = TempDir::new().expect("temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_extentfsd"));
    command.arg("--socket-path").arg(directory.path().join("socket")).arg("--shared-dir").arg(share);
    command.args(["--sandbox", sandbox, "--landlock", landlock, "--inode-file-handles=mandatory", FEW_FILES]);
    let daemon = Daemon::launch(directory, command);
    daemon.wait_for_log("Waiting for vhost-user socket connection...");
    let mut client = Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()));

    let mut look = |directory, name: &str| client.lookup(directory, name).expect(&what).0;
    let top_node = look(ROOT, "top");
    let (file, inner) = (look(top_node, "file"), look(top_node, "inner"));
    let inner_file = look(inner, "file");
    for i in 0..OTHERS {
        look(top_node, &i.to_string());
    }
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "2").expect("root");

    for (node, name) in [(file, "a"), (inner_file, "b")] {
        let fh = client.open(node, libc::O_RDWR).expect(&what);
        if kind != "tmpfs" {
            // Otherwise the kernel remembered after all, and nothing is shown.
            assert!(opened_without_a_way(daemon.serving_pid()), "{what}");
        }
        assert_eq!(client.read(node, fh, 0, 10).as_deref(), Ok(&b"old"[..]), "{what}");
        assert_eq!(client.write(node, fh, 0, b"new"), Ok(3), "{what}");
        client.release(node, fh).expect(&what);
        let linked = client.call(fuse::LINK, inner, Body::new().u64(node).name(name), 128);
        assert_eq!(linked.map(|entry| u64_at(&entry, 0)), Ok(node), "{what}");
    }
    client.mkdir(inner, "made").expect(&what);
    let moved = Body::new().u64(top_node).name("file").name("moved");
    client.call(fuse::RENAME, inner, moved, 0).expect(&what);
    client.call(fuse::UNLINK, inner, Body::new().name("a"), 0).expect(&what);
    let opened = client.call(fuse::OPENDIR, inner, Body::new().u32(0).u32(0), 16).expect(&what);
    assert_ne!(u64_at(&opened, 0), u64::MAX);
    assert_eq!(std::fs::read(top.join("moved")).expect(&what), b"new", "{what}");
    assert_eq!(std::fs::read(top.join("inner/b")).expect(&what), b"new", "{what}");
    drop(client);
    drop(daemon);
    std::fs::remove_dir_all(&top).expect(&what);
}

/// Whether the process has a file open whose path the kernel does not know.
fn opened_without_a_way(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten().any(|entry| {
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
        is_file && std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/"))
    })
}
