//! An upload in a bucket, open for one writer

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::PutPayload;
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::error::failed;
use super::journal::{Journal, Multipart, Part, Point, Stored, Tail, beside};
use super::{Inner, Lock, bytes};
use crate::driver::{Append, ByteStream, Key};
use crate::error::StorageError;

/// After how many parts their size doubles
const DOUBLING: usize = 1000;

/// How often it does at most: with ten thousand parts, which is all that S3 takes
const DOUBLINGS: usize = 9;

/// The largest part that S3 takes
const LARGEST_PART: u64 = 5 * 1024 * 1024 * 1024;

/// An upload: its parts, the one under way, and what is gathered for the next
pub(super) struct BucketAppend {
    inner: Arc<Inner>,
    key: Key,
    /// Shared with a part that is still under way when this is dropped
    lock: Arc<Lock>,
    /// What the journal says
    journal: Journal,
    stored: Stored,
    /// The point that the current content goes on from
    base: Point,
    /// The parts that have arrived, of the stored upload or a new one
    multipart: Option<Multipart>,
    /// Whether the multipart upload becomes the final object; no journal knows of it then
    aimed: Option<Key>,
    running: Option<JoinHandle<Result<Part, StorageError>>>,
    /// How large the part under way is
    running_size: u64,
    /// What follows the parts and is still in the store alone
    tail: Option<Tail>,
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
    /// Objects that the journal does not name any more
    litter: Vec<String>,
    /// Why nothing more can be done
    ended: Option<&'static str>,
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
    pub(super) async fn open(
        inner: &Arc<Inner>,
        upload: &Key,
        create: bool,
    ) -> Result<Self, StorageError> {
        let lock = Arc::new(Lock::take(inner, upload)?);
        // Most uploads that may be created are not there yet. On a bucket without conditions
        // one has to look first.
        let mut opened = None;
        if create && inner.conditional.load(Ordering::Relaxed) {
            opened = Self::begin(inner, upload).await?;
        }
        let (journal, stored) = match opened {
            Some(opened) => opened,
            None => match inner.read_journal(upload).await {
                Err(StorageError::NotFound { .. })
                    if create && !inner.conditional.load(Ordering::Relaxed) =>
                {
                    match Self::begin(inner, upload).await? {
                        Some(opened) => opened,
                        None => inner.read_journal(upload).await?,
                    }
                }
                read => read?,
            },
        };
        Ok(Self {
            inner: inner.clone(),
            key: upload.clone(),
            lock,
            base: journal.current.clone(),
            multipart: journal.multipart.clone().map(|mut multipart| {
                multipart.parts.truncate(journal.current.parts);
                multipart
            }),
            aimed: None,
            running: None,
            running_size: 0,
            tail: journal.current.tail.clone(),
            buffer: Vec::new(),
            buffered: 0,
            target: None,
            dirty: false,
            sealed: journal.current.sealed,
            completed: false,
            litter: Vec::new(),
            ended: None,
            journal,
            stored,
        })
    }

    /// Writes the journal of a new upload; `None` if there is one
    async fn begin(inner: &Inner, upload: &Key) -> Result<Option<(Journal, Stored)>, StorageError> {
        let journal = Journal::new(inner, None, Point::default(), None);
        match inner.write_journal(upload, &journal, None).await {
            Ok(stored) => Ok(Some((journal, stored))),
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
        (self.inner.part_size << (part / DOUBLING).min(DOUBLINGS)).min(LARGEST_PART)
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

    /// Brings what follows the parts into memory
    async fn load_tail(&mut self) -> Result<(), StorageError> {
        let Some(tail) = self.tail.take() else {
            return Ok(());
        };
        let key = Key::parse(&tail.key).map_err(|error| StorageError::Corrupt {
            key: self.key.to_string(),
            detail: error.to_string(),
        })?;
        let loaded = match self.inner.get(&key).await {
            Ok(found) => found.bytes().await,
            // Deleted with the upload, or replaced by someone who goes on with it.
            Err(StorageError::NotFound { .. }) => {
                let (found, _) = self.inner.read_journal(&self.key).await?;
                return Err(match found == self.journal {
                    true => StorageError::Corrupt {
                        key: self.key.to_string(),
                        detail: format!("its last bytes, expected in `{key}`, are missing"),
                    },
                    false => StorageError::Busy {
                        key: self.key.to_string(),
                        retry_after: super::error::RETRY_AFTER,
                    },
                });
            }
            Err(error) => return Err(error),
        };
        let mut loaded = loaded.map_err(|error| failed(self.key.as_str(), error))?;
        if (loaded.len() as u64) < tail.size {
            return Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected {} bytes, found {}", tail.size, loaded.len()),
            });
        }
        // Below a length in memory.
        loaded.truncate(tail.size as usize);
        self.buffered = tail.size;
        self.buffer = Vec::from([loaded]);
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
    async fn record(&mut self, journal: Journal) -> Result<(), StorageError> {
        let read = (&self.journal, &self.stored);
        let written = self
            .inner
            .write_journal(&self.key, &journal, Some(read))
            .await?;
        self.stored = written;
        let before = std::mem::replace(&mut self.journal, journal);
        let needed: Vec<_> = self.journal.tails().collect();
        let gone = before.tails().filter(|tail| !needed.contains(tail));
        self.litter.extend(gone.map(str::to_owned));
        self.base = self.journal.current.clone();
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
            let sealed = Point {
                size,
                parts: self.parts(),
                tail: None,
                sealed: true,
            };
            let previous = Some(self.base.clone());
            let journal = Journal::new(&self.inner, self.multipart.clone(), sealed, previous);
            self.record(journal).await?;
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
            Err(error @ object_store::Error::NotFound { .. }) => {
                let error = failed(self.key.as_str(), error);
                if !error.is_not_found() {
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
            self.buffer.clear();
            self.buffered = 0;
            // There were no parts before: see `aim`.
            self.tail = self.base.tail.clone();
        }
        self.target = None;
    }

    async fn store(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        self.miss().await;
        if !self.dirty {
            return Ok(());
        }
        let tail = match (&self.tail, self.buffered) {
            (Some(tail), _) => Some(tail.clone()),
            (None, 0) => None,
            (None, size) => {
                let key = beside(&self.key, &format!("{}.tail", uuid::Uuid::new_v4()));
                let payload = PutPayload::from_iter(self.buffer.iter().cloned());
                self.inner.put(&key, payload).await?;
                Some(Tail {
                    key: key.to_string(),
                    size,
                })
            }
        };
        let current = Point {
            size: self.size(),
            parts: self.parts(),
            tail,
            sealed: false,
        };
        // Parts beyond those of the point before were sent since, and replace others.
        let previous = Some(Point {
            sealed: false,
            ..self.base.clone()
        });
        let journal = Journal::new(&self.inner, self.multipart.clone(), current, previous);
        self.record(journal).await?;
        let gone = self.paths(&self.litter);
        if !gone.is_empty()
            && let Err(error) = self.inner.remove(gone, self.key.as_str()).await
        {
            // It goes with the upload.
            let error = &error as &dyn std::error::Error;
            tracing::debug!(key = %self.key, error, "a part of an upload was left behind");
        }
        Ok(())
    }

    fn paths(&self, keys: &[String]) -> Vec<Path> {
        keys.iter()
            .filter_map(|key| self.inner.path(&Key::parse(key).ok()?).ok())
            .collect()
    }

    /// Removes all that there is of the upload
    async fn clean_up(&mut self) -> Result<(), StorageError> {
        let mut keys = std::mem::take(&mut self.litter);
        let own = self.multipart.as_ref();
        let other = self.journal.multipart.as_ref();
        let other = other.filter(|other| own.is_none_or(|own| !own.is(other)));
        for multipart in own.into_iter().chain(other) {
            let is_own = own.is_some_and(|own| own.is(multipart));
            match is_own && self.completed {
                false => self.inner.abort(multipart).await,
                true if self.aimed.is_none() => keys.push(multipart.key.clone()),
                true => {}
            }
        }
        keys.extend(self.journal.tails().map(str::to_owned));
        let mut gone = vec![self.inner.journal_path(&self.key)?];
        gone.extend(self.paths(&keys));
        self.inner.remove(gone, self.key.as_str()).await
    }

    async fn finish(&mut self, to: &Key) -> Result<(), StorageError> {
        self.load_tail().await?;
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
            self.base = Point::default();
            match &mut self.multipart {
                // Parts are sent again under the same numbers.
                Some(multipart) if !self.sealed && self.aimed.is_none() => {
                    multipart.parts.clear();
                }
                multipart => *multipart = None,
            }
            (self.sealed, self.completed) = (false, false);
            self.tail = None;
            self.buffer.clear();
            self.buffered = 0;
        } else if size >= sent {
            match &mut self.tail {
                Some(tail) => tail.size = size - sent,
                None => {
                    take_back(&mut self.buffer, size - sent);
                    self.buffered = size - sent;
                }
            }
            if size < self.base.size {
                self.base.size = size;
                match &mut self.base.tail {
                    Some(tail) if size > sent => tail.size = size - sent,
                    tail => *tail = None,
                }
            }
        } else {
            let points = [Some(&self.base), self.journal.previous.as_ref()];
            let point = points.into_iter().flatten().find(|point| {
                let multipart = self.multipart.as_ref();
                let parts = multipart.map_or(0, |multipart| multipart.size(point.parts));
                (parts..=point.size).contains(&size)
            });
            let Some(mut point) = point.cloned() else {
                return Err(self.cannot_cut(size));
            };
            let mut parts = 0;
            if let Some(multipart) = &mut self.multipart {
                multipart.parts.truncate(point.parts);
                parts = multipart.size(usize::MAX);
            }
            point.size = size;
            match &mut point.tail {
                Some(tail) if size > parts => tail.size = size - parts,
                tail => *tail = None,
            }
            self.tail = point.tail.clone();
            self.buffer.clear();
            self.buffered = 0;
            self.base = point;
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
        let tail = self.tail.as_ref().map_or(0, |tail| tail.size);
        self.sent() + self.running_size + tail + self.buffered
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
        self.load_tail().await?;
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
        self.load_tail().await?;
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

impl Drop for BucketAppend {
    fn drop(&mut self) {
        let journalled = self.journal.multipart.as_ref();
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
