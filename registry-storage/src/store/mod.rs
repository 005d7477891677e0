//! A registry's content: blobs, manifests, tags, uploads and referrers on a driver
//!
//! [`Store`] knows distribution's layout and the order of writes that keeps it consistent; it
//! knows nothing of HTTP. It keeps no state of its own that matters: every answer is read from
//! the driver, so that several processes may serve one storage.

mod blobs;
mod gathered;
mod hashing;
mod lists;
mod manifest_cache;
mod manifests;
mod note;
mod purge;
mod reach;
mod referrers;
mod session_keys;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use registry_core::{Digest, RepositoryName};

use self::hashing::Processors;
use self::manifest_cache::ManifestCache;
use crate::driver::{Driver, Key, Objects, Uploads};
use crate::error::StorageError;

pub use self::blobs::{BlobError, DeleteBlobError, HintCounts};
pub use self::lists::Listing;
pub(crate) use self::manifests::stored_limits;
pub use self::manifests::{ManifestReadError, MissingDependency, PutManifestError, StoredManifest};
pub use self::purge::{PurgeOptions, PurgeReport, PurgedUpload};
pub use self::referrers::Referrer;
pub use self::session_keys::{SessionKey, SessionKeyId, SessionKeyIdError};
pub use self::uploads::{AppendError, CompleteUploadError, Upload, UploadError};

/// The most bytes that are read as one manifest, whatever a newer configuration accepts
pub(crate) const MANIFEST_READ_LIMIT: usize = 64 * 1024 * 1024;

/// The most bytes that are read of a link, a date or a saved hash
const SMALL_READ_LIMIT: usize = 4096;

/// How many storage calls one request makes at the same time
const CONCURRENCY: usize = 16;

/// For how many blobs it is remembered where they were last seen
const SOURCES: usize = 16 * 1024;

/// For how many repositories a blob's place is remembered
const SOURCES_PER_BLOB: usize = 4;

/// The content of a registry
///
/// Cheap to clone; all clones are one store.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use futures::stream;
/// use registry_core::{Algorithm, Digest, RepositoryName};
/// use registry_core::upload::ChunkHeader;
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::new(Arc::new(Memory::new()));
/// let name = RepositoryName::try_from("team/app")?;
///
/// let mut upload = store.start_upload(&name, Algorithm::Sha256).await?;
/// let body = stream::iter([Ok::<_, std::io::Error>("hello".into())]);
/// upload.append(ChunkHeader::default(), body).await?;
/// let digest = Digest::sha256(b"hello");
/// upload.complete(digest).await?;
///
/// assert_eq!(store.stat_blob(&name, &digest).await?, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    upload_lifetime: Option<Duration>,
}

/// Where a blob was last seen
#[derive(Clone, Debug)]
struct Seen {
    /// The latest first
    names: Arc<[RepositoryName]>,
    size: u64,
}

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn Objects>,
    uploads: Arc<dyn Uploads>,
    /// Where blobs were last seen: a hint for mounts without a source, verified before use
    sources: Cache<Digest, Seen>,
    hint_counts: Arc<HintCounts>,
    manifests: ManifestCache,
    processors: Processors,
}

impl Store {
    /// A store on this driver
    pub fn new<D: Objects + Uploads>(driver: Arc<D>) -> Self {
        Self::of(driver)
    }

    /// A store on this driver, whatever its type
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use registry_storage::{Driver, Memory, Store};
    ///
    /// let driver: Arc<dyn Driver> = Arc::new(Memory::new());
    /// let store = Store::of(driver);
    /// ```
    pub fn of(driver: Arc<dyn Driver>) -> Self {
        Self {
            inner: Arc::new(Inner {
                objects: driver.clone(),
                uploads: driver,
                sources: Cache::new(SOURCES),
                hint_counts: Arc::default(),
                manifests: ManifestCache::new(),
                processors: Processors::default(),
            }),
            upload_lifetime: Some(uploads::LIFETIME),
        }
    }

    /// Sets how long after its beginning an upload session can be gone on with; 7 days by
    /// default, for ever with `None`
    ///
    /// Meant for the same age as [`PurgeOptions::older_than`], and `None` where nothing is
    /// purged. It counts for this store and the clones made of it from now on.
    #[must_use]
    pub fn with_upload_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.upload_lifetime = lifetime;
        self
    }

    /// Whether the storage answers
    ///
    /// # Errors
    ///
    /// What the driver says; an empty store is ready.
    pub async fn ready(&self) -> Result<(), StorageError> {
        match self.objects().list(None, None, 1).await {
            Ok(_) | Err(StorageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn objects(&self) -> &dyn Objects {
        &*self.inner.objects
    }

    fn uploads(&self) -> &dyn Uploads {
        &*self.inner.uploads
    }

    async fn read_link(&self, key: &Key) -> Result<Option<Digest>, StorageError> {
        read_link(self.objects(), key).await
    }

    async fn write_link(&self, key: &Key, digest: &Digest) -> Result<(), StorageError> {
        self.objects()
            .write(key, digest.to_string().into_bytes().into())
            .await
    }

    /// Deletes what may be gone already
    async fn delete_if_present(&self, key: &Key) -> Result<(), StorageError> {
        match self.objects().delete(key).await {
            Ok(()) | Err(StorageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Reads a link; `None` when there is none, or an empty one that a crash left behind
pub(crate) async fn read_link(
    objects: &(impl Objects + ?Sized),
    key: &Key,
) -> Result<Option<Digest>, StorageError> {
    let bytes = match objects.read(key, SMALL_READ_LIMIT).await {
        Ok(bytes) => bytes,
        Err(StorageError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| Digest::try_from(text.trim()).ok());
    match digest {
        Some(digest) => Ok(Some(digest)),
        None => Err(StorageError::Corrupt {
            key: key.to_string(),
            detail: "expected a digest in this link file".to_owned(),
        }),
    }
}
