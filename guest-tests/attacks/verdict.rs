//! What became of an attack?

/// From best to worst.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A good client is served after it, nothing leaked, nothing outside was touched.
    Survived,
    /// It needs what this daemon or this user does not have.
    Skipped(&'static str),
    /// Descriptors, threads or memory are left over.
    Leaked(String),
    /// It runs, and serves nobody.
    Stuck(String),
    /// The process ended.
    Ended(String),
    /// Something outside the share was touched, or read.
    Escaped(String),
}

impl Verdict {
    /// Whether a daemon may do so.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Survived | Self::Skipped(_))
    }

    /// A word for a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Survived => "ok",
            Self::Skipped(_) => "-",
            Self::Leaked(_) => "LEAKS",
            Self::Stuck(_) => "STUCK",
            Self::Ended(_) => "ENDS",
            Self::Escaped(_) => "ESCAPES",
        }
    }

    /// What there is to say of it.
    pub fn detail(&self) -> &str {
        match self {
            Self::Survived => "",
            Self::Skipped(why) => why,
            Self::Leaked(what) | Self::Stuck(what) | Self::Ended(what) | Self::Escaped(what) => what,
        }
    }
}
