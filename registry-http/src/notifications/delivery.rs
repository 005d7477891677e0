//! Delivery: one endpoint's events, one envelope after the other

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use registry_core::event::EVENTS_MEDIA_TYPE;
use rustls::ClientConfig;

use super::endpoint::Endpoint;
use super::outbox::Outbox;

/// The most events in one envelope
const BATCH_EVENTS: usize = 64;

/// The most bytes in one envelope, unless one event alone has more
const BATCH_BYTES: usize = 256 * 1024;

/// How long the connection to an endpoint is kept while there is nothing to say
const IDLE: Duration = Duration::from_secs(30);

/// How much of an answer is read so that its connection can be used again
const ANSWER: usize = 64 * 1024;

/// For how long it is read, while the next events wait
const ANSWER_PATIENCE: Duration = Duration::from_millis(100);

/// The first pause after a failure; it doubles up to the endpoint's backoff
const FIRST_PAUSE: Duration = Duration::from_millis(10);

const USER_AGENT: &str = concat!("registry/", env!("CARGO_PKG_VERSION"));

/// Sends one endpoint what it is to get, for as long as it is polled
///
/// One event goes alone. While more wait, as many as went before are sent twice over in one
/// envelope, up to [`BATCH_EVENTS`]; after a failure again one alone, so that an event that the
/// endpoint does not like keeps no others back longer than it must.
///
/// After a failure there is a short pause, longer each time; after as many as the endpoint's
/// threshold, one of its backoff before each further attempt.
pub(super) struct Delivery {
    endpoint: Arc<Endpoint>,
    outbox: Arc<Outbox>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why an attempt did not deliver
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    /// It says that it is elsewhere
    #[error("it answered {0} and redirects, which is not followed: set its url to where it leads")]
    Redirect(StatusCode),
    #[error("it answered {0}")]
    Refused(StatusCode),
    /// No answer. The request's URL is not repeated.
    #[error("it could not be asked")]
    Sending(#[source] hyper_util::client::legacy::Error),
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
}

impl Delivery {
    pub(super) fn new(endpoint: Arc<Endpoint>, outbox: Arc<Outbox>, tls: ClientConfig) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Self {
            endpoint,
            outbox,
            client,
        }
    }

    pub(super) async fn run(self) {
        let name = self.endpoint.name();
        let wake = self.outbox.wake(name);
        let mut size = 1;
        let mut failures: u32 = 0;
        loop {
            let (events, last) = match self.outbox.next(name, size, BATCH_BYTES).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(
                        endpoint = name,
                        error = &error as &dyn std::error::Error,
                        "events cannot be read back from the outbox; trying again"
                    );
                    tokio::time::sleep(self.endpoint.backoff()).await;
                    continue;
                }
            };
            if events.is_empty() {
                wake.notified().await;
                continue;
            }
            match self.send(&events).await {
                Ok(()) => {
                    self.outbox.acknowledge(name, last);
                    if failures > 0 {
                        tracing::info!(
                            endpoint = name,
                            failures,
                            "a notification endpoint takes events again"
                        );
                    }
                    failures = 0;
                    // Twice as many are asked for as went; there may not be as many.
                    size = (events.len() * 2).min(BATCH_EVENTS);
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    size = 1;
                    self.report(failures, &error);
                    tokio::time::sleep(self.pause(failures)).await;
                }
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        if failures >= self.endpoint.threshold() {
            return self.endpoint.backoff();
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.endpoint.backoff())
    }

    /// The first failure is news, and that it lasts; the rest is for those who look closely
    fn report(&self, failures: u32, error: &AttemptError) {
        let name = self.endpoint.name();
        let url = self.endpoint.shown_url();
        let pending = self.outbox.pending(name);
        let error = error as &dyn std::error::Error;
        if failures == self.endpoint.threshold() {
            tracing::error!(endpoint = name, url, failures, pending, error, backoff = ?self.endpoint.backoff(), "a notification endpoint fails again and again, backing off");
        } else if failures == 1 {
            tracing::warn!(
                endpoint = name,
                url,
                pending,
                error,
                "a notification endpoint did not take an event, trying again"
            );
        } else {
            tracing::debug!(
                endpoint = name,
                url,
                failures,
                pending,
                error,
                "a notification endpoint still fails"
            );
        }
    }

    async fn send(&self, events: &[Vec<u8>]) -> Result<(), AttemptError> {
        let count = events.len() as u64;
        let counters = self.outbox.counters(self.endpoint.name());
        let timeout = self.endpoint.timeout();
        let response = match tokio::time::timeout(timeout, self.post(events)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                counters.unanswered(count);
                return Err(AttemptError::Sending(error));
            }
            Err(_) => {
                counters.unanswered(count);
                return Err(AttemptError::Timeout(timeout));
            }
        };
        let status = response.status();
        let result = verdict(status);
        counters.answered(status, result.is_ok(), count);
        // The verdict is in. What still comes is only read so that the connection can be kept.
        let rest = Limited::new(response.into_body(), ANSWER).collect();
        let _ = tokio::time::timeout(ANSWER_PATIENCE, rest).await;
        result
    }

    async fn post(
        &self,
        events: &[Vec<u8>],
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut request = Request::post(self.endpoint.url().clone())
            .body(Full::new(envelope(events)))
            .unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(EVENTS_MEDIA_TYPE),
        );
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        // Those of the configuration take the place of ours.
        headers.extend(self.endpoint.headers().clone());
        self.client.request(request).await
    }
}

/// What a status means
///
/// As in distribution 2xx and 3xx are a yes. Redirects are not followed, so those that say that
/// the request was not handled here are a no: a yes would lose the events.
fn verdict(status: StatusCode) -> Result<(), AttemptError> {
    match status {
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => Err(AttemptError::Redirect(status)),
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(AttemptError::Refused(status)),
    }
}

/// Makes an envelope of events that are JSON already
fn envelope(events: &[Vec<u8>]) -> Bytes {
    let size: usize = events.iter().map(|event| event.len() + 1).sum();
    let mut bytes = Vec::with_capacity(size + 16);
    bytes.extend_from_slice(b"{\"events\":[");
    bytes.extend_from_slice(&events.join(&b','));
    bytes.extend_from_slice(b"]}");
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_json() {
        let value = |events: &[Vec<u8>]| -> serde_json::Value {
            serde_json::from_slice(&envelope(events)).unwrap()
        };
        let (one, two) = (b"{\"id\":\"1\"}".to_vec(), b"{\"id\":\"2\"}".to_vec());
        assert_eq!(
            value(&[one.clone(), two]),
            serde_json::json!({"events": [{"id": "1"}, {"id": "2"}]})
        );
        assert_eq!(value(&[one]), serde_json::json!({"events": [{"id": "1"}]}));
    }

    #[test]
    fn a_status_is_a_yes_or_a_no() {
        let yes: Vec<u16> = (200..600)
            .filter(|status| verdict(StatusCode::from_u16(*status).unwrap()).is_ok())
            .collect();
        let expected: Vec<u16> = (200..400)
            .filter(|status| ![301, 302, 307, 308].contains(status))
            .collect();
        assert_eq!(yes, expected);
    }
}
