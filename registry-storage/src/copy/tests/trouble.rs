//! A storage in memory to which things happen

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use registry_core::range::ByteRange;

use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;
use crate::memory::Memory;

/// What happens before a call: its number, whether it changes something, and the key
type Before =
    dyn Fn(u64, bool, String) -> BoxFuture<'static, Result<(), StorageError>> + Send + Sync;

/// What happens after something was changed
type After = dyn Fn() -> BoxFuture<'static, ()> + Send + Sync;

#[derive(Clone)]
pub(super) struct Trouble {
    pub(super) memory: Memory,
    shared: Arc<Shared>,
}

struct Shared {
    calls: AtomicU64,
    before: Box<Before>,
    after: Box<After>,
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trouble")
    }
}

impl Trouble {
    pub(super) fn before(
        memory: &Memory,
        before: impl Fn(u64, bool, String) -> BoxFuture<'static, Result<(), StorageError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::new(memory, Box::new(before), Box::new(|| Box::pin(async {})))
    }

    pub(super) fn after_changes(
        memory: &Memory,
        after: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        let before: Box<Before> = Box::new(|_, _, _| Box::pin(async { Ok(()) }));
        Self::new(memory, before, Box::new(after))
    }

    fn new(memory: &Memory, before: Box<Before>, after: Box<After>) -> Self {
        Self {
            memory: memory.clone(),
            shared: Arc::new(Shared {
                calls: AtomicU64::new(0),
                before,
                after,
            }),
        }
    }

    pub(super) fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn read(&self, key: &Key) -> Result<(), StorageError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        (self.before)(call, false, key.to_string()).await
    }

    async fn change(&self, key: &Key) -> Result<(), StorageError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        (self.before)(call, true, key.to_string()).await
    }

    async fn changed<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        (self.after)().await;
        result
    }
}

#[async_trait]
impl Objects for Trouble {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        self.shared.read(key).await?;
        self.memory.read(key, limit).await
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        self.shared.read(key).await?;
        self.memory.stat(key).await
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        use futures::{StreamExt, TryStreamExt, stream};

        self.shared.read(key).await?;
        let (size, bytes) = self.memory.stream(key, range).await?;
        // In pieces, of which each is a call that may fail.
        let (shared, key) = (self.shared.clone(), key.clone());
        let pieces = bytes
            .map_ok(|bytes| {
                let pieces: Vec<_> = bytes.chunks(3000).map(Bytes::copy_from_slice).collect();
                stream::iter(pieces.into_iter().map(Ok::<_, StorageError>))
            })
            .try_flatten()
            .and_then(move |piece| {
                let (shared, key) = (shared.clone(), key.clone());
                async move { shared.read(&key).await.map(|()| piece) }
            });
        Ok((size, pieces.boxed()))
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        self.shared.change(key).await?;
        let written = self.memory.write(key, bytes).await;
        self.shared.changed(written).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        self.shared.change(key).await?;
        self.memory.delete(key).await
    }

    async fn delete_tree(&self, key: &Key) -> Result<(), StorageError> {
        self.shared.change(key).await?;
        let deleted = self.memory.delete_tree(key).await;
        self.shared.changed(deleted).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        self.shared.change(to).await?;
        self.memory.rename(from, to).await
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        if let Some(folder) = folder {
            self.shared.read(folder).await?;
        }
        // Pages of three, to turn many.
        self.memory.list(folder, after, limit.min(3)).await
    }
}

#[async_trait]
impl Uploads for Trouble {
    async fn append(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        self.shared.change(upload).await?;
        Ok(Box::new(TroubleAppend {
            inner: self.memory.append(upload).await?,
            key: upload.clone(),
            shared: self.shared.clone(),
        }))
    }

    async fn reopen(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        self.memory.reopen(upload).await
    }

    async fn progress(&self, upload: &Key) -> Result<Stat, StorageError> {
        self.memory.progress(upload).await
    }
}

struct TroubleAppend {
    inner: Box<dyn Append>,
    key: Key,
    shared: Arc<Shared>,
}

impl fmt::Debug for TroubleAppend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Append for TroubleAppend {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.shared.change(&self.key).await?;
        self.inner.write(bytes).await
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.inner.sync().await
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        self.inner.truncate(size).await
    }

    async fn content(&mut self) -> Result<ByteStream, StorageError> {
        self.inner.content().await
    }

    async fn publish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.shared.change(to).await?;
        // What was written and not synced is lost by a kill, and so is what nobody publishes.
        let published = self.inner.publish(to).await;
        self.shared.changed(published).await
    }
}
