//! Checks of POSIX ACLs, for a share that has them on: permission by ACL, inheritance of defaults, the umask with and without them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};

use crate::check::{Check, Outcome, Place, refused, same};
use crate::sys::{as_user, umask};

/// The checks of this family.
pub const CHECKS: &[Check] = &[
    Check { name: "acl-set-get", run: set_get },
    Check { name: "acl-permits", run: permits },
    Check { name: "acl-mask-is-group-mode", run: mask_is_group_mode },
    Check { name: "acl-default-inherited", run: default_inherited },
    Check { name: "acl-default-overrides-umask", run: default_overrides_umask },
    Check { name: "acl-none-umask-applies", run: umask_without_default },
    Check { name: "acl-removed", run: removed },
    Check { name: "acl-set-by-stranger", run: set_by_stranger },
    Check { name: "acl-setgid-cleared", run: setgid_cleared },
];

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Entry tags of include/uapi/linux/posix_acl.h; the number is the user or group that the entry names.
#[derive(Clone, Copy)]
enum Who {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

/// The attribute value of an ACL (posix_acl_xattr.h): version 2, then tag, permissions and id of each entry.
fn encode(entries: &[(Who, u16)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (who, permissions) in entries {
        let (tag, id): (u16, u32) = match *who {
            Who::Owner => (0x01, u32::MAX),
            Who::User(id) => (0x02, id),
            Who::OwningGroup => (0x04, u32::MAX),
            Who::Group(id) => (0x08, id),
            Who::Mask => (0x10, u32::MAX),
            Who::Other => (0x20, u32::MAX),
        };
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn set(path: &Path, kind: &str, entries: &[(Who, u16)]) -> rustix::io::Result<()> {
    setxattr(path, kind, &encode(entries), XattrFlags::empty())
}

fn get(path: &Path, kind: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 4096];
    let len = getxattr(path, kind, &mut *value)?;
    value.truncate(len);
    Ok(value)
}

fn mode(path: &Path) -> std::io::Result<u32> {
    fs::metadata(path).map(|meta| meta.mode() & 0o7777)
}

/// Owner rw, user 1000 rw, group r, group 2000 rw, mask, others nothing.
fn sample(mask: u16) -> [(Who, u16); 6] {
    [
        (Who::Owner, 6),
        (Who::User(1000), 6),
        (Who::OwningGroup, 4),
        (Who::Group(2000), 6),
        (Who::Mask, mask),
        (Who::Other, 0),
    ]
}

/// As the sample, with search permission, for directories.
const DIRECTORY: [(Who, u16); 5] =
    [(Who::Owner, 7), (Who::User(1000), 7), (Who::OwningGroup, 5), (Who::Mask, 7), (Who::Other, 0)];

fn set_get(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    refused("get without an ACL", get(&path, ACCESS), libc::ENODATA)?;
    set(&path, ACCESS, &sample(6))?;
    same("value", get(&path, ACCESS)?, encode(&sample(6)))?;
    refused("a default ACL of a file", set(&path, DEFAULT, &sample(6)), libc::EACCES)?;
    refused("an ACL without a mask", set(&path, ACCESS, &[(Who::Owner, 6), (Who::User(1), 6)]), libc::EINVAL)
}

fn permits(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    let write = |uid, gid, groups: &[u32]| {
        as_user(uid, gid, groups, || OpenOptions::new().write(true).open(&path).map(|_| ()))
    };
    refused("user 1000 before", write(1000, 1000, &[])?, libc::EACCES)?;
    set(&path, ACCESS, &sample(6))?;
    write(1000, 1000, &[])??;
    write(1001, 2000, &[])??;
    write(1001, 1001, &[5, 2000])??;
    refused("a stranger", write(1001, 1001, &[])?, libc::EACCES)?;
    set(&path, ACCESS, &sample(4))?;
    refused("user 1000 under a mask", write(1000, 1000, &[])?, libc::EACCES)?;
    as_user(1000, 1000, &[], || File::open(&path).map(|_| ()))??;
    Ok(())
}

fn mask_is_group_mode(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    set(&path, ACCESS, &sample(6))?;
    same("mode", mode(&path)?, 0o660)?;
    fs::set_permissions(&path, Permissions::from_mode(0o640))?;
    same("the ACL after chmod", get(&path, ACCESS)?, encode(&sample(4)))
}

fn default_inherited(place: &Place) -> Outcome {
    set(place.dir(), DEFAULT, &DIRECTORY)?;
    let dir = place.path("dir");
    fs::create_dir(&dir)?;
    same("default of a new directory", get(&dir, DEFAULT)?, encode(&DIRECTORY))?;
    fs::create_dir(dir.join("below"))?;
    same("and of one below it", get(&dir.join("below"), DEFAULT)?, encode(&DIRECTORY))?;
    let path = dir.join("file");
    OpenOptions::new().write(true).create_new(true).mode(0o664).open(&path)?;
    same("mode of a new file", mode(&path)?, 0o660)?;
    refused("a file has no default", get(&path, DEFAULT), libc::ENODATA)?;
    let write = |uid| as_user(uid, uid, &[], || OpenOptions::new().write(true).open(&path).map(|_| ()));
    fs::set_permissions(place.dir(), Permissions::from_mode(0o755))?;
    write(1000)??;
    refused("a stranger", write(1001)?, libc::EACCES)
}

/// Creates one object of each kind with the mask 077 and returns their modes.
fn create_masked(dir: &Path) -> std::io::Result<[u32; 3]> {
    let old = umask(0o077);
    let made = (|| {
        OpenOptions::new().write(true).create_new(true).mode(0o666).open(dir.join("file"))?;
        fs::create_dir(dir.join("dir"))?;
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0)?;
        Ok::<_, std::io::Error>(())
    })();
    umask(old);
    made?;
    Ok([mode(&dir.join("file"))?, mode(&dir.join("dir"))?, mode(&dir.join("fifo"))?])
}

fn default_overrides_umask(place: &Place) -> Outcome {
    set(place.dir(), DEFAULT, &DIRECTORY)?;
    same("modes of file, directory, fifo", create_masked(place.dir())?, [0o660, 0o770, 0o660])
}

fn umask_without_default(place: &Place) -> Outcome {
    same("modes of file, directory, fifo", create_masked(place.dir())?, [0o600, 0o700, 0o600])
}

fn removed(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    set(&path, ACCESS, &sample(6))?;
    removexattr(&path, ACCESS)?;
    refused("get afterwards", get(&path, ACCESS), libc::ENODATA)?;
    set(place.dir(), DEFAULT, &DIRECTORY)?;
    removexattr(place.dir(), DEFAULT)?;
    refused("get of the default afterwards", get(place.dir(), DEFAULT), libc::ENODATA)?;
    let write = as_user(1000, 1000, &[], || OpenOptions::new().write(true).open(&path).map(|_| ()))?;
    refused("user 1000 afterwards", write, libc::EACCES)
}

fn set_by_stranger(place: &Place) -> Outcome {
    let path = place.file("file", b"x")?;
    let result = as_user(1000, 1000, &[], || set(&path, ACCESS, &sample(6)))?;
    refused("an ACL set by a stranger", result, libc::EPERM)
}

fn setgid_cleared(place: &Place) -> Outcome {
    // posix_acl_update_mode(): an owner outside the file's group loses the set-group-id bit when he sets an ACL.
    let path = place.file("file", b"x")?;
    std::os::unix::fs::chown(&path, Some(1000), Some(3000))?;
    fs::set_permissions(&path, Permissions::from_mode(0o2770))?;
    as_user(1000, 1000, &[], || set(&path, ACCESS, &sample(6)))??;
    same("mode", mode(&path)?, 0o660)
}
