//! A directory in a file

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::directory::{Directory, DirectoryError};
use super::facts::{Answer, Query};
use super::passwords::{Login, Passwords};
use super::records::{Platform, Records, RecordsError};

/// A directory in a YAML file of [`Records`]
///
/// It is read when opened and at each [`reload`](Self::reload), on the calling thread, and
/// answered from memory.
///
/// Accounts with a `password`, a bcrypt hash, can log in, by a
/// [`DirectoryAuthenticator`](super::DirectoryAuthenticator). When it was set is not in the file:
/// that is when the file was read with another hash or, when it is opened, when it was last
/// written.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::{Answer, Directory, FileDirectory, Query};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("platform.yml");
/// std::fs::write(&path, "accounts: [{ login: ada }]")?;
/// let directory = FileDirectory::open(&path)?;
/// let Answer::Account(Some(ada)) = directory.answer(&Query::Account("ada".into())).await? else { panic!() };
/// assert!(ada.active);
///
/// std::fs::write(&path, "accounts: ada")?;
/// assert!(directory.reload().is_err()); // and ada still has her account
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileDirectory {
    path: PathBuf,
    platform: ArcSwap<Platform>,
}

/// Why a file is no directory
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileDirectoryError {
    /// It cannot be read
    #[error("cannot read the directory file `{}`: {source}", .path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// What the system says
        source: io::Error,
    },
    /// What it says makes no platform
    #[error("the directory file `{}` is wrong: {source}", .path.display())]
    Records {
        /// The file
        path: PathBuf,
        /// What is wrong, all of it
        source: RecordsError,
    },
    /// It is larger than anything that a file is good for
    #[error(
        "the directory file `{}` is larger than {} MiB; keep that many accounts and solutions in \
         an embedded database",
        .path.display(), MAX_SIZE / 1024 / 1024
    )]
    TooLarge {
        /// The file
        path: PathBuf,
    },
}

impl FileDirectory {
    /// Reads the file
    ///
    /// # Errors
    ///
    /// [`FileDirectoryError`], which names the file and all that is wrong in it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileDirectoryError> {
        let path = path.into();
        let (platform, changed) = load(&path)?;
        let platform = ArcSwap::from_pointee(platform.date(None, changed));
        Ok(Self { path, platform })
    }

    /// Reads the file again
    ///
    /// # Errors
    ///
    /// [`FileDirectoryError`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), FileDirectoryError> {
        let (platform, _) = load(&self.path)?;
        // Until now the password of before was good.
        let platform = platform.date(Some(&self.platform.load()), SystemTime::now());
        self.platform.store(platform.into());
        Ok(())
    }

    /// The file
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl Directory for FileDirectory {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        self.platform
            .load()
            .answer(query)
            .ok_or_else(|| not_asked_here(query))
    }
}

#[async_trait]
impl Passwords for FileDirectory {
    async fn login(&self, login: &str) -> Result<Login, DirectoryError> {
        Ok(self.platform.load().login(login))
    }
}

/// The error of a directory that is asked what only the registry knows
pub(super) fn not_asked_here(query: &Query) -> DirectoryError {
    DirectoryError::Invalid {
        cause: format!("{query} are asked of the registry, not of a directory"),
    }
}

/// What the file says, and when it was last written or put in its place
fn load(path: &Path) -> Result<(Platform, SystemTime), FileDirectoryError> {
    let read = |source| FileDirectoryError::Read {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: opening a pipe would wait for someone to write to it.
    let about = fs::metadata(path).map_err(read)?;
    if !about.is_file() {
        return Err(read(io::Error::other("expected a regular file")));
    }
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text))
        .map_err(read)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(FileDirectoryError::TooLarge {
            path: path.to_owned(),
        });
    }
    // Unlike the time of its content, nobody sets this one back.
    let changed = Duration::from_secs(about.ctime().try_into().unwrap_or(0));
    text.parse::<Records>()
        .and_then(|records| Platform::new(&records))
        .map(|platform| (platform, SystemTime::UNIX_EPOCH + changed))
        .map_err(|source| FileDirectoryError::Records {
            path: path.to_owned(),
            source,
        })
}

/// The largest file that is read, in bytes
const MAX_SIZE: u64 = 32 * 1024 * 1024;
