//! Rules 89 to 101: deletion, proxying, errors

use std::collections::BTreeSet;
use std::time::Duration;

use registry_auth::{AuthenticateError, PullOnly};
use registry_core::manifest::Limits;
use serde_json::Value;

use super::support::*;

#[tokio::test]
async fn row_089_deletion_can_be_switched_off() {
    let registry = Registry::setup().keep_everything().start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let before = registry.everything().await;
    for (target, allowed) in [
        ("/v2/a/manifests/v1".to_owned(), "GET, HEAD, PUT"),
        (
            format!("/v2/a/manifests/{}", image.digest),
            "GET, HEAD, PUT",
        ),
        (format!("/v2/a/blobs/{}", image.layer.digest), "GET, HEAD"),
        (format!("/v2/a/blobs/{NOBODY}"), "GET, HEAD"),
    ] {
        let response = registry.delete(target).send().await;
        let message = response.refused(405, "UNSUPPORTED");
        assert!(message.contains("does not delete"), "{message}");
        assert_eq!(response.header("Allow"), allowed);
    }
    assert_eq!(registry.everything().await, before);
    // A session is no content.
    let location = registry.start_upload("a").await;
    registry.delete(location).send().await.expect(204);
}

#[tokio::test]
async fn row_090_a_deleted_tag_leaves_its_manifest() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    registry
        .put_manifest("a", "v2", MANIFEST, &image.bytes)
        .send()
        .await
        .expect(201);
    registry
        .delete("/v2/a/manifests/v1")
        .send()
        .await
        .expect(202);
    registry
        .get("/v2/a/manifests/v1")
        .send()
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(registry.tags("a").await, ["v2"]);
    for reference in ["v2", &image.digest] {
        let target = format!("/v2/a/manifests/{reference}");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.body, image.bytes);
    }
    for (target, code) in [
        ("/v2/a/manifests/v1", "MANIFEST_UNKNOWN"),
        ("/v2/nobody/manifests/v1", "NAME_UNKNOWN"),
    ] {
        registry.delete(target).send().await.refused(404, code);
    }
    let target = format!("/v2/a/manifests/{}", image.digest);
    registry.delete(target).send().await.expect(202);
    registry.get("/v2/a/manifests/v2").send().await.expect(404);
}

#[tokio::test]
async fn row_091_a_deleted_manifest_takes_its_tags_along() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let other = registry.push_image("a", "other", "y").await;
    for (name, tag) in [("a", "v2"), ("a", "v3")] {
        let request = registry.put_manifest(name, tag, MANIFEST, &image.bytes);
        request.send().await.expect(201);
    }
    // The same in another repository is another.
    registry.push_image("b", "v1", "x").await;
    let target = format!("/v2/a/manifests/{}", image.digest);
    registry.delete(&target).send().await.expect(202);
    registry.head(&target).send().await.expect(404);
    for tag in ["v1", "v2", "v3"] {
        let target = format!("/v2/a/manifests/{tag}");
        registry
            .get(target)
            .send()
            .await
            .refused(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(registry.tags("a").await, ["other"]);
    let response = registry.get("/v2/a/manifests/other").send().await;
    assert_eq!(response.expect(200).body, other.bytes);
    assert_eq!(registry.tags("b").await, ["v1"]);
    registry.get("/v2/b/manifests/v1").send().await.expect(200);

    for (target, code) in [
        (target.clone(), "MANIFEST_UNKNOWN"),
        (
            format!("/v2/nobody/manifests/{}", image.digest),
            "NAME_UNKNOWN",
        ),
    ] {
        registry.delete(target).send().await.refused(404, code);
    }
    // It can come back.
    registry
        .put_manifest("a", "v1", MANIFEST, &image.bytes)
        .send()
        .await
        .expect(201);
    registry.get(&target).send().await.expect(200);
    assert_eq!(registry.tags("a").await, ["other", "v1"]);
}

#[tokio::test]
async fn row_092_a_deleted_blob_is_gone_at_once() {
    let registry = Registry::start().await;
    let blob = Blob::new("content");
    registry.push_blob("a", &blob).await;
    registry.push_blob("b", &blob).await;
    let target = format!("/v2/a/blobs/{}", blob.digest);
    registry.delete(&target).send().await.expect(202);
    registry.head(&target).send().await.expect(404);
    registry
        .get(&target)
        .send()
        .await
        .refused(404, "BLOB_UNKNOWN");
    registry
        .delete(&target)
        .send()
        .await
        .refused(404, "BLOB_UNKNOWN");
    for target in [
        format!("/v2/a/blobs/{NOBODY}"),
        format!("/v2/nobody/blobs/{}", blob.digest),
    ] {
        registry
            .delete(target)
            .send()
            .await
            .refused(404, "BLOB_UNKNOWN");
    }
    let other = format!("/v2/b/blobs/{}", blob.digest);
    registry.get(&other).send().await.expect(200);
    registry.push_blob("a", &blob).await;
    registry.get(&target).send().await.expect(200);
}

#[tokio::test]
async fn row_093_a_blob_in_use_stays() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for blob in [&image.config, &image.layer] {
        let target = format!("/v2/a/blobs/{}", blob.digest);
        let response = registry.delete(&target).send().await;
        let message = response.refused(405, "UNSUPPORTED");
        assert!(message.contains(&image.digest), "{message}");
        assert_eq!(response.header("Allow"), "GET, HEAD");
        registry.get(&target).send().await.expect(200);
    }
    // Without its tag the manifest is still there.
    registry
        .delete("/v2/a/manifests/v1")
        .send()
        .await
        .expect(202);
    let layer = format!("/v2/a/blobs/{}", image.layer.digest);
    registry
        .delete(&layer)
        .send()
        .await
        .refused(405, "UNSUPPORTED");
    let target = format!("/v2/a/manifests/{}", image.digest);
    registry.delete(target).send().await.expect(202);
    registry.delete(&layer).send().await.expect(202);
    registry.head(&layer).send().await.expect(404);
}

#[tokio::test]
async fn row_094_a_namespace_is_read_over() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    for target in [
        "/v2/".to_owned(),
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/manifests/{}", image.digest),
        format!("/v2/a/blobs/{}", image.layer.digest),
        "/v2/a/tags/list".to_owned(),
        format!("/v2/a/referrers/{}", image.digest),
    ] {
        for method in ["GET", "HEAD"] {
            let plain = registry.request(method, &target).send().await.expect(200);
            for query in [
                "ns=docker.io",
                "ns=127.0.0.1%3A5000&x",
                "ns=",
                "unknown=%2e%2e",
            ] {
                let target = format!("{target}?{query}");
                let response = registry.request(method, target).send().await.expect(200);
                assert_eq!(response.body, plain.body);
            }
        }
    }
    let target = "/v2/a/manifests/v2?ns=docker.io";
    registry
        .get(target)
        .send()
        .await
        .refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn row_095_no_namespace_is_said_to_be_in_force() {
    let registry = Registry::start().await;
    registry.push_image("a", "v1", "x").await;
    let response = registry.get("/v2/a/manifests/v1?ns=docker.io").send().await;
    assert_eq!(response.expect(200).find("OCI-Namespace"), None);
}

/// One request for each way to fail, with the status and code to expect
async fn failures() -> Vec<(Response, u16, &'static str)> {
    let limits = Limits {
        max_bytes: 100_000,
        ..Limits::default()
    };
    let registry = Registry::setup().limits(limits).start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let location = registry.start_upload("a").await;
    let put = |bytes: &[u8]| registry.put_manifest("a", "v2", MANIFEST, bytes);
    let missing = pretty(&super::support::image(&Blob::new("?"), &[]));
    let mut failures = Vec::new();
    let blob = format!("/v2/a/blobs/{}", image.layer.digest);
    for (request, status, code) in [
        (
            registry.get(format!("/v2/a/blobs/{NOBODY}")),
            404,
            "BLOB_UNKNOWN",
        ),
        (
            registry
                .patch(&location)
                .header("Content-Range", "7-9")
                .body("xyz"),
            416,
            "BLOB_UPLOAD_INVALID",
        ),
        (
            registry.get(format!("/v2/a/blobs/uploads/{NO_SESSION}")),
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        (
            registry.put(format!("{location}?digest={NOBODY}")),
            400,
            "DIGEST_INVALID",
        ),
        (put(&missing), 400, "MANIFEST_BLOB_UNKNOWN"),
        (put(b"{}"), 400, "MANIFEST_INVALID"),
        (put(&vec![b' '; 100_001]), 413, "MANIFEST_INVALID"),
        (registry.get("/v2/a/manifests/v2"), 404, "MANIFEST_UNKNOWN"),
        (registry.get("/v2/A/manifests/v2"), 400, "NAME_INVALID"),
        (registry.get("/v2/b/manifests/v2"), 404, "NAME_UNKNOWN"),
        (
            registry.get("/v2/a/tags/list?n=x"),
            400,
            "PAGINATION_NUMBER_INVALID",
        ),
        (
            registry.get(&blob).header("Range", "bytes=9999-"),
            416,
            "SIZE_INVALID",
        ),
        (registry.get("/v2/a/manifests/.x"), 400, "TAG_INVALID"),
        (registry.get("/v3/"), 404, "UNSUPPORTED"),
        (
            registry.post("/v2/a/manifests/x").body(""),
            405,
            "UNSUPPORTED",
        ),
    ] {
        failures.push((request.send().await, status, code));
    }

    let registry = Registry::setup().policy(PullOnly).start().await;
    let request = registry.post("/v2/a/blobs/uploads/").body("");
    failures.push((request.send().await, 403, "DENIED"));
    let registry = Registry::setup().authenticator(Login::ada()).start().await;
    let request = registry.get("/v2/");
    failures.push((request.send().await, 401, "UNAUTHORIZED"));
    let registry = unavailable().await;
    let request = registry.get("/v2/a/tags/list");
    failures.push((request.send().await, 503, "UNAVAILABLE"));
    failures
}

/// A registry that cannot tell for the moment who asks
async fn unavailable() -> Registry {
    let login = Login::new(
        |_, _| "Basic realm=\"test\"".to_owned(),
        |_| {
            Err(AuthenticateError::Unavailable {
                retry_after: Duration::from_millis(6500),
            })
        },
    );
    Registry::setup().authenticator(login).start().await
}

#[tokio::test]
async fn row_097_errors_are_json_of_one_shape() {
    for (response, status, code) in failures().await {
        // The shape itself is checked with every response there is.
        response.refused(status, code);
        assert_eq!(response.header("Content-Type"), "application/json");
        let length = response.body.len().to_string();
        assert_eq!(response.header("Content-Length"), length);
        assert!(response.json()["errors"].is_array());
    }
}

#[tokio::test]
async fn row_098_an_error_has_a_code_a_message_and_a_detail() {
    for (response, _, _) in failures().await {
        for error in response.json()["errors"].as_array().unwrap() {
            let error = error.as_object().unwrap();
            assert!(
                error
                    .keys()
                    .all(|key| ["code", "message", "detail"].contains(&&**key))
            );
            let code = error["code"].as_str().unwrap();
            assert!(
                code.bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_uppercase())
            );
            // Longer than the text of the code: it says what was the matter this time.
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(": "), "{message}");
            assert!(matches!(error["detail"], Value::Null | Value::Object(_)));
        }
    }
}

#[tokio::test]
async fn row_099_the_codes_of_the_table_are_used_where_they_belong() {
    let mut seen = BTreeSet::new();
    for (response, status, code) in failures().await {
        response.refused(status, code);
        seen.insert(code);
    }
    // All of the table but TOOMANYREQUESTS, for there is no limit on requests.
    for code in [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
    ] {
        assert!(seen.contains(code), "{code}");
    }
}

#[tokio::test]
async fn row_100_who_is_to_come_back_is_told_when() {
    let registry = unavailable().await;
    for method in ["GET", "HEAD"] {
        let response = registry.request(method, "/v2/").send().await.expect(503);
        // 6.5 seconds, in whole ones and not too early.
        assert_eq!(response.header("Retry-After"), "7");
    }

    // A session that another request is writing to.
    let registry = Registry::start().await;
    let location = registry.start_upload("a").await;
    let mut first = registry.connect().await;
    first
        .send(format!(
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    first.continued().await;
    let second = registry.patch(&location).body("other").send().await;
    second.refused(503, "UNAVAILABLE");
    assert_eq!(second.header("Retry-After"), "1");
    first.send("content").await;
    let response = first.receive("PATCH").await.expect(202);
    assert_eq!(response.header("Range"), "0-6");
}
