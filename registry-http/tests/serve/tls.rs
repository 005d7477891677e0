//! Connections over TLS

use std::time::{Duration, SystemTime};

use http_body_util::BodyExt;
use registry_http::tls::{ClientAuth, Reloaded, TlsVersion};
use registry_http::{Http2, ServeOptions, Tls, TlsOptions};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Authority, Server, get1, get2, text, within};

#[tokio::test]
async fn requests_are_answered_over_both_versions_of_http() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let server = Server::start(Some(tls), ServeOptions::default()).await;
    let client = authority.client();
    assert_eq!(client.ask(&server).await.unwrap(), "HTTP/2.0 tcp tls");
    for protocols in [&["http/1.1"][..], &[]] {
        let client = authority.client().protocols(protocols);
        assert_eq!(client.ask(&server).await.unwrap(), "HTTP/1.1 tcp tls");
    }
    let client = authority.client().protocols(&["spdy/1"]);
    assert!(client.ask(&server).await.is_err());
    // An authority of which the client does not know
    assert!(Authority::new().client().ask(&server).await.is_err());
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn http2_is_not_offered_where_it_is_off() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let options = ServeOptions::default().with_http2(Http2::Off);
    let server = Server::start(Some(tls.clone()), options).await;
    let client = authority.client();
    assert_eq!(client.ask(&server).await.unwrap(), "HTTP/1.1 tcp tls");
    let client = authority.client().protocols(&["h2"]);
    assert!(client.ask(&server).await.is_err());

    let options = ServeOptions::default().with_http2(Http2::OverTls);
    let server = Server::start(Some(tls), options.clone()).await;
    let client = authority.client();
    assert_eq!(client.ask(&server).await.unwrap(), "HTTP/2.0 tcp tls");
    let server = Server::start(None, options).await;
    assert!(get2(server.connect().await, "/").await.is_err());
    let response = get1(server.connect().await, "/").await.unwrap();
    assert_eq!(text(response).await, "HTTP/1.1 tcp");
    let server = Server::start(None, ServeOptions::default()).await;
    let response = get2(server.connect().await, "/").await.unwrap();
    assert_eq!(text(response).await, "HTTP/2.0 tcp");
}

#[tokio::test]
async fn certificates_of_clients_are_verified() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let start = async |auth| {
        let options = authority
            .options()
            .with_client_auth(auth, [authority.path("ca.pem")]);
        Server::start(Some(Tls::open(options).unwrap()), ServeOptions::default()).await
    };
    let anonymous = || authority.client();
    let known = || authority.client().identity(authority.issue("builder"));
    let unknown = || authority.client().identity(stranger.issue("builder"));

    let server = start(ClientAuth::None).await;
    assert_eq!(unknown().ask(&server).await.unwrap(), "HTTP/2.0 tcp tls");

    let server = start(ClientAuth::VerifyIfGiven).await;
    assert_eq!(anonymous().ask(&server).await.unwrap(), "HTTP/2.0 tcp tls");
    assert_eq!(
        known().ask(&server).await.unwrap(),
        "HTTP/2.0 tcp tls builder"
    );
    assert!(unknown().ask(&server).await.is_err());

    let server = start(ClientAuth::Require).await;
    assert!(anonymous().ask(&server).await.is_err());
    assert_eq!(
        known().ask(&server).await.unwrap(),
        "HTTP/2.0 tcp tls builder"
    );
    let known_over_12 = known().version(&TLS12);
    assert_eq!(
        known_over_12.ask(&server).await.unwrap(),
        "HTTP/2.0 tcp tls builder"
    );
    assert!(unknown().ask(&server).await.is_err());
}

#[tokio::test]
async fn old_versions_and_other_suites_are_refused() {
    let authority = Authority::new();
    let server = async |options: TlsOptions| {
        Server::start(Some(Tls::open(options).unwrap()), ServeOptions::default()).await
    };
    let old = || authority.client().version(&TLS12);
    let new = || authority.client().version(&TLS13);

    let either = server(authority.options()).await;
    assert!(old().ask(&either).await.is_ok());
    assert!(new().ask(&either).await.is_ok());

    let strict = authority.options().with_minimum_version(TlsVersion::Tls13);
    let strict = server(strict).await;
    assert!(old().ask(&strict).await.is_err());
    assert!(new().ask(&strict).await.is_ok());

    let suite = async |server: &Server, client: crate::support::Client| {
        let stream = client.handshake(server.connect().await).await.ok()?;
        stream.get_ref().1.negotiated_cipher_suite()
    };
    // The certificate has an ECDSA key.
    for (name, over_12, over_13) in [
        ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", true, true),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", false, true),
        ("TLS_CHACHA20_POLY1305_SHA256", false, true),
    ] {
        let chosen = [name.parse().unwrap()];
        let chosen = server(authority.options().with_cipher_suites(chosen)).await;
        let (old, new) = (suite(&chosen, old()).await, suite(&chosen, new()).await);
        assert_eq!((old.is_some(), new.is_some()), (over_12, over_13), "{name}");
        if let Some(spoken) = old {
            assert!(format!("{spoken:?}").contains("ECDSA_WITH_CHACHA20"));
        }
        if name.starts_with("TLS_CHACHA20") {
            assert!(format!("{:?}", new.unwrap()).contains("CHACHA20"));
        }
    }
}

#[tokio::test]
async fn a_reload_changes_new_connections_and_leaves_running_ones() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let server = Server::start(Some(tls.clone()), ServeOptions::default()).await;
    let leaf = async |client: crate::support::Client| {
        let stream = client.handshake(server.connect().await).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        chain[0].as_ref().to_vec()
    };
    let first = leaf(authority.client()).await;

    for protocol in ["h2", "http/1.1"] {
        let client = authority.client().protocols(&[protocol]);
        let sender = server.probe.long();
        sender.send("before ".into()).unwrap();
        let stream = client.handshake(server.connect().await).await.unwrap();
        let response = match protocol {
            "h2" => get2(stream, "/long").await,
            _ => get1(stream, "/long").await,
        };
        let mut body = response.unwrap().into_body();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "before ");

        let before = leaf(authority.client()).await;
        assert_eq!(tls.reload().unwrap(), Reloaded::Unchanged);
        assert_eq!(leaf(authority.client()).await, before);
        authority.install(&authority.issue("localhost"));
        assert_eq!(tls.reload().unwrap(), Reloaded::Changed);
        assert_ne!(leaf(authority.client()).await, before);

        sender.send("and after".into()).unwrap();
        drop(sender);
        let rest = within(body.collect()).await.unwrap().to_bytes();
        assert_eq!(rest, "and after");
    }
    assert_ne!(leaf(authority.client()).await, first);
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_certificate_in_force() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let server = Server::start(Some(tls.clone()), ServeOptions::default()).await;
    authority.write("tls.key", "");
    let error = tls.reload().unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the key file `{}` is empty; what was loaded before stays in force",
            authority.path("tls.key").display()
        )
    );
    assert!(authority.client().ask(&server).await.is_ok());

    authority.install(&authority.issue("localhost"));
    assert_eq!(tls.reload().unwrap(), Reloaded::Changed);
    assert!(authority.client().ask(&server).await.is_ok());
}

#[tokio::test]
async fn a_reload_takes_authorities_of_clients_away() {
    let authority = Authority::new();
    let clients = Authority::new();
    let options = authority
        .options()
        .with_client_auth(ClientAuth::Require, [clients.path("ca.pem")]);
    let tls = Tls::open(options).unwrap();
    assert_eq!(tls.files().count(), 3);
    let server = Server::start(Some(tls.clone()), ServeOptions::default()).await;
    let client = || authority.client().identity(clients.issue("builder"));
    assert!(client().ask(&server).await.is_ok());
    clients.write("ca.pem", &Authority::new().pem());
    assert_eq!(tls.reload().unwrap(), Reloaded::Changed);
    assert!(client().ask(&server).await.is_err());
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_served_with_a_warning() {
    let authority = Authority::new();
    let options = authority.options();
    authority.install(&authority.issue_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }));
    let tls = Tls::open(options).unwrap();
    let warning = |now| {
        let warnings = tls.warnings(now);
        let dates = warnings.iter().map(ToString::to_string);
        dates
            .filter(|text| !text.contains("mode"))
            .collect::<Vec<_>>()
    };
    let year = |year: u64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 365 * 86400 + 30 * 86400)
    };
    let path = authority.path("tls.crt");
    assert_eq!(
        warning(year(2003)),
        [format!(
            "the certificate in `{}` expired at 2002-01-01T00:00:00Z; clients refuse it",
            path.display()
        )]
    );
    assert!(warning(year(2000))[0].contains("is not valid before 2001-01-01T00:00:00Z"));
    assert_eq!(warning(year(2001)), [""; 0]);

    // The server says what it has; it is the client that refuses.
    let server = Server::start(Some(tls), ServeOptions::default()).await;
    let error = authority.client().ask(&server).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[tokio::test]
async fn plain_http_is_told_that_this_is_https() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let server = Server::start(Some(tls), ServeOptions::default()).await;
    for method in ["GET", "POST", "PRI"] {
        let mut stream = server.connect().await;
        // More than is read before the answer, so that closing it at once would break it off.
        let request = format!(
            "{method} /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n{}",
            "x".repeat(20_000)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut response = String::new();
        within(stream.read_to_string(&mut response)).await.unwrap();
        assert!(
            response.starts_with("HTTP/1.0 400 Bad Request\r\n"),
            "{response}"
        );
        assert!(
            response.ends_with("\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"),
            "{response}"
        );
    }
    assert!(authority.client().ask(&server).await.is_ok());
}

#[tokio::test]
async fn garbage_and_silence_keep_nobody_waiting() {
    let authority = Authority::new();
    let tls = Tls::open(authority.options()).unwrap();
    let options = ServeOptions::default().with_handshake_timeout(Duration::from_millis(500));
    let server = Server::start(Some(tls), options).await;
    let mut open = Vec::new();
    for sent in [
        &b""[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"\x00\xff\x80garbage",
        b"GET /",
    ] {
        let mut stream = server.connect().await;
        stream.write_all(sent).await.unwrap();
        open.push(stream);
    }
    // None of them is in the way of others.
    assert!(authority.client().ask(&server).await.is_ok());
    for mut stream in open {
        let mut rest = Vec::new();
        // An error when the other end closes with bytes unread
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
    assert!(authority.client().ask(&server).await.is_ok());
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn a_challenge_is_answered_with_its_own_certificate_and_nothing_else() {
    let authority = Authority::new();
    let ordinary = authority.options();
    let challenge = {
        let issued = authority.issue("localhost");
        let mut config = rustls::ServerConfig::builder_with_provider(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain(), issued.private_key())
        .unwrap();
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        (config, issued.chain())
    };
    let validator = || authority.client().protocols(&["acme-tls/1"]);

    let tls = Tls::open(ordinary.clone()).unwrap();
    let server = Server::start(Some(tls), ServeOptions::default()).await;
    assert!(validator().handshake(server.connect().await).await.is_err());

    // An ACME server has no certificate of ours to show.
    let options = ordinary
        .with_client_auth(ClientAuth::Require, [authority.path("ca.pem")])
        .with_challenge(challenge.0.into());
    let tls = Tls::open(options).unwrap();
    let server = Server::start(Some(tls), ServeOptions::default()).await;
    let mut stream = validator().handshake(server.connect().await).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap(), challenge.1);
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    let both = authority.client().protocols(&["acme-tls/1", "http/1.1"]);
    assert!(both.ask(&server).await.is_err());
}
