//! What the daemon does on a kernel, or in a container, that lacks what newer ones have. `guest-tests/hosts/run` starts it on real
//! ones.

use super::frontend::Daemon;
use super::frontend::daemon::without;
use super::{WAITING, command, directory, exercise, modes, refusal};

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
