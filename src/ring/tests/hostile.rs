//! Does a guest that breaks the rules harm nothing but its own requests?

use super::*;

/// Descriptors, tables and heads are destroyed in guest memory as soon as they were copied out of it: an answer can be right
/// only where nothing is read a second time.
#[test]
fn what_was_read_of_guest_memory_is_never_read_again() {
    const FILE: usize = 100_000;
    everywhere(|engine, mut driver| {
        let (_dir, file, service) = service(FILE);
        let service = service.burning();
        let ring = driver.ring(&service, engine);
        // A head in pieces, the first ending before the length is known.
        let mut request = head(Op::Echo, 1, 2, false).to_vec();
        request.extend(pattern(7, 5000));
        let readable = scatter(DATA, 5032, 20, 3);
        for (at, part) in readable.iter().zip(request.chunks(20)) {
            driver.write(at.0, part);
        }
        let (index, used) = driver.one(&readable[..60], &[(REPLY, 8000)]);
        assert_eq!((used, driver.read(REPLY, 1200)), (1200, request[..1200].to_vec()), "{engine:?}");
        assert!(gather(&driver, &readable[..60]).iter().all(|byte| *byte == 0xff), "the head did not burn");
        let at = if driver.is_indirect() {
            LOW + u64::from(index) * 0x1_0000
        } else {
            RINGS + u64::from(index) * 16
        };
        assert_eq!(driver.read(at, 16), [0xff; 16], "the descriptor did not burn");
        assert_eq!(driver.read(RINGS + 0x8_0000 + 4, 2), [0xff; 2], "the element did not burn");
        // Moved bytes are where the descriptors said.
        let parts = scatter(DATA, 30_000, 1000, 24);
        let (used, answer) = transfer(&mut driver, Op::Read, 5, false, &parts);
        assert_eq!((used as usize, answer), (REPLY_HEAD + 30_000, reply(0, 30_000)));
        assert!(gather(&driver, &parts) == pattern(5, 30_000), "{engine:?}");
        let (_, answer) = transfer(&mut driver, Op::Write, 50_000, false, &parts);
        assert_eq!(answer, reply(0, 30_000));
        let mut written = vec![0; 30_000];
        file.read_exact_at(&mut written, 50_000).unwrap();
        assert!(written == pattern(5, 30_000), "{engine:?}");
        // An append in more pieces than one system call takes is copied, and then burns, too.
        if driver.size > 2000 {
            let parts = scatter(DATA, 1500 * 10, 10, 2);
            for (n, part) in parts.iter().enumerate() {
                driver.write(part.0, &pattern(n * 10, 10));
            }
            let (_, answer) = transfer(&mut driver, Op::Append, 0, false, &parts);
            assert_eq!(answer, reply(0, 15_000));
            let mut written = vec![0; 15_000];
            file.read_exact_at(&mut written, FILE as u64).unwrap();
            assert!(written == pattern(0, 15_000), "{engine:?}");
            assert!(gather(&driver, &parts).iter().all(|byte| *byte == 0xff));
        }
        // What is served elsewhere takes the copy along.
        driver.write(REQUEST, &head(Op::Slow, 0, 0, false));
        assert_eq!(driver.one(&[(REQUEST, 32)], &[(REPLY, 16)]).1, 16);
        assert_eq!(driver.read(REPLY, 16), reply(0, 7));
        ring.stop();
    });
}

#[test]
fn what_is_not_mapped_is_an_errno() {
    everywhere(|engine, mut driver| {
        let (_dir, _file, service) = service(1);
        let ring = driver.ring(&service, engine);
        let hole = HIGH + HIGH_SIZE - 4096;
        for (op, expected) in [(Op::Write, libc::EFAULT), (Op::Echo, libc::EFAULT)] {
            driver.write(REQUEST, &head(op, 0, 8192, false));
            let (_, used) = driver.one(&[(REQUEST, 32), (hole, 8192)], &[(REPLY, 16)]);
            assert_eq!((used, driver.read(REPLY, 16)), (16, reply(expected, 0)));
        }
        driver.write(REQUEST, &head(Op::Read, 0, 8192, false));
        let (_, used) = driver.one(&[(REQUEST, 32)], &[(REPLY, 16), (0x10, 8192)]);
        assert_eq!((used, driver.read(REPLY, 16)), (16, reply(libc::EFAULT, 0)));
        // The head, and the place for the answer.
        assert_eq!(driver.one(&[(0x10, 32)], &[(REPLY, 16)]).1, 0);
        driver.write(REQUEST, &head(Op::Echo, 0, 0, false));
        assert_eq!(driver.one(&[(REQUEST, 32)], &[(u64::MAX - 3, 16)]).1, 0);
        // A payload shorter than the device believes.
        driver.write(REQUEST, &head(Op::Write, 0, 8192, false));
        driver.one(&[(REQUEST, 32), (DATA, 8191)], &[(REPLY, 16)]);
        assert_eq!(driver.read(REPLY, 16), reply(libc::EINVAL, 0));
        drop(ring);
    });
}

#[test]
fn hostile_chains_cost_themselves_only() {
    const TABLE: u64 = LOW + 0x1_0000;
    for engine in ENGINES {
        let (_dir, _file, service) = service(1);
        let mut driver = Driver::new(8, true, true);
        let ring = driver.ring(&service, engine);
        let direct = |driver: &Driver, index: u64, address, len, flags, next| {
            driver.descriptor(RINGS + index * 16, address, len, flags, next);
        };
        type Lay<'a> = &'a dyn Fn(&Driver);
        let cases: [(&str, Lay<'_>); 10] = [
            ("loop", &|d| {
                direct(d, 3, DATA, 8, 1, 4);
                direct(d, 4, DATA, 8, 1, 3);
            }),
            ("next out of the table", &|d| direct(d, 3, DATA, 8, 1, 8)),
            ("readable after writable", &|d| {
                direct(d, 3, DATA, 8, 3, 4);
                direct(d, 4, DATA, 8, 0, 0);
            }),
            ("too long", &|d| {
                direct(d, 3, DATA, u32::MAX, 1, 4);
                direct(d, 4, DATA, 1, 0, 0);
            }),
            ("odd table", &|d| direct(d, 3, TABLE, 24, 4, 0)),
            ("empty table", &|d| direct(d, 3, TABLE, 0, 4, 0)),
            ("huge table", &|d| direct(d, 3, TABLE, 0xffff_fff0, 4, 0)),
            ("table with next", &|d| direct(d, 3, TABLE, 16, 5, 4)),
            ("table nowhere", &|d| direct(d, 3, 0x10, 16, 4, 0)),
            ("table in a table", &|d| {
                direct(d, 3, TABLE, 16, 4, 0);
                d.descriptor(TABLE, TABLE, 16, 4, 0);
            }),
        ];
        for (name, lay) in cases {
            lay(&driver);
            driver.offer(3);
            driver.kick();
            assert_eq!(driver.wait(1), [(3, 0)], "{name}");
        }
        // A head outside the table.
        driver.offer(8);
        driver.kick();
        // The driver's own book-keeping knows no such head: look at the index alone.
        while driver.unseen() == 0 {
            thread::yield_now();
        }
        drop(ring);
    }
}

#[test]
fn an_empty_descriptor_is_no_fault_and_a_loop_in_a_table_is() {
    let (_dir, _file, service) = service(1);
    let mut driver = Driver::new(8, false, true);
    let ring = driver.ring(&service, EngineKind::Auto);
    driver.write(REQUEST, &head(Op::Echo, 0, 0, false));
    assert_eq!(driver.one(&[(REQUEST, 0), (REQUEST, 32), (0, 0)], &[(REPLY, 0), (REPLY, 32)]).1, 32);
    let table = LOW + 0x1_0000;
    driver.descriptor(table, DATA, 8, 1, 1);
    driver.descriptor(table + 16, DATA, 8, 1, 0);
    driver.descriptor(RINGS + 16, table, 32, 4, 0);
    driver.offer(1);
    driver.kick();
    assert_eq!(driver.wait(1), [(1, 0)]);
    drop(ring);
}

#[test]
fn a_runaway_index_breaks_its_ring_and_nothing_else() {
    for engine in ENGINES {
        let (_dir, _file, service) = service(1);
        let driver = Driver::new(8, true, false);
        let ring = driver.ring(&service, engine);
        driver.claim(9);
        driver.force_kick();
        ring.set_enabled(true).unwrap();
        assert_eq!(ring.stop(), Stopped { next_avail: 0 });
        assert_eq!(driver.unseen(), 0);
    }
}
