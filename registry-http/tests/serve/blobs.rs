//! Blobs that are sent from their files, over all that a connection can be

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use registry_auth::{AllowAll, Anyone};
use registry_core::Digest;
use registry_http::{BodyError, Listener, RegistryService, ServeOptions, Tls, serve};
use registry_storage::{FileSystem, Store};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::{Authority, get1, get2, within};

/// No part of it is like another, and it is longer than several pieces
fn content() -> Vec<u8> {
    numbers(700_000)
}

fn numbers(count: u32) -> Vec<u8> {
    (0..count)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

struct Registry {
    folder: TempDir,
    service: RegistryService,
    path: String,
}

impl Registry {
    async fn start() -> Self {
        Self::with(content()).await
    }

    async fn with(content: Vec<u8>) -> Self {
        let folder = TempDir::new().unwrap();
        let driver = FileSystem::open(folder.path()).unwrap();
        let store = Store::new(Arc::new(driver));
        let builder = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll));
        let service = builder.build();
        let digest = Digest::sha256(&content);
        let push = Request::post(format!("/v2/a/blobs/uploads/?digest={digest}"))
            .body(Full::from(content))
            .unwrap();
        let pushed = service.call(push).await.unwrap();
        assert_eq!(pushed.status(), StatusCode::CREATED);
        Self {
            folder,
            service,
            path: format!("/v2/a/blobs/{digest}"),
        }
    }

    /// The file with the blob
    fn file(&self) -> std::path::PathBuf {
        let (_, hex) = self.path.split_once("sha256:").unwrap();
        let root = self.folder.path().join("docker/registry/v2/blobs/sha256");
        root.join(&hex[..2]).join(hex).join("data")
    }
}

async fn served<S, B>(service: S, tls: Option<Tls>) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static,
{
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = match tls {
        Some(tls) => Listener::from(tcp).with_tls(tls),
        None => Listener::from(tcp),
    };
    let options = ServeOptions::default();
    tokio::spawn(serve(listener, service, options, std::future::pending()));
    address
}

/// The head and the content of the next response
async fn response(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let (_, length) = head.split_once("content-length: ").unwrap();
    let length = length.lines().next().unwrap().parse().unwrap();
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await.unwrap();
    (head, content)
}

#[tokio::test]
async fn many_answers_of_one_connection_each_have_their_own_bytes() {
    let registry = Registry::start().await;
    let address = served(registry.service.clone(), None).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let path = &registry.path;
    // Asked all at once, so that answers are behind each other in one buffer.
    let asked = [
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"),
        "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nrange: bytes=1000000-2000000\r\n\r\n"),
        "OPTIONS /v2/ HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nrange: bytes=5-9\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nrange: bytes=1-70000,2000000-2700000\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"),
    ];
    stream.write_all(asked.concat().as_bytes()).await.unwrap();
    let content = content();
    within(async {
        let (head, got) = response(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(got == content);
        assert_eq!(response(&mut stream).await.1, b"{}");
        let (head, got) = response(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert!(got == content[1_000_000..=2_000_000]);
        response(&mut stream).await;
        assert_eq!(response(&mut stream).await.1, &content[5..=9]);
        let (_, parts) = response(&mut stream).await;
        let has = |wanted: &[u8]| parts.windows(wanted.len()).any(|part| part == wanted);
        assert!(has(&content[1..=70_000]) && has(&content[2_000_000..=2_700_000]));
        assert!(response(&mut stream).await.1 == content);
    })
    .await;
}

#[tokio::test]
async fn over_tls_and_http2_the_bytes_are_the_same() {
    let registry = Registry::start().await;
    let content = content();
    let clear = served(registry.service.clone(), None).await;
    let stream = TcpStream::connect(clear).await.unwrap();
    let got = get2(stream, &registry.path).await.unwrap();
    assert!(got.collect().await.unwrap().to_bytes() == content);

    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let secure = served(registry.service.clone(), Some(tls)).await;
    let stream = TcpStream::connect(secure).await.unwrap();
    let client = authority.client().protocols(&["http/1.1"]);
    let stream = client.handshake(stream).await.unwrap();
    let got = get1(stream, &registry.path).await.unwrap();
    assert!(got.collect().await.unwrap().to_bytes() == content);
}

#[tokio::test]
async fn over_a_unix_socket_the_bytes_are_the_same() {
    let registry = Registry::start().await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("socket");
    let listener = Listener::unix(&path).unwrap();
    let (service, options) = (registry.service.clone(), ServeOptions::default());
    tokio::spawn(serve(listener, service, options, std::future::pending()));
    let stream = UnixStream::connect(&path).await.unwrap();
    let got = get1(stream, &registry.path).await.unwrap();
    assert!(got.collect().await.unwrap().to_bytes() == content());
}

/// A registry with somebody between it and the connection, who takes bodies for bytes
#[derive(Clone)]
struct Between(RegistryService);

impl Service<Request<Incoming>> for Between {
    type Response = Response<UnsyncBoxBody<Bytes, BodyError>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answered = Service::call(&self.0, request);
        Box::pin(async {
            let (mut parts, body) = answered.await?.into_parts();
            let inverted = body.map_frame(|frame| {
                frame.map_data(|bytes| bytes.iter().map(|byte| !byte).collect::<Bytes>())
            });
            parts.headers.insert("x-between", "1".parse().unwrap());
            Ok(Response::from_parts(parts, inverted.boxed_unsync()))
        })
    }
}

#[tokio::test]
async fn whoever_is_between_sees_the_bytes() {
    let registry = Registry::start().await;
    let address = served(Between(registry.service.clone()), None).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let got = get1(stream, &registry.path).await.unwrap();
    let inverted: Vec<u8> = content().iter().map(|byte| !byte).collect();
    assert!(got.collect().await.unwrap().to_bytes() == inverted);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_sent_ends_the_connection() {
    // More than the system takes of it before the client does.
    let content = numbers(12_000_000);
    let registry = Registry::with(content.clone()).await;
    let address = served(registry.service.clone(), None).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let asked = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", registry.path);
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.unwrap();
    let file = std::fs::File::options().write(true).open(registry.file());
    file.unwrap().set_len(1_000).unwrap();
    let mut rest = Vec::new();
    // Closed or reset: an error as good as an end.
    let _ = within(stream.read_to_end(&mut rest)).await;
    let head = rest.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
    let got = &rest[head + 4..];
    assert!(!got.is_empty() && got.len() < content.len());
    // Of a page that was on its way, the system sends what has become of it.
    let mut pairs = got.iter().zip(&content);
    assert!(pairs.all(|(got, was)| got == was || *got == 0));
}
