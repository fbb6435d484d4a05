//! What comes after the names of a request that creates something?
//!
//! Kernel: `get_create_ext` in `fs/fuse/dir.c`. A guest of 7.36 or 7.37 sends a security context without
//! setting `total_extlen`; the layout is the same.

use rustix::io::Errno;

use super::abi;
use super::body::Body;
use super::request::Request;
use super::types::{Extensions, Result};

/// Reads the extensions at the end of a request. Only those that were agreed upon are there.
///
/// # Errors
/// `EINVAL` for what such a guest does not send: lengths that contradict each other, an unknown type, more
/// than one security context or group.
pub(super) fn parse<'a>(request: &Request<'_>, mut rest: Body<'a>) -> Result<Extensions<'a>> {
    let mut extensions = Extensions::default();
    if !request.has(abi::FUSE_SECURITY_CTX | abi::FUSE_CREATE_SUPP_GROUP) {
        return Ok(extensions);
    }
    let announced = usize::from(request.header.total_extlen) * abi::FUSE_EXT_ALIGN;
    if announced != 0 && announced != rest.rest().len() {
        return Err(Errno::INVAL);
    }
    while !rest.rest().is_empty() {
        let header: abi::ExtHeader = rest.take()?;
        let size = usize::try_from(header.size).map_err(|_| Errno::INVAL)?;
        let len = size.checked_sub(size_of::<abi::ExtHeader>()).ok_or(Errno::INVAL)?;
        let content = Body::new(rest.bytes(len)?);
        match header.kind {
            0 => {}
            1 if request.has(abi::FUSE_SECURITY_CTX) => {
                extensions.security_context = Some(security_context(content)?);
            }
            abi::FUSE_EXT_GROUPS if request.has(abi::FUSE_CREATE_SUPP_GROUP) => {
                extensions.supplementary_group = supplementary_group(content)?;
            }
            _ => return Err(Errno::INVAL),
        }
    }
    Ok(extensions)
}

fn security_context(mut content: Body<'_>) -> Result<(&std::ffi::CStr, &[u8])> {
    let context: abi::Secctx = content.take()?;
    let name = content.c_str()?;
    if name.is_empty() {
        return Err(Errno::INVAL);
    }
    let value = content.bytes(usize::try_from(context.size).map_err(|_| Errno::INVAL)?)?;
    Ok((name, value))
}

fn supplementary_group(mut content: Body<'_>) -> Result<Option<u32>> {
    match content.take::<abi::SuppGroups>()?.nr_groups {
        0 => Ok(None),
        1 => Ok(Some(content.take()?)),
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    const BOTH: u64 = abi::FUSE_SECURITY_CTX | abi::FUSE_CREATE_SUPP_GROUP;

    fn secctx() -> Vec<u8> {
        let mut bytes = abi::ExtHeader { size: 40, kind: 1 }.as_bytes().to_vec();
        bytes.extend_from_slice(abi::Secctx { size: 5, padding: 0 }.as_bytes());
        bytes.extend_from_slice(b"security.selinux\0label");
        bytes.resize(40, 0);
        bytes
    }

    fn groups(count: u32) -> Vec<u8> {
        let mut bytes = abi::ExtHeader { size: 16, kind: abi::FUSE_EXT_GROUPS }.as_bytes().to_vec();
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&77u32.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8], features: u64, total_extlen: u16) -> Result<Extensions<'_>> {
        let header = abi::InHeader { total_extlen, ..abi::InHeader::default() };
        let request =
            Request { header, body: Body::new(&[]), payload: 0, room: Some(0), features, max_write: 0 };
        parse(&request, Body::new(bytes))
    }

    #[test]
    fn both_extensions_are_read() {
        let bytes = [secctx(), groups(1)].concat();
        let extensions = read(&bytes, BOTH, 7).unwrap();
        assert_eq!(extensions.security_context, Some((c"security.selinux", &b"label"[..])));
        assert_eq!(extensions.supplementary_group, Some(77));
    }

    #[test]
    fn a_guest_of_7_36_announces_no_length() {
        let bytes = secctx();
        assert!(read(&bytes, abi::FUSE_SECURITY_CTX, 0).unwrap().security_context.is_some());
    }

    #[test]
    fn what_was_not_agreed_upon_is_not_read() {
        assert_eq!(read(&secctx(), 0, 5), Ok(Extensions::default()));
        assert_eq!(read(&secctx(), abi::FUSE_CREATE_SUPP_GROUP, 5), Err(Errno::INVAL));
        assert_eq!(read(&groups(1), abi::FUSE_SECURITY_CTX, 2), Err(Errno::INVAL));
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(read(&secctx(), BOTH, 4), Err(Errno::INVAL), "total_extlen");
        assert_eq!(read(&groups(2), BOTH, 2), Err(Errno::INVAL), "two groups");
        let bytes = secctx();
        for end in 1..bytes.len() {
            assert_eq!(read(&bytes[..end], BOTH, 0), Err(Errno::INVAL), "cut at {end}");
        }
        let small = abi::ExtHeader { size: 7, kind: 0 };
        assert_eq!(read(small.as_bytes(), BOTH, 1), Err(Errno::INVAL), "shorter than its header");
        let none = abi::ExtHeader { size: 8, kind: 0 };
        assert_eq!(read(none.as_bytes(), BOTH, 1), Ok(Extensions::default()), "no context");
    }
}
