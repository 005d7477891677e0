//! An upload in a bucket, open for one writer

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::PutPayload;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::error::failed;
use super::journal::{Kept, Multipart, Part, Stored, beside, length};
use super::{Inner, Lock, bytes};
use crate::driver::{Append, ByteStream, Key};
use crate::error::StorageError;

/// An upload: its parts, the one under way, and what is gathered for the next
pub(super) struct BucketAppend {
    inner: Arc<Inner>,
    key: Key,
    /// Shared with a part that is still under way when this is dropped
    lock: Arc<Lock>,
    /// What the journal says
    kept: Kept,
    stored: Stored,
    /// What the current content goes on from
    base: Base,
    /// The note for the next journal, if it is another
    note: Option<Bytes>,
    /// The parts that have arrived, of the stored upload or a new one
    multipart: Option<Multipart>,
    /// Whether the multipart upload becomes the final object; no journal knows of it then
    aimed: Option<Key>,
    running: Option<JoinHandle<Result<Part, StorageError>>>,
    /// How large the part under way is
    running_size: u64,
    buffer: Vec<Bytes>,
    buffered: u64,
    /// Where the upload is to go
    target: Option<Key>,
    /// Whether there is anything that the journal does not say
    dirty: bool,
    /// Whether the journal says that the parts are put together, or about to be
    sealed: bool,
    /// Whether they are
    completed: bool,
    /// Why nothing more can be done
    ended: Option<&'static str>,
}

/// How far an upload had come when it was last kept, or as far as it was cut since
#[derive(Default)]
struct Base {
    size: u64,
    /// How many of the parts it has
    parts: usize,
    /// What follows them
    tail: Vec<Bytes>,
}

impl Base {
    fn of(kept: &Kept) -> Self {
        let multipart = kept.journal.multipart.as_ref();
        Self {
            size: kept.journal.size,
            parts: multipart.map_or(0, |multipart| multipart.parts.len()),
            tail: kept.tail.clone(),
        }
    }
}

impl fmt::Debug for BucketAppend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketAppend")
            .field("key", &self.key)
            .field("size", &self.size())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

const GIVEN_UP: &str = "an earlier call failed or was given up; open the upload again";

impl BucketAppend {
    /// Opens an upload, and begins one if there is none and that is wanted
    pub(super) async fn open(
        inner: &Arc<Inner>,
        upload: &Key,
        create: bool,
    ) -> Result<Self, StorageError> {
        let lock = Lock::take(inner, upload)?;
        // Most uploads that may be created are not there yet. On a bucket without conditions
        // one has to look first.
        let mut opened = None;
        if create && inner.conditional.load(Ordering::Relaxed) {
            opened = Self::begin(inner, upload, Bytes::new()).await?;
        }
        let (kept, stored) = match opened {
            Some(opened) => opened,
            None => match inner.read_journal(upload).await {
                Err(StorageError::NotFound { .. })
                    if create && !inner.conditional.load(Ordering::Relaxed) =>
                {
                    match Self::begin(inner, upload, Bytes::new()).await? {
                        Some(opened) => opened,
                        None => inner.read_journal(upload).await?,
                    }
                }
                read => read?,
            },
        };
        Ok(Self::of(inner, upload, lock, kept, stored))
    }

    /// Goes on from a journal that was read, which others may have replaced since
    ///
    /// Whether another process has shows when this one writes its own.
    pub(super) fn of(
        inner: &Arc<Inner>,
        upload: &Key,
        lock: Lock,
        kept: Kept,
        stored: Stored,
    ) -> Self {
        Self {
            inner: inner.clone(),
            key: upload.clone(),
            lock: Arc::new(lock),
            base: Base::of(&kept),
            note: None,
            multipart: kept.journal.multipart.clone(),
            aimed: None,
            running: None,
            running_size: 0,
            buffered: length(&kept.tail),
            buffer: kept.tail.clone(),
            target: None,
            dirty: false,
            sealed: kept.journal.sealed,
            completed: false,
            ended: None,
            kept,
            stored,
        }
    }

    /// Writes the journal of a new upload; `None` if there is one
    pub(super) async fn begin(
        inner: &Inner,
        upload: &Key,
        note: Bytes,
    ) -> Result<Option<(Kept, Stored)>, StorageError> {
        let kept = Kept::new(inner, None, false, note, Vec::new());
        match inner.write_journal(upload, &kept, None).await {
            Ok(stored) => Ok(Some((kept, stored))),
            Err(StorageError::Busy { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn failure(&self, source: &'static str) -> StorageError {
        StorageError::Transient {
            key: self.key.to_string(),
            source: source.into(),
        }
    }

    /// Begins a call: until [`BucketAppend::done`], nobody knows what the upload holds
    fn start(&mut self) -> Result<(), StorageError> {
        match self.ended {
            Some(why) => Err(self.failure(why)),
            None => {
                self.ended = Some(GIVEN_UP);
                Ok(())
            }
        }
    }

    /// Ends a call that succeeded
    fn done(&mut self) {
        self.ended = None;
    }

    fn parts(&self) -> usize {
        self.multipart
            .as_ref()
            .map_or(0, |multipart| multipart.parts.len())
    }

    /// How many bytes are in parts that have arrived
    fn sent(&self) -> u64 {
        let multipart = self.multipart.as_ref();
        multipart.map_or(0, |multipart| multipart.size(usize::MAX))
    }

    fn part_size(&self, part: usize) -> u64 {
        self.inner.part_size_at(part)
    }

    /// Waits for the part under way
    async fn settle(&mut self) -> Result<(), StorageError> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let ended = running.await;
        self.running = None;
        self.running_size = 0;
        let part = ended.map_err(|error| StorageError::Transient {
            key: self.key.to_string(),
            source: error.into(),
        })??;
        if let Some(multipart) = &mut self.multipart {
            multipart.parts.push(part);
        }
        Ok(())
    }

    /// Sends so many of the gathered bytes as the next part
    async fn send(&mut self, size: u64) -> Result<(), StorageError> {
        self.settle().await?;
        let multipart = match &self.multipart {
            Some(multipart) => multipart,
            None => {
                let key = match &self.target {
                    Some(target) => target.clone(),
                    None => beside(&self.key, &format!("{}.parts", uuid::Uuid::new_v4())),
                };
                let id = self.inner.create_multipart(&key).await?;
                self.aimed = self.target.clone();
                self.multipart.insert(Multipart {
                    key: key.to_string(),
                    id,
                    parts: Vec::new(),
                })
            }
        };
        let path = Key::parse(&multipart.key).map_err(|error| StorageError::Corrupt {
            key: self.key.to_string(),
            detail: error.to_string(),
        })?;
        let (path, id) = (self.inner.path(&path)?, multipart.id.clone());
        let index = multipart.parts.len();
        let payload = PutPayload::from_iter(take(&mut self.buffer, size));
        self.buffered -= size;
        let (inner, key, lock) = (self.inner.clone(), self.key.clone(), self.lock.clone());
        self.running_size = size;
        self.running = Some(tokio::spawn(async move {
            let put = inner.faces.multipart.put_part(&path, &id, index, payload);
            let put = put.await;
            drop(lock);
            match put {
                Ok(part) => Ok(Part {
                    id: part.content_id,
                    size,
                }),
                Err(object_store::Error::NotFound { .. }) => Err(StorageError::Corrupt {
                    key: key.to_string(),
                    detail: "its multipart upload is gone, by a rule of the bucket that aborts \
                             incomplete ones or because the upload was about to end; start the \
                             upload again"
                        .to_owned(),
                }),
                Err(error) => Err(failed(key.as_str(), error)),
            }
        }));
        Ok(())
    }

    /// Writes a journal in the place of the one that was read
    async fn record(&mut self, sealed: bool, tail: Vec<Bytes>) -> Result<(), StorageError> {
        let note = self.note.take().unwrap_or_else(|| self.kept.note.clone());
        let kept = Kept::new(&self.inner, self.multipart.clone(), sealed, note, tail);
        let read = (&self.kept, &self.stored);
        self.stored = self
            .inner
            .write_journal(&self.key, &kept, Some(read))
            .await?;
        self.base = Base::of(&kept);
        self.kept = kept;
        self.dirty = false;
        Ok(())
    }

    /// Makes an object of the parts, where the multipart upload was begun
    ///
    /// Once a journal says that it may be done, nobody else sends another part for it, and so
    /// it may be found done. Where no journal knows of it, nobody else can have.
    async fn complete(&mut self) -> Result<Key, StorageError> {
        if self.buffered > 0 {
            self.send(self.buffered).await?;
        }
        self.settle().await?;
        let size = self.size();
        if self.aimed.is_none() && !self.sealed {
            self.record(true, Vec::new()).await?;
            self.sealed = true;
        }
        let Some(multipart) = &self.multipart else {
            return Err(self.failure("there are no parts to complete"));
        };
        let key = Key::parse(&multipart.key).map_err(|error| StorageError::Corrupt {
            key: self.key.to_string(),
            detail: error.to_string(),
        })?;
        if self.completed {
            return Ok(key);
        }
        let path = self.inner.path(&key)?;
        let completed = self
            .inner
            .faces
            .multipart
            .complete_multipart(&path, &multipart.id, multipart.ids())
            .await;
        match completed {
            Ok(_) => {}
            Err(error) if is_over(&error) => {
                if let error @ StorageError::Denied { .. } = failed(self.key.as_str(), error) {
                    return Err(error);
                }
                match self.inner.head(&key).await {
                    Ok(stat) if stat.size == size => {}
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {
                        return Err(StorageError::Corrupt {
                            key: self.key.to_string(),
                            detail: "its multipart upload is gone; start the upload again"
                                .to_owned(),
                        });
                    }
                }
            }
            // By someone who went on with the upload, and lost.
            Err(error) if error.to_string().contains("InvalidPart") => {
                return Err(StorageError::Corrupt {
                    key: self.key.to_string(),
                    detail: "its parts were replaced by those of another request; start the \
                             upload again"
                        .to_owned(),
                });
            }
            Err(error) => return Err(failed(self.key.as_str(), error)),
        }
        self.completed = true;
        Ok(key)
    }

    /// Gives up parts that went where they must not stay, and what follows them
    async fn miss(&mut self) {
        if self.aimed.take().is_some()
            && let Some(multipart) = self.multipart.take()
        {
            self.inner.abort(&multipart).await;
            // There were no parts before: see `aim`. The note is of what is given up.
            self.buffer = self.base.tail.clone();
            self.buffered = length(&self.buffer);
            self.note = None;
        }
        self.target = None;
    }

    async fn store(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        self.miss().await;
        if !self.dirty && self.note.is_none() {
            return Ok(());
        }
        self.record(self.sealed, self.buffer.clone()).await
    }

    /// Removes all that there is of the upload
    async fn clean_up(&mut self) -> Result<(), StorageError> {
        let mut gone = vec![self.inner.journal_path(&self.key)?];
        let own = self.multipart.as_ref();
        let other = self.kept.journal.multipart.as_ref();
        let other = other.filter(|other| own.is_none_or(|own| !own.is(other)));
        for multipart in own.into_iter().chain(other) {
            let is_own = own.is_some_and(|own| own.is(multipart));
            match is_own && self.completed {
                false => self.inner.abort(multipart).await,
                true if self.aimed.is_none() => {
                    let key = Key::parse(&multipart.key).ok();
                    gone.extend(key.and_then(|key| self.inner.path(&key).ok()));
                }
                true => {}
            }
        }
        self.inner.remove(gone, self.key.as_str()).await
    }

    async fn finish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.settle().await?;
        if self.parts() == 0 {
            let payload = PutPayload::from_iter(self.buffer.iter().cloned());
            self.inner.put(to, payload).await?;
        } else if let Some(aimed) = &self.aimed {
            if aimed != to {
                return Err(self.failure("the upload was aimed at another object"));
            }
            self.complete().await?;
        } else {
            let from = self.complete().await?;
            self.inner.copy(&from, to, self.size()).await?;
        }
        self.clean_up().await
    }

    fn cut(&mut self, size: u64) -> Result<(), StorageError> {
        let sent = self.sent();
        if self.sealed && size > 0 {
            return Err(self.cannot_cut(size));
        }
        if size == 0 {
            self.base = Base::default();
            match &mut self.multipart {
                // Parts are sent again under the same numbers.
                Some(multipart) if !self.sealed && self.aimed.is_none() => {
                    multipart.parts.clear();
                }
                multipart => *multipart = None,
            }
            (self.sealed, self.completed) = (false, false);
            self.buffer.clear();
            self.buffered = 0;
        } else {
            let multipart = self.multipart.as_ref();
            let kept = multipart.map_or(0, |multipart| multipart.size(self.base.parts));
            let in_base = (kept..=self.base.size).contains(&size);
            if size < sent && !in_base {
                return Err(self.cannot_cut(size));
            }
            if in_base {
                take_back(&mut self.base.tail, size - kept);
                self.base.size = size;
            }
            if size >= sent {
                take_back(&mut self.buffer, size - sent);
                self.buffered = size - sent;
            } else {
                if let Some(multipart) = &mut self.multipart {
                    multipart.parts.truncate(self.base.parts);
                }
                self.buffer = self.base.tail.clone();
                self.buffered = length(&self.buffer);
            }
        }
        self.dirty = true;
        Ok(())
    }

    fn cannot_cut(&self, size: u64) -> StorageError {
        StorageError::Corrupt {
            key: self.key.to_string(),
            detail: format!(
                "of the {} bytes of this upload, the first {size} cannot be had alone; start \
                 the upload again",
                self.size()
            ),
        }
    }
}

#[async_trait]
impl Append for BucketAppend {
    fn size(&self) -> u64 {
        self.sent() + self.running_size + self.buffered
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.start()?;
        if bytes.is_empty() {
            self.done();
            return Ok(());
        }
        if self.sealed {
            return Err(self.failure("the upload was about to end, and takes no more"));
        }
        self.dirty = true;
        self.buffered += bytes.len() as u64;
        self.buffer.push(bytes);
        loop {
            let next = self.parts() + usize::from(self.running.is_some());
            let size = self.part_size(next);
            if self.buffered < size {
                break;
            }
            self.send(size).await?;
        }
        self.done();
        Ok(())
    }

    fn aim(&mut self, to: &Key) {
        // Parts of an earlier request went elsewhere. And of two who push the same blob at the same
        // time, one would lose them.
        if self.multipart.is_none() && !self.inner.faces.parts_by_key {
            self.target = Some(to.clone());
        }
    }

    fn note(&self) -> Option<Bytes> {
        Some(self.note.as_ref().unwrap_or(&self.kept.note).clone())
    }

    fn annotate(&mut self, note: Bytes) {
        self.note = Some(note);
    }

    fn checkpoint(&self) -> Option<u64> {
        None
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.start()?;
        self.store().await?;
        self.done();
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        self.start()?;
        self.settle().await?;
        let all = self.size();
        let cut = if size > all {
            Err(StorageError::Corrupt {
                key: self.key.to_string(),
                detail: format!("expected at least {size} bytes, found {all}"),
            })
        } else if size < all {
            self.cut(size)
        } else {
            Ok(())
        };
        self.done();
        cut
    }

    async fn content(&mut self) -> Result<ByteStream, StorageError> {
        self.start()?;
        self.settle().await?;
        let content = if self.parts() == 0 {
            let pieces = self.buffer.clone().into_iter();
            let pieces = pieces.filter(|piece| !piece.is_empty()).map(Ok);
            stream::iter(pieces).boxed()
        } else if self.aimed.is_some() {
            return Err(self.failure("an upload that was aimed cannot be read"));
        } else {
            let key = self.complete().await?;
            let found = self.inner.get(&key).await?;
            bytes(&key, found)
        };
        self.done();
        Ok(content)
    }

    async fn publish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.start()?;
        self.finish(to).await?;
        self.ended = Some("the upload has become an object");
        self.multipart = None;
        Ok(())
    }
}

/// Whether a multipart upload is not there any more, perhaps since it was completed before
///
/// Azure has no uploads: its blocks are no longer waiting to be put together.
fn is_over(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
        || error.to_string().contains("InvalidBlockList")
}

impl Drop for BucketAppend {
    fn drop(&mut self) {
        let journalled = self.kept.journal.multipart.as_ref();
        let Some(multipart) = self.multipart.take() else {
            return;
        };
        if journalled.is_some_and(|journalled| journalled.is(&multipart)) {
            return;
        }
        // Nobody else knows of its parts.
        let (inner, running) = (self.inner.clone(), self.running.take());
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if let Some(running) = running {
                    let _ = running.await;
                }
                inner.abort(&multipart).await;
            });
        }
    }
}

/// Takes the first `size` bytes, of which there are so many
fn take(buffer: &mut Vec<Bytes>, size: u64) -> Vec<Bytes> {
    let mut left = size;
    let mut count = 0;
    while count < buffer.len() && buffer[count].len() as u64 <= left {
        left -= buffer[count].len() as u64;
        count += 1;
    }
    let mut taken: Vec<_> = buffer.drain(..count).collect();
    if left > 0
        && let Some(first) = buffer.first_mut()
    {
        // Less than its length, which is one in memory.
        taken.push(first.split_to(left as usize));
    }
    taken
}

/// Leaves only the first `size` bytes
fn take_back(buffer: &mut Vec<Bytes>, size: u64) {
    *buffer = take(buffer, size);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_from_the_front() {
        let mut buffer = vec![Bytes::from("abc"), Bytes::from("de"), Bytes::from("fghi")];
        assert_eq!(take(&mut buffer, 4).concat(), b"abcd");
        assert_eq!(buffer.concat(), b"efghi");
        assert_eq!(take(&mut buffer, 1).concat(), b"e");
        take_back(&mut buffer, 2);
        assert_eq!(buffer.concat(), b"fg");
        assert_eq!(take(&mut buffer, 2).concat(), b"fg");
        assert_eq!(take(&mut buffer, 0).concat(), b"");
    }
}
