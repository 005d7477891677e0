//! Tokens, good and hostile: what the verifier says, and what the reference registry says

mod authenticator;
mod issuer;
mod reference;
mod support;
mod table;
mod trust;
#[cfg(feature = "http-client")]
mod url;
