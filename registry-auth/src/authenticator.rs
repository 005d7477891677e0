//! From the credentials of a request to a principal

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use registry_core::Access;

use crate::principal::Principal;

/// Finds out who sent a request
///
/// # Examples
///
/// ```
/// use registry_auth::{Anyone, Authenticator, Credentials, Principal};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let principal = Anyone.authenticate(&Credentials::None).await;
/// assert_eq!(principal, Ok(Principal::Anonymous));
/// # }
/// ```
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// The principal that the credentials prove
    ///
    /// # Errors
    ///
    /// [`AuthenticateError::Rejected`] or [`AuthenticateError::InvalidToken`] when they prove
    /// nothing (the answer is 401), and [`AuthenticateError::Unavailable`] when it cannot be known now (503, never an allow).
    async fn authenticate(&self, credentials: &Credentials)
    -> Result<Principal, AuthenticateError>;

    /// The principal that the credentials prove, or the certificate that the client showed
    ///
    /// `certificate` is the client's own, in DER, of a connection whose handshake proved that the
    /// client has its key, and that an authority which the server trusts has signed it. Which of
    /// the two goes first is the authenticator's to say; one that reads no certificates only looks
    /// at the credentials. Without a certificate this is [`Authenticator::authenticate`].
    ///
    /// # Errors
    ///
    /// As [`Authenticator::authenticate`].
    async fn authenticate_with(
        &self,
        credentials: &Credentials,
        certificate: Option<&[u8]>,
    ) -> Result<Principal, AuthenticateError> {
        let _ = certificate;
        self.authenticate(credentials).await
    }

    /// Whether nobody else is to be asked about the password of this user name
    ///
    /// By default no name is owned. See [`Chain`](crate::Chain) for what follows from it.
    fn owns(&self, user: &str) -> bool {
        let _ = user;
        false
    }

    /// The `WWW-Authenticate` value with which a client is asked for credentials (RFC 9110,
    /// section 11.6.1)
    ///
    /// `needed` is what the refused request asked for, `reason` why it was refused. `None` where
    /// no credentials can help.
    fn challenge(&self, needed: &[Access], reason: ChallengeReason) -> Option<String>;
}

/// Why a client is asked for credentials
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChallengeReason {
    /// The token is good, but does not grant what is needed
    InsufficientScope,
    /// The token is not accepted
    InvalidToken,
    /// There were no credentials, or they were wrong
    LoginRequired,
}

/// What a request brings to prove its origin
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// User name and password (RFC 7617)
    Basic {
        /// The user name
        user: String,
        /// The password
        password: Password,
    },
    /// A bearer token (RFC 6750)
    Bearer(Password),
    /// Nothing
    None,
}

/// A secret, which `Debug` does not show
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a secret
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Why there is no principal
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The token was good until it expired
    ///
    /// All else about it is as it should be, its signature included: it says whom it was for. What
    /// was begun with it may be ended by whoever brings it.
    #[error("the token has expired; get a new one")]
    Expired {
        /// Whom it identified, and with what grants
        principal: Principal,
    },
    /// The token is not accepted
    #[error("the token was not accepted: {reason}; get a new one")]
    InvalidToken {
        /// What is wrong with it, without any of its secrets
        reason: String,
    },
    /// The credentials prove nothing
    #[error("the credentials were not accepted; log in again")]
    Rejected,
    /// It cannot be known now
    #[error("who you are cannot be checked at the moment; try again in {} seconds", .retry_after.as_secs())]
    Unavailable {
        /// When to ask again
        retry_after: Duration,
    },
}

/// Takes every request as anonymous, whatever credentials it brings
///
/// For registries that everyone may use: `docker login` succeeds with any password, as it
/// does on the reference registry without authentication.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anyone;

#[async_trait]
impl Authenticator for Anyone {
    async fn authenticate(&self, _: &Credentials) -> Result<Principal, AuthenticateError> {
        Ok(Principal::Anonymous)
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let credentials = [
            Credentials::Bearer(Password::new("hunter2")),
            Credentials::Basic {
                user: "ada".into(),
                password: Password::new("hunter2"),
            },
        ];
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
