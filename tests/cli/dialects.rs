//! Do the `-o` dialect and separate options mean the same?

use extentfsd::cli::Cache;
use proptest::prelude::*;

use crate::options;

/// Each setting in the old dialect and as separate options. The empty string leaves the setting out.
const DIALECTS: &[&[(&str, &str)]] = &[
    &[
        ("", ""),
        ("cache=auto", "--cache=auto"),
        ("cache=always", "--cache=always"),
        ("cache=none", "--cache=never"),
        ("cache=metadata", "--cache=metadata"),
    ],
    &[
        ("", ""),
        ("loglevel=debug", "--log-level=debug"),
        ("loglevel=info", "--log-level=info"),
        ("loglevel=warn", "--log-level=warn"),
        ("loglevel=err", "--log-level=error"),
    ],
    &[("", ""), ("sandbox=namespace", "--sandbox=namespace"), ("sandbox=chroot", "--sandbox=chroot")],
    &[("", ""), ("modcaps=+sys_admin:-chown", "--modcaps=+sys_admin:-chown")],
    &[("", ""), ("xattr", "--xattr"), ("no_xattr", "")],
    &[("", ""), ("readdirplus", ""), ("no_readdirplus", "--no-readdirplus")],
    &[("", ""), ("writeback", "--writeback"), ("no_writeback", "")],
    &[("", ""), ("allow_direct_io", "--allow-direct-io"), ("no_allow_direct_io", "")],
    &[("", ""), ("announce_submounts", "--announce-submounts")],
    &[("", ""), ("killpriv_v2", "--killpriv-v2"), ("no_killpriv_v2", "--no-killpriv-v2")],
    &[("", ""), ("posix_acl", "--posix-acl"), ("no_posix_acl", "--posix-acl=never")],
    &[("", ""), ("security_label", "--security-label"), ("no_security_label", "--security-label=never")],
    &[("", ""), ("posix_lock", "--posix-lock"), ("no_posix_lock", "")],
    &[("", ""), ("flock", "--flock"), ("no_flock", "")],
];

proptest! {
    /// Both dialects mean the same, whether the old one is one list or many.
    #[test]
    fn the_old_dialect_means_the_same(choices in prop::collection::vec(any::<prop::sample::Index>(), DIALECTS.len()),
                                      one_list in any::<bool>()) {
        let chosen = || choices.iter().zip(DIALECTS).map(|(index, setting)| setting[index.index(setting.len())]);
        let old: Vec<&str> = ["source=/srv/share"].into_iter().chain(chosen().map(|(old, _)| old)).filter(|o| !o.is_empty()).collect();
        let old = if one_list { format!("-o {}", old.join(",")) } else { format!("-o {}", old.join(" -o ")) };
        let separate: Vec<&str> = chosen().map(|(_, separate)| separate).collect();

        let mut from_old = options(&format!("--fd 3 {old}"));
        let mut from_separate = options(&format!("--fd 3 --shared-dir /srv/share {}", separate.join(" ")));
        from_old.notes.clear();
        from_separate.notes.clear();
        prop_assert_eq!(from_old, from_separate);
    }

    /// The old dialect wins over separate options, wherever it stands.
    #[test]
    fn the_old_dialect_wins(first in any::<bool>()) {
        let (old, separate) = ("-o cache=always,no_writeback,source=/new", "--cache never --writeback --shared-dir /old");
        let line = if first { format!("{old} {separate}") } else { format!("{separate} {old}") };
        let share = options(&format!("--fd 3 {line}")).share;
        prop_assert_eq!((share.cache, share.writeback, share.dir), (Cache::Always, false, "/new".into()));
    }
}
