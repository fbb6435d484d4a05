//! What does a FUSE message mean, and what does its answer look like?
//!
//! This room knows the wire format and nothing else: not the virtqueue that a message came from, and
//! not the file system that serves it. [`Server`] takes the bytes of one request, calls the
//! [`FileSystem`] and writes the bytes of the answer. Payloads of READ and WRITE never pass through
//! here: a [`Transfer`] tells the caller which host file and range to move them to or from.
//!
//! The way of a request: [`Server`] checks its header (`request`), finds its row in the table of
//! operations (`route`) and calls the handler in `ops`, which decodes the arguments (`body`,
//! `extensions`), asks the [`FileSystem`] and encodes the answer (`encode`, `reply`).

pub mod abi;
mod body;
mod encode;
mod extensions;
mod filesystem;
mod negotiation;
mod ops;
mod reply;
mod request;
mod route;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod transfer;
mod types;

#[cfg(test)]
pub(crate) use tests::kernel;

pub use crate::extents::{DirectFile, HostFile};
pub use filesystem::{DirectorySink, FileSystem};
pub use server::{Handled, Respond, Server};
pub use transfer::{Direction, Transfer};
pub use types::*;
