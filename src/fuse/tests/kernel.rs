//! What would a guest's kernel say to an answer of IOMAP_BEGIN?
//!
//! The checks of both public revisions, as far as a server that registers one device can break them. They are
//! for the tests of every room that makes such answers.

use zerocopy::FromBytes;

use crate::fuse::abi::extents::*;
use crate::fuse::abi::rfc2025::{self, BeginOut};

/// What the answer is to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) opflags: u32,
    pub(crate) pos: u64,
}

/// What the guest knows of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    pub(crate) block: u64,
}

type Verdict = Result<(), &'static str>;

fn demand(holds: bool, rule: &'static str) -> Verdict {
    if holds { Ok(()) } else { Err(rule) }
}

/// The checks of the revision of 2026 (numbers as in that kernel's order: first each record, then both
/// together), but for what `docs/extent-protocol.md` has of its own: `USE_FUSE`, and places without a device
/// in answers to REPORT. (That revision also wants the attribute flag EXCLUSIVE, which is not in an answer.)
pub(crate) fn accept(reply: &[u8], question: Question, disk: Disk) -> Verdict {
    let out = IomapBeginOut::read_from_bytes(reply).map_err(|_| "B9: 64 bytes")?;
    let report = question.opflags & IOMAP_OP_REPORT != 0;
    for (record, write) in [(out.read, false), (out.write, true)] {
        accept_record(record, write, report, disk)?;
        let end = record.offset + record.length;
        demand(record.offset <= question.pos && question.pos < end, "B2: covers the position")?;
    }
    let writes = question.opflags & (IOMAP_OP_WRITE | IOMAP_OP_ZERO | IOMAP_OP_UNSHARE) != 0;
    if writes && !report {
        let target = if out.write.kind == IOMAP_PURE_OVERWRITE { out.read } else { out.write };
        demand(matches!(target.kind, IOMAP_MAPPED | IOMAP_USE_FUSE), "a write has a place")?;
    }
    let zeroes = question.opflags & (IOMAP_OP_ZERO | IOMAP_OP_UNSHARE) != 0;
    demand(!zeroes || report || out.write.kind == IOMAP_USE_FUSE, "own: zeroes go by FUSE")?;
    let moves = [out.read.kind, out.write.kind]
        .iter()
        .all(|kind| report || matches!(*kind, IOMAP_MAPPED | IOMAP_PURE_OVERWRITE | IOMAP_USE_FUSE));
    demand(moves, "own: HOLE and UNWRITTEN are for REPORT")
}

fn accept_record(record: IomapIo, write: bool, report: bool, disk: Disk) -> Verdict {
    let nowhere = record.dev == IOMAP_DEV_NULL && record.addr == IOMAP_NULL_ADDR;
    demand(record.flags & !0xff == 0, "M2: flags")?;
    demand(record.length != 0, "M3: length")?;
    demand(
        record.offset.is_multiple_of(disk.block) && record.length.is_multiple_of(disk.block),
        "M4: alignment",
    )?;
    demand(record.offset.checked_add(record.length).is_some(), "M5: overflow")?;
    demand(record.offset < i64::MAX.unsigned_abs(), "M6: beyond the largest file")?;
    match record.kind {
        IOMAP_MAPPED | IOMAP_UNWRITTEN if report && record.dev == IOMAP_DEV_NULL => {
            demand(record.addr == 0 && record.flags == 0, "own: a place without a device")
        }
        IOMAP_MAPPED | IOMAP_UNWRITTEN => {
            demand(record.dev == 1, "M7, B5: device")?;
            demand(record.addr != IOMAP_NULL_ADDR, "M7: address")?;
            demand(record.addr.is_multiple_of(disk.block), "alignment of the address")?;
            let end = record.addr.checked_add(record.length);
            demand(end.is_some_and(|end| end <= disk.size), "M12: within the device")
        }
        IOMAP_HOLE | IOMAP_DELALLOC | IOMAP_INLINE => demand(nowhere, "M8: no device, no address"),
        IOMAP_PURE_OVERWRITE => demand(write && nowhere && record.flags == 0, "M9: write record only"),
        IOMAP_USE_FUSE => demand(nowhere && record.flags == 0, "own: no device, no address, no flags"),
        _ => Err("M1: type"),
    }
}

/// The checks of the revision of 2025, V1 to V12, and what its kernel leaves to the server.
pub(crate) fn accept_rfc2025(reply: &[u8], question: Question, disk: Disk) -> Verdict {
    const FLAGS: u16 = 0x11ef;
    const DEVICES: u32 = 1;
    let out = BeginOut::read_from_bytes(reply).map_err(|_| "48 bytes")?;
    let (writes, report) = (question.opflags & IOMAP_OP_WRITE != 0, question.opflags & IOMAP_OP_REPORT != 0);
    demand(out.read_dev != rfc2025::DEV_NULL, "V1: read device")?;
    demand(out.write_dev != rfc2025::DEV_NULL, "V2: write device")?;
    demand(out.offset <= question.pos, "V3: begins behind the position")?;
    demand(out.length != 0, "V4: length")?;
    demand(out.offset.wrapping_add(out.length) > question.pos, "V5: ends before the position")?;
    let known = |kind| matches!(kind, 0..=4 | IOMAP_PURE_OVERWRITE);
    demand(known(out.write_type), "V6: write type")?;
    demand(out.write_flags & !FLAGS == 0, "V7: write flags")?;
    demand(known(out.read_type), "V8: read type")?;
    demand(out.read_flags & !FLAGS == 0, "V9: read flags")?;
    let inline = [out.read_type, out.write_type].contains(&IOMAP_INLINE);
    demand(!inline || report, "V10: inline")?;
    demand(out.read_dev < DEVICES, "V11: read device")?;
    let own_place = writes && out.write_type != IOMAP_PURE_OVERWRITE;
    demand(!own_place || out.write_dev < DEVICES, "V12: write device")?;
    // From here on what is not checked and would be believed.
    demand(out.offset.checked_add(out.length).is_some(), "overflow")?;
    demand(out.offset.is_multiple_of(disk.block) && out.length.is_multiple_of(disk.block), "alignment")?;
    demand(out.read_type != IOMAP_PURE_OVERWRITE, "a read has a place")?;
    if matches!(out.read_type, IOMAP_MAPPED | IOMAP_UNWRITTEN) {
        demand(out.read_addr.is_multiple_of(disk.block), "alignment of the address")?;
        let end = out.read_addr.checked_add(out.length);
        demand(end.is_some_and(|end| end <= disk.size), "within the device")?;
    } else {
        demand(out.read_addr == IOMAP_NULL_ADDR, "no address")?;
    }
    demand(out.write_type == IOMAP_PURE_OVERWRITE && out.write_addr == IOMAP_NULL_ADDR, "the write mapping")?;
    demand(report || out.read_type == IOMAP_MAPPED, "what is moved has a place")
}
