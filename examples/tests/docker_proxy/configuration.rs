//! The YAML: what it puts in force, and what is said of mistakes

use std::path::Path;
use std::time::Duration;

use registry_auth::acumos::Secrets;
use registry_examples::config::acumos::Source;
use registry_examples::config::proxy::{
    Content, LogFormat, Overrides, ProxyConfig, Redirects, Upstream,
};
use registry_examples::config::{Identity, Level, Secret};

/// The least that there is to say, on two lines
pub(crate) const LEAST: &str = "\
upstream: {url: 'http://nexus:8082'}
acumos: {services: {cds: {url: 'http://cds:8000/ccds'}}}
";

pub(crate) fn config(text: &str) -> ProxyConfig {
    match ProxyConfig::from_yaml(text) {
        Ok((config, warnings)) => {
            assert!(warnings.is_empty(), "{warnings:?}");
            config
        }
        Err(error) => panic!("{text}: {error}"),
    }
}

pub(crate) fn upstream(config: &ProxyConfig) -> &Upstream {
    match &config.content {
        Content::Upstream(upstream) => upstream,
        other => panic!("{other:?}"),
    }
}

/// The error of what follows [`LEAST`], which is on lines 1 and 2
fn error(text: &str) -> String {
    let text = format!("{LEAST}{text}\n");
    match ProxyConfig::from_yaml(&text) {
        Err(error) => error.to_string(),
        Ok((config, _)) => panic!("{text}: {config:?}"),
    }
}

#[test]
fn the_sample_is_as_it_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/docker-proxy.yaml");
    let (config, warnings) = ProxyConfig::load(Some(&path), &Overrides::default(), []).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.listen, ":30883");
    assert!(config.tls.is_some());
    assert!(config.hide);
    assert_eq!(upstream(&config).url.host(), "nexus-service");
    assert!(matches!(config.acumos.source, Source::Services(_)));
    assert!(config.acumos.login.is_some());
    assert_eq!(
        config.logs.directory.as_deref(),
        Some(Path::new("/var/log/acumos"))
    );
    // What is commented out in it is right too.
    let text = std::fs::read_to_string(&path).unwrap();
    let whole: String = text
        .lines()
        .map(|line| match line.split_once("#- ") {
            Some((indent, rest)) => format!("{indent}{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert_ne!(whole, text);
    let (config, warnings) = ProxyConfig::from_yaml(&whole).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(config.auth_request.is_some() && config.debug.is_some());
    assert_eq!(config.service_accounts.len(), 1);
}

#[test]
fn defaults_are_safe() {
    let config = config(LEAST);
    assert_eq!(config.listen, "127.0.0.1:30883");
    assert!(config.hide);
    assert!(config.auth_request.is_none() && config.service_accounts.is_empty());
    let upstream = upstream(&config);
    assert_eq!(upstream.redirects, Redirects::Follow);
    assert!(upstream.credentials.is_none() && upstream.realms.is_empty());
    assert_eq!(upstream.timeouts.commit, Duration::from_secs(900));
    assert_eq!(config.logs.console, Some(Level::Info));
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
}

#[test]
fn every_section_is_read() {
    let config = config(
        "\
listen: 10.0.0.1:8443
host: acumos.example.org:30883
tls: {certificate: /c, key: /k, clientcas: [/ca], clientauth: verify-client-cert-if-given, minimumtls: tls1.3}
upstream:
  url: https://nexus:8443
  user: acumos_rw
  passwordfile: /run/secrets/nexus
  cafile: /ca.pem
  redirects: pass
  realms: [auth.example.org]
  storage: ['minio:9000']
  timeouts: {connect: 3s, answer: 5m, commit: 1h, idle: 2m}
acumos:
  services:
    cds: {url: 'http://cds:8000/ccds', user: ccds_client, password: cds-password, version: '3.1.1'}
    lum: {url: 'http://lum:2080'}
  login: {realm: Models, secrets: token, attempts: 2, remember: 1m}
  adminrole: Admin
serviceaccounts:
- {name: on-boarding, passwordfile: /run/secrets/on-boarding}
hide: false
limits: {requests: 100, connections: 200, addresses: {failures: 10/m}}
sessions: {secretfile: /run/secrets/sessions}
tokens: {services: [acumos.example.org], key: /token.key, realm: 'https://acumos.example.org:30883/auth/token'}
trustedproxies: [10.0.0.0/8]
authrequest: {path: /check, peers: [127.0.0.1]}
logs: {directory: /logs, level: debug, format: athena, access: false, console: 'off', keep: 7, maxbytes: 10000000}
debug: {addr: ':5001', prometheus: {enabled: true}}
health: {tcp: [{addr: 'nexus:8082'}]}
reload: {interval: 1m}
draindelay: 5s
draintimeout: 1m
",
    );
    assert_eq!(config.listen, "10.0.0.1:8443");
    assert_eq!(config.host.as_deref(), Some("acumos.example.org:30883"));
    let tls = config.tls.as_ref().unwrap();
    assert!(matches!(&tls.identity, Identity::Files { key, .. } if key == Path::new("/k")));
    let upstream = upstream(&config);
    assert_eq!(upstream.url.expose(), "https://nexus:8443");
    let credentials = upstream.credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "acumos_rw");
    assert_eq!(
        credentials.password,
        Secret::File("/run/secrets/nexus".into())
    );
    assert_eq!(upstream.ca_file.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(upstream.redirects, Redirects::Pass);
    assert_eq!(upstream.realms, ["auth.example.org"]);
    assert_eq!(upstream.storage, ["minio:9000"]);
    assert_eq!(upstream.timeouts.connect, Duration::from_secs(3));
    assert_eq!(upstream.timeouts.answer, Duration::from_secs(300));
    assert_eq!(upstream.timeouts.commit, Duration::from_secs(3600));
    assert_eq!(upstream.timeouts.idle, Duration::from_secs(120));
    let login = config.acumos.login.as_ref().unwrap();
    assert_eq!(
        (login.realm.as_str(), login.options.secrets),
        ("Models", Secrets::Token)
    );
    assert_eq!(login.options.wrong_attempts.get(), 2);
    assert_eq!(config.acumos.rules.admin_role, "Admin");
    assert_eq!(config.service_accounts[0].user, "on-boarding");
    assert!(!config.hide);
    assert_eq!(config.limits.requests, Some(100));
    assert_eq!(config.limits.connections, Some(200));
    assert!(config.limits.rates.addresses.failures.is_some());
    assert_eq!(
        config.session_secret,
        Some(Secret::File("/run/secrets/sessions".into()))
    );
    assert_eq!(config.tokens.as_ref().unwrap().issuer, "acumos.example.org");
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    let auth_request = config.auth_request.as_ref().unwrap();
    assert_eq!(auth_request.path, "/check");
    assert_eq!(auth_request.peers, ["127.0.0.1/32".parse().unwrap()]);
    let logs = &config.logs;
    assert_eq!((logs.level, logs.format), (Level::Debug, LogFormat::Athena));
    assert_eq!((logs.access, logs.console, logs.keep), (false, None, 7));
    assert_eq!(logs.max_bytes, 10_000_000);
    assert_eq!(
        config.debug.as_ref().unwrap().prometheus.as_deref(),
        Some("/metrics")
    );
    assert_eq!(config.health.tcp[0].address, "nexus:8082");
    assert_eq!(config.reload_interval, Duration::from_secs(60));
    assert_eq!(config.drain_delay, Duration::from_secs(5));
    assert_eq!(config.drain_timeout, Duration::from_secs(60));
    // What is shared with a registry is the same there.
    let registry = config.as_registry();
    assert_eq!(registry.http.listen, config.listen);
    assert_eq!(registry.http.tls, config.tls);
    assert_eq!(registry.registry.tokens, config.tokens);
    assert_eq!(registry.registry.limits, config.limits.rates);
    assert_eq!(registry.http.secret, config.session_secret);
    let acumos = registry.registry.acumos.unwrap();
    assert_eq!(acumos.options.service_names, ["on-boarding"]);
}

#[test]
fn embedded_content_brings_its_directory_and_users_along() {
    let embedded = config("embedded: /try\n");
    assert_eq!(embedded.content, Content::Embedded("/try".into()));
    assert_eq!(
        embedded.acumos.source,
        Source::Database("/try/directory.db".into())
    );
    assert!(embedded.htpasswd.is_none() && embedded.acumos.login.is_some());

    let elsewhere = config("embedded: /try\nacumos: {file: /platform.yml}\nhtpasswd: {path: /h}\n");
    assert_eq!(
        elsewhere.acumos.source,
        Source::File("/platform.yml".into())
    );
    assert_eq!(elsewhere.htpasswd.unwrap().path, Path::new("/h"));
    assert!(elsewhere.acumos.login.is_none());
    // Logins are the platform's where its services are.
    let platform = config("embedded: /try\nacumos: {services: {cds: {url: 'http://c/ccds'}}}\n");
    assert!(platform.htpasswd.is_none() && platform.acumos.login.is_some());
}

#[test]
fn the_command_line_goes_before_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{LEAST}listen: :1\n")).unwrap();
    let overrides = Overrides {
        listen: Some(":2".to_owned()),
        embedded: Some("/try".into()),
    };
    let (config, warnings) = ProxyConfig::load(Some(file.path()), &overrides, []).unwrap();
    assert_eq!(config.listen, ":2");
    assert_eq!(config.content, Content::Embedded("/try".into()));
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert_eq!(
        warning.to_string(),
        "`upstream` (line 1): it is not used: images are in the folder that `--embedded` names"
    );
}

#[test]
fn a_mistake_is_named_with_its_line_and_what_to_do() {
    for (text, line, parts) in [
        ("lisen: :1", 3, ["`lisen`", "did you mean `listen`?"]),
        (
            "upstraem: {}",
            3,
            ["`upstraem`", "did you mean `upstream`?"],
        ),
        (
            "logs:\n  levle: info",
            4,
            ["`logs.levle`", "did you mean `logs.level`?"],
        ),
        (
            "url: http://x",
            3,
            ["`url`", "did you mean `upstream.url`?"],
        ),
        ("colour: {}", 3, ["`colour` is not known", "`upstream`"]),
        (
            "logs:\n  level: loud",
            4,
            ["`error`, `warn`, `info`, `debug`", "`loud`"],
        ),
        (
            "logs:\n  format: cassandra",
            4,
            ["`boreas`, `athena`", "`cassandra`"],
        ),
        (
            "logs:\n  maxbytes: 10",
            4,
            ["at least 1048576 bytes", "got 10"],
        ),
        ("hide: maybe", 3, ["`true` or `false`", "`maybe`"]),
        (
            "draindelay: 5 minutes",
            3,
            ["a duration such as", "`5 minutes`"],
        ),
        (
            "limits:\n  requests: -1",
            4,
            ["a number of times", "got -1"],
        ),
        ("trustedproxies: [ten]", 3, ["addresses such as", "`ten`"]),
        (
            "tls:\n  certificate: /c",
            4,
            ["`tls` needs `key`", "not set"],
        ),
        (
            "tls:\n  minimumtls: tls1.3",
            4,
            ["`tls` needs `certificate`", "`key`"],
        ),
        (
            "tls: {certificate: /c, key: /k, minimumtls: tls1.0}",
            3,
            ["`tls.minimumtls`", "one of `tls1.2`, `tls1.3`"],
        ),
        (
            "authrequest: {path: auth}",
            3,
            ["a path such as `/auth`", "outside of `/v2`"],
        ),
        (
            "authrequest: {path: /v2/auth}",
            3,
            ["a path such as `/auth`", "outside of `/v2`"],
        ),
        (
            "embedded: /try",
            3,
            ["one of `upstream` and `embedded`", "got both"],
        ),
        (
            "serviceaccounts:\n- name: ada",
            4,
            [
                "`serviceaccounts[ada].name`",
                "`password` or `passwordfile`",
            ],
        ),
        (
            "serviceaccounts:\n- password: x",
            4,
            ["`serviceaccounts[0]` needs `name`", "not set"],
        ),
        (
            "serviceaccounts:\n- {name: a, password: x}\n- {name: a, password: y}",
            5,
            ["`serviceaccounts[a].name`", "no other account has"],
        ),
        (
            "serviceaccounts:\n- {name: 'a:b', password: x}",
            4,
            ["`serviceaccounts[a:b].name`", "without a colon"],
        ),
        (
            "htpasswd: {realm: x}",
            3,
            ["`htpasswd` needs `path`", "not set"],
        ),
        (
            "debug: {prometheus: {enabled: true, path: m}}",
            3,
            ["`debug.prometheus.path`", "a path such as `/metrics`"],
        ),
    ] {
        let error = error(text);
        assert!(
            error.starts_with(&format!("line {line}: ")),
            "{text}: {error}"
        );
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn what_is_missing_is_named_with_where_it_can_be_said() {
    let error = |text: &str| ProxyConfig::from_yaml(text).unwrap_err().to_string();
    let cds = "acumos: {services: {cds: {url: 'http://cds/ccds'}}}\n";
    let upstream = "upstream: {url: 'http://nexus:8082'}\n";
    for (text, parts) in [
        (
            "",
            [
                "`upstream.url`",
                "ACUMOS_DOCKER_REGISTRY_HOST",
                "--embedded",
            ],
        ),
        (
            cds,
            [
                "`upstream.url`",
                "ACUMOS_DOCKER_REGISTRY_HOST",
                "--embedded",
            ],
        ),
        (
            upstream,
            [
                "`acumos.services.cds.url`",
                "ACUMOS_CDS_URL",
                "`acumos.file`",
            ],
        ),
        (
            &format!("{cds}upstream: {{user: me, password: hunter2}}\n"),
            ["`upstream` needs `url`", "not set", "line 2"],
        ),
        (
            &format!("{cds}upstream: {{url: 'http://nexus', password: hunter2}}\n"),
            ["`upstream` needs `user`", "not set", "line 2"],
        ),
        (
            &format!(
                "{cds}upstream: {{url: 'http://nexus', user: me, password: hunter2, passwordfile: /p}}\n"
            ),
            [
                "`upstream.passwordfile`",
                "one of `password` and `passwordfile`",
                "both",
            ],
        ),
        (
            &format!("{cds}upstream: {{url: 'nexus:8082'}}\n"),
            ["`upstream.url`", "expected a URL", "line 2"],
        ),
        (
            &format!("{upstream}acumos: {{file: /p, database: /d}}\nhtpasswd: {{path: /h}}\n"),
            [
                "one of `file`, `database` and `services`",
                "several",
                "line 2",
            ],
        ),
        (
            &format!(
                "{upstream}acumos: {{file: /p, login: {{realm: x}}}}\nhtpasswd: {{path: /h}}\n"
            ),
            ["`acumos.login`", "`htpasswd`", "got both"],
        ),
    ] {
        let error = error(text);
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}
