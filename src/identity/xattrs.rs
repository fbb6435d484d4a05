//! Under which name does the host keep a guest's extended attribute?
//!
//! `--xattrmap`: rules in the grammar of virtiofsd 1.14, of which the first that fits a name decides. What a guest asks for
//! (the client's side) is compared with the rule's *key*, what the host has (the server's side) with its *prepend*.
//! Three things are stricter here than there:
//!
//! - a map says what becomes of every name, on both sides, or it is no map;
//! - what the host has is shown under a name only if that name leads back to it: where the rules of the two sides
//!   disagree, the guest does not see what it could not read, nor one name twice;
//! - a guest's name that gets too long on the host (`XATTR_NAME_MAX`) has an answer of its own.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt;
use std::str::FromStr;

/// The longest name, without its NUL (`XATTR_NAME_MAX` of include/uapi/linux/limits.h).
const NAME_MAX: usize = 255;

/// What a rule does with a name that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The host's name is *prepend* and the guest's.
    Prefix,
    /// It stays what it is.
    Pass,
    /// It does not exist, and may not.
    Deny,
    /// As if the file system knew no such attributes.
    Unsupported,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    action: Action,
    /// Whether it is about what the guest asks for.
    client: bool,
    /// Whether it is about what the host has.
    server: bool,
    /// How a guest's name must begin.
    key: Vec<u8>,
    /// How a host's name must begin.
    prepend: Vec<u8>,
}

/// Why a guest's name stands for no attribute of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRefusal {
    /// By a rule of type `bad`.
    Denied,
    /// By a rule of type `unsupported`.
    Unsupported,
    /// The host's name would have more than 255 bytes.
    TooLong,
}

/// A map that cannot be read, or leaves names open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrMapError {
    /// Which rule, the first is 1; `None` where it is about all of them.
    rule: Option<usize>,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Empty,
    Unfinished(char),
    Type(String),
    Scope(String),
    Nul,
    MapNotLast,
    Open { client: bool, server: bool },
}

impl fmt::Display for XattrMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rule) = self.rule {
            write!(f, "rule {rule}: ")?;
        }
        match &self.problem {
            Problem::Empty => f.write_str("there is no rule in it"),
            Problem::Unfinished(separator) => write!(
                f,
                "expected {separator}TYPE{separator}SCOPE{separator}KEY{separator}PREPEND{separator} or \
                 {separator}map{separator}KEY{separator}PREPEND{separator}"
            ),
            Problem::Type(name) => {
                write!(f, "there is no type '{name}'; there are prefix, ok, bad, unsupported and map")
            }
            Problem::Scope(name) => write!(f, "there is no scope '{name}'; there are client, server and all"),
            Problem::Nul => f.write_str("a name cannot contain a NUL"),
            Problem::MapNotLast => f.write_str("a rule of type map must be the last one"),
            Problem::Open { client, server } => {
                let (scope, names) = match (client, server) {
                    (true, true) => ("all", "names"),
                    (true, false) => ("client", "names that the guest may ask for"),
                    _ => ("server", "names that the host may have"),
                };
                write!(
                    f,
                    "no rule says what becomes of all other {names}; add the rule :bad:{scope}::: (hides them) or \
                     :ok:{scope}::: (passes them) at its end"
                )
            }
        }
    }
}

impl std::error::Error for XattrMapError {}

/// A whole `--xattrmap`: says of every name what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrMap {
    rules: Vec<Rule>,
}

impl XattrMap {
    /// The host's name of the attribute that a guest asks for, or is to set. Of at most 255 bytes, unless the guest's is
    /// longer and stays what it is.
    ///
    /// # Errors
    /// By which rule there is none.
    pub fn host_name<'a>(&self, guest: &'a CStr) -> Result<Cow<'a, CStr>, NameRefusal> {
        let name = guest.to_bytes();
        let rule = self.rules.iter().find(|rule| rule.client && name.starts_with(&rule.key));
        // Of every name something is said.
        match rule.map_or(Action::Deny, |rule| rule.action) {
            Action::Pass => Ok(Cow::Borrowed(guest)),
            Action::Deny => Err(NameRefusal::Denied),
            Action::Unsupported => Err(NameRefusal::Unsupported),
            Action::Prefix => {
                let prepend = rule.map_or(&[][..], |rule| &rule.prepend);
                if prepend.len() + name.len() > NAME_MAX {
                    return Err(NameRefusal::TooLong);
                }
                CString::new([prepend, name].concat()).map(Cow::Owned).map_err(|_| NameRefusal::Denied)
            }
        }
    }

    /// The name under which a guest is shown what the host has; `None`: it is not.
    #[must_use]
    pub fn guest_name<'a>(&self, host: &'a CStr) -> Option<&'a CStr> {
        let name = host.to_bytes();
        let rule = self.rules.iter().find(|rule| rule.server && name.starts_with(&rule.prepend))?;
        let shown = match rule.action {
            Action::Pass => host,
            Action::Prefix => {
                let rest = host.to_bytes_with_nul().get(rule.prepend.len()..)?;
                CStr::from_bytes_with_nul(rest).ok()?
            }
            Action::Deny | Action::Unsupported => return None,
        };
        let leads_back = self.host_name(shown).is_ok_and(|back| *back == *host);
        (leads_back && !shown.is_empty()).then_some(shown)
    }

    /// Whether this name is the same on both sides.
    #[must_use]
    pub fn keeps(&self, name: &CStr) -> bool {
        self.guest_name(name) == Some(name)
    }

    /// The host's name for this one of the guest's where it is another.
    #[must_use]
    pub fn renamed(&self, guest: &CStr) -> Option<CString> {
        match self.host_name(guest) {
            Ok(host) if *host != *guest => Some(host.into_owned()),
            _ => None,
        }
    }
}

/// Rules one after another, with or without blanks between them.
impl FromStr for XattrMap {
    type Err = XattrMapError;

    fn from_str(text: &str) -> Result<Self, XattrMapError> {
        let mut rules = Vec::new();
        let mut rest = text.trim_start();
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let wrong = |problem| XattrMapError { rule: Some(number), problem };
            let (found, behind) = parse_rule(rest).map_err(wrong)?;
            rest = behind.trim_start();
            match found {
                Parsed::Rule(rule) => rules.push(rule),
                Parsed::Map { .. } if !rest.is_empty() => return Err(wrong(Problem::MapNotLast)),
                Parsed::Map { key, prepend } => rules.extend(expand(key, prepend)),
            }
        }
        let about_all = |problem| XattrMapError { rule: None, problem };
        if rules.is_empty() {
            return Err(about_all(Problem::Empty));
        }
        let client = !rules.iter().any(|rule| rule.client && rule.key.is_empty());
        let server = !rules.iter().any(|rule| rule.server && rule.prepend.is_empty());
        if client || server {
            return Err(about_all(Problem::Open { client, server }));
        }
        Ok(Self { rules })
    }
}

enum Parsed {
    Rule(Rule),
    Map { key: Vec<u8>, prepend: Vec<u8> },
}

/// Takes one rule off the front of a text that is not empty and does not begin with a blank.
fn parse_rule(text: &str) -> Result<(Parsed, &str), Problem> {
    let mut rest = text.chars();
    let separator = rest.next().ok_or(Problem::Empty)?;
    let mut rest = rest.as_str();
    let mut field = || {
        let (field, behind) = rest.split_once(separator).ok_or(Problem::Unfinished(separator))?;
        rest = behind;
        if field.contains('\0') { Err(Problem::Nul) } else { Ok(field) }
    };
    let action = match field()? {
        "prefix" => Some(Action::Prefix),
        "ok" => Some(Action::Pass),
        "bad" => Some(Action::Deny),
        "unsupported" => Some(Action::Unsupported),
        "map" => None,
        other => return Err(Problem::Type(other.to_owned())),
    };
    let Some(action) = action else {
        let (key, prepend) = (field()?.into(), field()?.into());
        return Ok((Parsed::Map { key, prepend }, rest));
    };
    let (client, server) = match field()? {
        "client" => (true, false),
        "server" => (false, true),
        "all" => (true, true),
        other => return Err(Problem::Scope(other.to_owned())),
    };
    let (key, prepend) = (field()?.into(), field()?.into());
    Ok((Parsed::Rule(Rule { action, client, server, key, prepend }), rest))
}

/// What `map` is short for: names that begin with `key` (all, if it is empty) are kept under `prepend`; what the guest
/// calls as the host keeps them, and what the host calls as the guest does, is hidden; the rest passes, if there is any.
fn expand(key: Vec<u8>, prepend: Vec<u8>) -> Vec<Rule> {
    let both = |action, key, prepend| Rule { action, client: true, server: true, key, prepend };
    let renamed = both(Action::Prefix, key.clone(), prepend.clone());
    if key.is_empty() {
        return vec![renamed, both(Action::Deny, Vec::new(), Vec::new())];
    }
    vec![renamed, both(Action::Deny, prepend, key), both(Action::Pass, Vec::new(), Vec::new())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> XattrMap {
        text.parse().unwrap()
    }

    fn c(name: &str) -> CString {
        CString::new(name).unwrap()
    }

    /// The host's name, or the refusal.
    fn host(map: &XattrMap, guest: &str) -> Result<String, NameRefusal> {
        map.host_name(&c(guest)).map(|name| name.to_str().unwrap().to_owned())
    }

    fn guest(map: &XattrMap, host: &str) -> Option<String> {
        map.guest_name(&c(host)).map(|name| name.to_str().unwrap().to_owned())
    }

    fn pass(name: &str) -> Result<String, NameRefusal> {
        Ok(name.to_owned())
    }

    #[test]
    fn everything_below_one_prefix() {
        for text in [":map::user.virtiofs.:", " :prefix:all::user.virtiofs.:\n\t/bad/all///  "] {
            let map = map(text);
            for name in ["security.selinux", "trusted.overlay.opaque", "user.virtiofs.x", "user.x"] {
                assert_eq!(host(&map, name), pass(&format!("user.virtiofs.{name}")));
                assert_eq!(guest(&map, &format!("user.virtiofs.{name}")).as_deref(), Some(name));
            }
            assert_eq!(guest(&map, "security.selinux"), None);
            assert_eq!(guest(&map, "user.x"), None);
            assert_eq!(guest(&map, "user.virtiofs."), None, "a name cannot be empty");
        }
    }

    #[test]
    fn some_below_a_prefix_and_the_rest_as_it_is() {
        for text in [
            "/map/trusted./user.virtiofs./",
            "/prefix/all/trusted./user.virtiofs./ /bad/server//trusted./ /bad/client/user.virtiofs.// /ok/all///",
        ] {
            let map = map(text);
            assert_eq!(host(&map, "trusted.x"), pass("user.virtiofs.trusted.x"));
            assert_eq!(host(&map, "user.x"), pass("user.x"));
            assert_eq!(host(&map, "user.virtiofs.trusted.x"), Err(NameRefusal::Denied));
            assert_eq!(guest(&map, "user.virtiofs.trusted.x").as_deref(), Some("trusted.x"));
            assert_eq!(guest(&map, "trusted.x"), None);
            assert_eq!(guest(&map, "user.x").as_deref(), Some("user.x"));
            // Below the prefix by another hand: its name would lead elsewhere.
            assert_eq!(guest(&map, "user.virtiofs.user.x"), None);
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let map = map(":ok:all:user.a:user.a::unsupported:all:user.:user.::bad:all:::");
        assert_eq!(host(&map, "user.abc"), pass("user.abc"));
        assert_eq!(host(&map, "user.b"), Err(NameRefusal::Unsupported));
        assert_eq!(host(&map, "trusted.b"), Err(NameRefusal::Denied));
        assert_eq!(guest(&map, "user.abc").as_deref(), Some("user.abc"));
        assert_eq!((guest(&map, "user.b"), guest(&map, "trusted.b")), (None, None));
    }

    #[test]
    fn what_cannot_be_read_is_not_shown() {
        // Stripped for the guest, but not put back.
        let map = map(":prefix:server::user.vm.::ok:all:::");
        assert_eq!(guest(&map, "user.vm.trusted.x"), None);
        assert_eq!(guest(&map, "user.x").as_deref(), Some("user.x"));
        let map = super::tests::map(":bad:client:user.secret:: :ok:all:::");
        assert_eq!((guest(&map, "user.secret"), guest(&map, "user.x").is_some()), (None, true));
    }

    #[test]
    fn a_longer_name_than_the_host_has_is_refused() {
        let map = map(":map:user.:trusted.vm.:");
        let longest = format!("user.{}", "x".repeat(255 - "trusted.vm.user.".len()));
        assert_eq!(host(&map, &longest), pass(&format!("trusted.vm.{longest}")));
        assert_eq!(host(&map, &format!("{longest}x")), Err(NameRefusal::TooLong));
        let other = "x".repeat(300);
        assert_eq!(host(&map, &other), pass(&other), "this is for the host to refuse");
    }

    #[test]
    fn what_a_map_does_to_one_name() {
        let map = map(":prefix:all:security.:user.vm.: :bad:all:user.vm.:security.: :ok:all:::");
        assert_eq!(map.renamed(c"security.capability"), Some(c("user.vm.security.capability")));
        assert_eq!((map.renamed(c"user.x"), map.renamed(c"user.vm.x")), (None, None));
        assert!(map.keeps(c"user.x") && map.keeps(c"system.posix_acl_access"));
        assert!(!map.keeps(c"security.capability") && !map.keeps(c"user.vm.x"));
    }

    #[test]
    fn a_wrong_map_is_explained_in_one_line() {
        for (text, expected) in [
            ("", "there is no rule in it"),
            (" \n", "there is no rule in it"),
            (":ok:all::", "rule 1: expected :TYPE:SCOPE:KEY:PREPEND: or :map:KEY:PREPEND:"),
            (":ok:all::: /ok/all//", "rule 2: expected /TYPE/SCOPE/KEY/PREPEND/ or /map/KEY/PREPEND/"),
            ("x", "rule 1: expected xTYPExSCOPExKEYxPREPENDx or xmapxKEYxPREPENDx"),
            (
                ":good:all:::",
                "rule 1: there is no type 'good'; there are prefix, ok, bad, unsupported and map",
            ),
            (":ok:all:::::", "rule 2: there is no type ''; there are prefix, ok, bad, unsupported and map"),
            (":bad:both:::", "rule 1: there is no scope 'both'; there are client, server and all"),
            (":OK:all:::", "rule 1: there is no type 'OK'; there are prefix, ok, bad, unsupported and map"),
            (":ok:all:a\0b::", "rule 1: a name cannot contain a NUL"),
            (":map:a:b::ok:all:::", "rule 1: a rule of type map must be the last one"),
            (":map:a:b: :map:c:d:", "rule 1: a rule of type map must be the last one"),
            (
                ":prefix:all:trusted.:user.vm.:",
                "no rule says what becomes of all other names; add the rule :bad:all::: (hides them) or \
                 :ok:all::: (passes them) at its end",
            ),
            (
                ":prefix:all::user.vm.:",
                "no rule says what becomes of all other names that the host may have; add the rule \
                 :bad:server::: (hides them) or :ok:server::: (passes them) at its end",
            ),
            (
                ":ok:server:::",
                "no rule says what becomes of all other names that the guest may ask for; add the rule \
                 :bad:client::: (hides them) or :ok:client::: (passes them) at its end",
            ),
        ] {
            assert_eq!(text.parse::<XattrMap>().unwrap_err().to_string(), expected, "{text}");
        }
    }

    /// A rule as its four fields.
    type Fields = (&'static str, &'static str, &'static str, &'static str);

    fn write(rules: &[Fields]) -> String {
        rules.iter().map(|(kind, scope, key, prepend)| format!("/{kind}/{scope}/{key}/{prepend}/ ")).collect()
    }

    fn some_rule() -> impl Strategy<Value = Fields> {
        let name = || prop::sample::select(vec!["", "a", "ab", "b.", "b.a", "c"]);
        (
            prop::sample::select(vec!["prefix", "ok", "bad", "unsupported"]),
            prop::sample::select(vec!["client", "server", "all"]),
            name(),
            name(),
        )
    }

    /// The reference for one name on the client's side: what it becomes, or why nothing.
    fn model(rules: &[Fields], name: &str) -> Result<String, NameRefusal> {
        for (kind, scope, key, prepend) in rules {
            if *scope == "server" || !name.starts_with(key) {
                continue;
            }
            return match *kind {
                "prefix" => Ok(format!("{prepend}{name}")),
                "ok" => Ok(name.to_owned()),
                "bad" => Err(NameRefusal::Denied),
                _ => Err(NameRefusal::Unsupported),
            };
        }
        panic!("no rule for {name}")
    }

    /// The same on the server's side, without a look at the client's.
    fn model_of_list(rules: &[Fields], name: &str) -> Option<String> {
        for (kind, scope, _, prepend) in rules {
            if *scope == "client" || !name.starts_with(prepend) {
                continue;
            }
            return match *kind {
                "prefix" => name.strip_prefix(prepend).map(str::to_owned),
                "ok" => Some(name.to_owned()),
                _ => None,
            };
        }
        panic!("no rule for {name}")
    }

    proptest! {
        #[test]
        fn rules_mean_what_the_model_means(
            mut rules in prop::collection::vec(some_rule(), 0..5),
            last in prop::sample::select(vec!["ok", "bad"]),
            names in prop::collection::vec("[abc.]{1,6}", 8),
        ) {
            rules.push((last, "all", "", ""));
            let map = map(&write(&rules));
            for name in names {
                prop_assert_eq!(host(&map, &name), model(&rules, &name));
                let shown = model_of_list(&rules, &name)
                    .filter(|shown| !shown.is_empty() && model(&rules, shown) == Ok(name.clone()));
                prop_assert_eq!(guest(&map, &name), shown);
            }
        }

        #[test]
        fn nothing_is_listed_that_cannot_be_read(
            mut rules in prop::collection::vec(some_rule(), 0..5),
            names in prop::collection::vec("[abc.]{1,6}", 8),
        ) {
            rules.push(("ok", "all", "", ""));
            let map = map(&write(&rules));
            let mut seen = std::collections::BTreeMap::new();
            for name in names {
                let Some(shown) = guest(&map, &name) else { continue };
                prop_assert_eq!(host(&map, &shown), Ok(name.clone()));
                let before = seen.insert(shown, name.clone());
                prop_assert!(before.is_none_or(|before| before == name), "two attributes under one name");
            }
        }

        /// With the short form, whatever a guest can set is listed under the name that it was set by.
        #[test]
        fn a_map_rule_shows_all_that_it_takes(
            key in "[ab.]{0,3}", prepend in "[ab.]{0,3}", name in "[abc.]{1,6}",
        ) {
            let map = map(&format!(":map:{key}:{prepend}:"));
            if let Ok(host) = host(&map, &name) {
                prop_assert_eq!(guest(&map, &host), Some(name));
            }
        }

        #[test]
        fn no_text_panics(
            text in "([:/ ](map|ok|bad|prefix|unsupported|\\PC{0,4})[:/](all|client|server|\\PC{0,4})([:/]\\PC{0,4}){0,4}[:/]){0,3}\\PC{0,4}"
        ) {
            if let Err(error) = text.parse::<XattrMap>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
