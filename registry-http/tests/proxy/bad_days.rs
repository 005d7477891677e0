//! An upstream that fails: each failure is a clear answer, and nothing of the upstream's shows

use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::client::{Connection, eventually};
use crate::content::Blob;
use crate::login::basic;
use crate::support::{Proxy, SECRET, Scripted, options, response};

const JSON: &str = "Content-Type: application/json\r\n";

/// What a client sees of an upstream that answers everything but the first look like this
async fn seen(method: &str, target: &str, answer: Vec<u8>) -> crate::client::Response {
    let upstream = Scripted::start(move |head| match head.starts_with("GET /v2/ ") {
        true => response(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=x\r\n",
            "",
        ),
        false => answer.clone(),
    })
    .await;
    let proxy = Proxy::start(options(upstream.address)).await;
    let seen = proxy.ask(method, target).body("").send().await;
    let text = format!("{:?} {}", seen.headers, seen.text());
    for never in [&upstream.address.to_string(), SECRET, "Nexus", "evil"] {
        assert!(!text.contains(never), "{never} in {text}");
    }
    seen
}

#[tokio::test]
async fn each_failure_has_its_answer() {
    let tags = "/v2/a/tags/list";
    let start = "/v2/a/blobs/uploads/";
    let manifest = "/v2/a/manifests/v1";
    let html = "<html>Nexus</html>";
    let blob = format!("/v2/a/blobs/{}", Blob::new("x").digest);
    let wrong = format!("/v2/a/manifests/{}", Blob::new("x").digest);
    let rows = [
        // Of its own to our credentials: never a 401, for the client has no others.
        (
            "GET",
            tags,
            response(
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=x\r\n",
                "",
            ),
            502,
            "UNAVAILABLE",
            "credentials",
        ),
        (
            "GET",
            tags,
            response("403 Forbidden", "", html),
            502,
            "UNAVAILABLE",
            "does not let it",
        ),
        (
            "GET",
            tags,
            response("500 Oops", "", html),
            502,
            "UNAVAILABLE",
            "failure of its own",
        ),
        (
            "GET",
            tags,
            response("502 Bad", "", html),
            502,
            "UNAVAILABLE",
            "failure of its own",
        ),
        (
            "GET",
            tags,
            response("503 Full", "Retry-After: 17\r\n", html),
            503,
            "UNAVAILABLE",
            "failure of its own",
        ),
        (
            "GET",
            tags,
            response("507 Full", "", html),
            507,
            "UNAVAILABLE",
            "failure of its own",
        ),
        (
            "GET",
            tags,
            response("200 OK", "Content-Type: text/html\r\n", html),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            manifest,
            response("200 OK", "Content-Type: text/html\r\n", html),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            &blob,
            response("200 OK", "Content-Type: TEXT/HTML; charset=x\r\n", html),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            &wrong,
            response("200 OK", JSON, "{}"),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            tags,
            response("204 Nothing", "", ""),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            tags,
            response("302 Found", "Location: https://evil.test/login\r\n", ""),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            &blob,
            response("307 There", "Location: http://evil.test/\r\n", ""),
            502,
            "UNAVAILABLE",
            "does not go",
        ),
        (
            "GET",
            &blob,
            response("307 There", "", ""),
            502,
            "UNAVAILABLE",
            "does not go",
        ),
        (
            "POST",
            start,
            response(
                "202 Accepted",
                "Location: https://evil.test/v2/a/blobs/uploads/1\r\n",
                "",
            ),
            502,
            "UNAVAILABLE",
            "does not go",
        ),
        (
            "POST",
            start,
            response("202 Accepted", "Location: /v2/../service\r\n", ""),
            502,
            "UNAVAILABLE",
            "does not go",
        ),
        (
            "POST",
            start,
            response("202 Accepted", "", ""),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "POST",
            start,
            response("200 OK", "", html),
            502,
            "UNAVAILABLE",
            "no registry's answer",
        ),
        (
            "GET",
            manifest,
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
                .to_vec(),
            502,
            "UNAVAILABLE",
            "broke its answer off",
        ),
        (
            "GET",
            tags,
            b"HTTP/1.1 200 OK\r\nContent-Ty".to_vec(),
            502,
            "UNAVAILABLE",
            "broke its answer off",
        ),
        (
            "GET",
            tags,
            b"SSH-2.0-OpenSSH_9\r\n".to_vec(),
            502,
            "UNAVAILABLE",
            "broke its answer off",
        ),
        ("GET", tags, Vec::new(), 504, "UNAVAILABLE", "in time"),
        ("POST", start, Vec::new(), 504, "UNAVAILABLE", "in time"),
        // What the client can do something about keeps its status and its words.
        (
            "GET",
            manifest,
            response(
                "404 None",
                JSON,
                "{\"errors\":[{\"code\":\"X\",\"message\":\"Nexus\"}]}",
            ),
            404,
            "MANIFEST_UNKNOWN",
            "no manifest",
        ),
        (
            "GET",
            &blob,
            response("404 None", "", html),
            404,
            "BLOB_UNKNOWN",
            "no blob",
        ),
        (
            "GET",
            tags,
            response("404 None", "", html),
            404,
            "NAME_UNKNOWN",
            "no repository",
        ),
        (
            "PUT",
            manifest,
            response(
                "400 Bad",
                JSON,
                "{\"errors\":[{\"code\":\"MANIFEST_INVALID\",\"message\":\"a tag stays what it is\"}],\"x\":1}",
            ),
            400,
            "MANIFEST_INVALID",
            "a tag stays what it is",
        ),
        (
            "PUT",
            manifest,
            response("405 No", "Allow: GET\r\n", html),
            405,
            "UNSUPPORTED",
            "not why",
        ),
    ];
    for (method, target, answer, status, code, words) in rows {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let begun = Instant::now();
        let response = seen(method, target, answer).await;
        if status == 503 {
            assert_eq!(response.header("Retry-After"), "17");
        }
        assert_eq!(response.find("WWW-Authenticate"), None);
        let message = response.refused(status, code);
        assert!(
            message.contains(words),
            "{method} {target} {shown}: {message}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    let busy = response("429 Slow", "Retry-After: 3\r\n", html);
    let busy = seen("GET", tags, busy).await;
    assert_eq!(busy.header("Retry-After"), "3");
    busy.refused(429, "TOOMANYREQUESTS");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_said_not_to_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::start(options(address)).await;
    // The proxy is there all the same.
    proxy.ask("GET", "/v2/").send().await.expect(200);
    let message = proxy.ask("GET", "/v2/a/tags/list").send().await;
    let message = message.refused(502, "UNAVAILABLE");
    assert!(message.contains("cannot be reached"), "{message}");

    // Does not speak TLS, and says nothing to one that does.
    let plain = Scripted::start(|_| b"HTTP/1.1 400 Bad\r\n\r\n".to_vec()).await;
    let mut tls = options(plain.address).with_connect_timeout(Duration::from_millis(500));
    tls.url = format!("https://{}", plain.address);
    let proxy = Proxy::start(tls).await;
    let response = proxy.ask("GET", "/v2/a/tags/list").send().await;
    assert!(matches!(response.status, 502 | 504), "{}", response.text());
}

#[tokio::test]
async fn half_a_blob_breaks_the_connection_off() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let upstream = Scripted::start(move |head| match head.starts_with("GET /v2/ ") {
            true => response("200 OK", "", "{}"),
            false => answer.to_vec(),
        })
        .await;
        let proxy = Proxy::start(options(upstream.address)).await;
        let mut connection = Connection::open(proxy.address).await;
        let target = format!("/v2/a/blobs/{}", Blob::new("x").digest);
        let login = basic("ada", "love:lace");
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\n\r\n");
        connection.send(request).await;
        let text = String::from_utf8(connection.rest().await).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("half"), "{text}");
        // No length that is kept, and no last chunk.
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_so_and_not_the_upstream_blamed() {
    let upstream = Scripted::start(|head| match head.starts_with("GET /v2/ ") {
        true => response("200 OK", "", "{}"),
        false => response("202 Accepted", "", ""),
    })
    .await;
    let proxy = Proxy::with(
        options(upstream.address),
        |_, _| true,
        |builder| builder.body_patience(Duration::from_millis(300)),
    )
    .await;
    let mut connection = Connection::open(proxy.address).await;
    let login = basic("ada", "love:lace");
    connection
        .send(format!("PATCH /v2/a/blobs/uploads/3f2c1b7e-9b0f-4d3a-8f6c-2f5f6f0f0a11 HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\nContent-Length: 100\r\n\r\nfew"))
        .await;
    let response = connection.receive("PATCH").await;
    let message = response.refused(408, "BLOB_UPLOAD_INVALID");
    assert!(message.contains("no byte of the body came"), "{message}");
}

#[tokio::test]
async fn a_client_that_stops_reading_is_not_waited_for() {
    let length = 64 << 20;
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + length, b'x');
    let upstream = Scripted::start(move |head| match head.starts_with("GET /v2/a/blobs") {
        true => answer.clone(),
        false => response("200 OK", JSON, "{}"),
    })
    .await;
    let proxy = Proxy::with(
        options(upstream.address),
        |_, _| true,
        |builder| {
            builder
                .max_requests(1)
                .body_patience(Duration::from_millis(800))
        },
    )
    .await;
    let mut connection = Connection::open(proxy.address).await;
    let target = format!("/v2/a/blobs/{}", Blob::new("x").digest);
    let login = basic("ada", "love:lace");
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\n\r\n");
    connection.send(request).await;
    connection.begins("HTTP/1.1 200 OK\r\n").await;
    let ask = || async {
        let request = proxy.ask("GET", "/v2/a/tags/list");
        request.send().await.status
    };
    assert_eq!(ask().await, 503);
    eventually(ask, 200).await;
}
