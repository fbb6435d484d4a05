//! Which data is due? What was written to each 4 KiB of the file, and what is being written now.
//!
//! One number for each unit: twice the generation that the device has acknowledged, plus one while the next is on its
//! way. Writers take a block for themselves, so that the last write to each unit is known; readers go anywhere, and
//! know the generations that they may find.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::IntoBytes;

use super::Error;
use super::options::Verify;
use super::pattern::{self, Pattern, UNIT, Unit};
use crate::frontend::GuestMemory;

/// The file that data workloads use, as everybody who reads and writes it knows it.
pub(super) struct Content {
    seed: u64,
    units: Vec<AtomicU32>,
}

impl Content {
    /// Writes generation 0 to a new file, and has it on the device when it returns.
    pub(super) fn create(path: &Path, size: u64, seed: u64) -> Result<Self, Error> {
        let failed = || Error::file("writing", path);
        let file = File::create(path).map_err(failed())?;
        let count = size / UNIT;
        let mut chunk = vec![0; 1 << 20];
        let mut unit = Unit::new();
        for first in (0..count).step_by(256) {
            let units = (count - first).min(256);
            let mut bytes = chunk.chunks_exact_mut(4096);
            for (index, place) in (first..first + units).zip(&mut bytes) {
                Pattern::new(seed, index * UNIT, 0).fill(&mut unit);
                place.copy_from_slice(unit.bytes());
            }
            let length = usize::try_from(units * UNIT).unwrap_or_default();
            file.write_all_at(chunk.get(..length).unwrap_or_default(), first * UNIT).map_err(failed())?;
            if super::sys::interrupted() {
                return Err(Error::Interrupted);
            }
        }
        file.sync_all().map_err(failed())?;
        Ok(Self { seed, units: (0..count).map(|_| AtomicU32::new(0)).collect() })
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.units.len() as u64 * UNIT
    }

    fn units(&self, offset: u64, len: u32) -> impl Iterator<Item = (u64, &AtomicU32)> {
        let first = usize::try_from(offset / UNIT).unwrap_or(usize::MAX);
        let count = usize::try_from(u64::from(len) / UNIT).unwrap_or_default();
        let units = self.units.get(first..).unwrap_or_default();
        units.iter().take(count).zip(0..).map(move |(state, i)| (offset + i * UNIT, state))
    }

    /// Takes a block for a write. Whether it was free; all blocks of a run have the same size and alignment,
    /// so that its first unit decides.
    pub(super) fn take(&self, offset: u64, len: u32) -> bool {
        for (index, (_, state)) in self.units(offset, len).enumerate() {
            let now = state.load(Ordering::Relaxed);
            let taken = now & 1 == 0
                && state.compare_exchange(now, now | 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if !taken && index == 0 {
                return false;
            }
        }
        true
    }

    /// Fills memory with what a block that was taken is to hold next.
    pub(super) fn fill(&self, memory: &GuestMemory, at: u64, offset: u64, len: u32) {
        self.each(offset, len, |unit, i| memory.write(at + i, unit.bytes()));
    }

    /// The same for memory of this process.
    pub(super) fn fill_slice(&self, bytes: &mut [u8], offset: u64) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut places = bytes.chunks_exact_mut(4096);
        self.each(offset, len, |unit, _| {
            if let Some(place) = places.next() {
                place.copy_from_slice(unit.bytes());
            }
        });
    }

    fn each(&self, offset: u64, len: u32, mut put: impl FnMut(&Unit, u64)) {
        let mut unit = Unit::new();
        for (at, state) in self.units(offset, len) {
            let next = (state.load(Ordering::Relaxed) >> 1).wrapping_add(1);
            Pattern::new(self.seed, at, next).fill(&mut unit);
            put(&unit, at - offset);
        }
    }

    /// Notes that a write was acknowledged.
    pub(super) fn written(&self, offset: u64, len: u32) {
        for (_, state) in self.units(offset, len) {
            // From 2g+1 to 2(g+1).
            state.fetch_add(1, Ordering::Release);
        }
    }

    /// Notes the state of a block at the time a read of it is sent.
    pub(super) fn note(&self, offset: u64, len: u32, notes: &mut [u32]) {
        for ((_, state), note) in self.units(offset, len).zip(notes) {
            *note = state.load(Ordering::Acquire);
        }
    }

    /// Checks a block that was read into guest memory.
    pub(super) fn check(
        &self,
        memory: &GuestMemory,
        at: u64,
        offset: u64,
        (len, notes): (u32, &[u32]),
        verify: Verify,
    ) -> Result<(), Error> {
        for ((place, state), note) in self.units(offset, len).zip(notes) {
            let from = at + (place - offset);
            let claim = (memory.load_u64(from), memory.load_u64(from + 8));
            let pattern = self.plausible(place, claim, *note, state.load(Ordering::Acquire))?;
            let Some(pattern) = pattern else { continue };
            if verify == Verify::Full {
                let mut unit = Unit::new();
                memory.read(from, unit.as_mut_bytes());
                whole(&pattern, &unit, place)?;
            } else if memory.load_u64(from + UNIT - 8) != pattern.last() {
                return Err(torn(place));
            }
        }
        Ok(())
    }

    /// The same for memory of this process.
    pub(super) fn check_slice(
        &self,
        bytes: &[u8],
        offset: u64,
        notes: &[u32],
        verify: Verify,
    ) -> Result<(), Error> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        for (((place, state), note), block) in
            self.units(offset, len).zip(notes).zip(bytes.chunks_exact(4096))
        {
            let (claim, last) = pattern::edges(block);
            let Some(pattern) = self.plausible(place, claim, *note, state.load(Ordering::Acquire))? else {
                continue;
            };
            if verify == Verify::Full {
                let mut unit = Unit::new();
                unit.as_mut_bytes().copy_from_slice(block);
                whole(&pattern, &unit, place)?;
            } else if last != pattern.last() {
                return Err(torn(place));
            }
        }
        Ok(())
    }

    /// The pattern that a unit must have, by what it claims and what is known of it before and after. None where a write
    /// was under way meanwhile, and the unit may be a mixture of two generations.
    fn plausible(
        &self,
        place: u64,
        (offset, generation): (u64, u64),
        before: u32,
        after: u32,
    ) -> Result<Option<Pattern>, Error> {
        if offset != place {
            return Err(Error::Corrupt(format!(
                "the 4 KiB at offset {place} claim to be those of offset {offset}"
            )));
        }
        let oldest = u64::from(before >> 1);
        let newest = u64::from(after >> 1) + u64::from(after & 1);
        if !(oldest..=newest).contains(&generation) {
            return Err(Error::Corrupt(format!(
                "the 4 KiB at offset {place} are of generation {generation}, due are {oldest} to {newest}"
            )));
        }
        let settled = before == after && after & 1 == 0;
        Ok(settled.then(|| Pattern::new(self.seed, place, before >> 1)))
    }

    /// Reads the whole file on the host's side and checks every byte. Nothing may be in flight.
    pub(super) fn check_host(&self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(Error::file("opening", path))?;
        let mut chunk = vec![0; 1 << 20];
        let mut notes = vec![0; 256];
        let mut offset = 0;
        while offset < self.size() {
            let length = usize::try_from((self.size() - offset).min(1 << 20)).unwrap_or_default();
            let bytes = chunk.get_mut(..length).unwrap_or_default();
            file.read_exact_at(bytes, offset).map_err(Error::file("reading", path))?;
            self.note(offset, u32::try_from(length).unwrap_or_default(), &mut notes);
            self.check_slice(bytes, offset, &notes, Verify::Full)?;
            offset += length as u64;
        }
        Ok(())
    }
}

fn torn(place: u64) -> Error {
    Error::Corrupt(format!("the end of the 4 KiB at offset {place} is torn or damaged"))
}

fn whole(pattern: &Pattern, unit: &Unit, place: u64) -> Result<(), Error> {
    match pattern.difference(unit) {
        None => Ok(()),
        Some(at) => Err(Error::Corrupt(format!("the 4 KiB at offset {place} are damaged from byte {at} on"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(size: u64) -> (tempfile::TempDir, std::path::PathBuf, Content) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let content = Content::create(&path, size, 42).unwrap();
        (directory, path, content)
    }

    #[test]
    fn what_was_written_is_due_and_nothing_else() {
        let (_directory, path, content) = fresh(3 << 20);
        content.check_host(&path).unwrap();
        let mut block = vec![0; 8192];
        assert!(content.take(8192, 8192));
        assert!(!content.take(8192, 8192), "it is taken");
        content.fill_slice(&mut block, 8192);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&block, 8192).unwrap();
        content.written(8192, 8192);
        content.check_host(&path).unwrap();
        assert!(content.take(8192, 8192), "it is free again");
        content.written(8192, 8192);
        let lost = content.check_host(&path).unwrap_err().to_string();
        assert!(lost.contains("generation 1, due are 2 to 2"), "a lost write: {lost}");
    }

    #[test]
    fn every_kind_of_damage_is_found_on_the_host() {
        for (at, bytes, words) in [
            (4096 + 100, &[1_u8; 1][..], "damaged from byte 96"),
            (4096, &[0; 4096][..], "claim to be those of offset 0"),
            (4096 + 8, &[9][..], "generation 9"),
            (4096 + 4095, &[0xff][..], "damaged from byte 4088"),
        ] {
            let (_directory, path, content) = fresh(1 << 20);
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(bytes, at).unwrap();
            let error = content.check_host(&path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_read_beside_a_write_may_find_either_generation() {
        let (_directory, _, content) = fresh(1 << 20);
        let mut notes = [0];
        content.note(0, 4096, &mut notes);
        assert!(content.take(0, 4096));
        let mut unit = vec![0; 4096];
        content.fill_slice(&mut unit, 0);
        content.check_slice(&unit, 0, &notes, Verify::Full).unwrap();
        content.written(0, 4096);
        content.check_slice(&unit, 0, &notes, Verify::Full).unwrap();
        content.note(0, 4096, &mut notes);
        let mut old = Unit::new();
        Pattern::new(42, 0, 0).fill(&mut old);
        assert!(
            content.check_slice(old.bytes(), 0, &notes, Verify::Edges).is_err(),
            "a stale read after the write was answered"
        );
    }

    #[test]
    fn guest_memory_is_checked_at_its_edges_or_whole() {
        let mut layout = crate::frontend::Layout::default();
        let at = layout.take(8192, 4096);
        let memory = GuestMemory::new(layout).unwrap();
        let (_directory, _, content) = fresh(1 << 20);
        assert!(content.take(0, 8192));
        content.fill(&memory, at, 0, 8192);
        content.written(0, 8192);
        let mut notes = [0; 2];
        content.note(0, 8192, &mut notes);
        let check = |verify| content.check(&memory, at, 0, (8192, &notes), verify);
        check(Verify::Edges).unwrap();
        check(Verify::Full).unwrap();
        memory.write(at + 6000, &[0, 1, 2]);
        check(Verify::Edges).unwrap();
        assert!(check(Verify::Full).is_err());
        memory.write(at + 8190, &[0, 0]);
        assert!(check(Verify::Edges).is_err());
    }
}
