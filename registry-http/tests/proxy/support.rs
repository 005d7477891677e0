//! A proxy in this process, and what stands behind it

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_auth::{Access, AuthenticateError, Credentials, Password, Principal};
use registry_http::{
    AccessControl, AccessRecord, Observer, ProxyService, ProxyServiceBuilder, RegistryService,
    ServeOptions, Upstream, UpstreamOptions, serve,
};
use registry_storage::{Memory, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Request;
use crate::content::{Blob, MANIFEST, image, pretty};
use crate::login::{Login, Rules, basic};

/// The proxy's password at its upstream, which must never show
pub(crate) const SECRET: &str = "upstream-secret";

/// Counts what reaches the upstream
#[derive(Default)]
pub(crate) struct Seen(Mutex<Vec<AccessRecord>>);

impl Observer for Seen {
    fn finished(&self, record: &AccessRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Seen {
    /// In which versions of HTTP they came since the last call
    pub(crate) fn versions(&self) -> Vec<http::Version> {
        let seen = std::mem::take(&mut *self.0.lock().unwrap());
        seen.iter().map(|record| record.version).collect()
    }

    /// What came since the last call: method and target
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
            .iter()
            .map(|record| format!("{} {}", record.method, record.uri))
            .collect()
    }
}

/// This crate's registry, which knows no one but the proxy
pub(crate) async fn registry() -> (SocketAddr, Arc<Seen>) {
    let login = Login::new(
        |_, _| "Basic realm=\"upstream\"".to_owned(),
        |credentials| match credentials {
            Credentials::Basic { user, password }
                if user == "proxy" && password.expose() == SECRET =>
            {
                Ok(Principal::user(user))
            }
            _ => Err(AuthenticateError::Rejected),
        },
    );
    let seen = Arc::new(Seen::default());
    let store = Store::new(Arc::new(Memory::new()));
    let service =
        RegistryService::builder(store, Arc::new(login), Arc::new(registry_auth::AllowAll))
            .observer(seen.clone())
            .build();
    (listen(service).await, seen)
}

pub(crate) async fn listen<S>(service: S) -> SocketAddr
where
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<registry_http::ResponseBody>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions::default();
    tokio::spawn(serve(listener, service, options, std::future::pending()));
    address
}

/// How the proxy asks its upstream, with little patience
pub(crate) fn options(upstream: SocketAddr) -> UpstreamOptions {
    UpstreamOptions::new(format!("http://{upstream}"))
        .with_credentials("proxy", Password::new(SECRET))
        .with_connect_timeout(Duration::from_secs(2))
        .with_answer_timeout(Duration::from_millis(700))
        .with_commit_timeout(Duration::from_millis(700))
        .with_idle_timeout(Duration::from_millis(700))
}

/// A proxy that serves on a port of its own until the test is over
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// Lets ada do everything
    pub(crate) async fn start(options: UpstreamOptions) -> Self {
        Self::with(options, |_, _| true, |builder| builder).await
    }

    pub(crate) async fn with(
        options: UpstreamOptions,
        rules: fn(&Principal, &Access) -> bool,
        configure: impl FnOnce(ProxyServiceBuilder) -> ProxyServiceBuilder,
    ) -> Self {
        let upstream = Upstream::new(options).unwrap();
        let access = AccessControl::new(Arc::new(Login::ada()), Arc::new(Rules(rules)));
        let builder = configure(ProxyService::builder(upstream, access));
        Self {
            address: listen(builder.build()).await,
        }
    }

    /// A request by ada
    pub(crate) fn ask(&self, method: &str, target: impl Into<String>) -> Request {
        self.anonymously(method, target)
            .header("Authorization", basic("ada", "love:lace"))
    }

    pub(crate) fn anonymously(&self, method: &str, target: impl Into<String>) -> Request {
        Request::new(self.address, method, target.into())
    }

    /// Pushes a blob in two requests
    pub(crate) async fn push_blob(&self, name: &str, blob: &Blob) {
        let begun = self.ask("POST", format!("/v2/{name}/blobs/uploads/"));
        let location = begun.body("").send().await.expect(202).location();
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={}", blob.digest);
        self.ask("PUT", target)
            .body(&blob.bytes)
            .send()
            .await
            .expect(201);
    }

    /// Pushes an image of one layer under a tag; returns the digest and the bytes of its manifest
    pub(crate) async fn push_image(
        &self,
        name: &str,
        tag: &str,
        layer: &Blob,
    ) -> (String, Vec<u8>) {
        let config = Blob::new(format!("{{\"tag\":\"{tag}\"}}"));
        self.push_blob(name, &config).await;
        self.push_blob(name, layer).await;
        let bytes = pretty(&image(&config, &[layer]));
        let target = format!("/v2/{name}/manifests/{tag}");
        let pushed = self
            .ask("PUT", target)
            .header("Content-Type", MANIFEST)
            .body(&bytes)
            .send()
            .await
            .expect(201);
        (pushed.header("Docker-Content-Digest").to_owned(), bytes)
    }
}

type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// A server that answers by a function of the request's head, and remembers the heads
#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scripted = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
        };
        let (heads, answer): (_, Arc<Answer>) = (scripted.heads.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, heads.clone(), answer.clone()));
            }
        });
        scripted
    }

    /// The heads of the requests so far
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The first lines of them, without the version
    pub(crate) fn lines(&self) -> Vec<String> {
        let heads = self.heads();
        let lines = heads.iter().filter_map(|head| head.lines().next());
        lines.map(|line| line.replace(" HTTP/1.1", "")).collect()
    }
}

async fn converse(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>, answer: Arc<Answer>) {
    let mut buffer = Vec::new();
    let end = loop {
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(count) => buffer.extend_from_slice(&part[..count]),
        }
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let length = head
        .lines()
        .filter_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .next()
        .unwrap_or(0);
    let mut got = buffer.len() - end;
    while got < length {
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(count) => got += count,
        }
    }
    heads.lock().unwrap().push(head.clone());
    let bytes = answer(&head);
    if bytes.is_empty() {
        // Says nothing, and stays.
        let _ = stream.read(&mut [0; 1]).await;
        return;
    }
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    // Whatever the other side still says is heard, so that it is not reset before it has read.
    while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
}

/// A response that ends its connection
pub(crate) fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}
