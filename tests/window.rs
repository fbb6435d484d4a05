//! The window as a disk: a synthetic front-end on one side, files that are granted in this process on the other.
#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod frontend;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use extentfsd::extents::{Access, HostFile, Identity, Region, Window};
use extentfsd::ring::EngineKind;
use frontend::GuestConfig;
use frontend::disk::{
    DISCARD, Disk, FLUSH, GET_ID, IN, IOERR, OK, OUT, UNANSWERED, UNSUPP, WRITE_ZEROES, head, host_file,
    range,
};
use frontend::ram::BASE;
use tempfile::TempDir;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

const ENGINES: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Threads];

fn window(read_only: bool) -> Arc<Window> {
    Arc::new(Window::new(Identity::new(b"efs-test", 512, read_only)))
}

struct Backing {
    _dir: TempDir,
    path: PathBuf,
    file: File,
    contents: Vec<u8>,
}

impl Backing {
    fn new(len: usize) -> Self {
        // Where direct I/O is to be had, which a tmpfs may not have.
        let dir = TempDir::new_in("/var/tmp").unwrap();
        let path = dir.path().join("file");
        let contents: Vec<u8> = (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Self { _dir: dir, path, file, contents }
    }

    fn host_file(&self, direct: bool) -> Arc<dyn HostFile> {
        host_file(&self.path, direct)
    }

    fn grant(&self, window: &Window, key: u64, access: Access) -> Region {
        let size = self.contents.len() as u64;
        window.grant(key, &self.host_file(true), size, 0, access).unwrap()
    }
}

#[test]
fn a_monitor_learns_what_kind_of_disk_it_is() {
    for read_only in [false, true] {
        let mut disk = Disk::plain(&window(read_only));
        let frontend = &mut disk.guest.frontend;
        assert_eq!(frontend.get_queue_num().unwrap(), 2);
        let flags = VhostUserConfigFlags::WRITABLE;
        let (_, space) = frontend.get_config(0, 60, flags, &[0; 60]).unwrap();
        assert_eq!(u64::from_le_bytes(space[..8].try_into().unwrap()), 1 << 53, "sectors");
        assert_eq!(u16::from_le_bytes([space[34], space[35]]), 2, "queues");
        // Changes are refused, and do no harm.
        frontend.set_config(32, flags, &[0]).unwrap_err();
        let features = vhost::VhostBackend::get_features(frontend).unwrap();
        let bits = [2, 5, 6, 9, 10, 12, 13, 14].map(|bit| features >> bit & 1 == 1);
        // SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES.
        assert_eq!(bits, [true, read_only, true, true, true, true, !read_only, !read_only]);
        assert_eq!(features >> 11 & 1, 0, "no CONFIG_WCE");
        let (status, id, used) = disk.ask(1, &head(GET_ID, 0), &[], 20);
        assert_eq!((status, &id[..9], used), (OK, &b"efs-test\0"[..], 21));
        disk.detach();
    }
}

#[test]
fn files_are_read_and_overwritten_by_every_kind_of_ring() {
    const LEN: usize = (1 << 20) + 1000;
    for engine in ENGINES {
        for (event_idx, indirect) in [(false, false), (true, true)] {
            let window = window(false);
            let mut backing = Backing::new(LEN);
            let region = backing.grant(&window, 7, Access::Write);
            let config = GuestConfig { event_idx, indirect, queue_size: 512, ..GuestConfig::default() };
            let mut disk = Disk::attach(&window, engine, config);
            let at = |offset: usize| region.address + offset as u64;
            for (offset, len) in [(0, 4096), (512, 512), (4096, 1 << 19), (LEN - 1000, 512), (8192, 1536)] {
                assert!(disk.read(at(offset), len).unwrap() == backing.contents[offset..offset + len]);
            }
            for (offset, len) in [(4096, 4096), (512, 1024), (65536, 1 << 19), (LEN - 1000, 512)] {
                let data: Vec<u8> = (0..len).map(|at| (at * 7 + offset) as u8).collect();
                assert_eq!(disk.write(at(offset), &data), OK);
                backing.contents[offset..offset + len].copy_from_slice(&data);
                assert!(disk.read(at(offset), len).unwrap() == data);
            }
            assert_eq!(disk.ask(0, &head(FLUSH, 0), &[], 0).0, OK);
            assert!(std::fs::read(&backing.path).unwrap() == backing.contents);
            disk.detach();
        }
    }
}

#[test]
fn behind_the_end_of_a_file_and_where_no_region_can_be_there_are_zeroes() {
    for engine in ENGINES {
        let window = window(false);
        let backing = Backing::new(5000);
        let region = backing.grant(&window, 7, Access::Read);
        let mut disk = Disk::attach(&window, engine, GuestConfig::default());
        for (offset, len) in [(0, 8192), (4096, 4096), (4608, 512), (4096, 40_960), (8192, 4096), (5120, 512)]
        {
            let mut expected = backing.contents[offset.min(5000)..5000.min(offset + len)].to_vec();
            expected.resize(len, 0);
            assert!(disk.read(region.address + offset as u64, len).unwrap() == expected, "{offset}, {len}");
        }
        let end = window.identity().size;
        for address in [0, 4096, 63 << 20, end - (1 << 20), end - 4096] {
            assert_eq!(disk.read(address, 4096), Ok(vec![0; 4096]), "{address:#x}");
            assert_eq!(disk.write(address, &[1; 4096]), IOERR, "{address:#x}");
        }
        for address in [region.address + region.length, 1 << 50] {
            assert_eq!(disk.read(address, 4096), Err(IOERR), "{address:#x}");
        }
        assert_eq!(disk.read(end, 512), Err(IOERR));
        assert_eq!(disk.read(end - 512, 1024), Err(IOERR));
        assert_eq!(disk.read(region.address + region.length - 512, 1024), Err(IOERR), "across the end");
        disk.detach();
    }
}

#[test]
fn only_what_is_granted_and_there_is_written() {
    let window = window(false);
    let backing = Backing::new(9000);
    let region = backing.grant(&window, 7, Access::Read);
    let mut disk = Disk::plain(&window);
    assert_eq!(disk.write(region.address, &[1; 512]), IOERR, "a grant to read");
    let granted = backing.grant(&window, 7, Access::Write);
    assert_eq!(granted.address, region.address);
    for (offset, len) in [(8704, 512), (8192, 4096), (9216, 512), (1 << 20, 512), (0, 16384)] {
        assert_eq!(disk.write(region.address + offset, &vec![1; len]), IOERR, "{offset}, {len}");
        assert!(std::fs::read(&backing.path).unwrap() == backing.contents, "{offset}, {len}");
    }
    assert_eq!(disk.write(region.address + 8192, &[1; 512]), OK);
    window.end_writes(7);
    assert_eq!(disk.write(region.address, &[1; 512]), IOERR);
    assert_eq!(disk.read(region.address, 512).unwrap(), backing.contents[..512]);
    window.revoke(7);
    assert_eq!(disk.read(region.address, 512), Err(IOERR));
    // The same file again is elsewhere, and the old addresses stay dead.
    let again = backing.grant(&window, 7, Access::Write);
    assert!(again.address >= region.address + region.length);
    assert_eq!(disk.write(region.address, &[1; 512]), IOERR);
    assert_eq!(disk.write(again.address, &[1; 512]), OK);
    window.revoke_all();
    assert_eq!(disk.write(again.address, &[1; 512]), IOERR);
    disk.detach();
}

#[test]
fn ranges_are_cleared_and_the_size_stays() {
    let window = window(false);
    let backing = Backing::new(64 << 10);
    let region = backing.grant(&window, 7, Access::Write);
    let mut disk = Disk::plain(&window);
    let mut ask = |request: &[u8]| {
        let (status, _, used) = disk.ask(0, request, &[], 0);
        assert_eq!(used, 1);
        status
    };
    assert_eq!(ask(&range(DISCARD, region.address, 8192, 0)), OK);
    assert_eq!(ask(&range(WRITE_ZEROES, region.address + 16384, 4096, 0)), OK);
    assert_eq!(ask(&range(WRITE_ZEROES, region.address + 32768, 4096, 1)), OK);
    assert_eq!(ask(&range(WRITE_ZEROES, region.address + 61440, 8192, 0)), IOERR, "behind the end");
    assert_eq!(ask(&range(DISCARD, region.address - 512, 1024, 0)), IOERR);
    assert_eq!(ask(&range(DISCARD, region.address, 512, 1)), UNSUPP);
    assert_eq!(ask(&head(DISCARD, 0)), UNSUPP, "no range");
    let two = [range(DISCARD, region.address, 512, 0), vec![0; 16]].concat();
    assert_eq!(ask(&two), UNSUPP, "two ranges");
    assert_eq!(ask(&head(FLUSH, 0)), OK);
    let mut expected = backing.contents.clone();
    for cleared in [0..8192, 16384..20480, 32768..36864] {
        expected[cleared].fill(0);
    }
    assert!(std::fs::read(&backing.path).unwrap() == expected);
    disk.detach();
}

#[test]
fn nothing_is_written_through_a_read_only_disk() {
    let window = window(true);
    let backing = Backing::new(8192);
    assert_eq!(window.grant(7, &backing.host_file(true), 8192, 0, Access::Write), None);
    let region = backing.grant(&window, 7, Access::Read);
    let mut disk = Disk::plain(&window);
    assert_eq!(disk.write(region.address, &[1; 512]), IOERR);
    assert_eq!(disk.ask(0, &range(DISCARD, region.address, 512, 0), &[], 0).0, IOERR);
    assert!(disk.read(region.address, 8192).unwrap() == backing.contents);
    assert_eq!(disk.ask(0, &head(FLUSH, 0), &[], 0).0, OK);
    disk.detach();
}

#[test]
fn what_is_no_request_of_a_disk_costs_itself_only() {
    for engine in ENGINES {
        let window = window(false);
        let backing = Backing::new(8192);
        let region = backing.grant(&window, 7, Access::Write);
        let mut disk = Disk::attach(&window, engine, GuestConfig::default());
        let valid = head(IN, region.address);
        let ram = &mut disk.guest.ram;
        let (header, data, status) = (ram.alloc(64), ram.alloc(8192), ram.alloc(16));
        let hole = BASE - 8192;
        type Chain<'a> = &'a [(u64, u32, bool)];
        let out = head(OUT, region.address);
        // The header's bytes, the chain, the used length and the status.
        let cases: [(&str, &[u8], Chain<'_>, u32, u8); 14] = [
            ("no status", &valid, &[(header, 16, false)], 0, UNANSWERED),
            ("data to write but no status", &out, &[(header, 16, false), (data, 512, false)], 0, UNANSWERED),
            ("half a header", &valid[..8], &[(header, 8, false), (status, 1, true)], 1, IOERR),
            ("no header", &[], &[(status, 1, true)], 1, IOERR),
            ("an unknown type", &head(99, 0), &[(header, 16, false), (status, 1, true)], 1, UNSUPP),
            ("odd length", &valid, &[(header, 16, false), (data, 511, true), (status, 1, true)], 0, IOERR),
            ("odd write", &out, &[(header, 16, false), (data, 100, false), (status, 1, true)], 1, IOERR),
            (
                "a read's data readable",
                &valid,
                &[(header, 16, false), (data, 512, false), (status, 1, true)],
                1,
                IOERR,
            ),
            (
                "a write's data writable",
                &out,
                &[(header, 16, false), (data, 512, true), (status, 1, true)],
                0,
                IOERR,
            ),
            ("data nowhere", &valid, &[(header, 16, false), (hole, 512, true), (status, 1, true)], 0, IOERR),
            ("data nowhere", &out, &[(header, 16, false), (hole, 512, false), (status, 1, true)], 1, IOERR),
            (
                "status nowhere",
                &valid,
                &[(header, 16, false), (data, 512, true), (hole, 1, true)],
                0,
                UNANSWERED,
            ),
            (
                "zeroes nowhere",
                &head(IN, 0),
                &[(header, 16, false), (hole, 512, true), (status, 1, true)],
                0,
                IOERR,
            ),
            (
                "a huge id",
                &head(GET_ID, 0),
                &[(header, 16, false), (data, 8192, true), (status, 1, true)],
                0,
                IOERR,
            ),
        ];
        for (what, bytes, chain, used, expected) in cases {
            disk.guest.ram.write(header, bytes);
            disk.guest.ram.write(status, &[UNANSWERED]);
            disk.guest.offer(0, chain);
            assert_eq!(disk.guest.take_used(0).1, used, "{what}");
            assert_eq!(disk.guest.ram.read(status, 1), [expected], "{what}");
        }
        // A header in pieces, data and status in one buffer.
        disk.guest.ram.write(header, &valid);
        disk.guest.offer(0, &[(header, 3, false), (header + 3, 13, false), (data, 1025, true)]);
        assert_eq!(disk.guest.take_used(0).1, 1025);
        let answer = disk.guest.ram.read(data, 1025);
        assert!(answer[..1024] == backing.contents[..1024] && answer[1024] == OK);
        assert!(std::fs::read(&backing.path).unwrap() == backing.contents);
        disk.detach();
    }
}

/// Who cuts a file inside a fence finds it as long as he left it: no write that was in flight makes it longer again.
#[test]
fn no_write_passes_a_fence() {
    for engine in ENGINES {
        let window = window(false);
        let backing = Backing::new(64 << 10);
        let region = backing.grant(&window, 7, Access::Write);
        let over = Arc::new(AtomicBool::new(false));
        let guest = {
            let (window, over) = (Arc::clone(&window), Arc::clone(&over));
            thread::spawn(move || {
                let mut disk =
                    Disk::attach(&window, engine, GuestConfig { queue_size: 256, ..GuestConfig::default() });
                let (mut written, mut refused) = (0_u32, 0_u32);
                while !over.load(Ordering::Relaxed) {
                    let mark = disk.guest.ram.mark();
                    let placed: Vec<_> = (0..16)
                        .map(|i| {
                            disk.offer(
                                i as usize % 2,
                                &head(OUT, region.address + i * 4096),
                                &[i as u8; 4096],
                                0,
                                4096,
                            )
                        })
                        .collect();
                    disk.wait(0, 8);
                    disk.wait(1, 8);
                    for placed in placed {
                        match disk.status(placed) {
                            OK => written += 1,
                            IOERR => refused += 1,
                            other => panic!("status {other}"),
                        }
                    }
                    disk.guest.ram.rewind(mark);
                }
                disk.detach();
                (written, refused)
            })
        };
        for _ in 0..150 {
            let fence = window.fence(7);
            backing.file.set_len(10_000).unwrap();
            thread::yield_now();
            assert_eq!(backing.file.metadata().unwrap().len(), 10_000);
            drop(fence);
            thread::sleep(Duration::from_micros(300));
            assert_eq!(backing.file.metadata().unwrap().len(), 10_000, "a write made it longer");
            backing.file.set_len(64 << 10).unwrap();
            thread::sleep(Duration::from_micros(300));
        }
        over.store(true, Ordering::Relaxed);
        let (written, refused) = guest.join().unwrap();
        assert!(written > 0 && refused > 0, "{written} written, {refused} refused: no race");
    }
}

#[test]
fn a_request_waits_for_a_fence_and_a_stopped_queue_for_the_request() {
    let window = window(false);
    let backing = Backing::new(8192);
    let region = backing.grant(&window, 7, Access::Write);
    let other = Backing::new(8192);
    let free = other.grant(&window, 8, Access::Write);
    let mut disk = Disk::plain(&window);
    thread::scope(|scope| {
        let fence = window.fence(7);
        let write = disk.offer(0, &head(OUT, region.address), &[1; 4096], 0, 4096);
        let zeroes = disk.offer(0, &range(WRITE_ZEROES, region.address + 4096, 4096, 0), &[], 0, 4096);
        // Other files are not held up, nor is the same queue.
        let read = disk.offer(0, &head(IN, free.address), &[], 4096, 4096);
        disk.guest.take_used(0);
        assert_eq!(
            (disk.status(read), disk.status(write), disk.status(zeroes)),
            (OK, UNANSWERED, UNANSWERED)
        );
        assert!(std::fs::read(&backing.path).unwrap() == backing.contents);
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(fence);
        });
        // GET_VRING_BASE answers when all is answered.
        let base = disk.guest.stop_queue(0);
        assert_eq!((base, disk.status(write), disk.status(zeroes)), (3, OK, OK));
        assert_eq!(std::fs::read(&backing.path).unwrap(), [[1; 4096], [0; 4096]].concat());
        disk.wait(0, 2);
        disk.guest.start_queue(0, base);

        // One that finds no file any more when the fence is gone.
        let fence = window.fence(7);
        let write = disk.offer(0, &head(OUT, region.address), &[2; 4096], 0, 4096);
        window.revoke(7);
        drop(fence);
        disk.guest.take_used(0);
        assert_eq!(disk.status(write), IOERR);
    });
    disk.detach();
}

#[test]
fn a_monitor_that_comes_back_finds_the_same_window() {
    let window = window(false);
    let backing = Backing::new(8192);
    let region = backing.grant(&window, 7, Access::Write);
    for round in 0..5_u8 {
        let mut disk = Disk::plain(&window);
        assert_eq!(disk.write(region.address, &[round; 512]), OK);
        assert_eq!(disk.read(region.address, 512), Ok(vec![round; 512]));
        if round % 2 == 0 {
            // It goes while requests are in flight.
            for _ in 0..8 {
                disk.offer(1, &head(IN, region.address), &[], 4096, 4096);
            }
        }
        disk.detach();
        // Whatever it left is over: nobody is inside.
        drop(window.fence(7));
    }
}

#[test]
fn two_queues_are_served_side_by_side() {
    for engine in ENGINES {
        let window = window(false);
        let backing = Backing::new(1 << 20);
        let region = backing.grant(&window, 7, Access::Write);
        let mut disk =
            Disk::attach(&window, engine, GuestConfig { queue_size: 256, ..GuestConfig::default() });
        let mut expected = backing.contents.clone();
        for round in 0..20 {
            let mark = disk.guest.ram.mark();
            let mut placed = Vec::new();
            for i in 0..32_usize {
                let offset = i * 4096;
                if i % 4 < 2 {
                    let data = vec![(round * 32 + i) as u8; 4096];
                    expected[offset..offset + 4096].copy_from_slice(&data);
                    placed.push((
                        disk.offer(i % 2, &head(OUT, region.address + offset as u64), &data, 0, 4096),
                        None,
                    ));
                } else {
                    let read = disk.offer(i % 2, &head(IN, region.address + offset as u64), &[], 4096, 1024);
                    placed.push((read, Some(offset)));
                }
            }
            disk.wait(0, 16);
            disk.wait(1, 16);
            for (placed, offset) in placed {
                assert_eq!(disk.status(placed), OK);
                if let Some(offset) = offset {
                    let read = disk.guest.ram.read(placed.place, 4096);
                    assert!(read == expected[offset..offset + 4096]);
                }
            }
            disk.guest.ram.rewind(mark);
        }
        assert!(std::fs::read(&backing.path).unwrap() == expected);
        disk.detach();
    }
}

/// `VFS_CAP_REVISION_2` with `CAP_NET_RAW` permitted and effective (`linux/capability.h`).
const FILE_CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// As after an ordinary user's write(2): set-ID bits and file capabilities are gone, whichever thread wrote.
#[test]
fn a_write_takes_privileges_away() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root keeps set-ID bits over a write of its own");
        return;
    }
    for engine in ENGINES {
        let window = window(false);
        let mut disk = Disk::attach(&window, engine, GuestConfig::default());
        for direct in [false, true] {
            for (key, kind) in [(1, OUT), (2, DISCARD), (3, WRITE_ZEROES)] {
                let backing = Backing::new(64 << 10);
                let mode = || backing.file.metadata().unwrap().permissions().mode() & 0o7777;
                let capability = || {
                    let mut value = [0_u8; 32];
                    rustix::fs::fgetxattr(&backing.file, "security.capability", &mut value)
                };
                backing.file.set_permissions(PermissionsExt::from_mode(0o6755)).unwrap();
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::fsetxattr(&backing.file, "security.capability", &FILE_CAPABILITY, flags).unwrap();
                // This thread has the right to keep the set-ID bits (the capability goes in any case).
                backing.file.write_at(b"x", 0).unwrap();
                assert_eq!(mode(), 0o6755, "no test: they went by themselves");
                rustix::fs::fsetxattr(&backing.file, "security.capability", &FILE_CAPABILITY, flags).unwrap();
                capability().unwrap();

                let file = backing.host_file(direct);
                let region = window.grant(key, &file, 64 << 10, 0, Access::Write).unwrap();
                if kind == OUT {
                    assert_eq!(disk.write(region.address, &[1; 4096]), OK);
                } else {
                    let request = range(kind, region.address, 4096, 0);
                    assert_eq!(disk.ask(0, &request, &[], 0).0, OK);
                }
                assert_eq!(mode(), 0o755, "{engine:?}, direct: {direct}, type {kind}");
                capability().unwrap_err();

                backing.file.set_permissions(PermissionsExt::from_mode(0o6755)).unwrap();
                // Of several at a time some are moved by other threads.
                let pack: Vec<_> = (0..8)
                    .map(|i| disk.offer(0, &head(OUT, region.address + i * 4096), &[2; 4096], 0, 4096))
                    .collect();
                disk.wait(0, 8);
                assert!(pack.iter().all(|placed| disk.status(*placed) == OK));
                assert_eq!(mode(), 0o755, "{engine:?}, direct: {direct}, a pack");
                window.revoke(key);
            }
        }
        disk.detach();
    }
}
