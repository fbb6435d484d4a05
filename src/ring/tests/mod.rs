//! Whole rings, driven from the guest's side: does a ring do what a driver may expect?

mod hostile;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::testing::*;
use super::*;
use crate::metrics::Limit;

const ENGINES: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Threads];

/// Every engine with every way to lay out and to announce chains.
fn everywhere(test: impl Fn(EngineKind, Driver)) {
    for engine in ENGINES {
        for (event_idx, indirect) in [(false, false), (false, true), (true, false), (true, true)] {
            let size = if indirect { 64 } else { 4096 };
            test(engine, Driver::new(size, event_idx, indirect));
        }
    }
}

/// A file of bytes that tell their place, and the device that serves it.
fn service(len: usize) -> (tempfile::TempDir, File, Arc<FileService>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let open = |flags| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(&path)
    };
    let file = open(0).unwrap();
    file.write_all_at(&pattern(0, len), 0).unwrap();
    let service = FileService::new(open(0).unwrap(), open(libc::O_DIRECT).ok());
    (dir, file, service)
}

fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// `len` bytes of buffers of `part` bytes with gaps of `gap`, and their addresses.
fn scatter(from: u64, len: u32, part: u32, gap: u64) -> Vec<(u64, u32)> {
    let (mut parts, mut at, mut left) = (Vec::new(), from, len);
    while left > 0 {
        let now = part.min(left);
        parts.push((at, now));
        at += u64::from(now) + gap;
        left -= now;
    }
    parts
}

fn gather(driver: &Driver, parts: &[(u64, u32)]) -> Vec<u8> {
    parts.iter().flat_map(|&(at, len)| driver.read(at, len as usize)).collect()
}

const REPLY: u64 = BUFFERS;
const REQUEST: u64 = BUFFERS + 0x1000;
const DATA: u64 = BUFFERS + 0x2000;

fn transfer(driver: &mut Driver, op: Op, offset: u64, direct: bool, parts: &[(u64, u32)]) -> (u32, Vec<u8>) {
    let len = parts.iter().map(|part| part.1).sum();
    driver.write(REQUEST, &head(op, offset, len, direct));
    let (mut readable, mut writable) = (vec![(REQUEST, 32)], vec![(REPLY, 16)]);
    if matches!(op, Op::Read) { &mut writable } else { &mut readable }.extend_from_slice(parts);
    let (_, used) = driver.one(&readable, &writable);
    (used, driver.read(REPLY, REPLY_HEAD))
}

#[test]
fn moves_every_byte_of_every_shape() {
    const FILE: usize = (6 << 20) + 1234;
    everywhere(|engine, mut driver| {
        let (_dir, file, service) = service(FILE);
        driver.start_at(u16::MAX - 3);
        let ring = driver.ring(&service, engine);
        // Offset, length, buffer size, gap: one page; odd everything; across the regions' border; more than
        // IOV_MAX buffers; 4 MiB; the end of the file; beyond it; nothing.
        let border = HIGH - 8192;
        let shapes: [(u64, u32, u64, u32, u64); 9] = [
            (4096, 4096, DATA, 4096, 0),
            (4097, 70_001, DATA + 3, 777, 5),
            (8192, 65_536, border, 65_536, 0),
            (12_288, 1500 * 512, DATA, 512, 512),
            (5, 2600 * 100, DATA + 1, 100, 1),
            (0, 4 << 20, HIGH, 4096, 4096),
            (FILE as u64 - 100, 5000, DATA, 4096, 0),
            ((6 << 20) - 4096, 16_384, DATA, 4096, 0),
            (FILE as u64 + 5, 4096, DATA, 4096, 0),
        ];
        for direct in [false, true] {
            for (offset, len, at, part, gap) in shapes {
                let parts = scatter(at, len, part, gap);
                for part in &parts {
                    driver.write(part.0, &vec![0xee; part.1 as usize]);
                }
                let (used, answer) = transfer(&mut driver, Op::Read, offset, direct, &parts);
                let expected = (FILE as u64).saturating_sub(offset).min(u64::from(len)) as usize;
                assert_eq!(answer, reply(0, expected), "{engine:?} {direct} {offset} {len}");
                assert_eq!(used as usize, REPLY_HEAD + expected);
                let got = gather(&driver, &parts);
                assert!(
                    got[..expected] == pattern(offset as usize, expected),
                    "{engine:?} {direct} {offset}"
                );
            }
            for (offset, len, at, part, gap) in shapes.into_iter().take(6) {
                let parts = scatter(at, len, part, gap);
                let mut from = offset as usize ^ 0x55_5555;
                for part in &parts {
                    driver.write(part.0, &pattern(from, part.1 as usize));
                    from += part.1 as usize;
                }
                let (used, answer) = transfer(&mut driver, Op::Write, offset, direct, &parts);
                assert_eq!((used as usize, answer), (REPLY_HEAD, reply(0, len as usize)));
                let mut got = vec![0; len as usize];
                file.read_exact_at(&mut got, offset).unwrap();
                assert!(
                    got == pattern(offset as usize ^ 0x55_5555, len as usize),
                    "{engine:?} {direct} {offset}"
                );
                file.write_all_at(&pattern(offset as usize, len as usize), offset).unwrap();
            }
        }
        assert_eq!(ring.stop().next_avail, driver.config().next_avail);
    });
}

/// Two rings append at the same time, each request in more pieces than one system call takes.
#[test]
fn an_append_in_many_pieces_is_one() {
    const PIECES: u32 = 1500;
    const EACH: u64 = 40;
    for engine in ENGINES {
        let (_dir, file, service) = service(0);
        thread::scope(|scope| {
            for mark in [0xa1_u8, 0xb2] {
                let service = &service;
                scope.spawn(move || {
                    let mut driver = Driver::new(4096, true, false);
                    let ring = driver.ring(service, engine);
                    let parts = scatter(DATA, PIECES * 64, 64, 64);
                    for _ in 0..EACH {
                        for part in &parts {
                            driver.write(part.0, &[mark; 64]);
                        }
                        let (_, answer) = transfer(&mut driver, Op::Append, 0, false, &parts);
                        assert_eq!(answer, reply(0, PIECES as usize * 64));
                    }
                    drop(ring);
                });
            }
        });
        let mut written = vec![0; 2 * EACH as usize * PIECES as usize * 64 + 1];
        let len = file.read_at(&mut written, 0).unwrap();
        assert_eq!(len, written.len() - 1);
        for (at, record) in written[..len].chunks(PIECES as usize * 64).enumerate() {
            assert!(record.iter().all(|byte| *byte == record[0]), "{engine:?}: record {at} is mixed");
        }
    }
}

/// One request at a time, at all distances, so that some find the ring asleep, some looking, and some in between.
#[test]
fn a_ring_that_polls_misses_nothing() {
    for engine in ENGINES {
        for (event_idx, limit) in [(true, 50), (false, 50), (true, 1000)] {
            let (_dir, _file, service) = service(1 << 20);
            let mut driver = Driver::new(64, event_idx, false);
            driver.options.busy_poll = Duration::from_micros(limit);
            let ring = driver.ring(&service, engine);
            for n in 0..600_u64 {
                let offset = n * 37 % 200 * 4096;
                let (used, answer) = transfer(&mut driver, Op::Read, offset, n % 3 == 0, &[(DATA, 4096)]);
                assert_eq!((used, answer), (16 + 4096, reply(0, 4096)));
                assert!(driver.read(DATA, 4096) == pattern(offset as usize, 4096));
                thread::sleep(Duration::from_micros(n % 100));
                if n % 50 == 0 {
                    driver.write(REQUEST, &head(Op::Slow, 0, 0, false));
                    assert_eq!(driver.one(&[(REQUEST, 32)], &[(REPLY, 16)]).1, 16);
                    ring.set_enabled(true).unwrap();
                }
            }
            assert_eq!(ring.stop().next_avail, driver.config().next_avail);
        }
    }
}

/// Batches of all sizes up to a full queue, at all distances.
#[test]
fn a_ring_that_rests_misses_nothing() {
    for engine in ENGINES {
        for event_idx in [true, false] {
            let (_dir, _file, service) = service(1);
            let mut driver = Driver::new(16, event_idx, false);
            driver.options.rest = Duration::from_micros(700);
            let ring = driver.ring(&service, engine);
            driver.write(REQUEST, &head(Op::Echo, 1, 2, false));
            for n in 0..200_u64 {
                let batch = 1 + n * 5 % 8;
                for _ in 0..batch {
                    driver.add(&[(REQUEST, 32)], &[(REPLY, 32)]);
                    if n % 3 == 0 {
                        driver.kick();
                    }
                }
                driver.kick();
                assert!(driver.wait(batch as usize).iter().all(|used| used.1 == 32));
                thread::sleep(Duration::from_micros(n * 13 % 900));
            }
            assert_eq!(ring.stop().next_avail, driver.config().next_avail);
        }
    }
}

/// A ring that stops while it takes requests leaves the wish for no kicks in the guest's memory; the next one takes it back.
#[test]
fn the_next_ring_asks_for_kicks() {
    for engine in ENGINES {
        let (_dir, _file, service) = service(1);
        let mut driver = Driver::new(16, false, false);
        driver.want_no_kicks();
        let ring = driver.ring(&service, engine);
        driver.write(REQUEST, &head(Op::Echo, 1, 2, false));
        // Only when it has looked, the driver makes a request available.
        let end = Instant::now() + Duration::from_secs(10);
        while !driver.is_to_kick() {
            assert!(Instant::now() < end, "{engine:?}: nobody would ever kick it");
            thread::sleep(Duration::from_millis(1));
        }
        driver.one(&[(REQUEST, 32)], &[(REPLY, 32)]);
        drop(ring);
    }
}

#[test]
fn many_requests_at_once_keep_apart() {
    for engine in ENGINES {
        let (_dir, _file, service) = service(4 << 20);
        let mut driver = Driver::new(256, true, false);
        let ring = driver.ring(&service, engine);
        for round in 0..20_u64 {
            let mut wanted = std::collections::HashMap::new();
            for n in 0..60_u64 {
                let (at, offset) = (DATA + n * 0x3000, (n * 37 + round) % 1000 * 4096);
                driver.write(at, &head(Op::Read, offset, 4096, n % 2 == 0));
                let id = driver.add(&[(at, 32)], &[(at + 64, 16), (at + 0x1000, 4096)]);
                wanted.insert(id, (at, offset));
                if n % 7 == 0 {
                    driver.kick();
                }
            }
            driver.kick();
            for (id, used) in driver.wait(60) {
                let (at, offset) = wanted.remove(&id).unwrap();
                assert_eq!((used, driver.read(at + 64, 16)), (16 + 4096, reply(0, 4096)));
                assert!(driver.read(at + 0x1000, 4096) == pattern(offset as usize, 4096));
            }
        }
        drop(ring);
    }
}

#[test]
fn answers_what_is_slow_dropped_or_panics() {
    everywhere(|engine, mut driver| {
        let (_dir, _file, service) = service(1);
        let ring = driver.ring(&service, engine);
        for (op, expected) in [
            (Op::Slow, reply(0, 7)),
            (Op::Drop, reply(libc::EIO, 0)),
            (Op::Panic, reply(libc::EIO, 0)),
            (Op::Slow, reply(0, 7)),
        ] {
            driver.write(REQUEST, &head(op, 0, 0, false));
            let (_, used) = driver.one(&[(REQUEST, 32)], &[(REPLY, 16)]);
            assert_eq!((used, driver.read(REPLY, 16)), (16, expected));
        }
        driver.write(REQUEST, &head(Op::Echo, 1, 2, true));
        let (_, used) = driver.one(&[(REQUEST, 7), (REQUEST + 7, 25)], &[(REPLY, 3), (REPLY + 3, 60)]);
        assert_eq!((used, driver.read(REPLY, 32)), (32, head(Op::Echo, 1, 2, true).to_vec()));
        // No room for the answer, nor for an errno.
        assert_eq!(driver.one(&[(REQUEST, 32)], &[(REPLY, 4)]).1, 0);
        drop(ring);
    });
}

/// As many are begun as the limit allows; the others are as soon as there is room, without another kick.
#[test]
fn what_is_in_flight_is_bounded() {
    // A head, and two parts of a chain.
    let kept_by_one = HEAD + 2 * 24;
    for (in_flight, kept_bytes) in [(2, 1 << 20), (100, kept_by_one * 2 - 1)] {
        everywhere(|engine, mut driver| {
            let (_dir, _file, service) = service(1);
            let limits = [("--requests", in_flight), ("--bytes", kept_bytes)];
            let [requests, bytes] = limits.map(|(name, max)| Arc::new(Limit::new(name, max)));
            driver.options.in_flight = Arc::clone(&requests);
            driver.options.kept_bytes = Arc::clone(&bytes);
            let ring = driver.ring(&service, engine);
            driver.write(REQUEST, &head(Op::Wait, 0, 0, false));
            for n in 0..5 {
                driver.add(&[(REQUEST, 32)], &[(REPLY + n * 16, 16)]);
            }
            driver.kick();
            service.await_waiters(2);
            // It has looked for more by then, and waits for an end now.
            assert_eq!(ring.stop(), Stopped { next_avail: 2 });
            assert_eq!(driver.unseen(), 2);
            assert!(requests.refusals() + bytes.refusals() >= 1);

            driver.wait(2);
            let ring = driver.ring(&service, engine);
            driver.write(REQUEST, &head(Op::Slow, 0, 0, false));
            assert!(driver.wait(3).iter().all(|used| used.1 == 16));
            drop(ring);
        });
    }
}

#[test]
fn stopping_answers_all_and_the_next_ring_goes_on() {
    everywhere(|engine, mut driver| {
        let (_dir, _file, service) = service(1 << 20);
        driver.start_at(65_530);
        let ring = driver.ring(&service, engine);
        driver.write(REQUEST, &head(Op::Wait, 0, 0, false));
        for n in 0..4 {
            driver.add(&[(REQUEST, 32)], &[(REPLY + n * 16, 16)]);
        }
        driver.kick();
        service.await_waiters(4);
        assert_eq!(ring.stop(), Stopped { next_avail: 65_534 });
        assert_eq!(driver.unseen(), 4, "each request in flight was answered");
        assert!(driver.wait(4).iter().all(|used| used.1 == 16));
        // Made available while nobody served; no kick reaches the new ring but the one of its start.
        driver.write(REQUEST, &head(Op::Read, 0, 4096, false));
        driver.add(&[(REQUEST, 32)], &[(REPLY, 16), (DATA, 4096)]);
        let ring = driver.ring(&service, engine);
        assert_eq!(driver.wait(1)[0].1, 16 + 4096);
        assert_eq!(ring.stop(), Stopped { next_avail: 65_535 });
    });
}

#[test]
fn memory_changes_under_load() {
    for engine in ENGINES {
        let (_dir, _file, service) = service(4 << 20);
        let mut driver = Driver::new(256, true, false);
        let ring = driver.ring(&service, engine);
        thread::scope(|scope| {
            let tables: Vec<_> = (0..50).map(|_| Arc::new(memory(&driver.file))).collect();
            let ring = &ring;
            let changer =
                scope.spawn(move || tables.into_iter().for_each(|table| ring.set_memory(table).unwrap()));
            for n in 0..400_u64 {
                let offset = n * 4096 % (4 << 20);
                let (_, answer) =
                    transfer(&mut driver, Op::Read, offset, true, &scatter(HIGH - 2048, 4096, 4096, 0));
                assert_eq!(answer, reply(0, 4096));
                assert!(driver.read(HIGH - 2048, 4096) == pattern(offset as usize, 4096));
            }
            changer.join().unwrap();
        });
        // Without its virtqueue the ring waits, and goes on when it is back.
        assert!(ring.set_memory(Arc::new(GuestMemory::default())).is_err());
        driver.add(&[(REQUEST, 32)], &[(REPLY, 16), (DATA, 4096)]);
        driver.force_kick();
        ring.set_memory(Arc::clone(&driver.memory)).unwrap();
        driver.wait(1);
        drop(ring);
    }
}

#[test]
fn a_disabled_ring_takes_nothing_until_enabled() {
    for engine in ENGINES {
        let (_dir, _file, service) = service(1);
        let mut driver = Driver::new(8, false, false);
        let ring =
            driver.try_ring(RingConfig { enabled: false, ..driver.config() }, &service, engine).unwrap();
        driver.write(REQUEST, &head(Op::Echo, 0, 0, false));
        driver.add(&[(REQUEST, 32)], &[(REPLY, 32)]);
        driver.force_kick();
        ring.set_call(None).unwrap();
        assert_eq!(driver.unseen(), 0);
        ring.set_enabled(true).unwrap();
        while driver.unseen() == 0 {
            thread::yield_now();
        }
        drop(ring);
    }
}

#[test]
fn what_is_written_is_logged() {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    for engine in ENGINES {
        let (_dir, _file, service) = service(1 << 20);
        let mut driver = Driver::new(64, true, false);
        let ring = driver.ring(&service, engine);
        let file = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 0x1_0000).unwrap();
        let log = Arc::new(DirtyLog::new(&file, 0, 0x1_0000).unwrap());
        let dirty = || {
            let mut bytes = vec![0; 0x1_0000];
            rustix::io::pread(&file, &mut bytes, 0).unwrap();
            let set = |page: &u64| bytes[usize::try_from(page / 8).unwrap()] >> (page % 8) & 1 == 1;
            (0..0x8_0000_u64).filter(set).collect::<Vec<u64>>()
        };
        transfer(&mut driver, Op::Read, 0, false, &[(DATA, 4096)]);
        assert!(dirty().is_empty());
        ring.set_dirty_log(Some(log)).unwrap();
        transfer(&mut driver, Op::Read, 0, true, &[(DATA + 1, 4096), (DATA + 0x5000, 10)]);
        ring.set_dirty_log(None).unwrap();
        let data = DATA >> 12;
        let expected = [(RINGS >> 12) + 0xa0, REPLY >> 12, data, data + 1, data + 5];
        assert_eq!(dirty(), expected);
        drop(ring);
    }
}

#[test]
fn refuses_what_is_no_virtqueue() {
    let (_dir, _file, service) = service(1);
    let driver = Driver::new(8, true, true);
    let good = driver.config();
    let bad = [
        RingConfig { size: 0, ..good.clone() },
        RingConfig { size: 24, ..good.clone() },
        RingConfig { descriptors: good.descriptors + 8, ..good.clone() },
        RingConfig { available: good.available + 1, ..good.clone() },
        RingConfig { used: good.used + 2, ..good.clone() },
        RingConfig { used: good.descriptors + (1 << 20) - 4, ..good.clone() },
        RingConfig { available: u64::MAX - 1, ..good.clone() },
    ];
    for config in bad {
        let error = driver.try_ring(config.clone(), &service, EngineKind::Auto).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{config:?}");
    }
}
