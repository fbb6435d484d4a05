//! What does a guest say of files that it has open, and reaches in a window?
//!
//! Requests that make sense, most of them such as move blocks: among those of `messages.rs` few would.

use extentfsd::fuse::abi::extents::IomapBeginIn;
use extentfsd::fuse::abi::{opcode, *};
use zerocopy::IntoBytes;

use crate::input::Input;
use crate::messages::{Guest, Message, push};

impl Guest {
    /// What a guest does that wants to use a file in the window: each message when the one before was answered.
    pub fn begin(&self) -> [fn(&mut Self) -> Message; 3] {
        [
            |guest| guest.message(opcode::LOOKUP, 1, b"a\0", 0, 4096),
            |guest| {
                let node = guest.nodes[guest.nodes.len() - 1];
                let open = OpenIn { flags: (libc::O_RDWR | libc::O_DIRECT) as u32, open_flags: 0 };
                guest.message(opcode::OPEN, node, open.as_bytes(), 0, 4096)
            },
            |guest| {
                let node = guest.nodes[guest.nodes.len() - 1];
                let ask = IomapBeginIn { opflags: 1, count: 1, ..IomapBeginIn::default() };
                guest.message(opcode::IOMAP_BEGIN, node, ask.as_bytes(), 0, 4096)
            },
        ]
    }

    /// A request of the input about a file that is open, such as moves its blocks, or about its name.
    pub fn ask_of_a_file(&mut self, input: &mut Input<'_>) -> Message {
        let choice = input.u8();
        let back = usize::from(input.u8());
        let (node, fh) = match self.files.len() {
            0 => (self.nodes[self.nodes.len() - 1], 0),
            count => self.files[count - 1 - back % count],
        };
        let names: [&[u8]; 4] = [b"a\0", b"b\0", b"new\0", b"new2\0"];
        let name = input.one_of(&names);
        let (offset, length) = (u64::from(input.u8() % 64) * 4096, u64::from(input.u8() % 32 + 1) * 4096);
        let odd = input.one_of(&[0, 0, 0, 100, 512, 1000]);
        let mut body = Vec::new();
        let (b, mut payload) = (&mut body, 0);
        let (opcode, node) = match choice % 23 {
            0 | 1 => {
                b.extend_from_slice(name);
                (opcode::LOOKUP, 1)
            }
            2 | 3 => {
                let node = self.nodes[self.nodes.len() - 1 - back % self.nodes.len()];
                let flags = input.one_of(&[
                    libc::O_DIRECT | libc::O_RDWR,
                    libc::O_DIRECT | libc::O_RDWR,
                    libc::O_DIRECT,
                    libc::O_RDWR,
                    libc::O_DIRECT | libc::O_RDWR | libc::O_TRUNC,
                ]);
                push(b, OpenIn { flags: flags as u32, open_flags: 0 });
                (opcode::OPEN, node)
            }
            4 | 5 => {
                let opflags = input.one_of(&[1, 1, 0, 4]);
                push(b, IomapBeginIn { opflags, pos: offset, count: 1, ..IomapBeginIn::default() });
                (opcode::IOMAP_BEGIN, node)
            }
            6 => {
                push(b, SetattrIn { valid: FATTR_SIZE, size: offset + odd, ..SetattrIn::default() });
                (opcode::SETATTR, node)
            }
            7 => {
                let set = [(FATTR_MODE, 0o644), (FATTR_MODE, 0o6755), (FATTR_MTIME, 0)];
                let (valid, mode) = input.one_of(&set);
                push(b, SetattrIn { valid, mode: libc::S_IFREG | mode, ..SetattrIn::default() });
                (opcode::SETATTR, node)
            }
            8..=10 => {
                // Punch, allocate, zero, collapse, insert.
                let mode = input.one_of(&[3, 0, 0x10, 8, 0x20, 1, 0x11]);
                push(b, FallocateIn { fh, offset: offset + odd, length, mode, padding: 0 });
                (opcode::FALLOCATE, node)
            }
            11..=13 => {
                payload = length as usize + odd as usize;
                let size = payload as u32;
                push(b, WriteIn { fh, offset: offset + odd, size, ..WriteIn::default() });
                (opcode::WRITE, node)
            }
            14 => {
                let (to, fh_out) = self.files.first().copied().unwrap_or((node, fh));
                let copy = CopyFileRangeIn {
                    fh_in: fh,
                    off_in: offset,
                    nodeid_out: to,
                    fh_out,
                    off_out: u64::from(input.u8()) % 64 * 4096,
                    len: length,
                    flags: 0,
                };
                push(b, copy);
                (opcode::COPY_FILE_RANGE, node)
            }
            15 => {
                b.extend_from_slice(name);
                (opcode::UNLINK, 1)
            }
            16 => {
                push(b, RenameIn { newdir: 1 });
                b.extend_from_slice(name);
                b.extend_from_slice(input.one_of(&names));
                (opcode::RENAME, 1)
            }
            17 => {
                push(b, FsyncIn { fh, fsync_flags: back as u32 & 1, padding: 0 });
                (opcode::FSYNC, node)
            }
            18 => {
                push(b, ReleaseIn { fh, ..ReleaseIn::default() });
                (opcode::RELEASE, node)
            }
            19 => {
                let size = length as u32;
                push(b, ReadIn { fh, offset: offset + odd, size, ..ReadIn::default() });
                (opcode::READ, node)
            }
            20 => {
                push(b, ForgetIn { nlookup: 1 });
                (opcode::FORGET, node)
            }
            21 => {
                let capability = [&[1, 0, 0, 2][..], &[0; 16]].concat();
                push(b, SetxattrIn { size: capability.len() as u32, flags: 0 });
                push(b, SetxattrInExt { setxattr_flags: 0, padding: 0 });
                b.extend_from_slice(b"security.capability\0");
                b.extend_from_slice(&capability);
                (opcode::SETXATTR, node)
            }
            _ => {
                // FS_IOC_SETFLAGS: not to be dumped, immutable, none; ext4 has a flag beside that must stay.
                let flags = input.one_of(&[0x8_0040_u32, 0x40, 0x8_0010, 0x10, 0x8_0000, 0]);
                push(b, IoctlIn { fh, flags: 0, cmd: 0x4008_6602, arg: 0, in_size: 4, out_size: 0 });
                push(b, flags);
                (opcode::IOCTL, node)
            }
        };
        self.message(opcode, node, &body, payload, 16 + (128 << 10))
    }
}
