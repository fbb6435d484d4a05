//! What does a guest see of the window over the share's own queues?

use super::frontend::fuse::{Body, CREATE, Client, INIT, LOOKUP, ROOT, u32_at, u64_at};
use super::frontend::{Daemon, Guest, GuestConfig};

const EXTENT_DEVICE: u32 = 4088;
const IOMAP_BEGIN: u32 = 4094;
const ENOSYS: i32 = 38;
/// INIT's `FUSE_EXTENTS`, in the upper word.
pub(super) const EXTENTS: u32 = 1 << 30;

/// A guest of this minor version that offers these flags in the upper word, and what of them was agreed upon.
pub(super) fn mount(daemon: &Daemon, minor: u32, flags2: u32) -> (Client, u32) {
    let mut client = Client::mount(Guest::connect(&daemon.socket(), GuestConfig::default()));
    let body = Body::new().u32(7).u32(minor).u32(0).u32(1 << 30).u32(flags2).bytes(&[0; 44]);
    let answer = client.call(INIT, 0, body, 64).expect("INIT");
    (client, u32_at(&answer, 32))
}

/// IOMAP_BEGIN of one block at the start of a file.
pub(super) fn begin(client: &mut Client, node: u64, opflags: u32, room: u32) -> Result<Vec<u8>, i32> {
    let body = Body::new().u32(opflags).u32(0).u64(0).u64(0).u64(512);
    client.call(IOMAP_BEGIN, node, body, room)
}

/// A daemon with a window, and the directory of the window's socket.
fn daemon(more: &[&str]) -> (Daemon, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("window");
    let mut options = vec!["--sandbox", "none", "--window-serial", "serial-1", "--window-socket"];
    options.push(socket.to_str().expect("path"));
    options.extend(more);
    (Daemon::start(&options), directory)
}

#[test]
fn a_guest_that_asks_is_told_where_its_files_lie() {
    let (daemon, _window) = daemon(&[]);
    let (mut client, agreed) = mount(&daemon, 46, 1 << 30);
    assert_eq!(agreed & 0xffff_f800, 1 << 30);
    let device = client.call(EXTENT_DEVICE, 0, Body::new().u32(0).u32(0), 64).expect("device");
    assert_eq!(&device[24..44], b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!((u32_at(&device, 0), u32_at(&device, 4)), (1, 0));
    assert_eq!(client.call(EXTENT_DEVICE, 0, Body::new().u32(1).u32(0), 64), Err(2));

    // CREATE, with the attribute flag in its answer.
    let body = Body::new().u32(2).u32(0o100_644).u32(0).u32(0).name("file");
    let created = client.call(CREATE, ROOT, body, 144).expect("CREATE");
    assert_eq!(u32_at(&created, 124), 8);
    let (node, fh) = (u64_at(&created, 0), u64_at(&created, 128));
    let map = begin(&mut client, node, 0x11, 64).expect("BEGIN");
    let place = |at: usize| (u64_at(&map, at + 16), u32_at(&map, at + 24), u32_at(&map, at + 28));
    let (address, kind, dev) = place(0);
    assert!(address > 0 && address < u64_at(&device, 8));
    assert_eq!((kind, dev), (2, 1));
    assert_eq!(place(32), (u64::MAX, 65535, 0));
    client.release(node, fh).expect("RELEASE");
    assert_eq!(begin(&mut client, node, 0, 64), Err(9), "EBADF");
}

#[test]
fn nobody_else_sees_anything() {
    let (with, _window) = daemon(&[]);
    let without = Daemon::start(&["--sandbox", "none"]);
    // A stock guest and a window; a guest that asks and none.
    for (daemon, flags2) in [(&with, 0x1ff), (&without, 1 << 30 | 0x1ff)] {
        let (mut client, agreed) = mount(daemon, 46, flags2);
        assert_eq!(agreed & 0xffff_f800, 0);
        let (node, _) = client.create(ROOT, "file").expect("CREATE");
        let entry = client.call(LOOKUP, ROOT, Body::new().name("file"), 128).expect("LOOKUP");
        assert_eq!(u32_at(&entry, 124), 0);
        assert_eq!(begin(&mut client, node, 0, 64), Err(ENOSYS));
        assert_eq!(client.call(EXTENT_DEVICE, 0, Body::new().u32(0).u32(0), 64), Err(ENOSYS));
    }
}

#[test]
fn the_revision_of_2025_is_spoken_where_the_operator_says_so() {
    let (daemon, _window) = daemon(&["--keep-listening", "--extent-dialect", "rfc2025"]);
    let both = 0x1800;
    for (minor, offered, expected) in [(44, both, both), (46, both, 0), (44, 0x0800, 0), (44, 0x4000_0000, 0)]
    {
        let (mut client, agreed) = mount(&daemon, minor, offered);
        assert_eq!(agreed & 0xffff_f800, expected, "7.{minor} {offered:#x}");
        let name = format!("file-{minor}-{offered}");
        let (node, fh) = client.create(ROOT, &name).expect("CREATE");
        client.write(node, fh, 0, &[1; 512]).expect("WRITE");
        let answer = begin(&mut client, node, 0x11, 48);
        if expected == 0 {
            assert_eq!(answer, Err(ENOSYS));
            continue;
        }
        let map = answer.expect("BEGIN");
        assert_eq!((u32_at(&map, 24), u32_at(&map, 28)), (2, 0), "mapped, the first device");
        assert_eq!((u64_at(&map, 32), u32_at(&map, 40), u32_at(&map, 44)), (u64::MAX, 65535, 0));
    }
}
