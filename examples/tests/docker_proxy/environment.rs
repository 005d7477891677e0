//! The variables of the old proxy: what each does, and that the file goes before them

use std::path::Path;

use registry_examples::config::acumos::Source;
use registry_examples::config::proxy::{Content, Overrides, ProxyConfig};
use registry_examples::config::{ConfigError, Identity, Level, Secret, Warning};

use crate::configuration::{LEAST, upstream};

/// What the scripts of the platform set, as in its second and later releases
const PLATFORM: [(&str, &str); 12] = [
    ("ACUMOS_DOCKER_REGISTRY_HOST", "nexus-service"),
    ("ACUMOS_DOCKER_MODEL_PORT", "8082"),
    // acumos_rw:hunter2-nexus
    (
        "ACUMOS_DOCKER_PROXY_AUTH",
        "YWN1bW9zX3J3Omh1bnRlcjItbmV4dXM=",
    ),
    ("ACUMOS_DOCKER_PROXY_HOST", "acumos.example.org"),
    ("ACUMOS_DOCKER_PROXY_PORT", "30883"),
    ("ACUMOS_CDS_URL", "http://cds-service:8000/ccds"),
    ("ACUMOS_CDS_USER", "ccds_client"),
    ("ACUMOS_CDS_PASSWORD", "hunter2-cds"),
    ("ACUMOS_CERT", "acumos.crt"),
    ("ACUMOS_CERT_KEY", "acumos.key"),
    (
        "ACUMOS_DOCKER_PROXY_LOG_FILE",
        "/var/log/acumos/docker-proxy.log",
    ),
    ("ACUMOS_DOCKER_PROXY_LOG_LEVEL", "1"),
];

pub(crate) fn platform() -> Vec<(String, String)> {
    owned(&PLATFORM)
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(
    file: Option<&str>,
    variables: Vec<(String, String)>,
) -> Result<(ProxyConfig, Vec<Warning>), ConfigError> {
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(written.path(), file.unwrap_or_default()).unwrap();
    let path = file.map(|_| written.path());
    ProxyConfig::load(path, &Overrides::default(), variables)
}

/// The platform's variables with some others
fn with(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = platform();
    for (name, value) in owned(variables) {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    all
}

#[test]
fn the_old_variables_alone_do_what_the_old_proxy_did() {
    let (config, warnings) = load(None, platform()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.listen, ":30883");
    assert_eq!(config.host.as_deref(), Some("acumos.example.org:30883"));
    let upstream = upstream(&config);
    assert_eq!(upstream.url.expose(), "http://nexus-service:8082");
    let credentials = upstream.credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "acumos_rw");
    assert_eq!(
        credentials.password,
        Secret::Text("hunter2-nexus".to_owned())
    );
    let Source::Services(services) = &config.acumos.source else {
        panic!("{:?}", config.acumos.source);
    };
    assert_eq!(services.cds.url.expose(), "http://cds-service:8000/ccds");
    let credentials = services.cds.credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "ccds_client");
    assert_eq!(credentials.password, Secret::Text("hunter2-cds".to_owned()));
    assert!(services.lum.is_none());
    assert!(config.acumos.login.is_some());
    let Identity::Files { certificate, key } = &config.tls.as_ref().unwrap().identity else {
        panic!("{:?}", config.tls);
    };
    // Where the platform's scripts take these names from.
    assert_eq!(certificate, Path::new("../certs/acumos.crt"));
    assert_eq!(key, Path::new("../certs/acumos.key"));
    // Not in the root of the folder, where nothing collects it.
    assert_eq!(
        config.logs.directory.as_deref(),
        Some(Path::new("/var/log/acumos"))
    );
    assert_eq!(config.logs.level, Level::Info);
}

#[test]
fn each_variable_has_its_forms() {
    let config = |variables: &[(&str, &str)]| load(None, with(variables)).unwrap().0;
    let unset = config(&[
        ("ACUMOS_DOCKER_MODEL_PORT", ""),
        ("ACUMOS_DOCKER_PROXY_PORT", ""),
    ]);
    assert_eq!(upstream(&unset).url.expose(), "http://nexus-service:8082");
    assert_eq!(unset.listen, ":30883");
    assert_eq!(unset.host.as_deref(), Some("acumos.example.org"));

    let port = config(&[("ACUMOS_DOCKER_PROXY_PORT", "31000")]);
    assert_eq!(port.listen, ":31000");
    let clear = config(&[("ACUMOS_CERT", ""), ("ACUMOS_CERT_KEY", "")]);
    assert_eq!(clear.listen, "127.0.0.1:30883");

    let v6 = config(&[("ACUMOS_DOCKER_REGISTRY_HOST", "fd00::1")]);
    assert_eq!(upstream(&v6).url.expose(), "http://[fd00::1]:8082");
    // me:a:b, with the newline of `echo`
    let colon = config(&[("ACUMOS_DOCKER_PROXY_AUTH", "bWU6YTpiCg==")]);
    let credentials = upstream(&colon).credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "me");
    assert_eq!(credentials.password, Secret::Text("a:b".to_owned()));

    let lum = config(&[("ACUMOS_LUM_URL", "http://lum:2080")]);
    assert!(matches!(&lum.acumos.source, Source::Services(services) if services.lum.is_some()));

    for (value, level) in [
        ("0", Level::Warn),
        ("1", Level::Info),
        ("2", Level::Debug),
        ("DEBUG", Level::Debug),
        ("error", Level::Error),
    ] {
        let config = config(&[("ACUMOS_DOCKER_PROXY_LOG_LEVEL", value)]);
        assert_eq!(config.logs.level, level, "{value}");
    }
    for (file, directory) in [
        ("/logs/docker-proxy/docker-proxy.log", "/logs"),
        ("/proxy.log", "/"),
    ] {
        let config = config(&[("ACUMOS_DOCKER_PROXY_LOG_FILE", file)]);
        assert_eq!(
            config.logs.directory.as_deref(),
            Some(Path::new(directory)),
            "{file}"
        );
    }
    let path = config(&[("ACUMOS_CERT", "/etc/acumos.crt")]);
    let Identity::Files { certificate, .. } = path.tls.unwrap().identity else {
        panic!("expected files");
    };
    assert_eq!(certificate, Path::new("/etc/acumos.crt"));
}

#[test]
fn the_file_goes_before_the_environment_which_fills_the_rest() {
    let (config, _) = load(Some(LEAST), platform()).unwrap();
    assert_eq!(upstream(&config).url.host(), "nexus");
    let credentials = upstream(&config).credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "acumos_rw");

    let file = "\
listen: :1
host: h
upstream: {url: 'http://nexus', user: me, passwordfile: /p}
acumos: {file: /platform.yml}
htpasswd: {path: /h}
tls: {certificate: /c, key: /k}
logs: {directory: /l, level: error}
";
    let (filled, _) = load(Some(file), platform()).unwrap();
    let (alone, _) = load(Some(file), Vec::new()).unwrap();
    assert_eq!(filled, alone);
    // What belongs together stays together.
    let file = "embedded: /try\ntls: {certificate: /c, key: /k}\n";
    let (config, _) = load(Some(file), platform()).unwrap();
    assert_eq!(config.content, Content::Embedded("/try".into()));
    assert_eq!(
        config.acumos.source,
        Source::Database("/try/directory.db".into())
    );
    let file = "upstream: {user: me, password: mine}\n";
    let (config, _) = load(Some(file), platform()).unwrap();
    let credentials = upstream(&config).credentials.as_ref().unwrap();
    assert_eq!(credentials.password, Secret::Text("mine".to_owned()));
}

#[test]
fn what_does_nothing_any_more_is_warned_about_with_the_reason() {
    for (name, why) in [
        ("ACUMOS_AUTH_URL", "by asking CDS"),
        ("ACUMOS_DOCKER_PROXY_AUTH_API_PORT", "a second service"),
        ("ACUMOS_DOCKER_PROXY_AUTH_API_PATH", "a second service"),
        ("ACUMOS_DOCKER_PROXY_USERNAME", "`serviceaccounts`"),
        ("ACUMOS_DOCKER_PROXY_PASSWORD", "`serviceaccounts`"),
        (
            "ACUMOS_DOCKER_PROXY_LOGLEVEL",
            "no key of the configuration",
        ),
    ] {
        let (_, warnings) = load(None, with(&[(name, "hunter2")])).unwrap();
        let [warning] = &warnings[..] else {
            panic!("{name}: {warnings:?}");
        };
        let text = warning.to_string();
        assert!(text.starts_with(&format!("`{name}`: ")), "{text}");
        assert!(text.contains(why), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    // The rest of the platform's variables is not ours to speak of.
    let others = [
        ("ACUMOS_NAMESPACE", "acumos"),
        ("ACUMOS_JWT_KEY", "hunter2"),
    ];
    assert!(load(None, with(&others)).unwrap().1.is_empty());
}

#[test]
fn a_wrong_value_is_named_by_its_variable_and_not_shown_where_it_is_secret() {
    for (name, value, expected) in [
        (
            "ACUMOS_DOCKER_PROXY_AUTH",
            "hunter2",
            "`user:password` in base64",
        ),
        // hunter2, without a colon
        (
            "ACUMOS_DOCKER_PROXY_AUTH",
            "aHVudGVyMg==",
            "`user:password` in base64",
        ),
        (
            "ACUMOS_DOCKER_PROXY_PORT",
            "http",
            "expected a port, got `http`",
        ),
        (
            "ACUMOS_DOCKER_PROXY_LOG_LEVEL",
            "loud",
            "expected a log level",
        ),
        (
            "ACUMOS_DOCKER_PROXY_LOG_LEVEL",
            "off",
            "expected a log level",
        ),
        (
            "ACUMOS_DOCKER_PROXY_LOG_FILE",
            "proxy.log",
            "expected the full path",
        ),
        (
            "ACUMOS_CDS_URL",
            "cds:8000",
            "`acumos.services.cds.url`: expected a URL",
        ),
    ] {
        let error = load(None, with(&[(name, value)])).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = load(None, with(&[("ACUMOS_CERT_KEY", "")]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`tls` needs `key`"), "{error}");
}
