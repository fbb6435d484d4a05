//! READ and WRITE, whose bytes never come here.

use std::io;

use zerocopy::FromBytes;

use super::message::{Message, mounted};
use crate::fuse::abi::*;
use crate::fuse::{Direction, Handled, Transfer};

fn read(offset: u64, size: u32) -> Message {
    Message::new(opcode::READ).with(ReadIn { fh: 9, offset, size, ..ReadIn::default() })
}

fn write(offset: u64, size: u32, payload: u32) -> Message {
    let mut message = Message::new(opcode::WRITE).with(WriteIn {
        fh: 9,
        offset,
        size,
        write_flags: FUSE_WRITE_CACHE,
        ..WriteIn::default()
    });
    message.payload = payload;
    message
}

fn transfer(message: &Message, room: usize) -> Transfer {
    let payload = usize::try_from(message.payload).unwrap();
    match mounted().handle(&message.head(), payload, room, &mut Vec::new()) {
        Handled::Transfer(transfer) => transfer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_head_of_a_write_ends_before_its_payload() {
    let server = mounted();
    assert_eq!((server.peek_len(), server.reply_head_len()), (40, 16));
    assert_eq!(server.head_len(&write(0, 4, 4).head()[..40]), 80);
    assert_eq!(server.head_len(&read(0, 4).head()[..40]), usize::MAX);
    assert_eq!(server.head_len(&write(0, 4, 4).head()[..39]), usize::MAX);
}

#[test]
fn a_read_is_bounded_by_the_room_and_the_end_of_positions() {
    let last = i64::MAX.cast_unsigned();
    assert_eq!(transfer(&read(5, 4096), 16 + 4096).len, 4096);
    assert_eq!(transfer(&read(5, 4096), 16 + 100).len, 100);
    assert_eq!(transfer(&read(last - 10, 4096), 1 << 16).len, 10);
    assert_eq!(read(last + 1, 1).errno(&mounted()), 22);
    for nothing in [read(0, 0).send(&mounted(), 4096), read(0, 10).send(&mounted(), 16)] {
        let (header, _) = nothing.unwrap();
        assert_eq!((header.error, header.len), (0, 16));
    }
}

/// The server here says 1 MiB: 256 pages, of which a guest may have large ones.
#[test]
fn nobody_moves_more_at_once_than_was_agreed_upon() {
    let server = mounted();
    assert_eq!(transfer(&write(0, 1 << 20, 1 << 20), 24).len, 1 << 20);
    assert_eq!(write(0, (1 << 20) + 1, (1 << 20) + 1).errno(&server), 22);
    assert_eq!(write(0, 1 << 31, 1 << 31).errno(&server), 22);
    assert_eq!(transfer(&read(0, 16 << 20), usize::MAX).len, 16 << 20);
    for size in [(16 << 20) + 1, u32::MAX] {
        assert_eq!(read(0, size).errno(&server), 22);
    }
}

#[test]
fn a_write_is_exactly_its_payload() {
    let last = i64::MAX.cast_unsigned();
    let whole = transfer(&write(7, 512, 512), 24);
    assert_eq!((whole.direction, whole.offset, whole.len), (Direction::Write, 7, 512));
    let server = mounted();
    assert_eq!(write(0, 512, 511).errno(&server), 22);
    assert_eq!(write(0, 512, 513).errno(&server), 22);
    assert_eq!(write(last + 1, 1, 1).errno(&server), 22);
    assert_eq!(write(last, 1, 1).errno(&server), 27);
    assert!(server.file_system().calls().is_empty());
    let (header, body) = write(0, 0, 0).send(&server, 24).unwrap();
    assert_eq!((header.error, WriteOut::read_from_bytes(&body).unwrap().size), (0, 0));
    // Payload that the ring took for a part of the head would be lost: refused.
    assert_eq!(write(0, 4, 0).bytes(b"data").errno(&server), 22);
}

#[test]
fn answers_count_what_was_moved() {
    let server = mounted();
    let mut answer = vec![1; 100];
    let finish = |message: &Message, moved, answer: &mut Vec<u8>| {
        server.finish(&message.head(), &transfer(message, 1 << 16), moved, answer);
        OutHeader::read_from_prefix(answer).unwrap().0
    };
    let header = finish(&read(0, 4096), Ok(100), &mut answer);
    assert_eq!(header, OutHeader { len: 116, error: 0, unique: 99 });
    assert_eq!(answer.len(), 16, "the bytes are in guest memory already");
    let header = finish(&write(0, 4096, 4096), Ok(4000), &mut answer);
    assert_eq!((header.len, answer.len()), (24, 24));
    assert_eq!(answer[16..20], 4000u32.to_le_bytes());
    let header = finish(&read(0, 4096), Err(io::Error::from_raw_os_error(28)), &mut answer);
    assert_eq!((header.len, header.error, answer.len()), (16, -28, 16));
    let header = finish(&read(0, 4096), Err(io::Error::other("no number")), &mut answer);
    assert_eq!(header.error, -5);
    // More than was asked for cannot have been moved.
    assert_eq!(finish(&read(0, 10), Ok(11), &mut answer).len, 26);
}
