//! Who asks, and may they: what every service of this crate does before anything else

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use registry_auth::{
    Access, AuthenticateError, Authenticator, Authorizer, ChallengeReason, Credentials, Principal,
};
use registry_core::Operation;

use crate::credentials::credentials;
use crate::respond::{Cause, Failure};

/// Says who asks and who may
///
/// Cheap to clone. The services of this crate share one: a registry, a proxy in front of
/// another registry, and what answers for a web server that asks about each of its requests.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::{AllowAll, Anyone};
/// use registry_http::{AccessControl, RegistryService};
/// use registry_storage::{Memory, Store};
///
/// let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll));
/// let store = Store::new(Arc::new(Memory::new()));
/// let service = RegistryService::with_access(store, access).build();
/// ```
#[derive(Clone)]
pub struct AccessControl {
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
}

impl AccessControl {
    /// `authenticator` says who asks and `authorizer` who may
    pub fn new(authenticator: Arc<dyn Authenticator>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            authenticator,
            authorizer,
        }
    }

    /// Who asks, by the credentials of the request
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        operation: &Operation,
    ) -> Result<Principal, Failure> {
        let challenge = |reason| self.authenticator.challenge(&operation.access(), reason);
        let credentials = match credentials(headers) {
            Ok(credentials) => credentials,
            Err(_) => match challenge(ChallengeReason::LoginRequired) {
                Some(challenge) => {
                    return Err(Cause::Unauthenticated {
                        reason: "expected `Authorization: Basic` or `Bearer` with credentials, something else came".to_owned(),
                        challenge,
                    }
                    .into());
                }
                // Where no credentials are ever asked for, it does not matter which came.
                None => Credentials::None,
            },
        };
        let principal = match self.authenticator.authenticate(&credentials).await {
            Ok(principal) => principal,
            Err(error @ AuthenticateError::Unavailable { retry_after }) => {
                return Err(Cause::Unidentified { error, retry_after }.into());
            }
            Err(error) => {
                let why = match error {
                    AuthenticateError::Expired { .. } | AuthenticateError::InvalidToken { .. } => {
                        ChallengeReason::InvalidToken
                    }
                    _ => ChallengeReason::LoginRequired,
                };
                let reason = error.to_string();
                return Err(match challenge(why) {
                    Some(challenge) => Cause::Unauthenticated { reason, challenge },
                    None => Cause::Denied { reason },
                }
                .into());
            }
        };
        // docker and podman learn here, and nowhere else, that there is something to log in
        // to. Whoever brought credentials has learnt it, be they those of an anonymous token.
        if *operation == Operation::Ping
            && principal == Principal::Anonymous
            && credentials == Credentials::None
            && let Some(challenge) = challenge(ChallengeReason::LoginRequired)
        {
            return Err(Cause::Unauthenticated {
                reason: "log in to use this registry".to_owned(),
                challenge,
            }
            .into());
        }
        Ok(principal)
    }

    /// Refuses what the operation needs and the principal may not do
    pub(crate) async fn authorize(
        &self,
        principal: &Principal,
        operation: &Operation,
    ) -> Result<(), Failure> {
        let needed = operation.access();
        for access in &needed {
            let decision = self.authorizer.authorize(principal, access).await;
            let decision = decision.inspect_err(|error| {
                tracing::warn!(%principal, %access, cause = error.cause, "undecided");
            })?;
            if decision.is_allow() {
                continue;
            }
            tracing::debug!(%principal, %access, rule = decision.rule(), "denied");
            let reason = decision.reason().to_owned();
            let why = match principal {
                Principal::Anonymous => Some(ChallengeReason::LoginRequired),
                // Clients push with the token of a pull until they are told to get a better one.
                Principal::Token { grants, .. } if !grants.allow_all(&needed) => {
                    Some(ChallengeReason::InsufficientScope)
                }
                _ => None,
            };
            let challenge = why.and_then(|why| self.authenticator.challenge(&needed, why));
            return Err(match challenge {
                Some(challenge) => Cause::Unauthenticated { reason, challenge },
                None => Cause::Denied { reason },
            }
            .into());
        }
        Ok(())
    }

    /// Whether the caller may do something besides what the operation needs
    ///
    /// What cannot be known now is a no: nothing asked here is needed.
    pub(crate) async fn allows(&self, principal: &Principal, access: &Access) -> bool {
        let decision = self.authorizer.authorize(principal, access);
        decision.await.is_ok_and(|decision| decision.is_allow())
    }
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessControl")
            .field("authenticator", &self.authenticator)
            .field("authorizer", &self.authorizer)
            .finish()
    }
}
