//! A list of rules: who may do what to which repositories
//!
//! For places without a platform that knows it. **The first denial that is about an access
//! decides; if there is none, the first allow; if there is none either, it is denied.** There is
//! no other default.
//!
//! A rule is about an access when all of these are:
//!
//! - its *subjects*: `anyone`, `anonymous`, `authenticated`, `user:<name>`, `role:<name>`,
//!   `service:<name>` ([`Subject`]),
//! - its *repositories*: names and patterns with `*` and `**` ([`RepositoryPattern`]),
//! - its *actions*: `pull`, `push`, `delete`, `catalog`, `all` ([`RuleAction`]). `all` is `catalog`
//!   too where the rule is about every repository. An access to everything (`*`) takes an allow of
//!   everything, and is denied by a denial of any part.
//! - its *tags*, if it has any ([`TagPattern`]), as follows.
//!
//! # Rules with tags
//!
//! | access | an allow with tags | a denial with tags |
//! |---|---|---|
//! | by a tag | applies if the tag matches | applies if the tag matches |
//! | push of a blob, or of a manifest by digest | applies: the tag comes later, and is checked then | never |
//! | list tags | applies: the list says which tags there are | never |
//! | pull or delete by digest | never: which tags lead to it is not known here | never |
//! | list repositories | never | never |
//!
//! Blobs are pulled by digest. So who may pull images by some tags only needs another rule
//! that allows to pull the repository's content, and what nobody may read belongs in a repository of
//! its own.
//!
//! # What the one who is denied learns
//!
//! The reason is the same for every denial of the same access, whatever rule decided: it tells
//! neither that a repository exists nor that a rule is about it. Only who may use some tags of a
//! repository learns which. With `hidden`, of a rule that denies or of the list for what no rule
//! is about, the registry can answer as if there were nothing.
//!
//! # Examples
//!
//! ```
//! use registry_auth::rules::RuleList;
//! use registry_auth::{Policy, Principal};
//! use registry_core::route;
//!
//! let rules: RuleList = serde_json::from_str(r#"{
//!     "rules": [
//!         {"name": "frozen", "effect": "deny", "subjects": ["anyone"],
//!          "repositories": ["team/old/**"], "actions": ["push", "delete"]},
//!         {"name": "read", "effect": "allow", "subjects": ["anyone"],
//!          "repositories": ["team/**"], "actions": ["pull"]},
//!         {"name": "release", "effect": "allow", "subjects": ["role:Publisher", "service:ci"],
//!          "repositories": ["team/**"], "actions": ["push"], "tags": ["v*"]}
//!     ]
//! }"#)?;
//! let ci = Principal::service("ci");
//! let push = |path| route("PUT", path, None).map(|push| rules.decide(&ci, &push.access()[1]));
//! assert_eq!(push("/v2/team/app/manifests/v1")?.rule(), "release");
//! assert_eq!(push("/v2/team/old/app/manifests/v1")?.rule(), "frozen");
//! let decision = push("/v2/team/app/manifests/latest")?;
//! assert_eq!(decision.rule(), "default");
//! assert_eq!(decision.reason(), "of `team/app` you may push only tags that match `v*`");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod index;
mod pattern;
mod rule;
mod section;

use std::collections::HashMap;
use std::fmt;

use registry_core::{Access, Action, RepositoryName, Resource, TagOrDigest};

use self::index::{Found, Index};
use self::rule::DEFAULT;
use crate::policy::{Decision, Policy};
use crate::principal::Principal;

pub use self::pattern::{PatternError, RepositoryPattern, TagPattern};
pub use self::rule::{
    Effect, MAX_ENTRIES, MAX_RULE_NAME, MAX_SUBJECT, Rule, RuleAction, RuleError, Subject,
    WordError,
};

/// Decides by a list of rules
///
/// What they mean is in the [module](self). In a configuration it is a section with `rules`, each
/// with the fields of [`Rule`], and `hidden`, see [`RuleList::with_hidden`].
///
/// # Examples
///
/// ```
/// use registry_auth::rules::{Effect, Rule, RuleAction, RuleList, Subject};
///
/// let rules = RuleList::new(vec![Rule {
///     name: "administrators".to_owned(),
///     effect: Effect::Allow,
///     subjects: vec![Subject::Role("Admin".to_owned())],
///     repositories: vec!["**".parse()?],
///     actions: vec![RuleAction::All],
///     tags: Vec::new(),
///     hidden: false,
/// }])?;
/// assert_eq!(rules.rules().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RuleList {
    rules: Vec<Rule>,
    index: Index,
    hidden: bool,
}

impl RuleList {
    /// With these rules, in this order
    ///
    /// # Errors
    ///
    /// [`RuleListError`] when there are more than [`MAX_RULES`], or one is wrong.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleListError> {
        if rules.len() > MAX_RULES {
            return Err(RuleListError::TooMany { count: rules.len() });
        }
        let mut names = HashMap::new();
        for (at, rule) in rules.iter().enumerate() {
            let number = at + 1;
            let unique = match names.insert(rule.name.as_str(), number) {
                Some(first) => Err(RuleError::DuplicateName { first }),
                None => Ok(()),
            };
            rule.check()
                .and(unique)
                .map_err(|error| RuleListError::Rule {
                    number,
                    name: rule.name.clone(),
                    error,
                })?;
        }
        Ok(Self {
            index: Index::new(&rules),
            rules,
            hidden: false,
        })
    }

    /// Sets whether what no rule is about looks as if it did not exist; by default it does not
    #[must_use]
    pub fn with_hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }

    /// The rules, in their order
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn decided(&self, at: usize, principal: &Principal, access: &Access) -> Decision {
        let rule = &self.rules[at];
        let decision = match rule.effect {
            Effect::Allow => {
                Decision::allow(rule.name.clone(), format!("you may {}", Phrase::of(access)))
            }
            Effect::Deny => Decision::deny(rule.name.clone(), refusal(principal, access))
                .with_remedy(remedy(principal))
                .with_missing(format!(
                    "rule `{}` not to be about it, and a rule that allows it",
                    rule.name
                )),
        };
        let decision = self.why(decision, at, principal, access);
        match rule.hidden {
            true => decision.with_hidden(),
            false => decision,
        }
    }

    /// Adds what makes the rule one about this access
    fn why(
        &self,
        decision: Decision,
        at: usize,
        principal: &Principal,
        access: &Access,
    ) -> Decision {
        let rule = &self.rules[at];
        let mut decision = decision.with_fact(format!(
            "rule {} of {}, `{}`, is to {}",
            at + 1,
            self.rules.len(),
            rule.name,
            rule.effect.as_str(),
        ));
        if let Some(subject) = rule.subjects.iter().find(|one| one.matches(principal)) {
            decision = decision.with_fact(format!("{principal} is `{subject}`"));
        }
        if let Resource::Repository(name) = &access.resource
            && let Some(pattern) = rule.repositories.iter().find(|one| one.matches(name))
        {
            decision = decision.with_fact(format!("`{name}` matches `{pattern}`"));
        }
        match &access.reference {
            Some(TagOrDigest::Tag(tag)) => match rule.tag_pattern(tag) {
                Some(pattern) => decision.with_fact(format!("tag `{tag}` matches `{pattern}`")),
                None => decision,
            },
            _ => decision,
        }
    }

    /// The denial of what no rule denies or allows
    fn undecided(&self, nearly: Option<usize>, principal: &Principal, access: &Access) -> Decision {
        let nearly = nearly.map(|at| (at, &self.rules[at]));
        let reason = match (nearly, &access.resource) {
            (Some((_, rule)), Resource::Repository(name)) if !self.hidden => {
                only_tags(rule, name, access)
            }
            _ => refusal(principal, access),
        };
        let decision = Decision::deny(DEFAULT, reason).with_remedy(remedy(principal));
        let decision = match nearly {
            None => decision
                .with_fact(format!(
                    "none of {} rules is about {principal} and `{access}`",
                    self.rules.len()
                ))
                .with_missing(format!("a rule that allows {principal} `{access}`")),
            Some((at, rule)) => self
                .why(decision, at, principal, access)
                .with_fact(match &access.reference {
                    Some(TagOrDigest::Tag(tag)) => {
                        format!("tag `{tag}` matches none of {}", listed(rule))
                    }
                    _ => format!(
                        "the rule is about tags only ({}), and which lead here is not known",
                        listed(rule)
                    ),
                })
                .with_missing(match &access.reference {
                    Some(TagOrDigest::Tag(tag)) => {
                        format!(
                            "tag `{tag}` in rule `{}`, or a rule without tags",
                            rule.name
                        )
                    }
                    _ => "a rule without tags that allows it".to_owned(),
                }),
        };
        match self.hidden {
            true => decision.with_hidden(),
            false => decision,
        }
    }
}

impl Policy for RuleList {
    fn decide(&self, principal: &Principal, access: &Access) -> Decision {
        let found = self.index.find(&self.rules, principal, access);
        match found {
            Found::Rule(at) => self.decided(at, principal, access),
            Found::Nothing { nearly } => self.undecided(nearly, principal, access),
        }
    }
}

impl fmt::Debug for RuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleList")
            .field("rules", &self.rules)
            .field("hidden", &self.hidden)
            .finish_non_exhaustive()
    }
}

/// Why rules make no list
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleListError {
    /// A rule is wrong
    #[error("rule {number} (`{}`): {error}", name.escape_debug())]
    Rule {
        /// Its number, from 1
        number: usize,
        /// Its name
        name: String,
        /// What is wrong with it
        error: RuleError,
    },
    /// There are more than [`MAX_RULES`]
    #[error(
        "expected at most {MAX_RULES} rules, got {count} or more; use roles and patterns instead \
         of a rule for each name"
    )]
    TooMany {
        /// How many came, as far as they were read
        count: usize,
    },
}

/// The most rules of a list
pub const MAX_RULES: usize = 10_000;

/// The one text of all denials of an access
fn refusal(principal: &Principal, access: &Access) -> String {
    match principal {
        Principal::Anonymous => format!(
            "log in: without an account you may not {}",
            Phrase::of(access)
        ),
        _ => format!("you may not {}", Phrase::of(access)),
    }
}

/// What would allow it, the same whatever exists and whatever rules there are
fn remedy(principal: &Principal) -> &'static str {
    match principal {
        Principal::Anonymous => "log in with an account that may do it",
        _ => "log in with an account that may do it, or ask whoever runs this registry",
    }
}

/// The denial for one who may do it with other tags
fn only_tags(rule: &Rule, name: &RepositoryName, access: &Access) -> String {
    let verb = match access.action {
        Action::Delete => "delete",
        Action::Pull => "pull",
        Action::Push => "push",
        _ => "use",
    };
    let by_tag = match &access.reference {
        Some(TagOrDigest::Tag(_)) => "",
        _ => ", and only by tag",
    };
    format!(
        "of `{name}` you may {verb} only tags that match {}{by_tag}",
        listed(rule)
    )
}

/// The first tag patterns of a rule, for a message
fn listed(rule: &Rule) -> String {
    let shown: Vec<_> = rule
        .tags
        .iter()
        .take(SHOWN)
        .map(TagPattern::as_str)
        .collect();
    let list = shown.join("`, `");
    match rule.tags.len().saturating_sub(SHOWN) {
        0 => format!("`{list}`"),
        more => format!("`{list}` and {more} more"),
    }
}

/// How many tag patterns a message lists
const SHOWN: usize = 8;

/// What is done, as a sentence goes on after "you may"
struct Phrase<'a>(&'a Access);

impl<'a> Phrase<'a> {
    fn of(access: &'a Access) -> Self {
        Self(access)
    }
}

impl fmt::Display for Phrase<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resource::Repository(name) = &self.0.resource else {
            return f.write_str("list all repositories");
        };
        f.write_str(match self.0.action {
            Action::Delete => "delete",
            Action::Pull => "pull",
            Action::Push => "push",
            _ => "do everything with",
        })?;
        match (&self.0.reference, self.0.action) {
            (Some(TagOrDigest::Tag(tag)), _) => write!(f, " `{name}:{tag}`"),
            (Some(TagOrDigest::Digest(digest)), _) => write!(f, " `{name}@{digest}`"),
            (None, Action::Pull) => write!(f, " from `{name}`"),
            (None, Action::Push) => write!(f, " to `{name}`"),
            (None, _) => write!(f, " `{name}`"),
        }
    }
}
