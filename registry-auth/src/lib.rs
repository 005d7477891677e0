//! Who is asking a container registry, and may they
//!
//! A request is first identified: an [`Authenticator`] turns its [`Credentials`] into a
//! [`Principal`]. Then it is authorized: a [`Policy`] answers each [`Access`] that the
//! operation needs with a [`Decision`], which always says which rule decided and why. There
//! is no default policy: whoever composes a registry names one, be it [`AllowAll`]. A registry that
//! leaves users to a token service takes a [`TokenAuthenticator`] with the policy [`Granted`].
//!
//! ```
//! use registry_auth::{AllowAll, Policy, Principal};
//! use registry_core::route;
//!
//! let operation = route("GET", "/v2/library/alpine/tags/list", None)?;
//! let decision = AllowAll.decide(&Principal::Anonymous, &operation.access()[0]);
//! assert!(decision.is_allow());
//! assert_eq!(decision.rule(), "allow-all");
//! # Ok::<(), registry_core::RouteError>(())
//! ```

pub mod acumos;
pub mod audit;
pub mod authenticator;
pub mod both;
pub mod certificate;
pub mod chain;
pub mod challenge;
pub mod explain;
pub mod htpasswd;
#[cfg(feature = "http-client")]
mod http_client;
#[cfg(feature = "http-client")]
mod invocation;
pub mod policy;
pub mod principal;
pub mod request;
pub mod rules;
pub mod service_accounts;
pub mod silly;
pub mod token;

pub use registry_core::{Access, Action, Resource};

pub use crate::audit::{Audit, AuditRecord, Audited};
pub use crate::authenticator::{
    Anyone, AuthenticateError, Authenticator, ChallengeReason, Credentials, Password,
};
pub use crate::both::Both;
pub use crate::certificate::{
    CertificateAuthenticator, CertificateKind, CertificateName, CertificateOptions,
};
pub use crate::chain::Chain;
pub use crate::challenge::{Quoted, QuotedError};
pub use crate::explain::Explanation;
pub use crate::htpasswd::Htpasswd;
pub use crate::policy::{
    AllowAll, Authenticated, AuthorizeError, Authorizer, Decision, Policy, PullOnly,
};
pub use crate::principal::Principal;
pub use crate::rules::RuleList;
pub use crate::service_accounts::{
    SecretDigest, SecretDigestError, ServiceAccount, ServiceAccountError, ServiceAccounts,
};
pub use crate::silly::Silly;
pub use crate::token::{Granted, TokenAuthenticator, TokenOptions};
