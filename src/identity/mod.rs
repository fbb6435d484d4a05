//! Who is who: which host id and which name on the host stand for what the guest says, and the other way round?
//!
//! Pure arithmetic, which the command line reads and the file system applies. What the rules are for is in
//! `docs/identity.md`.
//!
//! | file | its question |
//! |---|---|
//! | `ids` | which id on the other side stands for this one? |
//! | `file_capabilities` | whose capabilities does a program carry? |
//! | `xattrs` | under which name does the host keep an extended attribute? |

pub mod file_capabilities;
mod ids;
mod xattrs;

pub use ids::{Forbidden, IdRule, IdRuleError, IdRuleKind, IdTranslation, OverlapError};
pub use xattrs::{NameRefusal, XattrMap, XattrMapError};

/// What stands for the guest's users and groups on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// `--translate-uid`.
    pub users: IdTranslation,
    /// `--translate-gid`.
    pub groups: IdTranslation,
}
