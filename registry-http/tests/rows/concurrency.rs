//! Several clients at once, on one thing

use futures::future::join_all;

use super::support::*;

/// On memory and on a folder: locks and renames are the driver's
async fn on_each_driver() -> [Registry; 2] {
    [
        Registry::start().await,
        Registry::setup().on_disk().start().await,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_clients_push_one_blob() {
    for registry in on_each_driver().await {
        let blob = Blob::new(noise("x", 1_000_000));
        let target = format!("/v2/a/blobs/uploads/?digest={}", blob.digest);
        let pushes = (0..16).map(|number| {
            let (registry, blob, target) = (&registry, &blob, &target);
            async move {
                if number % 2 == 0 {
                    return registry.post(target).body(&blob.bytes).send().await;
                }
                let location = registry.start_upload("a").await;
                let target = format!("{location}?digest={}", blob.digest);
                registry.put(target).body(&blob.bytes).send().await
            }
        });
        for response in join_all(pushes).await {
            let place = response.expect(201).location();
            let served = registry.get(place).send().await.expect(200);
            assert!(served.body == blob.bytes);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pushes_of_one_tag_leave_one_of_the_two() {
    for registry in on_each_driver().await {
        let one = registry.push_image("a", "one", "one").await;
        let two = registry.push_image("a", "two", "two").await;
        for round in 0..20 {
            let tag = format!("race-{}", round % 4);
            let push = |image: &Image| {
                let request = registry.put_manifest("a", &tag, MANIFEST, &image.bytes);
                request.send()
            };
            let target = format!("/v2/a/manifests/{tag}");
            let read = || registry.get(&target).send();
            let (first, second, during) = tokio::join!(push(&one), push(&two), read());
            first.expect(201);
            second.expect(201);
            let after = read().await.expect(200);
            let mut seen = vec![after];
            // The first time there may be nothing yet; later there is always something.
            if round >= 4 {
                seen.push(during.expect(200));
            }
            for response in seen {
                let digest = response.header("Docker-Content-Digest");
                let image = [&one, &two]
                    .into_iter()
                    .find(|image| image.digest == digest);
                let image = image.unwrap_or_else(|| panic!("{digest} is neither"));
                assert_eq!(response.body, image.bytes);
            }
        }
        for image in [&one, &two] {
            let target = format!("/v2/a/manifests/{}", image.digest);
            registry.get(target).send().await.expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_on_one_session() {
    for registry in on_each_driver().await {
        let location = registry.start_upload("a").await;
        // One is in the middle of its chunk.
        let mut first = registry.connect().await;
        first
            .send(format!(
                "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Range: 0-6\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n"
            ))
            .await;
        first.continued().await;
        first.send("con").await;
        // The other may not touch the session, and is told to come again.
        let target = format!("{location}?digest={}", sha256(b"other"));
        for request in [
            registry
                .patch(&location)
                .header("Content-Range", "0-4")
                .body("other"),
            registry.patch(&location).chunked(&[b"other"]),
            registry.put(&target).body("other"),
        ] {
            let response = request.send().await;
            response.refused(503, "UNAVAILABLE");
            assert_eq!(response.header("Retry-After"), "1");
        }
        // To ask is always allowed.
        registry.get(&location).send().await.expect(204);
        first.send("tent").await;
        let response = first.receive("PATCH").await.expect(202);
        assert_eq!(response.header("Range"), "0-6");
        // Coming again, it learns that its place is taken.
        let request = registry.patch(&location).header("Content-Range", "0-4");
        let response = request.body("other").send().await;
        response.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(response.header("Range"), "0-6");
        let target = format!("{location}?digest={}", sha256(b"content"));
        registry.put(target).send().await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_chunks_never_mix() {
    for registry in on_each_driver().await {
        for round in 0..10 {
            let location = registry.start_upload("a").await;
            let chunks = [noise("one", 200_000), noise("two", 200_000)];
            let patch = |chunk: &[u8]| {
                let request = registry
                    .patch(&location)
                    .header("Content-Range", "0-199999");
                request.body(chunk).send()
            };
            let (one, two) = tokio::join!(patch(&chunks[0]), patch(&chunks[1]));
            let statuses = [one.status, two.status];
            let winner = statuses.iter().position(|status| *status == 202);
            let winner = winner.unwrap_or_else(|| panic!("nobody won: {statuses:?}"));
            let loser = statuses[1 - winner];
            assert!(matches!(loser, 416 | 503), "{statuses:?}");
            let target = format!("{location}?digest={}", sha256(&chunks[winner]));
            let response = registry.put(target).send().await;
            assert_eq!(response.status, 201, "round {round}: {}", response.text());
            registry
                .delete(response.location())
                .send()
                .await
                .expect(202);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_closed_once() {
    for registry in on_each_driver().await {
        for _ in 0..10 {
            let location = registry.start_upload("a").await;
            registry
                .patch(&location)
                .body("content")
                .send()
                .await
                .expect(202);
            let digest = sha256(b"content");
            let close = || registry.put(format!("{location}?digest={digest}")).send();
            let cancel = registry.delete(&location).send();
            let (one, two, cancelled) = tokio::join!(close(), close(), cancel);
            for response in [&one, &two] {
                assert!(
                    matches!(response.status, 201 | 404 | 503),
                    "{}",
                    response.text()
                );
            }
            assert!(
                matches!(cancelled.status, 204 | 404),
                "{}",
                cancelled.text()
            );
            if one.status == 201 || two.status == 201 {
                let target = format!("/v2/a/blobs/{digest}");
                let served = registry.get(&target).send().await.expect(200);
                assert_eq!(served.text(), "content");
                registry.delete(target).send().await.expect(202);
            }
            // Whoever was too late to close finds nothing to go on with, or all of it.
            let response = registry.get(&location).send().await;
            assert!(matches!(response.status, 204 | 404), "{}", response.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_images_of_one_repository_at_once() {
    for registry in on_each_driver().await {
        let pushes = (0..16).map(|number| {
            let registry = &registry;
            async move {
                let (tag, seed) = (format!("v{number:02}"), (number % 4).to_string());
                registry.push_image("a", &tag, &seed).await
            }
        });
        let images = join_all(pushes).await;
        assert_eq!(registry.tags("a").await.len(), 16);
        for (number, image) in images.iter().enumerate() {
            let target = format!("/v2/a/manifests/v{number:02}");
            let response = registry.get(target).send().await.expect(200);
            assert_eq!(response.body, image.bytes);
            let target = format!("/v2/a/blobs/{}", image.layer.digest);
            let response = registry.get(target).send().await.expect(200);
            assert_eq!(response.body, image.layer.bytes);
        }
    }
}
