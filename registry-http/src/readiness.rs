//! Whether requests are wanted, for load balancers and for the requests themselves

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::{Response, StatusCode, header};

use crate::body::ResponseBody;
use crate::reply::Reply;
use crate::respond::RETRY_AFTER;

/// A health check fails
const FAILING: u8 = 1;

/// The process is about to end
const DRAINING: u8 = 2;

/// Whether a registry can and will serve, shared by its parts
///
/// All clones are one. A service made with it ([`Builder::readiness`]) answers, without
/// credentials and outside of `/v2/`:
///
/// - `GET /livez`: 200 as long as the process answers at all. Whoever restarts what hangs
///   asks here; a failing storage is no reason to restart.
/// - `GET /readyz`: 200 when requests are wanted, 503 while a health check fails and once
///   draining has begun. Load balancers ask here. Why it is 503 stays between the registry and
///   its operator.
///
/// While a health check fails, every other request is refused with 503 and a time to come
/// back, as distribution does, `GET /` too. Draining refuses nothing: whoever still comes is
/// served. A request pays one atomic load for all this.
///
/// [`Builder::readiness`]: crate::Builder::readiness
///
/// # Examples
///
/// ```
/// use registry_http::Readiness;
///
/// let readiness = Readiness::default();
/// assert!(readiness.is_ready());
/// readiness.drain();
/// assert!(!readiness.is_ready() && !readiness.is_failing());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    flags: Arc<AtomicU8>,
}

impl Readiness {
    /// Says that no more requests are wanted, for good
    ///
    /// The first step of a shutdown: load balancers need the time until their next probe to
    /// send requests elsewhere.
    pub fn drain(&self) {
        self.flags.fetch_or(DRAINING, Ordering::Relaxed);
    }

    /// Says whether a health check fails
    pub fn set_failing(&self, failing: bool) {
        if failing {
            self.flags.fetch_or(FAILING, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!FAILING, Ordering::Relaxed);
        }
    }

    /// Whether draining has begun
    pub fn is_draining(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & DRAINING != 0
    }

    /// Whether a health check fails
    pub fn is_failing(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & FAILING != 0
    }

    /// Whether requests are wanted: neither failing nor draining
    pub fn is_ready(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0
    }

    /// The answer to a probe, if `path` is one
    pub(crate) fn probe(&self, path: &str) -> Option<Response<ResponseBody>> {
        let ready = match path {
            "/livez" => true,
            "/readyz" => self.is_ready(),
            _ => return None,
        };
        let reply = if ready {
            Reply::new(StatusCode::OK)
        } else {
            Reply::new(StatusCode::SERVICE_UNAVAILABLE)
                .header(header::RETRY_AFTER, RETRY_AFTER.as_secs())
        };
        let text = if ready { "ok\n" } else { "not ready\n" };
        Some(
            reply
                .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
                // What was so a moment ago does not count.
                .header(header::CACHE_CONTROL, "no-store")
                .body(text),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Empty, Full};
    use hyper::service::Service;
    use registry_auth::{AllowAll, Anyone};
    use registry_storage::{Memory, Store};

    use super::*;
    use crate::access_log::{AccessRecord, Observer};
    use crate::service::RegistryService;

    #[derive(Default)]
    struct Events(Mutex<Vec<String>>);

    impl Observer for Events {
        fn started(&self, operation: &'static str) {
            self.0.lock().unwrap().push(format!("started {operation}"));
        }

        fn finished(&self, record: &AccessRecord) {
            self.0.lock().unwrap().push(format!(
                "{} {:?} {} {}",
                record.status.as_u16(),
                record.operation,
                record.received_bytes,
                record.bytes
            ));
        }
    }

    fn service(readiness: &Readiness) -> (RegistryService, Arc<Events>) {
        let events = Arc::new(Events::default());
        // Two of them, so that both learn.
        let observers: Vec<Arc<dyn Observer>> = vec![events.clone(), events.clone()];
        let store = Store::new(Arc::new(Memory::new()));
        let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
            .readiness(readiness.clone())
            .observer(Arc::new(observers))
            .build();
        (service, events)
    }

    async fn ask(service: &RegistryService, method: &str, path: &str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = Service::call(service, request).await.unwrap();
        let status = response.status().as_u16();
        if status == 503 {
            assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn requests_are_refused_while_a_check_fails_and_only_then() {
        let readiness = Readiness::default();
        let (service, _) = service(&readiness);
        for (failing, draining) in [(false, false), (true, false), (false, true), (true, true)] {
            readiness.set_failing(failing);
            if draining {
                readiness.drain();
            }
            let expected = if failing { 503 } else { 200 };
            for path in ["/", "/v2/", "/v2/_catalog"] {
                for method in ["GET", "HEAD"] {
                    let (status, body) = ask(&service, method, path).await;
                    assert_eq!(status, expected, "{method} {path} {failing} {draining}");
                    let coded = failing && method == "GET";
                    assert_eq!(body.contains("UNAVAILABLE"), coded, "{body}");
                }
            }
            let (status, _) = ask(&service, "POST", "/v2/a/blobs/uploads/").await;
            assert_eq!(status, if failing { 503 } else { 202 });
            assert_eq!(ask(&service, "GET", "/livez").await.0, 200);
            let ready = if failing || draining { 503 } else { 200 };
            assert_eq!(ask(&service, "GET", "/readyz").await.0, ready);
            assert_eq!(readiness.is_ready(), ready == 200);
        }
    }

    #[tokio::test]
    async fn observers_learn_what_begins_and_how_much_came() {
        let (service, events) = service(&Readiness::default());
        ask(&service, "GET", "/nowhere").await;
        ask(&service, "GET", "/readyz").await;
        events.0.lock().unwrap().clear();
        let request = Request::put("/v2/a/manifests/x")
            .header(header::CONTENT_TYPE, "text/plain")
            .body(Full::new(Bytes::from_static(b"none at all")))
            .unwrap();
        let response = Service::call(&service, request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let finished = format!("400 Some(\"put_manifest\") 11 {}", body.len());
        let started = "started put_manifest".to_owned();
        assert_eq!(
            *events.0.lock().unwrap(),
            [started.clone(), started, finished.clone(), finished]
        );
    }
}
