//! The table of keys: everything that distribution documents, and what becomes of it here
//!
//! One place decides which keys are known, what type they have and whether they do anything. The
//! reader of files, the environment, the warnings and the table for people all follow it.

/// One key, or several that share a type and a fate
pub(crate) struct Key {
    /// The path from the top, with `[]` for the items of a list and `{a,b}` for several keys
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    pub(crate) fate: Fate,
}

/// What may be written
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `true` or `false`
    Flag,
    /// A whole number
    Number,
    /// A number of bytes, also in quotes and with `0x`
    Size,
    /// `5m`, `1h30m`; a number alone counts nanoseconds
    Duration,
    /// Text; a number or boolean is taken as it is written
    Text,
    /// One of these, in any case
    Choice(&'static [&'static str]),
    /// A list of texts
    Texts,
    /// Names that are chosen freely, each with a text
    Names,
    /// Names of header fields, each with a text or a list of them
    Headers,
    /// Whatever there is, not looked into
    Anything,
    /// Nothing: the key alone says it
    Alone,
}

/// What becomes of a key
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It does what it says
    Honoured,
    /// It does what it says, with a difference that is told here
    Differently(&'static str),
    /// Only this value can be had; another is warned about with what happens instead
    Only(&'static str, &'static str),
    /// It does nothing, and a warning says what happens instead
    Ignored(&'static str),
    /// Going on without it would be unsafe or pointless; the error says why
    Refused(&'static str),
}

impl Kind {
    /// What is expected, for messages and for the table
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Flag => "`true` or `false`".to_owned(),
            Self::Number => "a whole number".to_owned(),
            Self::Size => "a number of bytes such as `10485760`".to_owned(),
            Self::Duration => "a duration such as `90s` or `1h30m`".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Choice(names) => {
                let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                match &quoted[..] {
                    [only] => only.clone(),
                    several => format!("one of {}", several.join(", ")),
                }
            }
            Self::Texts => "a list such as `[one, two]`".to_owned(),
            Self::Names => "names, each with a text".to_owned(),
            Self::Headers => "header names, each with a list of texts".to_owned(),
            Self::Anything => "anything".to_owned(),
            Self::Alone => "nothing".to_owned(),
        }
    }
}

/// The paths that the notation of [`Key::path`] stands for
pub(crate) fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    // Every `{` of the table is closed; a test expands all of it.
    let (names, after) = rest.split_once('}').unwrap_or((rest, ""));
    names
        .split(',')
        .flat_map(|name| expand(&format!("{before}{name}{after}")))
        .collect()
}

const fn key(path: &'static str, kind: Kind, fate: Fate) -> Key {
    Key { path, kind, fate }
}

use Fate::{Differently, Honoured, Ignored, Only, Refused};
use Kind::{Alone, Anything, Choice, Duration, Flag, Headers, Names, Number, Size, Text, Texts};

const LEVELS: Kind = Choice(&["error", "warn", "info", "debug"]);

const NO_CACHE: &str =
    "no such cache is needed: what is asked for often is in the cache of the file system";
const NO_REDIS: &str = "nothing here needs Redis";
const NO_AUTO_REDIRECT: &str = "clients are always sent to `auth.token.realm`";
const NO_REPORTS: &str = "nothing is reported to a third party; errors are in the log";
const NO_PROXY: &str =
    "nothing is pulled through from another registry; only what is stored here is served";
const NO_MIDDLEWARE: &str = "middleware of distribution is Go code that this build does not have; requests go on without it";
const NO_MAIL: &str = "no mail is sent; watch the log or the metrics";
const NO_SWIFT: &str = "Swift is spoken to by its S3 face: write `storage.s3` with `regionendpoint` (the URL of \
    the S3 API, which `authurl` does not tell), `forcepathstyle: true`, `bucket` (the container), and the \
    `accesskey` and `secretkey` that `openstack ec2 credentials create` gives; content of a large object that \
    distribution wrote by segments is copied there first. Else `storage` has `filesystem`, `inmemory`, \
    `azure`, `gcs` or `oss`";
const NO_RADOS: &str = "Ceph is spoken to by its gateway: write `storage.s3` with `regionendpoint` (the URL of the \
    gateway), `bucket`, `accesskey` and `secretkey`. Else `storage` has `filesystem`, `inmemory`, `azure`, \
    `gcs` or `oss`";
const BY_ITSELF: &str = "without it the environment (`AWS_ACCESS_KEY_ID` and so on), a web identity, the files \
    of `~/.aws` with `AWS_PROFILE`, the role of the container or of the machine are asked, in this order";
const ROOT: &str = "a prefix of all keys; slashes at its ends do not count";
const ENDPOINT: &str =
    "a URL, or a host and a port that are reached with TLS unless `secure: false`";
const NO_PLATFORMS: &str =
    "an index is taken when all that it references is here, whatever the platform";
const NO_SCHEMA1: &str = "manifests of schema 1 are always refused";

/// Every key that is known
pub(crate) const KEYS: &[Key] = &[
    key("version", Choice(&["0.1"]), Honoured),
    key("log.level", LEVELS, Honoured),
    key(
        "loglevel",
        LEVELS,
        Differently("the old name of `log.level`, which wins"),
    ),
    key(
        "log.formatter",
        Choice(&["text", "json", "logstash"]),
        Honoured,
    ),
    key("log.fields", Names, Honoured),
    key("log.accesslog.disabled", Flag, Honoured),
    key(
        "log.reportcaller",
        Flag,
        Only(
            "false",
            "records do not name the line of code that wrote them",
        ),
    ),
    key("log.hooks[].{type,options.from}", Text, Ignored(NO_MAIL)),
    key("log.hooks[].disabled", Flag, Ignored(NO_MAIL)),
    key("log.hooks[].{levels,options.to}", Texts, Ignored(NO_MAIL)),
    key(
        "log.hooks[].options.smtp.{addr,username,password}",
        Text,
        Ignored(NO_MAIL),
    ),
    key("log.hooks[].options.smtp.insecure", Flag, Ignored(NO_MAIL)),
    key(
        "storage.filesystem.rootdirectory",
        Text,
        Differently("`/var/lib/registry` without it"),
    ),
    key(
        "storage.filesystem.maxthreads",
        Number,
        Ignored("how many files are read at once is bounded by the threads of the runtime"),
    ),
    key("storage.inmemory", Alone, Honoured),
    key("storage.delete.enabled", Flag, Honoured),
    key(
        "storage.redirect.disable",
        Flag,
        Only(
            "true",
            "content is always served from here, never by redirect",
        ),
    ),
    key(
        "storage.cache.{blobdescriptor,layerinfo}",
        Text,
        Ignored(NO_CACHE),
    ),
    key(
        "storage.cache.blobdescriptorsize",
        Number,
        Ignored(NO_CACHE),
    ),
    key(
        "storage.tag.concurrencylimit",
        Number,
        Ignored("how many tags are looked at at once is fixed, and enough for a folder"),
    ),
    key(
        "storage.maintenance.uploadpurging.{enabled,dryrun}",
        Flag,
        Honoured,
    ),
    key(
        "storage.maintenance.uploadpurging.{age,interval}",
        Duration,
        Honoured,
    ),
    key("storage.maintenance.readonly.enabled", Flag, Honoured),
    key(
        "storage.{s3,s3aws,s3goamz}.bucket",
        Text,
        Differently(
            "it must exist, and is tried at start: for a minute if it cannot be reached \
             (`registry.storage.patience`), and whatever else is wrong ends the registry",
        ),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.region",
        Text,
        Differently(
            "without it that of `AWS_REGION` or of the profile; with `regionendpoint` none is needed",
        ),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.regionendpoint",
        Text,
        Differently(ENDPOINT),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.{accesskey,secretkey,sessiontoken}",
        Text,
        Differently(BY_ITSELF),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.forcepathstyle",
        Flag,
        Differently(
            "without it, true with `regionendpoint` and for a bucket with a dot in its name",
        ),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.{accelerate,usedualstack,usefipsendpoint}",
        Flag,
        Differently("Amazon's own endpoints, so not beside `regionendpoint`"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.{encrypt,secure}",
        Flag,
        Honoured,
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.keyid",
        Text,
        Differently("with `encrypt: true` only"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.skipverify",
        Flag,
        Differently("better, `registry.storage.cafile` names the authority of the store"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.v4auth",
        Flag,
        Only(
            "true",
            "requests are signed by version 4; former ones are not safe",
        ),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.chunksize",
        Size,
        Differently(
            "8 MiB without it, at least 5 MiB; parts grow with an upload, so that 10,000 are enough",
        ),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.multipartcopythresholdsize",
        Size,
        Differently("512 MiB without it"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.multipartcopychunksize",
        Size,
        Differently("128 MiB without it"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.multipartcopymaxconcurrency",
        Number,
        Differently("8 without it; of one object"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.multipartcombinesmallpart",
        Flag,
        Only(
            "true",
            "chunks are gathered until they make a part, whatever their size",
        ),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.rootdirectory",
        Text,
        Differently(ROOT),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.storageclass",
        Text,
        Differently(
            "`NONE` and nothing are the bucket's own; one from which nothing is read at once is an error",
        ),
    ),
    key("storage.{s3,s3aws,s3goamz}.useragent", Text, Honoured),
    key(
        "storage.{s3,s3aws,s3goamz}.objectacl",
        Text,
        Differently("without it none is sent, which S3 takes for `private`"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.objectownership",
        Flag,
        Differently("true leaves `objectacl` out"),
    ),
    key(
        "storage.{s3,s3aws,s3goamz}.loglevel",
        Text,
        Ignored("what fails is logged, and with `log.level: debug` what is tried again"),
    ),
    key("storage.azure.{container,accountname}", Text, Honoured),
    key(
        "storage.azure.accountkey",
        Text,
        Differently(
            "without it the environment (`AZURE_STORAGE_ACCOUNT_KEY` and so on), a workload or managed \
             identity",
        ),
    ),
    key(
        "storage.azure.credentials.type",
        Choice(&["shared_key", "client_secret", "default_credentials"]),
        Honoured,
    ),
    key(
        "storage.azure.credentials.{clientid,tenantid,secret}",
        Text,
        Differently("with `type: client_secret`"),
    ),
    key(
        "storage.azure.{realm,serviceurl}",
        Text,
        Differently("where the account is, if not at `core.windows.net`"),
    ),
    key("storage.azure.rootdirectory", Text, Differently(ROOT)),
    key(
        "storage.azure.max_retries",
        Number,
        Differently("4 without it"),
    ),
    key(
        "storage.azure.retry_delay",
        Duration,
        Ignored("the first pause is 100 ms, and each is longer than the one before, with chance"),
    ),
    key("storage.gcs.bucket", Text, Honoured),
    key(
        "storage.gcs.keyfile",
        Text,
        Differently(
            "without it and `credentials`, `GOOGLE_APPLICATION_CREDENTIALS` or the machine's account",
        ),
    ),
    key(
        "storage.gcs.credentials.{type,project_id,private_key_id,private_key,client_email,client_id,\
         auth_uri,token_uri,auth_provider_x509_cert_url,client_x509_cert_url}",
        Text,
        Differently("the key of a service account, key by key"),
    ),
    key("storage.gcs.rootdirectory", Text, Differently(ROOT)),
    key(
        "storage.gcs.chunksize",
        Size,
        Differently("8 MiB without it, and 5 MiB for less, which the protocol does not have"),
    ),
    key(
        "storage.gcs.maxconcurrency",
        Number,
        Differently("of all calls; 128 without it"),
    ),
    key("storage.oss.bucket", Text, Honoured),
    key(
        "storage.oss.{accesskeyid,accesskeysecret}",
        Text,
        Differently("OSS is spoken to by its S3 face: `accesskey` and `secretkey` of `storage.s3`"),
    ),
    key(
        "storage.oss.region",
        Text,
        Differently(
            "`region` of `storage.s3`, with `s3.<region>.aliyuncs.com` as `regionendpoint`",
        ),
    ),
    key(
        "storage.oss.endpoint",
        Text,
        Differently(
            "`regionendpoint` of `storage.s3`; `s3.` is put before a name that begins with `oss-`",
        ),
    ),
    key(
        "storage.oss.internal",
        Flag,
        Differently("`s3.<region>-internal.aliyuncs.com`"),
    ),
    key("storage.oss.encrypt", Flag, Honoured),
    key(
        "storage.oss.encryptionkeyid",
        Text,
        Differently("`keyid` of `storage.s3`, with `encrypt: true` only"),
    ),
    key("storage.oss.secure", Flag, Honoured),
    key(
        "storage.oss.chunksize",
        Size,
        Differently("8 MiB without it, at least 5 MiB"),
    ),
    key("storage.oss.rootdirectory", Text, Differently(ROOT)),
    key(
        "storage.swift.{username,password,authurl,tenant,tenantid,domain,domainid,trustid,\
         insecureskipverify,region,container,rootdirectory,chunksize,prefix,secretkey,accesskey,\
         endpointtype,authversion,tempurlcontainerkey,tempurlmethods}",
        Anything,
        Refused(NO_SWIFT),
    ),
    key(
        "storage.rados.{poolname,username,chunksize}",
        Anything,
        Refused(NO_RADOS),
    ),
    key("auth.none", Alone, Honoured),
    key("auth.silly.{realm,service}", Text, Honoured),
    key("auth.htpasswd.{realm,path}", Text, Honoured),
    key(
        "auth.token.{realm,service,issuer,rootcertbundle}",
        Text,
        Honoured,
    ),
    key(
        "auth.token.jwks",
        Text,
        Differently(
            "a file or, unlike in distribution, an `https://` URL that is fetched again and again",
        ),
    ),
    key("auth.token.signingalgorithms", Texts, Honoured),
    key(
        "auth.token.autoredirect",
        Flag,
        Only("false", NO_AUTO_REDIRECT),
    ),
    key(
        "auth.token.autoredirectpath",
        Text,
        Ignored(NO_AUTO_REDIRECT),
    ),
    key(
        "middleware.{registry,repository,storage}[].name",
        Text,
        Ignored(NO_MIDDLEWARE),
    ),
    key(
        "middleware.{registry,repository,storage}[].disabled",
        Flag,
        Ignored(NO_MIDDLEWARE),
    ),
    key(
        "middleware.{registry,repository,storage}[].options",
        Anything,
        Ignored(NO_MIDDLEWARE),
    ),
    key(
        "reporting.bugsnag.{apikey,releasestage,endpoint}",
        Text,
        Ignored(NO_REPORTS),
    ),
    key(
        "reporting.newrelic.{licensekey,name}",
        Text,
        Ignored(NO_REPORTS),
    ),
    key("reporting.newrelic.verbose", Flag, Ignored(NO_REPORTS)),
    key(
        "http.addr",
        Text,
        Differently("`127.0.0.1:5000` without it"),
    ),
    key("http.net", Choice(&["tcp", "unix"]), Honoured),
    key("http.{host,prefix}", Text, Honoured),
    key(
        "http.secret",
        Text,
        Differently(
            "seals upload sessions, so that an upload goes on when a token expires meanwhile; of at \
             least 16 bytes, and the same for all replicas",
        ),
    ),
    key(
        "http.relativeurls",
        Flag,
        Differently("locations are paths without a host unless `http.host` is set"),
    ),
    key(
        "http.draintimeout",
        Duration,
        Differently("30 s without it or with 0, where distribution cuts transfers"),
    ),
    key("http.tls.{certificate,key}", Text, Honoured),
    key("http.tls.clientcas", Texts, Honoured),
    key(
        "http.tls.clientauth",
        Choice(&[
            "request-client-cert",
            "require-any-client-cert",
            "verify-client-cert-if-given",
            "require-and-verify-client-cert",
        ]),
        Differently(
            "a certificate that nobody verifies is worth nothing: `request-client-cert` asks for none, with a \
             warning, and `require-any-client-cert` is an error",
        ),
    ),
    key(
        "http.tls.minimumtls",
        Choice(&["tls1.0", "tls1.1", "tls1.2", "tls1.3"]),
        Differently("1.2 is the lowest there is; a lower one is a warning"),
    ),
    key(
        "http.tls.ciphersuites",
        Texts,
        Differently("for TLS 1.2; those without forward secrecy are left out, with a warning"),
    ),
    key(
        "http.tls.letsencrypt.{cachefile,email,directoryurl}",
        Text,
        Honoured,
    ),
    key(
        "http.tls.letsencrypt.hosts",
        Texts,
        Differently(
            "needed: without it distribution asks for certificates for any name that it is called by",
        ),
    ),
    key("http.headers", Headers, Honoured),
    key("http.debug.addr", Text, Honoured),
    key("http.debug.prometheus.enabled", Flag, Honoured),
    key("http.debug.prometheus.path", Text, Honoured),
    key("http.http2.disabled", Flag, Honoured),
    key("http.h2c.enabled", Flag, Honoured),
    key("notifications.events.includereferences", Flag, Honoured),
    key(
        "notifications.endpoints[].name",
        Text,
        Differently("the host of the URL without it; no two may be the same"),
    ),
    key("notifications.endpoints[].disabled", Flag, Honoured),
    key("notifications.endpoints[].url", Text, Honoured),
    key("notifications.endpoints[].headers", Headers, Honoured),
    key(
        "notifications.endpoints[].{timeout,backoff}",
        Duration,
        Honoured,
    ),
    key("notifications.endpoints[].threshold", Number, Honoured),
    key(
        "notifications.endpoints[].{ignoredmediatypes,ignore.mediatypes,ignore.actions}",
        Texts,
        Honoured,
    ),
    key(
        "redis.{addr,clientname,username,password,sentinelusername,sentinelpassword,mastername,identitysuffix}",
        Text,
        Ignored(NO_REDIS),
    ),
    key("redis.{addrs,tls.rootcas}", Texts, Ignored(NO_REDIS)),
    key("redis.{tls.certificate,tls.key}", Text, Ignored(NO_REDIS)),
    key(
        "redis.{db,protocol,maxretries,poolsize,minidleconns,maxidleconns,maxactiveconns,maxredirects,\
         pool.maxidle,pool.maxactive}",
        Number,
        Ignored(NO_REDIS),
    ),
    key(
        "redis.{dialtimeout,readtimeout,writetimeout,minretrybackoff,maxretrybackoff,pooltimeout,\
         connmaxidletime,connmaxlifetime,pool.idletimeout}",
        Duration,
        Ignored(NO_REDIS),
    ),
    key(
        "redis.{tls.enabled,contexttimeoutenabled,poolfifo,readonly,routebylatency,routerandomly,\
         disableidentity,unstableresp3}",
        Flag,
        Ignored(NO_REDIS),
    ),
    key("health.storagedriver.enabled", Flag, Honoured),
    key("health.storagedriver.interval", Duration, Honoured),
    key("health.storagedriver.threshold", Number, Honoured),
    key("health.file[].file", Text, Honoured),
    key("health.http[].uri", Text, Honoured),
    key("health.http[].headers", Headers, Honoured),
    key("health.http[].statuscode", Number, Honoured),
    key("health.tcp[].addr", Text, Honoured),
    key("health.{file,http,tcp}[].interval", Duration, Honoured),
    key("health.{file,http,tcp}[].threshold", Number, Honoured),
    key(
        "health.{http,tcp}[].timeout",
        Duration,
        Differently("the interval without it"),
    ),
    key("catalog.maxentries", Number, Honoured),
    key(
        "tags.maxtags",
        Number,
        Ignored("a list of tags is as long as the client asks with `n`, or whole"),
    ),
    key(
        "proxy.{remoteurl,username,password,exec.command}",
        Text,
        Ignored(NO_PROXY),
    ),
    key(
        "proxy.{ttl,cachewritetimeout,exec.lifetime}",
        Duration,
        Ignored(NO_PROXY),
    ),
    key(
        "compatibility.schema1.signingkeyfile",
        Text,
        Ignored(NO_SCHEMA1),
    ),
    key(
        "compatibility.schema1.enabled",
        Flag,
        Only("false", NO_SCHEMA1),
    ),
    key(
        "validation.enabled",
        Flag,
        Differently("the old way to undo `disabled`"),
    ),
    key("validation.disabled", Flag, Honoured),
    key("validation.manifests.urls.{allow,deny}", Texts, Honoured),
    key(
        "validation.manifests.indexes.platforms",
        Choice(&["all", "none", "list"]),
        Only("all", NO_PLATFORMS),
    ),
    key(
        "validation.manifests.indexes.platformlist[].{architecture,os}",
        Text,
        Ignored(NO_PLATFORMS),
    ),
    key(
        "policy.repository.classes",
        Texts,
        Refused(
            "which classes a repository may hold is not enforced here, so what it keeps out would come in; \
         take the key away if that is meant",
        ),
    ),
    key("registry.manifestlimit", Number, Honoured),
    key("registry.trustedproxies", Texts, Honoured),
    key("registry.draindelay", Duration, Honoured),
    key(
        "registry.access.rules",
        Text,
        Differently("with `registry.access.acumos` too, both must allow"),
    ),
    key("registry.access.acumos.{file,database}", Text, Honoured),
    key(
        "registry.access.acumos.services.cds.{url,user,password,passwordfile,cafile,version}",
        Text,
        Honoured,
    ),
    key(
        "registry.access.acumos.services.lum.{url,cafile,instance}",
        Text,
        Honoured,
    ),
    key(
        "registry.access.acumos.services.timeout",
        Duration,
        Honoured,
    ),
    key(
        "registry.access.acumos.cache.{account,solution,revisions,right,negative,honour}",
        Duration,
        Differently(
            "only `services` are remembered; `honour` is for how long when they cannot be reached",
        ),
    ),
    key("registry.access.acumos.timeout", Duration, Honoured),
    key("registry.access.acumos.adminrole", Text, Honoured),
    key("registry.access.acumos.coownerpush", Flag, Honoured),
    key(
        "registry.access.acumos.serviceaccounts.role",
        Text,
        Honoured,
    ),
    key(
        "registry.access.acumos.serviceaccounts.{names,actions}",
        Texts,
        Honoured,
    ),
    key("registry.auth.acumos.realm", Text, Honoured),
    key(
        "registry.auth.acumos.secrets",
        Choice(&["password", "token", "both"]),
        Differently("with `services`; a file or a database has passwords only"),
    ),
    key(
        "registry.auth.acumos.{remember,block}",
        Duration,
        Differently("with `services`"),
    ),
    key(
        "registry.auth.acumos.attempts",
        Number,
        Differently("with `services`"),
    ),
    key(
        "registry.auth.token.cafile",
        Text,
        Differently("the authorities of the URL `auth.token.jwks`; those of the system without it"),
    ),
    key("registry.auth.accounts.{realm,path}", Text, Honoured),
    key(
        "registry.auth.certificates.name",
        Choice(&["commonname", "dns", "email", "uri"]),
        Honoured,
    ),
    key(
        "registry.auth.certificates.kind",
        Choice(&["user", "service"]),
        Honoured,
    ),
    key("registry.auth.certificates.rolesfromunits", Flag, Honoured),
    key("registry.access.hide", Flag, Honoured),
    key(
        "registry.access.audit",
        Text,
        Differently("a file, `stdout` or `stderr`; a JSON object a line for each decision"),
    ),
    key(
        "registry.limits.{users,addresses}.{requests,failures,pulls}",
        Text,
        Differently("such as `100/m`, `100/6h` or `10/s burst 200`; what is over gets 429"),
    ),
    key("registry.tokens.services", Texts, Honoured),
    key(
        "registry.tokens.realm",
        Text,
        Differently("`registry.tokens.path` at `http.host` without it"),
    ),
    key(
        "registry.tokens.key",
        Text,
        Differently(
            "made at the first start if it is not there, with its certificate if that is named",
        ),
    ),
    key(
        "registry.tokens.{issuer,certificates,formerkeys,path,keyspath}",
        Text,
        Honoured,
    ),
    key(
        "registry.tokens.{lifetime,refreshlifetime}",
        Duration,
        Honoured,
    ),
    key("registry.notifications.outbox.directory", Text, Honoured),
    key("registry.notifications.outbox.maxbytes", Number, Honoured),
    key("registry.reload.interval", Duration, Honoured),
    key(
        "registry.storage.secretfile",
        Text,
        Differently(
            "a file whose first line is the `secretkey`, `accountkey` or `secret` of the object store",
        ),
    ),
    key(
        "registry.storage.cafile",
        Text,
        Differently(
            "authorities (PEM) by which the object store is trusted, instead of the system's",
        ),
    ),
    key(
        "registry.storage.timeout",
        Duration,
        Differently("how long the object store may keep silent; 30 s without it"),
    ),
    key(
        "registry.storage.concurrency",
        Number,
        Differently("how many calls wait for the object store at once; 128 without it"),
    ),
    key(
        "registry.storage.patience",
        Duration,
        Differently(
            "how long an object store that cannot be reached is tried at start; a minute without it",
        ),
    ),
];
