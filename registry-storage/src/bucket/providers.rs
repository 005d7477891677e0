//! What each object store wants to know

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpClient;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::copy::S3Calls;
use super::http::{ConnectOptions, Connector};
use super::{Bucket, BucketError, BucketOptions, Faces};

/// An S3 bucket, or one of whatever speaks S3
///
/// The names are those of distribution's `s3` driver. What is not given comes from where the
/// store's own tools have it: the environment (`AWS_ACCESS_KEY_ID` and so on), a web identity
/// token, the container's or the machine's role.
///
/// # Examples
///
/// ```
/// use registry_storage::bucket::{Bucket, BucketOptions, ConnectOptions, S3Options};
///
/// let s3 = S3Options {
///     bucket: "images".to_owned(),
///     region_endpoint: Some("https://flashblade.example.com".to_owned()),
///     access_key: Some("key".to_owned()),
///     secret_key: Some("secret".to_owned()),
///     ..S3Options::default()
/// };
/// assert!(!format!("{s3:?}").contains("secret\""));
/// let bucket = Bucket::s3(&s3, BucketOptions::default(), &ConnectOptions::default())?;
/// # Ok::<(), registry_storage::bucket::BucketError>(())
/// ```
#[derive(Clone, Default)]
pub struct S3Options {
    /// `bucket`
    pub bucket: String,
    /// `region`; `us-east-1` if neither this nor the environment says it
    pub region: Option<String>,
    /// `regionendpoint`: where the store is, if not at Amazon; with `http://` it is reached
    /// without TLS
    pub region_endpoint: Option<String>,
    /// `redirectendpoint`: where clients reach the store, if elsewhere than we do; what is signed
    /// for them is signed for there
    pub redirect_endpoint: Option<String>,
    /// `forcepathstyle`: whether the bucket is in the path of a URL, not in the host name; by
    /// default it is if there is an endpoint
    pub force_path_style: Option<bool>,
    /// `accesskey`
    pub access_key: Option<String>,
    /// `secretkey`
    pub secret_key: Option<String>,
    /// `sessiontoken`
    pub session_token: Option<String>,
    /// `encrypt` and `keyid`
    pub encryption: S3Encryption,
    /// Whether many objects may be deleted in one call; true by default
    ///
    /// Some stores that speak S3 cannot.
    pub bulk_delete: Option<bool>,
}

/// How an S3 store encrypts what is written
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum S3Encryption {
    /// As the bucket is configured
    #[default]
    Bucket,
    /// With keys of the store (`AES256`)
    Store,
    /// With this key of the key management service
    Kms {
        /// The key's id
        key: String,
    },
}

/// A container of Azure's blob storage
///
/// What is not given comes from the environment (`AZURE_STORAGE_ACCOUNT_NAME` and so on), a
/// workload or managed identity.
#[derive(Clone, Default)]
pub struct AzureOptions {
    /// `container`
    pub container: String,
    /// `accountname`
    pub account: Option<String>,
    /// `accountkey`
    pub key: Option<String>,
    /// Where the account's blobs are, if not at `<account>.blob.core.windows.net`
    pub endpoint: Option<String>,
}

/// A bucket of Google's cloud storage
///
/// Without a key the credentials come from the environment or the machine.
#[derive(Clone, Default)]
pub struct GcsOptions {
    /// `bucket`
    pub bucket: String,
    /// `keyfile`: the path of a service account's key
    pub key_file: Option<String>,
    /// Where the store is, if not at Google
    pub endpoint: Option<String>,
}

fn shown(secret: &Option<String>) -> Option<&'static str> {
    secret.as_ref().map(|_| "(secret)")
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("region_endpoint", &self.region_endpoint)
            .field("redirect_endpoint", &self.redirect_endpoint)
            .field("force_path_style", &self.force_path_style)
            .field("access_key", &self.access_key)
            .field("secret_key", &shown(&self.secret_key))
            .field("session_token", &shown(&self.session_token))
            .field("encryption", &self.encryption)
            .field("bulk_delete", &self.bulk_delete)
            .finish()
    }
}

impl fmt::Debug for AzureOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureOptions")
            .field("container", &self.container)
            .field("account", &self.account)
            .field("key", &shown(&self.key))
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

impl fmt::Debug for GcsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsOptions")
            .field("bucket", &self.bucket)
            .field("key_file", &self.key_file)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

fn retries(connect: &ConnectOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: connect.retries,
        retry_timeout: connect.retry_timeout,
    }
}

fn given(name: &'static str, value: &str) -> Result<(), BucketError> {
    match value {
        "" => Err(BucketError::Option {
            name,
            detail: "expected a name, found none".to_owned(),
        }),
        _ => Ok(()),
    }
}

impl Bucket {
    /// A bucket of S3 or of what speaks it
    ///
    /// Calls nobody: see [`Bucket::probe`].
    ///
    /// # Errors
    ///
    /// [`BucketError`] if the options do not fit.
    pub fn s3(
        s3: &S3Options,
        options: BucketOptions,
        connect: &ConnectOptions,
    ) -> Result<Self, BucketError> {
        let connector = Connector::new(connect)?;
        let client = HttpClient::new(connector.service());
        let faces = s3_faces(s3, connect, connector, client)?;
        Self::new(faces, options)
    }

    /// A container of Azure's blob storage
    ///
    /// Calls nobody: see [`Bucket::probe`].
    ///
    /// # Errors
    ///
    /// [`BucketError`] if the options do not fit.
    pub fn azure(
        azure: &AzureOptions,
        options: BucketOptions,
        connect: &ConnectOptions,
    ) -> Result<Self, BucketError> {
        let AzureOptions {
            container,
            account,
            key,
            endpoint,
        } = azure;
        given("container", container)?;
        if let Some(class) = &options.storage_class {
            return Err(BucketError::Option {
                name: "storageclass",
                detail: format!(
                    "expected none for Azure, which has tiers instead, found `{class}`"
                ),
            });
        }
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_http_connector(Connector::new(connect)?)
            .with_retry(retries(connect))
            .with_container_name(container);
        if let Some(account) = account {
            builder = builder.with_account(account);
        }
        if let Some(key) = key {
            builder = builder.with_access_key(key);
        }
        if let Some(endpoint) = endpoint {
            builder = builder
                .with_config(AzureConfigKey::Endpoint, endpoint)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        let store = Arc::new(builder.build().map_err(BucketError::Store)?);
        let faces = Faces {
            objects: store.clone(),
            multipart: store.clone(),
            lists: store.clone(),
            signer: Some(store),
            parts_by_key: true,
            s3: None,
        };
        Self::new(faces, options)
    }

    /// A bucket of Google's cloud storage
    ///
    /// Calls nobody: see [`Bucket::probe`].
    ///
    /// # Errors
    ///
    /// [`BucketError`] if the options do not fit.
    pub fn gcs(
        gcs: &GcsOptions,
        options: BucketOptions,
        connect: &ConnectOptions,
    ) -> Result<Self, BucketError> {
        let GcsOptions {
            bucket,
            key_file,
            endpoint,
        } = gcs;
        given("bucket", bucket)?;
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_http_connector(Connector::new(connect)?)
            .with_retry(retries(connect))
            .with_bucket_name(bucket);
        if let Some(path) = key_file {
            builder = builder.with_service_account_path(path);
        }
        if let Some(endpoint) = endpoint {
            let http = endpoint.starts_with("http://");
            builder = builder
                .with_client_options(ClientOptions::new().with_allow_http(http))
                .with_base_url(endpoint);
        }
        let store = Arc::new(builder.build().map_err(BucketError::Store)?);
        let faces = Faces {
            objects: store.clone(),
            multipart: store.clone(),
            lists: store.clone(),
            signer: Some(store),
            parts_by_key: false,
            s3: None,
        };
        Self::new(faces, options)
    }
}

/// An S3 bucket that is reached through `connector`, and what is not object_store's through
/// `client`
pub(super) fn s3_faces(
    s3: &S3Options,
    connect: &ConnectOptions,
    connector: impl object_store::client::HttpConnector,
    client: HttpClient,
) -> Result<Faces, BucketError> {
    let S3Options {
        bucket,
        region,
        region_endpoint,
        redirect_endpoint,
        force_path_style,
        access_key,
        secret_key,
        session_token,
        encryption,
        bulk_delete,
    } = s3;
    given("bucket", bucket)?;
    if access_key.is_some() != secret_key.is_some() {
        return Err(BucketError::Option {
            name: "accesskey",
            detail: "expected `accesskey` and `secretkey` together, found only one".to_owned(),
        });
    }
    let mut builder = AmazonS3Builder::from_env()
        .with_http_connector(connector)
        .with_retry(retries(connect))
        .with_disable_bulk_delete(*bulk_delete == Some(false))
        .with_bucket_name(bucket);
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    let endpoint = region_endpoint
        .clone()
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let path_style = force_path_style.unwrap_or(endpoint.is_some());
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = endpoint {
        let endpoint = endpoint_of(bucket, "regionendpoint", &endpoint, path_style)?;
        builder = builder
            .with_allow_http(endpoint.starts_with("http://"))
            .with_endpoint(endpoint);
    }
    if let (Some(access_key), Some(secret_key)) = (access_key, secret_key) {
        builder = builder
            .with_access_key_id(access_key)
            .with_secret_access_key(secret_key);
    }
    if let Some(token) = session_token {
        builder = builder.with_token(token);
    }
    builder = match encryption {
        S3Encryption::Bucket => builder,
        S3Encryption::Store => {
            // The key has no name of its own outside object_store.
            let key = "aws_server_side_encryption".parse();
            builder.with_config(key.map_err(BucketError::Store)?, "AES256")
        }
        S3Encryption::Kms { key } => builder.with_sse_kms_encryption(key),
    };
    let elsewhere = builder.clone();
    let store = Arc::new(builder.build().map_err(BucketError::Store)?);
    let public: Option<Arc<dyn Signer>> = match redirect_endpoint {
        None => None,
        Some(endpoint) => {
            let endpoint = endpoint_of(bucket, "redirectendpoint", endpoint, path_style)?;
            let elsewhere = elsewhere
                .with_allow_http(endpoint.starts_with("http://"))
                .with_endpoint(endpoint)
                // What was fetched once is good for both.
                .with_credentials(store.credentials().clone());
            Some(Arc::new(elsewhere.build().map_err(BucketError::Store)?))
        }
    };
    Ok(Faces {
        objects: store.clone(),
        multipart: store.clone(),
        lists: store.clone(),
        signer: Some(store),
        parts_by_key: false,
        s3: Some(S3Calls {
            client,
            bucket: bucket.clone(),
            public,
        }),
    })
}

/// An endpoint as object_store wants it
fn endpoint_of(
    bucket: &str,
    name: &'static str,
    endpoint: &str,
    path_style: bool,
) -> Result<String, BucketError> {
    let (scheme, host) = match endpoint.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => (scheme, host),
        None => ("https", endpoint),
        Some(_) => {
            return Err(BucketError::Option {
                name,
                detail: format!("expected an http or https URL, found `{endpoint}`"),
            });
        }
    };
    let host = host.trim_end_matches('/');
    // Whoever addresses buckets by host name has the bucket there already, for object_store.
    Ok(match path_style {
        true => format!("{scheme}://{host}"),
        false => format!("{scheme}://{bucket}.{host}"),
    })
}
