//! Files of keys, and what is wrong with them

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use jsonwebtoken::Algorithm;
use rcgen::{KeyPair, PublicKeyData};
use registry_auth::TokenOptions;
use registry_auth::token::TokenVerifier;
use serde_json::json;

use crate::support::{ISSUER, REALM, SERVICE, Signer, World, claims, pem};

fn options() -> TokenOptions {
    TokenOptions::new(REALM, SERVICE, ISSUER)
}

#[track_caller]
fn refused(path: &Path, options: &TokenOptions, reason: &str) {
    let error = TokenVerifier::new(options).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a_bundle_may_have_certificates_and_public_keys() {
    let world = World::new();
    let bare = Signer::new("bare", Algorithm::EdDSA);
    let path = world.folder.path().join("mixed.pem");
    let spki = bare.pair.subject_public_key_info();
    let unusable = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let unusable = rcgen::CertificateParams::default()
        .self_signed(&unusable)
        .unwrap();
    let text = [
        "some text before\n".to_owned(),
        world.root.certificate_pem(),
        // As distribution, which passes over what is no certificate.
        world.root.pair.serialize_pem(),
        pem("PUBLIC KEY", &spki),
        pem("DH PARAMETERS", b"x"),
        unusable.pem(),
    ]
    .concat();
    fs::write(&path, text).unwrap();
    let verifier = TokenVerifier::new(&options().with_root_certificates(&path)).unwrap();
    for signer in [&world.root, &bare] {
        let result = verifier.verify(&signer.token(&claims()), SystemTime::now());
        assert!(result.is_ok(), "{result:?}");
    }
}

#[test]
fn a_file_that_is_of_no_use_is_named_with_what_is_wrong() {
    let world = World::new();
    let path = world.folder.path().join("wrong");
    let bundle = options().with_root_certificates(&path);
    let jwks = options().with_jwks(&path);
    for options in [&bundle, &jwks] {
        let _ = fs::remove_file(&path);
        refused(&path, options, "No such file");
        fs::create_dir(&path).unwrap();
        refused(&path, options, "directory");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b' '; 1024 * 1024 + 1]).unwrap();
        refused(&path, options, "at most 1048576 bytes");
    }
    let certificate = world.root.certificate_pem();
    let cut = &certificate[..certificate.len() / 2];
    let private = world.root.pair.serialize_pem();
    for (content, reason) in [
        (
            "",
            "expected at least a PEM certificate or public key, found none",
        ),
        ("text", "found none"),
        (&private, "found none"),
        (cut, "section 1 is no PEM: it has no `-----END` line"),
        (&format!("{certificate}{cut}"), "section 2 is no PEM"),
        (
            &pem("CERTIFICATE", b"x"),
            "section 1 is no certificate that can be read",
        ),
        (&pem("PUBLIC KEY", b"x"), "key 1: the key is malformed"),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "it is not base64",
        ),
    ] {
        fs::write(&path, content).unwrap();
        refused(&path, &bundle, reason);
    }
    let key = world.named.jwk();
    let mut twin = world.ed25519.jwk();
    twin["kid"] = key["kid"].clone();
    let secret = json!({ "kty": "oct", "k": "c2VjcmV0" });
    for (content, reason) in [
        ("".to_owned(), "expected a JSON Web Key Set"),
        ("{}".to_owned(), "line 1, column 2 is something else"),
        (key.to_string(), "expected a JSON Web Key Set"),
        (json!({ "keys": [] }).to_string(), "found none"),
        (
            json!({ "keys": [{ "kty": "AKP" }] }).to_string(),
            "found none",
        ),
        (
            json!({ "keys": [key, secret] }).to_string(),
            "key 2: the key is a shared secret",
        ),
        (
            json!({ "keys": [key, twin] }).to_string(),
            "two different keys have the same id",
        ),
        (
            json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] }).to_string(),
            "at least 2048 bits, got 17",
        ),
    ] {
        fs::write(&path, &content).unwrap();
        refused(&path, &jwks, reason);
        let error = TokenVerifier::new(&jwks).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
    }
    // The same key twice is none the worse.
    fs::write(&path, json!({ "keys": [key, key] }).to_string()).unwrap();
    TokenVerifier::new(&jwks).unwrap();
}
