//! Was anything beside the share touched?

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// What nobody outside may ever read.
pub const SECRET: &[u8] = b"the canary's secret";

/// A tree beside the share, and how it looked.
#[derive(Debug)]
pub struct Canary {
    root: PathBuf,
    before: Vec<String>,
}

impl Canary {
    /// Makes the tree `canary` in the directory that holds the share.
    pub fn place(beside: &Path) -> Self {
        let root = beside.join("canary");
        std::fs::create_dir_all(root.join("inner")).expect("canary");
        for name in ["file", "inner/file"] {
            std::fs::write(root.join(name), SECRET).expect("canary");
        }
        symlink("file", root.join("link")).expect("canary");
        let before = listing(&root);
        Self { root, before }
    }

    /// The first difference to how it was.
    pub fn harm(&self) -> Option<String> {
        let now = listing(&self.root);
        let differ = |(old, new): (&String, &String)| (old != new).then(|| format!("{old} became {new}"));
        let changed = self.before.iter().zip(&now).find_map(differ);
        changed
            .or_else(|| (self.before.len() != now.len()).then(|| format!("it has {} entries now", now.len())))
    }
}

/// Each entry with all that a change of it would change.
fn listing(directory: &Path) -> Vec<String> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(directory).expect("canary").flatten().map(|e| e.path()).collect();
    entries.sort();
    let mut lines = vec![describe(directory)];
    for entry in entries {
        if entry.is_dir() && !entry.is_symlink() {
            lines.extend(listing(&entry));
        } else {
            lines.push(describe(&entry));
        }
    }
    lines
}

fn describe(path: &Path) -> String {
    let stat = path.symlink_metadata().expect("canary");
    let content = if stat.is_file() { std::fs::read(path).expect("canary") } else { vec![] };
    format!(
        "{} {:o} {}:{} links {} changed {}.{} {}",
        path.display(),
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.nlink(),
        stat.ctime(),
        stat.ctime_nsec(),
        String::from_utf8_lossy(&content)
    )
}
