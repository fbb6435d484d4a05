//! What does a mount begin and end with?

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{CacheMode, Choice, DirectPolicy, ExtentDialect, Passthrough, ReadDirPlus, open, xattr};
use crate::fuse::abi::extents::FUSE_EXTENTS;
use crate::fuse::abi::rfc2025::{FUSE_IOMAP, FUSE_IOMAP_DIRECTIO};
use crate::fuse::abi::*;
use crate::fuse::{Result, SessionConfig};

/// What every mount gets. `FUSE_EXPORT_SUPPORT` is not among it: it would have the guest ask for nodes by
/// a number of an earlier mount.
const ALWAYS: u64 = FUSE_ASYNC_READ
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_ASYNC_DIO
    | FUSE_PARALLEL_DIROPS
    | FUSE_HAS_IOCTL_DIR
    | FUSE_CREATE_SUPP_GROUP
    | FUSE_ALLOW_IDMAP
    | FUSE_SETXATTR_EXT;

/// What goes with POSIX ACLs: the umask is for whoever sees the default ACL to apply, and a set-group-ID
/// bit falls with an ACL that is set by a stranger.
const ACL: u64 = FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT;

/// INIT.
///
/// # Errors
/// `EOPNOTSUPP`: an option that is to be honoured always cannot be with this guest.
pub(super) fn init(fs: &Passthrough, offered: u64) -> Result<SessionConfig> {
    destroy(fs);
    let features = wanted(fs, offered)? & offered;
    let does_without = fs.agreed_upon(features);
    fs.features.store(features, Ordering::Relaxed);
    if does_without {
        tracing::info!(
            "The guest's kernel does not ask for extents: the window, or the device, stays unused"
        );
    }
    Ok(SessionConfig {
        features,
        max_write: fs.config.max_write,
        max_readahead: fs.config.max_readahead,
        // A limit of the guest against slow servers; ours is the queue's size.
        max_background: u16::MAX,
        time_granularity: 1,
    })
}

/// DESTROY.
pub(super) fn destroy(fs: &Passthrough) {
    open::release_all(fs);
    fs.hot.clear();
    fs.inodes.clear();
    if let Some(extents) = &fs.extents {
        extents.clear();
    }
}

fn wanted(fs: &Passthrough, offered: u64) -> Result<u64> {
    let config = &fs.config;
    let mut features = ALWAYS;
    let mut add = |on: bool, flags: u64| features |= if on { flags } else { 0 };

    // With `always` nobody else changes the files, so what is cached is dropped only on our word.
    let always = config.cache == CacheMode::Always;
    add(always, FUSE_EXPLICIT_INVAL_DATA);
    add(!always, FUSE_AUTO_INVAL_DATA);
    // The guest keeps a link's target for as long as the inode: right where names are kept for long.
    add(always || config.cache == CacheMode::Metadata, FUSE_CACHE_SYMLINKS);
    add(config.writeback, FUSE_WRITEBACK_CACHE);
    match config.readdirplus {
        ReadDirPlus::Never => {}
        ReadDirPlus::Auto => {
            // Attributes that expire at once are not worth sending.
            let kept = !config.attr_timeout().is_zero();
            add(kept, FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO);
        }
        ReadDirPlus::Always => add(true, FUSE_DO_READDIRPLUS),
    }
    // Without it mmap of a file in direct mode fails with ENODEV, and any program in the guest can bring
    // a file into that mode by opening it with O_DIRECT.
    add(config.allow_mmap || config.direct != DirectPolicy::Never, FUSE_DIRECT_IO_ALLOW_MMAP);
    add(config.announce_submounts, FUSE_SUBMOUNTS);
    // It promises that capabilities go too, which the host's kernel cannot do under another name.
    add(config.killpriv_v2 && xattr::renamed_capability(fs).is_none(), FUSE_HANDLE_KILLPRIV_V2);
    add(config.posix_lock, FUSE_POSIX_LOCKS);
    add(config.flock, FUSE_FLOCK_LOCKS);
    add(
        fs.extents.is_some(),
        match config.extent_dialect {
            ExtentDialect::Private => FUSE_EXTENTS,
            ExtentDialect::Rfc2025 => FUSE_IOMAP | FUSE_IOMAP_DIRECTIO,
        },
    );
    add(chosen(config.posix_acl, ACL, offered, "--posix-acl")?, ACL);
    add(chosen(config.security_label, FUSE_SECURITY_CTX, offered, "--security-label")?, FUSE_SECURITY_CTX);
    Ok(features)
}

fn chosen(choice: Choice, needs: u64, offered: u64, option: &str) -> Result<bool> {
    let possible = offered & needs == needs;
    if choice == Choice::Always && !possible {
        tracing::error!("the guest's kernel lacks what {option}=always needs; use {option}=auto");
        return Err(Errno::OPNOTSUPP);
    }
    Ok(choice != Choice::Never && possible)
}
