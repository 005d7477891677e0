//! The configuration for people: what is in force, and the table of keys

use std::path::Path;
use std::time::Duration;

use registry_auth::{CertificateKind, CertificateName, CertificateOptions};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::acumos;
use super::buckets;
use super::keys::{Fate, KEYS, expand};
use super::limits;
use super::secret::HIDDEN;
use super::tokens;
use super::{
    Audit, Auth, ClientAuth, Config, ConfigError, Debug, Driver, Endpoint, Formatter, Headers,
    Health, Http, Identity, Level, Loaded, ManifestUrls, Network, Pace, Programs, Tls, TlsVersion,
    TokenKeys, duration,
};

/// What a file and the environment put in force: YAML with every default filled in, secrets
/// hidden, and after it, as comments, what came from the environment and the warnings
///
/// # Errors
///
/// [`ConfigError`], as of [`Config::load`].
pub fn check(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<String, ConfigError> {
    let loaded = Loaded::load(path, environment)?;
    let mut text = yaml(&loaded.config);
    let mut comments = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n# {title}\n"));
            for line in lines {
                text.push_str(&format!("#   {line}\n"));
            }
        }
    };
    comments(
        "From the environment:",
        loaded
            .applied
            .iter()
            .map(|(path, variable)| format!("{path} ({variable})"))
            .collect(),
    );
    comments(
        "Warnings:",
        loaded.warnings.iter().map(ToString::to_string).collect(),
    );
    Ok(text)
}

/// A configuration as the YAML that would give it, but for secrets
pub(crate) fn yaml(config: &Config) -> String {
    let sections = Out::map([
        ("log", log(config)),
        ("storage", storage(config)),
        ("auth", auth(&config.auth)),
        ("http", http(&config.http)),
        (
            "notifications",
            Out::map([
                (
                    "events",
                    Out::map([(
                        "includereferences",
                        Out::Flag(config.notifications.include_references),
                    )]),
                ),
                (
                    "endpoints",
                    Out::List(
                        config
                            .notifications
                            .endpoints
                            .iter()
                            .map(endpoint)
                            .collect(),
                    ),
                ),
            ]),
        ),
        ("health", health(&config.health)),
        ("validation", validation(&config.validation.manifest_urls)),
        (
            "catalog",
            Out::map([("maxentries", Out::number(config.catalog.max_entries as u64))]),
        ),
        ("registry", own(config)),
    ]);
    format!("version: 0.1\n{}", write(&sections))
}

/// The YAML of it
pub(super) fn write(out: &Out) -> String {
    serde_saphyr::to_string(out)
        .expect("text, numbers, lists and maps with text for keys can all be written as YAML")
}

/// What can be written
pub(super) enum Out {
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Out {
    pub(super) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
    }

    /// A map of those entries that there are
    pub(super) fn some<const N: usize>(entries: [(&str, Option<Self>); N]) -> Self {
        Self::Map(
            entries
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect(),
        )
    }

    pub(super) fn number(number: impl Into<u64>) -> Self {
        Self::Number(number.into())
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn path(path: &Path) -> Self {
        Self::Text(path.display().to_string())
    }

    pub(super) fn duration(value: Duration) -> Self {
        Self::Text(duration::format(value))
    }

    pub(super) fn texts(texts: &[String]) -> Self {
        Self::List(texts.iter().map(Self::text).collect())
    }

    /// Header fields; `shown` is whether their values are
    pub(super) fn headers(headers: &Headers, shown: bool) -> Self {
        let mut entries: Vec<(String, Self)> = Vec::new();
        for (name, value) in headers.iter() {
            let value = Self::text(if shown { value } else { HIDDEN });
            match entries.iter_mut().find(|(key, _)| key == name) {
                Some((_, Self::List(values))) => values.push(value),
                _ => entries.push((name.to_owned(), Self::List(vec![value]))),
            }
        }
        Self::Map(entries)
    }
}

impl Serialize for Out {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

fn enabled(flag: bool) -> Out {
    Out::map([("enabled", Out::Flag(flag))])
}

fn disabled(flag: bool) -> Out {
    Out::map([("disabled", Out::Flag(flag))])
}

fn log(config: &Config) -> Out {
    let log = &config.log;
    Out::map([
        (
            "level",
            Out::text(match log.level {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
            }),
        ),
        (
            "formatter",
            Out::text(match log.formatter {
                Formatter::Text => "text",
                Formatter::Json => "json",
                Formatter::Logstash => "logstash",
            }),
        ),
        (
            "fields",
            Out::Map(
                log.fields
                    .iter()
                    .map(|(name, value)| (name.clone(), Out::text(value)))
                    .collect(),
            ),
        ),
        ("accesslog", disabled(!log.access)),
    ])
}

fn storage(config: &Config) -> Out {
    let storage = &config.storage;
    let driver = buckets::out(&storage.driver, &storage.connection);
    let driver = driver.unwrap_or_else(|| match &storage.driver {
        Driver::Folder(root) => ("filesystem", Out::map([("rootdirectory", Out::path(root))])),
        _ => ("inmemory", Out::map([])),
    });
    let purging = match &storage.purge {
        Some(purge) => Out::map([
            ("enabled", Out::Flag(true)),
            ("age", Out::duration(purge.age)),
            ("interval", Out::duration(purge.interval)),
            ("dryrun", Out::Flag(purge.dry_run)),
        ]),
        None => enabled(false),
    };
    Out::map([
        driver,
        ("delete", enabled(storage.delete)),
        (
            "maintenance",
            Out::map([
                ("uploadpurging", purging),
                ("readonly", enabled(storage.read_only)),
            ]),
        ),
    ])
}

fn auth(auth: &Auth) -> Out {
    match auth {
        Auth::None => Out::text("none"),
        Auth::Silly { realm, service } => Out::map([(
            "silly",
            Out::map([("realm", Out::text(realm)), ("service", Out::text(service))]),
        )]),
        Auth::Htpasswd { realm, path } => Out::map([(
            "htpasswd",
            Out::map([("realm", Out::text(realm)), ("path", Out::path(path))]),
        )]),
        Auth::Token(token) => Out::map([(
            "token",
            Out::some([
                ("realm", Some(Out::text(&token.realm))),
                ("service", Some(Out::text(&token.service))),
                ("issuer", Some(Out::text(&token.issuer))),
                (
                    "rootcertbundle",
                    token.root_cert_bundle.as_deref().map(Out::path),
                ),
                (
                    "jwks",
                    token.jwks.as_ref().map(|keys| match keys {
                        TokenKeys::File(path) => Out::path(path),
                        TokenKeys::Url(url) => Out::text(url.to_string()),
                    }),
                ),
                (
                    "signingalgorithms",
                    Some(Out::texts(&token.signing_algorithms)),
                ),
            ]),
        )]),
    }
}

fn http(http: &Http) -> Out {
    Out::some([
        ("addr", Some(Out::text(&http.listen))),
        (
            "net",
            Some(Out::text(match http.net {
                Network::Tcp => "tcp",
                Network::Unix => "unix",
            })),
        ),
        (
            "host",
            http.host.as_ref().map(|url| Out::text(url.to_string())),
        ),
        ("prefix", Some(Out::text(&http.prefix))),
        ("relativeurls", Some(Out::Flag(http.relative_urls))),
        ("draintimeout", Some(Out::duration(http.drain_timeout))),
        ("secret", http.secret.as_ref().map(|_| Out::text(HIDDEN))),
        ("tls", http.tls.as_ref().map(tls)),
        ("headers", Some(Out::headers(&http.headers, true))),
        ("debug", http.debug.as_ref().map(debug)),
        ("http2", Some(disabled(!http.http2))),
        ("h2c", Some(enabled(http.h2c))),
    ])
}

pub(super) fn debug(debug: &Debug) -> Out {
    let prometheus = match &debug.prometheus {
        Some(path) => Out::map([("enabled", Out::Flag(true)), ("path", Out::text(path))]),
        None => enabled(false),
    };
    Out::map([
        ("addr", Out::text(&debug.listen)),
        ("prometheus", prometheus),
    ])
}

pub(super) fn tls(tls: &Tls) -> Out {
    let (certificate, key, letsencrypt) = match &tls.identity {
        Identity::Files { certificate, key } => {
            (Some(Out::path(certificate)), Some(Out::path(key)), None)
        }
        Identity::Acme(acme) => {
            let acme = Out::some([
                ("cachefile", Some(Out::path(&acme.cache_file))),
                ("email", acme.email.as_ref().map(Out::text)),
                ("hosts", Some(Out::texts(&acme.hosts))),
                (
                    "directoryurl",
                    acme.directory
                        .as_ref()
                        .map(|url| Out::text(url.to_string())),
                ),
            ]);
            (None, None, Some(acme))
        }
    };
    let client_auth = match tls.client_auth {
        ClientAuth::None => None,
        ClientAuth::Given => Some("verify-client-cert-if-given"),
        ClientAuth::Required => Some("require-and-verify-client-cert"),
    };
    Out::some([
        ("certificate", certificate),
        ("key", key),
        ("letsencrypt", letsencrypt),
        (
            "clientcas",
            Some(Out::List(
                tls.client_cas.iter().map(|path| Out::path(path)).collect(),
            )),
        ),
        ("clientauth", client_auth.map(Out::text)),
        (
            "minimumtls",
            Some(Out::text(match tls.minimum {
                TlsVersion::Tls12 => "tls1.2",
                TlsVersion::Tls13 => "tls1.3",
            })),
        ),
        ("ciphersuites", Some(Out::texts(&tls.cipher_suites))),
    ])
}

fn endpoint(endpoint: &Endpoint) -> Out {
    Out::map([
        ("name", Out::text(&endpoint.name)),
        ("url", Out::text(endpoint.url.to_string())),
        ("headers", Out::headers(&endpoint.headers, false)),
        ("timeout", Out::duration(endpoint.timeout)),
        ("threshold", Out::number(endpoint.threshold)),
        ("backoff", Out::duration(endpoint.backoff)),
        (
            "ignore",
            Out::map([
                ("mediatypes", Out::texts(&endpoint.ignored_media_types)),
                ("actions", Out::texts(&endpoint.ignored_actions)),
            ]),
        ),
    ])
}

fn health(health: &Health) -> Out {
    let storage = match &health.storage {
        Some(check) => paced(vec![("enabled", Out::Flag(true))], &check.pace),
        None => enabled(false),
    };
    let mut out = checks(health);
    if let Out::Map(entries) = &mut out {
        entries.insert(0, ("storagedriver".to_owned(), storage));
    }
    out
}

fn paced(entries: Vec<(&str, Out)>, pace: &Pace) -> Out {
    let mut entries: Vec<(String, Out)> = entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    entries.push(("interval".to_owned(), Out::duration(pace.interval)));
    entries.push(("threshold".to_owned(), Out::number(pace.threshold)));
    Out::Map(entries)
}

/// What stands under `health` besides the storage
pub(super) fn checks(health: &Health) -> Out {
    let files = health
        .files
        .iter()
        .map(|check| paced(vec![("file", Out::path(&check.path))], &check.pace));
    let http = health.http.iter().map(|check| {
        let entries = vec![
            ("uri", Out::text(check.url.to_string())),
            ("headers", Out::headers(&check.headers, false)),
            ("statuscode", Out::number(check.status)),
            ("timeout", Out::duration(check.timeout)),
        ];
        paced(entries, &check.pace)
    });
    let tcp = health.tcp.iter().map(|check| {
        let entries = vec![
            ("addr", Out::text(&check.address)),
            ("timeout", Out::duration(check.timeout)),
        ];
        paced(entries, &check.pace)
    });
    Out::map([
        ("file", Out::List(files.collect())),
        ("http", Out::List(http.collect())),
        ("tcp", Out::List(tcp.collect())),
    ])
}

fn validation(urls: &ManifestUrls) -> Out {
    match urls {
        ManifestUrls::Unchecked => disabled(true),
        ManifestUrls::Checked { allow, deny } => Out::map([
            ("disabled", Out::Flag(false)),
            (
                "manifests",
                Out::map([(
                    "urls",
                    Out::map([("allow", Out::texts(allow)), ("deny", Out::texts(deny))]),
                )]),
            ),
        ]),
    }
}

fn own(config: &Config) -> Out {
    let own = &config.registry;
    let proxies = own
        .trusted_proxies
        .iter()
        .map(|net| Out::text(net.to_string()));
    let mut sections = Out::map([
        ("manifestlimit", Out::number(own.manifest_limit as u64)),
        ("trustedproxies", Out::List(proxies.collect())),
        ("draindelay", Out::duration(own.drain_delay)),
        (
            "access",
            Out::some([
                ("rules", own.access_rules.as_deref().map(Out::path)),
                ("acumos", own.acumos.as_ref().map(acumos::access)),
                ("hide", Some(Out::Flag(own.hide))),
                ("audit", own.audit.as_ref().map(audit)),
            ]),
        ),
        ("limits", limits::out(&own.limits)),
        (
            "auth",
            Out::some([
                ("acumos", own.acumos.as_ref().and_then(acumos::auth)),
                (
                    "accounts",
                    own.accounts.as_ref().and_then(|accounts| match accounts {
                        Programs::File { realm, path } => Some(Out::map([
                            ("realm", Out::text(realm)),
                            ("path", Out::path(path)),
                        ])),
                        // They have no key here.
                        Programs::Listed { .. } => None,
                    }),
                ),
                (
                    "token",
                    own.token_ca_file
                        .as_deref()
                        .map(|path| Out::map([("cafile", Out::path(path))])),
                ),
                ("certificates", own.certificates.as_ref().map(certificates)),
            ]),
        ),
        (
            "notifications",
            Out::map([(
                "outbox",
                Out::some([
                    (
                        "directory",
                        config.outbox_directory().as_deref().map(Out::path),
                    ),
                    ("maxbytes", Some(Out::number(own.outbox.max_bytes))),
                ]),
            )]),
        ),
        (
            "reload",
            Out::map([("interval", Out::duration(own.reload_interval))]),
        ),
    ]);
    if let Out::Map(entries) = &mut sections
        && !matches!(config.storage.driver, Driver::Folder(_) | Driver::Memory)
    {
        let connection = buckets::connection_out(&config.storage.connection);
        entries.push(("storage".to_owned(), connection));
    }
    if let (Out::Map(entries), Some(tokens)) = (&mut sections, &own.tokens) {
        entries.push(("tokens".to_owned(), tokens::out(tokens)));
    }
    sections
}

/// What stands under `audit`
pub(super) fn audit(audit: &Audit) -> Out {
    match audit {
        Audit::File(path) => Out::path(path),
        Audit::Stderr => Out::text("stderr"),
        Audit::Stdout => Out::text("stdout"),
    }
}

/// What stands under `certificates`
pub(super) fn certificates(options: &CertificateOptions) -> Out {
    Out::map([
        (
            "name",
            Out::text(match options.name {
                CertificateName::Dns => "dns",
                CertificateName::Email => "email",
                CertificateName::Uri => "uri",
                _ => "commonname",
            }),
        ),
        (
            "kind",
            Out::text(match options.kind {
                CertificateKind::Service => "service",
                _ => "user",
            }),
        ),
        ("rolesfromunits", Out::Flag(options.roles_from_units)),
    ])
}

/// The table of keys in Markdown, key by key what is supported
///
/// It is kept as `examples/configs/README.md`.
pub fn markdown() -> String {
    let mut text = "\
# What of distribution's configuration is supported

Generated from the table in `examples/src/config/keys.rs`, which the reader itself follows; a test
keeps the two the same. `registry config check FILE` shows what a file puts in force.

- **honoured**: it does what distribution's documentation says.
- **warning**: the key is known and does nothing; one line at start says what happens instead. What
  is switched off with `enabled: false` or `disabled: true` is not warned about.
- **error**: going on without it would be unsafe or pointless, so the registry does not start.

A key that is not in the table is an error with its line and the nearest known key. Every key can be
set by an environment variable: `http.addr` by `REGISTRY_HTTP_ADDR`, an item of a list by its index.
A variable that begins with `REGISTRY_` and matches no key is a warning.
`auth: none`, `storage: inmemory` and the like, where a name stands for a section, work too.

In this folder, `production.yml` is a commented file to start from, and `distribution/` has files of
distribution and its packages, which a test reads as they are.

| key | takes | here |
|---|---|---|
"
    .to_owned();
    for key in KEYS {
        let here = match key.fate {
            Fate::Honoured => "honoured".to_owned(),
            Fate::Differently(how) => format!("honoured; {how}"),
            Fate::Only(only, why) => format!("always `{only}`, else a warning: {why}"),
            Fate::Ignored(instead) => format!("warning: {instead}"),
            Fate::Refused(why) => format!("error: {why}"),
        };
        let paths: Vec<String> = expand(key.path)
            .iter()
            .map(|path| format!("`{path}`"))
            .collect();
        text.push_str(&format!(
            "| {} | {} | {here} |\n",
            paths.join(", "),
            key.kind.expected()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_can_be_printed_and_read_again() {
        for text in [
            "",
            " ",
            "~",
            "null",
            "yes",
            "0.1",
            ":x",
            "#",
            "a: b",
            "- a",
            "'",
            "\"",
            "a\nb",
            "\t",
            "\u{0}\u{7}\u{7f}\u{85}\u{2028}\u{feff}",
            "${HOME}",
            "{{ x }}",
            "*a",
            "&a",
            "!a",
            "|",
            "%",
        ] {
            let mut config = Config::default();
            config
                .log
                .fields
                .insert("field".to_owned(), text.to_owned());
            config
                .log
                .fields
                .insert(text.to_owned(), "value".to_owned());
            let printed = yaml(&config);
            let (again, _) = Config::from_yaml(&printed).unwrap();
            assert_eq!(again.log, config.log, "{printed}");
        }
    }
}
