//! A client for HTTP/2

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpStream;

use super::in_time;

/// A connection that speaks HTTP/2 from its first byte
pub(crate) struct Http2 {
    sender: http2::SendRequest<BoxBody<Bytes, Infallible>>,
}

impl Http2 {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = in_time(TcpStream::connect(address)).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub(crate) async fn send<B>(&mut self, request: Request<B>) -> (StatusCode, HeaderMap, Bytes)
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static,
    {
        let request = request.map(BodyExt::boxed);
        in_time(async {
            let response = self.sender.send_request(request).await.unwrap();
            assert_eq!(response.version(), http::Version::HTTP_2);
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status, parts.headers, body)
        })
        .await
    }
}
