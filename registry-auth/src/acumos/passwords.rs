//! Users of a directory by their passwords

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use quick_cache::sync::Cache;
use registry_core::Access;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::directory::DirectoryError;
use super::facts::Account;
use super::records::AccountRecord;
use crate::authenticator::{
    AuthenticateError, Authenticator, ChallengeReason, Credentials, Password,
};
use crate::challenge::Quoted;
use crate::htpasswd::{
    self, Checker, Entry, EntryError, Hash, HashError, MAX_COST, MAX_USER, MIN_COST, Options,
    Verdict,
};
use crate::principal::Principal;
use crate::token::Accounts;

/// A directory whose accounts can have passwords
///
/// A [`FileDirectory`](super::FileDirectory) or an
/// [`EmbeddedDirectory`](super::EmbeddedDirectory); what a [`DirectoryAuthenticator`] asks.
#[async_trait]
pub trait Passwords: fmt::Debug + Send + Sync + 'static {
    /// What a login under this name is checked against
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] when it cannot be known now. That there is no such account is an
    /// answer.
    async fn login(&self, login: &str) -> Result<Login, DirectoryError>;
}

#[async_trait]
impl<P: Passwords + ?Sized> Passwords for Arc<P> {
    async fn login(&self, login: &str) -> Result<Login, DirectoryError> {
        (**self).login(login).await
    }
}

/// What a login is checked against: an account with its password, or that there is none
#[derive(Clone, Debug)]
pub struct Login {
    account: Option<(Account, PasswordHash)>,
    changed: SystemTime,
    highest_cost: u32,
}

impl Login {
    /// From a record and the second, since 1970, from which logins with its password count
    pub(super) fn new(found: Option<(AccountRecord, i64)>, highest_cost: Option<u32>) -> Self {
        let changed = found.as_ref().map_or(0, |(_, changed)| *changed);
        let changed = UNIX_EPOCH + Duration::from_secs(changed.try_into().unwrap_or(0));
        let account = found.and_then(|(record, _)| {
            let account = record.account();
            record.password.map(|password| (account, password))
        });
        Self::from_parts(account, changed, highest_cost)
    }

    pub(super) fn from_parts(
        account: Option<(Account, PasswordHash)>,
        changed: SystemTime,
        highest_cost: Option<u32>,
    ) -> Self {
        Self {
            // Who may not log in has no password.
            account: account.filter(|(account, _)| account.active),
            changed,
            highest_cost: highest_cost.unwrap_or(Entry::DEFAULT_COST),
        }
    }

    fn principal(&self) -> Option<Principal> {
        let (account, _) = self.account.as_ref()?;
        Some(Principal::user(&account.login).with_roles(&account.roles))
    }

    fn admit(&self, verdict: Verdict) -> Result<Principal, AuthenticateError> {
        match (verdict, self.principal()) {
            (Verdict::Right, Some(principal)) => Ok(principal),
            _ => Err(AuthenticateError::Rejected),
        }
    }

    fn hash(&self) -> Option<&Hash> {
        self.account.as_ref().map(|(_, password)| &password.0)
    }
}

/// The bcrypt hash of a password, as Apache's `htpasswd -B` makes it
///
/// Its text is that of the hash, `$2y$10$…`; `Debug` hides it. A password in clear text is not
/// taken for one.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::PasswordHash;
///
/// let hash = "$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa";
/// assert_eq!(hash.parse::<PasswordHash>()?.cost(), 4);
/// assert!("correct horse".parse::<PasswordHash>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordHash(Hash);

/// Why a text is no hash of a password; the text is not in it
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the bcrypt hash of a password, such as `htpasswd -nB` makes, but {problem}; it is \
     not repeated here"
)]
pub struct PasswordHashError {
    problem: String,
}

impl PasswordHash {
    /// Hashes the password of an account
    pub(super) fn of(login: &str, password: &Password, cost: u32) -> Result<Self, EntryError> {
        Entry::new(login, password, cost).map(|entry| Self(entry.into_hash()))
    }

    /// The hash as text, with which guesses can be tried
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The binary logarithm of the rounds that a check takes
    pub fn cost(&self) -> u32 {
        self.0.cost()
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        Hash::parse(text)
            .map(Self)
            .map_err(|error| PasswordHashError {
                problem: match error {
                    HashError::Cost(cost) => {
                        format!("its cost is {cost}, not from {MIN_COST} to {MAX_COST}")
                    }
                    HashError::Malformed(problem) => problem.to_owned(),
                    HashError::Scheme(scheme) => format!("it is hashed with {scheme}"),
                },
            })
    }
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Knows the users of a directory by their passwords
///
/// The principal has the account's login name and its roles. Who has no password, or whose
/// account is not active, is refused as one who does not exist. What an operator changes in the
/// directory counts from the next request on.
///
/// What a check costs is bounded as for [`Htpasswd`](crate::Htpasswd), by the same means; see
/// [there](crate::htpasswd). It is also what says, for a token issuer, whose logins still count.
///
/// # Panics
///
/// [`Authenticator::authenticate`] has to be called within a tokio runtime.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::{AccountRecord, DirectoryAuthenticator, EmbeddedDirectory};
/// use registry_auth::{Authenticator, Credentials, Password, Principal};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let directory = EmbeddedDirectory::open(&folder.path().join("platform.db"))?;
/// let mut ada = AccountRecord::new("ada");
/// ada.set_password(&Password::new("correct horse"), 4)?;
/// directory.add_account(ada).await?;
///
/// let users = DirectoryAuthenticator::new(directory, "Acumos".parse()?, Default::default())?;
/// let ada = Credentials::Basic { user: "ada".into(), password: Password::new("correct horse") };
/// assert_eq!(users.authenticate(&ada).await?, Principal::user("ada"));
/// # Ok(())
/// # }
/// ```
pub struct DirectoryAuthenticator {
    directory: Arc<dyn Passwords>,
    realm: Quoted,
    checker: Arc<Checker>,
    /// What is remembered of accounts with passwords, by login name
    known: Cache<String, Arc<htpasswd::Account>>,
}

/// The system gives no random numbers
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system gives no random numbers, without which credentials cannot be remembered safely"
)]
pub struct NoKey;

impl DirectoryAuthenticator {
    /// Asks this directory, and asks clients for their login with this realm
    ///
    /// # Errors
    ///
    /// [`NoKey`] when the system gives no random numbers.
    pub fn new(directory: impl Passwords, realm: Quoted, options: Options) -> Result<Self, NoKey> {
        Ok(Self {
            directory: Arc::new(directory),
            realm,
            checker: Arc::new(Checker::new(options).map_err(|_| NoKey)?),
            known: Cache::new(KNOWN),
        })
    }

    /// What it did and does, as for [`Htpasswd`](crate::Htpasswd); how many users there are is
    /// not counted
    pub fn counts(&self) -> htpasswd::Counts {
        self.checker.counts()
    }

    async fn log_in(&self, user: &str, password: &str) -> Result<Principal, AuthenticateError> {
        // Nobody has such a name.
        if user.is_empty() || user.len() > MAX_USER {
            return Err(AuthenticateError::Rejected);
        }
        let mut login = self.login(user).await?;
        loop {
            self.checker.set_highest_cost(login.highest_cost);
            let account = login.hash().map(|hash| self.remembered(user, hash));
            // What is known takes no time in which anything could change.
            if let Some(verdict) = self.checker.recall(user, password, account.as_ref()) {
                return login.admit(verdict);
            }
            let verdict = self.checker.check(user, password, account.as_ref()).await?;
            // While it waited the account may have changed.
            let now = self.login(user).await?;
            if now.hash() == login.hash() {
                return now.admit(verdict);
            }
            login = now;
        }
    }

    async fn login(&self, user: &str) -> Result<Login, AuthenticateError> {
        self.directory.login(user).await.map_err(|error| {
            tracing::warn!(%error, "a user cannot be logged in");
            AuthenticateError::Unavailable {
                retry_after: error.retry_after(),
            }
        })
    }

    /// The account with this hash, with what is remembered of it
    fn remembered(&self, user: &str, hash: &Hash) -> Arc<htpasswd::Account> {
        let new = || Arc::new(htpasswd::Account::new(hash.clone()));
        let Ok(account) = self
            .known
            .get_or_insert_with(user, || Ok::<_, Infallible>(new()));
        if account.hash == *hash {
            return account;
        }
        let account = new();
        self.known.insert(user.to_owned(), account.clone());
        account
    }
}

#[async_trait]
impl Authenticator for DirectoryAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Basic { user, password } => self.log_in(user, password.expose()).await,
            Credentials::Bearer(_) => Err(AuthenticateError::Rejected),
        }
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        Some(format!("Basic realm={}", self.realm))
    }
}

#[async_trait]
impl Accounts for DirectoryAuthenticator {
    /// The account, if it is active and has the password that it had when its owner logged in
    ///
    /// Logins are known to the second, so that in the second of a change none counts.
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
        let login = self.login(name).await?;
        match login.principal() {
            Some(principal) if since >= login.changed => Ok(principal),
            _ => Err(AuthenticateError::Rejected),
        }
    }
}

impl fmt::Debug for DirectoryAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryAuthenticator")
            .field("directory", &self.directory)
            .field("realm", &self.realm)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// Of how many accounts the right password is remembered; some megabytes
///
/// Only names that have a password take a place, so nobody can fill it with made-up ones.
const KNOWN: usize = 16 * 1024;
