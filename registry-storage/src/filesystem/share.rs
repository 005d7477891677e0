//! What an NFS client remembers wrongly, and how it is put right
//!
//! Several machines see one share, each through the memory of its own kernel. With the default
//! mount options:
//!
//! - **A name that was not found** counts as absent for up to a minute, though another machine
//!   has made it since. **A name that was found** leads to the same file as long, though another
//!   machine has moved it away, or has deleted or replaced it and somebody has it open. Asking the
//!   server for the attributes of the folder corrects both; asking for those of the file does not.
//!   So that is done first whenever a name is looked up: one small request.
//! - **Replacing a file that this machine has open** is no single step: the client moves it to
//!   `.nfsXXXX` first, and others find nothing until the new one has its place. Within a process
//!   reading and replacing therefore exclude one another, and a reader that finds nothing beside
//!   such a file waits a moment.
//! - **A call that the server did and whose answer was lost** may be done again, and then fails:
//!   what was renamed is not found any more. So the target is looked at.
//! - Opening a file or a folder asks the server whether it has changed, and taking a lock does.
//!   Contents and lists are therefore never old, unless the share is mounted with `nocto`.
//!
//! A server tells that a folder has changed by a counter or by a time. One whose clock stands
//! still between two changes (Linux before 6.13: 4 ms) may hide the second from who looked in between, until
//! the client's memory expires; see `nfs(5)`, "acdirmax".

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, Stat, StatxFlags, statat, statx};
use rustix::io::Errno;

use super::Root;
use super::mount::Care;
use crate::driver::Key;

/// How often and how long a reader waits for a file that is being replaced
const REPLACED: (usize, Duration) = (5, Duration::from_millis(20));

/// How many names are kept apart when one is replaced; others wait for one another at times
const STRIPES: usize = 64;

/// Keeps what this process has open for a moment from being replaced in that moment
pub(super) struct Openings(Vec<RwLock<()>>);

impl Openings {
    pub(super) fn new() -> Self {
        Self(
            std::iter::repeat_with(RwLock::default)
                .take(STRIPES)
                .collect(),
        )
    }

    fn stripe(&self, key: &Key) -> &RwLock<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.0[hasher.finish() as usize % self.0.len()]
    }
}

impl fmt::Debug for Openings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Openings").finish_non_exhaustive()
    }
}

impl Root {
    /// Held while something is open that is closed in a moment; waits for nothing but memory
    /// elsewhere than on NFS
    pub(super) fn opening(&self, key: &Key) -> Option<RwLockReadGuard<'_, ()>> {
        self.mount.is_nfs().then(|| {
            // What is guarded is nothing that a panic could leave half done.
            let stripe = self.openings.stripe(key);
            stripe.read().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Held while something is replaced or deleted
    pub(super) fn replacing(&self, key: &Key) -> Option<RwLockWriteGuard<'_, ()>> {
        self.mount.is_nfs().then(|| {
            let stripe = self.openings.stripe(key);
            stripe.write().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Does what needs the name `path` with what the server knows of it
    ///
    /// On a local disk it is just done.
    pub(super) fn believing<T>(
        &self,
        path: &str,
        look: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if self.mount.is_nfs() {
            self.refresh(path);
        }
        let mut found = match look() {
            Err(Errno::NOENT | Errno::NOTDIR) if self.mount.care == Care::Remote => {
                self.refresh(path);
                look()
            }
            // What was found was deleted or replaced elsewhere before it was opened.
            Err(Errno::STALE) => {
                self.refresh(path);
                look()
            }
            found => found,
        };
        let (attempts, pause) = REPLACED;
        for _ in 0..attempts {
            if !matches!(found, Err(Errno::NOENT)) || !self.is_replaced(path) {
                break;
            }
            std::thread::sleep(pause);
            self.refresh(path);
            found = look();
        }
        found
    }

    /// Makes the client of a share forget what it knows of the name `path`
    pub(super) fn refresh(&self, path: &str) {
        let above = |path: &'_ str| path.rfind('/').map(|end| path[..end].len());
        let ask = |folder: &str| {
            statx(
                &self.fd,
                folder,
                AtFlags::STATX_FORCE_SYNC,
                StatxFlags::BASIC_STATS,
            )
            .is_ok()
        };
        // Up to the nearest folder that is there: those below it may be remembered wrongly too.
        let mut unknown = Vec::new();
        let mut end = above(path);
        while let Some(length) = end {
            let folder = &path[..length];
            if ask(folder) {
                break;
            }
            unknown.push(folder);
            end = above(folder);
        }
        if end.is_none() {
            ask(".");
        }
        // Down again, as far as it goes.
        unknown.into_iter().rev().all(ask);
    }

    /// Whether a file that was open when it was replaced or deleted lies where `path` is not
    fn is_replaced(&self, path: &str) -> bool {
        if !self.mount.is_nfs() {
            return false;
        }
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        self.open_folder(folder)
            .and_then(Dir::new)
            .is_ok_and(|entries| {
                entries
                    .flatten()
                    .any(|entry| entry.file_name().to_str().is_ok_and(is_silly))
            })
    }

    /// Whether `key` is this very file, as the server has it
    ///
    /// Asked where a rename failed because there was nothing to rename: an answer that got lost
    /// on a share makes the client ask again, and by then it is done.
    pub(super) fn has_arrived(&self, key: &Key, file: (u64, u64)) -> bool {
        if !self.mount.is_nfs() {
            return false;
        }
        self.refresh(key.as_str());
        statat(&self.fd, key.as_str(), AtFlags::empty()).is_ok_and(|stat| identity(&stat) == file)
    }
}

/// What tells a file from all others on the share while it exists
#[allow(clippy::unnecessary_cast)] // their types differ between targets
pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Whether a file of this name is one that an NFS client renamed because it had it open when
/// it was to be deleted; the client removes it when it is closed
pub(super) fn is_silly(name: &str) -> bool {
    name.strip_prefix(".nfs")
        .is_some_and(|rest| rest.len() >= 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
