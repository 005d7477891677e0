//! Referrers: manifests whose `subject` is a given digest

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use registry_core::manifest::{DescriptorDigest, Role};
use registry_core::{Algorithm, Digest, Manifest, MediaType, RepositoryName, Tag, TagOrDigest};

use super::manifests::{ManifestReadError, stored_limits};
use super::{CONCURRENCY, Store};
use crate::error::StorageError;
use crate::layout;

/// An entry of a referrers list (distribution specification, "Listing Referrers")
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The digest of the referring manifest
    pub digest: Digest,
    /// Its type
    pub media_type: MediaType,
    /// Its size in bytes
    pub size: u64,
    /// Its artifact type: its own, else the media type of its config
    pub artifact_type: Option<String>,
    /// Its annotations
    pub annotations: BTreeMap<String, String>,
}

impl Store {
    /// The manifests of the repository that refer to `subject`, by digest
    ///
    /// Besides what was pushed here, the index under the subject's fallback tag is read, into
    /// which clients write where a registry has no referrers API ("Enabling the Referrers
    /// API"). Empty for an unknown subject or repository.
    ///
    /// # Errors
    ///
    /// What the storage says.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, StorageError> {
        let mut candidates = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            candidates.extend(
                self.digests_in(&layout::referrers(name, subject, algorithm), algorithm)
                    .await?,
            );
        }
        candidates.extend(self.fallback_referrers(name, subject).await?);
        candidates.sort_unstable();
        candidates.dedup();
        stream::iter(candidates)
            .map(|digest| self.referrer(name, subject, digest))
            .buffered(CONCURRENCY)
            .try_filter_map(|referrer| async move { Ok(referrer) })
            .try_collect()
            .await
    }

    async fn referrer(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        digest: Digest,
    ) -> Result<Option<Referrer>, StorageError> {
        let Some(stored) = self.manifest_if_whole(name, &digest.into()).await? else {
            return Ok(None);
        };
        let size = stored.bytes.len() as u64;
        let Ok(manifest) = Manifest::parse(stored.bytes, None, &stored_limits()) else {
            return Ok(None);
        };
        let refers = manifest.subject().is_some_and(
            |found| matches!(&found.digest, DescriptorDigest::Known(found) if found == subject),
        );
        Ok(refers.then(|| Referrer {
            digest,
            media_type: stored.media_type,
            size,
            artifact_type: manifest.artifact_type().map(str::to_owned),
            annotations: manifest.annotations().clone(),
        }))
    }

    async fn fallback_referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Digest>, StorageError> {
        // "Referrers Tag Schema": the encoded part is cut to 64 characters.
        let mut hex = subject.hex();
        hex.truncate(64);
        let Ok(tag) = Tag::try_from(format!("{}-{hex}", subject.algorithm()).as_str()) else {
            return Ok(Vec::new());
        };
        let Some(stored) = self.manifest_if_whole(name, &TagOrDigest::Tag(tag)).await? else {
            return Ok(Vec::new());
        };
        let Ok(index) = Manifest::parse(stored.bytes, None, &stored_limits()) else {
            return Ok(Vec::new());
        };
        Ok(index
            .dependencies()
            .iter()
            .filter(|dependency| dependency.role == Role::Manifest)
            .filter_map(|dependency| match &dependency.descriptor.digest {
                DescriptorDigest::Known(digest) => Some(*digest),
                _ => None,
            })
            .collect())
    }

    /// A manifest for a list: one that is missing or damaged is left out of it
    async fn manifest_if_whole(
        &self,
        name: &RepositoryName,
        reference: &TagOrDigest,
    ) -> Result<Option<super::StoredManifest>, StorageError> {
        match self.manifest(name, reference).await {
            Ok(stored) => Ok(Some(stored)),
            Err(ManifestReadError::Storage(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}
