//! The driver on object_store's own storage in memory, which needs no network

use std::sync::Arc;

use object_store::ObjectStore;

use super::fakes::{Between, Lists, Shared};
use super::*;
use crate::suite;

fn faces(shared: &Shared) -> Faces {
    Faces {
        objects: shared.store.clone(),
        multipart: shared.parts.clone(),
        lists: Arc::new(Lists {
            store: shared.store.clone(),
            page: 7,
        }),
        signer: None,
        parts_by_key: shared.parts.by_key,
        s3: None,
    }
}

fn bucket(store: &Shared, root: &str, part_size: u64) -> Bucket {
    Bucket::of_any_size(faces(store), options(root, part_size)).unwrap()
}

fn options(root: &str, part_size: u64) -> BucketOptions {
    BucketOptions {
        root: root.to_owned(),
        part_size,
        ..BucketOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_passes_the_suite_in_parts_of_any_size() {
    for (root, part_size, by_key) in [
        ("", 64 * 1024, false),
        ("a/root", 1_000_000, true),
        ("", 8 * 1024 * 1024, false),
    ] {
        let store = Shared::with_parts(by_key);
        let driver = Arc::new(bucket(&store, root, part_size));
        suite::run(driver.clone()).await;
        // And again, on what the first run left.
        suite::run(driver.clone()).await;
        let other = Arc::new(bucket(&store, root, part_size));
        suite::run_shared(driver.clone(), other.clone()).await;
        suite::run_shared(other, driver).await;
    }
}

#[tokio::test]
async fn a_published_upload_leaves_nothing_behind() {
    let store = Shared::new();
    let driver = bucket(&store, "root", 1000);
    let key = |text| Key::parse(text).unwrap();
    for size in [10, 1000, 5500] {
        for aim in [false, true] {
            let mut append = driver.append(&key("u/data")).await.unwrap();
            append.write(vec![1; size].into()).await.unwrap();
            append.sync().await.unwrap();
            append.write(vec![2; size].into()).await.unwrap();
            append.sync().await.unwrap();
            drop(append);
            let mut append = driver.reopen(&key("u/data")).await.unwrap();
            if aim {
                append.aim(&key("blob"));
            }
            append.write(vec![3; size].into()).await.unwrap();
            append.publish(&key("blob")).await.unwrap();
            drop(append);
            let all: Vec<_> = store
                .store
                .list(None)
                .map_ok(|meta| meta.location.to_string())
                .try_collect()
                .await
                .unwrap();
            assert_eq!(all, ["root/blob"], "{size} {aim}");
            assert_eq!(store.multipart_uploads(), 0, "{size} {aim}");
            let found = driver.read(&key("blob"), usize::MAX).await.unwrap();
            assert_eq!(
                found,
                [vec![1; size], vec![2; size], vec![3; size]].concat()
            );
        }
    }
}

#[tokio::test]
async fn bytes_that_were_synced_outlive_an_aim_that_missed() {
    let store = Shared::new();
    let driver = bucket(&store, "", 1000);
    let key = |text| Key::parse(text).unwrap();
    let mut append = driver.append(&key("u/data")).await.unwrap();
    append.write(vec![1; 300].into()).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut append = driver.reopen(&key("u/data")).await.unwrap();
    append.aim(&key("blob"));
    append.write(vec![2; 5000].into()).await.unwrap();
    append.sync().await.unwrap();
    assert_eq!(append.size(), 300);
    let content: Vec<_> = append.content().await.unwrap().try_collect().await.unwrap();
    assert_eq!(content.concat(), vec![1; 300]);
    append.publish(&key("other")).await.unwrap();
    assert!(driver.stat(&key("blob")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_upload_whose_end_was_cut_short_is_published_by_the_next() {
    let store = Shared::new();
    let driver = bucket(&store, "", 1000);
    let key = |text| Key::parse(text).unwrap();
    let (upload, to) = (key("u/data"), key("blob"));
    let mut append = driver.append(&upload).await.unwrap();
    append.write(vec![1; 5500].into()).await.unwrap();
    append.sync().await.unwrap();
    // Put together, as by a process that was killed before it copied the whole.
    drop(append.content().await.unwrap());
    drop(append);
    let mut append = driver.reopen(&upload).await.unwrap();
    assert_eq!(append.size(), 5500);
    append.truncate(5500).await.unwrap();
    append.publish(&to).await.unwrap();
    assert_eq!(driver.stat(&to).await.unwrap().size, 5500);
    drop(append);
    assert!(driver.progress(&upload).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn without_conditions_an_upload_stays_in_its_process() {
    let store = Shared::new();
    let (one, other) = (bucket(&store, "", 100_000), bucket(&store, "", 100_000));
    for driver in [&one, &other] {
        driver.inner.conditional.store(false, Ordering::Relaxed);
    }
    let upload = Key::parse("u/data").unwrap();
    let mut append = one.append(&upload).await.unwrap();
    append.write(vec![1; 250_000].into()).await.unwrap();
    append.sync().await.unwrap();
    let error = other.reopen(&upload).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("one process"), "{error}");
    drop(append);
    assert_eq!(one.reopen(&upload).await.unwrap().size(), 250_000);
    suite::run(Arc::new(one)).await;
    other.delete_tree(&Key::parse("u").unwrap()).await.unwrap();
    assert!(other.reopen(&upload).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_probe_finds_conditions_and_leaves_nothing() {
    let store = Shared::new();
    let driver = bucket(&store, "root", 1000);
    let capabilities = driver.probe().await.unwrap();
    assert!(capabilities.shares_uploads(), "{capabilities}");
    assert_eq!(driver.list(None, None, 10).await.unwrap(), []);
    let text = capabilities.to_string();
    assert!(text.contains("conditional create: yes"), "{text}");
}

#[tokio::test]
async fn a_probe_finds_out_a_store_that_ignores_conditions() {
    let between = Between::new(1, 0);
    between.careless.store(true, Ordering::Relaxed);
    let (one, other) = (between.bucket(1000), between.bucket(1000));
    for driver in [&one, &other] {
        let capabilities = driver.probe().await.unwrap();
        assert!(!capabilities.conditional_create && !capabilities.conditional_update);
        let text = capabilities.to_string();
        assert!(text.contains("conditional create: no"), "{text}");
        assert!(text.contains("run one registry"), "{text}");
    }
    let upload = Key::parse("u/data").unwrap();
    drop(one.append(&upload).await.unwrap());
    let error = other.reopen(&upload).await.unwrap_err();
    assert!(error.to_string().contains("ignores conditions"), "{error}");
    suite::run(Arc::new(one)).await;
}

#[test]
fn parts_double_so_that_ten_thousand_are_enough() {
    for (size, parts) in [(0, 0_u64), (8 << 20, 10_000)] {
        let total: u64 = (0..parts).map(|part| size << (part / 1000).min(9)).sum();
        assert!(parts == 0 || total > 5 << 40, "{total}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let s3 = |edit: fn(&mut S3Options)| {
        let mut options = S3Options {
            bucket: "b".to_owned(),
            region: Some("eu-central-1".to_owned()),
            ..S3Options::default()
        };
        edit(&mut options);
        let connect = ConnectOptions {
            danger_skip_verify: true,
            ..ConnectOptions::default()
        };
        Bucket::s3(&options, BucketOptions::default(), &connect).map(|_| ())
    };
    s3(|_| {}).unwrap();
    for (edit, name) in [
        ((|s3| s3.bucket.clear()) as fn(&mut S3Options), "bucket"),
        (|s3| s3.access_key = Some("x".to_owned()), "accesskey"),
        (
            |s3| s3.region_endpoint = Some("ftp://x".to_owned()),
            "regionendpoint",
        ),
    ] {
        let error = s3(edit).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}`")), "{error}");
        assert!(error.contains("expected"), "{error}");
    }
    let store = Shared::new();
    for part_size in [0, 1 << 20, 1 << 40] {
        let options = BucketOptions {
            part_size,
            ..BucketOptions::default()
        };
        let error = Bucket::new(faces(&store), options).unwrap_err().to_string();
        assert!(error.contains("chunksize"), "{error}");
    }
}

/// Chunks arrive on bad days: whatever was acknowledged is in the blob, and nothing else
#[tokio::test]
async fn every_acknowledged_byte_stays_whatever_goes_wrong() {
    let (mut started, mut published, mut failures) = (0, 0, 0);
    for seed in 1..=300_u64 {
        let between = Between::new(seed, 6);
        let name = registry_core::RepositoryName::try_from("a").unwrap();
        // Each request in another process, as behind a load balancer.
        let store = || crate::Store::new(Arc::new(between.bucket(1000)));
        let Ok(upload) = store()
            .start_upload(&name, registry_core::Algorithm::Sha256)
            .await
        else {
            continue;
        };
        started += 1;
        let id = upload.id();
        let mut sent: Vec<u8> = Vec::new();
        let mut offset = 0;
        for chunk in 0..8_u8 {
            let size = 1 + between.roll(3500) as usize;
            let Ok(mut upload) = store().open_upload(&name, &id).await else {
                failures += 1;
                continue;
            };
            // What was acknowledged is there; what was not may be.
            let stored = upload.offset() as usize;
            assert!(stored >= offset, "seed {seed}: {stored} of {offset} bytes");
            assert!(stored <= sent.len(), "seed {seed}: {stored} bytes");
            sent.truncate(stored);
            offset = stored;
            let bytes: Vec<u8> = (0..size).map(|index| chunk ^ (index as u8)).collect();
            sent.extend_from_slice(&bytes);
            let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]);
            match upload.append(Default::default(), body).await {
                Ok(()) => offset = sent.len(),
                Err(_) => failures += 1,
            }
        }
        between.rarity.store(10, Ordering::Relaxed);
        for _ in 0..40 {
            let Ok(upload) = store().open_upload(&name, &id).await else {
                failures += 1;
                continue;
            };
            let stored = upload.offset() as usize;
            assert!((offset..=sent.len()).contains(&stored), "seed {seed}");
            let digest = registry_core::Digest::sha256(&sent[..stored]);
            let completed = upload.complete(digest).await;
            // Whatever is there by now is the whole of it.
            between.rarity.store(0, Ordering::Relaxed);
            if let Ok(size) = store().stat_blob(&name, &digest).await {
                let read = store().read_blob(&name, &digest, None).await.unwrap();
                let found: Vec<Bytes> = read.try_collect().await.unwrap();
                assert!(found.concat() == sent[..stored], "seed {seed}");
                assert_eq!(size, stored as u64);
                published += 1;
                break;
            }
            assert!(
                completed.is_err(),
                "seed {seed}: acknowledged, and not there"
            );
            failures += 1;
            between.rarity.store(10, Ordering::Relaxed);
        }
    }
    assert!(failures > 1000, "only {failures} failures");
    assert!(started > 100, "only {started} uploads");
    // Of some the store has lost parts, which is told to whoever sent them.
    assert!(published * 10 >= started * 9, "{published} of {started}");
}

/// What each operation costs, so that a change which makes one dearer is seen
#[tokio::test]
async fn every_operation_takes_as_few_calls_as_it_can() {
    use registry_core::manifest::Limits;
    use registry_core::{Algorithm, Digest, Manifest, RepositoryName, Tag, TagOrDigest};

    // An even seed would make parts belong to keys.
    let between = Between::new(1, 0);
    let driver = Arc::new(between.bucket(1 << 20));
    driver.probe().await.unwrap();
    between.take_calls();
    let store = crate::Store::new(driver);
    let name = RepositoryName::try_from("team/app").unwrap();
    let body = |bytes: &Bytes| stream::iter([Ok::<_, std::io::Error>(bytes.clone())]);
    let costs = |what: &str, expected: &str| {
        let calls = between.take_calls();
        let calls: Vec<_> = calls
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        assert_eq!(calls.join(", "), expected, "{what}");
        eprintln!("{what}: {expected}");
    };
    let start = async || {
        let upload = store.start_upload(&name, Algorithm::Sha256).await.unwrap();
        upload.id()
    };

    let small = Bytes::from(vec![1; 100_000]);
    let large = Bytes::from(vec![2; 3_500_000]);
    let digest = Digest::sha256(&small);
    store.stat_blob(&name, &digest).await.unwrap_err();
    costs("HEAD of a blob that is not there", "1 GET");
    // As docker does: begin, send, close.
    let id = start().await;
    costs("POST", "1 PUT");
    let mut upload = store.open_upload(&name, &id).await.unwrap();
    upload
        .append(Default::default(), body(&small))
        .await
        .unwrap();
    costs("PATCH of a small blob", "1 GET, 1 PUT");
    let upload = store.open_upload(&name, &id).await.unwrap();
    upload.complete(digest).await.unwrap();
    costs("PUT after it", "1 DELETE, 1 GET, 2 PUT");
    let id = start().await;
    let mut upload = store.open_upload(&name, &id).await.unwrap();
    between.take_calls();
    upload
        .append(Default::default(), body(&large))
        .await
        .unwrap();
    costs(
        "PATCH of three parts and a rest, from there",
        "1 CREATE, 3 PART, 1 PUT",
    );
    let upload = store.open_upload(&name, &id).await.unwrap();
    upload.complete(Digest::sha256(&large)).await.unwrap();
    let expected = "1 COMPLETE, 1 COPY, 1 DELETE, 1 GET, 1 PART, 2 PUT";
    costs("PUT after it", expected);
    // As containerd and skopeo do: begin, send and close.
    for (bytes, expected) in [
        (Bytes::from(vec![3; 100_000]), "1 DELETE, 1 GET, 2 PUT"),
        (
            Bytes::from(vec![4; 3_500_000]),
            "1 COMPLETE, 1 CREATE, 1 DELETE, 1 GET, 4 PART, 1 PUT",
        ),
    ] {
        let id = start().await;
        between.take_calls();
        let upload = store.open_upload(&name, &id).await.unwrap();
        let digest = Digest::sha256(&bytes);
        let sent = upload.append_and_complete(Default::default(), body(&bytes), digest);
        sent.await.unwrap();
        costs("PUT with a body", expected);
    }
    store.stat_blob(&name, &digest).await.unwrap();
    costs("HEAD of a blob", "1 GET, 1 HEAD");
    let (_, read) = store.open_blob(&name, &digest, None).await.unwrap();
    let _: Vec<Bytes> = read.try_collect().await.unwrap();
    costs("GET of a blob", "2 GET");

    let blob = |bytes: &Bytes, kind: &str| {
        let digest = Digest::sha256(bytes);
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{}}}"#,
            bytes.len()
        )
    };
    let text = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        blob(&small, "config.v1+json"),
        blob(&large, "layer.v1.tar")
    );
    let manifest = Manifest::parse(text.into(), None, &Limits::default()).unwrap();
    let digest = Digest::sha256(manifest.raw());
    let tags = [Tag::try_from("v1").unwrap()];
    let put = store.put_manifest(&name, &manifest, digest, &tags);
    put.await.unwrap();
    // The link, and of each of the two its own and its size; then bytes, link and the tag's two.
    costs("PUT of a manifest of two", "3 GET, 2 HEAD, 4 PUT");
    // Another process has seen none of them.
    let other = crate::Store::new(Arc::new(between.bucket(1 << 20)));
    let put = other.put_manifest(&name, &manifest, digest, &tags);
    put.await.unwrap();
    costs("the same in another process", "5 GET, 2 HEAD, 4 PUT");
    let tag = TagOrDigest::Tag(tags[0].clone());
    store.manifest(&name, &tag).await.unwrap();
    costs("GET of a tag", "3 GET");
    store.manifest(&name, &tag).await.unwrap();
    costs("GET of a tag again", "2 GET");
    store.manifest(&name, &digest.into()).await.unwrap();
    costs("GET of that manifest by its digest", "1 GET");
    other.manifest(&name, &digest.into()).await.unwrap();
    costs("the same in another process", "2 GET");
    let id = start().await;
    between.take_calls();
    let upload = store.open_upload(&name, &id).await.unwrap();
    upload.cancel().await.unwrap();
    costs("DELETE of an upload", "1 DELETE, 2 GET, 1 LIST");
}

/// Two who go on with one upload at the same time, where parts belong to a key
#[tokio::test]
async fn parts_of_two_writers_are_not_mixed_up() {
    let store = Shared::with_parts(true);
    let (one, other) = (bucket(&store, "", 1000), bucket(&store, "", 1000));
    let key = |text| Key::parse(text).unwrap();
    let mut append = one.append(&key("u/data")).await.unwrap();
    append.write(vec![0; 1500].into()).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut first = one.reopen(&key("u/data")).await.unwrap();
    let mut second = other.reopen(&key("u/data")).await.unwrap();
    first.write(vec![1; 3000].into()).await.unwrap();
    second.write(vec![2; 3000].into()).await.unwrap();
    second.truncate(1500).await.unwrap();
    first.publish(&key("blob")).await.unwrap();
    assert!(second.sync().await.is_err());
    let found = one.read(&key("blob"), usize::MAX).await.unwrap();
    assert_eq!(found, [vec![0; 1500], vec![1; 3000]].concat());
    // And two who push the same blob at the same time, of whom one lies.
    let (mut honest, mut liar) = (
        one.append(&key("h/data")).await.unwrap(),
        one.append(&key("l/data")).await.unwrap(),
    );
    for (append, byte) in [(&mut honest, 3), (&mut liar, 4)] {
        append.aim(&key("aimed"));
        append.write(vec![byte; 4500].into()).await.unwrap();
    }
    liar.sync().await.unwrap();
    honest.publish(&key("aimed")).await.unwrap();
    let found = one.read(&key("aimed"), usize::MAX).await.unwrap();
    assert_eq!(found, vec![3; 4500]);
}
