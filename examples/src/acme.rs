//! Certificates from an ACME server (RFC 8555), such as Let's Encrypt
//!
//! Names are validated with `tls-alpn-01` (RFC 8737): the ACME server connects to port 443 of
//! each name, and finds a certificate there that only we could make. So this registry must be
//! what answers on port 443 of its names; several replicas behind one address must share the
//! cache, and whichever of them is asked must be the one that orders, or one must order for all.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse,
    ChallengeType, HttpClient, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use registry_http::TlsOptions;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Let's Encrypt, for certificates that clients accept
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How long one order may take, with all that has to be waited for
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How long to wait after the first failure; Let's Encrypt allows five an hour
const FIRST_RETRY: Duration = Duration::from_secs(15 * 60);

/// The longest wait between two attempts
const LAST_RETRY: Duration = Duration::from_secs(6 * 60 * 60);

/// The longest sleep before the clock is looked at again, for machines that were suspended
const NAP: Duration = Duration::from_secs(60 * 60);

/// Which certificate to get, and from whom
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AcmeOptions {
    /// The folder in which the account and the certificate are kept; it is made if need be
    pub cache: PathBuf,
    /// An address at which the ACME server may warn of trouble
    pub email: Option<String>,
    /// The names that the certificate is for
    pub hosts: Vec<String>,
    /// The URL of the ACME server's directory; by default Let's Encrypt's
    pub directory: String,
    /// A PEM file with the authorities that the ACME server's own certificate is checked
    /// with; by default those of the system
    pub authorities: Option<PathBuf>,
}

impl AcmeOptions {
    /// A certificate for `hosts` from Let's Encrypt, kept in `cache`
    pub fn new(
        cache: impl Into<PathBuf>,
        hosts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            cache: cache.into(),
            email: None,
            hosts: hosts.into_iter().map(Into::into).collect(),
            directory: LETS_ENCRYPT.to_owned(),
            authorities: None,
        }
    }

    /// Sets [`AcmeOptions::email`]
    #[must_use]
    pub fn with_email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self
    }

    /// Sets [`AcmeOptions::directory`]
    #[must_use]
    pub fn with_directory(mut self, url: impl Into<String>) -> Self {
        self.directory = url.into();
        self
    }

    /// Sets [`AcmeOptions::authorities`]
    #[must_use]
    pub fn with_authorities(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(path.into());
        self
    }
}

/// Why no certificate can be asked for as things are configured
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeError {
    /// The file with authorities cannot be used
    #[error("cannot read authorities for the ACME server from {from}: {reason}")]
    Authorities {
        /// Where they were looked for
        from: String,
        /// What is wrong
        reason: String,
    },
    /// The folder cannot be used
    #[error("cannot keep certificates in the folder `{}`: {source}", path.display())]
    Cache {
        /// Which folder
        path: PathBuf,
        /// What the system said
        source: io::Error,
    },
    /// The directory is not a URL that can be used
    #[error("expected an ACME directory's URL that begins with `https://`, got `{}`", .0.escape_debug())]
    Directory(String),
    /// A name for which `tls-alpn-01` cannot give a certificate
    #[error("no certificate can be had for `{}`: expected the name of a host, such as `registry.example.com`, without wildcards", .0.escape_debug())]
    Host(String),
    /// No name
    #[error(
        "ACME needs at least one host that the certificate is for; without a list anybody could have certificates ordered by asking for a name"
    )]
    NoHosts,
    /// rustls refuses
    #[error("cannot prepare TLS for ACME: {0}")]
    Tls(rustls::Error),
}

/// A certificate that is ordered, kept, and renewed in time
///
/// Cheap to clone: one clone [runs](Acme::run), another gives the
/// [options](Acme::tls_options) of the listener.
#[derive(Clone)]
pub struct Acme {
    inner: Arc<Inner>,
}

struct Inner {
    options: AcmeOptions,
    provider: Arc<CryptoProvider>,
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    certificate: Arc<Served>,
    challenges: Arc<Challenges>,
    challenge_config: Arc<ServerConfig>,
}

impl Acme {
    /// Checks the options, and takes up what the cache has
    ///
    /// # Errors
    ///
    /// [`AcmeError`] when these options can never lead to a certificate. The ACME server is not
    /// asked yet.
    pub fn open(mut options: AcmeOptions) -> Result<Self, AcmeError> {
        for host in &mut options.hosts {
            host.make_ascii_lowercase();
            let name = DnsName::try_from(host.as_str());
            if name.is_err() || host.parse::<std::net::IpAddr>().is_ok() || host.contains('*') {
                return Err(AcmeError::Host(host.clone()));
            }
        }
        if options.hosts.is_empty() {
            return Err(AcmeError::NoHosts);
        }
        let directory = options.directory.parse::<Uri>();
        if !directory.is_ok_and(|uri| uri.scheme_str() == Some("https")) {
            return Err(AcmeError::Directory(options.directory));
        }
        let cache = |source| AcmeError::Cache {
            path: options.cache.clone(),
            source,
        };
        // Keys are in there.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.cache)
            .map_err(cache)?;
        tempfile::NamedTempFile::new_in(&options.cache).map_err(cache)?;

        let provider = Arc::new(aws_lc_rs::default_provider());
        let client = client(options.authorities.as_deref(), provider.clone())?;
        let challenges = Arc::new(Challenges::default());
        let mut challenge_config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(AcmeError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(challenges.clone());
        challenge_config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let acme = Self {
            inner: Arc::new(Inner {
                options,
                provider,
                client,
                certificate: Arc::default(),
                challenges,
                challenge_config: Arc::new(challenge_config),
            }),
        };
        acme.inner.take_from_cache();
        Ok(acme)
    }

    /// How a listener serves the certificate, and answers the ACME server
    pub fn tls_options(&self) -> TlsOptions {
        TlsOptions::resolver(self.inner.certificate.clone())
            .with_challenge(self.inner.challenge_config.clone())
    }

    /// When the certificate in force expires, if there is one
    pub fn expires(&self) -> Option<SystemTime> {
        Some(self.inner.certificate.0.load().as_ref()?.not_after)
    }

    /// Orders a certificate when there is none or it grows old, for ever
    ///
    /// The listener must be serving: the ACME server connects to it. What fails is logged, and
    /// tried again later.
    pub async fn run(self) {
        let inner = self.inner;
        let mut retry = FIRST_RETRY;
        loop {
            let wait = inner.until_renewal(SystemTime::now());
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(NAP)).await;
                continue;
            }
            // Another replica on the same cache may have been faster.
            inner.take_from_cache();
            if !inner.until_renewal(SystemTime::now()).is_zero() {
                continue;
            }
            let hosts = inner.options.hosts.join(", ");
            tracing::info!(%hosts, directory = inner.options.directory, "ordering a certificate");
            let ordered = tokio::time::timeout(PATIENCE, inner.order()).await;
            inner.challenges.clear();
            let failure = match ordered {
                Ok(Ok(())) if !inner.until_renewal(SystemTime::now()).is_zero() => {
                    tracing::info!(%hosts, "a new certificate is in force");
                    retry = FIRST_RETRY;
                    continue;
                }
                // Or it would be ordered again and again, until the server has enough.
                Ok(Ok(())) => OrderError::Old,
                Ok(Err(failure)) => failure,
                Err(_) => OrderError::Slow,
            };
            tracing::error!(
                %hosts,
                error = %failure,
                retry_in_seconds = retry.as_secs(),
                "no certificate could be had",
            );
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

/// Why an order did not lead to a certificate
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("the ACME server: {0}")]
    Acme(#[from] instant_acme::Error),
    #[error("cannot keep it in `{}`: {source}", path.display())]
    Cache { path: PathBuf, source: io::Error },
    #[error("the ACME server offers no `tls-alpn-01` challenge for `{host}`")]
    NoChallenge { host: String },
    #[error("the ACME server did not accept that we are {reason}")]
    Refused { reason: String },
    #[error("the certificate is due for renewal already; is the clock of this machine right?")]
    Old,
    #[error("the ACME server took too long")]
    Slow,
    #[error("cannot make the certificate for a challenge: {0}")]
    Challenge(#[from] rcgen::Error),
    #[error("the ACME server gave a certificate that cannot be used: {0}")]
    Unusable(String),
}

/// What the cache has of a certificate
#[derive(Deserialize, Serialize)]
struct CachedCertificate {
    directory: String,
    hosts: Vec<String>,
    key: String,
    chain: String,
}

/// What the cache has of an account
#[derive(Deserialize, Serialize)]
struct CachedAccount {
    directory: String,
    email: Option<String>,
    credentials: AccountCredentials,
}

/// What a server says that has lost our account, or closed it (RFC 8555, section 6.7)
const NO_SUCH_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

const CERTIFICATE_FILE: &str = "certificate.json";
const ACCOUNT_FILE: &str = "account.json";

impl Inner {
    /// How long the certificate in force is good enough
    ///
    /// It is renewed when a third of its time is left, as Let's Encrypt asks: thirty days for
    /// certificates of ninety, and in proportion for those that live for days only.
    fn until_renewal(&self, now: SystemTime) -> Duration {
        let Some(usable) = self.certificate.0.load_full() else {
            return Duration::ZERO;
        };
        let life = usable
            .not_after
            .duration_since(usable.not_before)
            .unwrap_or_default();
        (usable.not_after - life / 3)
            .duration_since(now)
            .unwrap_or_default()
    }

    /// Takes up the certificate in the cache, if it is for us and lasts longer than ours
    fn take_from_cache(&self) {
        let path = self.options.cache.join(CERTIFICATE_FILE);
        let Some(cached) = read::<CachedCertificate>(&path) else {
            return;
        };
        if cached.directory != self.options.directory || cached.hosts != self.options.hosts {
            tracing::info!(path = %path.display(), "the cached certificate is for other hosts or from another server");
            return;
        }
        match Usable::new(&cached.chain, &cached.key, &self.provider) {
            Ok(usable) => {
                let current = self.certificate.0.load_full();
                if current.is_none_or(|current| current.not_after < usable.not_after) {
                    self.certificate.0.store(Some(Arc::new(usable)));
                }
            }
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "the cached certificate cannot be used");
            }
        }
    }

    async fn order(&self) -> Result<(), OrderError> {
        let hosts = self.options.hosts.iter();
        let identifiers: Vec<_> = hosts.cloned().map(Identifier::Dns).collect();
        let wanted = NewOrder::new(&identifiers);
        let ordered = self.account().await?.new_order(&wanted).await;
        let mut order = match ordered {
            Err(instant_acme::Error::Api(problem))
                if problem.r#type.as_deref() == Some(NO_SUCH_ACCOUNT) =>
            {
                tracing::warn!("the ACME server does not know our account any more");
                self.new_account().await?.new_order(&wanted).await?
            }
            ordered => ordered?,
        };
        let retries = RetryPolicy::new().timeout(PATIENCE);

        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let host = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
                return Err(OrderError::NoChallenge { host });
            };
            let digest = challenge.key_authorization().digest();
            self.challenges.insert(
                host,
                challenge_key(
                    challenge.identifier().to_string(),
                    digest.as_ref(),
                    &self.provider,
                )?,
            );
            challenge.set_ready().await?;
        }
        let polled = order.poll_ready(&retries).await;
        if order.state().status == OrderStatus::Invalid {
            // The order itself says less than what each name has to say.
            let reason = refusal(&mut order).await?;
            return Err(OrderError::Refused { reason });
        }
        polled?;
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&retries).await?;
        let usable = Usable::new(&chain, &key, &self.provider).map_err(OrderError::Unusable)?;
        // First into force: it is good even if it cannot be kept.
        self.certificate.0.store(Some(Arc::new(usable)));
        self.keep(
            CERTIFICATE_FILE,
            &CachedCertificate {
                directory: self.options.directory.clone(),
                hosts: self.options.hosts.clone(),
                key,
                chain,
            },
        )
    }

    /// The account of the cache, or a new one
    async fn account(&self) -> Result<Account, OrderError> {
        let options = &self.options;
        if let Some(cached) = read::<CachedAccount>(&options.cache.join(ACCOUNT_FILE))
            && cached.directory == options.directory
            && cached.email == options.email
        {
            let credentials = cached.credentials;
            return Ok(self.account_builder().from_credentials(credentials).await?);
        }
        self.new_account().await
    }

    async fn new_account(&self) -> Result<Account, OrderError> {
        let AcmeOptions {
            email, directory, ..
        } = &self.options;
        let contact = email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = self
            .account_builder()
            .create(&new, directory.clone(), None)
            .await?;
        self.keep(
            ACCOUNT_FILE,
            &CachedAccount {
                directory: directory.clone(),
                email: email.clone(),
                credentials,
            },
        )?;
        Ok(account)
    }

    fn account_builder(&self) -> AccountBuilder {
        Account::builder_with_http(Box::new(Http(self.client.clone())))
    }

    /// Writes a file of the cache, whole or not at all, for nobody else to read
    fn keep(&self, name: &str, content: &impl Serialize) -> Result<(), OrderError> {
        let path = self.options.cache.join(name);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.options.cache)?;
            file.write_all(&serde_json::to_vec(content)?)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| OrderError::Cache {
            path: path.clone(),
            source,
        })
    }
}

/// What is in a file of the cache; one that cannot be read is as good as none
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a file of the cache cannot be read");
            return None;
        }
    };
    match serde_json::from_slice(&text) {
        Ok(content) => Some(content),
        // Not the error itself: it may quote a key.
        Err(_) => {
            tracing::warn!(path = %path.display(), "a file of the cache is damaged, a new one is made");
            None
        }
    }
}

/// Why the server did not believe us, as it says it for each name
async fn refusal(order: &mut Order) -> Result<String, OrderError> {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let state = authorization.refresh().await?;
        let host = state.identifier().to_string();
        let problems = state.challenges.iter().filter_map(|it| it.error.as_ref());
        reasons.extend(problems.map(|problem| format!("`{host}` ({problem})")));
    }
    Ok(reasons.join(", "))
}

/// A certificate by which an ACME server recognizes us (RFC 8737, section 3)
fn challenge_key(
    host: String,
    digest: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, OrderError> {
    let mut params = CertificateParams::new([host])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|reason| OrderError::Unusable(reason.to_owned()))?;
    // Without rustls' comparison of the two: it does not read certificates with this extension.
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| OrderError::Unusable(error.to_string()))?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// A certificate with its key and its time
#[derive(Debug)]
struct Usable {
    key: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Usable {
    fn new(chain: &str, key: &str, provider: &CryptoProvider) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "the chain is not PEM")?;
        // Without the parser's text, which may quote the key.
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "the key is not PEM")?;
        let first = chain.first().ok_or("the chain is empty")?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|error| error.to_string())?;
        let time = |time: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(time.timestamp().try_into().unwrap_or_default())
        };
        let not_before = time(parsed.validity().not_before);
        let not_after = time(parsed.validity().not_after);
        let key =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())?;
        Ok(Self {
            key: Arc::new(key),
            not_before,
            not_after,
        })
    }
}

/// The certificate in force
#[derive(Debug, Default)]
struct Served(ArcSwapOption<Usable>);

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().as_ref()?.key.clone())
    }
}

/// Certificates for the challenges of an order that is under way, by host
#[derive(Debug, Default)]
struct Challenges(Mutex<HashMap<String, Arc<CertifiedKey>>>);

impl Challenges {
    fn insert(&self, host: String, key: CertifiedKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(host, Arc::new(key));
    }

    fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(hello.server_name()?).cloned()
    }
}

/// The client with which the ACME server is asked
struct Http(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let response = self.0.request(request);
        Box::pin(async move {
            match response.await {
                Ok(response) => Ok(response.into()),
                Err(error) => Err(instant_acme::Error::Other(Box::new(Unreachable(error)))),
            }
        })
    }
}

/// The client's own error says only that it could not connect, not why
#[derive(Debug)]
struct Unreachable(hyper_util::client::legacy::Error);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(&self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {}

fn client(
    authorities: Option<&Path>,
    provider: Arc<CryptoProvider>,
) -> Result<Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>, AcmeError> {
    let failed = |from: &str, reason: &dyn ToString| AcmeError::Authorities {
        from: from.to_owned(),
        reason: reason.to_string(),
    };
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let from = format!("`{}`", path.display());
            let text = fs::read(path).map_err(|error| failed(&from, &error))?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|error| failed(&from, &error))?;
                roots
                    .add(certificate)
                    .map_err(|error| failed(&from, &error))?;
            }
            if roots.is_empty() {
                return Err(failed(&from, &"it has no certificate"));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let reason = match found.errors.first() {
                    Some(error) => error.to_string(),
                    None => "there are none; with Debian, install `ca-certificates`".to_owned(),
                };
                return Err(failed("the system", &reason));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AcmeError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}
