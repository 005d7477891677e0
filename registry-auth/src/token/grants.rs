//! What a token grants, and the policy that allows no more and no less

use std::sync::Arc;

use registry_core::{Access, Action, Resource};

use crate::policy::{Decision, Policy};
use crate::principal::Principal;
use crate::token::claims::AccessEntry;
use crate::token::scope::{action, resource};

/// What a token grants: resources, each with the actions allowed on it
///
/// Cheap to clone. `*` among the actions stands for every action.
///
/// # Examples
///
/// ```
/// use registry_auth::token::{AccessEntry, Grants, ResourceActions};
/// use registry_core::route;
///
/// let entry = AccessEntry::from(&"repository:team/app:pull".parse::<ResourceActions>()?);
/// let grants: Grants = [&entry].into_iter().collect();
/// assert!(grants.allow_all(&route("GET", "/v2/team/app/tags/list", None)?.access()));
/// assert!(!grants.allow_all(&route("POST", "/v2/team/app/blobs/uploads/", None)?.access()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants(Arc<[Grant]>);

impl Grants {
    /// Whether this access is granted
    pub fn allow(&self, access: &Access) -> bool {
        self.0.iter().any(|grant| {
            grant.resource == access.resource
                && grant
                    .actions
                    .iter()
                    .any(|action| [Action::All, access.action].contains(action))
        })
    }

    /// Whether all of these are granted
    pub fn allow_all(&self, needed: &[Access]) -> bool {
        needed.iter().all(|access| self.allow(access))
    }

    /// The single grants, in the order of the token
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }
}

impl<'a> FromIterator<&'a AccessEntry> for Grants {
    /// What the entries of an access list grant; what this registry does not have is left out
    fn from_iter<I: IntoIterator<Item = &'a AccessEntry>>(entries: I) -> Self {
        let grant = |entry: &AccessEntry| {
            let actions: Vec<_> = entry
                .actions
                .iter()
                .filter_map(|word| action(word))
                .collect();
            let resource = resource(&entry.kind, &entry.name)?;
            (!actions.is_empty()).then_some(Grant { resource, actions })
        };
        Self(entries.into_iter().filter_map(grant).collect())
    }
}

/// A resource and what may be done to it
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// What it is about
    pub resource: Resource,
    /// What may be done to it
    pub actions: Vec<Action>,
}

/// Allows what the token of the request grants, and nothing else
///
/// As distribution with `auth: token`: a push needs `pull` and `push`, a deletion `delete`, the
/// list of repositories `registry:catalog:*`, and `*` stands for every action. Who comes without a
/// token may do nothing.
///
/// # Examples
///
/// ```
/// use registry_auth::{Granted, Policy, Principal};
/// use registry_core::route;
///
/// let pull = route("GET", "/v2/team/app/tags/list", None)?;
/// let decision = Granted.decide(&Principal::Anonymous, &pull.access()[0]);
/// assert!(!decision.is_allow());
/// assert_eq!(decision.reason(), "log in: this needs a token that grants `repository:team/app:pull`");
/// # Ok::<(), registry_core::RouteError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Granted;

impl Policy for Granted {
    fn decide(&self, principal: &Principal, access: &Access) -> Decision {
        const RULE: &str = "granted";
        match principal {
            Principal::Token { grants, .. } if grants.allow(access) => {
                Decision::allow(RULE, "the token grants it")
            }
            Principal::Token { .. } => {
                Decision::deny(RULE, format!("the token does not grant `{access}`"))
                    .with_remedy("ask its issuer for a token that does")
            }
            Principal::Anonymous => Decision::deny(
                RULE,
                format!("log in: this needs a token that grants `{access}`"),
            )
            .with_remedy("get one from the token service that this registry names"),
            Principal::Service { .. } | Principal::User { .. } => Decision::deny(
                RULE,
                format!("only a token can grant `{access}`, and none came"),
            )
            .with_remedy("get one from the token service that this registry names"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(entries: &[(&str, &str, &[&str])]) -> Principal {
        let entries: Vec<_> = entries
            .iter()
            .map(|(kind, name, actions)| AccessEntry {
                kind: (*kind).to_owned(),
                name: (*name).to_owned(),
                actions: actions.iter().map(|action| (*action).to_owned()).collect(),
                ..AccessEntry::default()
            })
            .collect();
        Principal::Token {
            subject: None,
            grants: entries.iter().collect(),
        }
    }

    #[test]
    fn a_token_allows_exactly_what_it_grants() {
        let principal = token(&[
            ("repository", "pulled", &["pull"]),
            ("repository", "pushed", &["pull", "frob"]),
            ("repository", "pushed", &["push"]),
            ("repository", "deleted", &["delete"]),
            ("repository", "owned", &["*"]),
            ("repository", "nothing", &[]),
            // Issuers write these; they are not names of repositories here.
            ("repository", "group/*", &["*"]),
            ("repository(plugin)", "pulled", &["*"]),
            ("registry", "other", &["*"]),
            ("registry", "catalog", &["pull"]),
        ]);
        let allowed = |resource: &Resource| {
            [Action::Pull, Action::Push, Action::Delete, Action::All]
                .into_iter()
                .filter(|action| {
                    let access = Access {
                        resource: resource.clone(),
                        action: *action,
                        reference: None,
                    };
                    Granted.decide(&principal, &access).is_allow()
                })
                .map(Action::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        for (name, expected) in [
            ("pulled", "pull"),
            ("pushed", "pull,push"),
            ("deleted", "delete"),
            ("owned", "pull,push,delete,*"),
            ("nothing", ""),
            ("group/app", ""),
            ("pulled/below", ""),
            ("catalog", ""),
        ] {
            let resource = Resource::Repository(name.parse().unwrap());
            assert_eq!(allowed(&resource), expected, "{name}");
        }
        assert_eq!(allowed(&Resource::Catalog), "pull");
    }

    #[test]
    fn a_denial_names_the_scope_that_is_missing() {
        let catalog = Access {
            resource: Resource::Catalog,
            action: Action::All,
            reference: None,
        };
        let user = Principal::user("ada");
        for principal in [token(&[]), Principal::Anonymous, user] {
            let decision = Granted.decide(&principal, &catalog);
            assert!(!decision.is_allow());
            assert!(
                decision.reason().contains("`registry:catalog:*`"),
                "{decision:?}"
            );
        }
        let all = token(&[("registry", "catalog", &["*"])]);
        assert!(Granted.decide(&all, &catalog).is_allow());
    }
}
