//! What do a virtual machine monitor and its guest's driver do?
//!
//! The other end of the socket: connects to a vhost-user-fs daemon as a monitor would, lays queues out in memory
//! of its own as the guest's virtio driver would, and speaks FUSE as the guest's kernel would. With it a daemon
//! can be driven, and measured, without a machine. It is obedient; the hostile driver is in `tests/frontend`.
//!
//! | file | its question |
//! |---|---|
//! | `memory` | what memory does the guest have? the only unsafe code here |
//! | `virtqueue` | how does a driver put chains into a queue and take them back? |
//! | `connection` | how are memory and queues told to the daemon? |
//! | `channel` | how does a FUSE request become a chain, and which answers count? |
//! | `forget` | how are FORGETs sent, which get no answer? |
//! | `mount` | what is agreed at INIT? |

mod channel;
mod connection;
mod forget;
mod memory;
mod mount;
mod virtqueue;

pub use channel::{Ask, Channel, ChannelLayout, Reply};
pub use connection::{Connection, Features, Setup};
pub use forget::{ForgetLayout, Forgets};
pub use memory::{GuestMemory, Layout};
pub use mount::{Mount, mount, unmount};
pub use virtqueue::{Addresses, Buffer, Virtqueue, Waker};

/// The nodeid of the share's root (`FUSE_ROOT_ID`).
pub const ROOT: u64 = 1;

/// What goes wrong between this front-end and a daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call for this side's own memory or descriptors.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A vhost-user message was not answered as it must be.
    #[error("vhost-user {message}: {source}")]
    VhostUser {
        /// The message, as the specification names it.
        message: &'static str,
        /// What the other side did.
        source: vhost::Error,
    },
    /// The device lacks a feature that this driver cannot do without.
    #[error("the daemon does not offer {0}")]
    Missing(&'static str),
    /// The device broke the rules of the used ring.
    #[error("the daemon returned descriptor {0}, which it was not given")]
    StrayUsed(u32),
    /// A chain has more buffers than the queue allows.
    #[error("a request needs {needed} descriptors, a queue of this size and depth has {room}")]
    ChainTooLong {
        /// Buffers of the chain.
        needed: usize,
        /// Descriptors for one chain.
        room: usize,
    },
    /// An answer that a 7.3 guest's kernel would refuse, or could make no sense of.
    #[error("malformed answer to opcode {opcode}: {what}")]
    Malformed {
        /// The request.
        opcode: u32,
        /// What is wrong, with the numbers.
        what: String,
    },
    /// A well-formed answer that refuses the request.
    #[error("opcode {opcode} was answered with {}", std::io::Error::from_raw_os_error(*errno))]
    Refused {
        /// The request.
        opcode: u32,
        /// The positive errno.
        errno: i32,
    },
    /// The caller gave up waiting, see [`Waker`].
    #[error("the daemon does not answer")]
    Abandoned,
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
