//! Checks of where a file has bytes: fallocate, holes, SEEK_DATA, copy_file_range.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::check::{Check, Outcome, Place, Verdict, holds, refused, same, same_bytes};
use crate::content::pattern;

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "fallocate", run: allocate },
    Check { name: "fallocate-keep-size", run: keep_size },
    Check { name: "fallocate-punch-hole", run: punch_hole },
    Check { name: "fallocate-zero-range", run: zero_range },
    Check { name: "fallocate-collapse-range", run: collapse_range },
    Check { name: "fallocate-insert-range", run: insert_range },
    Check { name: "fallocate-refused", run: fallocate_refused },
    Check { name: "sparse-file", run: sparse_file },
    Check { name: "seek-data-hole", run: seek_data_hole },
    Check { name: "copy-file-range", run: copy_range },
    Check { name: "copy-file-range-overlap", run: copy_range_overlap },
    Check { name: "clone", run: clone },
];

/// Large enough that the host file system stores it in whole blocks.
const LEN: usize = 1 << 20;
const BLOCK: usize = 64 << 10;

fn file(place: &Place, name: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(place.path(name))
}

fn filled(place: &Place, name: &str) -> std::io::Result<(File, Vec<u8>)> {
    let (file, bytes) = (file(place, name)?, pattern(LEN, 6));
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    Ok((file, bytes))
}

fn content(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.size()).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn allocate(place: &Place) -> Outcome {
    let file = file(place, "file")?;
    fallocate(&file, FallocateFlags::empty(), 5, 1_000_000)?;
    same("size", file.metadata()?.size(), 1_000_005)?;
    holds("blocks are there", file.metadata()?.blocks() * 512 >= 1_000_000)?;
    same_bytes("content", &content(&file)?, &[0; 1_000_005])
}

fn keep_size(place: &Place) -> Outcome {
    let file = file(place, "file")?;
    file.write_all_at(b"content", 0)?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1_000_000)?;
    same("size", file.metadata()?.size(), 7)?;
    holds("blocks are there", file.metadata()?.blocks() * 512 >= 1_000_000)
}

fn punch_hole(place: &Place) -> Outcome {
    let (file, mut want) = filled(place, "file")?;
    let before = file.metadata()?.blocks();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100, 4 * 65_536)?;
    want.iter_mut().skip(100).take(4 * BLOCK).for_each(|b| *b = 0);
    same_bytes("content", &content(&file)?, &want)?;
    holds("blocks were freed", file.metadata()?.blocks() < before)
}

fn zero_range(place: &Place) -> Outcome {
    place.guest_has("FALLOC_FL_ZERO_RANGE", (5, 14))?;
    let (file, mut want) = filled(place, "file")?;
    fallocate(&file, FallocateFlags::ZERO_RANGE, 1000, 70_000)?;
    want.iter_mut().skip(1000).take(70_000).for_each(|b| *b = 0);
    same_bytes("content", &content(&file)?, &want)?;
    fallocate(&file, FallocateFlags::ZERO_RANGE, (1 << 20) - 10, 20)?;
    same("size grows", file.metadata()?.size(), (1 << 20) + 10)?;
    fallocate(&file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 1 << 20, 4096)?;
    same("size is kept", file.metadata()?.size(), (1 << 20) + 10)
}

fn collapse_range(place: &Place) -> Outcome {
    let (file, mut want) = filled(place, "file")?;
    match fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 65_536, 65_536) {
        Err(Errno::OPNOTSUPP) => return Err(place.guest_refuses("FALLOC_FL_COLLAPSE_RANGE")),
        result => result?,
    }
    want.drain(BLOCK..2 * BLOCK);
    same_bytes("content", &content(&file)?, &want)
}

fn insert_range(place: &Place) -> Outcome {
    let (file, mut want) = filled(place, "file")?;
    match fallocate(&file, FallocateFlags::INSERT_RANGE, 65_536, 65_536) {
        Err(Errno::OPNOTSUPP) => return Err(place.guest_refuses("FALLOC_FL_INSERT_RANGE")),
        result => result?,
    }
    want.splice(BLOCK..BLOCK, vec![0; BLOCK]);
    same_bytes("content", &content(&file)?, &want)
}

fn fallocate_refused(place: &Place) -> Outcome {
    let file = file(place, "file")?;
    let none = FallocateFlags::empty();
    refused("length 0", fallocate(&file, none, 0, 0), libc::EINVAL)?;
    refused("beyond the largest file", fallocate(&file, none, 1 << 62, 1 << 62), libc::EFBIG)?;
    refused("of a read-only handle", fallocate(File::open(place.path("file"))?, none, 0, 1), libc::EBADF)?;
    same("size", file.metadata()?.size(), 0)
}

fn sparse_file(place: &Place) -> Outcome {
    let file = file(place, "file")?;
    file.set_len(1 << 30)?;
    file.write_all_at(b"island", 500 << 20)?;
    file.sync_all()?;
    holds("hardly any blocks", file.metadata()?.blocks() < 1000)?;
    let mut around = [1; 4096];
    file.read_exact_at(&mut around, (500 << 20) - 2000)?;
    let mut want = [0; 4096];
    want.iter_mut().skip(2000).zip(b"island").for_each(|(to, from)| *to = *from);
    same_bytes("around the island", &around, &want)
}

fn seek_data_hole(place: &Place) -> Outcome {
    let file = file(place, "file")?;
    file.write_all_at(&pattern(BLOCK, 7), 4 << 20)?;
    file.set_len(16 << 20)?;
    file.sync_all()?;
    let (start, end) = (4 << 20, (4 << 20) + 65_536);
    same("first data", seek(&file, SeekFrom::Data(0))?, start)?;
    same("data from within", seek(&file, SeekFrom::Data(start + 100))?, start + 100)?;
    same("first hole", seek(&file, SeekFrom::Hole(0))?, 0)?;
    same("hole after the data", seek(&file, SeekFrom::Hole(start))?, end)?;
    refused("data after the data", seek(&file, SeekFrom::Data(end)), libc::ENXIO)?;
    refused("a hole beyond the end", seek(&file, SeekFrom::Hole((16 << 20) + 1)), libc::ENXIO)?;
    same("the end", seek(&file, SeekFrom::End(-10))?, (16 << 20) - 10)
}

fn copy_range(place: &Place) -> Outcome {
    let (from, bytes) = filled(place, "from")?;
    let to = file(place, "to")?;
    let (mut at, mut into) = (1001, 33);
    let mut left = 500_000;
    while left > 0 {
        match copy_file_range(&from, Some(&mut at), &to, Some(&mut into), left)? {
            0 => return Err(Verdict::fail("copied nothing before the end")),
            copied => left -= copied,
        }
    }
    same("source offset", at, 501_001)?;
    let want = [&[0; 33], bytes.get(1001..501_001).unwrap_or_default()].concat();
    same_bytes("copy", &content(&to)?, &want)?;
    let mut end = 1 << 20;
    same("at the end of the source", copy_file_range(&from, Some(&mut end), &to, None, 100)?, 0)?;
    let result = copy_file_range(&from, None, File::open(place.path("to"))?, None, 10);
    refused("into a read-only handle", result, libc::EBADF)
}

fn copy_range_overlap(place: &Place) -> Outcome {
    let (file, mut want) = filled(place, "file")?;
    let (mut from, mut to) = (0, 1000);
    refused(
        "overlapping",
        copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5000),
        libc::EINVAL,
    )?;
    let (mut from, mut to) = (0, 500_000);
    let copied = copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 100_000)?;
    let source = want.get(..copied).unwrap_or_default().to_vec();
    want.splice(500_000..500_000 + copied, source);
    same_bytes("content", &content(&file)?, &want)
}

fn clone(place: &Place) -> Outcome {
    let (from, bytes) = filled(place, "from")?;
    let to = file(place, "to")?;
    match ioctl_ficlone(&to, &from) {
        // ext4 has no reflinks, and FUSE has no request for them.
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
            return Err(Verdict::Skip(
                "no reflinks: the host file system or the guest's FUSE client has none".into(),
            ));
        }
        result => result?,
    }
    same_bytes("clone", &content(&to)?, &bytes)
}
