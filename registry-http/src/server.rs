//! An accept loop: HTTP/1.0, 1.1 and 2 in clear text on one port, and a graceful stop

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::service::RegistryService;

/// The longest pause of the accept loop when no connection can be accepted
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Where a request came from
///
/// [`serve`] adds it to the extensions of each request; other servers do well to do the same,
/// or the access log has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteAddr(pub SocketAddr);

/// How [`serve`] treats connections
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_http::ServeOptions;
///
/// let options = ServeOptions::default().with_drain_timeout(Duration::from_secs(120));
/// assert_eq!(options.drain_timeout, Duration::from_secs(120));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// How long running requests may go on after the shutdown has begun
    ///
    /// By default 30 s, which is what orchestrators wait before they kill.
    pub drain_timeout: Duration,
    /// How long a connection may take for the head of a request, and stay idle between two
    ///
    /// By default 60 s: longer than clients pause between the requests of one push, shorter
    /// than idle connections are worth keeping.
    pub header_timeout: Duration,
}

impl ServeOptions {
    /// Sets [`ServeOptions::drain_timeout`]
    #[must_use]
    pub fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets [`ServeOptions::header_timeout`]
    #[must_use]
    pub fn with_header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(60),
        }
    }
}

/// How serving ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// How many connections were cut off because they did not finish in time
    pub aborted: usize,
}

/// Serves until `shutdown` is ready, then lets running requests finish
///
/// Once the shutdown begins the port is closed, idle connections too, and connections with a
/// request under way after it. What is not done within [`ServeOptions::drain_timeout`] is cut
/// off and counted; an upload cut off resumes where its last durable byte is.
///
/// An error to accept one connection never ends it: when file descriptors run out, it waits
/// until there are some again.
pub async fn serve(
    listener: TcpListener,
    service: RegistryService,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Stopped {
    let graceful = GracefulShutdown::new();
    let builder = Arc::new(builder(&options));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut backoff = Duration::ZERO;
    loop {
        let accepted = async {
            if !backoff.is_zero() {
                tokio::time::sleep(backoff).await;
            }
            listener.accept().await
        };
        let accepted = match select(shutdown.as_mut(), pin!(accepted)).await {
            Either::Left(((), _)) => break,
            Either::Right((accepted, _)) => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, address)) => {
                backoff = Duration::ZERO;
                connections.spawn(connection(
                    stream,
                    address,
                    service.clone(),
                    builder.clone(),
                    graceful.watcher(),
                    options.header_timeout,
                ));
            }
            Err(error) if is_of_the_connection(&error) => {
                tracing::debug!(%error, "a client hung up before it was accepted");
            }
            Err(error) => {
                backoff = (backoff * 2).clamp(Duration::from_millis(10), MAX_BACKOFF);
                tracing::error!(%error, "no connection can be accepted; trying again");
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(options.drain_timeout, graceful.shutdown()).await;
    while connections.try_join_next().is_some() {}
    let aborted = match drained {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    connections.shutdown().await;
    Stopped { aborted }
}

fn builder(options: &ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // HTTP/1 takes request heads of 400 KiB and targets of 64 KiB by itself.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        // Room for targets with many tags, and for large tokens.
        .max_header_list_size(96 * 1024)
        // Finds clients that are gone without a word; HTTP/1 finds them by its timeouts.
        .keep_alive_interval(options.header_timeout);
    builder
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    service: RegistryService,
    builder: Arc<auto::Builder<TokioExecutor>>,
    watcher: Watcher,
    header_timeout: Duration,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "small responses may be delayed");
    }
    let asked = Arc::new(AtomicBool::new(false));
    let asks = asked.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        asks.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(RemoteAddr(address));
        service.call(request)
    });
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    let mut connection = pin!(watcher.watch(connection));
    // While the version of HTTP is not known yet, no timeout of either version runs.
    let result = match tokio::time::timeout(header_timeout, connection.as_mut()).await {
        Ok(result) => result,
        Err(_) if !asked.load(Ordering::Relaxed) => {
            tracing::debug!(%address, "a client connected and asked nothing");
            return;
        }
        Err(_) => connection.await,
    };
    if let Err(error) = result {
        log_broken(address, &error);
    }
}

/// Clients hang up all the time; the access log tells of requests that did not end
fn log_broken(address: SocketAddr, error: &impl Display) {
    tracing::debug!(%address, %error, "a connection broke");
}

/// Whether only the connection that was to be accepted is at fault
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use registry_auth::{AllowAll, Anyone};
    use registry_storage::{Memory, Store};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::access_log::{AccessRecord, Observer};

    #[derive(Default)]
    struct Addresses(Mutex<Vec<Option<std::net::IpAddr>>>);

    impl Observer for Addresses {
        fn finished(&self, record: &AccessRecord) {
            self.0.lock().unwrap().push(record.remote);
        }
    }

    struct Server {
        address: SocketAddr,
        addresses: Arc<Addresses>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<Stopped>,
    }

    impl Server {
        async fn start(options: ServeOptions) -> Self {
            let addresses = Arc::new(Addresses::default());
            let store = Store::new(Arc::new(Memory::new()));
            let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
                .observer(addresses.clone())
                .build();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel();
            let shutdown = async { stopped.await.unwrap_or_default() };
            Self {
                address,
                addresses,
                stop,
                task: tokio::spawn(serve(listener, service, options, shutdown)),
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn stop(self) -> Stopped {
            self.stop.send(()).unwrap();
            self.task.await.unwrap()
        }
    }

    async fn read(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn http_1_0_without_a_host_is_answered() {
        let server = Server::start(ServeOptions::default()).await;
        let mut stream = server.connect().await;
        stream
            .write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let response = read(&mut stream).await;
        assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
        assert!(response.contains("content-length: 2\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n{}"), "{response}");
        let addresses = server.addresses.clone();
        assert_eq!(server.stop().await.aborted, 0);
        assert_eq!(
            *addresses.0.lock().unwrap(),
            [Some(std::net::Ipv4Addr::LOCALHOST.into())]
        );
    }

    #[tokio::test]
    async fn a_large_target_is_taken() {
        let server = Server::start(ServeOptions::default()).await;
        let mut stream = server.connect().await;
        let target = format!("/v2/?x={}", "a".repeat(32 * 1024));
        stream
            .write_all(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(read(&mut stream).await.starts_with("HTTP/1.0 200"));
    }

    #[tokio::test]
    async fn an_early_refusal_is_readable_behind_a_body() {
        let server = Server::start(ServeOptions::default()).await;
        let mut stream = server.connect().await;
        let length = 8 << 20;
        stream
            .write_all(
                format!("PUT /v2/A/manifests/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
                    .as_bytes(),
            )
            .await
            .unwrap();
        // The client writes all before it reads.
        stream.write_all(&vec![b' '; length]).await.unwrap();
        let response = read(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(response.contains("NAME_INVALID"), "{response}");
    }

    #[tokio::test]
    async fn a_client_that_waits_is_refused_before_it_sends() {
        let server = Server::start(ServeOptions::default()).await;
        let mut stream = server.connect().await;
        stream
            .write_all(b"PUT /v2/A/manifests/x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
            .await
            .unwrap();
        let response = read(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    }

    #[tokio::test]
    async fn silent_connections_are_closed() {
        let options = ServeOptions::default().with_header_timeout(Duration::from_millis(50));
        let server = Server::start(options).await;
        for sent in [&b""[..], b"PRI * HT", b"GET /v2/ HTTP/1.1\r\nhost"] {
            let mut stream = server.connect().await;
            stream.write_all(sent).await.unwrap();
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest);
            tokio::time::timeout(Duration::from_secs(10), ended)
                .await
                .expect("the connection is closed")
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_stop_waits_for_requests_and_cuts_off_the_rest() {
        let options = ServeOptions::default().with_drain_timeout(Duration::from_millis(200));
        let server = Server::start(options).await;
        let mut idle = server.connect().await;
        idle.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut head = [0; 15];
        idle.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        let mut busy = server.connect().await;
        busy.write_all(b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
            .await
            .unwrap();
        // Only when the server waits for the body does it say so.
        let mut head = [0; 21];
        busy.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 100 Continue");
        let address = server.address;
        assert_eq!(server.stop().await.aborted, 1);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
