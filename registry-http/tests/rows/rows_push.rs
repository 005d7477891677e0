//! Rules 29 to 52: pushing blobs, in one request, in two, in chunks, and by mounting

use super::support::*;

/// Asserts where a session stands, by its answer to GET
async fn stands_at(registry: &Registry, location: &str, range: &str) {
    let response = registry.get(location).send().await.expect(204);
    assert_eq!(response.header("Range"), range);
}

/// Asserts that the session is none any more
async fn is_gone(registry: &Registry, location: &str) {
    let response = registry.get(location).send().await;
    response.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn row_029_a_digest_that_is_not_right_is_400_in_every_way_to_push() {
    let registry = Registry::start().await;
    let wrong = sha256(b"something else");
    let right = sha256(b"content");
    let bad = [
        wrong.as_str(),
        &sha512(b"something else"),
        "sha256:0",
        "nonsense",
        "md5:9a0364b9e99bb480dd25e1f0284c8555",
    ];
    for digest in bad {
        let computed = match digest.split_once(':') {
            Some(("sha512", _)) => sha512(b"content"),
            _ => right.clone(),
        };
        let refused = |response: Response| {
            let message = response.refused(400, "DIGEST_INVALID");
            if digest.len() > 70 {
                // What was expected and what came.
                assert!(message.contains(digest), "{message}");
                assert!(message.contains(&computed), "{message}");
            }
        };

        let target = format!("/v2/a/blobs/uploads/?digest={digest}");
        refused(registry.post(target).body("content").send().await);
        assert!(
            registry.everything().await.is_empty(),
            "a post of `{digest}` leaves something behind"
        );

        // Whole in the closing request.
        let whole = registry.start_upload("a").await;
        let target = format!("{whole}?digest={digest}");
        refused(registry.put(target).body("content").send().await);

        // One chunk, then an empty closing request.
        let patched = registry.start_upload("a").await;
        registry
            .patch(&patched)
            .header("Content-Range", "0-6")
            .body("content")
            .send()
            .await
            .expect(202);
        let target = format!("{patched}?digest={digest}");
        refused(registry.put(target).send().await);
        stands_at(&registry, &patched, "0-6").await;

        // The last chunk in the closing request.
        let last = registry.start_upload("a").await;
        registry.patch(&last).body("con").send().await.expect(202);
        let target = format!("{last}?digest={digest}");
        let request = registry.put(target).header("Content-Range", "3-6");
        refused(request.body("tent").send().await);

        // A stream, then an empty closing request.
        let streamed = registry.start_upload("a").await;
        let request = registry.patch(&streamed).chunked(&[b"con", b"tent"]);
        request.send().await.expect(202);
        let target = format!("{streamed}?digest={digest}");
        refused(registry.put(target).body("").send().await);

        assert!(registry.content().await.is_empty(), "`{digest}` is stored");
        // Who only erred in the digest completes the session with the right one.
        for location in [patched, streamed] {
            let target = format!("{location}?digest={right}");
            registry.put(target).send().await.expect(201);
        }
        for location in [whole, last] {
            registry.delete(location).send().await.expect(204);
        }
        let target = format!("/v2/a/blobs/{right}");
        registry.delete(target).send().await.expect(202);
        registry.uproot("docker").await;
    }
}

#[tokio::test]
async fn row_030_a_post_opens_a_session() {
    let registry = Registry::start().await;
    for target in ["/v2/a/blobs/uploads/", "/v2/a/blobs/uploads"] {
        let response = registry.post(target).body("").send().await.expect(202);
        let location = response.location();
        assert!(location.starts_with("/v2/a/blobs/uploads/"), "{location}");
        stands_at(&registry, &location, "0-0").await;
    }
}

#[tokio::test]
async fn row_031_the_location_has_a_uuid_of_its_own() {
    let registry = Registry::start().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let location = registry.start_upload("a").await;
        let path = location.split('?').next().unwrap();
        let id = path.rsplit('/').next().unwrap();
        let id = uuid::Uuid::try_parse(id).unwrap();
        assert_eq!(id.get_version_num(), 4);
        assert!(seen.insert(id));
    }
}

#[tokio::test]
async fn row_033_a_put_closes_the_session_with_a_blob() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 100_000));
    let location = registry.start_upload("a").await;
    let response = registry
        .put(format!("{location}?digest={}", blob.digest))
        .header("Content-Type", "application/octet-stream")
        .body(&blob.bytes)
        .send()
        .await
        .expect(201);
    let served = registry.get(response.location()).send().await.expect(200);
    assert!(served.body == blob.bytes);
    is_gone(&registry, &location).await;
    // Once more: there is no such session any more.
    registry
        .put(format!("{location}?digest={}", blob.digest))
        .body(&blob.bytes)
        .send()
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn row_034_the_digest_is_found_by_its_name() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    let escaped = blob.digest.replace(':', "%3A");
    for query in [
        format!("_state=abc&digest={}", blob.digest),
        format!("digest={}&_state=abc", blob.digest),
        format!("x&=&&mydigest=sha256:0&digest={escaped}&digestx=1"),
        format!("digest=&digest={}", blob.digest),
    ] {
        let location = registry.start_upload("a").await;
        let target = format!("{location}?{query}");
        let response = registry
            .put(target)
            .body("content")
            .send()
            .await
            .expect(201);
        assert_eq!(
            response.header("Docker-Content-Digest"),
            blob.digest,
            "{query}"
        );
    }
    // Without one the session is not closed.
    let location = registry.start_upload("a").await;
    for query in ["", "?digest=", "?mydigest=x"] {
        let target = format!("{location}{query}");
        let response = registry.put(target).body("content").send().await;
        response.refused(400, "DIGEST_INVALID");
    }
    stands_at(&registry, &location, "0-0").await;
}

#[tokio::test]
async fn row_035_a_single_post_is_enough() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 100_000));
    let target = format!("/v2/a/blobs/uploads/?digest={}", blob.digest);
    let sized = registry.post(&target).body(&blob.bytes);
    let chunked = registry
        .post(&target)
        .chunked(&[&blob.bytes[..7], &blob.bytes[7..]]);
    for request in [sized, chunked] {
        let response = request.send().await.expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), blob.digest);
        let served = registry.get(response.location()).send().await.expect(200);
        assert!(served.body == blob.bytes);
    }
    let left: Vec<String> = registry.everything().await.into_keys().collect();
    assert!(
        !left.iter().any(|key| key.contains("_uploads/")),
        "{left:?}"
    );
}

#[tokio::test]
async fn row_037_a_session_can_be_closed_with_sha512() {
    let registry = Registry::start().await;
    let bytes = noise("x", 100_000);
    let digest = sha512(&bytes);
    for chunks in [0, 1, 3] {
        let location = registry.start_upload("a").await;
        let (early, late) = match chunks {
            0 => (&bytes[..0], &bytes[..]),
            _ => bytes.split_at(60_000),
        };
        for part in early.chunks(60_000 / chunks.max(1)) {
            registry
                .patch(&location)
                .body(part)
                .send()
                .await
                .expect(202);
        }
        let response = registry
            .put(format!("{location}?digest={digest}"))
            .body(late)
            .send()
            .await
            .expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), digest);
        assert_eq!(response.location(), format!("/v2/a/blobs/{digest}"));
        let served = registry.get(response.location()).send().await.expect(200);
        assert_eq!(served.header("Docker-Content-Digest"), digest);
        assert!(served.body == bytes);
        // The same bytes under their other name are another blob.
        let target = format!("/v2/a/blobs/{}", sha256(&bytes));
        registry.head(target).send().await.expect(404);
        registry
            .delete(response.location())
            .send()
            .await
            .expect(202);
    }
}

#[tokio::test]
async fn row_038_a_session_can_announce_its_algorithm() {
    let registry = Registry::start().await;
    let bytes = noise("x", 100_000);
    for (announced, digest) in [
        ("sha512", sha512(&bytes)),
        ("sha256", sha256(&bytes)),
        ("sha512", sha256(&bytes)),
    ] {
        let target = format!("/v2/a/blobs/uploads/?digest-algorithm={announced}");
        let location = registry.post(target).send().await.expect(202).location();
        let (first, second) = bytes.split_at(40_000);
        for part in [first, second] {
            registry
                .patch(&location)
                .body(part)
                .send()
                .await
                .expect(202);
        }
        let target = format!("{location}?digest={digest}");
        let response = registry.put(target).send().await.expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), digest);
        let served = registry.get(response.location()).send().await.expect(200);
        assert!(served.body == bytes);
    }
    let before = registry.everything().await;
    for unsupported in ["md5", "blake3", "SHA256", "sha256:"] {
        let target = format!("/v2/a/blobs/uploads/?digest-algorithm={unsupported}");
        let message = registry
            .post(target)
            .send()
            .await
            .refused(400, "DIGEST_INVALID");
        assert!(message.contains("sha256 or sha512"), "{message}");
    }
    assert_eq!(registry.everything().await, before);
}

#[tokio::test]
async fn row_039_the_post_of_a_chunked_upload_brings_no_bytes() {
    let registry = Registry::start().await;
    let target = "/v2/a/blobs/uploads/";
    for request in [
        registry.post(target).body(""),
        registry.post(target),
        // Against the rules. The session has none of it.
        registry.post(target).body("stray"),
        registry.post(target).chunked(&[b"stray"]),
    ] {
        let response = request.send().await.expect(202);
        assert_eq!(response.header("Range"), "0-0");
        let location = response.location();
        let target = format!("{location}?digest={}", sha256(b"content"));
        registry
            .put(target)
            .body("content")
            .send()
            .await
            .expect(201);
    }
}

#[tokio::test]
async fn row_040_chunks_may_have_any_size() {
    let registry = Registry::start().await;
    let response = registry.post("/v2/a/blobs/uploads/").send().await;
    assert_eq!(response.find("OCI-Chunk-Min-Length"), None);
    let location = response.location();
    let blob = Blob::new(noise("x", 30_011));
    let mut offset = 0;
    for size in [1, 2, 7, 1, 30_000] {
        let response = registry
            .patch(&location)
            .header("Content-Range", format!("{offset}-{}", offset + size - 1))
            .body(&blob.bytes[offset..offset + size])
            .send()
            .await
            .expect(202);
        offset += size;
        assert_eq!(response.header("Range"), format!("0-{}", offset - 1));
    }
    let target = format!("{location}?digest={}", blob.digest);
    registry.put(target).send().await.expect(201);
}

#[tokio::test]
async fn row_041_the_range_of_a_chunk() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let patch = |range: &str| registry.patch(&location).header("Content-Range", range);
    patch("0-3").body("cont").send().await.expect(202);
    let before = registry.everything().await;
    for malformed in [
        "4",
        "4-",
        "-7",
        "7-4",
        "4-x",
        "4_7",
        "+4-7",
        "chunks 4-7",
        "4-7-8",
    ] {
        let response = patch(malformed).body("ent!").send().await;
        let message = response.refused(400, "BLOB_UPLOAD_INVALID");
        assert!(message.contains(&format!("`{malformed}`")), "{message}");
        assert!(message.contains("Content-Range"), "{message}");
    }
    assert_eq!(registry.everything().await, before);
    stands_at(&registry, &location, "0-3").await;
    patch("4-6").body("ent").send().await.expect(202);
    let target = format!("{location}?digest={}", sha256(b"content"));
    registry.put(target).send().await.expect(201);
}

#[tokio::test]
async fn row_042_a_chunk_is_answered_with_what_is_stored() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 1_000_000));
    let mut location = registry.start_upload("a").await;
    let mut end = 0;
    for chunk in blob.bytes.chunks(300_000) {
        let start = end;
        end += chunk.len();
        let response = registry
            .patch(&location)
            .header("Content-Range", format!("{start}-{}", end - 1))
            .header("Content-Type", "application/octet-stream")
            .body(chunk)
            .send()
            .await
            .expect(202);
        assert_eq!(response.header("Range"), format!("0-{}", end - 1));
        location = response.location();
    }
    let target = format!("{location}?digest={}", blob.digest);
    let response = registry.put(target).send().await.expect(201);
    let served = registry.get(response.location()).send().await.expect(200);
    assert!(served.body == blob.bytes);
}

#[tokio::test]
async fn row_043_a_chunk_out_of_order_is_416_and_the_session_goes_on() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let patch = |range: &'static str, body: &'static str| {
        let request = registry.patch(&location).header("Content-Range", range);
        request.body(body).send()
    };
    // A gap before there is anything.
    let response = patch("3-6", "tent").await;
    let message = response.refused(416, "BLOB_UPLOAD_INVALID");
    assert!(
        message.contains("byte 0") && message.contains("at 3"),
        "{message}"
    );
    assert_eq!(response.header("Range"), "0-0");

    patch("0-2", "con").await.expect(202);
    // A gap, an overlap, and the same chunk again.
    for (range, body) in [("4-6", "ent"), ("2-6", "ntent"), ("0-2", "con")] {
        let response = patch(range, body).await;
        let message = response.refused(416, "BLOB_UPLOAD_INVALID");
        assert!(message.contains("byte 3"), "{message}");
        assert_eq!(response.header("Range"), "0-2", "{range}");
        assert_eq!(response.location(), location);
        stands_at(&registry, &location, "0-2").await;
    }
    patch("3-6", "tent").await.expect(202);
    let target = format!("{location}?digest={}", sha256(b"content"));
    let response = registry.put(target).send().await.expect(201);
    let served = registry.get(response.location()).send().await;
    assert_eq!(served.expect(200).text(), "content");
}

#[tokio::test]
async fn row_044_a_last_chunk_out_of_order_is_416_and_nothing_is_committed() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    registry
        .patch(&location)
        .body("con")
        .send()
        .await
        .expect(202);
    // The digest is right for what the client believes to have sent.
    for (range, body, digest) in [
        ("4-7", "tent", sha256(b"content")),
        ("0-6", "content", sha256(b"content")),
        ("2-5", "tent", sha256(b"contetent")),
        ("0-3", "tent", sha256(b"content")),
    ] {
        let response = registry
            .put(format!("{location}?digest={digest}"))
            .header("Content-Range", range)
            .body(body)
            .send()
            .await;
        response.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(response.header("Range"), "0-2", "{range}");
        assert_eq!(response.location(), location);
        assert!(registry.content().await.is_empty());
        stands_at(&registry, &location, "0-2").await;
    }
    registry
        .put(format!("{location}?digest={}", sha256(b"content")))
        .header("Content-Range", "3-6")
        .body("tent")
        .send()
        .await
        .expect(201);
}

#[tokio::test]
async fn row_045_a_session_says_where_it_stands() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let response = registry.get(&location).send().await.expect(204);
    assert_eq!(response.header("Range"), "0-0");
    assert_eq!(response.location(), location);
    registry.patch(&location).body("x").send().await.expect(202);
    stands_at(&registry, &location, "0-0").await;
    registry
        .patch(&location)
        .body("yz")
        .send()
        .await
        .expect(202);
    for target in [
        location.clone(),
        // What is left of a closing request.
        format!("{location}?digest={NOBODY}"),
        format!("{location}?digest=nonsense"),
    ] {
        stands_at(&registry, &target, "0-2").await;
        let response = registry.head(&target).send().await.expect(204);
        assert_eq!(response.header("Range"), "0-2");
    }
    // In another repository there is no such session.
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    is_gone(&registry, &elsewhere).await;
    let target = format!("{location}?digest={}", sha256(b"xyz"));
    registry.put(target).send().await.expect(201);
    is_gone(&registry, &location).await;
    is_gone(&registry, &format!("/v2/a/blobs/uploads/{NO_SESSION}")).await;
}

#[tokio::test]
async fn row_046_a_session_is_closed_with_or_without_a_last_chunk() {
    let registry = Registry::start().await;
    let digest = sha256(b"content");
    for way in [
        "empty",
        "no length",
        "empty stream",
        "ranged",
        "plain",
        "stream",
    ] {
        let location = registry.start_upload("a").await;
        let last = matches!(way, "ranged" | "plain" | "stream");
        let first = if last { "con" } else { "content" };
        registry
            .patch(&location)
            .body(first)
            .send()
            .await
            .expect(202);
        let request = registry.put(format!("{location}?digest={digest}"));
        let request = match way {
            "empty" => request.body(""),
            "no length" => request,
            "empty stream" => request.chunked(&[]),
            "ranged" => request.header("Content-Range", "3-6").body("tent"),
            "plain" => request.body("tent"),
            _ => request.chunked(&[b"te", b"nt"]),
        };
        let response = request.send().await.expect(201);
        let served = registry.get(response.location()).send().await;
        assert_eq!(served.expect(200).text(), "content", "{way}");
        is_gone(&registry, &location).await;
        registry
            .delete(response.location())
            .send()
            .await
            .expect(202);
    }
    // Nothing else closes one.
    let location = registry.start_upload("a").await;
    registry
        .patch(&location)
        .body("content")
        .send()
        .await
        .expect(202);
    registry
        .put(&location)
        .send()
        .await
        .refused(400, "DIGEST_INVALID");
    stands_at(&registry, &location, "0-6").await;
    assert_eq!(
        registry
            .head(format!("/v2/a/blobs/{digest}"))
            .send()
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn row_047_a_stream_is_appended_where_the_session_is() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let patch = |parts: &[&[u8]]| registry.patch(&location).chunked(parts).send();
    let response = patch(&[b"c", b"o", b"n"]).await.expect(202);
    assert_eq!(response.header("Range"), "0-2");
    let response = patch(&[b"tent"]).await.expect(202);
    assert_eq!(response.header("Range"), "0-6");
    // One without a byte changes nothing.
    let response = patch(&[]).await.expect(202);
    assert_eq!(response.header("Range"), "0-6");
    let target = format!("{location}?digest={}", sha256(b"content"));
    registry.put(target).send().await.expect(201);

    let blob = Blob::new(noise("x", 3_000_000));
    let location = registry.start_upload("a").await;
    let parts: Vec<&[u8]> = blob.bytes.chunks(123_457).collect();
    let response = registry.patch(&location).chunked(&parts).send().await;
    assert_eq!(response.expect(202).header("Range"), "0-2999999");
    let target = format!("{location}?digest={}", blob.digest);
    registry.put(target).send().await.expect(201);
}

#[tokio::test]
async fn row_048_a_session_can_be_cancelled() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    registry
        .patch(&location)
        .body("content")
        .send()
        .await
        .expect(202);
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    let response = registry.delete(elsewhere).send().await;
    response.refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.delete(&location).send().await.expect(204);
    assert!(registry.everything().await.is_empty());

    is_gone(&registry, &location).await;
    let digest = sha256(b"content");
    for (method, target) in [
        ("DELETE", location.clone()),
        ("PATCH", location.clone()),
        ("PUT", format!("{location}?digest={digest}")),
        ("DELETE", format!("/v2/a/blobs/uploads/{NO_SESSION}")),
    ] {
        let response = registry
            .request(method, target)
            .body("content")
            .send()
            .await;
        let message = response.refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert!(message.contains("start a new one"), "{message}");
    }
    assert!(registry.everything().await.is_empty());
}

#[tokio::test]
async fn row_049_an_unfinished_session_times_out() {
    let registry = Registry::start().await;
    for (started, alive) in [
        ("2020-02-02T02:02:02Z", false),
        ("2999-01-01T00:00:00Z", true),
    ] {
        let location = registry.start_upload("a").await;
        registry
            .patch(&location)
            .body("con")
            .send()
            .await
            .expect(202);
        let id = location.rsplit('/').next().unwrap();
        let folder = format!("docker/registry/v2/repositories/a/_uploads/{id}");
        registry
            .plant(&format!("{folder}/startedat"), started)
            .await;
        if alive {
            stands_at(&registry, &location, "0-2").await;
            continue;
        }
        registry
            .patch(&location)
            .body("tent")
            .send()
            .await
            .refused(404, "BLOB_UPLOAD_UNKNOWN");
        is_gone(&registry, &location).await;
        assert!(registry.everything().await.is_empty());
    }
}

#[tokio::test]
async fn row_050_a_blob_of_another_repository_is_mounted() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 100_000));
    registry.push_blob("library/source", &blob).await;
    let before = registry.content().await;
    let from = "from=library%2Fsource";
    let mount = format!("mount={}", blob.digest);
    let target = format!("/v2/target/blobs/uploads/?{mount}&{from}");
    let response = registry.post(target).body("").send().await.expect(201);
    assert_eq!(
        response.location(),
        format!("/v2/target/blobs/{}", blob.digest)
    );
    assert_eq!(response.header("Docker-Content-Digest"), blob.digest);
    let served = registry.get(response.location()).send().await.expect(200);
    assert!(served.body == blob.bytes);
    // A link, and no second copy.
    let after = registry.content().await;
    assert_eq!(after.len(), before.len() + 1);
    assert!(after.values().sum::<u64>() < before.values().sum::<u64>() + 100);
    // The source may go now.
    let target = format!("/v2/library/source/blobs/{}", blob.digest);
    registry.delete(target).send().await.expect(202);
    registry.head(response.location()).send().await.expect(200);
}

/// A registry whose repository `private` is for `ada` alone; it has the blob that is returned
async fn with_a_secret() -> (Registry, Blob) {
    let registry = Registry::setup()
        .authenticator(Login::ada())
        .policy(Rules(|principal, access| {
            principal.name().is_some() || !access.to_string().starts_with("repository:private:")
        }))
        .start()
        .await;
    let secret = Blob::new("nobody else may have this");
    registry
        .post(format!(
            "/v2/private/blobs/uploads/?digest={}",
            secret.digest
        ))
        .header("Authorization", basic("ada", "love:lace"))
        .body(&secret.bytes)
        .send()
        .await
        .expect(201);
    (registry, secret)
}

#[tokio::test]
async fn row_051_a_mount_without_a_source_looks_where_the_caller_may_pull() {
    let (registry, secret) = with_a_secret().await;
    let open = Blob::new("everyone may have this");
    registry.push_blob("open", &open).await;
    let mount = |digest: &str| {
        let target = format!("/v2/target/blobs/uploads/?mount={digest}");
        registry.post(target).body("")
    };
    let response = mount(&open.digest).send().await.expect(201);
    assert_eq!(
        response.location(),
        format!("/v2/target/blobs/{}", open.digest)
    );
    assert_eq!(response.header("Docker-Content-Digest"), open.digest);
    let served = registry.get(response.location()).send().await.expect(200);
    assert_eq!(served.body, open.bytes);

    let response = mount(&secret.digest).send().await.expect(202);
    assert_eq!(response.header("Range"), "0-0");
    let target = format!("/v2/target/blobs/{}", secret.digest);
    registry.head(&target).send().await.expect(404);
    // It was for want of the right and of nothing else.
    let request = mount(&secret.digest).header("Authorization", basic("ada", "love:lace"));
    request.send().await.expect(201);
    registry.head(&target).send().await.expect(200);
}

#[tokio::test]
async fn row_052_a_mount_that_does_not_work_is_an_upload() {
    let (registry, secret) = with_a_secret().await;
    let blob = Blob::new("content");
    registry.push_blob("source", &blob).await;
    for query in [
        // Not there, not anywhere, not a digest, not an algorithm, not a name.
        format!("mount={NOBODY}&from=source"),
        format!("mount={}&from=nobody", blob.digest),
        format!("mount={NOBODY}"),
        "mount=nonsense&from=source".to_owned(),
        "mount=md5:9a0364b9e99bb480dd25e1f0284c8555&from=source".to_owned(),
        format!("mount={}&from=A..b", blob.digest),
        format!("mount={}&from=..%2Fsource", blob.digest),
        // There, and not for this caller.
        format!("mount={}&from=private", secret.digest),
    ] {
        let target = format!("/v2/target/blobs/uploads/?{query}");
        let response = registry.post(target).body("").send().await.expect(202);
        assert_eq!(response.header("Range"), "0-0", "{query}");
        let location = response.location();
        let target = format!("{location}?digest={}", sha256(query.as_bytes()));
        registry.put(target).body(&query).send().await.expect(201);
    }
    for digest in [&blob.digest, &secret.digest] {
        let target = format!("/v2/target/blobs/{digest}");
        registry.head(target).send().await.expect(404);
    }
}
