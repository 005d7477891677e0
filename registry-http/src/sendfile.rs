//! Files that the kernel sends by itself
//!
//! A body can only be made of bytes, and hyper writes them. So the body of a response, once
//! [`ResponseBody::send_files`](crate::ResponseBody) has been called, notes in [`Files`] which part
//! of which file is next, and gives hyper as many bytes of [`NOTHING`] instead. Where those would be
//! written, the [`Sender`] has the kernel send the file, and says that it is done.
//!
//! Right only where nothing between the two looks at the bytes: not over TLS, not over HTTP/2, and
//! not in a response that has passed through somebody else's hands. Should somebody copy them all the
//! same, the connection breaks before a wrong byte goes out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use registry_storage::FilePiece;
use rustix::fs::sendfile;
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listener::Socket;

/// Bytes that are never read: where they are in memory says that a file is to be sent instead
static NOTHING: [u8; 1024 * 1024] = [0; 1024 * 1024];

/// Says of a request that the body of its response may send files
#[derive(Clone, Copy)]
pub(crate) struct TakesFiles;

/// What of which files is sent next over a connection
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<VecDeque<FilePiece>>);

impl Files {
    /// Sends the first bytes of `piece` next, and gives what stands for them
    ///
    /// What is left of the piece is for another call.
    pub(crate) fn push(&self, piece: &mut FilePiece) -> Bytes {
        let first = piece.split_to(NOTHING.len());
        let stands_for_it = Bytes::from_static(&NOTHING[..first.len()]);
        self.lock().push_back(first);
        stands_for_it
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<FilePiece>> {
        // What is guarded is nothing that a panic could leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends up to `length` bytes of the first piece
    fn send(
        &self,
        socket: &Socket,
        cx: &mut Context<'_>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let mut pieces = self.lock();
        let Some(piece) = pieces.front_mut() else {
            // Content that nobody noted would be sent as zeros.
            return Poll::Ready(Err(io::Error::other("there is no file to send")));
        };
        let sent = socket.poll_write_with(cx, |socket| {
            let mut offset = piece.offset();
            sendfile(socket, &*piece, Some(&mut offset), length.min(piece.len()))
        });
        if let Poll::Ready(Ok(sent)) = sent {
            if sent == 0 {
                let text = format!(
                    "a file ends {} bytes before what was to be sent of it",
                    piece.len()
                );
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
            drop(piece.split_to(sent));
            if piece.is_empty() {
                pieces.pop_front();
            }
        }
        sent
    }
}

/// Whether these are bytes of [`NOTHING`]
fn is_nothing(bytes: &[u8]) -> bool {
    NOTHING.as_ptr_range().contains(&bytes.as_ptr())
}

/// A connection that sends files where their bytes would be written
pub(crate) struct Sender {
    socket: Socket,
    files: Arc<Files>,
}

impl Sender {
    pub(crate) fn new(socket: Socket, files: Arc<Files>) -> Self {
        Self { socket, files }
    }
}

impl AsyncRead for Sender {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sender {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut slices = slices;
        while let [first, rest @ ..] = slices
            && first.is_empty()
        {
            slices = rest;
        }
        let bytes = slices.iter().take_while(|slice| !is_nothing(slice)).count();
        match (bytes, slices) {
            (0, [nothing, ..]) => self.files.send(&self.socket, cx, nothing.len()),
            // A head goes out together with the beginning of the file.
            (1, [head, _, ..]) => self.socket.poll_write_with(cx, |socket| {
                send(socket, head, SendFlags::MORE | SendFlags::NOSIGNAL)
            }),
            (_, slices) if bytes == slices.len() && !self.files.lock().is_empty() => {
                let text = "what stands for a file was copied";
                Poll::Ready(Err(io::Error::other(text)))
            }
            (_, slices) => Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..bytes]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        // Or else hyper gathers all slices in a buffer of its own.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::listener::Listener;

    async fn connected() -> (Sender, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::from(listener);
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, _) = accepted.unwrap();
        (Sender::new(socket, Arc::default()), client.unwrap())
    }

    fn file(content: &[u8]) -> Arc<std::fs::File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_file_goes_where_its_placeholder_is() {
        let (mut sender, mut client) = connected().await;
        let content: Vec<u8> = (0..3_000_000_u32)
            .map(|number| (number / 7) as u8)
            .collect();
        let mut piece = FilePiece::new(file(&content), 10, content.len() - 10);
        let sending = tokio::spawn(async move {
            sender.write_all(b"head").await.unwrap();
            while !piece.is_empty() {
                let nothing = sender.files.push(&mut piece);
                assert!(nothing.len() <= NOTHING.len());
                let mut nothing = &nothing[..];
                let head: &[u8] = b"more";
                let mut written = 0;
                while written < head.len() {
                    let slices = [IoSlice::new(&head[written..]), IoSlice::new(nothing)];
                    written += sender.write_vectored(&slices).await.unwrap();
                }
                while !nothing.is_empty() {
                    nothing = &nothing[sender.write(nothing).await.unwrap()..];
                }
            }
            assert!(sender.files.lock().is_empty());
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        let mut wanted = b"head".to_vec();
        for part in content[10..].chunks(NOTHING.len()) {
            wanted.extend(b"more");
            wanted.extend(part);
        }
        assert!(got == wanted);
    }

    #[tokio::test]
    async fn what_stands_for_a_file_is_never_sent_itself() {
        let (mut sender, mut client) = connected().await;
        // Nobody has noted a file.
        let error = sender.write(&NOTHING[..100]).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no file to send");
        // Somebody has copied what was to be passed on.
        let mut piece = FilePiece::new(file(b"hello"), 0, 5);
        let copied = sender.files.push(&mut piece).to_vec();
        let error = sender.write(&copied).await.unwrap_err();
        assert_eq!(error.to_string(), "what stands for a file was copied");
        drop(sender);
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_file_that_has_become_shorter_is_an_error() {
        let (mut sender, _client) = connected().await;
        let file = file(b"hello");
        let mut piece = FilePiece::new(file.clone(), 2, 3);
        let nothing = sender.files.push(&mut piece);
        file.set_len(2).unwrap();
        let error = sender.write(&nothing).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("3 bytes before"), "{error}");
    }
}
