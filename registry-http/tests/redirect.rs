//! Clients are sent elsewhere for blobs, once all is known that only the registry can know

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use registry_auth::{AllowAll, Anyone, Authorizer, RuleList};
use registry_core::Digest;
use registry_core::event::{Event, EventAction, SourceRecord};
use registry_http::service::Builder;
use registry_http::{
    AccessRecord, BlobRedirect, BlobRedirectError, EventSink, EventSinkError, Events, Observer,
    RegistryService, RemoteAddr, WantedBlob,
};
use registry_storage::{Memory, Store};
use tower_service::Service;

const CONTENT: &[u8] = b"0123456789";

/// What a redirector is to say
#[derive(Clone, Copy, Debug)]
enum Mood {
    Knows,
    KnowsNot,
    Fails,
    Hangs,
    SaysAPath,
}

#[derive(Debug)]
struct Elsewhere {
    mood: Mood,
    asked: Mutex<Vec<(String, u64, Option<IpAddr>)>>,
}

#[async_trait]
impl BlobRedirect for Elsewhere {
    async fn location(&self, blob: &WantedBlob<'_>) -> Result<Option<Uri>, BlobRedirectError> {
        let asked = (blob.name.to_string(), blob.size, blob.client);
        self.asked.lock().unwrap().push(asked);
        match self.mood {
            Mood::Knows => Ok(Some(
                format!("https://else.where/{}?sig=1", blob.digest)
                    .parse()
                    .unwrap(),
            )),
            Mood::KnowsNot => Ok(None),
            Mood::Fails => Err(BlobRedirectError::new("no credentials")),
            Mood::Hangs => std::future::pending().await,
            Mood::SaysAPath => Ok(Some("/v2/elsewhere".parse().unwrap())),
        }
    }
}

/// Everything that was told
#[derive(Debug, Default)]
struct Told {
    events: Mutex<Vec<Event>>,
    records: Mutex<Vec<AccessRecord>>,
}

#[async_trait]
impl EventSink for Told {
    async fn admit(&self) -> Result<(), EventSinkError> {
        Ok(())
    }

    async fn record(&self, events: Vec<Event>) -> Result<(), EventSinkError> {
        self.events.lock().unwrap().extend(events);
        Ok(())
    }

    fn notice(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl Observer for Told {
    fn finished(&self, record: &AccessRecord) {
        self.records.lock().unwrap().push(record.clone());
    }
}

struct Registry {
    service: RegistryService,
    elsewhere: Arc<Elsewhere>,
    told: Arc<Told>,
    digest: Digest,
}

impl Registry {
    /// One that has `CONTENT` as a blob and as a manifest of `a`
    async fn start(mood: Mood) -> Self {
        Self::start_with(mood, Arc::new(AllowAll), |builder| builder).await
    }

    async fn start_with(
        mood: Mood,
        authorizer: Arc<dyn Authorizer>,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let store = Store::new(Arc::new(Memory::new()));
        let digest = Digest::sha256(CONTENT);
        let open = RegistryService::builder(store.clone(), Arc::new(Anyone), Arc::new(AllowAll));
        let push = Request::post(format!("/v2/a/blobs/uploads/?digest={digest}"))
            .body(Full::from(CONTENT))
            .unwrap();
        let pushed = open.build().call(push).await.unwrap();
        assert_eq!(pushed.status(), StatusCode::CREATED);

        let elsewhere = Arc::new(Elsewhere {
            mood,
            asked: Mutex::default(),
        });
        let told = Arc::new(Told::default());
        let source = SourceRecord {
            addr: "h:1".to_owned(),
            instance_id: "i".to_owned(),
        };
        let builder = RegistryService::builder(store, Arc::new(Anyone), authorizer)
            .redirects(elsewhere.clone())
            .observer(told.clone())
            .events(Events::new(told.clone(), source));
        Self {
            service: configure(builder).build(),
            elsewhere,
            told,
            digest,
        }
    }

    async fn ask(
        &self,
        method: &str,
        repository: &str,
        headers: &[(&str, &str)],
    ) -> Response<Bytes> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v2/{repository}/blobs/{}", self.digest));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.call(request.body(Full::default()).unwrap()).await
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let response = self.service.clone().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response::from_parts(parts, body)
    }

    fn was_asked(&self) -> bool {
        !self.elsewhere.asked.lock().unwrap().is_empty()
    }
}

#[tokio::test]
async fn a_blob_is_elsewhere() {
    let registry = Registry::start(Mood::Knows).await;
    let response = registry.ask("GET", "a", &[]).await;
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    let headers = response.headers();
    let digest = registry.digest.to_string();
    let expected = [
        ("location", format!("https://else.where/{digest}?sig=1")),
        ("docker-content-digest", digest),
        ("cache-control", "no-store".to_owned()),
        ("content-length", "0".to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key(header::ETAG), "{headers:?}");
    assert_eq!(*response.body(), "");
    let asked = registry.elsewhere.asked.lock().unwrap().clone();
    assert_eq!(asked, [("a".to_owned(), 10, None)]);
}

#[tokio::test]
async fn a_part_is_elsewhere_too() {
    let registry = Registry::start(Mood::Knows).await;
    for range in ["bytes=0-0", "bytes=5-", "bytes=-3", "nonsense"] {
        let response = registry.ask("GET", "a", &[("range", range)]).await;
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT, "{range}");
        assert_eq!(*response.body(), "", "{range}");
    }
}

#[tokio::test]
async fn what_no_store_can_answer_as_well_is_answered_here() {
    let registry = Registry::start(Mood::Knows).await;
    let tag = format!("\"{}\"", registry.digest);
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, Option<&'a [u8]>);
    let table: [Row<'_>; 8] = [
        ("HEAD", &[], 200, Some(b"")),
        ("HEAD", &[("range", "bytes=0-0")], 200, Some(b"")),
        ("GET", &[("if-none-match", &tag)], 304, Some(b"")),
        (
            "GET",
            &[("if-none-match", "*"), ("range", "bytes=1-")],
            304,
            Some(b""),
        ),
        (
            "GET",
            &[("range", "bytes=0-1"), ("if-range", &tag)],
            206,
            Some(b"01"),
        ),
        (
            "GET",
            &[("range", "bytes=0-1"), ("if-range", "\"x\"")],
            200,
            Some(CONTENT),
        ),
        ("GET", &[("range", "bytes=0-0,4-5")], 206, None),
        ("GET", &[("range", "bytes=10-")], 416, None),
    ];
    for (method, headers, status, body) in table {
        let response = registry.ask(method, "a", headers).await;
        assert_eq!(response.status(), status, "{method} {headers:?}");
        assert!(!response.headers().contains_key(header::LOCATION));
        if let Some(body) = body {
            assert_eq!(*response.body(), body, "{method} {headers:?}");
        }
        if status == 200 {
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "10");
        }
    }
    assert!(!registry.was_asked());
}

#[tokio::test]
async fn who_may_not_read_a_blob_does_not_learn_where_it_is() {
    let registry = Registry::start(Mood::Knows).await;
    // In no repository but `a`, and none of the content.
    let response = registry.ask("GET", "b", &[]).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(!registry.was_asked());

    let rules = r#"{"rules": [{"name": "none", "effect": "allow", "subjects": ["user:x"],
        "repositories": ["b"], "actions": ["pull"]}]}"#;
    let nobody: Arc<RuleList> = Arc::new(serde_json::from_str(rules).unwrap());
    let registry = Registry::start_with(Mood::Knows, nobody, |builder| builder).await;
    let response = registry.ask("GET", "a", &[]).await;
    assert!(response.status().is_client_error(), "{response:?}");
    assert!(!response.headers().contains_key(header::LOCATION));
    assert!(!registry.was_asked());
}

#[tokio::test(start_paused = true)]
async fn a_blob_is_sent_from_here_when_nobody_knows_better() {
    for mood in [Mood::KnowsNot, Mood::Fails, Mood::Hangs, Mood::SaysAPath] {
        let registry = Registry::start(mood).await;
        let response = registry.ask("GET", "a", &[]).await;
        assert_eq!(response.status(), StatusCode::OK, "{mood:?}");
        assert_eq!(*response.body(), CONTENT, "{mood:?}");
        let response = registry.ask("GET", "a", &[("range", "bytes=3-4")]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{mood:?}");
        assert_eq!(*response.body(), "34", "{mood:?}");
        assert!(registry.was_asked());
    }
}

#[tokio::test]
async fn nobody_waits_long_for_an_address() {
    tokio::time::pause();
    let registry = Registry::start(Mood::Hangs).await;
    let begin = tokio::time::Instant::now();
    registry.ask("GET", "a", &[]).await;
    assert!(
        begin.elapsed() <= Duration::from_secs(6),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn a_manifest_is_never_elsewhere() {
    let registry = Registry::start(Mood::Knows).await;
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let put = Request::put("/v2/a/manifests/v1")
        .header("content-type", "application/vnd.oci.image.index.v1+json")
        .body(Full::from(manifest))
        .unwrap();
    assert_eq!(registry.call(put).await.status(), StatusCode::CREATED);
    let digest = Digest::sha256(manifest.as_bytes());
    for path in ["manifests/v1".to_owned(), format!("manifests/{digest}")] {
        let get = Request::get(format!("/v2/a/{path}")).body(Full::default());
        let response = registry.call(get.unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(*response.body(), manifest);
    }
    assert!(!registry.was_asked());
}

#[tokio::test]
async fn a_redirect_is_a_pull_and_sends_nothing() {
    let registry = Registry::start(Mood::Knows).await;
    registry.ask("GET", "a", &[]).await;
    let events = registry.told.events.lock().unwrap();
    let [event] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(event.action, EventAction::Pull);
    assert_eq!(event.target.digest, Some(registry.digest));
    assert_eq!(event.target.size, 10);
    let records = registry.told.records.lock().unwrap();
    let [record] = &records[..] else {
        panic!("{records:?}");
    };
    let facts = (record.status.as_u16(), record.bytes, record.complete);
    assert_eq!(facts, (307, 0, true));
}

#[tokio::test]
async fn who_asks_is_told_as_far_as_a_trusted_proxy_says_it() {
    let registry = Registry::start(Mood::Knows).await;
    for (peer, client) in [
        ("127.0.0.1:9", "192.0.2.7"),
        ("198.51.100.4:9", "198.51.100.4"),
    ] {
        let mut get = Request::get(format!("/v2/a/blobs/{}", registry.digest))
            .header("x-forwarded-for", "192.0.2.7")
            .body(Full::default())
            .unwrap();
        get.extensions_mut()
            .insert(RemoteAddr(peer.parse().unwrap()));
        registry.call(get).await;
        let asked = registry.elsewhere.asked.lock().unwrap().pop().unwrap();
        assert_eq!(asked.2, Some(client.parse().unwrap()));
    }
}
