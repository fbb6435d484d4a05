//! What the daemon does on a kernel, or in a container, that lacks what newer ones have. `guest-tests/hosts/run` starts it on real
//! ones.

use std::os::unix::fs::FileExt;

use super::frontend::Daemon;
use super::frontend::daemon::without;
use super::frontend::fuse::ROOT;
use super::{WAITING, command, directory, exercise, modes, mounted, refusal};

#[test]
fn without_openat2_the_start_ends_with_what_is_needed() {
    for sandbox in modes() {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let place = directory();
            let command = command(place.path(), &["--sandbox", sandbox]);
            let line = refusal(without(command, &[(libc::SYS_openat2, errno)]));
            assert!(
                line.starts_with("openat2(2) is not to be had, which Linux 5.6 brought: "),
                "{sandbox}: {line}"
            );
            assert!(!place.path().join("socket").exists(), "the socket is left");
        }
    }
}

#[test]
fn without_file_handles_descriptors_do() {
    for sandbox in modes() {
        for call in [libc::SYS_name_to_handle_at, libc::SYS_open_by_handle_at] {
            for errno in [libc::ENOSYS, libc::EPERM] {
                let place = directory();
                let served = command(place.path(), &["--sandbox", sandbox]);
                let daemon = Daemon::launch(place, without(served, &[(call, errno)]));
                daemon.wait_for_log("every file that the guest knows will cost a descriptor");
                daemon.wait_for_log(WAITING);
                exercise(&daemon, "file");

                let place = directory();
                let command =
                    command(place.path(), &["--sandbox", sandbox, "--inode-file-handles=mandatory"]);
                let line = refusal(without(command, &[(call, errno)]));
                assert!(line.contains("--inode-file-handles=mandatory asks for"), "{sandbox}: {line}");
            }
        }
    }
}

/// Linux 5.10 says of a page that is not cached that the file ends there, if it is asked not to wait (readv(2), BUGS).
#[test]
fn what_is_not_in_the_page_cache_is_read_to_its_end() {
    const LEN: usize = 4 << 20;
    const PART: usize = 128 << 10;
    for engine in ["auto", "threads"] {
        let daemon = Daemon::start(&["--engine", engine]);
        let path = daemon.share().join("file");
        let content: Vec<u8> = (0..LEN).map(|at| (at / 4096 % 251) as u8 + 1).collect();
        std::fs::write(&path, &content).expect("file");
        let file = std::fs::File::open(&path).expect("file");
        file.sync_all().expect("fsync");
        let mut client = mounted(&daemon);
        let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
        let fh = client.open(node, libc::O_RDONLY).expect("OPEN");
        for round in 0..4 {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
            // Some pages are there again.
            for at in (0..LEN).step_by(PART * (1 + round)) {
                file.read_exact_at(&mut [0; 10], at as u64).expect("read");
            }
            for at in (0..LEN).step_by(PART) {
                let found = client.read(node, fh, at as u64, PART as u32).expect("READ");
                assert!(found == content[at..at + PART], "{engine}, byte {at}: {} bytes", found.len());
            }
        }
    }
}
