//! A share that cannot be served: one line that names the option and the path, exit code 1, and nothing left.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::{EXTENTFSD, directory, modes, needs_root, refusal};

#[track_caller]
fn refused_share(place: &Path, share: &Path, sandbox: &str) -> String {
    let mut command = Command::new(EXTENTFSD);
    command.args(["--sandbox", sandbox, "--shared-dir"]).arg(share);
    // What a developer may have set must not make a difference.
    command.env("RUST_BACKTRACE", "full");
    command.arg("--socket-path").arg(place.join("socket"));
    let line = refusal(command);
    assert!(!place.join("socket").exists(), "the socket is left");
    assert!(!place.join("socket.pid").exists(), "the pid file is left");
    line
}

#[test]
fn a_name_with_control_characters_is_still_one_line() {
    let place = directory();
    for sandbox in modes() {
        let line = refused_share(place.path(), &place.path().join("mis\nsing\x1b[31m"), sandbox);
        assert!(line.contains("/mis sing [31m: does not exist"), "{sandbox}: {line:?}");
    }
}

#[test]
fn a_share_that_is_missing_or_no_directory_is_refused() {
    let place = directory();
    let path = |name: &str| place.path().join(name);
    std::fs::write(path("file"), "").expect("file");
    symlink("nowhere", path("dangling")).expect("symlink");
    let below_file = path("file/share");
    for sandbox in modes() {
        for (share, why) in [
            (path("missing"), "does not exist"),
            (path("dangling"), "does not exist"),
            (path("file"), "is not a directory"),
            (below_file.clone(), "is not a directory"),
        ] {
            let line = refused_share(place.path(), &share, sandbox);
            let expected = format!("--shared-dir {}: {why}: ", share.display());
            assert!(line.starts_with(&expected), "{sandbox}: {line}");
        }
    }
}

#[test]
fn a_share_that_cannot_be_searched_is_refused() {
    if !needs_root("a share of another user") {
        return;
    }
    let place = directory();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).expect("mode");
    let share = place.path().join("share");
    std::fs::set_permissions(&share, PermissionsExt::from_mode(0o700)).expect("mode");
    std::fs::create_dir(share.join("below")).expect("directory");
    for (path, why) in [(share.clone(), "cannot be searched"), (share.join("below"), "cannot be opened")] {
        let mut command = super::sandbox::as_nobody();
        command.args(["--sandbox", "none", "--shared-dir"]).arg(&path);
        command.arg("--socket-path").arg(place.path().join("socket"));
        let line = refusal(command);
        assert!(
            line.starts_with(&format!("--shared-dir {}: {why}: Permission denied", path.display())),
            "{line}"
        );
        assert!(!place.path().join("socket").exists());
    }
}

#[test]
fn limits_that_are_too_low_are_refused() {
    let place = directory();
    let line = refusal(super::command(place.path(), &["--sandbox", "none", "--rlimit-nofile", "100"]));
    assert!(line.contains("--rlimit-nofile") && line.contains("100") && line.contains("610"), "{line}");
}

#[test]
fn chroot_without_privileges_is_refused() {
    if !needs_root("running as another user") {
        return;
    }
    let place = directory();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).expect("mode");
    let mut command = super::sandbox::as_nobody();
    command.args(["--sandbox", "chroot", "--shared-dir"]).arg(place.path().join("share"));
    command.arg("--socket-path").arg(place.path().join("socket"));
    let line = refusal(command);
    assert!(line.starts_with("--sandbox chroot: cannot change the root directory ("), "{line}");
    assert!(!place.path().join("socket").exists() && !place.path().join("socket.pid").exists());
}

#[test]
fn a_cpu_that_is_not_there_is_refused() {
    let place = directory();
    for cpus in ["1023", "0,1022"] {
        let line = refusal(super::command(place.path(), &["--sandbox", "none", "--ring-affinity", cpus]));
        let missing = cpus.rsplit(',').next().expect("a number");
        assert!(line.starts_with(&format!("--ring-affinity: CPU {missing} is not among")), "{line}");
        assert!(!place.path().join("socket").exists(), "the socket is left");
    }
}

#[test]
fn a_device_that_is_not_under_the_share_is_refused() {
    let place = directory();
    std::fs::write(place.path().join("file"), "").expect("file");
    for (device, why) in [
        ("/dev/null".into(), "is not a block device"),
        (place.path().join("file"), "is not a block device"),
        (place.path().join("missing"), "cannot open it"),
    ] {
        let device = device.to_str().expect("path").to_owned();
        let window = place.path().join("window").to_str().expect("path").to_owned();
        for [source, option, value] in
            [["device", "--window-serial", "a-disk"], ["block", "--window-socket", &window]]
        {
            let options = ["--extent-source", source, option, value, "--device", &device];
            let line = refusal(super::command(place.path(), &options));
            assert!(line.starts_with(&format!("--device {device}: {why}")), "{line}");
        }
    }
}
