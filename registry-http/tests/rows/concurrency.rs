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
        let blob = Blob::new(noise("x", 300_000));
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

/// What may come of requests that race for one session with seven bytes
const RACES: [&[&str]; 5] = [
    &["close", "close"],
    &["close", "cancel"],
    &["close", "close", "cancel"],
    &["close", "patch"],
    &["cancel", "patch"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_once() {
    for registry in on_each_driver().await {
        for race in RACES {
            let mut ended = Vec::new();
            for round in 0..25 {
                let content = format!("{race:?} {round}");
                let digest = sha256(content.as_bytes());
                let location = registry.start_upload("a").await;
                let request = registry.patch(&location).body(&content);
                request.send().await.expect(202);
                let requests = race.iter().map(|kind| {
                    let request = match *kind {
                        "close" => registry.put(format!("{location}?digest={digest}")),
                        "cancel" => registry.delete(&location),
                        _ => registry.patch(&location).body("more"),
                    };
                    request.send()
                });
                let answers = join_all(requests).await;
                let texts: Vec<_> = answers
                    .iter()
                    .map(|answer| format!("{} {}", answer.status, answer.text()))
                    .collect();
                let context = format!("{race:?}: {texts:?}");
                let mut closed = 0;
                let mut cancelled = 0;
                let mut patched = 0;
                for (kind, answer) in race.iter().zip(&answers) {
                    match (*kind, answer.status) {
                        ("close", 201) => closed += 1,
                        ("cancel", 204) => cancelled += 1,
                        ("patch", 202) => patched += 1,
                        // It came too late, or at the same time.
                        (_, 404 | 503) => {}
                        // What was patched in between has another digest.
                        ("close", 400) if race.contains(&"patch") => {}
                        _ => panic!("{context}"),
                    }
                }
                assert!(closed <= 1, "{context}");
                assert!(closed + cancelled + patched > 0, "{context}");
                assert!(
                    closed + patched <= 1,
                    "taken, and then not in it: {context}"
                );
                let session = registry.get(&location).send().await.status;
                if closed + cancelled > 0 {
                    assert_eq!(session, 404, "{context}");
                    ended.push(location.rsplit('/').next().unwrap().to_owned());
                } else {
                    assert_eq!(session, 204, "{context}");
                }
                let blob = registry.get(format!("/v2/a/blobs/{digest}")).send().await;
                assert_eq!(
                    blob.status,
                    if closed == 1 { 200 } else { 404 },
                    "{context}"
                );
                if closed == 1 {
                    assert_eq!(blob.text(), content, "{context}");
                }
            }
            let everything = registry.everything().await;
            let left = everything
                .keys()
                .find(|key| ended.iter().any(|id| key.contains(id)));
            assert_eq!(left, None, "{race:?} leaves something behind");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_cancelled_under_its_writer() {
    for registry in on_each_driver().await {
        for method in ["PATCH", "PUT"] {
            let digest = sha256(b"content");
            let location = registry.start_upload("a").await;
            let target = format!("{location}?digest={digest}");
            let mut writer = registry.connect().await;
            writer
                .send(format!(
                    "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n"
                ))
                .await;
            writer.continued().await;
            writer.send("con").await;
            let cancel = registry.delete(&location).send().await;
            writer.send("tent").await;
            let written = writer.receive(method).await;
            let place = format!("/v2/a/blobs/{digest}");
            match cancel.status {
                // It has to wait for the writer, who is not disturbed.
                503 => {
                    written.expect(if method == "PUT" { 201 } else { 202 });
                    if method == "PATCH" {
                        registry.delete(&location).send().await.expect(204);
                    } else {
                        registry.delete(&place).send().await.expect(202);
                    }
                }
                // It is done, and the writer learns of it.
                204 => {
                    written.refused(404, "BLOB_UPLOAD_UNKNOWN");
                    registry.head(&place).send().await.expect(404);
                }
                _ => panic!("{}", cancel.text()),
            }
            registry.get(&location).send().await.expect(404);
            let everything = registry.everything().await;
            let left: Vec<_> = everything
                .keys()
                .filter(|key| key.contains("_uploads/"))
                .collect();
            assert!(left.is_empty(), "{method}: {left:?}");
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
