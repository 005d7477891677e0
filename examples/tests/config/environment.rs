//! Variables override by path, as in distribution

use std::time::Duration;

use registry_examples::config::{Auth, Config, ConfigError, Driver, ManifestUrls, Warning};

const FILE: &str = "\
version: 0.1
log:
  fields:
    service: registry
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete: {enabled: true}
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
notifications:
  endpoints:
  - {name: a, url: 'http://a'}
";

fn load(
    text: Option<&str>,
    variables: &[(&str, &str)],
) -> Result<(Config, Vec<Warning>), ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = text.map(|text| {
        let path = folder.path().join("config.yml");
        std::fs::write(&path, text).unwrap();
        path
    });
    Config::load(
        path.as_deref(),
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

/// What a file and variables give, without warnings
fn quiet(text: Option<&str>, variables: &[(&str, &str)]) -> Config {
    let (config, warnings) = load(text, variables).unwrap();
    assert_eq!(warnings, []);
    config
}

#[test]
fn a_variable_sets_the_key_of_its_path() {
    let config = quiet(
        Some(FILE),
        &[
            ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/elsewhere"),
            ("REGISTRY_HTTP_ADDR", ":6000"),
            ("REGISTRY_HTTP_DRAINTIMEOUT", "1m30s"),
            ("REGISTRY_HTTP_TLS_CERTIFICATE", "/c"),
            ("REGISTRY_HTTP_TLS_KEY", "/k"),
            ("REGISTRY_STORAGE_DELETE_ENABLED", "false"),
            ("REGISTRY_LOG_FIELDS_ENVIRONMENT", "staging"),
            ("REGISTRY_LOG_FIELDS_SERVICE", "mirror"),
            ("REGISTRY_HTTP_HEADERS_X-CONTENT-TYPE-OPTIONS", "[other]"),
            ("REGISTRY_VALIDATION_MANIFESTS_URLS_ALLOW", "['^https://']"),
            ("REGISTRY_REGISTRY_RELOAD_INTERVAL", "1s"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.storage.driver, Driver::Folder("/elsewhere".into()));
    assert!(!config.storage.delete);
    assert_eq!(config.http.listen, ":6000");
    assert_eq!(config.http.drain_timeout, Duration::from_secs(90));
    assert!(config.http.tls.is_some());
    assert_eq!(config.log.fields["environment"], "staging");
    assert_eq!(config.log.fields["service"], "mirror");
    let headers: Vec<_> = config.http.headers.iter().collect();
    assert_eq!(headers, [("X-Content-Type-Options", "other")]);
    let ManifestUrls::Checked { allow, .. } = config.validation.manifest_urls else {
        panic!("not checked");
    };
    assert_eq!(allow, ["^https://"]);
    assert_eq!(config.registry.reload_interval, Duration::from_secs(1));
}

#[test]
fn a_section_is_replaced_before_its_parts_are_set() {
    // Given in the other order, on purpose.
    let config = quiet(
        Some(FILE),
        &[
            ("REGISTRY_AUTH_HTPASSWD_REALM", "Registry Realm"),
            ("REGISTRY_AUTH_HTPASSWD_PATH", "/auth/htpasswd"),
            ("REGISTRY_AUTH", "htpasswd"),
        ],
    );
    assert_eq!(
        config.auth,
        Auth::Htpasswd {
            realm: "Registry Realm".into(),
            path: "/auth/htpasswd".into()
        }
    );
    let config = quiet(Some(FILE), &[("REGISTRY_STORAGE", "inmemory")]);
    assert_eq!(config.storage.driver, Driver::Memory);
    // It was in the section that is gone.
    assert!(!config.storage.delete);
    let config = quiet(
        Some("version: 0.1\nstorage: inmemory\n"),
        &[
            ("REGISTRY_STORAGE", "filesystem"),
            ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/r"),
        ],
    );
    assert_eq!(config.storage.driver, Driver::Folder("/r".into()));
    let config = quiet(
        Some(FILE),
        &[(
            "REGISTRY_STORAGE",
            "{filesystem: {rootdirectory: /r}, delete: {enabled: true}}",
        )],
    );
    assert_eq!(config.storage.driver, Driver::Folder("/r".into()));
    assert!(config.storage.delete);
}

#[test]
fn a_second_driver_is_an_error_that_says_how_to_replace_the_first() {
    let error = load(Some(FILE), &[("REGISTRY_STORAGE_INMEMORY", "{}")]).unwrap_err();
    assert!(error.to_string().contains("`REGISTRY_STORAGE`"), "{error}");
}

#[test]
fn items_of_lists_are_set_by_their_index() {
    let config = quiet(
        Some(FILE),
        &[
            ("REGISTRY_NOTIFICATIONS_ENDPOINTS_0_TIMEOUT", "7s"),
            ("REGISTRY_NOTIFICATIONS_ENDPOINTS_1_NAME", "b"),
            ("REGISTRY_NOTIFICATIONS_ENDPOINTS_1_URL", "http://b"),
            (
                "REGISTRY_NOTIFICATIONS_ENDPOINTS_1_HEADERS_AUTHORIZATION",
                "[Bearer x]",
            ),
        ],
    );
    let [a, b] = &config.notifications.endpoints[..] else {
        panic!("{config:?}");
    };
    assert_eq!((a.name.as_str(), a.timeout), ("a", Duration::from_secs(7)));
    assert_eq!((b.name.as_str(), b.url.expose()), ("b", "http://b"));
    assert_eq!(b.headers.iter().next(), Some(("authorization", "Bearer x")));
}

#[test]
fn without_a_file_the_defaults_are_ours_and_the_environment_counts() {
    let config = quiet(None, &[("REGISTRY_HTTP_ADDR", ":1")]);
    assert_eq!(config.http.listen, ":1");
    assert!(config.storage.delete);
    assert_eq!(config.storage.driver, Config::default().storage.driver);
}

#[test]
fn a_variable_that_matches_nothing_is_a_warning_with_its_name() {
    for name in [
        "REGISTRY_HTPT_ADDR",
        "REGISTRY_HTTP_ADDR_MORE",
        "REGISTRY_PORT_5000_TCP",
        "REGISTRY_VERSION",
        "REGISTRY_",
        "REGISTRY_http_addr",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_7_URL",
        "REGISTRY_NOTIFICATIONS_ENDPOINTS_X_URL",
        "REGISTRY_LOG_FIELDS_MY_FIELD",
    ] {
        let (config, warnings) = load(Some(FILE), &[(name, "1")]).unwrap();
        assert_eq!(warnings.len(), 1, "{name}");
        assert!(warnings[0].to_string().contains(name), "{}", warnings[0]);
        assert_eq!(config, quiet(Some(FILE), &[]), "{name}");
    }
    // These belong to the tests of this project.
    quiet(
        Some(FILE),
        &[("REGISTRY_E2E", "1"), ("REGISTRY_E2E_HOST", "x")],
    );
}

#[test]
fn an_empty_variable_is_what_is_not_set() {
    let config = quiet(Some(FILE), &[("REGISTRY_HTTP_ADDR", "")]);
    assert_eq!(config.http.listen, Config::default().http.listen);
}

#[test]
fn a_value_that_cannot_be_names_the_variable_and_not_the_value() {
    for (name, value, part) in [
        (
            "REGISTRY_STORAGE_DELETE_ENABLED",
            "maybe",
            "`storage.delete.enabled`",
        ),
        ("REGISTRY_HTTP_DRAINTIMEOUT", "soon", "duration"),
        ("REGISTRY_HTTP_SECRET", "@hunter2", "not YAML"),
        ("REGISTRY_HTTP_HEADERS", "hunter2", "`http.headers`"),
        ("REGISTRY_AUTH", "ldap", "`auth.ldap`"),
    ] {
        let error = load(Some(FILE), &[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
