//! The driver for object stores on every server that can be had
//!
//! Which there are, and how to get them, is said in `support`. A server that is not installed is
//! not tested, and that is said, unless `REGISTRY_E2E` is `required`.

#![cfg(feature = "object-stores")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use registry_core::upload::ChunkHeader;
use registry_core::{Algorithm, Digest, RepositoryName};
use registry_storage::bucket::{Bucket, S3Options};
use registry_storage::{Key, Objects, Store, Uploads, suite};

use self::support::{Kind, PART, Server, call, connect, options, s3};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

async fn passes_the_suite(kind: Kind) {
    let Some(server) = Server::start(kind) else {
        return;
    };
    let bucket = server.bucket("suite", "some/root");
    let capabilities = bucket.probe().await.unwrap();
    assert_eq!(
        capabilities.shares_uploads(),
        server.minds_conditions(),
        "{capabilities}"
    );
    let driver = Arc::new(bucket);
    suite::run(driver.clone()).await;
    let other = server.open("suite", "some/root");
    if server.minds_conditions() {
        let other = Arc::new(other);
        suite::run_shared(driver.clone(), other.clone()).await;
        suite::run_shared(other, driver).await;
        return;
    }
    // What two share there is content. An upload stays where it began, and that is said.
    other.probe().await.unwrap();
    suite::sees_what_the_other_does(&*driver, &other).await;
    let (ours, theirs) = (Store::new(driver), Store::new(Arc::new(other)));
    let name = RepositoryName::try_from("team/app").unwrap();
    let bytes = Bytes::from(vec![7; PART + 1000]);
    let digest = Digest::sha256(&bytes);
    let id = ours
        .start_upload(&name, Algorithm::Sha256)
        .await
        .unwrap()
        .id();
    let error = theirs.open_upload(&name, &id).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("ignores conditions of a write"), "{text}");
    assert!(
        text.contains("send all requests of an upload to one process"),
        "{text}"
    );
    let body = stream::iter([Ok::<_, std::io::Error>(bytes.clone())]);
    let upload = ours.open_upload(&name, &id).await.unwrap();
    upload
        .append_and_complete(ChunkHeader::default(), body, digest)
        .await
        .unwrap();
    let size = theirs.stat_blob(&name, &digest).await.unwrap();
    assert_eq!(size, bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_passes_the_suite() {
    passes_the_suite(Kind::Moto).await;
}

/// What does not need more than s3s does: keys are paths of files there, and to delete one below
/// a file fails
#[tokio::test(flavor = "multi_thread")]
async fn s3s_passes_the_suite_as_far_as_it_can() {
    let Some(server) = Server::start(Kind::S3s) else {
        return;
    };
    let driver = Arc::new(server.bucket("suite", ""));
    driver.probe().await.unwrap();
    suite::reads_back_what_was_written(driver.clone()).await;
    suite::refuses_to_read_more_than_the_limit(driver.clone()).await;
    suite::appends_and_publishes(driver.clone()).await;
    suite::keeps_notes_with_the_bytes(driver.clone()).await;
    suite::one_writer_per_upload(driver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garage_passes_the_suite() {
    passes_the_suite(Kind::Garage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn localstack_passes_the_suite() {
    passes_the_suite(Kind::LocalStack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azurite_passes_the_suite() {
    passes_the_suite(Kind::Azurite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_not_right_are_denied() {
    for kind in [Kind::S3s, Kind::Garage] {
        let Some(server) = Server::start(kind) else {
            continue;
        };
        let ours = server.bucket("tests", "");
        ours.write(&key("a"), "hello".into()).await.unwrap();
        let open = |edit: fn(&mut S3Options)| {
            let mut options_of_s3 = s3(server.port, "tests");
            edit(&mut options_of_s3);
            let root = match kind {
                Kind::Garage => "tests",
                _ => "",
            };
            Bucket::s3(
                &options_of_s3,
                options(root),
                &connect(Duration::from_secs(5)),
            )
            .unwrap()
        };
        assert_eq!(open(|_| ()).read(&key("a"), 10).await.unwrap(), "hello");
        for edit in [
            (|s3| s3.secret_key = Some("another secret".to_owned())) as fn(&mut S3Options),
            |s3| s3.access_key = Some("GKffffffffffffffffffffffff".to_owned()),
        ] {
            let theirs = open(edit);
            for error in [
                theirs.probe().await.unwrap_err(),
                theirs.read(&key("a"), 10).await.unwrap_err(),
                theirs.stat(&key("a")).await.unwrap_err(),
                theirs.stat(&key("absent")).await.unwrap_err(),
                theirs.write(&key("a"), "bye".into()).await.unwrap_err(),
                theirs.list(None, None, 1).await.unwrap_err(),
                theirs.delete(&key("a")).await.unwrap_err(),
                theirs.delete_tree(&key("a")).await.unwrap_err(),
                theirs.append(&key("u")).await.unwrap_err(),
            ] {
                assert!(error.is_denied(), "{kind:?}: {error}");
                let text = format!("{error} {error:?}");
                assert!(!text.contains("another secret"), "{text}");
            }
        }
        assert_eq!(ours.read(&key("a"), 10).await.unwrap(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_is_good_for_one_thing_and_for_a_while() {
    for kind in [Kind::S3s, Kind::Garage] {
        let Some(server) = Server::start(kind) else {
            continue;
        };
        let bucket = server.bucket("tests", "root");
        for name in ["a/b", "a/c"] {
            bucket
                .write(&key(name), name.to_owned().into())
                .await
                .unwrap();
        }
        let sign = async |expiry| {
            let a = key("a/b");
            let signed = bucket.signed_url(&a, http::Method::GET, expiry);
            let url = signed.await.unwrap().unwrap();
            let (_, path) = url.split_once(&format!(":{}", server.port)).unwrap();
            path.to_owned()
        };
        let path = sign(Duration::from_secs(60)).await;
        let get = |path: &str| call(server.port, "GET", path);
        let answer = get(&path);
        assert!(answer.ends_with("a/b"), "{kind:?}: {answer}");
        let tampered = [
            path.replace("a/b?", "a/c?"),
            path.replace("X-Amz-Expires=60", "X-Amz-Expires=61"),
            path.split_once('?').unwrap().0.to_owned(),
        ];
        for path in tampered {
            let answer = get(&path);
            assert!(
                answer.starts_with("HTTP/1.1 403"),
                "{kind:?} {path}: {answer}"
            );
        }
        let answer = call(server.port, "DELETE", &path);
        assert!(answer.starts_with("HTTP/1.1 403"), "{kind:?}: {answer}");
        let path = sign(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let answer = get(&path);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{kind:?}: {answer}");
    }
}
