//! What may a device write that serves these descriptors?
//!
//! The rules of virtio 1.2, section 2.7, once more and in the most simple way, to compare with what the rings did.
//! Where a guest lets its requests write to its own rings and tables there is nothing to compare.

use std::collections::BTreeMap;

use extentfsd::ring::RingConfig;

use crate::guest_memory::Region;

/// Bytes of the bitmap of written pages: enough for the usual layouts.
pub const LOG: usize = 64;

/// Where the parts of a queue are in the file.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// The descriptors.
    pub descriptors: usize,
    /// The available ring.
    pub available: usize,
    /// The used ring.
    pub used: usize,
}

/// A queue in the guest's memory as it was before a device served it, and nobody else changed anything.
#[derive(Debug)]
pub struct Specification<'a> {
    /// The file.
    pub memory: &'a [u8],
    /// What of it is where in guest memory.
    pub regions: &'a [Region],
    /// Where in it the queue is.
    pub tables: Tables,
    /// The rest of what the front-end said of it.
    pub config: &'a RingConfig,
}

/// Parts of the file that may be written, and how many bytes that is for the guest.
#[derive(Default)]
struct Writable {
    parts: Vec<(usize, usize)>,
    len: u64,
}

impl Specification<'_> {
    fn read(&self, at: usize, len: usize) -> &[u8] {
        self.memory.get(at..at + len).unwrap_or(&[])
    }

    /// Where a range of guest memory is in the file, byte for byte.
    fn place(&self, guest: u64) -> Option<(usize, usize)> {
        let region =
            self.regions.iter().find(|region| guest >= region.guest && guest - region.guest < region.size)?;
        let into = guest - region.guest;
        Some(((region.offset + into) as usize, (region.size - into) as usize))
    }

    fn walk(&self, head: u16) -> Writable {
        let mut found = Writable::default();
        let mut table: Option<Vec<u8>> = None;
        let mut index = head;
        // Longer than any chain that is served; parts of one that is refused may be too many, which does no harm.
        for _ in 0..10_000 {
            let from = 16 * usize::from(index);
            let raw: Vec<u8> = match &table {
                Some(table) => table.get(from..from + 16).unwrap_or(&[]).to_vec(),
                None if index < self.config.size => self.read(self.tables.descriptors + from, 16).to_vec(),
                None => Vec::new(),
            };
            let Ok(raw) = <[u8; 16]>::try_from(raw) else { return found };
            let address = u64::from_le_bytes(raw[..8].try_into().expect("8 bytes"));
            let len = u32::from_le_bytes(raw[8..12].try_into().expect("4 bytes"));
            let (flags, next) =
                (u16::from_le_bytes([raw[12], raw[13]]), u16::from_le_bytes([raw[14], raw[15]]));
            if flags & 4 != 0 {
                if table.is_some() || len > 1 << 16 {
                    return found;
                }
                let bytes = (0..u64::from(len)).map_while(|at| {
                    let (place, _) = self.place(address.checked_add(at)?)?;
                    self.memory.get(place).copied()
                });
                (table, index) = (Some(bytes.collect()), 0);
                continue;
            }
            if flags & 2 != 0 {
                found.len += u64::from(len);
                let (mut at, mut left) = (address, len as usize);
                while left > 0 {
                    let Some((place, room)) = self.place(at) else { break };
                    let part = room.min(left);
                    found.parts.push((place, place + part));
                    left -= part;
                    let Some(next) = at.checked_add(part as u64) else { break };
                    at = next;
                }
            }
            if flags & 1 == 0 {
                return found;
            }
            index = next;
        }
        found
    }

    /// Checks what the device did, which began at index `begin` of the available ring and took so many requests: the
    /// memory is `after` now, and the bitmap of written pages `log`.
    ///
    /// # Panics
    /// A request was not answered, or twice, or with more than it has room for; a byte was written that no descriptor
    /// permits, or one that is not marked.
    pub fn judge(&self, begin: u16, taken: u16, after: &[u8], log: &[u8; LOG]) {
        let Tables { descriptors, available, used } = self.tables;
        let size = usize::from(self.config.size);
        let twice = |(n, a): (usize, &Region)| {
            self.regions[n + 1..].iter().any(|b| a.offset < b.offset + b.size && b.offset < a.offset + a.size)
        };
        if self.regions.iter().enumerate().any(twice) {
            // The same byte has two addresses.
            return;
        }
        let word = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let heads = (0..taken)
            .map(|n| word(self.memory, available + 4 + 2 * (usize::from(begin.wrapping_add(n)) % size)));
        let mut rooms: BTreeMap<u16, (u64, usize)> = BTreeMap::new();
        let mut permitted = vec![(used, used + 6 + 8 * size)];
        // Where a guest lets its requests write to its rings and tables, they are not what they were at the beginning.
        let tables = [
            (descriptors, descriptors + 16 * size),
            (available, available + 6 + 2 * size),
            (used, used + 6 + 8 * size),
            (0x3000, 0x3000 + 16 * 32),
        ];
        let meets = |a: (usize, usize), b: (usize, usize)| a.0 < b.1 && b.0 < a.1;
        if tables.iter().enumerate().any(|(n, table)| n != 2 && meets(*table, tables[2])) {
            // The used ring lies on another table.
            return;
        }
        for head in heads {
            let Writable { parts, len } = self.walk(head);
            if parts.iter().any(|part| tables.iter().any(|table| meets(*part, *table))) {
                return;
            }
            permitted.extend(parts);
            let (most, times) = rooms.entry(head).or_default();
            *most = len;
            *times += 1;
        }
        // Tables elsewhere may be written, too.
        if (0..size).any(|index| {
            let raw = self.read(descriptors + 16 * index, 16);
            raw.len() == 16 && raw[12] & 4 != 0 && raw[..8] != 0x3000_u64.to_le_bytes()
        }) {
            return;
        }
        let answered = word(after, used + 2).wrapping_sub(word(self.memory, used + 2));
        assert_eq!(answered, taken, "requests taken and answered");
        for n in 0..answered.min(self.config.size) {
            // The newest ones: older elements are overwritten.
            let index = word(after, used + 2).wrapping_sub(1).wrapping_sub(n);
            let element = used + 4 + 8 * (usize::from(index) % size);
            let [id, len] = [element, element + 4]
                .map(|at| u32::from_le_bytes(after[at..at + 4].try_into().expect("4 bytes")));
            let (most, times) = rooms.get_mut(&(id as u16)).expect("a request that was made");
            assert!(*times > 0, "request {id} was answered twice");
            *times -= 1;
            assert!(
                u64::from(len) <= *most,
                "{len} bytes written to request {id}, which has room for {most}"
            );
        }
        for at in differences(self.memory, after) {
            assert!(
                permitted.iter().any(|(from, to)| (*from..*to).contains(&at)),
                "byte {at:#x} was written"
            );
            let region =
                self.regions.iter().find(|region| (at as u64).wrapping_sub(region.offset) < region.size);
            let Some(guest) = region.map(|region| at as u64 - region.offset + region.guest) else { continue };
            // The used ring is marked where the front-end said that it is.
            let page = if (used..used + 6 + 8 * size).contains(&at) {
                (self.config.log_address.unwrap_or(0).wrapping_add((at - used) as u64)) / 4096
            } else {
                guest / 4096
            };
            let byte = log.get((page / 8) as usize);
            assert!(
                byte.is_none_or(|byte| byte >> (page % 8) & 1 == 1),
                "page {page:#x} was written and is not marked"
            );
        }
    }
}

/// Where two memories differ. Most of the memory is the same, and is compared by the line.
fn differences<'a>(old: &'a [u8], new: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    const LINE: usize = 256;
    let lines = old.chunks(LINE).zip(new.chunks(LINE)).enumerate().filter(|(_, (old, new))| old != new);
    lines.flat_map(|(n, (old, new))| {
        old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new).map(move |(at, _)| n * LINE + at)
    })
}
