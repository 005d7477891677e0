//! Lists of tags and of repositories, a page at a time

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use registry_core::{Algorithm, Digest, RepositoryName, Tag};

use super::manifests::ManifestReadError;
use super::{CONCURRENCY, Store};
use crate::driver::{Entry, Key};
use crate::error::StorageError;
use crate::layout;

/// How many entries are asked for at once when the end of a folder is not known
const BATCH: usize = 1000;

/// A page of a list
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// The entries, in order
    pub items: Vec<T>,
    /// Whether more come after them
    pub more: bool,
}

impl Store {
    /// Tags of the repository in byte order, strictly after `after`, at most `limit`
    ///
    /// # Errors
    ///
    /// [`ManifestReadError::RepositoryUnknown`] when there is no such repository. One without
    /// tags has an empty list.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Listing<Tag>, ManifestReadError> {
        let folder = layout::tags(name);
        let limit = limit.unwrap_or(usize::MAX);
        let batch = limit.saturating_add(1).max(BATCH);
        let mut items = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let entries = match self
                .objects()
                .list(Some(&folder), after.as_deref(), batch)
                .await
            {
                Ok(entries) => entries,
                Err(StorageError::NotFound { .. }) => {
                    if self.repository_exists(name.as_str()).await? {
                        break;
                    }
                    return Err(ManifestReadError::RepositoryUnknown { name: name.clone() });
                }
                Err(error) => return Err(error.into()),
            };
            let complete = entries.len() < batch;
            after = entries.last().map(|entry| entry.name.clone());
            // A folder without a current link is a tag that was never finished, or is being
            // deleted: it is none.
            let mut tags = stream::iter(entries.into_iter().filter_map(tag_of))
                .map(|tag| async move {
                    match self.objects().stat(&layout::tag_current(name, &tag)).await {
                        Ok(_) => Ok(Some(tag)),
                        Err(StorageError::NotFound { .. }) => Ok(None),
                        Err(error) => Err(error),
                    }
                })
                .buffered(CONCURRENCY);
            while let Some(tag) = tags.try_next().await? {
                let Some(tag) = tag else { continue };
                if items.len() == limit {
                    return Ok(Listing { items, more: true });
                }
                items.push(tag);
            }
            if complete {
                break;
            }
        }
        Ok(Listing { items, more: false })
    }

    /// Repositories strictly after `after`, at most `limit`
    ///
    /// The order is distribution's: by component, so that `a/b` comes before `a-b`. Folders
    /// are read only along the way to the page.
    ///
    /// # Errors
    ///
    /// What the storage says.
    pub async fn repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<RepositoryName>, StorageError> {
        let mut found = Vec::new();
        // One more than asked for tells whether there is a next page.
        let want = limit.saturating_add(1);
        self.walk(None, after.unwrap_or_default(), want, &mut found)
            .await?;
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(Listing { items: found, more })
    }

    /// Collects repositories below `parent`, after the path `after` relative to it
    fn walk<'a>(
        &'a self,
        parent: Option<&'a str>,
        after: &'a str,
        want: usize,
        found: &'a mut Vec<RepositoryName>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        async move {
            let folder = parent.map_or_else(layout::repositories, layout::repository);
            let below = |child: &str| match parent {
                Some(parent) => format!("{parent}/{child}"),
                None => child.to_owned(),
            };
            let (first, rest) = after.split_once('/').unwrap_or((after, ""));
            // What `after` points into comes first. The child itself is not after `after`,
            // what lies below it may be. A component that is none cannot be a folder here.
            if RepositoryName::try_from(first).is_ok() {
                self.walk(Some(&below(first)), rest, want, found).await?;
            }
            let mut cursor = (!first.is_empty()).then(|| first.to_owned());
            let batch = want.clamp(2, BATCH).saturating_add(8);
            while found.len() < want {
                let entries = match self
                    .objects()
                    .list(Some(&folder), cursor.as_deref(), batch)
                    .await
                {
                    Ok(entries) => entries,
                    Err(StorageError::NotFound { .. }) => return Ok(()),
                    Err(error) => return Err(error),
                };
                let complete = entries.len() < batch;
                cursor = entries.last().map(|entry| entry.name.clone());
                for entry in entries {
                    if !entry.is_dir {
                        continue;
                    }
                    // Folders of a repository's own begin with an underscore, which no name
                    // does; other strangers are passed over.
                    let Ok(name) = RepositoryName::try_from(below(&entry.name).as_str()) else {
                        continue;
                    };
                    if self.repository_exists(name.as_str()).await? {
                        found.push(name.clone());
                    }
                    if found.len() < want {
                        self.walk(Some(name.as_str()), "", want, found).await?;
                    }
                    if found.len() >= want {
                        break;
                    }
                }
                if complete {
                    break;
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// The digests after which the folders in `folder` are named
    pub(super) async fn digests_in(
        &self,
        folder: &Key,
        algorithm: Algorithm,
    ) -> Result<Vec<Digest>, StorageError> {
        let entries = match self.objects().list(Some(folder), None, usize::MAX).await {
            Ok(entries) => entries,
            Err(StorageError::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(entries
            .iter()
            .filter_map(|entry| {
                Digest::try_from(format!("{algorithm}:{}", entry.name).as_str()).ok()
            })
            .collect())
    }
}

fn tag_of(entry: Entry) -> Option<Tag> {
    entry
        .is_dir
        .then(|| Tag::try_from(entry.name.as_str()).ok())
        .flatten()
}
