//! The configuration of `docker-proxy` for people: what is in force

use std::path::Path;

use ipnet::IpNet;

use super::super::acumos::{self, Credentials};
use super::super::limits;
use super::super::render::{self, Out};
use super::super::secret::HIDDEN;
use super::super::tokens::out as tokens_out;
use super::super::{ConfigError, Level, Secret};
use super::sections::{
    Content, LogFormat, Logs, ProxyConfig, ProxyLimits, Redirects, Timeouts, Upstream,
};
use super::{Loaded, Overrides};

/// What a file, the command line and the environment put in force: YAML with every default filled
/// in, secrets hidden, and after it, as comments, what came from the environment and the warnings
///
/// # Errors
///
/// [`ConfigError`], as of [`ProxyConfig::load`].
pub fn check(
    path: Option<&Path>,
    overrides: &Overrides,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<String, ConfigError> {
    let loaded = Loaded::load(path, overrides, environment)?;
    let mut text = yaml(&loaded.config);
    let mut comments = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n# {title}\n"));
            for line in lines {
                text.push_str(&format!("#   {line}\n"));
            }
        }
    };
    let pairs = |pairs: &[(String, String)]| {
        let line = |(path, variable): &(String, String)| format!("{path} ({variable})");
        pairs.iter().map(line).collect()
    };
    comments("From the environment:", pairs(&loaded.filled.applied));
    comments(
        "In the environment, and not used, since it was said before:",
        pairs(&loaded.filled.unused),
    );
    comments(
        "Warnings:",
        loaded.warnings.iter().map(ToString::to_string).collect(),
    );
    Ok(text)
}

/// A configuration as the YAML that would give it, but for secrets
fn yaml(config: &ProxyConfig) -> String {
    let ProxyConfig {
        listen,
        host,
        tls,
        content,
        acumos,
        htpasswd,
        service_accounts,
        certificates,
        audit,
        hide,
        limits: bounds,
        session_secret,
        tokens,
        trusted_proxies,
        auth_request,
        logs,
        debug,
        health,
        reload_interval,
        drain_delay,
        drain_timeout,
    } = config;
    let (embedded, upstream) = match content {
        Content::Embedded(folder) => (Some(Out::path(folder)), None),
        Content::Upstream(upstream) => (None, Some(self::upstream(upstream))),
    };
    let htpasswd = htpasswd.as_ref().map(|htpasswd| {
        Out::map([
            ("path", Out::path(&htpasswd.path)),
            ("realm", Out::text(&htpasswd.realm)),
        ])
    });
    let accounts = service_accounts
        .iter()
        .map(|account| Out::Map(credentials(account, "name")))
        .collect();
    let auth_request = auth_request.as_ref().map(|auth_request| {
        Out::map([
            ("path", Out::text(&auth_request.path)),
            ("peers", networks(&auth_request.peers)),
        ])
    });
    let mut login = acumos::access(acumos);
    if let (Out::Map(entries), Some(out)) = (&mut login, acumos::auth(acumos)) {
        entries.push(("login".to_owned(), out));
    }
    let sections = Out::some([
        ("listen", Some(Out::text(listen))),
        ("host", host.as_ref().map(Out::text)),
        ("tls", tls.as_ref().map(render::tls)),
        ("embedded", embedded),
        ("upstream", upstream),
        ("acumos", Some(login)),
        ("htpasswd", htpasswd),
        ("serviceaccounts", Some(Out::List(accounts))),
        (
            "certificates",
            certificates.as_ref().map(render::certificates),
        ),
        ("audit", audit.as_ref().map(render::audit)),
        ("hide", Some(Out::Flag(*hide))),
        ("limits", Some(bounds_out(bounds))),
        (
            "sessions",
            session_secret.as_ref().map(|secret| match secret {
                Secret::File(path) => Out::map([("secretfile", Out::path(path))]),
                Secret::Text(_) => Out::map([("secret", Out::text(HIDDEN))]),
            }),
        ),
        ("tokens", tokens.as_ref().map(tokens_out)),
        ("trustedproxies", Some(networks(trusted_proxies))),
        ("authrequest", auth_request),
        ("logs", Some(self::logs(logs))),
        ("debug", debug.as_ref().map(render::debug)),
        ("health", Some(render::checks(health))),
        (
            "reload",
            Some(Out::map([("interval", Out::duration(*reload_interval))])),
        ),
        ("draindelay", Some(Out::duration(*drain_delay))),
        ("draintimeout", Some(Out::duration(*drain_timeout))),
    ]);
    render::write(&sections)
}

fn bounds_out(bounds: &ProxyLimits) -> Out {
    let count = |count: Option<usize>| count.map(|count| Out::number(count as u64));
    let mut out = Out::some([
        ("requests", count(bounds.requests)),
        ("connections", count(bounds.connections)),
    ]);
    if let (Out::Map(entries), Out::Map(rates)) = (&mut out, limits::out(&bounds.rates)) {
        entries.extend(rates);
    }
    out
}

fn upstream(upstream: &Upstream) -> Out {
    let Upstream {
        url,
        credentials,
        ca_file,
        redirects,
        realms,
        storage,
        timeouts,
    } = upstream;
    let mut entries = vec![("url".to_owned(), Out::text(url.to_string()))];
    entries.extend(
        credentials
            .iter()
            .flat_map(|credentials| self::credentials(credentials, "user")),
    );
    entries.extend(
        ca_file
            .as_deref()
            .map(|path| ("cafile".to_owned(), Out::path(path))),
    );
    let redirects = match redirects {
        Redirects::Follow => "follow",
        Redirects::Pass => "pass",
    };
    let Timeouts {
        connect,
        answer,
        commit,
        idle,
    } = timeouts;
    entries.extend([
        ("redirects".to_owned(), Out::text(redirects)),
        ("realms".to_owned(), Out::texts(realms)),
        ("storage".to_owned(), Out::texts(storage)),
        (
            "timeouts".to_owned(),
            Out::map([
                ("connect", Out::duration(*connect)),
                ("answer", Out::duration(*answer)),
                ("commit", Out::duration(*commit)),
                ("idle", Out::duration(*idle)),
            ]),
        ),
    ]);
    Out::Map(entries)
}

fn credentials(credentials: &Credentials, name: &str) -> Vec<(String, Out)> {
    let (key, password) = match &credentials.password {
        Secret::File(path) => ("passwordfile", Out::path(path)),
        Secret::Text(_) => ("password", Out::text(HIDDEN)),
    };
    vec![
        (name.to_owned(), Out::text(&credentials.user)),
        (key.to_owned(), password),
    ]
}

fn networks(networks: &[IpNet]) -> Out {
    let texts = networks
        .iter()
        .map(|network| Out::text(network.to_string()));
    Out::List(texts.collect())
}

fn logs(logs: &Logs) -> Out {
    let Logs {
        directory,
        level,
        format,
        access,
        console,
        keep,
        max_bytes,
    } = logs;
    let format = match format {
        LogFormat::Athena => "athena",
        LogFormat::Boreas => "boreas",
    };
    Out::some([
        ("directory", directory.as_deref().map(Out::path)),
        ("level", Some(Out::text(name(*level)))),
        ("format", Some(Out::text(format))),
        ("access", Some(Out::Flag(*access))),
        ("console", Some(Out::text(console.map_or("off", name)))),
        ("keep", Some(Out::number(*keep))),
        ("maxbytes", Some(Out::number(*max_bytes))),
    ])
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}
