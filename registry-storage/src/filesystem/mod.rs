//! A folder as storage, on a local disk or a share
//!
//! The root is held open, and every path is opened relative to it, so that a root that goes
//! away is an error and never an empty registry. What is published was written to a temporary
//! file first, synced, renamed into place, and the folder synced: one function does it all.
//! Several processes may share one root.

mod append;
mod publish;
mod read;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use registry_core::range::ByteRange;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use self::append::FileAppend;
use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;

/// Where files are written before they are renamed into place; no key may begin with it
const TEMPORARY: &str = "_tmp";

/// File systems (`f_type` of `statfs(2)`) whose answers come from elsewhere
///
/// What is not listed is taken for local. FUSE is here because nobody knows what is behind it.
const REMOTE: [u32; 12] = [
    0x0000_6969, // NFS
    0x0000_517b, // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x0bd0_0bd0, // Lustre
    0x0116_1970, // GFS2
    0x7461_636f, // OCFS2
    0x4750_4653, // GPFS
];

/// A folder as storage
///
/// Cheap to clone; all clones are one. Several processes may open one folder, also on several
/// machines that share it. The file system must be able to lock files (`flock(2)`) and to
/// rename them atomically, as all local ones and NFS from version 4 are.
///
/// Temporary files are in `_tmp` below the root; the keys below `_tmp` are not to be used.
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
struct Root {
    fd: File,
    path: PathBuf,
    /// Whether the file system is on another machine, as far as we can tell
    remote: bool,
}

/// Why a folder cannot be a storage
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not there and cannot be created
    #[error("cannot create the storage folder `{}`: {source}; create it for the user that runs the registry, or choose another", path.display())]
    Create {
        /// The folder
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// Something else has its name
    #[error("`{}` is not a folder; choose a folder for the storage, or a name that is free", path.display())]
    NotAFolder {
        /// What is no folder
        path: PathBuf,
    },
    /// It is there and cannot be opened
    #[error("cannot open the storage folder `{}`: {source}; let the user that runs the registry read, write and enter it", path.display())]
    Open {
        /// The folder
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// Nothing can be written in it
    #[error("cannot write in the storage folder `{}`: {source}; check its owner and mode, whether it is mounted read-only, and whether the disk is full", path.display())]
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
    /// Looks at nothing that is stored, however much it is: only at what processes that were
    /// killed more than a day ago left of temporary files, and removes it.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when it cannot be used.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let path = || root.to_owned();
        create(root).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                OpenError::NotAFolder { path: path() }
            }
            _ => OpenError::Create {
                path: path(),
                source,
            },
        })?;
        let fd = fs::open(
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| OpenError::Open {
            path: path(),
            source: errno.into(),
        })?;
        // Not to know is to be careful: the careful way is only a little slower.
        #[allow(clippy::unnecessary_cast)] // its type differs between targets
        let remote = fs::fstatfs(&fd).map_or(true, |stat| REMOTE.contains(&(stat.f_type as u32)));
        let opened = Root {
            fd: File::from(fd),
            path: path(),
            remote,
        };
        opened.prepare().map_err(|source| OpenError::Write {
            path: path(),
            source,
        })?;
        Ok(Self {
            root: Arc::new(opened),
        })
    }

    async fn open_append(
        &self,
        upload: &Key,
        create: bool,
    ) -> Result<Box<dyn Append>, StorageError> {
        let path = upload.clone();
        let opened = self
            .pooled(upload.as_str(), move |root| {
                FileAppend::open(root.clone(), path, create)
            })
            .await?;
        Ok(Box::new(opened))
    }

    /// Runs work that may wait for the disk
    async fn pooled<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Arc<Root>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let root = self.root.clone();
        pooled(key, move || work(&root)).await
    }
}

impl Root {
    /// Shows that files can be made, and removes those that were abandoned
    ///
    /// Making one says more than the mode of the folder does.
    fn prepare(&self) -> Result<(), io::Error> {
        let probe = publish::temporary_name();
        let file = self.create_temporary(&probe)?;
        // The file system's own clock, which on a share is another than ours.
        let now = file.metadata().and_then(|metadata| metadata.modified());
        fs::unlinkat(&self.fd, &probe, AtFlags::empty())?;
        self.remove_abandoned(now?);
        Ok(())
    }

    /// What it means that `key` is not there, or cannot be
    ///
    /// Below a root that was deleted nothing is found either, and that is no absence.
    fn absent(&self, key: &str) -> StorageError {
        if fs::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink > 0) {
            return StorageError::NotFound {
                key: key.to_owned(),
            };
        }
        StorageError::Transient {
            key: key.to_owned(),
            source: format!(
                "the storage folder `{}` was deleted or unmounted while it was in use; \
                 bring it back and restart",
                self.path.display()
            )
            .into(),
        }
    }

    /// What an error says of something that was to be read or removed
    fn missed(&self, key: &str, errno: Errno) -> StorageError {
        match errno {
            // A name that is too long for the file system cannot be there.
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => self.absent(key),
            errno => failed(key, errno),
        }
    }
}

#[async_trait]
impl Objects for FileSystem {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        if let Some(read) = self.root.read_cached(key, limit) {
            return read;
        }
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.read(&path, limit))
            .await
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        let object = self.open_object(key).await?;
        Ok(object.stat())
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        let object = self.open_object(key).await?;
        let size = object.stat().size;
        let (start, end) = match range {
            None => (0, size),
            Some(range) if range.end() < size => (range.start(), range.end() + 1),
            Some(range) => {
                return Err(StorageError::Corrupt {
                    key: key.to_string(),
                    detail: format!("expected the bytes {range}, found only {size} bytes"),
                });
            }
        };
        Ok((size, object.stream(key.clone(), start, end)))
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.write(&path, &bytes))
            .await
    }

    async fn write_unsynced(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.write_unsynced(&path, &bytes))
            .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.delete(&path))
            .await
    }

    async fn delete_tree(&self, key: &Key) -> Result<(), StorageError> {
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.delete_tree(&path))
            .await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        let (source, target) = (from.clone(), to.clone());
        self.pooled(from.as_str(), move |root| root.rename(&source, &target))
            .await
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let path = folder.cloned();
        let after = after.map(str::to_owned);
        self.pooled(folder.map_or(".", Key::as_str), move |root| {
            root.list(path.as_ref(), after.as_deref(), limit)
        })
        .await
    }
}

#[async_trait]
impl Uploads for FileSystem {
    async fn append(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        self.open_append(upload, true).await
    }

    async fn reopen(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        self.open_append(upload, false).await
    }

    async fn progress(&self, upload: &Key) -> Result<Stat, StorageError> {
        self.stat(upload).await
    }
}

/// Creates a folder and those above it, durably
fn create(folder: &Path) -> Result<(), io::Error> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = match folder.parent() {
        Some(path) if path != Path::new("") => path,
        _ => Path::new("."),
    };
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.exists() => {
            create(parent)?;
            std::fs::create_dir(folder)?;
        }
        // Another process starts at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        created => created?,
    }
    File::open(parent)?.sync_all()
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
            source: error.into(),
        }),
    }
}

/// What an error of the operating system means, where it does not mean absence
fn failed(key: &str, errno: Errno) -> StorageError {
    let key = key.to_owned();
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StorageError::Denied {
            key,
            source: io::Error::from(errno).into(),
        },
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StorageError::Full { key },
        Errno::NOTDIR | Errno::ISDIR => StorageError::Corrupt {
            key,
            detail: format!(
                "expected folders on the way and a file at the end, found otherwise ({})",
                io::Error::from(errno)
            ),
        },
        Errno::XDEV => StorageError::Denied {
            key,
            source: "the storage folder spans several file systems, expected it to be all on \
                     one; mount the whole of it"
                .into(),
        },
        errno => StorageError::Transient {
            key,
            source: io::Error::from(errno).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    /// A folder that is treated as if it were on another machine
    fn remote(root: &Path) -> FileSystem {
        let mut folder = FileSystem::open(root).unwrap();
        Arc::get_mut(&mut folder.root).unwrap().remote = true;
        folder
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_share_passes_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (remote(root.path()), remote(root.path()));
        suite::run(Arc::new(one.clone())).await;
        suite::run_shared(Arc::new(one), Arc::new(other)).await;
    }

    #[tokio::test]
    async fn what_is_small_and_cached_is_read_without_the_pool() {
        let root = tempfile::tempdir().unwrap();
        let folder = FileSystem::open(root.path()).unwrap();
        let key = Key::parse("a/b").unwrap();
        folder.write(&key, "hello".into()).await.unwrap();
        // Not every kernel and file system can tell, but those that can must agree.
        match folder.root.read_cached(&key, 10) {
            Some(read) => assert_eq!(read.unwrap(), "hello"),
            None => eprintln!("not tested: no cached reads here; use Linux 5.12 and ext4 or xfs"),
        }
        assert!(remote(root.path()).root.read_cached(&key, 10).is_none());
        folder.write(&key, vec![1; 100_000].into()).await.unwrap();
        assert!(folder.root.read_cached(&key, 100_000).is_none());
    }

    #[test]
    fn errors_keep_their_kinds() {
        for (errno, is_kind) in [
            (
                Errno::ACCESS,
                StorageError::is_denied as fn(&StorageError) -> bool,
            ),
            (Errno::PERM, StorageError::is_denied),
            (Errno::ROFS, StorageError::is_denied),
            (Errno::XDEV, StorageError::is_denied),
            (Errno::NOSPC, StorageError::is_full),
            (Errno::DQUOT, StorageError::is_full),
            (Errno::ISDIR, StorageError::is_corrupt),
            (Errno::IO, StorageError::is_transient),
            (Errno::STALE, StorageError::is_transient),
            (Errno::MFILE, StorageError::is_transient),
            (Errno::NOENT, StorageError::is_transient),
        ] {
            let error = failed("a", errno);
            assert!(is_kind(&error), "{errno:?}: {error}");
        }
        let root = tempfile::tempdir().unwrap();
        let folder = FileSystem::open(root.path()).unwrap();
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG] {
            assert!(folder.root.missed("a", errno).is_not_found());
        }
        assert!(folder.root.missed("a", Errno::IO).is_transient());
    }
}
