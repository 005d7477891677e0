//! The store's rules, on every driver of this crate

mod support;

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use registry_core::manifest::Limits;
use registry_core::upload::{ChunkHeader, UploadId};
use registry_core::{Algorithm, ChunkRange, Digest, Manifest, RepositoryName, Tag, TagOrDigest};
use registry_storage::{
    AppendError, BlobError, CompleteUploadError, DeleteBlobError, Driver, FileSystem, Key,
    ManifestReadError, Memory, PutManifestError, Store, UploadError,
};

/// Runs one test on each driver
macro_rules! on_every_driver {
    ($($test:ident),+ $(,)?) => {
        mod on_a_folder {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let root = tempfile::tempdir().unwrap();
                super::$test(Arc::new(super::FileSystem::open(root.path()).unwrap())).await;
            })+
            use std::sync::Arc;
        }
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(Arc::new(super::Memory::new())).await;
            })+
            use std::sync::Arc;
        }
        /// One after the other, on one server of each kind
        #[cfg(feature = "object-stores")]
        mod in_a_bucket {
            use super::support::{Kind, Server};

            async fn of(kind: Kind) {
                let Some(server) = Server::start(kind) else { return };
                $(
                    eprintln!("{}", stringify!($test));
                    let bucket = server.bucket("store", stringify!($test));
                    bucket.probe().await.unwrap();
                    super::$test(std::sync::Arc::new(bucket)).await;
                )+
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_moto() {
                of(Kind::Moto).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_garage() {
                of(Kind::Garage).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_localstack() {
                of(Kind::LocalStack).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_azurite() {
                of(Kind::Azurite).await;
            }
        }
    };
}

on_every_driver!(
    a_blob_belongs_to_the_repositories_that_have_it,
    a_mount_gives_a_blob_without_bytes,
    a_manifest_needs_what_it_refers_to,
    a_tag_moves_and_goes,
    deleting_a_manifest_takes_its_tags,
    a_blob_in_use_is_not_deleted,
    referrers_come_and_go,
    referrers_of_a_fallback_tag_are_listed,
    tags_lead_to_all_that_they_are_made_of,
    tags_lead_to_what_is_about_their_manifests,
    tags_are_paged_in_byte_order,
    repositories_whose_names_are_prefixes_are_all_listed,
    an_upload_goes_on_in_another_process,
    a_broken_body_keeps_what_arrived,
    a_wrong_digest_leaves_the_session,
    a_chunk_out_of_order_changes_nothing,
    an_upload_closes_with_another_algorithm,
    a_cancelled_upload_is_gone,
    an_old_upload_has_expired,
    a_damaged_blob_is_healed_by_pushing_it_again,
    an_empty_file_where_a_blob_should_be_is_absent,
    a_damaged_manifest_is_an_error_and_healed_by_a_push,
    racing_pushes_of_one_blob_all_succeed,
    racing_pushes_of_one_tag_leave_one_of_them,
);

fn name(text: &str) -> RepositoryName {
    RepositoryName::try_from(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::try_from(text).unwrap()
}

fn body(bytes: &[u8]) -> impl futures::Stream<Item = Result<Bytes, String>> + Send + Unpin + use<> {
    let parts: Vec<_> = bytes
        .chunks(70_000)
        .map(|part| Ok(Bytes::copy_from_slice(part)))
        .collect();
    stream::iter(parts)
}

fn from(start: u64, end: u64) -> ChunkHeader {
    ChunkHeader {
        range: Some(ChunkRange::parse(&format!("{start}-{end}")).unwrap()),
        length: None,
    }
}

async fn push(store: &Store, repository: &RepositoryName, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let upload = store
        .start_upload(repository, Algorithm::Sha256)
        .await
        .unwrap();
    upload
        .append_and_complete(ChunkHeader::default(), body(bytes), digest)
        .await
        .unwrap();
    digest
}

async fn pull(store: &Store, repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    let stream = store.read_blob(repository, digest, None).await.unwrap();
    stream
        .try_fold(Vec::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .unwrap()
}

fn image(config: &[u8], layers: &[&[u8]], extra: &str) -> Manifest {
    let descriptor = |media_type: &str, bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#,
            Digest::sha256(bytes),
            bytes.len()
        )
    };
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer))
        .collect();
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]{extra}}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", config),
        layers.join(",")
    );
    Manifest::parse(json.into(), None, &Limits::default()).unwrap()
}

async fn push_image(
    store: &Store,
    repository: &RepositoryName,
    layer: &[u8],
    extra: &str,
    tags: &[Tag],
) -> Digest {
    push(store, repository, b"{}").await;
    push(store, repository, layer).await;
    let manifest = image(b"{}", &[layer], extra);
    let digest = manifest.digest(Algorithm::Sha256);
    store
        .put_manifest(repository, &manifest, digest, tags)
        .await
        .unwrap();
    digest
}

async fn a_blob_belongs_to_the_repositories_that_have_it<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let bytes = vec![7; 1_500_000];
    let digest = push(&store, &name("a"), &bytes).await;
    assert_eq!(
        store.stat_blob(&name("a"), &digest).await.unwrap(),
        1_500_000
    );
    assert!(pull(&store, &name("a"), &digest).await == bytes);
    assert!(matches!(
        store.stat_blob(&name("a/b"), &digest).await,
        Err(BlobError::Unknown { .. })
    ));
    assert!(matches!(
        store.read_blob(&name("b"), &digest, None).await.err(),
        Some(BlobError::Unknown { .. })
    ));
}

async fn a_mount_gives_a_blob_without_bytes<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let digest = push(&store, &name("a"), b"shared").await;
    assert_eq!(store.blob_sources(&digest), [name("a")]);
    assert!(store.blob_sources(&Digest::sha256(b"else")).is_empty());
    let hints = store.hint_counts();
    assert_eq!((hints.hits(), hints.misses()), (1, 1));
    assert!(
        !store
            .mount_blob(&name("x"), &name("b"), &digest)
            .await
            .unwrap()
    );
    assert!(
        store
            .mount_blob(&name("a"), &name("b"), &digest)
            .await
            .unwrap()
    );
    assert_eq!(pull(&store, &name("b"), &digest).await, b"shared");
    store.delete_blob(&name("a"), &digest).await.unwrap();
    assert_eq!(pull(&store, &name("b"), &digest).await, b"shared");
}

async fn a_manifest_needs_what_it_refers_to<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    push(&store, &name("a"), b"{}").await;
    push(&store, &name("other"), b"layer").await;
    let manifest = image(b"{}", &[b"layer", b"second", b"layer"], "");
    let digest = manifest.digest(Algorithm::Sha256);
    let Err(PutManifestError::Missing(missing)) = store
        .put_manifest(&name("a"), &manifest, digest, &[tag("v1")])
        .await
    else {
        panic!("a manifest without its layers was taken")
    };
    let digests: Vec<_> = missing
        .iter()
        .map(|missing| missing.digest.clone())
        .collect();
    assert_eq!(
        digests,
        [
            Digest::sha256(b"layer").to_string(),
            Digest::sha256(b"second").to_string()
        ]
    );
    for reference in [TagOrDigest::Tag(tag("v1")), TagOrDigest::Digest(digest)] {
        assert!(matches!(
            store.manifest(&name("a"), &reference).await,
            Err(ManifestReadError::RepositoryUnknown { .. } | ManifestReadError::Unknown { .. })
        ));
    }
}

async fn a_tag_moves_and_goes<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let first = push_image(&store, &name("a"), b"one", "", &[tag("v1"), tag("v2")]).await;
    let second = push_image(&store, &name("a"), b"two", "", &[tag("v1")]).await;
    let current = |text: &str| {
        let reference = TagOrDigest::Tag(tag(text));
        let store = store.clone();
        async move {
            store
                .manifest(&name("a"), &reference)
                .await
                .map(|found| found.digest)
        }
    };
    assert_eq!(current("v1").await.unwrap(), second);
    assert_eq!(current("v2").await.unwrap(), first);
    store.delete_tag(&name("a"), &tag("v1")).await.unwrap();
    assert!(matches!(
        current("v1").await,
        Err(ManifestReadError::Unknown { .. })
    ));
    assert!(matches!(
        store.delete_tag(&name("a"), &tag("v1")).await,
        Err(ManifestReadError::Unknown { .. })
    ));
    store
        .manifest(&name("a"), &TagOrDigest::Digest(second))
        .await
        .unwrap();
}

async fn deleting_a_manifest_takes_its_tags<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let first = push_image(&store, &name("a"), b"one", "", &[tag("v1"), tag("v2")]).await;
    push_image(&store, &name("a"), b"two", "", &[tag("v3")]).await;
    let mut deleted = store.delete_manifest(&name("a"), &first).await.unwrap();
    deleted.sort();
    assert_eq!(deleted, [tag("v1"), tag("v2")]);
    let tags = store.tags(&name("a"), None, None).await.unwrap();
    assert_eq!(tags.items, [tag("v3")]);
    assert!(matches!(
        store.delete_manifest(&name("a"), &first).await,
        Err(ManifestReadError::Unknown { .. })
    ));
}

async fn a_blob_in_use_is_not_deleted<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let manifest = push_image(&store, &name("a"), b"layer", "", &[]).await;
    let layer = Digest::sha256(b"layer");
    match store.delete_blob(&name("a"), &layer).await {
        Err(DeleteBlobError::InUse { manifest: user, .. }) => assert_eq!(user, manifest),
        other => panic!("{other:?}"),
    }
    store.delete_manifest(&name("a"), &manifest).await.unwrap();
    store.delete_blob(&name("a"), &layer).await.unwrap();
    assert!(matches!(
        store.delete_blob(&name("a"), &layer).await,
        Err(DeleteBlobError::Unknown { .. })
    ));
}

fn subject(digest: &Digest) -> String {
    format!(
        r#","artifactType":"application/x.test","annotations":{{"k":"v"}},"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7}}"#
    )
}

async fn referrers_come_and_go<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let missing = Digest::sha256(b"a subject that is pushed later, or never");
    assert!(
        store
            .referrers(&name("a"), &missing)
            .await
            .unwrap()
            .is_empty()
    );
    let first = push_image(&store, &name("a"), b"one", &subject(&missing), &[]).await;
    let second = push_image(&store, &name("a"), b"two", &subject(&missing), &[]).await;
    let listed = store.referrers(&name("a"), &missing).await.unwrap();
    let mut expected = [first, second];
    expected.sort_unstable();
    assert_eq!(
        listed.iter().map(|entry| entry.digest).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(
        listed[0].artifact_type.as_deref(),
        Some("application/x.test")
    );
    assert_eq!(listed[0].annotations["k"], "v");
    store.delete_manifest(&name("a"), &first).await.unwrap();
    let listed = store.referrers(&name("a"), &missing).await.unwrap();
    assert_eq!(
        listed.iter().map(|entry| entry.digest).collect::<Vec<_>>(),
        [second]
    );
}

async fn referrers_of_a_fallback_tag_are_listed<D: Driver>(driver: Arc<D>) {
    // What a client leaves behind on a registry without the referrers API: a referrer that
    // the registry did not index, here by taking its entry away, and an index under the tag.
    let store = Store::new(driver.clone());
    let image = push_image(&store, &name("a"), b"image", "", &[]).await;
    let referrer = push_image(&store, &name("a"), b"sbom", &subject(&image), &[]).await;
    let folder = format!(
        "docker/registry/v2/repositories/a/_referrers/sha256/{}",
        image.hex()
    );
    driver
        .delete_tree(&Key::parse(&folder).unwrap())
        .await
        .unwrap();
    assert!(
        store
            .referrers(&name("a"), &image)
            .await
            .unwrap()
            .is_empty()
    );

    let size = store
        .manifest(&name("a"), &TagOrDigest::Digest(referrer))
        .await
        .unwrap()
        .bytes
        .len();
    let other = store
        .manifest(&name("a"), &TagOrDigest::Digest(image))
        .await
        .unwrap()
        .bytes
        .len();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{referrer}","size":{size}}},{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{image}","size":{other}}}]}}"#
    );
    let index = Manifest::parse(index.into(), None, &Limits::default()).unwrap();
    let fallback = tag(&format!("sha256-{}", image.hex()));
    store
        .put_manifest(
            &name("a"),
            &index,
            index.digest(Algorithm::Sha256),
            &[fallback],
        )
        .await
        .unwrap();
    let listed = store.referrers(&name("a"), &image).await.unwrap();
    assert_eq!(
        listed.iter().map(|entry| entry.digest).collect::<Vec<_>>(),
        [referrer]
    );
}

fn index(manifests: &[(Digest, usize)]) -> Manifest {
    let entries: Vec<_> = manifests
        .iter()
        .map(|(digest, size)| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size}}}"#
            )
        })
        .collect();
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.join(",")
    );
    Manifest::parse(json.into(), None, &Limits::default()).unwrap()
}

async fn tags_lead_to_all_that_they_are_made_of<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let app = name("app");
    let one = push_image(&store, &app, b"only in one", "", &[tag("one")]).await;
    let two = push_image(&store, &app, b"only in two", "", &[tag("two")]).await;
    let untagged = push_image(&store, &app, b"in no tag", "", &[]).await;
    let entry = image(b"{}", &[b"only in one"], "");
    let all = index(&[(one, entry.raw().len())]);
    let all_digest = all.digest(Algorithm::Sha256);
    let tags = [tag("all"), tag("zoo")];
    store
        .put_manifest(&app, &all, all_digest, &tags)
        .await
        .unwrap();
    push_image(&store, &name("other"), b"only in one", "", &[tag("x")]).await;

    for (digest, expected) in [
        (one, vec!["all", "one", "zoo"]),
        (two, vec!["two"]),
        (all_digest, vec!["all", "zoo"]),
        (Digest::sha256(b"only in one"), vec!["all", "one", "zoo"]),
        (Digest::sha256(b"only in two"), vec!["two"]),
        (Digest::sha256(b"{}"), vec!["all", "one", "two", "zoo"]),
        (untagged, vec![]),
        (Digest::sha256(b"in no tag"), vec![]),
        (Digest::sha256(b"unheard of"), vec![]),
    ] {
        let found = store.tags_leading_to(&app, &digest).await.unwrap();
        let found: Vec<_> = found.iter().map(Tag::as_str).collect();
        assert_eq!(found, expected, "{digest}");
    }
    let none = store.tags_leading_to(&name("nowhere"), &one).await;
    assert_eq!(none.unwrap(), []);

    store.delete_tag(&app, &tag("all")).await.unwrap();
    let found = store.tags_leading_to(&app, &all_digest).await.unwrap();
    assert_eq!(found, [tag("zoo")]);
}

async fn tags_lead_to_what_is_about_their_manifests<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let app = name("app");
    let v1 = push_image(&store, &app, b"one", "", &[tag("v1")]).await;
    let v2 = push_image(&store, &app, b"two", "", &[tag("v2")]).await;
    let signature = push_image(&store, &app, b"signed one", &subject(&v1), &[]).await;
    // A signature of the signature, and one with a tag of its own.
    let second = push_image(&store, &app, b"signed twice", &subject(&signature), &[]).await;
    let tagged = [tag("v2-signature")];
    let tagged = push_image(&store, &app, b"signed two", &subject(&v2), &tagged).await;
    for (digest, expected) in [
        (signature, vec![tag("v1")]),
        (second, vec![tag("v1")]),
        (Digest::sha256(b"signed twice"), vec![tag("v1")]),
        (tagged, vec![tag("v2"), tag("v2-signature")]),
        // What a signature tells of is not given out with it.
        (v2, vec![tag("v2")]),
        (Digest::sha256(b"two"), vec![tag("v2")]),
    ] {
        let found = store.tags_leading_to(&app, &digest).await.unwrap();
        assert_eq!(found, expected, "{digest}");
    }
}

/// In memory only: a thousand tags on a folder are some thousand writes to the disk
#[tokio::test]
async fn more_tags_than_a_page_lead_to_a_layer_that_they_share() {
    let store = Store::new(Arc::new(Memory::new()));
    let app = name("app");
    let tags: Vec<_> = (0..1005)
        .map(|number| tag(&format!("{number:04}")))
        .collect();
    push_image(&store, &app, b"shared", "", &tags).await;
    push_image(&store, &app, b"alone", "", &[tag("0003"), tag("1003")]).await;
    let leading_to = async |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        store.tags_leading_to(&app, &digest).await.unwrap()
    };
    assert_eq!(leading_to(b"alone").await, [tag("0003"), tag("1003")]);
    let mut others = tags;
    others.retain(|tag| !["0003", "1003"].contains(&tag.as_str()));
    assert_eq!(leading_to(b"shared").await, others);
}

async fn tags_are_paged_in_byte_order<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    assert!(matches!(
        store.tags(&name("a"), None, None).await,
        Err(ManifestReadError::RepositoryUnknown { .. })
    ));
    push_image(
        &store,
        &name("a"),
        b"x",
        "",
        &[
            tag("b"),
            tag("A"),
            tag("a"),
            tag("_"),
            tag("a.1"),
            tag("a-1"),
        ],
    )
    .await;
    let all: Vec<_> = ["A", "_", "a", "a-1", "a.1", "b"].map(tag).into();
    let listed = store.tags(&name("a"), None, None).await.unwrap();
    assert_eq!((listed.items, listed.more), (all.clone(), false));
    let page = store.tags(&name("a"), Some("_"), Some(2)).await.unwrap();
    assert_eq!((page.items, page.more), (all[2..4].to_vec(), true));
    let page = store.tags(&name("a"), Some("a-5"), Some(2)).await.unwrap();
    assert_eq!((page.items, page.more), (all[4..].to_vec(), false));
    let page = store.tags(&name("a"), Some("zzz"), Some(2)).await.unwrap();
    assert_eq!((page.items, page.more), (vec![], false));
}

async fn repositories_whose_names_are_prefixes_are_all_listed<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    assert!(store.repositories(None, 10).await.unwrap().items.is_empty());
    let names = ["a", "a/b", "a/b/c", "a/bc", "a-b", "a.b", "ab", "b/c/d"].map(name);
    for repository in names.iter().rev() {
        push_image(&store, repository, b"x", "", &[tag("t")]).await;
    }
    // A repository with an upload and nothing else is none yet.
    store
        .start_upload(&name("a/b/only-an-upload"), Algorithm::Sha256)
        .await
        .unwrap();
    let listed = store.repositories(None, 100).await.unwrap();
    assert_eq!((listed.items, listed.more), (names.to_vec(), false));
    for size in 1..=names.len() {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = store.repositories(after.as_deref(), size).await.unwrap();
            after = page.items.last().map(ToString::to_string);
            found.extend(page.items);
            if !page.more {
                break;
            }
        }
        assert_eq!(found, names, "in pages of {size}");
    }
    let after = store.repositories(Some("a/bb/zzz"), 2).await.unwrap();
    assert_eq!(
        (after.items, after.more),
        (vec![name("a/bc"), name("a-b")], true)
    );
}

async fn an_upload_goes_on_in_another_process<D: Driver>(driver: Arc<D>) {
    let bytes: Vec<u8> = (0..2_000_003_u32).map(|i| (i % 251) as u8).collect();
    let mut upload = Store::new(driver.clone())
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap();
    let id = upload.id();
    upload
        .append(from(0, 999_999), body(&bytes[..1_000_000]))
        .await
        .unwrap();
    // Another store on the same storage knows nothing but what is stored.
    let store = Store::new(driver);
    let mut upload = store.open_upload(&name("a"), &id).await.unwrap();
    assert_eq!(upload.offset(), 1_000_000);
    upload
        .append(ChunkHeader::default(), body(&bytes[1_000_000..]))
        .await
        .unwrap();
    let upload = store.open_upload(&name("a"), &id).await.unwrap();
    let digest = Digest::sha256(&bytes);
    upload.complete(digest).await.unwrap();
    assert!(pull(&store, &name("a"), &digest).await == bytes);
    assert!(matches!(
        store.open_upload(&name("a"), &id).await,
        Err(UploadError::Unknown { .. })
    ));
}

async fn a_broken_body_keeps_what_arrived<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let mut upload = store
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap();
    let broken = body(b"hello ").chain(stream::iter([Err("connection reset".to_owned())]));
    let error = upload
        .append(ChunkHeader::default(), Box::pin(broken))
        .await
        .unwrap_err();
    assert!(matches!(error, AppendError::Body(_)), "{error}");
    let mut upload = store.open_upload(&name("a"), &upload.id()).await.unwrap();
    assert_eq!(upload.offset(), 6);
    upload.append(from(6, 10), body(b"world")).await.unwrap();
    upload
        .complete(Digest::sha256(b"hello world"))
        .await
        .unwrap();
}

async fn a_wrong_digest_leaves_the_session<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let upload = store
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap();
    let id = upload.id();
    let wrong = Digest::sha256(b"something else");
    let error = upload
        .append_and_complete(ChunkHeader::default(), body(b"bytes"), wrong)
        .await
        .unwrap_err();
    assert!(matches!(error, CompleteUploadError::Digest(_)), "{error}");
    assert!(matches!(
        store.stat_blob(&name("a"), &wrong).await,
        Err(BlobError::Unknown { .. })
    ));
    let upload = store.open_upload(&name("a"), &id).await.unwrap();
    assert_eq!(upload.offset(), 5);
    upload.complete(Digest::sha256(b"bytes")).await.unwrap();
}

async fn a_chunk_out_of_order_changes_nothing<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let mut upload = store
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap();
    upload.append(from(0, 4), body(b"01234")).await.unwrap();
    for start in [0, 4, 6, 1000] {
        let error = upload
            .append(from(start, start + 4), body(b"xxxxx"))
            .await
            .unwrap_err();
        assert!(matches!(error, AppendError::Chunk(_)), "{error}");
    }
    // One who read the session's state before it went on is out of order too.
    let mut stale = store.open_upload(&name("a"), &upload.id()).await.unwrap();
    upload.append(from(5, 9), body(b"56789")).await.unwrap();
    assert!(
        stale
            .append(ChunkHeader::default(), body(b"xxxxx"))
            .await
            .is_err()
    );
    upload
        .complete(Digest::sha256(b"0123456789"))
        .await
        .unwrap();
}

async fn an_upload_closes_with_another_algorithm<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let digest = Digest::of(Algorithm::Sha512, b"abc");
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let upload = store.start_upload(&name("a"), algorithm).await.unwrap();
        let mut upload = store.open_upload(&name("a"), &upload.id()).await.unwrap();
        upload
            .append(ChunkHeader::default(), body(b"abc"))
            .await
            .unwrap();
        let upload = store.open_upload(&name("a"), &upload.id()).await.unwrap();
        upload.complete(digest).await.unwrap();
    }
    assert_eq!(pull(&store, &name("a"), &digest).await, b"abc");
}

async fn a_cancelled_upload_is_gone<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let mut upload = store
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap();
    let id = upload.id();
    upload
        .append(ChunkHeader::default(), body(b"abc"))
        .await
        .unwrap();
    upload.cancel().await.unwrap();
    assert!(matches!(
        store.open_upload(&name("a"), &id).await,
        Err(UploadError::Unknown { .. })
    ));
    let other = UploadId::from_random_bytes([9; 16]);
    assert!(matches!(
        store.open_upload(&name("a"), &other).await,
        Err(UploadError::Unknown { .. })
    ));
}

async fn an_old_upload_has_expired<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let id = store
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap()
        .id();
    let folder = Key::parse(&format!("docker/registry/v2/repositories/a/_uploads/{id}")).unwrap();
    // As distribution writes it, and in the future, when two machines' clocks differ.
    for date in ["2999-01-01T00:00:00Z", "garbage", ""] {
        support::set_began(&*driver, &folder, date).await;
        store.open_upload(&name("a"), &id).await.unwrap();
    }
    support::set_began(&*driver, &folder, "2019-03-22T23:22:10Z").await;
    assert!(matches!(
        store.open_upload(&name("a"), &id).await,
        Err(UploadError::Unknown { .. })
    ));
    assert!(
        driver
            .list(Some(&folder), None, 10)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

fn data_key(digest: &Digest) -> Key {
    let hex = digest.hex();
    Key::parse(&format!(
        "docker/registry/v2/blobs/sha256/{}/{hex}/data",
        &hex[..2]
    ))
    .unwrap()
}

async fn a_damaged_blob_is_healed_by_pushing_it_again<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let digest = push(&store, &name("a"), b"a layer").await;
    push(&store, &name("a"), b"{}").await;
    driver
        .write(&data_key(&digest), "a lay".into())
        .await
        .unwrap();
    // A client sees that the blob is there and pushes the manifest: that is refused once, and
    // from then on the blob is absent, so that the client pushes it.
    let manifest = image(b"{}", &[b"a layer"], "");
    let result = store
        .put_manifest(
            &name("a"),
            &manifest,
            manifest.digest(Algorithm::Sha256),
            &[],
        )
        .await;
    assert!(matches!(result, Err(PutManifestError::Missing(_))));
    assert!(matches!(
        store.stat_blob(&name("a"), &digest).await,
        Err(BlobError::Unknown { .. })
    ));
    push(&store, &name("a"), b"a layer").await;
    store
        .put_manifest(
            &name("a"),
            &manifest,
            manifest.digest(Algorithm::Sha256),
            &[],
        )
        .await
        .unwrap();
    // Other bytes of the same length are replaced by a push as well.
    driver
        .write(&data_key(&digest), "A LAYER".into())
        .await
        .unwrap();
    push(&store, &name("a"), b"a layer").await;
    assert_eq!(pull(&store, &name("a"), &digest).await, b"a layer");
}

async fn an_empty_file_where_a_blob_should_be_is_absent<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let digest = push(&store, &name("a"), b"a layer").await;
    driver
        .write(&data_key(&digest), Bytes::new())
        .await
        .unwrap();
    assert!(matches!(
        store.stat_blob(&name("a"), &digest).await,
        Err(BlobError::Unknown { .. })
    ));
    let empty = push(&store, &name("a"), b"").await;
    assert_eq!(store.stat_blob(&name("a"), &empty).await.unwrap(), 0);
}

async fn a_damaged_manifest_is_an_error_and_healed_by_a_push<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let digest = push_image(&store, &name("a"), b"x", "", &[tag("v1")]).await;
    driver.write(&data_key(&digest), "{}".into()).await.unwrap();
    assert!(matches!(
        store
            .manifest(&name("a"), &TagOrDigest::Tag(tag("v1")))
            .await,
        Err(ManifestReadError::Damaged { .. })
    ));
    push_image(&store, &name("a"), b"x", "", &[]).await;
    let found = store
        .manifest(&name("a"), &TagOrDigest::Tag(tag("v1")))
        .await
        .unwrap();
    assert_eq!(found.digest, digest);
}

async fn racing_pushes_of_one_blob_all_succeed<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let bytes = vec![3; 300_000];
    let pushes = (0..16).map(|number| {
        let store = store.clone();
        let bytes = bytes.clone();
        tokio::spawn(async move { push(&store, &name(&format!("r{}", number % 3)), &bytes).await })
    });
    for digest in futures::future::join_all(pushes).await {
        assert_eq!(digest.unwrap(), Digest::sha256(&bytes));
    }
    for repository in ["r0", "r1", "r2"] {
        assert!(pull(&store, &name(repository), &Digest::sha256(&bytes)).await == bytes);
    }
}

async fn racing_pushes_of_one_tag_leave_one_of_them<D: Driver + Debug>(driver: Arc<D>) {
    let store = Store::new(driver);
    let pushes = (0..8_u8).map(|number| {
        let store = store.clone();
        tokio::spawn(
            async move { push_image(&store, &name("a"), &[number], "", &[tag("t")]).await },
        )
    });
    let mut digests = Vec::new();
    for digest in futures::future::join_all(pushes).await {
        digests.push(digest.unwrap());
    }
    let found = store
        .manifest(&name("a"), &TagOrDigest::Tag(tag("t")))
        .await
        .unwrap();
    assert!(digests.contains(&found.digest));
    assert_eq!(
        store.tags(&name("a"), None, None).await.unwrap().items,
        [tag("t")]
    );
}
