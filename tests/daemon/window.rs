//! The window's socket: who connects there, and whose daemon it is.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

use super::frontend::fuse::{Body, FSYNC, ROOT, SETATTR, u32_at, u64_at};
use super::{Daemon, Guest, GuestConfig, command, directory, exercise, extents, modes, refusal};

/// A daemon with a window beside its share.
pub(super) struct Served {
    pub(super) daemon: Daemon,
    window: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    pub(super) fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let window = directory.path().join("window");
        let named = ["--window-socket", window.to_str().expect("path")];
        let daemon = Daemon::start(&[&named, options].concat());
        Self { daemon, window, _directory: directory }
    }

    pub(super) fn attach(&self) -> Guest {
        Guest::connect(&self.window, GuestConfig { request_queues: 1, ..GuestConfig::default() })
    }
}

/// Asks a disk for its serial.
fn serial(disk: &mut Guest) -> String {
    let answer = disk.exchange(0, &[&8_u32.to_le_bytes()[..], &[0; 12]].concat(), 21);
    assert_eq!(answer.last(), Some(&0), "status");
    String::from_utf8(answer[..20].to_vec()).expect("text").trim_end_matches('\0').to_owned()
}

#[test]
fn the_window_is_served_beside_the_share_and_ends_with_it() {
    for sandbox in modes() {
        let mut served = Served::start(&["--sandbox", sandbox, "--window-queues", "2"]);
        let Served { daemon, window, .. } = &served;
        let pid_file = window.with_file_name("window.pid");
        let metadata = std::fs::symlink_metadata(window).expect("socket");
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o700, "{sandbox}");
        assert_eq!(std::fs::read_to_string(&pid_file).expect("pid file"), format!("{}\n", daemon.pid()));

        // It comes and goes as it likes, before there is a guest of the share and after.
        let mut disk = served.attach();
        let first = serial(&mut disk);
        assert_eq!((first.len(), &first[..4]), (20, "efs-"));
        assert!(daemon.log().contains(&first), "{}", daemon.log());
        drop(disk);
        let client = exercise(daemon, "file");
        let mut disk = served.attach();
        assert_eq!(disk.frontend.get_queue_num().expect("GET_QUEUE_NUM"), 2);
        let (_, space) =
            disk.frontend.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]).expect("GET_CONFIG");
        assert_eq!(space[..8], (1_u64 << 53).to_le_bytes());
        assert_eq!(serial(&mut disk), first);
        drop(disk);
        let mut disk = served.attach();
        assert_eq!(serial(&mut disk), first);

        // The disk is still attached when the share's guest goes.
        drop(client);
        assert_eq!(served.daemon.wait_end().0, Some(0), "{sandbox}");
        assert!(!served.window.exists() && !pid_file.exists(), "{sandbox}");
    }
}

#[test]
fn a_window_whose_socket_is_taken_or_cannot_be_ends_the_start() {
    let served = Served::start(&["--sandbox", "none", "--keep-listening"]);
    let place = directory();
    let window = |path: &str| command(place.path(), &["--sandbox", "none", "--window-socket", path]);
    let path = served.window.to_str().expect("path");
    assert_eq!(
        refusal(window(path)),
        format!(
            "--window-socket {path}: the socket is in use by the process with id {}",
            served.daemon.pid()
        )
    );
    let line = refusal(window("/no/such/directory/w"));
    assert!(line.starts_with("--window-socket /no/such/directory/w: cannot open its directory: "), "{line}");
    // What was made before is gone.
    assert!(!place.path().join("socket").exists() && !place.path().join("socket.pid").exists());
    drop(served.attach());
    drop(exercise(&served.daemon, "after"));
}

#[test]
fn a_front_end_of_the_window_that_misbehaves_ends_its_connection_only() {
    use std::io::{Read, Write};
    let served = Served::start(&["--sandbox", "none", "--window-serial", "efs-1"]);
    let client = exercise(&served.daemon, "file");
    let mut stream = std::os::unix::net::UnixStream::connect(&served.window).expect("connect");
    stream.write_all(&[0xff; 4096]).expect("write");
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(serial(&mut served.attach()), "efs-1");
    drop(client);
}

pub(super) const OK: u8 = 0;
pub(super) const IOERR: u8 = 1;
/// Opens that write, as IOMAP_BEGIN's operation flags have it, directly.
const DIRECT_WRITE: u32 = 0x11;
const FATTR_SIZE: u32 = 1 << 3;

pub(super) fn request(kind: u32, address: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &(address / 512).to_le_bytes()].concat()
}

/// Reads blocks from a disk.
pub(super) fn read(disk: &mut Guest, address: u64, len: usize) -> Result<Vec<u8>, u8> {
    let place = disk.ram.alloc(len as u64 + 17).next_multiple_of(16);
    disk.ram.write(place, &request(0, address));
    disk.offer(0, &[(place, 16, false), (place + 16, len as u32 + 1, true)]);
    disk.take_used(0);
    let mut answer = disk.ram.read(place + 16, len + 1);
    match answer.pop() {
        Some(OK) => Ok(answer),
        status => Err(status.expect("status")),
    }
}

/// Writes blocks to a disk; the status.
pub(super) fn write(disk: &mut Guest, address: u64, data: &[u8]) -> u8 {
    disk.exchange(0, &[&request(1, address), data].concat(), 1)[0]
}

/// What two devices of one daemon make of one file.
#[test]
fn a_file_is_written_by_both_ways_and_cut_and_closed_under_the_disk() {
    for sandbox in modes() {
        let served = Served::start(&["--sandbox", sandbox]);
        let (mut client, _) = extents::mount(&served.daemon, 46, extents::EXTENTS);
        let mut disk = served.attach();
        let (node, fh) = client.create(ROOT, "file").expect("CREATE");
        client.write(node, fh, 0, &[1; 16384]).expect("WRITE");
        let map = extents::begin(&mut client, node, DIRECT_WRITE, 64).expect("IOMAP_BEGIN");
        assert_eq!((u32_at(&map, 24), u32_at(&map, 56)), (2, 65535), "mapped, to be overwritten");
        let address = u64_at(&map, 16);

        assert_eq!(read(&mut disk, address, 16384), Ok(vec![1; 16384]), "{sandbox}");
        assert_eq!(write(&mut disk, address + 4096, &[2; 4096]), OK);
        assert_eq!(client.read(node, fh, 4096, 4096), Ok(vec![2; 4096]));
        client.write(node, fh, 0, &[3; 512]).expect("WRITE");
        assert_eq!(read(&mut disk, address, 512), Ok(vec![3; 512]));
        assert_eq!(write(&mut disk, address + 16384, &[4; 512]), IOERR, "it is not longer");
        client.call(FSYNC, node, Body::new().u64(fh).u32(0).u32(0), 0).expect("FSYNC");

        let cut = Body::new().u32(FATTR_SIZE).u32(0).u64(0).u64(8192).bytes(&[0; 64]);
        client.call(SETATTR, node, cut, 104).expect("SETATTR");
        assert_eq!(write(&mut disk, address + 8192, &[4; 4096]), IOERR);
        assert_eq!(write(&mut disk, address, &[4; 8192]), OK);
        assert_eq!(read(&mut disk, address, 16384), Ok([[4; 8192], [0; 8192]].concat()));
        let host = served.daemon.share().join("file");
        assert_eq!(std::fs::read(&host).expect("host file"), [4; 8192]);

        client.release(node, fh).expect("RELEASE");
        assert_eq!(write(&mut disk, address, &[5; 512]), IOERR);
        assert_eq!(read(&mut disk, address, 512), Err(IOERR));
        assert_eq!(std::fs::read(&host).expect("host file"), [4; 8192]);
        // Opened again it is elsewhere.
        let fh = client.open(node, libc::O_RDWR).expect("OPEN");
        let again = u64_at(&extents::begin(&mut client, node, 0x10, 64).expect("IOMAP_BEGIN"), 16);
        assert!(again > address);
        assert_eq!(read(&mut disk, again, 8192), Ok(vec![4; 8192]));
        assert_eq!(write(&mut disk, again, &[5; 512]), IOERR, "asked for reads only");
        assert_eq!(disk.exchange(0, &request(4, 0), 1), [OK], "FLUSH");
        client.release(node, fh).expect("RELEASE");
    }
}
