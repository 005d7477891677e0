//! What `config check` prints, and never a secret

use registry_examples::config::proxy::{Overrides, ProxyConfig, check};

use crate::environment::platform;

/// A word for every place where a secret may stand
const FILE: &str = "\
upstream:
  url: https://me:hunter2-url@nexus:8443/?token=hunter2-query
  user: acumos_rw
  password: hunter2-upstream
acumos:
  services:
    cds: {url: 'http://me:hunter2-cds-url@cds:8000/ccds', user: ccds, password: hunter2-cds}
    lum: {url: 'http://me:hunter2-lum@lum:2080'}
serviceaccounts:
- {name: on-boarding, password: hunter2-account}
- {name: federation, passwordfile: /run/secrets/federation}
authrequest: {}
limits: {requests: 7, users: {pulls: '100/6h burst 20'}}
sessions: {secretfile: /s}
tokens: {services: [acumos.example.org], key: /k}
debug: {addr: ':5001', prometheus: {enabled: true}}
health:
  http:
  - uri: http://me:hunter2-uri@h/
    headers: {Authorization: [Basic hunter2-check]}
";

#[test]
fn what_is_in_force_is_printed_without_secrets() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), FILE).unwrap();
    let overrides = Overrides::default();
    let mut variables = platform();
    variables.push((
        "ACUMOS_AUTH_URL".to_owned(),
        "http://me:hunter2-auth@x".to_owned(),
    ));
    let text = check(Some(file.path()), &overrides, variables.clone()).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    for part in [
        "listen: \":30883\"",
        "passwordfile: /run/secrets/federation",
        "name: on-boarding",
        "# From the environment:\n",
        "#   tls.certificate (ACUMOS_CERT)",
        "# In the environment, and not used, since it was said before:\n",
        "#   upstream.url (ACUMOS_DOCKER_REGISTRY_HOST)",
        "# Warnings:\n#   `ACUMOS_AUTH_URL`: it is not used",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (config, _) = ProxyConfig::load(Some(file.path()), &overrides, variables).unwrap();
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter2"), "{debug}");
}

#[test]
fn what_is_printed_gives_the_same_again() {
    for text in [
        // Secrets are not printed, so that there are none.
        "upstream: {url: 'https://nexus', user: me, passwordfile: /p, redirects: pass, realms: [a], storage: ['minio:9000']}
acumos:
  services: {cds: {url: 'http://cds:8000/ccds', user: u, passwordfile: /c}, lum: {url: 'http://lum:2080'}}
  login: {secrets: password}
tls: {certificate: /c, key: /k, clientcas: [/ca], clientauth: verify-client-cert-if-given}
host: acumos.example.org
serviceaccounts: [{name: federation, passwordfile: /f}]
authrequest: {}
limits: {requests: 7, users: {pulls: '100/6h burst 20'}}
sessions: {secretfile: /s}
tokens: {services: [acumos.example.org], key: /k}
debug: {addr: ':5001', prometheus: {enabled: true}}
health: {tcp: [{addr: 'nexus:8082'}], file: [{file: /maintenance}]}
",
        "embedded: /try\nhide: false\nlogs: {directory: /l, console: 'off', format: athena}\n",
        "upstream: {url: 'http://nexus'}\nacumos: {file: /p}\nhtpasswd: {path: /h}\n",
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let (config, _) = ProxyConfig::from_yaml(text).unwrap();
        let printed = check(Some(file.path()), &Overrides::default(), []).unwrap();
        let (again, warnings) = ProxyConfig::from_yaml(&printed).unwrap();
        assert_eq!(again, config, "{printed}");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}
