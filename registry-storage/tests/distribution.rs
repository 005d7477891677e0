//! One bucket, used by this registry's store and by Debian's docker-registry

#![cfg(feature = "object-stores")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use registry_core::manifest::Limits;
use registry_core::upload::ChunkHeader;
use registry_core::{Algorithm, Digest, Manifest, RepositoryName, Tag, TagOrDigest};
use registry_storage::bucket::{Bucket, BucketOptions};
use registry_storage::{BlobError, ManifestReadError, Store};

use self::support::docker_registry::DockerRegistry;
use self::support::proxy::Proxy;
use self::support::{Kind, PART, Server, connect, open, s3};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn name() -> RepositoryName {
    RepositoryName::try_from("team/app").unwrap()
}

fn noise(size: usize, seed: u8) -> Bytes {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// A manifest of blobs, of which the first is the configuration
fn image(blobs: &[Bytes]) -> String {
    let descriptor = |bytes: &Bytes, kind: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.docker.{kind}","size":{},"digest":"{}"}}"#,
            bytes.len(),
            Digest::sha256(bytes)
        )
    };
    let layers: Vec<_> = blobs[1..]
        .iter()
        .map(|bytes| descriptor(bytes, "image.rootfs.diff.tar.gzip"))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor(&blobs[0], "container.image.v1+json"),
        layers.join(",")
    )
}

fn list(image: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{LIST}","manifests":[{{"mediaType":"{MANIFEST}","size":{},"digest":"{}","platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
        image.len(),
        Digest::sha256(image.as_bytes())
    )
}

fn blobs() -> Vec<Bytes> {
    vec!["{}".into(), noise(1000, 1), noise(2 * PART + 77, 2)]
}

fn body(bytes: &Bytes) -> impl futures::Stream<Item = Result<Bytes, String>> + Unpin + use<> {
    let pieces: Vec<_> = bytes
        .chunks(100_000)
        .map(|piece| Ok(bytes.slice_ref(piece)))
        .collect();
    stream::iter(pieces)
}

/// What a registry asks of its store when docker pushes a blob
async fn push_blob(store: &Store, bytes: &Bytes) -> Digest {
    let digest = Digest::sha256(bytes);
    store.stat_blob(&name(), &digest).await.unwrap_err();
    let begun = store
        .start_upload(&name(), Algorithm::Sha256)
        .await
        .unwrap();
    let mut upload = store.open_upload(&name(), &begun.id()).await.unwrap();
    upload
        .append(ChunkHeader::default(), body(bytes))
        .await
        .unwrap();
    let upload = store.open_upload(&name(), &begun.id()).await.unwrap();
    upload.complete(digest).await.unwrap();
    digest
}

async fn push_manifest(store: &Store, tag: &str, text: &str) -> Digest {
    let manifest = Manifest::parse(text.to_owned().into(), None, &Limits::default()).unwrap();
    let digest = Digest::sha256(text.as_bytes());
    let tags = [Tag::try_from(tag).unwrap()];
    let name = name();
    let put = store.put_manifest(&name, &manifest, digest, &tags);
    put.await.unwrap();
    digest
}

async fn pull_blob(store: &Store, digest: &Digest) -> Bytes {
    let (_, stream) = store.open_blob(&name(), digest, None).await.unwrap();
    let found: Vec<Bytes> = stream.try_collect().await.unwrap();
    found.concat().into()
}

fn tag(text: &str) -> TagOrDigest {
    TagOrDigest::Tag(Tag::try_from(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_registry_wrote_is_served() {
    let Some(moto) = Server::start(Kind::Moto) else {
        return;
    };
    let store = Store::new(Arc::new(moto.bucket("shared", "")));
    let Some(theirs) = DockerRegistry::start(moto.port, "shared") else {
        return;
    };
    let blobs = blobs();
    for bytes in &blobs {
        theirs.push_blob("team/app", bytes);
    }
    let (image, other) = (image(&blobs), image(&blobs[..2]));
    let list = list(&image);
    theirs.push_manifest("team/app", "v1", MANIFEST, &image);
    theirs.push_manifest("team/app", "old", MANIFEST, &other);
    theirs.push_manifest("team/app", "all", LIST, &list);

    let listed = store.repositories(None, 10).await.unwrap();
    assert_eq!(listed.items, [name()]);
    let tags = store.tags(&name(), None, None).await.unwrap();
    let tags: Vec<_> = tags.items.iter().map(Tag::as_str).collect();
    assert_eq!(tags, ["all", "old", "v1"]);
    for (reference, text, media_type) in [("v1", &image, MANIFEST), ("all", &list, LIST)] {
        let found = store.manifest(&name(), &tag(reference)).await.unwrap();
        assert_eq!(found.bytes, text.as_bytes());
        assert_eq!(found.media_type.as_str(), media_type);
    }
    for bytes in &blobs {
        let digest = Digest::sha256(bytes);
        let size = store.stat_blob(&name(), &digest).await.unwrap();
        assert_eq!(size, bytes.len() as u64);
        assert!(pull_blob(&store, &digest).await == bytes);
    }
    // What one deletes is gone for the other.
    let old = Digest::sha256(other.as_bytes());
    let path = format!("/v2/team/app/manifests/{old}");
    theirs.send(("DELETE", &path), "", b"", 202);
    let error = store.manifest(&name(), &old.into()).await.unwrap_err();
    assert!(
        matches!(error, ManifestReadError::Unknown { .. }),
        "{error}"
    );
    store
        .delete_tag(&name(), &Tag::try_from("all").unwrap())
        .await
        .unwrap();
    theirs.send(("GET", "/v2/team/app/manifests/all"), "", b"", 404);
    let tags = String::from_utf8(theirs.get("/v2/team/app/tags/list")).unwrap();
    assert!(
        tags.contains("\"v1\"") && !tags.contains("\"all\""),
        "{tags}"
    );
    let digest = Digest::sha256(&blobs[1]);
    theirs.send(
        ("DELETE", &format!("/v2/team/app/blobs/{digest}")),
        "",
        b"",
        202,
    );
    let error = store.stat_blob(&name(), &digest).await.unwrap_err();
    assert!(matches!(error, BlobError::Unknown { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_serves_what_was_written() {
    let Some(moto) = Server::start(Kind::Moto) else {
        return;
    };
    let store = Store::new(Arc::new(moto.bucket("shared", "")));
    let blobs = blobs();
    for bytes in &blobs {
        push_blob(&store, bytes).await;
    }
    let (image, other) = (image(&blobs), image(&blobs[..2]));
    let list = list(&image);
    let digest = push_manifest(&store, "v1", &image).await;
    let old = push_manifest(&store, "old", &other).await;
    push_manifest(&store, "all", &list).await;

    let Some(theirs) = DockerRegistry::start(moto.port, "shared") else {
        return;
    };
    let text = |path: &str| String::from_utf8(theirs.get(path)).unwrap();
    assert_eq!(
        text("/v2/_catalog").trim(),
        r#"{"repositories":["team/app"]}"#
    );
    let tags = text("/v2/team/app/tags/list");
    for tag in ["all", "old", "v1"] {
        assert!(tags.contains(&format!("\"{tag}\"")), "{tags}");
    }
    assert_eq!(text("/v2/team/app/manifests/v1"), image);
    assert_eq!(text(&format!("/v2/team/app/manifests/{digest}")), image);
    assert_eq!(text("/v2/team/app/manifests/all"), list);
    for bytes in &blobs {
        let path = format!("/v2/team/app/blobs/{}", Digest::sha256(bytes));
        assert!(theirs.get(&path) == *bytes);
        let head = theirs.send(("HEAD", &path), "", b"", 200);
        assert_eq!(head.header("content-length"), bytes.len().to_string());
    }
    store.delete_manifest(&name(), &old).await.unwrap();
    for reference in ["old", &old.to_string()] {
        let path = format!("/v2/team/app/manifests/{reference}");
        theirs.send(("GET", &path), "", b"", 404);
    }
    theirs.send(
        ("DELETE", &format!("/v2/team/app/manifests/{digest}")),
        "",
        b"",
        202,
    );
    let error = store.manifest(&name(), &digest.into()).await.unwrap_err();
    assert!(
        matches!(error, ManifestReadError::Unknown { .. }),
        "{error}"
    );
}

/// Ten layers, pushed and pulled as docker does; a proxy before the store counts
#[tokio::test(flavor = "multi_thread")]
async fn an_image_takes_few_requests_to_the_store() {
    let Some(moto) = Server::start(Kind::Moto) else {
        return;
    };
    moto.bucket("ours", "");
    moto.bucket("theirs", "");
    let proxy = Proxy::before(moto.port);
    let count = || proxy.take().len();
    let mut rows = Vec::new();
    for (what, size) in [("100 KB", 100_000), ("12 MiB", 12 * 1024 * 1024)] {
        let seed = size as u8;
        let mut blobs = vec![noise(1500, seed ^ 1)];
        blobs.extend((0..10).map(|index| noise(size, seed ^ (index + 50))));
        let (text, tag_text) = (image(&blobs), format!("v{size}"));

        let Some(theirs) = DockerRegistry::start(proxy.port, "theirs") else {
            return;
        };
        count();
        for bytes in &blobs {
            theirs.push_blob("team/app", bytes);
        }
        theirs.push_manifest("team/app", &tag_text, MANIFEST, &text);
        let pushed_by_them = count();
        theirs.get(&format!("/v2/team/app/manifests/{tag_text}"));
        for bytes in &blobs {
            theirs.get(&format!("/v2/team/app/blobs/{}", Digest::sha256(bytes)));
        }
        let pulled_by_them = count();

        // With parts of the size that it has by default.
        let patience = Duration::from_secs(20);
        let options = BucketOptions::default();
        let bucket = Bucket::s3(&s3(proxy.port, "ours"), options, &connect(patience)).unwrap();
        bucket.probe().await.unwrap();
        let store = Store::new(Arc::new(bucket));
        count();
        for bytes in &blobs {
            push_blob(&store, bytes).await;
        }
        push_manifest(&store, &tag_text, &text).await;
        let pushed = count();
        store.manifest(&name(), &tag(&tag_text)).await.unwrap();
        for bytes in &blobs {
            pull_blob(&store, &Digest::sha256(bytes)).await;
        }
        let pulled = count();
        rows.push(format!(
            "ten layers of {what}: push {pushed} (docker-registry {pushed_by_them}), \
             pull {pulled} (docker-registry {pulled_by_them})"
        ));
        assert!(pushed * 3 < pushed_by_them * 2, "{rows:?}");
        assert!(pulled * 3 < pulled_by_them, "{rows:?}");
    }
    // With other options it is another process, which reads what that one wrote.
    let other = Store::new(Arc::new(open(
        moto.port,
        "ours",
        "",
        Duration::from_secs(20),
    )));
    other.manifest(&name(), &tag("v100000")).await.unwrap();
    eprintln!("requests to the store\n{}", rows.join("\n"));
}
