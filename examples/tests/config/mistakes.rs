//! What is wrong is said with its place, what was expected, what came, and what to do

use registry_examples::config::{Config, Network, TlsVersion};

use crate::files::config;

/// The error of what follows `version` and `storage`, which are lines 1 and 2
fn error(text: &str) -> String {
    let text = format!("version: 0.1\nstorage: inmemory\n{text}\n");
    match Config::from_yaml(&text) {
        Err(error) => error.to_string(),
        Ok((config, _)) => panic!("{text}: {config:?}"),
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
    for (text, line, suggestion) in [
        ("htpt: {}", 3, "did you mean `http`?"),
        ("http:\n  adr: :5000", 4, "did you mean `http.addr`?"),
        ("http:\n  Addr: :5000", 4, "did you mean `http.addr`?"),
        (
            "http:\n  tls:\n    certifcate: /c",
            5,
            "did you mean `http.tls.certificate`?",
        ),
        (
            "rootdirectory: /r",
            3,
            "did you mean `storage.filesystem.rootdirectory`?",
        ),
        ("headers: {}", 3, "did you mean `http.headers`?"),
        ("log: {colour: red}", 3, "known here: `accesslog`, `fields`"),
        (
            "auth:\n  ldap: {}",
            4,
            "known here: `htpasswd`, `none`, `silly`, `token`",
        ),
        (
            "notifications:\n  endpoints:\n  - name: a\n    ulr: x",
            6,
            "did you mean `notifications.endpoints[a].url`?",
        ),
        ("redis:\n  adr: x", 4, "did you mean `redis.addr`?"),
        (
            "middleware:\n  store: []",
            4,
            "did you mean `middleware.storage`?",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(&format!("line {line}: ")), "{error}");
        assert!(error.contains(suggestion), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_wrong_type_or_value_is_named_with_its_line() {
    for (text, line, expected, came) in [
        ("http: 5", 3, "a section", "a single value"),
        (
            "http:\n  relativeurls: maybe",
            4,
            "`true` or `false`",
            "`maybe`",
        ),
        (
            "http:\n  relativeurls: \"true\"",
            4,
            "`true` or `false`",
            "the text `true`",
        ),
        (
            "http:\n  draintimeout: 5 minutes",
            4,
            "a duration such as",
            "`5 minutes`",
        ),
        ("http:\n  draintimeout: -5s", 4, "not negative", "`-5s`"),
        ("http:\n  net: udp", 4, "one of `tcp`, `unix`", "`udp`"),
        ("http:\n  addr: [a]", 4, "text", "a list"),
        (
            "http:\n  host: registry.example.com",
            4,
            "a URL",
            "`http://`",
        ),
        ("http:\n  prefix: /a/../b", 4, "a path", "`http.prefix`"),
        (
            "http:\n  headers:\n    'X Y': [z]",
            5,
            "`X Y`",
            "header name",
        ),
        (
            "log:\n  level: loud",
            4,
            "`error`, `warn`, `info`, `debug`",
            "`loud`",
        ),
        (
            "catalog:\n  maxentries: many",
            4,
            "a whole number",
            "`many`",
        ),
        ("catalog:\n  maxentries: 1.5", 4, "a whole number", "`1.5`"),
        ("redis:\n  db: zero", 4, "a whole number", "`zero`"),
        (
            "redis:\n  dialtimeout: x",
            4,
            "a duration",
            "`redis.dialtimeout`",
        ),
        (
            "notifications:\n  endpoints: {}",
            4,
            "a list of sections",
            "a section",
        ),
        (
            "health:\n  http:\n  - uri: http://h\n    statuscode: 20",
            6,
            "100 to 599",
            "20",
        ),
        (
            "health:\n  tcp:\n  - addr: h:1\n    threshold: -1",
            6,
            "a number of times",
            "-1",
        ),
        (
            "validation: {manifests: {urls: {allow: ['(']}}}",
            3,
            "a regular expression",
            "`(`",
        ),
        (
            "registry:\n  trustedproxies: [here]",
            4,
            "`10.0.0.0/8`",
            "`here`",
        ),
        (
            "registry:\n  manifestlimit: 5",
            4,
            "at least 4194304",
            "got 5",
        ),
        (
            "registry: {notifications: {outbox: {maxbytes: 5}}}",
            3,
            "at least 1048576",
            "got 5",
        ),
        (
            "http: {tls: {certificate: /c, key: /k, ciphersuites: [NONE]}}",
            3,
            "`NONE`",
            "suite",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(&format!("line {line}: ")), "{error}");
        assert!(error.contains(expected) && error.contains(came), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn what_would_be_unsafe_is_an_error() {
    for (text, part) in [
        ("auth: ldap", "`auth.ldap` is not known"),
        (
            "auth: {silly: {realm: r, service: s}, htpasswd: {realm: r, path: p}}",
            "one scheme",
        ),
        ("auth: {htpasswd: }", "needs `realm`"),
        ("auth: htpasswd", "needs `realm`"),
        ("auth: {htpasswd: {realm: r}}", "needs `path`"),
        (
            "auth: {token: {realm: r, service: s, issuer: i}}",
            "without keys",
        ),
        (
            "auth: {token: {realm: r, issuer: i, jwks: /j}}",
            "needs `service`",
        ),
        ("http: {tls: {certificate: /c}}", "needs `key`"),
        ("http: {tls: {key: /k}}", "needs `certificate`"),
        ("http: {tls: {clientcas: [/ca]}}", "needs `certificate`"),
        (
            "http: {tls: {letsencrypt: {email: a@b}}}",
            "needs `certificate`",
        ),
        (
            "http: {tls: {letsencrypt: {cachefile: /c}}}",
            "needs `hosts`",
        ),
        (
            "http: {tls: {certificate: /c, key: /k, clientauth: require-any-client-cert}}",
            "lets everyone in",
        ),
        (
            "http: {tls: {certificate: /c, key: /k, clientauth: verify-client-cert-if-given}}",
            "needs `clientcas`",
        ),
        (
            "http: {tls: {certificate: /c, key: /k, ciphersuites: [TLS_RSA_WITH_AES_128_CBC_SHA]}}",
            "none of them",
        ),
        ("policy: {repository: {classes: [image]}}", "not enforced"),
        (
            "notifications: {endpoints: [{url: 'http://a'}, {url: 'http://a/x'}]}",
            "the name of another endpoint",
        ),
        ("notifications: {endpoints: [{name: a}]}", "needs `url`"),
    ] {
        let error = error(text);
        assert!(
            error.starts_with("line 3: ") && error.contains(part),
            "{text}: {error}"
        );
    }
}

#[test]
fn a_file_needs_a_version_that_is_known_and_a_place_for_content() {
    for (text, part) in [
        ("", "`version: 0.1`"),
        ("storage: inmemory", "`version: 0.1`"),
        ("version: 0.2\nstorage: inmemory", "got `0.2`"),
        ("version: 0.1", "found none"),
        (
            "version: 0.1\nstorage: {delete: {enabled: true}}",
            "found none",
        ),
        (
            "version: 0.1\nstorage: {inmemory: , filesystem: {rootdirectory: /x}}",
            "got `inmemory` and `filesystem`",
        ),
        ("version: 0.1\nstorage: s3", "`storage.s3` needs `bucket`"),
        ("version: 0.1\nstorage: swift", "`storage.swift` cannot be"),
        ("- version", "a section, got a list"),
        ("version", "a section, got a single value"),
    ] {
        let error = Config::from_yaml(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn errors_of_a_file_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yml");
    let error = |path: &std::path::Path| Config::load(Some(path), []).unwrap_err().to_string();
    assert!(error(&path).contains("config.yml"));

    std::fs::write(&path, "version: 0.1\nstorage: inmemory\nhtpt: {}\n").unwrap();
    assert!(error(&path).contains("config.yml:3: `htpt` is not known"));

    std::fs::write(&path, "a: [").unwrap();
    assert!(error(&path).contains("config.yml"));

    std::fs::write(&path, "#".repeat(2 * 1024 * 1024)).unwrap();
    assert!(error(&path).contains("more than 1048576 bytes"));
}

#[test]
fn what_is_not_quite_honoured_is_a_warning_by_name() {
    let file = |text: &str| format!("version: 0.1\nstorage: inmemory\n{text}\n");
    let (config, warnings) = Config::from_yaml(&file(
        "http: {tls: {certificate: /c, key: /k, minimumtls: tls1.0, clientauth: request-client-cert, \
         ciphersuites: [TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, \
         TLS_AES_128_GCM_SHA256]}}",
    ))
    .unwrap();
    let tls = config.http.tls.unwrap();
    assert_eq!(tls.minimum, TlsVersion::Tls12);
    assert_eq!(
        tls.cipher_suites,
        ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]
    );
    let keys: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.keys[0].as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "http.tls.clientauth",
            "http.tls.minimumtls",
            "http.tls.ciphersuites"
        ]
    );
    assert!(
        warnings[0].to_string().contains("(line 3)"),
        "{}",
        warnings[0]
    );

    let (config, warnings) = Config::from_yaml(&file(
        "http: {debug: {prometheus: {enabled: true}}, net: unix}",
    ))
    .unwrap();
    assert_eq!((config.http.debug, config.http.net), (None, Network::Unix));
    assert_eq!(warnings[0].keys, ["http.debug.prometheus.enabled"]);

    // A certificate of one's own wins over an authority, as in distribution.
    let (_, warnings) = Config::from_yaml(&file(
        "http: {tls: {certificate: /c, key: /k, letsencrypt: {cachefile: /c}}}",
    ))
    .unwrap();
    assert_eq!(warnings[0].keys, ["http.tls.letsencrypt"]);

    // `enabled: false` does not end the validation, so its keys are told of.
    let (_, warnings) = Config::from_yaml(&file(
        "validation: {enabled: false, manifests: {indexes: {platforms: none}}}",
    ))
    .unwrap();
    assert_eq!(warnings[0].keys, ["validation.manifests.indexes.platforms"]);

    // Each middleware is one warning; those that are switched off are none.
    let (_, warnings) = Config::from_yaml(&file(
        "middleware:\n  storage:\n  - name: cloudfront\n    options: {baseurl: x}\n  - name: redirect\n\
         \x20 - {name: off, disabled: true}\n",
    ))
    .unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(
        warnings[0].keys,
        [
            "middleware.storage[cloudfront].name",
            "middleware.storage[cloudfront].options"
        ]
    );
    assert_eq!(warnings[1].keys, ["middleware.storage[redirect].name"]);

    // What is there and empty is not set.
    let (_, warnings) = Config::from_yaml(&file(
        "proxy: {remoteurl: ''}\nredis: {addr: }\nlog: {hooks: []}",
    ))
    .unwrap();
    assert_eq!(warnings, []);
}

#[test]
fn a_damaged_file_is_another_configuration_or_an_error_in_one_line() {
    let mut errors = 0;
    for name in [
        "production.yml",
        "distribution/dev.yml",
        "distribution/debian.yml",
    ] {
        let text = std::fs::read_to_string(config(name)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without_a_line = (0..lines.len()).map(|line| {
            let mut lines = lines.clone();
            lines.remove(line);
            lines.join("\n")
        });
        let indented = (0..lines.len()).map(|line| {
            let moved = format!(" {}", lines[line]);
            let mut lines = lines.clone();
            lines[line] = &moved;
            lines.join("\n")
        });
        let cut = text
            .char_indices()
            .step_by(11)
            .map(|(at, _)| text[..at].to_owned());
        for damaged in without_a_line.chain(indented).chain(cut) {
            if let Err(error) = Config::from_yaml(&damaged) {
                errors += 1;
                let error = error.to_string();
                assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
            }
        }
    }
    assert!(errors > 100, "{errors}");
}
