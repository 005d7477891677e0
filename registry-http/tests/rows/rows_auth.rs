//! Rules A1 to A14: who asks, and may they

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use registry_auth::{AuthenticateError, Credentials, Granted, Principal, PullOnly};

use super::support::*;

/// Users may do everything, others nothing
const MEMBERS: Rules = Rules(|principal, _| principal.name().is_some());

#[tokio::test]
async fn row_a01_who_must_log_in_is_told_how() {
    let registry = Registry::setup()
        .authenticator(Login::ada())
        .policy(MEMBERS)
        .start()
        .await;
    for target in ["/v2/", "/v2/a/tags/list", "/v2/_catalog"] {
        let response = registry.get(target).send().await;
        response.refused(401, "UNAUTHORIZED");
        assert_eq!(response.all("WWW-Authenticate"), ["Basic realm=\"test\""]);
        let response = registry.head(target).send().await.expect(401);
        assert_eq!(response.all("WWW-Authenticate"), ["Basic realm=\"test\""]);
    }

    let registry = Registry::setup()
        .authenticator(Login::token())
        .policy(MEMBERS)
        .start()
        .await;
    for (method, target, scope) in [
        ("GET", "/v2/".to_owned(), ""),
        ("GET", "/v2/_catalog".to_owned(), "registry:catalog:*"),
        (
            "GET",
            "/v2/team/app/manifests/v1".to_owned(),
            "repository:team/app:pull",
        ),
        (
            "DELETE",
            "/v2/team/app/manifests/v1".to_owned(),
            "repository:team/app:delete",
        ),
    ] {
        let response = registry.request(method, target).send().await;
        response.refused(401, "UNAUTHORIZED");
        assert_eq!(
            response.all("WWW-Authenticate"),
            [format!(
                "Bearer realm=\"https://auth.example/token\",service=\"test\",scope=\"{scope}\""
            )]
        );
    }
    // What a push needs is asked for at once.
    let response = registry.post("/v2/a/blobs/uploads/").body("").send().await;
    response.refused(401, "UNAUTHORIZED");
    let challenge = response.header("WWW-Authenticate");
    assert!(
        challenge.contains("pull") && challenge.contains("push"),
        "{challenge}"
    );
}

#[tokio::test]
async fn row_a02_the_ping_challenges_whenever_anything_needs_credentials() {
    for registry in [
        Registry::setup().authenticator(Login::ada()),
        Registry::setup()
            .authenticator(Login::ada())
            .policy(PullOnly),
        Registry::setup()
            .authenticator(Login::token())
            .policy(MEMBERS),
    ] {
        let registry = registry.start().await;
        for target in ["/v2/", "/v2"] {
            let response = registry.get(target).send().await;
            response.refused(401, "UNAUTHORIZED");
            response.header("WWW-Authenticate");
        }
    }
    // Who asks for what everyone may have is not asked for credentials.
    let registry = Registry::setup().authenticator(Login::ada()).start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let target = format!("/v2/a/manifests/{}", image.digest);
    registry.get(target).send().await.expect(200);
    // Where nobody needs any, nobody is asked.
    let registry = Registry::setup().policy(PullOnly).start().await;
    registry.get("/v2/").send().await.expect(200);
}

#[tokio::test]
async fn row_a04_a_login_is_a_ping_with_a_password() {
    let registry = Registry::setup()
        .authenticator(Login::ada())
        .policy(MEMBERS)
        .start()
        .await;
    let login = |authorization: &str| {
        let request = registry.get("/v2/");
        request.header("Authorization", authorization).send()
    };
    let right = basic("ada", "love:lace");
    assert_eq!(login(right).await.expect(200).text(), "{}");
    // The scheme is of any case (RFC 9110, section 11.1).
    login(&right.replace("Basic", "bAsIc")).await.expect(200);
    for wrong in [
        basic("ada", "wrong"),
        "Basic",
        "Basic !!!!",
        "Basic YWRh",
        "Bearer good",
        "Digest username=\"ada\"",
        "",
    ] {
        let response = login(wrong).await;
        response.refused(401, "UNAUTHORIZED");
        assert_eq!(response.all("WWW-Authenticate"), ["Basic realm=\"test\""]);
        assert!(!response.text().contains("YWRh"), "{}", response.text());
    }
    // Two say nothing.
    let request = registry.get("/v2/").header("Authorization", right);
    let response = request.header("Authorization", right).send().await;
    response.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn row_a10_each_request_needs_what_the_reference_registry_asks_for() {
    let policy = Recorded::default();
    let registry = Registry::setup().policy(policy.clone()).start().await;
    let image = registry.push_image("a/b", "v1", "x").await;
    let upload = registry.start_upload("a/b").await;
    let (manifest, blob) = (&image.digest, &image.layer.digest);
    let pull = "repository:a/b:pull";
    let push = "repository:a/b:push";
    let delete = "repository:a/b:delete";
    policy.take();
    for (method, target, expected) in [
        ("GET", "/v2/".to_owned(), vec![]),
        ("GET", "/v2/_catalog".to_owned(), vec!["registry:catalog:*"]),
        ("GET", "/v2/a/b/tags/list".to_owned(), vec![pull]),
        ("GET", "/v2/a/b/manifests/v1".to_owned(), vec![pull]),
        ("HEAD", "/v2/a/b/manifests/v1".to_owned(), vec![pull]),
        ("GET", format!("/v2/a/b/blobs/{blob}"), vec![pull]),
        ("HEAD", format!("/v2/a/b/blobs/{blob}"), vec![pull]),
        ("GET", format!("/v2/a/b/referrers/{manifest}"), vec![pull]),
        (
            "POST",
            "/v2/a/b/blobs/uploads/".to_owned(),
            vec![pull, push],
        ),
        ("GET", upload.clone(), vec![pull, push]),
        ("PATCH", upload.clone(), vec![pull, push]),
        ("PUT", format!("{upload}?digest={blob}"), vec![pull, push]),
        // podman cancels with the rights of a push.
        ("DELETE", upload.clone(), vec![pull, push]),
        ("PUT", "/v2/a/b/manifests/v1".to_owned(), vec![pull, push]),
        ("DELETE", format!("/v2/a/b/blobs/{blob}"), vec![delete]),
        ("DELETE", "/v2/a/b/manifests/v1".to_owned(), vec![delete]),
        (
            "DELETE",
            format!("/v2/a/b/manifests/{manifest}"),
            vec![delete],
        ),
    ] {
        registry.request(method, &target).body("").send().await;
        let mut asked = policy.take();
        asked.sort();
        assert_eq!(asked, expected, "{method} {target}");
    }
    // A mount asks for its source besides.
    let target = format!("/v2/c/blobs/uploads/?mount={blob}&from=x/y");
    registry.post(target).send().await.expect(202);
    let asked = policy.take();
    assert!(asked.contains(&"repository:c:push".to_owned()), "{asked:?}");
    assert!(
        asked.contains(&"repository:x/y:pull".to_owned()),
        "{asked:?}"
    );

    // And who may not read the source uploads instead.
    let registry = Registry::setup()
        .authenticator(Login::ada())
        .policy(Rules(|_, access| {
            access.to_string() != "repository:x/y:pull"
        }))
        .start()
        .await;
    let target = format!("/v2/c/blobs/uploads/?mount={blob}&from=x/y");
    registry.post(target).send().await.expect(202);
}

#[tokio::test]
async fn row_a12_what_is_not_proved_is_401_and_what_is_not_allowed_403() {
    // Where a login can help, and where it cannot.
    for (anonymous, registry) in [
        (401, Registry::setup().authenticator(Login::ada())),
        (403, Registry::setup()),
    ] {
        let registry = registry.policy(PullOnly).start().await;
        let post = || registry.post("/v2/a/blobs/uploads/").body("");
        let response = post().send().await;
        match anonymous {
            401 => response.refused(401, "UNAUTHORIZED"),
            _ => response.refused(403, "DENIED"),
        };
        assert_eq!(
            response.find("WWW-Authenticate").is_some(),
            anonymous == 401
        );
        if anonymous == 403 {
            // Credentials that nobody asked for do no harm.
            let request = post().header("Authorization", basic("ada", "wrong"));
            request.send().await.refused(403, "DENIED");
            continue;
        }
        let request = post().header("Authorization", basic("ada", "wrong"));
        let response = request.send().await;
        response.refused(401, "UNAUTHORIZED");
        // A user who is known is not asked again, but told why.
        let request = post().header("Authorization", basic("ada", "love:lace"));
        let response = request.send().await;
        let message = response.refused(403, "DENIED");
        assert!(
            message.contains("this registry only gives content out"),
            "{message}"
        );
        assert_eq!(response.find("WWW-Authenticate"), None);
        assert!(registry.everything().await.is_empty());
    }

    let registry = Registry::setup()
        .authenticator(Login::token())
        .start()
        .await;
    let get = |token: &str| {
        let request = registry.get("/v2/");
        request
            .header("Authorization", format!("Bearer {token}"))
            .send()
    };
    get("good").await.expect(200);
    get("bad").await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn row_a12_who_has_too_few_grants_is_told_which_token_to_get() {
    let registry = Registry::setup()
        .authenticator(Login::scopes())
        .policy(Granted)
        .start()
        .await;
    let bearing = |request: Request, scope: &str| {
        request
            .header("Authorization", format!("Bearer {scope}"))
            .send()
    };
    let post = || registry.post("/v2/a/blobs/uploads/").body("");
    let challenge = |needed: &str, error: &str| {
        format!(
            "Bearer realm=\"https://auth.example/token\",service=\"test\",scope=\"{needed}\"{error}"
        )
    };
    let needed = "repository:a:pull repository:a:push";

    let response = post().send().await;
    let message = response.refused(401, "UNAUTHORIZED");
    assert!(message.contains("log in"), "{message}");
    assert_eq!(response.all("WWW-Authenticate"), [challenge(needed, "")]);

    // As docker does, which has pulled before and pushes with the same token.
    for scope in [
        "repository:a:pull",
        "repository:a:push",
        "repository:b:pull,push",
    ] {
        let response = bearing(post(), scope).await;
        let message = response.refused(401, "UNAUTHORIZED");
        assert!(
            message.contains("does not grant `repository:a:"),
            "{message}"
        );
        assert_eq!(
            response.all("WWW-Authenticate"),
            [challenge(needed, ",error=\"insufficient_scope\"")]
        );
    }
    bearing(post(), "repository:a:pull,push").await.expect(202);
    bearing(post(), "repository:a:*").await.expect(202);

    let response = bearing(post(), "repository").await;
    let message = response.refused(401, "UNAUTHORIZED");
    assert!(
        message.contains("the token was not accepted: expected `type:name:actions`"),
        "{message}"
    );
    assert_eq!(
        response.all("WWW-Authenticate"),
        [challenge(needed, ",error=\"invalid_token\"")]
    );
    // A ping needs a token, not a grant: that is how clients check a login.
    let response = registry.get("/v2/").send().await;
    response.refused(401, "UNAUTHORIZED");
    assert_eq!(response.all("WWW-Authenticate"), [challenge("", "")]);
    bearing(registry.get("/v2/"), "repository:a:")
        .await
        .expect(200);
    // Without the right to its source a mount becomes an upload.
    let target = format!("/v2/a/blobs/uploads/?mount={}&from=b", sha256(b"x"));
    bearing(registry.post(target), "repository:a:pull,push")
        .await
        .expect(202);

    // A better token cannot be had where it is the policy that says no.
    let registry = Registry::setup()
        .authenticator(Login::scopes())
        .policy(PullOnly)
        .start()
        .await;
    let post = registry.post("/v2/a/blobs/uploads/").body("");
    let response = bearing(post, "repository:a:pull,push").await;
    response.refused(403, "DENIED");
    assert_eq!(response.find("WWW-Authenticate"), None);
}

#[tokio::test]
async fn row_a14_a_token_is_checked_once_for_each_request() {
    let valid = Arc::new(AtomicBool::new(true));
    let still = valid.clone();
    let login = Login::new(
        |_, _| "Bearer realm=\"https://auth.example/token\"".to_owned(),
        move |credentials| match credentials {
            Credentials::Bearer(_) if still.load(Ordering::Relaxed) => Ok(Principal::user("ada")),
            _ => Err(AuthenticateError::Rejected),
        },
    );
    let registry = Registry::setup()
        .authenticator(login)
        .policy(MEMBERS)
        .start()
        .await;
    let authorization = "Bearer short-lived";
    let request = registry.post("/v2/a/blobs/uploads/");
    let response = request.header("Authorization", authorization).send().await;
    let location = response.expect(202).location();

    let mut long = registry.connect().await;
    long.send(format!(
        "PATCH {location} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n"
    ))
    .await;
    long.continued().await;
    long.send("con").await;
    valid.store(false, Ordering::Relaxed);
    long.send("tent").await;
    let response = long.receive("PATCH").await.expect(202);
    assert_eq!(response.header("Range"), "0-6");

    for method in ["HEAD", "GET", "PATCH", "PUT", "DELETE"] {
        let target = format!("{location}?digest={}", sha256(b"content"));
        let request = registry.request(method, target).body("");
        let response = request.header("Authorization", authorization).send().await;
        response.expect(401);
    }
    valid.store(true, Ordering::Relaxed);
    let target = format!("{location}?digest={}", sha256(b"content"));
    let request = registry.put(target).header("Authorization", authorization);
    request.send().await.expect(201);
}
