//! Where may the two servers differ? A list of named exceptions, each as narrow as it can be and with the
//! reason why the oracle is not followed.

use super::answer::{Answer, Attr};
use super::operation::{Caller, Operation};

/// A request that was answered differently.
pub struct Case<'a> {
    pub operation: &'a Operation,
    /// A nodeid in the request was given back before.
    pub forgotten: bool,
    /// A file of the request has no name and no open, and our server has nothing but a file handle of it.
    pub vanished: bool,
    /// Our server keeps its share under other ids.
    pub mapped: bool,
    /// A CREATE failed earlier in this session.
    pub create_failed: bool,
    /// A FALLOCATE of this file was just done, or tried.
    pub range_changed: bool,
    /// What the guest knows of the file that the request's header names.
    pub attr: &'a Attr,
    pub ours: &'a Answer,
    pub theirs: &'a Answer,
}

impl Case<'_> {
    /// Both fail, with these errnos.
    fn errnos(&self, ours: i32, theirs: i32) -> bool {
        *self.ours == Answer::Failed(ours) && *self.theirs == Answer::Failed(theirs)
    }

    /// Both answer with attributes that differ in nothing but the set-ID bits: ours and the oracle's mode.
    fn only_set_ids_differ(&self) -> Option<(u32, u32)> {
        const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;
        let (Answer::Attr(_, ours), Answer::Attr(_, theirs)) = (self.ours, self.theirs) else { return None };
        let same = Attr { mode: ours.mode, ino: ours.ino, ..theirs.clone() } == *ours;
        (same && ours.mode & !SET_IDS == theirs.mode & !SET_IDS).then_some((ours.mode, theirs.mode))
    }
}

/// One way in which answers may differ.
struct Exception {
    /// What we do.
    name: &'static str,
    explains: fn(&Case<'_>) -> bool,
}

const EXCEPTIONS: &[Exception] = &[
    // The errno that the kernel has for a file that the server does not know any more
    // (Documentation/filesystems/nfs/exporting.rst); EBADF is about descriptors. A bad name may be found
    // before the bad nodeid is.
    Exception {
        name: "a forgotten nodeid is ESTALE and not EBADF",
        explains: |case| {
            case.forgotten
                && matches!(case.ours, Answer::Failed(_))
                && *case.theirs == Answer::Failed(libc::EBADF)
        },
    },
    // A file handle does not keep a file alive: without a name and an open the host deletes it, though the
    // guest still knows it. This is the price of `--inode-file-handles`.
    Exception {
        name: "with file handles a deleted and closed file is ESTALE",
        explains: |case| case.vanished && *case.ours == Answer::Failed(libc::ESTALE),
    },
    // PassthroughFs::create looks an existing file up before it opens it, and keeps that reference where
    // the open fails; the guest never gives it back.
    Exception {
        name: "the oracle leaks a reference in a CREATE that fails",
        explains: |case| case.forgotten && case.create_failed && *case.ours == Answer::Failed(libc::ESTALE),
    },
    // open(2): ELOOP for a symbolic link under O_NOFOLLOW, ENXIO for a device without driver or a socket,
    // ENOTDIR under O_DIRECTORY. The oracle has EBADF for all of them (is_safe_inode).
    Exception {
        name: "what can never be opened has the errno of open(2) and not EBADF",
        explains: |case| {
            use Operation as Op;
            let expected: &[i32] = match case.operation {
                Op::Opendir { .. } => &[libc::ENOTDIR],
                Op::Open { .. } | Op::Create { .. } | Op::Setattr { .. } => &[libc::ELOOP, libc::ENXIO],
                _ => &[],
            };
            expected.iter().any(|errno| case.errnos(*errno, libc::EBADF))
        },
    },
    // A guest opens directories with OPENDIR.
    Exception {
        name: "OPEN of a directory is EISDIR",
        explains: |case| {
            matches!(case.operation, Operation::Open { .. })
                && *case.ours == Answer::Failed(libc::EISDIR)
                && case.attr.kind() == libc::S_IFDIR
        },
    },
    // The guest's kernel sends CREATE for names that it believes to be free, so this is a race with
    // another user of the share: the open is checked by the host for us as for the daemon, for the oracle
    // as for the caller.
    Exception {
        name: "CREATE of an existing file is not checked against the caller",
        explains: |case| {
            matches!(case.operation, Operation::Create { caller: Caller::User, .. })
                && *case.theirs == Answer::Failed(libc::EACCES)
        },
    },
    // inode_permission(9): the first class that fits decides, and root may search every directory. The
    // oracle lets any fitting class grant, and wants an x bit for root.
    Exception {
        name: "ACCESS decides as the kernel does",
        explains: |case| match (case.operation, case.ours) {
            (Operation::Access { mask, caller, .. }, Answer::Done) => case.attr.permits(*caller, *mask),
            (Operation::Access { mask, caller, .. }, Answer::Failed(libc::EACCES)) => {
                !case.attr.permits(*caller, *mask)
            }
            _ => false,
        },
    },
    // The oracle changes the owner after the mode, which on the host clears set-ID bits of that mode.
    Exception {
        name: "SETATTR of owner and mode leaves the mode that was asked for",
        explains: |case| {
            let (Operation::Setattr { set, .. } | Operation::SetattrOpen { set, .. }) = case.operation else {
                return false;
            };
            let asked = (set.mode, set.uid.or(set.gid));
            let (Some((ours, _)), (Some(mode), Some(_))) = (case.only_set_ids_differ(), asked) else {
                return false;
            };
            ours & 0o7777 == mode
        },
    },
    // fuse.h, FUSE_HANDLE_KILLPRIV_V2: "sgid is killed only if file has group execute permission". The
    // oracle drops CAP_FSETID, and the host clears it for everybody outside of the file's group.
    Exception {
        name: "set-group-ID without group execute survives a write",
        explains: |case| {
            case.only_set_ids_differ().is_some_and(|(ours, theirs)| {
                ours ^ theirs == libc::S_ISGID && ours & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID
            })
        },
    },
    // The guest sends nothing else that would take them away, where it leaves that to us, and the oracle keeps CAP_FSETID.
    Exception {
        name: "FALLOCATE takes set-ID bits",
        explains: |case| {
            case.range_changed && case.only_set_ids_differ().is_some_and(|(ours, theirs)| ours & !theirs == 0)
        },
    },
    // setattr_should_drop_sgid() asks whether the process is in the file's group. Both servers are in group 0, which only the
    // oracle's files can have.
    Exception {
        name: "with translated ids a truncation takes set-group-ID without group execute also in group 0",
        explains: |case| {
            case.mapped
                && matches!(case.operation, Operation::Setattr { set, .. } | Operation::SetattrOpen { set, .. }
                    if set.size.is_some() && set.kill_suidgid)
                && case.only_set_ids_differ().is_some_and(|(ours, theirs)| {
                    ours ^ theirs == libc::S_ISGID
                        && theirs & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID
                })
        },
    },
    // The guest's kernel never sends these names. We refuse them before any system call, in one place.
    Exception {
        name: "a bad name is refused before anything else is looked at",
        explains: |case| {
            let errno = |name: &str| match name {
                "" => libc::EINVAL,
                name if name.len() > 255 => libc::ENAMETOOLONG,
                _ => 0,
            };
            let refused = |name: &str| *case.ours == Answer::Failed(errno(name));
            case.operation.names().into_iter().flatten().any(refused)
                && matches!(case.theirs, Answer::Failed(_))
        },
    },
    // FUSE_EXPORT_SUPPORT makes a guest look up the two for NFS; we do not negotiate it.
    Exception {
        name: "'.' and '..' are not looked up",
        explains: |case| {
            matches!(case.operation, Operation::Lookup { name: "." | "..", .. })
                && *case.ours == Answer::Failed(libc::EINVAL)
        },
    },
    // vfs_fallocate() looks at the length before the file.
    Exception {
        name: "FALLOCATE of nothing is EINVAL even through a closed handle",
        explains: |case| {
            matches!(case.operation, Operation::Fallocate { len: 0, .. })
                && case.errnos(libc::EINVAL, libc::EBADF)
        },
    },
    // readlink(2): EINVAL. The oracle passes on what readlinkat(2) has for an empty path.
    Exception {
        name: "READLINK of what is no link is EINVAL and not ENOENT",
        explains: |case| {
            matches!(case.operation, Operation::Readlink { .. }) && case.errnos(libc::EINVAL, libc::ENOENT)
        },
    },
];

/// The name of the exception that explains a difference.
pub fn explanation(case: &Case<'_>) -> Option<&'static str> {
    EXCEPTIONS.iter().find(|exception| (exception.explains)(case)).map(|exception| exception.name)
}
