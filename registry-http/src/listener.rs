//! Where connections come from: TCP ports and Unix sockets, in clear text or over TLS

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::tls::Tls;

/// Where a request came from
///
/// [`serve`](crate::serve) adds it to the extensions of each request that came over TCP; other
/// servers do well to do the same, or the access log has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteAddr(pub SocketAddr);

/// Says that a request came over a Unix socket
///
/// [`serve`](crate::serve) adds it to the extensions of each such request, in place of
/// [`RemoteAddr`]. Who can open the socket is on this machine and was let in by its file mode,
/// so it is trusted as a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixPeer;

/// A socket that is listened on, and whether TLS is spoken there
///
/// A [`TcpListener`] becomes one by itself.
///
/// # Examples
///
/// ```
/// use registry_http::Listener;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("registry.sock");
/// let listener = Listener::unix(&path).unwrap();
/// assert!(path.exists());
///
/// // Somebody listens there already.
/// assert!(Listener::unix(&path).is_err());
///
/// drop(listener);
/// assert!(!path.exists());
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    source: Source,
    pub(crate) tls: Option<Tls>,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Unix {
        // Goes first: while the socket is open, no other file has its inode.
        _file: SocketFile,
        listener: UnixListener,
    },
}

impl Listener {
    /// Listens on a Unix socket at `path`
    ///
    /// A socket that an earlier process left there, on which nobody listens, is replaced;
    /// anything else in the way is left alone. The file is removed when the listener is
    /// dropped. Who may connect is decided by the modes of the file and its folder: the umask
    /// of the process applies.
    ///
    /// # Errors
    ///
    /// [`UnixSocketError`] when something else is at `path`, another process listens there, or
    /// the socket cannot be made.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, UnixSocketError> {
        let path = path.into();
        remove_stale(&path)?;
        let bind = |source| UnixSocketError::Bind {
            path: path.clone(),
            source,
        };
        let listener = UnixListener::bind(&path).map_err(bind)?;
        let identity = identity(&path).map_err(bind)?;
        Ok(Self {
            source: Source::Unix {
                _file: SocketFile { path, identity },
                listener,
            },
            tls: None,
        })
    }

    /// Speaks TLS on this socket
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The next connection
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        Ok(match &self.source {
            Source::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let peer = Peer::Tcp(address);
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "small responses may be delayed");
                }
                (Socket::new(Stream::Tcp(stream)), peer)
            }
            Source::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                (Socket::new(Stream::Unix(stream)), Peer::Unix)
            }
        })
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self {
            source: Source::Tcp(listener),
            tls: None,
        }
    }
}

/// Why a Unix socket cannot be listened on
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixSocketError {
    /// The system refused
    #[error("cannot listen on the Unix socket `{}`: {source}", path.display())]
    Bind {
        /// Where the socket was to be
        path: PathBuf,
        /// What the system said
        source: io::Error,
    },
    /// Another process listens there
    #[error(
        "another process listens on the Unix socket `{}`; stop it, or choose another path",
        path.display()
    )]
    InUse {
        /// Where the socket is
        path: PathBuf,
    },
    /// Something that is not a socket is there
    #[error(
        "expected a Unix socket or nothing at `{}`, something else is there; move it away, or choose another path",
        path.display()
    )]
    NotASocket {
        /// Where the socket was to be
        path: PathBuf,
    },
}

/// Makes way for a socket, if all that is in the way is one on which nobody listens
fn remove_stale(path: &Path) -> Result<(), UnixSocketError> {
    let bind = |source| UnixSocketError::Bind {
        path: path.to_owned(),
        source,
    };
    // What a symbolic link leads to is not ours to remove.
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(bind)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(UnixSocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(UnixSocketError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing a socket that an earlier process left");
            std::fs::remove_file(path).map_err(bind)
        }
        // Somebody may be there.
        Err(error) => Err(bind(error)),
    }
}

/// Device and inode, which tell one socket from its successor at the same path
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The file of a socket, removed when dropped
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have put its own socket there since.
        if identity(&self.path).is_ok_and(|identity| identity == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file is left behind");
        }
    }
}

/// Who is at the other end
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    pub(crate) fn describe(self, extensions: &mut http::Extensions) {
        match self {
            Self::Tcp(address) => drop(extensions.insert(RemoteAddr(address))),
            Self::Unix => drop(extensions.insert(UnixPeer)),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A connection, whose first byte can be looked at before it is read
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    /// A byte that was read and is to be read again
    first: Option<u8>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same with either kind of stream, which is only looked at
macro_rules! either_ref {
    ($socket:expr, $stream:ident => $call:expr) => {
        match &$socket.stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl Socket {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            first: None,
        }
    }

    /// The first byte that the peer sends, which stays to be read
    pub(crate) async fn peek(&mut self) -> io::Result<u8> {
        let first = self.read_u8().await?;
        self.first = Some(first);
        Ok(first)
    }

    /// Writes by a system call of one's own, which says how much it wrote
    pub(crate) fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        either_ref!(self, stream => loop {
            ready!(stream.poll_write_ready(cx))?;
            let written = stream.try_io(Interest::WRITABLE, || Ok(write(stream.as_fd())?));
            match written.as_ref().map_err(io::Error::kind) {
                Err(io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                _ => return Poll::Ready(written),
            }
        })
    }
}

/// Does the same with either kind of stream
macro_rules! either {
    ($socket:expr, $stream:ident => $call:expr) => {
        match &mut $socket.get_mut().stream {
            Stream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        either!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either_ref!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");

        std::fs::write(&path, "precious").unwrap();
        let error = Listener::unix(&path).unwrap_err();
        assert!(
            matches!(error, UnixSocketError::NotASocket { .. }),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();

        // The standard library leaves the file, as a process that is killed does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::unix(&path).unwrap();

        let error = Listener::unix(&path).unwrap_err();
        assert!(matches!(error, UnixSocketError::InUse { .. }), "{error}");
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let first = Listener::unix(&path).unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        let second = Listener::unix(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_is_named() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("missing").join("socket");
        let error = Listener::unix(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn what_was_looked_at_is_still_read() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::unix(&path).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        let (mut socket, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.to_string(), "unix");
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(socket.peek().await.unwrap(), b'h');
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }
}
