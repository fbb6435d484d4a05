//! Which ranges of a file has one owner locked, and how many records does the host's kernel keep for them?
//!
//! The kernel does not say. So its arithmetic (`posix_lock_inode` in `fs/locks.c`) is done again here: a new lock replaces what
//! it covers, cuts what it overlaps, and joins neighbours of its kind.

use crate::fuse::LockKind;

/// One record, from the first to the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    kind: LockKind,
}

/// The records of one owner on one file: in order, without overlap, no neighbours of the same kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range>);

/// What a change replaced, to undo it.
#[derive(Debug)]
pub(super) struct Replaced {
    at: usize,
    old: Vec<Range>,
    new: usize,
}

impl Ranges {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Locks the bytes from `first` to `last` so, or unlocks them.
    pub(super) fn set(&mut self, first: u64, last: u64, kind: LockKind) -> Replaced {
        let mut new = Range { first, last, kind };
        // What ends before it, and what begins behind, stays as it is; neighbours are looked at, for they may join.
        let from = self.0.partition_point(|range| range.last.saturating_add(1) < first);
        let to = self.0.partition_point(|range| range.first <= last.saturating_add(1)).max(from);
        let mut pieces = Vec::new();
        let mut behind = None;
        for range in self.0.get(from..to).unwrap_or_default() {
            if range.kind == kind {
                new.first = new.first.min(range.first);
                new.last = new.last.max(range.last);
                continue;
            }
            if range.first < first {
                pieces.push(Range { last: range.last.min(first - 1), ..*range });
            }
            if range.last > last {
                behind = Some(Range { first: range.first.max(last + 1), ..*range });
            }
        }
        if kind != LockKind::Unlock {
            pieces.push(new);
        }
        pieces.extend(behind);
        let new = pieces.len();
        Replaced { at: from, old: self.0.splice(from..to, pieces).collect(), new }
    }

    /// Takes the last change back.
    pub(super) fn undo(&mut self, Replaced { at, old, new }: Replaced) {
        self.0.splice(at..at + new, old);
    }
}

impl Replaced {
    /// How many records more there are, and how many fewer; one of them is 0.
    pub(super) fn difference(&self) -> (usize, usize) {
        (self.new.saturating_sub(self.old.len()), self.old.len().saturating_sub(self.new))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same byte by byte.
    fn records(bytes: &[LockKind]) -> Vec<Range> {
        let mut records: Vec<Range> = Vec::new();
        for (at, kind) in (0_u64..).zip(bytes.iter().copied()).filter(|(_, kind)| *kind != LockKind::Unlock) {
            match records.last_mut() {
                Some(range) if range.last + 1 == at && range.kind == kind => range.last = at,
                _ => records.push(Range { first: at, last: at, kind }),
            }
        }
        records
    }

    fn kind() -> impl Strategy<Value = LockKind> {
        prop_oneof![Just(LockKind::Read), Just(LockKind::Write), Just(LockKind::Unlock)]
    }

    proptest! {
        #[test]
        fn it_counts_as_bytes_do(changes in prop::collection::vec((0_u64..40, 0_u64..12, kind()), 0..60)) {
            let mut bytes = vec![LockKind::Unlock; 64];
            let mut ranges = Ranges::default();
            for (first, more, kind) in changes {
                let last = first + more;
                let before = ranges.clone();
                let (more, fewer) = {
                    let change = ranges.set(first, last, kind);
                    let difference = change.difference();
                    ranges.undo(change);
                    prop_assert_eq!(&ranges, &before);
                    difference
                };
                ranges.set(first, last, kind);
                prop_assert_eq!(before.len() + more, ranges.len() + fewer);
                bytes[usize::try_from(first).unwrap()..=usize::try_from(last).unwrap()].fill(kind);
                prop_assert_eq!(&ranges.0, &records(&bytes));
            }
        }
    }

    #[test]
    fn the_last_byte_of_all_is_one_too() {
        let mut ranges = Ranges::default();
        ranges.set(0, u64::MAX, LockKind::Write);
        ranges.set(10, u64::MAX, LockKind::Read);
        ranges.set(u64::MAX, u64::MAX, LockKind::Unlock);
        assert_eq!(ranges.len(), 2);
        ranges.set(0, u64::MAX, LockKind::Unlock);
        assert_eq!(ranges.len(), 0);
    }
}
