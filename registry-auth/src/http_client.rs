//! Requests over HTTP with bounds: so much time, so many bytes

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use tokio::time::Instant;

/// A pool of connections
///
/// No redirect is followed: what is asked, and with what credentials, is for one host alone.
#[derive(Clone)]
pub(crate) struct HttpClient {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// Trusts whom `tls` says, else, where `is_tls`, the authorities of the system, which are then
    /// read on this thread
    pub(crate) fn new(tls: Option<ClientConfig>, is_tls: bool) -> Result<Self, HttpSetupError> {
        let tls = match tls {
            Some(tls) => tls,
            None => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                let builder = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(HttpSetupError::Tls)?;
                match is_tls {
                    true => builder
                        .with_native_roots()
                        .map_err(HttpSetupError::Authorities)?,
                    false => builder.with_root_certificates(rustls::RootCertStore::empty()),
                }
                .with_no_client_auth()
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            // Of a connection that was closed before anything was sent on it.
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self { http })
    }

    /// The answer to a request, with a body of at most `limit` bytes, all of it before `until`
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
        until: Instant,
    ) -> Result<Response<Bytes>, HttpError> {
        let exchange =
            async {
                let response = self.http.request(request).await.map_err(|error| {
                    let cause = causes(&error);
                    match error.is_connect() {
                        true => HttpError::NotSent { cause },
                        false => HttpError::Broken { cause },
                    }
                })?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, limit).collect().await.map_err(|error| {
                    match error.is::<LengthLimitError>() {
                        true => HttpError::TooLarge { limit },
                        false => HttpError::Broken {
                            cause: causes(&*error),
                        },
                    }
                })?;
                Ok(Response::from_parts(head, body.to_bytes()))
            };
        tokio::time::timeout_at(until, exchange)
            .await
            .map_err(|_| HttpError::TimedOut)?
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

/// Why there can be no client
#[derive(Debug)]
pub(crate) enum HttpSetupError {
    /// The authorities that the system trusts cannot be read
    Authorities(std::io::Error),
    /// rustls refuses what was chosen
    Tls(rustls::Error),
}

/// Why there is no answer
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    /// The connection broke, perhaps after the request had arrived
    #[error("{cause}")]
    Broken { cause: String },
    /// There is no connection, so nothing of the request arrived
    #[error("{cause}")]
    NotSent { cause: String },
    /// The time was over
    #[error("no answer in time")]
    TimedOut,
    /// The body is larger than it may be
    #[error("it answered with more than {limit} bytes")]
    TooLarge { limit: usize },
}

/// A text of somebody else's on one line, without control characters, and not too long
pub(crate) fn one_line(text: &str) -> String {
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    let mut line = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > EXCERPT {
            break;
        }
    }
    match line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// An error and what caused it
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    one_line(&text)
}

/// For how long a connection is kept that nobody uses: less than servers keep theirs, of which
/// Node.js has the shortest time with five seconds
const IDLE: Duration = Duration::from_secs(4);

/// How much of another's text is kept, in characters
const EXCERPT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_cut_and_cleaned() {
        assert_eq!(one_line(" a\r\n\tb\u{1b}[31m c\0"), "a b [31m c");
        assert_eq!(one_line(&"é".repeat(500)).chars().count(), EXCERPT + 1);
        assert_eq!(one_line(&"x ".repeat(500)).chars().count(), EXCERPT + 1);
    }
}
