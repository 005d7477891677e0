//! Which operation tells what, and that nothing is acknowledged of which nobody can be told

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use registry_auth::{
    Access, AllowAll, AuthenticateError, Authenticator, ChallengeReason, Credentials, Policy,
    Principal,
};
use registry_core::Digest;
use registry_core::event::{Event, SourceRecord};
use registry_http::{
    EventSink, EventSinkError, Events, NotifierOptions, RegistryService, RemoteAddr, RequestId,
};
use registry_storage::{Memory, Store};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::{endpoint, notifier, until};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCTETS: &str = "application/octet-stream";
const SOURCE: &str = "registry-1:5000";

/// Keeps what it is told, as JSON; can be told to fail
#[derive(Debug, Default)]
struct Told {
    events: Mutex<Vec<Value>>,
    failing: AtomicU8,
}

const ADMITS_NOTHING: u8 = 1;
const RECORDS_NOTHING: u8 = 2;

impl Told {
    fn fails(&self, how: u8) -> Result<(), EventSinkError> {
        match self.failing.load(Ordering::Relaxed) == how {
            true => Err(EventSinkError::Full { limit: 1 }),
            false => Ok(()),
        }
    }

    fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

#[async_trait]
impl EventSink for Told {
    async fn admit(&self) -> Result<(), EventSinkError> {
        self.fails(ADMITS_NOTHING)
    }

    async fn record(&self, events: Vec<Event>) -> Result<(), EventSinkError> {
        self.fails(RECORDS_NOTHING)?;
        let events = events
            .iter()
            .map(|event| serde_json::to_value(event).unwrap());
        self.events.lock().unwrap().extend(events);
        Ok(())
    }

    fn notice(&self, event: Event) {
        let event = serde_json::to_value(event).unwrap();
        self.events.lock().unwrap().push(event);
    }
}

/// Everybody is Ada
#[derive(Debug)]
struct Ada;

#[async_trait]
impl Authenticator for Ada {
    async fn authenticate(&self, _: &Credentials) -> Result<Principal, AuthenticateError> {
        Ok(Principal::user("ada"))
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        None
    }
}

struct Registry {
    service: RegistryService,
    told: Arc<Told>,
}

impl Registry {
    fn new(references: bool) -> Self {
        let told = Arc::<Told>::default();
        let events = Events::new(told.clone(), source()).with_references(references);
        Self {
            service: service(events, AllowAll),
            told,
        }
    }

    async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (StatusCode, HeaderMap) {
        ask(&self.service, method, target, headers, body).await
    }

    /// The targets of the events since the last time, which all have this action
    fn targets(&self, action: &str) -> Vec<Value> {
        let events = self.told.take();
        events
            .into_iter()
            .map(|mut event| {
                assert_eq!(event["action"], action);
                event["target"].take()
            })
            .collect()
    }

    async fn push_blob(&self, name: &str, content: &[u8]) -> String {
        let digest = Digest::sha256(content).to_string();
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let (status, _) = self.ask("POST", &target, &[], content).await;
        assert_eq!(status, StatusCode::CREATED);
        digest
    }

    async fn push_manifest(&self, name: &str, reference: &str, manifest: &[u8]) -> StatusCode {
        let target = format!("/v2/{name}/manifests/{reference}");
        let headers = [("content-type", MANIFEST)];
        self.ask("PUT", &target, &headers, manifest).await.0
    }
}

fn source() -> SourceRecord {
    SourceRecord {
        addr: SOURCE.to_owned(),
        instance_id: "a53db899".to_owned(),
    }
}

fn service(events: Events, policy: impl Policy) -> RegistryService {
    let store = Store::new(Arc::new(Memory::new()));
    RegistryService::builder(store, Arc::new(Ada), Arc::new(policy))
        .events(events)
        .build()
}

async fn ask(
    service: &RegistryService,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (StatusCode, HeaderMap) {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "registry.example:5000")
        .header("user-agent", "test/0.1")
        .header("content-length", body.len())
        .header("x-request-id", "request-7")
        .extension(RequestId("request-7".into()))
        .extension(RemoteAddr("192.0.2.7:42961".parse().unwrap()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::<Bytes>::from(body.to_vec());
    let request = request.body(body).unwrap();
    let response = hyper::service::Service::call(service, request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    body.collect().await.unwrap();
    (parts.status, parts.headers)
}

fn url(name: &str, kind: &str, digest: &str) -> String {
    format!("http://registry.example:5000/v2/{name}/{kind}/{digest}")
}

fn blob(name: &str, digest: &str, size: usize) -> Value {
    json!({
        "mediaType": OCTETS, "size": size, "digest": digest, "length": size,
        "repository": name, "url": url(name, "blobs", digest),
    })
}

fn manifest_of(config: &str) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config, "size": 2},
        "layers": []
    })
    .to_string()
    .into_bytes()
}

fn manifest(name: &str, bytes: &[u8], tag: Option<&str>) -> Value {
    let digest = Digest::sha256(bytes).to_string();
    let mut target = json!({
        "mediaType": MANIFEST, "size": bytes.len(), "digest": digest, "length": bytes.len(),
        "repository": name, "url": url(name, "manifests", &digest),
    });
    if let Some(tag) = tag {
        target["tag"] = tag.into();
    }
    target
}

#[tokio::test]
async fn an_event_says_who_did_what_and_where() {
    let registry = Registry::new(false);
    let digest = registry.push_blob("team/app", b"layer").await;
    let mut event = registry.told.take().remove(0);
    let id = event["id"].take();
    assert!(uuid::Uuid::parse_str(id.as_str().unwrap()).is_ok());
    let timestamp = event["timestamp"].take();
    let timestamp: jiff::Timestamp = timestamp.as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(timestamp).as_secs() < 60);
    assert_eq!(
        event,
        json!({
            "id": null,
            "timestamp": null,
            "action": "push",
            "target": blob("team/app", &digest, 5),
            "request": {
                "id": "request-7", "addr": "192.0.2.7:42961", "host": "registry.example:5000",
                "method": "POST", "useragent": "test/0.1"
            },
            "actor": {"name": "ada"},
            "source": {"addr": SOURCE, "instanceID": "a53db899"}
        })
    );
}

#[tokio::test]
async fn blobs_are_pushed_when_they_are_complete() {
    let registry = Registry::new(false);
    let digest = Digest::sha256(b"one two").to_string();
    let (_, headers) = registry
        .ask("POST", "/v2/app/blobs/uploads/", &[], b"")
        .await;
    let session = headers["location"].to_str().unwrap();
    registry.ask("PATCH", session, &[], b"one ").await;
    assert_eq!(registry.targets("push"), [] as [Value; 0]);
    let wrong = format!("{session}?digest={}", Digest::sha256(b"else"));
    registry.ask("PUT", &wrong, &[], b"").await;
    assert_eq!(registry.targets("push"), [] as [Value; 0]);
    let target = format!("{session}?digest={digest}");
    let (status, _) = registry.ask("PUT", &target, &[], b"two").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(registry.targets("push"), [blob("app", &digest, 7)]);
}

#[tokio::test]
async fn what_is_read_is_told() {
    let registry = Registry::new(false);
    let digest = registry.push_blob("app", b"{}").await;
    let manifest_bytes = manifest_of(&digest);
    registry.push_manifest("app", "v1", &manifest_bytes).await;
    registry.told.take();

    let target = format!("/v2/app/blobs/{digest}");
    registry.ask("GET", &target, &[], b"").await;
    registry.ask("HEAD", &target, &[], b"").await;
    registry
        .ask("GET", &target, &[("range", "bytes=0-0")], b"")
        .await;
    registry
        .ask("GET", &target, &[("range", "bytes=0-0,1-1")], b"")
        .await;
    assert_eq!(registry.targets("pull"), vec![blob("app", &digest, 2); 4]);

    let by_digest = format!("/v2/app/manifests/{}", Digest::sha256(&manifest_bytes));
    registry.ask("GET", "/v2/app/manifests/v1", &[], b"").await;
    registry.ask("HEAD", "/v2/app/manifests/v1", &[], b"").await;
    let (_, headers) = registry.ask("GET", &by_digest, &[], b"").await;
    let tagged = manifest("app", &manifest_bytes, Some("v1"));
    let untagged = manifest("app", &manifest_bytes, None);
    assert_eq!(registry.targets("pull"), [tagged.clone(), tagged, untagged]);

    // Neither what the client has, nor what is not there, nor lists.
    let etag = headers["etag"].to_str().unwrap();
    let same = [("if-none-match", etag)];
    let (status, _) = registry.ask("GET", &by_digest, &same, b"").await;
    assert_eq!(status, StatusCode::NOT_MODIFIED);
    registry
        .ask("GET", "/v2/app/manifests/none", &[], b"")
        .await;
    registry.ask("GET", "/v2/app/tags/list", &[], b"").await;
    assert_eq!(registry.targets("pull"), [] as [Value; 0]);
}

#[tokio::test]
async fn manifests_are_pushed_by_tag_and_by_digest() {
    let registry = Registry::new(false);
    let config = registry.push_blob("app", b"{}").await;
    registry.told.take();
    let bytes = manifest_of(&config);
    let digest = Digest::sha256(&bytes).to_string();
    for (reference, tags) in [
        ("v1", vec![Some("v1")]),
        (digest.as_str(), vec![None]),
        (
            &format!("{digest}?tag=v2&tag=v3"),
            vec![Some("v2"), Some("v3")],
        ),
    ] {
        let status = registry.push_manifest("app", reference, &bytes).await;
        assert_eq!(status, StatusCode::CREATED);
        let events = registry.told.take();
        let found: Vec<_> = events.iter().map(|event| event["target"].clone()).collect();
        let expected: Vec<_> = tags
            .iter()
            .map(|tag| manifest("app", &bytes, *tag))
            .collect();
        assert_eq!(found, expected);
        let mut ids: Vec<_> = events.iter().map(|event| event["id"].to_string()).collect();
        ids.dedup();
        assert_eq!(ids.len(), tags.len(), "each event has an id of its own");
    }
    let missing = manifest_of(&Digest::sha256(b"missing").to_string());
    let status = registry.push_manifest("app", "v4", &missing).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(registry.targets("push"), [] as [Value; 0]);
}

#[tokio::test]
async fn references_are_told_where_they_are_asked_for() {
    let registry = Registry::new(true);
    let config = registry.push_blob("app", b"{}").await;
    let bytes = manifest_of(&config);
    registry.push_manifest("app", "v1", &bytes).await;
    registry.ask("GET", "/v2/app/manifests/v1", &[], b"").await;
    let events = registry.told.take();
    let references = json!([{"mediaType": CONFIG, "size": 2, "digest": config}]);
    assert_eq!(events[1]["target"]["references"], references);
    assert_eq!(events[2]["target"]["references"], references);
    assert_eq!(events[2]["action"], "pull");
}

#[tokio::test]
async fn a_mount_names_where_the_blob_came_from() {
    let registry = Registry::new(false);
    let digest = registry.push_blob("base", b"layer").await;
    registry.told.take();
    let target = format!("/v2/app/blobs/uploads/?mount={digest}&from=base");
    let mut expected = blob("app", &digest, 5);
    expected["fromRepository"] = "base".into();
    // The second time it is there already; the client may not have had the first answer.
    for _ in 0..2 {
        let (status, _) = registry.ask("POST", &target, &[], b"").await;
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(registry.targets("mount"), std::slice::from_ref(&expected));
    }
    let none = format!(
        "/v2/app/blobs/uploads/?mount={}&from=base",
        Digest::sha256(b"none")
    );
    let (status, _) = registry.ask("POST", &none, &[], b"").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(registry.targets("mount"), [] as [Value; 0]);
}

#[tokio::test]
async fn a_deletion_names_what_is_gone_and_no_more() {
    let registry = Registry::new(false);
    let blob = registry.push_blob("app", b"{}").await;
    let bytes = manifest_of(&blob);
    let digest = Digest::sha256(&bytes).to_string();
    for tag in ["v1", "v2"] {
        registry.push_manifest("app", tag, &bytes).await;
    }
    registry.told.take();
    registry
        .ask("DELETE", "/v2/app/manifests/v2", &[], b"")
        .await;
    let expected = [json!({"repository": "app", "tag": "v2"})];
    assert_eq!(registry.targets("delete"), expected);

    let target = format!("/v2/app/manifests/{digest}");
    registry.ask("DELETE", &target, &[], b"").await;
    let expected = [
        json!({"repository": "app", "digest": digest}),
        json!({"repository": "app", "tag": "v1"}),
    ];
    assert_eq!(registry.targets("delete"), expected);

    let target = format!("/v2/app/blobs/{blob}");
    registry.ask("DELETE", &target, &[], b"").await;
    let expected = [json!({"repository": "app", "digest": blob})];
    assert_eq!(registry.targets("delete"), expected);
    let (status, _) = registry.ask("DELETE", &target, &[], b"").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(registry.targets("delete"), [] as [Value; 0]);
}

#[tokio::test]
async fn what_cannot_be_told_is_not_done() {
    let registry = Registry::new(false);
    let config = registry.push_blob("app", b"{}").await;
    let bytes = manifest_of(&config);
    registry.push_manifest("app", "v1", &bytes).await;
    let layer = registry.push_blob("base", b"layer").await;
    let (_, headers) = registry
        .ask("POST", "/v2/app/blobs/uploads/", &[], b"")
        .await;
    let session = headers["location"].to_str().unwrap();
    registry.told.take();

    registry
        .told
        .failing
        .store(ADMITS_NOTHING, Ordering::Relaxed);
    let other = Digest::sha256(b"other");
    let json = [("content-type", MANIFEST)];
    let refused = [
        (
            "POST",
            format!("/v2/app/blobs/uploads/?digest={other}"),
            &b"other"[..],
        ),
        ("PUT", format!("{session}?digest={other}"), b"other"),
        (
            "POST",
            format!("/v2/app/blobs/uploads/?mount={layer}&from=base"),
            b"",
        ),
        ("PUT", "/v2/app/manifests/v2".to_owned(), &bytes),
        ("DELETE", "/v2/app/manifests/v1".to_owned(), b""),
        (
            "DELETE",
            format!("/v2/app/manifests/{}", Digest::sha256(&bytes)),
            b"",
        ),
        ("DELETE", format!("/v2/base/blobs/{layer}"), b""),
    ];
    for (method, target, body) in &refused {
        let (status, headers) = registry.ask(method, target, &json, body).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{method} {target}");
        assert!(headers.contains_key("retry-after"));
    }
    // Reads go on, and nothing has changed.
    for (target, expected) in [
        (format!("/v2/app/blobs/{other}"), StatusCode::NOT_FOUND),
        (format!("/v2/app/blobs/{layer}"), StatusCode::NOT_FOUND),
        (format!("/v2/base/blobs/{layer}"), StatusCode::OK),
        ("/v2/app/manifests/v2".to_owned(), StatusCode::NOT_FOUND),
        ("/v2/app/manifests/v1".to_owned(), StatusCode::OK),
    ] {
        assert_eq!(
            registry.ask("GET", &target, &[], b"").await.0,
            expected,
            "{target}"
        );
    }
    // When there is room again, what was refused can be done, the session's end too.
    registry.told.failing.store(0, Ordering::Relaxed);
    for (method, target, body) in &refused {
        let (status, _) = registry.ask(method, target, &json, body).await;
        assert!(status.is_success(), "{method} {target}: {status}");
    }
}

#[tokio::test]
async fn what_was_not_written_down_is_not_acknowledged() {
    let registry = Registry::new(false);
    registry
        .told
        .failing
        .store(RECORDS_NOTHING, Ordering::Relaxed);
    let digest = Digest::sha256(b"layer");
    let target = format!("/v2/app/blobs/uploads/?digest={digest}");
    let (status, _) = registry.ask("POST", &target, &[], b"layer").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    registry.told.failing.store(0, Ordering::Relaxed);
    let (status, _) = registry.ask("POST", &target, &[], b"layer").await;
    assert_eq!(status, StatusCode::CREATED);
    let expected = [blob("app", &digest.to_string(), 5)];
    assert_eq!(registry.targets("push"), expected);
}

#[tokio::test]
async fn a_push_arrives_at_the_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let options = NotifierOptions::default().with_folder(folder.path().to_owned());
    let notifier = Arc::new(notifier(options, vec![endpoint("a", &receiver.url())]).await);
    let service = service(Events::new(notifier.clone(), source()), AllowAll);
    let digest = Digest::sha256(b"layer");
    let target = format!("/v2/app/blobs/uploads/?digest={digest}");
    let pushes = (0..20).map(|_| ask(&service, "POST", &target, &[], b"layer"));
    for (status, _) in futures::future::join_all(pushes).await {
        assert_eq!(status, StatusCode::CREATED);
    }
    until("all arrived", || receiver.taken().len() == 20).await;
    let mut ids = receiver.taken_ids();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert_eq!(receiver.taken()[0].target.digest, Some(digest));
    let stats = notifier.stats().outbox;
    assert_eq!(stats.recorded, 20);
    assert!((1..=20).contains(&stats.syncs));
}
