//! How is a file found again without a descriptor of it?

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::super::sys;
use crate::fuse::Result;

/// Handles of ext4 (8 bytes), XFS (12 or 16) and btrfs (20) fit in here.
const INLINE: usize = 22;

/// A file handle of `name_to_handle_at(2)`: the host file system's own name for an inode, with the
/// generation that tells it from a later file with the same number. It outlives every name of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHandle {
    kind: i32,
    bytes: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bytes {
    Inline { len: u8, bytes: [u8; INLINE] },
    Boxed(Box<[u8]>),
}

impl FileHandle {
    /// The handle of `name` in `dir`, or of `dir` itself where the name is empty.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or `EOVERFLOW` where the file system has none.
    pub(crate) fn of(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        sys::name_to_handle_at(dir, name, Self::from_parts)
    }

    fn from_parts(kind: i32, handle: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        let bytes = match (u8::try_from(handle.len()), bytes.get_mut(..handle.len())) {
            (Ok(len), Some(room)) => {
                room.copy_from_slice(handle);
                Bytes::Inline { len, bytes }
            }
            _ => Bytes::Boxed(handle.into()),
        };
        Self { kind, bytes }
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Bytes::Boxed(bytes) => bytes,
        }
    }

    /// Opens the file; `mount` is any descriptor on its mount, not of the `O_PATH` sort.
    ///
    /// # Errors
    /// `ESTALE`: the file is gone.
    pub(crate) fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        sys::open_by_handle_at(mount, self.kind, self.as_bytes(), flags | OFlags::CLOEXEC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_kept() {
        for len in 0..=sys::MAX_HANDLE_SIZE {
            let bytes: Vec<u8> = (1..=u8::MAX).cycle().take(len).collect();
            let handle = FileHandle::from_parts(7, &bytes);
            assert_eq!(handle.as_bytes(), bytes);
            assert_ne!(handle, FileHandle::from_parts(8, &bytes));
            assert_ne!(handle, FileHandle::from_parts(7, &[bytes, vec![0]].concat()));
        }
    }
}
