//! Keys, certificates and tokens made on the spot

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, PublicKeyData};
use registry_auth::TokenOptions;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const REALM: &str = "https://auth.example/token";
pub(crate) const SERVICE: &str = "registry.example";
pub(crate) const ISSUER: &str = "auth.example";

/// A key that signs tokens, and its certificate
pub(crate) struct Signer {
    pub(crate) pair: KeyPair,
    pub(crate) algorithm: Algorithm,
    params: CertificateParams,
    pub(crate) certificate: Vec<u8>,
}

impl Signer {
    /// A key with a certificate that it signed itself
    pub(crate) fn new(name: &str, algorithm: Algorithm) -> Self {
        let params = params(name, true);
        let pair = pair(algorithm);
        let certificate = params.self_signed(&pair).unwrap().der().to_vec();
        Self {
            pair,
            algorithm,
            params,
            certificate,
        }
    }

    /// A key for whose certificate this one vouches
    pub(crate) fn issue(&self, name: &str, ca: bool, change: fn(&mut CertificateParams)) -> Self {
        let algorithm = Algorithm::ES256;
        let mut params = params(name, ca);
        change(&mut params);
        let pair = pair(algorithm);
        let issuer = rcgen::Issuer::from_params(&self.params, &self.pair);
        let certificate = params.signed_by(&pair, &issuer).unwrap().der().to_vec();
        Self {
            pair,
            algorithm,
            params,
            certificate,
        }
    }

    /// As one that signs with another algorithm of the same key
    pub(crate) fn with(&self, algorithm: Algorithm) -> Self {
        Self {
            pair: KeyPair::try_from(self.pair.serialized_der()).unwrap(),
            algorithm,
            params: self.params.clone(),
            certificate: self.certificate.clone(),
        }
    }

    pub(crate) fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// What libtrust calls the key, computed in another way than in the library
    pub(crate) fn libtrust_id(&self) -> String {
        let hash = Sha256::digest(self.pair.subject_public_key_info());
        let bits: String = hash[..30]
            .iter()
            .map(|byte| format!("{byte:08b}"))
            .collect();
        let alphabet: Vec<char> = ('A'..='Z').chain('2'..='7').collect();
        let digits: Vec<char> = (0..48)
            .map(|digit| &bits[digit * 5..digit * 5 + 5])
            .map(|five| alphabet[usize::from_str_radix(five, 2).unwrap()])
            .collect();
        let groups: Vec<String> = digits.chunks(4).map(|four| four.iter().collect()).collect();
        groups.join(":")
    }

    /// Of the public key, with its libtrust id
    pub(crate) fn jwk(&self) -> Value {
        let key = self.pair.public_key_raw();
        let key = match self.algorithm {
            Algorithm::EdDSA => DecodingKey::from_ed_der(key),
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_der(key),
            _ => DecodingKey::from_rsa_der(key),
        };
        let jwk = Jwk::from_decoding_key(&key, None).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.libtrust_id());
        jwk
    }

    pub(crate) fn thumbprint(&self) -> String {
        let jwk: Jwk = serde_json::from_value(self.jwk()).unwrap();
        jwk.thumbprint(ThumbprintHash::SHA256).unwrap()
    }

    pub(crate) fn x5c(&self) -> Value {
        json!(STANDARD.encode(&self.certificate))
    }

    /// A token with a header that names the key by its libtrust id
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(json!({ "kid": self.libtrust_id() }), claims)
    }

    /// A token with these fields in its header besides `typ` and `alg`
    pub(crate) fn token_with(&self, mut header: Value, claims: &Value) -> String {
        header["typ"] = json!("JWT");
        if header.get("alg").is_none() {
            header["alg"] = serde_json::to_value(self.algorithm).unwrap();
        }
        self.raw(&header.to_string(), &claims.to_string())
    }

    /// A token of these very texts
    pub(crate) fn raw(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(&message);
        format!("{message}.{signature}")
    }

    pub(crate) fn sign(&self, message: &str) -> String {
        let key = self.encoding_key();
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, self.algorithm).unwrap()
    }

    fn encoding_key(&self) -> EncodingKey {
        let pkcs8 = self.pair.serialized_der();
        match self.algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(pkcs8),
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_der(pkcs8),
            // The library wants what PKCS#8 wraps: it begins after version, algorithm and headers.
            _ => EncodingKey::from_rsa_der(&pkcs8[26..]),
        }
    }
}

fn pair(algorithm: Algorithm) -> KeyPair {
    KeyPair::generate_for(match algorithm {
        Algorithm::EdDSA => &rcgen::PKCS_ED25519,
        Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::ES384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        _ => &rcgen::PKCS_RSA_SHA256,
    })
    .unwrap()
}

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = match ca {
        true => IsCa::Ca(BasicConstraints::Unconstrained),
        false => IsCa::ExplicitNoCa,
    };
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    params
}

pub(crate) fn encode(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub(crate) fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
        lines.join("\n")
    )
}

pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

/// Claims that are accepted, for five minutes
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "sub": "ada",
        "aud": SERVICE,
        "exp": now() + 300,
        "nbf": now() - 10,
        "iat": now(),
        "jti": "one",
        "access": [{ "type": "repository", "name": "team/app", "actions": ["pull"] }],
    })
}

/// The same with some of them replaced, or taken away by `null`
pub(crate) fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// Everyone who is trusted, and the files that say so
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) root: Signer,
    pub(crate) rsa: Signer,
    pub(crate) p384: Signer,
    /// Only in the key set
    pub(crate) ed25519: Signer,
    /// Only in the key set, there called `by name`
    pub(crate) named: Signer,
    /// A root whose time is over
    pub(crate) old: Signer,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut old = Signer::new("old", Algorithm::ES256);
        old.params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        old.certificate = old.params.self_signed(&old.pair).unwrap().der().to_vec();
        let world = Self {
            folder: TempDir::new().unwrap(),
            root: Signer::new("root", Algorithm::ES256),
            rsa: Signer::new("rsa", Algorithm::RS256),
            p384: Signer::new("p384", Algorithm::ES384),
            ed25519: Signer::new("ed25519", Algorithm::EdDSA),
            named: Signer::new("named", Algorithm::ES256),
            old,
        };
        let bundle = [&world.root, &world.rsa, &world.p384, &world.old];
        let bundle: String = bundle.into_iter().map(Signer::certificate_pem).collect();
        fs::write(world.bundle(), bundle).unwrap();
        let mut named = world.named.jwk();
        named["kid"] = json!("by name");
        let set = json!({ "keys": [
            world.ed25519.jwk(),
            named,
            // For another purpose, and of a kind not known.
            { "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" },
        ]});
        fs::write(world.jwks(), set.to_string()).unwrap();
        world
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle.pem")
    }

    pub(crate) fn jwks(&self) -> PathBuf {
        self.folder.path().join("keys.json")
    }

    pub(crate) fn options(&self) -> TokenOptions {
        TokenOptions::new(REALM, SERVICE, ISSUER)
            .with_root_certificates(self.bundle())
            .with_jwks(self.jwks())
    }
}
