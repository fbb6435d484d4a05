//! How are the two servers asked? In the process, with the bytes of a request, for the bytes of the
//! answer.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use extentfsd::fs::{self, InodeFileHandles, Passthrough};
use extentfsd::fuse::{Direction, Handled, Server, Transfer};
use fuse_backend_rs::api::server::Server as OracleServer;
use fuse_backend_rs::passthrough::{self as oracle, PassthroughFs};
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::ReadWriteFlags;

use super::disguise::Disguise;

/// How long names and attributes may be believed, the same for both.
const VALID: Duration = Duration::from_millis(1500);

/// Something that answers FUSE requests.
pub trait Answers {
    /// The answer to `request`, of at most `room` bytes; `None` where there is none.
    fn ask(&self, request: &[u8], room: usize) -> Option<Vec<u8>>;
}

/// The server under test over the passthrough file system.
pub struct Ours(Server<Passthrough>);

impl Ours {
    pub fn new(share: &Path, inode_file_handles: InodeFileHandles, disguise: Disguise) -> Self {
        let open = |path: &Path, flags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("a file of the host")
        };
        let config = fs::Config {
            attr_timeout: Some(VALID),
            entry_timeout: Some(VALID),
            xattr: true,
            killpriv_v2: true,
            inode_file_handles,
            ..fs::Config::default()
        };
        let config = disguise.put_on(config);
        let root = open(share, OFlags::PATH | OFlags::DIRECTORY);
        let proc_self_fd = open(Path::new("/proc/self/fd"), OFlags::PATH | OFlags::DIRECTORY);
        let fs = Passthrough::new(config, root, proc_self_fd).expect("a file system");
        Self(Server::new(fs))
    }

    /// Moves the bytes like a ring without `O_DIRECT`; returns those of a READ.
    fn execute(transfer: &Transfer, payload: &[u8]) -> (io::Result<usize>, Vec<u8>) {
        let flags = ReadWriteFlags::from_bits_retain(transfer.rw_flags.cast_unsigned());
        let len = usize::try_from(transfer.len).expect("a short transfer");
        let (file, offset) = (transfer.file.buffered(), transfer.offset);
        match transfer.direction {
            Direction::Read => {
                let mut data = vec![0; len];
                let moved = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut data)], offset, flags);
                data.truncate(moved.unwrap_or(0));
                (moved.map_err(io::Error::from), data)
            }
            Direction::Write => {
                let moved = rustix::io::pwritev2(file, &[IoSlice::new(&payload[..len])], offset, flags);
                (moved.map_err(io::Error::from), Vec::new())
            }
        }
    }
}

impl Answers for Ours {
    fn ask(&self, request: &[u8], room: usize) -> Option<Vec<u8>> {
        let head_len = self.0.head_len(&request[..self.0.peek_len()]).min(request.len());
        let (head, payload) = request.split_at(head_len);
        let mut answer = Vec::new();
        match self.0.handle(head, payload.len(), room, &mut answer) {
            Handled::Reply => Some(answer),
            Handled::NoReply => None,
            Handled::Transfer(transfer) => {
                let (moved, data) = Self::execute(&transfer, payload);
                self.0.finish(head, &transfer, moved, &mut answer);
                answer.extend_from_slice(&data);
                Some(answer)
            }
            Handled::Blocking => {
                let (respond, answered) = mpsc::channel();
                self.0.handle_blocking(
                    head,
                    room,
                    Box::new(move |answer| respond.send(answer).expect("a test")),
                );
                Some(answered.recv().expect("an answer")).filter(|answer| !answer.is_empty())
            }
        }
    }
}

/// fuse-backend-rs: its server over its passthrough file system.
pub struct Oracle {
    server: OracleServer<PassthroughFs>,
    /// Stands for `/dev/fuse`: the server writes its answers here.
    answers: File,
}

impl Oracle {
    pub fn new(share: &Path) -> Self {
        let fs = PassthroughFs::new(oracle::Config {
            root_dir: share.to_str().expect("a plain path").to_owned(),
            attr_timeout: VALID,
            entry_timeout: VALID,
            xattr: true,
            killpriv_v2: true,
            allow_direct_io: false,
            ..oracle::Config::default()
        })
        .expect("a passthrough file system");
        let answers = rustix::fs::memfd_create("answers", MemfdFlags::CLOEXEC).expect("memfd_create");
        Self { server: OracleServer::new(fs), answers: answers.into() }
    }
}

impl Answers for Oracle {
    fn ask(&self, request: &[u8], room: usize) -> Option<Vec<u8>> {
        self.answers.set_len(0).expect("an empty memfd");
        rustix::fs::seek(&self.answers, rustix::fs::SeekFrom::Start(0)).expect("the start of the memfd");
        let mut request = request.to_vec();
        let mut buffer = vec![0; room];
        let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(&mut request)).expect("a reader");
        let writer = FuseDevWriter::<()>::new(self.answers.as_raw_fd(), &mut buffer).expect("a writer");
        // An error means that it could not decode the request; it may have answered all the same.
        let _ = self.server.handle_message(reader, writer.into(), None, None);
        let len = usize::try_from(self.answers.metadata().expect("a memfd").len()).expect("a short answer");
        let mut answer = vec![0; len];
        self.answers.read_exact_at(&mut answer, 0).expect("the answer");
        (len > 0).then_some(answer)
    }
}
