//! Memory as storage, gone with the process

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload};
use registry_core::ByteRange;

use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;

/// Objects in memory, for tests and for trying things out
///
/// Published objects are in `object_store`'s memory store. Uploads grow beside it, piece by
/// piece, and are put together when they are published.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_storage::{Memory, Store};
///
/// let store = Store::new(Arc::new(Memory::new()));
/// # let _ = store;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    published: Arc<InMemory>,
    growing: Arc<Mutex<BTreeMap<String, Growing>>>,
}

#[derive(Debug, Default)]
struct Growing {
    parts: Vec<Bytes>,
    size: u64,
    locked: bool,
}

impl Memory {
    /// An empty storage
    pub fn new() -> Self {
        Self::default()
    }

    fn growing(&self) -> MutexGuard<'_, BTreeMap<String, Growing>> {
        // Each change under the lock is whole; a panic elsewhere leaves it usable.
        self.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of an upload, if that is what the key names
    fn grown(&self, key: &Key) -> Option<Vec<Bytes>> {
        self.growing()
            .get(key.as_str())
            .map(|growing| growing.parts.clone())
    }
}

#[async_trait]
impl Objects for Memory {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let (size, stream) = self.stream(key, None).await?;
        if size > limit as u64 {
            return Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected at most {limit} bytes, found {size}"),
            });
        }
        let mut parts: Vec<Bytes> = stream.try_collect().await?;
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let mut whole = BytesMut::new();
        for part in parts {
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        if let Some(growing) = self.growing().get(key.as_str()) {
            return Ok(Stat {
                size: growing.size,
                modified: None,
            });
        }
        let meta = self
            .published
            .head(&path(key)?)
            .await
            .map_err(|error| failed(key, error))?;
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
        let size = self.stat(key).await?.size;
        if let Some(range) = range
            && range.end() >= size
        {
            return Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected bytes {range}, found only {size} bytes"),
            });
        }
        if let Some(parts) = self.grown(key) {
            let (mut skip, mut take) = match range {
                Some(range) => (range.start(), range.len()),
                None => (0, size),
            };
            let mut wanted = Vec::new();
            for part in parts {
                let length = part.len() as u64;
                let start = skip.min(length);
                skip -= start;
                let end = (start + take).min(length);
                take -= end - start;
                if start < end {
                    // Both lie within the part, whose length is a usize.
                    wanted.push(Ok(part.slice(start as usize..end as usize)));
                }
            }
            return Ok((size, stream::iter(wanted).boxed()));
        }
        let options = GetOptions {
            range: range.map(|range| GetRange::Bounded(range.start()..range.end() + 1)),
            ..GetOptions::default()
        };
        let result = self
            .published
            .get_opts(&path(key)?, options)
            .await
            .map_err(|error| failed(key, error))?;
        let key = key.clone();
        let stream = result
            .into_stream()
            .map_err(move |error| failed(&key, error));
        Ok((size, stream.boxed()))
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        self.published
            .put(&path(key)?, PutPayload::from_bytes(bytes))
            .await
            .map_err(|error| failed(key, error))?;
        self.growing().remove(key.as_str());
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        if self.growing().remove(key.as_str()).is_some() {
            return Ok(());
        }
        let path = path(key)?;
        // Object stores delete what is not there without a word.
        self.published
            .head(&path)
            .await
            .map_err(|error| failed(key, error))?;
        self.published
            .delete(&path)
            .await
            .map_err(|error| failed(key, error))
    }

    async fn delete_tree(&self, folder: &Key) -> Result<(), StorageError> {
        let below = format!("{folder}/");
        self.growing().retain(|key, _| !key.starts_with(&below));
        let objects: Vec<_> = self
            .published
            .list(Some(&path(folder)?))
            .try_collect()
            .await
            .map_err(|error| failed(folder, error))?;
        for object in objects {
            match self.published.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(folder, error)),
            }
        }
        Ok(())
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        if self.grown(from).is_some() {
            return self.publish(from, to).await;
        }
        self.published
            .rename(&path(from)?, &path(to)?)
            .await
            .map_err(|error| failed(from, error))
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let prefix = folder.map(path).transpose()?;
        let root = Key::parse("root").map_err(|error| StorageError::Transient {
            key: "root".to_owned(),
            source: Box::new(error),
        })?;
        let found = self
            .published
            .list_with_delimiter(prefix.as_ref())
            .await
            .map_err(|error| failed(folder.unwrap_or(&root), error))?;
        let mut names: BTreeMap<String, bool> = BTreeMap::new();
        for object in &found.objects {
            if let Some(name) = object.location.filename() {
                names.insert(name.to_owned(), false);
            }
        }
        for path in &found.common_prefixes {
            if let Some(name) = path.filename() {
                names.insert(name.to_owned(), true);
            }
        }
        let below = folder
            .map(|folder| format!("{folder}/"))
            .unwrap_or_default();
        for key in self.growing().keys() {
            if let Some(rest) = key.strip_prefix(&below) {
                match rest.split_once('/') {
                    Some((name, _)) => names.insert(name.to_owned(), true),
                    None => names.insert(rest.to_owned(), false),
                };
            }
        }
        if let Some(folder) = folder
            && names.is_empty()
        {
            return Err(StorageError::NotFound {
                key: folder.to_string(),
            });
        }
        Ok(names
            .into_iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .take(limit)
            .map(|(name, is_dir)| Entry { name, is_dir })
            .collect())
    }
}

#[async_trait]
impl Uploads for Memory {
    async fn append(&self, key: &Key) -> Result<Box<dyn Append>, StorageError> {
        let size = {
            let mut growing = self.growing();
            let growing = growing.entry(key.to_string()).or_default();
            if growing.locked {
                return Err(StorageError::Busy {
                    key: key.to_string(),
                    retry_after: Duration::from_secs(1),
                });
            }
            growing.locked = true;
            growing.size
        };
        Ok(Box::new(AppendMemory {
            memory: self.clone(),
            key: key.clone(),
            size,
        }))
    }

    async fn publish(&self, upload: &Key, to: &Key) -> Result<(), StorageError> {
        let parts = self.grown(upload).ok_or_else(|| StorageError::NotFound {
            key: upload.to_string(),
        })?;
        self.published
            .put(&path(to)?, PutPayload::from_iter(parts))
            .await
            .map_err(|error| failed(to, error))?;
        self.growing().remove(upload.as_str());
        Ok(())
    }
}

#[derive(Debug)]
struct AppendMemory {
    memory: Memory,
    key: Key,
    size: u64,
}

impl AppendMemory {
    /// Changes the upload; one that was deleted meanwhile takes bytes that nobody will see, as
    /// a deleted file does
    fn change(&mut self, change: impl FnOnce(&mut Growing)) {
        if let Some(growing) = self.memory.growing().get_mut(self.key.as_str()) {
            change(growing);
        }
    }
}

#[async_trait]
impl Append for AppendMemory {
    fn size(&self) -> u64 {
        self.size
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        if size > self.size {
            return Err(StorageError::Corrupt {
                key: self.key.to_string(),
                detail: format!("expected at least {size} bytes, found {}", self.size),
            });
        }
        self.size = size;
        self.change(|growing| {
            let mut left = size;
            for part in &mut growing.parts {
                let keep = left.min(part.len() as u64);
                part.truncate(keep as usize);
                left -= keep;
            }
            growing.size = size;
        });
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.size += bytes.len() as u64;
        self.change(|growing| {
            growing.size += bytes.len() as u64;
            growing.parts.push(bytes);
        });
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Drop for AppendMemory {
    fn drop(&mut self) {
        self.change(|growing| growing.locked = false);
    }
}

fn path(key: &Key) -> Result<Path, StorageError> {
    Path::parse(key.as_str()).map_err(|error| StorageError::Transient {
        key: key.to_string(),
        source: Box::new(error),
    })
}

fn failed(key: &Key, error: object_store::Error) -> StorageError {
    let key = key.to_string();
    match error {
        object_store::Error::NotFound { .. } => StorageError::NotFound { key },
        error => StorageError::Transient {
            key,
            source: Box::new(error),
        },
    }
}
