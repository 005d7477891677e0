//! `storage.s3` and the other object stores

use std::time::Duration;

use registry_examples::config::buckets::{Encryption, Face, S3};
use registry_examples::config::{Config, Driver, Secret, check};

use crate::files::config;

fn read(storage: &str) -> Result<Config, String> {
    Config::from_yaml(&format!("version: 0.1\nstorage: {{{storage}}}\n"))
        .map(|(config, _)| config)
        .map_err(|error| error.to_string())
}

fn s3(storage: &str) -> S3 {
    match read(storage).unwrap().storage.driver {
        Driver::S3(s3) => *s3,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_sample_for_s3_has_nothing_to_warn_about_and_prints_as_it_is() {
    let path = config("s3.yml");
    let (config, warnings) = Config::load(Some(&path), []).unwrap();
    assert_eq!(warnings, []);
    let Driver::S3(s3) = &config.storage.driver else {
        panic!("{config:?}");
    };
    assert_eq!((s3.face, &*s3.objects.root), (Face::S3, "registry"));
    assert_eq!(s3.encryption, Encryption::Store);
    assert_eq!(s3.objects.part_size, Some(8 * 1024 * 1024));
    let printed = check(Some(&path), []).unwrap();
    let (again, warnings) = Config::from_yaml(&printed).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(again, config, "{printed}");
}

#[test]
fn the_other_names_of_s3_are_the_same() {
    let text = "{bucket: b, region: r, accesskey: k, secretkey: s}";
    for (name, face) in [
        ("s3", Face::S3),
        ("s3aws", Face::S3Aws),
        ("s3goamz", Face::S3Goamz),
    ] {
        let found = s3(&format!("{name}: {text}"));
        assert_eq!(found.face, face);
        assert_eq!(found.key("bucket"), format!("storage.{name}.bucket"));
        assert_eq!(
            S3 {
                face: Face::S3,
                ..found
            },
            s3(&format!("s3: {text}"))
        );
    }
}

#[test]
fn oss_is_its_s3_face() {
    for (text, endpoint, region) in [
        (
            "region: oss-cn-beijing",
            "s3.oss-cn-beijing.aliyuncs.com",
            "oss-cn-beijing",
        ),
        (
            "region: cn-beijing, internal: true",
            "s3.oss-cn-beijing-internal.aliyuncs.com",
            "oss-cn-beijing",
        ),
        (
            "region: oss-cn-beijing, endpoint: 'https://b.oss-accelerate.aliyuncs.com'",
            "https://s3.oss-accelerate.aliyuncs.com",
            "oss-cn-beijing",
        ),
        (
            "region: oss-cn-beijing, endpoint: 'http://oss.example.com:8080'",
            "http://oss.example.com:8080",
            "oss-cn-beijing",
        ),
    ] {
        let found = s3(&format!(
            "oss: {{bucket: b, accesskeyid: k, accesskeysecret: hunter2, {text}}}"
        ));
        assert_eq!(found.endpoint.as_deref(), Some(endpoint));
        assert_eq!(found.region.as_deref(), Some(region));
        assert_eq!(found.path_style, Some(false));
        assert_eq!(found.access_key.as_deref(), Some("k"));
        assert_eq!(found.secret_key, Some(Secret::Text("hunter2".to_owned())));
        assert_eq!(found.key("secretkey"), "storage.oss.accesskeysecret");
    }
}

#[test]
fn sizes_are_numbers_of_bytes_as_distribution_reads_them() {
    for (text, size) in [
        ("5242880", 5 << 20),
        ("'5242880'", 5 << 20),
        ("0x500000", 5 << 20),
        ("\"0xA00000\"", 10 << 20),
    ] {
        let found = s3(&format!("s3: {{bucket: b, chunksize: {text}}}"));
        assert_eq!(found.objects.part_size, Some(size), "{text}");
    }
}

#[test]
fn what_cannot_be_is_named_by_its_key() {
    for (storage, part) in [
        ("s3: {region: r}", "`storage.s3` needs `bucket`"),
        ("s3: ", "`storage.s3` needs `bucket`"),
        (
            "azure: {container: c}",
            "`storage.azure` needs `accountname`",
        ),
        ("gcs: {}", "`storage.gcs` needs `bucket`"),
        ("oss: {bucket: b}", "`storage.oss` needs `region`"),
        (
            "s3: {bucket: b, accesskey: k}",
            "`storage.s3` needs `secretkey`",
        ),
        (
            "s3: {bucket: b, secretkey: hunter2}",
            "`storage.s3` needs `accesskey`",
        ),
        (
            "s3: {bucket: b, chunksize: 10MB}",
            "`storage.s3.chunksize`: expected a number of bytes",
        ),
        (
            "s3: {bucket: b, chunksize: 5242879}",
            "`storage.s3.chunksize`: expected from 5242880",
        ),
        (
            "s3: {bucket: b, multipartcopychunksize: 1}",
            "`storage.s3.multipartcopychunksize`: expected from",
        ),
        (
            "gcs: {bucket: b, chunksize: 5242881}",
            "a multiple of 262144",
        ),
        ("s3: {bucket: b, storageclass: GLACIER}", "takes hours"),
        (
            "s3: {bucket: b, storageclass: GOLD}",
            "`storage.s3.storageclass`: expected `NONE`",
        ),
        (
            "s3: {bucket: b, objectacl: everyone}",
            "`storage.s3.objectacl`: expected one of private",
        ),
        (
            "s3: {bucket: b, accelerate: true, regionendpoint: h}",
            "`storage.s3.accelerate`: only Amazon",
        ),
        (
            "s3: {bucket: b, accelerate: true, forcepathstyle: true}",
            "neither `forcepathstyle`",
        ),
        (
            "s3: {bucket: b, regionendpoint: 'https://me:hunter2@h'}",
            "`storage.s3.regionendpoint`: expected a host",
        ),
        (
            "s3: {bucket: b, regionendpoint: 'ftp://h'}",
            "expected a host",
        ),
        (
            "s3: {bucket: b, regionendpoint: 'http://h/path'}",
            "expected a host",
        ),
        (
            "azure: {container: c, accountname: a, credentials: {type: client_secret, clientid: i}}",
            "`storage.azure.credentials` needs `tenantid`",
        ),
        (
            "s3: {bucket: b}, filesystem: {rootdirectory: /r}",
            "got `s3` and `filesystem`",
        ),
        ("swift: {authurl: u}", "`storage.s3` with `regionendpoint`"),
    ] {
        let error = read(storage).unwrap_err();
        assert!(error.contains(part), "{storage}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_environment_sets_a_bucket_and_its_secrets_are_not_printed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "version: 0.1\nstorage: {s3: {bucket: b}}\nregistry: {storage: {timeout: 5s}}\n",
    )
    .unwrap();
    let variables = [
        ("REGISTRY_STORAGE_S3_BUCKET", "another"),
        ("REGISTRY_STORAGE_S3_ACCESSKEY", "AKIA"),
        ("REGISTRY_STORAGE_S3_SECRETKEY", "hunter2-secret"),
        ("REGISTRY_STORAGE_S3_SESSIONTOKEN", "hunter2-token"),
        ("REGISTRY_STORAGE_S3_CHUNKSIZE", "5242880"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (config, warnings) = Config::load(Some(file.path()), variables.clone()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.storage.connection.timeout, Duration::from_secs(5));
    assert_eq!(config.outbox_directory(), None);
    let Driver::S3(s3) = &config.storage.driver else {
        panic!("{config:?}");
    };
    assert_eq!(s3.bucket, "another");
    assert_eq!(s3.objects.part_size, Some(5 << 20));
    let secret = s3.secret_key.as_ref().unwrap();
    assert_eq!(secret.read().unwrap(), "hunter2-secret");
    let printed = check(Some(file.path()), variables).unwrap();
    assert!(printed.contains("secretkey: (hidden)"), "{printed}");
    for text in [printed, format!("{config:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    for storage in [
        "azure: {container: c, accountname: a, accountkey: hunter2}",
        "gcs: {bucket: b, credentials: {private_key: hunter2}}",
    ] {
        std::fs::write(file.path(), format!("version: 0.1\nstorage: {{{storage}}}")).unwrap();
        let printed = check(Some(file.path()), []).unwrap();
        assert!(
            printed.contains("(hidden)") && !printed.contains("hunter2"),
            "{printed}"
        );
    }
}

#[test]
fn a_secret_may_be_in_a_file_of_its_own() {
    let text = "version: 0.1\nstorage: {s3: {bucket: b, accesskey: k}}\n\
                registry: {storage: {secretfile: /run/secrets/s3}}\n";
    let (config, _) = Config::from_yaml(text).unwrap();
    let Driver::S3(s3) = config.storage.driver else {
        panic!("no S3");
    };
    assert_eq!(s3.secret_key, Some(Secret::File("/run/secrets/s3".into())));
}

#[test]
fn events_that_would_be_lost_at_the_end_are_warned_about() {
    let text = "version: 0.1\nstorage: {s3: {bucket: b}}\n\
                notifications: {endpoints: [{url: 'http://h'}]}\n";
    let (_, warnings) = Config::from_yaml(text).unwrap();
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert_eq!(warning.keys, ["notifications.endpoints"]);
    assert!(
        warning
            .what
            .contains("`registry.notifications.outbox.directory`")
    );
    let outbox = "registry: {notifications: {outbox: {directory: /o}}}\n";
    let (_, warnings) = Config::from_yaml(&format!("{text}{outbox}")).unwrap();
    assert_eq!(warnings, []);
}
