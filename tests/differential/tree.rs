//! What does a host directory hold? Everything that a guest could have put there, for two of them to be
//! compared.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::answer::Time;
use super::disguise::Disguise;

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    mode: u32,
    owner: (u32, u32),
    nlink: u64,
    rdev: u64,
    mtime: Time,
    /// The first name of the same file.
    first_name: PathBuf,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is in the file, or where the symbolic link points.
    content: Vec<u8>,
}

/// Everything below (and including) `root`, by its path from there, as the guest sees it.
pub fn read(root: &Path, disguise: Disguise) -> BTreeMap<PathBuf, Found> {
    let mut found = BTreeMap::new();
    let mut first_names = HashMap::new();
    visit(root, Path::new(""), disguise, &mut first_names, &mut found);
    found
}

fn visit(
    root: &Path,
    path: &Path,
    disguise: Disguise,
    first_names: &mut HashMap<u64, PathBuf>,
    found: &mut BTreeMap<PathBuf, Found>,
) {
    let full = root.join(path);
    let metadata = fs::symlink_metadata(&full).expect("the metadata of a file in the share");
    let kind = metadata.file_type();
    let content = if kind.is_file() {
        fs::read(&full).expect("the content of a file in the share")
    } else if kind.is_symlink() {
        fs::read_link(&full).expect("the target of a link in the share").as_os_str().as_bytes().to_vec()
    } else {
        assert!(kind.is_dir() || kind.is_fifo() || kind.is_socket() || metadata.rdev() != 0);
        Vec::new()
    };
    let first_name = first_names.entry(metadata.ino()).or_insert_with(|| path.to_owned()).clone();
    found.insert(
        path.to_owned(),
        Found {
            mode: metadata.mode(),
            owner: (disguise.guest_id(metadata.uid()), disguise.guest_id(metadata.gid())),
            nlink: metadata.nlink(),
            rdev: metadata.rdev(),
            mtime: Time::new(
                metadata.mtime().cast_unsigned(),
                u32::try_from(metadata.mtime_nsec()).expect("nsec"),
            ),
            first_name,
            xattrs: xattrs(&full, disguise),
            content,
        },
    );
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full)
            .expect("a directory in the share")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        for name in names {
            visit(root, &path.join(name), disguise, first_names, found);
        }
    }
}

fn xattrs(path: &Path, disguise: Disguise) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("the xattrs of a file in the share");
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("an xattr");
            value.truncate(len);
            (disguise.guest_name(name).to_vec(), value)
        })
        .collect()
}
