//! The token service: where clients get the tokens that a registry's challenge asks for

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use registry_auth::token::{Accounts, IssueError, Scope, ScopeError, TokenIssuer};
use registry_auth::{
    AuthenticateError, Authenticator, Authorizer, ChallengeReason, Credentials, Password, Principal,
};
use registry_core::{ErrorCode, ErrorDetail, ErrorResponse};
use serde::Serialize;

use crate::access::{AccessControl, Limits, TooMany};
use crate::body::ResponseBody;
use crate::credentials::credentials;
use crate::forwarded::{self, Client};
use crate::reply::{Reply, set};
use crate::request_body::{RequestBody, RequestBodyError};
use crate::respond::{RETRY_AFTER, whole_seconds};

/// The most bytes of a form, and of a query
const MAX_FORM: usize = 64 * 1024;

/// How long a client may send nothing in the middle of a form, which is sent at once
const FORM_PATIENCE: Duration = Duration::from_secs(30);

/// How long the public keys may be kept, so that a new key is known soon
const KEYS_CACHED: &str = "public, max-age=300";

/// A token service of the Docker token specification, for hyper and for tower
///
/// It answers at two paths: that of the tokens (by default `/token`), which is the realm of the
/// registry's challenge, and that of the public keys (by default `/.well-known/jwks.json`).
///
/// * `GET` with `service`, `scope` (repeatable, each may be a list), `offline_token`; Basic
///   credentials say who asks, and none at all that nobody in particular does.
/// * `POST` of an OAuth2 form with `grant_type` (`password` or `refresh_token`), `service`, `scope`,
///   `access_type`.
///
/// The authorizer decides what is granted; less than was asked for is no error. The service can be
/// left out where tokens are issued for one only. Cheap to clone.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
///
/// use registry_auth::token::{IssuerOptions, TokenIssuer};
/// use registry_auth::{Authenticated, Htpasswd};
/// use registry_http::TokenService;
///
/// # fn compose(htpasswd: Htpasswd) -> Result<(), Box<dyn std::error::Error>> {
/// let options = IssuerOptions::new("auth.example", "registry.example", "/etc/registry/token.key");
/// let issuer = Arc::new(TokenIssuer::new(options)?);
/// let service = TokenService::builder(issuer, Arc::new(htpasswd), Arc::new(Authenticated)).build();
/// assert!(service.answers("/token"));
/// assert!(!service.answers("/v2/"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenService {
    inner: Arc<Inner>,
}

impl TokenService {
    /// A service in which `authenticator` says who asks, and `authorizer` what they may have
    pub fn builder(
        issuer: Arc<TokenIssuer>,
        authenticator: Arc<dyn Authenticator>,
        authorizer: Arc<dyn Authorizer>,
    ) -> TokenServiceBuilder {
        TokenServiceBuilder {
            inner: Inner {
                issuer,
                authenticator,
                authorizer,
                accounts: None,
                limits: None,
                trusted_proxies: forwarded::loopback(),
                path: "/token".to_owned(),
                keys_path: "/.well-known/jwks.json".to_owned(),
            },
        }
    }

    /// Whether this path is one of the service's, for those who have others beside it
    pub fn answers(&self, path: &str) -> bool {
        path == self.inner.path || path == self.inner.keys_path
    }

    /// Answers a request, whichever kind of service this is used as
    fn answer<B>(
        &self,
        request: Request<B>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(&parts, body, FORM_PATIENCE);
        let inner = self.inner.clone();
        Box::pin(async move { Ok(inner.handle(parts, body).await) })
    }
}

crate::http_service::http_service!(TokenService);

impl fmt::Debug for TokenService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService")
            .field("issuer", &self.inner.issuer)
            .field("authenticator", &self.inner.authenticator)
            .field("authorizer", &self.inner.authorizer)
            .finish_non_exhaustive()
    }
}

/// What a [`TokenService`] is made of
#[must_use]
pub struct TokenServiceBuilder {
    inner: Inner,
}

impl TokenServiceBuilder {
    /// Issues refresh tokens to those who ask for them, good as long as these accounts say so;
    /// by default none are issued, and clients keep the password
    pub fn accounts(mut self, accounts: Arc<dyn Accounts>) -> Self {
        self.inner.accounts = Some(accounts);
        self
    }

    /// Counts whoever asks for tokens with those whom this access control counts, and refuses
    /// them under the same [limits](crate::RateLimits); by default nobody is limited
    ///
    /// Where clients log in is where passwords are guessed: an address that fails too often here
    /// is looked at neither here nor there. Each token is a request, none is a pull. A principal
    /// is the user here, and there the bearer of a token about them: they are counted apart.
    pub fn limits_of(mut self, access: &AccessControl) -> Self {
        self.inner.limits = access.limits().cloned();
        self
    }

    /// From where headers are believed that name a client's address, as
    /// [a registry](crate::Builder::trusted_proxies) believes them; by default from this
    /// machine's loopback addresses
    pub fn trusted_proxies(mut self, networks: Vec<IpNet>) -> Self {
        self.inner.trusted_proxies = networks;
        self
    }

    /// The path at which tokens are issued, such as `/auth/token`; by default `/token`
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.inner.path = path.into();
        self
    }

    /// The path of the public keys; by default `/.well-known/jwks.json`
    pub fn keys_path(mut self, path: impl Into<String>) -> Self {
        self.inner.keys_path = path.into();
        self
    }

    /// The service
    pub fn build(self) -> TokenService {
        TokenService {
            inner: Arc::new(self.inner),
        }
    }
}

impl fmt::Debug for TokenServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenServiceBuilder")
            .finish_non_exhaustive()
    }
}

struct Inner {
    issuer: Arc<TokenIssuer>,
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
    accounts: Option<Arc<dyn Accounts>>,
    limits: Option<Arc<Limits>>,
    trusted_proxies: Vec<IpNet>,
    path: String,
    keys_path: String,
}

impl Inner {
    async fn handle(&self, parts: Parts, body: RequestBody) -> Response<ResponseBody> {
        let head = parts.method == Method::HEAD;
        let mut response = match self.respond(&parts, body).await {
            Ok(response) => response,
            Err(refusal) => self.refuse(refusal),
        };
        let length = response.body().remaining();
        let headers = response.headers_mut();
        if let Some(length) = length {
            set(headers, header::CONTENT_LENGTH, length);
        }
        set(headers, header::CONTENT_TYPE, "application/json");
        // Tokens are secrets, and refusals are about this request only.
        if !headers.contains_key(header::CACHE_CONTROL) {
            set(headers, header::CACHE_CONTROL, "no-store");
        }
        match head {
            true => response.map(|_| ResponseBody::default()),
            false => response,
        }
    }

    async fn respond(
        &self,
        parts: &Parts,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let path = parts.uri.path();
        if path == self.keys_path {
            return match parts.method {
                Method::GET | Method::HEAD => Ok(Reply::new(StatusCode::OK)
                    .header(header::CACHE_CONTROL, KEYS_CACHED)
                    .body(self.issuer.jwks())),
                _ => Err(Refusal::Method { allow: "GET, HEAD" }),
            };
        }
        if path != self.path {
            return Err(Refusal::Path {
                path: self.path.clone(),
            });
        }
        let address = Client::of(parts, &self.trusted_proxies).address;
        if let Some(limits) = &self.limits {
            limits.admit_address(address, false)?;
        }
        let now = SystemTime::now();
        match parts.method {
            Method::GET => {
                let form = Form::parse(parts.uri.query().unwrap_or_default())?;
                let service = self.service(&form)?;
                let scope = form.scope()?;
                let principal = self.login(&credentials_of(parts)?, address).await?;
                let refresh = match form.one("offline_token")?.as_deref() {
                    Some("true" | "1") => self.refresh_token(&principal, &service, now)?,
                    _ => None,
                };
                self.issue(&principal, &service, &scope, refresh, now).await
            }
            Method::POST => {
                let form = read_form(parts, &mut body).await?;
                let service = self.service(&form)?;
                let scope = form.scope()?;
                let offline = form.one("access_type")?.as_deref() == Some("offline");
                let grant = form.one("grant_type")?.unwrap_or_default();
                let (principal, refresh) = match grant.as_str() {
                    "password" => {
                        let login = Credentials::Basic {
                            user: form.required("username")?,
                            password: Password::new(form.required("password")?),
                        };
                        let principal = self.login(&login, address).await?;
                        let refresh = match offline {
                            true => self.refresh_token(&principal, &service, now)?,
                            false => None,
                        };
                        (principal, refresh)
                    }
                    "refresh_token" => {
                        let token = Password::new(form.required("refresh_token")?);
                        let accounts = self.accounts.as_deref().ok_or(Refusal::NoRefresh)?;
                        let refreshed = self.issuer.refresh(&token, &service, accounts, now).await;
                        let principal = self.known(refreshed, address)?;
                        // The same one: with a new one each time it would never end.
                        (principal, offline.then_some(token))
                    }
                    _ => return Err(Refusal::Grant { got: shown(&grant) }),
                };
                self.issue(&principal, &service, &scope, refresh, now).await
            }
            _ => Err(Refusal::Method { allow: "GET, POST" }),
        }
    }

    /// The service that is asked for, or the only one there is
    fn service(&self, form: &Form) -> Result<String, Refusal> {
        let services = self.issuer.services();
        let asked = form.one("service")?.filter(|asked| !asked.is_empty());
        match (asked, services) {
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err(Refusal::Missing { name: "service" }),
            (Some(asked), _) if services.contains(&asked) => Ok(asked),
            (Some(asked), _) => Err(Refusal::Issue(IssueError::Service { got: shown(&asked) })),
        }
    }

    async fn login(
        &self,
        credentials: &Credentials,
        address: Option<IpAddr>,
    ) -> Result<Principal, Refusal> {
        let found = self.authenticator.authenticate(credentials).await;
        match credentials {
            // Nothing was guessed, and there is nobody to count.
            Credentials::None => found.map_err(Refusal::Login),
            _ => self.known(found, address),
        }
    }

    /// Counts whoever was found, or that nobody was
    fn known(
        &self,
        found: Result<Principal, AuthenticateError>,
        address: Option<IpAddr>,
    ) -> Result<Principal, Refusal> {
        if let Some(limits) = &self.limits {
            match &found {
                Ok(principal) => limits.admit_principal(principal, false)?,
                Err(AuthenticateError::Rejected | AuthenticateError::InvalidToken { .. }) => {
                    limits.failed(address, None);
                }
                Err(_) => {}
            }
        }
        found.map_err(Refusal::Login)
    }

    fn refresh_token(
        &self,
        principal: &Principal,
        service: &str,
        now: SystemTime,
    ) -> Result<Option<Password>, Refusal> {
        match self.accounts {
            Some(_) => Ok(self.issuer.issue_refresh(principal, service, now)?),
            None => Ok(None),
        }
    }

    async fn issue(
        &self,
        principal: &Principal,
        service: &str,
        scope: &Scope,
        refresh: Option<Password>,
        now: SystemTime,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let authorizer = self.authorizer.as_ref();
        let issued = self
            .issuer
            .issue(principal, service, scope, authorizer, now);
        let issued = issued.await?;
        let answer = Answer {
            token: issued.token.expose(),
            access_token: issued.token.expose(),
            token_type: "Bearer",
            expires_in: issued.lifetime.as_secs(),
            scope: issued.scope.to_string(),
            refresh_token: refresh.as_ref().map(Password::expose),
        };
        let json = serde_json::to_vec(&answer).map_err(|error| {
            Refusal::Issue(IssueError::Sign {
                reason: error.to_string(),
            })
        })?;
        Ok(Reply::new(StatusCode::OK).body(json))
    }

    fn refuse(&self, refusal: Refusal) -> Response<ResponseBody> {
        let (status, code) = refusal.verdict();
        if status.is_server_error() {
            let cause = refusal.cause();
            tracing::error!(%refusal, cause, status = status.as_u16(), "no token was issued");
        }
        let error = ErrorDetail::new(code, refusal.to_string());
        let mut reply = Reply::new(status);
        if status == StatusCode::UNAUTHORIZED
            && let Some(challenge) = self
                .authenticator
                .challenge(&[], ChallengeReason::LoginRequired)
        {
            reply = reply.header(header::WWW_AUTHENTICATE, challenge);
        }
        reply = match &refusal {
            Refusal::Method { allow } => reply.header(header::ALLOW, allow),
            Refusal::Body(_) => reply.header(header::CONNECTION, "close"),
            _ => reply,
        };
        if [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .contains(&status)
        {
            let seconds = whole_seconds(refusal.retry_after()).max(1);
            reply = reply.header(header::RETRY_AFTER, seconds);
        }
        reply.body(ErrorResponse::from(error).to_json())
    }
}

/// The response with a token (Docker token specification; RFC 6749, section 5.1)
///
/// Without `issued_at`: clients reckon from it with a clock of their own.
#[derive(Serialize)]
struct Answer<'a> {
    token: &'a str,
    /// The same under its name in OAuth2
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// The parameters of a query or a form
struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`
    ///
    /// Values are not repaired as browsers do: a password with other bytes is another one.
    fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_FORM {
            return Err(Refusal::TooLarge);
        }
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| Refusal::NotUtf8)
        };
        text.split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let pairs = self.0.iter().filter(move |(known, _)| known == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that can be there once
    fn one(&self, name: &'static str) -> Result<Option<String>, Refusal> {
        let mut values = self.all(name);
        let value = values.next().map(ToOwned::to_owned);
        match values.next() {
            Some(_) => Err(Refusal::Twice { name }),
            None => Ok(value),
        }
    }

    fn required(&self, name: &'static str) -> Result<String, Refusal> {
        let value = self.one(name)?.filter(|value| !value.is_empty());
        value.ok_or(Refusal::Missing { name })
    }

    /// All scopes together, each of which may be a list
    fn scope(&self) -> Result<Scope, Refusal> {
        let scopes: Vec<_> = self.all("scope").collect();
        Ok(scopes.join(" ").parse()?)
    }
}

async fn read_form(parts: &Parts, body: &mut RequestBody) -> Result<Form, Refusal> {
    if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Refusal::ContentType { got: shown(kind) });
        }
    }
    let content = body.read_all(MAX_FORM).await.map_err(Refusal::Body)?;
    let content = content.ok_or(Refusal::TooLarge)?;
    Form::parse(str::from_utf8(&content).map_err(|_| Refusal::NotUtf8)?)
}

/// A name and a password, or nothing
fn credentials_of(parts: &Parts) -> Result<Credentials, Refusal> {
    match credentials(&parts.headers) {
        Ok(login @ (Credentials::Basic { .. } | Credentials::None)) => Ok(login),
        _ => Err(Refusal::Authorization),
    }
}

/// What came, fit for a message: without control characters, and not at length
fn shown(text: &str) -> String {
    let shown = text.chars().take(80);
    shown.flat_map(char::escape_debug).collect()
}

/// Why there is no token
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "expected `Authorization: Basic` with a name and a password, or none; something else came"
    )]
    Authorization,
    #[error("{0}")]
    Body(RequestBodyError),
    #[error("expected a form of type `application/x-www-form-urlencoded`, got `{got}`")]
    ContentType { got: String },
    #[error("expected `grant_type` to be `password` or `refresh_token`, got `{got}`")]
    Grant { got: String },
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Login(AuthenticateError),
    #[error("this is done by other methods only: {allow}")]
    Method { allow: &'static str },
    #[error("expected the parameter `{name}`, it is missing or empty")]
    Missing { name: &'static str },
    #[error("no refresh tokens are issued here; log in with a name and a password")]
    NoRefresh,
    #[error("expected parameters in UTF-8, got something else")]
    NotUtf8,
    #[error("no such path; tokens are issued at `{path}`")]
    Path { path: String },
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("expected at most {MAX_FORM} bytes of parameters, got more")]
    TooLarge,
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("expected the parameter `{name}` once, got it several times")]
    Twice { name: &'static str },
}

impl Refusal {
    /// The table: what each is to the client
    fn verdict(&self) -> (StatusCode, ErrorCode) {
        use ErrorCode as Code;
        use StatusCode as Status;

        match self {
            Self::Body(RequestBodyError::Stalled { .. }) => {
                (Status::REQUEST_TIMEOUT, Code::Unsupported)
            }
            Self::Authorization
            | Self::NoRefresh
            | Self::Issue(IssueError::TokenForToken)
            | Self::Login(
                AuthenticateError::Expired { .. }
                | AuthenticateError::InvalidToken { .. }
                | AuthenticateError::Rejected,
            ) => (Status::UNAUTHORIZED, Code::Unauthorized),
            Self::Issue(IssueError::Undecided(_)) | Self::Login(_) => {
                (Status::SERVICE_UNAVAILABLE, Code::Unavailable)
            }
            Self::Issue(IssueError::Service { .. })
            | Self::Body(_)
            | Self::ContentType { .. }
            | Self::Grant { .. }
            | Self::Missing { .. }
            | Self::NotUtf8
            | Self::Scope(_)
            | Self::Twice { .. } => (Status::BAD_REQUEST, Code::Unsupported),
            Self::Issue(_) => (Status::INTERNAL_SERVER_ERROR, Code::Unknown),
            Self::Method { .. } => (Status::METHOD_NOT_ALLOWED, Code::Unsupported),
            Self::Path { .. } => (Status::NOT_FOUND, Code::Unsupported),
            Self::TooMany(_) => (Status::TOO_MANY_REQUESTS, Code::TooManyRequests),
            Self::TooLarge => (Status::PAYLOAD_TOO_LARGE, Code::Unsupported),
        }
    }

    /// What only operators are told
    fn cause(&self) -> &str {
        match self {
            Self::Issue(IssueError::Sign { reason }) => reason,
            Self::Issue(IssueError::Undecided(error)) => &error.cause,
            _ => "",
        }
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Issue(IssueError::Undecided(error)) => error.retry_after,
            Self::Login(AuthenticateError::Unavailable { retry_after }) => *retry_after,
            Self::TooMany(too_many) => too_many.retry_after,
            _ => RETRY_AFTER,
        }
    }
}
