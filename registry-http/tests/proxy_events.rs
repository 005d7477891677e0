//! What a proxy tells the log of each request, of which nothing is a secret
//!
//! Alone in its process: which places of the code are logged from is decided for all threads,
//! and tests that run beside this one would have a say in it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::service::Service;
use registry_auth::{AllowAll, Anyone, Password};
use registry_http::{
    AccessControl, ProxyService, RegistryService, RemoteAddr, ServeOptions, Upstream,
    UpstreamOptions, serve,
};
use registry_storage::{Memory, Store};
use tokio::net::TcpListener;
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

impl Log {
    /// The lines since the last call
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// The value of a field, as it is written
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=");
    let rest = line.split_once(&start).unwrap_or_else(|| {
        panic!("`{name}` is missing in `{line}`");
    });
    match rest.1.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap(),
        None => rest.1.split([' ', '}']).next().unwrap(),
    }
}

async fn registry() -> SocketAddr {
    let store = Store::new(Arc::new(Memory::new()));
    let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions::default();
    tokio::spawn(serve(listener, service, options, std::future::pending()));
    address
}

fn proxy(upstream: SocketAddr) -> ProxyService {
    let options = UpstreamOptions::new(format!("http://{upstream}"))
        .with_credentials("proxy", Password::new("upstream-secret"));
    let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll));
    ProxyService::builder(Upstream::new(options).unwrap(), access).build()
}

async fn ask(proxy: &ProxyService, method: &str, target: &str) -> StatusCode {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("X-Request-ID", "r-1")
        .header("User-Agent", "docker/29")
        .header("Authorization", "Basic YWRhOmNsaWVudC1zZWNyZXQ=")
        .extension(RemoteAddr(([127, 0, 0, 1], 40000).into()))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = proxy.call(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn each_request_is_told_from_its_beginning_to_its_end() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut all = Vec::new();

    let proxied = proxy(registry().await);
    let target = "/v2/app/tags/list?n=5&secret=query-secret";
    // The first one finds out how to log in.
    ask(&proxied, "GET", target).await;
    all.extend(log.take());
    assert_eq!(ask(&proxied, "GET", target).await, StatusCode::NOT_FOUND);
    let lines = log.take();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("registry::request:") || line.contains("registry::invoke:"))
        .collect();
    let markers: Vec<_> = told.iter().map(|line| field(line, "marker")).collect();
    assert_eq!(markers, ["ENTRY", "INVOKE", "INVOKE_RETURN", "EXIT"]);
    for line in &told {
        assert!(line.contains(" INFO "), "{line}");
        assert_eq!(field(line, "id"), "r-1");
        assert_eq!(field(line, "client"), "127.0.0.1");
        assert_eq!(field(line, "agent"), "docker/29");
        // Of the span first, then of the event.
        assert_eq!(field(line, "service"), "GET /v2/app/tags/list");
    }
    let (invoke, returned, exit) = (told[1], told[2], told[3]);
    let event = |line: &str| line.split("registry::invoke:").nth(1).unwrap().to_owned();
    for line in [invoke, returned] {
        let event = event(line);
        assert_eq!(field(&event, "entity"), "upstream");
        assert_eq!(field(&event, "service"), "GET /v2/app/tags/list");
    }
    let invocation = field(invoke, "invocation");
    assert_eq!(invocation.len(), 36, "{invocation}");
    assert_eq!(field(returned, "invocation"), invocation);
    assert_eq!(field(returned, "code"), "404");
    field(returned, "elapsed_ms").parse::<u64>().unwrap();
    assert!(!returned.contains("error="), "{returned}");
    assert_eq!(field(exit, "code"), "404");
    field(exit, "elapsed_ms").parse::<u64>().unwrap();
    assert!(field(exit, "bytes").parse::<u64>().unwrap() > 0, "{exit}");
    all.extend(lines);

    // Where nobody listens any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let target = "/v2/app/manifests/v1?secret=query-secret";
    let status = ask(&proxy(address), "GET", target).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let lines = log.take();
    let returned = lines
        .iter()
        .find(|line| line.contains("INVOKE_RETURN"))
        .unwrap();
    assert!(returned.contains(" WARN "), "{returned}");
    assert_eq!(field(returned, "code"), "0");
    assert!(field(returned, "error").contains("refused"), "{returned}");
    let exit = lines.iter().find(|line| line.contains("EXIT")).unwrap();
    assert_eq!(field(exit, "code"), "502");
    all.extend(lines);

    for secret in [
        "query-secret",
        "upstream-secret",
        "client-secret",
        // The same in base64.
        "cHJveHk6dXBzdHJlYW0tc2VjcmV0",
        "YWRhOmNsaWVudC1zZWNyZXQ",
    ] {
        let found = all.iter().find(|line| line.contains(secret));
        assert_eq!(found, None, "{secret}");
    }
}
