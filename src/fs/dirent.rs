//! What is in a buffer that `getdents64(2)` filled?

use std::ffi::CStr;

/// One record: `struct linux_dirent64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dirent<'a> {
    /// Inode number.
    pub(super) ino: u64,
    /// The cookie from which the stream goes on behind this entry: any 64 bits.
    pub(super) next: u64,
    /// `DT_*`.
    pub(super) kind: u8,
    /// Name.
    pub(super) name: &'a CStr,
    /// Length of the record in bytes.
    pub(super) len: usize,
}

impl<'a> Dirent<'a> {
    /// The first record in `bytes`; `None` where there is none that makes sense.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (ino, rest) = bytes.split_first_chunk::<8>()?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        Some(Self {
            ino: u64::from_ne_bytes(*ino),
            next: u64::from_ne_bytes(*next),
            kind: *kind,
            name: CStr::from_bytes_until_nul(bytes.get(..len)?.get(19..)?).ok()?,
            len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ino: u64, next: u64, len: u16, kind: u8, name: &[u8]) -> Vec<u8> {
        let mut bytes =
            [&ino.to_ne_bytes()[..], &next.to_ne_bytes(), &len.to_ne_bytes(), &[kind], name].concat();
        bytes.resize(usize::from(len).max(bytes.len()), 0);
        bytes
    }

    #[test]
    fn records_follow_one_another() {
        let bytes =
            [record(7, u64::MAX, 24, 8, b"abc\0"), record(8, 1 << 63, 32, 4, b"directory\0")].concat();
        let first = Dirent::parse(&bytes).unwrap();
        assert_eq!(first, Dirent { ino: 7, next: u64::MAX, kind: 8, name: c"abc", len: 24 });
        let second = Dirent::parse(&bytes[first.len..]).unwrap();
        assert_eq!(second, Dirent { ino: 8, next: 1 << 63, kind: 4, name: c"directory", len: 32 });
        assert_eq!(Dirent::parse(&bytes[first.len + second.len..]), None);
    }

    #[test]
    fn nonsense_is_no_record() {
        let good = record(7, 1, 24, 8, b"abc\0");
        for cut in 0..24 {
            assert_eq!(Dirent::parse(&good[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Dirent::parse(&record(7, 1, 0, 8, b"abc\0")), None, "no length");
        assert_eq!(Dirent::parse(&record(7, 1, 19, 8, b"abc\0")), None, "no name");
        assert_eq!(Dirent::parse(&record(7, 1, 24, 8, b"abcde")), None, "no NUL");
    }
}
