//! Rules Q8 to Q17 and Q21: what clients and proxies do to HTTP

use std::convert::Infallible;
use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body::Frame;
use http_body_util::{Empty, Full, StreamBody};
use serde_json::Value;

use super::support::*;

#[tokio::test]
async fn row_q08_content_is_never_compressed_and_lists_are() {
    let registry = Registry::start().await;
    let blob = Blob::new(vec![b'a'; 100_000]);
    registry.push_blob("a", &blob).await;
    registry.push_manifest("a", "v1", &image(&blob, &[])).await;
    let hex = &blob.digest["sha256:".len()..];
    for number in 0..300 {
        let tag = format!("docker/registry/v2/repositories/a/_manifests/tags/tag-{number:04}");
        registry
            .plant(&format!("{tag}/current/link"), format!("sha256:{hex}"))
            .await;
    }
    for accepted in [
        "gzip",
        "zstd, gzip, deflate",
        "*",
        "identity;q=0, gzip;q=0.1",
    ] {
        let ask = |method: &str, target: &str| {
            let request = registry.request(method, target);
            request.header("Accept-Encoding", accepted).send()
        };
        for (target, length) in [
            (format!("/v2/a/blobs/{}", blob.digest), Some(100_000)),
            ("/v2/a/manifests/v1".to_owned(), None),
        ] {
            let plain = registry.get(&target).send().await.expect(200);
            let response = ask("GET", &target).await.expect(200);
            assert_eq!(response.find("Content-Encoding"), None, "{target}");
            assert!(response.body == plain.body);
            let head = ask("HEAD", &target).await.expect(200);
            assert_eq!(head.header("Content-Length"), plain.body.len().to_string());
            assert!(length.is_none_or(|length| length == plain.body.len()));
        }
        let target = format!("/v2/a/blobs/{}", blob.digest);
        let request = registry.get(target).header("Accept-Encoding", accepted);
        let response = request
            .header("Range", "bytes=10-19")
            .send()
            .await
            .expect(206);
        assert_eq!(response.body, b"aaaaaaaaaa");

        let plain = registry.get("/v2/a/tags/list").send().await.expect(200);
        assert_eq!(plain.find("Content-Encoding"), None);
        assert_eq!(plain.header("Vary"), "Accept-Encoding");
        let response = ask("GET", "/v2/a/tags/list").await.expect(200);
        assert_eq!(response.header("Content-Encoding"), "gzip", "{accepted}");
        assert_eq!(response.header("Vary"), "Accept-Encoding");
        assert!(response.body.len() < plain.body.len());
        let mut unpacked = Vec::new();
        GzDecoder::new(&response.body[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, plain.body);
        let list: Value = serde_json::from_slice(&unpacked).unwrap();
        assert_eq!(list["tags"].as_array().unwrap().len(), 301);
    }
    for refused in ["identity", "gzip;q=0", "br, zstd"] {
        let request = registry
            .get("/v2/a/tags/list")
            .header("Accept-Encoding", refused);
        let response = request.send().await.expect(200);
        assert_eq!(response.find("Content-Encoding"), None, "{refused}");
    }
}

#[tokio::test]
async fn row_q09_a_pull_can_go_on_where_it_broke_off() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 6 << 20));
    registry.push_blob("a", &blob).await;
    let target = format!("/v2/a/blobs/{}", blob.digest);
    let size = blob.bytes.len();
    for offset in [0, 1, size / 2, size - 1] {
        let request = registry
            .get(&target)
            .header("Range", format!("bytes={offset}-"));
        let response = request.send().await.expect(206);
        assert_eq!(
            response.header("Content-Range"),
            format!("bytes {offset}-{}/{size}", size - 1)
        );
        assert!(response.body == blob.bytes[offset..]);
    }

    // Many begin and take only their part.
    for part in 0..20 {
        let offset = part * size / 20;
        let mut connection = registry.connect().await;
        connection
            .send(format!(
                "GET {target} HTTP/1.1\r\nHost: x\r\nRange: bytes={offset}-\r\n\r\n"
            ))
            .await;
        connection.begins("HTTP/1.1 206 Partial Content\r\n").await;
    }
    let response = registry.get(&target).send().await.expect(200);
    assert!(response.body == blob.bytes);

    // And one asks for many parts at once.
    let parts: Vec<(usize, usize)> = (0..500).map(|n| (n * 9000, n * 9000 + 99)).collect();
    let ranges: Vec<String> = parts
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    let request = registry
        .get(&target)
        .header("Range", format!("bytes={}", ranges.join(",")));
    let response = request.send().await.expect(206);
    let content_type = response.header("Content-Type").to_owned();
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let mut expected = Vec::new();
    for (first, last) in parts {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&blob.bytes[first..=last]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(response.body == expected);

    // Parts without end are the whole, once.
    let ranges = vec!["0-"; 300].join(",");
    let request = registry
        .get(&target)
        .header("Range", format!("bytes={ranges}"));
    let response = request.send().await.expect(200);
    assert!(response.body == blob.bytes);
}

#[tokio::test]
async fn row_q10_a_digest_of_unknown_kind_is_found_by_trying() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    // On one connection, so that an answer with a body too much would spoil the next.
    let mut connection = registry.connect().await;
    for (method, kind, digest, status) in [
        ("HEAD", "blobs", &image.digest, 404),
        ("HEAD", "manifests", &image.digest, 200),
        ("HEAD", "manifests", &image.layer.digest, 404),
        ("HEAD", "blobs", &image.layer.digest, 200),
        ("GET", "manifests", &image.layer.digest, 404),
        ("GET", "blobs", &image.layer.digest, 200),
        ("GET", "blobs", &image.digest, 404),
        ("GET", "manifests", &image.digest, 200),
    ] {
        connection
            .send(format!(
                "{method} /v2/a/{kind}/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"
            ))
            .await;
        let response = connection.receive(method).await;
        response.check();
        assert_eq!(response.status, status, "{method} {kind} {digest}");
        assert_ne!(response.find("Connection"), Some("close"));
    }
}

#[tokio::test]
async fn row_q12_the_probe_for_referrers_finds_them() {
    let registry = Registry::start().await;
    for name in ["nobody", "a"] {
        if name == "a" {
            registry.push_image("a", "v1", "x").await;
        }
        let target = format!("/v2/{name}/referrers/{NOBODY}");
        let request = registry.get(target).header("Accept", INDEX);
        let response = request.send().await.expect(200);
        assert_eq!(response.header("Content-Type"), INDEX);
        assert_eq!(response.json()["manifests"], serde_json::json!([]));
    }
}

#[tokio::test]
async fn row_q13_a_body_is_asked_for_only_when_it_is_wanted() {
    let registry = Registry::setup().authenticator(Login::ada()).start().await;
    let location = registry.start_upload("a").await;
    let digest = sha256(b"content");
    let expecting = |method: &str, target: &str| {
        format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-continue\r\n"
        )
    };
    // Refused for what the head says: the body never comes.
    let wrong = basic("ada", "wrong");
    for (method, target, extra, status) in [
        (
            "PATCH",
            location.clone(),
            format!("Authorization: {wrong}\r\n"),
            401,
        ),
        (
            "PUT",
            format!("{location}?digest=nonsense"),
            String::new(),
            400,
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?digest=nonsense".to_owned(),
            String::new(),
            400,
        ),
        ("PUT", location.clone(), String::new(), 400),
        (
            "PATCH",
            format!("/v2/a/blobs/uploads/{NO_SESSION}"),
            String::new(),
            404,
        ),
        (
            "PUT",
            format!("/v2/a/blobs/uploads/{NO_SESSION}?digest={digest}"),
            String::new(),
            404,
        ),
        (
            "PATCH",
            location.clone(),
            "Content-Range: 3-9\r\n".to_owned(),
            416,
        ),
        ("PUT", "/v2/A/manifests/v1".to_owned(), String::new(), 400),
        (
            "PUT",
            "/v2/a/manifests/v1".to_owned(),
            "Content-Type: /\r\n".to_owned(),
            400,
        ),
    ] {
        let mut connection = registry.connect().await;
        connection
            .send(format!("{}{extra}\r\n", expecting(method, &target)))
            .await;
        let response = connection.receive(method).await;
        response.check();
        assert_eq!(
            response.status,
            status,
            "{method} {target}: {}",
            response.text()
        );
        assert!(response.interim.is_empty(), "{method} {target}");
    }
    // Wanted.
    for (method, target, status) in [
        ("PATCH", location.clone(), 202),
        ("POST", format!("/v2/a/blobs/uploads/?digest={digest}"), 201),
        ("PUT", format!("/v2/a/manifests/{digest}"), 400),
    ] {
        let mut connection = registry.connect().await;
        connection
            .send(format!("{}\r\n", expecting(method, &target)))
            .await;
        connection.continued().await;
        connection.send("content").await;
        let response = connection.receive(method).await;
        assert_eq!(
            response.status,
            status,
            "{method} {target}: {}",
            response.text()
        );
    }
}

#[tokio::test]
async fn row_q14_an_early_refusal_is_readable_behind_a_body() {
    let registry = Registry::setup()
        .authenticator(Login::ada())
        .policy(Rules(|principal, _| principal.name().is_some()))
        .start()
        .await;
    let body = noise("x", 8 << 20);
    for (target, status) in [
        ("/v2/a/blobs/uploads/?digest=nonsense".to_owned(), 400),
        (format!("/v2/a/blobs/uploads/?digest={NOBODY}"), 401),
    ] {
        // Written to the end before anything is read, as Go clients do.
        for request in [
            registry.post(&target).body(&body),
            registry.post(&target).chunked(&[&body]),
        ] {
            request.send().await.expect(status);
        }
    }
    // The connection stays good where the whole body was taken.
    let mut connection = registry.connect().await;
    connection
        .send("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nstray")
        .await;
    connection.receive("POST").await.expect(401);
    connection
        .send("GET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    connection.receive("GET").await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn row_q15_http_1_0_is_understood() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 500_000));
    let send = |request: Request| async {
        // Without `Host`, and answered without chunks: `send` sees to that.
        let response = request.http10().send().await;
        assert_eq!(response.version, "HTTP/1.0");
        response
    };
    send(registry.get("/v2/")).await.expect(200);
    let response = send(registry.post("/v2/a/blobs/uploads/").body("")).await;
    let location = response.expect(202).location();
    send(registry.patch(&location).body(&blob.bytes))
        .await
        .expect(202);
    send(registry.get(&location)).await.expect(204);
    let target = format!("{location}?digest={}", blob.digest);
    send(registry.put(target).body("")).await.expect(201);
    let request = registry.put_manifest("a", "v1", MANIFEST, &pretty(&image(&blob, &[])));
    send(request).await.expect(201);
    let place = format!("/v2/a/blobs/{}", blob.digest);
    for (target, status) in [
        (place.as_str(), 200),
        ("/v2/a/manifests/v1", 200),
        ("/v2/a/tags/list", 200),
        ("/v2/_catalog", 200),
        ("/v2/a/manifests/v2", 404),
        ("/v2/A/manifests/v2", 400),
    ] {
        let get = send(registry.get(target)).await.expect(status);
        let length = get.body.len().to_string();
        assert_eq!(get.header("Content-Length"), length);
        let head = send(registry.head(target)).await.expect(status);
        assert_eq!(head.header("Content-Length"), length);
    }
    let served = send(registry.get(&place)).await;
    assert!(served.body == blob.bytes);
    let request = registry.get(&place).header("Range", "bytes=0-9,20-29");
    send(request).await.expect(206);
}

#[tokio::test]
async fn row_q16_http_2_needs_no_length_and_no_marker() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 900_000));
    let mut client = Http2::open(registry.address()).await;
    let uri = |target: &str| format!("http://registry.test{target}");
    let streamed = |bytes: &[u8]| {
        let frames: Vec<_> = bytes
            .chunks(50_000)
            .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        StreamBody::new(futures::stream::iter(frames))
    };
    let request = http::Request::post(uri("/v2/a/blobs/uploads/")).body(Empty::new());
    let (status, headers, _) = client.send(request.unwrap()).await;
    assert_eq!(status, 202);
    let location = headers["location"].to_str().unwrap().to_owned();

    // Neither length nor range nor any other word about the body.
    let (first, second) = blob.bytes.split_at(600_000);
    let request = http::Request::patch(uri(&location))
        .body(streamed(first))
        .unwrap();
    assert!(request.headers().is_empty());
    let (status, headers, _) = client.send(request).await;
    assert_eq!(status, 202);
    assert_eq!(headers["range"], "0-599999");
    let request = http::Request::patch(uri(&location))
        .header("content-range", "7-8")
        .body(streamed(second));
    let (status, headers, _) = client.send(request.unwrap()).await;
    assert_eq!(status, 416);
    assert_eq!(headers["range"], "0-599999");
    let target = format!("{location}?digest={}", blob.digest);
    let request = http::Request::put(uri(&target)).body(streamed(second));
    let (status, headers, _) = client.send(request.unwrap()).await;
    assert_eq!(status, 201);
    assert_eq!(headers["docker-content-digest"], &*blob.digest);

    // An empty closing request, with and without an end of stream in its head.
    let empty = sha256(b"");
    let single = format!("/v2/a/blobs/uploads/?digest={empty}");
    let request = http::Request::post(uri(&single)).body(streamed(b""));
    assert_eq!(client.send(request.unwrap()).await.0, 201);
    let request = http::Request::post(uri(&single)).body(Empty::new());
    assert_eq!(client.send(request.unwrap()).await.0, 201);

    let manifest = Bytes::from(pretty(&image(&blob, &[])));
    let request = http::Request::put(uri("/v2/a/manifests/v1"))
        .header("content-type", MANIFEST)
        .body(Full::new(manifest.clone()));
    assert_eq!(client.send(request.unwrap()).await.0, 201);
    let request = http::Request::get(uri("/v2/a/manifests/v1")).body(Empty::new());
    let (status, headers, body) = client.send(request.unwrap()).await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-length"], manifest.len().to_string());
    assert_eq!(body, manifest);
    let place = uri(&format!("/v2/a/blobs/{}", blob.digest));
    let request = http::Request::get(&place).body(Empty::new());
    let (_, headers, body) = client.send(request.unwrap()).await;
    assert_eq!(headers["content-length"], "900000");
    assert!(body == blob.bytes);
    let request = http::Request::head(&place).body(Empty::new());
    let (status, headers, body) = client.send(request.unwrap()).await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-length"], "900000");
    assert!(body.is_empty());
}

#[tokio::test]
async fn row_q17_percent_encoding_is_undone_once() {
    let registry = Registry::start().await;
    let image = registry.push_image("team/app", "v1.0", "x").await;
    let escaped = |digest: &str| digest.replace(':', "%3A");
    let manifest = escaped(&image.digest);
    let layer = escaped(&image.layer.digest);
    for target in [
        format!("/v2/team/app/manifests/{manifest}"),
        format!("/v2/team/app/manifests/{}", manifest.replace("%3A", "%3a")),
        "/v2/team/app/manifests/v1%2E0".to_owned(),
        "/v2/t%65am/%61pp/manifests/v1.0".to_owned(),
        format!("/v2/team/app/blobs/{layer}"),
        format!("/v2/team/app/referrers/{manifest}"),
        "/v2/team/app/tags/list?last=%76".to_owned(),
    ] {
        registry.get(&target).send().await.expect(200);
    }
    // Twice encoded is not encoded.
    for (target, code) in [
        (
            format!("/v2/team/app/manifests/{}", manifest.replace('%', "%25")),
            "TAG_INVALID",
        ),
        (
            format!("/v2/team/app/blobs/{}", layer.replace('%', "%25")),
            "DIGEST_INVALID",
        ),
        ("/v2/team/%2561pp/manifests/v1.0".to_owned(), "NAME_INVALID"),
        // An encoded slash divides nothing.
        ("/v2/team%2Fapp/manifests/v1.0".to_owned(), "NAME_INVALID"),
        (
            "/v2/team/app/manifests/%2E%2E%2Fv1.0".to_owned(),
            "TAG_INVALID",
        ),
        (
            "/v2/team/app/x/../manifests/v1.0".to_owned(),
            "NAME_INVALID",
        ),
        (
            "/v2/team/app/%2E%2E/app/manifests/v1.0".to_owned(),
            "NAME_INVALID",
        ),
        ("/v2/team/app/./manifests/v1.0".to_owned(), "NAME_INVALID"),
    ] {
        registry.get(&target).send().await.refused(400, code);
    }
}

#[tokio::test]
async fn row_q21_long_targets_are_taken() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let state = "s".repeat(16 * 1024);
    let digest = sha256(b"content");
    let target = format!("{location}?_state={state}&digest={digest}");
    registry
        .put(target)
        .body("content")
        .send()
        .await
        .expect(201);

    let bytes = pretty(&index(&[]));
    let tags: Vec<String> = (0..64).map(|number| format!("{number:0>128}")).collect();
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let target = format!("/v2/a/manifests/{}?{}", sha256(&bytes), query.join("&"));
    assert!(target.len() > 8 * 1024);
    let request = registry
        .put(&target)
        .header("Content-Type", INDEX)
        .body(&bytes);
    request.send().await.expect(201);
    assert_eq!(registry.tags("a").await, tags);

    let mut client = Http2::open(registry.address()).await;
    let request = http::Request::put(format!("http://registry.test{target}"))
        .header("content-type", INDEX)
        .body(Full::new(Bytes::from(bytes)));
    assert_eq!(client.send(request.unwrap()).await.0, 201);
}
