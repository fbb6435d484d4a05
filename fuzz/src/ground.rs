//! Where does the share lie, and what lies beside it that nobody may touch?
//!
//! On a small tmpfs of this process alone: what a guest allocates fills that and not the machine's memory, and what it
//! breaks is gone with the process. Beside the share is a *canary* tree. Its attributes include the times of the last
//! change and of the last access, which the file system of a user cannot set back, so looking at them tells whether
//! anything was changed or read there.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Bytes that all files may take together.
const SPACE: &str = "16m";

/// The share and what is beside it.
#[derive(Debug)]
pub struct Ground {
    root: PathBuf,
}

/// Everything that a file's attributes tell about what was done to it.
pub type Trace = Vec<(PathBuf, [i64; 11])>;

impl Ground {
    /// The ground of this process, made at the first call, which must come from the process's first thread.
    pub fn get() -> &'static Self {
        static GROUND: OnceLock<Ground> = OnceLock::new();
        GROUND.get_or_init(Self::make)
    }

    fn make() -> Self {
        let mut flags = UnshareFlags::NEWNS;
        if !rustix::process::geteuid().is_root() {
            flags |= UnshareFlags::NEWUSER;
        }
        // SAFETY: no descriptor table is unshared, which is what could invalidate others' descriptors.
        unsafe { rustix::thread::unshare_unsafe(flags) }.expect("a mount namespace of our own");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .expect("private mounts");
        let root = PathBuf::from("/dev/shm");
        let options = CString::new(format!("size={SPACE},nr_inodes=4096,mode=755")).expect("no NUL");
        mount("fuzz", &root, "tmpfs", MountFlags::STRICTATIME, Some(options.as_c_str())).expect("a tmpfs");
        // SAFETY: no other thread runs yet that could create a file meanwhile.
        unsafe { libc::umask(0) };
        Self::at(root)
    }

    /// The same on a file system that is there already, and empty.
    pub fn at(root: PathBuf) -> Self {
        let ground = Self { root };
        fs::create_dir_all(ground.root.join("canary/inner")).expect("a canary");
        for (name, contents) in [("secret", "tweet"), ("inner/deep", "chirp"), ("script", "#!/bin/false\n")] {
            fs::write(ground.canary().join(name), contents).expect("a canary");
        }
        fs::set_permissions(ground.canary().join("script"), fs::Permissions::from_mode(0o6755))
            .expect("a canary");
        symlink("secret", ground.canary().join("link")).expect("a canary");
        fs::create_dir(ground.root.join("around")).expect("room for the share");
        ground
    }

    /// Where all of it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the canary tree is.
    pub fn canary(&self) -> PathBuf {
        self.root.join("canary")
    }

    /// Where the share is.
    pub fn share(&self) -> PathBuf {
        self.root.join("around/share")
    }

    /// Makes the share anew, always with the same few files, and opens it as the daemon does: its root and
    /// `/proc/self/fd`.
    pub fn fresh_share(&self) -> (OwnedFd, OwnedFd) {
        let share = self.share();
        if share.exists() {
            remove(&share);
        }
        fs::create_dir(&share).expect("the share");
        fs::create_dir_all(share.join("dir/sub")).expect("the share");
        for (name, len) in [("file", 5000), ("other", 0), ("dir/inner", 70_000), ("hole", 100)] {
            fs::write(share.join(name), vec![b'x'; len]).expect("the share");
        }
        fs::OpenOptions::new()
            .write(true)
            .open(share.join("hole"))
            .and_then(|file| file.set_len(1 << 30))
            .expect("the share");
        fs::hard_link(share.join("file"), share.join("hard")).expect("the share");
        // Ways out, for whoever follows them.
        for (name, target) in [
            ("out", "../../canary"),
            ("secret", "../../canary/secret"),
            ("absolute", "/dev/shm/canary/secret"),
            ("self", "/proc/self/fd"),
            ("loop", "loop"),
            ("dir/up", ".."),
        ] {
            symlink(target, share.join(name)).expect("the share");
        }
        let fifo = CString::new(share.join("fifo").into_os_string().into_encoded_bytes()).expect("no NUL");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from(0o666), 0).expect("the share");
        let open = |path: &Path| {
            openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .expect("the share")
        };
        (open(&share), open(Path::new("/proc/self/fd")))
    }

    /// The regular file of the share with this inode number.
    pub fn find(&self, ino: u64) -> Option<PathBuf> {
        let mut folders = vec![self.share()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_file() && entry.ino() == ino => return Some(entry.path()),
                    _ => {}
                }
            }
        }
        None
    }

    /// The attributes of everything beside the share and above it.
    pub fn trace(&self) -> Trace {
        [
            "",
            "canary",
            "canary/secret",
            "canary/inner",
            "canary/inner/deep",
            "canary/script",
            "canary/link",
            "around",
        ]
        .iter()
        .map(|name| {
            let path = self.root.join(name);
            let stat =
                fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let numbers = [
                stat.ino(),
                stat.mode().into(),
                stat.uid().into(),
                stat.gid().into(),
                stat.nlink(),
                stat.size(),
            ];
            let [ino, mode, uid, gid, nlink, size] = numbers.map(|number| number as i64);
            let times = [stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec(), stat.atime(), stat.atime_nsec()];
            let [mtime, ctime, ctime_nsec, atime, atime_nsec] = times;
            (path, [ino, mode, uid, gid, nlink, size, mtime, ctime, ctime_nsec, atime, atime_nsec])
        })
        .collect()
    }

    /// The inode numbers of what is beside the share and above it: no answer may speak of one.
    pub fn foreign_inodes(&self) -> Vec<u64> {
        self.trace().into_iter().map(|(_, [ino, ..])| ino as u64).collect()
    }
}

/// Removes a tree, also where a guest made files immutable.
fn remove(tree: &Path) {
    if fs::remove_dir_all(tree).is_ok() {
        return;
    }
    soften(tree);
    fs::remove_dir_all(tree).unwrap_or_else(|error| panic!("cannot remove {}: {error}", tree.display()));
}

/// Takes away what keeps the files of a tree from being removed (`FS_IMMUTABLE_FL`, `FS_APPEND_FL`).
fn soften(path: &Path) {
    let Ok(stat) = fs::symlink_metadata(path) else { return };
    if !(stat.is_dir() || stat.is_file()) {
        return;
    }
    if let Ok(file) = fs::File::open(path) {
        let _ = rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::empty());
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        soften(&entry.path());
    }
}
