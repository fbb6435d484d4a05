//! Which walls stand around the process, and which could this host not give?

use std::fmt::Display;

use tracing::{info, warn};

use super::Error;

/// The account of what confines the serving process.
#[derive(Debug)]
pub struct Walls {
    /// `--sandbox-required`.
    required: bool,
    standing: Vec<String>,
}

impl Walls {
    pub(super) fn new(required: bool) -> Self {
        Self { required, standing: Vec::new() }
    }

    /// Notes one that stands.
    pub fn stands(&mut self, wall: impl Into<String>) {
        self.standing.push(wall.into());
    }

    /// Reports one that the host does not give, and why.
    ///
    /// # Errors
    ///
    /// [`Error::Required`] with `--sandbox-required`.
    pub fn missing(&self, wall: &'static str, reason: impl Display) -> Result<(), Error> {
        if self.required {
            return Err(Error::Required { wall, reason: reason.to_string() });
        }
        warn!("Sandbox: no {wall}: {reason}");
        Ok(())
    }

    /// Says what stands, once all is known.
    pub fn report(&self) {
        match self.standing.as_slice() {
            [] => info!("Sandbox: none"),
            standing => info!("Sandbox: {}", standing.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_an_error_only_where_it_is_required() {
        assert!(Walls::new(false).missing("wall", "reason").is_ok());
        let error = Walls::new(true).missing("Landlock", "too old").unwrap_err();
        assert_eq!(error.to_string(), "--sandbox-required: this host gives no Landlock: too old");
    }
}
