//! Registries to copy

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, stream};
use registry_core::manifest::Limits;
use registry_core::upload::ChunkHeader;
use registry_core::{Algorithm, Digest, Manifest, RepositoryName, Tag};

use crate::driver::{Key, Objects};
use crate::memory::Memory;
use crate::store::Store;

/// Numbers that are the same for the same seed (splitmix64)
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

pub(super) fn store(memory: &Memory) -> Store {
    Store::new(Arc::new(memory.clone()))
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

/// Pushes a blob
pub(super) async fn blob(store: &Store, repository: &str, bytes: &[u8]) -> Digest {
    blob_by(store, repository, bytes, Algorithm::Sha256).await
}

async fn blob_by(store: &Store, repository: &str, bytes: &[u8], by: Algorithm) -> Digest {
    let digest = Digest::of(by, bytes);
    let mut upload = store.start_upload(&name(repository), by).await.unwrap();
    let body = stream::iter([Ok::<_, String>(Bytes::copy_from_slice(bytes))]);
    upload.append(ChunkHeader::default(), body).await.unwrap();
    upload.complete(digest).await.unwrap();
    digest
}

fn descriptor(kind: &str, digest: &Digest, size: usize) -> String {
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#
    )
}

async fn put(store: &Store, repository: &str, text: String, tags: &[&str]) -> (Digest, usize) {
    let size = text.len();
    let manifest = Manifest::parse(text.into(), None, &Limits::default()).unwrap();
    let digest = manifest.digest(Algorithm::Sha256);
    let tags: Vec<Tag> = tags.iter().map(|text| tag(text)).collect();
    let name = name(repository);
    let stored = store.put_manifest(&name, &manifest, digest, &tags).await;
    stored.unwrap();
    (digest, size)
}

/// Pushes an image of these layers
pub(super) async fn image(
    store: &Store,
    repository: &str,
    layers: &[&[u8]],
    subject: Option<(Digest, usize)>,
    tags: &[&str],
) -> (Digest, usize) {
    let config = format!(r#"{{"layers":{}}}"#, layers.len());
    let config_digest = blob(store, repository, config.as_bytes()).await;
    let mut descriptors = Vec::new();
    for layer in layers {
        let digest = blob(store, repository, layer).await;
        descriptors.push(descriptor("layer.v1.tar", &digest, layer.len()));
    }
    let subject = subject.map_or_else(String::new, |(digest, size)| {
        format!(
            r#","subject":{}"#,
            descriptor("manifest.v1+json", &digest, size)
        )
    });
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]{subject}}}"#,
        descriptor("config.v1+json", &config_digest, config.len()),
        descriptors.join(",")
    );
    put(store, repository, text, tags).await
}

pub(super) async fn index(
    store: &Store,
    repository: &str,
    manifests: &[(Digest, usize)],
    tags: &[&str],
) -> (Digest, usize) {
    let entries: Vec<String> = manifests
        .iter()
        .map(|(digest, size)| descriptor("manifest.v1+json", digest, *size))
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.join(",")
    );
    put(store, repository, text, tags).await
}

/// A registry of several repositories, some in one another, that share layers
pub(super) async fn filled(seed: u64) -> Memory {
    let memory = Memory::new();
    let store = store(&memory);
    let mut dice = Dice(seed);
    let layers: Vec<Vec<u8>> = (0..6)
        .map(|number| {
            // Some of no byte, some that are written at once, some that are streamed.
            let size = [0, 10, 4096, 4097, 20_000][dice.below(5) as usize];
            vec![b'a' + number; size]
        })
        .collect();
    for repository in ["a", "a/b", "a-b", "team/app"] {
        let mut images = Vec::new();
        for number in 0..1 + dice.below(3) {
            let some: Vec<&[u8]> = (0..1 + dice.below(4))
                .map(|_| &*layers[dice.below(6) as usize])
                .collect();
            // `moving` has pointed to all of them.
            let own = format!("v{number}");
            images.push(image(&store, repository, &some, None, &["moving", &own]).await);
        }
        index(&store, repository, &images, &["multi"]).await;
        image(&store, repository, &[b"signature"], Some(images[0]), &[]).await;
    }
    blob(&store, "layers/only", b"not yet in an image").await;
    blob_by(
        &store,
        "layers/only",
        b"hashed twice as long",
        Algorithm::Sha512,
    )
    .await;
    memory
}

/// Everything in a storage that is no mark of a copy
pub(super) async fn dump(memory: &Memory) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    below(memory, None, &mut found).await;
    // Left behind only by who is killed between writing and deleting it.
    found.retain(|key, _| !key.starts_with("docker/registry/v2/copy-"));
    found
}

fn below<'a>(
    memory: &'a Memory,
    folder: Option<Key>,
    found: &'a mut BTreeMap<String, Bytes>,
) -> BoxFuture<'a, ()> {
    async move {
        let entries = memory.list(folder.as_ref(), None, usize::MAX).await;
        for entry in entries.unwrap_or_default() {
            let key = match &folder {
                Some(folder) => folder.child(&entry.name).unwrap(),
                None => Key::parse(&entry.name).unwrap(),
            };
            match entry.is_dir {
                true => below(memory, Some(key), found).await,
                false => {
                    let bytes = memory.read(&key, usize::MAX).await.unwrap();
                    found.insert(key.to_string(), bytes);
                }
            }
        }
    }
    .boxed()
}
