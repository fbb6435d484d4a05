//! Which system calls does each role make, and what for?
//!
//! The lists were found by reading the code and by running all tests with `--seccomp log`; docs/security.md tells how to
//! find what is missing on another host. A call without a condition on its arguments is free: the kernel keeps a bitmap
//! of those that every filter of a thread always allows (Linux 5.11) and runs no filter for them. So what happens for each
//! request has none.

use libc::c_long;

use super::Role;

/// Calls that are needed for one reason.
#[derive(Debug)]
pub(super) struct Group {
    /// Allowed whatever the arguments are.
    pub(super) calls: &'static [c_long],
    /// Allowed where an argument passes a test.
    pub(super) tested: &'static [Tested],
}

/// A call that is allowed where one of its arguments passes a test.
#[derive(Debug)]
pub(super) struct Tested {
    pub(super) call: c_long,
    /// Which argument, from 0.
    pub(super) argument: u8,
    pub(super) test: Test,
}

/// What is asked of an argument. Its lower 32 bits count where it is no pointer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    /// It is one of these.
    OneOf(&'static [u32]),
    /// It has none of these bits.
    Without(u32),
    /// It is a null pointer.
    Null,
    /// It is the id of this process.
    OwnProcess,
    /// It is the process that this one supervises.
    Child,
}

const fn tested(call: c_long, argument: u8, test: Test) -> Tested {
    Tested { call, argument, test }
}

/// What the C library and Rust's runtime do on any thread: memory, locks, time, messages, panics, the end.
///
/// No memory becomes executable. `sched_getaffinity` and `prlimit64` are asked by glibc for the number of arenas
/// and the size of a stack; `readlink` and `getcwd` by a backtrace. `seccomp` can only add filters.
const RUNTIME: Group = Group {
    calls: &[
        libc::SYS_brk,
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_fstat,
        libc::SYS_futex,
        libc::SYS_getcwd,
        libc::SYS_getpid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_gettimeofday,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_newfstatat,
        libc::SYS_read,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink,
        libc::SYS_readlinkat,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
        libc::SYS_statx,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_time,
        libc::SYS_write,
        libc::SYS_writev,
    ],
    tested: &[
        // Rust's library looks, when built for debugging, whether what it closes is open; musl marks by a call of its own what a
        // program that is executed is not to have.
        tested(libc::SYS_fcntl, 1, Test::OneOf(&[F_GETFD, F_SETFD])),
        tested(libc::SYS_mmap, 2, Test::Without(PROT_EXEC)),
        tested(libc::SYS_mprotect, 2, Test::Without(PROT_EXEC)),
        tested(libc::SYS_prctl, 0, Test::OneOf(&[PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_VMA])),
        tested(libc::SYS_prlimit64, 2, Test::Null),
        tested(libc::SYS_seccomp, 0, Test::OneOf(&[libc::SECCOMP_SET_MODE_FILTER])),
        tested(libc::SYS_tgkill, 0, Test::OwnProcess),
    ],
};

/// Starting a thread. `clone3`, which the C library tries first, hides its flags in memory: it is answered with `ENOSYS`
/// (see [`super::refused`]).
const SPAWN: Group = Group {
    calls: &[libc::SYS_clone3],
    tested: &[tested(libc::SYS_clone, 0, Test::OneOf(&[THREAD, THREAD | CLONE_DETACHED]))],
};

/// Messages to the system log, on a socket that is connected already.
pub(super) const SYSLOG: Group = Group { calls: &[libc::SYS_sendto], tested: &[] };

/// Moving bytes between files and memory, and signalling eventfds.
const DATA: Group = Group {
    calls: &[
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_preadv2,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_pwritev2,
    ],
    tested: &[],
};

/// A ring that exists: submitting, waiting, and another call eventfd.
const RING: Group = Group {
    calls: &[libc::SYS_io_uring_enter],
    tested: &[
        tested(libc::SYS_io_uring_register, 1, Test::OneOf(&[REGISTER_FILES_UPDATE])),
        tested(libc::SYS_fcntl, 1, Test::OneOf(&[F_GETFL])),
    ],
};

/// Making a ring: its io_uring, its eventfds, its place on a CPU.
const MAKE_RING: Group = Group {
    calls: &[libc::SYS_eventfd2, libc::SYS_io_uring_setup, libc::SYS_sched_setaffinity],
    tested: &[tested(
        libc::SYS_io_uring_register,
        1,
        Test::OneOf(&[REGISTER_FILES, REGISTER_RESTRICTIONS, REGISTER_ENABLE_RINGS]),
    )],
};

/// The vhost-user protocol: a connection, messages with descriptors, guest memory.
const FRONT_END: Group = Group {
    calls: &[
        libc::SYS_accept4,
        libc::SYS_fstatfs,
        libc::SYS_getsockopt,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
    ],
    tested: &[tested(libc::SYS_fcntl, 1, Test::OneOf(&[F_DUPFD_CLOEXEC]))],
};

/// What a file that is open takes, from whoever has it: the window's requests.
const OPEN_FILES: Group = Group {
    calls: &[libc::SYS_fadvise64, libc::SYS_fallocate, libc::SYS_fdatasync, libc::SYS_fsync],
    tested: &[],
};

/// Finding the blocks of a file that is open, and keeping its times, where the window moves bytes past its file system.
const BLOCKS: Group = Group {
    calls: &[libc::SYS_fgetxattr, libc::SYS_fstatfs, libc::SYS_utimensat],
    tested: &[tested(libc::SYS_ioctl, 1, Test::OneOf(&[FS_IOC_FIEMAP, FS_IOC_FSGETXATTR, FS_IOC_GETFLAGS]))],
};

/// The file system's own: names, attributes, locks, and whatever FUSE can ask for.
const FILES: Group = Group {
    calls: &[
        libc::SYS_copy_file_range,
        libc::SYS_faccessat2,
        libc::SYS_fchdir,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_fgetxattr,
        libc::SYS_flistxattr,
        libc::SYS_flock,
        libc::SYS_fremovexattr,
        libc::SYS_fsetxattr,
        libc::SYS_fstatfs,
        libc::SYS_ftruncate,
        libc::SYS_getdents64,
        libc::SYS_getxattr,
        libc::SYS_lgetxattr,
        libc::SYS_linkat,
        libc::SYS_listxattr,
        libc::SYS_llistxattr,
        libc::SYS_lremovexattr,
        libc::SYS_lsetxattr,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_removexattr,
        libc::SYS_renameat2,
        libc::SYS_setxattr,
        libc::SYS_statfs,
        libc::SYS_symlinkat,
        libc::SYS_syncfs,
        libc::SYS_umask,
        libc::SYS_unlinkat,
        libc::SYS_utimensat,
    ],
    tested: &[
        tested(libc::SYS_fcntl, 1, Test::OneOf(&[F_DUPFD_CLOEXEC, F_GETFL, F_OFD_GETLK, F_OFD_SETLK])),
        tested(
            libc::SYS_ioctl,
            1,
            Test::OneOf(&[
                FS_IOC_FIEMAP,
                FS_IOC_FSGETXATTR,
                FS_IOC_FSSETXATTR,
                FS_IOC_GETFLAGS,
                FS_IOC_SETFLAGS,
            ]),
        ),
        // Pages for what is read and written while a file's blocks are the guest's.
        tested(libc::SYS_memfd_create, 1, Test::OneOf(&[libc::MFD_CLOEXEC])),
        tested(libc::SYS_unshare, 0, Test::OneOf(&[CLONE_FS])),
    ],
};

/// Acting for the guest's users, each for one system call.
const CREDENTIALS: Group = Group {
    calls: &[
        libc::SYS_capget,
        libc::SYS_capset,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgroups,
        libc::SYS_setgroups,
        libc::SYS_setresgid,
        libc::SYS_setresuid,
    ],
    tested: &[],
};

/// Giving a capability up, before a window's ring runs.
const CAPABILITIES: Group = Group { calls: &[libc::SYS_capget, libc::SYS_capset], tested: &[] };

/// Waiting for a signal.
const SIGNALS: Group = Group { calls: &[libc::SYS_rt_sigtimedwait], tested: &[] };

/// Removing the socket and the pid file.
const REMOVAL: Group = Group { calls: &[libc::SYS_unlinkat], tested: &[] };

/// Watching the serving process and passing signals on to it.
const CHILD: Group =
    Group { calls: &[libc::SYS_wait4, libc::SYS_waitid], tested: &[tested(libc::SYS_kill, 0, Test::Child)] };

/// What threads of a role may call.
pub(super) fn groups(role: Role) -> &'static [&'static Group] {
    match role {
        Role::Supervisor => &[&RUNTIME, &SIGNALS, &CHILD, &REMOVAL],
        // Every other thread inherits its filter, so this is all that any of them does.
        Role::Main => &[
            &RUNTIME,
            &SPAWN,
            &DATA,
            &RING,
            &MAKE_RING,
            &FRONT_END,
            &OPEN_FILES,
            &FILES,
            &CREDENTIALS,
            &SIGNALS,
            &REMOVAL,
        ],
        Role::Signals => &[&RUNTIME, &SIGNALS, &REMOVAL],
        // It may start threads of the pool, and those that wait for a lock or sync the window's files.
        Role::Ring => &[&RUNTIME, &SPAWN, &DATA, &RING, &OPEN_FILES, &FILES, &CREDENTIALS],
        Role::Slow => &[&RUNTIME, &SPAWN, &DATA, &OPEN_FILES, &FILES, &CREDENTIALS],
        // It starts the window's rings.
        Role::Window => {
            &[&RUNTIME, &SPAWN, &DATA, &RING, &MAKE_RING, &FRONT_END, &OPEN_FILES, &BLOCKS, &CAPABILITIES]
        }
        Role::WindowRing => &[&RUNTIME, &SPAWN, &DATA, &RING, &OPEN_FILES, &BLOCKS],
        Role::WindowSlow => &[&RUNTIME, &SPAWN, &DATA, &OPEN_FILES, &BLOCKS],
        Role::Revocation => &[&RUNTIME, &SPAWN, &SIGNALS, &DATA, &OPEN_FILES],
    }
}

/// Whether threads of a role open files by name. Where they do not, an `openat` is refused instead of ending the process:
/// the C library and a panic look into `/sys` and `/proc`, and go on without.
pub(super) fn opens_files(role: Role) -> bool {
    groups(role).iter().any(|group| group.calls.contains(&libc::SYS_openat))
}

const PROT_EXEC: u32 = libc::PROT_EXEC.cast_unsigned();
const PR_SET_NAME: u32 = libc::PR_SET_NAME.cast_unsigned();
const PR_SET_NO_NEW_PRIVS: u32 = libc::PR_SET_NO_NEW_PRIVS.cast_unsigned();
/// Names of memory areas, which newer versions of glibc give.
const PR_SET_VMA: u32 = libc::PR_SET_VMA.cast_unsigned();
const F_DUPFD_CLOEXEC: u32 = libc::F_DUPFD_CLOEXEC.cast_unsigned();
const F_GETFD: u32 = libc::F_GETFD.cast_unsigned();
const F_SETFD: u32 = libc::F_SETFD.cast_unsigned();
const F_GETFL: u32 = libc::F_GETFL.cast_unsigned();
const F_OFD_GETLK: u32 = libc::F_OFD_GETLK.cast_unsigned();
const F_OFD_SETLK: u32 = libc::F_OFD_SETLK.cast_unsigned();
const CLONE_FS: u32 = libc::CLONE_FS.cast_unsigned();
/// The flags of `pthread_create(3)`: a thread of this process, and nothing of its own but a stack.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID)
    .cast_unsigned();
/// Without meaning to the kernel; musl sets it.
const CLONE_DETACHED: u32 = libc::CLONE_DETACHED.cast_unsigned();
/// `IORING_REGISTER_*` of `<linux/io_uring.h>`.
const REGISTER_FILES: u32 = 2;
const REGISTER_FILES_UPDATE: u32 = 6;
const REGISTER_RESTRICTIONS: u32 = 11;
const REGISTER_ENABLE_RINGS: u32 = 12;
/// Of `<linux/fs.h>` and `<linux/fiemap.h>`, as `fs::sys_io` makes them.
const FS_IOC_FIEMAP: u32 = 0xc020_660b;
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_for_each_request_has_no_test() {
        let hot = [
            libc::SYS_io_uring_enter,
            libc::SYS_preadv2,
            libc::SYS_pwritev2,
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_open_by_handle_at,
            libc::SYS_statx,
            libc::SYS_close,
            libc::SYS_getdents64,
            libc::SYS_futex,
        ];
        for role in [Role::Main, Role::Ring] {
            for call in hot {
                assert!(groups(role).iter().any(|group| group.calls.contains(&call)), "{role:?} {call}");
                let tested =
                    groups(role).iter().any(|group| group.tested.iter().any(|test| test.call == call));
                assert!(!tested, "{role:?} {call}");
            }
        }
    }

    /// A thread has its spawner's filters too, so a call that the spawner's lack would end the process.
    #[test]
    fn who_starts_a_thread_may_do_what_it_does() {
        use Role::{Main, Revocation, Ring, Signals, Slow, Window, WindowRing, WindowSlow};
        for (spawner, role) in [
            (Main, Signals),
            (Main, Revocation),
            (Main, Ring),
            (Main, Window),
            (Ring, Slow),
            (Window, WindowRing),
            (WindowRing, WindowSlow),
        ] {
            for group in groups(role) {
                for call in group.calls {
                    let has = groups(spawner).iter().any(|group| group.calls.contains(call));
                    assert!(has, "{spawner:?} does not have call {call} of {role:?}");
                }
                for test in group.tested {
                    let has = groups(spawner)
                        .iter()
                        .any(|group| group.tested.iter().any(|own| own.call == test.call));
                    assert!(has, "{spawner:?} does not have call {} of {role:?}", test.call);
                }
            }
        }
    }

    #[test]
    fn what_nobody_needs_is_on_no_list() {
        let dangerous = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_setns,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_socket,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
        ];
        for role in Role::ALL {
            for call in dangerous {
                let allowed = groups(role).iter().any(|group| {
                    group.calls.contains(&call) || group.tested.iter().any(|test| test.call == call)
                });
                assert!(!allowed, "{role:?} {call}");
            }
        }
    }
}
