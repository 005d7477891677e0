//! Rules 1 to 13: scope, HTTP, ping and grammar

use super::support::*;

#[tokio::test]
async fn row_001_all_apis_of_pull_exist() {
    let registry = Registry::start().await;
    let image = registry.push_image("team/app", "v1", "x").await;
    let targets = [
        ("/v2/team/app/manifests/v1".to_owned(), &image.bytes),
        (
            format!("/v2/team/app/manifests/{}", image.digest),
            &image.bytes,
        ),
        (
            format!("/v2/team/app/blobs/{}", image.config.digest),
            &image.config.bytes,
        ),
        (
            format!("/v2/team/app/blobs/{}", image.layer.digest),
            &image.layer.bytes,
        ),
    ];
    for (target, bytes) in targets {
        let response = registry.get(&target).send().await.expect(200);
        assert_eq!(&response.body, bytes, "{target}");
        let response = registry.head(&target).send().await.expect(200);
        assert_eq!(response.body, b"", "{target}");
    }
}

#[tokio::test]
async fn row_002_all_endpoints_of_the_table_exist() {
    let registry = Registry::start().await;
    let blob = Blob::new("one");
    let other = Blob::new("two");

    registry.get("/v2/").send().await.expect(200); // end-1
    let uploads = "/v2/a/blobs/uploads/";
    let location = registry.post(uploads).send().await.expect(202).location(); // end-4a
    registry
        .patch(&location)
        .body("on")
        .send()
        .await
        .expect(202); // end-5
    registry.get(&location).send().await.expect(204); // end-13
    let target = format!("{location}?digest={}", blob.digest);
    registry.put(target).body("e").send().await.expect(201); // end-6
    let target = format!("{uploads}?digest={}", other.digest);
    registry.post(target).body("two").send().await.expect(201); // end-4b
    let target = format!("{uploads}?digest-algorithm=sha512");
    let location = registry.post(target).send().await.expect(202).location(); // end-4c
    registry.delete(&location).send().await.expect(204); // end-14
    let target = format!("/v2/b/blobs/uploads/?mount={}&from=a", blob.digest);
    registry.post(target).send().await.expect(201); // end-11

    let manifest = pretty(&image(&blob, &[&other]));
    let digest = sha256(&manifest);
    registry
        .put_manifest("a", "v1", MANIFEST, &manifest)
        .send()
        .await
        .expect(201); // end-7a
    registry
        .put_manifest("a", format!("{digest}?tag=v2"), MANIFEST, &manifest)
        .send()
        .await
        .expect(201); // end-7b
    for method in ["GET", "HEAD"] {
        let target = format!("/v2/a/blobs/{}", blob.digest);
        registry.request(method, target).send().await.expect(200); // end-2
        let target = format!("/v2/a/manifests/{digest}");
        registry.request(method, target).send().await.expect(200); // end-3
    }
    registry.get("/v2/a/tags/list").send().await.expect(200); // end-8a
    let target = "/v2/a/tags/list?n=1&last=v1";
    registry.get(target).send().await.expect(200); // end-8b
    let target = format!("/v2/a/referrers/{digest}");
    registry.get(&target).send().await.expect(200); // end-12a
    let target = format!("{target}?artifactType=a/b");
    registry.get(target).send().await.expect(200); // end-12b
    registry
        .delete("/v2/a/manifests/v2")
        .send()
        .await
        .expect(202);
    let target = format!("/v2/a/manifests/{digest}");
    registry.delete(target).send().await.expect(202); // end-9
    let target = format!("/v2/a/blobs/{}", blob.digest);
    registry.delete(target).send().await.expect(202); // end-10
}

#[tokio::test]
async fn row_003_what_is_left_open_follows_rfc_9110() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let upload = registry.start_upload("a").await;
    let blob = format!("/v2/a/blobs/{}", image.layer.digest);
    let referrers = format!("/v2/a/referrers/{}", image.digest);

    // Section 15.5.6: a method that the resource does not have is 405 with the ones it has.
    for (target, allowed) in [
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET, HEAD"),
        ("/v2/a/tags/list", "GET, HEAD"),
        ("/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        (&blob, "GET, HEAD, DELETE"),
        (&referrers, "GET, HEAD"),
        ("/v2/a/blobs/uploads/", "POST"),
        (&upload, "GET, HEAD, PATCH, PUT, DELETE"),
    ] {
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW",
        ] {
            if allowed.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let response = registry.request(method, target).body("").send().await;
            let response = response.expect(405);
            assert_eq!(response.header("Allow"), allowed, "{method} {target}");
            if method != "HEAD" {
                response.refused(405, "UNSUPPORTED");
            }
        }
    }

    // Section 9.3.2: HEAD is GET without the content.
    for target in [
        "/v2/",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/a/manifests/v1",
        "/v2/a/manifests/missing",
        "/v2/A/manifests/v1",
        "/nowhere",
        &blob,
        &referrers,
        &upload,
    ] {
        let get = registry.get(target).send().await;
        let head = registry.head(target).send().await;
        assert_eq!(get.status, head.status, "{target}");
        assert_eq!(head.body, b"", "{target}");
        let fixed = |response: &Response| {
            let mut headers = response.headers.clone();
            headers.retain(|(name, _)| {
                !["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str())
            });
            headers.sort();
            headers
        };
        assert_eq!(fixed(&get), fixed(&head), "{target}");
    }

    // Section 13.1.2: conditions are weighed on reads.
    let response = registry
        .get(&blob)
        .header("If-None-Match", "*")
        .send()
        .await
        .expect(304);
    assert_eq!(response.body, b"");
}

#[tokio::test]
async fn row_005_ping_answers_200() {
    let registry = Registry::start().await;
    for target in ["/v2/", "/v2"] {
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.text(), "{}");
        registry.head(target).send().await.expect(200);
    }
    // Only the API is there to be asked for.
    registry
        .get("/v1/")
        .send()
        .await
        .refused(404, "UNSUPPORTED");
    registry
        .get("/v2/a")
        .send()
        .await
        .refused(404, "UNSUPPORTED");
}

#[tokio::test]
async fn row_006_the_content_digest_is_no_optional_header() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for legacy in [false, true] {
        for (target, digest) in [
            ("/v2/a/manifests/v1".to_owned(), &image.digest),
            (format!("/v2/a/manifests/{}", image.digest), &image.digest),
            (
                format!("/v2/a/blobs/{}", image.layer.digest),
                &image.layer.digest,
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let mut request = registry.request(method, &target);
                if legacy {
                    request = request.header("Docker-Distribution-API-Version", "registry/2.0");
                }
                let response = request.send().await.expect(200);
                assert_eq!(response.header("Docker-Content-Digest"), digest);
            }
        }
    }
}

#[tokio::test]
async fn row_007_a_bad_tag_has_the_legacy_code_for_it() {
    let registry = Registry::start().await;
    let manifest = pretty(&index(&[]));
    let target = "/v2/a/manifests/.hidden";
    registry
        .get(target)
        .send()
        .await
        .refused(400, "TAG_INVALID");
    registry
        .delete(target)
        .send()
        .await
        .refused(400, "TAG_INVALID");
    let message = registry
        .put_manifest("a", ".hidden", INDEX, &manifest)
        .send()
        .await
        .refused(400, "TAG_INVALID");
    assert!(message.contains("`.hidden`"), "{message}");
    assert!(registry.everything().await.is_empty());
}

#[tokio::test]
async fn row_008_names_are_matched_in_full_and_routed_from_the_right() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    let manifest = pretty(&index(&[]));
    for name in [
        "a",
        "0",
        "a--b",
        "a---b",
        "a__b",
        "a_b",
        "a.b",
        "a.b_c__d-e--f/0/x",
        "v2",
        "blobs",
        "manifests",
        "tags",
        "uploads",
        "referrers",
        "blobs/uploads",
        "tags/list",
        "manifests/manifests",
        "a/blobs/uploads/b",
        "a/referrers",
    ] {
        registry.push_blob(name, &blob).await;
        registry
            .put_manifest(name, "v1", INDEX, &manifest)
            .send()
            .await
            .expect(201);
        let target = format!("/v2/{name}/blobs/{}", blob.digest);
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.body, blob.bytes, "{name}");
        let target = format!("/v2/{name}/manifests/v1");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.body, manifest, "{name}");
        let response = registry.get(format!("/v2/{name}/tags/list")).send().await;
        assert_eq!(response.expect(200).json()["name"], name);
        let target = format!("/v2/{name}/referrers/{NOBODY}");
        registry.get(target).send().await.expect(200);
    }

    let before = registry.everything().await;
    for name in [
        "a___b", "a..b", "a._b", "a_-b", "A", "aB", "-a", "a-", ".a", "a.", "a_", "a//b", "/a",
        "a/", "a/-b", "a/_b", "a%20b", "%C3%A9", "a+b", "a:b", "a@b", "a~b", "a%00b", "a%0Ab",
    ] {
        for target in [
            format!("/v2/{name}/manifests/v1"),
            format!("/v2/{name}/blobs/{NOBODY}"),
            format!("/v2/{name}/tags/list"),
            format!("/v2/{name}/referrers/{NOBODY}"),
            format!("/v2/{name}/blobs/uploads/{NO_SESSION}"),
        ] {
            let response = registry.get(&target).send().await;
            let message = response.refused(400, "NAME_INVALID");
            assert!(message.contains("lower-case"), "{target}: {message}");
        }
        let target = format!("/v2/{name}/blobs/uploads/");
        registry
            .post(target)
            .send()
            .await
            .refused(400, "NAME_INVALID");
        registry
            .put_manifest(name, "v1", INDEX, &manifest)
            .send()
            .await
            .refused(400, "NAME_INVALID");
    }
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_009_names_have_at_most_255_characters() {
    let registry = Registry::start().await;
    let manifest = pretty(&index(&[]));
    let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
    assert_eq!(longest.len(), 255);
    registry
        .put_manifest(&longest, "v1", INDEX, &manifest)
        .send()
        .await
        .expect(201);
    let target = format!("/v2/{longest}/manifests/v1");
    registry.get(target).send().await.expect(200);

    let longer = format!("{longest}b");
    let message = registry
        .put_manifest(&longer, "v1", INDEX, &manifest)
        .send()
        .await
        .refused(400, "NAME_INVALID");
    assert!(
        message.contains("255") && message.contains("256"),
        "{message}"
    );
}

#[tokio::test]
async fn row_010_tags_are_matched_in_full() {
    let registry = Registry::start().await;
    let manifest = pretty(&index(&[]));
    let longest = "t".repeat(128);
    for tag in [
        "a",
        "A",
        "0",
        "_",
        "__x",
        "v1.2.3-rc_1",
        "latest.",
        "x-",
        &longest,
    ] {
        registry
            .put_manifest("a", tag, INDEX, &manifest)
            .send()
            .await
            .expect(201);
        let target = format!("/v2/a/manifests/{tag}");
        registry.get(target).send().await.expect(200);
    }
    let before = registry.everything().await;
    let longer = "t".repeat(129);
    for tag in [
        ".a", "-a", ".", "..", "a%20b", "a+b", "a@b", "a~b", "%C3%A9", "a%00", "a%2Fb", &longer,
    ] {
        let target = format!("/v2/a/manifests/{tag}");
        for method in ["GET", "DELETE"] {
            let response = registry.request(method, &target).send().await;
            response.refused(400, "TAG_INVALID");
        }
        registry.head(&target).send().await.expect(400);
        registry
            .put_manifest("a", tag, INDEX, &manifest)
            .send()
            .await
            .refused(400, "TAG_INVALID");
    }
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_011_a_reference_with_a_colon_is_never_a_tag() {
    let registry = Registry::start().await;
    let manifest = pretty(&index(&[]));
    for reference in [
        "sha256:baddigeststring",
        "a:b",
        ":",
        "v1:",
        "sha256%3Abaddigeststring",
    ] {
        registry
            .put_manifest("a", reference, INDEX, &manifest)
            .send()
            .await
            .refused(400, "DIGEST_INVALID");
        let target = format!("/v2/a/manifests/{reference}");
        registry
            .get(&target)
            .send()
            .await
            .refused(400, "DIGEST_INVALID");
        registry
            .delete(&target)
            .send()
            .await
            .refused(400, "DIGEST_INVALID");
    }
    assert!(registry.everything().await.is_empty());
}

#[tokio::test]
async fn row_012_digests_are_matched_in_full_and_of_a_known_algorithm() {
    let registry = Registry::start().await;
    let hex = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let long = format!("{hex}{hex}");
    let malformed = [
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha256:{}g", &hex[1..]),
        format!("sha256::{hex}"),
        "sha256:".to_owned(),
        format!(":{hex}"),
        format!("sha512:{hex}"),
        format!("sha256:{long}"),
        format!("sha256+:{hex}"),
    ];
    let unsupported = [
        format!("blake3:{hex}"),
        format!("sha384:{}", &long[..96]),
        format!("sha256+b64:{hex}"),
        "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
    ];
    let upload = registry.start_upload("a").await;
    let before = registry.everything().await;
    for digest in malformed.iter().chain(&unsupported) {
        for (method, target) in [
            ("GET", format!("/v2/a/blobs/{digest}")),
            ("DELETE", format!("/v2/a/blobs/{digest}")),
            ("GET", format!("/v2/a/manifests/{digest}")),
            ("PUT", format!("/v2/a/manifests/{digest}")),
            ("DELETE", format!("/v2/a/manifests/{digest}")),
            ("GET", format!("/v2/a/referrers/{digest}")),
            ("POST", format!("/v2/a/blobs/uploads/?digest={digest}")),
            ("PUT", format!("{upload}?digest={digest}")),
        ] {
            let response = registry.request(method, &target).body("").send().await;
            let message = response.refused(400, "DIGEST_INVALID");
            if unsupported.contains(digest) {
                assert!(message.contains("sha256 or sha512"), "{target}: {message}");
            }
        }
        let target = format!("/v2/a/blobs/{digest}");
        registry.head(target).send().await.expect(400);
    }
    assert_eq!(registry.everything().await, before);

    for digest in [format!("sha256:{hex}"), format!("sha512:{long}")] {
        let target = format!("/v2/a/blobs/{digest}");
        registry
            .get(target)
            .send()
            .await
            .refused(404, "BLOB_UNKNOWN");
    }
}

#[tokio::test]
async fn row_013_extensions_are_unsupported() {
    let registry = Registry::start().await;
    registry.push_image("a", "v1", "x").await;
    for target in [
        "/v2/_oci/ext/discover",
        "/v2/a/_oci/ext/discover",
        "/v2/_docker/x/y",
        "/v2/_chainguard/x",
        "/v2/_x",
        "/v2/_catalog/x",
    ] {
        registry
            .get(target)
            .send()
            .await
            .refused(404, "UNSUPPORTED");
    }
}
