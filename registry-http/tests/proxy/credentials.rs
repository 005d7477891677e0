//! How the proxy logs in to an upstream that wants tokens, and to whom it never gives its password

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;

use crate::content::Blob;
use crate::support::{Proxy, Scripted, options, response};

/// An upstream that wants tokens of `realm` (`{own}` is its own address), each good for so many seconds
async fn token_registry(realm: &'static str, lifetime: u64) -> Scripted {
    let address = Arc::new(std::sync::OnceLock::new());
    let issued = AtomicUsize::new(0);
    let known = address.clone();
    let scripted = Scripted::start(move |head| {
        let line = head.lines().next().unwrap();
        if line.starts_with("GET /token") {
            let number = issued.fetch_add(1, Ordering::SeqCst);
            let body = format!("{{\"token\":\"t{number}\",\"expires_in\":{lifetime}}}");
            return response("200 OK", "", &body);
        }
        if head
            .to_ascii_lowercase()
            .contains("authorization: bearer t")
        {
            let json = "Content-Type: application/json\r\n";
            return match line.split(' ').next() {
                Some("PATCH") => response("202 Accepted", "", ""),
                _ => response("200 OK", json, "{\"tags\":[]}"),
            };
        }
        let own: &std::net::SocketAddr = known.wait();
        let realm = realm.replace("{own}", &own.to_string());
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"r\"\r\n");
        response("401 Unauthorized", &challenge, "")
    })
    .await;
    address.set(scripted.address).unwrap();
    scripted
}

#[tokio::test]
async fn one_token_is_enough_for_all_that_it_allows() {
    let upstream = token_registry("http://{own}/token", 300).await;
    let proxy = Proxy::start(options(upstream.address)).await;
    let asked = (0..10).map(|_| proxy.ask("GET", "/v2/a/tags/list").send());
    for response in join_all(asked).await {
        response.expect(200);
    }
    let lines = upstream.lines();
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    let counts = (count("GET /v2/a"), count("GET /token"));
    assert_eq!(counts, (10, 1), "{lines:?}");
    assert!(lines.contains(&"GET /token?service=r&scope=repository%3Aa%3Apull".to_owned()));
    // Content that cannot be sent twice is sent once, with a token that is had before.
    let session = "/v2/a/blobs/uploads/3f2c1b7e-9b0f-4d3a-8f6c-2f5f6f0f0a11";
    let big = Blob::new(vec![7; 1 << 20]);
    proxy
        .ask("PATCH", session)
        .body(&big.bytes)
        .send()
        .await
        .expect(202);
    let lines = upstream.lines();
    let patches = lines
        .iter()
        .filter(|line| line.starts_with("PATCH"))
        .count();
    assert_eq!(patches, 1, "{lines:?}");
    assert!(lines.contains(&"GET /token?service=r&scope=repository%3Aa%3Apull%2Cpush".to_owned()));
}

#[tokio::test]
async fn a_token_that_has_ended_is_not_used() {
    let upstream = token_registry("http://{own}/token", 0).await;
    let proxy = Proxy::start(options(upstream.address)).await;
    for _ in 0..2 {
        proxy.ask("GET", "/v2/a/tags/list").send().await.expect(200);
    }
    let lines = upstream.lines();
    let tokens = lines.iter().filter(|line| line.starts_with("GET /token"));
    assert_eq!(tokens.count(), 2, "{lines:?}");
}

#[tokio::test]
async fn an_upstream_does_not_choose_who_gets_the_password() {
    let other = Scripted::start(|_| response("200 OK", "", "{\"token\":\"t\"}")).await;
    let at = format!("http://127.0.0.1:{}/token", other.address.port());
    let realm: &'static str = at.leak();
    let upstream = token_registry(realm, 300).await;
    let proxy = Proxy::start(options(upstream.address)).await;
    let refused = proxy.ask("GET", "/v2/a/tags/list").send().await;
    let message = refused.refused(502, "UNAVAILABLE");
    assert!(message.contains("does not go"), "{message}");
    assert_eq!(other.heads().len(), 0);

    let trusted = options(upstream.address).with_trusted_realms([other.address.to_string()]);
    let proxy = Proxy::start(trusted).await;
    proxy.ask("GET", "/v2/a/tags/list").send().await.expect(200);
    assert_eq!(other.heads().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_withdrawn_is_had_anew() {
    let round = Arc::new(AtomicUsize::new(1));
    let wanted = round.clone();
    let upstream = Scripted::start(move |head| {
        let round = wanted.load(Ordering::SeqCst);
        if head.starts_with("GET /token") {
            return response("200 OK", "", &format!("{{\"access_token\":\"t{round}\"}}"));
        }
        let good = format!("authorization: bearer t{round}\r\n");
        match head.to_ascii_lowercase().contains(&good) {
            true => response("200 OK", "Content-Type: application/json\r\n", "{}"),
            false => {
                let host = head.lines().find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("host: ")
                        .map(str::to_owned)
                });
                let realm = format!("http://{}/token", host.unwrap());
                let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
                response("401 Unauthorized", &challenge, "")
            }
        }
    })
    .await;
    let proxy = Proxy::start(options(upstream.address)).await;
    proxy.ask("GET", "/v2/a/tags/list").send().await.expect(200);
    round.store(2, Ordering::SeqCst);
    proxy.ask("GET", "/v2/a/tags/list").send().await.expect(200);
    round.store(3, Ordering::SeqCst);
    // What streams cannot be sent again from here: the client is to.
    let session = "/v2/a/blobs/uploads/3f2c1b7e-9b0f-4d3a-8f6c-2f5f6f0f0a11";
    proxy.ask("PATCH", session).body("x").send().await;
    round.store(4, Ordering::SeqCst);
    let again = proxy.ask("PATCH", session).body("x").send().await;
    assert_eq!(again.header("Retry-After"), "1");
    again.refused(503, "UNAVAILABLE");
}
