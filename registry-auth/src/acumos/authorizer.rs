//! The rules with the directory that they ask

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use registry_core::{Access, Action, Digest, RepositoryName, Resource, Tag};
use tokio::time::timeout;

use super::directory::{Directory, DirectoryError, fitting};
use super::facts::{Answer, Facts, Query};
use super::rules::{Request, Rules};
use crate::policy::{AuthorizeError, Authorizer, Decision, Policy};
use crate::principal::Principal;
use crate::token::Granted;

/// Knows which tags lead to content
///
/// Whoever has the content implements it: the registry's store, or a proxy for its upstream.
#[async_trait]
pub trait TagsOf: fmt::Debug + Send + Sync + 'static {
    /// The tags of a repository from which a manifest or blob is reached
    ///
    /// Empty when there are none, or no such repository.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] when it cannot be known now.
    async fn tags_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, DirectoryError>;
}

/// What an operator can choose besides the rules
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::AuthorizerOptions;
/// use registry_core::Action;
///
/// let options = AuthorizerOptions::default()
///     .with_service_names(["onboarding"])
///     .with_service_actions([Action::Pull, Action::Push, Action::Delete]);
/// assert_eq!(options.service_role, "admin");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorizerOptions {
    /// How long a decision may take, questions included; by default 5 seconds, before clients
    /// lose patience
    pub timeout: Duration,
    /// How many questions a decision may take; by default 1,000, more than the rules ask for
    /// anything but a layer that hundreds of images share
    pub max_questions: usize,
    /// The role with which a service account needs no right of its own; by default `admin`
    pub service_role: String,
    /// The service accounts that need no right of their own, by name; by default none
    pub service_names: Vec<String>,
    /// What such service accounts may do, on every repository; by default pull and push, which
    /// is what the platform's on-boarding and deployment do ([`Action::All`] is the list of
    /// all repositories)
    pub service_actions: Vec<Action>,
}

impl Default for AuthorizerOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            max_questions: 1_000,
            service_role: "admin".to_owned(),
            service_names: Vec::new(),
            service_actions: vec![Action::Pull, Action::Push],
        }
    }
}

impl AuthorizerOptions {
    /// Sets [`AuthorizerOptions::timeout`]
    #[must_use]
    pub fn with_timeout(mut self, wait: Duration) -> Self {
        self.timeout = wait;
        self
    }

    /// Sets [`AuthorizerOptions::max_questions`]
    #[must_use]
    pub fn with_max_questions(mut self, questions: usize) -> Self {
        self.max_questions = questions;
        self
    }

    /// Sets [`AuthorizerOptions::service_role`]
    #[must_use]
    pub fn with_service_role(mut self, role: impl Into<String>) -> Self {
        self.service_role = role.into();
        self
    }

    /// Sets [`AuthorizerOptions::service_names`]
    #[must_use]
    pub fn with_service_names(
        mut self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.service_names = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`AuthorizerOptions::service_actions`]
    #[must_use]
    pub fn with_service_actions(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.service_actions = actions.into_iter().collect();
        self
    }
}

/// Decides by the [`Rules`], asking a [`Directory`] and the registry's content for the facts
///
/// - A **user** is the account of that login name.
/// - A **token** is its subject's, and allows what it grants and its subject may do: it can
///   narrow what an account may do, never widen it.
/// - A **service account** is none of the platform's. It may do what
///   [`AuthorizerOptions::service_actions`] says if it has the role or a name that is listed,
///   else nothing.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use registry_auth::acumos::{
///     AcumosAuthorizer, AuthorizerOptions, DirectoryError, FileDirectory, Rules, TagsOf,
/// };
/// use registry_auth::{Authorizer, Principal};
/// use registry_core::{Digest, RepositoryName, Tag, route};
///
/// /// A registry without content
/// #[derive(Debug)]
/// struct Empty;
///
/// #[async_trait]
/// impl TagsOf for Empty {
///     async fn tags_of(&self, _: &RepositoryName, _: &Digest) -> Result<Vec<Tag>, DirectoryError> {
///         Ok(Vec::new())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("platform.yml");
/// std::fs::write(&path, "
/// accounts: [{ login: ada }]
/// solutions:
///   - { id: 9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1, name: Iris, owner: ada }
/// ")?;
/// let directory = Arc::new(FileDirectory::open(&path)?);
/// let options = AuthorizerOptions::default();
/// let authorizer = AcumosAuthorizer::new(Rules::default(), directory, Arc::new(Empty), options);
///
/// let pull = route("GET", "/v2/iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1/manifests/1.0.0", None)?;
/// let decision = authorizer.authorize(&Principal::user("ada"), &pull.access()[0]).await?;
/// assert_eq!((decision.is_allow(), decision.rule()), (true, "owner"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AcumosAuthorizer {
    rules: Rules,
    directory: Arc<dyn Directory>,
    tags: Arc<dyn TagsOf>,
    options: AuthorizerOptions,
}

impl AcumosAuthorizer {
    /// Decides by `rules`, with facts from `directory` and `tags`
    pub fn new(
        rules: Rules,
        directory: Arc<dyn Directory>,
        tags: Arc<dyn TagsOf>,
        options: AuthorizerOptions,
    ) -> Self {
        Self {
            rules,
            directory,
            tags,
            options,
        }
    }

    /// Decides about a request that is put in the rules' own words
    ///
    /// # Errors
    ///
    /// [`AuthorizeError`] when a fact cannot be had, or not in time.
    pub async fn decide(&self, request: &Request<'_>) -> Result<Decision, AuthorizeError> {
        let decided = timeout(self.options.timeout, self.ask_and_decide(request)).await;
        decided.unwrap_or_else(|_| {
            Err(AuthorizeError {
                retry_after: self.options.timeout,
                cause: format!(
                    "there was no decision in {} s; see how long the directory and the storage \
                     take to answer",
                    self.options.timeout.as_secs_f32()
                ),
            })
        })
    }

    async fn ask_and_decide(&self, request: &Request<'_>) -> Result<Decision, AuthorizeError> {
        let mut facts = Facts::default();
        for left in (0..=self.options.max_questions).rev() {
            let query = match self.rules.decide(request, &facts) {
                Ok(decision) => return Ok(decision),
                Err(_) if left == 0 => break,
                Err(query) => query,
            };
            let answer = match &query {
                Query::Tags(repository, digest) => self
                    .tags
                    .tags_of(repository, digest)
                    .await
                    .map(Answer::Tags),
                query => self.directory.answer(query).await,
            };
            let answer = answer
                .and_then(|answer| fitting(&query, answer))
                .map_err(|error| AuthorizeError {
                    retry_after: error.retry_after(),
                    cause: format!("asked for {query}: {error}"),
                })?;
            facts.tell(query, answer).map_err(|error| AuthorizeError {
                retry_after: self.options.timeout,
                cause: error.to_string(),
            })?;
        }
        Err(AuthorizeError {
            retry_after: self.options.timeout,
            cause: format!(
                "there was no decision after {} questions to the directory",
                self.options.max_questions
            ),
        })
    }

    fn service(&self, name: &str, principal: &Principal, access: &Access) -> Decision {
        const RULE: &str = "service-account";
        let known = principal.has_role(&self.options.service_role)
            || self.options.service_names.iter().any(|known| known == name);
        if !known {
            return Decision::deny(
                RULE,
                "this service account has no rights on the images of the platform",
            )
            .with_remedy(
                "log in as a user of the platform, or ask the operators of this registry to let \
                 this service account in",
            )
            .with_missing(format!(
                "the role `{}`, or that `{}` is listed among the service accounts",
                self.options.service_role,
                name.escape_debug()
            ));
        }
        if self.options.service_actions.contains(&access.action) {
            Decision::allow(RULE, "you are a service of the platform")
        } else {
            Decision::deny(
                RULE,
                format!("services of the platform may not do `{access}`"),
            )
            .with_remedy("log in as a user of the platform who may do it")
            .with_missing(format!(
                "that service accounts may do `{}`",
                access.action.as_str()
            ))
        }
    }
}

#[async_trait]
impl Authorizer for AcumosAuthorizer {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        let user = match principal {
            Principal::Anonymous => None,
            Principal::Service { name, .. } => return Ok(self.service(name, principal, access)),
            Principal::Token { subject, .. } => {
                let granted = Granted.decide(principal, access);
                if !granted.is_allow() {
                    return Ok(granted);
                }
                subject.as_deref()
            }
            Principal::User { name, .. } => Some(name.as_str()),
        };
        let repository = match &access.resource {
            Resource::Repository(name) => Some(name),
            Resource::Catalog => None,
            // Whatever else there will be, no rule speaks of it.
            _ => {
                return Ok(
                    Decision::deny("unknown-resource", "the platform has no rule for this")
                        .with_remedy("ask for a repository, or for the list of them"),
                );
            }
        };
        self.decide(&Request {
            user,
            action: access.action,
            repository,
            reference: access.reference.as_ref(),
        })
        .await
    }
}
