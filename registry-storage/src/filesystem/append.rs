//! An upload's file, open for one writer

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tokio::task::{JoinError, JoinHandle};

use super::publish::{ATTEMPTS, FILE_MODE, RETRY_AFTER, Unsynced, write_all_vectored};
use super::room::{Room, cut};
use super::share::identity;
use super::{Root, failed, pooled};
use crate::driver::{Append, ByteStream, Key};
use crate::error::StorageError;

/// Up to which size a write is waited for, or put off if it is the last
///
/// There is hardly anything to overlap with. Waited for, its error is known at once; put off, it
/// costs no trip to the pool of its own.
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
    room: Room,
    /// A small last write that was put off, and where it belongs
    pending: Option<(Vec<Bytes>, u64)>,
    /// The last operation, which may run while the caller hashes the next bytes
    running: Option<JoinHandle<Result<(), Errno>>>,
    /// Why nothing more can be done: an operation failed, after which nobody knows what the
    /// file holds, or it is no upload any more
    ended: Option<&'static str>,
    /// Whether there may be anything that is not durable
    dirty: bool,
    /// What makes the file's name durable, if it was created here
    unsynced: Unsynced,
    /// A sync of what was written before it, while more is written
    syncing: Option<JoinHandle<Result<(), Errno>>>,
    /// What is to be there before the upload is an object
    beside: Option<(Key, Bytes)>,
    /// Whether its folder goes when it is an object
    vacate: bool,
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
            return Ok(Self::locked(root, key, file, &locked, unsynced));
        }
        Err(root.restless(&key))
    }

    /// Opens an upload that is there and free, unless that has to wait for anything but memory
    ///
    /// Whatever else it may be is for [`FileAppend::open`] to find out.
    pub(super) fn open_cached(root: &Arc<Root>, key: &Key) -> Option<Self> {
        if root.mount.is_remote() {
            return None;
        }
        let open = |flags| {
            let flags = flags | OFlags::CLOEXEC;
            let path = key.as_str();
            fs::openat2(&root.fd, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()
        };
        let file = File::from(open(OFlags::WRONLY | OFlags::NONBLOCK)?);
        fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        // As above: it may have become a blob or been deleted before the lock was had.
        let locked = fs::fstat(&file).ok()?;
        let named = fs::fstat(open(OFlags::PATH)?).ok()?;
        if identity(&named) != identity(&locked)
            || FileType::from_raw_mode(locked.st_mode) != FileType::RegularFile
        {
            return None;
        }
        let (root, key) = (root.clone(), key.clone());
        Some(Self::locked(root, key, file, &locked, Unsynced::new()))
    }

    fn locked(root: Arc<Root>, key: Key, file: File, stat: &Stat, unsynced: Unsynced) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        Self {
            size,
            room: Room::of(stat, size, root.room_ahead),
            root,
            key,
            file: Arc::new(file),
            pending: None,
            running: None,
            ended: None,
            // Whoever wrote what is there may have been killed before syncing it.
            dirty: true,
            unsynced,
            syncing: None,
            beside: None,
            vacate: false,
        }
    }

    /// Starts an operation on the file in the pool, after the write that was put off; there must
    /// be none under way
    fn start(&mut self, operation: impl FnOnce(&File) -> Result<(), Errno> + Send + 'static) {
        let (file, pending) = (self.file.clone(), self.pending.take());
        self.running = Some(tokio::task::spawn_blocking(move || {
            write_pending(&file, pending)?;
            operation(&file)
        }));
    }

    /// Does the write that was put off, if there is one
    async fn flush(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        if self.pending.is_some() {
            self.start(|_| Ok(()));
            self.settle().await?;
        }
        Ok(())
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
        self.judge(ended)
    }

    /// Waits for the sync that runs beside the writes
    ///
    /// The system says only once that something could not be stored, perhaps to this one.
    async fn settle_sync(&mut self) -> Result<(), StorageError> {
        let Some(syncing) = &mut self.syncing else {
            return Ok(());
        };
        let ended = syncing.await;
        self.syncing = None;
        self.judge(ended)
    }

    fn judge(&mut self, ended: Result<Result<(), Errno>, JoinError>) -> Result<(), StorageError> {
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
        self.write_vectored(vec![bytes]).await
    }

    async fn write_vectored(&mut self, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        self.settle().await?;
        let offset = self.size;
        let length: usize = pieces.iter().map(Bytes::len).sum();
        self.dirty = true;
        self.size += length as u64;
        let ahead = self.room.ahead(offset, self.size);
        self.start(move |file| {
            if let Some(ahead) = ahead {
                ahead.make(file);
            }
            write_all_vectored(file, &pieces, offset)
        });
        if length <= SMALL {
            self.settle().await?;
        }
        Ok(())
    }

    async fn write_last(&mut self, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        if length > SMALL {
            return self.write_vectored(pieces).await;
        }
        self.flush().await?;
        self.dirty = true;
        self.pending = Some((pieces, self.size));
        self.size += length as u64;
        Ok(())
    }

    async fn sync_behind(&mut self) -> Result<(), StorageError> {
        self.flush().await?;
        self.settle_sync().await?;
        // The disk is busy from early on, and not only at the end.
        let (root, file) = (self.root.clone(), self.file.clone());
        let unsynced = std::mem::take(&mut self.unsynced);
        self.syncing = Some(tokio::task::spawn_blocking(move || {
            fs::fdatasync(&file)?;
            root.sync_folders(&unsynced)
        }));
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        self.settle_sync().await?;
        if !self.dirty {
            return Ok(());
        }
        let (root, unsynced) = (self.root.clone(), self.unsynced.clone());
        let (size, is_beyond) = (self.size, self.room.give_back(self.size));
        self.start(move |file| {
            cut(file, size, is_beyond)?;
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
            self.settle_sync().await?;
            self.dirty = true;
            self.size = size;
            self.start(move |file| fs::ftruncate(file, size));
            self.settle().await?;
        }
        Ok(())
    }

    async fn content(&mut self) -> Result<ByteStream, StorageError> {
        self.flush().await?;
        let (root, key) = (self.root.clone(), self.key.clone());
        let object = pooled(self.key.as_str(), move || root.open_object(&key)).await?;
        Ok(object.stream(self.root.clone(), self.key.clone(), 0, self.size))
    }

    fn expect(&mut self, bytes: u64) {
        self.room.expect(self.size, bytes);
    }

    fn accompany(&mut self, key: &Key, bytes: Bytes) -> bool {
        self.beside = Some((key.clone(), bytes));
        true
    }

    fn vacate(&mut self) -> bool {
        self.vacate = true;
        true
    }

    async fn publish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.settle().await?;
        self.settle_sync().await?;
        let (root, from, to) = (self.root.clone(), self.key.clone(), to.clone());
        let (pending, beside) = (self.pending.take(), self.beside.take());
        let vacate = self.vacate;
        let (size, is_beyond) = (self.size, self.room.give_back(self.size));
        // With the lock: nobody gets the file under its old name, even if this is dropped.
        let locked = self.file.clone();
        self.ended = Some("the upload could not be published; open it again");
        pooled(self.key.as_str(), move || {
            write_pending(&locked, pending)
                .and_then(|()| cut(&locked, size, is_beyond))
                .map_err(|errno| failed(from.as_str(), errno))?;
            root.publish(&locked, &from, &to, beside.as_ref())?;
            if vacate {
                root.vacate(&from);
            }
            Ok(())
        })
        .await?;
        self.ended = Some("the upload has become an object");
        Ok(())
    }
}

fn write_pending(file: &File, pending: Option<(Vec<Bytes>, u64)>) -> Result<(), Errno> {
    pending.map_or(Ok(()), |(pieces, offset)| {
        write_all_vectored(file, &pieces, offset)
    })
}
