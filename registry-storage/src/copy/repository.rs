//! One repository: layers, then manifests, then tags

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use registry_core::manifest::{DescriptorDigest, Role};
use registry_core::{Algorithm, Digest, Manifest, RepositoryName, Tag};

use super::blobs::{Blob, BlobFailure};
use super::progress::{Problem, add};
use super::side::parsed;
use super::{Inner, TagRule};
use crate::error::StorageError;
use crate::layout;
use crate::store::stored_limits;

/// How deep indexes may be in one another; deeper ones are not known to exist
const DEPTH: usize = 32;

/// How often a tag is read anew that moves while it is copied
const ATTEMPTS: usize = 4;

/// What became of something that a repository should have
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It cannot be copied; a problem says why
    Bad,
    /// The source's repository does not have it, or not any more
    Gone,
    /// The target's repository has it
    Whole,
}

/// What a manifest is made of
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) digest: Digest,
    pub(super) role: Role,
}

/// What must be in a repository before a manifest is, and its subject
///
/// Nothing if it cannot be parsed, as the signed ones of old: all layers of a repository are
/// copied before its manifests.
pub(super) fn needs(bytes: Bytes) -> (Vec<Need>, Option<Digest>) {
    let Ok(manifest) = Manifest::parse(bytes, None, &stored_limits()) else {
        return (Vec::new(), None);
    };
    let mut seen = HashSet::new();
    let needs = manifest
        .dependencies()
        .iter()
        .filter(|dependency| dependency.must_exist())
        .filter_map(|dependency| match &dependency.descriptor.digest {
            DescriptorDigest::Known(digest) if seen.insert(*digest) => Some(Need {
                digest: *digest,
                role: dependency.role,
            }),
            _ => None,
        })
        .collect();
    let subject = manifest
        .subject()
        .and_then(|subject| match &subject.digest {
            DescriptorDigest::Known(digest) => Some(*digest),
            _ => None,
        });
    (needs, subject)
}

impl Inner {
    pub(super) async fn repository(self: Arc<Self>, name: RepositoryName) {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let layers = self
                .from
                .digests(layout::layers(&name, algorithm), algorithm);
            let (inner, name) = (self.clone(), name.clone());
            self.guard
                .each(layers, move |digest| {
                    let (inner, name) = (inner.clone(), name.clone());
                    async move {
                        let found = inner.layer(&name, &digest).await?;
                        let link = layout::layer_link(&name, &digest);
                        if found == Found::Gone && inner.from.link(&link).await?.is_some() {
                            add(&inner.progress.dangling, 1);
                        }
                        Ok(())
                    }
                })
                .await;
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let manifests = self
                .from
                .digests(layout::revisions(&name, algorithm), algorithm);
            let (inner, name) = (self.clone(), name.clone());
            self.guard
                .each(manifests, move |digest| {
                    let (inner, name) = (inner.clone(), name.clone());
                    async move { inner.manifest(&name, digest, 0).await.map(|_| ()) }
                })
                .await;
        }
        let tags = parsed(self.from.folders(layout::tags(&name)), |tag| {
            Tag::try_from(tag).ok()
        });
        let inner = self.clone();
        self.guard
            .each(tags, move |tag| {
                let (inner, name) = (inner.clone(), name.clone());
                async move { inner.tag(&name, &tag).await }
            })
            .await;
        add(&self.progress.done.repositories, 1);
    }

    /// Gives the target's repository a blob that the source's has
    async fn layer(&self, name: &RepositoryName, digest: &Digest) -> Result<Found, StorageError> {
        let known = (name.clone(), *digest);
        if self.linked.get(&known).is_some() {
            return Ok(Found::Whole);
        }
        let link = layout::layer_link(name, digest);
        if self.from.link(&link).await? != Some(*digest) {
            return Ok(Found::Gone);
        }
        match self.blob(name, digest).await {
            Ok(Blob::Whole) => {}
            Ok(Blob::Damaged) => return Ok(Found::Bad),
            Err(BlobFailure::Missing) => return Ok(Found::Gone),
            Err(BlobFailure::Storage(error)) => return Err(error),
        }
        if !self.options.dry_run {
            if self.to.link(&link).await? != Some(*digest) {
                self.to.write_link(&link, digest).await?;
            }
            self.linked.insert(known, ());
        }
        Ok(Found::Whole)
    }

    /// Gives the target's repository a manifest that the source's has, with all that it needs
    fn manifest<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: Digest,
        depth: usize,
    ) -> BoxFuture<'a, Result<Found, StorageError>> {
        async move {
            // Who asks for one that is under way waits for it. None waits for itself: no digest
            // is in the bytes that it is of.
            let known = (name.clone(), digest);
            let copied = self.manifests.get_or_insert_async(&known, async {
                match self.look_at_manifest(name, &digest, depth).await {
                    Ok(Found::Whole) => Ok(()),
                    other => Err(other),
                }
            });
            copied
                .await
                .map_or_else(|other| other, |()| Ok(Found::Whole))
        }
        .boxed()
    }

    async fn look_at_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        depth: usize,
    ) -> Result<Found, StorageError> {
        let link = layout::revision_link(name, digest);
        if self.from.link(&link).await? != Some(*digest) {
            return Ok(Found::Gone);
        }
        // Whoever wrote the link had written before what the manifest needs.
        let present = self.to.link(&link).await? == Some(*digest)
            && self.to.blob_size(digest).await?.is_some();
        let found = match present && !self.options.verify {
            true => Found::Whole,
            false => self.copy_manifest(name, digest, depth).await?,
        };
        if found == Found::Whole {
            let counter = match present {
                true => &self.progress.present.manifests,
                false => &self.progress.done.manifests,
            };
            add(counter, 1);
        }
        Ok(found)
    }

    async fn copy_manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        depth: usize,
    ) -> Result<Found, StorageError> {
        let Some(bytes) = self.from.manifest(digest).await? else {
            return self
                .unless_deleted(name, digest, || Problem::MissingManifest {
                    name: name.clone(),
                    digest: *digest,
                })
                .await;
        };
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            self.progress.problem(Problem::DamagedManifest {
                name: name.clone(),
                digest: *digest,
            });
            return Ok(Found::Bad);
        }
        let (needs, subject) = needs(bytes.clone());
        let mut missing = Vec::new();
        // Those of its needs that are manifests.
        let mut children = HashSet::new();
        for need in &needs {
            let mut found = Found::Gone;
            if need.role == Role::Manifest && depth < DEPTH {
                found = self.manifest(name, need.digest, depth + 1).await?;
                if found == Found::Whole {
                    children.insert(need.digest);
                }
            }
            // An index may list blobs too, as build caches do.
            if found == Found::Gone {
                found = self.layer(name, &need.digest).await?;
            }
            if found != Found::Whole {
                missing.push(need.digest);
            }
        }
        if !missing.is_empty() {
            return self
                .unless_deleted(name, digest, || Problem::Incomplete {
                    name: name.clone(),
                    digest: *digest,
                    missing,
                })
                .await;
        }
        if self.options.dry_run {
            return Ok(Found::Whole);
        }
        let stored = self.to.manifest(digest).await?;
        if stored.as_ref() != Some(&bytes) {
            self.to.write(&layout::blob(digest), &bytes).await?;
        }
        // The referrers entry first, as for a push: a list skips entries without a manifest.
        if let Some(subject) = &subject {
            let referrer = layout::referrer_link(name, subject, digest);
            self.to.write_link(&referrer, digest).await?;
        }
        let link = layout::revision_link(name, digest);
        self.to.write_link(&link, digest).await?;
        // Beside a serving target, a blob may have been deleted since it was linked. Its deleter
        // removes the link and then looks for manifests; here the manifest's link is written
        // and then the blobs are looked for: at least one of the two sees the other.
        for need in &needs {
            let link = match children.contains(&need.digest) {
                true => layout::revision_link(name, &need.digest),
                false => layout::layer_link(name, &need.digest),
            };
            if self.to.link(&link).await? != Some(need.digest) {
                self.to.write_link(&link, &need.digest).await?;
            }
        }
        Ok(Found::Whole)
    }

    /// Says what is wrong with a manifest, unless it was just deleted at the source
    async fn unless_deleted(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        problem: impl FnOnce() -> Problem,
    ) -> Result<Found, StorageError> {
        let link = layout::revision_link(name, digest);
        if self.from.link(&link).await? != Some(*digest) {
            return Ok(Found::Gone);
        }
        self.progress.problem(problem());
        Ok(Found::Bad)
    }

    /// Lets a tag point where it does at the source, if the rule allows it
    async fn tag(&self, name: &RepositoryName, tag: &Tag) -> Result<(), StorageError> {
        let current = layout::tag_current(name, tag);
        let mut last = None;
        // Where this run has let it point.
        let mut ours = None;
        for _ in 0..ATTEMPTS {
            // Without a current link it was never finished, or is being deleted.
            let Some(digest) = self.from.link(&current).await? else {
                return Ok(());
            };
            match self.manifest(name, digest, 0).await? {
                Found::Whole => {
                    self.point(name, tag, digest, ours).await?;
                    // It may have moved since it was read, and its history, which came along,
                    // would say later that the target had seen that already.
                    if self
                        .from
                        .link(&current)
                        .await?
                        .is_none_or(|now| now == digest)
                    {
                        return Ok(());
                    }
                    ours = Some(digest);
                }
                Found::Bad => {
                    self.progress.problem(Problem::TagLeft {
                        name: name.clone(),
                        tag: tag.clone(),
                        digest,
                    });
                    return Ok(());
                }
                // Its manifest was deleted, and it moved or was deleted with it; or else it
                // stays so.
                Found::Gone if last == Some(digest) => {
                    self.progress.problem(Problem::DanglingTag {
                        name: name.clone(),
                        tag: tag.clone(),
                        digest,
                    });
                    return Ok(());
                }
                Found::Gone => last = Some(digest),
            }
        }
        // It moves all the time; the next run takes it.
        Ok(())
    }

    async fn point(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        digest: Digest,
        ours: Option<Digest>,
    ) -> Result<(), StorageError> {
        let current = layout::tag_current(name, tag);
        let found = self.to.link(&current).await?;
        let counter = match found {
            None => &self.progress.done.tags,
            Some(found) if found == digest => {
                add(&self.progress.present.tags, 1);
                return Ok(());
            }
            Some(_) if found == ours => &self.progress.tags_moved,
            Some(found) => match self.decide(name, tag, digest, found).await? {
                Decision::Move => &self.progress.tags_moved,
                Decision::Keep => {
                    add(&self.progress.tags_kept, 1);
                    return Ok(());
                }
                Decision::Conflict => {
                    self.progress.problem(Problem::TagConflict {
                        name: name.clone(),
                        tag: tag.clone(),
                        source: digest,
                        target: found,
                    });
                    return Ok(());
                }
            },
        };
        if !self.options.dry_run {
            self.copy_history(name, tag).await?;
            let index = layout::tag_index(name, tag, &digest);
            self.to.write_link(&index, &digest).await?;
            self.to.write_link(&current, &digest).await?;
        }
        add(counter, 1);
        Ok(())
    }

    /// What the tag has pointed to comes along, by which a later run knows who is ahead
    async fn copy_history(&self, name: &RepositoryName, tag: &Tag) -> Result<(), StorageError> {
        use futures::TryStreamExt;

        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = layout::tag_history(name, tag, algorithm);
            let mut history = Box::pin(self.from.digests(folder, algorithm));
            while let Some(digest) = history.try_next().await? {
                let link = layout::tag_index(name, tag, &digest);
                if self.to.stat(&link).await?.is_none() {
                    self.to.write_link(&link, &digest).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether a tag that is elsewhere at the target moves
    async fn decide(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        source: Digest,
        target: Digest,
    ) -> Result<Decision, StorageError> {
        match self.options.tags {
            TagRule::Keep => return Ok(Decision::Keep),
            TagRule::Overwrite => return Ok(Decision::Move),
            TagRule::Forward => {}
        }
        let seen = layout::tag_index(name, tag, &target);
        let behind = self.from.stat(&seen).await?.is_some();
        let seen = layout::tag_index(name, tag, &source);
        let ahead = self.to.stat(&seen).await?.is_some();
        if behind != ahead {
            return Ok(if behind {
                Decision::Move
            } else {
                Decision::Keep
            });
        }
        if !behind {
            return Ok(Decision::Conflict);
        }
        // It was moved back and forth: the side that did so last is right.
        let current = layout::tag_current(name, tag);
        let source = self.from.stat(&current).await?;
        let target = self.to.stat(&current).await?;
        let times = (
            source.and_then(|stat| stat.modified),
            target.and_then(|stat| stat.modified),
        );
        Ok(match times {
            (Some(source), Some(target)) if source > target => Decision::Move,
            (Some(source), Some(target)) if source < target => Decision::Keep,
            _ => Decision::Conflict,
        })
    }
}

enum Decision {
    Conflict,
    Keep,
    Move,
}
