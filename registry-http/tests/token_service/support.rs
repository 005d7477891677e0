//! A registry and a token service in memory, called as hyper calls them

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::service::Service;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use registry_auth::htpasswd::{Entry, File, Options};
use registry_auth::token::BySubject;
use registry_auth::token::{Accounts, IssuerOptions, TokenIssuer};
use registry_auth::{
    Access, AuthenticateError, AuthorizeError, Authorizer, Both, Decision, Granted, Htpasswd,
    Password, Principal, TokenAuthenticator, TokenOptions,
};
use registry_core::{Action, Resource};
use registry_http::{AccessControl, RateLimits, RegistryService, TokenService};
use registry_storage::{Memory, Store};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const REALM: &str = "https://registry.example/token";
pub(crate) const SERVICE: &str = "registry.example";
pub(crate) const ISSUER: &str = "auth.example";
pub(crate) const PASSWORD: &str = "love: +lace&=%";

/// Everyone may pull from `public`, and `ada` may do everything but delete; tags that begin with
/// `locked` are nobody's. Whether that is so of `undecided` is not known.
#[derive(Debug)]
struct Rules;

#[async_trait]
impl Authorizer for Rules {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        let name = match &access.resource {
            Resource::Repository(name) => name.as_str(),
            _ => "",
        };
        let tag = access.reference.as_ref().map(ToString::to_string);
        if name == "undecided" {
            return Err(AuthorizeError {
                retry_after: Duration::from_millis(6500),
                cause: "the directory of secrets is down".to_owned(),
            });
        }
        if tag.is_some_and(|tag| tag.starts_with("locked")) {
            return Ok(Decision::deny("locked", "this tag is locked"));
        }
        Ok(match access.action {
            Action::Pull if name == "public" => Decision::allow("public", "everyone may"),
            Action::Pull | Action::Push if principal.name() == Some("ada") => {
                Decision::allow("ada", "ada may")
            }
            _ => Decision::deny("rest", "only ada may do that"),
        })
    }
}

/// The users of the file, as long as they are called `ada`
#[derive(Debug)]
struct Ada;

#[async_trait]
impl Accounts for Ada {
    async fn account(&self, name: &str, _: SystemTime) -> Result<Principal, AuthenticateError> {
        match name {
            "ada" => Ok(Principal::user("ada")),
            "slow" => Err(AuthenticateError::Unavailable {
                retry_after: Duration::from_secs(9),
            }),
            _ => Err(AuthenticateError::Rejected),
        }
    }
}

/// A registry, the service of its tokens, and the folder of their files
pub(crate) struct Pair {
    registry: RegistryService,
    pub(crate) tokens: TokenService,
    pub(crate) issuer: Arc<TokenIssuer>,
    _folder: TempDir,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(true)
    }

    /// Without accounts there are no refresh tokens
    pub(crate) fn with(accounts: bool) -> Self {
        Self::limited(accounts, RateLimits::default())
    }

    /// With limits that count for both services together
    pub(crate) fn limited(accounts: bool, limits: RateLimits) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = file("key.pem", &key.serialize_pem());
        let issuer = Arc::new(TokenIssuer::new(IssuerOptions::new(ISSUER, SERVICE, key)).unwrap());
        let jwks = file("jwks.json", &issuer.jwks());
        let users = folder.path().join("htpasswd");
        ["ada", "bob"]
            .map(|user| Entry::new(user, &Password::new(PASSWORD), 4).unwrap())
            .into_iter()
            .fold(File::default(), File::with)
            .save(&users)
            .unwrap();
        let users = Htpasswd::open(users, "tokens".parse().unwrap(), Options::default()).unwrap();
        let accepting = TokenOptions::new(REALM, SERVICE, ISSUER).with_jwks(jwks);
        let authenticator = TokenAuthenticator::new(accepting).unwrap();
        let rules: Arc<dyn Authorizer> = Arc::new(Rules);
        let authorizer = Both::new(Arc::new(Granted), Arc::new(BySubject::new(rules.clone())));
        let store = Store::new(Arc::new(Memory::new()));
        let access = AccessControl::new(Arc::new(authenticator), Arc::new(authorizer));
        let access = access.with_limits(limits);
        let mut tokens = TokenService::builder(issuer.clone(), Arc::new(users), rules)
            .limits_of(&access)
            .trusted_proxies(vec!["10.0.0.0/8".parse().unwrap()]);
        if accounts {
            tokens = tokens.accounts(Arc::new(Ada));
        }
        Self {
            registry: RegistryService::with_access(store, access).build(),
            tokens: tokens.build(),
            issuer,
            _folder: folder,
        }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let path = request.uri().path();
        let response = match self.tokens.answers(path) {
            true => self.tokens.call(request).await.unwrap(),
            false => self.registry.call(request).await.unwrap(),
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// A request without a body, with this `Authorization`
    pub(crate) async fn ask(&self, method: &str, target: &str, login: &str) -> Answer {
        self.send_with(method, target, login, "").await
    }

    pub(crate) async fn send_with(
        &self,
        method: &str,
        target: &str,
        login: &str,
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        if !login.is_empty() {
            request = request.header(header::AUTHORIZATION, login);
        }
        let body = Full::from(body.to_owned());
        self.send(request.body(body).unwrap()).await
    }

    /// A form for the token service
    pub(crate) async fn form(&self, form: &str) -> Answer {
        let request = Request::post("/token")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form.to_owned()))
            .unwrap();
        self.send(request).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What came, if it came with this status
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {:?}", self.headers, self.body);
        self
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `Authorization` with the token that came
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.json()["token"].as_str().unwrap())
    }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
