//! Does the server answer as guests demand, whatever they send?

mod double;
mod extents;
mod hostile;
pub(crate) mod kernel;
mod message;
mod mounting;
mod operations;
mod payload;
