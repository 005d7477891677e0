//! A registry in front of another one: who asks and who may is decided here, the content is there
//!
//! A request is read as the registry itself reads it, decided by an [`AccessControl`], and written anew from what was understood:
//! nothing of the path, the query or the credentials that a client sends gets to the upstream. What is no
//! request of the registry's API is not there. Content streams both ways.

mod connector;
mod error;
mod flow;
mod forward;
mod login;
mod notice;
mod options;
mod redirect;
mod rewrite;
mod tags;
mod upstream;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use ipnet::IpNet;
use registry_core::manifest::Limits;
use registry_core::{Operation, route};
use tokio::sync::Semaphore;
use tracing::field::Empty;
use tracing::{Instrument, Span};

pub(crate) use self::error::UpstreamError;
use self::forward::Forward;
use self::notice::Notice;
pub use self::options::{UpstreamOptions, UpstreamSetupError};
pub use self::redirect::Redirects;
pub use self::tags::{UpstreamTags, UpstreamTagsBuilder};
pub use self::upstream::Upstream;
use crate::access::{AccessControl, Asked};
use crate::access_log::{AccessRecord, Observer, Recorder};
use crate::body::ResponseBody;
use crate::forwarded::{self, Client};
use crate::location::{self, Locations, Prefix, Root};
use crate::readiness::Readiness;
use crate::reply::{API_VERSION, Reply, set};
use crate::request_body::RequestBody;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::respond::{Cause, Failure};
use crate::response_headers::ResponseHeaders;
use crate::service::set_length;

/// How many requests are under way at once, unless the operator says otherwise
const MAX_REQUESTS: usize = 1024;

/// How long a client may send or take nothing, as in the registry itself
const BODY_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A proxy in front of a registry, as a service for hyper and for tower
///
/// Cheap to clone; all clones are one proxy. It needs a tokio runtime with timers.
///
/// Each request is in a `tracing` span `request` with the fields `id`, `service`, `client`, `agent` and `user`; its
/// beginning and its end are events of the target `registry::request` (`ENTRY`, `EXIT`), and each request
/// to the upstream is two of the target `registry::invoke` (`INVOKE`, `INVOKE_RETURN`).
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::{AllowAll, Anyone, Password};
/// use registry_http::{AccessControl, ProxyService, Upstream, UpstreamOptions};
///
/// let options = UpstreamOptions::new("https://nexus.example:8082")
///     .with_credentials("acumos_rw", Password::new("correct horse"));
/// let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll));
/// let service = ProxyService::builder(Upstream::new(options)?, access)
///     .max_requests(200)
///     .build();
/// # Ok::<(), registry_http::proxy::UpstreamSetupError>(())
/// ```
#[derive(Clone)]
pub struct ProxyService {
    inner: Arc<Inner>,
}

impl ProxyService {
    /// A proxy of `upstream`, to which `access` lets people
    pub fn builder(upstream: Upstream, access: AccessControl) -> ProxyServiceBuilder {
        ProxyServiceBuilder {
            locations: Locations::default(),
            inner: Inner {
                upstream,
                access,
                limits: Limits::default(),
                redirects: Redirects::default(),
                requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
                refusing: Notice::default(),
                body_patience: BODY_PATIENCE,
                observer: None,
                trusted_proxies: forwarded::loopback(),
                prefix: Prefix::default(),
                root: Root::new(&Locations::default(), &Prefix::default()),
                response_headers: ResponseHeaders::default(),
                readiness: Readiness::default(),
                request_ids: vec![X_REQUEST_ID],
                tags: None,
            },
        }
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
        let body = RequestBody::new(&parts, body, self.inner.body_patience);
        let inner = self.inner.clone();
        Box::pin(async move { Ok(inner.handle(parts, body).await) })
    }
}

crate::http_service::http_service!(ProxyService);

impl fmt::Debug for ProxyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyService")
            .field("access", &self.inner.access)
            .field("upstream", &self.inner.upstream)
            .finish_non_exhaustive()
    }
}

/// What a [`ProxyService`] is made of
#[must_use]
pub struct ProxyServiceBuilder {
    inner: Inner,
    locations: Locations,
}

impl ProxyServiceBuilder {
    /// How large a manifest may be that passes; by default 4 MiB, which is what clients read
    ///
    /// Manifests are held in memory on their way; everything else streams.
    pub fn manifest_limits(mut self, limits: Limits) -> Self {
        self.inner.limits = limits;
        self
    }

    /// What becomes of the upstream's redirects to where its blobs are; by default they are followed
    pub fn redirects(mut self, redirects: Redirects) -> Self {
        self.inner.redirects = redirects;
        self
    }

    /// How many requests may be under way at once; by default 1024
    ///
    /// One more is refused with 503 and a time to come back. A pull counts until its last byte is sent.
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.inner.requests = Arc::new(Semaphore::new(requests.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// How long a client may send nothing in the middle of a body, or take nothing of an answer; by default five
    /// minutes
    pub fn body_patience(mut self, patience: Duration) -> Self {
        self.inner.body_patience = patience;
        self
    }

    /// Who learns of every request; by default nobody
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.inner.observer = Some(observer);
        self
    }

    /// From where `X-Forwarded-For` and the like are believed, as in
    /// [`Builder::trusted_proxies`](crate::Builder::trusted_proxies)
    pub fn trusted_proxies(mut self, networks: Vec<IpNet>) -> Self {
        self.inner.trusted_proxies = networks;
        self
    }

    /// Under which path the API is; by default directly under `/`
    pub fn prefix(mut self, prefix: Prefix) -> Self {
        self.inner.prefix = prefix;
        self
    }

    /// How `Location` and `Link` name their target; by default by path
    pub fn locations(mut self, locations: Locations) -> Self {
        self.locations = locations;
        self
    }

    /// What is added to every response; by default nothing
    pub fn response_headers(mut self, headers: ResponseHeaders) -> Self {
        self.inner.response_headers = headers;
        self
    }

    /// Whether requests are wanted; by default always, as in
    /// [`Builder::readiness`](crate::Builder::readiness)
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.inner.readiness = readiness;
        self
    }

    /// The headers that bring a request's name; by default `X-Request-ID`
    ///
    /// The first that is there counts. The name is sent to the upstream in all of them, and back to the client in the
    /// first and in `X-Request-ID`.
    pub fn request_id_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.inner.request_ids = names.into_iter().collect();
        self
    }

    /// Who is to learn which tags lead to what, from what passes; by default nobody
    pub fn tags(mut self, tags: UpstreamTags) -> Self {
        self.inner.tags = Some(tags);
        self
    }

    /// The service
    pub fn build(mut self) -> ProxyService {
        self.inner.root = Root::new(&self.locations, &self.inner.prefix);
        ProxyService {
            inner: Arc::new(self.inner),
        }
    }
}

impl fmt::Debug for ProxyServiceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyServiceBuilder")
            .finish_non_exhaustive()
    }
}

struct Inner {
    upstream: Upstream,
    access: AccessControl,
    limits: Limits,
    redirects: Redirects,
    requests: Arc<Semaphore>,
    refusing: Notice,
    body_patience: Duration,
    observer: Option<Arc<dyn Observer>>,
    trusted_proxies: Vec<IpNet>,
    prefix: Prefix,
    /// What prefix and locations come to
    root: Root,
    response_headers: ResponseHeaders,
    readiness: Readiness,
    request_ids: Vec<HeaderName>,
    tags: Option<UpstreamTags>,
}

impl Inner {
    async fn handle(self: Arc<Self>, parts: Parts, body: RequestBody) -> Response<ResponseBody> {
        let id = RequestId::in_any(&parts.headers, &self.request_ids);
        let client = Client::of(&parts, &self.trusted_proxies);
        let service = format!("{} {}", parts.method, parts.uri.path());
        let agent = parts
            .headers
            .get(header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .unwrap_or_default();
        // Of the highest level: where only errors are logged, they are to have the name too.
        let span = tracing::error_span!(
            "request",
            %id,
            service,
            client = client.address.map(tracing::field::display),
            agent,
            user = Empty,
        );
        let handled = self.handle_named(parts, body, id, client);
        let response = handled.instrument(span.clone()).await;
        // What goes wrong while the content is sent belongs to the request too.
        response.map(|body| body.in_span(span))
    }

    async fn handle_named(
        self: Arc<Self>,
        parts: Parts,
        body: RequestBody,
        id: RequestId,
        client: Client,
    ) -> Response<ResponseBody> {
        tracing::info!(target: "registry::request", marker = "ENTRY");
        let exit = Exit {
            span: Span::current(),
            observer: self.observer.clone(),
        };
        let received = body.received();
        let recorder =
            Recorder::begin(Arc::new(exit), &parts, client.address, id.clone(), received);
        let mut recorder = Box::new(recorder);
        let head = parts.method == Method::HEAD;
        let root = self.root.of(&client, &parts);
        let responded = self
            .respond(&parts, body, &client, &id, &mut recorder)
            .await;
        let mut response = match responded {
            Ok(response) => response,
            Err(failure) => failure.respond(&id),
        };
        let headers = response.headers_mut();
        set(headers, API_VERSION, "registry/2.0");
        if let Some(id) = id.value() {
            for name in self.request_ids.first().into_iter().chain([&X_REQUEST_ID]) {
                headers.insert(name.clone(), id.clone());
            }
        }
        location::place(headers, &root);
        self.response_headers.add_to(headers);
        set_length(&mut response, head);
        recorder.status(response.status());
        response.map(|body| body.recorded(Some(recorder)))
    }

    async fn respond(
        &self,
        parts: &Parts,
        body: RequestBody,
        client: &Client,
        id: &RequestId,
        recorder: &mut Recorder,
    ) -> Result<Response<ResponseBody>, Failure> {
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if reads && let Some(answer) = self.readiness.probe(parts.uri.path()) {
            return Ok(answer);
        }
        // Where load balancers ask whether anybody is there.
        if reads && parts.uri.path() == "/" && !self.readiness.is_failing() {
            return Ok(Reply::new(StatusCode::OK).empty());
        }
        let Some(path) = self.prefix.strip(parts.uri.path()) else {
            let prefix = self.prefix.clone();
            return Err(Cause::OutsidePrefix { prefix }.into());
        };
        let operation = route(parts.method.as_str(), path, parts.uri.query());
        if let Ok(operation) = &operation {
            recorder.operation(operation.label());
        }
        if self.readiness.is_failing() {
            return Err(Cause::Unhealthy.into());
        }
        let operation = operation?;
        let permit = self.requests.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            if self.refusing.is_due() {
                tracing::warn!(
                    "there are as many requests under way as there may be; others are refused"
                );
            }
            UpstreamError::Busy
        })?;
        let asked = Asked {
            parts,
            client,
            id,
            operation: &operation,
        };
        let caller = self.access.identify(&asked).await?;
        recorder.user(caller.principal.name());
        if let Some(name) = caller.principal.name() {
            Span::current().record("user", name);
        }
        self.access.authorize(&asked, &caller).await?;
        if operation == Operation::Ping {
            return Ok(Reply::new(StatusCode::OK)
                .header(header::CONTENT_TYPE, "application/json")
                .body("{}"));
        }
        let forward = Forward {
            proxy: self,
            parts,
            client,
            id,
            caller: &caller,
            operation: &operation,
            permit,
        };
        forward.run(body).await
    }
}

/// Tells the log of the end of a request, and then whoever else observes
struct Exit {
    span: Span,
    observer: Option<Arc<dyn Observer>>,
}

impl Observer for Exit {
    fn started(&self, operation: &'static str) {
        if let Some(observer) = &self.observer {
            observer.started(operation);
        }
    }

    fn finished(&self, record: &AccessRecord) {
        self.span.in_scope(|| {
            tracing::info!(
                target: "registry::request",
                marker = "EXIT",
                code = record.status.as_u16(),
                elapsed_ms = record.elapsed.as_millis() as u64,
                bytes = record.bytes,
            );
        });
        if let Some(observer) = &self.observer {
            observer.finished(record);
        }
    }
}
