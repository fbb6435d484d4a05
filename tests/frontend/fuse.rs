//! A FUSE client over the virtqueues of a synthetic guest.

use super::guest::Guest;
pub use super::wire::*;

/// A mounted share, through one queue of a guest.
pub struct Client {
    pub guest: Guest,
    pub queue: usize,
    unique: u64,
}

impl Client {
    /// Mounts: INIT with everything offered that a 7.46 guest knows.
    pub fn mount(guest: Guest) -> Self {
        let mut client = Self { guest, queue: 1, unique: 0 };
        client.init().expect("INIT");
        client
    }

    /// Before INIT.
    pub fn unmounted(guest: Guest) -> Self {
        Self { guest, queue: 1, unique: 0 }
    }

    /// Sends INIT; the body of its answer.
    pub fn init(&mut self) -> Result<Vec<u8>, i32> {
        let body = Body::new().u32(7).u32(46).u32(1 << 20).u32(0x73ff_fffb).u32(0x1ff).bytes(&[0; 44]);
        self.call(INIT, 0, body, 64)
    }

    /// Sends a request as root; the body of the answer, or the positive errno. Checks the header that
    /// every answer must have.
    pub fn call(&mut self, opcode: u32, node: u64, body: Body, room: u32) -> Result<Vec<u8>, i32> {
        self.call_as(opcode, node, (0, 0), body, room)
    }

    /// The same as a user (uid, gid).
    pub fn call_as(
        &mut self,
        opcode: u32,
        node: u64,
        (uid, gid): (u32, u32),
        body: Body,
        room: u32,
    ) -> Result<Vec<u8>, i32> {
        self.unique += 2;
        let request = message(opcode, self.unique, node, uid, gid, &body.0);
        let answer = self.guest.exchange(self.queue, &request, room + OUT_HEADER as u32);
        check_answer(&answer, self.unique)
    }

    /// LOOKUP: nodeid and the whole entry.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<(u64, Vec<u8>), i32> {
        let entry = self.call(LOOKUP, parent, Body::new().name(name), 128)?;
        Ok((u64_at(&entry, 0), entry))
    }

    /// FORGET on the high-priority queue.
    pub fn forget(&mut self, node: u64, nlookup: u64) {
        self.unique += 2;
        let request = message(FORGET, self.unique, node, 0, 0, &Body::new().u64(nlookup).0);
        let answer = self.guest.exchange(0, &request, 0);
        assert!(answer.is_empty(), "FORGET was answered");
    }

    /// MKDIR: nodeid.
    pub fn mkdir(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        let entry = self.call(MKDIR, parent, Body::new().u32(0o755).u32(0o022).name(name), 128)?;
        Ok(u64_at(&entry, 0))
    }

    /// CREATE and open: nodeid and handle.
    pub fn create(&mut self, parent: u64, name: &str) -> Result<(u64, u64), i32> {
        let flags = libc::O_RDWR as u32 | libc::O_CREAT as u32;
        let body = Body::new().u32(flags).u32(0o100_644).u32(0o022).u32(0).name(name);
        let answer = self.call(CREATE, parent, body, 128 + 16)?;
        Ok((u64_at(&answer, 0), u64_at(&answer, 128)))
    }

    /// OPEN: handle.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let answer = self.call(OPEN, node, Body::new().u32(flags as u32).u32(0), 16)?;
        Ok(u64_at(&answer, 0))
    }

    /// RELEASE.
    pub fn release(&mut self, node: u64, fh: u64) -> Result<(), i32> {
        self.call(RELEASE, node, Body::new().u64(fh).u32(0).u32(0).u64(0), 0).map(drop)
    }

    /// READ.
    pub fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let body = Body::new().u64(fh).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
        self.call(READ, node, body, size)
    }

    /// WRITE: bytes written.
    pub fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let body = Body::new()
            .u64(fh)
            .u64(offset)
            .u32(data.len() as u32)
            .u32(0)
            .u64(0)
            .u32(libc::O_RDWR as u32)
            .u32(0)
            .bytes(data);
        self.call(WRITE, node, body, 8).map(|answer| u32_at(&answer, 0))
    }
}

/// Checks the header of an answer as a 7.3 guest does (`virtio_fs_verify_response`), and splits it off.
pub fn check_answer(answer: &[u8], unique: u64) -> Result<Vec<u8>, i32> {
    assert!(answer.len() >= OUT_HEADER, "an answer of {} bytes has no header", answer.len());
    assert_eq!(u32_at(answer, 0) as usize, answer.len(), "the header's length is not the used length");
    assert_eq!(u64_at(answer, 8), unique, "the answer is to another request");
    let error = u32_at(answer, 4) as i32;
    assert!((-511..=0).contains(&error), "error {error} is no errno");
    if error == 0 {
        return Ok(answer[OUT_HEADER..].to_vec());
    }
    assert_eq!(answer.len(), OUT_HEADER, "an error reply carries nothing");
    Err(-error)
}
