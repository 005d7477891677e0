//! The driver for object stores on S3 servers
//!
//! With Python and its package `moto` (`REGISTRY_E2E_PYTHON` says which Python) they run on a
//! server of their own. Without, they say so and pass, unless `REGISTRY_E2E` is `required`.

#![cfg(feature = "object-stores")]

use std::env;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use registry_core::upload::ChunkHeader;
use registry_core::{Algorithm, Digest, RepositoryName};
use registry_storage::bucket::{Bucket, BucketOptions, ConnectOptions, S3Options};
use registry_storage::{Key, Objects, Store, Uploads, suite};

/// The smallest part that S3 takes
const PART: usize = 5 * 1024 * 1024;

/// Runs moto's server and says on which port
const SERVER: &str = "
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', int(sys.argv[1]), app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
";

struct Moto {
    server: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Moto {
    /// `None` where there is no moto
    fn start() -> Option<Self> {
        Self::start_at(0)
    }

    fn start_at(port: u16) -> Option<Self> {
        let python =
            env::var_os("REGISTRY_E2E_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
        let found = Command::new(&python)
            .args(["-c", "import moto.server"])
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            let text = "not tested: no S3 server; `pip install 'moto[server]'`, or set \
                        REGISTRY_E2E_PYTHON to a Python that has it";
            assert!(
                env::var_os("REGISTRY_E2E").is_none_or(|value| value != "required"),
                "{text}"
            );
            eprintln!("{text}");
            return None;
        }
        let mut server = Command::new(&python)
            .args(["-c", SERVER, &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = server.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Some(Self { server, port })
    }

    /// A bucket of this name, which is made if it is not there
    async fn bucket(&self, name: &str, root: &str) -> Bucket {
        let made = tokio::process::Command::new("curl")
            .args(["-fsS", "-X", "PUT"])
            .arg(format!("http://127.0.0.1:{}/{name}", self.port))
            .stdout(Stdio::null())
            .status();
        assert!(made.await.unwrap().success());
        self.open(name, root)
    }

    fn open(&self, name: &str, root: &str) -> Bucket {
        let s3 = S3Options {
            bucket: name.to_owned(),
            region: Some("us-east-1".to_owned()),
            region_endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            access_key: Some("key".to_owned()),
            secret_key: Some("secret".to_owned()),
            ..S3Options::default()
        };
        let options = BucketOptions {
            root: root.to_owned(),
            part_size: PART as u64,
            copy_threshold: 2 * PART as u64,
            copy_piece: PART as u64,
            ..BucketOptions::default()
        };
        let connect = ConnectOptions {
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(20),
            retries: 2,
            danger_skip_verify: true,
            ..ConnectOptions::default()
        };
        Bucket::s3(&s3, options, &connect).unwrap()
    }
}

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
    let bucket = moto.bucket("suite", "some/root").await;
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
    let store = Store::new(Arc::new(moto.bucket("uploads", "").await));
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
    let bucket = moto.bucket("copies", "a root").await;
    let bytes = pattern(3 * PART + 1);
    // What has a meaning in a URL is a name like any other.
    let (from, to) = (key("from/a +%é&?=#b"), key("to"));
    bucket.write(&from, bytes.clone()).await.unwrap();
    bucket.rename(&from, &to).await.unwrap();
    assert!(bucket.read(&to, usize::MAX).await.unwrap() == bytes);
    assert!(bucket.stat(&from).await.unwrap_err().is_not_found());
    // Its ETag tells that it was put together from four parts.
    let head = tokio::process::Command::new("curl")
        .args(["-fsSI"])
        .arg(format!("http://127.0.0.1:{}/copies/a%20root/to", moto.port))
        .output();
    let head = String::from_utf8(head.await.unwrap().stdout).unwrap();
    assert!(head.contains("-4\""), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_does_not_fit_leaves_no_blob() {
    let Some(moto) = Moto::start() else { return };
    let store = Store::new(Arc::new(moto.bucket("misses", "").await));
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
    let bucket = moto.bucket("signed", "root").await;
    bucket.write(&key("a/b"), "hello".into()).await.unwrap();
    let (key, expiry) = (key("a/b"), Duration::from_secs(60));
    let url = bucket.signed_url(&key, http::Method::GET, expiry).await;
    let url = url.unwrap().unwrap();
    assert!(
        url.contains("/signed/root/a/b?") && url.contains("X-Amz-Expires=60"),
        "{url}"
    );
    let got = tokio::process::Command::new("curl")
        .args(["-fsS", &url])
        .output();
    assert_eq!(got.await.unwrap().stdout, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_fails_quickly_and_comes_back() {
    let Some(mut moto) = Moto::start() else {
        return;
    };
    let bucket = moto.bucket("down", "").await;
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
    let _other = again.bucket("down", "").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = bucket.write(&key("a"), "y".into()).await {
        assert!(error.is_transient(), "{error}");
        assert!(Instant::now() < deadline, "it does not come back: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bucket.read(&key("a"), 10).await.unwrap(), "y");
}
