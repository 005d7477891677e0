//! `storage.s3` and the other drivers for object stores

mod out;
mod read;

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

pub(super) use self::out::{connection as connection_out, driver as out};
pub(super) use self::read::{connection, read};

/// A bucket of S3 or of what speaks it
///
/// What is not given comes from where the store's own tools have it: the environment
/// (`AWS_ACCESS_KEY_ID`, `AWS_REGION` and so on), the files of `~/.aws`, a web identity, the role
/// of the container or the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// Under which name of a driver it was written
    pub face: Face,
    /// The bucket, which must exist
    pub bucket: String,
    /// Its region
    pub region: Option<String>,
    /// Where the store is, if not at Amazon: a URL or only `host:port`
    pub endpoint: Option<String>,
    /// Whether the bucket is in the path of a URL, not in the host name
    pub path_style: Option<bool>,
    /// The id of the key that requests are signed with
    pub access_key: Option<String>,
    /// That key
    pub secret_key: Option<Secret>,
    /// What belongs to a key that is good only for some time
    pub session_token: Option<Secret>,
    /// How the store encrypts what is written
    pub encryption: Encryption,
    /// Whether TLS is spoken with a store whose endpoint does not say so itself
    pub secure: bool,
    /// Whether Amazon is reached by IPv6 too
    pub dual_stack: bool,
    /// Whether Amazon is reached by the nearest of its edges
    pub accelerate: bool,
    /// Whether Amazon's endpoints are those that fulfil FIPS 140
    pub fips: bool,
    /// The canned ACL of what is written; the bucket's own rules without one
    pub acl: Option<String>,
    /// The storage class of what is written; the bucket's own without one
    pub storage_class: Option<String>,
    /// What is the same for all object stores
    pub objects: Objects,
    /// Beyond which size in bytes an object is copied in pieces
    pub copy_threshold: u64,
    /// The size of these pieces in bytes
    pub copy_piece: u64,
    /// How many of them are copied at the same time
    pub copy_concurrency: usize,
}

/// Under which name an S3 store was configured
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// `oss`: Alibaba's store, by its S3 endpoint
    Oss,
    /// `s3`
    S3,
    /// `s3aws`, the same by distribution's other name
    S3Aws,
    /// `s3goamz`, distribution's former driver
    S3Goamz,
}

impl Face {
    /// The name of the driver in a configuration
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oss => "oss",
            Self::S3 => "s3",
            Self::S3Aws => "s3aws",
            Self::S3Goamz => "s3goamz",
        }
    }

    /// What a key of `s3` is called under this name
    fn spelled(self, key: &'static str) -> &'static str {
        match (self, key) {
            (Self::Oss, "accesskey") => "accesskeyid",
            (Self::Oss, "secretkey") => "accesskeysecret",
            (Self::Oss, "regionendpoint") => "endpoint",
            (Self::Oss, "keyid") => "encryptionkeyid",
            _ => key,
        }
    }
}

impl S3 {
    /// The whole path of what is called `key` under `storage.s3`
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::config::{Config, Driver};
    ///
    /// let (config, _) = Config::from_yaml(
    ///     "version: 0.1\nstorage: {oss: {bucket: images, region: oss-cn-beijing}}\n",
    /// )?;
    /// let Driver::S3(s3) = &config.storage.driver else { panic!() };
    /// assert_eq!(s3.key("secretkey"), "storage.oss.accesskeysecret");
    /// assert_eq!(s3.endpoint.as_deref(), Some("s3.oss-cn-beijing.aliyuncs.com"));
    /// # Ok::<(), registry_examples::config::ConfigError>(())
    /// ```
    pub fn key(&self, key: &'static str) -> String {
        format!("storage.{}.{}", self.face.as_str(), self.face.spelled(key))
    }
}

/// How an S3 store encrypts what is written
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket is configured
    Bucket,
    /// With this key of the key management service
    Key(String),
    /// With keys of the store
    Store,
}

/// A container of Azure's blob storage
///
/// What is not given comes from the environment (`AZURE_STORAGE_ACCOUNT_KEY` and so on), a
/// workload or managed identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Azure {
    /// The container, which must exist
    pub container: String,
    /// The storage account
    pub account: String,
    /// Its key
    pub key: Option<Secret>,
    /// The principal of Entra that is used instead of a key
    pub principal: Option<Principal>,
    /// Where the account's blobs are
    pub endpoint: Option<String>,
    /// How often a call is tried again
    pub retries: Option<usize>,
    /// What is the same for all object stores
    pub objects: Objects,
}

/// `storage.azure.credentials`: a program that is known to Entra
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its id
    pub client: String,
    /// The id of its tenant
    pub tenant: String,
    /// What it shows
    pub secret: Secret,
}

/// A bucket of Google's cloud storage
///
/// Without a key the credentials come from the environment (`GOOGLE_APPLICATION_CREDENTIALS`) or
/// the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gcs {
    /// The bucket, which must exist
    pub bucket: String,
    /// The key of a service account, as JSON
    pub key: Option<Secret>,
    /// A file with that
    pub key_file: Option<PathBuf>,
    /// What is the same for all object stores
    pub objects: Objects,
}

/// What is the same for all object stores
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Below which prefix everything is kept; all of the bucket if it is empty
    pub root: String,
    /// The size of the parts in which an upload is sent, in bytes
    pub part_size: Option<u64>,
}

/// How an object store is reached: `registry.storage`, and what distribution has of it under the
/// name of a driver
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// A PEM file of the authorities that are trusted, instead of those of the system
    pub ca_file: Option<PathBuf>,
    /// Trusts whoever answers; for trying things out only
    pub skip_verify: bool,
    /// How the registry names itself to the store
    pub user_agent: Option<String>,
    /// How long the store may keep silent before a call has failed; 30 s is longer than a store
    /// takes that is merely busy
    pub timeout: Duration,
    /// How many calls wait for an answer at the same time; 128 are enough for 10 GB/s
    pub concurrency: usize,
    /// For how long a store that cannot be reached is tried again at start; a minute is longer
    /// than what starts together takes
    pub patience: Duration,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            ca_file: None,
            skip_verify: false,
            user_agent: None,
            timeout: Duration::from_secs(30),
            concurrency: 128,
            patience: Duration::from_secs(60),
        }
    }
}
