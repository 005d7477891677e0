//! The configuration that is in force, section by section

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use registry_auth::CertificateOptions;

use super::acumos::Credentials;
use super::buckets::{Azure, Connection, Gcs, S3};
use super::{Acumos, Headers, Limits, Secret, Tokens, Url};

/// Everything that an operator can set
///
/// `Default` is what runs without a file: a folder beside the working directory, on loopback only,
/// deletes allowed. [`Config::of_a_file`] is what a file that sets nothing would give; it follows
/// distribution, where deletes are off until `storage.delete.enabled` turns them on.
///
/// # Examples
///
/// ```
/// use registry_examples::config::{Config, Driver};
///
/// let (config, warnings) = Config::from_yaml(
///     "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n",
/// )?;
/// assert_eq!(config.http.listen, ":5000");
/// assert_eq!(config.storage.driver, Driver::Folder("/var/lib/registry".into()));
/// assert!(!config.storage.delete);
/// assert!(warnings.is_empty());
/// # Ok::<(), registry_examples::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What is logged, and how
    pub log: Log,
    /// Where content is kept, and what may be done to it
    pub storage: Storage,
    /// Who is let in
    pub auth: Auth,
    /// Where and how the registry listens and answers
    pub http: Http,
    /// Who is told of pushes, pulls and deletes
    pub notifications: Notifications,
    /// What is looked at to say whether the registry is well
    pub health: Health,
    /// What is asked of a manifest that is pushed
    pub validation: Validation,
    /// `/v2/_catalog`
    pub catalog: Catalog,
    /// What distribution does not have, under the one name `registry`
    pub registry: Own,
}

impl Config {
    /// The defaults of distribution, which hold where a file is given
    pub fn of_a_file() -> Self {
        let mut config = Self::default();
        config.storage.delete = false;
        config.validation.manifest_urls = ManifestUrls::Checked {
            allow: Vec::new(),
            deny: Vec::new(),
        };
        config
    }

    /// Where undelivered events wait, or nothing when they wait in memory
    ///
    /// Replicas may share it: each keeps its own in it, and takes over that of one that is gone.
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::config::Config;
    ///
    /// let outbox = Config::default().outbox_directory().unwrap();
    /// assert!(outbox.ends_with("registry-data/registry-outbox"));
    /// ```
    pub fn outbox_directory(&self) -> Option<PathBuf> {
        if let Some(directory) = &self.registry.outbox.directory {
            return Some(directory.clone());
        }
        match &self.storage.driver {
            Driver::Folder(root) => Some(root.join("registry-outbox")),
            // Each event is a small file that is written and removed, which suits no bucket.
            Driver::Azure(_) | Driver::Gcs(_) | Driver::Memory | Driver::S3(_) => None,
        }
    }
}

/// `log`: what is logged, and how
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written
    pub level: Level,
    /// How a record is written
    pub formatter: Formatter,
    /// What is added to every record
    pub fields: BTreeMap<String, String>,
    /// Whether each request is a line
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            formatter: Formatter::Text,
            fields: BTreeMap::new(),
            access: true,
        }
    }
}

/// How important a record of the log is
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed
    Error,
    /// Something may fail, or is not as it was asked for
    Warn,
    /// What an operator wants to know
    Info,
    /// What a developer wants to know
    Debug,
}

/// How a record of the log is written
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formatter {
    /// A line for people
    Text,
    /// A JSON object
    Json,
    /// A JSON object with logstash's names (`@timestamp`, `@version`)
    Logstash,
}

/// `storage`: where content is kept, and what may be done to it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Where content is kept
    pub driver: Driver,
    /// Whether clients may delete
    pub delete: bool,
    /// Whether everything that writes is refused
    pub read_only: bool,
    /// How abandoned uploads go; nothing when they stay
    pub purge: Option<UploadPurge>,
    /// How an object store is reached
    pub connection: Connection,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            driver: Driver::Folder("registry-data".into()),
            delete: true,
            read_only: false,
            purge: Some(UploadPurge::default()),
            connection: Connection::default(),
        }
    }
}

/// Where content is kept
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// In a container of Azure's blob storage
    Azure(Box<Azure>),
    /// In a folder, in distribution's layout
    Folder(PathBuf),
    /// In a bucket of Google's cloud storage
    Gcs(Box<Gcs>),
    /// In memory, gone with the process
    Memory,
    /// In a bucket of S3 or of what speaks it
    S3(Box<S3>),
}

/// `storage.maintenance.uploadpurging`: how abandoned uploads go
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPurge {
    /// How long nothing has been added to an upload that goes; distribution's week
    pub age: Duration,
    /// How often uploads are looked at; distribution's day
    pub interval: Duration,
    /// Whether it only says what would go
    pub dry_run: bool,
}

impl Default for UploadPurge {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(168 * 3600),
            interval: Duration::from_secs(24 * 3600),
            dry_run: false,
        }
    }
}

/// `auth`: who is let in
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Everyone
    #[default]
    None,
    /// Whoever sends any `Authorization` header: for development only
    Silly {
        /// Where the challenge says to ask
        realm: String,
        /// What the challenge says to ask for
        service: String,
    },
    /// Who is in a file of names and bcrypt hashes
    Htpasswd {
        /// What the challenge calls this registry
        realm: String,
        /// The file
        path: PathBuf,
    },
    /// Who has a token of a token service
    Token(Token),
}

/// `auth.token`: whose tokens are taken
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The URL of the token service
    pub realm: String,
    /// The name of this registry, which is the audience of its tokens
    pub service: String,
    /// Who must have issued a token
    pub issuer: String,
    /// Certificates (PEM) of the keys that sign, or of their authorities
    pub root_cert_bundle: Option<PathBuf>,
    /// Keys that sign, as a JSON Web Key Set
    pub jwks: Option<TokenKeys>,
    /// Names of the algorithms that are taken; empty for the token verifier's own list
    pub signing_algorithms: Vec<String>,
}

/// `auth.token.jwks`: where a JSON Web Key Set is
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKeys {
    /// In a file
    File(PathBuf),
    /// At a URL, from where it is fetched again and again
    Url(Url),
}

/// `http`: where and how the registry listens and answers
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The address to listen on, as `host:port` or `:port`; the path of a socket with [`Network::Unix`]
    pub listen: String,
    /// What kind of address that is
    pub net: Network,
    /// The URL under which clients reach the registry, for absolute locations
    pub host: Option<Url>,
    /// The path under which everything is served; begins and ends with `/`
    pub prefix: String,
    /// Whether locations are paths without a host
    pub relative_urls: bool,
    /// How long running transfers get at the end
    ///
    /// 30 s unless the file says otherwise: distribution's 0 would cut every transfer.
    pub drain_timeout: Duration,
    /// What upload sessions are sealed with, the same for all replicas; without one, each process
    /// has its own, that nobody knows
    pub secret: Option<Secret>,
    /// TLS; nothing for plain HTTP
    pub tls: Option<Tls>,
    /// Header fields added to every answer
    pub headers: Headers,
    /// The listener for operators
    pub debug: Option<Debug>,
    /// Whether HTTP/2 is offered over TLS
    pub http2: bool,
    /// Whether HTTP/2 is spoken without TLS
    pub h2c: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            // Loopback: an open registry must not be on the network by accident.
            listen: "127.0.0.1:5000".to_owned(),
            net: Network::Tcp,
            host: None,
            prefix: "/".to_owned(),
            relative_urls: false,
            drain_timeout: Duration::from_secs(30),
            secret: None,
            tls: None,
            headers: Headers::default(),
            debug: None,
            http2: true,
            h2c: false,
        }
    }
}

/// `http.net`: what kind of address is listened on
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// TCP
    Tcp,
    /// A socket in the file system
    Unix,
}

/// `http.tls`: TLS
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where the certificate comes from
    pub identity: Identity,
    /// Files (PEM) of authorities that sign client certificates
    pub client_cas: Vec<PathBuf>,
    /// What is asked of a client; requires `client_cas` unless it is [`ClientAuth::None`]
    pub client_auth: ClientAuth,
    /// The lowest version that is spoken
    pub minimum: TlsVersion,
    /// The cipher suites of TLS 1.2 by their IANA names; empty for all that are safe
    pub cipher_suites: Vec<String>,
}

/// Where the certificate comes from
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// From files (PEM)
    Files {
        /// The certificate, with those between it and the authority
        certificate: PathBuf,
        /// Its key
        key: PathBuf,
    },
    /// From an authority that speaks ACME
    Acme(Acme),
}

/// `http.tls.letsencrypt`: a certificate by ACME
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// Where account and certificate are kept
    pub cache_file: PathBuf,
    /// The contact of the account
    pub email: Option<String>,
    /// For which hosts
    pub hosts: Vec<String>,
    /// The authority; Let's Encrypt when there is none
    pub directory: Option<Url>,
}

/// `http.tls.clientauth`: what is asked of a client
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for
    None,
    /// A certificate that is sent must be signed by one of the authorities; none need be sent
    Given,
    /// A certificate signed by one of the authorities; what distribution does with `clientcas`
    Required,
}

/// A version of TLS
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, the lowest that is safe
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// `http.debug`: the listener for operators
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// The address, as `host:port` or `:port`
    pub listen: String,
    /// The path of the metrics for Prometheus; nothing when they are off
    pub prometheus: Option<String>,
}

/// `notifications`: who is told of pushes, pulls and deletes
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notifications {
    /// Whether an event of a manifest lists what the manifest references
    pub include_references: bool,
    /// Who is told; those that are disabled are left out
    pub endpoints: Vec<Endpoint>,
}

/// One of `notifications.endpoints`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it is called, here and in its outbox; no two are called the same
    pub name: String,
    /// Where events are posted
    pub url: Url,
    /// Header fields added to each request
    pub headers: Headers,
    /// How long a request may take; distribution's 1 s
    pub timeout: Duration,
    /// After how many failures in a row it is left alone for `backoff`; distribution's 10
    pub threshold: u32,
    /// How long it is left alone; distribution's 1 s
    pub backoff: Duration,
    /// Events of targets with these media types are not sent
    pub ignored_media_types: Vec<String>,
    /// Events of these actions are not sent
    pub ignored_actions: Vec<String>,
}

/// `health`: what is looked at to say whether the registry is well
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the storage answers
    pub storage: Option<StorageCheck>,
    /// Files whose presence says that the registry is not well
    pub files: Vec<FileCheck>,
    /// Servers that must answer
    pub http: Vec<HttpCheck>,
    /// Addresses that must accept connections
    pub tcp: Vec<TcpCheck>,
}

/// How often something is looked at, and when that counts
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time between two looks; distribution's 10 s
    pub interval: Duration,
    /// How many failures in a row make the registry unwell; 1, as in distribution
    pub threshold: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            threshold: 1,
        }
    }
}

/// `health.storagedriver`: whether the storage answers
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageCheck {
    /// How often
    pub pace: Pace,
}

/// One of `health.file`: the registry is unwell while the file exists
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCheck {
    /// The file
    pub path: PathBuf,
    /// How often
    pub pace: Pace,
}

/// One of `health.http`: the registry is unwell unless this answers
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// What is asked, with HEAD
    pub url: Url,
    /// Header fields of the request
    pub headers: Headers,
    /// The status that is well
    pub status: u16,
    /// How long an answer may take; the interval unless the file says otherwise, so that one look
    /// ends before the next
    pub timeout: Duration,
    /// How often
    pub pace: Pace,
}

/// One of `health.tcp`: the registry is unwell unless this accepts a connection
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpCheck {
    /// The address, as `host:port`
    pub address: String,
    /// How long that may take; the interval unless the file says otherwise
    pub timeout: Duration,
    /// How often
    pub pace: Pace,
}

/// `validation`: what is asked of a manifest that is pushed
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validation {
    /// Which URLs it may have
    pub manifest_urls: ManifestUrls,
}

/// `validation.manifests.urls`: which URLs the descriptors of a manifest may have
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ManifestUrls {
    /// Any
    #[default]
    Unchecked,
    /// Those that match one of `allow` and none of `deny`
    ///
    /// An empty `allow` lets everything pass that is not denied. When both are empty no URL
    /// passes, as in distribution.
    Checked {
        /// Regular expressions, looked for anywhere in the URL
        allow: Vec<String>,
        /// Likewise
        deny: Vec<String>,
    },
}

/// `catalog`: `/v2/_catalog`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// How many repositories one answer has at most; distribution's 1000
    pub max_entries: usize,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { max_entries: 1000 }
    }
}

/// `registry`: what distribution does not have
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The largest manifest taken, in bytes; the specification asks for 4 MiB at least
    pub manifest_limit: usize,
    /// Whose `Forwarded` and `X-Forwarded-…` headers are believed; loopback, because only what
    /// runs on this machine is known to be ours
    pub trusted_proxies: Vec<IpNet>,
    /// A file with the rules of who may do what; without one, whoever is let in may do everything
    pub access_rules: Option<PathBuf>,
    /// The rules of the Acumos platform; with a file of rules too, both must allow
    pub acumos: Option<Acumos>,
    /// Programs with secrets of their own
    pub accounts: Option<Programs>,
    /// A file of the authorities (PEM) by which the URL of the keys of tokens is trusted, instead
    /// of those of the system
    pub token_ca_file: Option<PathBuf>,
    /// How clients are known by their certificates, if they are
    pub certificates: Option<CertificateOptions>,
    /// Whether what someone may not pull looks to them as if it did not exist; by default it is
    /// said that they may not
    pub hide: bool,
    /// Where each decision about who may do what is written down
    pub audit: Option<Audit>,
    /// How often one user, or one address, may ask
    pub limits: Limits,
    /// The tokens that this registry issues
    pub tokens: Option<Tokens>,
    /// How long connections are still taken once the registry is told to stop and says that it
    /// is not ready any more; 0, which suits where nobody asks
    pub drain_delay: Duration,
    /// Where undelivered events wait
    pub outbox: Outbox,
    /// How often files that may change are looked at; 10 s is soon enough for a certificate and
    /// costs nothing
    pub reload_interval: Duration,
}

/// The smallest manifest limit: what the specification lets every client rely on
pub(crate) const LEAST_MANIFEST_LIMIT: usize = 4 * 1024 * 1024;

impl Default for Own {
    fn default() -> Self {
        let loopback = [
            IpNet::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0).into(), 8),
            IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
        ];
        Self {
            manifest_limit: LEAST_MANIFEST_LIMIT,
            trusted_proxies: loopback.to_vec(),
            access_rules: None,
            acumos: None,
            accounts: None,
            token_ca_file: None,
            certificates: None,
            hide: false,
            audit: None,
            limits: Limits::default(),
            tokens: None,
            drain_delay: Duration::ZERO,
            outbox: Outbox::default(),
            reload_interval: Duration::from_secs(10),
        }
    }
}

/// Programs with secrets of their own, and the realm that clients are asked for them with
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// `registry.auth.accounts`: in a file, with their roles
    File {
        /// What the challenge calls this registry
        realm: String,
        /// The file
        path: PathBuf,
    },
    /// `serviceaccounts` of `docker-proxy`: these
    Listed {
        /// What the challenge calls this registry
        realm: String,
        /// Their names and secrets
        accounts: Vec<Credentials>,
    },
}

/// `registry.access.audit`: where each decision is written down, a JSON object a line
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    /// At the end of a file
    File(PathBuf),
    /// On standard error, between the lines of the log
    Stderr,
    /// On standard output, between the lines of the access log
    Stdout,
}

/// `registry.notifications.outbox`: where undelivered events wait
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// The folder; see [`Config::outbox_directory`] for what holds without one
    pub directory: Option<PathBuf>,
    /// How many bytes it takes at most; 256 MiB are a quarter of a million events
    pub max_bytes: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            directory: None,
            max_bytes: 256 * 1024 * 1024,
        }
    }
}
