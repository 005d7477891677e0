//! Ways around the old proxy and their like: each is refused, and the upstream never hears of it

use std::time::Duration;

use crate::client::Connection;
use crate::content::Blob;
use crate::login::basic;
use crate::support::{Proxy, options, registry};

/// A digest that nothing has
const NOBODY: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test]
async fn no_way_around_reaches_the_upstream() {
    let (upstream, seen) = registry().await;
    // Ada may pull and push what is hers, `mine`, and nothing else.
    let proxy = Proxy::with(
        options(upstream),
        |principal, access| {
            principal.name() == Some("ada") && access.to_string().starts_with("repository:mine:")
        },
        |builder| builder,
    )
    .await;
    proxy.push_image("mine", "v1", &Blob::new("layer")).await;
    seen.take();

    let other = format!("/v2/other/blobs/{NOBODY}");
    let direct = format!("/v2/mine/blobs/{NOBODY}");
    let paths = [
        // Without a login, each door that stood open.
        (false, "GET", "/authok/v2/mine/manifests/v1", 404),
        (false, "GET", "/authok/v2/_catalog", 404),
        (false, "GET", "/authok/service/rest/v1/repositories", 404),
        (false, "GET", &direct, 401),
        (false, "POST", "/v2/mine/blobs/uploads/", 401),
        (false, "GET", "/foo/v2/mine/blobs/y", 404),
        (false, "GET", "/v2/mine/manifests/v1", 401),
        (false, "GET", "/v2/mine/tags/list", 401),
        (false, "GET", "/v2/_catalog", 401),
        // With a login, what is not hers, and what is no registry's path.
        (true, "GET", &other, 403),
        (true, "GET", "/v2/_catalog", 403),
        (true, "DELETE", "/v2/other/manifests/v1", 403),
        (true, "GET", "//v2/mine/manifests/v1", 404),
        (true, "GET", "/v2//mine/manifests/v1", 400),
        (true, "GET", "/foo/v2/mine/manifests/v1", 404),
        (true, "GET", "/V2/mine/manifests/v1", 404),
        (true, "GET", "/v2/MINE/manifests/v1", 400),
        (true, "GET", "/v2/mine/../other/manifests/v1", 400),
        (true, "GET", "/v2/mine/%2e%2e/other/manifests/v1", 400),
        (true, "GET", "/v2/mine%2f..%2fother/manifests/v1", 400),
        (true, "GET", "/v2/mine/manifests/..%2f..%2f..%2fother", 400),
        (true, "GET", "/v2/mine/manifests/v1%2f..", 400),
        (true, "GET", "/v2/mine/manifests/v1%00", 400),
        (true, "GET", "/v2/mine/manifests/v1%0d%0aX:%20y", 400),
        (true, "GET", "/v2/mine/manifests/v1;x=y", 400),
        (true, "GET", "/v2/mine\\..\\other/manifests/v1", 400),
        (true, "GET", "/%76%32/mine/manifests/v1", 404),
        (true, "GET", "/service/rest/v1/repositories", 404),
        (true, "GET", "/v2/../service/rest/v1/repositories", 404),
        (true, "GET", "/v1/repositories/mine/tags", 404),
        (true, "TRACE", "/v2/mine/manifests/v1", 405),
        (true, "GET", "http://other.test/service/rest", 404),
        (true, "GET", "http://other.test/v2/other/manifests/v1", 403),
        (
            true,
            "GET",
            "/v2/mine/blobs/uploads/../../../other/tags/list",
            400,
        ),
        (
            true,
            "PATCH",
            "/v2/mine/blobs/uploads/3f2c1b7e-9b0f-4d3a-8f6c-2f5f6f0f0a11?_upstream=L3NlcnZpY2U.AAAAAAAAAAAAAAAAAAAAAA",
            404,
        ),
        (true, "PATCH", "/v2/mine/blobs/uploads/not-a-uuid", 404),
    ];
    for (login, method, target, status) in paths {
        let request = match login {
            true => proxy.ask(method, target),
            false => proxy.anonymously(method, target),
        };
        let response = request
            .header("X-Original-URI", "/v2/mine/manifests/v1")
            .header("X-Forwarded-User", "ada")
            .send()
            .await;
        assert_eq!(
            response.status,
            status,
            "{method} {target}: {}",
            response.text()
        );
        assert!(!response.text().contains(&upstream.port().to_string()));
        assert_eq!(seen.take(), [""; 0], "{method} {target}");
    }
}

#[tokio::test]
async fn what_is_smuggled_in_does_not_get_through() {
    let (upstream, seen) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    proxy.push_image("mine", "v1", &Blob::new("layer")).await;
    seen.take();
    let login = format!("Authorization: {}\r\n", basic("ada", "love:lace"));
    for (request, refused) in [
        // Two lengths, and a length with chunks.
        (
            format!(
                "PUT /v2/mine/manifests/v2 HTTP/1.1\r\nHost: a\r\n{login}Content-Length: 4\r\nContent-Length: 40\r\n\r\nx\r\n\r\n"
            ),
            true,
        ),
        (
            format!(
                "GET /v2/mine/manifests/v1 HTTP/1.1\r\nHost: a\r\n{login}Content-Length: x\r\n\r\n"
            ),
            true,
        ),
        (
            format!("GET /v2/mine/manifests/v1 HTTP/1.1\r\nHost : a\r\n{login}\r\n"),
            true,
        ),
        (
            format!(
                "GET /v2/mine/manifests/v1 HTTP/1.1\r\nHost: evil.test\r\nX-Forwarded-Host: evil.test\r\n{login}Connection: close, authorization\r\n\r\n"
            ),
            false,
        ),
    ] {
        let mut connection = Connection::open(proxy.address).await;
        connection.send(&request).await;
        let response = connection.receive("GET").await;
        assert_eq!(response.status == 400, refused, "{request} {response:?}");
        let expected = match refused {
            true => vec![],
            false => vec!["GET /v2/mine/manifests/v1".to_owned()],
        };
        assert_eq!(seen.take(), expected, "{request}");
    }
}

#[tokio::test]
async fn what_may_not_be_pulled_is_not_mounted() {
    let (upstream, seen) = registry().await;
    let open = Proxy::start(options(upstream)).await;
    let blob = Blob::new("somebody else's");
    open.push_blob("other", &blob).await;
    open.push_blob("friend", &blob).await;
    let proxy = Proxy::with(
        options(upstream),
        |_, access| {
            let access = access.to_string();
            access.starts_with("repository:mine:") || access == "repository:friend:pull"
        },
        |builder| builder,
    )
    .await;
    // What is asked first is how to log in.
    proxy.ask("GET", "/v2/mine/tags/list").send().await;
    for (query, status, sent) in [
        (
            format!("mount={}&from=other", blob.digest),
            202,
            "POST /v2/mine/blobs/uploads/".to_owned(),
        ),
        (
            format!("mount={}", blob.digest),
            202,
            "POST /v2/mine/blobs/uploads/".to_owned(),
        ),
        (
            format!("from=friend&mount={}&evil=1", blob.digest),
            201,
            format!(
                "POST /v2/mine/blobs/uploads/?mount={}&from=friend",
                blob.digest.replace(':', "%3A")
            ),
        ),
    ] {
        seen.take();
        let target = format!("/v2/mine/blobs/uploads/?{query}");
        let response = proxy.ask("POST", target).body("").send().await;
        response.expect(status);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(seen.take(), [sent], "{query}");
    }
}
