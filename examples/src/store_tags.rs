//! Which tags lead to content, asked of the storage and remembered for a moment

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use quick_cache::sync::Cache;
use registry_auth::acumos::{DirectoryError, TagsOf};
use registry_core::{Digest, RepositoryName, Tag};
use registry_storage::Store;

/// How long an answer is remembered: the requests of one pull come together, and whoever moves a
/// tag does not wait to see it
const REMEMBERED: Duration = Duration::from_secs(3);

/// How many answers are remembered: more than are asked for in that time
const ANSWERS: usize = 4096;

/// When it is worth asking again after the storage failed
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Knows from a [`Store`] which tags lead to content
///
/// Those who ask the same at the same time ask the storage once. That there are no tags is not
/// remembered: the next request may be the push of one.
///
/// It can be handed out before there is a store, since the gate of a registry is made before its
/// storage is touched; until then it says that it cannot be asked.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::acumos::TagsOf;
/// use registry_core::Digest;
/// use registry_examples::store_tags::StoreTags;
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tags = StoreTags::default();
/// let (name, digest) = ("team/app".parse()?, Digest::sha256(b""));
/// assert!(tags.tags_of(&name, &digest).await.is_err());
/// tags.set(Store::new(Arc::new(Memory::new())));
/// assert_eq!(tags.tags_of(&name, &digest).await?, []);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StoreTags {
    store: OnceLock<Store>,
    known: Cache<(RepositoryName, Digest), Known>,
}

#[derive(Clone, Debug)]
struct Known {
    tags: Vec<Tag>,
    since: Instant,
}

impl Known {
    fn is_over(&self) -> bool {
        self.tags.is_empty() || self.since.elapsed() >= REMEMBERED
    }
}

impl Default for StoreTags {
    fn default() -> Self {
        Self {
            store: OnceLock::new(),
            known: Cache::new(ANSWERS),
        }
    }
}

impl StoreTags {
    /// Says which store to ask; the first one that is told stays
    pub fn set(&self, store: Store) {
        let _ = self.store.set(store);
    }
}

#[async_trait]
impl TagsOf for StoreTags {
    async fn tags_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, DirectoryError> {
        let unavailable = |cause: String| DirectoryError::Unavailable {
            retry_after: RETRY_AFTER,
            cause,
        };
        let Some(store) = self.store.get() else {
            return Err(unavailable("the storage is not open yet".to_owned()));
        };
        let key = (repository.clone(), *digest);
        self.known.remove_if(&key, Known::is_over);
        let ask = async {
            let since = Instant::now();
            let tags = store.tags_leading_to(repository, digest).await;
            tags.map(|tags| Known { tags, since })
                .map_err(|error| unavailable(error.to_string()))
        };
        let known = self.known.get_or_insert_async(&key, ask).await?;
        if known.tags.is_empty() {
            self.known.remove_if(&key, Known::is_over);
        }
        Ok(known.tags)
    }
}
