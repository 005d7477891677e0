//! Bearer tokens of the Docker token specification
//!
//! A registry that does not know its users itself sends them to a token service: its challenge
//! names the service ([`TokenOptions::realm`]) and the [`Scope`] that is needed. What comes back is
//! a JSON Web Token whose [`Claims`] say who the client is and what it may do. A
//! [`TokenAuthenticator`] verifies it and makes a [`Principal::Token`](crate::Principal::Token), which carries the
//! [`Grants`]; [`Granted`] is the policy that allows exactly those.
//!
//! A [`TokenIssuer`] is the other side: it signs tokens that grant what is asked for as far as an
//! [`Authorizer`](crate::Authorizer) allows it.
//!
//! What is accepted is what distribution 2.8 accepts with `auth: token`, and the keys of a JSON
//! Web Key Set besides, from a file or, with the feature `http-client`, from a URL.

mod algorithm;
mod authenticator;
mod chain_accounts;
mod claims;
mod grants;
mod issuer;
#[cfg(feature = "http-client")]
mod jwks_url;
mod key;
#[cfg(feature = "http-client")]
mod published;
mod refresh;
mod scope;
mod signing_key;
mod subject;
mod trust;
mod verifier;

pub use self::algorithm::{AlgorithmError, SigningAlgorithm};
pub use self::authenticator::{TokenAuthenticator, TokenOptions, TokenSetupError};
pub use self::chain_accounts::ChainAccounts;
pub use self::claims::{AccessEntry, Claims};
pub use self::grants::{Grant, Granted, Grants};
pub use self::issuer::{IssueError, IssuedToken, IssuerOptions, IssuerSetupError, TokenIssuer};
#[cfg(feature = "http-client")]
pub use self::jwks_url::{JwksUrl, JwksUrlError};
pub use self::refresh::Accounts;
pub use self::scope::{MAX_SCOPE, ResourceActions, Scope, ScopeError};
pub use self::signing_key::{SigningKeyError, SigningKeyProblem};
pub use self::subject::BySubject;
pub use self::trust::{TrustError, TrustProblem};
pub use self::verifier::{MAX_TOKEN, TokenError, TokenVerifier};
