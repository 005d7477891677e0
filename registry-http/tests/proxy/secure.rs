//! TLS and HTTP/2 on both sides of the proxy, and uploads that outlive a token

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use registry_auth::{AllowAll, Anyone, AuthenticateError, Credentials, Principal};
use registry_http::{
    AccessControl, Listener, ProxyService, RegistryService, ServeOptions, SessionSecret, Tls,
    TlsOptions, Upstream, UpstreamOptions, serve,
};
use registry_storage::{Memory, Store};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Request, in_time};
use crate::content::Blob;
use crate::login::{Login, Rules, bearer_challenge};
use crate::support::{Proxy, Seen, options, registry};

/// A registry over TLS, for whoever trusts its authority, and the client's side of that trust
async fn registry_over_tls() -> (SocketAddr, Arc<Seen>, ClientConfig) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(path("tls.key"), key.serialize_pem()).unwrap();
    let tls = Tls::open(TlsOptions::files(path("tls.crt"), path("tls.key"))).unwrap();

    let seen = Arc::new(Seen::default());
    let store = Store::new(Arc::new(Memory::new()));
    let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
        .observer(seen.clone())
        .build();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = Listener::from(tcp).with_tls(tls);
    let options = ServeOptions::default();
    tokio::spawn(serve(listener, service, options, std::future::pending()));

    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let trust = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (address, seen, trust)
}

fn patient(url: String) -> UpstreamOptions {
    UpstreamOptions::new(url).with_connect_timeout(Duration::from_secs(5))
}

#[tokio::test]
async fn an_upstream_is_trusted_by_the_authority_that_is_named() {
    let (address, seen, trust) = registry_over_tls().await;
    let url = format!("https://localhost:{}", address.port());
    let proxy = Proxy::start(patient(url.clone()).with_tls(trust.clone())).await;
    let layer = Blob::new(vec![7; 3 << 20]);
    let (digest, bytes) = proxy.push_image("app", "v1", &layer).await;
    let pulled = proxy.ask("GET", format!("/v2/app/manifests/{digest}"));
    assert_eq!(pulled.send().await.expect(200).body, bytes);
    let pulled = proxy.ask("GET", format!("/v2/app/blobs/{}", layer.digest));
    assert_eq!(pulled.send().await.expect(200).body, layer.bytes);
    // Both sides know HTTP/2, and so that is what they speak.
    let versions = seen.versions();
    assert!(
        versions.iter().all(|version| *version == Version::HTTP_2),
        "{versions:?}"
    );

    // Not by others, nor under another name.
    let nobody = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let by_address = format!("https://127.0.0.1:{}", address.port());
    for options in [
        patient(url).with_tls(nobody),
        patient(by_address).with_tls(trust),
    ] {
        let proxy = Proxy::start(options).await;
        let refused = proxy.ask("GET", "/v2/app/tags/list").send().await;
        refused.refused(502, "UNAVAILABLE");
    }
    assert_eq!(seen.take(), [""; 0]);
}

#[tokio::test]
async fn clients_of_http_2_push_and_pull() {
    let (upstream, _) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let ask = async |method: &str, target: &str, body: Vec<u8>| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://registry.test{target}"))
            .header("Authorization", crate::login::basic("ada", "love:lace"))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = in_time(send.clone().send_request(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        assert_eq!(parts.version, Version::HTTP_2);
        let bytes = in_time(body.collect()).await.unwrap().to_bytes();
        (parts, bytes)
    };
    let blob = Blob::new(vec![9; 2 << 20]);
    let (begun, _) = ask("POST", "/v2/app/blobs/uploads/", Vec::new()).await;
    assert_eq!(begun.status, 202);
    let location = begun.headers["location"].to_str().unwrap();
    let (sent, _) = ask("PATCH", location, blob.bytes.clone()).await;
    assert_eq!(sent.status, 202);
    let location = sent.headers["location"].to_str().unwrap();
    let separator = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{separator}digest={}", blob.digest);
    assert_eq!(ask("PUT", &target, Vec::new()).await.0.status, 201);
    let (_, bytes) = ask("GET", &format!("/v2/app/blobs/{}", blob.digest), Vec::new()).await;
    assert_eq!(bytes, blob.bytes);
}

#[tokio::test]
async fn an_upload_goes_on_when_its_token_has_expired() {
    let (upstream, _) = registry().await;
    let login = Login::new(bearer_challenge, |credentials| match credentials {
        Credentials::Bearer(token) => match token.expose() {
            "good" => Ok(Principal::user("ada")),
            "expired" => Err(AuthenticateError::Expired {
                principal: Principal::user("ada"),
            }),
            "bob" => Ok(Principal::user("bob")),
            "bob's expired" => Err(AuthenticateError::Expired {
                principal: Principal::user("bob"),
            }),
            _ => Err(AuthenticateError::Rejected),
        },
        _ => Ok(Principal::Anonymous),
    });
    let rules = Rules(|principal, _| principal.name() == Some("ada"));
    let secret = SessionSecret::new("correct horse battery staple").unwrap();
    let access = AccessControl::new(Arc::new(login), Arc::new(rules))
        .with_session_secret(secret, Duration::from_secs(3600));
    let service = ProxyService::builder(Upstream::new(options(upstream)).unwrap(), access);
    let address = crate::support::listen(service.build()).await;
    let ask = |token: &str, method: &str, target: &str| {
        Request::new(address, method, target.to_owned())
            .header("Authorization", format!("Bearer {token}"))
    };

    let begun = ask("good", "POST", "/v2/app/blobs/uploads/").body("");
    let location = begun.send().await.expect(202).location();
    assert!(location.contains("_session="), "{location}");
    let sent = ask("expired", "PATCH", &location).body("hello ");
    let location = sent.send().await.expect(202).location();
    assert!(location.contains("_session="), "{location}");

    // Not without the seal, nor by others, nor for another upload.
    let bare = location.split('?').next().unwrap();
    for (token, target, status) in [
        ("expired", bare, 401),
        ("bob", &*location, 403),
        ("bob's expired", &location, 401),
        ("nobody", &location, 401),
        ("expired", &location.replace("/v2/app/", "/v2/other/"), 401),
    ] {
        let refused = ask(token, "PATCH", target).body("x").send().await;
        assert_eq!(refused.status, status, "{token} {target}");
    }
    // A chunk out of order: where the session stands, and the seal with which it goes on.
    let wrong = ask("expired", "PATCH", &location).header("Content-Range", "100-104");
    let wrong = wrong.body("world").send().await.expect(416);
    let last = format!("{location}&digest={}", Blob::new("hello world").digest);
    let last = ask("expired", "PUT", &last).header("Content-Range", "100-104");
    let last = last.body("world").send().await.expect(416);
    assert!(last.location().contains("_session="), "{last:?}");
    let location = wrong.location();
    assert!(location.contains("_session="), "{location}");
    assert_eq!(wrong.header("Content-Type"), "application/json");
    assert_eq!(wrong.all("Content-Type").len(), 1);
    let blob = Blob::new("hello world");
    let target = format!("{location}&digest={}", blob.digest);
    let done = ask("expired", "PUT", &target).body("world");
    done.send().await.expect(201);
    // What it was all for still takes a good token.
    let target = format!("/v2/app/blobs/{}", blob.digest);
    assert_eq!(ask("expired", "GET", &target).send().await.status, 401);
    let pulled = ask("good", "GET", &target).send().await.expect(200);
    assert_eq!(pulled.body, blob.bytes);
}
