//! What is refused, and with which words?

use std::ffi::OsString;

use extentfsd::cli::{self, LogLevel, Stream};
use proptest::prelude::*;

use crate::{MINIMAL, options, refusal};

#[test]
fn options_without_a_feature_are_noted() {
    assert_eq!(options(MINIMAL).notes, []);
    for (line, option) in [
        ("--migration-mode file-handles", "--migration-mode"),
        ("--migration-on-error guest-error", "--migration-on-error"),
        ("--migration-verify-handles", "--migration-verify-handles"),
        ("--migration-confirm-paths", "--migration-confirm-paths"),
    ] {
        let [note] = options(&format!("{MINIMAL} {line}")).notes.try_into().unwrap();
        assert_eq!(note.level, LogLevel::Info);
        assert!(note.text.starts_with(&format!("{option} ")), "{}", note.text);
    }
}

/// Wrong lines, and what the one line about each of them must contain.
#[test]
fn a_wrong_line_gets_one_line_that_names_the_option() {
    for (line, named) in [
        ("--fd 3", "missing option --shared-dir"),
        ("--shared-dir /srv/share", "missing option --socket-path"),
        ("--shared-dir", "--shared-dir"),
        ("--bogus --fd 3 --shared-dir /", "unexpected argument '--bogus'"),
        ("stray --fd 3 --shared-dir /", "unexpected argument 'stray'"),
        ("--fd 3 --socket-path a --shared-dir /", "--fd"),
        ("--fd 3 --socket a --shared-dir /", "--fd"),
        ("--fd 3 --socket-group a --shared-dir /", "--socket-group"),
        ("--print-capabilities --socket-group a", "--socket-group"),
        ("--fd x --shared-dir /", "--fd"),
        ("--fd=-1 --shared-dir /", "--fd"),
        ("--fd=2147483648 --shared-dir /", "--fd"),
        ("--fd 3 --shared-dir / --cache none", "--cache"),
        ("--fd 3 --shared-dir / --cache", "--cache"),
        ("--fd 3 --shared-dir / --window-serial a", "--window-socket"),
        ("--fd 3 --shared-dir / --extent-source blocks", "--extent-source"),
        ("--fd 3 --shared-dir / --extent-source block --device d", "block needs --window-socket <PATH>"),
        ("--fd 3 --shared-dir / --extent-source block --window-socket w", "block needs --device <PATH>"),
        (
            "--fd 3 --shared-dir / --window-socket w --device d",
            "--device needs --extent-source device or block",
        ),
        ("--fd 3 --shared-dir / --device /dev/vdb", "--device needs --extent-source device"),
        ("--fd 3 --shared-dir / --device /dev/vdb --extent-source file", "--device needs"),
        ("--fd 3 --shared-dir / --extent-source device --window-serial a", "needs --device <PATH>"),
        ("--fd 3 --shared-dir / --extent-source device --device d", "needs --window-serial <SERIAL>"),
        (
            "--fd 3 --shared-dir / --extent-source device --device d --window-serial a --window-socket w",
            "cannot be used with --window-socket",
        ),
        (
            "--fd 3 --shared-dir / --extent-source device --device d --window-serial a --keep-listening",
            "cannot be used with --keep-listening",
        ),
        (
            "--fd 3 --shared-dir / --extent-source device --device d --window-serial a --extent-dialect rfc2025",
            "--window-socket",
        ),
        ("--fd 3 --shared-dir / --extent-dialect rfc2025", "--window-socket"),
        ("--fd 3 --shared-dir / --window-socket w --extent-dialect 2025", "--extent-dialect"),
        ("--fd 3 --shared-dir / --window-queues 2", "--window-socket"),
        ("--fd 3 --shared-dir / --window-socket w --window-queues 0", "--window-queues"),
        ("--fd 3 --shared-dir / --window-socket w --window-serial", "--window-serial"),
        ("--fd 3 --shared-dir / --window-socket w --window-serial 123456789012345678901", "--window-serial"),
        ("--fd 3 --shared-dir / --window-socket w --window-serial a/b", "--window-serial"),
        ("--socket-path w --shared-dir / --window-socket w", "--window-socket"),
        ("--fd 3 --shared-dir / --inode-file-handles prefer", "--inode-file-handles"),
        ("--fd 3 --shared-dir / --inode-file-handles=Never", "--inode-file-handles"),
        ("--fd 3 --shared-dir / --posix-acl always", "unexpected argument 'always'"),
        ("--fd 3 --shared-dir / --posix-acl=yes", "--posix-acl"),
        ("--fd 3 --shared-dir / --security-label=yes", "--security-label"),
        ("--fd 3 --shared-dir / --sandbox jail", "--sandbox"),
        ("--fd 3 --shared-dir / --seccomp allow", "--seccomp"),
        ("--fd 3 --shared-dir / --landlock always", "--landlock"),
        ("--fd 3 --shared-dir / --sandbox-required=no", "--sandbox-required"),
        ("--fd 3 --shared-dir / --log-level loud", "--log-level"),
        ("--fd 3 --shared-dir / --direct maybe", "--direct"),
        ("--fd 3 --shared-dir / --tag=", "--tag"),
        ("--fd 3 --shared-dir / --tag 0123456789012345678901234567890123456", "--tag"),
        ("--fd 3 --shared-dir / --queues 0", "--queues"),
        ("--fd 3 --shared-dir / --queues 65", "--queues"),
        ("--fd 3 --shared-dir / --engine aio", "--engine"),
        ("--fd 3 --shared-dir / --ring-affinity 1-0", "--ring-affinity"),
        ("--fd 3 --shared-dir / --ring-affinity 1024", "--ring-affinity"),
        ("--fd 3 --shared-dir / --ring-affinity all", "--ring-affinity"),
        ("--fd 3 --shared-dir / --poll-us 1001", "--poll-us"),
        ("--fd 3 --shared-dir / --max-nodes 0", "--max-nodes"),
        ("--fd 3 --shared-dir / --max-handles=-1", "--max-handles"),
        ("--fd 3 --shared-dir / --max-locks many", "--max-locks"),
        ("--fd 3 --shared-dir / --max-allocate 0", "--max-allocate"),
        ("--fd 3 --shared-dir / --max-allocate 99999999999T", "--max-allocate"),
        ("--fd 3 --shared-dir / --max-xattr 65K", "--max-xattr"),
        ("--fd 3 --shared-dir / --max-in-flight 0", "--max-in-flight"),
        ("--fd 3 --shared-dir / --max-kept-bytes 0", "--max-kept-bytes"),
        ("--fd 3 --shared-dir / --max-write 5M", "--max-write"),
        ("--fd 3 --shared-dir / --max-write 4095", "--max-write"),
        ("--fd 3 --shared-dir / --readahead lots", "--readahead"),
        ("--fd 3 --shared-dir / --attr-timeout=-1", "--attr-timeout"),
        ("--fd 3 --shared-dir / --entry-timeout 1s", "--entry-timeout"),
        ("--fd 3 --shared-dir / --negative-timeout NaN", "--negative-timeout"),
        ("--fd 3 --shared-dir / --thread-pool-size=-1", "--thread-pool-size"),
        ("--fd 3 --shared-dir / --rlimit-nofile many", "--rlimit-nofile"),
        ("--fd 3 --shared-dir / --modcaps=chown", "--modcaps"),
        ("--fd 3 --shared-dir / --modcaps=+fly", "--modcaps"),
        ("--fd 3 --shared-dir / --modcaps=-dac_read_search", "--modcaps"),
        ("--fd 3 --shared-dir / --uid-map 0:0:1", "--uid-map"),
        ("--fd 3 --shared-dir / --gid-map :0:0:0:", "--gid-map"),
        ("--fd 3 --shared-dir / --uid-map :0:1:2/", "--uid-map"),
        ("--fd 3 --shared-dir / --uid-map a0a1a2a", "--uid-map"),
        ("--fd 3 --shared-dir / --sandbox none --uid-map :0:0:1:", "--uid-map needs --sandbox namespace"),
        ("--fd 3 --shared-dir / --sandbox chroot --gid-map :0:0:1:", "--gid-map needs --sandbox namespace"),
        (
            "--fd 3 --shared-dir / --uid-map :5:100:1: --uid-map :0:1000:6:",
            "--uid-map maps the id 5 inside twice",
        ),
        (
            "--fd 3 --shared-dir / --gid-map :0:1000:6: --gid-map :6:1005:1:",
            "--gid-map maps the id 1005 outside twice",
        ),
        ("--fd 3 --shared-dir / --xattrmap :ok:all:::bad", "--xattrmap"),
        ("--fd 3 --shared-dir / --xattrmap :good:all:::", "rule 1: there is no type 'good'"),
        ("--fd 3 --shared-dir / --xattrmap :ok:all:::/bad/every///", "rule 2: there is no scope 'every'"),
        ("--fd 3 --shared-dir / --xattrmap :ok:all::", "rule 1: expected :TYPE:SCOPE:KEY:PREPEND:"),
        ("--fd 3 --shared-dir / --xattrmap=", "--xattrmap"),
        ("--fd 3 --shared-dir / --xattrmap :map:a:b::ok:all:::", "a rule of type map must be the last one"),
        ("--fd 3 --shared-dir / --xattrmap :prefix:all:trusted.:user.vm.:", "add the rule :bad:all:::"),
        ("--fd 3 --shared-dir / --xattrmap :prefix:all::user.vm.:", "add the rule :bad:server:::"),
        ("--fd 3 -o source=/,xattrmap=:prefix:all::user.vm.:", "add the rule :bad:server:::"),
        ("--fd 3 -o source=/,xattrmap=", "Invalid compat value '' for '-o xattrmap'"),
        (
            "--fd 3 --shared-dir / --posix-acl --xattrmap :map::user.vm.:",
            "put the rule :ok:all:system.posix_acl_:system.posix_acl_: in front",
        ),
        ("--fd 3 --shared-dir / --posix-acl=auto --xattrmap :bad:server::system.::ok:all:::", "in front"),
        ("--fd 3 --shared-dir / --translate-uid 0:1000:1", "no type '0'"),
        ("--fd 3 --shared-dir / --translate-uid map:0:1000", "--translate-uid"),
        ("--fd 3 --shared-dir / --translate-uid forbid-guest:0:1:1", "expected forbid-guest:SOURCE:COUNT"),
        ("--fd 3 --shared-dir / --translate-uid squash:0:1:1", "no type 'squash'"),
        ("--fd 3 --shared-dir / --translate-gid map:0:0:0", "the count must not be 0"),
        ("--fd 3 --shared-dir / --translate-gid map:0:x:1", "'x' is not a number"),
        ("--fd 3 --shared-dir / --translate-gid guest:1:0:4294967295", "the source ids pass 4294967294"),
        ("--fd 3 --shared-dir / --translate-gid guest:0:1:4294967295", "the target ids pass 4294967294"),
        (
            "--fd 3 --shared-dir / --translate-uid map:0:1000:10 --translate-uid guest:9:5:1",
            "--translate-uid: map:0:1000:10 and guest:9:5:1 both say what becomes of the guest's id 9",
        ),
        (
            "--fd 3 --shared-dir / --translate-gid host:7:0:1 --translate-gid host:7:0:1",
            "--translate-gid: host:7:0:1 and host:7:0:1 both say what becomes of the host's id 7",
        ),
        (
            "--fd 3 --shared-dir / --posix-acl --translate-uid map:0:1000:1",
            "--translate-uid cannot be used with --posix-acl",
        ),
        (
            "--fd 3 --shared-dir / --posix-acl=auto --translate-gid map:0:1000:1",
            "--translate-gid cannot be used with --posix-acl",
        ),
        ("--fd 3 -o source=/,posix_acl --translate-gid map:0:1000:1", "cannot be used with --posix-acl"),
        ("--fd 3 --shared-dir / --migration-mode teleport", "--migration-mode"),
        ("--fd 3 --shared-dir / --migration-on-error ignore", "--migration-on-error"),
        (
            "--fd 3 --shared-dir / --migration-mode file-handles --migration-confirm-paths",
            "--migration-confirm-paths",
        ),
        (
            "--fd 3 --shared-dir / --migration-mode file-handles --migration-verify-handles",
            "--migration-verify-handles",
        ),
        ("--fd 3 -o", "-o"),
        ("--fd 3 -o source=/,bogus", "Invalid compat argument '-o bogus'"),
        ("--fd 3 -o source=/,timeout=1", "Invalid compat argument '-o timeout=1'"),
        ("--fd 3 -o source=/,no_announce_submounts", "Invalid compat argument '-o no_announce_submounts'"),
        ("--fd 3 -o source=/,no_no_xattr", "Invalid compat argument '-o no_no_xattr'"),
        ("--fd 3 -o source=a=b", "Invalid compat argument '-o source=a=b'"),
        ("--fd 3 -o source=/,", "Invalid compat argument '-o '"),
        ("--fd 3 -o source=/,cache=never", "Invalid compat value 'never' for '-o cache'"),
        ("--fd 3 -o source=/,sandbox=none", "Invalid compat value 'none' for '-o sandbox'"),
        ("--fd 3 -o source=/,loglevel=trace", "Invalid compat value 'trace' for '-o loglevel'"),
        ("--fd 3 -o source=/,modcaps=+fly", "Invalid compat value '+fly' for '-o modcaps'"),
        ("attach-args --vmm bhyve", "--vmm"),
        ("attach-args --socket-path a", "--vmm"),
        ("attach-args --vmm qemu --queue-size 1000", "--queue-size"),
        ("attach-args --vmm qemu --queue-size 2048", "--queue-size"),
        ("attach-args --vmm qemu --memory 1000", "--memory"),
        ("attach-args --vmm qemu --cpus 0", "--cpus"),
        ("attach-args --vmm kata --window-socket w", "--window-socket"),
        ("attach-args --vmm kata --device /dev/a", "--device"),
        ("attach-args --vmm uml --device /dev/a", "--device"),
        ("attach-args --vmm crosvm --device /dev/a,b", "--device"),
        ("attach-args --vmm qemu --device /dev/a --window-socket w", "--device"),
        ("attach-args --vmm crosvm --window-socket a,b", "--window-socket"),
        ("attach-args --vmm uml --window-socket a:b", "--window-socket"),
        ("attach-args --vmm uml --socket-path a:b", "--socket-path"),
        ("attach-args --vmm cloud-hypervisor --queues 4 --cpus 2", "--queues"),
        ("attach-args --vmm cloud-hypervisor --socket-path a,b", "--socket-path"),
        ("attach-args --vmm crosvm --tag a,b --queue-size 64", "--tag"),
        ("attach-args --vmm kata --queues 2", "--queues"),
    ] {
        let exit = refusal(line);
        assert_eq!((exit.code, exit.stream), (2, Stream::Err), "{line}: {}", exit.text);
        assert!(exit.text.contains(named), "{line}: {}", exit.text);
        assert_eq!(exit.text.lines().count(), 1, "{line}: {}", exit.text);
    }
}

#[test]
fn the_old_dialect_without_a_source_fails_as_virtiofsd_does() {
    let exit = refusal("--fd 3 -o xattr");
    assert_eq!(exit.code, 1);
    assert_eq!(exit.text, "extentfsd: missing \"--shared-dir\" or \"-o source\" option\n");
}

proptest! {
    /// Nothing that can be written on a command line makes the parser panic, and no error has two lines.
    #[test]
    fn no_line_panics(words in prop::collection::vec("(-o|--[a-z-]{1,12}=?)?[ -~\n]{0,12}", 1..6)) {
        let words = ["extentfsd".to_owned()].into_iter().chain(words);
        if let Err(exit) = cli::parse(words.map(OsString::from)) && exit.stream == Stream::Err {
            prop_assert_eq!(exit.text.lines().count(), 1);
        }
    }
}
