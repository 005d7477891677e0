//! What a bearer token costs: the first request with it, and every later one

use std::fs;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, KeyPair};
use registry_auth::token::{AccessEntry, Claims, ResourceActions, Scope, TokenVerifier};
use registry_auth::{
    Authenticator, Credentials, Granted, Password, Policy, TokenAuthenticator, TokenOptions,
};

fn tokens(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.pem");
    let pair = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&pair).unwrap();
    fs::write(&bundle, certificate.pem()).unwrap();
    let options = TokenOptions::new("https://auth.example/token", "registry", "auth")
        .with_root_certificates(&bundle);

    let now = SystemTime::now();
    let later = now + Duration::from_secs(60 * 60);
    let expires = later.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let scope: ResourceActions = "repository:team/app:pull,push".parse().unwrap();
    let claims = Claims {
        issuer: "auth".to_owned(),
        subject: "ada".to_owned(),
        audience: vec!["registry".to_owned()],
        expires: Some(expires.as_secs() as i64),
        access: vec![AccessEntry::from(&scope)],
        ..Claims::default()
    };
    let key = EncodingKey::from_ec_der(pair.serialized_der());
    let sign = |id: &str| {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(id.to_owned());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let public = jsonwebtoken::DecodingKey::from_ec_der(pair.public_key_raw());
    let id = jsonwebtoken::jwk::Jwk::from_decoding_key(&public, None)
        .and_then(|jwk| jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256))
        .unwrap();
    let token = sign(&id);
    let unknown = sign("unknown");

    let verifier = TokenVerifier::new(&options).unwrap();
    verifier.verify(&token, now).unwrap();
    let mut group = c.benchmark_group("token");
    group.bench_function("verify ES256", |b| {
        b.iter(|| verifier.verify(black_box(&token), now));
    });
    group.bench_function("refuse an unknown key", |b| {
        b.iter(|| verifier.verify(black_box(&unknown), now).is_err());
    });

    let authenticator = TokenAuthenticator::new(options).unwrap();
    let credentials = Credentials::Bearer(Password::new(token));
    let login = |credentials| authenticator.authenticate(credentials).now_or_never();
    let principal = login(&credentials).unwrap().unwrap();
    group.bench_function("authenticate again", |b| {
        b.iter(|| login(black_box(&credentials)));
    });
    let access = registry_core::route("GET", "/v2/team/app/tags/list", None)
        .unwrap()
        .access();
    assert!(Granted.decide(&principal, &access[0]).is_allow());
    group.bench_function("decide", |b| {
        b.iter(|| Granted.decide(black_box(&principal), black_box(&access[0])));
    });
    group.bench_function("parse a scope", |b| {
        b.iter(|| black_box("repository:team/app:pull,push").parse::<Scope>());
    });
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
