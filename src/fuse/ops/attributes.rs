//! Operations on attributes: GETATTR, SETATTR, STATX, ACCESS and STATFS.

use super::{optional_fh, position, timestamp};
use crate::fuse::FileSystem;
use crate::fuse::abi;
use crate::fuse::encode;
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::types::{Fh, Result, SetAttr, SetTime};

/// GETATTR.
pub(in crate::fuse) fn getattr<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let getattr: abi::GetattrIn = body.take()?;
    let attr = fs.getattr(request.node(), optional_fh(getattr.getattr_flags, getattr.fh))?;
    reply.push(&request.encoder().attr_out(&attr))
}

/// SETATTR.
pub(in crate::fuse) fn setattr<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let set = decode(&body.take()?)?;
    let attr = fs.setattr(request.caller(), request.node(), &set)?;
    reply.push(&request.encoder().attr_out(&attr))
}

/// Whether this SETATTR is to change the size, or to give set-ID bits, which a write takes away.
pub(in crate::fuse) fn changes_writes(request: &Request<'_>) -> bool {
    let mut body = request.body;
    body.take::<abi::SetattrIn>().is_ok_and(|set| {
        set.valid & abi::FATTR_SIZE != 0 || set.valid & abi::FATTR_MODE != 0 && set.mode & 0o6000 != 0
    })
}

fn decode(wire: &abi::SetattrIn) -> Result<SetAttr> {
    let has = |flag: u32| wire.valid & flag != 0;
    let time = |set: u32, now: u32, sec: u64, nsec: u32| -> Result<Option<SetTime>> {
        // The kernel sets both flags for "now" (iattr_to_fattr).
        match (has(now), has(set)) {
            (true, _) => Ok(Some(SetTime::Now)),
            (false, true) => timestamp(sec, nsec).map(|time| Some(SetTime::At(time))),
            (false, false) => Ok(None),
        }
    };
    Ok(SetAttr {
        fh: has(abi::FATTR_FH).then_some(Fh(wire.fh)),
        mode: has(abi::FATTR_MODE).then_some(wire.mode),
        uid: has(abi::FATTR_UID).then_some(wire.uid),
        gid: has(abi::FATTR_GID).then_some(wire.gid),
        size: has(abi::FATTR_SIZE).then_some(wire.size).map(position).transpose()?,
        atime: time(abi::FATTR_ATIME, abi::FATTR_ATIME_NOW, wire.atime, wire.atimensec)?,
        mtime: time(abi::FATTR_MTIME, abi::FATTR_MTIME_NOW, wire.mtime, wire.mtimensec)?,
        ctime: match has(abi::FATTR_CTIME) {
            true => Some(timestamp(wire.ctime, wire.ctimensec)?),
            false => None,
        },
        kill_suidgid: has(abi::FATTR_KILL_SUIDGID),
    })
}

/// STATX.
pub(in crate::fuse) fn statx<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let statx: abi::StatxIn = body.take()?;
    let fh = optional_fh(statx.getattr_flags, statx.fh);
    let attr = fs.statx(request.node(), fh, statx.sx_flags, statx.sx_mask)?;
    reply.push(&encode::statx_out(&attr))
}

/// STATFS.
pub(in crate::fuse) fn statfs<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    reply.push(&encode::statfs_out(&fs.statfs(request.node())?))
}

/// ACCESS.
pub(in crate::fuse) fn access<F: FileSystem>(
    fs: &F,
    request: &Request<'_>,
    _reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let access: abi::AccessIn = body.take()?;
    fs.access(request.caller(), request.node(), access.mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::types::Timestamp;
    use rustix::io::Errno;

    #[test]
    fn only_valid_fields_are_set() {
        let garbage = abi::SetattrIn {
            mode: 1,
            uid: 2,
            gid: 3,
            size: u64::MAX,
            atimensec: u32::MAX,
            ctimensec: u32::MAX,
            ..abi::SetattrIn::default()
        };
        assert_eq!(decode(&garbage), Ok(SetAttr::default()));
        let mode = abi::SetattrIn { valid: abi::FATTR_MODE | abi::FATTR_LOCKOWNER, ..garbage };
        assert_eq!(decode(&mode), Ok(SetAttr { mode: Some(1), ..SetAttr::default() }));
        let size = abi::SetattrIn { valid: abi::FATTR_SIZE, ..garbage };
        assert_eq!(decode(&size), Err(Errno::INVAL), "a size is a signed 64-bit number");
        let ctime = abi::SetattrIn { valid: abi::FATTR_CTIME, ..garbage };
        assert_eq!(decode(&ctime), Err(Errno::INVAL));
    }

    #[test]
    fn now_is_stronger_than_a_value() {
        let both = abi::SetattrIn {
            valid: abi::FATTR_ATIME | abi::FATTR_ATIME_NOW | abi::FATTR_MTIME,
            atimensec: u32::MAX,
            mtime: (-1i64).cast_unsigned(),
            mtimensec: 5,
            ..abi::SetattrIn::default()
        };
        let set = decode(&both).unwrap();
        assert_eq!(set.atime, Some(SetTime::Now));
        assert_eq!(set.mtime, Some(SetTime::At(Timestamp { sec: -1, nsec: 5 })));
    }
}
