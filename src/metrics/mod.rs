//! What is counted?

mod limit;

pub use limit::{Limit, Taken};
