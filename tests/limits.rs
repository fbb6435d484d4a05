//! What a guest may pile up: open files and known nodes. The daemon stays within its bounds, says so with
//! an errno, and serves on.
#![allow(clippy::cast_possible_truncation, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod frontend;

use std::fs::File;

use frontend::fuse::{self, Body, Client, ROOT};
use frontend::{Daemon, Guest, GuestConfig};

/// Descriptors that the daemon may keep beside those of open files: rings, eventfds, sockets and the
/// bounded cache of hot ones.
const DESCRIPTORS_BESIDE_FILES: usize = 5000;

fn mounted(daemon: &Daemon) -> Client {
    Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()))
}

#[test]
fn opens_up_to_the_limit_of_descriptors_then_enfile_then_opens_again() {
    let daemon = Daemon::start(&["--sandbox", "none", "--rlimit-nofile", "3000"]);
    let mut client = mounted(&daemon);
    let (node, first) = client.create(ROOT, "file").expect("CREATE");
    let mut open = vec![first];
    let refused = loop {
        match client.open(node, libc::O_RDWR) {
            Ok(fh) => open.push(fh),
            Err(errno) => break errno,
        }
        assert!(open.len() < 10_000, "no limit was reached");
    };
    assert_eq!(refused, libc::ENFILE);
    assert!(open.len() > 1000, "only {} files could be opened", open.len());
    // All else goes on at the limit: names, new directories, data.
    client.lookup(ROOT, "file").expect("LOOKUP at the limit");
    client.mkdir(ROOT, "directory").expect("MKDIR at the limit");
    client.write(node, first, 0, b"data").expect("WRITE at the limit");
    for fh in open.drain(1..) {
        client.release(node, fh).expect("RELEASE");
    }
    client.open(node, libc::O_RDWR).expect("OPEN after the releases");
}

/// A guest that takes descriptors in every way there is takes none that a message of its front-end needs.
#[test]
fn what_a_guest_piles_up_leaves_the_front_end_its_descriptors() {
    let options =
        ["--sandbox", "none", "--rlimit-nofile", "3000", "--inode-file-handles=never", "--posix-lock"];
    let daemon = Daemon::start(&options);
    for i in 0..3000 {
        File::create(daemon.share().join(format!("f{i}"))).expect("host file");
    }
    let mut client = mounted(&daemon);
    let (node, fh) = client.create(ROOT, "file").expect("CREATE");
    client.write(node, fh, 0, &[7; 4096]).expect("WRITE");
    let open: Vec<u64> =
        (0..700).map(|_| client.open(node, libc::O_RDWR | libc::O_DIRECT).expect("OPEN")).collect();
    for fh in &open {
        let body = Body::new().u64(*fh).u64(0).u32(4096).u32(0).u64(0).u32(libc::O_DIRECT as u32).u32(0);
        client.call(fuse::READ, node, body, 4096).expect("READ");
    }
    for owner in 0..400 {
        let body = Body::new().u64(fh).u64(owner).u64(owner).u64(owner).u32(1).u32(1).u32(0).u32(0);
        client.call(fuse::SETLK, node, body, 0).expect("SETLK");
    }
    let refused = (0..3000).find_map(|i| client.lookup(ROOT, &format!("f{i}")).err());
    assert_eq!(refused, Some(libc::ENFILE));
    let refused = (0..3000).find_map(|_| client.open(node, libc::O_RDWR).err());
    assert_eq!(refused, Some(libc::ENFILE));
    assert!(daemon.descriptors() < 2500, "{} of 3000", daemon.descriptors());
    // Messages with descriptors.
    let base = client.guest.stop_queue(1);
    client.guest.start_queue(1, base);
    client.write(node, fh, 0, b"data").expect("WRITE on the queue that goes on");
    assert_eq!(client.read(node, fh, 0, 4).expect("READ"), b"data");
}

#[test]
fn two_hundred_thousand_open_files() {
    let daemon = Daemon::start(&["--sandbox", "none"]);
    let mut client = mounted(&daemon);
    let (node, first) = client.create(ROOT, "file").expect("CREATE");
    for i in 0..200_000 {
        match client.open(node, libc::O_RDWR) {
            Ok(_) => {}
            // A host that allows fewer descriptors: the daemon has said at its start how many.
            Err(libc::ENFILE) if i > 1000 => break,
            Err(errno) => panic!("open {i}: errno {errno}"),
        }
    }
    client.write(node, first, 0, b"data").expect("WRITE");
    assert!(daemon.resident_kib() < 400 << 10, "{} KiB", daemon.resident_kib());
}

#[test]
fn many_known_names_cost_little_memory_and_few_descriptors() {
    let mut share = Names::new("--inode-file-handles=prefer");
    let before = share.daemon.resident_kib();
    for i in 0..FILES {
        // Without CAP_DAC_READ_SEARCH the daemon falls back to a descriptor a node, of which there are few.
        match share.look_up(i) {
            Err(errno) if !rustix::process::geteuid().is_root() => assert_eq!(errno, libc::ENFILE),
            answer => answer.expect("LOOKUP"),
        }
    }
    let grown = share.daemon.resident_kib().saturating_sub(before);
    assert!(grown < 48 << 10, "{FILES} nodes took {grown} KiB");
    share.forget_all();
}

#[test]
fn known_names_up_to_the_limit_of_descriptors_then_an_error_then_names_again() {
    let mut share = Names::new("--inode-file-handles=never");
    let refused = (0..FILES).find_map(|i| share.look_up(i).err());
    assert!([None, Some(libc::ENFILE)].contains(&refused), "errno {refused:?}");
    share.forget_all();
}

const FILES: usize = 60_000;

/// A share with many files, of which the guest knows some.
struct Names {
    daemon: Daemon,
    client: Client,
    known: Vec<u64>,
}

impl Names {
    fn new(handles: &str) -> Self {
        let daemon = Daemon::start(&["--sandbox", "none", handles]);
        for i in 0..FILES {
            File::create(daemon.share().join(format!("f{i}"))).expect("host file");
        }
        let client = mounted(&daemon);
        Self { daemon, client, known: Vec::new() }
    }

    fn look_up(&mut self, i: usize) -> Result<(), i32> {
        let (node, _) = self.client.lookup(ROOT, &format!("f{i}"))?;
        self.known.push(node);
        Ok(())
    }

    /// Gives everything back; the daemon must have let go of it, and find it anew.
    fn forget_all(&mut self) {
        for node in self.known.drain(..) {
            self.client.forget(node, 1);
            assert!(self.client.open(node, libc::O_RDONLY).is_err(), "a forgotten node is still known");
        }
        assert!(self.daemon.descriptors() < DESCRIPTORS_BESIDE_FILES, "{}", self.daemon.descriptors());
        self.look_up(1).expect("LOOKUP after the forgets");
    }
}
