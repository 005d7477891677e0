//! URLs of CloudFront that are signed, for a time and for one object each

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::alphabet::Alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use registry_http::redirect::{BlobRedirect, BlobRedirectError, WantedBlob};
use registry_storage::Store;
use registry_storage::bucket::Bucket;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::networks::Networks;
use crate::compose::ComposeError;
use crate::config;

/// What CloudFront verifies: both with SHA-256, which a URL says by `Hash-Algorithm`
///
/// Without that it would be SHA-1, with which nothing should be signed any more.
const SCHEMES: [SignatureScheme; 2] = [
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

/// What stands in a path as it is
const PATH: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// To CloudFront, and those in some of Amazon's networks to where it has its content from
pub(super) struct CloudFront {
    base: String,
    key_pair: String,
    key: Arc<dyn SigningKey>,
    duration: Duration,
    bucket: Bucket,
    direct: Option<(Arc<Networks>, Arc<dyn BlobRedirect>)>,
}

impl fmt::Debug for CloudFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudFront")
            .field("base", &self.base)
            .field("key_pair", &self.key_pair)
            .field("duration", &self.duration)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

impl CloudFront {
    /// Reads the key; `direct` is where those in some networks are sent instead
    pub(super) fn open(
        options: &config::CloudFront,
        bucket: Bucket,
        direct: Option<(Arc<Networks>, Arc<dyn BlobRedirect>)>,
    ) -> Result<Self, ComposeError> {
        let config::CloudFront {
            base,
            private_key,
            key_pair,
            duration,
            direct: _,
        } = options;
        let wrong = |problem: String| ComposeError::new("privatekey", problem);
        let shown = private_key.display();
        let key = PrivateKeyDer::from_pem_file(private_key)
            .map_err(|error| wrong(format!("cannot read a key (PEM) in `{shown}`: {error}")))?;
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| wrong(format!("cannot use the key in `{shown}`: {error}")))?;
        if key.choose_scheme(&SCHEMES).is_none() {
            return Err(wrong(format!(
                "expected a key of RSA or P-256 in `{shown}`, found another"
            )));
        }
        Ok(Self {
            base: base.expose().trim_end_matches('/').to_owned(),
            key_pair: key_pair.clone(),
            key,
            duration: *duration,
            bucket,
            direct,
        })
    }

    /// The URL of an object, good until `expires` (seconds of Unix)
    fn sign(&self, object: &str, expires: u64) -> Result<String, BlobRedirectError> {
        let resource = format!("{}/{}", self.base, utf8_percent_encode(object, &PATH));
        let policy = policy(&resource, expires);
        let signer = self.key.choose_scheme(&SCHEMES);
        let signer = signer.ok_or_else(|| BlobRedirectError::new("the key signs no more"))?;
        let signature = signer
            .sign(policy.as_bytes())
            .map_err(BlobRedirectError::new)?;
        let signature = encode(&signature).map_err(BlobRedirectError::new)?;
        Ok(format!(
            "{resource}?Expires={expires}&Signature={signature}&Key-Pair-Id={}&Hash-Algorithm=SHA256",
            self.key_pair
        ))
    }
}

/// What is signed: Amazon's "canned policy", without a space
///
/// Nothing of a URL needs to be escaped in it.
pub(super) fn policy(resource: &str, expires: u64) -> String {
    format!(
        r#"{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}}}]}}"#
    )
}

/// Base64 with what Amazon has instead of `+`, `/` and `=`
fn encode(signature: &[u8]) -> Result<String, base64::alphabet::ParseAlphabetError> {
    let alphabet =
        Alphabet::new("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~")?;
    let text = GeneralPurpose::new(&alphabet, PAD).encode(signature);
    Ok(text.replace('=', "_"))
}

#[async_trait]
impl BlobRedirect for CloudFront {
    async fn location(&self, blob: &WantedBlob<'_>) -> Result<Option<Uri>, BlobRedirectError> {
        if let (Some((networks, inner)), Some(client)) = (&self.direct, blob.client)
            && networks.contain(client)
        {
            return inner.location(blob).await;
        }
        let key = Store::blob_key(blob.digest);
        let object = self
            .bucket
            .object_name(&key)
            .map_err(BlobRedirectError::new)?;
        let expires = (SystemTime::now() + self.duration)
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_err(BlobRedirectError::new)?;
        let url = self.sign(&object, expires.as_secs())?;
        url.parse().map(Some).map_err(BlobRedirectError::new)
    }
}
