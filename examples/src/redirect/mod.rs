//! Where clients are sent for blobs: into the bucket, to a server that has the same, or to
//! CloudFront

mod cloudfront;
mod networks;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use http::{Method, Uri};
use registry_http::redirect::{BlobRedirect, BlobRedirectError, WantedBlob};
use registry_storage::Store;
use registry_storage::bucket::Bucket;

use self::cloudfront::CloudFront;
use self::networks::Networks;
use crate::compose::ComposeError;
use crate::config::{self, Config};

/// Where clients are sent for blobs, by the configuration
///
/// # Examples
///
/// ```
/// use registry_examples::config::Config;
/// use registry_examples::redirect::Redirects;
///
/// let (config, _) = Config::from_yaml("
/// version: 0.1
/// storage: {filesystem: {rootdirectory: /var/lib/registry}}
/// middleware:
///   storage:
///   - name: redirect
///     options: {baseurl: https://mirror.example.com/}
/// ")?;
/// let redirects = Redirects::open(&config, None)?.unwrap();
/// assert_eq!(redirects.to_string(), "https://mirror.example.com");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Redirects {
    outermost: Arc<dyn BlobRedirect>,
    description: String,
    networks: Vec<Arc<Networks>>,
}

impl Redirects {
    /// Reads the keys that sign; `bucket` is where the content is, if it is in one
    ///
    /// `None` if clients are sent nowhere.
    ///
    /// # Errors
    ///
    /// [`ComposeError`] when a key cannot be used.
    pub fn open(config: &Config, bucket: Option<&Bucket>) -> Result<Option<Self>, ComposeError> {
        let config::Redirect { disable, expiry } = config.storage.redirect;
        if disable {
            return Ok(None);
        }
        let mut found = bucket.map(|bucket| Self {
            outermost: Arc::new(Presigned {
                bucket: bucket.clone(),
                expiry,
            }),
            description: "signed URLs of the bucket".to_owned(),
            networks: Vec::new(),
        });
        for middleware in &config.middleware {
            match middleware {
                config::StorageMiddleware::Redirect { base } => {
                    let mirror = Mirror::new(base);
                    found = Some(Self {
                        description: mirror.base.clone(),
                        outermost: Arc::new(mirror),
                        networks: Vec::new(),
                    });
                }
                config::StorageMiddleware::CloudFront(options) => {
                    let Some(bucket) = bucket.filter(|bucket| bucket.is_s3()) else {
                        tracing::warn!(
                            "`middleware.storage[cloudfront]`: CloudFront gets its content from \
                             S3, where this registry has none; requests go on without it"
                        );
                        continue;
                    };
                    found = Some(Self::through_cloudfront(options, bucket, found)?);
                }
            }
        }
        Ok(found)
    }

    /// CloudFront, before what there was
    fn through_cloudfront(
        options: &config::CloudFront,
        bucket: &Bucket,
        inner: Option<Self>,
    ) -> Result<Self, ComposeError> {
        let under = |error: ComposeError| error.under("middleware.storage[cloudfront].options");
        let direct = options.direct.as_ref().map(Networks::new).transpose();
        let direct = direct.map_err(under)?.map(Arc::new);
        let (inner, mut networks) = match inner {
            Some(inner) => (Some(inner.outermost), inner.networks),
            None => (None, Vec::new()),
        };
        networks.extend(direct.clone());
        let inner = direct.and_then(|networks| Some((networks, inner?)));
        let cloudfront = CloudFront::open(options, bucket.clone(), inner).map_err(under)?;
        Ok(Self {
            description: format!("CloudFront at {}", options.base),
            outermost: Arc::new(cloudfront),
            networks,
        })
    }

    /// What a registry asks
    pub fn to(&self) -> Arc<dyn BlobRedirect> {
        self.outermost.clone()
    }

    /// Keeps what there is to know up to date; never ends if there is such a thing
    pub async fn run(self) {
        join_all(self.networks.iter().map(|networks| networks.run())).await;
    }
}

impl fmt::Display for Redirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

/// Into the bucket, by URLs that it has signed
#[derive(Debug)]
struct Presigned {
    bucket: Bucket,
    expiry: Duration,
}

#[async_trait]
impl BlobRedirect for Presigned {
    async fn location(&self, blob: &WantedBlob<'_>) -> Result<Option<Uri>, BlobRedirectError> {
        let key = Store::blob_key(blob.digest);
        let signed = self.bucket.signed_url(&key, Method::GET, self.expiry).await;
        // A store that cannot sign is one from which everything is sent by the registry.
        let Some(url) = signed.map_err(BlobRedirectError::new)? else {
            return Ok(None);
        };
        url.parse().map(Some).map_err(BlobRedirectError::new)
    }
}

/// To a server that has what the storage has, at the same paths
#[derive(Debug)]
struct Mirror {
    base: String,
}

impl Mirror {
    fn new(base: &config::Url) -> Self {
        Self {
            base: base.expose().trim_end_matches('/').to_owned(),
        }
    }
}

#[async_trait]
impl BlobRedirect for Mirror {
    async fn location(&self, blob: &WantedBlob<'_>) -> Result<Option<Uri>, BlobRedirectError> {
        let url = format!("{}/{}", self.base, Store::blob_key(blob.digest));
        url.parse().map(Some).map_err(BlobRedirectError::new)
    }
}
