//! Requests that are wrong, or meant to do harm

use http::{Request, header};
use http_body_util::Full;
use hyper::service::Service;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{PASSWORD, Pair, basic, escape};

#[tokio::test]
async fn what_is_malformed_is_refused_with_its_reason() {
    let pair = Pair::new();
    let password = escape(PASSWORD);
    let login = format!("grant_type=password&username=ada&password={password}");
    for (form, reason) in [
        ("", "expected `grant_type`"),
        ("grant_type=client_credentials", "got `client_credentials`"),
        ("grant_type=%00", "got `\\\\0`"),
        ("grant_type=password", "the parameter `username`"),
        (
            "grant_type=password&username=ada",
            "the parameter `password`",
        ),
        (
            "grant_type=password&username=&password=a",
            "the parameter `username`",
        ),
        ("grant_type=refresh_token", "the parameter `refresh_token`"),
        (
            &format!("{login}&grant_type=refresh_token"),
            "`grant_type` once",
        ),
        (&format!("{login}&username=bob"), "`username` once"),
        (&format!("{login}&password=other"), "`password` once"),
        (&format!("{login}&service=other"), "for the service `other`"),
        (&format!("{login}&service=a&service=b"), "`service` once"),
        (
            &format!("{login}&scope=repository"),
            "expected `type:name:actions`",
        ),
        (
            &format!("{login}&scope=repository:../etc:pull"),
            "expected a resource name",
        ),
        (
            &format!("{login}&scope=repository:a:pull%0d%0aX"),
            "expected an action",
        ),
        (
            &format!("{login}&scope={}", "a".repeat(9000)),
            "a scope of at most",
        ),
        (&format!("{login}&x=%ff"), "in UTF-8"),
    ] {
        let answer = pair.form(form).await.expect(400);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(text.contains(reason), "{form}: {text}");
        assert_eq!(answer.json()["errors"][0]["code"], "UNSUPPORTED");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(
            !text.contains(PASSWORD) && !text.contains(&password),
            "{text}"
        );
    }
    for target in [
        "/token?service=other",
        "/token?scope=repository",
        "/token?scope=repository:a:pull&scope=Repository:a:pull",
        "/token?service=%ff",
        "/token?offline_token=true&offline_token=true",
    ] {
        pair.ask("GET", target, "").await.expect(400);
    }
    // What is not known is passed over, an empty service is the only one.
    pair.ask("GET", "/token?&&x&y=1&service=&scope=&account=eve", "")
        .await
        .expect(200);
}

#[tokio::test]
async fn a_form_has_a_type_and_an_end() {
    let pair = Pair::new();
    let login = format!(
        "grant_type=password&username=ada&password={}",
        escape(PASSWORD)
    );
    let send = async |kind: &'static str, body: String| {
        let request = Request::post("/token").header(header::CONTENT_TYPE, kind);
        pair.send(request.body(Full::from(body)).unwrap()).await
    };
    let form = "Application/x-www-form-urlencoded; charset=UTF-8";
    send(form, login.clone()).await.expect(200);
    send("application/json", login.clone()).await.expect(400);
    let fits = format!("{login}&x={}", "y".repeat(64 * 1024 - login.len() - 3));
    send(form, fits.clone()).await.expect(200);
    send(form, format!("{fits}y")).await.expect(413);
    let raw = [login.as_bytes(), b"&x=\xff"].concat();
    let request = Request::post("/token").body(Full::from(raw)).unwrap();
    pair.send(request).await.expect(400);
}

#[tokio::test]
async fn only_names_and_passwords_are_logins() {
    let pair = Pair::new();
    let token = pair.ask("GET", "/token", "").await.expect(200).bearer();
    for login in [
        token.as_str(),
        "Basic",
        "Basic ####",
        "Negotiate abc",
        &basic("", ""),
    ] {
        let answer = pair.ask("GET", "/token", login).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"tokens\"");
        assert_eq!(answer.json()["errors"][0]["code"], "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_others() {
    let pair = Pair::new();
    for method in ["PUT", "DELETE", "HEAD", "OPTIONS"] {
        let answer = pair.ask(method, "/token", "").await.expect(405);
        assert_eq!(answer.header("allow"), "GET, POST");
    }
    assert!(!pair.tokens.answers("/token/"));
    let request = Request::get("/elsewhere")
        .body(Full::<bytes::Bytes>::default())
        .unwrap();
    let response = pair.tokens.call(request).await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn what_cannot_be_decided_is_for_later() {
    let pair = Pair::new();
    let target = "/token?scope=repository:public:pull+repository:undecided:pull";
    let answer = pair.ask("GET", target, "").await.expect(503);
    assert_eq!(answer.header("retry-after"), "7");
    assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
    assert!(!String::from_utf8_lossy(&answer.body).contains("directory of secrets"));
}

#[test]
fn whatever_comes_is_refused_and_nothing_breaks() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pair = Pair::new();
    // With the right password it would be right to answer with a token; it is not among these.
    let name = "grant_type|service|scope|username|password|refresh_token|access_type|[ -~]{0,8}";
    let value = "password|refresh_token|ada|offline|repository:a:pull|[a-z:,*/]{0,20}|[ -~]{0,20}|\\PC{0,8}";
    let parts = prop::collection::vec((name, value), 0..10);
    let config = ProptestConfig::with_cases(64);
    let ran = TestRunner::new(config).run(&parts, |parts| {
        let form: Vec<_> = parts
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let answer = runtime.block_on(pair.form(&form.join("&")));
        prop_assert!([400, 401].contains(&answer.status.as_u16()));
        prop_assert!(answer.json()["errors"][0]["message"].is_string());
        Ok(())
    });
    ran.unwrap();
}
