//! Object stores as storage: S3 and what speaks it, Azure and Google
//!
//! An object store has no folders, no renaming and no files that grow. Folders are what keys
//! have in common. Small content is written in one call to where it stays. Of an upload that
//! goes on over several requests there is a journal, an object beside which its bytes are kept
//! as parts of a multipart upload and a tail: see [`Bucket`].

mod append;
mod copy;
mod endpoint;
mod error;
#[cfg(test)]
mod fakes;
mod http;
mod journal;
mod list;
mod probe;
mod providers;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ::http::Method;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload,
};
use registry_core::range::ByteRange;

use self::append::BucketAppend;
use self::error::failed;
use self::journal::Journal;
use crate::driver::{Append, ByteStream, Entry, Key, Objects, Stat, Uploads};
use crate::error::StorageError;

pub use self::error::BucketError;
pub use self::http::ConnectOptions;
pub use self::probe::Capabilities;
pub use self::providers::{AzureOptions, AzurePrincipal, GcsOptions, S3Encryption, S3Options};

/// For how long an answer of the bucket shows that it is there
const SEEN: Duration = Duration::from_secs(5);

/// The least and the most that a part may have, as S3 has it
const PART_SIZES: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=512 * 1024 * 1024;

/// What S3 copies in one call, and as one piece
const COPY_THRESHOLDS: std::ops::RangeInclusive<u64> = 0..=5 * 1024 * 1024 * 1024;
const COPY_PIECES: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=5 * 1024 * 1024 * 1024;

/// What is the same for all object stores
///
/// # Examples
///
/// ```
/// use registry_storage::bucket::BucketOptions;
///
/// let options = BucketOptions {
///     root: "registries/one".to_owned(),
///     ..BucketOptions::default()
/// };
/// assert_eq!(options.part_size, 8 * 1024 * 1024);
/// ```
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// Below which prefix everything is kept; all of the bucket if it is empty
    pub root: String,
    /// The size of the parts in which an upload is sent, in bytes: 8 MiB by default, at least
    /// 5 MiB and at most 512 MiB
    ///
    /// It doubles after each thousand parts, so that ten thousand are enough for what any store
    /// takes. Two of them are in memory for each upload under way.
    pub part_size: u64,
    /// The storage class of new objects; the bucket's own by default, and always where the store
    /// makes a copy
    pub storage_class: Option<String>,
    /// Beyond which size S3 is asked to copy an object in pieces, in bytes: 512 MiB by default,
    /// at most 5 GiB, beyond which it copies nothing else
    ///
    /// Several pieces are copied at the same time.
    pub copy_threshold: u64,
    /// The size of these pieces, in bytes: 128 MiB by default, from 5 MiB to 5 GiB
    pub copy_piece: u64,
    /// How many of these pieces are copied at the same time; 8 by default, at least 1
    pub copy_concurrency: usize,
}

impl Default for BucketOptions {
    fn default() -> Self {
        Self {
            root: String::new(),
            part_size: 8 * 1024 * 1024,
            storage_class: None,
            copy_threshold: 512 * 1024 * 1024,
            copy_piece: 128 * 1024 * 1024,
            copy_concurrency: 8,
        }
    }
}

/// A bucket of an object store as storage
///
/// Cheap to clone; all clones are one. Any number of processes may share a bucket, if it can
/// write on a condition. Whether it can, [`Bucket::probe`] finds out. One that cannot still
/// serves several readers, but an upload then goes on only in the process where it began.
///
/// # Uploads
///
/// Beside the key of an upload there are objects whose names begin with its own: a journal,
/// `.upload`, which says what belongs to it; a tail, for what is less than a part; and, once
/// there is more than a part, what a multipart upload is to become. A journal is replaced only
/// if it is still the one that was read, so of two processes that go on with one upload one is
/// told that it is [`StorageError::Busy`]. What is published was copied by the store itself, or
/// went to its place part by part if that was known in time: see [`Append::aim`].
///
/// A process that is killed leaves multipart uploads behind of which no journal knows. Let a
/// rule of the bucket abort incomplete ones after some days.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
///
/// use registry_storage::bucket::{Bucket, BucketOptions, ConnectOptions, S3Options};
/// use registry_storage::Store;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let s3 = S3Options {
///     bucket: "images".to_owned(),
///     region: Some("eu-central-1".to_owned()),
///     ..S3Options::default()
/// };
/// let bucket = Bucket::s3(&s3, BucketOptions::default(), &ConnectOptions::default())?;
/// println!("{}", bucket.probe().await?);
/// let store = Store::new(Arc::new(bucket));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Bucket {
    inner: Arc<Inner>,
}

/// The faces of one store
pub(crate) struct Faces {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) multipart: Arc<dyn MultipartStore>,
    pub(crate) lists: Arc<dyn PaginatedListStore>,
    pub(crate) signer: Option<Arc<dyn Signer>>,
    /// Whether a multipart upload is nothing but the object's key: then whoever completes one
    /// drops the parts that others have sent for the same key
    pub(crate) parts_by_key: bool,
    /// Only of stores that speak S3
    pub(crate) s3: Option<copy::S3Calls>,
}

struct Inner {
    faces: Faces,
    root: Path,
    part_size: u64,
    /// Beyond which size an object is copied in pieces, where that can be done
    copy_threshold: u64,
    /// How large these are
    copy_piece: u64,
    /// How many of them are copied at the same time
    copy_concurrency: usize,
    attributes: Attributes,
    /// Who we are in a journal
    writer: String,
    /// Whether the store minds conditions of a write
    conditional: AtomicBool,
    /// The uploads that someone in this process has open
    open: Mutex<HashSet<Key>>,
    began: Instant,
    /// When the bucket last showed that it is there, in milliseconds since `began`, from 1
    seen: AtomicU64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("store", &self.faces.objects.to_string())
            .field("root", &self.root)
            .field("part_size", &self.part_size)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// A bucket with these faces
    fn new(faces: Faces, options: BucketOptions) -> Result<Self, BucketError> {
        let table = [
            ("chunksize", options.part_size, PART_SIZES),
            (
                "multipartcopythresholdsize",
                options.copy_threshold,
                COPY_THRESHOLDS,
            ),
            ("multipartcopychunksize", options.copy_piece, COPY_PIECES),
        ];
        for (name, size, sizes) in table {
            if !sizes.contains(&size) {
                let (least, most) = sizes.into_inner();
                return Err(BucketError::Option {
                    name,
                    detail: format!("expected from {least} to {most} bytes, found {size}"),
                });
            }
        }
        Self::of_any_size(faces, options)
    }

    /// As [`Bucket::new`], with parts as small as one likes
    fn of_any_size(faces: Faces, options: BucketOptions) -> Result<Self, BucketError> {
        let BucketOptions {
            root,
            part_size,
            storage_class,
            copy_threshold,
            copy_piece,
            copy_concurrency,
        } = options;
        let root = Path::parse(root).map_err(|error| BucketError::Option {
            name: "rootdirectory",
            detail: error.to_string(),
        })?;
        let mut attributes = Attributes::new();
        if let Some(class) = storage_class {
            attributes.insert(Attribute::StorageClass, AttributeValue::from(class));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                faces,
                root,
                part_size,
                copy_threshold,
                copy_piece,
                copy_concurrency: copy_concurrency.max(1),
                attributes,
                writer: uuid::Uuid::new_v4().to_string(),
                conditional: AtomicBool::new(true),
                open: Mutex::default(),
                began: Instant::now(),
                seen: AtomicU64::new(0),
            }),
        })
    }

    /// A URL under which whoever has it may do this one thing, until it expires
    ///
    /// `None` if the store or the credentials cannot sign. Not every store lets a `GET` read
    /// only what such a URL is for: it is as good as the object for as long as it lasts.
    ///
    /// # Errors
    ///
    /// What the store says, such as when its credentials cannot be had.
    pub async fn signed_url(
        &self,
        key: &Key,
        method: Method,
        expiry: Duration,
    ) -> Result<Option<String>, StorageError> {
        let Some(signer) = &self.inner.faces.signer else {
            return Ok(None);
        };
        let path = self.inner.path(key)?;
        match signer.signed_url(method, &path, expiry).await {
            Ok(url) => Ok(Some(url.into())),
            Err(
                object_store::Error::NotSupported { .. }
                | object_store::Error::NotImplemented { .. },
            ) => Ok(None),
            Err(error) => Err(failed(key.as_str(), error)),
        }
    }
}

impl Inner {
    /// A key as the store has it
    fn path(&self, key: &Key) -> Result<Path, StorageError> {
        let text = match self.root.as_ref() {
            "" => key.as_str().to_owned(),
            root => format!("{root}/{key}"),
        };
        Path::parse(text).map_err(|error| StorageError::Corrupt {
            key: key.to_string(),
            detail: error.to_string(),
        })
    }

    /// The prefix that everything in a folder has
    fn prefix(&self, folder: Option<&Key>) -> String {
        let root = match self.root.as_ref() {
            "" => String::new(),
            root => format!("{root}/"),
        };
        match folder {
            Some(folder) => format!("{root}{folder}/"),
            None => root,
        }
    }

    /// Notes that the bucket is there
    fn saw(&self) {
        let now = self.began.elapsed().as_millis() as u64 + 1;
        self.seen.store(now, Ordering::Relaxed);
    }

    /// What it means that something is not found
    ///
    /// The answer to a HEAD does not say whether it is the object or the bucket that is not
    /// there.
    async fn missed(&self, key: &str, error: object_store::Error) -> StorageError {
        let error = failed(key, error);
        if !error.is_not_found() {
            return error;
        }
        let now = self.began.elapsed().as_millis() as u64 + 1;
        let seen = self.seen.load(Ordering::Relaxed);
        if seen != 0 && now.saturating_sub(seen) < SEEN.as_millis() as u64 {
            return error;
        }
        match list::exists(&*self.faces.lists, &self.prefix(None)).await {
            Ok(_) => {
                self.saw();
                error
            }
            Err(object_store::Error::NotFound { source, .. }) => StorageError::Denied {
                key: key.to_owned(),
                source: format!("the bucket does not exist; create it or name another ({source})")
                    .into(),
            },
            Err(other) => failed(key, other),
        }
    }

    async fn put(&self, key: &Key, payload: PutPayload) -> Result<(), StorageError> {
        let options = PutOptions {
            attributes: self.attributes.clone(),
            ..PutOptions::default()
        };
        let path = self.path(key)?;
        let put = self.faces.objects.put_opts(&path, payload, options).await;
        put.map_err(|error| failed(key.as_str(), error))?;
        self.saw();
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<object_store::GetResult, StorageError> {
        match self.faces.objects.get(&self.path(key)?).await {
            Ok(found) => {
                self.saw();
                Ok(found)
            }
            Err(error) => Err(self.missed(key.as_str(), error).await),
        }
    }

    async fn head(&self, key: &Key) -> Result<Stat, StorageError> {
        match self.faces.objects.head(&self.path(key)?).await {
            Ok(meta) => {
                self.saw();
                Ok(Stat::new(meta.size, modified(&meta)))
            }
            Err(error) => Err(self.missed(key.as_str(), error).await),
        }
    }

    async fn create_multipart(&self, key: &Key) -> Result<String, StorageError> {
        let options = PutMultipartOptions {
            attributes: self.attributes.clone(),
            ..PutMultipartOptions::default()
        };
        let path = self.path(key)?;
        let multipart = &self.faces.multipart;
        let created = if self.attributes.is_empty() {
            multipart.create_multipart(&path).await
        } else {
            multipart.create_multipart_opts(&path, options).await
        };
        created.map_err(|error| failed(key.as_str(), error))
    }

    /// Removes objects, if they are there
    async fn remove(&self, keys: Vec<Path>, what: &str) -> Result<(), StorageError> {
        let deleted = self
            .faces
            .objects
            .delete_stream(stream::iter(keys.into_iter().map(Ok)).boxed());
        deleted
            .map(
                |deleted| match deleted.map_err(|error| failed(what, error)) {
                    Err(StorageError::NotFound { .. }) => Ok(()),
                    deleted => deleted.map(|_| ()),
                },
            )
            .try_for_each(|()| async { Ok(()) })
            .await
    }
}

fn modified(meta: &object_store::ObjectMeta) -> Option<SystemTime> {
    Some(meta.last_modified.into())
}

/// The bytes of an answer, without empty pieces and with nothing after an error
fn bytes(key: &Key, found: object_store::GetResult) -> ByteStream {
    let key = key.to_string();
    let stream = found.into_stream();
    stream::unfold(Some((stream, key)), |state| async move {
        let (mut stream, key) = state?;
        loop {
            match stream.next().await? {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some((Ok(bytes), Some((stream, key)))),
                Err(error) => return Some((Err(failed(&key, error)), None)),
            }
        }
    })
    .boxed()
}

#[async_trait]
impl Objects for Bucket {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let found = self.inner.get(key).await?;
        if found.meta.size > limit as u64 {
            return Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected at most {limit} bytes, found {}", found.meta.size),
            });
        }
        found
            .bytes()
            .await
            .map_err(|error| failed(key.as_str(), error))
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        self.inner.head(key).await
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        let Some(range) = range else {
            let found = self.inner.get(key).await?;
            return Ok((found.meta.size, bytes(key, found)));
        };
        let short = |size| StorageError::Corrupt {
            key: key.to_string(),
            detail: format!("expected the bytes {range}, found only {size} bytes"),
        };
        let options = GetOptions {
            range: Some(GetRange::Bounded(
                range.start()..range.end().saturating_add(1),
            )),
            ..GetOptions::default()
        };
        let path = self.inner.path(key)?;
        match self.inner.faces.objects.get_opts(&path, options).await {
            Ok(found) if range.end() < found.meta.size => {
                self.inner.saw();
                Ok((found.meta.size, bytes(key, found)))
            }
            Ok(found) => Err(short(found.meta.size)),
            Err(error @ object_store::Error::NotFound { .. }) => {
                Err(self.inner.missed(key.as_str(), error).await)
            }
            // Stores say in many ways that there is no such range.
            Err(error) => match self.inner.head(key).await {
                Ok(stat) if range.end() >= stat.size => Err(short(stat.size)),
                Err(missing @ StorageError::NotFound { .. }) => Err(missing),
                _ => Err(failed(key.as_str(), error)),
            },
        }
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        self.inner.put(key, bytes.into()).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        // To delete what is not there is no error in an object store.
        self.inner.head(key).await?;
        let path = self.inner.path(key)?;
        match self.inner.faces.objects.delete(&path).await {
            Ok(()) => Ok(()),
            Err(error) => Err(failed(key.as_str(), error)),
        }
    }

    async fn delete_tree(&self, key: &Key) -> Result<(), StorageError> {
        let top = self.inner.path(key)?;
        let objects = &self.inner.faces.objects;
        let listed: Vec<Path> = objects
            .list(Some(&top))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(|error| failed(key.as_str(), error))?;
        let prefix = self.inner.prefix(None);
        for path in &listed {
            let journal = path
                .as_ref()
                .strip_prefix(&prefix)
                .and_then(Journal::upload_of);
            if let Some(upload) = journal {
                self.inner.abort_upload(&upload).await?;
            }
        }
        let gone = listed.into_iter().chain([top]).collect();
        self.inner.remove(gone, key.as_str()).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        let size = self.inner.head(from).await?.size;
        if from == to {
            return Ok(());
        }
        self.inner.copy(from, to, size).await?;
        let gone = vec![self.inner.path(from)?];
        self.inner.remove(gone, from.as_str()).await
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let prefix = self.inner.prefix(folder);
        let name = folder.map_or(".", Key::as_str);
        let lists = &*self.inner.faces.lists;
        let found = list::list(lists, &prefix, after, limit).await;
        // A list of nothing is no absence: that of the bucket is.
        let found = found.map_err(|error| match error {
            object_store::Error::NotFound { source, .. } => StorageError::Denied {
                key: name.to_owned(),
                source: format!("the bucket does not exist; create it or name another ({source})")
                    .into(),
            },
            error => failed(name, error),
        })?;
        self.inner.saw();
        if folder.is_some() && found.is_empty() {
            // Nothing after a name, or nothing at all?
            let asked_for_all = after.is_none() && limit > 0;
            let exists = !asked_for_all
                && list::exists(lists, &prefix)
                    .await
                    .map_err(|error| failed(name, error))?;
            if !exists {
                return Err(StorageError::NotFound {
                    key: name.to_owned(),
                });
            }
        }
        Ok(found
            .into_iter()
            .map(|(name, is_dir)| Entry { name, is_dir })
            .collect())
    }
}

#[async_trait]
impl Uploads for Bucket {
    async fn append(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        Ok(Box::new(
            BucketAppend::open(&self.inner, upload, true).await?,
        ))
    }

    async fn reopen(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        Ok(Box::new(
            BucketAppend::open(&self.inner, upload, false).await?,
        ))
    }

    async fn progress(&self, upload: &Key) -> Result<Stat, StorageError> {
        let (journal, stored) = self.inner.read_journal(upload).await?;
        Ok(Stat::new(journal.current.size, stored.modified))
    }
}

/// The right to write an upload, in this process
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
                retry_after: error::RETRY_AFTER,
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
        let open = &self.inner.open;
        open.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
