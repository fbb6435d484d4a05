//! Does a guest find its files in a window that knows their blocks, behind all walls?

use std::path::PathBuf;

use tempfile::TempDir;

use super::device::{DIRECT_IO_ALLOW_MMAP, Disk};
use super::extents::{EXTENTS, begin, mount};
use super::frontend::fuse::{ROOT, u64_at};
use super::frontend::{Daemon, Guest, GuestConfig};
use super::window::{OK, request};
use super::{command, directory, modes, needs_root};

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
const FLUSH: u32 = 4;

/// A request with room for an answer, or bytes to write, that are aligned as a guest's pages are; the status and the bytes.
pub(super) fn ask(disk: &mut Guest, kind: u32, address: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
    let mark = disk.ram.mark();
    let header = disk.ram.alloc(16);
    disk.ram.write(header, &request(kind, address));
    let place = disk.ram.alloc((data.len() + room + 4096) as u64).next_multiple_of(4096);
    disk.ram.write(place, data);
    let status = disk.ram.alloc(1);
    let mut buffers = vec![(header, 16, false)];
    if !data.is_empty() {
        buffers.push((place, data.len() as u32, false));
    }
    if room > 0 {
        buffers.push((place, room as u32, true));
    }
    buffers.push((status, 1, true));
    disk.offer(0, &buffers);
    disk.take_used(0);
    let answer = (disk.ram.read(status, 1)[0], disk.ram.read(place, room));
    disk.ram.rewind(mark);
    answer
}

/// A daemon with a window on the blocks of files of a volume of its own.
pub(super) struct Served {
    // First gone, last made: the daemon, then what is mounted in its directory.
    pub(super) daemon: Daemon,
    volume: Disk,
    window: PathBuf,
    _images: TempDir,
}

impl Served {
    /// With an ext4 that has a file; none where that is not to be had here.
    pub(super) fn start(sandbox: &str) -> Option<Self> {
        let images = tempfile::tempdir_in("/var/tmp").expect("directory");
        let place = directory();
        let Some(volume) = Disk::on(place.path().join("share"), images.path().join("image")) else {
            eprintln!("skipped: a loop device with ext4 is not to be had here");
            return None;
        };
        std::fs::write(place.path().join("share/file"), [1; 50_000]).expect("file");
        let window = images.path().join("window");
        let options = ["--sandbox", sandbox, "--extent-source", "block", "--log-level", "debug"];
        let mut daemon = command(place.path(), &options);
        daemon.args(["--device", &volume.device, "--window-socket"]).arg(&window);
        let daemon = Daemon::launch(place, daemon);
        super::wait_until_ready(&daemon, 1);
        Some(Self { daemon, volume, window, _images: images })
    }

    pub(super) fn attach(&self) -> Guest {
        Guest::connect(&self.window, GuestConfig { request_queues: 1, ..GuestConfig::default() })
    }

    /// After the last guest of the share. The disk is unmounted before its directory goes.
    pub(super) fn end(mut self) {
        self.daemon.wait_end();
        drop(self.volume);
    }
}

#[test]
fn a_guest_finds_its_files_in_a_window_on_their_blocks() {
    if !needs_root("a loop device") {
        return;
    }
    for sandbox in modes() {
        let Some(served) = Served::start(sandbox) else { return };
        let daemon = &served.daemon;
        let (mut client, _) = mount(daemon, 46, EXTENTS | DIRECT_IO_ALLOW_MMAP);
        let (node, _) = client.lookup(ROOT, "file").expect("LOOKUP");
        let fh = client.open(node, libc::O_RDWR | libc::O_DIRECT).expect("OPEN");
        let address = u64_at(&begin(&mut client, node, 0x11, 64).expect("BEGIN"), 16);
        let mut disk = served.attach();
        let mut expected = vec![1; 50_000];
        for round in 0..200_u64 {
            let at = round * 7 % 12 * 4096;
            let byte = round as u8;
            assert_eq!(ask(&mut disk, OUT, address + at, &[byte; 4096], 0).0, OK, "{sandbox} {round}");
            expected[at as usize..at as usize + 4096].fill(byte);
            assert_eq!(ask(&mut disk, IN, address + at, &[], 4096), (OK, vec![byte; 4096]));
        }
        assert!(daemon.log().contains("known pieces"), "{sandbox}: {}", daemon.log());
        assert_eq!(ask(&mut disk, FLUSH, 0, &[], 0).0, OK);
        assert!(client.read(node, fh, 0, 60_000).expect("READ") == expected);
        assert_eq!(client.write(node, fh, 8000, &[3; 5000]), Ok(5000));
        expected[8000..13_000].fill(3);
        assert_eq!(ask(&mut disk, IN, address + 8192, &[], 4096), (OK, vec![3; 4096]));
        client.release(node, fh).expect("RELEASE");
        assert!(std::fs::read(daemon.share().join("file")).expect("file") == expected, "{sandbox}");
        drop((client, disk));
        served.end();
    }
}
