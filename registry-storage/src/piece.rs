//! Content by the piece: bytes at hand, or where in an open file they are

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::StorageError;

/// The pieces of an object, in order; after an error there are no more
pub type PieceStream = BoxStream<'static, Result<Piece, StorageError>>;

/// Some of the bytes of an object
#[derive(Clone, Debug)]
pub enum Piece {
    /// At hand
    Bytes(Bytes),
    /// In a file
    File(FilePiece),
}

/// Bytes that are in an open file of this machine, and most likely in its page cache
///
/// A server whose connection the kernel can fill by itself (`sendfile(2)`) need not have them in
/// its own memory. Whoever wants them there anyway calls [`FilePiece::read`].
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// use registry_storage::FilePiece;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut file = tempfile::tempfile()?;
/// file.write_all(b"hello world")?;
/// let piece = FilePiece::new(file, 6, 5);
/// assert_eq!(piece.read().await?, "world");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct FilePiece {
    file: Arc<File>,
    offset: u64,
    length: usize,
}

impl Piece {
    /// How many bytes it has
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(piece) => piece.len(),
        }
    }

    /// Whether it has no bytes
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FilePiece {
    /// The `length` bytes of `file` from `offset` on, all of which it has and keeps
    pub fn new(file: impl Into<Arc<File>>, offset: u64, length: usize) -> Self {
        Self {
            file: file.into(),
            offset,
            length,
        }
    }

    /// Where in the file it begins, in bytes
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes it has
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes the first bytes away: `length` of them, or as many as there are
    #[must_use]
    pub fn split_to(&mut self, length: usize) -> Self {
        let mut first = self.clone();
        first.length = length.min(self.length);
        self.offset += first.length as u64;
        self.length -= first.length;
        first
    }

    /// Its bytes, read in a thread that may wait for them
    ///
    /// # Errors
    ///
    /// Whatever the system says; [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) if the file
    /// has become shorter.
    pub async fn read(self) -> std::io::Result<Bytes> {
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; self.length];
            self.file.read_exact_at(&mut buffer, self.offset)?;
            Ok(buffer.into())
        });
        read.await.map_err(std::io::Error::other)?
    }
}

impl AsFd for FilePiece {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
