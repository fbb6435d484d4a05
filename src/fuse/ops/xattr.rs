//! Operations on extended attributes.

use std::ffi::CStr;

use rustix::io::Errno;

use super::{bounded, usize_of};
use crate::fuse::FileSystem;
use crate::fuse::abi;
use crate::fuse::body::Body;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::Result;

/// The longest name of an attribute in bytes (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// The longest value in bytes (`XATTR_SIZE_MAX`).
const SIZE_MAX: usize = 65536;

/// The next string as an attribute's name.
///
/// # Errors
/// `ERANGE` for one that is empty or too long, as `setxattr(2)`.
fn name<'a>(body: &mut Body<'a>) -> Result<&'a CStr> {
    let name = body.c_str()?;
    if name.is_empty() || name.count_bytes() > NAME_MAX { Err(Errno::RANGE) } else { Ok(name) }
}

/// SETXATTR.
///
/// # Errors
/// `E2BIG` for a value that no Linux file system takes.
pub(in crate::fuse) fn setxattr<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let set: abi::SetxattrIn = body.take()?;
    let flags = match request.has(abi::FUSE_SETXATTR_EXT) {
        true => body.take::<abi::SetxattrInExt>()?.setxattr_flags,
        false => 0,
    };
    let name = name(&mut body)?;
    if usize_of(set.size) > SIZE_MAX {
        return Err(Errno::TOOBIG);
    }
    let value = body.bytes(usize_of(set.size))?;
    let kill_sgid = flags & abi::FUSE_SETXATTR_ACL_KILL_SGID != 0;
    fs.setxattr(request.caller(), request.node(), name, value, set.flags, kill_sgid)
}

/// GETXATTR.
pub(in crate::fuse) fn getxattr<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let get: abi::GetxattrIn = body.take()?;
    let name = name(&mut body)?;
    sized(get.size, reply, |size, value| fs.getxattr(request.node(), name, size, value))
}

/// LISTXATTR.
pub(in crate::fuse) fn listxattr<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let list: abi::GetxattrIn = body.take()?;
    sized(list.size, reply, |size, names| fs.listxattr(request.node(), size, names))
}

/// Answers with the bytes that `get` appends, or with their number where `size` is 0.
fn sized(size: u32, reply: &mut Reply<'_>, get: impl FnOnce(u32, &mut Vec<u8>) -> Result<u32>) -> Result<()> {
    if size == 0 {
        let size = get(0, reply.tail())?;
        return reply.push(&abi::GetxattrOut { size, padding: 0 });
    }
    match bounded(size, reply.room()) {
        // A size of 0 would be another question.
        0 => Err(Errno::RANGE),
        size => get(size, reply.tail()).map(drop),
    }
}

/// REMOVEXATTR.
pub(in crate::fuse) fn removexattr<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    fs.removexattr(request.caller(), request.node(), name(&mut body)?)
}
