//! How an object store is reached: one hyper client, with limits that object_store leaves to it

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use http::header::USER_AGENT;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use tokio::sync::Semaphore;

use super::BucketError;

/// How slow a store may take what is sent to it before it counts as hanging, in bytes per second
const SLOWEST_UPLOAD: u64 = 256 * 1024;

/// How an object store is reached
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_storage::bucket::ConnectOptions;
///
/// let options = ConnectOptions {
///     concurrency: 16,
///     read_timeout: Duration::from_secs(10),
///     ..ConnectOptions::default()
/// };
/// assert!(options.ca_file.is_none());
/// ```
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// A PEM file of the certificates that are trusted, instead of those of the system
    pub ca_file: Option<PathBuf>,
    /// Trusts whoever answers; for trying things out only
    pub danger_skip_verify: bool,
    /// How long a connection may take to come about; 5 s by default
    pub connect_timeout: Duration,
    /// How long the store may keep silent before a call has failed; 30 s by default
    ///
    /// For what is sent to it there is more time, by its size.
    pub read_timeout: Duration,
    /// How many calls wait for an answer at the same time; 128 by default
    pub concurrency: usize,
    /// How often a call is tried again that may succeed then; 4 by default
    pub retries: usize,
    /// How long a call is tried again, in all; 30 s by default
    pub retry_timeout: Duration,
    /// After how many failed connections in a row calls fail at once; 5 by default
    pub breaker_failures: u32,
    /// For how long they do, until one call tries again; 2 s by default
    pub breaker_pause: Duration,
    /// How the registry names itself to the store
    pub user_agent: Option<String>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            ca_file: None,
            danger_skip_verify: false,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            concurrency: 128,
            retries: 4,
            retry_timeout: Duration::from_secs(30),
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(2),
            user_agent: None,
        }
    }
}

type HyperClient = Client<HttpsConnector<TcpConnector>, HttpRequestBody>;

/// Makes object_store use our client
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: HyperClient,
    options: Arc<ConnectOptions>,
    user_agent: HeaderValue,
}

impl Connector {
    pub(super) fn new(options: &ConnectOptions) -> Result<Self, BucketError> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(options)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(https);
        let agent = options.user_agent.as_deref();
        let agent = agent.unwrap_or(concat!("registry-storage/", env!("CARGO_PKG_VERSION")));
        let user_agent = HeaderValue::from_str(agent).map_err(|_| BucketError::Option {
            name: "useragent",
            detail: format!(
                "expected visible ASCII characters, found `{}`",
                agent.escape_debug()
            ),
        })?;
        Ok(Self {
            client,
            options: Arc::new(options.clone()),
            user_agent,
        })
    }

    /// A service with limits of its own
    pub(super) fn service(&self) -> Transport {
        Transport {
            connector: self.clone(),
            calls: Arc::new(Semaphore::new(self.options.concurrency.max(1))),
            breaker: Arc::new(Breaker::new(
                self.options.breaker_failures,
                self.options.breaker_pause,
            )),
        }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.service()))
    }
}

/// One client's calls: so many at a time, in so much time, and none while the store is down
#[derive(Clone, Debug)]
pub(super) struct Transport {
    connector: Connector,
    calls: Arc<Semaphore>,
    breaker: Arc<Breaker>,
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let options = &self.connector.options;
        let length = request.body().content_length() as u64;
        let patience = options.read_timeout + Duration::from_secs(length / SLOWEST_UPLOAD);
        let headers = request.headers_mut();
        headers
            .entry(USER_AGENT)
            .or_insert_with(|| self.connector.user_agent.clone());
        // Until the answer begins: how long its bytes take is up to whoever reads them.
        let permit = self.calls.acquire().await;
        let trial = self
            .breaker
            .enter()
            .map_err(|open| HttpError::new(HttpErrorKind::Unknown, open))?;
        let answer = tokio::time::timeout(patience, self.connector.client.request(request)).await;
        drop(permit);
        let error = match answer {
            Ok(Ok(response)) => {
                trial.succeeded();
                let (parts, body) = response.into_parts();
                let body = ReadTimeout {
                    body,
                    limit: options.read_timeout,
                    deadline: Box::pin(tokio::time::sleep(options.read_timeout)),
                    waiting: false,
                };
                return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
            }
            Ok(Err(error)) if error.is_connect() => {
                HttpError::new(HttpErrorKind::Connect, Chain::of(&error))
            }
            Ok(Err(error)) => HttpError::new(HttpErrorKind::Interrupted, Chain::of(&error)),
            Err(_) => HttpError::new(HttpErrorKind::Timeout, Silence(patience)),
        };
        match error.kind() {
            HttpErrorKind::Connect | HttpErrorKind::Timeout => trial.failed(),
            _ => trial.succeeded(),
        }
        Err(error)
    }
}

/// A body that may keep silent only so long
struct ReadTimeout {
    body: Incoming,
    limit: Duration,
    deadline: Pin<Box<tokio::time::Sleep>>,
    /// Whether the deadline is that of a frame that is being waited for
    ///
    /// The time that the reader takes between two frames is not the store's.
    waiting: bool,
}

impl Body for ReadTimeout {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| {
                        HttpError::new(HttpErrorKind::Interrupted, Chain::of(&error))
                    })
                }))
            }
            Poll::Pending => {
                if !self.waiting {
                    let next = tokio::time::Instant::now() + self.limit;
                    self.deadline.as_mut().reset(next);
                    self.waiting = true;
                }
                let silence = HttpError::new(HttpErrorKind::Timeout, Silence(self.limit));
                let deadline = self.deadline.as_mut().poll(cx);
                deadline.map(|()| Some(Err(silence)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An error with all of its causes in one text, as hyper's own leaves out the one that counts
#[derive(Debug)]
struct Chain(String);

impl Chain {
    fn of(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Chain {}

#[derive(Debug, thiserror::Error)]
#[error("the object store has not answered within {} s", .0.as_secs())]
struct Silence(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the object store could not be reached lately, and is tried again soon")]
struct Open;

/// Lets calls fail at once while the store cannot be reached
///
/// After so many failures in a row it opens for a while; then one call at a time is let
/// through, until one gets an answer.
#[derive(Debug)]
struct Breaker {
    limit: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Until when nothing is let through
    until: Option<Instant>,
}

impl Breaker {
    fn new(limit: u32, pause: Duration) -> Self {
        Self {
            limit: limit.max(1),
            pause,
            state: Mutex::default(),
        }
    }

    fn enter(&self) -> Result<Trial<'_>, Open> {
        let mut state = self.lock();
        if let Some(until) = state.until {
            let now = Instant::now();
            if now < until {
                return Err(Open);
            }
            // The others wait for this one, or until it has taken too long.
            state.until = Some(now + self.pause);
        }
        Ok(Trial { breaker: self })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A state is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was let through
struct Trial<'a> {
    breaker: &'a Breaker,
}

impl Trial<'_> {
    fn succeeded(self) {
        let mut state = self.breaker.lock();
        if state.until.is_some() {
            tracing::info!("the object store answers again");
        }
        *state = State::default();
    }

    fn failed(self) {
        let mut state = self.breaker.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.breaker.limit {
            if state.until.is_none() {
                tracing::warn!("the object store cannot be reached; calls fail at once for now");
            }
            state.until = Some(Instant::now() + self.breaker.pause);
        }
    }
}

fn tls(options: &ConnectOptions) -> Result<ClientConfig, BucketError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        // The provider is the one that rustls is tested with, and has all of them.
        .expect("aws-lc-rs knows the default versions of TLS");
    if options.danger_skip_verify {
        let verifier = Arc::new(Anyone(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let Some(path) = &options.ca_file else {
        return Ok(builder
            .with_native_roots()
            .map_err(|source| BucketError::Certificates {
                path: None,
                source: source.into(),
            })?
            .with_no_client_auth());
    };
    let fail = |source: Box<dyn Error + Send + Sync>| BucketError::Certificates {
        path: Some(path.clone()),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.into()))? {
        let certificate = certificate.map_err(|error| fail(error.into()))?;
        roots.add(certificate).map_err(|error| fail(error.into()))?;
    }
    if roots.is_empty() {
        return Err(fail("expected at least one certificate, found none".into()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Takes everyone for whom they say they are
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_closes_with_one_answer() {
        let breaker = Breaker::new(3, Duration::from_millis(50));
        for _ in 0..2 {
            breaker.enter().unwrap().failed();
        }
        breaker.enter().unwrap().succeeded();
        for _ in 0..3 {
            breaker.enter().unwrap().failed();
        }
        assert!(breaker.enter().is_err());
        std::thread::sleep(Duration::from_millis(60));
        let trial = breaker.enter().unwrap();
        assert!(breaker.enter().is_err(), "one at a time");
        trial.failed();
        assert!(breaker.enter().is_err());
        std::thread::sleep(Duration::from_millis(60));
        breaker.enter().unwrap().succeeded();
        breaker.enter().unwrap().succeeded();
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let options = ConnectOptions {
            ca_file: Some(path),
            ..ConnectOptions::default()
        };
        let error = Connector::new(&options).unwrap_err().to_string();
        assert!(
            error.contains("ca.pem") && error.contains("expected"),
            "{error}"
        );
    }
}
