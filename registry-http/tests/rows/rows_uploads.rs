//! Rules Q1 to Q7 and Q18 to Q20: how clients push, and what goes wrong on the way

use std::time::Duration;

use http_body_util::Empty;

use super::support::*;

#[tokio::test]
async fn row_q01_a_location_is_a_path_on_this_server() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    let manifest = pretty(&index(&[]));
    let behind_a_proxy = |request: Request| async {
        request
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "registry.example")
            .header("X-Forwarded-Port", "8443")
            .header("Forwarded", "proto=https;host=registry.example")
            .send()
            .await
            .location()
    };
    let uploads = "/v2/a/blobs/uploads/";
    let upload = behind_a_proxy(registry.post(uploads)).await;
    assert!(upload.starts_with(uploads), "{upload}");
    assert_eq!(
        behind_a_proxy(registry.patch(&upload).body("con")).await,
        upload
    );
    assert_eq!(behind_a_proxy(registry.get(&upload)).await, upload);
    let request = registry
        .patch(&upload)
        .header("Content-Range", "9-9")
        .body("x");
    assert_eq!(behind_a_proxy(request).await, upload);
    let place = format!("/v2/a/blobs/{}", blob.digest);
    let request = registry
        .put(format!("{upload}?digest={}", blob.digest))
        .body("tent");
    assert_eq!(behind_a_proxy(request).await, place);
    let request = registry
        .post(format!("{uploads}?digest={}", blob.digest))
        .body("content");
    assert_eq!(behind_a_proxy(request).await, place);
    let request = registry.post(format!("/v2/b/blobs/uploads/?mount={}&from=a", blob.digest));
    assert_eq!(behind_a_proxy(request).await, place.replace("/a/", "/b/"));
    let request = registry.put_manifest("a", "v1", INDEX, &manifest);
    let location = behind_a_proxy(request).await;
    assert_eq!(location, format!("/v2/a/manifests/{}", sha256(&manifest)));

    let mut client = Http2::open(registry.address()).await;
    let request = http::Request::post(format!("https://registry.example:8443{uploads}"))
        .body(Empty::new())
        .unwrap();
    let (status, headers, _) = client.send(request).await;
    assert_eq!(status, 202);
    assert!(headers["location"].to_str().unwrap().starts_with(uploads));
}

#[tokio::test]
async fn row_q02_an_older_location_of_a_session_stays_good() {
    let registry = Registry::start().await;
    let first = registry.start_upload("a").await;
    let response = registry.patch(&first).body("con").send().await.expect(202);
    let second = response.location();
    for (location, body, range) in [
        (&first, "t", "0-3"),
        (&second, "e", "0-4"),
        (&first, "n", "0-5"),
    ] {
        let response = registry.patch(location).body(body).send().await.expect(202);
        assert_eq!(response.header("Range"), range);
    }
    // What an URL says of the state does not count, what is stored does.
    let lie = format!("{first}?_state=eyJvZmZzZXQiOjk5OX0&offset=999");
    let response = registry.get(&lie).send().await.expect(204);
    assert_eq!(response.header("Range"), "0-5");
    let target = format!("{lie}&digest={}", sha256(b"content"));
    registry.put(target).body("t").send().await.expect(201);
}

#[tokio::test]
async fn row_q03_the_push_of_docker_and_podman() {
    let registry = Registry::start().await;
    for (seed, streamed) in [("docker", true), ("crane", false)] {
        let blob = Blob::new(noise(seed, 700_000));
        let place = format!("/v2/a/blobs/{}", blob.digest);
        registry.head(&place).send().await.expect(404);
        let location = registry.post("/v2/a/blobs/uploads/").body("").send().await;
        let location = location.expect(202).location();
        let request = registry.patch(&location);
        let request = if streamed {
            request.chunked(&blob.bytes.chunks(32_768).collect::<Vec<_>>())
        } else {
            request.body(&blob.bytes)
        };
        let response = request.send().await.expect(202);
        assert_eq!(response.header("Range"), "0-699999");
        let target = format!("{}?digest={}", response.location(), blob.digest);
        let response = registry.put(target).body("").send().await.expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), blob.digest);
        let response = registry.head(&place).send().await.expect(200);
        assert_eq!(response.header("Content-Length"), "700000");
    }
}

#[tokio::test]
async fn row_q04_the_push_of_containerd_and_oras() {
    let registry = Registry::start().await;
    for length in [700_000, 1, 0] {
        let blob = Blob::new(noise("containerd", length));
        let place = format!("/v2/a/blobs/{}", blob.digest);
        registry.head(&place).send().await.expect(404);
        let location = registry.start_upload("a").await;
        let request = registry
            .put(format!(
                "{location}?digest={}",
                blob.digest.replace(':', "%3A")
            ))
            .header("Content-Type", "application/octet-stream");
        let request = match length {
            0 => request.chunked(&[]),
            _ => request.body(&blob.bytes),
        };
        let response = request.send().await.expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), blob.digest);
        let response = registry.get(&place).send().await.expect(200);
        assert!(response.body == blob.bytes);
    }
}

#[tokio::test]
async fn row_q05_parameters_and_types_that_mean_nothing_do_no_harm() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    let escaped = blob.digest.replace(':', "%3A");
    registry.push_blob("x/y", &blob).await;
    for (number, query) in [
        format!("mount={}&from=x/y", blob.digest),
        format!("mount={escaped}&from=x%2Fy&origin=registry.example"),
        format!("from=x%2fy&origin=&mount={escaped}&x"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/v2/target{number}/blobs/uploads/?{query}");
        let request = registry
            .post(target)
            .header("Content-Type", "application/json");
        request.body("").send().await.expect(201);
    }
    for media_type in [None, Some("application/json"), Some("nonsense"), Some("")] {
        let typed = |request: Request| match media_type {
            Some(media_type) => request.header("Content-Type", media_type),
            None => request,
        };
        let request = registry.post("/v2/a/blobs/uploads/?origin=x&&").body("");
        let location = typed(request).send().await.expect(202).location();
        let request = registry.patch(format!("{location}?x=y")).body("con");
        typed(request).send().await.expect(202);
        let target = format!("{location}?x&digest={escaped}&y=z");
        typed(registry.put(target).body("tent"))
            .send()
            .await
            .expect(201);
    }
}

#[tokio::test]
async fn row_q06_a_push_can_be_read_at_once() {
    let registry = Registry::start().await;
    for number in 0..20 {
        let blob = Blob::new(format!("blob {number}"));
        registry.push_blob("a", &blob).await;
        let target = format!("/v2/a/blobs/{}", blob.digest);
        registry.head(target).send().await.expect(200);
        let target = format!("/v2/b/blobs/uploads/?mount={}&from=a", blob.digest);
        registry.post(target).send().await.expect(201);
        let target = format!("/v2/b/blobs/{}", blob.digest);
        registry.head(target).send().await.expect(200);
        // crane asks once more, and the blob is there already.
        let target = format!("/v2/b/blobs/uploads/?mount={}&from=nobody", blob.digest);
        registry.post(target).send().await.expect(201);
        let tag = format!("v{number}");
        registry.push_manifest("a", &tag, &image(&blob, &[])).await;
        registry
            .head(format!("/v2/a/manifests/{tag}"))
            .send()
            .await
            .expect(200);
        assert!(registry.tags("a").await.contains(&tag));
    }
    // podman gives the session back that it got instead of a mount.
    let target = format!("/v2/b/blobs/uploads/?mount={NOBODY}&from=a");
    let location = registry.post(target).send().await.expect(202).location();
    registry.delete(location).send().await.expect(204);
}

#[tokio::test]
async fn row_q07_only_the_start_of_a_content_range_counts() {
    let registry = Registry::start().await;
    let digest = sha256(b"content");
    // The end off by one, as if it were excluded; far off; of the whole.
    for (first, second) in [("0-3", "3-7"), ("0-9", "3-3"), ("0-6", "3-6")] {
        let location = registry.start_upload("a").await;
        for (range, body, stored) in [(first, "con", "0-2"), (second, "tent", "0-6")] {
            let request = registry.patch(&location).header("Content-Range", range);
            let response = request.body(body).send().await.expect(202);
            assert_eq!(response.header("Range"), stored, "{range}");
        }
        // A closing request without a body has no range that could be wrong.
        let request = registry.put(format!("{location}?digest={digest}"));
        let range = if first == "0-3" { "7-7" } else { "99-100" };
        let request = request.header("Content-Range", range).body("");
        request.send().await.expect(201);
    }
    for request in [
        |request: Request| request,
        |request: Request| request.chunked(&[]),
    ] {
        let location = registry.start_upload("a").await;
        registry
            .patch(&location)
            .body("content")
            .send()
            .await
            .expect(202);
        let close = registry.put(format!("{location}?digest={digest}"));
        let close = close.header("Content-Range", "0-6");
        request(close).send().await.expect(201);
    }
    // HTTP's own form is understood.
    let location = registry.start_upload("a").await;
    let request = registry
        .patch(&location)
        .header("Content-Range", "bytes 0-2/7");
    request.body("con").send().await.expect(202);
    let request = registry
        .patch(&location)
        .header("Content-Range", "bytes 4-6/*");
    request.body("ent").send().await.expect(416);
}

#[tokio::test]
async fn row_q18_of_a_broken_upload_what_arrived_is_kept_and_not_committed() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 200_000));
    for closing in [false, true] {
        let location = registry.start_upload("a").await;
        let head = match closing {
            false => format!("PATCH {location}"),
            true => format!("PUT {location}?digest={}", blob.digest),
        };
        let mut connection = registry.connect().await;
        connection
            .send(format!(
                "{head} HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n"
            ))
            .await;
        connection.send(&blob.bytes[..150_000]).await;
        // The client is gone.
        drop(connection);
        eventually(
            || async {
                let response = registry.get(&location).send().await.expect(204);
                response.header("Range").to_owned()
            },
            "0-149999".to_owned(),
        )
        .await;
        let place = format!("/v2/a/blobs/{}", blob.digest);
        registry.head(&place).send().await.expect(404);

        let response = registry
            .patch(&location)
            .header("Content-Range", "150000-199999")
            .body(&blob.bytes[150_000..])
            .send()
            .await
            .expect(202);
        assert_eq!(response.header("Range"), "0-199999");
        let target = format!("{location}?digest={}", blob.digest);
        registry.put(target).send().await.expect(201);
        let response = registry.get(&place).send().await.expect(200);
        assert!(response.body == blob.bytes);
        registry.delete(&place).send().await.expect(202);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_q19_all_who_push_the_same_digest_succeed() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 300_000));
    let place = format!("/v2/a/blobs/{}", blob.digest);
    let uploads = futures::future::join_all((0..16).map(|number| {
        let (registry, blob) = (&registry, &blob);
        async move {
            let single = format!("/v2/a/blobs/uploads/?digest={}", blob.digest);
            if number % 4 == 0 {
                return registry.post(single).body(&blob.bytes).send().await.status;
            }
            let location = registry.start_upload("a").await;
            let target = format!("{location}?digest={}", blob.digest);
            if number % 4 == 1 {
                return registry.put(target).body(&blob.bytes).send().await.status;
            }
            registry
                .patch(&location)
                .body(&blob.bytes)
                .send()
                .await
                .expect(202);
            registry.put(target).send().await.status
        }
    }))
    .await;
    assert_eq!(uploads, [201; 16]);
    let response = registry.get(&place).send().await.expect(200);
    assert!(response.body == blob.bytes);
    let everything = registry.everything().await;
    let copies = everything.values().filter(|size| **size == 300_000).count();
    assert_eq!(copies, 1, "{everything:?}");
}

#[tokio::test]
async fn row_q20_a_push_can_be_repeated() {
    let registry = Registry::start().await;
    let one = registry.push_image("a", "v1", "one").await;
    let two = registry.push_image("a", "v2", "two").await;
    for _ in 0..3 {
        let response = registry
            .put_manifest("a", &one.digest, MANIFEST, &one.bytes)
            .send()
            .await
            .expect(201);
        assert_eq!(response.header("Docker-Content-Digest"), one.digest);
    }
    for image in [&two, &one, &one, &two] {
        registry
            .put_manifest("a", "latest", MANIFEST, &image.bytes)
            .send()
            .await
            .expect(201);
        let response = registry
            .get("/v2/a/manifests/latest")
            .send()
            .await
            .expect(200);
        assert_eq!(response.body, image.bytes);
        assert_eq!(response.header("Docker-Content-Digest"), image.digest);
    }
    // What a tag has left stays by its digest.
    let target = format!("/v2/a/manifests/{}", one.digest);
    registry.get(target).send().await.expect(200);
    assert_eq!(registry.tags("a").await, ["latest", "v1", "v2"]);
    registry.push_blob("a", &one.layer).await;
}

#[tokio::test]
async fn a_slow_client_is_waited_for() {
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let mut connection = registry.connect().await;
    connection
        .send(format!(
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        ))
        .await;
    for byte in ["1\r\nc\r\n", "1\r\no\r\n", "1\r\nn\r\n"] {
        connection.send(byte).await;
        assert!(connection.is_silent(Duration::from_millis(50)).await);
    }
    connection.send("0\r\n\r\n").await;
    let response = connection.receive("PATCH").await.expect(202);
    assert_eq!(response.header("Range"), "0-2");
}
