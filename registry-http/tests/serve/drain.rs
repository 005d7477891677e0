//! How serving ends

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use registry_http::{ServeOptions, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Authority, Server, client2, get1, get2, request2, text, within};

async fn refused(address: std::net::SocketAddr) {
    within(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn new_connections_are_served_until_the_delay_is_over() {
    let delay = Duration::from_millis(500);
    let server = Server::start(None, ServeOptions::default().with_drain_delay(delay)).await;
    let address = server.address;
    let began = Instant::now();
    let stopped = server.begin_stop();
    let stream = TcpStream::connect(address).await.unwrap();
    let response = get1(stream, "/").await.unwrap();
    assert_eq!(text(response).await, "HTTP/1.1 tcp");
    assert_eq!(within(stopped).await.unwrap().aborted, 0);
    assert!(began.elapsed() >= delay);
    refused(address).await;
}

#[tokio::test]
async fn a_response_of_http1_says_that_the_connection_closes() {
    let server = Server::start(None, ServeOptions::default()).await;
    let address = server.address;
    let mut stream = server.connect().await;
    let sender = server.probe.long();
    // Its second half comes when the server is stopping.
    stream.write_all(b"GET /long HTTP/1.1\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopped = server.begin_stop();
    refused(address).await;
    stream.write_all(b"host: x\r\n\r\n").await.unwrap();
    sender.send("all of it".into()).unwrap();
    drop(sender);
    let mut response = String::new();
    within(stream.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert!(response.contains("all of it"), "{response}");
    assert_eq!(within(stopped).await.unwrap().aborted, 0);
}

#[tokio::test]
async fn a_client_of_http2_is_told_to_go_away_and_its_transfer_finishes() {
    let server = Server::start(None, ServeOptions::default()).await;
    let sender = server.probe.long();
    let mut client = client2(server.connect().await).await.unwrap();
    let response = within(client.send_request(request2("/long"))).await;
    let body = response.unwrap().into_body();
    let stopped = server.begin_stop();
    // GOAWAY is what makes a client take no new requests while a stream is open.
    within(async {
        while client.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!stopped.is_finished());
    sender.send("all of it".into()).unwrap();
    drop(sender);
    let body = within(body.collect()).await.unwrap().to_bytes();
    assert_eq!(body, "all of it");
    assert_eq!(within(stopped).await.unwrap().aborted, 0);
}

#[tokio::test]
async fn transfers_that_take_too_long_are_cut_and_counted() {
    let authority = Authority::new();
    for tls in [None, Some(Tls::open(authority.options()).unwrap())] {
        let options = ServeOptions::default().with_drain_timeout(Duration::from_millis(200));
        let server = Server::start(tls.clone(), options).await;
        // One that has nothing to do does not count, nor one in the middle of a handshake.
        let _idle = server.connect().await;
        let mut half = server.connect().await;
        half.write_all(b"\x16").await.unwrap();
        let mut transfers = Vec::new();
        for _ in 0..2 {
            let sender = server.probe.long();
            let stream = server.connect().await;
            let response = match tls {
                Some(_) => get2(authority.client().handshake(stream).await.unwrap(), "/long").await,
                None => get1(stream, "/long").await,
            };
            sender.send("a part".into()).unwrap();
            transfers.push((sender, response.unwrap()));
        }
        assert_eq!(
            server.stop().await.aborted,
            match tls {
                Some(_) => 2,
                // In clear text that byte is the beginning of a request.
                None => 3,
            }
        );
        for (_sender, response) in transfers {
            assert!(within(response.collect()).await.is_err());
        }
    }
}
