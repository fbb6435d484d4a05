//! The same operations as the RFC of 2025 has them: IOMAP_BEGIN and IOMAP_IOEND; an IOMAP_END differs in its layout only.
//!
//! What is different is the meaning of an answer more than its layout. The guest asks again for each I/O and does
//! what the answer says, so a write that would make the file longer has to be refused here. Its way back to FUSE is
//! `ENOSYS`, for the whole I/O and in answer to its first question only, so every question of one I/O must
//! get the same answer: it depends on nothing but the grant and the size. Any other error ends the I/O. And a null
//! device does so, too, even where no device is needed.

use rustix::io::Errno;

use super::extents::map_request;
use crate::fuse::FileSystem;
use crate::fuse::abi::extents::{
    IOMAP_DELALLOC, IOMAP_HOLE, IOMAP_MAPPED, IOMAP_NULL_ADDR, IOMAP_PURE_OVERWRITE, IOMAP_UNWRITTEN,
};
use crate::fuse::abi::rfc2025::{BeginOut, IoendIn};
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::{Address, FileMap, MapPurpose, MapRequest, Place, Result};

/// IOMAP_BEGIN.
pub(in crate::fuse) fn begin<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let wanted = map_request(request)?;
    let map = match fs.map(request.node(), &wanted) {
        Err(Errno::BADF | Errno::OPNOTSUPP) if wanted.purpose != MapPurpose::Report => Err(Errno::NOSYS),
        answer => answer,
    }?;
    reply.push(&mapping(&wanted, &map)?)
}

/// IOMAP_IOEND. It follows a question that was answered with `ENOSYS`, too, and must not fail then: the guest
/// would take that error instead of going back to FUSE.
pub(in crate::fuse) fn ioend<F: FileSystem>(
    _fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    body.take::<IoendIn>().map(drop)
}

/// # Errors
/// `ENOSYS`: by FUSE.
fn mapping(wanted: &MapRequest, map: &FileMap) -> Result<BeginOut> {
    if wanted.purpose == MapPurpose::Write {
        let end = wanted.position.saturating_add(wanted.count);
        if map.write.place != Place::Overwrite || end > map.size {
            return Err(Errno::NOSYS);
        }
    }
    let (read_type, address) = match map.read.place {
        Place::Fuse | Place::Overwrite => return Err(Errno::NOSYS),
        Place::Mapped(Some(address)) => (IOMAP_MAPPED, Some(address)),
        Place::Unwritten(Some(address)) => (IOMAP_UNWRITTEN, Some(address)),
        // With these types the guest believes the address; there are two that have none.
        Place::Mapped(None) => (IOMAP_DELALLOC, None),
        Place::Hole | Place::Unwritten(None) => (IOMAP_HOLE, None),
    };
    // Devices are counted from 0 on here, and there always is the first.
    let read_dev = address.map_or(0, |Address { device, .. }| device.saturating_sub(1));
    Ok(BeginOut {
        offset: map.read.offset,
        length: map.read.length,
        read_addr: address.map_or(IOMAP_NULL_ADDR, |Address { byte, .. }| byte),
        read_type,
        read_flags: 0,
        read_dev,
        write_addr: IOMAP_NULL_ADDR,
        write_type: IOMAP_PURE_OVERWRITE,
        write_flags: 0,
        write_dev: read_dev,
    })
}
