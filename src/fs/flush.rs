//! Does the host do anything when a descriptor is closed?
//!
//! A local file system does not: what was written is in the page cache and stays there. A network file system sends
//! what it has and tells at the close what could not be kept (`ENOSPC`, `EDQUOT`, `EIO`). There each close of the
//! guest has to become one on the host (FLUSH); on local ones the guest is told to spare the request
//! (`FOPEN_NOFLUSH`).

use std::os::fd::BorrowedFd;
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
pub(super) struct FlushNeeds {
    /// Mount id, shifted left by two; bit 1: it is valid; bit 0: closing matters.
    last: AtomicU64,
}

impl FlushNeeds {
    /// Whether closing a file of this mount matters; `file` is one. Where the host does not tell, it does.
    pub(super) fn of(&self, mount: u32, file: BorrowedFd<'_>) -> bool {
        let key = u64::from(mount) << 2 | 2;
        let last = self.last.load(Ordering::Relaxed);
        if last & !1 == key {
            return last & 1 == 1;
        }
        let magic = fstatfs(file).map(|stat| stat.f_type).unwrap_or(0);
        let needs = !u32::try_from(magic).is_ok_and(|magic| LOCAL.contains(&magic));
        self.last.store(key | u64::from(needs), Ordering::Relaxed);
        needs
    }
}

/// Does what a close of the file would do, and tells its outcome. May wait for a server.
pub(super) fn flush(file: BorrowedFd<'_>) -> Result<()> {
    sys_io::close(rustix::io::fcntl_dupfd_cloexec(file, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn closing_matters_only_where_the_file_system_is_not_known_to_be_local() {
        let needs = FlushNeeds::default();
        let local = tempfile::tempfile().unwrap();
        let other = std::fs::File::open("/proc/self/status").unwrap();
        for _ in 0..2 {
            assert!(!needs.of(7, local.as_fd()));
            assert!(needs.of(0, other.as_fd()));
        }
        // The mount decides, and is asked once.
        assert!(needs.of(0, local.as_fd()));
        flush(local.as_fd()).unwrap();
        assert!(local.metadata().is_ok());
    }
}
