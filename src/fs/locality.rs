//! Is the host's file system a local one?
//!
//! A local file system has what was written in its page cache, and a close does nothing. A network file system sends
//! what it has when a descriptor is closed, and tells then what could not be kept (`ENOSPC`, `EDQUOT`,
//! `EIO`). There each close of the guest has to become one on the host (FLUSH), and that, like reading a
//! directory, may take as long as a server takes. On local ones the guest is told to spare the request
//! (`FOPEN_NOFLUSH`).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::fstatfs;

use super::sys_io;
use crate::fuse::Result;

/// File systems without a `flush` file operation of consequence: magic numbers of `<linux/magic.h>`, and those
/// of XFS, ZFS and bcachefs. (overlayfs hands the call to its layers, of which the writable one is local.)
const LOCAL: [u32; 15] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0xe0f5_e1e2, // EROFS
    0x7371_7368, // SquashFS
    0x2011_bab0, // exFAT
    0x4d44,      // FAT
    0x7366_746e, // NTFS3
    0x9660,      // ISO 9660
];

/// What is known of mounts. It remembers the last one only: a share is on one mount, mostly.
#[derive(Debug, Default)]
pub(super) struct Locality {
    /// Mount id, shifted left by two; bit 1: it is valid; bit 0: it is remote.
    last: AtomicU64,
}

impl Locality {
    /// Whether a mount's file system is not known to be local; `file` gives one of its files, where it has to be
    /// asked.
    pub(super) fn is_remote<F: AsFd>(&self, mount: u32, file: impl FnOnce() -> Result<F>) -> bool {
        let key = u64::from(mount) << 2 | 2;
        let last = self.last.load(Ordering::Relaxed);
        if last & !1 == key {
            return last & 1 == 1;
        }
        let magic = file().and_then(|file| fstatfs(file)).map_or(0, |stat| stat.f_type);
        let remote = !u32::try_from(magic).is_ok_and(|magic| LOCAL.contains(&magic));
        self.last.store(key | u64::from(remote), Ordering::Relaxed);
        remote
    }
}

/// Does what a close of the file would do, and tells its outcome. May wait for a server.
pub(super) fn flush(file: BorrowedFd<'_>) -> Result<()> {
    sys_io::close(rustix::io::fcntl_dupfd_cloexec(file, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_be_local_is_remote() {
        let locality = Locality::default();
        let local = tempfile::tempfile().unwrap();
        let other = std::fs::File::open("/proc/self/status").unwrap();
        for _ in 0..2 {
            assert!(!locality.is_remote(7, || Ok(&local)));
            assert!(locality.is_remote(0, || Ok(&other)));
        }
        // The mount decides, and is asked once.
        assert!(locality.is_remote(0, || Ok(&local)));
        flush(local.as_fd()).unwrap();
        assert!(local.metadata().is_ok());
    }
}
