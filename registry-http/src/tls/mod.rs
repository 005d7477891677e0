//! TLS: who the server is, who clients must be, and how that changes without a restart
//!
//! [`Tls`] is what a [`Listener`](crate::Listener) speaks. [`Tls::reload`] reads the files
//! again: connections that are open go on with what they began with, new ones get what is in
//! the files now. Files with an error in them change nothing.

mod files;
mod handshake;
mod parameters;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use self::files::{Identity, client_roots};
pub use self::files::{TlsError, TlsFile, TlsWarning};
pub(crate) use self::handshake::{Handshake, describe};
pub use self::parameters::{CipherSuite, ClientAuth, TlsParameterError, TlsVersion};

/// What TLS is made of
///
/// # Examples
///
/// ```
/// use registry_http::tls::{ClientAuth, TlsOptions, TlsVersion};
///
/// let options = TlsOptions::files("/etc/registry/tls.crt", "/etc/registry/tls.key")
///     .with_minimum_version(TlsVersion::Tls13)
///     .with_client_auth(ClientAuth::Require, ["/etc/registry/clients.pem"]);
/// assert_eq!(options.client_cas.len(), 1);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TlsOptions {
    /// Where the server's certificate comes from
    pub certificate: CertificateSource,
    /// The oldest version that is spoken; by default TLS 1.2
    pub minimum_version: TlsVersion,
    /// The cipher suites that are spoken; by default, which is when it is empty, all that
    /// rustls takes for safe
    ///
    /// As in Go, a list without suites of TLS 1.3 says nothing about that version.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether clients show certificates; by default not
    pub client_auth: ClientAuth,
    /// Files with the authorities that sign clients' certificates
    pub client_cas: Vec<PathBuf>,
    /// What answers a handshake that offers only the protocol `acme-tls/1` (RFC 8737)
    ///
    /// Nothing else is said on such a connection. By default it is refused.
    pub challenge: Option<Arc<ServerConfig>>,
}

/// Where the server's certificate comes from
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CertificateSource {
    /// From two PEM files
    Files {
        /// The certificate, and behind it those that lead to an authority
        certificate: PathBuf,
        /// Its private key
        key: PathBuf,
    },
    /// From something that knows it at each handshake
    Resolver(Arc<dyn ResolvesServerCert>),
}

impl TlsOptions {
    /// With a certificate and its key from PEM files
    pub fn files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(CertificateSource::Files {
            certificate: certificate.into(),
            key: key.into(),
        })
    }

    /// With a certificate that `resolver` knows at each handshake
    pub fn resolver(resolver: Arc<dyn ResolvesServerCert>) -> Self {
        Self::new(CertificateSource::Resolver(resolver))
    }

    /// Sets [`TlsOptions::minimum_version`]
    #[must_use]
    pub fn with_minimum_version(mut self, version: TlsVersion) -> Self {
        self.minimum_version = version;
        self
    }

    /// Sets [`TlsOptions::cipher_suites`]
    #[must_use]
    pub fn with_cipher_suites(mut self, suites: impl IntoIterator<Item = CipherSuite>) -> Self {
        self.cipher_suites = suites.into_iter().collect();
        self
    }

    /// Sets [`TlsOptions::client_auth`] and [`TlsOptions::client_cas`]
    #[must_use]
    pub fn with_client_auth(
        mut self,
        auth: ClientAuth,
        cas: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> Self {
        self.client_auth = auth;
        self.client_cas = cas.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`TlsOptions::challenge`]
    #[must_use]
    pub fn with_challenge(mut self, challenge: Arc<ServerConfig>) -> Self {
        self.challenge = Some(challenge);
        self
    }

    fn new(certificate: CertificateSource) -> Self {
        Self {
            certificate,
            minimum_version: TlsVersion::default(),
            cipher_suites: Vec::new(),
            client_auth: ClientAuth::default(),
            client_cas: Vec::new(),
            challenge: None,
        }
    }
}

/// TLS as a listener speaks it, whose certificates can be replaced while it serves
///
/// Cheap to clone; all clones are the same, so that one of them stays with whoever reloads.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    options: TlsOptions,
    loaded: ArcSwap<Loaded>,
    /// Held while files are read, so that what is read last is in force last
    reloading: Mutex<()>,
}

/// What was read, and what rustls made of it
struct Loaded {
    identity: Option<Identity>,
    client_roots: Option<Arc<RootCertStore>>,
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files that `options` name
    ///
    /// # Errors
    ///
    /// [`TlsError`] says which file cannot be used and why.
    pub fn open(options: TlsOptions) -> Result<Self, TlsError> {
        let loaded = Loaded::load(&options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                loaded: ArcSwap::from_pointee(loaded),
                reloading: Mutex::default(),
            }),
        })
    }

    /// Reads the files again, and lets new connections have what is in them now
    ///
    /// Open connections stay as they are. Sessions that began before cannot be resumed after,
    /// so that a client whose authority was taken away is not let in by one. It blocks while it
    /// reads.
    ///
    /// # Errors
    ///
    /// [`TlsReloadError`] when a file cannot be used; what was loaded before stays in force.
    pub fn reload(&self) -> Result<Reloaded, TlsReloadError> {
        let _one_at_a_time = self
            .inner
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let loaded = Loaded::load(&self.inner.options)?;
        // Also when it is the same: what there is to warn of may have changed.
        let before = self.inner.loaded.swap(Arc::new(loaded));
        Ok(match self.inner.loaded.load().is_same(&before) {
            true => Reloaded::Unchanged,
            false => Reloaded::Changed,
        })
    }

    /// The files that [`Tls::reload`] reads
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let options = &self.inner.options;
        let identity = match &options.certificate {
            CertificateSource::Files { certificate, key } => vec![certificate, key],
            CertificateSource::Resolver(_) => Vec::new(),
        };
        let client_cas = match options.client_auth {
            ClientAuth::None => &[],
            _ => &options.client_cas[..],
        };
        identity
            .into_iter()
            .chain(client_cas)
            .map(|path| path.as_path())
    }

    /// What is not right with the certificate and the key in force, at the time `now`
    ///
    /// A reason to tell somebody, not to stop: a client may take what others refuse.
    pub fn warnings(&self, now: SystemTime) -> Vec<TlsWarning> {
        match &self.inner.loaded.load().identity {
            Some(identity) => identity.warnings(now),
            None => Vec::new(),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(&options.cipher_suites));
        let (identity, resolver): (_, Arc<dyn ResolvesServerCert>) = match &options.certificate {
            CertificateSource::Files { certificate, key } => {
                let identity = Identity::load(certificate, key, &provider)?;
                let resolver = SingleCertAndKey::from(identity.key.clone());
                (Some(identity), Arc::new(resolver))
            }
            CertificateSource::Resolver(resolver) => (None, resolver.clone()),
        };
        let client_roots = match options.client_auth {
            ClientAuth::None => None,
            _ => Some(Arc::new(client_roots(&options.client_cas)?)),
        };
        let verifier = match &client_roots {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(roots) => {
                let builder =
                    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
                match options.client_auth {
                    ClientAuth::VerifyIfGiven => builder.allow_unauthenticated(),
                    ClientAuth::None | ClientAuth::Require => builder,
                }
                .build()
                .map_err(|error| TlsError::Settings(rustls::Error::General(error.to_string())))?
            }
        };
        let mut http1 = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(options.minimum_version.and_later())
            .map_err(TlsError::Settings)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http2 = http1.clone();
        http2.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Self {
            identity,
            client_roots,
            http1: Arc::new(http1),
            http2: Arc::new(http2),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        // A chain tells its key: another does not go with it.
        let chain = |loaded: &Self| loaded.identity.as_ref().map(|it| it.key.cert.clone());
        let roots = |loaded: &Self| loaded.client_roots.as_ref().map(|it| it.roots.clone());
        chain(self) == chain(other) && roots(self) == roots(other)
    }
}

/// aws-lc-rs, with the suites that were chosen
fn provider(suites: &[CipherSuite]) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if !suites.is_empty() {
        let chooses_tls13 = suites.iter().any(|suite| suite.is_tls13());
        provider.cipher_suites.retain(|suite| {
            let suite = CipherSuite(*suite);
            suites.contains(&suite) || (suite.is_tls13() && !chooses_tls13)
        });
    }
    provider
}

/// What [`Tls::reload`] found
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Another certificate, or other authorities
    Changed,
    /// What was in force before
    Unchanged,
}

/// Why files were not taken when they were read again
#[derive(Debug, thiserror::Error)]
#[error("{0}; what was loaded before stays in force")]
pub struct TlsReloadError(#[from] pub TlsError);

/// The certificate that a client showed, and that verified
///
/// [`serve`](crate::serve) adds it to the extensions of each request of such a client. One whose
/// subject cannot be read is as good as none.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    inner: Arc<Shown>,
}

#[derive(Debug)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    subject: String,
    common_name: Option<String>,
}

impl ClientCertificate {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
        let subject = certificate.subject();
        let common_name = subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(str::to_owned);
        let subject = subject.to_string();
        Some(Self {
            inner: Arc::new(Shown {
                chain,
                subject,
                common_name,
            }),
        })
    }

    /// The certificate, then those that lead to an authority, in DER
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.inner.chain.iter().map(|certificate| &**certificate)
    }

    /// The name of its subject, such as `O=Example, CN=builder`
    pub fn subject(&self) -> &str {
        &self.inner.subject
    }

    /// The first common name of its subject, if it has one that is text
    pub fn common_name(&self) -> Option<&str> {
        self.inner.common_name.as_deref()
    }
}

/// Says that a request came over TLS
///
/// [`serve`](crate::serve) adds it to the extensions of each such request; in HTTP/1 the
/// request itself does not tell. It makes `https` of the URLs in
/// [`Locations::Absolute`](crate::Locations::Absolute) without a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverTls;
