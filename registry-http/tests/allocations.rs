//! How often the requests that pulls are made of ask the allocator for memory
//!
//! A request that every client sends thousands of times is to cost what it has to: an allocation
//! that creeps in shows here, with the request that got it. Each number is the most that there may
//! be, on a store in memory, in a process that does not log.

use std::sync::Arc;

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::service::Service;
use registry_auth::{AllowAll, Anyone};
use registry_core::manifest::Limits;
use registry_core::upload::ChunkHeader;
use registry_core::{Algorithm, Digest, Manifest, RepositoryName, Tag};
use registry_http::{AccessRecord, Observer, RegistryService};
use registry_storage::{Memory, Store};
use tokio::runtime::{Builder, Runtime};

#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn finished(&self, _: &AccessRecord) {}
}

struct Registry {
    /// Of one thread, which is the one that is counted
    runtime: Runtime,
    service: RegistryService,
    manifest: Digest,
    blob: Digest,
}

impl Registry {
    /// With one blob, and one manifest with a tag
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let store = Store::new(Arc::new(Memory::new()));
        let name = RepositoryName::try_from("team/app").unwrap();
        let content = "hello";
        let blob = Digest::sha256(content.as_bytes());
        let text = r#"{"schemaVersion": 2, "manifests": [],
            "mediaType": "application/vnd.oci.image.index.v1+json"}"#;
        let manifest = Digest::sha256(text.as_bytes());
        runtime.block_on(async {
            let mut upload = store.start_upload(&name, Algorithm::Sha256).await.unwrap();
            let body = futures::stream::iter([Ok::<_, std::io::Error>(content.into())]);
            upload.append(ChunkHeader::default(), body).await.unwrap();
            upload.complete(blob).await.unwrap();
            let index = Manifest::parse(text.into(), None, &Limits::default()).unwrap();
            let tags = [Tag::try_from("v1").unwrap()];
            let put = store.put_manifest(&name, &index, manifest, &tags);
            put.await.unwrap();
        });
        let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
            .observer(Arc::new(Nobody))
            .build();
        Self {
            runtime,
            service,
            manifest,
            blob,
        }
    }

    /// Asks, and reads the answer to its end
    fn ask(&self, request: Request<Empty<Bytes>>) {
        self.runtime.block_on(async {
            let response = self.service.call(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        });
    }

    /// How many allocations a request makes, once it has been made before
    fn count(&self, method: &str, path: &str) -> u64 {
        let request = || {
            Request::builder()
                .method(method)
                .uri(path)
                .header("host", "registry.example")
                .header("user-agent", "docker/27.0")
                .header("x-request-id", "r-1")
                .body(Empty::new())
                .unwrap()
        };
        for _ in 0..3 {
            self.ask(request());
        }
        let asked = request();
        measure(|| self.ask(asked)).count_total
    }
}

#[test]
fn requests_of_pulls_make_few_allocations() {
    let registry = Registry::new();
    let (manifest, blob) = (registry.manifest, registry.blob);
    let mut over = Vec::new();
    for (method, path, most) in [
        ("GET", format!("/v2/team/app/manifests/{manifest}"), 30),
        ("GET", "/v2/team/app/manifests/v1".to_owned(), 39),
        ("HEAD", format!("/v2/team/app/blobs/{blob}"), 36),
        ("GET", format!("/v2/team/app/blobs/{blob}"), 40),
    ] {
        let count = registry.count(method, &path);
        if count > most {
            over.push(format!("{method} {path}: {count}, more than {most}"));
        }
    }
    assert!(over.is_empty(), "allocations: {over:#?}");
}
