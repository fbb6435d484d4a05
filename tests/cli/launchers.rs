//! Are the lines with which launchers start virtiofsd understood, old spellings included?

use extentfsd::cli::{Cache, Limits, Log, LogLevel, Nofile, Options, SandboxMode, Socket};

use crate::{Change, MINIMAL, assert_means, defaults, notes, options, timeouts};

/// The lines with which launchers start the daemon.
#[test]
fn launch_lines_are_understood() {
    let inherited = |o: &mut Options| o.listen.socket = Socket::Fd(3);
    let table: &[(&str, &str, Change)] = &[
        (
            "libvirt, before it knew separate options",
            "--fd=3 -o source=/srv/share,cache=auto,xattr,no_flock,no_posix_lock",
            |o| {
                o.share.xattr = true;
                o.share.killpriv_v2 = true;
            },
        ),
        (
            "the same, with all it can set",
            "--syslog --fd=3 -o source=/srv/share,cache=none,sandbox=chroot,no_xattr,flock,posix_lock \
             --thread-pool-size=8 --rlimit-nofile=4096 -d",
            |o| {
                o.share.cache = Cache::Never;
                o.share.timeouts = timeouts(0);
                o.share.readdirplus = false;
                o.share.flock = true;
                o.share.posix_lock = true;
                o.sandbox.mode = SandboxMode::Chroot;
                o.limits = Limits { nofile: Nofile::Limit(4096), thread_pool_size: 8 };
                o.log = Log { level: LogLevel::Debug, syslog: true };
            },
        ),
        (
            "libvirt",
            "--fd=3 --shared-dir /srv/share --cache always --sandbox namespace --xattr --thread-pool-size=8 \
             --rlimit-nofile=4096 --log-level debug",
            |o| {
                o.share.cache = Cache::Always;
                o.share.timeouts = timeouts(86400);
                o.share.xattr = true;
                o.share.killpriv_v2 = true;
                o.limits = Limits { nofile: Nofile::Limit(4096), thread_pool_size: 8 };
                o.log.level = LogLevel::Debug;
            },
        ),
        (
            "Kata Containers, Go",
            "--syslog --cache=auto --shared-dir=/srv/share --fd=3 --thread-pool-size=1 --announce-submounts",
            |o| {
                o.limits.thread_pool_size = 1;
                o.log.syslog = true;
            },
        ),
    ];
    for (launcher, line, change) in table {
        let mut expected = defaults();
        inherited(&mut expected);
        change(&mut expected);
        let mut found = options(line);
        found.notes.clear();
        assert_eq!(found, expected, "{launcher}");
    }

    // Kata Containers, runtime-rs.
    assert_means(
        "--socket-path share.sock --shared-dir /srv/share --cache never --thread-pool-size=1 \
         -o announce_submounts --xattr",
        |o| {
            o.share.cache = Cache::Never;
            o.share.timeouts = timeouts(0);
            o.share.readdirplus = false;
            o.share.xattr = true;
            o.share.killpriv_v2 = true;
            o.limits.thread_pool_size = 1;
        },
    );
    // cloud-hypervisor's own tests.
    assert_means("--shared-dir /srv/share --socket-path share.sock --cache never --tag myfs", |o| {
        o.share.cache = Cache::Never;
        o.share.timeouts = timeouts(0);
        o.share.readdirplus = false;
        o.device.tag = Some("myfs".into());
    });
}

#[test]
fn old_spellings_are_warned_about_in_virtiofsd_s_words() {
    let note = |line: &str| notes(&format!("--shared-dir /srv/share {line}"));
    assert_eq!(note("--fd 3"), [""; 0]);
    assert_eq!(note("--fd 3 -f"), ["Use of deprecated flag '-f': This flag has no effect, please remove it"]);
    assert_eq!(
        note("--fd 3 -d"),
        ["Use of deprecated flag '-d': Please use the '--log-level debug' option instead"]
    );
    assert_eq!(
        note("--fd 3 -o xattr -o no_flock"),
        [
            "Use of deprecated option format '-o': Please specify options without it (e.g., '--cache auto' instead \
          of '-o cache=auto')"
        ]
    );
    assert_eq!(
        note("--fd 3 --inode-file-handles=fallback"),
        ["Use of deprecated value 'fallback' for '--inode-file-handles': Please use 'prefer' instead"]
    );
    assert_eq!(
        note("--socket /run/a"),
        ["use of deprecated parameter '--socket': Please use the '--socket-path' option instead"]
    );
    let warnings = options(&format!("{MINIMAL} -f -d")).notes;
    assert_eq!(warnings.iter().filter(|note| note.level == LogLevel::Warn).count(), 2);
}
