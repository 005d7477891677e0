//! What distribution does not have: rules of the platform, tokens of one's own, limits

use registry_examples::config::acumos::Source;
use registry_examples::config::{Acumos, Auth, Config, Secret, TokenKeys, check};

use crate::files::config;

/// What comes of the section `registry`, which stands in line 3
fn read(registry: &str) -> Result<Config, String> {
    let text = format!("version: 0.1\nstorage: inmemory\nregistry: {registry}\n");
    match Config::from_yaml(&text) {
        Ok((config, warnings)) => {
            assert_eq!(warnings, [], "{text}");
            Ok(config)
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_samples_have_nothing_to_warn_about_and_print_as_they_are() {
    for name in ["acumos-database.yml", "acumos-services.yml", "tokens.yml"] {
        let (mut config, warnings) = Config::load(Some(&config(name)), []).unwrap();
        assert_eq!(warnings, [], "{name}");
        config.registry.outbox.directory = config.outbox_directory();
        // None of them has a secret in it, so what is printed can be read again.
        let printed = check(Some(&self::config(name)), []).unwrap();
        let (again, _) = Config::from_yaml(&printed).unwrap();
        assert_eq!(again.registry, config.registry, "{printed}");
    }
}

#[test]
fn where_the_facts_are_is_one_place() {
    let acumos = |text: &str| read(&format!("{{access: {{acumos: {text}}}}}"));
    assert_eq!(
        acumos("{database: /d}").unwrap().registry.acumos,
        Some(Acumos::new(Source::Database("/d".into())))
    );
    let services = acumos("{services: {cds: {url: 'http://cds:8000/ccds', password: hunter2}}}");
    let Source::Services(services) = services.unwrap().registry.acumos.unwrap().source else {
        panic!("services");
    };
    let credentials = services.cds.credentials.unwrap();
    assert_eq!(credentials.user, "ccds_client");
    assert_eq!(credentials.password, Secret::Text("hunter2".to_owned()));
    for (text, expected) in [
        ("{}", "expected one of `file`, `database` and `services`"),
        ("{file: /f, database: /d}", "got several"),
        (
            "{file: /f, services: {cds: {url: 'http://h'}}}",
            "got several",
        ),
        (
            "{services: {}}",
            "`registry.access.acumos.services` needs `cds`",
        ),
        (
            "{services: {lum: {url: 'http://h'}}}",
            "services` needs `cds`",
        ),
        (
            "{services: {cds: {url: cds}}}",
            "services.cds.url`: expected a URL",
        ),
        (
            "{services: {cds: {url: 'http://h', version: new}}}",
            "expected the version of CDS, such as `2.2` or `3.1.1`, got `new`",
        ),
        (
            "{services: {cds: {url: 'http://h', user: u}}}",
            "expected `password` or `passwordfile` too",
        ),
        (
            "{services: {cds: {url: 'http://h', password: hunter2, passwordfile: /f}}}",
            "got both",
        ),
        (
            "{services: {cds: {url: 'http://h'}, lum: {instance: i}}}",
            "services.lum` needs `url`",
        ),
        (
            "{file: /f, serviceaccounts: {actions: [pull, write]}}",
            "expected `pull`, `push`, `delete` or `catalog`, got `write`",
        ),
    ] {
        let error = acumos(text).unwrap_err();
        assert!(error.starts_with("line 3: "), "{error}");
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = read("{auth: {acumos: {realm: r}}}").unwrap_err();
    assert!(
        error.contains("expected `registry.access.acumos`"),
        "{error}"
    );
}

#[test]
fn tokens_need_a_name_and_a_key_and_paths_of_their_own() {
    for (text, expected) in [
        ("{}", "`registry.tokens` needs `services`"),
        ("{services: [s]}", "`registry.tokens` needs `key`"),
        (
            "{services: [s], key: /k, path: token}",
            "expected a path such as `/auth/token`",
        ),
        (
            "{services: [s], key: /k, path: /v2/token}",
            "outside of `/v2/`",
        ),
        (
            "{services: [s], key: /k, keyspath: '/a b'}",
            "expected a path such as `/auth/keys`",
        ),
        (
            "{services: [s], key: /k, path: /a, keyspath: /a}",
            "expected another path",
        ),
        (
            "{services: [s], key: /k, realm: here}",
            "tokens.realm`: expected a URL",
        ),
    ] {
        let error = read(&format!("{{tokens: {text}}}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn limits_and_audits_are_read() {
    let config = read("{limits: {users: {pulls: 100/6h}}, access: {audit: stderr, hide: true}}");
    let own = config.unwrap().registry;
    assert_eq!(own.limits.users.pulls.unwrap().to_string(), "100/6h");
    assert_eq!(own.limits.addresses, Default::default());
    assert!(own.hide);
    let error = read("{limits: {users: {pulls: 100}}}").unwrap_err();
    assert!(
        error.contains("`registry.limits.users.pulls`: expected a limit such as `100/m`"),
        "{error}"
    );
}

#[test]
fn a_short_secret_is_not_taken() {
    let text = "{version: 0.1, storage: inmemory, http: {secret: hunter2}}";
    let (config, warnings) = Config::from_yaml(text).unwrap();
    assert_eq!(config.http.secret, None);
    let warning = warnings[0].to_string();
    assert!(warning.contains("fewer than 16 bytes"), "{warning}");
    assert!(!warning.contains("hunter2"), "{warning}");
}

#[test]
fn keys_of_tokens_are_in_a_file_or_at_a_url() {
    let read = |keys: &str| {
        let text = format!(
            "{{version: 0.1, storage: inmemory, auth: {{token: {{realm: 'https://a', service: s, \
             issuer: i, jwks: '{keys}'}}}}}}"
        );
        Config::from_yaml(&text).map(|(config, warnings)| {
            assert_eq!(warnings, [], "{keys}");
            match config.auth {
                Auth::Token(token) => token.jwks.unwrap(),
                other => panic!("{other:?}"),
            }
        })
    };
    for path in [
        "/etc/keys.json",
        "keys",
        "http:/keys",
        "ftp://h/keys",
        "é://h",
    ] {
        assert_eq!(read(path).unwrap(), TokenKeys::File(path.into()));
    }
    for url in ["https://h/keys?tenant=1", "HTTP://127.0.0.1:1/k"] {
        assert_eq!(read(url).unwrap(), TokenKeys::Url(url.parse().unwrap()));
    }
    let error = read("https:///hunter2").unwrap_err().to_string();
    assert!(
        error.contains("`auth.token.jwks`: expected a URL"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");

    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "{version: 0.1, storage: inmemory, registry: {auth: {token: {cafile: /ca.pem}}}, \
        auth: {token: {realm: 'https://a', service: s, issuer: i, jwks: 'https://h/k?code=hunter2'}}}";
    std::fs::write(file.path(), text).unwrap();
    let printed = check(Some(file.path()), []).unwrap();
    assert!(printed.contains("https://h/k?(hidden)"), "{printed}");
    assert!(printed.contains("cafile: /ca.pem"), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
}
