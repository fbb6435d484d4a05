//! Which function serves which FUSE operation?
//!
//! One line an operation, and the one place where a read-only share refuses: everything that changes
//! the share goes through [`Passthrough::writable`] first. (Opening for writing is refused in
//! [`Passthrough::reopen`], which every open goes through.)

use std::ffi::CStr;
use std::sync::Arc;

use super::extents::Extents;
use super::inode::Inode;
use super::{
    Passthrough, attr, create, directory, extents, io, ioctl, lock, lookup, open, range, remove, session,
    sync, xattr,
};
use crate::fuse::*;

impl FileSystem for Passthrough {
    fn init(&self, offered: u64) -> Result<SessionConfig> {
        session::init(self, offered)
    }

    fn destroy(&self) {
        session::destroy(self);
    }

    fn may_wait(&self, node: NodeId) -> bool {
        let remote = |inode: Arc<Inode>| self.locality.is_remote(inode.mount(), || self.path_fd(&inode));
        self.node(node).is_ok_and(remote)
    }

    fn may_wait_for_extents(&self, node: NodeId) -> bool {
        self.extents().is_some_and(|extents| extents.may_wait(node))
    }

    fn may_wait_for_names(&self) -> bool {
        self.extents().is_some_and(Extents::guards_names)
    }

    fn may_wait_for_map(&self, node: NodeId) -> bool {
        self.extents().is_some_and(|extents| extents.map_may_wait(node))
    }

    fn lookup(&self, _caller: Caller, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        lookup::lookup(self, parent, name)
    }

    fn forget(&self, node: NodeId, nlookup: u64) {
        Self::forget(self, node, nlookup);
    }

    fn getattr(&self, node: NodeId, fh: Option<Fh>) -> Result<AttrReply> {
        attr::getattr(self, node, fh)
    }

    fn statx(&self, node: NodeId, fh: Option<Fh>, flags: u32, mask: u32) -> Result<AttrReply> {
        attr::statx(self, node, fh, flags, mask)
    }

    fn setattr(&self, _caller: Caller, node: NodeId, set: &SetAttr) -> Result<AttrReply> {
        attr::setattr(self.writable()?, node, set)
    }

    fn readlink(&self, node: NodeId, target: &mut Vec<u8>) -> Result<()> {
        lookup::readlink(self, node, target)
    }

    fn symlink(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        target: &CStr,
        new: &NewFile<'_>,
    ) -> Result<Entry> {
        create::symlink(self.writable()?, caller, parent, name, target, new)
    }

    fn mknod(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        rdev: u32,
        new: &NewFile<'_>,
    ) -> Result<Entry> {
        create::mknod(self.writable()?, caller, parent, name, rdev, new)
    }

    fn mkdir(&self, caller: Caller, parent: NodeId, name: Name<'_>, new: &NewFile<'_>) -> Result<Entry> {
        create::mkdir(self.writable()?, caller, parent, name, new)
    }

    fn unlink(&self, parent: NodeId, name: Name<'_>) -> Result<()> {
        remove::unlink(self.writable()?, parent, name)
    }

    fn rmdir(&self, parent: NodeId, name: Name<'_>) -> Result<()> {
        remove::rmdir(self.writable()?, parent, name)
    }

    fn rename(
        &self,
        _caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        new_parent: NodeId,
        new_name: Name<'_>,
        flags: u32,
    ) -> Result<()> {
        remove::rename(self.writable()?, parent, name, new_parent, new_name, flags)
    }

    fn link(&self, node: NodeId, new_parent: NodeId, new_name: Name<'_>) -> Result<Entry> {
        remove::link(self.writable()?, node, new_parent, new_name)
    }

    fn open(&self, caller: Caller, node: NodeId, flags: u32, kill_suidgid: bool) -> Result<Opened> {
        open::open(self, caller, node, flags, kill_suidgid)
    }

    fn create(
        &self,
        caller: Caller,
        parent: NodeId,
        name: Name<'_>,
        flags: u32,
        new: &NewFile<'_>,
    ) -> Result<(Entry, Opened)> {
        open::create(self.writable()?, caller, parent, name, flags, new)
    }

    fn tmpfile(
        &self,
        caller: Caller,
        parent: NodeId,
        flags: u32,
        new: &NewFile<'_>,
    ) -> Result<(Entry, Opened)> {
        open::tmpfile(self.writable()?, caller, parent, flags, new)
    }

    fn read(&self, node: NodeId, fh: Fh, request: &IoRequest) -> Result<Transfer> {
        io::read(self, node, fh, request)
    }

    fn write(&self, _caller: Caller, node: NodeId, fh: Fh, request: &IoRequest) -> Result<Transfer> {
        io::write(self.writable()?, node, fh, request)
    }

    fn flush(&self, node: NodeId, fh: Fh, lock_owner: u64) -> Result<()> {
        open::flush(self, node, fh, lock_owner)
    }

    fn release(&self, node: NodeId, release: &Release) -> Result<()> {
        open::release(self, node, release)
    }

    fn fsync(&self, node: NodeId, fh: Fh, datasync: bool) -> Result<()> {
        sync::fsync(self, node, fh, datasync)
    }

    fn opendir(&self, _caller: Caller, node: NodeId, _flags: u32) -> Result<Opened> {
        directory::opendir(self, node)
    }

    fn readdir(
        &self,
        _caller: Caller,
        node: NodeId,
        fh: Fh,
        offset: u64,
        plus: bool,
        sink: &mut dyn DirectorySink,
    ) -> Result<()> {
        directory::readdir(self, node, fh, offset, plus, sink)
    }

    fn releasedir(&self, node: NodeId, fh: Fh) -> Result<()> {
        directory::releasedir(self, node, fh)
    }

    fn fsyncdir(&self, node: NodeId, fh: Fh, datasync: bool) -> Result<()> {
        sync::fsyncdir(self, node, fh, datasync)
    }

    fn statfs(&self, node: NodeId) -> Result<StatFs> {
        sync::statfs(self, node)
    }

    fn syncfs(&self, node: NodeId) -> Result<()> {
        sync::syncfs(self, node)
    }

    fn access(&self, caller: Caller, node: NodeId, mask: u32) -> Result<()> {
        attr::access(self, caller, node, mask)
    }

    fn setxattr(
        &self,
        _caller: Caller,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<()> {
        xattr::setxattr(self.writable()?, node, name, value, flags, kill_sgid)
    }

    fn getxattr(&self, node: NodeId, name: &CStr, size: u32, value: &mut Vec<u8>) -> Result<u32> {
        xattr::getxattr(self, node, name, size, value)
    }

    fn listxattr(&self, node: NodeId, size: u32, names: &mut Vec<u8>) -> Result<u32> {
        xattr::listxattr(self, node, size, names)
    }

    fn removexattr(&self, _caller: Caller, node: NodeId, name: &CStr) -> Result<()> {
        xattr::removexattr(self.writable()?, node, name)
    }

    fn getlk(&self, node: NodeId, request: &LockRequest) -> Result<Lock> {
        lock::getlk(self, node, request)
    }

    fn setlk(&self, node: NodeId, request: &LockRequest) -> Result<()> {
        lock::setlk(self, node, request)
    }

    fn setlkw(&self, node: NodeId, request: &LockRequest, done: Box<dyn FnOnce(Result<()>) + Send>) {
        lock::setlkw(self, node, request, done);
    }

    fn cancel_waits(&self) {
        self.locks.cancel_waits();
    }

    fn fallocate(&self, node: NodeId, fh: Fh, offset: u64, len: u64, mode: u32) -> Result<()> {
        range::fallocate(self.writable()?, node, fh, offset, len, mode)
    }

    fn lseek(&self, node: NodeId, fh: Fh, offset: u64, whence: u32) -> Result<u64> {
        range::lseek(self, node, fh, offset, whence)
    }

    fn copy_file_range(&self, node: NodeId, copy: &CopyRange) -> Result<u64> {
        range::copy_file_range(self.writable()?, node, copy)
    }

    fn extent_device(&self, index: u32) -> Result<ExtentDevice> {
        extents::device(self, index)
    }

    fn map(&self, node: NodeId, request: &MapRequest) -> Result<FileMap> {
        extents::map(self, node, request)
    }

    /// Nothing is kept for a map, so nothing ends with it.
    fn end_map(&self, _node: NodeId) -> Result<()> {
        Ok(())
    }

    fn end_io(&self, node: NodeId) -> Result<u64> {
        extents::end_io(self, node)
    }

    fn ioctl(
        &self,
        caller: Caller,
        node: NodeId,
        fh: Fh,
        command: u32,
        input: &[u8],
        out_size: u32,
        output: &mut Vec<u8>,
    ) -> Result<i32> {
        ioctl::ioctl(self, caller, node, fh, command, input, out_size, output)
    }
}
