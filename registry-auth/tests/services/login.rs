//! Users of the platform log in

use std::sync::Arc;
use std::time::Duration;

use registry_auth::acumos::{CdsAuthenticator, LoginOptions, Secrets};
use registry_auth::{AuthenticateError, Authenticator, Credentials, Password, Principal};

use crate::support::{Asked, Reply, Server, ok, user};

const ROLES: &str = r#"[{"roleId":"r1","name":"Publisher","active":true},
    {"roleId":"r2","name":"Admin","active":false}]"#;

/// The users of a platform: ada, with a password and a token
fn platform(asked: &Asked) -> Reply {
    let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap_or_default();
    let name = body["name"].as_str().unwrap_or_default().to_lowercase();
    let known = name == "ada" || name == "ada@example.org";
    match (asked.line.as_str(), body["pass"].as_str()) {
        ("POST /user/login", Some("pass:\"word\\é")) if known => ok(user("u1", "ada", "")),
        ("POST /user/loginapi", Some("token")) if known => ok(user("u1", "ada", "")),
        ("POST /user/login" | "POST /user/loginapi", _) if known => {
            refused("Failed to authenticate user")
        }
        ("POST /user/login" | "POST /user/loginapi", _) => {
            refused(&format!("Failed to find active user {name}"))
        }
        ("GET /user/u1/role", _) => ok(ROLES),
        _ => Reply::Json(500, asked.line.clone()),
    }
}

fn refused(error: &str) -> Reply {
    Reply::Json(400, format!(r#"{{"status":400,"error":"{error}"}}"#))
}

const PASSWORD: &str = "pass:\"word\\é";

fn users(server: &Server, options: LoginOptions) -> CdsAuthenticator {
    CdsAuthenticator::new(server.cds(), "Acumos".parse().unwrap(), options).unwrap()
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic {
        user: user.to_owned(),
        password: Password::new(password),
    }
}

fn logins(server: &Server) -> Vec<String> {
    let mut lines = server.lines();
    lines.retain(|line| line.starts_with("POST "));
    lines
}

fn ada() -> Result<Principal, AuthenticateError> {
    Ok(Principal::user("ada").with_roles(["Publisher"]))
}

const REJECTED: Result<Principal, AuthenticateError> = Err(AuthenticateError::Rejected);

const BY_PASSWORD: &str = "POST /user/login";
const BY_TOKEN: &str = "POST /user/loginapi";

#[tokio::test]
async fn each_credential_is_tried_once_in_each_allowed_way() {
    for (secrets, user, secret, expected, asked) in [
        (Secrets::Both, "ada", PASSWORD, ada(), &[BY_PASSWORD][..]),
        (
            Secrets::Both,
            "ada",
            "token",
            ada(),
            &[BY_PASSWORD, BY_TOKEN],
        ),
        (
            Secrets::Both,
            "ada",
            "wrong",
            REJECTED,
            &[BY_PASSWORD, BY_TOKEN],
        ),
        (
            Secrets::Both,
            "eve",
            "token",
            REJECTED,
            &[BY_PASSWORD, BY_TOKEN],
        ),
        (Secrets::Password, "ada", PASSWORD, ada(), &[BY_PASSWORD]),
        (Secrets::Password, "ada", "token", REJECTED, &[BY_PASSWORD]),
        (Secrets::Token, "ada", "token", ada(), &[BY_TOKEN]),
        (Secrets::Token, "ada", PASSWORD, REJECTED, &[BY_TOKEN]),
        // As the platform writes the name, whatever the user did.
        (Secrets::Password, "ADA", PASSWORD, ada(), &[BY_PASSWORD]),
        (
            Secrets::Password,
            "Ada@example.org",
            PASSWORD,
            ada(),
            &[BY_PASSWORD],
        ),
        // Not worth an attempt.
        (Secrets::Both, "", PASSWORD, REJECTED, &[]),
        (Secrets::Both, "ada", "", REJECTED, &[]),
    ] {
        let server = Server::new(|asked, _| platform(asked)).await;
        let users = users(
            &server,
            LoginOptions {
                secrets,
                ..LoginOptions::default()
            },
        );
        for _ in 0..5 {
            let found = users.authenticate(&basic(user, secret)).await;
            assert_eq!(found, expected, "{user} {secret} {secrets:?}");
        }
        assert_eq!(logins(&server), asked, "{user} {secret} {secrets:?}");
    }
}

#[tokio::test]
async fn credentials_that_are_none_of_the_platforms_cost_nothing() {
    let server = Server::table(&[]).await;
    let users = users(&server, LoginOptions::default());
    let long = "x".repeat(100_000);
    for (credentials, expected) in [
        (Credentials::None, Ok(Principal::Anonymous)),
        (Credentials::Bearer(Password::new("token")), REJECTED),
        (basic(&long, "p"), REJECTED),
        (basic("ada", &long), REJECTED),
    ] {
        assert_eq!(users.authenticate(&credentials).await, expected);
    }
    assert!(server.lines().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_requests_of_one_user_cost_one_login() {
    for (secret, expected, asked) in [
        (PASSWORD, ada(), &[BY_PASSWORD][..]),
        ("wrong", REJECTED, &[BY_PASSWORD, BY_TOKEN]),
    ] {
        let server = Server::new(|asked, _| match platform(asked) {
            Reply::Json(status, text) => Reply::Late(Duration::from_millis(50), status, text),
            other => other,
        })
        .await;
        let users = Arc::new(users(&server, LoginOptions::default()));
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let users = users.clone();
            requests.spawn(async move { users.authenticate(&basic("ada", secret)).await });
        }
        while let Some(found) = requests.join_next().await {
            assert_eq!(found.unwrap(), expected);
        }
        assert_eq!(logins(&server), asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_that_does_not_answer_is_asked_once_by_those_who_come_together() {
    let server = Server::new(|_, _| {
        let text = r#"{"error":"Failed to find active user ada"}"#.to_owned();
        Reply::Late(Duration::from_millis(300), 503, text)
    })
    .await;
    let users = Arc::new(users(&server, LoginOptions::default()));
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let users = users.clone();
        requests.spawn(async move { users.authenticate(&basic("ada", PASSWORD)).await });
    }
    while let Some(found) = requests.join_next().await {
        let error = found.unwrap().unwrap_err();
        assert!(
            matches!(error, AuthenticateError::Unavailable { .. }),
            "{error:?}"
        );
        assert!(!error.to_string().contains("active user"), "{error}");
    }
    assert_eq!(logins(&server).len(), 1);
    // Nothing of it is remembered: the next one asks.
    assert!(users.authenticate(&basic("ada", PASSWORD)).await.is_err());
    assert_eq!(logins(&server).len(), 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_make_the_login_begin_anew() {
    let server = Server::new(|asked, _| match platform(asked) {
        Reply::Json(status, text) => Reply::Late(Duration::from_millis(100), status, text),
        other => other,
    })
    .await;
    let users = users(&server, LoginOptions::default());
    let credentials = basic("ada", PASSWORD);
    for _ in 0..3 {
        let request = users.authenticate(&credentials);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), request)
                .await
                .is_err()
        );
    }
    assert_eq!(users.authenticate(&credentials).await, ada());
    assert_eq!(logins(&server), [BY_PASSWORD]);
}

#[tokio::test]
async fn what_wrong_guesses_cost_a_user_has_an_end() {
    for (attempts, asked) in [(2, 2), (3, 3)] {
        let server = Server::new(|asked, _| platform(asked)).await;
        let options = LoginOptions {
            wrong_attempts: attempts.try_into().unwrap(),
            ..LoginOptions::default()
        };
        let users = users(&server, options);
        for guess in 0..10 {
            // Cases do not make it another name.
            let name = ["ada", "Ada", "ADA"][guess % 3];
            let found = users.authenticate(&basic(name, &guess.to_string())).await;
            assert_eq!(found, REJECTED);
        }
        assert_eq!(logins(&server).len(), asked);
        // Others are not concerned.
        assert_eq!(users.authenticate(&basic("eve", "x")).await, REJECTED);
        assert_eq!(logins(&server).len(), asked + 2);
    }
}

#[tokio::test]
async fn who_is_known_stays_in_while_somebody_guesses() {
    let server = Server::new(|asked, _| platform(asked)).await;
    let users = users(&server, LoginOptions::default());
    assert_eq!(users.authenticate(&basic("ada", PASSWORD)).await, ada());
    for guess in 0..10 {
        let found = users.authenticate(&basic("ada", &guess.to_string())).await;
        assert_eq!(found, REJECTED);
    }
    assert_eq!(users.authenticate(&basic("ada", PASSWORD)).await, ada());
}

#[tokio::test]
async fn a_right_login_makes_the_wrong_ones_forgotten() {
    let server = Server::new(|asked, _| platform(asked)).await;
    let options = LoginOptions {
        secrets: Secrets::Password,
        remember: Duration::ZERO,
        ..LoginOptions::default()
    };
    let users = users(&server, options);
    for round in 0..4 {
        for guess in 0..2 {
            let wrong = format!("{round} {guess}");
            assert_eq!(users.authenticate(&basic("ada", &wrong)).await, REJECTED);
        }
        assert_eq!(users.authenticate(&basic("ada", PASSWORD)).await, ada());
    }
    assert_eq!(logins(&server).len(), 12);
}

#[tokio::test]
async fn while_the_platform_blocks_a_user_it_is_not_asked() {
    let server = Server::new(|asked, number| match number {
        1 => refused("Repeated login failures, user blocked for 1 sec"),
        _ => platform(asked),
    })
    .await;
    let users = users(&server, LoginOptions::default());
    for _ in 0..3 {
        assert_eq!(users.authenticate(&basic("ada", PASSWORD)).await, REJECTED);
    }
    assert_eq!(logins(&server), [BY_PASSWORD]);
    // The right password is right again when the block has ended.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(users.authenticate(&basic("ada", PASSWORD)).await, ada());
}

#[tokio::test]
async fn what_is_remembered_ends() {
    let server = Server::new(|asked, _| platform(asked)).await;
    let short = Duration::from_millis(50);
    let options = LoginOptions {
        secrets: Secrets::Password,
        remember: short,
        block: short,
        ..LoginOptions::default()
    };
    let users = users(&server, options);
    for secret in [PASSWORD, "wrong"] {
        let before = logins(&server).len();
        let first = users.authenticate(&basic("ada", secret)).await;
        tokio::time::sleep(2 * short).await;
        assert_eq!(users.authenticate(&basic("ada", secret)).await, first);
        assert_eq!(logins(&server).len(), before + 2);
    }
}

#[tokio::test]
async fn accounts_that_the_portal_would_not_let_in_are_refused() {
    for (from, to) in [
        ("\"active\":true", "\"active\":false"),
        (
            "\"loginPassExpire\":null",
            "\"loginPassExpire\":\"2018-12-16T12:34:56Z\"",
        ),
        (
            "\"verifyExpiration\":null",
            "\"verifyExpiration\":\"2999-12-16T12:34:56Z\"",
        ),
    ] {
        let server = Server::new(move |asked, _| match asked.line.as_str() {
            BY_PASSWORD => ok(user("u1", "ada", "").replace(from, to)),
            _ => platform(asked),
        })
        .await;
        let users = users(&server, LoginOptions::default());
        for _ in 0..3 {
            assert_eq!(
                users.authenticate(&basic("ada", PASSWORD)).await,
                REJECTED,
                "{to}"
            );
        }
        // The password was right: it is not tried as a token.
        assert_eq!(logins(&server), [BY_PASSWORD]);
    }
}

#[tokio::test]
async fn what_is_no_answer_lets_nobody_in_and_condemns_nobody() {
    for reply in [
        ok(""),
        ok("null"),
        ok("{}"),
        ok("<html>hello</html>"),
        ok(user("u2", "bob", "")),
        Reply::Json(204, String::new()),
        Reply::Json(302, String::new()),
        // The registry's own account is wrong there, not the user's.
        Reply::Json(401, r#"{"error":"Unauthorized"}"#.to_owned()),
        Reply::Json(403, String::new()),
        Reply::Json(404, String::new()),
        Reply::Json(400, "<html>Bad Request</html>".to_owned()),
        Reply::Json(
            500,
            r#"{"status":500,"error":"Failed to authenticate user"}"#.to_owned(),
        ),
        Reply::Json(502, String::new()),
        Reply::Break,
        Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ] {
        let broken = reply.clone();
        let server = Server::new(move |asked, number| match number {
            1 => broken.clone(),
            _ => platform(asked),
        })
        .await;
        let users = users(&server, LoginOptions::default());
        let found = users.authenticate(&basic("ada", PASSWORD)).await;
        assert!(
            matches!(found, Err(AuthenticateError::Unavailable { .. })),
            "{reply:?}: {found:?}"
        );
        // One attempt, whatever happened to it: it may have counted.
        assert_eq!(server.lines(), [BY_PASSWORD], "{reply:?}");
        assert_eq!(
            users.authenticate(&basic("ada", PASSWORD)).await,
            ada(),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn no_secret_is_in_debug_output() {
    let server = Server::new(|asked, _| platform(asked)).await;
    let users = users(&server, LoginOptions::default());
    users.authenticate(&basic("ada", PASSWORD)).await.unwrap();
    let debug = format!("{users:?}");
    assert!(
        debug.contains("ccds") || debug.contains("127.0.0.1"),
        "{debug}"
    );
    for secret in [
        "pass:",
        "service-secret",
        "Y2Nkc19jbGllbnQ6c2VydmljZS1zZWNyZXQ=",
    ] {
        assert!(!debug.contains(secret), "{debug}");
    }
}

#[tokio::test]
async fn what_is_asked_carries_the_name_of_the_request() {
    use registry_auth::acumos::{AcumosServices, CacheOptions, CachedDirectory, Directory, Query};
    use registry_auth::request;

    let server = Server::new(|_, _| ok("{}")).await;
    let directory =
        CachedDirectory::new(AcumosServices::new(server.cds()), CacheOptions::default());
    let query = Query::Account("ada".to_owned());
    let _ = request::on_behalf_of("name-4711".into(), directory.answer(&query)).await;
    let asked = server.asked();
    assert!(!asked.is_empty());
    for asked in asked {
        let head = asked.head.to_lowercase();
        assert!(head.contains("x-acumos-requestid: name-4711"), "{head}");
        assert!(head.contains("x-acumos-request-id: name-4711"), "{head}");
    }
}
