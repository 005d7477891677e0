//! Rules 14 to 28: pulling manifests and blobs

use super::support::*;

#[tokio::test]
async fn row_014_a_manifest_is_served_as_it_came() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for reference in ["v1", &image.digest] {
        let target = format!("/v2/a/manifests/{reference}");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.body, image.bytes);
    }
}

#[tokio::test]
async fn row_015_a_manifest_comes_with_its_digest() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for method in ["GET", "HEAD"] {
        for reference in ["v1", &image.digest] {
            let target = format!("/v2/a/manifests/{reference}");
            let response = registry.request(method, target).send().await.expect(200);
            assert_eq!(response.header("Docker-Content-Digest"), image.digest);
        }
    }
}

#[tokio::test]
async fn row_016_the_digest_is_of_the_algorithm_that_was_asked_for() {
    let registry = Registry::start().await;
    let bytes = pretty(&index(&[]));
    let (short, long) = (sha256(&bytes), sha512(&bytes));
    registry
        .put_manifest("a", "short", INDEX, &bytes)
        .send()
        .await
        .expect(201);
    registry
        .put_manifest("a", format!("{long}?tag=long"), INDEX, &bytes)
        .send()
        .await
        .expect(201);
    for (reference, digest) in [
        (&*short, &*short),
        (&long, &long),
        ("short", &short),
        ("long", &long),
    ] {
        for method in ["GET", "HEAD"] {
            let target = format!("/v2/a/manifests/{reference}");
            let response = registry.request(method, target).send().await.expect(200);
            assert_eq!(response.header("Docker-Content-Digest"), digest);
        }
    }
}

#[tokio::test]
async fn row_017_the_content_type_is_the_one_that_was_pushed() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let child = descriptor(DOCKER_MANIFEST, &image.digest, image.bytes.len());
    for (tag, manifest) in [
        (
            "image",
            super::support::image(&image.config, &[&image.layer]),
        ),
        ("index", index(&[])),
        ("docker", docker_image(&image.config, &[&image.layer])),
        ("list", docker_list(&[child])),
    ] {
        let media_type = manifest["mediaType"].as_str().unwrap();
        for sent in [
            media_type.to_owned(),
            format!("{media_type}; charset=utf-8"),
        ] {
            registry
                .put_manifest("a", tag, &sent, &pretty(&manifest))
                .send()
                .await
                .expect(201);
            for method in ["GET", "HEAD"] {
                let target = format!("/v2/a/manifests/{tag}");
                let response = registry.request(method, target).send().await.expect(200);
                assert_eq!(response.header("Content-Type"), media_type);
            }
        }
    }
    // Where the body names no type, the one that it was sent with.
    let mut nameless = super::support::image(&image.config, &[]);
    nameless.as_object_mut().unwrap().remove("mediaType");
    registry
        .put_manifest("a", "nameless", MANIFEST, &pretty(&nameless))
        .send()
        .await
        .expect(201);
    let response = registry.get("/v2/a/manifests/nameless").send().await;
    assert_eq!(response.expect(200).header("Content-Type"), MANIFEST);
}

#[tokio::test]
async fn row_019_a_manifest_that_is_not_in_the_repository_is_404() {
    let registry = Registry::start().await;
    registry.push_image("a", "v1", "x").await;
    let image = registry.push_image("b", "v2", "y").await;
    for reference in ["v2", &image.digest, NOBODY] {
        let target = format!("/v2/a/manifests/{reference}");
        let message = registry
            .get(&target)
            .send()
            .await
            .refused(404, "MANIFEST_UNKNOWN");
        assert!(message.contains(reference), "{message}");
        let target = format!("/v2/nobody/manifests/{reference}");
        let message = registry
            .get(&target)
            .send()
            .await
            .refused(404, "NAME_UNKNOWN");
        assert!(message.contains("nobody"), "{message}");
    }
}

#[tokio::test]
async fn row_020_to_pull_from_a_repository_that_is_none_is_404() {
    let registry = Registry::start().await;
    let image = registry.push_image("a/b", "v1", "x").await;
    // A name that is the beginning of a name, and one that has a name at its beginning.
    for name in ["nobody", "a", "a/b/c"] {
        for reference in ["v1", &image.digest] {
            let target = format!("/v2/{name}/manifests/{reference}");
            registry
                .get(&target)
                .send()
                .await
                .refused(404, "NAME_UNKNOWN");
            registry.head(&target).send().await.expect(404);
        }
        let target = format!("/v2/{name}/blobs/{}", image.layer.digest);
        registry
            .get(&target)
            .send()
            .await
            .refused(404, "BLOB_UNKNOWN");
        registry.head(&target).send().await.expect(404);
    }
}

#[tokio::test]
async fn row_021_head_of_a_manifest() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for reference in ["v1", &image.digest] {
        let target = format!("/v2/a/manifests/{reference}");
        let response = registry.head(target).send().await.expect(200);
        assert_eq!(
            response.header("Content-Length"),
            image.bytes.len().to_string()
        );
        assert_eq!(response.header("Docker-Content-Digest"), image.digest);
        assert_eq!(response.header("Content-Type"), MANIFEST);
        assert_eq!(response.body, b"");
    }
    for target in [
        format!("/v2/a/manifests/{NOBODY}"),
        "/v2/a/manifests/v2".to_owned(),
    ] {
        registry.head(target).send().await.expect(404);
    }
}

#[tokio::test]
async fn row_022_a_blob_is_served_as_it_came() {
    let registry = Registry::start().await;
    for length in [1, 4096, 300_001, 3 << 20] {
        let blob = Blob::new(noise("x", length));
        registry.push_blob("a", &blob).await;
        let target = format!("/v2/a/blobs/{}", blob.digest);
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.header("Content-Length"), length.to_string());
        assert_eq!(response.header("Content-Type"), "application/octet-stream");
        assert!(
            response.body == blob.bytes,
            "{length} bytes came back changed"
        );
    }
}

#[tokio::test]
async fn row_023_a_blob_comes_with_its_digest() {
    let registry = Registry::start().await;
    let bytes = noise("x", 1000);
    for digest in [sha256(&bytes), sha512(&bytes)] {
        let target = format!("/v2/a/blobs/uploads/?digest={digest}");
        registry.post(target).body(&bytes).send().await.expect(201);
        let target = format!("/v2/a/blobs/{digest}");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.header("Docker-Content-Digest"), digest);
        assert_eq!(response.body, bytes);
    }
}

#[tokio::test]
async fn row_024_a_blob_of_another_repository_is_404() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    registry.push_blob("a", &blob).await;
    registry.push_image("b", "v1", "x").await;
    for name in ["b", "nobody", "a/b"] {
        let target = format!("/v2/{name}/blobs/{}", blob.digest);
        let message = registry
            .get(&target)
            .send()
            .await
            .refused(404, "BLOB_UNKNOWN");
        assert!(message.contains(&blob.digest), "{message}");
        let response = registry.get(&target).send().await;
        assert_eq!(response.errors()[0].2["digest"], blob.digest);
        registry.head(&target).send().await.expect(404);
    }
}

#[tokio::test]
async fn row_025_ranges_of_a_blob() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 1000));
    registry.push_blob("a", &blob).await;
    let target = format!("/v2/a/blobs/{}", blob.digest);
    let ask = |range: &str| registry.get(&target).header("Range", range).send();

    for (range, first, last) in [
        ("bytes=0-99", 0, 99),
        ("bytes=0-0", 0, 0),
        ("bytes=999-999", 999, 999),
        ("bytes=900-", 900, 999),
        ("bytes=-100", 900, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=900-5000", 900, 999),
        ("bytes=1-99999999999999999999999", 1, 999),
        ("bytes=0-", 0, 999),
    ] {
        let response = ask(range).await.expect(206);
        assert_eq!(
            response.header("Content-Range"),
            format!("bytes {first}-{last}/1000"),
            "{range}"
        );
        assert_eq!(
            response.header("Content-Length"),
            (last - first + 1).to_string()
        );
        assert_eq!(response.body, blob.bytes[first..=last], "{range}");
        assert_eq!(response.header("Docker-Content-Digest"), blob.digest);
    }

    for range in [
        "bytes=1000-",
        "bytes=1000-2000",
        "bytes=500-0",
        "bytes=-0",
        "bytes=2000-,5-1",
    ] {
        let response = ask(range).await;
        response.refused(416, "SIZE_INVALID");
        assert_eq!(response.header("Content-Range"), "bytes */1000", "{range}");
        assert_eq!(
            response.header("Content-Length"),
            response.body.len().to_string(),
            "{range}"
        );
    }

    // Section 14.2: what is no range of bytes is read over.
    for range in ["lines=1-2", "bytes", "bytes=", "bytes=a-b", "0-99"] {
        let response = ask(range).await.expect(200);
        assert_eq!(response.body, blob.bytes, "{range}");
        assert_eq!(response.find("Content-Range"), None);
    }

    // Several at once, in the order asked for; what lies outside is left out.
    let response = ask("bytes=0-9, 990-, 2000-, 500-509").await.expect(206);
    let content_type = response.header("Content-Type");
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("{content_type}"));
    assert_eq!(response.find("Content-Range"), None);
    let mut expected = Vec::new();
    for (first, last) in [(0, 9), (990, 999), (500, 509)] {
        expected.extend(
            format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/1000\r\n\r\n"
            )
            .into_bytes(),
        );
        expected.extend(&blob.bytes[first..=last]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
    assert_eq!(response.body, expected);

    // Ranges are for GET, and for the content that the client means.
    let response = registry
        .head(&target)
        .header("Range", "bytes=0-9")
        .send()
        .await;
    assert_eq!(response.expect(200).header("Content-Length"), "1000");
    for (tag, status) in [
        (format!("\"{}\"", blob.digest), 206),
        (format!("\"{NOBODY}\""), 200),
        (format!("W/\"{}\"", blob.digest), 200),
        ("Sat, 01 Jan 2022 00:00:00 GMT".to_owned(), 200),
    ] {
        registry
            .get(&target)
            .header("Range", "bytes=0-9")
            .header("If-Range", tag)
            .send()
            .await
            .expect(status);
    }
}

#[tokio::test]
async fn row_026_head_of_a_blob() {
    let registry = Registry::start().await;
    let blob = Blob::new(noise("x", 12_345));
    registry.push_blob("a", &blob).await;
    let target = format!("/v2/a/blobs/{}", blob.digest);
    let response = registry.head(target).send().await.expect(200);
    assert_eq!(response.header("Content-Length"), "12345");
    assert_eq!(response.header("Docker-Content-Digest"), blob.digest);
    assert_eq!(response.body, b"");
    let target = format!("/v2/a/blobs/{NOBODY}");
    registry.head(target).send().await.expect(404);
}

#[tokio::test]
async fn row_027_a_blob_of_no_bytes_is_one() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for way in [
        "empty put",
        "no length",
        "chunked",
        "single post",
        "patched",
    ] {
        let registry = Registry::start().await;
        let uploads = "/v2/a/blobs/uploads/";
        let response = if way == "single post" {
            let request = registry.post(format!("{uploads}?digest={digest}"));
            request.body("").send().await
        } else {
            let location = registry.start_upload("a").await;
            if way == "patched" {
                registry.patch(&location).body("").send().await.expect(202);
            }
            let request = registry.put(format!("{location}?digest={digest}"));
            match way {
                "no length" => request.send().await,
                "chunked" => request.chunked(&[]).send().await,
                _ => request.body("").send().await,
            }
        };
        assert_eq!(response.expect(201).header("Docker-Content-Digest"), digest);
        let target = format!("/v2/a/blobs/{digest}");
        let response = registry.get(&target).send().await.expect(200);
        assert_eq!(response.header("Content-Length"), "0", "{way}");
        assert_eq!(response.body, b"");
        let response = registry.head(&target).send().await.expect(200);
        assert_eq!(response.header("Content-Length"), "0", "{way}");
        let response = registry
            .get(&target)
            .header("Range", "bytes=0-")
            .send()
            .await;
        response.refused(416, "SIZE_INVALID");
        assert_eq!(response.header("Content-Range"), "bytes */0");
        registry.delete(&target).send().await.expect(202);
        registry.head(&target).send().await.expect(404);
    }
}

#[tokio::test]
async fn row_028_a_malformed_digest_of_a_blob_is_400() {
    let registry = Registry::start().await;
    for digest in ["x", "sha256:x", "sha256", "latest"] {
        let target = format!("/v2/a/blobs/{digest}");
        let message = registry
            .get(&target)
            .send()
            .await
            .refused(400, "DIGEST_INVALID");
        assert!(message.contains(&format!("`{digest}`")), "{message}");
        registry.head(&target).send().await.expect(400);
    }
}
