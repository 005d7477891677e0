//! Accounts of programs, which the configuration lists

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use registry_core::Access;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::authenticator::{
    AuthenticateError, Authenticator, ChallengeReason, Credentials, Password,
};
use crate::challenge::Quoted;
use crate::htpasswd::{EntryError, check_user};
use crate::principal::Principal;
use crate::token::Accounts;

/// The fewest bytes of a secret
///
/// Secrets are checked in a microsecond, as often as somebody asks. 16 characters of a random base64 or hex
/// text cannot be guessed that way.
pub const MIN_SECRET: usize = 16;

/// A program with a secret of its own
///
/// # Which secrets
///
/// A secret is a long random text, such as `openssl rand -hex 32` makes. It is kept as its SHA-256, which can also be
/// given instead of it. There is no bcrypt here on purpose: it makes the guessing of *short*
/// passwords slow, at the price of some 50 ms of a processor for each, and programs need no short
/// ones. Who has short passwords to keep is a user of an [`Htpasswd`](crate::Htpasswd).
///
/// `Debug` shows nothing of the secret.
#[derive(Clone)]
pub struct ServiceAccount {
    name: String,
    roles: Vec<String>,
    digest: SecretDigest,
    since: Option<SystemTime>,
}

impl ServiceAccount {
    /// An account with this secret, of which only the digest is kept
    ///
    /// # Errors
    ///
    /// [`ServiceAccountError`] for a name that no client can send, or a secret that is too short.
    pub fn with_secret(name: &str, secret: &Password) -> Result<Self, ServiceAccountError> {
        let length = secret.expose().len();
        if length < MIN_SECRET {
            return Err(ServiceAccountError::SecretTooShort {
                name: name.to_owned(),
                length,
            });
        }
        if secret.expose().contains(char::is_control) {
            return Err(ServiceAccountError::SecretControl {
                name: name.to_owned(),
            });
        }
        Self::with_digest(name, SecretDigest::of(secret))
    }

    /// An account whose secret has this digest
    ///
    /// # Errors
    ///
    /// [`ServiceAccountError`] for a name that no client can send.
    pub fn with_digest(name: &str, digest: SecretDigest) -> Result<Self, ServiceAccountError> {
        check_user(name)?;
        Ok(Self {
            name: name.to_owned(),
            roles: Vec::new(),
            digest,
            since: None,
        })
    }

    /// Gives it roles, for policies to ask
    #[must_use]
    pub fn with_roles(mut self, roles: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.roles.extend(roles.into_iter().map(Into::into));
        self
    }

    /// Says since when it has this secret, such as when its file was written
    ///
    /// Refresh tokens from before then are no longer good. By default that is not known, and
    /// only a change that [`ServiceAccounts::replace`] brings ends them.
    #[must_use]
    pub fn with_secret_since(mut self, time: SystemTime) -> Self {
        self.since = Some(time);
        self
    }

    /// Its name
    pub fn name(&self) -> &str {
        &self.name
    }

    fn principal(&self) -> Principal {
        Principal::service(self.name.clone()).with_roles(self.roles.iter().cloned())
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount")
            .field("name", &self.name)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// The SHA-256 of a long random secret
///
/// It is read from `sha256:` and 64 hexadecimal digits, as `printf %s "$secret" | sha256sum` makes
/// them. `Debug` does not show it.
///
/// # Examples
///
/// ```
/// use registry_auth::{Password, SecretDigest};
///
/// let digest: SecretDigest =
///     "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse()?;
/// assert!(digest.is_of(&Password::new("abc")));
/// assert!(!digest.is_of(&Password::new("abd")));
/// # Ok::<(), registry_auth::SecretDigestError>(())
/// ```
#[derive(Clone)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// The digest of this secret
    pub fn of(secret: &Password) -> Self {
        Self(Sha256::digest(secret.expose()).into())
    }

    /// Whether it is that of this secret, which takes the same time whatever it is
    pub fn is_of(&self, secret: &Password) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }
}

impl FromStr for SecretDigest {
    type Err = SecretDigestError;

    fn from_str(text: &str) -> Result<Self, SecretDigestError> {
        let digits = text
            .strip_prefix("sha256:")
            .map(str::as_bytes)
            .filter(|digits| digits.len() == 64)
            .ok_or(SecretDigestError)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).ok_or(SecretDigestError)?;
                *byte = *byte << 4 | u8::try_from(value).map_err(|_| SecretDigestError)?;
            }
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(***)")
    }
}

/// A text that is no digest; it may be the secret itself and is not repeated
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected `sha256:` and 64 hexadecimal digits, as `printf %s \"$secret\" | sha256sum` makes them"
)]
pub struct SecretDigestError;

/// Knows programs by their names and secrets
///
/// It [owns](Authenticator::owns) the names of its accounts: in a [`Chain`](crate::Chain) a wrong secret of theirs is rejected,
/// and no other authenticator is asked.
///
/// # Examples
///
/// ```
/// use registry_auth::{
///     Authenticator, Credentials, Password, Principal, ServiceAccount, ServiceAccounts,
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = Password::new("d81f1a6c2b7e49d0a3c5");
/// let build = ServiceAccount::with_secret("build", &secret)?.with_roles(["builder"]);
/// let accounts = ServiceAccounts::new("Registry".parse()?, [build])?;
///
/// let credentials = Credentials::Basic { user: "build".into(), password: secret };
/// let principal = accounts.authenticate(&credentials).await?;
/// assert_eq!(principal, Principal::service("build").with_roles(["builder"]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ServiceAccounts {
    realm: Quoted,
    table: ArcSwap<HashMap<String, ServiceAccount>>,
}

impl ServiceAccounts {
    /// These accounts; clients are asked for their login with this realm
    ///
    /// # Errors
    ///
    /// [`ServiceAccountError::Duplicate`] when two have the same name.
    pub fn new(
        realm: Quoted,
        accounts: impl IntoIterator<Item = ServiceAccount>,
    ) -> Result<Self, ServiceAccountError> {
        Ok(Self {
            realm,
            table: ArcSwap::from_pointee(table(accounts)?),
        })
    }

    /// Puts these accounts in the place of those before
    ///
    /// The refresh tokens of an account whose secret is another one now, and of one that was not there before, end with it.
    ///
    /// # Errors
    ///
    /// [`ServiceAccountError::Duplicate`]; what was in force remains so.
    pub fn replace(
        &self,
        accounts: impl IntoIterator<Item = ServiceAccount>,
    ) -> Result<(), ServiceAccountError> {
        let mut next = table(accounts)?;
        let now = SystemTime::now();
        let before = self.table.load();
        for (name, account) in &mut next {
            let same = before
                .get(name)
                .filter(|before| before.digest.0.ct_eq(&account.digest.0).into());
            // What is known best is the latest: a file may be older than its coming into force.
            account.since = account.since.max(match same {
                Some(before) => before.since,
                None => Some(now),
            });
        }
        self.table.store(next.into());
        Ok(())
    }
}

fn table(
    accounts: impl IntoIterator<Item = ServiceAccount>,
) -> Result<HashMap<String, ServiceAccount>, ServiceAccountError> {
    let mut table = HashMap::new();
    for account in accounts {
        let name = account.name.clone();
        if table.insert(name.clone(), account).is_some() {
            return Err(ServiceAccountError::Duplicate { name });
        }
    }
    Ok(table)
}

#[async_trait]
impl Authenticator for ServiceAccounts {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Basic { user, password } => {
                let table = self.table.load();
                table
                    .get(user)
                    .filter(|account| account.digest.is_of(password))
                    .map(ServiceAccount::principal)
                    .ok_or(AuthenticateError::Rejected)
            }
            Credentials::Bearer(_) => Err(AuthenticateError::Rejected),
        }
    }

    fn owns(&self, user: &str) -> bool {
        self.table.load().contains_key(user)
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        Some(format!("Basic realm={}", self.realm))
    }
}

#[async_trait]
impl Accounts for ServiceAccounts {
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
        let table = self.table.load();
        table
            .get(name)
            .filter(|account| account.since.is_none_or(|changed| since >= changed))
            .map(ServiceAccount::principal)
            .ok_or(AuthenticateError::Rejected)
    }
}

/// Why an account cannot be had
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceAccountError {
    /// Two accounts have the same name
    #[error("expected one account for each name, got two of `{}`", .name.escape_debug())]
    Duplicate {
        /// The name
        name: String,
    },
    /// No client can send the name
    #[error(transparent)]
    Name(#[from] EntryError),
    /// The secret has a character that HTTP cannot carry (RFC 7617, section 2)
    #[error(
        "the secret of `{}` has a control character, such as the end of a line, which no client can send; leave it out",
        .name.escape_debug()
    )]
    SecretControl {
        /// The name of the account
        name: String,
    },
    /// The secret can be guessed
    #[error(
        "the secret of `{}` has {length} bytes, expected at least {MIN_SECRET} that are random, such as `openssl rand -hex 32` makes",
        .name.escape_debug()
    )]
    SecretTooShort {
        /// The name of the account
        name: String,
        /// How many bytes the secret has
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn account(name: &str, secret: &str) -> ServiceAccount {
        ServiceAccount::with_secret(name, &Password::new(secret)).unwrap()
    }

    fn accounts(list: impl IntoIterator<Item = ServiceAccount>) -> ServiceAccounts {
        ServiceAccounts::new("r".parse().unwrap(), list).unwrap()
    }

    async fn login(accounts: &ServiceAccounts, user: &str, secret: &str) -> bool {
        let credentials = Credentials::Basic {
            user: user.to_owned(),
            password: Password::new(secret),
        };
        match accounts.authenticate(&credentials).await {
            Ok(principal) => {
                assert_eq!(principal, Principal::service(user).with_roles(["r"]));
                true
            }
            Err(error) => {
                assert_eq!(error, AuthenticateError::Rejected);
                false
            }
        }
    }

    #[tokio::test]
    async fn a_secret_opens_its_own_account_only() {
        let digest: SecretDigest =
            "sha256:9F9F5111F7B27A781F1F1DDDE5EBC2DD2B796BFC7365C9C28B548E564176929F"
                .parse()
                .unwrap();
        let other = ServiceAccount::with_digest("scan", digest)
            .unwrap()
            .with_roles(["r"]);
        let own = account("build", "of the build alone").with_roles(["r"]);
        let accounts = accounts([own, other]);
        assert!(login(&accounts, "build", "of the build alone").await);
        assert!(login(&accounts, "scan", SECRET).await);
        for (user, secret) in [
            ("build", SECRET),
            ("scan", "0123456789abcdeg"),
            ("scan", "0123456789abcde"),
            ("scan", ""),
            ("Scan", SECRET),
            ("nobody", SECRET),
            ("", ""),
        ] {
            assert!(!login(&accounts, user, secret).await, "{user} {secret}");
        }
        assert!(accounts.owns("build") && !accounts.owns("Build"));
        let bearer = Credentials::Bearer(Password::new(SECRET));
        assert!(accounts.authenticate(&bearer).await.is_err());
        let none = accounts.authenticate(&Credentials::None).await;
        assert_eq!(none, Ok(Principal::Anonymous));
        let shown = format!("{accounts:?}");
        // The first byte of the digest, 0x9f.
        assert!(shown.contains("scan") && !shown.contains("159"), "{shown}");
    }

    #[tokio::test]
    async fn refresh_tokens_end_with_the_account_and_with_its_secret() {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let second = Duration::from_secs(1);
        let known = account("build", SECRET).with_secret_since(written);
        let accounts = accounts([known.clone(), account("scan", SECRET)]);
        let good = async |name, since| accounts.account(name, since).await.is_ok();
        assert!(good("build", written).await);
        assert!(!good("build", written - second).await);
        assert!(good("scan", SystemTime::UNIX_EPOCH).await);
        assert!(!good("nobody", SystemTime::now()).await);

        let changed = account("scan", "another secret of it");
        accounts.replace([known, changed]).unwrap();
        assert!(good("build", written).await);
        assert!(!good("scan", SystemTime::now() - second).await);
        assert!(good("scan", SystemTime::now() + second).await);
        assert!(!login(&accounts, "scan", SECRET).await);
        accounts.replace([]).unwrap();
        assert!(!good("build", SystemTime::now() + second).await);
    }

    #[test]
    fn what_would_not_work_is_refused() {
        let new = |name, secret| ServiceAccount::with_secret(name, &Password::new(secret));
        for (error, text) in [
            (
                new("build", "short").unwrap_err(),
                "the secret of `build` has 5 bytes, expected at least 16 that are random, such as `openssl rand -hex 32` makes",
            ),
            (
                new("build", "0123456789abcdef\n").unwrap_err(),
                "the secret of `build` has a control character, such as the end of a line, which no client can send; leave it out",
            ),
            (
                new("a:b", SECRET).unwrap_err(),
                "the user name `a:b` has a colon, at which a line and a client's credentials are split; leave it out",
            ),
            (
                table([account("build", SECRET), account("build", SECRET)]).unwrap_err(),
                "expected one account for each name, got two of `build`",
            ),
        ] {
            assert_eq!(error.to_string(), text);
            assert!(!format!("{error:?}").contains(SECRET));
        }
        let digits = "0".repeat(64);
        for text in [
            SECRET,
            "sha256:00",
            &digits,
            &format!("sha512:{digits}"),
            &format!("sha256:{digits}0"),
            &format!("sha256:{}g", &digits[1..]),
            &format!("sha256:+{}", &digits[1..]),
        ] {
            let error = text.parse::<SecretDigest>().unwrap_err().to_string();
            assert!(error.starts_with("expected `sha256:` and 64"), "{error}");
        }
        assert!(format!("sha256:{digits}").parse::<SecretDigest>().is_ok());
    }
}
