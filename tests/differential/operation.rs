//! What can a guest ask? Operations that name files and handles by their place in the history of the
//! session, and the strategy that draws them.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Which of the files (or handles) that fit is meant: a number that is folded onto their count, so that
/// every value means something and shrinking ends at the first.
pub type Pick = u8;

/// On whose behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Root,
    User,
}

impl Caller {
    /// uid and gid.
    pub fn ids(self) -> (u32, u32) {
        match self {
            Self::Root => (0, 0),
            Self::User => (1000, 1001),
        }
    }
}

/// A time to set: `None` is the server's clock.
pub type NewTime = Option<(u64, u32)>;

/// What SETATTR changes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<NewTime>,
    pub mtime: Option<NewTime>,
    pub kill_suidgid: bool,
}

impl Operation {
    /// The names of directory entries in it.
    pub fn names(&self) -> [Option<&'static str>; 2] {
        match self {
            Self::Lookup { name, .. }
            | Self::Symlink { name, .. }
            | Self::Mknod { name, .. }
            | Self::Mkdir { name, .. }
            | Self::Unlink { name, .. }
            | Self::Rmdir { name, .. }
            | Self::Link { name, .. }
            | Self::Create { name, .. } => [Some(*name), None],
            Self::Rename { name, new_name, .. } => [Some(*name), Some(*new_name)],
            _ => [None; 2],
        }
    }
}

/// One thing that a guest asks.
#[derive(Clone, Debug)]
pub enum Operation {
    Lookup {
        dir: Pick,
        name: &'static str,
    },
    Forget {
        node: Pick,
        all: bool,
    },
    Getattr {
        node: Pick,
    },
    GetattrOpen {
        handle: Pick,
    },
    Setattr {
        node: Pick,
        set: Changes,
    },
    SetattrOpen {
        handle: Pick,
        set: Changes,
    },
    Readlink {
        node: Pick,
    },
    Symlink {
        dir: Pick,
        name: &'static str,
        target: &'static str,
        caller: Caller,
    },
    Mknod {
        dir: Pick,
        name: &'static str,
        mode: u32,
        rdev: u32,
        umask: u32,
        caller: Caller,
    },
    Mkdir {
        dir: Pick,
        name: &'static str,
        mode: u32,
        umask: u32,
        caller: Caller,
    },
    Unlink {
        dir: Pick,
        name: &'static str,
    },
    Rmdir {
        dir: Pick,
        name: &'static str,
    },
    /// `flags` make it a RENAME2.
    Rename {
        dir: Pick,
        name: &'static str,
        to: Pick,
        new_name: &'static str,
        flags: Option<u32>,
    },
    Link {
        node: Pick,
        dir: Pick,
        name: &'static str,
    },
    Open {
        node: Pick,
        flags: i32,
    },
    Create {
        dir: Pick,
        name: &'static str,
        flags: i32,
        mode: u32,
        umask: u32,
        caller: Caller,
    },
    Read {
        handle: Pick,
        offset: u64,
        size: u32,
    },
    Write {
        handle: Pick,
        offset: u64,
        len: usize,
        seed: u8,
        kill_suidgid: bool,
    },
    Flush {
        handle: Pick,
    },
    Release {
        handle: Pick,
    },
    Fsync {
        handle: Pick,
        datasync: bool,
    },
    Fallocate {
        handle: Pick,
        mode: i32,
        offset: u64,
        len: u64,
    },
    Lseek {
        handle: Pick,
        offset: u64,
        whence: i32,
    },
    Statfs {
        node: Pick,
    },
    Access {
        node: Pick,
        mask: u32,
        caller: Caller,
    },
    Setxattr {
        node: Pick,
        name: &'static str,
        value: Vec<u8>,
        flags: i32,
    },
    Getxattr {
        node: Pick,
        name: &'static str,
        size: u32,
    },
    Listxattr {
        node: Pick,
        size: u32,
    },
    Removexattr {
        node: Pick,
        name: &'static str,
    },
    Opendir {
        node: Pick,
    },
    /// The whole directory, from the first cookie to the last, in answers of `size` bytes.
    List {
        handle: Pick,
        size: u32,
        plus: bool,
    },
    Fsyncdir {
        handle: Pick,
    },
    Releasedir {
        handle: Pick,
    },
}

/// The longest name there is, and one that is too long.
static LONG: LazyLock<String> = LazyLock::new(|| "l".repeat(255));
static TOO_LONG: LazyLock<String> = LazyLock::new(|| "l".repeat(256));

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        40 => prop::sample::select(vec!["a", "b", "c", "d"]),
        4 => prop::sample::select(vec!["...", ".a", " ", "\u{e9}\n", LONG.as_str()]),
        // What the guest's own kernel never sends.
        1 => prop::sample::select(vec!["", ".", "..", "/", "a/b", "/etc", TOO_LONG.as_str()]),
    ]
}

fn caller() -> impl Strategy<Value = Caller> {
    prop_oneof![3 => Just(Caller::Root), 1 => Just(Caller::User)]
}

fn permissions() -> impl Strategy<Value = u32> {
    prop_oneof![prop::sample::select(vec![0o644, 0o755, 0o600, 0o777, 0o000]), 0u32..0o10000,]
}

fn umask() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o022, 0o077, 0])
}

fn file_size() -> impl Strategy<Value = u64> {
    prop_oneof![
        10 => 0u64..20_000,
        4 => prop::sample::select(vec![0, 1, 4095, 4096, 4097, 65_536]),
        4 => 0u64..300_000,
    ]
}

fn time() -> impl Strategy<Value = NewTime> {
    // Far from the clock, so that a time that was set can be told from one that ran.
    prop_oneof![Just(None), (0u64..1_000_000_000, 0u32..1_000_000_000).prop_map(Some)]
}

fn changes() -> impl Strategy<Value = Changes> {
    (
        option::weighted(0.3, permissions()),
        option::weighted(0.2, prop::sample::select(vec![0, 1000, 4711])),
        option::weighted(0.2, prop::sample::select(vec![0, 1001, 4711])),
        option::weighted(0.3, file_size()),
        option::weighted(0.3, time()),
        option::weighted(0.3, time()),
        any::<bool>(),
    )
        .prop_map(|(mode, uid, gid, size, atime, mtime, kill_suidgid)| Changes {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
            // The guest's kernel says so only where it changes owner or size (fuse_do_setattr).
            kill_suidgid: kill_suidgid && size.is_some(),
        })
}

fn open_flags() -> impl Strategy<Value = i32> {
    let access = prop::sample::select(vec![libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR]);
    let others = prop::sample::select(vec![0, 0, 0, libc::O_APPEND, libc::O_TRUNC, libc::O_NONBLOCK]);
    (access, others).prop_map(|(access, others)| access | others)
}

fn rename_flags() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![
        3 => Just(None),
        3 => prop::sample::select(vec![0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]).prop_map(Some),
        1 => Just(Some(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE)),
    ]
}

fn xattr_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["user.a", "user.b", "trusted.t", "user.", "nothing", ""])
}

fn names() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let pick = any::<Pick>;
    prop_oneof![
        6 => (pick(), name()).prop_map(|(dir, name)| Lookup { dir, name }),
        4 => (pick(), any::<bool>()).prop_map(|(node, all)| Forget { node, all }),
        3 => pick().prop_map(|node| Readlink { node }),
        3 => (pick(), name(), prop::sample::select(vec!["a", "../b", "/nowhere", "", "c/d"]), caller())
            .prop_map(|(dir, name, target, caller)| Symlink { dir, name, target, caller }),
        2 => (pick(), name(), mknod_mode(), umask(), caller()).prop_map(
            |(dir, name, (mode, rdev), umask, caller)| Mknod { dir, name, mode, rdev, umask, caller }
        ),
        4 => (pick(), name(), permissions(), umask(), caller())
            .prop_map(|(dir, name, mode, umask, caller)| Mkdir { dir, name, mode, umask, caller }),
        3 => (pick(), name()).prop_map(|(dir, name)| Unlink { dir, name }),
        2 => (pick(), name()).prop_map(|(dir, name)| Rmdir { dir, name }),
        5 => (pick(), name(), pick(), name(), rename_flags()).prop_map(
            |(dir, name, to, new_name, flags)| Rename { dir, name, to, new_name, flags }
        ),
        3 => (pick(), pick(), name()).prop_map(|(node, dir, name)| Link { node, dir, name }),
    ]
}

fn mknod_mode() -> impl Strategy<Value = (u32, u32)> {
    let kind = prop::sample::select(vec![
        (libc::S_IFREG, 0),
        (libc::S_IFIFO, 0),
        (libc::S_IFSOCK, 0),
        (libc::S_IFCHR, 0x0103),
        (libc::S_IFBLK, 0x0010_0801),
    ]);
    (kind, permissions()).prop_map(|((kind, rdev), mode)| (kind | mode, rdev))
}

fn files() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let pick = any::<Pick>;
    prop_oneof![
        4 => (pick(), open_flags()).prop_map(|(node, flags)| Open { node, flags }),
        6 => (pick(), name(), open_flags(), any::<bool>(), (permissions(), umask(), caller())).prop_map(
            |(dir, name, flags, exclusive, (mode, umask, caller))| {
                let flags = flags | libc::O_CREAT | if exclusive { libc::O_EXCL } else { 0 };
                Create { dir, name, flags, mode, umask, caller }
            }
        ),
        8 => (pick(), file_size(), 0u32..70_000)
            .prop_map(|(handle, offset, size)| Read { handle, offset, size }),
        8 => (pick(), file_size(), 0usize..70_000, any::<u8>(), any::<bool>()).prop_map(
            |(handle, offset, len, seed, kill_suidgid)| Write { handle, offset, len, seed, kill_suidgid }
        ),
        2 => pick().prop_map(|handle| Flush { handle }),
        2 => pick().prop_map(|handle| Release { handle }),
        1 => (pick(), any::<bool>()).prop_map(|(handle, datasync)| Fsync { handle, datasync }),
        3 => (pick(), allocation_mode(), file_size(), file_size())
            .prop_map(|(handle, mode, offset, len)| Fallocate { handle, mode, offset, len }),
        3 => (pick(), file_size(), prop::sample::select(vec![libc::SEEK_DATA, libc::SEEK_HOLE]))
            .prop_map(|(handle, offset, whence)| Lseek { handle, offset, whence }),
        2 => pick().prop_map(|node| Opendir { node }),
        4 => (pick(), 512u32..4096, any::<bool>())
            .prop_map(|(handle, size, plus)| List { handle, size, plus }),
        1 => pick().prop_map(|handle| Fsyncdir { handle }),
        1 => pick().prop_map(|handle| Releasedir { handle }),
    ]
}

fn allocation_mode() -> impl Strategy<Value = i32> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    prop::sample::select(vec![
        0,
        KEEP,
        libc::FALLOC_FL_PUNCH_HOLE | KEEP,
        libc::FALLOC_FL_ZERO_RANGE,
        libc::FALLOC_FL_COLLAPSE_RANGE,
        libc::FALLOC_FL_INSERT_RANGE,
        // Without KEEP_SIZE the kernel refuses it.
        libc::FALLOC_FL_PUNCH_HOLE,
    ])
}

fn attributes() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let pick = any::<Pick>;
    prop_oneof![
        4 => pick().prop_map(|node| Getattr { node }),
        2 => pick().prop_map(|handle| GetattrOpen { handle }),
        6 => (pick(), changes()).prop_map(|(node, set)| Setattr { node, set }),
        3 => (pick(), changes()).prop_map(|(handle, set)| SetattrOpen { handle, set }),
        1 => pick().prop_map(|node| Statfs { node }),
        3 => (pick(), 0u32..8, caller()).prop_map(|(node, mask, caller)| Access { node, mask, caller }),
        3 => (pick(), xattr_name(), vec(any::<u8>(), 0..40), 0i32..4)
            .prop_map(|(node, name, value, flags)| Setxattr { node, name, value, flags }),
        2 => (pick(), xattr_name(), 0u32..60).prop_map(|(node, name, size)| Getxattr { node, name, size }),
        2 => (pick(), 0u32..60).prop_map(|(node, size)| Listxattr { node, size }),
        1 => (pick(), xattr_name()).prop_map(|(node, name)| Removexattr { node, name }),
    ]
}

/// A session of a guest.
pub fn sequences(len: usize) -> impl Strategy<Value = Vec<Operation>> {
    vec(prop_oneof![4 => names(), 5 => files(), 3 => attributes()], 1..len)
}
