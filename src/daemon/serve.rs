//! From options to a served share: builds the file system and the device, then serves one front-end
//! after the other.

use std::sync::Arc;
use std::thread;

use tracing::{error, info, warn};

use super::window::RETRY;
use super::{Error, Ready, reserved_descriptors, rings, window};
use crate::cli;
use crate::fs::{self, Passthrough};
use crate::sandbox::ShareRoot;
use crate::vhost::{ConnectionEnd, Device, FsDevice, serve_connection};

/// Serves the share until the front-end goes away or, with `--keep-listening`, for ever.
pub(super) fn serve(ready: Ready, options: &cli::Options) -> Result<(), Error> {
    let Ready { listener, window, volume, share, mut walls, descriptors } = ready;
    let (window, volume) = match window {
        Some(listener) => (Some((listener, window::make(options, volume)?)), None),
        None => (None, volume),
    };
    let spare = descriptors.saturating_sub(passing_descriptors(options));
    let limits = limits(&options.guest_limits, spare, window.is_some() || volume.is_some());
    let config = file_system_config(&options.share, limits);
    let ShareRoot { root, proc_self_fd } = share;
    let mut file_system = Passthrough::new(config, root, proc_self_fd)?;
    if let Some((_, window)) = &window {
        file_system = file_system.with_window(window.clone());
    }
    if let Some(volume) = volume {
        let (major, minor) = volume.number();
        info!(
            "The guest's disk is the host's block device {major}:{minor}: it must be attached past the page cache"
        );
        file_system = file_system.with_volume(volume);
    }
    let bounds = file_system.limits();
    let device: Arc<dyn Device> =
        Arc::new(FsDevice::new(file_system, options.device.queues, options.device.tag.as_deref())?);
    let rings =
        rings::runtime(&options.rings, options.limits.thread_pool_size, &options.guest_limits, &mut walls)?;
    walls.report();
    let bounds = [bounds, vec![rings.options.in_flight.clone(), rings.options.kept_bytes.clone()]].concat();
    if let (Some((listener, window)), Some(wanted)) = (window, &options.window) {
        window::serve(listener, window, wanted.queues, rings::window_runtime(&rings))?;
    }
    loop {
        info!("Waiting for vhost-user socket connection...");
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // For want of descriptors or memory, which may pass.
            Err(cause) if options.device.keep_listening => {
                error!("cannot accept a connection on the vhost-user socket: {cause}");
                thread::sleep(RETRY);
                continue;
            }
            Err(cause) => return Err(Error::Accept(cause)),
        };
        info!("Client connected, servicing requests");
        let end = serve_connection(stream, &device, &rings);
        for limit in bounds.iter().filter(|limit| limit.refusals() > 0) {
            info!("{} {} was reached {} times since the start", limit.name(), limit.max(), limit.refusals());
        }
        let keep_listening = options.device.keep_listening;
        match end {
            ConnectionEnd::Disconnected if !keep_listening => {
                info!("Client disconnected, shutting down");
                return Ok(());
            }
            ConnectionEnd::Disconnected => info!("Client disconnected"),
            ConnectionEnd::Failed(_) if !keep_listening => return Err(Error::Connection(end)),
            ConnectionEnd::Failed(cause) => warn!("The front-end's connection failed: {cause}"),
        }
    }
}

/// Descriptors that the threads of the pool hold for no longer than a request lasts.
fn passing_descriptors(options: &cli::Options) -> u64 {
    u64::try_from(options.limits.thread_pool_size).unwrap_or(u64::MAX).saturating_mul(4)
}

/// What bounds the guest, from what the operator said and the descriptors there are.
fn limits(asked: &cli::GuestLimits, descriptors: u64, window: bool) -> fs::Limits {
    let budget =
        usize::try_from(descriptors.saturating_sub(reserved_descriptors(window))).unwrap_or(usize::MAX);
    let hot_descriptors = fs::Limits::default().hot_descriptors.min(budget / 8);
    // Two descriptors each.
    let max_window_opens = if window { asked.max_window_files.min(budget / 8) } else { 0 };
    let left = budget - hot_descriptors - 2 * max_window_opens;
    if let Some(handles) = asked.max_handles.filter(|handles| *handles > left) {
        warn!("--max-handles {handles}: the limit of open files leaves {left}");
    }
    fs::Limits {
        max_descriptors: left,
        max_nodes: asked.max_nodes,
        max_handles: asked.max_handles.unwrap_or(left).min(left),
        hot_descriptors,
        max_window_opens,
        max_locks: asked.max_locks,
        max_lock_waiters: asked.max_lock_waiters,
        max_allocate: asked.max_allocate,
        max_xattr: asked.max_xattr,
    }
}

/// What the file system is told, from what the operator said.
fn file_system_config(share: &cli::Share, limits: fs::Limits) -> fs::Config {
    let choice = |negotiation| match negotiation {
        cli::Negotiation::Never => fs::Choice::Never,
        cli::Negotiation::Auto => fs::Choice::Auto,
        cli::Negotiation::Always => fs::Choice::Always,
    };
    fs::Config {
        cache: match share.cache {
            cli::Cache::Never => fs::CacheMode::Never,
            cli::Cache::Metadata => fs::CacheMode::Metadata,
            cli::Cache::Auto => fs::CacheMode::Auto,
            cli::Cache::Always => fs::CacheMode::Always,
        },
        attr_timeout: Some(share.timeouts.attr),
        entry_timeout: Some(share.timeouts.entry),
        negative_timeout: share.timeouts.negative,
        xattr: share.xattr,
        posix_acl: choice(share.posix_acl),
        security_label: choice(share.security_label),
        xattrmap: share.xattrmap.clone(),
        translation: share.translation.clone(),
        writeback: share.writeback,
        readdirplus: if share.readdirplus { fs::ReadDirPlus::Auto } else { fs::ReadDirPlus::Never },
        allow_direct_io: share.allow_direct_io,
        direct: match share.direct {
            cli::Direct::Auto => fs::DirectPolicy::Auto,
            cli::Direct::Always => fs::DirectPolicy::Always,
            cli::Direct::Never => fs::DirectPolicy::Never,
        },
        allow_mmap: share.allow_mmap,
        announce_submounts: share.announce_submounts,
        inode_file_handles: match share.inode_file_handles {
            cli::InodeFileHandles::Never => fs::InodeFileHandles::Never,
            cli::InodeFileHandles::Prefer => fs::InodeFileHandles::Prefer,
            cli::InodeFileHandles::Mandatory => fs::InodeFileHandles::Mandatory,
        },
        extent_dialect: match share.extent_dialect {
            cli::ExtentDialect::Private => fs::ExtentDialect::Private,
            cli::ExtentDialect::Rfc2025 => fs::ExtentDialect::Rfc2025,
        },
        killpriv_v2: share.killpriv_v2,
        preserve_noatime: share.preserve_noatime,
        posix_lock: share.posix_lock,
        flock: share.flock,
        read_only: share.readonly,
        max_write: share.max_write,
        max_readahead: share.readahead.unwrap_or(u32::MAX),
        limits,
    }
}
