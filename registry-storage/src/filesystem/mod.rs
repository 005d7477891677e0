//! A folder as storage, on a local disk or a share
//!
//! The root is held open, and every path is opened relative to it, so that a root that goes
//! away is an error and never an empty registry. What is published was written to a temporary
//! file first, synced, renamed into place, and the folder synced: one function does it all.
//! Several processes may share one root.

mod append;
mod buffers;
mod errand;
mod list;
mod mount;
mod publish;
mod read;
mod room;
mod share;
mod spares;
mod watch;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::range::ByteRange;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use self::append::FileAppend;
use self::buffers::Buffers;
use self::errand::Errands;
use self::list::Listings;
use self::share::Openings;
use self::spares::Spares;
use self::watch::Watched;
use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;
use crate::piece::PieceStream;

pub use self::mount::{Mount, MountWarning};

/// Where files are written before they are renamed into place; no key may begin with it
const TEMPORARY: &str = "_tmp";

/// A folder as storage
///
/// Cheap to clone; all clones are one. Several processes may open one folder, also on several
/// machines that share it. The file system must be able to lock files (`flock(2)`) and to
/// rename them atomically, as all local ones and NFS are.
///
/// Temporary files are in `_tmp` below the root; the keys below `_tmp` are not to be used.
///
/// # Local disks
///
/// Links that are read often, and the names in large folders, are kept in memory for as long as
/// the kernel says that nothing has changed, by whichever process: what is stored, replaced or
/// deleted is seen with the next call. Up to 1,024 links are kept, for which some 3,000 of the
/// folders that a user of the system may watch (`fs.inotify.max_user_watches`) are
/// used; where there are fewer, less is kept.
///
/// # NFS
///
/// Versions 3 and 4, with the default mount options, for any number of machines. What one has
/// stored, replaced or deleted, the others see with their next call; no answer is kept. That an
/// object is absent is said only after the server was asked for the folders on the way.
///
/// - Locks must hold between the machines: [`OpenError::LocalLocks`] refuses `nolock` and
///   `local_lock`. Version 3 needs `rpc.statd` for them on clients and server. Of a machine that
///   dies, an upload's lock stays until the server lets its lease run out, 90 seconds by default
///   in version 4; the uploads that it had open are [`StorageError::Busy`] until then.
/// - What is durable when a call returns is so as far as the server keeps its word: an export
///   with the option `async` does not.
/// - A file that is deleted while it is streamed elsewhere is gone for the reader too in version
///   3: the stream ends with an error, except where the same blob was stored again meanwhile.
///   Whoever collects garbage should leave readers time, and settle for longer than the clients'
///   `acdirmax`, 60 seconds by default, between saying that something goes and deleting it: a
///   server that tells changes by a coarse clock (Linux before 6.13: 4 ms) may hide one for as long.
/// - Every look at a name costs a request for its folder, for which a local disk needs none.
/// - For what hurts of the mount's options, see [`Mount::warnings`].
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
    mount: Mount,
    openings: Openings,
    buffers: Arc<Buffers>,
    errands: Errands,
    listings: Listings,
    watched: Watched,
    spares: Spares,
    /// Whether room for uploads is made ahead
    room_ahead: bool,
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
    /// Its locks do not hold between the machines that share it
    #[error("the share that `{}` is on is mounted with `{option}`, so two registries could write one upload at the same time; mount it with `local_lock=none` and without `nolock`: version 4 needs nothing for it, version 3 needs rpc.statd", path.display())]
    LocalLocks {
        /// The folder
        path: PathBuf,
        /// The mount option that does it
        option: String,
    },
    /// Files in it cannot be locked
    #[error("cannot lock a file in the storage folder `{}`: {source}; choose a file system with locks (flock); NFS version 3 needs rpc.statd on this machine and on the server for them", path.display())]
    Lock {
        /// The folder
        path: PathBuf,
        /// Why
        source: io::Error,
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
        let fd = File::from(fd);
        let mount = Mount::of(&fd);
        if let Some(option) = mount.local_locks() {
            return Err(OpenError::LocalLocks {
                path: path(),
                option: option.to_owned(),
            });
        }
        let opened = Root {
            listings: Listings::of(&fd),
            watched: Watched::of(&fd),
            buffers: Arc::default(),
            errands: Errands::default(),
            spares: Spares::default(),
            room_ahead: mount::pays_to_make_room(&fd) && !mount.is_remote(),
            fd,
            path: path(),
            mount,
            openings: Openings::new(),
        };
        opened.prepare()?;
        Ok(Self {
            root: Arc::new(opened),
        })
    }

    /// What the folder is mounted from, and whether that will do
    ///
    /// Worth a line in the log at the start, and one for each of [`Mount::warnings`].
    pub fn mount(&self) -> &Mount {
        &self.root.mount
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
    /// Shows that files can be made and locked, and removes those that were abandoned
    ///
    /// Making one says more than the mode of the folder does.
    fn prepare(&self) -> Result<(), OpenError> {
        let write = |source| OpenError::Write {
            path: self.path.clone(),
            source,
        };
        let probe = publish::temporary_name();
        let file = self
            .create_temporary(&probe)
            .map_err(|errno| write(errno.into()))?;
        let locked = fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        // The file system's own clock, which on a share is another than ours.
        let now = file.metadata().and_then(|metadata| metadata.modified());
        // Closed first: an NFS client keeps what is open when it is deleted.
        drop(file);
        fs::unlinkat(&self.fd, &probe, AtFlags::empty()).map_err(|errno| write(errno.into()))?;
        locked.map_err(|errno| OpenError::Lock {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        self.remove_abandoned(now.map_err(write)?);
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

/// Where the bytes of an object begin and end, of which all or those in `range` are wanted
fn bounds(key: &Key, range: Option<ByteRange>, size: u64) -> Result<(u64, u64), StorageError> {
    match range {
        None => Ok((0, size)),
        Some(range) if range.end() < size => Ok((range.start(), range.end() + 1)),
        Some(range) => Err(StorageError::Corrupt {
            key: key.to_string(),
            detail: format!("expected the bytes {range}, found only {size} bytes"),
        }),
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
        if let Some(opened) = self.root.open_cached(key) {
            return opened.map(|object| object.stat());
        }
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.stat(&path))
            .await
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        let object = self.open_object(key).await?;
        let size = object.stat().size;
        let (start, end) = bounds(key, range, size)?;
        let stream = object.stream(self.root.clone(), key.clone(), start, end);
        Ok((size, stream))
    }

    async fn pieces(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, PieceStream), StorageError> {
        let object = self.open_object(key).await?;
        let size = object.stat().size;
        let (start, end) = bounds(key, range, size)?;
        let pieces = object.pieces(self.root.clone(), key.clone(), start, end);
        Ok((size, pieces))
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
        if let Some(page) = self.root.list_kept(folder, after, limit) {
            return Ok(page);
        }
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
        if let Some(opened) = FileAppend::open_cached(&self.root, upload) {
            return Ok(Box::new(opened));
        }
        self.open_append(upload, false).await
    }

    fn begin_with(
        &self,
        upload: &Key,
        object: &Key,
        bytes: Bytes,
    ) -> Option<BoxFuture<'_, Result<(), StorageError>>> {
        // There is more to think of on a share.
        if self.root.mount.is_remote() {
            return None;
        }
        let (upload, object) = (upload.clone(), object.clone());
        Some(Box::pin(async move {
            let path = upload.clone();
            self.pooled(path.as_str(), move |root| {
                root.begin(&upload, &object, &bytes)
            })
            .await
        }))
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
    use futures::TryStreamExt;

    use super::mount::Care;
    use super::*;
    use crate::measured::{Measured, StorageObserver, StorageReport};
    use crate::piece::Piece;
    use crate::suite;

    /// A folder that is treated as if it were on another machine
    fn remote(root: &Path) -> FileSystem {
        let mut folder = FileSystem::open(root).unwrap();
        Arc::get_mut(&mut folder.root).unwrap().mount.care = Care::Remote;
        folder
    }

    /// A folder that is treated as if it were on NFS
    fn nfs(root: &Path) -> FileSystem {
        let mut folder = FileSystem::open(root).unwrap();
        Arc::get_mut(&mut folder.root).unwrap().mount.care = Care::Nfs;
        folder
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_share_passes_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (remote(root.path()), remote(root.path()));
        suite::run(Arc::new(one.clone())).await;
        suite::run_shared(Arc::new(one), Arc::new(other)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nfs_passes_the_suite() {
        let root = tempfile::tempdir().unwrap();
        let (one, other) = (nfs(root.path()), nfs(root.path()));
        suite::run(Arc::new(one.clone())).await;
        suite::run_shared(Arc::new(one), Arc::new(other)).await;
    }

    #[tokio::test]
    async fn what_an_nfs_client_keeps_open_is_no_object() {
        let root = tempfile::tempdir().unwrap();
        let folder = nfs(root.path());
        let (key, tree) = (Key::parse("a/b").unwrap(), Key::parse("a").unwrap());
        folder.write(&key, "x".into()).await.unwrap();
        let kept = root.path().join("a/.nfs00000000000100a500000003");
        std::fs::write(kept, "deleted").unwrap();
        let names = folder.list(Some(&tree), None, 10).await.unwrap();
        assert_eq!(names, [Entry::object("b")]);
        folder.delete_tree(&tree).await.unwrap();
        assert!(!root.path().join("a").exists());
        for other in [
            ".nfs",
            ".nfs1",
            ".nfs-0000000000000000",
            "nfs00000000000100a500000003",
        ] {
            assert!(!share::is_silly(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_just_being_replaced_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let folder = nfs(root.path());
        let key = Key::parse("a/b").unwrap();
        folder.write(&key, "old".into()).await.unwrap();
        // As the client of the machine that replaces it does, if it has it open.
        let (path, kept) = (
            root.path().join("a/b"),
            root.path().join("a/.nfs00000000000100a500000003"),
        );
        std::fs::rename(&path, &kept).unwrap();
        let reader = tokio::spawn({
            let (folder, key) = (folder.clone(), key.clone());
            async move { folder.read(&key, 10).await }
        });
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        std::fs::write(root.path().join("new"), "new").unwrap();
        std::fs::rename(root.path().join("new"), &path).unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), "new");
        // Nobody waits for ever.
        std::fs::remove_file(&path).unwrap();
        assert!(folder.read(&key, 10).await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn what_was_renamed_though_the_answer_says_otherwise_has_arrived() {
        let root = tempfile::tempdir().unwrap();
        let folder = nfs(root.path());
        let key = Key::parse("a/b").unwrap();
        folder.write(&key, "x".into()).await.unwrap();
        let file = folder.root.open_object(&key).unwrap().identity();
        assert!(folder.root.has_arrived(&key, file));
        folder.write(&key, "y".into()).await.unwrap();
        assert!(!folder.root.has_arrived(&key, file));
        let stat = fs::statat(&folder.root.fd, "a/b", AtFlags::empty()).unwrap();
        assert!(folder.root.has_arrived(&key, share::identity(&stat)));
        folder.delete(&key).await.unwrap();
        assert!(!folder.root.has_arrived(&key, share::identity(&stat)));
    }

    #[test]
    fn locks_that_end_at_this_machine_are_refused_with_what_to_do() {
        let error = OpenError::LocalLocks {
            path: "/data".into(),
            option: "nolock".to_owned(),
        };
        let text = error.to_string();
        assert!(text.contains("mounted with `nolock`"), "{text}");
        assert!(text.contains("mount it with `local_lock=none`"), "{text}");
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

    #[tokio::test]
    async fn what_is_read_without_its_size_is_what_it_would_be_with_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = FileSystem::open(root.path()).unwrap();
        let far = remote(root.path());
        let key = Key::parse("a/b").unwrap();
        for size in [0, 1, 71, 100, 4094, 4095, 4096, 4097, 8192, 20_000] {
            let bytes: Vec<u8> = (0..size).map(|index| index as u8).collect();
            folder.write(&key, bytes.clone().into()).await.unwrap();
            for limit in [0, 1, 70, 71, 72, 4095, 4096, 4097, 100_000, usize::MAX] {
                let here = folder.root.read_cached(&key, limit);
                for read in [folder.read(&key, limit).await, far.read(&key, limit).await]
                    .into_iter()
                    .chain(here)
                {
                    if size <= limit {
                        assert!(read.unwrap() == bytes, "{size} with {limit}");
                    } else {
                        let error = read.unwrap_err().to_string();
                        let expected = format!("at most {limit} bytes, found {size}");
                        assert!(error.contains(&expected), "{error}");
                    }
                }
            }
        }
        // What is no file is absent, and nobody waits for it.
        let other = Key::parse("a/c").unwrap();
        let path = root.path().join("a/c");
        std::fs::create_dir(&path).unwrap();
        assert!(folder.read(&other, 100).await.unwrap_err().is_not_found());
        std::fs::remove_dir(&path).unwrap();
        fs::mkfifoat(fs::CWD, &path, Mode::RWXU).unwrap();
        assert!(folder.read(&other, 100).await.unwrap_err().is_not_found());
        std::fs::remove_file(&path).unwrap();
        for device in ["/dev/null", "/dev/zero"] {
            std::os::unix::fs::symlink(device, &path).unwrap();
            let error = folder.read(&other, 100).await.unwrap_err();
            assert!(error.is_not_found(), "{device}: {error}");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[tokio::test]
    async fn a_stream_takes_what_is_cached_and_waits_for_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let (folder, far) = (FileSystem::open(root.path()).unwrap(), remote(root.path()));
        let key = Key::parse("a/b").unwrap();
        let size = 3 * 1024 * 1024 + 5;
        let bytes: Vec<u8> = (0..size).map(|index| (index / 3) as u8).collect();
        folder.write(&key, bytes.clone().into()).await.unwrap();
        let file = File::open(root.path().join("a/b")).unwrap();
        for side in [&folder, &far] {
            for (from, to) in [
                (0, size - 1),
                (1, 1),
                (65_000, 900_000),
                (size - 1, size - 1),
            ] {
                // Half of it is not in the page cache any more, where the file system can do so.
                let half = std::num::NonZeroU64::new(size as u64 / 2);
                fs::fadvise(&file, 1 << 20, half, fs::Advice::DontNeed).unwrap();
                let range = ByteRange::new(from as u64, to as u64).unwrap();
                let (_, stream) = side.stream(&key, Some(range)).await.unwrap();
                let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
                assert!(parts.concat() == bytes[from..=to], "{from} to {to}");
                assert!(parts.iter().all(|part| part.len() <= buffers::LARGE));
            }
        }
    }

    #[tokio::test]
    async fn what_is_cached_on_a_local_disk_is_given_out_as_part_of_its_file() {
        let root = tempfile::tempdir().unwrap();
        let (folder, far) = (FileSystem::open(root.path()).unwrap(), remote(root.path()));
        let key = Key::parse("a/b").unwrap();
        let bytes = Bytes::from(vec![7; 3 << 20]);
        folder.write(&key, bytes).await.unwrap();
        let pieces = async |driver: &FileSystem| {
            let (size, pieces) = driver.pieces(&key, None).await.unwrap();
            let pieces: Vec<Piece> = pieces.try_collect().await.unwrap();
            let sum: usize = pieces.iter().map(Piece::len).sum();
            assert_eq!((size, sum), (3 << 20, 3 << 20));
            pieces
        };
        let is_file = |piece: &Piece| matches!(piece, Piece::File(_));
        assert!(pieces(&folder).await.iter().all(is_file));
        assert!(!pieces(&far).await.iter().any(is_file));
        let measured = Measured::new(folder.clone(), Arc::new(Nobody));
        let (_, mut stream) = measured.pieces(&key, None).await.unwrap();
        assert!(is_file(&stream.try_next().await.unwrap().unwrap()));
        // Of what is not in the page cache, where the file system can do that, and of little.
        let file = File::open(root.path().join("a/b")).unwrap();
        fs::fsync(&file).unwrap();
        fs::fadvise(&file, 0, None, fs::Advice::DontNeed).unwrap();
        let mut byte = [0];
        let room = &mut [std::io::IoSliceMut::new(&mut byte)];
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        if rustix::io::preadv2(&file, room, 1 << 20, flags).is_err() {
            assert!(!is_file(&pieces(&folder).await[0]));
        }
        let range = ByteRange::new(5, 1_000).unwrap();
        let (_, mut stream) = folder.pieces(&key, Some(range)).await.unwrap();
        assert!(!is_file(&stream.try_next().await.unwrap().unwrap()));
    }

    /// An observer that does not listen
    #[derive(Debug)]
    struct Nobody;

    impl StorageObserver for Nobody {
        fn called(&self, _: &StorageReport) {}
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
