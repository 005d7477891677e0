//! The table of tokens, good and hostile

use std::time::SystemTime;

use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::PublicKeyData;
use registry_auth::token::{MAX_TOKEN, SigningAlgorithm, TokenVerifier};
use serde_json::json;

use crate::support::{ISSUER, SERVICE, Signer, World, claims, claims_with, encode, now, pem};

/// A token and what is to become of it
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) token: String,
    /// Why it is refused, if it is
    pub(crate) refused: Option<&'static str>,
    /// Whether the reference registry decides otherwise, in some of its versions at least
    pub(crate) differs: bool,
}

impl Case {
    fn good(what: &'static str, token: String) -> Self {
        Self {
            what,
            token,
            refused: None,
            differs: false,
        }
    }

    fn bad(what: &'static str, reason: &'static str, token: String) -> Self {
        Self {
            what,
            token,
            refused: Some(reason),
            differs: false,
        }
    }

    /// The reference registry does not know this, or does not look
    fn differs(mut self) -> Self {
        self.differs = true;
        self
    }
}

pub(crate) fn good(world: &World) -> Vec<Case> {
    let World {
        root,
        rsa,
        p384,
        ed25519,
        named,
        ..
    } = world;
    let leaf = root.issue("leaf", false, |_| {});
    let middle = root.issue("middle", true, |_| {});
    let far = middle.issue("far", false, |params| {
        // Certificates for TLS are as good.
        let usage = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
        params.insert_extended_key_usage(usage);
    });
    let mut certified = leaf.jwk();
    certified["x5c"] = json!([leaf.x5c()]);
    let ok = &claims();
    vec![
        Case::good("ES256 by kid", root.token(ok)),
        Case::good("ES384 by kid", p384.token(ok)),
        Case::good("RS256 by kid", rsa.token(ok)),
        Case::good("RS384 by kid", rsa.with(Algorithm::RS384).token(ok)),
        Case::good("RS512 by kid", rsa.with(Algorithm::RS512).token(ok)),
        Case::good("PS256 by kid", rsa.with(Algorithm::PS256).token(ok)).differs(),
        Case::good("PS384 by kid", rsa.with(Algorithm::PS384).token(ok)).differs(),
        Case::good("PS512 by kid", rsa.with(Algorithm::PS512).token(ok)).differs(),
        Case::good(
            "EdDSA by kid of a JWK",
            ed25519.token_with(json!({ "kid": ed25519.jwk()["kid"] }), ok),
        )
        .differs(),
        Case::good(
            "kid of a JWK",
            named.token_with(json!({ "kid": "by name" }), ok),
        )
        .differs(),
        Case::good(
            "thumbprint of a JWK",
            named.token_with(json!({ "kid": named.thumbprint() }), ok),
        )
        .differs(),
        Case::good(
            "thumbprint of a certificate's key",
            rsa.token_with(json!({ "kid": rsa.thumbprint() }), ok),
        )
        .differs(),
        Case::good(
            "x5c with a leaf",
            leaf.token_with(json!({ "x5c": [leaf.x5c()] }), ok),
        ),
        Case::good(
            "x5c with an intermediate",
            far.token_with(json!({ "x5c": [far.x5c(), middle.x5c()] }), ok),
        ),
        Case::good(
            "x5c with leaf and root",
            leaf.token_with(json!({ "x5c": [leaf.x5c(), root.x5c()] }), ok),
        ),
        Case::good(
            "x5c with a root itself",
            root.token_with(json!({ "x5c": [root.x5c()] }), ok),
        ),
        Case::good(
            "x5c comes before kid",
            leaf.token_with(json!({ "x5c": [leaf.x5c()], "kid": "unknown" }), ok),
        ),
        Case::good(
            "jwk of a root",
            root.token_with(json!({ "jwk": root.jwk() }), ok),
        ),
        Case::good(
            "jwk of RSA",
            rsa.token_with(json!({ "jwk": rsa.jwk() }), ok),
        ),
        Case::good(
            "jwk with x5c",
            leaf.token_with(json!({ "jwk": certified }), ok),
        ),
        Case::good(
            "jwk of the key set",
            ed25519.token_with(json!({ "jwk": ed25519.jwk() }), ok),
        )
        .differs(),
        Case::good(
            "a list of audiences",
            root.token(&claims_with(json!({ "aud": ["other", SERVICE] }))),
        )
        .differs(),
        Case::good(
            "expired within the leeway",
            root.token(&claims_with(json!({ "exp": now() - 30 }))),
        ),
        Case::good(
            "not yet valid within the leeway",
            root.token(&claims_with(
                json!({ "nbf": now() + 30, "iat": now() + 30 }),
            )),
        ),
        Case::good(
            "as little as possible",
            root.token(&json!({ "iss": ISSUER, "aud": SERVICE, "exp": now() + 60 })),
        ),
        Case::good(
            "null for nothing",
            root.raw(
                &json!({ "alg": "ES256", "kid": root.libtrust_id() }).to_string(),
                &json!({
                    "iss": ISSUER, "aud": SERVICE, "exp": now() + 60, "nbf": null, "iat": null,
                    "sub": null, "jti": null, "access": null,
                })
                .to_string(),
            ),
        ),
        Case::good(
            "claims and entries of other registries",
            root.token(&claims_with(json!({
                "auth_type": "x", "meta": { "a": [1] },
                "access": [
                    { "type": "repository", "name": "group/*", "actions": ["*"], "meta": {} },
                    { "type": "repository", "name": "team/app", "actions": null },
                    { "type": "x y", "class": "?", "name": "", "actions": ["", "PULL"] },
                ],
            }))),
        ),
    ]
}

pub(crate) fn hostile(world: &World) -> Vec<Case> {
    let World {
        root,
        rsa,
        named,
        old,
        ..
    } = world;
    let foreign = Signer::new("foreign", Algorithm::ES256);
    let namesake = Signer::new("root", Algorithm::ES256).issue("leaf", false, |_| {});
    let foreign_leaf = foreign.issue("leaf", false, |_| {});
    let leaf = root.issue("leaf", false, |_| {});
    let below_leaf = leaf.issue("below", false, |_| {});
    let expired = root.issue("leaf", false, |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let early = root.issue("leaf", false, |params| {
        params.not_before = rcgen::date_time_ymd(2119, 1, 1);
    });
    let of_old = old.issue("leaf", false, |_| {});
    let mut of_other_key = foreign.jwk();
    of_other_key["x5c"] = json!([leaf.x5c()]);

    let ok = &claims();
    let kid = root.libtrust_id();
    let by_kid = |algorithm: &str| json!({ "alg": algorithm, "kid": kid }).to_string();
    let unsigned = |header: &str| format!("{}.{}.", encode(header), encode(ok.to_string()));
    let hmac = |header: serde_json::Value, secret: &[u8]| {
        let message = format!("{}.{}", encode(header.to_string()), encode(ok.to_string()));
        let key = EncodingKey::from_secret(secret);
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    };
    let hs256 = json!({ "alg": "HS256", "kid": kid });
    let spki = root.pair.subject_public_key_info();
    let token = root.token(ok);
    let parts: Vec<&str> = token.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    let claims_text = |text: &str| root.raw(&by_kid("ES256"), text);
    let end = now() + 300;
    let accessing =
        |access: serde_json::Value| root.token(&claims_with(json!({ "access": access })));

    vec![
        // Algorithms.
        Case::bad("none", "expected one of EdDSA", unsigned(&by_kid("none"))),
        Case::bad("nOnE", "expected one of EdDSA", unsigned(&by_kid("nOnE"))),
        Case::bad("no algorithm", "missing field `alg`", unsigned("{}")),
        Case::bad(
            "HS256 with the public key",
            "expected one of EdDSA",
            hmac(hs256.clone(), pem("PUBLIC KEY", &spki).as_bytes()),
        ),
        Case::bad(
            "HS256 with its DER",
            "expected one of EdDSA",
            hmac(hs256.clone(), &spki),
        ),
        Case::bad(
            "HS256 with the certificate",
            "expected one of EdDSA",
            hmac(hs256, root.certificate_pem().as_bytes()),
        ),
        Case::bad(
            "HS256 with a secret brought along",
            "expected one of EdDSA",
            hmac(
                json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": encode("secret") } }),
                b"secret",
            ),
        ),
        Case::bad(
            "ES256 with a key of RSA",
            "does not sign with ES256",
            root.token_with(json!({ "kid": rsa.libtrust_id() }), ok),
        ),
        Case::bad(
            "RS256 with a key of P-256",
            "does not sign with RS256",
            rsa.token_with(json!({ "kid": kid }), ok),
        ),
        Case::bad(
            "ES384 with a key of P-256",
            "does not sign with ES384",
            world.p384.token_with(json!({ "kid": kid }), ok),
        ),
        Case::bad(
            "extensions that must be understood",
            "(`crit`)",
            root.token_with(json!({ "kid": kid, "crit": ["b64"], "b64": false }), ok),
        )
        .differs(),
        // Keys.
        Case::bad("no key", "names no key", root.token_with(json!({}), ok)),
        Case::bad(
            "empty kid",
            "names no key",
            root.token_with(json!({ "kid": "" }), ok),
        ),
        Case::bad(
            "unknown kid",
            "no trusted key has the id `other`",
            root.token_with(json!({ "kid": "other" }), ok),
        ),
        Case::bad(
            "unknown key",
            "no trusted key has the id",
            foreign.token(ok),
        ),
        Case::bad(
            "kid of another key",
            "signature is wrong",
            foreign.token_with(json!({ "kid": kid }), ok),
        ),
        Case::bad(
            "x5c of a foreign root",
            "issuer not trusted",
            foreign_leaf.token_with(json!({ "x5c": [foreign_leaf.x5c()] }), ok),
        ),
        Case::bad(
            "x5c of a foreign root with the name of a trusted one",
            "not signed by the issuer that it names",
            namesake.token_with(json!({ "x5c": [namesake.x5c()] }), ok),
        ),
        Case::bad(
            "x5c of a foreign root that is brought along",
            "issuer not trusted",
            foreign_leaf.token_with(json!({ "x5c": [foreign_leaf.x5c(), foreign.x5c()] }), ok),
        ),
        Case::bad(
            "x5c of a foreign root, with a good kid",
            "issuer not trusted",
            foreign_leaf.token_with(json!({ "x5c": [foreign_leaf.x5c()], "kid": kid }), ok),
        ),
        Case::bad(
            "x5c that has expired",
            "certificate has expired",
            expired.token_with(json!({ "x5c": [expired.x5c()] }), ok),
        ),
        Case::bad(
            "x5c that is not yet valid",
            "certificate is not yet valid",
            early.token_with(json!({ "x5c": [early.x5c()] }), ok),
        ),
        Case::bad(
            "x5c of a root that has expired",
            "certificate has expired",
            of_old.token_with(json!({ "x5c": [of_old.x5c()] }), ok),
        ),
        Case::bad(
            "x5c with a root that has expired itself",
            "certificate has expired",
            old.token_with(json!({ "x5c": [old.x5c()] }), ok),
        ),
        Case::bad(
            "x5c below one that is no authority",
            "certificate is",
            below_leaf.token_with(json!({ "x5c": [below_leaf.x5c(), leaf.x5c()] }), ok),
        ),
        Case::bad(
            "x5c of a good certificate, signed by another key",
            "signature is wrong",
            foreign.token_with(json!({ "x5c": [leaf.x5c()] }), ok),
        ),
        Case::bad(
            "x5c that is not base64",
            "not base64",
            leaf.token_with(json!({ "x5c": ["####"] }), ok),
        ),
        Case::bad(
            "x5c that is no certificate",
            "cannot be read",
            leaf.token_with(json!({ "x5c": ["MAA="] }), ok),
        ),
        Case::bad(
            "x5c that is empty",
            "names no key",
            leaf.token_with(json!({ "x5c": [] }), ok),
        ),
        Case::bad(
            "x5c that is long",
            "more than 10 certificates",
            leaf.token_with(json!({ "x5c": vec![leaf.x5c(); 11] }), ok),
        )
        .differs(),
        Case::bad(
            "x5c that is a text",
            "header cannot be read",
            leaf.token_with(json!({ "x5c": leaf.x5c() }), ok),
        ),
        Case::bad(
            "jwk that is not trusted",
            "not among those trusted",
            foreign.token_with(json!({ "jwk": foreign.jwk() }), ok),
        ),
        Case::bad(
            "jwk with the kid of another",
            "not among those trusted",
            foreign.token_with(
                {
                    let mut jwk = foreign.jwk();
                    jwk["kid"] = json!(kid);
                    json!({ "jwk": jwk, "kid": kid })
                },
                ok,
            ),
        ),
        Case::bad(
            "jwk with a certificate of another key",
            "not that of the certificate",
            foreign.token_with(json!({ "jwk": of_other_key }), ok),
        ),
        Case::bad(
            "jwk with a kid of the key set",
            "not among those trusted",
            foreign.token_with(json!({ "jwk": foreign.jwk(), "kid": "by name" }), ok),
        ),
        Case::bad(
            "kid of the key set, signed by another",
            "signature is wrong",
            foreign.token_with(json!({ "kid": named.thumbprint() }), ok),
        ),
        // Signatures.
        Case::bad(
            "no signature",
            "signature is wrong",
            format!("{header}.{body}."),
        ),
        Case::bad(
            "signature of something else",
            "signature is wrong",
            format!("{header}.{body}.{}", root.sign("a.b")),
        ),
        Case::bad(
            "other claims than signed",
            "signature is wrong",
            format!(
                "{header}.{}.{signature}",
                encode(claims_with(json!({ "sub": "eve" })).to_string())
            ),
        ),
        Case::bad(
            "signature cut short",
            "signature is wrong",
            token[..token.len() - 4].to_owned(),
        ),
        Case::bad(
            "signature that is not base64",
            "signature is wrong",
            format!("{header}.{body}.####"),
        ),
        Case::bad(
            "signature of zeros",
            "signature is wrong",
            format!("{header}.{body}.{}", encode([0; 64])),
        ),
        // Form.
        Case::bad("one part", "three parts", "abc".to_owned()),
        Case::bad("two parts", "three parts", format!("{header}.{body}")),
        Case::bad("four parts", "three parts", format!("{token}.{signature}")),
        Case::bad("only dots", "header cannot be read", "..".to_owned()),
        Case::bad(
            "no header",
            "header cannot be read",
            format!(".{body}.{signature}"),
        ),
        Case::bad(
            "header that is not base64",
            "not base64url",
            format!("!{header}.{body}.{signature}"),
        ),
        Case::bad(
            "header that is no JSON",
            "header cannot be read",
            root.raw("{", &ok.to_string()),
        ),
        Case::bad(
            "header that is a list",
            "header cannot be read",
            root.raw("[]", &ok.to_string()),
        ),
        Case::bad(
            "header with the algorithm twice",
            "duplicate field `alg`",
            root.raw(
                &format!(r#"{{"alg":"none","alg":"ES256","kid":"{kid}"}}"#),
                &ok.to_string(),
            ),
        )
        .differs(),
        Case::bad("claims that are not base64", "not base64url", {
            let message = format!("{header}.###");
            let signature = root.sign(&message);
            format!("{message}.{signature}")
        }),
        Case::bad(
            "claims that are a list",
            "claims cannot be read",
            claims_text("[1]"),
        ),
        Case::bad(
            "claims that are no JSON",
            "claims cannot be read",
            claims_text("{"),
        ),
        Case::bad(
            "huge",
            "at most 65536 bytes",
            root.token(&claims_with(json!({ "x": "x".repeat(MAX_TOKEN) }))),
        )
        .differs(),
        // Claims.
        Case::bad(
            "other issuer",
            "not `auth.example`, but `other`",
            root.token(&claims_with(json!({ "iss": "other" }))),
        ),
        Case::bad(
            "no issuer",
            "not `auth.example`, but ``",
            root.token(&claims_with(json!({ "iss": null }))),
        ),
        Case::bad(
            "issuer twice",
            "duplicate field `iss`",
            claims_text(&format!(
                r#"{{"iss":"other","iss":"{ISSUER}","aud":"{SERVICE}","exp":{end}}}"#
            )),
        )
        .differs(),
        Case::bad(
            "other audience",
            "not for the service `registry.example`",
            root.token(&claims_with(json!({ "aud": "other" }))),
        ),
        Case::bad(
            "other audiences",
            "but for `a b`",
            root.token(&claims_with(json!({ "aud": ["a", "b"] }))),
        ),
        Case::bad(
            "no audience",
            "not for the service",
            root.token(&claims_with(json!({ "aud": null }))),
        ),
        Case::bad(
            "audience that is a number",
            "claims cannot be read",
            root.token(&claims_with(json!({ "aud": 1 }))),
        ),
        Case::bad(
            "expired",
            "it expired",
            root.token(&claims_with(json!({ "exp": now() - 100 }))),
        ),
        Case::bad(
            "never expires",
            "(`exp`)",
            root.token(&claims_with(json!({ "exp": null }))),
        ),
        Case::bad(
            "expired before time began",
            "expired",
            root.token(&claims_with(json!({ "exp": i64::MIN }))),
        ),
        Case::bad(
            "expires at a text",
            "not a number of seconds",
            root.token(&claims_with(json!({ "exp": end.to_string() }))),
        ),
        Case::bad(
            "not yet valid",
            "valid in",
            root.token(&claims_with(json!({ "nbf": now() + 100 }))),
        ),
        Case::bad(
            "valid at the end of time",
            "valid in",
            root.token(&claims_with(json!({ "nbf": i64::MAX - 100 }))),
        )
        .differs(),
        Case::bad(
            "issued in the future",
            "valid in",
            root.token(&claims_with(json!({ "iat": now() + 100 }))),
        )
        .differs(),
        Case::bad(
            "access that is no list",
            "claims cannot be read",
            accessing(json!({})),
        ),
        Case::bad(
            "access that is a text",
            "claims cannot be read",
            accessing(json!("*")),
        ),
        Case::bad(
            "access to numbers",
            "claims cannot be read",
            accessing(json!([1])),
        ),
        Case::bad(
            "actions that are a text",
            "claims cannot be read",
            accessing(json!([{ "type": "repository", "name": "a", "actions": "pull" }])),
        ),
        Case::bad(
            "actions that are numbers",
            "claims cannot be read",
            accessing(json!([{ "type": "repository", "name": "a", "actions": [1] }])),
        ),
        Case::bad(
            "a name that is a list",
            "claims cannot be read",
            accessing(json!([{ "type": "repository", "name": ["a"], "actions": [] }])),
        ),
    ]
}

#[test]
fn good_tokens_are_accepted_and_hostile_ones_refused_with_their_reason() {
    let world = World::new();
    let verifier = TokenVerifier::new(&world.options()).unwrap();
    let mut cases = good(&world);
    cases.extend(hostile(&world));
    let now = SystemTime::now();
    assert!(cases.len() > 90, "{}", cases.len());
    for case in cases {
        let result = verifier
            .verify(&case.token, now)
            .map_err(|error| error.to_string());
        match (case.refused, result) {
            (None, result) => assert!(result.is_ok(), "{}: {result:?}", case.what),
            (Some(reason), Err(error)) => {
                assert!(error.contains(reason), "{}: {error}", case.what);
                assert!(error.len() < 300, "{}: {error}", case.what);
            }
            (Some(_), Ok(claims)) => panic!("{} was accepted: {claims:?}", case.what),
        }
    }
}

#[test]
fn no_byte_of_a_token_can_be_changed_or_left_out() {
    let world = World::new();
    let verifier = TokenVerifier::new(&world.options()).unwrap();
    let now = SystemTime::now();
    let token = world.root.token(&claims());
    assert!(verifier.verify(&token, now).is_ok());
    for at in 0..token.len() {
        assert!(verifier.verify(&token[..at], now).is_err(), "cut at {at}");
        let other = if token.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        assert!(verifier.verify(&changed, now).is_err(), "changed at {at}");
    }
}

#[test]
fn only_the_algorithms_of_the_configuration_are_accepted() {
    let world = World::new();
    let options = world.options().with_algorithms([SigningAlgorithm::Rs256]);
    let verifier = TokenVerifier::new(&options).unwrap();
    let now = SystemTime::now();
    assert!(verifier.verify(&world.rsa.token(&claims()), now).is_ok());
    for (token, name) in [
        (world.root.token(&claims()), "ES256"),
        (world.rsa.with(Algorithm::PS256).token(&claims()), "PS256"),
    ] {
        let error = verifier.verify(&token, now).unwrap_err().to_string();
        assert!(
            error.contains(&format!("signed with {name} are not accepted")),
            "{error}"
        );
    }
}

#[test]
fn the_leeway_is_exact() {
    let world = World::new();
    let verifier = TokenVerifier::new(&world.options()).unwrap();
    let start = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_900_000_000);
    let at = |seconds: i64| match u64::try_from(seconds) {
        Ok(later) => start + std::time::Duration::from_secs(later),
        Err(_) => start - std::time::Duration::from_secs(seconds.unsigned_abs()),
    };
    let token = world.root.token(&claims_with(json!({
        "nbf": 1_900_000_000, "iat": 1_900_000_000, "exp": 1_900_000_300.5,
    })));
    for (seconds, accepted) in [
        (-61, false),
        (-60, true),
        (0, true),
        (360, true),
        (361, false),
    ] {
        let result = verifier.verify(&token, at(seconds));
        assert_eq!(result.is_ok(), accepted, "{seconds}: {result:?}");
    }
}
