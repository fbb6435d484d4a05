//! Operations on names: everything that finds, makes, moves or removes one, and FORGET.

use crate::fuse::FileSystem;
use crate::fuse::abi;
use crate::fuse::body::Body;
use crate::fuse::extensions;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::{NewFile, NodeId, Result};

/// LOOKUP.
pub(in crate::fuse) fn lookup<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let name = body.name()?;
    let entry = fs.lookup(request.caller(), request.node(), name)?;
    reply.push(&request.encoder().entry_out(&entry))
}

/// FORGET.
pub(in crate::fuse) fn forget<F: FileSystem>(fs: &F, request: &Request<'_>) {
    let mut body = request.body;
    if let Ok(forget) = body.take::<abi::ForgetIn>() {
        fs.forget(request.node(), forget.nlookup);
    }
}

/// BATCH_FORGET. As many elements as are there count, whatever the guest says.
pub(in crate::fuse) fn batch_forget<F: FileSystem>(fs: &F, request: &Request<'_>) {
    let mut body = request.body;
    let Ok(batch) = body.take::<abi::BatchForgetIn>() else { return };
    for _ in 0..batch.count {
        let Ok(one) = body.take::<abi::ForgetOne>() else { return };
        fs.forget(NodeId(one.nodeid), one.nlookup);
    }
}

/// READLINK.
pub(in crate::fuse) fn readlink<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    fs.readlink(request.node(), reply.tail())
}

/// SYMLINK: the name, then the target.
pub(in crate::fuse) fn symlink<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let name = body.name()?;
    let target = body.c_str()?;
    let new = new_file(request, libc::S_IFLNK | 0o777, 0, body)?;
    let entry = fs.symlink(request.caller(), request.node(), name, target, &new)?;
    reply.push(&request.encoder().entry_out(&entry))
}

/// MKNOD.
pub(in crate::fuse) fn mknod<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let mknod: abi::MknodIn = body.take()?;
    let name = body.name()?;
    let new = new_file(request, mknod.mode, mknod.umask, body)?;
    let entry = fs.mknod(request.caller(), request.node(), name, mknod.rdev, &new)?;
    reply.push(&request.encoder().entry_out(&entry))
}

/// MKDIR.
pub(in crate::fuse) fn mkdir<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let mkdir: abi::MkdirIn = body.take()?;
    let name = body.name()?;
    let new = new_file(request, mkdir.mode, mkdir.umask, body)?;
    let entry = fs.mkdir(request.caller(), request.node(), name, &new)?;
    reply.push(&request.encoder().entry_out(&entry))
}

/// UNLINK.
pub(in crate::fuse) fn unlink<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    fs.unlink(request.node(), body.name()?)
}

/// RMDIR.
pub(in crate::fuse) fn rmdir<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    fs.rmdir(request.node(), body.name()?)
}

/// RENAME.
pub(in crate::fuse) fn rename<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let rename: abi::RenameIn = body.take()?;
    rename_names(fs, request, body, rename.newdir, 0)
}

/// RENAME2.
pub(in crate::fuse) fn rename2<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let rename: abi::Rename2In = body.take()?;
    rename_names(fs, request, body, rename.newdir, rename.flags)
}

fn rename_names<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    mut names: Body<'_>,
    new_parent: u64,
    flags: u32,
) -> Result<()> {
    let name = names.name()?;
    let new_name = names.name()?;
    fs.rename(request.caller(), request.node(), name, NodeId(new_parent), new_name, flags)
}

/// LINK.
pub(in crate::fuse) fn link<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let link: abi::LinkIn = body.take()?;
    let entry = fs.link(NodeId(link.oldnodeid), request.node(), body.name()?)?;
    reply.push(&request.encoder().entry_out(&entry))
}

/// What requests that make a file have in common; `rest` is what follows the name.
pub(super) fn new_file<'a>(
    request: &Request<'_>,
    mode: u32,
    umask: u32,
    rest: Body<'a>,
) -> Result<NewFile<'a>> {
    Ok(NewFile { mode, umask, extensions: extensions::parse(request, rest)? })
}
