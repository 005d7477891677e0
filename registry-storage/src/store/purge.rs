//! Removing upload sessions that nobody goes on with

use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use registry_core::upload::UploadId;
use registry_core::{Algorithm, RepositoryName};

use super::note::Note;
use super::{SMALL_READ_LIMIT, Store};
use crate::driver::{Append, Key};
use crate::error::StorageError;
use crate::layout;

/// How many entries of a folder are held at once
const BATCH: usize = 1000;

/// How long nothing must have happened to a session, however old it is
///
/// Longer than any request pauses between two bytes, and than clocks of machines that share a
/// storage differ.
const QUIET: Duration = Duration::from_secs(60 * 60);

/// How many sessions a report names; it counts them all
const NAMED: usize = 1000;

/// Which upload sessions a purge removes
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_storage::PurgeOptions;
///
/// let options = PurgeOptions::default().with_dry_run(true);
/// assert_eq!(options.older_than, Duration::from_secs(7 * 24 * 60 * 60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurgeOptions {
    /// How old a session must be, from its beginning; 7 days by default, as in distribution
    pub older_than: Duration,
    /// Whether to report only; nothing is locked or changed then, and so an upload that someone
    /// holds open without sending anything is reported too
    pub dry_run: bool,
}

impl Default for PurgeOptions {
    fn default() -> Self {
        Self {
            older_than: super::uploads::LIFETIME,
            dry_run: false,
        }
    }
}

impl PurgeOptions {
    /// Sets [`PurgeOptions::older_than`]
    #[must_use]
    pub fn with_older_than(mut self, age: Duration) -> Self {
        self.older_than = age;
        self
    }

    /// Sets [`PurgeOptions::dry_run`]
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// What a purge did
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PurgeReport {
    /// How many sessions there were
    pub sessions: u64,
    /// How many were removed, or would have been
    pub removed: u64,
    /// How many bytes of content those had
    pub bytes: u64,
    /// How many old ones were left because someone holds them open or they got bytes lately
    pub in_use: u64,
    /// How many sessions and folders could not be looked at or removed
    pub failed: u64,
    /// The first 1000 of those that were removed, or would have been
    pub purged: Vec<PurgedUpload>,
    /// The first 1000 failures
    pub errors: Vec<StorageError>,
}

/// A session that was removed
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PurgedUpload {
    /// The repository that it was for
    pub name: RepositoryName,
    /// The session
    pub id: UploadId,
    /// When it began, or, where that cannot be read any more, when it was last written
    pub started: SystemTime,
    /// How many bytes of content it had
    pub bytes: u64,
}

/// What is known of a session without opening it
struct Found {
    started: SystemTime,
    /// Whether it says when it began
    is_session: bool,
    /// Whether it does so in a `startedat`, apart from the bytes
    is_apart: bool,
    /// The size of the data, if there is any
    data: Option<u64>,
    /// When anything was written last
    written: Option<SystemTime>,
}

enum Outcome {
    Removed {
        started: SystemTime,
        bytes: u64,
    },
    InUse,
    /// Too young, gone already, or of unknown age
    Left,
}

impl Store {
    /// Removes upload sessions that are older than they may get
    ///
    /// A session's age is told by its `startedat`, as in distribution; where that cannot be read,
    /// or is missing because someone was killed on the way, by when its files were last written.
    /// However old, a session is left alone while someone holds it open, and while it got bytes
    /// within the last hour (or within [`PurgeOptions::older_than`], if that is shorter).
    ///
    /// The session ends first, durably, under its lock, and its bytes go then: a request that
    /// would go on with it finds that there is no such session, and never half of one. What a
    /// purge that is broken off leaves of a session, the next one removes. Several may run at
    /// once, in several processes, on sessions of ours and of distribution.
    ///
    /// Folders are read one after the other, in parts: memory does not grow with the storage.
    /// To stop it, drop the future. An empty folder, which takes no room but a name, stays: its
    /// age is unknown, and a session may just be beginning in it. Temporary files of a driver
    /// are the driver's own to remove; [`FileSystem::open`](crate::FileSystem::open) does.
    ///
    /// # Errors
    ///
    /// None: what fails is counted in the report, and the rest goes on.
    pub async fn purge_uploads(&self, options: &PurgeOptions) -> PurgeReport {
        let mut report = PurgeReport::default();
        self.purge_below(None, options, &mut report).await;
        report
    }

    /// Purges the repositories below `parent`, and that itself
    fn purge_below<'a>(
        &'a self,
        parent: Option<&'a RepositoryName>,
        options: &'a PurgeOptions,
        report: &'a mut PurgeReport,
    ) -> BoxFuture<'a, ()> {
        async move {
            let folder = parent.map_or_else(layout::repositories, |name| {
                layout::repository(name.as_str())
            });
            let mut cursor = None;
            while let Some(names) = self.folders(&folder, &mut cursor, report).await {
                for child in names {
                    match parent {
                        Some(name) if child == layout::UPLOADS => {
                            self.purge_repository(name, options, report).await;
                            continue;
                        }
                        _ => {}
                    }
                    let path = match parent {
                        Some(parent) => format!("{parent}/{child}"),
                        None => child,
                    };
                    // Other folders of a repository begin with an underscore, which no name
                    // does.
                    if let Ok(name) = RepositoryName::try_from(path.as_str()) {
                        self.purge_below(Some(&name), options, report).await;
                    }
                }
            }
        }
        .boxed()
    }

    async fn purge_repository(
        &self,
        name: &RepositoryName,
        options: &PurgeOptions,
        report: &mut PurgeReport,
    ) {
        let folder = layout::uploads(name);
        let mut cursor = None;
        while let Some(names) = self.folders(&folder, &mut cursor, report).await {
            for child in names {
                // What no registry named is nobody's session, and not ours to remove.
                let id = match UploadId::try_from(child.as_str()) {
                    Ok(id) if id.to_string() == child => id,
                    _ => continue,
                };
                report.sessions += 1;
                match self.purge_session(name, &id, options).await {
                    Ok(Outcome::Removed { started, bytes }) => {
                        let dry_run = options.dry_run;
                        tracing::info!(%name, %id, bytes, dry_run, "an abandoned upload is removed");
                        report.removed += 1;
                        report.bytes += bytes;
                        if report.purged.len() < NAMED {
                            report.purged.push(PurgedUpload {
                                name: name.clone(),
                                id,
                                started,
                                bytes,
                            });
                        }
                    }
                    Ok(Outcome::InUse) => report.in_use += 1,
                    Ok(Outcome::Left) => {}
                    Err(error) => report.fail(error),
                }
            }
        }
    }

    /// The next folders in a folder; `None` at the end
    async fn folders(
        &self,
        folder: &Key,
        cursor: &mut Option<String>,
        report: &mut PurgeReport,
    ) -> Option<Vec<String>> {
        // A driver whose answers are always at hand would else never let others run.
        tokio::task::yield_now().await;
        match self
            .objects()
            .list(Some(folder), cursor.as_deref(), BATCH)
            .await
        {
            Ok(entries) => {
                *cursor = Some(entries.last()?.name.clone());
                let folders = entries.into_iter().filter(|entry| entry.is_dir);
                Some(folders.map(|entry| entry.name).collect())
            }
            Err(StorageError::NotFound { .. }) => None,
            Err(error) => {
                report.fail(error);
                None
            }
        }
    }

    async fn purge_session(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        options: &PurgeOptions,
    ) -> Result<Outcome, StorageError> {
        let Some(found) = self.look_at(name, id).await? else {
            return Ok(Outcome::Left);
        };
        if !found.is_old(options) {
            return Ok(Outcome::Left);
        }
        if !found.is_quiet(options) {
            return Ok(Outcome::InUse);
        }
        let removed = |found: &Found| Outcome::Removed {
            started: found.started,
            bytes: found.data.unwrap_or_default(),
        };
        if options.dry_run {
            return Ok(removed(&found));
        }
        let lock = match self.hold(name, id).await {
            // Its bytes just became a blob, or were dropped; whoever did that does the rest.
            Ok(None) if found.data.is_some() => return Ok(Outcome::Left),
            Ok(lock) => lock,
            Err(StorageError::Busy { .. }) => return Ok(Outcome::InUse),
            Err(error) => return Err(error),
        };
        // Someone may have gone on with it, or ended it, before the lock was had.
        let found = match self.look_at(name, id).await? {
            Some(found) if found.is_old(options) && found.is_quiet(options) => found,
            Some(_) => return Ok(Outcome::InUse),
            None => return Ok(Outcome::Left),
        };
        if found.is_apart {
            self.delete_if_present(&layout::upload_started(name, id))
                .await?;
        }
        self.objects()
            .delete_tree(&layout::upload(name, id))
            .await?;
        drop(lock);
        Ok(removed(&found))
    }

    /// Takes the session's lock; `None` if it has no data, and so nothing to lock
    async fn hold(
        &self,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Result<Option<Box<dyn Append>>, StorageError> {
        match self.uploads().reopen(&layout::upload_data(name, id)).await {
            Ok(lock) => Ok(Some(lock)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None` if there is nothing whose age could be told
    async fn look_at(
        &self,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Result<Option<Found>, StorageError> {
        let started_key = layout::upload_started(name, id);
        let data = layout::upload_data(name, id);
        if let Some(notes) = self.uploads().notes()
            && let Some(look) = absent(notes.look(&data).await)?
        {
            let stat = look.stat();
            let note = Note::parse(&look.note());
            let started = note.and_then(|note| note.started);
            return Ok(started.or(stat.modified).map(|begun| Found {
                started: begun,
                is_session: started.is_some(),
                is_apart: false,
                data: Some(stat.size),
                written: stat.modified,
            }));
        }
        let data = absent(self.uploads().progress(&data).await)?;
        let marker = absent(self.objects().stat(&started_key).await)?;
        let mut written = data.and_then(|data| data.modified);
        let mut started = None;
        if let Some(marker) = marker {
            written = written.max(marker.modified);
            started = match self.objects().read(&started_key, SMALL_READ_LIMIT).await {
                Ok(text) => date(&text).or(marker.modified),
                Err(StorageError::Corrupt { .. }) => marker.modified,
                // It ended just now.
                Err(StorageError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        if data.is_none() {
            written = written.max(self.newest_state_written(name, id).await?);
        }
        Ok(started.or(written).map(|started| Found {
            started,
            is_session: marker.is_some(),
            is_apart: true,
            data: data.map(|data| data.size),
            written,
        }))
    }

    /// When a saved hash was last written, of a session that has nothing else
    async fn newest_state_written(
        &self,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Result<Option<SystemTime>, StorageError> {
        let mut newest = None;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = layout::upload_states(name, id, algorithm);
            let states = absent(self.objects().list(Some(&folder), None, BATCH).await)?;
            for state in states.unwrap_or_default() {
                let Ok(offset) = state.name.parse() else {
                    continue;
                };
                let key = layout::upload_state(name, id, algorithm, offset);
                let stat = absent(self.objects().stat(&key).await)?;
                newest = newest.max(stat.and_then(|stat| stat.modified));
            }
        }
        Ok(newest)
    }
}

impl Found {
    fn is_old(&self, options: &PurgeOptions) -> bool {
        // A session that is just being made has its data first and `startedat` then.
        let limit = match self.is_session {
            true => options.older_than,
            false => options.older_than.max(QUIET),
        };
        is_before(self.started, limit)
    }

    fn is_quiet(&self, options: &PurgeOptions) -> bool {
        let limit = QUIET.min(options.older_than);
        self.written.is_none_or(|written| is_before(written, limit))
    }
}

impl PurgeReport {
    fn fail(&mut self, error: StorageError) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "uploads cannot be purged here"
        );
        self.failed += 1;
        if self.errors.len() < NAMED {
            self.errors.push(error);
        }
    }
}

/// Whether it was at least so long ago; a time to come was not
fn is_before(time: SystemTime, age: Duration) -> bool {
    SystemTime::now()
        .duration_since(time)
        .is_ok_and(|elapsed| elapsed >= age)
}

/// The date in a `startedat` (RFC 3339)
pub(super) fn date(text: &[u8]) -> Option<SystemTime> {
    let date: Timestamp = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    Some(date.into())
}

fn absent<T>(result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
