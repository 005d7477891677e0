//! An accept loop: HTTP/1.0, 1.1 and 2 on one socket, and a stop that lets transfers finish

use std::any::{Any, TypeId};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use http::{Extensions, Request, Response, Version};
use http_body::Body;
use http_body_util::Either as Sent;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::body::ResponseBody;
use crate::listener::{Listener, Peer, Socket};
use crate::patience::{Answers, Patient};
use crate::sendfile::{Files, Sender, TakesFiles};
use crate::tls::{self, Handshake, Tls};

/// The longest pause of the accept loop when no connection can be accepted
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// How often at most it is said that there are too many connections
const FULL_NOTICE: Duration = Duration::from_secs(60);

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
    /// How long connections are still accepted after the shutdown has begun
    ///
    /// By default zero. A load balancer that asks whether this server is ready needs that time
    /// to learn that it is not any more, and to send its requests elsewhere.
    pub drain_delay: Duration,
    /// How long running requests may go on once no connection is accepted any more
    ///
    /// By default 30 s, which is what orchestrators wait before they kill.
    pub drain_timeout: Duration,
    /// How long a connection may take for the handshake of TLS
    ///
    /// By default 10 s, which is many round trips even over the worst link.
    pub handshake_timeout: Duration,
    /// How long a connection may take for the head of a request, and stay idle between two
    ///
    /// By default 60 s: longer than clients pause between the requests of one push, shorter
    /// than idle connections are worth keeping.
    pub header_timeout: Duration,
    /// Where HTTP/2 is spoken; by default everywhere
    pub http2: Http2,
    /// How many connections there may be at a time; by default as many as the system allows
    ///
    /// Those above it wait, unanswered, until one ends. Idle connections count, so that it
    /// should be well above the number of requests at a time.
    pub max_connections: Option<usize>,
    /// How long a client may take nothing of an answer
    ///
    /// By default 5 minutes, as long as it may send nothing in the middle of a body. Then its
    /// connection is closed, over HTTP/2 with all that is on it, and the answer is reported as not
    /// complete. What counts is what the system takes: of a very slow client, whose share of its
    /// buffers is not empty within that time, it looks like nothing.
    pub write_patience: Duration,
}

/// Where a server speaks HTTP/2 beside HTTP/1
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Http2 {
    /// Over TLS, and in clear text with clients that know it beforehand
    #[default]
    Everywhere,
    /// Nowhere
    Off,
    /// Only over TLS, where clients and servers agree on it
    OverTls,
}

impl Http2 {
    fn is_on(self, tls: bool) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Off => false,
            Self::OverTls => tls,
        }
    }
}

impl ServeOptions {
    /// Sets [`ServeOptions::drain_delay`]
    #[must_use]
    pub fn with_drain_delay(mut self, delay: Duration) -> Self {
        self.drain_delay = delay;
        self
    }

    /// Sets [`ServeOptions::drain_timeout`]
    #[must_use]
    pub fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets [`ServeOptions::handshake_timeout`]
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets [`ServeOptions::header_timeout`]
    #[must_use]
    pub fn with_header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// Sets [`ServeOptions::http2`]
    #[must_use]
    pub fn with_http2(mut self, http2: Http2) -> Self {
        self.http2 = http2;
        self
    }

    /// Sets [`ServeOptions::max_connections`]
    #[must_use]
    pub fn with_max_connections(mut self, max: usize) -> Self {
        self.max_connections = Some(max);
        self
    }

    /// Sets [`ServeOptions::write_patience`]
    #[must_use]
    pub fn with_write_patience(mut self, patience: Duration) -> Self {
        self.write_patience = patience;
        self
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            http2: Http2::default(),
            max_connections: None,
            write_patience: Duration::from_secs(5 * 60),
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
/// `service` is most often a [`RegistryService`](crate::RegistryService); anything that hyper
/// can serve will do. The extensions of each request say where it came from: [`RemoteAddr`] or
/// [`UnixPeer`], and over TLS also [`OverTls`] and perhaps a [`ClientCertificate`].
///
/// Once the shutdown begins, and [`ServeOptions::drain_delay`] after it, the socket is closed,
/// idle connections too, and connections with a request under way after it: a response of
/// HTTP/1 that has not begun says `Connection: close`, and clients with HTTP/2 are told to go
/// away. What is not done within [`ServeOptions::drain_timeout`] is cut off and counted; an
/// upload cut off resumes where its last durable byte is. Who answers the question whether this
/// server is ready should watch the same signal, so that the answer is no from the beginning.
///
/// An error to accept one connection never ends it: when file descriptors run out, it waits
/// until there are some again.
///
/// [`RemoteAddr`]: crate::RemoteAddr
/// [`UnixPeer`]: crate::listener::UnixPeer
/// [`OverTls`]: crate::tls::OverTls
/// [`ClientCertificate`]: crate::tls::ClientCertificate
pub async fn serve<S, B>(
    listener: impl Into<Listener>,
    service: S,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Stopped
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let listener = listener.into();
    let graceful = GracefulShutdown::new();
    // Dropped when the time has come to begin nothing new.
    let (open, closing) = watch::channel(());
    let acceptor = Acceptor {
        builder: Arc::new(builder(&options, listener.tls.is_some())),
        closing,
        options: options.clone(),
        service,
        tls: listener.tls.clone(),
    };
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(async {
        shutdown.await;
        tokio::time::sleep(options.drain_delay).await;
    });
    let mut backoff = Duration::ZERO;
    let mut noticed: Option<Instant> = None;
    loop {
        while connections.try_join_next().is_some() {}
        let is_full = options
            .max_connections
            .is_some_and(|max| connections.len() >= max);
        if is_full {
            if noticed.is_none_or(|noticed| noticed.elapsed() > FULL_NOTICE) {
                noticed = Some(Instant::now());
                tracing::warn!(
                    connections = connections.len(),
                    "there are as many connections as there may be; others wait until one ends"
                );
            }
            match select(shutdown.as_mut(), pin!(connections.join_next())).await {
                Either::Left(((), _)) => break,
                Either::Right(_) => continue,
            }
        }
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
        match accepted {
            Ok((socket, peer)) => {
                backoff = Duration::ZERO;
                connections.spawn(
                    acceptor
                        .clone()
                        .connection(socket, peer, graceful.watcher()),
                );
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
    drop(open);
    let drained = tokio::time::timeout(options.drain_timeout, graceful.shutdown()).await;
    while connections.try_join_next().is_some() {}
    let aborted = match drained {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    connections.shutdown().await;
    Stopped { aborted }
}

fn builder(options: &ServeOptions, tls: bool) -> auto::Builder<TokioExecutor> {
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
    match options.http2.is_on(tls) {
        true => builder,
        false => builder.http1_only(),
    }
}

/// What every connection needs
#[derive(Clone)]
struct Acceptor<S> {
    builder: Arc<auto::Builder<TokioExecutor>>,
    closing: watch::Receiver<()>,
    options: ServeOptions,
    service: S,
    tls: Option<Tls>,
}

impl<S, B> Acceptor<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    async fn connection(mut self, socket: Socket, peer: Peer, watcher: Watcher) {
        let mut extensions = Extensions::new();
        peer.describe(&mut extensions);
        let Some(tls) = self.tls.take() else {
            let files = Arc::new(Files::default());
            let io = Sender::new(socket, files.clone());
            return self.http(io, peer, extensions, Some(files), watcher).await;
        };
        let handshake = tls.accept(socket, self.options.http2.is_on(true));
        let handshake = tokio::time::timeout(self.options.handshake_timeout, handshake);
        let mut closing = self.closing.clone();
        // Nobody has asked for anything yet: nothing is lost when it ends here.
        let closed = pin!(closing.changed());
        let handshake = match select(closed, pin!(handshake)).await {
            Either::Left(_) => return,
            Either::Right((handshake, _)) => handshake,
        };
        match handshake {
            Ok(Ok(Handshake::Done(stream))) => {
                tls::describe(&stream, &mut extensions);
                self.http(*stream, peer, extensions, None, watcher).await;
            }
            Ok(Ok(Handshake::Over(what))) => tracing::debug!(%peer, "{what}"),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a client was too slow for the TLS handshake"),
        }
    }

    /// Answers the requests of one connection, which sends what is noted in `files`
    async fn http<I>(
        self,
        io: I,
        peer: Peer,
        extensions: Extensions,
        files: Option<Arc<Files>>,
        watcher: Watcher,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let header_timeout = self.options.header_timeout;
        let service = self.service;
        let asked = Arc::new(AtomicBool::new(false));
        let asks = asked.clone();
        let answers = Arc::new(Answers::default());
        let watched = answers.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            asks.store(true, Ordering::Relaxed);
            request.extensions_mut().extend(extensions.clone());
            // Over HTTP/1, what the client does not take is what cannot be written.
            let is_2 = request.version() == Version::HTTP_2;
            let watched = is_2.then(|| watched.clone());
            // A body of any other type has passed through hands that may look at the bytes.
            let is_ours = TypeId::of::<B>() == TypeId::of::<ResponseBody>();
            let files = files.clone().filter(|_| is_ours && !is_2);
            if files.is_some() {
                request.extensions_mut().insert(TakesFiles);
            }
            let answered = service.call(request);
            async move {
                let mut response = answered.await?;
                let body: &mut dyn Any = response.body_mut();
                if let Some(files) = &files
                    && let Some(body) = body.downcast_mut::<ResponseBody>()
                {
                    body.send_files(files);
                }
                Ok::<_, Infallible>(response.map(|body| match watched {
                    Some(watched) if !body.is_end_stream() => Sent::Right(watched.watch(body)),
                    _ => Sent::Left(body),
                }))
            }
        });
        let write_patience = self.options.write_patience;
        let io = TokioIo::new(Patient::new(io, write_patience));
        let connection = self.builder.serve_connection(io, service).into_owned();
        let connection = watcher.watch(connection);
        let overdue = answers.overdue(write_patience);
        let connection = async move {
            match select(pin!(connection), pin!(overdue)).await {
                Either::Left((result, _)) => result,
                Either::Right(((), _)) => {
                    Err("the client leaves an answer where it is for too long".into())
                }
            }
        };
        let mut connection = pin!(connection);
        // While the version of HTTP is not known yet, no timeout of either version runs.
        let result = match tokio::time::timeout(header_timeout, connection.as_mut()).await {
            Ok(result) => result,
            Err(_) if !asked.load(Ordering::Relaxed) => {
                tracing::debug!(%peer, "a client connected and asked nothing");
                return;
            }
            Err(_) => connection.await,
        };
        // Clients hang up all the time; the access log tells of requests that did not end.
        if let Err(error) = result {
            let error: &(dyn Error + 'static) = &*error;
            tracing::debug!(%peer, error, "a connection broke");
        }
    }
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
    use std::net::SocketAddr;
    use std::os::unix::fs::FileExt;
    use std::sync::Mutex;

    use futures::stream::{self, StreamExt};
    use registry_auth::{AllowAll, Anyone};
    use registry_storage::{FilePiece, Memory, Piece, Store};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::RegistryService;
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
    async fn files_are_sent_as_they_are_when_their_turn_comes() {
        let length = 32 << 20;
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(length).unwrap();
        let sent = file.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            assert!(request.extensions().get::<TakesFiles>().is_some());
            let piece = FilePiece::new(sent.clone(), 0, length as usize);
            let pieces = stream::iter([Ok(Piece::File(piece))]).boxed();
            let body = ResponseBody::pieces(length, pieces);
            async { Ok::<_, Infallible>(Response::new(body)) }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = ServeOptions::default();
        tokio::spawn(serve(listener, service, options, std::future::pending()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asked = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(asked).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n\0") {
            head.push(stream.read_u8().await.unwrap());
        }
        // Whoever has read the file before it sends the first byte does not see this.
        file.write_all_at(b"changed", length - 7).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len() as u64 + 1, length);
        assert!(rest.ends_with(b"\0changed"));
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
