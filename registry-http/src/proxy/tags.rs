//! Which tags of the upstream lead to content, for rules that are about tags

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use registry_auth::acumos::{DirectoryError, TagsOf};
use registry_core::manifest::{DescriptorDigest, Limits};
use registry_core::{Access, Action, Digest, Manifest, MediaType, RepositoryName, Resource, Tag};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::Instrument;

use super::error::{UpstreamError, causes};
use super::rewrite;
use super::upstream::{Call, CallError, Content, Upstream, scope_of};
use crate::reply::CONTENT_DIGEST;
use crate::respond::RETRY_AFTER;

/// For how long what was found or learnt counts
const FRESH: Duration = Duration::from_secs(5 * 60);

/// For how long it counts that a repository has nothing; others push to the upstream too
const FRESH_NOTHING: Duration = Duration::from_secs(5);

/// How long a look at a repository may take in all
const LOOK: Duration = Duration::from_secs(60);

/// How long one question waits for it when something is known already
const WAIT: Duration = Duration::from_secs(2);

/// How many of its requests are under way at once
const PARALLEL: usize = 8;

/// How many tags of one repository are looked at
const MAX_TAGS: usize = 10_000;

/// How many facts are kept, over all repositories; some 100 bytes each
const MAX_FACTS: usize = 500_000;

/// Of how many repositories something is kept; that one has no tags is something too
const MAX_REPOSITORIES: usize = 20_000;

/// How deep indexes nest
const MAX_DEPTH: usize = 4;

/// The most bytes of a list of tags
const MAX_LIST: usize = 16 << 20;

/// Knows which tags of the upstream lead to a manifest or a blob
///
/// Rules that are about tags, such as Acumos', are asked about pulls by digest too: all blobs are pulled so. What they need
/// to know is learnt from what passes through the proxy, and what is not known is found by asking the
/// upstream: its list of tags, and the manifests they lead to, each once. What was found counts for five minutes.
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
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    repositories: HashMap<RepositoryName, Repository>,
    /// How many facts there are in all
    facts: usize,
}

#[derive(Default)]
struct Repository {
    /// The content of tags: of which digest the manifest is, and all that it leads to
    tags: HashMap<Tag, Led>,
    /// When all of its tags were known, and until when that counts
    complete: Option<Instant>,
    /// The look that is under way, if one is
    looking: Option<watch::Receiver<Option<Looked>>>,
    /// Counts changes, so that a look that began before one is not taken for complete
    changes: u64,
    used: Option<Instant>,
}

/// What a tag leads to
struct Led {
    root: Digest,
    all: Arc<HashSet<Digest>>,
    /// When it last passed or was seen
    seen: Instant,
}

/// What came of a look: nothing to say beyond that it is over, or why it failed
type Looked = Result<(), DirectoryError>;

impl UpstreamTags {
    /// The tags of this registry
    pub fn new(upstream: Upstream) -> Self {
        Self {
            inner: Arc::new(Inner {
                upstream,
                limits: Limits::default(),
                known: Mutex::default(),
            }),
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
        known.put(name, tag.clone(), digest, Arc::new(all));
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
        let mut looked = match self.inner.known_or_look(repository, digest) {
            Ok(tags) => return Ok(tags),
            Err(looked) => looked,
        };
        let some = self.inner.known().tags(repository, digest);
        let wait = if some.is_empty() { LOOK } else { WAIT };
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

impl Known {
    fn put(&mut self, name: &RepositoryName, tag: Tag, root: Digest, all: Arc<HashSet<Digest>>) {
        let now = Instant::now();
        self.facts += all.len();
        let repository = self.repositories.entry(name.clone()).or_default();
        repository.used = Some(now);
        let led = Led {
            root,
            all,
            seen: now,
        };
        if let Some(before) = repository.tags.insert(tag, led) {
            self.facts = self.facts.saturating_sub(before.all.len());
        }
        self.make_room(name);
    }

    /// Forgets what was not asked for the longest time, except `name`
    fn make_room(&mut self, name: &RepositoryName) {
        if self.facts <= MAX_FACTS && self.repositories.len() <= MAX_REPOSITORIES {
            return;
        }
        let mut others: Vec<_> = self
            .repositories
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, repository)| (repository.used, other.clone()))
            .collect();
        others.sort_by_key(|(used, _)| *used);
        // A tenth more than is needed, so that it need not be done for each that is new.
        for (_, other) in others {
            if self.facts <= MAX_FACTS / 10 * 9
                && self.repositories.len() <= MAX_REPOSITORIES / 10 * 9
            {
                break;
            }
            if let Some(removed) = self.repositories.remove(&other) {
                let facts: usize = removed.tags.values().map(|led| led.all.len()).sum();
                self.facts = self.facts.saturating_sub(facts);
            }
        }
    }

    /// The tags that are known to lead to it, the latest first
    fn tags(&self, name: &RepositoryName, digest: &Digest) -> Vec<Tag> {
        let Some(repository) = self.repositories.get(name) else {
            return Vec::new();
        };
        let now = Instant::now();
        let mut found: Vec<_> = repository
            .tags
            .iter()
            .filter(|(_, led)| led.seen + FRESH > now && led.all.contains(digest))
            .collect();
        found.sort_by(|(left, a), (right, b)| {
            b.seen
                .cmp(&a.seen)
                .then_with(|| left.as_str().cmp(right.as_str()))
        });
        found.into_iter().map(|(tag, _)| tag.clone()).collect()
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tags if all are known, else the look that will know them
    fn known_or_look(
        self: &Arc<Self>,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, watch::Receiver<Option<Looked>>> {
        let mut known = self.known();
        let now = Instant::now();
        known.make_room(name);
        let repository = known.repositories.entry(name.clone()).or_default();
        repository.used = Some(now);
        if repository.complete.is_some_and(|until| until > now) {
            return Ok(known.tags(name, digest));
        }
        if let Some(looking) = &repository.looking
            // Whoever was to tell may be gone.
            && (looking.borrow().is_none() && looking.has_changed().is_ok())
        {
            return Err(looking.clone());
        }
        let (tell, looking) = watch::channel(None);
        repository.looking = Some(looking.clone());
        let changes = repository.changes;
        let (inner, name) = (self.clone(), name.clone());
        let look = async move {
            let looked = tokio::time::timeout(LOOK, inner.look(&name)).await;
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
        Err(looking)
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
                FRESH_NOTHING
            } else {
                FRESH
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
        for Found { tag, root, all } in found {
            let lately = known
                .repositories
                .get(name)
                .and_then(|repository| repository.tags.get(&tag))
                .map(|led| (led.root, led.seen));
            if !unchanged && lately.is_some() {
                continue;
            }
            known.put(name, tag.clone(), root, all);
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

    /// All tags of a repository, and what they lead to
    async fn look(self: &Arc<Self>, name: &RepositoryName) -> Result<Vec<Found>, String> {
        let tags = self.list(name).await?;
        let seen = Arc::new(Mutex::new(HashMap::new()));
        stream::iter(tags.into_iter().map(|tag| {
            let (inner, name, seen) = (self.clone(), name.clone(), seen.clone());
            async move { inner.lead(&name, tag, &seen).await }
        }))
        .buffer_unordered(PARALLEL)
        .filter_map(|found| async { found.transpose() })
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
    }

    async fn list(&self, name: &RepositoryName) -> Result<Vec<Tag>, String> {
        #[derive(Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut query = String::new();
        loop {
            let target = format!("/v2/{name}/tags/list{query}");
            let Some((headers, bytes)) = self.get(name, &target, false, MAX_LIST).await? else {
                return Ok(tags);
            };
            let list: List = serde_json::from_slice(&bytes)
                .map_err(|_| "the upstream's list of tags is none".to_owned())?;
            let page = list.tags.unwrap_or_default();
            let is_empty = page.is_empty();
            // What is out of grammar nobody can pull.
            tags.extend(
                page.iter()
                    .filter_map(|tag| Tag::try_from(tag.as_str()).ok()),
            );
            if tags.len() > MAX_TAGS {
                return Err(format!("`{name}` has more than {MAX_TAGS} tags"));
            }
            match rewrite::next_query(&headers) {
                Some(next) if !is_empty => query = format!("?{next}"),
                _ => return Ok(tags),
            }
        }
    }

    /// What a tag leads to; `None` if it is gone meanwhile
    async fn lead(
        &self,
        name: &RepositoryName,
        tag: Tag,
        seen: &Mutex<HashMap<Digest, Arc<Manifest>>>,
    ) -> Result<Option<Found>, String> {
        let Some((root, manifest)) = self.manifest(name, tag.as_str()).await? else {
            return Ok(None);
        };
        let mut all: HashSet<Digest> = [root].into();
        let mut level = vec![manifest];
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            for manifest in level {
                let Some(manifest) = manifest else { continue };
                for child in reached(&manifest) {
                    let is_new = all.insert(child);
                    if !is_new || !manifest.kind().is_index() {
                        continue;
                    }
                    let known = seen
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get(&child)
                        .cloned();
                    let found = match known {
                        Some(known) => Some(known),
                        None => self
                            .manifest(name, &child.to_string())
                            .await?
                            .and_then(|(_, manifest)| manifest),
                    };
                    if let Some(found) = &found {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.insert(child, found.clone());
                    }
                    next.push(found);
                }
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        Ok(Some(Found {
            tag,
            root,
            all: Arc::new(all),
        }))
    }

    /// A manifest of the upstream, without its content if it is of a kind that leads nowhere that is known
    async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &str,
    ) -> Result<Option<(Digest, Option<Arc<Manifest>>)>, String> {
        let target = format!("/v2/{name}/manifests/{reference}");
        let limit = self.limits.max_bytes;
        let Some((headers, bytes)) = self.get(name, &target, true, limit).await? else {
            return Ok(None);
        };
        let said = headers
            .get(&CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let root = match said {
            Some(said) if Digest::of(said.algorithm(), &bytes) == said => said,
            _ => Digest::sha256(&bytes),
        };
        let manifest = Manifest::parse(bytes, None, &self.limits).ok();
        Ok(Some((root, manifest.map(Arc::new))))
    }

    /// A document of the upstream; `None` if it is not there
    async fn get(
        &self,
        name: &RepositoryName,
        target: &str,
        is_manifest: bool,
        limit: usize,
    ) -> Result<Option<(HeaderMap, bytes::Bytes)>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if is_manifest {
            for kind in [
                MediaType::OCI_MANIFEST,
                MediaType::OCI_INDEX,
                MediaType::DOCKER_MANIFEST,
                MediaType::DOCKER_MANIFEST_LIST,
            ] {
                if let Ok(kind) = HeaderValue::from_str(kind.as_str()) {
                    headers.append(header::ACCEPT, kind);
                }
            }
        }
        let pull = Access {
            resource: Resource::Repository(name.clone()),
            action: Action::Pull,
            reference: None,
        };
        let call = Call {
            method: Method::GET,
            target: self.upstream.path(target),
            headers,
            content: Content::Empty,
            scope: scope_of(&[pull]),
        };
        let told = |error: &UpstreamError| causes(error);
        let answer = self
            .upstream
            .call(call)
            .await
            .map_err(|error| match error {
                CallError::Upstream(error) => told(&error),
                CallError::Client(error) => causes(&error),
            })?;
        let (parts, body) = answer.response.into_parts();
        match parts.status {
            StatusCode::OK => {
                let bytes = self.upstream.collect(body, limit).await;
                Ok(Some((parts.headers, bytes.map_err(|error| told(&error))?)))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(format!("the upstream answered `{target}` with {status}")),
        }
    }
}

struct Found {
    tag: Tag,
    root: Digest,
    all: Arc<HashSet<Digest>>,
}

/// What a manifest is made of
fn reached(manifest: &Manifest) -> impl Iterator<Item = Digest> + '_ {
    let digests = manifest.dependencies().iter();
    digests.filter_map(|dependency| match &dependency.descriptor.digest {
        DescriptorDigest::Known(digest) => Some(*digest),
        _ => None,
    })
}
