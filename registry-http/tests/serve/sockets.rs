//! Unix sockets, and how many connections there are

use std::time::Duration;

use registry_http::{Listener, ServeOptions, Tls, serve};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::support::{Authority, Probe, Server, get1, get2, text, within};

#[tokio::test]
async fn a_unix_socket_is_served_and_removed() {
    let authority = Authority::new();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("registry.sock");
    for tls in [None, Some(Tls::open(authority.options()).unwrap())] {
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = Listener::unix(&path).unwrap();
        let listener = match tls.clone() {
            Some(tls) => listener.with_tls(tls),
            None => listener,
        };
        let task = tokio::spawn(serve(
            listener,
            Probe::default(),
            ServeOptions::default(),
            async { stopped.await.unwrap_or_default() },
        ));
        let stream = UnixStream::connect(&path).await.unwrap();
        if tls.is_some() {
            let stream = authority.client().handshake(stream).await.unwrap();
            let response = get2(stream, "/").await.unwrap();
            assert_eq!(text(response).await, "HTTP/2.0 unix tls");
        } else {
            let response = get1(stream, "/").await.unwrap();
            assert_eq!(text(response).await, "HTTP/1.1 unix");
        }
        stop.send(()).unwrap();
        assert_eq!(within(task).await.unwrap().aborted, 0);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let server = Server::start(None, ServeOptions::default().with_max_connections(2)).await;
    let first = server.connect().await;
    let second = server.connect().await;
    // The system takes it, the server does not yet.
    let third = server.connect().await;
    let asked = tokio::spawn(get1(third, "/"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished());
    drop(first);
    let response = within(asked).await.unwrap().unwrap();
    assert_eq!(text(response).await, "HTTP/1.1 tcp");
    drop(second);
}

#[tokio::test]
async fn a_full_server_stops_when_it_is_told_to() {
    let server = Server::start(None, ServeOptions::default().with_max_connections(1)).await;
    let mut only = server.connect().await;
    // Whoever is waiting finds the door closed.
    let mut waiting = server.connect().await;
    assert_eq!(server.stop().await.aborted, 0);
    let mut rest = Vec::new();
    within(only.read_to_end(&mut rest)).await.unwrap();
    let _ = within(waiting.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}
