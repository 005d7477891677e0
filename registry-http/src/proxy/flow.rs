//! Content on its way: from the client to the upstream, and back

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::Stream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};

use super::error::Source;
use crate::body::BodyError;
use crate::request_body::{RequestBody, RequestBodyError};

/// What a client sends, on its way to the upstream
pub(crate) struct Sending {
    body: RequestBody,
    remaining: Option<u64>,
    progress: Arc<Mutex<Progress>>,
}

/// How far a client's content has come
pub(crate) struct Progress {
    /// When something last happened
    pub(crate) last: Instant,
    /// Whether it is the client that is waited for, which has a patience of its own
    pub(crate) awaits_client: bool,
    /// Why the client's content broke off, if it did
    pub(crate) failure: Option<RequestBodyError>,
}

impl Sending {
    pub(crate) fn new(body: RequestBody) -> (Self, Arc<Mutex<Progress>>) {
        let progress = Arc::new(Mutex::new(Progress {
            last: Instant::now(),
            awaits_client: false,
            failure: None,
        }));
        let sending = Self {
            remaining: body.length(),
            body,
            progress: progress.clone(),
        };
        (sending, progress)
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Source;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        let next = Pin::new(&mut self.body).poll_next(cx);
        let progress = self.progress.clone();
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.awaits_client = next.is_pending();
        progress.last = Instant::now();
        Poll::Ready(match ready!(next) {
            Some(Ok(bytes)) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining.saturating_sub(bytes.len() as u64);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => {
                let text = error.to_string();
                progress.failure = Some(error);
                Some(Err(text.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining {
            Some(remaining) => SizeHint::with_exact(remaining),
            None => SizeHint::default(),
        }
    }
}

/// What the upstream sends, on its way to the client
///
/// Neither side is waited for without end: when the upstream sends nothing, or the client takes nothing, the
/// connection to the upstream is given up.
pub(crate) struct Receiving {
    shared: Arc<Mutex<Shared>>,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    idle: Duration,
    /// Ends the watch over the client
    watch: AbortHandle,
}

struct Shared {
    /// `None` once it was given up
    body: Option<Incoming>,
    /// When the client last took something, and whether the next is its turn
    taken: Instant,
    upstreams_turn: bool,
    /// What the connection is counted by
    permits: Vec<OwnedSemaphorePermit>,
}

impl Receiving {
    /// `idle` is how long the upstream may send nothing, `patience` how long the client may take nothing
    pub(crate) fn new(
        body: Incoming,
        idle: Duration,
        patience: Duration,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            body: Some(body),
            taken: Instant::now(),
            upstreams_turn: false,
            permits,
        }));
        let watch = tokio::spawn(watch(shared.clone(), patience)).abort_handle();
        Self {
            shared,
            timer: None,
            waiting: false,
            idle,
            watch,
        }
    }
}

/// Gives the upstream's content up when the client takes none of it
async fn watch(shared: Arc<Mutex<Shared>>, patience: Duration) {
    loop {
        let deadline = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let since = if shared.upstreams_turn {
                now
            } else {
                shared.taken
            };
            if since + patience <= now {
                shared.body = None;
                shared.permits.clear();
                tracing::debug!("a client takes no more of its answer, which is given up");
                return;
            }
            since + patience
        };
        tokio::time::sleep_until(deadline).await;
    }
}

impl Stream for Receiving {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut shared = this.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.taken = Instant::now();
        loop {
            let Some(body) = &mut shared.body else {
                return Poll::Ready(Some(Err(BodyError::not_taken())));
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(next) => {
                    this.waiting = false;
                    shared.upstreams_turn = false;
                    return Poll::Ready(match next {
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(bytes) if !bytes.is_empty() => Some(Ok(bytes)),
                            _ => continue,
                        },
                        Some(Err(error)) => Some(Err(BodyError::upstream(error.into()))),
                        None => {
                            // The connection is free before the client has everything.
                            shared.permits.clear();
                            None
                        }
                    });
                }
                Poll::Pending => {
                    shared.upstreams_turn = true;
                    let deadline = Instant::now() + this.idle;
                    let timer = this
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                    if !this.waiting {
                        timer.as_mut().reset(deadline);
                        this.waiting = true;
                    }
                    ready!(timer.as_mut().poll(cx));
                    shared.body = None;
                    let text = format!("it sent nothing for {} seconds", this.idle.as_secs());
                    return Poll::Ready(Some(Err(BodyError::upstream(text.into()))));
                }
            }
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
