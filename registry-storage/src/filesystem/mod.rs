//! A folder as storage, on a local disk or a share
//!
//! The root is held open, and every path is opened relative to it, so that a mount that goes
//! away is an error and never an empty registry. What is published was written to a temporary
//! file first, synced, renamed into place, and the folder synced: one function does it all.
//! Several processes may share one root.

mod append;
mod publish;
mod read;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use registry_core::ByteRange;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;

/// Where files are written before they are renamed into place
const TEMPORARY: &str = "_tmp";

/// After which time a temporary file belongs to no living process
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// `f_type` of an NFS mount (`statfs(2)`)
const NFS_SUPER_MAGIC: i64 = 0x6969;

/// A folder as storage
///
/// Cheap to clone; all clones are one.
///
/// # Examples
///
/// ```
/// use registry_storage::{FileSystem, Key, Objects};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let root = tempfile::tempdir()?;
/// let folder = FileSystem::open(root.path())?;
/// let key = Key::parse("docker/registry/v2/note")?;
/// folder.write(&key, "hello".into()).await?;
/// assert_eq!(folder.read(&key, 100).await?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FileSystem {
    root: Arc<Root>,
}

#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    /// Whether small reads are made where they are asked for
    ///
    /// On a local disk such a read takes microseconds, as what is small is nearly always in the
    /// page cache, and a trip to another thread would cost more than the read. On a share it
    /// can take as long as the network does.
    inline: bool,
}

/// Why a folder cannot be a storage
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It cannot be created or opened
    #[error("cannot use the folder `{}`: {source}; choose another with `--root`, or make it a folder that this user may write", path.display())]
    Open {
        /// The folder
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// Nothing can be written in it
    #[error("cannot write in the folder `{}`: {source}; check its owner, mode and mount options", path.display())]
    Write {
        /// The folder
        path: PathBuf,
        /// Why
        source: io::Error,
    },
}

impl FileSystem {
    /// Opens a folder, and creates it if it is not there
    ///
    /// Looks at nothing that is stored, however much it is: only at what was left in the folder
    /// of temporary files.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when it cannot be used.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let failed = |source: io::Error| OpenError::Open {
            path: root.to_owned(),
            source,
        };
        std::fs::create_dir_all(root).map_err(failed)?;
        let fd = fs::open(
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed(errno.into()))?;
        #[allow(clippy::unnecessary_cast)] // its type differs between targets
        let inline = fs::fstatfs(&fd).is_ok_and(|stat| stat.f_type as i64 != NFS_SUPER_MAGIC);
        let root_fd = Root { fd, inline };
        let not_writable = |errno: Errno| OpenError::Write {
            path: root.to_owned(),
            source: errno.into(),
        };
        match fs::mkdirat(&root_fd.fd, TEMPORARY, publish::FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(not_writable(errno)),
        }
        // Whether a file can be made tells more than the mode of the folder.
        let probe = publish::temporary_name();
        fs::openat(
            &root_fd.fd,
            &probe,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            publish::FILE_MODE,
        )
        .map_err(not_writable)?;
        fs::unlinkat(&root_fd.fd, &probe, AtFlags::empty()).map_err(not_writable)?;
        root_fd.remove_abandoned();
        Ok(Self {
            root: Arc::new(root_fd),
        })
    }

    /// Runs small work here, or in the pool where that could take long
    async fn small<T: Send + 'static>(
        &self,
        key: &Key,
        work: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        if self.root.inline {
            work(&self.root)
        } else {
            self.pooled(key, work).await
        }
    }

    /// Runs work that waits for the disk
    async fn pooled<T: Send + 'static>(
        &self,
        key: &Key,
        work: impl FnOnce(&Root) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let root = self.root.clone();
        pooled(key.as_str(), move || work(&root)).await
    }
}

#[async_trait]
impl Objects for FileSystem {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let path = key.clone();
        self.small(key, move |root| root.read(&path, limit)).await
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        let path = key.clone();
        self.small(key, move |root| root.stat(&path)).await
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        let path = key.clone();
        let (file, size) = self.small(key, move |root| root.open_file(&path)).await?;
        let (start, end) = match range {
            None => (0, size),
            Some(range) if range.end() < size => (range.start(), range.end() + 1),
            Some(range) => {
                return Err(StorageError::Corrupt {
                    key: key.to_string(),
                    detail: format!("expected bytes {range}, found only {size} bytes"),
                });
            }
        };
        Ok((size, read::stream(key.clone(), file, start, end)))
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let path = key.clone();
        self.pooled(key, move |root| root.write(&path, &bytes))
            .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        let path = key.clone();
        self.pooled(key, move |root| root.delete(&path)).await
    }

    async fn delete_tree(&self, folder: &Key) -> Result<(), StorageError> {
        let path = folder.clone();
        self.pooled(folder, move |root| root.delete_tree(&path))
            .await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        let (source, target) = (from.clone(), to.clone());
        self.pooled(from, move |root| root.rename(source.as_str(), &target))
            .await
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let path = folder.map_or(".", Key::as_str).to_owned();
        let after = after.map(str::to_owned);
        let root = self.root.clone();
        pooled(&path.clone(), move || {
            root.list(&path, after.as_deref(), limit)
        })
        .await
    }
}

#[async_trait]
impl Uploads for FileSystem {
    async fn append(&self, key: &Key) -> Result<Box<dyn Append>, StorageError> {
        let path = key.clone();
        let file = self
            .pooled(key, move |root| append::AppendFile::open(root, &path))
            .await?;
        Ok(Box::new(file))
    }

    async fn publish(&self, upload: &Key, to: &Key) -> Result<(), StorageError> {
        self.rename(upload, to).await
    }
}

/// Runs blocking work in the pool; work that panics is reported as a failure of the storage
async fn pooled<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StorageError::Transient {
            key: key.to_owned(),
            source: Box::new(error),
        }),
    }
}

/// What an error of the operating system means
pub(super) fn failed(key: &str, errno: Errno) -> StorageError {
    let key = key.to_owned();
    match errno {
        Errno::NOENT | Errno::NOTDIR => StorageError::NotFound { key },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StorageError::Denied {
            key,
            source: Box::new(io::Error::from(errno)),
        },
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StorageError::Full { key },
        _ => StorageError::Transient {
            key,
            source: Box::new(io::Error::from(errno)),
        },
    }
}

/// When a file was last written
fn modified(stat: &fs::Stat) -> Option<SystemTime> {
    let seconds = u64::try_from(stat.st_mtime).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, 0))
}
