//! Operations of the extent protocol (`docs/extent-protocol.md`): EXTENT_DEVICE, IOMAP_CONFIG, IOMAP_BEGIN, IOMAP_END
//! and IOMAP_IOEND.
//!
//! Members that must be zero are not looked at, and neither are operation flags that mean nothing here: both may
//! come to mean something that can be done without. A file is named by the node in the header alone; `attr_ino`
//! says nothing that it does not.

use rustix::io::Errno;
use zerocopy::FromBytes;

use super::position;
use crate::fuse::FileSystem;
use crate::fuse::abi::extents::*;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::{Address, Extent, MapPurpose, MapRequest, Place, Result};

/// EXTENT_DEVICE.
pub(in crate::fuse) fn device<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let device = fs.extent_device(body.take::<ExtentDeviceIn>()?.index)?;
    reply.push(&ExtentDeviceOut {
        dev: device.number,
        flags: if device.read_only { EXTENT_DEVICE_READ_ONLY } else { 0 },
        size: device.size,
        logical_block: device.logical_block,
        serial: device.serial,
        ..ExtentDeviceOut::default()
    })
}

/// IOMAP_CONFIG: the unit of records, where the guest understands that, and nothing else.
pub(in crate::fuse) fn config<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let flags = body.take::<IomapConfigIn>()?.flags & IOMAP_CONFIG_BLOCKSIZE;
    let s_blocksize = if flags == 0 { 0 } else { fs.extent_device(0)?.logical_block };
    reply.push(&IomapConfigOut { flags, s_blocksize, ..IomapConfigOut::default() })
}

/// IOMAP_BEGIN.
pub(in crate::fuse) fn begin<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let map = fs.map(request.node(), &map_request(request)?)?;
    reply.push(&IomapBeginOut { read: record(map.read), write: record(map.write) })
}

/// IOMAP_END, with the arguments `In` of a revision, of which nothing is needed but that they are there.
pub(in crate::fuse) fn end<F: FileSystem, In: FromBytes>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    body.take::<In>()?;
    fs.end_map(request.node())
}

/// IOMAP_IOEND.
pub(in crate::fuse) fn ioend<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    body.take::<IomapIoendIn>()?;
    reply.push(&IomapIoendOut { newsize: fs.end_io(request.node())? })
}

/// The arguments of IOMAP_BEGIN, in which all revisions agree.
///
/// # Errors
/// `EINVAL` for no bytes, and for a range that passes the largest position.
pub(super) fn map_request(request: &Request<'_>) -> Result<MapRequest> {
    let mut body = request.body;
    let begin: IomapBeginIn = body.take()?;
    let has = |flags: u32| begin.opflags & flags != 0;
    let end = begin.pos.checked_add(begin.count).ok_or(Errno::INVAL)?;
    if begin.count == 0 {
        return Err(Errno::INVAL);
    }
    position(end)?;
    // What changes nothing comes first, then what cannot be done past FUSE.
    let purpose = if has(IOMAP_OP_REPORT) {
        MapPurpose::Report
    } else if has(IOMAP_OP_ZERO | IOMAP_OP_UNSHARE) {
        MapPurpose::Change
    } else if has(IOMAP_OP_WRITE) {
        MapPurpose::Write
    } else {
        MapPurpose::Read
    };
    Ok(MapRequest { purpose, position: begin.pos, count: begin.count })
}

fn record(extent: Extent) -> IomapIo {
    let nowhere = |kind| (kind, IOMAP_NULL_ADDR, IOMAP_DEV_NULL);
    let at = |kind, address: Option<Address>| match address {
        Some(Address { device, byte }) => (kind, byte, device),
        // Only in an answer to REPORT, where the type is what matters.
        None => (kind, 0, IOMAP_DEV_NULL),
    };
    let (kind, addr, dev) = match extent.place {
        Place::Fuse => nowhere(IOMAP_USE_FUSE),
        Place::Hole => nowhere(IOMAP_HOLE),
        Place::Overwrite => nowhere(IOMAP_PURE_OVERWRITE),
        Place::Mapped(address) => at(IOMAP_MAPPED, address),
        Place::Unwritten(address) => at(IOMAP_UNWRITTEN, address),
    };
    IomapIo { offset: extent.offset, length: extent.length, addr, kind, flags: 0, dev }
}
