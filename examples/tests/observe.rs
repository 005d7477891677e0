//! What is counted agrees with what was done, and Prometheus can read it
//!
//! With Python and its package `prometheus_client` (`REGISTRY_E2E_PYTHON` says which Python)
//! the text is read by Prometheus' own parser; without, that test says `SKIPPED`, or fails with
//! `REGISTRY_E2E=required`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use registry_auth::{AllowAll, Anyone};
use registry_core::Digest;
use registry_examples::debug::DebugService;
use registry_examples::health::{Health, HealthOptions, Schedule};
use registry_examples::metrics::{Metrics, TextFormat};
use registry_http::notifications::{EndpointStats, NotifierStats};
use registry_http::{Readiness, RegistryService};
use registry_storage::{Measured, Memory, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Registry {
    metrics: Arc<Metrics>,
    service: RegistryService,
    store: Store,
    readiness: Readiness,
}

impl Registry {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new("inmemory"));
        let driver = Measured::new(Memory::new(), metrics.clone());
        let store = Store::new(Arc::new(driver));
        metrics.watch_hints(store.hint_counts());
        let readiness = Readiness::default();
        let service = RegistryService::builder(store.clone(), Arc::new(Anyone), Arc::new(AllowAll))
            .observer(metrics.clone())
            .readiness(readiness.clone())
            .build();
        Self {
            metrics,
            service,
            store,
            readiness,
        }
    }

    async fn ask(&self, method: &str, target: &str, body: impl Into<Bytes>) -> (u16, HeaderMap) {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
            .body(Full::new(body.into()))
            .unwrap();
        let response = self.service.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        body.collect().await.unwrap();
        (parts.status.as_u16(), parts.headers)
    }

    async fn expect(&self, status: u16, method: &str, target: &str, body: &[u8]) -> HeaderMap {
        let (found, headers) = self.ask(method, target, body.to_vec()).await;
        assert_eq!(found, status, "{method} {target}");
        headers
    }

    fn samples(&self) -> Samples {
        Samples::read(&self.metrics.encode(TextFormat::Prometheus))
    }

    /// Pushes an image of two blobs, and gives back the digest of the larger
    async fn push(&self) -> Digest {
        let layer = vec![7; 100_000];
        let headers = self.expect(202, "POST", "/v2/a/blobs/uploads/", b"").await;
        let session = headers["location"].to_str().unwrap().to_owned();
        let headers = self.expect(202, "PATCH", &session, &layer).await;
        let session = headers["location"].to_str().unwrap().to_owned();
        let digest = Digest::sha256(&layer);
        let separator = if session.contains('?') { '&' } else { '?' };
        let target = format!("{session}{separator}digest={digest}");
        self.expect(201, "PUT", &target, b"").await;
        let config = Digest::sha256(b"{}");
        let target = format!("/v2/a/blobs/uploads/?digest={config}");
        self.expect(201, "POST", &target, b"{}").await;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config, "size": 2
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest, "size": layer.len()
            }]
        });
        let manifest = manifest.to_string();
        self.expect(201, "PUT", "/v2/a/manifests/x", manifest.as_bytes())
            .await;
        digest
    }
}

/// The samples of a scrape, by name and labels as they are written
struct Samples(BTreeMap<String, f64>);

impl Samples {
    fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (name, value) = line.rsplit_once(' ').unwrap();
                    (name.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    /// Nothing is zero: series appear with their first count
    fn at(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    fn requests(&self, handler: &str, method: &str, code: u16) -> f64 {
        self.at(&format!(
            "registry_http_requests_total{{handler=\"{handler}\",method=\"{method}\",code=\"{code}\"}}"
        ))
    }

    fn sum(&self, prefix: &str) -> f64 {
        let found = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        found.map(|(_, value)| value).sum()
    }
}

#[tokio::test]
async fn counters_agree_with_what_was_done() {
    let registry = Registry::new();
    let begun = Instant::now();
    let layer = registry.push().await;
    registry.expect(200, "GET", "/v2/", b"").await;
    for _ in 0..3 {
        registry.expect(200, "GET", "/v2/a/manifests/x", b"").await;
    }
    registry.expect(200, "HEAD", "/v2/a/manifests/x", b"").await;
    registry.expect(404, "GET", "/v2/a/manifests/y", b"").await;
    for _ in 0..2 {
        let target = format!("/v2/a/blobs/{layer}");
        registry.expect(200, "GET", &target, b"").await;
    }
    registry.expect(200, "GET", "/v2/a/tags/list", b"").await;
    registry.expect(200, "GET", "/v2/_catalog", b"").await;
    registry.expect(405, "BREW", "/v2/", b"").await;
    registry.expect(404, "GET", "/nowhere", b"").await;
    registry.expect(200, "GET", "/readyz", b"").await;
    // A mount without a source: one that this process knows, and one that it does not.
    let target = format!("/v2/b/blobs/uploads/?mount={layer}");
    registry.expect(201, "POST", &target, b"").await;
    let target = format!("/v2/b/blobs/uploads/?mount={}", Digest::sha256(b"unknown"));
    registry.expect(202, "POST", &target, b"").await;
    let elapsed = begun.elapsed().as_secs_f64();

    let samples = registry.samples();
    for (handler, method, code, count) in [
        ("base", "get", 200, 1.0),
        ("blob", "get", 200, 2.0),
        ("blob_upload", "post", 201, 2.0),
        ("blob_upload", "post", 202, 2.0),
        ("blob_upload_chunk", "patch", 202, 1.0),
        ("blob_upload_chunk", "put", 201, 1.0),
        ("catalog", "get", 200, 1.0),
        ("manifest", "get", 200, 3.0),
        ("manifest", "get", 404, 1.0),
        ("manifest", "head", 200, 1.0),
        ("manifest", "put", 201, 1.0),
        ("none", "get", 200, 1.0),
        ("none", "get", 404, 1.0),
        ("none", "other", 405, 1.0),
        ("tags", "get", 200, 1.0),
    ] {
        assert_eq!(
            samples.requests(handler, method, code),
            count,
            "{handler} {method} {code}"
        );
    }
    assert_eq!(samples.sum("registry_http_requests_total"), 20.0);
    assert_eq!(samples.sum("registry_http_operations_total"), 20.0);
    assert_eq!(
        samples.sum("registry_http_request_duration_seconds_count"),
        20.0
    );
    assert_eq!(
        samples.sum("registry_http_operation_duration_seconds_count"),
        20.0
    );
    assert!(samples.sum("registry_http_request_duration_seconds_sum") <= elapsed);
    assert_eq!(samples.sum("registry_http_in_flight_requests"), 0.0);
    assert_eq!(samples.at("registry_http_incomplete_responses_total"), 0.0);
    assert_eq!(
        samples.at("registry_http_operations_total{operation=\"get_blob\",code=\"200\"}"),
        2.0
    );
    assert_eq!(
        samples.at("registry_http_response_size_bytes_sum{handler=\"blob\"}"),
        200_000.0
    );
    assert_eq!(
        samples.at("registry_http_request_size_bytes_sum{handler=\"blob_upload_chunk\"}"),
        100_000.0
    );
    // The content of both uploads, and nothing else.
    assert_eq!(
        samples.at("registry_storage_bytes_total{driver=\"inmemory\",action=\"Append\"}"),
        100_002.0
    );
    assert_eq!(
        samples.at("registry_storage_bytes_total{driver=\"inmemory\",action=\"ReaderBytes\"}"),
        200_000.0
    );
    let calls = "registry_storage_calls_total{driver=\"inmemory\",action=\"ReaderBytes\"";
    assert_eq!(samples.at(&format!("{calls},outcome=\"ok\"}}")), 2.0);
    assert_eq!(samples.sum(calls), 2.0);
    assert_eq!(
        samples.at("registry_storage_uploads_open{driver=\"inmemory\"}"),
        0.0
    );
    for (kind, count) in [("Request", 2.0), ("Hit", 1.0), ("Miss", 1.0)] {
        let name = format!("registry_storage_cache_total{{type=\"{kind}\"}}");
        assert_eq!(samples.at(&name), count, "{kind}");
    }
}

#[tokio::test]
async fn histograms_add_up() {
    let registry = Registry::new();
    let layer = registry.push().await;
    let target = format!("/v2/a/blobs/{layer}");
    registry.expect(200, "GET", &target, b"").await;
    let text = registry.metrics.encode(TextFormat::Prometheus);
    let mut bounds: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let samples = Samples::read(&text);
    for (name, value) in &samples.0 {
        if let Some((series, bound)) = name.split_once("le=\"") {
            // The bound comes before the other labels.
            let (bound, labels) = bound.split_once('"').unwrap();
            let labels = labels.trim_start_matches(',');
            let count = format!("{}{labels}", series.replace("_bucket{", "_count{"));
            let bound = bound.parse().unwrap();
            bounds.entry(count).or_default().push((bound, *value));
        }
    }
    assert!(bounds.len() > 20, "{text}");
    for (count, mut buckets) in bounds {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(
            buckets.is_sorted_by(|one, other| one.1 <= other.1),
            "{count}: {buckets:?}"
        );
        let (bound, last) = *buckets.last().unwrap();
        assert_eq!((bound, last), (f64::INFINITY, samples.0[&count]), "{count}");
    }
    // 100,000 bytes are more than 64 KiB and less than 128 KiB.
    let size = |bound: u32| {
        samples.at(&format!(
            "registry_http_response_size_bytes_bucket{{le=\"{bound}.0\",handler=\"blob\"}}"
        ))
    };
    assert_eq!((size(65_536), size(131_072)), (0.0, 1.0));
}

#[tokio::test]
async fn what_is_under_way_shows() {
    let registry = Registry::new();
    let headers = registry
        .expect(202, "POST", "/v2/a/blobs/uploads/", b"")
        .await;
    let session = headers["location"].to_str().unwrap().to_owned();
    let (mut send, receive) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let request = Request::patch(&session)
        .body(StreamBody::new(receive))
        .unwrap();
    let patch = tokio::spawn(registry.service.call(request));
    send.send(Ok(Frame::data(Bytes::from_static(b"hello"))))
        .await
        .unwrap();
    let in_flight = "registry_http_in_flight_requests{handler=\"blob_upload_chunk\"}";
    let open = "registry_storage_uploads_open{driver=\"inmemory\"}";
    let begun = Instant::now();
    loop {
        let samples = registry.samples();
        if samples.at(in_flight) == 1.0 && samples.at(open) == 1.0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", samples.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(send);
    let response = patch.await.unwrap().unwrap();
    assert_eq!(response.status(), 202);
    response.into_body().collect().await.unwrap();
    let samples = registry.samples();
    assert_eq!((samples.at(in_flight), samples.at(open)), (0.0, 0.0));
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted() {
    let registry = Registry::new();
    let layer = registry.push().await;
    let target = format!("/v2/a/blobs/{layer}");
    let request = Request::get(target).body(Full::<Bytes>::default()).unwrap();
    drop(registry.service.call(request).await.unwrap());
    let samples = registry.samples();
    assert_eq!(samples.at("registry_http_incomplete_responses_total"), 1.0);
    assert_eq!(samples.sum("registry_http_in_flight_requests"), 0.0);
    assert_eq!(
        samples.at("registry_storage_calls_total{driver=\"inmemory\",action=\"ReaderBytes\",outcome=\"abandoned\"}"),
        1.0
    );
}

#[tokio::test]
async fn clients_cannot_make_series() {
    let registry = Registry::new();
    let mut series = None;
    for round in 0..50 {
        let method = format!("METHOD{round}");
        registry
            .ask(&method, &format!("/v2/r{round}/tags/list"), "")
            .await;
        registry.ask(&method, &format!("/x{round}"), "").await;
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            let target = format!("/v2/r{round}/manifests/t{round}");
            registry.ask(method.as_str(), &target, "").await;
        }
        let now = registry.samples().0.len();
        assert_eq!(*series.get_or_insert(now), now, "round {round}");
    }
}

#[tokio::test]
async fn refusals_of_an_unhealthy_registry_are_counted_too() {
    let registry = Registry::new();
    let options = HealthOptions {
        storage: Some(Schedule::default()),
        ..HealthOptions::default()
    };
    let readiness = registry.readiness.clone();
    let health = Health::start(options, &registry.store, "inmemory", readiness, None).unwrap();
    registry.expect(200, "GET", "/v2/", b"").await;
    health.down();
    registry.expect(503, "GET", "/v2/", b"").await;
    registry.expect(503, "GET", "/readyz", b"").await;
    health.up();
    registry.expect(200, "GET", "/v2/", b"").await;
    let samples = registry.samples();
    assert_eq!(samples.requests("base", "get", 200), 2.0);
    assert_eq!(samples.requests("base", "get", 503), 1.0);
    assert_eq!(samples.sum("registry_http_in_flight_requests"), 0.0);
}

#[tokio::test]
async fn the_debug_service_is_served_over_connections() {
    let registry = Registry::new();
    let options = HealthOptions::default();
    let readiness = registry.readiness.clone();
    let health = Health::start(options, &registry.store, "inmemory", readiness, None).unwrap();
    let debug = DebugService::new(health).with_metrics("/metrics", registry.metrics.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = auto::Builder::new(TokioExecutor::new());
            let served = connection.serve_connection(TokioIo::new(stream), debug.clone());
            served.await.unwrap();
        }
    });
    for (request, status, part) in [
        ("GET /metrics", "200", "\nregistry_build_info{"),
        ("HEAD /metrics", "200", "content-length: "),
        ("GET /nothing", "404", "not found"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(part), "{answer}");
        let empty = answer.ends_with("\r\n\r\n");
        assert_eq!(empty, request.starts_with("HEAD"), "{answer}");
    }
    server.await.unwrap();
}

/// A Python with the `prometheus_client` package, or a visible skip
fn python() -> Option<PathBuf> {
    let python = env::var_os("REGISTRY_E2E_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let imports = Command::new(&python)
        .args(["-c", "import prometheus_client"])
        .output()
        .is_ok_and(|output| output.status.success());
    if imports {
        return Some(python);
    }
    let reason = "prometheus_client for Python not found; install it with `pip install \
                  prometheus_client`, or set REGISTRY_E2E_PYTHON to a Python that has it";
    if env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required") {
        panic!("{reason}; REGISTRY_E2E=required does not allow skipping");
    }
    // Written past the test harness, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    None
}

/// What the parser found
#[derive(Debug, Deserialize)]
struct Sample {
    kind: String,
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads a scrape from standard input and prints its samples as JSON
const PARSE: &str = "
import importlib, json, sys
parser = importlib.import_module(sys.argv[1])
samples = []
for family in parser.text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        samples.append({'kind': family.type, 'name': sample.name, 'labels': sample.labels, 'value': float(sample.value)})
print(json.dumps(samples))
";

#[tokio::test]
async fn prometheus_reads_both_formats() {
    let Some(python) = python() else { return };
    let registry = Registry::new();
    registry.push().await;
    registry.expect(404, "GET", "/v2/a/manifests/y", b"").await;
    registry.metrics.watch_notifications(|| {
        let mut endpoint = EndpointStats::default();
        endpoint.name = "hook \"one\"\\".to_owned();
        endpoint.pending = 2;
        endpoint.events = 3;
        endpoint.statuses = [(200, 1)].into();
        let mut stats = NotifierStats::default();
        stats.endpoints.push(endpoint);
        stats
    });
    let options = HealthOptions::default();
    let readiness = registry.readiness.clone();
    let health = Health::start(options, &registry.store, "inmemory", readiness, None).unwrap();
    let debug = DebugService::new(health).with_metrics("/metrics", registry.metrics.clone());
    for (accept, module) in [
        ("text/plain", "prometheus_client.parser"),
        (
            "application/openmetrics-text",
            "prometheus_client.openmetrics.parser",
        ),
    ] {
        let request = Request::get("/metrics").header("accept", accept);
        let response = debug.call(request.body(()).unwrap()).await.unwrap();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let mut child = Command::new(&python)
            .args(["-c", PARSE, module])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{module} refuses {}",
            String::from_utf8_lossy(&text)
        );
        let samples: Vec<Sample> = serde_json::from_slice(&output.stdout).unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        let written = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples.len(), written, "{module}");
        let unknown: Vec<_> = samples
            .iter()
            .filter(|sample| matches!(&*sample.kind, "unknown" | "untyped"))
            .collect();
        assert!(unknown.is_empty(), "{module}: {unknown:?}");
        let value = |name: &str, labels: Value| {
            let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
            samples
                .iter()
                .find(|sample| sample.name == name && sample.labels == labels)
                .unwrap_or_else(|| panic!("{name} {labels:?} not read by {module}"))
                .value
        };
        let manifest = json!({"handler": "manifest", "method": "get", "code": "404"});
        assert_eq!(value("registry_http_requests_total", manifest), 1.0);
        let session = json!({"handler": "blob_upload_chunk"});
        assert_eq!(
            value("registry_http_request_size_bytes_sum", session),
            100_000.0
        );
        let hook = json!({"endpoint": "hook \"one\"\\"});
        assert_eq!(value("registry_notifications_pending_total", hook), 2.0);
        assert!(value("process_resident_memory_bytes", json!({})) > 1e6);
        let version = json!({"version": env!("CARGO_PKG_VERSION")});
        assert_eq!(value("registry_build_info", version), 1.0);
    }
}
