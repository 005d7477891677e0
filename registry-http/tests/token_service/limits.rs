//! Whoever guesses passwords here is not looked at, here and in the registry

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use registry_http::{Rate, RateLimits, RemoteAddr};

use crate::support::{PASSWORD, Pair, basic, escape};

fn hourly(count: u32) -> Rate {
    Rate::new(NonZeroU32::new(count).unwrap(), Duration::from_secs(3600))
}

/// Sent from this address
fn from(address: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let address = SocketAddr::new(address.parse().unwrap(), 40_000);
    request.extensions_mut().insert(RemoteAddr(address));
    request
}

fn get(target: &str, login: &str) -> Request<Full<Bytes>> {
    let request = Request::get(target).header(header::AUTHORIZATION, login);
    request.body(Full::default()).unwrap()
}

fn form(password: &str) -> Request<Full<Bytes>> {
    let password = escape(password);
    Request::post("/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::from(format!(
            "grant_type=password&username=ada&password={password}"
        )))
        .unwrap()
}

#[tokio::test]
async fn who_guesses_here_is_looked_at_nowhere() {
    let pair = Pair::limited(true, RateLimits::default().failures_per_address(hourly(2)));
    let here = "192.0.2.1";
    let good = basic("ada", PASSWORD);
    for _ in 0..5 {
        pair.send(from(here, get("/token", &good)))
            .await
            .expect(200);
        let anonymous = Request::get("/token?scope=repository:public:pull");
        let anonymous = anonymous.body(Full::default()).unwrap();
        pair.send(from(here, anonymous)).await.expect(200);
    }
    let guess = basic("ada", "guess");
    pair.send(from(here, get("/token", &guess)))
        .await
        .expect(401);
    pair.send(from(here, form("another"))).await.expect(401);

    for request in [get("/token", &good), form(PASSWORD), get("/v2/", &good)] {
        let answer = pair.send(from(here, request)).await.expect(429);
        let wait: u64 = answer.headers[header::RETRY_AFTER]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1790..=1800).contains(&wait), "{wait}");
        let body = String::from_utf8_lossy(&answer.body);
        assert!(body.contains("TOOMANYREQUESTS"), "{body}");
    }
    // The keys are no secret and cost nothing.
    let keys = get("/.well-known/jwks.json", "");
    pair.send(from(here, keys)).await.expect(200);
    pair.send(from("192.0.2.2", form(PASSWORD)))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_refresh_token_that_is_made_up_is_a_guess() {
    let pair = Pair::limited(true, RateLimits::default().failures_per_address(hourly(1)));
    let guess = || {
        Request::post("/token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from("grant_type=refresh_token&refresh_token=guess"))
            .unwrap()
    };
    pair.send(from("192.0.2.1", guess())).await.expect(401);
    pair.send(from("192.0.2.1", guess())).await.expect(429);
}

#[tokio::test]
async fn an_address_is_what_trusted_proxies_say() {
    let pair = Pair::limited(true, RateLimits::default().requests_per_address(hourly(1)));
    for (address, forwarded, status) in [
        ("10.0.0.1", "192.0.2.1", 200),
        ("10.0.0.1", "192.0.2.2", 200),
        ("10.0.0.1", "192.0.2.1", 429),
        ("127.0.0.1", "192.0.2.3", 200),
        ("127.0.0.1", "192.0.2.4", 429),
    ] {
        let mut request = from(address, form(PASSWORD));
        let value = forwarded.parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", value);
        pair.send(request).await.expect(status);
    }
}

#[tokio::test]
async fn an_account_is_counted_wherever_it_asks() {
    let limits = RateLimits::default().requests_per_principal(hourly(2));
    let pair = Pair::limited(true, limits);
    for address in ["192.0.2.1", "192.0.2.2"] {
        pair.send(from(address, form(PASSWORD))).await.expect(200);
    }
    pair.send(from("192.0.2.3", form(PASSWORD)))
        .await
        .expect(429);
    let bob = get("/token", &basic("bob", PASSWORD));
    pair.send(from("192.0.2.3", bob)).await.expect(200);
}
