//! An upload's file, open for one writer

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::publish::{ATTEMPTS, FILE_MODE, RETRY_AFTER, Unsynced, write_all};
use super::share::identity;
use super::{Root, failed, pooled};
use crate::driver::{Append, ByteStream, Key};
use crate::error::StorageError;

/// Up to which size a write is waited for
///
/// There is hardly anything to overlap with, and so its error is known at once.
const SMALL: usize = 16 * 1024;

/// An upload's file, locked
///
/// The lock belongs to the open file, which a write that is still running shares. It is let go
/// only when that write has ended, even if this was dropped before.
#[derive(Debug)]
pub(super) struct FileAppend {
    root: Arc<Root>,
    key: Key,
    file: Arc<File>,
    size: u64,
    /// The last operation, which may run while the caller hashes the next bytes
    running: Option<JoinHandle<Result<(), Errno>>>,
    /// Why nothing more can be done: an operation failed, after which nobody knows what the
    /// file holds, or it is no upload any more
    ended: Option<&'static str>,
    /// Whether there may be anything that is not durable
    dirty: bool,
    /// What makes the file's name durable, if it was created here
    unsynced: Unsynced,
}

impl FileAppend {
    pub(super) fn open(root: Arc<Root>, key: Key, create: bool) -> Result<Self, StorageError> {
        let fail = |errno| failed(key.as_str(), errno);
        let mut unsynced = Unsynced::new();
        for _ in 0..ATTEMPTS {
            let folder = if create {
                match root.make_parent(&key, &mut unsynced)? {
                    Some(folder) => folder,
                    None => continue,
                }
            } else {
                // Reading brings into sight what another machine created.
                root.open_object(&key)?;
                match root.open_folder(key.parent().unwrap_or(".")) {
                    Err(Errno::STALE) => continue,
                    opened => opened.map_err(|errno| root.missed(key.as_str(), errno))?,
                }
            };
            let open = |flags| {
                fs::openat(
                    &folder,
                    key.name(),
                    OFlags::WRONLY | OFlags::CLOEXEC | flags,
                    FILE_MODE,
                )
            };
            let opened = match open(OFlags::empty()) {
                Err(errno @ Errno::NOENT) if !create => {
                    return Err(root.missed(key.as_str(), errno));
                }
                Err(Errno::NOENT) => match open(OFlags::CREATE | OFlags::EXCL) {
                    Ok(file) => {
                        unsynced.push(key.parent().unwrap_or(".").to_owned());
                        Ok(file)
                    }
                    created => created,
                },
                opened => opened,
            };
            let file = match opened {
                Ok(file) => File::from(file),
                // Someone else created or deleted it, or its folder, at the same time.
                Err(Errno::EXIST | Errno::NOENT | Errno::STALE) => continue,
                Err(errno) => return Err(fail(errno)),
            };
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {
                    return Err(StorageError::Busy {
                        key: key.to_string(),
                        retry_after: RETRY_AFTER,
                    });
                }
                Err(errno) => return Err(fail(errno)),
            }
            // Before the lock was had, the file may have become a blob or been deleted, on
            // another machine too. Taking the lock made an NFS client forget the attributes of
            // the file, and this the name.
            if root.mount.is_nfs() {
                root.refresh(key.as_str());
            }
            let locked = match fs::fstat(&file) {
                Err(Errno::STALE) => continue,
                locked => locked.map_err(fail)?,
            };
            match fs::statat(&root.fd, key.as_str(), AtFlags::empty()) {
                Ok(named) if identity(&named) == identity(&locked) => {}
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => continue,
                Err(errno) => return Err(fail(errno)),
            }
            return Ok(Self {
                size: u64::try_from(locked.st_size).unwrap_or_default(),
                root,
                key,
                file: Arc::new(file),
                running: None,
                ended: None,
                // Whoever wrote what is there may have been killed before syncing it.
                dirty: true,
                unsynced,
            });
        }
        Err(root.restless(&key))
    }

    /// Starts an operation on the file in the pool; there must be none under way
    fn start(&mut self, operation: impl FnOnce(&File) -> Result<(), Errno> + Send + 'static) {
        let file = self.file.clone();
        self.running = Some(tokio::task::spawn_blocking(move || operation(&file)));
    }

    /// Waits for the operation under way
    async fn settle(&mut self) -> Result<(), StorageError> {
        if let Some(why) = self.ended {
            return Err(StorageError::Transient {
                key: self.key.to_string(),
                source: why.into(),
            });
        }
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        // It stays in its place until it has ended: a caller that stops waiting here must not
        // start the next one beside it, nor miss its error.
        let ended = running.await;
        self.running = None;
        let error = match ended {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(errno)) => failed(self.key.as_str(), errno),
            Err(error) => StorageError::Transient {
                key: self.key.to_string(),
                source: error.into(),
            },
        };
        self.ended = Some("an earlier write failed; open the upload again");
        Err(error)
    }
}

#[async_trait]
impl Append for FileAppend {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.settle().await?;
        let (offset, length) = (self.size, bytes.len());
        self.dirty = true;
        self.size += length as u64;
        self.start(move |file| write_all(file, &bytes, offset));
        if length <= SMALL {
            self.settle().await?;
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        if !self.dirty {
            return Ok(());
        }
        let (root, unsynced) = (self.root.clone(), self.unsynced.clone());
        self.start(move |file| {
            fs::fdatasync(file)?;
            root.sync_folders(&unsynced)
        });
        self.settle().await?;
        self.dirty = false;
        self.unsynced.clear();
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        self.settle().await?;
        if size > self.size {
            return Err(StorageError::Corrupt {
                key: self.key.to_string(),
                detail: format!("expected at least {size} bytes, found {}", self.size),
            });
        }
        if size < self.size {
            self.dirty = true;
            self.size = size;
            self.start(move |file| fs::ftruncate(file, size));
            self.settle().await?;
        }
        Ok(())
    }

    async fn content(&mut self) -> Result<ByteStream, StorageError> {
        self.settle().await?;
        let (root, key) = (self.root.clone(), self.key.clone());
        let object = pooled(self.key.as_str(), move || root.open_object(&key)).await?;
        Ok(object.stream(self.root.clone(), self.key.clone(), 0, self.size))
    }

    async fn publish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.settle().await?;
        if self.dirty {
            // Its folder need not be synced: it is moved out of there.
            self.start(|file| fs::fdatasync(file));
            self.settle().await?;
        }
        let (root, from, to) = (self.root.clone(), self.key.clone(), to.clone());
        // With the lock: nobody gets the file under its old name, even if this is dropped.
        let locked = self.file.clone();
        let published = pooled(self.key.as_str(), move || {
            let renamed = root.rename(&from, &to);
            drop(locked);
            renamed
        })
        .await;
        self.ended = Some(match &published {
            Ok(()) => "the upload has become an object",
            Err(_) => "the upload could not be published; open it again",
        });
        published
    }
}
