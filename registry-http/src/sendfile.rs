//! Files that the kernel sends by itself
//!
//! A body can only be made of bytes, and hyper writes them. So the body of a response, once
//! `ResponseBody::send_files` has been called, notes in [`Files`] which part of which file is next,
//! and gives hyper as many bytes of [`NOTHING`] instead. Where those would be written, the
//! [`Sender`] has the kernel send the file, and says that it is done.
//!
//! Right only where nothing between the two looks at the bytes: not over TLS, not over HTTP/2, and
//! not in a response that has passed through somebody else's hands. Should somebody copy them all the
//! same, the connection breaks before a wrong byte goes out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use registry_storage::FilePiece;
use rustix::fs::sendfile;
use rustix::io::{Errno, pread};
use rustix::net::{SendFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::Span;

use crate::listener::Socket;

/// How many bytes can be stood for at a time
const MOST: usize = 1024 * 1024;

/// How many bytes are copied at a time where the kernel does not
const COPIED: usize = 64 * 1024;

/// Bytes that are never read: where they are in memory says that a file is to be sent instead
///
/// As nobody reads them, the system never gives them memory.
static NOTHING: LazyLock<&[u8]> = LazyLock::new(|| Box::leak(vec![0; MOST].into_boxed_slice()));

/// Says of a request that the body of its response may send files
#[derive(Clone, Copy)]
pub(crate) struct TakesFiles;

/// What of which files is sent next over a connection
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// With what they belong to, in the order in which they are sent
    pieces: VecDeque<(FilePiece, Span)>,
    /// How many bytes they have together
    length: usize,
}

impl Files {
    /// Sends the first bytes of `piece` next, and gives what stands for them
    ///
    /// What is left of the piece is for another call.
    pub(crate) fn push(&self, piece: &mut FilePiece) -> Bytes {
        let first = piece.split_to(MOST);
        let stands_for_it = Bytes::from_static(&NOTHING[..first.len()]);
        let mut noted = self.lock();
        noted.length += first.len();
        noted.pieces.push_back((first, Span::current()));
        stands_for_it
    }

    /// How many bytes are to be sent from files
    #[cfg(test)]
    pub(crate) fn length(&self) -> usize {
        self.lock().length
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        // What is guarded is nothing that a panic could leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all that is noted is stood for in `slices`, and nothing else
    ///
    /// What hyper has to write it shows all at once. If it did not, or if somebody had copied what
    /// was to be passed on, a client would get wrong bytes.
    fn check(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let shown = slices.iter().filter(|slice| is_nothing(slice));
        let shown: usize = shown.map(|slice| slice.len()).sum();
        let noted = self.lock().length;
        if shown == noted {
            return Ok(());
        }
        let text = format!("{noted} bytes are to be sent from files, {shown} are stood for");
        tracing::error!("a connection is broken off: {text}");
        Err(io::Error::other(text))
    }

    /// Sends some of the first piece, and at most `most` bytes
    fn send(&self, socket: &Socket, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let mut noted = self.lock();
        let Some((piece, span)) = noted.pieces.front_mut() else {
            return Poll::Ready(Ok(0));
        };
        let length = piece.len().min(most);
        let sent =
            match ready!(socket.poll_write_with(cx, |socket| send_from(socket, piece, length))) {
                Ok(0) => {
                    let text = format!(
                        "expected {} bytes of a file from {} on, it has become shorter",
                        piece.len(),
                        piece.offset()
                    );
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
                }
                sent => sent,
            };
        match &sent {
            Ok(sent) => {
                drop(piece.split_to(*sent));
                if piece.is_empty() {
                    noted.pieces.pop_front();
                }
                noted.length -= sent;
            }
            Err(error) if is_of_the_client(error) => {}
            Err(error) => span.in_scope(|| {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "content cannot be sent to its end, the client sees a broken connection",
                );
            }),
        }
        Poll::Ready(sent)
    }
}

/// Has the kernel send the first `length` bytes of a piece, and says how many it took
fn send_from(
    socket: BorrowedFd<'_>,
    piece: &FilePiece,
    length: usize,
) -> rustix::io::Result<usize> {
    let mut offset = piece.offset();
    match sendfile(socket, piece, Some(&mut offset), length) {
        // Not of this file system, or not in this sandbox.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let mut buffer = vec![0; length.min(COPIED)];
            let read = pread(piece, &mut buffer[..], piece.offset())?;
            send(socket, &buffer[..read], SendFlags::NOSIGNAL)
        }
        sent => sent,
    }
}

/// Whether it was the client who ended the connection
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
    )
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
        self.files.check(slices)?;
        let bytes = slices.iter().take_while(|slice| !is_nothing(slice)).count();
        match (bytes, slices) {
            (0, [nothing, ..]) => self.files.send(&self.socket, cx, nothing.len()),
            // A head goes out together with the beginning of the file.
            (1, [head, _, ..]) => self.socket.poll_write_with(cx, |socket| {
                send(socket, head, SendFlags::MORE | SendFlags::NOSIGNAL)
            }),
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
                assert!(is_nothing(&nothing) && nothing.len() <= MOST);
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
            assert_eq!(sender.files.length(), 0);
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        let mut wanted = b"head".to_vec();
        for part in content[10..].chunks(MOST) {
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
        let text = error.to_string();
        assert_eq!(text, "0 bytes are to be sent from files, 100 are stood for");
        // Somebody has copied what was to be passed on, all of it or the first part.
        let file = file(b"hello");
        let mut piece = FilePiece::new(file.clone(), 0, 5);
        let copied = sender.files.push(&mut piece).to_vec();
        let error = sender.write(&copied).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(text, "5 bytes are to be sent from files, 0 are stood for");
        let nothing = sender.files.push(&mut FilePiece::new(file, 0, 5));
        let slices = [IoSlice::new(&copied), IoSlice::new(&nothing)];
        let error = sender.write_vectored(&slices).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(text, "10 bytes are to be sent from files, 5 are stood for");
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
        assert!(
            error.to_string().contains("3 bytes of a file from 2"),
            "{error}"
        );
    }
}
