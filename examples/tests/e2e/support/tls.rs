//! A certificate authority of the tests' own, and a client that trusts it

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::http::{self, Response};

/// A certificate authority
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate
    pub(crate) pem: String,
}

/// A certificate with its key
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// An authority that nobody knows yet
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "end-to-end tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for a server on this machine, each time with another key
    pub(crate) fn server(&self) -> Identity {
        // `registry.test` is what docker is made to know.
        let names = ["localhost", "127.0.0.1", "::1", "registry.test"].map(str::to_owned);
        self.issue(CertificateParams::new(names).expect("names"))
    }

    /// A certificate for a client
    pub(crate) fn client(&self, name: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Identity {
    /// The certificate as it is sent
    pub(crate) fn sent(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }
}

/// A connection over TLS
pub(crate) type Connection = StreamOwned<ClientConnection, TcpStream>;

/// A client that verifies who answers
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// A client that trusts one authority
    pub(crate) fn trusting(authority: &Authority) -> Self {
        Self::with(authority, None, rustls::ALL_VERSIONS)
    }

    /// A client that shows a certificate when it is asked for one
    pub(crate) fn showing(authority: &Authority, identity: &Identity) -> Self {
        Self::with(authority, Some(identity), rustls::ALL_VERSIONS)
    }

    /// A client that speaks these versions only
    pub(crate) fn speaking(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        Self::with(authority, None, versions)
    }

    fn with(
        authority: &Authority,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let trusted = CertificateDer::from_pem_slice(authority.pem.as_bytes());
        roots.add(trusted.expect("a certificate")).expect("trusted");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
                config
                    .with_client_auth_cert(vec![identity.sent()], key)
                    .expect("a certificate with its key")
            }
        };
        Self {
            config: Arc::new(config),
        }
    }

    /// The same, offering these protocols
    pub(crate) fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect();
        Self {
            config: Arc::new(config),
        }
    }

    /// Connects to `127.0.0.1:<port>` and shakes hands
    pub(crate) fn connect(&self, address: &str) -> io::Result<Connection> {
        self.over(http::open(address)?)
    }

    /// Shakes hands over a connection that is there
    pub(crate) fn over(&self, mut stream: TcpStream) -> io::Result<Connection> {
        let host = stream.peer_addr()?.ip();
        let name = ServerName::IpAddress(host.into());
        let mut tls = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(tls, stream))
    }

    /// Which certificate is shown to a new connection
    pub(crate) fn shown(&self, address: &str) -> io::Result<CertificateDer<'static>> {
        let connection = self.connect(address)?;
        let certificates = connection.conn.peer_certificates();
        let first = certificates.and_then(|certificates| certificates.first());
        first
            .map(|certificate| certificate.clone().into_owned())
            .ok_or_else(|| io::Error::other("no certificate"))
    }

    /// Sends a request with a whole body
    pub(crate) fn send(
        &self,
        address: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        http::send_over(self.connect(address)?, address, method, path, headers, body)
    }
}
