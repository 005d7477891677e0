//! How serving ends

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use registry_http::{ServeOptions, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Authority, Server, get1, get2, text, within};

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
    stream
        .write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    server.probe.asked().await;
    let stopped = server.begin_stop();
    refused(address).await;
    assert!(!stopped.is_finished());
    sender.send("all of it".into()).unwrap();
    drop(sender);
    let mut response = String::new();
    within(stream.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert!(response.contains("all of it"), "{response}");
    assert_eq!(within(stopped).await.unwrap().aborted, 0);
}

/// Type and payload of the next frame of HTTP/2 that asks for no acknowledgement
async fn frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    const ACK: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            SETTINGS | PING if head[4] & ACK != 0 => {}
            kind @ (SETTINGS | PING) => {
                let echoed = if kind == PING { &payload[..] } else { &[] };
                let head = [0, 0, echoed.len() as u8, kind, ACK, 0, 0, 0, 0];
                stream.write_all(&[&head, echoed].concat()).await.unwrap();
            }
            kind => return (kind, payload),
        }
    }
}

#[tokio::test]
async fn a_client_of_http2_is_told_to_go_away_and_its_transfer_finishes() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let server = Server::start(None, ServeOptions::default()).await;
    let sender = server.probe.long();
    let mut stream = server.connect().await;
    // `GET http://x/long`, with names and values from the static table of RFC 7541.
    let request = b"\x82\x86\x04\x05/long\x01\x01x";
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    sent.extend([0, 0, request.len() as u8, HEADERS, 0x05, 0, 0, 0, 1]);
    sent.extend(request);
    stream.write_all(&sent).await.unwrap();
    sender.send("the beginning".into()).unwrap();
    while within(frame(&mut stream)).await.0 != HEADERS {}
    let stopped = server.begin_stop();
    while within(frame(&mut stream)).await.0 != GOAWAY {}
    assert!(!stopped.is_finished());
    sender.send("all of it".into()).unwrap();
    drop(sender);
    // What came before it may come after GOAWAY, too.
    let mut body = Vec::new();
    while !body.ends_with(b"all of it") {
        match within(frame(&mut stream)).await {
            (DATA, payload) => body.extend(payload),
            (kind, _) => assert_eq!(kind, GOAWAY),
        }
    }
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
        if tls.is_some() {
            half.write_all(b"\x16").await.unwrap();
        }
        let mut transfers = Vec::new();
        for _ in 0..2 {
            let sender = server.probe.long();
            sender.send("a part".into()).unwrap();
            let stream = server.connect().await;
            let response = match tls {
                Some(_) => get2(authority.client().handshake(stream).await.unwrap(), "/long").await,
                None => get1(stream, "/long").await,
            };
            transfers.push((sender, response.unwrap()));
        }
        assert_eq!(server.stop().await.aborted, 2);
        for (_sender, response) in transfers {
            assert!(within(response.collect()).await.is_err());
        }
    }
}
