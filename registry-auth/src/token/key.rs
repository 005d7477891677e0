//! Public keys: what they are, what they are called, what they verify

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
// Named, not the process's default: there is none where another crate turns on a second one.
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use rustls_pki_types::alg_id;
use sha2::{Digest, Sha256};

use crate::token::algorithm::SigningAlgorithm;

/// The fewest bits of an RSA modulus (RFC 7518, section 3.3)
const MIN_RSA_BITS: usize = 2048;

/// A public key that can verify tokens
#[derive(Debug)]
pub(super) struct PublicKey {
    key: DecodingKey,
    family: Family,
    /// The only algorithm that its owner wants it used with, if said
    only: Option<String>,
    thumbprint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ed25519,
    P256,
    P384,
    Rsa,
}

impl PublicKey {
    /// The key of a DER-encoded SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)
    pub(super) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, key) = split_spki(der).ok_or(KeyError::Malformed)?;
        let key = if algorithm == alg_id::ECDSA_P256.as_ref()
            || algorithm == alg_id::ECDSA_P384.as_ref()
        {
            DecodingKey::from_ec_der(key)
        } else if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
            let components = PROVIDER.key_utils.rsa_pub_components_from_public_key;
            let (n, e) = components(key).map_err(|_| KeyError::Malformed)?;
            DecodingKey::from_rsa_raw_components(&n, &e)
        } else if algorithm == alg_id::ED25519.as_ref() {
            DecodingKey::from_ed_der(key)
        } else {
            return Err(KeyError::Unsupported);
        };
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| KeyError::Malformed)?;
        Self::from_jwk(&jwk)
    }

    /// The key of a JSON Web Key (RFC 7517)
    pub(super) fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        let length = |text: &str| URL_SAFE_NO_PAD.decode(text).map(|bytes| bytes.len());
        let expect = |text: &str, expected| match length(text) {
            Ok(length) if length == expected => Ok(()),
            _ => Err(KeyError::Malformed),
        };
        // The members are those of RFC 7638, in its order.
        let (family, members) = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(point) => {
                let (family, curve, size) = match point.curve {
                    EllipticCurve::P256 => (Family::P256, "P-256", 32),
                    EllipticCurve::P384 => (Family::P384, "P-384", 48),
                    _ => return Err(KeyError::Unsupported),
                };
                let (x, y) = (&point.x, &point.y);
                expect(x, size)?;
                expect(y, size)?;
                let members = format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#);
                (family, members)
            }
            AlgorithmParameters::OctetKey(_) => return Err(KeyError::Symmetric),
            AlgorithmParameters::OctetKeyPair(pair) => {
                if pair.curve != EllipticCurve::Ed25519 {
                    return Err(KeyError::Unsupported);
                }
                let x = &pair.x;
                expect(x, 32)?;
                let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
                (Family::Ed25519, members)
            }
            AlgorithmParameters::RSA(parameters) => {
                let (e, n) = (&parameters.e, &parameters.n);
                let bits = modulus_bits(n)?;
                if bits < MIN_RSA_BITS {
                    return Err(KeyError::Weak { bits });
                }
                length(e).map_err(|_| KeyError::Malformed)?;
                let members = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
                (Family::Rsa, members)
            }
            _ => return Err(KeyError::Unsupported),
        };
        let usage = jwk.common.public_key_use.as_ref();
        if usage.is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return Err(KeyError::Unsupported);
        }
        Ok(Self {
            key: DecodingKey::from_jwk(jwk).map_err(|_| KeyError::Malformed)?,
            family,
            only: jwk.common.key_algorithm.map(|only| only.to_string()),
            thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(members)),
        })
    }

    /// The key as others are told of it, under its thumbprint
    pub(super) fn to_jwk(&self) -> Result<Jwk, KeyError> {
        let mut jwk = Jwk::from_decoding_key(&self.key, None).map_err(|_| KeyError::Malformed)?;
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_id = Some(self.thumbprint.clone());
        Ok(jwk)
    }

    /// What identifies the key itself (RFC 7638)
    pub(super) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Whether signatures of this algorithm are made with such keys
    pub(super) fn fits(&self, algorithm: SigningAlgorithm) -> bool {
        let fits = match self.family {
            Family::Ed25519 => matches!(algorithm, SigningAlgorithm::EdDsa),
            Family::P256 => matches!(algorithm, SigningAlgorithm::Es256),
            Family::P384 => matches!(algorithm, SigningAlgorithm::Es384),
            Family::Rsa => matches!(
                algorithm,
                SigningAlgorithm::Ps256
                    | SigningAlgorithm::Ps384
                    | SigningAlgorithm::Ps512
                    | SigningAlgorithm::Rs256
                    | SigningAlgorithm::Rs384
                    | SigningAlgorithm::Rs512
            ),
        };
        fits && self
            .only
            .as_ref()
            .is_none_or(|only| only == algorithm.as_str())
    }

    /// Whether `signature`, in base64, is one of `message` by this key
    ///
    /// `algorithm` must fit.
    pub(super) fn verifies(
        &self,
        algorithm: SigningAlgorithm,
        message: &str,
        signature: &str,
    ) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else {
            return false;
        };
        self.fits(algorithm)
            && (PROVIDER.verifier_factory)(&algorithm.library(), &self.key)
                .is_ok_and(|verifier| verifier.verify(message.as_bytes(), &signature).is_ok())
    }
}

/// What libtrust calls a key, and hence distribution 2.x and its token issuers
///
/// The first 240 bits of the SHA-256 of the key's SubjectPublicKeyInfo, in base32, in groups of four.
pub(super) fn libtrust_id(spki: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = Sha256::digest(spki);
    let mut id = String::with_capacity(59);
    for (index, five) in hash[..30].chunks_exact(5).enumerate() {
        let bits = five
            .iter()
            .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for digit in 0..8 {
            if digit == 4 || digit == 0 && index > 0 {
                id.push(':');
            }
            id.push(char::from(
                ALPHABET[(bits >> (35 - 5 * digit) & 31) as usize],
            ));
        }
    }
    id
}

/// A DER sequence of this content
pub(super) fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut der = vec![0x30];
    match length {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        long => {
            // At most the eight bytes of a `usize`.
            der.push(0x80 | long.len() as u8);
            der.extend(long);
        }
    }
    der.extend(content);
    der
}

/// Algorithm identifier, without its own header, and key of a SubjectPublicKeyInfo
fn split_spki(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, []) = element(der, 0x30)? else {
        return None;
    };
    let (algorithm, rest) = element(content, 0x30)?;
    let (bits, []) = element(rest, 0x03)? else {
        return None;
    };
    // The number of bits at the end that do not count.
    let key = bits.strip_prefix(&[0])?;
    Some((algorithm, key))
}

/// The content of the DER element with this tag at the beginning, and what follows it
pub(super) fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = match first {
        ..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn modulus_bits(modulus: &str) -> Result<usize, KeyError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(modulus)
        .map_err(|_| KeyError::Malformed)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(match bytes.get(zeros) {
        Some(first) => (bytes.len() - zeros) * 8 - first.leading_zeros() as usize,
        None => 0,
    })
}

/// Why a key cannot verify tokens
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("the key is malformed")]
    Malformed,
    #[error("the key is a shared secret (`oct`); expected public keys only")]
    Symmetric,
    #[error("expected a signing key of RSA, P-256, P-384 or Ed25519, got another kind")]
    Unsupported,
    #[error("expected an RSA key of at least {MIN_RSA_BITS} bits, got {bits}")]
    Weak { bits: usize },
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData, RsaKeySize};

    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 7638, section 3.1.
        let jwk = r#"{"kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29", "n":
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#;
        let key = PublicKey::from_jwk(&serde_json::from_str(jwk).unwrap()).unwrap();
        assert_eq!(
            key.thumbprint(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
        assert!(key.fits(SigningAlgorithm::Rs256));
        assert!(
            !key.fits(SigningAlgorithm::Rs512),
            "its `alg` says otherwise"
        );
    }

    #[test]
    fn a_key_is_the_same_from_a_certificate_and_from_a_jwk() {
        for (algorithm, fits) in [
            (&rcgen::PKCS_ED25519, 1),
            (&rcgen::PKCS_ECDSA_P256_SHA256, 1),
            (&rcgen::PKCS_ECDSA_P384_SHA384, 1),
            (&rcgen::PKCS_RSA_SHA256, 6),
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let spki = pair.subject_public_key_info();
            let key = PublicKey::from_spki(&spki).unwrap();
            let jwk = Jwk::from_decoding_key(&key.key, None).unwrap();
            let text = serde_json::to_string(&jwk).unwrap();
            let again = PublicKey::from_jwk(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(key.thumbprint(), again.thumbprint());
            let all = SigningAlgorithm::ALL.into_iter();
            assert_eq!(all.filter(|algorithm| key.fits(*algorithm)).count(), fits);
            // Whatever is cut off or added, it is no key any more.
            for end in 0..spki.len() {
                assert_eq!(
                    PublicKey::from_spki(&spki[..end]).err(),
                    Some(KeyError::Malformed)
                );
            }
            let longer = [&spki[..], &[0]].concat();
            assert_eq!(
                PublicKey::from_spki(&longer).err(),
                Some(KeyError::Malformed)
            );
            // The sequence is written as it is read.
            let (content, _) = element(&spki, 0x30).unwrap();
            assert_eq!(sequence(content), spki);
        }
    }

    #[test]
    fn keys_that_cannot_verify_tokens_are_refused() {
        let error = |jwk: &str| PublicKey::from_jwk(&serde_json::from_str(jwk).unwrap()).err();
        for (jwk, expected) in [
            (r#"{"kty": "oct", "k": "c2VjcmV0"}"#, KeyError::Symmetric),
            (
                r#"{"kty": "RSA", "n": "AP__", "e": "AQAB"}"#,
                KeyError::Weak { bits: 16 },
            ),
            (
                r#"{"kty": "RSA", "n": "", "e": "AQAB"}"#,
                KeyError::Weak { bits: 0 },
            ),
            (
                r#"{"kty": "RSA", "n": "=", "e": "AQAB"}"#,
                KeyError::Malformed,
            ),
            (
                r#"{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}"#,
                KeyError::Malformed,
            ),
            (
                r#"{"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}"#,
                KeyError::Unsupported,
            ),
            (
                r#"{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}"#,
                KeyError::Unsupported,
            ),
            (
                r#"{"kty": "OKP", "crv": "Ed448", "x": "AA"}"#,
                KeyError::Unsupported,
            ),
            (
                r#"{"kty": "OKP", "crv": "Ed25519", "x": "AA"}"#,
                KeyError::Malformed,
            ),
            (r#"{"kty": "AKP"}"#, KeyError::Unsupported),
            (
                r#"{"kty": "OKP", "crv": "Ed25519", "use": "enc", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
                KeyError::Unsupported,
            ),
        ] {
            assert_eq!(error(jwk), Some(expected), "{jwk}");
        }
        let small = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        assert!(PublicKey::from_spki(&small.subject_public_key_info()).is_ok());
    }

    #[test]
    fn the_libtrust_id_is_base32_in_groups() {
        // sha256("") = e3b0c442 98fc1c14 9afbf4c8 996fb924 27ae41e4 649b934c a495991b 7852b855
        assert_eq!(
            libtrust_id(b""),
            "4OYM:IQUY:7QOB:JGX3:6TEJ:S35Z:EQT2:4QPE:MSNZ:GTFE:SWMR:W6CS"
        );
    }
}
