//! A file system that writes down what it was asked and agrees to everything.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;

use crate::fuse::*;

/// A node that may keep a thread waiting.
pub(super) const REMOTE: NodeId = NodeId(0x7e);

/// A node of which the guest moves bytes past FUSE.
pub(super) const PAST_FUSE: NodeId = NodeId(0x7f);

/// One where somebody else is about to end that.
pub(super) const ENDING: NodeId = NodeId(0x80);

pub(super) const DEVICE: ExtentDevice = ExtentDevice {
    number: 1,
    read_only: true,
    size: 1 << 50,
    logical_block: 512,
    serial: *b"a-serial-of-20-bytes",
};

/// A file that lies on the device, as [`Double`] has it until told otherwise.
pub(super) const MAP: FileMap = FileMap {
    read: Extent {
        offset: 0,
        length: 1 << 30,
        place: Place::Mapped(Some(Address { device: 1, byte: 1 << 40 })),
    },
    write: Extent { offset: 0, length: 1 << 30, place: Place::Overwrite },
    size: 1 << 20,
};

/// One entry of the directory that every node is.
pub(super) const NAMES: [&[u8]; 4] = [b".", b"a", b"eight888", b"a-longer-name"];

pub(super) const CONFIG: SessionConfig = SessionConfig {
    features: u64::MAX,
    max_write: 1 << 20,
    max_readahead: 1 << 17,
    max_background: 1024,
    time_granularity: 1,
};

pub(super) struct Double {
    calls: Mutex<Vec<String>>,
    file: Arc<OwnedFd>,
    /// READDIR fails behind this many entries.
    fail_after: usize,
    map: Mutex<Result<FileMap>>,
    /// While a test holds it, a mount does not come to its end.
    pub(super) ending: Mutex<()>,
}

impl Double {
    pub(super) fn new() -> Self {
        Self::failing_after(usize::MAX)
    }

    pub(super) fn failing_after(fail_after: usize) -> Self {
        let file = Arc::new(File::open("/dev/null").unwrap().into());
        Self { calls: Mutex::default(), file, fail_after, map: Mutex::new(Ok(MAP)), ending: Mutex::default() }
    }

    /// What was called since the last time.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// What IOMAP_BEGIN is to be answered with from now on.
    pub(super) fn set_map(&self, map: Result<FileMap>) {
        *self.map.lock().unwrap() = map;
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn transfer(&self, direction: Direction, io: &IoRequest) -> Transfer {
        let file = self.file.clone();
        Transfer {
            direction,
            offset: io.offset,
            len: io.size,
            file,
            direct: false,
            rw_flags: 0,
            pad: false,
            passage: None,
        }
    }
}

const ENTRY: Entry = Entry {
    node: NodeId(7),
    generation: 0,
    attr: ATTR.attr,
    entry_timeout: Duration::from_millis(1500),
    attr_timeout: Duration::from_secs(2),
};

const ATTR: AttrReply = AttrReply {
    attr: Attr {
        mask: 0x7ff,
        ino: 70,
        size: 71,
        blocks: 72,
        blksize: 4096,
        atime: Timestamp { sec: 1, nsec: 0 },
        mtime: Timestamp { sec: 2, nsec: 0 },
        ctime: Timestamp { sec: 3, nsec: 0 },
        btime: Timestamp { sec: 4, nsec: 0 },
        mode: 0o100_644,
        nlink: 1,
        uid: 1000,
        gid: 1000,
        rdev: (0, 0),
        dev: (8, 1),
        attributes: 0,
        attributes_mask: 0,
        submount: false,
    },
    timeout: Duration::from_secs(1),
};

const OPENED: Opened = Opened { fh: Fh(9), flags: abi::FOPEN_DIRECT_IO };

/// A method that takes note of its arguments and answers with a value.
macro_rules! notes {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty = $value:expr;)*) => {$(
        fn $name(&self, $($arg: $kind),*) -> Result<$out> {
            self.note(format!(concat!(stringify!($name), "{:?}"), ($(&$arg,)*)));
            Ok($value)
        }
    )*};
}

impl FileSystem for Double {
    fn may_wait(&self, node: NodeId) -> bool {
        node == REMOTE
    }

    fn may_wait_for_extents(&self, node: NodeId) -> bool {
        node == PAST_FUSE || node == ENDING
    }

    fn may_wait_for_map(&self, node: NodeId) -> bool {
        node == ENDING
    }

    fn extent_device(&self, index: u32) -> Result<ExtentDevice> {
        self.note(format!("extent_device({index})"));
        if index == 0 { Ok(DEVICE) } else { Err(Errno::NOENT) }
    }

    fn map(&self, node: NodeId, request: &MapRequest) -> Result<FileMap> {
        self.note(format!("map({node:?}, {request:?})"));
        *self.map.lock().unwrap()
    }

    fn init(&self, offered: u64) -> Result<SessionConfig> {
        self.note(format!("init({offered:#x})"));
        Ok(CONFIG)
    }
    fn destroy(&self) {
        self.note("destroy".into());
        drop(self.ending.lock().unwrap());
    }
    fn forget(&self, node: NodeId, nlookup: u64) {
        self.note(format!("forget({}, {nlookup})", node.0));
    }
    fn cancel_waits(&self) {
        self.note("cancel_waits".into());
    }

    notes! {
        lookup(caller: Caller, parent: NodeId, name: Name<'_>) -> Entry = ENTRY;
        getattr(node: NodeId, fh: Option<Fh>) -> AttrReply = ATTR;
        statx(node: NodeId, fh: Option<Fh>, flags: u32, mask: u32) -> AttrReply = ATTR;
        setattr(caller: Caller, node: NodeId, set: &SetAttr) -> AttrReply = ATTR;
        symlink(caller: Caller, parent: NodeId, name: Name<'_>, target: &CStr, new: &NewFile<'_>) -> Entry = ENTRY;
        mknod(caller: Caller, parent: NodeId, name: Name<'_>, rdev: u32, new: &NewFile<'_>) -> Entry = ENTRY;
        mkdir(caller: Caller, parent: NodeId, name: Name<'_>, new: &NewFile<'_>) -> Entry = ENTRY;
        unlink(parent: NodeId, name: Name<'_>) -> () = ();
        rmdir(parent: NodeId, name: Name<'_>) -> () = ();
        rename(caller: Caller, parent: NodeId, name: Name<'_>, new_parent: NodeId, new_name: Name<'_>, flags: u32) -> () = ();
        link(node: NodeId, new_parent: NodeId, new_name: Name<'_>) -> Entry = ENTRY;
        open(caller: Caller, node: NodeId, flags: u32, kill_suidgid: bool) -> Opened = OPENED;
        create(caller: Caller, parent: NodeId, name: Name<'_>, flags: u32, new: &NewFile<'_>) -> (Entry, Opened) = (ENTRY, OPENED);
        tmpfile(caller: Caller, parent: NodeId, flags: u32, new: &NewFile<'_>) -> (Entry, Opened) = (ENTRY, OPENED);
        flush(node: NodeId, fh: Fh, lock_owner: u64) -> () = ();
        release(node: NodeId, release: &Release) -> () = ();
        fsync(node: NodeId, fh: Fh, datasync: bool) -> () = ();
        opendir(caller: Caller, node: NodeId, flags: u32) -> Opened = OPENED;
        releasedir(node: NodeId, fh: Fh) -> () = ();
        fsyncdir(node: NodeId, fh: Fh, datasync: bool) -> () = ();
        statfs(node: NodeId) -> StatFs = StatFs { blocks: 5, ..StatFs::default() };
        syncfs(node: NodeId) -> () = ();
        access(caller: Caller, node: NodeId, mask: u32) -> () = ();
        setxattr(caller: Caller, node: NodeId, name: &CStr, value: &[u8], flags: u32, kill_sgid: bool) -> () = ();
        removexattr(caller: Caller, node: NodeId, name: &CStr) -> () = ();
        getlk(node: NodeId, request: &LockRequest) -> Lock = request.lock;
        setlk(node: NodeId, request: &LockRequest) -> () = ();
        fallocate(node: NodeId, fh: Fh, offset: u64, len: u64, mode: u32) -> () = ();
        lseek(node: NodeId, fh: Fh, offset: u64, whence: u32) -> u64 = offset + 1;
        copy_file_range(node: NodeId, range: &CopyRange) -> u64 = range.len;
        end_map(node: NodeId) -> () = ();
        end_io(node: NodeId) -> u64 = 4711;
    }

    fn setlkw(&self, node: NodeId, request: &LockRequest, done: Box<dyn FnOnce(Result<()>) + Send>) {
        self.note(format!("setlkw({node:?}, {request:?})"));
        done(Err(Errno::INTR));
    }

    fn readlink(&self, node: NodeId, target: &mut Vec<u8>) -> Result<()> {
        self.note(format!("readlink({node:?})"));
        target.extend_from_slice(b"target");
        Ok(())
    }

    fn read(&self, node: NodeId, fh: Fh, io: &IoRequest) -> Result<Transfer> {
        self.note(format!("read({node:?}, {fh:?}, {io:?})"));
        Ok(self.transfer(Direction::Read, io))
    }

    fn write(&self, _: Caller, node: NodeId, fh: Fh, io: &IoRequest) -> Result<Transfer> {
        self.note(format!("write({node:?}, {fh:?}, {io:?})"));
        Ok(self.transfer(Direction::Write, io))
    }

    fn readdir(
        &self,
        _: Caller,
        node: NodeId,
        fh: Fh,
        offset: u64,
        plus: bool,
        sink: &mut dyn DirectorySink,
    ) -> Result<()> {
        self.note(format!("readdir({node:?}, {fh:?}, {offset}, {plus})"));
        for (index, name) in NAMES.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if index >= self.fail_after {
                return Err(Errno::STALE);
            }
            let entry = (*name != b".").then_some(&ENTRY);
            let index = u64::try_from(index).unwrap();
            if !sink.fits(name.len()) || !sink.add(100 + index, index + 1, 8, name, entry) {
                break;
            }
        }
        Ok(())
    }

    fn getxattr(&self, _: NodeId, name: &CStr, size: u32, value: &mut Vec<u8>) -> Result<u32> {
        self.note(format!("getxattr({name:?}, {size})"));
        append(b"value", size, value)
    }

    fn listxattr(&self, _: NodeId, size: u32, names: &mut Vec<u8>) -> Result<u32> {
        self.note(format!("listxattr({size})"));
        append(b"user.a\0user.b\0", size, names)
    }

    fn ioctl(
        &self,
        _: Caller,
        _: NodeId,
        fh: Fh,
        command: u32,
        input: &[u8],
        out_size: u32,
        output: &mut Vec<u8>,
    ) -> Result<i32> {
        self.note(format!("ioctl({fh:?}, {command}, {input:?}, {out_size})"));
        output.resize(output.len() + usize::try_from(out_size.min(4)).unwrap(), 0xee);
        Ok(3)
    }
}

fn append(bytes: &[u8], size: u32, value: &mut Vec<u8>) -> Result<u32> {
    let len = u32::try_from(bytes.len()).unwrap();
    if size != 0 && size < len {
        return Err(Errno::RANGE);
    }
    if size != 0 {
        value.extend_from_slice(bytes);
    }
    Ok(len)
}
