//! The bodies of responses

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use http_body::{Body, Frame, SizeHint};
use registry_storage::{BlobError, FilePiece, Piece, PieceStream, StorageError};
use tracing::Span;

use crate::access_log::Recorder;
use crate::sendfile::Files;

/// The body of a response: nothing, bytes at hand, or content streamed from the store
///
/// Its length is known exactly, so that a response has a `Content-Length` in every version of
/// HTTP; only that of what another registry sends through a proxy may not be. A stream that ends
/// early or runs over is an error, never a short body.
///
/// # Examples
///
/// ```
/// use http_body::Body;
/// use registry_http::ResponseBody;
///
/// assert_eq!(ResponseBody::from("{}").size_hint().exact(), Some(2));
/// assert!(ResponseBody::default().is_end_stream());
/// ```
#[derive(Default)]
pub struct ResponseBody {
    content: Content,
    recorder: Option<Box<Recorder>>,
}

#[derive(Default)]
enum Content {
    #[default]
    Empty,
    Full(Bytes),
    Stream(Box<Streamed>),
}

struct Streamed {
    source: Source,
    /// `None` when only the end of the stream tells
    remaining: Option<u64>,
    /// What the storage says while it reads belongs to this
    span: Span,
}

enum Source {
    Bytes(BoxStream<'static, Result<Bytes, BodyError>>),
    /// As long as nobody has asked for bytes
    Pieces(PieceStream),
    /// Over a connection that sends files
    Files {
        pieces: PieceStream,
        files: Arc<Files>,
        /// What is left of the piece that comes next
        piece: Option<FilePiece>,
    },
}

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Self::Bytes(stream) => stream.poll_next_unpin(cx),
            Self::Pieces(pieces) => {
                let pieces = std::mem::replace(pieces, stream::empty().boxed());
                *self = Self::Bytes(pieces.err_into().and_then(read).boxed());
                self.poll_next(cx)
            }
            Self::Files {
                pieces,
                files,
                piece,
            } => loop {
                if let Some(left) = piece.as_mut().filter(|piece| !piece.is_empty()) {
                    return Poll::Ready(Some(Ok(files.push(left))));
                }
                match ready!(pieces.poll_next_unpin(cx)) {
                    Some(Ok(Piece::Bytes(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                    Some(Ok(Piece::File(next))) => *piece = Some(next),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    None => return Poll::Ready(None),
                }
            },
        }
    }
}

impl ResponseBody {
    /// Content of exactly `length` bytes
    pub(crate) fn stream(
        length: u64,
        stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    ) -> Self {
        if length == 0 {
            return Self::default();
        }
        Self::stream_of(Some(length), stream)
    }

    /// Content of as many bytes as `length` says, or as come where it is not known
    pub(crate) fn stream_of(
        length: Option<u64>,
        stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static,
    ) -> Self {
        Self {
            content: Content::Stream(Box::new(Streamed {
                source: Source::Bytes(stream.boxed()),
                remaining: length,
                span: Span::none(),
            })),
            recorder: None,
        }
    }

    /// Content of exactly `length` bytes, of which some may be sent from files
    pub(crate) fn pieces(length: u64, pieces: PieceStream) -> Self {
        if length == 0 {
            return Self::default();
        }
        Self {
            content: Content::Stream(Box::new(Streamed {
                source: Source::Pieces(pieces),
                remaining: Some(length),
                span: Span::none(),
            })),
            recorder: None,
        }
    }

    /// From now on gives what only stands for content that is in files, and notes it in `files`
    pub(crate) fn send_files(&mut self, files: &Arc<Files>) {
        if let Content::Stream(streamed) = &mut self.content
            && let Source::Pieces(pieces) = &mut streamed.source
        {
            streamed.source = Source::Files {
                pieces: std::mem::replace(pieces, stream::empty().boxed()),
                files: files.clone(),
                piece: None,
            };
        }
    }

    /// Lets `recorder` count what is sent, and tell it when this body is done with
    pub(crate) fn recorded(mut self, recorder: Option<Box<Recorder>>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Lets what happens while the content is read be part of `span`
    pub(crate) fn in_span(mut self, span: Span) -> Self {
        if let Content::Stream(streamed) = &mut self.content {
            streamed.span = span;
        }
        self
    }

    /// How many bytes are left to send, if that is known
    pub(crate) fn remaining(&self) -> Option<u64> {
        match &self.content {
            Content::Empty => Some(0),
            Content::Full(bytes) => Some(bytes.len() as u64),
            Content::Stream(streamed) => streamed.remaining,
        }
    }
}

impl<T: Into<Bytes>> From<T> for ResponseBody {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        Self {
            content: if bytes.is_empty() {
                Content::Empty
            } else {
                Content::Full(bytes)
            },
            recorder: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let next = match &mut this.content {
            Content::Empty => None,
            Content::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.content = Content::Empty;
                Some(Ok(bytes))
            }
            Content::Stream(streamed) => {
                let Streamed {
                    source,
                    remaining,
                    span,
                } = &mut **streamed;
                let _entered = span.enter();
                let next = match ready!(source.poll_next(cx)) {
                    Some(Ok(bytes)) => match remaining {
                        None => Some(Ok(bytes)),
                        Some(remaining) => match remaining.checked_sub(bytes.len() as u64) {
                            Some(left) => {
                                *remaining = left;
                                Some(Ok(bytes))
                            }
                            None => Some(Err(BodyError(Reason::TooLong))),
                        },
                    },
                    Some(Err(error)) => Some(Err(error)),
                    None => match remaining.take() {
                        Some(missing @ 1..) => {
                            *remaining = Some(missing);
                            Some(Err(BodyError(Reason::TooShort { missing })))
                        }
                        _ => {
                            *remaining = Some(0);
                            None
                        }
                    },
                };
                if let Some(Err(error)) = &next {
                    tracing::error!(
                        error = error as &dyn std::error::Error,
                        "content cannot be sent to its end, the client sees a broken connection",
                    );
                }
                next
            }
        };
        if let (Some(recorder), Some(Ok(bytes))) = (&mut this.recorder, &next) {
            recorder.sent(bytes.len());
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining() {
            Some(remaining) => SizeHint::with_exact(remaining),
            None => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // The recorder reports when it is dropped in turn.
        if self.remaining() == Some(0)
            && let Some(recorder) = &mut self.recorder
        {
            recorder.complete();
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// The bytes of a piece that cannot be sent from its file
async fn read(piece: Piece) -> Result<Bytes, BodyError> {
    match piece {
        Piece::Bytes(bytes) => Ok(bytes),
        Piece::File(piece) => piece
            .read()
            .await
            .map_err(|error| BodyError(Reason::File(error))),
    }
}

/// Why content could not be sent to its end
///
/// The status line is out by then, so all that is left is to break the connection off. The
/// client resumes with a range.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(Reason);

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    Blob(BlobError),
    #[error("the stored content cannot be read: {0}")]
    File(#[source] std::io::Error),
    #[error("the client took none of it for too long")]
    NotTaken,
    #[error(transparent)]
    Storage(StorageError),
    #[error("the stored content is longer than its size said")]
    TooLong,
    #[error("the stored content ends {missing} bytes before its size")]
    TooShort { missing: u64 },
    #[error("the registry behind this proxy broke off: {0}")]
    Upstream(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BodyError {
    /// The client takes nothing
    pub(crate) fn not_taken() -> Self {
        Self(Reason::NotTaken)
    }

    /// What a proxied registry sends breaks off
    pub(crate) fn upstream(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self(Reason::Upstream(error))
    }
}

impl From<BlobError> for BodyError {
    fn from(error: BlobError) -> Self {
        Self(Reason::Blob(error))
    }
}

impl From<StorageError> for BodyError {
    fn from(error: StorageError) -> Self {
        Self(Reason::Storage(error))
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    fn body(length: u64, parts: &[&'static str]) -> ResponseBody {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part.as_bytes())))
            .collect();
        ResponseBody::stream(length, stream::iter(parts))
    }

    #[tokio::test]
    async fn a_stream_is_as_long_as_announced_or_fails() {
        let whole = body(5, &["he", "llo"]);
        assert_eq!(whole.size_hint().exact(), Some(5));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "hello");
        assert!(body(6, &["he", "llo"]).collect().await.is_err());
        assert!(body(4, &["he", "llo"]).collect().await.is_err());
        assert!(body(0, &["never read"]).is_end_stream());
    }

    fn pieces(content: &str) -> ResponseBody {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        let file = Arc::new(file);
        let half = content.len() / 2;
        let pieces = [
            Piece::File(FilePiece::new(file.clone(), 0, half)),
            Piece::Bytes(Bytes::copy_from_slice(&content.as_bytes()[half..])),
        ];
        let length = content.len() as u64;
        ResponseBody::pieces(length, stream::iter(pieces.map(Ok)).boxed())
    }

    #[tokio::test]
    async fn files_are_sent_by_whoever_can_and_read_by_others() {
        let mut sent = pieces("hello world!");
        let files = Arc::new(Files::default());
        sent.send_files(&files);
        let first = sent.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((first.len(), files.length()), (6, 6));
        assert_eq!(sent.collect().await.unwrap().to_bytes(), "world!");
        assert_eq!(files.length(), 6);

        let mut read = pieces("hello world!");
        let first = read.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "hello ");
        // Too late: some of it is in somebody's hands.
        read.send_files(&files);
        assert_eq!(read.collect().await.unwrap().to_bytes(), "world!");
        assert_eq!(files.length(), 6);
    }

    #[tokio::test]
    async fn content_is_read_within_the_span_of_its_request() {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(std::io::sink)
            .finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let span = tracing::error_span!("request");
        let wanted = span.id();
        assert!(wanted.is_some());
        let parts = stream::once(async move {
            assert_eq!(Span::current().id(), wanted);
            Ok(Bytes::from_static(b"hello"))
        });
        let body = ResponseBody::stream(5, parts).in_span(span);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    }
}
