//! Keys by URL: late, changing, missing, and made up

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use registry_auth::token::{JwksUrl, TokenSetupError};
use registry_auth::{
    AuthenticateError, Authenticator, Credentials, Password, Principal, TokenAuthenticator,
    TokenOptions,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{ISSUER, REALM, SERVICE, Signer, World, claims};
use crate::table;

/// A server whose answer the test chooses
struct Server {
    url: String,
    answer: Arc<Mutex<Answer>>,
    /// The heads of the requests
    asked: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
enum Answer {
    /// Status and headers, and a body
    With(&'static str, String),
    /// 304 where the tag is this, else the set with it
    Tagged(&'static str, String),
    /// The set, after a while
    Late(Duration, String),
    /// A head, and then a byte now and then
    Drip,
    Silence,
    Break,
}

impl Answer {
    fn keys(signers: &[&Signer]) -> Self {
        Self::With("200 OK", set(signers))
    }
}

fn set(signers: &[&Signer]) -> String {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

impl Server {
    async fn new(answer: Answer) -> Self {
        Self::with(answer, None).await
    }

    async fn with(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(Mutex::new(answer));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let open = Arc::<AtomicUsize>::default();
        let (choice, log, count) = (answer.clone(), asked.clone(), open.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (choice, log, tls) = (choice.clone(), log.clone(), tls.clone());
                let count = count.clone();
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    // A client that hangs up is part of some tests.
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(serve(stream, &choice, &log).await);
                            }
                        }
                        None => drop(serve(stream, &choice, &log).await),
                    }
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            url: format!("{scheme}://localhost:{port}/keys"),
            answer,
            asked,
            open,
            task,
        }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn options(&self, refresh: Duration) -> TokenOptions {
        let keys = JwksUrl::new(&self.url)
            .unwrap()
            .with_refresh(refresh)
            .with_timeout(Duration::from_secs(2));
        TokenOptions::new(REALM, SERVICE, ISSUER).with_jwks_url(keys)
    }

    fn authenticator(&self, refresh: Duration) -> TokenAuthenticator {
        TokenAuthenticator::new(self.options(refresh)).unwrap()
    }

    /// Waits until it was asked so many times
    async fn asked_times(&self, times: usize) {
        within(|| async { self.asked().len() >= times }).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Mutex<Answer>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut seen = Vec::new();
    loop {
        while !seen.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8(std::mem::take(&mut seen)).unwrap();
        log.lock().unwrap().push(head.clone());
        let answer = answer.lock().unwrap().clone();
        let (head, body) = match answer {
            Answer::With(head, body) => (head.to_owned(), body),
            Answer::Tagged(tag, _) if head.contains(&format!("if-none-match: {tag}\r\n")) => {
                ("304 Not Modified".to_owned(), String::new())
            }
            Answer::Tagged(tag, body) => (format!("200 OK\r\nETag: {tag}"), body),
            Answer::Late(after, body) => {
                tokio::time::sleep(after).await;
                ("200 OK".to_owned(), body)
            }
            Answer::Drip => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
                stream.write_all(head).await?;
                loop {
                    stream.write_all(b" ").await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            Answer::Silence => {
                // Until the client hangs up.
                return stream.read_buf(&mut seen).await.map(drop);
            }
            Answer::Break => return Ok(()),
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Waits for something that has to come
async fn within<F: Future<Output = bool>>(is_so: impl Fn() -> F) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < end, "it does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn login(
    authenticator: &TokenAuthenticator,
    signer: &Signer,
) -> Result<Principal, AuthenticateError> {
    bring(authenticator, &signer.token(&claims())).await
}

async fn bring(
    authenticator: &TokenAuthenticator,
    token: &str,
) -> Result<Principal, AuthenticateError> {
    let credentials = Credentials::Bearer(Password::new(token));
    authenticator.authenticate(&credentials).await
}

fn is_unavailable(outcome: &Result<Principal, AuthenticateError>) -> bool {
    match outcome {
        Err(AuthenticateError::Unavailable { retry_after }) => {
            assert!((1..=61).contains(&retry_after.as_secs()), "{retry_after:?}");
            true
        }
        _ => false,
    }
}

fn is_unknown(outcome: &Result<Principal, AuthenticateError>) -> bool {
    matches!(outcome, Err(AuthenticateError::InvalidToken { reason })
        if reason.contains("no trusted key has the id"))
}

fn key(name: &str) -> Signer {
    Signer::new(name, Algorithm::ES256)
}

const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn nobody_is_let_in_or_turned_away_before_the_keys_are_there() {
    let one = Arc::new(key("one"));
    let world = Arc::new(World::new());
    let mut all = tokio::task::JoinSet::new();
    for answer in [
        Answer::With("500 Oh", String::new()),
        Answer::With("302 Found\r\nLocation: /keys2", set(&[&one])),
        Answer::With("304 Not Modified", String::new()),
        Answer::With("204 No Content", String::new()),
        Answer::With("200 OK", String::new()),
        Answer::With("200 OK", "<html>log in</html>".to_owned()),
        Answer::With("200 OK", "[]".to_owned()),
        Answer::With("200 OK", r#"{"keys": {}}"#.to_owned()),
        Answer::With("200 OK", format!("{}{}", " ".repeat(1 << 20), set(&[&one]))),
        Answer::Break,
        Answer::Drip,
        Answer::Silence,
    ] {
        all.spawn(before_the_keys_are_there(
            answer,
            one.clone(),
            world.clone(),
        ));
    }
    all.join_all().await;
}

async fn before_the_keys_are_there(answer: Answer, one: Arc<Signer>, world: Arc<World>) {
    let server = Server::new(answer).await;
    let mut options = server.options(NEVER);
    let url = options.jwks_url.take().unwrap();
    options = options
        .with_jwks_url(url.with_timeout(Duration::from_millis(300)))
        .with_root_certificates(world.bundle());
    let authenticator = TokenAuthenticator::new(options).unwrap();
    // It is asked at the start, before anyone comes, and that does not take long.
    server.asked_times(1).await;
    for token in [&one.token(&claims()), "a.b.c", ""] {
        let outcome = bring(&authenticator, token).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
    }
    // Whose key is in a file is known.
    login(&authenticator, &world.root).await.unwrap();
    assert_eq!(
        authenticator.authenticate(&Credentials::None).await,
        Ok(Principal::Anonymous)
    );
    // It is tried again, and where the redirect leads is not asked.
    server.answers(Answer::keys(&[&one]));
    within(|| async { login(&authenticator, &one).await.is_ok() }).await;
    let asked = server.asked();
    assert!(
        asked.iter().all(|head| head.starts_with("GET /keys HTTP")),
        "{asked:?}"
    );
    let outcome = bring(&authenticator, "a.b.c").await;
    assert!(
        matches!(outcome, Err(AuthenticateError::InvalidToken { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_keys() {
    let one = key("one");
    let late = Answer::Late(Duration::from_millis(500), set(&[&one]));
    let server = Server::new(late).await;
    let authenticator = server.authenticator(NEVER);
    let begin = Instant::now();
    login(&authenticator, &one).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(400), "too early");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn one_that_was_made_outside_of_a_runtime_begins_when_it_is_used() {
    let one = key("one");
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let of_server = runtime();
    let server = of_server.block_on(Server::new(Answer::keys(&[&one])));
    let authenticator = server.authenticator(NEVER);
    // The second one goes on where the runtime of the first is no more.
    for times in 1..=2 {
        runtime().block_on(login(&authenticator, &one)).unwrap();
        assert!(server.asked().len() <= times);
    }
    let two = key("two");
    server.answers(Answer::keys(&[&two]));
    runtime().block_on(async {
        within(|| async { login(&authenticator, &two).await.is_ok() }).await;
    });
}

#[tokio::test]
async fn keys_come_and_go() {
    let (one, two) = (key("one"), key("two"));
    let server = Server::new(Answer::keys(&[&one])).await;
    let authenticator = server.authenticator(OFTEN);
    let token = one.token(&claims());
    bring(&authenticator, &token).await.unwrap();
    server.answers(Answer::keys(&[&one, &two]));
    within(|| async { login(&authenticator, &two).await.is_ok() }).await;
    bring(&authenticator, &token).await.unwrap();
    // What was remembered of a key that has gone is forgotten.
    server.answers(Answer::keys(&[&two]));
    within(|| async { is_unknown(&bring(&authenticator, &token).await) }).await;
    login(&authenticator, &two).await.unwrap();
    // A set without keys says that all have gone; keys of no use say nothing about the others.
    server.answers(Answer::With("200 OK", r#"{"keys": []}"#.to_owned()));
    within(|| async { is_unknown(&login(&authenticator, &two).await) }).await;
    let mixed = json!({ "keys": [
        { "kty": "oct", "k": "c2VjcmV0" }, { "kty": 1 }, null, {},
        { "kty": "RSA", "n": "AP__", "e": "AQAB" }, two.jwk(),
    ]});
    server.answers(Answer::With("200 OK", mixed.to_string()));
    within(|| async { login(&authenticator, &two).await.is_ok() }).await;
}

#[tokio::test]
async fn a_token_of_a_new_key_leads_to_one_fetch() {
    let (one, two) = (key("one"), key("two"));
    let server = Server::new(Answer::keys(&[&one])).await;
    let authenticator = Arc::new(server.authenticator(NEVER));
    login(&authenticator, &one).await.unwrap();
    server.answers(Answer::Late(Duration::from_millis(300), set(&[&one, &two])));
    // All at once, and half of them bring the key along.
    let by_value = two.token_with(json!({ "jwk": two.jwk() }), &claims());
    let logins: Vec<_> = (0..50)
        .map(|number| {
            let token = match number % 2 {
                0 => two.token(&claims()),
                _ => by_value.clone(),
            };
            let authenticator = authenticator.clone();
            tokio::spawn(async move { bring(&authenticator, &token).await })
        })
        .collect();
    for login in logins {
        login.await.unwrap().unwrap();
    }
    assert_eq!(server.asked().len(), 2);

    // Any number of keys that are nobody's make no difference.
    for number in 0..200 {
        let header = json!({ "kid": format!("made up {number}") });
        let outcome = bring(&authenticator, &two.token_with(header, &claims())).await;
        assert!(is_unknown(&outcome), "{outcome:?}");
    }
    assert_eq!(server.asked().len(), 2);
    login(&authenticator, &one).await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_wrong_otherwise_leads_to_none() {
    let one = key("one");
    let server = Server::new(Answer::keys(&[&one])).await;
    let authenticator = server.authenticator(NEVER);
    login(&authenticator, &one).await.unwrap();
    let mut other = claims();
    other["aud"] = json!("other");
    let forged = key("two").token_with(json!({ "kid": one.libtrust_id() }), &claims());
    for token in [&one.token(&other), &forged, "a.b.c"] {
        let outcome = bring(&authenticator, token).await;
        assert!(
            matches!(outcome, Err(AuthenticateError::InvalidToken { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let (one, two) = (key("one"), key("two"));
    let server = Server::new(Answer::Tagged("\"v1\"", set(&[&one]))).await;
    let authenticator = server.authenticator(OFTEN);
    server.asked_times(4).await;
    login(&authenticator, &one).await.unwrap();
    let asked = server.asked();
    assert!(!asked[0].contains("if-none-match"), "{}", asked[0]);
    for head in &asked[1..] {
        assert!(head.contains("if-none-match: \"v1\"\r\n"), "{head}");
    }
    server.answers(Answer::Tagged("\"v2\"", set(&[&two])));
    within(|| async { login(&authenticator, &two).await.is_ok() }).await;
    assert!(is_unknown(&login(&authenticator, &one).await));
}

#[tokio::test]
async fn an_answer_says_how_long_it_is_good() {
    let one = key("one");
    let head = "200 OK\r\nCache-Control: public, max-age=1";
    let server = Server::new(Answer::With(head, set(&[&one]))).await;
    let authenticator = server.authenticator(OFTEN);
    login(&authenticator, &one).await.unwrap();
    // A minute at least, so not ten times a second.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn an_outage_changes_nothing_for_those_with_known_keys() {
    let (one, two) = (key("one"), key("two"));
    for outage in [
        Answer::With("503 Oh", String::new()),
        Answer::With("404 Gone", set(&[&two])),
        Answer::With("200 OK", "oops".to_owned()),
        Answer::Break,
    ] {
        let server = Server::new(Answer::keys(&[&one])).await;
        let authenticator = server.authenticator(OFTEN);
        login(&authenticator, &one).await.unwrap();
        server.answers(outage);
        // Its key may be a new one: nobody can say now that it is not.
        within(|| async { is_unavailable(&login(&authenticator, &two).await) }).await;
        login(&authenticator, &one).await.unwrap();
        let malformed = bring(&authenticator, "a.b.c").await;
        assert!(
            matches!(malformed, Err(AuthenticateError::InvalidToken { .. })),
            "{malformed:?}"
        );
        server.answers(Answer::keys(&[&two]));
        within(|| async { login(&authenticator, &two).await.is_ok() }).await;
        assert!(is_unknown(&login(&authenticator, &one).await));
    }
}

/// The levels of what is logged about fetches on this thread: the other tests, each on its own,
/// are heard too
#[derive(Clone)]
struct Log(Arc<Mutex<Vec<tracing::Level>>>, ThreadId);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == "registry_auth::token::published"
            && thread::current().id() == self.1
        {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
    }
}

#[tokio::test]
async fn an_outage_is_logged_when_it_begins_and_when_it_is_over() {
    use tracing_subscriber::layer::SubscriberExt;

    let log = Log(Arc::default(), thread::current().id());
    let subscriber = tracing_subscriber::registry().with(log.clone());
    // For all threads, since what one of them finds unheard is otherwise silent on every one.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let one = key("one");
    let server = Server::new(Answer::keys(&[&one])).await;
    let authenticator = server.authenticator(OFTEN);
    login(&authenticator, &one).await.unwrap();
    assert!(log.0.lock().unwrap().is_empty());
    server.answers(Answer::Break);
    let times = server.asked().len();
    // The second is tried again after a second, the third after two more.
    server.asked_times(times + 3).await;
    server.answers(Answer::keys(&[&one]));
    within(|| async { log.0.lock().unwrap().len() > 1 }).await;
    let levels = log.0.lock().unwrap().clone();
    assert_eq!(levels, [tracing::Level::WARN, tracing::Level::INFO]);
}

#[tokio::test]
async fn nothing_goes_on_when_it_is_no_longer_needed() {
    let server = Server::new(Answer::Silence).await;
    let authenticator = server.authenticator(OFTEN);
    server.asked_times(1).await;
    drop(authenticator);
    // The fetch in the middle of which it was is given up.
    within(|| async { server.open.load(Ordering::SeqCst) == 0 }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn files_beside_the_url_are_read_again_and_come_first() {
    let world = World::new();
    // A key of the URL that takes the name of one in the file.
    let mut usurper = world.ed25519.jwk();
    usurper["kid"] = json!("by name");
    let one = key("one");
    let keys = json!({ "keys": [usurper, one.jwk()] }).to_string();
    let server = Server::new(Answer::With("200 OK", keys)).await;
    let options = server.options(NEVER).with_jwks(world.jwks());
    let authenticator = TokenAuthenticator::new(options).unwrap();
    login(&authenticator, &one).await.unwrap();
    let named = |signer: &Signer| signer.token_with(json!({ "kid": "by name" }), &claims());
    bring(&authenticator, &named(&world.named)).await.unwrap();
    let outcome = bring(&authenticator, &named(&world.ed25519)).await;
    assert!(
        matches!(outcome, Err(AuthenticateError::InvalidToken { .. })),
        "{outcome:?}"
    );
    let two = key("two");
    std::fs::write(world.jwks(), set(&[&two])).unwrap();
    authenticator.reload().unwrap();
    login(&authenticator, &two).await.unwrap();
    login(&authenticator, &one).await.unwrap();
}

#[tokio::test]
async fn an_https_url_is_checked() {
    let one = key("one");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let private = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let server = Server::with(Answer::keys(&[&one]), Some(tls)).await;
    let trusting = |roots: RootCertStore| {
        let tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut options = server.options(NEVER);
        let url = options.jwks_url.take().unwrap();
        TokenAuthenticator::new(options.with_jwks_url(url.with_tls(tls))).unwrap()
    };
    let nobody = trusting(RootCertStore::empty());
    assert!(is_unavailable(&login(&nobody, &one).await));
    assert!(server.asked().is_empty());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    login(&trusting(roots), &one).await.unwrap();
}

#[tokio::test]
async fn the_table_of_tokens_holds_for_keys_by_url() {
    let world = World::new();
    let keys = std::fs::read_to_string(world.jwks()).unwrap();
    let server = Server::new(Answer::With("200 OK", keys)).await;
    let options = server.options(NEVER).with_root_certificates(world.bundle());
    let authenticator = TokenAuthenticator::new(options).unwrap();
    let mut cases = table::good(&world);
    cases.extend(table::hostile(&world));
    for case in cases {
        let outcome = bring(&authenticator, &case.token).await;
        match (case.refused, outcome) {
            (None, outcome) => assert!(outcome.is_ok(), "{}: {outcome:?}", case.what),
            (Some(reason), Err(AuthenticateError::InvalidToken { reason: got })) => {
                assert!(got.contains(reason), "{}: {got}", case.what);
            }
            (Some(reason), Err(AuthenticateError::Expired { .. })) => {
                assert!(reason.contains("expired"), "{}", case.what);
            }
            (Some(_), outcome) => panic!("{}: {outcome:?}", case.what),
        }
    }
}

#[test]
fn a_url_is_enough_and_a_bad_one_is_refused() {
    let none = TokenAuthenticator::new(TokenOptions::new(REALM, SERVICE, ISSUER));
    assert!(matches!(none, Err(TokenSetupError::NoKeys)));
    let url = JwksUrl::new("http://127.0.0.1:1/keys").unwrap();
    TokenAuthenticator::new(TokenOptions::new(REALM, SERVICE, ISSUER).with_jwks_url(url)).unwrap();
}
