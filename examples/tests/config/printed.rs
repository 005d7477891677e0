//! What is printed: `config check`, `Debug`, warnings, and never a secret

use registry_examples::config::{Config, check};

/// A word for every place where a secret may stand
const FILE: &str = "\
version: 0.1
log:
  hooks:
  - type: mail
    options: {smtp: {password: hunter2-smtp}}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
http:
  host: https://me:hunter2-host@registry.example.com
  secret: hunter2-secret
  headers:
    X-Content-Type-Options: [nosniff]
  tls:
    letsencrypt: {cachefile: /c, hosts: [h], directoryurl: 'https://me:hunter2-acme@acme.example.com/'}
auth:
  token: {realm: 'https://auth.example.com', service: s, issuer: i, jwks: /j}
notifications:
  endpoints:
  - name: hooks
    url: https://me:hunter2-url@hooks.example.com/push?token=hunter2-query
    headers:
      Authorization: [Bearer hunter2-header]
redis: {addr: 'h:1', password: hunter2-redis}
proxy: {remoteurl: 'https://upstream.example.com', username: me, password: hunter2-proxy}
health:
  http:
  - uri: http://me:hunter2-uri@h/
    headers: {Authorization: [Basic hunter2-check]}
reporting:
  bugsnag: {apikey: hunter2-bugsnag}
  newrelic: {licensekey: hunter2-newrelic}
middleware:
  storage:
  - name: cloudfront
    options: {baseurl: cdn.example.com, privatekey: /k, keypairid: K, ipfilteredby: aws, iprangesurl: 'https://me:hunter2-ranges@h/'}
";

fn written(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn no_secret_is_in_what_is_printed() {
    let file = written(FILE);
    let variables = [(
        "REGISTRY_HTTP_SECRET".to_owned(),
        "hunter2-variable".to_owned(),
    )];
    let (config, warnings) = Config::load(Some(file.path()), variables.clone()).unwrap();
    // They are there to be used.
    let endpoint = &config.notifications.endpoints[0];
    assert!(endpoint.url.expose().contains("hunter2-query"));
    assert_eq!(
        endpoint.headers.to_map()["authorization"],
        "Bearer hunter2-header"
    );

    let printed = check(Some(file.path()), variables).unwrap();
    for text in [&printed, &format!("{config:?}"), &format!("{warnings:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    for part in [
        "https://(hidden)@hooks.example.com/push?(hidden)",
        "X-Content-Type-Options",
        "nosniff",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}

#[test]
fn no_secret_is_in_an_error() {
    for text in [
        "http: {secret: [hunter2]}",
        "http: {headers: 'Authorization: hunter2'}",
        "http: {headers: {X: [{a: hunter2}]}}",
        "http: {headers: {X: [\"hunter2\\n\"]}}",
        "notifications: {endpoints: [{url: 'hunter2 @h'}]}",
        "notifications: {endpoints: [{url: 'ftp://me:hunter2@h'}]}",
        "redis: {password: {a: hunter2}}",
        "storage: {s3: {secretkey: hunter2}}",
        "http:\n  secret: hunter2\n bad: x",
        "http: {secret: \"hunter2",
        "http: {secret: !!int hunter2}",
        "http: {secret: !!bool hunter2}",
        "http: {secret: !!float hunter2}",
        "http: {secret: !!binary hunter2-}",
        "http: {secret: !!seq hunter2}",
    ] {
        let text = format!("version: 0.1\n{text}\n");
        let error = Config::from_yaml(&text).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn check_prints_defaults_the_environment_and_the_warnings() {
    let file = written(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /r\n  cache: {blobdescriptor: redis}\n",
    );
    let printed = check(
        Some(file.path()),
        [
            ("REGISTRY_HTTP_ADDR".to_owned(), ":6000".to_owned()),
            ("REGISTRY_NOTHING".to_owned(), "x".to_owned()),
        ],
    )
    .unwrap();
    for part in [
        "version: 0.1\n",
        "rootdirectory: /r\n",
        "addr: \":6000\"\n",
        "age: 168h\n",
        "draintimeout: 30s\n",
        "directory: /r/registry-outbox",
        "# From the environment:\n#   http.addr (REGISTRY_HTTP_ADDR)\n",
        "# Warnings:\n#   `storage.cache.blobdescriptor` (line 5): no such cache",
        "#   `REGISTRY_NOTHING`: no key",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
}
