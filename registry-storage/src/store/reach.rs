//! Which tags lead to a digest

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use registry_core::manifest::{DescriptorDigest, Role};
use registry_core::{Digest, Manifest, RepositoryName, Tag};

use super::manifests::{ManifestReadError, stored_limits};
use super::{CONCURRENCY, Store};
use crate::error::StorageError;
use crate::layout;

/// How many tags are followed at once: what is in memory does not grow with their number, but
/// for a digest a manifest
const PAGE: usize = 1000;

/// What a manifest leads to at once
struct Step {
    manifest: Digest,
    /// The manifests among it
    next: Vec<Digest>,
    /// Whether what is looked for is among it
    found: bool,
}

impl Store {
    /// The tags of the repository from which a manifest or blob is reached, in byte order
    ///
    /// A tag leads to its manifest; an index to its entries; an image manifest to its
    /// configuration and layers; and every manifest to those that name it as their subject,
    /// such as its signatures. A signature does not lead to its subject, which it only tells of.
    ///
    /// Empty where there is no such repository. All tags and their manifests are read, each
    /// manifest once, so that takes longer the more of them there are. What is missing or
    /// damaged leads nowhere.
    ///
    /// # Errors
    ///
    /// What the storage says. An outage is never an empty list.
    pub async fn tags_leading_to(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, StorageError> {
        let mut leading = Vec::new();
        // What each manifest met so far leads to, in the end.
        let mut leads = HashMap::new();
        let mut after: Option<Tag> = None;
        loop {
            let after_name = after.as_ref().map(Tag::as_str);
            let page = match self.tags(name, after_name, Some(PAGE)).await {
                Ok(page) => page,
                Err(ManifestReadError::Storage(error)) => return Err(error),
                // It is gone, or was never there.
                Err(_) => return Ok(leading),
            };
            let targets: Vec<(Tag, Option<Digest>)> = stream::iter(page.items)
                .map(|tag| async move {
                    let target = self.read_link(&layout::tag_current(name, &tag)).await?;
                    Ok::<_, StorageError>((tag, target))
                })
                .buffered(CONCURRENCY)
                .try_collect()
                .await?;
            let roots = targets.iter().filter_map(|(_, target)| *target);
            self.follow(name, digest, roots.collect(), &mut leads)
                .await?;
            after = targets.last().map(|(tag, _)| tag.clone());
            leading.extend(targets.into_iter().filter_map(|(tag, target)| {
                leads
                    .get(&target?)
                    .is_some_and(|leads| *leads)
                    .then_some(tag)
            }));
            if !page.more {
                return Ok(leading);
            }
        }
    }

    /// Finds out about manifests and everything that they lead to
    async fn follow(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        roots: HashSet<Digest>,
        leads: &mut HashMap<Digest, bool>,
    ) -> Result<(), StorageError> {
        let mut reached_from: HashMap<Digest, Vec<Digest>> = HashMap::new();
        let mut found = Vec::new();
        // All on the way at first do not lead there, which also ends circles.
        let mut frontier: Vec<Digest> = roots
            .into_iter()
            .filter(|root| !leads.contains_key(root))
            .collect();
        leads.extend(frontier.iter().map(|root| (*root, false)));
        while !frontier.is_empty() {
            let steps: Vec<Step> = stream::iter(frontier)
                .map(|manifest| self.step(name, digest, manifest))
                .buffer_unordered(CONCURRENCY)
                .try_collect()
                .await?;
            frontier = Vec::new();
            for step in steps {
                if step.found {
                    found.push(step.manifest);
                }
                for next in step.next {
                    match leads.get(&next) {
                        Some(true) => found.push(step.manifest),
                        Some(false) => {}
                        None => {
                            leads.insert(next, false);
                            frontier.push(next);
                        }
                    }
                    reached_from.entry(next).or_default().push(step.manifest);
                }
            }
        }
        let mut back: Vec<Digest> = found;
        while let Some(manifest) = back.pop() {
            if leads.insert(manifest, true) != Some(true) {
                back.extend(reached_from.get(&manifest).into_iter().flatten());
            }
        }
        Ok(())
    }

    async fn step(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        manifest: Digest,
    ) -> Result<Step, StorageError> {
        let mut step = Step {
            manifest,
            next: Vec::new(),
            found: manifest == *digest,
        };
        let stored = match self.manifest(name, &manifest.into()).await {
            Ok(stored) => stored,
            Err(ManifestReadError::Storage(error)) => return Err(error),
            Err(_) => return Ok(step),
        };
        if let Ok(parsed) = Manifest::parse(stored.bytes, None, &stored_limits()) {
            for dependency in parsed.dependencies() {
                let DescriptorDigest::Known(content) = &dependency.descriptor.digest else {
                    continue;
                };
                match dependency.role {
                    Role::Manifest => step.next.push(*content),
                    _ => step.found |= content == digest,
                }
            }
        }
        let referrers = self.referrers(name, &manifest).await?;
        step.next
            .extend(referrers.iter().map(|referrer| referrer.digest));
        Ok(step)
    }
}
