//! Extended attributes under other names on the host: every request that names one, the list, the labels of new files,
//! capabilities and ACLs.

use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use super::*;
use crate::fuse::{SessionConfig, abi};
use crate::identity::{IdTranslation, Translation};

fn config(map: &str) -> Config {
    Config { xattr: true, xattrmap: Some(map.parse().unwrap()), killpriv_v2: true, ..Config::default() }
}

fn set(share: &Share, node: NodeId, name: &CStr, value: &[u8]) -> Result<()> {
    share.fs.setxattr(Caller::default(), node, name, value, 0, false)
}

fn get(share: &Share, node: NodeId, name: &CStr) -> Result<Vec<u8>> {
    let mut value = Vec::new();
    let length = share.fs.getxattr(node, name, 0, &mut value)?;
    // The length that is told is the length that there is.
    if let Some(short) = length.checked_sub(1).filter(|short| *short > 0) {
        assert_eq!(share.fs.getxattr(node, name, short, &mut value), Err(Errno::RANGE));
    }
    assert_eq!(share.fs.getxattr(node, name, length.max(1), &mut value), Ok(length));
    assert_eq!(u32::try_from(value.len()), Ok(length));
    Ok(value)
}

fn remove(share: &Share, node: NodeId, name: &CStr) -> Result<()> {
    share.fs.removexattr(Caller::default(), node, name)
}

/// All names, sorted.
fn list(share: &Share, node: NodeId) -> Vec<String> {
    let mut names = Vec::new();
    let length = share.fs.listxattr(node, 0, &mut names).unwrap();
    if length > 1 {
        assert_eq!(share.fs.listxattr(node, length - 1, &mut names), Err(Errno::RANGE));
    }
    assert_eq!(share.fs.listxattr(node, length.max(1), &mut names), Ok(length));
    assert_eq!(u32::try_from(names.len()), Ok(length));
    let mut names: Vec<String> = names
        .split_inclusive(|byte| *byte == 0)
        .map(|name| CStr::from_bytes_with_nul(name).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn on_host(share: &Share, file: &str, name: &str) -> std::result::Result<Vec<u8>, Errno> {
    let mut value = vec![0; 256];
    let length = lgetxattr(share.dir.path().join(file), name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

fn set_on_host(share: &Share, file: &str, name: &str, value: &[u8]) {
    lsetxattr(share.dir.path().join(file), name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn everything_goes_below_the_prefix() {
    let share = Share::new(config(":map::user.vm.:"));
    let node = share.make("f").unwrap().node;
    for name in [c"user.a", c"trusted.b", c"security.selinux", c"user.vm.c"] {
        set(&share, node, name, b"value").unwrap();
        assert_eq!(get(&share, node, name), Ok(b"value".to_vec()));
        assert_eq!(
            on_host(&share, "f", &format!("user.vm.{}", name.to_str().unwrap())),
            Ok(b"value".to_vec())
        );
    }
    set_on_host(&share, "f", "user.a", b"the host's own");
    assert_eq!(list(&share, node), ["security.selinux", "trusted.b", "user.a", "user.vm.c"]);
    remove(&share, node, c"user.a").unwrap();
    assert_eq!(remove(&share, node, c"user.a"), Err(Errno::NODATA));
    assert_eq!(get(&share, node, c"user.a"), Err(Errno::NODATA));
    assert_eq!(on_host(&share, "f", "user.a"), Ok(b"the host's own".to_vec()));
    // An ACL that the host would not apply is not stored either, whatever its name would be.
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        assert_eq!(set(&share, node, name, b"x"), Err(Errno::OPNOTSUPP));
        set_on_host(&share, "f", &format!("user.vm.{}", name.to_str().unwrap()), b"x");
        assert_eq!(get(&share, node, name), Err(Errno::OPNOTSUPP));
    }
    assert_eq!(list(&share, node), ["security.selinux", "trusted.b", "user.vm.c"]);
}

#[test]
fn a_file_without_visible_attributes_has_an_empty_list() {
    let share = Share::new(config(":map::user.vm.:"));
    let node = share.make("f").unwrap().node;
    assert!(list(&share, node).is_empty());
    set_on_host(&share, "f", "user.x", b"");
    assert!(list(&share, node).is_empty());
    assert_eq!(share.fs.listxattr(node, 1, &mut Vec::new()), Ok(0));
}

#[test]
fn refusals_have_the_errno_of_their_rule() {
    let share = Share::new(config(":unsupported:all:user.u.:user.u.: :bad:all:user.b.:user.b.: :ok:all:::"));
    let node = share.make("f").unwrap().node;
    for name in ["user.u.x", "user.b.x"] {
        set_on_host(&share, "f", name, b"hidden");
    }
    set(&share, node, c"user.x", b"shown").unwrap();
    assert_eq!(list(&share, node), ["user.x"]);
    assert_eq!(set(&share, node, c"user.b.x", b""), Err(Errno::PERM));
    assert_eq!(get(&share, node, c"user.b.x"), Err(Errno::NODATA));
    assert_eq!(remove(&share, node, c"user.b.x"), Err(Errno::PERM));
    assert_eq!(set(&share, node, c"user.u.x", b""), Err(Errno::OPNOTSUPP));
    assert_eq!(get(&share, node, c"user.u.x"), Err(Errno::OPNOTSUPP));
    assert_eq!(remove(&share, node, c"user.u.x"), Err(Errno::OPNOTSUPP));
    assert_eq!(on_host(&share, "f", "user.b.x"), Ok(b"hidden".to_vec()));
}

#[test]
fn a_name_that_gets_too_long_cannot_be_set_and_does_not_exist() {
    let share = Share::new(config(":map::user.vm.:"));
    let node = share.make("f").unwrap().node;
    let longest = c(&format!("user.{}", "x".repeat(255 - "user.vm.user.".len())));
    let too_long = c(&format!("user.{}", "x".repeat(256 - "user.vm.user.".len())));
    set(&share, node, &longest, b"value").unwrap();
    assert_eq!(get(&share, node, &longest), Ok(b"value".to_vec()));
    assert_eq!(list(&share, node), [longest.to_str().unwrap()]);
    assert_eq!(set(&share, node, &too_long, b"value"), Err(Errno::RANGE));
    assert_eq!(get(&share, node, &too_long), Err(Errno::NODATA));
    assert_eq!(remove(&share, node, &too_long), Err(Errno::NODATA));
}

#[test]
fn the_hosts_acls_have_no_other_name() {
    let share = Share::new(config(":prefix:all:posix_acl_:system.: :ok:all:::"));
    let node = share.make("f").unwrap().node;
    // A minimal ACL that grants one user more than the mode does (struct posix_acl_xattr_header and entries).
    let entry = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let acl = [
        &2_u32.to_le_bytes()[..],
        &entry(1, 6, u32::MAX),
        &entry(2, 6, 1234),
        &entry(4, 4, u32::MAX),
        &entry(0x10, 6, u32::MAX),
        &entry(0x20, 4, u32::MAX),
    ]
    .concat();
    set_on_host(&share, "f", "system.posix_acl_access", &acl);
    assert_eq!(set(&share, node, c"posix_acl_access", &acl), Err(Errno::OPNOTSUPP));
    assert_eq!(get(&share, node, c"posix_acl_access"), Err(Errno::OPNOTSUPP));
    assert!(list(&share, node).is_empty());
}

fn labelled<'a>(mode: u32, name: &'a CStr) -> NewFile<'a> {
    let mut new = new(mode);
    new.extensions.security_context = Some((name, b"label"));
    new
}

#[test]
fn labels_of_new_files_follow_the_map() {
    let share = Share::new(Config {
        security_label: Choice::Always,
        ..config(":bad:client:security.no:: :map:security.:user.vm.:")
    });
    let (fs, root, who) = (&share.fs, NodeId::ROOT, Caller::default());
    let read_write = u32::try_from(libc::O_RDWR).unwrap();
    let file = libc::S_IFREG | 0o644;
    let selinux = c"security.selinux";
    fs.mkdir(who, root, name(c"d"), &labelled(0o755, selinux)).unwrap();
    fs.mknod(who, root, name(c"n"), 0, &labelled(file, selinux)).unwrap();
    fs.create(who, root, name(c"c"), read_write, &labelled(file, selinux)).unwrap();
    for file in ["d", "n", "c"] {
        assert_eq!(on_host(&share, file, "user.vm.security.selinux"), Ok(b"label".to_vec()), "{file}");
        let node = share.lookup(root, file).unwrap().node;
        assert_eq!(get(&share, node, selinux), Ok(b"label".to_vec()), "{file}");
    }
    let (unnamed, _) = fs.tmpfile(who, root, read_write, &labelled(file, selinux)).unwrap();
    assert_eq!(get(&share, unnamed.node, selinux), Ok(b"label".to_vec()));
    // The host has no user attributes on symbolic links: an unlabelled one must not stay.
    let refused = fs.symlink(who, root, name(c"l"), c"n", &labelled(0o777, selinux));
    assert_eq!(refused.unwrap_err(), Errno::PERM);
    // What the map or the mount refuses is refused before anything is made.
    let acl = c"system.posix_acl_access";
    for (label, errno) in [(c"security.no", Errno::PERM), (acl, Errno::OPNOTSUPP)] {
        let new = labelled(file, label);
        assert_eq!(fs.mkdir(who, root, name(c"x"), &labelled(0o755, label)).unwrap_err(), errno);
        assert_eq!(fs.mknod(who, root, name(c"x"), 0, &new).unwrap_err(), errno);
        assert_eq!(fs.symlink(who, root, name(c"x"), c"n", &new).unwrap_err(), errno);
        assert_eq!(fs.create(who, root, name(c"x"), read_write, &new).unwrap_err(), errno);
        assert_eq!(fs.tmpfile(who, root, read_write, &new).unwrap_err(), errno);
    }
    let left: Vec<_> = std::fs::read_dir(share.dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn links_and_special_files_have_what_the_host_allows() {
    if !is_root() {
        return;
    }
    let share = Share::new(config(":map:user.:trusted.vm.:"));
    symlink("nowhere", share.dir.path().join("l")).unwrap();
    let node = share.lookup(NodeId::ROOT, "l").unwrap().node;
    set(&share, node, c"user.x", b"of the link").unwrap();
    assert_eq!(on_host(&share, "l", "trusted.vm.user.x"), Ok(b"of the link".to_vec()));
    assert_eq!(list(&share, node), ["user.x"]);
}

#[test]
fn renamed_capabilities_go_with_the_contents() {
    let renamed = Share::new(config(":map::user.vm.:"));
    let kept = Share::new(config(":map:trusted.:user.vm.:"));
    let offers = |share: &Share| -> u64 {
        let SessionConfig { features, .. } = share.fs.init(EVERYTHING).unwrap();
        features & abi::FUSE_HANDLE_KILLPRIV_V2
    };
    // The guest is told to see to them itself, for all changes but one.
    assert_eq!((offers(&renamed), offers(&kept)), (0, abi::FUSE_HANDLE_KILLPRIV_V2));
    let node = renamed.make("f").unwrap().node;
    let flags = |flags: i32| u32::try_from(flags).unwrap();
    let capability = c"security.capability";
    for truncate in [false, true] {
        set(&renamed, node, capability, b"opaque").unwrap();
        let wanted = if truncate { libc::O_RDWR | libc::O_TRUNC } else { libc::O_RDWR };
        renamed.fs.open(Caller::default(), node, flags(wanted), false).unwrap();
        let expected = if truncate { Err(Errno::NODATA) } else { Ok(b"opaque".to_vec()) };
        assert_eq!(get(&renamed, node, capability), expected);
    }
    // A CREATE that finds the file.
    set(&renamed, node, capability, b"opaque").unwrap();
    let new = new(libc::S_IFREG | 0o644);
    let wanted = flags(libc::O_RDWR | libc::O_TRUNC);
    renamed.fs.create(Caller::default(), NodeId::ROOT, name(c"f"), wanted, &new).unwrap();
    assert_eq!(get(&renamed, node, capability), Err(Errno::NODATA));
    // Where there are none.
    renamed.fs.open(Caller::default(), node, wanted, false).unwrap();
}

/// `struct vfs_cap_data`: CAP_NET_RAW, permitted and effective.
fn capabilities(root: Option<u32>) -> Vec<u8> {
    let version = if root.is_some() { 0x0300_0001_u32 } else { 0x0200_0001 };
    let numbers = [version, 1 << 13, 0, 0, 0].into_iter().chain(root);
    numbers.flat_map(u32::to_le_bytes).collect()
}

#[test]
fn capabilities_belong_to_the_translated_user() {
    if !is_root() {
        return;
    }
    let users = |rule: &str| IdTranslation::new(&[rule.parse().unwrap()]).unwrap();
    let translated = |rule| {
        let translation = Translation { users: users(rule), ..Translation::default() };
        Share::new(Config { xattr: true, translation, ..Config::default() })
    };
    let share = translated("map:0:100000:65536");
    std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let node = share.make("f").unwrap().node;
    let name = c"security.capability";
    for (guest, host) in [(None, 100_000), (Some(1000), 101_000)] {
        set(&share, node, name, &capabilities(guest)).unwrap();
        assert_eq!(on_host(&share, "f", "security.capability"), Ok(capabilities(Some(host))));
        assert_eq!(get(&share, node, name), Ok(capabilities(guest)));
    }
    let share = translated("forbid-guest:0:1");
    let node = share.make_as(1000, "f").node;
    assert_eq!(set(&share, node, name, &capabilities(None)), Err(Errno::PERM));
    assert_eq!(on_host(&share, "f", "security.capability"), Err(Errno::NODATA));
}

impl Share {
    /// A file of another user than root.
    fn make_as(&self, uid: u32, file: &str) -> Entry {
        std::fs::set_permissions(self.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let who = Caller { uid, gid: uid, pid: 1 };
        self.fs.mknod(who, NodeId::ROOT, name(&c(file)), 0, &new(libc::S_IFREG | 0o644)).unwrap()
    }
}
