//! Several authenticators, asked one after the other

use std::sync::Arc;

use async_trait::async_trait;
use registry_core::Access;

use crate::authenticator::{AuthenticateError, Authenticator, ChallengeReason, Credentials};
use crate::principal::Principal;

/// Takes whom one of several authenticators vouches for
///
/// They are asked in their order, and the first that vouches wins. One that rejects passes on to the
/// next. When none vouches, the answer is the one that tells the most:
///
/// 1. [`Expired`](AuthenticateError::Expired): somebody issued this very token.
/// 2. [`Unavailable`](AuthenticateError::Unavailable): somebody who might vouch cannot be asked now. A
///    plain rejection would make clients forget a login that is good.
/// 3. The first [`InvalidToken`](AuthenticateError::InvalidToken), then [`Rejected`](AuthenticateError::Rejected).
///
/// A request without credentials is anonymous unless one of them takes its certificate. Credentials that
/// were sent on purpose decide alone: where they are wrong, no certificate makes up for it.
///
/// # Names that are owned
///
/// A user name that one of them [owns](Authenticator::owns), such as that of a
/// [service account](crate::ServiceAccounts), is for it alone, wherever in the chain it stands. Nobody can use it to try
/// passwords on the others, and no build with an old secret gets a user of that name blocked
/// elsewhere.
///
/// # The challenge
///
/// A response has one challenge, for docker reads one. It is that of the first that has any, unless it
/// is about a token: then of the first that asks for tokens. So put the one first whose
/// credentials docker is to bring. With tokens first it gets them from the token service, and the
/// others serve clients that send a password without being asked.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::{
///     Authenticator, Chain, Credentials, Password, Principal, ServiceAccount, ServiceAccounts, Silly,
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = Password::new("d81f1a6c2b7e49d0a3c5");
/// let build = ServiceAccount::with_secret("build", &secret)?;
/// let services = ServiceAccounts::new("Registry".parse()?, [build])?;
/// let others = Silly::new("https://auth.example/token".parse()?, "registry".parse()?);
/// let chain = Chain::new([Arc::new(services) as Arc<dyn Authenticator>, Arc::new(others)]);
///
/// let basic = |user: &str, password| Credentials::Basic { user: user.into(), password };
/// let build = chain.authenticate(&basic("build", secret.clone())).await?;
/// assert_eq!(build, Principal::service("build"));
/// assert!(chain.authenticate(&basic("build", Password::new("guess"))).await.is_err());
/// assert_eq!(chain.authenticate(&basic("ada", secret)).await?, Principal::user("silly"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Chain {
    links: Vec<Arc<dyn Authenticator>>,
}

impl Chain {
    /// Of these, asked in this order
    ///
    /// One of none rejects all credentials.
    pub fn new(links: impl IntoIterator<Item = Arc<dyn Authenticator>>) -> Self {
        Self {
            links: links.into_iter().collect(),
        }
    }

    /// Those who are to be asked about these credentials
    fn asked(&self, credentials: &Credentials) -> &[Arc<dyn Authenticator>] {
        if let Credentials::Basic { user, .. } = credentials
            && let Some(index) = self.links.iter().position(|link| link.owns(user))
        {
            return &self.links[index..=index];
        }
        &self.links
    }
}

#[async_trait]
impl Authenticator for Chain {
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
        let has_none = matches!(credentials, Credentials::None);
        let certificate = certificate.filter(|_| has_none);
        let mut most: Option<AuthenticateError> = None;
        for link in self.asked(credentials) {
            match link.authenticate_with(credentials, certificate).await {
                // That is no more than what it is without: the next may know the certificate.
                Ok(Principal::Anonymous) if has_none => {}
                Ok(principal) => return Ok(principal),
                Err(error) => {
                    if most.as_ref().is_none_or(|most| tells(&error) > tells(most)) {
                        most = Some(error);
                    }
                }
            }
        }
        match most {
            Some(error) => Err(error),
            None if has_none => Ok(Principal::Anonymous),
            None => Err(AuthenticateError::Rejected),
        }
    }

    fn owns(&self, user: &str) -> bool {
        self.links.iter().any(|link| link.owns(user))
    }

    fn challenge(&self, needed: &[Access], reason: ChallengeReason) -> Option<String> {
        let mut challenges: Vec<_> = self
            .links
            .iter()
            .filter_map(|link| link.challenge(needed, reason))
            .collect();
        let of_tokens = match reason {
            ChallengeReason::LoginRequired => None,
            ChallengeReason::InsufficientScope | ChallengeReason::InvalidToken => challenges
                .iter()
                .position(|challenge| challenge.starts_with("Bearer ")),
        };
        let chosen = of_tokens.unwrap_or(0);
        (chosen < challenges.len()).then(|| challenges.swap_remove(chosen))
    }
}

/// How much an error tells, see [`Chain`]
fn tells(error: &AuthenticateError) -> u8 {
    match error {
        AuthenticateError::Expired { .. } => 3,
        AuthenticateError::Unavailable { .. } => 2,
        AuthenticateError::InvalidToken { .. } => 1,
        AuthenticateError::Rejected => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::Password;

    type Answer = Result<Principal, AuthenticateError>;

    /// Answers always the same, and counts how often it was asked
    #[derive(Debug)]
    struct Link {
        explicit: Answer,
        certificate: Answer,
        owned: &'static str,
        challenge: Option<&'static str>,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl Authenticator for Link {
        async fn authenticate(&self, credentials: &Credentials) -> Answer {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match credentials {
                Credentials::None => Ok(Principal::Anonymous),
                _ => self.explicit.clone(),
            }
        }

        async fn authenticate_with(&self, credentials: &Credentials, der: Option<&[u8]>) -> Answer {
            match der {
                Some(_) => self.certificate.clone(),
                None => self.authenticate(credentials).await,
            }
        }

        fn owns(&self, user: &str) -> bool {
            user == self.owned
        }

        fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
            self.challenge.map(ToOwned::to_owned)
        }
    }

    fn link(explicit: Answer) -> Link {
        Link {
            explicit,
            certificate: Ok(Principal::Anonymous),
            owned: "",
            challenge: None,
            asked: AtomicUsize::new(0),
        }
    }

    fn chain(links: &[&Arc<Link>]) -> Chain {
        Chain::new(
            links
                .iter()
                .map(|link| Arc::clone(link) as Arc<dyn Authenticator>),
        )
    }

    fn basic(user: &str) -> Credentials {
        Credentials::Basic {
            user: user.to_owned(),
            password: Password::new("p"),
        }
    }

    fn is(name: &str) -> Answer {
        Ok(Principal::user(name))
    }

    const REJECTED: Answer = Err(AuthenticateError::Rejected);
    const DOWN: Answer = Err(AuthenticateError::Unavailable {
        retry_after: Duration::from_secs(3),
    });

    #[tokio::test]
    async fn the_first_that_vouches_wins_and_otherwise_what_tells_the_most() {
        let invalid = |reason: &str| -> Answer {
            Err(AuthenticateError::InvalidToken {
                reason: reason.to_owned(),
            })
        };
        let expired: Answer = Err(AuthenticateError::Expired {
            principal: Principal::user("ada"),
        });
        let cases: Vec<(Vec<Answer>, Answer)> = vec![
            (vec![is("a"), is("b")], is("a")),
            (vec![REJECTED, is("b")], is("b")),
            (vec![DOWN, is("b")], is("b")),
            (vec![invalid("x"), REJECTED, is("b")], is("b")),
            (vec![DOWN, REJECTED], DOWN),
            (vec![REJECTED, DOWN, invalid("x")], DOWN),
            (vec![DOWN, expired.clone()], expired.clone()),
            (vec![expired.clone(), DOWN], expired),
            (vec![REJECTED, invalid("x"), invalid("y")], invalid("x")),
            (vec![REJECTED, REJECTED], REJECTED),
            (vec![], REJECTED),
        ];
        for (answers, expected) in cases {
            let links: Vec<_> = answers.iter().cloned().map(link).map(Arc::new).collect();
            let chain = chain(&links.iter().collect::<Vec<_>>());
            for credentials in [basic("ada"), Credentials::Bearer(Password::new("t"))] {
                let answer = chain.authenticate(&credentials).await;
                assert_eq!(answer, expected, "{answers:?}");
            }
            let nothing = chain.authenticate(&Credentials::None).await;
            assert_eq!(nothing, Ok(Principal::Anonymous));
        }
    }

    #[tokio::test]
    async fn a_name_is_tried_with_its_owner_only() {
        let others = Arc::new(link(is("other")));
        let owner = Arc::new(Link {
            owned: "build",
            ..link(REJECTED)
        });
        for chain in [
            chain(&[&owner, &others]),
            chain(&[&others, &owner]),
            Chain::new([
                Arc::new(chain(&[&owner])) as Arc<dyn Authenticator>,
                others.clone(),
            ]),
        ] {
            let before = others.asked.load(Ordering::Relaxed);
            assert_eq!(chain.authenticate(&basic("build")).await, REJECTED);
            assert_eq!(others.asked.load(Ordering::Relaxed), before);
            assert_eq!(chain.authenticate(&basic("ada")).await, is("other"));
            assert!(chain.owns("build") && !chain.owns("ada"));
        }
    }

    #[tokio::test]
    async fn credentials_go_before_the_certificate_and_decide_alone() {
        let first = Arc::new(link(REJECTED));
        let second = Arc::new(Link {
            certificate: is("certified"),
            ..link(REJECTED)
        });
        let chain = chain(&[&first, &second]);
        let der: &[u8] = b"leaf";
        for (credentials, certificate, expected) in [
            (Credentials::None, Some(der), is("certified")),
            (Credentials::None, None, Ok(Principal::Anonymous)),
            (basic("ada"), Some(der), REJECTED),
        ] {
            let answer = chain.authenticate_with(&credentials, certificate).await;
            assert_eq!(answer, expected, "{credentials:?}");
        }
    }

    #[test]
    fn one_challenge_is_sent_and_tokens_get_that_of_tokens() {
        let with = |challenge| {
            Arc::new(Link {
                challenge,
                ..link(REJECTED)
            })
        };
        let none = with(None);
        let basic = with(Some("Basic realm=\"r\""));
        let bearer = with(Some("Bearer realm=\"r\""));
        let of = |links: &[&Arc<Link>], reason| chain(links).challenge(&[], reason);
        use ChallengeReason::{InsufficientScope, InvalidToken, LoginRequired};
        for (links, reason, expected) in [
            (vec![&none, &basic, &bearer], LoginRequired, "Basic"),
            (vec![&none, &bearer, &basic], LoginRequired, "Bearer"),
            (vec![&none, &basic, &bearer], InvalidToken, "Bearer"),
            (vec![&basic, &bearer], InsufficientScope, "Bearer"),
            (vec![&none, &basic], InvalidToken, "Basic"),
        ] {
            let challenge = of(&links, reason).unwrap();
            assert!(challenge.starts_with(expected), "{links:?}: {challenge}");
        }
        assert_eq!(of(&[&none], LoginRequired), None);
    }
}
