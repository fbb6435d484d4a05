//! Which attacks are there?

mod connections;
mod memory;
mod messages;
mod names;
mod resources;
mod rings;

use std::path::PathBuf;

use super::frontend::Daemon;
use super::frontend::fuse::Client;
use super::verdict::Verdict;

/// What a case has to do with.
pub struct Scene<'a> {
    /// Mounted, with some good service behind it; none once a case has taken it away.
    pub client: Option<Client>,
    /// Who is attacked.
    pub daemon: &'a Daemon,
    /// What is shared.
    pub share: PathBuf,
}

impl Scene<'_> {
    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("a client")
    }
}

/// What a case takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Root,
    /// Locks of the guest are the host's.
    Locks,
    /// More than one connection.
    KeepListening,
}

/// Where a good client must be served afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// On the connection of the attack too.
    SameConnection,
    /// On the next: the attack broke its own.
    NextConnection,
}

/// What a case does; it returns what it saw that must not be.
pub type Act = Box<dyn Fn(&mut Scene<'_>) -> Result<(), Verdict> + Send + Sync>;

/// One attack.
pub struct Case {
    pub name: String,
    pub needs: Needs,
    pub after: After,
    pub act: Act,
}

fn case(
    name: impl Into<String>,
    act: impl Fn(&mut Scene<'_>) -> Result<(), Verdict> + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), needs: Needs::Nothing, after: After::SameConnection, act: Box::new(act) }
}

impl Case {
    fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// It breaks its own connection.
    fn breaks(self) -> Self {
        Self { after: After::NextConnection, ..self }
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let rooms = [rings::cases(), messages::cases(), names::cases(), resources::cases(), memory::cases()];
    rooms.into_iter().flatten().chain(connections::cases()).collect()
}

/// Says that something was seen or done outside the share.
fn escaped(what: impl Into<String>) -> Verdict {
    Verdict::Escaped(what.into())
}
