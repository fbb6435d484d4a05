//! How is the value of one option written?
//!
//! Errors say what was expected; the parser adds the name of the option.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::options::{
    Cache, Direct, Engine, ExtentDialect, ExtentSource, IdMap, InodeFileHandles, Landlock, LogLevel, ModCaps,
    Negotiation, SandboxMode, Seccomp,
};

/// Bytes of the answer to `VIRTIO_BLK_T_GET_ID` (virtio 1.2, section 5.2.6).
const SERIAL_MAX: usize = 20;

/// Longest tag that fits the device's configuration space (virtio 1.3, 5.11.4), in bytes.
const TAG_MAX: usize = 36;

const PAGE: u32 = 4096;
const MAX_WRITE_LIMIT: u32 = 4 << 20;

/// CPUs that `cpu_set_t` has room for.
const MAX_CPUS: usize = 1024;

/// `--ring-affinity`: numbers of CPUs, in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CpuList(pub(super) Vec<usize>);

/// `--migration-mode`. Checked, not used: see `unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MigrationMode {
    FindPaths,
    FileHandles,
}

/// `--migration-on-error`. Checked, not used: see `unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MigrationOnError {
    Abort,
    GuestError,
}

/// Names the values of an option. The parser's trait stays out of `options` this way.
macro_rules! value_names {
    ($type:ident { $($variant:ident = $name:literal $(| $alias:literal)?),+ $(,)? }) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant),+]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self {
                    $(Self::$variant => PossibleValue::new($name)$(.alias($alias))?),+
                })
            }
        }
    };
}

value_names!(Cache { Auto = "auto", Always = "always", Never = "never", Metadata = "metadata" });
value_names!(Direct { Auto = "auto", Always = "always", Never = "never" });
value_names!(Engine { Auto = "auto", IoUring = "io_uring", Threads = "threads" });
value_names!(ExtentDialect { Private = "private", Rfc2025 = "rfc2025" });
value_names!(ExtentSource { File = "file", Block = "block", Device = "device" });
value_names!(Negotiation { Never = "never", Auto = "auto", Always = "always" });
value_names!(InodeFileHandles { Never = "never", Prefer = "prefer" | "fallback", Mandatory = "mandatory" });
value_names!(SandboxMode { Namespace = "namespace", Chroot = "chroot", None = "none" });
value_names!(Seccomp { None = "none", Kill = "kill", Log = "log", Trap = "trap" });
value_names!(Landlock { Auto = "auto", None = "none" });
value_names!(LogLevel {
    Error = "error",
    Warn = "warn",
    Info = "info",
    Debug = "debug",
    Trace = "trace",
    Off = "off",
});
value_names!(MigrationMode { FindPaths = "find-paths", FileHandles = "file-handles" });
value_names!(MigrationOnError { Abort = "abort", GuestError = "guest-error" });

/// A mount tag: 1 to 36 bytes.
pub(super) fn tag(text: &str) -> Result<String, String> {
    match text.len() {
        1..=TAG_MAX => Ok(text.to_owned()),
        length => Err(format!("a tag has 1 to {TAG_MAX} bytes, this one has {length}")),
    }
}

/// A serial number of a virtio block device.
pub(super) fn serial(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=SERIAL_MAX).contains(&text.len()) || !text.bytes().all(plain) {
        return Err(format!("a serial has 1 to {SERIAL_MAX} letters, digits, '-', '_' and '.'"));
    }
    Ok(text.to_owned())
}

/// A time in seconds, with up to nine decimals.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || "expected seconds such as 1, 0.5 or 86400".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 {
        return Err(expected());
    }
    let whole = whole.parse().map_err(|_| expected())?;
    // Nine digits at most, so this fits and stays below one second.
    let nanoseconds = format!("{fraction:0<9}").parse().map_err(|_| expected())?;
    Ok(Duration::new(whole, nanoseconds))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number of bytes below 4 GiB, with an optional suffix K or M (powers of 1024).
pub(super) fn bytes(text: &str) -> Result<u32, String> {
    u32::try_from(size(text)?).map_err(|_| "must be less than 4G".to_owned())
}

/// How many of something there may be: one at least.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let count = Some(text).filter(|text| is_digits(text)).and_then(|text| text.parse().ok());
    count.filter(|count| *count > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

/// How many bytes of something there may be: one at least.
pub(super) fn amount(text: &str) -> Result<usize, String> {
    let bytes = usize::try_from(size(text)?).ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "expected a number of bytes from 1 on".to_owned())
}

/// `--max-xattr`: no more than the kernel takes (`XATTR_SIZE_MAX`).
pub(super) fn xattr_size(text: &str) -> Result<usize, String> {
    let bytes = amount(text)?;
    if bytes <= 64 << 10 { Ok(bytes) } else { Err("no kernel takes more than 64K".to_owned()) }
}

/// A number of bytes with an optional suffix K, M, G or T (powers of 1024).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len().saturating_sub(1)), 1 << 10),
        Some(b'm' | b'M') => (text.get(..text.len().saturating_sub(1)), 1 << 20),
        Some(b'g' | b'G') => (text.get(..text.len().saturating_sub(1)), 1 << 30),
        Some(b't' | b'T') => (text.get(..text.len().saturating_sub(1)), 1 << 40),
        _ => (Some(text), 1_u64),
    };
    number
        .filter(|number| is_digits(number))
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "expected bytes, with a suffix K, M, G or T if you like".to_owned())
}

/// `--max-write`: whole pages, because the guest counts the buffers of a request in pages.
pub(super) fn max_write(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    if !(PAGE..=MAX_WRITE_LIMIT).contains(&bytes) || !bytes.is_multiple_of(PAGE) {
        return Err("must be 4K to 4M in steps of 4K".to_owned());
    }
    Ok(bytes)
}

/// `--ring-affinity`: numbers and ranges of CPUs, separated by commas.
pub(super) fn cpu_list(text: &str) -> Result<CpuList, String> {
    let number = |text: &str| -> Result<usize, String> {
        if !is_digits(text) {
            return Err("expected CPUs such as 0,1 or 4-7".to_owned());
        }
        match text.parse() {
            Ok(cpu) if cpu < MAX_CPUS => Ok(cpu),
            _ => Err(format!("there is no CPU {text}: numbers end at {}", MAX_CPUS - 1)),
        }
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(format!("the range {part} is written backwards"));
        }
        cpus.extend(first..=last);
    }
    Ok(CpuList(cpus))
}

/// `--uid-map`, `--gid-map`: `:INSIDE:OUTSIDE:COUNT:`. The first character is the separator; it must
/// be the last one too and may not be a letter or a digit.
pub(super) fn id_map(text: &str) -> Result<IdMap, String> {
    let expected = || "expected :INSIDE:OUTSIDE:COUNT:".to_owned();
    let separator = text.chars().next().filter(|c| !c.is_alphanumeric()).ok_or_else(expected)?;
    let fields = text
        .strip_prefix(separator)
        .and_then(|rest| rest.strip_suffix(separator))
        .ok_or_else(expected)?
        .split(separator)
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|_| expected())?;
    let &[inside, outside, count] = fields.as_slice() else {
        return Err(expected());
    };
    let last = count.checked_sub(1).ok_or("the count must not be 0")?;
    if inside.checked_add(last).is_none() || outside.checked_add(last).is_none() {
        return Err("the range passes the largest id".to_owned());
    }
    Ok(IdMap { inside, outside, count })
}

/// `--modcaps`: `+NAME` and `-NAME`, separated by colons, in any case, without `CAP_`. Where a name
/// comes twice, the last one counts.
pub(super) fn modcaps(text: &str) -> Result<ModCaps, String> {
    let mut changes = ModCaps::default();
    for change in text.split(':') {
        let (keep, name) = match (change.strip_prefix('+'), change.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return Err(format!("expected +NAME or -NAME, found '{change}'")),
        };
        let capability = format!("CAP_{}", name.to_ascii_uppercase())
            .parse::<caps::Capability>()
            .map_err(|_| format!("there is no capability '{name}'"))?;
        changes.add.retain(|known| *known != capability);
        changes.drop.retain(|known| *known != capability);
        if keep { changes.add.push(capability) } else { changes.drop.push(capability) }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seconds_are_exact() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("86400"), Ok(Duration::from_secs(86400)));
        assert_eq!(seconds("0.1"), Ok(Duration::from_millis(100)));
        assert_eq!(seconds("1.000000001"), Ok(Duration::new(1, 1)));
        for bad in ["", ".", "1.", ".5", "-1", "+1", "1e3", "inf", "NaN", "0.0000000001", "1s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert!(seconds("18446744073709551616").is_err());
    }

    #[test]
    fn sizes_have_suffixes_and_limits() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("128k"), Ok(131_072));
        assert_eq!(size("4G"), Ok(4 << 30));
        for bad in ["", "K", "1KK", "1.5M", "-1", "+1", "4G", "1T", "17179869184G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(max_write("4096"), Ok(4096));
        assert_eq!(max_write("4M"), Ok(4 << 20));
        for bad in ["4095", "4097", "0", "4194305", "5M"] {
            assert!(max_write(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_counted_in_bytes() {
        assert!(tag("").is_err());
        assert!(tag(&"x".repeat(36)).is_ok());
        assert!(tag(&"x".repeat(37)).is_err());
        assert!(tag(&"ä".repeat(18)).is_ok());
        assert!(tag(&"ä".repeat(19)).is_err());
    }

    #[test]
    fn cpus_are_listed_in_order() {
        let cpus = |text| cpu_list(text).map(|list| list.0);
        assert_eq!(cpus("0"), Ok(vec![0]));
        assert_eq!(cpus("3,1,4-6"), Ok(vec![3, 1, 4, 5, 6]));
        assert_eq!(cpus("1023"), Ok(vec![1023]));
        for bad in
            ["", ",", "1,", "-1", "1-", "a", "0x1", "1 2", "2-1", "1024", "0-1024", "99999999999999999999"]
        {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn id_maps_take_any_separator() {
        let map = IdMap { inside: 0, outside: 100_000, count: 65536 };
        assert_eq!(id_map(":0:100000:65536:"), Ok(map));
        assert_eq!(id_map("/0/100000/65536/"), Ok(map));
        assert_eq!(id_map(":0:0:4294967295:"), Ok(IdMap { inside: 0, outside: 0, count: u32::MAX }));
        for bad in [
            "",
            ":",
            "::",
            ":0:1:2",
            "0:1:2",
            "00010020",
            ":0:1:",
            ":0:1:2:3:",
            ":0:x:1:",
            ":0:0:0:",
            ":1:0:4294967296:",
            ":2:0:4294967295:",
            ":0:2:4294967295:",
            ":0:1:2/",
        ] {
            assert!(id_map(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_word_on_a_capability_counts() {
        use caps::Capability::{CAP_CHOWN, CAP_SYS_ADMIN};
        let changes = modcaps("+sys_admin:-Chown").unwrap();
        assert_eq!(changes, ModCaps { add: vec![CAP_SYS_ADMIN], drop: vec![CAP_CHOWN] });
        let changes = modcaps("+chown:-chown").unwrap();
        assert_eq!(changes, ModCaps { add: vec![], drop: vec![CAP_CHOWN] });
        for bad in ["", "chown", "+", "+nosuch", "+chown:", "*chown", "+cap_chown"] {
            assert!(modcaps(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(text in "\\PC{0,24}") {
            let _ = (tag(&text), seconds(&text), bytes(&text), max_write(&text), id_map(&text), modcaps(&text), cpu_list(&text));
        }

        #[test]
        fn seconds_read_back(whole in 0..u64::MAX, nanoseconds in 0..1_000_000_000_u32) {
            let text = format!("{whole}.{nanoseconds:09}");
            prop_assert_eq!(seconds(&text), Ok(Duration::new(whole, nanoseconds)));
        }

        #[test]
        fn id_maps_read_back(inside in 0..1_u32 << 31, outside in 0..1_u32 << 31, count in 1..1_u32 << 31) {
            prop_assert_eq!(id_map(&format!(":{inside}:{outside}:{count}:")), Ok(IdMap { inside, outside, count }));
        }
    }
}
