//! Whoever asks too often waits

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use registry_http::{Rate, RateLimits};

use crate::support::{Answer, Call, Registry};

fn hourly(count: u32) -> Rate {
    Rate::new(NonZeroU32::new(count).unwrap(), Duration::from_secs(3600))
}

fn limited(limits: RateLimits) -> Registry {
    Registry::new(|access| access.with_limits(limits))
}

/// Checks a refusal, and gives the seconds to wait
fn wait(answer: &Answer, message: &str) -> u64 {
    assert_eq!(
        answer.status,
        StatusCode::TOO_MANY_REQUESTS,
        "{}",
        answer.body
    );
    let error = answer.error();
    assert_eq!(error["code"], "TOOMANYREQUESTS");
    let text = error["message"].as_str().unwrap();
    assert!(text.contains(message), "{text}");
    answer.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits() {
    let registry = limited(RateLimits::default().requests_per_address(hourly(2)));
    let ping = |address: &str| Call::get("/v2/").of("ada").from(address);
    for _ in 0..2 {
        assert_eq!(
            registry.send(ping("192.0.2.1")).await.status,
            StatusCode::OK
        );
    }
    let asked = registry.door.asked.load(Ordering::Relaxed);
    let refused = registry.send(ping("192.0.2.1")).await;
    let seconds = wait(
        &refused,
        "too many requests from your address; try again in ",
    );
    assert!((1790..=1800).contains(&seconds), "{seconds}");
    assert_eq!(registry.door.asked.load(Ordering::Relaxed), asked);
    assert_eq!(
        registry.send(ping("192.0.2.2")).await.status,
        StatusCode::OK
    );
    // Whoever looks whether the registry is well is no client of it.
    for path in ["/livez", "/readyz", "/"] {
        let probe = registry.send(Call::get(path).from("192.0.2.1")).await;
        assert_eq!(probe.status, StatusCode::OK, "{path}");
    }
    // Without an address there is none to count.
    for _ in 0..4 {
        let ping = Call::get("/v2/").of("ada");
        assert_eq!(registry.send(ping).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_address_is_what_trusted_proxies_say() {
    let registry = limited(RateLimits::default().requests_per_address(hourly(1)));
    let ping = |from: &str, forwarded: &str| {
        let ping = Call::get("/v2/").of("ada").from(from);
        ping.header("x-forwarded-for", forwarded)
    };
    let ok = StatusCode::OK;
    let many = StatusCode::TOO_MANY_REQUESTS;
    for (from, forwarded, status) in [
        // This machine's own proxy is believed.
        ("127.0.0.1", "192.0.2.1", ok),
        ("127.0.0.1", "192.0.2.2", ok),
        ("127.0.0.1", "192.0.2.1", many),
        // Nobody else is, who could be anybody with each request.
        ("198.51.100.1", "192.0.2.3", ok),
        ("198.51.100.1", "192.0.2.4", many),
        ("2001:db8:0:1::1", "", ok),
        ("2001:db8:0:1:ffff::2", "", many),
        ("2001:db8:0:2::1", "", ok),
    ] {
        let answer = registry.send(ping(from, forwarded)).await;
        assert_eq!(answer.status, status, "{from} {forwarded}");
    }
}

#[tokio::test]
async fn who_guesses_passwords_is_soon_not_looked_at() {
    let registry = limited(RateLimits::default().failures_per_address(hourly(3)));
    let ping = |password: &str| Call::get("/v2/").basic("ada", password).from("192.0.2.1");
    for _ in 0..20 {
        // Each docker pull begins with one of the first, and has many of the second.
        let challenge = registry.send(Call::get("/v2/").from("192.0.2.1")).await;
        assert_eq!(challenge.status, StatusCode::UNAUTHORIZED);
        let good = registry
            .send(Call::get("/v2/").of("ada").from("192.0.2.1"))
            .await;
        assert_eq!(good.status, StatusCode::OK);
    }
    registry.door.expired.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        let expired = Call::get("/v2/").bearer("ada").from("192.0.2.1");
        assert_eq!(
            registry.send(expired).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    let malformed = Call::get("/v2/").header("authorization", "Guess");
    let malformed = registry.send(malformed.from("192.0.2.1")).await;
    assert_eq!(malformed.status, StatusCode::UNAUTHORIZED);
    let forged = Call::get("/v2/").bearer("forged").from("192.0.2.1");
    assert_eq!(registry.send(forged).await.status, StatusCode::UNAUTHORIZED);
    let wrong = registry.send(ping("first guess")).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);

    let asked = registry.door.asked.load(Ordering::Relaxed);
    for password in ["second guess", crate::support::PASSWORD] {
        let seconds = wait(
            &registry.send(ping(password)).await,
            "refused requests from your address",
        );
        assert!((1100..=1200).contains(&seconds), "{seconds}");
    }
    assert_eq!(registry.door.asked.load(Ordering::Relaxed), asked);
    let elsewhere = registry
        .send(Call::get("/v2/").of("ada").from("192.0.2.2"))
        .await;
    assert_eq!(elsewhere.status, StatusCode::OK);
}

#[tokio::test]
async fn denials_are_failures_of_whoever_is_denied() {
    let registry = limited(RateLimits::default().failures_per_principal(hourly(2)));
    let push = |who: &str| Call::new("POST", "/v2/app/blobs/uploads/").of(who);
    for _ in 0..2 {
        assert_eq!(
            registry.send(push("eve")).await.status,
            StatusCode::FORBIDDEN
        );
    }
    wait(
        &registry.send(push("eve")).await,
        "refused requests from your account",
    );
    assert_eq!(
        registry.send(push("ada")).await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn what_is_hidden_is_no_failure_for_what_is_absent_is_none() {
    let limits = RateLimits::default()
        .failures_per_principal(hourly(1))
        .failures_per_address(hourly(1));
    let registry = Registry::new(|access| access.with_limits(limits).with_hidden_as_absent());
    for name in ["secret/app", "nothing"] {
        for _ in 0..5 {
            let get = Call::get(&format!("/v2/{name}/manifests/v1"));
            let answer = registry.send(get.of("ada").from("192.0.2.1")).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND);
        }
    }
}

#[tokio::test]
async fn pulls_are_manifests_that_are_fetched() {
    let limits = RateLimits::default()
        .pulls_per_principal(hourly(2))
        .pulls_per_address(hourly(4));
    let registry = limited(limits);
    let image = registry.push_image("public").await;
    let pull = |method: &str| Call::new(method, "/v2/public/manifests/v1").from("192.0.2.1");
    let (tags, blob) = (
        "/v2/public/tags/list",
        format!("/v2/public/blobs/{}", image.blob),
    );
    for _ in 0..2 {
        for _ in 0..3 {
            assert_eq!(
                registry.send(pull("HEAD").of("ada")).await.status,
                StatusCode::OK
            );
            for target in [tags, &blob] {
                let other = Call::get(target).of("ada").from("192.0.2.1");
                assert_eq!(registry.send(other).await.status, StatusCode::OK);
            }
        }
        assert_eq!(
            registry.send(pull("GET").of("ada")).await.status,
            StatusCode::OK
        );
    }
    wait(
        &registry.send(pull("GET").of("ada")).await,
        "too many pulls from your account",
    );
    assert_eq!(
        registry.send(pull("HEAD").of("ada")).await.status,
        StatusCode::OK
    );
    // Who has no name is counted by address alone, with all that come from there.
    assert_eq!(registry.send(pull("GET")).await.status, StatusCode::OK);
    wait(
        &registry.send(pull("GET")).await,
        "too many pulls from your address",
    );
    let elsewhere = Call::get("/v2/public/manifests/v1");
    assert_eq!(
        registry.send(elsewhere.of("eve")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_principal_is_limited_wherever_they_are() {
    let registry = limited(RateLimits::default().requests_per_principal(hourly(2)));
    let ping = |who: &str, from: &str| Call::get("/v2/").of(who).from(from);
    for address in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(
            registry.send(ping("ada", address)).await.status,
            StatusCode::OK
        );
    }
    wait(
        &registry.send(ping("ada", "192.0.2.3")).await,
        "requests from your account",
    );
    assert_eq!(
        registry.send(ping("bob", "192.0.2.3")).await.status,
        StatusCode::OK
    );
    for _ in 0..4 {
        let nobody = Call::get("/v2/public/tags/list").from("192.0.2.1");
        assert_eq!(registry.send(nobody).await.status, StatusCode::NOT_FOUND);
    }
    // Who does not get in is not yet anybody.
    let wrong = Call::get("/v2/").basic("carol", "guess");
    assert_eq!(registry.send(wrong).await.status, StatusCode::UNAUTHORIZED);
}
