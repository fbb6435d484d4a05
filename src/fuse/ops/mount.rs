//! INIT: a guest mounts.

use rustix::io::Errno;

use crate::fuse::FileSystem;
use crate::fuse::abi::{self, InitIn, InitInExt, InitOut};
use crate::fuse::negotiation::{Guest, agree};
use crate::fuse::reply::Reply;
use crate::fuse::request::Request;
use crate::fuse::session::Session;
use crate::fuse::types::Result;

/// INIT. The version rules are those of the uapi header ("Version negotiation"): to a larger major version
/// we answer with ours and wait for a second INIT; a smaller one, or a minor version before
/// [`FUSE_OLDEST_MINOR_VERSION`](abi::FUSE_OLDEST_MINOR_VERSION), we do not speak.
///
/// # Errors
/// `EPROTO` for a guest that is too old; what the file system says.
pub(in crate::fuse) fn init<F: FileSystem>(
    fs: &F,
    session: &Session,
    request: &Request<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    let mut body = request.body;
    let init: InitIn = body.take()?;
    if init.major > abi::FUSE_KERNEL_VERSION {
        return reply.push(&InitOut {
            major: abi::FUSE_KERNEL_VERSION,
            minor: abi::FUSE_KERNEL_MINOR_VERSION,
            ..InitOut::default()
        });
    }
    if init.major < abi::FUSE_KERNEL_VERSION || init.minor < abi::FUSE_OLDEST_MINOR_VERSION {
        return Err(Errno::PROTO);
    }
    if reply.room() < size_of::<InitOut>() {
        return Err(Errno::INVAL);
    }

    let mut flags = u64::from(init.flags);
    if flags & abi::FUSE_INIT_EXT != 0 {
        flags |= u64::from(body.take::<InitInExt>()?.flags2) << 32;
    }
    let guest = Guest { minor: init.minor, flags, max_readahead: init.max_readahead };
    let config = fs.init(guest.offered())?;
    let (features, answer) = agree(guest, &config);
    session.open(features, answer.max_write);
    tracing::debug!(
        guest = format_args!("7.{}", init.minor),
        features = format_args!("{features:#x}"),
        "the guest mounts"
    );
    reply.push(&answer)
}
