//! A driver that tells how long the calls of another take, and how they end

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt};
use registry_core::range::ByteRange;

use crate::driver::{Append, ByteStream, Entry, Key, Look, Notes, Objects, Stat, Uploads};
use crate::error::StorageError;
use crate::piece::{Piece, PieceStream};

/// Learns of every call to a storage once it is over
///
/// Called on threads that serve requests, often: it must not block.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use registry_storage::{Measured, Memory, StorageCall, StorageObserver, StorageReport, Store};
///
/// #[derive(Debug, Default)]
/// struct Lists(AtomicU64);
///
/// impl StorageObserver for Lists {
///     fn called(&self, report: &StorageReport) {
///         if report.call == StorageCall::List {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let lists = Arc::new(Lists::default());
/// let store = Store::new(Arc::new(Measured::new(Memory::new(), lists.clone())));
/// store.ready().await.unwrap();
/// assert_eq!(lists.0.load(Ordering::Relaxed), 1);
/// # }
/// ```
pub trait StorageObserver: fmt::Debug + Send + Sync + 'static {
    /// A call is over
    fn called(&self, report: &StorageReport);

    /// An upload was opened for writing; once it is dropped, [`StorageObserver::upload_closed`]
    /// follows
    fn upload_opened(&self) {}

    /// An upload that was open for writing is so no more
    fn upload_closed(&self) {}
}

/// One call to a storage, and how it ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageReport {
    /// What was called
    pub call: StorageCall,
    /// How it ended
    pub outcome: StorageOutcome,
    /// How long it took
    ///
    /// Of [`StorageCall::StreamBytes`], only the time that the storage was waited for, not
    /// what the reader took in between.
    pub elapsed: Duration,
    /// The bytes of content that were read or written
    pub bytes: u64,
}

/// A method of a driver, as a name that is one of a few
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StorageCall {
    /// [`Objects::read`]
    Read,
    /// [`Objects::stat`], [`Uploads::progress`] and [`Notes::look`]
    Stat,
    /// [`Objects::stream`], [`Objects::pieces`] and [`Append::content`], until the object is open
    Stream,
    /// The stream that one of these gave, from its first byte to its end
    ///
    /// Bytes that are given out as part of a file count, and the time that it takes to read them
    /// does not.
    StreamBytes,
    /// [`Objects::write`], [`Objects::write_unsynced`] and [`Notes::begin`]
    Write,
    /// [`Objects::delete`]
    Delete,
    /// [`Objects::delete_tree`]
    DeleteTree,
    /// [`Objects::rename`]
    Rename,
    /// [`Objects::list`]
    List,
    /// [`Uploads::append`], [`Uploads::reopen`] and [`Look::open`]
    UploadOpen,
    /// [`Append::write`], which may return before the bytes are written
    UploadWrite,
    /// [`Append::sync`]
    UploadSync,
    /// [`Append::truncate`]
    UploadTruncate,
    /// [`Append::publish`]
    UploadPublish,
}

impl StorageCall {
    /// All of them, in the order of their numbers
    pub const ALL: [Self; 14] = [
        Self::Read,
        Self::Stat,
        Self::Stream,
        Self::StreamBytes,
        Self::Write,
        Self::Delete,
        Self::DeleteTree,
        Self::Rename,
        Self::List,
        Self::UploadOpen,
        Self::UploadWrite,
        Self::UploadSync,
        Self::UploadTruncate,
        Self::UploadPublish,
    ];

    /// Its name, such as `delete_tree`
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Stat => "stat",
            Self::Stream => "stream",
            Self::StreamBytes => "stream_bytes",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::DeleteTree => "delete_tree",
            Self::Rename => "rename",
            Self::List => "list",
            Self::UploadOpen => "upload_open",
            Self::UploadWrite => "upload_write",
            Self::UploadSync => "upload_sync",
            Self::UploadTruncate => "upload_truncate",
            Self::UploadPublish => "upload_publish",
        }
    }
}

/// How a call ended
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StorageOutcome {
    /// As it should
    Ok,
    /// Whoever called did not wait for the end, most often because its client went away
    Abandoned,
    /// [`StorageError::Busy`]
    Busy,
    /// [`StorageError::Corrupt`]
    Corrupt,
    /// [`StorageError::Denied`]
    Denied,
    /// [`StorageError::Full`]
    Full,
    /// [`StorageError::NotFound`], which often is the expected answer
    NotFound,
    /// [`StorageError::Transient`]
    Transient,
}

impl StorageOutcome {
    /// All of them, in the order of their numbers
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Abandoned,
        Self::Busy,
        Self::Corrupt,
        Self::Denied,
        Self::Full,
        Self::NotFound,
        Self::Transient,
    ];

    /// Its name, such as `not_found`
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Abandoned => "abandoned",
            Self::Busy => "busy",
            Self::Corrupt => "corrupt",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::NotFound => "not_found",
            Self::Transient => "transient",
        }
    }
}

impl From<&StorageError> for StorageOutcome {
    fn from(error: &StorageError) -> Self {
        match error {
            StorageError::Busy { .. } => Self::Busy,
            StorageError::Corrupt { .. } => Self::Corrupt,
            StorageError::Denied { .. } => Self::Denied,
            StorageError::Full { .. } => Self::Full,
            StorageError::NotFound { .. } => Self::NotFound,
            StorageError::Transient { .. } => Self::Transient,
        }
    }
}

/// A driver whose calls are reported to a [`StorageObserver`]
///
/// It changes nothing of what the driver does; what it adds to a call is an allocation and
/// two looks at the clock.
#[derive(Debug)]
pub struct Measured<D> {
    driver: D,
    observer: Arc<dyn StorageObserver>,
}

impl<D> Measured<D> {
    /// `driver`, whose calls `observer` learns of
    pub fn new(driver: D, observer: Arc<dyn StorageObserver>) -> Self {
        Self { driver, observer }
    }

    /// Waits for a call and reports it; `bytes` tells how many a successful one moved
    async fn report<T>(
        &self,
        call: StorageCall,
        future: impl Future<Output = Result<T, StorageError>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, StorageError> {
        report(&*self.observer, call, future, bytes).await
    }

    fn opened(&self, upload: Box<dyn Append>) -> Box<dyn Append> {
        self.observer.upload_opened();
        Box::new(MeasuredAppend {
            upload,
            observer: self.observer.clone(),
        })
    }
}

#[async_trait]
impl<D: Objects> Objects for Measured<D> {
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let call = self.driver.read(key, limit);
        self.report(StorageCall::Read, call, |bytes| bytes.len() as u64)
            .await
    }

    async fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        self.report(StorageCall::Stat, self.driver.stat(key), nothing)
            .await
    }

    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError> {
        let call = self.driver.stream(key, range);
        let (size, stream) = self.report(StorageCall::Stream, call, nothing).await?;
        let expected = range.map_or(size, |range| range.len());
        let observer = self.observer.clone();
        Ok((size, measured(stream, observer, expected, Bytes::len)))
    }

    async fn pieces(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, PieceStream), StorageError> {
        let call = self.driver.pieces(key, range);
        let (size, pieces) = self.report(StorageCall::Stream, call, nothing).await?;
        let expected = range.map_or(size, |range| range.len());
        let observer = self.observer.clone();
        Ok((size, measured(pieces, observer, expected, Piece::len)))
    }

    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let length = bytes.len() as u64;
        let call = self.driver.write(key, bytes);
        self.report(StorageCall::Write, call, |()| length).await
    }

    async fn write_unsynced(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        let length = bytes.len() as u64;
        let call = self.driver.write_unsynced(key, bytes);
        self.report(StorageCall::Write, call, |()| length).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        self.report(StorageCall::Delete, self.driver.delete(key), nothing)
            .await
    }

    async fn delete_tree(&self, key: &Key) -> Result<(), StorageError> {
        let call = self.driver.delete_tree(key);
        self.report(StorageCall::DeleteTree, call, nothing).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        let call = self.driver.rename(from, to);
        self.report(StorageCall::Rename, call, nothing).await
    }

    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let call = self.driver.list(folder, after, limit);
        self.report(StorageCall::List, call, nothing).await
    }
}

#[async_trait]
impl<D: Uploads> Uploads for Measured<D> {
    async fn append(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        let call = self.driver.append(upload);
        let upload = self.report(StorageCall::UploadOpen, call, nothing).await?;
        Ok(self.opened(upload))
    }

    async fn reopen(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError> {
        let call = self.driver.reopen(upload);
        let upload = self.report(StorageCall::UploadOpen, call, nothing).await?;
        Ok(self.opened(upload))
    }

    fn begin_with(
        &self,
        upload: &Key,
        object: &Key,
        bytes: Bytes,
    ) -> Option<BoxFuture<'_, Result<(), StorageError>>> {
        let call = self.driver.begin_with(upload, object, bytes)?;
        let call = self.report(StorageCall::UploadOpen, call, nothing);
        Some(Box::pin(call))
    }

    async fn progress(&self, upload: &Key) -> Result<Stat, StorageError> {
        let call = self.driver.progress(upload);
        self.report(StorageCall::Stat, call, nothing).await
    }

    fn notes(&self) -> Option<&dyn Notes> {
        self.driver.notes().map(|_| self as &dyn Notes)
    }
}

impl<D: Uploads> Measured<D> {
    fn driver_notes(&self, upload: &Key) -> Result<&dyn Notes, StorageError> {
        self.driver.notes().ok_or_else(|| StorageError::Denied {
            key: upload.to_string(),
            source: "this driver keeps no notes with uploads".into(),
        })
    }
}

#[async_trait]
impl<D: Uploads> Notes for Measured<D> {
    async fn begin(&self, upload: &Key, note: Bytes) -> Result<(), StorageError> {
        let call = self.driver_notes(upload)?.begin(upload, note);
        self.report(StorageCall::Write, call, nothing).await
    }

    async fn look(&self, upload: &Key) -> Result<Box<dyn Look>, StorageError> {
        let call = self.driver_notes(upload)?.look(upload);
        let look = self.report(StorageCall::Stat, call, nothing).await?;
        Ok(Box::new(MeasuredLook {
            look,
            observer: self.observer.clone(),
        }))
    }
}

#[derive(Debug)]
struct MeasuredLook {
    look: Box<dyn Look>,
    observer: Arc<dyn StorageObserver>,
}

#[async_trait]
impl Look for MeasuredLook {
    fn stat(&self) -> Stat {
        self.look.stat()
    }

    fn note(&self) -> Bytes {
        self.look.note()
    }

    async fn open(self: Box<Self>) -> Result<Box<dyn Append>, StorageError> {
        let Self { look, observer } = *self;
        let upload = report(&*observer, StorageCall::UploadOpen, look.open(), nothing).await?;
        observer.upload_opened();
        Ok(Box::new(MeasuredAppend { upload, observer }))
    }
}

#[derive(Debug)]
struct MeasuredAppend {
    upload: Box<dyn Append>,
    observer: Arc<dyn StorageObserver>,
}

#[async_trait]
impl Append for MeasuredAppend {
    fn size(&self) -> u64 {
        self.upload.size()
    }

    fn expect(&mut self, bytes: u64) {
        self.upload.expect(bytes);
    }

    fn aim(&mut self, to: &Key) {
        self.upload.aim(to);
    }

    fn accompany(&mut self, key: &Key, bytes: Bytes) -> bool {
        self.upload.accompany(key, bytes)
    }

    fn vacate(&mut self) -> bool {
        self.upload.vacate()
    }

    fn note(&self) -> Option<Bytes> {
        self.upload.note()
    }

    fn annotate(&mut self, note: Bytes) {
        self.upload.annotate(note);
    }

    fn checkpoint(&self) -> Option<u64> {
        self.upload.checkpoint()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let length = bytes.len() as u64;
        let call = self.upload.write(bytes);
        report(&*self.observer, StorageCall::UploadWrite, call, |()| length).await
    }

    async fn write_vectored(&mut self, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let call = self.upload.write_vectored(pieces);
        report(&*self.observer, StorageCall::UploadWrite, call, |()| length).await
    }

    async fn write_last(&mut self, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let call = self.upload.write_last(pieces);
        report(&*self.observer, StorageCall::UploadWrite, call, |()| length).await
    }

    async fn sync_behind(&mut self) -> Result<(), StorageError> {
        let call = self.upload.sync_behind();
        report(&*self.observer, StorageCall::UploadSync, call, nothing).await
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        let call = self.upload.sync();
        report(&*self.observer, StorageCall::UploadSync, call, nothing).await
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        let call = self.upload.truncate(size);
        report(&*self.observer, StorageCall::UploadTruncate, call, nothing).await
    }

    async fn content(&mut self) -> Result<ByteStream, StorageError> {
        let expected = self.upload.size();
        let call = self.upload.content();
        let stream = report(&*self.observer, StorageCall::Stream, call, nothing).await?;
        Ok(measured(
            stream,
            self.observer.clone(),
            expected,
            Bytes::len,
        ))
    }

    async fn publish(&mut self, to: &Key) -> Result<(), StorageError> {
        let call = self.upload.publish(to);
        report(&*self.observer, StorageCall::UploadPublish, call, nothing).await
    }
}

impl Drop for MeasuredAppend {
    fn drop(&mut self) {
        self.observer.upload_closed();
    }
}

/// A stream of `expected` bytes, reported when it is dropped
fn measured<T: 'static>(
    stream: BoxStream<'static, Result<T, StorageError>>,
    observer: Arc<dyn StorageObserver>,
    expected: u64,
    length: fn(&T) -> usize,
) -> BoxStream<'static, Result<T, StorageError>> {
    MeasuredStream {
        stream,
        observer,
        expected,
        length,
        waiting: None,
        waited: Duration::ZERO,
        bytes: 0,
        outcome: None,
    }
    .boxed()
}

/// A stream that is reported when it is dropped
struct MeasuredStream<T> {
    stream: BoxStream<'static, Result<T, StorageError>>,
    observer: Arc<dyn StorageObserver>,
    /// How many bytes there are to come in all
    expected: u64,
    /// How many of them an item of the stream has
    length: fn(&T) -> usize,
    /// Since when the storage is waited for
    waiting: Option<Instant>,
    waited: Duration,
    bytes: u64,
    outcome: Option<StorageOutcome>,
}

impl<T> Stream for MeasuredStream<T> {
    type Item = Result<T, StorageError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let polled = self.stream.poll_next_unpin(cx);
        if let Poll::Ready(item) = &polled {
            self.waiting = None;
            self.waited += since.elapsed();
            match item {
                Some(Ok(item)) => self.bytes += (self.length)(item) as u64,
                Some(Err(error)) => self.outcome = Some(error.into()),
                None => {
                    self.outcome.get_or_insert(StorageOutcome::Ok);
                }
            }
        }
        polled
    }
}

impl<T> Drop for MeasuredStream<T> {
    fn drop(&mut self) {
        if let Some(since) = self.waiting {
            self.waited += since.elapsed();
        }
        // Whoever has all bytes need not ask whether there are more.
        let outcome = match self.outcome {
            Some(outcome) => outcome,
            None if self.bytes >= self.expected => StorageOutcome::Ok,
            None => StorageOutcome::Abandoned,
        };
        self.observer.called(&StorageReport {
            call: StorageCall::StreamBytes,
            outcome,
            elapsed: self.waited,
            bytes: self.bytes,
        });
    }
}

/// A call under way: it is reported when it is dropped
struct Running<'a> {
    observer: &'a dyn StorageObserver,
    started: Instant,
    report: StorageReport,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.report.elapsed = self.started.elapsed();
        self.observer.called(&self.report);
    }
}

async fn report<T>(
    observer: &dyn StorageObserver,
    call: StorageCall,
    future: impl Future<Output = Result<T, StorageError>>,
    bytes: impl FnOnce(&T) -> u64,
) -> Result<T, StorageError> {
    let mut running = Running {
        observer,
        started: Instant::now(),
        report: StorageReport {
            call,
            outcome: StorageOutcome::Abandoned,
            elapsed: Duration::ZERO,
            bytes: 0,
        },
    };
    let result = future.await;
    match &result {
        Ok(value) => {
            running.report.outcome = StorageOutcome::Ok;
            running.report.bytes = bytes(value);
        }
        Err(error) => running.report.outcome = error.into(),
    }
    result
}

/// The bytes of a call that moves no content
fn nothing<T>(_: &T) -> u64 {
    0
}

#[cfg(test)]
mod tests;
