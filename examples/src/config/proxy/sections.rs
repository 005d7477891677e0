//! The configuration of `docker-proxy` that is in force, section by section

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use registry_auth::CertificateOptions;

use super::super::acumos::Credentials;
use super::super::{
    Acumos, Audit, Auth, Config, Debug, Driver, Health, Level, Limits, Programs, Secret, Tls,
    Tokens, Url,
};
use crate::acumos_log::AcumosLogOptions;

/// Everything that an operator can set of `docker-proxy`
///
/// # Examples
///
/// ```
/// use registry_examples::config::proxy::{Content, ProxyConfig};
///
/// let (config, warnings) = ProxyConfig::from_yaml(
///     "{upstream: {url: 'http://nexus:8082'}, acumos: {services: {cds: {url: 'http://cds:8000/ccds'}}}}",
/// )?;
/// let Content::Upstream(upstream) = &config.content else { panic!() };
/// assert_eq!(upstream.url.host(), "nexus");
/// // Passwords in the clear do not leave the machine unless someone says so.
/// assert_eq!(config.listen, "127.0.0.1:30883");
/// assert!(warnings.is_empty());
/// # Ok::<(), registry_examples::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The address to listen on, as `host:port` or `:port`
    ///
    /// Without a word on it port 30883, which users of the platform know: of every address with
    /// TLS, and of loopback only without.
    pub listen: String,
    /// The name under which clients reach it, as they give it to `docker login`
    pub host: Option<String>,
    /// TLS; nothing for plain HTTP
    pub tls: Option<Tls>,
    /// Where the images are
    pub content: Content,
    /// The rules, where their facts are, and how the platform's users log in
    pub acumos: Acumos,
    /// Users and passwords in a file, instead of the passwords that accounts have where the facts
    /// are
    pub htpasswd: Option<HtpasswdFile>,
    /// Who is none of the platform's users and may do what `acumos.serviceaccounts` says with
    /// every image: the platform's own pushers
    ///
    /// Their secrets are long random texts, and their names nobody else's: a wrong secret is not tried
    /// on the platform's users.
    pub service_accounts: Vec<Credentials>,
    /// How clients are known by their certificates, if they are; `tls.clientcas` says who signs them
    pub certificates: Option<CertificateOptions>,
    /// Where each decision about who may do what is written down
    pub audit: Option<Audit>,
    /// Whether an image that someone may not know of looks as if it were not there
    ///
    /// It does by default: names of models are worth something to those who must not have them.
    pub hide: bool,
    /// How much is done at a time, and how often one may ask
    pub limits: ProxyLimits,
    /// What upload sessions are sealed with, the same for all replicas: that they were allowed, and
    /// where they are upstream
    ///
    /// Without it the first is sealed with what is made anew at each start, and the second with what is
    /// made of the upstream's credentials, or anew where there are none.
    pub session_secret: Option<Secret>,
    /// The tokens that it issues, so that one login serves a whole pull; off
    pub tokens: Option<Tokens>,
    /// Whose `Forwarded` and `X-Forwarded-…` headers are believed; loopback
    pub trusted_proxies: Vec<IpNet>,
    /// What answers for a web server that asks about each of its requests; off
    pub auth_request: Option<AuthRequest>,
    /// The log
    pub logs: Logs,
    /// The listener for operators
    pub debug: Option<Debug>,
    /// What is looked at to say whether requests are wanted
    pub health: Health,
    /// How often files that may change are looked at; every 10 s
    pub reload_interval: Duration,
    /// How long connections are still taken once it is told to stop; 0
    pub drain_delay: Duration,
    /// How long running transfers get at the end; 30 s
    pub drain_timeout: Duration,
}

/// Where the images are
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In this folder, which also has the directory: to try it out
    Embedded(PathBuf),
    /// In another registry
    Upstream(Box<Upstream>),
}

/// `upstream`: the registry that is guarded
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is, such as `http://nexus:8082`
    pub url: Url,
    /// The account that everything is done with there
    pub credentials: Option<Credentials>,
    /// The authorities (PEM) that it is trusted by; the system's without it
    pub ca_file: Option<PathBuf>,
    /// What becomes of its redirects to where content is
    pub redirects: Redirects,
    /// The token services, as host and port, that get the credentials besides the upstream itself
    pub realms: Vec<String>,
    /// The hosts that its redirects are followed to though they are not on the open internet, or
    /// do not speak TLS
    pub storage: Vec<String>,
    /// How long it may take
    pub timeouts: Timeouts,
}

/// `upstream.redirects`: what becomes of the upstream's redirects to where content is
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirects {
    /// The proxy follows them; clients need not reach where they lead
    #[default]
    Follow,
    /// Clients get them
    Pass,
}

/// `upstream.timeouts`: how long the upstream may take
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection; 10 s
    pub connect: Duration,
    /// To begin with its answer to what only reads; a minute
    pub answer: Duration,
    /// To begin with its answer to what writes, once it has everything; 15 minutes, as long as
    /// the old proxy waited, for a layer is hashed and copied when its upload ends
    pub commit: Duration,
    /// Without a byte in the middle of an answer; a minute
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            commit: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(60),
        }
    }
}

/// `htpasswd`: users and passwords in a file
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HtpasswdFile {
    /// The file
    pub path: PathBuf,
    /// What the challenge calls this registry
    pub realm: String,
}

impl HtpasswdFile {
    /// The realm where none is set
    pub(super) const REALM: &str = "Acumos";
}

/// `limits`: how much is done at a time, and how often one may ask
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyLimits {
    /// How many requests; the proxy's own default without it
    pub requests: Option<usize>,
    /// How many connections; as many as the system allows without it
    pub connections: Option<usize>,
    /// How often one user, or one address, may ask
    pub rates: Limits,
}

/// `authrequest`: answers for a web server that asks about each of its requests
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRequest {
    /// Under which path
    pub path: String,
    /// Who may ask; whoever asks can guess passwords without the web server's own limits
    pub peers: Vec<IpNet>,
}

/// `logs`: the log of the platform's standard
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// The platform's folder of logs, in which it writes to `docker-proxy/docker-proxy.log`;
    /// without it the console is all there is
    pub directory: Option<PathBuf>,
    /// How important a line must be to be in the file
    pub level: Level,
    /// Which release of the platform the lines are like
    pub format: LogFormat,
    /// Whether there is a log of accesses too, in `docker-proxy/access/docker-proxy-access.log` of
    /// that folder; without the folder there is none
    pub access: bool,
    /// How important a line must be to be on standard error; nothing for none
    ///
    /// Where there is a folder, warnings and worse, and where there is none, what `level` says.
    pub console: Option<Level>,
    /// For how many days files are kept; 30, as the platform's services do
    pub keep: u32,
    /// How many bytes each of the two logs may have in all; 3 GB, as the platform's services do
    pub max_bytes: u64,
}

impl Default for Logs {
    fn default() -> Self {
        let standard = AcumosLogOptions::default();
        Self {
            directory: None,
            level: Level::Info,
            format: LogFormat::Boreas,
            access: standard.access_log,
            console: Some(Level::Warn),
            keep: standard.keep_days,
            max_bytes: standard.max_bytes,
        }
    }
}

/// `logs.format`: which release of the platform the lines are like
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The first: fields between pipes
    Athena,
    /// The second and later: columns between tabs
    Boreas,
}

impl ProxyConfig {
    /// What a registry would be configured with that listens, asks for logins and decides as
    /// this proxy does
    ///
    /// What both have in common is put together by the same code.
    pub fn as_registry(&self) -> Config {
        let mut config = Config::default();
        config.http.listen.clone_from(&self.listen);
        config.http.tls.clone_from(&self.tls);
        config.http.debug.clone_from(&self.debug);
        config.http.drain_timeout = self.drain_timeout;
        config.http.secret.clone_from(&self.session_secret);
        config.registry.hide = self.hide;
        config.registry.limits = self.limits.rates;
        config.registry.tokens.clone_from(&self.tokens);
        config.health = self.health.clone();
        config
            .registry
            .trusted_proxies
            .clone_from(&self.trusted_proxies);
        config.registry.drain_delay = self.drain_delay;
        config.registry.reload_interval = self.reload_interval;
        config.registry.certificates = self.certificates;
        config.registry.audit.clone_from(&self.audit);
        // Only with TLS here is it known how clients speak to that name.
        if let (Some(host), true) = (&self.host, self.tls.is_some()) {
            config.http.host = format!("https://{host}").parse().ok();
        }
        // What they asked by is as good a way back as that.
        config.http.relative_urls = true;
        if let Some(HtpasswdFile { path, realm }) = &self.htpasswd {
            config.auth = Auth::Htpasswd {
                realm: realm.clone(),
                path: path.clone(),
            };
        }
        let mut acumos = self.acumos.clone();
        let names = self.service_accounts.iter().map(|account| &account.user);
        acumos.options.service_names.extend(names.cloned());
        if !self.service_accounts.is_empty() {
            let realm = match (&self.htpasswd, &acumos.login) {
                (Some(htpasswd), _) => &htpasswd.realm,
                (None, Some(login)) => &login.realm,
                (None, None) => HtpasswdFile::REALM,
            };
            config.registry.accounts = Some(Programs::Listed {
                realm: realm.to_owned(),
                accounts: self.service_accounts.clone(),
            });
        }
        config.registry.acumos = Some(acumos);
        if let Content::Embedded(folder) = &self.content {
            config.storage.driver = Driver::Folder(Content::images_in(folder));
        }
        config
    }
}

impl Content {
    /// The database of the directory in an embedded folder
    pub fn directory_in(folder: &Path) -> PathBuf {
        folder.join("directory.db")
    }

    /// The images of an embedded folder
    pub fn images_in(folder: &Path) -> PathBuf {
        folder.join("images")
    }
}

/// What stands under `password` and `passwordfile`
pub(super) fn secret(
    text: Option<String>,
    file: Option<String>,
) -> Result<Option<Secret>, &'static str> {
    match (text, file) {
        (Some(_), Some(_)) => Err("expected one of `password` and `passwordfile`, got both"),
        (Some(text), None) => Ok(Some(Secret::Text(text))),
        (None, Some(path)) => Ok(Some(Secret::File(path.into()))),
        (None, None) => Ok(None),
    }
}
