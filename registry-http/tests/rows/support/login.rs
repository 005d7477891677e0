//! Authenticators and policies made for one test each

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use registry_auth::token::{AccessEntry, ResourceActions};
use registry_auth::{
    Access, AuthenticateError, Authenticator, ChallengeReason, Credentials, Decision, Policy,
    Principal,
};

type Check = dyn Fn(&Credentials) -> Result<Principal, AuthenticateError> + Send + Sync;

type Challenge = fn(&[Access], ChallengeReason) -> String;

/// An authenticator of two closures
pub(crate) struct Login {
    challenge: Challenge,
    check: Box<Check>,
}

impl Login {
    pub(crate) fn new(
        challenge: Challenge,
        check: impl Fn(&Credentials) -> Result<Principal, AuthenticateError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            challenge,
            check: Box::new(check),
        }
    }

    /// Knows `ada` with the password `love:lace`, by Basic
    pub(crate) fn ada() -> Self {
        Self::new(
            |_, _| "Basic realm=\"test\"".to_owned(),
            |credentials| match credentials {
                Credentials::None => Ok(Principal::Anonymous),
                Credentials::Basic { user, password }
                    if user == "ada" && password.expose() == "love:lace" =>
                {
                    Ok(Principal::user(user))
                }
                _ => Err(AuthenticateError::Rejected),
            },
        )
    }

    /// Takes the scope itself for a token that grants it
    pub(crate) fn scopes() -> Self {
        Self::new(bearer_challenge, |credentials| match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Bearer(token) => match token.expose().parse::<ResourceActions>() {
                Ok(scope) => Ok(Principal::Token {
                    subject: None,
                    grants: [&AccessEntry::from(&scope)].into_iter().collect(),
                }),
                Err(error) => Err(AuthenticateError::InvalidToken {
                    reason: error.to_string(),
                }),
            },
            _ => Err(AuthenticateError::Rejected),
        })
    }

    /// Knows the token `good`, by Bearer
    pub(crate) fn token() -> Self {
        Self::new(bearer_challenge, |credentials| match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Bearer(token) if token.expose() == "good" => Ok(Principal::user("ada")),
            _ => Err(AuthenticateError::Rejected),
        })
    }
}

/// A challenge with all that was asked for in it
pub(crate) fn bearer_challenge(needed: &[Access], reason: ChallengeReason) -> String {
    let scopes: Vec<String> = needed.iter().map(ToString::to_string).collect();
    let error = match reason {
        ChallengeReason::InsufficientScope => ",error=\"insufficient_scope\"",
        ChallengeReason::InvalidToken => ",error=\"invalid_token\"",
        _ => "",
    };
    format!(
        "Bearer realm=\"https://auth.example/token\",service=\"test\",scope=\"{}\"{error}",
        scopes.join(" ")
    )
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl Authenticator for Login {
    // What `#[async_trait]` makes of an `async fn`.
    fn authenticate<'a, 'b, 'c>(
        &'a self,
        credentials: &'b Credentials,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, AuthenticateError>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(std::future::ready((self.check)(credentials)))
    }

    fn challenge(&self, needed: &[Access], reason: ChallengeReason) -> Option<String> {
        Some((self.challenge)(needed, reason))
    }
}

/// The `Authorization` of a user: the few that tests need, encoded by hand
pub(crate) fn basic(user: &str, password: &str) -> &'static str {
    match (user, password) {
        ("ada", "love:lace") => "Basic YWRhOmxvdmU6bGFjZQ==",
        ("ada", "wrong") => "Basic YWRhOndyb25n",
        _ => panic!("encode `{user}:{password}` first"),
    }
}

/// A policy of one function: whether the principal may do it
#[derive(Debug)]
pub(crate) struct Rules(pub(crate) fn(&Principal, &Access) -> bool);

impl Policy for Rules {
    fn decide(&self, principal: &Principal, access: &Access) -> Decision {
        match (self.0)(principal, access) {
            true => Decision::allow("rules", "the test allows it"),
            false => Decision::deny("rules", "the test denies it"),
        }
    }
}

/// Allows everything and remembers what was asked
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded(Arc<Mutex<Vec<String>>>);

impl Recorded {
    /// What was asked since the last call
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Policy for Recorded {
    fn decide(&self, _: &Principal, access: &Access) -> Decision {
        self.0.lock().unwrap().push(access.to_string());
        Decision::allow("recorded", "the test allows it")
    }
}
