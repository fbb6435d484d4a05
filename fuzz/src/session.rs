//! What happens while a guest has the share mounted, and what must hold?
//!
//! Oracles: nothing beside the share is changed or read (`ground`), no answer is one that a kernel would not take or that
//! speaks of a file outside (`answers`), no descriptor leads out of the share while the guest has it mounted, and none is
//! left when it has unmounted. Where the guest has the device under the share, what it was told of a file's place is true
//! until it might have closed the file. What must hold where the window has that device is in `blocks`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use extentfsd::extents::{Identity, Volume, Window};
use extentfsd::fs::{
    CacheMode, Choice, Config, DirectPolicy, ExtentDialect, InodeFileHandles, Limits, Passthrough,
    ReadDirPlus,
};
use extentfsd::fuse::{Direction, Handled, Server, Transfer};

use crate::blocks::{self, Requests};
use crate::descriptors::{open_files, opened_since};
use crate::disk;
use crate::ground::Ground;
use crate::input::Input;
use crate::messages::{Guest, Message, Told};

/// Requests of one input at most: what comes later in a long one teaches nothing new.
const MOST: usize = 64;

/// Where records of a file lead, as the operator says it (`--extent-source`).
#[derive(Debug)]
pub enum Source {
    /// To a window; sometimes there is none.
    File,
    /// To the device under the share.
    Device(Volume),
    /// To a window over that device.
    Block(Volume),
}

/// Mounts the share of this ground, does what the input says, unmounts.
///
/// # Panics
/// Something does not hold that has to.
pub fn run(mut input: Input<'_>, ground: &Ground, source: Source) {
    let (root, proc_self_fd) = ground.fresh_share();
    if let Source::Block(_) = source {
        blocks::lay_out(ground);
    }
    let trace = ground.trace();
    let mut guest = Guest::new(ground.foreign_inodes());
    let before = open_files();
    let on_device = matches!(source, Source::Device(_));
    // The share, /proc, and of a volume the lock on the device and what moves bytes on it.
    let ours = 2 + match source {
        Source::File => 0,
        Source::Device(_) => 1,
        Source::Block(_) => 2,
    };
    let mut fs = Passthrough::new(config(&mut input), root, proc_self_fd).expect("a share");
    let window = input.once_in(2);
    let mut requests = None;
    match source {
        Source::Device(volume) => fs = fs.with_volume(volume),
        Source::Block(volume) => {
            let Identity { logical_block, read_only, .. } = *volume.identity();
            let window = Window::new(Identity::new(b"fuzz", logical_block, read_only)).over(volume);
            let window = Arc::new(window);
            requests = Some(Requests::new(&window));
            fs = fs.with_window(window);
        }
        Source::File if window => {
            fs = fs.with_window(Arc::new(Window::new(Identity::new(b"fuzz", 512, false))));
        }
        Source::File => {}
    }
    let server = Server::new(fs);
    let offered = if input.once_in(8) { input.u64() } else { u64::MAX };
    let minor = input.one_of(&[45, 44, 31, 38]);
    let mut late = Vec::new();
    // A mount as usual, but now and then the first request comes without.
    if !input.once_in(16) {
        let init = guest.init(minor, offered);
        serve(&server, &mut guest, &init, &mut late);
    }
    let idle = open_files();
    if let Some(requests) = requests.as_mut().filter(|_| !input.once_in(4)) {
        for message in guest.begin() {
            let message = message(&mut guest);
            requests.during(&mut guest, &message, ground, |guest| {
                serve(&server, guest, &message, &mut late);
            });
        }
    }
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let message = match requests.as_mut().map(|requests| (requests, input.u8())) {
            None => guest.ask(&mut input),
            Some((_, 0..=79)) => guest.ask_of_a_file(&mut input),
            Some((_, 80..=119)) => guest.ask(&mut input),
            Some((requests, 120..=149)) => {
                requests.use_often(&mut input);
                continue;
            }
            Some((requests, _)) => {
                requests.request(&mut input, ground);
                continue;
            }
        };
        match requests.as_mut() {
            None => serve(&server, &mut guest, &message, &mut late),
            Some(requests) => {
                requests.during(&mut guest, &message, ground, |guest| {
                    serve(&server, guest, &message, &mut late);
                });
            }
        }
        look_around(&before, ground);
        if on_device {
            guest.told.iter().for_each(|told| is_there_still(ground, told));
        }
    }
    server.cancel_waits();
    for (message, answer) in late {
        // Many short waits: this process may be stopped during one.
        let answer = (0..1000).find_map(|_| answer.recv_timeout(Duration::from_millis(10)).ok());
        let answer = answer.expect("an answer to a lock that was waited for");
        guest.listen(&message, &answer, 0);
    }
    let over_device = requests.is_some();
    if let Some(requests) = &mut requests {
        requests.end();
    }
    let destroy = guest.destroy();
    serve(&server, &mut guest, &destroy, &mut Vec::new());
    assert_eq!(open_files().len(), idle.len(), "descriptors after DESTROY: {:?}", opened_since(&idle));
    drop((server, requests));
    assert_eq!(
        open_files().len(),
        before.len() - ours,
        "descriptors at the end: {:?}",
        opened_since(&before)
    );
    if over_device {
        blocks::look_at_files(ground);
    }
    assert_eq!(ground.trace(), trace, "something outside the share was touched");
}

/// What the operator could have decided.
fn config(input: &mut Input<'_>) -> Config {
    let [a, b, c] = input.array();
    let bit = |byte: u8, bit: u32| byte >> bit & 1 == 1;
    Config {
        cache: [CacheMode::Auto, CacheMode::Never, CacheMode::Always, CacheMode::Metadata]
            [usize::from(a & 3)],
        xattr: !bit(a, 2),
        posix_acl: if bit(a, 3) { Choice::Never } else { Choice::Auto },
        security_label: if bit(a, 4) { Choice::Auto } else { Choice::Never },
        writeback: bit(a, 5),
        allow_direct_io: !bit(a, 6),
        allow_mmap: bit(a, 7),
        readdirplus: if bit(b, 0) { ReadDirPlus::Never } else { ReadDirPlus::Always },
        direct: if bit(b, 1) { DirectPolicy::Always } else { DirectPolicy::Auto },
        inode_file_handles: if bit(b, 2) { InodeFileHandles::Never } else { InodeFileHandles::Prefer },
        killpriv_v2: bit(b, 3),
        preserve_noatime: bit(b, 4),
        posix_lock: !bit(b, 5),
        flock: !bit(b, 6),
        read_only: b == 0xff,
        extent_dialect: if bit(c, 0) { ExtentDialect::Rfc2025 } else { ExtentDialect::Private },
        limits: Limits {
            max_descriptors: if bit(c, 7) { 8 } else { 500 },
            max_handles: if bit(c, 1) { 2 } else { 100 },
            max_nodes: if bit(c, 2) { 4 } else { 100 },
            hot_descriptors: if bit(c, 3) { 0 } else { 8 },
            max_window_opens: if bit(c, 4) { 1 } else { 16 },
            max_locks: if bit(c, 5) { 3 } else { 100 },
            max_lock_waiters: if bit(c, 6) { 1 } else { 8 },
            ..Limits::default()
        },
        ..Config::default()
    }
}

/// Serves a request as a ring would. The answers of locks that have to be waited for come later.
fn serve(
    server: &Server<Passthrough>,
    guest: &mut Guest,
    message: &Message,
    late: &mut Vec<(Message, mpsc::Receiver<Vec<u8>>)>,
) {
    let (mut answer, mut moved) = (Vec::new(), 0);
    let wanted = server.head_len(message.head.get(..server.peek_len()).unwrap_or(&message.head));
    assert!(
        wanted == usize::MAX || message.head.len() >= 40,
        "the length of a head whose beginning is not there"
    );
    if message.room % 2 == 1 && message.room >= server.reply_head_len() {
        // What a ring says where the rest of a request lies in no memory.
        let fault = std::io::Error::from_raw_os_error(libc::EFAULT);
        server.fail(&message.head, &fault, &mut answer);
        return guest.listen(message, &answer, 0);
    }
    match server.handle(&message.head, message.payload, message.room, &mut answer) {
        Handled::Reply => {}
        Handled::NoReply => answer.clear(),
        Handled::Transfer(transfer) => {
            let mut buffer = Vec::new();
            let outcome = carry_out(&transfer, message, &mut buffer);
            if let (Direction::Read, Ok(bytes)) = (transfer.direction, &outcome) {
                moved = *bytes;
                buffer.truncate(moved);
                guest.read = buffer;
            }
            server.finish(&message.head, &transfer, outcome, &mut answer);
        }
        Handled::Blocking => {
            let (sender, receiver) = mpsc::channel();
            let respond = Box::new(move |answer| sender.send(answer).expect("somebody waits"));
            server.handle_blocking(&message.head, message.room, respond);
            match receiver.try_recv() {
                Ok(now) => answer = now,
                Err(_) => return late.push((message.clone(), receiver)),
            }
        }
    }
    guest.listen(message, &answer, moved);
}

/// Moves the bytes of a READ or WRITE between the host's file and a buffer that stands for guest memory.
fn carry_out(transfer: &Transfer, message: &Message, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    let len = transfer.len as usize;
    let there = match transfer.direction {
        Direction::Read => message.room - 16,
        Direction::Write => message.payload,
    };
    // The ring looks first whether the chain is long enough.
    if len > there {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    buffer.resize(len, b'w');
    let file = transfer.file.buffered();
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len };
    let (fd, offset) = (file.as_fd().as_raw_fd(), transfer.offset as i64);
    // SAFETY: the one part is the buffer, which is not looked at meanwhile.
    let moved = unsafe {
        match transfer.direction {
            Direction::Read => libc::preadv2(fd, &part, 1, offset, transfer.rw_flags),
            Direction::Write => libc::pwritev2(fd, &part, 1, offset, transfer.rw_flags),
        }
    };
    usize::try_from(moved).map_err(|_| std::io::Error::last_os_error())
}

/// Whether a file is still where the guest was told.
fn is_there_still(ground: &Ground, told: &Told) {
    let path =
        ground.find(told.ino).unwrap_or_else(|| panic!("a file that was told of has no name: {told:?}"));
    for into in [0, told.length - 1] {
        let found = disk::address(&path, told.offset + into);
        assert_eq!(found, Some(told.address + into), "where {} is: {told:?}", path.display());
    }
}

/// Whether all that was opened since `before` lies in the share.
fn look_around(before: &BTreeMap<u32, PathBuf>, ground: &Ground) {
    let (share, root) = (ground.share(), ground.root().to_string_lossy());
    for file in opened_since(before) {
        // A file without a name of its own, and one that lost its name, are named after the file system.
        let known = file.starts_with(&share)
            || Path::new("/proc").starts_with(&file)
            || file.starts_with("anon_inode:");
        let name = file.to_string_lossy();
        let nameless = name.starts_with(&format!("{root}/#")) || name == "/";
        assert!(known || nameless, "{} is open", file.display());
    }
}
