//! The bodies of requests: streamed, never waited for without end, never left in the way

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, StreamExt};
use http::request::Parts;
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

/// How much of an unread body is still taken after the request has been answered
const DRAIN_BYTES: u64 = 64 << 20;

/// How long an unread body is still taken after the request has been answered
const DRAIN_TIME: Duration = Duration::from_secs(10);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, as a stream of bytes
///
/// Dropped before its end, it is read on for a while by a task of its own: closing the
/// connection on a client that still sends resets it, and the reset hides the response that
/// says why. A client that waits for `100 Continue` sends nothing, so there nothing is read.
pub(crate) struct RequestBody {
    /// `None` when it is over, broken or stalled
    inner: Option<UnsyncBoxBody<Bytes, Cause>>,
    peeked: Option<Bytes>,
    length: Option<u64>,
    awaits_continue: bool,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    stalled: bool,
    received: Arc<AtomicU64>,
}

impl RequestBody {
    pub(crate) fn new<B>(parts: &Parts, body: B, patience: Duration) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        let length = content_length(&parts.headers).or_else(|| body.size_hint().exact());
        Self {
            inner: (!body.is_end_stream()).then(|| body.map_err(Into::into).boxed_unsync()),
            peeked: None,
            length,
            awaits_continue: parts
                .headers
                .get(header::EXPECT)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
            patience,
            timer: None,
            waiting: false,
            stalled: false,
            received: Arc::default(),
        }
    }

    /// The body, in whose place an empty one is left
    pub(crate) fn take(&mut self) -> Self {
        let empty = Self {
            inner: None,
            peeked: None,
            length: None,
            awaits_continue: false,
            patience: self.patience,
            timer: None,
            waiting: false,
            stalled: false,
            received: self.received.clone(),
        };
        std::mem::replace(self, empty)
    }

    /// Counts the bytes that are read of it, to its end
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// The announced length
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Whether the client stopped sending without closing the connection
    pub(crate) fn stalled(&self) -> bool {
        self.stalled
    }

    /// Whether there are no bytes, as announced or else as the first of them show
    pub(crate) async fn is_empty(&mut self) -> Result<bool, RequestBodyError> {
        if self.peeked.is_some() {
            return Ok(false);
        }
        match self.length {
            Some(length) => Ok(length == 0),
            None => {
                self.peeked = self.next().await.transpose()?;
                Ok(self.peeked.is_none())
            }
        }
    }

    /// The whole body, or `None` if it is longer than `limit`
    pub(crate) async fn read_all(
        &mut self,
        limit: usize,
    ) -> Result<Option<Bytes>, RequestBodyError> {
        if self.length.is_some_and(|length| length > limit as u64) {
            return Ok(None);
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await.transpose()? {
            if bytes.len() > limit - whole.len() {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole.freeze()))
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.patience;
        let timer = match &mut self.timer {
            Some(timer) => {
                if !self.waiting {
                    timer.as_mut().reset(deadline);
                }
                timer
            }
            None => self
                .timer
                .insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        self.waiting = true;
        timer.as_mut().poll(cx)
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, RequestBodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(bytes) = this.peeked.take() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        this.awaits_continue = false;
        while let Some(inner) = &mut this.inner {
            match Pin::new(inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.waiting = false;
                    // Trailers say nothing about content, and an empty frame is no end.
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        this.received
                            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.inner = None;
                    return Poll::Ready(Some(Err(RequestBodyError::Broken(error))));
                }
                Poll::Ready(None) => this.inner = None,
                Poll::Pending => {
                    if this.poll_patience(cx).is_pending() {
                        return Poll::Pending;
                    }
                    this.inner = None;
                    this.stalled = true;
                    return Poll::Ready(Some(Err(RequestBodyError::Stalled {
                        patience: this.patience,
                    })));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else {
            return;
        };
        if self.awaits_continue || inner.is_end_stream() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(drain(inner));
        }
    }
}

/// Why a request body did not come to its end
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    #[error("the body broke off before its end; send it again")]
    Broken(#[source] Cause),
    #[error("no byte of the body came for {} seconds; send the rest again", .patience.as_secs())]
    Stalled { patience: Duration },
}

async fn drain(mut body: UnsyncBoxBody<Bytes, Cause>) {
    let read = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            if taken > DRAIN_BYTES {
                break;
            }
        }
    };
    // Whether it ended or was cut off makes no difference: the response is out.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::Request;
    use http_body::Frame;
    use http_body_util::{Empty, Full, StreamBody};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    fn body<B>(body: B) -> RequestBody
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        RequestBody::new(&Request::new(()).into_parts().0, body, PATIENCE)
    }

    fn frames(
        parts: &[&'static str],
    ) -> StreamBody<impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static> {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))))
            .collect();
        StreamBody::new(stream::iter(parts))
    }

    #[tokio::test]
    async fn emptiness_is_announced_or_seen() {
        assert!(body(Empty::<Bytes>::new()).is_empty().await.unwrap());
        assert!(body(frames(&["", ""])).is_empty().await.unwrap());
        let mut some = body(frames(&["", "a", "b"]));
        assert!(!some.is_empty().await.unwrap());
        assert!(!some.is_empty().await.unwrap());
        assert_eq!(some.read_all(10).await.unwrap().unwrap(), "ab");
    }

    #[tokio::test]
    async fn a_body_is_collected_up_to_the_limit() {
        for (limit, fits) in [(4, true), (3, false)] {
            let announced = body(Full::from("abcd")).read_all(limit).await.unwrap();
            assert_eq!(announced.is_some(), fits);
            let chunked = body(frames(&["ab", "cd"])).read_all(limit).await.unwrap();
            assert_eq!(chunked.is_some(), fits);
        }
    }

    #[tokio::test]
    async fn a_silent_client_is_given_up() {
        let mut silent = body(StreamBody::new(stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >()));
        assert!(matches!(
            silent.next().await,
            Some(Err(RequestBodyError::Stalled { .. }))
        ));
        assert!(silent.stalled());
        assert!(silent.next().await.is_none());
    }

    #[tokio::test]
    async fn an_unread_body_is_drained_unless_the_client_waits() {
        let read = async |expect: Option<&str>| {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
            let frames = stream::unfold(sender, |sender| async move {
                sender.send(()).await.ok()?;
                Some((
                    Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))),
                    sender,
                ))
            });
            let mut request = Request::builder();
            if let Some(expect) = expect {
                request = request.header("expect", expect);
            }
            let parts = request.body(()).unwrap().into_parts().0;
            drop(RequestBody::new(
                &parts,
                StreamBody::new(frames.boxed()),
                PATIENCE,
            ));
            receiver.recv().await.is_some()
        };
        assert!(read(None).await);
        assert!(!read(Some("100-Continue")).await);
    }
}
