//! Upload sessions, whose whole state is in the storage
//!
//! A session is a folder as distribution makes it: `startedat`, `data`, and under
//! `hashstates` the running hash at some offsets. Each request reads it anew, so any process
//! on the storage can take the next one. A hash is saved only after the bytes that it covers
//! are durable. The offset of the newest saved hash is therefore a place from which an upload
//! goes on after any crash, without reading back a byte; what lies behind it is cut off.
//!
//! Where the driver keeps [notes](crate::driver::Notes), as one of a bucket does, a session is one
//! object instead: its beginning and its hash are noted with the bytes.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use jiff::Timestamp;
use registry_core::upload::{
    ChunkError, ChunkHeader, CompleteError, Completion, Session, UploadId,
};
use registry_core::{Algorithm, Digest, Hasher, RepositoryName};

use super::gathered::Gathered;
use super::hashing::{Beside, HashError};
use super::note::Note;
use super::purge::date;
use super::{SMALL_READ_LIMIT, Store};
use crate::driver::{Append, Look, Notes};
use crate::error::StorageError;
use crate::layout;

/// How old a session may get, unless the store is told otherwise
///
/// Distribution purges after a week by default, and a push that takes longer is none.
pub(super) const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How many bytes are gathered before they are hashed and written
///
/// Large enough that a trip to the disk's threads is small beside the work, small enough that
/// some of them per running upload are little memory.
const WRITE_SIZE: usize = 512 * 1024;

/// How many of these may not be hashed yet when one more is to be hashed on another processor
///
/// With one, it has something to do while this one is woken and brings the next.
const OUTSTANDING: usize = 1;

/// Why there is no upload session
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UploadError {
    /// It never was, has ended or expired
    #[error(
        "there is no upload session `{id}`; it never was, has ended or expired; start a new one"
    )]
    Unknown {
        /// The session
        id: UploadId,
    },
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why a body was not (wholly) added to an upload
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The body broke off; what arrived is kept
    #[error("the body broke off: {0}")]
    Body(String),
    /// The chunk does not fit the session
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The session ended meanwhile
    #[error("the upload session `{id}` ended while this request was under way")]
    Unknown {
        /// The session
        id: UploadId,
    },
}

/// Why an upload did not become a blob
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteUploadError {
    /// Its last bytes could not be added
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The bytes do not have that digest; the session goes on
    #[error(transparent)]
    Digest(#[from] CompleteError),
    /// The storage failed
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An upload session, between or within requests
///
/// See [`Store`] for an example.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    name: RepositoryName,
    session: Session,
    /// When it began, as far as that is known
    started: SystemTime,
    /// What was seen of it, where the driver keeps notes, if nothing was done with it since
    look: Option<Box<dyn Look>>,
    /// Whether the algorithm is taken for the usual one, which what was saved may gainsay
    presumed: bool,
}

impl Store {
    /// Begins an upload
    ///
    /// # Errors
    ///
    /// What the storage says.
    pub async fn start_upload(
        &self,
        name: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<Upload, StorageError> {
        let id = UploadId::from_random_bytes(*uuid::Uuid::new_v4().as_bytes());
        let now = Timestamp::now();
        let session = Session::begin(id, algorithm);
        if let Some(notes) = self.uploads().notes() {
            let note = Note::encode(now.into(), session.hasher());
            notes.begin(&layout::upload_data(name, &id), note).await?;
            return Ok(self.upload(name, session, now.into()));
        }
        // None of it is synced: a session that a power cut takes away is one to start again. The
        // file for the bytes is made here and nowhere else, so that its name never leads to
        // another file once it was published or deleted.
        let data = layout::upload_data(name, &id);
        let started = layout::upload_started(name, &id);
        let date = Bytes::from(format!("{now:.0}"));
        match self.uploads().begin_with(&data, &started, date.clone()) {
            Some(begun) => begun.await?,
            None => {
                drop(self.uploads().append(&data).await?);
                self.objects().write_unsynced(&started, date).await?;
            }
        }
        let upload = self.upload(name, session, now.into());
        if algorithm != Algorithm::default() {
            // The only trace of the algorithm until there are bytes.
            upload.save_state().await?;
        }
        Ok(upload)
    }

    /// Takes up an upload where its last request, or a crash, left it
    ///
    /// # Errors
    ///
    /// [`UploadError::Unknown`] when there is no such session in this repository.
    pub async fn open_upload(
        &self,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Result<Upload, UploadError> {
        if let Some(notes) = self.uploads().notes() {
            return self.open_noted(notes, name, id).await;
        }
        let started = match self
            .objects()
            .read(&layout::upload_started(name, id), SMALL_READ_LIMIT)
            .await
        {
            Ok(bytes) => bytes,
            Err(StorageError::NotFound { .. }) => return Err(UploadError::Unknown { id: *id }),
            Err(error) => return Err(error.into()),
        };
        let data = layout::upload_data(name, id);
        let size = match self.uploads().progress(&data).await {
            Ok(stat) => stat.size,
            // Its bytes became a blob.
            Err(StorageError::NotFound { .. }) => return Err(UploadError::Unknown { id: *id }),
            Err(error) => return Err(error.into()),
        };
        // Without bytes there is nothing to know but the algorithm. Who closes the session says
        // which it is, and who goes on with it looks when it is theirs.
        let session = match size {
            0 => Session::begin(*id, Algorithm::default()),
            size => self.load_session(name, id, size).await?,
        };
        // A date that cannot be read was written by a process that died just then.
        let started = date(&started).unwrap_or_else(SystemTime::now);
        if self.has_expired(name, &session, started).await {
            return Err(UploadError::Unknown { id: *id });
        }
        Ok(Upload {
            presumed: size == 0,
            ..self.upload(name, session, started)
        })
    }

    async fn open_noted(
        &self,
        notes: &dyn Notes,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Result<Upload, UploadError> {
        let look = match notes.look(&layout::upload_data(name, id)).await {
            Ok(look) => look,
            Err(StorageError::NotFound { .. }) => return Err(UploadError::Unknown { id: *id }),
            Err(error) => return Err(error.into()),
        };
        let (session, started) = noted_session(name, id, &look.note(), look.stat().size)?;
        if self.has_expired(name, &session, started).await {
            return Err(UploadError::Unknown { id: *id });
        }
        Ok(Upload {
            look: Some(look),
            ..self.upload(name, session, started)
        })
    }

    fn upload(&self, name: &RepositoryName, session: Session, started: SystemTime) -> Upload {
        Upload {
            store: self.clone(),
            name: name.clone(),
            session,
            started,
            look: None,
            presumed: false,
        }
    }

    /// Whether a session is too old to be gone on with; then it is removed
    async fn has_expired(
        &self,
        name: &RepositoryName,
        session: &Session,
        started: SystemTime,
    ) -> bool {
        let age = SystemTime::now().duration_since(started);
        let age = age.unwrap_or_default();
        let lifetime = self.upload_lifetime;
        if lifetime.is_none_or(|lifetime| session.expired(age, lifetime).is_none()) {
            return false;
        }
        // Over it is in any case, also on a storage that is mounted read-only.
        let id = session.id();
        let folder = layout::upload(name, &id);
        if let Err(error) = self.objects().delete_tree(&folder).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%name, %id, error, "an expired upload was left behind; a purge removes it");
        }
        true
    }

    /// The session as its newest saved hash has it, of those that cover no more than `size`
    /// bytes
    async fn load_session(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        size: u64,
    ) -> Result<Session, StorageError> {
        // A session that has just begun has none, and that is to be found out in one call.
        let folder = layout::upload_algorithms(name, id);
        let saved = match self.objects().list(Some(&folder), None, usize::MAX).await {
            Ok(entries) => entries,
            Err(StorageError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut newest: Option<Hasher> = None;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            if !saved
                .iter()
                .any(|entry| entry.name == algorithm.to_string())
            {
                continue;
            }
            if let Some(hasher) = self.newest_state(name, id, algorithm, size).await?
                && newest
                    .as_ref()
                    .is_none_or(|newest| newest.written() <= hasher.written())
            {
                newest = Some(hasher);
            }
        }
        Ok(match newest {
            Some(hasher) => Session::resume(*id, hasher),
            None => Session::begin(*id, Algorithm::default()),
        })
    }

    async fn newest_state(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        algorithm: Algorithm,
        size: u64,
    ) -> Result<Option<Hasher>, StorageError> {
        let entries = match self
            .objects()
            .list(
                Some(&layout::upload_states(name, id, algorithm)),
                None,
                usize::MAX,
            )
            .await
        {
            Ok(entries) => entries,
            Err(StorageError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut offsets: Vec<u64> = entries
            .iter()
            .filter_map(|entry| entry.name.parse().ok())
            .filter(|offset| *offset <= size)
            .collect();
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        for offset in offsets {
            let key = layout::upload_state(name, id, algorithm, offset);
            let bytes = match self.objects().read(&key, SMALL_READ_LIMIT).await {
                Ok(bytes) => bytes,
                Err(StorageError::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            // One that is torn or of another offset is none; the one before it will do.
            if let Ok(hasher) = Hasher::restore(algorithm, &bytes)
                && hasher.written() == offset
            {
                return Ok(Some(hasher));
            }
        }
        Ok(None)
    }
}

impl From<HashError> for AppendError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Chunk(error) => Self::Chunk(error),
            HashError::Lost => Self::Storage(StorageError::Transient {
                key: "_uploads".to_owned(),
                source: "the thread that hashes an upload has ended before it was done".into(),
            }),
        }
    }
}

/// Which of the running hashes are saved while a body is received
struct Checkpoints {
    /// After how many bytes
    every: u64,
    /// The offset of the last
    last: u64,
    /// What is to be synced before more is written
    due: Option<Hasher>,
    /// What is being synced
    behind: Option<Hasher>,
}

impl Checkpoints {
    fn new(every: Option<u64>, offset: u64) -> Self {
        Self {
            every: every.unwrap_or(u64::MAX),
            last: offset,
            due: None,
            behind: None,
        }
    }

    /// Whether one is due when so many bytes are written
    fn are_due(&self, written: u64) -> bool {
        written - self.last >= self.every
    }

    /// What is written is what this hash covers
    fn reach(&mut self, hasher: &Hasher) {
        if self.are_due(hasher.written()) {
            self.last = hasher.written();
            self.due = Some(hasher.clone());
        }
    }
}

/// The session that a note is of, and when it began
fn noted_session(
    name: &RepositoryName,
    id: &UploadId,
    note: &[u8],
    size: u64,
) -> Result<(Session, SystemTime), StorageError> {
    match Note::parse(note) {
        Some(note) if note.hasher.written() == size => {
            let started = note.started.unwrap_or_else(SystemTime::now);
            Ok((Session::resume(*id, note.hasher), started))
        }
        _ => Err(StorageError::Corrupt {
            key: layout::upload_data(name, id).to_string(),
            detail: format!(
                "expected the running hash of the {size} bytes of this upload; start it again"
            ),
        }),
    }
}

impl Upload {
    /// The session's id
    pub fn id(&self) -> UploadId {
        self.session.id()
    }

    /// How many bytes it has
    pub fn offset(&self) -> u64 {
        self.session.offset()
    }

    /// Says which algorithm its digest will have; only an upload without bytes can still change
    ///
    /// Returns whether it now hashes with `algorithm`.
    pub fn set_algorithm(&mut self, algorithm: Algorithm) -> bool {
        let hashes = self.session.set_algorithm(algorithm);
        self.presumed &= !hashes;
        hashes
    }

    /// Adds a request's body
    ///
    /// When this returns the bytes are durable, and [`Upload::offset`] is where the next chunk
    /// starts, in this process or another.
    ///
    /// # Errors
    ///
    /// [`AppendError`]. The session stays usable, and what arrived before a broken body is kept.
    pub async fn append<S, E>(&mut self, header: ChunkHeader, body: S) -> Result<(), AppendError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        let mut file = self.lock(true).await?;
        let result = self.receive(&mut *file, header, body).await;
        match &result {
            Ok(())
            | Err(AppendError::Body(_) | AppendError::Chunk(ChunkError::TooShort { .. })) => {
                self.keep(&mut *file).await?;
            }
            Err(_) => {}
        }
        result
    }

    /// Makes the bytes a blob of the repository
    ///
    /// When this returns, the blob and its link are durable and the session has ended.
    ///
    /// # Errors
    ///
    /// [`CompleteUploadError::Digest`] when the bytes have another digest. The session goes on
    /// then: a client that only erred in the digest can complete it again.
    pub async fn complete(mut self, digest: Digest) -> Result<(), CompleteUploadError> {
        let mut file = self.lock(false).await?;
        self.commit(&mut *file, digest).await
    }

    /// Adds a request's body and makes the whole a blob
    ///
    /// As [`Upload::append`] and [`Upload::complete`], with fewer writes.
    ///
    /// # Errors
    ///
    /// As both. The bytes of this request may be lost then, where the storage had put them in
    /// the blob's place already: see [`Append::aim`].
    pub async fn append_and_complete<S, E>(
        mut self,
        header: ChunkHeader,
        body: S,
        digest: Digest,
    ) -> Result<(), CompleteUploadError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        let mut file = self.lock(true).await?;
        // Bytes that are hashed otherwise along the way have to be read again first.
        if digest.algorithm() == self.session.algorithm() {
            file.aim(&layout::blob(&digest));
        }
        match self.receive(&mut *file, header, body).await {
            Ok(()) => {}
            Err(error) => {
                if matches!(
                    error,
                    AppendError::Body(_) | AppendError::Chunk(ChunkError::TooShort { .. })
                ) {
                    self.keep(&mut *file).await?;
                }
                return Err(error.into());
            }
        }
        self.commit(&mut *file, digest).await
    }

    /// Ends the session and drops its bytes
    ///
    /// # Errors
    ///
    /// What the storage says.
    pub async fn cancel(self) -> Result<(), StorageError> {
        let folder = layout::upload(&self.name, &self.id());
        let _ = self.session.cancel();
        self.store.objects().delete_tree(&folder).await
    }

    /// Takes the session for this request alone, and looks that it is still as it was read
    ///
    /// A body is meant for the offset that the session had when the request came. To close it
    /// without one, what it has now is what counts.
    async fn lock(&mut self, for_body: bool) -> Result<Box<dyn Append>, AppendError> {
        let id = self.id();
        let data = layout::upload_data(&self.name, &id);
        let store = self.store.clone();
        let reopened = match store.uploads().notes() {
            None => store.uploads().reopen(&data).await,
            Some(notes) => match self.look.take() {
                Some(look) => look.open().await,
                None => match notes.look(&data).await {
                    Ok(look) => look.open().await,
                    Err(error) => Err(error),
                },
            },
        };
        let mut file = match reopened {
            Ok(file) => file,
            Err(StorageError::NotFound { .. }) => return Err(AppendError::Unknown { id }),
            Err(error) => {
                // Whoever holds it may be ending it: then there is nothing to come back to.
                if error.is_busy() {
                    self.still_there().await?;
                }
                return Err(error.into());
            }
        };
        // Another request may have gone on with the session between the reading of its state
        // and the lock, or be cancelling it.
        let current = match file.note() {
            Some(note) => noted_session(&self.name, &id, &note, file.size())?.0,
            None => {
                let known = file.size() == 0 && self.offset() == 0 && !self.presumed;
                let current = match known {
                    true => Session::begin(id, self.session.algorithm()),
                    false => store.load_session(&self.name, &id, file.size()).await?,
                };
                self.still_there().await?;
                current
            }
        };
        if std::mem::take(&mut self.presumed) && current.offset() == 0 {
            self.set_algorithm(current.algorithm());
        }
        if current.offset() > self.offset() {
            let got = self.offset();
            self.session = current;
            if for_body {
                return Err(ChunkError::OutOfOrder {
                    expected: self.offset(),
                    got,
                }
                .into());
            }
        }
        file.truncate(self.session.offset()).await?;
        Ok(file)
    }

    /// Looks that nobody has ended the session
    ///
    /// If somebody has, what this request wrote into its folder since is removed.
    async fn still_there(&self) -> Result<(), AppendError> {
        let id = self.id();
        if let Some(notes) = self.store.uploads().notes() {
            return match notes.look(&layout::upload_data(&self.name, &id)).await {
                Ok(_) => Ok(()),
                Err(StorageError::NotFound { .. }) => Err(AppendError::Unknown { id }),
                Err(error) => Err(error.into()),
            };
        }
        let objects = self.store.objects();
        match objects.stat(&layout::upload_started(&self.name, &id)).await {
            Ok(_) => Ok(()),
            Err(StorageError::NotFound { .. }) => {
                objects
                    .delete_tree(&layout::upload(&self.name, &id))
                    .await?;
                Err(AppendError::Unknown { id })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn receive<S, E>(
        &mut self,
        file: &mut dyn Append,
        header: ChunkHeader,
        mut body: S,
    ) -> Result<(), AppendError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        let mut checkpoints = Checkpoints::new(file.checkpoint(), self.session.offset());
        let mut gathered = Gathered::default();
        let mut beside = Beside::new(&self.store.inner.processors);
        // Whether what comes next is hashed beside: not before it is more than a few bytes.
        let mut is_beside = false;
        let mut chunk = self.session.chunk(header)?;
        if let Some(length) = header.length {
            file.expect(length);
        }
        let broken = loop {
            let frame = match body.try_next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            };
            if !is_beside {
                // While it is still in the processor's cache.
                let _ = chunk.append(&frame)?;
            }
            gathered.push(frame);
            if gathered.length() < WRITE_SIZE {
                continue;
            }
            if is_beside {
                // The hash that is saved has to be that of all that is written.
                let due = checkpoints.are_due(file.size());
                let outstanding = if due { 0 } else { OUTSTANDING };
                beside.settle(&mut chunk, outstanding).await?;
                if due {
                    checkpoints.reach(chunk.hasher());
                }
            }
            if let Some(hasher) = checkpoints.due.take() {
                file.annotate(Note::encode(self.started, &hasher));
                file.sync_behind().await?;
                if let Some(durable) = checkpoints.behind.replace(hasher)
                    && file.note().is_none()
                {
                    let (id, algorithm) = (chunk.id(), durable.algorithm());
                    let key = layout::upload_state(&self.name, &id, algorithm, durable.written());
                    // Without it the one before will do, so nothing waits for the disk.
                    let objects = self.store.objects();
                    objects.write_unsynced(&key, durable.save().into()).await?;
                }
            }
            let pieces = gathered.take();
            match is_beside {
                true => beside.hash(&mut chunk, &pieces).await?,
                false => checkpoints.reach(chunk.hasher()),
            }
            file.write_vectored(pieces).await?;
            is_beside = beside.is_open();
        };
        beside.settle(&mut chunk, 0).await?;
        let rest = gathered.take();
        if is_beside {
            for piece in &rest {
                let _ = chunk.append(piece)?;
            }
        }
        if !rest.is_empty() {
            file.write_last(rest).await?;
        }
        match broken {
            Some(error) => {
                let _ = chunk.interrupt();
                Err(AppendError::Body(error))
            }
            None => {
                let _ = chunk.finish()?;
                Ok(())
            }
        }
    }

    async fn commit(
        &mut self,
        file: &mut dyn Append,
        digest: Digest,
    ) -> Result<(), CompleteUploadError> {
        let id = self.id();
        file.annotate(self.note());
        let fresh = Session::begin(id, self.session.algorithm());
        let session = std::mem::replace(&mut self.session, fresh);
        let completed = match session.complete(digest) {
            Ok(Completion::Commit(_)) => Ok(()),
            Ok(Completion::Rehash(mut rehash)) => {
                // The client closes with another algorithm than the one that was hashed along
                // the way, which only a second reading can answer.
                let mut stored = file.content().await?;
                while let Some(bytes) = stored.try_next().await? {
                    rehash.update(&bytes);
                }
                rehash.finish().map(|_| ())
            }
            Err(refused) => Err(refused),
        };
        if let Err((session, error)) = completed {
            self.session = session;
            self.keep(file).await?;
            return Err(error.into());
        }

        let store = &self.store;
        // The link first: until there is a blob it says nothing, and once there is one the
        // session has ended. Whenever this breaks off, there is the one or the other.
        let size = file.size();
        let link = layout::layer_link(&self.name, &digest);
        if !file.accompany(&link, digest.to_string().into()) {
            store.write_link(&link, &digest).await?;
        }
        // The session goes while its lock is still held: a request that waits for the lock
        // then finds no session, and never writes into what is a blob by now.
        let vacates = file.vacate();
        match file.publish(&layout::blob(&digest)).await {
            Ok(()) => {}
            // The session was cancelled meanwhile.
            Err(StorageError::NotFound { .. }) => {
                self.still_there().await?;
                return Err(AppendError::Unknown { id }.into());
            }
            Err(error) => return Err(error.into()),
        }
        store.remember_source(&digest, &self.name, size);
        if vacates || file.note().is_some() {
            // It was one with its bytes, or has gone with them.
            return Ok(());
        }
        store
            .objects()
            .delete_tree(&layout::upload(&self.name, &id))
            .await?;
        Ok(())
    }

    /// Makes durable what has arrived, and the hash of it with it or then
    async fn keep(&mut self, file: &mut dyn Append) -> Result<(), AppendError> {
        file.annotate(self.note());
        match file.sync().await {
            // Nobody goes on with what has ended.
            Err(error) if file.note().is_some() && error.is_not_found() => {
                return Err(AppendError::Unknown { id: self.id() });
            }
            synced => synced?,
        }
        let note = file.note();
        if file.size() < self.offset() {
            // They were on their way to be a blob that they are not.
            let (id, algorithm) = (self.id(), self.session.algorithm());
            let size = file.size();
            self.session = match &note {
                Some(note) => noted_session(&self.name, &id, note, size)?.0,
                None => self.store.load_session(&self.name, &id, size).await?,
            };
            self.session.set_algorithm(algorithm);
            file.truncate(self.offset()).await?;
        }
        if note.is_some() {
            return Ok(());
        }
        self.save_state().await?;
        self.still_there().await
    }

    fn note(&self) -> Bytes {
        Note::encode(self.started, self.session.hasher())
    }

    async fn save_state(&self) -> Result<(), StorageError> {
        let key = layout::upload_state(
            &self.name,
            &self.id(),
            self.session.algorithm(),
            self.offset(),
        );
        self.store
            .objects()
            .write(&key, self.session.hasher().save().into())
            .await
    }
}
