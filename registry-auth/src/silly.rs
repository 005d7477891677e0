//! Letting in whoever brings any credentials, for tests of clients

use async_trait::async_trait;
use registry_core::Access;

use crate::authenticator::{AuthenticateError, Authenticator, ChallengeReason, Credentials};
use crate::challenge::Quoted;
use crate::principal::Principal;

/// Takes every request that brings any credentials as the user `silly`
///
/// It checks nothing: distribution has it, under this name, to test how clients react to a
/// challenge, and a registry that holds anything of worth must not use it. Together with
/// [`Authenticated`](crate::Authenticated) it does what distribution's does.
///
/// # Examples
///
/// ```
/// use registry_auth::{Authenticator, Credentials, Password, Principal, Silly};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), registry_auth::QuotedError> {
/// let silly = Silly::new("https://auth.example/token".parse()?, "registry".parse()?);
/// let anything = Credentials::Bearer(Password::new("anything"));
/// assert_eq!(silly.authenticate(&anything).await, Ok(Principal::user("silly")));
/// assert_eq!(silly.authenticate(&Credentials::None).await, Ok(Principal::Anonymous));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Silly {
    realm: Quoted,
    service: Quoted,
}

impl Silly {
    /// With the realm and the service that its challenge names
    pub fn new(realm: Quoted, service: Quoted) -> Self {
        Self { realm, service }
    }
}

#[async_trait]
impl Authenticator for Silly {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        Ok(match credentials {
            Credentials::None => Principal::Anonymous,
            _ => Principal::user("silly"),
        })
    }

    fn challenge(&self, needed: &[Access], _: ChallengeReason) -> Option<String> {
        let Self { realm, service } = self;
        let mut challenge = format!("Bearer realm={realm},service={service}");
        if !needed.is_empty() {
            let scopes: Vec<_> = needed.iter().map(ToString::to_string).collect();
            // What a scope is made of needs no escapes: the grammar of names has none.
            challenge.push_str(&format!(",scope=\"{}\"", scopes.join(" ")));
        }
        Some(challenge)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::route;

    use super::*;
    use crate::{ChallengeReason, Password};

    fn silly() -> Silly {
        Silly::new(
            "silly \"realm\"".parse().unwrap(),
            "silly-service".parse().unwrap(),
        )
    }

    #[tokio::test]
    async fn any_credentials_do_and_none_are_nobody() {
        for credentials in [
            Credentials::Bearer(Password::new("x")),
            Credentials::Basic {
                user: "ada".to_owned(),
                password: Password::new(""),
            },
        ] {
            assert_eq!(
                silly().authenticate(&credentials).await,
                Ok(Principal::user("silly"))
            );
        }
        assert_eq!(
            silly().authenticate(&Credentials::None).await,
            Ok(Principal::Anonymous)
        );
    }

    #[test]
    fn the_challenge_names_the_scopes() {
        let challenge = |method, path| {
            silly()
                .challenge(
                    &route(method, path, None).unwrap().access(),
                    ChallengeReason::LoginRequired,
                )
                .unwrap()
        };
        assert_eq!(
            challenge("GET", "/v2/"),
            r#"Bearer realm="silly \"realm\"",service="silly-service""#
        );
        assert_eq!(
            challenge("POST", "/v2/team/app/blobs/uploads/"),
            r#"Bearer realm="silly \"realm\"",service="silly-service",scope="repository:team/app:pull repository:team/app:push""#
        );
    }
}
