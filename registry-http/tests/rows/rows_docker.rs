//! Rules D1 to D13: what clients know from Docker's registry API

use serde_json::{Value, json};

use super::support::*;

#[tokio::test]
async fn row_d01_every_response_names_the_api_version() {
    let registry = Registry::setup().authenticator(Login::ada()).start().await;
    // `send` looks for the header in every response; here are the ones that matter most, and
    // those that are made far from each other.
    registry.get("/v2/").send().await.expect(401);
    registry
        .get("/v2/")
        .header("Authorization", basic("ada", "love:lace"))
        .header("Docker-Distribution-API-Version", "registry/2.0")
        .send()
        .await
        .expect(200);
    registry.head("/v2/a/tags/list").send().await.expect(404);
    registry.get("/").send().await.expect(200);
    registry.get("/favicon.ico").send().await.expect(404);
    registry.delete("/v2/").send().await.expect(405);
    let location = registry.start_upload("a").await;
    registry.get(&location).send().await.expect(204);
    let request = registry.patch(&location).header("Content-Range", "5-6");
    request.body("xy").send().await.expect(416);
    registry.put(&location).send().await.expect(400);

    let mut client = Http2::open(registry.address()).await;
    let request = http::Request::get("http://registry.test/v2/nowhere")
        .body(http_body_util::Empty::new())
        .unwrap();
    let (status, headers, _) = client.send(request).await;
    assert_eq!(status, 404);
    assert_eq!(headers["docker-distribution-api-version"], "registry/2.0");
}

#[tokio::test]
async fn row_d02_the_ping_is_an_empty_object_and_slashes_at_the_end_do_not_matter() {
    let registry = Registry::start().await;
    for target in ["/v2/", "/v2"] {
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.text(), "{}");
        assert_eq!(response.header("Content-Type"), "application/json");
        assert_eq!(response.header("Content-Length"), "2");
    }
    let target = "/v2/a/blobs/uploads";
    let location = registry.post(target).send().await.expect(202).location();
    registry.get(location).send().await.expect(204);
}

#[tokio::test]
async fn row_d03_the_content_digest_is_where_clients_look_for_it() {
    let registry = Registry::start().await;
    let bytes = noise("x", 1000);
    let digest_of = |response: &Response| response.header("Docker-Content-Digest").to_owned();
    for digest in [sha256(&bytes), sha512(&bytes)] {
        let location = registry.start_upload("a").await;
        let target = format!("{location}?digest={digest}");
        let response = registry.put(target).body(&bytes).send().await.expect(201);
        assert_eq!(digest_of(&response), digest);
        let target = format!("/v2/b/blobs/uploads/?digest={digest}");
        let response = registry.post(target).body(&bytes).send().await.expect(201);
        assert_eq!(digest_of(&response), digest);
        let target = format!("/v2/c/blobs/uploads/?mount={digest}&from=a");
        let response = registry.post(target).send().await.expect(201);
        assert_eq!(digest_of(&response), digest);
        for method in ["GET", "HEAD"] {
            let target = format!("/v2/c/blobs/{digest}");
            let response = registry.request(method, &target).send().await.expect(200);
            assert_eq!(digest_of(&response), digest);
        }
    }
    let manifest = pretty(&index(&[]));
    for digest in [sha256(&manifest), sha512(&manifest)] {
        let reference = format!("{digest}?tag=v1");
        let request = registry.put_manifest("a", reference, INDEX, &manifest);
        let response = request.send().await.expect(201);
        assert_eq!(digest_of(&response), digest);
        for reference in ["v1", &digest] {
            for method in ["GET", "HEAD"] {
                let target = format!("/v2/a/manifests/{reference}");
                let response = registry.request(method, target).send().await.expect(200);
                assert_eq!(digest_of(&response), digest);
            }
        }
    }
}

#[tokio::test]
async fn row_d04_answers_about_a_session_name_it() {
    let registry = Registry::start().await;
    let response = registry
        .post("/v2/a/blobs/uploads/")
        .send()
        .await
        .expect(202);
    let id = response.header("Docker-Upload-UUID").to_owned();
    let location = response.location();
    assert!(location.contains(&id), "{location}");
    for (request, status) in [
        (registry.patch(&location).body("content"), 202),
        (registry.get(&location), 204),
        (
            registry
                .patch(&location)
                .header("Content-Range", "1-1")
                .body("x"),
            416,
        ),
        (registry.delete(&location), 204),
    ] {
        let response = request.send().await.expect(status);
        assert_eq!(response.header("Docker-Upload-UUID"), id);
    }
}

#[tokio::test]
async fn row_d05_the_range_of_a_session_is_two_numbers_in_order() {
    let registry = Registry::start().await;
    let response = registry
        .post("/v2/a/blobs/uploads/")
        .send()
        .await
        .expect(202);
    assert_eq!(response.header("Range"), "0-0");
    assert_eq!(response.header("Content-Length"), "0");
    let location = response.location();
    for (body, range) in [("", "0-0"), ("x", "0-0"), ("yz", "0-2")] {
        let response = registry
            .patch(&location)
            .body(body)
            .send()
            .await
            .expect(202);
        assert_eq!(response.header("Range"), range);
        assert_eq!(response.header("Content-Length"), "0");
        let response = registry.get(&location).send().await.expect(204);
        assert_eq!(response.header("Range"), range);
    }
    let target = format!("{location}?digest={}", sha256(b"xyz"));
    let response = registry.put(target).send().await.expect(201);
    assert_eq!(response.header("Content-Length"), "0");
    // A mount that became a session is one, too.
    let target = format!("/v2/a/blobs/uploads/?mount={NOBODY}&from=b");
    let response = registry.post(target).send().await.expect(202);
    assert_eq!(response.header("Range"), "0-0");
}

#[tokio::test]
async fn row_d06_types_of_docker_are_kept_and_schema_1_is_refused() {
    let registry = Registry::start().await;
    let config = Blob::new("config");
    let layer = Blob::new("layer");
    registry.push_blob("a", &config).await;
    registry.push_blob("a", &layer).await;
    let plain = docker_image(&config, &[&layer]);
    let mut foreign = plain.clone();
    let mut elsewhere = descriptor(DOCKER_FOREIGN_LAYER, NOBODY, 12345);
    elsewhere["urls"] = json!(["https://example.org/layer"]);
    foreign["layers"]
        .as_array_mut()
        .unwrap()
        .insert(0, elsewhere);
    let mut plugin = plain.clone();
    plugin["config"]["mediaType"] = "application/vnd.docker.plugin.v1+json".into();
    let bytes = pretty(&plain);
    registry.push_manifest("a", "child", &plain).await;
    let mut child = descriptor(DOCKER_MANIFEST, &sha256(&bytes), bytes.len());
    child["platform"] = json!({"architecture": "amd64", "os": "linux", "features": ["sse4"]});
    let list = docker_list(&[child]);
    for manifest in [plain, foreign, plugin, list] {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let (digest, bytes) = registry.push_manifest("a", "v1", &manifest).await;
        for reference in ["v1", &digest] {
            let target = format!("/v2/a/manifests/{reference}");
            let response = registry.get(target).send().await.expect(200);
            assert_eq!(response.header("Content-Type"), media_type);
            assert_eq!(response.body, bytes);
        }
    }

    let schema1 = json!({
        "schemaVersion": 1, "name": "a", "tag": "v1", "architecture": "amd64",
        "fsLayers": [{"blobSum": layer.digest}], "history": [{"v1Compatibility": "{}"}],
    });
    let before = registry.everything().await;
    for suffix in ["json", "prettyjws"] {
        let media_type = format!("application/vnd.docker.distribution.manifest.v1+{suffix}");
        let message = registry
            .put_manifest("a", "old", &media_type, &pretty(&schema1))
            .send()
            .await
            .refused(400, "MANIFEST_INVALID");
        assert!(message.contains("schema"), "{message}");
    }
    let request = registry.put("/v2/a/manifests/old").body(pretty(&schema1));
    request.send().await.refused(400, "MANIFEST_INVALID");
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_d07_the_stored_type_is_served_whatever_is_accepted() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "image", "x").await;
    let child = descriptor(DOCKER_MANIFEST, &image.digest, image.bytes.len());
    registry
        .push_manifest("a", "docker", &docker_image(&image.config, &[]))
        .await;
    registry
        .push_manifest("a", "list", &docker_list(&[child]))
        .await;
    for (tag, media_type) in [
        ("image", MANIFEST),
        ("docker", DOCKER_MANIFEST),
        ("list", DOCKER_LIST),
    ] {
        let target = format!("/v2/a/manifests/{tag}");
        let plain = registry.get(&target).send().await.expect(200);
        assert_eq!(plain.header("Content-Type"), media_type);
        for accept in [
            vec!["*/*"],
            vec!["application/json"],
            vec![MANIFEST, DOCKER_LIST],
            vec!["application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5, text/html"],
            vec!["Application/VND.oci.image.manifest.V1+json;q=0"],
            vec![""],
            vec![",;="],
        ] {
            for method in ["GET", "HEAD"] {
                let mut request = registry.request(method, &target);
                for line in &accept {
                    request = request.header("Accept", line);
                }
                let response = request.send().await.expect(200);
                assert_eq!(response.header("Content-Type"), media_type, "{accept:?}");
                if method == "GET" {
                    assert_eq!(response.body, plain.body, "{accept:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn row_d08_content_has_a_tag_and_is_not_sent_twice() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for (target, digest) in [
        ("/v2/a/manifests/v1".to_owned(), &image.digest),
        (format!("/v2/a/manifests/{}", image.digest), &image.digest),
        (
            format!("/v2/a/blobs/{}", image.layer.digest),
            &image.layer.digest,
        ),
    ] {
        for method in ["GET", "HEAD"] {
            let ask = |tag: &str| {
                let request = registry.request(method, &target);
                request.header("If-None-Match", tag).send()
            };
            let response = registry.request(method, &target).send().await.expect(200);
            assert_eq!(response.header("ETag"), format!("\"{digest}\""));
            if target.contains("/blobs/") {
                assert_eq!(response.header("Cache-Control"), "max-age=31536000");
                assert_eq!(response.header("Accept-Ranges"), "bytes");
            }
            for tag in [
                format!("\"{digest}\""),
                digest.clone(),
                format!("W/\"{digest}\""),
                format!("\"{NOBODY}\", \"{digest}\""),
                "*".to_owned(),
            ] {
                let response = ask(&tag).await.expect(304);
                assert_eq!(response.body, b"", "{tag}");
                assert_eq!(response.header("ETag"), format!("\"{digest}\""));
                assert_eq!(response.header("Docker-Content-Digest"), digest);
            }
            for tag in [NOBODY, "\"x\"", ""] {
                ask(tag).await.expect(200);
            }
        }
    }
    // What is not there has no tag that matches.
    let request = registry
        .get("/v2/a/manifests/v2")
        .header("If-None-Match", "*");
    request.send().await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn row_d09_the_repositories_are_listed() {
    let registry = Registry::start().await;
    let catalog = |query: &str| registry.get(format!("/v2/_catalog{query}")).send();
    assert_eq!(
        catalog("").await.expect(200).json(),
        json!({"repositories": []})
    );

    // In distribution's order: by component.
    let names = [
        "a",
        "a/b",
        "a/b/c",
        "a/c",
        "a-b",
        "a.b",
        "b/c/d",
        "library/alpine",
        "x",
    ];
    for name in names {
        registry.push_manifest(name, "v1", &index(&[])).await;
    }
    // Blobs alone make no repository.
    registry.push_blob("only/blobs", &Blob::empty()).await;
    let response = catalog("").await.expect(200);
    assert_eq!(response.header("Content-Type"), "application/json");
    assert_eq!(strings(&response.json()["repositories"]), names);
    assert_eq!(response.find("Link"), None);

    for n in 1..=10 {
        let mut query = Some(format!("?n={n}"));
        let mut seen = Vec::new();
        while let Some(page) = query {
            let response = catalog(&page).await.expect(200);
            let found = strings(&response.json()["repositories"]);
            assert!(found.len() <= n, "{page}");
            seen.extend(found);
            query = response.find("Link").map(|link| {
                assert!(link.ends_with(">; rel=\"next\""), "{link}");
                let end = link.find('>').unwrap();
                link[..end]
                    .strip_prefix("</v2/_catalog")
                    .unwrap()
                    .to_owned()
            });
        }
        assert_eq!(seen, names, "{n} at a time");
    }
    for (query, expected) in [
        ("?n=0", &names[..0]),
        ("?last=a%2Fb", &names[2..]),
        ("?last=a/bb", &names[3..]),
        ("?last=zzz", &names[..0]),
        ("?n=2&last=b", &names[6..8]),
        ("?n=1000", &names[..]),
        ("?n=100000000", &names[..]),
    ] {
        let response = catalog(query).await.expect(200);
        assert_eq!(
            strings(&response.json()["repositories"]),
            expected,
            "{query}"
        );
    }
    assert_eq!(catalog("?n=0").await.find("Link"), None);
    let response = catalog("?n=x").await;
    response.refused(400, "PAGINATION_NUMBER_INVALID");
}

#[tokio::test]
async fn row_d09_the_catalog_gives_100_by_default_and_1000_at_most() {
    let registry = Registry::start().await;
    let digest = sha256(&pretty(&index(&[])));
    let hex = digest.strip_prefix("sha256:").unwrap();
    for number in 0..1003 {
        let folder = format!("docker/registry/v2/repositories/r{number:04}/_manifests");
        let link = format!("{folder}/revisions/sha256/{hex}/link");
        registry.plant(&link, digest.clone()).await;
    }
    for (query, count, link) in [
        (
            "",
            100,
            Some("</v2/_catalog?n=100&last=r0099>; rel=\"next\""),
        ),
        (
            "?n=1000",
            1000,
            Some("</v2/_catalog?n=1000&last=r0999>; rel=\"next\""),
        ),
        (
            "?n=5000",
            1000,
            Some("</v2/_catalog?n=1000&last=r0999>; rel=\"next\""),
        ),
        ("?n=5000&last=r0999", 3, None),
    ] {
        let response = registry.get(format!("/v2/_catalog{query}")).send().await;
        let response = response.expect(200);
        let found = response.json()["repositories"].as_array().unwrap().len();
        assert_eq!(found, count, "{query}");
        assert_eq!(response.find("Link"), link, "{query}");
    }
}

#[tokio::test]
async fn row_d10_a_link_is_one_relative_reference() {
    let registry = Registry::start().await;
    for tag in ["a", "b", "c"] {
        registry.push_manifest("team/app", tag, &index(&[])).await;
        registry
            .push_manifest(&format!("x/{tag}"), "v1", &index(&[]))
            .await;
        let subject = descriptor(MANIFEST, NOBODY, 7);
        registry
            .push_referrer("team/app", &subject, &format!("a/{tag}+x"))
            .await;
    }
    let referrers = format!("/v2/team/app/referrers/{NOBODY}");
    let first = registry.get(format!("{referrers}?n=1")).send().await.json();
    let first = first["manifests"][0]["digest"].as_str().unwrap().to_owned();
    for (target, expected) in [
        (
            "/v2/team/app/tags/list?n=2".to_owned(),
            "</v2/team/app/tags/list?n=2&last=b>; rel=\"next\"".to_owned(),
        ),
        (
            "/v2/_catalog?n=2".to_owned(),
            "</v2/_catalog?n=2&last=x%2Fa>; rel=\"next\"".to_owned(),
        ),
        (
            format!("{referrers}?n=1"),
            format!(
                "<{referrers}?n=1&last={}>; rel=\"next\"",
                first.replace(':', "%3A")
            ),
        ),
    ] {
        let request = registry
            .get(target)
            .header("X-Forwarded-Host", "elsewhere.example")
            .header("X-Forwarded-Proto", "https");
        let response = request.send().await.expect(200);
        assert_eq!(response.header("Link"), expected);
    }
}

#[tokio::test]
async fn row_d11_errors_are_json_and_never_empty() {
    let registry = Registry::start().await;
    for (method, target) in [
        ("GET", "/v2/a/manifests/v1"),
        ("GET", "/v2/a/tags/list"),
        ("GET", "/v2/A/tags/list"),
        ("GET", "/somewhere/else"),
        ("DELETE", "/v2/"),
        ("PUT", "/v2/a/manifests/v1"),
        ("POST", "/v2/a/blobs/uploads/?digest=x"),
    ] {
        for accept in ["application/json", "text/html", "text/plain;q=1, */*;q=0"] {
            let request = registry.request(method, target).header("Accept", accept);
            let response = request.body("").send().await;
            assert!(response.status >= 400, "{method} {target}");
            assert_eq!(response.header("Content-Type"), "application/json");
            assert!(!response.errors().is_empty());
        }
        if method != "GET" {
            continue;
        }
        let response = registry.head(target).send().await;
        assert!(response.status >= 400, "{target}");
        assert_eq!(response.body, b"");
    }
}

#[tokio::test]
async fn row_d12_the_limit_of_a_manifest_is_four_mebibytes() {
    let registry = Registry::start().await;
    let mut bytes = pretty(&index(&[]));
    bytes.resize(4 * 1024 * 1024 + 1, b' ');
    let before = registry.everything().await;
    let parts: Vec<&[u8]> = bytes.chunks(100_000).collect();
    let put = registry
        .put("/v2/a/manifests/v1")
        .header("Content-Type", INDEX);
    for request in [
        put.chunked(&parts),
        registry.put_manifest("a", "v1", INDEX, &bytes),
    ] {
        let message = request.send().await.refused(413, "MANIFEST_INVALID");
        assert!(message.contains("4194304"), "{message}");
    }
    assert_eq!(registry.everything().await, before);
    bytes.pop();
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(value["mediaType"], INDEX);
    registry
        .put_manifest("a", "v1", INDEX, &bytes)
        .send()
        .await
        .expect(201);
}
