//! Checks of the two ways around read and write: memory mappings and O_DIRECT, alone and mixed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::{Command, ExitStatus};
use std::sync::atomic::Ordering;

use crate::check::{Check, Outcome, Place, Verdict, holds, refused, same, same_bytes};
use crate::content::pattern;
use crate::sys::{Mapping, PageBuffer};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "mmap-shared", run: mmap_shared },
    Check { name: "mmap-private", run: mmap_private },
    Check { name: "mmap-two-processes", run: mmap_two_processes },
    Check { name: "mmap-after-unlink", run: mmap_after_unlink },
    Check { name: "direct-aligned", run: direct_aligned },
    Check { name: "direct-unaligned", run: direct_unaligned },
    Check { name: "direct-at-end", run: direct_at_end },
    Check { name: "direct-and-buffered", run: direct_and_buffered },
    Check { name: "direct-and-mmap", run: direct_and_mmap },
    Check { name: "direct-from-own-mapping", run: direct_from_own_mapping },
    Check { name: "execute", run: execute },
];

/// Increments per process of the two-process check.
const INCREMENTS: u64 = 20_000;

fn opened(place: &Place, name: &str, flags: i32) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(place.path(name))
}

fn mmap_shared(place: &Place) -> Outcome {
    let bytes = pattern(100_000, 8);
    let path = place.file("file", &bytes)?;
    let file = opened(place, "file", 0)?;
    let mut map = Mapping::new(&file, 100_000, true)?;
    let mut got = vec![0; 100_000];
    map.read(0, &mut got)?;
    same_bytes("what the mapping shows", &got, &bytes)?;
    map.write(4090, b"through the mapping")?;
    let mut piece = [0; 19];
    file.read_exact_at(&mut piece, 4090)?;
    same_bytes("what read sees of a mapped write", &piece, b"through the mapping")?;
    file.write_all_at(b"by pwrite", 50_000)?;
    let mut piece = [0; 9];
    map.read(50_000, &mut piece)?;
    same_bytes("what the mapping sees of a write", &piece, b"by pwrite")?;
    map.sync()?;
    drop((map, file));
    let got = fs::read(&path)?;
    same_bytes("after all is closed", got.get(4090..4109).unwrap_or_default(), b"through the mapping")
}

fn mmap_private(place: &Place) -> Outcome {
    let path = place.file("file", &[b'.'; 10_000])?;
    let mut map = Mapping::new(File::open(&path)?, 10_000, false)?;
    map.write(5000, b"mine")?;
    let mut piece = [0; 4];
    map.read(5000, &mut piece)?;
    same_bytes("own copy", &piece, b"mine")?;
    drop(map);
    same_bytes("the file", &fs::read(&path)?, &[b'.'; 10_000])
}

/// The other process of `mmap-two-processes`: adds to the first word of the file.
pub fn increment(path: &std::path::Path) -> std::io::Result<()> {
    let map = Mapping::new(OpenOptions::new().read(true).write(true).open(path)?, 4096, true)?;
    for _ in 0..INCREMENTS {
        map.word(0)?.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

fn mmap_two_processes(place: &Place) -> Outcome {
    let path = place.file("file", &[0; 8192])?;
    let helpers = (0..2).map(|_| Command::new("/proc/self/exe").arg("increment").arg(&path).spawn());
    for helper in helpers.collect::<Result<Vec<_>, _>>()? {
        let mut helper = helper;
        same("exit of the other process", helper.wait()?.success(), true)?;
    }
    let mut word = [0; 8];
    File::open(&path)?.read_exact_at(&mut word, 0)?;
    same("increments", u64::from_le_bytes(word), 2 * INCREMENTS)
}

fn mmap_after_unlink(place: &Place) -> Outcome {
    let path = place.file("file", &[b'a'; 8192])?;
    let mut map = Mapping::new(opened(place, "file", 0)?, 8192, true)?;
    fs::remove_file(&path)?;
    map.write(4096, b"still writable")?;
    map.sync()?;
    let mut piece = [0; 14];
    map.read(4096, &mut piece)?;
    same_bytes("content", &piece, b"still writable")
}

fn direct_aligned(place: &Place) -> Outcome {
    let file = opened(place, "file", libc::O_DIRECT)?;
    let bytes = pattern(2 << 20, 9);
    let mut buffer = PageBuffer::new(2 << 20);
    buffer.get_mut().copy_from_slice(&bytes);
    file.write_all_at(buffer.get(), 0)?;
    same("size", file.metadata()?.size(), 2 << 20)?;
    let mut back = PageBuffer::new(2 << 20);
    file.read_exact_at(back.get_mut(), 0)?;
    same_bytes("content", back.get(), &bytes)?;
    same_bytes("content by a buffered handle", &fs::read(place.path("file"))?, &bytes)
}

fn direct_unaligned(place: &Place) -> Outcome {
    let bytes = pattern(50_000, 10);
    let file = opened(place, "file", libc::O_DIRECT)?;
    for (range, offset) in [(0..1, 0), (1..4097, 1), (4097..9000, 4097), (9000..50_000, 9000)] {
        match file.write_all_at(bytes.get(range).unwrap_or_default(), offset) {
            // fs/fuse checks no alignment, so a guest's program never sees EINVAL for it; most file systems on a disk do refuse.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !place.on_fuse()? => {
                return Err(Verdict::Skip("this file system wants aligned direct I/O".into()));
            }
            result => result?,
        }
    }
    let mut got = vec![0; 50_000];
    for (start, end) in [(0, 3), (3, 20_000), (20_000, 50_000)] {
        file.read_exact_at(
            got.get_mut(start..end).unwrap_or_default(),
            u64::try_from(start).unwrap_or_default(),
        )?;
    }
    same_bytes("content", &got, &bytes)?;
    same_bytes("content by a buffered handle", &fs::read(place.path("file"))?, &bytes)
}

fn direct_at_end(place: &Place) -> Outcome {
    // An aligned direct read that crosses the end of a file whose size is odd.
    let bytes = pattern(10_001, 11);
    place.file("file", &bytes)?;
    let file = opened(place, "file", libc::O_DIRECT)?;
    let mut buffer = PageBuffer::new(16_384);
    same("bytes read", file.read_at(buffer.get_mut(), 0)?, 10_001)?;
    same_bytes("content", buffer.get().get(..10_001).unwrap_or_default(), &bytes)?;
    same("read beyond", file.read_at(buffer.get_mut(), 16_384)?, 0)?;
    file.write_all_at(PageBuffer::new(4096).get(), 12_288)?;
    same("size after a write beyond the end", file.metadata()?.size(), 16_384)?;
    let got = fs::read(place.path("file"))?;
    same_bytes("old end", got.get(..10_001).unwrap_or_default(), &bytes)?;
    holds("zeroes between", got.iter().skip(10_001).all(|b| *b == 0))
}

fn direct_and_buffered(place: &Place) -> Outcome {
    let (direct, buffered) = (opened(place, "file", libc::O_DIRECT)?, opened(place, "file", 0)?);
    let mut page = PageBuffer::new(4096);
    for round in 0..100_u64 {
        let want = pattern(4096, round);
        if round % 2 == 0 {
            page.get_mut().copy_from_slice(&want);
            direct.write_all_at(page.get(), 4096 * (round % 5))?;
        } else {
            buffered.write_all_at(&want, 4096 * (round % 5))?;
        }
        let mut got = vec![0; 4096];
        buffered.read_exact_at(&mut got, 4096 * (round % 5))?;
        same_bytes("buffered read", &got, &want)?;
        direct.read_exact_at(page.get_mut(), 4096 * (round % 5))?;
        same_bytes("direct read", page.get(), &want)?;
    }
    Ok(())
}

fn direct_and_mmap(place: &Place) -> Outcome {
    place.file("file", &[0; 65_536])?;
    let direct = opened(place, "file", libc::O_DIRECT)?;
    let mut map = Mapping::new(&direct, 65_536, true)?;
    map.write(8192, b"mapped")?;
    let mut page = PageBuffer::new(4096);
    direct.read_exact_at(page.get_mut(), 8192)?;
    same_bytes("direct read of a mapped write", page.get().get(..6).unwrap_or_default(), b"mapped")?;
    page.get_mut().fill(b'd');
    direct.write_all_at(page.get(), 8192)?;
    let mut got = [0; 4096];
    map.read(8192, &mut got)?;
    same_bytes("mapped read of a direct write", &got, &[b'd'; 4096])
}

fn direct_from_own_mapping(place: &Place) -> Outcome {
    // The buffer of the direct write is a mapping of another file of the share: the guest has to fault it in, by reading
    // from the daemon, on the way to the write.
    let bytes = pattern(8192, 12);
    place.file("source", &bytes)?;
    let source = opened(place, "source", 0)?;
    rustix::fs::fadvise(&source, 0, None, rustix::fs::Advice::DontNeed)?;
    let map = Mapping::new(&source, 8192, true)?;
    same("written", map.write_to(opened(place, "target", libc::O_DIRECT)?)?, 8192)?;
    same_bytes("content", &fs::read(place.path("target"))?, &bytes)
}

fn execute(place: &Place) -> Outcome {
    let path = place.path("program");
    fs::copy("/proc/self/exe", &path)?;
    let run = || Command::new(&path).arg("--version").output().map(|output| output.status);
    same("exit of a program on the share", run()?.code(), Some(0))?;
    let writer = OpenOptions::new().write(true).open(&path)?;
    refused("execution while open for writing", run().map(|_: ExitStatus| ()), libc::ETXTBSY)?;
    drop(writer);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    refused("execution without permission", run().map(|_: ExitStatus| ()), libc::EACCES)
}
