//! What docker does, through the proxy: as if it were the registry itself

use std::sync::Arc;
use std::time::Duration;

use registry_http::{Locations, Redirects};

use crate::content::{Blob, noise};
use crate::login::basic;
use crate::support::{Proxy, SECRET, Scripted, options, registry, response};

#[tokio::test]
async fn an_image_comes_back_as_it_went() {
    let (upstream, _) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    let layer = Blob::new(noise("layer", 3 << 20));
    let (digest, manifest) = proxy.push_image("team/app", "v1", &layer).await;
    for reference in ["v1", &digest] {
        let target = format!("/v2/team/app/manifests/{reference}");
        let got = proxy.ask("GET", &target).send().await.expect(200);
        assert_eq!(got.body, manifest);
        assert_eq!(got.header("Docker-Content-Digest"), digest);
        let head = proxy.ask("HEAD", &target).send().await.expect(200);
        assert_eq!(head.header("Content-Length"), manifest.len().to_string());
        assert_eq!(head.header("Content-Type"), got.header("Content-Type"));
    }
    let target = format!("/v2/team/app/blobs/{}", layer.digest);
    let got = proxy.ask("GET", &target).send().await.expect(200);
    assert!(got.body == layer.bytes);
    let part = proxy.ask("GET", &target).header("Range", "bytes=10-19");
    let part = part.send().await.expect(206);
    assert_eq!(part.body, layer.bytes[10..20]);
    assert_eq!(
        part.header("Content-Range"),
        format!("bytes 10-19/{}", layer.bytes.len())
    );
    let past = proxy.ask("GET", &target).header("Range", "bytes=9999999-");
    past.send().await.refused(416, "SIZE_INVALID");
    let unchanged = proxy
        .ask("GET", &target)
        .header("If-None-Match", got.header("ETag"));
    unchanged.send().await.expect(304);
}

#[tokio::test]
async fn chunks_go_on_where_they_ended() {
    let (upstream, _) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    let blob = Blob::new("hello world");
    let begun = proxy.ask("POST", "/v2/a/blobs/uploads/").body("");
    let begun = begun.send().await.expect(202);
    let first = proxy.ask("PATCH", begun.location());
    let first = first.chunked(&[b"hel", b"lo "]).send().await.expect(202);
    assert_eq!(first.header("Range"), "0-5");
    let wrong = proxy.ask("PATCH", first.location());
    let wrong = wrong.header("Content-Range", "1-2").body("xx");
    let wrong = wrong.send().await;
    assert_eq!(wrong.status, 416, "{}", wrong.text());
    assert_eq!(wrong.location(), first.location());
    let status = proxy.ask("GET", first.location()).send().await.expect(204);
    assert_eq!(status.header("Range"), "0-5");
    let target = format!("{}?digest={}", status.location(), blob.digest);
    let done = proxy
        .ask("PUT", target)
        .body("world")
        .send()
        .await
        .expect(201);
    assert_eq!(done.location(), format!("/v2/a/blobs/{}", blob.digest));
    let bad = format!("{}?digest={}", begun.location(), blob.digest);
    proxy
        .ask("PUT", bad)
        .body("")
        .send()
        .await
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    let begun = proxy.ask("POST", "/v2/a/blobs/uploads/").body("");
    let begun = begun.send().await.expect(202);
    let gone = proxy.ask("DELETE", begun.location());
    gone.send().await.expect(204);
}

#[tokio::test]
async fn lists_lead_to_their_next_page() {
    let (upstream, _) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    for tag in ["a", "b", "c"] {
        proxy.push_image("app", tag, &Blob::new("layer")).await;
    }
    let first = proxy
        .ask("GET", "/v2/app/tags/list?n=2&evil=1")
        .send()
        .await;
    assert_eq!(first.json()["tags"], serde_json::json!(["a", "b"]));
    let link = "</v2/app/tags/list?n=2&last=b>; rel=\"next\"";
    assert_eq!(first.header("Link"), link);
    let second = proxy
        .ask("GET", "/v2/app/tags/list?n=2&last=b")
        .send()
        .await;
    assert_eq!(second.json()["tags"], serde_json::json!(["c"]));
    let catalog = proxy.ask("GET", "/v2/_catalog").send().await.expect(200);
    assert_eq!(catalog.json()["repositories"], serde_json::json!(["app"]));
    let absent = proxy.ask("GET", "/v2/nobody/manifests/x").send().await;
    absent.refused(404, "MANIFEST_UNKNOWN");
    proxy
        .ask("DELETE", "/v2/app/manifests/a")
        .send()
        .await
        .expect(202);
    let left = proxy.ask("GET", "/v2/app/tags/list").send().await;
    assert_eq!(left.json()["tags"], serde_json::json!(["b", "c"]));
}

#[tokio::test]
async fn neither_side_learns_what_is_the_others() {
    let upstream = Scripted::start(|head| {
        let ours = "Set-Cookie: s=1\r\nServer: Nexus/3\r\nWWW-Authenticate: Basic realm=x\r\nX-Powered-By: y\r\nKeep-Alive: timeout=5\r\nETag: \"e\"\r\nWarning: 299 - \"soon gone\"\r\nContent-Type: application/octet-stream\r\n";
        match head.starts_with("GET /v2/ ") {
            true => response("401 Unauthorized", "WWW-Authenticate: Basic realm=x\r\n", ""),
            false => response("200 OK", ours, "content"),
        }
    })
    .await;
    let names = ["x-acumos-requestid", "x-acumos-request-id", "x-request-id"];
    let proxy = Proxy::with(
        options(upstream.address),
        |_, _| true,
        |builder| builder.request_id_headers(names.map(|name| name.parse().unwrap())),
    )
    .await;
    let digest = Blob::new("content").digest;
    let got = proxy
        .ask("GET", format!("/v2/a/blobs/{digest}?token=x"))
        .header("Cookie", "c=1")
        .header("Proxy-Authorization", "Basic eA==")
        .header("X-Evil", "1")
        .header("TE", "trailers")
        .header("X-ACUMOS-Request-Id", "r-7")
        .header("X-Forwarded-For", "10.9.9.9")
        .header("User-Agent", "docker/99")
        .header("Accept", "*/*")
        .send()
        .await
        .expect(200);
    assert_eq!(got.text(), "content");
    for name in [
        "Set-Cookie",
        "Server",
        "WWW-Authenticate",
        "X-Powered-By",
        "Keep-Alive",
    ] {
        assert_eq!(got.find(name), None, "{name}");
    }
    assert_eq!(got.header("ETag"), "\"e\"");
    assert_eq!(got.header("Warning"), "299 - \"soon gone\"");
    assert_eq!(got.header("X-Request-ID"), "r-7");
    assert_eq!(got.header("X-ACUMOS-RequestID"), "r-7");
    let heads = upstream.heads();
    let head = heads.last().unwrap().to_ascii_lowercase();
    let own = format!("authorization: basic {}", {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(format!("proxy:{SECRET}"))
    });
    for line in [
        &format!("get /v2/a/blobs/{digest} http/1.1"),
        &format!("host: {}", upstream.address),
        &own.to_ascii_lowercase(),
        "x-acumos-requestid: r-7",
        "x-acumos-request-id: r-7",
        "x-request-id: r-7",
        "user-agent: docker/99",
        "accept: */*",
        "accept-encoding: identity",
        "x-forwarded-for: 10.9.9.9",
        "x-forwarded-proto: http",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    for never in [
        "cookie",
        "proxy-authorization",
        "x-evil",
        "te:",
        basic("ada", "love:lace"),
    ] {
        assert!(
            !head.contains(&never.to_ascii_lowercase()),
            "{never} in {head}"
        );
    }
}

#[tokio::test]
async fn sessions_with_a_state_come_back_with_it() {
    let upstream = Scripted::start(|head| {
        let at = "/artifacts-uploads/p/AF2?_state=x%3D";
        match head.split(' ').next() {
            Some("GET") => response("200 OK", "", "{}"),
            Some("POST" | "PATCH") => response(
                "202 Accepted",
                &format!("Location: {at}\r\nRange: 0-4\r\n"),
                "",
            ),
            _ => response("201 Created", "Location: http://elsewhere.test/x\r\n", ""),
        }
    })
    .await;
    let base = Locations::Absolute {
        base: Some("https://docker.example".parse().unwrap()),
    };
    let proxy = Proxy::with(
        options(upstream.address),
        |_, _| true,
        |builder| builder.locations(base),
    )
    .await;
    let blob = Blob::new("hello");
    let begun = proxy
        .ask("POST", "/v2/a/blobs/uploads/")
        .body("")
        .send_unchecked()
        .await;
    let location = begun.expect(202).header("Location").to_owned();
    let path = location.strip_prefix("https://docker.example").unwrap();
    assert!(
        path.starts_with("/v2/a/blobs/uploads/") && !path.contains("AF2"),
        "{path}"
    );
    let patched = proxy
        .ask("PATCH", path)
        .body("hello")
        .send_unchecked()
        .await;
    assert_eq!(patched.expect(202).header("Location"), location);
    let target = format!("{path}&digest={}&evil=1", blob.digest);
    let done = proxy
        .ask("PUT", target)
        .body("")
        .send_unchecked()
        .await
        .expect(201);
    assert_eq!(
        done.header("Location"),
        format!("https://docker.example/v2/a/blobs/{}", blob.digest)
    );
    // Only in the repository that it is of.
    let other = path.replace("/v2/a/", "/v2/b/");
    let other = proxy.ask("PATCH", other).body("x").send().await;
    other.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let digest = blob.digest.replace(':', "%3A");
    assert_eq!(
        upstream.lines(),
        [
            "GET /v2/",
            "POST /v2/a/blobs/uploads/",
            "PATCH /artifacts-uploads/p/AF2?_state=x%3D",
            &format!("PUT /artifacts-uploads/p/AF2?_state=x%3D&digest={digest}"),
        ]
    );
}

#[tokio::test]
async fn redirects_to_storage_are_followed_or_passed_on() {
    let storage =
        Scripted::start(|_| response("200 OK", "Content-Type: text/plain\r\n", "content")).await;
    let at = format!(
        "http://localhost:{}/bucket/x?signature=s",
        storage.address.port()
    );
    let location = Arc::new(std::sync::Mutex::new(at.clone()));
    let answer = location.clone();
    let upstream = Scripted::start(move |head| match head.starts_with("GET /v2/ ") {
        true => response("200 OK", "", "{}"),
        false => response(
            "307 Temporary Redirect",
            &format!("Location: {}\r\n", answer.lock().unwrap()),
            "",
        ),
    })
    .await;
    let digest = Blob::new("content").digest;
    let target = format!("/v2/a/blobs/{digest}");
    let trusting = || options(upstream.address).with_trusted_storage(["localhost"]);
    let follow = Proxy::start(trusting()).await;
    let got = follow.ask("GET", &target).send().await.expect(200);
    assert_eq!(got.text(), "content");
    let head = storage.heads()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /bucket/x?signature=s ") && !head.contains("authorization"));

    let pass = Proxy::with(
        options(upstream.address),
        |_, _| true,
        |builder| builder.redirects(Redirects::Pass),
    )
    .await;
    // Not over TLS, and not trusted.
    pass.ask("GET", &target)
        .send()
        .await
        .refused(502, "UNAVAILABLE");
    *location.lock().unwrap() = "https://s3.example/b?sig=%3D".to_owned();
    let away = pass.ask("GET", &target).send_unchecked().await.expect(307);
    assert_eq!(away.header("Location"), "https://s3.example/b?sig=%3D");

    // To nowhere that only this machine can go, and not in circles.
    for bad in [
        at.replace("localhost", "127.0.0.2"),
        // The upstream's own machine, at a port that is not its own, and in other clothes.
        at.replace("localhost", "127.0.0.1"),
        at.replace("http://localhost", "https://127.0.0.1"),
        at.replace("http://localhost", "https://127.1"),
        at.replace("http://localhost", "https://[::ffff:127.0.0.1]"),
        at.replace(
            "localhost",
            &format!("127.0.0.1:{}@localhost", upstream.address.port()),
        ),
        "https://localhost:1/".to_owned(),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://user@s3.example/".to_owned(),
        "//s3.example/x".to_owned(),
        "ftp://s3.example/x".to_owned(),
        format!("/v2/a/blobs/{digest}"),
    ] {
        *location.lock().unwrap() = bad.clone();
        let strict = Proxy::start(options(upstream.address)).await;
        let response = strict.ask("GET", &target).send().await;
        assert_eq!(response.status, 502, "{bad}: {}", response.text());
    }
    assert_eq!(storage.heads().len(), 1);

    // A host that is trusted at one port is not at another.
    *location.lock().unwrap() = at.clone();
    for (place, status) in [
        ("localhost:1".to_owned(), 502),
        (format!("localhost:{}", storage.address.port()), 200),
    ] {
        let options = options(upstream.address).with_trusted_storage([&place]);
        let proxy = Proxy::start(options).await;
        let response = proxy.ask("GET", &target).send().await;
        assert_eq!(response.status, status, "{place}: {}", response.text());
    }
    assert_eq!(storage.heads().len(), 2);
}

#[tokio::test]
async fn there_are_no_more_requests_than_are_let_in() {
    // Says nothing to anybody.
    let upstream = Scripted::start(|_| Vec::new()).await;
    let proxy = Proxy::with(
        options(upstream.address),
        |_, _| true,
        |builder| builder.max_requests(1),
    )
    .await;
    let (first, second) = tokio::join!(proxy.ask("GET", "/v2/a/tags/list").send(), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.ask("GET", "/v2/a/tags/list").send().await
    });
    first.refused(504, "UNAVAILABLE");
    assert!(second.header("Retry-After") == "5");
    let message = second.refused(503, "UNAVAILABLE");
    assert!(message.contains("as many requests"), "{message}");
}
