//! What an operator can forbid: changes, long lists, and layers from elsewhere

use std::num::NonZeroUsize;

use registry_http::ManifestUrls;
use serde_json::{Value, json};

use crate::support::{
    Blob, DOCKER_FOREIGN_LAYER, DOCKER_MANIFEST, LAYER, Login, MANIFEST, NOBODY, Registry, Rules,
    basic, descriptor, docker_image, image, pretty, strings,
};

#[tokio::test]
async fn a_read_only_registry_reads() {
    let setup = Registry::setup().with(|builder| builder.read_only(true));
    let registry = setup.start().await;
    // What was pushed before, by a registry on the same storage.
    let blob = Blob::new("content");
    let hex = blob.digest.strip_prefix("sha256:").unwrap();
    let root = "docker/registry/v2";
    let data = format!("{root}/blobs/sha256/{}/{hex}/data", &hex[..2]);
    registry.plant(&data, blob.bytes.clone()).await;
    let link = format!("{root}/repositories/a/_layers/sha256/{hex}/link");
    registry.plant(&link, blob.digest.clone()).await;
    registry.get("/v2/").send().await.expect(200);
    registry.get("/v2/_catalog").send().await.expect(200);
    let response = registry.get(format!("/v2/a/blobs/{}", blob.digest));
    assert_eq!(response.send().await.expect(200).body, blob.bytes);

    let session = "/v2/a/blobs/uploads/8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11";
    let before = registry.everything().await;
    for (method, target, allow) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned(), ""),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?digest={}", blob.digest),
            "",
        ),
        (
            "POST",
            format!("/v2/b/blobs/uploads/?mount={}&from=a", blob.digest),
            "",
        ),
        ("PATCH", session.to_owned(), "GET, HEAD"),
        (
            "PUT",
            format!("{session}?digest={}", blob.digest),
            "GET, HEAD",
        ),
        ("DELETE", session.to_owned(), "GET, HEAD"),
        ("PUT", "/v2/a/manifests/v1".to_owned(), "GET, HEAD"),
        ("DELETE", "/v2/a/manifests/v1".to_owned(), "GET, HEAD"),
        (
            "DELETE",
            format!("/v2/a/blobs/{}", blob.digest),
            "GET, HEAD",
        ),
    ] {
        let request = registry.request(method, &target).body(&blob.bytes);
        let response = request.send().await;
        let message = response.refused(405, "UNSUPPORTED");
        assert!(message.contains("read-only for maintenance"), "{message}");
        assert_eq!(response.header("Allow"), allow, "{method} {target}");
    }
    assert_eq!(registry.everything().await, before);
    // A session is looked at, not for.
    let response = registry.get(session).send().await;
    response.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_read_only_registry_still_asks_who_is_there() {
    let setup = Registry::setup()
        .authenticator(Login::ada())
        .policy(Rules(|principal, _| principal.name() == Some("ada")))
        .with(|builder| builder.read_only(true));
    let registry = setup.start().await;
    let post = || registry.post("/v2/a/blobs/uploads/");
    let response = post().send().await;
    response.refused(401, "UNAUTHORIZED");
    let response = post().header("Authorization", basic("ada", "love:lace"));
    response.send().await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn the_catalog_is_as_long_as_the_operator_allows() {
    let limit = NonZeroUsize::new(2).unwrap();
    let setup = Registry::setup().with(move |builder| builder.catalog_limit(limit));
    let registry = setup.start().await;
    for name in ["a", "b", "c", "d", "e"] {
        registry.push_image(name, "v1", "x").await;
    }
    for query in ["", "?n=100"] {
        let mut names = Vec::new();
        let mut target = Some(format!("/v2/_catalog{query}"));
        while let Some(next) = target {
            let response = registry.get(next).send().await.expect(200);
            let page = strings(&response.json()["repositories"]);
            assert!(page.len() <= 2, "{page:?}");
            names.extend(page);
            target = response.find("Link").map(|link| {
                let (path, _) = link.trim_start_matches('<').split_once('>').unwrap();
                path.to_owned()
            });
        }
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }
    let response = registry.get("/v2/_catalog?n=1").send().await.expect(200);
    assert_eq!(response.json(), json!({ "repositories": ["a"] }));
}

const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";

/// An image whose one layer is to be had from `urls`
fn elsewhere(media_type: &str, urls: &[&str]) -> (&'static str, Value) {
    let config = Blob::empty();
    let (of_image, mut manifest) = match media_type {
        DOCKER_FOREIGN_LAYER => (DOCKER_MANIFEST, docker_image(&config, &[])),
        _ => (MANIFEST, image(&config, &[])),
    };
    let mut layer = descriptor(media_type, NOBODY, 12345);
    layer["urls"] = json!(urls);
    manifest["layers"] = json!([layer]);
    (of_image, manifest)
}

#[tokio::test]
async fn layers_come_only_from_where_the_operator_allows() {
    let setup = Registry::setup().with(|builder| {
        let urls = ManifestUrls::new(
            [r"^https?://layers\.example/", "^https://mirror/"],
            ["/secret/"],
        );
        builder.manifest_urls(urls.unwrap())
    });
    let registry = setup.start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let good = "https://layers.example/x";
    for media_type in [NONDISTRIBUTABLE, DOCKER_FOREIGN_LAYER] {
        for urls in [&[good][..], &[good, "https://mirror/x"], &[]] {
            let (_, manifest) = elsewhere(media_type, urls);
            registry.push_manifest("a", "v1", &manifest).await;
        }
        for bad in [
            "https://elsewhere.example/x",
            "https://layers.example/secret/x",
            "https://layers.example/x#part",
            "file:///etc/passwd",
            "no url",
        ] {
            let (of_image, manifest) = elsewhere(media_type, &[good, bad]);
            let request = registry.put_manifest("a", "v2", of_image, &pretty(&manifest));
            let message = request.send().await.refused(400, "MANIFEST_INVALID");
            assert!(message.contains(&format!("`{bad}`")), "{message}");
            assert!(message.contains(NOBODY), "{message}");
        }
    }
    // A layer that is here may not send anybody elsewhere either.
    let layer = Blob::new("layer");
    registry.push_blob("a", &layer).await;
    let mut manifest = image(&Blob::empty(), &[&layer]);
    manifest["layers"][0]["urls"] = json!(["https://elsewhere.example/x"]);
    assert_eq!(manifest["layers"][0]["mediaType"], LAYER);
    let request = registry.put_manifest("a", "v2", MANIFEST, &pretty(&manifest));
    request.send().await.refused(400, "MANIFEST_INVALID");
    assert_eq!(registry.tags("a").await, ["v1"]);
}

#[tokio::test]
async fn without_rules_any_address_is_taken() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let (_, manifest) = elsewhere(NONDISTRIBUTABLE, &["https://anywhere.example/x"]);
    registry.push_manifest("a", "v1", &manifest).await;
}
