//! How does FUSE look on the wire? Numbers and layouts of Linux's `include/uapi/linux/fuse.h`, and
//! nothing that gives them a meaning.
//!
//! All integers are in the guest's byte order; virtio-fs requires little-endian, which is also the order
//! of every host that this runs on. Structures carry the kernel's names without the `fuse_` prefix
//! (`fuse_entry_out` is [`EntryOut`]), constants the kernel's names as they are, so that both can be
//! found in the kernel's source.

mod attr;
mod dir;
mod ext;
pub mod extents;
mod file;
mod flags;
mod header;
mod init;
mod lock;
pub mod opcode;
mod range;
pub mod rfc2025;
mod xattr;

#[cfg(test)]
mod tests;

pub use attr::*;
pub use dir::*;
pub use ext::*;
pub use file::*;
pub use flags::*;
pub use header::*;
pub use init::*;
pub use lock::*;
pub use range::*;
pub use xattr::*;

#[cfg(not(target_endian = "little"))]
compile_error!("virtio-fs messages are little-endian; this host is not");

/// Declares wire structures: layout of C, readable from and writable to bytes, and of the size in bytes
/// that the kernel's structure has.
macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident: $size:literal { $($(#[$field_meta:meta])* $field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $kind,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}
use wire;
