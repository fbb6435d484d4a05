//! Whose capabilities does a program carry?
//!
//! The value of `security.capability` (`struct vfs_cap_data` and `struct vfs_ns_cap_data` of
//! include/uapi/linux/capability.h) names the user who is root of the user namespace in which the capabilities hold: by its id
//! in version 3, as root in version 2. So it means somebody else where ids are translated: what the guest's root gives must
//! hold where the host's id that stands for him is root, and for nobody else. The kernel does the same for a mount whose
//! ids are mapped (`cap_convert_nscap`).

use std::borrow::Cow;

use super::{Forbidden, IdTranslation};

/// The longest value (`XATTR_CAPS_SZ_3`).
pub const SIZE_MAX: usize = 24;

/// Bytes of version 2, and of version 3 before the id.
const SIZE_2: usize = 20;
const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// The value that the host is to keep for a guest's. One that is no valid value stays what it is: it is for the kernel to
/// refuse.
///
/// # Errors
/// The user is forbidden.
pub fn to_host<'a>(value: &'a [u8], users: &IdTranslation) -> Result<Cow<'a, [u8]>, Forbidden> {
    match root(value) {
        Some(root) => Ok(with_root(value, root, users.to_host(root)?)),
        None => Ok(Cow::Borrowed(value)),
    }
}

/// The value that the guest is to see for a host's.
#[must_use]
pub fn to_guest<'a>(value: &'a [u8], users: &IdTranslation) -> Cow<'a, [u8]> {
    match root(value) {
        Some(root) => with_root(value, root, users.to_guest(root)),
        None => Cow::Borrowed(value),
    }
}

fn number(value: &[u8], at: usize) -> Option<u32> {
    value.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The user who is root where the capabilities hold.
fn root(value: &[u8]) -> Option<u32> {
    match (number(value, 0)? & REVISION_MASK, value.len()) {
        (REVISION_2, SIZE_2) => Some(0),
        (REVISION_3, SIZE_MAX) => number(value, SIZE_2),
        _ => None,
    }
}

/// The same capabilities for another root.
fn with_root(value: &[u8], before: u32, root: u32) -> Cow<'_, [u8]> {
    if root == before {
        return Cow::Borrowed(value);
    }
    let flags = number(value, 0).unwrap_or(0) & !REVISION_MASK;
    let sets = value.get(4..SIZE_2).unwrap_or_default();
    let (revision, id) =
        if root == 0 { (REVISION_2, vec![]) } else { (REVISION_3, root.to_le_bytes().to_vec()) };
    Cow::Owned([&(revision | flags).to_le_bytes()[..], sets, &id].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(root: Option<u32>, flags: u32, sets: [u8; 16]) -> Vec<u8> {
        let revision = if root.is_some() { REVISION_3 } else { REVISION_2 };
        let mut value = (revision | flags).to_le_bytes().to_vec();
        value.extend_from_slice(&sets);
        value.extend(root.iter().flat_map(|root| root.to_le_bytes()));
        value
    }

    fn users(rule: &str) -> IdTranslation {
        IdTranslation::new(&[rule.parse().unwrap()]).unwrap()
    }

    #[test]
    fn the_guests_root_is_not_the_hosts() {
        let users = users("map:0:100000:65536");
        let sets = [7; 16];
        let guest = value(None, 1, sets);
        let host = to_host(&guest, &users).unwrap();
        assert_eq!(*host, value(Some(100_000), 1, sets));
        assert_eq!(to_guest(&host, &users), guest);
        assert_eq!(*to_host(&value(Some(1000), 0, sets), &users).unwrap(), value(Some(101_000), 0, sets));
        // The host's root is nobody that the guest knows by another number.
        assert_eq!(*to_guest(&value(None, 0, sets), &users), value(None, 0, sets));
    }

    #[test]
    fn who_becomes_root_gives_what_root_gives() {
        let users = users("map:1000:0:1");
        assert_eq!(*to_host(&value(Some(1000), 1, [1; 16]), &users).unwrap(), value(None, 1, [1; 16]));
        assert_eq!(*to_guest(&value(None, 1, [1; 16]), &users), value(Some(1000), 1, [1; 16]));
    }

    #[test]
    fn the_forbidden_give_nothing() {
        assert_eq!(to_host(&value(None, 0, [0; 16]), &users("forbid-guest:0:1")), Err(Forbidden));
        assert!(to_host(&value(Some(1), 0, [0; 16]), &users("forbid-guest:0:1")).is_ok());
    }

    proptest! {
        #[test]
        fn a_map_leads_there_and_back(root in 0..65536_u32, flags in 0..2_u32, sets: [u8; 16]) {
            let users = users("map:0:100000:65536");
            let guest = value(Some(root).filter(|root| *root != 0), flags, sets);
            let host = to_host(&guest, &users).unwrap();
            prop_assert_eq!(&*host, value(Some(root + 100_000), flags, sets));
            prop_assert_eq!(&*to_guest(&host, &users), &guest[..]);
        }

        #[test]
        fn what_is_no_value_stays_what_it_is(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let users = users("squash-guest:0:7:4294967295");
            let revision = bytes.get(3).copied();
            let valid = matches!((revision, bytes.len()), (Some(2), SIZE_2) | (Some(3), SIZE_MAX));
            prop_assume!(!valid);
            prop_assert_eq!(&*to_host(&bytes, &users).unwrap(), &bytes[..]);
            prop_assert_eq!(&*to_guest(&bytes, &users), &bytes[..]);
        }
    }
}
