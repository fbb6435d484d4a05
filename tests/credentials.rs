//! Does every request get the rights of its own caller, however many are served at once?
//!
//! A guest with several queues sends requests of many users, groups and supplementary groups side by side: what makes files
//! (MKDIR, MKNOD, SYMLINK, CREATE), what the host judges (ACCESS, CREATE of what exists already), what gives files away
//! (SETATTR), and opens between them. A model says of each what its caller may, from the owners and modes that this test has
//! given to the share; a single request with another's credentials, or with one left over, is a wrong answer or a
//! wrong owner.
#![allow(clippy::cast_possible_truncation, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod frontend;

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use frontend::fuse::{self, Body, Client, ROOT, u32_at, u64_at};
use frontend::{Daemon, Guest, GuestConfig};

const QUEUES: u16 = 4;
/// Requests in flight on each queue.
const DEPTH: usize = 16;
const ROUNDS: usize = 250;

/// What follows the names of a creating request: `FUSE_EXT_GROUPS` with one group.
const EXT_GROUPS: u32 = 32;
const SUPPLEMENTARY_GROUP: [u32; 3] = [16, EXT_GROUPS, 1];

/// splitmix64: the same requests in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const USERS: [u32; 9] = [0, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007];
const GROUPS: [u32; 7] = [0, 2000, 2001, 2002, 2003, 2004, 2005];

/// A caller, in the guest's ids.
#[derive(Clone, Copy, Debug)]
struct Who {
    uid: u32,
    gid: u32,
    group: Option<u32>,
}

impl Who {
    fn any(numbers: &mut Numbers) -> Self {
        let group = Some(numbers.pick(&GROUPS)).filter(|_| numbers.below(2) == 0);
        Self { uid: numbers.pick(&USERS), gid: numbers.pick(&GROUPS), group }
    }

    /// Whether the mode of a file grants all of `mask` (4 read, 2 write), as `inode_permission` of the kernel decides.
    fn may(&self, file: &Thing, mask: u32) -> bool {
        if self.uid == 0 {
            return true;
        }
        let class = if self.uid == file.uid {
            6
        } else if self.gid == file.gid || self.group == Some(file.gid) {
            3
        } else {
            0
        };
        file.mode >> class & mask == mask
    }
}

/// A directory or a file of the share, in the guest's ids.
#[derive(Clone, Debug)]
struct Thing {
    name: String,
    uid: u32,
    gid: u32,
    mode: u32,
    node: u64,
}

/// How ids of the guest become the host's: by adding these.
#[derive(Clone, Copy)]
struct Shift {
    uid: u32,
    gid: u32,
}

struct Share {
    directories: Vec<Thing>,
    files: Vec<Thing>,
    /// Where ids are translated the host says who may make a file, else the guest has said so.
    host_judges: bool,
}

impl Share {
    /// Directories that one user, one group, or all may write to, and files that one user may write and one group read.
    fn make(root: &Path, shift: Shift) -> Self {
        let thing = |name: String, uid, gid, mode| Thing { name, uid, gid, mode, node: 0 };
        let mut directories =
            vec![thing("all".into(), 0, 0, 0o777), thing("inherited".into(), 0, 2003, 0o2777)];
        directories.extend(USERS.map(|uid| thing(format!("user-{uid}"), uid, 0, 0o700)));
        directories.extend(GROUPS.map(|gid| thing(format!("group-{gid}"), 0, gid, 0o770)));
        let mut files = Vec::new();
        for uid in USERS {
            files.extend(GROUPS.map(|gid| thing(format!("file-{uid}-{gid}"), uid, gid, 0o640)));
        }
        std::fs::set_permissions(root, Permissions::from_mode(0o777)).expect("mode");
        for thing in &directories {
            std::fs::create_dir(root.join(&thing.name)).expect("directory");
        }
        for thing in &files {
            std::fs::write(root.join(&thing.name), "content").expect("file");
        }
        for thing in directories.iter().chain(&files) {
            let path = root.join(&thing.name);
            chown(&path, Some(thing.uid + shift.uid), Some(thing.gid + shift.gid)).expect("owner");
            std::fs::set_permissions(&path, Permissions::from_mode(thing.mode)).expect("mode");
        }
        Self { directories, files, host_judges: shift.uid != 0 }
    }

    fn look_up(&mut self, client: &mut Client) {
        for thing in self.directories.iter_mut().chain(&mut self.files) {
            let (node, entry) = client.lookup(ROOT, &thing.name).expect("LOOKUP");
            assert_eq!(owner(&entry), (thing.uid, thing.gid), "{}", thing.name);
            thing.node = node;
        }
    }
}

/// uid and gid in a `struct fuse_entry_out`.
fn owner(entry: &[u8]) -> (u32, u32) {
    (u32_at(entry, 108), u32_at(entry, 112))
}

/// What must come of a request.
#[derive(Debug)]
enum Outcome {
    /// A file is made with this path and owner, or `EACCES`.
    Made { path: String, owner: Option<(u32, u32)>, opened: bool },
    /// An entry and an open file, or `EACCES`.
    Opened { permitted: bool },
    /// Nothing, or `EACCES`.
    Judged { permitted: bool },
    /// Attributes with this owner.
    Given { path: String, owner: (u32, u32) },
    /// A file handle.
    Plain { node: u64 },
    /// Nothing at all.
    Released,
}

struct Request {
    opcode: u32,
    node: u64,
    who: Who,
    body: Body,
    /// Bytes of an answer that is good.
    room: u32,
    outcome: Outcome,
}

/// A group that comes after the names.
fn with_group(body: Body, group: Option<u32>) -> Body {
    let Some(group) = group else { return body };
    SUPPLEMENTARY_GROUP.into_iter().chain([group]).fold(body, Body::u32)
}

fn make(numbers: &mut Numbers, share: &Share, serial: usize) -> Request {
    let who = Who::any(numbers);
    let directory = &share.directories[numbers.below(share.directories.len())];
    let name = format!("{serial}");
    let gid = if directory.mode & 0o2000 == 0 { who.gid } else { directory.gid };
    let permitted = !share.host_judges || who.may(directory, 2);
    let owner = permitted.then_some((who.uid, gid));
    let path = format!("{}/{name}", directory.name);
    let create = fuse::CREATE;
    let opcode = numbers.pick(&[fuse::MKDIR, fuse::MKNOD, fuse::SYMLINK, create]);
    let body = match opcode {
        fuse::MKDIR => Body::new().u32(0o755).u32(0).name(&name),
        fuse::MKNOD => {
            let kind = numbers.pick(&[libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]);
            Body::new().u32(kind | 0o644).u32(0).u32(0).u32(0).name(&name)
        }
        fuse::SYMLINK => Body::new().name(&name).name("target"),
        _ => {
            let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).cast_unsigned();
            Body::new().u32(flags).u32(libc::S_IFREG | 0o644).u32(0).u32(0).name(&name)
        }
    };
    let opened = opcode == create;
    let room = if opened { 144 } else { 128 };
    let outcome = Outcome::Made { path, owner, opened };
    Request { opcode, node: directory.node, who, body: with_group(body, who.group), room, outcome }
}

fn other(numbers: &mut Numbers, share: &Share) -> Request {
    let file = &share.files[numbers.below(share.files.len())];
    let who = Who::any(numbers);
    match numbers.below(3) {
        0 => {
            let mask = numbers.pick(&[4, 2, 6]);
            // It names no supplementary group.
            let who = Who { group: None, ..who };
            let outcome = Outcome::Judged { permitted: who.may(file, mask) };
            let body = Body::new().u32(mask).u32(0);
            Request { opcode: fuse::ACCESS, node: file.node, who, body, room: 0, outcome }
        }
        1 => {
            let (flags, mask) = numbers.pick(&[(libc::O_RDONLY, 4), (libc::O_WRONLY, 2), (libc::O_RDWR, 6)]);
            let flags = (flags | libc::O_CREAT).cast_unsigned();
            let body = Body::new().u32(flags).u32(libc::S_IFREG | 0o644).u32(0).u32(0).name(&file.name);
            let outcome = Outcome::Opened { permitted: who.may(file, mask) };
            let body = with_group(body, who.group);
            Request { opcode: fuse::CREATE, node: ROOT, who, body, room: 144, outcome }
        }
        _ => {
            let body = Body::new().u32(libc::O_RDWR.cast_unsigned()).u32(0);
            let outcome = Outcome::Plain { node: file.node };
            Request { opcode: fuse::OPEN, node: file.node, who, body, room: 16, outcome }
        }
    }
}

fn give(numbers: &mut Numbers, node: u64, path: String) -> Request {
    let owner = (numbers.pick(&USERS), numbers.pick(&GROUPS));
    const UID_AND_GID: u32 = 1 << 1 | 1 << 2;
    let body = Body::new().u32(UID_AND_GID).bytes(&[0; 72]).u32(owner.0).u32(owner.1).u32(0);
    let who = Who { uid: 0, gid: 0, group: None };
    Request { opcode: fuse::SETATTR, node, who, body, room: 104, outcome: Outcome::Given { path, owner } }
}

fn release(node: u64, fh: u64) -> Request {
    let body = Body::new().u64(fh).u32(0).u32(0).u64(0);
    let who = Who { uid: 0, gid: 0, group: None };
    Request { opcode: fuse::RELEASE, node, who, body, room: 0, outcome: Outcome::Released }
}

/// Everything that was answered, for the look at the host.
#[derive(Default)]
struct Ledger {
    owners: BTreeMap<String, (u32, u32)>,
    /// Files whose owner can be changed.
    made: Vec<(u64, String)>,
    /// Open files.
    open: Vec<(u64, u64)>,
    permitted: usize,
    refused: usize,
}

impl Ledger {
    fn judge(&mut self, request: Request, answer: Result<Vec<u8>, i32>) {
        let Request { opcode, node, who, outcome, .. } = request;
        let what = format!("opcode {opcode} on node {node} by {who:?}: {outcome:?}, answered {answer:?}");
        let permitted = match &outcome {
            Outcome::Made { owner, .. } => owner.is_some(),
            Outcome::Opened { permitted } | Outcome::Judged { permitted } => *permitted,
            Outcome::Given { .. } | Outcome::Plain { .. } | Outcome::Released => true,
        };
        if !permitted {
            self.refused += 1;
            return assert_eq!(answer, Err(libc::EACCES), "{what}");
        }
        self.permitted += 1;
        let answer = answer.unwrap_or_else(|errno| panic!("errno {errno} for {what}"));
        match outcome {
            Outcome::Made { path, owner: expected, opened } => {
                assert_eq!(Some(owner(&answer)), expected, "{what}");
                let node = u64_at(&answer, 0);
                if opened {
                    self.open.push((node, u64_at(&answer, 128)));
                }
                self.owners.extend(expected.map(|owner| (path.clone(), owner)));
                self.made.push((node, path));
            }
            Outcome::Given { path, owner } => {
                assert_eq!((u32_at(&answer, 84), u32_at(&answer, 88)), owner, "{what}");
                self.owners.insert(path, owner);
            }
            Outcome::Opened { .. } => self.open.push((u64_at(&answer, 0), u64_at(&answer, 128))),
            Outcome::Plain { node } => self.open.push((node, u64_at(&answer, 0))),
            Outcome::Judged { .. } | Outcome::Released => {}
        }
    }
}

/// Sends all requests before it takes the first answer, in turn on all queues.
fn at_once(client: &mut Client, requests: Vec<Request>, unique: &mut u64, ledger: &mut Ledger) {
    let guest = &mut client.guest;
    let mark = guest.ram.mark();
    let mut flying = BTreeMap::new();
    for (at, request) in requests.into_iter().enumerate() {
        let queue = 1 + at % usize::from(QUEUES);
        *unique += 2;
        let who = request.who;
        let mut bytes =
            fuse::message(request.opcode, *unique, request.node, who.uid, who.gid, &request.body.0);
        if who.group.is_some() {
            // total_extlen, in units of 8 bytes.
            bytes[36] = 2;
        }
        let room = request.room + fuse::OUT_HEADER as u32;
        let (readable, writable) = (guest.ram.alloc(bytes.len() as u64), guest.ram.alloc(u64::from(room)));
        guest.ram.write(readable, &bytes);
        let head = guest.offer(queue, &[(readable, bytes.len() as u32, false), (writable, room, true)]);
        flying.insert((queue, u32::from(head)), (request, *unique, writable));
    }
    while let Some(((queue, _), _)) = flying.first_key_value() {
        let queue = *queue;
        let (head, length) = guest.take_used(queue);
        let (request, unique, writable) = flying.remove(&(queue, head)).expect("a request of ours");
        let answer = fuse::check_answer(&guest.ram.read(writable, length as usize), unique);
        ledger.judge(request, answer);
    }
    guest.ram.rewind(mark);
}

fn stress(options: &[&str], shift: Shift) {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can act for many users");
    }
    let daemon = Daemon::start(options);
    let mut share = Share::make(&daemon.share(), shift);
    let config = GuestConfig { request_queues: QUEUES, ..GuestConfig::default() };
    let mut client = Client::mount(Guest::connect(&daemon.socket(), config));
    share.look_up(&mut client);
    let mut numbers = Numbers(5);
    let (mut ledger, mut unique) = (Ledger::default(), 1 << 32);
    for round in 0..ROUNDS {
        let capacity = usize::from(QUEUES) * DEPTH;
        let mut requests = Vec::with_capacity(capacity);
        requests.extend(ledger.open.drain(..).map(|(node, fh)| release(node, fh)));
        requests.truncate(capacity / 2);
        while requests.len() < capacity {
            let chosen = match numbers.below(8) {
                0 if !ledger.made.is_empty() => {
                    let (node, path) = ledger.made.swap_remove(numbers.below(ledger.made.len()));
                    give(&mut numbers, node, path)
                }
                0..=4 => make(&mut numbers, &share, round * capacity + requests.len()),
                _ => other(&mut numbers, &share),
            };
            requests.push(chosen);
        }
        at_once(&mut client, requests, &mut unique, &mut ledger);
    }
    let Ledger { owners, permitted, refused, .. } = ledger;
    println!("{options:?}: {permitted} requests granted, {refused} refused, {} files made", owners.len());
    // The host has what the answers said, and nothing else.
    let mut found = BTreeMap::new();
    for directory in &share.directories {
        for file in std::fs::read_dir(daemon.share().join(&directory.name)).expect("directory") {
            let file = file.expect("entry");
            let stat = file.path().symlink_metadata().expect("attributes");
            let name = format!("{}/{}", directory.name, file.file_name().display());
            found.insert(name, (stat.uid() - shift.uid, stat.gid() - shift.gid));
        }
    }
    assert_eq!(found, owners);
    for file in &share.files {
        let stat = daemon.share().join(&file.name).metadata().expect("attributes");
        assert_eq!((stat.uid(), stat.gid()), (file.uid + shift.uid, file.gid + shift.gid), "{}", file.name);
    }
    // Both outcomes were tried often enough to mean something.
    assert!(permitted > 3000 && refused > 1000, "{permitted} granted, {refused} refused");
}

#[test]
fn every_request_has_its_own_callers_rights() {
    stress(&["--queues", "4"], Shift { uid: 0, gid: 0 });
}

#[test]
fn and_so_it_has_where_ids_are_translated() {
    let rules = ["--translate-uid", "map:0:100000:65536", "--translate-gid", "map:0:200000:65536"];
    stress(&[&["--queues", "4"], &rules[..]].concat(), Shift { uid: 100_000, gid: 200_000 });
}
