//! Configuration files that exist start unchanged

use std::path::{Path, PathBuf};
use std::time::Duration;

use registry_examples::config::{
    Auth, Config, Driver, Formatter, Identity, Level, ManifestUrls, Network, StorageCheck,
    UploadPurge, check, markdown,
};
use registry_examples::service_accounts::AccountFile;

/// A file of `examples/configs`
pub(crate) fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("configs")
        .join(name)
}

/// Reads a file; the keys that it warns about are the second part
fn load(name: &str) -> (Config, Vec<String>) {
    let (config, warnings) = Config::load(Some(&config(name)), []).unwrap();
    let keys = warnings.into_iter().flat_map(|warning| warning.keys);
    (config, keys.collect())
}

#[test]
fn the_white_paper() {
    let (config, warned) = load("distribution/white-paper.yml");
    assert_eq!(warned, ["storage.cache.blobdescriptor"]);
    assert_eq!(
        config.storage.driver,
        Driver::Folder("/var/lib/registry".into())
    );
    assert_eq!(config.http.listen, ":5000");
    assert_eq!(
        config.http.tls.unwrap().identity,
        Identity::Files {
            certificate: "/certs/ca.crt".into(),
            key: "/certs/ca.key".into()
        }
    );
    let headers: Vec<_> = config.http.headers.iter().collect();
    assert_eq!(headers, [("X-Content-Type-Options", "nosniff")]);
    assert_eq!(config.log.fields["service"], "registry");
}

#[test]
fn the_sample_of_accounts() {
    let realm = "Registry".parse().unwrap();
    let file = AccountFile::open(config("accounts.yml"), realm).unwrap();
    assert_eq!(file.reload().unwrap(), 2);
}

#[test]
fn debian() {
    let (config, warned) = load("distribution/debian.yml");
    assert_eq!(warned, ["storage.cache.blobdescriptor"]);
    assert_eq!(
        config.storage.driver,
        Driver::Folder("/var/lib/docker-registry".into())
    );
    assert!(config.storage.delete);
    assert_eq!(
        config.auth,
        Auth::Htpasswd {
            realm: "basic-realm".into(),
            path: "/etc/docker/registry".into()
        }
    );
    let Some(StorageCheck { pace }) = config.health.storage else {
        panic!("no check");
    };
    assert_eq!(
        (pace.interval, pace.threshold),
        (Duration::from_secs(10), 3)
    );
}

#[test]
fn os_x() {
    let (config, warned) = load("distribution/os-x.yml");
    assert_eq!(warned, ["storage.cache.blobdescriptor", "http.secret"]);
    assert_eq!(config.http.listen, "0.0.0.0:5000");
    assert_eq!(config.log.level, Level::Info);
    assert_eq!(config.log.fields["environment"], "macbook-air");
    let debug = config.http.debug.unwrap();
    assert_eq!(
        (debug.listen.as_str(), debug.prometheus),
        ("localhost:5001", None)
    );
}

#[test]
fn the_files_that_distribution_comes_with() {
    let (config, warned) = load("distribution/example.yml");
    assert_eq!(warned, ["storage.cache.blobdescriptor"]);
    assert!(matches!(config.auth, Auth::Htpasswd { .. }));

    let redis = [
        "redis.addr",
        "redis.pool.maxidle",
        "redis.pool.maxactive",
        "redis.pool.idletimeout",
        "redis.dialtimeout",
        "redis.readtimeout",
        "redis.writetimeout",
    ];
    // The mail hook and the endpoints are switched off, so nothing is said of them.
    let (config, warned) = load("distribution/dev.yml");
    assert_eq!(
        warned,
        [&["storage.cache.blobdescriptor"], &redis[..]].concat()
    );
    assert_eq!(config.storage.purge, None);
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(
        config.http.debug.unwrap().prometheus.as_deref(),
        Some("/metrics")
    );
    assert!(config.notifications.include_references);
    assert_eq!(config.notifications.endpoints, []);

    let (_, warned) = load("distribution/cache.yml");
    let proxy = ["proxy.remoteurl", "proxy.username", "proxy.password"];
    assert_eq!(
        warned,
        [&["storage.cache.blobdescriptor"], &redis[..], &proxy].concat()
    );
    let (_, warnings) = Config::load(Some(&self::config("distribution/cache.yml")), []).unwrap();
    assert_eq!(warnings.len(), 3, "one for each part: {warnings:?}");
}

#[test]
fn our_sample_for_production_has_nothing_to_warn_about() {
    let (config, warned) = load("production.yml");
    assert_eq!(warned, [] as [&str; 0]);
    assert_eq!(config.log.formatter, Formatter::Json);
    assert_eq!(config.notifications.endpoints[0].ignored_actions, ["pull"]);
    assert_eq!(config.registry.trusted_proxies.len(), 3);
    assert_eq!(
        config.outbox_directory().unwrap(),
        Path::new("/var/lib/registry-outbox")
    );
}

#[test]
fn an_outbox_is_beside_the_content() {
    let (config, _) = load("distribution/white-paper.yml");
    assert_eq!(
        config.outbox_directory().unwrap(),
        Path::new("/var/lib/registry/registry-outbox")
    );
    let (config, _) = Config::from_yaml("version: 0.1\nstorage: inmemory\n").unwrap();
    assert_eq!(config.outbox_directory(), None);
}

#[test]
fn the_table_in_the_folder_is_the_one_in_the_code() {
    let path = config("README.md");
    if std::env::var_os("UPDATE_CONFIGS").is_some() {
        std::fs::write(&path, markdown()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == markdown(),
        "the table has changed: `UPDATE_CONFIGS=1 cargo test -p registry-examples --test config` writes it"
    );
}

#[test]
fn a_file_follows_distribution_where_it_is_silent() {
    let (config, _) = Config::from_yaml("version: 0.1\nstorage: filesystem\n").unwrap();
    assert_eq!(config, {
        let mut expected = Config::of_a_file();
        expected.storage.driver = Driver::Folder("/var/lib/registry".into());
        expected
    });
    assert!(!config.storage.delete);
    assert_eq!(
        config.storage.purge,
        Some(UploadPurge {
            age: Duration::from_secs(168 * 3600),
            interval: Duration::from_secs(24 * 3600),
            dry_run: false
        })
    );
    assert_eq!(
        config.validation.manifest_urls,
        ManifestUrls::Checked {
            allow: vec![],
            deny: vec![]
        }
    );
    assert_eq!(config.catalog.max_entries, 1000);
    assert_eq!(config.http.net, Network::Tcp);
    assert_eq!(config.http.drain_timeout, Duration::from_secs(30));
    assert!(config.log.access && config.http.http2 && !config.http.h2c);
    assert_eq!(config.health.storage, None);

    // Without a file it is what a first try wants.
    let (config, _) = Config::load(None, []).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.storage.delete);
}

#[test]
fn endpoints_follow_distribution_where_they_are_silent() {
    let (config, _) = Config::from_yaml(
        "version: 0.1\nstorage: inmemory\nnotifications: {endpoints: [{url: 'http://hooks:1/x'}]}\n",
    )
    .unwrap();
    let endpoint = &config.notifications.endpoints[0];
    assert_eq!(endpoint.name, "hooks");
    assert_eq!(endpoint.timeout, Duration::from_secs(1));
    assert_eq!(endpoint.backoff, Duration::from_secs(1));
    assert_eq!(endpoint.threshold, 10);
}

#[test]
fn a_name_stands_for_a_section_where_distribution_takes_it_so() {
    for (text, auth) in [
        ("auth: none", Auth::None),
        ("auth: {none: }", Auth::None),
        ("auth:", Auth::None),
        (
            "auth: {silly: {realm: r, service: s}}",
            Auth::Silly {
                realm: "r".into(),
                service: "s".into(),
            },
        ),
    ] {
        let text = format!("version: 0.1\nstorage: inmemory\n{text}\n");
        let (config, warnings) = Config::from_yaml(&text).unwrap();
        assert_eq!((config.storage.driver, config.auth), (Driver::Memory, auth));
        assert_eq!(warnings, []);
    }
    for text in [
        "storage: {inmemory: }",
        "storage:\n  inmemory:\n",
        "storage: {inmemory: {}}",
    ] {
        let (config, _) = Config::from_yaml(&format!("version: \"0.1\"\n{text}")).unwrap();
        assert_eq!(config.storage.driver, Driver::Memory);
    }
}

#[test]
fn anchors_and_merge_keys_work() {
    let (config, _) = Config::from_yaml(
        "version: 0.1\nstorage: inmemory\nnotifications:\n  endpoints:\n\
         \x20 - &first {name: a, url: 'http://a', timeout: 3s}\n\
         \x20 - <<: *first\n    name: b\n",
    )
    .unwrap();
    let [a, b] = &config.notifications.endpoints[..] else {
        panic!("{config:?}");
    };
    assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
    assert_eq!((&a.url, a.timeout), (&b.url, b.timeout));
}

#[test]
fn what_is_printed_reads_as_the_same_configuration() {
    for name in [
        "distribution/debian.yml",
        "distribution/white-paper.yml",
        "distribution/dev.yml",
        "distribution/example.yml",
        "production.yml",
    ] {
        let printed = check(Some(&config(name)), []).unwrap();
        let (mut again, warnings) = Config::from_yaml(&printed).unwrap();
        let (mut config, _) = load(name);
        assert_eq!(warnings, [], "{name}");
        // These are not printed as they are written: a secret, and a default that names the host.
        again.registry.outbox.directory = None;
        config.registry.outbox.directory = None;
        for endpoint in again
            .notifications
            .endpoints
            .iter_mut()
            .chain(&mut config.notifications.endpoints)
        {
            endpoint.headers = Default::default();
        }
        assert_eq!(again, config, "{name}:\n{printed}");
    }
}
