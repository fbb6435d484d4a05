//! What do the separate answers on the command line mean together?

use std::time::Duration;

use super::args::{AttributeArgs, CommandLine, SandboxArgs};
use super::options::{
    Cache, Device, ExtentDevice, ExtentSource, GuestLimits, InodeFileHandles, Limits, Listen, Log, LogLevel,
    ModCaps, Negotiation, Nofile, Note, Options, Rings, Sandbox, SandboxMode, Share, Socket, Timeouts,
    Window,
};
use super::values::MigrationMode;
use super::{ParseExit, compat, unavailable};
use crate::identity::{IdRule, IdTranslation, Translation};

/// "Always" of the cache modes that trust what they know: a day, virtiofsd's choice.
const TRUST: Duration = Duration::from_secs(86400);

/// Makes options of a command line whose values each are valid. `file_handles_as_written` is the raw value of
/// `--inode-file-handles`, which may be a deprecated alias.
pub(super) fn resolve(
    mut line: CommandLine,
    file_handles_as_written: Option<&str>,
) -> Result<Options, ParseExit> {
    let mut notes = deprecations(&line, file_handles_as_written);
    let dialect_used = !line.compat.compat_options.is_empty();
    compat::apply(&mut line).map_err(ParseExit::usage)?;

    // Missing what to share is a usage error, except that virtiofsd finds out too late in the old dialect.
    let dir = line.share.shared_dir.take().ok_or_else(|| match dialect_used {
        false => ParseExit::usage("missing option --shared-dir <DIR>"),
        true => ParseExit::failure("missing \"--shared-dir\" or \"-o source\" option"),
    })?;
    let socket =
        socket(&line).ok_or_else(|| ParseExit::usage("missing option --socket-path <PATH> or --fd <N>"))?;
    contradictions(&line).map_err(ParseExit::usage)?;
    let translation = translation(&line.attributes).map_err(ParseExit::usage)?;
    notes.extend(unavailable::notes(&line));
    notes.extend(capabilities_left_to_the_guest(&line.attributes));

    let CommandLine {
        share,
        socket: device,
        caching,
        attributes,
        performance,
        limits,
        window,
        sandbox,
        logging,
        compat,
        ..
    } = line;
    let (guest_device, window_device) = match window.extent_source {
        ExtentSource::Block => (None, window.device),
        ExtentSource::File | ExtentSource::Device => (window.device, None),
    };
    let cache = caching.cache;
    let xattr = attributes.xattr
        || attributes.xattrmap.is_some()
        || attributes.posix_acl != Negotiation::Never
        || attributes.security_label != Negotiation::Never;
    Ok(Options {
        listen: Listen { socket, group: device.socket_group },
        share: Share {
            dir,
            readonly: share.readonly,
            cache,
            timeouts: Timeouts {
                attr: caching.attr_timeout.unwrap_or(trust(cache)),
                entry: caching.entry_timeout.unwrap_or(trust(cache)),
                negative: caching.negative_timeout.unwrap_or(Duration::ZERO),
            },
            direct: performance.direct,
            allow_direct_io: performance.allow_direct_io,
            allow_mmap: caching.allow_mmap,
            writeback: caching.writeback,
            readdirplus: cache != Cache::Never && !caching.no_readdirplus,
            xattr,
            posix_acl: attributes.posix_acl,
            security_label: attributes.security_label,
            xattrmap: attributes.xattrmap,
            translation,
            // With extended attributes the guest would ask for security.capability before every write.
            killpriv_v2: attributes.killpriv_v2 || (xattr && !attributes.no_killpriv_v2),
            announce_submounts: !share.no_announce_submounts,
            inode_file_handles: share.inode_file_handles,
            extent_dialect: window.extent_dialect,
            preserve_noatime: attributes.preserve_noatime,
            posix_lock: share.posix_lock,
            flock: share.flock,
            max_write: performance.max_write,
            readahead: performance.readahead,
        },
        sandbox: Sandbox {
            mode: sandbox.sandbox,
            required: sandbox.sandbox_required,
            seccomp: sandbox.seccomp,
            landlock: sandbox.landlock,
            modcaps: sandbox.modcaps.unwrap_or_default(),
            uid_map: sandbox.uid_map,
            gid_map: sandbox.gid_map,
        },
        limits: Limits {
            nofile: match performance.rlimit_nofile {
                None => Nofile::Default,
                Some(0) => Nofile::Unchanged,
                Some(limit) => Nofile::Limit(limit),
            },
            thread_pool_size: performance.thread_pool_size,
        },
        guest_limits: GuestLimits {
            max_nodes: limits.max_nodes,
            max_handles: limits.max_handles,
            max_locks: limits.max_locks,
            max_lock_waiters: limits.max_lock_waiters,
            max_allocate: limits.max_allocate,
            max_xattr: limits.max_xattr,
            max_window_files: limits.max_window_files,
            max_in_flight: limits.max_in_flight,
            max_kept_bytes: limits.max_kept_bytes,
        },
        rings: Rings {
            engine: performance.engine,
            affinity: performance.ring_affinity.map(|list| list.0).unwrap_or_default(),
            poll: Duration::from_micros(performance.poll_us.into()),
        },
        log: Log {
            level: if compat.debug { LogLevel::Debug } else { logging.log_level },
            syslog: logging.syslog,
        },
        device: Device { tag: device.tag, queues: device.queues, keep_listening: device.keep_listening },
        extent_device: guest_device
            .zip(window.window_serial.clone())
            .map(|(path, serial)| ExtentDevice { path, serial }),
        window: window.window_socket.map(|socket| Window {
            socket,
            serial: window.window_serial,
            queues: window.window_queues.unwrap_or(device.queues),
            device: window_device,
        }),
        notes,
    })
}

/// How long names and attributes are trusted in a cache mode.
fn trust(cache: Cache) -> Duration {
    match cache {
        Cache::Never => Duration::ZERO,
        Cache::Auto => Duration::from_secs(1),
        Cache::Metadata | Cache::Always => TRUST,
    }
}

fn socket(line: &CommandLine) -> Option<Socket> {
    let path = line.socket.socket_path.as_ref().or(line.compat.socket.as_ref());
    line.socket.fd.map(Socket::Fd).or_else(|| path.cloned().map(Socket::Path))
}

/// Warnings in virtiofsd's words, so that what watches for them goes on working.
fn deprecations(line: &CommandLine, file_handles_as_written: Option<&str>) -> Vec<Note> {
    let compat = &line.compat;
    let old_socket = compat.socket.is_some() && line.socket.socket_path.is_none();
    [
        (compat.foreground, "Use of deprecated flag '-f': This flag has no effect, please remove it"),
        (compat.debug, "Use of deprecated flag '-d': Please use the '--log-level debug' option instead"),
        (
            !compat.compat_options.is_empty(),
            "Use of deprecated option format '-o': Please specify options without it (e.g., '--cache auto' \
             instead of '-o cache=auto')",
        ),
        (
            file_handles_as_written == Some("fallback"),
            "Use of deprecated value 'fallback' for '--inode-file-handles': Please use 'prefer' instead",
        ),
        (old_socket, "use of deprecated parameter '--socket': Please use the '--socket-path' option instead"),
    ]
    .into_iter()
    .filter(|(used, _)| *used)
    .map(|(_, text)| Note { level: LogLevel::Warn, text: text.to_owned() })
    .collect()
}

/// Maps of ids need the namespace that they are of, and the kernel takes no id twice.
fn user_namespace(sandbox: &SandboxArgs) -> Result<(), String> {
    for (option, map) in [("--uid-map", &sandbox.uid_map), ("--gid-map", &sandbox.gid_map)] {
        if !map.is_empty() && sandbox.sandbox != SandboxMode::Namespace {
            return Err(format!("{option} needs --sandbox namespace, which makes the user namespace"));
        }
        let twice = [
            ("inside", mapped_twice(map.iter().map(|range| (range.inside, range.count)))),
            ("outside", mapped_twice(map.iter().map(|range| (range.outside, range.count)))),
        ];
        if let Some((side, id)) = twice.into_iter().find_map(|(side, id)| Some((side, id?))) {
            return Err(format!("{option} maps the id {id} {side} twice"));
        }
    }
    Ok(())
}

/// An id that is in two of these ranges, each its first id and its length.
fn mapped_twice(ranges: impl Iterator<Item = (u32, u32)>) -> Option<u32> {
    let mut ranges: Vec<(u32, u32)> = ranges.collect();
    ranges.sort_unstable();
    let twice = ranges.iter().zip(ranges.iter().skip(1)).find(|((a, count), (b, _))| b - a < *count);
    twice.map(|(_, (id, _))| *id)
}

/// The host applies ACLs, and knows them by their names.
fn acl_names(attributes: &AttributeArgs) -> Result<(), String> {
    let Some(map) = attributes.xattrmap.as_ref().filter(|_| attributes.posix_acl != Negotiation::Never)
    else {
        return Ok(());
    };
    let renamed =
        [c"system.posix_acl_access", c"system.posix_acl_default"].iter().any(|name| !map.keeps(name));
    match renamed {
        true => Err("--xattrmap cannot be used with --posix-acl unless it leaves the names of ACLs alone: put the rule \
                     :ok:all:system.posix_acl_:system.posix_acl_: in front"
            .to_owned()),
        false => Ok(()),
    }
}

/// A note where `--killpriv-v2` is asked for and will not be.
fn capabilities_left_to_the_guest(attributes: &AttributeArgs) -> Option<Note> {
    let renamed = attributes.xattrmap.as_ref()?.renamed(c"security.capability")?;
    attributes.killpriv_v2.then(|| Note {
        level: LogLevel::Warn,
        text: format!(
            "--killpriv-v2 has no effect with this --xattrmap: the host's kernel does not know capabilities by the \
             name {}, so the guest clears them itself",
            renamed.to_string_lossy()
        ),
    })
}

/// All rules about ids together.
fn translation(attributes: &AttributeArgs) -> Result<Translation, String> {
    let translate = |option: &str, rules: &[IdRule]| {
        if !rules.is_empty() && attributes.posix_acl != Negotiation::Never {
            return Err(format!(
                "{option} cannot be used with --posix-acl: the host would judge by the ids in an ACL, which are the guest's"
            ));
        }
        IdTranslation::new(rules).map_err(|overlap| format!("{option}: {overlap}"))
    };
    Ok(Translation {
        users: translate("--translate-uid", &attributes.translate_uid)?,
        groups: translate("--translate-gid", &attributes.translate_gid)?,
    })
}

/// Values that are valid each by itself, but not together.
fn contradictions(line: &CommandLine) -> Result<(), String> {
    let handles = line.share.inode_file_handles;
    let dropped = line.sandbox.modcaps.as_ref().is_some_and(|ModCaps { drop, .. }| {
        // open_by_handle_at(2) needs it.
        drop.contains(&caps::Capability::CAP_DAC_READ_SEARCH)
    });
    if dropped && handles != InodeFileHandles::Never {
        return Err("--modcaps=-dac_read_search needs --inode-file-handles=never: file handles cannot be \
                    opened without that capability"
            .to_owned());
    }
    if let (Some(Socket::Path(path)), Some(window)) = (socket(line), &line.window.window_socket)
        && path == *window
    {
        return Err(format!("--window-socket {}: --socket-path is the same", window.display()));
    }
    extent_source(line)?;
    acl_names(&line.attributes)?;
    user_namespace(&line.sandbox)?;
    if line.migration.migration_mode == MigrationMode::FileHandles {
        let unnecessary = [
            ("--migration-confirm-paths", line.migration.migration_confirm_paths),
            ("--migration-verify-handles", line.migration.migration_verify_handles),
        ];
        if let Some((option, _)) = unnecessary.iter().find(|(_, given)| *given) {
            return Err(format!(
                "{option} cannot be used with --migration-mode=file-handles, which makes it unnecessary"
            ));
        }
    }
    Ok(())
}

/// Where records of extents point, and what that needs and rules out.
fn extent_source(line: &CommandLine) -> Result<(), String> {
    let window = &line.window;
    let by_device = window.extent_source == ExtentSource::Device;
    let by_block = window.extent_source == ExtentSource::Block;
    let wrong = [
        (
            window.extent_source == ExtentSource::File && window.device.is_some(),
            "--device needs --extent-source device or block",
        ),
        (
            by_block && window.window_socket.is_none(),
            "--extent-source block needs --window-socket <PATH>: that is the guest's disk",
        ),
        (by_block && window.device.is_none(), "--extent-source block needs --device <PATH>"),
        (
            !by_device && window.window_serial.is_some() && window.window_socket.is_none(),
            "--window-serial needs --window-socket, or --extent-source device",
        ),
        (
            by_device && window.window_socket.is_some(),
            "--extent-source device cannot be used with --window-socket: the guest's disk is --device itself",
        ),
        (by_device && window.device.is_none(), "--extent-source device needs --device <PATH>"),
        (
            by_device && window.window_serial.is_none(),
            "--extent-source device needs --window-serial <SERIAL>, that of the guest's disk",
        ),
        (
            by_device && line.socket.keep_listening,
            "--extent-source device cannot be used with --keep-listening: who disconnects may still have the disk",
        ),
    ];
    match wrong.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, text)) => Err(text.to_owned()),
        None => Ok(()),
    }
}
