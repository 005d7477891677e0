//! The accounts of several ways to log in, for refresh tokens

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::refresh::Accounts;
use crate::authenticator::{AuthenticateError, Authenticator};
use crate::principal::Principal;

/// The accounts of those whom a [`Chain`](crate::Chain) vouches for
///
/// A refresh token has a name and not by which link of the chain its owner logged in. So the
/// account has to be of one source that can be told from the name:
///
/// - A name that a link [owns](Authenticator::owns) is an account of that link alone, as it is when
///   somebody logs in under it.
/// - Any other name is an account if exactly one source has one of this name. While two have, nothing
///   tells whose token it is, and it is not accepted: whoever has it logs in again.
/// - While one of the sources that are to be asked cannot be, it is not known whether there is one
///   more: that is an outage.
///
/// Whether a login still counts is then for that source to say. One that cannot tell since when an
/// account is there, such as a [`DirectoryAccounts`](crate::acumos::DirectoryAccounts) or a service
/// account that does not say it, takes a token of a name that was another source's when the token
/// was issued, and is its own by now. So do not give out a name again, in another place, within
/// [`refresh_lifetime`](super::IssuerOptions::refresh_lifetime).
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::time::SystemTime;
///
/// use registry_auth::token::{Accounts, ChainAccounts};
/// use registry_auth::{Password, Principal, ServiceAccount, ServiceAccounts};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let build = ServiceAccount::with_secret("build", &Password::new("d81f1a6c2b7e49d0a3c5"))?;
/// let services = Arc::new(ServiceAccounts::new("Registry".parse()?, [build])?);
/// let accounts = ChainAccounts::default().with(services.clone(), services);
///
/// let build = accounts.account("build", SystemTime::now()).await?;
/// assert_eq!(build, Principal::service("build"));
/// assert!(accounts.account("ada", SystemTime::now()).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ChainAccounts {
    sources: Vec<(Arc<dyn Authenticator>, Arc<dyn Accounts>)>,
}

impl ChainAccounts {
    /// Adds a link of the chain, with the accounts of those whom it vouches for
    ///
    /// Add each link that vouches for anybody, or what is said of the names of the others is wrong.
    /// The order of those that own no names does not matter.
    #[must_use]
    pub fn with(mut self, link: Arc<dyn Authenticator>, accounts: Arc<dyn Accounts>) -> Self {
        self.sources.push((link, accounts));
        self
    }
}

#[async_trait]
impl Accounts for ChainAccounts {
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
        if let Some((_, owner)) = self.sources.iter().find(|(link, _)| link.owns(name)) {
            return owner.account(name, since).await;
        }
        // A login that is newer than any change: the question is whether there is such an account.
        let newest = SystemTime::now() + ANY_CHANGE;
        let mut only = None;
        for (_, accounts) in &self.sources {
            match accounts.account(name, newest).await {
                Ok(_) if only.is_some() => return Err(AuthenticateError::Rejected),
                Ok(_) => only = Some(accounts),
                Err(AuthenticateError::Rejected) => {}
                Err(error) => return Err(error),
            }
        }
        match only {
            Some(accounts) => accounts.account(name, since).await,
            None => Err(AuthenticateError::Rejected),
        }
    }
}

/// More than changes are ahead of the clock: they count from the next full second on, and may
/// come from a machine whose clock is a little fast
const ANY_CHANGE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use registry_core::Access;

    use super::*;
    use crate::authenticator::{ChallengeReason, Credentials};

    const REJECTED: Result<Principal, AuthenticateError> = Err(AuthenticateError::Rejected);
    const DOWN: Result<Principal, AuthenticateError> = Err(AuthenticateError::Unavailable {
        retry_after: Duration::from_secs(3),
    });

    /// A way to log in with accounts, each with the second since which logins count
    #[derive(Debug, Default)]
    struct Source {
        role: &'static str,
        accounts: HashMap<&'static str, u64>,
        owns: bool,
        down: bool,
    }

    #[async_trait]
    impl Authenticator for Source {
        async fn authenticate(&self, _: &Credentials) -> Result<Principal, AuthenticateError> {
            REJECTED
        }

        fn owns(&self, user: &str) -> bool {
            self.owns && self.accounts.contains_key(user)
        }

        fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
            None
        }
    }

    #[async_trait]
    impl Accounts for Source {
        async fn account(
            &self,
            name: &str,
            since: SystemTime,
        ) -> Result<Principal, AuthenticateError> {
            match self.accounts.get(name) {
                _ if self.down => DOWN,
                Some(changed) if since >= at(*changed) => {
                    Ok(Principal::user(name).with_roles([self.role]))
                }
                _ => REJECTED,
            }
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn source(role: &'static str, accounts: &[(&'static str, u64)]) -> Source {
        Source {
            role,
            accounts: accounts.iter().copied().collect(),
            ..Source::default()
        }
    }

    fn chain(sources: Vec<Source>) -> ChainAccounts {
        sources
            .into_iter()
            .map(Arc::new)
            .fold(ChainAccounts::default(), |chain, source| {
                chain.with(source.clone(), source)
            })
    }

    fn is(name: &str, role: &str) -> Result<Principal, AuthenticateError> {
        Ok(Principal::user(name).with_roles([role]))
    }

    #[tokio::test]
    async fn a_name_is_that_of_the_only_source_that_has_it() {
        let accounts = chain(vec![
            source("first", &[("ada", 100), ("both", 100)]),
            source("second", &[("bob", 100), ("both", 200)]),
        ]);
        assert_eq!(accounts.account("ada", at(100)).await, is("ada", "first"));
        assert_eq!(accounts.account("bob", at(100)).await, is("bob", "second"));
        assert_eq!(accounts.account("eve", at(100)).await, REJECTED);
        // A login from before the password was changed.
        assert_eq!(accounts.account("bob", at(99)).await, REJECTED);
        // Neither whose login it was, nor which of the two would call it off, can be told.
        for since in [99, 100, 199, 200] {
            assert_eq!(
                accounts.account("both", at(since)).await,
                REJECTED,
                "{since}"
            );
        }
        assert_eq!(chain(vec![]).account("ada", at(100)).await, REJECTED);
    }

    #[tokio::test]
    async fn a_name_that_is_owned_is_its_owners_alone() {
        let owner = || Source {
            owns: true,
            ..source("owner", &[("build", 100)])
        };
        let other = || source("other", &[("build", 0), ("ada", 0)]);
        for accounts in [chain(vec![owner(), other()]), chain(vec![other(), owner()])] {
            let build = accounts.account("build", at(100)).await;
            assert_eq!(build, is("build", "owner"));
            // The other's would still count, but it is not asked.
            assert_eq!(accounts.account("build", at(99)).await, REJECTED);
            assert_eq!(accounts.account("ada", at(0)).await, is("ada", "other"));
        }
    }

    #[tokio::test]
    async fn while_a_source_is_down_nobody_is_known_but_those_of_an_owner() {
        let down = || Source {
            down: true,
            ..Source::default()
        };
        for accounts in [
            chain(vec![down(), source("up", &[("ada", 0)])]),
            chain(vec![source("up", &[("ada", 0)]), down()]),
        ] {
            assert_eq!(accounts.account("ada", at(1)).await, DOWN);
            assert_eq!(accounts.account("eve", at(1)).await, DOWN);
        }
        let owner = Source {
            owns: true,
            ..source("owner", &[("build", 0)])
        };
        let accounts = chain(vec![down(), owner]);
        assert_eq!(accounts.account("build", at(1)).await, is("build", "owner"));
    }
}
