//! Manifests that were read and verified, by their digest
//!
//! It never answers whether a repository has a manifest, or which one a tag points to: that is
//! read from the driver each time. What has a digest never changes, so nothing in here can be
//! out of date, also when other processes write to the same storage.

use std::fmt;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use registry_core::Digest;

use super::StoredManifest;

/// How many bytes are kept at most, of manifests and of what it takes to keep them
const CAPACITY: u64 = 8 * 1024 * 1024;

/// The largest manifest that is kept: others are few, and would displace many
const LARGEST: usize = 256 * 1024;

/// What a manifest is expected to have, in bytes
const USUAL: u64 = 2048;

pub(super) struct ManifestCache(Cache<Digest, StoredManifest, Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Digest, StoredManifest> for Bytes {
    fn weight(&self, _: &Digest, manifest: &StoredManifest) -> u64 {
        let kept = size_of::<Digest>() + size_of::<StoredManifest>() + manifest.bytes.len();
        kept as u64
    }
}

impl ManifestCache {
    pub(super) fn new() -> Self {
        let expected = (CAPACITY / USUAL) as usize;
        Self(Cache::with_weighter(expected, CAPACITY, Bytes))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<StoredManifest> {
        self.0.get(digest)
    }

    /// Keeps a manifest whose bytes hash to its digest
    pub(super) fn keep(&self, manifest: &StoredManifest) {
        if manifest.bytes.len() <= LARGEST {
            self.0.insert(manifest.digest, manifest.clone());
        }
    }
}

impl fmt::Debug for ManifestCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestCache")
            .field("manifests", &self.0.len())
            .field("bytes", &self.0.weight())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use registry_core::manifest::Limits;
    use registry_core::{Manifest, MediaType, RepositoryName, Tag, TagOrDigest};

    use super::*;
    use crate::{Measured, Memory, StorageCall, StorageObserver, StorageReport, Store};

    #[derive(Debug, Default)]
    struct Reads(AtomicU64);

    impl StorageObserver for Reads {
        fn called(&self, report: &StorageReport) {
            if report.call == StorageCall::Read {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[tokio::test]
    async fn the_bytes_are_read_once_and_the_links_each_time() {
        let memory = Memory::new();
        let reads = Arc::new(Reads::default());
        let store = Store::new(Arc::new(Measured::new(memory.clone(), reads.clone())));
        let name = RepositoryName::try_from("a").unwrap();
        let tag = Tag::try_from("v1").unwrap();
        let bytes = r#"{"schemaVersion": 2, "manifests": [],
            "mediaType": "application/vnd.oci.image.index.v1+json"}"#;
        let digest = Digest::sha256(bytes.as_bytes());
        let index = Manifest::parse(bytes.into(), None, &Limits::default()).unwrap();
        let tags = std::slice::from_ref(&tag);
        let put = store.put_manifest(&name, &index, digest, tags);
        put.await.unwrap();

        let by_tag = TagOrDigest::Tag(tag);
        for expected in [3, 2, 2] {
            let before = reads.0.load(Ordering::Relaxed);
            let found = store.manifest(&name, &by_tag).await.unwrap();
            assert_eq!(found.bytes, bytes);
            assert_eq!(reads.0.load(Ordering::Relaxed) - before, expected);
        }
        // Another process takes it away, and another repository never had it.
        let other = Store::new(Arc::new(memory));
        let by_digest = TagOrDigest::Digest(digest);
        let elsewhere = RepositoryName::try_from("b").unwrap();
        store.manifest(&elsewhere, &by_digest).await.unwrap_err();
        other.delete_manifest(&name, &digest).await.unwrap();
        for reference in [by_tag, by_digest] {
            store.manifest(&name, &reference).await.unwrap_err();
        }
    }

    fn manifest(size: usize, seed: u32) -> StoredManifest {
        let bytes = [&seed.to_le_bytes()[..], &vec![b' '; size - 4]].concat();
        StoredManifest {
            digest: Digest::sha256(&bytes),
            media_type: MediaType::OCI_MANIFEST,
            bytes: bytes.into(),
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let cache = ManifestCache::new();
        let small = manifest(1000, 0);
        cache.keep(&small);
        assert_eq!(cache.get(&small.digest), Some(small));
        let large = manifest(LARGEST + 1, 0);
        cache.keep(&large);
        assert_eq!(cache.get(&large.digest), None);
        for seed in 0..200 {
            cache.keep(&manifest(LARGEST, seed));
        }
        assert!(cache.0.weight() <= CAPACITY, "{cache:?}");
        assert!(cache.0.len() > 10, "{cache:?}");
    }
}
