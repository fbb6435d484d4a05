//! Which id on the other side stands for this one?
//!
//! The two directions are independent: a rule says what becomes of a guest's ids, of a host's, or (`map`) of both,
//! and an id that no rule names stays what it is. The grammar and its meaning are those of virtiofsd 1.14; beyond it, a
//! rule that says nothing (a count of 0) and one that leads to an id that does not exist are refused.
//!
//! `u32::MAX` is no id: to chown(2) and setresuid(2) it means "leave it" (`(uid_t)-1`). So no range reaches it, on
//! either side, and whoever asks for it must have refused it before.

use std::fmt;
use std::str::FromStr;

/// The last id that there is.
const LAST: u32 = u32::MAX - 1;

/// What a rule does with its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRuleKind {
    /// Guest's ids become as many host's.
    Guest,
    /// Host's ids become as many guest's.
    Host,
    /// Guest's ids become one host's.
    SquashGuest,
    /// Host's ids become one guest's.
    SquashHost,
    /// Nothing may be done in the name of a guest's id, nor given to it.
    ForbidGuest,
    /// [`Guest`](Self::Guest), and [`Host`](Self::Host) the other way.
    Map,
}

const KINDS: [(IdRuleKind, &str); 6] = [
    (IdRuleKind::Guest, "guest"),
    (IdRuleKind::Host, "host"),
    (IdRuleKind::SquashGuest, "squash-guest"),
    (IdRuleKind::SquashHost, "squash-host"),
    (IdRuleKind::ForbidGuest, "forbid-guest"),
    (IdRuleKind::Map, "map"),
];

impl fmt::Display for IdRuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// One `--translate-uid` or `--translate-gid`. Its ranges end before `u32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRule {
    kind: IdRuleKind,
    /// First id that the rule is about: the guest's, but for the two kinds that are about the host's.
    source: u32,
    /// First id, or the only one, that stands for them. 0 where there is none.
    target: u32,
    /// How many ids the rule is about, at least 1.
    count: u32,
}

/// A rule that cannot be read or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdRuleError {
    /// Not the right number of fields.
    #[error("expected {0}")]
    Shape(&'static str),
    /// No such kind of rule.
    #[error("there is no type '{0}'; there are guest, host, squash-guest, squash-host, forbid-guest and map")]
    Kind(String),
    /// Something else than a number of 32 bits.
    #[error("'{0}' is not a number from 0 to 4294967295")]
    Number(String),
    /// A count of 0.
    #[error("the count must not be 0")]
    Nothing,
    /// A range that passes the last id.
    #[error("the {0} ids pass 4294967294, the last one that there is")]
    TooFar(&'static str),
}

const SHAPE: &str = "TYPE:SOURCE:TARGET:COUNT, or forbid-guest:SOURCE:COUNT";

impl IdRule {
    /// A rule of these numbers. `target` is ignored where nothing is to stand for the ids.
    ///
    /// # Errors
    /// [`IdRuleError::Nothing`] and [`IdRuleError::TooFar`].
    pub fn new(kind: IdRuleKind, source: u32, target: u32, count: u32) -> Result<Self, IdRuleError> {
        let more = count.checked_sub(1).ok_or(IdRuleError::Nothing)?;
        let ends_in_time = |first: u32, more: u32| first.checked_add(more).is_some_and(|last| last <= LAST);
        if !ends_in_time(source, more) {
            return Err(IdRuleError::TooFar("source"));
        }
        let (target, target_more) = match kind {
            IdRuleKind::ForbidGuest => (0, 0),
            IdRuleKind::SquashGuest | IdRuleKind::SquashHost => (target, 0),
            IdRuleKind::Guest | IdRuleKind::Host | IdRuleKind::Map => (target, more),
        };
        if !ends_in_time(target, target_more) {
            return Err(IdRuleError::TooFar("target"));
        }
        Ok(Self { kind, source, target, count })
    }

    /// What it says of guest's ids.
    fn guest_range(self) -> Option<Range> {
        let becomes = match self.kind {
            IdRuleKind::Guest | IdRuleKind::Map => Becomes::From(self.target),
            IdRuleKind::SquashGuest => Becomes::One(self.target),
            IdRuleKind::ForbidGuest => Becomes::Nothing,
            IdRuleKind::Host | IdRuleKind::SquashHost => return None,
        };
        Some(self.range(self.source, becomes))
    }

    /// What it says of host's ids.
    fn host_range(self) -> Option<Range> {
        match self.kind {
            IdRuleKind::Host => Some(self.range(self.source, Becomes::From(self.target))),
            IdRuleKind::SquashHost => Some(self.range(self.source, Becomes::One(self.target))),
            IdRuleKind::Map => Some(self.range(self.target, Becomes::From(self.source))),
            IdRuleKind::Guest | IdRuleKind::SquashGuest | IdRuleKind::ForbidGuest => None,
        }
    }

    fn range(self, first: u32, becomes: Becomes) -> Range {
        Range { first, last: first + (self.count - 1), becomes, rule: self }
    }
}

/// As it is written on the command line.
impl fmt::Display for IdRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, source, target, count } = self;
        match kind {
            IdRuleKind::ForbidGuest => write!(f, "{kind}:{source}:{count}"),
            _ => write!(f, "{kind}:{source}:{target}:{count}"),
        }
    }
}

/// `TYPE:SOURCE:TARGET:COUNT` or `forbid-guest:SOURCE:COUNT`. The type may be in any case; the separator is the first
/// character that is no letter, digit, `-` or `_`.
impl FromStr for IdRule {
    type Err = IdRuleError;

    fn from_str(text: &str) -> Result<Self, IdRuleError> {
        let in_name = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let separator = text.chars().find(|c| !in_name(*c)).ok_or(IdRuleError::Shape(SHAPE))?;
        let (name, numbers) = text.split_once(separator).ok_or(IdRuleError::Shape(SHAPE))?;
        let lower = name.to_lowercase();
        let kind = KINDS.iter().find(|(_, known)| *known == lower).map(|(kind, _)| *kind);
        let kind = kind.ok_or_else(|| IdRuleError::Kind(name.to_owned()))?;
        let numbers = numbers
            .split(separator)
            .map(|number| number.parse().map_err(|_| IdRuleError::Number(number.to_owned())))
            .collect::<Result<Vec<u32>, _>>()?;
        match (kind, numbers.as_slice()) {
            (IdRuleKind::ForbidGuest, &[source, count]) => Self::new(kind, source, 0, count),
            (IdRuleKind::ForbidGuest, _) => Err(IdRuleError::Shape("forbid-guest:SOURCE:COUNT")),
            (_, &[source, target, count]) => Self::new(kind, source, target, count),
            _ => Err(IdRuleError::Shape(SHAPE)),
        }
    }
}

/// Two rules say something else of the same id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} both say what becomes of the {side}'s id {id}")]
pub struct OverlapError {
    first: IdRule,
    second: IdRule,
    side: &'static str,
    id: u32,
}

/// A guest's id that may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden;

/// What a range of ids becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    /// As many ids, from this one on.
    From(u32),
    /// This id.
    One(u32),
    /// No id.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    becomes: Becomes,
    /// Where it comes from, for messages.
    rule: IdRule,
}

/// Ranges without overlap, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table(Box<[Range]>);

impl Table {
    fn new(mut ranges: Vec<Range>, side: &'static str) -> Result<Self, OverlapError> {
        ranges.sort_by_key(|range| range.first);
        for (first, second) in ranges.iter().zip(ranges.iter().skip(1)) {
            if second.first <= first.last {
                let (first, second, id) = (first.rule, second.rule, second.first);
                return Err(OverlapError { first, second, side, id });
            }
        }
        Ok(Self(ranges.into()))
    }

    /// The id on the other side; `None` where there must be none.
    fn look_up(&self, id: u32) -> Option<u32> {
        let behind = self.0.partition_point(|range| range.first <= id);
        let range = behind.checked_sub(1).and_then(|at| self.0.get(at)).filter(|range| id <= range.last);
        match range.map(|range| (range.becomes, range.first)) {
            None => Some(id),
            // IdRule::new has checked that this ends in time.
            Some((Becomes::From(target), first)) => Some(target + (id - first)),
            Some((Becomes::One(target), _)) => Some(target),
            Some((Becomes::Nothing, _)) => None,
        }
    }
}

/// Users, or groups: all rules together. Without rules every id stands for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdTranslation {
    guest: Table,
    host: Table,
}

impl IdTranslation {
    /// All of these rules, in whichever order.
    ///
    /// # Errors
    /// Two of them are about the same id of the same side.
    pub fn new(rules: &[IdRule]) -> Result<Self, OverlapError> {
        Ok(Self {
            guest: Table::new(rules.iter().filter_map(|rule| rule.guest_range()).collect(), "guest")?,
            host: Table::new(rules.iter().filter_map(|rule| rule.host_range()).collect(), "host")?,
        })
    }

    /// Whether every id stands for itself.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.guest.0.is_empty() && self.host.0.is_empty()
    }

    /// The host's id that stands for a guest's.
    ///
    /// # Errors
    /// [`Forbidden`] by a rule.
    pub fn to_host(&self, guest: u32) -> Result<u32, Forbidden> {
        self.guest.look_up(guest).ok_or(Forbidden)
    }

    /// The guest's id that stands for a host's.
    #[must_use]
    pub fn to_guest(&self, host: u32) -> u32 {
        // No rule forbids a host's id.
        self.host.look_up(host).unwrap_or(host)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn translation(rules: &[&str]) -> IdTranslation {
        let rules: Vec<IdRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        IdTranslation::new(&rules).unwrap()
    }

    #[test]
    fn each_kind_does_what_it_is_called() {
        let ids = translation(&["guest:10:1000:5"]);
        assert_eq!([9, 10, 14, 15].map(|id| ids.to_host(id).unwrap()), [9, 1000, 1004, 15]);
        assert_eq!([10, 1000].map(|id| ids.to_guest(id)), [10, 1000]);
        let ids = translation(&["host:1000:10:5"]);
        assert_eq!([999, 1000, 1004, 1005].map(|id| ids.to_guest(id)), [999, 10, 14, 1005]);
        assert_eq!([10, 1000].map(|id| ids.to_host(id).unwrap()), [10, 1000]);
        let ids = translation(&["squash-guest:0:1001:4294967295", "host:1001:1000:1"]);
        assert_eq!([0, 7, LAST].map(|id| ids.to_host(id).unwrap()), [1001; 3]);
        assert_eq!([1001, 1000, 0].map(|id| ids.to_guest(id)), [1000, 1000, 0]);
        let ids = translation(&["squash-host:100:65534:10"]);
        assert_eq!([99, 100, 109, 110].map(|id| ids.to_guest(id)), [99, 65534, 65534, 110]);
        let ids = translation(&["forbid-guest:0:1", "map:1:100000:65535"]);
        assert_eq!(ids.to_host(0), Err(Forbidden));
        assert_eq!((ids.to_host(1), ids.to_host(65535)), (Ok(100_000), Ok(165_534)));
        assert_eq!([0, 100_000, 165_534, 165_535].map(|id| ids.to_guest(id)), [0, 1, 65535, 165_535]);
    }

    #[test]
    fn nothing_is_said_of_the_number_that_is_no_id() {
        let ids = translation(&["squash-guest:0:7:4294967295", "squash-host:0:7:4294967295"]);
        assert_eq!((ids.to_host(u32::MAX), ids.to_guest(u32::MAX)), (Ok(u32::MAX), u32::MAX));
        for (rule, side) in [
            ("guest:4294967295:0:1", "source"),
            ("forbid-guest:4294967295:1", "source"),
            ("map:1:0:4294967295", "source"),
            ("guest:0:4294967295:1", "target"),
            ("map:0:1:4294967295", "target"),
            ("squash-guest:0:4294967295:1", "target"),
            ("squash-host:0:4294967295:1", "target"),
        ] {
            assert_eq!(rule.parse::<IdRule>(), Err(IdRuleError::TooFar(side)), "{rule}");
        }
        assert!("map:0:0:4294967295".parse::<IdRule>().is_ok());
        assert!("squash-host:0:4294967294:4294967295".parse::<IdRule>().is_ok());
    }

    #[test]
    fn rules_are_written_as_for_virtiofsd() {
        let rule = |kind, source, target, count| Ok(IdRule { kind, source, target, count });
        for (text, expected) in [
            ("guest:1:2:3", rule(IdRuleKind::Guest, 1, 2, 3)),
            ("Squash-Host/1/2/3", rule(IdRuleKind::SquashHost, 1, 2, 3)),
            ("map 0 1000 1", rule(IdRuleKind::Map, 0, 1000, 1)),
            ("forbid-guest:5:6", rule(IdRuleKind::ForbidGuest, 5, 0, 6)),
            ("", Err(IdRuleError::Shape(SHAPE))),
            ("map", Err(IdRuleError::Shape(SHAPE))),
            ("map:1:2", Err(IdRuleError::Shape(SHAPE))),
            ("map:1:2:3:4", Err(IdRuleError::Shape(SHAPE))),
            ("forbid-guest:1:2:3", Err(IdRuleError::Shape("forbid-guest:SOURCE:COUNT"))),
            (":1:2:3", Err(IdRuleError::Kind(String::new()))),
            ("squash_guest:1:2:3", Err(IdRuleError::Kind("squash_guest".into()))),
            ("map:1:2/3", Err(IdRuleError::Number("2/3".into()))),
            ("map:1:2:", Err(IdRuleError::Number(String::new()))),
            ("map:1:-2:3", Err(IdRuleError::Number("-2".into()))),
            ("map:1:2:4294967296", Err(IdRuleError::Number("4294967296".into()))),
            ("map:1:2:0", Err(IdRuleError::Nothing)),
        ] {
            assert_eq!(text.parse::<IdRule>(), expected, "{text}");
        }
    }

    #[test]
    fn a_conflict_names_both_rules_and_the_id() {
        let rules = ["map:0:1000:10", "forbid-guest:9:1"].map(|rule| rule.parse().unwrap());
        assert_eq!(
            IdTranslation::new(&rules).unwrap_err().to_string(),
            "map:0:1000:10 and forbid-guest:9:1 both say what becomes of the guest's id 9"
        );
        let rules = ["map:0:1000:10", "host:1005:7:1"].map(|rule| rule.parse().unwrap());
        assert_eq!(
            IdTranslation::new(&rules).unwrap_err().to_string(),
            "map:0:1000:10 and host:1005:7:1 both say what becomes of the host's id 1005"
        );
        // Directions are independent, and what is close is not the same.
        translation(&["guest:0:1000:10", "host:0:1000:10", "forbid-guest:10:1", "squash-host:10:5:1"]);
    }

    /// The reference: one rule at a time, one id at a time, in numbers that cannot overflow.
    mod model {
        use super::*;

        fn within(rule: &IdRule, first: u32, id: u32) -> Option<u64> {
            u64::from(id).checked_sub(first.into()).filter(|at| *at < u64::from(rule.count))
        }

        fn narrow(id: u64) -> u32 {
            u32::try_from(id).unwrap()
        }

        /// What each rule that is about this guest's id makes of it.
        pub(super) fn to_host(rules: &[IdRule], id: u32) -> Vec<Option<u32>> {
            let mut found = Vec::new();
            for rule in rules {
                let Some(at) = within(rule, rule.source, id) else { continue };
                match rule.kind {
                    IdRuleKind::Guest | IdRuleKind::Map => {
                        found.push(Some(narrow(u64::from(rule.target) + at)));
                    }
                    IdRuleKind::SquashGuest => found.push(Some(rule.target)),
                    IdRuleKind::ForbidGuest => found.push(None),
                    IdRuleKind::Host | IdRuleKind::SquashHost => {}
                }
            }
            found
        }

        /// What each rule that is about this host's id makes of it.
        pub(super) fn to_guest(rules: &[IdRule], id: u32) -> Vec<u32> {
            let mut found = Vec::new();
            for rule in rules {
                match rule.kind {
                    IdRuleKind::Host => {
                        found.extend(
                            within(rule, rule.source, id).map(|at| narrow(u64::from(rule.target) + at)),
                        );
                    }
                    IdRuleKind::Map => {
                        found.extend(
                            within(rule, rule.target, id).map(|at| narrow(u64::from(rule.source) + at)),
                        );
                    }
                    IdRuleKind::SquashHost => {
                        found.extend(within(rule, rule.source, id).map(|_| rule.target))
                    }
                    IdRuleKind::Guest | IdRuleKind::SquashGuest | IdRuleKind::ForbidGuest => {}
                }
            }
            found
        }
    }

    /// How many ids at either end of the numbers the random rules are about.
    const EDGE: u32 = 64;

    fn some_id() -> impl Strategy<Value = u32> {
        prop_oneof![0..EDGE, (u32::MAX - EDGE)..=u32::MAX]
    }

    fn some_kind() -> impl Strategy<Value = IdRuleKind> {
        prop::sample::select(KINDS.map(|(kind, _)| kind).to_vec())
    }

    fn some_rule() -> impl Strategy<Value = IdRule> {
        (some_kind(), some_id(), some_id(), 1..12_u32)
            .prop_filter_map("ends too late", |(kind, source, target, count)| {
                IdRule::new(kind, source, target, count).ok()
            })
    }

    /// Every id that a random rule can be about, or lead to.
    fn all_ids() -> impl Iterator<Item = u32> {
        (0..2 * EDGE).chain(u32::MAX - 2 * EDGE..=u32::MAX)
    }

    proptest! {
        #[test]
        fn rules_mean_what_the_model_means(rules in prop::collection::vec(some_rule(), 0..6)) {
            let ambiguous = all_ids().any(|id| {
                model::to_host(&rules, id).len() > 1 || model::to_guest(&rules, id).len() > 1
            });
            let Ok(ids) = IdTranslation::new(&rules) else {
                prop_assert!(ambiguous, "refused without a reason");
                return Ok(());
            };
            prop_assert!(!ambiguous, "two rules for one id");
            for id in all_ids() {
                let host = model::to_host(&rules, id).pop().unwrap_or(Some(id));
                prop_assert_eq!(ids.to_host(id), host.ok_or(Forbidden), "guest's {}", id);
                let guest = model::to_guest(&rules, id).pop().unwrap_or(id);
                prop_assert_eq!(ids.to_guest(id), guest, "host's {}", id);
            }
        }

        #[test]
        fn what_a_map_does_it_undoes(source: u32, target: u32, count: u32, at: u32) {
            let Ok(rule) = IdRule::new(IdRuleKind::Map, source, target, count) else { return Ok(()) };
            let ids = IdTranslation::new(&[rule]).unwrap();
            let guest = source + at % count;
            let host = ids.to_host(guest).unwrap();
            prop_assert_eq!(host - target, guest - source);
            prop_assert_eq!(ids.to_guest(host), guest);
        }

        #[test]
        fn a_squash_leads_to_one_id(source: u32, target: u32, count: u32, at: u32) {
            for kind in [IdRuleKind::SquashGuest, IdRuleKind::SquashHost] {
                let Ok(rule) = IdRule::new(kind, source, target, count) else { return Ok(()) };
                let ids = IdTranslation::new(&[rule]).unwrap();
                let id = source + at % count;
                match kind {
                    IdRuleKind::SquashGuest => prop_assert_eq!(ids.to_host(id), Ok(target)),
                    _ => prop_assert_eq!(ids.to_guest(id), target),
                }
            }
        }

        #[test]
        fn only_the_number_that_is_no_id_becomes_it(rules in prop::collection::vec(some_rule(), 0..6)) {
            let Ok(ids) = IdTranslation::new(&rules) else { return Ok(()) };
            for id in all_ids().filter(|id| *id != u32::MAX) {
                prop_assert_ne!(ids.to_host(id), Ok(u32::MAX));
                prop_assert_ne!(ids.to_guest(id), u32::MAX);
            }
        }

        #[test]
        fn rules_read_back(kind in some_kind(), source: u32, target: u32, count: u32) {
            if let Ok(rule) = IdRule::new(kind, source, target, count) {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }

        #[test]
        fn no_text_panics(text in "(map|guest|forbid-guest|\\PC{0,8})?([:/][0-9]{0,11}|\\PC){0,5}") {
            let _ = text.parse::<IdRule>();
        }
    }
}
