//! Refresh tokens: what a client keeps instead of a password

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::authenticator::AuthenticateError;
use crate::principal::Principal;

/// What the audience of a refresh token begins with; its service follows
///
/// It makes it a token that no registry accepts.
pub(super) const AUDIENCE: &str = "refresh:";

/// The accounts whose refresh tokens are still good
///
/// A refresh token is signed and stored nowhere, so that any replica of a token service can verify
/// it. What it cannot say is whether the account is still there, what its roles are by now, and
/// whether its logins were called off since. That is asked here each time one is used.
///
/// # Examples
///
/// ```
/// use std::time::SystemTime;
///
/// use async_trait::async_trait;
/// use registry_auth::token::Accounts;
/// use registry_auth::{AuthenticateError, Principal};
///
/// #[derive(Debug)]
/// struct OnlyAda {
///     password_changed: SystemTime,
/// }
///
/// #[async_trait]
/// impl Accounts for OnlyAda {
///     async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
///         match name {
///             "ada" if since >= self.password_changed => Ok(Principal::user("ada")),
///             _ => Err(AuthenticateError::Rejected),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Accounts: fmt::Debug + Send + Sync + 'static {
    /// The account of this name, whose owner logged in at `since`, to the second
    ///
    /// # Errors
    ///
    /// [`AuthenticateError::Rejected`] when there is no such account any more, or when a login of
    /// that time no longer counts, as after a change of the password.
    /// [`AuthenticateError::Unavailable`] when it cannot be known now (503, never an allow).
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError>;
}
