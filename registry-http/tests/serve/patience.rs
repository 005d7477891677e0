//! Clients that stop taking what they asked for: they do not keep their connection

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use registry_auth::{AllowAll, Anyone};
use registry_core::Digest;
use registry_http::{
    AccessControl, AccessRecord, Observer, ProxyService, RegistryService, ServeOptions, Stopped,
    Upstream, UpstreamOptions, serve,
};
use registry_storage::{Memory, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::within;

/// More than the buffers of a connection hold
const BLOB: usize = 48 << 20;

/// How long a client may take nothing here
const SHORT: Duration = Duration::from_millis(400);

#[derive(Default)]
struct Seen(Mutex<Vec<AccessRecord>>);

impl Observer for Seen {
    fn finished(&self, record: &AccessRecord) {
        if record.method == http::Method::GET {
            self.0.lock().unwrap().push(record.clone());
        }
    }
}

impl Seen {
    /// The next `GET` that is over
    async fn next(&self) -> AccessRecord {
        within(async {
            loop {
                if let Some(record) = self.0.lock().unwrap().pop() {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

/// A server that can be stopped, and what it saw
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Stopped>,
}

impl Server {
    async fn registry(options: ServeOptions) -> Self {
        let seen = Arc::new(Seen::default());
        let store = Store::new(Arc::new(Memory::new()));
        let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
            .observer(seen.clone())
            .build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(serve(listener, service, options, shutdown));
        Self {
            address,
            seen,
            stop,
            task,
        }
    }

    async fn proxy(upstream: SocketAddr, options: ServeOptions) -> Self {
        let seen = Arc::new(Seen::default());
        let upstream = Upstream::new(UpstreamOptions::new(format!("http://{upstream}"))).unwrap();
        let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll));
        let service = ProxyService::builder(upstream, access)
            .observer(seen.clone())
            .build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(serve(listener, service, options, shutdown));
        Self {
            address,
            seen,
            stop,
            task,
        }
    }

    /// Pushes a large blob; returns its path
    async fn push(&self) -> String {
        let bytes = Bytes::from(vec![7; BLOB]);
        let digest = Digest::sha256(&bytes);
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut send, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("/v2/app/blobs/uploads/?digest={digest}"))
            .header("Host", "registry.test")
            .body(Full::new(bytes))
            .unwrap();
        let response = within(send.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        format!("/v2/app/blobs/{digest}")
    }

    /// Nothing is left to wait for
    async fn stop(self) {
        self.stop.send(()).unwrap();
        assert_eq!(within(self.task).await.unwrap().aborted, 0);
    }
}

fn options() -> ServeOptions {
    ServeOptions::default().with_write_patience(SHORT)
}

/// Asks, takes a little and then nothing, until the server is done with it
async fn stop_in_the_middle(server: &Server, path: &str) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: registry.test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 1024];
    within(stream.read_exact(&mut head)).await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));

    let record = server.seen.next().await;
    assert!(!record.complete);
    assert!(record.bytes < BLOB as u64, "{}", record.bytes);
    assert!(record.elapsed >= SHORT, "{:?}", record.elapsed);
    // What is still on its way is not all.
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < BLOB, "{}", rest.len());
}

#[tokio::test]
async fn a_client_that_stops_reading_is_let_go() {
    let server = Server::registry(options()).await;
    let path = server.push().await;
    stop_in_the_middle(&server, &path).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_what_a_proxy_brings_is_let_go() {
    let registry = Server::registry(ServeOptions::default()).await;
    let path = registry.push().await;
    let proxy = Server::proxy(registry.address, options()).await;
    stop_in_the_middle(&proxy, &path).await;
    proxy.stop().await;
    // Nor does the proxy go on with its upstream.
    assert!(!registry.seen.next().await.complete);
    registry.stop().await;
}

#[tokio::test]
async fn a_client_of_http_2_that_leaves_an_answer_is_let_go() {
    let server = Server::registry(options()).await;
    let path = server.push().await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://registry.test{path}");
    let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    let response = within(send.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    // Its connection answers all that the server asks, only the body is not read.
    let record = server.seen.next().await;
    assert!(!record.complete);
    assert!(record.elapsed >= SHORT, "{:?}", record.elapsed);
    let ended = within(response.into_body().collect()).await;
    assert!(ended.is_err());
    let _ = within(connection).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_is_waited_for() {
    let server = Server::registry(options()).await;
    let path = server.push().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut part, mut got) = (vec![0; BLOB / 8], 0);
    // Longer than the server's patience in all, and never as long at once.
    loop {
        let mut filled = 0;
        while filled < part.len() {
            match within(stream.read(&mut part[filled..])).await.unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        got += filled;
        if filled < part.len() {
            break;
        }
        tokio::time::sleep(SHORT / 3).await;
    }
    assert!(got > BLOB, "{got}");
    let record = server.seen.next().await;
    assert!(record.complete && record.elapsed > SHORT);
    server.stop().await;
}
