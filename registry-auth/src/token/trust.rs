//! The keys and certificates with which tokens must be signed

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::token::key::{KeyError, PublicKey, libtrust_id, sequence};

/// The most bytes of a file of keys
pub(super) const MAX_FILE: u64 = 1024 * 1024;

/// The most certificates in a token
pub(super) const MAX_CHAIN: usize = 10;

/// What tokens may be signed with
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// The certificates of the bundle, in the order of `anchors`
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    by_id: HashMap<String, Arc<PublicKey>>,
    by_thumbprint: HashMap<String, Arc<PublicKey>>,
    /// Whether it is the keys alone that are trusted, whatever certificates come with them
    keys_alone: bool,
}

impl Trust {
    /// Reads a bundle of PEM certificates and public keys, and a JSON Web Key Set
    pub(super) fn load(bundle: Option<&Path>, jwks: Option<&Path>) -> Result<Self, TrustError> {
        let mut trust = Self::default();
        for (path, add) in [
            (bundle, Self::add_bundle as fn(&mut Self, &Path, &[u8]) -> _),
            (jwks, Self::add_jwks),
        ] {
            if let Some(path) = path {
                read(path)
                    .and_then(|content| add(&mut trust, path, &content))
                    .map_err(|problem| TrustError {
                        path: path.to_owned(),
                        problem,
                    })?;
            }
        }
        Ok(trust)
    }

    /// These keys, under their thumbprints, and no certificates
    pub(super) fn of_keys(keys: &[Arc<PublicKey>]) -> Self {
        let by_thumbprint: HashMap<_, _> = keys
            .iter()
            .map(|key| (key.thumbprint().to_owned(), key.clone()))
            .collect();
        Self {
            by_id: by_thumbprint.clone(),
            by_thumbprint,
            keys_alone: true,
            ..Self::default()
        }
    }

    /// The keys of a set that someone else publishes, who may well have keys in it for others
    ///
    /// What cannot verify tokens is passed over (RFC 7517, section 5): one such key must not keep
    /// in force what the rest of the set says has gone.
    #[cfg(feature = "http-client")]
    pub(super) fn of_published(
        content: &[u8],
        from: &crate::token::jwks_url::JwksUrl,
    ) -> Result<Self, TrustProblem> {
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(content).map_err(jwks_problem)?;
        let mut trust = Self::default();
        for (index, value) in set.keys.into_iter().enumerate() {
            let number = index + 1;
            let key = serde_json::from_value(value).map_err(|_| KeyError::Malformed);
            let added = key
                .and_then(|jwk: Jwk| Ok((PublicKey::from_jwk(&jwk)?, jwk.common.key_id)))
                .map_err(|error| TrustProblem::key(number, error))
                .and_then(|(key, id)| trust.add(key, id));
            if let Err(problem) = added {
                tracing::warn!(url = %from, %problem, "a key of tokens is passed over");
            }
        }
        if trust.by_thumbprint.is_empty() {
            tracing::warn!(url = %from, "there is no key in the set that could verify tokens");
        }
        Ok(trust)
    }

    /// The same with these keys besides; where an id is that of two keys, it stays with the first
    #[cfg(feature = "http-client")]
    pub(super) fn with(&self, others: &Self) -> Self {
        let mut both = self.clone();
        for (id, key) in &others.by_id {
            let known = both.by_id.entry(id.clone()).or_insert_with(|| key.clone());
            if known.thumbprint() != key.thumbprint() {
                tracing::warn!(
                    thumbprint = key.thumbprint(),
                    "a key by URL has the id of another in a file, whose it stays"
                );
            }
        }
        for (thumbprint, key) in &others.by_thumbprint {
            let entry = both.by_thumbprint.entry(thumbprint.clone());
            entry.or_insert_with(|| key.clone());
        }
        both
    }

    /// All keys that are known themselves
    pub(super) fn into_keys(self) -> impl Iterator<Item = Arc<PublicKey>> {
        self.by_thumbprint.into_values()
    }

    /// The key that a token calls by its id
    pub(super) fn key_by_id(&self, id: &str) -> Option<Arc<PublicKey>> {
        self.by_id.get(id).cloned()
    }

    /// The key that a token brings along, if it is one of those known
    pub(super) fn key_by_value(
        &self,
        jwk: &Jwk,
        now: SystemTime,
    ) -> Result<Option<Arc<PublicKey>>, String> {
        let brought = PublicKey::from_jwk(jwk).map_err(|error| error.to_string())?;
        let Some(chain) = &jwk.common.x509_chain else {
            return Ok(self.by_thumbprint.get(brought.thumbprint()).cloned());
        };
        let certified = self.key_by_chain(chain, now)?;
        if certified.thumbprint() != brought.thumbprint() {
            return Err("the key in its header is not that of the certificate with it".to_owned());
        }
        Ok(Some(certified))
    }

    /// The key of the first of these certificates (base64 of DER), if a root vouches for it
    pub(super) fn key_by_chain(
        &self,
        chain: &[String],
        now: SystemTime,
    ) -> Result<Arc<PublicKey>, String> {
        if chain.len() > MAX_CHAIN {
            return Err(format!("it brings more than {MAX_CHAIN} certificates"));
        }
        let mut certificates = Vec::with_capacity(chain.len());
        for text in chain {
            let der = STANDARD
                .decode(text)
                .map_err(|_| "a certificate in it is not base64".to_owned())?;
            certificates.push(CertificateDer::from(der));
        }
        let Some((first, others)) = certificates.split_first() else {
            return Err("its list of certificates is empty".to_owned());
        };
        let leaf = EndEntityCert::try_from(first)
            .map_err(|error| format!("a certificate in it cannot be read ({error:?})"))?;
        if self.keys_alone {
            let key = PublicKey::from_spki(&leaf.subject_public_key_info())
                .map_err(|error| error.to_string())?;
            let known = self.by_thumbprint.get(key.thumbprint()).cloned();
            return known
                .ok_or_else(|| "the key of its certificate is not among those trusted".to_owned());
        }
        if self.roots.contains(first) {
            check_dates(&leaf, &self.anchors, now)
        } else {
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                others,
                unix(now),
                AnyUsage,
                None,
                None,
            )
            .and_then(|path| {
                // A root is a certificate like the others, as far as its time is concerned.
                let index = self
                    .anchors
                    .iter()
                    .position(|anchor| anchor == path.anchor());
                let root = index.and_then(|index| self.roots.get(index));
                match root.map(EndEntityCert::try_from) {
                    Some(Ok(root)) => check_dates(&root, &self.anchors, now),
                    // One of version 1, which is only fit for a root.
                    _ => Ok(()),
                }
            })
        }
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } => "its certificate has expired".to_owned(),
            webpki::Error::CertNotValidYet { .. } => "its certificate is not yet valid".to_owned(),
            webpki::Error::UnknownIssuer => {
                "its certificate is of an issuer not trusted".to_owned()
            }
            webpki::Error::InvalidSignatureForPublicKey => {
                "its certificate is not signed by the issuer that it names".to_owned()
            }
            other => format!("its certificate is not trusted ({other:?})"),
        })?;
        PublicKey::from_spki(&leaf.subject_public_key_info())
            .map(Arc::new)
            .map_err(|error| error.to_string())
    }

    fn add_bundle(&mut self, path: &Path, content: &[u8]) -> Result<(), TrustProblem> {
        let mut usable = 0;
        for (index, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(content).enumerate() {
            let number = index + 1;
            let (kind, der) = section.map_err(|error| TrustProblem::Pem {
                number,
                reason: pem_reason(&error),
            })?;
            let spki = match kind {
                SectionKind::Certificate => {
                    let certificate = CertificateDer::from(der);
                    let anchor = webpki::anchor_from_trusted_cert(&certificate)
                        .map_err(|error| TrustProblem::Certificate {
                            number,
                            reason: format!("{error:?}"),
                        })?
                        .to_owned();
                    let spki = sequence(&anchor.subject_public_key_info);
                    self.anchors.push(anchor);
                    self.roots.push(certificate);
                    spki
                }
                SectionKind::PublicKey => der,
                // distribution passes over them too. Their content stays unread.
                _ => {
                    tracing::warn!(path = %path.display(), number, ?kind, "expected certificates and public keys only");
                    continue;
                }
            };
            usable += 1;
            match PublicKey::from_spki(&spki) {
                Ok(key) => self.add(key, Some(libtrust_id(&spki)))?,
                // It can still vouch for the certificates of other keys.
                Err(error @ KeyError::Unsupported) if kind == SectionKind::Certificate => {
                    tracing::warn!(path = %path.display(), number, %error, "a certificate's own key cannot verify tokens");
                }
                Err(error) => return Err(TrustProblem::key(number, error)),
            }
        }
        match usable {
            0 => Err(TrustProblem::Empty {
                expected: "a PEM certificate or public key",
            }),
            _ => Ok(()),
        }
    }

    fn add_jwks(&mut self, path: &Path, content: &[u8]) -> Result<(), TrustProblem> {
        let set: JwkSet = serde_json::from_slice(content).map_err(jwks_problem)?;
        let mut usable = 0;
        for (index, jwk) in set.keys.iter().enumerate() {
            let number = index + 1;
            match PublicKey::from_jwk(jwk) {
                Ok(key) => {
                    usable += 1;
                    self.add(key, jwk.common.key_id.clone())?;
                }
                // Such a set may have keys for other purposes (RFC 7517, section 5).
                Err(error @ KeyError::Unsupported) => {
                    tracing::warn!(path = %path.display(), number, %error, "a key is passed over");
                }
                Err(error) => return Err(TrustProblem::key(number, error)),
            }
        }
        match usable {
            0 => Err(TrustProblem::Empty {
                expected: "a JSON Web Key of RSA, P-256, P-384 or Ed25519",
            }),
            _ => Ok(()),
        }
    }

    fn add(&mut self, key: PublicKey, id: Option<String>) -> Result<(), TrustProblem> {
        let key = Arc::new(key);
        let thumbprint = key.thumbprint().to_owned();
        for id in id.into_iter().chain([thumbprint.clone()]) {
            let known = self.by_id.entry(id).or_insert_with(|| key.clone());
            if known.thumbprint() != key.thumbprint() {
                return Err(TrustProblem::SameId { thumbprint });
            }
        }
        self.by_thumbprint.insert(thumbprint, key);
        Ok(())
    }
}

/// Certificates are not made for signing tokens, so it does not matter what they are made for
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Whether a certificate, which is trusted for what it is, is so now
///
/// webpki looks at the dates before anything else, so whatever else it does not like comes after them.
fn check_dates(
    certificate: &EndEntityCert<'_>,
    anchors: &[TrustAnchor<'_>],
    now: SystemTime,
) -> Result<(), webpki::Error> {
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    match certificate.verify_for_usage(algorithms, anchors, &[], unix(now), AnyUsage, None, None) {
        Err(
            error @ (webpki::Error::CertExpired { .. }
            | webpki::Error::CertNotValidYet { .. }
            | webpki::Error::InvalidCertValidity
            | webpki::Error::BadDerTime
            | webpki::Error::BadDer),
        ) => Err(error),
        _ => Ok(()),
    }
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TrustProblem> {
    let mut content = Vec::new();
    File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)?;
    match content.len() as u64 > MAX_FILE {
        true => Err(TrustProblem::TooLarge),
        false => Ok(content),
    }
}

/// Where it ceases to be a key set; what serde says quotes what is there
fn jwks_problem(error: serde_json::Error) -> TrustProblem {
    TrustProblem::Jwks {
        line: error.line(),
        column: error.column(),
    }
}

/// What is wrong with a PEM section, without its lines, which may be those of a private key
fn pem_reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it has no `-----END` line",
        pem::Error::IllegalSectionStart { .. } => "its `-----BEGIN` line is malformed",
        pem::Error::Base64Decode(_) => "it is not base64",
        _ => "it is malformed",
    }
}

/// Why the keys of tokens cannot be taken from a file
#[derive(Debug, thiserror::Error)]
#[error("cannot take the keys of tokens from `{}`: {problem}", .path.display())]
pub struct TrustError {
    /// The file
    pub path: PathBuf,
    /// What is wrong with it
    pub problem: TrustProblem,
}

/// What is wrong with a file of keys
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustProblem {
    /// A certificate cannot be read
    #[error("section {number} is no certificate that can be read ({reason})")]
    Certificate {
        /// Which section it is, counted from 1
        number: usize,
        /// What is wrong with it
        reason: String,
    },
    /// There is nothing in it
    #[error("expected at least {expected}, found none")]
    Empty {
        /// What was looked for
        expected: &'static str,
    },
    /// It is not a JSON Web Key Set
    #[error(
        "expected a JSON Web Key Set, such as `{{\"keys\": [...]}}`; line {line}, column {column} \
         is something else"
    )]
    Jwks {
        /// The line at which it ceases to be one
        line: usize,
        /// The column of that line
        column: usize,
    },
    /// A key is of no use
    #[error("key {number}: {reason}")]
    Key {
        /// Which section or key it is, counted from 1
        number: usize,
        /// What is wrong with it
        reason: String,
    },
    /// A PEM section is malformed
    #[error("section {number} is no PEM: {reason}")]
    Pem {
        /// Which section it is, counted from 1
        number: usize,
        /// What is wrong with it
        reason: &'static str,
    },
    /// Two different keys have the same id
    #[error(
        "two different keys have the same id, one of them with the thumbprint {thumbprint}; give \
         each its own `kid`"
    )]
    SameId {
        /// The thumbprint of the latter
        thumbprint: String,
    },
    /// It is too large
    #[error("expected at most {MAX_FILE} bytes, it has more")]
    TooLarge,
    /// It cannot be read
    #[error("{0}")]
    Unreadable(#[from] io::Error),
}

impl TrustProblem {
    fn key(number: usize, error: KeyError) -> Self {
        Self::Key {
            number,
            reason: error.to_string(),
        }
    }
}
