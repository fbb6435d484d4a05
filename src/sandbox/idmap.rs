//! Which ids does a user namespace get, and who may say so?

use rustix::process::{Gid, Uid};

use crate::cli::IdMap;

/// Users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Group,
}

impl Kind {
    pub(super) const BOTH: [Self; 2] = [Self::User, Self::Group];

    /// The option that sets the map.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::User => "--uid-map",
            Self::Group => "--gid-map",
        }
    }

    /// The file below `/proc/PID` that takes the map.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::User => "uid_map",
            Self::Group => "gid_map",
        }
    }

    /// The set-user-ID program that writes a map which the caller may not write.
    pub(super) fn helper(self) -> &'static str {
        match self {
            Self::User => "newuidmap",
            Self::Group => "newgidmap",
        }
    }
}

/// Who writes a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// We do, as we are privileged.
    Privileged,
    /// We do: everybody may map his own id to one id (user_namespaces(7)). For a group the kernel wants setgroups(2)
    /// forbidden first.
    OwnId,
    /// `newuidmap` and `newgidmap`, which know the ranges of `/etc/subuid` and `/etc/subgid`.
    Helper,
}

/// The ids of the calling process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) user: u32,
    pub(super) group: u32,
}

impl Caller {
    pub(super) fn current() -> Self {
        let (user, group): (Uid, Gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { user: user.as_raw(), group: group.as_raw() }
    }

    fn id(self, kind: Kind) -> u32 {
        match kind {
            Kind::User => self.user,
            Kind::Group => self.group,
        }
    }

    /// The map that was asked for; without one, the own id stays what it is and no other exists.
    pub(super) fn map(self, kind: Kind, asked: &[IdMap]) -> Vec<IdMap> {
        let own = self.id(kind);
        match asked {
            [] => vec![IdMap { inside: own, outside: own, count: 1 }],
            _ => asked.to_vec(),
        }
    }

    /// Who may write this map.
    pub(super) fn writer(self, kind: Kind, map: &[IdMap]) -> Writer {
        match map {
            _ if self.user == 0 => Writer::Privileged,
            [IdMap { outside, count: 1, .. }] if *outside == self.id(kind) => Writer::OwnId,
            _ => Writer::Helper,
        }
    }
}

/// The text of a map file: a line for each range.
pub(super) fn text(map: &[IdMap]) -> String {
    map.iter().map(|IdMap { inside, outside, count }| format!("{inside} {outside} {count}\n")).collect()
}

/// The same as arguments of the helper programs.
pub(super) fn arguments(map: &[IdMap]) -> impl Iterator<Item = String> {
    map.iter().flat_map(|range| [range.inside, range.outside, range.count]).map(|number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Caller = Caller { user: 1000, group: 100 };
    const ROOT: Caller = Caller { user: 0, group: 0 };

    #[test]
    fn without_a_map_the_own_id_stays() {
        assert_eq!(USER.map(Kind::User, &[]), [IdMap { inside: 1000, outside: 1000, count: 1 }]);
        assert_eq!(USER.map(Kind::Group, &[]), [IdMap { inside: 100, outside: 100, count: 1 }]);
    }

    #[test]
    fn only_the_own_id_needs_no_helper() {
        let one = |outside, count| vec![IdMap { inside: 0, outside, count }];
        assert_eq!(USER.writer(Kind::User, &one(1000, 1)), Writer::OwnId);
        assert_eq!(USER.writer(Kind::Group, &one(100, 1)), Writer::OwnId);
        assert_eq!(USER.writer(Kind::Group, &one(1000, 1)), Writer::Helper);
        assert_eq!(USER.writer(Kind::User, &one(1000, 2)), Writer::Helper);
        assert_eq!(USER.writer(Kind::User, &[one(1000, 1), one(100_000, 5)].concat()), Writer::Helper);
        assert_eq!(ROOT.writer(Kind::User, &one(100_000, 65536)), Writer::Privileged);
    }

    #[test]
    fn ranges_are_written_in_order() {
        let map = [
            IdMap { inside: 0, outside: 1000, count: 1 },
            IdMap { inside: 1, outside: 100_000, count: 65535 },
        ];
        assert_eq!(text(&map), "0 1000 1\n1 100000 65535\n");
        assert_eq!(arguments(&map).collect::<Vec<_>>(), ["0", "1000", "1", "1", "100000", "65535"]);
    }
}
