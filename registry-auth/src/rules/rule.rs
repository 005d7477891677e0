//! One rule, and how a configuration writes it

use std::fmt;
use std::str::FromStr;

use registry_core::{Action, Tag};

use super::pattern::{PatternError, RepositoryPattern, TagPattern};
use crate::principal::Principal;

/// What a rule of a [`RuleList`](super::RuleList) says
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, by which decisions name it; each rule of a list has another one
    pub name: String,
    /// What happens to what it is about
    pub effect: Effect,
    /// Whom it is about, at least one
    pub subjects: Vec<Subject>,
    /// Which repositories it is about, at least one; a rule about the catalogue alone has none
    pub repositories: Vec<RepositoryPattern>,
    /// What is done, at least one
    pub actions: Vec<RuleAction>,
    /// Which tags it is about; none of them for all content, with a tag or without
    pub tags: Vec<TagPattern>,
    /// Whether what a denial is about looks as if it did not exist
    pub hidden: bool,
}

/// What a rule does
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Allow, unless another rule denies
    Allow,
    /// Deny, whatever other rules say
    Deny,
}

impl Effect {
    /// The word of a configuration
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl FromStr for Effect {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(WordError::new("`allow` or `deny`", text)),
        }
    }
}

/// Whom a rule is about
///
/// The bearer of a token is nobody but [`Subject::Anyone`]: what a token allows, it says itself,
/// and [`Granted`](crate::Granted) reads.
///
/// # Examples
///
/// ```
/// use registry_auth::Principal;
/// use registry_auth::rules::Subject;
///
/// let subject: Subject = "role:Publisher".parse()?;
/// assert!(subject.matches(&Principal::user("ada").with_roles(["Publisher"])));
/// assert!(!subject.matches(&Principal::user("Publisher")));
/// # Ok::<(), registry_auth::rules::WordError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Who brings no credentials (`anonymous`)
    Anonymous,
    /// Everybody, logged in or not (`anyone`)
    Anyone,
    /// Every user and every service account (`authenticated`)
    Authenticated,
    /// Every user and service account with this role (`role:<name>`)
    Role(String),
    /// The service account of this name (`service:<name>`)
    Service(String),
    /// The user of this name (`user:<name>`)
    User(String),
}

impl Subject {
    /// Whether this is (one of) them
    pub fn matches(&self, principal: &Principal) -> bool {
        match (self, principal) {
            (Self::Anyone, _) | (Self::Anonymous, Principal::Anonymous) => true,
            (Self::Authenticated, Principal::Service { .. } | Principal::User { .. }) => true,
            (Self::Role(role), _) => principal.has_role(role),
            (Self::Service(expected), Principal::Service { name, .. })
            | (Self::User(expected), Principal::User { name, .. }) => expected == name,
            _ => false,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Anyone => f.write_str("anyone"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::Service(name) => write!(f, "service:{name}"),
            Self::User(name) => write!(f, "user:{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let named = text.split_once(':').filter(|(_, name)| !name.is_empty());
        match (text, named) {
            _ if text.len() > MAX_SUBJECT => {}
            ("anonymous", _) => return Ok(Self::Anonymous),
            ("anyone", _) => return Ok(Self::Anyone),
            ("authenticated", _) => return Ok(Self::Authenticated),
            (_, Some(("role", name))) => return Ok(Self::Role(name.to_owned())),
            (_, Some(("service", name))) => return Ok(Self::Service(name.to_owned())),
            (_, Some(("user", name))) => return Ok(Self::User(name.to_owned())),
            _ => {}
        }
        Err(WordError::new(
            "`anyone`, `anonymous`, `authenticated`, `user:<name>`, `role:<name>` or \
             `service:<name>`, of at most 255 bytes",
            text,
        ))
    }
}

/// What a rule is about doing
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Everything that can be done to the repositories, and listing the catalogue where they are
    /// all repositories
    All,
    /// List all repositories of the registry
    Catalog,
    /// Delete tags, manifests and blobs
    Delete,
    /// Read manifests, blobs, tags and referrers
    Pull,
    /// Upload blobs and put manifests; a client that pushes needs `pull` too
    Push,
}

impl RuleAction {
    /// The word of a configuration
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Catalog => "catalog",
            Self::Delete => "delete",
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}

impl FromStr for RuleAction {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "all" => Ok(Self::All),
            "catalog" => Ok(Self::Catalog),
            "delete" => Ok(Self::Delete),
            "pull" => Ok(Self::Pull),
            "push" => Ok(Self::Push),
            _ => Err(WordError::new(
                "`pull`, `push`, `delete`, `catalog` or `all`",
                text,
            )),
        }
    }
}

/// Why a word of a rule is none
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got `{}`", got.escape_debug())]
pub struct WordError {
    expected: &'static str,
    got: String,
}

impl WordError {
    fn new(expected: &'static str, got: &str) -> Self {
        Self {
            expected,
            got: got.chars().take(64).collect(),
        }
    }
}

/// What is wrong with one rule
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// No action
    #[error("expected at least one of `actions`: `pull`, `push`, `delete`, `catalog` or `all`")]
    Actionless,
    /// The catalogue in a rule about some repositories or tags
    #[error(
        "`catalog` lists all repositories and no tags; give it a rule of its own, with neither \
         `repositories` nor `tags`"
    )]
    Catalog,
    /// The name of an earlier rule
    #[error("rule {first} has this name too; give each rule a name of its own")]
    DuplicateName {
        /// The number of the earlier rule, from 1
        first: usize,
    },
    /// An allow that hides
    #[error("`hidden` is for rules that deny; what is allowed is seen")]
    HiddenAllow,
    /// A name that is none
    #[error(
        "expected a name of 1 to {MAX_RULE_NAME} bytes without control characters, and not \
         `{DEFAULT}`, which stands for no rule"
    )]
    Name,
    /// A pattern that is none
    #[error("`{field}`: {error}")]
    Pattern {
        /// The field it is in
        field: &'static str,
        /// What is wrong with it
        error: PatternError,
    },
    /// No repository
    #[error("expected at least one of `repositories`, such as `team/*`, or `**` for all")]
    Repositoryless,
    /// No subject
    #[error(
        "expected at least one of `subjects`: `anyone`, `anonymous`, `authenticated`, \
         `user:<name>`, `role:<name>` or `service:<name>`"
    )]
    Subjectless,
    /// A list of tags without any
    #[error("expected at least one of `tags`, such as `v*`; leave the field out for all content")]
    Tagless,
    /// More of something than is reasonable
    #[error("expected at most {MAX_ENTRIES} `{field}`, got {count}; split the rule")]
    TooMany {
        /// The field it is in
        field: &'static str,
        /// How many there are
        count: usize,
    },
    /// A word that is none
    #[error("`{field}`: {error}")]
    Word {
        /// The field it is in
        field: &'static str,
        /// What is wrong with it
        error: WordError,
    },
}

impl Rule {
    /// What does not depend on other rules
    pub(super) fn check(&self) -> Result<(), RuleError> {
        let is_name = (1..=MAX_RULE_NAME).contains(&self.name.len())
            && !self.name.chars().any(char::is_control)
            && self.name != DEFAULT;
        if !is_name {
            return Err(RuleError::Name);
        }
        for (field, count) in [
            ("subjects", self.subjects.len()),
            ("repositories", self.repositories.len()),
            ("actions", self.actions.len()),
            ("tags", self.tags.len()),
        ] {
            if count > MAX_ENTRIES {
                return Err(RuleError::TooMany { field, count });
            }
        }
        if self.subjects.is_empty() {
            return Err(RuleError::Subjectless);
        }
        if self.actions.is_empty() {
            return Err(RuleError::Actionless);
        }
        let only_catalog = self
            .actions
            .iter()
            .all(|action| *action == RuleAction::Catalog);
        if self.repositories.is_empty() && !only_catalog {
            return Err(RuleError::Repositoryless);
        }
        if self.actions.contains(&RuleAction::Catalog) && !self.is_about_everything() {
            return Err(RuleError::Catalog);
        }
        if self.hidden && self.effect == Effect::Allow {
            return Err(RuleError::HiddenAllow);
        }
        Ok(())
    }

    /// Whether listing the catalogue is among what it is about
    pub(super) fn has_catalog(&self) -> bool {
        let lists = |action: &RuleAction| matches!(action, RuleAction::All | RuleAction::Catalog);
        self.actions.iter().any(lists) && self.is_about_everything()
    }

    /// What it is about doing to repositories
    pub(super) fn kinds(&self) -> Kinds {
        let mut kinds = Kinds(0);
        for action in &self.actions {
            kinds.0 |= match action {
                RuleAction::All => ALL,
                RuleAction::Catalog => 0,
                RuleAction::Delete => DELETE,
                RuleAction::Pull => PULL,
                RuleAction::Push => PUSH,
            };
        }
        kinds
    }

    /// The pattern of the tag, if there is one
    pub(super) fn tag_pattern(&self, tag: &Tag) -> Option<&TagPattern> {
        self.tags.iter().find(|pattern| pattern.matches(tag))
    }

    fn is_about_everything(&self) -> bool {
        let all = self.repositories.is_empty()
            || self
                .repositories
                .iter()
                .any(RepositoryPattern::is_everything);
        all && self.tags.is_empty()
    }
}

/// A set of things that can be done to a repository
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds(u8);

impl Kinds {
    /// What an action consists of
    pub(super) fn of(action: Action) -> Self {
        Self(match action {
            Action::Delete => DELETE,
            Action::Pull => PULL,
            Action::Push => PUSH,
            // What is not known could be anything.
            _ => ALL,
        })
    }

    /// Whether a rule about these is about an access that takes `needed`
    ///
    /// An allow must be for all of it, and a denial of a part denies the whole.
    pub(super) fn decide(self, effect: Effect, needed: Self) -> bool {
        match effect {
            Effect::Allow => self.0 & needed.0 == needed.0,
            Effect::Deny => self.0 & needed.0 != 0,
        }
    }
}

const PULL: u8 = 1;
const PUSH: u8 = 2;
const DELETE: u8 = 4;
const ALL: u8 = PULL | PUSH | DELETE;

/// The name of the denial where no rule is about an access
pub(super) const DEFAULT: &str = "default";

/// The most entries of each list of a rule
///
/// More are a sign of a generated configuration, which can as well generate more rules.
pub const MAX_ENTRIES: usize = 1_000;

/// The most bytes of a rule's name
pub const MAX_RULE_NAME: usize = 128;

/// The most bytes of a subject
pub const MAX_SUBJECT: usize = 255;
