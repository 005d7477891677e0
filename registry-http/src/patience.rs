//! Clients that stop taking what they asked for: how long they are waited for

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// A connection that breaks when its peer takes no byte for too long
///
/// Costs nothing while bytes go out: the clock is read only when a write has to wait.
pub(crate) struct Patient<I> {
    io: I,
    patience: Duration,
    /// Kept from one wait to the next, for it is cheaper to move than to make
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

impl<I> Patient<I> {
    pub(crate) fn new(io: I, patience: Duration) -> Self {
        Self {
            io,
            patience,
            timer: None,
            waits: false,
        }
    }

    /// Passes on what came of a write, and gives up if that is nothing for too long
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        let patience = self.patience;
        if !self.waits {
            self.waits = true;
            // One that is too far away for the clock is never.
            let Some(deadline) = Instant::now().checked_add(patience) else {
                self.timer = None;
                return Poll::Pending;
            };
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(deadline),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
        }
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        let text = format!("the client took nothing for {} ms", patience.as_millis());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge(cx, closed)
    }
}

/// The answers on their way over one connection of HTTP/2
///
/// A client of HTTP/2 can stop taking an answer and go on with its connection, so that no write ever waits. All
/// that shows it is that the answer's body is not asked for more.
#[derive(Default)]
pub(crate) struct Answers {
    /// Of those that are over, until somebody looks
    under_way: Mutex<Vec<Weak<Turn>>>,
    begun: Notify,
}

impl Answers {
    /// Watches over a body from now on
    pub(crate) fn watch<B>(&self, body: B) -> Watched<B> {
        let turn = Arc::new(Turn::new());
        turn.clients();
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Seldom, and then it pays.
        if under_way.len() == under_way.capacity() {
            under_way.retain(|turn| turn.strong_count() > 0);
        }
        under_way.push(Arc::downgrade(&turn));
        drop(under_way);
        self.begun.notify_one();
        Watched {
            body: Box::pin(body),
            turn,
        }
    }

    /// Waits until there is an answer of which the client has taken nothing for so long
    pub(crate) async fn overdue(&self, patience: Duration) {
        loop {
            match self.oldest() {
                None => self.begun.notified().await,
                Some(waited) if waited >= patience => return,
                // No answer that begins meanwhile is due before that.
                Some(waited) => tokio::time::sleep(patience - waited).await,
            }
        }
    }

    /// For how long the client has been waited for, of the answer of which that is longest
    fn oldest(&self) -> Option<Duration> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|turn| turn.strong_count() > 0);
        let waits = under_way.iter().filter_map(Weak::upgrade);
        waits.map(|turn| turn.waited()).max()
    }
}

/// Whose turn it is in the sending of one answer
struct Turn {
    made: Instant,
    /// Since when it is the client's, in milliseconds, of which the first is 1; 0 if it is not
    since: AtomicU64,
}

impl Turn {
    fn new() -> Self {
        Self {
            made: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).map_or(u64::MAX, |now| now.saturating_add(1))
    }

    fn clients(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    fn ours(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn waited(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since)),
        }
    }
}

/// A body that tells when it is asked for more
pub(crate) struct Watched<B> {
    body: Pin<Box<B>>,
    turn: Arc<Turn>,
}

impl<B: Body> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let next = self.body.as_mut().poll_frame(cx);
        match next {
            Poll::Ready(_) => self.turn.clients(),
            Poll::Pending => self.turn.ours(),
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_waited_for_as_long_as_it_takes_something() {
        let (io, mut peer) = duplex(16);
        let mut io = Patient::new(io, PATIENCE);
        let began = Instant::now();
        let writing = tokio::spawn(async move { io.write_all(&[7; 160]).await });
        for _ in 0..9 {
            tokio::time::sleep(PATIENCE * 9 / 10).await;
            peer.read_exact(&mut [0; 16]).await.unwrap();
        }
        // Of ten parts, nine were taken and one fits.
        writing.await.unwrap().unwrap();
        assert!(began.elapsed() > PATIENCE * 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (io, _peer) = duplex(16);
        let mut io = Patient::new(io, PATIENCE);
        io.write_all(&[7; 16]).await.unwrap();
        // A pause of the writer's own does not count.
        tokio::time::sleep(PATIENCE * 3).await;
        let began = Instant::now();
        let error = io.write_all(&[7]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "the client took nothing for 10000 ms");
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_asked_for_more_is_overdue() {
        let answers = Answers::default();
        let within = |time| tokio::time::timeout(time, answers.overdue(PATIENCE));
        assert!(within(PATIENCE * 9).await.is_err(), "there is none");
        let mut one = answers.watch(Full::new(&b"one"[..]));
        assert!(within(PATIENCE / 2).await.is_err());
        one.frame().await.unwrap().unwrap();
        assert!(within(PATIENCE * 9 / 10).await.is_err());
        // Another one that goes on does not save it.
        let _two = answers.watch(Full::new(&b"two"[..]));
        assert!(within(PATIENCE / 5).await.is_ok());
        drop(one);
        assert!(within(PATIENCE / 2).await.is_err(), "it is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_waited_for_is_not_the_clients_fault() {
        let answers = Answers::default();
        let silent = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<Frame<bytes::Bytes>, io::Error>,
        >());
        let mut body = answers.watch(silent);
        assert!(futures::poll!(body.frame()).is_pending());
        let overdue = tokio::time::timeout(PATIENCE * 9, answers.overdue(PATIENCE));
        assert!(overdue.await.is_err());
    }
}
