//! Delivery over TLS, to those who are trusted alone

use std::sync::Arc;
use std::time::Duration;

use registry_http::{EventSink, NotifierOptions};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::receiver::serve_on;
use crate::{endpoint, event, notifier, until};

fn trusting(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn events_go_to_a_receiver_with_a_certificate_that_is_trusted() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}/x",
        listener.local_addr().unwrap().port()
    );
    let acceptor = TlsAcceptor::from(Arc::new(server));

    let strict = NotifierOptions::default().with_tls(trusting(RootCertStore::empty()));
    let strict = notifier(strict, vec![endpoint("a", &url)]).await;
    strict.record(vec![event(0)]).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    assert!(acceptor.accept(stream).await.is_err(), "nobody is trusted");
    until("it is counted", || strict.stats().endpoints[0].errors > 0).await;
    strict.close(Duration::ZERO).await;

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let options = NotifierOptions::default().with_tls(trusting(roots));
    let trusting = notifier(options, vec![endpoint("a", &url)]).await;
    trusting.record(vec![event(1)]).await.unwrap();
    let posts = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // What the first notifier tried at the end may come here too.
            if let Ok(stream) = acceptor.accept(stream).await {
                return serve_on(stream).await;
            }
        }
    });
    until("it is taken", || {
        trusting.stats().endpoints[0].successes == 1
    })
    .await;
    trusting.close(Duration::ZERO).await;
    drop(trusting);
    let posts = posts.await.unwrap();
    assert_eq!(posts[0].events[0].id, "1");
}
