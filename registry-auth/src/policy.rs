//! From a principal and an access to a decision

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use registry_core::{Access, Action};

use crate::principal::Principal;

/// Decides who may do what
///
/// Pure: a policy does no I/O and its answer depends on its arguments alone.
///
/// # Examples
///
/// ```
/// use registry_auth::{Policy, Principal, PullOnly};
/// use registry_core::route;
///
/// let push = route("POST", "/v2/app/blobs/uploads/", None)?;
/// let decisions = push.access().iter().map(|access| PullOnly.decide(&Principal::Anonymous, access)).collect::<Vec<_>>();
/// assert!(decisions[0].is_allow()); // pull, which a push needs too
/// assert!(!decisions[1].is_allow());
/// assert_eq!(decisions[1].reason(), "this registry only gives content out, it takes none");
/// # Ok::<(), registry_core::RouteError>(())
/// ```
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Whether `principal` may do `access`, and why
    fn decide(&self, principal: &Principal, access: &Access) -> Decision;
}

/// Decides who may do what, where that takes asking somebody
///
/// What an HTTP service asks for each access of a request. Every [`Policy`] is one.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether `principal` may do `access`, and why
    ///
    /// # Errors
    ///
    /// [`AuthorizeError`] when that cannot be known now: the answer is 503, never an allow.
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError>;
}

#[async_trait]
impl<P: Policy> Authorizer for P {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        Ok(self.decide(principal, access))
    }
}

/// Why there is no decision
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what you may do cannot be checked at the moment; try again in {} seconds", .retry_after.as_secs())]
pub struct AuthorizeError {
    /// When to ask again
    pub retry_after: Duration,
    /// Who did not answer and why, for operators
    pub cause: String,
}

/// The answer of a policy
///
/// # Examples
///
/// ```
/// use registry_auth::Decision;
///
/// let decision = Decision::deny("not-owner", "you own no solution with this image")
///     .with_fact("solution 1 is owned by bob")
///     .with_missing("to be the owner or a co-owner of solution 1");
/// assert!(!decision.is_allow());
/// assert_eq!(decision.facts().len(), 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    allow: bool,
    rule: Cow<'static, str>,
    reason: Cow<'static, str>,
    facts: Vec<Cow<'static, str>>,
    missing: Option<Cow<'static, str>>,
    remedy: Option<Cow<'static, str>>,
    hidden: bool,
}

impl Decision {
    /// An allow, by the rule of this name, for this reason
    pub fn allow(rule: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(true, rule.into(), reason.into())
    }

    /// A denial, by the rule of this name, for this reason
    pub fn deny(rule: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(false, rule.into(), reason.into())
    }

    /// Adds something that the decision rests on, for operators
    pub fn with_fact(mut self, fact: impl Into<Cow<'static, str>>) -> Self {
        self.facts.push(fact.into());
        self
    }

    /// Says what would have made it an allow, for operators
    pub fn with_missing(mut self, missing: impl Into<Cow<'static, str>>) -> Self {
        self.missing = Some(missing.into());
        self
    }

    /// Says what would allow it, in words for the user who asked
    ///
    /// As the reason, it gives away nothing that the user may not know.
    pub fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says that the one who asked may not even know whether there is anything
    pub fn with_hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Whether the access is allowed
    pub fn is_allow(&self) -> bool {
        self.allow
    }

    /// The name of the rule that decided
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Why, in words for the user who asked
    ///
    /// It gives away nothing that the user may not know.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What it rests on, in words for operators
    pub fn facts(&self) -> &[Cow<'static, str>] {
        &self.facts
    }

    /// What would have made it an allow, in words for operators
    pub fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// What would allow it, in words for the user who asked
    ///
    /// It gives away nothing that the user may not know.
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// Whether the one who asked may not even know whether there is anything
    ///
    /// A registry can then answer as if there were nothing.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    fn new(allow: bool, rule: Cow<'static, str>, reason: Cow<'static, str>) -> Self {
        Self {
            allow,
            rule,
            reason,
            facts: Vec::new(),
            missing: None,
            remedy: None,
            hidden: false,
        }
    }
}

/// Allows everything to everyone
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn decide(&self, _: &Principal, _: &Access) -> Decision {
        Decision::allow("allow-all", "this registry is open to everyone")
    }
}

/// Allows everyone to read and nobody to write
#[derive(Clone, Copy, Debug, Default)]
pub struct PullOnly;

impl Policy for PullOnly {
    fn decide(&self, _: &Principal, access: &Access) -> Decision {
        match (&access.resource, access.action) {
            (registry_core::Resource::Catalog, _) | (_, Action::Pull) => {
                Decision::allow("pull-only", "everyone may pull from this registry")
            }
            _ => Decision::deny(
                "pull-only",
                "this registry only gives content out, it takes none",
            ),
        }
    }
}

/// Allows everything to everyone who is logged in, and nothing to anybody else
///
/// What distribution does with its `htpasswd` and `silly`: they say who someone is, and
/// whoever is someone may do everything, the catalog included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authenticated;

impl Policy for Authenticated {
    fn decide(&self, principal: &Principal, _: &Access) -> Decision {
        match principal {
            Principal::Anonymous => Decision::deny("authenticated", "log in to use this registry"),
            Principal::Service { .. } | Principal::User { .. } => Decision::allow(
                "authenticated",
                "whoever is logged in may do everything here",
            ),
            // It grants what it says and no more, which is for `Granted` to read.
            Principal::Token { .. } => Decision::deny(
                "authenticated",
                "log in with a name and a password; this registry takes no tokens",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use registry_core::route;

    use super::*;

    #[test]
    fn whoever_is_logged_in_may_do_everything_and_nobody_else_anything() {
        let ada = Principal::user("ada");
        for (method, path) in [
            ("GET", "/v2/_catalog"),
            ("GET", "/v2/app/tags/list"),
            ("POST", "/v2/app/blobs/uploads/"),
            ("DELETE", "/v2/app/manifests/v1"),
        ] {
            let needed = route(method, path, None).unwrap().access();
            assert!(!needed.is_empty(), "{method} {path}");
            for access in needed {
                assert_eq!(
                    Authenticated.decide(&ada, &access),
                    Decision::allow(
                        "authenticated",
                        "whoever is logged in may do everything here"
                    )
                );
                assert_eq!(
                    Authenticated.decide(&Principal::Anonymous, &access),
                    Decision::deny("authenticated", "log in to use this registry")
                );
            }
        }
    }
}
