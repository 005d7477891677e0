//! The keys of object stores

use super::Becomes::{self, Honoured, Warned};

/// The names of the drivers for S3
const FACES: [&str; 3] = ["s3", "s3aws", "s3goamz"];

/// The keys of each of them
const OF_S3: &[(&str, &str, Becomes)] = &[
    ("bucket", "elsewhere", Honoured),
    ("region", "eu-west-1", Honoured),
    ("regionendpoint", "'http://localhost:9000'", Honoured),
    ("redirectendpoint", "'https://s3.example.com'", Honoured),
    ("accesskey", "another", Honoured),
    ("secretkey", "another", Honoured),
    ("sessiontoken", "atoken", Honoured),
    ("forcepathstyle", "true", Honoured),
    ("accelerate", "true", Honoured),
    ("usedualstack", "true", Honoured),
    ("usefipsendpoint", "true", Honoured),
    ("encrypt", "true", Honoured),
    ("keyid", "mykeyid", Honoured),
    ("secure", "false", Honoured),
    ("skipverify", "true", Honoured),
    ("v4auth", "false", Warned),
    ("chunksize", "5242880", Honoured),
    ("multipartcopychunksize", "33554432", Honoured),
    ("multipartcopymaxconcurrency", "100", Honoured),
    ("multipartcopythresholdsize", "33554432", Honoured),
    ("multipartcombinesmallpart", "false", Warned),
    ("rootdirectory", "/s3/object/name/prefix", Honoured),
    ("storageclass", "REDUCED_REDUNDANCY", Honoured),
    ("useragent", "me/1.0", Honoured),
    ("objectacl", "public-read", Honoured),
    ("objectownership", "true", Honoured),
    ("loglevel", "debug", Warned),
];

/// Those of the other drivers
const OF_OTHERS: &[(&str, &str, Becomes)] = &[
    ("storage.azure.container", "elsewhere", Honoured),
    ("storage.azure.accountname", "elsewhere", Honoured),
    ("storage.azure.accountkey", "YW5vdGhlcg==", Honoured),
    ("storage.azure.realm", "core.chinacloudapi.cn", Honoured),
    ("storage.azure.rootdirectory", "/prefix", Honoured),
    (
        "storage.azure.serviceurl",
        "'http://127.0.0.1:10000/one'",
        Honoured,
    ),
    ("storage.azure.max_retries", "7", Honoured),
    ("storage.azure.retry_delay", "5s", Warned),
    ("storage.azure.credentials.type", "client_secret", Honoured),
    ("storage.azure.credentials.clientid", "another", Honoured),
    ("storage.azure.credentials.tenantid", "another", Honoured),
    ("storage.azure.credentials.secret", "another", Honoured),
    ("storage.gcs.bucket", "elsewhere", Honoured),
    ("storage.gcs.keyfile", "/path/to/keyfile", Honoured),
    (
        "storage.gcs.rootdirectory",
        "/gcs/object/name/prefix",
        Honoured,
    ),
    ("storage.gcs.chunksize", "8388608", Honoured),
    ("storage.gcs.maxconcurrency", "50", Honoured),
    ("storage.gcs.credentials.type", "another", Honoured),
    ("storage.gcs.credentials.project_id", "another", Honoured),
    (
        "storage.gcs.credentials.private_key_id",
        "another",
        Honoured,
    ),
    ("storage.gcs.credentials.private_key", "another", Honoured),
    ("storage.gcs.credentials.client_email", "another", Honoured),
    ("storage.gcs.credentials.client_id", "another", Honoured),
    ("storage.gcs.credentials.auth_uri", "another", Honoured),
    ("storage.gcs.credentials.token_uri", "another", Honoured),
    (
        "storage.gcs.credentials.auth_provider_x509_cert_url",
        "another",
        Honoured,
    ),
    (
        "storage.gcs.credentials.client_x509_cert_url",
        "another",
        Honoured,
    ),
    ("storage.oss.bucket", "elsewhere", Honoured),
    ("storage.oss.accesskeyid", "another", Honoured),
    ("storage.oss.accesskeysecret", "another", Honoured),
    ("storage.oss.region", "oss-cn-shanghai", Honoured),
    (
        "storage.oss.endpoint",
        "'https://oss.example.com'",
        Honoured,
    ),
    ("storage.oss.internal", "true", Honoured),
    ("storage.oss.encrypt", "true", Honoured),
    ("storage.oss.encryptionkeyid", "mykeyid", Honoured),
    ("storage.oss.secure", "false", Honoured),
    ("storage.oss.chunksize", "5242880", Honoured),
    ("storage.oss.rootdirectory", "/prefix", Honoured),
];

/// All of them, with whole paths
pub(super) fn documented() -> impl Iterator<Item = (String, &'static str, Becomes)> {
    let s3 = FACES.iter().flat_map(|face| {
        OF_S3
            .iter()
            .map(move |(key, value, becomes)| (format!("storage.{face}.{key}"), *value, *becomes))
    });
    let others = OF_OTHERS
        .iter()
        .map(|(path, value, becomes)| ((*path).to_owned(), *value, *becomes));
    s3.chain(others)
}

/// The drivers that cannot be, with their parameters
pub(super) const DRIVERS: &[(&str, &str)] = &[
    (
        "swift",
        "username password authurl tenant tenantid domain domainid trustid insecureskipverify region \
         container rootdirectory chunksize prefix secretkey accesskey endpointtype authversion \
         tempurlcontainerkey tempurlmethods",
    ),
    ("rados", "poolname username chunksize"),
];

/// The drivers for object stores, with what each needs
pub(super) const BUCKETS: &[(&str, &[(&str, &str)])] = &[
    ("storage.s3.", S3),
    ("storage.s3aws.", S3),
    ("storage.s3goamz.", S3),
    (
        "storage.azure.",
        &[
            ("container", "images"),
            ("accountname", "me"),
            ("accountkey", "c2VjcmV0"),
            ("credentials.type", "shared_key"),
            ("credentials.clientid", "c"),
            ("credentials.tenantid", "t"),
            ("credentials.secret", "s"),
        ],
    ),
    ("storage.gcs.", &[("bucket", "images")]),
    (
        "storage.oss.",
        &[
            ("bucket", "images"),
            ("region", "oss-cn-beijing"),
            ("accesskeyid", "k"),
            ("accesskeysecret", "s"),
        ],
    ),
];

const S3: &[(&str, &str)] = &[
    ("bucket", "images"),
    ("region", "eu-central-1"),
    ("accesskey", "k"),
    ("secretkey", "s"),
];
