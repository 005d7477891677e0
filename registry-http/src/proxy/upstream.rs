//! The registry behind a proxy: where it is, and how it is asked

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use registry_core::Access;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::connector::{ConnectTimedOut, Places, PublicOnly, Timed, port_of};
use super::error::{Source, UpstreamError, causes};
use super::flow::{Progress, Sending};
use super::login::{Login, Realms};
use super::notice::Notice;
use super::options::{UpstreamOptions, UpstreamSetupError};
use super::rewrite::Seal;
use crate::request_body::{RequestBody, RequestBodyError};

/// For how long a connection is kept for the next request
const POOLED: Duration = Duration::from_secs(60);

/// How many idle connections are kept
const POOL: usize = 64;

/// What a guess at the password behind a seal costs, as a power of two: some 50 ms, once per start
const SEAL_COST: u32 = 10;

type Outgoing = UnsyncBoxBody<Bytes, Source>;
type Client<R> = legacy::Client<Timed<HttpsConnector<HttpConnector<R>>>, Outgoing>;

/// The registry behind a proxy
///
/// Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Upstream {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// What stands before `/v2/`, without a slash at its end
    prefix: String,
    http: Client<hyper_util::client::legacy::connect::dns::GaiResolver>,
    /// For where the upstream redirects to
    storage: Client<PublicOnly>,
    pub(super) storage_rules: PublicOnly,
    login: Login,
    permits: Arc<Semaphore>,
    full: Notice,
    connect_timeout: Duration,
    answer_timeout: Duration,
    commit_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) seal: Seal,
}

/// What a request to the upstream brings along
pub(crate) enum Content {
    Empty,
    /// Bytes that can be sent again
    Whole(Bytes),
    Streamed(RequestBody),
}

/// One request to the upstream
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query on the upstream's host
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    /// What the upstream's token has to allow
    pub(crate) scope: String,
}

/// What the upstream answered
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// Held until its end
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Why a call has no answer
#[derive(Debug)]
pub(crate) enum CallError {
    /// The client did not send what it announced
    Client(RequestBodyError),
    Upstream(UpstreamError),
}

impl From<UpstreamError> for CallError {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl Upstream {
    /// Sets the connection up; nothing is asked yet
    ///
    /// # Errors
    ///
    /// [`UpstreamSetupError`] when the options do not make sense.
    pub fn new(options: UpstreamOptions) -> Result<Self, UpstreamSetupError> {
        let uri: Uri = options.url.parse().map_err(|_| UpstreamSetupError::Url)?;
        let scheme = uri
            .scheme()
            .filter(|scheme| **scheme == Scheme::HTTP || **scheme == Scheme::HTTPS)
            .ok_or(UpstreamSetupError::Url)?
            .clone();
        let authority = uri.authority().ok_or(UpstreamSetupError::Url)?.clone();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let clean = !authority.as_str().contains('@') && !options.url.contains(['?', '#', '%']);
        if authority.host().is_empty() || !clean || prefix.split('/').any(|part| part == "..") {
            return Err(UpstreamSetupError::Url);
        }
        if options.max_connections == 0 {
            return Err(UpstreamSetupError::Connections);
        }
        let host = |text: &String| match text.parse::<Authority>() {
            Ok(host) if !host.as_str().contains('@') => Ok(host),
            _ => Err(UpstreamSetupError::Host { text: text.clone() }),
        };
        let realms = options.trusted_realms.iter().map(|realm| {
            let realm = host(realm)?;
            Ok(realm.as_str().to_ascii_lowercase())
        });
        let realms: Vec<_> = realms.collect::<Result<_, UpstreamSetupError>>()?;
        let mut storage = Places::default();
        for place in &options.trusted_storage {
            storage.add(&host(place)?);
        }
        if let Some(port) = port_of(&uri) {
            storage.add_at(authority.host(), port);
        }
        let tls = match options.tls {
            Some(tls) => tls,
            None => system_tls()?,
        };
        let storage_rules = PublicOnly::new(storage);
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let mut storage_tcp = HttpConnector::new_with_resolver(storage_rules.clone());
        storage_tcp.set_nodelay(true);
        storage_tcp.enforce_http(false);
        let seal = match (&options.seal_secret, &options.credentials) {
            (Some(secret), _) => Seal::new(secret.expose().as_bytes()),
            (None, Some((user, password))) => {
                Seal::new(&derived(&options.url, user, password.expose()))
            }
            (None, None) => {
                let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
                Seal::new(&[first.into_bytes(), second.into_bytes()].concat())
            }
        };
        let realms = Realms {
            own: scheme.clone(),
            authority: authority.as_str().to_ascii_lowercase(),
            trusted: realms,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                login: Login::new(options.credentials, realms)?,
                http: client(tcp, tls.clone(), options.connect_timeout),
                storage: client(storage_tcp, tls, options.connect_timeout),
                storage_rules,
                scheme,
                authority,
                prefix,
                permits: Arc::new(Semaphore::new(
                    options.max_connections.min(Semaphore::MAX_PERMITS),
                )),
                full: Notice::default(),
                connect_timeout: options.connect_timeout,
                answer_timeout: options.answer_timeout,
                commit_timeout: options.commit_timeout,
                idle_timeout: options.idle_timeout,
                seal,
            }),
        })
    }

    /// The path on the upstream's host of what is `/v2/…` for the proxy
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.inner.prefix)
    }

    /// Sends a request with the proxy's own credentials
    ///
    /// Sent a second time only when the upstream wants other credentials than it got and what was sent is at
    /// hand.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let authorization = self.inner.login.authorization(self, &call.scope).await?;
        let had_credentials = authorization.is_some();
        let again = match &call.content {
            Content::Empty => Some(Content::Empty),
            Content::Whole(bytes) => Some(Content::Whole(bytes.clone())),
            Content::Streamed(_) => None,
        };
        let streamed = again.is_none();
        let build = |content, authorization| -> Result<_, UpstreamError> {
            let (body, progress): (Outgoing, _) = match content {
                Content::Empty => (
                    Full::default()
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                    None,
                ),
                Content::Whole(bytes) => (
                    Full::new(bytes)
                        .map_err(|never| match never {})
                        .boxed_unsync(),
                    None,
                ),
                Content::Streamed(body) => {
                    let (body, progress) = Sending::new(body);
                    (body.boxed_unsync(), Some(progress))
                }
            };
            let mut request = Request::new(body);
            *request.method_mut() = call.method.clone();
            *request.uri_mut() = self.uri(&call.target)?;
            *request.headers_mut() = call.headers.clone();
            if let Some(authorization) = authorization {
                request
                    .headers_mut()
                    .insert(header::AUTHORIZATION, authorization);
            }
            Ok((request, progress))
        };
        let (request, progress) = build(call.content, authorization)?;
        let answer = self.attempt(request, progress).await?;
        if answer.response.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let login = &self.inner.login;
        let changed = login.refused(answer.response.headers(), &call.scope, had_credentials);
        // Its connection may be the last one there is.
        drop(answer);
        let refused = || UpstreamError::Credentials("it answered 401".into());
        let Some(content) = again.filter(|_| changed) else {
            return Err(match streamed && changed {
                true => UpstreamError::LoggedInAnew,
                false => refused(),
            }
            .into());
        };
        let authorization = login.authorization(self, &call.scope).await?;
        let (request, progress) = build(content, authorization)?;
        let answer = self.attempt(request, progress).await?;
        match answer.response.status() {
            StatusCode::UNAUTHORIZED => Err(refused().into()),
            _ => Ok(answer),
        }
    }

    /// Asks for a small document and reads it to its end
    pub(crate) async fn read(
        &self,
        request: Request<()>,
        limit: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), UpstreamError> {
        let request = request.map(|()| {
            Full::default()
                .map_err(|never| match never {})
                .boxed_unsync()
        });
        let answer = match self.attempt(request, None).await {
            Ok(answer) => answer,
            Err(CallError::Upstream(error)) => return Err(error),
            Err(CallError::Client(error)) => return Err(UpstreamError::Broken(Box::new(error))),
        };
        let (parts, body) = answer.response.into_parts();
        let bytes = self.collect(body, limit).await?;
        Ok((parts.status, parts.headers, bytes))
    }

    /// The whole of an answer, in time
    pub(crate) async fn collect(
        &self,
        body: Incoming,
        limit: usize,
    ) -> Result<Bytes, UpstreamError> {
        let read = Limited::new(body, limit).collect();
        match tokio::time::timeout(self.inner.answer_timeout, read).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) => Err(UpstreamError::Broken(causes(&*error).into())),
            Err(_) => Err(UpstreamError::TimedOut("its answer did not end".into())),
        }
    }

    /// Asks where the upstream redirects to, without credentials
    pub(crate) async fn fetch(&self, request: Request<()>) -> Result<Answer, UpstreamError> {
        let permit = self.permit().await?;
        let request = request.map(|()| {
            Full::default()
                .map_err(|never| match never {})
                .boxed_unsync()
        });
        let sent = logged(&self.inner.storage, request);
        let answer = tokio::time::timeout(self.inner.answer_timeout, sent).await;
        let response = answer.map_err(|_| slow())??;
        Ok(Answer { response, permit })
    }

    pub(crate) fn uri(&self, target: &str) -> Result<Uri, UpstreamError> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.inner.scheme.clone());
        parts.authority = Some(self.inner.authority.clone());
        let target: Result<PathAndQuery, _> = target.parse();
        parts.path_and_query =
            Some(target.map_err(|error| UpstreamError::Elsewhere(error.into()))?);
        Uri::from_parts(parts).map_err(|error| UpstreamError::Elsewhere(error.into()))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let permit = self.inner.permits.clone().acquire_owned();
        match tokio::time::timeout(self.inner.connect_timeout, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            // It is never closed.
            Ok(Err(_)) | Err(_) => {
                if self.inner.full.is_due() {
                    tracing::warn!(
                        "no connection to the upstream became free in time; requests are refused"
                    );
                }
                Err(UpstreamError::Busy)
            }
        }
    }

    async fn attempt(
        &self,
        request: Request<Outgoing>,
        progress: Option<Arc<Mutex<Progress>>>,
    ) -> Result<Answer, CallError> {
        let permit = self.permit().await?;
        let patience = match *request.method() {
            Method::GET | Method::HEAD => self.inner.answer_timeout,
            _ => self.inner.commit_timeout,
        };
        let sent = logged(&self.inner.http, request);
        let answered = in_time(sent, patience, progress.as_deref()).await;
        match answered {
            Ok(response) => Ok(Answer { response, permit }),
            Err(error) => {
                let failure = progress.and_then(|progress| {
                    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                    progress.failure.take()
                });
                Err(match failure {
                    Some(failure) => CallError::Client(failure),
                    None => CallError::Upstream(error),
                })
            }
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("authority", &self.inner.authority)
            .field("prefix", &self.inner.prefix)
            .finish_non_exhaustive()
    }
}

/// Waits for an answer as long as content is on its way, and then for `patience`
///
/// While it is the client that is waited for, that ends by itself: clients have a patience of their own.
async fn in_time(
    sent: impl Future<Output = Result<Response<Incoming>, UpstreamError>>,
    patience: Duration,
    progress: Option<&Mutex<Progress>>,
) -> Result<Response<Incoming>, UpstreamError> {
    let mut sent = std::pin::pin!(sent);
    let mut deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Ok(answer) = tokio::time::timeout_at(deadline, &mut sent).await {
            return answer;
        }
        let now = tokio::time::Instant::now();
        deadline = match progress {
            None => return Err(slow()),
            Some(progress) => {
                let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                match progress.awaits_client {
                    true => now + patience,
                    false => progress.last + patience,
                }
            }
        };
        if deadline <= now {
            return Err(slow());
        }
    }
}

fn slow() -> UpstreamError {
    UpstreamError::TimedOut("no answer came".into())
}

/// What the log says of a request before and after it
struct Invocation {
    id: Uuid,
    service: String,
    begun: Instant,
    told: bool,
}

impl Invocation {
    fn begin(request: &Request<Outgoing>) -> Self {
        let invocation = Self {
            id: Uuid::new_v4(),
            service: format!("{} {}", request.method(), request.uri().path()),
            begun: Instant::now(),
            told: false,
        };
        tracing::info!(
            target: "registry::invoke",
            marker = "INVOKE",
            entity = "upstream",
            service = invocation.service,
            invocation = %invocation.id,
        );
        invocation
    }

    fn end(&mut self, code: u16, error: Option<&str>) {
        self.told = true;
        let elapsed_ms = self.begun.elapsed().as_millis() as u64;
        match error {
            None => tracing::info!(
                target: "registry::invoke",
                marker = "INVOKE_RETURN",
                entity = "upstream",
                service = self.service,
                invocation = %self.id,
                code,
                elapsed_ms,
            ),
            Some(error) => tracing::warn!(
                target: "registry::invoke",
                marker = "INVOKE_RETURN",
                entity = "upstream",
                service = self.service,
                invocation = %self.id,
                code,
                elapsed_ms,
                error,
            ),
        }
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.told {
            self.end(0, Some("given up before it was answered"));
        }
    }
}

/// Sends a request and tells the log
async fn logged<R>(
    client: &Client<R>,
    request: Request<Outgoing>,
) -> Result<Response<Incoming>, UpstreamError>
where
    Timed<HttpsConnector<HttpConnector<R>>>:
        legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    let mut invocation = Invocation::begin(&request);
    match client.request(request).await {
        Ok(response) => {
            invocation.end(response.status().as_u16(), None);
            Ok(response)
        }
        Err(error) => {
            let text = causes(&error);
            invocation.end(0, Some(&text));
            Err(match () {
                () if is_timeout(&error) => UpstreamError::TimedOut(text.into()),
                () if error.is_connect() => UpstreamError::Unreachable(text.into()),
                () => UpstreamError::Broken(text.into()),
            })
        }
    }
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<ConnectTimedOut>() || error.source().is_some_and(is_timeout)
}

/// The resources and actions of a token, as scopes (Docker token specification)
pub(crate) fn scope_of(needed: &[Access]) -> String {
    let mut scopes: Vec<String> = Vec::new();
    for access in needed {
        let scope = access.to_string();
        let Some((resource, action)) = scope.rsplit_once(':') else {
            continue;
        };
        let known = scopes.iter_mut().find(|known| {
            known
                .rsplit_once(':')
                .is_some_and(|(other, _)| other == resource)
        });
        match known {
            Some(known) => {
                let actions = known.rsplit_once(':').map_or("", |(_, actions)| actions);
                if !actions.split(',').any(|other| other == action) {
                    known.push(',');
                    known.push_str(action);
                }
            }
            None => scopes.push(scope),
        }
    }
    scopes.join(" ")
}

/// The secret of all proxies with the same account at the same upstream
///
/// Whoever may push has a text and its seal, and could try passwords at home: each try must be slow.
fn derived(url: &str, user: &str, password: &str) -> [u8; 24] {
    let hash = |parts: &[&str]| {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize()
    };
    let mut salt = [0; 16];
    salt.copy_from_slice(&hash(&["seal", url, user])[..16]);
    // bcrypt takes at most 72 bytes.
    bcrypt::bcrypt(SEAL_COST, salt, &hash(&[password]))
}

fn system_tls() -> Result<ClientConfig, UpstreamSetupError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(UpstreamSetupError::Tls)?
        .with_native_roots()
        .map_err(UpstreamSetupError::Authorities)?
        .with_no_client_auth())
}

fn client<R>(tcp: HttpConnector<R>, mut tls: ClientConfig, connect_timeout: Duration) -> Client<R>
where
    Timed<HttpsConnector<HttpConnector<R>>>:
        legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    // The connector writes its own.
    tls.alpn_protocols.clear();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(POOLED)
        .pool_max_idle_per_host(POOL)
        // Of a connection that was closed before anything was sent on it.
        .retry_canceled_requests(true)
        .build(Timed::new(connector, connect_timeout))
}
