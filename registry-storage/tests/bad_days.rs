//! Bad days of an object store: what clients are told, and what is still there afterwards

#![cfg(feature = "object-stores")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::{TryStreamExt, stream};
use registry_core::upload::{ChunkHeader, UploadId};
use registry_core::{Algorithm, Digest, RepositoryName};
use registry_storage::bucket::{Bucket, ConnectOptions, S3Options};
use registry_storage::{
    AppendError, CompleteUploadError, Key, Objects, StorageError, Store, UploadError,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::support::proxy::{Proxy, Verdict, answer, refusal};
use self::support::{Kind, PART, Server, connect, open, options, s3};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn name() -> RepositoryName {
    RepositoryName::try_from("team/app").unwrap()
}

fn pattern(size: usize) -> Bytes {
    let bytes: Vec<u8> = (0..size as u32 / 4 + 1)
        .flat_map(|index| index.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .take(size)
        .collect();
    bytes.into()
}

fn body(bytes: Bytes) -> impl futures::Stream<Item = Result<Bytes, String>> + Unpin + use<> {
    let pieces: Vec<_> = bytes
        .chunks(100_000)
        .map(|piece| Ok(bytes.slice_ref(piece)))
        .collect();
    stream::iter(pieces)
}

/// A store behind a proxy, in which an upload has two parts' bytes and some more
struct Day {
    _moto: Server,
    proxy: Proxy,
    store: Store,
    id: UploadId,
    bytes: Bytes,
    kept: usize,
}

impl Day {
    async fn begin() -> Option<Self> {
        let moto = Server::start(Kind::Moto)?;
        moto.bucket("bad-days", "");
        let proxy = Proxy::before(moto.port);
        let patience = Duration::from_secs(5);
        let store = Store::new(Arc::new(open(proxy.port, "bad-days", "", patience)));
        let bytes = pattern(4 * PART);
        let kept = 2 * PART + 1000;
        let upload = store
            .start_upload(&name(), Algorithm::Sha256)
            .await
            .unwrap();
        let id = upload.id();
        let day = Self {
            _moto: moto,
            proxy,
            store,
            id,
            bytes,
            kept,
        };
        day.send(0, kept).await.unwrap();
        Some(day)
    }

    async fn send(&self, start: usize, end: usize) -> Result<(), AppendError> {
        let mut upload = self.store.open_upload(&name(), &self.id).await.unwrap();
        assert_eq!(upload.offset(), start as u64);
        let body = body(self.bytes.slice(start..end));
        upload.append(ChunkHeader::default(), body).await
    }

    /// The store is well again: what was acknowledged is there, and the rest can be sent
    async fn ends_well(&self) {
        self.proxy.set(|_| Verdict::Pass);
        let deadline = Instant::now() + Duration::from_secs(20);
        let upload = loop {
            match self.store.open_upload(&name(), &self.id).await {
                Ok(upload) => break upload,
                Err(UploadError::Storage(error)) if error.is_transient() => {
                    assert!(Instant::now() < deadline, "it does not come back: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(upload.offset(), self.kept as u64);
        let digest = Digest::sha256(&self.bytes);
        let rest = body(self.bytes.slice(self.kept..));
        let header = ChunkHeader::default();
        upload
            .append_and_complete(header, rest, digest)
            .await
            .unwrap();
        let stream = self.store.read_blob(&name(), &digest, None).await.unwrap();
        let found: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(found.concat() == self.bytes);
    }
}

fn is_part(head: &str) -> bool {
    head.starts_with("PUT ") && head.contains("partNumber=")
}

fn storage_error(error: AppendError) -> StorageError {
    match error {
        AppendError::Storage(error) => error,
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_within_a_part_loses_nothing_acknowledged() {
    let Some(day) = Day::begin().await else {
        return;
    };
    let (kept, all) = (day.kept, day.bytes.len());
    // From the middle of the next part on the store is gone.
    let mut gone = false;
    day.proxy.set(move |head| {
        let was_gone = gone;
        gone |= is_part(head);
        match (was_gone, gone) {
            (true, _) => Verdict::Cut(0),
            (false, true) => Verdict::Cut(1_000_000),
            (false, false) => Verdict::Pass,
        }
    });
    let error = storage_error(day.send(kept, all).await.unwrap_err());
    assert!(error.is_transient(), "{error}");
    day.ends_well().await;
    // And once more, with a break that a retry heals: nobody notices.
    let Some(day) = Day::begin().await else {
        return;
    };
    let breaks = AtomicUsize::new(0);
    day.proxy.set(
        move |head| match is_part(head) && breaks.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Verdict::Cut(1_000_000),
            false => Verdict::Pass,
        },
    );
    day.send(kept, kept + PART).await.unwrap();
    assert_eq!(
        day.proxy.take().iter().filter(|line| is_part(line)).count(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_patience_gets_some() {
    let Some(day) = Day::begin().await else {
        return;
    };
    let kept = day.kept;
    let slow = || refusal("503 Slow Down", "SlowDown");
    day.proxy.set(move |head| match is_part(head) {
        true => Verdict::Answer(slow()),
        false => Verdict::Pass,
    });
    let error = storage_error(day.send(kept, kept + PART).await.unwrap_err());
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("SlowDown"), "{error}");
    // Twice only: that is within what is tried again.
    let count = AtomicUsize::new(0);
    day.proxy.set(
        move |head| match is_part(head) && count.fetch_add(1, Ordering::SeqCst) < 2 {
            true => Verdict::Answer(slow()),
            false => Verdict::Pass,
        },
    );
    day.send(kept, kept + PART).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_is_said_and_the_upload_goes_on_when_there_is_room() {
    let Some(day) = Day::begin().await else {
        return;
    };
    day.proxy.set(|head| match head.starts_with("PUT ") {
        true => Verdict::Answer(refusal("403 Forbidden", "QuotaExceeded")),
        false => Verdict::Pass,
    });
    let (kept, all) = (day.kept, day.bytes.len());
    let error = storage_error(day.send(kept, all).await.unwrap_err());
    assert!(error.is_full(), "{error}");
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let Some(day) = Day::begin().await else {
        return;
    };
    for (status, code, advice) in [
        ("403 Forbidden", "RequestTimeTooSkewed", "clock"),
        (
            "400 Bad Request",
            "ExpiredToken",
            "give the registry new ones",
        ),
        ("403 Forbidden", "InvalidAccessKeyId", "InvalidAccessKeyId"),
        ("403 Forbidden", "AccessDenied", "AccessDenied"),
        ("404 Not Found", "NoSuchBucket", "the bucket does not exist"),
    ] {
        day.proxy
            .set(move |_| Verdict::Answer(refusal(status, code)));
        let error = match day.store.open_upload(&name(), &day.id).await {
            Err(UploadError::Storage(error)) => error,
            other => panic!("{code}: {other:?}"),
        };
        assert!(error.is_denied(), "{code}: {error}");
        assert!(error.to_string().contains(advice), "{error}");
        let text = format!("{error:?}");
        assert!(!text.contains(support::SECRET_KEY), "{text}");
    }
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_delete_pushes_succeed_and_deletions_say_why_not() {
    let Some(day) = Day::begin().await else {
        return;
    };
    let denied = |head: &str| match head.starts_with("DELETE ") || head.contains("?delete") {
        true => Verdict::Answer(refusal("403 Forbidden", "AccessDenied")),
        false => Verdict::Pass,
    };
    day.proxy.set(denied);
    let bucket = open(day.proxy.port, "bad-days", "", Duration::from_secs(5));
    for error in [
        bucket.probe().await.unwrap_err(),
        bucket.delete_tree(&key("docker")).await.unwrap_err(),
    ] {
        assert!(error.is_denied(), "{error}");
        assert!(error.to_string().contains("AccessDenied"), "{error}");
    }
    day.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_the_store_has_lost_are_missed_and_never_made_up() {
    let Some(day) = Day::begin().await else {
        return;
    };
    // As after a rule of the bucket has aborted what was incomplete.
    day.proxy.set(|head| match head.contains("uploadId=") {
        true => Verdict::Answer(refusal("404 Not Found", "NoSuchUpload")),
        false => Verdict::Pass,
    });
    let digest = Digest::sha256(&day.bytes[..day.kept]);
    let upload = day.store.open_upload(&name(), &day.id).await.unwrap();
    let error = match upload.complete(digest).await.unwrap_err() {
        CompleteUploadError::Storage(error) => error,
        error => panic!("{error}"),
    };
    assert!(error.is_corrupt(), "{error}");
    assert!(
        error.to_string().contains("start the upload again"),
        "{error}"
    );
    day.store.stat_blob(&name(), &digest).await.unwrap_err();
    day.proxy.set(|_| Verdict::Pass);
    let upload = day
        .store
        .start_upload(&name(), Algorithm::Sha256)
        .await
        .unwrap();
    let all = body(day.bytes.slice(..day.kept));
    let header = ChunkHeader::default();
    upload
        .append_and_complete(header, all, digest)
        .await
        .unwrap();
    let size = day.store.stat_blob(&name(), &digest).await.unwrap();
    assert_eq!(size, day.kept as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_calls_are_made_at_the_same_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (current, highest) = (now.clone(), most.clone());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (current, highest) = (current.clone(), highest.clone());
            tokio::spawn(async move {
                let mut head = [0; 4096];
                if client.read(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
                let now = current.fetch_add(1, Ordering::SeqCst) + 1;
                highest.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(30)).await;
                current.fetch_sub(1, Ordering::SeqCst);
                let _ = client.write_all(answer("200 OK", "", "x").as_bytes()).await;
            });
        }
    });
    let connect = ConnectOptions {
        concurrency: 3,
        ..connect(Duration::from_secs(10))
    };
    let bucket = Bucket::s3(&s3(port, "b"), options(""), &connect).unwrap();
    let keys: Vec<_> = (0..20).map(|index| key(&format!("k{index}"))).collect();
    for read in join_all(keys.iter().map(|key| bucket.read(key, 10))).await {
        assert_eq!(read.unwrap(), "x");
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(now.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_answers_at_once_and_closes_without_a_restart() {
    let Some(mut moto) = Server::start(Kind::Moto) else {
        return;
    };
    let bucket = moto.bucket("down", "");
    let store = Store::new(Arc::new(bucket.clone()));
    bucket.write(&key("a"), "x".into()).await.unwrap();
    moto.stop();
    let mut took = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        let error = store
            .start_upload(&name(), Algorithm::Sha256)
            .await
            .unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(error.retry_after().is_some(), "{error}");
        took.push(began.elapsed());
    }
    // Some found out; all that came after were told at once.
    took.sort();
    assert!(took[14] < Duration::from_millis(50), "{took:?}");
    let Some(again) = Server::start_at(Kind::Moto, moto.port) else {
        return;
    };
    again.bucket("down", "");
    let began = Instant::now();
    while let Err(error) = store.start_upload(&name(), Algorithm::Sha256).await {
        assert!(error.is_transient(), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!(
        "told within {:?}, at most {:?}; back after {:?}",
        took[14],
        took[29],
        began.elapsed()
    );
}

/// Stands before a server with a certificate, and says on which port
async fn with_tls(server: u16, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(
        certificate.signing_key.serialize_der(),
    ));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else {
                    return;
                };
                let mut upstream = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_an_authority_of_its_own_is_trusted_when_told_to() {
    let Some(server) = Server::start(Kind::S3s) else {
        return;
    };
    server.bucket("bad-days", "");
    let ours = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let others = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let path = folder.path().join(name);
        std::fs::write(&path, certificate.cert.pem()).unwrap();
        Some(path)
    };
    let port = with_tls(server.port, &ours).await;
    let bucket = |ca_file, danger_skip_verify| {
        let s3 = S3Options {
            region_endpoint: Some(format!("https://localhost:{port}")),
            ..s3(port, "bad-days")
        };
        let connect = ConnectOptions {
            ca_file,
            danger_skip_verify,
            retries: 0,
            ..connect(Duration::from_secs(5))
        };
        Bucket::s3(&s3, options(""), &connect).unwrap()
    };
    let trusting = bucket(file("ours.pem", &ours), false);
    trusting.write(&key("a"), "x".into()).await.unwrap();
    assert_eq!(trusting.read(&key("a"), 10).await.unwrap(), "x");
    let a = key("a");
    let url = trusting.signed_url(&a, http::Method::GET, Duration::from_secs(60));
    assert!(
        url.await
            .unwrap()
            .unwrap()
            .starts_with("https://localhost:")
    );
    let error = bucket(file("others.pem", &others), false)
        .read(&key("a"), 10)
        .await;
    let error = error.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(bucket(None, true).read(&key("a"), 10).await.unwrap(), "x");
}
