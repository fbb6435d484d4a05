//! The seam between FUSE and a file system: one method an operation.

use std::ffi::CStr;

use rustix::io::Errno;

use super::transfer::Transfer;
use super::types::*;

/// Where READDIR and READDIRPLUS put the entries they find. The server implements it over the reply.
pub trait DirectorySink {
    /// Whether an entry with a name of this many bytes still fits. Ask before taking a reference on
    /// a node for READDIRPLUS.
    fn fits(&self, name_len: usize) -> bool;

    /// Adds an entry. `next` is the cookie from which a later request goes on behind it (any 64-bit
    /// value), `kind` the `DT_*` type. In READDIRPLUS `entry` carries the node; `None` (for `.` and
    /// `..`, or where the lookup failed) makes the guest look the name up itself.
    ///
    /// Returns whether it fitted; where it did not, nothing was added and the caller stops.
    fn add(&mut self, ino: u64, next: u64, kind: u8, name: &[u8], entry: Option<&Entry>) -> bool;
}

/// A file system that can serve a guest.
///
/// Methods are called from many threads at once and must not assume an order beyond the one that the
/// guest's own kernel keeps. Every number in an argument comes from the guest: a wrong node, handle or
/// size must end in an errno. Names are checked already (see [`Name`]).
///
/// The methods marked *may block* are called from threads that may wait; the others from the thread
/// that owns a ring, which serves nobody else meanwhile.
pub trait FileSystem: Send + Sync + 'static {
    /// INIT: a guest mounts. `offered` are the guest's INIT flags (both words). All nodes, handles and
    /// locks of an earlier mount are gone after this.
    ///
    /// # Errors
    /// An option that cannot be honoured with this guest.
    fn init(&self, offered: u64) -> Result<SessionConfig>;

    /// DESTROY, or a front-end that went away: drops every node but the root, every handle and lock.
    /// May block.
    fn destroy(&self);

    /// Whether reading a directory, a close or a release may take long here, so that no ring should wait for it:
    /// `node` is on a network file system. Must itself be quick.
    fn may_wait(&self, _node: NodeId) -> bool {
        false
    }

    /// Whether the guest moves bytes of the file past FUSE, so that a release, or an operation that changes what is mapped,
    /// may have to wait for such requests. Must itself be quick; asked only where extents were agreed upon.
    fn may_wait_for_extents(&self, _node: NodeId) -> bool {
        false
    }

    /// Whether a map of the file can be had only when an operation has ended. As
    /// [`may_wait_for_extents`](Self::may_wait_for_extents).
    fn may_wait_for_map(&self, _node: NodeId) -> bool {
        false
    }

    /// Whether a name may be taken away from a file only when the guest is done with its bytes. As
    /// [`may_wait_for_extents`](Self::may_wait_for_extents).
    fn may_wait_for_names(&self) -> bool {
        false
    }

    /// LOOKUP.
    fn lookup(&self, caller: Caller, parent: NodeId, name: Name<'_>) -> Result<Entry>;

    /// FORGET: the guest gives back `nlookup` references. More than it has, or an unknown node, is
    /// ignored.
    fn forget(&self, node: NodeId, nlookup: u64);

    /// GETATTR.
    fn getattr(&self, node: NodeId, fh: Option<Fh>) -> Result<AttrReply>;

    /// STATX (FUSE 7.39); `flags` are `AT_STATX_*`, `mask` is `STATX_*`.
    fn statx(&self, node: NodeId, fh: Option<Fh>, flags: u32, mask: u32) -> Result<AttrReply>;

    /// SETATTR.
    fn setattr(&self, caller: Caller, node: NodeId, set: &SetAttr) -> Result<AttrReply>;

    /// READLINK: appends the target to `target`.
    fn readlink(&self, node: NodeId, target: &mut Vec<u8>) -> Result<()>;

    /// SYMLINK.
    fn symlink(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &CStr,
        new: &NewFile<'_>,
    ) -> Result<Entry>;

    /// MKNOD; `rdev` is in the guest's encoding (`new_encode_dev`).
    fn mknod(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        rdev: u32,
        new: &NewFile<'_>,
    ) -> Result<Entry>;

    /// MKDIR.
    fn mkdir(&self, caller: Caller, parent: NodeId, name: Name<'_>, new: &NewFile<'_>) -> Result<Entry>;

    /// UNLINK.
    fn unlink(&self, parent: NodeId, name: Name<'_>) -> Result<()>;

    /// RMDIR.
    fn rmdir(&self, parent: NodeId, name: Name<'_>) -> Result<()>;

    /// RENAME and RENAME2; `flags` are `RENAME_*`.
    fn rename(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: u32,
    ) -> Result<()>;

    /// LINK: a further name for `node`.
    fn link(&self, node: NodeId, new_parent: NodeId, new_name: Name<'_>) -> Result<Entry>;

    /// OPEN; `flags` are the guest's `O_*`. `kill_suidgid`: `FUSE_OPEN_KILL_SUIDGID`, with `O_TRUNC`.
    fn open(&self, caller: Caller, node: NodeId, flags: u32, kill_suidgid: bool) -> Result<Opened>;

    /// CREATE: makes (or, without `O_EXCL`, finds) and opens.
    fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        flags: u32,
        new: &NewFile<'_>,
    ) -> Result<(Entry, Opened)>;

    /// TMPFILE (FUSE 7.37): a file without a name, opened.
    fn tmpfile(
        &self,
        caller: Caller,
        parent: NodeId,
        flags: u32,
        new: &NewFile<'_>,
    ) -> Result<(Entry, Opened)>;

    /// READ: where the bytes are.
    fn read(&self, node: NodeId, fh: Fh, io: &IoRequest) -> Result<Transfer>;

    /// WRITE: where the bytes go.
    fn write(&self, caller: Caller, node: NodeId, fh: Fh, io: &IoRequest) -> Result<Transfer>;

    /// FLUSH: one descriptor of this open was closed in the guest.
    fn flush(&self, node: NodeId, fh: Fh, lock_owner: u64) -> Result<()>;

    /// RELEASE: the last one was.
    fn release(&self, node: NodeId, release: &Release) -> Result<()>;

    /// FSYNC. May block.
    fn fsync(&self, node: NodeId, fh: Fh, datasync: bool) -> Result<()>;

    /// OPENDIR.
    fn opendir(&self, caller: Caller, node: NodeId, flags: u32) -> Result<Opened>;

    /// READDIR and, with `plus`, READDIRPLUS: entries behind the cookie `offset` (0: from the start)
    /// until the sink is full. In READDIRPLUS each entry given out holds one reference.
    fn readdir(
        &self,
        caller: Caller,
        node: NodeId,
        fh: Fh,
        offset: u64,
        plus: bool,
        sink: &mut dyn DirectorySink,
    ) -> Result<()>;

    /// RELEASEDIR.
    fn releasedir(&self, node: NodeId, fh: Fh) -> Result<()>;

    /// FSYNCDIR. May block.
    fn fsyncdir(&self, node: NodeId, fh: Fh, datasync: bool) -> Result<()>;

    /// STATFS.
    fn statfs(&self, node: NodeId) -> Result<StatFs>;

    /// SYNCFS (FUSE 7.34) of the mount that holds `node`. May block.
    fn syncfs(&self, node: NodeId) -> Result<()>;

    /// ACCESS; only asked of a mount without `default_permissions`.
    fn access(&self, caller: Caller, node: NodeId, mask: u32) -> Result<()>;

    /// SETXATTR. `kill_sgid`: `FUSE_SETXATTR_ACL_KILL_SGID` (FUSE 7.33).
    fn setxattr(
        &self,
        caller: Caller,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<()>;

    /// GETXATTR: appends the value to `value`, at most `size` bytes of it; returns its length, with
    /// nothing appended where `size` is 0.
    ///
    /// # Errors
    /// `ERANGE` where `size` is not 0 and too small; `ENODATA` where there is no such attribute.
    fn getxattr(&self, node: NodeId, name: &CStr, size: u32, value: &mut Vec<u8>) -> Result<u32>;

    /// LISTXATTR: the same with the NUL-separated names.
    fn listxattr(&self, node: NodeId, size: u32, names: &mut Vec<u8>) -> Result<u32>;

    /// REMOVEXATTR.
    fn removexattr(&self, caller: Caller, node: NodeId, name: &CStr) -> Result<()>;

    /// GETLK: the lock that stands in the way, or one of kind `Unlock`.
    fn getlk(&self, node: NodeId, request: &LockRequest) -> Result<Lock>;

    /// SETLK.
    ///
    /// # Errors
    /// `EAGAIN` where another lock stands in the way.
    fn setlk(&self, node: NodeId, request: &LockRequest) -> Result<()>;

    /// SETLKW: `done` is called exactly once, from any thread, when the lock is held or cannot be had
    /// any more (`EINTR` after [`cancel_waits`](Self::cancel_waits)). Does not block.
    fn setlkw(&self, node: NodeId, request: &LockRequest, done: Box<dyn FnOnce(Result<()>) + Send>);

    /// Ends every waiting SETLKW with `EINTR`: the device is about to stop.
    fn cancel_waits(&self);

    /// FALLOCATE. May block.
    fn fallocate(&self, node: NodeId, fh: Fh, offset: u64, len: u64, mode: u32) -> Result<()>;

    /// LSEEK for `SEEK_HOLE` and `SEEK_DATA`.
    fn lseek(&self, node: NodeId, fh: Fh, offset: u64, whence: u32) -> Result<u64>;

    /// COPY_FILE_RANGE: bytes copied. May block.
    fn copy_file_range(&self, node: NodeId, range: &CopyRange) -> Result<u64>;

    /// IOCTL: appends the answer, of at most `out_size` bytes, to `output`; returns the ioctl's own
    /// (non-negative) result.
    ///
    /// # Errors
    /// `ENOTTY` for a command that is not on the allow-list.
    #[expect(clippy::too_many_arguments, reason = "the operation has as many")]
    fn ioctl(
        &self,
        caller: Caller,
        node: NodeId,
        fh: Fh,
        command: u32,
        input: &[u8],
        out_size: u32,
        output: &mut Vec<u8>,
    ) -> Result<i32>;

    /// FUSE_EXTENT_DEVICE: the device with this index, from 0 on.
    ///
    /// # Errors
    /// `ENOENT` behind the last.
    fn extent_device(&self, _index: u32) -> Result<ExtentDevice> {
        Err(Errno::NOSYS)
    }

    /// FUSE_IOMAP_BEGIN: where a file lies, and with that the permission to go there.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a file of which there never is a map, `EBADF` where the guest does not have it open.
    fn map(&self, _node: NodeId, _request: &MapRequest) -> Result<FileMap> {
        Err(Errno::NOSYS)
    }

    /// FUSE_IOMAP_END: the guest is done with a map. It may be of a node that is forgotten already.
    fn end_map(&self, _node: NodeId) -> Result<()> {
        Err(Errno::NOSYS)
    }

    /// FUSE_IOMAP_IOEND: I/O past FUSE has ended. Returns the size of the file in bytes.
    fn end_io(&self, _node: NodeId) -> Result<u64> {
        Err(Errno::NOSYS)
    }
}
