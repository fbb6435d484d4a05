//! Does the server answer as guests demand, whatever they send?

mod double;
mod hostile;
mod message;
mod mounting;
mod operations;
mod payload;
