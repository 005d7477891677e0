//! Two authorizers of which both must allow

use std::sync::Arc;

use async_trait::async_trait;
use registry_core::Access;

use crate::policy::{AuthorizeError, Authorizer, Decision};
use crate::principal::Principal;

/// Allows what two authorizers both allow; the first denial is the answer
///
/// The second is asked only about what the first allows. What cannot be decided by one that is
/// asked is not decided. For more than two, one of them can be a `Both` in turn.
///
/// With [`Granted`](crate::Granted) and [`BySubject`](crate::token::BySubject) it lets a registry
/// that takes tokens decide by tag, which no token can.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::{AllowAll, Authorizer, Both, Principal, PullOnly};
/// use registry_core::route;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let both = Both::new(Arc::new(AllowAll), Arc::new(PullOnly));
/// let push = &route("POST", "/v2/app/blobs/uploads/", None)?.access()[1];
/// let decision = both.authorize(&Principal::Anonymous, push).await?;
/// assert!(!decision.is_allow());
/// assert_eq!(decision.rule(), "pull-only");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Both {
    first: Arc<dyn Authorizer>,
    second: Arc<dyn Authorizer>,
}

impl Both {
    /// Of these two, asked in this order
    pub fn new(first: Arc<dyn Authorizer>, second: Arc<dyn Authorizer>) -> Self {
        Self { first, second }
    }
}

#[async_trait]
impl Authorizer for Both {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        let first = self.first.authorize(principal, access).await?;
        if !first.is_allow() {
            return Ok(first);
        }
        let second = self.second.authorize(principal, access).await?;
        Ok(match second.is_allow() {
            true => second.with_fact(format!("{} allows it: {}", first.rule(), first.reason())),
            false => second,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use registry_core::route;

    use super::*;
    use crate::policy::Policy;

    #[derive(Debug)]
    struct Says(&'static str);

    impl Policy for Says {
        fn decide(&self, _: &Principal, _: &Access) -> Decision {
            match self.0.strip_prefix("no ") {
                Some(name) => Decision::deny(name, "no").with_hidden(),
                None => Decision::allow(self.0, "yes"),
            }
        }
    }

    #[derive(Debug)]
    struct Silent;

    #[async_trait]
    impl Authorizer for Silent {
        async fn authorize(&self, _: &Principal, _: &Access) -> Result<Decision, AuthorizeError> {
            Err(AuthorizeError {
                retry_after: Duration::from_secs(3),
                cause: "silent".to_owned(),
            })
        }
    }

    #[tokio::test]
    async fn the_first_denial_wins_and_what_is_unknown_stays_so() {
        let access = &route("GET", "/v2/app/tags/list", None).unwrap().access()[0];
        let ask = async |first: Arc<dyn Authorizer>, second: Arc<dyn Authorizer>| {
            let both = Both::new(first, second);
            both.authorize(&Principal::Anonymous, access).await
        };
        let says = |text| Arc::new(Says(text)) as Arc<dyn Authorizer>;
        assert_eq!(
            ask(says("a"), says("b")).await.unwrap(),
            Decision::allow("b", "yes").with_fact("a allows it: yes")
        );
        for (first, second, rule) in [
            ("no a", "b", "a"),
            ("a", "no b", "b"),
            ("no a", "no b", "a"),
        ] {
            let decision = ask(says(first), says(second)).await.unwrap();
            assert_eq!(decision, Decision::deny(rule, "no").with_hidden());
        }
        assert!(ask(Arc::new(Silent), says("b")).await.is_err());
        assert!(ask(says("a"), Arc::new(Silent)).await.is_err());
        // Whatever it would say, it is not asked.
        assert!(
            !ask(says("no a"), Arc::new(Silent))
                .await
                .unwrap()
                .is_allow()
        );
    }
}
