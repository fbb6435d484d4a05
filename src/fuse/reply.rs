//! How is a reply written, with exactly the length that the guest expects?
//!
//! Since Linux 7.3 `virtio_fs_verify_response` drops a reply whose length is not that of its header, an
//! error that is longer than its header or outside (-512, 0], and a success that is not exactly as long
//! as the operation's reply (or, where that is variable, longer than the room).

use std::io;

use rustix::io::Errno;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::abi::{OutHeader, WriteOut};
use super::transfer::{Direction, Transfer};
use super::types::Result;

/// Length of a reply's header in bytes.
pub(super) const HEAD_LEN: usize = size_of::<OutHeader>();

/// The guest takes a larger errno for garbage (`ERESTARTSYS` and its like are 512 and above).
const MAX_ERRNO: i32 = 511;

/// A reply that is being written: room for the header, then what handlers add.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    buffer: &'a mut Vec<u8>,
    room: usize,
}

impl<'a> Reply<'a> {
    /// Begins a reply with at most `room` bytes behind its header.
    pub(super) fn begin(buffer: &'a mut Vec<u8>, room: usize) -> Self {
        buffer.clear();
        buffer.extend_from_slice(OutHeader::new_zeroed().as_bytes());
        Self { buffer, room }
    }

    /// Bytes that a reply may have behind its header.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Appends a structure.
    ///
    /// # Errors
    /// `EINVAL` where the guest gave too little room.
    pub(super) fn push<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<()> {
        let free = (HEAD_LEN + self.room).saturating_sub(self.buffer.len());
        if size_of::<T>() > free {
            return Err(Errno::INVAL);
        }
        self.buffer.extend_from_slice(value.as_bytes());
        Ok(())
    }

    /// Where a handler appends bytes of which it does not know the number beforehand. More than there
    /// is room for turn the whole reply into an error.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        self.buffer
    }

    /// Writes a structure over one that was pushed as the first.
    pub(super) fn replace_first<T: IntoBytes + Immutable>(&mut self, value: &T) {
        if let Some(bytes) = self.buffer.get_mut(HEAD_LEN..HEAD_LEN + size_of::<T>()) {
            bytes.copy_from_slice(value.as_bytes());
        }
    }

    /// Ends the reply to request `unique`: as it is, or as an error without anything behind the header.
    pub(super) fn seal(self, unique: u64, result: Result<()>) {
        let overrun = self.buffer.len().saturating_sub(HEAD_LEN) > self.room;
        let error = match result {
            Ok(()) if overrun => Some(Errno::IO),
            Ok(()) => None,
            Err(errno) => Some(errno),
        };
        let behind = if error.is_some() {
            self.buffer.truncate(HEAD_LEN);
            0
        } else {
            self.buffer.len().saturating_sub(HEAD_LEN)
        };
        write_header(self.buffer, behind, error, unique);
    }
}

/// Makes `buffer` the answer to a finished transfer. The bytes of a read are in guest memory already, so
/// its answer is a header that counts them.
pub(super) fn transferred(buffer: &mut Vec<u8>, transfer: &Transfer, moved: io::Result<usize>, unique: u64) {
    let moved = match moved {
        Ok(moved) => u32::try_from(moved).unwrap_or(u32::MAX).min(transfer.len),
        Err(failure) => return error(buffer, errno_of(&failure), unique),
    };
    match transfer.direction {
        Direction::Read => {
            Reply::begin(buffer, 0);
            write_header(buffer, usize::try_from(moved).unwrap_or(usize::MAX), None, unique);
        }
        Direction::Write => {
            let mut reply = Reply::begin(buffer, size_of::<WriteOut>());
            let result = reply.push(&WriteOut { size: moved, padding: 0 });
            reply.seal(unique, result);
        }
    }
}

/// What a guest is told of a failure: the system's errno, `EIO` where there was none.
pub(super) fn errno_of(failure: &io::Error) -> Errno {
    Errno::from_io_error(failure).unwrap_or(Errno::IO)
}

/// Makes `buffer` an error reply.
pub(super) fn error(buffer: &mut Vec<u8>, errno: Errno, unique: u64) {
    Reply::begin(buffer, 0).seal(unique, Err(errno));
}

fn write_header(buffer: &mut [u8], behind: usize, error: Option<Errno>, unique: u64) {
    let len = u32::try_from(HEAD_LEN.saturating_add(behind)).unwrap_or(u32::MAX);
    let errno = error.map_or(0, |errno| match errno.raw_os_error() {
        known @ 1..=MAX_ERRNO => known,
        _ => Errno::IO.raw_os_error(),
    });
    let header = OutHeader { len, error: -errno, unique };
    if let Some(bytes) = buffer.get_mut(..HEAD_LEN) {
        bytes.copy_from_slice(header.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    fn header(reply: &[u8]) -> OutHeader {
        OutHeader::read_from_prefix(reply).unwrap().0
    }

    #[test]
    fn a_success_has_its_length() {
        let mut buffer = vec![1, 2, 3];
        let mut reply = Reply::begin(&mut buffer, 8);
        reply.push(&7u64).unwrap();
        reply.seal(5, Ok(()));
        assert_eq!(buffer.len(), 24);
        assert_eq!(header(&buffer), OutHeader { len: 24, error: 0, unique: 5 });
        assert_eq!(buffer[16..], 7u64.to_le_bytes());
    }

    #[test]
    fn an_error_is_a_header_and_nothing_else() {
        let mut buffer = Vec::new();
        let mut reply = Reply::begin(&mut buffer, 8);
        reply.push(&7u64).unwrap();
        reply.seal(5, Err(Errno::NOENT));
        assert_eq!(header(&buffer), OutHeader { len: 16, error: -2, unique: 5 });
        assert_eq!(buffer.len(), 16);
    }

    #[test]
    fn nothing_exceeds_the_room() {
        let mut buffer = Vec::new();
        let mut reply = Reply::begin(&mut buffer, 7);
        assert_eq!(reply.push(&7u64), Err(Errno::INVAL));
        reply.tail().extend_from_slice(&[0; 8]);
        reply.seal(5, Ok(()));
        assert_eq!(header(&buffer), OutHeader { len: 16, error: -Errno::IO.raw_os_error(), unique: 5 });
    }

    #[test]
    fn an_errno_that_the_guest_would_not_believe_becomes_eio() {
        for (raw, seen) in [(511, 511), (512, 5), (524, 5), (4095, 5)] {
            let mut buffer = Vec::new();
            error(&mut buffer, Errno::from_raw_os_error(raw), 1);
            assert_eq!(header(&buffer).error, -seen, "{raw}");
        }
    }
}
