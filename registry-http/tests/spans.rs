//! What is logged in the course of a request names the request
//!
//! Alone in its process: which places of the code are logged from is decided for all threads,
//! and tests that run beside this one would have a say in it.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use registry_auth::{AllowAll, Anyone};
use registry_http::RegistryService;
use registry_storage::{Key, Memory, Objects, Store};
use tracing_subscriber::filter::LevelFilter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_line_of_the_log_names_the_request() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let driver = Arc::new(Memory::new());
    let root = "docker/registry/v2/repositories/a";
    let hex = "0".repeat(64);
    for link in [
        format!("{root}/_manifests/tags/v1/current/link"),
        format!("{root}/_layers/sha256/{hex}/link"),
    ] {
        let link = Key::parse(&link).unwrap();
        driver.write(&link, "no digest".into()).await.unwrap();
    }
    let service =
        RegistryService::builder(Store::new(driver), Arc::new(Anyone), Arc::new(AllowAll)).build();

    // Logged by the one that asks, and in the task of one that changes something.
    let mount = format!("/v2/b/blobs/uploads/?mount=sha256:{hex}&from=a");
    for (id, method, target, status, message) in [
        (
            "reads",
            "GET",
            "/v2/a/manifests/v1",
            StatusCode::INTERNAL_SERVER_ERROR,
            "a request failed",
        ),
        (
            "mounts",
            "POST",
            &*mount,
            StatusCode::ACCEPTED,
            "a mount failed, the client has to upload",
        ),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("X-Request-ID", id)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = hyper::service::Service::call(&service, request).await;
        assert_eq!(response.unwrap().status(), status);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = text.lines().find(|line| line.contains(message));
        let line = line.unwrap_or_else(|| panic!("`{message}` is not in {text}"));
        assert!(line.contains(&format!("request{{id={id}}}")), "{line}");
    }
}
