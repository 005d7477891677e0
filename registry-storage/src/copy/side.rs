//! One of the two storages, asked with patience

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, stream};
use registry_core::{Algorithm, Digest, RepositoryName};

use crate::driver::{Driver, Entry, Key, Stat};
use crate::error::StorageError;
use crate::layout;
use crate::store::{MANIFEST_READ_LIMIT, read_link};

/// How many entries of a folder are held at once
const PAGE: usize = 1000;

/// How long to wait before the first repetition; each time twice as long
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest wait
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A storage whose passing failures are waited out
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) driver: Arc<dyn Driver>,
    /// How often a call is repeated
    pub(super) retries: u32,
}

impl Side {
    /// Repeats a call for as long as its failure may pass
    pub(super) async fn patiently<'a, T>(
        &self,
        mut call: impl FnMut() -> BoxFuture<'a, Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let mut waits = Waits::new(self.retries);
        loop {
            match call().await {
                Err(error) if waits.another(&error).await => {}
                result => return result,
            }
        }
    }

    /// `None` if there is none
    pub(super) async fn stat(&self, key: &Key) -> Result<Option<Stat>, StorageError> {
        absent(self.patiently(|| self.driver.stat(key)).await)
    }

    /// `None` if there is none
    pub(super) async fn read(
        &self,
        key: &Key,
        limit: usize,
    ) -> Result<Option<Bytes>, StorageError> {
        absent(self.patiently(|| self.driver.read(key, limit)).await)
    }

    /// The bytes under the digest of a manifest
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Option<Bytes>, StorageError> {
        self.read(&layout::blob(digest), MANIFEST_READ_LIMIT).await
    }

    pub(super) async fn link(&self, key: &Key) -> Result<Option<Digest>, StorageError> {
        self.patiently(|| Box::pin(read_link(&*self.driver, key)))
            .await
    }

    pub(super) async fn write(&self, key: &Key, bytes: &Bytes) -> Result<(), StorageError> {
        self.patiently(|| self.driver.write(key, bytes.clone()))
            .await
    }

    pub(super) async fn write_link(&self, key: &Key, digest: &Digest) -> Result<(), StorageError> {
        self.write(key, &digest.to_string().into_bytes().into())
            .await
    }

    pub(super) async fn list(
        &self,
        folder: &Key,
        after: Option<&str>,
    ) -> Result<Vec<Entry>, StorageError> {
        // A driver whose answers are always at hand would else never let others run.
        tokio::task::yield_now().await;
        let listed = self
            .patiently(|| self.driver.list(Some(folder), after, PAGE))
            .await;
        absent(listed).map(Option::unwrap_or_default)
    }

    /// The size of what is under a digest
    ///
    /// A file of no bytes under the digest of some is what a crash leaves behind where nothing
    /// was synced: it is as if there were none.
    pub(super) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let stat = self.stat(&layout::blob(digest)).await?;
        Ok(stat
            .map(|stat| stat.size)
            .filter(|size| *size > 0 || *digest == Digest::of(digest.algorithm(), b"")))
    }

    /// The names of the folders in a folder, in byte order; none if there is no such folder
    pub(super) fn folders(
        &self,
        folder: Key,
    ) -> impl Stream<Item = Result<String, StorageError>> + Send + 'static {
        let side = self.clone();
        stream::try_unfold(Folder::default(), move |mut page| {
            let (side, folder) = (side.clone(), folder.clone());
            async move {
                while let Some(entry) = page.next(&side, &folder).await? {
                    if entry.is_dir {
                        return Ok(Some((entry.name, page)));
                    }
                }
                Ok(None)
            }
        })
    }

    /// The digests after which the folders in a folder are named
    pub(super) fn digests(
        &self,
        folder: Key,
        algorithm: Algorithm,
    ) -> impl Stream<Item = Result<Digest, StorageError>> + Send + 'static {
        parsed(self.folders(folder), move |name| {
            Digest::try_from(format!("{algorithm}:{name}").as_str()).ok()
        })
    }

    /// All repositories that have or had content, in the order of their components
    ///
    /// After an error, what follows the folder that could not be listed is still to come.
    pub(super) fn repositories(
        &self,
    ) -> impl Stream<Item = Result<RepositoryName, StorageError>> + Send + 'static {
        let walk = Walk {
            side: self.clone(),
            levels: vec![Level::default()],
        };
        stream::unfold(walk, |mut walk| async move {
            let next = walk.next().await?;
            Some((next, walk))
        })
    }
}

/// What can be parsed of a stream of names; strangers are passed over
pub(super) fn parsed<T: Send + 'static>(
    names: impl Stream<Item = Result<String, StorageError>> + Send + 'static,
    parse: impl Fn(&str) -> Option<T> + Send + 'static,
) -> impl Stream<Item = Result<T, StorageError>> + Send + 'static {
    use futures::StreamExt;

    names.filter_map(move |name| {
        std::future::ready(match name {
            Ok(name) => parse(&name).map(Ok),
            Err(error) => Some(Err(error)),
        })
    })
}

/// How long to wait before a call is repeated
pub(super) struct Waits {
    left: u32,
    next: Duration,
}

impl Waits {
    pub(super) fn new(retries: u32) -> Self {
        Self {
            left: retries,
            next: FIRST_WAIT,
        }
    }

    /// Whether to repeat a call that failed so, after having waited
    pub(super) async fn another(&mut self, error: &StorageError) -> bool {
        if self.left == 0 || !(error.is_transient() || error.is_busy()) {
            return false;
        }
        self.left -= 1;
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_WAIT);
        true
    }
}

/// Where a listing has got to
#[derive(Default)]
struct Folder {
    entries: std::vec::IntoIter<Entry>,
    after: Option<String>,
    ended: bool,
}

impl Folder {
    async fn next(&mut self, side: &Side, folder: &Key) -> Result<Option<Entry>, StorageError> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
            if self.ended {
                return Ok(None);
            }
            let entries = match side.list(folder, self.after.as_deref()).await {
                Ok(entries) => entries,
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            };
            match entries.last() {
                Some(last) => self.after = Some(last.name.clone()),
                None => self.ended = true,
            }
            self.entries = entries.into_iter();
        }
    }
}

/// A walk through the folders of repositories, which may be in one another
struct Walk {
    side: Side,
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    /// `None` at the top
    name: Option<RepositoryName>,
    folder: Folder,
    /// Whether it was found to be a repository itself
    is_repository: bool,
}

impl Walk {
    async fn next(&mut self) -> Option<Result<RepositoryName, StorageError>> {
        loop {
            let level = self.levels.last_mut()?;
            let folder = match &level.name {
                Some(name) => layout::repository(name.as_str()),
                None => layout::repositories(),
            };
            let entry = match level.folder.next(&self.side, &folder).await {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    self.levels.pop();
                    continue;
                }
                Err(error) => return Some(Err(error)),
            };
            if !entry.is_dir {
                continue;
            }
            let path = match &level.name {
                Some(name) if matches!(entry.name.as_str(), "_layers" | "_manifests") => {
                    if !std::mem::replace(&mut level.is_repository, true) {
                        return Some(Ok(name.clone()));
                    }
                    continue;
                }
                Some(name) => format!("{name}/{}", entry.name),
                None => entry.name,
            };
            // Folders of a repository's own begin with an underscore, which no name does; other
            // strangers are passed over.
            if let Ok(name) = RepositoryName::try_from(path.as_str()) {
                self.levels.push(Level {
                    name: Some(name),
                    ..Level::default()
                });
            }
        }
    }
}

pub(super) fn absent<T>(result: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
