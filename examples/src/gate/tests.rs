//! Tokens as a whole gate issues and takes them

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use registry_auth::htpasswd::{Entry, File};
use registry_auth::{Credentials, Password};
use registry_http::{ResponseBody, TokenService};
use serde_json::Value;

use super::*;
use crate::compose;
use crate::store_tags::StoreTags;

const PASSWORD: &str = "hunter2-ada";

/// A registry with users and tokens, and `more` in its section of tokens
fn config(folder: &Path, more: &str) -> Config {
    let entry = Entry::new("ada", &Password::new(PASSWORD), 4).unwrap();
    File::default()
        .with(entry)
        .save(&folder.join("htpasswd"))
        .unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "version: 0.1\nstorage: inmemory\nauth: {{htpasswd: {{realm: r, path: '{}'}}}}\nregistry:\n  \
         tokens: {{services: [ours.example], realm: 'http://ours.example/auth/token', key: '{}', \
         certificates: '{}'{more}}}\n  limits: {{addresses: {{failures: 3/h}}}}\n",
        at("htpasswd"),
        at("token.key"),
        at("token.crt"),
    );
    let (config, warnings) = Config::from_yaml(&text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

fn open(config: &Config) -> (Gate, TokenService) {
    let mut gate = Gate::open(config, Arc::new(StoreTags::default())).unwrap();
    let access = compose::access(config, &gate).unwrap();
    let tokens = compose::token_service(config, gate.tokens.take(), &access);
    (gate, tokens.unwrap())
}

async fn ask(service: &TokenService, password: &str) -> Response<ResponseBody> {
    let login = BASE64_STANDARD.encode(format!("ada:{password}"));
    let request = Request::get("/auth/token?offline_token=true&service=ours.example")
        .header("authorization", format!("Basic {login}"))
        .body(Full::<Bytes>::default());
    let answer = hyper::service::Service::call(service, request.unwrap()).await;
    answer.unwrap()
}

async fn json(answer: Response<ResponseBody>) -> Value {
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

async fn is_taken(gate: &Gate, token: &str) -> bool {
    let bearer = Credentials::Bearer(Password::new(token));
    gate.authenticator.authenticate(&bearer).await.is_ok()
}

#[tokio::test]
async fn tokens_of_a_former_key_are_taken_though_they_bring_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let more = format!(", formerkeys: '{}'", at("former.crt").display());
    let (_, service) = open(&config(folder.path(), ""));
    let issued = json(ask(&service, PASSWORD).await).await;
    let old = issued["token"].as_str().unwrap();

    // As the sample says to change the key.
    fs::rename(at("token.crt"), at("former.crt")).unwrap();
    fs::remove_file(at("token.key")).unwrap();
    let (gate, service) = open(&config(folder.path(), &more));
    assert!(is_taken(&gate, old).await);
    let issued = json(ask(&service, PASSWORD).await).await;
    let new = issued["token"].as_str().unwrap();
    assert!(is_taken(&gate, new).await);

    // Its tokens are over, and nobody takes the old key any more.
    let (gate, _) = open(&config(folder.path(), ""));
    assert!(!is_taken(&gate, old).await);
    assert!(is_taken(&gate, new).await);
}

#[tokio::test]
async fn another_key_is_in_force_once_its_files_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, service) = open(&config(folder.path(), ""));
    let issued = json(ask(&service, PASSWORD).await).await;
    let old = issued["token"].as_str().unwrap();
    assert!(is_taken(&gate, old).await);
    let other = tempfile::tempdir().unwrap();
    drop(open(&config(other.path(), "")));
    for name in ["token.key", "token.crt"] {
        fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
    }
    gate.files.iter().for_each(Reloadable::reload);
    assert!(!is_taken(&gate, old).await);
    let issued = json(ask(&service, PASSWORD).await).await;
    assert!(is_taken(&gate, issued["token"].as_str().unwrap()).await);
}

#[tokio::test]
async fn users_of_a_file_get_refresh_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (_, service) = open(&config(folder.path(), ""));
    let issued = json(ask(&service, PASSWORD).await).await;
    let refresh = issued["refresh_token"].as_str().unwrap();
    let form = format!("grant_type=refresh_token&service=ours.example&refresh_token={refresh}");
    let request = Request::post("/auth/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(form));
    let answer = hyper::service::Service::call(&service, request.unwrap()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(json(answer).await["access_token"].is_string());
}

#[tokio::test]
async fn guesses_at_the_token_service_are_counted_with_those_at_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let (_, service) = open(&config(folder.path(), ""));
    let from = |request: &mut Request<Full<Bytes>>| {
        let address = registry_http::RemoteAddr("192.0.2.1:1".parse().unwrap());
        request.extensions_mut().insert(address);
    };
    let mut seen = Vec::new();
    for _ in 0..5 {
        let login = BASE64_STANDARD.encode("ada:wrong");
        let mut request = Request::get("/auth/token")
            .header("authorization", format!("Basic {login}"))
            .body(Full::<Bytes>::default())
            .unwrap();
        from(&mut request);
        let answer = hyper::service::Service::call(&service, request).await;
        seen.push(answer.unwrap().status().as_u16());
    }
    assert_eq!(seen, [401, 401, 401, 429, 429]);
    // Nobody else is kept out.
    assert_eq!(ask(&service, PASSWORD).await.status(), StatusCode::OK);
}

#[test]
fn certificates_are_nobody_to_issue_tokens_to() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("token.key");
    let text = format!(
        "version: 0.1\nstorage: inmemory\n\
         http: {{tls: {{certificate: /c, key: /k, clientcas: [/ca], clientauth: verify-client-cert-if-given}}}}\n\
         registry: {{auth: {{certificates: {{kind: user}}}}, tokens: {{services: [ours.example], \
         realm: 'http://ours.example/auth/token', key: '{}'}}}}\n",
        key.display()
    );
    let (config, _) = Config::from_yaml(&text).unwrap();
    let error = Gate::open(&config, Arc::new(StoreTags::default())).unwrap_err();
    assert!(error.to_string().contains("expected users"), "{error}");
    assert!(!key.exists());
}

fn verified_by(jwks: TokenKeys) -> config::Token {
    config::Token {
        realm: "https://auth.example/token".to_owned(),
        service: "registry.example".to_owned(),
        issuer: "auth.example".to_owned(),
        root_cert_bundle: None,
        jwks: Some(jwks),
        signing_algorithms: Vec::new(),
    }
}

#[test]
fn keys_of_tokens_by_url_come_from_whom_the_operator_trusts() {
    let of = |url: &str| verified_by(TokenKeys::Url(url.parse().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, made.cert.pem()).unwrap();

    let options = token_options(&of("https://h/keys?code=hunter2"), Some(&authorities)).unwrap();
    assert_eq!(options.jwks, None);
    assert_eq!(options.jwks_url.unwrap().to_string(), "https://h/keys");
    let options = token_options(&of("http://127.0.0.1:1/keys"), None).unwrap();
    assert!(options.jwks_url.is_some());

    let file = verified_by(TokenKeys::File("/keys.json".into()));
    let missing = folder.path().join("missing.pem");
    for (token, authorities, expected) in [
        (
            of("http://h/keys"),
            None,
            "`auth.token.jwks`: expected `https://`",
        ),
        (
            of("https://h/keys"),
            Some(&missing),
            "`registry.auth.token.cafile`: cannot read",
        ),
        (
            file,
            Some(&authorities),
            "`registry.auth.token.cafile`: expected an `https://` URL",
        ),
    ] {
        let error = token_options(&token, authorities.map(PathBuf::as_path)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
