//! Checks of file content: reads and writes of every shape, append, truncation and offsets beyond 32 bits.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use rustix::io::{ReadWriteFlags, preadv, preadv2, pwritev, pwritev2};

use crate::check::{Check, Outcome, Place, holds, refused, same, same_bytes};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "read-write", run: read_write },
    Check { name: "read-at-end", run: read_at_end },
    Check { name: "large-transfer", run: large_transfer },
    Check { name: "vectored", run: vectored },
    Check { name: "vectored-flags", run: vectored_flags },
    Check { name: "append", run: append },
    Check { name: "append-pwrite", run: append_pwrite },
    Check { name: "open-truncates", run: open_truncates },
    Check { name: "open-flags", run: open_flags },
    Check { name: "truncate", run: truncate },
    Check { name: "offsets-64-bit", run: offsets_64_bit },
    Check { name: "fsync", run: fsync },
    Check { name: "two-opens", run: two_opens },
    Check { name: "poll", run: poll },
    Check { name: "fifo-data", run: fifo_data },
];

/// Bytes that differ at every offset a block or page could be exchanged with.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (seed..)
        .take(len.div_ceil(8))
        .flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(len)
        .collect()
}

fn read_write(place: &Place) -> Outcome {
    let want = pattern(100_001, 1);
    let path = place.path("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    for piece in want.chunks(777) {
        file.write_all(piece)?;
    }
    same("size", file.metadata()?.size(), 100_001)?;
    file.seek(SeekFrom::Start(0))?;
    let mut got = Vec::new();
    file.read_to_end(&mut got)?;
    same_bytes("content", &got, &want)?;
    let mut piece = vec![0; 5000];
    file.read_exact_at(&mut piece, 4095)?;
    same_bytes("pread", &piece, want.get(4095..9095).unwrap_or_default())?;
    file.write_all_at(b"overwritten", 50_000)?;
    let got = fs::read(&path)?;
    same_bytes(
        "before the overwrite",
        got.get(..50_000).unwrap_or_default(),
        want.get(..50_000).unwrap_or_default(),
    )?;
    same_bytes("the overwrite", got.get(50_000..50_011).unwrap_or_default(), b"overwritten")?;
    same_bytes(
        "after the overwrite",
        got.get(50_011..).unwrap_or_default(),
        want.get(50_011..).unwrap_or_default(),
    )
}

fn read_at_end(place: &Place) -> Outcome {
    let file = File::open(place.file("file", b"twelve bytes")?)?;
    let mut buffer = [0; 64];
    same("read across the end", file.read_at(&mut buffer, 7)?, 5)?;
    same("read at the end", file.read_at(&mut buffer, 12)?, 0)?;
    same("read far beyond", file.read_at(&mut buffer, 1 << 40)?, 0)
}

fn large_transfer(place: &Place) -> Outcome {
    // More than any max_write, so that the guest splits it, and an odd length.
    let want = pattern((9 << 20) + 13, 2);
    let path = place.path("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.write_all_at(&want, 0)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut got = vec![0; want.len()];
    file.read_exact_at(&mut got, 0)?;
    same_bytes("content", &got, &want)
}

fn vectored(place: &Place) -> Outcome {
    // IOV_MAX segments of an odd length: no segment ends where a page does.
    let want = pattern(1024 * 701, 3);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(place.path("file"))?;
    let pieces: Vec<_> = want.chunks(701).map(IoSlice::new).collect();
    same("pwritev", pwritev(&file, &pieces, 333)?, want.len())?;
    let mut got = vec![0; want.len()];
    let mut into: Vec<_> = got.chunks_mut(701).map(IoSliceMut::new).collect();
    same("preadv", preadv(&file, &mut into, 333)?, want.len())?;
    same_bytes("content", &got, &want)?;
    let mut hole = [1; 333];
    file.read_exact_at(&mut hole, 0)?;
    same_bytes("the hole before", &hole, &[0; 333])
}

fn vectored_flags(place: &Place) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(place.path("file"))?;
    let piece = [IoSlice::new(b"synchronous")];
    same("RWF_DSYNC", pwritev2(&file, &piece, 0, ReadWriteFlags::DSYNC)?, 11)?;
    same("RWF_SYNC", pwritev2(&file, &piece, 11, ReadWriteFlags::SYNC)?, 11)?;
    same("RWF_APPEND", pwritev2(&file, &piece, 0, ReadWriteFlags::APPEND)?, 11)?;
    let mut got = [0; 40];
    same("preadv2", preadv2(&file, &mut [IoSliceMut::new(&mut got)], 0, ReadWriteFlags::empty())?, 33)?;
    same_bytes("content", got.get(..33).unwrap_or_default(), b"synchronoussynchronoussynchronous")
}

fn append(place: &Place) -> Outcome {
    let path = place.file("file", b"start,")?;
    let mut a = OpenOptions::new().append(true).open(&path)?;
    let mut b = OpenOptions::new().append(true).open(&path)?;
    for _ in 0..50 {
        a.write_all(b"a")?;
        b.write_all(b"b")?;
    }
    let want = [b"start,".to_vec(), b"ab".repeat(50)].concat();
    same_bytes("content", &fs::read(&path)?, &want)?;
    // An append after another handle has cut the file goes to the new end.
    File::options().write(true).open(&path)?.set_len(3)?;
    a.write_all(b"!")?;
    same_bytes("after truncation", &fs::read(&path)?, b"sta!")
}

fn append_pwrite(place: &Place) -> Outcome {
    // Linux appends here whatever the offset says (pwrite(2), BUGS), and so must the share.
    let path = place.file("file", b"0123456789")?;
    let file = OpenOptions::new().append(true).open(&path)?;
    file.write_all_at(b"X", 2)?;
    same_bytes("content", &fs::read(&path)?, b"0123456789X")
}

fn open_truncates(place: &Place) -> Outcome {
    let path = place.file("file", b"long content")?;
    let other = File::open(&path)?;
    let file = OpenOptions::new().write(true).truncate(true).open(&path)?;
    same("size", file.metadata()?.size(), 0)?;
    same("size by an earlier handle", other.metadata()?.size(), 0)?;
    same("nothing to read", other.read_at(&mut [0; 10], 0)?, 0)
}

fn open_flags(place: &Place) -> Outcome {
    let path = place.file("file", b"content")?;
    let mut reader = File::open(&path)?;
    refused("write to a read-only handle", reader.write(b"x"), libc::EBADF)?;
    let mut writer = OpenOptions::new().write(true).open(&path)?;
    refused("read from a write-only handle", writer.read(&mut [0; 1]), libc::EBADF)?;
    let with = |flags: i32| OpenOptions::new().read(true).custom_flags(flags).open(&path);
    refused("O_DIRECTORY of a file", with(libc::O_DIRECTORY), libc::ENOTDIR)?;
    with(libc::O_NOATIME)?;
    with(libc::O_NONBLOCK)?;
    OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(&path)?.write_all(b"durable")?;
    OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open(&path)?.write_all(b"DURABLE")?;
    std::os::unix::fs::symlink("file", place.path("link"))?;
    let link = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(place.path("link"));
    refused("O_NOFOLLOW of a link", link, libc::ELOOP)?;
    refused("writing open of a directory", OpenOptions::new().write(true).open(place.dir()), libc::EISDIR)?;
    let handle = with(libc::O_PATH)?;
    refused("read from O_PATH", handle.read_at(&mut [0; 1], 0), libc::EBADF)?;
    same_bytes("content", &fs::read(&path)?, b"DURABLE")
}

fn truncate(place: &Place) -> Outcome {
    let want = pattern(10_000, 4);
    let path = place.file("file", &want)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    file.set_len(5001)?;
    same("size", fs::metadata(&path)?.size(), 5001)?;
    file.set_len(9000)?;
    let got = fs::read(&path)?;
    same_bytes("kept", got.get(..5001).unwrap_or_default(), want.get(..5001).unwrap_or_default())?;
    same_bytes("zeroes after growing again", got.get(5001..).unwrap_or_default(), &[0; 3999])?;
    crate::sys::truncate(&path, 10)?;
    same("size by path", file.metadata()?.size(), 10)?;
    refused("of a read-only handle", File::open(&path)?.set_len(1), libc::EINVAL)
}

fn offsets_64_bit(place: &Place) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(place.path("file"))?;
    let offsets = [(1_u64 << 31) - 3, (1 << 32) - 3, (1 << 40) + 1];
    for (offset, seed) in offsets.iter().zip(10..) {
        file.write_all_at(&pattern(6, seed), *offset)?;
    }
    same("size", file.metadata()?.size(), (1 << 40) + 7)?;
    for (offset, seed) in offsets.iter().zip(10..) {
        let mut got = [0; 6];
        file.read_exact_at(&mut got, *offset)?;
        same_bytes("content", &got, &pattern(6, seed))?;
    }
    holds("sparse", file.metadata()?.blocks() < 1000)
}

fn fsync(place: &Place) -> Outcome {
    let path = place.file("file", b"content")?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.sync_all()?;
    file.sync_data()?;
    File::open(&path)?.sync_all()?;
    File::open(place.dir())?.sync_all()?;
    rustix::fs::syncfs(&file)?;
    rustix::fs::sync();
    Ok(())
}

fn two_opens(place: &Place) -> Outcome {
    let path = place.path("file");
    let writer = File::create(&path)?;
    let reader = File::open(&path)?;
    for i in 0..200_u64 {
        writer.write_all_at(&i.to_le_bytes(), i * 4093)?;
        let mut got = [0; 8];
        reader.read_exact_at(&mut got, i * 4093)?;
        same("what the other handle reads", u64::from_le_bytes(got), i)?;
    }
    Ok(())
}

fn poll(place: &Place) -> Outcome {
    use rustix::event::{PollFd, PollFlags, poll};
    let file = File::open(place.file("file", b"x")?)?;
    let mut entries = [PollFd::new(&file, PollFlags::IN | PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    same("ready descriptors", poll(&mut entries, Some(&now))?, 1)
}

fn fifo_data(place: &Place) -> Outcome {
    let path = place.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    let mut both = OpenOptions::new().read(true).write(true).open(&path)?;
    both.write_all(b"through")?;
    let mut got = [0; 7];
    both.read_exact(&mut got)?;
    same_bytes("content", &got, b"through")
}
