//! What may the process still reach by a path, a port or a signal, whatever the mode of the sandbox is?
//!
//! Landlock limits a thread and all that it starts, for ever, to what lies beneath the shared directory. It needs no
//! privilege and no other root directory, so it holds with `--sandbox none` too, and against what goes by io_uring. No
//! program may be executed, no device be commanded, no TCP connection be made, no process outside be signalled.
//!
//! # Files that are opened by file handle
//!
//! Landlock decides by the way from a file up to the root directory. A file that is opened by handle
//! (open_by_handle_at(2)) and was not looked up by name lately has no such way: its dentry is *disconnected*. Where the
//! shared directory is no mount point of its own, opening such a file is denied, and so is reading the directories by
//! which the kernel reconnects a directory (`reconnect_path`), which then is said to be stale. Before the fix that
//! the kernel counts as erratum 3 (Linux 6.19, and earlier ones by their maintainers) it is denied at a mount
//! point too. And a link to such a file is denied (`EXDEV`) as soon as any right is withheld from files beneath the
//! root directory, such as to execute them: `is_access_to_paths_allowed` in `security/landlock/fs.c` compares the rights of
//! both places before it looks at the last rule. So with file handles in use the rights of opening (to read, write,
//! truncate, list) are left alone; making, removing, moving, executing and the rest are not. To let a file without a way
//! be linked, the root of its mount gets the right to be linked *from*; in the other direction that opens nothing, as what
//! is made must lie beneath the share.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx};

use super::{Error, Walls, sys};

/// What the rules are made of.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The shared directory.
    pub(super) share: BorrowedFd<'a>,
    /// Whether nothing in it is to be changed.
    pub(super) read_only: bool,
    /// Whether files are opened by file handle.
    pub(super) by_handle: Option<ByHandle>,
    /// Directories from which something is to be removed in the end.
    pub(super) removals: &'a [BorrowedFd<'a>],
    /// What [`kernel_panics_on_warnings`] said.
    pub(super) panics_on_warnings: bool,
}

/// Whether a warning of the kernel's is the host's end (`kernel.panic_on_warn`). To be called before the root directory of the
/// process changes.
pub(super) fn kernel_panics_on_warnings() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/kernel/panic_on_warn");
    setting.is_ok_and(|setting| setting.trim() != "0")
}

/// What matters where files are opened by file handle.
#[derive(Debug)]
pub(super) struct ByHandle {
    /// The root of the mount that the shared directory is on; none where it cannot be opened.
    mount_root: Option<OwnedFd>,
}

impl ByHandle {
    /// To be called before the root directory of the process changes, because the way up ends there.
    pub(super) fn on_mount_of(directory: BorrowedFd<'_>) -> Self {
        Self { mount_root: mount_root(directory) }
    }

    /// Why the kernel's Landlock is not to be asked about files that are opened by handle.
    fn reason_against(&self, panics_on_warnings: bool, disconnected_mended: bool) -> Option<&'static str> {
        if self.mount_root.is_none() {
            return Some(
                "the root of the share's mount cannot be opened; --inode-file-handles=never needs it not",
            );
        }
        // Before erratum 3 was mended, collect_domain_accesses() had a WARN_ON_ONCE() for files without a way, and a guest can
        // bring it about by LINK.
        (panics_on_warnings && !disconnected_mended).then_some(
            "this kernel warns where a file is linked whose name it has forgotten, and kernel.panic_on_warn is \
             set; Linux 6.19 does not, and --inode-file-handles=never avoids it",
        )
    }
}

/// The root of the mount that a directory is on.
fn mount_root(directory: BorrowedFd<'_>) -> Option<OwnedFd> {
    let look = |directory: BorrowedFd<'_>| {
        statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).map(|stat| {
            let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
            (is_root, (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
        })
    };
    let mut here = directory.try_clone_to_owned().ok()?;
    let (mut is_root, mut id) = look(here.as_fd()).ok()?;
    while !is_root {
        here =
            openat(&here, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let (above_is_root, above) = look(here.as_fd()).ok()?;
        // The root directory of the process, which is no mount point: there is no way further up.
        if above == id {
            return None;
        }
        (is_root, id) = (above_is_root, above);
    }
    Some(here)
}

/// The erratum about files that are opened by handle (`landlock_errata_3` in `security/landlock/errata/abi-1.h`).
const DISCONNECTED: u32 = 3;

/// Rights of files that are decided when one is opened.
fn opening() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate
}

/// Rights that change what is in a file.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::WriteFile | AccessFs::Truncate
}

/// Rights that nothing gets.
fn never() -> BitFlags<AccessFs> {
    // No device of the share is opened here: the guest's kernel has devices of its own.
    AccessFs::Execute | AccessFs::IoctlDev | AccessFs::ResolveUnix
}

/// Which rights on files are withheld at all, and which of them the share gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    withheld: BitFlags<AccessFs>,
    of_share: BitFlags<AccessFs>,
}

impl Rights {
    fn new(abi: ABI, read_only: bool, by_handle: bool) -> Self {
        let left_alone = match (by_handle, read_only) {
            (false, _) => BitFlags::EMPTY,
            (true, false) => opening(),
            // Nothing is ever opened for writing.
            (true, true) => opening() & !writing(),
        };
        let withheld = AccessFs::from_all(abi) & !left_alone;
        let useful = if read_only {
            AccessFs::ReadFile | AccessFs::ReadDir
        } else {
            AccessFs::from_all(abi) & !never()
        };
        Self { withheld, of_share: withheld & useful }
    }
}

/// What could be had.
#[derive(Debug, Clone, Copy)]
struct Had {
    files: bool,
    network: bool,
    scopes: bool,
}

/// Limits the calling thread, the only one of its process, to what `plan` says. `no_new_privs` must be set.
///
/// # Errors
///
/// [`Error::Required`]: something is to be had and is not.
pub(super) fn confine(plan: &Plan<'_>, walls: &mut Walls) -> Result<(), Error> {
    let version = match sys::landlock_version() {
        Ok(version) => version,
        Err(error) => return walls.missing("Landlock", format_args!("the kernel has none for us ({error})")),
    };
    let handled = plan.by_handle.as_ref();
    // With the first version nothing can be moved from one directory to another.
    let why_no_files = if version < 2 {
        Some("that needs Linux 5.19")
    } else {
        handled.and_then(|handled| {
            handled.reason_against(plan.panics_on_warnings, sys::landlock_mended(DISCONNECTED))
        })
    };
    let had = Had { files: why_no_files.is_none(), network: version >= 4, scopes: version >= 6 };
    if let Some(reason) = why_no_files {
        walls.missing("Landlock for files", reason)?;
    }
    if !had.network {
        walls.missing("Landlock for TCP", "that needs Linux 6.7")?;
    }
    if !had.scopes {
        walls.missing("Landlock for signals and abstract sockets", "that needs Linux 6.12")?;
    }
    if let Err(error) = restrict(plan, ABI::from(version), had) {
        return walls.missing("Landlock", error);
    }
    let parts = [
        (had.files && handled.is_none(), "files"),
        (had.files && handled.is_some(), "names of files, not their opening: file handles are in use"),
        (had.network, "TCP"),
        (had.scopes, "signals"),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(had, _)| *had).map(|(_, part)| part).collect();
    if !parts.is_empty() {
        walls.stands(format!("Landlock ({})", parts.join("; ")));
    }
    Ok(())
}

fn restrict(plan: &Plan<'_>, abi: ABI, had: Had) -> Result<(), Refused> {
    let Rights { withheld, of_share } = Rights::new(abi, plan.read_only, plan.by_handle.is_some());
    let mut rules = Ruleset::default();
    if had.files {
        rules = rules.handle_access(withheld)?;
    }
    if had.network {
        rules = rules.handle_access(AccessNet::from_all(abi))?;
    }
    if had.scopes {
        rules = rules.scope(Scope::from_all(abi))?;
    }
    if !had.files && !had.network && !had.scopes {
        return Ok(());
    }
    let mut rules = rules.create()?;
    if had.files {
        if !of_share.is_empty() {
            rules = rules.add_rule(PathBeneath::new(plan.share, of_share))?;
        }
        if let Some(ByHandle { mount_root: Some(root) }) = &plan.by_handle {
            rules = rules.add_rule(PathBeneath::new(root, AccessFs::Refer))?;
        }
        for directory in plan.removals {
            rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
        }
    }
    rules.restrict_self().map(drop).map_err(Refused::from)
}

/// Why the kernel took no rules, on one line.
#[derive(Debug)]
struct Refused(RulesetError);

impl From<RulesetError> for Refused {
    fn from(error: RulesetError) -> Self {
        Self(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ABI; 9] = [ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9, ABI::V10];

    #[test]
    fn nothing_is_executed_and_a_share_that_is_only_read_is_only_read() {
        for abi in ALL {
            for by_handle in [false, true] {
                for read_only in [false, true] {
                    let Rights { withheld, of_share } = Rights::new(abi, read_only, by_handle);
                    assert!(withheld.contains(AccessFs::Execute), "{abi:?}");
                    assert!((of_share & never()).is_empty(), "{abi:?}");
                    assert!(withheld.contains(of_share), "{abi:?}");
                    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
                    assert_eq!((of_share & !reading).is_empty(), read_only, "{abi:?}");
                    assert_eq!(withheld.contains(AccessFs::ReadFile), !by_handle, "{abi:?}");
                    assert_eq!(withheld.contains(AccessFs::WriteFile), read_only || !by_handle, "{abi:?}");
                    assert!(withheld.contains(AccessFs::MakeReg | AccessFs::Refer), "{abi:?}");
                }
            }
        }
    }

    /// A link to a file without a way is denied as soon as a right of files is withheld that one of both places has.
    #[test]
    fn with_file_handles_no_right_of_files_differs_from_place_to_place() {
        let of_files = AccessFs::from_file(ABI::V10);
        for abi in ALL {
            assert!((Rights::new(abi, false, true).of_share & of_files).is_empty(), "{abi:?}");
        }
    }

    #[test]
    fn a_kernel_that_warns_and_panics_is_not_asked_about_files_by_handle() {
        let mounted = ByHandle::on_mount_of(std::fs::File::open("/proc").unwrap().as_fd());
        let reason = |panics_on_warnings, mended| mounted.reason_against(panics_on_warnings, mended);
        assert_eq!(reason(false, false), None);
        assert_eq!(reason(false, true), None);
        assert_eq!(reason(true, true), None);
        assert!(reason(true, false).unwrap().contains("kernel.panic_on_warn"));
        assert!(ByHandle { mount_root: None }.reason_against(false, true).is_some());
    }

    #[test]
    fn the_root_of_a_mount_is_found() {
        let open = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
        let id = |directory: &OwnedFd| {
            rustix::fs::fstat(directory).map(|stat| (stat.st_dev, stat.st_ino)).unwrap()
        };
        let proc = mount_root(open("/proc/self/fd").as_fd()).unwrap();
        assert_eq!(id(&proc), id(&open("/proc")));
        let root = mount_root(open("/proc").as_fd()).unwrap();
        assert_eq!(id(&root), id(&open("/proc")));
    }
}
