//! Command lines: every option, the `-o` dialect, `attach-args`, and the load generator's.
//!
//! Oracles: an error is one line of printable text that begins with the program's name and comes with exit code 1 or 2;
//! what is parsed twice means the same twice; what `attach-args` prints ends.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use extentfsd::bench;
use extentfsd::cli::{Command, ParseExit, Stream, parse};
use extentfsd_fuzz::input::Input;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

/// Words of one line at most.
#[rustfmt::skip]
const MOST: usize = 12;

/// Options, and what a value of each may look like: a new parser is fuzzed by adding its option here.
const OPTIONS: &[(&str, &[&str])] = &[
    ("--shared-dir", &["/srv", ""]),
    ("--socket-path", &["/run/s", ""]),
    ("--fd", &["3", "-1"]),
    ("--tag", &["t", "0123456789012345678901234567890123456"]),
    ("--cache", &["auto", "always", "never", "metadata", "none"]),
    ("--thread-pool-size", &["0", "4"]),
    ("--sandbox", &["namespace", "chroot", "none"]),
    ("--seccomp", &["none", "kill", "log", "trap"]),
    ("--rlimit-nofile", &["0", "100000"]),
    ("--modcaps", &["+sys_admin:-chown", "-mknod", "+"]),
    ("--uid-map", &[":0:100000:65536:", ":0:0:1:", "::::", ":4294967295:1:1:"]),
    ("--gid-map", &[":0:100000:65536:", ";1;2;3;"]),
    (
        "--translate-uid",
        &[
            "guest:0:1000:1",
            "host:0:1000:1",
            "squash-guest:0:1000:1",
            "squash-host:0:1000:1",
            "forbid-guest:0:1",
            "map:0:1000:1",
        ],
    ),
    ("--translate-gid", &["guest:0:1000:1", "forbid-guest:1:4294967295"]),
    (
        "--xattrmap",
        &[
            ":map::user.virtiofs.:",
            ":prefix:all:trusted.:user.x.::ok:all:::",
            "/bad/all///",
            ":type:scope:key:prepend:",
        ],
    ),
    ("--attr-timeout", &["1", "0.5", "1e9", "-1", "nan", "inf"]),
    ("--entry-timeout", &["1", "1e-9"]),
    ("--negative-timeout", &["0"]),
    ("--landlock", &["auto", "none", "all"]),
    ("--sandbox-required", &[]),
    ("--max-nodes", &["1", "0", "16000000"]),
    ("--max-handles", &["5", "18446744073709551616"]),
    ("--max-locks", &["100", "-1"]),
    ("--max-allocate", &["16T", "1k", "0"]),
    ("--max-xattr", &["64K", "65K"]),
    ("--max-kept-bytes", &["64M"]),
    ("--max-write", &["1M", "4k", "0", "4096", "1.5M", "18446744073709551616"]),
    ("--readahead", &["128k", "0"]),
    ("--queues", &["1", "65535"]),
    ("--queue-affinity", &["0-3,5", "3-0", "0-4294967295", ",", "0,0"]),
    ("--busy-poll", &["50", "0"]),
    ("--engine", &["auto", "uring", "threads"]),
    ("--direct", &["auto", "always", "never"]),
    ("--posix-acl", &["auto", "always", "never"]),
    ("--inode-file-handles", &["never", "prefer", "mandatory"]),
    ("--window-socket", &["/run/w"]),
    ("--window-serial", &["efs-1", "012345678901234567890"]),
    ("--extent-source", &["window", "device"]),
    ("--extent-device", &["/dev/vdb"]),
    ("--extent-dialect", &["private", "rfc2025"]),
    ("--log-level", &["debug", "off"]),
    ("--socket-group", &["kvm"]),
    (
        "-o",
        &[
            "source=/srv,cache=none,xattr,no_flock",
            "modcaps=+chown",
            "xattrmap=:map::x.:",
            "=",
            ",,",
            "loglevel=err",
        ],
    ),
    ("-f", &[]),
    ("--syslog", &[]),
    ("--readonly", &[]),
    ("--xattr", &[]),
    ("--writeback", &[]),
    ("--help", &[]),
    ("--version", &[]),
    ("--print-capabilities", &[]),
    ("--announce-submounts", &[]),
    ("--allow-mmap", &[]),
    ("--vmm", &["qemu", "crosvm", "uml", "libvirt", "cloud-hypervisor", "kata"]),
    ("--memory", &["1G", "0"]),
    ("--work", &["read", "write"]),
    ("--duration", &["1s"]),
    ("--block-size", &["4k"]),
    ("--depth", &["32"]),
];

fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let which = input.u8();
    let mut words: Vec<OsString> = vec!["extentfsd".into()];
    match which {
        // Every byte as it comes, words ended by NUL.
        0..=49 => words.extend(
            input.rest().split(|byte| *byte == 0).take(MOST).map(|word| OsString::from_vec(word.to_vec())),
        ),
        50..=99 => words.push("attach-args".into()),
        100..=199 => words.extend(["--shared-dir=/srv", "--socket-path=/s"].map(OsString::from)),
        _ => {}
    }
    while !input.is_empty() && words.len() < MOST {
        let word = word(&mut input);
        words.extend(word);
    }
    if which == 255 {
        return judge_exit(bench::parse(words).err());
    }
    let parsed = parse(words.clone());
    assert_eq!(parsed, parse(words), "the same line twice");
    match parsed {
        Ok(Command::AttachArgs(args)) => assert!(args.render().ends_with('\n')),
        Ok(_) => {}
        Err(exit) => judge_exit(Some(exit)),
    }
}

/// The next option and its value, in one word or two.
fn word(input: &mut Input<'_>) -> Vec<OsString> {
    let (option, values) = OPTIONS[input.below(OPTIONS.len())];
    let how = input.u8();
    let mut value = if values.is_empty() {
        Vec::new()
    } else {
        values[usize::from(how) % values.len()].as_bytes().to_vec()
    };
    if how >= 128 {
        // The usual value with some bytes of the fuzzer's in its place, or behind it.
        let (at, len) = (usize::from(input.u8()) % (value.len() + 1), input.below(16));
        let keep = if how & 1 == 1 { value.len() } else { at };
        value.splice(at..keep, input.bytes(len).iter().copied());
    }
    // The system gives no argument with a NUL in it.
    value.retain(|byte| *byte != 0);
    let value = OsString::from_vec(value);
    match how & 6 {
        0 if values.is_empty() => vec![option.into()],
        0 | 2 => vec![option.into(), value],
        _ => {
            let mut word = OsString::from(option);
            word.push("=");
            word.push(value);
            vec![word]
        }
    }
}

fn judge_exit(exit: Option<ParseExit>) {
    let Some(ParseExit { text, stream, code }) = exit else { return };
    assert!(text.ends_with('\n'), "{text:?}");
    if code == 0 {
        assert_eq!(stream, Stream::Out, "{text:?}");
        return;
    }
    assert!(code <= 2 && stream == Stream::Err, "{code}: {text:?}");
    if text.starts_with("extentfsd: ") {
        let line = text.trim_end_matches('\n');
        assert!(!line.chars().any(char::is_control), "more than one line: {text:?}");
    }
}
