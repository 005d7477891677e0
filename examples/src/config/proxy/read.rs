//! From what was written to the configuration of `docker-proxy` that is in force

use std::path::PathBuf;
use std::time::Duration;

use super::super::acumos::{self, Credentials, Login, Source};
use super::super::read::{audit, certificates, debug, health, networks, tls};
use super::super::section::Section;
use super::super::tokens;
use super::super::tree::Node;
use super::super::value::Problem;
use super::super::{Acumos, Level, Secret, Warning};
use super::sections::{
    AuthRequest, Content, HtpasswdFile, LogFormat, Logs, ProxyConfig, ProxyLimits, Redirects,
    Timeouts, Upstream, secret,
};

/// The port that users of the platform know
const PORT: u16 = 30883;

/// Reads a tree whose keys are known
pub(super) fn config(root: &Node) -> Result<(ProxyConfig, Vec<Warning>), Problem> {
    let mut warnings = Vec::new();
    let root = Section::new(root, "");
    let content = content(&root)?;
    let service_accounts = service_accounts(&root)?;
    let acumos = acumos(&root, &content)?;
    let tls = tls(&root.section("tls"), &mut warnings)?;
    let listen = root.text("listen")?.unwrap_or_else(|| match &tls {
        Some(_) => format!(":{PORT}"),
        None => format!("127.0.0.1:{PORT}"),
    });
    let times = |key: &str, default| -> Result<Duration, Problem> {
        Ok(root.duration(key)?.unwrap_or(default))
    };
    let config = ProxyConfig {
        listen,
        host: root.text("host")?,
        tls,
        htpasswd: htpasswd(&root.section("htpasswd"))?,
        service_accounts,
        certificates: certificates(&root.section("certificates"))?,
        audit: audit(&root)?,
        hide: root.flag("hide")?.unwrap_or(true),
        limits: limits(&root.section("limits"))?,
        session_secret: session_secret(&root.section("sessions"))?,
        tokens: tokens::read(&root.section("tokens"))?,
        trusted_proxies: match networks(&root, "trustedproxies")? {
            Some(networks) => networks,
            None => super::super::Own::default().trusted_proxies,
        },
        auth_request: auth_request(&root.section("authrequest"))?,
        logs: logs(&root.section("logs"))?,
        debug: debug(&root.section("debug"), &mut warnings)?,
        health: health(&root.section("health"))?,
        reload_interval: root
            .section("reload")
            .interval("interval")?
            .unwrap_or(Duration::from_secs(10)),
        drain_delay: times("draindelay", Duration::ZERO)?,
        drain_timeout: times("draintimeout", Duration::from_secs(30))?,
        content,
        acumos,
    };
    Ok((config, warnings))
}

fn content(root: &Section<'_>) -> Result<Content, Problem> {
    let section = root.section("upstream");
    match (root.text("embedded")?, section.node) {
        (Some(folder), None) => Ok(Content::Embedded(folder.into())),
        (None, Some(_)) => Ok(Content::Upstream(Box::new(upstream(&section)?))),
        (Some(_), Some(_)) => Err(Problem {
            origin: root.origin("embedded"),
            text: "expected one of `upstream` and `embedded`, got both".to_owned(),
        }),
        (None, None) => Err(Problem {
            origin: None,
            text: "expected `upstream.url` (or ACUMOS_DOCKER_REGISTRY_HOST), the registry that is \
                   guarded; to try it out without one, `--embedded FOLDER`"
                .to_owned(),
        }),
    }
}

fn upstream(section: &Section<'_>) -> Result<Upstream, Problem> {
    let url = section.url("url")?;
    let url = section.needed("url", url)?;
    let timeouts = section.section("timeouts");
    let default = Timeouts::default();
    Ok(Upstream {
        url,
        credentials: credentials(section, "user")?,
        ca_file: section.text("cafile")?.map(PathBuf::from),
        redirects: match section.text("redirects")?.as_deref() {
            Some(text) if text.eq_ignore_ascii_case("pass") => Redirects::Pass,
            _ => Redirects::Follow,
        },
        realms: section.texts("realms")?,
        storage: section.texts("storage")?,
        timeouts: Timeouts {
            connect: timeouts.interval("connect")?.unwrap_or(default.connect),
            answer: timeouts.interval("answer")?.unwrap_or(default.answer),
            commit: timeouts.interval("commit")?.unwrap_or(default.commit),
            idle: timeouts.interval("idle")?.unwrap_or(default.idle),
        },
    })
}

/// A name, under the key `user`, with its password
fn credentials(section: &Section<'_>, user: &str) -> Result<Option<Credentials>, Problem> {
    let password = secret(section.text("password")?, section.text("passwordfile")?)
        .map_err(|text| section.problem("passwordfile", text))?;
    match (section.text(user)?, password) {
        (Some(user), Some(password)) => Ok(Some(Credentials { user, password })),
        (Some(_), None) => Err(section.problem(user, "expected `password` or `passwordfile` too")),
        (None, Some(_)) => section.needed(user, None),
        (None, None) => Ok(None),
    }
}

fn service_accounts(root: &Section<'_>) -> Result<Vec<Credentials>, Problem> {
    let mut accounts: Vec<Credentials> = Vec::new();
    for section in root.sections("serviceaccounts") {
        let account = credentials(&section, "name")?;
        let account = section.needed("name", account)?;
        if account.user.contains(':') {
            return Err(section.problem("name", "expected a name without a colon"));
        }
        if accounts.iter().any(|known| known.user == account.user) {
            return Err(section.problem("name", "expected a name that no other account has"));
        }
        accounts.push(account);
    }
    Ok(accounts)
}

fn acumos(root: &Section<'_>, content: &Content) -> Result<Acumos, Problem> {
    let section = root.section("acumos");
    // Logins are read by themselves: they are on here wherever the services are.
    let nowhere = Section {
        node: None,
        path: String::new(),
    };
    let mut acumos = match content {
        Content::Embedded(folder) if section.node.is_none() => {
            Acumos::new(Source::Database(Content::directory_in(folder)))
        }
        _ => match acumos::read(root, &nowhere)? {
            Some(acumos) => acumos,
            None => {
                return Err(Problem {
                    origin: None,
                    text:
                        "expected `acumos.services.cds.url` (or ACUMOS_CDS_URL), or `acumos.file` \
                           or `acumos.database`: where the platform's users and models are known"
                            .to_owned(),
                });
            }
        },
    };
    let login = acumos::login(&section.section("login"))?;
    if root.section("htpasswd").node.is_none() {
        acumos.login = Some(login.unwrap_or_else(|| Login {
            realm: HtpasswdFile::REALM.to_owned(),
            options: Default::default(),
        }));
    } else if login.is_some() {
        return Err(section.problem(
            "login",
            "expected it or `htpasswd`, got both: users log in by one of them",
        ));
    }
    Ok(acumos)
}

fn htpasswd(section: &Section<'_>) -> Result<Option<HtpasswdFile>, Problem> {
    if section.node.is_none() {
        return Ok(None);
    }
    Ok(Some(HtpasswdFile {
        path: section.needed_text("path")?.into(),
        realm: section
            .text("realm")?
            .unwrap_or_else(|| HtpasswdFile::REALM.to_owned()),
    }))
}

fn session_secret(section: &Section<'_>) -> Result<Option<Secret>, Problem> {
    secret(section.text("secret")?, section.text("secretfile")?).map_err(|_| {
        section.problem(
            "secretfile",
            "expected one of `secret` and `secretfile`, got both",
        )
    })
}

fn limits(section: &Section<'_>) -> Result<ProxyLimits, Problem> {
    let times = |key: &str| -> Result<Option<usize>, Problem> {
        Ok(section
            .times(key)?
            .map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    };
    Ok(ProxyLimits {
        requests: times("requests")?,
        connections: times("connections")?,
        rates: super::super::limits::read(section)?,
    })
}

fn auth_request(section: &Section<'_>) -> Result<Option<AuthRequest>, Problem> {
    if section.node.is_none() {
        return Ok(None);
    }
    let path = section.text("path")?.unwrap_or_else(|| "/auth".to_owned());
    if !path.starts_with('/') || path == "/" || path.starts_with("/v2") {
        return Err(section.problem("path", "expected a path such as `/auth`, outside of `/v2`"));
    }
    let peers = match networks(section, "peers")? {
        Some(peers) => peers,
        None => super::super::Own::default().trusted_proxies,
    };
    Ok(Some(AuthRequest { path, peers }))
}

fn logs(section: &Section<'_>) -> Result<Logs, Problem> {
    let mut logs = Logs {
        directory: section.text("directory")?.map(PathBuf::from),
        ..Logs::default()
    };
    if let Some(text) = section.text("level")? {
        logs.level = level(&text).unwrap_or(Level::Info);
    }
    if logs.directory.is_none() {
        // It is all there is then.
        logs.console = Some(logs.level);
    }
    if let Some(text) = section.text("console")? {
        logs.console = level(&text);
    }
    if let Some(format) = section.text("format")? {
        logs.format = match format.eq_ignore_ascii_case("athena") {
            true => LogFormat::Athena,
            false => LogFormat::Boreas,
        };
    }
    if let Some(access) = section.flag("access")? {
        logs.access = access;
    }
    if let Some(days) = section.times("keep")? {
        logs.keep = days;
    }
    if let Some(bytes) = section.number("maxbytes")? {
        logs.max_bytes = u64::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes >= LEAST_LOG)
            .ok_or_else(|| {
                let text = format!("expected at least {LEAST_LOG} bytes, got {bytes}");
                section.problem("maxbytes", text)
            })?;
    }
    Ok(logs)
}

/// Below that a busy minute would not fit
const LEAST_LOG: u64 = 1024 * 1024;

/// A level by its name; `off` is none
fn level(text: &str) -> Option<Level> {
    Some(match text.to_ascii_lowercase().as_str() {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "info" => Level::Info,
        "debug" => Level::Debug,
        _ => return None,
    })
}
