//! Credentials that are none, tokens that do not hold, and directories that do not answer, brought
//! to a registry with the authenticators and policies that registries have
//!
//! Every answer is 401 with a challenge or 503 with a time to come back, and has nothing in it of what
//! was sent.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::service::Service;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use registry_auth::acumos::{
    AcumosAuthorizer, Answer, AuthorizerOptions, DirectoryAuthenticator, DirectoryError,
    FileDirectory, Query, Rules, TagsOf,
};
use registry_auth::htpasswd::{Entry, File, Options};
use registry_auth::token::{IssuerOptions, TokenIssuer};
use registry_auth::{
    AllowAll, Authenticated, Authenticator, Authorizer, Chain, Granted, Htpasswd, Password,
    Principal, ServiceAccount, ServiceAccounts, TokenAuthenticator, acumos,
};
use registry_core::{Digest, RepositoryName, Tag};
use registry_http::{AccessControl, RegistryService};
use registry_storage::{Memory, Store};
use tempfile::TempDir;

const REALM: &str = "https://auth.example/token";
const SERVICE: &str = "registry.example";
const ISSUER: &str = "auth.example";
/// With colons, of which only the first ends the user's name
const PASSWORD: &str = "se:cr:et-d81f1a6c2b7e49d0";

fn registry(authenticator: Arc<dyn Authenticator>, rules: Arc<dyn Authorizer>) -> RegistryService {
    let store = Store::new(Arc::new(Memory::new()));
    RegistryService::with_access(store, AccessControl::new(authenticator, rules)).build()
}

async fn ask(
    registry: &RegistryService,
    target: &str,
    authorization: Option<&[u8]>,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::get(target).body(Full::new(Bytes::new())).unwrap();
    if let Some(value) = authorization {
        let value = HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    let (parts, body) = registry.call(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (parts.status, parts.headers, body)
}

fn basic(login: impl AsRef<[u8]>) -> Vec<u8> {
    format!("Basic {}", STANDARD.encode(login)).into_bytes()
}

fn htpasswd(folder: &TempDir) -> Arc<dyn Authenticator> {
    let path = folder.path().join("htpasswd");
    let ada = Entry::new("ada", &Password::new(PASSWORD), 4).unwrap();
    File::default().with(ada).save(&path).unwrap();
    Arc::new(Htpasswd::open(path, "r".parse().unwrap(), Options::default()).unwrap())
}

fn services() -> Arc<dyn Authenticator> {
    let ada = ServiceAccount::with_secret("ada", &Password::new(PASSWORD)).unwrap();
    Arc::new(ServiceAccounts::new("r".parse().unwrap(), [ada]).unwrap())
}

fn directory(folder: &TempDir) -> Arc<dyn Authenticator> {
    let path = folder.path().join("platform.yml");
    let mut ada = acumos::AccountRecord::new("ada");
    ada.set_password(&Password::new(PASSWORD), 4).unwrap();
    let accounts = serde_json::json!({ "accounts": [ada] });
    fs::write(&path, accounts.to_string()).unwrap();
    let directory = FileDirectory::open(&path).unwrap();
    let realm = "r".parse().unwrap();
    Arc::new(DirectoryAuthenticator::new(directory, realm, Options::default()).unwrap())
}

fn issuer(folder: &TempDir, name: &str, service: &str) -> Arc<TokenIssuer> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let path = folder.path().join(name);
    fs::write(&path, key.serialize_pem()).unwrap();
    Arc::new(TokenIssuer::new(IssuerOptions::new(ISSUER, service, path)).unwrap())
}

async fn token(issuer: &TokenIssuer, service: &str, now: SystemTime) -> String {
    let ada = Principal::user("ada");
    let scope = "repository:app:pull".parse().unwrap();
    let issued = issuer.issue(&ada, service, &scope, &AllowAll, now).await;
    issued.unwrap().token.expose().to_owned()
}

#[tokio::test]
async fn credentials_that_are_none_are_asked_for_again_whoever_checks_them() {
    let folder = TempDir::new().unwrap();
    let issuer = issuer(&folder, "key.pem", SERVICE);
    let tokens: Arc<dyn Authenticator> =
        Arc::new(TokenAuthenticator::of_issuer(issuer, REALM, SERVICE).unwrap());
    let chain = Chain::new([tokens.clone(), services(), htpasswd(&folder)]);
    let long = "s3cret".repeat(100_000 / 6);
    let bad: Vec<Vec<u8>> = vec![
        b"s3cret".to_vec(),
        b"Basic".to_vec(),
        b"Basic s3cret!".to_vec(),
        b"Basic \xff\xfes3cret".to_vec(),
        b"Digest username=\"s3cret\"".to_vec(),
        b"Bearer".to_vec(),
        b"Bearer s3cret".to_vec(),
        b"Bearer s3cret s3cret".to_vec(),
        b"Bearer ..".to_vec(),
        b"Bearer s3cret.s3cret.s3cret".to_vec(),
        format!("Bearer {long}").into_bytes(),
        format!("Bearer {}", "a.".repeat(50_000)).into_bytes(),
        basic(""),
        basic("s3cret"),
        basic(":s3cret"),
        basic(":"),
        basic("ada:"),
        basic("ada:s3cret"),
        basic(format!("ada:{PASSWORD}:")),
        basic("ada:se"),
        basic(format!("ada\0:{PASSWORD}")),
        basic(format!("s3cret\r\nX: y:{PASSWORD}")),
        basic(b"ada:s3cret\xff\xfe"),
        basic(format!("ada:{long}")),
        basic(format!("{long}:{PASSWORD}")),
    ];
    for (what, authenticator, knows_ada) in [
        ("htpasswd", htpasswd(&folder), true),
        ("service accounts", services(), true),
        ("a directory", directory(&folder), true),
        ("tokens", tokens, false),
        ("a chain", Arc::new(chain), true),
    ] {
        let registry = registry(authenticator, Arc::new(Authenticated));
        for value in &bad {
            let shown = String::from_utf8_lossy(&value[..value.len().min(60)]);
            let about = format!("{what}: {shown}");
            let (status, headers, body) = ask(&registry, "/v2/", Some(value)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{about}: {body}");
            let challenge = headers[header::WWW_AUTHENTICATE].to_str().unwrap();
            assert!(!challenge.is_empty(), "{about}");
            assert!(body.contains("UNAUTHORIZED"), "{about}: {body}");
            for secret in ["s3cret", "czNjcmV0", PASSWORD] {
                let answer = format!("{headers:?} {body}");
                assert!(!answer.contains(secret), "{about}: {answer}");
            }
            assert!(body.len() < 1_000, "{about}: {} bytes", body.len());
        }
        // None of that has got in the way of whoever brings the right ones.
        let good = basic(format!("ada:{PASSWORD}"));
        let (status, _, body) = ask(&registry, "/v2/", Some(&good)).await;
        let expected = match knows_ada {
            true => StatusCode::OK,
            false => StatusCode::UNAUTHORIZED,
        };
        assert_eq!(status, expected, "{what}: {body}");
    }
}

#[tokio::test]
async fn tokens_that_do_not_hold_are_refused_as_tokens() {
    let folder = TempDir::new().unwrap();
    let ours = issuer(&folder, "ours.pem", SERVICE);
    let stranger = issuer(&folder, "stranger.pem", SERVICE);
    let elsewhere = "elsewhere.example";
    let both = IssuerOptions::new(ISSUER, SERVICE, folder.path().join("ours.pem"));
    let both = TokenIssuer::new(both.with_service(elsewhere)).unwrap();
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 60 * 60));
    let good = token(&ours, SERVICE, now).await;
    let refresh = ours.issue_refresh(&Principal::user("ada"), SERVICE, now);
    let refresh = refresh.unwrap().unwrap().expose().to_owned();
    let (header, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let bad = [
        ("expired", token(&ours, SERVICE, now - day).await),
        ("not yet valid", token(&ours, SERVICE, now + day).await),
        ("another audience", token(&both, elsewhere, now).await),
        ("another key", token(&stranger, SERVICE, now).await),
        ("a refresh token", refresh),
        ("no algorithm", format!("{none}.{claims}.")),
        (
            "no algorithm, signed",
            format!("{none}.{claims}.{signature}"),
        ),
        ("another algorithm", format!("{hmac}.{claims}.{signature}")),
        ("no signature", format!("{header}.{claims}.")),
        (
            "other claims",
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode("{}")),
        ),
    ];
    let tokens = TokenAuthenticator::of_issuer(ours, REALM, SERVICE).unwrap();
    let registry = registry(Arc::new(tokens), Arc::new(Granted));
    let target = "/v2/app/tags/list";
    for (what, token) in bad {
        let bearer = format!("Bearer {token}").into_bytes();
        let (status, headers, body) = ask(&registry, target, Some(&bearer)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}: {body}");
        let challenge = headers[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(
            challenge.contains("error=\"invalid_token\""),
            "{what}: {challenge}"
        );
        assert!(
            challenge.contains("repository:app:pull"),
            "{what}: {challenge}"
        );
        let answer = format!("{headers:?} {body}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!answer.contains(part), "{what}: {answer}");
        }
    }
    // The good one is let in, to where there is nothing.
    let bearer = format!("Bearer {good}").into_bytes();
    let (status, _, body) = ask(&registry, target, Some(&bearer)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{body}");
}

/// A directory that does not do what directories do
#[derive(Clone, Copy, Debug)]
enum Broken {
    Garbage,
    Late,
    Never,
    Unavailable,
}

#[async_trait]
impl acumos::Directory for Broken {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        match self {
            // Of another kind than any question.
            Self::Garbage => Ok(match query {
                Query::Account(_) => Answer::Tags(Vec::new()),
                _ => Answer::Account(None),
            }),
            Self::Late => {
                tokio::time::sleep(Duration::from_secs(30)).await;
                Ok(Answer::Account(None))
            }
            Self::Never => std::future::pending().await,
            Self::Unavailable => Err(DirectoryError::Unavailable {
                retry_after: Duration::from_secs(7),
                cause: "the s3cret server is down".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl TagsOf for Broken {
    async fn tags_of(&self, _: &RepositoryName, _: &Digest) -> Result<Vec<Tag>, DirectoryError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_directory_that_does_not_answer_is_an_outage_and_never_an_allow() {
    let folder = TempDir::new().unwrap();
    let users = htpasswd(&folder);
    let ada = basic(format!("ada:{PASSWORD}"));
    for broken in [
        Broken::Garbage,
        Broken::Late,
        Broken::Never,
        Broken::Unavailable,
    ] {
        let options = AuthorizerOptions::default().with_timeout(Duration::from_millis(1_200));
        let directory = Arc::new(broken);
        let rules = AcumosAuthorizer::new(Rules::default(), directory.clone(), directory, options);
        let registry = registry(users.clone(), Arc::new(rules));
        for target in ["/v2/app/manifests/1", "/v2/app/tags/list", "/v2/_catalog"] {
            let (status, headers, body) = ask(&registry, target, Some(&ada)).await;
            let about = format!("{broken:?} {target}: {body}");
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{about}");
            let wait: u64 = headers[header::RETRY_AFTER]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((1..=300).contains(&wait), "{about}: {wait}");
            assert!(!body.contains("s3cret"), "{about}");
        }
    }
}
