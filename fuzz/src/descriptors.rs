//! Which files does this process have open?

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Every open descriptor and what it leads to, as procfs has it.
pub fn open_files() -> BTreeMap<u32, PathBuf> {
    let listing = std::fs::read_dir("/proc/self/fd").expect("procfs");
    // The listing's own descriptor is gone when its link is looked at.
    let numbers: Vec<u32> =
        listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    let target = |number| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
    numbers.into_iter().filter_map(|number| Some((number, target(number)?))).collect()
}

/// The descriptors that were not there in `before`.
pub fn opened_since(before: &BTreeMap<u32, PathBuf>) -> Vec<PathBuf> {
    open_files()
        .into_iter()
        .filter(|(number, file)| before.get(number) != Some(file))
        .map(|(_, file)| file)
        .collect()
}
