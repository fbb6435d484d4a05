//! Does a guest that has the disk under the share find its files there?

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;

use super::extents::{begin, mount};
use super::frontend::Daemon;
use super::frontend::fuse::{Body, u32_at, u64_at};
use super::{command, directory, modes, needs_root};

const EXTENT_DEVICE: u32 = 4088;
/// Of the upper word. Without it no open makes a file direct.
pub(super) const DIRECT_IO_ALLOW_MMAP: u32 = 1 << 4;

#[repr(align(4096))]
struct Block([u8; 4096]);

/// An ext4 on a loop device, mounted; both end with it.
pub(super) struct Disk {
    pub(super) device: String,
    mounted: PathBuf,
}

impl Disk {
    pub(super) fn on(mounted: PathBuf, image: PathBuf) -> Option<Self> {
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().ok().filter(|run| run.status.success())?;
            Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
        };
        std::fs::File::create(&image).expect("image").set_len(64 << 20).expect("size");
        let device = run("losetup", &["--find", "--show", image.to_str()?])?;
        let disk = Self { device, mounted };
        run("mkfs.ext4", &["-q", "-F", &disk.device])?;
        run("mount", &[&disk.device, disk.mounted.to_str()?])?;
        Some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}

#[test]
fn a_guest_with_the_disk_finds_its_files_there() {
    if !needs_root("a loop device") {
        return;
    }
    for sandbox in modes() {
        // First gone, last made: the daemon, then what is mounted in its directory.
        let images = tempfile::tempdir_in("/var/tmp").expect("directory");
        let place = directory();
        let Some(disk) = Disk::on(place.path().join("share"), images.path().join("image")) else {
            return eprintln!("skipped: a loop device with ext4 is not to be had here");
        };
        std::fs::write(place.path().join("share/file"), [1; 20_000]).expect("file");
        let options = ["--sandbox", sandbox, "--extent-source", "device", "--window-serial", "a-disk"];
        let mut daemon = command(place.path(), &options);
        daemon.args(["--device", &disk.device]);
        let daemon = Daemon::launch(place, daemon);
        super::wait_until_ready(&daemon, 1);

        let (mut client, agreed) = mount(&daemon, 46, 1 << 30 | DIRECT_IO_ALLOW_MMAP);
        assert_eq!(agreed & 0xffff_f800, 1 << 30);
        let answer = client.call(EXTENT_DEVICE, 0, Body::new().u32(0).u32(0), 64).expect("device");
        assert_eq!((u64_at(&answer, 8), u32_at(&answer, 16)), (64 << 20, 512));
        assert_eq!(&answer[24..44], b"a-disk\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

        let (node, _) = client.lookup(super::frontend::fuse::ROOT, "file").expect("LOOKUP");
        let fh = client.open(node, libc::O_RDWR | libc::O_DIRECT).expect("OPEN");
        let map = begin(&mut client, node, 0x11, 64).expect("BEGIN");
        assert_eq!((u64_at(&map, 0), u64_at(&map, 8)), (0, 16_384), "all that is no part of a block");
        assert_eq!((u32_at(&map, 24), u32_at(&map, 28), u32_at(&map, 56)), (2, 1, 65_535));
        let address = u64_at(&map, 16);
        let block = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&disk.device);
        block.expect("device").write_all_at(&Block([2; 4096]).0, address + 4096).expect("write");

        let mut expected = vec![1; 20_000];
        expected[4096..8192].fill(2);
        assert!(client.read(node, fh, 0, 30_000).expect("READ") == expected);
        assert_eq!(client.write(node, fh, 8000, &[3; 13_000]), Ok(13_000));
        expected.resize(21_000, 0);
        expected[8000..].fill(3);
        assert!(client.read(node, fh, 0, 30_000).expect("READ") == expected);
        client.release(node, fh).expect("RELEASE");
        assert!(std::fs::read(daemon.share().join("file")).expect("file") == expected, "{sandbox}");
        drop(client);
        // The disk is unmounted before its directory goes.
        let mut daemon = daemon;
        daemon.wait_end();
        drop(disk);
    }
}
