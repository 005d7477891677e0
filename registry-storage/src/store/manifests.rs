//! Manifests: exact bytes by digest, and tags that point to them

use std::fmt;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use registry_core::manifest::{Dependency, DescriptorDigest, Limits, Role};
use registry_core::{Algorithm, Digest, Manifest, MediaType, RepositoryName, Tag, TagOrDigest};

use super::{CONCURRENCY, MANIFEST_READ_LIMIT, Store};
use crate::error::StorageError;
use crate::layout;

/// A manifest as it was pushed
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// What its bytes hash to, in the algorithm that it was pushed with
    pub digest: Digest,
    /// The type that it was pushed with
    pub media_type: MediaType,
    /// The bytes, unchanged
    pub bytes: Bytes,
}

/// Why a manifest cannot be had
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestReadError {
    /// The stored bytes do not hash to the digest
    #[error("the stored manifest `{digest}` is damaged; push it again to mend it")]
    Damaged {
        /// The digest that it should have
        digest: Digest,
    },
    /// There is no such repository
    #[error("there is no repository `{name}`; push an image to it first")]
    RepositoryUnknown {
        /// The repository that was asked
        name: RepositoryName,
    },
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The repository does not have it
    #[error("`{name}` has no manifest `{reference}`")]
    Unknown {
        /// The repository that was asked
        name: RepositoryName,
        /// What was asked for
        reference: TagOrDigest,
    },
}

/// Why a manifest was not stored
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutManifestError {
    /// It refers to content that the repository does not have
    #[error("{} of the blobs or manifests that it refers to are missing", .0.len())]
    Missing(Vec<MissingDependency>),
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Content that a manifest refers to and the repository does not have
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingDependency {
    /// Its digest as the manifest writes it
    pub digest: String,
    /// What is wrong, and what to do
    pub reason: String,
}

impl fmt::Display for MissingDependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.digest, self.reason)
    }
}

/// Limits for what is stored already: only reading must be bounded
pub(crate) fn stored_limits() -> Limits {
    Limits {
        max_bytes: MANIFEST_READ_LIMIT,
        max_depth: Limits::default().max_depth,
        max_descriptors: usize::MAX,
    }
}

impl Store {
    /// The manifest that a tag points to, or the manifest of a digest
    ///
    /// # Errors
    ///
    /// [`ManifestReadError`]; what is returned hashes to its digest.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &TagOrDigest,
    ) -> Result<StoredManifest, ManifestReadError> {
        let digest = match reference {
            TagOrDigest::Digest(digest) => Some(*digest),
            TagOrDigest::Tag(tag) => self.read_link(&layout::tag_current(name, tag)).await?,
        };
        // What needs more than the links has a future of its own, for it is seldom needed.
        let Some(digest) = digest else {
            return Err(self.manifest_unknown(name, reference).boxed().await);
        };
        let Some(manifest) = self.inner.manifests.get(&digest) else {
            return self.read_manifest(name, reference, digest).boxed().await;
        };
        let link = layout::revision_link(name, &digest);
        match self.read_link(&link).await? == Some(digest) {
            true => Ok(manifest),
            false => Err(self.manifest_unknown(name, reference).boxed().await),
        }
    }

    /// A manifest that is not in the cache, which it is from now on
    async fn read_manifest(
        &self,
        name: &RepositoryName,
        reference: &TagOrDigest,
        digest: Digest,
    ) -> Result<StoredManifest, ManifestReadError> {
        let link = layout::revision_link(name, &digest);
        // Both at once: each takes a while on a network.
        let (link, bytes) =
            futures::join!(self.read_link(&link), self.read_manifest_bytes(&digest));
        if link? != Some(digest) {
            return Err(self.manifest_unknown(name, reference).await);
        }
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(StorageError::NotFound { .. }) => {
                tracing::error!(%name, %digest, "a manifest is linked and its bytes are gone; push it again");
                return Err(self.manifest_unknown(name, reference).await);
            }
            Err(error) => return Err(error.into()),
        };
        if Digest::of(digest.algorithm(), &bytes) != digest {
            tracing::error!(%name, %digest, "a stored manifest does not hash to its digest; push it again");
            return Err(ManifestReadError::Damaged { digest });
        }
        let media_type = Manifest::detect_media_type(&bytes).unwrap_or(MediaType::OCI_MANIFEST);
        let manifest = StoredManifest {
            digest,
            media_type,
            bytes,
        };
        self.inner.manifests.keep(&manifest);
        Ok(manifest)
    }

    /// Stores a manifest under its digest and lets tags point to it
    ///
    /// `digest` is that of the manifest's bytes, which the caller has computed or verified.
    /// When this returns, the bytes, the links and the tags are durable.
    ///
    /// # Errors
    ///
    /// [`PutManifestError::Missing`] with everything that the repository lacks (distribution
    /// specification, "Pushing Manifests"); then no tag has moved. A subject may be missing.
    pub async fn put_manifest(
        &self,
        name: &RepositoryName,
        manifest: &Manifest,
        digest: Digest,
        tags: &[Tag],
    ) -> Result<(), PutManifestError> {
        let (seen, others): (Vec<_>, Vec<_>) = required(manifest)
            .into_iter()
            .partition(|dependency| self.was_seen(name, dependency));
        let missing = self.missing_of(name, others.clone(), true).await?;
        if !missing.is_empty() {
            return Err(PutManifestError::Missing(missing));
        }

        let link = layout::revision_link(name, &digest);
        let known = self.read_link(&link).await? == Some(digest);
        self.objects()
            .write(&layout::blob(&digest), manifest.raw().clone())
            .await?;
        let referrer = manifest
            .subject()
            .and_then(|subject| match &subject.digest {
                DescriptorDigest::Known(subject) => {
                    Some(layout::referrer_link(name, subject, &digest))
                }
                _ => None,
            });
        // The referrers entry first: a list skips entries whose manifest is not there, so
        // whoever sees the manifest finds it in the list too.
        if let Some(referrer) = &referrer {
            self.write_link(referrer, &digest).await?;
        }
        self.write_link(&link, &digest).await?;

        // A blob may have been deleted since it was looked for. Its deleter removes the link
        // and then looks for manifests; here the manifest's link is written and then the blobs
        // are looked for: at least one of the two sees the other. What this process has seen
        // lately is looked for here alone.
        let (missing, gone) = futures::try_join!(
            self.missing_of(name, seen, true),
            self.missing_of(name, others, false)
        )?;
        let missing = [missing, gone].concat();
        if !missing.is_empty() {
            if !known {
                self.delete_if_present(&link).await?;
                if let Some(referrer) = &referrer {
                    self.delete_if_present(referrer).await?;
                }
            }
            return Err(PutManifestError::Missing(missing));
        }

        for tag in tags {
            self.write_link(&layout::tag_index(name, tag, &digest), &digest)
                .await?;
            self.write_link(&layout::tag_current(name, tag), &digest)
                .await?;
        }
        Ok(())
    }

    /// Takes a manifest and every tag that points to it out of the repository
    ///
    /// Returns those tags.
    ///
    /// # Errors
    ///
    /// [`ManifestReadError::Unknown`] or [`ManifestReadError::RepositoryUnknown`] when it is not there.
    pub async fn delete_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, ManifestReadError> {
        let link = layout::revision_link(name, digest);
        if self.read_link(&link).await? != Some(*digest) {
            return Err(self
                .manifest_unknown(name, &TagOrDigest::Digest(*digest))
                .await);
        }
        // Tags first: if this breaks off, the manifest is still there to be deleted again.
        let mut tags = self.delete_tags_of(name, digest).await?;
        if let Ok(bytes) = self.read_manifest_bytes(digest).await
            && let Ok(manifest) = Manifest::parse(bytes, None, &stored_limits())
            && let Some(subject) = manifest.subject()
            && let DescriptorDigest::Known(subject) = &subject.digest
        {
            self.delete_if_present(&layout::referrer_link(name, subject, digest))
                .await?;
        }
        self.delete_if_present(&link).await?;
        // Again, for tags that were set in between: they would point to nothing.
        tags.extend(self.delete_tags_of(name, digest).await?);
        Ok(tags)
    }

    /// Takes a tag away; the manifest stays
    ///
    /// # Errors
    ///
    /// [`ManifestReadError::Unknown`] or [`ManifestReadError::RepositoryUnknown`] when it is not there.
    pub async fn delete_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<(), ManifestReadError> {
        match self.objects().delete(&layout::tag_current(name, tag)).await {
            Ok(()) => {}
            Err(StorageError::NotFound { .. }) => {
                return Err(self
                    .manifest_unknown(name, &TagOrDigest::Tag(tag.clone()))
                    .await);
            }
            Err(error) => return Err(error.into()),
        }
        self.objects().delete_tree(&layout::tag(name, tag)).await?;
        Ok(())
    }

    /// Whether the repository has ever had a manifest: then distribution lists it too
    pub(super) async fn repository_exists(&self, name: &str) -> Result<bool, StorageError> {
        match self
            .objects()
            .list(Some(&layout::manifests(name)), None, 1)
            .await
        {
            Ok(_) => Ok(true),
            Err(StorageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_manifest_bytes(&self, digest: &Digest) -> Result<Bytes, StorageError> {
        self.objects()
            .read(&layout::blob(digest), MANIFEST_READ_LIMIT)
            .await
    }

    /// The digests of all manifests of the repository
    pub(super) async fn revisions(
        &self,
        name: &RepositoryName,
    ) -> Result<Vec<Digest>, StorageError> {
        let mut revisions = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            revisions.extend(
                self.digests_in(&layout::revisions(name, algorithm), algorithm)
                    .await?,
            );
        }
        Ok(revisions)
    }

    async fn manifest_unknown(
        &self,
        name: &RepositoryName,
        reference: &TagOrDigest,
    ) -> ManifestReadError {
        match self.repository_exists(name.as_str()).await {
            Ok(true) => ManifestReadError::Unknown {
                name: name.clone(),
                reference: reference.clone(),
            },
            Ok(false) => ManifestReadError::RepositoryUnknown { name: name.clone() },
            Err(error) => error.into(),
        }
    }

    async fn delete_tags_of(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, ManifestReadError> {
        let tags = match self.tags(name, None, None).await {
            Ok(listing) => listing.items,
            Err(ManifestReadError::RepositoryUnknown { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        stream::iter(tags)
            .map(|tag| async move {
                let target = self.read_link(&layout::tag_current(name, &tag)).await?;
                if target != Some(*digest) {
                    return Ok(None);
                }
                match self.delete_tag(name, &tag).await {
                    Ok(()) => Ok(Some(tag)),
                    Err(
                        ManifestReadError::Unknown { .. }
                        | ManifestReadError::RepositoryUnknown { .. },
                    ) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_filter_map(|tag| async move { Ok(tag) })
            .try_collect()
            .await
    }

    /// Whether this process saw the blob in the repository lately, as large as it should be
    fn was_seen(&self, name: &RepositoryName, dependency: &Dependency) -> bool {
        let DescriptorDigest::Known(digest) = &dependency.descriptor.digest else {
            return false;
        };
        let seen = self.inner.sources.get(digest);
        dependency.role != Role::Manifest
            && seen.is_some_and(|seen| {
                seen.size == dependency.descriptor.size && seen.names.contains(name)
            })
    }

    /// Those of the dependencies that the repository lacks
    ///
    /// Without `bytes`, only whether it has links to them is looked at.
    async fn missing_of(
        &self,
        name: &RepositoryName,
        dependencies: Vec<Dependency>,
        bytes: bool,
    ) -> Result<Vec<MissingDependency>, StorageError> {
        // `buffered`, not `buffer_unordered`: errors stand in the manifest's own order.
        stream::iter(dependencies)
            .map(
                |dependency| async move { self.missing_dependency(name, &dependency, bytes).await },
            )
            .buffered(CONCURRENCY)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    async fn missing_dependency(
        &self,
        name: &RepositoryName,
        dependency: &Dependency,
        bytes: bool,
    ) -> Result<Option<MissingDependency>, StorageError> {
        let descriptor = &dependency.descriptor;
        let missing = |reason: String| {
            Ok(Some(MissingDependency {
                digest: descriptor.digest.to_string(),
                reason,
            }))
        };
        let digest = match &descriptor.digest {
            DescriptorDigest::Known(digest) => digest,
            _ => {
                return missing(
                    "is of an algorithm that this registry cannot verify; use sha256 or sha512"
                        .to_owned(),
                );
            }
        };
        let mut linked = false;
        if dependency.role == Role::Manifest {
            linked = self.read_link(&layout::revision_link(name, digest)).await? == Some(*digest);
        }
        // An index may list blobs too, as build caches do.
        linked =
            linked || self.read_link(&layout::layer_link(name, digest)).await? == Some(*digest);
        if !linked {
            return missing(format!(
                "is not in repository `{name}`; push it before the manifest that refers to it"
            ));
        }
        if !bytes {
            return Ok(None);
        }
        let Some(size) = self.blob_size(digest).await? else {
            return missing("is not in this registry any more; push it again".to_owned());
        };
        if size == descriptor.size {
            return Ok(None);
        }
        if self.set_aside_if_damaged(digest).await? {
            return missing("was damaged in storage; push it again".to_owned());
        }
        missing(format!(
            "has {size} bytes, and the manifest says {}; write the descriptor anew",
            descriptor.size
        ))
    }
}

/// What must be there before the manifest, each once
fn required(manifest: &Manifest) -> Vec<Dependency> {
    let mut seen = std::collections::HashSet::new();
    manifest
        .dependencies()
        .iter()
        .filter(|dependency| dependency.must_exist())
        .filter(|dependency| seen.insert(dependency.descriptor.digest.to_string()))
        .cloned()
        .collect()
}
