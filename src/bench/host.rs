//! What does the host do with the same I/O and no daemon?
//!
//! The contender `host`: the same blocks of the same file in the same order of choice, by io_uring from as many threads at
//! the same depth, checked in the same way. What a daemon adds is what is missing to this.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};

use super::account::{Usage, own_cpu};
use super::content::Content;
use super::drive::{self, Clockwork, Measured, Pace, Tally};
use super::work::{Assignment, DATA, Work, io};
use super::{Error, sys};

/// Measures the host. Its CPU time is that of this process, which does both the I/O and the checking.
pub(super) fn measure(work: Work, assignments: &[Assignment], pace: Pace<'_>) -> Result<Measured, Error> {
    let threads = assignments
        .iter()
        .map(|to| move |clockwork: &Clockwork, budget| client(work, to, clockwork, budget))
        .collect();
    drive::run(threads, pace, &|| Usage { cpu: own_cpu(), ..Usage::default() })
}

/// Memory for one transfer, aligned for direct I/O.
struct Buffer {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
    notes: Vec<u32>,
    offset: u64,
    write: bool,
    begun: Instant,
}

impl Buffer {
    fn new(block: u32) -> Self {
        let len = usize::try_from(block).unwrap_or_default();
        let mut bytes = vec![0; len + 4096];
        let skip = bytes.as_mut_ptr().align_offset(4096).min(4096);
        Self {
            bytes,
            skip,
            len,
            notes: vec![0; io::units(block)],
            offset: 0,
            write: false,
            begun: Instant::now(),
        }
    }

    fn slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.skip..self.skip + self.len).unwrap_or_default()
    }
}

fn client(work: Work, to: &Assignment, clockwork: &Clockwork, budget: Option<u64>) -> Result<Tally, Error> {
    let content = to.content.clone().ok_or_else(|| Error::Untrue("there is no data file".to_owned()))?;
    let path = to.share.join(DATA);
    let file = open(&path, to.direct)?;
    let mut ring =
        IoUring::new(u32::from(to.depth).next_power_of_two()).map_err(Error::system("io_uring"))?;
    let mut picker = io::Picker::of(work, to);
    let mut buffers: Vec<Buffer> = (0..to.depth).map(|_| Buffer::new(to.block)).collect();
    let mut tally = Tally::new()?;
    let mut seen = clockwork.first_phase();
    let mut left = budget.unwrap_or(u64::MAX);
    let mut free: Vec<usize> = (0..buffers.len()).collect();
    let mut done = Vec::with_capacity(buffers.len());
    // The first failure. What is in flight then still writes to the buffers, so it is waited for in any case.
    let mut failure = None;
    loop {
        let going = clockwork.follow(&mut seen, &mut tally) && failure.is_none();
        let now = Instant::now();
        while let Some(slot) = free.pop_if(|_| going && left > 0) {
            left -= 1;
            if let Some(buffer) = buffers.get_mut(slot) {
                buffer.begun = now;
                if let Err(error) = begin(&mut ring, &file, &content, &mut picker, (slot, buffer)) {
                    failure = Some(error);
                    free.push(slot);
                    break;
                }
            }
        }
        if free.len() == buffers.len() {
            break;
        }
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                // The kernel may still write to them.
                std::mem::forget(buffers);
                return Err(Error::system("io_uring_enter")(error));
            }
            _ => {}
        }
        done.extend(ring.completion().map(|entry| (entry.user_data(), entry.result())));
        let now = Instant::now();
        for (slot, result) in done.drain(..) {
            let slot = usize::try_from(slot).unwrap_or_default();
            free.push(slot);
            let Some(buffer) = buffers.get_mut(slot) else { continue };
            match end(buffer, &content, to, result) {
                Ok(()) if going => tally.count(1, to.block, now.saturating_duration_since(buffer.begun)),
                Ok(()) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    failure.map_or(Ok(tally), Err)
}

fn open(path: &Path, direct: bool) -> Result<File, Error> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(path)
        .map_err(Error::file("opening", path))
}

#[allow(unsafe_code)]
fn begin(
    ring: &mut IoUring,
    file: &File,
    content: &Arc<Content>,
    picker: &mut io::Picker,
    (slot, buffer): (usize, &mut Buffer),
) -> Result<(), Error> {
    (buffer.offset, buffer.write) = picker.pick(content)?;
    let offset = buffer.offset;
    let len = u32::try_from(buffer.len).unwrap_or(u32::MAX);
    if buffer.write {
        content.fill_slice(buffer.slice(), offset);
    } else {
        content.note(offset, len, &mut buffer.notes);
    }
    let at = buffer.slice().as_mut_ptr();
    let fd = types::Fd(file.as_raw_fd());
    let entry = if buffer.write {
        opcode::Write::new(fd, at, len).offset(offset).build()
    } else {
        opcode::Read::new(fd, at, len).offset(offset).build()
    };
    // SAFETY: the buffer's bytes are neither moved, freed nor touched before `client` has its completion: it leaves
    // its loop only when nothing is in flight any more, and where io_uring itself fails it leaks the buffers.
    if unsafe { sys::push(ring, &entry.user_data(slot as u64)) } {
        Ok(())
    } else {
        Err(Error::Untrue("io_uring has less room than it said".to_owned()))
    }
}

fn end(buffer: &mut Buffer, content: &Content, to: &Assignment, result: i32) -> Result<(), Error> {
    let block = to.block;
    let (offset, write) = (buffer.offset, buffer.write);
    match u32::try_from(result) {
        Ok(length) if length == block => {}
        Ok(length) => return Err(Error::Untrue(format!("{length} bytes of {block} at offset {offset}"))),
        Err(_) => {
            let source = std::io::Error::from_raw_os_error(result.wrapping_neg());
            return Err(Error::System { what: "I/O on the data file", source });
        }
    }
    if write {
        content.written(offset, block);
        return Ok(());
    }
    let notes = std::mem::take(&mut buffer.notes);
    let checked = content.check_slice(buffer.slice(), offset, &notes, to.verify);
    buffer.notes = notes;
    checked
}
