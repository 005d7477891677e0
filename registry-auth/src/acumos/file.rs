//! A directory in a file

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::directory::{Directory, DirectoryError};
use super::facts::{Answer, Query};
use super::records::{Platform, Records, RecordsError};

/// A directory in a YAML file of [`Records`]
///
/// It is read when opened and at each [`reload`](Self::reload), on the calling thread, and
/// answered from memory.
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
        let platform = ArcSwap::from_pointee(load(&path)?);
        Ok(Self { path, platform })
    }

    /// Reads the file again
    ///
    /// # Errors
    ///
    /// [`FileDirectoryError`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), FileDirectoryError> {
        self.platform.store(load(&self.path)?.into());
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

/// The error of a directory that is asked what only the registry knows
pub(super) fn not_asked_here(query: &Query) -> DirectoryError {
    DirectoryError::Invalid {
        cause: format!("{query} are asked of the registry, not of a directory"),
    }
}

fn load(path: &Path) -> Result<Platform, FileDirectoryError> {
    let read = |source| FileDirectoryError::Read {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: opening a pipe would wait for someone to write to it.
    if !fs::metadata(path).map_err(read)?.is_file() {
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
    text.parse::<Records>()
        .and_then(|records| Platform::new(&records))
        .map_err(|source| FileDirectoryError::Records {
            path: path.to_owned(),
            source,
        })
}

/// The largest file that is read, in bytes
const MAX_SIZE: u64 = 32 * 1024 * 1024;
