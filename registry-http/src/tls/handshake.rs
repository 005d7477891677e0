//! The handshake: from a socket to a stream of plain bytes

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ClientCertificate, OverTls, Tls};
use crate::listener::Socket;

/// What clients that validate a name for ACME offer, and nothing beside it (RFC 8737)
const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

/// What is said to those who take this for a port without TLS, in the words of Go's server
const NOT_HTTPS: &str = "Client sent an HTTP request to an HTTPS server.\n";

/// How much of a request that is not answered is read, so that the client reads the refusal
/// before its system learns that the rest is refused too
const MAX_DISCARDED: u64 = 64 * 1024;

/// What a handshake led to
pub(crate) enum Handshake {
    /// A connection for HTTP
    Done(Box<TlsStream<Socket>>),
    /// All that was to be said has been: to a client without TLS, or to one that validates
    Over(&'static str),
}

impl Tls {
    /// Carries out the handshake; it takes as long as the client makes it take
    pub(crate) async fn accept(&self, mut socket: Socket, http2: bool) -> io::Result<Handshake> {
        // A handshake begins with 22, a request with the letter of a method.
        if socket.peek().await?.is_ascii_uppercase() {
            refuse_plain(socket).await?;
            return Ok(Handshake::Over("HTTP came where TLS is spoken"));
        }
        let start = LazyConfigAcceptor::new(Default::default(), socket).await?;
        if let Some(challenge) = &self.inner.options.challenge
            && start
                .client_hello()
                .alpn()
                .is_some_and(|mut protocols| protocols.all(|name| name == ACME_TLS_ALPN))
        {
            let mut stream = start.into_stream(challenge.clone()).await?;
            stream.shutdown().await?;
            return Ok(Handshake::Over("an ACME server validated a name"));
        }
        let stream = start.into_stream(self.config(http2)).await?;
        Ok(Handshake::Done(Box::new(stream)))
    }

    fn config(&self, http2: bool) -> Arc<ServerConfig> {
        let loaded = self.inner.loaded.load();
        match http2 {
            true => loaded.http2.clone(),
            false => loaded.http1.clone(),
        }
    }
}

/// Adds what TLS knows of a connection to the extensions of its requests
pub(crate) fn describe(stream: &TlsStream<Socket>, extensions: &mut http::Extensions) {
    extensions.insert(OverTls);
    let chain = stream.get_ref().1.peer_certificates();
    if let Some(certificate) = chain.and_then(|chain| ClientCertificate::new(chain.to_vec())) {
        extensions.insert(certificate);
    }
}

async fn refuse_plain(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let response = format!(
        "HTTP/1.0 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{NOT_HTTPS}",
        NOT_HTTPS.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(MAX_DISCARDED), &mut tokio::io::sink()).await?;
    Ok(())
}
