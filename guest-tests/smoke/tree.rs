//! A large tree of small files with known contents, made quickly: what `tar` then unpacks onto the share.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use crate::content::pattern;
use crate::exercise::Random;

/// Options of `guest-smoke tree`.
#[derive(clap::Args)]
pub struct Options {
    /// Number of files
    #[arg(long)]
    files: u64,
    /// The directory, created anew
    dir: PathBuf,
}

/// Sizes as in a source tree: most under 4 KiB, one in a hundred up to 128 KiB, a few empty.
fn size(random: &mut Random) -> u64 {
    match random.below(100) {
        0 => random.below(128 << 10),
        1..4 => 0,
        _ => random.below(3500),
    }
}

/// Writes the tree: 50 files to a directory, 20 directories to one above.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut random = Random(42);
    for number in 0..options.files {
        let dir = options.dir.join(format!("{:03}/{:02}", number / 1000, number / 50 % 20));
        if number % 50 == 0 {
            fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        let path = dir.join(format!("file-{number:06}"));
        let bytes = pattern(usize::try_from(size(&mut random))?, number << 20);
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
