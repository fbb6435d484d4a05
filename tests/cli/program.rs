//! What does the program itself print, and with which exit code does it end?

use std::path::PathBuf;

use assert_cmd::Command as Program;
use extentfsd::cli::Command;

use crate::{options, parse};

fn program(line: &str) -> assert_cmd::assert::Assert {
    Program::cargo_bin("extentfsd").unwrap().args(line.split_whitespace()).assert()
}

fn stdout(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn stderr(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn the_program_reports_with_exit_codes_and_one_line() {
    let version = program("--version").code(0);
    assert_eq!(stdout(&version), format!("extentfsd {}\n", env!("CARGO_PKG_VERSION")));

    let nothing = program("").code(2);
    assert_eq!(stdout(&nothing), "");
    assert!(stderr(&nothing).contains("Usage: extentfsd --shared-dir"), "{}", stderr(&nothing));

    let wrong = program("--bogus").code(2);
    assert_eq!(stderr(&wrong), "extentfsd: unexpected argument '--bogus' found (see --help)\n");
    assert_eq!(stdout(&wrong), "");

    let without_source = program("--fd 3 -o xattr").code(1);
    assert!(stderr(&without_source).starts_with("extentfsd: missing "), "{}", stderr(&without_source));
    assert_eq!(stderr(&without_source).lines().count(), 1);
}

#[test]
fn capabilities_are_json_that_libvirt_reads() {
    let text = stdout(&program("--print-capabilities").code(0));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["type"], "fs");
    let features: Vec<&str> =
        value["features"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
    let expected = ["posix-acl-negotiation-mode", "security-label-negotiation-mode", "separate-options"];
    assert_eq!(features, expected);
    // virtiofsd prints one feature a line, and people grep.
    assert!(text.lines().any(|line| line == "    \"separate-options\""), "{text}");
    // No share and no socket are asked for.
    assert_eq!(parse("--print-capabilities"), Ok(Command::PrintCapabilities));
}

/// The lines for each monitor, with values that need quoting in the language they are written into.
#[test]
fn attach_args_prints_lines_that_can_be_pasted() {
    let hostile = ["--shared-dir", "/srv/it's <a> & \"b\"", "--binary", "/opt/a \"b\"/extentfsd"];
    let window = ["--window-socket", "/run/w"];
    let device = ["--device", "/dev/vg/a,b"];
    let plain_device = ["--device", "/dev/vg/share"];
    let cases: [(&str, &str, &[&str]); 15] = [
        ("qemu", "", &["--tag", "a,b", "--socket-path", "/run/a b,c", "--queues", "4", "--memory", "1536M"]),
        ("cloud-hypervisor", "", &["--tag", "my fs", "--queues", "4", "--cpus", "4", "--queue-size", "512"]),
        ("crosvm", "", &["--tag", "my fs", "--queues", "2"]),
        ("libvirt", "", &["--tag", "<&'\">", "--socket-path", "/run/a&b"]),
        ("kata", "", &["--queue-size", "256"]),
        ("qemu", "-window", &window),
        ("cloud-hypervisor", "-window", &window),
        ("libvirt", "-window", &window),
        ("crosvm", "-window", &window),
        ("qemu", "-device", &device),
        ("cloud-hypervisor", "-device", &plain_device),
        ("libvirt", "-device", &device),
        ("crosvm", "-device", &plain_device),
        ("uml", "", &["--tag", "my fs"]),
        ("uml", "-window", &window),
    ];
    for (vmm, kind, more) in cases {
        let arguments = ["attach-args", "--vmm", vmm].into_iter().chain(hostile).chain(more.iter().copied());
        let output = Program::cargo_bin("extentfsd").unwrap().args(arguments).assert().code(0);
        let path = format!("{}/tests/golden/attach-args-{vmm}{kind}.txt", env!("CARGO_MANIFEST_DIR"));
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(stdout(&output), expected, "{path}");
    }
}

/// What is printed for the daemon starts this daemon.
#[test]
fn the_daemon_s_lines_are_valid_ones() {
    let disks = ["", " --window-socket /run/w", " --device /dev/vg/share"];
    let monitors = ["qemu", "cloud-hypervisor", "crosvm", "libvirt", "uml"].into_iter();
    for (vmm, disk) in monitors.flat_map(|vmm| disks.map(|disk| (vmm, disk))) {
        if (vmm, disk) == ("uml", disks[2]) {
            continue;
        }
        let text = stdout(&program(&format!("attach-args --vmm {vmm} --tag myfs{disk}")).code(0));
        let start = text.find("extentfsd --shared-dir").expect("the daemon's line");
        let line = text.get(start..).unwrap().replace("\\\n", " ");
        let line = line.lines().next().unwrap().strip_prefix("extentfsd ").unwrap();
        assert_eq!(options(line).share.dir, PathBuf::from("/srv/share"), "{vmm}: {line}");
    }
}

#[test]
fn help_knows_every_option_of_virtiofsd() {
    let help = stdout(&program("--help").code(0));
    for option in [
        "--shared-dir",
        "--tag",
        "--socket",
        "--socket-path",
        "--socket-group",
        "--fd",
        "--thread-pool-size",
        "--xattr",
        "--posix-acl",
        "--xattrmap",
        "--sandbox",
        "--readonly",
        "--seccomp",
        "--announce-submounts",
        "--no-announce-submounts",
        "--inode-file-handles",
        "--cache",
        "--allow-mmap",
        "--no-readdirplus",
        "--writeback",
        "--allow-direct-io",
        "--print-capabilities",
        "--modcaps",
        "--log-level",
        "--syslog",
        "--rlimit-nofile",
        "-o",
        "-d",
        "-f",
        "--killpriv-v2",
        "--no-killpriv-v2",
        "--security-label",
        "--uid-map",
        "--gid-map",
        "--translate-uid",
        "--translate-gid",
        "--preserve-noatime",
        "--migration-mode",
        "--migration-on-error",
        "--migration-verify-handles",
        "--migration-confirm-paths",
        "-h",
        "-V",
    ] {
        let shown = help.lines().any(|line| {
            line.strip_prefix("  ")
                .is_some_and(|line| line.trim_start().split([' ', '=', '[', ',']).next() == Some(option))
        });
        assert!(shown, "{option} is missing in --help");
    }
    let short = stdout(&program("-h").code(0));
    assert!(short.lines().count() * 2 < help.lines().count(), "-h is not short");
}
