//! Do the operations beside reading and writing do on a host directory what a guest means by them?

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::io::Errno;

use super::files::{Share, bits};
use crate::fs::Config;
use crate::fuse::*;

/// Inode number, cookie, type, name and, with READDIRPLUS, node of a directory entry.
type Found = (u64, u64, u8, Vec<u8>, Option<NodeId>);

#[derive(Default)]
struct Sink {
    room: usize,
    entries: Vec<Found>,
}

impl DirectorySink for Sink {
    fn fits(&self, _name_len: usize) -> bool {
        self.entries.len() < self.room
    }

    fn add(&mut self, ino: u64, next: u64, kind: u8, name: &[u8], entry: Option<&Entry>) -> bool {
        self.entries.push((ino, next, kind, name.to_vec(), entry.map(|entry| entry.node)));
        true
    }
}

#[test]
fn a_directory_is_read_in_any_pieces() {
    let share = Share::new(Config::default());
    fs::create_dir(share.path("d")).unwrap();
    let mut names: Vec<Vec<u8>> = vec![b".".to_vec(), b"..".to_vec()];
    for index in 0..500 {
        names.push(format!("entry-{index}").into_bytes());
        File::create(share.path(&format!("d/entry-{index}"))).unwrap();
    }
    names.sort();
    let node = share.look_up("d");
    for (room, plus) in [(1, false), (7, false), (100, true), (1000, true)] {
        let fh = share.fs.opendir(Caller::default(), node, 0).unwrap().fh;
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let mut sink = Sink { room, ..Sink::default() };
            share.fs.readdir(Caller::default(), node, fh, offset, plus, &mut sink).unwrap();
            let Some(last) = sink.entries.last() else { break };
            offset = last.1;
            found.extend(sink.entries);
        }
        for (_, _, kind, name, entry) in &found {
            let own = name.starts_with(b".");
            assert_eq!(*kind, if own { libc::DT_DIR } else { libc::DT_REG });
            assert_eq!(entry.is_some(), plus && !own);
        }
        // From any cookie, also on a fresh handle.
        let fresh = share.fs.opendir(Caller::default(), node, 0).unwrap().fh;
        for at in [400, 3, 250] {
            let mut sink = Sink { room: 1, ..Sink::default() };
            share.fs.readdir(Caller::default(), node, fresh, found[at].1, false, &mut sink).unwrap();
            assert_eq!(sink.entries[0].3, found[at + 1].3);
        }
        let mut got: Vec<Vec<u8>> = found.into_iter().map(|entry| entry.3).collect();
        got.sort();
        assert_eq!(got, names);
        // Rewinding shows what came meanwhile.
        File::create(share.path("d/late")).unwrap();
        let mut sink = Sink { room: 1000, ..Sink::default() };
        share.fs.readdir(Caller::default(), node, fh, 0, false, &mut sink).unwrap();
        assert!(sink.entries.iter().any(|entry| entry.3 == b"late"));
        fs::remove_file(share.path("d/late")).unwrap();
        share.fs.releasedir(node, fh).unwrap();
    }
}

#[test]
fn the_root_has_no_parent() {
    let share = Share::new(Config::default());
    let fh = share.fs.opendir(Caller::default(), NodeId::ROOT, 0).unwrap().fh;
    let mut sink = Sink { room: 10, ..Sink::default() };
    share.fs.readdir(Caller::default(), NodeId::ROOT, fh, 0, false, &mut sink).unwrap();
    let own = fs::metadata(share.dir.path()).unwrap().ino();
    assert_eq!(sink.entries.iter().map(|entry| entry.0).collect::<Vec<_>>(), [own, own]);
}

#[test]
fn attributes_of_files_and_links() {
    let share = Share::new(Config { xattr: true, ..Config::default() });
    let node = share.file("a", b"");
    let set =
        |node, name: &CStr, value: &[u8]| share.fs.setxattr(Caller::default(), node, name, value, 0, false);
    let get = |node, name: &CStr, size| {
        let mut value = Vec::new();
        share.fs.getxattr(node, name, size, &mut value).map(|len| (len, value))
    };
    set(node, c"user.one", b"value").unwrap();
    assert_eq!(get(node, c"user.one", 0), Ok((5, vec![])));
    assert_eq!(get(node, c"user.one", 4), Err(Errno::RANGE));
    assert_eq!(get(node, c"user.one", 5), Ok((5, b"value".to_vec())));
    assert_eq!(get(node, c"user.one", u32::MAX), Ok((5, b"value".to_vec())));
    assert_eq!(get(node, c"user.two", 0), Err(Errno::NODATA));
    assert_eq!(set(node, c"user.big", &vec![0; (64 << 10) + 1]), Err(Errno::TOOBIG));
    let mut names = Vec::new();
    assert_eq!(share.fs.listxattr(node, 0, &mut names), Ok(9));
    assert_eq!(share.fs.listxattr(node, 8, &mut names), Err(Errno::RANGE));
    assert_eq!(share.fs.listxattr(node, 9, &mut names), Ok(9));
    assert_eq!(names, b"user.one\0");
    share.fs.removexattr(Caller::default(), node, c"user.one").unwrap();
    assert_eq!(get(node, c"user.one", 0), Err(Errno::NODATA));
    // Not in force, so neither set nor shown.
    assert_eq!(set(node, c"system.posix_acl_access", b""), Err(Errno::OPNOTSUPP));
    assert_eq!(get(node, c"system.posix_acl_default", 0), Err(Errno::OPNOTSUPP));
    // The host would judge by what the daemon may.
    assert_eq!(set(node, c"system.nfs4_acl", b"x"), Err(Errno::OPNOTSUPP));
    assert_eq!(share.fs.removexattr(Caller::default(), node, c"system.nfs4_acl"), Err(Errno::OPNOTSUPP));

    symlink("a", share.path("link")).unwrap();
    let link = share.look_up("link");
    assert_eq!(set(link, c"user.one", b"x"), Err(Errno::PERM));
    if rustix::process::geteuid().is_root() {
        set(link, c"trusted.one", b"x").unwrap();
        assert_eq!(get(link, c"trusted.one", 9), Ok((1, b"x".to_vec())));
        assert_eq!(get(node, c"trusted.one", 9), Err(Errno::NODATA), "the link's, not its target's");
    }
    let off = Share::new(Config::default());
    let node = off.file("a", b"");
    assert_eq!(off.fs.getxattr(node, c"user.one", 0, &mut vec![]), Err(Errno::NOSYS));
    assert_eq!(off.fs.listxattr(node, 0, &mut vec![]), Err(Errno::NOSYS));
}

#[test]
fn holes_copies_and_allocation() {
    let share = Share::new(Config::default());
    let node = share.file("a", &[1; 1 << 16]);
    let fh = share.open(node, libc::O_RDWR).unwrap().fh;
    let punch = bits(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
    share.fs.fallocate(node, fh, 4096, 8192, punch).unwrap();
    let seek = |offset, whence| share.fs.lseek(node, fh, offset, bits(whence));
    assert_eq!(seek(0, libc::SEEK_HOLE), Ok(4096));
    assert_eq!(seek(4096, libc::SEEK_DATA), Ok(12288));
    assert_eq!(seek(1 << 16, libc::SEEK_DATA), Err(Errno::NXIO));
    assert_eq!(seek(u64::MAX, libc::SEEK_DATA), Err(Errno::NXIO));
    assert_eq!(seek(0, libc::SEEK_END), Ok(1 << 16));
    assert_eq!(seek(0, 99), Err(Errno::INVAL));
    assert_eq!(share.fs.fallocate(node, fh, 0, 1, 0x4000_0000), Err(Errno::OPNOTSUPP));
    assert_eq!(share.fs.fallocate(node, fh, u64::MAX, 1, 0), Err(Errno::FBIG));
    assert_eq!(share.fs.fallocate(node, fh, 1, i64::MAX.unsigned_abs(), 0), Err(Errno::FBIG));

    let target = share.file("b", b"");
    let fh_out = share.open(target, libc::O_RDWR).unwrap().fh;
    let copy =
        CopyRange { fh_in: fh, offset_in: 0, node_out: target, fh_out, offset_out: 10, len: 100, flags: 0 };
    assert_eq!(share.fs.copy_file_range(node, &copy), Ok(100));
    assert_eq!(fs::read(share.path("b")).unwrap(), [vec![0; 10], vec![1; 100]].concat());
    assert_eq!(share.fs.copy_file_range(node, &CopyRange { flags: 1, ..copy }), Err(Errno::INVAL));
    assert_eq!(share.fs.copy_file_range(target, &copy), Err(Errno::BADF));
    assert_eq!(share.fs.copy_file_range(node, &CopyRange { offset_in: u64::MAX, ..copy }), Err(Errno::FBIG));
    let same = CopyRange { node_out: node, fh_out: fh, ..copy };
    assert_eq!(share.fs.copy_file_range(node, &same), Err(Errno::INVAL), "overlapping");

    share.fs.fsync(node, fh, true).unwrap();
    share.fs.fsync(node, fh, false).unwrap();
    share.fs.syncfs(NodeId::ROOT).unwrap();
    let statfs = share.fs.statfs(node).unwrap();
    assert!(statfs.blocks >= statfs.bfree && statfs.frsize > 0 && statfs.namelen >= 255);
}

#[test]
fn ioctls_on_the_list_and_no_others() {
    let share = Share::new(Config::default());
    let node = share.file("a", b"");
    let fh = share.open(node, libc::O_RDONLY).unwrap().fh;
    let call = |command, input: &[u8], size| {
        let mut output = Vec::new();
        share.fs.ioctl(Caller::default(), node, fh, command, input, size, &mut output).map(|_| output)
    };
    let flags = call(0x8008_6601, &[], 4).unwrap();
    let by = |uid, input: &[u8]| {
        let caller = Caller { uid, ..Caller::default() };
        let command = if input.len() == 4 { 0x4008_6602 } else { 0x401c_5820 };
        share.fs.ioctl(caller, node, fh, command, input, 0, &mut Vec::new()).map(drop)
    };
    let owner = fs::metadata(share.path("a")).unwrap().uid();
    for (who, answer) in [(owner, Ok(())), (u32::MAX, Ok(())), (owner + 1, Err(Errno::PERM))] {
        assert_eq!(by(who, &flags), answer, "{who}: FS_IOC_SETFLAGS");
        assert_eq!(by(who, &call(0x801c_581f, &[], 28).unwrap()), answer, "{who}: FS_IOC_FSSETXATTR");
    }
    assert_eq!(call(0x8008_6601, &[], 8).unwrap(), [&flags[..], &[0; 4]].concat());
    assert_eq!(call(0x8008_6601, &[], 5), Err(Errno::INVAL));
    let flags = u32::from_ne_bytes(flags.try_into().unwrap());
    let no_dump = flags ^ 0x40;
    call(0x4008_6602, &no_dump.to_ne_bytes(), 0).unwrap();
    assert_eq!(call(0x8004_6601, &[], 4).unwrap(), no_dump.to_ne_bytes());
    let journal = no_dump ^ 0x4000;
    assert_eq!(call(0x4008_6602, &journal.to_ne_bytes(), 0), Err(Errno::PERM));
    assert_eq!(call(0x4008_6602, &[0; 3], 0), Err(Errno::INVAL));
    let mut attr = call(0x801c_581f, &[], 28).unwrap();
    assert_eq!(attr.len(), 28);
    call(0x401c_5820, &attr, 0).unwrap();
    // What the host only tells, and a guest's kernel does not send back (`copy_fsxattr_from_user`): preallocated, has attributes.
    attr[0] ^= 0x2;
    attr[3] ^= 0x80;
    call(0x401c_5820, &attr, 0).unwrap();
    attr[12] ^= 1; // the project
    assert_eq!(call(0x401c_5820, &attr, 0), Err(Errno::PERM));
    assert_eq!(call(0x401c_5820, &attr[1..], 0), Err(Errno::INVAL));
    for command in [0, 0x5401, 0xc020_660b, u32::MAX] {
        assert_eq!(call(command, &[0; 32], 32), Err(Errno::NOTTY), "{command:#x}");
    }
}
