//! The private key with which tokens are signed

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
use jsonwebtoken::jwk::{EllipticCurve, Jwk};
use jsonwebtoken::{DecodingKey, EncodingKey};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, alg_id};
use serde_json::{Value, json};
use webpki::EndEntityCert;

use crate::token::algorithm::SigningAlgorithm;
use crate::token::claims::Claims;
use crate::token::key::{KeyError, PublicKey, element};
use crate::token::trust::{MAX_CHAIN, TrustProblem, read};

/// A key that signs tokens, and the header that says so
#[derive(Debug)]
pub(super) struct SigningKey {
    key: EncodingKey,
    algorithm: SigningAlgorithm,
    public: Arc<PublicKey>,
    /// The header that names the key by its thumbprint, encoded
    header: String,
    /// The header that brings the certificates along, if there are any
    header_with_chain: Option<String>,
}

impl SigningKey {
    /// Reads the key, and the certificates whose first is the key's own
    pub(super) fn load(path: &Path, certificates: Option<&Path>) -> Result<Self, SigningKeyError> {
        let fail = |path: &Path, problem| SigningKeyError {
            path: path.to_owned(),
            problem,
        };
        let (key, algorithm, public) = read(path)
            .map_err(SigningKeyProblem::from)
            .and_then(|content| parse(&content))
            .map_err(|problem| fail(path, problem))?;
        let mut fields = json!({
            "typ": "JWT",
            "alg": algorithm.as_str(),
            "kid": public.thumbprint(),
        });
        let encode = |fields: &Value| URL_SAFE_NO_PAD.encode(fields.to_string());
        let header = encode(&fields);
        let mut header_with_chain = None;
        if let Some(path) = certificates {
            let chain = read(path)
                .map_err(SigningKeyProblem::from)
                .and_then(|content| chain(&content, &public))
                .map_err(|problem| fail(path, problem))?;
            fields["x5c"] = json!(chain);
            header_with_chain = Some(encode(&fields));
        }
        Ok(Self {
            key,
            algorithm,
            public: Arc::new(public),
            header,
            header_with_chain,
        })
    }

    /// The key that verifies what this one signs
    pub(super) fn public(&self) -> &Arc<PublicKey> {
        &self.public
    }

    pub(super) fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// A token that says this, for others: with the certificates, if there are any
    pub(super) fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = self.header_with_chain.as_ref().unwrap_or(&self.header);
        self.sign_with(header, claims)
    }

    /// A token that says this, for who knows the key itself
    pub(super) fn sign_for_self(&self, claims: &Claims) -> Result<String, String> {
        self.sign_with(&self.header, claims)
    }

    fn sign_with(&self, header: &str, claims: &Claims) -> Result<String, String> {
        let claims = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = (PROVIDER.signer_factory)(&self.algorithm.library(), &self.key)
            .map_err(|error| error.to_string())?
            .try_sign(message.as_bytes())
            .map_err(|error| error.to_string())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The key of a PEM file, what it signs with, and its public half
fn parse(content: &[u8]) -> Result<(EncodingKey, SigningAlgorithm, PublicKey), SigningKeyProblem> {
    let der = PrivateKeyDer::from_pem_slice(content).map_err(|error| match error {
        pem::Error::NoItemsFound => SigningKeyProblem::NoKey,
        _ => SigningKeyProblem::Malformed,
    })?;
    let (algorithm, key) = match &der {
        PrivateKeyDer::Pkcs1(key) => (
            SigningAlgorithm::Rs256,
            EncodingKey::from_rsa_der(key.secret_pkcs1_der()),
        ),
        PrivateKeyDer::Pkcs8(key) => {
            let der = key.secret_pkcs8_der();
            let (algorithm, inner) = split_pkcs8(der).ok_or(SigningKeyProblem::Malformed)?;
            if algorithm == alg_id::ECDSA_P256.as_ref() {
                (SigningAlgorithm::Es256, EncodingKey::from_ec_der(der))
            } else if algorithm == alg_id::ECDSA_P384.as_ref() {
                (SigningAlgorithm::Es384, EncodingKey::from_ec_der(der))
            } else if algorithm == alg_id::ED25519.as_ref() {
                (SigningAlgorithm::EdDsa, EncodingKey::from_ed_der(der))
            } else if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
                // The library wants what PKCS#8 wraps.
                (SigningAlgorithm::Rs256, EncodingKey::from_rsa_der(inner))
            } else {
                return Err(SigningKeyProblem::Unusable {
                    reason: KeyError::Unsupported.to_string(),
                });
            }
        }
        PrivateKeyDer::Sec1(_) => return Err(SigningKeyProblem::Sec1),
        _ => return Err(SigningKeyProblem::NoKey),
    };
    let public = public(&key, algorithm).ok_or(SigningKeyProblem::Malformed)?;
    let public = PublicKey::from_jwk(&public).map_err(SigningKeyProblem::unusable)?;
    Ok((key, algorithm, public))
}

/// The public half of a key
fn public(key: &EncodingKey, algorithm: SigningAlgorithm) -> Option<Jwk> {
    let (utils, der) = (&PROVIDER.key_utils, key.as_bytes());
    let public = match algorithm {
        SigningAlgorithm::Es256 | SigningAlgorithm::Es384 => {
            let parts = utils.ec_pub_components_from_private_key;
            let (_, x, y) = parts(der, algorithm.library()).ok()?;
            DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat())
        }
        SigningAlgorithm::EdDsa => {
            let part = utils.ed_pub_components_from_private_key;
            DecodingKey::from_ed_der(&part(der, &EllipticCurve::Ed25519).ok()?)
        }
        _ => {
            let parts = utils.rsa_pub_components_from_private_key;
            let (n, e) = parts(der).ok()?;
            DecodingKey::from_rsa_raw_components(&n, &e)
        }
    };
    Jwk::from_decoding_key(&public, None).ok()
}

/// Algorithm identifier, without its own header, and key of a PKCS#8 document (RFC 5958)
fn split_pkcs8(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, []) = element(der, 0x30)? else {
        return None;
    };
    let (_version, rest) = element(content, 0x02)?;
    let (algorithm, rest) = element(rest, 0x30)?;
    // Attributes and the public key may follow.
    let (key, _) = element(rest, 0x04)?;
    Some((algorithm, key))
}

/// Certificates as a header has them, if the first is that of the key
fn chain(content: &[u8], public: &PublicKey) -> Result<Vec<String>, SigningKeyProblem> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(content)
        .collect::<Result<_, _>>()
        .map_err(|_| SigningKeyProblem::Certificate)?;
    let first = certificates
        .first()
        .ok_or(SigningKeyProblem::NoCertificate)?;
    if certificates.len() > MAX_CHAIN {
        return Err(SigningKeyProblem::LongChain {
            got: certificates.len(),
        });
    }
    let leaf = EndEntityCert::try_from(first).map_err(|_| SigningKeyProblem::Certificate)?;
    let certified = PublicKey::from_spki(&leaf.subject_public_key_info())
        .map_err(SigningKeyProblem::unusable)?;
    if certified.thumbprint() != public.thumbprint() {
        return Err(SigningKeyProblem::OtherKey);
    }
    let encoded = certificates.iter();
    Ok(encoded.map(|der| STANDARD.encode(der)).collect())
}

/// Why tokens cannot be signed with the key or the certificates of a file
#[derive(Debug, thiserror::Error)]
#[error("cannot sign tokens with `{}`: {problem}", .path.display())]
pub struct SigningKeyError {
    /// The file
    pub path: PathBuf,
    /// What is wrong with it
    pub problem: SigningKeyProblem,
}

/// What is wrong with a file of a signing key or its certificates
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyProblem {
    /// A certificate cannot be read
    #[error("a certificate in it cannot be read")]
    Certificate,
    /// It cannot be read
    #[error(transparent)]
    File(#[from] TrustProblem),
    /// There are too many certificates
    #[error("expected the key's certificate and at most {} others, got {got} in all", MAX_CHAIN - 1)]
    LongChain {
        /// How many there are
        got: usize,
    },
    /// The key cannot be read
    #[error("the private key is malformed")]
    Malformed,
    /// There is no certificate
    #[error(
        "expected the certificate of the signing key in PEM, and after it those that vouch for it; found none"
    )]
    NoCertificate,
    /// There is no private key
    #[error(
        "expected a private key in PEM (`-----BEGIN PRIVATE KEY-----`), not encrypted; found none"
    )]
    NoKey,
    /// The certificate is that of another key
    #[error("its first certificate is not that of the signing key; put that one first")]
    OtherKey,
    /// The key is in a form that is not taken
    #[error(
        "expected the private key as PKCS#8, got it as SEC 1; convert it with \
         `openssl pkcs8 -topk8 -nocrypt`"
    )]
    Sec1,
    /// The key is of no use
    #[error("{reason}")]
    Unusable {
        /// Why not
        reason: String,
    },
}

impl SigningKeyProblem {
    fn unusable(error: KeyError) -> Self {
        Self::Unusable {
            reason: error.to_string(),
        }
    }
}
