//! From what was written to the configuration that is in force

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;
use registry_auth::{CertificateKind, CertificateName, CertificateOptions};

use super::acumos;
use super::buckets;
use super::limits;
use super::section::Section;
use super::sections::{self, LEAST_MANIFEST_LIMIT};
use super::tokens;
use super::tree::Node;
use super::value::{self, Problem};
use super::{
    Acme, Audit, Auth, ClientAuth, Config, Debug, Driver, Endpoint, FileCheck, Formatter, Health,
    HttpCheck, Identity, Level, ManifestUrls, Network, Notifications, Pace, Programs, Secret,
    StorageCheck, TcpCheck, Tls, TlsVersion, Token, TokenKeys, UploadPurge, Warning,
};

/// The names of what content can be kept in
pub(super) const DRIVERS: [&str; 8] = [
    "filesystem",
    "inmemory",
    "s3",
    "azure",
    "gcs",
    "oss",
    "s3aws",
    "s3goamz",
];

/// Reads a tree whose keys are known, over what holds without it
pub(crate) fn config(root: &Node, mut config: Config) -> Result<(Config, Vec<Warning>), Problem> {
    let mut warnings = Vec::new();
    let root = Section::new(root, "");
    log(&root, &mut config.log)?;
    storage(&root, &mut config.storage)?;
    config.auth = auth(&root.section("auth"))?;
    http(&root.section("http"), &mut config.http, &mut warnings)?;
    config.notifications = notifications(&root.section("notifications"))?;
    config.health = health(&root.section("health"))?;
    validation(&root.section("validation"), &mut config.validation)?;
    if let Some(entries) = root.section("catalog").number("maxentries")?
        && entries > 0
    {
        // Zero and less is the default, as in distribution.
        config.catalog.max_entries = usize::try_from(entries).unwrap_or(usize::MAX);
    }
    own(&root.section("registry"), &mut config.registry)?;
    let kept = matches!(config.storage.driver, Driver::Folder(_) | Driver::Memory);
    if !kept && !config.notifications.endpoints.is_empty() && config.outbox_directory().is_none() {
        warnings.push(Warning {
            keys: vec!["notifications.endpoints".to_owned()],
            origin: root.origin("notifications"),
            what:
                "events that are not delivered yet wait in memory, and are lost when the registry \
                   ends; set `registry.notifications.outbox.directory` to a folder"
                    .to_owned(),
        });
    }
    Ok((config, warnings))
}

fn log(root: &Section<'_>, log: &mut sections::Log) -> Result<(), Problem> {
    let section = root.section("log");
    let level = match section.text("level")? {
        Some(level) => Some(level),
        None => root.text("loglevel")?,
    };
    if let Some(level) = level {
        log.level = match level.to_ascii_lowercase().as_str() {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "debug" => Level::Debug,
            _ => Level::Info,
        };
    }
    if let Some(formatter) = section.text("formatter")? {
        log.formatter = match formatter.to_ascii_lowercase().as_str() {
            "json" => Formatter::Json,
            "logstash" => Formatter::Logstash,
            _ => Formatter::Text,
        };
    }
    if let Some(fields) = section.read("fields", value::names)? {
        log.fields = fields.into_iter().collect();
    }
    if let Some(disabled) = section.section("accesslog").flag("disabled")? {
        log.access = !disabled;
    }
    Ok(())
}

fn storage(root: &Section<'_>, storage: &mut sections::Storage) -> Result<(), Problem> {
    let section = &root.section("storage");
    let own = root.section("registry").section("storage");
    storage.connection = buckets::connection(&own)?;
    // A driver is chosen by its name, whatever stands under it.
    let entries = section.node.map(Node::entries).unwrap_or_default();
    let mut named = entries
        .iter()
        .filter(|entry| DRIVERS.contains(&entry.key.as_str()));
    if let Some(first) = named.next() {
        if let Some(second) = named.next() {
            return Err(Problem::at(
                &second.origin,
                format!(
                    "expected one place for content under `storage`, got `{}` and `{}`; \
                     `REGISTRY_STORAGE` replaces the whole section",
                    first.key, second.key
                ),
            ));
        }
        storage.driver = match first.key.as_str() {
            "filesystem" => {
                let root = section.section("filesystem").text("rootdirectory")?;
                // Distribution's own default.
                let root = root.unwrap_or_else(|| "/var/lib/registry".to_owned());
                Driver::Folder(root.into())
            }
            "inmemory" => Driver::Memory,
            name => buckets::read(name, section, &own, &mut storage.connection)?,
        };
    }
    if let Some(enabled) = section.section("delete").flag("enabled")? {
        storage.delete = enabled;
    }
    let maintenance = section.section("maintenance");
    if let Some(enabled) = maintenance.section("readonly").flag("enabled")? {
        storage.read_only = enabled;
    }
    let purging = maintenance.section("uploadpurging");
    let mut purge = UploadPurge::default();
    if let Some(age) = purging.interval("age")? {
        purge.age = age;
    }
    if let Some(interval) = purging.interval("interval")? {
        purge.interval = interval;
    }
    if let Some(dry_run) = purging.flag("dryrun")? {
        purge.dry_run = dry_run;
    }
    storage.purge = purging.flag("enabled")?.unwrap_or(true).then_some(purge);
    Ok(())
}

fn auth(section: &Section<'_>) -> Result<Auth, Problem> {
    let entries = section.node.map(Node::entries).unwrap_or_default();
    if let [first, second, ..] = entries {
        return Err(Problem::at(
            &second.origin,
            format!(
                "expected one scheme under `auth`, got `{}` and `{}`",
                first.key, second.key
            ),
        ));
    }
    let Some(scheme) = entries.first() else {
        return Ok(Auth::None);
    };
    let mut section = section.section(&scheme.key);
    // `htpasswd:` with nothing under it needs its keys all the same.
    section.node = Some(&scheme.node);
    Ok(match scheme.key.as_str() {
        "silly" => Auth::Silly {
            realm: section.needed_text("realm")?,
            service: section.needed_text("service")?,
        },
        "htpasswd" => Auth::Htpasswd {
            realm: section.needed_text("realm")?,
            path: section.needed_text("path")?.into(),
        },
        "token" => Auth::Token(token(&section)?),
        _ => Auth::None,
    })
}

fn token(section: &Section<'_>) -> Result<Token, Problem> {
    let token = Token {
        realm: section.needed_text("realm")?,
        service: section.needed_text("service")?,
        issuer: section.needed_text("issuer")?,
        root_cert_bundle: section.text("rootcertbundle")?.map(PathBuf::from),
        jwks: token_keys(section)?,
        signing_algorithms: section.texts("signingalgorithms")?,
    };
    if token.root_cert_bundle.is_none() && token.jwks.is_none() {
        return Err(Problem {
            origin: section.origin("realm"),
            text: "`auth.token` needs `rootcertbundle` or `jwks`: without keys no token could be verified"
                .to_owned(),
        });
    }
    Ok(token)
}

/// A path, as in distribution, or a URL, which could hardly be one
fn token_keys(section: &Section<'_>) -> Result<Option<TokenKeys>, Problem> {
    let text = section.text("jwks")?;
    let starts = |scheme: &str| {
        let start = text.as_deref().and_then(|text| text.get(..scheme.len()));
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    Ok(match starts("http://") || starts("https://") {
        true => section.url("jwks")?.map(TokenKeys::Url),
        false => text.map(|path| TokenKeys::File(path.into())),
    })
}

fn http(
    section: &Section<'_>,
    http: &mut sections::Http,
    warnings: &mut Vec<Warning>,
) -> Result<(), Problem> {
    if let Some(listen) = section.text("addr")? {
        http.listen = listen;
    }
    if let Some(net) = section.text("net")? {
        http.net = if net.eq_ignore_ascii_case("unix") {
            Network::Unix
        } else {
            Network::Tcp
        };
    }
    http.host = section.url("host")?;
    if let Some(prefix) = section.text("prefix")? {
        http.prefix = path_prefix(&prefix)
            .ok_or_else(|| section.problem("prefix", "expected a path such as `/registry/`"))?;
    }
    if let Some(relative) = section.flag("relativeurls")? {
        http.relative_urls = relative;
    }
    if let Some(timeout) = section.interval("draintimeout")? {
        http.drain_timeout = timeout;
    }
    if let Some(secret) = section.text("secret")? {
        if secret.len() < LEAST_SECRET {
            warnings.push(Warning {
                keys: vec!["http.secret".to_owned()],
                origin: section.origin("secret"),
                what: format!(
                    "it has fewer than {LEAST_SECRET} bytes, which can be guessed; upload \
                     sessions are sealed with a random one instead, which replicas do not share"
                ),
            });
        } else {
            http.secret = Some(Secret::Text(secret));
        }
    }
    http.tls = tls(&section.section("tls"), warnings)?;
    http.headers = section.headers("headers")?;
    http.debug = debug(&section.section("debug"), warnings)?;
    if let Some(disabled) = section.section("http2").flag("disabled")? {
        http.http2 = !disabled;
    }
    if let Some(enabled) = section.section("h2c").flag("enabled")? {
        http.h2c = enabled;
    }
    Ok(())
}

/// The shortest secret that is taken, in bytes
const LEAST_SECRET: usize = 16;

/// Reads `debug`
pub(super) fn debug(
    section: &Section<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Debug>, Problem> {
    let prometheus = section.section("prometheus");
    let path = prometheus
        .text("path")?
        .unwrap_or_else(|| "/metrics".to_owned());
    if !path.starts_with('/') {
        return Err(prometheus.problem("path", "expected a path such as `/metrics`"));
    }
    let metrics = prometheus.flag("enabled")?.unwrap_or(false).then_some(path);
    Ok(match section.text("addr")? {
        Some(listen) => Some(Debug {
            listen,
            prometheus: metrics,
        }),
        None if metrics.is_some() => {
            warnings.push(Warning {
                keys: vec![prometheus.path("enabled")],
                origin: prometheus.origin("enabled"),
                what: format!(
                    "metrics are served on `{}`, which is not set",
                    section.path("addr")
                ),
            });
            None
        }
        None => None,
    })
}

/// A path that begins and ends with `/`
fn path_prefix(text: &str) -> Option<String> {
    let inner = text.trim_matches('/');
    if inner.is_empty() {
        return Some("/".to_owned());
    }
    let usable = inner.split('/').all(|part| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    });
    usable.then(|| format!("/{inner}/"))
}

/// The cipher suites of TLS 1.2 that are safe, by their IANA names
const SAFE_SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// The cipher suites of TLS 1.3, which are always on
const SUITES_13: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// What distribution knows besides; none has both forward secrecy and authenticated encryption
const WEAK_SUITES: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// Reads `tls`
pub(super) fn tls(
    section: &Section<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Tls>, Problem> {
    let letsencrypt = section.section("letsencrypt");
    let identity = match (section.text("certificate")?, section.text("key")?) {
        (Some(certificate), Some(key)) => {
            if letsencrypt.node.is_some_and(|node| !node.is_empty()) {
                warnings.push(Warning {
                    keys: vec![letsencrypt.path.clone()],
                    origin: letsencrypt.node.map(|node| node.origin.clone()),
                    what: format!(
                        "`{}` is used instead, as in distribution",
                        section.path("certificate")
                    ),
                });
            }
            Identity::Files {
                certificate: certificate.into(),
                key: key.into(),
            }
        }
        (Some(_), None) => return section.needed("key", None),
        (None, Some(_)) => return section.needed("certificate", None),
        (None, None) => match letsencrypt.text("cachefile")? {
            Some(cache_file) => Identity::Acme(Acme {
                cache_file: cache_file.into(),
                email: letsencrypt.text("email")?,
                hosts: letsencrypt.texts("hosts")?,
                directory: letsencrypt.url("directoryurl")?,
            }),
            None if section.node.is_some_and(|node| !node.is_empty()) => {
                // Serving in the clear what was meant to be encrypted is no way to go on.
                return Err(Problem {
                    origin: section.origin("certificate"),
                    text: format!(
                        "`{}` needs `certificate` and `key`, or `letsencrypt.cachefile`",
                        section.path
                    ),
                });
            }
            None => return Ok(None),
        },
    };
    if let Identity::Acme(acme) = &identity
        && acme.hosts.is_empty()
    {
        return letsencrypt.needed("hosts", None);
    }
    let client_cas = section.paths("clientcas")?;
    let client_auth = client_auth(section, &client_cas, warnings)?;
    let mut warn = |key: &str, what: String| {
        warnings.push(Warning {
            keys: vec![section.path(key)],
            origin: section.origin(key),
            what,
        });
    };
    let minimum = match section.text("minimumtls")?.as_deref() {
        Some(text) if text.eq_ignore_ascii_case("tls1.3") => TlsVersion::Tls13,
        Some(text) if !text.eq_ignore_ascii_case("tls1.2") => {
            warn(
                "minimumtls",
                format!("TLS 1.2 is the lowest there is, `{text}` is broken"),
            );
            TlsVersion::Tls12
        }
        _ => TlsVersion::Tls12,
    };
    let mut cipher_suites = Vec::new();
    let wanted = section.texts("ciphersuites")?;
    for suite in &wanted {
        let suite = suite.as_str();
        // Distribution has two of them under short names.
        let full = match suite {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
                format!("{suite}_SHA256")
            }
            _ => suite.to_owned(),
        };
        if SAFE_SUITES.contains(&full.as_str()) {
            cipher_suites.push(full);
        } else if WEAK_SUITES.contains(&suite) {
            warn("ciphersuites", format!("`{suite}` is weak and left out"));
        } else if !SUITES_13.contains(&suite) {
            return Err(section.problem(
                "ciphersuites",
                format!("`{suite}` is no cipher suite that is known"),
            ));
        }
    }
    // TLS 1.3 has suites of its own, so that naming only those leaves no TLS 1.2 to speak.
    if !wanted.is_empty() && cipher_suites.is_empty() && minimum == TlsVersion::Tls12 {
        return Err(section.problem(
            "ciphersuites",
            format!(
                "none of them can be used with TLS 1.2; name one of {}, or set `minimumtls: tls1.3`",
                SAFE_SUITES.join(", ")
            ),
        ));
    }
    Ok(Some(Tls {
        identity,
        client_cas,
        client_auth,
        minimum,
        cipher_suites,
    }))
}

fn client_auth(
    section: &Section<'_>,
    client_cas: &[PathBuf],
    warnings: &mut Vec<Warning>,
) -> Result<ClientAuth, Problem> {
    let key = "clientauth";
    let written = section.text(key)?.map(|text| text.to_ascii_lowercase());
    let asked = match written.as_deref() {
        None if client_cas.is_empty() => ClientAuth::None,
        None | Some("require-and-verify-client-cert") => ClientAuth::Required,
        Some("verify-client-cert-if-given") => ClientAuth::Given,
        Some("require-any-client-cert") => {
            return Err(section.problem(
                key,
                "a certificate that nobody verifies lets everyone in; expected \
                 `require-and-verify-client-cert` with `clientcas`",
            ));
        }
        Some(_) => {
            warnings.push(Warning {
                keys: vec![section.path(key)],
                origin: section.origin(key),
                what: "a certificate that nobody verifies says nothing; none is asked for"
                    .to_owned(),
            });
            ClientAuth::None
        }
    };
    if asked != ClientAuth::None && client_cas.is_empty() {
        return section.needed("clientcas", None);
    }
    Ok(asked)
}

fn notifications(section: &Section<'_>) -> Result<Notifications, Problem> {
    let mut notifications = Notifications {
        include_references: section
            .section("events")
            .flag("includereferences")?
            .unwrap_or(false),
        endpoints: Vec::new(),
    };
    for section in section.sections("endpoints") {
        if section.flag("disabled")?.unwrap_or(false) {
            continue;
        }
        let url = section.url("url")?;
        let url = section.needed("url", url)?;
        let ignore = section.section("ignore");
        let mut ignored_media_types = section.texts("ignoredmediatypes")?;
        for media_type in ignore.texts("mediatypes")? {
            if !ignored_media_types.contains(&media_type) {
                ignored_media_types.push(media_type);
            }
        }
        let endpoint = Endpoint {
            name: section
                .text("name")?
                .unwrap_or_else(|| url.host().to_owned()),
            headers: section.headers("headers")?,
            // These three are distribution's.
            timeout: section
                .interval("timeout")?
                .unwrap_or(Duration::from_secs(1)),
            threshold: section.times("threshold")?.unwrap_or(10),
            backoff: section
                .interval("backoff")?
                .unwrap_or(Duration::from_secs(1)),
            ignored_media_types,
            ignored_actions: ignore.texts("actions")?,
            url,
        };
        if notifications
            .endpoints
            .iter()
            .any(|other| other.name == endpoint.name)
        {
            return Err(section.problem(
                "name",
                format!(
                    "`{}` is the name of another endpoint; each needs its own, under which its events wait",
                    endpoint.name
                ),
            ));
        }
        notifications.endpoints.push(endpoint);
    }
    Ok(notifications)
}

/// Reads `health`
pub(super) fn health(section: &Section<'_>) -> Result<Health, Problem> {
    let storage = section.section("storagedriver");
    let mut health = Health::default();
    let storage_pace = pace(&storage)?;
    if storage.flag("enabled")?.unwrap_or(false) {
        health.storage = Some(StorageCheck { pace: storage_pace });
    }
    for section in section.sections("file") {
        health.files.push(FileCheck {
            path: section.needed_text("file")?.into(),
            pace: pace(&section)?,
        });
    }
    for section in section.sections("http") {
        let url = section.url("uri")?;
        let pace = pace(&section)?;
        let status = section.number("statuscode")?.filter(|status| *status != 0);
        health.http.push(HttpCheck {
            url: section.needed("uri", url)?,
            headers: section.headers("headers")?,
            status: match status.unwrap_or(200) {
                status @ 100..=599 => status as u16,
                status => {
                    let text = format!("expected a status from 100 to 599, got {status}");
                    return Err(section.problem("statuscode", text));
                }
            },
            timeout: section.interval("timeout")?.unwrap_or(pace.interval),
            pace,
        });
    }
    for section in section.sections("tcp") {
        let pace = pace(&section)?;
        health.tcp.push(TcpCheck {
            address: section.needed_text("addr")?,
            timeout: section.interval("timeout")?.unwrap_or(pace.interval),
            pace,
        });
    }
    Ok(health)
}

fn pace(section: &Section<'_>) -> Result<Pace, Problem> {
    let default = Pace::default();
    Ok(Pace {
        interval: section.interval("interval")?.unwrap_or(default.interval),
        threshold: section.times("threshold")?.unwrap_or(default.threshold),
    })
}

fn validation(section: &Section<'_>, validation: &mut sections::Validation) -> Result<(), Problem> {
    let urls = section.section("manifests").section("urls");
    let (allow, deny) = (patterns(&urls, "allow")?, patterns(&urls, "deny")?);
    let enabled = section.flag("enabled")?;
    let disabled = section.flag("disabled")?;
    // As in distribution: `enabled: true` wins, and `enabled: false` says nothing.
    match (enabled, disabled) {
        (Some(true), _) | (_, Some(false)) => {
            validation.manifest_urls = ManifestUrls::Checked { allow, deny };
        }
        (_, Some(true)) => validation.manifest_urls = ManifestUrls::Unchecked,
        (_, None) => {
            let checked = matches!(validation.manifest_urls, ManifestUrls::Checked { .. });
            if checked || urls.node.is_some() {
                validation.manifest_urls = ManifestUrls::Checked { allow, deny };
            }
        }
    }
    Ok(())
}

fn patterns(section: &Section<'_>, key: &str) -> Result<Vec<String>, Problem> {
    let patterns = section.texts(key)?;
    for pattern in &patterns {
        if Regex::new(pattern).is_err() {
            return Err(section.problem(
                key,
                format!(
                    "expected a regular expression, got `{}`",
                    pattern.escape_debug()
                ),
            ));
        }
    }
    Ok(patterns)
}

fn own(section: &Section<'_>, own: &mut sections::Own) -> Result<(), Problem> {
    if let Some(limit) = section.number("manifestlimit")? {
        own.manifest_limit = usize::try_from(limit)
            .ok()
            .filter(|limit| *limit >= LEAST_MANIFEST_LIMIT)
            .ok_or_else(|| {
                section.problem(
                    "manifestlimit",
                    format!(
                        "expected at least {LEAST_MANIFEST_LIMIT} bytes, which the specification lets \
                         clients rely on, got {limit}"
                    ),
                )
            })?;
    }
    if let Some(networks) = networks(section, "trustedproxies")? {
        own.trusted_proxies = networks;
    }
    let outbox = section.section("notifications").section("outbox");
    own.outbox.directory = outbox.text("directory")?.map(PathBuf::from);
    if let Some(bytes) = outbox.number("maxbytes")? {
        // Below that not one large event would fit.
        own.outbox.max_bytes = u64::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes >= 1024 * 1024)
            .ok_or_else(|| {
                outbox.problem(
                    "maxbytes",
                    format!("expected at least 1048576 bytes, got {bytes}"),
                )
            })?;
    }
    let access = section.section("access");
    own.access_rules = access.text("rules")?.map(PathBuf::from);
    own.acumos = acumos::read(&access, &section.section("auth"))?;
    let auth = section.section("auth");
    let accounts = auth.section("accounts");
    if accounts.node.is_some() {
        own.accounts = Some(Programs::File {
            realm: accounts
                .text("realm")?
                .unwrap_or_else(|| "Registry".to_owned()),
            path: accounts.needed_text("path")?.into(),
        });
    }
    own.token_ca_file = auth.section("token").text("cafile")?.map(PathBuf::from);
    own.certificates = certificates(&auth.section("certificates"))?;
    if let Some(hide) = access.flag("hide")? {
        own.hide = hide;
    }
    own.audit = audit(&access)?;
    own.limits = limits::read(&section.section("limits"))?;
    own.tokens = tokens::read(&section.section("tokens"))?;
    if let Some(delay) = section.duration("draindelay")? {
        own.drain_delay = delay;
    }
    if let Some(interval) = section.section("reload").interval("interval")? {
        own.reload_interval = interval;
    }
    Ok(())
}

/// What stands under `audit`
pub(super) fn audit(section: &Section<'_>) -> Result<Option<Audit>, Problem> {
    Ok(section.text("audit")?.map(|at| match at.as_str() {
        "stdout" => Audit::Stdout,
        "stderr" => Audit::Stderr,
        _ => Audit::File(at.into()),
    }))
}

pub(super) fn certificates(section: &Section<'_>) -> Result<Option<CertificateOptions>, Problem> {
    if section.node.is_none() {
        return Ok(None);
    }
    let mut options = CertificateOptions::default();
    if let Some(name) = section.text("name")? {
        options.name = match name.to_ascii_lowercase().as_str() {
            "dns" => CertificateName::Dns,
            "email" => CertificateName::Email,
            "uri" => CertificateName::Uri,
            _ => CertificateName::CommonName,
        };
    }
    if let Some(kind) = section.text("kind")? {
        options.kind = match kind.eq_ignore_ascii_case("service") {
            true => CertificateKind::Service,
            false => CertificateKind::User,
        };
    }
    if let Some(are_roles) = section.flag("rolesfromunits")? {
        options.roles_from_units = are_roles;
    }
    Ok(Some(options))
}

/// Addresses, and networks of them
pub(super) fn networks(section: &Section<'_>, key: &str) -> Result<Option<Vec<IpNet>>, Problem> {
    if section.node(key).is_none() {
        return Ok(None);
    }
    let read = |text: &String| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            section.problem(
                key,
                format!("expected addresses such as `10.0.0.1` or `10.0.0.0/8`, got `{text}`"),
            )
        })
    };
    section
        .texts(key)?
        .iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map(Some)
}
