//! How are a request's arguments read? A cursor that never reads past the end.

use std::ffi::CStr;

use rustix::io::Errno;
use zerocopy::FromBytes;

use super::types::{Name, Result};

/// What has not been read yet of the bytes behind a request's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next structure. Later minor versions lengthen structures at their end, so what follows is
    /// none of its business.
    ///
    /// # Errors
    /// `EINVAL` where the request ends before.
    pub(super) fn take<T: FromBytes>(&mut self) -> Result<T> {
        let (value, rest) = T::read_from_prefix(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = rest;
        Ok(value)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// `EINVAL` where the request ends before.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The bytes up to the next NUL.
    ///
    /// # Errors
    /// `EINVAL` where the request ends before the NUL.
    pub(super) fn c_str(&mut self) -> Result<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.bytes(string.to_bytes_with_nul().len())?;
        Ok(string)
    }

    /// The next name of a directory entry.
    ///
    /// # Errors
    /// As of [`c_str`](Self::c_str) and [`Name::new`].
    pub(super) fn name(&mut self) -> Result<Name<'a>> {
        Name::new(self.c_str()?)
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::abi;

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut body = Body::new(b"ab\0c");
        assert_eq!(body.name().unwrap().as_bytes(), b"ab");
        assert_eq!(body.c_str(), Err(Errno::INVAL), "no NUL within the request");
        assert_eq!(body.bytes(2), Err(Errno::INVAL));
        assert_eq!(body.bytes(1), Ok(&b"c"[..]));
        assert!(body.rest().is_empty());
        assert_eq!(Body::new(&[0; 7]).take::<abi::ForgetIn>(), Err(Errno::INVAL));
    }

    #[test]
    fn a_failed_read_consumes_nothing() {
        let mut body = Body::new(&[1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(body.take::<abi::GetattrIn>().is_err());
        assert_eq!(body.take::<abi::ForgetIn>().unwrap().nlookup, 1);
    }
}
