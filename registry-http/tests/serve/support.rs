//! A service that tells what it knows of a connection, a certificate authority, and a client

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Request, Response, Version};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use registry_http::{
    ClientCertificate, Listener, OverTls, RemoteAddr, ServeOptions, Stopped, Tls, TlsOptions,
    UnixPeer, serve,
};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here takes on the busiest machine
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Answers `/long` with what the test sends, and all else with what it knows of the connection
#[derive(Clone, Default)]
pub(crate) struct Probe {
    long: Arc<Mutex<Option<mpsc::UnboundedReceiver<Bytes>>>>,
}

impl Probe {
    /// The other end of the next `/long`, whose response begins with the first that is sent
    pub(crate) fn long(&self) -> mpsc::UnboundedSender<Bytes> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.long.lock().unwrap() = Some(receiver);
        sender
    }

    /// Waits until somebody has asked for `/long`
    pub(crate) async fn asked(&self) {
        within(async {
            while self.long.lock().unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Service<Request<Incoming>> for Probe {
    type Response = Response<BoxBody<Bytes, Infallible>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if request.uri().path() != "/long" {
            let body = Full::from(describe(&request)).boxed();
            return Box::pin(async { Ok(Response::new(body)) });
        }
        let mut parts = self.long.lock().unwrap().take().unwrap();
        Box::pin(async move {
            let mut first = parts.recv().await;
            let parts = futures::stream::poll_fn(move |cx| match first.take() {
                Some(part) => Poll::Ready(Some(part)),
                None => parts.poll_recv(cx),
            });
            let body = StreamBody::new(parts.map(|part| Ok(Frame::data(part))));
            Ok(Response::new(BodyExt::boxed(body)))
        })
    }
}

fn describe(request: &Request<Incoming>) -> String {
    let extensions = request.extensions();
    let mut text = format!("{:?}", request.version());
    if extensions.get::<RemoteAddr>().is_some() {
        text.push_str(" tcp");
    }
    if extensions.get::<UnixPeer>().is_some() {
        text.push_str(" unix");
    }
    if extensions.get::<OverTls>().is_some() {
        text.push_str(" tls");
    }
    if let Some(certificate) = extensions.get::<ClientCertificate>() {
        let name = certificate.common_name().unwrap();
        assert!(certificate.subject().contains(name));
        assert_eq!(certificate.chain().count(), 1);
        text.push_str(&format!(" {name}"));
    }
    text
}

/// A server of a [`Probe`]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) probe: Probe,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Stopped>,
}

impl Server {
    pub(crate) async fn start(tls: Option<Tls>, options: ServeOptions) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener::from(tcp);
        let listener = match tls {
            Some(tls) => listener.with_tls(tls),
            None => listener,
        };
        let probe = Probe::default();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(serve(listener, probe.clone(), options, shutdown));
        Self {
            address,
            probe,
            stop,
            task,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Tells it to stop; the answer comes when it has
    pub(crate) fn begin_stop(self) -> JoinHandle<Stopped> {
        self.stop.send(()).unwrap();
        self.task
    }

    pub(crate) async fn stop(self) -> Stopped {
        within(self.begin_stop()).await.unwrap()
    }
}

/// Fails a test that hangs
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it does not take that long")
}

/// A certificate with its key, in PEM
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Issued {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A certificate authority in a folder of its own, where certificates go, too
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self {
            issuer,
            folder: TempDir::new().unwrap(),
        };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn issue_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| ())
    }

    /// Puts a certificate for `localhost` where [`Authority::options`] says that one is
    pub(crate) fn install(&self, issued: &Issued) {
        self.write("tls.crt", &issued.certificate);
        self.write("tls.key", &issued.key);
    }

    /// With a new certificate for `localhost`
    pub(crate) fn options(&self) -> TlsOptions {
        self.install(&self.issue("localhost"));
        TlsOptions::files(self.path("tls.crt"), self.path("tls.key"))
    }

    pub(crate) fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Client {
            roots,
            identity: None,
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            versions: rustls::ALL_VERSIONS.to_vec(),
        }
    }
}

/// What a client of the server is
pub(crate) struct Client {
    roots: RootCertStore,
    identity: Option<Issued>,
    protocols: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Client {
    pub(crate) fn identity(mut self, issued: Issued) -> Self {
        self.identity = Some(issued);
        self
    }

    pub(crate) fn protocols(mut self, names: &[&str]) -> Self {
        self.protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    pub(crate) fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub(crate) async fn handshake<I>(&self, io: I) -> std::io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            Some(issued) => builder
                .with_client_auth_cert(issued.chain(), issued.private_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.clone();
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from("localhost").unwrap();
        within(TlsConnector::from(Arc::new(config)).connect(name, io)).await
    }

    /// What the server knows of a connection of this client, or why there is none
    pub(crate) async fn ask(&self, server: &Server) -> std::io::Result<String> {
        let stream = self.handshake(server.connect().await).await?;
        let response = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => get2(stream, "/").await,
            _ => get1(stream, "/").await,
        };
        // Over TLS 1.3 a client learns only here that its certificate was refused.
        let response = response.map_err(std::io::Error::other)?;
        Ok(text(response).await)
    }
}

/// A request over HTTP/1
pub(crate) async fn get1<I>(io: I, path: &str) -> hyper::Result<Response<Incoming>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .unwrap();
    within(sender.send_request(request)).await
}

/// A request over HTTP/2
pub(crate) async fn get2<I>(io: I, path: &str) -> hyper::Result<Response<Incoming>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    tokio::spawn(connection);
    let request = Request::get(format!("https://localhost{path}"))
        .version(Version::HTTP_2)
        .body(Empty::<Bytes>::new())
        .unwrap();
    within(sender.send_request(request)).await
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let bytes = within(response.collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}
