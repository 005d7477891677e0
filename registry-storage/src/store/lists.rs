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

/// How many entries more than a page are asked for, since some may not be what is listed
const SPARE: usize = 8;

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
        let mut batch = limit.saturating_add(SPARE);
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
            // Where few folders are tags, a folder is not to be read for every few of them.
            batch = batch.saturating_mul(2).min(batch.max(BATCH));
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
            let cursor = (!first.is_empty()).then(|| first.to_owned());
            self.walk_children(parent, cursor, None, want, found).await
        }
        .boxed()
    }

    /// Collects the repositories that are children of `parent` after `cursor`, and those below
    ///
    /// Of these children the first may be known.
    fn walk_children<'a>(
        &'a self,
        parent: Option<&'a str>,
        mut cursor: Option<String>,
        mut known: Option<Vec<Entry>>,
        want: usize,
        found: &'a mut Vec<RepositoryName>,
    ) -> BoxFuture<'a, Result<(), StorageError>> {
        async move {
            let folder = parent.map_or_else(layout::repositories, layout::repository);
            let batch = batch_of(want);
            while found.len() < want {
                let entries = match known.take() {
                    Some(entries) => entries,
                    None => {
                        let cursor = cursor.as_deref();
                        match self.objects().list(Some(&folder), cursor, batch).await {
                            Ok(entries) => entries,
                            Err(StorageError::NotFound { .. }) => return Ok(()),
                            Err(error) => return Err(error),
                        }
                    }
                };
                let complete = entries.len() < batch;
                cursor = entries.last().map(|entry| entry.name.clone());
                // Folders of a repository's own begin with an underscore, which no name does; other
                // strangers are passed over.
                let names: Vec<_> = entries
                    .iter()
                    .filter(|entry| entry.is_dir)
                    .filter_map(|entry| {
                        let name = match parent {
                            Some(parent) => format!("{parent}/{}", entry.name),
                            None => entry.name.clone(),
                        };
                        RepositoryName::try_from(name.as_str()).ok()
                    })
                    .collect();
                let mut names = names.into_iter().peekable();
                // Several at a time, and no more than the page may need. All of them are waited for
                // before going down into one: a call must not lie there half done meanwhile.
                while found.len() < want && names.peek().is_some() {
                    let next = names.by_ref().take(CONCURRENCY.min(want - found.len()));
                    let looked: Vec<_> = stream::iter(next)
                        .map(|name| self.look_into(name, batch))
                        .buffered(CONCURRENCY)
                        .try_collect()
                        .await?;
                    for (name, is_repository, children) in looked {
                        if is_repository && found.len() < want {
                            found.push(name.clone());
                        }
                        if found.len() < want {
                            let below = Some(name.as_str());
                            self.walk_children(below, None, Some(children), want, found)
                                .await?;
                        }
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

    /// Whether there is a repository of this name, and the first children of its folder
    async fn look_into(
        &self,
        name: RepositoryName,
        batch: usize,
    ) -> Result<(RepositoryName, bool, Vec<Entry>), StorageError> {
        let folder = layout::repository(name.as_str());
        let children = match self.objects().list(Some(&folder), None, batch).await {
            Ok(children) => children,
            Err(StorageError::NotFound { .. }) => return Ok((name, false, Vec::new())),
            Err(error) => return Err(error),
        };
        let manifests = layout::manifests(name.as_str());
        let is_repository = children
            .iter()
            .any(|child| child.is_dir && child.name == manifests.name())
            || (children.len() >= batch && self.repository_exists(name.as_str()).await?);
        Ok((name, is_repository, children))
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

/// How many children of a folder are asked for when `want` repositories are
fn batch_of(want: usize) -> usize {
    want.clamp(2, BATCH).saturating_add(SPARE)
}

fn tag_of(entry: Entry) -> Option<Tag> {
    entry
        .is_dir
        .then(|| Tag::try_from(entry.name.as_str()).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::driver::Objects;
    use crate::{Measured, Memory, StorageObserver, StorageReport};

    #[derive(Debug, Default)]
    struct Calls(AtomicUsize);

    impl StorageObserver for Calls {
        fn called(&self, _: &StorageReport) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Calls {
        fn taken(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_page_costs_what_it_shows() {
        let (memory, calls) = (Memory::new(), Arc::new(Calls::default()));
        let store = Store::new(Arc::new(Measured::new(memory.clone(), calls.clone())));
        for index in 0..300 {
            let name = RepositoryName::try_from(format!("r{index:03}").as_str()).unwrap();
            let revision = layout::manifests(name.as_str()).child("revisions/x");
            memory.write(&revision.unwrap(), "".into()).await.unwrap();
        }
        let page = store.repositories(Some("r099"), 20).await.unwrap();
        assert_eq!((page.items.len(), page.more), (20, true));
        assert_eq!(page.items[0].as_str(), "r100");
        // What the cursor names, its folder's siblings, and one for each that was looked at.
        assert!(calls.taken() <= 2 + 21);
        let page = store.repositories(None, 1000).await.unwrap();
        assert_eq!((page.items.len(), page.more), (300, false));
        assert!(calls.taken() <= 1 + 300);

        let name = RepositoryName::try_from("r000").unwrap();
        for index in 0..300 {
            let tag = Tag::try_from(format!("t{index:03}").as_str()).unwrap();
            let link = layout::tag_current(&name, &tag);
            memory.write(&link, "".into()).await.unwrap();
        }
        let page = store.tags(&name, Some("t099"), Some(20)).await.unwrap();
        assert_eq!((page.items.len(), page.more), (20, true));
        assert!(calls.taken() <= 1 + 20 + SPARE);
    }

    #[tokio::test]
    async fn what_is_no_tag_costs_few_lists() {
        let (memory, calls) = (Memory::new(), Arc::new(Calls::default()));
        let store = Store::new(Arc::new(Measured::new(memory.clone(), calls.clone())));
        let name = RepositoryName::try_from("a").unwrap();
        for index in 0..2000 {
            let unfinished = layout::tags(&name).child(&format!("t{index:04}/index/x"));
            memory.write(&unfinished.unwrap(), "".into()).await.unwrap();
        }
        let last = Tag::try_from("z").unwrap();
        let link = layout::tag_current(&name, &last);
        memory.write(&link, "".into()).await.unwrap();
        let page = store.tags(&name, None, Some(1)).await.unwrap();
        assert_eq!((page.items, page.more), (vec![last], false));
        // One look at each, and about as many lists as the number of folders has digits.
        assert!(calls.taken() <= 2001 + 12);
    }

    #[tokio::test]
    async fn a_repository_with_more_children_than_a_batch_is_found() {
        let memory = Memory::new();
        let store = Store::new(Arc::new(memory.clone()));
        let mut expected = Vec::new();
        // Names that begin with a digit come before `_manifests`, and fill the first batch.
        for name in ["a".to_owned()]
            .into_iter()
            .chain((0..30).map(|index| format!("a/{index:02}")))
        {
            let revision = layout::manifests(&name).child("revisions/x").unwrap();
            memory.write(&revision, "".into()).await.unwrap();
            expected.push(RepositoryName::try_from(name.as_str()).unwrap());
        }
        for size in [1, 2, 5, 20, 31] {
            let mut found: Vec<RepositoryName> = Vec::new();
            loop {
                let after = found.last().map(ToString::to_string);
                let page = store.repositories(after.as_deref(), size).await.unwrap();
                found.extend(page.items);
                if !page.more {
                    break;
                }
            }
            assert_eq!(found, expected, "in pages of {size}");
        }
    }
}
