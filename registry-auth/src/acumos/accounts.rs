//! The platform's accounts, for refresh tokens

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use super::directory::Directory;
use super::facts::{Answer, Query};
use crate::authenticator::AuthenticateError;
use crate::principal::Principal;
use crate::token::Accounts;

/// Knows by a directory which accounts are still there
///
/// A refresh token is good while the account is active, and gives the roles that it has by then. A
/// directory does not tell when a password was changed, so a change ends no refresh token: that
/// is what [`refresh_lifetime`](crate::token::IssuerOptions::refresh_lifetime) bounds.
#[derive(Clone, Debug)]
pub struct DirectoryAccounts {
    directory: Arc<dyn Directory>,
}

impl DirectoryAccounts {
    /// Asks this directory, preferably a [`CachedDirectory`](super::CachedDirectory)
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        Self { directory }
    }
}

#[async_trait]
impl Accounts for DirectoryAccounts {
    async fn account(&self, name: &str, _: SystemTime) -> Result<Principal, AuthenticateError> {
        match self
            .directory
            .answer(&Query::Account(name.to_owned()))
            .await
        {
            Ok(Answer::Account(Some(account))) if account.active => {
                Ok(Principal::user(account.login).with_roles(account.roles))
            }
            Ok(_) => Err(AuthenticateError::Rejected),
            Err(error) => {
                tracing::warn!(%error, "whether an account is still active cannot be known");
                Err(AuthenticateError::Unavailable {
                    retry_after: error.retry_after(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::directory::DirectoryError;
    use super::super::facts::{Account, UserId};
    use super::*;

    #[derive(Debug)]
    struct Users;

    #[async_trait]
    impl Directory for Users {
        async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
            let account = |login: &str, active| Account {
                user: UserId::new("1"),
                login: login.to_owned(),
                active,
                roles: vec!["Publisher".to_owned()],
            };
            match query {
                Query::Account(login) => match login.as_str() {
                    "ada" => Ok(Answer::Account(Some(account("ada", true)))),
                    "bob" => Ok(Answer::Account(Some(account("bob", false)))),
                    "eve" => Ok(Answer::Account(None)),
                    _ => Err(DirectoryError::Unavailable {
                        retry_after: Duration::from_secs(7),
                        cause: "down".to_owned(),
                    }),
                },
                other => panic!("nobody needs {other}"),
            }
        }
    }

    #[tokio::test]
    async fn an_account_is_good_while_it_is_active() {
        let accounts = DirectoryAccounts::new(Arc::new(Users));
        let ask = async |name| accounts.account(name, SystemTime::UNIX_EPOCH).await;
        let ada = Principal::user("ada").with_roles(["Publisher"]);
        assert_eq!(ask("ada").await, Ok(ada));
        assert_eq!(ask("bob").await, Err(AuthenticateError::Rejected));
        assert_eq!(ask("eve").await, Err(AuthenticateError::Rejected));
        let retry_after = Duration::from_secs(7);
        assert_eq!(
            ask("zoe").await,
            Err(AuthenticateError::Unavailable { retry_after })
        );
    }
}
