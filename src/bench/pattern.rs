//! How is data recognised? Every 4 KiB of the file say where they belong and how often they were written.
//!
//! Word 0 is the byte offset in the file, word 1 the generation, and the other 510 follow from these two and the seed
//! of the run: a block that is displaced, stale, torn or damaged does not match. The first and the last words together tell
//! a torn block; comparing all of it costs about as much as a copy.

use zerocopy::{FromZeros, IntoBytes};

use super::random::mix;

/// Bytes of the unit that carries a pattern of its own.
pub(super) const UNIT: u64 = 4096;
const WORDS: usize = 512;
/// From one word to the next; odd, so that all differ.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The 4 KiB of one unit.
#[derive(Clone, zerocopy::FromBytes, IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub(super) struct Unit([u64; WORDS]);

/// What the words of one unit are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pattern {
    offset: u64,
    generation: u64,
    base: u64,
}

impl Pattern {
    pub(super) fn new(seed: u64, offset: u64, generation: u32) -> Self {
        let generation = u64::from(generation);
        Self { offset, generation, base: mix(seed ^ mix(offset ^ mix(generation))) }
    }

    pub(super) fn fill(&self, unit: &mut Unit) {
        let mut word = self.base;
        for place in &mut unit.0 {
            *place = word;
            word = word.wrapping_add(STEP);
        }
        let [first, second, ..] = &mut unit.0;
        (*first, *second) = (self.offset, self.generation);
    }

    /// The last word: with the first two it tells torn blocks.
    pub(super) fn last(&self) -> u64 {
        self.base.wrapping_add(STEP.wrapping_mul(WORDS as u64 - 1))
    }

    /// The byte offset in the unit of the first word that differs.
    pub(super) fn difference(&self, unit: &Unit) -> Option<usize> {
        let mut due = Unit::new();
        self.fill(&mut due);
        unit.0.iter().zip(&due.0).position(|(is, due)| is != due).map(|word| word * 8)
    }
}

impl Unit {
    pub(super) fn new() -> Self {
        Self::new_zeroed()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// What the bytes of a unit claim to be, offset and generation, and their last word.
pub(super) fn edges(bytes: &[u8]) -> ((u64, u64), u64) {
    let word = |at: Option<&[u8; 8]>| at.map_or(0, |word| u64::from_ne_bytes(*word));
    let second = bytes.get(8..).and_then(|rest| rest.first_chunk());
    ((word(bytes.first_chunk()), word(second)), word(bytes.last_chunk()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_unit_matches_its_own_pattern_only(
            seed: u64, block in 0..1_u64 << 40, generation: u32, word in 0..WORDS, bit in 0..64_u32,
        ) {
            let pattern = Pattern::new(seed, block * UNIT, generation);
            let mut unit = Unit::new();
            pattern.fill(&mut unit);
            prop_assert_eq!(edges(unit.bytes()), ((block * UNIT, u64::from(generation)), pattern.last()));
            prop_assert_eq!(pattern.difference(&unit), None);
            for other in [
                Pattern::new(seed, block * UNIT + UNIT, generation),
                Pattern::new(seed, block * UNIT, generation.wrapping_add(1)),
            ] {
                prop_assert_eq!(other.difference(&unit).map(|at| at < 16), Some(true));
                prop_assert_ne!(other.last(), pattern.last(), "torn blocks show");
            }
            unit.0[word] ^= 1_u64 << bit;
            prop_assert_eq!(pattern.difference(&unit), Some(word * 8));
        }
    }
}
