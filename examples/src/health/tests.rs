use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use registry_core::range::ByteRange;
use registry_storage::driver::ByteStream;
use registry_storage::{Append, Entry, Key, Memory, Objects, Stat, StorageError, Uploads};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;

const OFTEN: Schedule = Schedule {
    interval: Duration::from_millis(20),
    threshold: 1,
};

fn memory() -> Store {
    Store::new(Arc::new(Memory::new()))
}

fn start(options: HealthOptions) -> Health {
    Health::start(options, &memory(), "inmemory", Readiness::default(), None).unwrap()
}

/// Waits until the failures are as asked for
async fn until(health: &Health, what: impl Fn(&BTreeMap<String, String>) -> bool) {
    for _ in 0..1000 {
        if what(&health.failures()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still after ten seconds: {health:?}");
}

async fn fails(health: &Health, name: &str, reason: &str) {
    until(health, |failures| {
        failures.get(name).is_some_and(|text| text.contains(reason))
    })
    .await;
    assert!(health.readiness().is_failing());
}

async fn passes(health: &Health) {
    until(health, BTreeMap::is_empty).await;
    assert!(!health.readiness().is_failing());
}

/// A driver whose lists fail or hang as told
#[derive(Debug, Default)]
struct Moody {
    fails: AtomicBool,
    hangs: AtomicBool,
    calls: AtomicUsize,
    free: Notify,
}

#[async_trait]
impl Objects for Moody {
    async fn read(&self, _: &Key, _: usize) -> Result<Bytes, StorageError> {
        unreachable!("a health check reads nothing")
    }

    async fn stat(&self, _: &Key) -> Result<Stat, StorageError> {
        unreachable!("a health check looks at no object")
    }

    async fn stream(
        &self,
        _: &Key,
        _: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        unreachable!("a health check reads nothing")
    }

    async fn write(&self, _: &Key, _: Bytes) -> Result<(), StorageError> {
        unreachable!("a health check writes nothing")
    }

    async fn delete(&self, _: &Key) -> Result<(), StorageError> {
        unreachable!("a health check deletes nothing")
    }

    async fn delete_tree(&self, _: &Key) -> Result<(), StorageError> {
        unreachable!("a health check deletes nothing")
    }

    async fn rename(&self, _: &Key, _: &Key) -> Result<(), StorageError> {
        unreachable!("a health check moves nothing")
    }

    async fn list(
        &self,
        _: Option<&Key>,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            self.free.notified().await;
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(StorageError::Transient {
                key: "root".to_owned(),
                source: "stale file handle".into(),
            });
        }
        Ok(Vec::new())
    }
}

#[async_trait]
impl Uploads for Moody {
    async fn append(&self, _: &Key) -> Result<Box<dyn Append>, StorageError> {
        unreachable!("a health check uploads nothing")
    }

    async fn reopen(&self, _: &Key) -> Result<Box<dyn Append>, StorageError> {
        unreachable!("a health check uploads nothing")
    }

    async fn progress(&self, _: &Key) -> Result<Stat, StorageError> {
        unreachable!("a health check uploads nothing")
    }
}

fn on_moody(schedule: Schedule) -> (Arc<Moody>, Health) {
    let driver = Arc::new(Moody::default());
    let options = HealthOptions {
        storage: Some(schedule),
        ..HealthOptions::default()
    };
    let store = Store::new(driver.clone());
    let health = Health::start(options, &store, "filesystem", Readiness::default(), None);
    (driver, health.unwrap())
}

#[tokio::test]
async fn a_failing_storage_is_reported_and_forgiven() {
    let (driver, health) = on_moody(OFTEN);
    driver.fails.store(true, Ordering::SeqCst);
    fails(&health, "storagedriver_filesystem", "stale file handle").await;
    driver.fails.store(false, Ordering::SeqCst);
    passes(&health).await;
}

#[tokio::test]
async fn failures_count_from_the_threshold_on() {
    let (driver, health) = on_moody(Schedule {
        threshold: 4,
        ..OFTEN
    });
    driver.fails.store(true, Ordering::SeqCst);
    fails(&health, "storagedriver_filesystem", "stale").await;
    assert!(driver.calls.load(Ordering::SeqCst) >= 4);
    // One success begins the count anew.
    driver.fails.store(false, Ordering::SeqCst);
    passes(&health).await;
    driver.calls.store(0, Ordering::SeqCst);
    driver.fails.store(true, Ordering::SeqCst);
    fails(&health, "storagedriver_filesystem", "stale").await;
    assert!(driver.calls.load(Ordering::SeqCst) >= 4);
}

#[tokio::test]
async fn a_storage_that_hangs_fails_and_is_asked_once() {
    let (driver, health) = on_moody(OFTEN);
    driver.hangs.store(true, Ordering::SeqCst);
    fails(&health, "storagedriver_filesystem", "no answer for").await;
    let calls = driver.calls.load(Ordering::SeqCst);
    tokio::time::sleep(OFTEN.interval * 10).await;
    assert_eq!(driver.calls.load(Ordering::SeqCst), calls);
    driver.hangs.store(false, Ordering::SeqCst);
    driver.free.notify_one();
    passes(&health).await;
}

#[tokio::test]
async fn the_checks_end_with_their_last_owner() {
    let (driver, health) = on_moody(OFTEN);
    let clone = health.clone();
    drop(health);
    driver.fails.store(true, Ordering::SeqCst);
    fails(&clone, "storagedriver_filesystem", "stale").await;
    drop(clone);
    tokio::task::yield_now().await;
    let calls = driver.calls.load(Ordering::SeqCst);
    tokio::time::sleep(OFTEN.interval * 5).await;
    assert!(driver.calls.load(Ordering::SeqCst) <= calls + 1);
}

#[tokio::test]
async fn by_hand_and_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("down");
    let health = start(HealthOptions {
        files: vec![FileCheck {
            file: file.clone(),
            schedule: OFTEN,
        }],
        ..HealthOptions::default()
    });
    assert!(health.readiness().is_ready());
    fs::write(&file, "").unwrap();
    fails(&health, file.to_str().unwrap(), "exists").await;
    health.down();
    assert_eq!(health.failures().len(), 2);
    fs::remove_file(&file).unwrap();
    until(&health, |failures| failures.len() == 1).await;
    assert!(health.readiness().is_failing());
    health.up();
    passes(&health).await;
}

#[tokio::test]
async fn a_port_that_closes_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let health = start(HealthOptions {
        tcp: vec![TcpCheck {
            addr: addr.clone(),
            timeout: Duration::from_secs(5),
            schedule: OFTEN,
        }],
        ..HealthOptions::default()
    });
    listener.accept().await.unwrap();
    assert!(health.failures().is_empty());
    drop(listener);
    fails(&health, &addr, "failed").await;
}

/// A server that answers `HEAD` with the right key as told, and all else with 404
async fn answer<S>(stream: S, status: Arc<AtomicUsize>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let known = request.method() == "HEAD" && request.headers()["x-key"] == "s3cret";
        let status = status.load(Ordering::SeqCst) as u16;
        async move {
            Response::builder()
                .status(if known { status } else { 404 })
                .body(Empty::<Bytes>::new())
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn http_check(uri: String, status: u16) -> HttpCheck {
    let mut headers = HeaderMap::new();
    headers.insert("x-key", HeaderValue::from_static("s3cret"));
    HttpCheck {
        uri: uri.parse().unwrap(),
        headers,
        timeout: Duration::from_secs(5),
        status,
        schedule: OFTEN,
    }
}

#[tokio::test]
async fn a_server_that_answers_otherwise_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let status = Arc::new(AtomicUsize::new(204));
    let answers = status.clone();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, answers.clone()).await;
        }
    });
    let check = http_check(format!("http://{addr}/status?token=abc"), 204);
    assert!(!format!("{check:?}").contains("s3cret"));
    assert!(!format!("{check:?}").contains("abc"));
    let name = format!("http://{addr}/status");
    let health = start(HealthOptions {
        http: vec![check],
        ..HealthOptions::default()
    });
    status.store(500, Ordering::SeqCst);
    fails(&health, &name, "unexpected status: 500 instead of 204").await;
    status.store(204, Ordering::SeqCst);
    passes(&health).await;
    server.abort();
    fails(&health, &name, "error while checking").await;
}

#[tokio::test]
async fn a_server_behind_tls_is_trusted_by_its_certificate_only() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private.unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let trusted_by = Arc::new(AtomicUsize::new(0));
    let handshakes = trusted_by.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
            let (acceptor, handshakes) = (acceptor.clone(), handshakes.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    handshakes.fetch_add(1, Ordering::SeqCst);
                    answer(stream, Arc::new(AtomicUsize::new(200))).await;
                }
            });
        }
    });
    let client = |trusted: bool| {
        let mut roots = rustls::RootCertStore::empty();
        if trusted {
            roots.add(certificate.clone()).unwrap();
        }
        rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let uri = format!("https://localhost:{port}/");
    let options = HealthOptions {
        http: vec![http_check(uri.clone(), 0)],
        ..HealthOptions::default()
    };
    assert!(options.needs_tls());
    let start = |tls| {
        let readiness = Readiness::default();
        Health::start(options.clone(), &memory(), "inmemory", readiness, tls)
    };
    let untrusting = start(Some(client(false))).unwrap();
    fails(&untrusting, &uri, "certificate").await;
    drop(untrusting);
    trusted_by.store(0, Ordering::SeqCst);
    let trusting = start(Some(client(true))).unwrap();
    // The second check begins when the first is over and noted.
    while trusted_by.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(trusting.failures(), BTreeMap::new());
    assert!(matches!(start(None), Err(HealthError::Untrusting { .. })));
}

#[tokio::test]
async fn uris_that_cannot_be_checked_are_refused_without_their_secrets() {
    for (uri, part) in [
        ("http://ada:pa55@localhost/x", "localhost"),
        ("/only/a/path?k=pa55", "/only/a/path"),
        ("ftp://localhost/", "ftp"),
    ] {
        let options = HealthOptions {
            http: vec![http_check(uri.to_owned(), 200)],
            ..HealthOptions::default()
        };
        let started = Health::start(options, &memory(), "x", Readiness::default(), None);
        let error = started.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(part) && !text.contains("pa55"), "{text}");
    }
}
