//! What does each option change?

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use caps::Capability;
use extentfsd::cli::{
    self, Cache, Command, Direct, Engine, ExtentDevice, ExtentDialect, IdMap, InodeFileHandles, Landlock,
    LogLevel, ModCaps, Negotiation, Nofile, SandboxMode, Seccomp, Socket, Timeouts, Window,
};

use extentfsd::identity::{IdRule, IdTranslation};

use crate::{Change, MINIMAL, assert_means, options, timeouts};

/// What each option changes.
const MEANINGS: &[(&str, Change)] = &[
    ("", |_| ()),
    ("--readonly", |o| o.share.readonly = true),
    ("--announce-submounts", |_| ()),
    ("--no-announce-submounts", |o| o.share.announce_submounts = false),
    ("--announce-submounts --no-announce-submounts", |o| o.share.announce_submounts = false),
    ("--no-announce-submounts --announce-submounts", |_| ()),
    ("--inode-file-handles=never", |o| o.share.inode_file_handles = InodeFileHandles::Never),
    ("--inode-file-handles=prefer", |_| ()),
    ("--inode-file-handles=fallback", |_| ()),
    ("--inode-file-handles=mandatory", |o| o.share.inode_file_handles = InodeFileHandles::Mandatory),
    ("--posix-lock", |o| o.share.posix_lock = true),
    ("--flock", |o| o.share.flock = true),
    ("--socket-group kvm", |o| o.listen.group = Some("kvm".into())),
    ("--tag myfs", |o| o.device.tag = Some("myfs".into())),
    ("--queues 1", |o| o.device.queues = 1),
    ("--engine io_uring", |o| o.rings.engine = Engine::IoUring),
    ("--engine threads", |o| o.rings.engine = Engine::Threads),
    ("--ring-affinity 3,0-1", |o| o.rings.affinity = vec![3, 0, 1]),
    ("--poll-us 50", |o| o.rings.poll = Duration::from_micros(50)),
    ("--keep-listening", |o| o.device.keep_listening = true),
    ("--cache auto", |_| ()),
    ("--cache=NEVER", |o| {
        o.share.cache = Cache::Never;
        o.share.timeouts = timeouts(0);
        o.share.readdirplus = false;
    }),
    ("--cache metadata", |o| {
        o.share.cache = Cache::Metadata;
        o.share.timeouts = timeouts(86400);
    }),
    ("--cache never --cache always", |o| {
        o.share.cache = Cache::Always;
        o.share.timeouts = timeouts(86400);
    }),
    ("--cache never --attr-timeout 2 --entry-timeout 0.5 --negative-timeout 3", |o| {
        o.share.cache = Cache::Never;
        o.share.readdirplus = false;
        o.share.timeouts = Timeouts {
            attr: Duration::from_secs(2),
            entry: Duration::from_millis(500),
            negative: Duration::from_secs(3),
        };
    }),
    ("--attr-timeout 0", |o| o.share.timeouts.attr = Duration::ZERO),
    ("--writeback", |o| o.share.writeback = true),
    ("--allow-mmap", |o| o.share.allow_mmap = true),
    ("--no-readdirplus", |o| o.share.readdirplus = false),
    ("--xattr", |o| {
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--xattr --no-killpriv-v2", |o| o.share.xattr = true),
    ("--posix-acl", |o| {
        o.share.posix_acl = Negotiation::Always;
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--posix-acl=auto", |o| {
        o.share.posix_acl = Negotiation::Auto;
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--posix-acl=always", |o| {
        o.share.posix_acl = Negotiation::Always;
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--posix-acl=never", |_| ()),
    ("--security-label", |o| {
        o.share.security_label = Negotiation::Always;
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--security-label=auto", |o| {
        o.share.security_label = Negotiation::Auto;
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--security-label=never", |_| ()),
    ("--xattrmap :map::user.vm.:", |o| {
        o.share.xattrmap = Some(":map::user.vm.:".parse().unwrap());
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("-o xattrmap=/ok/all///", |o| {
        o.share.xattrmap = Some("/ok/all///".parse().unwrap());
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--posix-acl --xattrmap /map/trusted./user.vm./", |o| {
        o.share.xattrmap = Some("/map/trusted./user.vm./".parse().unwrap());
        o.share.posix_acl = Negotiation::Always;
        o.share.xattr = true;
        o.share.killpriv_v2 = true;
    }),
    ("--translate-uid map:0:1000:1", |o| o.share.translation.users = ids(&["map:0:1000:1"])),
    ("--translate-gid Forbid-Guest/0/1 --translate-gid host/7/8/9 --posix-acl=never", |o| {
        o.share.translation.groups = ids(&["host:7:8:9", "forbid-guest:0:1"]);
    }),
    ("--killpriv-v2", |o| o.share.killpriv_v2 = true),
    ("--killpriv-v2 --no-killpriv-v2", |_| ()),
    ("--no-killpriv-v2 --killpriv-v2", |o| o.share.killpriv_v2 = true),
    ("--preserve-noatime", |o| o.share.preserve_noatime = true),
    ("--direct auto", |_| ()),
    ("--direct always", |o| o.share.direct = Direct::Always),
    ("--direct never", |o| o.share.direct = Direct::Never),
    ("--allow-direct-io", |o| o.share.allow_direct_io = true),
    ("--max-nodes 5", |o| o.guest_limits.max_nodes = 5),
    ("--max-handles 5", |o| o.guest_limits.max_handles = Some(5)),
    ("--max-locks 5", |o| o.guest_limits.max_locks = 5),
    ("--max-lock-waiters 5", |o| o.guest_limits.max_lock_waiters = 5),
    ("--max-allocate 2T", |o| o.guest_limits.max_allocate = 2 << 40),
    ("--max-xattr 4K", |o| o.guest_limits.max_xattr = 4096),
    ("--max-window-files 5", |o| o.guest_limits.max_window_files = 5),
    ("--max-in-flight 5", |o| o.guest_limits.max_in_flight = 5),
    ("--max-kept-bytes 1M", |o| o.guest_limits.max_kept_bytes = 1 << 20),
    ("--max-write 4M", |o| o.share.max_write = 4 << 20),
    ("--readahead 128K", |o| o.share.readahead = Some(128 << 10)),
    ("--thread-pool-size=16", |o| o.limits.thread_pool_size = 16),
    ("--rlimit-nofile 0", |o| o.limits.nofile = Nofile::Unchanged),
    ("--rlimit-nofile=2000", |o| o.limits.nofile = Nofile::Limit(2000)),
    ("--sandbox namespace", |_| ()),
    ("--sandbox chroot", |o| o.sandbox.mode = SandboxMode::Chroot),
    ("--sandbox=None", |o| o.sandbox.mode = SandboxMode::None),
    ("--seccomp none", |o| o.sandbox.seccomp = Seccomp::None),
    ("--seccomp kill", |_| ()),
    ("--seccomp log", |o| o.sandbox.seccomp = Seccomp::Log),
    ("--seccomp trap", |o| o.sandbox.seccomp = Seccomp::Trap),
    ("--landlock none", |o| o.sandbox.landlock = Landlock::None),
    ("--landlock=auto", |_| ()),
    ("--sandbox-required", |o| o.sandbox.required = true),
    ("--modcaps=+sys_admin:-chown", |o| {
        o.sandbox.modcaps =
            ModCaps { add: vec![Capability::CAP_SYS_ADMIN], drop: vec![Capability::CAP_CHOWN] };
    }),
    ("--modcaps -mknod", |o| o.sandbox.modcaps.drop = vec![Capability::CAP_MKNOD]),
    ("--uid-map :0:1000:1: --uid-map /1/100000/9/ --gid-map :0:100:1:", |o| {
        o.sandbox.uid_map = vec![
            IdMap { inside: 0, outside: 1000, count: 1 },
            IdMap { inside: 1, outside: 100_000, count: 9 },
        ];
        o.sandbox.gid_map = vec![IdMap { inside: 0, outside: 100, count: 1 }];
    }),
    ("--log-level error", |o| o.log.level = LogLevel::Error),
    ("--log-level WARN", |o| o.log.level = LogLevel::Warn),
    ("--log-level debug", |o| o.log.level = LogLevel::Debug),
    ("--log-level trace", |o| o.log.level = LogLevel::Trace),
    ("--log-level off", |o| o.log.level = LogLevel::Off),
    ("--window-socket /run/window.sock", |o| {
        o.window = Some(Window { socket: "/run/window.sock".into(), serial: None, queues: 64, device: None });
    }),
    ("--window-socket w --extent-dialect private", |o| {
        o.window = Some(Window { socket: "w".into(), serial: None, queues: 64, device: None });
    }),
    ("--window-socket w --extent-dialect=rfc2025", |o| {
        o.window = Some(Window { socket: "w".into(), serial: None, queues: 64, device: None });
        o.share.extent_dialect = ExtentDialect::Rfc2025;
    }),
    ("--window-socket w --window-serial a-disk.1", |o| {
        o.window =
            Some(Window { socket: "w".into(), serial: Some("a-disk.1".into()), queues: 64, device: None });
    }),
    ("--window-socket w --queues 3", |o| {
        o.device.queues = 3;
        o.window = Some(Window { socket: "w".into(), serial: None, queues: 3, device: None });
    }),
    ("--extent-source file", |_| ()),
    ("--extent-source device --device /dev/vdb --window-serial a-disk.1", |o| {
        o.extent_device = Some(ExtentDevice { path: "/dev/vdb".into(), serial: "a-disk.1".into() });
    }),
    ("--extent-source block --device /dev/vdb --window-socket w", |o| {
        let device = Some("/dev/vdb".into());
        o.window = Some(Window { socket: "w".into(), serial: None, queues: 64, device });
    }),
    ("--window-socket w --window-queues 2", |o| {
        o.window = Some(Window { socket: "w".into(), serial: None, queues: 2, device: None });
    }),
    ("--syslog", |o| o.log.syslog = true),
    ("-d", |o| o.log.level = LogLevel::Debug),
    ("-d --log-level warn", |o| o.log.level = LogLevel::Debug),
    ("-f", |_| ()),
    ("--migration-mode find-paths --migration-verify-handles --migration-confirm-paths", |_| ()),
    ("--migration-mode=file-handles", |_| ()),
    ("--migration-on-error abort", |_| ()),
    ("--migration-on-error guest-error", |_| ()),
];

fn ids(rules: &[&str]) -> IdTranslation {
    let rules: Vec<IdRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    IdTranslation::new(&rules).unwrap()
}

#[test]
fn every_option_changes_what_it_names() {
    for (line, change) in MEANINGS {
        assert_means(&format!("{MINIMAL} {line}"), *change);
    }
}

#[test]
fn the_socket_may_be_named_in_three_ways() {
    let socket = |line: &str| options(&format!("--shared-dir /srv/share {line}")).listen.socket;
    assert_eq!(socket("--socket-path /run/a"), Socket::Path("/run/a".into()));
    assert_eq!(socket("--socket /run/a"), Socket::Path("/run/a".into()));
    assert_eq!(socket("--socket /run/a --socket-path /run/b"), Socket::Path("/run/b".into()));
    assert_eq!(socket("--fd 3"), Socket::Fd(3));
}

#[test]
fn paths_need_not_be_unicode() {
    let dir = OsString::from_vec(b"/srv/\xff".to_vec());
    let words: Vec<OsString> = vec!["extentfsd".into(), "--fd=3".into(), "--shared-dir".into(), dir.clone()];
    let Ok(Command::Serve(options)) = cli::parse(words) else { panic!("not served") };
    assert_eq!(options.share.dir, PathBuf::from(dir));
}

#[test]
fn dropping_the_capability_for_handles_needs_no_handles() {
    let drop = options(&format!("{MINIMAL} --inode-file-handles=never --modcaps=-dac_read_search"))
        .sandbox
        .modcaps
        .drop;
    assert_eq!(drop, [Capability::CAP_DAC_READ_SEARCH]);
}

#[test]
fn capabilities_under_another_name_are_left_to_the_guest() {
    let notes = |line: &str| crate::notes(&format!("{MINIMAL} {line}"));
    let [note] = notes("--xattrmap :map::user.vm.: --killpriv-v2").try_into().unwrap();
    assert!(note.starts_with("--killpriv-v2 has no effect with this --xattrmap"), "{note}");
    assert!(note.contains("user.vm.security.capability"), "{note}");
    assert!(notes("--xattrmap :map::user.vm.:").is_empty());
    assert!(notes("--xattrmap :map:trusted.:user.vm.: --killpriv-v2").is_empty());
}
