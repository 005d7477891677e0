//! From a token to its claims

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::token::algorithm::{AlgorithmError, SigningAlgorithm};
use crate::token::authenticator::TokenOptions;
use crate::token::claims::Claims;
use crate::token::key::PublicKey;
use crate::token::scope::quotable;
use crate::token::trust::{Trust, TrustError};

/// The most bytes of a token
///
/// With room for a chain of certificates and some hundred grants; more does not fit into the
/// headers that servers take.
pub const MAX_TOKEN: usize = 64 * 1024;

/// Verifies tokens: signature, issuer, audience and times
///
/// Made of a [`TokenOptions`]; a [`TokenAuthenticator`](crate::TokenAuthenticator) holds one and
/// remembers its answers. Pure: the time is an argument.
///
/// # Examples
///
/// ```no_run
/// use registry_auth::TokenOptions;
/// use registry_auth::token::TokenVerifier;
///
/// let options = TokenOptions::new("https://auth.example/token", "registry.example", "auth.example")
///     .with_jwks("/etc/registry/keys.json");
/// let verifier = TokenVerifier::new(&options)?;
/// let error = verifier.verify("no token", std::time::SystemTime::now()).unwrap_err();
/// assert!(error.to_string().contains("expected a JSON Web Token"));
/// # Ok::<(), registry_auth::token::TrustError>(())
/// ```
#[derive(Debug)]
pub struct TokenVerifier {
    issuer: String,
    service: String,
    algorithms: Vec<SigningAlgorithm>,
    leeway: Duration,
    trust: Trust,
}

impl TokenVerifier {
    /// Reads the files that the options name; a URL of keys is for a
    /// [`TokenAuthenticator`](crate::TokenAuthenticator) alone
    ///
    /// # Errors
    ///
    /// [`TrustError`] names the file and says what is wrong with it.
    pub fn new(options: &TokenOptions) -> Result<Self, TrustError> {
        let trust = Trust::load(
            options.root_certificates.as_deref(),
            options.jwks.as_deref(),
        )?;
        Ok(Self {
            issuer: options.issuer.clone(),
            service: options.service.clone(),
            algorithms: options.algorithms.clone(),
            leeway: options.leeway,
            trust,
        })
    }

    /// The same with these keys besides
    #[cfg(feature = "http-client")]
    pub(super) fn with(&self, others: &Trust) -> Self {
        Self {
            issuer: self.issuer.clone(),
            service: self.service.clone(),
            algorithms: self.algorithms.clone(),
            leeway: self.leeway,
            trust: self.trust.with(others),
        }
    }

    /// Of tokens with this issuer and audience that are signed with one of these keys
    pub(super) fn of_keys(issuer: &str, audience: String, keys: &[Arc<PublicKey>]) -> Self {
        Self {
            issuer: issuer.to_owned(),
            service: audience,
            algorithms: SigningAlgorithm::ALL.to_vec(),
            // Replicas have clocks of their own.
            leeway: Duration::from_secs(60),
            trust: Trust::of_keys(keys),
        }
    }

    /// The claims of a token, if it is to be accepted at the time `now`
    ///
    /// The signing key is, as in distribution, that of the certificate chain in the header
    /// (`x5c`), which must lead to a root; else the one in the header (`jwk`), which must be
    /// known or have such a chain; else the one whose id the header gives (`kid`).
    ///
    /// # Errors
    ///
    /// [`TokenError`] says what is wrong with it.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        let claims = self.signed(token, now)?;
        self.check(&claims, seconds(now))?;
        Ok(claims)
    }

    /// As [`TokenVerifier::verify`], and what a token says that was good until it expired, if that is
    /// not longer ago than `expired_for`
    pub(super) fn examine(
        &self,
        token: &str,
        now: SystemTime,
        expired_for: Duration,
    ) -> Result<Claims, Refused> {
        let claims = self.signed(token, now)?;
        let now = seconds(now);
        let Err(error) = self.check(&claims, now) else {
            return Ok(claims);
        };
        let lately =
            |late: i64| u64::try_from(late).is_ok_and(|late| late <= expired_for.as_secs());
        let is_lately = matches!(error, TokenError::Expired { late } if lately(late));
        // One that begins after its end was never good.
        let expired = (is_lately && self.check_begin(&claims, now).is_ok()).then(|| claims.into());
        Err(Refused { error, expired })
    }

    /// The claims of a token that is signed with a trusted key
    fn signed(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLarge {
                length: token.len(),
            });
        }
        let malformed = |part| move |reason| TokenError::Malformed { part, reason };
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Parts)?;
        let (header, claims) = message.split_once('.').ok_or(TokenError::Parts)?;
        if claims.contains('.') {
            return Err(TokenError::Parts);
        }
        let header: Header = decode(header).map_err(malformed("header"))?;
        if header.critical.is_some() {
            return Err(TokenError::Critical);
        }
        let algorithm: SigningAlgorithm = header.algorithm.parse()?;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::AlgorithmNotAccepted { algorithm });
        }

        let untrusted = |reason| TokenError::Untrusted { reason };
        let key = if let Some(chain) = header.chain.filter(|chain| !chain.is_empty()) {
            self.trust.key_by_chain(&chain, now).map_err(untrusted)?
        } else if let Some(jwk) = header.key {
            self.trust
                .key_by_value(&jwk, now)
                .map_err(untrusted)?
                .ok_or(TokenError::ForeignKey)?
        } else if let Some(id) = header.key_id.filter(|id| !id.is_empty()) {
            self.trust
                .key_by_id(&id)
                .ok_or_else(|| TokenError::UnknownKey { id: quotable(&id) })?
        } else {
            return Err(TokenError::NoKey);
        };
        if !key.fits(algorithm) {
            return Err(TokenError::AlgorithmOfOtherKey { algorithm });
        }
        if !key.verifies(algorithm, message, signature) {
            return Err(TokenError::Signature);
        }
        decode(claims).map_err(malformed("claims"))
    }

    /// The last second at which verified claims are accepted
    pub(super) fn end(&self, claims: &Claims) -> i64 {
        claims
            .expires
            .map_or(i64::MIN, |expires| expires.saturating_add(self.leeway()))
    }

    fn leeway(&self) -> i64 {
        i64::try_from(self.leeway.as_secs()).unwrap_or(i64::MAX)
    }

    fn check(&self, claims: &Claims, now: i64) -> Result<(), TokenError> {
        let leeway = self.leeway();
        if claims.issuer != self.issuer {
            return Err(TokenError::Issuer {
                expected: self.issuer.clone(),
                got: quotable(&claims.issuer),
            });
        }
        if !claims.audience.contains(&self.service) {
            return Err(TokenError::Audience {
                expected: self.service.clone(),
                got: quotable(&claims.audience.join(" ")),
            });
        }
        let expires = claims.expires.ok_or(TokenError::NoExpiry)?;
        let late = now.saturating_sub(expires);
        if late > leeway {
            return Err(TokenError::Expired { late });
        }
        self.check_begin(claims, now)
    }

    fn check_begin(&self, claims: &Claims, now: i64) -> Result<(), TokenError> {
        let begins = [claims.not_before, claims.issued_at];
        let early = begins
            .into_iter()
            .flatten()
            .map(|begin| begin.saturating_sub(now))
            .max();
        match early {
            Some(early) if early > self.leeway() => Err(TokenError::NotYetValid { early }),
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "http-client")]
impl TokenError {
    /// Whether the token could be good, were there more keys
    pub(super) fn is_of_unknown_key(&self) -> bool {
        matches!(self, Self::ForeignKey | Self::UnknownKey { .. })
    }
}

/// Why a token is not accepted, and what it says if it was good until it expired
pub(super) struct Refused {
    pub(super) error: TokenError,
    pub(super) expired: Option<Box<Claims>>,
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        Self {
            error,
            expired: None,
        }
    }
}

/// Seconds since 1970
pub(super) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

/// The header of a token (RFC 7515, section 4.1)
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "alg")]
    algorithm: String,
    #[serde(rename = "kid")]
    key_id: Option<String>,
    #[serde(rename = "jwk")]
    key: Option<Jwk>,
    #[serde(rename = "x5c")]
    chain: Option<Vec<String>>,
    /// Extensions that must be understood; there are none that would be
    #[serde(rename = "crit")]
    critical: Option<Vec<String>>,
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, String> {
    let json = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| "it is not base64url".to_owned())?;
    serde_json::from_slice(&json).map_err(|error| quotable(&error.to_string()))
}

/// Why a token is not accepted
///
/// The texts are for whoever sent the token, and say nothing that they could not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Its algorithm is none that is known
    #[error(transparent)]
    Algorithm(#[from] AlgorithmError),
    /// Its algorithm is not among those accepted here
    #[error("tokens signed with {algorithm} are not accepted here")]
    AlgorithmNotAccepted {
        /// The algorithm
        algorithm: SigningAlgorithm,
    },
    /// Its algorithm is not one of its key
    #[error("its key does not sign with {algorithm}")]
    AlgorithmOfOtherKey {
        /// The algorithm
        algorithm: SigningAlgorithm,
    },
    /// It is for another service
    #[error("it is not for the service `{expected}`, but for `{got}`")]
    Audience {
        /// The service here
        expected: String,
        /// The services that it is for
        got: String,
    },
    /// It wants extensions understood that are not
    #[error("its header has extensions (`crit`) that are not understood")]
    Critical,
    /// It is too old
    #[error("it expired {late} seconds ago")]
    Expired {
        /// How long ago, in seconds
        late: i64,
    },
    /// It brings its key along, which is not known
    #[error("the key in its header is not among those trusted")]
    ForeignKey,
    /// It is of another issuer
    #[error("its issuer is not `{expected}`, but `{got}`")]
    Issuer {
        /// The issuer that is trusted
        expected: String,
        /// Who issued it
        got: String,
    },
    /// A part of it cannot be read
    #[error("its {part} cannot be read: {reason}")]
    Malformed {
        /// Which part
        part: &'static str,
        /// What is wrong with it
        reason: String,
    },
    /// It does not say until when it is valid
    #[error("it does not say when it expires (`exp`)")]
    NoExpiry,
    /// It does not say which key it is signed with
    #[error("its header names no key: expected one of `kid`, `jwk` and `x5c`")]
    NoKey,
    /// It is too young
    #[error("it is valid in {early} seconds only")]
    NotYetValid {
        /// In how many seconds
        early: i64,
    },
    /// It is not made of three parts
    #[error("expected a JSON Web Token, which has three parts joined by dots")]
    Parts,
    /// The signature is not one of its key
    #[error("its signature is wrong")]
    Signature,
    /// It is too long
    #[error("expected at most {MAX_TOKEN} bytes, got {length}")]
    TooLarge {
        /// How many bytes came
        length: usize,
    },
    /// The key is not known
    #[error("no trusted key has the id `{id}`")]
    UnknownKey {
        /// The id in its header
        id: String,
    },
    /// The key in it is not trusted
    #[error("{reason}")]
    Untrusted {
        /// Why not
        reason: String,
    },
}
