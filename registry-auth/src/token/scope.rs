//! Scopes: what a token is asked for, in the grammar of the token specification

use std::fmt;
use std::str::FromStr;

use registry_core::{Access, Action, RepositoryName, Resource};

/// The most bytes of a scope's text
///
/// A query parameter; a client that pushes with mounts from a few repositories stays far below.
pub const MAX_SCOPE: usize = 8 * 1024;

/// A list of resources with the actions wanted on each, such as
/// `repository:app:pull,push registry:catalog:*`
///
/// Grammar (Docker token specification, "Token Scope Documentation"): resource scopes, separated
/// by spaces, at most [`MAX_SCOPE`] bytes in all. Empty where nothing in particular is asked
/// for, as by a login.
///
/// # Examples
///
/// ```
/// use registry_auth::token::Scope;
///
/// let scope: Scope = "repository:team/app:pull,push registry:catalog:*".parse()?;
/// assert_eq!(scope.resources().len(), 2);
/// assert_eq!(scope.resources()[0].name(), "team/app");
/// assert_eq!(scope.to_string(), "repository:team/app:pull,push registry:catalog:*");
/// assert!("repository:team/app".parse::<Scope>().is_err());
/// # Ok::<(), registry_auth::token::ScopeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(Vec<ResourceActions>);

impl Scope {
    /// The resources with their actions, in the order in which they were asked for
    pub fn resources(&self) -> &[ResourceActions] {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, resource) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            resource.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SCOPE {
            return Err(ScopeError::TooLong { length: text.len() });
        }
        text.split(' ')
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl TryFrom<&str> for Scope {
    type Error = ScopeError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromIterator<ResourceActions> for Scope {
    fn from_iter<I: IntoIterator<Item = ResourceActions>>(resources: I) -> Self {
        Self(resources.into_iter().collect())
    }
}

impl<'a> FromIterator<&'a Access> for Scope {
    /// The scope that grants all of them: actions on the same resource are put together
    fn from_iter<I: IntoIterator<Item = &'a Access>>(accesses: I) -> Self {
        let mut resources: Vec<ResourceActions> = Vec::new();
        for access in accesses {
            let wanted = ResourceActions::from(access);
            match resources
                .iter_mut()
                .find(|known| known.kind == wanted.kind && known.name == wanted.name)
            {
                Some(known) => wanted.actions.into_iter().for_each(|action| {
                    if !known.actions.contains(&action) {
                        known.actions.push(action);
                    }
                }),
                None => resources.push(wanted),
            }
        }
        Self(resources)
    }
}

/// One resource and what is wanted of it, such as `repository:team/app:pull,push`
///
/// Grammar (Docker token specification, "Token Scope Documentation"): type, optionally with a
/// class in parentheses; a name, which may begin with a host and its port; actions, separated by
/// commas. The type ends at the first colon, the actions begin after the last. A list without
/// actions is allowed and asks for nothing. An action named twice counts once.
///
/// # Examples
///
/// ```
/// use registry_auth::token::ResourceActions;
///
/// let plugin: ResourceActions = "repository(plugin):registry.example:5000/team/app:pull".parse()?;
/// assert_eq!(plugin.kind(), "repository");
/// assert_eq!(plugin.class(), Some("plugin"));
/// assert_eq!(plugin.name(), "registry.example:5000/team/app");
/// assert_eq!(plugin.actions(), ["pull"]);
/// # Ok::<(), registry_auth::token::ScopeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceActions {
    kind: String,
    class: Option<String>,
    name: String,
    actions: Vec<String>,
}

impl ResourceActions {
    /// A resource made of parts that are each in grammar
    ///
    /// # Errors
    ///
    /// [`ScopeError`] names the part that is not.
    pub fn new(
        kind: &str,
        class: Option<&str>,
        name: &str,
        actions: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, ScopeError> {
        if !is_kind(kind) || !class.is_none_or(is_kind) {
            let got = match class {
                Some(class) => format!("{kind}({class})"),
                None => kind.to_owned(),
            };
            return Err(ScopeError::Type {
                got: quotable(&got),
            });
        }
        if !is_name(name) {
            return Err(ScopeError::Name {
                got: quotable(name),
            });
        }
        let mut known = Vec::new();
        for action in actions.into_iter().map(Into::into) {
            if !is_action(&action) {
                return Err(ScopeError::Action {
                    got: quotable(&action),
                });
            }
            if !known.contains(&action) {
                known.push(action);
            }
        }
        Ok(Self {
            kind: kind.to_owned(),
            class: class.map(ToOwned::to_owned),
            name: name.to_owned(),
            actions: known,
        })
    }

    /// The type of the resource, such as `repository` or `registry`
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The class of the resource, such as `plugin`
    ///
    /// It does not matter for what is granted (distribution ignores it too).
    pub fn class(&self) -> Option<&str> {
        self.class.as_deref()
    }

    /// The name of the resource, such as `team/app` or `catalog`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The actions, in the order in which they were named
    pub fn actions(&self) -> &[String] {
        &self.actions
    }

    /// What of it a registry can check: its accesses, none for resources that it does not have
    pub fn accesses(&self) -> impl Iterator<Item = Access> {
        let resource = resource(&self.kind, &self.name);
        self.actions.iter().filter_map(move |action| {
            Some(Access {
                resource: resource.clone()?,
                action: self::action(action)?,
                reference: None,
            })
        })
    }
}

impl From<&Access> for ResourceActions {
    fn from(access: &Access) -> Self {
        let (kind, name) = match &access.resource {
            Resource::Repository(name) => ("repository", name.as_str()),
            // A core with more resources than these has them in the registry, not in a repository.
            _ => ("registry", "catalog"),
        };
        Self {
            kind: kind.to_owned(),
            class: None,
            name: name.to_owned(),
            actions: vec![access.action.as_str().to_owned()],
        }
    }
}

impl fmt::Display for ResourceActions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if let Some(class) = &self.class {
            write!(f, "({class})")?;
        }
        write!(f, ":{}:{}", self.name, self.actions.join(","))
    }
}

impl FromStr for ResourceActions {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ScopeError::Parts {
            got: quotable(text),
        };
        if text.len() > MAX_SCOPE {
            return Err(ScopeError::TooLong { length: text.len() });
        }
        let (kind, rest) = text.split_once(':').ok_or_else(malformed)?;
        let (name, actions) = rest.rsplit_once(':').ok_or_else(malformed)?;
        let (kind, class) = match kind.strip_suffix(')').and_then(|kind| kind.split_once('(')) {
            Some((kind, class)) => (kind, Some(class)),
            None => (kind, None),
        };
        let actions = match actions {
            "" => Vec::new(),
            some => some.split(',').collect(),
        };
        Self::new(kind, class, name, actions)
    }
}

impl TryFrom<&str> for ResourceActions {
    type Error = ScopeError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Why a text is no scope
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// An action is out of grammar
    #[error("expected an action of lower-case letters, or `*`, got `{got}`")]
    Action {
        /// What came
        got: String,
    },
    /// The name is out of grammar
    #[error(
        "expected a resource name such as `team/app` or `registry.example:5000/team/app`, got \
         `{got}`"
    )]
    Name {
        /// What came
        got: String,
    },
    /// It is not made of three parts
    #[error("expected `type:name:actions`, such as `repository:team/app:pull`, got `{got}`")]
    Parts {
        /// What came
        got: String,
    },
    /// It is too long
    #[error("expected a scope of at most {MAX_SCOPE} bytes, got {length}")]
    TooLong {
        /// How many bytes came
        length: usize,
    },
    /// The type or its class is out of grammar
    #[error("expected a resource type such as `repository` or `repository(plugin)`, got `{got}`")]
    Type {
        /// What came
        got: String,
    },
}

/// The resource of a registry that a type and name stand for, if it has such a one
pub(super) fn resource(kind: &str, name: &str) -> Option<Resource> {
    match (kind, name) {
        ("registry", "catalog") => Some(Resource::Catalog),
        ("repository", name) => name.parse().ok().map(Resource::Repository),
        _ => None,
    }
}

/// The action of a registry that a word stands for, if it has such a one
pub(super) fn action(word: &str) -> Option<Action> {
    [Action::All, Action::Delete, Action::Pull, Action::Push]
        .into_iter()
        .find(|action| action.as_str() == word)
}

/// What came, fit for a message: without control characters, and not at length
pub(super) fn quotable(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn is_kind(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn is_action(text: &str) -> bool {
    text == "*" || !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// `[hostname '/'] component ['/' component]*`
fn is_name(text: &str) -> bool {
    let is_path = |text: &str| text.parse::<RepositoryName>().is_ok();
    is_path(text)
        || text
            .split_once('/')
            .is_some_and(|(host, path)| is_host(host) && is_path(path))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 255
        && host.split('.').all(is_label)
        && port
            .is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_grammar_is_the_specifications() {
        for text in [
            "",
            "repository:samalba/my-app:pull",
            "repository:samalba/my-app:pull,push repository:other:pull",
            "repository(plugin):samalba/my-app:*",
            "repository:localhost:5000/samalba/my-app:pull,push,delete",
            "repository:Registry.Example-1.org/a:pull",
            "registry:catalog:*",
            // Nothing is asked of it.
            "repository:samalba/my-app:",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        assert_eq!(
            " repository:a:pull,pull  repository:b:push "
                .parse::<Scope>()
                .unwrap()
                .to_string(),
            "repository:a:pull repository:b:push"
        );
    }

    #[test]
    fn what_is_out_of_grammar_is_refused_with_its_reason() {
        let cases = [
            ("repository", "expected `type:name:actions`"),
            ("repository:a", "expected `type:name:actions`"),
            (":a:pull", "expected a resource type"),
            ("Repository:a:pull", "expected a resource type"),
            ("repository():a:pull", "expected a resource type"),
            ("repository(a:a:pull", "expected a resource type"),
            ("repository(a)b:a:pull", "expected a resource type"),
            ("repository::pull", "expected a resource name"),
            ("repository:A:pull", "expected a resource name"),
            ("repository:a//b:pull", "expected a resource name"),
            ("repository:../etc:pull", "expected a resource name"),
            ("repository:a:b:c/d:pull", "expected a resource name"),
            ("repository:-host/d:pull", "expected a resource name"),
            ("repository:host:/d:pull", "expected a resource name"),
            ("repository:a/*:pull", "expected a resource name"),
            ("repository:a:pull,", "expected an action"),
            ("repository:a:,pull", "expected an action"),
            ("repository:a:Pull", "expected an action"),
            ("repository:a:**", "expected an action"),
            ("repository:a:pull\tpush", "got `pull\\tpush`"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<Scope>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("repository:{}:pull", "a/".repeat(MAX_SCOPE));
        assert_eq!(
            long.parse::<Scope>(),
            Err(ScopeError::TooLong { length: long.len() })
        );
        let long = format!("repository:{}:pull", "a/".repeat(1000));
        assert!(long.parse::<Scope>().unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn accesses_on_one_resource_are_put_together() {
        let needed = registry_core::route("POST", "/v2/a/b/blobs/uploads/", None)
            .unwrap()
            .access();
        let mut all = needed.clone();
        all.extend(
            registry_core::route("GET", "/v2/c/tags/list", None)
                .unwrap()
                .access(),
        );
        all.extend(
            registry_core::route("GET", "/v2/_catalog", None)
                .unwrap()
                .access(),
        );
        all.extend(needed);
        let scope: Scope = all.iter().collect();
        assert_eq!(
            scope.to_string(),
            "repository:a/b:pull,push repository:c:pull registry:catalog:*"
        );
        let back: Vec<Access> = scope
            .resources()
            .iter()
            .flat_map(ResourceActions::accesses)
            .collect();
        assert_eq!(back, all[..4]);
    }

    #[test]
    fn what_a_registry_does_not_have_gives_no_access() {
        for text in [
            "repository:host.example/a:pull",
            "repository:localhost:5000/a:pull",
            "repository:a:frob",
            "repository:a:",
            "registry:other:*",
            "storage:a:pull",
        ] {
            let resource: ResourceActions = text.parse().unwrap();
            let accesses = resource.accesses().filter(|access| {
                // A host without a port is as good a name of a repository.
                access.to_string() != "repository:host.example/a:pull"
            });
            assert_eq!(accesses.count(), 0, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_scope_is_read_as_it_was_printed(
            parts in prop::collection::vec(
                (
                    "[a-z0-9]{1,8}",
                    prop::option::of("[a-z0-9]{1,8}"),
                    "([A-Za-z0-9][A-Za-z0-9.]{0,5}[a-z](:[0-9]{1,5})?/)?[a-z0-9]{1,4}([._-][a-z0-9]{1,3})?(/[a-z0-9]{1,4}){0,2}",
                    prop::collection::vec("[a-z]{1,6}|\\*", 0..4),
                ),
                0..5,
            ),
        ) {
            let resources: Result<Vec<_>, _> = parts
                .iter()
                .map(|(kind, class, name, actions)| {
                    ResourceActions::new(kind, class.as_deref(), name, actions)
                })
                .collect();
            // The pattern above also makes hosts with two dots in a row.
            prop_assume!(resources.is_ok());
            let scope: Scope = resources.unwrap().into_iter().collect();
            prop_assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}|[a-z:(),*/ ]{0,40}") {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
            }
        }
    }
}
