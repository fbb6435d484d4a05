//! How can our server keep a share otherwise than the guest sees it? Under other ids and other names, which must make no
//! difference to any answer.

use extentfsd::fs::Config;
use extentfsd::identity::{IdTranslation, Translation};

use super::operation::Operation;

/// What the host's ids are larger by.
const SHIFT: u32 = 100_000;
/// How many ids of the guest are translated.
const COUNT: u32 = 65_536;
/// Attributes of the guest that begin with this
const KEY: &str = "user.a";
/// are kept under this and their name.
const PREPEND: &str = "user.vm.";

/// Whether there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disguise {
    None,
    Mapped,
}

impl Disguise {
    /// Tells our server.
    pub fn put_on(self, config: Config) -> Config {
        if self == Self::None {
            return config;
        }
        let ids = || {
            let rule = format!("map:0:{SHIFT}:{COUNT}").parse().expect("a rule");
            IdTranslation::new(&[rule]).expect("one rule")
        };
        Config {
            translation: Translation { users: ids(), groups: ids() },
            xattrmap: Some(format!(":map:{KEY}:{PREPEND}:").parse().expect("a map")),
            ..config
        }
    }

    /// Whether the answer must differ: to a root who is an ordinary user of the host, device nodes are refused.
    pub fn shows(self, operation: &Operation) -> bool {
        let device = |mode| matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        self == Self::Mapped && matches!(operation, Operation::Mknod { mode, .. } if device(*mode))
    }

    /// The guest's id for one of the host, of a file that a guest made. The directory of the share was made by the test.
    pub fn guest_id(self, host: u32) -> u32 {
        if self == Self::None || host == 0 {
            return host;
        }
        host.checked_sub(SHIFT).filter(|id| *id < COUNT).expect("a translated id")
    }

    /// The guest's name for an attribute of the host.
    pub fn guest_name(self, host: &[u8]) -> &[u8] {
        let renamed = host.strip_prefix(PREPEND.as_bytes()).filter(|_| self == Self::Mapped);
        assert!(self == Self::None || !host.starts_with(KEY.as_bytes()), "an attribute that was not renamed");
        renamed.unwrap_or(host)
    }
}
