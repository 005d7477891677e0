//! What should not come, and comes: the answer helps, nothing is stored, sessions go on

use registry_core::manifest::Limits;
use serde_json::{Value, json};

use super::support::*;

/// Sends a manifest that is to be refused; returns the message
async fn refused(registry: &Registry, media_type: &str, bytes: &[u8]) -> String {
    let before = registry.everything().await;
    let request = registry.put_manifest("a", "bad", media_type, bytes);
    let message = request.send().await.refused(400, "MANIFEST_INVALID");
    assert_eq!(registry.everything().await, before, "{message}");
    // By its digest it is no better.
    let request = registry.put_manifest("a", sha256(bytes), media_type, bytes);
    request.send().await.refused(400, "MANIFEST_INVALID");
    assert_eq!(registry.everything().await, before, "{message}");
    message
}

async fn with_empty_blob() -> Registry {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    registry
}

#[tokio::test]
async fn a_manifest_that_is_not_json() {
    let registry = with_empty_blob().await;
    let good = pretty(&index(&[]));
    for bytes in [
        &b""[..],
        b" ",
        b"hello",
        b"<html></html>",
        b"{",
        b"{\"schemaVersion\":2",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"{\"schemaVersion\":2,\"manifests\":[],}",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        &[&good[..], b"x"].concat(),
        &[&good[..], &good[..]].concat(),
        &good[..good.len() - 4],
        b"{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{\"a\":\"\xff\"}}",
    ] {
        let message = refused(&registry, INDEX, bytes).await;
        assert!(message.starts_with("manifest invalid: "), "{message}");
    }
    for value in [
        json!(null),
        json!([]),
        json!("x"),
        json!(7),
        json!([index(&[])]),
    ] {
        refused(&registry, INDEX, &pretty(&value)).await;
    }
}

#[tokio::test]
async fn a_manifest_that_is_json_and_no_manifest() {
    let registry = with_empty_blob().await;
    let plain = image(&Blob::empty(), &[]);
    let with = |manifest: &Value, key: &str, value: Value| {
        let mut manifest = manifest.clone();
        manifest[key] = value;
        pretty(&manifest)
    };
    let without = |manifest: &Value, key: &str| {
        let mut manifest = manifest.clone();
        manifest.as_object_mut().unwrap().remove(key).unwrap();
        pretty(&manifest)
    };
    let empty = Blob::empty().descriptor(LAYER);
    let bent = |key: &str, value: Value| {
        let mut layer = empty.clone();
        layer[key] = value;
        json!([layer])
    };
    for (what, media_type, bytes) in [
        ("no version", MANIFEST, without(&plain, "schemaVersion")),
        (
            "version 1",
            MANIFEST,
            with(&plain, "schemaVersion", json!(1)),
        ),
        (
            "version 3",
            MANIFEST,
            with(&plain, "schemaVersion", json!(3)),
        ),
        (
            "version as text",
            MANIFEST,
            with(&plain, "schemaVersion", json!("2")),
        ),
        ("no config", MANIFEST, without(&plain, "config")),
        (
            "config of nothing",
            MANIFEST,
            with(&plain, "config", json!(null)),
        ),
        (
            "config as text",
            MANIFEST,
            with(&plain, "config", json!("x")),
        ),
        (
            "layers as text",
            MANIFEST,
            with(&plain, "layers", json!("x")),
        ),
        (
            "a layer as text",
            MANIFEST,
            with(&plain, "layers", json!(["x"])),
        ),
        (
            "a layer of nothing",
            MANIFEST,
            with(&plain, "layers", json!([{}])),
        ),
        (
            "no digest",
            MANIFEST,
            with(&plain, "layers", bent("digest", json!(null))),
        ),
        (
            "a bad digest",
            MANIFEST,
            with(&plain, "layers", bent("digest", json!("sha256:x"))),
        ),
        (
            "a negative size",
            MANIFEST,
            with(&plain, "layers", bent("size", json!(-1))),
        ),
        (
            "a broken size",
            MANIFEST,
            with(&plain, "layers", bent("size", json!(1.5))),
        ),
        (
            "a size as text",
            MANIFEST,
            with(&plain, "layers", bent("size", json!("2"))),
        ),
        (
            "a huge size",
            MANIFEST,
            with(&plain, "layers", bent("size", json!(1e30))),
        ),
        (
            "manifests as text",
            INDEX,
            with(&index(&[]), "manifests", json!("x")),
        ),
        (
            "a bad subject",
            MANIFEST,
            with(&plain, "subject", json!("x")),
        ),
        (
            "annotations as list",
            MANIFEST,
            with(&plain, "annotations", json!([])),
        ),
        (
            "an annotation of number",
            MANIFEST,
            with(&plain, "annotations", json!({"a": 1})),
        ),
    ] {
        let message = refused(&registry, media_type, &bytes).await;
        assert!(
            message.len() > "manifest invalid: ".len() + 10,
            "{what}: {message}"
        );
    }
}

#[tokio::test]
async fn a_manifest_that_two_readers_understand_differently() {
    let registry = with_empty_blob().await;
    let plain = image(&Blob::empty(), &[]);
    let list = index(&[]);
    // Both kinds at once (CVE-2021-41190).
    for media_type in [MANIFEST, INDEX] {
        let mut both = plain.clone();
        both["mediaType"] = media_type.into();
        both["manifests"] = json!([]);
        let message = refused(&registry, media_type, &pretty(&both)).await;
        assert!(
            message.contains("`layers`") && message.contains("`manifests`"),
            "{message}"
        );
        both.as_object_mut().unwrap().remove("mediaType");
        refused(&registry, media_type, &pretty(&both)).await;
    }
    // The same name twice, and a name that only some readers take for it.
    let text = String::from_utf8(pretty(&plain)).unwrap();
    for bent in [
        text.replacen("\"layers\"", "\"layers\": [], \"layers\"", 1),
        text.replacen("\"layers\"", "\"mediaType\": \"a/b\", \"layers\"", 1),
        text.replacen("\"layers\"", "\"Layers\": [], \"layers\"", 1),
        text.replacen("\"size\"", "\"size\": 1, \"size\"", 1),
    ] {
        assert_ne!(bent, text);
        refused(&registry, MANIFEST, bent.as_bytes()).await;
    }
    // One kind under the name of the other.
    for (media_type, manifest) in [(INDEX, &plain), (MANIFEST, &list), (DOCKER_MANIFEST, &list)] {
        let mut renamed = manifest.clone();
        renamed["mediaType"] = media_type.into();
        refused(&registry, media_type, &pretty(&renamed)).await;
    }
}

#[tokio::test]
async fn a_manifest_of_another_type_than_it_was_sent_with() {
    let registry = with_empty_blob().await;
    for (sent, manifest) in [
        (DOCKER_MANIFEST, image(&Blob::empty(), &[])),
        (INDEX, image(&Blob::empty(), &[])),
        (MANIFEST, docker_image(&Blob::empty(), &[])),
        (DOCKER_LIST, index(&[])),
        (INDEX, docker_list(&[])),
        ("application/octet-stream", index(&[])),
    ] {
        let media_type = manifest["mediaType"].as_str().unwrap();
        let message = refused(&registry, sent, &pretty(&manifest)).await;
        assert!(
            message.contains(sent) && message.contains(media_type),
            "{message}"
        );
    }
    // No name in the body, and one outside that does not fit its shape.
    let mut nameless = index(&[]);
    nameless.as_object_mut().unwrap().remove("mediaType");
    refused(&registry, MANIFEST, &pretty(&nameless)).await;
}

#[tokio::test]
async fn a_manifest_too_deep_or_with_too_much_in_it() {
    let limits = Limits {
        max_depth: 20,
        max_descriptors: 50,
        ..Limits::default()
    };
    for (limits, deep, many) in [(None, 100_000, 10_001), (Some(limits), 21, 51)] {
        let setup = Registry::setup();
        let registry = match limits {
            Some(limits) => setup.limits(limits).start().await,
            None => setup.start().await,
        };
        registry.push_blob("a", &Blob::empty()).await;
        let plain = String::from_utf8(pretty(&index(&[]))).unwrap();
        for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
            let value = format!("{}1{}", open.repeat(deep), close.repeat(deep));
            let bytes = plain.replacen('{', &format!("{{\"unknown\":{value},"), 1);
            refused(&registry, INDEX, bytes.as_bytes()).await;
        }
        // Not even closed.
        refused(&registry, INDEX, "[".repeat(deep).as_bytes()).await;

        let layers = vec![Blob::empty().descriptor(LAYER); many];
        let mut manifest = image(&Blob::empty(), &[]);
        manifest["layers"] = json!(layers);
        refused(&registry, MANIFEST, &serde_json::to_vec(&manifest).unwrap()).await;
        let children = serde_json::to_vec(&index(&layers)).unwrap();
        refused(&registry, INDEX, &children).await;
    }
}

#[tokio::test]
async fn a_descriptor_with_the_wrong_size() {
    let registry = with_empty_blob().await;
    let layer = Blob::new("content");
    registry.push_blob("a", &layer).await;
    let before = registry.everything().await;
    for size in [0, 6, 8, 1_u64 << 40] {
        let mut manifest = image(&Blob::empty(), &[&layer]);
        manifest["layers"][0]["size"] = json!(size);
        let request = registry.put_manifest("a", "v1", MANIFEST, &pretty(&manifest));
        let message = request.send().await.refused(400, "MANIFEST_BLOB_UNKNOWN");
        assert!(message.contains(&layer.digest), "{message}");
        assert!(
            message.contains("7 bytes") && message.contains(&size.to_string()),
            "{message}"
        );
    }
    assert_eq!(registry.everything().await, before);
    // The blob is none the worse for it.
    let target = format!("/v2/a/blobs/{}", layer.digest);
    assert_eq!(
        registry.get(target).send().await.expect(200).body,
        layer.bytes
    );
}

#[tokio::test]
async fn dots_and_encoded_slashes_in_every_place() {
    // On a folder, where they could lead somewhere.
    let registry = Registry::setup().on_disk().start().await;
    let image = registry.push_image("team/app", "v1", "x").await;
    let upload = registry.start_upload("team/app").await;
    let id = upload.rsplit('/').next().unwrap();
    let manifest = pretty(&index(&[]));
    let by_digest = format!("/v2/team/app/manifests/{}", sha256(&manifest));
    let before = registry.everything().await;
    // The last ones are no percent-encoding of anything.
    let tricks = [
        "..",
        "%2e%2e",
        "%2E.",
        "..%2f",
        "..%2F..%2F..%2Fetc%2Fpasswd",
        "%2e%2e%2f%2e%2e%2f",
        "x%2F..%2Fy",
        "x%2Fy",
        "..%5C..",
        "%2F",
        "%2Fetc%2Fpasswd",
        "%00",
        "x%00",
        "%252e%252e",
        ".",
        "~",
        "%",
        "%2",
        "%zz",
        "%ff",
        "%c0%ae%c0%ae",
    ];
    for (number, trick) in tricks.into_iter().enumerate() {
        let broken = number >= tricks.len() - 5;
        for (method, target, status, code) in [
            (
                "GET",
                format!("/v2/{trick}/manifests/v1"),
                400,
                "NAME_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/{trick}/manifests/v1"),
                400,
                "NAME_INVALID",
            ),
            (
                "GET",
                format!("/v2/{trick}/app/manifests/v1"),
                400,
                "NAME_INVALID",
            ),
            (
                "PUT",
                format!("/v2/team/{trick}/manifests/v1"),
                400,
                "NAME_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/{trick}/blobs/{}", image.layer.digest),
                400,
                "NAME_INVALID",
            ),
            ("GET", format!("/v2/{trick}/tags/list"), 400, "NAME_INVALID"),
            (
                "GET",
                format!("/v2/{trick}/referrers/{NOBODY}"),
                400,
                "NAME_INVALID",
            ),
            (
                "POST",
                format!("/v2/team/{trick}/blobs/uploads/"),
                400,
                "NAME_INVALID",
            ),
            (
                "PATCH",
                format!("/v2/team/{trick}/blobs/uploads/{id}"),
                400,
                "NAME_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/app/manifests/{trick}"),
                400,
                "TAG_INVALID",
            ),
            (
                "PUT",
                format!("/v2/team/app/manifests/{trick}"),
                400,
                "TAG_INVALID",
            ),
            (
                "DELETE",
                format!("/v2/team/app/manifests/{trick}"),
                400,
                "TAG_INVALID",
            ),
            (
                "PUT",
                format!("{by_digest}?tag={trick}"),
                400,
                "TAG_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/app/manifests/sha256:{trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/app/blobs/{trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/app/blobs/sha256:{trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "DELETE",
                format!("/v2/team/app/blobs/sha256:{trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/app/referrers/{trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "POST",
                format!("/v2/a/blobs/uploads/?digest={trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "PUT",
                format!("{upload}?digest={trick}"),
                400,
                "DIGEST_INVALID",
            ),
            (
                "GET",
                format!("/v2/team/app/blobs/uploads/{trick}"),
                404,
                "BLOB_UPLOAD_UNKNOWN",
            ),
            (
                "PATCH",
                format!("/v2/team/app/blobs/uploads/{trick}"),
                404,
                "BLOB_UPLOAD_UNKNOWN",
            ),
            (
                "DELETE",
                format!("/v2/team/app/blobs/uploads/{trick}"),
                404,
                "BLOB_UPLOAD_UNKNOWN",
            ),
        ] {
            let request = registry
                .request(method, &target)
                .header("Content-Type", INDEX);
            let response = request.body(&manifest).send().await;
            match broken {
                true => response.refused(400, "NAME_INVALID"),
                false => response.refused(status, code),
            };
        }
        for target in [
            format!("/v2/team/app/tags/{trick}"),
            format!("/{trick}"),
            format!("/{trick}/v2/team/app/manifests/v1"),
            format!("/v2/{trick}"),
            format!("/v2/team/app/{trick}"),
        ] {
            registry
                .get(&target)
                .send()
                .await
                .refused(404, "UNSUPPORTED");
        }
        let ok = if broken { 400 } else { 200 };
        // As the cursor of a list, anything is a place to begin.
        for target in ["/v2/team/app/tags/list", "/v2/_catalog"] {
            let target = format!("{target}?last={trick}");
            registry.get(&target).send().await.expect(ok);
        }
        // As the source of a mount, it is none.
        let query = format!("mount={}&from={trick}", image.layer.digest);
        let response = registry
            .post(format!("/v2/b/blobs/uploads/?{query}"))
            .send()
            .await;
        match broken {
            true => drop(response.expect(400)),
            false => {
                let session = response.expect(202).location();
                registry.delete(session).send().await.expect(204);
            }
        }
    }
    // Folders of the layout are no components of names.
    for trick in ["_uploads", "_manifests", "_layers", "_manifests%2Ftags"] {
        let target = format!("/v2/team/app/{trick}/tags/list");
        registry
            .get(target)
            .send()
            .await
            .refused(400, "NAME_INVALID");
        let target = format!("/v2/{trick}/tags/list");
        registry
            .get(target)
            .send()
            .await
            .refused(404, "UNSUPPORTED");
    }
    assert_eq!(registry.everything().await, before);
    registry.get(upload).send().await.expect(204);
}

#[tokio::test]
async fn sessions_that_are_none() {
    let registry = Registry::start().await;
    let real = registry.start_upload("a").await;
    let real = real.rsplit('/').next().unwrap();
    let before = registry.everything().await;
    let digest = sha256(b"content");
    for id in [
        NO_SESSION,
        "x",
        "0",
        "uploads",
        "00000000-0000-0000-0000-000000000000",
        &real.to_uppercase(),
        &real.replace('-', ""),
        &format!("{{{real}}}")
            .replace('{', "%7B")
            .replace('}', "%7D"),
        &format!("urn:uuid:{real}"),
        &format!("{real}0"),
        &real[1..],
    ] {
        if id == real {
            continue;
        }
        let target = format!("/v2/a/blobs/uploads/{id}");
        for method in ["GET", "PATCH", "DELETE"] {
            let response = registry
                .request(method, &target)
                .body("content")
                .send()
                .await;
            let message = response.refused(404, "BLOB_UPLOAD_UNKNOWN");
            assert!(message.contains("start"), "{message}");
        }
        let response = registry
            .put(format!("{target}?digest={digest}"))
            .body("content")
            .send()
            .await;
        response.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    // Of another repository.
    let target = format!("/v2/b/blobs/uploads/{real}");
    registry
        .patch(target)
        .body("x")
        .send()
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn a_body_cut_off_in_the_middle() {
    let registry = Registry::start().await;
    let digest = sha256(b"content");
    let manifest = pretty(&index(&[]));
    let location = registry.start_upload("a").await;
    // Three of seven bytes, in either way to say how many there are.
    for chunked in [false, true] {
        for target in [
            "POST /v2/a/blobs/uploads/?digest=DIGEST".to_owned(),
            "PUT /v2/a/manifests/v1".to_owned(),
            format!("PUT /v2/a/manifests/{}", sha256(&manifest)),
            format!("PATCH {location}"),
            format!("PUT {location}?digest=DIGEST"),
        ] {
            let head = target.replace("DIGEST", &digest);
            let (length, body) = match chunked {
                true => ("Transfer-Encoding: chunked", "7\r\ncon"),
                false => ("Content-Length: 7", "con"),
            };
            let mut connection = registry.connect().await;
            connection
                .send(format!(
                    "{head} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n{body}"
                ))
                .await;
            connection.end_sending().await;
            let method = head.split(' ').next().unwrap();
            // Who only closed one half of the connection reads why.
            let response = connection.receive(method).await;
            let code = match head.contains("/manifests/") {
                true => "MANIFEST_INVALID",
                false => "BLOB_UPLOAD_INVALID",
            };
            let message = response.refused(400, code);
            assert!(message.contains("broke off"), "{message}");
            assert!(registry.content().await.is_empty(), "{head}");
            registry.get("/v2/a/manifests/v1").send().await.expect(404);
        }
    }
    // The session has what came, four times over, and no other session is left.
    let response = registry.get(&location).send().await.expect(204);
    assert_eq!(response.header("Range"), "0-11");
    registry.delete(&location).send().await.expect(204);
    assert!(registry.everything().await.is_empty());
}

#[tokio::test]
async fn a_body_that_is_framed_wrongly() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let digest = sha256(b"content");
    let mut arrived = 0;
    for (head, code) in [
        (format!("PATCH {location}"), "BLOB_UPLOAD_INVALID"),
        (
            format!("PUT {location}?digest={digest}"),
            "BLOB_UPLOAD_INVALID",
        ),
        (
            format!("POST /v2/a/blobs/uploads/?digest={digest}"),
            "BLOB_UPLOAD_INVALID",
        ),
        ("PUT /v2/a/manifests/v1".to_owned(), "MANIFEST_INVALID"),
    ] {
        let mut connection = registry.connect().await;
        connection
            .send(format!(
                "{head} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncon\r\nnonsense\r\n"
            ))
            .await;
        let method = head.split(' ').next().unwrap();
        let response = connection.receive(method).await;
        response.check();
        let message = response.refused(400, code);
        assert!(message.contains("broke off"), "{message}");
        // What follows on this connection can be nothing.
        assert_eq!(connection.rest().await, b"");
        if head.contains(&location) {
            arrived += 3;
        }
        let response = registry.get(&location).send().await.expect(204);
        assert_eq!(response.header("Range"), format!("0-{}", arrived - 1));
        assert!(registry.content().await.is_empty(), "{head}");
    }
    registry.delete(&location).send().await.expect(204);
    assert!(registry.everything().await.is_empty());
}

#[tokio::test]
async fn requests_that_are_no_http_get_an_answer_and_harm_nobody() {
    let registry = Registry::start().await;
    for bytes in [
        &b"\r\n\r\n\r\n"[..],
        b"hello\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v2/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense that is no frame at all, and long enough",
    ] {
        let mut connection = registry.connect().await;
        connection.send(bytes).await;
        connection.end_sending().await;
        let answer = connection.rest().await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains(" 200 ") && !text.contains(" 500 "), "{text}");
    }
    registry.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_is_served() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 16 << 20));
    registry.push_blob("a", &blob).await;
    let target = format!("/v2/a/blobs/{}", blob.digest);
    for _ in 0..10 {
        let mut connection = registry.connect().await;
        connection
            .send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        connection.begins("HTTP/1.1 200 OK\r\n").await;
    }
    let response = registry.get(&target).send().await.expect(200);
    assert!(response.body == blob.bytes);
}

#[tokio::test]
async fn a_client_of_http_2_that_goes_away_leaves_a_session_that_goes_on() {
    use std::convert::Infallible;

    use futures::StreamExt;
    use http_body::Frame;
    use http_body_util::StreamBody;

    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let first = Ok::<_, Infallible>(Frame::data(bytes::Bytes::from_static(b"con")));
    let body = futures::stream::iter([first]).chain(futures::stream::pending());
    let mut client = Http2::open(registry.address()).await;
    let request = http::Request::patch(format!("http://registry.test{location}"))
        .body(StreamBody::new(body))
        .unwrap();
    let gone = tokio::time::timeout(std::time::Duration::from_millis(200), client.send(request));
    assert!(gone.await.is_err(), "the body never ends");
    drop(client);
    eventually(
        || async {
            let response = registry.get(&location).send().await.expect(204);
            response.header("Range").to_owned()
        },
        "0-2".to_owned(),
    )
    .await;
    let request = registry.patch(&location).header("Content-Range", "3-6");
    request.body("tent").send().await.expect(202);
    let target = format!("{location}?digest={}", sha256(b"content"));
    registry.put(target).send().await.expect(201);
}
