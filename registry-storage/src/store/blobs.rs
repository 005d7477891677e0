//! Blobs: one copy by digest, one link per repository that has it

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use registry_core::{ByteRange, Digest, Hasher, Manifest, RepositoryName};

use super::manifests::stored_limits;
use super::{CONCURRENCY, SOURCES_PER_BLOB, Seen, Store};
use crate::driver::{ByteStream, Key};
use crate::error::StorageError;
use crate::layout;
use crate::piece::PieceStream;

/// Why a blob cannot be had
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The repository does not have it
    #[error("`{name}` has no blob `{digest}`")]
    Unknown {
        /// The repository that was asked
        name: RepositoryName,
        /// The blob that was asked for
        digest: Digest,
    },
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a blob was not deleted
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteBlobError {
    /// A manifest of the repository needs it
    #[error("blob `{digest}` is part of manifest `{manifest}`; delete that manifest first")]
    InUse {
        /// The blob
        digest: Digest,
        /// A manifest that refers to it
        manifest: Digest,
    },
    /// The repository does not have it
    #[error("`{name}` has no blob `{digest}`")]
    Unknown {
        /// The repository that was asked
        name: RepositoryName,
        /// The blob that was asked for
        digest: Digest,
    },
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How often a mount that named no source found a hint where the blob is
#[derive(Debug, Default)]
pub struct HintCounts {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl HintCounts {
    /// There was one
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// There was none
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }
}

impl Store {
    /// Where the bytes of a blob are kept, whichever repositories have it
    ///
    /// Nothing is looked at: whether the blob is there, and in a repository, is for
    /// [`Store::stat_blob`] to say.
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_core::Digest;
    /// use registry_storage::Store;
    ///
    /// let key = Store::blob_key(&Digest::sha256(b"a"));
    /// assert!(key.as_str().starts_with("docker/registry/v2/blobs/sha256/ca/ca978112ca1bbdca"));
    /// ```
    pub fn blob_key(digest: &Digest) -> Key {
        layout::blob(digest)
    }

    /// The size in bytes of a blob that the repository has
    ///
    /// # Errors
    ///
    /// [`BlobError::Unknown`] also when another repository has it (distribution
    /// specification, "Pulling blobs").
    pub async fn stat_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, BlobError> {
        let linked = self.read_link(&layout::layer_link(name, digest)).await?;
        expect_link(linked, name, digest)?;
        let size = self.blob_size(digest).await?;
        let size = size.ok_or_else(|| unknown(name, digest))?;
        self.remember_source(digest, name, size);
        Ok(size)
    }

    /// The bytes of a blob, or of a part of it
    ///
    /// `range` must lie within the size that [`Store::stat_blob`] gave.
    ///
    /// # Errors
    ///
    /// As [`Store::stat_blob`]; the stream ends with an error if the storage fails under way.
    pub async fn read_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<ByteStream, BlobError> {
        let (_, stream) = self.open_blob(name, digest, range).await?;
        Ok(stream)
    }

    /// The size of a blob, and its bytes or those in `range`
    ///
    /// As [`Store::stat_blob`] and [`Store::read_blob`], with half of the calls.
    ///
    /// # Errors
    ///
    /// As [`Store::read_blob`].
    pub async fn open_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), BlobError> {
        let linked = self.read_link(&layout::layer_link(name, digest)).await?;
        expect_link(linked, name, digest)?;
        let opened = self.objects().stream(&layout::blob(digest), range).await;
        self.opened(name, digest, opened)
    }

    /// The size of a blob, and its pieces or those of `range`
    ///
    /// As [`Store::open_blob`], for whoever need not see the bytes to pass them on.
    ///
    /// # Errors
    ///
    /// As [`Store::read_blob`].
    pub async fn open_blob_pieces(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<(u64, PieceStream), BlobError> {
        let linked = self.read_link(&layout::layer_link(name, digest)).await?;
        expect_link(linked, name, digest)?;
        let opened = self.objects().pieces(&layout::blob(digest), range).await;
        self.opened(name, digest, opened)
    }

    /// What came of opening a blob that the repository has
    fn opened<T>(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        opened: Result<(u64, T), StorageError>,
    ) -> Result<(u64, T), BlobError> {
        match opened {
            // As for who asks for the size alone.
            Ok((0, _)) if *digest != Digest::of(digest.algorithm(), b"") => {
                Err(unknown(name, digest))
            }
            Ok((size, content)) => {
                self.remember_source(digest, name, size);
                Ok((size, content))
            }
            Err(StorageError::NotFound { .. }) => Err(unknown(name, digest)),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a blob out of the repository
    ///
    /// Its bytes stay, for other repositories may have it too.
    ///
    /// # Errors
    ///
    /// [`DeleteBlobError::InUse`] while a manifest of the repository refers to it.
    pub async fn delete_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), DeleteBlobError> {
        match self.stat_blob(name, digest).await {
            Ok(_) => {}
            Err(BlobError::Unknown { name, digest }) => {
                return Err(DeleteBlobError::Unknown { name, digest });
            }
            Err(BlobError::Storage(error)) => return Err(error.into()),
        }
        let in_use = |manifest| DeleteBlobError::InUse {
            digest: *digest,
            manifest,
        };
        if let Some(manifest) = self.manifest_using(name, digest).await? {
            return Err(in_use(manifest));
        }
        let link = layout::layer_link(name, digest);
        self.delete_if_present(&link).await?;
        // A manifest may have been pushed since. Its pusher writes the manifest's link and then
        // looks for the blob; here the blob's link goes first and then manifests are looked
        // for: at least one of the two sees the other.
        if let Some(manifest) = self.manifest_using(name, digest).await? {
            self.write_link(&link, digest).await?;
            return Err(in_use(manifest));
        }
        Ok(())
    }

    /// Gives `to` a blob that `from` has, without moving a byte
    ///
    /// Whether the caller may read `from` must have been decided before.
    ///
    /// # Errors
    ///
    /// What the storage says; `Ok(false)` when `from` does not have it.
    pub async fn mount_blob(
        &self,
        from: &RepositoryName,
        to: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let size = match self.stat_blob(from, digest).await {
            Ok(size) => size,
            Err(BlobError::Unknown { .. }) => return Ok(false),
            Err(BlobError::Storage(error)) => return Err(error),
        };
        self.write_link(&layout::layer_link(to, digest), digest)
            .await?;
        self.remember_source(digest, to, size);
        Ok(true)
    }

    /// Repositories in which this process saw the blob lately
    ///
    /// A hint for a mount that names no source: [`Store::mount_blob`] looks whether it is still
    /// so, and the caller must still be allowed to read there.
    pub fn blob_sources(&self, digest: &Digest) -> Vec<RepositoryName> {
        let seen = self.inner.sources.get(digest);
        let count = match &seen {
            Some(_) => &self.inner.hint_counts.hits,
            None => &self.inner.hint_counts.misses,
        };
        count.fetch_add(1, Ordering::Relaxed);
        seen.map(|seen| seen.names.to_vec()).unwrap_or_default()
    }

    /// How often [`Store::blob_sources`] had an answer, counted on as it is asked
    pub fn hint_counts(&self) -> Arc<HintCounts> {
        self.inner.hint_counts.clone()
    }

    pub(super) fn remember_source(&self, digest: &Digest, name: &RepositoryName, size: u64) {
        let known = self.inner.sources.get(digest);
        let known = match &known {
            Some(seen) if seen.size == size => &seen.names[..],
            // It was set aside and pushed again, or is being.
            _ => &[],
        };
        if known.first() == Some(name) {
            return;
        }
        let names: Arc<[RepositoryName]> = std::iter::once(name)
            .chain(known.iter().filter(|other| *other != name))
            .take(SOURCES_PER_BLOB)
            .cloned()
            .collect();
        self.inner.sources.insert(*digest, Seen { names, size });
    }

    /// The size of the bytes under a digest, whoever has them
    ///
    /// A file of no bytes under the digest of some is what a crash leaves behind where nothing
    /// was synced. It counts as absent, so that a client pushes it again.
    pub(super) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        match self.objects().stat(&layout::blob(digest)).await {
            Ok(stat) if stat.size == 0 && *digest != Digest::of(digest.algorithm(), b"") => {
                Ok(None)
            }
            Ok(stat) => Ok(Some(stat.size)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a blob whose size is not what a manifest says, and moves it away if it is damaged
    ///
    /// Returns whether it was: then it counts as absent, and pushing it again heals it.
    pub(super) async fn set_aside_if_damaged(&self, digest: &Digest) -> Result<bool, StorageError> {
        let key = layout::blob(digest);
        let mut hasher = Hasher::new(digest.algorithm());
        let (_, mut stream) = self.objects().stream(&key, None).await?;
        while let Some(bytes) = stream.try_next().await? {
            hasher.update(&bytes);
        }
        if hasher.finish() == *digest {
            return Ok(false);
        }
        tracing::error!(%digest, "a stored blob does not hash to its digest; it was set aside, push it again");
        self.objects()
            .rename(&key, &layout::damaged_blob(digest))
            .await?;
        Ok(true)
    }

    /// A manifest of the repository that refers to the blob
    async fn manifest_using(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, StorageError> {
        let revisions = self.revisions(name).await?;
        let mut checks = stream::iter(revisions)
            .map(|revision| async move {
                // The folder of a manifest outlives it, so its link is looked for as well.
                let uses = self.manifest_uses(&revision, digest).await?
                    && self
                        .read_link(&layout::revision_link(name, &revision))
                        .await?
                        == Some(revision);
                Ok::<_, StorageError>(uses.then_some(revision))
            })
            .buffer_unordered(CONCURRENCY);
        while let Some(found) = checks.try_next().await? {
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn manifest_uses(
        &self,
        manifest: &Digest,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let bytes = match self.read_manifest_bytes(manifest).await {
            Ok(bytes) => bytes,
            Err(StorageError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        // Most manifests do not name the blob at all, so the text is searched before it is
        // parsed. A manifest that names it and cannot be parsed counts as one that uses it.
        let text = digest.to_string();
        if !bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
        {
            return Ok(false);
        }
        Ok(Manifest::parse(bytes, None, &stored_limits())
            .map(|manifest| {
                manifest
                    .dependencies()
                    .iter()
                    .any(|dependency| dependency.descriptor.digest.to_string() == text)
            })
            .unwrap_or(true))
    }
}

/// Refuses a blob that the repository does not have
fn expect_link(
    linked: Option<Digest>,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<(), BlobError> {
    match linked {
        Some(linked) if linked == *digest => Ok(()),
        _ => Err(unknown(name, digest)),
    }
}

fn unknown(name: &RepositoryName, digest: &Digest) -> BlobError {
    BlobError::Unknown {
        name: name.clone(),
        digest: *digest,
    }
}
