//! How far a copy or a verification has got, and what it came across

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Digest, RepositoryName, Tag};

use crate::error::StorageError;

/// How many problems are kept; all are counted
const KEPT: usize = 1000;

/// Something that keeps a registry from being whole at the target, or from being moved
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The bytes of a blob are not what its digest says
    DamagedBlob {
        /// A repository that has it
        name: RepositoryName,
        /// What the bytes should hash to
        digest: Digest,
    },
    /// The bytes of a manifest are not what its digest says
    DamagedManifest {
        /// A repository that has it
        name: RepositoryName,
        /// What the bytes should hash to
        digest: Digest,
    },
    /// A tag points to a manifest that the repository does not have
    DanglingTag {
        /// The repository
        name: RepositoryName,
        /// The tag
        tag: Tag,
        /// What it points to
        digest: Digest,
    },
    /// A manifest refers to content that its repository does not have, or only damaged
    Incomplete {
        /// The repository
        name: RepositoryName,
        /// The manifest
        digest: Digest,
        /// What it lacks
        missing: Vec<Digest>,
    },
    /// The repository has a manifest whose bytes are gone
    MissingManifest {
        /// The repository
        name: RepositoryName,
        /// The manifest
        digest: Digest,
    },
    /// A storage failed, and went on failing
    Storage(StorageError),
    /// A tag points to something else at the target, and neither side has seen both
    TagConflict {
        /// The repository
        name: RepositoryName,
        /// The tag
        tag: Tag,
        /// Where it points at the source
        source: Digest,
        /// Where it points at the target, and still does
        target: Digest,
    },
    /// A tag was not copied because its manifest could not be
    TagLeft {
        /// The repository
        name: RepositoryName,
        /// The tag
        tag: Tag,
        /// Its manifest, of which another problem says why
        digest: Digest,
    },
}

impl Problem {
    /// A word for programs, which stays as it is
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DamagedBlob { .. } => "damaged-blob",
            Self::DamagedManifest { .. } => "damaged-manifest",
            Self::DanglingTag { .. } => "dangling-tag",
            Self::Incomplete { .. } => "incomplete-manifest",
            Self::MissingManifest { .. } => "missing-manifest",
            Self::Storage(_) => "storage",
            Self::TagConflict { .. } => "tag-conflict",
            Self::TagLeft { .. } => "tag-left",
        }
    }

    /// Whether it is damage: bytes that do not hash to their digest
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::DamagedBlob { .. } | Self::DamagedManifest { .. }
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedBlob { name, digest } => write!(
                f,
                "blob `{digest}` of `{name}` is damaged: it does not hash to its digest; push it again"
            ),
            Self::DamagedManifest { name, digest } => write!(
                f,
                "manifest `{digest}` of `{name}` is damaged: it does not hash to its digest; push it again"
            ),
            Self::DanglingTag { name, tag, digest } => write!(
                f,
                "tag `{tag}` of `{name}` points to `{digest}`, which the repository does not have; push or delete the tag"
            ),
            Self::Incomplete {
                name,
                digest,
                missing,
            } => {
                write!(f, "manifest `{digest}` of `{name}` lacks")?;
                for (number, digest) in missing.iter().enumerate() {
                    let before = if number == 0 { "" } else { "," };
                    write!(f, "{before} `{digest}`")?;
                }
                f.write_str("; push the image again, or delete it")
            }
            Self::MissingManifest { name, digest } => write!(
                f,
                "manifest `{digest}` of `{name}` is listed and its bytes are gone; push it again, or delete it"
            ),
            Self::Storage(error) => error.fmt(f),
            Self::TagConflict {
                name,
                tag,
                source,
                target,
            } => write!(
                f,
                "tag `{tag}` of `{name}` is `{source}` at the source and was pushed at the target as `{target}`, where it stays; choose one of them"
            ),
            Self::TagLeft { name, tag, digest } => write!(
                f,
                "tag `{tag}` of `{name}` was not copied, for its manifest `{digest}` could not be"
            ),
        }
    }
}

/// How many of what, so far
///
/// Of a [`Verify`](super::Verify), what was checked is counted as if it had been copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// What there is to do, once all of the source was listed; content that repositories share
    /// counts once
    pub total: Option<Total>,
    /// Repositories that are done
    pub repositories: u64,
    /// Blobs that were copied, other than manifests
    pub blobs: u64,
    /// Their bytes, and those so far of blobs under way
    pub bytes: u64,
    /// Blobs that were at the target already
    pub blobs_present: u64,
    /// Their bytes
    pub bytes_present: u64,
    /// Manifests that were copied, once for each repository
    pub manifests: u64,
    /// Manifests that were at the target already
    pub manifests_present: u64,
    /// Tags that are new at the target
    pub tags: u64,
    /// Tags that were at the target already and point elsewhere now
    pub tags_moved: u64,
    /// Tags that were at the target already as they are
    pub tags_present: u64,
    /// Tags that point elsewhere at the target and were left so, without being a problem
    pub tags_kept: u64,
    /// Layers that a repository lists, whose bytes are gone and that no manifest needs: what
    /// distribution's garbage collection leaves behind
    pub dangling: u64,
    /// Problems, of which [`Progress::problems`] has the first thousand
    pub problems: u64,
}

/// What there is to copy or to check
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Total {
    /// Repositories
    pub repositories: u64,
    /// Blobs, other than manifests
    pub blobs: u64,
    /// Their bytes
    pub bytes: u64,
    /// Manifests
    pub manifests: u64,
    /// Tags
    pub tags: u64,
}

/// How far a copy has got, to be asked while it goes on
#[derive(Debug, Default)]
pub struct Progress {
    listed: AtomicBool,
    pub(super) total: Tally,
    pub(super) done: Tally,
    pub(super) present: Tally,
    pub(super) tags_moved: AtomicU64,
    pub(super) tags_kept: AtomicU64,
    pub(super) dangling: AtomicU64,
    problems: Mutex<Problems>,
}

/// Counters of one kind
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) repositories: AtomicU64,
    pub(super) blobs: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) manifests: AtomicU64,
    pub(super) tags: AtomicU64,
}

#[derive(Debug, Default)]
struct Problems {
    count: u64,
    kept: Vec<Arc<Problem>>,
    /// What was said already: several manifests lack the same blob, several tags one manifest
    said: HashSet<String>,
}

impl Progress {
    /// How many of what, so far
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let total = self.listed.load(Ordering::Acquire).then(|| Total {
            repositories: get(&self.total.repositories),
            blobs: get(&self.total.blobs),
            bytes: get(&self.total.bytes),
            manifests: get(&self.total.manifests),
            tags: get(&self.total.tags),
        });
        Counts {
            total,
            repositories: get(&self.done.repositories),
            blobs: get(&self.done.blobs),
            bytes: get(&self.done.bytes),
            blobs_present: get(&self.present.blobs),
            bytes_present: get(&self.present.bytes),
            manifests: get(&self.done.manifests),
            manifests_present: get(&self.present.manifests),
            tags: get(&self.done.tags),
            tags_moved: get(&self.tags_moved),
            tags_present: get(&self.present.tags),
            tags_kept: get(&self.tags_kept),
            dangling: get(&self.dangling),
            problems: self.lock().count,
        }
    }

    /// The problems after the first `skip`, of the first thousand
    ///
    /// The same problem comes once.
    pub fn problems(&self, skip: usize) -> Vec<Arc<Problem>> {
        self.lock().kept.iter().skip(skip).cloned().collect()
    }

    /// A number that grows with everything that succeeds
    pub(super) fn done(&self) -> u64 {
        [&self.done, &self.present]
            .iter()
            .flat_map(|tally| [&tally.blobs, &tally.bytes, &tally.manifests, &tally.tags])
            .fold(0, |sum: u64, counter| {
                sum.wrapping_add(counter.load(Ordering::Relaxed))
            })
    }

    /// Says that [`Counts::total`] is known
    pub(super) fn set_listed(&self) {
        self.listed.store(true, Ordering::Release);
    }

    pub(super) fn problem(&self, problem: Problem) {
        let mut problems = self.lock();
        if problems.kept.len() < KEPT {
            if !problems.said.insert(problem.to_string()) {
                return;
            }
            problems.kept.push(Arc::new(problem));
        }
        problems.count += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Problems> {
        // No change leaves it half done, so one that another thread gave up is usable.
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
