//! What each object store wants to know

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpClient;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::copy::S3Calls;
use super::endpoint::{Place, place};
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
    /// `region`; without it that of the environment, and `us-east-1` at an endpoint
    ///
    /// Amazon is asked for nothing without a region.
    pub region: Option<String>,
    /// `regionendpoint`: where the store is, if not at Amazon; with `http://` it is reached
    /// without TLS
    pub region_endpoint: Option<String>,
    /// `forcepathstyle`: whether the bucket is in the path of a URL, not in the host name; by
    /// default it is if there is an endpoint, and for a bucket with a dot in its name
    pub force_path_style: Option<bool>,
    /// The opposite of `secure`: TLS is not spoken, unless the endpoint says `https://`
    pub plain_http: bool,
    /// `usedualstack`: Amazon is reached by IPv6 too
    pub dual_stack: bool,
    /// `accelerate`: Amazon is reached by the nearest of its edges
    pub accelerate: bool,
    /// `usefipsendpoint`: Amazon is reached by endpoints that fulfil FIPS 140
    pub fips: bool,
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
    /// `credentials`: what is used instead of a key
    pub principal: Option<AzurePrincipal>,
    /// Where the account's blobs are, if not at `<account>.blob.core.windows.net`
    pub endpoint: Option<String>,
}

/// A program that is known to Entra, as which Azure is asked
#[derive(Clone)]
pub struct AzurePrincipal {
    /// `clientid`
    pub client_id: String,
    /// `tenantid`
    pub tenant_id: String,
    /// `secret`
    pub secret: String,
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
    /// `credentials`: that key itself, as JSON
    pub key: Option<String>,
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
            .field("force_path_style", &self.force_path_style)
            .field("plain_http", &self.plain_http)
            .field("dual_stack", &self.dual_stack)
            .field("accelerate", &self.accelerate)
            .field("fips", &self.fips)
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
            .field("principal", &self.principal)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

impl fmt::Debug for AzurePrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzurePrincipal")
            .field("client_id", &self.client_id)
            .field("tenant_id", &self.tenant_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for GcsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsOptions")
            .field("bucket", &self.bucket)
            .field("key_file", &self.key_file)
            .field("key", &shown(&self.key))
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
            principal,
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
        if let Some(principal) = principal {
            builder = builder.with_client_secret_authorization(
                &principal.client_id,
                &principal.secret,
                &principal.tenant_id,
            );
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
            key,
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
        if let Some(key) = key {
            builder = builder.with_service_account_key(key);
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
        force_path_style: _,
        plain_http: _,
        dual_stack: _,
        accelerate: _,
        fips: _,
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
    let endpoint = region_endpoint
        .clone()
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let region = region
        .clone()
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Region))
        .or_else(|| endpoint.as_ref().map(|_| "us-east-1".to_owned()))
        .ok_or_else(|| BucketError::Option {
            name: "region",
            detail: "expected the region of the bucket, here or as `AWS_REGION`, found none"
                .to_owned(),
        })?;
    let Place { url, path_style } = place(s3, endpoint.as_deref(), &region)?;
    builder = builder
        .with_virtual_hosted_style_request(!path_style)
        .with_allow_http(url.starts_with("http://"))
        .with_endpoint(url)
        .with_region(region);
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
    let store = Arc::new(builder.build().map_err(BucketError::Store)?);
    Ok(Faces {
        objects: store.clone(),
        multipart: store.clone(),
        lists: store.clone(),
        signer: Some(store),
        parts_by_key: false,
        s3: Some(S3Calls {
            client,
            bucket: bucket.clone(),
        }),
    })
}
