//! A whole registry from one storage to another, and whether a registry is whole
//!
//! [`Copy`](struct@Copy) knows distribution's layout, and so the order in which content may come: the bytes
//! of a blob, the repository's link to it, then the manifests that need it, then the tags that
//! point to those. At every moment, whatever is reachable at the target is there. A run that was
//! killed is finished by running again, which needs no notes: what is at the target already is
//! looked at and not copied. [`Verify`] reads all of a registry and says what is damaged or
//! missing.

mod blobs;
mod guard;
mod progress;
mod repository;
mod side;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use quick_cache::sync::Cache;
use registry_core::upload::UploadId;
use registry_core::{Algorithm, Digest, RepositoryName};
use tokio::task::JoinSet;

use self::blobs::Blob;
use self::guard::Guard;
use self::progress::add;
pub use self::progress::{Counts, Problem, Progress, Total};
use self::side::Side;
pub use self::verify::Verify;
use crate::driver::Driver;
use crate::error::StorageError;
use crate::layout;

/// For how many blobs, and manifests and blobs of repositories, it is remembered that they are done
///
/// What is forgotten is looked at again, if another repository has it too.
const REMEMBERED: usize = 128 * 1024;

/// How many blobs are known not to be counted twice
const COUNTED: usize = 4 * 1024 * 1024;

/// Which repositories, by name
type Filter = Arc<dyn Fn(&RepositoryName) -> bool + Send + Sync>;

/// What happens to a tag that the target has too, and that points elsewhere there
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TagRule {
    /// It moves if the target is merely behind
    ///
    /// A registry keeps what each tag has pointed to. If the source's tag was once where the
    /// target's is, it has moved on since, and the target's follows. If it is the other way
    /// round, someone has pushed to the target since, and that stays. If neither has seen the
    /// other's, that is a [`Problem::TagConflict`], and the target's stays. If both have, the
    /// one that was moved last is right.
    #[default]
    Forward,
    /// It stays
    Keep,
    /// It moves, whatever was pushed to the target
    Overwrite,
}

/// How a registry is copied
///
/// # Examples
///
/// ```
/// use registry_storage::copy::{CopyOptions, TagRule};
///
/// let options = CopyOptions::default().with_tags(TagRule::Overwrite);
/// assert_eq!(options.concurrency.get(), 8);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// How many blobs, manifests or tags are copied at once; 8 by default
    ///
    /// Each takes a few megabytes of memory, and a bucket twice the size of its parts.
    pub concurrency: NonZeroUsize,
    /// What happens to tags that are at the target already
    pub tags: TagRule,
    /// Whether blobs that are at the target already are read there, and copied again if they are
    /// damaged; otherwise their size has to do
    pub verify: bool,
    /// Whether nothing is written, and only counted what would be
    pub dry_run: bool,
    /// How often a call that failed for now is repeated, after 250 ms at first and up to 30 s
    /// then; 8 times by default, which bears a storage that is away for a minute
    pub retries: u32,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            concurrency: const { NonZeroUsize::new(8).unwrap() },
            tags: TagRule::default(),
            verify: false,
            dry_run: false,
            retries: 8,
        }
    }
}

impl CopyOptions {
    /// Sets [`CopyOptions::concurrency`]
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: NonZeroUsize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets [`CopyOptions::tags`]
    #[must_use]
    pub fn with_tags(mut self, tags: TagRule) -> Self {
        self.tags = tags;
        self
    }

    /// Sets [`CopyOptions::verify`]
    #[must_use]
    pub fn with_verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Sets [`CopyOptions::dry_run`]
    #[must_use]
    pub fn with_dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Sets [`CopyOptions::retries`]
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }
}

/// Why a copy or a verification ended before its end
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Source and target are one storage
    #[error("source and target are the same storage; nothing was copied")]
    Same,
    /// A storage fails at everything, or nothing can be written to the target
    #[error("given up: {0}")]
    Storage(Arc<StorageError>),
}

/// A copy of a whole registry
///
/// Registries may serve both storages meanwhile: what is deleted at the source under way is no
/// problem, what is pushed there is taken if it comes in time, and by the next run otherwise.
/// Nothing is ever deleted at either side, and so what was deleted at the source after one run
/// stays at the target, and what was deleted at the target comes back. A garbage collection
/// must not run on either side meanwhile: it deletes what is about to be referred to.
///
/// Upload sessions are not copied: clients begin again. Nor is content that no repository has,
/// which a garbage collection would remove.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_storage::Memory;
/// use registry_storage::copy::{Copy, CopyOptions};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (from, to) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
/// let counts = Copy::new(from, to, CopyOptions::default()).run().await?;
/// assert_eq!(counts.problems, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Copy {
    inner: Arc<Inner>,
    filter: Option<Filtered>,
}

/// A filter of repositories, which has nothing to show
#[derive(Clone)]
struct Filtered(Filter);

impl fmt::Debug for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filtered")
    }
}

#[derive(Debug)]
struct Inner {
    from: Side,
    to: Side,
    options: CopyOptions,
    progress: Arc<Progress>,
    guard: Guard,
    /// What became of blobs; whoever asks for one that is under way waits for it
    blobs: Cache<Digest, Blob>,
    /// The blobs that a repository has at the target
    linked: Cache<(RepositoryName, Digest), ()>,
    /// The manifests that a repository has at the target
    manifests: Cache<(RepositoryName, Digest), ()>,
}

impl Copy {
    /// A copy of all that is in `from` to `to`, which [`Copy::run`] does
    pub fn new(from: Arc<dyn Driver>, to: Arc<dyn Driver>, options: CopyOptions) -> Self {
        let retries = options.retries;
        let progress = Arc::new(Progress::default());
        Self {
            inner: Arc::new(Inner {
                from: Side {
                    driver: from,
                    retries,
                },
                to: Side {
                    driver: to,
                    retries,
                },
                guard: Guard::new(options.concurrency.get(), progress.clone()),
                options,
                progress,
                blobs: Cache::new(REMEMBERED),
                linked: Cache::new(REMEMBERED),
                manifests: Cache::new(REMEMBERED),
            }),
            filter: None,
        }
    }

    /// Copies only the repositories that `filter` wants
    #[must_use]
    pub fn with_repositories(
        mut self,
        filter: impl Fn(&RepositoryName) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filter = Some(Filtered(Arc::new(filter)));
        self
    }

    /// How far it has got, to be asked from elsewhere while it runs
    pub fn progress(&self) -> Arc<Progress> {
        self.inner.progress.clone()
    }

    /// Copies, and says how much of what
    ///
    /// To stop it, drop the future. The target is a whole registry then, as it is after a kill
    /// at any moment; what is not in it yet, another run copies.
    ///
    /// # Errors
    ///
    /// [`CopyError::Same`] if both are one storage, and [`CopyError::Storage`] if it makes no
    /// sense to go on. What concerns some of the content only is counted in
    /// [`Counts::problems`] and to be had from [`Progress::problems`], and the rest is copied.
    pub async fn run(self) -> Result<Counts, CopyError> {
        let Self { inner, filter } = self;
        if !inner.options.dry_run {
            inner.refuse_itself().await?;
        }
        let mut listing = JoinSet::new();
        listing.spawn(list(
            inner.from.clone(),
            filter.clone(),
            inner.progress.clone(),
        ));
        let names = wanted(inner.from.repositories(), filter);
        let each = inner.clone();
        inner
            .guard
            .repositories(names, move |name| each.clone().repository(name))
            .await;
        inner.guard.result()?;
        Ok(inner.progress.counts())
    }
}

impl Inner {
    /// Writes a mark at the target and looks for it at the source
    async fn refuse_itself(&self) -> Result<(), CopyError> {
        let mark = layout::mark(&UploadId::from_random_bytes(
            uuid::Uuid::new_v4().into_bytes(),
        ));
        let text = "made by `registry copy` to see whether source and target are one storage\n";
        let given_up = |error| CopyError::Storage(Arc::new(error));
        self.to
            .write(&mark, &Bytes::from_static(text.as_bytes()))
            .await
            .map_err(given_up)?;
        let found = self.from.stat(&mark).await;
        self.to
            .patiently(|| self.to.driver.delete(&mark))
            .await
            .map_err(given_up)?;
        match found.map_err(given_up)? {
            Some(_) => Err(CopyError::Same),
            None => Ok(()),
        }
    }
}

/// Those of the repositories that are wanted
fn wanted(
    names: impl Stream<Item = Result<RepositoryName, StorageError>>,
    filter: Option<Filtered>,
) -> impl Stream<Item = Result<RepositoryName, StorageError>> {
    names.filter(move |name| {
        let wanted = match (name, &filter) {
            (Ok(name), Some(Filtered(filter))) => filter(name),
            _ => true,
        };
        std::future::ready(wanted)
    })
}

/// Finds out how much there is, while the work goes on
///
/// If a storage fails at this, the total stays unknown; whoever does the work says why.
async fn list(side: Side, filter: Option<Filtered>, progress: Arc<Progress>) {
    if count(&side, filter, &progress).await.is_ok() {
        progress.set_listed();
    }
}

async fn count(
    side: &Side,
    filter: Option<Filtered>,
    progress: &Progress,
) -> Result<(), StorageError> {
    let total = &progress.total;
    // The first bytes of each digest: enough for a number that people look at.
    let mut counted = std::collections::HashSet::new();
    let mut names = pin!(wanted(side.repositories(), filter));
    while let Some(name) = names.next().await {
        let name = name?;
        add(&total.repositories, 1);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let layers = side.digests(layout::layers(&name, algorithm), algorithm);
            let fresh = layers.filter(|digest| {
                std::future::ready(digest.as_ref().map_or(true, |digest| {
                    let mut first = [0; 8];
                    first.copy_from_slice(&digest.as_bytes()[..8]);
                    counted.len() >= COUNTED || counted.insert(first)
                }))
            });
            let mut sizes = pin!(
                fresh
                    .map(|digest| async { side.blob_size(&digest?).await })
                    .buffer_unordered(8)
            );
            while let Some(size) = sizes.next().await {
                if let Some(size) = size? {
                    add(&total.blobs, 1);
                    add(&total.bytes, size);
                }
            }
            let revisions = layout::revisions(&name, algorithm);
            let mut manifests = pin!(side.digests(revisions, algorithm));
            while let Some(manifest) = manifests.next().await {
                manifest?;
                add(&total.manifests, 1);
            }
        }
        let mut tags = pin!(side.folders(layout::tags(&name)));
        while let Some(tag) = tags.next().await {
            tag?;
            add(&total.tags, 1);
        }
    }
    Ok(())
}
