//! What may a guest be answered in FUSE?
//!
//! What its kernel would not take, or what speaks of a file outside the share, is a defect whatever was asked.

use extentfsd::fuse::abi::extents::{IOMAP_MAPPED, IomapBeginOut, IomapIo};
use extentfsd::fuse::abi::{opcode, *};
use zerocopy::FromBytes;

use crate::messages::{Guest, Message, Told};

impl Guest {
    /// Checks an answer of which `moved` bytes, those of a READ, went to guest memory directly. Remembers what it says.
    ///
    /// # Panics
    /// The answer is none that the guest's kernel would take, or speaks of a file outside the share.
    pub fn listen(&mut self, message: &Message, answer: &[u8], moved: usize) {
        let closing = [opcode::RELEASE, opcode::FORGET, opcode::BATCH_FORGET, opcode::INIT, opcode::DESTROY];
        if closing.contains(&message.opcode) {
            self.told.clear();
        }
        let forgetting = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INIT, opcode::DESTROY];
        self.forgot |= forgetting.contains(&message.opcode);
        let silent = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT, opcode::NOTIFY_REPLY];
        if answer.is_empty() {
            let speechless = message.head.len() < 40 || message.room < 16 || silent.contains(&message.opcode);
            assert!(speechless, "no answer to {message:x?}");
            return;
        }
        let (header, body) = OutHeader::read_from_prefix(answer).expect("a header");
        assert_eq!(header.len as usize, answer.len() + moved, "the length of the answer to {message:x?}");
        assert!(answer.len() + moved <= message.room, "more than there is room for: {message:x?}");
        assert_eq!(header.unique.to_le_bytes(), message.head[8..16], "the answer to another request");
        assert!((-511..=0).contains(&header.error), "errno {}", header.error);
        if header.error != 0 {
            assert_eq!(answer.len() + moved, 16, "an error with something behind it: {message:x?}");
            return;
        }
        self.check_length(message, body.len());
        self.learn(message.opcode, body);
        self.count_opens(message);
        if let (opcode::IOMAP_BEGIN, Ok(map)) = (message.opcode, IomapBeginOut::read_from_bytes(body)) {
            let node = u64::from_le_bytes(message.head[16..24].try_into().expect("8 bytes"));
            let ino = self.inodes.get(&node).copied();
            // Who only wants a report gets no device.
            if let (IOMAP_MAPPED, 1.., Some(ino)) = (map.read.kind, map.read.dev, ino) {
                let IomapIo { offset, length, addr: address, .. } = map.read;
                assert!(length > 0 && offset.checked_add(length).is_some(), "{map:?}");
                self.told.push(Told { ino, offset, length, address });
            }
        }
    }

    /// Remembers which handle is of which node.
    fn count_opens(&mut self, message: &Message) {
        let number = |at: usize| Some(u64::from_le_bytes(*message.head.get(at..)?.first_chunk()?));
        match message.opcode {
            opcode::OPEN => self.files.extend(number(16).zip(self.handles.last().copied())),
            opcode::RELEASE => self.files.retain(|(_, handle)| number(40) != Some(*handle)),
            opcode::INIT | opcode::DESTROY => self.files.clear(),
            _ => {}
        }
    }

    fn check_length(&self, message: &Message, len: usize) {
        let allowed: std::ops::RangeInclusive<usize> = match message.opcode {
            opcode::LOOKUP | opcode::SYMLINK | opcode::MKNOD | opcode::MKDIR | opcode::LINK => 128..=128,
            opcode::GETATTR | opcode::SETATTR => 104..=104,
            opcode::OPEN | opcode::OPENDIR => 16..=16,
            opcode::CREATE | opcode::TMPFILE => 144..=144,
            opcode::STATFS => 80..=80,
            opcode::STATX => 288..=288,
            opcode::WRITE | opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 | opcode::LSEEK => 8..=8,
            opcode::GETLK => 24..=24,
            opcode::INIT => 64..=64,
            opcode::READLINK => 1..=4095,
            opcode::READ => 0..=0,
            opcode::READDIR | opcode::READDIRPLUS | opcode::GETXATTR | opcode::LISTXATTR => {
                0..=message.room - 16
            }
            opcode::IOCTL => 16..=message.room - 16,
            opcode::EXTENT_DEVICE => 64..=64,
            opcode::IOMAP_CONFIG => 104..=104,
            opcode::IOMAP_BEGIN => 48..=64,
            opcode::IOMAP_IOEND => 0..=8,
            _ => 0..=0,
        };
        assert!(allowed.contains(&len), "{len} bytes in answer to {message:x?}");
    }

    fn learn(&mut self, opcode: u32, body: &[u8]) {
        match opcode {
            opcode::LOOKUP
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::LINK
            | opcode::CREATE
            | opcode::TMPFILE => {
                let (entry, rest) = EntryOut::read_from_prefix(body).expect("checked above");
                self.meet(&entry);
                if let Ok((opened, _)) = OpenOut::read_from_prefix(rest) {
                    self.handles.push(opened.fh);
                }
            }
            opcode::OPEN | opcode::OPENDIR => {
                self.handles.push(OpenOut::read_from_bytes(body).expect("checked above").fh);
            }
            opcode::READDIR | opcode::READDIRPLUS => self.read_directory(body, opcode == opcode::READDIRPLUS),
            opcode::GETATTR | opcode::SETATTR => {
                let attr = AttrOut::read_from_bytes(body).expect("checked above").attr;
                assert!(!self.foreign.contains(&attr.ino), "attributes of a file outside: {attr:?}");
            }
            opcode::INIT | opcode::DESTROY => {
                self.nodes.truncate(1);
                self.handles.clear();
            }
            _ => {}
        }
    }

    fn meet(&mut self, entry: &EntryOut) {
        if entry.nodeid != 0 {
            assert!(!self.foreign.contains(&entry.attr.ino), "a file outside the share: {entry:?}");
            self.inodes.insert(entry.nodeid, entry.attr.ino);
            if !self.nodes.contains(&entry.nodeid) {
                self.nodes.push(entry.nodeid);
            }
        }
    }

    /// `fuse_parse_dirfile` and `fuse_parse_dirplusfile`: what the guest's kernel refuses with `EIO`.
    fn read_directory(&mut self, mut body: &[u8], plus: bool) {
        while !body.is_empty() {
            let begin = body;
            if plus {
                let (entry, rest) = EntryOut::read_from_prefix(body).expect("a whole entry");
                body = rest;
                self.meet(&entry);
            }
            let (entry, rest) = Dirent::read_from_prefix(body).expect("a whole entry");
            let len = entry.namelen as usize;
            let name = &rest[..len];
            assert!((1..=1024).contains(&len), "a name of {len} bytes");
            assert!(!name.contains(&b'/') && !name.contains(&0), "a name that is none: {name:?}");
            let whole = begin.len() - rest.len() + len;
            body = &begin[whole.next_multiple_of(FUSE_DIRENT_ALIGN)..];
        }
    }
}
