//! Do opens, reads and writes do on a host directory what a guest means by them?

use std::ffi::CString;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use crate::fs::{CacheMode, Config, DirectPolicy, Passthrough};
use crate::fuse::abi::*;
use crate::fuse::*;

/// A directory of the host and its server, as after INIT with a guest that offers everything.
pub(in crate::fs) struct Share {
    pub(in crate::fs) dir: tempfile::TempDir,
    pub(in crate::fs) fs: Passthrough,
}

impl Share {
    pub(in crate::fs) fn new(config: Config) -> Self {
        Self::made_by(config, |fs| fs)
    }

    /// A share whose file system is finished by `finish`, before the guest mounts it.
    pub(in crate::fs) fn made_by(config: Config, finish: impl FnOnce(Passthrough) -> Passthrough) -> Self {
        // Not in /tmp, which may be a tmpfs without xattrs or direct I/O.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let directory = |path: &str| open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let root = directory(dir.path().to_str().unwrap());
        let fs = finish(Passthrough::new(config, root, directory("/proc/self/fd")).unwrap());
        fs.init(!FUSE_POSIX_ACL).unwrap();
        Self { dir, fs }
    }

    pub(in crate::fs) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(in crate::fs) fn look_up(&self, name: &str) -> NodeId {
        let name = CString::new(name).unwrap();
        self.fs.lookup(Caller::default(), NodeId::ROOT, Name::new(&name).unwrap()).unwrap().node
    }

    pub(in crate::fs) fn file(&self, name: &str, contents: &[u8]) -> NodeId {
        fs::write(self.path(name), contents).unwrap();
        self.look_up(name)
    }

    pub(in crate::fs) fn open(&self, node: NodeId, flags: i32) -> Result<Opened> {
        self.fs.open(Caller::default(), node, bits(flags), false)
    }

    pub(in crate::fs) fn release(&self, node: NodeId, fh: Fh) -> Result<()> {
        self.fs.release(node, &Release { fh, lock_owner: None, flock_unlock: false })
    }

    fn write(&self, node: NodeId, fh: Fh, offset: u64, bytes: &[u8], flags: i32) -> Result<usize> {
        let transfer = self.fs.write(Caller::default(), node, fh, &request(offset, bytes.len(), flags))?;
        assert_eq!(transfer.direction, Direction::Write);
        let flags = ReadWriteFlags::from_bits_retain(bits(transfer.rw_flags));
        pwritev2(transfer.file.buffered(), &[IoSlice::new(bytes)], transfer.offset, flags)
    }

    pub(in crate::fs) fn read(&self, node: NodeId, fh: Fh, offset: u64, len: usize) -> Result<Vec<u8>> {
        let transfer = self.fs.read(node, fh, &request(offset, len, 0))?;
        let mut bytes = vec![0; len];
        let flags = ReadWriteFlags::from_bits_retain(bits(transfer.rw_flags));
        let read =
            preadv2(transfer.file.buffered(), &mut [IoSliceMut::new(&mut bytes)], transfer.offset, flags)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

pub(super) fn bits(flags: i32) -> u32 {
    u32::from_ne_bytes(flags.to_ne_bytes())
}

pub(in crate::fs) fn request(offset: u64, len: usize, flags: i32) -> IoRequest {
    let size = u32::try_from(len).unwrap();
    IoRequest { offset, size, open_flags: bits(flags), from_cache: false, kill_suidgid: false }
}

#[test]
fn bytes_go_where_the_access_mode_lets_them() {
    let share = Share::new(Config::default());
    let node = share.file("a", b"hello");
    let reader = share.open(node, libc::O_RDONLY).unwrap().fh;
    let writer = share.open(node, libc::O_WRONLY).unwrap().fh;
    assert_eq!(share.write(node, writer, 5, b" world", 0), Ok(6));
    assert_eq!(share.read(node, reader, 0, 100).unwrap(), b"hello world");
    assert_eq!(share.write(node, reader, 0, b"x", 0), Err(Errno::BADF));
    assert_eq!(share.read(node, writer, 0, 1), Err(Errno::BADF));
    let end = i64::MAX.unsigned_abs();
    assert_eq!(share.write(node, writer, end, b"x", 0), Err(Errno::FBIG));
    assert_eq!(share.write(node, writer, u64::MAX, b"x", 0), Err(Errno::FBIG));
    assert_eq!(share.read(node, reader, end, 1), Err(Errno::INVAL));
    assert_eq!(share.read(node, reader, end - 1, 1), Ok(vec![]));
}

#[test]
fn a_handle_serves_its_own_file_until_its_release() {
    let share = Share::new(Config::default());
    let (a, b) = (share.file("a", b"a"), share.file("b", b"b"));
    let fh = share.open(a, libc::O_RDWR).unwrap().fh;
    assert_ne!(fh.0, 0);
    assert_eq!(share.read(b, fh, 0, 1), Err(Errno::BADF));
    assert_eq!(share.release(b, fh), Err(Errno::BADF));
    assert_eq!(share.fs.releasedir(a, fh), Err(Errno::BADF));
    assert_eq!(share.read(a, fh, 0, 1).unwrap(), b"a");
    assert_eq!(share.release(a, fh), Ok(()));
    assert_eq!(share.release(a, fh), Err(Errno::BADF));
    assert_eq!(share.read(a, fh, 0, 1), Err(Errno::BADF));
    assert_ne!(share.open(a, libc::O_RDWR).unwrap().fh, fh);
    let last = share.open(a, libc::O_RDWR).unwrap().fh;
    share.fs.destroy();
    assert_eq!(share.read(a, last, 0, 1), Err(Errno::BADF));
}

#[test]
fn the_first_open_decides_the_mode() {
    let share = Share::new(Config::default());
    let node = share.file("a", b"");
    let direct = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    let first = share.open(node, libc::O_RDWR | libc::O_DIRECT).unwrap();
    let second = share.open(node, libc::O_RDWR).unwrap();
    assert_eq!((first.flags & direct, second.flags & direct), (direct, direct));
    share.release(node, first.fh).unwrap();
    assert_eq!(share.open(node, libc::O_RDONLY).unwrap().flags & direct, direct);
    let other = share.file("b", b"");
    let first = share.open(other, libc::O_RDWR).unwrap();
    let second = share.open(other, libc::O_RDWR | libc::O_DIRECT).unwrap();
    assert_eq!((first.flags | second.flags) & direct, 0);
    share.release(other, first.fh).unwrap();
    share.release(other, second.fh).unwrap();
    assert_eq!(share.open(other, libc::O_RDWR | libc::O_DIRECT).unwrap().flags & direct, direct);
}

#[test]
fn direct_io_is_offered_beside_the_buffered_file() {
    let share = Share::new(Config::default());
    let node = share.file("a", &[7; 8192]);
    let fh = share.open(node, libc::O_RDWR | libc::O_DIRECT).unwrap().fh;
    assert!(!share.fs.read(node, fh, &request(0, 4096, 0)).unwrap().direct);
    let with = share.fs.read(node, fh, &request(0, 4096, libc::O_DIRECT)).unwrap();
    assert!(with.direct);
    let direct = with.file.direct().unwrap();
    assert!(direct.memory_align.is_power_of_two() && direct.offset_align.is_power_of_two());
    let flags = |fd: std::os::fd::BorrowedFd<'_>| rustix::fs::fcntl_getfl(fd).unwrap();
    assert!(flags(direct.file.as_fd()).contains(OFlags::DIRECT));
    assert!(!flags(with.file.buffered()).intersects(OFlags::DIRECT | OFlags::APPEND));
    let again = share.fs.read(node, fh, &request(1, 3, libc::O_DIRECT)).unwrap();
    assert!(again.direct && std::ptr::eq(again.file.direct().unwrap(), direct));
    assert!(!share.fs.read(node, fh, &request(0, 4096, 0)).unwrap().direct);

    let never = Share::new(Config { direct: DirectPolicy::Never, ..Config::default() });
    let node = never.file("a", b"");
    let fh = never.open(node, libc::O_RDWR | libc::O_DIRECT).unwrap().fh;
    assert!(!never.fs.read(node, fh, &request(0, 4096, libc::O_DIRECT)).unwrap().direct);
}

#[test]
fn appends_do_not_overwrite_one_another() {
    let share = Share::new(Config { cache: CacheMode::Never, ..Config::default() });
    let node = share.file("log", b"");
    std::thread::scope(|threads| {
        for writer in 0..4_u8 {
            let share = &share;
            threads.spawn(move || {
                let flags = libc::O_WRONLY | libc::O_APPEND;
                let fh = share.open(node, flags).unwrap().fh;
                for _ in 0..200 {
                    // The guest's idea of the end is stale.
                    assert_eq!(share.write(node, fh, 0, &[b'a' + writer; 10], flags), Ok(10));
                }
            });
        }
    });
    let log = fs::read(share.path("log")).unwrap();
    assert_eq!(log.len(), 4 * 200 * 10);
    assert!(log.chunks(10).all(|record| record.iter().all(|byte| *byte == record[0])));
}

#[test]
fn write_flags_follow_the_request() {
    let share = Share::new(Config::default());
    let node = share.file("a", b"");
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    let flags = |io: IoRequest| share.fs.write(Caller::default(), node, fh, &io).unwrap().rw_flags;
    assert_eq!(flags(request(0, 1, 0)), 0);
    assert_eq!(flags(request(0, 1, libc::O_APPEND)), libc::RWF_APPEND);
    assert_eq!(flags(request(0, 1, libc::O_DSYNC)), libc::RWF_DSYNC);
    assert_eq!(flags(request(0, 1, libc::O_SYNC | libc::O_APPEND)), libc::RWF_SYNC | libc::RWF_APPEND);
    assert_eq!(flags(IoRequest { from_cache: true, ..request(0, 1, libc::O_APPEND | libc::O_SYNC) }), 0);

    let writeback = Share::new(Config { writeback: true, ..Config::default() });
    let node = writeback.file("a", b"abc");
    let fh = writeback.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap().fh;
    let io = request(0, 1, libc::O_APPEND);
    assert_eq!(writeback.fs.write(Caller::default(), node, fh, &io).unwrap().rw_flags, 0);
    assert_eq!(writeback.read(node, fh, 0, 3).unwrap(), b"abc", "to fill a page");
}

#[test]
fn set_id_bits_fall_when_the_guest_says_so() {
    let share = Share::new(Config { killpriv_v2: true, ..Config::default() });
    for (before, after) in [(0o6755, 0o755), (0o6644, 0o2644), (0o755, 0o755)] {
        let node = share.file("a", b"");
        let set = || fs::set_permissions(share.path("a"), fs::Permissions::from_mode(before)).unwrap();
        let mode = || fs::metadata(share.path("a")).unwrap().mode() & 0o7777;
        set();
        let fh = share.open(node, libc::O_RDWR).unwrap().fh;
        share.fs.write(Caller::default(), node, fh, &request(0, 1, 0)).unwrap();
        assert_eq!(mode(), before);
        let io = IoRequest { kill_suidgid: true, ..request(0, 1, 0) };
        share.fs.write(Caller::default(), node, fh, &io).unwrap();
        assert_eq!(mode(), after);
        set();
        share.fs.open(Caller::default(), node, bits(libc::O_RDWR | libc::O_TRUNC), true).unwrap();
        assert_eq!(mode(), after);
    }
}

/// The guest sends nothing beside these, and does not say who the caller is.
#[test]
fn set_id_bits_fall_with_every_change_of_a_range() {
    for (v2, after) in [(true, 0o755), (false, 0o6755)] {
        let share = Share::new(Config { killpriv_v2: v2, ..Config::default() });
        let node = share.file("a", b"abcdef");
        let set = || fs::set_permissions(share.path("a"), fs::Permissions::from_mode(0o6755)).unwrap();
        let mode = || fs::metadata(share.path("a")).unwrap().mode() & 0o7777;
        let fh = share.open(node, libc::O_RDWR).unwrap().fh;
        set();
        share.fs.fallocate(node, fh, 0, 100, 0).unwrap();
        // Where the guest takes the bits away itself, nobody else does, if he is privileged.
        let is_known = rustix::process::geteuid().is_root() || v2;
        assert!(!is_known || mode() == after, "FALLOCATE, {v2}: {:o}", mode());
        set();
        let range = CopyRange {
            fh_in: fh,
            offset_in: 0,
            node_out: node,
            fh_out: fh,
            offset_out: 50,
            len: 3,
            flags: 0,
        };
        share.fs.copy_file_range(node, &range).unwrap();
        assert!(!is_known || mode() == after, "COPY_FILE_RANGE, {v2}: {:o}", mode());
    }
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let share = Share::new(Config { read_only: true, xattr: true, ..Config::default() });
    let node = share.file("a", b"abc");
    assert_eq!(share.open(node, libc::O_RDWR), Err(Errno::ROFS));
    assert_eq!(share.open(node, libc::O_RDONLY | libc::O_TRUNC), Err(Errno::ROFS));
    let fh = share.open(node, libc::O_RDONLY).unwrap().fh;
    assert_eq!(share.fs.fallocate(node, fh, 0, 9, 0), Err(Errno::ROFS));
    assert_eq!(share.fs.setxattr(Caller::default(), node, c"user.a", b"", 0, false), Err(Errno::ROFS));
    assert_eq!(
        share.fs.ioctl(Caller::default(), node, fh, 0x4008_6602, &[0; 4], 0, &mut vec![]),
        Err(Errno::ROFS)
    );
    assert_eq!(share.read(node, fh, 0, 9).unwrap(), b"abc");
}

#[test]
fn an_open_file_outlives_its_name_and_its_release() {
    let share = Share::new(Config::default());
    let node = share.file("a", b"abc");
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    fs::remove_file(share.path("a")).unwrap();
    let io = request(0, 3, libc::O_DIRECT);
    let transfer = share.fs.read(node, fh, &io).unwrap();
    assert!(transfer.direct);
    share.release(node, fh).unwrap();
    let mut bytes = [0; 3];
    assert_eq!(rustix::io::pread(transfer.file.buffered(), &mut bytes, 0), Ok(3));
    assert_eq!(&bytes, b"abc");
    drop(transfer);
    // Now it is closed, whatever this thread remembers.
    assert_eq!(share.fs.read(node, fh, &io).unwrap_err(), Errno::BADF);
    share.fs.forget(node, 1);
    let open_files =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let deleted = format!("{} (deleted)", share.path("a").display());
    assert_eq!(open_files.filter(|path| path.to_string_lossy() == deleted).count(), 0);
}
