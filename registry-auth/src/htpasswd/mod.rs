//! Users with passwords from a file, as Apache's `htpasswd` makes it
//!
//! [`Htpasswd`] is the authenticator. [`File`] and [`Entry`] read, change and write such files,
//! which is what `registry htpasswd` does.
//!
//! Only bcrypt is accepted, in a file that is as it should be from the first line to the last:
//! a registry with other ideas than its operator of who may enter is worse than one that does
//! not start.
//!
//! # What a check costs, and whom
//!
//! bcrypt is slow on purpose: some 50 ms of a processor at cost 10. Who checks what comes, as
//! it comes, can be stopped by anybody with a loop. Therefore:
//!
//! - The right password of a user is remembered, as a keyed hash under a key that this process
//!   made for itself, from its first use until it was not used for a time or the entry changes.
//!   A request that brings it does not wait for anything.
//! - Wrong passwords are remembered too, in a place of their own with a fixed size.
//! - Equal credentials that come at the same time are checked once.
//! - Few checks run at a time, by default on half of the processors. They run on the threads
//!   that tokio has for blocking work, where they hold up no connection. At most some thousand
//!   requests wait for one; the others are told at once to come back
//!   ([`AuthenticateError::Unavailable`]).
//! - Who waits is chosen so that an attacker waits for himself: names that are not in the file,
//!   and users whose right password is remembered when another one comes, cost one hash for all
//!   that wait, however many they are. Of the rest, who failed least lately goes first.
//!
//! One thing remains: for a user whose password was not yet seen since the start, and whose name
//! an attacker tries all the time, only a check can tell the two apart. Such a first login may
//! be told to come back. When it does it goes before those that were turned away less often,
//! and a guess has no reason to come twice; but an attacker who knows this can outdo it. Where
//! that matters, limit addresses in front of the registry: here they are not known.
//!
//! # What the time tells
//!
//! A refusal takes the same work whoever it is for: that of the highest cost in the file, done
//! for a name that is not in it as for a wrong password, in lanes of the same kind and with the
//! same limits. Who keeps many checks waiting at a time can still learn something from the
//! order in which they end, because users of the file, and only they, have to wait for each
//! other; this is the price of the last point of the list above. Waiting in one order for all
//! would let made-up names hold up the users.

mod account;
mod checker;
mod entry;
mod file;
mod fingerprint;
mod hash;
mod lanes;
mod turned_away;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use registry_core::Access;

use crate::authenticator::{AuthenticateError, Authenticator, ChallengeReason, Credentials};
use crate::challenge::Quoted;
use crate::principal::Principal;
use crate::token::Accounts;

pub(crate) use self::account::Account;
pub(crate) use self::checker::Checker;
pub(crate) use self::entry::check_user;
pub use self::entry::{Entry, EntryError, MAX_USER};
pub use self::file::{File, LoadError, MAX_SIZE, ParseError, SaveError};
pub(crate) use self::hash::{Hash, HashError};
pub use self::hash::{MAX_COST, MAX_PASSWORD, MIN_COST};
pub(crate) use self::lanes::Verdict;

/// Knows the users of a file by their passwords
///
/// Cheap to share: put it into an [`Arc`], and keep a clone of that for [`Htpasswd::reload`].
/// See the [module](self) for what it does against attacks.
///
/// A password is compared up to its 72nd byte, as bcrypt does, and Apache and distribution with
/// it: an entry that was made from a longer one keeps working. That gives nothing away, since
/// who knows 72 bytes of a password knows it; what must not happen is that somebody makes an
/// entry and takes the rest for a protection, and [`Entry::new`] refuses that. (Go refuses
/// longer passwords since 2022 where hashes are made, and not where they are checked.)
///
/// # Panics
///
/// [`Authenticator::authenticate`] has to be called within a tokio runtime.
///
/// # Examples
///
/// ```
/// use registry_auth::htpasswd::{Entry, File, Htpasswd, Options};
/// use registry_auth::{
///     AuthenticateError, Authenticator, ChallengeReason, Credentials, Password, Principal,
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("htpasswd");
/// let password = Password::new("correct horse");
/// File::default().with(Entry::new("ada", &password, 4)?).save(&path)?;
///
/// let htpasswd = Htpasswd::open(&path, "Registry Realm".parse()?, Options::default())?;
/// let challenge = htpasswd.challenge(&[], ChallengeReason::LoginRequired);
/// assert_eq!(challenge.as_deref(), Some(r#"Basic realm="Registry Realm""#));
///
/// let ada = |password| Credentials::Basic { user: "ada".into(), password };
/// let principal = htpasswd.authenticate(&ada(password)).await?;
/// assert_eq!(principal, Principal::user("ada"));
/// let wrong = htpasswd.authenticate(&ada(Password::new("battery"))).await;
/// assert_eq!(wrong, Err(AuthenticateError::Rejected));
/// # Ok(())
/// # }
/// ```
pub struct Htpasswd {
    path: PathBuf,
    realm: Quoted,
    table: RwLock<Arc<Table>>,
    checker: Arc<Checker>,
}

/// How much an [`Htpasswd`] may take
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many checks may run at a time
    ///
    /// By default half of the processors and at least one: an attack then leaves the other
    /// half to those who are logged in.
    pub concurrency: NonZeroUsize,
    /// For how long the right password of a user is remembered after it was used last
    ///
    /// By default a day, so that what logs in every night is known the next night. There is
    /// no need to forget, since a changed entry is another one; the limit is for those who
    /// left, of whom the memory of the process should hold nothing for ever.
    pub remember: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            concurrency: NonZeroUsize::new(processors / 2).unwrap_or(NonZeroUsize::MIN),
            remember: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What an [`Htpasswd`] did and does, for metrics
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The bcrypt hashes that were begun
    pub hashes: u64,
    /// The rounds of those hashes, `2^cost` for each
    pub rounds: u64,
    /// The requests that were told to come back
    pub unavailable: u64,
    /// The requests that wait now
    pub waiting: u64,
    /// The users of the file in force
    pub users: u64,
}

impl Htpasswd {
    /// Reads the file, on this thread
    ///
    /// # Errors
    ///
    /// [`LoadError`] for everything but a file of one entry or more.
    pub fn open(
        path: impl Into<PathBuf>,
        realm: Quoted,
        options: Options,
    ) -> Result<Self, LoadError> {
        let path = path.into();
        let table = Table::load(&path, None)?;
        let checker = Checker::new(options).map_err(|_| LoadError::NoKey)?;
        checker.set_highest_cost(table.highest_cost);
        Ok(Self {
            path,
            realm,
            table: RwLock::new(Arc::new(table)),
            checker: Arc::new(checker),
        })
    }

    /// Reads the file anew, on this thread, and returns how many users it has
    ///
    /// From then on it is in force: who was removed is refused, and whose entry changed has to
    /// bring the new password, from the next answer on. Whose entry is the same is not checked
    /// again.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; what was in force remains so.
    pub fn reload(&self) -> Result<usize, LoadError> {
        let table = Table::load(&self.path, Some(&self.table()))?;
        let users = table.entries.len();
        self.checker.set_highest_cost(table.highest_cost);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        Ok(users)
    }

    /// The file
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it did and does
    pub fn counts(&self) -> Counts {
        Counts {
            users: self.table().entries.len() as u64,
            ..self.checker.counts()
        }
    }

    fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn verdict(&self, user: &str, password: &str) -> Result<Verdict, AuthenticateError> {
        loop {
            let account = self.table().account(user).cloned();
            let verdict = self.checker.check(user, password, account.as_ref()).await?;
            // While it waited another file may have come into force.
            let unchanged = match (&account, self.table().account(user)) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (None, None) => true,
                _ => false,
            };
            if unchanged {
                return Ok(verdict);
            }
        }
    }
}

/// A refresh token ends when its user is removed or the entry changes
///
/// After a start it is not known which entries changed, so every one counts as changed when the file
/// was written last: users who logged in before that log in again.
#[async_trait]
impl Accounts for Htpasswd {
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
        match self.table().entries.get(name) {
            Some(entry) if since >= entry.since => Ok(Principal::user(name)),
            _ => Err(AuthenticateError::Rejected),
        }
    }
}

#[async_trait]
impl Authenticator for Htpasswd {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Basic { user, password } => {
                match self.verdict(user, password.expose()).await? {
                    Verdict::Right => Ok(Principal::user(user)),
                    Verdict::Wrong => Err(AuthenticateError::Rejected),
                }
            }
            Credentials::Bearer(_) => Err(AuthenticateError::Rejected),
        }
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        Some(format!("Basic realm={}", self.realm))
    }
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Htpasswd")
            .field("path", &self.path)
            .field("realm", &self.realm)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// The file in force
struct Table {
    entries: HashMap<String, Known>,
    highest_cost: u32,
}

/// An entry of the file
#[derive(Clone)]
struct Known {
    account: Arc<Account>,
    /// Since when, as far as is known, it has been in the file with this hash
    since: SystemTime,
}

impl Table {
    fn account(&self, user: &str) -> Option<&Arc<Account>> {
        self.entries.get(user).map(|known| &known.account)
    }

    fn load(path: &Path, old: Option<&Self>) -> Result<Self, LoadError> {
        let now = SystemTime::now();
        // Who has just started does not know since when an entry is as it is, but since when the
        // file is. To the second, as logins are.
        let since = match old {
            Some(_) => now,
            None => whole_second(written(path).map_or(now, |written| written.min(now))),
        };
        let file = File::load(path)?;
        let highest_cost =
            file.entries()
                .map(Entry::cost)
                .max()
                .ok_or_else(|| LoadError::Empty {
                    path: path.to_owned(),
                })?;
        let entries = file
            .entries()
            .map(|entry| {
                let same = old
                    .and_then(|table| table.entries.get(entry.user()))
                    .filter(|known| known.account.hash == entry.hash);
                let known = match same {
                    Some(known) => known.clone(),
                    None => Known {
                        account: Arc::new(Account::new(entry.hash.clone())),
                        since,
                    },
                };
                (entry.user().to_owned(), known)
            })
            .collect();
        Ok(Self {
            entries,
            highest_cost,
        })
    }
}

/// When a file was written, where the system tells
fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests;
