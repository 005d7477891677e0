//! The driver for object stores on S3 servers
//!
//! With Python and its package `moto` (`REGISTRY_E2E_PYTHON` says which Python) they run on a
//! server of their own. Without, they say so and pass, unless `REGISTRY_E2E` is `required`.

#![cfg(feature = "object-stores")]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use registry_core::upload::ChunkHeader;
use registry_core::{Algorithm, Digest, RepositoryName};
use registry_storage::bucket::{
    AzureOptions, Bucket, BucketOptions, ConnectOptions, GcsOptions, S3Encryption, S3Options,
};
use registry_storage::{Key, Objects, Store, Uploads, suite};

use self::support::{Moto, PART, call, open};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn pattern(size: usize) -> Bytes {
    let bytes: Vec<u8> = (0..size as u32 / 4 + 1)
        .flat_map(|index| index.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(size)
        .collect();
    bytes.into()
}

fn body(
    bytes: &Bytes,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Unpin + use<> {
    let pieces: Vec<_> = bytes
        .chunks(100_000)
        .map(|piece| Ok(bytes.slice_ref(piece)))
        .collect();
    stream::iter(pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_s3_passes_the_suite() {
    let Some(moto) = Moto::start() else { return };
    let bucket = moto.bucket("suite", "some/root");
    let capabilities = bucket.probe().await.unwrap();
    assert!(capabilities.shares_uploads(), "{capabilities}");
    let driver = Arc::new(bucket);
    suite::run(driver.clone()).await;
    let other = Arc::new(moto.open("suite", "some/root"));
    suite::run_shared(driver.clone(), other.clone()).await;
    suite::run_shared(other, driver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_many_parts_go_on_in_another_process() {
    let Some(moto) = Moto::start() else { return };
    let bytes = pattern(3 * PART + 12_345);
    let digest = Digest::sha256(&bytes);
    let name = RepositoryName::try_from("team/app").unwrap();
    // In chunks, each in another process; then at once, with the digest known before.
    let store = Store::new(Arc::new(moto.bucket("uploads", "")));
    let upload = store.start_upload(&name, Algorithm::Sha256).await.unwrap();
    let id = upload.id();
    let cuts = [0, 1000, PART, 2 * PART + 5, bytes.len()];
    for cut in cuts.windows(2) {
        let store = Store::new(Arc::new(moto.open("uploads", "")));
        let mut upload = store.open_upload(&name, &id).await.unwrap();
        assert_eq!(upload.offset(), cut[0] as u64);
        let chunk = body(&bytes.slice(cut[0]..cut[1]));
        upload.append(ChunkHeader::default(), chunk).await.unwrap();
    }
    let other = Store::new(Arc::new(moto.open("uploads", "")));
    let upload = other.open_upload(&name, &id).await.unwrap();
    upload.complete(digest).await.unwrap();
    let found: Vec<_> = store
        .read_blob(&name, &digest, None)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert!(found.concat() == bytes);

    let name = RepositoryName::try_from("team/other").unwrap();
    let upload = store.start_upload(&name, Algorithm::Sha256).await.unwrap();
    let sent = upload.append_and_complete(ChunkHeader::default(), body(&bytes), digest);
    sent.await.unwrap();
    assert_eq!(
        store.stat_blob(&name, &digest).await.unwrap(),
        bytes.len() as u64
    );

    // And closed with an algorithm for which all of it has to be read again.
    let upload = store.start_upload(&name, Algorithm::Sha256).await.unwrap();
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    let sent = upload.append_and_complete(ChunkHeader::default(), body(&bytes), digest);
    sent.await.unwrap();
    assert_eq!(
        store.stat_blob(&name, &digest).await.unwrap(),
        bytes.len() as u64
    );
    let uploads = moto.open("uploads", "");
    for name in ["app", "other"] {
        let folder = key(&format!(
            "docker/registry/v2/repositories/team/{name}/_uploads"
        ));
        let left = uploads.list(Some(&folder), None, 1).await;
        assert!(left.unwrap_err().is_not_found());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_is_copied_in_pieces_by_the_store() {
    let Some(moto) = Moto::start() else { return };
    let bucket = moto.bucket("copies", "a root");
    let bytes = pattern(3 * PART + 1);
    // What has a meaning in a URL is a name like any other.
    let (from, to) = (key("from/a +%é&?=#b"), key("to"));
    bucket.write(&from, bytes.clone()).await.unwrap();
    bucket.rename(&from, &to).await.unwrap();
    assert!(bucket.read(&to, usize::MAX).await.unwrap() == bytes);
    assert!(bucket.stat(&from).await.unwrap_err().is_not_found());
    // Its ETag tells that it was put together from four parts.
    let head = call(moto.port, "HEAD", "/copies/a%20root/to");
    assert!(head.contains("-4\""), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_does_not_fit_leaves_no_blob() {
    let Some(moto) = Moto::start() else { return };
    let store = Store::new(Arc::new(moto.bucket("misses", "")));
    let name = RepositoryName::try_from("a").unwrap();
    let bytes = pattern(2 * PART + 1);
    let wrong = Digest::sha256(b"something else");
    let upload = store.start_upload(&name, Algorithm::Sha256).await.unwrap();
    let id = upload.id();
    let sent = upload.append_and_complete(ChunkHeader::default(), body(&bytes), wrong);
    sent.await.unwrap_err();
    store.stat_blob(&name, &wrong).await.unwrap_err();
    let mut upload = store.open_upload(&name, &id).await.unwrap();
    assert_eq!(upload.offset(), 0, "the bytes went where the blob would be");
    upload
        .append(ChunkHeader::default(), body(&bytes))
        .await
        .unwrap();
    upload.complete(Digest::sha256(&bytes)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_is_no_absence() {
    let Some(moto) = Moto::start() else { return };
    let bucket = moto.open("nowhere", "");
    for error in [
        bucket.probe().await.unwrap_err(),
        bucket.stat(&key("a")).await.unwrap_err(),
        bucket.read(&key("a"), 10).await.unwrap_err(),
        bucket.list(None, None, 1).await.unwrap_err(),
        bucket.list(Some(&key("a")), None, 1).await.unwrap_err(),
        bucket.write(&key("a"), "x".into()).await.unwrap_err(),
        bucket.delete(&key("a")).await.unwrap_err(),
        bucket.append(&key("a")).await.map(|_| ()).unwrap_err(),
        bucket.progress(&key("a")).await.unwrap_err(),
    ] {
        assert!(error.is_denied(), "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_is_good_for_whoever_has_it() {
    let Some(moto) = Moto::start() else { return };
    let bucket = moto.bucket("signed", "root");
    bucket.write(&key("a/b"), "hello".into()).await.unwrap();
    let (key, expiry) = (key("a/b"), Duration::from_secs(60));
    let url = bucket.signed_url(&key, http::Method::GET, expiry).await;
    let url = url.unwrap().unwrap();
    assert!(
        url.contains("/signed/root/a/b?") && url.contains("X-Amz-Expires=60"),
        "{url}"
    );
    let (_, path) = url.split_once(&moto.port.to_string()).unwrap();
    let answer = call(moto.port, "GET", path);
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_fails_quickly_and_comes_back() {
    let Some(mut moto) = Moto::start() else {
        return;
    };
    let bucket = moto.bucket("down", "");
    bucket.write(&key("a"), "x".into()).await.unwrap();
    moto.server.kill().unwrap();
    moto.server.wait().unwrap();
    for _ in 0..10 {
        let error = bucket.read(&key("a"), 10).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    let began = Instant::now();
    let error = bucket.read(&key("a"), 10).await.unwrap_err();
    assert!(
        error.is_transient() && error.retry_after().is_some(),
        "{error}"
    );
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    let Some(again) = Moto::start_at(moto.port) else {
        return;
    };
    let _other = again.bucket("down", "");
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = bucket.write(&key("a"), "y".into()).await {
        assert!(error.is_transient(), "{error}");
        assert!(Instant::now() < deadline, "it does not come back: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bucket.read(&key("a"), 10).await.unwrap(), "y");
}

/// A server that gives each request the answer that it is told to, or none at all
fn scripted(answer: impl Fn(usize, &str) -> Option<String> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, answer, count) = (client.unwrap(), answer.clone(), count.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|n| n > 0) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                if head.is_empty() {
                    return;
                }
                match answer(count.fetch_add(1, Ordering::SeqCst), &head) {
                    Some(text) => client.write_all(text.as_bytes()).unwrap(),
                    None => std::thread::sleep(Duration::from_secs(20)),
                }
            });
        }
    });
    port
}

fn answer(status: &str, headers: &str, body: &str) -> Option<String> {
    let length = match headers.contains("Content-Length") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let date = "Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nETag: \"e\"\r\n";
    Some(format!(
        "HTTP/1.1 {status}\r\n{date}{length}{headers}Connection: close\r\n\r\n{body}"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_says_on_bad_days_keeps_its_meaning() {
    let short = Duration::from_secs(1);
    let read = |port| async move { open(port, "b", "", short).read(&key("a"), 100).await };

    // It is throttled twice, and tried again.
    let port = scripted(|count, _| match count {
        0 | 1 => answer("503 Slow Down", "", "<Code>SlowDown</Code>"),
        _ => answer("200 OK", "", "hello"),
    });
    assert_eq!(read(port).await.unwrap(), "hello");
    let port = scripted(|_, _| answer("503 Slow Down", "", "<Code>SlowDown</Code>"));
    let error = read(port).await.unwrap_err();
    assert!(error.is_transient(), "{error}");

    let denied = "<Error><Code>AccessDenied</Code></Error>";
    let port = scripted(move |_, _| answer("403 Forbidden", "", denied));
    let error = read(port).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("secret"), "{text}");

    let full = "<Error><Code>QuotaExceeded</Code></Error>";
    let port = scripted(move |_, _| answer("403 Forbidden", "", full));
    let error = open(port, "b", "", short)
        .write(&key("a"), "x".into())
        .await;
    assert!(error.unwrap_err().is_full());

    // Half of an object is none.
    let port = scripted(|_, _| answer("200 OK", "Content-Length: 10\r\n", "hello"));
    let error = read(port).await.unwrap_err();
    assert!(error.is_transient(), "{error}");

    // Nobody waits for ever.
    let began = Instant::now();
    let port = scripted(|_, _| None);
    let error = read(port).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_carry_what_the_options_say() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let port = scripted(move |_, head| {
        seen.lock().unwrap().push(head.to_ascii_lowercase());
        answer("200 OK", "", "")
    });
    let s3 = S3Options {
        bucket: "images".to_owned(),
        region: Some("eu-central-1".to_owned()),
        region_endpoint: Some(format!("http://127.0.0.1:{port}/")),
        access_key: Some("AKID".to_owned()),
        secret_key: Some("a secret".to_owned()),
        session_token: Some("a-token".to_owned()),
        encryption: S3Encryption::Kms {
            key: "key-1".to_owned(),
        },
        ..S3Options::default()
    };
    let options = BucketOptions {
        root: "some/root".to_owned(),
        storage_class: Some("STANDARD_IA".to_owned()),
        ..BucketOptions::default()
    };
    let connect = ConnectOptions {
        user_agent: Some("our registry".to_owned()),
        danger_skip_verify: true,
        ..ConnectOptions::default()
    };
    let bucket = Bucket::s3(&s3, options.clone(), &connect).unwrap();
    bucket.write(&key("a/b"), "x".into()).await.unwrap();
    let head = heads.lock().unwrap().pop().unwrap();
    for expected in [
        "put /images/some/root/a/b http/1.1",
        "x-amz-security-token: a-token",
        "akid/",
        "/eu-central-1/s3/",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: key-1",
        "x-amz-storage-class: standard_ia",
        "user-agent: our registry",
    ] {
        assert!(head.contains(expected), "{expected} in {head}");
    }
    assert!(!head.contains("a secret"));
    let s3 = S3Options {
        encryption: S3Encryption::Store,
        ..s3
    };
    let bucket = Bucket::s3(&s3, options, &connect).unwrap();
    bucket.write(&key("a/b"), "x".into()).await.unwrap();
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(
        head.contains("x-amz-server-side-encryption: aes256"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_stores_are_called_in_their_own_ways() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let port = scripted(move |_, head| {
        seen.lock().unwrap().push(head.to_ascii_lowercase());
        answer("201 Created", "", "")
    });
    let connect = ConnectOptions {
        danger_skip_verify: true,
        retries: 0,
        ..ConnectOptions::default()
    };
    let options = BucketOptions {
        root: "/some/root/".to_owned(),
        ..BucketOptions::default()
    };
    let azure = AzureOptions {
        container: "images".to_owned(),
        account: Some("someone".to_owned()),
        key: Some("c2VjcmV0".to_owned()),
        endpoint: Some(format!("http://127.0.0.1:{port}/someone")),
        ..AzureOptions::default()
    };
    assert!(!format!("{azure:?}").contains("c2VjcmV0"));
    let bucket = Bucket::azure(&azure, options.clone(), &connect).unwrap();
    bucket.write(&key("a/b"), "x".into()).await.unwrap();
    let head = heads.lock().unwrap().pop().unwrap();
    for expected in [
        "put /someone/images/some/root/a/b http/1.1",
        "x-ms-blob-type: blockblob",
        "authorization: sharedkey someone:",
    ] {
        assert!(head.contains(expected), "{expected} in {head}");
    }
    let classed = BucketOptions {
        storage_class: Some("COLD".to_owned()),
        ..options.clone()
    };
    let error = Bucket::azure(&azure, classed, &connect).unwrap_err();
    assert!(error.to_string().contains("storageclass"), "{error}");

    // The key of a store that stands in for Google's asks for no token.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.json");
    let text = r#"{"disable_oauth": true, "client_email": "", "private_key": "",
                   "private_key_id": "", "gcs_base_url": null}"#;
    std::fs::write(&path, text).unwrap();
    let gcs = GcsOptions {
        bucket: "images".to_owned(),
        key_file: Some(path.to_str().unwrap().to_owned()),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        ..GcsOptions::default()
    };
    let bucket = Bucket::gcs(&gcs, options, &connect).unwrap();
    bucket.write(&key("a/b"), "x".into()).await.unwrap();
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(
        head.contains("put /images/some/root/a/b http/1.1")
            || head.contains("put /images/some%2froot%2fa%2fb http/1.1"),
        "{head}"
    );
}
