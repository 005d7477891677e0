//! What answers for a web server that asks about each of its requests
//!
//! nginx has `auth_request` for it, Traefik `forwardAuth` and Caddy `forward_auth`: before a
//! request goes on to the registry behind, the web server asks [`AuthRequestService`] by a request
//! of its own, and goes on only if the answer is a 200.

use std::convert::Infallible;
use std::fmt::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use registry_core::{
    Access, Action, ErrorCode, ErrorDetail, ErrorResponse, Operation, Resource, RouteError,
    StartUpload, route,
};
use serde::Deserialize;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::access::{AccessControl, Asked, Caller};
use crate::access_log::{Observer, Recorder};
use crate::body::ResponseBody;
use crate::forwarded::{self, Client};
use crate::reply::{Reply, set};
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::respond::Failure;

/// Who was let in
const USER: HeaderName = HeaderName::from_static("x-registry-user");
/// Why somebody was not, as text
const REASON: HeaderName = HeaderName::from_static("x-registry-reason");
/// The same as the body that a registry answers with
const ERRORS: HeaderName = HeaderName::from_static("x-registry-errors");
/// The status that a registry answers with
const STATUS: HeaderName = HeaderName::from_static("x-registry-status");

/// The most bytes of [`REASON`], once escaped
const MAX_REASON: usize = 512;

/// The most bytes of [`ERRORS`]: with the other headers it must fit into the 4 KiB that web
/// servers have for the head of an answer
const MAX_ERRORS: usize = 2048;

/// Answers a web server that asks about each of its requests
///
/// A `GET` of its path (by default `/auth`) names the request that it is about in headers, and
/// brings that request's `Authorization`:
///
/// | headers | sent by |
/// |---|---|
/// | `X-Original-Method`, `X-Original-URI` | nginx, if its configuration sets them |
/// | `X-Original-Method`, `X-Original-URL` | the ingress controller of nginx |
/// | `X-Forwarded-Method`, `X-Forwarded-Uri` | Traefik, Caddy |
///
/// Method and URI are there once each, and from one row only: web servers pass on whatever else a
/// client sent, so with two URIs the client has chosen one of them. The URI is taken as the client
/// sent it, still percent-encoded, and that is what has to go on to the registry: what was
/// decided about must be what is done.
///
/// # Answers
///
/// | | to nginx | to Traefik and Caddy |
/// |---|---|---|
/// | it may | 200, `X-Registry-User` unless anonymous | the same |
/// | log in first | 401 with the challenge | the same |
/// | it may not | 403 | 403, or 404 where that is hidden |
/// | it is no request that a registry has | 403 | 400, 404, 405 or 414, as a registry |
/// | that cannot be known now, or too often | 503 or 429 | the same |
/// | whoever asks may not ask, or asks wrongly | 403 | 403 |
///
/// nginx goes by the status only: 2xx, 401 and 403, and anything else is a 500 to the client.
/// Traefik and Caddy give the client the answer as it is. Each refusal says in headers what a
/// registry would have answered, for nginx to answer so: `X-Registry-Status`, `X-Registry-Errors`
/// (the JSON body, in ASCII) and `X-Registry-Reason` (the reason alone, for a log).
///
/// A mount of a blob from a repository that the caller may not pull is refused, and so is one that
/// does not say from where: the registry behind would not ask.
///
/// Who may ask is limited to loopback unless [others are named](AuthRequestServiceBuilder::trusted_peers).
/// Cheap to clone.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use http::{Request, StatusCode};
/// use http_body_util::Empty;
/// use hyper::service::Service;
/// use registry_auth::{Anyone, PullOnly};
/// use registry_http::{AccessControl, AuthRequestService, RemoteAddr};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let access = AccessControl::new(Arc::new(Anyone), Arc::new(PullOnly));
/// let service = AuthRequestService::builder(access).build();
/// assert!(service.answers("/auth"));
///
/// for (method, uri, expected) in [
///     ("GET", "/v2/app/manifests/v1", StatusCode::OK),
///     ("DELETE", "/v2/app/manifests/v1", StatusCode::FORBIDDEN),
///     ("GET", "/authok/v2/app/manifests/v1", StatusCode::FORBIDDEN),
/// ] {
///     let request = Request::get("/auth")
///         .header("X-Original-Method", method)
///         .header("X-Original-URI", uri)
///         // `serve` says where a connection came from.
///         .extension(RemoteAddr(([127, 0, 0, 1], 40000).into()))
///         .body(Empty::<bytes::Bytes>::new())
///         .unwrap();
///     assert_eq!(service.call(request).await.unwrap().status(), expected);
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct AuthRequestService {
    inner: Arc<Inner>,
}

impl AuthRequestService {
    /// A service that answers by what `access` says
    pub fn builder(access: AccessControl) -> AuthRequestServiceBuilder {
        AuthRequestServiceBuilder {
            inner: Inner {
                access,
                path: "/auth".to_owned(),
                trusted_peers: forwarded::loopback(),
                observer: None,
                request_ids: vec![X_REQUEST_ID],
            },
        }
    }

    /// Whether this path is the service's, for those who have others beside it
    pub fn answers(&self, path: &str) -> bool {
        path == self.inner.path
    }

    /// Answers a request, whichever kind of service this is used as
    fn answer<B>(
        &self,
        request: Request<B>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, Infallible>> {
        // What the request is about has its body elsewhere; this one has none that matters.
        let (parts, _) = request.into_parts();
        let inner = self.inner.clone();
        Box::pin(async move { Ok(inner.handle(&parts).await) })
    }
}

crate::http_service::http_service!(AuthRequestService);

impl fmt::Debug for AuthRequestService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequestService")
            .field("access", &self.inner.access)
            .field("path", &self.inner.path)
            .field("trusted_peers", &self.inner.trusted_peers)
            .finish_non_exhaustive()
    }
}

/// What an [`AuthRequestService`] is made of
#[must_use]
pub struct AuthRequestServiceBuilder {
    inner: Inner,
}

impl AuthRequestServiceBuilder {
    /// The path at which it answers; by default `/auth`
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.inner.path = path.into();
        self
    }

    /// Who may ask, and is believed what it says of the client's address (`X-Forwarded-For`); by
    /// default this machine's loopback addresses
    ///
    /// Whoever may ask can try passwords, in the name of any address. Whoever connects over a Unix
    /// socket ([`UnixPeer`](crate::UnixPeer)) may always.
    pub fn trusted_peers(mut self, networks: Vec<IpNet>) -> Self {
        self.inner.trusted_peers = networks;
        self
    }

    /// Who learns of every request; by default nobody
    ///
    /// The record is of the request that asks; its operation and user are those of the request that
    /// it is about.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.inner.observer = Some(observer);
        self
    }

    /// Which headers bring the name of a request; by default `X-Request-ID`
    ///
    /// The first that is there counts. The name is sent back in the first and in `X-Request-ID`.
    pub fn request_id_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.inner.request_ids = names.into_iter().collect();
        self
    }

    /// The service
    pub fn build(self) -> AuthRequestService {
        AuthRequestService {
            inner: Arc::new(self.inner),
        }
    }
}

impl fmt::Debug for AuthRequestServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequestServiceBuilder")
            .finish_non_exhaustive()
    }
}

struct Inner {
    access: AccessControl,
    path: String,
    trusted_peers: Vec<IpNet>,
    observer: Option<Arc<dyn Observer>>,
    request_ids: Vec<HeaderName>,
}

impl Inner {
    async fn handle(&self, parts: &Parts) -> Response<ResponseBody> {
        let id = RequestId::in_any(&parts.headers, &self.request_ids);
        let client = Client::of(parts, &self.trusted_peers);
        let service = match Original::of(&parts.headers) {
            Ok(original) => format!("{} {}", original.method, original.path),
            Err(_) => format!("{} {}", parts.method, parts.uri.path()),
        };
        let agent = parts.headers.get(header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        // Of the highest level: where only errors are logged, they are to have the name too.
        let span = tracing::error_span!(
            "request",
            %id,
            service,
            client = client.address.map(tracing::field::display),
            agent = agent.unwrap_or_default(),
            user = Empty,
        );
        let handled = self.handle_named(parts, client, id);
        handled.instrument(span).await
    }

    async fn handle_named(
        &self,
        parts: &Parts,
        client: Client,
        id: RequestId,
    ) -> Response<ResponseBody> {
        let mut recorder = self.observer.as_ref().map(|observer| {
            let observer = observer.clone();
            Box::new(Recorder::begin(
                observer,
                parts,
                client.address,
                id.clone(),
                Arc::default(),
            ))
        });
        let decided = self.decide(parts, &client, &id, recorder.as_deref_mut());
        let mut response = match decided.await {
            Ok(caller) => {
                let mut reply = Reply::new(StatusCode::OK);
                if let Some(name) = caller.principal.name() {
                    reply = reply.header(USER, name);
                }
                reply.header(header::CONTENT_LENGTH, 0).empty()
            }
            Err(refusal) => refuse(refusal, Asker::of(&parts.headers), &id).await,
        };
        let headers = response.headers_mut();
        // It holds for this request only, and only now.
        set(headers, header::CACHE_CONTROL, "no-store");
        if let Some(id) = id.value() {
            for name in self.request_ids.first().into_iter().chain([&X_REQUEST_ID]) {
                headers.insert(name.clone(), id.clone());
            }
        }
        if let Some(recorder) = &mut recorder {
            recorder.status(response.status());
        }
        if parts.method == Method::HEAD {
            response = response.map(|_| ResponseBody::default());
        }
        response.map(|body| body.recorded(recorder))
    }

    async fn decide(
        &self,
        parts: &Parts,
        client: &Client,
        id: &RequestId,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<Caller, Refusal> {
        if parts.uri.path() != self.path {
            let path = self.path.clone();
            return Err(Refusal::Path { path });
        }
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        if !forwarded::is_believed(parts, &self.trusted_peers) {
            return Err(Refusal::Peer);
        }
        let original = Original::of(&parts.headers)?;
        let operation = route(original.method, original.path, original.query)?;
        if let Some(recorder) = &mut recorder {
            recorder.operation(operation.label());
        }
        let asked = Asked {
            parts: &original.parts(&parts.headers)?,
            client,
            id,
            operation: &operation,
        };
        let caller = self.access.identify(&asked).await?;
        if let Some(name) = caller.principal.name() {
            Span::current().record("user", name);
        }
        if let Some(recorder) = &mut recorder {
            recorder.user(caller.principal.name());
        }
        self.access.authorize(&asked, &caller).await?;
        if let Operation::StartUpload { start, .. } = &operation {
            self.allow_mount(&caller, start, original.query).await?;
        }
        Ok(caller)
    }

    /// Refuses a mount that the caller could not do by pulling and pushing
    ///
    /// A registry of ours lets such a client push instead. The one behind gets the request as it
    /// is: what it might read out of it is decided about, and nothing may be in it twice.
    async fn allow_mount(
        &self,
        caller: &Caller,
        start: &StartUpload,
        query: Option<&str>,
    ) -> Result<(), Refusal> {
        let query = query.unwrap_or_default();
        let count = |name: &str| {
            let names = query
                .split(['&', ';'])
                .map(|parameter| parameter.split('=').next().unwrap_or_default());
            names
                .filter(|sent| percent_decode_str(sent).decode_utf8_lossy() == name)
                .count()
        };
        match (count("mount"), count("from"), start) {
            (0, _, StartUpload::Session { .. } | StartUpload::Monolithic { .. }) => Ok(()),
            (
                1,
                1,
                StartUpload::Mount {
                    digest,
                    from: Some(from),
                },
            ) => {
                let source = Access {
                    resource: Resource::Repository(from.clone()),
                    action: Action::Pull,
                    reference: Some((*digest).into()),
                };
                match self.access.allows(caller, &source).await {
                    true => Ok(()),
                    false => Err(Refusal::Mount),
                }
            }
            _ => Err(Refusal::Mount),
        }
    }
}

/// What kind of web server asks, by the headers that it sends
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// It goes by the status: 2xx, 401, 403, and all others are one failure
    Status,
    /// It hands the answer to the client as it is
    Whole,
}

impl Asker {
    fn of(headers: &HeaderMap) -> Self {
        let says = |name: &str| headers.contains_key(name);
        match says(FORWARDED.uri) && !says(ORIGINAL.uri) && !says(ORIGINAL_URL.uri) {
            true => Self::Whole,
            false => Self::Status,
        }
    }
}

/// The headers by which a kind of web server names the request that it asks about
struct Names {
    method: &'static str,
    uri: &'static str,
}

const ORIGINAL: Names = Names {
    method: "x-original-method",
    uri: "x-original-uri",
};
const ORIGINAL_URL: Names = Names {
    method: "x-original-method",
    uri: "x-original-url",
};
const FORWARDED: Names = Names {
    method: "x-forwarded-method",
    uri: "x-forwarded-uri",
};

/// The request that is asked about
#[derive(Debug, PartialEq, Eq)]
struct Original<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Original<'a> {
    fn of(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let known = [&ORIGINAL, &ORIGINAL_URL, &FORWARDED];
        let mut sent = known.into_iter().filter(|names| {
            // A client's method beside the URI of the web server is a trick as well.
            headers.contains_key(names.uri)
        });
        let names = sent.next().ok_or(Refusal::NoUri)?;
        let foreign_method = known
            .into_iter()
            .any(|other| other.method != names.method && headers.contains_key(other.method));
        if sent.next().is_some() || foreign_method {
            return Err(Refusal::TwoKinds);
        }
        let method = one(headers, names.method)?;
        let target = one(headers, names.uri)?;
        let target = match names.uri == ORIGINAL_URL.uri {
            true => after_host(target).ok_or(Refusal::Uri)?,
            false => target,
        };
        // A fragment never reaches a server; one that drops it would do something else than what
        // was decided about.
        if !target.starts_with('/') || target.contains(['#', '\\']) {
            return Err(Refusal::Uri);
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Ok(Self {
            method,
            target,
            path,
            query,
        })
    }

    /// The request as its client sent it
    ///
    /// Without what is known of the connection: that is the web server's, as is its certificate.
    fn parts(&self, headers: &HeaderMap) -> Result<Parts, Refusal> {
        let request = Request::builder().method(self.method).uri(self.target);
        let (mut parts, ()) = request.body(()).map_err(|_| Refusal::Uri)?.into_parts();
        parts.headers.clone_from(headers);
        Ok(parts)
    }
}

/// The value of a header that must be there exactly once, as visible ASCII without spaces
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Refusal::NotOnce { name });
    };
    let text = value.to_str().ok();
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or(Refusal::NotText { name })
}

/// Path and query of `http://host/path?query`, whose host the web server took from the client
fn after_host(url: &str) -> Option<&str> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let (host, _) = rest.split_once('/')?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_host)).then(|| &rest[host.len()..])
}

/// Why a request is not let through
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Who asks may not do it, or that cannot be known
    #[error("the request was refused")]
    Access(Failure),
    #[error("this path takes GET and HEAD")]
    Method,
    #[error(
        "a blob can be mounted only from one repository, named by `from`, that you may pull it from; push the blob itself"
    )]
    Mount,
    #[error("expected the header `{name}` once, it came several times or not at all")]
    NotOnce { name: &'static str },
    #[error("expected the header `{name}` in visible ASCII, something else came")]
    NotText { name: &'static str },
    #[error(
        "expected the request that this is about in `X-Original-Method` and `X-Original-URI`, or `X-Forwarded-Method` and `X-Forwarded-Uri`; none came"
    )]
    NoUri,
    #[error("no such path; requests are decided about at `{path}`")]
    Path { path: String },
    #[error("this service answers the web server in front of it only")]
    Peer,
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(
        "expected one kind of headers that name a request, several came; send neither `X-Original-…` nor `X-Forwarded-Method` or `-Uri` yourself"
    )]
    TwoKinds,
    #[error(
        "expected the URI of a request as a path that begins with `/`, without `#` and backslashes"
    )]
    Uri,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Access(failure)
    }
}

impl Refusal {
    /// The table: what each is to a client
    fn verdict(&self) -> (StatusCode, ErrorCode) {
        match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
            Self::Path { .. } => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            Self::Route(error) => (
                StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST),
                error.detail().code(),
            ),
            _ => (StatusCode::FORBIDDEN, ErrorCode::Denied),
        }
    }

    /// Whether it is about the request that asks, and no web server need be spared its status
    fn is_about_asking(&self) -> bool {
        matches!(self, Self::Method | Self::Path { .. })
    }
}

async fn refuse(refusal: Refusal, asker: Asker, id: &RequestId) -> Response<ResponseBody> {
    if matches!(
        refusal,
        Refusal::Peer | Refusal::NoUri | Refusal::NotOnce { .. }
    ) {
        // Nobody gets in until the operator has mended the web server's configuration.
        tracing::warn!(%refusal, "a web server asks in a way that cannot be answered");
    }
    let about_asking = refusal.is_about_asking();
    let (status, code) = refusal.verdict();
    let response = match refusal {
        Refusal::Access(failure) => failure.respond(id),
        refusal => {
            let error = ErrorDetail::new(code, refusal.to_string());
            let mut reply = Reply::new(status).header(header::CONTENT_TYPE, "application/json");
            if matches!(refusal, Refusal::Method) {
                reply = reply.header(header::ALLOW, "GET, HEAD");
            }
            reply.body(ErrorResponse::from(error).to_json())
        }
    };
    let (mut parts, body) = response.into_parts();
    // Errors are in memory: nothing can fail, and nothing is waited for.
    let json = body
        .collect()
        .await
        .map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
    let headers = &mut parts.headers;
    let (reason, errors) = told(&json);
    set(headers, STATUS, parts.status.as_u16());
    set(headers, REASON, reason);
    set(headers, ERRORS, errors);
    set(headers, header::CONTENT_LENGTH, json.len());
    if asker == Asker::Status && !about_asking && is_lost_on_nginx(parts.status) {
        parts.status = StatusCode::FORBIDDEN;
    }
    Response::from_parts(parts, json.into())
}

/// Whether it would be a 500 to the client although the request itself is at fault
///
/// What is not, such as an outage, stays what it is: it must not look like a refusal.
fn is_lost_on_nginx(status: StatusCode) -> bool {
    status.is_client_error()
        && !matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Reason and errors of a body, fit for headers
fn told(json: &[u8]) -> (String, String) {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Told>,
    }
    #[derive(Deserialize)]
    struct Told {
        code: String,
        message: String,
    }

    let text = String::from_utf8_lossy(json);
    let told = serde_json::from_slice::<Body>(json)
        .ok()
        .and_then(|body| body.errors.into_iter().next());
    let reason = told.as_ref().map_or("", |told| &told.message);
    let short: String = reason
        .chars()
        .scan(0, |length, character| {
            *length += match is_plain(character) {
                true => 1,
                false => 6 * character.len_utf16(),
            };
            (*length <= MAX_REASON).then_some(character)
        })
        .collect();
    let mut errors = in_ascii(&text);
    if errors.len() > MAX_ERRORS {
        let code = told.as_ref().map_or("DENIED", |told| &told.code);
        let error = serde_json::json!({ "code": code, "message": short, "detail": null });
        errors = in_ascii(&serde_json::json!({ "errors": [error] }).to_string());
    }
    (in_ascii(&short), errors)
}

/// Escapes all that is not printable ASCII as JSON does, where it stands in its strings only
fn in_ascii(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        if is_plain(character) {
            ascii.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a `String` cannot fail.
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    ascii
}

/// Whether it may stand in every header
fn is_plain(character: char) -> bool {
    character.is_ascii_graphic() || character == ' '
}
