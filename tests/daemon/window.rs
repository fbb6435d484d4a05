//! The window's socket: who connects there, and whose daemon it is.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

use super::{Daemon, Guest, GuestConfig, command, directory, exercise, modes, refusal};

/// A daemon with a window beside its share.
struct Served {
    daemon: Daemon,
    window: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let window = directory.path().join("window");
        let named = ["--window-socket", window.to_str().expect("path")];
        let daemon = Daemon::start(&[&named, options].concat());
        Self { daemon, window, _directory: directory }
    }

    fn attach(&self) -> Guest {
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
