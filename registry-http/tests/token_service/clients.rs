//! What docker, podman and containerd do, step by step

use serde_json::{Value, json};

use crate::support::{PASSWORD, Pair, SERVICE, basic, escape};

/// A parameter of a challenge
fn parameter(challenge: &str, name: &str) -> String {
    let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// The target that a challenge leads to
fn token_target(challenge: &str) -> String {
    format!(
        "/token?service={}&scope={}",
        escape(&parameter(challenge, "service")),
        escape(&parameter(challenge, "scope"))
    )
}

#[tokio::test]
async fn anonymous_pull_and_authenticated_push() {
    let pair = Pair::new();
    let ping = pair.ask("GET", "/v2/", "").await.expect(401);
    assert_eq!(
        parameter(ping.header("www-authenticate"), "service"),
        SERVICE
    );

    // Nobody in particular pulls.
    let tags = "/v2/public/tags/list";
    let refused = pair.ask("GET", tags, "").await.expect(401);
    let target = token_target(refused.header("www-authenticate"));
    let token = pair.ask("GET", &target, "").await.expect(200);
    let answer = token.json();
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!(answer["expires_in"], 300);
    assert_eq!(answer["scope"], "repository:public:pull");
    assert!(answer.get("refresh_token").is_none() && answer.get("issued_at").is_none());
    assert_eq!(token.header("content-type"), "application/json");
    assert_eq!(token.header("cache-control"), "no-store");
    let anonymous = token.bearer();
    pair.ask("GET", "/v2/", &anonymous).await.expect(200);
    // There is nothing yet, but to look for it is allowed.
    pair.ask("GET", tags, &anonymous).await.expect(404);

    // The same is not enough to push, nor is another one to be had.
    let upload = "/v2/public/blobs/uploads/";
    let refused = pair.ask("POST", upload, &anonymous).await.expect(401);
    let challenge = refused.header("www-authenticate").to_owned();
    assert_eq!(parameter(&challenge, "error"), "insufficient_scope");
    let target = token_target(&challenge);
    let less = pair.ask("GET", &target, "").await.expect(200);
    assert_eq!(less.json()["scope"], "repository:public:pull");
    pair.ask("POST", upload, &less.bearer()).await.expect(401);

    // With a login it is.
    let wrong = pair
        .ask("GET", &target, &basic("ada", "wrong"))
        .await
        .expect(401);
    assert_eq!(wrong.header("www-authenticate"), "Basic realm=\"tokens\"");
    assert_eq!(wrong.json()["errors"][0]["code"], "UNAUTHORIZED");
    let token = pair
        .ask("GET", &target, &basic("ada", PASSWORD))
        .await
        .expect(200);
    let ada = token.bearer();
    let begun = pair.ask("POST", upload, &ada).await.expect(202);
    let content = "content";
    let digest = registry_core::Digest::of(registry_core::Algorithm::Sha256, content.as_bytes());
    let end = format!(
        "{}?digest={}",
        begun.header("location"),
        escape(&digest.to_string())
    );
    pair.send_with("PUT", &end, &ada, content).await.expect(201);
    let blob = format!("/v2/public/blobs/{digest}");
    let pulled = pair.ask("GET", &blob, &anonymous).await.expect(200);
    assert_eq!(pulled.body, content);

    // What the token cannot say, the registry asks itself.
    let locked = "/v2/public/manifests/locked";
    let denied = pair.ask("GET", locked, &ada).await.expect(403);
    assert!(
        denied.json()["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("locked")
    );
    pair.ask("GET", "/v2/public/manifests/open", &ada)
        .await
        .expect(404);
}

#[tokio::test]
async fn a_login_without_a_scope_is_a_test_of_the_password() {
    let pair = Pair::new();
    let target =
        format!("/token?account=ada&client_id=docker&offline_token=true&service={SERVICE}");
    let answer = pair
        .ask("GET", &target, &basic("ada", PASSWORD))
        .await
        .expect(200);
    assert_eq!(answer.json()["scope"], "");
    pair.ask("GET", "/v2/", &answer.bearer()).await.expect(200);
    pair.ask("GET", &target, &basic("eve", PASSWORD))
        .await
        .expect(401);

    // The refresh token then stands for the password, as docker keeps it.
    let refresh = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    let form = |more: &str| {
        format!(
            "grant_type=refresh_token&client_id=docker&service={SERVICE}&refresh_token={refresh}{more}"
        )
    };
    let scope = "&scope=repository%3Aapp%3Apull%2Cpush+repository%3Apublic%3Apull";
    let answer = pair.form(&form(scope)).await.expect(200).json();
    assert_eq!(
        answer["scope"],
        "repository:app:pull,push repository:public:pull"
    );
    assert!(answer.get("refresh_token").is_none());
    let answer = pair
        .form(&form("&access_type=offline"))
        .await
        .expect(200)
        .json();
    assert_eq!(answer["refresh_token"], json!(refresh));

    // It is nothing to the registry.
    let bearer = format!("Bearer {refresh}");
    pair.ask("GET", "/v2/", &bearer).await.expect(401);
}

#[tokio::test]
async fn a_refresh_token_is_good_as_long_as_its_account() {
    let pair = Pair::new();
    let form = |token: &str| format!("grant_type=refresh_token&refresh_token={}", escape(token));
    // An account that was taken away since, one that cannot be looked up, and no token at all.
    let now = std::time::SystemTime::now();
    let of = |user| {
        let user = registry_auth::Principal::user(user);
        let token = pair.issuer.issue_refresh(&user, SERVICE, now).unwrap();
        token.unwrap().expose().to_owned()
    };
    pair.form(&form(&of("ada"))).await.expect(200);
    pair.form(&form(&of("bob"))).await.expect(401);
    let slow = pair.form(&form(&of("slow"))).await.expect(503);
    assert_eq!(slow.header("retry-after"), "9");
    let refused = pair.form(&form("a.b.c")).await.expect(401);
    assert_eq!(refused.header("www-authenticate"), "Basic realm=\"tokens\"");
    let long = of("ada");
    let over = now - std::time::Duration::from_secs(91 * 24 * 60 * 60);
    let ada = registry_auth::Principal::user("ada");
    let old = pair
        .issuer
        .issue_refresh(&ada, SERVICE, over)
        .unwrap()
        .unwrap();
    pair.form(&form(old.expose())).await.expect(401);

    // Where there are no accounts there are none to begin with.
    let without = Pair::with(false);
    let target = "/token?offline_token=true";
    let answer = without
        .ask("GET", target, &basic("ada", PASSWORD))
        .await
        .expect(200);
    assert!(answer.json().get("refresh_token").is_none());
    without.form(&form(&long)).await.expect(401);
}

#[tokio::test]
async fn a_password_by_form_as_containerd_and_podman_send_it() {
    let pair = Pair::new();
    let form = |scopes: &str| {
        format!(
            "grant_type=password&service={SERVICE}&client_id=containerd-client{scopes}&username=ada&password={}",
            escape(PASSWORD)
        )
    };
    let once = pair
        .form(&form("&scope=repository:app:pull,push+repository:b:pull"))
        .await
        .expect(200);
    let twice = pair
        .form(&form(
            "&scope=repository:app:pull,push&scope=repository:b:pull",
        ))
        .await
        .expect(200);
    let granted = "repository:app:pull,push repository:b:pull";
    assert_eq!(once.json()["scope"], granted);
    assert_eq!(twice.json()["scope"], granted);
    assert!(once.json().get("refresh_token").is_none());
    assert_eq!(once.json()["token_type"], "Bearer");
    pair.ask("POST", "/v2/app/blobs/uploads/", &once.bearer())
        .await
        .expect(202);

    let offline = pair.form(&form("&access_type=offline")).await.expect(200);
    assert!(offline.json()["refresh_token"].is_string());
    let wrong = form("").replace("username=ada", "username=eve");
    pair.form(&wrong).await.expect(401);
}

#[tokio::test]
async fn a_token_that_is_over_is_told_so() {
    let pair = Pair::new();
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let wanted = "repository:public:pull".parse().unwrap();
    let anonymous = registry_auth::Principal::Anonymous;
    let issued = pair
        .issuer
        .issue(&anonymous, SERVICE, &wanted, &registry_auth::AllowAll, then);
    let bearer = format!("Bearer {}", issued.await.unwrap().token.expose());
    let refused = pair
        .ask("GET", "/v2/public/tags/list", &bearer)
        .await
        .expect(401);
    assert_eq!(
        parameter(refused.header("www-authenticate"), "error"),
        "invalid_token"
    );
}

#[tokio::test]
async fn the_keys_are_there_for_everyone() {
    let pair = Pair::new();
    let keys = pair
        .ask("GET", "/.well-known/jwks.json", "")
        .await
        .expect(200);
    let set: Value = keys.json();
    assert_eq!(set["keys"][0]["kty"], "EC");
    assert_eq!(set["keys"][0]["alg"], "ES256");
    assert!(set["keys"][0].get("d").is_none());
    assert_eq!(keys.header("cache-control"), "public, max-age=300");
    let head = pair
        .ask("HEAD", "/.well-known/jwks.json", "")
        .await
        .expect(200);
    assert_eq!(head.header("content-length"), keys.body.len().to_string());
    assert!(head.body.is_empty());
    let refused = pair
        .ask("POST", "/.well-known/jwks.json", "")
        .await
        .expect(405);
    assert_eq!(refused.header("allow"), "GET, HEAD");
}
