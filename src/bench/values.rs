//! How is the value of one option written?
//!
//! Errors say what was expected; the parser adds the name of the option.

use std::time::Duration;

use crate::cli::size;

pub(super) fn block_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if (4096..=4 << 20).contains(&bytes) && bytes.is_multiple_of(4096) => Ok(bytes),
        _ => Err("must be 4K to 4M in steps of 4K".to_owned()),
    }
}

pub(super) fn file_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if (4096..=1 << 40).contains(&bytes) && bytes.is_multiple_of(4096) {
        return Ok(bytes);
    }
    Err("must be 4K to 1024G in steps of 4K".to_owned())
}

pub(super) fn queue_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if (8..=1024).contains(&size) && size.is_power_of_two() => Ok(size),
        _ => Err("must be a power of two, 8 to 1024".to_owned()),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|time| {
        if time < Duration::from_millis(10) {
            Err("must be 0.01 to 3600 seconds".to_owned())
        } else {
            Ok(time)
        }
    })
}

pub(super) fn seconds_or_none(text: &str) -> Result<Duration, String> {
    // Digits and a point only: no infinities, exponents or signs.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(seconds) if plain && (0.0..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("must be 0 to 3600 seconds, such as 1 or 0.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_suffixes_steps_and_limits() {
        assert_eq!(block_size("4K"), Ok(4096));
        assert_eq!(block_size("4m"), Ok(4 << 20));
        assert_eq!(file_size("1024G"), Ok(1 << 40));
        assert_eq!(queue_size("1024"), Ok(1024));
        for bad in [
            "",
            "K",
            "4KK",
            "0",
            "1",
            "4097",
            "-4K",
            "+4K",
            "4.5K",
            "5M",
            "18446744073709551616",
            "99999999999G",
        ] {
            assert!(block_size(bad).is_err(), "{bad}");
        }
        for bad in ["0", "1025G", "5000"] {
            assert!(file_size(bad).is_err(), "{bad}");
        }
        for bad in ["0", "4", "100", "2048", "8K"] {
            assert!(queue_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_plain_and_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        for bad in ["0", "0.001", "-1", "inf", "NaN", "1e3", "3601", "", "."] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(text in "\\PC{0,24}") {
            let _ = (block_size(&text), file_size(&text), queue_size(&text), seconds(&text));
        }
    }
}
