//! What is known of the upstream's tags, within limits

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use registry_core::{Digest, RepositoryName, Tag};
use tokio::sync::watch;

use super::{Limits, Looked};

pub(super) struct Known {
    pub(super) repositories: HashMap<RepositoryName, Repository>,
    limits: Limits,
    /// How many facts there are in all
    pub(super) facts: usize,
}

#[derive(Default)]
pub(super) struct Repository {
    /// The content of tags: of which digest the manifest is, and all that it leads to
    pub(super) tags: HashMap<Tag, Led>,
    /// When all of its tags were known, and until when that counts
    pub(super) complete: Option<Instant>,
    /// The look that is under way, if one is
    pub(super) looking: Option<watch::Receiver<Option<Looked>>>,
    /// Counts changes, so that a look that began before one is not taken for complete
    pub(super) changes: u64,
    pub(super) used: Option<Instant>,
}

/// What a tag leads to
pub(super) struct Led {
    pub(super) root: Digest,
    pub(super) all: Arc<HashSet<Digest>>,
    /// Whether that is all: of an index that only passed, what its manifests have is not known
    pub(super) is_whole: bool,
    /// When it last passed or was seen
    pub(super) seen: Instant,
}

impl Known {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            repositories: HashMap::new(),
            limits,
            facts: 0,
        }
    }

    pub(super) fn put(&mut self, name: &RepositoryName, found: Found) {
        let Found {
            tag,
            root,
            all,
            is_whole,
        } = found;
        let now = Instant::now();
        self.facts += all.len();
        let repository = self.repositories.entry(name.clone()).or_default();
        repository.used = Some(now);
        let led = Led {
            root,
            all,
            is_whole,
            seen: now,
        };
        if let Some(before) = repository.tags.insert(tag, led) {
            self.facts = self.facts.saturating_sub(before.all.len());
        }
        self.make_room(name);
    }

    /// Forgets what was not asked for the longest time, except `name`
    pub(super) fn make_room(&mut self, name: &RepositoryName) {
        if self.facts <= self.limits.max_facts
            && self.repositories.len() <= self.limits.max_repositories
        {
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
            if self.facts <= self.limits.max_facts / 10 * 9
                && self.repositories.len() <= self.limits.max_repositories / 10 * 9
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
    pub(super) fn tags(&self, name: &RepositoryName, digest: &Digest) -> Vec<Tag> {
        let Some(repository) = self.repositories.get(name) else {
            return Vec::new();
        };
        let now = Instant::now();
        let mut found: Vec<_> = repository
            .tags
            .iter()
            .filter(|(_, led)| {
                now.duration_since(led.seen) < self.limits.fresh && led.all.contains(digest)
            })
            .collect();
        found.sort_by(|(left, a), (right, b)| {
            b.seen
                .cmp(&a.seen)
                .then_with(|| left.as_str().cmp(right.as_str()))
        });
        found.into_iter().map(|(tag, _)| tag.clone()).collect()
    }

    /// What is known for good: to which tags a look may be short, and what the manifests have that it may meet
    pub(super) fn memory(&self, name: &RepositoryName) -> Memory {
        let mut memory = Memory::default();
        if let Some(repository) = self.repositories.get(name) {
            for (tag, led) in repository.tags.iter().filter(|(_, led)| led.is_whole) {
                memory.tags.insert(tag.clone());
                memory.content.insert(led.root, led.all.clone());
            }
        }
        memory
    }
}

/// What earlier looks found
#[derive(Default)]
pub(super) struct Memory {
    /// The tags that led to something; they may lead to something else by now
    pub(super) tags: HashSet<Tag>,
    /// All that the manifest of a digest leads to, which never changes
    pub(super) content: HashMap<Digest, Arc<HashSet<Digest>>>,
}

/// A tag, and what it leads to
pub(super) struct Found {
    pub(super) tag: Tag,
    pub(super) root: Digest,
    pub(super) all: Arc<HashSet<Digest>>,
    pub(super) is_whole: bool,
}
