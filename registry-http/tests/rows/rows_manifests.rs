//! Rules 53 to 69: pushing manifests

use registry_core::manifest::Limits;
use serde_json::{Value, json};

use super::support::*;

#[tokio::test]
async fn row_053_the_exact_bytes_are_stored() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let config = r#"{"size":2,"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;
    for bytes in [
        // Order, spacing, escapes, numbers and an end that no serializer would write.
        format!(
            "\n{{ \"layers\" :[],\t\"unknown\":1.0e2,\"config\":{config},\"schemaVersion\":2 ,\r\n\"mediaType\":\"{MANIFEST}\",\"annotations\":{{\"z\":\"\\u00e9\\/\",\"a\":\"é\"}}}}\n\n"
        ),
        format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[]}}"),
    ] {
        let digest = sha256(bytes.as_bytes());
        let response = registry
            .put_manifest("a", "v1", MANIFEST, bytes.as_bytes())
            .send()
            .await
            .expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), digest);
        for reference in ["v1", &digest] {
            let target = format!("/v2/a/manifests/{reference}");
            let response = registry.get(target).send().await.expect(200);
            assert_eq!(response.text(), bytes);
        }
    }
}

#[tokio::test]
async fn row_054_a_push_is_answered_with_where_the_manifest_is() {
    let registry = Registry::start().await;
    let image = registry.push_image("team/app", "v0", "x").await;
    for reference in ["v1", &image.digest, &sha512(&image.bytes)] {
        let response = registry
            .put_manifest("team/app", reference, MANIFEST, &image.bytes)
            .send()
            .await
            .expect(201);
        let location = response.location();
        assert!(
            location.starts_with("/v2/team/app/manifests/"),
            "{location}"
        );
        let served = registry.get(location).send().await.expect(200);
        assert_eq!(served.body, image.bytes);
        assert_eq!(served.header("Content-Type"), MANIFEST);
        assert_eq!(
            served.header("Content-Length"),
            image.bytes.len().to_string()
        );
    }
}

#[tokio::test]
async fn row_055_a_push_is_answered_with_the_digest_that_the_client_has() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    for (reference, digest) in [
        ("v1", sha256(&bytes)),
        (&sha256(&bytes), sha256(&bytes)),
        (&sha512(&bytes), sha512(&bytes)),
    ] {
        let response = registry
            .put_manifest("a", reference, INDEX, &bytes)
            .send()
            .await
            .expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), digest);
    }
}

#[tokio::test]
async fn row_056_a_push_by_another_digest_is_400() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    for (wrong, right) in [
        (sha256(b"other"), sha256(&bytes)),
        (sha512(b"other"), sha512(&bytes)),
    ] {
        let message = registry
            .put_manifest("a", format!("{wrong}?tag=v1"), INDEX, &bytes)
            .send()
            .await
            .refused(400, "DIGEST_INVALID");
        assert!(
            message.contains(&wrong) && message.contains(&right),
            "{message}"
        );
    }
    assert!(registry.everything().await.is_empty());
}

#[tokio::test]
async fn row_057_parameters_of_the_type_are_ignored_and_another_type_is_refused() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    for media_type in [
        INDEX.to_owned(),
        format!("{INDEX}; charset=utf-8"),
        format!("{INDEX};charset=utf-8;x=\"y;z\""),
        format!("  {INDEX} ;q=1"),
    ] {
        let request = registry.put_manifest("a", "v1", &media_type, &bytes);
        request.send().await.expect(201);
    }
    // The body names its type.
    let request = registry.put("/v2/a/manifests/v1").body(&bytes);
    request.send().await.expect(201);

    let before = registry.everything().await;
    for media_type in [MANIFEST, DOCKER_LIST, "application/json", "text/plain"] {
        let message = registry
            .put_manifest("a", "v2", media_type, &bytes)
            .send()
            .await
            .refused(400, "MANIFEST_INVALID");
        assert!(
            message.contains(INDEX) && message.contains(media_type),
            "{message}"
        );
    }
    for nonsense in ["manifest", "/", "", "a/b/c"] {
        registry
            .put_manifest("a", "v2", nonsense, &bytes)
            .send()
            .await
            .refused(400, "MANIFEST_INVALID");
    }
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_058_a_manifest_may_come_without_a_length() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    registry
        .put("/v2/a/manifests/v1")
        .header("Content-Type", INDEX)
        .chunked(&[&bytes[..10], &bytes[10..11], &bytes[11..]])
        .send()
        .await
        .expect(201);
    let response = registry.get("/v2/a/manifests/v1").send().await.expect(200);
    assert_eq!(response.body, bytes);
}

#[tokio::test]
async fn row_059_a_subject_need_not_exist() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let mut manifest = image(&Blob::empty(), &[]);
    let mut list = index(&[]);
    for unknown in [
        NOBODY.to_owned(),
        sha512(b"nobody"),
        // Of an algorithm that only others know.
        format!("blake3:{}", "0".repeat(64)),
    ] {
        manifest["subject"] = descriptor(MANIFEST, &unknown, 123);
        list["subject"] = descriptor(MANIFEST, &unknown, 123);
        registry.push_manifest("a", "image", &manifest).await;
        registry.push_manifest("a", "index", &list).await;
    }
}

#[tokio::test]
async fn row_060_other_content_must_exist() {
    let registry = Registry::start().await;
    let config = Blob::new("config");
    let layer = Blob::new("layer");
    registry.push_blob("a", &config).await;
    registry.push_blob("b", &layer).await;
    let manifest = image(&config, &[&layer]);
    let bytes = pretty(&manifest);
    let push = |tag: &str| registry.put_manifest("a", tag, MANIFEST, &bytes).send();
    let before = registry.everything().await;
    // It is in another repository only.
    push("v1").await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(registry.everything().await, before);
    registry.get("/v2/a/manifests/v1").send().await.expect(404);
    registry.push_blob("a", &layer).await;
    push("v1").await.expect(201);

    // Of an index, the manifests.
    let list = index(&[descriptor(MANIFEST, &sha256(&bytes), bytes.len())]);
    let request = registry.put_manifest("c", "v1", INDEX, &pretty(&list));
    request.send().await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    registry.push_manifest("a", "list", &list).await;
}

#[tokio::test]
async fn row_061_each_missing_digest_is_an_error_of_its_own() {
    let registry = Registry::start().await;
    let there = Blob::new("there");
    registry.push_blob("a", &there).await;
    let config = Blob::new("missing config");
    let layers = [Blob::new("missing one"), Blob::new("missing two")];
    let manifest = image(&config, &[&layers[0], &there, &layers[1], &layers[0]]);
    let response = registry
        .put_manifest("a", "v1", MANIFEST, &pretty(&manifest))
        .send()
        .await
        .expect(400);
    let errors = response.errors();
    let digests: Vec<&str> = errors
        .iter()
        .map(|(code, message, detail)| {
            assert_eq!(code, "MANIFEST_BLOB_UNKNOWN");
            let digest = detail["digest"].as_str().unwrap();
            assert!(message.contains(digest), "{message}");
            digest
        })
        .collect();
    assert_eq!(
        digests,
        [&config.digest, &layers[0].digest, &layers[1].digest]
    );

    let children = [
        descriptor(MANIFEST, NOBODY, 7),
        descriptor(INDEX, &sha512(b"nobody"), 7),
    ];
    let response = registry
        .put_manifest("a", "v1", INDEX, &pretty(&index(&children)))
        .send()
        .await
        .expect(400);
    let digests: Vec<Value> = response
        .errors()
        .into_iter()
        .map(|(_, _, detail)| detail["digest"].clone())
        .collect();
    assert_eq!(digests, [json!(NOBODY), json!(sha512(b"nobody"))]);
}

#[tokio::test]
async fn row_062_layers_that_are_not_distributed_need_not_exist() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    for media_type in [
        nondistributable.to_owned(),
        format!("{nondistributable}+gzip"),
        format!("{nondistributable}+zstd"),
        DOCKER_FOREIGN_LAYER.to_owned(),
    ] {
        for urls in [Some("https://example.org/layer"), None] {
            let docker = media_type == DOCKER_FOREIGN_LAYER;
            let mut manifest = match docker {
                true => docker_image(&Blob::empty(), &[]),
                false => image(&Blob::empty(), &[]),
            };
            let mut layer = descriptor(&media_type, NOBODY, 12345);
            if let Some(url) = urls {
                layer["urls"] = json!([url]);
            }
            manifest["layers"] = json!([layer]);
            registry.push_manifest("a", "v1", &manifest).await;
        }
    }
    // A config of that type is needed all the same: who runs the image reads it.
    let mut manifest = image(&Blob::empty(), &[]);
    manifest["config"] = descriptor(nondistributable, NOBODY, 12345);
    let request = registry.put_manifest("a", "v1", MANIFEST, &pretty(&manifest));
    request.send().await.refused(400, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn row_063_unusual_manifests_are_accepted() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    let empty = Blob::empty();
    registry.push_blob("a", &blob).await;
    registry.push_blob("a", &empty).await;
    let with = |mut manifest: Value, key: &str, value: Value| {
        manifest[key] = value;
        manifest
    };
    let plain = image(&blob, &[&blob]);
    let (digest, bytes) = registry.push_manifest("a", "plain", &plain).await;
    let child = descriptor(MANIFEST, &digest, bytes.len());
    let nested = index(std::slice::from_ref(&child));
    let (digest, bytes) = registry.push_manifest("a", "nested", &nested).await;
    let inner = descriptor(INDEX, &digest, bytes.len());

    let mut data = empty.descriptor("application/vnd.oci.empty.v1+json");
    data["data"] = json!("e30=");
    let mut platform = child.clone();
    platform["platform"] = json!({
        "architecture": "riscv65", "os": "plan10", "os.version": "1", "os.features": ["x"],
        "variant": "v9", "features": ["sse4"],
    });
    platform["annotations"] = json!({ "": "" });
    let stranger = blob.descriptor("application/vnd.example.stranger");
    for (what, manifest) in [
        ("no layers", image(&blob, &[])),
        ("no manifests", index(&[])),
        ("an index in an index", index(&[inner, child.clone()])),
        (
            "an unknown config",
            with(plain.clone(), "config", stranger.clone()),
        ),
        (
            "an unknown layer",
            with(plain.clone(), "layers", json!([stranger])),
        ),
        (
            "an unknown member",
            with(plain.clone(), "org.example", json!({"a": [null]})),
        ),
        (
            "an unknown member of an index",
            with(nested.clone(), "x", json!(1.5)),
        ),
        ("data", with(plain.clone(), "config", data.clone())),
        (
            "data in a layer",
            with(plain.clone(), "layers", json!([data])),
        ),
        (
            "an artifact type",
            with(plain.clone(), "artifactType", json!("a/b")),
        ),
        (
            "an artifact type of an index",
            with(nested, "artifactType", json!("a/b")),
        ),
        (
            "no annotations",
            with(plain.clone(), "annotations", json!({})),
        ),
        (
            "annotations",
            with(plain, "annotations", json!({"": "", "a": "é\n"})),
        ),
        ("a platform", index(&[platform])),
        (
            "blobs in an index",
            index(&[blob.descriptor("application/vnd.example.cache")]),
        ),
    ] {
        let bytes = pretty(&manifest);
        let media_type = manifest["mediaType"].as_str().unwrap();
        let response = registry
            .put_manifest("a", "v1", media_type, &bytes)
            .send()
            .await;
        assert_eq!(response.status, 201, "{what}: {}", response.text());
        let served = registry.get("/v2/a/manifests/v1").send().await.expect(200);
        assert_eq!(served.body, bytes, "{what}");
    }
}

#[tokio::test]
async fn row_064_a_push_by_digest_can_set_tags() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    let many: Vec<String> = (0..64).map(|number| format!("many-{number:03}")).collect();
    for digest in [sha256(&bytes), sha512(&bytes)] {
        let cases = [
            vec!["one"],
            vec!["Two", "_three"],
            many.iter().map(String::as_str).collect(),
        ];
        for tags in cases {
            let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
            let reference = format!("{digest}?{}", query.join("&"));
            let response = registry
                .put_manifest("a", reference, INDEX, &bytes)
                .send()
                .await
                .expect(201);
            let named: Vec<&str> = response
                .all("OCI-Tag")
                .iter()
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .collect();
            assert_eq!(named, tags);
            assert_eq!(response.header("Docker-Content-Digest"), digest);
            for tag in tags {
                let target = format!("/v2/a/manifests/{tag}");
                let served = registry.get(target).send().await.expect(200);
                assert_eq!(served.header("Docker-Content-Digest"), digest, "{tag}");
                assert_eq!(served.body, bytes);
            }
        }
    }
    assert_eq!(registry.tags("a").await.len(), 67);
    // Without tags nothing is said of tags.
    let request = registry.put_manifest("a", sha256(&bytes), INDEX, &bytes);
    assert_eq!(request.send().await.expect(201).find("OCI-Tag"), None);
    // Too many.
    let before = registry.everything().await;
    let query: String = (0..65)
        .map(|number| format!("tag=more-{number}&"))
        .collect();
    let message = registry
        .put_manifest("a", format!("{}?{query}", sha256(&bytes)), INDEX, &bytes)
        .send()
        .await
        .refused(414, "TAG_INVALID");
    assert!(
        message.contains("64") && message.contains("65"),
        "{message}"
    );
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_065_a_bad_tag_among_tags_is_400_and_tags_behind_a_tag_are_ignored() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    let digest = sha256(&bytes);
    for bad in ["..", ".a", "a%2Fb", "a:b", "%ff"] {
        let reference = format!("{digest}?tag=good&tag={bad}");
        let response = registry
            .put_manifest("a", reference, INDEX, &bytes)
            .send()
            .await;
        assert_eq!(response.status, 400, "{bad}: {}", response.text());
    }
    assert!(registry.everything().await.is_empty());

    let response = registry
        .put_manifest("a", "v1?tag=v2&tag=..", INDEX, &bytes)
        .send()
        .await
        .expect(201);
    assert_eq!(response.find("OCI-Tag"), None);
    assert_eq!(registry.tags("a").await, ["v1"]);
}

#[tokio::test]
async fn row_066_a_tag_keeps_the_algorithm_it_was_set_with() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    for digest in [sha256(&bytes), sha512(&bytes), sha256(&bytes)] {
        let reference = format!("{digest}?tag=v1");
        let request = registry.put_manifest("a", reference, INDEX, &bytes);
        request.send().await.expect(201);
        for method in ["GET", "HEAD"] {
            let response = registry.request(method, "/v2/a/manifests/v1").send().await;
            let response = response.expect(200);
            assert_eq!(response.header("Docker-Content-Digest"), digest);
        }
    }
}

#[tokio::test]
async fn row_067_a_manifest_over_the_limit_is_413() {
    let limits = Limits {
        max_bytes: 1000,
        ..Limits::default()
    };
    let registry = Registry::setup().limits(limits).start().await;
    let of_length = |length: usize| {
        let mut bytes = pretty(&index(&[]));
        assert!(bytes.len() <= length);
        bytes.resize(length, b' ');
        bytes
    };
    let put = |tag: &str| {
        let request = registry.put(format!("/v2/a/manifests/{tag}"));
        request.header("Content-Type", INDEX)
    };
    put("v1").body(of_length(1000)).send().await.expect(201);
    put("v2")
        .chunked(&[&of_length(1000)])
        .send()
        .await
        .expect(201);
    let before = registry.everything().await;
    let long = of_length(1001);
    for request in [
        put("v3").body(&long),
        put("v3").chunked(&[&long[..999], &long[999..]]),
        put("v3").body(vec![b' '; 1 << 20]),
        put(&sha256(&long)).body(&long),
    ] {
        let message = request.send().await.refused(413, "MANIFEST_INVALID");
        assert!(message.contains("1000"), "{message}");
    }
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_068_four_megabytes_go_through() {
    let registry = Registry::start().await;
    // As the conformance suite makes it.
    let mut manifest = index(&[]);
    let value = "x".repeat(10_000);
    for number in 0..390 {
        manifest["annotations"][format!("org.example.{number}")] = json!(value);
    }
    let (_, bytes) = registry.push_manifest("a", "suite", &manifest).await;
    assert!(bytes.len() > 3_900_000);
    let response = registry
        .get("/v2/a/manifests/suite")
        .send()
        .await
        .expect(200);
    assert!(response.body == bytes);

    let mut bytes = pretty(&index(&[]));
    bytes.resize(4 * 1024 * 1024, b'\n');
    for request in [
        registry.put_manifest("a", "largest", INDEX, &bytes),
        registry
            .put("/v2/a/manifests/largest")
            .header("Content-Type", INDEX)
            .chunked(&bytes.chunks(65_536).collect::<Vec<_>>()),
    ] {
        request.send().await.expect(201);
        let response = registry.get("/v2/a/manifests/largest").send().await;
        assert!(response.expect(200).body == bytes);
    }
}

#[tokio::test]
async fn row_069_a_subject_is_confirmed() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    for subject in [NOBODY.to_owned(), sha512(b"nobody")] {
        for mut manifest in [image(&Blob::empty(), &[]), index(&[])] {
            let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
            let plain = pretty(&manifest);
            manifest["subject"] = descriptor(MANIFEST, &subject, 7);
            let bytes = pretty(&manifest);
            for reference in ["v1", &sha256(&bytes), &sha512(&bytes)] {
                let request = registry.put_manifest("a", reference, &media_type, &bytes);
                let response = request.send().await.expect(201);
                assert_eq!(response.header("OCI-Subject"), subject);
            }
            let request = registry.put_manifest("a", "v1", &media_type, &plain);
            let response = request.send().await.expect(201);
            assert_eq!(response.find("OCI-Subject"), None);
        }
    }
    // The subject of an algorithm that is not indexed is not confirmed: the client then keeps
    // the list itself.
    let mut manifest = index(&[]);
    manifest["subject"] = descriptor(MANIFEST, &format!("blake3:{}", "0".repeat(64)), 7);
    let request = registry.put_manifest("a", "v1", INDEX, &pretty(&manifest));
    let response = request.send().await.expect(201);
    assert_eq!(response.find("OCI-Subject"), None);
}
