//! The authenticator as the HTTP layer uses it

use std::fs;
use std::time::{Duration, SystemTime};

use registry_auth::token::{Scope, TokenSetupError};
use registry_auth::{
    Access, AuthenticateError, Authenticator, ChallengeReason, Credentials, Granted, Password,
    Policy, Principal, TokenAuthenticator, TokenOptions,
};
use registry_core::route;
use serde_json::json;

use crate::support::{ISSUER, REALM, SERVICE, Signer, World, claims, claims_with, now};

async fn login(
    authenticator: &TokenAuthenticator,
    token: &str,
) -> Result<Principal, AuthenticateError> {
    let credentials = Credentials::Bearer(Password::new(token));
    authenticator.authenticate(&credentials).await
}

fn access(method: &str, target: &str) -> Vec<Access> {
    route(method, target, None).unwrap().access()
}

#[tokio::test]
async fn a_token_says_who_and_what() {
    let world = World::new();
    let authenticator = TokenAuthenticator::new(world.options()).unwrap();
    let principal = login(&authenticator, &world.root.token(&claims()))
        .await
        .unwrap();
    assert_eq!(principal.name(), Some("ada"));
    assert_eq!(principal.to_string(), "ada");
    let allowed = |principal: &Principal, method, target| {
        access(method, target)
            .iter()
            .all(|access| Granted.decide(principal, access).is_allow())
    };
    assert!(allowed(&principal, "GET", "/v2/team/app/manifests/v1"));
    assert!(!allowed(&principal, "PUT", "/v2/team/app/manifests/v1"));
    assert!(!allowed(&principal, "GET", "/v2/team/other/manifests/v1"));

    // Whoever has no name may have rights.
    let nobody = world.root.token(&claims_with(json!({ "sub": "" })));
    let principal = login(&authenticator, &nobody).await.unwrap();
    assert_eq!(principal.name(), None);
    assert_eq!(principal.to_string(), "anonymous");
    assert_ne!(principal, Principal::Anonymous);
    assert!(allowed(&principal, "GET", "/v2/team/app/manifests/v1"));

    assert_eq!(
        authenticator.authenticate(&Credentials::None).await,
        Ok(Principal::Anonymous)
    );
    let basic = Credentials::Basic {
        user: "ada".to_owned(),
        password: Password::new("lovelace"),
    };
    assert_eq!(
        authenticator.authenticate(&basic).await,
        Err(AuthenticateError::Rejected)
    );
    let error = login(&authenticator, "a.b.c").await.unwrap_err();
    assert!(
        matches!(error, AuthenticateError::InvalidToken { .. }),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .starts_with("the token was not accepted: its header"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_remembered_ends_with_the_token_and_with_its_key() {
    let world = World::new();
    let options = world.options().with_leeway(Duration::ZERO);
    let authenticator = TokenAuthenticator::new(options).unwrap();
    let long = world.root.token(&claims());
    for _ in 0..3 {
        login(&authenticator, &long).await.unwrap();
    }
    let short = world.root.token(&claims_with(json!({ "exp": now() + 2 })));
    login(&authenticator, &short).await.unwrap();
    let end = SystemTime::now() + Duration::from_secs(30);
    let error = loop {
        match login(&authenticator, &short).await {
            Err(error) => break error,
            Ok(_) => assert!(SystemTime::now() < end, "it never expires"),
        }
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(
        matches!(error, AuthenticateError::Expired { .. }),
        "{error:?}"
    );
    login(&authenticator, &long).await.unwrap();

    // A file that is broken changes nothing.
    fs::write(world.bundle(), "nothing").unwrap();
    let error = authenticator.reload().unwrap_err().to_string();
    assert!(error.contains("bundle.pem"), "{error}");
    login(&authenticator, &long).await.unwrap();

    // Another key takes the place of the one that signed.
    let next = Signer::new("next", jsonwebtoken::Algorithm::ES256);
    fs::write(world.bundle(), next.certificate_pem()).unwrap();
    authenticator.reload().unwrap();
    let error = login(&authenticator, &long).await.unwrap_err();
    assert!(
        error.to_string().contains("no trusted key has the id"),
        "{error}"
    );
    login(&authenticator, &next.token(&claims())).await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_good_says_whose_it_was_for_a_day() {
    let world = World::new();
    let authenticator = TokenAuthenticator::new(world.options()).unwrap();
    let good = login(&authenticator, &world.root.token(&claims()))
        .await
        .unwrap();
    let (hour, day) = (3600, 24 * 3600);
    let ended = |ago: i64| json!({ "exp": now() - ago, "nbf": now() - 2 * day });
    let expired = |ago| world.root.token(&claims_with(ended(ago)));
    for ago in [90, hour, day - 30] {
        assert_eq!(
            login(&authenticator, &expired(ago)).await,
            Err(AuthenticateError::Expired {
                principal: good.clone()
            }),
            "{ago}"
        );
    }
    let with = |mut claims: serde_json::Value, name: &str, value: serde_json::Value| {
        claims[name] = value;
        world.root.token(&claims_with(claims))
    };
    let stranger = Signer::new("stranger", jsonwebtoken::Algorithm::ES256);
    for (token, reason) in [
        (expired(day + 30), "it expired"),
        (stranger.token(&claims_with(ended(hour))), "no trusted key"),
        (
            with(ended(hour), "iss", json!("other")),
            "its issuer is not",
        ),
        (with(ended(hour), "aud", json!("other")), "it is not for"),
        // It was never good.
        (with(ended(hour), "nbf", json!(now() + hour)), "it expired"),
        (with(ended(hour), "exp", json!(null)), "when it expires"),
    ] {
        match login(&authenticator, &token).await {
            Err(AuthenticateError::InvalidToken { reason: got }) => {
                assert!(got.contains(reason), "{reason}: {got}");
            }
            other => panic!("{reason}: {other:?}"),
        }
    }

    let options = world.options().with_expired_for(Duration::ZERO);
    let authenticator = TokenAuthenticator::new(options).unwrap();
    let error = login(&authenticator, &expired(hour)).await.unwrap_err();
    assert!(
        matches!(error, AuthenticateError::InvalidToken { .. }),
        "{error:?}"
    );
}

#[test]
fn a_challenge_says_where_to_get_which_token_and_why() {
    let world = World::new();
    let authenticator = TokenAuthenticator::new(world.options()).unwrap();
    let start = format!("Bearer realm=\"{REALM}\",service=\"{SERVICE}\"");
    let push = access("POST", "/v2/team/app/blobs/uploads/");
    let several: Vec<Access> = [push.clone(), access("GET", "/v2/other/tags/list")].concat();
    for (needed, reason, rest) in [
        (vec![], ChallengeReason::LoginRequired, ""),
        (
            vec![],
            ChallengeReason::InvalidToken,
            ",error=\"invalid_token\"",
        ),
        (
            push,
            ChallengeReason::InsufficientScope,
            ",scope=\"repository:team/app:pull,push\",error=\"insufficient_scope\"",
        ),
        (
            several,
            ChallengeReason::LoginRequired,
            ",scope=\"repository:team/app:pull,push repository:other:pull\"",
        ),
        (
            access("GET", "/v2/_catalog"),
            ChallengeReason::LoginRequired,
            ",scope=\"registry:catalog:*\"",
        ),
        (
            access("DELETE", "/v2/a/manifests/v1"),
            ChallengeReason::LoginRequired,
            ",scope=\"repository:a:delete\"",
        ),
    ] {
        let challenge = authenticator.challenge(&needed, reason).unwrap();
        assert_eq!(challenge, format!("{start}{rest}"));
        // What is asked for is what would be enough.
        if let Some((_, scope)) = challenge.split_once("scope=\"") {
            let scope: Scope = scope.split('"').next().unwrap().parse().unwrap();
            let asked: Vec<Access> = scope
                .resources()
                .iter()
                .flat_map(registry_auth::token::ResourceActions::accesses)
                .collect();
            // A scope is about a whole repository.
            let whole = |access: &Access| Access {
                reference: None,
                ..access.clone()
            };
            let needed: Vec<Access> = needed.iter().map(whole).collect();
            assert_eq!(asked, needed);
        }
    }

    let mut options = world.options();
    options.service = "a \"quoted\" \\ name".to_owned();
    let authenticator = TokenAuthenticator::new(options).unwrap();
    let challenge = authenticator
        .challenge(&[], ChallengeReason::LoginRequired)
        .unwrap();
    assert!(
        challenge.ends_with(r#"service="a \"quoted\" \\ name""#),
        "{challenge}"
    );
}

#[test]
fn options_that_cannot_work_are_refused() {
    let world = World::new();
    let with = |realm: &str, service: &str, issuer: &str| {
        let options = TokenOptions::new(realm, service, issuer);
        TokenAuthenticator::new(options.with_jwks(world.jwks()))
    };
    for realm in [
        "",
        "auth.example",
        "/token",
        "https://",
        "https:///x",
        "http://a b",
        "ftp://a",
    ] {
        let error = with(realm, SERVICE, ISSUER).unwrap_err();
        assert!(
            matches!(error, TokenSetupError::Realm { .. }),
            "{realm}: {error}"
        );
    }
    for service in ["", "a\nb", "caf\u{e9}"] {
        let error = with(REALM, service, ISSUER).unwrap_err();
        assert!(
            matches!(error, TokenSetupError::Service { .. }),
            "{service}: {error}"
        );
    }
    assert!(matches!(
        with(REALM, SERVICE, ""),
        Err(TokenSetupError::NoIssuer)
    ));
    let error = TokenAuthenticator::new(TokenOptions::new(REALM, SERVICE, ISSUER)).unwrap_err();
    assert!(matches!(error, TokenSetupError::NoKeys), "{error}");
    let error = TokenAuthenticator::new(world.options().with_algorithms([])).unwrap_err();
    assert!(matches!(error, TokenSetupError::NoAlgorithm), "{error}");
    with("http://127.0.0.1:5001/auth?x=y", "Docker registry", ISSUER).unwrap();
}
