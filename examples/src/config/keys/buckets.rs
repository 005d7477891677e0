//! The keys of object stores, below `storage`

use super::Fate::{Differently, Honoured, Ignored, Only, Refused};
use super::Kind::{Anything, Choice, Duration, Flag, Number, Size, Text};
use super::{Key, key};

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

/// The keys of each driver for an object store
pub(super) const KEYS: &[Key] = &[
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
        "storage.{s3,s3aws,s3goamz}.redirectendpoint",
        Text,
        Differently("where clients reach the store, if elsewhere than `regionendpoint`"),
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
];
