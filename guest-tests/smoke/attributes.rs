//! Checks of what an inode says about itself: mode, owner, times, statx, statfs, access, inode flags.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    Access, AtFlags, CWD, IFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, accessat,
    futimens, ioctl_getflags, ioctl_setflags, statx, utimensat,
};

use crate::check::{Check, Outcome, Place, holds, refused, same};
use crate::sys;

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "chmod", run: chmod },
    Check { name: "chown", run: change_owner },
    Check { name: "utimensat", run: set_times },
    Check { name: "times-advance", run: times_advance },
    Check { name: "statx", run: statx_fields },
    Check { name: "stat-open-handle", run: stat_open_handle },
    Check { name: "statfs", run: statfs },
    Check { name: "access", run: access },
    Check { name: "umask", run: umask },
    Check { name: "inode-flags", run: inode_flags },
    Check { name: "inode-fsxattr", run: inode_fsxattr },
];

fn chmod(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    for mode in [0, 0o400, 0o7777, 0o1644, 0o2755, 0o4755, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        same("mode", fs::metadata(&path)?.mode() & 0o7777, mode)?;
    }
    File::open(&path)?.set_permissions(Permissions::from_mode(0o600))?;
    same("mode by handle", fs::metadata(&path)?.mode() & 0o7777, 0o600)
}

fn change_owner(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    let owner = || fs::symlink_metadata(&path).map(|meta| (meta.uid(), meta.gid()));
    chown(&path, Some(1234), Some(4321))?;
    same("owner", owner()?, (1234, 4321))?;
    chown(&path, None, Some(5))?;
    same("owner, group changed", owner()?, (1234, 5))?;
    chown(&path, Some(6), None)?;
    same("owner, user changed", owner()?, (6, 5))?;
    std::os::unix::fs::fchown(File::open(&path)?, Some(4_000_000_000), Some(7))?;
    same("a large user id", owner()?, (4_000_000_000, 7))?;
    symlink("file", place.path("link"))?;
    lchown(place.path("link"), Some(8), Some(9))?;
    same("owner of the link", fs::symlink_metadata(place.path("link"))?.uid(), 8)?;
    same("owner of the target", owner()?, (4_000_000_000, 7))
}

fn set_times(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    let at = |tv_sec: i64, tv_nsec: i64| Timespec { tv_sec, tv_nsec };
    let times = || {
        let meta = fs::symlink_metadata(&path)?;
        Ok::<_, std::io::Error>(((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())))
    };
    let set = |atime, mtime| {
        let times = Timestamps { last_access: atime, last_modification: mtime };
        utimensat(CWD, &path, &times, AtFlags::empty())
    };
    set(at(1_000_000_000, 123_456_789), at(2_000_000_000, 987_654_321))?;
    same("times", times()?, ((1_000_000_000, 123_456_789), (2_000_000_000, 987_654_321)))?;
    set(at(0, UTIME_OMIT), at(5_000_000_000, 1))?;
    same("mtime after 2038, atime omitted", times()?, ((1_000_000_000, 123_456_789), (5_000_000_000, 1)))?;
    set(at(-1_000_000, 5), at(0, UTIME_OMIT))?;
    same("atime before 1970, mtime omitted", times()?, ((-1_000_000, 5), (5_000_000_000, 1)))?;
    let before = SystemTime::now() - Duration::from_secs(3);
    set(at(0, UTIME_NOW), at(0, UTIME_NOW))?;
    holds(
        "now is now",
        fs::metadata(&path)?.modified()? > before && fs::metadata(&path)?.accessed()? > before,
    )?;
    let handle = File::open(&path)?;
    futimens(&handle, &Timestamps { last_access: at(7, 8), last_modification: at(9, 10) })?;
    same("times by handle", times()?, ((7, 8), (9, 10)))?;
    symlink("absent", place.path("link"))?;
    let times = Timestamps { last_access: at(1, 2), last_modification: at(3, 4) };
    utimensat(CWD, place.path("link"), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    same("mtime of the link", fs::symlink_metadata(place.path("link"))?.mtime(), 3)
}

fn times_advance(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    let old = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
    let reset = || {
        let times = Timestamps { last_access: old, last_modification: old };
        utimensat(CWD, &path, &times, AtFlags::empty())
    };
    reset()?;
    let changed = fs::metadata(&path)?;
    holds("setting times changes ctime to now", changed.ctime() > 1_000_000_000)?;
    fs::write(&path, "y")?;
    holds("a write advances mtime", fs::metadata(&path)?.mtime() > 1_000_000)?;
    reset()?;
    File::options().write(true).open(&path)?.set_len(0)?;
    holds("a truncation advances mtime", fs::metadata(&path)?.mtime() > 1_000_000)?;
    reset()?;
    std::thread::sleep(Duration::from_millis(20));
    let before = fs::metadata(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    let after = fs::metadata(&path)?;
    same("chmod leaves mtime", after.mtime(), 1_000_000)?;
    holds(
        "chmod advances ctime",
        (after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()),
    )?;
    let dir = place.path("dir");
    fs::create_dir(&dir)?;
    let times = Timestamps { last_access: old, last_modification: old };
    utimensat(CWD, &dir, &times, AtFlags::empty())?;
    File::create(dir.join("entry"))?;
    holds("a creation advances the directory's mtime", fs::metadata(&dir)?.mtime() > 1_000_000)
}

fn statx_fields(place: &Place) -> Outcome {
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let path = place.file("file", &[7; 5000])?;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    holds(
        "every basic field is valid",
        StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BASIC_STATS),
    )?;
    let meta = fs::metadata(&path)?;
    same("inode number", stat.stx_ino, meta.ino())?;
    same("size", stat.stx_size, 5000)?;
    same("mode", u32::from(stat.stx_mode), meta.mode())?;
    same("links", stat.stx_nlink, 1)?;
    same("mtime", stat.stx_mtime.tv_sec, meta.mtime())?;
    place.guest_has("STATX", (6, 6))?;
    holds("birth time is valid", StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME))?;
    let birth = u64::try_from(stat.stx_btime.tv_sec).unwrap_or_default();
    holds("birth time is about now", birth + 3 > before && birth < before + 3600)?;
    File::options().append(true).open(&path)?.set_len(1)?;
    let later = statx(CWD, &path, AtFlags::STATX_FORCE_SYNC, wanted)?;
    same("birth time never changes", later.stx_btime.tv_nsec, stat.stx_btime.tv_nsec)?;
    statx(CWD, &path, AtFlags::STATX_DONT_SYNC, StatxFlags::SIZE)?;
    Ok(())
}

fn stat_open_handle(place: &Place) -> Outcome {
    let file = File::create(place.path("file"))?;
    for (bytes, size) in [(10, 10), (0, 0), (4097, 4097)] {
        file.set_len(bytes)?;
        same("size by handle", file.metadata()?.size(), size)?;
        same("size by name", fs::metadata(place.path("file"))?.size(), size)?;
    }
    Ok(())
}

fn statfs(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    let by_path = rustix::fs::statvfs(&path)?;
    let by_handle = rustix::fs::fstatvfs(File::open(&path)?)?;
    same("blocks", by_path.f_blocks, by_handle.f_blocks)?;
    same("longest name", by_path.f_namemax, 255)?;
    holds("blocks > 0", by_path.f_blocks > 0 && by_path.f_bsize > 0)?;
    holds("free <= all", by_path.f_bfree <= by_path.f_blocks && by_path.f_bavail <= by_path.f_bfree)
}

fn access(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    chown(&path, Some(1000), Some(1000))?;
    fs::set_permissions(&path, Permissions::from_mode(0o640))?;
    let may = |access| accessat(CWD, &path, access, AtFlags::empty());
    may(Access::EXISTS | Access::READ_OK | Access::WRITE_OK)?;
    refused("root executing what nobody may", may(Access::EXEC_OK), libc::EACCES)?;
    let as_owner = sys::as_user(1000, 1000, &[], || may(Access::READ_OK | Access::WRITE_OK))?;
    same("owner reads and writes", as_owner, Ok(()))?;
    let in_group = sys::as_user(1001, 1001, &[5, 1000], || (may(Access::READ_OK), may(Access::WRITE_OK)))?;
    same("a supplementary group reads", in_group.0, Ok(()))?;
    refused("a supplementary group writes", in_group.1, libc::EACCES)?;
    let others = sys::as_user(1001, 1001, &[], || (may(Access::EXISTS), may(Access::READ_OK)))?;
    same("others see it", others.0, Ok(()))?;
    refused("others read", others.1, libc::EACCES)
}

fn umask(place: &Place) -> Outcome {
    let old = sys::umask(0o027);
    let made = (|| {
        File::options().write(true).create_new(true).mode(0o666).open(place.path("file"))?;
        fs::create_dir(place.path("dir"))?;
        rustix::fs::mknodat(CWD, place.path("fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0)?;
        Ok::<_, std::io::Error>(())
    })();
    sys::umask(old);
    made?;
    for (name, want) in [("file", 0o640), ("dir", 0o750), ("fifo", 0o640)] {
        same(name, fs::metadata(place.path(name))?.mode() & 0o7777, want)?;
    }
    Ok(())
}

fn inode_flags(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    let file = File::open(&path)?;
    let before = ioctl_getflags(&file)?;
    ioctl_setflags(&file, before | IFlags::NODUMP | IFlags::NOATIME)?;
    holds("flags are kept", ioctl_getflags(&file)?.contains(IFlags::NODUMP | IFlags::NOATIME))?;
    ioctl_setflags(&file, before)?;
    same("flags are taken back", ioctl_getflags(&file)?, before)?;
    same("flags of a directory can be read", ioctl_getflags(File::open(place.dir())?).is_ok(), true)
}

fn inode_fsxattr(place: &Place) -> Outcome {
    const FS_XFLAG_NODUMP: u32 = 0x80;
    let file = File::open(place.file("file", b"x")?)?;
    let mut value = sys::get_fsxattr(&file)?;
    same("no flag at first", value.xflags & FS_XFLAG_NODUMP, 0)?;
    value.xflags |= FS_XFLAG_NODUMP;
    sys::set_fsxattr(&file, value)?;
    same("the flag afterwards", sys::get_fsxattr(&file)?.xflags & FS_XFLAG_NODUMP, FS_XFLAG_NODUMP)?;
    holds("the other interface agrees", ioctl_getflags(&file)?.contains(IFlags::NODUMP))
}
