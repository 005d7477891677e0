//! The debug server: metrics, health and variables, for operators only
//!
//! What it says is not for everyone: it belongs on an address that only operators reach.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use hyper::service::Service;
use serde_json::{Map, Value, json};

use crate::health::Health;
use crate::metrics::{Metrics, ProcessNumbers, TextFormat};

/// The service behind `http.debug.addr`
///
/// Cheap to clone; all clones are one.
///
/// | path | method | answer |
/// |---|---|---|
/// | `/` | GET | what there is, in plain text |
/// | `/metrics`, or where [`DebugService::with_metrics`] says | GET | Prometheus' or OpenMetrics' text |
/// | `/debug/health` | GET | the checks that fail, as JSON: `{}` with 200, or with 503 |
/// | `/debug/health/down`, `/debug/health/up` | POST | takes the registry out of service, and back |
/// | `/debug/vars` | GET | variables as JSON, where distribution has them |
/// | `/livez` | GET | 200 |
/// | `/readyz` | GET | 200, or 503 with the reasons |
///
/// Where there is GET there is HEAD.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use http::Request;
/// use hyper::service::Service;
/// use registry_examples::debug::DebugService;
/// use registry_examples::health::{Health, HealthOptions};
/// use registry_examples::metrics::Metrics;
/// use registry_http::Readiness;
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let store = Store::new(Arc::new(Memory::new()));
/// let readiness = Readiness::default();
/// let health = Health::start(HealthOptions::default(), &store, "inmemory", readiness, None);
/// let service = DebugService::new(health.unwrap())
///     .with_metrics("/metrics", Arc::new(Metrics::new("inmemory")));
///
/// let request = Request::get("/metrics").body(()).unwrap();
/// assert_eq!(service.call(request).await.unwrap().status(), 200);
/// # }
/// ```
#[derive(Clone)]
pub struct DebugService {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    health: Health,
    metrics: Option<(String, Arc<Metrics>)>,
    notifications: Option<Notifications>,
    storage: Option<String>,
}

type Notifications = Arc<dyn Fn() -> Value + Send + Sync>;

/// Why a request is not answered with what it asks for
enum Refusal {
    /// A callback panicked; the panic hook has said where
    Broken,
    NotFound,
    /// With the methods that are allowed
    Method(&'static str),
}

impl DebugService {
    /// A debug service without metrics and notifications
    pub fn new(health: Health) -> Self {
        Self {
            inner: Arc::new(Inner {
                health,
                metrics: None,
                notifications: None,
                storage: None,
            }),
        }
    }

    /// Shows `metrics` under `path`; a slash at the front is added where there is none
    #[must_use]
    pub fn with_metrics(mut self, path: &str, metrics: Arc<Metrics>) -> Self {
        let path = format!("/{}", path.trim_start_matches('/'));
        Arc::make_mut(&mut self.inner).metrics = Some((path, metrics));
        self
    }

    /// Says in `/readyz`, when all is well, what the storage can do
    #[must_use]
    pub fn with_storage(mut self, capabilities: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.inner).storage = Some(capabilities.into());
        self
    }

    /// Shows what `notifications` gives as `registry.notifications` in `/debug/vars`
    ///
    /// Asked on a thread that may block; it must leave secrets out.
    #[must_use]
    pub fn with_notifications(
        mut self,
        notifications: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.inner).notifications = Some(Arc::new(notifications));
        self
    }
}

impl fmt::Debug for DebugService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugService")
            .field("health", &self.inner.health)
            .finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for DebugService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let (parts, _) = request.into_parts();
        let inner = self.inner.clone();
        Box::pin(async move {
            let head = parts.method == Method::HEAD;
            // Metrics and variables read `/proc` and ask callbacks; requests to the registry
            // must not wait behind that.
            let answer = tokio::task::spawn_blocking(move || inner.answer(&parts)).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(_) => Err(Refusal::Broken),
            };
            let mut response = answer.unwrap_or_else(Refusal::respond);
            let length = response.body().size_hint().exact().unwrap_or_default();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, length.into());
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if head {
                *response.body_mut() = Full::default();
            }
            Ok(response)
        })
    }
}

impl Inner {
    fn answer(&self, parts: &http::request::Parts) -> Result<Response<Full<Bytes>>, Refusal> {
        let path = parts.uri.path();
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let get = || match reads {
            true => Ok(()),
            false => Err(Refusal::Method("GET, HEAD")),
        };
        if let Some((at, metrics)) = &self.metrics
            && path == at
        {
            get()?;
            let accept = parts.headers.get(header::ACCEPT);
            let format = TextFormat::negotiate(accept.and_then(|accept| accept.to_str().ok()));
            let mut response = text(StatusCode::OK, metrics.encode(format));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static(format.content_type()),
            );
            return Ok(response);
        }
        match path {
            "/" => {
                get()?;
                Ok(text(StatusCode::OK, self.index()))
            }
            "/livez" => {
                get()?;
                Ok(text(StatusCode::OK, "ok\n".to_owned()))
            }
            "/readyz" => {
                get()?;
                Ok(self.ready())
            }
            "/debug/health" => {
                get()?;
                let failures = self.health.failures();
                let status = match failures.is_empty() {
                    true => StatusCode::OK,
                    false => StatusCode::SERVICE_UNAVAILABLE,
                };
                Ok(json_text(status, &json!(failures)))
            }
            "/debug/health/down" | "/debug/health/up" => {
                if parts.method != Method::POST {
                    return Err(Refusal::Method("POST"));
                }
                match path.ends_with("down") {
                    true => self.health.down(),
                    false => self.health.up(),
                }
                Ok(text(StatusCode::OK, String::new()))
            }
            "/debug/vars" => {
                get()?;
                Ok(json_text(StatusCode::OK, &self.variables()))
            }
            _ => Err(Refusal::NotFound),
        }
    }

    fn index(&self) -> String {
        let mut paths = vec![
            ("/debug/health", "health checks that fail"),
            ("/debug/vars", "variables"),
            ("/livez", "whether this process answers"),
            ("/readyz", "whether requests are wanted"),
        ];
        if let Some((path, _)) = &self.metrics {
            paths.push((path, "metrics for Prometheus"));
        }
        let mut index = format!("registry {}\n\n", env!("CARGO_PKG_VERSION"));
        for (path, what) in paths {
            index.push_str(&format!("{path:<16} {what}\n"));
        }
        index
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let readiness = self.health.readiness();
        if readiness.is_ready() {
            let storage = self.storage.as_ref().map(|can| format!("storage: {can}\n"));
            return text(
                StatusCode::OK,
                format!("ok\n{}", storage.unwrap_or_default()),
            );
        }
        let mut reasons = String::from("not ready\n");
        if readiness.is_draining() {
            reasons.push_str("draining: the registry is about to stop\n");
        }
        for (check, reason) in self.health.failures() {
            reasons.push_str(&format!("{check}: {reason}\n"));
        }
        text(StatusCode::SERVICE_UNAVAILABLE, reasons)
    }

    /// The variables; those of a Go runtime are left out, but for the memory in use
    fn variables(&self) -> Value {
        let mut registry = Map::new();
        if let Some(notifications) = &self.notifications {
            registry.insert("notifications".to_owned(), notifications());
        }
        let mut variables = Map::new();
        // Secrets are read from files and the environment, never from arguments.
        variables.insert(
            "cmdline".to_owned(),
            std::env::args_os()
                .map(|argument| argument.to_string_lossy().into_owned())
                .collect(),
        );
        if let Some(numbers) = ProcessNumbers::read() {
            variables.insert(
                "memstats".to_owned(),
                json!({ "Sys": numbers.resident_bytes }),
            );
        }
        variables.insert("registry".to_owned(), registry.into());
        variables.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        variables.into()
    }
}

impl Refusal {
    fn respond(self) -> Response<Full<Bytes>> {
        match self {
            Self::Broken => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "this could not be found out; the registry's log says why\n".to_owned(),
            ),
            Self::NotFound => text(
                StatusCode::NOT_FOUND,
                "not found; `/` says what there is\n".to_owned(),
            ),
            Self::Method(allowed) => {
                let mut response = text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    format!("method not allowed; expected {allowed}\n"),
                );
                response
                    .headers_mut()
                    .insert(header::ALLOW, HeaderValue::from_static(allowed));
                response
            }
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text)
}

fn json_text(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    typed(status, "application/json; charset=utf-8", value.to_string())
}

fn typed(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http_body_util::BodyExt;
    use registry_http::Readiness;
    use registry_storage::{Memory, Store};

    use super::*;
    use crate::health::HealthOptions;

    fn service() -> DebugService {
        let store = Store::new(Arc::new(Memory::new()));
        let options = HealthOptions::default();
        let health = Health::start(options, &store, "inmemory", Readiness::default(), None);
        DebugService::new(health.unwrap())
    }

    async fn ask(service: &DebugService, method: &str, path: &str) -> (u16, HeaderMap, String) {
        let request = Request::builder().method(method).uri(path);
        let response = service.call(request.body(()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.into()).unwrap();
        (parts.status.as_u16(), parts.headers, body)
    }

    #[tokio::test]
    async fn each_path_has_its_methods() {
        let service = service().with_metrics("own", Arc::new(Metrics::new("inmemory")));
        for path in [
            "/",
            "/own",
            "/debug/health",
            "/debug/vars",
            "/livez",
            "/readyz",
        ] {
            let (status, headers, body) = ask(&service, "GET", path).await;
            assert_eq!(status, 200, "{path}");
            // What changes with every look may have another length.
            if !matches!(path, "/own" | "/debug/vars") {
                assert_eq!(headers[header::CONTENT_LENGTH], *body.len().to_string());
            }
            let (status, head, empty) = ask(&service, "HEAD", path).await;
            assert_eq!((status, &*empty), (200, ""), "{path}");
            assert_eq!(head[header::CONTENT_TYPE], headers[header::CONTENT_TYPE]);
            assert_ne!(head[header::CONTENT_LENGTH], "0");
            let (status, headers, body) = ask(&service, "DELETE", path).await;
            assert_eq!(
                (status, &headers[header::ALLOW]),
                (405, &HeaderValue::from_static("GET, HEAD"))
            );
            assert!(body.contains("GET, HEAD"), "{body}");
        }
        for path in ["/debug/health/up", "/debug/health/down"] {
            let (status, headers, _) = ask(&service, "GET", path).await;
            assert_eq!(
                (status, &headers[header::ALLOW]),
                (405, &HeaderValue::from_static("POST"))
            );
        }
        for path in [
            "/metrics",
            "/v2/",
            "/debug",
            "/debug/health/",
            "/debug/pprof/",
        ] {
            assert_eq!(ask(&service, "GET", path).await.0, 404, "{path}");
        }
        let (_, _, index) = ask(&service, "GET", "/").await;
        assert!(
            index.contains("/own") && !index.contains("/metrics"),
            "{index}"
        );
    }

    #[tokio::test]
    async fn down_and_up_by_hand() {
        let service = service();
        assert_eq!(ask(&service, "GET", "/debug/health").await.2, "{}");
        assert_eq!(ask(&service, "POST", "/debug/health/down").await.0, 200);
        let (status, headers, body) = ask(&service, "GET", "/debug/health").await;
        assert_eq!(status, 503);
        assert_eq!(
            headers[header::CONTENT_TYPE],
            "application/json; charset=utf-8"
        );
        let failures: Value = serde_json::from_str(&body).unwrap();
        assert!(failures["manual_http_status"].is_string(), "{body}");
        let (status, _, body) = ask(&service, "GET", "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("manual_http_status: "), "{body}");
        assert_eq!(ask(&service, "GET", "/livez").await.0, 200);
        assert_eq!(ask(&service, "POST", "/debug/health/up").await.0, 200);
        assert_eq!(ask(&service, "GET", "/debug/health").await.0, 200);
        assert_eq!(ask(&service, "GET", "/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn draining_is_no_failure_but_not_ready() {
        let service = service();
        service.inner.health.readiness().drain();
        let (status, _, body) = ask(&service, "GET", "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("draining"), "{body}");
        assert_eq!(ask(&service, "GET", "/debug/health").await.0, 200);
    }

    #[tokio::test]
    async fn variables_have_the_notifications_where_distribution_has_them() {
        let notifications =
            json!({ "endpoints": [{ "name": "hook", "Metrics": { "Pending": 3 } }] });
        let shown = notifications.clone();
        let service = service().with_notifications(move || shown.clone());
        let (_, headers, body) = ask(&service, "GET", "/debug/vars").await;
        assert_eq!(
            headers[header::CONTENT_TYPE],
            "application/json; charset=utf-8"
        );
        let variables: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(variables["registry"]["notifications"], notifications);
        assert!(variables["cmdline"].is_array());
    }

    #[tokio::test]
    async fn a_callback_that_panics_takes_nothing_else_down() {
        let service = service().with_notifications(|| panic!("as the test wants"));
        assert_eq!(ask(&service, "GET", "/debug/vars").await.0, 500);
        assert_eq!(ask(&service, "GET", "/livez").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_is_asked_for() {
        let service = service().with_metrics("/metrics", Arc::new(Metrics::new("inmemory")));
        for (accept, expected, end) in [
            (
                "application/openmetrics-text",
                "application/openmetrics-text",
                true,
            ),
            ("text/plain", "text/plain", false),
        ] {
            let request = Request::get("/metrics").header(header::ACCEPT, accept);
            let response = service.call(request.body(()).unwrap()).await.unwrap();
            let found = response.headers()[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .to_owned();
            assert!(found.starts_with(expected), "{found}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.ends_with(b"# EOF\n"), end);
        }
    }
}
