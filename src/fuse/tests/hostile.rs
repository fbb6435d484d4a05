//! Is there anything that a guest can send to which the answer is not an answer?

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::message::{Length, every_operation, mounted, send};
use crate::fuse::abi::{InHeader, opcode};

#[test]
fn a_request_cut_anywhere_is_an_error() {
    for (message, _) in every_operation() {
        let server = mounted();
        let payload = usize::try_from(message.payload).unwrap();
        for end in 0..message.head().len() {
            // As it would be if the guest's ring lost its end ...
            let head = message.head();
            let answer = send(&server, &head[..end], payload, 1 << 16);
            assert!(answer.is_none_or(|(header, _)| header.error < 0), "{message:?} at {end}");
            // ... and with a header that does not know better either.
            let Some(body) = end.checked_sub(40) else { continue };
            let mut short = message.clone();
            short.body.truncate(body);
            let Some((header, _)) = short.send(&server, 1 << 16) else { continue };
            assert!(header.error < 0, "{message:?} at {end}: {header:?}");
        }
    }
}

#[test]
fn too_little_room_is_an_error_and_changes_nothing() {
    for (message, length) in every_operation() {
        let Length::Fixed(len) = length else { continue };
        let server = mounted();
        if len > 0 {
            let (header, _) = message.send(&server, 16 + len - 1).unwrap();
            assert_eq!(header.error, -22, "{message:?}");
            let only_asks = matches!(message.header.opcode, opcode::GETXATTR | opcode::LISTXATTR);
            assert!(only_asks || server.file_system().calls().is_empty(), "{message:?}");
        }
        assert!(message.send(&server, 15).is_none(), "{message:?}");
        assert_eq!(message.send(&server, 16 + len).unwrap().0.error, 0, "{message:?}");
    }
}

#[test]
fn a_length_that_is_not_the_requests_is_refused() {
    for (message, length) in every_operation() {
        if length == Length::None {
            continue;
        }
        for wrong in [0, 39, 41 + message.body.len(), usize::try_from(u32::MAX).unwrap()] {
            let server = mounted();
            let mut head = message.head();
            head[..4].copy_from_slice(&u32::try_from(wrong).unwrap().to_le_bytes());
            let payload = usize::try_from(message.payload).unwrap();
            if wrong == head.len() + payload {
                continue;
            }
            let (header, _) = send(&server, &head, payload, 1 << 16).unwrap();
            assert!(header.error < 0, "{message:?} with {wrong}");
            assert!(server.file_system().calls().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_get_an_answer_that_fits(
        opcode in prop_oneof![0u32..60, 4085u32..4100, any::<u32>()],
        nodeid in any::<u64>(),
        total_extlen in prop_oneof![Just(0u16), 0u16..8, any::<u16>()],
        body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..200),
        payload in prop_oneof![Just(0usize), 0usize..1 << 21],
        room in prop_oneof![0usize..400, 0usize..1 << 21],
    ) {
        let server = mounted();
        let payload = if opcode == opcode::WRITE { payload } else { 0 };
        let len = u32::try_from(40 + body.len() + payload).unwrap();
        let header = InHeader { len, opcode, unique: 7, nodeid, total_extlen, ..InHeader::default() };
        // `send` checks the answer.
        send(&server, &[header.as_bytes(), &body].concat(), payload, room);
    }

    #[test]
    fn no_bytes_at_all_are_a_problem(
        head in proptest::collection::vec(any::<u8>(), 0..120),
        room in 0usize..64,
    ) {
        send(&mounted(), &head, 0, room);
    }

    /// A good request with a few bytes changed comes further than noise.
    #[test]
    fn a_good_request_gone_bad_gets_an_answer_that_fits(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        room in prop_oneof![16usize..400, Just(1usize << 20)],
    ) {
        let operations = every_operation();
        let mut message = which.get(&operations).0.clone();
        for (at, value) in changes {
            if !message.body.is_empty() {
                let at = at.index(message.body.len());
                message.body[at] = value;
            }
        }
        message.send(&mounted(), room);
    }
}
