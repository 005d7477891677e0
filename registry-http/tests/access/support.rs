//! A registry in memory, called as hyper calls it, in which a test says who may

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::service::Service;
use registry_auth::token::Grants;
use registry_auth::{
    Access, AuthenticateError, Authenticator, AuthorizeError, Authorizer, ChallengeReason,
    Credentials, Decision, Principal, RuleList, request,
};
use registry_core::Digest;
use registry_http::{AccessControl, RegistryService, RemoteAddr};
use registry_storage::{Memory, Store};
use serde_json::{Value, json};

pub(crate) const PASSWORD: &str = "open sesame";

/// Knows everyone by one password, and by tokens that are their names
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// Whether the tokens have expired
    pub(crate) expired: AtomicBool,
    /// How often it was asked
    pub(crate) asked: AtomicUsize,
}

#[async_trait]
impl Authenticator for Door {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match credentials {
            Credentials::Basic { user, password } if password.expose() == PASSWORD => {
                Ok(Principal::user(user))
            }
            Credentials::Basic { .. } => Err(AuthenticateError::Rejected),
            Credentials::Bearer(token) if token.expose().starts_with("forged") => {
                Err(AuthenticateError::InvalidToken {
                    reason: "its signature is not good".to_owned(),
                })
            }
            Credentials::Bearer(token) => {
                let principal = Principal::Token {
                    subject: Some(token.expose().to_owned()),
                    grants: Grants::default(),
                };
                match self.expired.load(Ordering::Relaxed) {
                    true => Err(AuthenticateError::Expired { principal }),
                    false => Ok(principal),
                }
            }
            _ => Ok(Principal::Anonymous),
        }
    }

    fn challenge(&self, needed: &[Access], reason: ChallengeReason) -> Option<String> {
        let scope: Vec<_> = needed.iter().map(Access::to_string).collect();
        Some(format!(
            "Test scope=\"{}\",reason=\"{reason:?}\"",
            scope.join(" ")
        ))
    }
}

/// Lets people do what a list of rules says, tokens what their bearers may, and counts
#[derive(Debug)]
pub(crate) struct Desk {
    rules: RuleList,
    /// How often it was asked
    pub(crate) asked: AtomicUsize,
    /// Who may do nothing any more
    pub(crate) closed: Mutex<HashSet<String>>,
    /// On whose behalf it was asked
    pub(crate) requests: Mutex<Vec<Option<String>>>,
}

#[async_trait]
impl Authorizer for Desk {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let request = request::name().map(|name| name.to_string());
        self.requests.lock().unwrap().push(request);
        let principal = match principal {
            Principal::Token {
                subject: Some(subject),
                ..
            } => &Principal::user(subject),
            principal => principal,
        };
        if principal
            .name()
            .is_some_and(|name| self.closed.lock().unwrap().contains(name))
        {
            return Ok(Decision::deny("closed", "your account is closed")
                .with_remedy("ask the librarian to open it again"));
        }
        self.rules.authorize(principal, access).await
    }
}

/// `bob` may do everything, `ada` all but see `secret/**`, `eve` only pull, and everybody
/// pull from `public`
pub(crate) fn rules() -> Value {
    json!({"rules": [
        {"name": "secret", "effect": "deny", "subjects": ["user:ada", "anonymous"],
         "repositories": ["secret/**"], "actions": ["all"], "hidden": true},
        {"name": "staff", "effect": "allow", "subjects": ["user:ada", "user:bob"],
         "repositories": ["**"], "actions": ["all"]},
        {"name": "readers", "effect": "allow", "subjects": ["user:eve"],
         "repositories": ["**"], "actions": ["pull"]},
        {"name": "public", "effect": "allow", "subjects": ["anyone"],
         "repositories": ["public"], "actions": ["pull"]},
    ]})
}

/// A registry, with its door and its desk
pub(crate) struct Registry {
    pub(crate) service: RegistryService,
    pub(crate) door: Arc<Door>,
    pub(crate) desk: Arc<Desk>,
}

/// An access control that a test has yet to complete
pub(crate) fn access(rules: Value) -> (AccessControl, Arc<Door>, Arc<Desk>) {
    let door = Arc::new(Door::default());
    let desk = Arc::new(Desk {
        rules: serde_json::from_value(rules).unwrap(),
        asked: AtomicUsize::new(0),
        closed: Mutex::default(),
        requests: Mutex::default(),
    });
    (AccessControl::new(door.clone(), desk.clone()), door, desk)
}

impl Registry {
    /// On an empty store
    pub(crate) fn new(complete: impl FnOnce(AccessControl) -> AccessControl) -> Self {
        Self::on(&Store::new(Arc::new(Memory::new())), complete)
    }

    pub(crate) fn on(store: &Store, complete: impl FnOnce(AccessControl) -> AccessControl) -> Self {
        let (access, door, desk) = access(rules());
        Self {
            service: RegistryService::with_access(store.clone(), complete(access)).build(),
            door,
            desk,
        }
    }

    pub(crate) async fn send(&self, call: Call) -> Answer {
        let response = self.service.call(call.request).await.unwrap();
        Answer::read(response).await
    }

    /// Pushes an image of one layer that has the name of its repository as its content, and
    /// something that refers to it
    pub(crate) async fn push_image(&self, name: &str) -> Image {
        let blob = Digest::sha256(name.as_bytes());
        let target = format!("/v2/{name}/blobs/uploads/?digest={blob}");
        let pushed = self
            .send(Call::new("POST", &target).of("bob").body(name))
            .await;
        assert_eq!(pushed.status, StatusCode::CREATED, "{}", pushed.body);
        let descriptor = |kind: &str, size: usize, digest: &Digest| {
            json!({
                "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"),
                "size": size,
                "digest": digest.to_string(),
            })
        };
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config", name.len(), &blob),
            "layers": [],
        });
        let first = self.push_manifest(name, "v1", &manifest.to_string()).await;
        let length = manifest.to_string().len();
        manifest["subject"] = descriptor("manifest", length, &first);
        manifest["artifactType"] = "application/x-note".into();
        self.push_manifest(name, "note", &manifest.to_string())
            .await;
        Image {
            blob,
            manifest: first,
        }
    }

    async fn push_manifest(&self, name: &str, tag: &str, manifest: &str) -> Digest {
        let put = Call::new("PUT", &format!("/v2/{name}/manifests/{tag}"))
            .header("content-type", "application/vnd.oci.image.manifest.v1+json");
        let pushed = self.send(put.of("bob").body(manifest)).await;
        assert_eq!(pushed.status, StatusCode::CREATED, "{}", pushed.body);
        Digest::sha256(manifest.as_bytes())
    }
}

/// What was pushed
pub(crate) struct Image {
    pub(crate) blob: Digest,
    pub(crate) manifest: Digest,
}

/// A request that is being written
#[must_use]
pub(crate) struct Call {
    request: Request<Full<Bytes>>,
}

impl Call {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("x-request-id", "test-1");
        Self {
            request: request.body(Full::default()).unwrap(),
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// With the password, the right one
    pub(crate) fn of(self, user: &str) -> Self {
        self.basic(user, PASSWORD)
    }

    pub(crate) fn basic(self, user: &str, password: &str) -> Self {
        use base64::Engine;

        let pair = format!("{user}:{password}");
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        self.header("authorization", &format!("Basic {pair}"))
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = value.parse().unwrap();
        self.request.headers_mut().insert(name, value);
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        *self.request.body_mut() = Full::from(body.to_owned());
        self
    }

    pub(crate) fn from(mut self, address: &str) -> Self {
        let address = SocketAddr::new(address.parse().unwrap(), 40_000);
        self.request.extensions_mut().insert(RemoteAddr(address));
        self
    }
}

/// A response that was read to its end
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    async fn read<B>(response: Response<B>) -> Self
    where
        B: http_body::Body,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// The one error of the body
    pub(crate) fn error(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["errors"].as_array().map(Vec::len), Some(1));
        body["errors"][0].clone()
    }

    pub(crate) fn code(&self) -> String {
        self.error()["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn location(&self) -> &str {
        self.header(header::LOCATION.as_str())
    }
}
