//! Reads the drivers for object stores

use serde_json::{Map, Value};

use super::super::section::Section;
use super::super::value::{self, Problem};
use super::super::{Driver, Secret};
use super::{Azure, Connection, Encryption, Face, Gcs, Objects, Principal, S3};

/// The ACLs that S3 has names for
const ACLS: [&str; 7] = [
    "private",
    "public-read",
    "public-read-write",
    "aws-exec-read",
    "authenticated-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];

/// The storage classes from which content is read at once
const CLASSES: [&str; 7] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "OUTPOSTS",
];

const MIB: u64 = 1024 * 1024;

/// Reads the section `name` of `storage`, whose secret may be in a file that `own`,
/// `registry.storage`, names; `connection` is what both say of how the store is reached
pub(in super::super) fn read(
    name: &str,
    storage: &Section<'_>,
    own: &Section<'_>,
    connection: &mut Connection,
) -> Result<Driver, Problem> {
    let section = storage.section(name);
    let secret_file = own
        .text("secretfile")?
        .map(|path| Secret::File(path.into()));
    let s3 = |face| s3(&section, face, secret_file.clone());
    let driver = match name {
        "azure" => Driver::Azure(Box::new(azure(&section, secret_file)?)),
        "gcs" => Driver::Gcs(Box::new(gcs(&section)?)),
        "oss" => Driver::S3(Box::new(oss(&section, secret_file)?)),
        "s3aws" => Driver::S3(Box::new(s3(Face::S3Aws)?)),
        "s3goamz" => Driver::S3(Box::new(s3(Face::S3Goamz)?)),
        _ => Driver::S3(Box::new(s3(Face::S3)?)),
    };
    if let Some(skip) = section.flag("skipverify")? {
        connection.skip_verify = skip;
    }
    connection.user_agent = section.text("useragent")?;
    if let Some(calls) = section.times("maxconcurrency")? {
        connection.concurrency = calls as usize;
    }
    Ok(driver)
}

/// Reads `registry.storage`, but for where a secret is
pub(in super::super) fn connection(own: &Section<'_>) -> Result<Connection, Problem> {
    let mut connection = Connection {
        ca_file: own.text("cafile")?.map(Into::into),
        ..Connection::default()
    };
    if let Some(timeout) = own.interval("timeout")? {
        connection.timeout = timeout;
    }
    if let Some(calls) = own.times("concurrency")? {
        connection.concurrency = calls as usize;
    }
    if let Some(patience) = own.duration("patience")? {
        connection.patience = patience;
    }
    Ok(connection)
}

fn s3(section: &Section<'_>, face: Face, file: Option<Secret>) -> Result<S3, Problem> {
    let bucket = section.needed_text("bucket")?;
    let encryption = encryption(section, "keyid")?;
    let defaults = BucketDefaults::get();
    let acl = match section.flag("objectownership")? {
        // The bucket's owner owns what is in it, and ACLs are refused.
        Some(true) => None,
        _ => section.text("objectacl")?,
    };
    if let Some(acl) = &acl
        && !ACLS.contains(&acl.as_str())
    {
        let text = format!("expected one of {}, got `{acl}`", ACLS.join(", "));
        return Err(section.problem("objectacl", text));
    }
    let s3 = S3 {
        face,
        bucket,
        region: section.text("region")?,
        endpoint: endpoint(section, "regionendpoint")?,
        path_style: section.flag("forcepathstyle")?,
        access_key: section.text("accesskey")?,
        secret_key: section.text("secretkey")?.map(Secret::Text).or(file),
        session_token: section.text("sessiontoken")?.map(Secret::Text),
        encryption,
        secure: section.flag("secure")?.unwrap_or(true),
        dual_stack: section.flag("usedualstack")?.unwrap_or(false),
        accelerate: section.flag("accelerate")?.unwrap_or(false),
        fips: section.flag("usefipsendpoint")?.unwrap_or(false),
        acl,
        storage_class: storage_class(section)?,
        objects: objects(section, 5 * MIB)?,
        copy_threshold: size(section, "multipartcopythresholdsize", 0..=5120 * MIB)?
            .unwrap_or(defaults.threshold),
        copy_piece: size(section, "multipartcopychunksize", 5 * MIB..=5120 * MIB)?
            .unwrap_or(defaults.piece),
        copy_concurrency: section
            .times("multipartcopymaxconcurrency")?
            .map_or(defaults.concurrency, |number| number as usize),
    };
    paired(section, &s3, "accesskey", "secretkey")?;
    let amazons = [
        ("accelerate", s3.accelerate),
        ("usedualstack", s3.dual_stack),
        ("usefipsendpoint", s3.fips),
    ];
    for (key, wanted) in amazons {
        if wanted && s3.endpoint.is_some() {
            let text = "only Amazon has such endpoints; expected no `regionendpoint` beside it";
            return Err(section.problem(key, text));
        }
    }
    if s3.accelerate && (s3.fips || s3.path_style == Some(true)) {
        return Err(section.problem(
            "accelerate",
            "such an endpoint has the bucket in its name and does not fulfil FIPS; expected \
             neither `forcepathstyle` nor `usefipsendpoint` beside it",
        ));
    }
    Ok(s3)
}

/// What the bucket driver does by itself
struct BucketDefaults {
    threshold: u64,
    piece: u64,
    concurrency: usize,
}

impl BucketDefaults {
    fn get() -> Self {
        let options = registry_storage::bucket::BucketOptions::default();
        Self {
            threshold: options.copy_threshold,
            piece: options.copy_piece,
            concurrency: options.copy_concurrency,
        }
    }
}

/// Alibaba's store by its S3 endpoint, which distribution's own driver does not use
fn oss(section: &Section<'_>, file: Option<Secret>) -> Result<S3, Problem> {
    let bucket = section.needed_text("bucket")?;
    let region = section.text("region")?;
    let internal = section.flag("internal")?.unwrap_or(false);
    // Regions are `oss-cn-beijing` in distribution's documentation.
    let named = region.as_deref().map(|region| match region {
        region if region.starts_with("oss-") => region.to_owned(),
        region => format!("oss-{region}"),
    });
    let endpoint = match (endpoint(section, "endpoint")?, &named) {
        (Some(endpoint), _) => s3_face(&endpoint, &bucket),
        (None, Some(region)) => {
            let internal = if internal { "-internal" } else { "" };
            format!("s3.{region}{internal}.aliyuncs.com")
        }
        (None, None) => return section.needed("region", None),
    };
    let defaults = BucketDefaults::get();
    let s3 = S3 {
        face: Face::Oss,
        bucket,
        region: named,
        endpoint: Some(endpoint),
        // Alibaba takes no other.
        path_style: Some(false),
        access_key: section.text("accesskeyid")?,
        secret_key: section.text("accesskeysecret")?.map(Secret::Text).or(file),
        session_token: None,
        encryption: encryption(section, "encryptionkeyid")?,
        secure: section.flag("secure")?.unwrap_or(true),
        dual_stack: false,
        accelerate: false,
        fips: false,
        acl: None,
        storage_class: None,
        objects: objects(section, 5 * MIB)?,
        copy_threshold: defaults.threshold,
        copy_piece: defaults.piece,
        copy_concurrency: defaults.concurrency,
    };
    paired(section, &s3, "accesskeyid", "accesskeysecret")?;
    Ok(s3)
}

/// `bucket.oss-cn-beijing.aliyuncs.com` by its S3 name, without the bucket
fn s3_face(endpoint: &str, bucket: &str) -> String {
    let (scheme, host) = match endpoint.split_once("://") {
        Some((scheme, host)) => (format!("{scheme}://"), host),
        None => (String::new(), endpoint),
    };
    let host = host.strip_prefix(&format!("{bucket}.")).unwrap_or(host);
    let s3 = if host.starts_with("oss-") { "s3." } else { "" };
    format!("{scheme}{s3}{host}")
}

fn azure(section: &Section<'_>, file: Option<Secret>) -> Result<Azure, Problem> {
    let container = section.needed_text("container")?;
    let account = section.needed_text("accountname")?;
    let mut key = section.text("accountkey")?.map(Secret::Text);
    let credentials = section.section("credentials");
    let kind = credentials.text("type")?.unwrap_or_default();
    let mut principal = None;
    match kind.to_ascii_lowercase().as_str() {
        "client_secret" => {
            let secret = credentials.text("secret")?.map(Secret::Text);
            principal = Some(Principal {
                client: credentials.needed_text("clientid")?,
                tenant: credentials.needed_text("tenantid")?,
                secret: credentials.needed("secret", secret.or(file))?,
            });
            key = None;
        }
        "default_credentials" => key = None,
        _ => key = key.or(file),
    }
    let endpoint = match (endpoint(section, "serviceurl")?, section.text("realm")?) {
        (Some(url), _) => Some(url),
        (None, Some(realm)) => Some(format!("https://{account}.blob.{realm}")),
        (None, None) => None,
    };
    Ok(Azure {
        container,
        account,
        key,
        principal,
        endpoint,
        retries: section.times("max_retries")?.map(|number| number as usize),
        objects: objects(section, 5 * MIB)?,
    })
}

fn gcs(section: &Section<'_>) -> Result<Gcs, Problem> {
    let bucket = section.needed_text("bucket")?;
    let mut objects = objects(section, 256 * 1024)?;
    if let Some(size) = objects.part_size {
        if size % (256 * 1024) != 0 {
            let text = format!("expected a multiple of 262144 bytes, got {size}");
            return Err(section.problem("chunksize", text));
        }
        // Parts of less are possible with Google's own protocol only.
        objects.part_size = Some(size.max(5 * MIB));
    }
    let credentials = section.section("credentials");
    let mut key = Map::new();
    for entry in credentials
        .node
        .map(|node| node.entries())
        .unwrap_or_default()
    {
        if let Some(text) = credentials.text(&entry.key)? {
            key.insert(entry.key.clone(), Value::String(text));
        }
    }
    let key_file = section.text("keyfile")?.map(Into::into);
    Ok(Gcs {
        bucket,
        // As in distribution, the file goes before the key itself.
        key: (!key.is_empty() && key_file.is_none())
            .then(|| Secret::Text(Value::Object(key).to_string())),
        key_file,
        objects,
    })
}

/// One is worth nothing without the other
fn paired(section: &Section<'_>, s3: &S3, id: &str, secret: &str) -> Result<(), Problem> {
    match (&s3.access_key, &s3.secret_key) {
        (Some(_), None) => section.needed(secret, None),
        (None, Some(_)) => section.needed(id, None),
        _ => Ok(()),
    }
}

fn encryption(section: &Section<'_>, key: &str) -> Result<Encryption, Problem> {
    Ok(match (section.flag("encrypt")?, section.text(key)?) {
        (Some(true), Some(key)) => Encryption::Key(key),
        (Some(true), None) => Encryption::Store,
        // As in distribution, a key alone does nothing.
        _ => Encryption::Bucket,
    })
}

fn storage_class(section: &Section<'_>) -> Result<Option<String>, Problem> {
    let Some(class) = section.text("storageclass")? else {
        return Ok(None);
    };
    let class = class.to_ascii_uppercase();
    match class.as_str() {
        "NONE" => Ok(None),
        "GLACIER" | "DEEP_ARCHIVE" => Err(section.problem(
            "storageclass",
            format!(
                "what is in `{class}` takes hours until it can be read; expected one of {}",
                CLASSES.join(", ")
            ),
        )),
        _ if CLASSES.contains(&class.as_str()) => Ok(Some(class)),
        _ => Err(section.problem(
            "storageclass",
            format!(
                "expected `NONE` or one of {}, got `{class}`",
                CLASSES.join(", ")
            ),
        )),
    }
}

fn objects(section: &Section<'_>, least: u64) -> Result<Objects, Problem> {
    let root = section.text("rootdirectory")?.unwrap_or_default();
    Ok(Objects {
        root: root.trim_matches('/').to_owned(),
        part_size: size(section, "chunksize", least..=512 * MIB)?,
    })
}

/// A number of bytes within bounds
fn size(
    section: &Section<'_>,
    key: &str,
    bounds: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, Problem> {
    let Some(size) = section.read(key, value::size)? else {
        return Ok(None);
    };
    if !bounds.contains(&size) {
        let (least, most) = bounds.into_inner();
        let text = format!("expected from {least} to {most} bytes, got {size}");
        return Err(section.problem(key, text));
    }
    Ok(Some(size))
}

/// `host:port`, or a URL without user, path and query: those would be lost, or be secret
fn endpoint(section: &Section<'_>, key: &str) -> Result<Option<String>, Problem> {
    let Some(text) = section.text(key)? else {
        return Ok(None);
    };
    let expected = || {
        section.problem(
            key,
            "expected a host with or without `http://` or `https://` and a port, such as \
             `https://s3.example.com:9000`",
        )
    };
    let with_scheme = match text.contains("://") {
        true => text.clone(),
        false => format!("https://{text}"),
    };
    let uri: hyper::Uri = with_scheme.parse().map_err(|_| expected())?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.authority().is_some_and(|at| !at.as_str().contains('@'))
        && uri.query().is_none();
    // Azure's emulator has the account in the path.
    let path = uri.path() == "/" || key == "serviceurl";
    if !plain || !path {
        return Err(expected());
    }
    Ok(Some(text.trim_end_matches('/').to_owned()))
}
