//! A file of the accounts of programs, read again when it changes

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use registry_auth::{Quoted, SecretDigest, ServiceAccount, ServiceAccountError, ServiceAccounts};
use serde::Deserialize;

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
    use registry_auth::{Authenticator, Credentials, Password, Principal};

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
        let build = Credentials::Basic {
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
}
