//! JSON over HTTP, as far as the services of the platform need it

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::facts::Query;
use crate::authenticator::Password;
use crate::http_client::{HttpClient, HttpError, HttpSetupError, one_line};
use crate::invocation::Invocation;
use crate::request;

/// Where a service of the platform is, and how it is asked
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_auth::Password;
/// use registry_auth::acumos::Endpoint;
///
/// let cds = Endpoint::new("http://cds-service:8000/ccds")?
///     .with_credentials("ccds_client", Password::new("correct horse"))?
///     .with_timeout(Duration::from_secs(2));
/// assert!(!format!("{cds:?}").contains("horse"));
/// # Ok::<(), registry_auth::acumos::EndpointError>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    base: String,
    is_tls: bool,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    limit: usize,
    tls: Option<ClientConfig>,
}

impl Endpoint {
    /// The service at this URL, to which the paths of its requests are added
    ///
    /// # Errors
    ///
    /// [`EndpointError::Url`] unless it is `http://` or `https://` with a host, without
    /// credentials and without a query.
    pub fn new(url: &str) -> Result<Self, EndpointError> {
        let uri: Uri = url.parse().map_err(|_| EndpointError::Url)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(EndpointError::Url),
        };
        let authority = uri.authority().ok_or(EndpointError::Url)?;
        if authority.host().is_empty()
            || authority.as_str().contains('@')
            || url.contains(['?', '#'])
        {
            return Err(EndpointError::Url);
        }
        Ok(Self {
            base: url.trim_end_matches('/').to_owned(),
            is_tls,
            authorization: None,
            timeout: TIMEOUT,
            limit: LIMIT,
            tls: None,
        })
    }

    /// Sets the account of this service there (RFC 7617); by default there is none
    ///
    /// # Errors
    ///
    /// [`EndpointError::User`] when the name has a colon, which would end it.
    pub fn with_credentials(
        mut self,
        user: &str,
        password: Password,
    ) -> Result<Self, EndpointError> {
        if user.contains(':') {
            return Err(EndpointError::User);
        }
        let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
        let mut header = HeaderValue::try_from(format!("Basic {pair}"))
            .expect("base64 is printable ASCII, which every header may have");
        header.set_sensitive(true);
        self.authorization = Some(header);
        Ok(self)
    }

    /// Sets how long a request may take with everything, its second attempt too
    ///
    /// By default five seconds: the services answer in milliseconds, and a client of the
    /// registry waits meanwhile.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many bytes an answer may have
    ///
    /// By default 16 MiB: some lists come unpaged, and users come with their pictures.
    #[must_use]
    pub fn with_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets whom an `https` service is trusted by; by default the authorities of the system
    #[must_use]
    pub fn with_tls(mut self, tls: ClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("base", &self.base)
            .field("has_credentials", &self.authorization.is_some())
            .field("timeout", &self.timeout)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// Why something is no endpoint
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The authorities that the system trusts cannot be read
    #[error(
        "cannot read which certificate authorities the system trusts: {0}; name a file of them"
    )]
    Authorities(std::io::Error),
    /// rustls refuses what was chosen
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
    /// It is no URL of a service; the text may have a password in it and is not repeated
    #[error(
        "expected a URL such as `http://cds-service:8000/ccds`, without user, password and query"
    )]
    Url,
    /// The user name has a colon
    #[error("expected a user name without `:`, which separates it from the password")]
    User,
}

impl From<HttpSetupError> for EndpointError {
    fn from(error: HttpSetupError) -> Self {
        match error {
            HttpSetupError::Authorities(error) => Self::Authorities(error),
            HttpSetupError::Tls(error) => Self::Tls(error),
        }
    }
}

/// Why a service gave no answer
///
/// For operators. None of it is for the users of the registry: what the services say gives away
/// who has an account. The text names no more than the service, the path and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// What came is not what the service is known to answer
    #[error("{service} answered `{path}` with something else than expected: {detail}")]
    Malformed {
        /// Which service
        service: &'static str,
        /// What was asked, without its query
        path: String,
        /// What is wrong with it
        detail: String,
    },
    /// The question is about the registry itself, of which the platform knows nothing
    #[error("the platform does not know {query}; that is for the registry to answer")]
    NotOfThePlatform {
        /// The question
        query: Query,
    },
    /// The service answered with a status that is no answer
    #[error("{service} answered `{path}` with status {status}; {}", hint(*.status))]
    Status {
        /// Which service
        service: &'static str,
        /// What was asked, without its query
        path: String,
        /// The status
        status: u16,
        /// When to ask again, if the service said so
        retry_after: Option<Duration>,
        /// The beginning of the answer, on one line; may name users, so it is in no text
        body: Box<str>,
    },
    /// The answer did not come in time
    #[error("{service} did not answer `{path}` within {} ms", .after.as_millis())]
    TimedOut {
        /// Which service
        service: &'static str,
        /// What was asked, without its query
        path: String,
        /// How long it was waited
        after: Duration,
    },
    /// The answer is larger than what is read
    #[error(
        "{service} answered `{path}` with more than {limit} {unit}; allow more, or look at what it sends"
    )]
    TooLarge {
        /// Which service
        service: &'static str,
        /// What was asked, without its query
        path: String,
        /// How much is read
        limit: usize,
        /// Of what
        unit: &'static str,
    },
    /// There is no connection to the service, or it broke
    #[error("{service} cannot be reached: {cause}")]
    Unreachable {
        /// Which service
        service: &'static str,
        /// What the network says
        cause: String,
    },
}

impl ServiceError {
    /// When to ask again: what the service says, else soon after what passes, and later after
    /// what an operator has to change
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Status {
                retry_after: Some(told),
                ..
            } => (*told).clamp(SOON, LATEST),
            Self::Status { status, .. } if *status >= 500 || *status == 429 => SOON,
            Self::TimedOut { .. } | Self::Unreachable { .. } => SOON,
            Self::Malformed { .. }
            | Self::NotOfThePlatform { .. }
            | Self::Status { .. }
            | Self::TooLarge { .. } => LATER,
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "check the user and password that the registry has there",
        404 => "check its URL",
        300..=399 => {
            "it sends somewhere else, which is not followed: use the URL of the service itself"
        }
        _ => "see its log",
    }
}

/// A connection to one service
#[derive(Clone)]
pub(super) struct Client {
    service: &'static str,
    endpoint: Arc<Endpoint>,
    http: HttpClient,
    request_id: Option<HeaderValue>,
}

impl Client {
    /// Reads the authorities that the system trusts on this thread, where they are needed
    pub(super) fn new(
        service: &'static str,
        mut endpoint: Endpoint,
    ) -> Result<Self, EndpointError> {
        let http = HttpClient::new(endpoint.tls.take(), endpoint.is_tls)?;
        Ok(Self {
            service,
            endpoint: Arc::new(endpoint),
            http,
            request_id: None,
        })
    }

    /// The same, sending this id with its requests; one that no header can carry is not sent
    pub(super) fn for_request(&self, id: &str) -> Self {
        Self {
            request_id: HeaderValue::try_from(id).ok(),
            ..self.clone()
        }
    }

    pub(super) async fn get(&self, path: &Path) -> Result<Reply, ServiceError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Sends JSON
    pub(super) async fn send_json(
        &self,
        method: Method,
        path: &Path,
        body: &serde_json::Value,
    ) -> Result<Reply, ServiceError> {
        self.send(method, path, body.to_string().into()).await
    }

    pub(super) fn service(&self) -> &'static str {
        self.service
    }

    /// Sends a request and says so to whoever keeps a log of what is asked of other services
    async fn send(&self, method: Method, path: &Path, body: Bytes) -> Result<Reply, ServiceError> {
        let invocation = Invocation::begin(self.service, format!("{method} {}", path.name()));
        let outcome = self.sent(method, path, body).await;
        match &outcome {
            Ok(reply) => invocation.answered(reply.status),
            Err(error) => invocation.failed(error),
        }
        outcome
    }

    async fn sent(&self, method: Method, path: &Path, body: Bytes) -> Result<Reply, ServiceError> {
        let until = Instant::now() + self.endpoint.timeout;
        match self.attempt(&method, path, body.clone(), until).await {
            Err(failure) if failure.again => self.attempt(&method, path, body, until).await,
            result => result,
        }
        .map_err(|failure| failure.error)
    }

    async fn attempt(
        &self,
        method: &Method,
        path: &Path,
        body: Bytes,
        until: Instant,
    ) -> Result<Reply, Failure> {
        // What only reads may be asked again, whatever became of the first time.
        let is_read = *method == Method::GET;
        let service = self.service;
        let unreachable = |cause: String| ServiceError::Unreachable { service, cause };
        let request = self
            .request(method, path, body)
            .map_err(|error| Failure::last(unreachable(error.to_string())))?;
        let sent = self.http.send(request, self.endpoint.limit, until).await;
        let response = sent.map_err(|error| match error {
            HttpError::NotSent { cause } => Failure {
                again: true,
                error: unreachable(cause),
            },
            HttpError::Broken { cause } => Failure {
                again: is_read,
                error: unreachable(cause),
            },
            HttpError::TimedOut => Failure::last(ServiceError::TimedOut {
                service,
                path: path.name().to_owned(),
                after: self.endpoint.timeout,
            }),
            HttpError::TooLarge { limit } => Failure::last(ServiceError::TooLarge {
                service,
                path: path.name().to_owned(),
                limit,
                unit: "bytes",
            }),
        })?;
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        Ok(Reply {
            service,
            path: path.name().to_owned(),
            status: response.status(),
            retry_after,
            body: response.into_body(),
        })
    }

    fn request(
        &self,
        method: &Method,
        path: &Path,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{}", self.endpoint.base, path.text))
            .header(ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json; charset=utf-8");
        }
        if let Some(authorization) = &self.endpoint.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let of_request = || HeaderValue::try_from(&*request::name()?).ok();
        if let Some(id) = self.request_id.clone().or_else(of_request) {
            // The platform's components do not agree on the name.
            request = request
                .header("X-ACUMOS-RequestID", id.clone())
                .header("X-ACUMOS-Request-Id", id);
        }
        request.body(Full::new(body))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &self.service)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Why an attempt failed, and whether another may be made
struct Failure {
    error: ServiceError,
    again: bool,
}

impl Failure {
    fn last(error: ServiceError) -> Self {
        Self {
            error,
            again: false,
        }
    }
}

/// What is asked of a service: path and query
#[derive(Clone, Debug)]
pub(super) struct Path {
    text: String,
    name: usize,
}

impl Path {
    /// From segments, of which each stays one whatever is in it
    pub(super) fn new(segments: &[&str]) -> Self {
        let mut text = String::new();
        for segment in segments {
            text.push('/');
            text.extend(utf8_percent_encode(segment, RESERVED));
        }
        let name = text.len();
        Self { text, name }
    }

    /// Adds a parameter to the query
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        let is_first = self.text.len() == self.name;
        self.text.push(if is_first { '?' } else { '&' });
        self.text.extend(utf8_percent_encode(name, RESERVED));
        self.text.push('=');
        self.text.extend(utf8_percent_encode(value, RESERVED));
        self
    }

    /// The path without the query
    pub(super) fn name(&self) -> &str {
        &self.text[..self.name]
    }
}

/// What came back
#[derive(Clone, Debug)]
pub(super) struct Reply {
    service: &'static str,
    path: String,
    pub(super) status: StatusCode,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Reply {
    /// Whether it says that there is nothing: CDS sends nothing at all with 200, or 400, or 404
    pub(super) fn is_absence(&self) -> bool {
        match self.status.as_u16() {
            200 => matches!(self.body.trim_ascii(), b"" | b"null"),
            204 | 400 | 404 => true,
            _ => false,
        }
    }

    /// What is in it
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ServiceError> {
        // What serde says quotes what was sent, which may be anything.
        serde_json::from_slice(&self.body).map_err(|error| {
            let detail = match error.is_data() {
                true => "its JSON has another shape",
                false => "it is no JSON",
            };
            self.malformed(format!(
                "{detail} (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    /// What is in it, when its status is 200
    pub(super) fn ok<T: DeserializeOwned>(&self) -> Result<T, ServiceError> {
        match self.status {
            StatusCode::OK => self.json(),
            _ => Err(self.unexpected()),
        }
    }

    pub(super) fn malformed(&self, detail: impl Into<String>) -> ServiceError {
        ServiceError::Malformed {
            service: self.service,
            path: self.path.clone(),
            detail: detail.into(),
        }
    }

    /// The status is no answer
    pub(super) fn unexpected(&self) -> ServiceError {
        ServiceError::Status {
            service: self.service,
            path: self.path.clone(),
            status: self.status.as_u16(),
            retry_after: self.retry_after,
            body: one_line(&String::from_utf8_lossy(&self.body)).into(),
        }
    }

    /// The same, where the answer may repeat a password
    pub(super) fn unexpected_about_secrets(&self) -> ServiceError {
        Self {
            body: Bytes::new(),
            ..self.clone()
        }
        .unexpected()
    }
}

/// What has a meaning in a path or query, and everything that may have
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The size of an answer
const LIMIT: usize = 16 * 1024 * 1024;

/// The time of an answer
const TIMEOUT: Duration = Duration::from_secs(5);

/// When to ask again after what passes
const SOON: Duration = Duration::from_secs(5);

/// When to ask again after what somebody has to change
const LATER: Duration = Duration::from_secs(30);

/// No service can put users off for longer
const LATEST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_services() {
        for good in ["http://h", "http://h:8000/ccds/", "https://[::1]:1/a/b"] {
            assert!(Endpoint::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "h",
            "h:8000/ccds",
            "/ccds",
            "ftp://h/",
            "http://u:hunter2@h/",
            "http://h/?a=b",
            "http://h/#a",
            "http:///ccds",
        ] {
            let error = Endpoint::new(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_users_choose_stays_one_segment_or_value() {
        let path = Path::new(&["user", "../a/b?c#d"]).with("n", "é&x=1 +%");
        assert_eq!(
            path.text,
            "/user/..%2Fa%2Fb%3Fc%23d?n=%C3%A9%26x%3D1%20%2B%25"
        );
        assert_eq!(path.name(), "/user/..%2Fa%2Fb%3Fc%23d");
    }

    #[test]
    fn no_service_puts_users_off_for_hours() {
        let status = |status, told| ServiceError::Status {
            service: "CDS",
            path: "/".to_owned(),
            status,
            retry_after: told,
            body: "".into(),
        };
        for (error, expected) in [
            (status(503, Some(Duration::from_secs(86_400))), LATEST),
            (status(503, Some(Duration::ZERO)), SOON),
            (
                status(503, Some(Duration::from_secs(60))),
                Duration::from_secs(60),
            ),
            (status(500, None), SOON),
            (status(401, None), LATER),
        ] {
            assert_eq!(error.retry_after(), expected, "{error}");
        }
    }
}
