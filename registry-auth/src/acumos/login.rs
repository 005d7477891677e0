//! Users of the platform by their password or API token
//!
//! The platform blocks a user for a quarter of an hour after three wrong logins, writes to its
//! database at every right one, and a single `docker pull` brings the same credentials dozens of
//! times. Therefore:
//!
//! - What was right is remembered for some minutes, as a keyed hash under a key that this process
//!   made for itself; what was wrong is remembered for as long as the platform blocks, in a place
//!   of its own with a fixed size.
//! - One login runs at a time for each name, and those that wait for it take its answer, be it
//!   that the platform does not answer. It goes on when the request that began it is given up.
//! - A name that used up its wrong attempts, here or by word of the platform, is refused without
//!   asking until they are forgotten.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use quick_cache::sync::Cache;
use registry_core::Access;
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::cds::{Attempt, Cds, Login};
use super::facts::Account;
use super::passwords::NoKey;
use crate::authenticator::{AuthenticateError, Authenticator, ChallengeReason, Credentials};
use crate::challenge::Quoted;
use crate::principal::Principal;
use crate::request;

/// Knows the users of the platform by what CDS says of their credentials
///
/// The principal has the login name as the platform writes it, whatever case, or whether the
/// e-mail address, was used to log in, and the user's active roles. Users whose account is not
/// active, not verified, or whose password has expired are refused.
///
/// # Panics
///
/// [`Authenticator::authenticate`] has to be called within a tokio runtime.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::{Cds, CdsAuthenticator, Endpoint, LoginOptions};
/// use registry_auth::{Authenticator, ChallengeReason};
///
/// let cds = Cds::new(Endpoint::new("http://cds-service:8000/ccds")?)?;
/// let users = CdsAuthenticator::new(cds, "Acumos".parse()?, LoginOptions::default())?;
/// assert_eq!(
///     users.challenge(&[], ChallengeReason::LoginRequired).as_deref(),
///     Some(r#"Basic realm="Acumos""#),
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CdsAuthenticator {
    realm: Quoted,
    inner: Arc<Inner>,
}

/// How users of the platform may log in
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::{LoginOptions, Secrets};
///
/// let options = LoginOptions { secrets: Secrets::Token, ..LoginOptions::default() };
/// assert_eq!(options.wrong_attempts.get(), 3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginOptions {
    /// What is taken as a password; by default both
    pub secrets: Secrets,
    /// For how long right credentials are remembered after they were checked
    ///
    /// By default five minutes: for that long a changed password or a closed account still
    /// logs in here.
    pub remember: Duration,
    /// How many wrong attempts for a name are passed on before it is refused for
    /// [`block`](Self::block)
    ///
    /// By default three, after which the platform blocks the user. With fewer, nobody can get a
    /// user blocked there by way of the registry. A wrong secret that is tried both as password
    /// and as token is two attempts.
    pub wrong_attempts: NonZeroUsize,
    /// For how long wrong credentials, and how many there were for a name, are remembered; by
    /// default 15 minutes, which is for how long the platform blocks
    pub block: Duration,
    /// How many logins may run at a time; by default 16
    pub concurrency: NonZeroUsize,
}

impl Default for LoginOptions {
    fn default() -> Self {
        const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();
        const SIXTEEN: NonZeroUsize = NonZeroUsize::new(16).unwrap();
        Self {
            secrets: Secrets::Both,
            remember: Duration::from_secs(5 * 60),
            wrong_attempts: THREE,
            block: Duration::from_secs(15 * 60),
            concurrency: SIXTEEN,
        }
    }
}

/// What is taken as a password
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Secrets {
    /// The account's password, and if it is not that, the API token
    Both,
    /// The account's password
    Password,
    /// The API token from the portal's account settings
    Token,
}

impl CdsAuthenticator {
    /// Asks this CDS, and asks clients for their login with this realm
    ///
    /// # Errors
    ///
    /// [`NoKey`] when the system gives no random numbers.
    pub fn new(cds: Cds, realm: Quoted, options: LoginOptions) -> Result<Self, NoKey> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|_| NoKey)?;
        Ok(Self {
            realm,
            inner: Arc::new(Inner {
                cds,
                options,
                key: Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"),
                right: Cache::new(REMEMBERED),
                wrong: Cache::new(REMEMBERED),
                misses: Cache::new(REMEMBERED),
                gates: Mutex::default(),
                running: Semaphore::new(options.concurrency.get().min(Semaphore::MAX_PERMITS)),
            }),
        })
    }
}

#[async_trait]
impl Authenticator for CdsAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Basic { user, password } => {
                self.inner.authenticate(user, password.expose()).await
            }
            Credentials::Bearer(_) => Err(AuthenticateError::Rejected),
        }
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        Some(format!("Basic realm={}", self.realm))
    }
}

impl fmt::Debug for CdsAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CdsAuthenticator")
            .field("realm", &self.realm)
            .field("cds", &self.inner.cds)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

struct Inner {
    cds: Cds,
    options: LoginOptions,
    key: Hmac<Sha256>,
    right: Cache<Fingerprint, Right>,
    wrong: Cache<Fingerprint, Instant>,
    misses: Cache<Fingerprint, Misses>,
    /// The names for which a login runs or is waited for
    gates: Mutex<HashMap<Fingerprint, Arc<Gate>>>,
    running: Semaphore,
}

/// A keyed hash of a name, or of a name and a secret
type Fingerprint = [u8; 32];

/// Lets one login through at a time
type Gate = tokio::sync::Mutex<Option<Outage>>;

/// CDS did not answer the one who waited before
#[derive(Clone, Copy)]
struct Outage {
    until: Instant,
    retry_after: Duration,
}

#[derive(Clone)]
struct Right {
    principal: Principal,
    until: Instant,
}

/// The wrong attempts for a name
#[derive(Clone, Copy)]
struct Misses {
    count: usize,
    until: Instant,
}

impl Inner {
    async fn authenticate(
        self: &Arc<Self>,
        user: &str,
        secret: &str,
    ) -> Result<Principal, AuthenticateError> {
        // Nobody has these, and each would count as an attempt.
        if user.is_empty() || secret.is_empty() || user.len() > LONGEST || secret.len() > LONGEST {
            return Err(AuthenticateError::Rejected);
        }
        // The platform does not tell cases apart, and counts the attempts of all of them as one.
        let name = self.fingerprint(&user.to_lowercase(), None);
        let credentials = self.fingerprint(user, Some(secret));
        if let Some(verdict) = self.recall(&name, &credentials) {
            return verdict;
        }
        let came = Instant::now();
        let place = self.place(name);
        let mut outage = place.gate.clone().lock_owned().await;
        // What the one before learnt.
        if let Some(verdict) = self.recall(&name, &credentials) {
            return verdict;
        }
        if let Some(Outage { until, retry_after }) = *outage
            && came < until
        {
            return Err(AuthenticateError::Unavailable { retry_after });
        }
        let (user, secret) = (user.to_owned(), secret.to_owned());
        // A task of its own: a client that hangs up must not be able to make it begin anew.
        let asker = request::name();
        let login = tokio::spawn(async move {
            let inner = place.inner.clone();
            let verdict = inner.log_in(name, credentials, &user, &secret);
            let verdict = request::maybe_on_behalf_of(asker, verdict).await;
            *outage = match &verdict {
                Err(AuthenticateError::Unavailable { retry_after }) => Some(Outage {
                    until: Instant::now(),
                    retry_after: *retry_after,
                }),
                _ => None,
            };
            drop(outage);
            drop(place);
            verdict
        });
        login
            .await
            .unwrap_or(Err(AuthenticateError::Unavailable { retry_after: BUSY }))
    }

    async fn log_in(
        &self,
        name: Fingerprint,
        credentials: Fingerprint,
        user: &str,
        secret: &str,
    ) -> Result<Principal, AuthenticateError> {
        let unavailable = |retry_after| AuthenticateError::Unavailable { retry_after };
        let _permit = tokio::time::timeout(BUSY, self.running.acquire())
            .await
            .map_err(|_| unavailable(BUSY))?
            .map_err(|_| unavailable(BUSY))?;
        let ways: &[Login] = match self.options.secrets {
            Secrets::Both => &[Login::Password, Login::Token],
            Secrets::Password => &[Login::Password],
            Secrets::Token => &[Login::Token],
        };
        for way in ways {
            if self.is_spent(&name) {
                break;
            }
            match self.cds.login(*way, user, secret).await {
                Ok(Attempt::Right(account)) => {
                    self.misses.remove(&name);
                    return self.admit(credentials, account);
                }
                Ok(Attempt::Wrong) => self.miss(name),
                Ok(Attempt::Blocked { seconds }) => {
                    let block = seconds.map_or(self.options.block, Duration::from_secs);
                    tracing::warn!(
                        seconds = block.as_secs(),
                        "the platform blocks a user after wrong logins; they are refused meanwhile",
                    );
                    self.misses.insert(
                        name,
                        Misses {
                            count: usize::MAX,
                            until: from_now(block),
                        },
                    );
                    // These credentials may be the right ones, once the block has ended.
                    return Err(AuthenticateError::Rejected);
                }
                Err(error) => {
                    tracing::warn!(%error, "a user cannot be logged in");
                    return Err(unavailable(error.retry_after()));
                }
            }
        }
        self.wrong.insert(credentials, from_now(self.options.block));
        Err(AuthenticateError::Rejected)
    }

    fn admit(
        &self,
        credentials: Fingerprint,
        account: Account,
    ) -> Result<Principal, AuthenticateError> {
        if !account.active {
            // Remembered for no longer than what is right: the account may be made active.
            self.wrong
                .insert(credentials, from_now(self.options.remember));
            return Err(AuthenticateError::Rejected);
        }
        let principal = Principal::user(account.login).with_roles(account.roles);
        self.right.insert(
            credentials,
            Right {
                principal: principal.clone(),
                until: from_now(self.options.remember),
            },
        );
        Ok(principal)
    }

    /// What can be said without asking
    fn recall(
        &self,
        name: &Fingerprint,
        credentials: &Fingerprint,
    ) -> Option<Result<Principal, AuthenticateError>> {
        let now = Instant::now();
        if let Some(right) = self.right.get(credentials)
            && now < right.until
        {
            return Some(Ok(right.principal));
        }
        let is_wrong = self.wrong.get(credentials).is_some_and(|until| now < until);
        (is_wrong || self.is_spent(name)).then_some(Err(AuthenticateError::Rejected))
    }

    fn is_spent(&self, name: &Fingerprint) -> bool {
        self.misses.get(name).is_some_and(|misses| {
            Instant::now() < misses.until && misses.count >= self.options.wrong_attempts.get()
        })
    }

    /// Counts a wrong attempt; only one login runs for a name, so none is lost
    fn miss(&self, name: Fingerprint) {
        let now = Instant::now();
        let before = self
            .misses
            .get(&name)
            .filter(|misses| now < misses.until)
            .map_or(0, |misses| misses.count);
        self.misses.insert(
            name,
            Misses {
                count: before.saturating_add(1),
                until: from_now(self.options.block),
            },
        );
    }

    fn place(self: &Arc<Self>, name: Fingerprint) -> Place {
        let gate = self.gates().entry(name).or_default().clone();
        Place {
            inner: self.clone(),
            name,
            gate,
        }
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<Fingerprint, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fingerprint(&self, user: &str, secret: Option<&str>) -> Fingerprint {
        let mut mac = self.key.clone();
        mac.update(&[u8::from(secret.is_some())]);
        // The length stands before the name, so that no other split could be meant.
        mac.update(&(user.len() as u64).to_le_bytes());
        mac.update(user.as_bytes());
        mac.update(secret.unwrap_or_default().as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// A place at the gate of a name, which goes when nobody has one any more
struct Place {
    inner: Arc<Inner>,
    name: Fingerprint,
    gate: Arc<Gate>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut gates = self.inner.gates();
        // The table's and this one; the lock was dropped before. Nobody comes to another without
        // the table.
        if Arc::strong_count(&self.gate) <= 2 {
            gates.remove(&self.name);
        }
    }
}

/// When something ends that begins now
fn from_now(duration: Duration) -> Instant {
    Instant::now() + duration.min(LONGEST_MEMORY)
}

/// How many credentials, and how many names, are remembered; some megabytes
const REMEMBERED: usize = 16 * 1024;

/// The longest name or secret that is passed on: several times what the platform stores
const LONGEST: usize = 1024;

/// For how long a login may wait for others, and then when to come back
const BUSY: Duration = Duration::from_secs(5);

/// Nothing is remembered for longer, whatever an operator or the platform says
const LONGEST_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acumos::Endpoint;

    #[tokio::test]
    async fn names_that_nobody_waits_for_are_forgotten() {
        // It accepts connections and says nothing.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let timeout = Duration::from_millis(200);
        let cds = Cds::new(Endpoint::new(&url).unwrap().with_timeout(timeout)).unwrap();
        let options = LoginOptions::default();
        let users = CdsAuthenticator::new(cds, "Acumos".parse().unwrap(), options).unwrap();
        let inner = &users.inner;
        let ask = |user| inner.authenticate(user, "secret");
        // One that begins, one that waits for it, and one that gives up waiting.
        let (first, second, third) = tokio::join!(
            ask("ada"),
            ask("ada"),
            tokio::time::timeout(Duration::from_millis(20), ask("ada")),
        );
        assert!(first.is_err() && second.is_err() && third.is_err());
        // The one that begins gives up, and nobody comes after it.
        let given_up = tokio::time::timeout(Duration::from_millis(20), ask("eve")).await;
        assert!(given_up.is_err());
        assert_eq!(inner.gates().len(), 1);
        let emptied = async {
            while !inner.gates().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), emptied).await;
        assert!(in_time.is_ok());
    }

    #[test]
    fn every_part_of_a_fingerprint_counts() {
        let url = Endpoint::new("http://127.0.0.1:1").unwrap();
        let users = |cds| {
            CdsAuthenticator::new(cds, "Acumos".parse().unwrap(), LoginOptions::default()).unwrap()
        };
        let one = users(Cds::new(url.clone()).unwrap());
        let two = users(Cds::new(url).unwrap());
        let mut all = vec![
            one.inner.fingerprint("ada", None),
            one.inner.fingerprint("adap", None),
            one.inner.fingerprint("ada", Some("p")),
            one.inner.fingerprint("adap", Some("")),
            one.inner.fingerprint("ad", Some("ap")),
            one.inner.fingerprint("ada", Some("q")),
            two.inner.fingerprint("ada", Some("p")),
        ];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
    }
}
