//! Names, links and special files that lead out of the share, or nowhere.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::canary::SECRET;
use super::super::frontend::fuse::*;
use super::super::verdict::Verdict;
use super::{Case, Needs, case, escaped};

/// None of these is the name of a file in a directory.
const WRONG: [&str; 9] =
    ["", ".", "..", "/", "a/b", "../canary/file", "/etc/passwd", "directory/file", "directory/../../canary"];

/// Every request that takes a name, with this one.
fn naming(node: u64, name: &str) -> Vec<(u32, Body)> {
    let make = |prefix: Body| prefix.name(name);
    vec![
        (LOOKUP, make(Body::new())),
        (MKNOD, make(Body::new().u32(0o100_644).u32(0).u32(0).u32(0))),
        (MKDIR, make(Body::new().u32(0o755).u32(0))),
        (UNLINK, make(Body::new())),
        (RMDIR, make(Body::new())),
        (SYMLINK, make(Body::new()).name("target")),
        (RENAME, make(Body::new().u64(ROOT)).name("renamed")),
        (RENAME, Body::new().u64(ROOT).name("directory").name(name)),
        (RENAME2, make(Body::new().u64(ROOT).u32(0).u32(0)).name("renamed")),
        (RENAME2, Body::new().u64(ROOT).u32(2).u32(0).name("file").name(name)),
        (LINK, make(Body::new().u64(node))),
        (CREATE, make(Body::new().u32(libc::O_RDWR as u32 | libc::O_CREAT as u32).u32(0o644).u32(0).u32(0))),
    ]
}

/// What a node's file says, where it can be opened.
fn contents(client: &mut Client, node: u64) -> Option<Vec<u8>> {
    let fh = client.open(node, libc::O_RDONLY).ok()?;
    let found = client.read(node, fh, 0, 4096).ok();
    let _ = client.release(node, fh);
    found
}

/// The secret must not be read through this name.
fn check_secret(client: &mut Client, parent: u64, name: &str) -> Result<(), Verdict> {
    let Ok((node, _)) = client.lookup(parent, name) else { return Ok(()) };
    match contents(client, node) {
        Some(found) if found == SECRET => Err(escaped(format!("read the canary through {name}"))),
        _ => Ok(()),
    }
}

/// Does something again and again while the host does something else with the same names.
fn race(
    mut inside: impl FnMut() -> Result<(), Verdict>,
    outside: impl Fn() + Send + Sync,
) -> Result<(), Verdict> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                outside();
            }
        });
        let end = Instant::now() + Duration::from_millis(400);
        let mut seen = Ok(());
        while seen.is_ok() && Instant::now() < end {
            seen = inside();
        }
        over.store(true, Ordering::Relaxed);
        seen
    })
}

/// Each of two names leads to what the other led to.
fn exchange(share: &Path, one: &str, other: &str) {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    let (one, other) = (share.join(one), share.join(other));
    let _ = rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags);
}

pub fn cases() -> Vec<Case> {
    vec![
        case("name: none of a file, in every request", |scene| {
            let client = scene.client();
            let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
            let long = "x".repeat(256);
            let longer = "x".repeat(5000);
            for name in WRONG.into_iter().chain([long.as_str(), longer.as_str()]) {
                for (opcode, body) in naming(node, name) {
                    if client.call(opcode, ROOT, body, 4096).is_ok() {
                        return Err(escaped(format!(
                            "opcode {opcode} took the name {:?}",
                            &name[..name.len().min(30)]
                        )));
                    }
                }
            }
            Ok(())
        }),
        case("name: without an end, and with one in it", |scene| {
            let client = scene.client();
            for opcode in [
                LOOKUP,
                MKNOD,
                MKDIR,
                UNLINK,
                RMDIR,
                SYMLINK,
                RENAME,
                RENAME2,
                LINK,
                CREATE,
                GETXATTR,
                REMOVEXATTR,
                SETXATTR,
            ] {
                for body in [vec![b'x'; 64], [vec![0; 16], b"a\0b\0c".to_vec()].concat(), vec![0; 64]] {
                    let _ = client.call(opcode, ROOT, Body::new().bytes(&body), 4096);
                }
            }
            Ok(())
        }),
        case("link: symbolic ones are not followed", |scene| {
            let client = scene.client();
            for name in ["escape", "escape-file", "absolute", "magic"] {
                check_secret(client, ROOT, name)?;
                let Ok((node, _)) = client.lookup(ROOT, name) else { continue };
                for inner in ["file", "inner", "etc", "canary"] {
                    if client.lookup(node, inner).is_ok() {
                        return Err(escaped(format!("looked {inner} up through {name}")));
                    }
                }
                for (opcode, body) in naming(node, "new") {
                    if opcode != UNLINK
                        && opcode != RMDIR
                        && opcode != LINK
                        && !matches!(opcode, RENAME | RENAME2)
                        && client.call(opcode, node, body, 4096).is_ok()
                    {
                        return Err(escaped(format!("opcode {opcode} went through {name}")));
                    }
                }
                // Truncation by the link's node.
                let _ = client.open(node, libc::O_RDWR | libc::O_TRUNC);
                let size = Body::new().u32(1 << 3).u32(0).u64(0).u64(0).bytes(&[0; 64]);
                let _ = client.call(SETATTR, node, size, 4096);
            }
            Ok(())
        }),
        case("link: one of the guest's own that leads out", |scene| {
            let client = scene.client();
            let made = client.call(SYMLINK, ROOT, Body::new().name("own").name("../canary/file"), 128);
            made.expect("SYMLINK");
            check_secret(client, ROOT, "own")?;
            let flags = libc::O_RDWR as u32 | libc::O_CREAT as u32 | libc::O_TRUNC as u32;
            let body = Body::new().u32(flags).u32(0o644).u32(0).u32(0).name("own");
            let _ = client.call(CREATE, ROOT, body, 4096);
            Ok(())
        }),
        case("link: a directory that the host exchanges with a link", |scene| {
            let share = scene.share.clone();
            let client = scene.client.as_mut().expect("a client");
            std::fs::create_dir(share.join("swap")).expect("directory");
            std::fs::write(share.join("swap/file"), b"inside").expect("file");
            symlink("../canary", share.join("swap-link")).expect("symlink");
            let exchange = || exchange(&share, "swap", "swap-link");
            race(
                || {
                    let Ok((directory, _)) = client.lookup(ROOT, "swap") else { return Ok(()) };
                    check_secret(client, directory, "file")?;
                    if let Ok((node, _)) = client.create(directory, "made") {
                        client.forget(node, 1);
                    }
                    let _ = client.call(UNLINK, directory, Body::new().name("made"), 64);
                    client.forget(directory, 1);
                    Ok(())
                },
                exchange,
            )
        }),
        case("link: a file that the host exchanges with a link", |scene| {
            let share = scene.share.clone();
            let client = scene.client.as_mut().expect("a client");
            std::fs::write(share.join("one"), b"inside").expect("file");
            symlink("../canary/file", share.join("two")).expect("symlink");
            let exchange = || exchange(&share, "one", "two");
            race(
                || {
                    check_secret(client, ROOT, "one")?;
                    let flags = libc::O_RDWR as u32 | libc::O_CREAT as u32 | libc::O_TRUNC as u32;
                    let body = Body::new().u32(flags).u32(0o644).u32(0).u32(0).name("one");
                    let _ = client.call(CREATE, ROOT, body, 4096);
                    let (node, _) = client.lookup(ROOT, "one").unwrap_or_default();
                    let _ = client.open(node, libc::O_RDWR | libc::O_TRUNC);
                    Ok(())
                },
                exchange,
            )
        }),
        case("link: renames of directories against lookups", |scene| {
            let share = scene.share.clone();
            let client = scene.client.as_mut().expect("a client");
            for name in ["up", "up/middle", "up/middle/down", "aside"] {
                std::fs::create_dir(share.join(name)).expect("directory");
            }
            let back_and_forth = || {
                let _ = std::fs::rename(share.join("up/middle"), share.join("aside/middle"));
                let _ = std::fs::rename(share.join("aside/middle"), share.join("up/middle"));
            };
            race(
                || {
                    let Ok((up, _)) = client.lookup(ROOT, "up") else { return Ok(()) };
                    if let Ok((middle, _)) = client.lookup(up, "middle") {
                        for name in ["..", "../..", "down/../../../.."] {
                            if client.lookup(middle, name).is_ok() {
                                return Err(escaped(format!("looked {name} up")));
                            }
                        }
                        let _ = client.create(middle, "made");
                        let _ = client.call(UNLINK, middle, Body::new().name("made"), 64);
                    }
                    Ok(())
                },
                back_and_forth,
            )
        }),
        case("special: a pipe and a socket are opened", |scene| {
            let client = scene.client();
            for name in ["fifo", "socket"] {
                let Ok((node, _)) = client.lookup(ROOT, name) else { continue };
                for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_NONBLOCK]
                {
                    if let Ok(fh) = client.open(node, flags) {
                        let _ = client.release(node, fh);
                    }
                }
            }
            Ok(())
        }),
        case("special: a device of the host is opened", |scene| {
            let client = scene.client();
            let Ok((node, _)) = client.lookup(ROOT, "device") else { return Ok(()) };
            let mut made = vec![node];
            // One of the guest's own: /dev/zero.
            let body = Body::new().u32(0o020_666).u32(1 << 8 | 5).u32(0).u32(0).name("own-device");
            if let Ok(entry) = client.call(MKNOD, ROOT, body, 128) {
                made.push(u64_at(&entry, 0));
            }
            for node in made {
                if contents(client, node).is_some_and(|bytes| bytes.len() == 4096) {
                    return Err(escaped("read a device of the host"));
                }
            }
            Ok(())
        })
        .needs(Needs::Root),
        case("special: the host's /proc in the share", |scene| {
            let share = scene.share.clone();
            let place = share.join("proc");
            std::fs::create_dir(&place).expect("directory");
            let bound = std::process::Command::new("mount").arg("--bind").arg("/proc").arg(&place).status();
            if !bound.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            let seen = (|| {
                let client = scene.client.as_mut().expect("a client");
                let Ok((proc, _)) = client.lookup(ROOT, "proc") else { return Ok(()) };
                let pid = scene.daemon.serving_pid().to_string();
                let Ok((process, _)) = client.lookup(proc, &pid) else { return Ok(()) };
                for name in ["root", "cwd"] {
                    let Ok((link, _)) = client.lookup(process, name) else { continue };
                    for inner in ["etc", "proc", "file", "directory"] {
                        if client.lookup(link, inner).is_ok() {
                            return Err(escaped(format!("went through /proc/{pid}/{name}")));
                        }
                    }
                }
                Ok(())
            })();
            let _ = std::process::Command::new("umount").arg("--lazy").arg(&place).status();
            seen
        })
        .needs(Needs::Root),
    ]
}
