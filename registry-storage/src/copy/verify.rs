//! Whether a registry is whole

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quick_cache::sync::Cache;
use registry_core::manifest::Role;
use registry_core::{Algorithm, Digest, RepositoryName, Tag};
use tokio::task::JoinSet;

use super::blobs::{Blob, BlobFailure, is_whole};
use super::progress::{Counts, Problem, Progress, add};
use super::repository::{Need, needs};
use super::side::{Side, parsed};
use super::{CopyError, CopyOptions, Filtered, Guard, REMEMBERED, list, wanted};
use crate::driver::Driver;
use crate::error::StorageError;
use crate::layout;

/// A reading of all that a registry has
///
/// Each blob and manifest that a repository has is read and hashed, each tag must point to a
/// manifest of its repository, and each manifest must have what it is made of. Nothing is
/// written. A registry may serve the storage meanwhile.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::sync::Arc;
///
/// use registry_storage::Memory;
/// use registry_storage::copy::Verify;
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let verify = Verify::new(Arc::new(Memory::new()), NonZeroUsize::MIN);
/// assert_eq!(verify.run().await?.problems, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Verify {
    inner: Arc<Inner>,
    filter: Option<Filtered>,
}

#[derive(Debug)]
struct Inner {
    side: Side,
    progress: Arc<Progress>,
    guard: Guard,
    blobs: Cache<Digest, Blob>,
}

impl Verify {
    /// Will read `storage`, so many blobs at once
    pub fn new(storage: Arc<dyn Driver>, concurrency: NonZeroUsize) -> Self {
        let progress = Arc::new(Progress::default());
        Self {
            inner: Arc::new(Inner {
                side: Side {
                    driver: storage,
                    retries: CopyOptions::default().retries,
                },
                guard: Guard::new(concurrency.get(), progress.clone()),
                progress,
                blobs: Cache::new(REMEMBERED),
            }),
            filter: None,
        }
    }

    /// Reads only the repositories that `filter` wants
    #[must_use]
    pub fn with_repositories(
        mut self,
        filter: impl Fn(&RepositoryName) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filter = Some(Filtered(Arc::new(filter)));
        self
    }

    /// How far it has got, to be asked from elsewhere while it runs
    pub fn progress(&self) -> Arc<Progress> {
        self.inner.progress.clone()
    }

    /// Reads, and says how much of what; what is damaged or missing is a problem
    ///
    /// # Errors
    ///
    /// [`CopyError::Storage`] if the storage fails at everything.
    pub async fn run(self) -> Result<Counts, CopyError> {
        let Self { inner, filter } = self;
        let mut listing = JoinSet::new();
        listing.spawn(list(
            inner.side.clone(),
            filter.clone(),
            inner.progress.clone(),
        ));
        let names = wanted(inner.side.repositories(), filter);
        let each = inner.clone();
        inner
            .guard
            .repositories(names, move |name| each.clone().repository(name))
            .await;
        inner.guard.result()?;
        Ok(inner.progress.counts())
    }
}

impl Inner {
    async fn repository(self: Arc<Self>, name: RepositoryName) {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let layers = self
                .side
                .digests(layout::layers(&name, algorithm), algorithm);
            let (inner, of) = (self.clone(), name.clone());
            self.guard
                .each(layers, move |digest| {
                    let (inner, name) = (inner.clone(), of.clone());
                    async move { inner.layer(&name, &digest).await }
                })
                .await;
            let manifests = self
                .side
                .digests(layout::revisions(&name, algorithm), algorithm);
            let (inner, of) = (self.clone(), name.clone());
            self.guard
                .each(manifests, move |digest| {
                    let (inner, name) = (inner.clone(), of.clone());
                    async move { inner.manifest(&name, &digest).await }
                })
                .await;
        }
        let tags = parsed(self.side.folders(layout::tags(&name)), |tag| {
            Tag::try_from(tag).ok()
        });
        let inner = self.clone();
        self.guard
            .each(tags, move |tag| {
                let (inner, name) = (inner.clone(), name.clone());
                async move { inner.tag(&name, &tag).await }
            })
            .await;
        add(&self.progress.done.repositories, 1);
    }

    async fn layer(&self, name: &RepositoryName, digest: &Digest) -> Result<(), StorageError> {
        let link = layout::layer_link(name, digest);
        if self.side.link(&link).await? != Some(*digest) {
            return Ok(());
        }
        match self.blob(name, digest).await {
            Ok(_) => {}
            Err(BlobFailure::Missing) => add(&self.progress.dangling, 1),
            Err(BlobFailure::Storage(error)) => return Err(error),
        }
        Ok(())
    }

    async fn blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Blob, BlobFailure> {
        self.blobs
            .get_or_insert_async(digest, async {
                let Some(size) = self.side.blob_size(digest).await? else {
                    return Err(BlobFailure::Missing);
                };
                let mut read = 0;
                let whole = is_whole(&self.side, digest, size, |count| {
                    read += count;
                    add(&self.progress.done.bytes, count);
                })
                .await;
                if !matches!(whole, Ok(true)) {
                    self.progress.done.bytes.fetch_sub(read, Ordering::Relaxed);
                }
                match whole {
                    Ok(true) => {
                        add(&self.progress.done.blobs, 1);
                        Ok(Blob::Whole)
                    }
                    Ok(false) => {
                        self.progress.problem(Problem::DamagedBlob {
                            name: name.clone(),
                            digest: *digest,
                        });
                        Ok(Blob::Damaged)
                    }
                    Err(StorageError::NotFound { .. }) => Err(BlobFailure::Missing),
                    Err(error) => Err(BlobFailure::Storage(error)),
                }
            })
            .await
    }

    async fn manifest(&self, name: &RepositoryName, digest: &Digest) -> Result<(), StorageError> {
        let link = layout::revision_link(name, digest);
        if self.side.link(&link).await? != Some(*digest) {
            return Ok(());
        }
        let (name, digest) = (name.clone(), *digest);
        let problem = match self.side.manifest(&digest).await? {
            None => Problem::MissingManifest { name, digest },
            Some(bytes) if Digest::of(digest.algorithm(), &bytes) != digest => {
                Problem::DamagedManifest { name, digest }
            }
            Some(bytes) => {
                let mut missing = Vec::new();
                let (needs, _) = needs(bytes);
                for need in needs {
                    if !self.has(&name, &need).await? {
                        missing.push(need.digest);
                    }
                }
                if missing.is_empty() {
                    add(&self.progress.done.manifests, 1);
                    return Ok(());
                }
                Problem::Incomplete {
                    name,
                    digest,
                    missing,
                }
            }
        };
        // It may have been deleted meanwhile.
        if self.side.link(&link).await? == Some(digest) {
            self.progress.problem(problem);
        }
        Ok(())
    }

    /// Whether the repository has what a manifest needs
    async fn has(&self, name: &RepositoryName, need: &Need) -> Result<bool, StorageError> {
        let digest = &need.digest;
        let manifest = layout::revision_link(name, digest);
        if need.role == Role::Manifest && self.side.link(&manifest).await? == Some(*digest) {
            return Ok(self.side.blob_size(digest).await?.is_some());
        }
        let layer = layout::layer_link(name, digest);
        if self.side.link(&layer).await? != Some(*digest) {
            return Ok(false);
        }
        match self.blob(name, digest).await {
            Ok(blob) => Ok(blob == Blob::Whole),
            Err(BlobFailure::Missing) => Ok(false),
            Err(BlobFailure::Storage(error)) => Err(error),
        }
    }

    async fn tag(&self, name: &RepositoryName, tag: &Tag) -> Result<(), StorageError> {
        let current = layout::tag_current(name, tag);
        let Some(digest) = self.side.link(&current).await? else {
            return Ok(());
        };
        let link = layout::revision_link(name, &digest);
        if self.side.link(&link).await? == Some(digest) {
            add(&self.progress.done.tags, 1);
        } else if self.side.link(&current).await? == Some(digest) {
            self.progress.problem(Problem::DanglingTag {
                name: name.clone(),
                tag: tag.clone(),
                digest,
            });
        }
        Ok(())
    }
}
