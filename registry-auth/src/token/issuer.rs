//! The issuer of tokens

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{JwkSet, KeyAlgorithm};
use registry_core::{Access, Action, Resource};

use crate::authenticator::{AuthenticateError, Password};
use crate::policy::{AuthorizeError, Authorizer};
use crate::principal::Principal;
use crate::token::claims::{AccessEntry, Claims};
use crate::token::key::{KeyError, PublicKey};
use crate::token::refresh::{AUDIENCE, Accounts};
use crate::token::scope::{ResourceActions, Scope, quotable};
use crate::token::signing_key::{SigningKey, SigningKeyError};
use crate::token::trust::{Trust, TrustError};
use crate::token::verifier::{TokenVerifier, seconds};

/// The shortest life of a token
///
/// Clients take a shorter one for this one, and go on to use a token that is over.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// Which tokens a [`TokenIssuer`] issues
///
/// # Examples
///
/// ```no_run
/// use registry_auth::token::{IssuerOptions, TokenIssuer};
///
/// let options = IssuerOptions::new("auth.example", "registry.example", "/etc/registry/token.key")
///     .with_certificates("/etc/registry/token.pem");
/// let issuer = TokenIssuer::new(options)?;
/// assert!(issuer.jwks().contains("keys"));
/// # Ok::<(), registry_auth::token::IssuerSetupError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct IssuerOptions {
    /// The name of the issuer, as registries know it
    pub issuer: String,
    /// The registries that tokens are issued for, by the service of their challenge
    pub services: Vec<String>,
    /// A file with the private key in PEM: PKCS#8 of P-256, P-384, Ed25519 or RSA, or PKCS#1
    ///
    /// Tokens are signed with ES256, ES384, EdDSA or RS256 accordingly. P-256 is the one to take:
    /// all registries know it, and signatures are short and quickly made.
    pub signing_key: PathBuf,
    /// A file with the certificate of the key in PEM, and after it those that vouch for it
    ///
    /// Tokens then bring them along (`x5c`). distribution 2.x needs that, for it does not know keys
    /// by the thumbprint (RFC 7638) that tokens name otherwise.
    pub certificates: Option<PathBuf>,
    /// A file with former keys, as public keys or certificates in PEM
    ///
    /// They are still published, and refresh tokens of theirs still accepted. To change the key,
    /// put the old one here until its tokens are over; to call off its refresh tokens, do not.
    pub former_keys: Option<PathBuf>,
    /// How long tokens are good, in whole seconds; by default five minutes, at least one
    ///
    /// What they grant is not taken back before.
    pub lifetime: Duration,
    /// How long refresh tokens are good, in whole seconds; by default 90 days
    ///
    /// After that the user logs in again. [`Accounts`] is asked whenever one is used.
    pub refresh_lifetime: Duration,
}

impl IssuerOptions {
    /// Options for one service
    pub fn new(
        issuer: impl Into<String>,
        service: impl Into<String>,
        signing_key: impl Into<PathBuf>,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            services: vec![service.into()],
            signing_key: signing_key.into(),
            certificates: None,
            former_keys: None,
            lifetime: Duration::from_secs(5 * 60),
            refresh_lifetime: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }

    /// Adds a service
    #[must_use]
    pub fn with_service(mut self, service: impl Into<String>) -> Self {
        self.services.push(service.into());
        self
    }

    /// Sets the file of the key's certificates
    #[must_use]
    pub fn with_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.certificates = Some(path.into());
        self
    }

    /// Sets the file of former keys
    #[must_use]
    pub fn with_former_keys(mut self, path: impl Into<PathBuf>) -> Self {
        self.former_keys = Some(path.into());
        self
    }

    /// Sets how long tokens are good
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets how long refresh tokens are good
    #[must_use]
    pub fn with_refresh_lifetime(mut self, lifetime: Duration) -> Self {
        self.refresh_lifetime = lifetime;
        self
    }

    fn check(&self) -> Result<(), IssuerSetupError> {
        if self.issuer.is_empty() {
            return Err(IssuerSetupError::NoIssuer);
        }
        let is_service = |service: &String| {
            !service.is_empty()
                && service.bytes().all(|byte| matches!(byte, b' '..=b'~'))
                && !service.starts_with(AUDIENCE)
        };
        let wrong = self.services.iter().find(|service| !is_service(service));
        if let Some(got) = wrong {
            return Err(IssuerSetupError::Service { got: quotable(got) });
        }
        if self.services.is_empty() {
            return Err(IssuerSetupError::NoService);
        }
        for got in [self.lifetime, self.refresh_lifetime] {
            if got < MIN_LIFETIME {
                return Err(IssuerSetupError::Lifetime { got });
            }
        }
        Ok(())
    }
}

/// Issues the tokens of the Docker token specification
///
/// A token grants what was asked for as far as an [`Authorizer`] allows it, be it less or
/// nothing: the registry decides in the end, and says with which scope to come again. A
/// [`TokenAuthenticator`](crate::TokenAuthenticator) with the key accepts them, and so does
/// distribution.
///
/// # Tags
///
/// A scope has no tag. The authorizer is asked without one, so one that decides by tag says
/// what may be true of some tag. A registry of such a policy decides again for each request, by the
/// subject of the token: [`Both`](crate::Both) of [`Granted`](crate::Granted) and
/// [`BySubject`](crate::token::BySubject).
///
/// # Examples
///
/// ```no_run
/// use std::time::SystemTime;
///
/// use registry_auth::token::{IssuerOptions, TokenIssuer};
/// use registry_auth::{Principal, PullOnly};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let options = IssuerOptions::new("auth.example", "registry.example", "/etc/registry/token.key");
/// let issuer = TokenIssuer::new(options)?;
/// let wanted = "repository:team/app:pull,push".parse()?;
/// let ada = Principal::user("ada");
/// let issued = issuer.issue(&ada, "registry.example", &wanted, &PullOnly, SystemTime::now()).await?;
/// assert_eq!(issued.scope.to_string(), "repository:team/app:pull");
/// # Ok(())
/// # }
/// ```
pub struct TokenIssuer {
    options: IssuerOptions,
    current: ArcSwap<Current>,
}

/// The keys in force
struct Current {
    key: SigningKey,
    /// The public keys, former ones too
    keys: Arc<[Arc<PublicKey>]>,
    jwks: String,
    /// What verifies the refresh tokens of each service
    refresh: HashMap<String, TokenVerifier>,
}

/// A token that was issued
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The token
    pub token: Password,
    /// What it grants
    pub scope: Scope,
    /// For how long, in whole seconds
    pub lifetime: Duration,
}

impl TokenIssuer {
    /// Checks the options and reads the files that they name
    ///
    /// # Errors
    ///
    /// [`IssuerSetupError`] says which option or file is wrong, and what was expected.
    pub fn new(options: IssuerOptions) -> Result<Self, IssuerSetupError> {
        options.check()?;
        let current = ArcSwap::from_pointee(Current::load(&options)?);
        Ok(Self { options, current })
    }

    /// Reads the keys again
    ///
    /// It reads files, so call it where that may block.
    ///
    /// # Errors
    ///
    /// [`IssuerSetupError`] as [`TokenIssuer::new`]; the old keys then stay in force.
    pub fn reload(&self) -> Result<(), IssuerSetupError> {
        self.current.store(Arc::new(Current::load(&self.options)?));
        Ok(())
    }

    /// The name of the issuer, as registries know it
    pub fn name(&self) -> &str {
        &self.options.issuer
    }

    /// The public keys, another list whenever they were read again
    pub(super) fn keys(&self) -> Arc<[Arc<PublicKey>]> {
        self.current.load().keys.clone()
    }

    /// The services that tokens are issued for; there is at least one
    pub fn services(&self) -> &[String] {
        &self.options.services
    }

    /// The public keys as a JSON Web Key Set (RFC 7517), for those who verify tokens
    pub fn jwks(&self) -> String {
        self.current.load().jwks.clone()
    }

    /// A token for `principal` that grants what is both wanted and allowed
    ///
    /// `*` on a repository is granted where `pull`, `push` and `delete` are allowed and `*` too;
    /// where not, it stands for those of the three that are. What is no resource of a registry
    /// is left out.
    ///
    /// # Errors
    ///
    /// [`IssueError::Undecided`] when it cannot be known now what is allowed. The others mean
    /// that the request or the setup is wrong.
    pub async fn issue(
        &self,
        principal: &Principal,
        service: &str,
        wanted: &Scope,
        authorizer: &dyn Authorizer,
        now: SystemTime,
    ) -> Result<IssuedToken, IssueError> {
        self.check(principal, service)?;
        let scope = granted(principal, wanted, authorizer).await?;
        let claims = Claims {
            access: scope.resources().iter().map(AccessEntry::from).collect(),
            ..self.claims(principal, service.to_owned(), self.options.lifetime, now)?
        };
        Ok(IssuedToken {
            token: signed(self.current.load().key.sign(&claims))?,
            scope,
            lifetime: Duration::from_secs(self.options.lifetime.as_secs()),
        })
    }

    /// A refresh token for `principal` and this service; `None` for those without a name
    ///
    /// It is a signed token for an audience that is no registry, and grants nothing itself. See
    /// [`Accounts`] for how it is called off.
    ///
    /// # Errors
    ///
    /// [`IssueError`] when the request or the setup is wrong.
    pub fn issue_refresh(
        &self,
        principal: &Principal,
        service: &str,
        now: SystemTime,
    ) -> Result<Option<Password>, IssueError> {
        self.check(principal, service)?;
        if principal.name().is_none_or(str::is_empty) {
            return Ok(None);
        }
        let lifetime = self.options.refresh_lifetime;
        let claims = self.claims(principal, format!("{AUDIENCE}{service}"), lifetime, now)?;
        signed(self.current.load().key.sign_for_self(&claims)).map(Some)
    }

    /// Whom a refresh token for this service stands for now
    ///
    /// # Errors
    ///
    /// [`AuthenticateError::InvalidToken`] when it is none, is over, or is for another service;
    /// what [`Accounts::account`] returns otherwise.
    pub async fn refresh(
        &self,
        token: &Password,
        service: &str,
        accounts: &dyn Accounts,
        now: SystemTime,
    ) -> Result<Principal, AuthenticateError> {
        let invalid = |reason: String| AuthenticateError::InvalidToken { reason };
        let claims = {
            let current = self.current.load();
            let verifier = current.refresh.get(service);
            verifier
                .ok_or_else(|| invalid("there is no such service here".to_owned()))?
                .verify(token.expose(), now)
                .map_err(|error| invalid(error.to_string()))?
        };
        let issued_at = claims.issued_at.and_then(|at| u64::try_from(at).ok());
        let since = issued_at
            .and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)))
            .ok_or_else(|| invalid("it does not say when it was issued".to_owned()))?;
        accounts.account(&claims.subject, since).await
    }

    fn check(&self, principal: &Principal, service: &str) -> Result<(), IssueError> {
        if matches!(principal, Principal::Token { .. }) {
            return Err(IssueError::TokenForToken);
        }
        if !self.options.services.iter().any(|known| known == service) {
            return Err(IssueError::Service {
                got: quotable(service),
            });
        }
        Ok(())
    }

    fn claims(
        &self,
        principal: &Principal,
        audience: String,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Claims, IssueError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| IssueError::Sign {
            reason: error.to_string(),
        })?;
        let second = seconds(now);
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        Ok(Claims {
            issuer: self.options.issuer.clone(),
            subject: principal.name().unwrap_or_default().to_owned(),
            audience: vec![audience],
            expires: Some(second.saturating_add(lifetime)),
            not_before: Some(second),
            issued_at: Some(second),
            id: Some(URL_SAFE_NO_PAD.encode(id)),
            access: Vec::new(),
        })
    }
}

impl Current {
    fn load(options: &IssuerOptions) -> Result<Self, IssuerSetupError> {
        let key = SigningKey::load(&options.signing_key, options.certificates.as_deref())?;
        let mut keys = vec![key.public().clone()];
        let former = Trust::load(options.former_keys.as_deref(), None)?;
        let mut former: Vec<_> = former
            .into_keys()
            .filter(|former| former.thumbprint() != key.public().thumbprint())
            .collect();
        former.sort_by(|one, other| one.thumbprint().cmp(other.thumbprint()));
        keys.extend(former);
        let unusable = |error: KeyError| IssuerSetupError::Keys {
            reason: error.to_string(),
        };
        let mut published: Vec<_> = keys
            .iter()
            .map(|key| key.to_jwk())
            .collect::<Result<_, _>>()
            .map_err(unusable)?;
        published[0].common.key_algorithm = Some(KeyAlgorithm::from(key.algorithm().library()));
        let jwks = serde_json::to_string(&JwkSet { keys: published }).map_err(|error| {
            IssuerSetupError::Keys {
                reason: error.to_string(),
            }
        })?;
        let refresh = options.services.iter().map(|service| {
            let audience = format!("{AUDIENCE}{service}");
            let verifier = TokenVerifier::of_keys(&options.issuer, audience, &keys);
            (service.clone(), verifier)
        });
        Ok(Self {
            refresh: refresh.collect(),
            keys: keys.into(),
            jwks,
            key,
        })
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn signed(token: Result<String, String>) -> Result<Password, IssueError> {
    token
        .map(Password::new)
        .map_err(|reason| IssueError::Sign { reason })
}

/// What is both wanted and allowed
async fn granted(
    principal: &Principal,
    wanted: &Scope,
    authorizer: &dyn Authorizer,
) -> Result<Scope, AuthorizeError> {
    let mut known: HashMap<Access, bool> = HashMap::new();
    let mut allowed = Vec::new();
    for access in wanted
        .resources()
        .iter()
        .flat_map(ResourceActions::accesses)
    {
        let parts = match (&access.resource, access.action) {
            (Resource::Repository(_), Action::All) => {
                vec![Action::Pull, Action::Push, Action::Delete, Action::All]
            }
            (_, action) => vec![action],
        };
        let all = parts.len();
        let mut granted = Vec::with_capacity(all);
        for action in parts {
            let part = Access {
                action,
                ..access.clone()
            };
            // `*` is no way to get what is denied one by one.
            if action == Action::All && granted.len() + 1 < all {
                continue;
            }
            let allows = match known.get(&part) {
                Some(allows) => *allows,
                None => {
                    let decision = authorizer.authorize(principal, &part).await?;
                    tracing::debug!(%principal, access = %part, rule = decision.rule(), allowed = decision.is_allow(), "token asked for");
                    known.insert(part.clone(), decision.is_allow());
                    decision.is_allow()
                }
            };
            if allows {
                granted.push(part);
            }
        }
        // Where `*` is granted, it says the rest.
        match granted.len() {
            len if len == all => allowed.extend(granted.pop()),
            _ => allowed.extend(granted),
        }
    }
    Ok(allowed.iter().collect())
}

/// Why tokens cannot be issued with these options
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerSetupError {
    /// The former keys cannot be taken
    #[error(transparent)]
    FormerKeys(#[from] TrustError),
    /// The keys cannot be published
    #[error("the keys cannot be published: {reason}")]
    Keys {
        /// Why not
        reason: String,
    },
    /// A lifetime is too short
    #[error(
        "expected a lifetime of at least {} seconds, got {}; clients use a token that long",
        MIN_LIFETIME.as_secs(),
        .got.as_secs_f32()
    )]
    Lifetime {
        /// What it was to be
        got: Duration,
    },
    /// The issuer is empty
    #[error("expected the name of the issuer, as registries are to know it, got nothing")]
    NoIssuer,
    /// There is no service
    #[error("expected at least one service to issue tokens for, got none")]
    NoService,
    /// A service is malformed
    #[error(
        "expected a service of printable ASCII that does not begin with `{AUDIENCE}`, such as \
         `registry.example`, got `{got}`"
    )]
    Service {
        /// What came
        got: String,
    },
    /// The signing key cannot be used
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
}

/// Why no token was issued
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The service is not one of those that tokens are issued for
    #[error(
        "no tokens are issued here for the service `{got}`; ask for the one of the registry's \
         challenge"
    )]
    Service {
        /// What was asked for
        got: String,
    },
    /// It could not be signed
    #[error("the token could not be signed")]
    Sign {
        /// Why not, for operators
        reason: String,
    },
    /// Who asks proves it by a token
    #[error("a token is not exchanged for another one; log in with a name and a password")]
    TokenForToken,
    /// It cannot be known now what is allowed
    #[error(transparent)]
    Undecided(#[from] AuthorizeError),
}
