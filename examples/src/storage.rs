//! What a registry keeps its content in, opened as the configuration says
//!
//! A folder is there or it is not. An object store is somebody else's machine: before the first
//! request it is tried whether the bucket can do what a registry needs. What is wrong with the
//! configuration ends the registry with the key to mend; a store that cannot be reached is tried
//! again for a while, since it may be starting too. A registry does not begin without knowing
//! what its bucket can do: it would not know which promises it can keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_storage::bucket::{
    AzureOptions, AzurePrincipal, BucketError, BucketOptions, Capabilities, ConnectOptions,
    GcsOptions, S3Encryption, S3Options,
};
use registry_storage::{
    Bucket, Driver as AnyDriver, FileSystem, Measured, Memory, StorageError, StorageObserver, Store,
};

use crate::compose::{ComposeError, whole};
use crate::config::buckets::{Azure, Connection, Encryption, Face, Gcs, Objects, S3};
use crate::config::{self, Driver, Secret};

/// The pause before a store that could not be reached is tried again, at first and at most
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// The storage of a registry: a folder, a bucket or memory
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_examples::config::{self, Driver};
/// use registry_examples::metrics::Metrics;
/// use registry_examples::storage::Storage;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = config::Storage { driver: Driver::Memory, ..Default::default() };
/// let storage = Storage::open(&config, Arc::new(Metrics::new("inmemory"))).await?;
/// storage.store().ready().await?;
/// assert!(storage.bucket().is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Storage {
    driver: Arc<dyn AnyDriver>,
    bucket: Option<Bucket>,
    capabilities: Option<Capabilities>,
    lifetime: Option<Duration>,
    description: String,
}

impl Storage {
    /// Opens what the configuration names, and tells `observer` of each call
    ///
    /// A bucket is tried, as long as [`Connection::patience`] says if it cannot be reached, and
    /// what it can do is logged. Of a registry that is read-only it is only read.
    ///
    /// # Errors
    ///
    /// [`ComposeError`] with the key to mend: when the folder cannot be made or written, when
    /// there is no such bucket, or it cannot be reached, or not with these credentials.
    pub async fn open(
        config: &config::Storage,
        observer: Arc<dyn StorageObserver>,
    ) -> Result<Self, ComposeError> {
        let mut storage = Self {
            driver: Arc::new(Memory::new()),
            bucket: None,
            capabilities: None,
            lifetime: config.purge.as_ref().map(|purge| purge.age),
            description: describe(&config.driver),
        };
        let bucket = match &config.driver {
            Driver::Folder(root) => {
                let folder = FileSystem::open(root)
                    .map_err(|error| ComposeError::new(key(&config.driver, "bucket"), error))?;
                describe_mount(&folder);
                storage.driver = Arc::new(Measured::new(folder, observer));
                return Ok(storage);
            }
            Driver::Memory => {
                storage.driver = Arc::new(Measured::new(Memory::new(), observer));
                return Ok(storage);
            }
            Driver::S3(store) => s3(store, &config.connection),
            Driver::Azure(store) => azure(store, &config.connection),
            Driver::Gcs(store) => gcs(store, &config.connection),
        }?;
        if config.connection.skip_verify {
            tracing::warn!(
                "`skipverify` is set: whoever answers is taken for the object store; name the \
                 authority of its certificate with `registry.storage.cafile` instead"
            );
        }
        storage.capabilities = try_out(&bucket, config).await?;
        storage.driver = Arc::new(Measured::new(bucket.clone(), observer));
        storage.bucket = Some(bucket);
        Ok(storage)
    }

    /// The driver, whose calls are counted
    pub fn driver(&self) -> Arc<dyn AnyDriver> {
        self.driver.clone()
    }

    /// The content, with the lifetime of uploads that the configuration says
    pub fn store(&self) -> Store {
        Store::of(self.driver()).with_upload_lifetime(self.lifetime)
    }

    /// The bucket, if it is one
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// What the bucket was found to be able to do; nothing for what is none, and for one that is
    /// only read
    pub fn capabilities(&self) -> Option<Capabilities> {
        self.capabilities
    }

    /// Where the content is, for people
    pub fn description(&self) -> String {
        self.description.clone()
    }
}

/// Says what a share that is mounted here promises, and what of that hurts
fn describe_mount(folder: &FileSystem) {
    let mount = folder.mount();
    if mount.is_remote() {
        tracing::info!("the storage folder is on a share: {mount}");
    }
    for warning in mount.warnings() {
        tracing::warn!("{warning}");
    }
}

/// The name of the storage driver in metrics and health checks, which is distribution's
pub fn driver_name(driver: &Driver) -> &'static str {
    match driver {
        Driver::Azure(_) => "azure",
        Driver::Folder(_) => "filesystem",
        Driver::Gcs(_) => "gcs",
        Driver::Memory => "inmemory",
        Driver::S3(s3) => match s3.face {
            Face::Oss => "oss",
            Face::S3 | Face::S3Aws | Face::S3Goamz => "s3aws",
        },
    }
}

/// Where the content is, for people
pub fn describe(driver: &Driver) -> String {
    let below = |objects: &Objects| match objects.root.as_str() {
        "" => String::new(),
        root => format!(" below {root}/"),
    };
    match driver {
        Driver::Azure(azure) => format!(
            "the Azure container {} of {}{}",
            azure.container,
            azure.account,
            below(&azure.objects)
        ),
        Driver::Folder(root) => whole(root),
        Driver::Gcs(gcs) => format!("the Google bucket {}{}", gcs.bucket, below(&gcs.objects)),
        Driver::Memory => "memory (gone when this process ends)".to_owned(),
        Driver::S3(s3) => {
            let place = match (&s3.endpoint, &s3.region) {
                (Some(endpoint), _) => format!(" at {endpoint}"),
                (None, Some(region)) => format!(" in {region}"),
                (None, None) => String::new(),
            };
            format!("the S3 bucket {}{place}{}", s3.bucket, below(&s3.objects))
        }
    }
}

/// The whole path of what `storage.s3` calls `name`, in the section that was written
fn key(driver: &Driver, name: &'static str) -> String {
    match driver {
        Driver::Azure(azure) => match name {
            "bucket" => "storage.azure.container".to_owned(),
            "accesskey" | "secretkey" if azure.principal.is_some() => {
                "storage.azure.credentials".to_owned()
            }
            "accesskey" | "secretkey" => "storage.azure.accountkey".to_owned(),
            "regionendpoint" | "region" => "storage.azure.serviceurl".to_owned(),
            other => format!("storage.azure.{other}"),
        },
        Driver::Folder(_) => "storage.filesystem.rootdirectory".to_owned(),
        Driver::Gcs(_) => match name {
            "accesskey" | "secretkey" => "storage.gcs.keyfile".to_owned(),
            "regionendpoint" | "region" => "storage.gcs.bucket".to_owned(),
            other => format!("storage.gcs.{other}"),
        },
        Driver::Memory => "storage.inmemory".to_owned(),
        Driver::S3(s3) => s3.key(name),
    }
}

fn read(secret: Option<&Secret>) -> Result<Option<String>, ComposeError> {
    secret
        .map(Secret::read)
        .transpose()
        .map_err(|error| ComposeError::new("registry.storage.secretfile", error))
}

fn connect(connection: &Connection) -> ConnectOptions {
    ConnectOptions {
        ca_file: connection.ca_file.clone(),
        danger_skip_verify: connection.skip_verify,
        read_timeout: connection.timeout,
        concurrency: connection.concurrency,
        user_agent: connection.user_agent.clone(),
        ..ConnectOptions::default()
    }
}

fn options(objects: &Objects) -> BucketOptions {
    let defaults = BucketOptions::default();
    BucketOptions {
        root: objects.root.clone(),
        part_size: objects.part_size.unwrap_or(defaults.part_size),
        ..defaults
    }
}

/// What is wrong with the options of a bucket, by the key to mend
fn wrong(
    section: &str,
    spelled: impl Fn(&'static str) -> String,
    error: BucketError,
) -> ComposeError {
    match error {
        BucketError::Certificates { .. } => ComposeError::new("registry.storage.cafile", error),
        BucketError::Option { name, detail } => ComposeError::new(spelled(name), detail),
        error => ComposeError::new(section, error),
    }
}

fn s3(s3: &S3, connection: &Connection) -> Result<Bucket, ComposeError> {
    let wanted = S3Options {
        bucket: s3.bucket.clone(),
        region: s3.region.clone(),
        region_endpoint: s3.endpoint.clone(),
        redirect_endpoint: s3.redirect_endpoint.clone(),
        force_path_style: s3.path_style,
        plain_http: !s3.secure,
        dual_stack: s3.dual_stack,
        accelerate: s3.accelerate,
        fips: s3.fips,
        access_key: s3.access_key.clone(),
        secret_key: read(s3.secret_key.as_ref())?,
        session_token: read(s3.session_token.as_ref())?,
        encryption: match &s3.encryption {
            Encryption::Bucket => S3Encryption::Bucket,
            Encryption::Key(key) => S3Encryption::Kms { key: key.clone() },
            Encryption::Store => S3Encryption::Store,
        },
        acl: s3.acl.clone(),
        ..S3Options::default()
    };
    let options = BucketOptions {
        storage_class: s3.storage_class.clone(),
        copy_threshold: s3.copy_threshold,
        copy_piece: s3.copy_piece,
        copy_concurrency: s3.copy_concurrency,
        ..options(&s3.objects)
    };
    let section = format!("storage.{}", s3.face.as_str());
    Bucket::s3(&wanted, options, &connect(connection))
        .map_err(|error| wrong(&section, |name| s3.key(name), error))
}

fn azure(azure: &Azure, connection: &Connection) -> Result<Bucket, ComposeError> {
    let principal = match &azure.principal {
        Some(principal) => Some(AzurePrincipal {
            client_id: principal.client.clone(),
            tenant_id: principal.tenant.clone(),
            secret: read(Some(&principal.secret))?.unwrap_or_default(),
        }),
        None => None,
    };
    let wanted = AzureOptions {
        container: azure.container.clone(),
        account: Some(azure.account.clone()),
        key: read(azure.key.as_ref())?,
        principal,
        endpoint: azure.endpoint.clone(),
    };
    let mut connect = connect(connection);
    if let Some(retries) = azure.retries {
        connect.retries = retries;
    }
    Bucket::azure(&wanted, options(&azure.objects), &connect).map_err(|error| {
        wrong(
            "storage.azure",
            |name| format!("storage.azure.{name}"),
            error,
        )
    })
}

fn gcs(gcs: &Gcs, connection: &Connection) -> Result<Bucket, ComposeError> {
    let wanted = GcsOptions {
        bucket: gcs.bucket.clone(),
        key_file: gcs.key_file.as_ref().map(|path| path.display().to_string()),
        key: read(gcs.key.as_ref())?,
        endpoint: None,
    };
    Bucket::gcs(&wanted, options(&gcs.objects), &connect(connection))
        .map_err(|error| wrong("storage.gcs", |name| format!("storage.gcs.{name}"), error))
}

/// Finds out what the bucket can do, again and again while it cannot be reached
async fn try_out(
    bucket: &Bucket,
    config: &config::Storage,
) -> Result<Option<Capabilities>, ComposeError> {
    let began = Instant::now();
    let patience = config.connection.patience;
    let mut pause = PAUSES.0;
    loop {
        let error = match try_once(bucket, config.read_only).await {
            Ok(capabilities) => {
                say(capabilities);
                return Ok(capabilities);
            }
            Err(error) => error,
        };
        let later = began.elapsed() + pause;
        if !error.is_transient() || later > patience {
            return Err(explain(&config.driver, &error, began.elapsed()));
        }
        tracing::warn!(
            "{} cannot be used yet, and is tried again for {} s: {}",
            describe(&config.driver),
            (patience - began.elapsed().min(patience)).as_secs(),
            with_causes(&error)
        );
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSES.1);
    }
}

async fn try_once(bucket: &Bucket, read_only: bool) -> Result<Option<Capabilities>, StorageError> {
    if !read_only {
        return bucket.probe().await.map(Some);
    }
    // Whoever only reads may have credentials for nothing else.
    Store::new(Arc::new(bucket.clone())).ready().await?;
    Ok(None)
}

/// Logs what a bucket can do
fn say(capabilities: Option<Capabilities>) {
    match capabilities {
        None => tracing::info!("the bucket answers; nothing else was tried, as this is read-only"),
        Some(capabilities) if capabilities.shares_uploads() => tracing::info!("{capabilities}"),
        Some(capabilities) => tracing::warn!("{capabilities}"),
    }
}

/// What an error at start means, and which key to mend
fn explain(driver: &Driver, error: &StorageError, after: Duration) -> ComposeError {
    let text = with_causes(error);
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (name, what) = if has(&["the bucket does not exist"]) {
        (
            "bucket",
            "there is no such bucket; create it or name another".to_owned(),
        )
    } else if has(&[
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraint",
        "Received redirect without LOCATION",
    ]) {
        ("region", "the bucket is in another region".to_owned())
    } else if has(&["SignatureDoesNotMatch"]) {
        (
            "secretkey",
            "the store takes no request that is signed with this key".to_owned(),
        )
    } else if has(&[
        "InvalidAccessKeyId",
        "InvalidToken",
        "ExpiredToken",
        "AuthenticationFailed",
    ]) {
        (
            "accesskey",
            "the store does not know these credentials".to_owned(),
        )
    } else if has(&[
        "169.254.169.254",
        "169.254.170.2",
        "metadata.google",
        "AssumeRole",
    ]) {
        (
            "accesskey",
            format!(
                "no credentials are here or in the environment, and no role gave any within {} s",
                after.as_secs()
            ),
        )
    } else if error.is_denied() {
        (
            "bucket",
            "with these credentials it is not permitted; a registry lists the bucket, and gets, puts \
             and deletes objects and parts in it"
                .to_owned(),
        )
    } else if error.is_transient() {
        (
            "regionendpoint",
            format!(
                "the store could not be reached for {} s; is that where it is?",
                after.as_secs()
            ),
        )
    } else {
        ("bucket", "it cannot keep a registry".to_owned())
    };
    ComposeError::new(key(driver, name), format!("{what} ({text})"))
}

/// An error and what it came from, each said once, in one line
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(storage: &str) -> Driver {
        let text = format!("version: 0.1\nstorage: {{{storage}}}\n");
        let (config, _) = config::Config::from_yaml(&text).unwrap();
        config.storage.driver
    }

    fn denied(text: &str) -> StorageError {
        StorageError::Denied {
            key: "_probe/x".to_owned(),
            source: text.into(),
        }
    }

    fn transient(text: &str) -> StorageError {
        StorageError::Transient {
            key: "_probe/x".to_owned(),
            source: text.into(),
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_the_key_to_mend() {
        let s3 = driver("s3: {bucket: b, region: r}");
        let oss = driver("oss: {bucket: b, region: oss-cn-beijing}");
        let azure = driver("azure: {container: c, accountname: a}");
        let gcs = driver("gcs: {bucket: b}");
        for (driver, error, key) in [
            (
                &s3,
                denied("the bucket does not exist"),
                "storage.s3.bucket",
            ),
            (
                &oss,
                denied("the bucket does not exist"),
                "storage.oss.bucket",
            ),
            (
                &azure,
                denied("the bucket does not exist"),
                "storage.azure.container",
            ),
            (
                &gcs,
                denied("the bucket does not exist"),
                "storage.gcs.bucket",
            ),
            (
                &s3,
                denied("<Code>InvalidAccessKeyId</Code>"),
                "storage.s3.accesskey",
            ),
            (
                &oss,
                denied("<Code>InvalidAccessKeyId</Code>"),
                "storage.oss.accesskeyid",
            ),
            (
                &s3,
                denied("<Code>SignatureDoesNotMatch</Code>"),
                "storage.s3.secretkey",
            ),
            (
                &azure,
                denied("AuthenticationFailed"),
                "storage.azure.accountkey",
            ),
            (
                &s3,
                denied("<Code>AccessDenied</Code>"),
                "storage.s3.bucket",
            ),
            (
                &s3,
                transient("<Code>PermanentRedirect</Code>"),
                "storage.s3.region",
            ),
            (
                &s3,
                transient("http://169.254.169.254/latest/"),
                "storage.s3.accesskey",
            ),
            (
                &gcs,
                transient("http://metadata.google.internal/"),
                "storage.gcs.keyfile",
            ),
            (
                &s3,
                transient("connection refused"),
                "storage.s3.regionendpoint",
            ),
            (
                &oss,
                transient("connection refused"),
                "storage.oss.endpoint",
            ),
        ] {
            let text = explain(driver, &error, Duration::ZERO).to_string();
            assert!(text.starts_with(&format!("`{key}`: ")), "{key}: {text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_and_a_region_that_is_missing_are_named() {
        let open = |text: &str| {
            let text = format!("version: 0.1\n{text}\n");
            let (config, _) = config::Config::from_yaml(&text).unwrap();
            async move {
                let metrics = Arc::new(crate::metrics::Metrics::new("s3aws"));
                let opened = Storage::open(&config.storage, metrics).await;
                opened.unwrap_err().to_string()
            }
        };
        let error = open(
            "storage: {s3: {bucket: b, region: r, accesskey: k}}\n\
             registry: {storage: {secretfile: /nowhere/secret}}",
        );
        assert!(error.await.starts_with("`registry.storage.secretfile`: "));
        let error = open(
            "storage: {s3: {bucket: b, region: r, accesskey: k, secretkey: s}}\n\
             registry: {storage: {cafile: /nowhere/ca.pem}}",
        );
        assert!(error.await.starts_with("`registry.storage.cafile`: "));
        let error = open("storage: {s3: {bucket: b, regionendpoint: h, useragent: \"a\\u0001\"}}");
        assert!(error.await.starts_with("`storage.s3.useragent`: "));
    }

    #[test]
    fn people_are_told_where_content_is_and_metrics_by_distributions_names() {
        for (storage, name, text) in [
            (
                "s3: {bucket: b, region: r, rootdirectory: /some/root/}",
                "s3aws",
                "the S3 bucket b in r below some/root/",
            ),
            (
                "s3goamz: {bucket: b, regionendpoint: 'http://h:1'}",
                "s3aws",
                "the S3 bucket b at http://h:1",
            ),
            (
                "oss: {bucket: b, region: oss-cn-beijing}",
                "oss",
                "the S3 bucket b at s3.oss-cn-beijing.aliyuncs.com",
            ),
            (
                "azure: {container: c, accountname: a}",
                "azure",
                "the Azure container c of a",
            ),
            ("gcs: {bucket: b}", "gcs", "the Google bucket b"),
        ] {
            let driver = driver(storage);
            assert_eq!(driver_name(&driver), name);
            assert_eq!(describe(&driver), text);
        }
    }
}
