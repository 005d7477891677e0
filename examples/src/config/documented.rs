//! Every key that distribution documents, written down a second time, and what must become of it
//!
//! The rows are from distribution's documentation, not from the table in `keys`: a key that is
//! missing there is found here, and one that is read and then dropped as well.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{KEYS, expand};
use super::{Config, ConfigError, Warning};

/// What must become of a key
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    /// The configuration is another
    Honoured,
    /// A warning names the key, and the configuration is the same
    Warned,
    /// It cannot be, and the error names it
    Refused,
    /// It is what holds without it
    Same,
}

use Becomes::{Honoured, Refused, Same, Warned};

/// The key, a value that is not its default, and what must become of it
const DOCUMENTED: &[(&str, &str, Becomes)] = &[
    ("version", "0.1", Same),
    ("log.level", "debug", Honoured),
    ("log.formatter", "logstash", Honoured),
    ("log.fields.environment", "staging", Honoured),
    ("log.accesslog.disabled", "true", Honoured),
    ("log.reportcaller", "true", Warned),
    ("log.hooks[].type", "mail", Warned),
    ("log.hooks[].disabled", "false", Warned),
    ("log.hooks[].levels", "[panic]", Warned),
    (
        "log.hooks[].options.smtp.addr",
        "'mail.example.com:25'",
        Warned,
    ),
    ("log.hooks[].options.smtp.username", "mailuser", Warned),
    ("log.hooks[].options.smtp.password", "password", Warned),
    ("log.hooks[].options.smtp.insecure", "true", Warned),
    ("log.hooks[].options.from", "sender@example.com", Warned),
    ("log.hooks[].options.to", "[errors@example.com]", Warned),
    ("loglevel", "debug", Honoured),
    ("storage.filesystem.rootdirectory", "/elsewhere", Honoured),
    ("storage.filesystem.maxthreads", "100", Warned),
    ("storage.inmemory", "{}", Honoured),
    ("storage.delete.enabled", "true", Honoured),
    ("storage.s3.bucket", "elsewhere", Honoured),
    ("storage.s3.region", "eu-west-1", Honoured),
    (
        "storage.s3.regionendpoint",
        "'http://localhost:9000'",
        Honoured,
    ),
    ("storage.s3.accesskey", "another", Honoured),
    ("storage.s3.secretkey", "another", Honoured),
    ("storage.s3.sessiontoken", "atoken", Honoured),
    ("storage.s3.forcepathstyle", "true", Honoured),
    ("storage.s3.accelerate", "true", Honoured),
    ("storage.s3.usedualstack", "true", Honoured),
    ("storage.s3.usefipsendpoint", "true", Honoured),
    ("storage.s3.encrypt", "true", Honoured),
    ("storage.s3.keyid", "mykeyid", Honoured),
    ("storage.s3.secure", "false", Honoured),
    ("storage.s3.skipverify", "true", Honoured),
    ("storage.s3.v4auth", "false", Warned),
    ("storage.s3.chunksize", "5242880", Honoured),
    ("storage.s3.multipartcopychunksize", "33554432", Honoured),
    ("storage.s3.multipartcopymaxconcurrency", "100", Honoured),
    (
        "storage.s3.multipartcopythresholdsize",
        "33554432",
        Honoured,
    ),
    ("storage.s3.multipartcombinesmallpart", "false", Warned),
    (
        "storage.s3.rootdirectory",
        "/s3/object/name/prefix",
        Honoured,
    ),
    ("storage.s3.storageclass", "REDUCED_REDUNDANCY", Honoured),
    ("storage.s3.useragent", "me/1.0", Honoured),
    ("storage.s3.objectacl", "public-read", Honoured),
    ("storage.s3.objectownership", "true", Honoured),
    ("storage.s3.loglevel", "debug", Warned),
    ("storage.s3aws.bucket", "elsewhere", Honoured),
    ("storage.s3aws.region", "eu-west-1", Honoured),
    (
        "storage.s3aws.regionendpoint",
        "'http://localhost:9000'",
        Honoured,
    ),
    ("storage.s3aws.accesskey", "another", Honoured),
    ("storage.s3aws.secretkey", "another", Honoured),
    ("storage.s3aws.sessiontoken", "atoken", Honoured),
    ("storage.s3aws.forcepathstyle", "true", Honoured),
    ("storage.s3aws.accelerate", "true", Honoured),
    ("storage.s3aws.usedualstack", "true", Honoured),
    ("storage.s3aws.usefipsendpoint", "true", Honoured),
    ("storage.s3aws.encrypt", "true", Honoured),
    ("storage.s3aws.keyid", "mykeyid", Honoured),
    ("storage.s3aws.secure", "false", Honoured),
    ("storage.s3aws.skipverify", "true", Honoured),
    ("storage.s3aws.v4auth", "false", Warned),
    ("storage.s3aws.chunksize", "5242880", Honoured),
    ("storage.s3aws.multipartcopychunksize", "33554432", Honoured),
    ("storage.s3aws.multipartcopymaxconcurrency", "100", Honoured),
    (
        "storage.s3aws.multipartcopythresholdsize",
        "33554432",
        Honoured,
    ),
    ("storage.s3aws.multipartcombinesmallpart", "false", Warned),
    (
        "storage.s3aws.rootdirectory",
        "/s3/object/name/prefix",
        Honoured,
    ),
    ("storage.s3aws.storageclass", "REDUCED_REDUNDANCY", Honoured),
    ("storage.s3aws.useragent", "me/1.0", Honoured),
    ("storage.s3aws.objectacl", "public-read", Honoured),
    ("storage.s3aws.objectownership", "true", Honoured),
    ("storage.s3aws.loglevel", "debug", Warned),
    ("storage.s3goamz.bucket", "elsewhere", Honoured),
    ("storage.s3goamz.region", "eu-west-1", Honoured),
    (
        "storage.s3goamz.regionendpoint",
        "'http://localhost:9000'",
        Honoured,
    ),
    ("storage.s3goamz.accesskey", "another", Honoured),
    ("storage.s3goamz.secretkey", "another", Honoured),
    ("storage.s3goamz.sessiontoken", "atoken", Honoured),
    ("storage.s3goamz.forcepathstyle", "true", Honoured),
    ("storage.s3goamz.accelerate", "true", Honoured),
    ("storage.s3goamz.usedualstack", "true", Honoured),
    ("storage.s3goamz.usefipsendpoint", "true", Honoured),
    ("storage.s3goamz.encrypt", "true", Honoured),
    ("storage.s3goamz.keyid", "mykeyid", Honoured),
    ("storage.s3goamz.secure", "false", Honoured),
    ("storage.s3goamz.skipverify", "true", Honoured),
    ("storage.s3goamz.v4auth", "false", Warned),
    ("storage.s3goamz.chunksize", "5242880", Honoured),
    (
        "storage.s3goamz.multipartcopychunksize",
        "33554432",
        Honoured,
    ),
    (
        "storage.s3goamz.multipartcopymaxconcurrency",
        "100",
        Honoured,
    ),
    (
        "storage.s3goamz.multipartcopythresholdsize",
        "33554432",
        Honoured,
    ),
    ("storage.s3goamz.multipartcombinesmallpart", "false", Warned),
    (
        "storage.s3goamz.rootdirectory",
        "/s3/object/name/prefix",
        Honoured,
    ),
    (
        "storage.s3goamz.storageclass",
        "REDUCED_REDUNDANCY",
        Honoured,
    ),
    ("storage.s3goamz.useragent", "me/1.0", Honoured),
    ("storage.s3goamz.objectacl", "public-read", Honoured),
    ("storage.s3goamz.objectownership", "true", Honoured),
    ("storage.s3goamz.loglevel", "debug", Warned),
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
    ("storage.redirect.disable", "false", Warned),
    ("storage.cache.blobdescriptor", "redis", Warned),
    ("storage.cache.layerinfo", "inmemory", Warned),
    ("storage.cache.blobdescriptorsize", "10000", Warned),
    ("storage.tag.concurrencylimit", "8", Warned),
    (
        "storage.maintenance.uploadpurging.enabled",
        "false",
        Honoured,
    ),
    ("storage.maintenance.uploadpurging.age", "100h", Honoured),
    (
        "storage.maintenance.uploadpurging.interval",
        "12h",
        Honoured,
    ),
    ("storage.maintenance.uploadpurging.dryrun", "true", Honoured),
    ("storage.maintenance.readonly.enabled", "true", Honoured),
    ("auth.none", "{}", Same),
    ("auth.silly.realm", "elsewhere", Honoured),
    ("auth.silly.service", "elsewhere", Honoured),
    ("auth.htpasswd.realm", "elsewhere", Honoured),
    ("auth.htpasswd.path", "/elsewhere", Honoured),
    ("auth.token.realm", "https://elsewhere", Honoured),
    ("auth.token.service", "elsewhere", Honoured),
    ("auth.token.issuer", "elsewhere", Honoured),
    ("auth.token.rootcertbundle", "/elsewhere", Honoured),
    ("auth.token.jwks", "/path/to/jwks", Honoured),
    ("auth.token.signingalgorithms", "[EdDSA, HS256]", Honoured),
    ("auth.token.autoredirect", "true", Warned),
    ("auth.token.autoredirectpath", "/token", Warned),
    ("middleware.registry[].name", "ARegistryMiddleware", Warned),
    ("middleware.registry[].disabled", "false", Warned),
    ("middleware.registry[].options", "{foo: bar}", Warned),
    (
        "middleware.repository[].name",
        "ARepositoryMiddleware",
        Warned,
    ),
    ("middleware.repository[].disabled", "false", Warned),
    ("middleware.repository[].options", "{foo: bar}", Warned),
    ("middleware.storage[].name", "cloudfront", Warned),
    ("middleware.storage[].disabled", "false", Warned),
    (
        "middleware.storage[].options",
        "{baseurl: 'https://my.cloudfronted.domain.com/'}",
        Warned,
    ),
    ("reporting.bugsnag.apikey", "bugsnagapikey", Warned),
    (
        "reporting.bugsnag.releasestage",
        "bugsnagreleasestage",
        Warned,
    ),
    ("reporting.bugsnag.endpoint", "bugsnagendpoint", Warned),
    (
        "reporting.newrelic.licensekey",
        "newreliclicensekey",
        Warned,
    ),
    ("reporting.newrelic.name", "newrelicname", Warned),
    ("reporting.newrelic.verbose", "true", Warned),
    ("http.addr", "'localhost:5000'", Honoured),
    ("http.net", "unix", Honoured),
    ("http.prefix", "/my/nested/registry/", Honoured),
    (
        "http.host",
        "'https://myregistryaddress.org:5000'",
        Honoured,
    ),
    ("http.secret", "asecretforlocaldevelopment", Honoured),
    ("http.relativeurls", "true", Honoured),
    ("http.draintimeout", "60s", Honoured),
    ("http.tls.certificate", "/elsewhere", Honoured),
    ("http.tls.key", "/elsewhere", Honoured),
    ("http.tls.clientcas", "[/path/to/another/ca.pem]", Honoured),
    (
        "http.tls.clientauth",
        "verify-client-cert-if-given",
        Honoured,
    ),
    ("http.tls.minimumtls", "tls1.3", Honoured),
    (
        "http.tls.ciphersuites",
        "[TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]",
        Honoured,
    ),
    ("http.tls.letsencrypt.cachefile", "/elsewhere", Honoured),
    (
        "http.tls.letsencrypt.email",
        "emailused@letsencrypt.com",
        Honoured,
    ),
    (
        "http.tls.letsencrypt.hosts",
        "[myregistryaddress.org]",
        Honoured,
    ),
    (
        "http.tls.letsencrypt.directoryurl",
        "'https://acme.example.com/directory'",
        Honoured,
    ),
    ("http.debug.addr", "'localhost:5001'", Honoured),
    ("http.debug.prometheus.enabled", "false", Honoured),
    ("http.debug.prometheus.path", "/elsewhere", Honoured),
    ("http.headers.X-Content-Type-Options", "[nosniff]", Honoured),
    ("http.http2.disabled", "true", Honoured),
    ("http.h2c.enabled", "true", Honoured),
    ("notifications.events.includereferences", "true", Honoured),
    ("notifications.endpoints[].name", "alistener", Honoured),
    ("notifications.endpoints[].disabled", "true", Honoured),
    (
        "notifications.endpoints[].url",
        "'https://my.listener.com/event'",
        Honoured,
    ),
    (
        "notifications.endpoints[].headers.X-Token",
        "[token]",
        Honoured,
    ),
    ("notifications.endpoints[].timeout", "2s", Honoured),
    ("notifications.endpoints[].threshold", "5", Honoured),
    ("notifications.endpoints[].backoff", "2s", Honoured),
    (
        "notifications.endpoints[].ignoredmediatypes",
        "[application/octet-stream]",
        Honoured,
    ),
    (
        "notifications.endpoints[].ignore.mediatypes",
        "[application/octet-stream]",
        Honoured,
    ),
    (
        "notifications.endpoints[].ignore.actions",
        "[pull]",
        Honoured,
    ),
    ("redis.addr", "'localhost:6379'", Warned),
    ("redis.addrs", "['localhost:6379']", Warned),
    ("redis.clientname", "registry", Warned),
    ("redis.username", "registry", Warned),
    ("redis.password", "asecret", Warned),
    ("redis.sentinelusername", "registry", Warned),
    ("redis.sentinelpassword", "asecret", Warned),
    ("redis.mastername", "main", Warned),
    ("redis.identitysuffix", "registry", Warned),
    ("redis.db", "0", Warned),
    ("redis.protocol", "3", Warned),
    ("redis.maxretries", "3", Warned),
    ("redis.minretrybackoff", "10ms", Warned),
    ("redis.maxretrybackoff", "10ms", Warned),
    ("redis.dialtimeout", "10ms", Warned),
    ("redis.readtimeout", "10ms", Warned),
    ("redis.writetimeout", "10ms", Warned),
    ("redis.contexttimeoutenabled", "true", Warned),
    ("redis.poolfifo", "true", Warned),
    ("redis.poolsize", "64", Warned),
    ("redis.pooltimeout", "10ms", Warned),
    ("redis.minidleconns", "1", Warned),
    ("redis.maxidleconns", "16", Warned),
    ("redis.maxactiveconns", "16", Warned),
    ("redis.connmaxidletime", "300s", Warned),
    ("redis.connmaxlifetime", "300s", Warned),
    ("redis.maxredirects", "3", Warned),
    ("redis.readonly", "true", Warned),
    ("redis.routebylatency", "true", Warned),
    ("redis.routerandomly", "true", Warned),
    ("redis.disableidentity", "true", Warned),
    ("redis.unstableresp3", "true", Warned),
    ("redis.pool.maxidle", "16", Warned),
    ("redis.pool.maxactive", "64", Warned),
    ("redis.pool.idletimeout", "300s", Warned),
    ("redis.tls.enabled", "true", Warned),
    ("redis.tls.certificate", "/path/to/cert.crt", Warned),
    ("redis.tls.key", "/path/to/key.pem", Warned),
    ("redis.tls.rootcas", "[/path/to/ca.pem]", Warned),
    ("health.storagedriver.enabled", "false", Honoured),
    ("health.storagedriver.interval", "20s", Honoured),
    ("health.storagedriver.threshold", "3", Honoured),
    ("health.file[].file", "/path/to/checked/file", Honoured),
    ("health.file[].interval", "20s", Honoured),
    ("health.file[].threshold", "3", Honoured),
    (
        "health.http[].uri",
        "'http://server.to.check/must/return/200'",
        Honoured,
    ),
    (
        "health.http[].headers.Authorization",
        "[Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==]",
        Honoured,
    ),
    ("health.http[].statuscode", "204", Honoured),
    ("health.http[].timeout", "3s", Honoured),
    ("health.http[].interval", "20s", Honoured),
    ("health.http[].threshold", "3", Honoured),
    (
        "health.tcp[].addr",
        "'redis-server.domain.com:6379'",
        Honoured,
    ),
    ("health.tcp[].timeout", "3s", Honoured),
    ("health.tcp[].interval", "20s", Honoured),
    ("health.tcp[].threshold", "3", Honoured),
    ("catalog.maxentries", "10", Honoured),
    ("tags.maxtags", "10", Warned),
    ("proxy.remoteurl", "'https://upstream.example.com'", Warned),
    ("proxy.username", "name", Warned),
    ("proxy.password", "password", Warned),
    ("proxy.ttl", "168h", Warned),
    ("proxy.cachewritetimeout", "5m", Warned),
    ("proxy.exec.command", "docker-credential-helper", Warned),
    ("proxy.exec.lifetime", "1h", Warned),
    (
        "compatibility.schema1.signingkeyfile",
        "/etc/registry/key.json",
        Warned,
    ),
    ("compatibility.schema1.enabled", "true", Warned),
    ("validation.enabled", "true", Same),
    ("validation.disabled", "true", Honoured),
    (
        "validation.manifests.urls.allow",
        "['^https?://([^/]+\\.)*example\\.com/']",
        Honoured,
    ),
    (
        "validation.manifests.urls.deny",
        "['^https?://www\\.example\\.com/']",
        Honoured,
    ),
    ("validation.manifests.indexes.platforms", "List", Warned),
    (
        "validation.manifests.indexes.platformlist[].architecture",
        "amd64",
        Warned,
    ),
    (
        "validation.manifests.indexes.platformlist[].os",
        "linux",
        Warned,
    ),
    ("policy.repository.classes", "[image]", Refused),
    // Keys of our own.
    ("registry.manifestlimit", "8388608", Honoured),
    ("registry.trustedproxies", "[10.0.0.0/8]", Honoured),
    ("registry.draindelay", "5s", Honoured),
    ("registry.access.rules", "/etc/registry/rules.yml", Honoured),
    ("registry.access.acumos.file", "/elsewhere", Honoured),
    ("registry.access.acumos.database", "/elsewhere", Honoured),
    (
        "registry.access.acumos.services.cds.url",
        "'http://cds:8001/ccds'",
        Honoured,
    ),
    ("registry.access.acumos.services.cds.user", "me", Honoured),
    (
        "registry.access.acumos.services.cds.password",
        "asecret",
        Honoured,
    ),
    (
        "registry.access.acumos.services.cds.passwordfile",
        "/run/secrets/cds",
        Honoured,
    ),
    (
        "registry.access.acumos.services.cds.cafile",
        "/ca.pem",
        Honoured,
    ),
    (
        "registry.access.acumos.services.cds.version",
        "3.1.1",
        Honoured,
    ),
    (
        "registry.access.acumos.services.lum.url",
        "'http://lum:2081'",
        Honoured,
    ),
    (
        "registry.access.acumos.services.lum.cafile",
        "/ca.pem",
        Honoured,
    ),
    (
        "registry.access.acumos.services.lum.instance",
        "production",
        Honoured,
    ),
    ("registry.access.acumos.services.timeout", "2s", Honoured),
    ("registry.access.acumos.cache.account", "2m", Honoured),
    ("registry.access.acumos.cache.solution", "2m", Honoured),
    ("registry.access.acumos.cache.revisions", "0s", Honoured),
    ("registry.access.acumos.cache.right", "5m", Honoured),
    ("registry.access.acumos.cache.negative", "1s", Honoured),
    ("registry.access.acumos.cache.honour", "10m", Honoured),
    ("registry.access.acumos.timeout", "2s", Honoured),
    ("registry.access.acumos.adminrole", "Root", Honoured),
    ("registry.access.acumos.coownerpush", "false", Honoured),
    (
        "registry.access.acumos.serviceaccounts.role",
        "pusher",
        Honoured,
    ),
    (
        "registry.access.acumos.serviceaccounts.names",
        "[onboarding]",
        Honoured,
    ),
    (
        "registry.access.acumos.serviceaccounts.actions",
        "[pull]",
        Honoured,
    ),
    ("registry.auth.acumos.realm", "Platform", Honoured),
    ("registry.auth.acumos.secrets", "token", Honoured),
    ("registry.auth.acumos.remember", "1m", Honoured),
    ("registry.auth.acumos.block", "1h", Honoured),
    ("registry.auth.acumos.attempts", "5", Honoured),
    ("registry.access.hide", "true", Honoured),
    ("registry.access.audit", "stdout", Honoured),
    ("registry.limits.users.requests", "100/m", Honoured),
    ("registry.limits.users.failures", "100/m", Honoured),
    ("registry.limits.users.pulls", "100/m", Honoured),
    ("registry.limits.addresses.requests", "100/m", Honoured),
    ("registry.limits.addresses.failures", "100/m", Honoured),
    ("registry.limits.addresses.pulls", "100/m", Honoured),
    ("registry.auth.accounts.realm", "Builds", Honoured),
    ("registry.auth.accounts.path", "/elsewhere", Honoured),
    ("registry.auth.token.cafile", "/ca.pem", Honoured),
    ("registry.auth.certificates.name", "dns", Honoured),
    ("registry.auth.certificates.kind", "service", Honoured),
    (
        "registry.auth.certificates.rolesfromunits",
        "true",
        Honoured,
    ),
    ("registry.tokens.issuer", "auth.example.com", Honoured),
    ("registry.tokens.services", "[one, two]", Honoured),
    (
        "registry.tokens.realm",
        "'https://registry.example.com/auth/token'",
        Honoured,
    ),
    ("registry.tokens.key", "/elsewhere", Honoured),
    ("registry.tokens.certificates", "/c.pem", Honoured),
    ("registry.tokens.formerkeys", "/former.pem", Honoured),
    ("registry.tokens.lifetime", "1m", Honoured),
    ("registry.tokens.refreshlifetime", "24h", Honoured),
    ("registry.tokens.path", "/token", Honoured),
    ("registry.tokens.keyspath", "/keys", Honoured),
    (
        "registry.notifications.outbox.directory",
        "/elsewhere",
        Honoured,
    ),
    (
        "registry.notifications.outbox.maxbytes",
        "1048576",
        Honoured,
    ),
    ("registry.reload.interval", "1m", Honoured),
    ("registry.storage.secretfile", "/run/secrets/s3", Honoured),
    ("registry.storage.cafile", "/ca.pem", Honoured),
    ("registry.storage.timeout", "10s", Honoured),
    ("registry.storage.concurrency", "16", Honoured),
    ("registry.storage.patience", "5s", Honoured),
];

/// The drivers that cannot be, with their parameters
const DRIVERS: &[(&str, &str)] = &[
    (
        "swift",
        "username password authurl tenant tenantid domain domainid trustid insecureskipverify region \
         container rootdirectory chunksize prefix secretkey accesskey endpointtype authversion \
         tempurlcontainerkey tempurlmethods",
    ),
    ("rados", "poolname username chunksize"),
];

/// The drivers for object stores, with what each needs
const BUCKETS: &[(&str, &[(&str, &str)])] = &[
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

/// What a key needs beside it to mean anything: the longest beginning of its path counts
const BESIDE: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("version", "0.1"),
            ("storage.filesystem.rootdirectory", "/var/lib/registry"),
        ],
    ),
    (
        "auth.silly",
        &[("auth.silly.realm", "r"), ("auth.silly.service", "s")],
    ),
    (
        "auth.htpasswd",
        &[("auth.htpasswd.realm", "r"), ("auth.htpasswd.path", "/p")],
    ),
    (
        "auth.token",
        &[
            ("auth.token.realm", "https://r"),
            ("auth.token.service", "s"),
            ("auth.token.issuer", "i"),
            ("auth.token.rootcertbundle", "/p"),
        ],
    ),
    (
        "http.tls",
        &[
            ("http.tls.certificate", "/c"),
            ("http.tls.key", "/k"),
            ("http.tls.clientcas", "[/ca]"),
        ],
    ),
    (
        "http.tls.letsencrypt",
        &[
            ("http.tls.letsencrypt.cachefile", "/c"),
            ("http.tls.letsencrypt.hosts", "[h]"),
        ],
    ),
    (
        "http.debug",
        &[
            ("http.debug.addr", "':1'"),
            ("http.debug.prometheus.enabled", "true"),
        ],
    ),
    (
        "notifications.endpoints",
        &[("notifications.endpoints[].url", "'http://h'")],
    ),
    (
        "health.storagedriver",
        &[("health.storagedriver.enabled", "true")],
    ),
    ("health.file", &[("health.file[].file", "/f")]),
    ("health.http", &[("health.http[].uri", "'http://h'")]),
    ("health.tcp", &[("health.tcp[].addr", "'h:1'")]),
    (
        "registry.access.acumos",
        &[("registry.access.acumos.file", "/f")],
    ),
    ("registry.access.acumos.file", &[]),
    ("registry.access.acumos.database", &[]),
    (
        "registry.access.acumos.services",
        &[("registry.access.acumos.services.cds.url", "'http://h'")],
    ),
    (
        "registry.access.acumos.services.cds.user",
        &[
            ("registry.access.acumos.services.cds.url", "'http://h'"),
            ("registry.access.acumos.services.cds.password", "p"),
        ],
    ),
    (
        "registry.access.acumos.services.lum",
        &[
            ("registry.access.acumos.services.cds.url", "'http://h'"),
            ("registry.access.acumos.services.lum.url", "'http://h'"),
        ],
    ),
    (
        "registry.auth.acumos",
        &[
            ("registry.access.acumos.file", "/f"),
            ("registry.auth.acumos.secrets", "both"),
        ],
    ),
    (
        "registry.auth.accounts",
        &[("registry.auth.accounts.path", "/p")],
    ),
    (
        "registry.auth.certificates",
        &[("registry.auth.certificates.kind", "user")],
    ),
    (
        "registry.storage.secretfile",
        &[
            ("storage.azure.container", "images"),
            ("storage.azure.accountname", "me"),
        ],
    ),
    (
        "registry.tokens",
        &[
            ("registry.tokens.services", "[s]"),
            ("registry.tokens.key", "/k"),
        ],
    ),
];

/// A document under construction
#[derive(Default)]
struct Document {
    value: String,
    list: bool,
    below: BTreeMap<String, Self>,
}

impl Document {
    fn set(&mut self, path: &str, value: &str) {
        let mut at = self;
        for part in path.split('.') {
            let name = part.trim_end_matches("[]");
            at = at.below.entry(name.to_owned()).or_default();
            at.list = part.ends_with("[]");
        }
        at.value = value.to_owned();
    }

    fn yaml(&self) -> String {
        let text = if self.below.is_empty() {
            self.value.clone()
        } else {
            let entries: Vec<String> = self
                .below
                .iter()
                .map(|(name, below)| format!("{name}: {}", below.yaml()))
                .collect();
            format!("{{{}}}", entries.join(", "))
        };
        if self.list { format!("[{text}]") } else { text }
    }
}

/// What is beside a key, and the key if there is one
fn document(path: &str, value: Option<&str>) -> String {
    let mut document = Document::default();
    let (_, base) = BESIDE[0];
    let (_, beside) = BESIDE
        .iter()
        .filter(|(start, _)| path.starts_with(start))
        .max_by_key(|(start, _)| start.len())
        .unwrap();
    for (path, value) in base {
        document.set(path, value);
    }
    if path.starts_with("registry.storage.") && !std::ptr::eq(*beside, base) {
        document.below.remove("storage");
    }
    for (path, value) in *beside {
        document.set(path, value);
    }
    let bucket = BUCKETS.iter().find(|(start, _)| path.starts_with(start));
    if let Some((start, needed)) = bucket {
        document.below.remove("storage");
        for (name, value) in *needed {
            document.set(&format!("{start}{name}"), value);
        }
        // What says something only beside another.
        for (name, other, value) in [
            ("keyid", "encrypt", "true"),
            ("encryptionkeyid", "encrypt", "true"),
            ("objectownership", "objectacl", "public-read"),
            ("credentials.clientid", "credentials.type", "client_secret"),
            ("credentials.tenantid", "credentials.type", "client_secret"),
            ("credentials.secret", "credentials.type", "client_secret"),
        ] {
            if path == format!("{start}{name}") {
                document.set(&format!("{start}{other}"), value);
            }
        }
    }
    if let Some(value) = value {
        if path == "storage.inmemory" {
            document.below.remove("storage");
        }
        document.set(path, value);
    }
    document.yaml()
}

fn read(path: &str, value: Option<&str>) -> Result<(Config, Vec<Warning>), ConfigError> {
    Config::from_yaml(&document(path, value))
}

#[test]
fn every_documented_key_is_honoured_or_named() {
    for (path, value, becomes) in DOCUMENTED {
        let (without, quiet) = read(path, None).unwrap();
        assert_eq!(quiet, [], "{path}");
        let with = read(path, Some(value));
        if *becomes == Refused {
            let error = with.unwrap_err().to_string();
            assert!(error.contains(path), "{path}: {error}");
            continue;
        }
        let (with, warnings) = with.unwrap_or_else(|error| panic!("{path}: {error}"));
        let changed = with != without;
        assert_eq!(changed, *becomes == Honoured, "{path}");
        // A path in a warning has the name or the index of the item.
        let named = |key: &str| {
            let mut parts = path.split("[]");
            let first = parts.next().unwrap();
            key.starts_with(first) && parts.next().is_none_or(|last| key.ends_with(last))
        };
        assert_eq!(
            warnings
                .iter()
                .any(|warning| warning.keys.iter().any(|key| named(key))),
            *becomes == Warned,
            "{path}: {warnings:?}"
        );
        assert!(
            *becomes == Warned || warnings.is_empty(),
            "{path}: {warnings:?}"
        );
    }
}

#[test]
fn a_driver_that_cannot_be_is_an_error_that_says_what_to_write_instead() {
    for (driver, parameters) in DRIVERS {
        for parameter in parameters.split(' ').chain([""]) {
            let mut document = Document::default();
            document.set("version", "0.1");
            let path = format!("storage.{driver}.{parameter}");
            document.set(path.trim_end_matches('.'), "x");
            let error = Config::from_yaml(&document.yaml()).unwrap_err().to_string();
            let expected = format!("`storage.{driver}` cannot be");
            assert!(error.contains(&expected), "{path}: {error}");
            assert!(
                error.contains("`storage.s3`") && error.contains("`filesystem`"),
                "{error}"
            );
        }
    }
}

#[test]
fn the_table_has_the_documented_keys_and_no_other() {
    let table: Vec<String> = KEYS.iter().flat_map(|key| expand(key.path)).collect();
    let mut unique: BTreeSet<String> = BTreeSet::new();
    for path in &table {
        assert!(unique.insert(path.clone()), "`{path}` is there twice");
        let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._[]".contains(c));
        assert!(!path.contains(odd), "{path}");
    }
    let mut documented: BTreeSet<String> = DOCUMENTED
        .iter()
        .map(|(path, _, _)| {
            // A name that is chosen freely stands for the key above it.
            let free = ["log.fields.", "headers."];
            let above = free.iter().any(|part| path.contains(part));
            let cut = path.rfind('.').filter(|_| above).unwrap_or(path.len());
            path[..cut].to_owned()
        })
        .collect();
    for (driver, parameters) in DRIVERS {
        documented.extend(
            parameters
                .split(' ')
                .map(|name| format!("storage.{driver}.{name}")),
        );
    }
    assert_eq!(unique, documented);
}
