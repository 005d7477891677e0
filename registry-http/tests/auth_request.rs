//! What a web server in front is told, over real sockets where that matters

use std::future::pending;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::service::Service;
use registry_auth::{
    Access, AuthenticateError, Authenticator, AuthorizeError, Authorizer, ChallengeReason,
    Credentials, Decision, Principal,
};
use registry_core::{Action, Resource};
use registry_http::{
    AccessControl, AccessRecord, AuthRequestService, Observer, Rate, RateLimits, RemoteAddr,
    ResponseBody, ServeOptions, UnixPeer, serve,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ADA: &str = "Basic YWRhOnNlY3JldA==";
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// `ada` with the password `secret`
#[derive(Debug)]
struct Users;

#[async_trait]
impl Authenticator for Users {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::None => Ok(Principal::Anonymous),
            Credentials::Basic { user, password } if password.expose() == "secret" => {
                Ok(Principal::user(user))
            }
            _ => Err(AuthenticateError::Rejected),
        }
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        Some("Basic realm=\"Acumos\"".to_owned())
    }
}

/// Everybody pulls `public`, `ada` also pulls and pushes `hers`, of `undecided` nobody knows
#[derive(Debug)]
struct Rules;

#[async_trait]
impl Authorizer for Rules {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        let Resource::Repository(name) = &access.resource else {
            return Ok(Decision::deny("catalog", "the catalog is nobody's"));
        };
        Ok(match (name.as_str(), access.action) {
            ("undecided", _) => {
                return Err(AuthorizeError {
                    retry_after: Duration::from_secs(7),
                    cause: "the directory of hunter2 is down".to_owned(),
                });
            }
            ("public", Action::Pull) => Decision::allow("public", "everybody may"),
            ("hers", Action::Pull | Action::Push) if principal.name() == Some("ada") => {
                Decision::allow("hers", "it is hers")
            }
            ("secret", _) => Decision::deny("rest", "it is a secret").with_hidden(),
            ("long", _) => Decision::deny("long", "“\"\\\u{1f600}” ".repeat(2000)),
            _ => Decision::deny("rest", "“nobody” may, \"really\""),
        })
    }
}

fn access() -> AccessControl {
    AccessControl::new(Arc::new(Users), Arc::new(Rules))
}

fn service() -> AuthRequestService {
    AuthRequestService::builder(access()).build()
}

fn from_loopback() -> RemoteAddr {
    RemoteAddr(([127, 0, 0, 1], 40000).into())
}

/// An answer with its body read
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The status that a registry would have answered with
    fn told(&self) -> &str {
        self.header("x-registry-status").expect("a refusal")
    }

    fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        body["errors"][0]["code"]
            .as_str()
            .expect("a code")
            .to_owned()
    }
}

async fn read(response: Response<ResponseBody>) -> Answer {
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

async fn ask_with(service: &AuthRequestService, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get("/auth").extension(from_loopback());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    read(service.call(request).await.unwrap()).await
}

/// As nginx asks for `ada`
async fn ask(method: &str, uri: &str) -> Answer {
    let headers = [
        ("Authorization", ADA),
        ("X-Original-Method", method),
        ("X-Original-URI", uri),
    ];
    ask_with(&service(), &headers).await
}

#[tokio::test]
async fn who_may_is_let_through_and_named() {
    for (method, uri) in [
        ("GET", "/v2/"),
        ("GET", "/v2"),
        ("HEAD", "/v2/public/manifests/v1"),
        ("GET", "/v2/public/manifests/v1?ns=docker.io"),
        ("GET", "/v2/%70ublic/tags/list?n=5"),
        ("GET", &format!("/v2/hers/blobs/sha256%3A{}", &DIGEST[7..])),
        ("POST", "/v2/hers/blobs/uploads/"),
        ("PUT", "/v2/hers/manifests/v1"),
    ] {
        let answer = ask(method, uri).await;
        assert_eq!(answer.status, StatusCode::OK, "{method} {uri}");
        assert_eq!(answer.header("x-registry-user"), Some("ada"));
        assert_eq!(answer.header("x-registry-status"), None);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-length"), Some("0"));
        assert!(answer.headers.contains_key("x-request-id"));
        assert!(answer.body.is_empty());
    }
    let anonymous = [
        ("X-Original-Method", "GET"),
        ("X-Original-URI", "/v2/public/manifests/v1"),
    ];
    let answer = ask_with(&service(), &anonymous).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-registry-user"), None);
}

#[tokio::test]
async fn who_has_not_logged_in_is_asked_to() {
    for headers in [
        &[("X-Original-Method", "GET"), ("X-Original-URI", "/v2/")][..],
        &[
            ("X-Original-Method", "PUT"),
            ("X-Original-URI", "/v2/hers/manifests/v1"),
        ],
        &[
            ("Authorization", "Basic YWRhOndyb25n"),
            ("X-Original-Method", "GET"),
            ("X-Original-URI", "/v2/public/manifests/v1"),
        ],
    ] {
        let answer = ask_with(&service(), headers).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{headers:?}");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Basic realm=\"Acumos\"")
        );
        assert_eq!(answer.told(), "401");
        assert_eq!(answer.code(), "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn who_may_not_learns_why_in_headers_too() {
    let answer = ask("PUT", "/v2/theirs/manifests/v1").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.told(), "403");
    let reason = answer.header("x-registry-reason").unwrap();
    assert!(reason.contains("may, "), "{reason}");
    // What a web server puts into its own answer is the same JSON.
    let errors: Value = serde_json::from_str(answer.header("x-registry-errors").unwrap()).unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(errors, body);
    let message = body["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("“nobody” may, \"really\""), "{message}");
}

#[tokio::test]
async fn headers_stay_small_whatever_the_reason() {
    let answer = ask("PUT", "/v2/long/manifests/v1").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let errors = answer.header("x-registry-errors").unwrap();
    let reason = answer.header("x-registry-reason").unwrap();
    let all: usize = answer
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    assert!(all < 4096, "{all} bytes of headers");
    assert!(!reason.is_empty());
    let errors: Value = serde_json::from_str(errors).unwrap();
    assert_eq!(errors["errors"][0]["code"], "DENIED");
    assert!(answer.body.len() > 10_000, "the body is whole");
}

#[tokio::test]
async fn what_a_registry_does_not_have_is_refused() {
    for (method, uri, told) in [
        ("GET", "/", "404"),
        ("GET", "/authok/v2/public/manifests/v1", "404"),
        ("GET", "//v2/public/manifests/v1", "404"),
        ("GET", "/foo/v2/public/blobs/x", "404"),
        ("GET", "/V2/public/manifests/v1", "404"),
        ("GET", "/v2%2Fpublic/manifests/v1", "404"),
        ("GET", "/%76%32/public/manifests/v1", "404"),
        ("GET", "/./v2/public/manifests/v1", "404"),
        ("GET", "/v2/../v2/public/manifests/v1", "400"),
        ("GET", "/v2/public/../hers/manifests/v1", "400"),
        ("GET", "/v2/public%2F..%2Fhers/manifests/v1", "400"),
        ("GET", "/v2/public//manifests/v1", "400"),
        ("GET", "/v2/public/manifests/..%2F..%2Fx", "400"),
        ("GET", "/v2/public/manifests/%ff", "400"),
        ("GET", "/v2/_catalog/../public/manifests/v1", "404"),
        ("GET", "/service/rest/v1/repositories", "404"),
        ("POST", "/v2/public/manifests/v1", "405"),
        ("get", "/v2/public/manifests/v1", "405"),
        ("TRACE", "/v2/", "405"),
        (
            "GET",
            "http://registry.example/v2/public/manifests/v1",
            "403",
        ),
        ("GET", "v2/public/manifests/v1", "403"),
        ("GET", "/v2/public/manifests/v1#x", "403"),
        ("GET", "/v2/public\\manifests/v1", "403"),
        ("GET", "/v2/public/manifests/v1 HTTP/1.1", "403"),
        ("GET", "/v2/public/manifests/\u{e9}", "403"),
        ("GET", "", "403"),
        ("", "/v2/public/manifests/v1", "405"),
    ] {
        let answer = ask(method, uri).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {uri}");
        assert_eq!(answer.told(), told, "{method} {uri}");
    }
}

#[tokio::test]
async fn a_request_is_named_once_and_in_one_way() {
    const URI: &str = "/v2/public/manifests/v1";
    let good = [("X-Original-Method", "GET"), ("X-Original-URI", URI)];
    let answer = ask_with(&service(), &good).await;
    assert_eq!(answer.status, StatusCode::OK);
    for headers in [
        &[][..],
        &[("X-Original-Method", "GET")],
        &[("X-Original-URI", URI)],
        &[("X-Forwarded-Uri", URI)],
        &[("X-Forwarded-Method", "GET"), ("X-Original-URI", URI)],
        &[good[0], good[1], good[1]],
        &[good[0], good[0], good[1]],
        &[good[0], good[1], ("X-Forwarded-Uri", URI)],
        &[good[0], good[1], ("X-Forwarded-Method", "GET")],
        &[good[0], good[1], ("X-Original-URL", "http://a/v2/")],
        &[
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-Uri", URI),
            ("X-Original-Method", "GET"),
        ],
    ] {
        let answer = ask_with(&service(), headers).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
        assert_eq!(answer.code(), "DENIED", "{headers:?}");
    }
}

#[tokio::test]
async fn the_ingress_controller_sends_a_url() {
    let ask_for = async |url: &str| {
        let headers = [("X-Original-Method", "GET"), ("X-Original-URL", url)];
        ask_with(&service(), &headers).await.status
    };
    for good in [
        "https://registry.example/v2/public/manifests/v1",
        "http://[::1]:5000/v2/public/tags/list?n=1",
    ] {
        assert_eq!(ask_for(good).await, StatusCode::OK, "{good}");
    }
    for bad in [
        "/v2/public/manifests/v1",
        "https:///v2/public/manifests/v1",
        "https://registry.example",
        "https://a@b/v2/public/manifests/v1",
        "https://a?/v2/public/manifests/v1",
        "ftp://a/v2/public/manifests/v1",
        "https://a//v2/public/manifests/v1",
    ] {
        assert_eq!(ask_for(bad).await, StatusCode::FORBIDDEN, "{bad}");
    }
}

#[tokio::test]
async fn traefik_hands_on_the_answer_of_a_registry() {
    for (method, uri, status, code) in [
        ("GET", "/v2/public/manifests/v1", 200, ""),
        ("GET", "/nowhere", 404, "UNSUPPORTED"),
        ("GET", "/v2/A/manifests/v1", 400, "NAME_INVALID"),
        ("PUT", "/v2/theirs/manifests/v1", 401, "UNAUTHORIZED"),
        ("GET", "/v2/undecided/manifests/v1", 503, "UNAVAILABLE"),
    ] {
        let headers = [("X-Forwarded-Method", method), ("X-Forwarded-Uri", uri)];
        let answer = ask_with(&service(), &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {uri}");
        if status != 200 {
            assert_eq!(answer.code(), code, "{method} {uri}");
        }
    }
}

#[tokio::test]
async fn what_is_hidden_is_a_404_to_the_client() {
    let service = AuthRequestService::builder(access().with_hidden_as_absent()).build();
    const URI: &str = "/v2/secret/manifests/v1";
    for (method, uri, status) in [
        ("X-Original-Method", "X-Original-URI", StatusCode::FORBIDDEN),
        (
            "X-Forwarded-Method",
            "X-Forwarded-Uri",
            StatusCode::NOT_FOUND,
        ),
    ] {
        let headers = [("Authorization", ADA), (method, "GET"), (uri, URI)];
        let answer = ask_with(&service, &headers).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.told(), "404");
        assert_eq!(answer.code(), "MANIFEST_UNKNOWN");
        assert!(
            !answer
                .header("x-registry-errors")
                .unwrap()
                .contains("it is a secret")
        );
    }
}

#[tokio::test]
async fn who_guesses_too_often_waits() {
    let limits = RateLimits::default()
        .failures_per_address(Rate::new(NonZeroU32::MIN, Duration::from_secs(3600)));
    let service = AuthRequestService::builder(access().with_limits(limits)).build();
    let guess = async |address: &str| {
        let headers = [
            ("Authorization", "Basic YWRhOndyb25n"),
            ("X-Forwarded-For", address),
            ("X-Original-Method", "GET"),
            ("X-Original-URI", "/v2/"),
        ];
        ask_with(&service, &headers).await
    };
    assert_eq!(guess("192.0.2.1").await.status, StatusCode::UNAUTHORIZED);
    let answer = guess("192.0.2.1").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(guess("192.0.2.2").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_outage_is_no_refusal_and_says_nothing_of_its_cause() {
    let answer = ask("GET", "/v2/undecided/manifests/v1").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.told(), "503");
    assert_eq!(answer.header("retry-after"), Some("7"));
    let said = format!("{:?} {:?}", answer.headers, answer.body);
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_blob_is_mounted_only_from_where_it_may_be_pulled() {
    let start = async |query: &str| {
        let uri = format!("/v2/hers/blobs/uploads/?{query}");
        ask("POST", &uri).await.status
    };
    for good in [
        format!("mount={DIGEST}&from=public"),
        format!("from=hers&mount={DIGEST}"),
        format!("digest={DIGEST}"),
        "digest-algorithm=sha512".to_owned(),
    ] {
        assert_eq!(start(&good).await, StatusCode::OK, "{good}");
    }
    for bad in [
        format!("mount={DIGEST}&from=theirs"),
        format!("mount={DIGEST}&from=undecided"),
        format!("mount={DIGEST}"),
        format!("mount={DIGEST}&from=THEIRS"),
        format!("mount={DIGEST}&from=public&from=theirs"),
        format!("mount=x&mount={DIGEST}&from=public"),
        format!("mount={DIGEST}&from=public&%66rom=theirs"),
        format!("n=1;mount={DIGEST};from=theirs"),
    ] {
        assert_eq!(start(&bad).await, StatusCode::FORBIDDEN, "{bad}");
    }
}

#[tokio::test]
async fn only_the_web_server_may_ask() {
    let ask_from = async |service: &AuthRequestService, peer: Option<RemoteAddr>, unix: bool| {
        let mut request = Request::get("/auth")
            .header("X-Original-Method", "GET")
            .header("X-Original-URI", "/v2/public/manifests/v1");
        if let Some(peer) = peer {
            request = request.extension(peer);
        }
        if unix {
            request = request.extension(UnixPeer);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        read(service.call(request).await.unwrap()).await
    };
    let far = RemoteAddr(([192, 0, 2, 7], 40000).into());
    let service = service();
    let named = AuthRequestService::builder(access())
        .trusted_peers(vec!["192.0.2.0/24".parse().unwrap()])
        .build();
    for (service, peer, unix, expected) in [
        (&service, Some(from_loopback()), false, StatusCode::OK),
        (&service, None, true, StatusCode::OK),
        (&service, Some(far), false, StatusCode::FORBIDDEN),
        (&service, None, false, StatusCode::FORBIDDEN),
        (&named, Some(far), false, StatusCode::OK),
        (&named, Some(from_loopback()), false, StatusCode::FORBIDDEN),
    ] {
        let answer = ask_from(service, peer, unix).await;
        assert_eq!(answer.status, expected, "{peer:?} {unix}");
    }
}

#[tokio::test]
async fn the_path_takes_get_and_head_only() {
    let service = AuthRequestService::builder(access())
        .path("/may-it")
        .build();
    assert!(service.answers("/may-it"));
    assert!(!service.answers("/auth") && !service.answers("/may-it/"));
    for (method, path, expected) in [
        (Method::GET, "/may-it", 200),
        (Method::HEAD, "/may-it", 200),
        (Method::POST, "/may-it", 405),
        (Method::PUT, "/may-it", 405),
        (Method::GET, "/auth", 404),
    ] {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .extension(from_loopback())
            .header("X-Original-Method", "GET")
            .header("X-Original-URI", "/v2/public/manifests/v1")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = read(service.call(request).await.unwrap()).await;
        assert_eq!(answer.status.as_u16(), expected, "{method} {path}");
        let allow = answer.header("allow");
        assert_eq!(allow, (expected == 405).then_some("GET, HEAD"));
    }
}

/// Keeps what it learns
#[derive(Default)]
struct Records(Mutex<Vec<AccessRecord>>);

impl Observer for Records {
    fn finished(&self, record: &AccessRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
}

#[tokio::test]
async fn requests_are_observed_with_the_clients_address() {
    let records = Arc::new(Records::default());
    let service = AuthRequestService::builder(access())
        .observer(records.clone())
        .request_id_headers(["x-acumos-requestid", "x-request-id"].map(HeaderName::from_static))
        .build();
    let headers = [
        ("X-ACUMOS-RequestID", "r-1"),
        ("Authorization", ADA),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Original-Method", "PUT"),
        ("X-Original-URI", "/v2/theirs/manifests/v1"),
    ];
    let answer = ask_with(&service, &headers).await;
    assert_eq!(answer.header("x-acumos-requestid"), Some("r-1"));
    assert_eq!(answer.header("x-request-id"), Some("r-1"));
    let records = records.0.lock().unwrap();
    let [record] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(record.remote, Some([203, 0, 113, 9].into()));
    assert_eq!(record.user.as_deref(), Some("ada"));
    assert_eq!(record.operation, Some("put_manifest"));
    assert_eq!(&*record.request_id.0, "r-1");
    assert_eq!(record.status, StatusCode::FORBIDDEN);
    assert!(!format!("{record:?}").contains("YWRhOnNlY3JldA"));
}

/// Sends these bytes and reads until the other side ends the connection
async fn exchange(bytes: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(
        listener,
        service(),
        ServeOptions::default(),
        pending(),
    ));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .expect("the connection ends with the answer")
        .unwrap();
    server.abort();
    answer
}

#[tokio::test]
async fn http_1_0_is_answered_as_nginx_speaks_it() {
    // Without a Host header, which HTTP/1.0 does not ask for.
    let answer = exchange(&format!(
        "GET /auth HTTP/1.0\r\nAuthorization: {ADA}\r\nX-Original-Method: PUT\r\n\
         X-Original-URI: /v2/hers/manifests/v1\r\n\r\n"
    ))
    .await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    assert!(answer.contains("\r\nx-registry-user: ada\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");

    let answer = exchange(
        "GET /auth HTTP/1.0\r\nX-Original-Method: PUT\r\n\
         X-Original-URI: /v2/hers/manifests/v1\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.0 401 "), "{answer}");
    assert!(
        answer.contains("www-authenticate: Basic realm=\"Acumos\"\r\n"),
        "{answer}"
    );
    assert!(!answer.contains("transfer-encoding"), "{answer}");
    assert!(answer.ends_with("}]}"), "{answer}");
}
