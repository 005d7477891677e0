//! The accounts of programs, in a file or listed, read again when their secrets change

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use registry_auth::{
    Password, Quoted, SecretDigest, ServiceAccount, ServiceAccountError, ServiceAccounts,
};
use serde::Deserialize;

use crate::config::Secret;
use crate::config::acumos::Credentials;

/// The largest file that is read: programs are few
const LARGEST_FILE: u64 = 1024 * 1024;

/// [`ServiceAccounts`] in a YAML file
///
/// # Examples
///
/// ```
/// use registry_examples::service_accounts::AccountFile;
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("accounts.yml");
/// // What `printf %s "$secret" | sha256sum` prints
/// std::fs::write(&path, "
/// accounts:
///   - name: build
///     secret: sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
///     roles: [pusher]
/// ")?;
/// let file = AccountFile::open(&path, "Registry".parse()?)?;
/// assert_eq!(file.reload()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AccountFile {
    path: PathBuf,
    accounts: Arc<ServiceAccounts>,
}

/// Why accounts are not in force
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountFileError {
    /// The text is no list of accounts
    #[error("`{}`: {problem}", path.display())]
    Invalid {
        /// The file
        path: PathBuf,
        /// What was expected and what came, without any secret
        problem: String,
    },
    /// The file cannot be read
    #[error("cannot read the accounts `{}`: {source}", path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// Why
        source: io::Error,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    accounts: Vec<WrittenAccount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAccount {
    name: String,
    secret: String,
    #[serde(default)]
    roles: Vec<String>,
}

impl AccountFile {
    /// Reads the file; clients are asked for their login with this realm
    ///
    /// # Errors
    ///
    /// [`AccountFileError`], which names the file and the account.
    pub fn open(path: impl Into<PathBuf>, realm: Quoted) -> Result<Self, AccountFileError> {
        let path = path.into();
        let accounts = ServiceAccounts::new(realm, load(&path)?)
            .map_err(|error| invalid(&path, error.to_string()))?;
        Ok(Self {
            path,
            accounts: Arc::new(accounts),
        })
    }

    /// Reads the file again, and returns how many accounts it has; it blocks while it reads
    ///
    /// # Errors
    ///
    /// [`AccountFileError`]; the accounts that were in force stay so.
    pub fn reload(&self) -> Result<usize, AccountFileError> {
        let accounts = load(&self.path)?;
        let count = accounts.len();
        self.accounts
            .replace(accounts)
            .map_err(|error| invalid(&self.path, error.to_string()))?;
        Ok(count)
    }

    /// The accounts in force
    pub fn accounts(&self) -> Arc<ServiceAccounts> {
        self.accounts.clone()
    }
}

/// [`ServiceAccounts`] that a configuration lists, with secrets of their own files or in the clear
///
/// # Examples
///
/// ```
/// use registry_examples::config::Secret;
/// use registry_examples::config::acumos::Credentials;
/// use registry_examples::service_accounts::AccountList;
///
/// let account = Credentials {
///     user: "on-boarding".to_owned(),
///     password: Secret::Text("d81f1a6c2b7e49d0a3c5".to_owned()),
/// };
/// let list = AccountList::open(vec![account], "Acumos".parse()?)?;
/// assert_eq!(list.reload()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AccountList {
    listed: Vec<Credentials>,
    /// Since when what is in the clear is in force, as far as anybody knows
    opened: SystemTime,
    accounts: Arc<ServiceAccounts>,
}

/// Why listed accounts are not in force
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountListError {
    /// Its name or its secret is none that clients can send, or the secret can be guessed
    #[error(transparent)]
    Account(#[from] ServiceAccountError),
    /// The file of a secret cannot be read
    #[error("the secret of `{}`: {source}", name.escape_debug())]
    Secret {
        /// The name of the account
        name: String,
        /// Why, without the secret
        source: io::Error,
    },
}

impl AccountList {
    /// Reads the secrets; clients are asked for their login with this realm
    ///
    /// # Errors
    ///
    /// [`AccountListError`], which names the account.
    pub fn open(listed: Vec<Credentials>, realm: Quoted) -> Result<Self, AccountListError> {
        let opened = SystemTime::now();
        let accounts = ServiceAccounts::new(realm, read(&listed, opened)?)?;
        Ok(Self {
            listed,
            opened,
            accounts: Arc::new(accounts),
        })
    }

    /// Reads the secrets again, and returns how many accounts there are; it blocks while it reads
    ///
    /// # Errors
    ///
    /// [`AccountListError`]; the secrets that were in force stay so.
    pub fn reload(&self) -> Result<usize, AccountListError> {
        self.accounts.replace(read(&self.listed, self.opened)?)?;
        Ok(self.listed.len())
    }

    /// The files of secrets
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.listed
            .iter()
            .filter_map(|account| match &account.password {
                Secret::File(path) => Some(path.as_path()),
                Secret::Text(_) => None,
            })
    }

    /// The accounts in force
    pub fn accounts(&self) -> Arc<ServiceAccounts> {
        self.accounts.clone()
    }
}

fn read(
    listed: &[Credentials],
    opened: SystemTime,
) -> Result<Vec<ServiceAccount>, AccountListError> {
    let account = |listed: &Credentials| {
        let unreadable = |source| AccountListError::Secret {
            name: listed.user.clone(),
            source,
        };
        // Looked at first: what is written meanwhile counts as older than it is, never as newer.
        let since = match &listed.password {
            Secret::Text(_) => opened,
            Secret::File(path) => fs::metadata(path)
                .map_err(unreadable)?
                .modified()
                .unwrap_or(opened),
        };
        let secret = Password::new(listed.password.read().map_err(unreadable)?);
        let account = ServiceAccount::with_secret(&listed.user, &secret)?;
        Ok(account.with_secret_since(since))
    };
    listed.iter().map(account).collect()
}

fn invalid(path: &Path, problem: String) -> AccountFileError {
    AccountFileError::Invalid {
        path: path.to_owned(),
        problem,
    }
}

fn load(path: &Path) -> Result<Vec<ServiceAccount>, AccountFileError> {
    let read = |source| AccountFileError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(read)?;
    if metadata.len() > LARGEST_FILE {
        let problem = format!("it has more than {LARGEST_FILE} bytes");
        return Err(invalid(path, problem));
    }
    let text = fs::read_to_string(path).map_err(read)?;
    // The reader's own words may repeat what is there, which may be a secret in clear text.
    let written: Written = serde_saphyr::from_str(&text).map_err(|error| {
        let place = error.location().map_or_else(String::new, |location| {
            format!("line {}: ", location.line())
        });
        let problem = format!(
            "{place}expected `accounts`, a list of sections with `name`, `secret` and `roles`"
        );
        invalid(path, problem)
    })?;
    // A secret is as old as its file at least.
    let since = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let account = |written: WrittenAccount| -> Result<ServiceAccount, String> {
        let digest: SecretDigest = written
            .secret
            .parse()
            .map_err(|error| format!("the secret of `{}`: {error}", written.name.escape_debug()))?;
        ServiceAccount::with_digest(&written.name, digest)
            .map(|account| account.with_roles(written.roles).with_secret_since(since))
            .map_err(|error: ServiceAccountError| error.to_string())
    };
    written
        .accounts
        .into_iter()
        .map(|written| account(written).map_err(|problem| invalid(path, problem)))
        .collect()
}

#[cfg(test)]
mod tests {
    use registry_auth::{Authenticator, Credentials as Login, Principal};

    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[tokio::test]
    async fn a_bad_file_is_refused_and_keeps_the_accounts_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.yml");
        let realm = || "Registry".parse::<Quoted>().unwrap();
        let missing = AccountFile::open(&path, realm()).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read the accounts"), "{missing}");
        let good = format!("accounts: [{{name: build, secret: '{ABC}', roles: [pusher]}}]");
        fs::write(&path, &good).unwrap();
        let file = AccountFile::open(&path, realm()).unwrap();
        let build = Login::Basic {
            user: "build".to_owned(),
            password: Password::new("abc"),
        };
        let expected = Ok(Principal::service("build").with_roles(["pusher"]));
        for bad in [
            "",
            "accounts: hunter2",
            "accounts: [{name: build, secret: hunter2}]",
            "accounts: [{name: 'a:b', secret: hunter2}]",
            "accounts: [{name: build, secret: [hunter2]}]",
            "accounts: [{name: build, hunter2: x}]",
            &format!(
                "accounts: [{{name: build, secret: '{ABC}'}}, {{name: build, secret: '{ABC}'}}]"
            ),
        ] {
            fs::write(&path, bad).unwrap();
            let error = file.reload().unwrap_err().to_string();
            assert!(error.contains("accounts.yml"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert_eq!(file.accounts().authenticate(&build).await, expected);
        }
        fs::write(&path, "accounts: []").unwrap();
        assert_eq!(file.reload().unwrap(), 0);
        assert!(file.accounts().authenticate(&build).await.is_err());
    }

    #[tokio::test]
    async fn a_listed_secret_is_read_again_and_a_bad_one_is_not_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("on-boarding");
        let listed = || Credentials {
            user: "on-boarding".to_owned(),
            password: Secret::File(path.clone()),
        };
        let open = || AccountList::open(vec![listed()], "Acumos".parse().unwrap());
        let missing = open().unwrap_err().to_string();
        assert!(
            missing.starts_with("the secret of `on-boarding`: "),
            "{missing}"
        );
        let [first, second] = ["hunter2-0123456789", "hunter2-9876543210"];
        // As `openssl rand -hex 32 >FILE` leaves it.
        fs::write(&path, format!("{first}\n")).unwrap();
        let list = open().unwrap();
        assert_eq!(list.paths().collect::<Vec<_>>(), [path.as_path()]);
        let accounts = list.accounts();
        let login = async |secret: &str| {
            let credentials = Login::Basic {
                user: "on-boarding".to_owned(),
                password: Password::new(secret),
            };
            accounts.authenticate(&credentials).await.is_ok()
        };
        assert!(login(first).await && !login(second).await);
        for bad in ["", "\n", "hunter2"] {
            fs::write(&path, bad).unwrap();
            let error = list.reload().unwrap_err().to_string();
            assert!(error.contains("`on-boarding`"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(login(first).await);
        }
        fs::write(&path, second).unwrap();
        assert_eq!(list.reload().unwrap(), 1);
        assert!(!login(first).await && login(second).await);
    }
}
