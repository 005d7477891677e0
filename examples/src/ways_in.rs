//! Several ways to log in to one registry

use std::sync::Arc;

use async_trait::async_trait;
use registry_auth::{
    Access, AuthenticateError, Authenticator, ChallengeReason, Credentials, Principal,
};

/// Takes what one of several authenticators takes, asked in their order
///
/// Passwords are for those that know people, tokens for the one that knows tokens, if there is
/// one. A password that none accepts is wrong, unless one could not be asked: then that is the
/// answer, since it might have accepted it. Clients are asked for a token where tokens are taken.
#[derive(Debug)]
pub struct WaysIn {
    people: Vec<Arc<dyn Authenticator>>,
    tokens: Option<Arc<dyn Authenticator>>,
}

impl WaysIn {
    /// These ways, of which there is at least one
    ///
    /// `None` when there is none.
    pub fn new(
        people: Vec<Arc<dyn Authenticator>>,
        tokens: Option<Arc<dyn Authenticator>>,
    ) -> Option<Arc<dyn Authenticator>> {
        match (&people[..], &tokens) {
            ([], None) => None,
            ([only], None) => Some(only.clone()),
            ([], Some(tokens)) => Some(tokens.clone()),
            _ => Some(Arc::new(Self { people, tokens })),
        }
    }
}

#[async_trait]
impl Authenticator for WaysIn {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        self.authenticate_with(credentials, None).await
    }

    async fn authenticate_with(
        &self,
        credentials: &Credentials,
        certificate: Option<&[u8]>,
    ) -> Result<Principal, AuthenticateError> {
        if let (Credentials::Bearer(_), Some(tokens)) = (credentials, &self.tokens) {
            return tokens.authenticate_with(credentials, certificate).await;
        }
        let mut answer = Err(AuthenticateError::Rejected);
        for people in &self.people {
            match people.authenticate_with(credentials, certificate).await {
                // Somebody is more than nobody, of whom another may know who it is.
                Ok(Principal::Anonymous) => answer = Ok(Principal::Anonymous),
                Ok(somebody) => return Ok(somebody),
                Err(AuthenticateError::Rejected) => {}
                Err(error) => answer = Err(error),
            }
        }
        match (credentials, answer) {
            // Nothing came, so nothing was wrong.
            (Credentials::None, Err(AuthenticateError::Rejected)) => Ok(Principal::Anonymous),
            (_, answer) => answer,
        }
    }

    fn challenge(&self, needed: &[Access], reason: ChallengeReason) -> Option<String> {
        let mut ways = self.tokens.iter().chain(&self.people);
        ways.find_map(|way| way.challenge(needed, reason))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use registry_auth::Password;

    use super::*;

    /// Knows one user, whose password is the name
    #[derive(Debug)]
    struct Knows(&'static str);

    #[async_trait]
    impl Authenticator for Knows {
        async fn authenticate(
            &self,
            credentials: &Credentials,
        ) -> Result<Principal, AuthenticateError> {
            match (self.0, credentials) {
                ("token", Credentials::Bearer(_)) => Ok(Principal::user("bearer")),
                ("down", Credentials::Basic { .. }) => Err(AuthenticateError::Unavailable {
                    retry_after: Duration::from_secs(1),
                }),
                (_, Credentials::None) => Ok(Principal::Anonymous),
                (name, Credentials::Basic { user, .. }) if user == name => {
                    Ok(Principal::user(name))
                }
                _ => Err(AuthenticateError::Rejected),
            }
        }

        fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
            Some(self.0.to_owned())
        }
    }

    fn ways(people: &[&'static str], tokens: Option<&'static str>) -> Arc<dyn Authenticator> {
        let make = |name: &'static str| -> Arc<dyn Authenticator> { Arc::new(Knows(name)) };
        WaysIn::new(
            people.iter().map(|name| make(name)).collect(),
            tokens.map(make),
        )
        .unwrap()
    }

    fn basic(user: &str) -> Credentials {
        Credentials::Basic {
            user: user.to_owned(),
            password: Password::new(user),
        }
    }

    #[tokio::test]
    async fn each_way_is_a_way_in() {
        assert!(WaysIn::new(Vec::new(), None).is_none());
        let both = ways(&["ada", "bob"], Some("token"));
        for (credentials, expected) in [
            (basic("ada"), Ok(Principal::user("ada"))),
            (basic("bob"), Ok(Principal::user("bob"))),
            (basic("eve"), Err(AuthenticateError::Rejected)),
            (Credentials::None, Ok(Principal::Anonymous)),
            (
                Credentials::Bearer(Password::new("x")),
                Ok(Principal::user("bearer")),
            ),
        ] {
            assert_eq!(both.authenticate(&credentials).await, expected);
        }
        let challenge =
            |ways: &dyn Authenticator| ways.challenge(&[], ChallengeReason::LoginRequired);
        assert_eq!(challenge(&*both).as_deref(), Some("token"));
        let people = ways(&["ada", "bob"], None);
        assert_eq!(challenge(&*people).as_deref(), Some("ada"));
        let token = Credentials::Bearer(Password::new("x"));
        let refused = people.authenticate(&token).await;
        assert_eq!(refused, Err(AuthenticateError::Rejected));
    }

    #[tokio::test]
    async fn who_could_not_be_asked_might_have_said_yes() {
        for order in [["down", "bob"], ["bob", "down"]] {
            let ways = ways(&order, None);
            let bob = ways.authenticate(&basic("bob")).await;
            assert_eq!(bob, Ok(Principal::user("bob")), "{order:?}");
            let eve = ways.authenticate(&basic("eve")).await;
            assert!(
                matches!(eve, Err(AuthenticateError::Unavailable { .. })),
                "{order:?}: {eve:?}"
            );
        }
    }
}
