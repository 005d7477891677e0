//! The authenticator of tokens

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use registry_core::Access;
use sha2::{Digest, Sha256};

use crate::authenticator::{AuthenticateError, Authenticator, ChallengeReason, Credentials};
use crate::principal::Principal;
use crate::token::algorithm::SigningAlgorithm;
use crate::token::claims::Claims;
use crate::token::issuer::TokenIssuer;
#[cfg(feature = "http-client")]
use crate::token::jwks_url::{JwksUrl, JwksUrlError};
use crate::token::key::PublicKey;
#[cfg(feature = "http-client")]
use crate::token::published::Published;
use crate::token::scope::{Scope, quotable};
#[cfg(feature = "http-client")]
use crate::token::trust::Trust;
use crate::token::trust::TrustError;
use crate::token::verifier::{Refused, TokenVerifier, seconds};

/// How much of verified tokens is remembered, in bytes of the tokens themselves
///
/// Some thousand of usual size.
const REMEMBERED: u64 = 4 * 1024 * 1024;

/// How long a verified token is taken for good without another look, in seconds
///
/// Within it many requests of one pull are verified once; what else can end, such as the
/// certificate of the issuer, has its effect after it at the latest.
const REMEMBERED_FOR: i64 = 5 * 60;

/// Which tokens a [`TokenAuthenticator`] accepts, and where it sends those without one
///
/// The fields are those of distribution's `auth: token`.
///
/// # Examples
///
/// ```no_run
/// use registry_auth::{TokenAuthenticator, TokenOptions};
///
/// let options = TokenOptions::new("https://auth.example/token", "registry.example", "auth.example")
///     .with_root_certificates("/etc/registry/auth.pem");
/// let authenticator = TokenAuthenticator::new(options)?;
/// # Ok::<(), registry_auth::token::TokenSetupError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenOptions {
    /// The address of the token service, an absolute URL
    pub realm: String,
    /// The name of this registry for the token service, and the audience of its tokens
    pub service: String,
    /// The issuer of the tokens
    pub issuer: String,
    /// A file of PEM certificates and public keys
    ///
    /// Tokens are signed with one of their keys, or with that of a certificate for which they
    /// vouch.
    pub root_certificates: Option<PathBuf>,
    /// A file with a JSON Web Key Set, with whose keys tokens may be signed besides
    pub jwks: Option<PathBuf>,
    /// The URL of a JSON Web Key Set, with whose keys tokens may be signed besides
    #[cfg(feature = "http-client")]
    pub jwks_url: Option<JwksUrl>,
    /// The algorithms that are accepted; by default all that are known
    pub algorithms: Vec<SigningAlgorithm>,
    /// How much the clocks of issuer and registry may differ; by default a minute, as in
    /// distribution
    pub leeway: Duration,
    /// How long ago a token may have expired that is still told apart from one that never was
    /// good, as [`AuthenticateError::Expired`]; by default a day
    pub expired_for: Duration,
}

impl TokenOptions {
    /// Options with these names and no keys yet
    pub fn new(
        realm: impl Into<String>,
        service: impl Into<String>,
        issuer: impl Into<String>,
    ) -> Self {
        Self {
            realm: realm.into(),
            service: service.into(),
            issuer: issuer.into(),
            root_certificates: None,
            jwks: None,
            #[cfg(feature = "http-client")]
            jwks_url: None,
            algorithms: SigningAlgorithm::ALL.to_vec(),
            leeway: Duration::from_secs(60),
            expired_for: Duration::from_secs(24 * 60 * 60),
        }
    }

    /// Sets the file of certificates
    #[must_use]
    pub fn with_root_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.root_certificates = Some(path.into());
        self
    }

    /// Sets the file with the JSON Web Key Set
    #[must_use]
    pub fn with_jwks(mut self, path: impl Into<PathBuf>) -> Self {
        self.jwks = Some(path.into());
        self
    }

    /// Sets the URL of a JSON Web Key Set
    #[cfg(feature = "http-client")]
    #[must_use]
    pub fn with_jwks_url(mut self, url: JwksUrl) -> Self {
        self.jwks_url = Some(url);
        self
    }

    /// Sets the algorithms that are accepted
    #[must_use]
    pub fn with_algorithms(mut self, algorithms: impl Into<Vec<SigningAlgorithm>>) -> Self {
        self.algorithms = algorithms.into();
        self
    }

    /// Sets how much clocks may differ
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets how long expired tokens are told apart from others
    #[must_use]
    pub fn with_expired_for(mut self, time: Duration) -> Self {
        self.expired_for = time;
        self
    }

    fn check(&self) -> Result<(), TokenSetupError> {
        let host = ["https://", "http://"]
            .iter()
            .find_map(|scheme| self.realm.strip_prefix(scheme));
        let is_url = host
            .is_some_and(|host| !host.is_empty() && !host.starts_with(['/', '?', '#']))
            && self.realm.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_url {
            return Err(TokenSetupError::Realm {
                got: quotable(&self.realm),
            });
        }
        let is_printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if self.service.is_empty() || !self.service.bytes().all(is_printable) {
            return Err(TokenSetupError::Service {
                got: quotable(&self.service),
            });
        }
        if self.issuer.is_empty() {
            return Err(TokenSetupError::NoIssuer);
        }
        if self.algorithms.is_empty() {
            return Err(TokenSetupError::NoAlgorithm);
        }
        Ok(())
    }

    fn has_keys(&self) -> bool {
        #[cfg(feature = "http-client")]
        if self.jwks_url.is_some() {
            return true;
        }
        self.root_certificates.is_some() || self.jwks.is_some()
    }
}

/// Accepts the bearer tokens of a token service
///
/// Makes a [`Principal::Token`] of each; together with the policy [`Granted`](crate::Granted) it is
/// distribution's `auth: token`. A request without credentials is [`Principal::Anonymous`].
///
/// A token that was verified is remembered by its hash until it ends, five minutes are over, or
/// the keys change.
///
/// # Examples
///
/// ```no_run
/// use registry_auth::{Authenticator, ChallengeReason, TokenAuthenticator, TokenOptions};
/// use registry_core::route;
///
/// let options = TokenOptions::new("https://auth.example/token", "registry.example", "auth.example")
///     .with_root_certificates("/etc/registry/auth.pem");
/// let authenticator = TokenAuthenticator::new(options)?;
/// let push = route("POST", "/v2/team/app/blobs/uploads/", None)?;
/// assert_eq!(
///     authenticator.challenge(&push.access(), ChallengeReason::InsufficientScope).as_deref(),
///     Some(concat!(
///         r#"Bearer realm="https://auth.example/token",service="registry.example","#,
///         r#"scope="repository:team/app:pull,push",error="insufficient_scope""#,
///     )),
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TokenAuthenticator {
    options: TokenOptions,
    /// The issuer whose keys are trusted, where that is one of this process
    issuer: Option<Arc<TokenIssuer>>,
    /// The keys of a URL
    #[cfg(feature = "http-client")]
    published: Option<Published>,
    current: ArcSwap<Current>,
}

/// The keys in force, and what was verified with them
struct Current {
    /// The keys of the files alone
    of_files: Arc<TokenVerifier>,
    others: Others,
    /// All keys
    verifier: Arc<TokenVerifier>,
    verified: Cache<[u8; 32], Arc<Verified>, Weight>,
}

/// The keys that are not those of files, and change without being told to
#[derive(Clone)]
enum Others {
    /// There are none, or none yet
    None,
    /// Those of the issuer of this process
    Issuer(Arc<[Arc<PublicKey>]>),
    /// Those of a URL
    #[cfg(feature = "http-client")]
    Published(Arc<Trust>),
}

impl Others {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Issuer(one), Self::Issuer(other)) => Arc::ptr_eq(one, other),
            #[cfg(feature = "http-client")]
            (Self::Published(one), Self::Published(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

struct Verified {
    principal: Principal,
    /// The seconds between which it may be taken for good
    from: i64,
    until: i64,
    length: usize,
}

#[derive(Clone)]
struct Weight;

impl Weighter<[u8; 32], Arc<Verified>> for Weight {
    fn weight(&self, _: &[u8; 32], verified: &Arc<Verified>) -> u64 {
        verified.length as u64
    }
}

impl TokenAuthenticator {
    /// Checks the options and reads the files that they name
    ///
    /// Keys by URL are fetched from now on by a task of the current runtime or, where there is none yet, of
    /// the first that uses this. It ends when this is dropped.
    ///
    /// # Errors
    ///
    /// [`TokenSetupError`] says which option or file is wrong, and what was expected.
    pub fn new(options: TokenOptions) -> Result<Self, TokenSetupError> {
        options.check()?;
        if !options.has_keys() {
            return Err(TokenSetupError::NoKeys);
        }
        let of_files = Arc::new(TokenVerifier::new(&options)?);
        Ok(Self {
            #[cfg(feature = "http-client")]
            published: options.jwks_url.clone().map(Published::new).transpose()?,
            current: ArcSwap::from_pointee(Current::new(&options, of_files, Others::None)),
            options,
            issuer: None,
        })
    }

    /// Accepts the tokens of an issuer of this process
    ///
    /// Its public keys are trusted as they are at each moment, its former ones too: when it
    /// [reloads](TokenIssuer::reload) them, nothing has to be done here. No file is read.
    ///
    /// # Errors
    ///
    /// [`TokenSetupError::Realm`] for a realm that is no address, and
    /// [`TokenSetupError::ServiceOfOther`] for a service that the issuer has no tokens for.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use registry_auth::TokenAuthenticator;
    /// use registry_auth::token::{IssuerOptions, TokenIssuer};
    ///
    /// let options = IssuerOptions::new("registry.example", "registry.example", "/etc/registry/token.key");
    /// let issuer = Arc::new(TokenIssuer::new(options)?);
    /// let authenticator =
    ///     TokenAuthenticator::of_issuer(issuer, "https://registry.example/token", "registry.example")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of_issuer(
        issuer: Arc<TokenIssuer>,
        realm: impl Into<String>,
        service: impl Into<String>,
    ) -> Result<Self, TokenSetupError> {
        let options = TokenOptions::new(realm, service, issuer.name());
        options.check()?;
        if !issuer.services().contains(&options.service) {
            return Err(TokenSetupError::ServiceOfOther {
                known: issuer.services().join("`, `"),
                got: options.service,
            });
        }
        let of_files = Arc::new(TokenVerifier::new(&options)?);
        let current = Current::new(&options, of_files, Others::Issuer(issuer.keys()));
        Ok(Self {
            options,
            issuer: Some(issuer),
            #[cfg(feature = "http-client")]
            published: None,
            current: ArcSwap::from_pointee(current),
        })
    }

    /// Reads the files of keys again
    ///
    /// From then on tokens of keys that are no longer there are refused. Requests in the middle of
    /// their work go on. It reads files, so call it where that may block. One
    /// [of an issuer](TokenAuthenticator::of_issuer) has none.
    ///
    /// # Errors
    ///
    /// [`TokenSetupError`] as [`TokenAuthenticator::new`]; the old keys then stay in force.
    pub fn reload(&self) -> Result<(), TokenSetupError> {
        let of_files = Arc::new(TokenVerifier::new(&self.options)?);
        let current = Current::new(&self.options, of_files, self.others());
        self.current.store(Arc::new(current));
        Ok(())
    }

    fn others(&self) -> Others {
        #[cfg(feature = "http-client")]
        if let Some(keys) = self.published.as_ref().and_then(Published::keys) {
            return Others::Published(keys);
        }
        let issuer = self.issuer.as_ref();
        issuer.map_or(Others::None, |issuer| Others::Issuer(issuer.keys()))
    }

    /// What is in force, with the keys that the issuer or the URL has by now
    fn current(&self) -> Arc<Current> {
        let mut current = self.current.load_full();
        loop {
            let others = self.others();
            if others.is_same(&current.others) {
                return current;
            }
            let next = Current::new(&self.options, current.of_files.clone(), others);
            // Not if files were read again meanwhile: what they say now would be lost.
            self.current.compare_and_swap(&current, Arc::new(next));
            current = self.current.load_full();
        }
    }

    /// Whom a token identifies, with keys of a URL that may have to be fetched first
    #[cfg(feature = "http-client")]
    async fn identify(&self, token: &str) -> Result<Principal, AuthenticateError> {
        let Some(published) = &self.published else {
            return Ok(self.principal(token, SystemTime::now())?);
        };
        published.begun().await;
        let mut refused = match self.principal(token, SystemTime::now()) {
            Ok(principal) => return Ok(principal),
            Err(refused) => refused,
        };
        if refused.error.is_of_unknown_key() && published.ask_again().await {
            refused = match self.principal(token, SystemTime::now()) {
                Ok(principal) => return Ok(principal),
                Err(refused) => refused,
            };
        }
        // That it has expired is known of a token whose key is.
        if refused.expired.is_none()
            && let Some(retry_after) = published.retry_after(refused.error.is_of_unknown_key())
        {
            return Err(AuthenticateError::Unavailable { retry_after });
        }
        Err(refused.into())
    }

    /// Whom a token identifies
    #[cfg(not(feature = "http-client"))]
    async fn identify(&self, token: &str) -> Result<Principal, AuthenticateError> {
        Ok(self.principal(token, SystemTime::now())?)
    }

    /// What a token proves at the time `now`
    fn principal(&self, token: &str, now: SystemTime) -> Result<Principal, Refused> {
        let current = self.current();
        let hash: [u8; 32] = Sha256::digest(token).into();
        let second = seconds(now);
        if let Some(known) = current.verified.get(&hash)
            && (known.from..=known.until).contains(&second)
        {
            return Ok(known.principal.clone());
        }
        let expired_for = self.options.expired_for;
        let claims = current.verifier.examine(token, now, expired_for)?;
        let expires = current.verifier.end(&claims);
        let verified = Verified {
            principal: principal(claims),
            from: second,
            until: expires.min(second.saturating_add(REMEMBERED_FOR)),
            length: token.len(),
        };
        let principal = verified.principal.clone();
        current.verified.insert(hash, Arc::new(verified));
        Ok(principal)
    }
}

impl Current {
    fn new(options: &TokenOptions, of_files: Arc<TokenVerifier>, others: Others) -> Self {
        Self {
            verifier: match &others {
                Others::None => of_files.clone(),
                Others::Issuer(keys) => Arc::new(TokenVerifier::of_keys(
                    &options.issuer,
                    options.service.clone(),
                    keys,
                )),
                #[cfg(feature = "http-client")]
                Others::Published(keys) => Arc::new(of_files.with(keys)),
            },
            of_files,
            others,
            verified: Cache::with_weighter(1024, REMEMBERED, Weight),
        }
    }
}

impl From<Refused> for AuthenticateError {
    fn from(refused: Refused) -> Self {
        tracing::debug!(error = %refused.error, "token refused");
        match refused.expired {
            Some(claims) => Self::Expired {
                principal: principal(*claims),
            },
            None => Self::InvalidToken {
                reason: refused.error.to_string(),
            },
        }
    }
}

fn principal(claims: Claims) -> Principal {
    Principal::Token {
        grants: claims.access.iter().collect(),
        subject: Some(claims.subject).filter(|subject| !subject.is_empty()),
    }
}

#[async_trait]
impl Authenticator for TokenAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::Bearer(token) => self.identify(token.expose()).await,
            Credentials::None => Ok(Principal::Anonymous),
            // A password is for the token service, not for the registry.
            Credentials::Basic { .. } => Err(AuthenticateError::Rejected),
        }
    }

    fn challenge(&self, needed: &[Access], reason: ChallengeReason) -> Option<String> {
        let mut challenge = format!(
            "Bearer realm={},service={}",
            quoted(&self.options.realm),
            quoted(&self.options.service)
        );
        let scope: Scope = needed.iter().collect();
        if !scope.resources().is_empty() {
            challenge.push_str(&format!(",scope={}", quoted(&scope.to_string())));
        }
        let error = match reason {
            ChallengeReason::InsufficientScope => Some("insufficient_scope"),
            ChallengeReason::InvalidToken => Some("invalid_token"),
            ChallengeReason::LoginRequired => None,
        };
        if let Some(error) = error {
            challenge.push_str(&format!(",error={}", quoted(error)));
        }
        Some(challenge)
    }
}

impl fmt::Debug for TokenAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAuthenticator")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A quoted string (RFC 9110, section 5.6.4)
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// Why tokens cannot be verified with these options
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenSetupError {
    /// No algorithm is accepted
    #[error("expected at least one signing algorithm, got none; leave them out to accept all")]
    NoAlgorithm,
    /// The issuer is empty
    #[error("expected the issuer of the tokens, as in their `iss`, got nothing")]
    NoIssuer,
    /// Keys cannot be had from the URL
    #[cfg(feature = "http-client")]
    #[error(transparent)]
    JwksUrl(#[from] JwksUrlError),
    /// There are no keys
    #[error("expected a bundle of root certificates or a JSON Web Key Set, got neither")]
    NoKeys,
    /// The address of the token service is none
    #[error(
        "expected the token service's address, such as `https://auth.example/token`, as realm, got `{got}`"
    )]
    Realm {
        /// What came
        got: String,
    },
    /// The name of the service cannot be sent in a header
    #[error("expected a service name of printable ASCII characters, got `{got}`")]
    Service {
        /// What came
        got: String,
    },
    /// The issuer has no tokens for the service
    #[error("expected a service of the issuer, which are `{known}`, got `{got}`")]
    ServiceOfOther {
        /// The services of the issuer
        known: String,
        /// What came
        got: String,
    },
    /// A file of keys is of no use
    #[error(transparent)]
    Trust(#[from] TrustError),
}
