//! A storage that is gone with the process

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion,
};
use registry_core::range::ByteRange;

use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;

/// The size of the parts in which an object is streamed, as the other drivers do
const PART: usize = 256 * 1024;

/// A storage in memory, for tests and for registries that keep nothing
///
/// Cheap to clone; all clones are one storage.
///
/// # Examples
///
/// ```
/// use registry_storage::{Key, Memory, Objects};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = Memory::new();
/// let key = Key::parse("note")?;
/// memory.write(&key, "hello".into()).await?;
/// assert_eq!(memory.clone().stat(&key).await?.size, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: InMemory,
    /// Held for changes that take several steps, and by all that must not fall between them
    changes: tokio::sync::Mutex<()>,
    /// The uploads that someone has open
    open: Mutex<HashSet<Key>>,
}

impl Memory {
    /// An empty storage
    pub fn new() -> Self {
        Self::default()
    }

    async fn get(&self, key: &Key) -> Result<(Bytes, Option<String>), StorageError> {
        let fail = |error| failed(key, error);
        let found = self.inner.objects.get(&path(key)?).await.map_err(fail)?;
        let tag = found.meta.e_tag.clone();
        Ok((found.bytes().await.map_err(fail)?, tag))
    }
}

#[async_trait]
impl Objects for Memory {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let (bytes, _) = self.get(key).await?;
        if bytes.len() > limit {
            return Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected at most {limit} bytes, found {}", bytes.len()),
            });
        }
        Ok(bytes)
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        let found = self.inner.objects.head(&path(key)?).await;
        let meta = found.map_err(|error| failed(key, error))?;
        Ok(Stat {
            size: meta.size,
            modified: Some(meta.last_modified.into()),
        })
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        let (bytes, _) = self.get(key).await?;
        let size = bytes.len() as u64;
        let mut rest = match range {
            None => bytes,
            // Both ends are below a length in memory.
            Some(range) if range.end() < size => {
                bytes.slice(range.start() as usize..=range.end() as usize)
            }
            Some(range) => {
                return Err(StorageError::Corrupt {
                    key: key.to_string(),
                    detail: format!("expected the bytes {range}, found only {size} bytes"),
                });
            }
        };
        let parts = std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(PART))))
        });
        Ok((size, stream::iter(parts).boxed()))
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let _changes = self.inner.changes.lock().await;
        let written = self.inner.objects.put(&path(key)?, bytes.into()).await;
        written.map(|_| ()).map_err(|error| failed(key, error))
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        let _changes = self.inner.changes.lock().await;
        // To delete what is not there is no error in an object store.
        self.stat(key).await?;
        let deleted = self.inner.objects.delete(&path(key)?).await;
        deleted.map_err(|error| failed(key, error))
    }

    async fn delete_tree(&self, key: &Key) -> Result<(), StorageError> {
        let _changes = self.inner.changes.lock().await;
        let top = path(key)?;
        let objects = &self.inner.objects;
        let mut gone: Vec<Path> = objects
            .list(Some(&top))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(|error| failed(key, error))?;
        gone.push(top);
        let deleted = objects
            .delete_stream(stream::iter(gone.into_iter().map(Ok)).boxed())
            .try_for_each(|_| async { Ok(()) })
            .await;
        match deleted {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(key, error)),
        }
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        let _changes = self.inner.changes.lock().await;
        let (bytes, _) = self.get(from).await?;
        let objects = &self.inner.objects;
        objects
            .put(&path(to)?, bytes.into())
            .await
            .map_err(|error| failed(to, error))?;
        if from != to {
            objects
                .delete(&path(from)?)
                .await
                .map_err(|error| failed(from, error))?;
        }
        Ok(())
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let prefix = folder.map(path).transpose()?;
        let found = self
            .inner
            .objects
            .list_with_delimiter(prefix.as_ref())
            .await
            .map_err(|error| StorageError::Transient {
                key: folder.map_or(".", Key::as_str).to_owned(),
                source: error.into(),
            })?;
        let objects = found.objects.iter().map(|meta| (&meta.location, false));
        let folders = found.common_prefixes.iter().map(|path| (path, true));
        let entries: BTreeMap<&str, bool> = objects
            .chain(folders)
            .filter_map(|(path, is_dir)| Some((path.filename()?, is_dir)))
            .collect();
        if let Some(folder) = folder
            && entries.is_empty()
        {
            return Err(StorageError::NotFound {
                key: folder.to_string(),
            });
        }
        Ok(entries
            .into_iter()
            .filter(|(name, _)| after.is_none_or(|after| *name > after))
            .take(limit)
            .map(|(name, is_dir)| Entry {
                name: name.to_owned(),
                is_dir,
            })
            .collect())
    }
}

impl Memory {
    /// Opens an upload, and creates it if that is wanted
    async fn open_append(
        &self,
        upload: &Key,
        create: bool,
    ) -> Result<Box<dyn Append>, StorageError> {
        let lock = Lock::take(&self.inner, upload)?;
        let _changes = self.inner.changes.lock().await;
        let (parts, size, tag) = match self.get(upload).await {
            Ok((bytes, tag)) => {
                let size = bytes.len() as u64;
                (vec![bytes], size, tag)
            }
            Err(StorageError::NotFound { .. }) if create => {
                let empty = PutPayload::default();
                let put = self.inner.objects.put(&path(upload)?, empty).await;
                let put = put.map_err(|error| failed(upload, error))?;
                (Vec::new(), 0, put.e_tag)
            }
            Err(error) => return Err(error),
        };
        Ok(Box::new(MemoryAppend {
            lock,
            parts,
            size,
            tag,
            dirty: false,
            ended: false,
        }))
    }
}

#[async_trait]
impl Uploads for Memory {
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

/// The right to write an upload
#[derive(Debug)]
struct Lock {
    inner: Arc<Inner>,
    key: Key,
}

impl Lock {
    fn take(inner: &Arc<Inner>, key: &Key) -> Result<Self, StorageError> {
        // A set is never left half changed, so one that another thread gave up is usable.
        let mut open = inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.insert(key.clone()) {
            return Err(StorageError::Busy {
                key: key.to_string(),
                retry_after: Duration::from_secs(1),
            });
        }
        Ok(Self {
            inner: inner.clone(),
            key: key.clone(),
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut open = self
            .inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.key);
    }
}

/// An upload that is open, with its bytes in parts until they are wanted
#[derive(Debug)]
struct MemoryAppend {
    lock: Lock,
    parts: Vec<Bytes>,
    size: u64,
    /// Which version of the object is this upload: one that was deleted does not come back
    tag: Option<String>,
    dirty: bool,
    /// Whether it has become an object
    ended: bool,
}

impl MemoryAppend {
    fn check(&self) -> Result<(), StorageError> {
        if !self.ended {
            return Ok(());
        }
        Err(StorageError::Transient {
            key: self.lock.key.to_string(),
            source: "the upload has become an object".into(),
        })
    }

    /// Makes what was written visible
    async fn store(&mut self) -> Result<(), StorageError> {
        if !self.dirty {
            return Ok(());
        }
        let options = PutOptions::from(PutMode::Update(UpdateVersion {
            e_tag: self.tag.clone(),
            version: None,
        }));
        let key = &self.lock.key;
        let path = path(key)?;
        let objects = &self.lock.inner.objects;
        let payload = PutPayload::from_iter(self.parts.iter().cloned());
        match objects.put_opts(&path, payload, options).await {
            Ok(PutResult { e_tag, .. }) => {
                self.tag = e_tag;
                // The parts were copied into one; keep that.
                let stored = objects.get(&path).await;
                if let Ok(stored) = stored
                    && stored.meta.e_tag == self.tag
                    && let Ok(bytes) = stored.bytes().await
                {
                    self.parts = vec![bytes];
                }
            }
            // Deleted, published or replaced: as with an open file whose name is gone, the
            // bytes go nowhere.
            Err(
                object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. },
            ) => {}
            Err(error) => return Err(failed(key, error)),
        }
        self.dirty = false;
        Ok(())
    }
}

#[async_trait]
impl Append for MemoryAppend {
    fn size(&self) -> u64 {
        self.size
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.check()?;
        self.size += bytes.len() as u64;
        self.parts.push(bytes);
        self.dirty = true;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.check()?;
        self.store().await
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        self.check()?;
        if size > self.size {
            return Err(StorageError::Corrupt {
                key: self.lock.key.to_string(),
                detail: format!("expected at least {size} bytes, found {}", self.size),
            });
        }
        if size < self.size {
            let mut left = size;
            self.parts.retain_mut(|part| {
                let keep = left.min(part.len() as u64);
                left -= keep;
                part.truncate(keep as usize);
                keep > 0
            });
            self.size = size;
            self.dirty = true;
            self.store().await?;
        }
        Ok(())
    }

    async fn content(&mut self) -> Result<ByteStream, StorageError> {
        self.check()?;
        let parts = self.parts.clone();
        let pieces = parts.into_iter().flat_map(|mut part| {
            std::iter::from_fn(move || {
                (!part.is_empty()).then(|| Ok(part.split_to(part.len().min(PART))))
            })
        });
        Ok(stream::iter(pieces).boxed())
    }

    async fn publish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.check()?;
        let inner = self.lock.inner.clone();
        let _changes = inner.changes.lock().await;
        let key = &self.lock.key;
        let fail = |key, error| failed(key, error);
        let found = inner.objects.head(&path(key)?).await;
        if found.map_err(|error| fail(key, error))?.e_tag != self.tag {
            return Err(StorageError::NotFound {
                key: key.to_string(),
            });
        }
        let payload = PutPayload::from_iter(self.parts.iter().cloned());
        let put = inner.objects.put(&path(to)?, payload).await;
        put.map_err(|error| fail(to, error))?;
        if key != to {
            let deleted = inner.objects.delete(&path(key)?).await;
            deleted.map_err(|error| fail(key, error))?;
        }
        (self.ended, self.dirty) = (true, false);
        Ok(())
    }
}

impl Drop for MemoryAppend {
    fn drop(&mut self) {
        // Nothing in it ever waits, so it is done at the first poll. There is nobody left to
        // tell of an error.
        let _ = self.store().now_or_never();
    }
}

/// A key as the object store has it
fn path(key: &Key) -> Result<Path, StorageError> {
    Path::parse(key.as_str()).map_err(|error| StorageError::Transient {
        key: key.to_string(),
        source: error.into(),
    })
}

fn failed(key: &Key, error: object_store::Error) -> StorageError {
    let key = key.to_string();
    match error {
        object_store::Error::NotFound { .. } => StorageError::NotFound { key },
        error @ (object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. }) => StorageError::Denied {
            key,
            source: error.into(),
        },
        error => StorageError::Transient {
            key,
            source: error.into(),
        },
    }
}
