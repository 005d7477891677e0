//! Which tags of the upstream lead to content, for rules that are about tags

mod known;
mod look;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use registry_auth::acumos::{DirectoryError, TagsOf};
use registry_core::{Digest, Manifest, RepositoryName, Tag};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument;

use self::known::{Found, Known};
use self::look::reached;
use super::notice::Notice;
use super::upstream::Upstream;
use crate::respond::RETRY_AFTER;

/// For how long it counts that a repository has nothing; others push to the upstream too
const FRESH_NOTHING: Duration = Duration::from_secs(5);

/// How long one question waits for a look when something is known already
const WAIT: Duration = Duration::from_secs(2);

/// Knows which tags of the upstream lead to a manifest or a blob
///
/// Rules that are about tags, such as Acumos', are asked about pulls by digest too: all blobs are pulled so. What they need
/// to know is learnt from what passes through the proxy, and what is not known is found by asking the
/// upstream: its list of tags, and the manifests they lead to, each once. What was found counts for five minutes; then
/// it is only asked which tags there are and to which digests they lead now, for what a digest leads to never changes.
///
/// The tags that passed most lately come first.
///
/// Cheap to clone; all clones know the same. A proxy that is to teach it gets one
/// ([`ProxyServiceBuilder::tags`](super::ProxyServiceBuilder::tags)).
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::{AllowAll, Anyone};
/// use registry_http::{AccessControl, ProxyService, Upstream, UpstreamOptions, UpstreamTags};
///
/// let upstream = Upstream::new(UpstreamOptions::new("http://nexus-service:8082"))?;
/// let tags = UpstreamTags::new(upstream.clone());
/// // In place of `AllowAll`, an authorizer that asks `tags`.
/// let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll));
/// let proxy = ProxyService::builder(upstream, access).tags(tags).build();
/// # Ok::<(), registry_http::proxy::UpstreamSetupError>(())
/// ```
#[derive(Clone)]
pub struct UpstreamTags {
    inner: Arc<Inner>,
}

struct Inner {
    upstream: Upstream,
    limits: Limits,
    manifests: registry_core::manifest::Limits,
    known: Mutex<Known>,
    /// One for each look that may be under way
    looks: Arc<Semaphore>,
    refusing: Notice,
}

/// How much is asked for and kept
#[derive(Clone, Copy, Debug)]
struct Limits {
    fresh: Duration,
    look: Duration,
    parallel: usize,
    looks: usize,
    max_tags: usize,
    max_facts: usize,
    max_repositories: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(5 * 60),
            look: Duration::from_secs(60),
            parallel: 8,
            looks: 32,
            max_tags: 10_000,
            max_facts: 500_000,
            max_repositories: 20_000,
        }
    }
}

/// What came of a look: nothing to say beyond that it is over, or why it failed
type Looked = Result<(), DirectoryError>;

impl UpstreamTags {
    /// The tags of this registry, with the limits that suit most
    pub fn new(upstream: Upstream) -> Self {
        Self::builder(upstream).build()
    }

    /// The tags of this registry, with limits to choose
    pub fn builder(upstream: Upstream) -> UpstreamTagsBuilder {
        UpstreamTagsBuilder {
            upstream,
            limits: Limits::default(),
        }
    }

    /// A manifest passed under a tag; `pushed` if the tag leads to it only now
    pub(super) fn learn(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        digest: Digest,
        manifest: Option<&Manifest>,
        pushed: bool,
    ) {
        let mut known = self.inner.known();
        // What an index has is known when its manifests pass, or when somebody looks.
        let mut all: HashSet<_> = manifest.into_iter().flat_map(reached).collect();
        all.insert(digest);
        if let Some(repository) = known.repositories.get_mut(name) {
            if pushed {
                repository.changes += 1;
            }
            if let Some(led) = repository.tags.get_mut(tag)
                && led.root == digest
            {
                led.seen = Instant::now();
                return;
            }
            if manifest.is_none_or(|manifest| manifest.kind().is_index()) {
                repository.complete = None;
            }
        }
        let is_whole = manifest.is_some_and(|manifest| !manifest.kind().is_index());
        known.put(
            name,
            Found {
                tag: tag.clone(),
                root: digest,
                all: Arc::new(all),
                is_whole,
            },
        );
    }

    /// Something was removed
    pub(super) fn forget(&self, name: &RepositoryName) {
        let mut known = self.inner.known();
        if let Some(repository) = known.repositories.get_mut(name) {
            let facts: usize = repository.tags.values().map(|led| led.all.len()).sum();
            repository.tags.clear();
            repository.complete = None;
            repository.changes += 1;
            known.facts = known.facts.saturating_sub(facts);
        }
    }
}

/// What an [`UpstreamTags`] asks for and keeps
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_http::{Upstream, UpstreamOptions, UpstreamTags};
///
/// let upstream = Upstream::new(UpstreamOptions::new("http://nexus-service:8082"))?;
/// let tags = UpstreamTags::builder(upstream)
///     .fresh(Duration::from_secs(60))
///     .max_tags(50_000)
///     .build();
/// # Ok::<(), registry_http::proxy::UpstreamSetupError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct UpstreamTagsBuilder {
    upstream: Upstream,
    limits: Limits,
}

impl UpstreamTagsBuilder {
    /// For how long what was found or learnt counts; by default five minutes
    ///
    /// So long it can take until a tag counts that was pushed past the proxy.
    pub fn fresh(mut self, time: Duration) -> Self {
        self.limits.fresh = time;
        self
    }

    /// How long a look at one repository may take in all; by default a minute
    pub fn look_timeout(mut self, timeout: Duration) -> Self {
        self.limits.look = timeout;
        self
    }

    /// How many requests of one look are under way at once; by default 8, and at least one
    pub fn parallel(mut self, requests: usize) -> Self {
        self.limits.parallel = requests.max(1);
        self
    }

    /// How many repositories are looked at at once; by default 32, and at least one
    ///
    /// A look goes on when the client that brought it about has gone. Whoever asks about one more is told to come
    /// back.
    pub fn max_looks(mut self, looks: usize) -> Self {
        self.limits.looks = looks.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How many tags one repository may have; by default 10,000
    ///
    /// Of one that has more, nothing is known but what passes.
    pub fn max_tags(mut self, tags: usize) -> Self {
        self.limits.max_tags = tags;
        self
    }

    /// How many facts are kept, over all repositories; by default 500,000, of some 100 bytes each
    ///
    /// That a tag leads to a digest is one. The repositories that were not asked about for longest are forgotten.
    pub fn max_facts(mut self, facts: usize) -> Self {
        self.limits.max_facts = facts;
        self
    }

    /// Of how many repositories something is kept; by default 20,000. That one has no tags is something too.
    pub fn max_repositories(mut self, repositories: usize) -> Self {
        self.limits.max_repositories = repositories;
        self
    }

    /// The tags
    pub fn build(self) -> UpstreamTags {
        let Self { upstream, limits } = self;
        UpstreamTags {
            inner: Arc::new(Inner {
                upstream,
                limits,
                manifests: registry_core::manifest::Limits::default(),
                known: Mutex::new(Known::new(limits)),
                looks: Arc::new(Semaphore::new(limits.looks)),
                refusing: Notice::default(),
            }),
        }
    }
}

impl fmt::Debug for UpstreamTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTags")
            .field("upstream", &self.inner.upstream)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TagsOf for UpstreamTags {
    async fn tags_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, DirectoryError> {
        let looking = self.inner.known_or_look(repository, digest);
        let some = self.inner.known().tags(repository, digest);
        let mut looked = match looking {
            Looking::Known(tags) => return Ok(tags),
            Looking::Look(looked) => looked,
            Looking::TooMany if !some.is_empty() => return Ok(some),
            Looking::TooMany => return Err(too_many()),
        };
        let look = self.inner.limits.look;
        let wait = if some.is_empty() {
            look
        } else {
            WAIT.min(look)
        };
        let outcome = tokio::time::timeout(wait, looked.wait_for(Option::is_some)).await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(broken_off())),
            Ok(Err(_)) | Err(_) => Err(broken_off()),
        };
        match outcome {
            Ok(()) => Ok(self.inner.known().tags(repository, digest)),
            // What passed a while ago is still true.
            Err(_) if !some.is_empty() => Ok(some),
            Err(error) => Err(error),
        }
    }
}

fn broken_off() -> DirectoryError {
    DirectoryError::Unavailable {
        retry_after: RETRY_AFTER,
        cause: "the upstream did not list its tags in time".to_owned(),
    }
}

fn too_many() -> DirectoryError {
    DirectoryError::Unavailable {
        retry_after: RETRY_AFTER,
        cause: "as many repositories of the upstream are looked at as may be".to_owned(),
    }
}

/// What is to be done for a question
enum Looking {
    /// Nothing: all is known
    Known(Vec<Tag>),
    /// To wait for this look
    Look(watch::Receiver<Option<Looked>>),
    /// There is no room for another look
    TooMany,
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tags if all are known, else the look that will know them
    fn known_or_look(self: &Arc<Self>, name: &RepositoryName, digest: &Digest) -> Looking {
        let mut known = self.known();
        let now = Instant::now();
        known.make_room(name);
        let repository = known.repositories.entry(name.clone()).or_default();
        repository.used = Some(now);
        if repository.complete.is_some_and(|until| until > now) {
            return Looking::Known(known.tags(name, digest));
        }
        if let Some(looking) = &repository.looking
            // Whoever was to tell may be gone.
            && (looking.borrow().is_none() && looking.has_changed().is_ok())
        {
            return Looking::Look(looking.clone());
        }
        let Ok(room) = self.looks.clone().try_acquire_owned() else {
            if self.refusing.is_due() {
                tracing::warn!(
                    "as many repositories of the upstream are looked at as may be; others have to wait"
                );
            }
            return Looking::TooMany;
        };
        let (tell, looking) = watch::channel(None);
        repository.looking = Some(looking.clone());
        let changes = repository.changes;
        let (inner, name) = (self.clone(), name.clone());
        let look = async move {
            // Held until it is over.
            let _room: OwnedSemaphorePermit = room;
            let looked = tokio::time::timeout(inner.limits.look, inner.look(&name)).await;
            let outcome = match looked {
                Ok(Ok(found)) => {
                    inner.keep(&name, found, changes);
                    Ok(())
                }
                Ok(Err(cause)) => Err(DirectoryError::Unavailable {
                    retry_after: RETRY_AFTER,
                    cause,
                }),
                Err(_) => Err(broken_off()),
            };
            if let Err(error) = &outcome {
                tracing::warn!(%name, %error, "the tags of a repository cannot be found out");
            }
            let mut known = inner.known();
            if let Some(repository) = known.repositories.get_mut(&name) {
                repository.looking = None;
            }
            drop(known);
            // Nobody may be waiting any more.
            let _ = tell.send(Some(outcome));
        };
        tokio::spawn(look.in_current_span());
        Looking::Look(looking)
    }

    fn keep(&self, name: &RepositoryName, found: Vec<Found>, changes: u64) {
        let mut known = self.known();
        let current: HashSet<_> = found.iter().map(|found| found.tag.clone()).collect();
        let now = Instant::now();
        let repository = known.repositories.entry(name.clone()).or_default();
        // Pushed meanwhile: what was found may be older than what is known.
        let unchanged = repository.changes == changes;
        if unchanged {
            let fresh = if found.is_empty() {
                FRESH_NOTHING.min(self.limits.fresh)
            } else {
                self.limits.fresh
            };
            repository.complete = Some(now + fresh);
            let mut gone = 0;
            repository.tags.retain(|tag, led| {
                let stays = current.contains(tag);
                if !stays {
                    gone += led.all.len();
                }
                stays
            });
            known.facts = known.facts.saturating_sub(gone);
        }
        for found in found {
            let (tag, root) = (found.tag.clone(), found.root);
            let lately = known
                .repositories
                .get(name)
                .and_then(|repository| repository.tags.get(&tag))
                .map(|led| (led.root, led.seen));
            if !unchanged && lately.is_some() {
                continue;
            }
            known.put(name, found);
            // What passed goes before what was only looked at.
            let led = known
                .repositories
                .get_mut(name)
                .and_then(|repository| repository.tags.get_mut(&tag));
            if let (Some(led), Some((before, _))) = (led, lately)
                && before == root
            {
                led.seen = now + Duration::from_millis(1);
            }
        }
    }
}
